//! Templates, images and roots: everything about what a guest's files are made of. Nothing is
//! mounted here; [`root_ops`] hands out a [`crate::model::RootOp`] and `MountOp`s for the launch.
//!
//! | file | what it holds |
//! |---|---|
//! | `template` | recipes: embedded, or from a folder of the host's |
//! | `image` | built images by digest: record, list, removal, leftovers |
//! | `build`, `workshop` | making an image once, from recipe to rename |
//! | `layer`, `oci_*`, `image_config` | images of layers that several share, taken in from OCI |
//! | `stream_*`, `http_patience` | images of simplestreams servers; patience with any server |
//! | `tag`, `prune`, `verify` | names of images, removing unused ones, finding damaged ones |
//! | `image_update`, `base_change` | an image made again; what of it a guest would not see |
//! | `digest` | the digest of a tree's content |
//! | `busybox`, `host`, `debian`, `archive` | how each kind of template is built |
//! | `accounts`, `systemd_units` | parts of `host` and `debian` |
//! | `archive_*`, `extract*` | parts of `archive`: entry, stream, PAX, sparse; the disk |
//! | `pool`, `pool_change`, `pool_leftover`, `place` | pools, and where a guest's own layer lies in them |
//! | `driver`, `driver_*` | what such a layer can be: a folder, a subvolume, a filesystem in a file |
//! | `spare_room`, `spare_files` | room for the host in a layer that is full |
//! | `chain`, `chain_fold`, `saved` | what was kept of a root: shared layers or copies; restoring, cloning |
//! | `root` | a guest's own layer: make, use, delete |
//! | `dedupe`, `base_equal`, `common_look`, `common_layer` | equal files of guests that share their blocks, go back to their base, or into a layer that guests share |
//! | `image_alike` | equal files of images, kept once |
//! | `rescue` | what a guest in rescue has for its root |
//! | `renew`, `reinstall` | another root in the place of a guest's; a fresh one with what is kept |
//! | `first_boot`, `network_files`, `nesting_files`, `ssh_keys` | what the host writes into a guest before it runs |
//! | `merged`, `merged_folder` | a guest's tree as the guest sees it, read and written by descriptor |
//! | `guest_files` | single files of a stopped guest |
//! | `tree_item`, `tree_read`, `tree_write`, `tree_policy` | a tree as items with everything they have: read, and made again elsewhere |
//! | `tree_diff`, `tree_same`, `tree_name`, `saved_diff` | what is different between two trees of layers |
//! | `pack`, `pack_*` | a guest's archive: written and read as one stream |
//! | `foreign`, `foreign_*`, `plain_yaml`, `take_over` | archives of containers of other programs |
//! | `machine`, `machine_*` | a machine's files: its Linux found, copied, made a guest's |
//! | `far`, `far_list`, `far_machine` | a machine elsewhere, over ssh |
//! | `disk_format`, `partition`, `volume` | a virtual machine's disk: its format, its partitions, what is in them |
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
mod archive_stream;
pub mod backup;
mod base_change;
mod base_equal;
mod build;
mod busybox;
mod chain;
mod chain_fold;
mod common_layer;
mod common_look;
mod counted;
mod debian;
mod dedupe;
mod digest;
mod dirfd;
mod disk_format;
mod driver;
mod driver_btrfs;
mod driver_folder;
mod driver_image;
mod extract;
mod extract_file;
mod extract_layer;
#[cfg(test)]
mod extract_tests;
mod far;
mod far_list;
mod far_machine;
mod first_boot;
mod foreign;
mod foreign_find;
mod foreign_folder;
mod foreign_incus;
mod foreign_lxc;
mod foreign_openvz;
mod foreign_ploop;
mod foreign_pve;
mod foreign_words;
mod full_copy;
#[cfg(fuzzing)]
pub mod fuzzed;
mod gone;
mod guest_files;
mod host;
mod http_patience;
mod image;
mod image_alike;
mod image_config;
mod image_update;
mod image_user;
mod import;
mod init_kind;
mod layer;
mod machine;
mod machine_find;
mod machine_fit;
mod mend;
mod merged;
mod merged_copy;
mod merged_folder;
mod nesting_files;
mod network_files;
mod number_http;
mod oci_archive;
mod oci_blobs;
mod oci_config;
mod oci_http;
mod oci_layout;
mod oci_manifest;
mod oci_registry;
mod oci_take;
mod oci_token;
mod pack;
mod pack_format;
mod pack_header;
mod pack_read;
mod pack_saved;
mod pack_sum;
#[cfg(test)]
mod pack_tests;
mod pack_write;
mod partition;
mod place;
mod plain_yaml;
mod pool;
mod pool_change;
mod pool_leftover;
mod prune;
mod publish;
mod pull;
mod reinstall;
mod remove;
mod renew;
mod rescue;
mod root;
mod saved;
mod saved_diff;
mod scrub;
mod seed;
mod sold;
mod spare_files;
mod spare_room;
mod ssh_keys;
mod stream_index;
mod stream_pull;
mod stream_server;
mod stream_sign;
mod systemd_units;
mod tag;
mod take_over;
mod template;
mod tree_copy;
mod tree_diff;
mod tree_item;
mod tree_name;
mod tree_policy;
mod tree_read;
mod tree_same;
#[cfg(test)]
mod tree_tests;
mod tree_write;
mod usage;
mod verify;
mod volume;
mod walk;
mod workshop;

