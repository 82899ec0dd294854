//! `bulkhead demo`, what `make run` shows: this machine is sliced into guests, their limits are
//! measured from outside, and all of it is removed again. Here are the order of things and the one
//! way out; each part has its file next door. The demonstration uses the guest room as any other
//! command does, in an installation of its own (`site`), so it meets no guest of anybody else.

mod cost;
mod cpu;
mod host;
mod limits;
mod report;
mod server;
mod site;

use std::path::Path;
use std::time::{Duration, Instant};

use self::report::Report;
use self::site::Site;
use super::command::Verb;
use crate::guest::{GuestError, view};
use crate::kernel::{KernelError, interrupt};

/// How the demonstration is shown.
#[derive(Clone, Copy, Debug, Default)]
struct Options {
    /// Whether verdicts are coloured: standard output is a terminal and nobody said no.
    colour: bool,
}

/// Why the demonstration, or a part of it, does not go on.
#[derive(Debug)]
enum Stop {
    /// Somebody asked for its end by a signal.
    Interrupted,
    /// Something that was to be shown could not be.
    Failed(String),
}

type Result<T> = std::result::Result<T, Stop>;

pub(super) const DEMO: Verb = Verb {
    name: "demo",
    about: "Slice this machine, measure, remove (what `make run` does)",
    build: |command| command,
    run: |context, _| {
        Ok(run(
            &context.root,
            &Options {
                colour: context.colour,
            },
        ))
    },
    hidden: true,
};

impl From<GuestError> for Stop {
    fn from(error: GuestError) -> Self {
        Self::Failed(view::chain(&error))
    }
}

impl From<KernelError> for Stop {
    fn from(error: KernelError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A part of it: what it is about, and what does it.
type Part = (&'static str, fn(&Site, &mut Report) -> Result<()>);

/// In this order: what a start costs is read right after the starts, and CPU time is measured
/// before anything runs wild.
const PARTS: [Part; 7] = [
    ("guests", site::slice),
    ("costs", cost::measure),
    ("CPU limits", cpu::limits),
    ("CPU weights", cpu::weights),
    ("memory", limits::memory),
    ("processes", limits::processes),
    ("Debian server", server::show),
];

/// Shows everything and removes everything; the exit code is 0 only if all that was asked for held
/// and nothing is left. `root` is the prefix of the installation whose cache holds the images.
fn run(root: &Path, options: &Options) -> u8 {
    let mut report = Report::new(options.colour);
    let site = match interrupt::catch()
        .map_err(Stop::from)
        .and_then(|()| Site::open(root, &mut report))
    {
        Ok(site) => site,
        Err(stop) => return refuse(&mut report, &stop),
    };
    let shown = show(&site, &mut report);
    report.say("removing all of it");
    let removed = site.remove();
    if let Err(Stop::Interrupted) = shown {
        report.say(&match &removed {
            Ok(()) => "interrupted; all it made is removed".to_owned(),
            Err(why) => format!("interrupted; not all could be removed: {why}"),
        });
        return exit_code_of_signal();
    }
    match removed {
        Ok(()) => report.line("left behind", "nothing", "nothing", true),
        Err(why) => report.line("left behind", "nothing", &why, false),
    }
    report.print();
    report.say(&site.farewell());
    u8::from(!report.holds())
}

fn show(site: &Site, report: &mut Report) -> Result<()> {
    for (subject, part) in PARTS {
        go_on()?;
        match part(site, report) {
            Ok(()) => {}
            Err(Stop::Failed(why)) => {
                // An error may come from the signal itself, which a tool at work got as well.
                go_on()?;
                report.say(&format!("{subject}: {why}"));
                report.line(subject, "works", first_line(&why), false);
            }
            Err(Stop::Interrupted) => return Err(Stop::Interrupted),
        }
    }
    Ok(())
}

fn refuse(report: &mut Report, stop: &Stop) -> u8 {
    match stop {
        Stop::Interrupted => exit_code_of_signal(),
        Stop::Failed(why) => {
            report.say(&format!("cannot begin: {why}"));
            1
        }
    }
}

/// As a shell tells it: 128 and the signal.
fn exit_code_of_signal() -> u8 {
    interrupt::caught()
        .and_then(|signal| u8::try_from(128 + signal).ok())
        .unwrap_or(1)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Stops here if somebody asked for the end.
fn go_on() -> Result<()> {
    match interrupt::caught() {
        Some(_) => Err(Stop::Interrupted),
        None => Ok(()),
    }
}

/// Sleeps until `deadline`, or until somebody asks for the end.
fn pause_until(deadline: Instant) -> Result<()> {
    loop {
        go_on()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

/// Sleeps for a while.
fn pause(time: Duration) -> Result<()> {
    pause_until(Instant::now() + time)
}
