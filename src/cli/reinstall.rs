//! `reinstall`: a fresh root for a guest that stays who it is.

use std::io::IsTerminal;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches};

use super::command::{Verb, dry_run, name, name_of, switch};
use super::context::Context;
use super::delete::confirmed;
use super::fault::{FAILED, Fault, Result};
use super::progress::Teller;
use super::settings;
use crate::guest::reinstall::ReinstallWish;
use crate::kernel::interrupt;
use crate::model::{GuestName, clock};

pub(super) const REINSTALL: Verb = Verb {
    name: "reinstall",
    about: "Give a stopped guest a fresh root; name, address, limits and SSH host keys stay",
    build: |command| {
        command
            .arg(name())
            .arg(keep())
            .arg(keep_old("7d").help("How long the root before stays as a snapshot, such as 30d, or `forever`"))
            .arg(switch("yes", "Do not ask").short('y'))
            .arg(dry_run())
            .args(settings::origin_flags().map(another))
            .after_help(
                "The root before is kept as a snapshot; `snapshot run`, which a timer calls, and `trash \
                 empty --expired` remove it when it has had its time.\n\n\
                 Examples:\n  bulkhead reinstall web --keep /var/www --keep /home\n  \
                 bulkhead reinstall web --template debian --option suite=trixie",
            )
    },
    run: reinstall,
    hidden: false,
};

fn reinstall(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let (name, manager) = (name_of(matches)?, context.manager()?);
    let wish = ReinstallWish {
        changes: settings::changes(matches)?,
        keep: paths_to_keep(matches)?,
        keep_old: kept_old(matches),
    };
    let planned = manager.check_reinstall(&name, &wish)?;
    if matches.get_flag("dry-run") {
        context.done(&format!(
            "{name}: would get a fresh root from {}; the one it has would be kept as a snapshot{}",
            planned.guest.origin,
            until(planned.until_ms)
        ))?;
        return Ok(0);
    }
    if !matches.get_flag("yes") {
        may_go_on(&name)?;
    }
    interrupt::catch()?;
    let mut teller = Teller::new(context.quiet);
    let done = manager.reinstall(&name, &wish, &mut |step| teller.tell(step));
    drop(teller);
    let done = done.map_err(|error| Fault::from(error).or_interrupted())?;
    let definition = match wish.changes.is_empty() {
        true => "",
        false => " --definition",
    };
    context.done(&format!(
        "{name}: reinstalled from {}; `bulkhead snapshot restore {name} {}{definition}` brings its \
         root before back{}",
        done.guest.origin,
        done.snapshot,
        until(done.until_ms)
    ))?;
    Ok(0)
}

/// `--keep`.
pub(super) fn keep() -> Arg {
    Arg::new("keep")
        .long("keep")
        .value_name("PATH")
        .action(ArgAction::Append)
        .help("File or folder inside the guest that it keeps; may be said again")
}

/// `--keep-old`.
pub(super) fn keep_old(usual: &'static str) -> Arg {
    Arg::new("keep-old")
        .long("keep-old")
        .value_name("TIME")
        .default_value(usual)
        .value_parser(kept_for)
}

/// What it says; `None` for ever.
pub(super) fn kept_old(matches: &ArgMatches) -> Option<Duration> {
    matches.get_one::<KeptFor>("keep-old").and_then(|one| one.0)
}

/// What it says.
pub(super) fn paths_to_keep(matches: &ArgMatches) -> Result<Vec<String>> {
    let paths = matches.get_many::<String>("keep").into_iter().flatten();
    paths.map(|path| kept(path)).collect()
}

/// Without it the definition goes on saying what the guest is made from.
fn another(flag: Arg) -> Arg {
    let flag = flag.help_heading("Made from something else");
    match flag.get_id().as_str() {
        "template" => flag.help(
            "Recipe of the root filesystem; `bulkhead template list` names them [default: what its \
             definition says]",
        ),
        _ => flag,
    }
}

/// How long a root before is kept; `None` for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KeptFor(Option<Duration>);

fn kept_for(text: &str) -> std::result::Result<KeptFor, String> {
    if text == "forever" {
        return Ok(KeptFor(None));
    }
    let span = Duration::from_secs(60)..=Duration::from_secs(3650 * 86_400);
    let fits = clock::duration(text)
        .ok()
        .filter(|time| span.contains(time));
    let wrong = || "write a time from 1m to 3650d, such as 7d, or `forever`".to_owned();
    fits.map(|time| KeptFor(Some(time))).ok_or_else(wrong)
}

/// Until when, in words.
fn until(until_ms: Option<u64>) -> String {
    until_ms.map_or_else(String::new, |until| {
        format!(" until {}", clock::time(until))
    })
}

/// A path inside a guest: absolute, without a way up.
fn kept(path: &str) -> Result<String> {
    let plain = path.trim_end_matches('/');
    let up = plain.split('/').any(|part| part == "..");
    match plain.starts_with('/') && !up {
        true => Ok(plain.to_owned()),
        false => Err(Fault::usage(format!(
            "--keep {path}: write an absolute path inside the guest, such as /var/www"
        ))),
    }
}

/// Asks whoever sits at a terminal.
fn may_go_on(name: &GuestName) -> Result<()> {
    let asked = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let question = format!("Give {name} a fresh root? Its own becomes a snapshot. [y/N] ");
    match !asked || confirmed(&question) {
        true => Ok(()),
        false => Err(Fault::new(FAILED, "nothing is changed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_root_is_kept() {
        let days = |n: u64| Ok(KeptFor(Some(Duration::from_secs(n * 86_400))));
        assert_eq!(kept_for("7d"), days(7));
        assert_eq!(kept_for("forever"), Ok(KeptFor(None)));
        for wrong in ["", "0", "-1d", "30s", "4000d", "ever", "7 days", "1e99d"] {
            assert!(kept_for(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn paths_to_keep_are_absolute() {
        assert_eq!(kept("/var/www/").unwrap(), "/var/www");
        for wrong in ["", "/", "var", "/a/../b", ".."] {
            assert!(kept(wrong).is_err(), "{wrong:?}");
        }
    }
}
