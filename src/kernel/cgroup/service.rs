//! Under systemd control groups belong to systemd. A service of our own with `Delegate=yes` is the
//! way to be given a part of the tree (systemd's CGROUP_DELEGATION.md); a process that only sleeps
//! keeps it there, in a group beside ours, since version 2 wants no processes in the service's own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::AtFlags;
use rustix::io::Errno;
use zbus::zvariant::Value;

use super::dir::{Dir, keyed};
use super::{CgroupError, Result, slice, walk};
use crate::kernel::bus::Bus;

/// Group of the sleeping process; no group of ours may be called so.
pub(super) const HOLDER: &str = ".holder";

pub(super) const SLICE: &str = "bulkhead.slice";

fn unit(kernel_name: &str) -> String {
    format!("{kernel_name}.service")
}

/// The service's folder below the root of a hierarchy.
pub(super) fn cgroup(kernel_name: &str) -> PathBuf {
    Path::new(SLICE).join(unit(kernel_name))
}

/// The service whose folder this is.
pub(super) fn unit_at(path: &Path) -> Option<String> {
    let slice = path.parent()?.file_name()?;
    let unit = path.file_name()?.to_str()?;
    (slice == SLICE).then(|| unit.to_owned())
}

/// Has systemd keep memory for a unit, until the next boot or until it is told otherwise: bytes
/// whatever happens, and bytes while others can give.
pub(super) fn keep(unit: &str, [min, low]: [u64; 2]) -> Result<()> {
    let failed = |said: String| CgroupError::Service {
        unit: unit.to_owned(),
        said,
    };
    let properties = vec![
        ("MemoryMin", Value::from(min)),
        ("MemoryLow", Value::from(low)),
    ];
    let mut bus = Bus::systemd().map_err(|e| failed(e.to_string()))?;
    let answer = bus.manager("SetUnitProperties", &(unit, true, properties));
    match answer.map_err(|e| failed(e.to_string()))? {
        Ok(_) => Ok(()),
        Err(refusal) => Err(failed(refusal.said)),
    }
}

/// Whether the folder can be used: its process is there, or groups of ours are. Those keep it when
/// the process was killed, and until they are gone no process can be put there again.
pub(super) fn in_use(dir: &Dir) -> Result<bool> {
    let ours = walk::find_child(dir, |name| {
        (name.to_bytes() != HOLDER.as_bytes()).then_some(())
    });
    match ours {
        Ok(Some(())) => Ok(true),
        Ok(None) => holds(dir),
        // systemd has just taken it away.
        Err(Errno::NOENT | Errno::NODEV) => Ok(false),
        Err(e) => Err(CgroupError::file("list", dir.path(), e)),
    }
}

fn holds(dir: &Dir) -> Result<bool> {
    let Some(holder) = dir.child(HOLDER)? else {
        return Ok(false);
    };
    let events = holder.try_read("cgroup.events")?.unwrap_or_default();
    Ok(keyed(&events, "populated") == Some(1))
}

/// Starts the service, if it does not run, and returns its folder in version 2.
pub(super) fn start(v2: &Path, kernel_name: &str) -> Result<Dir> {
    let path = v2.join(cgroup(kernel_name));
    if let Some(dir) = Dir::open(&path)? {
        if in_use(&dir)? {
            return Ok(dir);
        }
        // Left by a service that has ended: its controllers would keep a new process out.
        let _busy = dir.unlink(HOLDER);
        let _busy = rustix::fs::unlinkat(rustix::fs::CWD, &path, AtFlags::REMOVEDIR);
    }
    let unit = unit(kernel_name);
    let running = said(&unit, "systemctl", &["is-active", "--quiet", &unit]).is_ok();
    if !running {
        run_or_start(&unit)?;
    }
    let gone = |said: &str| CgroupError::Service {
        unit: unit.clone(),
        said: said.to_owned(),
    };
    let dir = Dir::open(&path)?
        .ok_or_else(|| gone("it runs, but its control group is not where it was expected"))?;
    let pid = said(
        &unit,
        "systemctl",
        &["show", "--property=MainPID", "--value", &unit],
    )?;
    let (holder, _) = dir.ensure(HOLDER)?;
    holder.write("cgroup.procs", pid.trim())?;
    Ok(dir)
}

/// systemd keeps a unit that has ended until it has seen that no process is left in its groups,
/// which may take it until something else happens; meanwhile it refuses another of that name, and
/// starts that one again.
fn run_or_start(unit: &str) -> Result<()> {
    let mut tries = 3;
    loop {
        let ran = run_unit(unit);
        if ran.is_ok() || said(unit, "systemctl", &["start", unit]).is_ok() {
            return Ok(());
        }
        // It may have been forgotten between the two.
        tries -= 1;
        if tries == 0 {
            return ran;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn run_unit(unit: &str) -> Result<()> {
    let name = format!("--unit={unit}");
    let slice = format!("--slice={SLICE}");
    let arguments = [
        "--quiet",
        "--collect",
        "--service-type=exec",
        "--description=Bulkhead guests",
        &name,
        &slice,
        // The controllers below are ours; without the rest a guest would share the limits that
        // systemd puts on a usual service, or end all guests by running out of memory.
        "--property=Delegate=yes",
        "--property=TasksMax=infinity",
        "--property=OOMPolicy=continue",
        // Guests do not end with the process that sleeps.
        "--property=KillMode=process",
        "sleep",
        "infinity",
    ];
    said(unit, "systemd-run", &arguments).map(|_| ())
}

/// Stops the service and waits until it is down.
pub(super) fn stop(v2: &Path, kernel_name: &str) -> Result<()> {
    let unit = unit(kernel_name);
    if said(&unit, "systemctl", &["is-active", "--quiet", &unit]).is_err() {
        return Ok(());
    }
    said(&unit, "systemctl", &["stop", &unit])?;
    // Removal of its groups follows in systemd's own time.
    let until = Instant::now() + Duration::from_millis(500);
    while said(&unit, "systemctl", &["is-active", "--quiet", &unit]).is_ok()
        && Instant::now() < until
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    forget_slice(v2);
    Ok(())
}

/// What systemd was told to keep for the slice goes with the last service in it.
fn forget_slice(v2: &Path) {
    slice::at_the_end(|| {
        let slice = Dir::open(&v2.join(SLICE)).ok().flatten();
        if slice.is_some_and(walk::has_children) {
            return false;
        }
        forget_kept();
        true
    });
}

fn forget_kept() {
    let folder = Path::new("/run/systemd/system.control").join(format!("{SLICE}.d"));
    for file in ["50-MemoryMin.conf", "50-MemoryLow.conf"] {
        // Without a guarantee there has never been one.
        let _none = std::fs::remove_file(folder.join(file));
    }
    let _others = std::fs::remove_dir(&folder);
}

/// Runs a command of systemd's; its standard output, or what it said of its failure.
fn said(unit: &str, program: &str, arguments: &[&str]) -> Result<String> {
    let failed = |said: String| CgroupError::Service {
        unit: unit.to_owned(),
        said,
    };
    let out = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|e| failed(format!("{program}: {e}")))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&out.stderr);
    Err(failed(format!(
        "{program}: {} ({})",
        words.trim(),
        out.status
    )))
}
