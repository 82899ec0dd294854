//! Networks on somebody else's bridge, and what of a pool guests get.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use crate::life::{data, inside, made};
use crate::support::{Bulkhead, Need, need};
use crate::wires::{Installation, Namespace, as_host, connect, guest, guest_with, name, seen_from};
use crate::{support, wires};
use bulkhead::kernel::netlink::{Netlink, Veth};
use bulkhead::kernel::netlink_nft::{Family, table_exists};
use bulkhead::model::{Layout, NetworkWish};
use bulkhead::network::{Addresses, Kind, Lease, LeaseError, NetworkSettings, NewNetwork, ranges};

const BRIEFLY: Duration = Duration::from_millis(700);
const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

fn ip(args: &str) {
    let done = Command::new("ip").args(args.split(' ')).status().unwrap();
    assert!(done.success(), "ip {args}");
}

fn told(args: &str) -> String {
    let out = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(out.status.success(), "ip {args}");
    String::from_utf8(out.stdout).unwrap()
}

/// The host's bridge with a card in it, and the machine at the other end of the wire.
fn lan() -> Namespace {
    ip("link add br0 type bridge");
    let router = Namespace::new();
    let wire = Veth {
        host_name: "card",
        bridge: None,
        guest_netns: router.0.as_fd(),
        guest_name: "wire",
        mac: [2, 0, 0, 0, 0, 9],
        mtu: 1400,
    };
    Netlink::open().unwrap().create_veth(&wire).unwrap();
    for args in [
        "link set card address 02:99:00:00:00:07",
        "link set card master br0",
        "link set br0 up",
        "addr add 198.51.100.1/24 dev br0",
    ] {
        ip(args);
    }
    router.run(|| {
        ip("addr add 198.51.100.2/24 dev wire");
        ip("link set wire up");
    });
    router
}

fn external() -> NewNetwork {
    NewNetwork {
        subnet: Some("198.51.100.0/24".parse().unwrap()),
        bridge: Some("br0".to_owned()),
        addresses: Addresses {
            ranges: ranges("198.51.100.1-198.51.100.9").unwrap(),
            excluded: ranges("198.51.100.2").unwrap(),
            gateway: Some([198, 51, 100, 254].into()),
            gateway6: None,
        },
        ..wires::new_network("lan", Kind::External)
    }
}

fn with_gateway6(prefix: Option<&str>, gateway: &str) -> NewNetwork {
    NewNetwork {
        prefix6: prefix.map(|text| text.parse().unwrap()),
        addresses: Addresses {
            gateway6: Some(gateway.parse().unwrap()),
            ..external().addresses
        },
        ..external()
    }
}

/// The bridge as whoever made it sees it, without counters and times.
fn theirs() -> (String, String) {
    let address = told("-4 -o addr show dev br0").replace(char::is_whitespace, " ");
    let link = Netlink::open().unwrap().link("br0").unwrap().unwrap();
    (address, format!("{link:?}"))
}

/// Whether `from` gets a datagram to `to` by sending it to a hardware address of the host's.
fn by_way_of_the_host(from: &Namespace, to: &Namespace, lease: &Lease, mac: &str) -> bool {
    let server = to.run(|| UdpSocket::bind((lease.address, 0)).unwrap());
    server.set_read_timeout(Some(BRIEFLY)).unwrap();
    let target = server.local_addr().unwrap();
    from.run(|| {
        ip(&format!(
            "neigh replace {} lladdr {mac} dev eth0",
            lease.address
        ));
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.send_to(b"knock", target).unwrap();
        ip(&format!("neigh del {} dev eth0", lease.address));
    });
    server.recv_from(&mut [0; 8]).is_ok()
}

/// Whether a datagram by IPv6 gets from the LAN to a guest that has an address of it.
fn hears_ipv6(router: &Namespace, guest: &Namespace, lease: &Lease) -> bool {
    let mac = lease.mac.map(|byte| format!("{byte:02x}")).join(":");
    guest.run(|| ip("-6 addr replace fd77::3/64 dev eth0 nodad"));
    let server = guest.run(|| UdpSocket::bind("[fd77::3]:0").unwrap());
    server.set_read_timeout(Some(BRIEFLY)).unwrap();
    let target = server.local_addr().unwrap();
    router.run(|| {
        ip("-6 addr replace fd77::2/64 dev wire nodad");
        ip(&format!("-6 neigh replace fd77::3 lladdr {mac} dev wire"));
        let client = UdpSocket::bind("[fd77::2]:0").unwrap();
        client.send_to(b"knock", target).unwrap();
    });
    server.recv_from(&mut [0; 8]).is_ok()
}

