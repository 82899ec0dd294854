//! Networks that somebody made: closed ones, several side by side that do not meet, and what becomes
//! of them when their commands are refused or killed.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use crate::life::{data, inside, made};
use crate::support::{Bulkhead, Need, need};
use crate::wires::{
    HOST_OUTSIDE, Installation, Namespace, WORLD, as_host, connect, guest, guest_with, name,
    own_namespace, seen_from, world,
};
use crate::{support, wires};
use bulkhead::kernel::netlink::Netlink;
use bulkhead::kernel::netlink_nft::{Family, table_exists};
use bulkhead::model::{Layout, NetworkWish};
use bulkhead::network::{
    DirectoryError, HostError, Kind, LeaseError, Network, NetworkSettings, NewNetwork,
};

const BRIEFLY: Duration = Duration::from_millis(700);

fn wish(text: &str, kind: Kind, subnet: &str) -> NewNetwork {
    NewNetwork {
        subnet: Some(subnet.parse().unwrap()),
        ..wires::new_network(text, kind)
    }
}

fn named(usual: &Network, text: &str, kind: Kind, subnet: &str) -> Network {
    usual.create(&wish(text, kind, subnet)).unwrap();
    usual.load(&text.parse().unwrap()).unwrap()
}

fn interfaces() -> Vec<String> {
    let links = Netlink::open().unwrap().links("").unwrap();
    links.into_iter().map(|link| link.name).collect()
}

fn ip(args: &str) {
    let done = Command::new("ip").args(args.split(' ')).status().unwrap();
    assert!(done.success(), "ip {args}");
}

/// Whether a packet to an address of the host arrives there, whatever way back there is. The guest
/// knows the bridge's hardware address and sends everything there.
fn reaches_host(guest: &Namespace, bridge: &str) -> bool {
    let server = UdpSocket::bind((HOST_OUTSIDE, 0)).unwrap();
    server.set_read_timeout(Some(BRIEFLY)).unwrap();
    let target = server.local_addr().unwrap();
    let link = Netlink::open().unwrap().link(bridge).unwrap().unwrap();
    let mac = link
        .mac
        .unwrap()
        .map(|byte| format!("{byte:02x}"))
        .join(":");
    guest.run(|| {
        ip("route replace 192.0.2.0/24 dev eth0");
        ip(&format!(
            "neigh replace {HOST_OUTSIDE} lladdr {mac} dev eth0"
        ));
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.send_to(b"knock", target).unwrap();
    });
    server.recv_from(&mut [0; 8]).is_ok()
}

#[test]
fn a_closed_network_leads_to_its_guests_and_nowhere_else() {
    as_host(|| {
        let (here, world) = (own_namespace(), world());
        let installation = Installation::new();
        let usual = installation.network(NetworkSettings::default());
        let lan = named(&usual, "lan", Kind::Isolated, "10.77.0.0/24");
        let (a, lease_a) = guest(&lan, "a");
        let (b, lease_b) = guest(&lan, "b");
        let (c, lease_c) = guest(&usual, "c");
        assert_eq!(seen_from(&a, &b, lease_b.address).unwrap(), lease_a.address);
        assert_eq!(seen_from(&b, &a, lease_a.address).unwrap(), lease_b.address);
        // No way out, none to the host, none to other guests, and none back.
        for (client, server, address) in [
            (&a, &world, WORLD),
            (&a, &here, HOST_OUTSIDE),
            (&a, &c, lease_c.address),
            (&here, &a, lease_a.address),
            (&c, &a, lease_a.address),
            (&world, &a, lease_a.address),
        ] {
            connect(client, server, address, BRIEFLY).unwrap_err();
        }
        assert!(!reaches_host(&a, lan.bridge()));
        assert!(
            reaches_host(&c, usual.bridge()),
            "the usual network leads to the host"
        );
        // A stranger's address gets nowhere here either.
        a.run(|| {
            ip("addr add 10.77.0.9/24 dev eth0");
            ip("addr del 10.77.0.2/24 dev eth0");
        });
        connect(&a, &b, lease_b.address, BRIEFLY).unwrap_err();
        assert!(
            lan.counters(&lease_b)
                .unwrap()
                .unwrap()
                .traffic
                .internal
                .received_ipv4
                .packets
                > 3
        );

        let forward = NetworkWish {
            forwards: vec!["8080:80".parse().unwrap()],
            ..NetworkWish::default()
        };
        let error = lan.lease(&name("b"), &forward).unwrap_err();
        assert!(matches!(&error, LeaseError::NoNat { .. }), "{error}");
        assert!(!error.to_string().contains("bulkhead.toml"), "{error}");
        let names: Vec<String> = lan.hosts().unwrap().into_iter().map(|h| h.1).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(lan.dns(&[]).is_empty());
    });
}

