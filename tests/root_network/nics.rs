//! Guests with several interfaces: given at a start, plugged in and taken out while the guest runs, each
//! held to its own address, rate and rules, counted, and gone with its guest.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::life::{data, inside, made, started};
use crate::support::{Bulkhead, Need, eventually, need, run};
use crate::traces;

/// An installation with a closed network `db` on a pool of this test's own.
fn host(pool: &str) -> Bulkhead {
    let host = Bulkhead::new();
    host.ok(&[
        "network", "create", "db", "--kind", "isolated", "--subnet", pool,
    ]);
    host
}

/// The line of `nic list` for one interface.
#[track_caller]
fn nic(host: &Bulkhead, guest: &str, name: &str) -> Value {
    let all = data(host, &["nic", "list", guest]);
    let all = all.as_array().expect("a list");
    let is = |one: &&Value| one["name"] == name;
    all.iter()
        .find(is)
        .cloned()
        .unwrap_or_else(|| panic!("{all:?}"))
}

fn pings(host: &Bulkhead, guest: &str, address: &str) -> bool {
    host.run(&["exec", guest, "--", "ping", "-c", "1", "-W", "1", address])
        .code
        == 0
}

#[track_caller]
fn nothing_left(host: &Bulkhead, guests: &[&str]) {
    for guest in guests {
        host.ok(&["delete", guest, "--force"]);
    }
    let left: Vec<String> = traces::interfaces(host.root())
        .into_iter()
        .filter(|line| !line.contains("bh-"))
        .collect();
    assert_eq!(left, [] as [String; 0]);
    let report = data(host, &["doctor"]);
    assert_eq!(
        report["leftovers"].as_array().map(Vec::len),
        Some(0),
        "{report}"
    );
}

#[test]
fn a_guest_has_an_interface_on_each_of_its_networks() {
    if !need(Need::Root) {
        return;
    }
    let host = host("10.201.1.0/24");
    let lan = "lan=db,address=10.201.1.5,mac=02:00:5e:00:01:05,rate_out=10mbit";
    started(&host, "web", &["--nic", lan]);
    started(
        &host,
        "store",
        &["--network", "db", "--address", "10.201.1.9"],
    );

    let view = nic(&host, "web", "lan");
    assert_eq!(view["address"], "10.201.1.5");
    assert_eq!(view["mac"], "02:00:5e:00:01:05");
    assert_eq!(view["plugged"], true);
    let address = inside(&host, "web", "ip -4 addr show lan");
    assert!(address.contains("10.201.1.5/24"), "{address}");
    assert!(inside(&host, "web", "ip link show lan").contains("02:00:5e:00:01:05"));
    // The default route is the first interface's, and guests know each other by name.
    assert!(inside(&host, "web", "ip route").contains("default via"));
    assert!(!inside(&host, "web", "ip route").contains("default via 10.201.1"));
    assert!(pings(&host, "web", "10.201.1.9"));
    assert!(pings(&host, "store", "10.201.1.5"));
    assert!(inside(&host, "web", "cat /etc/hosts").contains("10.201.1.9 store"));

    // Another address of the same network is none of its own.
    inside(&host, "web", "ip addr add 10.201.1.77/24 dev lan");
    let forged = [
        "exec",
        "web",
        "--",
        "ping",
        "-c",
        "1",
        "-W",
        "1",
        "-I",
        "10.201.1.77",
        "10.201.1.9",
    ];
    assert_ne!(host.run(&forged).code, 0, "a forged address got an answer");

    // What passes there counts as the guest's.
    let sent = |host: &Bulkhead| {
        let all = data(host, &["traffic", "web"]);
        all[0]["sent"]["bytes"]
            .as_u64()
            .or(all[0]["sent_bytes"].as_u64())
            .unwrap_or_else(|| panic!("{all}"))
    };
    let before = sent(&host);
    inside(&host, "web", "ping -c 3 -s 1000 10.201.1.9");
    assert!(sent(&host) - before >= 3000, "{before} {}", sent(&host));

    // A clone is another machine on the same networks.
    host.ok(&["clone", "web", "twin"]);
    host.ok(&["start", "twin"]);
    let twin = nic(&host, "twin", "lan");
    assert_ne!(twin["address"], view["address"]);
    assert_ne!(twin["mac"], view["mac"]);
    assert!(pings(&host, "twin", "10.201.1.9"));
    host.ok(&["delete", "twin", "--force"]);

    // The same after a restart; and one network is one interface.
    host.ok(&["restart", "web"]);
    assert_eq!(nic(&host, "web", "lan")["address"], "10.201.1.5");
    assert!(pings(&host, "web", "10.201.1.9"));
    let twice = host.fails(&["set", "web", "--nic", "more=db"], 5);
    assert!(twice.contains("one interface on a network"), "{twice}");
    let used = host.fails(&["network", "delete", "db"], 4);
    assert!(used.contains("web"), "{used}");
    nothing_left(&host, &["web", "store"]);
}

