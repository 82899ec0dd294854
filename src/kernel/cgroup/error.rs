//! What can go wrong with a control group, with the kernel's terse answers put into words. Which
//! exit code or hint follows from it is the front door's business.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use crate::model::CgroupMode;

/// An operation on control groups that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// A system call on a file or folder of a control group failed.
    #[error("cannot {verb} {}{}: {meaning}", path.display(), shown(value))]
    File {
        /// What was tried, such as `write`.
        verb: &'static str,
        /// The control file or folder.
        path: PathBuf,
        /// The value that was to be written; empty for other verbs.
        value: String,
        /// What the kernel's answer means here.
        meaning: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A group of that name is there already.
    #[error(
        "the control group {} exists already: left over from a crash, or still running; \
         remove it first",
        path.display()
    )]
    Exists {
        /// The folder found.
        path: PathBuf,
    },
    /// There is no group of that name in any hierarchy.
    #[error("there is no control group {name:?} below {}", parent.display())]
    Absent {
        /// Name asked for.
        name: String,
        /// Where it was looked for.
        parent: PathBuf,
    },
    /// This host's control groups cannot do what was asked for.
    #[error("{what} cannot be had with {}{}", mode_name(*mode), reason(why))]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// The host's kind of control groups.
        mode: CgroupMode,
        /// Why not, or what to do instead.
        why: &'static str,
    },
    /// A group that a new container was to have is in use.
    #[error("the control group {} cannot be taken: {why}", path.display())]
    Occupied {
        /// The folder found.
        path: PathBuf,
        /// What is in the way, and what to do.
        why: &'static str,
    },
    /// No version 2 hierarchy is mounted.
    #[error(
        "no cgroup version 2 hierarchy is mounted: mount one, for instance with \
         `mount -t cgroup2 none DIRECTORY`"
    )]
    NoV2,
    /// Something did not happen in the time given.
    #[error("{what} of {} did not happen within {} ms", path.display(), after.as_millis())]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// The group.
        path: PathBuf,
        /// How long.
        after: Duration,
    },
    /// systemd did not make the service that holds our groups.
    #[error("cannot start the service {unit} that is to hold the control groups: {said}")]
    Service {
        /// Name of the unit.
        unit: String,
        /// What was said on standard error, or why the command did not run.
        said: String,
    },
    /// systemd did not do something with a container's scope.
    #[error("cannot {verb} the systemd scope {unit}: {said}")]
    Scope {
        /// What was tried.
        verb: &'static str,
        /// Name of the unit.
        unit: String,
        /// What systemd said, or why it was not reached.
        said: String,
    },
    /// A value of the caller's that no kernel would take.
    #[error("{what} is {value:?}: {rule}")]
    Value {
        /// What it was for.
        what: &'static str,
        /// The value.
        value: String,
        /// What would be right.
        rule: &'static str,
    },
}

fn shown(value: &str) -> String {
    if value.is_empty() {
        String::new()
    } else {
        format!(" ({:?})", value.trim_end())
    }
}

fn reason(why: &str) -> String {
    if why.is_empty() {
        String::new()
    } else {
        format!(": {why}")
    }
}

fn mode_name(mode: CgroupMode) -> &'static str {
    match mode {
        CgroupMode::V1 => "the control groups of this host (version 1)",
        CgroupMode::Hybrid => "the control groups of this host (version 1 beside version 2)",
        CgroupMode::V2 => "the control groups of this host (version 2)",
    }
}

impl CgroupError {
    /// A failed call on `path`.
    pub(super) fn file(verb: &'static str, path: &Path, errno: Errno) -> Self {
        Self::with_value(verb, path, "", errno)
    }

