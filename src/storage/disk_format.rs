//! The disk of a virtual machine as plain bytes. Which format it has is seen by what is in it, never
//! by its name; another format than raw is read by qemu's `qemu-img`, confined so that it can reach
//! nothing but the one file. What says that some of it lies in another file is refused before that.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::Path;

use serde::Deserialize;

use super::dirfd::FileError;
use super::image::Progress;
use super::partition::{Bytes, u32_at};
use super::workshop::Workshop;
use crate::kernel::confined::{self, Handed, Most, Said};
use crate::kernel::fault;
use crate::model::Layout;

/// Most bytes of a disk.
const SIZE_MOST: u64 = 64 << 40;
/// Most bytes of a text that says where a disk's parts are.
const DESCRIPTOR_MOST: u64 = 64 << 10;

/// What qemu calls the disks of OpenVZ and Parallels.
const PLOOP: &str = "parallels";
/// What one of these has at byte 44 while it is in use.
const PLOOP_IN_USE: u32 = 0x746f_6e59;

/// A disk's bytes.
#[derive(Debug)]
pub(super) struct RawDisk {
    pub(super) file: File,
    size: u64,
    /// Its format, for people.
    pub(super) format: &'static str,
    /// The folder of a copy that is plain bytes; removed with this.
    _copy: Option<Workshop>,
}

impl Bytes for RawDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

/// Formats: as people and as qemu call them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Raw,
    /// Plain bytes and a footer.
    FixedVhd,
    /// Read by qemu.
    Qemu(&'static str, &'static str),
    /// A text that names other files.
    Descriptor,
}

/// Whether a file is the disk of a machine rather than an archive. It is read from its beginning after
/// that.
pub fn is_disk(file: &mut File) -> bool {
    match file.metadata().map(|meta| meta.file_type()) {
        Ok(kind) if kind.is_block_device() => true,
        Ok(kind) if kind.is_file() => {
            let found = matches!(format_of(file), Ok(Some(_)));
            // Looking at its end has moved to there.
            file.rewind().is_ok() && found
        }
        _ => false,
    }
}

fn format_of(file: &File) -> io::Result<Option<Format>> {
    let size = length(file)?;
    let mut begin = vec![0; 0x1_0100.min(usize::try_from(size).unwrap_or(usize::MAX))];
    file.read_exact_at(&mut begin, 0)?;
    let is = |at: usize, magic: &[u8]| begin.get(at..at + magic.len()) == Some(magic);
    let mut footer = [0; 512];
    if size >= 512 {
        file.read_exact_at(&mut footer, size - 512)?;
    }
    // What is compressed can have anything in those places.
    let compressed: [&[u8]; 4] = [b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"BZh"];
    if compressed.iter().any(|magic| is(0, magic)) {
        return Ok(None);
    }
    Ok(Some(if is(0, b"QFI\xfb") {
        Format::Qemu("qcow2", "qcow2")
    } else if is(0, b"KDMV") || is(0, b"COWD") {
        Format::Qemu("vmdk", "VMDK")
    } else if is(0, b"# Disk DescriptorFile") {
        Format::Descriptor
    } else if is(0, b"vhdxfile") {
        Format::Qemu("vhdx", "VHDX")
    } else if is(0, b"conectix") {
        Format::Qemu("vpc", "VHD")
    } else if footer.starts_with(b"conectix") {
        Format::FixedVhd
    } else if is(0x40, &[0x7f, 0x10, 0xda, 0xbe]) {
        Format::Qemu("vdi", "VDI")
    } else if is(0, b"WithoutFreeSpace") || is(0, b"WithouFreSpacExt") {
        Format::Qemu(PLOOP, "ploop")
    } else if is(257, b"ustar") {
        return Ok(None);
    } else if is(510, &[0x55, 0xaa])
        || is(0x438, &[0x53, 0xef])
        || is(0, b"XFSB")
        || is(0x1_0040, b"_BHRfS_M")
        || is(536, b"LVM2 001")
        || is(0, b"LUKS\xba\xbe")
    {
        Format::Raw
    } else {
        return Ok(None);
    }))
}

fn length(mut file: &File) -> io::Result<u64> {
    // A block device has no length of its own.
    file.seek(SeekFrom::End(0))
}

