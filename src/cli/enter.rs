//! `exec`, `shell`, `console`: a person, or a script, inside a running guest.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::command::{Verb, name, name_of, switch};
use super::context::Context;
use super::fault::{EXEC_FAILED, Fault, Result};
use crate::guest::exec::ExecRequest;
use crate::model::clock;

pub(super) const EXEC: Verb = Verb {
    name: "exec",
    about: "Execute a program in a running guest; its exit code is passed on",
    build: |command| {
        inside(command)
            .arg(
                Arg::new("workdir")
                    .short('w')
                    .long("workdir")
                    .value_name("DIR")
                    .value_parser(value_parser!(PathBuf))
                    .help("Folder to begin in [default: the user's home]"),
            )
            .arg(
                switch(
                    "tty",
                    "Give it a terminal [default: when there is one here]",
                )
                .short('t'),
            )
            .arg(
                switch("no-tty", "Give it this side's input and output as they are")
                    .short('T')
                    .conflicts_with("tty"),
            )
            .arg(
                Arg::new("timeout")
                    .long("timeout")
                    .value_name("TIME")
                    .value_parser(clock::duration)
                    .help("Kill it when this time is up; the exit code is then 124"),
            )
            .arg(
                Arg::new("command")
                    .value_name("COMMAND")
                    .required(true)
                    .num_args(1..)
                    .trailing_var_arg(true)
                    .help("Program and arguments, after --"),
            )
            .after_help(
                "Examples:\n  bulkhead exec web -- systemctl status\n  \
                 tar c site | bulkhead exec web -- tar x -C /var/www",
            )
    },
    run: |context, matches| {
        let argv = matches.get_many::<String>("command").into_iter().flatten();
        let terminal = match (matches.get_flag("tty"), matches.get_flag("no-tty")) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        };
        let request = ExecRequest {
            argv: argv.cloned().collect(),
            folder: matches.get_one("workdir").cloned(),
            timeout: matches.get_one::<Duration>("timeout").copied(),
            terminal,
            ..common(matches)?
        };
        execute(context, matches, request).map_err(Fault::of_exec)
    },
    hidden: false,
};

pub(super) const SHELL: Verb = Verb {
    name: "shell",
    about: "Open a login shell in a running guest",
    build: inside,
    run: |context, matches| {
        const LOGIN: &str = "if [ -x /bin/bash ]; then exec /bin/bash -l; else exec /bin/sh -l; fi";
        let request = ExecRequest {
            argv: ["/bin/sh", "-c", LOGIN].map(str::to_owned).to_vec(),
            ..common(matches)?
        };
        execute(context, matches, request).map_err(Fault::of_exec)
    },
    hidden: false,
};

pub(super) const CONSOLE: Verb = Verb {
    name: "console",
    about: "Attach to a guest's console; Ctrl-] leaves",
    build: |command| command.arg(name()),
    run: |context, matches| {
        let name = name_of(matches)?;
        let manager = context.manager()?;
        if std::io::stdin().is_terminal() {
            context.say(&format!("Console of guest {name}. Ctrl-] leaves."));
        }
        manager.attach_console(&name)?;
        if std::io::stdin().is_terminal() {
            context.say("");
        }
        Ok(0)
    },
    hidden: false,
};

fn inside(command: Command) -> Command {
    command
        .arg(name())
        .arg(
            Arg::new("user")
                .short('u')
                .long("user")
                .value_name("USER")
                .help("User of the guest's, by name or number [default: root]"),
        )
        .arg(
            Arg::new("env")
                .short('e')
                .long("env")
                .value_name("NAME=VALUE")
                .action(ArgAction::Append)
                .help("Variable in its environment"),
        )
}

/// What `exec` and `shell` share. The kind of this side's terminal goes along, as with ssh(1).
fn common(matches: &ArgMatches) -> Result<ExecRequest> {
    let given = matches.get_many::<String>("env").into_iter().flatten();
    let mut environment: Vec<String> = given.cloned().collect();
    if let Some(wrong) = environment
        .iter()
        .find(|pair| !pair.contains('=') || pair.starts_with('='))
    {
        return Err(Fault::usage(format!("--env {wrong:?}: write NAME=VALUE")));
    }
    let named = |name: &str| {
        environment
            .iter()
            .any(|pair| pair.starts_with(&format!("{name}=")))
    };
    if !named("TERM")
        && std::io::stdin().is_terminal()
        && let Ok(term) = std::env::var("TERM")
    {
        environment.push(format!("TERM={term}"));
    }
    Ok(ExecRequest {
        user: matches.get_one("user").cloned(),
        environment,
        ..Default::default()
    })
}

fn execute(context: &Context, matches: &ArgMatches, request: ExecRequest) -> Result<u8> {
    let code = context.manager()?.exec(&name_of(matches)?, &request)?;
    Ok(u8::try_from(code & 0xff).unwrap_or(EXEC_FAILED))
}
