//! The driver `image`: a filesystem in a sparse file, one a guest. What df(1) shows inside is what was
//! sold, so the file is larger by what the filesystem needs for itself.

use std::cmp::Ordering;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::dirfd::FileError;
use super::driver::{Layers, Object, Quota};
use super::place::Opened;
use super::pool::Filesystem;
use super::spare_files;
use crate::kernel::KernelError;
use crate::kernel::filesystem::{Disk, Space};
use crate::kernel::loop_device::LoopDevice;
use crate::model::{Bytes, Writable};

/// Size of a guest that was sold none.
pub(super) const USUAL: u64 = 10 << 30;
/// A filesystem's size is a multiple of this.
const BLOCK: u64 = 4096;
/// Up to this size a btrfs has data and its own records in the same chunks. Apart, the first chunk of
/// records is of 8 MiB: whoever fills the rest with data gets no more of them, and so less than was sold
/// and for half a minute no new file, whatever is removed.
const BTRFS_MIXED: u64 = 4 << 30;
/// Smallest device that btrfs lets one shrink to.
const BTRFS_LEAST: u64 = 256 << 20;

pub(super) struct ImageFile;

impl Layers for ImageFile {
    fn make(&self, object: &Object, quota: Quota) -> io::Result<()> {
        let size = quota.size.unwrap_or(USUAL);
        let files = quota
            .inodes
            .map(|files| files.saturating_add(spare_files::IN_ALL));
        let mut asked = files;
        make_file(object.filesystem, &object.path, size, asked)?;
        // What a filesystem needs for itself, and how it rounds, is known when there is one.
        let mut length = size;
        for _ in 0..8 {
            let shown = open(object)?.space().map_err(into_io)?;
            let lacking = files.map(|files| u64::from(files).saturating_sub(shown.files));
            if shown.size >= size && lacking.unwrap_or(0) == 0 {
                return Ok(());
            }
            let more = u32::try_from(lacking.unwrap_or(0)).unwrap_or(0);
            asked = asked.map(|asked| asked.saturating_add(more));
            length = (length + size.saturating_sub(shown.size)).next_multiple_of(BLOCK);
            std::fs::File::options()
                .write(true)
                .open(&object.path)?
                .set_len(length)?;
            make_filesystem(object.filesystem, &object.path, asked)?;
        }
        Ok(())
    }

    fn begin(&self, object: &Object, folder: &OwnedFd, _quota: Quota) -> io::Result<()> {
        spare_files::hold(folder, object.filesystem)
    }

    fn open(&self, object: &Object) -> Result<Opened, FileError> {
        let disk = open(object).map_err(|e| FileError::new("mount", &object.path, e))?;
        Ok(Opened {
            folder: disk
                .mount
                .try_clone()
                .map_err(|e| FileError::new("mount", &object.path, e))?,
            shown: object.path.clone(),
            disk: Some(disk),
        })
    }

    fn writable(&self, object: &Object) -> Writable {
        Writable::Disk {
            file: object.path.clone(),
            filesystem: object.filesystem.word().into(),
        }
    }

    fn resize(&self, object: &Object, quota: Quota) -> io::Result<()> {
        let size = quota.size.unwrap_or(USUAL);
        let disk = open(object)?;
        let shown = disk.space().map_err(into_io)?.size;
        let refused = match size.cmp(&shown) {
            // A file that a command which died has left too long is cut as well.
            Ordering::Less | Ordering::Equal if object.filesystem == Filesystem::Btrfs => {
                return smaller(&disk, shown, size);
            }
            Ordering::Equal => return Ok(()),
            Ordering::Greater => match disk.grow_to(size) {
                Ok(()) => return Ok(()),
                Err(error) if error.is_disk_full() => return Err(into_io(error)),
                Err(error) => into_io(error),
            },
            Ordering::Less => io::Error::other(match object.filesystem {
                Filesystem::Xfs => {
                    "xfs never becomes smaller: `bulkhead export` the guest and import it with --disk"
                }
                _ => "ext4 becomes smaller only while it is not in use: stop the guest first",
            }),
        };
        drop(disk);
        resize_unused(object, shown, size, refused)
    }

