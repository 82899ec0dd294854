//! Where on a disk the Linux is: each partition looked at, each filesystem mounted read-only, the
//! largest root taken, and the volumes that its fstab(5) puts below it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, Mode, OFlags, ResolveFlags};

use super::dirfd::{child_dir, cname, is_dir, is_file, read_limited, retry};
use super::disk_format::RawDisk;
use super::image::Progress;
use super::partition::{Bytes, Partition, partitions};
use super::volume::{Content, content};
use crate::kernel::{fault, filesystem};
use crate::model::Layout;

/// Most bytes of a text in a root.
const TEXT_MOST: u64 = 1 << 20;
/// Most volumes that are looked at.
const VOLUMES_MOST: usize = 64;
/// Where distributions put their root on a btrfs, if not at its top.
const SUBVOLUMES: [&str; 4] = ["@", "@rootfs", "root", "@/.snapshots/1/snapshot"];

/// The volumes of a disk, mounted.
#[derive(Debug)]
pub(super) struct Volumes {
    mounted: Vec<Volume>,
    /// What each of the others is, for people.
    rest: Vec<String>,
    disk: RawDisk,
}

#[derive(Debug)]
struct Volume {
    number: u32,
    kind: &'static str,
    uuid: String,
    label: String,
    mounted: filesystem::Foreign,
}

/// A Linux.
pub(super) struct Found {
    pub(super) root: OwnedFd,
    /// Folders of other volumes by where they belong, parents first.
    pub(super) others: Vec<(String, OwnedFd)>,
    /// Where it is, for people.
    pub(super) place: String,
    /// What is not taken.
    pub(super) notes: Vec<String>,
}

impl Volumes {
    /// Mounts what can be mounted of a disk.
    pub(super) fn open(
        layout: &Layout,
        file: File,
        shown: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, String> {
        let disk = RawDisk::open(layout, file, progress)?;
        let unreadable = |error: std::io::Error| format!("it cannot be read: {error}");
        let mut found = partitions(&disk).map_err(unreadable)?;
        if found.is_empty() {
            found.push(Partition {
                number: 0,
                offset: 0,
                length: disk.size(),
            });
        }
        let mut volumes = Self {
            mounted: Vec::new(),
            rest: Vec::new(),
            disk,
        };
        for place in found.into_iter().take(VOLUMES_MOST) {
            volumes.look(place, shown)?;
        }
        Ok(volumes)
    }

    fn look(&mut self, place: Partition, shown: &Path) -> Result<(), String> {
        let at = name_of(place.number);
        match content(&self.disk, place).map_err(|e| format!("{at} cannot be read: {e}"))? {
            Content::Unknown => self.rest.push(format!("{at}: nothing that is known")),
            Content::Other(what) => self.rest.push(format!("{at}: {what}")),
            Content::Linux { kind, uuid, label } => {
                fault::point().map_err(|e| e.to_string())?;
                let range = (place.offset, place.length);
                let file = self.disk.file.as_fd();
                match filesystem::Foreign::open(file, shown, kind, range) {
                    Ok(mounted) => self.mounted.push(Volume {
                        number: place.number,
                        kind,
                        uuid,
                        label,
                        mounted,
                    }),
                    Err(error) => self.rest.push(format!("{at}: {kind}, damaged: {error}")),
                }
            }
        }
        Ok(())
    }

    /// The disk's format, for people.
    pub(super) fn format(&self) -> &'static str {
        self.disk.format
    }

