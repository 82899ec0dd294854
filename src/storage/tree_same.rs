//! Whether two files of two trees are the same: what stat(2) says first, attributes next, and data only
//! where neither decides. Both may be a stranger's, so nothing is followed or waited for.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{self, FileType, SeekFrom, Stat};
use rustix::io::Errno;

use super::dirfd::{Owner, file_type, is_file};
use super::tree_diff::ChangeKind;
use super::tree_read::{of_name, of_open, open_quietly};
use crate::kernel::interrupt;

/// Marks that overlayfs keeps for itself.
const MARKS: &[u8] = b"trusted.overlay.";
/// Bytes that are compared at once.
pub(super) const PIECE: usize = 128 << 10;

/// What shows that two files are the same although they are not one: of copies of one filesystem, that
/// they have the same number and were changed last at the same time, which nobody can set. A change in
/// the very moment of the copy can have that time too, so it counts only before this one, in seconds
/// since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    pub(super) settled: i64,
}

/// A file where it lies.
pub(super) struct At<'a> {
    pub(super) dir: &'a OwnedFd,
    pub(super) name: &'a CStr,
    pub(super) stat: &'a Stat,
}

impl Proof {
    fn holds(self, a: &Stat, b: &Stat) -> bool {
        if a.st_ino != b.st_ino {
            return false;
        }
        let changed = |stat: &Stat| (stat.st_ctime, stat.st_ctime_nsec);
        a.st_dev == b.st_dev
            || changed(a) == changed(b) && a.st_size == b.st_size && a.st_ctime < self.settled
    }
}

/// What of two folders is different, by their owners and their parts that show.
pub(super) fn folder_differences(
    (a, left): (Owner, Option<&OwnedFd>),
    (b, right): (Owner, Option<&OwnedFd>),
) -> rustix::io::Result<Vec<&'static str>> {
    let attributes = |part: Option<&OwnedFd>| part.map_or(Ok(Vec::new()), of_open).map(plain);
    let mut what = owner_differences(a, b);
    if attributes(left)? != attributes(right)? {
        what.push("xattrs");
    }
    Ok(what)
}

/// What of two files that are no folders is different; `Meta` with nothing is none. One that goes while
/// it is looked at has changed.
pub(super) fn differences(
    a: &At<'_>,
    b: &At<'_>,
    proof: Proof,
) -> rustix::io::Result<(ChangeKind, Vec<&'static str>)> {
    if proof.holds(a.stat, b.stat) {
        return Ok((ChangeKind::Meta, Vec::new()));
    }
    if file_type(a.stat) != file_type(b.stat) {
        return Ok((ChangeKind::Changed, vec!["kind"]));
    }
    let gone = |e: &Errno| {
        use Errno as E;
        // One that has become a socket answers the last.
        matches!(*e, E::NOENT | E::NOTDIR | E::LOOP | E::INVAL | E::NXIO)
    };
    let data = match data_difference(a, b) {
        Err(e) if gone(&e) => Some("data"),
        other => other?,
    };
    let mut what = Vec::from_iter(data);
    what.extend(owner_differences(Owner::of(a.stat), Owner::of(b.stat)));
    let attributes = |at: &At<'_>| match of_name(at.dir, at.name) {
        Err(e) if gone(&e) => Ok(Vec::new()),
        other => other.map(plain),
    };
    if attributes(a)? != attributes(b)? {
        what.push("xattrs");
    }
    let kind = match data {
        Some(_) => ChangeKind::Changed,
        None => ChangeKind::Meta,
    };
    Ok((kind, what))
}

fn owner_differences(a: Owner, b: Owner) -> Vec<&'static str> {
    let mut what = Vec::new();
    if a.mode != b.mode {
        what.push("mode");
    }
    if (a.uid, a.gid) != (b.uid, b.gid) {
        what.push("owner");
    }
    what
}

type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

pub(super) fn plain(mut all: Attributes) -> Attributes {
    all.retain(|(name, _)| !name.starts_with(MARKS));
    all
}

