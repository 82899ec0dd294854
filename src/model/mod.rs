//! Nouns that cross rooms. No I/O here: a type, its parser, its rules.

mod address_block;
mod allowance;
mod amount;
mod bisect;
mod ceilings;
mod cgroup;
pub mod clock;
mod cpu_pool_name;
mod credit;
mod facts;
mod file_entry;
mod filter;
mod firewall;
mod firewall_line;
mod forward;
mod goal;
mod goal_control;
mod goal_resource;
mod guarantee;
mod guest;
mod hosts;
mod ids;
mod image_name;
mod inside;
mod layout;
mod limit_event;
mod mount_flags;
mod name;
mod network_name;
mod nic;
mod ops;
mod portion;
mod prefix6;
mod rate;
mod resize;
mod retention;
mod seat;
mod share_name;
mod status;
mod system_info;
mod tenant;
mod traffic;
mod urgency;
mod used;

pub use address_block::{AddressBlock, BlockError};
pub use allowance::{Allowance, AllowanceClass, Level};
pub use amount::{AmountError, Bytes, CpuSet, Cpus};
pub use bisect::{Next, Search, Sure, Verdict};
pub use ceilings::Ceilings;
pub use cgroup::{
    CONTAINER_PREFIX, CgroupHost, CgroupPlace, CgroupPlan, CgroupSetting, DeviceEntry,
    SystemdScope, UnitValue,
};
pub use cpu_pool_name::CpuPoolName;
pub use credit::{Balance, Credits};
pub use facts::{CgroupMode, CoreScheduling, HostFacts};
pub use file_entry::{FileEntry, FileKind, FileWish};
pub use filter::{Action, Arch, ArgCmp, Compare, Filter, FilterFlags, Rule, fingerprint};
pub use firewall::{FirewallRule, Peer, RuleError, RuleProtocol, RuleState};
pub use firewall_line::{FirewallLine, LineError};
pub use forward::{Forward, ForwardError, Protocol};
pub use goal::{Goal, GoalName, GoalNameError, Hours, Policy, Subject, metric_url};
pub use goal_control::{Change, Control, Seen};
pub use goal_resource::{GoalBound, GoalBoundError, GoalResource};
pub use guarantee::{Amounts, HostRoom, Ratio, Resource, Room, Shortfall};
pub use guest::{
    Access, Autostart, BindMount, BlockLimit, CpuLimits, Device, DiskWish, Guest, InitCommand,
    IoLimits, MemoryLimits, NetworkKind, NetworkWish, Origin, RestartPolicy, RestartRule, Rlimit,
    Security, TemplateRef, Tmpfs,
};
pub use hosts::{hosts_block, merge_hosts};
pub use ids::{ID_BLOCK, IdBlock};
pub use image_name::{ImageName, ImageNameError, Remote};
pub use inside::{DISKS, EVENTS_INSIDE, InsideFile, PRESSURE, Shown, ShownFolder, UNTOLD, View};
pub use layout::Layout;
pub use limit_event::{EventRule, Pace, TopProcess};
pub use mount_flags::{FlagChange, MountFlags};
pub use name::{GuestName, NameError, nearest};
pub use network_name::{NetworkName, NetworkNameError};
pub use nic::{Mac, MacError, Nic, NicName, NicNameError, mac_text};
pub use ops::{DirOp, MountOp, NetOp, RootOp, Writable};
pub use portion::{Claim, beside_host, portions};
pub use prefix6::{Prefix6, Prefix6Error, link_local};
pub use rate::{Rate, RateError, Shape, TokenBucket, Trunk};
pub use resize::Resize;
pub use retention::{Retention, SnapshotRule};
pub use seat::{CpuMode, Seat, Seating, Topology};
pub use share_name::{ShareName, ShareNameError};
pub use status::{Event, EventKind, ExitReason, Sample, Status};
pub use system_info::{SystemInfo, shown_affinity};
pub use tenant::{TenantCaps, TenantName, TenantNameError, TenantRates};
pub use traffic::{Flows, Traffic, Volume};
pub use urgency::{Urgency, UrgencyError};
pub use used::{Gauge, Used};