#[test]
fn an_interface_comes_and_goes_while_its_guest_runs() {
    if !need(Need::Root) {
        return;
    }
    let host = host("10.201.2.0/24");
    started(&host, "web", &[]);
    started(
        &host,
        "store",
        &["--network", "db", "--address", "10.201.2.9"],
    );
    let pid = data(&host, &["info", "web"])["pid"].clone();
    host.ok(&["nic", "add", "web", "lan=db,address=10.201.2.5"]);
    assert!(pings(&host, "web", "10.201.2.9"));
    assert_eq!(
        data(&host, &["info", "web"])["pid"],
        pid,
        "it was restarted"
    );
    assert!(pings(&host, "store", "10.201.2.5"));

    // Rules, in force at once.
    host.ok(&[
        "set",
        "web",
        "--nic",
        "lan=db,address=10.201.2.5,firewall=in drop",
    ]);
    assert!(!pings(&host, "store", "10.201.2.5"));
    assert!(pings(&host, "web", "10.201.2.9"));
    // Another address, at once.
    host.ok(&["set", "web", "--nic", "lan=db,address=10.201.2.6"]);
    assert!(pings(&host, "store", "10.201.2.6"));
    assert!(!pings(&host, "store", "10.201.2.5"));

    // What cannot be is refused, and nothing is changed.
    for (text, code, why) in [
        ("eth0=bridge", 2, "every guest has one of that name"),
        ("a-name-too-long-for-linux=db", 2, "the kernel takes 15"),
        ("up=nowhere", 1, "there is no network"),
        ("up=bridge", 5, "first interface"),
        ("lan=db", 2, "already"),
    ] {
        let refused = host.run(&["nic", "add", "web", text]);
        assert!(
            refused.report().contains(why),
            "{text}: {}",
            refused.report()
        );
        assert_ne!(refused.code, 0, "{text} {code}");
    }
    let taken = host.run(&["set", "web", "--nic", "lan=db,address=10.201.2.9"]);
    assert!(
        taken.report().contains("store has it"),
        "{}",
        taken.report()
    );
    assert!(pings(&host, "store", "10.201.2.6"));

    host.ok(&["nic", "remove", "web", "lan"]);
    assert!(!inside(&host, "web", "ip link").contains("lan"));
    let free = data(&host, &["network", "info", "db"]);
    assert_eq!(
        free["guests"].as_object().map(|all| all.len()),
        Some(1),
        "{free}"
    );
    nothing_left(&host, &["web", "store"]);
}

/// What says so goes with the interface, and the next one has it.
#[test]
fn the_default_route_stays_with_a_guest() {
    if !need(Need::Root) {
        return;
    }
    let host = host("10.201.7.0/24");
    host.ok(&["network", "create", "web", "--subnet", "10.201.8.0/24"]);
    let nics = ["--nic", "up=web", "--nic", "more=bridge"];
    started(&host, "web", &[&["--network", "db"][..], &nics].concat());
    let way = |host: &Bulkhead| inside(host, "web", "ip route | grep default || true");
    assert!(way(&host).contains("dev up"), "{}", way(&host));
    host.ok(&["nic", "remove", "web", "up"]);
    assert!(way(&host).contains("dev more"), "{}", way(&host));
    // Where its root has made that impossible, it is taken out all the same.
    host.ok(&["nic", "add", "web", "up=web"]);
    inside(&host, "web", "ip link set dev up down");
    host.ok(&["nic", "remove", "web", "more"]);
    assert_eq!(way(&host), "");
    nothing_left(&host, &["web"]);
    host.ok(&["network", "delete", "web"]);
}

