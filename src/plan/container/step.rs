//! The steps that only the launch of an OCI container has: its client chose every namespace, mount
//! and control group, its own program waits for a second command, and hooks run in between. What it
//! shares with a guest's launch is in `plan::step`.

use std::path::PathBuf;

use serde::Serialize;

use super::super::step::IdMapLine;
pub use super::mount_entry::{MountEntry, Propagation, Show, Way};
pub use super::standing::{CapabilitySets, Hook, MemoryPolicy, Scheduling};
use crate::model::{CgroupPlan, FilterFlags};

/// A namespace that is there already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Existing {
    /// CLONE_NEW* bit.
    pub kind: u64,
    /// A file in /proc/PID/ns, or one such mounted elsewhere.
    pub path: PathBuf,
    /// Whether something in it is changed for the container, so that it must not be the host's.
    pub changed: bool,
}

/// A device node, or a FIFO.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceNode {
    /// Where.
    pub path: PathBuf,
    /// `c`, `b` or `p`.
    pub kind: char,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The host's own node, cloned: in a user namespace none can be made.
    pub tree: Option<usize>,
}

/// A step of the launching process.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum OutsideStep {
    /// Take the system call filter's program that was made when its rules were met before.
    TakeFilter,
    /// Open the host's procfs, the root file system and the namespaces to be joined.
    Open {
        /// Root file system.
        root: PathBuf,
        /// Namespaces.
        join: Vec<Existing>,
        /// Whether its tree is cloned at once.
        clone: bool,
    },
    /// Open the host's procfs.
    OpenProc,
    /// Take a detached clone of a host path, as the next tree.
    Clone {
        /// Host path.
        source: PathBuf,
        /// With everything mounted below.
        recursive: bool,
    },
    /// The same of a device's node, of that number.
    CloneDevice {
        /// Path of the node, on the host as in the container.
        path: PathBuf,
        /// Whether it is a block device.
        block: bool,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Shift the ids of the last tree.
    ShiftIds {
        /// User ids; none if a user namespace is joined whose maps are meant.
        users: Vec<IdMapLine>,
        /// Group ids.
        groups: Vec<IdMapLine>,
        /// With everything mounted below.
        recursive: bool,
    },
    /// Make the control groups and set the device rules.
    MakeCgroups {
        /// Where and what.
        plan: Box<CgroupPlan>,
        /// Whether the container can do without: nothing was asked of them.
        optional: bool,
    },
    /// Set the limits.
    LimitCgroups {
        /// Where and what.
        plan: Box<CgroupPlan>,
        /// Whether the container can do without: nothing was asked of them.
        optional: bool,
    },
    /// Have systemd make the control groups, for the process that is there, and set the limits.
    MakeScope {
        /// Where and what.
        plan: Box<CgroupPlan>,
    },
    /// Wait for the other processes without an end: they are held still with the container.
    BePatient,
    /// Have what is born next be born into the container's pid namespace.
    JoinPids,
    /// Take detached clones of the container's own control groups.
    CloneCgroups,
    /// Make the container's first process, or the one that enters it.
    MakeInit {
        /// CLONE_NEW* bits.
        namespaces: u64,
    },
    /// Have whoever launches write down which process it is.
    Record,
    /// Wait for the stage to have made it.
    AwaitBirth,
    /// Be outside of the kernel's choice of victims, or first among them.
    SetOomScore {
        /// -1000 to 1000.
        score: i32,
    },
    /// Put the process into a resource control group (resctrl).
    MakeRdtGroup {
        /// Its name.
        group: String,
        /// Lines of schemata.
        schemata: Vec<String>,
    },
    /// Move network interfaces into its network namespace.
    MoveDevices {
        /// Name on the host, name inside.
        devices: Vec<(String, String)>,
    },
    /// Wait until its mounts stand; its console may come along.
    AwaitMounts,
    /// Run hooks in the host's namespaces.
    RunHooks {
        /// Which.
        hooks: Vec<Hook>,
    },
    /// Let it go on.
    Continue,
    /// Give its console to whoever listens there.
    SendConsole,
    /// Take the seccomp listener from it and give it to whoever listens there.
    SendListener {
        /// A unix socket.
        path: PathBuf,
        /// What is passed along.
        metadata: String,
    },
    /// Wait until only its program is missing.
    AwaitStanding,
}

