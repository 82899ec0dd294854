//! The life of one guest: its store, its verbs, its keeper.
//!
//! | file | what it holds |
//! |---|---|
//! | `manager` | what every verb needs: places, settings, facts of the host |
//! | `store` | a guest's folders, lock, records; what a reboot may forget and what not |
//! | `ids` | blocks of host ids |
//! | `life` | the table of verbs and states |
//! | `export`, `import`, `import_saved`, `adopt`, `hold` | a guest as one stream, and from one; held still meanwhile |
//! | `planned`, `rescue` | what a start would do; with another userspace for its root |
//! | `create`, `start`, `stop`, `delete`, `change`, `exec` | the verbs |
//! | `admission`, `capacity`, `peak` | whether the host can keep what guests are guaranteed; what is left of it; the most that was used |
//! | `portions` | what of the CPUs each gets while all want more than there is |
//! | `as_it_runs` | what the limits of a running guest are to be now |
//! | `tenant`, `tenant_change` | whose guests they are, and what those share; made, changed, removed |
//! | `trunks` | what of the network they share |
//! | `goal`, `goal_run`, `goal_look`, `goal_metric` | goals, and the controller that follows them |
//! | `undo` | what a guest writes in one run, dropped or kept |
//! | `reinstall` | a fresh root for a guest; what becomes true with another root |
//! | `trace` | why a packet of a guest passes, or not |
//! | `dedupe`, `alike` | equal files of guests; those that several have alike, in layers that they share |
//! | `alike_images` | what their images have alike |
//! | `rebase` | a guest's own layer over a newer image, and back |
//! | `trash` | deleted guests that can be brought back |
//! | `snapshot`, `snapshot_tree`, `snapshot_deadline`, `snapshot_diff`, `snapshot_mount`, `schedule` | a guest as it was; snapshots that are taken by the clock |
//! | `files` | single files of a guest, while it runs or not |
//! | `backup` | a guest into a backup repository and out of one |
//! | `keeper`, `console` | the small process beside a guest, and its viewers |
//! | `successor` | how the launching process becomes the keeper |
//! | `bisect` | which guest makes the others wait |
//! | `view`, `view_now`, `limited`, `why`, `load` | what `list` and `info` show; what `limits` does; what `why` says; what `top` shows |
//! | `inside`, `inside_held`, `inside_look`, `inside_start`, `inside_text`, `inside_load` | files of /proc and /sys that tell a guest of its own machine |
//! | `limit_events`, `limit_last`, `top_processes` | limits that were hit, what of each was told last, and who used most then |
//! | `networks` | which network a guest is on |
//! | `network_watch` | networks kept as they are to be while others change the host's |
//! | `told` | what a guest's files say before it starts |
//! | `lent` | the host's own interfaces that a guest has, and that come back |
//! | `nics`, `ways` | interfaces beyond the first, also while it runs; over which the default routes lead |
//! | `neighbours` | guests' names for each other while they run |
//! | `account`, `account_late`, `account_share`, `ledger`, `disk_time`, `cores`, `products` | what it has used, sent and received, over all its runs, as which tenant's; its room on disks over time; how many cores it could use, and for which licensed product |
//! | `events` | what happened |
//! | `disk_room` | what is sold of pools' filesystems, and whether a disk fits |
//! | `doctor`, `doctor_disk`, `doctor_account`, `pool_watch` | what this host can do; disks that are not what was sold; accounts that are damaged; pools nearly full |
//! | `leftover`, `leftover_network` | what commands that died have left, named and removed |
//!
//! The kernel is the truth: a guest runs when its first process lives, whatever a file says. A
//! command that died is finished or undone by the next one that takes the guest's lock, with the
//! same code that `stop` and `delete` use.

pub mod account;
mod account_late;
mod account_note;
mod account_share;
mod admission;
mod adopt;
mod adopt_fit;
mod alike;
mod alike_images;
pub mod allowance;
mod apart;
mod as_it_runs;
pub mod backup;
pub mod bisect;
mod calls;
mod calls_disk;
mod calls_lay;
mod calls_link;
mod calls_mount;
mod calls_numbers;
mod calls_pace;
mod calls_through;
pub mod capacity;
pub mod change;
pub mod closed;
mod comeback;
mod connect;
pub mod console;
pub mod cores;
pub mod cpupool;
pub mod create;
pub mod credit;
mod credit_news;
mod credit_watch;
pub mod dedupe;
pub mod delete;
pub mod disk_room;
mod disk_time;
pub mod doctor;
mod doctor_account;
mod doctor_disk;
mod error;
pub mod events;
pub mod exec;
pub mod export;
pub mod files;
mod full_clone;
pub mod goal;
mod goal_held;
mod goal_look;
mod goal_metric;
pub mod goal_run;
mod hold;
mod ids;
pub mod import;
mod import_saved;
mod inside;
mod inside_held;
mod inside_load;
mod inside_look;
mod inside_rest;
mod inside_start;
mod inside_text;
pub mod keeper;
mod ledger;
pub mod leftover;
mod leftover_network;
mod lent;
mod life;
mod limit_events;
pub mod limit_last;
pub mod limited;
mod limited_network;
pub mod load;
pub mod manager;
mod memory_kept;
mod neighbours;
pub mod network_watch;
pub mod networks;
pub mod nics;
mod peak;
mod pids_look;
mod planned;
pub mod pool_watch;
mod portions;
pub mod products;
mod program;
mod publish;
pub mod rebase;
pub mod reinstall;
pub mod rescue;
pub mod resize;
pub mod schedule;
mod seats;
mod served;
pub mod shared;
pub mod snapshot;
mod snapshot_deadline;
pub mod snapshot_diff;
pub mod snapshot_mount;
pub mod snapshot_tree;
pub mod split;
pub mod start;
pub mod stop;
mod store;
pub mod successor;
pub mod tenant;
pub mod tenant_change;
mod tenant_look;
mod told;
mod top_processes;
mod trace;
pub mod trash;
mod trunks;
pub mod undo;
pub mod view;
pub mod view_now;
mod ways;
pub mod why;
mod why_other;

pub use error::GuestError;
pub use manager::Manager;
pub use store::{Machine, RunState};