/// Whatever of it is not as it was given, `doctor` puts right.
#[test]
fn an_interface_that_is_not_as_it_is_meant_is_settled() {
    if !need(Need::Root) {
        return;
    }
    let host = host("10.201.9.0/24");
    started(&host, "web", &["--nic", "lan=db,packets=500"]);
    let end = nic(&host, "web", "lan")["host_interface"].clone();
    let end = end.as_str().expect("the host's end").to_owned();
    let leftovers = |host: &Bulkhead| {
        let done = host.run(&["doctor", "--format", "json"]);
        let report: Value = serde_json::from_str(&done.stdout).expect("its report");
        report["leftovers"].to_string()
    };
    assert_eq!(leftovers(&host), "[]");
    // Not whole: as a command leaves it that is killed before it is held back.
    let down = Command::new("ip")
        .args(["link", "set", &end, "down"])
        .status();
    assert!(down.expect("ip").success());
    assert_eq!(nic(&host, "web", "lan")["plugged"], false);
    assert!(leftovers(&host).contains("interfaces"));
    host.ok(&["doctor", "--fix"]);
    assert_eq!(leftovers(&host), "[]");
    assert_eq!(nic(&host, "web", "lan")["plugged"], true);
    // Other ceilings and addresses than the definition's.
    let path = "var/lib/bulkhead/guests/web/guest.toml";
    let path = host.root().join(path);
    let text = fs::read_to_string(&path).expect("its definition");
    let text = text.replace("500", "600");
    let line = "network = \"db\"";
    assert!(text.contains("600") && text.contains(line), "{text}");
    let addressed = format!("{line}\naddress = \"10.201.9.77\"\nmac = \"02:00:5e:00:00:07\"");
    for text in [text.clone(), text.replace(line, &addressed)] {
        fs::write(&path, text).expect("its definition");
        assert!(leftovers(&host).contains("interfaces"));
        host.ok(&["doctor", "--fix"]);
        assert_eq!(leftovers(&host), "[]");
    }
    let link = inside(&host, "web", "ip addr show lan");
    assert!(
        link.contains("10.201.9.77/24") && link.contains("02:00:5e:00:00:07"),
        "{link}"
    );
    nothing_left(&host, &["web"]);
}

/// How often rules of a guest's chains, on whichever network, keep to such a number.
fn rules(host: &Bulkhead, guest: &str, text: &str) -> usize {
    let list = Command::new("/usr/sbin/nft")
        .args(["list", "ruleset"])
        .output();
    let list = String::from_utf8(list.expect("nft").stdout).expect("text");
    let nics = data(host, &["nic", "list", guest]);
    let nics = nics.as_array().expect("a list");
    let own: Vec<&str> = nics
        .iter()
        .flat_map(|nic| [&nic["host_interface"], &nic["address"]])
        .filter_map(Value::as_str)
        .collect();
    let mut chain = "";
    let mut found = 0;
    for line in list.lines() {
        if let Some(name) = line.trim().strip_prefix("chain ") {
            chain = name.trim_end_matches(" {");
        }
        let its = own.iter().any(|own| chain.ends_with(&format!("-{own}")));
        found += usize::from(its && line.contains(text));
    }
    found
}

#[test]
fn ceilings_are_of_all_interfaces_of_a_guest_together() {
    if !need(Need::Root) {
        return;
    }
    let host = host("10.201.10.0/24");
    host.ok(&["network", "create", "way", "--subnet", "10.201.12.0/24"]);
    let whole = "--packets 1000 --new-connections 60 --connections 300";
    let nics = "--nic lan=db,packets=400 --nic out=way";
    let flags: Vec<&str> = whole.split(' ').chain(nics.split(' ')).collect();
    started(&host, "web", &flags);
    let told = |packets: &[(&str, usize)]| {
        for (text, count) in packets {
            assert_eq!(rules(&host, "web", text), *count, "{text}");
        }
        assert_eq!(data(&host, &["doctor"])["leftovers"], serde_json::json!([]));
    };
    // What one has of its own the others have not; nothing is kept track of on the closed one.
    told(&[
        ("limit rate over 300/second", 2),
        ("limit rate over 400/second", 1),
        ("limit rate over 20/second", 3),
        ("ct count over 100 drop", 2),
    ]);
    assert_eq!(host.ok(&["get", "web", "network.packets"]).trim(), "1000");
    // Changed while it runs, and with its interfaces.
    host.ok(&["set", "web", "--packets", "2000"]);
    told(&[("limit rate over 800/second", 2)]);
    host.ok(&["nic", "remove", "web", "lan"]);
    told(&[
        ("limit rate over 1000/second", 2),
        ("limit rate over 30/second", 2),
        ("ct count over 150 drop", 2),
    ]);
    host.ok(&["nic", "remove", "web", "out"]);
    told(&[
        ("limit rate over 2000/second", 1),
        ("ct count over 300 drop", 1),
    ]);
    host.ok(&["nic", "add", "web", "lan=db"]);
    told(&[
        ("limit rate over 1000/second", 2),
        ("limit rate over 30/second", 2),
    ]);
    let refused = host.fails(&["set", "web", "--nic", "lan=db,packets=1995"], 5);
    assert!(refused.contains("fewer than 10"), "{refused}");
    told(&[("limit rate over 1000/second", 2)]);
    host.ok(&["restart", "web"]);
    told(&[("limit rate over 1000/second", 2)]);
    nothing_left(&host, &["web"]);
    host.ok(&["network", "delete", "way"]);
}

