//! The steps of a launch as data: what each process can be told to do. How a Spec becomes a list of
//! them is next door in `steps`; who carries them out is `launch`.
//!
//! Three lists because three processes do it, three types because a step must not run in the wrong
//! one. Why a step stands where it stands is said next door in `why`, which `bulkhead plan` prints.

use std::path::PathBuf;

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use super::container::step::{InsideStep, OutsideStep};
use crate::model::{Filter, NetOp, RootOp, Shown};

/// The name of a step of any process, as `bulkhead plan` prints it.
pub fn name_of(step: &impl Serialize) -> String {
    /// Takes the beginning, `{"step":"NAME"`, and refuses the rest, which can be a whole filter.
    struct Head(Vec<u8>);
    impl std::io::Write for Head {
        fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
            if self.0.len() > 64 {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.0.extend_from_slice(part);
            Ok(part.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut head = Head(Vec::new());
    // Its end is meant to fail.
    let _cut = serde_json::to_writer(&mut head, step);
    let text = String::from_utf8_lossy(&head.0);
    text.split('"').nth(3).unwrap_or("a step").to_owned()
}

/// Attributes of a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Attributes {
    /// Not to be written through.
    pub read_only: bool,
    /// setuid bits mean nothing.
    pub nosuid: bool,
    /// Device nodes mean nothing.
    pub nodev: bool,
    /// Nothing can be executed.
    pub noexec: bool,
}

impl Attributes {
    /// Only to be read.
    pub const INERT: Self = Self {
        read_only: true,
        nosuid: true,
        nodev: true,
        noexec: true,
    };
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Name below /dev, may hold slashes.
    pub name: String,
    /// Whether it is a block device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
}

/// A resource limit as numbers; `u64::MAX` is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Lower-case name.
    pub name: String,
    /// In force.
    pub soft: u64,
    /// Ceiling.
    pub hard: u64,
}

/// A step of the launching process.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum HostStep {
    /// Have the compiled system call filter ready, so that nothing is compiled in the guest.
    PrepareFilter {
        /// The filter.
        filter: Box<Filter>,
    },
    /// Make the cgroups and set the limits.
    MakeCgroup {
        /// Name below the program's own parent.
        name: String,
        /// Limits.
        resources: Box<LinuxResources>,
        /// Most cgroups the guest may make.
        descendants: u32,
        /// Host uid and gid the guest's own subtree is handed to.
        delegate: (u32, u32),
    },
    /// Take a detached clone of a host path.
    CloneTree {
        /// Host path.
        source: PathBuf,
        /// Where it goes later, which also names the clone.
        target: PathBuf,
        /// With everything mounted below.
        recursive: bool,
    },
    /// Take a detached clone of the guest's own cgroup.
    CloneCgroup {
        /// Where it goes later.
        target: PathBuf,
    },
    /// Take detached clones of files of the guest's own cgroup.
    CloneCgroupFiles {
        /// Which, and where they go later; those that this kernel does not have are fine.
        files: Vec<Shown>,
    },
    /// Work in a private copy of the host's mounts from here on.
    PrivateMounts,
    /// Make the stage process, in the cgroup.
    MakeStage,
    /// Wait until the stage has made the user namespace.
    AwaitUserNamespace,
    /// Write its id maps.
    WriteIdMaps {
        /// User ids.
        users: Vec<IdMapLine>,
        /// Group ids.
        groups: Vec<IdMapLine>,
    },
    /// Set its clocks to begin now.
    WriteClock,
    /// Mount the root filesystem.
    MountRoot {
        /// How.
        root: RootOp,
        /// Host id that is root inside, as which an overlay works on its layers.
        owner: u32,
    },
    /// Mount another root inside it.
    MountBelow {
        /// Where.
        target: PathBuf,
        /// How.
        root: RootOp,
        /// Host id that is root inside.
        owner: u32,
        /// Attributes.
        attributes: Attributes,
    },
    /// Put a memory file system into the root.
    MountTmpfs {
        /// Where.
        target: PathBuf,
        /// Mount options.
        options: Vec<(String, String)>,
        /// Attributes.
        attributes: Attributes,
    },
    /// Make the device nodes and links in the /dev just mounted.
    MakeDevices {
        /// Nodes.
        nodes: Vec<Node>,
        /// Host id that owns them.
        owner: u32,
    },
    /// Put a cloned tree into the root.
    AttachTree {
        /// Where.
        target: PathBuf,
        /// Attributes.
        attributes: Attributes,
        /// Whether ids are shifted into the guest's block.
        idmap: bool,
        /// With everything mounted below.
        recursive: bool,
    },
    /// Cover these paths of the root for good; those that do not exist are fine.
    Hide {
        /// Paths.
        paths: Vec<PathBuf>,
    },
    /// Let the stage make the guest's first process.
    ReleaseStage,
    /// Wait for that process to have its namespaces and console.
    AwaitInit,
    /// Go back to the host's own mounts; the guest has taken its tree along.
    LeaveMounts,
    /// Connect its network namespace.
    ConnectNetwork {
        /// Operations on the host's side.
        ops: Vec<NetOp>,
    },
    /// Let it go on to execute.
    ReleaseInit,
    /// Wait until it has executed.
    AwaitExec,
    /// What only an OCI container needs.
    #[serde(untagged)]
    Container(OutsideStep),
}

