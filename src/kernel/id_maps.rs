//! Id maps of a new user namespace, written by whoever may: root any, anybody else one id of their
//! own, and further ones through newuidmap(1) and newgidmap(1), which ask /etc/subuid.

use std::process::{Command, Stdio};

use rustix::io::Errno;

use super::error::{KernelError, Result};
use super::namespace::{IdMap, write_id_maps, write_proc};

/// Writes the maps of a process that has just made a user namespace.
///
/// # Errors
/// The caller may not map these ids, or a helper for it is missing.
pub fn write(pid: u32, users: &[IdMap], groups: &[IdMap]) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return write_id_maps(pid, users, groups);
    }
    let own =
        |maps: &[IdMap], id: u32| matches!(maps, [map] if map.count == 1 && map.outside == id);
    if own(groups, rustix::process::getegid().as_raw()) {
        // CVE-2014-8989: who could drop a group could get around what is denied to it.
        write_proc(pid, "setgroups", "deny")?;
        write_proc(pid, "gid_map", &text(groups, "\n"))?;
    } else {
        help("newgidmap", "/etc/subgid", pid, groups)?;
    }
    if own(users, rustix::process::geteuid().as_raw()) {
        write_proc(pid, "uid_map", &text(users, "\n"))
    } else {
        help("newuidmap", "/etc/subuid", pid, users)
    }
}

fn text(maps: &[IdMap], end: &str) -> String {
    maps.iter()
        .map(|m| format!("{} {} {}{end}", m.inside, m.outside, m.count))
        .collect()
}

fn help(program: &str, table: &str, pid: u32, maps: &[IdMap]) -> Result<()> {
    let failed = |errno| KernelError::new("map the ids of the container with", program, errno);
    let words = text(maps, " ");
    let output = Command::new(program)
        .arg(pid.to_string())
        .args(words.split_whitespace())
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(failed(Errno::PERM).because(format!("{}; see {table}", said.trim())))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(failed(Errno::NOENT)
            .because("more ids than your own need it: install the package uidmap")),
        Err(error) => Err(KernelError::io("run", program)(error)),
    }
}
