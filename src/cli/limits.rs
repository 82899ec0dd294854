//! `limits`: how near running guests are to what they may use, once or again and again. Reads, takes no
//! lock.

use std::io::IsTerminal;
use std::time::Duration;

use clap::{Arg, ArgMatches};

use super::command::Verb;
use super::context::Context;
use super::fault::{Fault, Result};
use super::render::{self, Cell, Format, Tone};
use super::select;
use crate::guest::GuestError;
use crate::guest::limit_last::Last;
use crate::guest::limited::{Limited, Unit};
use crate::guest::view::bytes_text;
use crate::model::{Bytes, Cpus, Event, EventKind, clock};

pub(super) const LIMITS: Verb = Verb {
    name: "limits",
    about: "Show what running guests hold, held at most, may hold, and how often that was hit",
    build: |command| {
        select::which(command)
            .arg(
                Arg::new("near")
                    .long("near")
                    .value_name("PERCENT")
                    .value_parser(percent)
                    .help("Only what holds or has held so much of its limit: 80%"),
            )
            .arg(
                Arg::new("watch")
                    .long("watch")
                    .value_name("TIME")
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("2s")
                    .value_parser(super::top::interval)
                    .help("Again and again, every 2s or --watch=TIME (100ms to 1h), until it is ended"),
            )
            .after_help(
                "What this kernel does not keep is shown as -. LAST is when the limit was told of \
                 last since the guest's start, and who used most then (`bulkhead events` has all of \
                 it). Chosen by --all or --select, guests that do not run are passed over.",
            )
    },
    run: limits,
    hidden: false,
};

const HEADINGS: [&str; 8] = [
    "GUEST", "RESOURCE", "HELD", "PEAK", "LIMIT", "HITS", "LAST", "NOTE",
];

fn percent(text: &str) -> std::result::Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<u8>();
    let fits = number.ok().filter(|n| (1..=100).contains(n));
    fits.ok_or_else(|| "write a whole number from 1% to 100%".into())
}

fn limits(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let every = matches.get_one::<Duration>("watch").copied();
    let near = matches.get_one::<u8>("near").copied();
    let mut headed = context.format != Format::Csv;
    let mut last = Last::default();
    loop {
        let (mut rows, code) = look(context, matches)?;
        rows.retain(|row| near.is_none_or(|near| row.is_near(near)));
        context.manager()?.tell_last(&mut last, &mut rows)?;
        let Some(every) = every else {
            if rows.is_empty() && context.format == Format::Table {
                if code == 0 {
                    context.say("no limit to show");
                }
                return Ok(code);
            }
            context.list(&rows, &HEADINGS, cells)?;
            return Ok(code);
        };
        show_again(context, &rows, &mut headed)?;
        // A guest that was named and does not run (any more) ends it.
        if code != 0 {
            return Ok(code);
        }
        std::thread::sleep(every);
    }
}

/// The limits of the guests that are chosen at this moment, and the code for those that have none.
fn look(context: &Context, matches: &ArgMatches) -> Result<(Vec<Limited>, u8)> {
    let manager = context.manager()?;
    let named = matches.contains_id("names");
    let (mut rows, mut code) = (Vec::new(), 0);
    for name in select::chosen(context, matches)? {
        match manager.limited(&name) {
            Ok(found) => rows.extend(found),
            Err(GuestError::WrongState { .. } | GuestError::Missing { .. }) if !named => {}
            Err(error) => {
                let fault = Fault::from(error);
                fault.print();
                code = code.max(fault.code);
            }
        }
    }
    Ok((rows, code))
}

/// One look of many: on a terminal in the place of the one before, for programs a line for each row, the
/// first of all with the heading, where there is to be one.
fn show_again(context: &Context, rows: &[Limited], headed: &mut bool) -> Result<()> {
    if context.format == Format::Table {
        if std::io::stdout().is_terminal() && super::context::takes_escapes() {
            context.out("\x1b[H\x1b[2J")?;
        }
        return context.list(rows, &HEADINGS, cells);
    }
    let lines = rows
        .iter()
        .map(|row| match std::mem::replace(headed, true) {
            true => render::streamed(context.format, row),
            false => render::data(context.format, row),
        });
    context.out(&lines.collect::<String>())
}

fn cells(row: &Limited) -> Vec<Cell> {
    let amount = |n: Option<u64>| Cell::from(n.map_or("-".into(), |n| held_in_words(row.unit, n)));
    let hits = row.hits.map_or("-".into(), |n| n.to_string());
    let tone = if row.hits.is_some_and(|n| n > 0) {
        Tone::Odd
    } else {
        Tone::Plain
    };
    vec![
        Cell::from(row.guest.as_str()),
        Cell::from(row.resource),
        amount(row.held),
        amount(row.peak),
        Cell::from(in_words(row.unit, row.limit)),
        Cell::new(&hits, tone),
        Cell::from(row.last.as_ref().map_or("-".into(), last_in_words)),
        Cell::from(note(row)),
    ]
}

/// Of what changes all the time whole mebibytes are enough.
fn held_in_words(unit: Unit, n: u64) -> String {
    match unit {
        Unit::Bytes => bytes_text(n),
        unit => in_words(unit, n),
    }
}

fn in_words(unit: Unit, n: u64) -> String {
    match unit {
        Unit::Bytes => Bytes(n).to_string(),
        Unit::Count => n.to_string(),
        Unit::PerSecond => format!("{n}/s"),
        Unit::CpuSeconds => format!("{n}s"),
        Unit::PercentOfCpu => {
            let cpus = u32::try_from(n).ok().and_then(Cpus::from_hundredths);
            cpus.map_or("0".into(), |cpus| cpus.to_string())
        }
    }
}

/// `2026-03-15T10:00:07Z, tail 12`
fn last_in_words(event: &Event) -> String {
    let top = match &event.kind {
        EventKind::OutOfMemory { top, .. } | EventKind::Limit { top, .. } => top.first(),
        _ => None,
    };
    let who = top.map_or_else(String::new, |top| {
        let pid = top.pid.map_or_else(String::new, |pid| format!(" {pid}"));
        format!(", {}{pid}", render::safe(&top.name))
    });
    clock::time(event.time_ms) + &who
}

/// What the columns have no place for.
fn note(row: &Limited) -> String {
    match (row.killed, row.periods, row.throttled_us) {
        (Some(killed @ 1..), ..) => format!("{killed} killed for want of it"),
        (_, Some(periods @ 1..), Some(us)) => {
            // Tenths of a percent.
            let part = row.hits.unwrap_or(0) * 1000 / periods;
            let (seconds, ms) = (us / 1_000_000, us / 1000 % 1000);
            format!(
                "held back in {}.{}% of periods, {seconds}.{ms:03} s in all",
                part / 10,
                part % 10
            )
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_a_percentage() {
        assert_eq!((percent("80%"), percent("100")), (Ok(80), Ok(100)));
        for bad in ["0", "101%", "80%%", "-1", "0.8", ""] {
            assert!(percent(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn cpus_are_shown_as_they_are_set() {
        assert_eq!(in_words(Unit::PercentOfCpu, 150), "1.5");
        assert_eq!(in_words(Unit::Bytes, 64 << 20), "64M");
    }
}
