//! `logs` and `events`: what a guest's console said, and what happened to guests. Both read, take no
//! lock, and can go on with what is new.

use std::collections::VecDeque;
use std::io::Write;
use std::time::Duration;

use clap::{Arg, ArgMatches, value_parser};

use super::command::{Verb, name, name_of, switch};
use super::context::Context;
use super::fault::{Fault, Result};
use super::render::{self, Cell, Format, safe};
use crate::guest::Manager;
use crate::guest::view::{bytes_text, printable, reason_text};
use crate::model::clock::{self, time};
use crate::model::{Cpus, Event, EventKind, GuestName, Level, TopProcess};

pub(super) const LOGS: Verb = Verb {
    name: "logs",
    about: "Show what a guest's console said, and how it ended and restarted lately",
    build: |command| {
        command
            .arg(name())
            .arg(
                Arg::new("lines")
                    .short('n')
                    .long("lines")
                    .value_name("LINES")
                    .value_parser(value_parser!(usize))
                    .help("Only so many last lines"),
            )
            .arg(switch(
                "raw",
                "The console's bytes as they are, with all control characters",
            ))
            .arg(switch("follow", "Go on with what is new").short('f'))
    },
    run: logs,
    hidden: false,
};

pub(super) const EVENTS: Verb = Verb {
    name: "events",
    about: "Show what happened to guests",
    build: |command| {
        command
            .arg(
                Arg::new("names")
                    .value_name("NAME")
                    .num_args(0..)
                    .value_parser(value_parser!(GuestName))
                    .help("Only these guests, also deleted ones"),
            )
            .arg(switch("follow", "Go on with what is new").short('f'))
            .arg(
                Arg::new("since")
                    .long("since")
                    .value_name("TIME")
                    .value_parser(clock::since)
                    .help("Only later ones: how long ago (10m, 2h, 7d) or a time in UTC"),
            )
    },
    run: events,
    hidden: false,
};

/// How many events `info` and `logs` look back.
const RECENT: usize = 10;
/// How often a console log is looked at.
const EVERY: Duration = Duration::from_millis(200);

/// The last events of a guest, oldest first.
pub(super) fn recent(manager: &Manager, name: &GuestName) -> Result<Vec<Event>> {
    let mut last = VecDeque::new();
    manager.events(&|event| event.guest == name.as_str(), false, &mut |event| {
        // A name that was deleted and made again is another guest.
        if event.kind == EventKind::Created {
            last.clear();
        }
        if last.len() == RECENT {
            last.pop_front();
        }
        last.push_back(event.clone());
        true
    })?;
    Ok(last.into())
}

fn logs(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let name = name_of(matches)?;
    let raw = matches.get_flag("raw");
    let manager = context.manager()?;
    let mut seen = manager.console_log(&name)?;
    if !raw {
        for event in recent(manager, &name)?
            .iter()
            .filter(|event| is_news(&event.kind))
        {
            context.out(&format!(
                "# {}  {}\n",
                time(event.time_ms),
                in_words(&event.kind)
            ))?;
        }
    }
    let lines: Option<usize> = matches.get_one("lines").copied();
    show(tail(&seen, lines), raw)?;
    while matches.get_flag("follow") {
        std::thread::sleep(EVERY);
        let now = manager.console_log(&name)?;
        show(new_part(&seen, &now), raw)?;
        seen = now;
    }
    Ok(0)
}

fn show(data: &[u8], raw: bool) -> Result<()> {
    if data.is_empty() {
        return Ok(());
    }
    let mut stdout = std::io::stdout().lock();
    let written = if raw {
        stdout.write_all(data)
    } else {
        stdout.write_all(printable(data).as_bytes())
    };
    written.and_then(|()| stdout.flush()).map_err(Fault::output)
}

/// The last `lines` lines.
fn tail(data: &[u8], lines: Option<usize>) -> &[u8] {
    let Some(lines) = lines else {
        return data;
    };
    let end = data.len() - usize::from(data.last() == Some(&b'\n'));
    let breaks = (0..end).rev().filter(|i| data[*i] == b'\n');
    match lines {
        0 => &[],
        _ => breaks
            .clone()
            .nth(lines - 1)
            .map_or(data, |at| &data[at + 1..]),
    }
}

/// What `now` has after what was seen. The log drops its older half now and then: then what is new
/// begins after the last that was seen of it.
fn new_part<'a>(seen: &[u8], now: &'a [u8]) -> &'a [u8] {
    if let Some(rest) = now.strip_prefix(seen) {
        return rest;
    }
    let mark = &seen[seen.len().saturating_sub(512)..];
    let found = now
        .windows(mark.len().max(1))
        .rposition(|part| part == mark);
    found.map_or(now, |at| &now[at + mark.len()..])
}

