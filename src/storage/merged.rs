//! A stopped guest's tree as the guest sees it: its own layer over its image, without a mount. The
//! guest may have put anything there, so every step is one component by descriptor; links are read
//! and resolved here, inside the tree, and never by the kernel. Fresh roots of a build are `seed`.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Stat};
use rustix::io::Errno;

use super::dirfd::{self, FileError, Owner, child_dir, child_file, cname, open_dir, read_limited};
use super::image::Image;
use super::merged_folder::{Entry, Folder, Trail, copy_up, entry, new_folder};
use super::place::Opened;
use crate::kernel::filesystem::Disk;
use crate::model::{GuestName, Layout};

/// Links followed before a path is taken for a loop, as in path_resolution(7).
const LINKS_MOST: u32 = 40;
/// Most bytes of a file that is edited.
const FILE_MOST: u64 = 1 << 20;

/// A guest's tree.
#[derive(Debug)]
pub(super) struct Merged {
    upper: OwnedFd,
    lowers: Vec<PathBuf>,
    /// Where the guest's layer is, for messages.
    shown: PathBuf,
    /// Keeps a filesystem in a file mounted.
    _disk: Option<Disk>,
}

impl Merged {
    /// The tree of a guest over its image. The guest must be stopped: the kernel does not allow
    /// changes below a mounted overlay.
    ///
    /// # Errors
    /// The guest has no root, or it cannot be opened.
    pub(super) fn open(
        layout: &Layout,
        name: &GuestName,
        image: &Image,
    ) -> Result<Self, FileError> {
        Self::of_root(&super::root::folder(layout, name), image)
    }

    /// The same of a root that lies in this folder.
    pub(super) fn of_root(root: &Path, image: &Image) -> Result<Self, FileError> {
        let opened = super::place::object_of(root)?.open()?;
        Self::of_opened(opened, super::root::lowers_of(root, image)?)
    }

    /// The same of what is open already.
    pub(super) fn of_opened(opened: Opened, lowers: Vec<PathBuf>) -> Result<Self, FileError> {
        let shown = opened.shown.join("upper");
        let upper =
            child_dir(&opened.folder, c"upper").map_err(|e| FileError::new("open", &shown, e))?;
        Ok(Self {
            upper,
            lowers,
            shown,
            _disk: opened.disk,
        })
    }

    /// The tree of folders of the program's own over one another, `upper` on top.
    pub(super) fn over(upper: OwnedFd, lowers: Vec<PathBuf>, shown: &Path) -> Self {
        Self {
            upper,
            lowers,
            shown: shown.to_owned(),
            _disk: None,
        }
    }

    /// Its top folder.
    pub(super) fn top(&self) -> io::Result<Folder> {
        let trail = self.enter_bytes(b"", None)?;
        let top = trail.and_then(|mut trail| trail.pop());
        top.ok_or_else(|| Errno::NOENT.into())
    }

    /// What `path` leads to; `None` for nothing, and for what cannot be looked at.
    pub(super) fn stat(&self, path: &str) -> Option<Stat> {
        let mut path = path.as_bytes().to_vec();
        for _ in 0..LINKS_MOST {
            let (parent, name) = split(&path);
            let trail = self.enter_bytes(parent, None).ok()??;
            match entry(trail.last()?, &cname(name).ok()?).ok()? {
                Entry::File { stat, .. } => return Some(stat),
                Entry::Link(target) => path = joined(parent, &target),
                Entry::Folder(folder) => return fs::fstat(folder.top()?).ok(),
                Entry::Nothing => return None,
            }
        }
        None
    }

    fn failed(&self, verb: &'static str, path: &str, source: impl Into<io::Error>) -> FileError {
        FileError::new(verb, &self.shown.join(path), source)
    }

