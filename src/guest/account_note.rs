//! What a guest's counters of traffic said last, beside its account: they are in the firewall, which
//! somebody may take away between two looks at the account. A keeper writes the note often, since it is
//! small and not kept over a reboot, which takes the counters with it as well.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::account::Counted;
use super::error::Result;
use super::ledger::{Ledger, Seen};
use super::manager::Manager;
use crate::kernel::file;
use crate::model::{GuestName, Traffic};

/// Longest note that is read, bytes.
const LONGEST: u64 = 1 << 20;

/// Which file an account is: each time it is written it is another.
pub(super) type Stamp = Option<(u64, i64, i64)>;

/// `traffic.json` in a guest's folder of what runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    /// The account that it goes with: to a later one it has been added.
    account: Stamp,
    /// Of the first interface.
    first: Option<Seen<Traffic>>,
    /// Of the others, by their networks.
    nics: BTreeMap<String, Seen<Traffic>>,
}

impl Note {
    /// Adds what came until it was written.
    pub(super) fn add(
        self,
        traffic: &mut Ledger<Traffic, Traffic>,
        nics: &mut BTreeMap<String, Seen<Traffic>>,
        day: &str,
    ) {
        if self.first.is_some() {
            traffic.add(self.first, day);
        }
        for (network, seen) in self.nics {
            traffic.add_beside(nics.get(&network), &seen, day);
            nics.insert(network, seen);
        }
    }
}

impl Manager {
    /// The note of a guest, unless its account was written since.
    pub(super) fn noted(&self, name: &GuestName, account: &Path) -> Option<Note> {
        // What could not be written when the guest ended has it already.
        if self.late_account(name).is_some() {
            return None;
        }
        let text = file::read_small(&self.note_path(name), LONGEST).ok()??;
        let note: Note = serde_json::from_slice(&text).ok()?;
        (note.account == stamp(account)).then_some(note)
    }

    /// Writes it, from the guest's keeper, if no command is at work on the guest.
    pub(super) fn note_traffic(&self, name: &GuestName) -> Result<()> {
        let Ok(_lock) = self.lock_within(name, "keeper", Duration::ZERO) else {
            return Ok(());
        };
        let (first, nics): Counted = self.counted(name)?;
        let account = &self.account_path(name);
        let before = self.noted(name, account);
        // Where the counters are gone, what they said last is all that is known.
        if first.is_none() && nics.is_empty() {
            return Ok(());
        }
        let note = Note {
            account: stamp(account),
            first,
            nics,
        };
        if before.as_ref() == Some(&note) {
            return Ok(());
        }
        if before.is_some_and(|before| note.begins_anew(&before)) {
            self.keep_account(name, None);
            return Ok(());
        }
        let text = serde_json::to_vec(&note).unwrap_or_default();
        Ok(file::write_runtime(&self.note_path(name), &text, 0o600)?)
    }

    fn note_path(&self, name: &GuestName) -> PathBuf {
        self.layout.guest_run(name).join("traffic.json")
    }
}

impl Note {
    /// Whether it is of other counters than one before, which then is to be added first.
    fn begins_anew(&self, before: &Self) -> bool {
        let source = |seen: &Seen<Traffic>| seen.source.clone();
        let lost = |network: &str| {
            let now = self.nics.get(network).map(source);
            before.nics.get(network).map(source) != now
        };
        self.first.as_ref().map(source) != before.first.as_ref().map(source)
            || before.nics.keys().any(|network| lost(network))
    }
}

/// Which file it is.
pub(super) fn stamp(account: &Path) -> Stamp {
    let file = std::fs::metadata(account).ok()?;
    Some((file.ino(), file.mtime(), file.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Flows, Volume};

    fn seen(source: &str, bytes: u64) -> Seen<Traffic> {
        let sent_ipv4 = Volume { packets: 1, bytes };
        let external = Flows {
            sent_ipv4,
            ..Flows::default()
        };
        Seen {
            source: source.to_owned(),
            counters: Traffic {
                external,
                ..Traffic::default()
            },
        }
    }

    fn note(first: Option<Seen<Traffic>>, nic: Option<Seen<Traffic>>) -> Note {
        Note {
            account: None,
            first,
            nics: nic.into_iter().map(|nic| ("lan".to_owned(), nic)).collect(),
        }
    }

    #[test]
    fn counters_that_are_gone_count_up_to_the_note() {
        let (mut traffic, mut nics) = (Ledger::default(), BTreeMap::new());
        let day = "2026-03-01";
        traffic.add(Some(seen("a", 100)), day);
        note(Some(seen("a", 700)), Some(seen("l", 30))).add(&mut traffic, &mut nics, day);
        // The firewall was made anew since, and has counted a little.
        traffic.add(Some(seen("b", 5)), day);
        traffic.add_beside(nics.get("lan"), &seen("l", 50), day);
        let sum = traffic.periods[day].external.sent_ipv4.bytes;
        assert_eq!(sum, 700 + 5 + 50);
        // Without the first interface's counters those of the account stay what was seen last.
        note(None, None).add(&mut traffic, &mut nics, day);
        traffic.add(Some(seen("b", 6)), day);
        assert_eq!(traffic.periods[day].external.sent_ipv4.bytes, sum + 1);
    }

    #[test]
    fn other_counters_are_told_apart() {
        let one = note(Some(seen("a", 1)), Some(seen("l", 1)));
        assert!(!note(Some(seen("a", 9)), Some(seen("l", 9))).begins_anew(&one));
        assert!(note(Some(seen("b", 9)), Some(seen("l", 9))).begins_anew(&one));
        assert!(note(Some(seen("a", 9)), None).begins_anew(&one));
        assert!(!one.begins_anew(&note(Some(seen("a", 1)), None)));
    }
}