fn mac(interface: &str) -> String {
    let link = Netlink::open().unwrap().link(interface).unwrap().unwrap();
    let mac = link.mac.unwrap();
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[test]
fn guests_on_somebody_elses_bridge_are_machines_of_its_lan() {
    as_host(|| {
        let router = lan();
        let before = theirs();
        let installation = Installation::new();
        let usual = installation.network(NetworkSettings::default());
        usual.create(&external()).unwrap();
        let lan = usual.load(&"lan".parse().unwrap()).unwrap();
        let (a, lease_a) = guest(&lan, "a");
        let (b, lease_b) = guest(&lan, "b");
        // The first is the host's own, the second the router's.
        let addresses = [&lease_a, &lease_b].map(|lease| lease.address.octets()[3]);
        assert_eq!(addresses, [3, 4]);
        let here = wires::own_namespace();
        for (from, to, address, seen) in [
            (&a, &b, lease_b.address, lease_a.address),
            (&a, &router, ROUTER, lease_a.address),
            (&router, &a, lease_a.address, ROUTER),
            (&here, &b, lease_b.address, HOST),
            (&b, &here, HOST, lease_b.address),
        ] {
            assert_eq!(seen_from(from, to, address).unwrap(), seen);
        }
        let routes = a.run(|| told("route show default"));
        assert!(routes.contains("via 198.51.100.254"), "{routes}");
        assert_eq!(theirs(), before, "with guests on it");

        // It is held to its address, and hears no IPv6 of the LAN's.
        a.run(|| {
            ip("addr add 198.51.100.77/24 dev eth0");
            ip("addr del 198.51.100.3/24 dev eth0");
        });
        connect(&a, &router, ROUTER, BRIEFLY).unwrap_err();
        let counted = lan.counters(&lease_b).unwrap().unwrap().traffic;
        // Another guest is on this host; the rest of the LAN is not.
        for flows in [counted.internal, counted.external] {
            assert!(
                flows.received_ipv4.packets > 2 && flows.sent_ipv4.packets > 2,
                "{counted:?}"
            );
        }
        assert!(!hears_ipv6(&router, &b, &lease_b));
        let table = installation.layout().network_table(&"lan".parse().unwrap());
        let flush = ["flush", "chain", "bridge", &table, "foreign"];
        let done = Command::new("/usr/sbin/nft").args(flush).status().unwrap();
        assert!(done.success() && hears_ipv6(&router, &b, &lease_b));
        // A guest that takes part in how bridges agree on their tree is cut off.
        let port = told(&format!("-d link show dev {}", lease_a.host_interface));
        assert!(port.contains("guard on"), "{port}");

        for (guest, lease) in [("a", &lease_a), ("b", &lease_b)] {
            lan.teardown_guest(lease).unwrap();
            lan.release(&name(guest)).unwrap();
        }
        usual.delete(&"lan".parse().unwrap(), &[]).unwrap();
        assert_eq!(theirs(), before, "after all");
        let table = installation.layout().network_table(&"lan".parse().unwrap());
        assert!(!table_exists(Family::Bridge, &table).unwrap());
    });
}

#[test]
fn no_way_around_ports_that_are_kept_apart() {
    as_host(|| {
        let _router = lan();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let installation = Installation::new();
        let usual = installation.network(NetworkSettings::default());
        usual.create(&external()).unwrap();
        let lan = usual.load(&"lan".parse().unwrap()).unwrap();
        let layout = installation.layout();
        let tables = [
            layout.network_table(&"lan".parse().unwrap()),
            layout.kernel_name(),
        ];
        for (network, table) in [&lan, &usual].into_iter().zip(tables) {
            let host = mac(match network.ensure_host() {
                Ok(_) => network.bridge(),
                Err(error) => panic!("{error}"),
            });
            for apart in [true, false] {
                let wish = NetworkWish {
                    isolated_ports: Some(apart),
                    ..NetworkWish::default()
                };
                let (a, lease_a) = guest_with(network, "a", &wish);
                let (b, lease_b) = guest_with(network, "b", &wish);
                let port = mac(&lease_a.host_interface);
                assert!(port.starts_with("fe:62:"), "{port}");
                for way in [&host, &port] {
                    assert!(!by_way_of_the_host(&a, &b, &lease_b, way), "{way}");
                }
                let reached = connect(&a, &b, lease_b.address, BRIEFLY).is_ok();
                assert_eq!(reached, !apart);
                if !apart {
                    // It is the rule that stands in the way.
                    let flush = ["flush", "chain", "bridge", &table, "around"];
                    Command::new("/usr/sbin/nft").args(flush).status().unwrap();
                    for way in [&host, &port] {
                        assert!(by_way_of_the_host(&a, &b, &lease_b, way), "{way}");
                    }
                }
                for lease in [&lease_a, &lease_b] {
                    network.teardown_guest(lease).unwrap();
                }
            }
        }
    });
}

#[test]
fn a_bridge_that_is_none_for_guests_is_refused() {
    as_host(|| {
        let _router = lan();
        let installation = Installation::new();
        let usual = installation.network(NetworkSettings::default());
        usual.ensure_host().unwrap();
        let on = |bridge: &str| NewNetwork {
            bridge: Some(bridge.to_owned()),
            ..external()
        };
        let other = Installation::new();
        let theirs = other.network(NetworkSettings::default());
        theirs.ensure_host().unwrap();
        for (new, part) in [
            (on("br1"), "no such interface"),
            (on("card"), "is no bridge"),
            (on(theirs.bridge()), "a bridge of Bulkhead's own"),
            (on(usual.bridge()), "that of the network bridge"),
            (
                NewNetwork {
                    bridge: None,
                    ..external()
                },
                "say which with --bridge",
            ),
            (
                NewNetwork {
                    subnet: None,
                    ..external()
                },
                "say which with --subnet",
            ),
            (
                NewNetwork {
                    nat: Some(true),
                    ..external()
                },
                "no NAT",
            ),
            (
                with_gateway6(Some("fd77::/64"), "fd78::1"),
                "outside fd77::/64",
            ),
            (with_gateway6(None, "fd77::1"), "say --prefix6"),
        ] {
            let error = usual.create(&new).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            assert!(usual.names().unwrap().is_empty());
        }
        usual.create(&external()).unwrap();
        let twice = NewNetwork {
            name: "two".parse().unwrap(),
            subnet: Some("203.0.113.0/24".parse().unwrap()),
            addresses: Addresses::default(),
            ..external()
        };
        let error = usual.create(&twice).unwrap_err().to_string();
        assert!(error.contains("that of the network lan"), "{error}");
        let forward = NetworkWish {
            forwards: vec!["8080:80".parse().unwrap()],
            ..NetworkWish::default()
        };
        let lan = usual.load(&"lan".parse().unwrap()).unwrap();
        let error = lan.lease(&name("a"), &forward).unwrap_err();
        assert!(matches!(error, LeaseError::NoNat { .. }), "{error}");
        // It goes while nobody looks: said, and the network can be removed all the same.
        ip("link del br0");
        let error = lan.ensure_host().unwrap_err().to_string();
        assert!(error.contains("make it first"), "{error}");
        usual.delete(&"lan".parse().unwrap(), &[]).unwrap();
    });
}

#[test]
fn a_pool_gives_what_it_was_told_to_and_says_when_it_has_no_more() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let host = Bulkhead::new();
        let create = |more: &[&'static str]| {
            let words = ["network", "create", "lan", "--subnet", "10.77.0.0/24"];
            [&words[..], more].concat()
        };
        for (more, part) in [
            (
                &["--range", "10.77.0.10-10.77.1.9"][..],
                "outside 10.77.0.0/24",
            ),
            (&["--range", "10.77.0.9-10.77.0.12,10.77.0.12"], "meets"),
            (&["--gateway", "10.78.0.1"], "outside 10.77.0.0/24"),
            (&["--exclude", "10.77.0.0-10.77.0.255"], "no address"),
            (
                &["--kind", "isolated", "--gateway", "10.77.0.9"],
                "no gateway",
            ),
        ] {
            let said = host.fails(&create(more), 5);
            assert!(said.contains(part), "{said}");
        }
        for (flag, text) in [("--range", "fd00::1"), ("--gateway", "fd00::1")] {
            let said = host.fails(&create(&[flag, text]), 2);
            assert!(said.contains("is no IPv4 address"), "{said}");
        }
        let pool = [
            "--range",
            "10.77.0.10-10.77.0.12",
            "--exclude",
            "10.77.0.11",
        ];
        host.ok(&create(
            &[&pool[..], &["--gateway", "10.77.0.254"]].concat(),
        ));
        for guest in ["a", "b"] {
            made(&host, guest, &["--network", "lan"]);
        }
        let info = data(&host, &["network", "info", "lan"]);
        let guests = (&info["guests"]["a"], &info["guests"]["b"]);
        assert_eq!(
            guests,
            (&"10.77.0.10".into(), &"10.77.0.12".into()),
            "{info}"
        );
        assert_eq!(
            (&info["free"], &info["gateway"]),
            (&0.into(), &"10.77.0.254".into())
        );
        let new = |name, more: &[&'static str]| {
            let words = ["create", name, "--template", "busybox", "--network", "lan"];
            [&words[..], more].concat()
        };
        let said = host.fails(&new("c", &[]), 5);
        assert!(
            said.contains("all 2 of the pool 10.77.0.0/24 from 10.77.0.10-10.77.0.12"),
            "{said}"
        );
        let said = host.fails(&new("c", &["--address", "10.77.0.11"]), 5);
        assert!(said.contains("excluded from what guests get"), "{said}");
        let said = host.fails(&new("c", &["--address", "10.77.0.254"]), 5);
        assert!(said.contains("the gateway's address"), "{said}");
        // One that asks for it gets an address outside the ranges.
        made(&host, "c", &["--network", "lan", "--address", "10.77.0.1"]);
        host.ok(&["start", "a"]);
        assert!(inside(&host, "a", "ip route").contains("via 10.77.0.254"));
        inside(&host, "a", "ping -c 1 -W 5 10.77.0.254");

        for (flags, code, part) in [
            (
                &["--exclude", "10.77.0.12"][..],
                5,
                "b has 10.77.0.12, which would be excluded",
            ),
            (&["--gateway", "10.77.0.1"], 5, "c has 10.77.0.1"),
            (&["--gateway", "10.77.0.9"], 5, "stop the guests"),
        ] {
            let words = [&["network", "set", "lan"], flags].concat();
            let said = host.fails(&words, code);
            assert!(said.contains(part), "{said}");
        }
        host.ok(&["network", "set", "lan", "--range", "10.77.0.10-10.77.0.13"]);
        made(&host, "d", &["--network", "lan"]);
        let info = data(&host, &["network", "info", "lan"]);
        assert_eq!(info["guests"]["d"], "10.77.0.13");
        host.ok(&["stop", "a"]);
        let more = ["--gateway", "10.77.0.9", "--range", "none"];
        host.ok(&[&["network", "set", "lan"][..], &more].concat());
        host.ok(&["start", "a"]);
        assert!(inside(&host, "a", "ip route").contains("via 10.77.0.9"));
        inside(&host, "a", "ping -c 1 -W 5 10.77.0.9");
        let info = data(&host, &["network", "info", "lan"]);
        assert_eq!(
            (&info["free"], &info["ranges"][0]),
            (&248.into(), &serde_json::Value::Null)
        );
    });
}

