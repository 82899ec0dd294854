//! What a network tells its guests if it is asked to: their addresses by DHCP, the router by
//! advertisements, names by DNS. A server program does it, dnsmasq; this is what is said of it and the
//! files that it reads. All of them follow from the network's record and its book of leases, so what a
//! guest says of itself, its name above all, never gets into one. Running it is `server.rs`, what it and
//! the guests may say to each other `served_rules.rs`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::{self, FileError};
use super::record::Record;
use super::subnet::Subnet;
use super::{Kind, Network, SettingsError, dns};

/// Where the program may lie; never searched for in PATH, which belongs to whoever called.
const PLACES: [&str; 4] = [
    "/usr/sbin/dnsmasq",
    "/usr/bin/dnsmasq",
    "/sbin/dnsmasq",
    "/usr/local/sbin/dnsmasq",
];
/// The name of its folder in its root.
pub(super) const FOLDER: &str = "served";
/// Its files there: what it is to do, names, leases, the host's name servers.
pub(super) const ORDERS: &str = "orders";
const NAMES: &str = "names";
const LEASES: &str = "leases";
const SERVERS: &str = "servers";
/// How long a lease holds; the address stays the guest's either way.
const LEASE: &str = "1h";
/// What resolv.conf(5) may be long, bytes.
const LONGEST: u64 = 64 << 10;

/// What guests of a network are told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Served {
    /// Their own addresses, by DHCP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dhcp: bool,
    /// Router and prefix of IPv6 by advertisements, their own addresses of it by DHCPv6.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ra: bool,
    /// Names: each other's, and what the host's name servers know.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dns: bool,
    /// The domain of their names; `None` for the network's name before `.internal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}

impl Served {
    /// Whether nobody need serve anything.
    #[must_use]
    pub fn is_none(&self) -> bool {
        !(self.dhcp || self.ra || self.dns)
    }

    /// Nothing is said at all.
    pub(super) fn is_unsaid(&self) -> bool {
        *self == Self::default()
    }

    /// The words for what is served.
    #[must_use]
    pub fn words(&self) -> Vec<&'static str> {
        let all = [(self.dhcp, "dhcp"), (self.ra, "ra"), (self.dns, "dns")];
        let said = all.into_iter().filter(|(said, _)| *said);
        said.map(|(_, word)| word).collect()
    }

    /// Why a network cannot be served so.
    pub(super) fn check(&self, record: &Record) -> Result<(), String> {
        if let Some(domain) = self.domain.as_ref().filter(|domain| !is_domain(domain)) {
            return Err(no_domain(domain));
        }
        if self.is_none() {
            return Ok(());
        }
        if !matches!(record.kind, Kind::Bridge | Kind::Isolated) {
            return Err(format!(
                "on a network of the kind {} nobody of this host's serves dhcp, ra or dns: only on one of the kind bridge or isolated",
                record.kind.word()
            ));
        }
        if self.ra && record.kind == Kind::Isolated {
            return Err(
                "an isolated network has no router that could be advertised: leave out --ra"
                    .to_owned(),
            );
        }
        if record.kind == Kind::Isolated && record.vxlan.is_some() {
            return Err(
                "an isolated network that several hosts share has no host of its own to ask: leave out --dhcp and --dns".to_owned(),
            );
        }
        if self.ra && record.prefix6.is_none() {
            return Err("there is no IPv6 prefix to advertise: say --prefix6 as well".to_owned());
        }
        if self.ra && record.vxlan.is_some() {
            return Err(
                "a network that several hosts share has a router on each of them, and advertisements would lead guests to any: leave out --ra".to_owned(),
            );
        }
        Ok(())
    }

    /// The same of the network that is always there, whose settings say it.
    pub(super) fn check_usual(&self, has_prefix6: bool) -> Result<(), SettingsError> {
        let refused = |key, why: String| Err(SettingsError::Served { key, why });
        match &self.domain {
            Some(domain) if !is_domain(domain) => refused("domain", no_domain(domain)),
            _ if self.ra && !has_prefix6 => refused(
                "ra",
                "there is no IPv6 prefix to advertise: set network.prefix6 as well".to_owned(),
            ),
            _ => Ok(()),
        }
    }
}

