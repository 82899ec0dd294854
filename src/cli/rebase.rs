//! `rebase`: guests moved on to the newest image of what they are made from, or to another one.

use std::cell::RefCell;
use std::time::Duration;

use clap::{Arg, ArgMatches, value_parser};
use serde::Serialize;

use super::command::{Verb, required, switch};
use super::context::Context;
use super::fault::{Fault, Result};
use super::many::{self, Work};
use super::order::Job;
use super::reinstall::{keep_old, kept_old};
use super::render::{Cell, Tone, safe};
use super::select;
use crate::guest::Manager;
use crate::guest::rebase::{Bases, Rebased};
use crate::kernel::interrupt;
use crate::model::{GuestName, ImageName, Status, clock};
use crate::storage::{ChangeKind, Hidden, Own};

/// Most files that are named when it is done; `--dry-run` names all.
const NAMED: usize = 10;

pub(super) const REBASE: Verb = Verb {
    name: "rebase",
    about: "Put guests' own files over the newest image of what they are made from, or over another",
    build: |command| {
        select::many(command)
            .arg(
                Arg::new("image")
                    .long("image")
                    .value_name("IMAGE")
                    .value_parser(value_parser!(ImageName))
                    .help("Another image, from now on in the definition too"),
            )
            .arg(
                Arg::new("canary")
                    .long("canary")
                    .value_name("N")
                    .value_parser(value_parser!(u32).range(1..))
                    .help("Begin with N of them; the others follow when all of those went well"),
            )
            .arg(switch(
                "restart",
                "Those that run too: stop, rebase, start; one that does not come up goes back",
            ))
            .arg(
                Arg::new("timeout")
                    .short('t')
                    .long("timeout")
                    .value_name("TIME")
                    .value_parser(clock::duration)
                    .default_value("2m")
                    .requires("restart")
                    .help("Time to come up"),
            )
            .arg(
                keep_old("forever")
                    .help("How long what they were stays as a snapshot, such as 30d, or `forever`"),
            )
            .arg(
                switch("rollback", "Back to what they were before their last rebase")
                    .conflicts_with_all(["image", "restart"]),
            )
            .after_help(
                "What a guest was is kept as a snapshot, and the image before as long as that; with \
                 `--keep-old TIME` `snapshot run`, which a timer calls, removes it. `--dry-run` lists which changes of the image \
                 it would not see, because it has files of its own there.\n\n\
                 Examples:\n  bulkhead image update debian:trixie\n  \
                 bulkhead rebase --all --restart --canary 1\n  bulkhead rebase web --dry-run",
            )
    },
    run: rebase,
    hidden: false,
};

fn rebase(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let chosen = select::chosen(context, matches)?;
    if matches.get_flag("rollback") {
        return back(context, matches, chosen);
    }
    let image = matches.get_one::<ImageName>("image");
    if matches.get_flag("dry-run") {
        return preview(context, &chosen, image);
    }
    let (restart, limit) = (
        matches.get_flag("restart"),
        required::<Duration>(matches, "timeout")?,
    );
    let keep_old = kept_old(matches);
    let bases = RefCell::new(Bases::default());
    let act = |manager: &Manager, name: &GuestName| {
        let mut bases = bases.borrow_mut();
        let runs = restart && manager.status(name)? == Status::Running;
        let done = match runs {
            true => manager.rebase_running(name, image, &mut bases, (limit, keep_old))?,
            false => manager.rebase(name, image, &mut bases, keep_old)?,
        };
        Ok(match done {
            None => "lies over that base already".to_owned(),
            Some(done) => in_words(context, name, &done),
        })
    };
    let mut arguments = vec!["rebase".to_owned()];
    arguments.extend(image.map(|image| format!("--image={image}")));
    if restart {
        arguments.extend([
            "--restart".into(),
            format!("--timeout={}ms", limit.as_millis()),
        ]);
    }
    arguments.extend(keep_old.map(|time| format!("--keep-old={}s", time.as_secs())));
    let work = Work {
        arguments,
        act: &act,
        preview: &act,
    };
    let canaries = matches.get_one::<u32>("canary").copied().unwrap_or(0);
    let ordered = match canaries {
        0 => chosen,
        _ => tried_first(chosen, |name| {
            let manager = context.manager().ok()?;
            let moves = manager.is_to_move(name, image, &mut bases.borrow_mut());
            moves.ok()?.then_some(())?;
            manager.status(name).ok()
        }),
    };
    many::run(context, matches, jobs(ordered, canaries), &work)
}

/// Guests in the order in which they tell most: those that run and are to be moved, those that are to
/// be moved, those of which nothing is known. `to_move` says what one is doing that is to be moved.
fn tried_first(
    mut names: Vec<GuestName>,
    to_move: impl Fn(&GuestName) -> Option<Status>,
) -> Vec<GuestName> {
    names.sort_by_cached_key(|name| match to_move(name) {
        Some(Status::Running) => 0,
        Some(_) => 1,
        None => 2,
    });
    names
}

