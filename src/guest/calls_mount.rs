//! A container in a guest that mounts a procfs or a sysfs of its own gets it with the guest's files laid
//! over the kernel's, as the guest's own are: whoever mounts is held, and a process in its place mounts,
//! with its rights and no more (`kernel/caller_place`). What that does is next door in `calls_mounted`;
//! here is what a call means.
//!
//! A container is whatever has processes of its own: a guest's own chroots mount and unmount as ever.
//! Everything that is not plainly such a mount, and whatever goes wrong before it is made, is the kernel's.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::mount::UnmountFlags;

use super::calls_mounted::{Place, Source, lay, mount, take_off};
use super::manager::Manager;
use crate::kernel::caller_place::{CallerPlace, Teller};
use crate::kernel::mount::Attr;
use crate::kernel::seccomp::notify::{self, Answer, Call};
use crate::kernel::{Errno, namespace};
use crate::model::{Arch, GuestName};

/// The calls, which only the filters of guests with containers ask about.
pub(super) const MOUNT_CALLS: [&str; 3] = ["mount", "move_mount", "umount2"];

/// How long it may take: what a path leads to may never come.
const LONGEST: Duration = Duration::from_secs(3);

/// Flags of mount(2) that are about the mount, and what they are there.
const OF_MOUNT: [(u64, Attr); 7] = [
    (1, Attr::MOUNT_ATTR_RDONLY),
    (1 << 1, Attr::MOUNT_ATTR_NOSUID),
    (1 << 2, Attr::MOUNT_ATTR_NODEV),
    (1 << 3, Attr::MOUNT_ATTR_NOEXEC),
    (1 << 10, Attr::MOUNT_ATTR_NOATIME),
    (1 << 11, Attr::MOUNT_ATTR_NODIRATIME),
    (1 << 24, Attr::MOUNT_ATTR_STRICTATIME),
];
/// Those about the filesystem.
const OF_FILESYSTEM: [(u64, &str); 4] = [
    (1, "ro"),
    (1 << 4, "sync"),
    (1 << 7, "dirsync"),
    (1 << 25, "lazytime"),
];
/// MS_SILENT and MS_RELATIME, which is so anyway.
const OF_NOTHING: u64 = 1 << 15 | 1 << 21;
/// What old programs put into the upper half of the flags.
const MAGIC: (u64, u64) = (0xffff_0000, 0xc0ed_0000);

/// Of move_mount(2): links are followed, what mounts itself is, the place is the descriptor itself.
const FOLLOWS: u64 = 0x10;
const AUTOMOUNTS: u64 = 0x20;
const PLACE_IS_OPEN: u64 = 0x40;
/// The source is; asked about are only such.
const SOURCE_IS_OPEN: u64 = 0x4;
/// The folder a path begins in, as 32 bits.
const HERE: u64 = 0xffff_ff9c;

pub(super) struct Mounts {
    folder: PathBuf,
    /// The number of the guest's namespace of processes, and our own.
    processes: u64,
    home: OwnedFd,
    /// A call that was carried out and taken out of its waiting by a signal before it was told: it is
    /// made once more.
    unheard: Option<(Call, Answer)>,
}

impl Mounts {
    /// `None` where it is the kernel that answers.
    pub(super) fn open(manager: &Manager, name: &GuestName) -> Option<Self> {
        let init = manager.run_state(name).ok()??.init?;
        Some(Self {
            folder: manager.inside_folder(name),
            processes: namespace::number(init.pid, "pid")?,
            home: namespace::open_own("pid").ok()?,
            unheard: None,
        })
    }

    /// Takes note that a caller has not heard this.
    pub(super) fn unheard(&mut self, call: Call, answer: Answer) {
        self.unheard = Some((call, answer));
    }

    /// `None` where the kernel is to answer.
    pub(super) fn tell(
        &mut self,
        listener: BorrowedFd<'_>,
        call: &Call,
        (arch, name): (Arch, &str),
    ) -> Option<Answer> {
        if namespace::number(call.thread, "pid")? == self.processes {
            return None;
        }
        if let Some((before, answer)) = self.unheard.take()
            && (before.thread, before.number, before.arguments)
                == (call.thread, call.number, call.arguments)
        {
            return Some(answer);
        }
        let asked = Asked {
            listener,
            call,
            arch,
        };
        match name {
            "mount" => self.mount(&asked),
            "move_mount" => self.attach(&asked),
            "umount2" => self.uncover(&asked),
            _ => None,
        }
    }

