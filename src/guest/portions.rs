//! What of the CPUs each running guest gets while all want more than there is (`model/portion.rs`), kept
//! true in their control groups. While somebody is guaranteed CPU time, or has CPUs to itself,
//! `run/bulkhead/portions` says so, and whoever starts, changes or ends a guest gives everybody their
//! weights anew; without it, each has the weight of its definition and nobody looks at the others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::error::{GuestError, Result};
use super::leftover::{Leftover, leftover, told};
use super::manager::Manager;
use super::store::RunState;
use crate::kernel::cgroup::Group;
use crate::kernel::{KernelError, fault, file};
use crate::model::{Claim, CpuSet, Guest, GuestName, Seat, Seating, Status, beside_host, portions};

/// Names of guests with what they weigh.
type Weights = BTreeMap<GuestName, u64>;

/// Those who share some CPUs, with what each wants; the host's own programs have no name.
type Sharers<'a> = Vec<(Option<&'a GuestName>, Claim)>;

/// What all guests weigh beside the host's programs where nobody is guaranteed anything.
const USUAL: u64 = 100;

/// In so long a command that changes a guest has given all of them their weights.
const MOMENT: Duration = Duration::from_millis(300);
/// Wrong at so many looks, such moments apart, they are nobody's work.
const LOOKS: u32 = 4;

impl Manager {
    fn portions_path(&self) -> PathBuf {
        self.layout.run().join("portions")
    }

    /// What a guest weighs beside those that run, in the words of its definition where nobody is
    /// guaranteed anything.
    pub(super) fn portion_of(&self, guest: &Guest) -> Result<u64> {
        let usual = u64::from(guest.cpu.weight);
        if !self.portions_path().exists() {
            return Ok(usual);
        }
        let (all, _) = self.portions_now(&self.unstopped(None)?)?;
        Ok(all.get(&guest.name).copied().unwrap_or(usual))
    }

    /// What each of these guests is to weigh, and all together beside the host's programs.
    fn portions_now(&self, states: &[(GuestName, RunState)]) -> Result<(Weights, u64)> {
        if !is_promised(states) {
            let as_defined =
                |(name, state): &(GuestName, RunState)| (name.clone(), state.weight.into());
            return Ok((states.iter().map(as_defined).collect(), USUAL));
        }
        let seating = self.seating_of(states)?;
        let host = self.room_beside(&seating).cpus;
        let others = match self.existing_cgroups()? {
            Some(parent) => parent.others_weigh()?,
            None => None,
        };
        // Where nobody knows what they weigh: as many as there are CPUs, each like a guest.
        let others = others.unwrap_or(host.host);
        let own = Claim {
            entitled: host.reserve,
            weight: others,
        };
        let shared = host.host.saturating_sub(host.given);
        let (mut found, mut portion) = (Weights::new(), 0);
        for (room, sharers) in together(states, &seating, (shared, own)) {
            let claims: Vec<Claim> = sharers.iter().map(|(_, claim)| *claim).collect();
            let weights = portions(room, host.host, &claims);
            for ((name, _), weight) in sharers.into_iter().zip(weights) {
                match name {
                    Some(name) => drop(found.insert(name.clone(), weight)),
                    None => portion = weight,
                }
            }
        }
        Ok((found, beside_host(portion, others)))
    }

    /// Gives every running guest its weight, and tenants those of their guests together. The lock of
    /// `admission` is held. One that ends meanwhile keeps no other from it.
    pub(super) fn settle_portions(&self, states: &[(GuestName, RunState)]) -> Result<()> {
        let promised = is_promised(states);
        let path = self.portions_path();
        if promised && !path.exists() {
            // Whoever starts meanwhile and was not seen looks again when its groups are there.
            fault::point()?;
            file::write_runtime(&path, b"", 0o600)?;
        } else if !promised && !path.exists() {
            return Ok(());
        }
        let mut first = Ok(());
        let (weights, together) = self.portions_now(states)?;
        for (name, weight) in weights {
            fault::point()?;
            first = first.and(self.give_portion(&name, weight));
        }
        // All of them: whoever was killed may have got to the guests and not to their tenant.
        let tenants = states.iter().filter_map(|(_, state)| state.tenant.as_ref());
        for tenant in tenants.collect::<BTreeSet<_>>() {
            fault::point()?;
            let _held = self.lock_tenant(tenant)?;
            if let Some(folder) = self.existing_cgroups_for(Some(tenant))? {
                folder.weigh(None)?;
            }
        }
        if let Some(parent) = self.existing_cgroups()? {
            fault::point()?;
            parent.weigh_beside_host(together)?;
        }
        if !promised && first.is_ok() {
            fault::point()?;
            std::fs::remove_file(&path).map_err(KernelError::io("remove", path.display()))?;
        }
        first
    }

