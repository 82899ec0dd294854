//! A guest that a command stops only to start it again: written down before, so that one which stays
//! stopped because that command died is named by `doctor`, and started by `doctor --fix`.

use std::path::PathBuf;
use std::time::Duration;

use super::error::Result;
use super::leftover::{Leftover, leftover, told};
use super::life::Verb;
use super::manager::{Manager, RECORD};
use super::start::{Round, Started};
use crate::kernel::process::Identity;
use crate::kernel::{KernelError, fault, file};
use crate::model::{GuestName, Status};

impl Manager {
    fn comeback_path(&self, name: &GuestName) -> PathBuf {
        self.layout.guest(name).join("comeback.json")
    }

    /// Writes down that this process stops a guest and will start it again.
    fn promise_comeback(&self, name: &GuestName) -> Result<()> {
        let own = Identity::of(std::process::id());
        let text = serde_json::to_vec(&own).unwrap_or_default();
        // A full disk must not keep a guest from being restarted.
        let _unwritten = file::write_whole(&self.comeback_path(name), &text, 0o600);
        Ok(fault::point()?)
    }

    /// It runs again, or somebody wants it stopped.
    pub(super) fn forget_comeback(&self, name: &GuestName) -> Result<()> {
        let path = self.comeback_path(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(KernelError::io("remove", path.display())(error).into())
            }
            _ => Ok(()),
        }
    }

    /// Stops a guest and starts it again. `limit` is the time that its init has. What it has written on
    /// an undo disk that is decided about later is still there.
    ///
    /// # Errors
    /// As of both. Where the host has no room for what it is to have then, it runs on.
    pub fn restart(&self, name: &GuestName, limit: Option<Duration>) -> Result<Started> {
        self.check_restart(name)?;
        self.check_room_again(name)?;
        self.stop_with_promise(name, limit)?;
        self.start_again(name)
    }

    fn start_again(&self, name: &GuestName) -> Result<Started> {
        let round = Round {
            comeback: true,
            ..Round::default()
        };
        self.start_by(name, Verb::Start, round)
    }

    /// Stops a guest that this process starts again when something was done to its files.
    ///
    /// # Errors
    /// As [`Manager::stop`]; what it writes is to be decided about in between.
    pub(super) fn stop_to_start(&self, name: &GuestName, limit: Option<Duration>) -> Result<()> {
        self.status(name)?;
        self.check_decided(name, "restart")?;
        self.check_room_again(name)?;
        self.stop_with_promise(name, limit)
    }

    fn stop_with_promise(&self, name: &GuestName, limit: Option<Duration>) -> Result<()> {
        self.promise_comeback(name)?;
        let stopped = self.stop(name, limit);
        if stopped.is_err() {
            // It runs on; the error that matters is this one.
            let _same = self.forget_comeback(name);
        }
        fault::point()?;
        stopped.map(drop)
    }

    /// A guest that stays stopped because the command died that would have started it.
    pub(super) fn of_comeback(
        &self,
        name: &GuestName,
        fix: bool,
        found: &mut Vec<Leftover>,
    ) -> Result<()> {
        let text = file::read_small(&self.comeback_path(name), RECORD)?;
        let Some(text) = text else { return Ok(()) };
        let promised: Option<Identity> = serde_json::from_slice(&text).ok().flatten();
        if promised.is_some_and(|command| command.lives()) {
            return Ok(());
        }
        if !matches!(self.status(name), Ok(Status::Stopped)) {
            // It was started since, by somebody who was killed before this was removed.
            return self.forget_comeback(name);
        }
        let done = fix.then(|| self.start_again(name).map(drop));
        found.push(leftover("stopped guest", name.to_string(), told(done)));
        Ok(())
    }
}
