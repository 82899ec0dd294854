//! Who runs on which CPUs: guests that share what is left, guests with CPUs of their own, members of
//! pools. Only rules and arithmetic: who runs is known in `guest`, what the machine is like in
//! `kernel::topology`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{CpuPoolName, CpuSet, GuestName};

/// How a guest is given CPUs (`cpu.mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuMode {
    /// With the other guests, on what nobody has to itself.
    #[default]
    Shared,
    /// Whole CPUs, for it alone.
    Dedicated,
    /// With the other members of a pool.
    Pool,
}

impl CpuMode {
    /// As people write it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Dedicated => "dedicated",
            Self::Pool => "pool",
        }
    }
}

impl fmt::Display for CpuMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl FromStr for CpuMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Shared, Self::Dedicated, Self::Pool];
        let found = all.into_iter().find(|mode| mode.word() == text);
        found.ok_or_else(|| {
            let said: String = text.chars().take(40).collect();
            format!("{said:?} is no way to be given CPUs: write shared, dedicated or pool")
        })
    }
}

/// Where a running guest is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seat {
    /// On what nobody has to itself.
    #[default]
    Shared,
    /// Where its definition says (`cpu.cpuset`).
    Pinned(CpuSet),
    /// On CPUs of its own.
    Dedicated {
        /// Those it runs on.
        cpus: CpuSet,
        /// Those that nobody else runs on: all of the cores that these are of.
        kept: CpuSet,
        /// The memory nodes they are of; none on a machine that does not say.
        #[serde(default, skip_serializing_if = "CpuSet::is_empty")]
        nodes: CpuSet,
    },
    /// In a pool.
    Pool(CpuPoolName),
}

impl Seat {
    /// Whether it needs no mention.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        *self == Self::Shared
    }
}

/// What the CPUs of a machine are of. A machine that does not say has cores of one CPU, and no nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// The CPUs of each core, its threads.
    pub cores: Vec<CpuSet>,
    /// The CPUs of each memory node.
    pub nodes: BTreeMap<u32, CpuSet>,
}

impl Topology {
    /// The nodes that these CPUs are of.
    #[must_use]
    pub fn nodes_of(&self, cpus: &CpuSet) -> CpuSet {
        let here = self.nodes.iter().filter(|(_, set)| set.meets(cpus));
        here.map(|(node, _)| *node).collect()
    }

    /// The cores of these CPUs whole.
    fn whole(&self, cpus: &CpuSet) -> CpuSet {
        let cores = self.cores.iter().filter(|core| core.meets(cpus));
        cores.fold(cpus.clone(), |all, core| all.with(core))
    }
}

/// All seats of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seating {
    /// CPUs online.
    pub online: CpuSet,
    /// Those that no guest ever runs on.
    pub reserved: CpuSet,
    /// How many have to stay for guests that share, and for the host: at least one.
    pub least: usize,
    /// The pools.
    pub pools: BTreeMap<CpuPoolName, CpuSet>,
    /// The guests that are not stopped.
    pub seats: BTreeMap<GuestName, Seat>,
}

impl Seating {
    /// CPUs that guests that share are kept off.
    #[must_use]
    pub fn apart(&self) -> CpuSet {
        self.reserved.with(&self.given())
    }

    /// CPUs that were given away whole: to pools, and to guests for themselves.
    #[must_use]
    pub fn given(&self) -> CpuSet {
        let own = self.seats.values().filter_map(|seat| match seat {
            Seat::Dedicated { kept, .. } => Some(kept),
            _ => None,
        });
        let all = own.chain(self.pools.values());
        all.fold(CpuSet::default(), |sum, cpus| sum.with(cpus))
    }

    /// CPUs of guests that share.
    #[must_use]
    pub fn free(&self) -> CpuSet {
        self.online.without(&self.apart())
    }

    /// CPUs that guests in this seat run on; `None` for any.
    #[must_use]
    pub fn cpus_of(&self, seat: &Seat) -> Option<CpuSet> {
        match seat {
            Seat::Shared => {
                let free = self.free();
                (free != self.online).then_some(free)
            }
            Seat::Pinned(cpus) | Seat::Dedicated { cpus, .. } => Some(cpus.clone()),
            Seat::Pool(name) => Some(self.pools.get(name).cloned().unwrap_or_default()),
        }
    }

