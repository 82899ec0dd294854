//! Which licensed product a guest had on each day: what its label said then, so that a label that is taken
//! away or moved to another guest does not take the past along. How many cores that was is `cores`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::ledger;

/// The label that names the product.
pub const LABEL: &str = "license";
/// Most changes that are kept of one day.
const MOST: usize = 16;

/// By the days on which it changed, in order; on one day it may have changed more than once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Products(
    #[serde(deserialize_with = "ledger::periods")] BTreeMap<String, Vec<Option<String>>>,
);

impl Products {
    /// On this day the label says so.
    pub(super) fn look(&mut self, day: &str, product: Option<&String>) {
        // As of this day: a clock that ran ahead for a while may have left later ones.
        let before = self.0.range(..=day.to_owned()).next_back();
        let last = before.and_then(|(_, all)| all.last());
        if last.is_some_and(|last| last.as_ref() == product) {
            return;
        }
        let of_day = self.0.entry(day.to_owned()).or_default();
        of_day.truncate(MOST - 1);
        of_day.push(product.cloned());
    }

    /// All that it had in a day or a month; `None` where nobody has written it down.
    pub(super) fn in_period(&self, period: &str) -> Option<BTreeSet<String>> {
        let before = self.0.range(..period.to_owned()).next_back();
        // Before it was written down it was what was found first.
        let first = self.0.values().next()?.first();
        let before = before.map_or(first, |(_, all)| all.last());
        let within = self.0.range(period.to_owned()..);
        let within = within.take_while(|(day, _)| day.starts_with(period));
        let all = within.flat_map(|(_, all)| all).chain(before);
        Some(all.flatten().cloned().collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn had(products: &Products, period: &str) -> Vec<String> {
        let all = products.in_period(period).expect("written down");
        all.into_iter().collect()
    }

    #[test]
    fn a_day_that_a_wrong_clock_has_left_ahead_changes_nothing_before() {
        let (db, web) = (String::from("db"), String::from("web"));
        let mut products = Products::default();
        products.look("2027-01-01", Some(&web));
        for day in ["2026-03-05", "2026-03-06", "2026-03-07"] {
            products.look(day, Some(&db));
            assert_eq!(had(&products, day), ["db"], "{day}");
        }
        assert_eq!(products.0.len(), 2);
    }

    #[test]
    fn a_label_that_goes_leaves_the_days_that_it_was_there() {
        let (db, web) = (String::from("db"), String::from("web"));
        let mut products = Products::default();
        assert_eq!(products.in_period("2026-03-01"), None);
        products.look("2026-03-05", Some(&db));
        products.look("2026-03-06", Some(&db));
        products.look("2026-03-10", None);
        products.look("2026-03-10", Some(&web));
        products.look("2026-04-02", None);
        assert_eq!(products.0.len(), 3);
        // Also before anybody looked.
        for day in ["2026-03-01", "2026-03-05", "2026-03-09"] {
            assert_eq!(had(&products, day), ["db"], "{day}");
        }
        assert_eq!(had(&products, "2026-03-10"), ["db", "web"]);
        assert_eq!(had(&products, "2026-03-11"), ["web"]);
        assert_eq!(had(&products, "2026-04-02"), ["web"]);
        assert!(had(&products, "2026-04-03").is_empty());
        assert_eq!(had(&products, "2026-03"), ["db", "web"]);
        assert_eq!(had(&products, "2026-04"), ["web"]);
        assert!(had(&products, "2026-05").is_empty());
        let text = serde_json::to_string(&products).unwrap();
        assert_eq!(serde_json::from_str::<Products>(&text).unwrap(), products);
        assert!(serde_json::from_str::<Products>(r#"{"x":[]}"#).is_err());
    }

    #[test]
    fn a_label_that_never_rests_fills_no_account() {
        let mut products = Products::default();
        for n in 0..1000 {
            products.look("2026-03-05", Some(&n.to_string()));
        }
        assert_eq!(products.0["2026-03-05"].len(), MOST);
        // What it is now is known.
        assert_eq!(had(&products, "2026-03-06"), ["999"]);
    }
}