/// A step of the container's first process, or of one that enters it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum InsideStep {
    /// Enter the version 1 control groups (version 2 it was born in).
    EnterCgroups,
    /// Be outside of the kernel's choice of victims, or first among them, as far as one may say so.
    SetOomScore {
        /// -1000 to 1000.
        score: i32,
    },
    /// Be opened by nobody, end with the launching process, have a session of one's own.
    Hide {
        /// Whether the session's keyring is a new one.
        keyring: bool,
    },
    /// Wait for the host.
    AwaitHost,
    /// Enter namespaces that the host has opened.
    JoinNamespaces {
        /// CLONE_NEW* bits, in this order.
        kinds: Vec<u64>,
    },
    /// Enter all of these namespaces of the container's first process.
    JoinContainer {
        /// CLONE_NEW* bits.
        kinds: u64,
    },
    /// Make the first process, as a child of the launching one.
    GiveBirth {
        /// CLONE_NEW* bits.
        namespaces: u64,
    },
    /// Make namespaces that need no new process.
    NewNamespaces {
        /// CLONE_NEW* bits.
        kinds: u64,
    },
    /// Make a time namespace, set its clocks, enter it.
    NewClock {
        /// Nanoseconds added to the monotonic clock.
        monotonic: i128,
        /// Nanoseconds added to the boot clock.
        boot: i128,
    },
    /// Leave the host's mounts for a mount namespace with nothing in it but an empty folder.
    EnterEmptyMounts,
    /// Hear of the host's mounts no more than asked for, and tell it nothing.
    CutPropagation {
        /// How.
        propagation: Propagation,
    },
    /// Take a detached clone of a host path, as the next tree.
    Clone {
        /// Host path.
        source: PathBuf,
        /// With everything mounted below.
        recursive: bool,
    },
    /// The same of a device's node, of that number.
    CloneDevice {
        /// Path of the node, on the host as in the container.
        path: PathBuf,
        /// Whether it is a block device.
        block: bool,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Take detached clones of the container's own control groups.
    CloneCgroups,
    /// Put the root tree where it is to be mounted.
    PlaceRoot,
    /// Mount.
    Mount {
        /// What and where.
        mount: Box<MountEntry>,
    },
    /// Make a mount read-only that has been written to until now.
    CloseMount {
        /// Where, in the container.
        target: PathBuf,
    },
    /// Make device nodes.
    MakeNodes {
        /// Nodes.
        nodes: Vec<DeviceNode>,
    },
    /// Make the links that programs look for in /dev.
    MakeLinks,
    /// Make a folder that is missing.
    MakeFolder {
        /// Where, in the container.
        path: PathBuf,
    },
    /// Tell the host that the mounts stand.
    TellMounts,
    /// Run hooks.
    RunHooks {
        /// Which.
        hooks: Vec<Hook>,
        /// What they are told the container is.
        status: String,
        /// Where they begin, if it is not where the container's first process stands.
        folder: Option<PathBuf>,
    },
    /// See nothing but the root's folder: without a mount namespace there is no more to be had.
    EnterFolder,
    /// Make the root tree the root.
    EnterRoot {
        /// What is done with the old one.
        way: Way,
    },
    /// The root's own attributes.
    FinishRoot {
        /// Not to be written to.
        read_only: bool,
        /// Propagation.
        propagation: Option<Propagation>,
    },
    /// Open a terminal in the container's own devpts, for /dev/console where there is one.
    OpenTerminal {
        /// Rows and columns.
        size: Option<(u16, u16)>,
        /// Whether /dev/console is to be it.
        console: bool,
    },
    /// Take it as standard input and output.
    TakeTerminal,
    /// Bring the loopback interface up.
    LoopbackUp,
    /// Security modules: what the program is to be run as.
    SetLabels {
        /// Profile of AppArmor.
        apparmor: Option<String>,
        /// Context of SELinux.
        selinux: Option<String>,
    },
    /// Execution domain.
    SetPersonality {
        /// See personality(2).
        persona: u64,
    },
    /// Standing with the scheduler.
    SetScheduling {
        /// How.
        scheduling: Scheduling,
    },
    /// Standing with the block layer.
    SetIoPriority {
        /// Number of ioprio_set(2).
        priority: u32,
    },
    /// CPUs to run on.
    SetAffinity {
        /// Numbers; none for all of its group's, whatever the caller is restricted to.
        cpus: Vec<u32>,
    },
    /// Where memory is taken from.
    SetMemoryPolicy {
        /// How.
        policy: MemoryPolicy,
    },
    /// Resource limits, none above what the kernel lets us have.
    SetLimits {
        /// Limits.
        limits: Vec<super::super::step::Limit>,
    },
    /// A ceiling of open files that is higher than the caller's; the limit itself comes later.
    RaiseFiles {
        /// The ceiling.
        hard: u64,
    },
    /// Working folder.
    ChangeFolder {
        /// Where, in the container.
        path: PathBuf,
    },
    /// Look for the program.
    FindProgram {
        /// As asked for.
        program: String,
        /// User it runs as, for a HOME that is missing.
        uid: u32,
        /// Environment, for its PATH.
        environment: Vec<String>,
    },
    /// Cut the bounding set, become the user, take on the other sets.
    BecomeUser {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Further groups.
        groups: Vec<u32>,
        /// Whether further groups can be set at all.
        set_groups: bool,
        /// File mode creation mask.
        umask: u32,
        /// Capabilities.
        sets: Box<CapabilitySets>,
    },
    /// Load the filter; its listener, if it has one, goes to the host.
    LoadFilter {
        /// How.
        flags: FilterFlags,
        /// Whether there is a listener.
        listener: bool,
    },
    /// Tell the host that only the program is missing.
    Stand,
    /// Outlive the host, close what is not needed, and wait for the word to start.
    AwaitStart {
        /// Descriptors kept beyond the standard ones.
        keep: u32,
    },
    /// Close all descriptors but these and execute the program found.
    Run {
        /// Program and arguments.
        argv: Vec<String>,
        /// Descriptors kept beyond the standard ones.
        keep: u32,
    },
}
