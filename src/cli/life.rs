//! `start`, `stop`, `restart`, `kill`, `pause`, `resume`: what changes whether guests run.

use std::time::Duration;

use clap::{Arg, ArgMatches};

use super::command::{Verb, switch};
use super::context::Context;
use super::fault::{Fault, Result, STATE};
use super::many::{self, Work};
use super::order::{self, Candidate, Job};
use super::select;
use crate::guest::Manager;
use crate::guest::stop::Outcome;
use crate::guest::undo::UndoMode;
use crate::kernel::process::signal_number;
use crate::model::clock;
use crate::model::{GuestName, Status};

pub(super) const START: Verb = Verb {
    name: "start",
    about: "Start guests",
    build: |command| {
        select::many(command)
            .arg(
                switch(
                    "autostart",
                    "Only guests with autostart.enabled; what a boot starts",
                )
                .conflicts_with("names"),
            )
            .mut_group("which", |which| which.arg("autostart"))
            .arg(switch(
                "force",
                "Start even if the host has no room for what they are guaranteed",
            ))
            .arg(
                Arg::new("undo")
                    .long("undo")
                    .value_name("WHEN")
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("drop")
                    .value_parser(["drop", "later"])
                    .hide_possible_values(true)
                    .help(
                        "Let all be undone that they write: drop, at their end; later, when `bulkhead \
                         undo` says so, and until then they can be started again with it [without \
                         WHEN: drop]",
                    ),
            )
            .after_help(
                "Several guests chosen by --all, --select or --autostart start by \
                 autostart.priority, higher first, each after the guests that autostart.after \
                 names; those that run already are passed over.",
            )
    },
    run: start,
    hidden: false,
};

pub(super) const STOP: Verb = Verb {
    name: "stop",
    about: "Shut guests down: their init's own signal, then, when the time is up, a kill",
    build: |command| select::many(command).arg(timeout()),
    run: |context, matches| {
        let limit = limit(matches);
        let act = |manager: &Manager, name: &GuestName| {
            // What a stop is for comes first, whether there is a keeper or not.
            let _kept = manager.ensure_keeper(name);
            Ok(outcome(manager.stop(name, limit)?))
        };
        each(context, matches, "stop", &act)
    },
    hidden: false,
};

pub(super) const RESTART: Verb = Verb {
    name: "restart",
    about: "Stop guests and start them again",
    build: |command| select::many(command).arg(timeout()),
    run: |context, matches| {
        let limit = limit(matches);
        let act = |manager: &Manager, name: &GuestName| {
            let started = manager.restart(name, limit)?;
            Ok(format!("restarted, process {}", started.pid))
        };
        each(context, matches, "restart", &act)
    },
    hidden: false,
};

pub(super) const KILL: Verb = Verb {
    name: "kill",
    about: "Kill guests at once, or send a signal to their init",
    build: |command| {
        select::many(command).arg(
            Arg::new("signal")
                .short('s')
                .long("signal")
                .value_name("SIGNAL")
                .value_parser(signal)
                .help("Send only this signal, such as HUP or RTMIN+3, and only to the init"),
        )
    },
    run: |context, matches| {
        let signal = matches.get_one::<i32>("signal").copied();
        let act = |manager: &Manager, name: &GuestName| {
            let done = manager.kill(name, signal)?;
            Ok(match signal {
                Some(signal) if done != Outcome::Already => format!("signal {signal} sent"),
                _ => outcome(done),
            })
        };
        each(context, matches, "kill", &act)
    },
    hidden: false,
};

pub(super) const PAUSE: Verb = Verb {
    name: "pause",
    about: "Freeze every process of guests",
    build: select::many,
    run: |context, matches| {
        let act = |manager: &Manager, name: &GuestName| {
            let _kept = manager.ensure_keeper(name);
            let done = manager.pause(name)?;
            Ok(if done { "paused" } else { "was paused" }.to_owned())
        };
        each(context, matches, "pause", &act)
    },
    hidden: false,
};

pub(super) const RESUME: Verb = Verb {
    name: "resume",
    about: "Let frozen guests go on",
    build: select::many,
    run: |context, matches| {
        let act = |manager: &Manager, name: &GuestName| {
            let done = manager.resume(name)?;
            let _kept = manager.ensure_keeper(name);
            Ok(if done { "resumed" } else { "was not paused" }.to_owned())
        };
        each(context, matches, "resume", &act)
    },
    hidden: false,
};

fn timeout() -> Arg {
    Arg::new("timeout")
        .short('t')
        .long("timeout")
        .value_name("TIME")
        .value_parser(clock::duration)
        .help("Time to shut down before the kill: 30s, 2m [default: the guest's init.stop_timeout]")
}

