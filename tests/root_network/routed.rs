//! Networks without a bridge between guests: the way to each other, out and in; addresses that nobody
//! takes from another; what a flushed firewall, a killed start and a refused one leave.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use crate::life::{data, inside, made};
use crate::support::{Bulkhead, Need, eventually, need};
use crate::wires::{
    HOST_OUTSIDE, Installation, WORLD, as_host, connect, guest, guest_with, name, own_namespace,
    seen_from, world,
};
use crate::{support, traces, wires};
use bulkhead::kernel::netlink::Netlink;
use bulkhead::kernel::netlink_nft::{Family, table_exists};
use bulkhead::model::NetworkWish;
use bulkhead::network::{HostError, Kind, Lease, Network, NetworkSettings, NewNetwork};

const BRIEFLY: Duration = Duration::from_millis(700);
const POOL: &str = "10.77.0.0/24";

/// Asks for the hardware address of the gateway, as somebody else each time.
const ASK: &str = r#"
my ($index, $mac, $asked) = @ARGV;
$mac = pack("H*", $mac =~ tr/://dr);
socket(my $socket, 17, 3, 0x0608) or die "socket: $!";
my $to = pack("S n i S C C a8", 17, 0x0806, $index, 0, 0, 6, "\xff" x 6);
for my $last (100 .. 140) {
    my $arp = pack("nnCCn", 1, 0x0800, 6, 4, 1) . $mac . pack("C4", 10, 77, 0, $last)
        . "\0" x 6 . pack("C4", split(/\./, $asked));
    send($socket, "\xff" x 6 . $mac . pack("n", 0x0806) . $arp, 0, $to) or die "send: $!";
}
"#;

fn routed(usual: &Network, text: &str, subnet: &str, nat: bool) -> Network {
    let new = NewNetwork {
        subnet: Some(subnet.parse().unwrap()),
        nat: Some(nat),
        ..wires::new_network(text, Kind::Routed)
    };
    usual.create(&new).unwrap();
    usual.load(&new.name).unwrap()
}

fn run(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).output().unwrap();
    assert!(done.status.success(), "{program} {args:?}: {done:?}");
    String::from_utf8(done.stdout).unwrap()
}

fn ip(args: &str) -> String {
    run("ip", &args.split(' ').collect::<Vec<_>>())
}

fn wishing(forwards: &[&str], firewall: &[&str]) -> NetworkWish {
    NetworkWish {
        forwards: forwards.iter().map(|text| text.parse().unwrap()).collect(),
        firewall: firewall.iter().map(|text| text.parse().unwrap()).collect(),
        ..NetworkWish::default()
    }
}

#[test]
fn the_host_leads_from_guest_to_guest_and_out() {
    as_host(|| {
        let (here, world) = (own_namespace(), world());
        let installation = Installation::new();
        let usual = installation.network(NetworkSettings::default());
        let shop = routed(&usual, "shop", POOL, true);
        let (a, lease_a) = guest(&shop, "a");
        let (b, lease_b) = guest_with(&shop, "b", &wishing(&["8080:80"], &["in drop udp"]));
        let (c, lease_c) = guest(&usual, "c");
        assert_eq!(seen_from(&a, &b, lease_b.address).unwrap(), lease_a.address);
        assert_eq!(seen_from(&b, &a, lease_a.address).unwrap(), lease_b.address);
        assert_eq!(
            seen_from(&here, &a, lease_a.address).unwrap(),
            lease_a.gateway
        );
        assert_eq!(seen_from(&a, &here, HOST_OUTSIDE).unwrap(), lease_a.address);
        assert_eq!(seen_from(&a, &world, WORLD).unwrap(), HOST_OUTSIDE);
        // By a port of the host, from outside and from a neighbour, who comes as the host then.
        let server = b.run(|| TcpListener::bind("0.0.0.0:80").unwrap());
        for (from, seen) in [(&world, WORLD), (&a, HOST_OUTSIDE)] {
            let target = SocketAddr::from((HOST_OUTSIDE, 8080));
            from.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)))
                .unwrap();
            assert_eq!(server.accept().unwrap().1.ip(), seen);
        }
        // Other networks, and a neighbour of the host that routes there by itself, do not get in.
        world.run(|| ip(&format!("route add {POOL} via {HOST_OUTSIDE}")));
        for (from, to, address) in [
            (&c, &a, lease_a.address),
            (&a, &c, lease_c.address),
            (&world, &a, lease_a.address),
        ] {
            let error = connect(from, to, address, BRIEFLY).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{address}");
        }
        // The guest's own rules hold, and what passes is counted at both ends.
        let udp = b.run(|| UdpSocket::bind((lease_b.address, 99)).unwrap());
        udp.set_read_timeout(Some(BRIEFLY)).unwrap();
        let before = shop.counters(&lease_a).unwrap().unwrap().traffic;
        let target = SocketAddr::from((lease_b.address, 99));
        a.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(&[0; 1000], target).unwrap();
        });
        udp.recv_from(&mut [0; 2000]).unwrap_err();
        let after = shop.counters(&lease_a).unwrap().unwrap().traffic;
        let sent = after.internal.sent_ipv4.bytes - before.internal.sent_ipv4.bytes;
        assert_eq!(sent, 1000 + 8 + 20 + 14, "a frame with its headers");
        assert_eq!(after.external, before.external);
        shop.follow(&name("b"), &wishing(&["8080:80"], &[]))
            .unwrap();
        a.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"again", target).unwrap();
        });
        assert_eq!(udp.recv_from(&mut [0; 2000]).unwrap().0, 5);
    });
}