impl RawDisk {
    /// The bytes of the disk in `file`. One of another format is unpacked into a file in the folder
    /// of images, with holes where it has nothing.
    ///
    /// # Errors
    /// Some of it lies in other files, it is damaged, `qemu-img` is missing, the disk is full.
    pub(super) fn open(
        layout: &Layout,
        file: File,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, String> {
        let unreadable = |error: io::Error| format!("it cannot be read: {error}");
        let size = length(&file).map_err(unreadable)?;
        let plain = |file, size, format| Self {
            file,
            size,
            format,
            _copy: None,
        };
        match format_of(&file).map_err(unreadable)? {
            None | Some(Format::Raw) => Ok(plain(file, size, "raw")),
            Some(Format::FixedVhd) => Ok(plain(file, size - 512, "VHD")),
            Some(Format::Descriptor) => Err(elsewhere(&first_extent(&file).map_err(unreadable)?)),
            Some(Format::Qemu(format, shown)) => {
                if format == "qcow2"
                    && let Some(other) = qcow2_elsewhere(&file).map_err(unreadable)?
                {
                    return Err(elsewhere(&other));
                }
                let qemu = Qemu::of(&file, format)?;
                qemu.refuse_elsewhere()?;
                qemu.check()?;
                progress(Progress::Phase(format!("unpacking a disk ({shown})")));
                qemu.unpack(layout, shown)
            }
        }
    }
}

fn elsewhere(other: &str) -> String {
    format!(
        "part of it lies in another file, {other:.200?}, which is never followed: where that file is, \
         make one disk of both with `qemu-img convert -O qcow2`"
    )
}

/// The other file that a qcow2 says it needs: what it was made from, or where its data is.
fn qcow2_elsewhere(file: &File) -> io::Result<Option<String>> {
    let mut header = [0; 80];
    file.read_exact_at(&mut header, 0)?;
    let number = |at: usize, bytes: usize| {
        let bytes = &header[at..at + bytes];
        bytes.iter().fold(0_u64, |n, b| n << 8 | u64::from(*b))
    };
    let (version, at, length) = (number(4, 4), number(8, 8), number(16, 4));
    if at != 0 {
        let mut name = vec![0; usize::try_from(length.min(1023)).unwrap_or(0)];
        // What cannot be read is no name, but a file is wanted all the same.
        let read = file.read_exact_at(&mut name, at).is_ok();
        let name = if read { &name[..] } else { b"?" };
        return Ok(Some(String::from_utf8_lossy(name).into_owned()));
    }
    const EXTERNAL_DATA: u64 = 1 << 2;
    let external = version >= 3 && number(72, 8) & EXTERNAL_DATA != 0;
    Ok(external.then(|| "its data file".to_owned()))
}

/// The first other file that a VMware descriptor names.
fn first_extent(file: &File) -> io::Result<String> {
    let mut text = Vec::new();
    (&mut &*file).rewind()?;
    file.take(DESCRIPTOR_MOST).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let mut names = text.lines().filter_map(|line| {
        let begins = ["RW ", "RDONLY ", "NOACCESS "];
        let extent = begins.iter().any(|word| line.starts_with(word));
        extent.then(|| line.split('"').nth(1)).flatten()
    });
    Ok(names.next().unwrap_or("the files it names").to_owned())
}

/// What `qemu-img info` says, as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    virtual_size: u64,
    #[serde(default)]
    encrypted: bool,
    backing_filename: Option<String>,
    full_backing_filename: Option<String>,
    format_specific: Option<Specific>,
}

#[derive(Deserialize)]
struct Specific {
    #[serde(default)]
    data: Details,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Details {
    data_file: Option<String>,
    #[serde(default)]
    extents: Vec<Extent>,
}

#[derive(Deserialize)]
struct Extent {
    filename: Option<String>,
}

/// A disk that `qemu-img` reads.
struct Qemu<'a> {
    tool: std::path::PathBuf,
    file: &'a File,
    format: &'static str,
    info: Info,
}

impl<'a> Qemu<'a> {
    fn of(file: &'a File, format: &'static str) -> Result<Self, String> {
        let tool = confined::find("qemu-img");
        let tool = tool.ok_or("qemu-img is missing: install the package qemu-utils")?;
        let words = ["info", "--output=json", "-f", format, "/disk"];
        let said = run(&tool, &words, file, None)?;
        if said.code != Some(0) {
            return Err(format!("it is damaged, or no {format}: {}", last(&said)));
        }
        let info = serde_json::from_str(&said.output)
            .map_err(|error| format!("qemu-img info says what is not understood: {error}"))?;
        Ok(Self {
            tool,
            file,
            format,
            info,
        })
    }

