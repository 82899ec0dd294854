//! The folder that holds our groups in each hierarchy: `KERNEL_NAME` below the root, or under
//! systemd the control group of a service of our own (see `service`). Single groups are in `group`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::dir::Dir;
use super::host::named;
use super::limits::Site;
use super::{CgroupError, Controller, Host, Result, seat, service, walk};
use crate::model::CgroupMode;

/// Where groups go.
#[derive(Debug)]
pub struct Parent {
    pub(super) mode: CgroupMode,
    pub(super) swap: bool,
    pub(super) v1: Vec<(Hierarchy, Option<Dir>)>,
    pub(super) v2: Dir,
    /// Where version 1 has guests that did not choose their CPUs (see `seat`).
    pub(super) shared: Option<Dir>,
    /// Controllers that groups here can have in version 2, and in version 1.
    pub(super) v2_controllers: Vec<Controller>,
    pub(super) v1_controllers: Vec<Controller>,
}

/// A version 1 hierarchy and the place of our parent in it.
#[derive(Clone, Debug)]
pub(super) struct Hierarchy {
    /// Those of ours; none for `name=systemd`, which only tracks processes.
    pub(super) controllers: Vec<Controller>,
    path: PathBuf,
    /// Whether the folder above is ours too (see `folder`).
    nested: bool,
}

impl Hierarchy {
    /// Whether every group has a folder here. The others are made for those that ask for them.
    fn always(&self) -> bool {
        use Controller::{Cpu, Io, Memory, Pids};
        let usual = |c: &Controller| matches!(c, Cpu | Io | Memory | Pids);
        self.controllers.is_empty() || self.controllers.iter().any(usual)
    }

    /// Whether a group that wants CPUs or devices chosen has a folder here.
    pub(super) fn used(&self, cpuset: bool, devices: bool) -> bool {
        self.always()
            || (cpuset && self.controllers.contains(&Controller::Cpuset))
            || (devices && self.controllers.contains(&Controller::Devices))
    }

    /// Whether groups that do not choose their CPUs are together here.
    pub(super) fn is_shared(&self) -> bool {
        self.controllers.contains(&Controller::Cpuset) && !self.always()
    }

    /// The same with the parent in a folder of the parent's.
    pub(super) fn at(&self, path: PathBuf) -> Self {
        Self {
            controllers: self.controllers.clone(),
            path,
            nested: true,
        }
    }

    /// Where the parent's folder is, or would be.
    pub(super) fn parent_path(&self) -> &Path {
        &self.path
    }

    /// The parent's folder, made if need be.
    pub(super) fn ensure(&self) -> Result<Dir> {
        if let Some(dir) = Dir::open(&self.path)? {
            return Ok(dir);
        }
        let above = self.path.parent().unwrap_or(&self.path);
        let absent = || CgroupError::file("open", above, Errno::NOENT);
        let root = match Dir::open(above)? {
            Some(root) => root,
            None if self.nested => {
                let mut outer = self.at(above.to_owned());
                outer.nested = false;
                outer.ensure()?
            }
            None => return Err(absent()),
        };
        let name = self.path.file_name().and_then(|n| n.to_str());
        let (dir, _) = root.ensure(name.unwrap_or_default())?;
        if self.controllers.contains(&Controller::Cpuset) {
            inherit_cpuset(&root, &dir)?;
        }
        Ok(dir)
    }
}

/// Gives a version 1 cpuset what its parent has; a new one has nothing, and nothing can run in it.
pub(super) fn inherit_cpuset(parent: &Dir, dir: &Dir) -> Result<()> {
    for file in ["cpuset.mems", "cpuset.cpus"] {
        dir.write(file, &parent.read(file)?)?;
    }
    Ok(())
}

impl Parent {
    /// Opens the parent called `kernel_name`, and makes it where it is missing. Only for making
    /// is the file `lock` taken (flock(2); created if absent), so that two first launches do not
    /// disturb each other.
    ///
    /// # Errors
    /// [`CgroupError::NoV2`] when no version 2 is mounted; when a folder cannot be made, or systemd
    /// refuses the service.
    pub fn ensure(host: &Host, kernel_name: &str, lock: &Path) -> Result<Self> {
        if let Some(parent) = Self::look(host, kernel_name)?
            && parent.complete(host)?
        {
            return Ok(parent);
        }
        let _held = take(lock)?;
        make(host, kernel_name)?;
        Self::look(host, kernel_name)?.ok_or_else(|| CgroupError::Absent {
            name: kernel_name.to_owned(),
            parent: host.v2.clone().unwrap_or_default(),
        })
    }

