//! What is sold of the filesystems that pools lie on, and whether a guest's disk fits beside it. A disk
//! is a guest's from when it is made until it is gone, whether it runs or not, in the trash too.
//!
//! Looking and writing the definition is done under one lock, so that two commands at once do not sell the
//! same room.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::error::{GuestError, Result};
use super::manager::Manager;
use crate::kernel::file::Lock;
use crate::model::{Guest, GuestName, Ratio, Resource, Room};
use crate::storage::{self, Pool};

/// How long a command waits for others that look for room.
const PATIENCE: Duration = Duration::from_secs(60);

/// A filesystem that pools lie on. Bytes.
#[derive(Clone, Debug, Serialize)]
pub struct DiskHeld {
    /// The pools.
    pub pools: Vec<String>,
    /// What it has.
    pub host: u64,
    /// Kept for the host.
    pub reserve: u64,
    /// How often the rest may be sold, in hundredths; `None` for as often as one likes.
    pub ratio: Option<u32>,
    /// What may be sold.
    pub whole: Option<u64>,
    /// Disks of guests, and of pools in files, together.
    pub sold: u64,
    /// Guests without a size.
    pub unlimited: u64,
    /// What can still be sold.
    pub free: Option<u64>,
    /// What is written there, by whomever.
    pub used: u64,
}

/// One with what it is known by.
struct Found {
    device: u64,
    held: DiskHeld,
}

impl Manager {
    /// All filesystems that pools lie on.
    ///
    /// # Errors
    /// The pools or the guests' definitions cannot be read.
    pub fn disks(&self) -> Result<Vec<DiskHeld>> {
        Ok(self
            .disks_but(None)?
            .into_iter()
            .map(|found| found.held)
            .collect())
    }

    /// The same without what one guest has.
    fn disks_but(&self, but: Option<&GuestName>) -> Result<Vec<Found>> {
        let room = self.settings.room;
        let mut found: BTreeMap<u64, DiskHeld> = BTreeMap::new();
        let mut lies: BTreeMap<String, u64> = BTreeMap::new();
        let mut files = Vec::new();
        for pool in storage::pools(&self.layout)? {
            // The folder of a pool may be on a disk that is not there today.
            let Ok(used) = pool.used(&self.layout) else {
                continue;
            };
            let held = found.entry(used.device).or_insert(DiskHeld {
                pools: Vec::new(),
                host: used.size,
                reserve: room.disk_reserve,
                ratio: room.disk_ratio.map(|ratio| ratio.0),
                whole: None,
                sold: 0,
                unlimited: 0,
                free: None,
                used: used.size.saturating_sub(used.free),
            });
            held.pools.push(pool.name.clone());
            lies.insert(pool.name, used.device);
            files.extend(used.file);
        }
        for (device, size) in files {
            if let Some(below) = found.get_mut(&device) {
                below.sold = below.sold.saturating_add(size);
            }
        }
        let profiles = self.profiles()?;
        for name in self.all_names()? {
            let text = self.definition_text(&name);
            let guest = text.and_then(|text| self.define_by(&name, &text, &profiles));
            // What one has whose definition has become wrong is not known.
            let Ok(guest) = guest.as_ref() else {
                continue;
            };
            let device = lies.get(&guest.disk.pool);
            if but == Some(&name) {
                continue;
            }
            if let Some(held) = device.and_then(|device| found.get_mut(device)) {
                match guest.disk.size {
                    Some(size) => held.sold = held.sold.saturating_add(size.0),
                    None => held.unlimited += 1,
                }
            }
        }
        let filled = |(device, mut held): (u64, DiskHeld)| {
            held.whole = held.ratio.map(|ratio| room_of(&held, ratio).whole());
            held.free = held.whole.map(|whole| whole.saturating_sub(held.sold));
            Found { device, held }
        };
        Ok(found.into_iter().map(filled).collect())
    }