fn no_domain(domain: &str) -> String {
    format!(
        "{domain:?} is no domain: use a-z, 0-9 and - in parts divided by dots, at most 200 characters"
    )
}

/// Stricter than DNS, so that it is safe in a file of somebody else's form.
fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    text.len() <= 200 && text.split('.').all(label)
}

/// Path of the program.
pub(super) fn program() -> Option<&'static Path> {
    let mut places = PLACES.iter().map(Path::new);
    places.find(|path| path.is_file())
}

/// Files of the server program's by name, and what is in each.
pub(super) type Texts = [(&'static str, String); 4];

impl Network {
    /// What its guests are told.
    #[must_use]
    pub fn served(&self) -> &Served {
        &self.served
    }

    /// The domain of its guests' names, where they have any.
    #[must_use]
    pub fn domain(&self) -> String {
        let usual = || format!("{}.internal", self.word());
        self.served.domain.clone().unwrap_or_else(usual)
    }

    /// The same as a server program reads it.
    pub(super) fn texts(&self) -> Result<Option<Texts>, FileError> {
        let Some(subnet) = self.known_subnet()? else {
            return Ok(None);
        };
        Ok(Some([
            (ORDERS, self.orders(subnet)),
            (NAMES, self.name_lines(subnet)?),
            (LEASES, self.lease_lines(subnet)?),
            (SERVERS, self.resolvers()?),
        ]))
    }

    /// What it is to do.
    fn orders(&self, subnet: Subnet) -> String {
        let file = |name| Path::new("/").join(FOLDER).join(name).display().to_string();
        let mut lines = vec![
            "# Written by bulkhead.".to_owned(),
            // Bound to the bridge's addresses, and heard is what comes over it.
            format!("interface={}", self.bridge),
            "except-interface=lo".to_owned(),
            "bind-dynamic".to_owned(),
            "no-hosts".to_owned(),
            "pid-file=".to_owned(),
            "user=".to_owned(),
            // Whoever asks a thousand times a second would fill the host's log.
            "log-facility=/dev/null".to_owned(),
        ];
        let servers = self.name_servers(subnet);
        if self.served.dns {
            let domain = self.domain();
            lines.extend([
                format!("addn-hosts={}", file(NAMES)),
                match self.is_closed() {
                    true => "no-resolv".to_owned(),
                    false => format!("resolv-file={}", file(SERVERS)),
                },
                format!("domain={domain}"),
                format!("local=/{domain}/"),
                "domain-needed".to_owned(),
                "bogus-priv".to_owned(),
                "cache-size=1000".to_owned(),
                // Questions to the host's name servers that wait; one guest alone can have many.
                "dns-forward-max=1000".to_owned(),
            ]);
        } else {
            lines.push("port=0".to_owned());
        }
        if self.served.dhcp || self.served.ra {
            lines.extend([
                format!("dhcp-hostsfile={}", file(LEASES)),
                "leasefile-ro".to_owned(),
                "dhcp-authoritative".to_owned(),
                "dhcp-ignore-names".to_owned(),
                "dhcp-ignore-clid".to_owned(),
                "dhcp-lease-max=65536".to_owned(),
                "no-ping".to_owned(),
            ]);
        }
        if self.served.dhcp {
            let (network, mask) = (subnet.network(), mask(subnet));
            lines.push(format!("dhcp-range={network},static,{mask},{LEASE}"));
            // An option without a value is not sent.
            let router = match self.is_closed() {
                true => String::new(),
                false => format!(",{}", self.gateway_in(subnet)),
            };
            lines.push(format!("dhcp-option=option:router{router}"));
            let four = listed(&servers, IpAddr::is_ipv4);
            lines.push(format!("dhcp-option=option:dns-server{four}"));
            lines.extend(self.mtu.map(|mtu| format!("dhcp-option=option:mtu,{mtu}")));
        }
        if let Some(prefix) = self.prefix6.filter(|_| self.served.ra) {
            let (network, length) = (prefix.network(), prefix.length());
            lines.push("enable-ra".to_owned());
            lines.push(format!("dhcp-range={network},static,{length},{LEASE}"));
            let six = listed(&servers, IpAddr::is_ipv6);
            lines.push(format!("dhcp-option=option6:dns-server{six}"));
            lines.extend(
                self.mtu
                    .map(|mtu| format!("ra-param={},mtu:{mtu},0", self.bridge)),
            );
        }
        lines.join("\n") + "\n"
    }

    /// Name servers of guests that name none.
    fn name_servers(&self, subnet: Subnet) -> Vec<IpAddr> {
        match self.served.dns {
            true => {
                let second = self.gateway6().map(IpAddr::from);
                [self.gateway_in(subnet).into()]
                    .into_iter()
                    .chain(second)
                    .collect()
            }
            false if self.is_closed() => Vec::new(),
            false if self.dns.is_empty() => dns::of_host(),
            false => self.dns.clone(),
        }
    }

    /// The host's address of IPv6 among its guests; where they have no way out there is none.
    pub(super) fn gateway6(&self) -> Option<Ipv6Addr> {
        let prefix = self.prefix6.filter(|_| !self.is_closed());
        prefix.map(|prefix| prefix.gateway())
    }

    /// The server on the network itself, if there is one.
    pub(super) fn own_name_server(&self) -> Option<IpAddr> {
        let subnet = self.known_subnet().ok().flatten()?;
        self.served
            .dns
            .then(|| IpAddr::from(self.gateway_in(subnet)))
    }

    /// Names and addresses, as for hosts(5).
    fn name_lines(&self, subnet: Subnet) -> Result<String, FileError> {
        let (domain, mut text) = (self.domain(), String::new());
        let leases = self.leases()?;
        for (guest, held) in &leases.by_guest {
            let Some(lease) = self.lease_held(held, subnet) else {
                continue;
            };
            let second = lease.ipv6.map(|ipv6| ipv6.address.into());
            for address in [IpAddr::from(lease.address)].into_iter().chain(second) {
                // Writing to a String cannot fail.
                writeln!(text, "{address} {guest}.{domain} {guest}").ok();
            }
        }
        Ok(text)
    }

    /// The host's name servers, those on the host itself as well: the program runs there. Guests without
    /// a way out would have one by names that they make up, so for them nobody is asked.
    fn resolvers(&self) -> Result<String, FileError> {
        if self.is_closed() {
            return Ok(String::new());
        }
        if !self.dns.is_empty() {
            let lines = self.dns.iter().map(|one| format!("nameserver {one}\n"));
            return Ok(lines.collect());
        }
        let path = Path::new(RESOLVERS);
        let bytes = files::read_bytes(path, LONGEST)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Who gets which address.
    fn lease_lines(&self, subnet: Subnet) -> Result<String, FileError> {
        let mut text = String::new();
        let leases = self.leases()?;
        let all = leases.by_guest.values();
        for lease in all.filter_map(|held| self.lease_held(held, subnet)) {
            let mac = lease.mac.map(|byte| format!("{byte:02x}")).join(":");
            let address = lease.address;
            let second = lease.ipv6.map(|ipv6| format!(",[{}]", ipv6.address));
            writeln!(text, "{mac},{address}{}", second.unwrap_or_default()).ok();
        }
        Ok(text)
    }
}

/// Whether the program, told these, is to begin anew to be told those: other orders, and leases that are
/// gone or other ones. On a signal it reads more leases, and keeps to those that it has given: it would
/// refuse their addresses to whoever has them next.
pub(super) fn is_for_a_beginning(before: &Texts, now: &Texts) -> bool {
    let [orders, _, (_, leases), _] = before;
    let still: BTreeSet<&str> = now[2].1.lines().collect();
    now[0] != *orders || leases.lines().any(|lease| !still.contains(lease))
}

/// Where the host says its name servers.
const RESOLVERS: &str = "/etc/resolv.conf";

/// Folders in which a change may be one of the texts.
pub(super) fn resolvers_folders() -> Vec<PathBuf> {
    let real = std::fs::canonicalize(RESOLVERS).ok();
    let paths = [Some(PathBuf::from(RESOLVERS)), real];
    let folders = paths.into_iter().flatten();
    folders
        .filter_map(|path| Some(path.parent()?.to_owned()))
        .collect()
}

fn mask(subnet: Subnet) -> Ipv4Addr {
    Ipv4Addr::from(u32::MAX << (32 - u32::from(subnet.prefix())))
}

/// As an option has them, each after a comma; an option without any says that there are none.
fn listed(servers: &[IpAddr], which: impl Fn(&IpAddr) -> bool) -> String {
    let servers = servers.iter().filter(|one| which(one));
    servers
        .map(|one| match one {
            IpAddr::V4(one) => format!(",{one}"),
            IpAddr::V6(one) => format!(",[{one}]"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(more: serde_json::Value) -> Record {
        let mut all = json!({"name": "lan", "kind": "bridge", "subnet": "10.9.0.0/23"});
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn what_nobody_can_serve_is_refused() {
        for (more, why) in [
            (
                json!({"kind": "routed", "served": {"dhcp": true}}),
                "kind bridge",
            ),
            (
                json!({"kind": "isolated", "prefix6": "fd00::/64", "served": {"ra": true}}),
                "no router",
            ),
            (json!({"served": {"ra": true}}), "--prefix6"),
            (
                json!({"served": {"dns": true, "domain": "a\nserver=1"}}),
                "no domain",
            ),
            (
                json!({"served": {"dns": true, "domain": "a..b"}}),
                "no domain",
            ),
            (
                json!({"served": {"dns": true, "domain": "a/b"}}),
                "no domain",
            ),
        ] {
            let error = record(more.clone()).check().unwrap_err();
            assert!(error.contains(why), "{more}: {error}");
        }
        let good = json!({"prefix6": "fd00::/64", "served": {"dhcp": true, "ra": true, "dns": true, "domain": "a-1.example"}});
        record(good).check().unwrap();
    }

    #[test]
    fn only_more_leases_and_names_are_told_to_a_program_that_runs() {
        let texts = |orders: &str, names: &str, leases: &str| -> Texts {
            [
                (ORDERS, orders.to_owned()),
                (NAMES, names.to_owned()),
                (LEASES, leases.to_owned()),
                (SERVERS, String::new()),
            ]
        };
        let before = texts("a", "", "m,1\nn,2\n");
        for (now, anew) in [
            (texts("a", "x", "m,1\nn,2\n"), false),
            (texts("a", "", "k,0\nm,1\nn,2\n"), false),
            (texts("b", "", "m,1\nn,2\n"), true),
            (texts("a", "", "n,2\n"), true),
            (texts("a", "", "m,1\nnn,2\n"), true),
        ] {
            assert_eq!(is_for_a_beginning(&before, &now), anew, "{now:?}");
        }
    }

    #[test]
    fn addresses_are_written_as_the_program_reads_them() {
        assert_eq!(
            mask("10.9.0.0/23".parse().unwrap()),
            Ipv4Addr::new(255, 255, 254, 0)
        );
        let all: [IpAddr; 2] = ["10.9.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(listed(&all, IpAddr::is_ipv4), ",10.9.0.1");
        assert_eq!(listed(&all, IpAddr::is_ipv6), ",[fd00::1]");
        assert_eq!(listed(&all[..1], IpAddr::is_ipv6), "");
    }
}
