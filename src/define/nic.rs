//! `[[network.nic]]`: an interface of a guest beyond its first. The keys of one, its text on the command
//! line, what it means, and what it may not be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use toml_edit::{Array, InlineTable, Value};

use super::check::Found;
use super::check_network::{BURST, FASTEST, MOST_COUNTED, MOST_RULES, SLOWEST};
use super::edit::Change;
use super::error::DefineError;
use super::key::{Key, KeyPath};
use super::layer::{Entry, Extend};
use super::read::{Node, Reader, Sheet};
use super::word::quoted;
use crate::model::{
    Bytes, Ceilings, FirewallLine, Mac, NetworkKind, NetworkWish, Nic, NicName, Rate,
};

/// More than anybody has cables for.
const MOST: usize = 16;
const KEY: &str = "network.nic";

/// One such table.
#[derive(Clone, Debug, PartialEq)]
pub struct NicEntry {
    /// Its name inside.
    pub name: NicName,
    /// The network that it is on.
    pub network: NetworkKind,
    /// Address asked for.
    pub address: Option<Ipv4Addr>,
    /// Hardware address.
    pub mac: Option<Mac>,
    /// IPv6 address.
    pub address6: Option<Ipv6Addr>,
    /// Whether it is kept apart from others that are.
    pub isolated_ports: Option<bool>,
    /// Most that comes to it.
    pub rate_in: Option<Rate>,
    /// Most that goes from it.
    pub rate_out: Option<Rate>,
    /// How much of that may come at once.
    pub burst_in: Option<Bytes>,
    /// How much of that may go at once.
    pub burst_out: Option<Bytes>,
    /// Rules of its firewall.
    pub firewall: Extend<FirewallLine>,
    /// Packets that go from it in a second.
    pub packets: Option<u32>,
    /// Connections that are begun from it in a second.
    pub new_connections: Option<u32>,
    /// Connections the host keeps track of.
    pub connections: Option<u32>,
}

impl Entry for NicEntry {
    const NAMES: &'static [&'static str] = &[
        "name",
        "network",
        "address",
        "mac",
        "address6",
        "isolated_ports",
        "rate_in",
        "rate_out",
        "burst_in",
        "burst_out",
        "firewall",
        "packets",
        "new_connections",
        "connections",
    ];
    const IDENTITY: &'static str = "name";

    fn identity(&self) -> String {
        self.name.to_string()
    }

    fn read(reader: &mut Reader<'_>, path: &str, node: &Node<'_>) -> Option<Self> {
        let table = reader.table(path, node)?;
        reader.known(path, table, Self::NAMES);
        let name = reader.required(path, node, table, "name");
        let network = reader.required(path, node, table, "network");
        let entry = Self {
            address: reader.field(path, table, "address"),
            mac: reader.field(path, table, "mac"),
            address6: reader.field(path, table, "address6"),
            isolated_ports: reader.field(path, table, "isolated_ports"),
            rate_in: reader.field(path, table, "rate_in"),
            rate_out: reader.field(path, table, "rate_out"),
            burst_in: reader.field(path, table, "burst_in"),
            burst_out: reader.field(path, table, "burst_out"),
            firewall: reader.field(path, table, "firewall"),
            packets: reader.field(path, table, "packets"),
            new_connections: reader.field(path, table, "new_connections"),
            connections: reader.field(path, table, "connections"),
            name: name?,
            network: network?,
        };
        Some(entry)
    }
}

impl From<NicEntry> for Nic {
    fn from(entry: NicEntry) -> Self {
        Self {
            name: entry.name,
            network: entry.network,
            address: entry.address,
            mac: entry.mac,
            address6: entry.address6,
            isolated_ports: entry.isolated_ports,
            rate_in: entry.rate_in,
            rate_out: entry.rate_out,
            burst_in: entry.burst_in,
            burst_out: entry.burst_out,
            firewall: entry.firewall.0,
            ceilings: Ceilings {
                packets: entry.packets,
                new_connections: entry.new_connections,
                connections: entry.connections,
                ..Ceilings::default()
            },
        }
    }
}

