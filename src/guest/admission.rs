//! Whether the host can keep what a guest is guaranteed beside what it has promised to those that
//! run. What each is guaranteed stands in its run state; a guest without a guarantee is asked
//! nothing and looks at nobody.
//!
//! Looking and writing down is done under one lock, so that two starts at once do not take the same
//! place. Whoever dies holding it lets go of it, and a place is only as good as the guest's first
//! process, or the process that launches it.

use std::time::Duration;

use super::error::{GuestError, Result};
use super::manager::Manager;
use super::resize::InForce;
use super::store::RunState;
use crate::kernel::fault;
use crate::kernel::file::Lock;
use crate::model::{
    Amounts, CpuPoolName, CpuSet, Guest, GuestName, HostRoom, Resource, Room, Seat, Seating, Status,
};

/// How long a command waits for others that look for room.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a start asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Admission {
    /// Without room it is refused.
    #[default]
    Asked,
    /// It starts in any case; its guarantee counts for others.
    Forced,
}

impl Manager {
    /// What the host has to promise, when nobody has CPUs to itself.
    pub(super) fn host_room(&self) -> HostRoom {
        let (facts, room) = (&self.facts, self.settings.room);
        HostRoom {
            memory: Room {
                host: facts.memory,
                reserve: room.memory_reserve,
                given: 0,
                ratio: room.memory_ratio.0,
            },
            cpus: Room {
                host: facts.cpus.iter().count() as u64 * 100,
                reserve: room.cpu_reserve.into(),
                given: 0,
                ratio: room.cpu_ratio.0,
            },
        }
    }

    /// The same beside what pools and guests have to themselves.
    pub(super) fn room_beside(&self, seating: &Seating) -> HostRoom {
        let mut room = self.host_room();
        room.cpus.given = seating.given().without(&seating.reserved).len() as u64 * 100;
        room
    }

    /// The lock under which places are looked for and taken.
    pub(super) fn places(&self) -> Result<Lock> {
        let path = self.layout.run().join("admission.lock");
        Lock::take(&path, PATIENCE)?.ok_or_else(|| {
            GuestError::TimedOut(format!(
                "others look for room on this host, and the time to wait for {} is up; try again",
                path.display()
            ))
        })
    }

    /// Writes down the state of a guest that is about to be launched, if there is room for what it is
    /// guaranteed and there are the CPUs it asks for; everybody else is kept off those that become its
    /// own. Its lock is held. One that starts again by itself has its place.
    pub(super) fn admit(
        &self,
        guest: &mut Guest,
        state: &mut RunState,
        admission: Admission,
    ) -> Result<()> {
        let name = guest.name.clone();
        let anywhere = self.sits_anywhere(guest)?;
        if anywhere && state.guaranteed.is_none() {
            return self.write_run_state(&name, state);
        }
        let _places = self.places()?;
        self.tenant_room(&name, state.tenant.as_ref(), state.guaranteed)?;
        let before = self.run_state(&name)?;
        let others = self.seating(Some(&name))?;
        // Nobody can insist on CPUs that others have.
        let held = before.as_ref().map(|state| &state.seat);
        state.seat = self.choose_seat(guest, &others, held)?;
        if self.asks(admission) {
            let held = before.as_ref().map(|state| state.guaranteed);
            let held = held.unwrap_or_default();
            let otherwise = self.otherwise("start", admission);
            self.room_for(guest, &state.seat, held, &others, &otherwise)?;
        }
        self.put_on(guest, &state.seat, &others);
        fault::point()?;
        self.write_run_state(&name, state)?;
        if anywhere {
            return Ok(());
        }
        // So that there is something to move, also before the first start of all.
        self.cgroups()?;
        self.settle_cpus()
    }

    /// Says whether a start would find room.
    ///
    /// # Errors
    /// There is too little.
    pub fn check_room(&self, name: &GuestName) -> Result<()> {
        self.check_room_so(name, &self.otherwise("start", Admission::Asked))
    }

    /// Says whether a running guest, once it is stopped, would find room for its next start.
    pub(super) fn check_room_again(&self, name: &GuestName) -> Result<()> {
        if !matches!(self.status(name)?, Status::Running | Status::Paused) {
            return Ok(());
        }
        let otherwise = match self.settings.room.force {
            true => {
                "; it runs on: to have it start all the same, `stop` it and say `start --force`"
            }
            false => "; it runs on",
        };
        self.check_room_so(name, otherwise)
    }

