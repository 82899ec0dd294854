//! `trash`: deleted guests that can be brought back.

use clap::{Arg, ArgMatches, Command, value_parser};

use super::command::{Verb, dry_run, name, name_of, switch};
use super::context::Context;
use super::delete::confirmed;
use super::fault::{FAILED, Fault, Result};
use super::render::{Cell, safe};
use crate::guest::GuestError;
use crate::guest::trash::InTrash;
use crate::model::{GuestName, clock};

pub(super) const TRASH: Verb = Verb {
    name: "trash",
    about: "Bring deleted guests back that are kept for some days",
    build: |command| {
        command
            .subcommand_required(true)
            .subcommand(Command::new("list").about("List deleted guests that are kept"))
            .subcommand(
                Command::new("restore")
                    .about("Bring a guest back, stopped")
                    .arg(
                        name().help("Name it had (the one deleted last), or its name in the trash"),
                    )
                    .arg(
                        Arg::new("as")
                            .long("as")
                            .value_name("NEW")
                            .value_parser(value_parser!(GuestName))
                            .help("Another name [default: the one it had]"),
                    )
                    .arg(dry_run()),
            )
            .subcommand(
                Command::new("empty")
                    .about("Remove what is in the trash for good")
                    .arg(switch(
                        "expired",
                        "Only what has been kept for its time; roots from before `reinstall` too",
                    ))
                    .arg(switch("yes", "Do not ask").short('y'))
                    .arg(dry_run()),
            )
            .after_help(
                "`bulkhead delete --keep DAYS` puts a guest here; so does every delete where \
                 bulkhead.toml says [trash] days.",
            )
    },
    run: |context, matches| match matches.subcommand() {
        Some(("restore", matches)) => restore(context, matches),
        Some(("empty", matches)) => empty(context, matches),
        Some((_, _)) => list(context),
        None => Err(Fault::usage("say what to do with the trash")),
    },
    hidden: false,
};

fn list(context: &Context) -> Result<u8> {
    let all = context.manager()?.trash()?;
    let headings = ["NAME", "DELETED", "KEPT UNTIL", "ID"];
    context.list(&all, &headings, |one: &InTrash| {
        vec![
            Cell::from(one.trashed.name.as_str()),
            Cell::from(clock::time(one.trashed.deleted_ms)),
            Cell::from(clock::time(one.trashed.until_ms)),
            Cell::from(one.id.as_str()),
        ]
    })?;
    Ok(0)
}

fn restore(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let (name, manager) = (name_of(matches)?, context.manager()?);
    let new = matches.get_one::<GuestName>("as");
    if matches.get_flag("dry-run") {
        let found = manager.find_in_trash(&name)?;
        let to = new.unwrap_or(&found.trashed.name);
        if manager.status(to).is_ok() {
            return Err(GuestError::Exists(to.clone()).into());
        }
        context.done(&format!("{to}: would be brought back"))?;
        return Ok(0);
    }
    let name = manager.bring_back(&name, new)?;
    context.done(&format!("{name}: brought back"))?;
    Ok(0)
}

fn empty(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let manager = context.manager()?;
    let expired = matches.get_flag("expired");
    if matches.get_flag("dry-run") {
        for one in manager.trash()? {
            if !expired || one.is_expired() {
                context.done(&format!("{}: would be removed", one.trashed.name))?;
            }
        }
        for name in manager.names()?.iter().filter(|_| expired) {
            for one in manager.outlived(name)? {
                context.done(&format!(
                    "{name}: snapshot {} would be removed",
                    safe(&one.name)
                ))?;
            }
        }
        return Ok(0);
    }
    let asks = std::io::IsTerminal::is_terminal(&std::io::stdin());
    if asks
        && !(expired || matches.get_flag("yes"))
        && !confirmed("Remove all that is in the trash? [y/N] ")
    {
        return Err(Fault::new(FAILED, "nothing is removed"));
    }
    for one in manager.empty_trash(expired)? {
        context.done(&format!("{}: removed", one.trashed.name))?;
    }
    match expired {
        true => drop_outlived(context),
        false => Ok(0),
    }
}

/// Snapshots that have been kept for their time; what of one guest's cannot be removed keeps no other's.
fn drop_outlived(context: &Context) -> Result<u8> {
    let (manager, mut code) = (context.manager()?, 0);
    for name in manager.names()? {
        match manager.drop_outlived(&name) {
            Ok(gone) => {
                for one in gone {
                    context.done(&format!("{name}: snapshot {} is removed", safe(&one)))?;
                }
            }
            // Deleted, or half-made.
            Err(GuestError::Missing { .. }) => {}
            Err(error) => {
                let fault = Fault::from(error);
                fault.print();
                code = code.max(fault.code);
            }
        }
    }
    Ok(code)
}