    fn kept_to(&self, object: &Object) -> io::Result<Quota> {
        let shown = open(object)?.space().map_err(into_io)?.size;
        Ok(Quota {
            size: Some(shown),
            inodes: None,
        })
    }

    fn space_in_use(&self, object: &Object) -> io::Result<Option<Space>> {
        let file = std::fs::File::open(&object.path)?;
        // As long as this is open nobody frees it, so that it is the one found below.
        let device = LoopDevice::existing(file.as_fd(), &object.path).map_err(into_io)?;
        match device {
            Some(_kept) => Ok(Some(open(object)?.space().map_err(into_io)?)),
            None => Ok(None),
        }
    }

    fn widen(&self, object: &Object, folder: &OwnedFd, _sold: Quota) -> io::Result<()> {
        spare_files::give_if_full(folder, object.filesystem)
    }

    fn narrow(&self, object: &Object, folder: &OwnedFd, _sold: Quota) -> io::Result<()> {
        spare_files::hold(folder, object.filesystem)
    }

    fn copy(&self, object: &Object, to: &Object) -> io::Result<OwnedFd> {
        let disk = open(object)?;
        let target = std::fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&to.path)?;
        rustix::fs::flock(&target, FlockOperation::NonBlockingLockExclusive)?;
        // Nobody writes meanwhile; what was written is on the disk, the journal replayed at need.
        disk.frozen(|file| copy_file(file, &target))
            .map_err(into_io)??;
        Ok(target.into())
    }

    fn remove(&self, object: &Object) -> Result<(), FileError> {
        // Frozen by a command that was killed, its device would be there for good: opening it thaws it.
        let _thawed = self.space_in_use(object);
        match std::fs::remove_file(&object.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(FileError::new("remove", &object.path, e))
            }
            _ => Ok(()),
        }
    }
}

fn open(object: &Object) -> io::Result<Disk> {
    Disk::open(&object.path, object.filesystem.word()).map_err(into_io)
}

/// The kernel's words stay; the number is no use without them.
fn into_io(error: KernelError) -> io::Error {
    if error.is_disk_full() {
        return error.errno.into();
    }
    io::Error::other(error.to_string())
}

/// Makes a btrfs that shows this much smaller, in use or not, or leaves it as it was.
fn smaller(disk: &Disk, shown: u64, size: u64) -> io::Result<()> {
    if size < BTRFS_LEAST && shown <= size + size / 50 {
        // As near as it was made: a copy of one that was sold so little.
        return Ok(());
    }
    if size < BTRFS_LEAST {
        return Err(io::Error::other(format!(
            "btrfs does not become smaller than {}",
            Bytes(BTRFS_LEAST)
        )));
    }
    let attempt = || {
        let held = disk.held()?;
        let full = |errno| matches!(errno, Errno::NOSPC | Errno::TXTBSY);
        if held > size {
            return Ok(Err(held));
        }
        disk.shrink_to(size).map(Ok).or_else(|error| {
            // It goes in steps, of which some were done; the error that matters is the one above.
            let _same = disk.grow_to(shown);
            full(error.errno).then_some(Err(held)).ok_or(error)
        })
    };
    let mut done = attempt();
    if let Ok(Err(_)) = done {
        // What was removed a moment ago may count still; whether that helps is seen next.
        let _empty = disk.clean();
        done = attempt();
    }
    if let Ok(Err(held)) = done
        && held <= size
    {
        // There may be no room to move things to, but enough in pieces. What holds more fits in no way.
        let _pieces = disk.compact();
        done = attempt();
    }
    done.map_err(into_io)?.map_err(|held| {
        let (held, size) = (held >> 20, size >> 20);
        io::Error::other(format!(
            "it holds {held} MiB, which do not fit into {size} MiB with what btrfs needs for itself: remove \
             some of it first; nothing was changed"
        ))
    })
}