#[test]
fn without_nat_addresses_are_the_worlds() {
    as_host(|| {
        let world = world();
        let installation = Installation::new();
        let usual = installation.network(NetworkSettings::default());
        let shop = routed(&usual, "shop", "203.0.113.0/28", false);
        let (a, lease_a) = guest(&shop, "a");
        world.run(|| ip(&format!("route add 203.0.113.0/28 via {HOST_OUTSIDE}")));
        assert_eq!(seen_from(&a, &world, WORLD).unwrap(), lease_a.address);
        assert_eq!(seen_from(&world, &a, lease_a.address).unwrap(), WORLD);
        // An address that no guest has leads nowhere, at once.
        let nobody = Ipv4Addr::new(203, 0, 113, 9);
        let refused = world.run(|| TcpStream::connect_timeout(&(nobody, 80).into(), BRIEFLY * 8));
        refused.unwrap_err();
    });
}

#[test]
fn a_guest_speaks_for_its_own_address_only() {
    as_host(|| {
        let world = world();
        let installation = Installation::new();
        let usual = installation.network(NetworkSettings::default());
        let shop = routed(&usual, "shop", POOL, true);
        let (a, lease_a) = guest(&shop, "a");
        let (b, lease_b) = guest(&shop, "b");
        let (_c, lease_c) = guest(&shop, "c");
        let knocks = |from: Ipv4Addr| {
            let server = b.run(|| UdpSocket::bind((lease_b.address, 0)).unwrap());
            server.set_read_timeout(Some(BRIEFLY)).unwrap();
            let target = server.local_addr().unwrap();
            a.run(|| {
                let socket = UdpSocket::bind((from, 0)).unwrap();
                socket.send_to(b"knock", target).unwrap();
            });
            server.recv_from(&mut [0; 8]).is_ok()
        };
        assert!(knocks(lease_a.address));
        a.run(|| ip(&format!("addr add {}/32 dev eth0", lease_c.address)));
        assert!(!knocks(lease_c.address), "another guest's address");
        // Who asks as somebody else gets no answer, and the host remembers nothing of it.
        let known = || {
            let all = ip(&format!("neigh show dev {}", lease_a.host_interface));
            all.lines()
                .filter(|line| line.starts_with("10.77.0.1"))
                .count()
        };
        let ask = || {
            a.run(|| {
                let link = Netlink::open().unwrap().link("eth0").unwrap().unwrap();
                let mac = lease_a.mac.map(|byte| format!("{byte:02x}")).join(":");
                let index = link.index.to_string();
                let gateway = lease_a.gateway.to_string();
                run("perl", &["-e", ASK, &index, &mac, &gateway]);
            });
            std::thread::sleep(Duration::from_millis(200));
        };
        ask();
        assert_eq!(known(), 0);
        let believe = format!(
            "/proc/sys/net/ipv4/conf/{}/rp_filter",
            lease_a.host_interface
        );
        std::fs::write(believe, "0").unwrap();
        ask();
        assert!(known() > 20, "it is that setting that keeps it out");
        assert_eq!(seen_from(&b, &world, WORLD).unwrap(), HOST_OUTSIDE);
    });
}

