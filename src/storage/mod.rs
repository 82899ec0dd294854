//! Templates, images and roots: everything about what a guest's files are made of. Nothing is
//! mounted here; [`root_ops`] hands out a [`crate::model::RootOp`] and `MountOp`s for the launch.
//!
//! | file | what it holds |
//! |---|---|
//! | `template` | recipes: embedded, or from a folder of the host's |
//! | `image` | built images by digest: record, list, removal, leftovers |
//! | `build`, `workshop` | making an image once, from recipe to rename |
//! | `layer`, `oci_*`, `image_config` | images of layers that several share, taken in from OCI |
//! | `tag`, `prune`, `verify` | names of images, removing unused ones, finding damaged ones |
//! | `digest` | the digest of a tree's content |
//! | `busybox`, `host`, `debian`, `archive` | how each kind of template is built |
//! | `accounts`, `systemd_units` | parts of `host` and `debian` |
//! | `archive_*`, `extract` | parts of `archive`: entry, stream, PAX, sparse; the disk |
//! | `pool`, `pool_leftover`, `place` | pools, and where a guest's own layer lies in them |
//! | `driver`, `driver_*` | what such a layer can be: a folder, a subvolume, a filesystem in a file |
//! | `chain`, `saved` | what was kept of a root: shared layers or copies; restoring, cloning |
//! | `root` | a guest's own layer: make, use, delete |
//! | `first_boot`, `network_files`, `ssh_keys` | what the host writes into a guest before it runs |
//! | `merged`, `merged_folder` | a guest's tree as the guest sees it, read and written by descriptor |
//! | `tree_item`, `tree_read`, `tree_write`, `tree_policy` | a tree as items with everything they have: read, and made again elsewhere |
//! | `dirfd`, `walk`, `remove`, `seed` | descriptor work the others share |
//!
//! A tree that a guest has written to is data of a stranger: it is only ever touched one component
//! at a time through descriptors, never by a joined path.

mod accounts;
mod apt_settings;
mod archive;
mod archive_entry;
mod archive_pax;
mod archive_read;
mod archive_sparse;
pub mod backup;
mod build;
mod busybox;
mod chain;
mod debian;
mod digest;
mod dirfd;
mod driver;
mod driver_btrfs;
mod driver_folder;
mod driver_image;
mod extract;
#[cfg(test)]
mod extract_tests;
mod first_boot;
mod host;
mod image;
mod image_config;
mod init_kind;
mod layer;
mod merged;
mod merged_folder;
mod network_files;
mod oci_config;
mod place;
mod pool;
mod pool_leftover;
mod prune;
mod remove;
mod root;
mod saved;
mod seed;
mod ssh_keys;
mod systemd_units;
mod tag;
mod template;
#[allow(dead_code)] // its first user comes with `export`
mod tree_item;
#[allow(dead_code)] // its first user comes with `export`
mod tree_policy;
#[allow(dead_code)] // its first user comes with `export`
mod tree_read;
#[cfg(test)]
mod tree_tests;
#[allow(dead_code)] // its first user comes with `export`
mod tree_write;
mod verify;
mod walk;
mod workshop;

pub use archive_entry::ArchiveError;
pub use build::ensure_image;
pub use dirfd::FileError;
pub use driver::{Driver, Quota};
pub use first_boot::{
    FirstBoot, FirstBootError, Stale, first_boot, hosts_of, update_hosts, update_network,
    update_stale,
};
pub use image::{
    Image, ImageError, Leftover, Progress, images, leftovers, load_image, remove_image,
    remove_leftover,
};
pub use image_config::{HistoryStep, ImageConfig};
pub use init_kind::InitKind;
pub use layer::{Layer, load_layer};
pub use pool::{
    DEFAULT_POOL, Filesystem, Pool, PoolError, PoolUse, change_pool, create_pool, delete_pool,
    pools,
};
pub use prune::{Unused, image_users, prune, remove_layers, unused};
pub use root::{
    RootError, Usage, check_resize, create_root, delete_root, image_digest, resize_root, root_ops,
    space, usage,
};
pub use saved::{Saved, create_root_from, remove_saved, restore_root, save_root};
pub use tag::{Tag, find_image, tag_image, tags, untag};
pub use template::{Kind, OptionSpec, Template, TemplateError, Templates};
pub use verify::{check_sound, verify_image};
