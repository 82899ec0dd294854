//! The columns of `top`: what each says of a guest, which guest has more of it, and rows of them as
//! text. What of it is on the screen is `top_view`.

use super::list::tone;
use super::render::{Cell, Tone, safe};
use crate::guest::load::Load;
use crate::model::Status;
use crate::model::clock::span;

/// One column: its heading, what is in it, and a number that the larger of two rows has more of;
/// without one, rows go by name.
pub(super) struct Column {
    pub(super) heading: &'static str,
    text: fn(&Load) -> String,
    weight: Option<fn(&Load) -> f64>,
}

const fn column(
    heading: &'static str,
    text: fn(&Load) -> String,
    weight: fn(&Load) -> f64,
) -> Column {
    Column {
        heading,
        text,
        weight: Some(weight),
    }
}

pub(super) const COLUMNS: [Column; 17] = [
    Column {
        heading: "GUEST",
        text: |load| load.name.to_string(),
        weight: None,
    },
    column(
        "STATE",
        |load| load.status.to_string(),
        |load| f64::from(u8::from(load.status != Status::Running)),
    ),
    column(
        "CPU%",
        |load| tenths(load.cpu_percent),
        |load| or_none(load.cpu_percent),
    ),
    column(
        "OF LIMIT",
        |load| tenths(load.cpu_of_limit_percent),
        |load| or_none(load.cpu_of_limit_percent),
    ),
    column(
        "MEMORY",
        |load| of_limit(load.memory, load.memory_limit, short),
        |load| bytes(load.memory),
    ),
    column(
        "CACHE",
        |load| or_dash(load.memory_cache, short),
        |load| bytes(load.memory_cache),
    ),
    column(
        "SWAP",
        |load| or_dash(load.swap, short),
        |load| bytes(load.swap),
    ),
    column(
        "IN/s",
        |load| or_dash(load.received_bytes_s, short),
        |load| bytes(load.received_bytes_s),
    ),
    column(
        "OUT/s",
        |load| or_dash(load.sent_bytes_s, short),
        |load| bytes(load.sent_bytes_s),
    ),
    column(
        "READ/s",
        |load| or_dash(load.read_bytes_s, short),
        |load| bytes(load.read_bytes_s),
    ),
    column(
        "WRITE/s",
        |load| or_dash(load.written_bytes_s, short),
        |load| bytes(load.written_bytes_s),
    ),
    column(
        "CPU WAIT",
        |load| waits(load.cpu_some_percent, load.cpu_full_percent),
        |load| or_none(load.cpu_some_percent),
    ),
    column(
        "MEM WAIT",
        |load| waits(load.memory_some_percent, load.memory_full_percent),
        |load| or_none(load.memory_some_percent),
    ),
    column(
        "IO WAIT",
        |load| waits(load.io_some_percent, load.io_full_percent),
        |load| or_none(load.io_some_percent),
    ),
    column(
        "PROCS",
        |load| of_limit(load.processes, load.processes_limit, |n| n.to_string()),
        |load| bytes(load.processes),
    ),
    column("UP", |load| span(load.up_s), |load| bytes(Some(load.up_s))),
    Column {
        heading: TENANT,
        text: |load| or_dash(load.tenant.as_ref(), ToString::to_string),
        weight: None,
    },
];

/// The sums of a tenant's guests, below its name.
fn heading(members: &[&Load], texts: &dyn Fn(&Load) -> Vec<String>) -> Vec<String> {
    let Some(first) = members.first() else {
        return vec![String::new(); COLUMNS.len()];
    };
    let tenant = first.tenant.as_ref();
    let tenant = tenant.map_or_else(|| "no tenant".to_owned(), ToString::to_string);
    let mut texts = texts(&sum(members));
    let blank = ["STATE", "CPU WAIT", "MEM WAIT", "IO WAIT", "UP"];
    for (text, column) in texts.iter_mut().zip(&COLUMNS) {
        let nothing = column.heading == "OF LIMIT" && first.tenant_cpu_limit.is_none();
        if nothing || blank.contains(&column.heading) {
            text.clear();
        }
    }
    texts[0] = format!("{} ({})", safe(&tenant), members.len());
    texts
}

/// What guests of one tenant use together, where that is a sum, and of what it may have; of nothing that
/// is kept, nothing.
fn sum(all: &[&Load]) -> Load {
    let whole =
        |of: fn(&Load) -> Option<u64>| all.iter().filter_map(|load| of(load)).reduce(|a, b| a + b);
    let cpu = all.iter().filter_map(|load| load.cpu_percent);
    let cpu = cpu.reduce(|a, b| a + b);
    let may = all[0].tenant_cpu_limit.filter(|limit| *limit > 0);
    Load {
        cpu_percent: cpu,
        cpu_of_limit_percent: cpu.zip(may).map(|(cpu, limit)| cpu * 100.0 / limit as f64),
        memory: whole(|load| load.memory),
        memory_cache: whole(|load| load.memory_cache),
        memory_limit: all[0].tenant_memory_limit,
        swap: whole(|load| load.swap),
        received_bytes_s: whole(|load| load.received_bytes_s),
        sent_bytes_s: whole(|load| load.sent_bytes_s),
        read_bytes_s: whole(|load| load.read_bytes_s),
        written_bytes_s: whole(|load| load.written_bytes_s),
        processes: whole(|load| load.processes),
        processes_limit: all[0].tenant_processes_limit,
        ..(*all[0]).clone()
    }
}

