//! The texts of a guest's network files. The launch gives `eth0` its address before init runs; these
//! files tell the programs inside the same thing. Pure text; writing them is `first_boot`.

use std::fmt::Write as _;

use super::first_boot::{BootNic, FirstBoot};
use crate::model::hosts_block;

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
    text
}

/// `/etc/network/interfaces`: `manual`, because adding the address a second time is an error.
pub(super) fn interfaces(boot: &FirstBoot) -> String {
    let mut text = format!("{HEADER}auto lo\niface lo inet loopback\n\n");
    if let Some((address, prefix)) = boot.address {
        writeln!(text, "# eth0 has {address}/{prefix} before init runs").ok();
    }
    if let Some((address, length)) = boot.address6 {
        writeln!(text, "# and {address}/{length}").ok();
    }
    text.push_str("auto eth0\niface eth0 inet manual\n");
    for nic in &boot.nics {
        let (name, (address, prefix)) = (&nic.name, nic.address);
        writeln!(text, "# {name} has {address}/{prefix}").ok();
        writeln!(text, "auto {name}\niface {name} inet manual").ok();
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
        assert!(interfaces(&boot).contains("iface eth0 inet manual"));
        let further = networkd_nic(&boot.nics[0]);
        assert!(further.contains("Name=lan\n"), "{further}");
        assert!(
            further.contains("Address=10.9.0.5/24\nAddress=fd43::5/64\n"),
            "{further}"
        );
        assert!(!further.contains("Gateway"), "{further}");
        assert!(interfaces(&boot).contains("auto lan\niface lan inet manual\n"));
        for text in [resolv_conf(&boot), unit, interfaces(&boot), further] {
            assert!(text.starts_with(HEADER));
        }
    }
}
