//! The only place for unsafe code, raw system calls and the crates that wrap them: one file for
//! each kernel interface. Nothing here knows what a guest is.

pub mod capability;
pub mod seccomp;