/// Changes the size of a filesystem that nobody uses, by its own tool; `refused` is why it was not
/// done while it may be in use.
fn resize_unused(object: &Object, shown: u64, size: u64, refused: io::Error) -> io::Result<()> {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&object.path)?;
    let used = LoopDevice::existing(file.as_fd(), &object.path).map_err(into_io)?;
    if used.is_some() || object.filesystem != Filesystem::Ext4 {
        return Err(refused);
    }
    let mut shown = shown;
    // A larger filesystem needs more for itself, which is known when it has that size.
    for _ in 0..4 {
        let length = file.metadata()?.len();
        let wanted = (length + size)
            .saturating_sub(shown)
            .next_multiple_of(BLOCK);
        file.set_len(wanted.max(length))?;
        let mut check = Command::new("e2fsck");
        check.args(["-f", "-p"]).arg(&object.path);
        run_tool("e2fsprogs", check, 1)?;
        let mut resize = Command::new("resize2fs");
        resize.arg(&object.path).arg(format!("{}K", wanted / 1024));
        if let Err(error) = run_tool("e2fsprogs", resize, 0) {
            // It tells before it changes anything that it cannot.
            file.set_len(length)?;
            return Err(error);
        }
        file.set_len(wanted)?;
        shown = open(object)?.space().map_err(into_io)?.size;
        if (size..=size + size / 200).contains(&shown) {
            break;
        }
    }
    Ok(())
}

/// Makes a sparse file with an empty filesystem in it.
pub(super) fn make_file(
    kind: Filesystem,
    path: &Path,
    size: u64,
    inodes: Option<u32>,
) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::ftruncate(&file, size.max(kind.least()).next_multiple_of(4096))?;
    drop(file);
    make_filesystem(kind, path, inodes)
}

/// Puts an empty filesystem into a file by its own tool.
fn make_filesystem(kind: Filesystem, file: &Path, inodes: Option<u32>) -> io::Result<()> {
    let (tool, package, fixed): (&str, &str, &[&str]) = match kind {
        Filesystem::Ext4 => (
            "mkfs.ext4",
            "e2fsprogs",
            // No blocks kept for root: its root is no better than its users here.
            &[
                "-q",
                "-F",
                "-m",
                "0",
                "-E",
                "nodiscard,lazy_itable_init=1,lazy_journal_init=1",
            ],
        ),
        Filesystem::Xfs => ("mkfs.xfs", "xfsprogs", &["-q", "-f", "-K"]),
        Filesystem::Btrfs => (
            "mkfs.btrfs",
            "btrfs-progs",
            &["-q", "-f", "-K", "-m", "single"],
        ),
    };
    let mut command = Command::new(tool);
    command.args(fixed);
    if kind == Filesystem::Btrfs && std::fs::metadata(file)?.len() <= BTRFS_MIXED {
        command.arg("--mixed");
    }
    if let Some(inodes) = inodes {
        match kind {
            Filesystem::Ext4 => command.args(["-N", &inodes.to_string()]),
            _ => {
                return Err(io::Error::other(format!(
                    "{} has no limit of files: leave disk.inodes out, or use ext4",
                    kind.word()
                )));
            }
        };
    }
    command.arg(file);
    run_tool(package, command, 0)
}

/// Copies a sparse file, sharing its blocks where the host's filesystem can.
fn copy_file(from: BorrowedFd<'_>, to: &std::fs::File) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let length = u64::try_from(rustix::fs::fstat(from)?.st_size).unwrap_or(0);
    to.set_len(length)?;
    let mut at = 0;
    while at < length {
        let Ok(begin) = rustix::fs::seek(from, SeekFrom::Data(at)) else {
            break;
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(begin))?;
        let (mut read, mut write) = (begin, begin);
        while read < end {
            let most = usize::try_from(end - read).unwrap_or(usize::MAX);
            if rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut write), most)? == 0
            {
                break;
            }
        }
        at = end;
    }
    to.sync_all()
}

/// Runs a filesystem's tool; codes up to `fine` are no errors.
fn run_tool(package: &str, mut command: Command, fine: i32) -> io::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.stdin(Stdio::null()).output().map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            io::Error::other(format!("{name} is missing: install {package}"))
        } else {
            error
        }
    })?;
    if done.status.code().is_some_and(|code| code <= fine) {
        return Ok(());
    }
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let last = said.trim().lines().last().unwrap_or_default().to_owned();
    Err(io::Error::other(format!("{name} failed: {last}")))
}