/// Guests in this order, those behind the first few only when all of these went well.
fn jobs(names: Vec<GuestName>, canaries: u32) -> Vec<Job> {
    let first = usize::try_from(canaries).unwrap_or(usize::MAX);
    let before: Vec<GuestName> = names.iter().take(first).cloned().collect();
    let mut all = Job::plain(names);
    for job in all.iter_mut().skip(first) {
        job.after.clone_from(&before);
    }
    all
}

fn in_words(context: &Context, name: &GuestName, done: &Rebased) -> String {
    for one in done.hidden.iter().take(NAMED) {
        let path = safe(&one.path);
        context.say(&format!("{name}: {path}: {}", why(one)));
    }
    if done.hidden.len() > NAMED {
        let more = done.hidden.len() - NAMED;
        context.say(&format!("{name}: and {more} more"));
    }
    format!(
        "moved from base {:.12} to {:.12}; of {} changes it does not see {}",
        done.from,
        done.to,
        done.changes,
        done.hidden.len()
    )
}

/// Why a guest does not see what an image did to a file.
fn why(hidden: &Hidden) -> String {
    let base = match hidden.base {
        ChangeKind::Added => "new in the image",
        ChangeKind::Removed => "removed from the image",
        ChangeKind::Changed => "changed in the image",
        ChangeKind::Meta => "owner, mode or attributes changed in the image",
    };
    let own = match hidden.own {
        Own::File => "the guest has its own",
        Own::Removed => "the guest removed it",
        Own::Folder => "the guest has its own folder",
    };
    format!("{base}, but {own}")
}

/// A change of the image that a guest would not see.
#[derive(Serialize)]
struct Row {
    guest: String,
    #[serde(flatten)]
    hidden: Hidden,
}

fn preview(context: &Context, names: &[GuestName], image: Option<&ImageName>) -> Result<u8> {
    let manager = context.manager()?;
    let (mut bases, mut rows, mut code) = (Bases::default(), Vec::new(), 0);
    interrupt::catch()?;
    for name in names {
        match manager.check_rebase(name, image, &mut bases) {
            Ok(None) => context.say(&format!("{name}: lies over that base already")),
            Ok(Some(would)) => {
                context.say(&format!(
                    "{name}: would move from base {:.12} to {:.12}; of {} changes it would not see {}",
                    would.from,
                    would.to,
                    would.changes,
                    would.hidden.len()
                ));
                rows.extend(would.hidden.into_iter().map(|hidden| Row {
                    guest: name.to_string(),
                    hidden,
                }));
            }
            Err(error) => {
                let fault = Fault::from(error).or_interrupted();
                fault.print();
                code = code.max(fault.code);
            }
        }
    }
    context.list(&rows, &["GUEST", "PATH", "WHY"], |row| {
        vec![
            Cell::from(row.guest.as_str()),
            Cell::from(row.hidden.path.as_str()),
            Cell::new(&why(&row.hidden), Tone::Odd),
        ]
    })?;
    Ok(code)
}

fn back(context: &Context, matches: &ArgMatches, chosen: Vec<GuestName>) -> Result<u8> {
    let act = |manager: &Manager, name: &GuestName| {
        let (snapshot, kept) = manager.rebase_back(name)?;
        Ok(format!(
            "back to snapshot {snapshot}; what it was until now is snapshot {kept}"
        ))
    };
    let preview = |manager: &Manager, name: &GuestName| {
        let snapshot = manager.base_before(name)?.name;
        Ok(format!("would go back to snapshot {snapshot}"))
    };
    let work = Work {
        arguments: vec!["rebase".into(), "--rollback".into()],
        act: &act,
        preview: &preview,
    };
    let canaries = matches.get_one::<u32>("canary").copied().unwrap_or(0);
    many::run(context, matches, jobs(chosen, canaries), &work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_wait_for_the_canaries() {
        let names = |list: &str| -> Vec<GuestName> {
            list.split_whitespace()
                .map(|name| name.parse().unwrap())
                .collect()
        };
        let all = jobs(names("a b c d"), 2);
        assert!(all[0].after.is_empty() && all[1].after.is_empty());
        assert_eq!(all[2].after, names("a b"));
        assert_eq!(all[3].after, names("a b"));
        assert!(jobs(names("a b"), 0).iter().all(|job| job.after.is_empty()));
        let first = tried_first(names("a b c d"), |name| match name.as_str() {
            "b" => Some(Status::Stopped),
            "c" => Some(Status::Running),
            _ => None,
        });
        assert_eq!(first, names("c b a d"));
    }
}
