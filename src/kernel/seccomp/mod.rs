//! Filters of system calls: [`Filter`] → classic BPF program → the calling thread. Why not
//! libseccomp alone: its programs for two conventions take 10 ms to make and 1 ms to load; ours,
//! a binary search over ranges of numbers with the same verdict, load in a tenth of that and are
//! kept on disk. libseccomp still knows the numbers of the names.
//!
//! | file | holds |
//! |---|---|
//! | `names` | name → number for each convention, and the names libseccomp is too old for |
//! | `ranges` | filter → sorted ranges of numbers with the same verdict: which rule decides |
//! | `emit` | ranges → instructions |
//! | `interpret` | an interpreter: what would this program say |
//! | `cache` | programs on disk |
//! | `load` | seccomp(2) |
//! | `notify` | the other end of a filter that notifies |
//!
//! Profiles and OCI rules are `plan::seccomp`'s; which rule wins is said at [`Filter`].

mod cache;
mod emit;
mod interpret;
mod load;
mod names;
pub mod notify;
mod ranges;

pub use cache::CacheUse;
pub use interpret::Run;
pub use load::{LoadError, supported, waits_killable};
pub use names::number;

use crate::model::{Action, Filter};

/// One classic BPF instruction: `struct sock_filter` of linux/filter.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if the comparison holds.
    pub jt: u8,
    /// Instructions to skip if not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// `BPF_RET | BPF_K`: the verdict.
const RETURN: u16 = 0x06;

/// A filter that cannot be made into a program.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A system call has six arguments.
    #[error("seccomp rule for {call}: it compares argument {arg}, but arguments go from 0 to 5")]
    NoSuchArgument {
        /// First name in the rule.
        call: String,
        /// The number written.
        arg: u8,
    },
    /// The kernel's MAX_ERRNO.
    #[error("seccomp rule for {call}: errno {errno} is out of range; use 0 to 4095")]
    BadErrno {
        /// First name in the rule, or `default`.
        call: String,
        /// The number written.
        errno: u16,
    },
    /// BPF_MAXINSNS.
    #[error(
        "the seccomp filter needs {0} instructions and the kernel takes 4096: name fewer calls or compare fewer arguments"
    )]
    TooLong(usize),
}

/// Version of the library that knows the names, such as `2.5.4`.
#[must_use]
pub fn library_version() -> String {
    libseccomp::ScmpVersion::current().map_or_else(
        |_| "unknown".to_owned(),
        |v| format!("{}.{}.{}", v.major, v.minor, v.micro),
    )
}

/// A compiled filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<Instruction>,
    warnings: Vec<String>,
    notifies: bool,
    wait_killable: bool,
}

impl Program {
    /// Compiles a filter.
    ///
    /// # Errors
    /// A rule compares an argument that does not exist, returns an impossible errno, or the whole
    /// is longer than the kernel takes.
    pub fn compile(filter: &Filter) -> Result<Self, CompileError> {
        check(filter)?;
        let (groups, warnings) = ranges::groups(filter);
        let instructions = emit::program(&groups, filter.bad_arch.code());
        if instructions.len() > 4096 {
            return Err(CompileError::TooLong(instructions.len()));
        }
        let notifies = filter.rules.iter().any(|r| r.action == Action::Notify);
        Ok(Self {
            instructions,
            warnings,
            notifies,
            wait_killable: filter.flags.wait_killable,
        })
    }

    /// The instructions, in order.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// What the filter says that has no meaning here: names that no convention of it knows.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether some verdict needs a listener ([`Program::load_with_listener`]).
    #[must_use]
    pub const fn notifies(&self) -> bool {
        self.notifies
    }

    /// The same without a listener: what would be notified is allowed.
    #[must_use]
    pub fn without_listener(mut self) -> Self {
        for instruction in &mut self.instructions {
            if instruction.code == RETURN && instruction.k == Action::Notify.code() {
                instruction.k = Action::Allow.code();
            }
        }
        self.notifies = false;
        self
    }
}

fn check(filter: &Filter) -> Result<(), CompileError> {
    let first = |names: &[String]| names.first().cloned().unwrap_or_default();
    let rules = filter.rules.iter().map(|r| (r.action, first(&r.names)));
    let rest = [Some(filter.default), filter.beyond, Some(filter.bad_arch)];
    let rest = rest.into_iter().flatten().map(|a| (a, "default".into()));
    for (action, call) in rules.chain(rest) {
        if let Action::Errno(errno @ 4096..) = action {
            return Err(CompileError::BadErrno { call, errno });
        }
    }
    for rule in &filter.rules {
        if let Some(bad) = rule.args.iter().find(|a| a.arg > 5) {
            return Err(CompileError::NoSuchArgument {
                call: first(&rule.names),
                arg: bad.arg,
            });
        }
    }
    Ok(())
}
