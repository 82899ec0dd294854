//! The plan of a process that enters a running container: into its groups and namespaces first, then
//! the same last steps as the container's own first process (`process`).

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};

use super::process::{self, Tail, notifies, numbers, size_of, terminal_of};
use super::step::{InsideStep, OutsideStep};
use super::{bit, filter};
use crate::plan::PlanError;
use crate::plan::step::{HostStep, InitStep, LaunchPlan, StageStep};

/// Who enters a running container, and how.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The container's configuration.
    pub spec: &'a Spec,
    /// What is to be run in it.
    pub process: &'a Process,
    /// Whether the program of the container's filter is at hand; its rules need not be there then.
    pub filter_known: bool,
    /// Facts about the host.
    pub facts: super::Facts,
    /// Whether it has control groups.
    pub cgroups: bool,
    /// Whether it is held still, and who enters waits with it.
    pub frozen: bool,
    /// Whether the session keyring stays that of the caller.
    pub keep_keyring: bool,
    /// Descriptors the program keeps beyond the standard ones.
    pub preserve: u32,
}

/// The plan of a process that enters a running container.
///
/// # Errors
/// As for [`super::steps`].
pub fn enter(entry: &Entry<'_>) -> Result<LaunchPlan, PlanError> {
    let tail = Tail {
        process: entry.process,
        filter: filter::flags(entry.spec),
        notifies: notifies(entry.spec),
        set_groups: !entry.facts.limited,
        apparmor: entry.facts.apparmor,
        selinux: entry.facts.selinux,
    };
    Ok(LaunchPlan {
        host: enter_outside(entry)?,
        stage: enter_stage(entry),
        init: enter_inside(entry, &tail)?,
    })
}

fn enter_outside(entry: &Entry<'_>) -> Result<Vec<HostStep>, PlanError> {
    let mut steps = Vec::new();
    steps.extend(filter::ready(entry.spec, entry.filter_known)?);
    let mut push = |step| steps.push(HostStep::Container(step));
    if entry.frozen {
        push(OutsideStep::BePatient);
    }
    if entry.staged() {
        push(OutsideStep::OpenProc);
        steps.push(HostStep::MakeStage);
        steps.push(HostStep::Container(OutsideStep::AwaitBirth));
    } else {
        push(OutsideStep::JoinPids);
        push(OutsideStep::MakeInit { namespaces: 0 });
    }
    let mut push = |step| steps.push(HostStep::Container(step));
    let score = entry.process.oom_score_adj();
    if let Some(score) = score.filter(|_| !entry.facts.limited) {
        push(OutsideStep::SetOomScore { score });
    }
    if notifies(entry.spec) {
        let seccomp = filter::seccomp(entry.spec);
        if let Some(path) = seccomp.and_then(|s| s.listener_path().clone()) {
            let metadata = seccomp.and_then(|s| s.listener_metadata().clone());
            push(OutsideStep::SendListener {
                path,
                metadata: metadata.unwrap_or_default(),
            });
            push(OutsideStep::Continue);
        }
    }
    push(OutsideStep::AwaitStanding);
    if terminal_of(entry.process) {
        push(OutsideStep::SendConsole);
    }
    steps.extend([HostStep::ReleaseInit, HostStep::AwaitExec]);
    Ok(steps)
}

/// Who has no rights but in the container's user namespace enters that first, and from there what it
/// owns.
fn enter_stage(entry: &Entry<'_>) -> Vec<StageStep> {
    if !entry.staged() {
        return Vec::new();
    }
    let mut steps = Vec::new();
    let mut push = |step| steps.push(StageStep::Container(step));
    own_score(entry).into_iter().for_each(&mut push);
    if entry.cgroups {
        push(InsideStep::EnterCgroups);
    }
    push(InsideStep::JoinContainer {
        kinds: bit(LinuxNamespaceType::User) | entry.kinds() & bit(LinuxNamespaceType::Pid),
    });
    steps.push(StageStep::BecomeRoot);
    steps.push(StageStep::Container(InsideStep::GiveBirth {
        namespaces: 0,
    }));
    steps
}

fn own_score(entry: &Entry<'_>) -> Option<InsideStep> {
    let score = entry.process.oom_score_adj();
    let score = score.filter(|_| entry.facts.limited)?;
    Some(InsideStep::SetOomScore { score })
}

impl Entry<'_> {
    fn kinds(&self) -> u64 {
        let all = super::namespaces(self.spec);
        all.iter().fold(0, |all, n| all | bit(n.typ()))
    }

    fn staged(&self) -> bool {
        self.facts.rootless
    }
}

fn enter_inside(entry: &Entry<'_>, tail: &Tail<'_>) -> Result<Vec<InitStep>, PlanError> {
    let mut steps = Vec::new();
    let mut push = |step| steps.push(InitStep::Container(step));
    if let Some(affinity) = entry.process.exec_cpu_affinity()
        && let Some(initial) = affinity.initial()
    {
        let cpus = numbers("process.execCPUAffinity.initial", initial)?;
        push(InsideStep::SetAffinity { cpus });
    }
    if !entry.staged() {
        own_score(entry).into_iter().for_each(&mut push);
    }
    push(InsideStep::Hide {
        keyring: !entry.keep_keyring,
    });
    if entry.cgroups && !entry.staged() {
        push(InsideStep::EnterCgroups);
    }
    if entry.process.exec_cpu_affinity().is_none() {
        push(InsideStep::SetAffinity { cpus: Vec::new() });
    }
    let mut kinds = entry.kinds() & !bit(LinuxNamespaceType::Pid);
    if entry.staged() {
        kinds &= !bit(LinuxNamespaceType::User);
    }
    if kinds & bit(LinuxNamespaceType::User) != 0 {
        process::early_limits(entry.process)
            .into_iter()
            .for_each(&mut push);
    }
    push(InsideStep::JoinContainer { kinds });
    if let Some(affinity) = entry.process.exec_cpu_affinity()
        && let Some(last) = affinity.cpu_affinity_final()
    {
        let cpus = numbers("process.execCPUAffinity.final", last)?;
        push(InsideStep::SetAffinity { cpus });
    }
    process::memory(entry.spec)?.into_iter().for_each(&mut push);
    process::personality(entry.spec)
        .into_iter()
        .for_each(&mut push);
    if terminal_of(entry.process) {
        push(InsideStep::OpenTerminal {
            size: size_of(entry.process),
            console: false,
        });
    }
    tail.before(&mut steps)?;
    steps.push(InitStep::Container(InsideStep::Stand));
    tail.run(entry.preserve, &mut steps);
    Ok(steps)
}
