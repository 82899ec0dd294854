//! What is kept of a container, in one file: the configuration it was made from, behind its length,
//! and a line of JSON for each change since, the last of which counts.
//!
//! A line is there when its end is: the kernel makes a file longer after it has written what is new,
//! so that nobody has to be kept from reading meanwhile, and nothing is renamed. What a killed
//! command has left of a line is passed over.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::error::{OciError, Result};
use super::store::{LARGEST, Status};
use crate::kernel::cgroup::Frozen;
use crate::kernel::process_known::Known;
use crate::kernel::{Errno, KernelError, fault};
use crate::model::CgroupPlace;

/// What is kept of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) oci_version: String,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    /// First process; `None` until there is one.
    pub(super) process: Option<Known>,
    /// Whether it waits for a word to start, or has been waiting for one.
    pub(super) waits: bool,
    /// Milliseconds since 1970.
    pub(super) created_ms: u64,
    pub(super) owner: String,
    pub(super) cgroup: Option<CgroupPlace>,
    /// Whether its root is not that of its mount namespace.
    pub(super) chrooted: bool,
    /// CLONE_NEW* bits of its namespaces.
    pub(super) namespaces: u64,
    /// Whether some hook is to run after its start, and after its end.
    pub(super) poststart: bool,
    pub(super) poststop: bool,
    /// Group of Intel's RDT that was made for it.
    pub(super) rdt: Option<String>,
    pub(super) annotations: BTreeMap<String, String>,
}

impl Record {
    /// How the container is now. `start` opens the FIFO its program waits on.
    pub(super) fn status(
        &self,
        frozen: &Frozen,
        start: impl FnOnce() -> Result<Option<OwnedFd>>,
    ) -> Status {
        let Some(process) = self.process else {
            return Status::Creating;
        };
        if !process.lives() {
            return Status::Stopped;
        }
        let place = self.cgroup.as_ref();
        if place.is_some_and(|place| frozen.is(place).unwrap_or(false)) {
            // Also before its start, which would wait for it to go on.
            return Status::Paused;
        }
        // One that cannot be opened for another reason than that is not believed to run.
        match self.waits.then(start).transpose() {
            Ok(None | Some(None)) => Status::Running,
            _ => Status::Created,
        }
    }

    fn line(&self) -> Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self).map_err(OciError::Config)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// Digits of the configuration's length, and the end of their line.
const HEAD: usize = 9;

/// How much is asked for at first, bytes: two lines of a usual container.
const USUAL: usize = 2 << 10;

/// A container's file: the folder it is looked up from, its path there, and the container's name.
pub(super) struct File<'a, F> {
    pub(super) folder: &'a F,
    pub(super) path: &'a str,
    pub(super) id: &'a str,
}