    /// Whether there is nothing left to make: every controller that can be given to groups is.
    fn complete(&self, host: &Host) -> Result<bool> {
        if self.shared.is_none() && self.v1.iter().any(|(h, _)| h.is_shared()) {
            return Ok(false);
        }
        let usable = host.v2_usable();
        let given = |c: &Controller| self.v2_controllers.contains(c);
        if usable.iter().all(given) {
            return Ok(true);
        }
        let possible = listed(&self.v2, "cgroup.controllers")?;
        Ok(possible.iter().all(given) && !unmanaged(host))
    }

    /// Takes the calling process out of the session it was started from and into the service that
    /// holds the groups, beside the process that sleeps there. Only under systemd is there one.
    ///
    /// # Errors
    /// When there is no service, or the kernel refuses.
    pub fn shelter(&self) -> Result<()> {
        match self.v2.child(service::HOLDER)? {
            Some(holder) => holder.write("cgroup.procs", "0"),
            None => Err(CgroupError::Absent {
                name: service::HOLDER.to_owned(),
                parent: self.v2.path().to_owned(),
            }),
        }
    }

    /// Opens the parent if it is there in every hierarchy that all groups use.
    ///
    /// # Errors
    /// [`CgroupError::NoV2`] when no version 2 is mounted; when a folder cannot be read.
    pub fn look(host: &Host, kernel_name: &str) -> Result<Option<Self>> {
        let root = host.v2.as_deref().ok_or(CgroupError::NoV2)?;
        let Some(v2) = Dir::open(&place(host, root, kernel_name))? else {
            return Ok(None);
        };
        if host.systemd && !service::in_use(&v2)? {
            return Ok(None);
        }
        let v2_controllers = match host.v2_usable().is_empty() {
            true => Vec::new(),
            false => listed(&v2, SUBTREE)?,
        };
        let (mut v1, mut shared) = (Vec::new(), None);
        for hierarchy in hierarchies(host, kernel_name) {
            if hierarchy.is_shared() {
                shared = Dir::open(&hierarchy.path.join(seat::SHARED))?;
            }
            let dir = match hierarchy.always() {
                true => match Dir::open(&hierarchy.path)? {
                    Some(dir) => Some(dir),
                    None => return Ok(None),
                },
                false => None,
            };
            v1.push((hierarchy, dir));
        }
        let v1_controllers = v1.iter().flat_map(|(h, _)| h.controllers.clone()).collect();
        Ok(Some(Self {
            mode: host.mode,
            swap: host.swap_accounting,
            v1,
            v2,
            shared,
            v2_controllers,
            v1_controllers,
        }))
    }

    /// The version 2 folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.v2.path()
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
}

/// Our folder in the hierarchy mounted at `root`. Of version 1 only the hierarchy of systemd's own
/// name has to agree with the service. In the others systemd makes the service's folder when it
/// sees a need and trims what is empty in it, so there ours is at the root, where it touches
/// nothing that it did not make.
fn place(host: &Host, root: &Path, kernel_name: &str) -> PathBuf {
    let named = host.v1.get("name=systemd").map(PathBuf::as_path);
    if host.systemd && (host.v2.as_deref() == Some(root) || named == Some(root)) {
        return root.join(service::cgroup(kernel_name));
    }
    root.join(kernel_name)
}

/// Whether systemd leaves the controllers of version 2 alone: on a hybrid host it only follows
/// processes there, and those that are not on version 1 (memory and cpuset on newer kernels) are
/// handed down by nobody.
fn unmanaged(host: &Host) -> bool {
    host.systemd && host.mode == CgroupMode::Hybrid
}

/// The version 1 hierarchies that can be of use.
fn hierarchies(host: &Host, kernel_name: &str) -> Vec<Hierarchy> {
    let mut mounts: Vec<&PathBuf> = Vec::new();
    for at in host.v1.values() {
        if !mounts.contains(&at) {
            mounts.push(at);
        }
    }
    let mut found = Vec::new();
    for mount in mounts {
        let here = |name: &str| host.v1.get(name) == Some(mount);
        let controllers: Vec<Controller> = Controller::ALL
            .into_iter()
            .filter(|c| c.v1_name().is_some_and(here))
            .collect();
        // systemd of a version 1 host follows processes by the hierarchy of its name: left in
        // the caller's session there, a group would be killed with the session.
        if !controllers.is_empty() || (host.systemd && here("name=systemd")) {
            found.push(Hierarchy {
                path: place(host, mount, kernel_name),
                controllers,
                nested: false,
            });
        }
    }
    found
}

fn listed(dir: &Dir, file: &str) -> Result<Vec<Controller>> {
    Ok(named(dir.read(file)?.split_whitespace()))
}

