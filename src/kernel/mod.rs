//! The only place for unsafe code, raw system calls and the crates that wrap them: one file for
//! each kernel interface. Nothing here knows what a guest is.

mod error;

pub mod btrfs;
mod bus;
pub mod capability;
pub mod cgroup;
pub mod channel;
pub mod confined;
pub mod credentials;
pub mod fault;
pub mod file;
pub mod filesystem;
pub mod forward;
pub mod id_maps;
pub mod inherited;
pub mod interface;
pub mod interrupt;
pub mod listening;
pub mod loop_device;
pub mod mount;
pub mod mount_table;
pub mod namespace;
pub mod netlink;
mod netlink_address;
mod netlink_message;
pub mod netlink_nft;
pub mod netlink_nft_count;
mod netlink_port;
pub mod netlink_routed;
mod netlink_shape;
mod netlink_socket;
pub mod probe;
pub mod process;
pub mod procfs;
pub mod quota;
pub mod random;
pub mod rdt;
pub mod read_watch;
pub mod schedule;
pub mod screen;
pub mod sealed;
pub mod seccomp;
pub mod share;
pub mod socket;
pub mod strange_file;
pub mod terminal;
pub mod timing;
pub mod tree;

pub use error::{KernelError, Result};
pub use rustix::io::Errno;
