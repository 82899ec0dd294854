//! The second front door: an OCI runtime with runc's command line, for containerd, Podman, CRI-O
//! and everything above them. A configuration becomes a plan (`plan::container`), a plan a
//! container (`launch::container`); in between there is only the folder of its state (`store`).

mod activation;
mod args;
mod bundle;
mod caller;
mod create;
mod delete;
mod dialect;
mod error;
mod events;
mod exec;
mod features;
mod host;
mod kill;
mod list;
mod log;
mod man;
mod ps;
mod record;
mod relay;
mod rules;
mod run;
mod start;
mod store;
mod template;
mod update;
mod words;

use args::{Cli, Command};
use error::{OciError, Result};
use store::Store;

/// Runs the program; its exit code.
pub fn main() -> u8 {
    let words = ["create", "run", "exec"];
    let enters = std::env::args_os().any(|arg| words.iter().any(|word| arg == *word));
    // Before anything else: what follows happens a second time in the program executed here.
    let sealed = match enters {
        true => crate::kernel::sealed::ensure(),
        false => Ok(()),
    };
    let mut cli = match Cli::read() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    cli.anchor();
    if cli.global.version {
        println!("{}", features::version());
        return 0;
    }
    let log = match log::Log::open(&cli.global) {
        Ok(log) => log,
        Err(error) => {
            log::say(&format!("error: {error}"));
            return 1;
        }
    };
    match sealed
        .map_err(OciError::from)
        .and_then(|()| caller::check(&cli))
        .and_then(|()| carry_out(&cli, &log))
    {
        Ok(code) => code,
        Err(error) => {
            log.error(&error.to_string());
            // As runc: `exec` has the codes of its program for itself.
            let exec = matches!(cli.command, Some(Command::Exec(_)));
            if exec { 255 } else { 1 }
        }
    }
}

/// The exit code of runc for a command that it does not have.
const NO_SUCH_COMMAND: u8 = 3;

fn usage(error: &clap::Error) -> u8 {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    if error.kind() == ErrorKind::InvalidSubcommand
        && let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand)
    {
        // In runc's words, which are looked for, and what helps.
        let text = format!(
            "No help topic for '{}': there is no such command; bulkhead-oci --help has all",
            word.escape_debug()
        );
        if !record(&text) {
            log::say(&format!("error: {text}"));
        }
        return NO_SUCH_COMMAND;
    }
    let mut told = false;
    if error.use_stderr() {
        let text = error.to_string();
        let first = text.lines().take_while(|line| !line.is_empty());
        let first: Vec<&str> = first.map(str::trim).collect();
        told = record(first.join(" ").trim_start_matches("error: "));
    }
    if !told {
        // Help and version are no errors and go to standard output.
        let _closed = error.print();
    }
    u8::from(error.use_stderr())
}

/// In the log, where clients look for what went wrong, if the options before the command can be
/// read; whether standard error has it too.
fn record(text: &str) -> bool {
    let global = Cli::global();
    let log = global.and_then(|global| log::Log::open(&global).ok());
    log.is_some_and(|log| log.record(text))
}

fn carry_out(cli: &Cli, log: &log::Log) -> Result<u8> {
    let Some(command) = &cli.command else {
        Cli::help()?;
        return Ok(0);
    };
    let store = Store::at(cli.global.root.as_deref(), cli.global.rootless.is_on());
    match command {
        Command::Create(create) => create::create(cli, &store, create, log),
        Command::Start(name) => start::start(&store, &name.id, log),
        Command::Run(run) => run::run(cli, &store, run, log),
        Command::Exec(exec) => exec::exec(&store, exec, log),
        Command::Kill(kill) => kill::kill(&store, kill),
        Command::Delete(delete) => delete::delete(&store, &delete.id, delete.force, log),
        Command::State(name) => list::state(&store, &name.id),
        Command::List(list) => list::list(&store, list, cli.global.root.is_some()),
        Command::Ps(ps) => ps::ps(&store, ps),
        Command::Pause(name) => kill::pause(&store, &name.id),
        Command::Resume(name) => kill::resume(&store, &name.id),
        Command::Update(update) => update::update(&store, update, log),
        Command::Events(events) => events::events(&store, events),
        Command::Features => features::print(),
        Command::Spec(spec) => template::write(spec),
        Command::Checkpoint(_) => Err(OciError::Later("checkpoint")),
        Command::Restore(_) => Err(OciError::Later("restore")),
        Command::Man(man) => man::write(&man.folder),
    }
}