#[test]
fn somebody_elses_bridge_stays_as_it_is_wherever_a_command_is_killed() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let _router = lan();
        let host = Bulkhead::new();
        // A guest keeps `doctor --fix` from taking away what all share.
        made(&host, "other", &["--start"]);
        let before = theirs();
        let table = Layout::new(host.root()).network_table(&"lan".parse().unwrap());
        let traces = || table_exists(Family::Bridge, &table).unwrap();
        let create = [
            "network",
            "create",
            "lan",
            "--kind",
            "external",
            "--bridge",
            "br0",
            "--subnet",
            "198.51.100.0/24",
            "--range",
            "198.51.100.1-198.51.100.9",
        ];
        let delete = ["network", "delete", "lan"];
        let is_there = || host.run(&["network", "info", "lan"]).code == 0;
        for (command, other, least) in [(&create[..], &delete[..], 5), (&delete, &create, 4)] {
            for number in 0.. {
                let mut killed = host.command(command);
                killed.env("BULKHEAD_FAULT", format!("command:{number}"));
                let done = support::run(killed).code == 0;
                host.ok(&["doctor", "--fix"]);
                let left = data(&host, &["doctor"]);
                assert!(left["leftovers"].as_array().unwrap().is_empty(), "{left}");
                assert_eq!(theirs(), before, "{command:?} killed at {number}");
                if !is_there() {
                    assert!(!traces(), "{command:?} killed at {number}");
                }
                if done {
                    assert!(number >= least, "{number} points of {command:?}");
                    break;
                }
                // As it was before.
                if is_there() == (command == create) {
                    host.ok(other);
                }
            }
            assert_eq!(is_there(), command == create);
        }
        // A guest whose launch is killed leaves nothing on the bridge either.
        host.ok(&create);
        made(&host, "a", &["--network", "lan", "--start"]);
        assert_eq!(inside(&host, "a", "ip -o -4 addr show eth0 | wc -l"), "1");
        host.ok(&["kill", "a"]);
        for number in (0..80).step_by(3) {
            let mut killed = host.command(&["start", "a"]);
            killed.env("BULKHEAD_FAULT", format!("host:{number}"));
            let done = support::run(killed).code == 0;
            host.run(&["kill", "a"]);
            host.ok(&["doctor", "--fix"]);
            assert_eq!(theirs(), before, "killed at {number}");
            if done {
                assert!(number > 9);
                return;
            }
        }
        panic!("it never starts");
    });
}