fn events(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let names: Vec<String> = matches
        .get_many::<GuestName>("names")
        .map(|names| names.map(ToString::to_string).collect())
        .unwrap_or_default();
    let since: u64 = matches.get_one("since").copied().unwrap_or(0);
    let wanted = |event: &Event| {
        event.time_ms >= since && (names.is_empty() || names.contains(&event.guest))
    };
    let manager = context.manager()?;
    if !matches.get_flag("follow") {
        let mut all = Vec::new();
        manager.events(&wanted, false, &mut |event| {
            all.push(event.clone());
            true
        })?;
        context.list(&all, &["TIME", "GUEST", "EVENT"], cells)?;
        return Ok(0);
    }
    let mut stopped = Ok(());
    manager.events(&wanted, true, &mut |event| {
        let line = match context.format {
            Format::Table => {
                let (time, guest) = (time(event.time_ms), render::safe(&event.guest));
                format!("{time}  {guest}  {}\n", in_words(&event.kind))
            }
            format => render::streamed(format, event),
        };
        stopped = context.out(&line);
        stopped.is_ok()
    })?;
    stopped.map(|()| 0)
}

fn cells(event: &Event) -> Vec<Cell> {
    vec![
        time(event.time_ms).into(),
        event.guest.as_str().into(),
        in_words(&event.kind).into(),
    ]
}

/// What whoever reads a log wants to know beside it.
fn is_news(kind: &EventKind) -> bool {
    !matches!(
        kind,
        EventKind::Created
            | EventKind::Changed { .. }
            | EventKind::Renamed { .. }
            | EventKind::Goal { .. }
            | EventKind::GoalMetric { .. }
    )
}

/// An event for people.
pub(super) fn in_words(kind: &EventKind) -> String {
    let times = |n: u64, what: &str| {
        let s = if n == 1 { "" } else { "es" };
        format!("{n} {what}{s}")
    };
    match kind {
        EventKind::Created => "created".to_owned(),
        EventKind::Started => "started".to_owned(),
        EventKind::Rescue { from } => format!("started in rescue with {from}"),
        EventKind::Exited { reason } => format!("ended: {}", reason_text(reason)),
        EventKind::OutOfMemory { kills, top } => {
            let killed = times(*kills, "process");
            format!("out of memory: {killed} killed{}", most(top))
        }
        EventKind::Limit {
            resource,
            hits,
            percent,
            top,
        } => limit(resource, *hits, *percent, top),
        EventKind::Credits {
            held_back,
            earn,
            times,
        } => credits(*held_back, *earn, *times),
        EventKind::Restarted { attempt } => format!("started again, attempt {attempt}"),
        EventKind::GaveUp { attempts } => {
            format!("gave up starting it again after {attempts} attempts")
        }
        EventKind::Goal {
            goal,
            resource,
            from,
            to,
            cause,
            acted,
        } => {
            let word = if *acted { "" } else { ", not changed" };
            let (limit, from, to) = (resource.limit(), resource.show(*from), resource.show(*to));
            format!("goal {goal}: {limit} {from} to {to}{word}: {cause}")
        }
        EventKind::GoalMetric { goal, why } => match why {
            Some(why) => format!(
                "goal {goal}: no number for 30 s, its limit stays as it is: {}",
                safe(why)
            ),
            None => format!("goal {goal}: there is a number again"),
        },
        EventKind::PoolNearlyFull {
            pool,
            percent,
            free,
        } => format!(
            "pool {} is {percent}% full: {} are left",
            safe(pool),
            bytes_text(*free)
        ),
        EventKind::NotCounted { why } => {
            format!(
                "what it used since its account was written is not counted: {}",
                safe(why)
            )
        }
        EventKind::Paused => "paused".to_owned(),
        EventKind::Resumed => "resumed".to_owned(),
        EventKind::Changed { keys } => format!("changed: {}", keys.join(", ")),
        EventKind::Renamed { from } => format!("renamed from {from}"),
        EventKind::Snapshot { snapshot } => format!("snapshot {snapshot}"),
        EventKind::Allowance { level, used } => allowance(*level, *used),
        EventKind::SnapshotFailed { why } => format!("snapshots by the clock failed: {why}"),
        EventKind::Restored { snapshot } => format!("restored to snapshot {snapshot}"),
        EventKind::Reinstalled { from, snapshot } => {
            format!("reinstalled from {from}; before that: snapshot {snapshot}")
        }
        EventKind::Rebased { from, to, snapshot } => {
            format!("moved from base {from:.12} to {to:.12}; before that: snapshot {snapshot}")
        }
        EventKind::KeeperReplaced => "a new keeper took over".to_owned(),
        EventKind::Deleted => "deleted".to_owned(),
        EventKind::BroughtBack => "brought back from the trash".to_owned(),
    }
}

