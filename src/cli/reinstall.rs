//! `reinstall`: a fresh root for a guest that stays who it is.

use std::io::IsTerminal;

use clap::{Arg, ArgAction, ArgMatches};

use super::command::{Verb, dry_run, name, name_of, switch};
use super::context::Context;
use super::delete::confirmed;
use super::fault::{FAILED, Fault, Result};
use super::progress::Teller;
use super::settings;
use crate::guest::reinstall::ReinstallWish;
use crate::kernel::interrupt;
use crate::model::GuestName;

pub(super) const REINSTALL: Verb = Verb {
    name: "reinstall",
    about: "Give a stopped guest a fresh root; name, address, limits and SSH host keys stay",
    build: |command| {
        command
            .arg(name())
            .arg(keep_flag())
            .arg(switch("yes", "Do not ask").short('y'))
            .arg(dry_run())
            .args(settings::origin_flags().map(another))
            .after_help(
                "The root before is kept as a snapshot.\n\n\
                 Examples:\n  bulkhead reinstall web --keep /var/www --keep /home\n  \
                 bulkhead reinstall web --template debian --option suite=trixie",
            )
    },
    run: reinstall,
    hidden: false,
};

/// The flag that names what stays.
pub(super) fn keep_flag() -> Arg {
    Arg::new("keep")
        .long("keep")
        .value_name("PATH")
        .action(ArgAction::Append)
        .help("File or folder inside the guest that it keeps; may be said again")
}

/// What it names.
pub(super) fn kept_paths(matches: &ArgMatches) -> Result<Vec<String>> {
    let paths = matches.get_many::<String>("keep").into_iter().flatten();
    paths.map(|path| kept(path)).collect()
}

fn reinstall(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let (name, manager) = (name_of(matches)?, context.manager()?);
    let wish = ReinstallWish {
        changes: settings::changes(matches)?,
        keep: kept_paths(matches)?,
    };
    let planned = manager.check_reinstall(&name, &wish)?;
    if matches.get_flag("dry-run") {
        context.done(&format!(
            "{name}: would get a fresh root from {}; the one it has would be kept as a snapshot",
            planned.guest.origin
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
         root before back",
        done.guest.origin, done.snapshot
    ))?;
    Ok(0)
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
    fn paths_to_keep_are_absolute() {
        assert_eq!(kept("/var/www/").unwrap(), "/var/www");
        for wrong in ["", "/", "var", "/a/../b", ".."] {
            assert!(kept(wrong).is_err(), "{wrong:?}");
        }
    }
}