    /// A failed write of `value` to `path`.
    pub(super) fn with_value(verb: &'static str, path: &Path, value: &str, errno: Errno) -> Self {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        Self::File {
            verb,
            path: path.to_owned(),
            value: value.to_owned(),
            meaning: meaning(verb, name, errno),
            source: errno.into(),
        }
    }

    /// The kernel's answer, if this is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::File { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether this user may not change control groups here, or nobody may (mounted read-only): a
    /// container without limits can go on without groups.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        let denied = [libc::EACCES, libc::EPERM, libc::EROFS];
        self.errno().is_some_and(|n| denied.contains(&n))
    }

    /// The same error with more said about why.
    pub(super) fn because(mut self, more: &str) -> Self {
        if let Self::File { meaning, .. } = &mut self {
            *meaning = format!("{meaning}; {more}");
        }
        self
    }
}

/// What an error number means for a control file of that name.
fn meaning(verb: &str, file: &str, errno: Errno) -> String {
    let control_file = matches!(verb, "read" | "write") && !file.starts_with("cgroup.");
    let words = match (errno, file) {
        (Errno::NOENT, f) if control_file && f.contains('.') => {
            "no such control file: the controller is not enabled here, or this kernel lacks it"
        }
        (Errno::NOENT, _) => "no such group or file: it may have been removed meanwhile",
        (Errno::BUSY, "memory.limit_in_bytes" | "memory.memsw.limit_in_bytes" | "memory.max") => {
            "the processes inside hold more than that and it cannot be reclaimed"
        }
        (Errno::BUSY, "cgroup.subtree_control") => {
            "processes sit in the group itself, which version 2 forbids for a group whose \
             children have controllers; move them into a child group"
        }
        (Errno::BUSY, "cgroup.procs" | "tasks") => {
            "the group hands controllers to children, so it takes no processes itself"
        }
        (Errno::BUSY, _) => "in use: it still has processes or child groups",
        (Errno::NOSPC, "cpuset.cpus" | "cpuset.mems" | "cgroup.procs" | "tasks") => {
            "no CPUs or memory nodes would be left; give CPUs that exist and are online"
        }
        (Errno::NOSPC, _) => "the kernel has no number left for another control group",
        (Errno::AGAIN, _) => "the limit on the number or depth of control groups is reached",
        (Errno::RANGE, _) => "out of the range that the kernel takes",
        (Errno::INVAL, "cpu.max" | "cpu.cfs_quota_us") => {
            "the kernel takes a quota from 1 ms upwards, no smaller than the burst"
        }
        (Errno::INVAL, "cpu.cfs_burst_us" | "cpu.max.burst") => {
            "a burst can be no larger than the quota"
        }
        (Errno::INVAL, "cpuset.cpus") => "no such CPUs on this machine, or no such list",
        (Errno::INVAL, "memory.memsw.limit_in_bytes" | "memory.limit_in_bytes") => {
            "memory and swap together can be no less than memory alone"
        }
        (Errno::INVAL, _) => "not a value that the kernel takes",
        (Errno::NODEV | Errno::NXIO, _) => "no such block device",
        (Errno::ACCESS | Errno::PERM, _) => {
            "not permitted: this needs root, or a control group delegated to this user"
        }
        (Errno::ROFS, _) => "control groups are mounted read-only here",
        (Errno::OPNOTSUPP, _) => "not possible for this kind of group (threaded, or a root group)",
        (Errno::SRCH, _) => "that process is gone",
        _ => return io::Error::from(errno).to_string(),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_verb_file_value_and_meaning() {
        let error = CgroupError::with_value(
            "write",
            Path::new("/sys/fs/cgroup/x/cpuset.cpus"),
            "7\n",
            Errno::NOSPC,
        );
        let text = error.to_string();
        assert!(
            text.contains("write /sys/fs/cgroup/x/cpuset.cpus (\"7\")"),
            "{text}"
        );
        assert!(text.contains("no CPUs"), "{text}");
        assert_eq!(error.errno(), Some(libc::ENOSPC));
    }

    #[test]
    fn a_missing_controller_is_not_called_a_missing_file() {
        let said = |verb, file| meaning(verb, file, Errno::NOENT);
        assert!(said("write", "memory.high").contains("controller"));
        assert!(!said("write", "cgroup.kill").contains("controller"));
        assert!(!said("list", "bulkhead.service").contains("controller"));
    }
}
