//! The texts of a guest's network files. The launch gives `eth0` its address before init runs; these
//! files tell the programs inside the same thing. Pure text; writing them is `first_boot`.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::first_boot::{BootNic, FirstBoot};
use crate::model::{Prefix6, hosts_block};

/// First line of a file that is the program's to rewrite.
pub(super) const HEADER: &str =
    "# Written by bulkhead at each start; delete this line to keep your own version.\n";
/// The program's block of `/etc/hosts`: the guest itself and its neighbours.
pub(super) fn hosts(boot: &FirstBoot) -> String {
    let mut lines = String::new();
    let own = boot
        .address
        .map_or("127.0.1.1".into(), |(a, _)| a.to_string());
    let names = if boot.domain.is_empty() {
        boot.hostname.clone()
    } else {
        format!("{0}.{1} {0}", boot.hostname, boot.domain)
    };
    // Writing to a String cannot fail.
    writeln!(lines, "{own} {names}").ok();
    if let Some((address, _)) = boot.address6 {
        writeln!(lines, "{address} {names}").ok();
    }
    for (address, names) in &boot.hosts {
        writeln!(lines, "{address} {names}").ok();
    }
    hosts_block(&lines)
}

/// `/etc/resolv.conf`.
pub(super) fn resolv_conf(boot: &FirstBoot) -> String {
    let mut text = HEADER.to_owned();
    if !boot.domain.is_empty() {
        writeln!(text, "search {}", boot.domain).ok();
    }
    for server in &boot.dns {
        writeln!(text, "nameserver {server}").ok();
    }
    text
}

/// A systemd.network(5) file for `eth0`.
pub(super) fn networkd(boot: &FirstBoot) -> String {
    let mut text = format!("{HEADER}[Match]\nName=eth0\n\n[Network]\nLinkLocalAddressing=ipv6\n");
    // What the launch has set stays when networkd starts or stops.
    text.push_str("KeepConfiguration=static\nIPv6AcceptRA=no\n");
    if let Some((address, prefix)) = boot.address {
        writeln!(text, "Address={address}/{prefix}").ok();
    }
    if let Some(gateway) = boot.gateway {
        writeln!(text, "Gateway={gateway}").ok();
    }
    if let Some((address, length)) = boot.address6 {
        writeln!(text, "Address={address}/{length}").ok();
    }
    if let Some(gateway) = boot.gateway6 {
        writeln!(text, "Gateway={gateway}").ok();
    }
    for server in &boot.dns {
        writeln!(text, "DNS={server}").ok();
    }
    if !boot.domain.is_empty() {
        writeln!(text, "Domains={}", boot.domain).ok();
    }
    text
}

/// The same for an interface beyond `eth0`.
pub(super) fn networkd_nic(nic: &BootNic) -> String {
    let name = &nic.name;
    let mut text = format!("{HEADER}[Match]\nName={name}\n\n[Network]\nLinkLocalAddressing=ipv6\n");
    text.push_str("KeepConfiguration=static\nIPv6AcceptRA=no\n");
    let (address, prefix) = nic.address;
    writeln!(text, "Address={address}/{prefix}").ok();
    if let Some(gateway) = nic.gateway {
        writeln!(text, "Gateway={gateway}").ok();
    }
    if let Some((address, length)) = nic.address6 {
        writeln!(text, "Address={address}/{length}").ok();
    }
    if let Some(gateway) = nic.gateway6 {
        writeln!(text, "Gateway={gateway}").ok();
    }
    if let Some((to, gateway)) = nic.route6 {
        writeln!(text, "\n[Route]\nDestination={to}\nGateway={gateway}").ok();
    }
    text
}

/// What a network program is told of one interface.
pub(super) struct Wire<'a> {
    name: &'a str,
    address: Option<(Ipv4Addr, u8)>,
    gateway: Option<Ipv4Addr>,
    address6: Option<(Ipv6Addr, u8)>,
    gateway6: Option<Ipv6Addr>,
    route6: Option<(Prefix6, Ipv6Addr)>,
}