    /// Whether `path` leads to a folder.
    pub(super) fn is_dir(&self, path: &str) -> Result<bool, FileError> {
        match self.enter(path, None) {
            Ok(trail) => Ok(trail.is_some()),
            Err(e) if e.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) => Ok(false),
            Err(e) => Err(self.failed("look at", path, e)),
        }
    }

    /// Reads the regular file that `path` leads to, with its owner; `None` if there is none.
    ///
    /// # Errors
    /// It is larger than 1 MiB, or cannot be read.
    pub(super) fn read(&self, path: &str) -> Result<Option<(Vec<u8>, Owner)>, FileError> {
        self.find(path).map_err(|e| self.failed("read", path, e))
    }

    fn find(&self, path: &str) -> io::Result<Option<(Vec<u8>, Owner)>> {
        let Some((file, stat)) = self.open_file(path)? else {
            return Ok(None);
        };
        Ok(Some((read_limited(file, FILE_MOST)?, Owner::of(&stat))))
    }

    /// Opens the regular file that `path` leads to; `None` if there is none.
    pub(super) fn open_file(&self, path: &str) -> io::Result<Option<(File, Stat)>> {
        let mut path = path.as_bytes().to_vec();
        for _ in 0..LINKS_MOST {
            let (parent, name) = split(&path);
            let Some(trail) = self.enter_bytes(parent, None)? else {
                return Ok(None);
            };
            let Some(folder) = trail.last() else {
                return Ok(None);
            };
            let name = cname(name)?;
            match entry(folder, &name)? {
                Entry::File { dir, stat } if dirfd::is_file(&stat) => {
                    return Ok(Some((child_file(&dir, &name)?, stat)));
                }
                Entry::Link(target) => path = joined(parent, &target),
                _ => return Ok(None),
            }
        }
        Err(Errno::LOOP.into())
    }

    /// The folder that `path` leads to; `None` if there is nothing.
    pub(super) fn folder(&self, path: &str) -> io::Result<Option<Folder>> {
        self.folder_bytes(path.as_bytes())
    }

    /// The same of a path that need not be text.
    pub(super) fn folder_bytes(&self, path: &[u8]) -> io::Result<Option<Folder>> {
        let trail = self.enter_bytes(path, None)?;
        Ok(trail.and_then(|mut trail| trail.pop()))
    }

    /// Writes `path` into the guest's layer, replacing a file or link there (not what the link
    /// leads to). Missing folders are made as in the image, or mode 0755.
    pub(super) fn write(&self, path: &str, data: &[u8], owner: Owner) -> Result<(), FileError> {
        self.place(path)
            .and_then(|(dir, name)| dirfd::write_whole(&dir, &name, data, owner, true))
            .map_err(|e| self.failed("write", path, e))
    }

    /// Removes a file of the guest's own layer; it may be gone already.
    pub(super) fn remove(&self, path: &str) -> Result<(), FileError> {
        let removed = |(dir, name): (OwnedFd, CString)| -> io::Result<()> {
            match fs::unlinkat(&dir, &*name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(e) => Err(e.into()),
            }
        };
        self.place(path)
            .and_then(removed)
            .map_err(|e| self.failed("remove", path, e))
    }

    /// Makes the link `path` to `target` in the guest's layer, replacing a file or link there.
    pub(super) fn link(&self, path: &str, target: &str) -> Result<(), FileError> {
        let made = |(dir, name): (OwnedFd, CString)| -> io::Result<()> {
            match fs::unlinkat(&dir, &*name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
            Ok(fs::symlinkat(target, &dir, &*name)?)
        };
        self.place(path)
            .and_then(made)
            .map_err(|e| self.failed("make link", path, e))
    }

    /// Makes the folder `path` with this mode where it is missing.
    pub(super) fn dir(&self, path: &str, mode: u32) -> Result<(), FileError> {
        self.enter(path, Some(mode))
            .map(|_| ())
            .map_err(|e| self.failed("make folder", path, e))
    }

    /// The folder of the guest's layer that `path` lies in, and the last name.
    pub(super) fn place(&self, path: impl AsRef<[u8]>) -> io::Result<(OwnedFd, CString)> {
        let (parent, name) = split(path.as_ref());
        let mut trail = self.enter_bytes(parent, Some(0o755))?.ok_or(Errno::NOENT)?;
        let dir = trail.pop().and_then(|f| f.upper).ok_or(Errno::NOENT)?;
        Ok((dir, cname(name)?))
    }

    fn enter(&self, path: &str, make: Option<u32>) -> io::Result<Option<Trail>> {
        self.enter_bytes(path.as_bytes(), make)
    }

    /// The folders on the way to `path`; `None` if there is no such folder. With `make`, missing
    /// ones are made with this mode, and all are there in the guest's layer.
    fn enter_bytes(&self, path: &[u8], make: Option<u32>) -> io::Result<Option<Trail>> {
        let lowers = self.lowers.iter().map(|path| open_dir(path));
        let mut trail = vec![Folder {
            name: CString::default(),
            upper: Some(self.upper.try_clone()?),
            lowers: lowers.collect::<Result<_, _>>().map_err(|e| e.source)?,
        }];
        let mut left: VecDeque<Vec<u8>> = components(path).collect();
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name == b".." {
                if trail.len() > 1 {
                    trail.pop();
                }
                continue;
            }
            let Some(here) = trail.last() else { break };
            let name = cname(name)?;
            match entry(here, &name)? {
                Entry::Folder(folder) => trail.push(folder),
                Entry::Link(target) => {
                    links += 1;
                    if links > LINKS_MOST {
                        return Err(Errno::LOOP.into());
                    }
                    if target.first() == Some(&b'/') {
                        trail.truncate(1);
                    }
                    for part in components(&target).collect::<Vec<_>>().into_iter().rev() {
                        left.push_front(part);
                    }
                }
                Entry::File { .. } => return Err(Errno::NOTDIR.into()),
                Entry::Nothing => {
                    let Some(mode) = make else { return Ok(None) };
                    copy_up(&mut trail)?;
                    let upper = trail.last().and_then(|f| f.upper.as_ref());
                    let upper = new_folder(upper.ok_or(Errno::NOENT)?, &name, mode)?;
                    trail.push(Folder {
                        name,
                        upper: Some(upper),
                        lowers: Vec::new(),
                    });
                }
            }
        }
        if make.is_some() {
            copy_up(&mut trail)?;
        }
        Ok(Some(trail))
    }
}

