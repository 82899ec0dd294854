//! CPUs, memory, guarantees, tenants, meters and the view from inside; needs root.

#[path = "../life/mod.rs"]
mod life;
#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code)] // the part of it that is for clients of a runtime
#[path = "../clients/terminal.rs"]
mod terminal;
#[path = "../traces/mod.rs"]
mod traces;

mod bisect;
mod capacity;
mod cgroup;
mod cpus;
mod credit;
mod goal;
mod guarantee;
mod inside;
mod inside_calls;
mod inside_disk;
mod inside_mounts;
mod inside_nested;
mod inside_programs;
mod isolation;
mod limit_events;
mod limits;
mod pages;
mod partition;
mod portion;
mod tenant;
mod top;
mod usage;
mod view;
mod why;
