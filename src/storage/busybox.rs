//! The `busybox` kind: a root of one static program from the host, with a link for each of its
//! applets. What it is configured with lies in the template's `files/`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use super::build::{Built, Job, file_identity};
use super::image::ImageError;
use super::seed::Seed;

/// Folders of the new root, with their modes.
const FOLDERS: [(&str, u32); 20] = [
    ("bin", 0o755),
    ("sbin", 0o755),
    ("usr/bin", 0o755),
    ("usr/sbin", 0o755),
    ("dev", 0o755),
    ("proc", 0o555),
    ("sys", 0o555),
    ("run", 0o755),
    ("tmp", 0o1777),
    ("root", 0o700),
    ("home", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("srv", 0o755),
    ("etc/network", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/spool/cron/crontabs", 0o755),
    ("var/tmp", 0o1777),
    ("var/www", 0o755),
];

/// What of the host decides a build.
pub(super) fn fingerprint(options: &BTreeMap<String, String>) -> String {
    options
        .get("program")
        .map(|p| file_identity(Path::new(p)))
        .unwrap_or_default()
}

/// Builds the root.
pub(super) fn build(job: &mut Job<'_>) -> Result<Built, ImageError> {
    let program = job.option("program").to_owned();
    job.phase(format!("copying {program} and linking its applets"));
    let data = std::fs::read(&program).map_err(|e| {
        job.refuse(format!(
            "cannot read {program}: {e}; install it with: apt-get install busybox-static"
        ))
    })?;
    if !is_static_elf(&data) {
        return Err(job.refuse(format!(
            "{program} is not a static program, so it would not run alone; \
             install one with: apt-get install busybox-static"
        )));
    }
    let applets = applets(job, &program)?;
    let seed = Seed::open(&job.root)?;
    for (path, mode) in FOLDERS {
        seed.dir(path, mode)?;
    }
    seed.file("bin/busybox", 0o755, &data)?;
    for applet in &applets {
        seed.link(applet, "/bin/busybox")?;
    }
    seed.link("var/run", "/run")?;
    seed.link("etc/mtab", "/proc/self/mounts")?;
    // Locked: first boot sets a password where one is wanted.
    seed.file("etc/shadow", 0o600, b"root:*:0:0:99999:7:::\n")?;
    Ok(Built::default())
}

/// Paths of the applets the host's program has, such as `sbin/init`.
fn applets(job: &Job<'_>, program: &str) -> Result<Vec<String>, ImageError> {
    let output = Command::new(program)
        .arg("--list-full")
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|e| job.refuse(format!("cannot run {program} --list-full: {e}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found: Vec<String> = text
        .lines()
        .filter(|path| {
            matches!(
                path.rsplit_once('/'),
                Some(("bin" | "sbin" | "usr/bin" | "usr/sbin", name)) if name != "busybox"
            )
        })
        .map(str::to_owned)
        .collect();
    for needed in ["sbin/init", "bin/sh", "sbin/getty"] {
        if !found.iter().any(|path| path == needed) {
            return Err(job.refuse(format!(
                "{program} has no applet {needed}; a guest cannot run without it: \
                 install another with: apt-get install busybox-static"
            )));
        }
    }
    Ok(found)
}

/// Whether these bytes are an ELF program that asks for no program interpreter.
fn is_static_elf(data: &[u8]) -> bool {
    interpreter_free(data).unwrap_or(false)
}

fn interpreter_free(data: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = data.get(at..at.checked_add(size)?)?;
        // Little-endian, the byte order of every architecture this is built for.
        Some(bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    };
    if data.get(..4)? != b"\x7fELF" || *data.get(5)? != 1 {
        return None;
    }
    // Offset, entry size and count of the program headers, in the 64- and 32-bit layouts.
    let (offset, size, count) = match data.get(4)? {
        2 => (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?),
        1 => (number(0x1c, 4)?, number(0x2a, 2)?, number(0x2c, 2)?),
        _ => return None,
    };
    for index in 0..count {
        let at = usize::try_from(offset.checked_add(index * size)?).ok()?;
        if u32::try_from(number(at, 4)?).ok()? == PT_INTERP {
            return Some(false);
        }
    }
    Some(count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64-bit ELF header with one program header of this type.
    fn elf(kind: u8) -> Vec<u8> {
        let mut data = vec![0; 64 + 56];
        data[..6].copy_from_slice(b"\x7fELF\x02\x01");
        data[0x20] = 64;
        data[0x36] = 56;
        data[0x38] = 1;
        data[64] = kind;
        data
    }

    #[test]
    fn static_programs_have_no_interpreter() {
        assert!(is_static_elf(&elf(1)));
        assert!(!is_static_elf(&elf(3)));
        assert!(!is_static_elf(b"#!/bin/sh\n"));
        assert!(!is_static_elf(b""));
        let whole = elf(1);
        for cut in 0..whole.len() {
            assert!(!is_static_elf(&whole[..cut.min(67)]), "{cut}");
        }
        let mut huge = elf(1);
        huge[0x20..0x28].fill(0xff);
        assert!(!is_static_elf(&huge));
    }
}
