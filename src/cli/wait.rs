//! `wait`: until a guest is in a state.

use std::net::IpAddr;
use std::time::Duration;

use clap::{Arg, ValueEnum, value_parser};

use super::command::{Verb, name, name_of, required};
use crate::guest::change::Until;
use crate::model::clock;

pub(super) const WAIT: Verb = Verb {
    name: "wait",
    about: "Wait until a guest is running, ready, has an address, or is stopped",
    build: |command| {
        command
            .arg(name())
            .arg(
                Arg::new("state")
                    .value_name("STATE")
                    .required(true)
                    .value_parser(value_parser!(State))
                    .hide_possible_values(true)
                    .help(
                        "running, ready (all it starts has started), ip (it runs and has an \
                         address, which is printed), ip6 (the same of IPv6) or stopped",
                    ),
            )
            .arg(
                Arg::new("timeout")
                    .short('t')
                    .long("timeout")
                    .value_name("TIME")
                    .value_parser(clock::duration)
                    .help("Give up after this time, with exit code 1 [default: never]"),
            )
    },
    run: |context, matches| {
        let until = match required::<State>(matches, "state")? {
            State::Running => Until::Running,
            State::Ready => Until::Ready,
            State::Ip => Until::Address,
            State::Ip6 => Until::Address6,
            State::Stopped => Until::Stopped,
        };
        let limit = matches.get_one::<Duration>("timeout").copied();
        let (manager, name) = (context.manager()?, name_of(matches)?);
        manager.wait(&name, until, limit)?;
        let row = manager.row(&name);
        let address = match until {
            Until::Address => row.address.map(IpAddr::V4),
            Until::Address6 => row.address6.map(IpAddr::V6),
            Until::Running | Until::Ready | Until::Stopped => None,
        };
        if let Some(address) = address {
            context.out(&format!("{address}\n"))?;
        }
        Ok(0)
    },
    hidden: false,
};

#[derive(Clone, Copy, ValueEnum)]
enum State {
    Running,
    Ready,
    Ip,
    Ip6,
    Stopped,
}
