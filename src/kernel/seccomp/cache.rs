//! Compiled programs on disk, so that a warm start compiles nothing. A file is named by all that
//! decides its content and is believed only if nobody but root can have written it and its checksum
//! is right; anything else is compiled again. Where the folder is, is the caller's.

use std::fs::DirBuilder;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use libseccomp::ScmpVersion;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::{CompileError, Instruction, Program};
use crate::model::Filter;

/// Changes with the layout of the files.
const FORMAT: u32 = 1;
/// Changes with the code that makes programs, so that nobody has to remember to change it.
const COMPILER: u64 = fingerprint(&[
    include_bytes!("emit.rs"),
    include_bytes!("names.rs"),
    include_bytes!("ranges.rs"),
]);
const MAGIC: &[u8; 8] = b"BHFILTER";
/// Magic, checksum, key, number of instructions, whether it notifies.
const HEADER: usize = 8 + 32 + 32 + 4 + 4;
/// No file is longer: a full program and as many bytes of warnings.
const LONGEST: usize = HEADER + 2 * 4096 * 8;

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

type Key = [u8; 32];

impl Program {
    /// The program for `filter`, from `dir` if it is there, else compiled and put there. The folder
    /// is made (mode 0700) if it is missing.
    ///
    /// # Errors
    /// The filter cannot be compiled. A cache that cannot be used is no error.
    pub fn cached(dir: &Path, filter: &Filter) -> Result<(Self, CacheUse), CompileError> {
        let key = key(filter);
        let folder = folder(dir);
        if let Ok(folder) = &folder
            && let Some(program) = read(folder, &key)
        {
            return Ok((program, CacheUse::Hit));
        }
        let program = Self::compile(filter)?;
        let stored = folder.and_then(|folder| write(&folder, &key, &program));
        let used = match stored {
            Ok(()) => CacheUse::Stored,
            Err(why) => CacheUse::NotStored(format!(
                "keeping the compiled seccomp filter in {} failed: {why}; the next start compiles it again",
                dir.display()
            )),
        };
        Ok((program, used))
    }
}

/// Everything that decides what the program is.
fn key(filter: &Filter) -> Key {
    let mut hash = Sha256::new();
    hash.update(FORMAT.to_ne_bytes());
    hash.update(COMPILER.to_ne_bytes());
    if let Ok(v) = ScmpVersion::current() {
        for part in [v.major, v.minor, v.micro] {
            hash.update(part.to_ne_bytes());
        }
    }
    if let Ok(names) = nix::sys::utsname::uname() {
        hash.update(names.release().as_encoded_bytes());
    }
    // Lists keep their order, so the text of one filter is always the same.
    hash.update(serde_json::to_vec(filter).unwrap_or_default());
    hash.finalize().into()
}

/// FNV-1a, computed when this is built.
const fn fingerprint(texts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut text = 0;
    while text < texts.len() {
        let mut at = 0;
        while at < texts[text].len() {
            hash = (hash ^ texts[text][at] as u64).wrapping_mul(0x0100_0000_01b3);
            at += 1;
        }
        text += 1;
    }
    hash
}

fn name(key: &Key) -> String {
    use std::fmt::Write as _;
    key.iter().fold(String::from("seccomp-"), |mut name, byte| {
        // Writing to a String does not fail.
        write!(name, "{byte:02x}").ok();
        name
    })
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

fn read(folder: &OwnedFd, key: &Key) -> Option<Program> {
    // NONBLOCK: a FIFO in place of the file must not make anyone wait.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, name(key), flags, Mode::empty()).ok()?;
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
    parse(&bytes, key)
}

fn write(folder: &OwnedFd, key: &Key, program: &Program) -> Result<(), String> {
    let bytes = serialise(key, program);
    if bytes.len() > LONGEST {
        return Err("it has too many warnings".into());
    }
    let target = name(key);
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

fn serialise(key: &Key, program: &Program) -> Vec<u8> {
    let mut body = Vec::with_capacity(LONGEST / 4);
    body.extend_from_slice(key);
    let count = u32::try_from(program.instructions.len()).unwrap_or(u32::MAX);
    body.extend_from_slice(&count.to_ne_bytes());
    body.extend_from_slice(&u32::from(program.notifies).to_ne_bytes());
    for i in &program.instructions {
        body.extend_from_slice(&i.code.to_ne_bytes());
        body.extend_from_slice(&[i.jt, i.jf]);
        body.extend_from_slice(&i.k.to_ne_bytes());
    }
    body.extend_from_slice(program.warnings.join("\n").as_bytes());
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&Sha256::digest(&body));
    bytes.append(&mut body);
    bytes
}

fn parse(bytes: &[u8], key: &Key) -> Option<Program> {
    let body = bytes.strip_prefix(MAGIC)?;
    let (checksum, body) = body.split_at_checked(32)?;
    if checksum != &Sha256::digest(body)[..] {
        return None;
    }
    let body = body.strip_prefix(key)?;
    let (count, body) = body.split_first_chunk()?;
    let (notifies, body) = body.split_first_chunk()?;
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
        notifies: u32::from_ne_bytes(*notifies) != 0,
    })
}
