//! A network that two hosts share: two network namespaces with a wire between them, an installation in
//! each, and guests of both that reach each other over it.

use std::os::fd::AsFd;
use std::process::Command;

use crate::life::{data, inside, started};
use crate::support::{Bulkhead, Need, need};
use crate::wires::{Namespace, as_host};
use bulkhead::kernel::netlink::{Netlink, Veth};

fn ip(args: &str) {
    let done = Command::new("ip")
        .args(args.split(' '))
        .status()
        .expect("ip");
    assert!(done.success(), "ip {args}");
}

/// The other host, at the end of a wire of 1500 bytes from this one.
fn other_host() -> Namespace {
    let there = Namespace::new();
    let wire = Veth {
        host_name: "wire",
        bridge: None,
        guest_netns: there.0.as_fd(),
        guest_name: "wire",
        mac: [2, 0, 0, 0, 0, 9],
        mtu: 1500,
    };
    Netlink::open().unwrap().create_veth(&wire).unwrap();
    ip("addr add 198.51.100.1/24 dev wire");
    there.run(|| {
        ip("link set lo up");
        ip("addr add 198.51.100.2/24 dev wire");
        ip("link set wire up");
    });
    there
}

fn shares(host: &Bulkhead, kind: &str, local: &str, remote: &str, range: &str) {
    host.ok(&[
        "network",
        "create",
        "lan",
        "--kind",
        kind,
        "--subnet",
        "10.202.1.0/24",
        "--range",
        range,
        "--vxlan",
        "77",
        "--local",
        local,
        "--remote",
        remote,
    ]);
}

fn pings(host: &Bulkhead, size: &str, address: &str) -> bool {
    let ping = ["ping", "-c", "1", "-W", "2", "-s", size, address];
    host.run(&[&["exec", "web", "--"], &ping[..]].concat()).code == 0
}

#[test]
fn guests_of_two_hosts_are_on_one_network() {
    if !need(Need::Root) {
        return;
    }
    as_host(|| {
        let there = other_host();
        let (one, other) = (Bulkhead::new(), Bulkhead::new());
        for kind in ["isolated", "bridge"] {
            shares(
                &one,
                kind,
                "198.51.100.1",
                "198.51.100.2",
                "10.202.1.10-10.202.1.19",
            );
            started(&one, "web", &["--network", "lan"]);
            there.run(|| {
                shares(
                    &other,
                    kind,
                    "198.51.100.2",
                    "198.51.100.1",
                    "10.202.1.20-10.202.1.29",
                );
                started(&other, "web", &["--network", "lan"]);
            });
            assert!(pings(&one, "56", "10.202.1.20"), "{kind}");
            assert!(pings(&other, "56", "10.202.1.10"), "{kind}");
            // The largest packet is what goes over the wire whole.
            assert!(inside(&one, "web", "ip link show eth0").contains("mtu 1450"));
            assert!(pings(&one, "1422", "10.202.1.20"), "{kind}: largest packet");
            // Held to its own address as everywhere.
            inside(&one, "web", "ip addr add 10.202.1.77/24 dev eth0");
            let forged = "ping -c 1 -W 1 -I 10.202.1.77 10.202.1.20 >/dev/null; echo $?";
            assert_ne!(inside(&one, "web", forged), "0", "{kind}: a forged address");
            let shown = data(&one, &["network", "info", "lan"]);
            assert_eq!(shown["vxlan"]["id"], 77, "{shown}");

            // The number is taken, and what cannot be is refused with nothing made.
            for (more, why) in [
                (
                    ["--vxlan", "77", "--local", "198.51.100.1"],
                    "has the number 77 already",
                ),
                (
                    ["--vxlan", "78", "--local", "198.51.100.9"],
                    "no address of this host",
                ),
            ] {
                let new = ["network", "create", "more", "--remote", "198.51.100.2"];
                let refused = one.run(&[&new[..], &more[..]].concat());
                assert_ne!(refused.code, 0);
                assert!(refused.report().contains(why), "{}", refused.report());
            }

            // A port that somebody took away comes again with the next start.
            let tag = wire_tag();
            let wire = format!("vx-{tag}");
            ip(&format!("link del {wire}"));
            one.ok(&["restart", "web"]);
            assert!(
                pings(&one, "56", "10.202.1.20"),
                "{kind}: after the port was gone"
            );
            // One that a killed command has left, not guarded yet and leading nowhere, is made anew.
            ip(&format!("link del {wire}"));
            ip(&format!(
                "link add {wire} master bh-{tag} type vxlan id 77 local 198.51.100.1 dstport 4789"
            ));
            one.ok(&["restart", "web"]);
            assert!(pings(&one, "56", "10.202.1.20"), "{kind}: half made");
            let port = told("bridge", &format!("-d link show dev {wire}"));
            for guarded in ["learning off", "guard on", "isolated on"] {
                assert!(port.contains(guarded), "{guarded}: {port}");
            }

            // A smaller packet for all of it; a larger one than the wire's is refused.
            let large = one.run(&["network", "set", "lan", "--mtu", "1500"]);
            assert!(
                large.report().contains("1450 is the most"),
                "{}",
                large.report()
            );
            one.ok(&["network", "set", "lan", "--mtu", "1400"]);
            one.ok(&["restart", "web"]);
            assert!(told("ip", &format!("link show {wire}")).contains("mtu 1400"));
            assert!(inside(&one, "web", "ip link show eth0").contains("mtu 1400"));

            there.run(|| {
                other.ok(&["delete", "web", "--force"]);
                other.ok(&["network", "delete", "lan"]);
                assert_eq!(wires_left(), [] as [String; 0]);
            });
            one.ok(&["delete", "web", "--force"]);
            one.ok(&["network", "delete", "lan"]);
            assert_eq!(wires_left(), [] as [String; 0]);
        }
    });
}

