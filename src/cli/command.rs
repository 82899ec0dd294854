//! The one clap tree: parsing, help, completions and man pages come from it. A verb's own flags are
//! built only when that verb is asked for. What a verb does is in the verb's file.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::context::Context;
use super::fault::{Fault, Result};
use super::render::Format;
use super::{
    backup, bisect, capacity, change, cpupool, create, dedupe, delete, demo, doctor, enter, export,
    file, generate, goal, image, import, info, keeper, licenses, life, limits, list, logs, network,
    nic, plan, pool, profile, rebase, reinstall, rescue, serve, share, snapshot, template, tenant,
    top, traffic, trash, undo, usage, wait, why,
};
use crate::model::GuestName;

/// One verb.
pub(super) struct Verb {
    /// Its name.
    pub(super) name: &'static str,
    /// One line for the list of verbs.
    pub(super) about: &'static str,
    /// Adds its flags and long help.
    pub(super) build: fn(Command) -> Command,
    /// Does it; gives the exit code.
    pub(super) run: fn(&Context, &ArgMatches) -> Result<u8>,
    /// Whether people are not shown it.
    pub(super) hidden: bool,
}

/// All verbs, in the order in which people are shown them.
const VERBS: &[Verb] = &[
    create::CREATE,
    life::START,
    rescue::RESCUE,
    life::STOP,
    life::RESTART,
    life::KILL,
    life::PAUSE,
    life::RESUME,
    delete::DELETE,
    delete::RENAME,
    trash::TRASH,
    export::EXPORT,
    import::IMPORT,
    list::LIST,
    info::INFO,
    top::TOP,
    traffic::TRAFFIC,
    usage::USAGE,
    licenses::LICENSES,
    why::WHY,
    bisect::BISECT,
    limits::LIMITS,
    capacity::CAPACITY,
    enter::EXEC,
    enter::SHELL,
    enter::CONSOLE,
    file::FILE,
    logs::LOGS,
    logs::EVENTS,
    change::SET,
    change::GET,
    change::EDIT,
    snapshot::SNAPSHOT,
    snapshot::CLONE,
    undo::UNDO,
    reinstall::REINSTALL,
    rebase::REBASE,
    plan::PLAN,
    wait::WAIT,
    image::IMAGE,
    template::TEMPLATE,
    backup::BACKUP,
    pool::POOL,
    cpupool::CPUPOOL,
    dedupe::DEDUPE,
    network::NETWORK,
    share::ADDRSET,
    share::SECGROUP,
    nic::NIC,
    tenant::TENANT,
    goal::GOAL,
    serve::SERVE,
    profile::PROFILE,
    doctor::DOCTOR,
    generate::COMPLETIONS,
    generate::MAN,
    keeper::NEIGHBOURS,
    keeper::NETWORK_SERVER,
    demo::DEMO,
];

const CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 no such guest, 4 wrong state, 5 refused by a limit, a \
policy or the definition. On several guests the highest. `exec` and `shell` pass on the program's \
own code, or 125 when bulkhead failed, 126 when the program cannot be executed, 127 when it is not \
there, 124 when its time was up.";

/// The tree, for a program called `bulkhead` or `bh`.
pub(super) fn tree(called: &'static str) -> Command {
    tree_of(called, VERBS.iter())
}

/// The same without the verbs that people are not shown.
pub(super) fn shown_tree(called: &'static str) -> Command {
    tree_of(called, VERBS.iter().filter(|verb| !verb.hidden))
}

fn tree_of(called: &'static str, verbs: impl Iterator<Item = &'static Verb>) -> Command {
    let verbs = verbs.map(|verb| {
        Command::new(verb.name)
            .about(verb.about)
            .hide(verb.hidden)
            .defer(verb.build)
    });
    Command::new("bulkhead")
        .bin_name(called)
        .version(env!("CARGO_PKG_VERSION"))
        .about("Slices one Linux server into many guests on the one running kernel")
        .after_help(CODES)
        .max_term_width(100)
        .args(globals())
        .subcommands(verbs)
}

fn globals() -> [Arg; 3] {
    [
        Arg::new("root")
            .long("root")
            .value_name("DIR")
            .env("BULKHEAD_ROOT")
            .hide_env(true)
            .value_parser(value_parser!(PathBuf))
            .default_value("/")
            .hide_default_value(true)
            .help("Installation to work on: everything is kept below DIR [default: $BULKHEAD_ROOT, or /]"),
        Arg::new("format")
            .long("format")
            .value_name("FORMAT")
            .value_parser(value_parser!(Format))
            .default_value("table")
            .hide_default_value(true)
            .hide_possible_values(true)
            .help("How data is printed: table, json, yaml or csv [default: table]"),
        Arg::new("quiet")
            .short('q')
            .long("quiet")
            .action(ArgAction::SetTrue)
            .help("Print no messages but errors"),
    ]
    .map(|arg| arg.global(true).help_heading("Global options"))
}

/// Calls the verb that was asked for.
pub(super) fn dispatch(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let (name, matches) = matches.subcommand().unwrap_or(("", matches));
    match VERBS.iter().find(|verb| verb.name == name) {
        Some(verb) => (verb.run)(context, matches),
        None => Err(Fault::usage(format!("there is no verb {name:?}"))),
    }
}

/// The flag of everything that changes something.
pub(super) fn dry_run() -> Arg {
    switch("dry-run", "Say what would be done, change nothing")
}

/// The name of a guest that is not there yet.
pub(super) fn new_name(help: &'static str) -> Arg {
    Arg::new("to")
        .value_name("NEW")
        .required(true)
        .value_parser(value_parser!(GuestName))
        .help(help)
}

/// A flag without a value.
pub(super) fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .help(help)
}

/// The one guest of a verb.
pub(super) fn name() -> Arg {
    Arg::new("name")
        .value_name("NAME")
        .required(true)
        .value_parser(value_parser!(GuestName))
        .help("Name of the guest")
}

/// The value of [`name`].
pub(super) fn name_of(matches: &ArgMatches) -> Result<GuestName> {
    required(matches, "name")
}

/// A value that clap has made sure of.
pub(super) fn required<T: Clone + Send + Sync + 'static>(
    matches: &ArgMatches,
    id: &str,
) -> Result<T> {
    let value = matches.get_one::<T>(id).cloned();
    value.ok_or_else(|| Fault::usage(format!("{id} is missing")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound() {
        tree("bulkhead").debug_assert();
    }

    #[test]
    fn verbs_have_one_name_each_and_a_line() {
        for (i, verb) in VERBS.iter().enumerate() {
            assert!(VERBS[..i].iter().all(|other| other.name != verb.name));
            assert!(!verb.about.ends_with('.') && !verb.about.is_empty());
        }
    }
}