#[test]
fn guests_on_an_interface_of_the_hosts_are_machines_of_its_lan() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let router = lan();
        ip("link set card nomaster");
        let host = Bulkhead::new();
        let on = |parent: &'static str| {
            let words = "network create lan --kind macvlan --gateway 198.51.100.2 --parent";
            let rest = "--subnet 198.51.100.0/24 --range 198.51.100.10-198.51.100.19";
            let words = words.split(' ').chain([parent]).chain(rest.split(' '));
            words.collect::<Vec<&str>>()
        };
        for (parent, part) in [
            ("none", "no such interface"),
            ("lo", "takes none"),
            ("br 0", "cannot name"),
        ] {
            let code = if parent == "br 0" { 5 } else { 1 };
            let said = host.fails(&on(parent), code);
            assert!(said.contains(part), "{said}");
        }
        host.ok(&on("card"));
        let links = || {
            let all = Netlink::open().unwrap().links("").unwrap();
            all.into_iter().map(|link| link.name).collect::<Vec<_>>()
        };
        let before = links();
        for guest in ["a", "b"] {
            made(&host, guest, &["--network", "lan", "--start"]);
        }
        assert_eq!(links(), before, "nothing of them is on the host");
        inside(&host, "a", "ping -c 1 -W 5 198.51.100.11");
        inside(&host, "a", "ping -c 1 -W 5 198.51.100.2");
        assert!(inside(&host, "a", "ip route").contains("default via 198.51.100.2"));
        // Nobody listens there, and who says so is the guest. The host it does not hear.
        let knock = || {
            let target = SocketAddr::from(([198, 51, 100, 11], 9));
            let refused = TcpStream::connect_timeout(&target, BRIEFLY).unwrap_err();
            refused.kind() == ErrorKind::ConnectionRefused
        };
        assert!(router.run(knock));
        ip("addr add 198.51.100.3/24 dev card");
        assert!(!knock());
        let hops = data(&host, &["network", "trace", "a", "198.51.100.2"]);
        assert!(hops.to_string().contains("the wire of card"), "{hops}");
        // What cannot be held is refused, not left undone.
        for flags in [
            &["--firewall", "in drop"][..],
            &["--packets", "100"],
            &["--rate-in", "1mbit"],
            &["--isolated-ports", "true"],
            &["--allowance", "1G"],
        ] {
            let said = host.fails(&[&["set", "a"][..], flags].concat(), 5);
            assert!(said.contains("nothing of the host's is between"), "{said}");
            let flags = [&["--network", "lan"][..], flags].concat();
            let words = [&["create", "c", "--template", "busybox"][..], &flags].concat();
            host.fails(&words, 5);
        }
        // Nor of an interface that is not the first.
        let nic = ["--nic", "up=lan", "--allowance", "1G"];
        let create = ["create", "c", "--template", "busybox"];
        let said = host.fails(&[&create[..], &nic].concat(), 5);
        assert!(said.contains("--unset network.allowance"), "{said}");
        assert!(
            host.ok(&["network", "info", "lan"])
                .contains("no anti-spoofing")
        );
        host.ok(&["network", "set", "lan", "--isolated-ports", "true"]);
        host.ok(&["restart", "a", "b"]);
        let ping = [
            "exec",
            "a",
            "--",
            "ping",
            "-c",
            "1",
            "-W",
            "1",
            "198.51.100.11",
        ];
        assert_ne!(host.run(&ping).code, 0, "kept apart");
        host.ok(&["kill", "a"]);
        for number in (0..80).step_by(2) {
            let mut killed = host.command(&["start", "a"]);
            killed.env("BULKHEAD_FAULT", format!("host:{number}"));
            let done = support::run(killed).code == 0;
            host.run(&["kill", "a"]);
            host.ok(&["doctor", "--fix"]);
            assert_eq!(links(), before, "killed at {number}");
            if done {
                assert!(number > 9);
                break;
            }
        }
        // Taken out whatever the guest's root has made of it, and not what that made beside it.
        made(
            &host,
            "c",
            &["--network", "none", "--nic", "ext=lan", "--start"],
        );
        inside(
            &host,
            "c",
            "set -e; ip link set ext down; ip link set ext name mine; \
             ip link set mine address 02:66:66:66:66:66; ip link add own type veth; \
             ip link add link veth0 name ext type macvlan",
        );
        host.ok(&["nic", "remove", "c", "ext"]);
        let left = inside(&host, "c", "ip -o link");
        assert!(
            left.contains(" ext@veth0") && !left.contains(" mine"),
            "{left}"
        );
        for guest in ["a", "b", "c"] {
            host.ok(&["delete", "--force", guest]);
        }
        host.ok(&["network", "delete", "lan"]);
        assert_eq!(links(), before);
    });
}

