//! `mounts` of an OCI configuration → entries of a plan, with the host's trees they need. What the
//! steps around them are is next door in `mod`.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Mount};

use super::step::{MountEntry, OutsideStep, Propagation, Show};
use super::{Trees, Wish, refuse};
use crate::model::{CgroupMode, MountFlags};
use crate::plan::PlanError;
use crate::plan::step::IdMapLine;

/// Options of a mount, sorted by what they are for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    set: MountFlags,
    clear: MountFlags,
    deep_set: MountFlags,
    deep_clear: MountFlags,
    propagation: Option<Propagation>,
    bind: Option<bool>,
    copy_up: bool,
    idmap: Option<bool>,
    /// Whether it is about a mount that is there already.
    again: bool,
    settings: Vec<(String, String)>,
}

/// Flags of a file system itself, which fsconfig(2) takes as such.
const FLAGS: [&str; 4] = ["sync", "dirsync", "mand", "lazytime"];
/// The usual state, words for tools other than the kernel, and what fsconfig(2) has no word for.
const IGNORED: [&str; 11] = [
    "defaults",
    "async",
    "nomand",
    "nolazytime",
    "loud",
    "silent",
    "iversion",
    "noiversion",
    "acl",
    "noacl",
    "auto",
];

impl Options {
    fn of(mount: &Mount) -> Self {
        let mut all = Self::default();
        for option in mount.options().iter().flatten() {
            all.take(option);
        }
        all
    }

    fn take(&mut self, option: &str) {
        if let Some(change) = MountFlags::change(option) {
            self.set = self.set.without(change.clear).with(change.set);
            self.clear = self.clear.without(change.set).with(change.clear);
            return;
        }
        let deep = option.strip_prefix('r').and_then(MountFlags::change);
        if let Some(change) = deep {
            self.deep_set = self.deep_set.without(change.clear).with(change.set);
            self.deep_clear = self.deep_clear.without(change.set).with(change.clear);
            return;
        }
        if let Some(propagation) = Propagation::parse(option) {
            self.propagation = Some(propagation);
            return;
        }
        match option {
            "bind" => self.bind = Some(false),
            "rbind" => self.bind = Some(true),
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.idmap = Some(false),
            "ridmap" => self.idmap = Some(true),
            "remount" => self.again = true,
            word if FLAGS.contains(&word) => self.settings.push((word.to_owned(), String::new())),
            word if IGNORED.contains(&word) || word.is_empty() => {}
            other => {
                let (key, value) = other.split_once('=').unwrap_or((other, ""));
                self.settings.push((key.to_owned(), value.to_owned()));
            }
        }
    }
}

/// Every option that has a meaning of its own here, for `features`.
pub fn known_options() -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for option in MountFlags::options() {
        all.push(option.to_owned());
        all.push(format!("r{option}"));
    }
    for kind in ["private", "shared", "slave", "unbindable"] {
        all.push(kind.to_owned());
        all.push(format!("r{kind}"));
    }
    let words = ["bind", "rbind", "tmpcopyup", "idmap", "ridmap", "remount"];
    all.extend(
        words
            .into_iter()
            .chain(FLAGS)
            .chain(IGNORED)
            .map(str::to_owned),
    );
    all.sort();
    all.dedup();
    all
}

/// Whether a file system is to be mounted whose options or source may be paths of the host's, as
/// overlay's layers are.
pub(super) fn names_host_paths(spec: &oci_spec::runtime::Spec) -> bool {
    let none = [
        "none", "bind", "proc", "sysfs", "tmpfs", "devpts", "mqueue", "ramfs", "cgroup", "cgroup2",
    ];
    let kinds = spec.mounts().iter().flatten().map(|m| m.typ().as_deref());
    kinds.flatten().any(|kind| !none.contains(&kind))
}

