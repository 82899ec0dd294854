//! A machine that becomes a guest: the disk of a virtual one, or the root of a real one that is a
//! folder here. Its Linux is found, its files are copied into an image, and what only a machine needs
//! is left out (`machine_fit`). Everything in it is a stranger's: read by descriptor, mounted where no
//! path leads.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{self, FileType};

use super::build::{finish, now_ms};
use super::dirfd::{FileError, child_dir, cname, file_type, is_file, open_dir};
use super::foreign::{Newcomer, Told};
use super::foreign_folder::{self, Beside};
use super::foreign_ploop;
use super::image::{Image, ImageError, Progress};
use super::import::of_tree;
use super::machine_find::{Found, Volumes, look_inside, text};
use super::machine_fit::{Left, fit};
use super::merged::Merged;
use super::merged_copy::{Copy, Fate};
use super::oci_blobs::refused;
use super::pack_format::PackError;
use super::seed::Seed;
use super::walk::walk;
use super::workshop::Workshop;
use crate::kernel::{fault, mount};
use crate::model::{ID_BLOCK, Layout};

/// A machine's Linux, found.
#[derive(Debug)]
pub struct Machine {
    told: Told,
    /// What it is, for people.
    what: String,
    root: OwnedFd,
    /// Folders of other volumes, and where they belong below the root; parents first.
    others: Vec<(String, OwnedFd)>,
    /// Where this program's images are, if that is below the root.
    images: Option<String>,
    /// Taken off every owner that is not below it: a container's ids lie so on the host it was on.
    shift: u32,
    /// Keeps the volumes mounted.
    _volumes: Option<Volumes>,
}

/// What would be copied.
#[derive(Default)]
struct Survey {
    files: u64,
    bytes: u64,
    left_out: u64,
    devices: u64,
}

