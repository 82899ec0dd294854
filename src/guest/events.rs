//! What happened: one line of JSON an event, in `/var/lib/bulkhead/events.jsonl`.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
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
        if file.metadata().is_ok_and(|meta| meta.len() > LARGEST) {
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
        let path = self.events_path();
        let on = std::cell::Cell::new(true);
        let mut show_line = |line: &str| {
            if let Ok(event) = serde_json::from_str::<Event>(line) {
                on.set(on.get() && (!wanted(&event) || show(&event)));
            }
            on.get()
        };
        if let Ok(old) = File::open(path.with_extension("jsonl.1")) {
            let mut lines = BufReader::new(old)
                .lines()
                .map_while(std::result::Result::ok);
            lines.all(|line| show_line(&line));
        }
        let mut position = 0;
        loop {
            if let Ok(mut file) = File::open(&path) {
                let length = file.metadata().map_or(0, |meta| meta.len());
                // Shorter than before: a new file after the old one was set aside.
                position = if length < position { 0 } else { position };
                file.seek(SeekFrom::Start(position))
                    .map_err(KernelError::io("read", path.display()))?;
                let mut reader = BufReader::new(file);
                let mut line = String::new();
                while reader.read_line(&mut line).unwrap_or(0) > 0 {
                    if !line.ends_with('\n') || !show_line(line.trim_end()) {
                        break;
                    }
                    position += line.len() as u64;
                    line.clear();
                }
            }
            if !follow || !on.get() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}
