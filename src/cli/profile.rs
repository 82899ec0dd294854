//! `profile`: the named parts of definitions.

use std::collections::BTreeMap;

use clap::{Arg, ArgMatches, Command};
use serde::Serialize;

use super::command::{Verb, required};
use super::context::Context;
use super::fault::Result;
use super::render::Cell;
use crate::guest::view::printable;

pub(super) const PROFILE: Verb = Verb {
    name: "profile",
    about: "List profiles, show one with its reasons",
    build: |command| {
        command
            .subcommand_required(true)
            .subcommand(Command::new("list").about("List profiles"))
            .subcommand(
                Command::new("show")
                    .alias("info")
                    .about("Show a profile and why it says what it says")
                    .arg(
                        Arg::new("profile")
                            .value_name("PROFILE")
                            .required(true)
                            .help("Name of the profile"),
                    ),
            )
    },
    run: |context, matches| match matches.subcommand() {
        Some(("show", matches)) => show(context, matches),
        _ => list(context),
    },
    hidden: false,
};

#[derive(Serialize)]
struct Shown {
    name: String,
    built_in: bool,
    description: String,
}

fn list(context: &Context) -> Result<u8> {
    let profiles = context.manager()?.profiles()?;
    let all: Vec<Shown> = profiles
        .names()
        .map(|name| Shown {
            name: name.to_owned(),
            built_in: profiles.is_built_in(name),
            // One that is broken is listed all the same, with what is wrong.
            description: profiles
                .get(name)
                .map_or_else(|error| error.to_string(), |profile| profile.description),
        })
        .collect();
    context.list(&all, &["NAME", "FROM", "DESCRIPTION"], |profile| {
        let from = if profile.built_in { "program" } else { "host" };
        [&profile.name, from, &profile.description]
            .map(Cell::from)
            .to_vec()
    })?;
    Ok(0)
}

#[derive(Serialize)]
struct Whole {
    name: String,
    description: String,
    why: BTreeMap<String, String>,
    text: String,
}

fn show(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let profiles = context.manager()?.profiles()?;
    let profile = profiles.get(&required::<String>(matches, "profile")?)?;
    let whole = Whole {
        name: profile.name,
        description: profile.description,
        why: profile.why,
        text: profile.text,
    };
    context.one(&whole, |_| printable(whole.text.as_bytes()))?;
    Ok(0)
}
