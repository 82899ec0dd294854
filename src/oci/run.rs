//! `run`: a container from its making to its end, in one process.

use std::os::fd::AsFd as _;

use super::activation::Readiness;
use super::args::{Cli, Run};
use super::create::{Until, make, told};
use super::error::Result;
use super::log::Log;
use super::store::{Status, Store};
use super::{delete, relay};
use crate::launch::container::run_hooks;
use crate::plan::container::hooks;

/// Runs a container.
pub(super) fn run(cli: &Cli, store: &Store, args: &Run, log: &Log) -> Result<u8> {
    let until = match args.detach {
        true => Until::Started,
        false => Until::Over,
    };
    let mut made = make(cli, store, &args.make, until, log)?;
    let terminal = made.prepared.terminal();
    relay::get_ready(terminal.as_ref());
    let readiness = Readiness::listen(made.folder.get()?)?;
    let (pid, pidfd) = made.prepared.release(true)?;
    if made.record.poststart {
        let spec = &made.bundle.config.spec;
        let list = hooks(
            "poststart",
            spec.hooks().as_ref().and_then(|h| h.poststart().as_ref()),
        );
        let text = told(&made.record).text(Status::Running.word(), Some(pid));
        if let Err(error) = run_hooks(&list, &text, Some(&made.record.bundle)) {
            delete::end(&made.record, &made.host.cgroups)?;
            delete::leave(made.folder.take()?, &made.record, &made.host.cgroups, log)?;
            return Err(error.into());
        }
    }
    // Others may have it meanwhile: it may take long to be ready, or to end.
    made.folder.get()?.unlock()?;
    if args.detach {
        if let Some(readiness) = readiness {
            readiness.pass_on(Some(pid), pidfd.as_fd(), log);
        }
        made.folder.done();
        return Ok(0);
    }
    // Of an attached one this process is the service's.
    let code = match readiness {
        None => relay::wait(&pidfd, terminal.as_ref())?,
        Some(readiness) => relay::wait_and(&pidfd, terminal.as_ref(), || {
            readiness.pass_on(None, pidfd.as_fd(), log);
        })?,
    };
    let folder = made.folder.take()?;
    folder.lock()?;
    // Somebody may have deleted it meanwhile.
    if !args.keep && folder.record()?.is_some() {
        delete::leave(folder, &made.record, &made.host.cgroups, log)?;
    }
    Ok(code)
}