/// Rows that go by it stand together by tenant.
pub(super) const TENANT: &str = "TENANT";

/// The column that rows go by until somebody says otherwise: CPU.
pub(super) const FIRST: usize = 2;
/// Columns that begin at the left; numbers end at the right.
const WORDS: usize = 2;
/// The headings, for a table.
pub(super) fn headings() -> Vec<&'static str> {
    COLUMNS.iter().map(|column| column.heading).collect()
}

/// One row, for a table.
pub(super) fn cells(load: &Load) -> Vec<Cell> {
    let cell = |(at, column): (usize, &Column)| {
        let shade = if at == 1 {
            tone(load.status)
        } else {
            Tone::Plain
        };
        Cell::new(&(column.text)(load), shade)
    };
    COLUMNS.iter().enumerate().map(cell).collect()
}

/// Puts the busiest first.
pub(super) fn sort(loads: &mut [Load]) {
    sort_by(loads, FIRST);
}

pub(super) fn sort_by(loads: &mut [Load], at: usize) {
    // They come by name, and the sort keeps that order among equals.
    loads.sort_by(|one, other| one.name.cmp(&other.name));
    if COLUMNS
        .get(at)
        .is_some_and(|column| column.heading == TENANT)
    {
        by_tenant(loads);
    }
    if let Some(weight) = COLUMNS.get(at).and_then(|column| column.weight) {
        loads.sort_by(|one, other| weight(other).total_cmp(&weight(one)));
    }
}

/// Puts those of a tenant together and leaves their order; those of nobody last.
pub(super) fn by_tenant(loads: &mut [Load]) {
    loads.sort_by_key(|load| (load.tenant.is_none(), load.tenant.clone()));
}

fn or_none(number: Option<f64>) -> f64 {
    number.unwrap_or(-1.0)
}

/// Exact up to 2⁵³, which is enough to say which is larger.
fn bytes(number: Option<u64>) -> f64 {
    number.map_or(-1.0, |number| number as f64)
}

fn or_dash<T>(value: Option<T>, say: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), say)
}

fn tenths(number: Option<f64>) -> String {
    or_dash(number, |number| format!("{number:.1}"))
}

/// Some and all: `12.5/3.0`.
fn waits(some: Option<f64>, full: Option<f64>) -> String {
    or_dash(some.zip(full), |(some, full)| {
        format!("{some:.1}/{full:.1}")
    })
}

fn of_limit(held: Option<u64>, limit: Option<u64>, say: fn(u64) -> String) -> String {
    match (held, limit) {
        (None, _) => "-".to_owned(),
        (Some(held), None) => say(held),
        (Some(held), Some(limit)) => format!("{}/{}", say(held), say(limit)),
    }
}

/// Bytes in two digits or three: `512`, `1.5K`, `23M`.
pub(super) fn short(bytes: u64) -> String {
    let units = ["K", "M", "G", "T", "P", "E"];
    let mut unit = units
        .iter()
        .zip(1..)
        .take_while(|(_, n)| bytes >> (10 * n) > 0);
    match unit.by_ref().last() {
        None => bytes.to_string(),
        Some((unit, n)) => {
            let tenths = (u128::from(bytes) * 10) >> (10 * n);
            match tenths {
                ..100 => format!("{}.{}{unit}", tenths / 10, tenths % 10),
                _ => format!("{}{unit}", tenths / 10),
            }
        }
    }
}

/// A row: a guest, or what guests of a tenant use together.
#[derive(Clone, Copy)]
pub(super) enum Row<'a> {
    Guest(&'a Load),
    /// The same below the heading of its tenant.
    Member(&'a Load),
    Heading(&'a [&'a Load]),
}

/// Headings and rows, columns as wide as the widest in them; those that do not fit left out.
pub(super) fn table(loads: &[Row<'_>], most: usize) -> Vec<String> {
    let mut rows: Vec<Vec<String>> = vec![headings().into_iter().map(str::to_owned).collect()];
    let texts = |load: &Load| COLUMNS.iter().map(|c| safe(&(c.text)(load))).collect();
    rows.extend(loads.iter().map(|row| match row {
        Row::Guest(load) => texts(load),
        Row::Member(load) => {
            let mut texts: Vec<String> = texts(load);
            texts[0].insert_str(0, "  ");
            texts
        }
        Row::Heading(members) => heading(members, &texts),
    }));
    let width = |at: usize| {
        let widths = rows.iter().map(|row| row[at].chars().count());
        widths.max().unwrap_or(0)
    };
    let mut end = 0;
    let fits = |width: &usize| {
        end += width + 2;
        end <= most + 2
    };
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).take_while(fits).collect();
    let line = |row: &Vec<String>| {
        let padded = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(at, (text, width))| {
                if at < WORDS {
                    format!("{text:<width$}")
                } else {
                    format!("{text:>width$}")
                }
            });
        padded.collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short() {
        let all = [0, 1023, 1024, 10_239, 10_240, 1 << 20, u64::MAX];
        let texts: Vec<String> = all.into_iter().map(short).collect();
        assert_eq!(texts, ["0", "1023", "1.0K", "9.9K", "10K", "1.0M", "15E"]);
    }
}
