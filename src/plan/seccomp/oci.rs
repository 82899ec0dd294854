//! Both ways between the seccomp types of an OCI Spec and our own: groups of a profile become rules
//! of a Spec, a Spec of anyone's becomes a filter. Profiles and their files are next door in
//! `seccomp`.

use std::collections::BTreeSet;

use oci_spec::runtime::{
    Arch as OciArch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

use super::{ENOSYS, Group};
use crate::model::{Action, Arch, ArgCmp, Compare, Filter, FilterFlags, Rule, fingerprint};

/// What an OCI Spec asks for that no filter can do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// More than the kernel's 4095.
    #[error("linux.seccomp, rule for {call}: errnoRet {errno} is out of range; use 0 to 4095")]
    Errno {
        /// First name of the rule, or `default`.
        call: String,
        /// As written.
        errno: u32,
    },
    /// A system call has six arguments.
    #[error("linux.seccomp, rule for {call}: args.index {index} is out of range; use 0 to 5")]
    Argument {
        /// First name of the rule.
        call: String,
        /// As written.
        index: usize,
    },
}

pub(super) fn syscall(
    group: &Group,
    all: &[ArgCmp],
) -> Result<LinuxSyscall, oci_spec::OciSpecError> {
    let (action, errno) = oci_action(group.action);
    let mut call = LinuxSyscallBuilder::default()
        .names(group.calls.clone())
        .action(action)
        .build()?;
    call.set_errno_ret(errno);
    if !all.is_empty() {
        let args: Result<Vec<_>, _> = all.iter().map(oci_arg).collect();
        call.set_args(Some(args?));
    }
    Ok(call)
}

fn oci_arg(c: &ArgCmp) -> Result<LinuxSeccompArg, oci_spec::OciSpecError> {
    let (op, value, two) = match c.compare {
        Compare::Ne(v) => (LinuxSeccompOperator::ScmpCmpNe, v, None),
        Compare::Lt(v) => (LinuxSeccompOperator::ScmpCmpLt, v, None),
        Compare::Le(v) => (LinuxSeccompOperator::ScmpCmpLe, v, None),
        Compare::Eq(v) => (LinuxSeccompOperator::ScmpCmpEq, v, None),
        Compare::Ge(v) => (LinuxSeccompOperator::ScmpCmpGe, v, None),
        Compare::Gt(v) => (LinuxSeccompOperator::ScmpCmpGt, v, None),
        Compare::MaskedEq { mask, value } => {
            (LinuxSeccompOperator::ScmpCmpMaskedEq, mask, Some(value))
        }
    };
    let arg = LinuxSeccompArgBuilder::default()
        .index(c.arg)
        .value(value)
        .op(op);
    match two {
        Some(two) => arg.value_two(two).build(),
        None => arg.build(),
    }
}

pub(super) fn oci_action(action: Action) -> (LinuxSeccompAction, Option<u32>) {
    match action {
        Action::KillThread => (LinuxSeccompAction::ScmpActKillThread, None),
        Action::KillProcess => (LinuxSeccompAction::ScmpActKillProcess, None),
        Action::Trap => (LinuxSeccompAction::ScmpActTrap, None),
        Action::Errno(n) => (LinuxSeccompAction::ScmpActErrno, Some(n.into())),
        Action::Notify => (LinuxSeccompAction::ScmpActNotify, None),
        Action::Trace(n) => (LinuxSeccompAction::ScmpActTrace, Some(n.into())),
        Action::Log => (LinuxSeccompAction::ScmpActLog, None),
        Action::Allow => (LinuxSeccompAction::ScmpActAllow, None),
    }
}

/// Both directions of the conventions' names, so that they cannot differ.
const ARCHES: &[(Arch, OciArch)] = &[
    (Arch::X86_64, OciArch::ScmpArchX86_64),
    (Arch::I386, OciArch::ScmpArchX86),
    (Arch::X32, OciArch::ScmpArchX32),
    (Arch::Arm, OciArch::ScmpArchArm),
    (Arch::Aarch64, OciArch::ScmpArchAarch64),
    (Arch::Mips, OciArch::ScmpArchMips),
    (Arch::Mips64, OciArch::ScmpArchMips64),
    (Arch::Mips64N32, OciArch::ScmpArchMips64n32),
    (Arch::Mipsel, OciArch::ScmpArchMipsel),
    (Arch::Mipsel64, OciArch::ScmpArchMipsel64),
    (Arch::Mipsel64N32, OciArch::ScmpArchMipsel64n32),
    (Arch::Parisc, OciArch::ScmpArchParisc),
    (Arch::Parisc64, OciArch::ScmpArchParisc64),
    (Arch::Ppc, OciArch::ScmpArchPpc),
    (Arch::Ppc64, OciArch::ScmpArchPpc64),
    (Arch::Ppc64le, OciArch::ScmpArchPpc64le),
    (Arch::S390, OciArch::ScmpArchS390),
    (Arch::S390x, OciArch::ScmpArchS390x),
    (Arch::Riscv64, OciArch::ScmpArchRiscv64),
];

pub(super) fn oci_arch(arch: Arch) -> OciArch {
    let found = ARCHES.iter().find(|(a, _)| *a == arch);
    found.map_or(OciArch::ScmpArchNative, |(_, oci)| *oci)
}

/// Changes with what [`to_filter`] makes of a Spec.
pub const READER: u64 = fingerprint(&[include_bytes!("oci.rs")]);