    fn mount(&self, asked: &Asked<'_>) -> Option<Answer> {
        let [source, target, kind, flags, data, _] = asked.call.arguments;
        let kind = asked.text(kind)?;
        let kind = ["proc", "sysfs"]
            .into_iter()
            .find(|known| known.as_bytes() == kind.to_bytes())?;
        let (attributes, of_filesystem) = understood(asked.flags(flags))?;
        let mut options: Vec<(String, String)> = Vec::new();
        if source != 0 {
            options.push(("source".to_owned(), asked.text(source)?.into_string().ok()?));
        }
        options.extend(
            of_filesystem
                .into_iter()
                .map(|name| (name.to_owned(), String::new())),
        );
        if data != 0 {
            options.extend(split(&asked.text(data)?.into_string().ok()?));
        }
        let target = asked.text(target)?;
        let caller = asked.caller()?;
        let place = place(&caller, None, target, true)?;
        let new = Source::New {
            kind,
            options,
            attributes,
        };
        self.made(&caller, &new, &place)
    }

    fn attach(&self, asked: &Asked<'_>) -> Option<Answer> {
        let [from, name, to, target, flags, _] = asked.call.arguments;
        let flags = asked.flags(flags);
        if flags & !(SOURCE_IS_OPEN | FOLLOWS | AUTOMOUNTS | PLACE_IS_OPEN) != 0
            || !asked.text(name)?.is_empty()
        {
            return None;
        }
        let target = asked.text(target)?;
        let caller = asked.caller()?;
        let source = Source::open(caller.file(number(from)?)?)?;
        let folder = match to & 0xffff_ffff {
            HERE => None,
            to => Some(caller.file(number(to)?)?),
        };
        let place = match (target.is_empty() && flags & PLACE_IS_OPEN != 0, folder) {
            (true, folder) => Place::Open(folder?),
            (false, folder) => place(&caller, folder, target, flags & FOLLOWS != 0)?,
        };
        self.made(&caller, &source, &place)
    }

    /// Has it mounted. What was mounted stays so, whatever becomes of the files over it.
    fn made(&self, caller: &CallerPlace, source: &Source, place: &Place) -> Option<Answer> {
        let kept: Vec<BorrowedFd<'_>> = source.kept().chain(place.kept()).collect();
        let here = || Some(source.covers(&self.folder));
        let said = caller.act(self.home.as_fd(), &kept, LONGEST, here, |covers, teller| {
            let mounted = mount(source, place);
            tell_errno(teller, mounted.as_ref().err().copied());
            if let Ok(mounted) = mounted {
                lay(&covers, mounted.as_fd());
            }
        })?;
        Some(answer(said))
    }

    /// What was laid over it would keep it from being unmounted.
    fn uncover(&self, asked: &Asked<'_>) -> Option<Answer> {
        let [target, flags, ..] = asked.call.arguments;
        // Others than these the kernel refuses, or they do not unmount.
        let flags = UnmountFlags::from_bits(u32::try_from(asked.flags(flags)).ok()?)?;
        let target = asked.text(target)?;
        if own_descriptor(target.to_bytes()) != Own::No {
            return None;
        }
        let caller = asked.caller()?;
        let here = || Some(Source::own(&self.folder));
        let said = caller.act(self.home.as_fd(), &[], LONGEST, here, |own, teller| {
            if let Some(done) = take_off(&own, &target, flags) {
                tell_errno(teller, done.err());
            }
        })?;
        Some(answer(said))
    }
}

fn tell_errno(teller: &Teller, errno: Option<Errno>) {
    let errno = errno.map_or(0, |errno| errno.raw_os_error());
    // One that does not fit is none of the kernel's.
    if let Ok(errno) = u8::try_from(errno) {
        teller.say(errno);
    }
}

fn answer(said: u8) -> Answer {
    match said {
        0 => Answer::Value(0),
        errno => Answer::Fails(Errno::from_raw_os_error(errno.into())),
    }
}

/// A call that waits, and what can be read of it.
struct Asked<'a> {
    listener: BorrowedFd<'a>,
    call: &'a Call,
    arch: Arch,
}

impl Asked<'_> {
    fn text(&self, address: u64) -> Option<CString> {
        notify::text_of_caller(self.listener, self.call, address).ok()
    }

    /// As wide as the caller's registers are.
    fn flags(&self, argument: u64) -> u64 {
        match self.arch {
            Arch::I386 => argument & 0xffff_ffff,
            _ => argument,
        }
    }

    fn caller(&self) -> Option<CallerPlace> {
        let caller = CallerPlace::of(self.call.thread)?;
        notify::waits(self.listener, self.call.id).then_some(caller)
    }
}

fn number(argument: u64) -> Option<u32> {
    u32::try_from(argument & 0xffff_ffff).ok()
}

