//! `start`: the word that lets a container's program run. It comes back when the program has been
//! executed, or says why it could not be.

use std::os::fd::AsFd as _;

use rustix::event::{PollFd, PollFlags, poll};

use super::activation::Readiness;
use super::bundle::parse;
use super::create::told;
use super::delete;
use super::error::{OciError, Result};
use super::log::Log;
use super::record::Record;
use super::store::{COMPLAINT, Folder, START, Status, Store};
use crate::kernel::cgroup::Host;
use crate::kernel::{KernelError, fault};
use crate::launch::container::run_hooks;
use crate::plan::container::hooks;

/// Starts a container.
pub(super) fn start(store: &Store, id: &str, log: &Log) -> Result<u8> {
    let folder = store.find(id)?;
    folder.lock()?;
    let record = folder.made()?;
    let host = Host::quick()?;
    let status = folder.status(&record, &host);
    if status != Status::Created {
        return Err(OciError::Status {
            verb: "start",
            status,
        });
    }
    let readiness = Readiness::listen(&folder)?;
    say_go(&folder)?;
    fault::point()?;
    if record.poststart
        && let Err(error) = poststart(&folder, &record)
    {
        // The specification: stop it, and undo what `create` did.
        delete::end(&record, &host)?;
        delete::leave(folder, &record, &host, log)?;
        return Err(error);
    }
    if let Some(readiness) = readiness
        && let Some(first) = record.process
        && let Some(pidfd) = first.open()
    {
        // Others may have it meanwhile: it may take long, or never be ready.
        folder.unlock()?;
        readiness.pass_on(Some(first.pid), pidfd.as_fd(), log);
    }
    Ok(0)
}

fn say_go(folder: &Folder) -> Result<()> {
    let stopped = || OciError::Status {
        verb: "start",
        status: Status::Stopped,
    };
    let start = folder.waiting()?.ok_or_else(stopped)?;
    fault::point()?;
    rustix::io::write(&start, b"0").map_err(KernelError::on("start", folder.id()))?;
    // The other end closes when the program is executed, or when it never will be.
    let mut fds = [PollFd::new(&start, PollFlags::empty())];
    rustix::io::retry_on_intr(|| poll(&mut fds, None))
        .map_err(KernelError::on("wait for", folder.id()))?;
    fault::point()?;
    folder.forget(START);
    let complaint = folder.read(COMPLAINT).unwrap_or_default();
    folder.forget(COMPLAINT);
    if complaint.is_empty() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&complaint).into_owned();
    Err(OciError::Program(format!(
        "unable to start container process: {why}"
    )))
}

/// Hooks after the start.
fn poststart(folder: &Folder, record: &Record) -> Result<()> {
    let spec = parse(&folder.config()?)?;
    let list = hooks(
        "poststart",
        spec.hooks().as_ref().and_then(|h| h.poststart().as_ref()),
    );
    let pid = record.process.map(|p| p.pid);
    let text = told(record).text(Status::Running.word(), pid);
    Ok(run_hooks(&list, &text, Some(&record.bundle))?)
}
