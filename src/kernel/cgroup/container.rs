//! The control groups of one OCI container, at a path its client chose: what is held of them, how
//! they are opened again and entered. They are made in `container_make`, what is written into them
//! is in `container_write`, how they end in `container_signal` and `container_remove`. Groups of
//! guests are in `group`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};

use super::dir::Dir;
use super::group::delegate;
use super::{CgroupError, Host, Result};
use crate::model::{CgroupHost, CgroupMode, CgroupPlace};

/// The child that takes an entering process when the group itself cannot.
const LEAF: &str = ".bulkhead-exec";

/// The control groups of a container. Dropping it closes descriptors and changes nothing.
#[derive(Debug)]
pub struct Cgroups {
    pub(super) place: CgroupPlace,
    pub(super) mode: CgroupMode,
    pub(super) v1: Vec<Slot>,
    pub(super) v2: Option<Slot>,
}

/// The container's folder in one hierarchy.
#[derive(Debug)]
pub(super) struct Slot {
    /// Controllers of the hierarchy, as mountinfo names them; none for version 2.
    pub(super) names: Vec<String>,
    pub(super) mount: PathBuf,
    pub(super) dir: Dir,
    /// Whether it was made just now and has no limits yet: it is as the kernel makes them.
    pub(super) fresh: AtomicBool,
}

impl Slot {
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh.load(Ordering::Relaxed)
    }
}

/// What a container's own view of the control groups has to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupBind {
    /// Folder in /sys/fs/cgroup, such as `cpu,cpuacct`; empty for version 2 alone, whose one
    /// hierarchy is all of /sys/fs/cgroup.
    pub name: String,
    /// Whether the hierarchy is that of version 2.
    pub version_2: bool,
    /// Other names of that folder: links to it, one for each controller.
    pub aliases: Vec<String>,
    /// Host path of the container's own folder.
    pub path: PathBuf,
}

impl From<&Host> for CgroupHost {
    fn from(host: &Host) -> Self {
        Self {
            mode: host.mode,
            v1: host.v1.keys().cloned().collect(),
            v2: host.v2_controllers.iter().cloned().collect(),
            swap: host.swap_accounting,
        }
    }
}

/// Version 1 hierarchies: where each is mounted and which controllers it has.
pub(super) fn hierarchies(host: &Host) -> Vec<(&Path, Vec<&str>)> {
    let mut all: Vec<(&Path, Vec<&str>)> = Vec::with_capacity(host.v1.len());
    for (name, at) in &host.v1 {
        match all.iter_mut().find(|(known, _)| known == at) {
            Some((_, names)) => names.push(name),
            None => all.push((at, vec![name])),
        }
    }
    all
}

/// The container's folder in the hierarchy mounted at `mount`.
pub(super) fn folder(mount: &Path, place: &CgroupPlace) -> PathBuf {
    mount.join(place.path.strip_prefix("/").unwrap_or(&place.path))
}

impl Cgroups {
    /// Opens the groups that are there: in each hierarchy where the container has a folder.
    ///
    /// # Errors
    /// [`CgroupError::Absent`] when no hierarchy has one; when a folder cannot be opened.
    pub fn open(host: &Host, place: &CgroupPlace) -> Result<Self> {
        let slot = |at: &Path, names: &[&str]| -> Result<Option<Slot>> {
            Ok(Dir::open(&folder(at, place))?.map(|dir| Slot {
                names: names.iter().map(|&n| n.to_owned()).collect(),
                mount: at.to_owned(),
                dir,
                fresh: AtomicBool::new(false),
            }))
        };
        let mut v1 = Vec::new();
        for (at, names) in hierarchies(host) {
            v1.extend(slot(at, &names)?);
        }
        let v2 = match &host.v2 {
            Some(at) => slot(at, &[])?,
            None => None,
        };
        if v1.is_empty() && v2.is_none() {
            return Err(CgroupError::Absent {
                name: place.path.display().to_string(),
                parent: host.v2.clone().unwrap_or_default(),
            });
        }
        Ok(Self {
            place: place.clone(),
            mode: host.mode,
            v1,
            v2,
        })
    }

    /// Where the groups are; to be kept for removing them, since it says which folders above were
    /// made for them.
    #[must_use]
    pub fn place(&self) -> &CgroupPlace {
        &self.place
    }

