//! What the host has promised, what is used of it, and how many more guests of a size fit.

use std::time::Duration;

use serde::Serialize;

use super::disk_room::DiskHeld;
use super::error::Result;
use super::manager::Manager;
use super::view::chain;
use crate::model::{Amounts, CpuMode, Guest, GuestName, Resource, Seating, Status};

/// Profiles that are sizes.
pub const SIZES: [&str; 5] = ["tiny", "small", "medium", "large", "xlarge"];

/// Between two readings of CPU time.
const MOMENT: Duration = Duration::from_millis(200);

/// One resource of the host. Memory in bytes, CPUs in hundredths.
#[derive(Clone, Debug, Serialize)]
pub struct Held {
    /// Which.
    pub resource: Resource,
    /// What there is.
    pub host: u64,
    /// Kept for the host.
    pub reserve: u64,
    /// Given away whole, to guests and pools for themselves.
    pub given: u64,
    /// How often the rest may be promised, in hundredths.
    pub ratio: u32,
    /// What may be promised.
    pub whole: u64,
    /// What running guests are guaranteed.
    pub guaranteed: u64,
    /// What can still be guaranteed.
    pub free: u64,
    /// Limits of running guests together.
    pub sold: u64,
    /// Running guests without a limit.
    pub unlimited: u64,
    /// What running guests use now.
    pub used: u64,
    /// The most that guests used together in the last week, or use now.
    pub peak: u64,
}

/// What there is too little of for one more guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scarce {
    /// Memory.
    Memory,
    /// CPUs.
    Cpus,
    /// Room on disks.
    Disk,
}

impl From<Resource> for Scarce {
    fn from(resource: Resource) -> Self {
        match resource {
            Resource::Memory => Self::Memory,
            Resource::Cpus => Self::Cpus,
        }
    }
}

/// How many more guests of a profile fit.
#[derive(Clone, Debug, Serialize)]
pub struct Fit {
    /// Profile.
    pub profile: String,
    /// So many more; `None` for as many as one likes.
    pub more: Option<u64>,
    /// Of what there is too little then.
    pub then: Option<Scarce>,
    /// Why no guest of it can be on this machine at all.
    pub why: Option<String>,
}

/// What is left of a host.
#[derive(Clone, Debug, Serialize)]
pub struct Capacity {
    /// Resources.
    pub resources: Vec<Held>,
    /// Filesystems that pools lie on.
    pub disks: Vec<DiskHeld>,
    /// Built-in sizes.
    pub sizes: Vec<Fit>,
}

/// What running guests have been promised and sold.
struct Taken {
    running: Vec<GuestName>,
    guaranteed: Amounts,
    seating: Seating,
    sold: Amounts,
    without_cpu_limit: u64,
}

impl Manager {
    /// What the host has promised, what is used, what is left.
    ///
    /// # Errors
    /// The guests' states or the profiles cannot be read.
    pub fn capacity(&self) -> Result<Capacity> {
        let taken = self.promises()?;
        let room = self.room_beside(&taken.seating);
        let (used, peak) = (self.used(&taken.running), self.peak());
        let held = |resource| {
            let room = room.of(resource);
            let guaranteed = taken.guaranteed.of(resource);
            Held {
                resource,
                host: room.host,
                reserve: room.reserve,
                given: room.given,
                ratio: room.ratio,
                whole: room.whole(),
                guaranteed,
                free: room.whole().saturating_sub(guaranteed),
                sold: taken.sold.of(resource),
                unlimited: match resource {
                    Resource::Memory => 0,
                    Resource::Cpus => taken.without_cpu_limit,
                },
                used: used.of(resource),
                peak: peak.of(resource).max(used.of(resource)),
            }
        };
        let sizes = SIZES.map(|size| self.fit_beside(size, &taken));
        Ok(Capacity {
            resources: Resource::ALL.map(held).to_vec(),
            disks: self.disks()?,
            sizes: sizes.into_iter().collect::<Result<_>>()?,
        })
    }

    /// How many more guests of a profile fit beside those that run.
    ///
    /// # Errors
    /// There is no such profile, or the guests' states cannot be read.
    pub fn fit(&self, profile: &str) -> Result<Fit> {
        self.profiles()?
            .get(profile)
            .map_err(|error| super::GuestError::Host {
                key: "profile",
                what: profile.to_owned(),
                why: error.to_string(),
            })?;
        self.fit_beside(profile, &self.promises()?)
    }

