//! `top`: what running guests use from moment to moment, as a screen, as tables, or as lines for
//! programs. Measuring reads and takes no lock.

use std::time::{Duration, Instant};

use clap::{Arg, ArgMatches, value_parser};

use super::command::{Verb, required};
use super::context::Context;
use super::fault::Result;
use super::render::{self, Format};
use super::{select, top_columns, top_screen, traffic};
use crate::guest::load::Load;
use crate::model::{GuestName, clock};

pub(super) const TOP: Verb = Verb {
    name: "top",
    about: "Watch what running guests use",
    build: |command| {
        traffic::some(command)
            .mut_arg("names", |names| names.help("Guests [default: all]"))
            .arg(
                Arg::new("interval")
                    .long("interval")
                    .value_name("TIME")
                    .default_value("2s")
                    .value_parser(interval)
                    .help("How long an interval is, 100ms to 1h"),
            )
            .arg(
                Arg::new("count")
                    .long("count")
                    .value_name("N")
                    .value_parser(value_parser!(u64).range(1..))
                    .help(
                        "Print so many intervals and end [default: a table one, other formats go \
                         on]",
                    ),
            )
            .after_help(
                "On a terminal it is a screen: q quits, arrows or j and k select, < and > or s \
                 change the column that rows go by, / filters by name, t puts guests below their \
                 tenants, + and - double and halve the CPU weight of the selected guest, f freezes the selected guest \
                 and lets it go on, Enter or e opens a shell in it. Elsewhere, and with --count, it \
                 prints a table after each interval; with --format json a line for each guest, with csv a heading \
                 first.",
            )
    },
    run: top,
    hidden: false,
};

pub(super) fn interval(text: &str) -> std::result::Result<Duration, String> {
    let fits = clock::duration(text)
        .ok()
        .filter(|time| (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(time));
    fits.ok_or_else(|| "write a time from 100ms to 1h, such as 5s".into())
}

fn top(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let manager = context.manager()?;
    let every: Duration = required(matches, "interval")?;
    let count = matches.get_one::<u64>("count").copied();
    let chosen = chosen(context, matches)?;
    if chosen.as_ref().is_some_and(Vec::is_empty) {
        return Ok(0);
    }
    let mut watch = manager.watch(chosen)?;
    let table = context.format == Format::Table;
    if table
        && count.is_none()
        && super::context::takes_escapes()
        && let Some(code) = top_screen::run(context, &mut watch, every)?
    {
        return Ok(code);
    }
    let mut due = Instant::now();
    let mut left = count.or(table.then_some(1));
    let mut headed = context.format != Format::Csv;
    while left != Some(0) {
        // After a time in which nothing could be measured, one long interval and not many short ones.
        due = (due + every).max(Instant::now());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        print(context, watch.look_again()?, &mut headed)?;
        left = left.map(|left| left - 1);
    }
    Ok(0)
}

/// The guests that are named or have a label, which must be there; `None` for all.
fn chosen(context: &Context, matches: &ArgMatches) -> Result<Option<Vec<GuestName>>> {
    let chooses = |id: &&str| matches.contains_id(id);
    if !["names", "select", "tenant"].iter().any(chooses) {
        return Ok(None);
    }
    let chosen = select::chosen(context, matches)?;
    for name in &chosen {
        context.manager()?.status(name)?;
    }
    Ok(Some(chosen))
}

/// The first guest of all is printed with the heading, where there is to be one.
fn print(context: &Context, mut loads: Vec<Load>, headed: &mut bool) -> Result<()> {
    if context.format == Format::Table {
        top_columns::sort(&mut loads);
        return context.list(&loads, &top_columns::headings(), top_columns::cells);
    }
    let lines = loads
        .iter()
        .map(|load| match std::mem::replace(headed, true) {
            true => render::streamed(context.format, load),
            false => render::data(context.format, load),
        });
    context.out(&lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_neither_nothing_nor_for_ever() {
        assert_eq!(interval("2"), Ok(Duration::from_secs(2)));
        for bad in ["0", "99ms", "2h", "x"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