/// All mounts, in order.
pub(super) fn entries(wish: &Wish<'_>, trees: &mut Trees) -> Result<Vec<MountEntry>, PlanError> {
    let label = wish.linux().and_then(|l| l.mount_label().as_deref());
    if let Some(label) = label.filter(|label| !label.is_empty() && !wish.facts.selinux) {
        let why = "selinux is disabled or not supported here: leave it out, or enable it";
        return Err(refuse(format!("linux.mountLabel {label:?}"), why));
    }
    let mut all = Vec::new();
    for mount in wish.spec.mounts().iter().flatten() {
        let entry = entry(wish, mount, trees, &mut all)?;
        all.push(entry);
    }
    Ok(all)
}

fn entry(
    wish: &Wish<'_>,
    mount: &Mount,
    trees: &mut Trees,
    before: &mut [MountEntry],
) -> Result<MountEntry, PlanError> {
    let target = clean(mount.destination());
    let wrong = |why: &str| Err(refuse(format!("the mount on {}", target.display()), why));
    if mount.destination().as_os_str().is_empty() {
        return Err(refuse("mounts", "an entry has no destination"));
    }
    if target == Path::new("/") {
        return wrong("nothing would be seen of it: the root is what root.path says");
    }
    let mut options = Options::of(mount);
    let kind = mount.typ().as_deref().unwrap_or("none");
    if kind == "bind" {
        options.bind.get_or_insert(false);
    }
    if kind == "none" && options.bind.is_none() && mount.source().is_some() {
        options.bind = Some(true);
    }
    // sysfs belongs to a network namespace, and that to a user namespace. A new one can own none that
    // is there already, the host's or joined: of these only the host's sysfs can be shown. Where both
    // are joined they belong together, or the kernel refuses.
    let network_there = match wish.has(LinuxNamespaceType::Network) {
        true => !wish.new_network() && wish.is_new(LinuxNamespaceType::User),
        false => wish.user_namespace(),
    };
    let foreign_sysfs = kind == "sysfs" && network_there;
    let shifts = [mount.uid_mappings(), mount.gid_mappings()];
    let shifts = shifts.into_iter().flatten().any(|maps| !maps.is_empty());
    if (options.bind.is_none() || options.again) && (shifts || options.idmap.is_some()) {
        return wrong("ids are shifted for bind mounts only, where they are made");
    }
    let show = if options.again {
        again(&target, &mut options, before)?
    } else if let Some(recursive) = options.bind {
        no_settings(&options, &target)?;
        tree(wish, mount, &mut options, recursive, trees)?
    } else if foreign_sysfs {
        options.settings.clear();
        let number = trees.push(OutsideStep::Clone {
            source: PathBuf::from("/sys"),
            recursive: true,
        });
        Show::Tree { number }
    } else if kind == "cgroup" || kind == "cgroup2" {
        cgroup(wish, kind, &mut options, trees)
    } else {
        file_system(wish, mount, kind, &mut options)
    };
    Ok(MountEntry {
        target,
        show,
        set: options.set,
        clear: options.clear,
        deep_set: options.deep_set,
        deep_clear: options.deep_clear,
        propagation: options.propagation,
    })
}

/// A mount that is there already, with other attributes. What it is of is settled where it is made:
/// one of the host's would be changed for the host as well.
fn again(
    target: &Path,
    options: &mut Options,
    before: &mut [MountEntry],
) -> Result<Show, PlanError> {
    let wrong = |why: &str| Err(refuse(format!("the mount on {}", target.display()), why));
    if options.copy_up {
        return wrong("tmpcopyup is for one that is made, and remount changes one that is there");
    }
    let made = |m: &&mut MountEntry| m.target == target && !matches!(m.show, Show::Before);
    let first = before.iter_mut().rev().find(made);
    let new = std::mem::take(&mut options.settings);
    match first.map(|first| &mut first.show) {
        None => wrong("remount changes one that is there, and none is"),
        Some(Show::FileSystem { settings, .. }) => {
            let writable = options.clear.has(MountFlags::READ_ONLY);
            settings.retain(|(key, _)| {
                !(writable && key == "ro") && new.iter().all(|(other, _)| other != key)
            });
            settings.extend(new);
            Ok(Show::Before)
        }
        Some(_) if new.is_empty() => Ok(Show::Before),
        Some(_) => wrong("remount with options of a file system is for one that is made here"),
    }
}

