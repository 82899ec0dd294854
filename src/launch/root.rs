//! The host's part in building the guest's root, inside the private copy of the host's mounts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags};

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
        let users = self
            .user_namespace
            .as_ref()
            .ok_or_else(|| missing("the user namespace"))?;
        let place = scratch.join("root");
        make_dir(&place)?;
        let mounted = match root {
            RootOp::Overlay { lower, writable } => {
                let layers = Layers {
                    scratch,
                    users: users.as_fd(),
                };
                let lowers = layers.put_all(lower)?;
                let (tree, path) = match writable {
                    Writable::Folder { path } => (mount::clone_tree(path, false)?, path),
                    Writable::Disk { file, filesystem } => {
                        (Disk::open(file, filesystem)?.mount, file)
                    }
                };
                layers.put(&tree, path, "writable", Attr::empty())?;
                self.file_user = Some(FileSystemUser::become_id(owner)?);
                layers.overlay(&lowers)?
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
                tree
            }
        };
        mount::attach(
            mounted.as_fd(),
            tree::open_root(&place)?.as_fd(),
            "the guest's root",
        )?;
        self.root = Some(mounted);
        Ok(())
    }

    /// What this kernel does not have is left out, and not shown later.
    pub(super) fn clone_cgroup_files(&mut self, files: &[Shown]) -> Result<(), Cause> {
        let folder = self.group()?.v2_path()?.to_owned();
        for file in files {
            let source = folder.join(&file.name);
            let tree = match mount::clone_tree(&source, false) {
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
struct Layers<'a> {
    scratch: &'a Path,
    users: BorrowedFd<'a>,
}

impl Layers<'_> {
    /// The read-only ones; gives their names, topmost first.
    fn put_all(&self, lower: &[PathBuf]) -> Result<Vec<String>, Cause> {
        let mut names = Vec::new();
        for (number, path) in lower.iter().enumerate() {
            let (tree, name) = (mount::clone_tree(path, false)?, number.to_string());
            self.put(&tree, path, &name, Attr::MOUNT_ATTR_RDONLY)?;
            names.push(name);
        }
        Ok(names)
    }

    fn put(&self, tree: &OwnedFd, path: &Path, name: &str, set: Attr) -> Result<(), Cause> {
        let what = path.display().to_string();
        let none = Attr::empty();
        mount::set_attr(tree.as_fd(), set, none, false, Some(self.users), &what)?;
        let at = self.scratch.join(name);
        make_dir(&at)?;
        Ok(mount::attach(
            tree.as_fd(),
            tree::open_root(&at)?.as_fd(),
            &what,
        )?)
    }

    /// The overlay of them all. Names are looked up from the scratch folder, which is left again.
    fn overlay(&self, lowers: &[String]) -> Result<OwnedFd, Cause> {
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
        options.extend([("upperdir", "writable/upper"), ("workdir", "writable/work")]);
        let made = mount::new_filesystem("overlay", &options, Attr::empty());
        rustix::process::fchdir(&before).map_err(failed)?;
        Ok(made?)
    }
}

/// Bytes of one option of a filesystem with its end (fsconfig(2)).
const OPTION_MOST: usize = 256;