    /// Whether a guest can be pinned to these.
    ///
    /// # Errors
    /// Who has one of them.
    pub fn pin(&self, cpus: &CpuSet) -> Result<Seat, String> {
        match self.owner(&self.apart().common(cpus)) {
            Some(why) => Err(format!(
                "{why}; choose among {} with cpu.cpuset, or write cpu.cpuset = \"none\"",
                self.free()
            )),
            None => Ok(Seat::Pinned(cpus.clone())),
        }
    }

    /// Chooses CPUs for one guest alone, among `within` if that is said: whole cores, of one memory node
    /// if they fit there, the last ones first, for the first ones are busy with the host's own work.
    ///
    /// # Errors
    /// How many are left, and who has the others.
    pub fn choose(
        &self,
        count: usize,
        within: Option<&CpuSet>,
        topology: &Topology,
    ) -> Result<Seat, String> {
        let open = self.open();
        let open = within.map_or_else(|| open.clone(), |set| open.common(set));
        let cores = cores(&open, topology);
        let of_node = |node: &CpuSet| {
            let here: Vec<_> = cores.iter().filter(|core| node.holds(core)).collect();
            let size: usize = here.iter().map(|core| core.len()).sum();
            (here, size)
        };
        // The fullest node that has room, so that others keep theirs for larger guests.
        let nodes = topology.nodes.values().rev().map(of_node);
        let fitting = nodes.filter(|(_, size)| *size >= count);
        let one = fitting.min_by_key(|(_, size)| *size);
        let of = one.map_or_else(|| cores.iter().collect(), |(here, _)| here);
        let (cpus, kept) = take(of, count);
        let rest = self.free().without(&kept).len();
        if cpus.len() < count || rest < self.least {
            let stay = self.least.saturating_sub(self.free().without(&open).len());
            let left = cores.iter().map(CpuSet::len).sum::<usize>();
            return Err(self.too_few(count, left.saturating_sub(stay), within));
        }
        let nodes = topology.nodes_of(&cpus);
        Ok(Seat::Dedicated { cpus, kept, nodes })
    }

    /// CPUs that can be given to one guest: nobody's, and none that a guest is pinned to.
    fn open(&self) -> CpuSet {
        let pinned = self.seats.values().filter_map(|seat| match seat {
            Seat::Pinned(cpus) => Some(cpus),
            _ => None,
        });
        pinned.fold(self.free(), |rest, cpus| rest.without(cpus))
    }

    fn too_few(&self, count: usize, left: usize, within: Option<&CpuSet>) -> String {
        let among = within.map_or(String::new(), |set| format!(" among {set} (cpu.cpuset)"));
        let mut owners = self.owners();
        owners.insert(0, format!("this host has {}", self.online));
        let whole = match count {
            1 => "1 whole CPU".to_owned(),
            n => format!("{n} whole CPUs"),
        };
        format!(
            "it is to have {whole}, and {left} can be given away{among}: {}, and guests that share keep at \
             least {}; lower cpu.dedicated, or stop guests, or take CPUs out of pools",
            owners.join(", "),
            self.least,
        )
    }

