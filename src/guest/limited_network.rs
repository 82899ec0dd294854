//! Of the limits that `limits` shows, those of a guest's network that somebody counts: packets and
//! connections beyond its ceilings, and the bytes of its month. What only makes packets wait (rates)
//! nobody counts.

use super::error::Result;
use super::limited::{Limited, Unit};
use super::manager::Manager;
use crate::model::{Ceilings, GuestName};

impl Manager {
    /// Rows of a running guest's ceilings and allowance.
    pub(super) fn network_limits(&self, name: &GuestName) -> Result<Vec<Limited>> {
        let guest = self.guest(name)?;
        let (ceilings, allowance) = (&guest.network.ceilings, &guest.network.allowance);
        let asked = [ceilings.packets, ceilings.new_connections];
        // Of a guest that has neither nobody is asked.
        let dropped = match asked.iter().any(Option::is_some) {
            true => self.dropped(name, ceilings)?,
            false => [None; 2],
        };
        let mut rows = Vec::new();
        for ((resource, most), hits) in ["packets", "new connections"]
            .iter()
            .zip(asked)
            .zip(dropped)
        {
            rows.extend(most.map(|most| Limited {
                hits,
                ..Limited::new(name, resource, Unit::PerSecond, most.into())
            }));
        }
        let most = ceilings.connections.map(u64::from);
        rows.extend(most.map(|most| Limited::new(name, "connections", Unit::Count, most)));
        if let Some(month) = self.month(name, allowance)? {
            let row = |(resource, limit): (&'static str, Option<u64>)| {
                Some(Limited {
                    held: Some(month.used),
                    ..Limited::new(name, resource, Unit::Bytes, limit?)
                })
            };
            let both = [("traffic", month.allowance), ("traffic cut", month.cut)];
            rows.extend(both.into_iter().filter_map(row));
        }
        Ok(rows)
    }

    /// Packets that were dropped at all of its interfaces: beyond its packets a second, and beyond its
    /// new connections.
    fn dropped(&self, name: &GuestName, ceilings: &Ceilings) -> Result<[Option<u64>; 2]> {
        let mut all = [None; 2];
        for (network, lease) in self.all_leased(name)? {
            // One that cannot tell leaves the number out; that is no reason to show nothing.
            if let Ok(counted) = network.dropped_by_each(&lease) {
                add(&mut all, ceilings, &counted);
            }
        }
        Ok(all)
    }
}

/// Adds what one interface's rules have counted: one for each ceiling there is, in this order.
fn add(all: &mut [Option<u64>; 2], ceilings: &Ceilings, counted: &[u64]) {
    let there = [ceilings.packets, ceilings.new_connections];
    let rules = all.iter_mut().zip(there).filter(|(_, most)| most.is_some());
    for ((sum, _), counted) in rules.zip(counted) {
        *sum = Some(sum.unwrap_or(0) + counted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rules_count_is_the_ceilings_that_they_are_of() {
        let of = |packets, new_connections| Ceilings {
            packets,
            new_connections,
            ..Ceilings::default()
        };
        let mut all = [None; 2];
        add(&mut all, &of(None, Some(5)), &[7]);
        assert_eq!(all, [None, Some(7)]);
        add(&mut all, &of(Some(9), Some(5)), &[1, 2]);
        assert_eq!(all, [Some(1), Some(9)]);
        add(&mut all, &of(Some(9), Some(5)), &[]);
        assert_eq!(all, [Some(1), Some(9)]);
    }
}
