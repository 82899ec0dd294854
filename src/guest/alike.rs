//! Layers that several stopped guests share: files that all of them have alike, in one copy.

use std::time::Duration;

use serde::Serialize;

use super::dedupe::DedupeError;
use super::manager::Manager;
use super::store::GuestLock;
use crate::model::{GuestName, Status};
use crate::storage::{self, Alike, CommonLayer, Gone, Joined, Leads};

/// How long a command at work is waited for before its guest is passed over.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);

/// What was put into layers that guests share, or would be.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Shared {
    /// Layers that are made.
    pub common_layers: u64,
    /// Files of guests that are seen through to such a layer.
    pub common_files: u64,
    /// Bytes of disk that this gives back, without what the layers take.
    pub common_bytes: u64,
    /// Bytes of memory that their guests take less when all of them use all of these.
    pub common_memory: u64,
    /// Folders and files that were left out, and guests that had changed something meanwhile.
    pub common_left_out: u64,
}

impl Shared {
    fn add(&mut self, joined: Joined) {
        self.common_files += joined.files;
        self.common_bytes += joined.bytes;
        self.common_memory += joined.memory;
    }

    /// The copy that stays, as large as one guest's.
    fn take_off(&mut self, copy: Joined) {
        self.common_layers += 1;
        self.common_bytes = self.common_bytes.saturating_sub(copy.bytes);
        self.common_memory = self.common_memory.saturating_sub(copy.memory);
    }
}

type Result<T> = std::result::Result<T, DedupeError>;

impl Manager {
    /// Puts what these guests of one pool and one tenant have alike into layers that they share; with
    /// `would`, only counts, and notes which files would go. Those that run are passed over, and layers that somebody else leads to.
    ///
    /// # Errors
    /// It was interrupted; what goes wrong with single guests is added to `failed`.
    pub(super) fn share_layers(
        &self,
        guests: &[GuestName],
        leads: &Leads,
        would: Option<&mut Gone>,
        found: &mut Shared,
        failed: &mut Vec<String>,
    ) -> Result<()> {
        let old = CommonLayer::of_guests(&self.layout, guests, leads);
        let done = self.share_all(guests, &old, would, found, failed);
        drop(old);
        // Layers that were made one, and those whose last guest went while they were held here.
        self.drop_unused();
        done
    }

    fn share_all(
        &self,
        guests: &[GuestName],
        old: &[(CommonLayer, Vec<GuestName>)],
        mut would: Option<&mut Gone>,
        found: &mut Shared,
        failed: &mut Vec<String>,
    ) -> Result<()> {
        let mut alone = Vec::new();
        for name in guests {
            if self.at_rest(name).is_none() {
                continue;
            }
            match self.join_old(name, old, would.as_deref_mut(), found) {
                Err(error) if error.ends_all() => return Err(error),
                Err(error) => failed.push(format!("guest {name}: {error}")),
                // What it would share is still in its own layer.
                Ok(true) if would.is_some() => {}
                Ok(_) => alone.push(name.clone()),
            }
        }
        let left_out = &mut found.common_left_out;
        let nothing = Gone::default();
        let gone = would.as_deref().unwrap_or(&nothing);
        let alike = storage::alike(&self.layout, &alone, gone, (left_out, failed))?;
        for one in &alike {
            if let Some(gone) = would.as_deref_mut() {
                one.note(&self.layout, gone);
                found.common_layers += 1;
                found.common_files += one.files() * one.guests.len() as u64;
                found.common_bytes += one.spared();
                found.common_memory += one.spared();
                continue;
            }
            self.share(one, found, failed)?;
        }
        Ok(())
    }

    /// The lock of a guest that is stopped and at which no other command works.
    pub(super) fn at_rest(&self, name: &GuestName) -> Option<GuestLock> {
        let lock = self.lock_within(name, "dedupe", PATIENCE).ok()?;
        matches!(self.status(name), Ok(Status::Stopped)).then_some(lock)
    }

    /// Has a guest see through what it has to layers that others share already; says whether to any.
    fn join_old(
        &self,
        name: &GuestName,
        old: &[(CommonLayer, Vec<GuestName>)],
        mut would: Option<&mut Gone>,
        found: &mut Shared,
    ) -> Result<bool> {
        let mut any = false;
        for (layer, by) in old {
            if by.contains(name) {
                continue;
            }
            let Some(_lock) = self.at_rest(name) else {
                continue;
            };
            if let Some(joined) = layer.join(&self.layout, name, would.as_deref_mut())? {
                found.add(joined);
                any = true;
            }
        }
        Ok(any)
    }

    /// Makes a layer of what guests have alike, and has them share it.
    fn share(&self, alike: &Alike, found: &mut Shared, failed: &mut Vec<String>) -> Result<()> {
        let mut made: Option<CommonLayer> = None;
        let mut copy = None;
        for name in &alike.guests {
            let Some(_lock) = self.at_rest(name) else {
                found.common_left_out += 1;
                continue;
            };
            let joined = self.share_one(name, alike, &mut made);
            let mut ended = None;
            match joined {
                Err(error) if error.ends_all() => ended = Some(error),
                Err(error) => failed.push(format!("guest {name}: {error}")),
                Ok(None) => found.common_left_out += 1,
                Ok(Some(joined)) => {
                    found.add(joined);
                    copy.get_or_insert(joined);
                }
            }
            // What this one has cannot be made a layer, or is not what was read: the next one's may.
            if copy.is_none() && made.take().is_some() {
                self.drop_unused();
            }
            if let Some(error) = ended {
                return Err(error);
            }
        }
        if let Some(copy) = copy {
            found.take_off(copy);
        }
        Ok(())
    }

    /// Has one guest share the layer, which is made of what the first of them has.
    fn share_one(
        &self,
        name: &GuestName,
        alike: &Alike,
        made: &mut Option<CommonLayer>,
    ) -> Result<Option<Joined>> {
        let layer = match made.take() {
            Some(layer) => layer,
            None => match CommonLayer::make(&self.layout, name, alike)? {
                Some(layer) => layer,
                None => return Ok(None),
            },
        };
        Ok(made.insert(layer).join(&self.layout, name, None)?)
    }
}