#[test]
fn bridges_side_by_side_reach_the_world_and_not_each_other() {
    as_host(|| {
        let world = world();
        let installation = Installation::new();
        let usual = installation.network(NetworkSettings::default());
        let one = named(&usual, "one", Kind::Bridge, "10.78.0.0/24");
        let two = named(&usual, "two", Kind::Bridge, "10.79.0.0/24");
        let (a, lease_a) = guest(&one, "a");
        let forward = NetworkWish {
            forwards: vec!["8080:80".parse().unwrap()],
            ..NetworkWish::default()
        };
        let (b, lease_b) = guest_with(&two, "b", &forward);
        let (c, lease_c) = guest(&usual, "c");
        for from in [&a, &b, &c] {
            assert_eq!(seen_from(from, &world, WORLD).unwrap(), HOST_OUTSIDE);
        }
        let all = [
            (&a, lease_a.address),
            (&b, lease_b.address),
            (&c, lease_c.address),
        ];
        for (from, own) in &all {
            for (to, address) in all.iter().filter(|(_, address)| address != own) {
                let error = connect(from, to, *address, BRIEFLY).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::TimedOut, "{own} to {address}");
            }
        }
        // A port of the host leads into the second; from the first, as from anywhere.
        let server = b.run(|| std::net::TcpListener::bind("0.0.0.0:80").unwrap());
        for from in [&world, &a] {
            let target = SocketAddr::from((HOST_OUTSIDE, 8080));
            from.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)))
                .unwrap();
            drop(server.accept().unwrap());
        }
        assert_eq!(two.leftovers(&[name("b")]).unwrap(), []);
        assert_eq!(usual.leftovers(&[name("c")]).unwrap(), []);
    });
}

#[test]
fn a_network_that_cannot_be_is_refused_and_leaves_nothing() {
    as_host(|| {
        let installation = Installation::new();
        let usual = installation.network(NetworkSettings {
            subnet: Some((Ipv4Addr::new(10, 60, 0, 0), 16)),
            ..NetworkSettings::default()
        });
        named(&usual, "lan", Kind::Isolated, "10.77.0.0/24");
        let _world = world();
        ip("link add theirs type bridge");
        let before = interfaces();
        let with_bridge = |bridge: &str| NewNetwork {
            bridge: Some(bridge.to_owned()),
            ..wish("x", Kind::Bridge, "10.80.0.0/24")
        };
        for (new, part) in [
            (
                wish("lan", Kind::Bridge, "10.80.0.0/24"),
                "a network lan already",
            ),
            (
                wish("x", Kind::Bridge, "10.77.0.128/25"),
                "of the network lan",
            ),
            (
                wish("x", Kind::Isolated, "10.60.7.0/24"),
                "of the network bridge",
            ),
            (
                wish("x", Kind::Bridge, "192.0.0.0/16"),
                "the host routes 192.0.2.",
            ),
            (with_bridge("theirs"), "is not Bulkhead's"),
            (with_bridge("uplink"), "is not Bulkhead's"),
            (with_bridge(usual.bridge()), "the network bridge"),
            (with_bridge("sixteen-letters-"), "1 to 15"),
            (
                NewNetwork {
                    mtu: Some(100),
                    ..wish("x", Kind::Bridge, "10.80.0.0/24")
                },
                "576 to 9216",
            ),
        ] {
            let error = usual.create(&new).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(interfaces(), before, "{error}");
            assert_eq!(usual.names().unwrap().len(), 1, "{error}");
        }
        // Somebody makes a bridge of that name after it was looked for.
        let x = named(&usual, "x", Kind::Bridge, "10.80.0.0/24");
        x.remove_host().unwrap();
        ip(&format!("link add {} type bridge", x.bridge()));
        assert!(matches!(x.ensure_host(), Err(HostError::Foreign { .. })));
        let error = usual.delete(&"x".parse().unwrap(), &[]).unwrap_err();
        assert!(matches!(
            error,
            DirectoryError::Host(HostError::Foreign { .. })
        ));
    });
}