/// What an OCI Spec asks for, as the plain filter that `kernel::seccomp` compiles. As runc reads
/// it: the machine's own convention is always in; several conditions on one argument of a rule are
/// alternatives; calls newer than all that the rules name fail with ENOSYS where the default
/// refuses otherwise. Calls of a convention not listed kill the process.
///
/// # Errors
/// An errno or an argument number is out of range.
pub fn to_filter(seccomp: &LinuxSeccomp) -> Result<Filter, FilterError> {
    let default = filter_action(
        seccomp.default_action(),
        seccomp.default_errno_ret(),
        "default",
    )?;
    let mut arches: Vec<Arch> = Arch::native().into_iter().collect();
    for oci in seccomp.architectures().iter().flatten() {
        // A convention that only other machines have needs no rules on this one.
        let arch = ARCHES.iter().find(|(_, o)| o == oci).map(|(a, _)| *a);
        if let Some(arch) = arch.filter(|a| !arches.contains(a)) {
            arches.push(arch);
        }
    }
    let mut rules = Vec::new();
    for call in seccomp.syscalls().iter().flatten() {
        rules.extend(filter_rules(call)?);
    }
    let refuses = !default.lets_through()
        && !matches!(
            default,
            Action::Notify | Action::Trace(_) | Action::Errno(ENOSYS)
        );
    Ok(Filter {
        default,
        beyond: refuses.then_some(Action::Errno(ENOSYS)),
        bad_arch: Action::KillProcess,
        arches,
        rules,
        flags: flags_of(seccomp),
    })
}

/// How the filter is loaded.
pub fn flags_of(seccomp: &LinuxSeccomp) -> FilterFlags {
    let has = |flag| seccomp.flags().iter().flatten().any(|f| *f == flag);
    FilterFlags {
        tsync: has(LinuxSeccompFilterFlag::SeccompFilterFlagTsync),
        log: has(LinuxSeccompFilterFlag::SeccompFilterFlagLog),
        spec_allow: has(LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow),
        wait_killable: has(LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv),
    }
}

fn filter_rules(call: &LinuxSyscall) -> Result<Vec<Rule>, FilterError> {
    let first = call.names().first().map_or("", String::as_str);
    let action = filter_action(call.action(), call.errno_ret(), first)?;
    let mut args = Vec::new();
    for arg in call.args().iter().flatten() {
        let index = u8::try_from(arg.index()).ok().filter(|i| *i < 6);
        args.push(ArgCmp {
            arg: index.ok_or_else(|| FilterError::Argument {
                call: first.to_owned(),
                index: arg.index(),
            })?,
            compare: compare(arg),
        });
    }
    let rule = |args| Rule {
        names: call.names().clone(),
        action,
        args,
    };
    let distinct: BTreeSet<u8> = args.iter().map(|a| a.arg).collect();
    let repeated = distinct.len() < args.len();
    Ok(if repeated {
        args.into_iter().map(|a| rule(vec![a])).collect()
    } else {
        vec![rule(args)]
    })
}

fn compare(arg: &LinuxSeccompArg) -> Compare {
    let v = arg.value();
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => Compare::Ne(v),
        LinuxSeccompOperator::ScmpCmpLt => Compare::Lt(v),
        LinuxSeccompOperator::ScmpCmpLe => Compare::Le(v),
        LinuxSeccompOperator::ScmpCmpEq => Compare::Eq(v),
        LinuxSeccompOperator::ScmpCmpGe => Compare::Ge(v),
        LinuxSeccompOperator::ScmpCmpGt => Compare::Gt(v),
        LinuxSeccompOperator::ScmpCmpMaskedEq => Compare::MaskedEq {
            mask: v,
            value: arg.value_two().unwrap_or(0),
        },
    }
}

fn filter_action(
    action: LinuxSeccompAction,
    errno: Option<u32>,
    call: &str,
) -> Result<Action, FilterError> {
    let number = |highest| {
        let errno = errno.unwrap_or(1);
        u16::try_from(errno)
            .ok()
            .filter(|n| *n <= highest)
            .ok_or_else(|| FilterError::Errno {
                call: call.to_owned(),
                errno,
            })
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            Action::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => Action::KillProcess,
        LinuxSeccompAction::ScmpActTrap => Action::Trap,
        LinuxSeccompAction::ScmpActErrno => Action::Errno(number(4095)?),
        LinuxSeccompAction::ScmpActNotify => Action::Notify,
        LinuxSeccompAction::ScmpActTrace => Action::Trace(number(u16::MAX)?),
        LinuxSeccompAction::ScmpActLog => Action::Log,
        LinuxSeccompAction::ScmpActAllow => Action::Allow,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oci_rules_are_read_as_runc_reads_them() {
        let text = r#"{
            "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
                    {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
                    {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]},
                {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "args": [
                    {"index": 0, "value": 240, "valueTwo": 16, "op": "SCMP_CMP_MASKED_EQ"}]}
            ]}"#;
        let filter = to_filter(&serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!(filter.default, Action::Errno(1));
        assert_eq!(filter.beyond, Some(Action::Errno(ENOSYS)));
        assert!(filter.arches.contains(&Arch::I386));
        assert!(filter.flags.log && !filter.flags.tsync);
        assert_eq!(
            filter.rules.len(),
            3,
            "conditions on one argument are alternatives"
        );
        assert_eq!(filter.rules[2].action, Action::Errno(5));
        let wide = Compare::MaskedEq {
            mask: 240,
            value: 16,
        };
        assert_eq!(filter.rules[2].args[0].compare, wide);
    }

    #[test]
    fn oci_numbers_out_of_range_are_refused() {
        for (text, expected) in [
            (
                r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}"#,
                "errnoRet 4096",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"],
                "action": "SCMP_ACT_KILL", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
                "args.index 6",
            ),
        ] {
            let error = to_filter(&serde_json::from_str(text).unwrap()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
