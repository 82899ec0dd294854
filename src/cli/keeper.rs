//! The hidden verbs, which people never type: `keeper`, the process that a launch becomes, and
//! `neighbours`, which tells running guests each other's names.

use clap::{Arg, ArgMatches, value_parser};

use super::command::{Verb, name, name_of, required};
use super::context::Context;
use super::fault::Result;
use crate::guest::keeper;
use crate::kernel::inherited;

pub(super) const KEEPER: Verb = Verb {
    name: "keeper",
    about: "Stay with a guest (started by `start`)",
    build: |command| {
        let descriptor = |name: &'static str| {
            Arg::new(name)
                .long(name)
                .value_name("N")
                .value_parser(value_parser!(i32).range(3..))
        };
        command
            .arg(name())
            .arg(
                descriptor("pidfd")
                    .required(true)
                    .help("Descriptor of its first process"),
            )
            .arg(descriptor("console").help("Descriptor of its console"))
    },
    run: keep,
    hidden: true,
};

fn keep(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let name = name_of(matches)?;
    // First of all: what is opened from here on gets other numbers.
    let pidfd = inherited::take(required(matches, "pidfd")?)?;
    let console = matches.get_one::<i32>("console").copied();
    let console = console.map(inherited::take).transpose()?;
    keeper::keep(context.manager()?, &name, pidfd, console)
}

pub(super) const NEIGHBOURS: Verb = Verb {
    name: "neighbours",
    about: "Bring /etc/hosts of running guests up to date (started by `create` and others)",
    build: |command| command,
    run: |context, _| {
        context.manager()?.update_neighbours()?;
        Ok(0)
    },
    hidden: true,
};