    /// The version 2 folder, to clone into (CLONE_INTO_CGROUP of clone3(2), Linux 5.7); `None`
    /// where there is no version 2.
    #[must_use]
    pub fn v2_fd(&self) -> Option<BorrowedFd<'_>> {
        self.v2.as_ref().map(|slot| slot.dir.as_fd())
    }

    /// Moves the calling process, which must have only one thread, into the version 1 folders; to
    /// be called in the child that was cloned into [`Cgroups::v2_fd`]. Writing `0` to `tasks` costs
    /// a fraction of what a process number in `cgroup.procs` does: no lock against forks anywhere.
    /// Makes no allocation unless it fails.
    ///
    /// # Errors
    /// When the kernel refuses, naming the hierarchy.
    pub fn enter_self(&self) -> Result<()> {
        for slot in &self.v1 {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&slot.dir, c"tasks", flags, Mode::empty())
                .and_then(|tasks| rustix::io::write(&tasks, b"0"))
                .map_err(|e| {
                    CgroupError::with_value("write", &slot.dir.path().join("tasks"), "0", e)
                })?;
        }
        Ok(())
    }

    /// Moves another process, with all its threads, into every folder: for one that was started
    /// elsewhere, as a systemd scope's first process is.
    ///
    /// # Errors
    /// When the kernel refuses, naming the hierarchy.
    pub fn enter_pid(&self, pid: i32) -> Result<()> {
        let pid = pid.to_string();
        for slot in self.v1.iter().chain(&self.v2) {
            slot.dir.write("cgroup.procs", &pid)?;
        }
        Ok(())
    }

    /// A version 2 folder that takes a new process of a running container, for CLONE_INTO_CGROUP;
    /// the child then calls [`Cgroups::enter_self`]. That is the container's folder, or, when those
    /// inside have given controllers to groups of their own (a folder with controllers below holds
    /// no processes), a leaf in it. When cloning still says EBUSY, because that has just been done,
    /// ask again with `leaf`. `None` where there is no version 2.
    ///
    /// # Errors
    /// When the leaf cannot be made: its limit on groups is used up, or the group is going away.
    pub fn exec_fd(&self, owner: Option<(u32, u32)>, leaf: bool) -> Result<Option<OwnedFd>> {
        let Some(Slot { dir, .. }) = &self.v2 else {
            return Ok(None);
        };
        let whole = !leaf && dir.read("cgroup.subtree_control")?.trim().is_empty();
        let keep = |dir: &Dir| {
            rustix::io::fcntl_dupfd_cloexec(dir, 0)
                .map(Some)
                .map_err(|e| CgroupError::file("keep open", dir.path(), e))
        };
        if whole {
            return keep(dir);
        }
        let (made, fresh) = dir.ensure(LEAF)?;
        if let (true, Some(owner)) = (fresh, owner) {
            delegate(&made, owner, made.has("memory.oom.group"))?;
        }
        keep(&made)
    }

    /// Goes down to a group below the container's, in the version 1 hierarchies of these controllers,
    /// or in every hierarchy where there is one of that path.
    ///
    /// # Errors
    /// The path leads elsewhere, there is no such group, or no such controller.
    pub fn descend(&mut self, controllers: &[&str], path: &Path) -> Result<()> {
        let part = path.strip_prefix("/").unwrap_or(path);
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
        let wrong = |rule| CgroupError::Value {
            what: "the group to enter",
            value: path.display().to_string(),
            rule,
        };
        if !part.components().all(plain) {
            let rule = "bad sub cgroup path, it must be below the container's own group";
            return Err(wrong(rule));
        }
        let mut found = 0;
        for slot in self.v1.iter_mut().chain(&mut self.v2) {
            let named = |name: &String| {
                let plain = name.trim_start_matches("name=");
                controllers.contains(&plain) || controllers.contains(&name.as_str())
            };
            if !controllers.is_empty() && !slot.names.iter().any(named) {
                continue;
            }
            if let Some(dir) = Dir::open(&slot.dir.path().join(part))? {
                slot.dir = dir;
                found += 1;
            }
        }
        match found {
            0 => Err(wrong("there is no such group below the container's own")),
            _ => Ok(()),
        }
    }

    /// What the container's own view of control groups shows, in the order of hierarchies.
    #[must_use]
    pub fn binds(&self) -> Vec<CgroupBind> {
        let bind = |slot: &Slot| {
            let name = slot.mount.file_name().and_then(|n| n.to_str());
            let name = name.unwrap_or_default().to_owned();
            let plain = slot.names.iter().filter(|n| !n.starts_with("name="));
            let aliases = plain.filter(|n| **n != name).cloned().collect();
            CgroupBind {
                name,
                version_2: false,
                aliases,
                path: slot.dir.path().to_owned(),
            }
        };
        let mut all: Vec<CgroupBind> = self.v1.iter().map(bind).collect();
        if let Some(slot) = &self.v2 {
            let mut one = bind(slot);
            one.version_2 = true;
            if self.mode == CgroupMode::V2 {
                one.name.clear();
            }
            all.push(one);
        }
        all
    }

    /// The folder where a controller of that name is to be had.
    pub(super) fn home(&self, controller: &str) -> Option<&Dir> {
        let has = |slot: &&Slot| slot.names.iter().any(|n| n == controller);
        let v1 = self.v1.iter().find(has);
        let other = || self.v2.as_ref().filter(|_| self.mode != CgroupMode::V1);
        v1.or_else(other).map(|slot| &slot.dir)
    }

    /// The version 1 folder of a controller.
    pub(super) fn v1_dir(&self, controller: &str) -> Option<&Dir> {
        let has = |slot: &&Slot| slot.names.iter().any(|n| n == controller);
        self.v1.iter().find(has).map(|slot| &slot.dir)
    }
}