#[test]
fn two_installations_have_networks_of_one_name() {
    as_host(|| {
        let (one, two) = (Installation::new(), Installation::new());
        let of = |installation: &Installation, subnet| {
            let usual = installation.network(NetworkSettings::default());
            let lan = named(&usual, "lan", Kind::Isolated, subnet);
            (usual, lan)
        };
        let (usual_one, lan_one) = of(&one, "10.77.0.0/24");
        let (_, lan_two) = of(&two, "10.77.0.0/24");
        let (a, lease_a) = guest(&lan_one, "a");
        let (b, _) = guest(&lan_two, "b");
        let (c, lease_c) = guest(&lan_two, "c");
        assert_eq!(lease_a.address.octets()[3], 2);
        seen_from(&b, &c, lease_c.address).unwrap();
        connect(&a, &c, lease_c.address, BRIEFLY).unwrap_err();
        lan_one.teardown_guest(&lease_a).unwrap();
        lan_one.release(&name("a")).unwrap();
        usual_one.delete(&"lan".parse().unwrap(), &[]).unwrap();
        seen_from(&c, &b, [10, 77, 0, 2].into()).unwrap();
        assert_eq!(lan_two.leftovers(&[name("b"), name("c")]).unwrap(), []);
    });
}

#[test]
fn the_commands_make_use_and_remove_a_network() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let host = Bulkhead::new();
        host.ok(&[
            "network",
            "create",
            "lan",
            "--kind",
            "isolated",
            "--subnet",
            "10.77.0.0/24",
        ]);
        let said = host.fails(
            &["create", "a", "--template", "busybox", "--network", "lam"],
            5,
        );
        assert!(said.contains("did you mean lan?"), "{said}");
        assert!(!host.root().join("var/lib/bulkhead/guests/a").exists());
        for guest in ["a", "b"] {
            made(&host, guest, &["--network", "lan", "--start"]);
        }
        assert_eq!(inside(&host, "a", "ip route | wc -l"), "1", "no way out");
        inside(&host, "a", "ping -c 1 -W 5 b");
        let info = data(&host, &["network", "info", "lan"]);
        assert_eq!(info["guests"]["b"], "10.77.0.3", "{info}");
        assert_eq!((&info["free"], &info["nat"]), (&251.into(), &false.into()));
        let said = host.fails(&["network", "delete", "lan"], 4);
        assert!(said.contains("in use by a, b:"), "{said}");
        // All is counted and told as on the usual network.
        let traffic = data(&host, &["traffic", "b"]);
        assert_ne!(traffic[0]["received"]["packets"], 0, "{traffic}");
        assert!(host.ok(&["list"]).contains("10.77.0.2"));

        host.ok(&[
            "network",
            "set",
            "lan",
            "--isolated-ports",
            "true",
            "--mtu",
            "1300",
        ]);
        let ping = host.run(&["exec", "a", "--", "ping", "-c", "1", "-W", "1", "b"]);
        assert_ne!(ping.code, 0, "kept apart");
        host.ok(&["restart", "a"]);
        assert!(inside(&host, "a", "ip link show eth0").contains("mtu 1300"));

        // The host's firewall is flushed, and ours comes back.
        Command::new("/usr/sbin/nft")
            .args(["flush", "ruleset"])
            .status()
            .unwrap();
        let said = host.ok(&["network", "reload"]);
        assert!(said.contains("lan"), "{said}");
        let lan = |family| table_exists(family, &table(&host)).unwrap();
        assert!(lan(Family::Bridge) && lan(Family::Inet));

        // One moves while it runs: it is there from its next start on.
        host.ok(&["set", "a", "--network", "bridge"]);
        assert_eq!(
            data(&host, &["network", "info", "lan"])["guests"]["a"],
            "10.77.0.2"
        );
        host.ok(&["restart", "a"]);
        let info = data(&host, &["network", "info", "lan"]);
        assert_eq!(info["guests"].as_object().unwrap().len(), 1, "{info}");
        host.ok(&["stop", "b"]);
        host.ok(&["set", "b", "--network", "none"]);
        host.ok(&["network", "delete", "lan"]);
        assert!(!lan(Family::Bridge) && !lan(Family::Inet));
        let left = data(&host, &["doctor"]);
        assert_eq!(left["leftovers"].as_array().unwrap().len(), 0, "{left}");
    });
}

