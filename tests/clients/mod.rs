//! What tests of OCI clients share: an image made without a registry, a terminal, and the count of
//! what a runtime must not leave. The runtime is a path (`support::oci_program`): these tests know
//! no other thing about it, and pass with crun and runc too.
//!
//! The clients are in `podman.rs`, `containerd.rs`, `cri.rs`; a terminal is in `terminal.rs`.
#![allow(dead_code)] // each test file compiles this for itself and uses a part of it

pub mod containerd;
pub mod cri;
pub mod image;
pub mod leftovers;
pub mod podman;
pub mod terminal;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};

pub use crate::support::became as within;
use crate::support::{Need, Outcome, need, oci_program, run};

/// Whether there are root, a runtime and this client; otherwise prints the SKIP line.
#[must_use]
pub fn ready(client: Need) -> bool {
    need(Need::Root) && need(Need::OciRuntime) && need(client)
}

/// The absolute path of the runtime, as clients want it.
pub fn runtime() -> PathBuf {
    let path = oci_program();
    path.canonicalize()
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A command without input and in plain English.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    command
}

/// Runs a command that must succeed; what it wrote to standard output.
#[track_caller]
pub fn succeed(command: Command) -> String {
    let told = format!("{command:?}");
    let outcome = run(command);
    assert_eq!(outcome.code, 0, "{told}:\n{}", outcome.report());
    outcome.stdout
}

/// Runs a command that must end with this status; all of it.
#[track_caller]
pub fn end_with(code: i32, command: Command) -> Outcome {
    let told = format!("{command:?}");
    let outcome = run(command);
    assert_eq!(outcome.code, code, "{told}:\n{}", outcome.report());
    outcome
}

/// Does it on a thread in new namespaces, where its children are too.
pub fn apart(namespaces: CloneFlags, what: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(namespaces).expect("root may");
            if namespaces.contains(CloneFlags::CLONE_NEWNS) {
                succeed_in_shell("mount --make-rprivate /");
            }
            if namespaces.contains(CloneFlags::CLONE_NEWNET) {
                succeed_in_shell("ip link set lo up");
            }
            what();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs a line of shell that must succeed.
#[track_caller]
pub fn succeed_in_shell(line: &str) -> String {
    let mut shell = command("sh");
    shell.args(["-ec", line]);
    succeed(shell)
}

/// The lines of `/proc/PID/status` and the like: the word behind `Key:`.
#[track_caller]
pub fn field<'a>(text: &'a str, key: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let value = line.and_then(|rest| rest.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {key}: {text}")).trim()
}

/// A set of capabilities as `/proc/PID/status` tells it.
#[track_caller]
pub fn capabilities(status: &str, key: &str) -> u64 {
    let digits = field(status, key);
    u64::from_str_radix(digits, 16).unwrap_or_else(|e| panic!("{digits}: {e}"))
}
