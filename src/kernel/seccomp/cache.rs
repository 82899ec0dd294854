//! Compiled programs on disk, so that a warm start compiles nothing. A file holds all that decides
//! its content and is believed only if nobody but root can have written it, its checksum is right,
//! and what decides is the same; anything else is compiled again. Where the folder is, is the
//! caller's, who may also say what stands for the filter: a text that always means the same one.

use std::fs::DirBuilder;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use libseccomp::ScmpVersion;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{CompileError, Instruction, Program};
use crate::model::{Filter, fingerprint};

/// Changes with the layout of the files.
const FORMAT: u32 = 2;
/// Changes with the code that makes programs.
const COMPILER: u64 = fingerprint(&[
    include_bytes!("emit.rs"),
    include_bytes!("names.rs"),
    include_bytes!("ranges.rs"),
]);
const MAGIC: &[u8; 8] = b"BHFILTER";
/// Magic, checksum, length of what decides, number of instructions, how it notifies.
const HEADER: usize = 8 + 8 + 4 + 4 + 4;
/// No file is longer: a full program, as many bytes of warnings, and what decides.
const LONGEST: usize = HEADER + 2 * 4096 * 8 + (256 << 10);

/// How [`Program::cached`] came by its program.
#[derive(Debug, PartialEq, Eq)]
pub enum CacheUse {
    /// Read.
    Hit,
    /// Compiled and written.
    Stored,
    /// Compiled; writing failed, which costs time at the next start and nothing else.
    NotStored(String),
}

impl Program {
    /// The program for `filter`, from `dir` if it is there, else compiled and put there, for the
    /// same filter or for the text that stands for it ([`Program::recall`]). The folder is made
    /// (mode 0700) if it is missing.
    ///
    /// # Errors
    /// The filter cannot be compiled. A cache that cannot be used is no error.
    pub fn cached(
        dir: &Path,
        filter: &Filter,
        text: Option<&[u8]>,
    ) -> Result<(Self, CacheUse), CompileError> {
        let basis = match text {
            Some(text) => basis(text),
            // Lists keep their order, so the text of one filter is always the same.
            None => basis(&serde_json::to_vec(filter).unwrap_or_default()),
        };
        let folder = folder(dir);
        if let Ok(folder) = &folder
            && let Some(program) = read(folder, &basis)
        {
            return Ok((program, CacheUse::Hit));
        }
        let program = Self::compile(filter)?;
        let stored = folder.and_then(|folder| write(&folder, &basis, &program));
        let used = match stored {
            Ok(()) => CacheUse::Stored,
            Err(why) => CacheUse::NotStored(format!(
                "keeping the compiled seccomp filter in {} failed: {why}; the next start compiles it again",
                dir.display()
            )),
        };
        Ok((program, used))
    }

    /// The program that was made when the same text stood for a filter.
    #[must_use]
    pub fn recall(dir: &Path, text: &[u8]) -> Option<Self> {
        read(&folder(dir).ok()?, &basis(text))
    }
}

/// Everything that decides what the program is.
fn basis(text: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(text.len() + 128);
    all.extend_from_slice(&FORMAT.to_ne_bytes());
    all.extend_from_slice(&COMPILER.to_ne_bytes());
    if let Ok(v) = ScmpVersion::current() {
        for part in [v.major, v.minor, v.micro] {
            all.extend_from_slice(&part.to_ne_bytes());
        }
    }
    if let Ok(names) = nix::sys::utsname::uname() {
        all.extend_from_slice(names.release().as_encoded_bytes());
    }
    all.push(0);
    all.extend_from_slice(text);
    all
}

