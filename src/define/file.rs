//! Reads a text file that somebody else may have put there: never waits on it, never follows a
//! link, never takes more than a fixed amount. What the text means is read next door in `read`.

use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

/// Most bytes a definition, profile or settings file may have.
pub const MAX_FILE: u64 = 256 * 1024;

/// A text file that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is none.
    #[error("{path}: there is no such file", path = .0.display())]
    Missing(PathBuf),
    /// The kernel refused.
    #[error("{path}: cannot be read: {cause}", path = .path.display())]
    Kernel {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// Something else than a regular file.
    #[error("{path}: is {what}, not a regular file", path = .path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
        /// What it is, such as `a directory`.
        what: &'static str,
    },
    /// Too long.
    #[error("{path}: has more than {max} bytes, the most such a file may have", path = .0.display(), max = MAX_FILE)]
    TooLong(PathBuf),
    /// Not text.
    #[error("{path}:{line}: is not UTF-8 text", path = .path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// Line of the first wrong byte.
        line: usize,
    },
}

/// The text of a regular file of at most [`MAX_FILE`] bytes. The last part of the path is not
/// followed if it is a link (open(2), O_NOFOLLOW), and a FIFO or device does not make it wait.
///
/// # Errors
/// [`ReadError`] says which of these it was.
pub fn read_file(path: &Path) -> Result<String, ReadError> {
    let kernel = |cause: std::io::Error| ReadError::Kernel {
        path: path.to_owned(),
        cause,
    };
    let not_regular = |what| ReadError::NotRegular {
        path: path.to_owned(),
        what,
    };
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT) => return Err(ReadError::Missing(path.to_owned())),
        // ELOOP may also come from a folder on the way; only the last part is named here.
        Err(rustix::io::Errno::LOOP) if path.is_symlink() => {
            return Err(not_regular("a symbolic link"));
        }
        Err(rustix::io::Errno::NXIO) => return Err(not_regular("a socket or an absent device")),
        Err(errno) => return Err(kernel(errno.into())),
    };
    let stat = rustix::fs::fstat(&file).map_err(|e| kernel(e.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(not_regular("a directory")),
        FileType::Fifo => return Err(not_regular("a FIFO")),
        FileType::Socket => return Err(not_regular("a socket")),
        FileType::CharacterDevice | FileType::BlockDevice => return Err(not_regular("a device")),
        _ => return Err(not_regular("something unknown")),
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file)
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(kernel)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(ReadError::TooLong(path.to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|b| **b == b'\n').count();
        ReadError::NotText {
            path: path.to_owned(),
            line,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("define-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn only_a_regular_file_is_read() {
        let folder = Folder::new("read");
        let at = |name: &str| folder.0.join(name);
        std::fs::write(at("good"), "ptys = 1\n").unwrap();
        assert_eq!(read_file(&at("good")).unwrap(), "ptys = 1\n");

        let refused = |name: &str| read_file(&at(name)).unwrap_err().to_string();
        assert!(refused("none").ends_with("there is no such file"));
        std::os::unix::fs::symlink("good", at("link")).unwrap();
        assert!(refused("link").contains("is a symbolic link"));
        std::fs::create_dir(at("dir")).unwrap();
        assert!(refused("dir").contains("is a directory"));
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), FileType::Fifo, mode, 0).unwrap();
        assert!(refused("fifo").contains("is a FIFO"));
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert!(refused("socket").contains("is a socket"));
        assert!(
            read_file(Path::new("/dev/zero"))
                .unwrap_err()
                .to_string()
                .contains("is a device")
        );
    }

    #[test]
    fn a_gigabyte_is_refused_without_reading_it() {
        let folder = Folder::new("long");
        let path = folder.0.join("long");
        std::fs::File::create(&path)
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        assert!(matches!(read_file(&path), Err(ReadError::TooLong(_))));
        std::fs::write(&path, b"a = 1\nb = \"\xff\"\n").unwrap();
        assert!(matches!(
            read_file(&path),
            Err(ReadError::NotText { line: 2, .. })
        ));
    }
}
