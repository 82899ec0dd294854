//! What a thread of a guest may do, for a process of ours that acts in its place: that process takes on
//! the thread's mounts, user namespace and ids, and of its capabilities those that mounting needs. From
//! then on it can do nothing that the thread could not. What is found by a thread's number is its own only
//! if it still waits for its answer afterwards.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::capability::{self, CapabilitySet};
use super::error::{KernelError, Result};
use super::{credentials, namespace, process};

const DAC_OVERRIDE: u8 = 1;
const DAC_READ_SEARCH: u8 = 2;
const SYS_ADMIN: u8 = 21;

/// Of a thread that waits.
#[derive(Debug)]
pub struct Caller {
    mounts: OwnedFd,
    users: OwnedFd,
    root: OwnedFd,
    folder: OwnedFd,
    table: OwnedFd,
    ids: Ids,
}

/// Ids and capabilities, as this process knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ids {
    user: u32,
    group: u32,
    file_user: u32,
    file_group: u32,
    groups: Vec<u32>,
    capabilities: CapabilitySet,
}

impl Caller {
    /// Opens and reads all that is needed of it.
    ///
    /// # Errors
    /// It is gone.
    pub fn of(thread: u32) -> rustix::io::Result<Self> {
        let status = std::fs::read(format!("/proc/{thread}/status"));
        let status = status.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let ids = ids_of(&String::from_utf8_lossy(&status)).ok_or(Errno::SRCH)?;
        let open = |name: &str, flags| {
            let path = format!("/proc/{thread}/{name}");
            rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
        };
        Ok(Self {
            mounts: open("ns/mnt", OFlags::RDONLY)?,
            users: open("ns/user", OFlags::RDONLY)?,
            root: open("root", OFlags::PATH)?,
            folder: open("cwd", OFlags::PATH)?,
            table: open("mountinfo", OFlags::RDONLY)?,
            ids,
        })
    }

    /// Its mounts as they are now (/proc/PID/mountinfo), with paths from its root on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn mounted(&self) -> rustix::io::Result<Vec<u8>> {
        let (mut text, mut piece) = (Vec::new(), vec![0; 1 << 16]);
        rustix::fs::seek(&self.table, rustix::fs::SeekFrom::Start(0))?;
        loop {
            match rustix::io::read(&self.table, &mut piece)? {
                0 => return Ok(text),
                n => text.extend_from_slice(&piece[..n]),
            }
        }
    }

    /// The descriptors of it.
    #[must_use]
    pub fn descriptors(&self) -> Vec<i32> {
        [
            &self.mounts,
            &self.users,
            &self.root,
            &self.folder,
            &self.table,
        ]
        .map(AsRawFd::as_raw_fd)
        .to_vec()
    }

    /// Takes all of it on, for good: a path means to this process what it means to that thread, but for
    /// what `self` is in a procfs. The process has one thread.
    ///
    /// # Errors
    /// The kernel refuses: then this process is in between, and must end.
    pub fn take_on(&self) -> Result<()> {
        use namespace::kind;
        namespace::join_one(self.mounts.as_fd(), kind::MOUNT)?;
        rustix::process::fchdir(&self.root).map_err(KernelError::on("change to", "its root"))?;
        rustix::process::chroot(".").map_err(KernelError::on("change the root to", "its root"))?;
        rustix::process::fchdir(&self.folder)
            .map_err(KernelError::on("change to", "its folder"))?;
        // As the host knows them: what is not mapped in there, and further groups, cannot be had inside.
        credentials::keep_capabilities_over_setuid(true)?;
        credentials::become_user(self.ids.user, self.ids.group, &self.ids.groups)?;
        credentials::act_on_files_as(self.ids.file_user, self.ids.file_group)?;
        // A host with fs.suid_dumpable=1 shows again whoever has changed its user.
        process::hide_from_others()?;
        namespace::join_one(self.users.as_fd(), kind::USER)?;
        let mut needed = CapabilitySet::EMPTY;
        [DAC_OVERRIDE, DAC_READ_SEARCH, SYS_ADMIN]
            .into_iter()
            .for_each(|number| needed.insert(number));
        let rights = self.ids.capabilities.and(needed);
        capability::set(rights, rights)
            .map_err(|error| KernelError::new("set", "capabilities", error.errno))?;
        credentials::no_new_privileges()?;
        process::hide_from_others()
    }
}

/// Whether a thread has the capability without which nobody mounts anything.
#[must_use]
pub fn may_mount(thread: u32) -> bool {
    let status = std::fs::read(format!("/proc/{thread}/status")).unwrap_or_default();
    ids_of(&String::from_utf8_lossy(&status))
        .is_some_and(|ids| ids.capabilities.contains(SYS_ADMIN))
}

/// From /proc/PID/status (proc_pid_status(5)).
fn ids_of(text: &str) -> Option<Ids> {
    let words = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.split_whitespace())
    };
    let nth = |key: &str, n: usize| words(key)?.nth(n)?.parse().ok();
    let groups: Option<Vec<u32>> = words("Groups:")?.map(|word| word.parse().ok()).collect();
    let bits = u64::from_str_radix(words("CapEff:")?.next()?, 16).ok()?;
    Some(Ids {
        user: nth("Uid:", 1)?,
        group: nth("Gid:", 1)?,
        file_user: nth("Uid:", 3)?,
        file_group: nth("Gid:", 3)?,
        groups: groups?,
        capabilities: CapabilitySet::from_bits(bits),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_capabilities_are_read_from_a_status() {
        let text = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \nCapInh:\t0\n\
                    CapEff:\t0000000000200002\n";
        let ids = ids_of(text).unwrap();
        assert_eq!((ids.user, ids.group), (2, 6));
        assert_eq!((ids.file_user, ids.file_group), (4, 8));
        assert_eq!(ids.groups, [9, 10]);
        assert!(ids.capabilities.contains(SYS_ADMIN) && ids.capabilities.contains(1));
        assert!(!ids.capabilities.contains(DAC_READ_SEARCH));
        assert_eq!(ids_of("Uid:\t1\t2\t3\t4\n"), None);
        let none = text.replace("9 10", "");
        assert!(ids_of(&none).unwrap().groups.is_empty());
    }

    #[test]
    fn a_caller_that_is_gone_is_none() {
        assert!(Caller::of(u32::MAX).is_err());
        let own = Caller::of(std::process::id()).unwrap();
        let again = [own.mounted().unwrap(), own.mounted().unwrap()];
        assert!(!again[0].is_empty() && again[0] == again[1]);
    }
}