    /// Whether a pool can have these.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn check_pool(&self, name: &CpuPoolName, cpus: &CpuSet) -> Result<(), String> {
        if !self.online.holds(cpus) {
            let absent = cpus.without(&self.online);
            return Err(format!(
                "CPU {absent} is not there or offline: this machine has {}",
                self.online
            ));
        }
        let first = self.online.iter().next().into_iter().collect::<CpuSet>();
        if *cpus == first {
            return Err(format!(
                "CPU {first} alone is no pool: the host's own work is done there; add others to it, or \
                 choose others"
            ));
        }
        let mut others = self.clone();
        others.pools.remove(name);
        let pinned = others.seats.iter().find_map(|(guest, seat)| match seat {
            Seat::Pinned(set) if set.meets(cpus) => Some((guest, set.common(cpus))),
            _ => None,
        });
        if let Some((guest, set)) = pinned {
            return Err(format!(
                "guest {guest} is pinned to CPU {set} by cpu.cpuset: stop it, or pin it to others"
            ));
        }
        if let Some(why) = others.owner(&others.apart().common(cpus)) {
            return Err(format!("{why}; choose among {}", others.free()));
        }
        let rest = others.free().without(cpus).len();
        if rest < self.least {
            return Err(format!(
                "{rest} CPUs would be left for guests that share and for the host, and at least {} have \
                 to be: leave some of {} out",
                self.least,
                others.free()
            ));
        }
        Ok(())
    }

    /// Who has one of these CPUs, if anybody.
    fn owner(&self, cpus: &CpuSet) -> Option<String> {
        if cpus.is_empty() {
            return None;
        }
        let of = |set: &CpuSet| (set.meets(cpus)).then(|| set.common(cpus));
        if let Some(set) = of(&self.reserved) {
            return Some(format!(
                "CPU {set} is the host's own ([reserve] in bulkhead.toml)"
            ));
        }
        let pools = self.pools.iter();
        let pool = pools
            .filter_map(|(name, set)| Some(format!("CPU {} is in pool {name}", of(set)?)))
            .next();
        pool.or_else(|| {
            self.seats.iter().find_map(|(guest, seat)| match seat {
                Seat::Dedicated { kept, .. } => {
                    Some(format!("CPU {} is dedicated to guest {guest}", of(kept)?))
                }
                _ => None,
            })
        })
    }

    /// What everybody has, in words.
    fn owners(&self) -> Vec<String> {
        let mut all = Vec::new();
        if !self.reserved.is_empty() {
            all.push(format!("{} are in reserve", self.reserved));
        }
        for (name, cpus) in &self.pools {
            all.push(format!("pool {name} has {cpus}"));
        }
        for (guest, seat) in &self.seats {
            match seat {
                Seat::Dedicated { kept, .. } => all.push(format!("guest {guest} has {kept}")),
                Seat::Pinned(cpus) => all.push(format!("guest {guest} is pinned to {cpus}")),
                Seat::Shared | Seat::Pool(_) => {}
            }
        }
        all
    }
}

/// Cores that are open whole, the last ones first. CPUs of no core are cores.
fn cores(open: &CpuSet, topology: &Topology) -> Vec<CpuSet> {
    let alone = |cpu: u32| std::iter::once(cpu).collect::<CpuSet>();
    let mut found: Vec<CpuSet> = Vec::new();
    for cpu in open.iter() {
        let core = topology.whole(&alone(cpu));
        if open.holds(&core) && !found.contains(&core) {
            found.push(core);
        }
    }
    found.reverse();
    found
}

