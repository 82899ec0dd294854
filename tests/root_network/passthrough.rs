//! An interface of the host's that a guest has as it is: one guest at a time, and back on the host with
//! its name however the guest ends. The card is one end of a wire in a network namespace of the test's.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;

use crate::life::{data, inside, made};
use crate::support::{Bulkhead, Need, eventually, need, run};
use crate::traces;
use crate::wires::{Namespace, as_host};
use bulkhead::kernel::netlink::{Netlink, Veth};
use bulkhead::kernel::netlink_passthrough::number_away;
use serde_json::Value;

fn ip(args: &str) {
    command("ip", &args.split(' ').collect::<Vec<_>>());
}

#[track_caller]
fn command(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).status();
    assert!(done.expect("a program").success(), "{program} {args:?}");
}

/// Does something with `ip` in a guest's network namespace, as its root could.
#[track_caller]
fn ip_inside(host: &Bulkhead, guest: &str, args: &str) {
    let pid = data(host, &["info", guest])["pid"].to_string();
    let net = format!("--net=/proc/{pid}/ns/net");
    let args: Vec<&str> = [&net, "ip"].into_iter().chain(args.split(' ')).collect();
    command("nsenter", &args);
}

/// What of the host's card a guest's root can change.
fn shown() -> Vec<Value> {
    let args = ["-d", "-j", "link", "show", "card"];
    let told = Command::new("ip").args(args).output().expect("ip");
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    let keys = [
        "ifindex",
        "flags",
        "mtu",
        "address",
        "broadcast",
        "txqlen",
        "group",
        "ifalias",
        "altnames",
        "gso_max_size",
        "promiscuity",
        "linkmode",
    ];
    keys.map(|key| told[0][key].clone()).to_vec()
}

/// The number that the host's card has in a guest.
fn number_inside() -> u32 {
    let link = Netlink::open().unwrap().link("card").unwrap();
    number_away(link.expect("the card").index)
}

/// A network that is the card itself.
fn network_of_card(host: &Bulkhead) {
    let new = ["network", "create", "phys", "--kind", "passthrough"];
    let of = ["--parent", "card", "--subnet", "198.51.100.0/24"];
    host.ok(&[&new[..], &of[..]].concat());
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
        // Its keeper was there before it.
        let pid = data(&host, &["info", "db"])["pid"].to_string();
        command("kill", &["-9", &pid]);
        eventually("the keeper has seen to it", 10, is_back);
        eventually("the keeper has put it away", 10, || {
            data(&host, &["info", "db"])["status"] == "stopped"
        });
        host.ok(&["start", "db"]);
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
        network_of_card(&host);
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
        network_of_card(&host);
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

/// Whatever a guest's root sets on the card, it comes back as it was.
#[test]
fn a_card_comes_back_as_it_was() {
    if !need(Need::Root) {
        return;
    }
    as_host(|| {
        let router = Namespace::new();
        plug_card(&router);
        ip("link property add dev card altname card-of-the-host");
        ip("link set card alias ours");
        ip("link add taken type ifb");
        let before = shown();
        let host = Bulkhead::new();
        network_of_card(&host);
        made(&host, "web", &["--network", "phys", "--start"]);
        for change in [
            "link set eth0 down",
            "link set eth0 address 02:66:66:66:66:66 broadcast 02:66:66:66:66:67",
            "link set eth0 mtu 1280 txqueuelen 7 alias theirs promisc on allmulticast on",
            "link set eth0 group 66 arp off multicast off",
            "link property del dev eth0 altname card-of-the-host",
            // A name that the host has keeps an interface from going there.
            "link property add dev eth0 altname taken altname theirs-too",
        ] {
            ip_inside(&host, "web", change);
        }
        let names: Vec<String> = (0..400).map(|n| format!("altname {n:0>120}")).collect();
        for some in names.chunks(100) {
            ip_inside(
                &host,
                "web",
                &format!("link property add dev eth0 {}", some.join(" ")),
            );
        }
        // No text, which whoever reads a list of interfaces meets.
        let pid = data(&host, &["info", "web"])["pid"].to_string();
        let rename =
            format!("nsenter --net=/proc/{pid}/ns/net ip link set eth0 name $'\\377\\376x'");
        command("bash", &["-c", &rename]);
        host.ok(&["kill", "web"]);
        assert_eq!(shown(), before);
        assert_eq!(leftovers(&host, false), 0);

        // Nor does what stands on it stay behind.
        ip("link add link card name over type macvlan");
        let refused = host.run(&["start", "web"]);
        assert!(
            refused.report().contains("stands on it"),
            "{}",
            refused.report()
        );
        assert_eq!(shown(), before);
        ip("link del over");
        host.ok(&["delete", "web", "--force"]);
        host.ok(&["network", "delete", "phys"]);
    });
}

/// What a guest's root puts where the card was is not taken for it.
#[test]
fn nothing_else_comes_back_in_a_cards_place() {
    if !need(Need::Root) {
        return;
    }
    as_host(|| {
        let (router, elsewhere) = (Namespace::new(), Namespace::new());
        plug_card(&router);
        let number = number_inside();
        let host = Bulkhead::new();
        network_of_card(&host);
        made(&host, "db", &["--start"]);
        let add = ["nic", "add", "db", "ext=phys,address=198.51.100.7"];

        // Somebody has its number there already.
        ip_inside(&host, "db", &format!("link add v0 index {number} type ifb"));
        let refused = host.run(&add);
        let why = format!("has the number {number} there");
        assert!(refused.report().contains(&why), "{}", refused.report());
        assert!(is_back());
        assert_eq!(leftovers(&host, false), 0);
        ip_inside(&host, "db", "link del v0");

        host.ok(&add);
        assert!(pings(&host, "db"));
        // Moved on, with another in its place.
        let away = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            elsewhere.0.as_raw_fd()
        );
        ip_inside(&host, "db", &format!("link set ext netns {away}"));
        ip_inside(
            &host,
            "db",
            &format!("link add ext index {number} type ifb"),
        );
        let strayed = host.run(&["nic", "remove", "db", "ext"]);
        assert!(
            strayed.report().contains("moved it elsewhere"),
            "{}",
            strayed.report()
        );
        assert!(Netlink::open().unwrap().link("card").unwrap().is_none());

        // Where it was put it is found again.
        ip_inside(&host, "db", "link del ext");
        let pid = data(&host, &["info", "db"])["pid"].to_string();
        let net = File::open(format!("/proc/{pid}/ns/net")).expect("a guest's namespace");
        elsewhere.run(|| {
            let mut there = Netlink::open().unwrap();
            let link = there.link("ext").unwrap().expect("the card");
            there
                .hand_over((link.index, net.as_fd(), "x", Some(number)))
                .unwrap();
        });
        drop(net);
        host.ok(&["nic", "remove", "db", "ext"]);
        assert!(is_back());

        // One that is no card is gone when the guest's root has deleted it, and nobody waits for it.
        host.ok(&add);
        ip_inside(&host, "db", "link del ext");
        host.ok(&["kill", "db"]);
        assert_eq!(leftovers(&host, false), 0);
        assert!(Netlink::open().unwrap().link("card").unwrap().is_none());
        host.ok(&["delete", "db", "--force"]);
        host.ok(&["network", "delete", "phys"]);
    });
}

