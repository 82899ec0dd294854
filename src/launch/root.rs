//! The host's part in building the guest's root, inside the private copy of the host's mounts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags, StatVfsMountFlags};

use super::host::{Cause, Host, missing};
use crate::kernel::credentials::FileSystemUser;
use crate::kernel::filesystem::Disk;
use crate::kernel::mount::{self, Attr};
use crate::kernel::tree::{self, Point};
use crate::kernel::{Errno, KernelError};
use crate::model::{RootOp, Shown, Writable};
use crate::plan::step::Attributes;

impl Host {
    pub(super) fn mount_root(
        &mut self,
        root: &RootOp,
        owner: u32,
        scratch: &Path,
    ) -> Result<(), Cause> {
        let place = scratch.join("root");
        make_dir(&place)?;
        let mounted = self.build(root, owner, scratch)?;
        mount::attach(
            mounted.as_fd(),
            tree::open_root(&place)?.as_fd(),
            "the guest's root",
        )?;
        self.root = Some(mounted);
        Ok(())
    }

    /// Another root inside the one that stands.
    pub(super) fn mount_below(
        &mut self,
        target: &Path,
        root: &RootOp,
        (owner, attributes): (u32, Attributes),
        scratch: &Path,
    ) -> Result<(), Cause> {
        // Its layers are ours alone to open; this is not done in the guest's tree.
        self.file_user = None;
        let scratch = scratch.join(format!("below-{}", self.number));
        make_dir(&scratch)?;
        let mounted = self.build(root, owner, &scratch)?;
        let (none, what) = (Attr::empty(), target.display().to_string());
        mount::set_attr(mounted.as_fd(), attr(attributes), none, false, None, &what)?;
        Ok(self.put(mounted.as_fd(), target, Point::Directory)?)
    }

    /// A root, attached nowhere. From here on files are made as the guest's root.
    fn build(&mut self, root: &RootOp, owner: u32, scratch: &Path) -> Result<OwnedFd, Cause> {
        let users = self
            .user_namespace
            .as_ref()
            .ok_or_else(|| missing("the user namespace"))?;
        match root {
            RootOp::Overlay { lower, writable } => {
                let layers = Layers {
                    scratch,
                    users: Some(users.as_fd()),
                };
                let lowers = layers.put_all(lower)?;
                match writable {
                    Writable::Folder { path } => {
                        let tree = mount::clone_tree(path, false)?;
                        layers.put(&tree, path, "writable", Attr::empty())?;
                    }
                    Writable::Disk { file, filesystem } => {
                        let tree = Disk::open(file, filesystem)?.mount;
                        layers.put(&tree, file, "writable", Attr::empty())?;
                    }
                    Writable::Memory { size } => layers.put_memory(*size, owner)?,
                }
                self.file_user = Some(FileSystemUser::become_id(owner)?);
                Ok(layers.overlay(&lowers)?)
            }
            RootOp::Directory {
                path,
                idmap,
                read_only,
            } => {
                let tree = mount::clone_tree(path, false)?;
                let set = if *read_only {
                    Attr::MOUNT_ATTR_RDONLY
                } else {
                    Attr::empty()
                };
                let map = idmap.then_some(users.as_fd());
                mount::set_attr(
                    tree.as_fd(),
                    set,
                    Attr::empty(),
                    false,
                    map,
                    &path.display().to_string(),
                )?;
                self.file_user = Some(FileSystemUser::become_id(owner)?);
                Ok(tree)
            }
        }
    }

    /// What this kernel does not have is left out, and not shown later.
    pub(super) fn clone_cgroup_files(&mut self, files: &[Shown]) -> Result<(), Cause> {
        let folder = self.group()?.v2_path()?.to_owned();
        for file in files {
            let source = folder.join(&file.name);
            let tree = match mount::clone_unheard(&source, false) {
                Ok(tree) => tree,
                Err(error) if error.errno == Errno::NOENT => continue,
                Err(error) => return Err(error.into()),
            };
            let inert = attr(Attributes::INERT);
            let what = source.display().to_string();
            mount::set_attr(tree.as_fd(), inert, Attr::empty(), false, None, &what)?;
            self.trees.insert(file.target.clone(), tree);
        }
        Ok(())
    }

