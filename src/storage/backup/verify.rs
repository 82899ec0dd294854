//! Looking whether everything is there and is what was written: by lists and sizes, or by reading
//! every byte.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::super::digest::hex;
use super::blob::Kind;
use super::error::{BackupError, Result};
use super::folder::shown;
use super::manifest::ListReader;
use super::pack::{self, LARGEST};
use super::repo::Repository;
use super::snapshot::Snapshot;
use crate::kernel::interrupt;

/// What a look at a repository has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Packs looked at.
    pub packs: u64,
    /// Chunks in them.
    pub chunks: u64,
    /// Bytes of packs.
    pub bytes: u64,
    /// Whether all of those bytes were read.
    pub data_read: bool,
    /// What is wrong; none if all is well.
    pub faults: Vec<String>,
    /// Packs that no index names: of a backup that was cut short. `prune` removes them.
    pub unused_packs: u64,
}

impl Repository {
    /// Looks at everything; with `read_data` every byte is read.
    ///
    /// # Errors
    /// The repository cannot be read at all, or a signal asks this program to end. What is damaged is
    /// no error but in the verdict.
    pub fn verify(&self, read_data: bool, progress: &mut dyn FnMut(u64, u64)) -> Result<Verdict> {
        let mut verdict = Verdict {
            data_read: read_data,
            chunks: self.index.len() as u64,
            ..Verdict::default()
        };
        self.packs(read_data, &mut verdict, progress)?;
        for (name, _) in self.blobs.list(Kind::Snapshot)? {
            verdict.snapshots += 1;
            match self.snapshot(&name) {
                Ok(snapshot) => self.complete(&snapshot, &mut verdict)?,
                Err(error) => verdict.fault(error)?,
            }
        }
        Ok(verdict)
    }

    fn packs(
        &self,
        read_data: bool,
        verdict: &mut Verdict,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<()> {
        let there: BTreeMap<String, u64> = self.blobs.list(Kind::Pack)?.into_iter().collect();
        let total = self.index.packs.iter().map(|(_, size)| size).sum();
        let mut known = HashSet::new();
        for (id, size) in &self.index.packs {
            let name = hex(id);
            verdict.packs += 1;
            verdict.bytes += size;
            let fault = match there.get(&name) {
                None => Some("it is missing"),
                Some(held) if held != size => Some("it has another size than the index says"),
                Some(_) => None,
            };
            match fault {
                Some(why) => verdict.fault(BackupError::damaged(shown(Kind::Pack, &name), why))?,
                None if read_data => self.pack(id, verdict)?,
                None => {}
            }
            progress(verdict.bytes, total);
            known.insert(name);
        }
        verdict.unused_packs = there.keys().filter(|name| !known.contains(*name)).count() as u64;
        Ok(())
    }

    /// Reads a pack whole.
    fn pack(&self, id: &[u8; 32], verdict: &mut Verdict) -> Result<()> {
        stop_if_asked()?;
        let name = hex(id);
        let damaged = |why: &str| BackupError::damaged(shown(Kind::Pack, &name), why);
        let bytes = match self.blobs.get(Kind::Pack, &name, LARGEST) {
            Ok(bytes) => bytes,
            Err(error) => return verdict.fault(error),
        };
        if self.secrets.pack_id(&bytes) != *id {
            verdict.fault(damaged("its bytes are not those that were written"))?;
        }
        let slots = match pack::list(&self.secrets, &bytes) {
            Ok(pack) => pack.slots,
            Err(error) => return verdict.fault(error),
        };
        for slot in slots {
            let begin = slot.offset as usize;
            let sealed = bytes.get(begin..begin + slot.stored as usize);
            if sealed.is_none_or(|sealed| self.open_chunk(&slot.id, sealed).is_none()) {
                verdict.fault(damaged(&format!("chunk {} in it", slot.id.hex())))?;
            }
        }
        Ok(())
    }

    /// Whether all that a snapshot needs is there.
    fn complete(&self, snapshot: &Snapshot, verdict: &mut Verdict) -> Result<()> {
        for tree in snapshot.trees() {
            stop_if_asked()?;
            let whole = || -> Result<()> {
                let mut list = ListReader::new(tree.list()?);
                while let Some(entry) = list.next(self)? {
                    if !entry.data.iter().all(|chunk| self.holds(chunk)) {
                        let path = String::from_utf8_lossy(&entry.item.path).into_owned();
                        return Err(BackupError::damaged(path, "a chunk of it is missing"));
                    }
                }
                Ok(())
            };
            if let Err(error) = whole() {
                let (id, guest) = (&snapshot.id, &snapshot.guest);
                let what = format!("snapshot {id} of {guest}");
                match error.is_damage() {
                    true => verdict.fault(BackupError::damaged(what, error.to_string()))?,
                    false => return Err(error),
                }
            }
        }
        Ok(())
    }
}

impl Verdict {
    /// Notes what is damaged; another error ends the work.
    fn fault(&mut self, error: BackupError) -> Result<()> {
        match error {
            BackupError::Damaged { what, why } => {
                self.faults.push(format!("{what}: {why}"));
                Ok(())
            }
            // The disk cannot read it: as bad as a flipped bit, and no reason to stop.
            BackupError::File(error) => {
                self.faults.push(error.to_string());
                Ok(())
            }
            error => Err(error),
        }
    }
}

/// Ends long work when a signal asks for it.
pub(super) fn stop_if_asked() -> Result<()> {
    match interrupt::caught() {
        None => Ok(()),
        Some(_) => {
            let source = rustix::io::Errno::INTR;
            Err(crate::kernel::KernelError::new("go on with", "the repository", source).into())
        }
    }
}
