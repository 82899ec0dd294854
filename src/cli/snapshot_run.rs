//! `snapshot run`: what a timer calls. Takes the snapshots that are due, of one guest after the
//! other, and removes automatic ones that no rule keeps; the exit code is the highest of all guests.

use clap::{Arg, ArgMatches, Command, value_parser};
use serde::Serialize;

use super::command::dry_run;
use super::context::Context;
use super::fault::{Fault, Result};
use super::render::{Format, data, safe};
use crate::guest::GuestError;
use crate::guest::schedule::Scheduled;
use crate::kernel::interrupt;
use crate::model::GuestName;

/// The verb with its flags.
pub(super) fn verb() -> Command {
    Command::new("run")
        .about("Take the snapshots that are due; remove automatic ones that no rule keeps, others at their day")
        .arg(
            Arg::new("names")
                .value_name("GUEST")
                .num_args(0..)
                .value_parser(value_parser!(GuestName))
                .help("Guests, in this order [default: all that have snapshots.every, or snapshots with a day at which they go]"),
        )
        .arg(dry_run())
}

#[derive(Serialize)]
struct Done {
    guest: GuestName,
    #[serde(flatten)]
    done: Scheduled,
}

/// Does it.
pub(super) fn run(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let manager = context.manager()?;
    let named: Vec<GuestName> = matches
        .get_many("names")
        .map(|names| names.cloned().collect())
        .unwrap_or_default();
    let every = named.is_empty();
    let guests = match every {
        true => manager.with_schedule()?,
        false => named,
    };
    let dry_run = matches.get_flag("dry-run");
    interrupt::catch()?;
    let (mut all, mut code) = (Vec::new(), 0);
    for guest in guests {
        let done = match dry_run {
            true => manager.look_at_schedule(&guest),
            false => manager.run_schedule(&guest),
        };
        match done {
            Ok(done) => {
                if context.format == Format::Table {
                    context.done(&format!("{guest}: {}", in_words(&done, dry_run)))?;
                }
                all.push(Done { guest, done });
            }
            // Deleted while others had their turn.
            Err(GuestError::Missing { .. }) if every => {}
            Err(error) => {
                let fault = Fault::from(error).or_interrupted();
                fault.print();
                code = code.max(fault.code);
            }
        }
        if interrupt::caught().is_some() {
            break;
        }
    }
    if context.format != Format::Table {
        context.out(&data(context.format, &all))?;
    }
    Ok(code)
}

fn in_words(done: &Scheduled, dry_run: bool) -> String {
    let would = if dry_run { "would be " } else { "" };
    let mut parts = Vec::new();
    match (&done.taken, done.unchanged) {
        (Some(taken), _) => parts.push(format!("snapshot {} {would}taken", safe(taken))),
        (None, true) => parts.push("nothing written since the last snapshot".to_owned()),
        (None, false) => {}
    }
    if !done.removed.is_empty() {
        parts.push(format!("{} {would}removed", safe(&done.removed.join(", "))));
    }
    match parts.is_empty() {
        true => "nothing is due".to_owned(),
        false => parts.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_in_words() {
        let nothing = Scheduled::default();
        assert_eq!(in_words(&nothing, false), "nothing is due");
        let still = Scheduled {
            unchanged: true,
            ..nothing.clone()
        };
        assert_eq!(
            in_words(&still, false),
            "nothing written since the last snapshot"
        );
        let done = Scheduled {
            taken: Some("auto-3".into()),
            removed: vec!["auto-1".into(), "auto-2".into()],
            ..nothing
        };
        assert_eq!(
            in_words(&done, false),
            "snapshot auto-3 taken; auto-1, auto-2 removed"
        );
        assert_eq!(
            in_words(&done, true),
            "snapshot auto-3 would be taken; auto-1, auto-2 would be removed"
        );
    }
}