impl Wire<'_> {
    /// `eth0`.
    pub(super) fn first(boot: &FirstBoot) -> Self {
        Wire {
            name: "eth0",
            address: boot.address,
            gateway: boot.gateway,
            address6: boot.address6,
            gateway6: boot.gateway6,
            route6: None,
        }
    }
}

impl<'a> From<&'a BootNic> for Wire<'a> {
    fn from(nic: &'a BootNic) -> Self {
        Wire {
            name: &nic.name,
            address: Some(nic.address),
            gateway: nic.gateway,
            address6: nic.address6,
            gateway6: nic.gateway6,
            route6: nic.route6,
        }
    }
}

/// `/etc/network/interfaces`: `manual`, because adding the address a second time is an error; what is
/// added there is made anew after an `ifdown`, which takes routes away.
pub(super) fn interfaces(boot: &FirstBoot) -> String {
    let mut text = format!("{HEADER}auto lo\niface lo inet loopback\n");
    let nics = boot.nics.iter().map(Wire::from);
    for wire in [Wire::first(boot)].into_iter().chain(nics) {
        let name = wire.name;
        text.push_str(
            "\n# It has this before init runs; the lines are for `ifup` after `ifdown`.\n",
        );
        writeln!(text, "auto {name}\niface {name} inet manual").ok();
        let mut up = |what: String| writeln!(text, "    up {what} 2>/dev/null || true").ok();
        if let Some((address, prefix)) = wire.address {
            up(format!("ip addr add {address}/{prefix} brd + dev {name}"));
        }
        if let Some(gateway) = wire.gateway {
            up(format!("ip route replace default via {gateway} dev {name}"));
        }
        if let Some((address, length)) = wire.address6 {
            up(format!("ip -6 addr add {address}/{length} dev {name}"));
        }
        if let Some((to, gateway)) = wire.route6 {
            up(format!("ip -6 route replace {to} via {gateway} dev {name}"));
        }
        if let Some(gateway) = wire.gateway6 {
            up(format!(
                "ip -6 route replace default via {gateway} dev {name}"
            ));
        }
    }
    text
}

