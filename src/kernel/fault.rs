//! Fault points: places where a test has this process killed or stopped, or what it does fail.
//!
//! `BULKHEAD_FAULT=host:7` kills the launching process, as SIGKILL would, before step 7 of its plan
//! (counted from 0); `stage:` and `init:` the two others. `command:7` kills a command at the eighth
//! point it passes, `launch:` the process it forks for a launch, `keeper:` a keeper, `server:` what keeps
//! the server program of a network. With `:fail` at the end the process lives and the step is refused;
//! with `:stop` it waits there for SIGCONT. Several, with commas between them, meet several processes.
//!
//! Read once, and only where both user ids are root's: the caller of a set-user-ID program cannot
//! use it, sudo(8) does not pass it on, and a guest's environment is never this process's. Costs a
//! comparison where it is not set.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use super::error::{KernelError, Result};
use super::process::kill_self;
use crate::kernel::Errno;

/// Name of the variable.
const VARIABLE: &str = "BULKHEAD_FAULT";

/// Where it is to happen, and what.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    place: String,
    number: usize,
    act: Act,
}

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Kill,
    Fail,
    Stop,
}

/// What this process is, for points that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A command.
    Command = 0,
    /// The process that a command forks for a launch.
    Launch = 1,
    /// A keeper.
    Keeper = 2,
    /// What keeps the server program of a network.
    Server = 3,
}

static ROLE: AtomicU32 = AtomicU32::new(Role::Command as u32);
static PASSED: AtomicUsize = AtomicUsize::new(0);

/// From here on this process is a `role`, and counts its points from 0.
pub fn role(role: Role) {
    // Read while this process is still real root.
    let _read = wishes();
    ROLE.store(role as u32, Relaxed);
    PASSED.store(0, Relaxed);
}

/// A point between two effects of a command, a launch or a keeper.
///
/// # Errors
/// If it is asked for.
pub fn point() -> Result<()> {
    if wishes().is_empty() {
        return Ok(());
    }
    let place = ["command", "launch", "keeper", "server"];
    let role = usize::try_from(ROLE.load(Relaxed)).unwrap_or(0);
    step(place[role], PASSED.fetch_add(1, Relaxed))
}

/// The point before a step of a launch plan.
///
/// # Errors
/// If it is asked for.
pub fn step(process: &str, number: usize) -> Result<()> {
    let here = |wish: &&Wish| wish.number == number && wish.place == process;
    match wishes().iter().find(here).map(|wish| wish.act) {
        None => Ok(()),
        Some(Act::Kill) => kill_self(),
        Some(Act::Stop) => {
            let me = rustix::process::getpid();
            rustix::process::kill_process(me, rustix::process::Signal::STOP)
                .map_err(KernelError::on("stop", "this process"))
        }
        Some(Act::Fail) => {
            let what = format!("{process}:{number}");
            Err(KernelError::new("pass the fault point", what, Errno::IO).because(VARIABLE))
        }
    }
}

/// The variable as `NAME=VALUE`, if it is set and heeded: for a keeper, which gets no other.
#[must_use]
pub fn setting() -> Option<String> {
    let texts: Vec<String> = wishes().iter().map(Wish::to_string).collect();
    (!texts.is_empty()).then(|| format!("{VARIABLE}={}", texts.join(",")))
}

fn wishes() -> &'static [Wish] {
    static WISHES: OnceLock<Vec<Wish>> = OnceLock::new();
    WISHES.get_or_init(|| {
        let root = rustix::process::getuid().is_root() && rustix::process::geteuid().is_root();
        let text = std::env::var(VARIABLE).ok().filter(|_| root);
        text.map_or(Vec::new(), |text| {
            text.split(',').filter_map(parse).collect()
        })
    })
}

impl std::fmt::Display for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = match self.act {
            Act::Kill => "",
            Act::Fail => ":fail",
            Act::Stop => ":stop",
        };
        write!(f, "{}:{}{end}", self.place, self.number)
    }
}

fn parse(text: &str) -> Option<Wish> {
    let mut words = text.split(':');
    let (place, number) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
    let act = match words.next() {
        None => Act::Kill,
        Some("fail") => Act::Fail,
        Some("stop") => Act::Stop,
        Some(_) => return None,
    };
    words
        .next()
        .is_none()
        .then_some(Wish { place, number, act })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_understood_whole_or_not_at_all() {
        for (text, place, number, act) in [
            ("host:7", "host", 7, Act::Kill),
            ("keeper:0:fail", "keeper", 0, Act::Fail),
            ("launch:12:stop", "launch", 12, Act::Stop),
        ] {
            let place = place.to_owned();
            let wish = Wish { place, number, act };
            assert_eq!(wish.to_string(), text);
            assert_eq!(parse(text), Some(wish));
        }
        for text in [
            "",
            "host",
            "host:",
            "host:-1",
            "host:7:kill",
            "host:7:fail:x",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn without_the_variable_every_point_is_passed() {
        assert!(std::env::var_os(VARIABLE).is_none());
        role(Role::Launch);
        assert!(point().is_ok() && step("host", 0).is_ok());
        assert_eq!(setting(), None);
    }
}