impl<F: AsFd> File<'_, F> {
    fn open(&self, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.folder, self.path, flags, Mode::from_raw_mode(0o600))
    }

    fn name(&self) -> String {
        format!("the state of container {}", self.id)
    }

    /// Writes the configuration and the first record, of a container that has no process yet.
    pub(super) fn begin(&self, config: &[u8], record: &Record) -> Result<()> {
        fault::point()?;
        let head = format!("{:08}\n", config.len());
        let mut line = record.line()?;
        line.insert(0, b'\n');
        let flags = OFlags::CREATE | OFlags::EXCL;
        self.write(flags, &[head.as_bytes(), config, &line])
    }

    /// Adds the record as it is now. The empty line ends what may have been left half written.
    pub(super) fn add(&self, record: &Record) -> Result<()> {
        fault::point()?;
        let mut line = record.line()?;
        line.insert(0, b'\n');
        self.write(OFlags::APPEND, &[&line])
    }

    fn write(&self, flags: OFlags, parts: &[&[u8]]) -> Result<()> {
        let done = || {
            let file = self.open(OFlags::WRONLY | flags)?;
            for &part in parts {
                let mut rest = part;
                while !rest.is_empty() {
                    let n = rustix::io::write(&file, rest)?;
                    rest = &rest[n..];
                }
            }
            Ok(())
        };
        done().map_err(KernelError::on("write", self.name()))?;
        Ok(fault::point()?)
    }

    /// The file and where its records begin; `None` where there is none yet.
    fn begun(&self) -> Result<Option<(OwnedFd, u64)>> {
        let failed = |errno| KernelError::new("read", self.name(), errno);
        let file = match self.open(OFlags::RDONLY | OFlags::NONBLOCK) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            other => other.map_err(failed)?,
        };
        let mut head = [0; HEAD];
        let n = rustix::io::retry_on_intr(|| rustix::io::pread(&file, &mut head, 0));
        if n.map_err(failed)? < HEAD {
            return Ok(None);
        }
        let digits = std::str::from_utf8(&head[..HEAD - 1]).ok();
        let length: Option<u64> = digits.and_then(|digits| digits.parse().ok());
        let length = length.filter(|length| *length <= LARGEST);
        let length = length.ok_or_else(|| self.damaged("it does not begin with a length"))?;
        Ok(Some((file, HEAD as u64 + length + 1)))
    }

    fn damaged(&self, why: impl ToString) -> OciError {
        OciError::File {
            path: self.name(),
            why: why.to_string(),
        }
    }

    /// What is known of the container; `None` while it is being made.
    pub(super) fn record(&self) -> Result<Option<Record>> {
        let Some((file, at)) = self.begun()? else {
            return Ok(None);
        };
        let text = self.rest(&file, at, USUAL, LARGEST)?;
        let lines = text.split_inclusive(|byte| *byte == b'\n');
        let mut whole = lines.filter(|line| line.len() > 1 && line.ends_with(b"\n"));
        let mut why = None;
        while let Some(line) = whole.next_back() {
            match serde_json::from_slice(line) {
                Ok(record) => return Ok(Some(record)),
                Err(error) => why = Some(error),
            }
        }
        why.map_or(Ok(None), |why| Err(self.damaged(why)))
    }

    /// The configuration it was made from.
    pub(super) fn config(&self) -> Result<Vec<u8>> {
        let missing = || OciError::Missing(self.id.to_owned());
        let (file, records) = self.begun()?.ok_or_else(missing)?;
        let length = records - HEAD as u64 - 1;
        let asked = usize::try_from(length).map_err(|_| missing())?;
        let mut text = self.rest(&file, HEAD as u64, asked, length)?;
        text.truncate(asked);
        match text.len() == asked {
            true => Ok(text),
            false => Err(self.damaged("its configuration is cut off")),
        }
    }

    /// Its content from a place on, to its end or as much as is `wanted`.
    fn rest(&self, file: &OwnedFd, at: u64, first: usize, wanted: u64) -> Result<Vec<u8>> {
        let failed = |errno| KernelError::new("read", self.name(), errno);
        // One byte more, by which the end shows itself.
        let mut data = Vec::with_capacity(first + 1);
        loop {
            let asked = data.spare_capacity_mut().len();
            let from = at + data.len() as u64;
            let n = rustix::io::retry_on_intr(|| {
                rustix::io::pread(file, rustix::buffer::spare_capacity(&mut data), from)
            });
            // A regular file gives all it has: less than asked for is its end.
            if n.map_err(failed)? < asked || data.len() as u64 >= wanted {
                return Ok(data);
            }
            if data.len() as u64 > LARGEST {
                return Err(failed(Errno::FBIG).into());
            }
            data.reserve(16 << 10);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn record(id: &str) -> Record {
        Record {
            id: id.into(),
            oci_version: "1.3.0".into(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            process: None,
            waits: false,
            created_ms: 0,
            owner: "root".into(),
            cgroup: None,
            chrooted: false,
            namespaces: 0,
            poststart: false,
            poststop: false,
            rdt: None,
            annotations: BTreeMap::new(),
        }
    }

    /// A file in a folder of its own, for `body`.
    fn with_file(name: &str, body: impl FnOnce(&File<'_, OwnedFd>, &std::path::Path)) {
        let root = std::env::temp_dir().join(format!("bulkhead-{name}-{}", std::process::id()));
        crate::kernel::file::make_private_dir(&root).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let folder = rustix::fs::open(&root, flags, Mode::empty()).unwrap();
        let file = File {
            folder: &folder,
            path: "state",
            id: "one",
        };
        body(&file, &root.join("state"));
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_last_record_counts_and_the_configuration_stays() {
        with_file("record", |file, _| {
            assert!(file.record().unwrap().is_none());
            for config in [&b"{\n \"a\":\n\n 1}\n"[..], b"", &[b'x'; 100_000]] {
                file.begin(config, &record("one")).unwrap();
                assert!(file.begin(config, &record("two")).is_err(), "begun already");
                assert_eq!(file.record().unwrap().unwrap().process, None);
                let mut later = record("one");
                later.process = Known::of(std::process::id());
                // Many more than the first look gets.
                for number in 0..50 {
                    later.created_ms = number;
                    file.add(&later).unwrap();
                    let found = file.record().unwrap().unwrap();
                    assert_eq!(found.created_ms, number);
                    assert!(found.process.unwrap().lives());
                }
                assert_eq!(file.config().unwrap(), config);
                rustix::fs::unlinkat(file.folder, "state", rustix::fs::AtFlags::empty()).unwrap();
            }
        });
    }

    #[test]
    fn what_was_left_half_written_is_passed_over() {
        with_file("half", |file, path| {
            let whole = |data: &[u8]| {
                std::fs::write(path, data).unwrap();
                file.record()
            };
            file.begin(b"{}", &record("one")).unwrap();
            let first = std::fs::read(path).unwrap();
            for length in 0..first.len() {
                assert!(whole(&first[..length]).unwrap().is_none(), "{length} bytes");
            }
            assert!(whole(&first).unwrap().is_some());
            let mut later = record("one");
            later.created_ms = 7;
            file.add(&later).unwrap();
            let second = std::fs::read(path).unwrap();
            for length in first.len()..second.len() {
                let found = whole(&second[..length]).unwrap().unwrap();
                assert_eq!(found.created_ms, 0, "{length} bytes");
                later.created_ms = 9;
                file.add(&later).unwrap();
                assert_eq!(file.record().unwrap().unwrap().created_ms, 9);
            }
        });
    }

    #[test]
    fn what_was_not_written_by_us_is_an_error() {
        with_file("damaged", |file, path| {
            for text in ["not a number\n", "99999999\n{}\n{}\n", "00000002\n{}\n{}\n"] {
                std::fs::File::create(path)
                    .unwrap()
                    .write_all(text.as_bytes())
                    .unwrap();
                let error = file.record().unwrap_err().to_string();
                assert!(error.contains("the state of container one"), "{error}");
            }
            std::fs::write(path, "00000009\n{}\n").unwrap();
            assert!(file.record().unwrap().is_none());
            assert!(file.config().is_err());
        });
    }
}
