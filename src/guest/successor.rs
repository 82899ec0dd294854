//! How a process becomes a guest's keeper: it executes this program again with a few words, so that
//! nothing of the launch stays in its memory.
//!
//! The words are read before anything else of the command line is looked at: the tree of verbs and
//! flags is as large as all the rest that a keeper holds.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use super::manager::Manager;
use crate::kernel::{KernelError, fault, inherited, process};
use crate::launch::{self, EnterRequest, Task};
use crate::model::GuestName;

/// The word that stands where a command has its verb or first flag.
const WORD: &str = "--keeper";

/// What a keeper has of its guest.
#[derive(Debug)]
pub struct Charge {
    /// Its first process.
    pub guest: OwnedFd,
    /// The master end of its console, if there is one.
    pub console: Option<OwnedFd>,
    /// The listener of its filter, if that notifies and has just been loaded.
    pub listener: Option<OwnedFd>,
}

/// A keeper that is to be.
#[derive(Debug)]
pub struct Successor {
    /// Prefix of the installation.
    pub root: PathBuf,
    /// The guest.
    pub name: GuestName,
    /// What it has of it.
    pub charge: Charge,
}

impl Successor {
    /// Whether these are a keeper's arguments.
    #[must_use]
    pub fn is_called(arguments: &[OsString]) -> bool {
        arguments.get(1).is_some_and(|word| word == WORD)
    }

    /// The keeper that these arguments ask for. To be called before this process opens anything:
    /// the numbers among them are descriptors it has inherited. `None` when a word is missing or
    /// wrong, which happens when a person types them.
    #[must_use]
    pub fn take_over(arguments: &[OsString]) -> Option<Self> {
        let [_, _, root, name, pidfd, more @ ..] = arguments else {
            return None;
        };
        let descriptor = |text: &OsString| inherited::take(text.to_str()?.parse().ok()?).ok();
        let (console, listener) = match more {
            [] => (None, None),
            [console] => (Some(console), None),
            [console, listener] => (Some(console), Some(listener)),
            _ => return None,
        };
        let charge = Charge {
            guest: descriptor(pidfd)?,
            console: match console {
                Some(console) => Some(descriptor(console)?),
                None => None,
            },
            listener: match listener {
                Some(listener) => Some(descriptor(listener)?),
                None => None,
            },
        };
        Some(Self {
            root: root.into(),
            name: name.to_str()?.parse().ok()?,
            charge,
        })
    }
}

/// Executes this program again as the keeper, with its descriptors; returns only on failure.
pub(super) fn execute_keeper(
    manager: &Manager,
    name: &GuestName,
    pidfd: &OwnedFd,
    console: Option<&OwnedFd>,
    listener: Option<&OwnedFd>,
) -> KernelError {
    // Without a console there has been no launch, and without a launch there is no new listener.
    let listener = listener.filter(|_| console.is_some());
    let mut argv = vec![
        format!("bulkhead: keeper of {name}"),
        WORD.to_owned(),
        manager.layout.root().display().to_string(),
        name.to_string(),
        pidfd.as_raw_fd().to_string(),
    ];
    let more = console.into_iter().chain(listener);
    argv.extend(more.map(|fd| fd.as_raw_fd().to_string()));
    let environment: Vec<String> = fault::setting()
        .into_iter()
        .chain(["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()])
        .collect();
    // What the person's shell had open is not the keeper's.
    let closed = fault::point().and_then(|()| inherited::close_on_exec_from(3));
    let kept = closed.and_then(|()| {
        [Some(pidfd), console, listener]
            .into_iter()
            .flatten()
            .try_for_each(inherited::keep_over_exec)
    });
    match kept {
        Ok(()) => process::execute("/proc/self/exe", &argv, &environment),
        Err(error) => error,
    }
}

impl Manager {
    /// A console for a keeper that took over; `None` if the guest does not let us make one.
    pub(super) fn new_console(&self, name: &GuestName, pidfd: &OwnedFd) -> Option<OwnedFd> {
        let (plan, state) = self.enter_plan(name).ok()?;
        let group = self.group(name).ok()??;
        let request = EnterRequest {
            plan: &plan,
            guest: pidfd,
            group: &group,
            base: state.ids.base,
            cache: &self.layout.cache().join("seccomp"),
            answered: false,
            task: Task::Console,
        };
        let entered = launch::enter(&request).ok()?;
        launch::put_down(&entered.pidfd);
        entered.terminal
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    fn call(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn a_keeper_has_what_it_was_given() {
        let open = || std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        let (guest, console, listener) = (open(), open(), open().to_string());
        let (guest, console) = (guest.to_string(), console.to_string());
        let words = call(&["title", WORD, "/srv", "web", &guest, &console, &listener]);
        assert!(Successor::is_called(&words));
        let keeper = Successor::take_over(&words).unwrap();
        assert_eq!(keeper.root, PathBuf::from("/srv"));
        assert_eq!(keeper.name.as_str(), "web");
        assert_eq!(keeper.charge.guest.as_raw_fd().to_string(), guest);
        assert_eq!(
            keeper.charge.console.unwrap().as_raw_fd().to_string(),
            console
        );
        assert_eq!(
            keeper.charge.listener.unwrap().as_raw_fd().to_string(),
            listener
        );
    }

    #[test]
    fn what_a_person_types_is_refused() {
        assert!(!Successor::is_called(&call(&["bulkhead", "list"])));
        for words in [
            &["bulkhead", WORD][..],
            &["bulkhead", WORD, "/", "web"],
            &["bulkhead", WORD, "/", "web", "1"],
            &["bulkhead", WORD, "/", "no name", "3"],
            &["bulkhead", WORD, "/", "web", "three"],
        ] {
            assert!(Successor::take_over(&call(words)).is_none(), "{words:?}");
        }
    }
}