/// Whether a connection by IPv6 comes about.
fn reaches6(from: &Namespace, to: &Namespace, address: std::net::Ipv6Addr) -> bool {
    let server = to.run(|| TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, 0)).unwrap());
    let target = SocketAddr::from((address, server.local_addr().unwrap().port()));
    from.run(|| TcpStream::connect_timeout(&target, BRIEFLY * 3))
        .is_ok()
}

#[test]
fn guests_on_somebody_elses_bridge_have_ipv6_of_its_lan() {
    as_host(|| {
        let router = lan();
        ip("-6 addr add fd77::5/64 dev br0 nodad");
        router.run(|| ip("-6 addr add fd77::ffff/64 dev wire nodad"));
        let installation = Installation::new();
        let usual = installation.network(NetworkSettings::default());
        usual
            .create(&with_gateway6(Some("fd77::/64"), "fd77::ffff"))
            .unwrap();
        let network = usual.load(&"lan".parse().unwrap()).unwrap();
        let (a, lease_a) = guest(&network, "a");
        let (b, lease_b) = guest(&network, "b");
        let six = |lease: &Lease| lease.ipv6.as_ref().unwrap().address;
        let here = wires::own_namespace();
        for (from, to, address) in [
            (&a, &b, six(&lease_b)),
            (&a, &router, "fd77::ffff".parse().unwrap()),
            (&router, &a, six(&lease_a)),
            (&a, &here, "fd77::5".parse().unwrap()),
            (&here, &b, six(&lease_b)),
        ] {
            assert!(reaches6(from, to, address), "{address}");
        }
        a.run(|| assert!(told("-6 route").contains("default via fd77::ffff")));
        // Another address of the LAN than its own.
        a.run(|| {
            ip("-6 addr add fd77::77/64 dev eth0 nodad");
            ip(&format!("-6 addr del {}/64 dev eth0", six(&lease_a)));
        });
        assert!(!reaches6(&a, &router, "fd77::ffff".parse().unwrap()));
        assert_eq!(network.stale_entries().unwrap(), []);
        // Another prefix is for guests that start with it.
        let mut record = usual.record(&"lan".parse().unwrap()).unwrap();
        record.prefix6 = Some("fd78::/64".parse().unwrap());
        record.addresses.gateway6 = Some("fd78::ffff".parse().unwrap());
        let said = usual.change_record(&record).unwrap_err().to_string();
        assert!(said.contains("stop the guests"), "{said}");
        for lease in [&lease_a, &lease_b] {
            network.teardown_guest(lease).unwrap();
        }
        usual.change_record(&record).unwrap();
        let network = usual.load(&record.name).unwrap();
        network.ensure_host().unwrap();
        assert_eq!(network.stale_entries().unwrap(), []);
        assert_eq!(
            std::fs::read_to_string("/proc/sys/net/ipv6/conf/br0/disable_ipv6").unwrap(),
            "0\n",
            "the bridge is as it was"
        );
    });
}

