//! Archives of containers of other programs: seen by their first member, what they say about the
//! container translated as far as there is a word for it here (`foreign_pve`, `foreign_incus`), and
//! their root made an image.

use std::io::Read;
use std::path::PathBuf;

use super::archive_entry::{ArchiveError, Entry, EntryKind, Limits};
use super::archive_read::Reader;
use super::archive_stream::{Pieces, decompress_aside};
use super::build::finish;
use super::dirfd::FileError;
use super::extract::extract_from;
use super::image::{Image, ImageError, Progress};
use super::import::of_tree;
use super::pack_format::{MANIFEST, PackError};
use super::pack_read::Unpacker;
use super::seed::Seed;
use super::workshop::Workshop;
use super::{foreign_incus, foreign_lxc, foreign_pve};
use crate::kernel::fault;
use crate::model::Layout;

/// Most bytes of what an archive says about its container.
pub(super) const CONFIG_MOST: usize = 1 << 20;

/// What another program's archive says about its container, in words of this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Name, as far as it is one.
    pub name: String,
    /// Keys of a definition and their values, as on a command line.
    pub settings: Vec<(&'static str, String)>,
    /// What has no word here, or is not taken, and what to do.
    pub notes: Vec<String>,
    /// The same where this host decides whether it can be: the key, the value, and what to say where it
    /// cannot.
    pub wishes: Vec<(&'static str, String, String)>,
    /// The folder of the archive in which the root lies.
    pub(super) root: String,
    /// First id on the host the archive was made on, where owners are such ids.
    pub(super) shift: u32,
}

impl Told {
    /// Adds a setting.
    pub(super) fn set(&mut self, key: &'static str, value: impl Into<String>) {
        self.settings.push((key, value.into()));
    }

    /// Its address, with or without the length of its network behind it: it stays where a network of this
    /// host has it free.
    pub(super) fn address(&mut self, text: &str) {
        let address = text.split(['/', ' ']).next().unwrap_or(text);
        let note = format!(
            "its address was {text:.40}: it has one of this host; --address asks for another"
        );
        match address.parse::<std::net::Ipv4Addr>() {
            Ok(address) => {
                let address = address.to_string();
                self.wishes.push(("network.address", address, note));
            }
            Err(_) => self.note(note),
        }
    }

    /// How large its root was: it stays so where its pool here keeps it to a size.
    pub(super) fn disk(&mut self, size: &str) {
        let note = format!("its root was sold {size:.20}: --disk says how large it may be here");
        self.wishes.push(("disk.size", size.to_owned(), note));
    }

    /// Adds a note.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
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
    let unreadable = |source| {
        let entry = "(none)".into();
        PackError::from(ArchiveError::Read { entry, source })
    };
    let mut input = decompress_aside(input).map_err(unreadable)?;
    let name = input.peek(MANIFEST.len() + 1).map_err(unreadable)?;
    if name.strip_suffix(&[0]) == Some(MANIFEST.as_bytes()) {
        return Ok(Opened::Guest(Box::new(Unpacker::open(input)?)));
    }
    match Foreign::open(input)? {
        Some(foreign) => Ok(Opened::Newcomer(Box::new(foreign))),
        None => Err(PackError::Format(format!(
            "it begins neither with {MANIFEST} nor as a backup of Proxmox, OpenVZ, LXC or Incus does; \
             nor is it a machine's disk; for a plain root file system use `bulkhead create --template tar`"
        ))),
    }
}

/// What an archive says about its container, read.
type Translate = fn(&str) -> Result<Told, String>;

/// What begins an archive of a container: the member, and whose it is.
const KINDS: &[(&str, &str, Translate)] = &[
    ("etc/vzdump/pct.conf", "Proxmox", foreign_pve::container),
    ("etc/vzdump/vps.conf", "OpenVZ", foreign_pve::private_area),
    ("backup/index.yaml", "Incus", foreign_incus::container),
];

impl Foreign {
    /// Reads the beginning of an archive; `None` if it is of none of these programs.
    ///
    /// # Errors
    /// It is damaged, or its container cannot be a guest.
    fn open(input: Pieces) -> Result<Option<Self>, PackError> {
        let mut reader = Reader::new(input, Limits::default());
        while let Some(entry) = reader.next()? {
            let path = entry.path.join(&b'/');
            let kind = KINDS.iter().find(|kind| kind.0.as_bytes() == path);
            let Some((file, program, read)) = kind else {
                if let Some(top) = top_of_lxc(&entry) {
                    return Self::of_lxc(reader, &top);
                }
                // Folders on the way to it.
                if entry.kind == EntryKind::Folder && entry.path.len() < 3 {
                    continue;
                }
                if entry.path.iter().any(|part| part == b"rootfs") {
                    return Err(PackError::Format(LATE.into()));
                }
                return Ok(None);
            };
            if entry.kind != EntryKind::File {
                return Err(PackError::Format(format!("{file} is no file")));
            }
            let text = text(&mut reader, file)?;
            let told = read(&text).map_err(|why| PackError::Format(format!("{file}: {why}")))?;
            reader.limits.shift = told.shift;
            return Ok(Some(Self {
                reader,
                program,
                told,
            }));
        }
        Ok(None)
    }

    /// The same of what may be a container of LXC, whose `config` comes now.
    fn of_lxc(mut reader: Reader<Pieces>, top: &str) -> Result<Option<Self>, PackError> {
        let text = text(&mut reader, "config")?;
        if !foreign_lxc::is_config(&text) {
            return Ok(None);
        }
        let told = foreign_lxc::container(&text);
        let told = told.map_err(|why| PackError::Format(format!("config: {why}")))?;
        reader.limits.shift = told.shift;
        let name = match told.name.is_empty() {
            true => top.trim_end_matches('/').to_owned(),
            false => told.name.clone(),
        };
        Ok(Some(Self {
            reader,
            program: "LXC",
            told: Told {
                name,
                root: format!("{top}rootfs"),
                ..told
            },
        }))
    }
}

/// What to do with an archive whose root comes before what is said about it.
const LATE: &str = "its rootfs comes before its config: for a container of LXC make it anew with \
                    `tar --numeric-owner -czf FILE config rootfs`";

/// If this is the `config` of a container of LXC: the folder it lies in, with a slash, or nothing.
fn top_of_lxc(entry: &Entry) -> Option<String> {
    let (last, above) = entry.path.split_last()?;
    if entry.kind != EntryKind::File || last != b"config" {
        return None;
    }
    match above {
        [] => Some(String::new()),
        [top] => Some(format!("{}/", std::str::from_utf8(top).ok()?)),
        _ => None,
    }
}

/// What a file on the host says about a container whose root lies beside it: the `config` of LXC, the
/// `101.conf` of OpenVZ, the `101.conf` of Proxmox.
pub(super) fn told_by(text: &str) -> Result<Told, String> {
    let has = |mark: fn(&str) -> bool| text.lines().map(str::trim).any(mark);
    if foreign_lxc::is_config(text) {
        return foreign_lxc::container(text);
    }
    if has(|line| {
        let key = line.split_once("=\"").map_or("", |(key, _)| key);
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
    }) {
        return foreign_pve::private_area(text);
    }
    match has(|line| line.starts_with("rootfs:") || line.starts_with("arch:")) {
        true => foreign_pve::container(text),
        false => Err("it is no configuration of a container of LXC, OpenVZ or Proxmox".into()),
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
        let top: Vec<Vec<u8>> = self
            .told
            .root
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| part.as_bytes().to_vec())
            .collect();
        let fd = super::dirfd::open_dir(&root)?;
        let done = extract_from(&fd, &mut self.reader, |entry| inside(entry, &top));
        let done = done.map_err(failed)?;
        if done.entries == 0 {
            return Err(failed(ArchiveError::Entry {
                entry: self.told.root.clone(),
                reason: "there is no root file system in it".into(),
            }));
        }
        let mut notes = Vec::new();
        if done.devices + done.xattrs > 0 {
            let (devices, xattrs) = (done.devices, done.xattrs);
            notes.push(format!(
                "{devices} device nodes and {xattrs} extended attributes were left out"
            ));
        }
        fault::point().map_err(|e| FileError::new("finish", &root, e.errno))?;
        progress(Progress::Phase("hashing the image".into()));
        let image = of_tree(
            &seed,
            format!("{} container {}", self.program, self.told.name),
        );
        Ok((finish(layout, workshop, &seed, image)?, notes))
    }
}

/// Makes an entry one of the root, if it lies in the root's folder. Configuration that lies in the
/// root itself stays behind.
fn inside(entry: &mut Entry, top: &[Vec<u8>]) -> bool {
    if !entry.path.starts_with(top) {
        return false;
    }
    entry.path.drain(..top.len());
    if entry.kind == EntryKind::HardLink {
        let parts = entry.link.split(|b| *b == b'/');
        let parts: Vec<&[u8]> = parts.filter(|part| !matches!(*part, b"" | b".")).collect();
        let below = parts.get(top.len()..).unwrap_or_default();
        entry.link = below.join(&b'/');
    }
    !entry
        .path
        .starts_with(&[b"etc".to_vec(), b"vzdump".to_vec()])
}

/// The current entry as text.
fn text(reader: &mut Reader<Pieces>, file: &str) -> Result<String, PackError> {
    let mut data = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let n = reader.read_data(&mut buffer)?;
        if n == 0 {
            break;
        }
        data.extend_from_slice(&buffer[..n]);
        if data.len() > CONFIG_MOST {
            return Err(PackError::Format(format!("{file} has more than 1 MiB")));
        }
    }
    String::from_utf8(data).map_err(|_| PackError::Format(format!("{file} is no text")))
}
