//! `tenant`: whose guests they are, and what those may use together.

use clap::{Arg, ArgMatches, Command, value_parser};

use super::command::{Verb, dry_run, required};
use super::context::Context;
use super::fault::{Fault, Result};
use super::render::Cell;
use crate::guest::GuestError;
use crate::guest::tenant_change::TenantView;
use crate::guest::view::bytes_text;
use crate::model::{Cpus, Resource, TenantCaps, TenantName};

pub(super) const TENANT: Verb = Verb {
    name: "tenant",
    about: "Make, list, change and delete tenants, whose guests share limits",
    build: |command| {
        command
            .subcommand_required(true)
            .subcommand(Command::new("list").about("List tenants and what their guests hold"))
            .subcommand(
                Command::new("info")
                    .alias("show")
                    .about("Show a tenant, its limits and its guests")
                    .arg(name()),
            )
            .subcommand(
                Command::new("create")
                    .about("Make a tenant")
                    .arg(name())
                    .args(caps())
                    .arg(dry_run()),
            )
            .subcommand(
                Command::new("set")
                    .about("Give a tenant other limits, at once for its running guests")
                    .arg(name())
                    .args(caps())
                    .arg(dry_run()),
            )
            .subcommand(
                Command::new("delete")
                    .about("Delete a tenant that no guest is of")
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
    Arg::new("tenant")
        .value_name("TENANT")
        .required(true)
        .value_parser(value_parser!(TenantName))
        .help("Name of the tenant")
}

fn caps() -> [Arg; 6] {
    let cap = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    [
        cap(
            "memory",
            "BYTES",
            "Most memory of all its guests together, or none [default: none]",
        ),
        cap(
            "cpus",
            "CPUS",
            "Most CPUs' time of all its guests together, or none [default: none]",
        ),
        cap(
            "processes",
            "COUNT",
            "Most processes and threads of all its guests together, or none [default: none]",
        ),
        cap(
            "io-weight",
            "WEIGHT",
            "Its share of block devices under contention, 1 to 10000, or none [default: none]",
        ),
        cap(
            "rate-in",
            "RATE",
            "Most that all its guests together receive, such as 100mbit, or none [default: none]",
        ),
        cap(
            "rate-out",
            "RATE",
            "Most that all its guests together send, such as 100mbit, or none [default: none]",
        ),
    ]
}

/// A limit that is given, or taken away by the word `none`; as it was if it is not there.
fn read<T: std::str::FromStr>(matches: &ArgMatches, name: &str, was: &mut Option<T>) -> Result<()>
where
    T::Err: std::fmt::Display,
{
    match matches.get_one::<String>(name).map(String::as_str) {
        None => {}
        Some("none") => *was = None,
        Some(text) => {
            let wrong = |error: T::Err| Fault::usage(format!("--{name}: {error}"));
            *was = Some(text.parse().map_err(wrong)?);
        }
    }
    Ok(())
}

fn wanted(matches: &ArgMatches, mut caps: TenantCaps) -> Result<TenantCaps> {
    read(matches, "memory", &mut caps.memory)?;
    read(matches, "cpus", &mut caps.cpus)?;
    read(matches, "processes", &mut caps.processes)?;
    read(matches, "io-weight", &mut caps.io_weight)?;
    read(matches, "rate-in", &mut caps.rate_in)?;
    read(matches, "rate-out", &mut caps.rate_out)?;
    Ok(caps)
}

fn or_none(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

/// `12M/1G`
fn of(held: Option<String>, limit: Option<impl ToString>) -> String {
    let held = held.unwrap_or_else(|| "-".to_owned());
    format!("{held}/{}", or_none(limit))
}

fn list(context: &Context) -> Result<u8> {
    let manager = context.manager()?;
    let names = manager.tenants()?;
    let (mut all, mut damaged) = (Vec::new(), None);
    for name in &names {
        match manager.tenant_view(name) {
            Ok(view) => all.push(view),
            // Deleted meanwhile.
            Err(GuestError::NoTenant { .. }) => {}
            // The others are shown all the same.
            Err(error) => damaged = damaged.or(Some(error)),
        }
    }
    let heads = ["NAME", "GUESTS", "RUNNING", "CPUS", "MEMORY", "PROCS"];
    context.list(&all, &heads, |view: &TenantView| {
        vec![
            Cell::from(view.name.as_str()),
            Cell::from(view.guests.len().to_string()),
            Cell::from(view.running.len().to_string()),
            Cell::from(or_none(view.caps.cpus)),
            Cell::from(of(view.memory_held.map(bytes_text), view.caps.memory)),
            Cell::from(of(
                view.processes_held.map(|n| n.to_string()),
                view.caps.processes,
            )),
        ]
    })?;
    match damaged {
        Some(error) => Err(error.into()),
        None => Ok(0),
    }
}

fn info(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let name: TenantName = required(matches, "tenant")?;
    let view = context.manager()?.tenant_view(&name)?;
    context.one(&view, |_| text(&view))?;
    Ok(0)
}

fn text(view: &TenantView) -> String {
    let names = |names: &[crate::model::GuestName]| match names {
        [] => "none".to_owned(),
        some => some
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    };
    let promised = u32::try_from(view.guaranteed.of(Resource::Cpus)).ok();
    let promised = promised.and_then(Cpus::from_hundredths);
    let memory = of(view.memory_held.map(bytes_text), view.caps.memory);
    let processes = view.processes_held.map(|n| n.to_string());
    let lines = [
        ("cpus", or_none(view.caps.cpus)),
        ("memory", memory),
        ("processes", of(processes, view.caps.processes)),
        ("io weight", or_none(view.caps.io_weight)),
        ("rate in", or_none(view.caps.rate_in)),
        ("rate out", or_none(view.caps.rate_out)),
        (
            "guaranteed",
            format!(
                "{} CPUs, {} of memory",
                promised.map_or_else(|| "0".to_owned(), |cpus| cpus.to_string()),
                bytes_text(view.guaranteed.memory)
            ),
        ),
        ("running", names(&view.running)),
        ("guests", names(&view.guests)),
    ];
    let lines = lines.map(|(what, text)| format!("  {what:<11}{text}\n"));
    format!("{}\n{}", view.name, lines.concat())
}

fn create(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let name: TenantName = required(matches, "tenant")?;
    let caps = wanted(matches, TenantCaps::default())?;
    let dry_run = matches.get_flag("dry-run");
    context.manager()?.create_tenant(&name, &caps, dry_run)?;
    told(context, dry_run, &name, ("would be made", "is made"))
}

fn set(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let name: TenantName = required(matches, "tenant")?;
    let flags = [
        "memory",
        "cpus",
        "processes",
        "io-weight",
        "rate-in",
        "rate-out",
    ];
    if !flags.iter().any(|flag| matches.contains_id(flag)) {
        return Err(Fault::usage(
            "nothing to set: say --memory, --cpus, --processes, --io-weight, --rate-in or --rate-out",
        ));
    }
    let manager = context.manager()?;
    // What is wrong with a word is told before anything is looked at.
    wanted(matches, TenantCaps::default())?;
    let change = |caps: TenantCaps| wanted(matches, caps).unwrap_or(caps);
    let dry_run = matches.get_flag("dry-run");
    manager.change_tenant(&name, change, dry_run)?;
    told(context, dry_run, &name, ("would be changed", "is changed"))
}

fn delete(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let name: TenantName = required(matches, "tenant")?;
    let dry_run = matches.get_flag("dry-run");
    context.manager()?.delete_tenant(&name, dry_run)?;
    told(context, dry_run, &name, ("would be deleted", "is deleted"))
}

fn told(context: &Context, dry: bool, name: &TenantName, words: (&str, &str)) -> Result<u8> {
    let done = if dry { words.0 } else { words.1 };
    context.done(&format!("tenant {name} {done}"))?;
    Ok(0)
}
