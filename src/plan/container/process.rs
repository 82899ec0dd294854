//! `process` of an OCI configuration → the last steps before its program runs, for the first
//! process of a container and for one that enters it.

use std::str::FromStr as _;

use oci_spec::runtime::{
    Capability, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    LinuxSeccompAction, MemoryPolicyFlagType, MemoryPolicyModeType, Process, Spec,
};

use super::step::{CapabilitySets, Hook, InsideStep, MemoryPolicy, Scheduling};
use super::{Wish, filter, refuse};
use crate::model::{CpuSet, FilterFlags};
use crate::plan::PlanError;
use crate::plan::step::{InitStep, Limit};

/// Resource limits that are set before a user namespace is entered: some count for all of a user's
/// processes, and none can be raised afterwards. That of open files would hinder what is still to be
/// done, so that only its ceiling is seen to.
pub(super) fn early_limits(process: &Process) -> Vec<InsideStep> {
    let all = crate::plan::steps::limits_of(process);
    let (files, limits): (Vec<Limit>, Vec<Limit>) =
        all.into_iter().partition(|limit| limit.name == "nofile");
    let mut steps: Vec<InsideStep> = files
        .into_iter()
        .map(|limit| InsideStep::RaiseFiles { hard: limit.hard })
        .collect();
    if !limits.is_empty() {
        steps.push(InsideStep::SetLimits { limits });
    }
    steps
}

/// Whether the process gets a terminal.
pub(super) fn terminal(spec: &Spec) -> bool {
    spec.process()
        .as_ref()
        .is_some_and(|p| p.terminal() == Some(true))
}

/// Rows and columns of it.
pub(super) fn size(spec: &Spec) -> Option<(u16, u16)> {
    spec.process().as_ref().and_then(size_of)
}

pub(super) fn size_of(process: &Process) -> Option<(u16, u16)> {
    let size = process.console_size()?;
    let number = |n: u64| u16::try_from(n).ok();
    number(size.height())
        .zip(number(size.width()))
        .filter(|s| *s != (0, 0))
}

/// Whether some rule of the filter leaves the decision to a listener.
pub(super) fn notifies(spec: &Spec) -> bool {
    let seccomp = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    let rules = seccomp.and_then(|s| s.syscalls().as_ref());
    let mut rules = rules.into_iter().flatten();
    rules.any(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify)
}

/// The last steps of the container's first process.
pub(super) fn program(
    wish: &Wish<'_>,
    start_hooks: Vec<Hook>,
    steps: &mut Vec<InitStep>,
) -> Result<(), PlanError> {
    let Some(process) = wish.spec.process() else {
        return Err(refuse("process", "it is missing"));
    };
    steps.extend(memory(wish.spec)?.map(InitStep::Container));
    let persona = personality(wish.spec);
    steps.extend(persona.map(InitStep::Container));
    let tail = Tail {
        process,
        filter: filter::flags(wish.spec),
        notifies: notifies(wish.spec),
        set_groups: !wish.facts.limited,
        apparmor: wish.facts.apparmor,
        selinux: wish.facts.selinux,
    };
    tail.before(steps)?;
    steps.push(InitStep::Container(InsideStep::Stand));
    if wish.waits {
        steps.push(InitStep::Container(InsideStep::AwaitStart {
            keep: wish.preserve,
        }));
    }
    if !start_hooks.is_empty() {
        steps.push(InitStep::Container(InsideStep::RunHooks {
            hooks: start_hooks,
            status: "created".into(),
            folder: None,
        }));
    }
    tail.run(wish.preserve, steps);
    Ok(())
}

/// Where the memory of all of a container's programs is taken from.
pub(super) fn memory(spec: &Spec) -> Result<Option<InsideStep>, PlanError> {
    let linux = spec.linux().as_ref();
    let policy = linux.and_then(|l| l.memory_policy().as_ref());
    let policy = policy.map(memory_policy).transpose()?;
    Ok(policy.map(|policy| InsideStep::SetMemoryPolicy { policy }))
}

/// The execution domain of all of a container's programs.
pub(super) fn personality(spec: &Spec) -> Option<InsideStep> {
    let linux = spec.linux().as_ref();
    let persona = linux.and_then(|l| l.personality().as_ref())?;
    // Numbers of personality(2).
    let persona = match persona.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    };
    Some(InsideStep::SetPersonality { persona })
}

/// What a process becomes before it executes.
pub(super) struct Tail<'a> {
    pub(super) process: &'a Process,
    pub(super) filter: Option<FilterFlags>,
    pub(super) notifies: bool,
    pub(super) set_groups: bool,
    pub(super) apparmor: bool,
    pub(super) selinux: bool,
}

