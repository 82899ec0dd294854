//! `delete` and `rename`.

use std::io::{BufRead, IsTerminal, Write};

use clap::{Arg, ArgMatches, value_parser};

use super::command::{Verb, dry_run, name, name_of, new_name, required, switch};
use super::context::Context;
use super::fault::{Fault, Result};
use super::many::{self, Work};
use super::order::Job;
use super::select;
use crate::guest::{GuestError, Manager};
use crate::model::{GuestName, Status, clock};

pub(super) const DELETE: Verb = Verb {
    name: "delete",
    about: "Remove guests with all their data",
    build: |command| {
        select::many(command)
            .arg(switch("force", "Kill those that run, and do not ask").short('f'))
            .arg(switch("yes", "Do not ask").short('y'))
            .arg(
                Arg::new("keep")
                    .long("keep")
                    .value_name("DAYS")
                    .value_parser(value_parser!(u32).range(0..=3650))
                    .help(
                        "Keep them in the trash for so long, 0 for not at all [default: trash.days \
                         of bulkhead.toml, or 0]",
                    ),
            )
    },
    run: delete,
    hidden: false,
};

pub(super) const RENAME: Verb = Verb {
    name: "rename",
    about: "Give a stopped guest another name; address, ids and data stay",
    build: |command| {
        command
            .arg(name())
            .arg(new_name("Its new name"))
            .arg(dry_run())
    },
    run: rename,
    hidden: false,
};

fn delete(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let force = matches.get_flag("force");
    let names = select::chosen(context, matches)?;
    if !(force || matches.get_flag("yes") || matches.get_flag("dry-run") || names.is_empty()) {
        may_go_on(&names, matches.contains_id("names"))?;
    }
    let mut arguments = vec!["delete".to_owned(), "--yes".to_owned()];
    if force {
        arguments.push("--force".to_owned());
    }
    let keep = matches.get_one::<u32>("keep").copied();
    if let Some(days) = keep {
        arguments.push(format!("--keep={days}"));
    }
    let act = |manager: &Manager, name: &GuestName| {
        let days = keep.unwrap_or(manager.settings.trash_days);
        Ok(match manager.delete(name, force, days)? {
            None => "deleted".to_owned(),
            Some(until) => format!("deleted; kept in the trash until {}", clock::time(until)),
        })
    };
    let preview = |manager: &Manager, name: &GuestName| {
        manager.check_unprotected(name)?;
        let status = manager.status(name)?;
        let idle = matches!(status, Status::Stopped | Status::Creating | Status::Broken);
        if !idle && !force {
            return Err(Fault::from(GuestError::WrongState {
                verb: "delete",
                name: name.clone(),
                status,
                advice: Some("stop it first, or say --force"),
            }));
        }
        Ok(format!("would delete; it is {status}"))
    };
    let work = Work {
        arguments,
        act: &act,
        preview: &preview,
    };
    many::run(context, matches, Job::plain(names), &work)
}

/// Asks whoever sits at a terminal. Where nobody does, guests that were named are meant.
fn may_go_on(names: &[GuestName], named: bool) -> Result<()> {
    let asked = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if !asked {
        return if named {
            Ok(())
        } else {
            Err(Fault::usage(
                "deleting guests that are not named needs --yes or --force",
            ))
        };
    }
    let names: Vec<&str> = names.iter().map(GuestName::as_str).collect();
    let question = format!("Delete {} with all data? [y/N] ", names.join(", "));
    if confirmed(&question) {
        Ok(())
    } else {
        Err(Fault::new(super::fault::FAILED, "nothing is deleted"))
    }
}

/// Whether the answer is yes.
pub(super) fn confirmed(question: &str) -> bool {
    let mut stderr = std::io::stderr().lock();
    let _closed = stderr.write_all(question.as_bytes());
    let _closed = stderr.flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

fn rename(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let (from, to): (GuestName, GuestName) = (name_of(matches)?, required(matches, "to")?);
    let manager = context.manager()?;
    if matches.get_flag("dry-run") {
        let status = manager.status(&from)?;
        if status != Status::Stopped {
            return Err(Fault::from(GuestError::WrongState {
                verb: "rename",
                name: from,
                status,
                advice: Some("stop it first"),
            }));
        }
        if manager.status(&to).is_ok() {
            return Err(GuestError::Exists(to).into());
        }
        context.done(&format!("{from}: would be renamed to {to}"))?;
        return Ok(0);
    }
    manager.rename(&from, &to)?;
    context.done(&format!("{from}: renamed to {to}"))?;
    Ok(0)
}