#[test]
fn a_port_of_the_host_leads_to_one_guest_of_all_networks() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let host = Bulkhead::new();
        host.ok(&["network", "create", "lan", "--subnet", "10.77.0.0/24"]);
        made(&host, "a", &["--forward", "18080:80"]);
        let flags = ["--network", "lan", "--forward", "18080:8080"];
        let words = [&["create", "b", "--template", "busybox"][..], &flags].concat();
        let said = host.fails(&words, 5);
        assert!(said.contains("a has 18080:80"), "{said}");
        made(&host, "b", &["--network", "lan"]);
        host.fails(&["set", "b", "--forward", "18080:8080"], 5);
        host.ok(&["set", "a", "--unset", "network.forward"]);
        host.ok(&["set", "b", "--forward", "18080:8080"]);
    });
}

#[test]
fn a_damaged_record_disables_its_network_and_nothing_else() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let host = Bulkhead::new();
        host.ok(&["network", "create", "lan", "--subnet", "10.77.0.0/24"]);
        made(&host, "a", &["--network", "lan", "--start"]);
        made(&host, "b", &["--network", "lan"]);
        made(&host, "c", &[]);
        let record = host.root().join("var/lib/bulkhead/networks/lan.json");
        let text = std::fs::read(&record).unwrap();
        std::fs::write(&record, "{").unwrap();
        assert!(host.ok(&["list"]).contains("running"));
        assert!(!host.ok(&["network", "list"]).contains("lan"));
        host.ok(&["start", "c"]);
        let said = host.fails(&["start", "b"], 1);
        assert!(said.contains("lan.json is damaged"), "{said}");
        for args in [["network", "info", "lan"], ["network", "delete", "lan"]] {
            assert!(host.fails(&args, 1).contains("lan.json is damaged"));
        }
        let said = host.fails(&["network", "create", "lan", "--subnet", "10.78.0.0/24"], 4);
        assert!(said.contains("already"), "{said}");
        let doctor = host.run(&["doctor", "--fix"]).stdout;
        assert!(doctor.contains("lan.json"), "{doctor}");
        host.ok(&["delete", "--force", "a"]);
        assert_eq!(std::fs::read(&record).unwrap(), b"{");
        // Put back from a backup, and what a guest that is gone had there is freed.
        std::fs::write(&record, text).unwrap();
        let left = data(&host, &["doctor", "--fix"]);
        // The kernel may not be done with its interface yet, which is named too.
        let named = left["leftovers"].as_array().unwrap();
        assert!(named.iter().any(|one| one["kind"] == "address"), "{left}");
        host.ok(&["start", "b"]);
        let said = host.fails(&["network", "info", "none"], 5);
        assert!(said.contains("there are: bridge, lan"), "{said}");
    });
}

/// Runs a command that is killed at each of its points in turn, with `doctor --fix` behind it; `check`
/// looks at what is there then, and makes it as it was before, unless the command came to its end.
fn killed_everywhere(host: &Bulkhead, args: &[&str], least: u32, mut check: impl FnMut(bool)) {
    for number in 0..80 {
        let mut command = host.command(args);
        command.env("BULKHEAD_FAULT", format!("command:{number}"));
        let done = support::run(command).code == 0;
        host.ok(&["doctor", "--fix"]);
        let left = data(host, &["doctor"]);
        let none = left["leftovers"].as_array().unwrap().is_empty();
        assert!(none, "{args:?} killed at {number}: {left}");
        check(done);
        if done {
            assert!(number >= least, "{number} points of {args:?}");
            return;
        }
    }
    panic!("more than 80 points of {args:?}");
}

