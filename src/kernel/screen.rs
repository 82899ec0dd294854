//! A person's terminal as a screen that a program draws anew, and the keys typed meanwhile. The
//! terminal is given back as it was when this ends, also by a panic. Raw mode itself is in `terminal`.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use super::error::{KernelError, Result};
use super::terminal::RawMode;

/// Second buffer, cursor hidden, lines cut at the edge (DEC private modes 1049, 25, 7).
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l";
/// All of it back, and plain letters.
const LEAVE: &str = "\u{1b}[0m\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l";
/// Within this time of an escape character the rest of a key's sequence is there, over any network on
/// which somebody would work.
const SEQUENCE: Duration = Duration::from_millis(50);

/// Whether a screen is shown, for whoever ends this program by a panic.
static SHOWN: AtomicBool = AtomicBool::new(false);
static HOOK: Once = Once::new();

/// A key, or what is typed as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A visible character of ASCII.
    Char(char),
    /// Return.
    Enter,
    /// Escape, by itself.
    Escape,
    /// One to the left.
    Backspace,
    /// Up.
    Up,
    /// Down.
    Down,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the beginning.
    Home,
    /// To the end.
    End,
    /// Ctrl-C.
    Interrupt,
}

/// What came from the keyboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// These, perhaps none.
    Keys(Vec<Key>),
    /// Nobody is at the terminal any more.
    Gone,
}

/// A terminal that shows a screen until this is dropped.
#[derive(Debug)]
pub struct Screen {
    input: OwnedFd,
    output: OwnedFd,
    raw: Option<RawMode>,
    bytes: Vec<u8>,
}

impl Screen {
    /// Shows one; `None` when one of the two is no terminal.
    ///
    /// # Errors
    /// The terminal cannot be written to.
    pub fn on(input: impl AsFd, output: impl AsFd) -> Result<Option<Self>> {
        let (input, output) = (input.as_fd(), output.as_fd());
        if !isatty(input) || !isatty(output) {
            return Ok(None);
        }
        let own = |fd: std::os::fd::BorrowedFd<'_>| {
            let copied = fd.try_clone_to_owned();
            copied.map_err(KernelError::io("keep open", "the terminal"))
        };
        let mut screen = Self {
            input: own(input)?,
            output: own(output)?,
            raw: None,
            bytes: Vec::new(),
        };
        restore_on_panic(&own(input)?, own(output)?);
        screen.enter()?;
        Ok(Some(screen))
    }

    fn enter(&mut self) -> Result<()> {
        SHOWN.store(true, Ordering::Relaxed);
        self.raw = RawMode::on(self.input.as_fd());
        self.draw(ENTER)
    }

    fn leave(&mut self) {
        // One that went away needs nothing.
        let _gone = self.draw(LEAVE);
        self.raw = None;
        SHOWN.store(false, Ordering::Relaxed);
    }

    /// Gives the terminal to somebody else for a while.
    ///
    /// # Errors
    /// It cannot be written to afterwards.
    pub fn lend<T>(&mut self, to: impl FnOnce() -> T) -> Result<T> {
        self.leave();
        let done = to();
        self.enter()?;
        Ok(done)
    }

    /// Rows and columns.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        match tcgetwinsize(&self.output) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
                (usize::from(size.ws_row), usize::from(size.ws_col))
            }
            // A serial line does not know.
            _ => (24, 80),
        }
    }

    /// Writes to it.
    ///
    /// # Errors
    /// When it is gone.
    pub fn draw(&mut self, text: &str) -> Result<()> {
        write_all(&self.output, text.as_bytes())
            .map_err(KernelError::on("write to", "the terminal"))
    }

    /// What is typed within this time; comes back early when something is, and when a signal comes.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    pub fn typed(&mut self, limit: Duration) -> Result<Typed> {
        if !self.is_hot(limit)? {
            return Ok(Typed::Keys(Vec::new()));
        }
        let mut keys = Vec::new();
        loop {
            let mut page = [0_u8; 256];
            match rustix::io::read(&self.input, &mut page) {
                Ok(n @ 1..) => self.bytes.extend_from_slice(&page[..n]),
                Err(Errno::INTR | Errno::AGAIN) => {}
                _ => return Ok(Typed::Gone),
            }
            let used = parse(&self.bytes, &mut keys);
            self.bytes.drain(..used);
            // The beginning of a sequence.
            if self.bytes.is_empty() {
                break;
            }
            if !self.is_hot(SEQUENCE)? {
                if self.bytes == [ESC] {
                    keys.push(Key::Escape);
                }
                self.bytes.clear();
                break;
            }
        }
        Ok(Typed::Keys(keys))
    }

    fn is_hot(&self, limit: Duration) -> Result<bool> {
        let limit = Timespec::try_from(limit).unwrap_or(Timespec {
            tv_sec: 3600,
            tv_nsec: 0,
        });
        let mut fds = [PollFd::new(&self.input, PollFlags::IN)];
        match poll(&mut fds, Some(&limit)) {
            Ok(n) => Ok(n > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(KernelError::new("wait for", "the terminal", errno)),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Has a panic give the terminal back before it says anything: the program may be built to abort,
/// and then drops nothing.
fn restore_on_panic(input: &OwnedFd, output: OwnedFd) {
    let (Ok(before), Ok(input)) = (tcgetattr(input), input.try_clone()) else {
        return;
    };
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if SHOWN.swap(false, Ordering::Relaxed) {
                // There is nobody left to tell.
                let _gone = write_all(&output, LEAVE.as_bytes());
                let _gone = tcsetattr(&input, OptionalActions::Drain, &before);
            }
            usual(panic);
        }));
    });
}

fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                // Somebody has made it non-blocking.
                let mut fds = [PollFd::new(to, PollFlags::OUT)];
                match poll(&mut fds, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

const ESC: u8 = 0x1b;

/// Adds the keys that these bytes are; how many bytes they took. What remains is the beginning of a
/// sequence.
fn parse(bytes: &[u8], keys: &mut Vec<Key>) -> usize {
    let mut used = 0;
    while let Some(first) = bytes.get(used) {
        let took = match *first {
            ESC => match sequence(&bytes[used..]) {
                Some((took, key)) => {
                    keys.extend(key);
                    took
                }
                None => return used,
            },
            byte => {
                keys.extend(plain(byte));
                1
            }
        };
        used += took;
    }
    used
}

fn plain(byte: u8) -> Option<Key> {
    match byte {
        3 => Some(Key::Interrupt),
        b'\r' | b'\n' => Some(Key::Enter),
        8 | 0x7f => Some(Key::Backspace),
        b' '..=b'~' => Some(Key::Char(char::from(byte))),
        _ => None,
    }
}

/// The length of the sequence at the beginning, and its key if it is one of ours; `None` when more of
/// it is to come.
fn sequence(bytes: &[u8]) -> Option<(usize, Option<Key>)> {
    let second = bytes.get(1)?;
    if !matches!(second, b'[' | b'O') {
        // Alt and a key, which nothing here is bound to.
        return Some((2, None));
    }
    let rest = &bytes[2..];
    let end = rest.iter().position(|byte| (0x40..=0x7e).contains(byte))?;
    let key = match (&rest[..end], rest[end]) {
        (b"", b'A') => Some(Key::Up),
        (b"", b'B') => Some(Key::Down),
        (b"", b'H') | (b"1" | b"7", b'~') => Some(Key::Home),
        (b"", b'F') | (b"4" | b"8", b'~') => Some(Key::End),
        (b"5", b'~') => Some(Key::PageUp),
        (b"6", b'~') => Some(Key::PageDown),
        _ => None,
    };
    Some((2 + end + 1, key))
}

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, OFlags};
    use rustix::termios::LocalModes;

    use super::*;

    fn keys(bytes: &[u8]) -> (Vec<Key>, usize) {
        let mut keys = Vec::new();
        let used = parse(bytes, &mut keys);
        (keys, used)
    }

    #[test]
    fn keys_are_told_from_the_sequences_of_terminals() {
        let typed = b"q\r\x7f\x03\x1b[A\x1bOB\x1b[5~\x1b[1;5C\x1bx\xc3\xa4/";
        let (found, used) = keys(typed);
        assert_eq!(used, typed.len());
        let wanted = [
            Key::Char('q'),
            Key::Enter,
            Key::Backspace,
            Key::Interrupt,
            Key::Up,
            Key::Down,
            Key::PageUp,
            Key::Char('/'),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_sequence_that_is_not_whole_waits_for_its_end() {
        assert_eq!(keys(b"a\x1b"), (vec![Key::Char('a')], 1));
        assert_eq!(keys(b"\x1b["), (vec![], 0));
        assert_eq!(keys(b"\x1b[6"), (vec![], 0));
        assert_eq!(keys(b"\x1b[6~"), (vec![Key::PageDown], 4));
    }

    fn pty() -> (OwnedFd, OwnedFd) {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let master = rustix::fs::open("/dev/ptmx", flags, Mode::empty()).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = crate::kernel::terminal::other_end(master.as_fd()).unwrap();
        (master, slave)
    }

    fn is_cooked(terminal: &OwnedFd) -> bool {
        let modes = tcgetattr(terminal).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// What was written, up to the end of a screen; the kernel hands it on in pieces.
    fn said(master: &OwnedFd) -> String {
        let (mut all, mut page) = (Vec::new(), [0; 4096]);
        while !all.ends_with(LEAVE.as_bytes()) {
            let mut fds = [PollFd::new(master, PollFlags::IN)];
            let limit = Timespec {
                tv_sec: 5,
                tv_nsec: 0,
            };
            assert_eq!(poll(&mut fds, Some(&limit)), Ok(1), "{all:?}");
            let n = rustix::io::read(master, &mut page).unwrap();
            all.extend_from_slice(&page[..n]);
        }
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn the_terminal_is_as_it_was_after_an_end_a_loan_and_a_panic() {
        let (master, slave) = pty();
        let mut screen = Screen::on(&slave, &slave).unwrap().expect("a terminal");
        assert!(!is_cooked(&slave));
        rustix::io::write(&master, b"j\x1b").unwrap();
        let typed = screen.typed(Duration::from_secs(5)).unwrap();
        assert_eq!(typed, Typed::Keys(vec![Key::Char('j'), Key::Escape]));
        assert!(screen.lend(|| is_cooked(&slave)).unwrap());
        assert!(!is_cooked(&slave));
        drop(screen);
        assert!(is_cooked(&slave));
        let mut left = 0;
        // For the loan, and in the end.
        while left < 2 {
            left += said(&master).matches(LEAVE).count();
        }

        let screen = Screen::on(&slave, &slave).unwrap().expect("a terminal");
        // A program that aborts drops nothing: only the hook has run when this comes back.
        let (shown, cooked) = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let _kept = std::mem::ManuallyDrop::new(screen);
                panic!("as expected");
            });
            assert!(thread.join().is_err());
            (SHOWN.load(Ordering::Relaxed), is_cooked(&slave))
        });
        assert_eq!((shown, cooked), (false, true));
        assert!(said(&master).starts_with(ENTER));
    }

    #[test]
    fn nobody_at_the_terminal_is_an_end_and_no_terminal_no_screen() {
        let (ours, theirs) = rustix::pipe::pipe().unwrap();
        assert!(Screen::on(&ours, &theirs).unwrap().is_none());
        let (master, slave) = pty();
        let mut screen = Screen::on(&slave, &slave).unwrap().expect("a terminal");
        drop(master);
        assert_eq!(screen.typed(Duration::from_secs(5)), Ok(Typed::Gone));
    }
}