/// A profile of NetworkManager (nm-settings-keyfile(5)); `boot` has name servers for the first one.
pub(super) fn keyfile(wire: &Wire<'_>, boot: Option<&FirstBoot>) -> String {
    let name = wire.name;
    let mut text = format!("{HEADER}[connection]\nid=bulkhead {name}\ntype=ethernet\n");
    // Before what an image brings of its own.
    writeln!(text, "interface-name={name}\nautoconnect-priority=999").ok();
    let ipv4 = wire.address.map(|(address, prefix)| {
        let gateway = wire.gateway.map(|gateway| format!(",{gateway}"));
        format!("{address}/{prefix}{}", gateway.unwrap_or_default())
    });
    let ipv6 = wire.address6.map(|(address, length)| {
        let gateway = wire.gateway6.map(|gateway| format!(",{gateway}"));
        format!("{address}/{length}{}", gateway.unwrap_or_default())
    });
    let led = (wire.gateway.is_some(), wire.gateway6.is_some());
    for (family, own, without, led) in [
        ("ipv4", ipv4, "disabled", led.0),
        ("ipv6", ipv6, "link-local", led.1),
    ] {
        let method = if own.is_some() { "manual" } else { without };
        writeln!(text, "\n[{family}]\nmethod={method}").ok();
        if let Some(own) = own {
            writeln!(text, "address1={own}").ok();
        }
        if !led {
            text.push_str("never-default=true\n");
        }
        if family == "ipv6" {
            // The host knows it by the link address that follows from the hardware address.
            text.push_str("addr-gen-mode=eui64\nip6-privacy=0\n");
            if let Some((to, gateway)) = wire.route6 {
                writeln!(text, "route1={to},{gateway}").ok();
            }
        }
        let Some(boot) = boot else { continue };
        let servers = boot
            .dns
            .iter()
            .filter(|s| s.is_ipv4() == (family == "ipv4"));
        let servers: String = servers.map(|server| format!("{server};")).collect();
        if !servers.is_empty() {
            writeln!(text, "dns={servers}").ok();
            if !boot.domain.is_empty() {
                writeln!(text, "dns-search={};", boot.domain).ok();
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot() -> FirstBoot {
        FirstBoot {
            hostname: "web".into(),
            domain: "example.org".into(),
            address: Some(([10, 1, 0, 2].into(), 16)),
            gateway: Some([10, 1, 0, 1].into()),
            address6: Some(("fd42::2".parse().unwrap(), 64)),
            gateway6: Some("fd42::1".parse().unwrap()),
            dns: vec!["10.1.0.1".parse().unwrap()],
            hosts: vec![("10.1.0.3".parse().unwrap(), "db".into())],
            nics: vec![BootNic {
                name: "lan".into(),
                address: ([10, 9, 0, 5].into(), 24),
                address6: Some(("fd43::5".parse().unwrap(), 64)),
                gateway: None,
                gateway6: None,
                route6: Some(("fd43::/64".parse().unwrap(), "fe80::1".parse().unwrap())),
            }],
            ..FirstBoot::default()
        }
    }

    #[test]
    fn a_guest_knows_itself_and_its_neighbours() {
        let block = hosts(&boot());
        assert!(
            block.contains(
                "10.1.0.2 web.example.org web\nfd42::2 web.example.org web\n10.1.0.3 db\n"
            ),
            "{block}"
        );
        let alone = FirstBoot {
            hostname: "web".into(),
            ..FirstBoot::default()
        };
        assert!(hosts(&alone).contains("\n127.0.1.1 web\n"));
    }

    #[test]
    fn addresses_reach_each_file() {
        let boot = boot();
        assert!(resolv_conf(&boot).contains("search example.org\nnameserver 10.1.0.1\n"));
        let unit = networkd(&boot);
        assert!(
            unit.contains("Address=10.1.0.2/16\nGateway=10.1.0.1\nAddress=fd42::2/64\nGateway=fd42::1\nDNS=10.1.0.1\n"),
            "{unit}"
        );
        assert!(
            interfaces(&boot).contains(
                "iface eth0 inet manual\n    up ip addr add 10.1.0.2/16 brd + dev eth0 2>/dev/null || true\n    up ip route replace default via 10.1.0.1 dev eth0"
            )
        );
        let further = networkd_nic(&boot.nics[0]);
        assert!(further.contains("Name=lan\n"), "{further}");
        assert!(
            further.contains("Address=10.9.0.5/24\nAddress=fd43::5/64\n"),
            "{further}"
        );
        assert!(
            further.ends_with("\n[Route]\nDestination=fd43::/64\nGateway=fe80::1\n"),
            "{further}"
        );
        assert_eq!(further.matches("Gateway").count(), 1, "{further}");
        assert!(interfaces(&boot).contains("auto lan\niface lan inet manual\n"));
        let profile = keyfile(&Wire::first(&boot), Some(&boot));
        for part in [
            "interface-name=eth0\n",
            "[ipv4]\nmethod=manual\naddress1=10.1.0.2/16,10.1.0.1\ndns=10.1.0.1;\ndns-search=example.org;\n",
            "[ipv6]\nmethod=manual\naddress1=fd42::2/64,fd42::1\naddr-gen-mode=eui64\n",
        ] {
            assert!(profile.contains(part), "{part} in {profile}");
        }
        let second = keyfile(&Wire::from(&boot.nics[0]), None);
        assert!(
            second.contains("address1=10.9.0.5/24\nnever-default=true\n"),
            "{second}"
        );
        for text in [
            resolv_conf(&boot),
            unit,
            interfaces(&boot),
            further,
            profile,
        ] {
            assert!(text.starts_with(HEADER));
        }
    }

    #[test]
    fn a_guest_without_an_address_asks_nobody_for_one() {
        let profile = keyfile(&Wire::first(&FirstBoot::default()), None);
        assert!(profile.contains("[ipv4]\nmethod=disabled\n"), "{profile}");
        assert!(profile.contains("[ipv6]\nmethod=link-local\n"), "{profile}");
    }
}
