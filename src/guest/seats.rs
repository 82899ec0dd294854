//! Which guest runs on which CPUs: who has some to itself, and that all the others are kept off them.
//!
//! Where each guest sits stands in its run state, the pools in their file (`cpupool`). Whoever changes
//! one of them does so under the lock of `admission`, and then brings everybody to where they are to be:
//! `settle_cpus`, which looks at all running guests and moves those that sit elsewhere, so that it can be
//! cut short anywhere and done again. While CPUs are kept from guests that share, `run/bulkhead/cpus.json`
//! says what is left for them; without it, reserve and pools, a guest that shares looks at nobody.

use std::path::PathBuf;

use super::cpupool::pools;
use super::error::{GuestError, Result};
use super::inside::online;
use super::leftover::{Leftover, leftover, told};
use super::manager::{Manager, RECORD};
use super::store::RunState;
use crate::kernel::cgroup::{Group, Parent};
use crate::kernel::topology::topology;
use crate::kernel::{KernelError, fault, file};
use crate::model::{CpuMode, CpuSet, Guest, GuestName, Seat, Seating, Status};

/// Somebody who is not where they are to be.
#[derive(Debug)]
enum Unsettled {
    /// The guests that share, or what is written down of them.
    Sharers,
    /// One guest.
    Guest(GuestName),
}

impl Manager {
    fn marker(&self) -> PathBuf {
        self.layout.run().join("cpus.json")
    }

    /// What is left for guests that share, as it is written down; `None` when that is all there are.
    pub(super) fn left_for_sharers(&self) -> Result<Option<Vec<u8>>> {
        Ok(file::read_small(&self.marker(), RECORD)?)
    }

    /// The CPUs of a guest, as its files in /proc tell them at first.
    pub(super) fn cpus_at_first(&self, guest: &Guest) -> CpuSet {
        let left = || {
            let text = self.left_for_sharers().ok()??;
            serde_json::from_slice(&text).ok()
        };
        let chosen = guest.cpu.cpuset.clone().or_else(left);
        chosen.unwrap_or_else(|| online(&self.facts.cpus))
    }

    /// Whether some CPUs are kept from guests that share.
    fn keeps_apart(&self) -> Result<bool> {
        Ok(!self.settings.reserved_cpus.is_empty()
            || self.marker().exists()
            || !pools(&self.layout)?.is_empty())
    }

    /// Whether a guest goes where all are, and that is everywhere.
    pub(super) fn sits_anywhere(&self, guest: &Guest) -> Result<bool> {
        let plain = guest.cpu.mode == CpuMode::Shared && guest.cpu.cpuset.is_none();
        Ok(plain && !self.keeps_apart()?)
    }

    /// Where all guests sit that are not stopped, without one of them.
    pub(super) fn seating(&self, but: Option<&GuestName>) -> Result<Seating> {
        self.seating_of(&self.unstopped(but)?)
    }

    /// The same of guests whose states these are.
    pub(super) fn seating_of(&self, states: &[(GuestName, RunState)]) -> Result<Seating> {
        let online = online(&self.facts.cpus);
        let reserved = self.settings.reserved_cpus.common(&online);
        let whole = reserved.len() * 100;
        let amount = (self.settings.room.cpu_reserve as usize).saturating_sub(whole);
        let mut seating = Seating {
            least: amount.div_ceil(100).max(1),
            pools: pools(&self.layout)?,
            reserved,
            online,
            ..Seating::default()
        };
        for cpus in seating.pools.values_mut() {
            *cpus = cpus.common(&seating.online);
        }
        for (name, state) in states {
            seating.seats.insert(name.clone(), state.seat.clone());
        }
        Ok(seating)
    }

    /// The states of guests that are not stopped, without one of them.
    pub(super) fn unstopped(&self, but: Option<&GuestName>) -> Result<Vec<(GuestName, RunState)>> {
        let mut found = Vec::new();
        self.each_state(but, &mut |name, state| {
            if self.status_of(name, Some(state)) != Status::Stopped {
                found.push((name.clone(), state.clone()));
            }
        })?;
        Ok(found)
    }

