//! Names of system calls → numbers. libseccomp knows most; this file adds what the oldest one we
//! run with (2.5.4) does not: calls newer than it, and the i386 calls that it maps to the old
//! multiplexers `socketcall` and `ipc`. Which rule decides about a number is `ranges`' subject.

use libseccomp::{ScmpArch, ScmpSyscall};

use crate::model::Arch;

/// Calls with the same number everywhere (on top of the convention's base), newer than 2.5.4.
const NEW: &[(&str, u32)] = &[
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
];

/// Calls of x86-64 alone that libseccomp 2.5.4 lacks.
const NEW_X86_64: &[(&str, u32)] = &[("uretprobe", 335), ("uprobe", 336)];

/// i386 calls that libseccomp answers with a pseudo number, because `socketcall` and `ipc` reach
/// them as well. A rule of ours means the call it names and nothing else: the multiplexers take
/// their arguments from memory, where no filter can look, and must be allowed by name.
const DIRECT_I386: &[(&str, u32)] = &[
    ("recvmmsg", 337),
    ("sendmmsg", 345),
    ("socket", 359),
    ("socketpair", 360),
    ("bind", 361),
    ("connect", 362),
    ("listen", 363),
    ("accept4", 364),
    ("getsockopt", 365),
    ("setsockopt", 366),
    ("getsockname", 367),
    ("getpeername", 368),
    ("sendto", 369),
    ("sendmsg", 370),
    ("recvfrom", 371),
    ("recvmsg", 372),
    ("shutdown", 373),
    ("semget", 393),
    ("semctl", 394),
    ("shmget", 395),
    ("shmctl", 396),
    ("shmat", 397),
    ("shmdt", 398),
    ("msgget", 399),
    ("msgsnd", 400),
    ("msgrcv", 401),
    ("msgctl", 402),
];

/// Added to the numbers of [`NEW`]; see each convention's `unistd.h`.
const fn base(arch: Arch) -> u32 {
    match arch {
        Arch::X32 => 0x4000_0000,
        Arch::Mips | Arch::Mipsel => 4000,
        Arch::Mips64 | Arch::Mipsel64 => 5000,
        Arch::Mips64N32 | Arch::Mipsel64N32 => 6000,
        _ => 0,
    }
}

/// The number of a call in one convention; `None` if it has no such call.
#[must_use]
pub fn number(name: &str, arch: Arch) -> Option<u32> {
    let find = |table: &[(&str, u32)]| table.iter().find(|(n, _)| *n == name).map(|(_, nr)| *nr);
    let own = match arch {
        Arch::X86_64 => find(NEW_X86_64),
        Arch::I386 => find(DIRECT_I386),
        _ => None,
    };
    own.or_else(|| find(NEW).map(|nr| nr + base(arch)))
        .or_else(|| {
            let call = ScmpSyscall::from_name_by_arch(name, scmp(arch)).ok()?;
            u32::try_from(call.as_raw_syscall()).ok()
        })
}

const fn scmp(arch: Arch) -> ScmpArch {
    match arch {
        Arch::X86_64 => ScmpArch::X8664,
        Arch::I386 => ScmpArch::X86,
        Arch::X32 => ScmpArch::X32,
        Arch::Arm => ScmpArch::Arm,
        Arch::Aarch64 => ScmpArch::Aarch64,
        Arch::Mips => ScmpArch::Mips,
        Arch::Mips64 => ScmpArch::Mips64,
        Arch::Mips64N32 => ScmpArch::Mips64N32,
        Arch::Mipsel => ScmpArch::Mipsel,
        Arch::Mipsel64 => ScmpArch::Mipsel64,
        Arch::Mipsel64N32 => ScmpArch::Mipsel64N32,
        Arch::Parisc => ScmpArch::Parisc,
        Arch::Parisc64 => ScmpArch::Parisc64,
        Arch::Ppc => ScmpArch::Ppc,
        Arch::Ppc64 => ScmpArch::Ppc64,
        Arch::Ppc64le => ScmpArch::Ppc64Le,
        Arch::S390 => ScmpArch::S390,
        Arch::S390x => ScmpArch::S390X,
        Arch::Riscv64 => ScmpArch::Riscv64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_convention_has_its_own_numbers() {
        for (name, x86_64, i386, x32) in [
            ("read", Some(0), Some(3), Some(0x4000_0000)),
            ("socket", Some(41), Some(359), Some(0x4000_0029)),
            ("socketcall", None, Some(102), None),
            ("waitpid", None, Some(7), None),
            ("mseal", Some(462), Some(462), Some(0x4000_01ce)),
            ("uretprobe", Some(335), None, None),
            ("no_such_call", None, None, None),
            ("nul\0byte", None, None, None),
        ] {
            assert_eq!(number(name, Arch::X86_64), x86_64, "{name}");
            assert_eq!(number(name, Arch::I386), i386, "{name}");
            assert_eq!(number(name, Arch::X32), x32, "{name}");
        }
    }
}
