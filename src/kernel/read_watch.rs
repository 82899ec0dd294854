//! Who reads a file of a folder is held until we have answered (fanotify(7), FAN_ACCESS_PERM): time to
//! bring the file up to date. Answers are given by dropping, so that none can be forgotten, and when the
//! process that holds the watch dies the kernel lets everybody go on.
//!
//! Since Linux 6.17 the kernel decides when a file is opened whether its readers can ever be held, by
//! whether the file or its folder is watched at that moment. So the watch on the folder is never taken
//! away: while nobody is to be held, what it tells is ignored. That goes for all marks of one fanotify
//! group, so single files are held meanwhile by a second one.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyEvent, FanotifyResponse, InitFlags, MarkFlags, MaskFlags,
    Response,
};
use rustix::io::Errno;

use super::credentials::EffectiveUser;
use super::error::{KernelError, Result};

/// Files whose readers wait for us.
#[derive(Debug)]
pub struct ReadWatch {
    /// All of a folder.
    group: Fanotify,
    /// Single ones.
    single: Fanotify,
}

/// What has happened.
#[derive(Debug)]
pub struct Happened<'a> {
    /// Who waits.
    pub readers: Vec<Reader<'a>>,
    /// Whether a file of [`ReadWatch::tell`] was written.
    pub written: bool,
}

/// A reader that waits. Let go on when this is dropped.
#[derive(Debug)]
pub struct Reader<'a> {
    group: &'a Fanotify,
    event: FanotifyEvent,
}

impl ReadWatch {
    /// Whether this kernel and we can do it. One that was built without permission events makes a watch
    /// all the same and refuses what is put on it. Where nothing could be had for want of memory,
    /// descriptors or watches, the answer is yes: that passes, and is found out each time anew.
    #[must_use]
    pub fn is_possible() -> bool {
        let tried = Self::new().and_then(|watch| {
            // A file without a name, which nobody reads.
            let file = rustix::fs::memfd_create("watched", rustix::fs::MemfdFlags::CLOEXEC)
                .map_err(KernelError::on("make", "a file in memory"))?;
            watch.hold(file.as_fd())
        });
        tried.map_or_else(|error| passes(error.errno), |()| true)
    }

    /// A watch that counts as this user's: the kernel gives each user no more than 128 groups of marks
    /// (/proc/sys/fs/fanotify/max_user_groups), which is not enough for ours for each guest.
    ///
    /// # Errors
    /// The kernel has no such events, or the user has used up their watches.
    pub fn of(user: u32) -> Result<Self> {
        let _user = EffectiveUser::become_id(user)?;
        Self::new()
    }

    /// A watch of our own.
    ///
    /// # Errors
    /// As [`ReadWatch::of`].
    pub fn new() -> Result<Self> {
        let flags = InitFlags::FAN_CLASS_CONTENT
            | InitFlags::FAN_CLOEXEC
            | InitFlags::FAN_NONBLOCK
            | InitFlags::FAN_UNLIMITED_QUEUE
            | InitFlags::FAN_UNLIMITED_MARKS;
        // Read-only: the file is opened for us where its reader sees it, which cannot be written.
        let events = EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC | EventFFlags::O_LARGEFILE;
        let group = || Fanotify::init(flags, events).map_err(failed("make", "a watch on readers"));
        Ok(Self {
            group: group()?,
            single: group()?,
        })
    }

    /// From now on readers of any file of this folder wait.
    ///
    /// # Errors
    /// The file system has no such events.
    pub fn hold_all(&self, folder: BorrowedFd<'_>) -> Result<()> {
        let what = MaskFlags::FAN_ACCESS_PERM | MaskFlags::FAN_EVENT_ON_CHILD;
        mark(&self.group, MarkFlags::FAN_MARK_ADD, what, folder)
    }

