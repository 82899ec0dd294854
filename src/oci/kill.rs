//! `kill`, `pause` and `resume`: signals to a container, and holding it still.

use std::os::fd::AsFd;

use super::args::Kill;
use super::error::{OciError, Result};
use super::record::Record;
use super::store::{Status, Store};
use crate::kernel::cgroup::{Cgroups, Host};
use crate::kernel::process_known::Known;
use crate::kernel::{fault, process};
use crate::plan::container::bit;

/// Sends a signal.
pub(super) fn kill(store: &Store, args: &Kill) -> Result<u8> {
    let folder = store.find(&args.id)?;
    let record = folder.made()?;
    let signal = signal(&args.signal)?;
    let host = Host::quick()?;
    let status = folder.status(&record, &host);
    let alive = !matches!(status, Status::Stopped | Status::Creating);
    if args.all {
        return match cgroups(&record, &host) {
            Ok(groups) => {
                groups.kill(signal)?;
                Ok(0)
            }
            Err(_) if !alive => Ok(0),
            Err(error) => Err(error),
        };
    }
    // Without a pid namespace of its own the others do not end with the first, and outlive it.
    let own_pids = record.namespaces & bit(oci_spec::runtime::LinuxNamespaceType::Pid) != 0;
    let pidfd = record.process.and_then(Known::open);
    let Some(pidfd) = pidfd.filter(|_| alive) else {
        let groups = cgroups(&record, &host).ok().filter(|_| !own_pids);
        return match groups {
            Some(groups) if signal == 9 && status == Status::Stopped => {
                groups.kill(signal)?;
                Ok(0)
            }
            _ => Err(OciError::NotRunning),
        };
    };
    fault::point()?;
    process::send_signal(pidfd.as_fd(), signal)?;
    fault::point()?;
    let last = signal == 9 && (status == Status::Paused || !own_pids);
    if last && let Ok(groups) = cgroups(&record, &host) {
        groups.kill(signal)?;
    }
    Ok(0)
}

fn signal(text: &str) -> Result<i32> {
    let number = match text {
        "" => Some(15),
        // Only asks whether it is there, see kill(2).
        "0" => Some(0),
        other => process::signal_number(other),
    };
    number.ok_or_else(|| OciError::Usage {
        what: format!("unknown signal {text:?}"),
        why: "use a name such as SIGTERM, or a number".into(),
    })
}

fn cgroups(record: &Record, host: &Host) -> Result<Cgroups> {
    let place = record.cgroup.as_ref().ok_or_else(|| OciError::Usage {
        what: format!("container {:?}", record.id),
        why: "it has no control groups".into(),
    })?;
    Ok(Cgroups::open(host, place)?)
}

/// Holds it still.
pub(super) fn pause(store: &Store, id: &str) -> Result<u8> {
    let may = |status| matches!(status, Status::Running | Status::Created);
    look(store, id, "pause", may)?.freeze()?;
    Ok(0)
}

/// Lets it go on.
pub(super) fn resume(store: &Store, id: &str) -> Result<u8> {
    look(store, id, "resume", |status| status == Status::Paused)?.thaw()?;
    Ok(0)
}

/// Its groups, if that can be done to it.
fn look(
    store: &Store,
    id: &str,
    verb: &'static str,
    may: impl Fn(Status) -> bool,
) -> Result<Cgroups> {
    let folder = store.find(id)?;
    let record = folder.made()?;
    let host = Host::quick()?;
    let status = folder.status(&record, &host);
    if !may(status) {
        return Err(OciError::Status { verb, status });
    }
    cgroups(&record, &host)
}
