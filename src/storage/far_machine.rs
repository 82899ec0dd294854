//! A machine elsewhere that becomes a guest while it runs: its files come as a stream of its own tar,
//! and go through the same reader as any archive of a stranger. A second pass, when its services have
//! stopped, brings what has changed since the first began, and says what is gone.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Read};
use std::os::fd::OwnedFd;

use super::archive_entry::{ArchiveError, EntryKind, Limits};
use super::archive_read::Reader;
use super::archive_stream::decompress_aside;
use super::build::{finish, now_ms};
use super::dirfd::{FileError, below, cname, open_dir};
use super::extract::extract_from;
use super::far::{Far, quoted};
use super::foreign::{Newcomer, Told};
use super::image::{Image, ImageError, Progress};
use super::import::of_tree;
use super::machine_find::look_inside;
use super::machine_fit::{Left, fit, patterns};
use super::merged;
use super::oci_blobs::{Meter, refused};
use super::pack_format::PackError;
use super::remove::remove_tree;
use super::seed::Seed;
use super::walk::walk;
use super::workshop::Workshop;
use crate::kernel::fault;
use crate::model::Layout;

/// What a whole machine may have.
const LIMITS: Limits = Limits {
    entries: 50_000_000,
    bytes: 16 << 40,
    header: 1 << 20,
    depth: 512,
    path: 4095,
    shift: 0,
};
/// Most bytes of the names that a second pass compares with.
const NAMES_MOST: usize = 512 << 20;
/// Filesystems on disks, whose files are a part of the machine.
const DISKS: [&str; 9] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs", "zfs",
];
/// What tar(1) ends with when files changed while it read them: so it is on a machine that runs.
const CHANGED: i32 = 1;

/// A machine that was asked what it is.
#[derive(Debug)]
pub struct FarMachine {
    far: Far,
    told: Told,
    system: String,
    /// The shell there: one that is root.
    shell: &'static str,
    /// Whether its tar knows extended attributes.
    xattrs: bool,
    /// Folders below the root that are filesystems of their own, and taken.
    volumes: Vec<String>,
    /// Bytes on it, about.
    bytes: u64,
    /// Its clock, in seconds, before anything was read.
    now: u64,
}

impl FarMachine {
    /// Asks a machine what it is.
    ///
    /// # Errors
    /// It cannot be reached, has no root or tar that could be used, or no Linux at that path.
    pub fn ask(far: Far) -> Result<Self, PackError> {
        Self::asked(far).map_err(PackError::Newcomer)
    }

    fn asked(far: Far) -> Result<Self, String> {
        let script = format!(
            "cd {} || exit 3\n\
             echo uid=$(id -u)\n[ $(id -u) = 0 ] || sudo -n true 2>/dev/null && echo sudo=yes\n\
             echo system=$(uname -s)\necho now=$(date +%s)\n\
             tar --version 2>/dev/null | grep -q GNU && echo tar=gnu\n\
             tar --help 2>/dev/null | grep -q -e --xattrs && echo xattrs=yes\n\
             [ -e etc/passwd ] && echo root=yes\n\
             sed -n 's/^PRETTY_NAME=/name=/p' etc/os-release\n\
             echo host=$(cat etc/hostname 2>/dev/null || hostname)\n\
             sed 's/^/mount=/' /proc/self/mounts\n\
             df -kP . | sed -n '2s/^/df=/p'",
            quoted(&far.path)
        );
        let said = far.ask("sh", &script)?;
        let value = |key: &str| {
            let mut lines = said.lines();
            lines.find_map(|line| Some(line.strip_prefix(key)?.strip_prefix('=')?.trim()))
        };
        let host = &far.host;
        let shell = match (value("uid"), value("sudo")) {
            (Some("0"), _) => "sh",
            (_, Some("yes")) => "sudo -n sh",
            (uid, _) => {
                let uid = uid.unwrap_or("nobody known");
                return Err(format!(
                    "on {host} this is user {uid:.20}, who cannot read all files: use root@, or a user \
                     whose sudo asks for no password"
                ));
            }
        };
        if value("system") != Some("Linux") {
            let is = value("system").unwrap_or("something else");
            return Err(format!("{host} is no Linux but {is:.40}"));
        }
        if value("root").is_none() {
            return Err(format!("there is no Linux in {} of {host}", far.path));
        }
        if value("tar").is_none() {
            return Err(format!(
                "{host} has no GNU tar: install it there, or fetch its files (rsync -aHXx) and use --from"
            ));
        }
        let now = value("now").and_then(|text| text.parse().ok());
        let now = now.ok_or_else(|| format!("{host} does not say what time it is"))?;
        let name: String = value("host")
            .unwrap_or_default()
            .chars()
            .take(200)
            .collect();
        let mut told = Told {
            name,
            ..Told::default()
        };
        let mounts = said.lines().filter_map(|line| line.strip_prefix("mount="));
        let volumes = volumes(mounts, &far.path, &mut told);
        for volume in &volumes {
            told.note(format!("/{volume} is another filesystem there, and taken"));
        }
        let used = value("df").and_then(|line| line.split_whitespace().nth(2)?.parse().ok());
        let bytes = used.map_or(0, |kilobytes: u64| kilobytes.saturating_mul(1024));
        told.note(format!(
            "about {} MiB lie on its root's filesystem; kernel, modules, swap files and what is in \
             /proc, /sys, /dev, /run and /tmp are left out",
            bytes >> 20
        ));
        if far.stop.is_none() {
            told.note(
                "one pass, while it runs: --stop 'COMMAND' stops its services and has a second, quick \
                 pass bring what changed meanwhile",
            );
        }
        let system = value("name").unwrap_or("a Linux").trim_matches('"');
        Ok(Self {
            system: system
                .chars()
                .filter(|c| !c.is_control())
                .take(80)
                .collect(),
            shell,
            xattrs: value("xattrs").is_some(),
            volumes,
            bytes,
            now,
            told,
            far,
        })
    }