/// `NAME=NETWORK[,KEY=VALUE…]`. A comma that no key follows belongs to the value, as in rules; rules are
/// parted by semicolons.
pub(super) fn item(text: &str) -> Result<(Option<String>, Value), String> {
    let usage = || {
        format!(
            "{}: write NAME=NETWORK, then ,address=IP, ,mac=, ,rate_in= and the like if wanted",
            quoted(text)
        )
    };
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for part in text.split(',') {
        match (part.split_once('='), pairs.last_mut()) {
            (Some((name, value)), _) => pairs.push((name, value.to_owned())),
            (None, Some((_, value))) => *value += &format!(",{part}"),
            (None, None) => return Err(usage()),
        }
    }
    let mut pairs = pairs.into_iter();
    let (name, network) = pairs.next().ok_or_else(usage)?;
    let mut table = InlineTable::new();
    table.insert("name", name.into());
    table.insert("network", network.into());
    for (key, value) in pairs {
        if table.contains_key(key) {
            return Err(usage());
        }
        let value: Value = match key {
            "firewall" => value.split(';').map(str::trim).collect::<Array>().into(),
            "isolated_ports" => value
                .parse::<bool>()
                .map_or_else(|_| value.as_str().into(), Value::from),
            _ => value
                .parse::<i64>()
                .map_or_else(|_| value.as_str().into(), Value::from),
        };
        table.insert(key, value);
    }
    Ok((Some(name.to_owned()), table.into()))
}

/// The text with which `--nic` asks for this.
pub(super) fn text(nic: &Nic) -> String {
    let ceilings = &nic.ceilings;
    let rules: Vec<String> = nic.firewall.iter().map(ToString::to_string).collect();
    let more = [
        ("address", nic.address.map(|address| address.to_string())),
        ("mac", nic.mac.map(|mac| mac.to_string())),
        ("address6", nic.address6.map(|address| address.to_string())),
        (
            "isolated_ports",
            nic.isolated_ports.map(|on| on.to_string()),
        ),
        ("rate_in", nic.rate_in.map(|rate| rate.to_string())),
        ("rate_out", nic.rate_out.map(|rate| rate.to_string())),
        ("burst_in", nic.burst_in.map(|burst| burst.to_string())),
        ("burst_out", nic.burst_out.map(|burst| burst.to_string())),
        ("packets", ceilings.packets.map(|count| count.to_string())),
        (
            "new_connections",
            ceilings.new_connections.map(|count| count.to_string()),
        ),
        (
            "connections",
            ceilings.connections.map(|count| count.to_string()),
        ),
        ("firewall", (!rules.is_empty()).then(|| rules.join(";"))),
    ];
    let mut all = format!("{}={}", nic.name, nic.network);
    for (key, value) in more {
        if let Some(value) = value {
            all += &format!(",{key}={value}");
        }
    }
    all
}

/// The changes to a definition's text after which its interfaces have no address that only one guest
/// can have; what else is said of them stays.
///
/// # Errors
/// The text is no definition.
pub fn without_addresses(definition: &str) -> Result<Vec<(KeyPath, Change)>, DefineError> {
    let sheet = Sheet::parse("", definition)?;
    let mut all = Vec::new();
    for path in ["network.address", "network.address6", "network.mac"] {
        let key = Key::find(path).map(|key| KeyPath { key, item: None });
        all.extend(key.map(|key| (key, Change::Unset)));
    }
    for entry in sheet.definition.network.nic {
        let nic = Nic {
            address: None,
            mac: None,
            address6: None,
            ..entry.into()
        };
        let changed = Key::find(KEY).zip(item(&text(&nic)).ok());
        all.extend(changed.map(|(key, (item, value))| (KeyPath { key, item }, Change::Set(value))));
    }
    Ok(all)
}

/// What no guest may ask of its further interfaces.
pub(super) fn check(network: &NetworkWish, found: &mut Found) {
    let nics = &network.nics;
    if nics.is_empty() {
        return;
    }
    if network.kind == NetworkKind::Host {
        found.add(
            KEY,
            "needs a network of the guest's own: network.kind is host, whose interfaces are all there are",
        );
    }
    if nics.len() > MOST {
        found.add(KEY, format!("more than {MOST} further interfaces"));
    }
    for (at, nic) in nics.iter().enumerate() {
        for message in problems(network, nic, &nics[..at]) {
            found.item(KEY, nic.name.as_str(), message);
        }
    }
}

