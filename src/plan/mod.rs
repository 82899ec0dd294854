//! Pure planning: guest and host facts become an OCI Spec, and the Spec a launch plan.

pub mod seccomp;
