//! The table of verbs and states: what a verb does to a guest in a state. No locks, no I/O.

use super::error::{GuestError, Result};
use crate::model::{GuestName, Status};

/// A verb that needs a certain state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Start,
    Rescue,
    Stop,
    Kill,
    Pause,
    Resume,
    Exec,
    Delete,
    Rename,
    Reinstall,
    Rebase,
    Export,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Do it.
    Do,
    /// It is so already.
    Nothing,
    /// Refuse, with what to do instead.
    Refuse(Option<&'static str>),
}

impl Verb {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Rescue => "rescue",
            Self::Stop => "stop",
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Exec => "execute in",
            Self::Delete => "delete",
            Self::Rename => "rename",
            Self::Reinstall => "reinstall",
            Self::Rebase => "rebase",
            Self::Export => "export",
        }
    }

    pub(super) fn on(self, status: Status) -> Answer {
        use Answer::{Do, Nothing, Refuse};
        use Status::{Broken, Creating, Paused, Restarting, Running, Starting, Stopped, Stopping};
        const HALF_MADE: Answer = Refuse(Some(
            "its creation was cut short: delete it and create it again",
        ));
        match (self, status) {
            (Self::Delete, Creating | Stopped | Broken) => Do,
            (_, Creating) => HALF_MADE,
            (Self::Start, Stopped | Restarting) => Do,
            (Self::Start, Running) => Refuse(Some("it needs no start")),
            (Self::Start, Paused) => Refuse(Some("`bulkhead resume` lets it go on")),
            (Self::Stop | Self::Kill, Running | Paused | Restarting | Starting | Stopping) => Do,
            (Self::Stop | Self::Kill, Stopped) => Nothing,
            (Self::Pause, Running) | (Self::Resume, Paused) => Do,
            (Self::Pause, Paused) | (Self::Resume, Running) => Nothing,
            (Self::Exec, Running) => Do,
            (Self::Exec, Paused) => Refuse(Some("`bulkhead resume` it first")),
            (Self::Exec | Self::Pause | Self::Resume, Stopped) => {
                Refuse(Some("`bulkhead start` it first"))
            }
            (Self::Delete, Running | Paused | Starting | Restarting | Stopping) => {
                Refuse(Some("stop it first, or say --force"))
            }
            (Self::Rename | Self::Reinstall | Self::Rebase | Self::Rescue, Stopped)
            | (Self::Export, Stopped | Running | Paused) => Do,
            (Self::Rebase, Running) => Refuse(Some("stop it first, or say --restart")),
            (Self::Rename | Self::Reinstall | Self::Rebase | Self::Rescue, _) => {
                Refuse(Some("stop it first"))
            }
            (_, Broken) => Refuse(Some("`bulkhead info` says what is wrong with it")),
            (_, Starting | Stopping | Restarting) => Refuse(None),
        }
    }

    /// Whether to do it.
    pub(super) fn check(self, name: &GuestName, status: Status) -> Result<bool> {
        match self.on(status) {
            Answer::Do => Ok(true),
            Answer::Nothing => Ok(false),
            Answer::Refuse(advice) => Err(GuestError::WrongState {
                verb: self.name(),
                name: name.clone(),
                status,
                advice,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_delete_touches_a_half_made_guest() {
        for verb in [
            Verb::Start,
            Verb::Rescue,
            Verb::Stop,
            Verb::Kill,
            Verb::Pause,
            Verb::Resume,
            Verb::Exec,
            Verb::Rename,
            Verb::Reinstall,
            Verb::Rebase,
            Verb::Export,
        ] {
            assert!(
                matches!(verb.on(Status::Creating), Answer::Refuse(Some(_))),
                "{verb:?}"
            );
        }
        assert_eq!(Verb::Delete.on(Status::Creating), Answer::Do);
    }

    #[test]
    fn a_running_guest_is_not_started_twice_and_not_deleted() {
        assert!(matches!(Verb::Start.on(Status::Running), Answer::Refuse(_)));
        assert!(matches!(
            Verb::Delete.on(Status::Running),
            Answer::Refuse(_)
        ));
        assert_eq!(Verb::Stop.on(Status::Stopped), Answer::Nothing);
    }
}