#[test]
fn a_network_is_whole_or_gone_wherever_its_command_is_killed() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let host = Bulkhead::new();
        // Guests keep `doctor --fix` from taking away what all share.
        made(&host, "a", &["--start"]);
        let before = interfaces();
        let is_there = || host.run(&["network", "info", "lan"]).code == 0;
        let traces = || {
            let tables =
                [Family::Bridge, Family::Inet].map(|family| table_exists(family, &table(&host)));
            let tables = tables.iter().any(|there| *there.as_ref().unwrap());
            let files = ["var/lib", "run"].map(|at| host.root().join(at).join("bulkhead/networks"));
            let files = files
                .iter()
                .flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten());
            let files = files
                .flatten()
                .map(|entry| entry.file_name())
                .filter(|name| name != "lock");
            (interfaces() != before, tables, files.count())
        };
        for kind in ["isolated", "bridge"] {
            let create = [
                "network",
                "create",
                "lan",
                "--kind",
                kind,
                "--subnet",
                "10.77.0.0/24",
            ];
            let delete = ["network", "delete", "lan"];
            killed_everywhere(&host, &create, 8, |done| {
                if is_there() {
                    // A guest is started on it as if nothing had happened.
                    host.ok(&["create", "b", "--template", "busybox", "--network", "lan"]);
                    host.ok(&["delete", "--force", "b"]);
                    host.ok(&delete);
                }
                assert_eq!(traces(), (false, false, 0));
                if done {
                    host.ok(&create);
                }
            });
            killed_everywhere(&host, &delete, 5, |done| {
                if done || !is_there() {
                    assert_eq!(traces(), (false, false, 0));
                }
                if !done && !is_there() {
                    host.ok(&create);
                }
            });
        }
    });
}

#[test]
fn a_guest_that_moves_has_one_address_wherever_its_command_is_killed() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let host = Bulkhead::new();
        host.ok(&["network", "create", "lan", "--subnet", "10.77.0.0/24"]);
        made(&host, "a", &[]);
        let guests = |word: &str| {
            let info = data(&host, &["network", "info", word]);
            info["guests"].as_object().unwrap().len()
        };
        for (there, here) in [("lan", "bridge"), ("bridge", "lan")] {
            killed_everywhere(&host, &["set", "a", "--network", there], 3, |done| {
                let defined = host.ok(&["get", "a", "network.kind"]);
                let defined = defined.trim();
                assert!(guests("lan") + guests("bridge") <= 1);
                // What it has is where it is to be.
                let other = if defined == "lan" { "bridge" } else { "lan" };
                assert_eq!(guests(other), 0, "to be on {defined}");
                if !done {
                    host.ok(&["set", "a", "--network", here]);
                }
            });
            // It moves at its next start, if it runs meanwhile.
            for number in (0..60).step_by(2) {
                host.ok(&["set", "a", "--network", here]);
                host.ok(&["start", "a"]);
                host.ok(&["set", "a", "--network", there]);
                host.ok(&["kill", "a"]);
                assert_eq!(guests(here), 1);
                let mut command = host.command(&["start", "a"]);
                command.env("BULKHEAD_FAULT", format!("launch:{number}"));
                let done = support::run(command).code == 0;
                if done {
                    assert_eq!((guests(here), guests(there)), (0, 1));
                    assert!(number > 5, "{number} points");
                }
                // One that is killed in its last steps may run.
                host.run(&["kill", "a"]);
                host.ok(&["doctor", "--fix"]);
                assert_eq!(guests(here), 0, "killed at {number}");
                if done {
                    break;
                }
            }
        }
    });
}

fn table(host: &Bulkhead) -> String {
    Layout::new(host.root()).network_table(&"lan".parse().unwrap())
}
