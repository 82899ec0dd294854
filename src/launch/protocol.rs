//! The dialogue of a launch.
//!
//! ```text
//!   stage / init                     host
//!   UserNamespace            ──▶
//!                            ◀──    Go            + the root, as a descriptor
//!   Init { pid }  + pidfd    ──▶                    (the stage ends)
//!   Ready         + console  ──▶                    (of another process: may overtake Init)
//!                            ◀──    Go
//!   Loaded        + listener ──▶                    (only where the filter notifies)
//!   (closed by execve)       ──▶                    the guest runs
//!
//!   Failed { … }             ──▶                    at any time, instead
//! ```
//!
//! [`Dialogue`] is the host's side of it without any socket: it accepts the next message or names
//! what is wrong with it, so the order can be tested without a guest.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::kernel::channel::Channel;
use crate::kernel::{Errno, KernelError};

/// What the guest's side says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Word {
    /// The user namespace is made; its maps are to be written.
    UserNamespace,
    /// The first process is made; its pidfd comes along.
    Init {
        /// Its pid on the host.
        pid: u32,
    },
    /// Namespaces and mounts stand; the console comes along.
    Ready,
    /// The filter is loaded; its listener comes along.
    Loaded,
    /// Of a container: its terminal comes along.
    Terminal,
    /// Of a container: the filter is loaded, and this is its listener's descriptor.
    Listener {
        /// Number in the process that says so.
        fd: i32,
    },
    /// Of a container: only the program is missing.
    Standing,
    /// It cannot go on.
    Failed {
        /// `stage` or `init`.
        process: String,
        /// Step that failed.
        step: String,
        /// Why.
        why: String,
    },
    /// The host's only word: go on.
    Go,
}

/// What the host waits for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaiting {
    /// `UserNamespace`.
    UserNamespace,
    /// `Init`.
    Init,
    /// `Ready`.
    Ready,
    /// `Init`, which `Ready` has overtaken.
    LateInit,
    /// The end of the dialogue by execve, or `Loaded` before it.
    Exec,
    /// That end.
    End,
    /// Nothing more.
    Done,
    /// What the plan says: a container's has its waiting in its steps.
    Planned,
}

/// The host's side of the dialogue.
#[derive(Debug)]
pub(super) struct Dialogue(Awaiting);

/// A message out of turn.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the launch's processes talk past each other: {got} came while waiting for {awaiting:?}")]
pub(super) struct OutOfTurn {
    awaiting: Awaiting,
    got: String,
}

impl Dialogue {
    pub(super) fn begin() -> Self {
        Self(Awaiting::UserNamespace)
    }

    /// From here on the plan's steps say which word comes next.
    pub(super) fn follow_the_plan(&mut self) {
        self.0 = Awaiting::Planned;
    }

    /// Takes the next word, `None` for the end of the connection.
    pub(super) fn hear(&mut self, word: Option<&Word>) -> Result<(), OutOfTurn> {
        self.0 = match (self.0, word) {
            (Awaiting::UserNamespace, Some(Word::UserNamespace)) => Awaiting::Init,
            (Awaiting::Init, Some(Word::Init { .. })) => Awaiting::Ready,
            (Awaiting::Init, Some(Word::Ready)) => Awaiting::LateInit,
            (Awaiting::Ready, Some(Word::Ready)) => Awaiting::Exec,
            (Awaiting::LateInit, Some(Word::Init { .. })) => Awaiting::Exec,
            (Awaiting::Exec, Some(Word::Loaded)) => Awaiting::End,
            (Awaiting::Exec | Awaiting::End, None) => Awaiting::Done,
            (Awaiting::Planned, _) => Awaiting::Planned,
            (awaiting, word) => {
                let got = word.map_or("the end".to_owned(), |w| format!("{w:?}"));
                return Err(OutOfTurn { awaiting, got });
            }
        };
        Ok(())
    }
}

/// Longest reason that is told, characters: it may quote what a hostile configuration says, and has
/// to fit into one message however much of it is escaped.
const LONGEST: usize = 2000;

