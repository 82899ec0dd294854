//! A machine elsewhere that becomes a guest while it runs: its files come as a stream of its own tar,
//! and go through the same reader as any archive of a stranger. A second pass, when its services have
//! stopped, brings what has changed since the first began, and says what is gone.

use std::io::BufReader;
use std::os::fd::OwnedFd;

use super::archive_entry::{ArchiveError, EntryKind, Limits};
use super::archive_read::Reader;
use super::build::{finish, now_ms};
use super::dirfd::{FileError, below, cname, open_dir};
use super::extract::extract_from;
use super::far::{Far, Said, quoted};
use super::far_list::{Listing, has_btrfs, is_same, nested, volumes, word};
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
    entries: 20_000_000,
    bytes: 16 << 40,
    header: 1 << 20,
    depth: 512,
    path: 4095,
    shift: 0,
    any_owner: false,
};
/// Most bytes of the names that a second pass compares with.
const NAMES_MOST: usize = 512 << 20;
/// Bytes that are read of its files at once.
const PIECE: usize = 512 << 10;
/// What tar(1) ends with when files changed while it read them: so it is on a machine that runs.
const CHANGED: i32 = 1;

/// Which of its files are to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    /// Those that have changed since this second.
    Since(u64),
    /// Those whose names it is given.
    Named,
}

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
             tar --version 2>/dev/null | grep -q GNU && find --version 2>/dev/null | grep -q GNU && echo tar=gnu\n\
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
                "{host} has no GNU tar or find: install them there, or fetch its files (rsync -aHXx) and use --from"
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
        let mounts = || said.lines().filter_map(|line| line.strip_prefix("mount="));
        let volumes = volumes(mounts(), &far.path, &mut told);
        if has_btrfs(mounts()) {
            let script = subvolumes(&far.path, &volumes);
            nested(&far.ask(shell, &script)?, mounts(), &far.path, &mut told);
        }
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

    /// The command that packs its files.
    fn pack(&self, wanted: Wanted) -> String {
        let mut line = format!(
            "cd {} && exec tar --create --file=- --format=posix --numeric-owner --one-file-system \
             --sparse --anchored --no-wildcards-match-slash",
            quoted(&self.far.path)
        );
        if self.xattrs {
            line += " --xattrs --xattrs-include='user.*' --xattrs-include=security.capability";
        }
        match wanted {
            Wanted::All => {}
            Wanted::Since(time) => line += &format!(" --newer=@{time}"),
            Wanted::Named => {
                return line + " --no-recursion --null --files-from=-";
            }
        }
        for pattern in patterns() {
            line += &format!(" --exclude={}", quoted(&pattern));
        }
        line + &self.tops()
    }

    /// The folders that are taken, as words for a shell.
    fn tops(&self) -> String {
        tops(&self.volumes)
    }

    /// Takes its files into a folder.
    fn receive(
        &self,
        root: &OwnedFd,
        wanted: Wanted,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<u64, String> {
        let total = match wanted {
            Wanted::All => self.bytes,
            _ => 0,
        };
        let said = self.far.run(self.shell, &self.pack(wanted))?;
        self.take(root, said, total, progress)
    }

    /// Takes a stream of its files into a folder.
    fn take(
        &self,
        root: &OwnedFd,
        mut said: Said,
        total: u64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<u64, String> {
        // It was told to compress nothing: what comes compressed is no answer of its tar's.
        let mut reader = Reader::new(
            Meter {
                input: BufReader::with_capacity(PIECE, &mut said),
                done: 0,
                reported: 0,
                total,
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

    /// What is there now.
    fn list(&self) -> Result<Listing, String> {
        let script = format!(
            "cd {} && exec find{} -xdev \\( -type f -o -type d -o -type l -o -type p \\) \
             -printf '%p\\0%y %s %T@\\0'",
            quoted(&self.far.path),
            self.tops()
        );
        let mut said = self.far.run(self.shell, &script)?;
        let mut listing = Listing::new();
        let mut held = 0;
        {
            let mut lines = BufReader::new(&mut said);
            while let Some(name) = word(&mut lines)? {
                let what = word(&mut lines)?.ok_or("its list of files is cut off")?;
                held += name.len() + what.len() + 2 * size_of::<Vec<u8>>();
                if held > NAMES_MOST {
                    return Err("it has too many files for a second pass".into());
                }
                let name = name.strip_prefix(b"./").unwrap_or(&name).to_vec();
                listing.insert(name, what);
            }
        }
        // A file that goes while find looks is no matter, and its code says so.
        said.end(CHANGED)?;
        Ok(listing)
    }

    /// Removes what is not there any more.
    fn forget(root: &OwnedFd, listing: &Listing) -> Result<usize, String> {
        let mut gone: Vec<Vec<u8>> = Vec::new();
        let walked = walk(root, |met| {
            let above = gone.last().is_some_and(|last| {
                let rest = met.path.strip_prefix(last.as_slice());
                rest.is_some_and(|rest| rest.starts_with(b"/"))
            });
            if !above && !listing.contains_key(met.path) {
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
        Ok(gone.len())
    }

    /// Brings what was moved there with the folder it lies in: nothing of the file itself has changed.
    fn moved(
        &self,
        root: &OwnedFd,
        mut listing: Listing,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<u64, String> {
        let walked = walk(root, |met| {
            if listing
                .get(met.path)
                .is_some_and(|what| is_same(what, met.stat))
            {
                listing.remove(met.path);
            }
            Ok::<(), rustix::io::Errno>(())
        });
        walked.map_err(|e| format!("what came cannot be looked through: {e}"))?;
        let left = Left::new(Vec::new(), None);
        let mut wanted = Vec::new();
        for name in listing
            .keys()
            .filter(|name| !name.is_empty() && *name != b".")
        {
            if !left.out("", name) {
                wanted.extend_from_slice(b"./");
                wanted.extend_from_slice(name);
                wanted.push(0);
            }
        }
        if wanted.is_empty() {
            return Ok(0);
        }
        let line = self.pack(Wanted::Named);
        self.take(root, self.far.feed(self.shell, &line, wanted)?, 0, progress)
    }

    fn passes(
        &self,
        root: &OwnedFd,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<String>, String> {
        let host = &self.far.host;
        progress(Progress::Phase(format!("copying the files of {host}")));
        self.receive(root, Wanted::All, progress)?;
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
        let listing = self.list().map_err(again)?;
        let gone = Self::forget(root, &listing).map_err(again)?;
        // A second earlier: times of files are coarser than clocks.
        let since = Wanted::Since(self.now.saturating_sub(1));
        let entries = self.receive(root, since, progress).map_err(again)?;
        let entries = entries + self.moved(root, listing, progress).map_err(again)?;
        Ok(vec![format!(
            "second pass: {entries} folders and files were looked at again, {gone} were gone; its \
             services are stopped there"
        )])
    }
}

fn tops(volumes: &[String]) -> String {
    let volumes = volumes.iter().map(|volume| format!("./{volume}"));
    let all = std::iter::once(".".to_owned()).chain(volumes);
    all.map(|top| format!(" {}", quoted(&top))).collect()
}

/// Lists the subvolumes in those that are taken: the top of each has this number.
fn subvolumes(path: &str, volumes: &[String]) -> String {
    format!(
        "cd {} || exit 3\nfor top in{}; do\n\
         [ \"$(stat -f -c %T \"$top\")\" = btrfs ] || continue\n\
         find \"$top\" -mindepth 1 -xdev -inum 256 -type d -print0 2>/dev/null\n\
         done | head -c 500000",
        quoted(path),
        tops(volumes)
    )
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
