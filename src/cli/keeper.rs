//! What people never type: `--keeper`, the process that a launch becomes, and the hidden verbs
//! `neighbours`, which tells running guests each other's names, and `network-server`, which keeps the
//! server program of a network.

use std::ffi::OsString;

use clap::Arg;

use super::command::{Verb, required};
use super::fault::{Fault, Result};
use crate::guest::successor::Successor;
use crate::guest::{Manager, keeper};
use crate::network::SERVER_VERB;

/// Stays with a guest, if that is what the arguments ask for.
pub(super) fn called(arguments: &[OsString]) -> Option<u8> {
    Successor::is_called(arguments).then(|| {
        keep(arguments).unwrap_or_else(|fault| {
            fault.print();
            fault.code
        })
    })
}

fn keep(arguments: &[OsString]) -> Result<u8> {
    let Some(successor) = Successor::take_over(arguments) else {
        return Err(Fault::usage("--keeper is for `bulkhead start` itself"));
    };
    let manager = Manager::open(&successor.root)?;
    keeper::keep(&manager, &successor.name, successor.charge)
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

pub(super) const NETWORK_SERVER: Verb = Verb {
    name: SERVER_VERB,
    about: "Keep the server program of a network (started by whatever sets a network up)",
    build: |command| command.arg(Arg::new("network").required(true)),
    run: |context, matches| {
        let word: String = required(matches, "network")?;
        context.manager()?.serve_network(&word)?;
        Ok(0)
    },
    hidden: true,
};
