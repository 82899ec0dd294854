//! Documents that somebody has signed with OpenPGP, in the clear (RFC 9580, section 7): `gpgv` checks
//! them, confined, and writes out what was signed. What else stands in such a file is never read.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::dirfd::read_limited;
use super::workshop::Workshop;
use crate::kernel::confined::{self, Handed};

/// Most bytes of a keyring.
const KEYS_MOST: u64 = 16 << 20;

/// The text that one of the keys in `keyring` has signed.
///
/// # Errors
/// It is not signed by one of them, or there is no gpgv; as a sentence.
pub(super) fn signed_text(
    workshop: &Workshop,
    keyring: &Path,
    document: &[u8],
    most: u64,
) -> Result<Vec<u8>, String> {
    let program = confined::find("gpgv")
        .ok_or("gpgv, which checks signatures, is not here (Debian: apt-get install gpgv)")?;
    let unreadable = |why: String| format!("keys in {}: {why}", keyring.display());
    let keys = super::archive::open_regular(keyring).map_err(&unreadable)?;
    let keys = read_limited(keys, KEYS_MOST).map_err(|e| unreadable(e.to_string()))?;
    if keys.starts_with(b"-----BEGIN") {
        return Err(unreadable(
            "they are in letters; `gpg --dearmor FILE` makes the form that gpgv reads".into(),
        ));
    }
    let keys = written(workshop, "keys", &keys)?;
    let given = written(workshop, "signed", document)?;
    let text = written(workshop, "text", b"")?;
    let handed = |name, file, writable| Handed {
        name,
        file,
        writable,
    };
    let files = [
        handed("keys", keys.as_fd(), false),
        handed("signed", given.as_fd(), false),
        handed("text", text.as_fd(), true),
    ];
    let arguments = [
        "--weak-digest",
        "SHA1",
        "--homedir",
        "/",
        "--keyring",
        "/keys",
        "--output",
        "/text",
        "--status-fd",
        "1",
        "/signed",
    ];
    let said = confined::run(&program, &arguments, &files).map_err(|e| e.to_string())?;
    // A good one by a key that has expired or was taken back has other words.
    let says = |word: &str| {
        let mut lines = said.output.lines();
        lines.any(|line| {
            line.strip_prefix("[GNUPG:] ")
                .is_some_and(|line| line.starts_with(word))
        })
    };
    let valid = says("GOODSIG ") && says("VALIDSIG ");
    if said.code != Some(0) || !valid {
        let why: Vec<&str> = said.error.lines().map(str::trim).take(6).collect();
        let why: String = why.join("; ").chars().take(500).collect();
        return Err(format!(
            "no key in {} has signed it ({why})",
            keyring.display()
        ));
    }
    read_limited(text, most).map_err(|e| format!("what was signed cannot be read: {e}"))
}

/// A file of the workshop's with this in it, open for reading and writing.
fn written(workshop: &Workshop, name: &str, data: &[u8]) -> Result<File, String> {
    workshop.record(name, data).map_err(|e| e.to_string())?;
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&workshop.lock, name, flags, Mode::empty());
    Ok(File::from(file.map_err(|e| e.to_string())?))
}
