//! What happened: one line of JSON an event, in `/var/lib/bulkhead/events.jsonl`.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::Result;
use super::manager::{Manager, now_ms};
use crate::kernel::{KernelError, fault};
use crate::model::{Event, EventKind, GuestName};

/// Bytes after which the file is set aside as `events.jsonl.1`; so at most twice that is kept.
const LARGEST: u64 = 4 << 20;

impl Manager {
    fn events_path(&self) -> PathBuf {
        self.layout.var().join("events.jsonl")
    }

    /// Writes an event down. One write of one line: two writers never mix.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn record(&self, name: &GuestName, kind: EventKind) -> Result<()> {
        fault::point()?;
        let path = self.events_path();
        let event = Event {
            time_ms: now_ms(),
            guest: name.to_string(),
            kind,
        };
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        let mut file = File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(KernelError::io("open", path.display()))?;
        file.write_all(&line)
            .map_err(KernelError::io("write", path.display()))?;
        // Somebody else may have set it aside meanwhile: what is there now is another, and small.
        let is = |inode| std::fs::metadata(&path).is_ok_and(|there| there.ino() == inode);
        let large = |meta: std::fs::Metadata| meta.len() > LARGEST && is(meta.ino());
        if file.metadata().is_ok_and(large) {
            std::fs::rename(&path, path.with_extension("jsonl.1"))
                .map_err(KernelError::io("set aside", path.display()))?;
        }
        Ok(())
    }

    /// Past events, oldest first, of the guests for which `wanted` says yes; calls `show` on each.
    /// With `follow`, goes on with new ones until `show` says stop (by `false`).
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn events(
        &self,
        wanted: &dyn Fn(&Event) -> bool,
        follow: bool,
        show: &mut dyn FnMut(&Event) -> bool,
    ) -> Result<()> {
        let mut log = EventLog::default();
        let mut on = true;
        loop {
            self.new_events(&mut log, &mut |event| {
                on = on && (!wanted(event) || show(event));
                on
            })?;
            if !follow || !on {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Events that `log` has not been told of yet, oldest first, until `show` says stop.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn new_events(
        &self,
        log: &mut EventLog,
        show: &mut dyn FnMut(&Event) -> bool,
    ) -> Result<()> {
        let path = self.events_path();
        log.read_on(&path, show)
            .map_err(KernelError::io("read", path.display()))?;
        Ok(())
    }
}

/// How far somebody has read the events.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    /// In which file (inode), and up to which byte of it.
    read: Option<(u64, u64)>,
}

impl EventLog {
    fn read_on(
        &mut self,
        path: &Path,
        show: &mut dyn FnMut(&Event) -> bool,
    ) -> std::io::Result<()> {
        let now = open(path)?;
        let inode = now.as_ref().map(|(_, inode)| *inode);
        let same = self.read.is_some_and(|(read, _)| Some(read) == inode);
        // What was read last has been set aside, or nothing was read yet.
        let old = match same {
            true => None,
            false => open(&path.with_extension("jsonl.1"))?,
        };
        // One that is set aside between the two looks is read as what it was.
        let old = old.filter(|(_, old)| Some(*old) != inode);
        for (file, inode) in old.into_iter().chain(now) {
            let from = self.read.filter(|(read, _)| *read == inode);
            let from = from.map_or(0, |(_, position)| position);
            let (position, on) = read_lines(file, from, show)?;
            self.read = Some((inode, position));
            if !on {
                break;
            }
        }
        Ok(())
    }
}

/// A file and its inode number; `None` if there is none.
fn open(path: &Path) -> std::io::Result<Option<(File, u64)>> {
    match File::open(path) {
        Ok(file) => {
            let inode = file.metadata()?.ino();
            Ok(Some((file, inode)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Shows the events in whole lines from a position on. Says up to where that was, and whether `show`
/// wants more. A line that is damaged is passed over.
fn read_lines(
    mut file: File,
    from: u64,
    show: &mut dyn FnMut(&Event) -> bool,
) -> std::io::Result<(u64, bool)> {
    // Shorter than it was: somebody has emptied it.
    let mut position = if file.metadata()?.len() < from {
        0
    } else {
        from
    };
    file.seek(SeekFrom::Start(position))?;
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Ok((position, true));
        }
        position += length as u64;
        let event = serde_json::from_slice::<Event>(&line);
        if event.is_ok_and(|event| !show(&event)) {
            return Ok((position, false));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times of the events that are new.
    fn news(log: &mut EventLog, path: &Path) -> Vec<u64> {
        let mut all = Vec::new();
        log.read_on(path, &mut |event| {
            all.push(event.time_ms);
            true
        })
        .unwrap();
        all
    }

    fn write(path: &Path, bytes: &[u8]) {
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        file.write_all(bytes).unwrap();
    }

    fn line(time_ms: u64) -> Vec<u8> {
        format!("{{\"time_ms\":{time_ms},\"guest\":\"a\",\"event\":\"paused\"}}\n").into_bytes()
    }

    #[test]
    fn each_event_is_told_once_whatever_becomes_of_the_file() {
        let folder = std::env::temp_dir().join(format!("bulkhead-log-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let (path, aside) = (folder.join("events.jsonl"), folder.join("events.jsonl.1"));
        let mut log = EventLog::default();
        assert_eq!(news(&mut log, &path), Vec::<u64>::new());
        write(&aside, &line(1));
        write(&path, &line(2));
        assert_eq!(news(&mut log, &path), [1, 2]);
        assert_eq!(news(&mut log, &path), Vec::<u64>::new());
        // Damage, and half a line.
        write(&path, b"\xff\xfe{\n");
        write(&path, &line(3)[..20]);
        assert_eq!(news(&mut log, &path), Vec::<u64>::new());
        write(&path, &line(3)[20..]);
        // Set aside with what was not read yet.
        std::fs::rename(&path, &aside).unwrap();
        write(&path, &line(4));
        assert_eq!(news(&mut log, &path), [3, 4]);
        std::fs::rename(&path, &aside).unwrap();
        assert_eq!(news(&mut log, &path), Vec::<u64>::new());
        write(&path, &line(5));
        assert_eq!(news(&mut log, &path), [5]);
        // Emptied.
        File::create(&path).unwrap();
        assert_eq!(news(&mut log, &path), Vec::<u64>::new());
        write(&path, &line(6));
        assert_eq!(news(&mut log, &path), [6]);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