/// The same where hosts know each other by IPv6, for packets of both in it.
#[test]
fn hosts_know_each_other_by_ipv6() {
    if !need(Need::Root) {
        return;
    }
    as_host(|| {
        let there = other_host();
        let ends = ["2001:db8:99::1", "2001:db8:99::2"];
        let by_ipv6 = |address: &str| {
            ip(&format!("addr add {address}/64 dev wire nodad"));
            ip("link set wire mtu 1400");
        };
        by_ipv6(ends[0]);
        there.run(|| by_ipv6(ends[1]));
        let (one, other) = (Bulkhead::new(), Bulkhead::new());
        let shared = |host: &Bulkhead, local: usize, range: &str| {
            let remote = ends[1 - local];
            let none = host.run(&[
                "network",
                "create",
                "no",
                "--vxlan",
                "78",
                "--local",
                remote,
                "--remote",
                ends[local],
            ]);
            assert!(
                none.stderr.contains("no address of this host"),
                "{}",
                none.report()
            );
            shares(host, "bridge", ends[local], remote, range);
            // Each host gives guests the places of its own range.
            host.ok(&["network", "set", "lan", "--prefix6", "fd42:77::/64"]);
            started(host, "web", &["--network", "lan"]);
        };
        shared(&one, 0, "10.202.1.10-10.202.1.19");
        there.run(|| shared(&other, 1, "10.202.1.20-10.202.1.29"));
        for address in ["10.202.1.20", "fd42:77::14"] {
            assert!(pings(&one, "56", address), "{address}");
        }
        for address in ["10.202.1.10", "fd42:77::a"] {
            assert!(pings(&other, "56", address), "{address}");
        }
        // Header, and that of an echo request: the largest goes over the wire whole, one more does not.
        assert!(inside(&one, "web", "ip link show eth0").contains("mtu 1330"));
        assert!(pings(&one, "1302", "10.202.1.20"), "largest packet");
        assert!(pings(&other, "1282", "fd42:77::a"), "largest packet");
        let large = one.run(&["network", "set", "lan", "--mtu", "1331"]);
        assert!(
            large.report().contains("1330 is the most"),
            "{}",
            large.report()
        );
        // Held to its own addresses as everywhere.
        inside(&one, "web", "ip addr add fd42:77::77/64 dev eth0");
        let forged = "ping -c 1 -W 1 -I fd42:77::77 fd42:77::14 >/dev/null 2>&1; echo $?";
        assert_ne!(inside(&one, "web", forged), "0", "a forged address");
        let wire = format!("vx-{}", wire_tag());
        let shown = told("ip", &format!("-d link show {wire}"));
        assert!(shown.contains("local 2001:db8:99::1"), "{shown}");
        ip(&format!("link del {wire}"));
        one.ok(&["restart", "web"]);
        assert!(pings(&one, "56", "fd42:77::14"), "after the port was gone");
        there.run(|| {
            other.ok(&["delete", "web", "--force"]);
            other.ok(&["network", "delete", "lan"]);
            assert_eq!(wires_left(), [] as [String; 0]);
        });
        one.ok(&["delete", "web", "--force"]);
        one.ok(&["network", "delete", "lan"]);
        assert_eq!(wires_left(), [] as [String; 0]);
    });
}

fn told(program: &str, args: &str) -> String {
    let done = Command::new(program).args(args.split(' ')).output();
    String::from_utf8(done.expect(program).stdout).expect("text")
}

/// What of the name of this host's port is its own.
fn wire_tag() -> String {
    let all = wires_left();
    all[0].trim_start_matches("vx-").to_owned()
}

fn wires_left() -> Vec<String> {
    let links = Netlink::open().unwrap().links("vx-").unwrap();
    links.into_iter().map(|link| link.name).collect()
}