    /// Finds the root, and what belongs below it.
    pub(super) fn find(&self) -> Result<Found, String> {
        let mut roots: Vec<(u64, &Volume, OwnedFd)> = Vec::new();
        let mut rest = self.rest.clone();
        for volume in &self.mounted {
            let at = format!("{}: {}", name_of(volume.number), volume.kind);
            match root_of(volume) {
                Ok(Some(root)) => {
                    let space = filesystem::space(volume.mounted.mount.as_fd());
                    let used = space.map_or(0, |space| space.size.saturating_sub(space.free));
                    roots.push((used, volume, root));
                }
                Ok(None) => rest.push(format!("{at} without a Linux root")),
                Err(why) => rest.push(format!("{at}: {why}")),
            }
        }
        roots.sort_by_key(|root| root.0);
        let Some((_, volume, root)) = roots.pop() else {
            return Err(none(&rest));
        };
        look_inside(&root)?;
        let mut notes: Vec<String> = roots
            .iter()
            .map(|(_, other, _)| {
                let at = name_of(other.number);
                format!("{at} has a smaller Linux root, which is not taken")
            })
            .collect();
        notes.extend(self.rest.iter().map(|what| format!("{what}: not taken")));
        let others = self.below(&root, volume, &mut notes);
        Ok(Found {
            others,
            place: format!("{} ({})", name_of(volume.number), volume.kind),
            root,
            notes,
        })
    }

    /// The volumes that the root's fstab puts below it.
    fn below(
        &self,
        root: &OwnedFd,
        own: &Volume,
        notes: &mut Vec<String>,
    ) -> Vec<(String, OwnedFd)> {
        let mut found = BTreeMap::new();
        let table = text(root, "etc/fstab").unwrap_or_default();
        for line in table.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let &[source, target, kind, ref options @ ..] = fields.as_slice() else {
                continue;
            };
            let path = target.trim_matches('/');
            let top = path.split('/').next().unwrap_or_default();
            let odd = path.split('/').any(|part| matches!(part, "" | "." | ".."));
            let skipped = ["boot", "proc", "sys", "dev", "run", "tmp", "efi"];
            if odd || !target.starts_with('/') || skipped.contains(&top) || kind == "tmpfs" {
                continue;
            }
            let options = options.first().copied().unwrap_or_default();
            let volume = self.mounted.iter().find(|volume| volume.is_called(source));
            let folder = volume.and_then(|volume| volume.folder(options, own));
            match folder {
                Some(folder) => drop(found.insert(path.to_owned(), folder)),
                None => notes.push(format!(
                    "{target:.100} ({source:.100}) is not found on this disk: not taken"
                )),
            }
        }
        found.into_iter().collect()
    }
}

impl Volume {
    /// Whether fstab(5) means this one.
    fn is_called(&self, source: &str) -> bool {
        let plain = |text: &str| text.trim_matches('"').to_owned();
        if let Some(uuid) = source.strip_prefix("UUID=") {
            return plain(uuid).eq_ignore_ascii_case(&self.uuid);
        }
        if let Some(label) = source.strip_prefix("LABEL=") {
            return !self.label.is_empty() && plain(label) == self.label;
        }
        // One disk: its partitions count, whatever the machine called it.
        let device = source.strip_prefix("/dev/").filter(|device| {
            ["sda", "vda", "xvda", "hda", "nvme0n1p"]
                .iter()
                .any(|disk| device.starts_with(disk))
        });
        let number = device.map(|device| device.trim_start_matches(|c: char| !c.is_ascii_digit()));
        let number = number.map(|number| number.rsplit('p').next().unwrap_or(number));
        self.number > 0 && number == Some(self.number.to_string().as_str())
    }

    /// The folder of it that these options mount. None that would be the root once more.
    fn folder(&self, options: &str, root: &Self) -> Option<OwnedFd> {
        let mut options = options.split(',');
        let subvolume = options.find_map(|option| option.strip_prefix("subvol="));
        let top = self.top().ok()?;
        match subvolume {
            Some(path) if self.kind == "btrfs" => descend(top, path),
            _ => (!std::ptr::eq(self, root)).then_some(top),
        }
    }

    fn top(&self) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        fs::openat(&self.mounted.mount, c".", flags, Mode::empty())
    }
}