impl Tail<'_> {
    pub(super) fn before(&self, steps: &mut Vec<InitStep>) -> Result<(), PlanError> {
        let process = self.process;
        let args = process.args().as_deref().unwrap_or_default();
        let program = args.first().cloned().unwrap_or_default();
        if program.is_empty() {
            return Err(refuse("process.args", "it is empty"));
        }
        let mut push = |step| steps.push(InitStep::Container(step));
        let limits = crate::plan::steps::limits_of(process);
        if !limits.is_empty() {
            push(InsideStep::SetLimits { limits });
        }
        self.standing(&mut push)?;
        if terminal_of(process) {
            push(InsideStep::TakeTerminal);
        }
        push(InsideStep::ChangeFolder {
            path: process.cwd().clone(),
        });
        push(InsideStep::FindProgram {
            program,
            uid: process.user().uid(),
            environment: process.env().clone().unwrap_or_default(),
        });
        let labels = self.labels()?;
        if labels != (None, None) {
            push(InsideStep::SetLabels {
                apparmor: labels.0,
                selinux: labels.1,
            });
        }
        let no_new = process.no_new_privileges() == Some(true);
        let filter = self.filter.map(|flags| InsideStep::LoadFilter {
            flags,
            listener: self.notifies,
        });
        let user = self.user();
        if no_new {
            steps.push(InitStep::NoNewPrivileges);
            steps.push(InitStep::Container(user));
            steps.extend(filter.map(InitStep::Container));
        } else {
            // Loading needs CAP_SYS_ADMIN then.
            steps.extend(filter.map(InitStep::Container));
            steps.push(InitStep::Container(user));
        }
        Ok(())
    }

    /// What the two modules are told. A protection that this kernel does not have is no protection.
    fn labels(&self) -> Result<(Option<String>, Option<String>), PlanError> {
        let filled = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
        let apparmor = filled(self.process.apparmor_profile());
        // Without the module everybody is.
        let apparmor = apparmor.filter(|profile| self.apparmor || profile != "unconfined");
        if let Some(profile) = apparmor.as_ref().filter(|_| !self.apparmor) {
            let why = "apparmor is disabled or not supported here: leave it out, or enable it";
            return Err(refuse(format!("process.apparmorProfile {profile:?}"), why));
        }
        let selinux = filled(self.process.selinux_label());
        if let Some(label) = selinux.as_ref().filter(|_| !self.selinux) {
            let why = "selinux is disabled or not supported here: leave it out, or enable it";
            return Err(refuse(format!("process.selinuxLabel {label:?}"), why));
        }
        Ok((apparmor, selinux))
    }

    fn standing(&self, push: &mut impl FnMut(InsideStep)) -> Result<(), PlanError> {
        if let Some(scheduler) = self.process.scheduler() {
            push(InsideStep::SetScheduling {
                scheduling: scheduling(scheduler)?,
            });
        }
        if let Some(io) = self.process.io_priority() {
            use oci_spec::runtime::IOPriorityClass as Class;
            let class = match io.class() {
                Class::IoprioClassRt => 1,
                Class::IoprioClassBe => 2,
                Class::IoprioClassIdle => 3,
            };
            let level = u32::try_from(io.priority()).ok().filter(|n| *n < 8);
            let level = level.ok_or_else(|| {
                refuse(
                    format!("process.ioPriority.priority {}", io.priority()),
                    "use 0 to 7",
                )
            })?;
            push(InsideStep::SetIoPriority {
                priority: class << 13 | level,
            });
        }
        Ok(())
    }

    fn user(&self) -> InsideStep {
        let user = self.process.user();
        let caps = self.process.capabilities().as_ref();
        let names = |set: Option<&oci_spec::runtime::Capabilities>| {
            let mut names: Vec<String> = set.into_iter().flatten().map(cap_name).collect();
            names.sort();
            names
        };
        let sets = caps.map_or_else(CapabilitySets::default, |c| CapabilitySets {
            bounding: names(c.bounding().as_ref()),
            effective: names(c.effective().as_ref()),
            permitted: names(c.permitted().as_ref()),
            inheritable: names(c.inheritable().as_ref()),
            ambient: names(c.ambient().as_ref()),
        });
        InsideStep::BecomeUser {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            set_groups: self.set_groups,
            umask: user.umask().unwrap_or(0o022),
            sets: Box::new(sets),
        }
    }

    pub(super) fn run(&self, keep: u32, steps: &mut Vec<InitStep>) {
        steps.push(InitStep::Container(InsideStep::Run {
            argv: self.process.args().clone().unwrap_or_default(),
            keep,
        }));
    }
}

pub(super) fn terminal_of(process: &Process) -> bool {
    process.terminal() == Some(true)
}

fn cap_name(capability: &Capability) -> String {
    let name = capability.to_string();
    if name.starts_with("CAP_") {
        name
    } else {
        format!("CAP_{name}")
    }
}

/// A capability as a client writes it on a command line.
#[must_use]
pub fn capability(name: &str) -> Option<Capability> {
    Capability::from_str(name.to_uppercase().trim_start_matches("CAP_")).ok()
}

