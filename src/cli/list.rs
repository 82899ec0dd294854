//! `list`: one line a guest. Reads, takes no lock, changes nothing: that a keeper is gone is said,
//! not mended.

use clap::{Arg, ArgMatches};

use super::command::Verb;
use super::context::Context;
use super::fault::{Fault, MISSING, Result};
use super::render::{self, Cell, Format, Tone};
use super::select;
use crate::guest::view::{Row, bytes_text};
use crate::model::Status;
use crate::model::clock;

pub(super) const LIST: Verb = Verb {
    name: "list",
    about: "List guests and what they use",
    build: |command| {
        command
            .visible_alias("ls")
            .arg(
                Arg::new("patterns")
                    .value_name("PATTERN")
                    .num_args(0..)
                    .help("Only guests whose names fit one of these; * and ? as in a shell"),
            )
            .arg(select::by_label())
            .arg(select::by_tenant())
    },
    run: list,
    hidden: false,
};

const HEADINGS: [&str; 9] = [
    "NAME", "STATUS", "ADDRESS", "CPUS", "MEMORY", "PROCS", "UPTIME", "TEMPLATE", "NOTE",
];

fn list(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let manager = context.manager()?;
    let patterns: Vec<&String> = matches.get_many("patterns").into_iter().flatten().collect();
    let wanted = select::selectors(matches)?;
    let fits = |name: &str| patterns.is_empty() || patterns.iter().any(|p| select::fits(p, name));
    let names = manager.names()?;
    let rows: Vec<Row> = manager
        .rows(names.iter().filter(|name| fits(name.as_str())))
        .into_iter()
        .filter(|row| select::selected(&wanted, &row.labels))
        .filter(|row| select::of_tenant(matches, row.tenant.as_ref()))
        .collect();
    if rows.is_empty() {
        select::check_tenant(context, matches)?;
    }
    let plain = |pattern: &&&String| !pattern.contains(['*', '?']);
    let missing = patterns.iter().filter(plain).find(|name| {
        let named = |row: &Row| row.name.as_str() == name.as_str();
        wanted.is_empty() && !matches.contains_id("tenant") && !rows.iter().any(named)
    });
    context.out(&text(&rows, context.format, context.colour))?;
    match missing {
        Some(name) => Err(Fault::new(MISSING, format!("there is no guest {name}"))),
        None => Ok(0),
    }
}

/// The list in a format, for a terminal with or without colour.
#[must_use]
pub fn text(rows: &[Row], format: Format, colour: bool) -> String {
    render::list(format, colour, rows, &HEADINGS, cells)
}

/// How a status looks.
pub(super) fn tone(status: Status) -> Tone {
    match status {
        Status::Running => Tone::Good,
        Status::Broken | Status::Creating => Tone::Bad,
        Status::Stopped => Tone::Plain,
        _ => Tone::Odd,
    }
}

fn cells(row: &Row) -> Vec<Cell> {
    let dash = |text: Option<String>| Cell::from(text.unwrap_or_else(|| "-".to_owned()));
    let memory = row.memory_limit.map(|limit| {
        let used = row.memory.map_or_else(|| "-".to_owned(), bytes_text);
        format!("{used}/{}", bytes_text(limit))
    });
    vec![
        Cell::from(row.name.as_str()),
        Cell::new(&row.status.to_string(), tone(row.status)),
        dash(row.address.map(|address| address.to_string())),
        Cell::from(cpus(row)),
        dash(memory),
        dash(row.processes.map(|n| n.to_string())),
        dash(row.up_s.map(clock::span)),
        dash(row.image.as_deref().map(short).or(row.template.clone())),
        Cell::new(row.note.as_deref().unwrap_or_default(), Tone::Odd),
    ]
}

/// `2`, `2 (0.5 now)`, `all of gold`, `4 own`.
fn cpus(row: &Row) -> String {
    if let Some(count) = row.dedicated {
        return format!("{count} own");
    }
    let mut text = row.cpus.clone().unwrap_or_else(|| "all".to_owned());
    if let Some(now) = &row.cpus_now {
        text += &format!(" ({now} now)");
    }
    match &row.cpupool {
        Some(pool) => format!("{text} of {pool}"),
        None => text,
    }
}

/// A digest as far as people say it; names as they are.
fn short(image: &str) -> String {
    let is_digest = image.len() == 64 && image.bytes().all(|b| b.is_ascii_hexdigit());
    match is_digest {
        true => format!("{image:.12}"),
        false => image.to_owned(),
    }
}
