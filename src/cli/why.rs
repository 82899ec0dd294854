//! `why`: what a guest waits for. Reads, takes no lock.

use std::time::Duration;

use clap::{Arg, ArgMatches, value_parser};

use super::command::Verb;
use super::context::Context;
use super::fault::Result;
use super::render::{Cell, Format, Tone};
use crate::guest::why::Cause;
use crate::model::{GuestName, clock};

pub(super) const WHY: Verb = Verb {
    name: "why",
    about: "Say what slows a running guest",
    build: |command| {
        command
            .arg(
                Arg::new("name")
                    .value_name("NAME")
                    .required(true)
                    .value_parser(value_parser!(GuestName))
                    .help("The guest"),
            )
            .arg(
                Arg::new("for")
                    .long("for")
                    .value_name("TIME")
                    .default_value("3s")
                    .value_parser(window)
                    .help("How long to watch it, 100ms to 1h"),
            )
            .after_help(
                "WAITED is the part of that time in which some process of it waited, as the kernel \
                 counts it; - where it counts otherwise. One that is slow and waits for nothing has \
                 too little to do, or waits for somebody on the network.",
            )
    },
    run: why,
    hidden: false,
};

const HEADINGS: [&str; 4] = ["WAITS FOR", "WAITED", "WHY", "WHAT HELPS"];

fn window(text: &str) -> std::result::Result<Duration, String> {
    let fits = clock::duration(text)
        .ok()
        .filter(|time| (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(time));
    fits.ok_or_else(|| "write a time from 100ms to 1h, such as 10s".into())
}

fn why(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let manager = context.manager()?;
    let (Some(name), Some(window)) = (
        matches.get_one::<GuestName>("name"),
        matches.get_one::<Duration>("for"),
    ) else {
        return Ok(super::fault::USAGE);
    };
    let causes = manager.why(name, *window)?;
    if causes.is_empty() {
        context.say(&format!(
            "{name} waited for no CPU, memory or disk in {} s",
            window.as_secs_f64()
        ));
        if context.format == Format::Table {
            return Ok(0);
        }
    }
    context.list(&causes, &HEADINGS, cells)?;
    Ok(0)
}

fn cells(cause: &Cause) -> Vec<Cell> {
    let part = cause.part.map_or("-".into(), |part| {
        format!("{}.{:02}%", part / 100, part % 100)
    });
    vec![
        Cell::new(cause.resource, Tone::Odd),
        Cell::from(part),
        Cell::from(&cause.why),
        Cell::from(&cause.advice),
    ]
}