fn components(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    path.split(|b| *b == b'/')
        .filter(|c| !c.is_empty() && *c != b".")
        .map(<[u8]>::to_vec)
}

/// Parent and last name of a path.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// The path a link's target means when the link lies in `parent`.
fn joined(parent: &[u8], target: &[u8]) -> Vec<u8> {
    if target.first() == Some(&b'/') {
        target.to_vec()
    } else {
        [parent, b"/", target].concat()
    }
}

/// Reads a host file of at most 1 MiB; used for the host's own configuration.
pub(super) fn read_host(path: &str) -> Option<Vec<u8>> {
    read_limited(File::open(path).ok()?, FILE_MOST).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::seed::tests::TempDir;
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    /// A tree with both layers in a folder of its own.
    pub(in super::super) fn tree(temp: &TempDir) -> Merged {
        tree_of(temp, &["lower"])
    }

    fn tree_of(temp: &TempDir, lowers: &[&str]) -> Merged {
        let lowers: Vec<PathBuf> = lowers.iter().map(|name| temp.path().join(name)).collect();
        for lower in &lowers {
            std::fs::create_dir_all(lower.join("etc")).unwrap();
        }
        let shown = temp.path().join("upper");
        std::fs::create_dir(&shown).unwrap();
        Merged {
            upper: open_dir(&shown).unwrap(),
            lowers,
            shown,
            _disk: None,
        }
    }

    fn own(mode: u32) -> Owner {
        Owner {
            mode,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    fn text(merged: &Merged, path: &str) -> Option<String> {
        let (data, _) = merged.read(path).unwrap()?;
        Some(String::from_utf8(data).unwrap())
    }

    fn put(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_upper_layer_wins_and_the_image_stays() {
        let temp = TempDir::new("merged");
        let merged = tree(&temp);
        put(&merged.lowers[0].join("etc/a"), "image");
        assert_eq!(text(&merged, "etc/a").as_deref(), Some("image"));
        merged.write("etc/a", b"guest", own(0o640)).unwrap();
        assert_eq!(text(&merged, "/etc/a").as_deref(), Some("guest"));
        assert_eq!(
            std::fs::read(merged.lowers[0].join("etc/a")).unwrap(),
            b"image"
        );
        assert_eq!(text(&merged, "etc/none"), None);
        assert_eq!(text(&merged, "etc"), None);
    }

    #[test]
    fn links_stay_inside() {
        let temp = TempDir::new("merged");
        let merged = tree(&temp);
        let outside = temp.path().join("outside");
        put(&outside.join("secret"), "secret");
        put(&merged.lowers[0].join("run/resolv.conf"), "old");
        symlink(
            "../run/resolv.conf",
            merged.lowers[0].join("etc/resolv.conf"),
        )
        .unwrap();
        assert_eq!(text(&merged, "etc/resolv.conf").as_deref(), Some("old"));
        merged.write("etc/resolv.conf", b"new", own(0o644)).unwrap();
        assert_eq!(text(&merged, "etc/resolv.conf").as_deref(), Some("new"));
        assert_eq!(text(&merged, "run/resolv.conf").as_deref(), Some("old"));
        // Everything a hostile guest could aim at the host.
        symlink(&outside, merged.shown.join("abs")).unwrap();
        symlink("../outside", merged.shown.join("rel")).unwrap();
        symlink("/../../outside", merged.shown.join("up")).unwrap();
        symlink(outside.join("secret"), merged.shown.join("file")).unwrap();
        symlink("loop", merged.shown.join("loop")).unwrap();
        for path in ["abs/secret", "rel/secret", "up/secret", "file"] {
            assert_eq!(text(&merged, path), None, "{path}");
        }
        assert!(merged.read("loop").is_err() && merged.read("loop/x").is_err());
        merged.write("file", b"x", own(0o644)).unwrap();
        assert_eq!(std::fs::read(outside.join("secret")).unwrap(), b"secret");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    }

    #[test]
    fn odd_files_are_not_read() {
        let temp = TempDir::new("merged");
        let merged = tree(&temp);
        let dir = open_dir(&merged.shown).unwrap();
        fs::mkfifoat(&dir, c"fifo", fs::Mode::RUSR).unwrap();
        assert_eq!(text(&merged, "fifo"), None);
        put(&merged.shown.join("big"), &"x".repeat(2 << 20));
        assert!(merged.read("big").unwrap_err().to_string().contains("big"));
        assert!(merged.write("fifo/x", b"", own(0o644)).is_err());
    }

    #[test]
    fn layers_hide_what_is_below_them() {
        let temp = TempDir::new("merged");
        let merged = tree_of(&temp, &["top", "base"]);
        let (top, base) = (&merged.lowers[0], &merged.lowers[1]);
        for (folder, path, what) in [
            (base, "etc/a", "base"),
            (top, "etc/a", "top"),
            (base, "etc/b", "base"),
            (base, "srv/x", "base"),
            (top, "srv/y", "top"),
            (base, "was/dir/x", "base"),
            (top, "was/dir", "file"),
        ] {
            put(&folder.join(path), what);
        }
        let seen = |path| text(&merged, path);
        assert_eq!(seen("etc/a").as_deref(), Some("top"));
        assert_eq!(seen("etc/b").as_deref(), Some("base"));
        assert_eq!(seen("srv/x").as_deref(), Some("base"));
        assert_eq!(seen("was/dir").as_deref(), Some("file"));
        assert!(merged.read("was/dir/x").is_err());
        merged.write("srv/x", b"guest", own(0o600)).unwrap();
        assert_eq!(seen("srv/x").as_deref(), Some("guest"));
        assert_eq!(seen("srv/y").as_deref(), Some("top"));
        if !rustix::process::geteuid().is_root() {
            return;
        }
        fs::setxattr(
            top.join("srv"),
            super::super::merged_folder::OPAQUE,
            b"y",
            fs::XattrFlags::empty(),
        )
        .unwrap();
        put(&base.join("srv/z"), "base");
        assert_eq!(seen("srv/z"), None);
        let none = fs::Mode::empty();
        let etc = open_dir(&top.join("etc")).unwrap();
        fs::mknodat(&etc, c"b", fs::FileType::CharacterDevice, none, 0).unwrap();
        assert_eq!(seen("etc/b"), None);
    }
}