/// A folder below another, one plain component after another.
fn descend(top: OwnedFd, path: &str) -> Option<OwnedFd> {
    let mut folder = top;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        folder = child_dir(&folder, &cname(part).ok()?).ok()?;
    }
    Some(folder)
}

fn name_of(number: u32) -> String {
    match number {
        0 => "the whole disk".to_owned(),
        number => format!("partition {number}"),
    }
}

fn none(rest: &[String]) -> String {
    let found = match rest.is_empty() {
        true => "nothing".to_owned(),
        false => rest.join("; "),
    };
    let advice = match () {
        () if found.contains("LVM") => {
            "; volumes of LVM are not read: on a host with lvm2, attach the disk with `losetup -rP`, \
             mount the root read-only and use --from"
        }
        () if found.contains("LUKS") || found.contains("BitLocker") => {
            "; unlock it, mount it read-only and use --from"
        }
        () if found.contains("RAID") => "; assemble it, mount it read-only and use --from",
        () => "",
    };
    format!("there is no Linux on it. Found: {found}{advice}")
}

/// The root on a volume, if there is one.
fn root_of(volume: &Volume) -> Result<Option<OwnedFd>, String> {
    let unreadable = |error: rustix::io::Errno| format!("damaged: {}", std::io::Error::from(error));
    let is_root = |folder: &OwnedFd| text(folder, "etc/passwd").is_some();
    let top = volume.top().map_err(unreadable)?;
    // Where nothing can be read there is damage, not an empty disk.
    super::dirfd::names(&top).map_err(unreadable)?;
    if is_root(&top) {
        return Ok(Some(top));
    }
    if volume.kind != "btrfs" {
        return Ok(None);
    }
    for name in SUBVOLUMES {
        let top = volume.top().map_err(unreadable)?;
        if let Some(root) = descend(top, name).filter(is_root) {
            return Ok(Some(root));
        }
    }
    Ok(None)
}

/// Refuses a root that cannot be a guest's here.
pub(super) fn look_inside(root: &OwnedFd) -> Result<(), String> {
    let etc = resolve(root, "etc", OFlags::PATH);
    if !etc.and_then(fs::fstat).is_ok_and(|stat| is_dir(&stat)) {
        return Err("there is no Linux in it: it has no /etc".into());
    }
    let Some(machine) = machine_of(root) else {
        return Ok(());
    };
    let ours: &[u16] = match std::env::consts::ARCH {
        // What Linux calls EM_X86_64 and EM_386, EM_AARCH64 and EM_ARM.
        "x86_64" => &[62, 3],
        "aarch64" => &[183, 40],
        _ => return Ok(()),
    };
    match ours.contains(&machine) {
        true => Ok(()),
        false => Err(format!(
            "its programs are for another kind of processor (ELF machine {machine})"
        )),
    }
}

/// The processor that its shell is for, if that can be seen.
fn machine_of(root: &OwnedFd) -> Option<u16> {
    let file = open(root, "bin/sh")?;
    let mut header = [0; 20];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut header, 0).ok()?;
    header
        .starts_with(b"\x7fELF\x02\x01")
        .then(|| u16::from_le_bytes([header[18], header[19]]))
}

/// The text that a path leads to inside a root; none if that is no regular file.
pub(super) fn text(root: &OwnedFd, path: &str) -> Option<String> {
    let data = read_limited(open(root, path)?, TEXT_MOST).ok()?;
    Some(String::from_utf8_lossy(&data).into_owned())
}

fn open(root: &OwnedFd, path: &str) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = resolve(root, path, flags).ok()?;
    let stat = fs::fstat(&file).ok()?;
    is_file(&stat).then(|| File::from(file))
}

/// Opens what a path leads to, links followed as inside the root.
fn resolve(root: &OwnedFd, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let path = PathBuf::from(path);
    retry(|| fs::openat2(root, &path, flags | OFlags::CLOEXEC, Mode::empty(), inside))
}
