//! Pools, images, snapshots, archives, backups and imports; needs root.

#[path = "../images/mod.rs"]
mod images;
#[path = "../life/mod.rs"]
mod life;
#[path = "../images/registry.rs"]
mod registry;
#[path = "../images/server.rs"]
mod server;
#[path = "../support/mod.rs"]
mod support;
#[path = "../traces/mod.rs"]
mod traces;

mod adopt;
mod backup;
mod clone;
mod dedupe;
mod disk;
mod disk_full;
mod disk_import;
mod disk_sold;
mod far_import;
mod file;
mod image;
mod image_import;
mod image_pull;
mod image_server;
mod moving;
mod past;
mod pool;
mod pool_project;
mod rebase;
mod reinstall;
mod rescue;
mod roots;
mod shrink;
mod snapshot;
mod snapshot_diff;
mod snapshot_mount;
mod snapshot_run;
mod snapshot_tree;
mod trash;
mod undo;