pub use archive_entry::ArchiveError;
pub use base_change::{Hidden, Own, hidden_changes, image_changes};
pub use base_equal::{Returned, return_to_base};
pub use build::{built_image, ensure_image};
pub use common_layer::{CommonLayer, Joined};
pub use common_look::{Alike, alike};
pub use counted::{counter, is_counted};
pub use dedupe::{Deduped, dedupe};
pub use dirfd::FileError;
pub use disk_format::is_disk;
pub use driver::{Driver, Quota};
pub use far::Far;
pub use far_machine::FarMachine;
pub use first_boot::{
    BootNic, FirstBoot, FirstBootError, Stale, first_boot, forget_nics, hosts_of, update_hosts,
    update_network, update_stale,
};
pub use foreign::{Newcomer, Opened, Told, open_archive, open_archive_file};
pub use foreign_folder::config_file;
pub use foreign_words::Card;
pub use full_copy::{Model, create_root_as};
pub use gone::Gone;
pub use guest_files::guest_file;
pub use image::{
    Image, ImageError, Leftover, Progress, images, leftovers, load_image, remove_image,
    remove_leftover,
};
pub use image_alike::{ImageTree, Linked, Twin, image_trees, image_twins, link_twins};
pub use image_config::{HistoryStep, ImageConfig};
pub use image_update::{Source, Updated, update_image, update_source};
pub use image_user::{RunAs, RunAsError, run_as};
pub use import::{Import, import_image};
pub use init_kind::InitKind;
pub use layer::{Layer, load_layer};
pub use machine::Machine;
pub use nesting_files::tell_containers;
pub use number_http::number_at;
pub use oci_http::Trust;
pub use pack::{
    ReceivedImage, check_image, manifest, pack_own, pack_sealed, receive_image, receive_own,
    receive_sealed,
};
pub use pack_format::{Manifest, PackError, PackedGuest, PackedSnapshot};
pub use pack_read::Unpacker;
pub use pack_saved::{SavedPlan, SavedTrees, plan_saved};
pub use pack_write::{Compression, Packed, Packer};
pub use place::space_in_use;
pub use pool::{DEFAULT_POOL, Filesystem, Pool, PoolError, PoolUse, pools};
pub use pool_change::{change_pool, check_change, create_pool, delete_pool};
pub use pool_leftover::unused_layers;
pub use prune::{Unused, image_users, prune, remove_layers, unused};
pub use publish::publish_guest;
pub use pull::{Fetch, look_at_image, pull_image};
pub use reinstall::{Fresh, ReinstallError, check_keep, reinstall_root};
pub(crate) use remove::remove_tree;
pub use renew::{forget_root_note, root_note};
pub use rescue::{has_rescue, make_rescue, remove_rescue, rescue_ops};
pub use root::{
    Leads, RootError, check_resize, create_root, delete_root, guests_in, image_digest, leads,
    resize_root, root_ops,
};
pub use saved::{
    Saved, create_root_from, fold_layers, is_as_kept, is_kept_by_file, remove_saved, restore_root,
    save_root, trees_of_saved,
};
pub use saved_diff::{TreeOf, TwoTrees};
pub use scrub::scrub_root;
pub use sold::{disk_differs, disk_kept_to};
pub use spare_room::{SpareRoom, spare_room};
pub use stream_pull::{ServerFetch, look_at_server_image, pull_server_image};
pub use stream_server::ServerImage;
pub use tag::{Tag, find_image, source_of_name, tag_image, tags, untag};
pub use take_over::{machine_id_of, take_over};
pub use template::{Kind, OptionSpec, Template, TemplateError, Templates};
pub use tree_diff::{ChangeKind, TreeChange, TreeDiff};
pub use usage::{Usage, usage};
pub use verify::{check_sound, is_whole, verify_image};
