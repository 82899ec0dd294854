//! `pool`: where guests' own files lie, and what keeps them to a size.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command, value_parser};
use serde::Serialize;

use super::command::{Verb, dry_run, required};
use super::context::Context;
use super::fault::{Fault, Result};
use super::render::{Cell, safe};
use crate::guest::pool_watch::nearly_full;
use crate::guest::view::bytes_text;
use crate::model::Bytes;
use crate::storage::{self, Driver, Filesystem, Pool, PoolUse};

const DRIVERS: [&str; 3] = ["overlay", "btrfs", "image"];
const FILESYSTEMS: [&str; 3] = ["ext4", "xfs", "btrfs"];

pub(super) const POOL: Verb = Verb {
    name: "pool",
    about: "Make, list and remove the places where guests' files lie",
    build: |command| {
        command
            .subcommand_required(true)
            .subcommand(Command::new("list").about("List pools"))
            .subcommand(
                Command::new("info")
                    .alias("show")
                    .about("Show a pool, its room and its guests")
                    .arg(name()),
            )
            .subcommand(
                Command::new("create")
                    .about("Make a pool")
                    .arg(name())
                    .args([
                        Arg::new("driver")
                            .long("driver")
                            .value_name("DRIVER")
                            .value_parser(PossibleValuesParser::new(DRIVERS))
                            .default_value("overlay")
                            .help("overlay (a folder), btrfs (a subvolume with a quota) or image (a filesystem in a file)"),
                        Arg::new("source")
                            .long("source")
                            .value_name("DIR")
                            .value_parser(value_parser!(PathBuf))
                            .help("Folder the guests' files lie in [default: one of the installation's]"),
                        Arg::new("filesystem")
                            .long("filesystem")
                            .value_name("KIND")
                            .value_parser(PossibleValuesParser::new(FILESYSTEMS))
                            .default_value("ext4")
                            .help("What is in a guest's file, for the driver image"),
                        sized(),
                        Arg::new("size")
                            .long("size")
                            .value_name("BYTES")
                            .value_parser(|text: &str| text.parse::<Bytes>().map_err(|e| e.to_string()))
                            .help("Size of the file to make a btrfs in, where --source is none already"),
                    ])
                    .arg(dry_run()),
            )
            .subcommand(
                Command::new("set")
                    .about("Change where guests with a size go, or the size of a btrfs in a file")
                    .arg(name())
                    .arg(sized())
                    .arg(
                        Arg::new("size")
                            .long("size")
                            .value_name("BYTES")
                            .value_parser(|text: &str| text.parse::<Bytes>().map_err(|e| e.to_string()))
                            .help("New size of the file the pool lies in; it can only grow"),
                    )
                    .arg(dry_run()),
            )
            .subcommand(
                Command::new("delete")
                    .about("Remove a pool that no guest lies in")
                    .arg(name())
                    .arg(dry_run()),
            )
    },
    run: |context, matches| match matches.subcommand() {
        Some(("info", matches)) => info(context, matches),
        Some(("create", matches)) => create(context, matches),
        Some(("set", matches)) => set(context, matches),
        Some(("delete", matches)) => delete(context, matches),
        _ => list(context),
    },
    hidden: false,
};

fn name() -> Arg {
    Arg::new("pool")
        .value_name("POOL")
        .required(true)
        .help("Name of the pool")
}

fn sized() -> Arg {
    Arg::new("sized")
        .long("sized")
        .value_name("DRIVER")
        .value_parser(PossibleValuesParser::new(["image", "no"]))
        .help("Driver for guests with a size, where the pool's own keeps none to it: image, or no to refuse them")
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    driver: Driver,
    source: Option<&'a PathBuf>,
    /// Of files that hold one each.
    filesystem: Option<Filesystem>,
    sized: Option<Driver>,
    #[serde(flatten)]
    used: PoolUse,
}

impl<'a> Shown<'a> {
    fn new(pool: &'a Pool, used: PoolUse) -> Self {
        let in_files = pool.driver == Driver::Image || pool.sized == Some(Driver::Image);
        Self {
            name: &pool.name,
            driver: pool.driver,
            source: pool.source.as_ref(),
            filesystem: in_files.then_some(pool.filesystem),
            sized: pool.sized,
            used,
        }
    }
}

fn driver_word(driver: Driver) -> &'static str {
    match driver {
        Driver::Overlay => "overlay",
        Driver::Btrfs => "btrfs",
        Driver::Image => "image",
    }
}

