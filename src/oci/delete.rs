//! `delete`: a container's control groups, its folder, and what its hooks want done after its end.

use std::os::fd::AsFd;
use std::time::Duration;

use super::bundle::parse;
use super::create::told;
use super::error::{OciError, Result};
use super::log::Log;
use super::record::Record;
use super::store::{Folder, Status, Store};
use crate::kernel::cgroup::{self, Cgroups, Host};
use crate::kernel::process_known::Known;
use crate::kernel::{fault, process, rdt};
use crate::launch::container::run_hooks;
use crate::plan::container::hooks;

/// Longest wait for a killed process; only a stuck kernel needs more.
const PATIENCE: Duration = Duration::from_secs(10);

/// After this a killed process is looked after.
const SOON: Duration = Duration::from_millis(100);

/// Removes a container.
pub(super) fn delete(store: &Store, id: &str, force: bool, log: &Log) -> Result<u8> {
    let folder = match store.find(id) {
        Err(OciError::Missing(_)) if force => return Ok(0),
        other => other?,
    };
    let host = Host::quick()?;
    if !folder.try_lock()? {
        // A `start` has it as long as the program is not executed, which one that was paused
        // meanwhile never will be.
        if force
            && let Ok(Some(record)) = folder.record()
            && record.process.is_some()
        {
            end(&record, &host)?;
        }
        folder.lock()?;
    }
    let record = match folder.record() {
        Ok(record) => record,
        // Cut short by a power failure or written by somebody else: there is nothing to be learnt.
        Err(error) if force => {
            log.warn(&error.to_string());
            None
        }
        Err(error) => return Err(error),
    };
    let Some(record) = record else {
        if !force {
            return Err(OciError::NotStopped {
                id: id.to_owned(),
                status: Status::Creating.word(),
            });
        }
        folder.remove()?;
        return Ok(0);
    };
    let status = folder.status(&record, &host);
    // As with runc, one that was never started goes without being forced.
    let idle = matches!(status, Status::Stopped | Status::Created);
    if !idle && !force {
        return Err(OciError::NotStopped {
            id: id.to_owned(),
            status: status.word(),
        });
    }
    if status != Status::Stopped {
        end(&record, &host)?;
    }
    leave(folder, &record, &host, log)?;
    Ok(0)
}

/// Kills everything in it and waits for its first process to be gone.
pub(super) fn end(record: &Record, host: &Host) -> Result<()> {
    let pidfd = record.process.and_then(Known::open);
    fault::point()?;
    if let Some(pidfd) = &pidfd {
        process::send_signal(pidfd.as_fd(), 9)?;
    }
    fault::point()?;
    if let Some(place) = &record.cgroup
        && let Ok(cgroups) = Cgroups::open(host, place)
    {
        // A frozen group is thawed by it: what is frozen cannot die on version 1.
        cgroups.kill(9)?;
    }
    if let Some(pidfd) = &pidfd
        && !process::wait_gone(pidfd.as_fd(), Some(SOON))?
    {
        let_go(record, host)?;
        process::wait_gone(pidfd.as_fd(), Some(PATIENCE))?;
    }
    Ok(())
}

/// Killed and still there: a version 1 freezer may hold it, or one that it waits for as process 1.
fn let_go(record: &Record, host: &Host) -> Result<()> {
    let first = record.process.filter(|first| first.lives());
    let first = first.and_then(|first| i32::try_from(first.pid).ok());
    let mut pids: Vec<i32> = first.into_iter().collect();
    if let Some(place) = &record.cgroup
        && let Ok(cgroups) = Cgroups::open(host, place)
    {
        pids.extend(cgroups.pids(true)?);
    }
    Ok(Cgroups::out_of_freezer(host, &pids)?)
}

/// What is left of a container that has ended.
pub(super) fn leave(folder: Folder, record: &Record, host: &Host, log: &Log) -> Result<()> {
    fault::point()?;
    if let Some(place) = &record.cgroup {
        Cgroups::remove_at(host, place)?;
        if let Some(scope) = &place.scope {
            cgroup::stop_scope(scope)?;
        }
    }
    if let Some(group) = &record.rdt {
        rdt::remove(group);
    }
    fault::point()?;
    // A removal that was cut short may have taken the configuration already; one that cannot be read
    // must not keep the container here for ever.
    let config = record.poststop.then(|| parse(&folder.config()?));
    let after = match config {
        Some(Ok(spec)) => hooks(
            "poststop",
            spec.hooks().as_ref().and_then(|h| h.poststop().as_ref()),
        ),
        Some(Err(error)) => {
            log.warn(&format!("no hook is run after the end: {error}"));
            Vec::new()
        }
        None => Vec::new(),
    };
    folder.remove()?;
    fault::point()?;
    for hook in after {
        // The specification: a warning, and on with the next.
        let text = told(record).text(Status::Stopped.word(), None);
        let hook = std::slice::from_ref(&hook);
        if let Err(error) = run_hooks(hook, &text, Some(&record.bundle)) {
            log.warn(&error.to_string());
        }
    }
    Ok(())
}