    /// Readers of this one of them do not.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn except(&self, file: BorrowedFd<'_>) -> Result<()> {
        self.ignore(MarkFlags::FAN_MARK_ADD, file)
    }

    /// From now on nobody waits but for single files.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn let_all_be(&self, folder: BorrowedFd<'_>) -> Result<()> {
        self.ignore(MarkFlags::FAN_MARK_ADD, folder)
    }

    /// After [`ReadWatch::let_all_be`], all wait again.
    ///
    /// # Errors
    /// Nobody was let be.
    pub fn hold_again(&self, folder: BorrowedFd<'_>) -> Result<()> {
        self.ignore(MarkFlags::FAN_MARK_REMOVE, folder)
    }

    fn ignore(&self, how: MarkFlags, file: BorrowedFd<'_>) -> Result<()> {
        let ignored = MarkFlags::FAN_MARK_IGNORED_MASK | MarkFlags::FAN_MARK_IGNORED_SURV_MODIFY;
        mark(&self.group, how | ignored, MaskFlags::FAN_ACCESS_PERM, file)
    }

    /// Readers of this file wait, whether those of its folder do or not.
    ///
    /// # Errors
    /// The file system has no such events.
    pub fn hold(&self, file: BorrowedFd<'_>) -> Result<()> {
        let what = MaskFlags::FAN_ACCESS_PERM;
        mark(&self.single, MarkFlags::FAN_MARK_ADD, what, file)
    }

    /// After [`ReadWatch::hold`], they wait as those of the folder do.
    ///
    /// # Errors
    /// None waited.
    pub fn let_be(&self, file: BorrowedFd<'_>) -> Result<()> {
        let what = MaskFlags::FAN_ACCESS_PERM;
        mark(&self.single, MarkFlags::FAN_MARK_REMOVE, what, file)
    }

    /// From now on it is told when this file was written; nobody waits for that.
    ///
    /// # Errors
    /// The file system has no such events.
    pub fn tell(&self, file: BorrowedFd<'_>) -> Result<()> {
        mark(
            &self.group,
            MarkFlags::FAN_MARK_ADD,
            MaskFlags::FAN_MODIFY,
            file,
        )
    }

    /// What becomes readable when somebody waits or something was written.
    #[must_use]
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.group.as_fd(), self.single.as_fd()]
    }

    /// Those who wait now, and whether something was written; does not wait for any.
    ///
    /// # Errors
    /// The kernel has nothing to say.
    pub fn waiting(&self) -> Result<Happened<'_>> {
        let mut all = Happened {
            readers: Vec::new(),
            written: false,
        };
        for group in [&self.group, &self.single] {
            let events = match group.read_events() {
                Ok(events) => events,
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => continue,
                Err(errno) => return Err(failed("ask for", "waiting readers")(errno)),
            };
            for event in events {
                match event.mask().contains(MaskFlags::FAN_ACCESS_PERM) {
                    true => all.readers.push(Reader { group, event }),
                    false => all.written = true,
                }
            }
        }
        Ok(all)
    }
}

fn mark(group: &Fanotify, how: MarkFlags, what: MaskFlags, file: BorrowedFd<'_>) -> Result<()> {
    // Without a path, the descriptor itself is meant.
    let done = group.mark(how, what, file, None::<&str>);
    done.map_err(failed("watch", "readers of a file"))
}

impl Reader<'_> {
    /// Number of the file it reads, on the file system that holds the watched ones.
    #[must_use]
    pub fn inode(&self) -> Option<u64> {
        Some(rustix::fs::fstat(self.event.fd()?).ok()?.st_ino)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.event.pid()
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if let Some(fd) = self.event.fd() {
            let go = FanotifyResponse::new(fd, Response::FAN_ALLOW);
            // One that was killed meanwhile needs no answer.
            let _gone = self.group.write_response(go);
        }
    }
}

/// Whether what failed like this may work the next time.
fn passes(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOSPC
    )
}