/// Numbers of sched_setattr(2).
fn scheduling(from: &oci_spec::runtime::Scheduler) -> Result<Scheduling, PlanError> {
    use {LinuxSchedulerFlag as Flag, LinuxSchedulerPolicy as Policy};
    let policy = match from.policy() {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => 4,
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    };
    let bit = |flag: &Flag| match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40_u64,
    };
    let priority = from.priority().unwrap_or(0);
    let priority = u32::try_from(priority).map_err(|_| {
        refuse(
            format!("process.scheduler.priority {priority}"),
            "it is negative",
        )
    })?;
    if from.policy() == &Policy::SchedDeadline {
        check_deadline(from)?;
    }
    let nice = from.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        let what = format!("process.scheduler.nice {nice}");
        return Err(refuse(what, "use -20 to 19"));
    }
    Ok(Scheduling {
        policy,
        flags: from
            .flags()
            .iter()
            .flatten()
            .fold(0, |all, flag| all | bit(flag)),
        nice,
        priority,
        times: (
            from.runtime().unwrap_or(0),
            from.deadline().unwrap_or(0),
            from.period().unwrap_or(0),
        ),
    })
}

/// Says which of the three times is wrong: the kernel only says that something is.
fn check_deadline(from: &oci_spec::runtime::Scheduler) -> Result<(), PlanError> {
    let (runtime, deadline) = (from.runtime().unwrap_or(0), from.deadline().unwrap_or(0));
    let period = from.period().filter(|p| *p != 0).unwrap_or(deadline);
    let wrong = match () {
        () if runtime < SHORTEST_RUNTIME => {
            format!("it needs a `runtime` of {SHORTEST_RUNTIME} nanoseconds or more")
        }
        () if deadline < runtime => {
            "it needs a `deadline` that is no shorter than `runtime`".into()
        }
        () if period < deadline => "its `period` is shorter than its `deadline`".into(),
        () => return Ok(()),
    };
    Err(refuse("process.scheduler, SCHED_DEADLINE", wrong))
}

/// The kernel's: less is not worth a switch of processes.
const SHORTEST_RUNTIME: u64 = 1024;

/// Numbers of set_mempolicy(2).
fn memory_policy(from: &oci_spec::runtime::LinuxMemoryPolicy) -> Result<MemoryPolicy, PlanError> {
    use {MemoryPolicyFlagType as Flag, MemoryPolicyModeType as Mode};
    let mode = match from.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let bit = |flag: &Flag| match flag {
        Flag::MpolFNumaBalancing => 1 << 13,
        Flag::MpolFRelativeNodes => 1 << 14,
        Flag::MpolFStaticNodes => 1 << 15,
    };
    let what = "linux.memoryPolicy.nodes";
    let nodes = match from.nodes().as_deref() {
        None | Some("") => Vec::new(),
        Some(text) => numbers(what, text).map_err(|_| {
            let why = "invalid memory policy nodes: write them like 0-2,4";
            refuse(format!("{what} {text:?}"), why)
        })?,
    };
    if matches!(from.mode(), Mode::MpolDefault | Mode::MpolLocal) && !nodes.is_empty() {
        let why = format!("the mode requires 0 nodes but got {}", nodes.len());
        return Err(refuse(what, why));
    }
    Ok(MemoryPolicy {
        mode: mode
            | from
                .flags()
                .iter()
                .flatten()
                .fold(0, |all, flag| all | bit(flag)),
        nodes,
    })
}

pub(super) fn numbers(what: &str, text: &str) -> Result<Vec<u32>, PlanError> {
    let set: CpuSet = text
        .trim()
        .parse()
        .map_err(|_| refuse(format!("{what} {text:?}"), "write it like 0-2,4"))?;
    Ok(set.iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wrong_time_of_a_deadline_is_named() {
        let of = |times: &str| {
            let text = format!(r#"{{"policy": "SCHED_DEADLINE"{times}}}"#);
            let read = serde_json::from_str(&text).unwrap();
            scheduling(&read)
                .map(|s| s.times)
                .map_err(|e| e.to_string())
        };
        for (times, wrong) in [
            ("", "`runtime` of 1024"),
            (r#", "runtime": 5, "deadline": 9000"#, "`runtime` of 1024"),
            (r#", "runtime": 5000"#, "`deadline`"),
            (r#", "runtime": 5000, "deadline": 4000"#, "`deadline`"),
            (
                r#", "runtime": 2000, "deadline": 4000, "period": 3000"#,
                "`period`",
            ),
        ] {
            let told = of(times).unwrap_err();
            assert!(told.contains(wrong), "{times}: {told}");
        }
        let good = r#", "runtime": 2000, "deadline": 4000"#;
        assert_eq!(of(good), Ok((2000, 4000, 0)));
    }
}
