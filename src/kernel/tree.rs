//! Work in a tree that may be hostile: every path resolved from the tree's own root descriptor.

use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::error::{KernelError, Result};

/// Opens a host folder as the root of a tree.
pub fn open_root(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(KernelError::on("open", path.display()))
}

/// Resolves `path` inside the tree as a process rooted there would (openat2(2) RESOLVE_IN_ROOT,
/// Linux 5.6), without following magic links.
pub fn resolve(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let inside = path.strip_prefix("/").unwrap_or(path);
    let inside = if inside.as_os_str().is_empty() {
        Path::new(".")
    } else {
        inside
    };
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(root, inside, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            // The kernel asks for a second try when something in the tree was renamed meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

/// What a mount point has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A folder.
    Directory,
    /// A file.
    File,
}

/// Most links followed on the way to a mount point that is missing, as in the kernel.
const LINKS: u32 = 40;

/// The mount point `path` inside the tree, made with its parents if it is missing. Where a link of
/// the tree leads to nothing, what it names is made, inside the tree: images have such links in
/// /etc for files that their init would make in /run.
pub fn mount_point(root: BorrowedFd<'_>, path: &Path, kind: Point) -> Result<OwnedFd> {
    if path.components().any(|c| matches!(c, Component::ParentDir)) {
        let failed = KernelError::new(POINT, path.display(), Errno::INVAL);
        return Err(failed.because("'..' is not allowed here"));
    }
    point(root, path, kind, LINKS)
}

const POINT: &str = "use as a mount point in the guest";

fn point(root: BorrowedFd<'_>, path: &Path, kind: Point, links: u32) -> Result<OwnedFd> {
    let failed = |errno| KernelError::new(POINT, path.display(), errno);
    match resolve(root, path, OFlags::PATH) {
        Ok(found) => return Ok(found),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed(Errno::NOENT));
    };
    let dir = point(root, parent, Point::Directory, links)?;
    let made = match kind {
        Point::Directory => rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)),
        Point::File => openat2(
            &dir,
            name,
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o644),
            ResolveFlags::BENEATH,
        )
        .map(drop),
    };
    match made {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let link = rustix::fs::readlinkat(&dir, name, Vec::new());
            let link = link.map_err(|_| failed(Errno::EXIST))?;
            let left = links.checked_sub(1).ok_or_else(|| failed(Errno::LOOP))?;
            let link = Path::new(OsStr::from_bytes(link.as_bytes()));
            // `..` in it is the kernel's to understand, in `resolve`.
            return point(root, &parent.join(link), kind, left);
        }
        Err(errno) => return Err(failed(errno)),
    }
    resolve(root, path, OFlags::PATH).map_err(failed)
}

/// The same for a folder that no symbolic link may lead to: what is mounted there is looked for by
/// this path again, and a link could lead elsewhere by then.
pub fn plain_mount_point(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside = path.strip_prefix("/").unwrap_or(path);
    let mut made = false;
    loop {
        match openat2(root, inside, flags, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOENT) if !made => {
                drop(mount_point(root, path, Point::Directory)?);
                made = true;
            }
            Err(errno) => {
                let error = KernelError::new("use as a mount point", path.display(), errno);
                return Err(match errno {
                    Errno::LOOP => error.because(
                        "it must be mounted on ordinary directory, and a symbolic link leads there, \
                         which could lead elsewhere later: make it a directory in the image",
                    ),
                    Errno::NOTDIR => error.because(
                        "it must be mounted on ordinary directory, and something else is there: make it \
                         a directory in the image",
                    ),
                    _ => error,
                });
            }
            Ok(found) => return Ok(found),
        }
    }
}

