//! Carries out a launch plan, and enters a running guest.
//!
//! Three processes do a launch, one file each, and each opens with where it stands: [`host`] (the
//! launching program), `stage` (between host and guest) and `init` (the guest's first process until
//! it executes). They talk in the words of `protocol`. What they have made is on the stack of
//! `undo` until the launch has succeeded.

mod connect;
pub mod container;
mod devices;
pub mod enter;
mod entered;
mod entered_file;
pub mod host;
mod init;
mod look;
mod protocol;
mod resources;
mod root;
mod stage;
mod talk;
mod undo;
mod user;

pub use connect::plug;
pub use enter::{EnterError, EnterRequest, Entered, Task, enter, put_down};
pub use host::{GuestPlace, LaunchError, Launched, Prepared, prepare};
pub use look::{LookAt, look};
pub use resources::limits;
pub(crate) use stage::chain;
