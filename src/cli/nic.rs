//! `nic`: interfaces of guests beyond the first, plugged into those that run and out of them.

use clap::{Arg, ArgMatches, Command};

use super::command::{Verb, dry_run, name, name_of, required};
use super::context::Context;
use super::fault::{Fault, Result};
use super::render::{Cell, safe};
use crate::define::{Change, Key, KeyPath};
use crate::guest::nics::NicView;
use crate::model::{GuestName, NicName};

/// The setting that these commands change.
const KEY: &str = "network.nic";

pub(super) const NIC: Verb = Verb {
    name: "nic",
    about: "Give guests further interfaces, also while they run",
    build: |command| {
        command
            .subcommand_required(true)
            .subcommand(
                Command::new("add")
                    .about("Give a guest another interface; one that runs has it at once")
                    .arg(name())
                    .arg(
                        Arg::new("interface")
                            .value_name("NAME=NETWORK[,KEY=VALUE]")
                            .required(true)
                            .help("Its name inside, its network, and what else is said of it, such as lan=db,address=10.9.0.5,rate_in=10mbit"),
                    )
                    .arg(dry_run()),
            )
            .subcommand(
                Command::new("list")
                    .about("List a guest's interfaces")
                    .arg(name()),
            )
            .subcommand(
                Command::new("remove")
                    .about("Take an interface from a guest; from one that runs at once")
                    .arg(name())
                    .arg(
                        Arg::new("interface")
                            .value_name("NAME")
                            .required(true)
                            .help("Its name inside"),
                    )
                    .arg(dry_run()),
            )
    },
    run: |context, matches| match matches.subcommand() {
        Some(("add", matches)) => add(context, matches),
        Some(("remove", matches)) => remove(context, matches),
        Some((_, matches)) => list(context, matches),
        None => Err(Fault::usage("say what to do with interfaces")),
    },
    hidden: false,
};

fn add(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let manager = context.manager()?;
    let guest = name_of(matches)?;
    let text: String = required(matches, "interface")?;
    let changes = key()?
        .changes(&[&text])
        .map_err(|error| Fault::usage(error.to_string()))?;
    let nic = changes.first().and_then(|(path, _)| path.item.clone());
    let nic = nic.unwrap_or_default();
    let has = manager.guest(&guest)?.network.nics;
    if has.iter().any(|has| has.name.as_str() == nic) {
        return Err(Fault::usage(format!(
            "guest {guest} has an interface {nic} already: remove it first, or change it with `bulkhead set {guest} --nic {text}`"
        )));
    }
    change(
        context,
        &guest,
        matches,
        &changes,
        ("has", "interface", &nic),
    )
}

fn remove(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let manager = context.manager()?;
    let guest = name_of(matches)?;
    let text: String = required(matches, "interface")?;
    let has = manager.guest(&guest)?.network.nics;
    if !has.iter().any(|has| has.name.as_str() == text) {
        let known: Vec<&str> = has.iter().map(|nic| nic.name.as_str()).collect();
        return Err(Fault::usage(match known.is_empty() {
            true => {
                format!("guest {guest} has no further interface {text:?}: it has only its first")
            }
            false => format!(
                "guest {guest} has no further interface {text:?}; there are: {}",
                known.join(", ")
            ),
        }));
    }
    let nic: NicName = text
        .parse()
        .map_err(|error: crate::model::NicNameError| Fault::usage(error.to_string()))?;
    let path = KeyPath {
        key: key()?,
        item: Some(nic.to_string()),
    };
    let changes = [(path, Change::Unset)];
    change(
        context,
        &guest,
        matches,
        &changes,
        ("has", "no interface", nic.as_str()),
    )
}

/// Makes the change, and says what it did.
fn change(
    context: &Context,
    guest: &GuestName,
    matches: &ArgMatches,
    changes: &[(KeyPath, Change)],
    (verb, what, nic): (&str, &str, &str),
) -> Result<u8> {
    let dry = matches.get_flag("dry-run");
    context.manager()?.change(guest, changes, false, dry)?;
    context.done(&match dry {
        true => format!("guest {guest} would have {what} {nic}"),
        false => format!("guest {guest} {verb} {what} {nic}"),
    })?;
    Ok(0)
}

fn key() -> Result<&'static Key> {
    Key::find(KEY).ok_or_else(|| Fault::usage("there is no such setting"))
}

fn list(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let all = context.manager()?.nic_views(&name_of(matches)?)?;
    let heads = [
        "NAME", "NETWORK", "ADDRESS", "ADDRESS6", "MAC", "HOST", "PLUGGED",
    ];
    context.list(&all, &heads, |nic: &NicView| {
        let text = |value: Option<String>| Cell::from(value.unwrap_or_else(|| "-".to_owned()));
        vec![
            Cell::from(safe(&nic.name)),
            Cell::from(safe(&nic.network)),
            text(nic.address.map(|address| address.to_string())),
            text(nic.address6.map(|address| address.to_string())),
            text(nic.mac.clone()),
            text(nic.host_interface.clone()),
            Cell::from(if nic.plugged { "yes" } else { "no" }),
        ]
    })?;
    Ok(0)
}