#[test]
fn what_only_a_further_interface_names_stays() {
    if !need(Need::Root) {
        return;
    }
    let host = host("10.201.6.0/24");
    made(&host, "web", &[]);
    host.ok(&["secgroup", "create", "ssh", "--rule", "in accept tcp 22"]);
    host.ok(&["addrset", "create", "office", "198.51.100.0/24"]);
    let rules = "in drop tcp 25 from @office;group ssh";
    // It does not run, so no book has this yet.
    host.ok(&["set", "web", "--nic", &format!("lan=db,firewall={rules}")]);
    for kind in [["secgroup", "ssh"], ["addrset", "office"]] {
        let refused = host.run(&[kind[0], "delete", kind[1]]);
        assert_ne!(refused.code, 0, "{kind:?}");
        assert!(refused.report().contains("web"), "{}", refused.report());
    }
    host.ok(&["start", "web"]);
    nothing_left(&host, &["web"]);
    host.ok(&["secgroup", "delete", "ssh"]);
    host.ok(&["addrset", "delete", "office"]);
}

#[test]
fn its_files_tell_a_guest_of_its_interfaces() {
    if !need(Need::Root) {
        return;
    }
    let host = host("10.201.3.0/24");
    started(&host, "web", &[]);
    // As a Debian root has them.
    inside(
        &host,
        "web",
        "mkdir -p /etc/systemd /etc/network /etc/NetworkManager",
    );
    host.ok(&["kill", "web"]);
    host.ok(&["set", "web", "--nic", "lan=db,address=10.201.3.5"]);
    host.ok(&["start", "web"]);
    let unit = "/etc/systemd/network/10-bulkhead-lan.network";
    assert!(inside(&host, "web", &format!("cat {unit}")).contains("Address=10.201.3.5/24"));
    assert!(inside(&host, "web", "cat /etc/network/interfaces").contains("iface lan inet manual"));
    // NetworkManager takes one that is root's alone.
    let profile = "/etc/NetworkManager/system-connections/bulkhead-lan.nmconnection";
    assert!(inside(&host, "web", &format!("cat {profile}")).contains("address1=10.201.3.5/24\n"));
    assert_eq!(
        inside(&host, "web", &format!("stat -c %a:%u {profile}")),
        "600:0"
    );
    let profile0 = "/etc/NetworkManager/system-connections/bulkhead-eth0.nmconnection";
    let gateway = inside(
        &host,
        "web",
        "ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'",
    );
    assert!(inside(&host, "web", &format!("cat {profile0}")).contains(&format!(",{gateway}\n")));
    host.ok(&["kill", "web"]);
    host.ok(&["nic", "remove", "web", "lan"]);
    host.ok(&["start", "web"]);
    assert_eq!(
        inside(
            &host,
            "web",
            &format!("ls {unit} {profile} 2>/dev/null | wc -l")
        ),
        "0"
    );
    assert!(!inside(&host, "web", "cat /etc/network/interfaces").contains("lan"));
    nothing_left(&host, &["web"]);
}

