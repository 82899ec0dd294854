//! Hooks: programs of the client's that are told the container's state on standard input. They have
//! their own environment, or if none is given that of whoever runs them, and a time limit if one is
//! set. On the host's side they begin in the bundle's folder, where clients' scripts look for things.

use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::kernel::process;
use crate::plan::container::step::Hook;

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
#[error("error running {called}: {path}: {why}{}", said(.output))]
pub struct HookError {
    /// Which one it was.
    pub called: String,
    /// Its program.
    pub path: String,
    /// What happened.
    pub why: String,
    /// The end of what it wrote.
    pub output: String,
}

fn said(output: &str) -> String {
    match output.trim() {
        "" => String::new(),
        text => format!("; it said: {text}"),
    }
}

/// Most of a hook's output that is kept, bytes.
const KEPT: usize = 4096;

/// Runs them in order; the first that fails ends it. They begin in `folder` if it can be entered,
/// otherwise where we are.
///
/// # Errors
/// A hook cannot be run, ends with another status than 0, or takes longer than it may.
pub fn run(hooks: &[Hook], told: &str, folder: Option<&Path>) -> Result<(), HookError> {
    let folder = folder.filter(|folder| std::fs::metadata(folder.join(".")).is_ok());
    let run = |hook| run_one(hook, told, folder);
    hooks.iter().try_for_each(run)
}

fn run_one(hook: &Hook, told: &str, folder: Option<&Path>) -> Result<(), HookError> {
    let failed = |why: String| HookError {
        called: hook.called.clone(),
        path: hook.path.display().to_string(),
        why,
        output: String::new(),
    };
    if !hook.path.is_absolute() {
        return Err(failed("its path must be absolute".into()));
    }
    let mut command = Command::new(&hook.path);
    let (name, rest) = hook
        .args
        .split_first()
        .map_or(("", &[][..]), |(n, r)| (n.as_str(), r));
    std::os::unix::process::CommandExt::arg0(&mut command, name);
    command.args(rest);
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    if let Some(env) = &hook.env {
        command.env_clear();
        command.envs(env.iter().filter_map(|line| line.split_once('=')));
    }
    // A file: a hook that writes much waits for nobody.
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let output = rustix::fs::memfd_create("hook", flags).map_err(|e| failed(e.to_string()))?;
    let output = std::fs::File::from(output);
    let copy = || output.try_clone().map_err(|e| failed(e.to_string()));
    command
        .stdin(Stdio::piped())
        .stdout(copy()?)
        .stderr(copy()?);
    let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
    drop(command);
    let deadline = hook
        .timeout
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    if let Some(mut input) = child.stdin.take() {
        // A hook that does not read its input does not have to; the state is shorter than a pipe.
        let _unread = input.write_all(told.as_bytes());
    }
    let pidfd = process::open_pid(child.id()).map_err(|e| failed(e.to_string()))?;
    let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
    let ended = process::wait_gone(pidfd.as_fd(), left).map_err(|e| failed(e.to_string()))?;
    if !ended {
        // It is collected below.
        let _gone = child.kill();
    }
    let status = child.wait().map_err(|e| failed(e.to_string()))?;
    let why = match (ended, status.code()) {
        (true, Some(0)) => return Ok(()),
        (false, _) => format!("it took longer than {} seconds", hook.timeout.unwrap_or(0)),
        (true, _) if status.signal() == Some(rustix::process::Signal::SYS.as_raw()) => {
            format!("it ended with {status}: a bad system call, which its filter forbids")
        }
        (true, _) => format!("it ended with {status}"),
    };
    Err(HookError {
        output: end_of(&output),
        ..failed(why)
    })
}

/// The end of what it wrote.
fn end_of(output: &std::fs::File) -> String {
    use std::os::unix::fs::FileExt as _;
    let length = output.metadata().map_or(0, |m| m.len());
    let mut text = vec![0; KEPT];
    let read = output.read_at(&mut text, length.saturating_sub(KEPT as u64));
    text.truncate(read.unwrap_or(0));
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout: Option<u64>) -> Hook {
        Hook {
            called: "prestart hook #0".into(),
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: Some(vec!["A=b=c".into()]),
            timeout,
        }
    }

    #[test]
    fn a_hook_reads_the_state_and_has_its_own_environment_only() {
        let script = r#"test "$(cat)" = told && test "$A" = b=c && test -z "$HOME""#;
        run(&[hook(script, None)], "told", None).unwrap();
    }

    #[test]
    fn a_hook_without_an_environment_has_ours() {
        let inherits = Hook {
            env: None,
            ..hook(r#"test -n "$PATH$HOME""#, None)
        };
        run(&[inherits], "", None).unwrap();
        let empty = Hook {
            env: Some(Vec::new()),
            ..hook(r#"test -z "$HOME""#, None)
        };
        run(&[empty], "", None).unwrap();
    }

    #[test]
    fn a_hook_begins_in_the_folder_that_can_be_entered() {
        let in_folder = |folder: &str, expected: &str| {
            let script = format!("test \"$(pwd)\" = {expected}");
            run(&[hook(&script, None)], "", Some(Path::new(folder))).unwrap();
        };
        in_folder("/usr", "/usr");
        let here = std::env::current_dir().unwrap();
        in_folder("/nowhere", &here.display().to_string());
    }

    #[test]
    fn the_first_failure_ends_it_and_says_what_was_said() {
        let error = run(&[hook("echo no >&2; exit 3", None)], "", None).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with(
                "error running prestart hook #0: /bin/sh: it ended with exit status: 3"
            ) && text.contains("it said: no"),
            "{text}"
        );
        let error = run(&[hook("sleep 60", Some(1))], "", None).unwrap_err();
        assert!(error.to_string().contains("longer than 1 seconds"));
    }
}