    /// Calls `each` with the run state of every guest that has one, without one of them.
    pub(super) fn each_state(
        &self,
        but: Option<&GuestName>,
        each: &mut dyn FnMut(&GuestName, &RunState),
    ) -> Result<()> {
        let folder = self.layout.run().join("guests");
        let entries =
            std::fs::read_dir(&folder).map_err(KernelError::io("read", folder.display()))?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_str().and_then(|n| n.parse().ok());
            let Some(name) = name.filter(|name| Some(name) != but) else {
                continue;
            };
            // One that has gone meanwhile, or cannot be read, holds no place.
            if let Some(state) = self.run_state(&name).ok().flatten() {
                each(&name, &state);
            }
        }
        Ok(())
    }

    /// The seat of a guest among these others. One that it has and that still is what it asks for, it
    /// keeps.
    pub(super) fn choose_seat(
        &self,
        guest: &Guest,
        others: &Seating,
        held: Option<&Seat>,
    ) -> Result<Seat> {
        let cpu = &guest.cpu;
        let refused = |why: String| GuestError::NoCpus {
            name: guest.name.clone(),
            why,
        };
        match (cpu.mode, cpu.dedicated, &cpu.pool, &cpu.cpuset) {
            (CpuMode::Dedicated, Some(count), _, within) => {
                if let Some(Seat::Dedicated { cpus, kept, .. }) = held
                    && cpus.len() == count as usize
                    && others.free().holds(kept)
                    && within.as_ref().is_none_or(|within| within.holds(cpus))
                {
                    return Ok(held.cloned().unwrap_or_default());
                }
                let machine = topology(&others.online);
                let seat = others.choose(count as usize, within.as_ref(), &machine);
                seat.map_err(refused)
            }
            (CpuMode::Pool, _, Some(pool), _) => match others.pools.get(pool) {
                None => Err(self.no_cpu_pool(pool)),
                Some(cpus) if cpus.is_empty() => Err(refused(format!(
                    "none of the CPUs of pool {pool} is online; `bulkhead cpupool set {pool} --cpus LIST`"
                ))),
                Some(_) => Ok(Seat::Pool(pool.clone())),
            },
            (_, _, _, Some(cpus)) => others.pin(cpus).map_err(refused),
            _ if others.free().is_empty() => Err(refused(
                "all are in reserve or in pools; take some out of reserve.cpuset in bulkhead.toml, or \
                 out of a pool"
                    .to_owned(),
            )),
            _ => Ok(Seat::Shared),
        }
    }

    /// Says in a guest's own words where it sits, for the launch and for limits. Where all that share
    /// are together (version 1), one of them needs no word.
    pub(super) fn put_on(&self, guest: &mut Guest, seat: &Seat, seating: &Seating) {
        let together = self.facts.shares_cpuset();
        guest.cpu.cpuset = match seat {
            Seat::Shared if together => None,
            seat => seating.cpus_of(seat),
        };
        guest.cpu.nodes = match seat {
            Seat::Dedicated { nodes, .. } if !nodes.is_empty() => Some(nodes.clone()),
            _ => None,
        };
    }

    /// A guest with the CPUs it has, or would have if it started now.
    pub(super) fn seated(&self, mut guest: Guest) -> Result<Guest> {
        let name = guest.name.clone();
        if self.sits_anywhere(&guest)? {
            return Ok(guest);
        }
        let state = self.run_state(&name)?;
        let held = state.filter(|state| self.status_of(&name, Some(state)) != Status::Stopped);
        let others = self.seating(Some(&name))?;
        let seat = self.choose_seat(&guest, &others, held.as_ref().map(|state| &state.seat))?;
        self.put_on(&mut guest, &seat, &others);
        Ok(guest)
    }

    /// Brings every running guest to where it is to be. The lock of `admission` is held. What fails with
    /// one guest keeps no other from being moved.
    pub(super) fn settle_cpus(&self) -> Result<()> {
        let states = self.unstopped(None)?;
        let seating = self.seating_of(&states)?;
        let free = seating.free();
        let apart = free != seating.online;
        if apart {
            // Whoever starts meanwhile and was not seen looks again when its groups are there.
            fault::point()?;
            let text = serde_json::to_vec(&free).unwrap_or_default();
            file::write_runtime(&self.marker(), &text, 0o600)?;
        }
        let mut first = Ok(());
        if let Some(parent) = self.existing_cgroups()? {
            if !free.is_empty() {
                parent.share(&free)?;
            }
            let sharers = match apart {
                true => parent.sharers()?,
                false => std::collections::BTreeSet::new(),
            };
            for (name, seat) in &seating.seats {
                let (cpus, nodes) = place(&seating, seat, parent.is_shared());
                let done = self.with_group(name, |group| {
                    group.sit(cpus.as_ref(), nodes)?;
                    match apart {
                        true => group.gather(&sharers),
                        false => Ok(()),
                    }
                });
                first = first.and(done);
            }
            if parent.has_partitions() {
                // Where the kernel refuses, all that is ours is kept off all the same.
                let _kept_off = self.set_apart(&parent, &seating);
            }
        }
        if !apart {
            fault::point()?;
            match std::fs::remove_file(self.marker()) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(KernelError::io("remove", self.marker().display())(e).into());
                }
                _ => {}
            }
        }
        first.and(self.settle_portions(&states))
    }

    /// Does something with a guest's groups, if it has any by then.
    fn with_group(
        &self,
        name: &GuestName,
        act: impl FnOnce(&mut Group) -> crate::kernel::cgroup::Result<()>,
    ) -> Result<()> {
        let Some(mut group) = self.group(name)? else {
            return Ok(());
        };
        match act(&mut group) {
            // It has ended meanwhile.
            Err(_) if self.group(name)?.is_none() => Ok(()),
            Err(error) => Err(GuestError::Seat {
                name: name.clone(),
                source: Box::new(error),
            }),
            Ok(()) => Ok(()),
        }
    }

    /// The same when a guest has ended or was not seen, if there is a need.
    pub(super) fn settle_cpus_again(&self) -> Result<()> {
        if self.keeps_apart()? {
            let _places = self.places()?;
            return self.settle_cpus();
        }
        self.settle_portions_again()
    }

    /// The same for a guest whose groups have just been made; `left` was there for guests that share when
    /// it was planned.
    pub(super) fn settle_new(&self, state: &RunState, left: Option<&Vec<u8>>) -> Result<()> {
        let own = matches!(state.seat, Seat::Dedicated { .. });
        if own || self.left_for_sharers()?.as_ref() != left {
            // Somebody took CPUs, or gave them back, before its groups were there to be seen; its own
            // it can be given only now.
            return self.settle_cpus_again();
        }
        self.settle_portion_of(state)
    }

    /// Who is not where they are to be.
    fn unsettled(&self) -> Result<Vec<Unsettled>> {
        let seating = self.seating(None)?;
        let free = seating.free();
        let mut found = Vec::new();
        let parent = self.existing_cgroups()?;
        let apart = free != seating.online;
        let elsewhere = match &parent {
            Some(parent) if !free.is_empty() => !parent.shares(&free)?,
            _ => false,
        };
        // Without a guest nobody is kept off anything, and nobody has to write it down.
        let written = self.marker().exists();
        if elsewhere || (written && !apart) || (apart && !written && !seating.seats.is_empty()) {
            found.push(Unsettled::Sharers);
        }
        let together = parent.as_ref().is_some_and(Parent::is_shared);
        let parts = parent.as_ref().is_some_and(Parent::has_partitions);
        for (name, seat) in &seating.seats {
            let (cpus, nodes) = place(&seating, seat, together);
            let Some(group) = self.group(name)? else {
                continue;
            };
            let has_its_own = || !parts || self.has_its_own(name, seat, &group);
            if !group.sits(cpus.as_ref(), nodes).unwrap_or(true) || !has_its_own() {
                found.push(Unsettled::Guest(name.clone()));
            }
        }
        Ok(found)
    }

    /// Guests that a command which died has left on CPUs where they are not to be; with `fix`, moves them.
    pub(super) fn of_cpus(&self, fix: bool, found: &mut Vec<Leftover>) -> Result<()> {
        if self.unsettled()?.is_empty() {
            return Ok(());
        }
        // Nobody is at work on it now, or has been.
        let _places = self.places()?;
        let unsettled = self.unsettled()?;
        if unsettled.is_empty() {
            return Ok(());
        }
        let done = told(fix.then(|| self.settle_cpus()));
        for one in unsettled {
            let name = match one {
                Unsettled::Sharers => "guests that share".to_owned(),
                Unsettled::Guest(name) => name.to_string(),
            };
            found.push(leftover("CPUs", name, done.clone()));
        }
        Ok(())
    }
}

/// The CPUs and memory nodes of a seat, for its groups.
fn place<'a>(
    seating: &Seating,
    seat: &'a Seat,
    together: bool,
) -> (Option<CpuSet>, Option<&'a CpuSet>) {
    let cpus = match seat {
        Seat::Shared if together => None,
        seat => seating.cpus_of(seat).filter(|cpus| !cpus.is_empty()),
    };
    let nodes = match seat {
        Seat::Dedicated { nodes, .. } if !nodes.is_empty() => Some(nodes),
        _ => None,
    };
    (cpus, nodes)
}
