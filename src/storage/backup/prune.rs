//! Taking away: snapshots that nobody wants to keep, then the data that no snapshot needs, of packs
//! that are mostly needed the part that is not. Alone in the repository, and in an order in which it
//! can be killed anywhere: new packs, the new index, then away with the old index, then the old packs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::Serialize;

use super::super::digest::hex;
use super::blob::{Hold, Kind};
use super::error::{BackupError, Result};
use super::index::{self, Index, Place};
use super::manifest::ListReader;
use super::pack::{self, LARGEST, Pack, Slot};
use super::repo::{Protection, Repository};
use super::seal::ChunkId;
use super::snapshot::Snapshot;
use super::verify::stop_if_asked;
use crate::model::Retention;

/// A pack of which more than one part in this many is not needed is written anew.
const WASTE: u64 = 5;

/// What is to be taken away.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// How many snapshots of each guest are kept.
    pub retention: Retention,
    /// Snapshots that are deleted by name.
    pub delete: Vec<String>,
    /// Whether nothing is changed, only said.
    pub dry_run: bool,
}

/// What was taken away, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Names and guests of the snapshots.
    pub snapshots: Vec<(String, String)>,
    /// Snapshots that are left.
    pub kept: u64,
    /// Packs deleted.
    pub packs: u64,
    /// Packs written anew without what is not needed.
    pub rewritten: u64,
    /// Bytes that this has freed.
    pub freed: u64,
}

impl Repository {
    /// Takes away what `wish` says and all data that is then not needed.
    ///
    /// # Errors
    /// Another command works on the repository; it is damaged; its disk is full.
    pub fn prune(place: &Path, protection: &Protection, wish: &Wish) -> Result<Pruned> {
        let mut repository = Self::open_alone(place, protection)?;
        let (keep, mut done) = repository.choose(wish)?;
        let needed = repository.needed(&keep)?;
        let plan = repository.plan(&needed)?;
        done.kept = keep.len() as u64;
        done.packs = (plan.unneeded.len() + plan.strangers.len()) as u64;
        done.rewritten = plan.wasteful.len() as u64;
        done.freed = plan.freed;
        if wish.dry_run {
            return Ok(done);
        }
        done.freed += repository.sweep()?;
        for (id, _) in &done.snapshots {
            repository.blobs.delete(Kind::Snapshot, id)?;
        }
        repository.carry_out(&plan, &needed)?;
        Ok(done)
    }

    /// The snapshots that stay, and those that go.
    fn choose(&self, wish: &Wish) -> Result<(Vec<Snapshot>, Pruned)> {
        let mut of_guest: BTreeMap<String, Vec<Snapshot>> = BTreeMap::new();
        for snapshot in self.snapshots()? {
            of_guest
                .entry(snapshot.guest.clone())
                .or_default()
                .push(snapshot);
        }
        let (mut keep, mut done) = (Vec::new(), Pruned::default());
        for (guest, snapshots) in of_guest {
            let times: Vec<u64> = snapshots.iter().map(|snapshot| snapshot.began_ms).collect();
            let wanted = wish.retention.keep(&times);
            for (snapshot, wanted) in snapshots.into_iter().zip(wanted) {
                if wanted && !wish.delete.contains(&snapshot.id) {
                    keep.push(snapshot);
                } else {
                    done.snapshots.push((snapshot.id, guest.clone()));
                }
            }
        }
        Ok((keep, done))
    }

    /// All chunks that snapshots need.
    fn needed(&self, snapshots: &[Snapshot]) -> Result<HashSet<ChunkId>> {
        let mut needed = HashSet::new();
        let mut seen = HashSet::new();
        for tree in snapshots.iter().flat_map(Snapshot::trees) {
            let list = tree.list()?;
            // Most snapshots share the trees below them.
            if !seen.insert(list.iter().map(|chunk| chunk.id).collect::<Vec<_>>()) {
                continue;
            }
            stop_if_asked()?;
            needed.extend(list.iter().map(|chunk| chunk.id));
            let mut list = ListReader::new(list);
            while let Some(entry) = list.next(self)? {
                needed.extend(entry.data.iter().map(|chunk| chunk.id));
            }
        }
        match needed.iter().find(|id| self.index.get(id).is_none()) {
            None => Ok(needed),
            Some(id) => Err(BackupError::damaged(
                format!("chunk {}", id.hex()),
                "it is missing; `bulkhead backup verify` says which snapshots need it: delete \
                 them, or bring back the pack",
            )),
        }
    }

    fn plan(&self, needed: &HashSet<ChunkId>) -> Result<Plan> {
        let mut used: HashMap<u32, u64> = HashMap::new();
        for (id, place) in self.index.iter() {
            if needed.contains(id) {
                *used.entry(place.pack).or_default() += u64::from(place.stored);
            }
        }
        let mut plan = Plan::default();
        for (number, (id, size)) in self.index.packs.iter().enumerate() {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            match used.get(&number) {
                None => {
                    plan.unneeded.push(*id);
                    plan.freed += size;
                }
                Some(used) if (size - used) > size / WASTE => {
                    plan.wasteful.insert(number);
                    plan.freed += size - used;
                }
                Some(_) => {}
            }
        }
        // One small pack alone is as small as it gets: two are worth one.
        let small = |number: &u32| used.get(number).is_some_and(|n| *n < LARGEST / 8);
        let whole = |number: u32| {
            let size = self
                .index
                .packs
                .get(number as usize)
                .map_or(0, |pack| pack.1);
            used.get(&number).is_some_and(|n| size - n < 4096)
        };
        if plan.wasteful.len() == 1 && plan.wasteful.iter().all(|n| small(n) && whole(*n)) {
            plan.wasteful.clear();
        }
        let known: HashSet<String> = self.index.packs.iter().map(|(id, _)| hex(id)).collect();
        for (name, size) in self.blobs.list(Kind::Pack)? {
            if !known.contains(&name) {
                plan.strangers.push(name);
                plan.freed += size;
            }
        }
        Ok(plan)
    }