#[test]
fn guests_on_an_interface_of_the_hosts_have_ipv6_of_its_lan() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let router = lan();
        ip("link set card nomaster");
        router.run(|| ip("-6 addr add fd77::ffff/64 dev wire nodad"));
        let host = Bulkhead::new();
        let words = "network create lan --kind macvlan --parent card --subnet 198.51.100.0/24 \
                     --range 198.51.100.10-198.51.100.19 --prefix6 fd77::/64 --gateway6 fd77::ffff";
        host.ok(&words.split_whitespace().collect::<Vec<_>>());
        made(&host, "a", &["--network", "lan", "--start"]);
        assert_eq!(host.ok(&["wait", "a", "ip6"]), "fd77::a\n");
        inside(&host, "a", "ping -6 -c 1 -W 5 fd77::ffff");
        let routes = inside(&host, "a", "ip -6 route");
        assert!(routes.contains("default via fd77::ffff"), "{routes}");
        // Another prefix is for guests that start with it.
        let other = "network set lan --prefix6 fd78::/64 --gateway6 fd78::ffff";
        let other: Vec<&str> = other.split(' ').collect();
        let said = host.fails(&other, 5);
        assert!(
            said.contains("stop the guests that are on it (a)"),
            "{said}"
        );
        host.ok(&["kill", "a"]);
        host.ok(&other);
        host.ok(&["start", "a"]);
        assert_eq!(host.ok(&["wait", "a", "ip6"]), "fd78::a\n");
    });
}