    pub(super) fn attach_tree(
        &mut self,
        target: &Path,
        attributes: Attributes,
        idmap: bool,
        recursive: bool,
    ) -> Result<(), Cause> {
        let tree = self
            .trees
            .remove(target)
            .ok_or_else(|| missing("the tree"))?;
        let users = self
            .user_namespace
            .as_ref()
            .ok_or_else(|| missing("the user namespace"))?;
        let map = idmap.then_some(users.as_fd());
        mount::set_attr(
            tree.as_fd(),
            attr(attributes),
            Attr::empty(),
            recursive,
            map,
            &target.display().to_string(),
        )?;
        let stat =
            rustix::fs::fstat(&tree).map_err(KernelError::on("look at", target.display()))?;
        let folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        self.put(
            tree.as_fd(),
            target,
            if folder {
                Point::Directory
            } else {
                Point::File
            },
        )?;
        Ok(())
    }

    /// Covers folders with an empty one and files with /dev/null, which `nodev` makes unreadable.
    pub(super) fn hide(&self, paths: &[PathBuf]) -> Result<(), Cause> {
        let root = self.root()?;
        let all = Attr::MOUNT_ATTR_RDONLY
            | Attr::MOUNT_ATTR_NOSUID
            | Attr::MOUNT_ATTR_NODEV
            | Attr::MOUNT_ATTR_NOEXEC;
        let options = [("size", "4k"), ("nr_inodes", "1"), ("mode", "0")];
        let folder = mount::new_filesystem("tmpfs", &options, all)?;
        let file = mount::clone_tree(Path::new("/dev/null"), false)?;
        mount::set_attr(file.as_fd(), all, Attr::empty(), false, None, "/dev/null")?;
        for path in paths {
            let what = path.display().to_string();
            let at = match tree::resolve(root, path, OFlags::PATH | OFlags::NOFOLLOW) {
                Ok(at) => at,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => return Err(KernelError::new("hide", what, errno).into()),
            };
            let stat = rustix::fs::fstat(&at).map_err(KernelError::on("look at", &what))?;
            let cover = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => &folder,
                // Whoever put a link there hides nothing by it.
                FileType::Symlink => continue,
                _ => &file,
            };
            let cover = mount::clone_tree_fd(cover.as_fd(), false, "the cover")?;
            mount::attach(cover.as_fd(), at.as_fd(), &what)?;
        }
        Ok(())
    }

    pub(super) fn put(
        &self,
        tree: BorrowedFd<'_>,
        target: &Path,
        point: Point,
    ) -> Result<(), KernelError> {
        let at = tree::mount_point(self.root()?, target, point)?;
        mount::attach(tree, at.as_fd(), &target.display().to_string())
    }
}

/// Attributes as the kernel has them.
pub(super) fn attr(from: Attributes) -> Attr {
    let mut attr = Attr::empty();
    attr.set(Attr::MOUNT_ATTR_RDONLY, from.read_only);
    attr.set(Attr::MOUNT_ATTR_NOSUID, from.nosuid);
    attr.set(Attr::MOUNT_ATTR_NODEV, from.nodev);
    attr.set(Attr::MOUNT_ATTR_NOEXEC, from.noexec);
    attr
}

fn make_dir(path: &Path) -> Result<(), KernelError> {
    rustix::fs::mkdir(path, rustix::fs::Mode::from_raw_mode(0o755))
        .map_err(KernelError::on("make the folder", path.display()))
}

/// The layers of an overlay, put side by side in the scratch folder under short names: the kernel
/// takes at most 255 bytes of one option, and guests may lie over dozens of layers.
pub(super) struct Layers<'a> {
    pub(super) scratch: &'a Path,
    /// The user namespace whose ids they are shifted into, if they are.
    pub(super) users: Option<BorrowedFd<'a>>,
}