/// So many CPUs of these cores with as few as possible left over, and all of the cores that they are of.
fn take(mut of: Vec<&CpuSet>, count: usize) -> (CpuSet, CpuSet) {
    let (mut cpus, mut kept) = (CpuSet::default(), CpuSet::default());
    while cpus.len() < count && !of.is_empty() {
        let wanted = count - cpus.len();
        // The largest that is no larger than what is wanted; else the smallest there is.
        let sizes = of.iter().map(|core| core.len());
        let fits = sizes.clone().filter(|size| *size <= wanted).max();
        let size = fits.or_else(|| sizes.min());
        let Some(at) = of.iter().position(|core| Some(core.len()) == size) else {
            break;
        };
        let core = of.remove(at);
        cpus = cpus.with(&core.iter().take(wanted).collect());
        kept = kept.with(core);
    }
    (cpus, kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> CpuSet {
        text.parse().unwrap()
    }

    /// Cores of two threads (0 and 8, 1 and 9, …) in two nodes (cores 0 to 3, and 4 to 7).
    fn sixteen() -> Topology {
        let core = |n: u32| [n, n + 8].into_iter().collect();
        Topology {
            cores: (0..8).map(core).collect(),
            nodes: [(0, set("0-3,8-11")), (1, set("4-7,12-15"))].into(),
        }
    }

    fn host(online: &str) -> Seating {
        Seating {
            online: set(online),
            least: 1,
            ..Seating::default()
        }
    }

    fn own(seat: &Seat) -> (String, String, String) {
        match seat {
            Seat::Dedicated { cpus, kept, nodes } => {
                let nodes = if nodes.is_empty() {
                    String::new()
                } else {
                    nodes.to_string()
                };
                (cpus.to_string(), kept.to_string(), nodes)
            }
            other => panic!("{other:?}"),
        }
    }

    fn seat(host: &mut Seating, name: &str, seat: Seat) {
        host.seats.insert(name.parse().unwrap(), seat);
    }

    #[test]
    fn whole_cores_of_one_node() {
        let (mut host, machine) = (host("0-15"), sixteen());
        let four = host.choose(4, None, &machine).unwrap();
        assert_eq!(own(&four).0, "6-7,14-15");
        assert_eq!(own(&four).2, "1");
        seat(&mut host, "a", four);
        // The node that is fuller still has room for this one.
        let four = host.choose(4, None, &machine).unwrap();
        assert_eq!(own(&four).0, "4-5,12-13");
        // This one only fits into the other.
        let six = host.choose(6, None, &machine).unwrap();
        assert_eq!(
            (own(&six).0.as_str(), own(&six).2.as_str()),
            ("1-3,9-11", "0")
        );
        // And this one into none.
        let ten = host.choose(10, None, &machine).unwrap();
        assert_eq!(own(&ten).2, "0-1");
    }

    #[test]
    fn siblings_are_never_split() {
        let (mut host, machine) = (host("0-15"), sixteen());
        let one = host.choose(1, None, &machine).unwrap();
        assert_eq!((own(&one).0.as_str(), own(&one).1.as_str()), ("7", "7,15"));
        seat(&mut host, "a", one);
        assert_eq!(host.free().to_string(), "0-6,8-14");
        // A core of which one thread is somebody's is not open.
        host.pools.insert("gold".parse().unwrap(), set("0,6"));
        let two = host.choose(2, None, &machine).unwrap();
        assert_eq!(own(&two).0, "5,13");
    }

    #[test]
    fn cores_of_one_thread_before_half_a_core() {
        let machine = Topology {
            cores: vec![set("0-1"), set("2-3"), set("4"), set("5")],
            nodes: BTreeMap::new(),
        };
        let host = host("0-5");
        assert_eq!(own(&host.choose(1, None, &machine).unwrap()).1, "5");
        assert_eq!(own(&host.choose(3, None, &machine).unwrap()).1, "2-3,5");
    }

    #[test]
    fn something_stays_for_the_others() {
        let machine = Topology::default();
        let mut host = host("0-1");
        let why = host.choose(2, None, &machine).unwrap_err();
        assert!(
            why.starts_with(
                "it is to have 2 whole CPUs, and 1 can be given away: this host has 0-1"
            ),
            "{why}"
        );
        let one = host.choose(1, None, &machine).unwrap();
        assert_eq!(own(&one).0, "1");
        seat(&mut host, "a", one);
        let why = host.choose(1, None, &machine).unwrap_err();
        assert!(why.contains("and 0 can be given away"), "{why}");
        assert!(why.contains("guest a has 1"), "{why}");
        assert_eq!(host.cpus_of(&Seat::Shared), Some(set("0")));
        assert!(host.pin(&set("0")).is_ok());
        let why = host.pin(&set("0-1")).unwrap_err();
        assert!(why.starts_with("CPU 1 is dedicated to guest a"), "{why}");
    }

    #[test]
    fn whoever_is_pinned_keeps_what_it_has() {
        let mut host = host("0-3");
        seat(&mut host, "b", Seat::Pinned(set("2-3")));
        let machine = Topology::default();
        assert_eq!(own(&host.choose(1, None, &machine).unwrap()).0, "1");
        assert!(host.choose(1, Some(&set("2-3")), &machine).is_err());
        let why = host
            .check_pool(&"gold".parse().unwrap(), &set("1-2"))
            .unwrap_err();
        assert!(why.contains("guest b is pinned to CPU 2"), "{why}");
    }

    #[test]
    fn pools_of_what_nobody_has() {
        let mut host = host("0-3");
        host.reserved = set("0");
        let gold: CpuPoolName = "gold".parse().unwrap();
        let refused = |host: &Seating, cpus: &str| host.check_pool(&gold, &set(cpus)).unwrap_err();
        assert!(refused(&host, "3-5").contains("CPU 4-5 is not there"));
        assert!(refused(&host, "0").contains("CPU 0 alone is no pool"));
        assert!(refused(&host, "0-1").contains("CPU 0 is the host's own"));
        assert!(refused(&host, "1-3").contains("0 CPUs would be left"));
        assert!(host.check_pool(&gold, &set("2-3")).is_ok());
        host.pools.insert("silver".parse().unwrap(), set("3"));
        assert!(refused(&host, "2-3").contains("CPU 3 is in pool silver"));
        // A pool is no obstacle to itself.
        host.pools.insert(gold.clone(), set("2"));
        assert!(host.check_pool(&gold, &set("1")).is_ok());
        let member = host.cpus_of(&Seat::Pool(gold));
        assert_eq!(member, Some(set("2")));
        assert_eq!(host.free().to_string(), "1");
    }
}
