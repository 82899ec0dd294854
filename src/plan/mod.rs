//! Pure planning: guest and host facts become an OCI Spec ([`spec`]), and the Spec a launch plan
//! ([`steps`]). Nothing here touches the machine, so `bulkhead plan` can print it all and stop.

pub mod cgroup;
pub mod container;
mod defaults;
pub mod enter;
mod mounts;
mod options;
pub mod resources;
pub mod seccomp;
pub mod spec;
pub mod step;
pub mod steps;
mod steps_mounts;
mod why;

pub use enter::EnterPlan;
pub use spec::{Placement, PlanError};
pub use step::{HostStep, InitStep, LaunchPlan, StageStep};