    fn check_room_so(&self, name: &GuestName, otherwise: &str) -> Result<()> {
        let guest = self.guest(name)?;
        let wanted = Amounts::guaranteed(&guest);
        if wanted.is_none() && self.sits_anywhere(&guest)? {
            return Ok(());
        }
        self.tenant_room(name, guest.tenant.as_ref(), wanted)?;
        let others = self.seating(Some(name))?;
        let seat = self.choose_seat(&guest, &others, None)?;
        self.room_for(&guest, &seat, Amounts::default(), &others, otherwise)
    }

    /// Whether there has to be room: whoever insists goes beyond it where the host lets them.
    fn asks(&self, admission: Admission) -> bool {
        admission == Admission::Asked || !self.settings.room.force
    }

    /// What a message of too little room says of insisting.
    fn otherwise(&self, verb: &str, admission: Admission) -> String {
        match (self.settings.room.force, admission) {
            (true, _) => format!(", or say `{verb} --force`"),
            (false, Admission::Asked) => String::new(),
            (false, Admission::Forced) => {
                "; `--force` does not help: overcommit.force is false in bulkhead.toml".to_owned()
            }
        }
    }

    /// Changes what a running guest is guaranteed, which CPUs it has and what of its definition waits, if
    /// there is room; gives the state it had before, unless nothing has changed. The guest comes back
    /// with its CPUs. Its lock is held.
    pub(super) fn promise(
        &self,
        guest: &mut Guest,
        in_force: InForce,
        admission: Admission,
    ) -> Result<Option<RunState>> {
        let name = guest.name.clone();
        let Some(before) = self.run_state(&name)? else {
            return Ok(None);
        };
        let mut state = before.clone();
        state.guaranteed = Amounts::guaranteed(guest);
        state.weight = guest.cpu.weight;
        state.in_force = in_force;
        if state == before && state.seat.is_shared() && self.sits_anywhere(guest)? {
            return Ok(None);
        }
        let _places = self.places()?;
        self.tenant_room(&name, state.tenant.as_ref(), state.guaranteed)?;
        let others = self.seating(Some(&name))?;
        state.seat = self.choose_seat(guest, &others, Some(&before.seat))?;
        self.put_on(guest, &state.seat, &others);
        if state == before {
            return Ok(None);
        }
        if self.asks(admission) {
            let otherwise = self.otherwise("set", admission);
            self.room_for(guest, &state.seat, before.guaranteed, &others, &otherwise)?;
        }
        fault::point()?;
        self.write_run_state(&name, &state)?;
        if state.seat != before.seat
            && let Err(error) = self.settle_cpus()
        {
            // The error that matters is that one.
            let _same = self.put_seat_back(&name, &before);
            return Err(error);
        }
        Ok(Some(before))
    }

    /// Says whether [`Manager::promise`] would do it.
    pub(super) fn check_promise(&self, guest: &Guest, admission: Admission) -> Result<()> {
        let state = self.run_state(&guest.name)?;
        let tenant = state.as_ref().and_then(|state| state.tenant.as_ref());
        self.tenant_room(&guest.name, tenant, Amounts::guaranteed(guest))?;
        let others = self.seating(Some(&guest.name))?;
        let held = state.as_ref().map(|state| &state.seat);
        let seat = self.choose_seat(guest, &others, held)?;
        if !self.asks(admission) {
            return Ok(());
        }
        let held = state.map(|state| state.guaranteed).unwrap_or_default();
        let otherwise = self.otherwise("set", admission);
        self.room_for(guest, &seat, held, &others, &otherwise)
    }

    /// Puts back what a guest had before a change that came to nothing.
    pub(super) fn hold_promise(&self, name: &GuestName, before: &RunState) -> Result<()> {
        let _places = self.places()?;
        self.put_seat_back(name, before)
    }

    fn put_seat_back(&self, name: &GuestName, before: &RunState) -> Result<()> {
        let Some(mut state) = self.run_state(name)? else {
            return Ok(());
        };
        let moved = state.seat != before.seat;
        state.guaranteed = before.guaranteed;
        state.weight = before.weight;
        state.seat = before.seat.clone();
        state.in_force = before.in_force.clone();
        self.write_run_state(name, &state)?;
        match moved {
            true => self.settle_cpus(),
            false => Ok(()),
        }
    }