/// The kernel would pass them over, where a client may count on them.
fn no_settings(options: &Options, target: &Path) -> Result<(), PlanError> {
    let mut settings = options.settings.iter().map(|(key, _)| key);
    match settings.find(|key| !FLAGS.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(refuse(
            format!("the mount on {}, option {key}", target.display()),
            "bind mounts cannot have any filesystem-specific options applied",
        )),
    }
}

fn tree(
    wish: &Wish<'_>,
    mount: &Mount,
    options: &mut Options,
    recursive: bool,
    trees: &mut Trees,
) -> Result<Show, PlanError> {
    let source = mount.source().clone().unwrap_or_default();
    if source.as_os_str().is_empty() {
        let what = format!("the mount on {}", mount.destination().display());
        return Err(refuse(what, "a bind mount needs a source"));
    }
    let source = if source.is_absolute() {
        source
    } else {
        wish.bundle.join(source)
    };
    // A relative tree of the host's has the host's propagation; like a mount made inside, it hears
    // of the host's mounts only if that is asked for.
    let number = trees.push(OutsideStep::Clone { source, recursive });
    if let Some(step) = shift(wish, mount, options)? {
        trees.follow(step);
    }
    Ok(Show::Tree { number })
}

/// The ids of a mount: its own maps, or for `idmap` those of the container.
fn shift(
    wish: &Wish<'_>,
    mount: &Mount,
    options: &Options,
) -> Result<Option<OutsideStep>, PlanError> {
    let own = (
        mount.uid_mappings().as_deref(),
        mount.gid_mappings().as_deref(),
    );
    let linux = wish.linux();
    let theirs = (
        linux.and_then(|l| l.uid_mappings().as_deref()),
        linux.and_then(|l| l.gid_mappings().as_deref()),
    );
    let (users, groups) = match (own, options.idmap) {
        ((Some(users), Some(groups)), _) if !users.is_empty() => (users, groups),
        ((None, None), None) => return Ok(None),
        ((Some([]), Some([])), None) => return Ok(None),
        ((None, None), Some(_)) => match theirs {
            (Some(users), Some(groups)) => (users, groups),
            // Of one that is joined the maps are the kernel's to know.
            _ if wish.user_namespace() && !wish.is_new(LinuxNamespaceType::User) => {
                (&[][..], &[][..])
            }
            _ => {
                let what = format!("the mount on {}", mount.destination().display());
                return Err(refuse(
                    what,
                    "idmap needs a user namespace or maps of its own",
                ));
            }
        },
        _ => {
            let what = format!("the mount on {}", mount.destination().display());
            return Err(refuse(what, "it needs both uidMappings and gidMappings"));
        }
    };
    Ok(Some(OutsideStep::ShiftIds {
        users: lines(users),
        groups: lines(groups),
        recursive: options.idmap == Some(true),
    }))
}

pub(super) fn lines(maps: &[LinuxIdMapping]) -> Vec<IdMapLine> {
    maps.iter()
        .map(|m| IdMapLine {
            inside: m.container_id(),
            outside: m.host_id(),
            count: m.size(),
        })
        .collect()
}

fn cgroup(wish: &Wish<'_>, kind: &str, options: &mut Options, trees: &mut Trees) -> Show {
    let settings = std::mem::take(&mut options.settings);
    // Version 2 in the host's cgroup namespace is the whole of the host's tree, or nothing: paths
    // in /proc/PID/cgroup mean that one.
    if wish.facts.cgroup_mode == CgroupMode::V2 && !wish.new_cgroup_namespace() {
        let number = trees.push(OutsideStep::Clone {
            source: PathBuf::from("/sys/fs/cgroup"),
            recursive: true,
        });
        return Show::Tree { number };
    }
    trees.cgroups += 1;
    let owner = |(key, _): &(String, String)| matches!(key.as_str(), "mode" | "uid" | "gid");
    Show::Cgroup {
        settings: settings.into_iter().filter(owner).collect(),
        // Of a hybrid host's hierarchies that one alone.
        only_v2: kind == "cgroup2",
    }
}