fn limit(matches: &ArgMatches) -> Option<Duration> {
    matches.get_one::<Duration>("timeout").copied()
}

fn signal(text: &str) -> std::result::Result<i32, String> {
    signal_number(text).ok_or_else(|| "write a signal such as TERM, SIGHUP, RTMIN+3 or 9".into())
}

fn outcome(outcome: Outcome) -> String {
    match outcome {
        Outcome::Already => "was not running",
        Outcome::ShutDown => "stopped",
        Outcome::Killed => "killed",
    }
    .to_owned()
}

/// A verb that has no order of its own.
fn each(
    context: &Context,
    matches: &ArgMatches,
    verb: &str,
    act: &dyn Fn(&Manager, &GuestName) -> Result<String>,
) -> Result<u8> {
    let jobs = Job::plain(select::chosen(context, matches)?);
    let mut arguments = vec![verb.to_owned()];
    if let Ok(Some(limit)) = matches.try_get_one::<Duration>("timeout") {
        arguments.push(format!("--timeout={}ms", limit.as_millis()));
    }
    if let Ok(Some(signal)) = matches.try_get_one::<i32>("signal") {
        arguments.push(format!("--signal={signal}"));
    }
    let preview = |manager: &Manager, name: &GuestName| {
        let status = manager.status(name)?;
        Ok(format!("would {verb}; it is {status}"))
    };
    let work = Work {
        arguments,
        act,
        preview: &preview,
    };
    many::run(context, matches, jobs, &work)
}

fn start(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let jobs = start_jobs(context, matches)?;
    let force = matches.get_flag("force");
    let given = matches.get_one::<String>("undo");
    let undo = given.map(|when| match when.as_str() {
        "later" => UndoMode::Later,
        _ => UndoMode::Drop,
    });
    let act = |manager: &Manager, name: &GuestName| {
        let started = manager.start_so(name, force, undo);
        let started = started.map_err(Fault::from);
        if started.as_ref().is_err_and(|fault| fault.code == STATE) {
            // It runs already, perhaps without its keeper.
            let _kept = manager.ensure_keeper(name);
        }
        Ok(format!("started, process {}", started?.pid))
    };
    let preview = |manager: &Manager, name: &GuestName| {
        let status = manager.status(name)?;
        if status == Status::Stopped {
            manager.plan(name)?;
            if !force {
                manager.check_room(name)?;
            }
        }
        Ok(format!("would start; it is {status}"))
    };
    let work = Work {
        arguments: std::iter::once("start")
            .chain(force.then_some("--force"))
            .map(str::to_owned)
            .chain(given.map(|when| format!("--undo={when}")))
            .collect(),
        act: &act,
        preview: &preview,
    };
    many::run(context, matches, jobs, &work)
}

/// The guests named, as they are named; or those chosen that do not run, in order.
fn start_jobs(context: &Context, matches: &ArgMatches) -> Result<Vec<Job>> {
    let chosen = select::chosen(context, matches)?;
    if matches.contains_id("names") {
        return Ok(Job::plain(chosen));
    }
    let manager = context.manager()?;
    let mut candidates = Vec::new();
    for name in chosen {
        if manager.status(&name)? != Status::Stopped {
            continue;
        }
        // A guest that cannot be read is not started by a boot; named among all, it says why.
        let autostart = manager.guest(&name).map(|guest| guest.autostart);
        match autostart {
            Ok(rule) if rule.enabled || !matches.get_flag("autostart") => {
                candidates.push(Candidate {
                    name,
                    priority: rule.priority,
                    after: rule.after,
                });
            }
            Ok(_) => {}
            Err(_) => candidates.push(Candidate {
                name,
                priority: 0,
                after: Vec::new(),
            }),
        }
    }
    let (jobs, cut) = order::order(candidates);
    for name in cut {
        context.say(&format!(
            "note: autostart.after of guest {name} is part of a circle; it does not wait"
        ));
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    #[test]
    fn start_needs_to_know_which() {
        let parse = |words: &[&str]| {
            let command = (START.build)(Command::new("start"));
            command.try_get_matches_from(words).is_ok()
        };
        assert!(!parse(&["start"]));
        assert!(!parse(&["start", "--all", "web"]));
        for good in [
            &["start", "web", "db"][..],
            &["start", "--all"],
            &["start", "--autostart"],
        ] {
            assert!(parse(good), "{good:?}");
        }
    }

    #[test]
    fn signals_are_checked_before_anything_is_done() {
        assert_eq!(signal("HUP"), Ok(1));
        assert!(signal("NOPE").is_err());
    }
}
