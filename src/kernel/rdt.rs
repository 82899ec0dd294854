//! Resource control groups of Intel's RDT (resctrl): shares of the last level cache and of memory
//! bandwidth, for the processes of a group. Where the kernel has none, asking for them is an error.

use std::path::{Path, PathBuf};

use super::Errno;
use super::error::{KernelError, Result};

const MOUNTED: &str = "/sys/fs/resctrl";

/// Whether this machine has them.
#[must_use]
pub fn is_there() -> bool {
    Path::new(MOUNTED).join("schemata").exists()
}

fn folder(group: &str) -> Result<PathBuf> {
    if group == "/" {
        return Ok(PathBuf::from(MOUNTED));
    }
    if group.is_empty() || group.contains(['/', '\0', '\n']) || group == "." || group == ".." {
        let why = "it is one name, without a slash";
        return Err(KernelError::new("use the RDT group", group, Errno::INVAL).because(why));
    }
    Ok(PathBuf::from(MOUNTED).join(group))
}

/// Puts a process into a group, made and given its schemata if need be. Says whether it was made.
///
/// # Errors
/// There is no RDT, or the kernel refuses a line; a group made for it is removed again.
pub fn enter(group: &str, schemata: &[String], pid: u32) -> Result<bool> {
    if !is_there() {
        let error = KernelError::new("use", "Intel RDT", Errno::OPNOTSUPP);
        return Err(error.because("this machine has no /sys/fs/resctrl"));
    }
    let folder = folder(group)?;
    let made = match std::fs::create_dir(&folder) {
        Ok(()) => true,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(KernelError::io("make", folder.display())(error)),
    };
    let write = |file: &str, text: &str| {
        let path = folder.join(file);
        std::fs::write(&path, text).map_err(KernelError::io("write", path.display()))
    };
    let all = || {
        for line in schemata {
            write("schemata", &format!("{line}\n"))?;
        }
        write("tasks", &pid.to_string())
    };
    all().inspect_err(|_| {
        if made {
            remove(group);
        }
    })?;
    Ok(made)
}

/// Removes a group; one that is gone is fine.
pub fn remove(group: &str) {
    if let Ok(folder) = folder(group)
        && folder != Path::new(MOUNTED)
    {
        let _gone = std::fs::remove_dir(folder);
    }
}
