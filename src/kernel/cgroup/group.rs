//! One group: made with its limits or not at all, opened again, entered. How limits are changed
//! later is in `update`, how it ends in `quiet` and `remove`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, OFlags, Uid};
use rustix::io::Errno;

use super::dir::Dir;
use super::limits::{Extent, Site};
use super::parent::{Hierarchy, enable_all, inherit_cpuset};
use super::{CgroupError, Controller, Limits, Parent, Result, Version, devices};
use crate::kernel::fault;
use crate::model::CgroupMode;

/// The delegated child in version 2.
const GUEST: &str = "guest";
/// The child of `guest` that takes an entering process when `guest` itself cannot.
const LEAF: &str = ".bulkhead";

/// A limited set of processes. Dropping it closes descriptors and changes nothing.
#[derive(Debug)]
pub struct Group {
    pub(super) name: String,
    pub(super) mode: CgroupMode,
    pub(super) swap: bool,
    pub(super) v1: Vec<Place>,
    /// `PARENT/NAME`: limits, killing, freezing.
    pub(super) v2: Option<Dir>,
    /// `PARENT/NAME/guest`: where processes are.
    pub(super) guest: Option<Dir>,
    pub(super) v2_controllers: Vec<Controller>,
    pub(super) v1_controllers: Vec<Controller>,
    /// Hierarchies where it has no folder, because nothing was asked of them.
    pub(super) spare: Vec<Hierarchy>,
    /// Where it is in version 1's cpusets as long as it has no folder there (see `seat`).
    pub(super) shared: Option<Dir>,
}

/// The group's folder in a version 1 hierarchy.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) hierarchy: Hierarchy,
    pub(super) dir: Dir,
}

impl Group {
    /// Makes a group that is not there yet, with its limits in force before anything can enter.
    /// The delegated folder in version 2 and the files in it that
    /// `/sys/kernel/cgroup/delegate` names are given to `delegate_to` (user and group).
    ///
    /// # Errors
    /// [`CgroupError::Exists`] when one hierarchy has a group of that name;
    /// [`CgroupError::Unsupported`] when a limit cannot be had here; [`CgroupError::File`] when the
    /// kernel refuses something. In each case nothing stays behind.
    pub fn create(
        parent: &Parent,
        name: &str,
        limits: &Limits,
        delegate_to: Option<(u32, u32)>,
    ) -> Result<Self> {
        // Before any effect: what cannot be had here, or is no limit.
        limits.knobs(&parent.site(""), Extent::Fresh)?;
        let mut group = Self::blank(parent, name)?;
        match group.build(parent, limits, delegate_to) {
            Ok(()) => Ok(group),
            Err(e) => {
                group.undo();
                Err(e)
            }
        }
    }

    /// Opens a group that is there, if only in part (a crash may have left it so).
    ///
    /// # Errors
    /// [`CgroupError::Absent`] when no hierarchy has one; when a folder cannot be opened.
    pub fn open(parent: &Parent, name: &str) -> Result<Self> {
        let mut group = Self::blank(parent, name)?;
        group.v2 = parent.v2.child(name)?;
        if let Some(v2) = &group.v2 {
            group.guest = v2.child(GUEST)?;
        }
        for (hierarchy, dir) in &parent.v1 {
            let found = match dir {
                Some(dir) => dir.child(name)?,
                None => Dir::open(&hierarchy.parent_path().join(name))?,
            };
            group.place(hierarchy, found);
        }
        if group.v2.is_none() && group.v1.is_empty() {
            return Err(CgroupError::Absent {
                name: name.to_owned(),
                parent: parent.path().to_owned(),
            });
        }
        Ok(group)
    }

