//! Where a thread of a guest stands: its namespaces, root and folder, its user and capabilities. What is
//! done in its place is done by a process of our own that has become all of that, and so can do nothing
//! which that thread could not: whatever paths lead to, the kernel decides as for itself.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::Signal;

use super::capability::{self, CapabilitySet};
use super::namespace::{self, kind};
use super::process::{self, CloneFlags, Forked};
use super::{credentials, inherited};

/// The thread must wait for its answer still after this has been made: else it is another's.
pub struct CallerPlace {
    thread: u32,
    user: OwnedFd,
    mounts: OwnedFd,
    net: OwnedFd,
    processes: OwnedFd,
    root: OwnedFd,
    folder: OwnedFd,
    rights: Rights,
}

/// Ids as the host counts them.
struct Rights {
    user: u32,
    group: u32,
    groups: Vec<u32>,
    capabilities: CapabilitySet,
}

/// By which the process that acts says how it went, before it goes on.
pub struct Teller(OwnedFd);

impl Teller {
    /// 0, or the number of an error.
    pub fn say(&self, errno: u8) {
        // Nobody hears it when the one who waits has given up.
        let _unheard = rustix::io::write(&self.0, &[errno]);
    }
}

impl CallerPlace {
    /// `None` when the thread is gone, and for one that is held by more than ids, capabilities and
    /// namespaces, which nobody can take on for it: the rules of a security module, or those of its own
    /// making that no_new_privs is for.
    #[must_use]
    pub fn of(thread: u32) -> Option<Self> {
        if label(&thread.to_string()) != label("self") {
            return None;
        }
        let text = std::fs::read(format!("/proc/{thread}/status")).ok()?;
        let rights = rights(&String::from_utf8_lossy(&text))?;
        let namespace = |name| namespace::open(thread, name).ok();
        Some(Self {
            thread,
            user: namespace("user")?,
            mounts: namespace("mnt")?,
            net: namespace("net")?,
            processes: namespace("pid")?,
            root: link(thread, "root")?,
            folder: link(thread, "cwd")?,
            rights,
        })
    }

    /// What a descriptor of the thread is of, only to be looked at.
    #[must_use]
    pub fn file(&self, number: u32) -> Option<OwnedFd> {
        link(self.thread, &format!("fd/{number}"))
    }

    /// Makes the process, which does `here` as we, and `there` in the caller's place, and waits until it
    /// has ended, or for so long. Returns what it has said. For a process with one thread; `home` is its
    /// own namespace of processes, `kept` are the descriptors that the new one needs.
    pub fn act<T>(
        &self,
        home: BorrowedFd<'_>,
        kept: &[BorrowedFd<'_>],
        longest: Duration,
        here: impl FnOnce() -> Option<T>,
        there: impl FnOnce(T, &Teller),
    ) -> Option<u8> {
        let (ears, mouth) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // What is mounted as a procfs is that of the mounting process's own namespace, into which one
        // can only be born.
        namespace::join_one(self.processes.as_fd(), kind::PID).ok()?;
        let forked = process::fork_with(CloneFlags::default(), None);
        if matches!(forked, Ok(Forked::Child)) {
            let _guard = process::NoReturn;
            drop(ears);
            let mouth = Teller(mouth);
            if self.close_others(kept, &mouth).is_some()
                && let Some(ready) = here()
                && self.become_caller().is_some()
            {
                there(ready, &mouth);
            }
            process::leave(0)
        }
        if namespace::join_one(home, kind::PID).is_err() {
            // The next children would be born in the guest. Another one of us is made.
            process::leave(1)
        }
        let Ok(Forked::Parent { pidfd, .. }) = forked else {
            return None;
        };
        // A path can lead to files that never come.
        if !process::wait_gone(pidfd.as_fd(), Some(longest)).unwrap_or(false) {
            let _gone = process::send_signal(pidfd.as_fd(), Signal::KILL.as_raw());
        }
        process::collect(pidfd.as_fd());
        let mut said = [0];
        match rustix::io::read(&ears, &mut said) {
            Ok(1) => Some(said[0]),
            _ => None,
        }
    }

    fn close_others(&self, kept: &[BorrowedFd<'_>], mouth: &Teller) -> Option<()> {
        let own = [
            &self.user,
            &self.mounts,
            &self.net,
            &self.root,
            &self.folder,
        ];
        let own = own.into_iter().chain([&mouth.0]).map(AsFd::as_fd);
        let mut kept: Vec<i32> = own
            .chain(kept.iter().copied())
            .map(|fd| fd.as_raw_fd())
            .collect();
        inherited::close_all_but(&mut kept).ok()
    }

    /// The rights are put off last: until then nothing is done that the caller has a say in.
    fn become_caller(&self) -> Option<()> {
        namespace::join_one(self.net.as_fd(), kind::NET).ok()?;
        namespace::join_one(self.mounts.as_fd(), kind::MOUNT).ok()?;
        rustix::process::fchdir(&self.root).ok()?;
        rustix::process::chroot(".").ok()?;
        rustix::process::fchdir(&self.folder).ok()?;
        let Rights {
            user,
            group,
            groups,
            capabilities,
        } = &self.rights;
        // Those that joining the user namespace takes.
        credentials::keep_capabilities_over_setuid(true).ok()?;
        credentials::become_user(*user, *group, groups).ok()?;
        namespace::join_one(self.user.as_fd(), kind::USER).ok()?;
        // Who has changed its user can be looked into, where fs.suid_dumpable is 1.
        process::hide_from_others().ok()?;
        capability::set(*capabilities, *capabilities).ok()
    }
}

/// What a security module has written on a process; none where there is none.
fn label(process: &str) -> Option<Vec<u8>> {
    std::fs::read(format!("/proc/{process}/attr/current")).ok()
}

fn link(thread: u32, name: &str) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/{thread}/{name}"), flags, Mode::empty()).ok()
}

/// Those in a thread's /proc/PID/status: the ids that file systems see, the capabilities in effect.
fn rights(status: &str) -> Option<Rights> {
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
    let number = |word: &str| word.parse::<u32>().ok();
    let last = |key| value(key)?.split_whitespace().nth(3).and_then(number);
    if value("NoNewPrivs:")?.trim() != "0" {
        return None;
    }
    let groups = value("Groups:")?.split_whitespace().map(number);
    let capabilities = u64::from_str_radix(value("CapEff:")?.trim(), 16).ok()?;
    Some(Rights {
        user: last("Uid:")?,
        group: last("Gid:")?,
        groups: groups.collect::<Option<_>>()?,
        capabilities: CapabilitySet::from_bits(capabilities),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nUid:\t1\t2\t3\t100004\nGid:\t5\t6\t7\t100008\n\
                          Groups:\t27 100 \nCapEff:\t0000000000200001\nNoNewPrivs:\t0\n";

    #[test]
    fn rights_are_those_that_the_kernel_would_look_at() {
        let told = rights(STATUS).unwrap();
        assert_eq!((told.user, told.group), (100_004, 100_008));
        assert_eq!(told.groups, [27, 100]);
        assert!(told.capabilities.contains(21) && told.capabilities.contains(0));
        assert!(
            rights(&STATUS.replace("27 100", ""))
                .unwrap()
                .groups
                .is_empty()
        );
        // One that has cut itself off from more rights may have rules that we would not have.
        assert!(rights(&STATUS.replace("Privs:\t0", "Privs:\t1")).is_none());
        for end in 0..STATUS.len() - 1 {
            let _cut = rights(&STATUS[..end]);
        }
        assert!(rights("").is_none());
    }
}