fn failed(verb: &'static str, what: &'static str) -> impl Fn(nix::errno::Errno) -> KernelError {
    move |errno| KernelError::new(verb, what, Errno::from_raw_os_error(errno as i32))
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    fn file() -> OwnedFd {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::TMPFILE;
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::open(std::env::temp_dir(), flags, mode).unwrap()
    }

    fn may() -> bool {
        ReadWatch::new().is_ok()
    }

    #[test]
    fn a_reader_waits_until_it_is_answered() {
        if !may() {
            return;
        }
        let (watch, file) = (ReadWatch::new().unwrap(), file());
        rustix::io::pwrite(&file, b"old", 0).unwrap();
        watch.hold(file.as_fd()).unwrap();
        let theirs = rustix::fs::open(
            format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)),
            rustix::fs::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
        );
        let theirs = theirs.unwrap();
        let reader = std::thread::spawn(move || {
            let mut text = [0; 3];
            rustix::io::pread(&theirs, &mut text, 0).unwrap();
            let first = text;
            // Nobody holds it the second time.
            rustix::io::pread(&theirs, &mut text, 0).unwrap();
            (first, text)
        });
        let waiting = somebody(&watch);
        let inode = rustix::fs::fstat(&file).unwrap().st_ino;
        assert_eq!(waiting[0].inode(), Some(inode));
        assert_eq!(waiting[0].pid(), std::process::id().cast_signed());
        rustix::io::pwrite(&file, b"new", 0).unwrap();
        watch.let_be(file.as_fd()).unwrap();
        drop(waiting);
        assert_eq!(reader.join().unwrap(), (*b"new", *b"new"));
    }

    fn somebody(watch: &ReadWatch) -> Vec<Reader<'_>> {
        loop {
            let waiting = watch.waiting().unwrap().readers;
            if !waiting.is_empty() {
                break waiting;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn files_of_a_folder_are_held_whenever_they_were_opened() {
        if !may() {
            return;
        }
        let folder = std::env::temp_dir().join(format!("bulkhead-watch-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let open = |name: &str| std::fs::File::open(folder.join(name)).unwrap();
        for name in ["held", "single", "never"] {
            std::fs::write(folder.join(name), name).unwrap();
        }
        let read = |file: &std::fs::File| rustix::io::pread(file, &mut [0; 3], 0).unwrap();
        let watch = ReadWatch::new().unwrap();
        let of_all = std::fs::File::open(&folder).unwrap();
        watch.hold_all(of_all.as_fd()).unwrap();
        watch.except(open("never").as_fd()).unwrap();
        watch.let_all_be(of_all.as_fd()).unwrap();
        watch.hold(open("single").as_fd()).unwrap();
        // Nobody would answer.
        let early = open("held");
        assert_eq!(read(&early) + read(&open("never")), 6);
        for (name, file) in [("single", open("single")), ("held", early)] {
            if name == "held" {
                watch.let_be(open("single").as_fd()).unwrap();
                watch.hold_again(of_all.as_fd()).unwrap();
            }
            let reader = std::thread::spawn(move || {
                rustix::io::pread(&file, &mut [0; 3], 0).unwrap();
            });
            assert_eq!(somebody(&watch).len(), 1, "{name}");
            reader.join().unwrap();
        }
        read(&open("never"));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_was_written_is_told_and_nobody_waits() {
        if !may() {
            return;
        }
        let (watch, file) = (ReadWatch::new().unwrap(), file());
        watch.tell(file.as_fd()).unwrap();
        assert!(!watch.waiting().unwrap().written);
        rustix::io::pwrite(&file, b"new", 0).unwrap();
        rustix::io::pread(&file, &mut [0; 3], 0).unwrap();
        let happened = watch.waiting().unwrap();
        assert!(happened.written && happened.readers.is_empty());
        drop(happened);
        assert!(!watch.waiting().unwrap().written);
    }

    #[test]
    fn what_is_lacking_now_is_no_answer_for_a_whole_boot() {
        assert!(passes(Errno::MFILE) && passes(Errno::NFILE) && passes(Errno::NOMEM));
        // No permission events, no fanotify, no right to it.
        assert!(!passes(Errno::INVAL) && !passes(Errno::NOSYS) && !passes(Errno::PERM));
        if may() {
            let works = ReadWatch::new().unwrap().hold(file().as_fd()).is_ok();
            assert_eq!(ReadWatch::is_possible(), works);
        }
    }

    #[test]
    fn each_user_has_watches_of_their_own() {
        if !may() {
            return;
        }
        let most = std::fs::read_to_string("/proc/sys/fs/fanotify/max_user_groups");
        let most: usize = most.map_or(128, |text| text.trim().parse().unwrap());
        if most > 500 {
            return;
        }
        // Ids that nobody has.
        let mut held = Vec::new();
        let full = loop {
            match ReadWatch::of(3_999_990_001) {
                Ok(watch) => held.push(watch),
                Err(error) => break error,
            }
        };
        assert_eq!((held.len(), full.errno), (most / 2, Errno::MFILE));
        assert!(ReadWatch::of(3_999_990_002).is_ok());
        assert!(rustix::process::geteuid().is_root());
    }
}