    fn give_portion(&self, name: &GuestName, weight: u64) -> Result<()> {
        let Some(group) = self.group(name)? else {
            return Ok(());
        };
        match group.weigh(weight) {
            // It has ended meanwhile.
            Err(_) if self.group(name)?.is_none() => Ok(()),
            Err(error) => Err(GuestError::Seat {
                name: name.clone(),
                source: Box::new(error),
            }),
            Ok(()) => Ok(()),
        }
    }

    /// The same when a guest has changed or ended, if somebody is, or was, guaranteed anything.
    pub(super) fn settle_portions_again(&self) -> Result<()> {
        if !self.portions_path().exists() {
            return Ok(());
        }
        let _places = self.places()?;
        self.settle_portions(&self.unstopped(None)?)
    }

    /// The same for a guest that has just got what its state says.
    pub(super) fn settle_portion_of(&self, state: &RunState) -> Result<()> {
        if !promises(state) {
            return self.settle_portions_again();
        }
        let _places = self.places()?;
        self.settle_portions(&self.unstopped(None)?)
    }

    /// Guests that weigh something else than they are to; all of them together where what the host's
    /// programs weigh beside them does not change by itself.
    fn out_of_portion(&self) -> Result<Vec<String>> {
        let states = self.unstopped(None)?;
        if !is_promised(&states) && !self.portions_path().exists() {
            return Ok(Vec::new());
        }
        // Whoever starts a guest gives all of them their weights when its groups are there.
        let starts = |(name, state): &(GuestName, RunState)| {
            self.status_of(name, Some(state)) == Status::Starting
        };
        if states.iter().any(starts) {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let (weights, together) = self.portions_now(&states)?;
        for (name, weight) in weights {
            let right = |group: Group| {
                let same = |there| there == group.as_written(weight);
                Ok::<_, GuestError>(group.weighs()?.is_none_or(same))
            };
            if !self.group(&name)?.map_or(Ok(true), right).unwrap_or(true) {
                found.push(name.to_string());
            }
        }
        if let Some(parent) = self.existing_cgroups()?
            && parent.others_weigh()?.is_none()
            && !parent.weighs_beside_host(together)?
        {
            found.push("all guests".to_owned());
        }
        Ok(found)
    }

    /// Weights that a command which died has left as they were; with `fix`, puts them right.
    pub(super) fn of_portions(&self, fix: bool, found: &mut Vec<Leftover>) -> Result<()> {
        let stale = || {
            Ok::<_, GuestError>(
                self.portions_path().exists() && !is_promised(&self.unstopped(None)?),
            )
        };
        // Whoever has just changed or ended a guest gets to it in a moment.
        for look in 1..=LOOKS {
            if self.out_of_portion()?.is_empty() && !stale()? {
                return Ok(());
            }
            if look < LOOKS {
                std::thread::sleep(MOMENT);
            }
        }
        let _places = self.places()?;
        let (wrong, stale) = (self.out_of_portion()?, stale()?);
        if wrong.is_empty() && !stale {
            return Ok(());
        }
        let settle = || self.settle_portions(&self.unstopped(None)?);
        let done = told(fix.then(settle));
        if stale {
            let path = self.portions_path().display().to_string();
            found.push(leftover("file", path, done.clone()));
        }
        for name in wrong {
            found.push(leftover("CPU weight", name, done.clone()));
        }
        Ok(())
    }
}

/// Whether somebody is promised CPU time: so much of it, or whole CPUs.
fn is_promised(states: &[(GuestName, RunState)]) -> bool {
    states.iter().any(|(_, state)| promises(state))
}

fn promises(state: &RunState) -> bool {
    state.guaranteed.cpus > 0 || matches!(state.seat, Seat::Dedicated { .. })
}

/// Guests by the CPUs that they share: of each such set how much there is (hundredths of a CPU), and who
/// wants what of it. Who has CPUs to itself shares them with nobody; the host's programs are where guests
/// are that share.
fn together<'a>(
    states: &'a [(GuestName, RunState)],
    seating: &Seating,
    (shared, host): (u64, Claim),
) -> Vec<(u64, Sharers<'a>)> {
    let hundredths = |cpus: &CpuSet| cpus.len() as u64 * 100;
    let mut sharers: Sharers = vec![(None, host)];
    let mut found = Vec::new();
    let mut pools: BTreeMap<_, Sharers> = BTreeMap::new();
    for (name, state) in states {
        let claim = Claim {
            entitled: state.guaranteed.cpus,
            weight: state.weight.into(),
        };
        let one = (Some(name), claim);
        match &state.seat {
            Seat::Shared | Seat::Pinned(_) => sharers.push(one),
            Seat::Pool(pool) => pools.entry(pool).or_default().push(one),
            Seat::Dedicated { cpus, .. } => found.push((hundredths(cpus), vec![one])),
        }
    }
    for (pool, members) in pools {
        let room = seating.pools.get(pool).map_or(0, hundredths);
        found.push((room, members));
    }
    found.push((shared, sharers));
    found
}
