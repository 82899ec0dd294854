//! The host's own firewall where it drops what none of its rules is about, as Docker has the chain
//! FORWARD do. Our tables cannot undo that: each chain has its say. It is found by asking what would
//! become of a guest's packet, and mended by rules for the network's interfaces, at the head of the chain
//! that Docker keeps for others or else of FORWARD itself: to each other, and out over the interface of
//! the host's default route and back. What else the host leads to, Docker's containers above all, stays as
//! it was. They go when the network does.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::Network;
use super::files;
use super::firewall::{self, matches};
use super::host::HostError;
use super::ruleset::{Decided, Outcome, Packet, Ruleset};
use super::trace_path::bridged_too;
use crate::kernel::netlink::Netlink;
use crate::kernel::netlink_nft::{Family, table_exists};
use crate::model::RuleProtocol;

/// The table that iptables has its rules in.
const TABLE: &str = "filter";
/// Its chain for what the host passes on.
const CHAIN: &str = "FORWARD";
/// The chain that Docker makes for others' rules, asks first, and leaves as it is.
const FOR_OTHERS: &str = "DOCKER-USER";
/// Addresses of nobody's (RFC 5737, RFC 3849).
const SOMEBODY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 7)),
];

/// A network whose guests' packets the host drops because no rule is about them.
#[derive(Clone, Debug)]
pub struct Barred {
    network: Network,
    family: &'static str,
    chain: &'static str,
    /// Over which interface its packets leave; its own if they do not.
    out: String,
}

impl fmt::Display for Barred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (network, family) = (self.network.word(), self.family);
        write!(f, "{network}: policy of {family} {TABLE} {CHAIN} is drop")
    }
}

impl Barred {
    /// Whether it is Docker that has made it so.
    #[must_use]
    pub fn is_dockers(&self) -> bool {
        self.chain == FOR_OTHERS
    }

    /// The word for the network.
    #[must_use]
    pub fn network(&self) -> &str {
        self.network.word()
    }

    /// Lets the network's packets pass there.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn open(&self) -> Result<(), HostError> {
        let network = &self.network;
        let _lock = files::lock(&network.run_folder())?;
        // Before the rules: whoever takes the network down looks for them then.
        files::write(&network.passage_file(), &self.family)?;
        network.pause_passage()?;
        let mut tried = false;
        // Nobody may ask the chain for others.
        for chain in [self.chain, CHAIN] {
            let list = firewall::read()?;
            let shut = network.shut_in(&mut Netlink::open()?, &Ruleset::of(&list))?;
            // Another command may have done it meanwhile.
            if !shut.iter().any(|one| one.family == self.family) {
                return Ok(());
            }
            let stands = of_ours(&list, &[&network.table]).any(|rule| {
                let expr = rule["expr"].as_array().into_iter().flatten();
                let out = |one: &Value| one["match"]["right"] == self.out.as_str();
                rule["family"] == self.family && rule["chain"] == chain && expr.clone().any(out)
            });
            // Once more of the same would do no more.
            if !stands {
                self.insert(chain)?;
                network.pause_passage()?;
                tried = true;
            }
        }
        match tried {
            true => Ok(()),
            false => Err(HostError::StaysShut {
                network: network.word().to_owned(),
                family: self.family,
            }),
        }
    }

    fn insert(&self, chain: &str) -> Result<(), HostError> {
        let inside = self.network.inside();
        let is = |key: &str, name: &str| matches("==", json!({"meta": {"key": key}}), json!(name));
        let mut ways = vec![(&inside, &inside)];
        if !self.network.is_closed() {
            ways.extend([(&inside, &self.out), (&self.out, &inside)]);
        }
        let rules: Vec<Value> = ways
            .into_iter()
            .map(|(from, to)| {
                let counter = json!({"counter": {"packets": 0, "bytes": 0}});
                let expr =
                    json!([is("iifname", from), is("oifname", to), counter, {"accept": null}]);
                json!({"insert": {"rule": {
                    "family": self.family, "table": TABLE, "chain": chain,
                    "expr": expr, "comment": mark(&self.network.table)
                }}})
            })
            .collect();
        Ok(firewall::apply(TABLE, &json!({ "nftables": rules }))?)
    }
}

/// What a rule of a network's says of itself.
fn mark(table: &str) -> String {
    format!("guests of {table}")
}

/// The rules of networks of ours in others' chains.
fn of_ours<'a>(list: &'a Value, tables: &[&str]) -> impl Iterator<Item = &'a Value> {
    let marks: Vec<String> = tables.iter().map(|table| mark(table)).collect();
    let all = list["nftables"].as_array().into_iter().flatten();
    all.map(|one| &one["rule"]).filter(move |rule| {
        let comment = rule["comment"].as_str();
        rule["table"] == TABLE && comment.is_some_and(|text| marks.iter().any(|one| one == text))
    })
}