/// Killed, and refused, between any two steps: the guest has the interface or not, the definition says
/// the same once `doctor --fix` has settled it.
#[test]
fn plugging_that_is_cut_short_is_settled() {
    if !need(Need::Root) {
        return;
    }
    let host = host("10.201.4.0/24");
    started(&host, "web", &[]);
    let plugged = |host: &Bulkhead| {
        let links = inside(host, "web", "ip link");
        links.contains("lan@") || links.contains("lan:")
    };
    let defined = |host: &Bulkhead| {
        let path = Path::new("var/lib/bulkhead/guests/web/guest.toml");
        let text = fs::read_to_string(host.root().join(path)).expect("its definition");
        text.contains("lan")
    };
    for (args, at_first) in [
        (["nic", "add", "web", "lan=db"], false),
        (["nic", "remove", "web", "lan"], true),
    ] {
        for fail in ["", ":fail"] {
            let mut point = 0;
            loop {
                assert!(point < 100, "no end of points");
                if defined(&host) != at_first {
                    let back: &[&str] = match at_first {
                        true => &["nic", "add", "web", "lan=db"],
                        false => &["nic", "remove", "web", "lan"],
                    };
                    host.ok(back);
                }
                let mut command = host.command(&args);
                command.env("BULKHEAD_FAULT", format!("command:{point}{fail}"));
                let done = run(command);
                let what = format!("{args:?} at {point}{fail}: {}", done.report());
                if fail == ":fail" && done.code != 0 {
                    assert_eq!(plugged(&host), at_first, "{what}");
                }
                host.run(&["doctor", "--fix"]);
                assert_eq!(plugged(&host), defined(&host), "{what}");
                let report = data(&host, &["doctor"]);
                let left = report["leftovers"].as_array().map(Vec::len);
                assert_eq!(left, Some(0), "{what}: {report}");
                if done.code == 0 {
                    break;
                }
                point += 1;
            }
        }
    }
    nothing_left(&host, &["web"]);
}

/// Another address of an interface that is plugged, killed at any point: the guest has the one that is
/// in the book.
#[test]
fn another_address_that_is_cut_short_is_settled() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let prefix = "fd62:201:16:";
    let all = [
        "--subnet",
        "10.201.16.0/24",
        "--prefix6",
        "fd62:201:16::/64",
    ];
    host.ok(&[&["network", "create", "six"][..], &all].concat());
    started(&host, "web", &["--nic", "lan=six"]);
    let set = |address: &str, fault: &str| {
        let set = format!("lan=six,address6={prefix}:{address}");
        let mut command = host.command(&["set", "web", "--nic", &set]);
        command.env("BULKHEAD_FAULT", fault);
        run(command).code == 0
    };
    for point in 0..100 {
        let other = ["80", "90"][point % 2];
        let done = set(other, &format!("command:{point}"));
        host.run(&["doctor", "--fix"]);
        let view = nic(&host, "web", "lan");
        assert_eq!(view["plugged"], true, "{point}: {view}");
        let address = view["address6"].as_str().expect("one").to_owned();
        assert!(!done || address.ends_with(other), "{point}: {address}");
        let has = inside(&host, "web", "ip -6 addr show dev lan");
        assert!(
            has.contains(&format!("{address}/")),
            "{point}: {address} {has}"
        );
        assert_eq!(has.matches(prefix).count(), 1, "{point}: {has}");
        let report = data(&host, &["doctor"]);
        let left = report["leftovers"].as_array().map(Vec::len);
        assert_eq!(left, Some(0), "{point}: {report}");
        if done {
            assert!(point > 3, "there are points between its effects");
            break;
        }
    }
    nothing_left(&host, &["web"]);
}

/// A start that is killed between any two effects of the launching process leaves nothing that `doctor`
/// does not name and the next start does not put right.
#[test]
fn a_start_that_is_cut_short_leaves_no_interface() {
    if !need(Need::Root) {
        return;
    }
    let host = host("10.201.5.0/24");
    let own = |host: &Bulkhead| -> Vec<String> {
        let all = traces::interfaces(host.root()).into_iter();
        all.filter(|line| !line.contains("bh-")).collect()
    };
    started(&host, "web", &["--nic", "lan=db"]);
    let address = nic(&host, "web", "lan")["address"].clone();
    host.ok(&["kill", "web"]);
    for point in 0..100 {
        let mut command = host.command(&["start", "web"]);
        command.env("BULKHEAD_FAULT", format!("launch:{point}"));
        let done = run(command);
        if done.code == 0 {
            assert!(point > 5, "there are points between a launch's effects");
            break;
        }
        host.run(&["kill", "web"]);
        eventually("the interfaces go with the namespace", 10, || {
            host.run(&["doctor", "--fix"]);
            own(&host).is_empty()
        });
        let report = data(&host, &["doctor"]);
        assert_eq!(
            report["leftovers"].as_array().map(Vec::len),
            Some(0),
            "{point}: {report}"
        );
        // Not each time: starts take long.
        if point % 4 == 0 {
            host.ok(&["start", "web"]);
            let view = nic(&host, "web", "lan");
            assert_eq!(
                (&view["address"], &view["plugged"]),
                (&address, &Value::Bool(true))
            );
            host.ok(&["kill", "web"]);
        }
    }
    nothing_left(&host, &["web"]);
}
