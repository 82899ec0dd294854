//! `cpupool`: CPUs with a name, which its members share and nobody else runs on.

use clap::{Arg, ArgMatches, Command, value_parser};

use super::command::{Verb, dry_run, required};
use super::context::Context;
use super::fault::Result;
use super::render::Cell;
use crate::guest::cpupool::CpuPool;
use crate::model::{CpuPoolName, CpuSet, GuestName, Ratio};

pub(super) const CPUPOOL: Verb = Verb {
    name: "cpupool",
    about: "Make, list and remove pools of CPUs",
    build: |command| {
        command
            .subcommand_required(true)
            .subcommand(Command::new("list").about("List pools of CPUs"))
            .subcommand(
                Command::new("info")
                    .alias("show")
                    .about("Show a pool of CPUs and its guests")
                    .arg(name()),
            )
            .subcommand(
                Command::new("create")
                    .about("Make a pool of CPUs; everybody else is moved off them")
                    .arg(name())
                    .arg(cpus())
                    .arg(dry_run()),
            )
            .subcommand(
                Command::new("set")
                    .about("Give a pool other CPUs; its running guests move there at once")
                    .arg(name())
                    .arg(cpus())
                    .arg(dry_run()),
            )
            .subcommand(
                Command::new("delete")
                    .about("Remove a pool of CPUs that no guest is in")
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
        .value_parser(value_parser!(CpuPoolName))
        .help("Name of the pool")
}

fn cpus() -> Arg {
    Arg::new("cpus")
        .long("cpus")
        .value_name("LIST")
        .required(true)
        .value_parser(value_parser!(CpuSet))
        .help("Its CPUs, such as 8-15")
}

fn names(guests: &[GuestName]) -> String {
    let names: Vec<&str> = guests.iter().map(GuestName::as_str).collect();
    names.join(" ")
}

/// Hundredths of a CPU.
fn amount(hundredths: u64) -> String {
    Ratio(u32::try_from(hundredths).unwrap_or(u32::MAX)).to_string()
}

fn list(context: &Context) -> Result<u8> {
    let pools = context.manager()?.cpu_pools()?;
    let heads = ["NAME", "CPUS", "GUARANTEED", "GUESTS", "RUNNING"];
    context.list(&pools, &heads, |pool: &CpuPool| {
        vec![
            Cell::from(pool.name.as_str()),
            Cell::from(pool.cpus.to_string()),
            Cell::from(amount(pool.guaranteed)),
            Cell::from(pool.guests.len().to_string()),
            Cell::from(pool.running.len().to_string()),
        ]
    })?;
    Ok(0)
}

fn info(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let name: CpuPoolName = required(matches, "pool")?;
    let pool = context.manager()?.cpu_pool(&name)?;
    context.one(&pool, |_| {
        let lines = [
            ("cpus", pool.cpus.to_string()),
            ("online", pool.online.clone()),
            ("guaranteed", amount(pool.guaranteed)),
            ("guests", names(&pool.guests)),
            ("running", names(&pool.running)),
        ];
        let mut text = format!("{}\n", pool.name);
        for (key, value) in lines {
            text += format!("  {key:<11}{value}").trim_end();
            text.push('\n');
        }
        text
    })?;
    Ok(0)
}

fn create(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let name: CpuPoolName = required(matches, "pool")?;
    let cpus: CpuSet = required(matches, "cpus")?;
    let dry = matches.get_flag("dry-run");
    context.manager()?.create_cpu_pool(&name, &cpus, dry)?;
    context.done(&match dry {
        true => format!("would make pool of CPUs {name} of {cpus}"),
        false => format!("pool of CPUs {name} is made of {cpus}"),
    })?;
    Ok(0)
}

fn set(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let name: CpuPoolName = required(matches, "pool")?;
    let cpus: CpuSet = required(matches, "cpus")?;
    let dry = matches.get_flag("dry-run");
    context.manager()?.set_cpu_pool(&name, &cpus, dry)?;
    context.done(&match dry {
        true => format!("would give pool of CPUs {name} {cpus}"),
        false => format!("pool of CPUs {name} has {cpus}"),
    })?;
    Ok(0)
}

fn delete(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let name: CpuPoolName = required(matches, "pool")?;
    let dry = matches.get_flag("dry-run");
    context.manager()?.delete_cpu_pool(&name, dry)?;
    context.done(&match dry {
        true => format!("would remove pool of CPUs {name}"),
        false => format!("pool of CPUs {name} is removed"),
    })?;
    Ok(0)
}