impl Layers<'_> {
    /// The read-only ones; gives their names, topmost first.
    pub(super) fn put_all(&self, lower: &[PathBuf]) -> Result<Vec<String>, Cause> {
        let mut names = Vec::new();
        for (number, path) in lower.iter().enumerate() {
            let (tree, name) = (mount::clone_tree(path, false)?, number.to_string());
            self.put(&tree, path, &name, Attr::MOUNT_ATTR_RDONLY)?;
            names.push(name);
        }
        Ok(names)
    }

    pub(super) fn put(
        &self,
        tree: &OwnedFd,
        path: &Path,
        name: &str,
        set: Attr,
    ) -> Result<(), Cause> {
        let what = path.display().to_string();
        let none = Attr::empty();
        mount::set_attr(tree.as_fd(), set, none, false, self.users, &what)?;
        self.attach(tree, name, &what)
    }

    /// The writable one, in memory. Its files have the guest's ids as they are: not every kernel shifts
    /// those of a memory file system (Linux 6.3).
    fn put_memory(&self, size: u64, owner: u32) -> Result<(), Cause> {
        let size = size.to_string();
        let options = [("size", size.as_str()), ("mode", "755")];
        let tree = mount::new_filesystem("tmpfs", &options, Attr::MOUNT_ATTR_NODEV)?;
        self.attach(&tree, "writable", "memory for a root")?;
        for name in ["upper", "work"] {
            let path = self.scratch.join("writable").join(name);
            make_dir(&path)?;
            // What the caller's umask took away: the first of them is the guest's `/`.
            rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o755))
                .map_err(KernelError::on("change the mode of", path.display()))?;
            std::os::unix::fs::chown(&path, Some(owner), Some(owner))
                .map_err(KernelError::io("give the guest", path.display()))?;
        }
        Ok(())
    }

    fn attach(&self, tree: &OwnedFd, name: &str, what: &str) -> Result<(), Cause> {
        let at = self.scratch.join(name);
        make_dir(&at)?;
        let at = tree::open_root(&at)?;
        Ok(mount::attach(tree.as_fd(), at.as_fd(), what)?)
    }

    /// One with nothing in it; gives its name.
    pub(super) fn put_empty(&self) -> Result<String, Cause> {
        make_dir(&self.scratch.join("empty"))?;
        Ok("empty".to_owned())
    }

    /// The overlay of them all, with the writable one on top.
    fn overlay(&self, lowers: &[String]) -> Result<OwnedFd, Cause> {
        let writable = [("upperdir", "writable/upper"), ("workdir", "writable/work")];
        let made = self.mount(lowers, &writable, Attr::empty())?;
        // Where its working folder cannot be made, the kernel says nothing and lets nobody write.
        let stat =
            rustix::fs::fstatvfs(&made).map_err(KernelError::on("look at", "the guest's root"))?;
        if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
            let full = KernelError::new("mount writable", "the guest's root", Errno::NOSPC);
            return Err(full.because(FULL).into());
        }
        Ok(made)
    }

    /// The overlay of them all without one that can be written.
    pub(super) fn read_only(
        &self,
        lowers: &[String],
        source: &str,
        attributes: Attr,
    ) -> Result<OwnedFd, Cause> {
        self.mount(lowers, &[("source", source)], attributes)
    }

    /// Names are looked up from the scratch folder, which is left again.
    fn mount(
        &self,
        lowers: &[String],
        more: &[(&str, &str)],
        attributes: Attr,
    ) -> Result<OwnedFd, Cause> {
        let failed = |errno| KernelError::new("change to", self.scratch.display(), errno);
        let before = tree::open_root(Path::new("."))?;
        rustix::process::chdir(self.scratch).map_err(failed)?;
        let joined = lowers.join(":");
        let mut options = Vec::new();
        if joined.len() < OPTION_MOST {
            options.push(("lowerdir", joined.as_str()));
        } else {
            // One by one, Linux 6.8.
            options.extend(lowers.iter().map(|name| ("lowerdir+", name.as_str())));
        }
        options.extend(more);
        let made = mount::new_filesystem("overlay", &options, attributes);
        rustix::process::fchdir(&before).map_err(failed)?;
        Ok(made?)
    }
}

/// Why an overlay came out read-only.
const FULL: &str = "what it lies on is full: `bulkhead pool list` says how much room there is; give the pool \
more, or the guest a larger disk.size";

/// Bytes of one option of a filesystem with its end (fsconfig(2)).
const OPTION_MOST: usize = 256;
