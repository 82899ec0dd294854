//! The beginning and the memory of a program that a client starts for every step it takes: what the
//! standard library sets up for programs that live longer, and what a general allocator does so that
//! memory can be used twice, costs a short one more than it gives.
//!
//! * [`brief_program!`](crate::brief_program) gives a program a `main` of the C library's, without
//!   the look at `/proc/self/maps`, the second stack and the handlers of the standard library, which
//!   would print a line before SIGSEGV ends the program in any case.
//! * [`Memory`] gives out its first part from one end to the other and takes nothing of it back: after
//!   a fork, giving back would copy a page for each mark that it leaves in it. What is needed beyond
//!   comes from the system's allocator and goes back there.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much is given out once; most commands need less. Untouched pages cost nothing.
const ONCE: usize = 512 << 10;
/// How much is made present at a time: one call instead of a page fault for each page.
const AHEAD: usize = 64 << 10;

#[repr(C, align(4096))]
struct Part(UnsafeCell<[u8; ONCE]>);

/// The allocator: see above.
pub struct Memory {
    part: Part,
    /// Bytes of the part that are given out.
    used: AtomicUsize,
    /// Bytes of the part that have been made present.
    present: AtomicUsize,
}

// SAFETY: bytes of the part are given out once each, by an atomic addition, to who asked for them.
unsafe impl Sync for Memory {}

impl Memory {
    /// All of it free.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "made once, for a static")]
    pub const fn new() -> Self {
        Self {
            part: Part(UnsafeCell::new([0; ONCE])),
            used: AtomicUsize::new(0),
            present: AtomicUsize::new(0),
        }
    }

    fn base(&self) -> *mut u8 {
        self.part.0.get().cast()
    }

    /// Where in the part a block begins that was given out of it.
    fn offset(&self, block: *mut u8) -> Option<usize> {
        let offset = block.addr().checked_sub(self.base().addr())?;
        (offset < ONCE).then_some(offset)
    }

    /// The next bytes of the part, if so many are left.
    fn take(&self, layout: Layout) -> Option<*mut u8> {
        if layout.align() > align_of::<Part>() {
            return None;
        }
        let mut used = self.used.load(Ordering::Acquire);
        loop {
            // Alignments are powers of two: no division.
            let start = used.checked_add(layout.align() - 1)? & !(layout.align() - 1);
            let end = start.checked_add(layout.size())?;
            if end > ONCE {
                // Nothing more of it, however small: commands that need more have threads too, which
                // would take the same few bytes from each other again and again.
                self.used.store(ONCE, Ordering::Release);
                return None;
            }
            let set =
                self.used
                    .compare_exchange_weak(used, end, Ordering::AcqRel, Ordering::Acquire);
            match set {
                Ok(_) => {
                    self.be_present(end);
                    // SAFETY: `start` is within the part.
                    return Some(unsafe { self.base().add(start) });
                }
                Err(now) => used = now,
            }
        }
    }

    fn be_present(&self, end: usize) {
        let present = self.present.load(Ordering::Relaxed);
        if end <= present {
            return;
        }
        let wanted = end.next_multiple_of(AHEAD).min(ONCE);
        self.present.store(wanted, Ordering::Relaxed);
        // SAFETY: the range is the part's own, and what is written into it are the zeros that it
        // has. Linux 5.14; an older one refuses, and the pages come one by one.
        unsafe {
            let from = self.base().add(present).cast();
            libc::madvise(
                from,
                wanted.saturating_sub(present),
                libc::MADV_POPULATE_WRITE,
            );
        }
    }

    /// Makes the block that was given out last end elsewhere.
    fn move_end(&self, offset: usize, from: usize, to: usize) -> bool {
        let (end, new) = (offset + from, offset.saturating_add(to));
        let moved = new <= ONCE
            && self.used.load(Ordering::Acquire) == end
            && self
                .used
                .compare_exchange(end, new, Ordering::AcqRel, Ordering::Acquire)
                .is_ok();
        if moved {
            self.be_present(new);
        }
        moved
    }
}

// SAFETY: blocks do not overlap: within the part `used` only passes what nobody has, outside of it
// the system's allocator sees to that. A block goes back to where it came from.
// Not inlined: the program has thousands of places that ask for memory.
unsafe impl GlobalAlloc for Memory {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            Some(block) => block,
            // SAFETY: the caller's promise.
            None => unsafe { System.alloc(layout) },
        }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.offset(block) {
            Some(offset) => {
                let _not_the_last = self.move_end(offset, layout.size(), 0);
            }
            // SAFETY: it did not come from the part, so from there.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(offset) = self.offset(block) else {
            // SAFETY: it did not come from the part, so from there.
            return unsafe { System.realloc(block, layout, size) };
        };
        if self.move_end(offset, layout.size(), size) || size <= layout.size() {
            return block;
        }
        // SAFETY: the size is the caller's, who promises that it fits the alignment; both blocks are
        // at least as long as what is copied, and the new one is nobody's yet.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                block.copy_to_nonoverlapping(new, layout.size());
            }
            new
        }
    }
}