fn list(context: &Context) -> Result<u8> {
    let layout = &context.manager()?.layout;
    let pools = storage::pools(layout)?;
    let all: Vec<Shown<'_>> = pools
        .iter()
        .map(|pool| {
            let used = pool.used(layout)?;
            Ok(Shown::new(pool, used))
        })
        .collect::<Result<_>>()?;
    let heads = ["NAME", "DRIVER", "GUESTS", "SIZE", "FREE", "SOURCE", "NOTE"];
    context.list(&all, &heads, |shown| {
        vec![
            Cell::from(shown.name),
            Cell::from(driver_word(shown.driver)),
            Cell::from(shown.used.guests.len().to_string()),
            Cell::from(bytes_text(shown.used.size)),
            Cell::from(bytes_text(shown.used.free)),
            Cell::from(safe(&shown.used.folder.display().to_string())),
            Cell::from(nearly_full(shown.used.size, shown.used.free).unwrap_or_default()),
        ]
    })?;
    Ok(0)
}

fn info(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let layout = &context.manager()?.layout;
    let pool = Pool::load(layout, &required::<String>(matches, "pool")?)?;
    let used = pool.used(layout)?;
    let shown = Shown::new(&pool, used);
    context.one(&shown, |_| {
        let used = &shown.used;
        let sized = pool.sized.map_or("no", driver_word);
        let lines = [
            ("driver", driver_word(pool.driver).to_owned()),
            ("folder", safe(&used.folder.display().to_string())),
            (
                "filesystem",
                match pool.driver {
                    Driver::Image => pool.filesystem.word().to_owned(),
                    _ => "the folder's".into(),
                },
            ),
            ("sized", sized.to_owned()),
            ("size", bytes_text(used.size)),
            ("free", bytes_text(used.free)),
            ("guests", used.guests.join(" ")),
        ];
        let mut text = format!("{}\n", safe(&pool.name));
        for (key, value) in lines {
            text += format!("  {key:<11}{value}").trim_end();
            text.push('\n');
        }
        text
    })?;
    Ok(0)
}

fn word<T: serde::de::DeserializeOwned>(matches: &ArgMatches, name: &str) -> Option<T> {
    let text = matches.get_one::<String>(name)?;
    serde_json::from_value(text.as_str().into()).ok()
}

fn create(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let manager = context.manager()?;
    let source = matches.get_one::<PathBuf>("source");
    let source = source
        .map(std::path::absolute)
        .transpose()
        .map_err(|error| Fault::usage(format!("--source: {error}")))?;
    let pool = Pool {
        name: required(matches, "pool")?,
        driver: word(matches, "driver").unwrap_or(Driver::Overlay),
        source,
        filesystem: word(matches, "filesystem").unwrap_or_else(Filesystem::default),
        sized: word(matches, "sized"),
    };
    let size = matches.get_one::<Bytes>("size").map(|size| size.0);
    crate::define::pool_name(&pool.name).map_err(Fault::usage)?;
    pool.check_new(&manager.layout, size)?;
    if matches.get_flag("dry-run") {
        context.done(&format!("would make pool {}", pool.name))?;
        return Ok(0);
    }
    storage::create_pool(&manager.layout, &pool, size)?;
    context.done(&format!("pool {} is made", pool.name))?;
    Ok(0)
}

fn set(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let layout = &context.manager()?.layout;
    let mut pool = Pool::load(layout, &required::<String>(matches, "pool")?)?;
    if matches.contains_id("sized") {
        pool.sized = word(matches, "sized");
    }
    let size = matches.get_one::<Bytes>("size").map(|size| size.0);
    storage::check_change(layout, &pool, size)?;
    if matches.get_flag("dry-run") {
        context.done(&format!("would change pool {}", pool.name))?;
        return Ok(0);
    }
    storage::change_pool(layout, &pool, size)?;
    context.done(&format!("pool {} is changed", pool.name))?;
    Ok(0)
}

fn delete(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let layout = &context.manager()?.layout;
    let name: String = required(matches, "pool")?;
    let pool = Pool::load(layout, &name)?;
    if matches.get_flag("dry-run") {
        context.done(&format!("would remove pool {}", safe(&pool.name)))?;
        return Ok(0);
    }
    context.manager()?.forget_pool(&pool.name);
    storage::delete_pool(layout, &name)?;
    context.done(&format!("pool {name} is removed"))?;
    Ok(0)
}
