//! Ceilings of one guest: packets, new connections, connections that the host keeps track of. Real
//! floods, and a neighbour who goes on as if there were none.

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::life::{data, made};
use crate::support::{Bulkhead, Need, need};
use crate::wires::{
    HOST_OUTSIDE, Installation, Namespace, WORLD, as_host, guest, guest_with, name, seen_from,
    without_nat, world,
};
use crate::{support, wires};
use bulkhead::model::{Ceilings, NetworkWish};
use bulkhead::network::{Kind, LeaseError, NetworkSettings, NewNetwork};

/// Nobody has it, so nothing answers.
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

fn keeping_to(ceilings: Ceilings) -> NetworkWish {
    NetworkWish {
        ceilings,
        ..NetworkWish::default()
    }
}

/// Datagrams that arrive of so many, all from one port, or each from a port of its own.
fn arriving(world: &Namespace, from: &Namespace, count: usize, ports: usize) -> usize {
    let server = world.run(|| UdpSocket::bind((WORLD, 0)).unwrap());
    server
        .set_read_timeout(Some(Duration::from_millis(400)))
        .unwrap();
    let target = server.local_addr().unwrap();
    let mut arrived = 0;
    let mut buffer = [0; 8];
    from.run(|| {
        let sockets: Vec<_> = (0..ports)
            .map(|_| UdpSocket::bind("0.0.0.0:0").unwrap())
            .collect();
        for (at, socket) in sockets.iter().cycle().take(count).enumerate() {
            // What is dropped on the way out may be an error.
            let _dropped = socket.send_to(b"new", target);
            // So that it does not drop what it has no room for.
            if at % 100 == 99 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    while server.recv_from(&mut buffer).is_ok() {
        arrived += 1;
    }
    arrived
}

/// Asks for so many connections, to a port each, with nobody there to answer.
fn syn_flood(from: &Namespace, count: u16) {
    from.run(|| {
        for port in 1..=count {
            let target = SocketAddr::from((NOBODY, port));
            let _silence = TcpStream::connect_timeout(&target, Duration::from_millis(1));
        }
    });
}

fn tracked() -> u32 {
    let count = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap();
    count.trim().parse().unwrap()
}

#[test]
fn a_guest_sends_so_many_packets_and_begins_so_much_in_a_second() {
    as_host(|| {
        let world = world();
        let installation = Installation::new();
        let network = installation.network(NetworkSettings::default());
        let (neighbour, _) = guest(&network, "neighbour");
        let (loud, of_loud) = guest_with(
            &network,
            "loud",
            &keeping_to(Ceilings {
                packets: Some(100),
                ..Ceilings::default()
            }),
        );
        let (busy, lease) = guest_with(
            &network,
            "busy",
            &keeping_to(Ceilings {
                new_connections: Some(20),
                ..Ceilings::default()
            }),
        );
        // At once as many as in a second, and then those of the time that it takes.
        let began = Instant::now();
        let arrived = arriving(&world, &loud, 220, 1);
        let most = 100 + 100 * (usize::try_from(began.elapsed().as_millis()).unwrap() + 10) / 1000;
        assert!(
            (90..=most).contains(&arrived),
            "{arrived} of at most {most}"
        );
        // What did not arrive is counted, for whoever tells the guest.
        let beyond = network.beyond_ceilings(&of_loud).unwrap();
        let lost = u64::try_from(220 - arrived).unwrap();
        assert!(
            (lost..lost + 20).contains(&beyond.unwrap()),
            "{beyond:?} of {lost}"
        );
        assert_eq!(arriving(&world, &neighbour, 220, 1), 220);

        let began = Instant::now();
        let arrived = arriving(&world, &busy, 200, 200);
        let most = 20 + 20 * (usize::try_from(began.elapsed().as_millis()).unwrap() + 10) / 1000;
        assert!(
            (15..=most).contains(&arrived),
            "{arrived} of at most {most}"
        );
        assert_eq!(arriving(&world, &neighbour, 200, 200), 200);
        // What stands goes on.
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(arriving(&world, &busy, 220, 1), 220);
        // A flood of SYN is held back as well, whoever it is for.
        let before = tracked();
        syn_flood(&busy, 300);
        let begun = tracked() - before;
        assert!(begun < 100, "{begun} connections begun");
        seen_from(&neighbour, &world, WORLD).unwrap();
        // Without it there is none.
        network
            .follow(&name("busy"), &NetworkWish::default())
            .unwrap();
        network.admit(&lease, &NetworkWish::default()).unwrap();
        assert_eq!(network.beyond_ceilings(&lease).unwrap(), None);
        let before = tracked();
        syn_flood(&busy, 300);
        let begun = tracked() - before;
        assert!(begun >= 290, "{begun} connections begun");
    });
}

#[test]
fn a_flood_of_connections_leaves_room_for_its_neighbours() {
    as_host(|| {
        let world = world();
        let installation = Installation::new();
        let network = installation.network(NetworkSettings {
            connections: Some(50),
            ..NetworkSettings::default()
        });
        let own = |connections| {
            keeping_to(Ceilings {
                connections: Some(connections),
                ..Ceilings::default()
            })
        };
        let (small, _) = guest_with(&network, "small", &own(10));
        let (large, _) = guest_with(&network, "large", &own(200));
        let (usual, _) = guest(&network, "usual");
        for (guest, most) in [(&small, 10), (&large, 200), (&usual, 50)] {
            let before = tracked();
            syn_flood(guest, 300);
            // The host itself speaks too, now and then.
            let begun = tracked() - before;
            assert!((most..=most + 5).contains(&begun), "{begun} of {most}");
            // By every protocol together.
            assert_eq!(arriving(&world, guest, 20, 20), 0);
        }
        // Of those that are full none begins more, and all others do.
        let (neighbour, _) = guest(&network, "neighbour");
        assert_eq!(seen_from(&neighbour, &world, WORLD).unwrap(), HOST_OUTSIDE);
        // Changed while it runs; the host's firewall is flushed and comes back.
        network.follow(&name("small"), &own(30)).unwrap();
        // Counted is what begins from then on.
        assert_eq!(arriving(&world, &small, 50, 50), 30);
        Command::new("/usr/sbin/nft")
            .args(["flush", "ruleset"])
            .status()
            .unwrap();
        assert!(network.reload().unwrap());
        network.follow(&name("small"), &own(40)).unwrap();
        assert!(network.stale_entries().unwrap().is_empty());
        network.release(&name("small")).unwrap();
        assert!(network.stale_entries().unwrap().is_empty());

        let other = Installation::new();
        let untracked = other.network(without_nat());
        let error = untracked.lease(&name("a"), &own(9)).unwrap_err();
        assert!(matches!(error, LeaseError::Untracked { .. }), "{error}");
    });
}

/// Datagrams that arrive at a neighbour's, each for a port of its own there: of `count` few are lost.
fn between(to: &Namespace, at: Ipv4Addr, from: &Namespace, count: u16) {
    let servers: Vec<_> = to.run(|| {
        (0..count)
            .map(|_| UdpSocket::bind((at, 0)).unwrap())
            .collect()
    });
    from.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for server in &servers {
            socket
                .send_to(b"new", server.local_addr().unwrap())
                .unwrap();
        }
    });
    for server in servers {
        server
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        server.recv_from(&mut [0; 8]).unwrap();
    }
}

#[test]
fn what_guests_say_to_each_other_the_host_keeps_no_track_of() {
    as_host(|| {
        let world = world();
        let installation = Installation::new();
        let network = installation.network(NetworkSettings::default());
        let wish = NewNetwork {
            subnet: Some("10.77.0.0/24".parse().unwrap()),
            ..wires::new_network("lan", Kind::Isolated)
        };
        network.create(&wish).unwrap();
        let lan = network.load(&wish.name).unwrap();
        let others: Vec<_> = [&network, &lan]
            .into_iter()
            .map(|network| {
                let ((one, _), (other, lease)) = (guest(network, "a"), guest(network, "b"));
                (one, other, lease.address)
            })
            .collect();
        // As Docker has it.
        let setting = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        std::fs::write(setting, "1").unwrap();
        for (one, other, address) in &others {
            let before = tracked();
            between(other, *address, one, 300);
            let begun = tracked().saturating_sub(before);
            assert!(begun < 20, "{begun} to {address}");
        }
        // Whatever address a frame for a neighbour names, where nobody leads anywhere.
        let (one, _, address) = &others[1];
        let before = tracked();
        one.run(|| {
            let over = format!("{address}");
            let route = ["route", "add", "203.0.113.0/24", "via", &over];
            assert!(Command::new("ip").args(route).status().unwrap().success());
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for port in 1..=300 {
                socket.send_to(b"new", ("203.0.113.7", port)).unwrap();
            }
        });
        let begun = tracked().saturating_sub(before);
        assert!(begun < 20, "{begun} to nobody");
        // The world is another matter.
        let before = tracked();
        assert_eq!(arriving(&world, &others[0].0, 100, 100), 100);
        assert!(tracked() - before >= 100);
    });
}

#[test]
fn ceilings_are_what_the_definition_says_wherever_a_change_is_killed() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let host = Bulkhead::new();
        for (flags, part) in [
            (&["--packets", "3"][..], "network.packets"),
            (&["--connections", "0"], "network.connections"),
            (
                &["--new-connections", "9", "--network", "none"],
                "nothing of another is counted",
            ),
        ] {
            let words = [&["create", "a", "--template", "busybox"][..], flags].concat();
            let said = host.fails(&words, 5);
            assert!(said.contains(part), "{said}");
        }
        made(&host, "a", &["--start"]);
        let rules = || {
            let list = Command::new("/usr/sbin/nft")
                .args(["list", "ruleset"])
                .output()
                .unwrap();
            let text = String::from_utf8(list.stdout).unwrap();
            [
                "limit rate over 1000/second",
                "limit rate over 20/second",
                "ct count over 300 drop",
            ]
            .map(|rule| text.contains(rule))
        };
        let on = [
            "set",
            "a",
            "--packets",
            "1000",
            "--new-connections",
            "20",
            "--connections",
            "300",
        ];
        let keys = ["packets", "new_connections", "connections"];
        let off = [
            "set",
            "a",
            "--unset",
            "network.packets",
            "--unset",
            "network.new_connections",
            "--unset",
            "network.connections",
        ];
        for (change, back, stand) in
            [(&on, &off, true), (&off, &on, false)].map(|(a, b, c)| (a as &[&str], b as &[&str], c))
        {
            for number in 0..80 {
                let mut killed = host.command(change);
                killed.env("BULKHEAD_FAULT", format!("command:{number}"));
                let done = support::run(killed).code == 0;
                host.ok(&["doctor", "--fix"]);
                let left = data(&host, &["doctor"]);
                assert!(left["leftovers"].as_array().unwrap().is_empty(), "{left}");
                let defined = keys
                    .map(|key| host.ok(&["get", "a", &format!("network.{key}")]).trim() != "none");
                assert_eq!(rules(), defined, "{change:?} killed at {number}");
                if done {
                    assert!(number > 1, "{number} points");
                    assert_eq!(rules(), [stand; 3]);
                    break;
                }
                host.ok(back);
            }
        }
        // They come with a guest that is started, and go with it.
        host.ok(&on);
        host.ok(&["restart", "a"]);
        assert_eq!(rules(), [true; 3]);
        host.ok(&["kill", "a"]);
        host.ok(&["rename", "a", "b"]);
        assert_eq!(rules(), [true; 3]);
        host.ok(&["delete", "--force", "b"]);
        assert_eq!(rules(), [false; 3]);
    });
}