/// What a `main` of the C library's owes the standard library: no other file at the place of standard
/// input, output and error; errors instead of SIGPIPE; and the end of what is still to be printed.
pub fn run(main: impl FnOnce() -> u8) -> i32 {
    for fd in 0..3 {
        // SAFETY: the first call only asks; the second opens a file of that name at the lowest free
        // number, which is this one.
        let there = unsafe {
            libc::fcntl(fd, libc::F_GETFD) >= 0
                || libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) == fd
        };
        if !there {
            std::process::abort();
        }
    }
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let code = main();
    // As at the end of a program of the standard library's: nobody can be told.
    let _unheard = std::io::stdout().flush();
    i32::from(code)
}

/// A program that begins as C programs do, and uses [`Memory`](crate::kernel::brief::Memory).
#[macro_export]
macro_rules! brief_program {
    ($main:path) => {
        #[global_allocator]
        static MEMORY: $crate::kernel::brief::Memory = $crate::kernel::brief::Memory::new();

        /// Where the C library begins the program; it has arguments and environment already.
        #[unsafe(no_mangle)]
        pub extern "C" fn main() -> i32 {
            $crate::kernel::brief::run($main)
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn what_was_given_out_last_can_grow_and_go_back() {
        static MEMORY: Memory = Memory::new();
        let memory = &MEMORY;
        // SAFETY: every block is used with the layout it was asked for with.
        unsafe {
            let first = memory.alloc(layout(10, 1));
            let second = memory.alloc(layout(100, 64));
            assert_eq!(second.addr() % 64, 0);
            second.write_bytes(7, 100);
            assert_eq!(memory.realloc(second, layout(100, 64), 5000), second);
            first.write_bytes(1, 10);
            let moved = memory.realloc(first, layout(10, 1), 20);
            assert_ne!(moved, first);
            assert_eq!(std::slice::from_raw_parts(moved, 10), [1; 10]);
            assert_eq!(std::slice::from_raw_parts(second, 100), [7; 100]);
            memory.dealloc(moved, layout(20, 1));
            assert_eq!(memory.alloc(layout(20, 1)), moved);
            assert_eq!(memory.realloc(second, layout(5000, 64), 10), second);
        }
    }

    #[test]
    fn beyond_it_the_system_gives_and_takes() {
        static MEMORY: Memory = Memory::new();
        let memory = &MEMORY;
        // SAFETY: as above.
        unsafe {
            let all = memory.alloc(layout(ONCE - 100, 1));
            all.add(ONCE - 101).write(1);
            let beyond = memory.alloc(layout(200, 16));
            assert!(memory.offset(all).is_some() && memory.offset(beyond).is_none());
            beyond.write_bytes(3, 200);
            let longer = memory.realloc(beyond, layout(200, 16), 1 << 20);
            assert_eq!(std::slice::from_raw_parts(longer, 200), [3; 200]);
            memory.dealloc(longer, layout(1 << 20, 16));
            // A block that cannot grow there moves out, and nothing else comes in.
            let out = memory.realloc(all, layout(ONCE - 100, 1), ONCE + 1);
            assert!(memory.offset(out).is_none());
            assert_eq!(out.add(ONCE - 101).read(), 1);
            memory.dealloc(out, layout(ONCE + 1, 1));
            let small = memory.alloc(layout(5, 1));
            assert!(memory.offset(small).is_none());
            memory.dealloc(small, layout(5, 1));
        }
    }

    #[test]
    fn threads_get_bytes_of_their_own() {
        static MEMORY: Memory = Memory::new();
        let memory = &MEMORY;
        std::thread::scope(|scope| {
            for mark in 1..=4_u8 {
                scope.spawn(move || {
                    let mut blocks = Vec::new();
                    for n in 1..500_usize {
                        let one = layout(n % 60 + 1, 8);
                        // SAFETY: as above.
                        let block = unsafe { memory.alloc(one) };
                        unsafe { block.write_bytes(mark, one.size()) };
                        blocks.push((block, one));
                    }
                    for (block, one) in blocks {
                        // SAFETY: as above.
                        let bytes = unsafe { std::slice::from_raw_parts(block, one.size()) };
                        assert!(bytes.iter().all(|b| *b == mark));
                        unsafe { memory.dealloc(block, one) };
                    }
                });
            }
        });
    }
}
