//! Bulkhead slices one Linux server into guests: each a full userspace on the one running kernel.
//!
//! | layer | room | what it holds |
//! |---|---|---|
//! | L0 | [`model`] | nouns that cross rooms; no I/O |
//! | L1 | [`kernel`] | the only place for unsafe code and kernel interfaces, one file each |
//! | L1 | [`define`] | what a person wrote: definition, profiles, layering, errors with file and line |
//! | L1 | [`plan`] | pure: guest and host facts → OCI Spec → launch plan |
//! | L2 | [`storage`] | templates, images, roots; hands out `MountOp`s |
//! | L2 | [`network`] | bridge, addresses, firewall; hands out `NetOp`s |
//! | L2 | [`launch`] | carries out a plan, and enters a running guest |
//! | L2 | [`meter`] | counters of a running guest |
//! | L3 | [`guest`] | the life of one guest: store, verbs, keeper |
//! | L4 | [`cli`] | the manager's front door |
//! | L4 | [`oci`] | the front door with runc's command line, for containerd, Podman and Kubernetes |
//!
//! A room uses only the rooms of lower layers; `tests/layering.rs` reads the `use` lines and fails
//! on an arrow that points up or sideways.
//!
//! A launch in ten lines: `define` turns `guest.toml` and profiles into a [`model::Guest`];
//! `storage` and `network` say what its root and its interface need; `plan::spec` turns all of it
//! into an OCI Spec, `plan::steps` the Spec into a plan; `launch` makes the cgroup and its limits,
//! a private mount namespace with the root in it, a *stage* process that becomes the guest's own
//! host uid and makes the user namespace, and from it the guest's *init*, which finishes the mounts
//! inside, drops what it may not keep and executes the guest's `/sbin/init`. The launching process
//! then becomes the guest's *keeper*.
#![deny(unsafe_code)]

pub mod cli;
pub mod define;
pub mod guest;
pub mod kernel;
pub mod launch;
pub mod meter;
pub mod model;
pub mod network;
pub mod oci;
pub mod plan;
pub mod storage;
