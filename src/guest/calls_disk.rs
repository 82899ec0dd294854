//! What statfs(2) tells in a guest whose root is a subvolume of btrfs: the size that it was sold. The
//! kernel tells of the whole pool there, of which the guest gets no more than its quota group lets it.

use std::os::fd::{AsFd, BorrowedFd};

use super::calls_numbers::fill_in;
use super::manager::Manager;
use crate::kernel::btrfs::Counter;
use crate::kernel::caller_file::{self, Filesystem, Form, Statfs};
use crate::kernel::seccomp::notify::{self, Answer, Call};
use crate::model::{Arch, Guest, GuestName};
use crate::storage;

/// The calls, which only the filters of such guests ask about; the last two programs of 32 bits have.
pub(super) const DISK_CALLS: [&str; 4] = ["statfs", "fstatfs", "statfs64", "fstatfs64"];

/// Folders that are no part of a guest's root; programs ask about files there again and again.
const OTHERS: [&[u8]; 3] = [b"/proc/", b"/sys/", b"/dev/"];

pub(super) struct Disk {
    counter: Counter,
    root: Filesystem,
}

impl Disk {
    /// `None` where it is the kernel that answers.
    pub(super) fn open(manager: &Manager, name: &GuestName) -> Option<Self> {
        let state = manager.run_state(name).ok()??;
        if state.rescue.is_some() {
            return None;
        }
        Some(Self {
            counter: storage::counter(&manager.layout, name).ok()??,
            root: notify::briefly(|| caller_file::root_filesystem(state.init?.pid).ok())?,
        })
    }

    /// `None` where the kernel is to answer: that of other filesystems, and whatever is wrong with it.
    pub(super) fn tell(
        &self,
        listener: BorrowedFd<'_>,
        call: &Call,
        (arch, name): (Arch, &str),
    ) -> Option<Answer> {
        let [what, second, third, ..] = call.arguments;
        let (form, address) = match (arch, name) {
            (Arch::I386, "statfs64" | "fstatfs64") => (Form::Long, third),
            (Arch::I386, _) => (Form::Short, second),
            _ => (Form::Native, second),
        };
        if form == Form::Long && second & 0xffff_ffff != form.size() as u64 {
            return None;
        }
        let path = match name {
            "statfs" | "statfs64" => Some(notify::text_of_caller(listener, call, what).ok()?),
            _ => None,
        };
        let elsewhere = |path: &[u8]| OTHERS.iter().any(|other| path.starts_with(other));
        if path.as_ref().is_some_and(|path| elsewhere(path.to_bytes())) {
            return None;
        }
        let told = notify::briefly(|| {
            let file = match &path {
                Some(path) => caller_file::by_path(call.thread, path, self.root),
                // 32 bits wide, whatever the register holds.
                None => {
                    let number = u32::try_from(what & 0xffff_ffff).ok()?;
                    caller_file::by_descriptor(call.thread, number, self.root)
                }
            };
            Statfs::of(file.ok()?.as_fd()).ok()
        })?;
        let counted = self.counter.read()?;
        if !told.is_overlay() || !notify::waits(listener, call.id) {
            return None;
        }
        let told = told.sized(counted.limit, counted.used);
        match told.as_bytes(form) {
            Ok(bytes) => fill_in(listener, call, address, &bytes, 0),
            Err(errno) => Some(Answer::Fails(errno)),
        }
    }
}

impl Manager {
    /// Whether a guest whose calls are answered needs an answer to these.
    pub(super) fn answers_disk(&self, guest: &Guest) -> bool {
        let sold = guest.disk.size.is_some();
        sold && storage::is_counted(&self.layout, &guest.name).unwrap_or(false)
    }
}