    /// Refuses a disk that the pool's filesystem has no room for, where the host's settings say how much
    /// may be sold; what the guest has already it keeps. Until what is returned is dropped, nobody else
    /// sells any.
    pub(super) fn sell_disk(&self, guest: &Guest, held: u64) -> Result<Option<Lock>> {
        let Some((size, ratio)) = guest.disk.size.zip(self.settings.room.disk_ratio) else {
            return Ok(None);
        };
        if size.0 <= held {
            return Ok(None);
        }
        let path = self.layout.run().join("disks.lock");
        let lock = Lock::take(&path, PATIENCE)?.ok_or_else(|| {
            GuestError::TimedOut(format!(
                "others look for room on disks, and the time to wait for {} is up; try again",
                path.display()
            ))
        })?;
        let device = Pool::load(&self.layout, &guest.disk.pool)?
            .used(&self.layout)?
            .device;
        let all = self.disks_but(Some(&guest.name))?;
        let Some(found) = all.iter().find(|found| found.device == device) else {
            return Ok(Some(lock));
        };
        match short(&found.held, size.0, ratio) {
            None => Ok(Some(lock)),
            Some(why) => Err(GuestError::NoDisk {
                name: guest.name.clone(),
                pool: guest.disk.pool.clone(),
                why,
            }),
        }
    }

    /// What a guest has of the disk that its definition says. Where its profile, or whoever edited a file,
    /// says more by now than the disk has, that is sold when a command makes it so (`said`).
    pub(super) fn disk_had(&self, guest: &Guest, said: bool) -> u64 {
        let says = guest.disk.size.map_or(0, |size| size.0);
        if !said || self.settings.room.disk_ratio.is_none() {
            return says;
        }
        let kept = storage::disk_kept_to(&self.layout, &guest.name);
        kept.ok().flatten().map_or(says, |kept| says.min(kept))
    }

    /// Sells a guest that is there the disk of the definition that it is to get.
    pub(super) fn sell_disk_as(
        &self,
        name: &GuestName,
        text: Option<&str>,
    ) -> Result<Option<Lock>> {
        let Some(text) = text.filter(|_| self.settings.room.disk_ratio.is_some()) else {
            return Ok(None);
        };
        let before = self.guest(name).ok().and_then(|guest| guest.disk.size);
        self.sell_disk(&self.define(name, text)?, before.map_or(0, |size| size.0))
    }
}

fn room_of(held: &DiskHeld, ratio: u32) -> Room {
    Room {
        host: held.host,
        reserve: held.reserve,
        given: 0,
        ratio,
    }
}

/// Why there is no room for so many bytes.
fn short(held: &DiskHeld, wanted: u64, ratio: Ratio) -> Option<String> {
    let left = held.free.unwrap_or(u64::MAX);
    let bytes = |n| Resource::Memory.exactly(n);
    (wanted > left).then(|| {
        format!(
            "it is to have {}, and {} are left, {} too few (the filesystem has {}, {} of them in reserve; \
             the rest counts {ratio} times; {} are sold)",
            bytes(wanted),
            bytes(left),
            bytes(wanted - left),
            bytes(held.host),
            bytes(held.reserve),
            bytes(held.sold),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_fits_to_the_byte_or_is_refused_with_what_is_missing() {
        let mut held = DiskHeld {
            pools: vec!["default".into()],
            host: 1000,
            reserve: 100,
            ratio: Some(150),
            whole: Some(1350),
            sold: 1000,
            unlimited: 0,
            free: Some(350),
            used: 0,
        };
        assert_eq!(room_of(&held, 150).whole(), 1350);
        assert_eq!(short(&held, 350, Ratio(150)), None);
        let why = short(&held, 351, Ratio(150)).unwrap();
        assert_eq!(
            why,
            "it is to have 351 bytes, and 350 bytes are left, 1 bytes too few (the filesystem has 1000 \
             bytes, 100 bytes of them in reserve; the rest counts 1.5 times; 1000 bytes are sold)"
        );
        held.free = None;
        assert_eq!(short(&held, u64::MAX, Ratio(150)), None);
    }
}