/// Where a path of the caller's leads. Through the caller's own descriptors it is those that it means;
/// who goes there by another way is not understood.
fn place(
    caller: &CallerPlace,
    folder: Option<OwnedFd>,
    path: CString,
    follow: bool,
) -> Option<Place> {
    match own_descriptor(path.to_bytes()) {
        Own::Number(number) if follow => Some(Place::Open(caller.file(number)?)),
        Own::No => Some(Place::Path {
            folder,
            path,
            follow,
        }),
        _ => None,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Own {
    Number(u32),
    No,
    Otherwise,
}

/// Whether a path goes through the descriptors of whoever looks it up.
fn own_descriptor(path: &[u8]) -> Own {
    let ways: [&[u8]; 3] = [b"/proc/self/fd/", b"/proc/thread-self/fd/", b"/dev/fd/"];
    let number = ways.iter().find_map(|way| path.strip_prefix(*way));
    let number = number.and_then(|rest| std::str::from_utf8(rest).ok()?.parse().ok());
    let has = |what: &[u8]| path.windows(what.len()).any(|part| part == what);
    match number {
        Some(number) => Own::Number(number),
        None if has(b"self/") || has(b"dev/fd") => Own::Otherwise,
        None => Own::No,
    }
}

/// Flags of mount(2) as attributes and options; `None` when there is one that we do not know.
fn understood(flags: u64) -> Option<(Attr, Vec<&'static str>)> {
    let magic = flags & MAGIC.0 == MAGIC.1;
    let flags = if magic { flags & !MAGIC.0 } else { flags };
    let of_mount = OF_MOUNT.iter().filter(|(bit, _)| flags & bit != 0);
    let of_filesystem = OF_FILESYSTEM.iter().filter(|(bit, _)| flags & bit != 0);
    let known = OF_MOUNT
        .iter()
        .map(|(bit, _)| bit)
        .chain(OF_FILESYSTEM.iter().map(|(bit, _)| bit));
    let known = known.fold(OF_NOTHING, |all, bit| all | bit);
    (flags & !known == 0).then(|| {
        let attributes = of_mount.fold(Attr::empty(), |all, (_, one)| all | *one);
        (attributes, of_filesystem.map(|(_, name)| *name).collect())
    })
}

/// Options as the text of mount(2) has them.
fn split(data: &str) -> impl Iterator<Item = (String, String)> {
    let parts = data.split(',').filter(|part| !part.is_empty());
    parts.map(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (key.to_owned(), value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_those_of_the_mount_and_of_the_filesystem() {
        let (attributes, options) = understood(0b1111).unwrap();
        let all = Attr::MOUNT_ATTR_RDONLY
            | Attr::MOUNT_ATTR_NOSUID
            | Attr::MOUNT_ATTR_NODEV
            | Attr::MOUNT_ATTR_NOEXEC;
        assert_eq!((attributes, options), (all, vec!["ro"]));
        let relatime = understood(1 << 21 | 1 << 15).unwrap();
        assert_eq!(relatime, (Attr::empty(), Vec::new()));
        // What old programs say, and a change of propagation, which has bits of it.
        assert_eq!(understood(0xc0ed_0002).unwrap().0, Attr::MOUNT_ATTR_NOSUID);
        for shared in [1 << 17, 1 << 18, 1 << 19, 1 << 20, 1 << 12, 1 << 5, 1 << 40] {
            assert!(understood(shared).is_none(), "{shared:#x}");
        }
    }

    #[test]
    fn descriptors_of_the_caller_are_not_taken_for_ours() {
        let own = |path: &str| own_descriptor(path.as_bytes());
        assert_eq!(own("/proc/self/fd/7"), Own::Number(7));
        assert_eq!(own("/proc/thread-self/fd/12"), Own::Number(12));
        assert_eq!(own("/dev/fd/3"), Own::Number(3));
        for other in [
            "/proc/self/fd/7/x",
            "/proc/self/fd/",
            "/x/proc/self/fd/7",
            "/proc/self/fd/-1",
            "/dev/fd",
            "proc/thread-self/fd/7",
            "/proc//self/fd/7",
        ] {
            assert_eq!(own(other), Own::Otherwise, "{other}");
        }
        assert_eq!(own("/proc"), Own::No);
        assert_eq!(own("/tmp/myself"), Own::No);
    }

    #[test]
    fn options_are_split_as_the_kernel_does() {
        let pairs: Vec<_> = split("hidepid=2,gid=5,,subset=pid,x").collect();
        let said = pairs.iter().map(|(key, value)| format!("{key}:{value}"));
        assert_eq!(
            said.collect::<Vec<_>>(),
            ["hidepid:2", "gid:5", "subset:pid", "x:"]
        );
    }
}
