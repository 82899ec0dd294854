//! Archives of containers of other programs: what they are is found (`foreign_find`), what they say about
//! the container translated as far as there is a word for it here (`foreign_pve`, `foreign_incus`,
//! `foreign_lxc`, `foreign_openvz`), and their root made an image.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use super::archive_entry::{ArchiveError, Limits, NO_ENTRY};
use super::archive_read::Reader;
use super::archive_stream::{Pieces, decompress_aside};
use super::build::finish;
use super::dirfd::FileError;
use super::extract::extract_from;
use super::foreign_find::{Found, FromStart, Root, find, root_in};
use super::foreign_words::Card;
use super::image::{Image, ImageError, Progress};
use super::import::of_tree;
use super::pack_format::{MANIFEST, PackError};
use super::pack_read::Unpacker;
use super::seed::Seed;
use super::workshop::Workshop;
use crate::kernel::fault;
use crate::model::Layout;

/// Begins what Proxmox makes of a virtual machine.
const MACHINE: &[u8] = b"VMA\0";
/// Most notes on what is not translated: a file of nothing but such lines is not printed whole.
const NOTES_MOST: usize = 500;

/// What another program's archive says about its container, in words of this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Name, as far as it is one.
    pub name: String,
    /// Keys of a definition and their values, as on a command line.
    pub settings: Vec<(&'static str, String)>,
    /// Its interfaces, the first one first.
    pub cards: Vec<Card>,
    /// What has no word here, or is not taken, and what to do.
    pub notes: Vec<String>,
    /// The folder of the archive in which the root lies.
    pub(super) root: Root,
    /// First id on the host the archive was made on, where owners are such ids.
    pub(super) shift: u32,
}

impl Told {
    /// Adds a setting.
    pub(super) fn set(&mut self, key: &'static str, value: impl Into<String>) {
        self.settings.push((key, value.into()));
    }

    /// Adds a note.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        match self.notes.len() {
            0..NOTES_MOST => self.notes.push(text.into()),
            NOTES_MOST => self.notes.push("and more, which is not listed".into()),
            _ => {}
        }
    }

    /// Takes over what a configuration beside a root says.
    pub(super) fn follow(&mut self, mut config: Self) {
        if !config.name.is_empty() {
            self.name = config.name;
        }
        self.settings.append(&mut config.settings);
        self.cards.append(&mut config.cards);
        for note in config.notes {
            self.note(note);
        }
    }

    /// Sets what could be translated, or notes that it could not.
    pub(super) fn set_or_lost(
        &mut self,
        key: &'static str,
        translated: Option<String>,
        (theirs, value): (&str, &str),
    ) {
        match translated {
            Some(value) => self.set(key, value),
            None => self.lost(theirs, value),
        }
    }

    /// Adds a note on a setting that is not translated.
    pub(super) fn lost(&mut self, key: &str, value: &str) {
        self.note(format!("{key:.60}: {value:.80}: not translated"));
    }
}

/// What was something else's and becomes a guest.
pub trait Newcomer: std::fmt::Debug {
    /// What it says of itself.
    fn told(&self) -> &Told;

    /// What it is, for people.
    fn what(&self) -> String;

    /// Makes its root an image; gives notes besides.
    ///
    /// # Errors
    /// It is damaged or asks for what it may not have, the disk is full.
    fn image(
        self: Box<Self>,
        layout: &Layout,
        shown: &str,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Image, Vec<String>), ImageError>;
}

/// An archive of another program, opened.
#[derive(Debug)]
struct Foreign {
    reader: Reader<Pieces>,
    /// Which program's, for people.
    program: &'static str,
    told: Told,
}

/// What a guest can be made of.
#[derive(Debug)]
pub enum Opened {
    /// One that `export` wrote.
    Guest(Box<Unpacker>),
    /// What comes from elsewhere.
    Newcomer(Box<dyn Newcomer>),
}

/// Opens an archive by its first member.
///
/// # Errors
/// It is damaged, or none that is known.
pub fn open_archive(input: Box<dyn Read + Send>) -> Result<Opened, PackError> {
    open(input, None)
}

fn open(input: Box<dyn Read + Send>, again: Option<Again<'_>>) -> Result<Opened, PackError> {
    let mut input = decompress_aside(input).map_err(unreadable)?;
    let name = input.peek(MANIFEST.len() + 1).map_err(unreadable)?;
    if name.strip_suffix(&[0]) == Some(MANIFEST.as_bytes()) {
        return Ok(Opened::Guest(Box::new(Unpacker::open(input)?)));
    }
    if name.starts_with(MACHINE) {
        return Err(PackError::Format(
            "it is Proxmox's backup of a virtual machine: `vma extract` on that host, unpacked before, gives \
             its disks, and `import` takes those"
                .to_owned(),
        ));
    }
    match Foreign::open(input, again)? {
        Some(foreign) => Ok(Opened::Newcomer(Box::new(foreign))),
        None => Err(PackError::Format(format!(
            "it begins neither with {MANIFEST} nor as a backup of Proxmox, OpenVZ or Incus does; it is no folder \
             of LXC (config, rootfs/) and no machine's disk; a private area of OpenVZ needs --config with its \
             101.conf. A plain root file system, and what `docker save` and `podman save` write, are \
             images: `bulkhead image import`, then `bulkhead create --image`. Of an .ova unpack the disk and \
             import that"
        ))),
    }
}

