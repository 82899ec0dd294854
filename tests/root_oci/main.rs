//! What clients of the OCI runtime and its containers see; needs root.

#[path = "../bundle/mod.rs"]
mod bundle;
#[path = "../clients/mod.rs"]
mod clients;
#[path = "../oci/mod.rs"]
mod oci;
#[path = "../support/mod.rs"]
mod support;

mod activation;
mod asked_for;
mod buildah;
mod churn;
mod client_systemd;
mod commands;
mod container_cgroup;
mod containerd;
mod escape;
mod fault;
mod hostile;
mod like_runc;
mod mounts;
mod paths;
mod podman;
mod podman_flags;
mod process;
mod rootless;
mod seccomp;
mod spec;