/// Removes the rules of networks of ours from others' chains.
pub(super) fn close(tables: &[&str]) -> Result<(), HostError> {
    let list = firewall::read()?;
    let gone: Vec<Value> = of_ours(&list, tables)
        .map(|rule| {
            let at = |key: &str| rule[key].clone();
            json!({"delete": {"rule": {
                "family": at("family"), "table": at("table"), "chain": at("chain"), "handle": at("handle")
            }}})
        })
        .collect();
    match gone.is_empty() {
        true => Ok(()),
        false => Ok(firewall::apply(TABLE, &json!({ "nftables": gone }))?),
    }
}

impl Network {
    /// Which of these networks the host's own firewall is shut to.
    ///
    /// # Errors
    /// The kernel or `nft` does not tell.
    pub fn barred(all: &[Self]) -> Result<Vec<Barred>, HostError> {
        // To read all rules takes its time, and where nobody has any of iptables' there is nothing to find.
        if !table_exists(Family::Ip, TABLE)? && !table_exists(Family::Ip6, TABLE)? {
            return Ok(Vec::new());
        }
        let mut kernel = Netlink::open()?;
        let (mut rules, mut barred) = (None, Vec::new());
        for network in all {
            if !network.is_passed_on(&mut kernel)? {
                continue;
            }
            let rules = match &mut rules {
                Some(rules) => rules,
                none => none.insert(Ruleset::read()?),
            };
            barred.extend(network.shut_in(&mut kernel, rules)?);
        }
        Ok(barred)
    }

    /// Whether it is there, and its guests' packets are the host's to pass on.
    fn is_passed_on(&self, kernel: &mut Netlink) -> Result<bool, HostError> {
        if !self.holds_back() || self.is_external() {
            return Ok(false);
        }
        match self.own_bridge(kernel) {
            // Somebody else's is none of ours, whatever it is called.
            Err(HostError::Foreign { .. }) => Ok(false),
            there => Ok(there?.is_some()),
        }
    }

    /// In which of the host's chains it is shut out.
    fn shut_in(&self, kernel: &mut Netlink, rules: &Ruleset) -> Result<Vec<Barred>, HostError> {
        let mut barred = Vec::new();
        for (six, family) in [(false, "ip"), (true, "ip6")] {
            let Some(packet) = self.probe(kernel, six)? else {
                continue;
            };
            if is_shut(&rules.at(&[family], "forward", &packet), family) {
                barred.push(Barred {
                    network: self.clone(),
                    family,
                    chain: match rules.has_chain(family, TABLE, FOR_OTHERS) {
                        true => FOR_OTHERS,
                        false => CHAIN,
                    },
                    out: packet.to,
                });
            }
        }
        Ok(barred)
    }

    /// A guest's packet as the host passes it on; `None` if there is no such.
    fn probe(&self, kernel: &mut Netlink, six: bool) -> Result<Option<Packet>, HostError> {
        let inside = self.inside();
        let sender: IpAddr = match (six, self.prefix6, self.known_subnet()?) {
            (false, _, Some(subnet)) => self.gateway_in(subnet).into(),
            (true, Some(prefix), _) => prefix.gateway().into(),
            _ => return Ok(None),
        };
        let out = match self.is_closed() {
            true if !bridged_too(six)? => return Ok(None),
            true => inside.clone(),
            false => match uplink(kernel, six)? {
                Some(name) => name,
                None => return Ok(None),
            },
        };
        Ok(Some(Packet {
            from: inside,
            to: out,
            groups: (0, 0),
            mac: None,
            sender,
            receiver: SOMEBODY[usize::from(six)],
            protocol: RuleProtocol::Icmp,
            port: 0,
            led: false,
            here: false,
            bridged: self.is_closed(),
        }))
    }

    /// Takes back what was opened in the host's firewall. The network's lock is held.
    pub(super) fn close_passage(&self) -> Result<(), HostError> {
        let path = self.passage_file();
        if files::read::<String>(&path)?.is_some() {
            close(&[&self.table])?;
            self.pause_passage()?;
            files::remove(&path)?;
        }
        Ok(())
    }

    fn pause_passage(&self) -> Result<(), files::FileError> {
        files::pause(&self.passage_file())
    }

    fn passage_file(&self) -> PathBuf {
        self.run_folder().join("passage.json")
    }
}

/// The interface of the default route.
fn uplink(kernel: &mut Netlink, six: bool) -> Result<Option<String>, HostError> {
    let index = match six {
        false => {
            let routes = kernel.routes()?;
            let default = routes.iter().find(|route| route.prefix == 0);
            default.and_then(|route| route.interface)
        }
        true => {
            let routes = kernel.routes6()?;
            let default = routes.iter().find(|route| route.length == 0);
            default.map(|route| route.interface)
        }
    };
    let links = kernel.links("")?.into_iter();
    let mut over = links.filter(|link| Some(link.index) == index);
    Ok(over.next().map(|link| link.name))
}

/// Whether it is the policy that drops it, for certain or if a rule with a module of iptables' does not
/// let it pass.
fn is_shut(outcome: &Outcome, family: &str) -> bool {
    let by_policy = |by: &Decided| {
        by.rule.is_none() && by.family == family && by.table == TABLE && by.chain == CHAIN
    };
    outcome.dropped.iter().chain(&outcome.doubts).any(by_policy)
}