/// A limit that was hit.
fn limit(resource: &str, hits: u64, percent: Option<u64>, top: &[TopProcess]) -> String {
    let percent = percent.unwrap_or(0);
    let what = match resource {
        "cpu" => format!("held back by its CPU limit in {percent}% of the time it wanted to run"),
        "tenant cpu" => format!("held back by its tenant's CPU limit in {percent}% of the time"),
        "processes" => format!("no more processes: {hits} could not be made"),
        "tenant processes" => format!("no more processes for its tenant: {hits} could not be made"),
        "disk" => format!("its disk is {percent}% full"),
        "files" => format!("{percent}% of the files its disk can have are there"),
        "network" => format!("{hits} packets beyond its ceilings were dropped"),
        other => format!("limit of {}: hit {hits} times", safe(other)),
    };
    what + &most(top)
}

/// `; most: sh (40 processes), java 7 (95% CPU, 12M)`
fn most(top: &[TopProcess]) -> String {
    let one = |one: &TopProcess| {
        let pid = one.pid.map_or_else(String::new, |pid| format!(" {pid}"));
        let cpu = one.cpu_percent.map(|percent| format!("{percent}% CPU, "));
        let cpu = cpu.unwrap_or_default();
        match one.processes {
            2.. => format!("{} ({} processes)", safe(&one.name), one.processes),
            _ => {
                let what = match one.written {
                    Some(bytes) => format!("wrote {}", bytes_text(bytes)),
                    None => cpu + &bytes_text(one.memory),
                };
                format!("{}{pid} ({what})", safe(&one.name))
            }
        }
    };
    let all: Vec<String> = top.iter().take(3).map(one).collect();
    match all.is_empty() {
        true => String::new(),
        false => format!("; most: {}", all.join(", ")),
    }
}

/// `its CPU credits are used up: it is held to the 0.2 CPUs that it earns`
fn credits(held_back: bool, earn: u32, times: u64) -> String {
    let earn = Cpus::from_hundredths(earn).map_or_else(|| "0".to_owned(), |earn| earn.to_string());
    let what = match held_back {
        true => format!("its CPU credits are used up: it is held to the {earn} CPUs that it earns"),
        false => format!("it has CPU credits, and may use more than the {earn} CPUs that it earns"),
    };
    match times {
        0 | 1 => what,
        times => format!("{what} (came to that {times} times)"),
    }
}

fn allowance(level: Level, used: u64) -> String {
    let used = bytes_text(used);
    match level {
        Level::Free => format!("its allowance of traffic is not used up any more ({used})"),
        Level::Spent => format!("its allowance of traffic is used up ({used})"),
        Level::Cut => format!("cut off: nothing passes until its next month of traffic ({used})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_tells_whether_it_changed_anything() {
        let goal = |acted| EventKind::Goal {
            goal: "busy".into(),
            resource: crate::model::GoalResource::Cpu,
            from: 50,
            to: 100,
            cause: "it waits".into(),
            acted,
        };
        assert_eq!(
            in_words(&goal(true)),
            "goal busy: CPU limit 0.50 to 1.00: it waits"
        );
        assert_eq!(
            in_words(&goal(false)),
            "goal busy: CPU limit 0.50 to 1.00, not changed: it waits"
        );
    }

    #[test]
    fn credits_come_and_go_in_words() {
        assert_eq!(
            credits(true, 20, 1),
            "its CPU credits are used up: it is held to the 0.2 CPUs that it earns"
        );
        let often = credits(false, 150, 7);
        assert!(
            often.ends_with("1.5 CPUs that it earns (came to that 7 times)"),
            "{often}"
        );
    }

    #[test]
    fn last_lines() {
        assert_eq!(tail(b"a\nb\nc\n", Some(2)), b"b\nc\n");
        assert_eq!(tail(b"a\nb\nc", Some(1)), b"c");
        assert_eq!(tail(b"a\nb\n", Some(9)), b"a\nb\n");
        assert_eq!(tail(b"a\n", Some(0)), b"");
        assert_eq!(tail(b"", Some(3)), b"");
        assert_eq!(tail(b"a\n", None), b"a\n");
    }

    #[test]
    fn following_survives_a_log_that_drops_its_older_half() {
        assert_eq!(new_part(b"abc", b"abcdef"), b"def");
        assert_eq!(new_part(b"", b"abc"), b"abc");
        let old: Vec<u8> = (0..2000_u32).flat_map(|n| n.to_be_bytes()).collect();
        let mut now = old[4000..].to_vec();
        now.extend(b"new");
        assert_eq!(new_part(&old, &now), b"new");
        assert_eq!(new_part(b"gone", b"all else"), b"all else");
    }
}
