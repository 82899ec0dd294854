//! Who serves networks that ask for it: the process that keeps a network's server program, and what makes
//! a change of a network's record true of it.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::fs::Mode;

use crate::kernel::fault::{self, Role};
use crate::kernel::process::{self, CloneFlags, Forked};
use crate::kernel::{inherited, title};
use crate::network::{Network, Record, Standing};

use super::error::Result;
use super::keeper::join_holder;
use super::leftover::{Leftover, leftover, told};
use super::manager::Manager;
use super::networks::network;
use super::start::detach_from_terminal;

/// How often is looked whether it has begun.
const LOOK: Duration = Duration::from_millis(2);

impl Manager {
    /// Becomes the process that keeps a network's server program, and comes back in the one that was
    /// called (the hidden verb `network-server`).
    ///
    /// # Errors
    /// There is no such network, or no process can be made.
    pub fn serve_network(&self, word: &str) -> Result<()> {
        fault::role(Role::Server);
        let served = self.network.by_word(word)?;
        if let Forked::Parent { pidfd, .. } = process::fork_with(CloneFlags::default(), None)? {
            // Whoever called finds it, or that there is none.
            while !served.is_kept() && !process::wait_gone(pidfd.as_fd(), Some(LOOK))? {}
            return Ok(());
        }
        let _guard = process::NoReturn;
        let done = detach_from_terminal().and_then(|()| {
            // The program is another user, and is to read what is written here.
            rustix::process::umask(Mode::from_raw_mode(0o022));
            // What the person's shell had open is not ours.
            inherited::close_all_but(&mut Vec::new())?;
            let _shown = title::retitle(&format!("bulkhead: server of {word}"));
            join_holder(self);
            process::give_memory_back();
            served.serve(&self.network).map_err(network)
        });
        // Nobody is there to be told; `doctor` says that nobody serves the network.
        process::leave(i32::from(done.is_err()))
    }

    /// After a change of a network: its rules, and who serves it, are made what the record says. If it
    /// cannot be served so, it is as it was before.
    pub(super) fn serve_anew(&self, before: &Record, changed: &Network) -> Result<()> {
        if before.served.is_none() && changed.served().is_none() {
            return Ok(());
        }
        let serve = |one: &Network| {
            one.end_server()?;
            one.reload()?;
            one.start_server()
        };
        let done = serve(changed).map_err(network);
        if done.is_err() {
            self.network.change_record(before)?;
            serve(&self.network.load(&before.name)?).map_err(network)?;
        }
        done
    }

    /// A network that is served and did not ask for it, or the other way round.
    pub(super) fn of_server(
        &self,
        one: &Network,
        fix: bool,
        found: &mut Vec<Leftover>,
    ) -> Result<()> {
        let name = one.word().to_owned();
        if one.is_addressed().map_err(network)? {
            let again = || one.reload().map(drop).map_err(network);
            let done = told(fix.then(again));
            found.push(leftover("address on a bridge", name.clone(), done));
        }
        // The rules with it: whoever was killed in a change of the record may have made neither.
        let mend: fn(&Network) -> Result<()> = match one.server_standing().map_err(network)? {
            Standing::Well => return Ok(()),
            Standing::Stray => |one| {
                one.end_server().map_err(network)?;
                one.reload().map(drop).map_err(network)
            },
            Standing::Missing => |one| {
                one.reload().map_err(network)?;
                one.start_server().map_err(network)
            },
            Standing::Failing(why) => {
                let mut failing = leftover("network server", name, None);
                failing.why = Some(why);
                found.push(failing);
                return Ok(());
            }
        };
        let done = told(fix.then(|| mend(one)));
        found.push(leftover("network server", name, done));
        Ok(())
    }
}
