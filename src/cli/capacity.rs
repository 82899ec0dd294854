//! `capacity`: what the host has promised to guests, and how many more fit.

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde::Serialize;

use super::command::{Verb, required};
use super::context::{Context, note};
use super::fault::{REFUSED, Result};
use super::render::{self, Cell, Format};
use crate::guest::capacity::{Capacity, Fit, Held, Scarce};
use crate::guest::disk_room::DiskHeld;
use crate::guest::view::bytes_text;
use crate::model::{Ratio, Resource};

pub(super) const CAPACITY: Verb = Verb {
    name: "capacity",
    about: "Show what the host has promised to guests, and how many more fit",
    build: |command| {
        command
            .subcommand(
                Command::new("fit")
                    .about(
                        "Say whether so many more guests of a profile fit; if not, the exit code \
                         is 5",
                    )
                    .arg(
                        Arg::new("profile")
                            .value_name("PROFILE")
                            .required(true)
                            .help("Size of the guests"),
                    )
                    .arg(count("How many").default_value("1")),
            )
            .subcommand(
                Command::new("split")
                    .about("Cut this host into equal slices and print the profile of one")
                    .arg(count("How many slices").required(true))
                    .arg(
                        Arg::new("write")
                            .long("write")
                            .value_name("PROFILE")
                            .help("Write it among the host's profiles, under this name"),
                    )
                    .arg(
                        Arg::new("force")
                            .long("force")
                            .action(ArgAction::SetTrue)
                            .requires("write")
                            .help("Replace a profile of that name"),
                    ),
            )
    },
    run: |context, matches| match matches.subcommand() {
        Some(("fit", matches)) => fit(context, matches),
        Some(("split", matches)) => split(context, matches),
        _ => show(context),
    },
    hidden: false,
};

const HEADINGS: [&str; 11] = [
    "RESOURCE",
    "HOST",
    "RESERVE",
    "GIVEN",
    "RATIO",
    "PROMISABLE",
    "GUARANTEED",
    "FREE",
    "SOLD",
    "USED",
    "PEAK",
];

const DISK_HEADINGS: [&str; 8] = [
    "DISK OF POOLS",
    "HOST",
    "RESERVE",
    "RATIO",
    "SELLABLE",
    "FREE",
    "SOLD",
    "USED",
];

fn count(help: &'static str) -> Arg {
    Arg::new("count")
        .short('n')
        .long("count")
        .value_name("N")
        .value_parser(value_parser!(u32).range(1..))
        .help(help)
}

#[derive(Serialize)]
struct Answer {
    count: u32,
    fits: bool,
    #[serde(flatten)]
    fit: Fit,
}

fn show(context: &Context) -> Result<u8> {
    let capacity = context.manager()?.capacity()?;
    match context.format {
        // A table for a spreadsheet has one kind of line.
        Format::Csv => context.list(&capacity.resources, &HEADINGS, cells)?,
        _ => context.one(&capacity, |colour| text(&capacity, colour))?,
    }
    Ok(0)
}

fn text(capacity: &Capacity, colour: bool) -> String {
    let rows: Vec<_> = capacity.resources.iter().map(cells).collect();
    let mut out = render::table(&HEADINGS, &rows, colour);
    out.push('\n');
    let rows: Vec<_> = capacity.disks.iter().map(disk_cells).collect();
    out += &render::table(&DISK_HEADINGS, &rows, colour);
    out.push('\n');
    for fit in &capacity.sizes {
        out += &format!("{}\n", in_words(fit));
    }
    out
}

fn cells(held: &Held) -> Vec<Cell> {
    let amount = |n| match held.resource {
        Resource::Memory => bytes_text(n),
        Resource::Cpus => Ratio(u32::try_from(n).unwrap_or(u32::MAX)).to_string(),
    };
    let sold = sold(amount(held.sold), held.unlimited);
    vec![
        Cell::from(word(held.resource)),
        Cell::from(amount(held.host)),
        Cell::from(amount(held.reserve)),
        Cell::from(match held.resource {
            Resource::Memory => "-".to_owned(),
            Resource::Cpus => amount(held.given),
        }),
        Cell::from(Ratio(held.ratio).to_string()),
        Cell::from(amount(held.whole)),
        Cell::from(amount(held.guaranteed)),
        Cell::from(amount(held.free)),
        Cell::from(sold),
        Cell::from(amount(held.used)),
        Cell::from(amount(held.peak)),
    ]
}

fn disk_cells(disk: &DiskHeld) -> Vec<Cell> {
    let any = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), bytes_text);
    let ratio = disk.ratio.map(|ratio| Ratio(ratio).to_string());
    vec![
        Cell::from(render::safe(&disk.pools.join(","))),
        Cell::from(bytes_text(disk.host)),
        Cell::from(bytes_text(disk.reserve)),
        Cell::from(ratio.unwrap_or_else(|| "-".to_owned())),
        Cell::from(any(disk.whole)),
        Cell::from(any(disk.free)),
        Cell::from(sold(bytes_text(disk.sold), disk.unlimited)),
        Cell::from(bytes_text(disk.used)),
    ]
}

fn sold(amount: String, unlimited: u64) -> String {
    match unlimited {
        0 => amount,
        n => format!("{amount} and {n} without limit"),
    }
}

fn word(resource: Resource) -> &'static str {
    match resource {
        Resource::Memory => "memory",
        Resource::Cpus => "CPUs",
    }
}

fn in_words(fit: &Fit) -> String {
    let name = &fit.profile;
    match (fit.more, fit.then, &fit.why) {
        (_, _, Some(why)) => format!("no {name}: {why}"),
        (None, ..) => format!("any number of {name}: it has no limit and no guarantee"),
        (Some(n), Some(then), _) => {
            let then = match then {
                Scarce::Memory => "memory is",
                Scarce::Cpus => "CPUs are",
                Scarce::Disk => "disk is",
            };
            format!("{n} more of {name}, then {then} the limit")
        }
        (Some(n), None, _) => format!("{n} more of {name}"),
    }
}

fn fit(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let profile: String = required(matches, "profile")?;
    let count: u32 = required(matches, "count")?;
    let fit = context.manager()?.fit(&profile)?;
    let fits = fit.more.is_none_or(|more| more >= u64::from(count));
    let answer = Answer { count, fits, fit };
    if context.format == Format::Table {
        let no = if fits { "" } else { "do not " };
        context.done(&format!(
            "{count} of {profile} {no}fit: {}",
            in_words(&answer.fit)
        ))?;
    } else {
        context.out(&render::data(context.format, &answer))?;
    }
    Ok(if fits { 0 } else { REFUSED })
}

fn split(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let manager = context.manager()?;
    let mut slice = manager.split(required(matches, "count")?)?;
    if let Some(name) = matches.get_one::<String>("write") {
        manager.keep_slice(&mut slice, name, matches.get_flag("force"))?;
    }
    if !slice.reserved {
        note("nothing is kept for the host itself: see [reserve] in bulkhead.toml");
    }
    if slice.given > 0 {
        note(&format!(
            "pools of CPUs and dedicated guests have {} to themselves: not all of the slices fit beside those",
            Resource::Cpus.exactly(slice.given)
        ));
    }
    match (&slice.file, context.format) {
        (Some(file), Format::Table) => {
            context.done(&format!("wrote {}", file.display()))?;
        }
        (None, Format::Table) => context.out(&slice.profile)?,
        (_, format) => context.out(&render::data(format, &slice))?,
    }
    Ok(0)
}