/// A reason that fits into a message.
pub(super) fn fitting(why: &str) -> String {
    match why.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} (and so on)", &why[..end]),
        None => why.to_owned(),
    }
}

/// Says a word.
pub(super) fn say(
    channel: &Channel,
    word: &Word,
    fd: Option<BorrowedFd<'_>>,
) -> Result<(), KernelError> {
    let text = serde_json::to_vec(word).unwrap_or_default();
    channel.send(&text, fd)
}

/// Hears the next word; `None` is the end.
pub(super) fn hear(
    channel: &Channel,
    limit: Option<Duration>,
) -> Result<Option<(Word, Option<OwnedFd>)>, KernelError> {
    let Some((text, fd)) = channel.receive(limit)? else {
        return Ok(None);
    };
    let word = serde_json::from_slice(&text).map_err(|error| {
        KernelError::new("understand", "a message of the launch", Errno::PROTO)
            .because(error.to_string())
    })?;
    Ok(Some((word, fd)))
}

/// The guest's side: waits for `Go`. Anything else, and the end, means that the host is gone.
pub(super) fn await_go(channel: &Channel) -> Result<Option<OwnedFd>, KernelError> {
    match hear(channel, None)? {
        Some((Word::Go, fd)) => Ok(fd),
        _ => Err(KernelError::new(
            "wait for",
            "the launching program",
            Errno::PIPE,
        )),
    }
}

/// The same with read(2) alone, for a process whose filter is in force.
pub(super) fn await_plain_go(channel: &Channel) -> Result<(), KernelError> {
    let heard = channel.read_plain()?;
    match serde_json::from_slice(&heard) {
        Ok(Word::Go) => Ok(()),
        _ => Err(KernelError::new(
            "wait for",
            "the launching program",
            Errno::PIPE,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: [Option<Word>; 4] = [
        Some(Word::UserNamespace),
        Some(Word::Init { pid: 7 }),
        Some(Word::Ready),
        None,
    ];

    #[test]
    fn the_drawn_order_is_accepted() {
        let mut dialogue = Dialogue::begin();
        for word in &SCRIPT {
            dialogue.hear(word.as_ref()).unwrap();
        }
        assert_eq!(dialogue.0, Awaiting::Done);
    }

    #[test]
    fn a_listener_comes_once_and_last() {
        let mut dialogue = Dialogue::begin();
        for word in &SCRIPT[..3] {
            dialogue.hear(word.as_ref()).unwrap();
        }
        dialogue.hear(Some(&Word::Loaded)).unwrap();
        assert!(dialogue.hear(Some(&Word::Loaded)).is_err());
        dialogue.hear(None).unwrap();
        assert_eq!(dialogue.0, Awaiting::Done);
        assert!(Dialogue::begin().hear(Some(&Word::Loaded)).is_err());
    }

    #[test]
    fn init_may_be_ready_before_the_stage_tells_of_it() {
        let mut dialogue = Dialogue::begin();
        for at in [0, 2, 1, 3] {
            dialogue.hear(SCRIPT[at].as_ref()).unwrap();
        }
        assert_eq!(dialogue.0, Awaiting::Done);
        let mut twice = Dialogue::begin();
        for at in [0, 2] {
            twice.hear(SCRIPT[at].as_ref()).unwrap();
        }
        assert!(twice.hear(SCRIPT[2].as_ref()).is_err());
    }

    #[test]
    fn every_word_out_of_turn_is_refused() {
        for at in 0..SCRIPT.len() {
            for other in SCRIPT
                .iter()
                .enumerate()
                .filter(|(n, _)| *n != at)
                .map(|(_, w)| w)
            {
                let mut dialogue = Dialogue::begin();
                for word in &SCRIPT[..at] {
                    dialogue.hear(word.as_ref()).unwrap();
                }
                let overtakes = at == 1 && *other == Some(Word::Ready);
                let heard = dialogue.hear(other.as_ref());
                assert_eq!(heard.is_ok(), overtakes, "{other:?} at {at}");
            }
        }
    }
}
