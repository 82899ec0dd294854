//! What a person wrote: the definition, the profiles and the host settings; their schema, how they
//! are laid over one another, and errors with file and line.
//!
//! ```text
//! guest.toml ──Sheet::parse──▶ Definition ─┐
//! profiles   ──Profiles::load─▶ Definition ─┴─resolve──▶ model::Guest ──check(HostFacts)──▶ fit to run
//! flags      ──Key::changes───▶ Change ──edit──▶ guest.toml, its comments kept
//! ```
//!
//! | file | what |
//! |---|---|
//! | `file` | reads a text file that may be hostile: a FIFO, a folder, a gigabyte |
//! | `read` | TOML text to typed values, every fault with its place |
//! | `word` | single values: how each kind is written |
//! | `layer` | what a table, list or map is, and which of two wins |
//! | `definition`, `entry`, `capability` | the schema |
//! | `profile`, `default`, `resolve`, `resolve_network` | layers to one `model::Guest` |
//! | `check`, `check_cpu`, `check_network`, `rule` | what no guest may ask for |
//! | `nic` | interfaces of a guest beyond its first |
//! | `events` | the keys of what is told |
//! | `schedule` | the keys of snapshots that are taken by the clock |
//! | `key`, `flag`, `edit`, `show` | one table of settings: flags, edits, values as text |
//! | `settings` | `/etc/bulkhead/bulkhead.toml` |
//! | `rates` | a rate card: what a provider charges |
//!
//! Nothing here asks the kernel for anything: what the machine can do comes in as `HostFacts`.

mod capability;
mod check;
mod check_cpu;
mod check_network;
mod default;
mod definition;
mod edit;
mod entry;
mod error;
mod events;
mod file;
mod flag;
mod key;
mod layer;
mod nic;
mod profile;
mod rates;
mod read;
mod resolve;
mod resolve_network;
mod rule;
mod schedule;
mod settings;
mod show;
mod word;

pub use capability::{CAPABILITIES, Capability, CapabilityChange};
pub use check::{Problem, check};
pub use default::DEFAULT_CAPABILITIES;
pub(crate) use default::usual_throttled;
pub use definition::{
    AccessPart, AutostartPart, CpuPart, Definition, DiskPart, InitPart, IoPart, MemoryPart,
    NetworkPart, RestartPart, SecurityPart, TemplatePart,
};
pub use edit::{Change, edit};
pub use entry::{BlockLimitEntry, DeviceEntry, MountEntry, TmpfsEntry};
pub use error::{DefineError, Fault};
pub use file::{MAX_FILE, ReadError, read_file};
pub use key::{KEYS, Key, KeyError, KeyPath, Kind};
pub use layer::{Dotted, Extend, Replace};
pub use nic::{NicEntry, without_addresses};
pub use profile::{Profile, ProfileError, Profiles, is_profile_name};
pub use rates::{Price, Rates};
pub use read::Sheet;
pub use resolve::{define, locate, resolve};
pub use rule::{RLIMITS, is_signal, pool_name, snapshot_name};
pub use settings::{IdSettings, NetworkSettings, Settings, Subnet};
pub use show::get;
pub use word::{ModeBits, OrNone, Pause};