fn data_difference(a: &At<'_>, b: &At<'_>) -> rustix::io::Result<Option<&'static str>> {
    match file_type(a.stat) {
        FileType::Symlink => {
            let target = |at: &At<'_>| fs::readlinkat(at.dir, at.name, Vec::new());
            Ok((target(a)? != target(b)?).then_some("target"))
        }
        FileType::CharacterDevice | FileType::BlockDevice => {
            Ok((a.stat.st_rdev != b.stat.st_rdev).then_some("device"))
        }
        FileType::RegularFile if a.stat.st_size != b.stat.st_size => Ok(Some("data")),
        FileType::RegularFile => {
            let same = same_data(&open(a)?, &open(b)?).map_err(errno)?;
            Ok((!same).then_some("data"))
        }
        _ => Ok(None),
    }
}

fn open(at: &At<'_>) -> rustix::io::Result<File> {
    use std::os::fd::AsFd as _;
    let file = open_quietly(at.dir.as_fd(), at.name)?;
    match is_file(&fs::fstat(&file)?) {
        true => Ok(File::from(file)),
        false => Err(Errno::INVAL),
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// Compares what is data in either; where both have a hole nothing is read, however large it is.
fn same_data(a: &File, b: &File) -> io::Result<bool> {
    let size = a.metadata()?.len();
    if size != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    while at < size {
        if interrupt::caught().is_some() {
            return Err(Errno::INTR.into());
        }
        let begin = data_from(a, at, size)?.min(data_from(b, at, size)?);
        if begin >= size {
            break;
        }
        let want = usize::try_from(size - begin).map_or(PIECE, |left| left.min(PIECE));
        let (left, right) = (&mut left[..want], &mut right[..want]);
        // One that has become shorter meanwhile is another.
        if read_all(a, left, begin)? != want || read_all(b, right, begin)? != want || left != right
        {
            return Ok(false);
        }
        at = begin + want as u64;
    }
    Ok(true)
}

/// Where data begins from `at` on.
pub(super) fn data_from(file: &File, at: u64, size: u64) -> io::Result<u64> {
    match fs::seek(file, SeekFrom::Data(at)) {
        Ok(begin) => Ok(begin),
        Err(Errno::NXIO) => Ok(size),
        // A filesystem without holes.
        Err(Errno::INVAL) => Ok(at),
        Err(e) => Err(e.into()),
    }
}

pub(super) fn read_all(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut offset = at;
    super::tree_item::fill(buffer, |part| {
        let n = file.read_at(part, offset)?;
        offset += n as u64;
        Ok(n)
    })
}

#[cfg(test)]
mod tests {
    use super::super::dirfd::open_dir;
    use super::super::seed::tests::TempDir;
    use super::*;

    #[test]
    fn holes_are_zeros_and_nobody_is_believed_about_the_last_minutes() {
        let temp = TempDir::new("same");
        let path = |name: &str| temp.path().join(name);
        std::fs::write(path("zeros"), vec![0; 300 << 10]).unwrap();
        std::fs::write(
            path("other"),
            [vec![0; 299 << 10], vec![1; 1 << 10]].concat(),
        )
        .unwrap();
        let hole = File::create(path("hole")).unwrap();
        hole.set_len(300 << 10).unwrap();
        let dir = open_dir(temp.path()).unwrap();
        let stat = |name: &CStr| fs::statat(&dir, name, fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let differ = |a: &CStr, b: &CStr| {
            let (one, other) = (stat(a), stat(b));
            let left = At {
                dir: &dir,
                name: a,
                stat: &one,
            };
            let right = At {
                dir: &dir,
                name: b,
                stat: &other,
            };
            differences(&left, &right, Proof { settled: 0 }).unwrap()
        };
        assert_eq!(differ(c"zeros", c"hole"), (ChangeKind::Meta, Vec::new()));
        assert_eq!(differ(c"zeros", c"other").1, ["data"]);
        // As a copy of one filesystem in another shows it.
        let a = stat(c"zeros");
        let mut b = a;
        b.st_dev += 1;
        let proof = |settled| Proof { settled };
        assert!(proof(a.st_ctime + 1).holds(&a, &b) && !proof(a.st_ctime).holds(&a, &b));
        b.st_ctime_nsec += 1;
        assert!(!proof(a.st_ctime + 1).holds(&a, &b));
    }
}
