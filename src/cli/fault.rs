//! Errors to what a person sees: heading, causes, hint, exit code. Rooms below return errors and say
//! nothing; this file alone prints them, once.

use std::error::Error;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use crate::define::{DefineError, KeyError, ProfileError, ReadError};
use crate::guest::{GuestError, view};
use crate::kernel::cgroup::CgroupError;
use crate::kernel::{Errno, KernelError, interrupt};
use crate::launch::EnterError;
use crate::network::DirectoryError;
use crate::storage::backup::BackupError;
use crate::storage::{ImageError, PoolError, TemplateError};

/// Something failed.
pub(super) const FAILED: u8 = 1;
/// The command line is wrong.
pub(super) const USAGE: u8 = 2;
/// No such guest.
pub(super) const MISSING: u8 = 3;
/// The guest is in the wrong state.
pub(super) const STATE: u8 = 4;
/// Refused by a limit, a policy or the definition.
pub(super) const REFUSED: u8 = 5;
/// `exec`: we failed, not the program.
pub(super) const EXEC_FAILED: u8 = 125;
/// `exec`: the program cannot be executed.
pub(super) const NOT_EXECUTABLE: u8 = 126;
/// `exec`: there is no such program.
pub(super) const NOT_FOUND: u8 = 127;

/// Why a verb ended without success.
#[derive(Debug)]
pub(super) struct Fault {
    /// Exit code.
    pub(super) code: u8,
    /// What was tried, on what, why not; empty to say nothing.
    what: String,
    /// What led to it.
    causes: Vec<String>,
    /// What to do.
    hint: Option<String>,
}

/// Result of this room.
pub(super) type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    /// One without causes.
    pub(super) fn new(code: u8, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            causes: Vec::new(),
            hint: None,
        }
    }

    /// The same, with the exit code of a shell for a command that a signal ended (128 and the
    /// signal) if one has asked this one to end.
    pub(super) fn or_interrupted(mut self) -> Self {
        if let Some(signal) = interrupt::caught() {
            self.code = u8::try_from(128 + signal).unwrap_or(FAILED);
        }
        self
    }

    /// A command line that clap could not find fault with.
    pub(super) fn usage(what: impl Into<String>) -> Self {
        Self::new(USAGE, what)
    }

    /// An error with its causes. A cause that the line above it tells already is left out.
    pub(super) fn of(code: u8, error: &(dyn Error + 'static)) -> Self {
        let mut fault = Self::new(code, error.to_string());
        let mut said = fault.what.clone();
        let mut next = error.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            if !said.contains(&text) {
                fault.causes.push(text.clone());
                said = text;
            }
            next = cause.source();
        }
        fault.hint = hint(error);
        fault
    }

    /// A refused write to standard output.
    pub(super) fn output(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::new(0, "");
        }
        Self::new(FAILED, format!("cannot write to standard output: {error}"))
    }

    /// The same with what to do.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Of a guest whose definition was written on another host: which of its pools may be missing here.
    pub(super) fn of_newcomer(error: GuestError) -> Self {
        let hint = match &error {
            GuestError::Pool(PoolError::Unknown { name, .. }) => Some(format!(
                "--pool says another, --pool default --disk none the one that is always there; `bulkhead \
                 pool create {name}` makes it"
            )),
            _ => None,
        };
        let fault = Self::from(error).or_interrupted();
        match hint {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    }

    /// The same as `exec` answers it: every code below 125 is the program's own.
    pub(super) fn of_exec(mut self) -> Self {
        if self.code != 0 && self.code < EXEC_FAILED {
            self.code = EXEC_FAILED;
        }
        self
    }

    /// As printed, with what a guest may have put into it made safe.
    pub(super) fn text(&self) -> String {
        let safe =
            |text: &str| view::printable(text.trim_end().as_bytes()).replace('\n', "\n           ");
        let mut text = format!(
            "error: {}\n",
            safe(&self.what).replace("\n           ", "\n  ")
        );
        for cause in &self.causes {
            text += &format!("  because: {}\n", safe(cause));
        }
        if let Some(hint) = &self.hint {
            text += &format!("  hint: {}\n", safe(hint));
        }
        text
    }

    /// Says it on standard error.
    pub(super) fn print(&self) {
        if !self.what.is_empty() {
            let _closed = std::io::stderr().lock().write_all(self.text().as_bytes());
        }
    }
}

