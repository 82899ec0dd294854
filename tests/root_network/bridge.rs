//! The network room against a real kernel, as root: bridge, interfaces, NAT, and nothing left.
//!
//! Every test makes a network namespace of its own for the "host" and others for its guests and for
//! the world outside (`wires/`).

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::wires::{
    HOST_OUTSIDE, Installation, Namespace, WORLD, as_host, carry_out, connect, guest, name,
    own_namespace, seen_from, without_nat, world,
};
use bulkhead::kernel::netlink::{Netlink, Veth};
use bulkhead::kernel::netlink_nft::{Family, elements, table_exists};
use bulkhead::model::NetworkWish;
use bulkhead::network::{HostError, NetworkSettings};

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

fn interfaces() -> Vec<String> {
    let mut names: Vec<_> = Netlink::open()
        .unwrap()
        .links("")
        .unwrap()
        .into_iter()
        .map(|l| l.name)
        .collect();
    names.sort();
    names
}

fn firewall() -> String {
    let output = Command::new("/usr/sbin/nft")
        .args(["list", "ruleset"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn guests_reach_each_other_and_the_host_and_leave_nothing() {
    as_host(|| {
        let (here, before, forward) = (
            own_namespace(),
            interfaces(),
            fs::read_to_string(FORWARD).unwrap(),
        );
        let installation = Installation::new();
        let network = installation.network(without_nat());
        let (a, lease_a) = guest(&network, "a");
        let (b, lease_b) = guest(&network, "b");
        assert_ne!(lease_a.address, lease_b.address);
        assert_eq!(seen_from(&a, &b, lease_b.address).unwrap(), lease_a.address);
        assert_eq!(seen_from(&b, &a, lease_a.address).unwrap(), lease_b.address);
        assert_eq!(
            seen_from(&a, &here, lease_a.gateway).unwrap(),
            lease_a.address
        );
        let host_to_guest = seen_from(&here, &b, lease_b.address).unwrap();
        assert_eq!(host_to_guest, lease_b.gateway);

        let eth0 = a.run(|| Netlink::open().unwrap().link("eth0").unwrap().unwrap());
        assert_eq!(eth0.mac, Some(lease_a.mac));
        assert!(eth0.up);

        network.teardown_guest(&lease_a).unwrap();
        network.teardown_guest(&lease_a).unwrap();
        let left = network.leftovers(&[name("b")]).unwrap();
        assert_eq!(left, []);
        let left = network.leftovers(&[]).unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].guest, Some(name("b")));
        assert_eq!(left[0].interface, lease_b.host_interface);
        assert!(!network.remove_host_if_unused().unwrap());
        network.remove_leftover(&left[0]).unwrap();
        assert!(network.remove_host_if_unused().unwrap());
        assert_eq!(interfaces(), before);
        assert_eq!(fs::read_to_string(FORWARD).unwrap(), forward);
        network.remove_host().unwrap();
    });
}

#[test]
fn nat_leads_out_and_not_in() {
    as_host(|| {
        let world = world();
        let before = firewall();
        let installation = Installation::new();
        let network = installation.network(NetworkSettings::default());
        let (a, lease) = guest(&network, "a");
        let (b, lease_b) = guest(&network, "b");
        let table = installation.layout().kernel_name();
        for family in [Family::Inet, Family::Bridge] {
            assert!(table_exists(family, &table).unwrap());
        }
        assert_eq!(network.ensure_host().unwrap().mtu, 1400, "the way out's");
        assert_eq!(seen_from(&a, &world, WORLD).unwrap(), HOST_OUTSIDE);
        assert_eq!(
            seen_from(&a, &b, lease_b.address).unwrap(),
            lease.address,
            "no NAT inside"
        );

        // A neighbour that sends to the pool by itself stays outside, NAT or not.
        world.run(|| {
            Netlink::open()
                .unwrap()
                .set_default_route(HOST_OUTSIDE)
                .unwrap()
        });
        let patience = Duration::from_millis(700);
        let error = connect(&world, &a, lease.address, patience).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        // Without NAT the pool is routed, which shows that it was the table that kept it out.
        let routed = installation.network(without_nat());
        routed.ensure_host().unwrap();
        assert_eq!(seen_from(&world, &a, lease.address).unwrap(), WORLD);
        assert_eq!(seen_from(&a, &world, WORLD).unwrap(), lease.address);
        network.ensure_host().unwrap();
        assert!(table_exists(Family::Inet, &table).unwrap());

        for lease in [&lease, &lease_b] {
            network.teardown_guest(lease).unwrap();
        }
        network.remove_host().unwrap();
        assert!(!table_exists(Family::Inet, &table).unwrap());
        assert_eq!(firewall(), before);
        assert_eq!(interfaces(), ["lo", "uplink"]);
    });
}

#[test]
fn what_was_taken_away_comes_back() {
    as_host(|| {
        let installation = Installation::new();
        let network = installation.network(NetworkSettings::default());
        let first = network.ensure_host().unwrap();
        let table = installation.layout().kernel_name();
        assert_eq!(network.ensure_host().unwrap(), first);

        // As restarting the host's own nftables service does.
        let flushed = Command::new("/usr/sbin/nft")
            .args(["flush", "ruleset"])
            .status();
        assert!(flushed.unwrap().success());
        assert!(!table_exists(Family::Inet, &table).unwrap());
        assert_eq!(network.ensure_host().unwrap(), first);
        assert!(table_exists(Family::Inet, &table).unwrap());

        fs::write(FORWARD, "0").unwrap();
        network.ensure_host().unwrap();
        assert_eq!(fs::read_to_string(FORWARD).unwrap(), "1\n");

        Netlink::open()
            .unwrap()
            .delete_link(network.bridge())
            .unwrap();
        let again = network.ensure_host().unwrap();
        assert_eq!(again.subnet, first.subnet);
        assert_ne!(again.bridge_index, first.bridge_index);
        let bridge = Netlink::open()
            .unwrap()
            .link(network.bridge())
            .unwrap()
            .unwrap();
        assert!(bridge.up && bridge.index == again.bridge_index);
        let ipv6 = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", network.bridge());
        assert_eq!(fs::read_to_string(ipv6).unwrap(), "1\n");
        network.remove_host().unwrap();
        assert_eq!(interfaces(), ["lo"]);
    });
}

#[test]
fn forwarding_is_put_back_by_the_last_installation() {
    as_host(|| {
        fs::write(FORWARD, "0").unwrap();
        let (one, two) = (Installation::new(), Installation::new());
        let (one, two) = (one.network(without_nat()), two.network(without_nat()));
        let (a, b) = (one.ensure_host().unwrap(), two.ensure_host().unwrap());
        assert_ne!(a.bridge, b.bridge);
        assert!(!a.subnet.overlaps(b.subnet.network(), b.subnet.prefix()));
        one.remove_host().unwrap();
        assert_eq!(fs::read_to_string(FORWARD).unwrap(), "1\n");
        two.remove_host().unwrap();
        assert_eq!(fs::read_to_string(FORWARD).unwrap(), "0\n");

        fs::write(FORWARD, "1").unwrap();
        one.ensure_host().unwrap();
        one.remove_host().unwrap();
        assert_eq!(
            fs::read_to_string(FORWARD).unwrap(),
            "1\n",
            "it was on before"
        );
    });
}

#[test]
fn networks_of_others_are_left_alone() {
    as_host(|| {
        let _world = world();
        let installation = Installation::new();
        let chosen = installation
            .network(without_nat())
            .ensure_host()
            .unwrap()
            .subnet;
        let network = installation.network(without_nat());
        network.remove_host().unwrap();

        // The pool is routed elsewhere now: another is chosen while no guest has an address of it.
        let mut kernel = Netlink::open().unwrap();
        kernel.add_address("uplink", chosen.gateway(), 24).unwrap();
        let other = network.ensure_host().unwrap().subnet;
        assert_ne!(other, chosen);
        let lease = network.lease(&name("a"), &NetworkWish::default()).unwrap();
        assert!(other.contains(lease.address));
        network.remove_host().unwrap();

        // But one that is asked for, or in use, is refused, and nothing is made.
        kernel.add_address("uplink", other.gateway(), 24).unwrap();
        let fixed = installation.network(NetworkSettings {
            subnet: Some((chosen.network(), 24)),
            ..without_nat()
        });
        for network in [&network, &fixed] {
            let error = network.ensure_host().unwrap_err();
            assert!(matches!(error, HostError::Overlap { .. }), "{error}");
        }
        assert_eq!(interfaces(), ["lo", "uplink"]);

        // A bridge of somebody else's.
        kernel.create_bridge("br0", [2, 0, 0, 0, 0, 1]).unwrap();
        let foreign = installation.network(NetworkSettings {
            bridge: Some("br0".to_owned()),
            subnet: Some(([10, 99, 0, 0].into(), 24)),
            ..without_nat()
        });
        for error in [
            foreign.ensure_host().unwrap_err(),
            foreign.remove_host().unwrap_err(),
        ] {
            assert!(matches!(error, HostError::Foreign { .. }), "{error}");
        }
        assert_eq!(interfaces(), ["br0", "lo", "uplink"]);
    });
}

#[test]
fn a_changed_subnet_waits_for_guests_to_stop() {
    as_host(|| {
        let installation = Installation::new();
        let network = installation.network(without_nat());
        let (_a, lease) = guest(&network, "a");
        let moved = installation.network(NetworkSettings {
            subnet: Some(([10, 99, 0, 0].into(), 24)),
            ..without_nat()
        });
        let error = moved.ensure_host().unwrap_err();
        assert!(error.to_string().contains(&lease.host_interface), "{error}");
        network.teardown_guest(&lease).unwrap();
        assert_eq!(
            moved.ensure_host().unwrap().subnet.to_string(),
            "10.99.0.0/24"
        );
        assert!(is_own_address([10, 99, 0, 1].into()));
        assert!(!is_own_address(lease.gateway));
        moved.remove_host().unwrap();
    });
}

#[test]
fn hundreds_of_guests_are_let_in_and_each_by_its_lease() {
    as_host(|| {
        let installation = Installation::new();
        let network = installation.network(without_nat());
        let leases: Vec<_> = (0..253)
            .map(|n| {
                network
                    .lease(&name(&format!("g{n}")), &NetworkWish::default())
                    .unwrap()
            })
            .collect();
        network.ensure_host().unwrap();
        let table = installation.layout().kernel_name();
        let count = |set| elements(Family::Bridge, &table, set).unwrap().len();
        assert_eq!((count("guests"), count("ports")), (253, 253));
        network.admit(&leases[7], &NetworkWish::default()).unwrap();
        assert_eq!((count("guests"), count("ports")), (253, 253));

        // What was given up is let in no more; an address that is taken instead, at the next start.
        let (first, last) = (&leases[0], &leases[252]);
        network.release(&name("g0")).unwrap();
        assert_eq!((count("guests"), count("ports")), (252, 252));
        let wish = NetworkWish {
            address: Some(first.address),
            ..NetworkWish::default()
        };
        let moved = network.lease(&name("g252"), &wish).unwrap();
        assert_eq!((count("guests"), count("ports")), (251, 251));
        network.admit(&moved, &NetworkWish::default()).unwrap();
        assert_eq!((count("guests"), count("ports")), (252, 252));
        assert_eq!(network.stale_entries().unwrap(), []);

        // One that nobody has is named and goes.
        network.admit(last, &NetworkWish::default()).unwrap();
        let stale = network.stale_entries().unwrap();
        // Its two addresses and, sent and received, internal and external, the two kinds of packets that
        // are counted.
        assert_eq!(stale.len(), 10);
        let ports = format!("{} in ports", last.host_interface);
        assert!(stale.iter().any(|entry| entry.to_string() == ports));
        for entry in &stale {
            network.remove_entry(entry).unwrap();
        }
        assert_eq!(network.stale_entries().unwrap(), []);
        network.remove_host().unwrap();
        assert_eq!(count("ports"), 0);
        let error = network
            .admit(&moved, &NetworkWish::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("put a guest into the firewall table"),
            "{error}"
        );
    });
}

fn is_own_address(address: Ipv4Addr) -> bool {
    TcpListener::bind((address, 0)).is_ok()
}

#[test]
fn a_failed_set_up_leaves_nothing_and_a_killed_one_is_finished() {
    as_host(|| {
        fs::write(FORWARD, "0").unwrap();
        let installation = Installation::new();
        let network = installation.network(NetworkSettings::default());
        // The last step cannot be done: a folder is where the marker is to be written.
        let marker = installation.layout().run().join("network/host.json");
        fs::create_dir_all(marker.join("in the way")).unwrap();
        let error = network.ensure_host().unwrap_err().to_string();
        assert!(
            error.contains("cannot write") && error.contains("host.json"),
            "{error}"
        );
        assert_eq!(interfaces(), ["lo"]);
        assert_eq!(firewall(), "");
        assert_eq!(fs::read_to_string(FORWARD).unwrap(), "0\n");
        fs::remove_dir_all(&marker).unwrap();

        // Killed right after making the bridge: it has our hardware address and nothing else.
        let gateway = network
            .lease(&name("a"), &NetworkWish::default())
            .unwrap()
            .gateway
            .octets();
        let mac = [2, 0x62, gateway[0], gateway[1], gateway[2], gateway[3]];
        let mut kernel = Netlink::open().unwrap();
        kernel.create_bridge(network.bridge(), mac).unwrap();
        network.ensure_host().unwrap();
        network.remove_host().unwrap();
        assert_eq!(interfaces(), ["lo"]);
        assert_eq!(fs::read_to_string(FORWARD).unwrap(), "0\n");
    });
}

#[test]
fn starts_at_once_set_up_one_bridge() {
    as_host(|| {
        let installation = Installation::new();
        let here = own_namespace();
        let hosts: Vec<_> = std::thread::scope(|scope| {
            let start = || {
                let network = installation.network(NetworkSettings::default());
                here.run(|| network.ensure_host().unwrap())
            };
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            starts.into_iter().map(|s| s.join().unwrap()).collect()
        });
        assert!(hosts.iter().all(|h| *h == hosts[0]));
        installation
            .network(NetworkSettings::default())
            .remove_host()
            .unwrap();
        assert_eq!(interfaces(), ["lo"]);
    });
}

#[test]
fn requests_can_be_made_twice_and_errors_say_what() {
    as_host(|| {
        let mut kernel = Netlink::open().unwrap();
        for _ in 0..2 {
            kernel.create_bridge("br7", [2, 0, 0, 0, 0, 7]).unwrap();
            kernel.add_address("br7", [10, 7, 0, 1].into(), 24).unwrap();
            kernel.set_up("br7").unwrap();
            kernel.set_alias("br7", "seven").unwrap();
            kernel.set_default_route([10, 7, 0, 9].into()).unwrap();
        }
        let bridge = kernel.link("br7").unwrap().unwrap();
        assert_eq!(bridge.alias.as_deref(), Some("seven"));
        assert_eq!(bridge.mac, Some([2, 0, 0, 0, 0, 7]));
        assert_eq!(
            kernel
                .routes()
                .unwrap()
                .iter()
                .filter(|r| r.prefix == 0)
                .count(),
            1
        );

        // A namespace that is being taken down may still hold the name.
        let guests = [Namespace::new(), Namespace::new()];
        for guest in &guests {
            let veth = Veth {
                host_name: "port7",
                bridge: Some(bridge.index),
                guest_netns: guest.0.as_fd(),
                guest_name: "eth0",
                mac: [2, 0, 0, 0, 0, 8],
                mtu: 1280,
            };
            kernel.create_veth(&veth).unwrap();
        }
        let inside = |g: &Namespace| g.run(|| Netlink::open().unwrap().link("eth0").unwrap());
        assert_eq!(inside(&guests[0]), None);
        assert_eq!(inside(&guests[1]).unwrap().mtu, 1280);
        let port = kernel.link("port7").unwrap().unwrap();
        // Down, until it is said what it may.
        assert_eq!(
            (port.master, port.mtu, port.up),
            (Some(bridge.index), 1280, false)
        );
        for _ in 0..2 {
            kernel.bind_port("port7", [2, 0, 0, 0, 0, 8], true).unwrap();
        }
        let isolated = fs::read_to_string("/sys/class/net/port7/brport/isolated");
        // /sys shows the namespace it was mounted in; where that is ours, look.
        assert!(isolated.is_err() || isolated.unwrap() == "1\n");

        for (error, parts) in [
            (
                kernel.set_up("none").unwrap_err(),
                ["set up the interface none", "No such device"],
            ),
            (
                kernel.bind_port("lo", [2; 6], true).unwrap_err(),
                ["set the rules of the bridge port lo", "("],
            ),
            (
                kernel
                    .set_default_route([203, 0, 113, 1].into())
                    .unwrap_err(),
                ["default route via 203.0.113.1", "unreachable"],
            ),
            (
                kernel.create_bridge("lo", [2; 6]).unwrap_err(),
                ["create the bridge lo", "exists"],
            ),
        ] {
            let text = error.to_string();
            assert!(parts.iter().all(|p| text.contains(p)), "{text}");
            assert_ne!(error.errno(), 0);
        }
        assert!(kernel.delete_link("port7").unwrap());
        assert!(!kernel.delete_link("port7").unwrap());
        assert_eq!(kernel.link("none").unwrap(), None);
    });
}

/// The quickest of twenty: what the work costs when nobody else is at it. The kernel has one lock
/// for all changes to interfaces, and other tests hold it too.
fn quickest(mut what: impl FnMut(u8)) -> Duration {
    let once = |n| {
        let start = Instant::now();
        what(n);
        start.elapsed()
    };
    (0..20).map(once).min().unwrap()
}

#[test]
fn an_interface_costs_less_than_the_first_one() {
    as_host(|| {
        let installation = Installation::new();
        let network = installation.network(NetworkSettings::default());
        let start = Instant::now();
        let host = network.ensure_host().unwrap();
        let first = start.elapsed();
        let again = quickest(|_| drop(network.ensure_host().unwrap()));
        let guests: Vec<_> = (0..20)
            .map(|n| {
                let lease = network
                    .lease(&name(&format!("g{n}")), &NetworkWish::default())
                    .unwrap();
                (Namespace::new(), lease)
            })
            .collect();
        let made = quickest(|n| {
            let (namespace, lease) = &guests[usize::from(n)];
            network.admit(lease, &NetworkWish::default()).unwrap();
            carry_out(
                &network.ops(lease, host.mtu, &NetworkWish::default()),
                namespace,
            );
        });
        let deleted = quickest(|n| network.teardown_guest(&guests[usize::from(n)].1).unwrap());
        let admitted = quickest(|n| {
            network
                .admit(&guests[usize::from(n)].1, &NetworkWish::default())
                .unwrap()
        });
        eprintln!(
            "admitted {admitted:?}; host set up {first:?}, found {again:?}; interface {made:?}, deleted {deleted:?}"
        );
        // The first one sets up the host too. How long each takes is for bench/ to tell.
        assert!(made < first, "{made:?} {first:?}");
        assert!(again < first / 3, "{again:?} {first:?}");
    });
}
