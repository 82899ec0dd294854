//! Firewalls of networks that are there and from which somebody has taken rules, by `nft flush chain` or
//! `nft delete rule`. The table stands, so a start finds nothing amiss: rules are counted where somebody
//! asks what is wrong.

use std::collections::BTreeMap;

use serde_json::Value;

use super::host::HostError;
use super::ruleset::{Place, Ruleset, text};
use super::trace::{Hop, Verdict};
use super::{Network, trace_words as words};
use crate::kernel::netlink_nft::table_exists;

impl Network {
    /// Which of these networks lack rules, and in which chains.
    ///
    /// # Errors
    /// The kernel or `nft` does not tell, or a file cannot be read.
    pub fn thinned(all: &[Self]) -> Result<Vec<(&Self, Vec<String>)>, HostError> {
        let mut read = None;
        let mut thinned = Vec::new();
        for network in all {
            let there = match network.is_set_up() {
                // Somebody else's is none of ours, whatever it is called.
                Err(HostError::Foreign { .. }) => false,
                there => there?,
            };
            if !there || !network.holds_back() || !network.tables_stand()? {
                continue;
            }
            let rules = match &mut read {
                Some(rules) => rules,
                none => none.insert(Ruleset::read()?),
            };
            if network.lacks_rules(rules)?.is_empty() {
                continue;
            }
            // Whoever changes a guest's rules holds it; what was read before is old then.
            let _lock = network.lock_book()?;
            let chains = network.lacks_rules(&Ruleset::read()?)?;
            if !chains.is_empty() {
                thinned.push((network, chains));
            }
        }
        Ok(thinned)
    }

    /// What is gone of the firewall.
    pub(super) fn missing(&self, rules: &Ruleset) -> Result<Option<Hop>, HostError> {
        let (family, table) = &self.guard;
        if !table_exists(*family, table)? {
            return Ok(Some(words::flushed(self)));
        }
        let chains = self.lacks_rules(rules)?;
        Ok((!chains.is_empty()).then(|| told(self, &chains)))
    }

    /// Chains that have fewer rules than were written into them.
    pub(super) fn lacks_rules(&self, rules: &Ruleset) -> Result<Vec<String>, HostError> {
        let Some(subnet) = self.known_subnet()? else {
            return Ok(Vec::new());
        };
        let tables = self.tables(subnet)?;
        let commands = tables["nftables"].as_array().into_iter().flatten();
        let of_guests = self.wall_commands(true)?;
        let lacking = counts(commands.chain(&of_guests)).into_iter();
        let lacking = lacking.filter(|(at, count)| rules.rules_in(at) < *count);
        Ok(lacking
            .map(|((family, table, chain), _)| format!("{family} {table} {chain}"))
            .collect())
    }
}

/// Somebody has taken rules from chains of ours.
fn told(network: &Network, chains: &[String]) -> Hop {
    let why = format!(
        "rules are missing in the firewall of the network {}, in {}: somebody has taken them out",
        network.word(),
        chains.join(", ")
    );
    Hop::new("firewall", Verdict::Note, why).advise("bulkhead network reload")
}

/// How many rules are in each chain after these commands.
fn counts<'a>(commands: impl Iterator<Item = &'a Value>) -> BTreeMap<Place, usize> {
    let mut all = BTreeMap::new();
    let place = |object: &Value, name: &str| -> Place {
        ["family", "table", name]
            .map(|key| text(&object[key]))
            .into()
    };
    for command in commands {
        let rule = &command["add"]["rule"];
        if rule.is_object() {
            *all.entry(place(rule, "chain")).or_default() += 1;
        }
        for emptied in ["flush", "delete"] {
            let chain = &command[emptied]["chain"];
            if chain.is_object() {
                all.remove(&place(chain, "name"));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_are_counted_as_the_commands_leave_them() {
        let chain = |name| json!({"family": "inet", "table": "t", "name": name});
        let rule =
            |chain| json!({"add": {"rule": {"family": "inet", "table": "t", "chain": chain}}});
        let commands = [
            json!({"add": {"chain": chain("kept")}}),
            json!({"flush": {"chain": chain("kept")}}),
            rule("kept"),
            rule("kept"),
            rule("gone"),
            json!({"delete": {"chain": chain("gone")}}),
        ];
        let kept = ("inet".to_owned(), "t".to_owned(), "kept".to_owned());
        assert_eq!(counts(commands.iter()), BTreeMap::from([(kept, 2)]));
    }
}
