//! What can go wrong with a guest, by what a person can do about it.

use crate::model::{GuestName, Status, TenantName};
use crate::network::{DirectoryError, LeaseError};

/// A verb that was not carried out. Nothing has changed, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// No such guest (exit code 3).
    #[error("there is no guest {name}: {}", hint.as_ref().map_or_else(|| "`bulkhead list` shows those there are".to_owned(), |h| format!("did you mean {h}?")))]
    Missing {
        /// Name asked for.
        name: GuestName,
        /// Nearest name there is.
        hint: Option<String>,
    },
    /// The name is taken (exit code 4).
    #[error("there is a guest {0} already: choose another name, or delete it first")]
    Exists(GuestName),
    /// Its definition protects it (exit code 5).
    #[error("guest {0} is protected against being deleted: `bulkhead set {0} protect=false` first")]
    Protected(GuestName),
    /// It is not in the trash (exit code 3).
    #[error("there is no guest {name} in the trash: {}", near.as_ref().map_or_else(|| "`bulkhead trash list` shows what there is".to_owned(), |n| format!("did you mean {n}?")))]
    NotInTrash {
        /// Name asked for.
        name: GuestName,
        /// The nearest there is.
        near: Option<String>,
    },
    /// It is in the wrong state (exit code 4).
    #[error("cannot {verb} guest {name}: it is {status}{}", advice.map(|a| format!("; {a}")).unwrap_or_default())]
    WrongState {
        /// Verb.
        verb: &'static str,
        /// Guest.
        name: GuestName,
        /// Its state.
        status: Status,
        /// What to do.
        advice: Option<&'static str>,
    },
    /// It has no such snapshot (exit code 3).
    #[error("guest {guest} has no snapshot {snapshot:?}{}", near.as_ref().map_or(String::new(), |n| format!(": did you mean {n:?}?")))]
    NoSnapshot {
        /// Guest.
        guest: GuestName,
        /// Name asked for.
        snapshot: String,
        /// The nearest there is.
        near: Option<String>,
    },
    /// It has none at all (exit code 3).
    #[error("guest {guest} has no snapshot: `bulkhead snapshot create {guest}` takes one")]
    NothingKept {
        /// Guest.
        guest: GuestName,
    },
    /// It has one of that name (exit code 4).
    #[error(
        "guest {guest} has a snapshot {snapshot:?} already: choose another name, or delete it first"
    )]
    SnapshotExists {
        /// Guest.
        guest: GuestName,
        /// Name.
        snapshot: String,
    },
    /// One of its snapshots is mounted (exit code 4).
    #[error(
        "snapshot {snapshot} of guest {guest} is mounted on {at}: `bulkhead snapshot unmount {at}` \
         first",
        at = folder.display()
    )]
    Mounted {
        /// Guest.
        guest: GuestName,
        /// Snapshot.
        snapshot: String,
        /// Folder of the host's.
        folder: std::path::PathBuf,
    },
    /// A snapshot cannot be shown.
    #[error("cannot show snapshot {snapshot} of guest {guest}")]
    Show {
        /// Guest.
        guest: GuestName,
        /// Snapshot.
        snapshot: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A folder of the host's is no good (exit code 1).
    #[error("cannot use {}: {why}", folder.display())]
    Folder {
        /// Folder.
        folder: std::path::PathBuf,
        /// Why not, and what to do.
        why: &'static str,
    },
    /// It has no undo disk (exit code 4).
    #[error("guest {0} has no undo disk: `bulkhead start --undo {0}` gives it one")]
    NoUndo(GuestName),
    /// Nothing is left of its base before (exit code 4).
    #[error(
        "guest {0} has no base to go back to: it was not rebased, or the snapshot `before-rebase-…` \
         that kept it is gone"
    )]
    NoBase(GuestName),
    /// What it has written on its undo disk is not decided (exit code 4).
    #[error(
        "cannot {verb} guest {name}: say `bulkhead undo {name} keep` or `bulkhead undo {name} drop` \
         first, for what it has written on its undo disk"
    )]
    Undecided {
        /// Verb.
        verb: &'static str,
        /// Guest.
        name: GuestName,
    },
    /// Another command is at work on it (exit code 4).
    #[error("guest {name} is busy: {holder} holds its lock; try again when that is done")]
    Busy {
        /// Guest.
        name: GuestName,
        /// Who.
        holder: String,
    },
    /// Its definition is wrong (exit code 5).
    #[error(transparent)]
    Definition(#[from] crate::define::DefineError),
    /// Its definition cannot be read.
    #[error(transparent)]
    Unreadable(#[from] crate::define::ReadError),
    /// A value is no good (exit code 2).
    #[error(transparent)]
    Key(#[from] crate::define::KeyError),
    /// It cannot be planned for this host (exit code 5).
    #[error(transparent)]
    Plan(#[from] crate::plan::PlanError),
    /// Something that it refers to on the host is not there or of the wrong kind (exit code 5).
    #[error("{key}: {what}: {why}")]
    Host {
        /// Key of the definition.
        key: &'static str,
        /// What it names.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// No ids, no addresses left (exit code 5).
    #[error("{0}")]
    Exhausted(String),
    /// The host cannot keep what it is to be guaranteed (exit code 5).
    #[error("no room for guest {name}: {shortfall}{otherwise}")]
    NoRoom {
        /// Guest.
        name: GuestName,
        /// What is too little.
        shortfall: crate::model::Shortfall,
        /// What else would do.
        otherwise: String,
    },
    /// So much room on disks is not to be sold (exit code 5).
    #[error(
        "no room for the disk of guest {name} in pool {pool}: {why}; ask for less, delete guests, or raise overcommit.disk in bulkhead.toml"
    )]
    NoDisk {
        /// Guest.
        name: GuestName,
        /// Where it lies.
        pool: String,
        /// What is too little.
        why: String,
    },
    /// It cannot have the CPUs it asks for (exit code 5).
    #[error("no CPUs for guest {name}: {why}")]
    NoCpus {
        /// Guest.
        name: GuestName,
        /// Why, and what to do.
        why: String,
    },
    /// It could not be moved to its CPUs.
    #[error("cannot move guest {name} to its CPUs")]
    Seat {
        /// Guest.
        name: GuestName,
        /// Why.
        #[source]
        source: Box<crate::kernel::cgroup::CgroupError>,
    },
    /// No such pool of CPUs (exit code 3).
    #[error("there is no pool of CPUs {name}: {hint}")]
    NoCpuPool {
        /// Name asked for.
        name: crate::model::CpuPoolName,
        /// What could have been meant.
        hint: String,
    },
    /// The name of a pool of CPUs is taken (exit code 4).
    #[error(
        "there is a pool of CPUs {0} already: choose another name, or `bulkhead cpupool set {0}`"
    )]
    CpuPoolExists(crate::model::CpuPoolName),
    /// A pool of CPUs cannot be as asked (exit code 5).
    #[error("pool of CPUs {name}: {why}")]
    CpuPool {
        /// Pool.
        name: crate::model::CpuPoolName,
        /// Why, and what to do.
        why: String,
    },
    /// There is no such tenant (exit code 3).
    #[error("there is no tenant {name}: {}", near.as_ref().map_or_else(|| format!("`bulkhead tenant create {name}` makes it"), |n| format!("did you mean {n}?")))]
    NoTenant {
        /// Name asked for.
        name: TenantName,
        /// The nearest there is.
        near: Option<String>,
    },
    /// There is one (exit code 4).
    #[error("there is a tenant {0} already: `bulkhead tenant set {0}` changes its limits")]
    TenantExists(TenantName),
    /// Guests have it (exit code 4).
    #[error(
        "tenant {name} has guests {}: give them another with `bulkhead set GUEST tenant=NAME`, or delete them",
        guests.join(", ")
    )]
    TenantInUse {
        /// Tenant.
        name: TenantName,
        /// Guests.
        guests: Vec<String>,
    },
    /// There is no such goal (exit code 3).
    #[error("there is no goal {name}: {}", near.as_ref().map_or_else(|| "`bulkhead goal list` shows those there are".to_owned(), |n| format!("did you mean {n}?")))]
    NoGoal {
        /// Name asked for.
        name: String,
        /// The nearest there is.
        near: Option<String>,
    },
    /// There is one (exit code 4).
    #[error("there is a goal {0} already: `bulkhead goal set {0}` changes it")]
    GoalExists(String),
    /// A controller runs already (exit code 4).
    #[error("`bulkhead goal run` is at work on this installation already: end it first")]
    GoalsRun,
    /// Networks are watched already (exit code 4).
    #[error(
        "`bulkhead network watch` is at work on this installation already: end it first, or leave it to that one"
    )]
    NetworksWatched,
    /// A search runs already (exit code 4).
    #[error("`bulkhead bisect` is at work on this installation already: wait until it has ended")]
    Bisects,
    /// It cannot be (exit code 5).
    #[error("goal {name}: {why}")]
    Goal {
        /// Goal.
        name: String,
        /// Why, and what to do.
        why: String,
    },
    /// What its limits cannot be, or cannot keep (exit code 5).
    #[error("tenant {name}: {why}")]
    Tenant {
        /// Tenant.
        name: TenantName,
        /// Why, and what to do.
        why: String,
    },
    /// Its root is there already (exit code 5).
    #[error(
        "template: the root of guest {name} is made from {made_from} and stays so: create another \
         guest for another template, other options of it, or another image"
    )]
    Fixed {
        /// Guest.
        name: GuestName,
        /// What it was made from.
        made_from: String,
    },
    /// What is chosen when a guest is made (exit code 5).
    #[error("{key} of guest {name} cannot be changed: {why}")]
    Chosen {
        /// Guest.
        name: GuestName,
        /// Key.
        key: &'static str,
        /// Why, and what to do.
        why: String,
    },
    /// Its pool.
    #[error(transparent)]
    Pool(#[from] crate::storage::PoolError),
    /// An archive of a guest that cannot be written or read.
    #[error("cannot {what}: {source}")]
    Archive {
        /// What was tried.
        what: String,
        /// Why not.
        #[source]
        source: Box<crate::storage::PackError>,
    },
    /// A definition from elsewhere asks for more of this host than a guest has (exit code 5).
    #[error(
        "the definition that comes with guest {name} reaches beyond it, by {keys}: look at it with \
         --dry-run --trust, then say --trust to take it as it is"
    )]
    Reaches {
        /// Guest.
        name: GuestName,
        /// Keys.
        keys: String,
    },
    /// Its address (exit code 5).
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The network it is to be on.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// One more interface.
    #[error("cannot plug the interface {nic} into guest {guest}")]
    Nic {
        /// Guest.
        guest: GuestName,
        /// Its name inside.
        nic: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The host's network.
    #[error("cannot set up the guests' network")]
    Network(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Its image.
    #[error(transparent)]
    Image(#[from] crate::storage::ImageError),
    /// Its backup.
    #[error(transparent)]
    Backup(#[from] crate::storage::backup::BackupError),
    /// Its root.
    #[error("cannot make or change the root of guest {name}")]
    Root {
        /// Guest.
        name: GuestName,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// One of its files.
    #[error("cannot {verb} {path} in guest {guest}: {why}")]
    File {
        /// What was tried.
        verb: &'static str,
        /// Guest.
        guest: GuestName,
        /// File.
        path: String,
        /// Why not.
        why: String,
    },
    /// Its cgroups.
    #[error(transparent)]
    Cgroup(#[from] crate::kernel::cgroup::CgroupError),
    /// Its launch.
    #[error("cannot start guest {name}: {why}{}", console.as_ref().map(|c| format!("\nits console said:\n{c}")).unwrap_or_default())]
    Start {
        /// Guest.
        name: GuestName,
        /// Why.
        why: String,
        /// Whether the definition asks for what it cannot have (exit code 5).
        refused: bool,
        /// The last lines of its console.
        console: Option<String>,
    },
    /// Entering it (exit codes 125, 126, 127).
    #[error(transparent)]
    Enter(#[from] crate::launch::EnterError),
    /// A file or kernel operation of the program's own.
    #[error(transparent)]
    Kernel(#[from] crate::kernel::KernelError),
    /// A record of the program's own cannot be understood.
    #[error("{path} is damaged: {why}; {advice}")]
    Damaged {
        /// File.
        path: String,
        /// What is wrong.
        why: String,
        /// What to do.
        advice: &'static str,
    },
    /// Time was up.
    #[error("{0}")]
    TimedOut(String),
}

impl GuestError {
    /// Whether a limit, a policy or the definition is why: the same will be refused again.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Definition(_)
            | Self::Plan(_)
            | Self::Host { .. }
            | Self::Fixed { .. }
            | Self::Chosen { .. }
            | Self::Protected(_)
            | Self::NoRoom { .. }
            | Self::NoDisk { .. }
            | Self::NoCpus { .. }
            | Self::CpuPool { .. }
            | Self::Tenant { .. }
            | Self::Goal { .. }
            | Self::Pool(
                crate::storage::PoolError::Unknown { .. }
                | crate::storage::PoolError::Refused { .. },
            )
            | Self::Reaches { .. }
            | Self::Exhausted(_) => true,
            Self::Archive { source, .. } => {
                matches!(**source, crate::storage::PackError::NoImage { .. })
            }
            Self::Image(error) => matches!(error, crate::storage::ImageError::Unsound { .. }),
            Self::Lease(error) => !matches!(error, LeaseError::File(_) | LeaseError::Host(_)),
            Self::Directory(error) => matches!(
                error,
                DirectoryError::Unknown { .. } | DirectoryError::Refused { .. }
            ),
            Self::Start { refused, .. } => *refused,
            _ => false,
        }
    }
}

/// Result of this room.
pub type Result<T> = std::result::Result<T, GuestError>;
