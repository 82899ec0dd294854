//! `bisect`: which guest makes the others wait.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, value_parser};

use super::command::{Verb, dry_run, required};
use super::context::Context;
use super::fault::{FAILED, Fault, Result};
use super::{select, traffic};
use crate::guest::bisect::{Bisected, Step, Wish};
use crate::model::{GuestName, Sure, clock};

pub(super) const BISECT: Verb = Verb {
    name: "bisect",
    about: "Find the guest that makes others wait, by holding halves of them still in turn",
    build: |command| {
        traffic::some(command)
            .mut_arg("names", |names| {
                names.help("Guests [default: all that run]")
            })
            .arg(
                Arg::new("window")
                    .long("window")
                    .value_name("TIME")
                    .default_value("2s")
                    .value_parser(window)
                    .help("How long each half is held still, 200ms to 10s"),
            )
            .arg(
                Arg::new("by")
                    .long("by")
                    .value_name("RESOURCE")
                    .value_parser(PossibleValuesParser::new(["cpu", "memory", "io"]))
                    .help(
                        "What is waited for: cpu, memory or io [default: what is waited for most]",
                    ),
            )
            .arg(
                Arg::new("watch")
                    .long("watch")
                    .value_name("GUEST")
                    .value_parser(value_parser!(GuestName))
                    .help("The guest whose waiting counts [default: the whole host's]"),
            )
            .arg(dry_run())
            .after_help(
                "Guests are frozen while they are held, as `pause` does it, and go on after the \
                 window whatever happens to this command. One with the label bisect=no is never \
                 held. If nobody is found, the exit code is 0 and the answer says so.",
            )
    },
    run: bisect,
    hidden: false,
};

fn window(text: &str) -> std::result::Result<Duration, String> {
    let bounds = Duration::from_millis(200)..=Duration::from_secs(10);
    let fits = clock::duration(text)
        .ok()
        .filter(|time| bounds.contains(time));
    fits.ok_or_else(|| "write a time from 200ms to 10s, such as 2s".into())
}

fn bisect(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let manager = context.manager()?;
    let chooses = |id: &&str| matches.contains_id(id);
    let guests = match ["names", "select", "tenant"].iter().any(chooses) {
        true => Some(select::chosen(context, matches)?),
        false => None,
    };
    let by = matches.get_one::<String>("by").map(String::as_str);
    let wish = Wish {
        guests,
        resource: ["cpu", "memory", "io"]
            .into_iter()
            .find(|word| by == Some(word)),
        watched: matches.get_one("watch").cloned(),
        window: required(matches, "window")?,
    };
    if matches.get_flag("dry-run") {
        let (names, rounds, left_out) = manager.plan_bisect(&wish)?;
        let ms = u128::from(rounds) * wish.window.as_millis();
        context.done(&match names.as_slice() {
            [] => "would hold nobody still".to_owned(),
            some => format!(
                "would hold {} still, each at most {rounds} times and {} s in all",
                list(some),
                ms as f64 / 1000.0
            ),
        })?;
        context.out(&left_out_text(&left_out))?;
        return Ok(0);
    }
    let mut told = |step: &Step| context.say(&step_text(step));
    let Some(done) = manager.bisect(&wish, &mut told)? else {
        return Err(Fault::new(FAILED, "it was asked to end; all guests go on").or_interrupted());
    };
    context.one(&done, |_| text(&done))?;
    Ok(0)
}

fn list(names: &[GuestName]) -> String {
    match names {
        [] => "nobody".to_owned(),
        some if some.len() > 8 => format!("{} guests", some.len()),
        some => some
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// `12.34%`, of hundredths.
fn percent(part: u64) -> String {
    format!("{}.{:02}%", part / 100, part % 100)
}

fn step_text(step: &Step) -> String {
    let waiting = percent(step.waiting);
    match step.held.as_slice() {
        [] => format!("nobody held: waiting in {waiting} of the time"),
        some => format!("held {}: {waiting}", list(some)),
    }
}

fn text(done: &Bisected) -> String {
    let (verdict, base) = (
        &done.verdict,
        done.steps.first().map_or(0, |step| step.waiting),
    );
    let mut text = match &verdict.suspect {
        Some(name) => format!(
            "{name} {} it: without it {}% of the waiting for {} was gone; `bulkhead why`, \
             `bulkhead top {name}` and its limits say more\n",
            match verdict.sure {
                Sure::Sure => "is",
                _ => "is likely",
            },
            verdict.explains,
            done.resource,
        ),
        None if done.steps.len() < 2 => format!(
            "nobody was held: there was waiting for {} in {} of the time, or nobody to hold\n",
            done.resource,
            percent(base)
        ),
        None if verdict.sure == Sure::Passed => format!(
            "nobody can be blamed: the waiting for {} went by itself meanwhile; try again when it is back\n",
            done.resource
        ),
        None => format!(
            "no guest alone: without the last half {}% of the waiting for {} was gone; it is \
             several guests, the host itself, or somebody who was left out\n",
            verdict.explains, done.resource
        ),
    };
    for (name, ms) in &done.held_ms {
        text += &format!(
            "  {name} was held still for {}.{:03} s\n",
            ms / 1000,
            ms % 1000
        );
    }
    text + &left_out_text(&done.left_out)
}

fn left_out_text(left_out: &BTreeMap<GuestName, &'static str>) -> String {
    let line = |(name, why): (&GuestName, &&str)| format!("  {name} was left out: {why}\n");
    left_out.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_short() {
        assert_eq!(window("2"), Ok(Duration::from_secs(2)));
        for bad in ["100ms", "11s", "0", "x"] {
            assert!(window(bad).is_err(), "{bad}");
        }
    }
}
