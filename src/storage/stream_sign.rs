//! Documents that somebody has signed with OpenPGP, in the clear (RFC 9580, section 7): `gpgv` checks
//! them, confined, and writes out what was signed. What else stands in such a file is never read.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::dirfd::read_limited;
use super::workshop::Workshop;
use crate::kernel::confined::{self, Handed, Most};

/// Most bytes of a keyring.
const KEYS_MOST: u64 = 16 << 20;
/// What a document signed in the clear begins with. Others may be compressed, and are unpacked before
/// anybody looks at who signed them.
const CLEAR: &[u8] = b"-----BEGIN PGP SIGNED MESSAGE-----";
/// Checking one takes no longer.
const LONGEST: Duration = Duration::from_secs(60);

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
    if !document.starts_with(CLEAR) {
        return Err(format!(
            "no key in {} has signed it in the clear: it does not begin with {}",
            keyring.display(),
            String::from_utf8_lossy(CLEAR)
        ));
    }
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
    let bounds = Most {
        file: Some(most),
        time: Some(LONGEST),
    };
    let said = confined::run(&program, &arguments, &files, bounds).map_err(|e| e.to_string())?;
    if said.code.is_none() {
        return Err(format!(
            "gpgv was ended: checking it took longer than {} s, or a signal asked for it",
            LONGEST.as_secs()
        ));
    }
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

#[cfg(test)]
mod tests {
    use super::super::seed::tests::TempDir;
    use super::*;

    #[test]
    fn what_is_not_signed_in_the_clear_is_not_unpacked() {
        let temp = TempDir::new("sign");
        let workshop = Workshop::open(temp.path(), "sign").unwrap();
        // A packet of compressed data (RFC 9580, section 5.6), and the same in letters.
        for document in [&b"\xa3\x02x\x9c"[..], b"-----BEGIN PGP MESSAGE-----\n", b""] {
            let error = signed_text(&workshop, Path::new("/none"), document, 1 << 20).unwrap_err();
            assert!(error.contains("has signed it in the clear"), "{error}");
        }
    }
}
