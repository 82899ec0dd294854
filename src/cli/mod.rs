//! The manager's front door: `bulkhead VERB GUEST`.
//!
//! | file | what it holds |
//! |---|---|
//! | `command` | the one clap tree: the table of verbs, the flags all have |
//! | `context` | what every verb gets: the installation, where and how to print |
//! | `fault` | errors to heading, causes, hint and exit code; the only place that prints them |
//! | `render`, `yaml` | values to text: tables, JSON, YAML, CSV |
//! | `progress` | long work on standard error |
//! | `serve` | what goes on beside guests, in one program to start |
//! | `settings` | the flags made from `define::KEYS` |
//! | `select`, `order`, `many` | verbs on many guests: which, in what order, side by side |
//! | `backup_arguments`, `backup_restore` | parts of `backup`: its flags; bringing back |
//! | `network_trace` | a part of `network` |
//! | `top_columns`, `top_view`, `top_screen` | parts of `top`: columns; the screen as text; the terminal |
//! | `create`, `life`, `delete`, `traffic`, `usage`, `licenses`, `trash`, `export`, `import`, `list`, `info`, `limits`, `why`, `bisect`, `top`, `capacity`, `enter`, `file`, `logs`, `change`, `plan`, `wait`, `image`, `template`, `tenant`, `goal`, `rebase`, `dedupe`, `cpupool`, `backup`, `profile`, `doctor`, `keeper`, `generate` | the verbs |
//!
//! The program has one thread where a launch forks; `export` and `import`, which fork nothing, have
//! others that compress and decompress. What runs side by side (`-j`) runs as processes.

mod backup;
mod backup_arguments;
mod backup_restore;
mod bisect;
mod capacity;
mod change;
mod command;
mod context;
mod cpupool;
mod create;
mod dedupe;
mod delete;
mod demo;
mod doctor;
mod enter;
mod export;
mod fault;
mod file;
mod generate;
mod goal;
mod goal_run;
pub mod image;
mod image_info;
mod image_server;
mod image_transfer;
mod image_update;
mod import;
mod info;
mod keeper;
mod licenses;
mod life;
mod limits;
pub mod list;
mod logs;
mod many;
mod network;
mod network_served;
mod network_trace;
mod network_watch;
mod nic;
mod order;
mod plan;
mod pool;
mod profile;
mod progress;
mod rebase;
mod reinstall;
pub mod render;
mod rescue;
mod select;
mod serve;
mod settings;
mod share;
mod snapshot;
mod snapshot_diff;
mod snapshot_mount;
mod snapshot_run;
mod template;
mod tenant;
mod top;
mod top_columns;
mod top_screen;
mod top_view;
mod traffic;
mod trash;
mod undo;
mod usage;
mod wait;
mod why;
mod yaml;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use context::Context;

use crate::kernel::sealed;

/// Verbs that have a guest's program executed, and so run from a sealed mount.
const ENTERING: [&str; 4] = ["exec", "shell", "wait", "demo"];

/// The whole program: parses, calls one verb, prints what went wrong.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os().collect()))
}

fn run(arguments: Vec<OsString>) -> u8 {
    if let Some(code) = keeper::called(&arguments) {
        return code;
    }
    let called = called_as(&arguments);
    let matches = match command::tree(called).try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // A closed pipe is the reader's business.
            let _closed = error.print();
            return u8::from(error.use_stderr()) * 2;
        }
    };
    if matches.subcommand_name().is_none() {
        let _closed = std::io::stderr().write_all(&help(called).into_bytes());
        return fault::USAGE;
    }
    let enters = matches
        .subcommand_name()
        .is_some_and(|verb| ENTERING.contains(&verb));
    if let (true, Err(error)) = (enters, sealed::ensure()) {
        let fault = fault::Fault::of(fault::FAILED, &error);
        fault.print();
        return fault.code;
    }
    let done = Context::new(&matches).and_then(|context| command::dispatch(&context, &matches));
    done.unwrap_or_else(|fault| {
        fault.print();
        fault.code
    })
}

/// What there is, for whoever named no verb.
fn help(called: &'static str) -> String {
    command::tree(called).render_help().to_string()
}

/// `bh` if it was called so.
fn called_as(arguments: &[OsString]) -> &'static str {
    let name = arguments.first().and_then(|a| Path::new(a).file_name());
    if name.is_some_and(|name| name == "bh") {
        "bh"
    } else {
        "bulkhead"
    }
}