impl Machine {
    /// Finds the Linux on the disk of a virtual machine.
    ///
    /// # Errors
    /// The disk cannot be read or is damaged, needs other files, or there is no Linux on it.
    pub fn on_disk(
        layout: &Layout,
        file: File,
        shown: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, PackError> {
        let volumes = Volumes::open(layout, file, shown, progress).map_err(PackError::Newcomer)?;
        let Found {
            root,
            others,
            place,
            notes,
        } = volumes.find().map_err(PackError::Newcomer)?;
        let stem = shown.file_stem().unwrap_or_default();
        let what = format!("{place} of a disk ({})", volumes.format());
        let name = stem.to_string_lossy().into_owned();
        let machine = Self::of((root, None, 0), others, what, name, Some(volumes))?;
        Ok(machine.with_notes(notes))
    }

    /// The Linux in a folder of this host, or on the disk that a private area of OpenVZ has for a root. What
    /// is mounted below it stays out. If it was a container's, what that had is in the configuration in or
    /// beside it, or in `config`.
    ///
    /// # Errors
    /// It is no folder, there is no Linux in it, or the configuration cannot be taken.
    pub fn in_folder(
        layout: &Layout,
        path: &Path,
        config: Option<&Path>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, PackError> {
        let failed = |error: crate::kernel::KernelError| PackError::Newcomer(error.to_string());
        let beside = foreign_folder::look(path, config)?;
        // A view of this one mount: below its mount points there is what they hide.
        let root = match beside.as_ref().and_then(|beside| beside.root.as_ref()) {
            Some(root) => mount::clone_tree_fd(root.as_fd(), false, "rootfs").map_err(failed)?,
            None => mount::clone_tree(path, false).map_err(failed)?,
        };
        let root = fs::openat(
            &root,
            c".",
            fs::OFlags::RDONLY | fs::OFlags::DIRECTORY | fs::OFlags::CLOEXEC,
            fs::Mode::empty(),
        )
        .map_err(|e| FileError::new("open folder", path, e))?;
        if let Some(disk) = disk_instead(&root, path, beside.as_ref())? {
            return Ok(Self::on_disk(layout, disk, path, progress)?.was(beside));
        }
        let what = format!("folder {}", path.display());
        let name = path.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        // A copy of what is being made would have no end.
        let real = |path: &Path| path.canonicalize().ok();
        let images = real(&layout.images()).zip(real(path));
        let images = images.and_then(|(images, top)| {
            let below = images.strip_prefix(top).ok()?;
            Some(below.to_str()?.to_owned())
        });
        let shift = beside.as_ref().map_or(0, |beside| beside.told.shift);
        let machine = Self::of((root, images, shift), Vec::new(), what, name, None)?;
        let notes = vec!["what is mounted below the folder is not taken".into()];
        Ok(machine.with_notes(notes).was(beside))
    }

    /// The same with what it was as a container.
    fn was(mut self, beside: Option<Beside>) -> Self {
        if let Some(beside) = beside {
            self.what = format!("it was a container of {}: {}", beside.program, self.what);
            self.told.follow(beside.told);
        }
        self
    }

    fn of(
        (root, images, shift): (OwnedFd, Option<String>, u32),
        others: Vec<(String, OwnedFd)>,
        from: String,
        name: String,
        volumes: Option<Volumes>,
    ) -> Result<Self, PackError> {
        let system = system(&root).unwrap_or_else(|| "a Linux that does not say which".into());
        let host = text(&root, "etc/hostname").map(|host| host.trim().to_owned());
        let mut told = Told {
            name: host.filter(|host| !host.is_empty()).unwrap_or(name),
            ..Told::default()
        };
        let mut machine = Self {
            told: Told::default(),
            what: format!("{system}, {from}"),
            root,
            others,
            images,
            shift,
            _volumes: volumes,
        };
        let survey = machine.survey()?;
        let (files, size) = (survey.files, size_text(survey.bytes));
        told.note(format!("{files} files, {size}, are taken"));
        for (path, _) in &machine.others {
            told.note(format!("/{path} is of another volume, and taken"));
        }
        told.note(format!(
            "kernel, boot loader, modules, swap files, what is in /proc, /sys, /dev, /run and /tmp, \
             {} device nodes and sockets: left out, {}",
            survey.devices,
            size_text(survey.left_out)
        ));
        machine.told = told;
        Ok(machine)
    }

    fn with_notes(mut self, notes: Vec<String>) -> Self {
        self.told.notes.extend(notes);
        self
    }

    /// Its trees and where each belongs, the root first.
    fn trees(&self) -> impl Iterator<Item = (&str, &OwnedFd)> {
        let others = self.others.iter().map(|(path, fd)| (path.as_str(), fd));
        std::iter::once(("", &self.root)).chain(others)
    }

    fn left(&self) -> Left<'_> {
        let volumes = self.others.iter().map(|(path, _)| path.as_str());
        Left::new(volumes.collect(), self.images.as_deref())
    }

    /// Looks at all that would be copied.
    fn survey(&self) -> Result<Survey, PackError> {
        let left = self.left();
        let mut found = Survey::default();
        let mut linked = HashSet::new();
        let mut foreign = None;
        for (place, tree) in self.trees() {
            let walked = walk(tree, |met| {
                let path = [place.as_bytes(), b"/", met.path].concat();
                let path = path.strip_prefix(b"/").unwrap_or(&path);
                let size = match is_file(met.stat) {
                    true => u64::try_from(met.stat.st_blocks).unwrap_or(0) * 512,
                    false => 0,
                };
                if left.out(place, path) {
                    found.left_out += size;
                    return Ok::<(), rustix::io::Errno>(());
                }
                let id = (met.stat.st_dev, met.stat.st_ino);
                if met.stat.st_nlink > 1 && is_file(met.stat) && !linked.insert(id) {
                    return Ok(());
                }
                match file_type(met.stat) {
                    FileType::CharacterDevice | FileType::BlockDevice | FileType::Socket => {
                        found.devices += 1;
                    }
                    _ => found.files += 1,
                }
                found.bytes += size;
                let above = |id: u32| id.checked_sub(self.shift).unwrap_or(id) >= ID_BLOCK;
                if above(met.stat.st_uid) || above(met.stat.st_gid) {
                    foreign.get_or_insert_with(|| super::archive_entry::shown(path));
                }
                Ok(())
            });
            walked.map_err(|errno| {
                let why = std::io::Error::from(errno);
                PackError::Newcomer(format!("its files cannot be read: {why}"))
            })?;
        }
        match foreign {
            None => Ok(found),
            Some(path) => Err(PackError::Newcomer(format!(
                "/{path} has an owner above 65535, the highest id a guest has: give it another there"
            ))),
        }
    }

    /// Copies its trees into the workshop's root.
    fn copy(&self, workshop: &Workshop, shown: &str) -> Result<(), ImageError> {
        let left = self.left();
        let top = open_dir(&workshop.root())?;
        for (place, tree) in self.trees() {
            let at = |e: std::io::Error| FileError::new("open", &workshop.root().join(place), e);
            let mut into = top.try_clone().map_err(at)?;
            for part in place.split('/').filter(|part| !part.is_empty()) {
                let part = cname(part).map_err(at)?;
                into = child_dir(&into, &part).map_err(|e| {
                    let why = format!(
                        "/{place} is no folder of the root, but a volume belongs there ({e})"
                    );
                    refused(shown, why)
                })?;
            }
            let fate = |path: &[u8], _folder: bool| {
                let path = [place.as_bytes(), b"/", path].concat();
                match left.out(place, path.strip_prefix(b"/").unwrap_or(&path)) {
                    true => Fate::Drop,
                    false => Fate::Keep,
                }
            };
            let from = tree.try_clone().map_err(at)?;
            let from = Merged::over(from, Vec::new(), Path::new(shown));
            let from = from.top().map_err(at)?;
            Copy::new(&into, &fate)
                .shifted(self.shift)
                .all(&from)
                .map_err(|error| {
                    let path = Path::new(shown).join(place).join(&error.path);
                    match error.source.raw_os_error() {
                        Some(_) => FileError::new("copy", &path, error.source).into(),
                        None => refused(path.display().to_string(), error.source.to_string()),
                    }
                })?;
        }
        Ok(())
    }
}

impl Newcomer for Machine {
    fn told(&self) -> &Told {
        &self.told
    }

