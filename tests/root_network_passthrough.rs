//! An interface of the host's that a guest has as it is: one guest at a time, and back on the host with
//! its name however the guest ends. The card is one end of a wire in a network namespace of the test's.

mod life;
mod support;
mod traces;
mod wires;

use std::os::fd::AsFd;
use std::process::Command;

use bulkhead::kernel::netlink::{Netlink, Veth};
use life::{data, inside, made};
use support::{Bulkhead, Need, eventually, need, run};
use wires::{Namespace, as_host};

fn ip(args: &str) {
    let done = Command::new("ip")
        .args(args.split(' '))
        .status()
        .expect("ip");
    assert!(done.success(), "ip {args}");
}

/// The host's card, up, and the machine at the other end of its wire.
fn plug_card(router: &Namespace) {
    let wire = Veth {
        host_name: "card",
        bridge: None,
        guest_netns: router.0.as_fd(),
        guest_name: "wire",
        mac: [2, 0, 0, 0, 0, 9],
        mtu: 1400,
    };
    Netlink::open().unwrap().create_veth(&wire).unwrap();
    router.run(|| {
        ip("addr add 198.51.100.2/24 dev wire");
        ip("link set wire up");
    });
}

/// Whether the host has its card, up as it was.
fn is_back() -> bool {
    let link = Netlink::open().unwrap().link("card").unwrap();
    link.is_some_and(|link| link.up)
}

fn pings(host: &Bulkhead, guest: &str) -> bool {
    let ping = ["ping", "-c", "1", "-W", "1", "198.51.100.2"];
    host.run(&[&["exec", guest, "--"], &ping[..]].concat()).code == 0
}

fn leftovers(host: &Bulkhead, fix: bool) -> usize {
    let args: &[&str] = if fix {
        &["doctor", "--fix"]
    } else {
        &["doctor"]
    };
    let report = data(host, args);
    report["leftovers"].as_array().map_or(0, Vec::len)
}

#[test]
fn a_card_goes_to_one_guest_and_comes_back() {
    if !need(Need::Root) {
        return;
    }
    as_host(|| {
        let router = Namespace::new();
        plug_card(&router);
        let host = Bulkhead::new();
        let network = ["--kind", "passthrough", "--subnet", "198.51.100.0/24"];
        let create = |name, parent| {
            let new = ["network", "create", name, "--parent", parent];
            host.run(&[&new[..], &network[..]].concat())
        };
        // Never what the host lives by, nor what is there no more.
        ip("addr add 198.51.100.9/24 dev card");
        ip("route add default via 198.51.100.2 dev card");
        for (parent, why) in [
            ("card", "default route leads over it"),
            ("lo", "loopback"),
            ("nothing", "not on this host"),
        ] {
            let refused = create("phys", parent);
            assert_ne!(refused.code, 0, "{parent}");
            assert!(refused.report().contains(why), "{}", refused.report());
        }
        ip("addr flush dev card");
        assert_eq!(create("phys", "card").code, 0);
        made(
            &host,
            "web",
            &["--network", "phys", "--address", "198.51.100.5"],
        );
        made(&host, "twin", &["--network", "phys"]);
        let limited = host.run(&["set", "web", "--rate-in", "1mbit"]);
        assert_ne!(limited.code, 0, "a rate that nothing keeps it to");

        let mac = host.run(&["set", "web", "--mac", "02:00:5e:00:00:01"]);
        assert!(mac.report().contains("network.mac"), "{}", mac.report());

        host.ok(&["start", "web"]);
        assert!(!is_back());
        assert!(inside(&host, "web", "ip -4 addr show eth0").contains("198.51.100.5/24"));
        assert!(pings(&host, "web"));
        // Its hardware address is its own.
        let hops = data(&host, &["network", "trace", "web", "198.51.100.2"]);
        assert!(!hops.to_string().contains("\"stops\""), "{hops}");
        let second = host.run(&["start", "twin"]);
        assert_ne!(second.code, 0);
        assert!(
            second.report().contains("a guest that runs may have it"),
            "{}",
            second.report()
        );
        assert!(pings(&host, "web"), "another guest's start took it away");
        assert_eq!(leftovers(&host, false), 0);

        // Whatever the guest's root calls it.
        inside(
            &host,
            "web",
            "ip link set eth0 down; ip link set eth0 name mine",
        );
        host.ok(&["kill", "web"]);
        assert!(is_back());
        // Another has it now; its init ends by itself, and its keeper sees to it.
        host.ok(&["start", "twin"]);
        assert!(pings(&host, "twin"));
        host.ok(&["stop", "twin"]);
        assert!(is_back());
        host.ok(&["start", "web"]);
        let pid = data(&host, &["info", "web"])["pid"].to_string();
        let killed = Command::new("kill")
            .args(["-9", &pid])
            .status()
            .expect("kill");
        assert!(killed.success());
        eventually("the card is back", 10, is_back);
        eventually("the keeper has put it away", 10, || {
            data(&host, &["info", "web"])["status"] == "stopped"
        });
        assert_eq!(leftovers(&host, false), 0);

        // Into a guest that runs and out of it.
        host.ok(&["delete", "twin", "--force"]);
        made(&host, "db", &["--start"]);
        host.ok(&["delete", "web", "--force"]);
        host.ok(&["nic", "add", "db", "ext=phys,address=198.51.100.7"]);
        assert!(pings(&host, "db"));
        host.ok(&["nic", "remove", "db", "ext"]);
        assert!(is_back());
        host.ok(&["delete", "db", "--force"]);
        host.ok(&["network", "delete", "phys"]);
        assert!(is_back());
    });
}

