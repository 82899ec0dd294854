//! A system call filter as data: what `plan` makes from a profile or an OCI Spec and what
//! `kernel::seccomp` compiles and loads. No numbers of system calls here, only names.

use serde::{Deserialize, Serialize};

/// A number that changes with the texts of programs that make a filter into something else, so that
/// what is kept of it needs no version that somebody has to remember (FNV-1a, computed when this is
/// built).
#[must_use]
pub const fn fingerprint(texts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut text = 0;
    while text < texts.len() {
        let mut at = 0;
        while at < texts[text].len() {
            hash = (hash ^ texts[text][at] as u64).wrapping_mul(0x0100_0000_01b3);
            at += 1;
        }
        text += 1;
    }
    hash
}

/// What happens to a system call; see seccomp(2) for the `SECCOMP_RET_` value behind each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The thread dies (SIGSYS); the process may live on without it.
    KillThread,
    /// The process dies (SIGSYS).
    KillProcess,
    /// SIGSYS, which the process may catch.
    Trap,
    /// The call fails with this errno, 0 to 4095.
    Errno(u16),
    /// A listener decides.
    Notify,
    /// A tracer decides and is told this number; without one the call fails with ENOSYS.
    Trace(u16),
    /// Allowed, and written to the audit log.
    Log,
    /// Allowed.
    Allow,
}

impl Action {
    /// The value a filter program returns for it.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::KillThread => 0,
            Self::KillProcess => 0x8000_0000,
            Self::Trap => 0x0003_0000,
            Self::Errno(n) => 0x0005_0000 | n as u32,
            Self::Notify => 0x7fc0_0000,
            Self::Trace(n) => 0x7ff0_0000 | n as u32,
            Self::Log => 0x7ffc_0000,
            Self::Allow => 0x7fff_0000,
        }
    }

    /// Whether the call is carried out.
    #[must_use]
    pub const fn lets_through(self) -> bool {
        matches!(self, Self::Allow | Self::Log)
    }
}

macro_rules! arches {
    ($($name:ident = $token:literal, $bits:literal, $text:literal;)*) => {
        /// A system call convention. One machine may have several.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[allow(missing_docs)] // the names say it
        pub enum Arch { $($name),* }

        impl Arch {
            /// Every convention this program knows.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// `AUDIT_ARCH_` value the kernel reports (linux/audit.h). x32 shares that of x86-64.
            #[must_use]
            pub const fn audit_token(self) -> u32 { match self { $(Self::$name => $token),* } }

            /// Width of a system call argument in bits.
            #[must_use]
            pub const fn bits(self) -> u32 { match self { $(Self::$name => $bits),* } }

            /// The name people write.
            #[must_use]
            pub const fn name(self) -> &'static str { match self { $(Self::$name => $text),* } }
        }
    };
}

arches! {
    X86_64 = 0xc000_003e, 64, "x86-64";
    I386 = 0x4000_0003, 32, "i386";
    X32 = 0xc000_003e, 32, "x32";
    Arm = 0x4000_0028, 32, "arm";
    Aarch64 = 0xc000_00b7, 64, "aarch64";
    Mips = 0x0000_0008, 32, "mips";
    Mips64 = 0x8000_0008, 64, "mips64";
    Mips64N32 = 0xa000_0008, 32, "mips64n32";
    Mipsel = 0x4000_0008, 32, "mipsel";
    Mipsel64 = 0xc000_0008, 64, "mipsel64";
    Mipsel64N32 = 0xe000_0008, 32, "mipsel64n32";
    Parisc = 0x0000_000f, 32, "parisc";
    Parisc64 = 0x8000_000f, 64, "parisc64";
    Ppc = 0x0000_0014, 32, "ppc";
    Ppc64 = 0x8000_0015, 64, "ppc64";
    Ppc64le = 0xc000_0015, 64, "ppc64le";
    S390 = 0x0000_0016, 32, "s390";
    S390x = 0x8000_0016, 64, "s390x";
    Riscv64 = 0xc000_00f3, 64, "riscv64";
}

impl Arch {
    /// The convention of this program itself; `None` on a machine not in the list.
    #[must_use]
    pub fn native() -> Option<Self> {
        let name = match std::env::consts::ARCH {
            "x86_64" => "x86-64",
            "x86" => "i386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            other => other,
        };
        Self::ALL.iter().copied().find(|a| a.name() == name)
    }
}