    fn what(&self) -> String {
        self.what.clone()
    }

    fn image(
        self: Box<Self>,
        layout: &Layout,
        shown: &str,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Image, Vec<String>), ImageError> {
        let workshop = Workshop::open(&layout.images(), "machine")?;
        let root = workshop.root();
        let pause = || fault::point().map_err(|e| FileError::new("fill", &root, e.errno));
        pause()?;
        progress(Progress::Phase("copying its files".into()));
        self.copy(&workshop, shown)?;
        pause()?;
        let seed = Seed::open(&root)?;
        let notes = fit(&seed, &root)?;
        pause()?;
        progress(Progress::Phase("hashing the image".into()));
        let mut image = of_tree(&seed, format!("machine {}", self.told.name));
        image.created_ms = now_ms();
        Ok((finish(layout, workshop, &seed, image)?, notes))
    }
}

/// The disk that a folder without a root of its own has for one. Where there is a root, whoever was root in
/// it may have made a disk beside it, which is a file of theirs like any other.
///
/// # Errors
/// There is neither a root nor a disk that can be read.
fn disk_instead(
    root: &OwnedFd,
    path: &Path,
    beside: Option<&Beside>,
) -> Result<Option<File>, PackError> {
    let Err(why) = look_inside(root) else {
        return Ok(None);
    };
    let disk = match beside.is_some_and(|beside| beside.root.is_some()) {
        true => None,
        false => foreign_ploop::disk_of(path)?,
    };
    disk.map(Some).ok_or(PackError::Newcomer(why))
}

/// What a root calls its system, by os-release(5).
fn system(root: &OwnedFd) -> Option<String> {
    let release = text(root, "etc/os-release").or_else(|| text(root, "usr/lib/os-release"))?;
    let value = |key: &str| {
        let mut lines = release.lines();
        let line = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim_matches(['"', '\'']).to_owned())
    };
    value("PRETTY_NAME").or_else(|| value("NAME"))
}

fn size_text(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::super::seed::tests::TempDir;
    use super::*;

    #[test]
    fn a_disk_stands_for_a_root_only_where_there_is_none() {
        let area = TempDir::new("machine");
        let path = area.path();
        let ask = |beside| disk_instead(&open_dir(path).unwrap(), path, beside);
        assert!(ask(None).is_err());
        std::fs::create_dir(path.join("root.hdd")).unwrap();
        std::fs::write(path.join("root.hdd/root.hds"), "x").unwrap();
        assert!(ask(None).unwrap().is_some());
        // One of LXC has its root in a folder, and that is no Linux.
        let beside = Beside {
            program: "LXC",
            told: Told::default(),
            root: Some(open_dir(path).unwrap()),
        };
        assert!(ask(Some(&beside)).is_err());
        // It is a root, in which its tenant has made a disk, or half of one.
        std::fs::create_dir(path.join("etc")).unwrap();
        assert!(ask(None).unwrap().is_none());
        std::fs::remove_file(path.join("root.hdd/root.hds")).unwrap();
        assert!(ask(None).unwrap().is_none());
    }
}