/// A wire's end is gone with the guest's namespace when nobody is left who holds that; `doctor` says so,
/// and a new one of its name is given to the guest as before.
#[test]
fn a_card_that_nobody_brings_back_is_named() {
    if !need(Need::Root) {
        return;
    }
    as_host(|| {
        let router = Namespace::new();
        plug_card(&router);
        let host = Bulkhead::new();
        host.ok(&[
            "network",
            "create",
            "phys",
            "--kind",
            "passthrough",
            "--parent",
            "card",
            "--subnet",
            "198.51.100.0/24",
        ]);
        made(&host, "web", &["--network", "phys", "--start"]);
        let pid = data(&host, &["info", "web"])["pid"].to_string();
        let keepers: Vec<String> = traces::processes(host.root())
            .into_iter()
            .filter(|line| line.contains("keeper"))
            .filter_map(|line| line.split(' ').find_map(|word| word.parse::<u32>().ok()))
            .map(|keeper| keeper.to_string())
            .collect();
        assert!(!keepers.is_empty());
        for victim in keepers.iter().chain([&pid]) {
            let killed = Command::new("kill")
                .args(["-9", victim])
                .status()
                .expect("kill");
            assert!(killed.success(), "{victim}");
        }
        eventually("the guest has ended", 10, || {
            data(&host, &["info", "web"])["status"] == "stopped"
        });
        leftovers(&host, true);
        assert_eq!(leftovers(&host, false), 0);
        assert!(!is_back());
        let gone = host.run(&["start", "web"]);
        assert!(
            gone.report().contains("not on this host now"),
            "{}",
            gone.report()
        );
        plug_card(&router);
        host.ok(&["start", "web"]);
        assert!(pings(&host, "web"));
        host.ok(&["delete", "web", "--force"]);
        host.ok(&["network", "delete", "phys"]);
        assert!(is_back());
    });
}

/// A start that fails at any step gives the card back.
#[test]
fn a_start_that_fails_gives_the_card_back() {
    if !need(Need::Root) {
        return;
    }
    as_host(|| {
        let router = Namespace::new();
        plug_card(&router);
        let host = Bulkhead::new();
        host.ok(&[
            "network",
            "create",
            "phys",
            "--kind",
            "passthrough",
            "--parent",
            "card",
            "--subnet",
            "198.51.100.0/24",
        ]);
        made(&host, "web", &["--network", "phys"]);
        for process in ["launch", "host", "init"] {
            for point in 0..100 {
                let mut command = host.command(&["start", "web"]);
                command.env("BULKHEAD_FAULT", format!("{process}:{point}:fail"));
                let done = run(command);
                if done.code == 0 {
                    assert!(point > 5, "{process} has steps");
                    host.ok(&["kill", "web"]);
                    assert!(is_back(), "{process}:{point}");
                    break;
                }
                let what = format!("{process}:{point}: {}", done.report());
                assert!(is_back(), "{what}");
                assert_eq!(leftovers(&host, false), 0, "{what}");
            }
        }
        host.ok(&["delete", "web", "--force"]);
        host.ok(&["network", "delete", "phys"]);
    });
}