    fn room_for(
        &self,
        guest: &Guest,
        seat: &Seat,
        held: Amounts,
        others: &Seating,
        otherwise: &str,
    ) -> Result<()> {
        let name = &guest.name;
        let mut wanted = Amounts::guaranteed(guest);
        let room = self.room_beside(others);
        match seat {
            Seat::Dedicated { kept, .. } => {
                self.room_without_more(name, others, kept, otherwise)?;
            }
            // What is guaranteed in a pool is kept there.
            Seat::Pool(pool) => {
                self.room_in_pool(name, pool, wanted.cpus, held.cpus, others)?;
                wanted.cpus = 0;
            }
            Seat::Shared | Seat::Pinned(_) => {}
        }
        if wanted.is_none() {
            return Ok(());
        }
        let promised = self.promised(Some(name))?;
        room.admit(wanted, held, promised)
            .map_err(|shortfall| GuestError::NoRoom {
                name: name.clone(),
                shortfall,
                otherwise: otherwise.to_owned(),
            })
    }

    /// Refuses to give CPUs away that guests which share are guaranteed.
    fn room_without_more(
        &self,
        name: &GuestName,
        others: &Seating,
        kept: &CpuSet,
        otherwise: &str,
    ) -> Result<()> {
        let mut room = self.room_beside(others).cpus;
        let before = room.whole();
        room.given += kept.len() as u64 * 100;
        let promised = self.promised(Some(name))?.cpus;
        if promised <= room.whole() || promised > before {
            return Ok(());
        }
        Err(GuestError::NoCpus {
            name: name.clone(),
            why: format!(
                "running guests that share are guaranteed {}, and {} could be kept beside it; stop guests \
                 that are guaranteed {}{otherwise}",
                Resource::Cpus.exactly(promised),
                Resource::Cpus.exactly(room.whole()),
                Resource::Cpus.exactly(promised - room.whole()),
            ),
        })
    }

    /// Refuses to make a pool of CPUs that guests which share are guaranteed.
    pub(super) fn room_without(&self, pool: &CpuPoolName, cpus: &CpuSet) -> Result<()> {
        let mut seating = self.seating(None)?;
        let before = self.room_beside(&seating).cpus.whole();
        seating.pools.insert(pool.clone(), cpus.clone());
        let room = self.room_beside(&seating).cpus.whole();
        let promised = self.promised(None)?.cpus;
        if promised <= room || promised > before {
            return Ok(());
        }
        Err(GuestError::CpuPool {
            name: pool.clone(),
            why: format!(
                "running guests that share are guaranteed {}, and {} could be kept beside it; stop guests \
                 that are guaranteed {}, or leave CPUs out of it",
                Resource::Cpus.exactly(promised),
                Resource::Cpus.exactly(room),
                Resource::Cpus.exactly(promised - room),
            ),
        })
    }

    fn room_in_pool(
        &self,
        name: &GuestName,
        pool: &CpuPoolName,
        wanted: u64,
        held: u64,
        others: &Seating,
    ) -> Result<()> {
        let size = others.pools.get(pool).map_or(0, CpuSet::len) as u64;
        let whole = size * u64::from(self.settings.room.cpu_ratio.0);
        let promised = self.promised_in(pool, Some(name))?;
        let left = whole.saturating_sub(promised);
        if wanted <= held || wanted <= left {
            return Ok(());
        }
        Err(GuestError::NoCpus {
            name: name.clone(),
            why: format!(
                "it is to be guaranteed {} in pool {pool}, and {} are left there; lower cpu.entitled, or \
                 give the pool more with `bulkhead cpupool set {pool} --cpus LIST`",
                Resource::Cpus.exactly(wanted),
                Resource::Cpus.exactly(left),
            ),
        })
    }

    /// What all guests that are not stopped are guaranteed together, without one of them; members of
    /// pools are kept their CPUs there.
    pub(super) fn promised(&self, but: Option<&GuestName>) -> Result<Amounts> {
        let mut sum = Amounts::default();
        for (_, state) in self.unstopped(but)? {
            let mut guaranteed = state.guaranteed;
            if let Seat::Pool(_) = state.seat {
                guaranteed.cpus = 0;
            }
            sum = sum.and(guaranteed);
        }
        Ok(sum)
    }

    /// Hundredths of a CPU that running members of a pool are guaranteed, without one of them.
    pub(super) fn promised_in(&self, pool: &CpuPoolName, but: Option<&GuestName>) -> Result<u64> {
        let states = self.unstopped(but)?;
        let mine = states
            .iter()
            .filter(|(_, state)| matches!(&state.seat, Seat::Pool(name) if name == pool));
        Ok(mine.map(|(_, state)| state.guaranteed.cpus).sum())
    }
}