fn file_system(wish: &Wish<'_>, mount: &Mount, kind: &str, options: &mut Options) -> Show {
    let mut settings = std::mem::take(&mut options.settings);
    let virtual_kind = matches!(kind, "proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue");
    if kind == "proc" || kind == "sysfs" || kind == "mqueue" {
        settings.retain(|(key, _)| {
            kind == "proc" && matches!(key.as_str(), "hidepid" | "subset" | "gid")
        });
    }
    // What programs are told the mount comes from; for these kinds it is but a name.
    let source = mount.source().as_ref().map(|s| s.display().to_string());
    let named = source.filter(|s| !s.is_empty());
    let named = named.or_else(|| virtual_kind.then(|| kind.to_owned()));
    if let Some(name) = named {
        settings.insert(0, ("source".into(), name));
    }
    if !virtual_kind && options.set.has(MountFlags::READ_ONLY) {
        settings.push(("ro".into(), String::new()));
    }
    let labelled = matches!(kind, "tmpfs" | "devpts" | "mqueue" | "overlay" | "ramfs");
    if let Some(label) = wish.linux().and_then(|l| l.mount_label().as_deref())
        && wish.facts.selinux
        && labelled
        && !label.is_empty()
    {
        settings.push(("context".into(), label.to_owned()));
    }
    Show::FileSystem {
        kind: kind.to_owned(),
        settings,
        copy_up: options.copy_up && kind == "tmpfs",
    }
}

/// The path without `.` and `..`, below `/`: so every runtime reads a destination.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}

/// Whether `path` is the root.
pub(super) fn is_root(path: &Path) -> bool {
    !path.as_os_str().is_empty() && clean(path) == Path::new("/")
}

/// Whether `path` is where device nodes go.
pub(super) fn is_dev(path: &Path) -> bool {
    path.components().eq(Path::new("/dev").components())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Options {
        let mut all = Options::default();
        list.iter().for_each(|option| all.take(option));
        all
    }

    #[test]
    fn the_last_word_counts() {
        let both = options(&["ro", "rw", "nosuid", "noexec", "exec"]);
        assert_eq!(both.set, MountFlags::NOSUID);
        assert_eq!(both.clear, MountFlags::READ_ONLY.with(MountFlags::NOEXEC));
    }

    #[test]
    fn recursive_words_are_told_from_bind_and_propagation() {
        let all = options(&[
            "rbind", "rro", "rprivate", "relatime", "ridmap", "rnoexec", "rexec",
        ]);
        assert_eq!(all.bind, Some(true));
        assert_eq!(all.deep_set, MountFlags::READ_ONLY);
        assert_eq!(all.deep_clear, MountFlags::NOEXEC);
        assert!(all.set.is_empty() && all.settings.is_empty());
        let propagation = all.propagation.unwrap();
        assert!(propagation.recursive && propagation.kind == 1 << 18);
        assert_eq!(all.idmap, Some(true));
    }

    #[test]
    fn a_destination_stays_below_the_root() {
        let cleaned = |path: &str| clean(Path::new(path)).display().to_string();
        assert_eq!(cleaned("/a/../../b/./c/"), "/b/c");
        assert_eq!(cleaned("relative"), "/relative");
        assert_eq!(cleaned("../.."), "/");
    }

    #[test]
    fn what_is_no_word_of_ours_goes_to_the_file_system() {
        let all = options(&["size=65536k", "mode=755", "newinstance", "sync", "defaults"]);
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let expected = [
            pair("size", "65536k"),
            pair("mode", "755"),
            pair("newinstance", ""),
            pair("sync", ""),
        ];
        assert_eq!(all.settings, expected);
        assert!(known_options().iter().any(|o| o == "rnosymfollow"));
    }
}