    fn blank(parent: &Parent, name: &str) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            mode: parent.mode,
            swap: parent.swap,
            v1: Vec::new(),
            v2: None,
            guest: None,
            v2_controllers: parent.v2_controllers.clone(),
            v1_controllers: parent.v1_controllers.clone(),
            spare: Vec::new(),
            shared: parent.shared.as_ref().map(Dir::again).transpose()?,
        })
    }

    fn place(&mut self, hierarchy: &Hierarchy, dir: Option<Dir>) {
        match dir {
            Some(dir) => self.v1.push(Place {
                hierarchy: hierarchy.clone(),
                dir,
            }),
            None => self.spare.push(hierarchy.clone()),
        }
    }

    /// All the steps of making; what was made is in `self` when one fails.
    fn build(
        &mut self,
        parent: &Parent,
        limits: &Limits,
        delegate_to: Option<(u32, u32)>,
    ) -> Result<()> {
        // Version 2 first: whoever makes this folder has the name.
        let v2 = self.v2.insert(parent.v2.make(&self.name)?);
        enable_all(v2, &self.v2_controllers)?;
        fault::point().map_err(|e| CgroupError::file("make a group in", v2.path(), e.errno))?;
        let guest = self.guest.insert(v2.make(GUEST)?);
        if let Some(owner) = delegate_to {
            delegate(
                guest,
                owner,
                self.v2_controllers.contains(&Controller::Memory),
            )?;
        }
        let mut mems = String::new();
        for (hierarchy, above) in &parent.v1 {
            if !hierarchy.used(limits.cpuset.is_some(), limits.devices.is_some()) {
                self.place(hierarchy, None);
                continue;
            }
            let made;
            let above = match above {
                Some(dir) => dir,
                None => {
                    made = hierarchy.ensure()?;
                    &made
                }
            };
            fault::point()
                .map_err(|e| CgroupError::file("make a group in", above.path(), e.errno))?;
            let dir = above.make(&self.name)?;
            self.place(hierarchy, Some(dir));
            if hierarchy.controllers.contains(&Controller::Cpuset) {
                let dir = &self.v1[self.v1.len() - 1].dir;
                match limits.cpuset {
                    Some(_) => above.read("cpuset.mems")?.trim().clone_into(&mut mems),
                    None => inherit_cpuset(above, dir)?,
                }
            }
        }
        for mut knob in limits.knobs(&parent.site(&mems), Extent::Fresh)? {
            fault::point()
                .map_err(|e| CgroupError::file("limit", Path::new(&self.name), e.errno))?;
            let (dir, version) = self.home(knob.controller)?;
            knob.settle(dir, self.mode)?;
            knob.write(dir, version)?;
            knob.verify(dir, version)?;
        }
        self.hand_down(limits)?;
        match &limits.devices {
            Some(rules) => devices::install(self, rules),
            None => Ok(()),
        }
    }

    /// Takes away what `build` made. Nothing has entered, so the folders are empty; an error here
    /// would only hide the one that matters.
    fn undo(&self) {
        for dir in self.dirs() {
            let _left = rustix::fs::unlinkat(rustix::fs::CWD, dir.path(), AtFlags::REMOVEDIR);
        }
    }

    /// Its folders, in the order in which they are taken away. Version 2, which holds the name,
    /// goes last.
    pub(super) fn dirs(&self) -> impl Iterator<Item = &Dir> {
        let v1 = self.v1.iter().rev().map(|place| &place.dir);
        v1.chain(&self.guest).chain(&self.v2)
    }

    /// The folder where a controller is to be had.
    pub(super) fn home(&self, controller: Controller) -> Result<(&Dir, Version)> {
        let site = self.site("");
        let found = match site.version(controller) {
            Some(Version::V2) => self.v2.as_ref().map(|dir| (dir, Version::V2)),
            _ => self.v1_dir(controller).map(|dir| (dir, Version::V1)),
        };
        found.ok_or_else(|| {
            site.unsupported("this limit", "the group has no folder for its controller")
        })
    }

    pub(super) fn v1_dir(&self, controller: Controller) -> Option<&Dir> {
        self.v1
            .iter()
            .find(|place| place.hierarchy.controllers.contains(&controller))
            .map(|place| &place.dir)
    }

    pub(super) fn site<'a>(&'a self, mems: &'a str) -> Site<'a> {
        Site {
            mode: self.mode,
            swap: self.swap,
            v1: &self.v1_controllers,
            v2: &self.v2_controllers,
            mems,
        }
    }

    pub(super) fn v2_dir(&self) -> Result<&Dir> {
        self.v2.as_ref().ok_or_else(|| self.absent())
    }

    fn guest_dir(&self) -> Result<&Dir> {
        self.guest.as_ref().ok_or_else(|| self.absent())
    }

    fn absent(&self) -> CgroupError {
        CgroupError::Absent {
            name: self.name.clone(),
            parent: PathBuf::from("the version 2 parent"),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The delegated folder, to clone into (CLONE_INTO_CGROUP of clone3(2), Linux 5.7).
    ///
    /// # Errors
    /// [`CgroupError::Absent`] when a crash has left the group without it.
    pub fn v2_fd(&self) -> Result<BorrowedFd<'_>> {
        self.guest_dir().map(AsFd::as_fd)
    }

    /// Host path of the version 2 folder, which has the group's own files.
    ///
    /// # Errors
    /// [`CgroupError::Absent`] when a crash has left the group without it.
    pub fn v2_path(&self) -> Result<&Path> {
        self.v2_dir().map(Dir::path)
    }

    /// Host path of the delegated folder.
    ///
    /// # Errors
    /// [`CgroupError::Absent`] when a crash has left the group without it.
    pub fn v2_guest_path(&self) -> Result<&Path> {
        self.guest_dir().map(Dir::path)
    }

    /// Moves the calling process, which must have only one thread, into the version 1 folders; to
    /// be called in the child that was cloned into [`Group::v2_fd`]. Writing `0` to `tasks` costs
    /// a fraction of what a process number in `cgroup.procs` does: no lock against forks anywhere.
    /// Makes no allocation unless it fails.
    ///
    /// # Errors
    /// When the kernel refuses, naming the hierarchy.
    pub fn enter_self(&self) -> Result<()> {
        let shared = match self.v1_dir(Controller::Cpuset) {
            None => self.shared.as_ref(),
            Some(_) => None,
        };
        for dir in self.v1.iter().map(|place| &place.dir).chain(shared) {
            rustix::fs::openat(
                dir,
                c"tasks",
                OFlags::WRONLY | OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            )
            .and_then(|tasks| rustix::io::write(&tasks, b"0"))
            .map_err(|e| CgroupError::with_value("write", &dir.path().join("tasks"), "0", e))?;
        }
        Ok(())
    }

    /// A version 2 folder that takes a new process in a running group, for CLONE_INTO_CGROUP; the
    /// child then calls [`Group::enter_self`]. That is the delegated folder, or, when those inside
    /// have given controllers to groups of their own (a folder with controllers below holds no
    /// processes), a leaf in it that belongs to `owner`. When cloning still says EBUSY, because
    /// that has just been done, ask again with `leaf`.
    ///
    /// # Errors
    /// When the leaf cannot be made: its limit on groups is used up, or the group is going away.
    pub fn exec_fd(&self, owner: Option<(u32, u32)>, leaf: bool) -> Result<OwnedFd> {
        let guest = self.guest_dir()?;
        let whole = !leaf && guest.read("cgroup.subtree_control")?.trim().is_empty();
        let made;
        let dir = if whole {
            guest
        } else {
            let (dir, fresh) = guest.ensure(LEAF)?;
            if let (true, Some(owner)) = (fresh, owner) {
                delegate(
                    &dir,
                    owner,
                    self.v2_controllers.contains(&Controller::Memory),
                )?;
            }
            made = dir;
            &made
        };
        rustix::io::fcntl_dupfd_cloexec(dir, 0)
            .map_err(|e| CgroupError::file("keep open", dir.path(), e))
    }
}

/// Gives a folder to its owner, with the files that the kernel means to be given
/// (/sys/kernel/cgroup/delegate) and none that sets its limits.
pub(super) fn delegate(dir: &Dir, owner: (u32, u32), memory: bool) -> Result<()> {
    let core = [
        "",
        "cgroup.procs",
        "cgroup.threads",
        "cgroup.subtree_control",
    ];
    let of_memory = ["memory.oom.group", "memory.reclaim"];
    let files = core
        .iter()
        .chain(memory.then_some(&of_memory).into_iter().flatten());
    for file in files {
        let flags = if file.is_empty() {
            AtFlags::EMPTY_PATH
        } else {
            AtFlags::SYMLINK_NOFOLLOW
        };
        let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        match rustix::fs::chownat(dir, *file, Some(uid), Some(gid), flags) {
            Ok(()) => {}
            // Of the files, older kernels lack some.
            Err(Errno::NOENT) if !core.contains(file) => {}
            Err(e) => {
                return Err(CgroupError::file(
                    "change the owner of",
                    &dir.path().join(file),
                    e,
                ));
            }
        }
    }
    Ok(())
}