/// Packets that do not fit the way or are too small for IPv6, and addresses that the host has got since.
#[test]
fn what_does_not_fit_the_host_is_refused() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let _world = wires::world();
        let host = Bulkhead::new();
        let macvlan = [
            "--kind",
            "macvlan",
            "--parent",
            "uplink",
            "--subnet",
            "192.0.2.0/24",
        ];
        for (name, flags, part) in [
            (
                "lan",
                &["--mtu", "1279", "--prefix6", "auto"][..],
                "needs packets of 1280",
            ),
            (
                "lan",
                &[&macvlan[..], &["--mtu", "1401"]].concat(),
                "1400 is the most",
            ),
        ] {
            let said = host.fails(&[&["network", "create", name][..], flags].concat(), 5);
            assert!(said.contains(part), "{said}");
        }
        // The way out's may be less: the host says so to who sends more.
        ip("link set uplink mtu 1100");
        host.ok(&[
            "network",
            "create",
            "lan",
            "--subnet",
            "10.78.0.0/24",
            "--prefix6",
            "auto",
        ]);
        let said = host.fails(&["network", "set", "lan", "--mtu", "1000"], 5);
        assert!(said.contains("needs packets of 1280"), "{said}");
        made(&host, "a", &["--network", "lan", "--start"]);
        assert!(inside(&host, "a", "ip link show eth0").contains("mtu 1280"));
        host.ok(&[&["network", "create", "wire"][..], &macvlan].concat());
        made(
            &host,
            "b",
            &["--network", "wire", "--address", "192.0.2.9", "--start"],
        );
        assert!(inside(&host, "b", "ip link show eth0").contains("mtu 1100"));

        ip("addr add 10.78.0.3/32 dev lo");
        let new = ["create", "c", "--template", "busybox", "--network", "lan"];
        let said = host.fails(&[&new[..], &["--address", "10.78.0.3"]].concat(), 5);
        assert!(said.contains("an address of the host's own"), "{said}");
        made(&host, "c", &["--network", "lan"]);
        let info = data(&host, &["network", "info", "lan"]);
        assert_eq!(info["guests"]["c"], "10.78.0.4", "{info}");
    });
}