/// The same of a file of this host, in which what says whose container it is may lie anywhere. With a
/// configuration that lies beside it, any archive of a root will do.
///
/// # Errors
/// It is damaged, or none that is known.
pub fn open_archive_file(
    file: std::fs::File,
    config: Option<(&'static str, Told)>,
) -> Result<Opened, PackError> {
    let seekable = file.metadata().is_ok_and(|meta| meta.is_file());
    match (seekable, config) {
        (false, None) => open_archive(Box::new(file)),
        (false, Some((program, told))) => {
            let reader = reader(Box::new(file), told.shift)?;
            Ok(Opened::Newcomer(Box::new(Foreign {
                reader,
                program,
                told,
            })))
        }
        (true, config) => open_seekable(&Arc::new(file), config),
    }
}

fn open_seekable(
    file: &Arc<std::fs::File>,
    config: Option<(&'static str, Told)>,
) -> Result<Opened, PackError> {
    let start = || FromStart::of(file);
    if let Some((program, mut told)) = config {
        let mut look = reader(start(), 0)?;
        look.limits.any_owner = true;
        told.root = root_in(&mut look)?;
        let reader = reader(start(), told.shift)?;
        return Ok(Opened::Newcomer(Box::new(Foreign {
            reader,
            program,
            told,
        })));
    }
    open(start(), Some(&|| start()))
}

/// A reader of an archive whose owners are shifted.
fn reader(input: Box<dyn Read + Send>, shift: u32) -> Result<Reader<Pieces>, PackError> {
    let input = decompress_aside(input).map_err(unreadable)?;
    let limits = Limits {
        shift,
        ..Limits::default()
    };
    Ok(Reader::new(input, limits))
}

fn unreadable(source: std::io::Error) -> PackError {
    let entry = NO_ENTRY.into();
    PackError::from(ArchiveError::Read { entry, source })
}

/// Gives an archive from its beginning once more.
type Again<'a> = &'a dyn Fn() -> Box<FromStart>;

impl Foreign {
    /// Finds what an archive is; `None` if it is of none of these programs.
    ///
    /// # Errors
    /// It is damaged, or its container cannot be a guest.
    fn open(input: Pieces, again: Option<Again<'_>>) -> Result<Option<Self>, PackError> {
        let mut look = Reader::new(input, Limits::default());
        // Owners are not known until the configuration says how they are shifted.
        look.limits.any_owner = true;
        let Some(Found {
            program,
            told,
            gone_by,
        }) = find(&mut look, again.is_some())?
        else {
            return Ok(None);
        };
        let reader = match again {
            Some(again) if gone_by => reader(again(), told.shift)?,
            _ => {
                look.limits.any_owner = false;
                look.limits.shift = told.shift;
                look
            }
        };
        Ok(Some(Self {
            reader,
            program,
            told,
        }))
    }
}

impl Newcomer for Foreign {
    fn told(&self) -> &Told {
        &self.told
    }

    fn what(&self) -> String {
        format!("it is a container of {}", self.program)
    }

    fn image(
        mut self: Box<Self>,
        layout: &Layout,
        shown: &str,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Image, Vec<String>), ImageError> {
        progress(Progress::Phase(format!(
            "unpacking a container of {}",
            self.program
        )));
        let failed = |source: ArchiveError| ImageError::Archive {
            path: PathBuf::from(shown),
            source: Box::new(source),
        };
        let workshop = Workshop::open(&layout.images(), "foreign")?;
        let root = workshop.root();
        fault::point().map_err(|e| FileError::new("fill", &root, e.errno))?;
        let seed = Seed::open(&root)?;
        let fd = super::dirfd::open_dir(&root)?;
        let told = &self.told;
        let done = extract_from(&fd, &mut self.reader, |entry| told.root.inside(entry));
        let done = done.map_err(failed)?;
        if done.entries == 0 {
            return Err(failed(ArchiveError::Entry {
                entry: self.told.root.shown(),
                reason: "there is no root file system in it".into(),
            }));
        }
        let notes = done.notes();
        fault::point().map_err(|e| FileError::new("finish", &root, e.errno))?;
        progress(Progress::Phase("hashing the image".into()));
        let image = of_tree(
            &seed,
            format!("{} container {}", self.program, self.told.name),
        );
        Ok((finish(layout, workshop, &seed, image)?, notes))
    }
}