impl From<GuestError> for Fault {
    fn from(error: GuestError) -> Self {
        match error {
            GuestError::Definition(error) => error.into(),
            error => Self::of(code(&error), &error),
        }
    }
}

/// All faults of a text: the first is what went wrong if there is no other, else all are causes.
impl From<DefineError> for Fault {
    fn from(error: DefineError) -> Self {
        let mut faults: Vec<String> = error.faults.iter().map(ToString::to_string).collect();
        if faults.len() == 1 {
            return Self::new(REFUSED, faults.remove(0));
        }
        Self {
            causes: faults,
            ..Self::new(REFUSED, "the definition is refused")
        }
    }
}

impl From<KeyError> for Fault {
    fn from(error: KeyError) -> Self {
        Self::of(USAGE, &error)
    }
}

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        Self::of(FAILED, &error)
    }
}

impl From<ProfileError> for Fault {
    fn from(error: ProfileError) -> Self {
        match error {
            ProfileError::Refused(error) => error.into(),
            error => Self::of(REFUSED, &error),
        }
    }
}

impl From<ImageError> for Fault {
    fn from(error: ImageError) -> Self {
        Self::of(image_code(&error), &error)
    }
}

impl From<PoolError> for Fault {
    fn from(error: PoolError) -> Self {
        GuestError::from(error).into()
    }
}

impl From<DirectoryError> for Fault {
    fn from(error: DirectoryError) -> Self {
        GuestError::from(error).into()
    }
}

impl From<TemplateError> for Fault {
    fn from(error: TemplateError) -> Self {
        ImageError::from(error).into()
    }
}

impl From<BackupError> for Fault {
    fn from(error: BackupError) -> Self {
        Self::of(backup_code(&error), &error)
    }
}

impl From<KernelError> for Fault {
    fn from(error: KernelError) -> Self {
        Self::of(FAILED, &error)
    }
}

/// The exit code of an error of a guest.
fn code(error: &GuestError) -> u8 {
    match error {
        GuestError::Missing { .. }
        | GuestError::NoCpuPool { .. }
        | GuestError::NotInTrash { .. }
        | GuestError::NoSnapshot { .. }
        | GuestError::NoTenant { .. }
        | GuestError::NoGoal { .. }
        | GuestError::NothingKept { .. } => MISSING,
        GuestError::Exists(_)
        | GuestError::CpuPoolExists(_)
        | GuestError::SnapshotExists { .. }
        | GuestError::Pool(PoolError::Exists(_) | PoolError::InUse { .. })
        | GuestError::Directory(DirectoryError::Exists(_) | DirectoryError::InUse { .. })
        | GuestError::WrongState { .. }
        | GuestError::Mounted { .. }
        | GuestError::TenantExists(_)
        | GuestError::GoalExists(_)
        | GuestError::GoalsRun
        | GuestError::NetworksWatched
        | GuestError::Bisects
        | GuestError::TenantInUse { .. }
        | GuestError::NoUndo(_)
        | GuestError::NoBase(_)
        | GuestError::Undecided { .. }
        | GuestError::Busy { .. } => STATE,
        error if error.is_refusal() => REFUSED,
        GuestError::Key(_) => USAGE,
        GuestError::Image(error) => image_code(error),
        GuestError::Backup(error) => backup_code(error),
        GuestError::Cgroup(error) => cgroup_code(error),
        GuestError::Enter(EnterError::NotFound { .. }) => NOT_FOUND,
        GuestError::Enter(EnterError::NotExecutable { .. }) => NOT_EXECUTABLE,
        _ => FAILED,
    }
}

