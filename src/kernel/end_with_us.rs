//! Commands that must not outlive this program, also when it is killed.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::Signal;

/// Has a command be killed when this process ends, however it does.
pub fn end_with_us(command: &mut Command) {
    let ours = rustix::process::getpid();
    let ask = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // Already gone: nobody would tell it.
        match rustix::process::getppid() == Some(ours) {
            true => Ok(()),
            false => Err(std::io::ErrorKind::NotFound.into()),
        }
    };
    // SAFETY: between fork(2) and execve(2) only two system calls are made, and nothing is allocated.
    unsafe { command.pre_exec(ask) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_of_ours_runs() {
        let mut command = Command::new("true");
        end_with_us(&mut command);
        assert!(command.status().unwrap().success());
    }
}
