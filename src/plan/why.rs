//! Why each step of a launch stands where it stands: what `bulkhead plan` prints beside it, and what
//! whoever moves a step must answer. The steps themselves are next door in `step`, their order in
//! `steps`.

use super::step::{HostStep, InitStep, StageStep};

impl HostStep {
    /// Why it is here.
    #[must_use]
    pub fn why(&self) -> &'static str {
        match self {
            Self::PrepareFilter { .. } => {
                "before anything is made: a filter that cannot be compiled changes nothing"
            }
            Self::MakeCgroup { .. } => "limits are in force before the first process exists",
            Self::CloneTree { .. } => {
                "the path is resolved once, in the host's mounts; from here on it is a descriptor"
            }
            Self::CloneCgroup { .. } => "the guest's own subtree, while the host's mounts are here",
            Self::CloneCgroupFiles { .. } => "while the host's mounts are here, as the subtree is",
            Self::PrivateMounts => {
                "what is mounted from here on no other process of the host sees, and ends with us"
            }
            Self::MakeStage => {
                "born in the cgroup, so that nothing of the guest escapes its limits"
            }
            Self::AwaitUserNamespace => "its maps can be written only when it stands",
            Self::WriteIdMaps { .. } => {
                "from outside, by root: a user namespace cannot give itself more than its own id"
            }
            Self::WriteClock => "a time namespace takes its offsets only while it is empty",
            Self::MountRoot { .. } => {
                "by the host, with the guest's ids: the kernel locks it against the guest"
            }
            Self::MountBelow { .. } => {
                "by the host, as the root is: the guest cannot take off what is locked on it"
            }
            Self::MountTmpfs { .. } => "the host's own file system, sized, over what the image has",
            Self::MakeDevices { .. } => {
                "device nodes work only where the file system belongs to the host"
            }
            Self::AttachTree { .. } => {
                "in the order of the definition; read-only is locked when the guest copies the mounts"
            }
            Self::Hide { .. } => {
                "by the host and after all trees: the guest can uncover nothing that was covered here"
            }
            Self::ReleaseStage => "the tree is whole: init can be born with a copy of it",
            Self::AwaitInit => "its network namespace must stand before an interface can go there",
            Self::LeaveMounts => "the guest has its copy; ours would keep its tree busy",
            Self::ConnectNetwork { .. } => {
                "an interface appears in the guest under its final name, never on the host first"
            }
            Self::ReleaseInit => "everything the host does for it is done",
            Self::AwaitExec => "a program that cannot be executed is an error of the start",
            Self::Container(step) => step.why(),
        }
    }
}

impl StageStep {
    /// Why it is here.
    #[must_use]
    pub fn why(&self) -> &'static str {
        match self {
            Self::EnterCgroups => "while it is root: version 1 has no birth into a cgroup",
            Self::RaiseLimits { .. } => {
                "only root of the host may raise them; inside, init can set what is not above"
            }
            Self::SetCeilings { .. } => {
                "limits in force when the user namespace is made hold for the whole guest"
            }
            Self::BecomeOwner { .. } => {
                "the kernel charges the creator; no other guest and no host program has this uid"
            }
            Self::MakeUserNamespace { .. } => "first: the others are then owned by it",
            Self::AwaitMaps => "without maps there is no root to become",
            Self::BecomeRoot => "the other namespaces are made with the guest's rights, not ours",
            Self::MakeInit { .. } => {
                "as a child of the host's process, which keeps its exit status; the stage can leave"
            }
            Self::Container(step) => step.why(),
        }
    }
}

impl InitStep {
    /// Why it is here.
    #[must_use]
    pub fn why(&self) -> &'static str {
        match self {
            Self::LeaveKeyring => "first: the starter's keys are none of the guest's",
            Self::OwnCores => "before anything of the guest's runs: its children have what it has",
            Self::SetNames { .. } => "while nothing of the guest's has looked",
            Self::TakeRoot => "mounts below are made in the tree, not through a path of the host's",
            Self::Mount { .. } => {
                "it belongs to the guest's namespaces, so the guest must mount it"
            }
            Self::MountCgroup { .. } => "its own subtree, after /sys, over which it lies",
            Self::Mask { .. } => "after /proc and /sys stand: it hides what is in them",
            Self::ReadOnly { .. } => "after /proc stands, before anybody can write",
            Self::OpenConsole => "from the guest's own devpts, so that the host's is not involved",
            Self::AwaitNetwork => "addresses need the interface",
            Self::ConfigureNetwork { .. } => "before init, which finds its network up",
            Self::KeepShelf { .. } => {
                "before the guest's procfs covers it: what the host has mounted there stays locked"
            }
            Self::KeepWhole { .. } => {
                "before the guest's procfs covers them, which has parts that are covered themselves"
            }
            Self::Show { .. } => "over a procfs and sysfs that stand, and after their masks",
            Self::ShowCgroupFiles { .. } => {
                "the same, with files of the kernel's that nobody inside owns"
            }
            Self::WriteSysctls { .. } => "after the network: net.* is there only now",
            Self::BecomeRoot => "the host's mounts go, and with them every way back",
            Self::SetLimits { .. } => "after all work of ours that they could hinder",
            Self::TakeConsole { .. } => {
                "from here on what goes wrong is said on the guest's console"
            }
            Self::NoNewPrivileges => "before the filter, which then needs no privilege",
            Self::CutCapabilities { .. } => {
                "after the last step that needs more than the guest gets"
            }
            Self::LoadSeccomp => "late: our own steps before it need calls that the guest has not",
            Self::WorkIn { .. } => {
                "an image's program expects to begin there; still as root, who may"
            }
            Self::BecomeUser { .. } => {
                "an image's program is not root's: after all that needs root"
            }
            Self::Execute { .. } => "every descriptor but the console is closed by it",
            Self::Container(step) => step.why(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_and_no_sentence() {
        let reasons = [
            HostStep::PrivateMounts.why(),
            StageStep::BecomeRoot.why(),
            InitStep::LoadSeccomp.why(),
        ];
        for why in reasons {
            assert!(
                why.len() < 100 && !why.ends_with('.') && !why.contains('\n'),
                "{why}"
            );
        }
    }
}
