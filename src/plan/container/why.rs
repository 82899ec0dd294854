//! Why each step of a container's launch stands where it stands; a guest's are in `plan::why`.

use super::step::{InsideStep, OutsideStep};

impl OutsideStep {
    /// Why it is here.
    #[must_use]
    pub fn why(&self) -> &'static str {
        match self {
            Self::TakeFilter => "before anything is made, as where the program is not known yet",
            Self::Open { .. } => {
                "paths are resolved once, in the host's mounts; from here on they are descriptors"
            }
            Self::OpenProc => "before anything of the container's can be in its place",
            Self::Clone { .. } => "in the host's mounts, where the path means what its client saw",
            Self::CloneDevice { .. } => {
                "in a user namespace no node can be made, and the host's is looked at first"
            }
            Self::ShiftIds { .. } => "a tree can be given other ids only while it is detached",
            Self::MakeCgroups { .. } => "device rules are in force before the first process exists",
            Self::LimitCgroups { .. } => {
                "while the first process makes its mounts; before any program but ours runs"
            }
            Self::MakeScope { .. } => "systemd makes a scope for a process that is there",
            Self::BePatient => "a frozen container answers when it is thawed",
            Self::JoinPids => "a process is born into a pid namespace, it cannot move there",
            Self::CloneCgroups => "the container's own groups, and nothing above them",
            Self::MakeInit { .. } => "born in the group and the namespaces: no moving, no waiting",
            Self::Record => "while it is busy with its mounts: nobody waits for the disk",
            Self::AwaitBirth => {
                "what the user namespace is to own is made in it, one process later"
            }
            Self::SetOomScore { .. } => "from outside, before its own program can object",
            Self::MakeRdtGroup { .. } => "before its program touches the cache",
            Self::MoveDevices { .. } => {
                "before hooks and program look for them; addresses go along"
            }
            Self::AwaitMounts => "hooks expect the mounts to stand and the root not yet entered",
            Self::RunHooks { .. } => "by the client's will between creating and created",
            Self::Continue => "it waits so that nothing of it runs too early",
            Self::SendConsole => "its output is read before it writes any",
            Self::SendListener { .. } => {
                "a call that is to be decided must find somebody to decide"
            }
            Self::AwaitStanding => "from here on only its program can fail",
        }
    }
}

impl InsideStep {
    /// Why it is here.
    #[must_use]
    pub fn why(&self) -> &'static str {
        match self {
            Self::EnterCgroups => "before anything is used up; version 2 it was born in",
            Self::SetOomScore { .. } => "while our own files in /proc are ours to write",
            Self::Clone { .. } | Self::CloneDevice { .. } | Self::CloneCgroups => {
                "in mounts of the container's own: those of the host are not ours to clone"
            }
            Self::Hide { .. } => "before any namespace is shared with somebody who could look",
            Self::AwaitHost => "its group is made by systemd, for its pid",
            Self::JoinNamespaces { .. } => "while it has the rights of the host",
            Self::JoinContainer { .. } => "all at once: half in, half out is no state to be in",
            Self::GiveBirth { .. } => "in the user namespace that is to own the others",
            Self::NewNamespaces { .. } => "rooted in the group it has just entered",
            Self::NewClock { .. } => "a time namespace takes its offsets while it is empty",
            Self::LoopbackUp => "every program expects it",
            Self::EnterEmptyMounts => {
                "the host's mounts need not be copied, and not be left; they are at hand as trees"
            }
            Self::CutPropagation { .. } => "before the first mount: the host must hear of none",
            Self::PlaceRoot => "where hooks of the client expect it",
            Self::Mount { .. } => "in the order of the configuration",
            Self::CloseMount { .. } => "nothing more is to be mounted or made in it",
            Self::MakeNodes { .. } => "in the /dev just mounted, over what the image has",
            Self::MakeLinks => "where they are missing",
            Self::MakeFolder { .. } => "while the root can still be written to",
            Self::TellMounts => "hooks run now, in the host's namespaces",
            Self::RunHooks { .. } => "by the client's will, in the container's namespaces",
            Self::EnterFolder | Self::EnterRoot { .. } => "the host's files are out of reach now",
            Self::FinishRoot { .. } => "nothing more is to be made in it",
            Self::OpenTerminal { .. } => "from the container's own devpts",
            Self::TakeTerminal => "before anything is written",
            Self::SetLabels { .. } => "through the host's procfs, for the next execution",
            Self::SetPersonality { .. }
            | Self::SetScheduling { .. }
            | Self::SetIoPriority { .. }
            | Self::SetAffinity { .. }
            | Self::RaiseFiles { .. }
            | Self::SetMemoryPolicy { .. }
            | Self::SetLimits { .. } => "while it may still be raised",
            Self::ChangeFolder { .. } => "checked afterwards: a path may lead where it should not",
            Self::FindProgram { .. } => "a program that is not there is an error of the launch",
            Self::BecomeUser { .. } => "the last of the rights go",
            Self::LoadFilter { .. } => "as late as the rights to load it allow",
            Self::Stand => "whoever waits may call it created",
            Self::AwaitStart { .. } => "the client says when",
            Self::Run { .. } => "nothing of ours is left open",
        }
    }
}