    fn refuse_elsewhere(&self) -> Result<(), String> {
        let info = &self.info;
        let details = info.format_specific.as_ref().map(|own| &own.data);
        let extents = details.iter().flat_map(|data| &data.extents);
        let mut others = [&info.backing_filename, &info.full_backing_filename]
            .into_iter()
            .chain(details.iter().map(|data| &data.data_file))
            .chain(extents.map(|extent| &extent.filename))
            .flatten();
        if let Some(other) = others.find(|name| *name != "/disk") {
            return Err(elsewhere(other));
        }
        if info.encrypted {
            return Err("it is encrypted: decrypt it with `qemu-img convert` first".into());
        }
        match info.virtual_size {
            0..=SIZE_MOST => Ok(()),
            size => Err(format!("it says it has {size} bytes; 64 TiB is the most")),
        }
    }

    /// Has the tool look whether it is whole: what is cut off is read as zeros otherwise.
    fn check(&self) -> Result<(), String> {
        /// Only clusters that nobody uses.
        const LEAKS: i32 = 3;
        /// The format has no check.
        const NO_CHECK: i32 = 63;
        let said = run(
            &self.tool,
            &["check", "-f", self.format, "/disk"],
            self.file,
            None,
        )?;
        match said.code {
            Some(0 | LEAKS | NO_CHECK) => self.is_long_enough(),
            _ if self.is_in_use() => Err(
                "it is in use, or was when it was copied: stop the container \
                 there, and repeat"
                    .into(),
            ),
            _ => Err(format!("it is damaged or cut off: {}", first(&said))),
        }
    }

    /// Whether it says that somebody writes to it.
    fn is_in_use(&self) -> bool {
        let mut header = [0; 48];
        self.format == PLOOP
            && self.file.read_exact_at(&mut header, 0).is_ok()
            && u32_at(&header, 44) == PLOOP_IN_USE
    }

    /// Whether a VHD or VDI is as long as it says; `qemu-img` reads zeros where one ends too early.
    fn is_long_enough(&self) -> Result<(), String> {
        let failed = |error: io::Error| format!("it cannot be read: {error}");
        let size = length(self.file).map_err(failed)?;
        let whole = match self.format {
            "vpc" => {
                let mut footer = [0; 8];
                let at = size.saturating_sub(512);
                self.file.read_exact_at(&mut footer, at).map_err(failed)?;
                &footer == b"conectix"
            }
            "vdi" => {
                // Where its data is, how large a block of it is and how many there are.
                let mut header = [0; 0x188];
                self.file.read_exact_at(&mut header, 0).map_err(failed)?;
                let [begin, block, blocks] = [0x158, 0x178, 0x184].map(|at| u32_at(&header, at));
                u64::from(begin) + u64::from(block) * u64::from(blocks) <= size
            }
            _ => true,
        };
        match whole {
            true => Ok(()),
            false => Err("it is damaged or cut off: its end is missing".into()),
        }
    }

    fn unpack(&self, layout: &Layout, shown: &'static str) -> Result<RawDisk, String> {
        let failed = |error: FileError| error.to_string();
        let workshop = Workshop::open(&layout.images(), "disk").map_err(failed)?;
        let pause = || fault::point().map_err(|error| error.to_string());
        pause()?;
        let copy = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(workshop.shown.join("disk"))
            .map_err(|error| format!("no file can be made beside the images: {error}"))?;
        copy.set_len(self.info.virtual_size)
            .map_err(|error| format!("it does not fit beside the images: {error}"))?;
        pause()?;
        let words = [
            "convert",
            "-n",
            "--target-is-zero",
            "-f",
            self.format,
            "-O",
            "raw",
            "/disk",
            "/plain",
        ];
        let said = run(&self.tool, &words, self.file, Some(&copy))?;
        pause()?;
        if said.code != Some(0) {
            return Err(format!("it cannot be unpacked: {}", last(&said)));
        }
        Ok(RawDisk {
            file: copy,
            size: self.info.virtual_size,
            format: shown,
            _copy: Some(workshop),
        })
    }
}

fn run(tool: &Path, words: &[&str], disk: &File, copy: Option<&File>) -> Result<Said, String> {
    let handed = |name, file, writable| Handed {
        name,
        file,
        writable,
    };
    let mut files = vec![handed("disk", disk.as_fd(), false)];
    files.extend(copy.map(|copy| handed("plain", copy.as_fd(), true)));
    // A disk may be large, and takes the time it takes.
    confined::run(tool, words, &files, Most::default()).map_err(|error| error.to_string())
}

fn last(said: &Said) -> String {
    let lines = said.error.lines().chain(said.output.lines());
    let line = said.error.trim().lines().last().or(lines.last());
    let line = line.map(|line| line.trim_start_matches("qemu-img: "));
    line.unwrap_or("qemu-img was ended").to_owned()
}

fn first(said: &Said) -> String {
    let mut lines = said.error.lines().chain(said.output.lines());
    let line = lines.find(|line| !line.trim().is_empty());
    line.unwrap_or("qemu-img was ended").to_owned()
}