#[test]
fn guests_that_are_kept_apart_stay_so_when_the_firewall_is_flushed() {
    as_host(|| {
        let world = world();
        let installation = Installation::new();
        let usual = installation.network(NetworkSettings::default());
        let shop = routed(&usual, "shop", POOL, true);
        let apart = NetworkWish {
            isolated_ports: Some(true),
            ..NetworkWish::default()
        };
        let (a, lease_a) = guest_with(&shop, "a", &apart);
        let (b, lease_b) = guest_with(&shop, "b", &apart);
        let (c, lease_c) = guest(&shop, "c");
        let check = || {
            connect(&a, &b, lease_b.address, BRIEFLY).unwrap_err();
            seen_from(&a, &c, lease_c.address).unwrap();
            seen_from(&c, &b, lease_b.address).unwrap();
            assert_eq!(seen_from(&a, &world, WORLD).unwrap(), HOST_OUTSIDE);
        };
        check();
        run("/usr/sbin/nft", &["flush", "ruleset"]);
        assert!(shop.is_open().unwrap());
        assert!(shop.reload().unwrap());
        assert!(!shop.is_open().unwrap());
        check();
        shop.isolate(&lease_b, Some(false)).unwrap();
        seen_from(&a, &b, lease_b.address).unwrap();
        shop.isolate(&lease_b, Some(true)).unwrap();
        check();
        let live = ["a", "b", "c"].map(name);
        assert_eq!(shop.leftovers(&live).unwrap(), []);
        assert_eq!(shop.leftovers(&live[1..]).unwrap().len(), 1);
        assert_eq!(shop.stale_entries().unwrap(), []);
        let in_use = shop.remove_host().unwrap_err();
        assert!(matches!(in_use, HostError::InUse { .. }), "{in_use}");
        gone(&shop, &[lease_a, lease_b, lease_c]);
    });
}

/// Takes guests away and then the network's side of the host, and looks whether all of it is gone.
fn gone(network: &Network, leases: &[Lease]) {
    for lease in leases {
        network.teardown_guest(lease).unwrap();
    }
    network.remove_host().unwrap();
    let links = Netlink::open().unwrap().links("bh").unwrap();
    assert_eq!(links, []);
    assert_eq!(
        ip("route show")
            .lines()
            .filter(|line| line.contains("10.77."))
            .count(),
        0
    );
    let rules = run("/usr/sbin/nft", &["list", "ruleset"]);
    assert!(!rules.contains("shop"), "{rules}");
}

#[test]
fn a_host_that_believes_everybody_is_refused() {
    as_host(|| {
        let installation = Installation::new();
        let usual = installation.network(NetworkSettings::default());
        std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "2").unwrap();
        let new = |kind| NewNetwork {
            subnet: Some(POOL.parse().unwrap()),
            ..wires::new_network("shop", kind)
        };
        let error = usual.create(&new(Kind::Routed)).unwrap_err().to_string();
        assert!(error.contains("rp_filter is 2"), "{error}");
        assert_eq!(usual.names().unwrap(), []);
        assert_eq!(Netlink::open().unwrap().links("bh").unwrap(), []);
        usual.create(&new(Kind::Bridge)).unwrap();
    });
}

#[test]
fn guests_are_made_shaped_killed_and_removed_as_on_a_bridge() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let host = Bulkhead::new();
        host.ok(&[
            "network", "create", "shop", "--kind", "routed", "--subnet", POOL,
        ]);
        let rates = [
            "--network",
            "shop",
            "--rate-in",
            "10mbit",
            "--rate-out",
            "10mbit",
        ];
        made(&host, "a", &rates);
        made(&host, "b", &["--network", "shop", "--start"]);
        let links = || Netlink::open().unwrap().links("bh").unwrap().len();
        // The network's own, and b's.
        assert_eq!(links(), 2);
        for process in ["host", "launch"] {
            for number in 0..40 {
                let mut command = host.command(&["start", "a"]);
                command.env("BULKHEAD_FAULT", format!("{process}:{number}"));
                let done = support::run(command).code == 0;
                // One that is killed in its last steps may run.
                host.run(&["kill", "a"]);
                host.ok(&["doctor", "--fix"]);
                eventually("only b has an interface", 20, || links() == 2);
                assert!(ip("route show").contains("10.77.0.3 dev"));
                assert!(
                    !ip("route show").contains("10.77.0.2 dev"),
                    "{process}:{number}"
                );
                if done {
                    break;
                }
            }
        }
        host.ok(&["start", "a"]);
        inside(&host, "a", "ping -c 1 -W 5 b");
        inside(&host, "a", "ping -c 1 -W 5 10.77.0.1");
        assert!(data(&host, &["traffic", "a"])[0]["sent"]["packets"] != 0);
        assert_eq!(links(), 4, "with what holds back a");
        host.ok(&["restart", "a"]);
        inside(&host, "b", "ping -c 1 -W 5 a");
        host.ok(&["delete", "--force", "a", "b"]);
        host.ok(&["network", "delete", "shop"]);
        assert_eq!(links(), 0);
        let table = format!("bulkhead-{}.shop", traces::tag(host.root()));
        assert!(!table_exists(Family::Inet, &table).unwrap());
        assert!(!table_exists(Family::Inet, &format!("{table}.guard")).unwrap());
    });
}