/// Tells texts apart and whole files from damaged ones, eight bytes at a time; no help against
/// people, who cannot write here.
fn sum(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, word: u64| {
        (hash ^ word)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words
        .iter()
        .fold(bytes.len() as u64, |h, w| mix(h, u64::from_ne_bytes(*w)));
    rest.iter().fold(hash, |h, b| mix(h, u64::from(*b)))
}

fn name(basis: &[u8]) -> String {
    format!("seccomp-{:016x}", sum(basis))
}

/// The folder, if nobody else can put files there.
fn folder(dir: &Path) -> Result<OwnedFd, String> {
    let open = || {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        rustix::fs::openat(CWD, dir, flags, Mode::empty())
    };
    let folder = match open() {
        Err(Errno::NOENT) => {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(|e| e.to_string())?;
            open()
        }
        other => other,
    };
    let folder = folder.map_err(|e| e.to_string())?;
    if ours_alone(&folder, FileType::Directory).is_none() {
        return Err("it is not root's alone (owner root, not writable by others)".into());
    }
    Ok(folder)
}

/// The size, if the file is of this type and only root can have written it.
fn ours_alone(fd: impl AsFd, wanted: FileType) -> Option<usize> {
    let stat = rustix::fs::fstat(fd).ok()?;
    let owner = stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw();
    let right = FileType::from_raw_mode(stat.st_mode) == wanted && stat.st_mode & 0o022 == 0;
    (owner && right)
        .then(|| usize::try_from(stat.st_size).ok())
        .flatten()
}

fn read(folder: &OwnedFd, basis: &[u8]) -> Option<Program> {
    // NONBLOCK: a FIFO in place of the file must not make anyone wait.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, name(basis), flags, Mode::empty()).ok()?;
    let size = ours_alone(&file, FileType::RegularFile)?;
    if !(HEADER..=LONGEST).contains(&size) {
        return None;
    }
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match rustix::io::read(&file, &mut bytes[filled..]).ok()? {
            0 => return None,
            n => filled += n,
        }
    }
    parse(&bytes, basis)
}

fn write(folder: &OwnedFd, basis: &[u8], program: &Program) -> Result<(), String> {
    let bytes = serialise(basis, program);
    if bytes.len() > LONGEST {
        return Err("it is too long".into());
    }
    let target = name(basis);
    let temporary = format!(".{target}.{}.tmp", std::process::id());
    let attempt = || {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(folder, &temporary, flags, Mode::from_raw_mode(0o600));
        let file = match open() {
            // Left by a process of the same id that was killed here.
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(folder, &temporary, AtFlags::empty())?;
                open()?
            }
            other => other?,
        };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let n = rustix::io::write(&file, rest)?;
            rest = &rest[n..];
        }
        // Not synced: a file cut short by a power failure has a wrong checksum.
        rustix::fs::renameat(folder, &temporary, folder, &target)
    };
    attempt().map_err(|e: Errno| {
        // Best effort: the name may never have come to be.
        rustix::fs::unlinkat(folder, &temporary, AtFlags::empty()).ok();
        e.to_string()
    })
}

fn serialise(basis: &[u8], program: &Program) -> Vec<u8> {
    let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_ne_bytes();
    let mut body = Vec::with_capacity(HEADER + basis.len() + program.instructions.len() * 8);
    body.extend_from_slice(&length(basis.len()));
    body.extend_from_slice(&length(program.instructions.len()));
    let notifies = u32::from(program.notifies) | u32::from(program.wait_killable) << 1;
    body.extend_from_slice(&notifies.to_ne_bytes());
    body.extend_from_slice(basis);
    for i in &program.instructions {
        body.extend_from_slice(&i.code.to_ne_bytes());
        body.extend_from_slice(&[i.jt, i.jf]);
        body.extend_from_slice(&i.k.to_ne_bytes());
    }
    body.extend_from_slice(program.warnings.join("\n").as_bytes());
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&sum(&body).to_ne_bytes());
    bytes.append(&mut body);
    bytes
}

fn parse(bytes: &[u8], basis: &[u8]) -> Option<Program> {
    let body = bytes.strip_prefix(MAGIC)?;
    let (checksum, body) = body.split_first_chunk()?;
    if u64::from_ne_bytes(*checksum) != sum(body) {
        return None;
    }
    let (length, body) = body.split_first_chunk()?;
    let (count, body) = body.split_first_chunk()?;
    let (notifies, body) = body.split_first_chunk()?;
    let notifies = u32::from_ne_bytes(*notifies);
    let body = body.strip_prefix(basis)?;
    if usize::try_from(u32::from_ne_bytes(*length)).ok()? != basis.len() {
        return None;
    }
    let count = usize::try_from(u32::from_ne_bytes(*count)).ok()?;
    let (code, warnings) = body.split_at_checked(count.checked_mul(8)?)?;
    let instructions = code
        .chunks_exact(8)
        .map(|b| Instruction {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        })
        .collect();
    let warnings = std::str::from_utf8(warnings).ok()?;
    Some(Program {
        instructions,
        warnings: warnings.lines().map(str::to_owned).collect(),
        notifies: notifies & 1 != 0,
        wait_killable: notifies & 2 != 0,
    })
}