fn backup_code(error: &BackupError) -> u8 {
    match error {
        BackupError::Busy { .. } | BackupError::Occupied { .. } => STATE,
        _ => FAILED,
    }
}

fn image_code(error: &ImageError) -> u8 {
    match error {
        ImageError::Template(
            TemplateError::Unknown { .. } | TemplateError::UnknownOption { .. },
        ) => REFUSED,
        ImageError::Unknown { .. }
        | ImageError::Ambiguous { .. }
        | ImageError::Unsound { .. }
        | ImageError::Refused { .. } => REFUSED,
        ImageError::InUse { .. } => STATE,
        _ => FAILED,
    }
}

/// A value that the kernel, or this kind of control groups, does not take is a refusal; a control
/// file that cannot be worked with is a failure.
fn cgroup_code(error: &CgroupError) -> u8 {
    match error {
        CgroupError::Unsupported { .. } | CgroupError::Value { .. } => REFUSED,
        CgroupError::File { verb, value, .. } if *verb == "write" && !value.is_empty() => REFUSED,
        _ => FAILED,
    }
}

/// What to do about the kernel's answer, wherever in the chain it is.
fn hint(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(GuestError::Undecided {
        verb: "start" | "restart",
        name,
    }) = error.downcast_ref()
    {
        let text = format!("stopped, it goes on over it with `bulkhead start {name} --undo=later`");
        return Some(text);
    }
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(errno) = errno(error) {
            return hint_for(errno);
        }
        next = error.source();
    }
    None
}

fn errno(error: &(dyn Error + 'static)) -> Option<Errno> {
    // A transparent error passes on the source of what it wraps, not the thing itself.
    if let Some(GuestError::Kernel(kernel)) = error.downcast_ref::<GuestError>() {
        return Some(kernel.errno);
    }
    if let Some(kernel) = error.downcast_ref::<KernelError>() {
        return Some(kernel.errno);
    }
    let io = error.downcast_ref::<std::io::Error>()?;
    io.raw_os_error().map(Errno::from_raw_os_error)
}

fn hint_for(errno: Errno) -> Option<String> {
    let text = match errno {
        Errno::ACCESS | Errno::PERM if !is_root() => "run it as root",
        Errno::NOSPC => FULL,
        Errno::DQUOT => {
            "the quota is used up: raise it (of a guest with `bulkhead set NAME disk.size=SIZE`)"
        }
        Errno::ROFS => "that file system is read-only: remount it, or use another --root",
        _ => return None,
    };
    Some(text.to_owned())
}

const FULL: &str = "the filesystem that this was written to is full: free some space there; a guest's disk gets \
larger with `bulkhead set NAME disk.size=SIZE`";

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let inner = std::io::Error::from_raw_os_error(28);
        let error = GuestError::Network(Box::new(inner));
        let text = Fault::from(error).text();
        assert_eq!(
            text,
            format!(
                "error: cannot set up the guests' network\n  because: No space left on device \
                 (os error 28)\n  hint: {FULL}\n"
            )
        );
    }

    #[test]
    fn codes_are_the_documented_ones() {
        let name: crate::model::GuestName = "web".parse().unwrap();
        let missing = GuestError::Missing {
            name: name.clone(),
            hint: None,
        };
        assert_eq!(code(&missing), 3);
        assert_eq!(code(&GuestError::Exists(name)), 4);
        assert_eq!(code(&GuestError::Exhausted("x".into())), 5);
        let not_found = EnterError::NotFound {
            program: "x".into(),
            why: "y".into(),
        };
        assert_eq!(code(&GuestError::Enter(not_found)), 127);
        assert_eq!(Fault::from(missing).of_exec().code, 125);
    }

    #[test]
    fn what_a_guest_says_does_not_reach_the_terminal() {
        let text = Fault::new(1, "bad \x1b[2Jthing\nnext").text();
        assert_eq!(text, "error: bad thing\n  next\n");
    }
}