    /// The command that packs its files; `since`: what has changed since then.
    fn pack(&self, since: Option<u64>) -> String {
        let mut line = format!(
            "cd {} && exec tar --create --file=- --format=posix --numeric-owner --one-file-system \
             --sparse --anchored --no-wildcards-match-slash",
            quoted(&self.far.path)
        );
        if self.xattrs {
            line += " --xattrs --xattrs-include='user.*' --xattrs-include=security.capability";
        }
        if let Some(since) = since {
            line += &format!(" --newer=@{since}");
        }
        for pattern in patterns() {
            line += &format!(" --exclude={}", quoted(&pattern));
        }
        line + &self.tops()
    }

    /// The folders that are taken, as words for a shell.
    fn tops(&self) -> String {
        let volumes = self.volumes.iter().map(|volume| format!("./{volume}"));
        let all = std::iter::once(".".to_owned()).chain(volumes);
        all.map(|top| format!(" {}", quoted(&top))).collect()
    }

    /// Takes a stream of its files into a folder.
    fn receive(
        &self,
        root: &OwnedFd,
        since: Option<u64>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<u64, String> {
        let mut said = self.far.run(self.shell, &self.pack(since))?;
        let output = said.output().ok_or("ssh says nothing")?;
        let pieces = decompress_aside(Box::new(output)).map_err(|e| e.to_string())?;
        let mut reader = Reader::new(
            Meter {
                input: pieces,
                done: 0,
                reported: 0,
                total: if since.is_none() { self.bytes } else { 0 },
                progress,
            },
            LIMITS,
        );
        let left = Left::new(Vec::new(), None);
        let taken = extract_from(root, &mut reader, |entry| {
            // A guest gets its own devices.
            entry.kind != EntryKind::Device && !left.out("", &entry.path.join(&b'/'))
        });
        match taken {
            Ok(taken) => {
                // What tar writes behind its end fills its last block.
                let _padding = std::io::copy(reader.input(), &mut std::io::sink());
                drop(reader);
                said.end(CHANGED)?;
                Ok(taken.entries)
            }
            // Why it broke off is known at the other end, if there.
            Err(error @ (ArchiveError::Truncated { .. } | ArchiveError::Read { .. })) => {
                drop(reader);
                match said.end(CHANGED) {
                    Err(why) => Err(why),
                    Ok(()) => Err(error.to_string()),
                }
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Removes what is not there any more.
    fn forget(&self, root: &OwnedFd) -> Result<u64, String> {
        let script = format!(
            "cd {} && exec find{} -xdev -print0",
            quoted(&self.far.path),
            self.tops()
        );
        let mut said = self.far.run(self.shell, &script)?;
        let mut names: HashSet<Vec<u8>> = HashSet::new();
        let mut held = 0;
        {
            let mut lines = BufReader::new(&mut said);
            loop {
                let mut name = Vec::new();
                let mut limited = (&mut lines).take(LIMITS.path as u64 + 2);
                let n = limited.read_until(0, &mut name);
                if n.map_err(|e| e.to_string())? == 0 {
                    break;
                }
                if name.pop() != Some(0) {
                    return Err("a name there has more than 4095 bytes".into());
                }
                held += name.len() + size_of::<Vec<u8>>();
                if held > NAMES_MOST {
                    return Err("it has too many files for a second pass".into());
                }
                names.insert(name.strip_prefix(b"./").unwrap_or(&name).to_vec());
            }
        }
        // A file that goes while find looks is no matter, and its code says so.
        said.end(CHANGED)?;
        let mut gone: Vec<Vec<u8>> = Vec::new();
        let walked = walk(root, |met| {
            let above = gone.last().is_some_and(|last| {
                let rest = met.path.strip_prefix(last.as_slice());
                rest.is_some_and(|rest| rest.starts_with(b"/"))
            });
            if !above && !names.contains(met.path) {
                gone.push(met.path.to_vec());
            }
            Ok::<(), rustix::io::Errno>(())
        });
        walked.map_err(|e| format!("what came cannot be looked through: {e}"))?;
        for path in &gone {
            let (parent, last) = merged::split(path);
            let shown = std::path::PathBuf::from(super::archive_entry::shown(path));
            let parent = below(root, parent).map_err(|e| format!("{}: {e}", shown.display()))?;
            let last = cname(last).map_err(|e| e.to_string())?;
            remove_tree(&parent, &last, &shown).map_err(|e| e.to_string())?;
        }
        Ok(gone.len() as u64)
    }

    fn passes(
        &self,
        root: &OwnedFd,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<String>, String> {
        let host = &self.far.host;
        progress(Progress::Phase(format!("copying the files of {host}")));
        self.receive(root, None, progress)?;
        let Some(stop) = &self.far.stop else {
            return Ok(Vec::new());
        };
        fault::point().map_err(|e| e.to_string())?;
        progress(Progress::Phase(format!("stopping services of {host}")));
        // What it says is for nobody: standard output belongs to the next pass.
        let said = self.far.ask(self.shell, &format!("{{ {stop}\n}} >&2"));
        said.map_err(|why| format!("its services did not stop, nothing else was done: {why}"))?;
        progress(Progress::Phase(format!(
            "copying what has changed on {host}"
        )));
        let again =
            |why: String| format!("its services are stopped, and the second pass failed: {why}");
        let gone = self.forget(root).map_err(again)?;
        // A second earlier: times of files are coarser than clocks.
        let since = self.now.saturating_sub(1);
        let entries = self.receive(root, Some(since), progress).map_err(again)?;
        Ok(vec![format!(
            "second pass: {entries} folders and files were looked at again, {gone} were gone; its \
             services are stopped there"
        )])
    }
}

impl Newcomer for FarMachine {
    fn told(&self) -> &Told {
        &self.told
    }

    fn what(&self) -> String {
        format!("{}, {} of {}", self.system, self.far.path, self.far.host)
    }

    fn image(
        self: Box<Self>,
        layout: &Layout,
        shown: &str,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Image, Vec<String>), ImageError> {
        let failed = |why: String| refused(shown, why);
        let workshop = Workshop::open(&layout.images(), "far")?;
        let root = workshop.root();
        let pause = || fault::point().map_err(|e| FileError::new("fill", &root, e.errno));
        pause()?;
        let top = open_dir(&root)?;
        let mut notes = self.passes(&top, progress).map_err(failed)?;
        pause()?;
        look_inside(&top).map_err(failed)?;
        let seed = Seed::open(&root)?;
        notes.extend(fit(&seed, &root)?);
        pause()?;
        progress(Progress::Phase("hashing the image".into()));
        let mut image = of_tree(&seed, format!("machine {}", self.told.name));
        image.created_ms = now_ms();
        Ok((finish(layout, workshop, &seed, image)?, notes))
    }
}

/// Folders below the root that are filesystems on disks there, without the slash before them. What is
/// mounted there besides is told.
fn volumes<'a>(mounts: impl Iterator<Item = &'a str>, root: &str, told: &mut Told) -> Vec<String> {
    let top = root.trim_end_matches('/');
    let mut found = Vec::new();
    for line in mounts.take(10_000) {
        let mut words = line.split(' ');
        let (Some(_), Some(place), Some(kind)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let Some(path) = place.strip_prefix(top).and_then(|p| p.strip_prefix('/')) else {
            continue;
        };
        let first = path.split('/').next().unwrap_or_default();
        if path.is_empty() || ["proc", "sys", "dev", "run", "tmp", "boot", "efi"].contains(&first) {
            continue;
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/@+".contains(c);
        let sound = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if DISKS.contains(&kind) && sound && path.chars().all(plain) {
            found.push(path.to_owned());
        } else if found.len() < 100 {
            told.note(format!(
                "/{path:.100} ({kind:.20}) is mounted there: not taken"
            ));
        }
    }
    found.sort();
    found.dedup();
    found.truncate(200);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filesystems_on_disks_are_taken_and_others_told() {
        let mounts = [
            "/dev/sda1 / ext4 rw 0 0",
            "proc /proc proc rw 0 0",
            "/dev/sda2 /home xfs rw 0 0",
            "/dev/sda2 /home xfs rw 0 0",
            "nas:/x /srv/nas nfs4 rw 0 0",
            "/dev/sdb1 /srv/a\\040b ext4 rw 0 0",
            "/dev/sdc1 /srv/../../x ext4 rw 0 0",
            "/dev/sda3 /boot ext4 rw 0 0",
            "tmpfs /run tmpfs rw 0 0",
            "odd",
        ];
        let mut told = Told::default();
        assert_eq!(volumes(mounts.into_iter(), "/", &mut told), ["home"]);
        assert_eq!(told.notes.len(), 3, "{:?}", told.notes);
        let below = [
            "/dev/sdb1 /mnt/old ext4 rw 0 0",
            "/dev/sdb2 /mnt/old/var ext4 rw 0 0",
        ];
        let mut told = Told::default();
        assert_eq!(volumes(below.into_iter(), "/mnt/old", &mut told), ["var"]);
    }
}