    fn fit_beside(&self, profile: &str, taken: &Taken) -> Result<Fit> {
        let none = |why| Fit {
            profile: profile.to_owned(),
            more: Some(0),
            then: None,
            why,
        };
        let name: GuestName = match "one".parse() {
            Ok(name) => name,
            Err(_) => return Ok(none(None)),
        };
        let text = format!("profiles = [\"{profile}\"]\n");
        let guest: Guest = match self.define_by(&name, &text, &self.profiles()?) {
            Ok(guest) => guest,
            Err(error) => return Ok(none(Some(chain(&error)))),
        };
        let each = (Amounts::guaranteed(&guest), Amounts::sold(&guest));
        let room = self.room_beside(&taken.seating);
        let more = room.more(each, (taken.guaranteed, taken.sold));
        let more = match guest.cpu.dedicated {
            Some(_) => self.more_dedicated(&guest, &taken.seating, more),
            None => more,
        };
        let more = more.map(|(more, then)| (more, then.into()));
        let more = self.more_disks(&guest, more)?;
        Ok(Fit {
            more: more.map(|(more, _)| more),
            then: more.map(|(_, then)| then),
            ..none(None)
        })
    }

    /// How many more guests with disks of their own, where so many would fit by all else.
    fn more_disks(
        &self,
        guest: &Guest,
        more: Option<(u64, Scarce)>,
    ) -> Result<Option<(u64, Scarce)>> {
        let Some(size) = guest
            .disk
            .size
            .filter(|_| self.settings.room.disk_ratio.is_some())
        else {
            return Ok(more);
        };
        let mut disks = self.disks()?.into_iter();
        let disk = disks.find(|disk| disk.pools.contains(&guest.disk.pool));
        let fit = disk
            .and_then(|disk| disk.free)
            .map(|free| free / size.0.max(1));
        Ok(match (more, fit) {
            (Some((more, _)), Some(fit)) if fit < more => Some((fit, Scarce::Disk)),
            (None, Some(fit)) => Some((fit, Scarce::Disk)),
            (more, _) => more,
        })
    }

    /// How many more guests with CPUs of their own, where `more` would fit by all else.
    fn more_dedicated(
        &self,
        guest: &Guest,
        seating: &Seating,
        more: Option<(u64, Resource)>,
    ) -> Option<(u64, Resource)> {
        let mut seating = seating.clone();
        let mut fit = 0;
        while more.is_none_or(|(more, _)| fit < more) {
            let name = format!("one-{fit}").parse();
            let (Ok(name), Ok(seat)) = (name, self.choose_seat(guest, &seating, None)) else {
                return Some((fit, Resource::Cpus));
            };
            seating.seats.insert(name, seat);
            fit += 1;
        }
        more
    }

    fn promises(&self) -> Result<Taken> {
        let profiles = self.profiles()?;
        let mut taken = Taken {
            running: Vec::new(),
            guaranteed: self.promised(None)?,
            seating: self.seating(None)?,
            sold: Amounts::default(),
            without_cpu_limit: 0,
        };
        for name in self.names()? {
            let status = self.status(&name);
            if !status.is_ok_and(|status| !matches!(status, Status::Stopped | Status::Creating)) {
                continue;
            }
            let guest = self
                .definition_text(&name)
                .and_then(|text| self.define_by(&name, &text, &profiles));
            // The limits of one whose definition has become wrong are not known.
            if let Ok(guest) = guest {
                let mut sold = Amounts::sold(&guest);
                match guest.cpu.mode {
                    CpuMode::Shared => {
                        taken.without_cpu_limit += u64::from(guest.cpu.limit.is_none());
                    }
                    // Given away whole.
                    CpuMode::Dedicated | CpuMode::Pool => sold.cpus = 0,
                }
                taken.sold = taken.sold.and(sold);
            }
            taken.running.push(name);
        }
        Ok(taken)
    }

    /// Memory held now, and CPUs used over a moment.
    fn used(&self, running: &[GuestName]) -> Amounts {
        let read = || {
            let samples = running.iter().filter_map(|name| self.usage(name));
            samples.fold((0, 0), |sum: (u64, u64), now| {
                (sum.0 + now.memory, sum.1 + now.cpu_us)
            })
        };
        if running.is_empty() {
            return Amounts::default();
        }
        let before = read();
        let began = std::time::Instant::now();
        std::thread::sleep(MOMENT);
        let now = read();
        let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        Amounts {
            memory: now.0,
            // One that ended meanwhile takes its time with it.
            cpus: now.1.saturating_sub(before.1) * 100 / us.max(1),
        }
    }
}