/// Holds the lock until dropped.
fn take(lock: &Path) -> Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let open = rustix::fs::openat(CWD, lock, flags, Mode::from_raw_mode(0o600));
    open.and_then(|fd| {
        rustix::fs::flock(&fd, FlockOperation::LockExclusive)?;
        Ok(fd)
    })
    .map_err(|e| CgroupError::file("lock", lock, e))
}

fn make(host: &Host, kernel_name: &str) -> Result<()> {
    let mount = host.v2.as_deref().ok_or(CgroupError::NoV2)?;
    let absent = || CgroupError::file("open", mount, Errno::NOENT);
    let dir = if host.systemd {
        let dir = service::start(mount, kernel_name)?;
        if unmanaged(host) {
            for above in [Some(mount), dir.path().parent()].into_iter().flatten() {
                enable(&Dir::open(above)?.ok_or_else(absent)?, &host.v2_usable())?;
            }
        }
        dir
    } else {
        let root = Dir::open(mount)?.ok_or_else(absent)?;
        enable(&root, &host.v2_usable())?;
        root.ensure(kernel_name)?.0
    };
    if !host.v2_controllers.is_empty() {
        enable(&dir, &listed(&dir, "cgroup.controllers")?)?;
    }
    for hierarchy in hierarchies(host, kernel_name) {
        if hierarchy.always() {
            hierarchy.ensure()?;
        } else if hierarchy.is_shared() {
            seat::make_shared(&hierarchy.ensure()?)?;
        }
    }
    Ok(())
}

/// Hands controllers to the children of a new group; all of them, for its parent has them.
pub(super) fn enable_all(dir: &Dir, wanted: &[Controller]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let names = wanted.iter().filter_map(|c| c.v2_name());
    let all: String = names.map(|name| format!("+{name} ")).collect();
    dir.write(SUBTREE, &all)
}

const SUBTREE: &str = "cgroup.subtree_control";

/// Hands controllers to the children of `dir`. One that the kernel refuses alone (`cpu` while
/// real-time processes run, say) is left out: a limit that needs it will be an error that says so.
fn enable(dir: &Dir, wanted: &[Controller]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let have = listed(dir, SUBTREE)?;
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|c| !have.contains(c))
        .filter_map(|c| c.v2_name())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let all: String = missing.iter().map(|name| format!("+{name} ")).collect();
    let Err(first) = dir.write(SUBTREE, &all) else {
        return Ok(());
    };
    let refused = missing
        .iter()
        .filter(|name| dir.write(SUBTREE, &format!("+{name}")).is_err())
        .count();
    if refused == missing.len() && first.errno() == Some(libc::EBUSY) {
        return Err(first);
    }
    Ok(())
}

/// Names of the groups there, in any hierarchy: also what a crash has left in only one of them.
///
/// # Errors
/// When a folder cannot be read.
pub fn list(parent: &Parent) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut add = |dir: &Dir| -> Result<()> {
        let found = walk::children(dir).map_err(|e| CgroupError::file("list", dir.path(), e))?;
        names.extend(found.iter().map(|n| n.to_string_lossy().into_owned()));
        Ok(())
    };
    add(&parent.v2)?;
    for (hierarchy, dir) in &parent.v1 {
        match dir {
            Some(dir) => add(dir)?,
            None => {
                if let Some(dir) = Dir::open(&hierarchy.path)? {
                    add(&dir)?;
                }
            }
        }
    }
    names.remove(service::HOLDER);
    names.remove(seat::SHARED);
    Ok(names)
}

/// Removes the parent from every hierarchy, if no group is left in it; says whether it is gone.
/// Under systemd the service is stopped first. Takes `lock` as [`Parent::ensure`] does.
///
/// # Errors
/// When a folder cannot be removed for another reason than groups in it.
pub fn remove_parent_if_empty(host: &Host, kernel_name: &str, lock: &Path) -> Result<bool> {
    let _held = take(lock)?;
    if let Some(parent) = Parent::look(host, kernel_name)?
        && !list(&parent)?.is_empty()
    {
        return Ok(false);
    }
    let root = host.v2.as_deref().ok_or(CgroupError::NoV2)?;
    let all = hierarchies(host, kernel_name);
    for hierarchy in all.iter().filter(|h| h.is_shared()) {
        seat::remove_shared(&hierarchy.path)?;
    }
    let mut paths: Vec<PathBuf> = all.into_iter().map(|h| h.path).collect();
    paths.push(place(host, root, kernel_name));
    if host.systemd {
        service::stop(root, kernel_name)?;
    }
    for path in paths {
        match rustix::fs::unlinkat(CWD, &path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::BUSY) => return Ok(false),
            Err(e) => return Err(CgroupError::file("remove", &path, e)),
        }
    }
    Ok(true)
}