/// One line of an id map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct IdMapLine {
    /// First id inside.
    pub inside: u32,
    /// First id on the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// A step of the stage: the process between host and guest.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum StageStep {
    /// Enter the version 1 cgroups (version 2 it was born in).
    EnterCgroups,
    /// Raise hard limits that are lower than what the guest is to have.
    RaiseLimits {
        /// Limits.
        limits: Vec<Limit>,
    },
    /// Set the limits that become ceilings of the whole user namespace.
    SetCeilings {
        /// Limits.
        limits: Vec<Limit>,
    },
    /// Become the host uid that belongs to this guest alone.
    BecomeOwner {
        /// Host uid and gid.
        owner: u32,
    },
    /// Make the user namespace, and a time namespace.
    MakeUserNamespace {
        /// Whether clocks are the guest's own.
        time: bool,
    },
    /// Tell the host, wait until it has written the maps and mounted the root.
    AwaitMaps,
    /// Become root inside.
    BecomeRoot,
    /// Make the guest's first process in the other namespaces.
    MakeInit {
        /// CLONE_NEW* bits.
        namespaces: u64,
    },
    /// What only an OCI container needs.
    #[serde(untagged)]
    Container(InsideStep),
}

/// A step of the guest's first process.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum InitStep {
    /// Leave the session keyring of whoever started us.
    LeaveKeyring,
    /// Share the threads of a core with nobody else at the same moment.
    OwnCores,
    /// Name the guest.
    SetNames {
        /// Host name.
        host: String,
        /// Domain name.
        domain: String,
    },
    /// Take the tree that the host built.
    TakeRoot,
    /// Keep hold of the folder of files to be shown, before something is mounted over it.
    KeepShelf {
        /// Where it lies.
        shelf: PathBuf,
    },
    /// Put whole ones of these file systems where nobody inside gets to: the kernel lets a user
    /// namespace in the guest mount only what it can see whole already.
    KeepWhole {
        /// What is mounted over them then.
        below: PathBuf,
        /// Their kinds and attributes.
        kinds: Vec<(String, Attributes)>,
    },
    /// Mount a file system that belongs to the guest's namespaces.
    Mount {
        /// Where.
        target: PathBuf,
        /// Kind.
        kind: String,
        /// Options.
        options: Vec<(String, String)>,
        /// Attributes.
        attributes: Attributes,
    },
    /// Put the guest's own cgroup there.
    MountCgroup {
        /// Where.
        target: PathBuf,
        /// Attributes.
        attributes: Attributes,
    },
    /// Show these paths as empty.
    Mask {
        /// Paths; those that do not exist are fine.
        paths: Vec<PathBuf>,
    },
    /// Show these paths read-only.
    ReadOnly {
        /// Paths; those that do not exist are fine.
        paths: Vec<PathBuf>,
    },
    /// Show files of that folder, each over the kernel's.
    Show {
        /// Which, and where; places that do not exist are fine.
        files: Vec<Shown>,
    },
    /// Show files of the guest's own cgroup over the kernel's.
    ShowCgroupFiles {
        /// Where; places that do not exist are fine.
        targets: Vec<PathBuf>,
    },
    /// Open the console in the guest's own devpts.
    OpenConsole,
    /// Tell the host that the network namespace stands, wait until it is connected.
    AwaitNetwork,
    /// Addresses and routes.
    ConfigureNetwork {
        /// Operations inside.
        ops: Vec<NetOp>,
    },
    /// Write kernel settings of the guest's namespaces.
    WriteSysctls {
        /// Name, value: a guest's with dots, a container's as a file below `/proc/sys`.
        settings: Vec<(String, String)>,
    },
    /// Let go of the host's mounts.
    BecomeRoot,
    /// Set resource limits of the first process.
    SetLimits {
        /// Limits.
        limits: Vec<Limit>,
    },
    /// Take the console as standard input and output.
    TakeConsole {
        /// Whether it becomes the controlling terminal. An init hands its console to the getty it
        /// starts, which could not take it from a session that owns it.
        controlling: bool,
    },
    /// Executing can add no privileges from here on.
    NoNewPrivileges,
    /// Cut the capability sets.
    CutCapabilities {
        /// Names that stay in the bounding set.
        keep: Vec<String>,
    },
    /// Load the system call filter that the host has prepared.
    LoadSeccomp,
    /// Change to the program's working folder.
    WorkIn {
        /// Absolute path inside.
        directory: PathBuf,
    },
    /// Become the program's user, who gets the standard files.
    BecomeUser {
        /// User id inside.
        uid: u32,
        /// Group id inside.
        gid: u32,
        /// Further groups.
        groups: Vec<u32>,
    },
    /// Close all descriptors and execute.
    Execute {
        /// Program and arguments.
        argv: Vec<String>,
        /// Environment.
        environment: Vec<String>,
    },
    /// What only an OCI container needs.
    #[serde(untagged)]
    Container(InsideStep),
}

/// A launch as data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LaunchPlan {
    /// The launching process.
    pub host: Vec<HostStep>,
    /// The stage.
    pub stage: Vec<StageStep>,
    /// The guest's first process.
    pub init: Vec<InitStep>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_its_name_whatever_it_holds() {
        let argv = vec!["x".repeat(9000)];
        let environment = Vec::new();
        assert_eq!(name_of(&InitStep::Execute { argv, environment }), "execute");
        assert_eq!(name_of(&HostStep::PrivateMounts), "private-mounts");
        let time = true;
        assert_eq!(
            name_of(&StageStep::MakeUserNamespace { time }),
            "make-user-namespace"
        );
    }
}