fn problems(network: &NetworkWish, nic: &Nic, before: &[Nic]) -> Vec<String> {
    let mut all = Vec::new();
    let word = &nic.network;
    if !word.has_address() {
        all.push(format!(
            "is on {word}: name bridge, or a network that you made"
        ));
    } else if *word == network.kind {
        all.push(format!(
            "is on {word}, where the guest has its first interface: it has one on a network"
        ));
    } else if let Some(other) = before.iter().find(|other| other.network == *word) {
        let other = &other.name;
        all.push(format!(
            "is on {word}, as {other} is: a guest has one interface on a network"
        ));
    }
    if nic.mac.is_some() && nic.mac == network.mac
        || before.iter().any(|o| o.mac == nic.mac && nic.mac.is_some())
    {
        all.push("has the hardware address of another interface of this guest".to_owned());
    }
    let address = nic.address.map(IpAddr::from).into_iter();
    for address in address.chain(nic.address6.map(IpAddr::from)) {
        all.extend(super::check_network::no_address(address));
    }
    for (key, rate) in [("rate_in", nic.rate_in), ("rate_out", nic.rate_out)] {
        out_of_range(&mut all, key, rate, &SLOWEST, &FASTEST);
    }
    for (key, burst, rate) in [
        ("burst_in", nic.burst_in, nic.rate_in),
        ("burst_out", nic.burst_out, nic.rate_out),
    ] {
        if burst.is_some() && rate.is_none() {
            all.push(format!("{key}: needs {}", key.replace("burst", "rate")));
        }
        out_of_range(&mut all, key, burst, &BURST.0, &BURST.1);
    }
    for (key, count, least) in [
        (
            "packets",
            nic.ceilings.packets,
            super::check_network::FEWEST_PACKETS,
        ),
        ("new_connections", nic.ceilings.new_connections, 1),
        ("connections", nic.ceilings.connections, 1),
    ] {
        out_of_range(&mut all, key, count, &least, &MOST_COUNTED);
    }
    if nic.firewall.len() > MOST_RULES {
        all.push(format!(
            "firewall: more than {MOST_RULES} rules: every packet meets them all"
        ));
    }
    all
}

fn out_of_range<T: PartialOrd + std::fmt::Display>(
    all: &mut Vec<String>,
    key: &str,
    value: Option<T>,
    least: &T,
    most: &T,
) {
    if let Some(value) = value
        && (value < *least || value > *most)
    {
        all.push(format!("{key}: {value} is out of range: {least} to {most}"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::Key;
    use super::super::{edit, get};
    use crate::define::{Profiles, Sheet, resolve};

    #[test]
    fn an_interface_is_the_same_as_text_and_as_a_table() {
        let full = "lan=db,address=10.9.0.5,mac=02:00:5e:00:00:01,address6=fd42::5,isolated_ports=true,\
                    rate_in=10mbit,burst_in=1M,packets=500,firewall=in accept tcp 80,443;in drop";
        for text in ["lan=db", "eth1=bridge,address=10.213.0.9", full] {
            let changes = Key::find("network.nic").unwrap().changes(&[text]).unwrap();
            let written = edit("", &changes).unwrap();
            let sheet = Sheet::parse("guest.toml", &written).unwrap();
            let profiles = Profiles::load(None).unwrap();
            let guest = resolve(&"web".parse().unwrap(), &sheet, &profiles).unwrap();
            let shown = get(&guest, "network.nic").unwrap();
            let (mut shown, mut text): (Vec<_>, Vec<_>) =
                (shown.split(',').collect(), text.split(',').collect());
            shown.sort_unstable();
            text.sort_unstable();
            assert_eq!(shown, text, "{written}");
        }
    }

    #[test]
    fn what_only_one_guest_can_have_is_left_out() {
        let text = "network.address = \"10.213.0.5\"\nnetwork.address6 = \"fd42::5\"\n[[network.nic]]\nname = \"lan\"\n\
                    network = \"db\"\naddress = \"10.9.0.5\"\naddress6 = \"fd42::5\"\nmac = \"02:00:5e:00:00:01\"\n\
                    firewall = [\"in accept tcp 80,443\", \"in drop\"]\n";
        let changes = super::without_addresses(text).unwrap();
        let left = edit(text, &changes).unwrap();
        assert!(!left.contains("address") && !left.contains("mac"), "{left}");
        assert!(
            left.contains("in accept tcp 80,443") && left.contains("db"),
            "{left}"
        );
    }

    #[test]
    fn wrong_texts_are_named() {
        for (text, why) in [
            ("lan", "write NAME=NETWORK"),
            (
                "lan=db,address=10.9.0.5,address=10.9.0.6",
                "write NAME=NETWORK",
            ),
            ("lan=db,colour=red", "unknown key \"colour\""),
            ("a-name-too-long-for-linux=db", "the kernel takes 15"),
            ("lan=db,mac=1:2", "not a hardware address"),
        ] {
            let key = Key::find("network.nic").unwrap();
            let error = key.changes(&[text]).unwrap_err().to_string();
            assert!(
                error.starts_with("--nic: ") && error.contains(why),
                "{error}"
            );
        }
    }
}