    fn carry_out(&mut self, plan: &Plan, needed: &HashSet<ChunkId>) -> Result<()> {
        let old_index = self.blobs.list(Kind::Index)?;
        if !plan.is_nothing() || old_index.len() > 1 {
            let old = std::mem::take(&mut self.index);
            let mut stays = Index::default();
            let mut kept = self.kept(plan, &old, needed);
            for pack in &kept {
                stays.add_pack(pack);
            }
            self.index = stays;
            kept.append(&mut self.rewrite(plan, &old, needed)?);
            index::store(&*self.blobs, &mut self.secrets, &kept)?;
            for (name, _) in &old_index {
                self.blobs.delete(Kind::Index, name)?;
            }
            let rewritten = plan.wasteful.iter();
            let rewritten = rewritten.filter_map(|number| old.packs.get(*number as usize));
            for id in plan.unneeded.iter().chain(rewritten.map(|(id, _)| id)) {
                self.blobs.delete(Kind::Pack, &hex(id))?;
            }
        }
        for name in &plan.strangers {
            self.blobs.delete(Kind::Pack, name)?;
        }
        Ok(())
    }

    /// Packs that stay as they are, with what of them is needed.
    fn kept(&self, plan: &Plan, old: &Index, needed: &HashSet<ChunkId>) -> Vec<Pack> {
        let mut slots: HashMap<u32, Vec<Slot>> = HashMap::new();
        for (id, place) in old.iter() {
            if needed.contains(id) && !plan.wasteful.contains(&place.pack) {
                slots.entry(place.pack).or_default().push(slot(*id, place));
            }
        }
        let mut packs: Vec<(u32, Vec<Slot>)> = slots.into_iter().collect();
        packs.sort_by_key(|(number, _)| *number);
        let pack = |(number, slots): (u32, Vec<Slot>)| {
            let (id, size) = *old.packs.get(number as usize)?;
            Some(Pack { id, size, slots })
        };
        packs.into_iter().filter_map(pack).collect()
    }

    /// Writes what is needed of wasteful packs into new ones.
    fn rewrite(
        &mut self,
        plan: &Plan,
        old: &Index,
        needed: &HashSet<ChunkId>,
    ) -> Result<Vec<Pack>> {
        let mut moves: Vec<(ChunkId, Place)> = old
            .iter()
            .filter(|(id, place)| needed.contains(id) && plan.wasteful.contains(&place.pack))
            .map(|(id, place)| (*id, *place))
            .collect();
        moves.sort_by_key(|(_, place)| (place.pack, place.offset));
        for (id, place) in moves {
            stop_if_asked()?;
            let sealed = self.sealed(old, &id, &place)?;
            self.append_unindexed(id, place.plain as usize, &sealed)?;
        }
        self.take_unindexed()
    }

    /// A chunk as it is stored, proved.
    fn sealed(&self, index: &Index, id: &ChunkId, place: &Place) -> Result<Vec<u8>> {
        let name = index.packs.get(place.pack as usize).map(|(id, _)| hex(id));
        let part = super::blob::Part {
            offset: place.offset.into(),
            length: place.stored,
        };
        let sealed = self
            .blobs
            .get_part(Kind::Pack, &name.unwrap_or_default(), part)?;
        match self.open_chunk(id, &sealed) {
            Some(_) => Ok(sealed),
            None => Err(BackupError::damaged(
                format!("chunk {}", id.hex()),
                "what its pack holds is not authentic; `bulkhead backup verify` says which \
                 snapshots need it: delete them",
            )),
        }
    }

    /// Makes the index anew from the packs themselves; gives the number of packs. Packs that are
    /// damaged are left out, and told.
    ///
    /// # Errors
    /// Another command works on the repository; it cannot be read or written.
    pub fn reindex(place: &Path, protection: &Protection) -> Result<(u64, Vec<String>)> {
        let mut repository = Self::unread(place, protection, Hold::Alone)?;
        let old = repository.blobs.list(Kind::Index)?;
        let (mut packs, mut faults) = (Vec::new(), Vec::new());
        for (name, _) in repository.blobs.list(Kind::Pack)? {
            stop_if_asked()?;
            let read = repository.blobs.get(Kind::Pack, &name, LARGEST);
            match read.and_then(|bytes| pack::list(&repository.secrets, &bytes)) {
                Ok(pack) if hex(&pack.id) == name => packs.push(pack),
                Ok(_) => faults.push(format!("packs/{name}: its bytes are not those written")),
                Err(error) => faults.push(error.to_string()),
            }
        }
        index::store(&*repository.blobs, &mut repository.secrets, &packs)?;
        for (name, _) in old {
            repository.blobs.delete(Kind::Index, &name)?;
        }
        Ok((packs.len() as u64, faults))
    }
}

/// What happens to packs.
#[derive(Debug, Default)]
struct Plan {
    /// Of which nothing is needed.
    unneeded: Vec<[u8; 32]>,
    /// Numbers of those that are written anew.
    wasteful: HashSet<u32>,
    /// Names of those that no index knows.
    strangers: Vec<String>,
    freed: u64,
}

impl Plan {
    fn is_nothing(&self) -> bool {
        self.unneeded.is_empty() && self.wasteful.is_empty()
    }
}

fn slot(id: ChunkId, place: &Place) -> Slot {
    Slot {
        id,
        offset: place.offset,
        stored: place.stored,
        plain: place.plain,
    }
}