/// Reads a small regular file of the tree; `None` if there is none. Anything but a regular file, or
/// one larger than `most` bytes, is an error: it cannot block or fill us.
pub fn read_file(root: BorrowedFd<'_>, path: &Path, most: usize) -> Result<Option<Vec<u8>>> {
    let failed = |errno| KernelError::new("read in the guest", path.display(), errno);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match resolve(root, path, flags) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(failed(errno)),
    };
    let stat = rustix::fs::fstat(&file).map_err(failed)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(failed(Errno::INVAL).because("not a regular file"));
    }
    let mut data = Vec::new();
    let mut chunk = [0_u8; 8192];
    loop {
        let n = rustix::io::read(&file, &mut chunk).map_err(failed)?;
        if n == 0 {
            return Ok(Some(data));
        }
        data.extend_from_slice(&chunk[..n]);
        if data.len() > most {
            return Err(failed(Errno::FBIG).because(format!("more than {most} bytes")));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> (std::path::PathBuf, OwnedFd) {
        static N: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = N.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("bulkhead-tree-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let root = open_root(&dir).unwrap();
        (dir, root)
    }

    #[test]
    fn a_link_to_nothing_names_the_mount_point_inside() {
        let (dir, root) = tree();
        std::fs::create_dir(dir.join("etc")).unwrap();
        symlink("../run/resolve/stub", dir.join("etc/resolv.conf")).unwrap();
        symlink("/jump/hosts", dir.join("etc/hosts")).unwrap();
        symlink("../../../../there", dir.join("jump")).unwrap();
        symlink("/a", dir.join("b")).unwrap();
        symlink("/b", dir.join("a")).unwrap();
        let make = |path: &str| mount_point(root.as_fd(), Path::new(path), Point::File);
        make("/etc/resolv.conf").unwrap();
        make("/etc/hosts").unwrap();
        assert!(dir.join("run/resolve/stub").is_file());
        assert!(dir.join("there/hosts").is_file());
        assert!(make("/a").is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn links_lead_nowhere_but_inside() {
        let (dir, root) = tree();
        std::fs::create_dir(dir.join("etc")).unwrap();
        std::fs::write(dir.join("etc/hostname"), "inside").unwrap();
        symlink("/etc", dir.join("abs")).unwrap();
        symlink("../../../../etc", dir.join("up")).unwrap();
        for path in ["/abs/hostname", "up/hostname", "/../etc/hostname"] {
            let data = read_file(root.as_fd(), Path::new(path), 100).unwrap();
            assert_eq!(data.as_deref(), Some(&b"inside"[..]), "{path}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_fifo_and_a_giant_are_refused_at_once() {
        let (dir, root) = tree();
        nix::unistd::mkfifo(&dir.join("f"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        std::fs::write(dir.join("g"), [0; 101]).unwrap();
        assert!(read_file(root.as_fd(), Path::new("f"), 100).is_err());
        assert!(read_file(root.as_fd(), Path::new("g"), 100).is_err());
        assert_eq!(
            read_file(root.as_fd(), Path::new("none"), 100).unwrap(),
            None
        );
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_plain_mount_point_is_no_link_and_behind_none() {
        let (dir, root) = tree();
        std::fs::create_dir(dir.join("real")).unwrap();
        symlink("real", dir.join("link")).unwrap();
        let at = |path: &str| plain_mount_point(root.as_fd(), Path::new(path));
        assert!(at("/real").is_ok() && at("/new/deeper").is_ok());
        for path in ["/link", "/link/below"] {
            let error = at(path).unwrap_err().to_string();
            assert!(error.contains("ordinary directory"), "{error}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn mount_points_are_made_inside() {
        let (dir, root) = tree();
        symlink("/run", dir.join("var")).unwrap();
        std::fs::create_dir(dir.join("run")).unwrap();
        mount_point(root.as_fd(), Path::new("/var/a/b"), Point::Directory).unwrap();
        assert!(dir.join("run/a/b").is_dir());
        mount_point(root.as_fd(), Path::new("/x/file"), Point::File).unwrap();
        assert!(dir.join("x/file").is_file());
        assert!(mount_point(root.as_fd(), Path::new("/a/../../b"), Point::Directory).is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