/// A note of who has the card is not written over because something else has its name meanwhile.
#[test]
fn another_of_its_name_is_not_lent_while_a_card_is_away() {
    if !need(Need::Root) {
        return;
    }
    as_host(|| {
        let router = Namespace::new();
        plug_card(&router);
        let before = shown();
        let host = Bulkhead::new();
        network_of_card(&host);
        made(&host, "web", &["--network", "phys", "--start"]);
        made(&host, "twin", &["--network", "phys"]);
        ip("link add card type ifb");
        let refused = host.run(&["start", "twin"]);
        assert!(
            refused.report().contains("a guest has it"),
            "{}",
            refused.report()
        );
        assert!(pings(&host, "web"), "another guest's start took it away");

        // It has no name of its own to come back to.
        host.ok(&["kill", "web"]);
        let named = host.run(&["doctor"]);
        assert!(
            named.code == 1 && named.stdout.contains("interface  card"),
            "{}",
            named.report()
        );
        let refused = host.run(&["start", "web"]);
        assert_ne!(refused.code, 0);
        ip("link del card");
        leftovers(&host, true);
        assert_eq!(leftovers(&host, false), 0);
        assert_eq!(shown(), before);
        host.ok(&["start", "twin"]);
        host.ok(&["kill", "twin"]);
        assert_eq!(shown(), before);
        host.ok(&["delete", "web", "--force"]);
        host.ok(&["delete", "twin", "--force"]);
        host.ok(&["network", "delete", "phys"]);
    });
}

/// However far a command had come that took the card out of a guest, it is not lost.
#[test]
fn a_removal_that_is_cut_short_is_settled() {
    if !need(Need::Root) {
        return;
    }
    as_host(|| {
        let router = Namespace::new();
        plug_card(&router);
        let before = shown();
        let host = Bulkhead::new();
        network_of_card(&host);
        made(&host, "db", &["--start"]);
        let add = ["nic", "add", "db", "ext=phys,address=198.51.100.7"];
        let mut halfway = 0;
        for point in 0.. {
            host.ok(&add);
            ip_inside(&host, "db", "link set ext alias theirs mtu 1280");
            let mut command = host.command(&["nic", "remove", "db", "ext"]);
            command.env("BULKHEAD_FAULT", format!("command:{point}"));
            let done = run(command).code == 0;
            let there = Netlink::open().unwrap().links("").unwrap();
            halfway += usize::from(there.iter().any(|link| link.name.starts_with("bhx")));
            host.run(&["doctor", "--fix"]);
            host.run(&["nic", "remove", "db", "ext"]);
            assert_eq!(shown(), before, "killed at {point}");
            assert_eq!(leftovers(&host, false), 0, "killed at {point}");
            if done {
                break;
            }
        }
        assert!(halfway > 0, "it was never on its way");
        host.ok(&["delete", "db", "--force"]);
        host.ok(&["network", "delete", "phys"]);
    });
}