/// A comparison of one argument. Values are unsigned and 64 bits wide; on a 32-bit convention only
/// the low 32 bits of both sides count.
///
/// A kernel function that takes an `int` drops the upper half of a 64-bit argument: compare such
/// an argument with `MaskedEq` and a 32-bit mask, or a caller walks around the rule by setting
/// upper bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs)] // the names say it
pub enum Compare {
    Ne(u64),
    Lt(u64),
    Le(u64),
    Eq(u64),
    Ge(u64),
    Gt(u64),
    /// Argument AND `mask` equals `value` AND `mask`.
    MaskedEq {
        mask: u64,
        value: u64,
    },
}

impl Compare {
    /// Whether an argument fulfils it.
    #[must_use]
    pub const fn holds(self, argument: u64) -> bool {
        match self {
            Self::Ne(v) => argument != v,
            Self::Lt(v) => argument < v,
            Self::Le(v) => argument <= v,
            Self::Eq(v) => argument == v,
            Self::Ge(v) => argument >= v,
            Self::Gt(v) => argument > v,
            Self::MaskedEq { mask, value } => argument & mask == value & mask,
        }
    }

    /// The same comparison as a 32-bit convention sees it.
    #[must_use]
    pub const fn narrowed(self) -> Self {
        const LOW: u64 = 0xffff_ffff;
        match self {
            Self::Ne(v) => Self::Ne(v & LOW),
            Self::Lt(v) => Self::Lt(v & LOW),
            Self::Le(v) => Self::Le(v & LOW),
            Self::Eq(v) => Self::Eq(v & LOW),
            Self::Ge(v) => Self::Ge(v & LOW),
            Self::Gt(v) => Self::Gt(v & LOW),
            Self::MaskedEq { mask, value } => Self::MaskedEq {
                mask: mask & LOW,
                value: value & LOW,
            },
        }
    }
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ArgCmp {
    /// Which argument, 0 to 5.
    pub arg: u8,
    /// What it must fulfil.
    pub compare: Compare,
}

/// One rule: these calls, when all conditions hold, meet this action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Names of system calls.
    pub names: Vec<String>,
    /// What happens.
    pub action: Action,
    /// All must hold; empty is always.
    pub args: Vec<ArgCmp>,
}

/// Flags of `SECCOMP_SET_MODE_FILTER`; see seccomp(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterFlags {
    /// All threads of the process get the filter.
    pub tsync: bool,
    /// Every action but allow is logged.
    pub log: bool,
    /// No speculative-store mitigation for the sake of the filter.
    pub spec_allow: bool,
    /// A call that waits for the listener is interrupted by fatal signals only (Linux 5.19).
    pub wait_killable: bool,
}

/// A whole filter.
///
/// Which rule decides, for each call of each convention:
/// 1. A rule whose action is the default action is left out, whatever its conditions.
/// 2. If any rule without conditions names the call, the first such rule decides alone.
/// 3. Otherwise the first rule whose conditions all hold decides, in the order of the list.
/// 4. Otherwise the default action (or `beyond`) does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// For calls that no rule decides.
    pub default: Action,
    /// For calls with a number above the highest one named in any rule (before step 1), where
    /// that differs from the default: calls newer than the filter.
    pub beyond: Option<Action>,
    /// For conventions not in `arches`.
    pub bad_arch: Action,
    /// Conventions the rules hold for.
    pub arches: Vec<Arch>,
    /// The rules.
    pub rules: Vec<Rule>,
    /// How it is loaded.
    pub flags: FilterFlags,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_32_bit_convention_sees_the_low_half() {
        let c = Compare::Eq(0x1_0000_0005);
        assert!(!c.holds(5));
        assert!(c.narrowed().holds(5));
    }

    #[test]
    fn masked_comparison_ignores_bits_outside_the_mask_on_both_sides() {
        let c = Compare::MaskedEq {
            mask: 0xf0,
            value: 0xff12,
        };
        assert!(c.holds(0x1f) && !c.holds(0x20));
    }

    #[test]
    fn this_machine_has_a_native_convention() {
        assert!(Arch::native().is_some());
    }
}
