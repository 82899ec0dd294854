//! `network trace`: what it says of a packet is what becomes of one.

use std::process::Command;

use crate::life::{data, inside, made};
use crate::support::{Bulkhead, Need, need};
use crate::wires::{HOST_OUTSIDE, WORLD, as_host, world};
use serde_json::Value;

fn shell(line: &str) {
    let done = Command::new("sh").args(["-c", line]).status().unwrap();
    assert!(done.success(), "{line}");
}

/// The last place of a packet's way, and whether all of it is passed.
fn trace(host: &Bulkhead, words: &[&str]) -> (Value, bool) {
    let hops = data(host, &[&["network", "trace"][..], words].concat());
    let hops = hops.as_array().unwrap().clone();
    let ends = |hop: &Value| hop["verdict"] == "stops";
    let passed = !hops.iter().any(ends);
    assert!(hops.iter().rev().skip(1).all(|hop| !ends(hop)), "{hops:?}");
    (hops.last().unwrap().clone(), passed)
}

#[track_caller]
fn stops(host: &Bulkhead, words: &[&str], at: &str, why: &str) {
    let (last, passed) = trace(host, words);
    assert!(!passed, "{words:?}: {last}");
    assert_eq!(last["at"], at, "{last}");
    assert!(last["why"].as_str().unwrap().contains(why), "{last}");
}

fn pings(host: &Bulkhead, guest: &str, to: &str) -> bool {
    let ping = ["exec", guest, "--", "ping", "-c", "1", "-W", "1", to];
    host.run(&ping).code == 0
}

#[test]
fn what_is_said_of_a_packet_is_what_becomes_of_it() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let _world = world();
        let host = Bulkhead::new();
        for guest in ["a", "off"] {
            made(&host, guest, &[]);
        }
        made(&host, "b", &["--mac", "02:00:5e:00:00:0b"]);
        for guest in ["a", "b"] {
            host.ok(&["start", guest]);
        }
        let address = |guest: &str| host.ok(&["get", guest, "network.address"]);
        let ip = |guest: &str| {
            let list = data(&host, &["network", "info", "bridge"]);
            list["guests"][guest].as_str().unwrap().to_owned()
        };
        let _none_asked_for = address("a");
        let (b, off) = (ip("b"), ip("off"));
        let (world, outside) = (WORLD.to_string(), HOST_OUTSIDE.to_string());
        let all = [b.as_str(), &world, &outside];
        // With each of these in force, and again without, it says what happens.
        let port = data(&host, &["plan", "a"]).to_string();
        let begin = port.find("\"host_name\":\"").unwrap() + 13;
        let port = &port[begin..begin + port[begin..].find('"').unwrap()];
        let bridge = data(&host, &["network", "info", "bridge"])["bridge"].clone();
        let bridge = bridge.as_str().unwrap();
        let drop_all = "nft 'add table ip filter; add chain ip filter FORWARD \
                        { type filter hook forward priority 0; policy drop; }'";
        let none = String::new;
        for (on, off, reached) in [
            (none(), none(), [true, true, true]),
            (
                drop_all.to_owned(),
                "nft delete table ip filter".to_owned(),
                [bridged(), false, true],
            ),
            (
                "echo 0 >/proc/sys/net/ipv4/ip_forward".to_owned(),
                "echo 1 >/proc/sys/net/ipv4/ip_forward".to_owned(),
                [true, false, true],
            ),
            (
                format!("ip link set {port} down"),
                format!("ip link set {port} up"),
                [false, false, false],
            ),
            (
                format!("ip link set {port} nomaster"),
                format!("ip link set {port} master {bridge}"),
                [false, false, false],
            ),
            (
                format!("ip rule add from {} blackhole", ip("a")),
                format!("ip rule del from {} blackhole", ip("a")),
                [true, false, true],
            ),
            (
                "ip route add blackhole 192.0.2.2".to_owned(),
                "ip route del blackhole 192.0.2.2".to_owned(),
                [true, false, true],
            ),
        ] {
            shell(&format!("true; {on}"));
            for (to, reached) in all.iter().zip(reached) {
                let (last, passed) = trace(&host, &["a", to]);
                assert_eq!(passed, reached, "{on}: {to}: {last}");
                assert_eq!(pings(&host, "a", to), reached, "{on}: {to}: {last}");
            }
            shell(&format!("true; {off}"));
        }
        for (on, off, why) in [
            (
                format!("bridge link set dev {port} state 0"),
                format!("bridge link set dev {port} state 3"),
                "shut off",
            ),
            (
                format!("ip link set {bridge} down"),
                format!("ip link set {bridge} up"),
                "is down",
            ),
        ] {
            shell(&on);
            stops(&host, &["a", &outside], "its port", why);
            assert!(!pings(&host, "a", &outside), "{on}");
            shell(&off);
        }
        // Before all others see it; which interfaces those rules are of, not every `nft` tells.
        shell(&format!(
            "nft 'add table netdev theirs; add chain netdev theirs first \
             {{ type filter hook ingress device {port} priority 0; }}; \
             add rule netdev theirs first ip daddr 192.0.2.2 drop'"
        ));
        let hops = data(&host, &["network", "trace", "a", &world]).to_string();
        assert!(
            hops.contains("stop") && hops.contains("netdev theirs, chain first"),
            "{hops}"
        );
        assert!(trace(&host, &["a", &b]).1 && !pings(&host, "a", &world));
        shell("nft delete table netdev theirs");
        let (last, passed) = trace(&host, &["a", "in", "icmp", &b]);
        assert!(passed, "from a hardware address that was chosen: {last}");
        let docker = drop_all.to_owned();
        shell(&docker);
        stops(
            &host,
            &["a"],
            "host passes on",
            "chain FORWARD: what no rule is about is dropped",
        );
        shell("nft delete table ip filter");
        // Taken off the bridge it has lost what the bridge knew of it.
        host.ok(&["restart", "a"]);
        stops(
            &host,
            &["a", &off],
            "other end",
            "off's, which does not run",
        );
        stops(&host, &["off"], "guest", "does not run");
        inside(&host, "a", "ip route del default");
        stops(&host, &["a"], "guest", "no route to 1.1.1.1");
        inside(&host, "a", "ip link set eth0 down");
        stops(&host, &["a", &b], "guest", "eth0 is down");
    });
}

/// Whether what bridges pass on meets the host's own rules too.
fn bridged() -> bool {
    let setting = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables");
    setting.map_or(true, |text| text.trim() != "1")
}

#[test]
fn the_rule_that_decides_is_named() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let _world = world();
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
        made(
            &host,
            "a",
            &["--forward", "18080:80", "--rate-out", "10mbit", "--start"],
        );
        made(&host, "b", &["--start"]);
        made(&host, "alone", &["--network", "lan", "--start"]);
        made(&host, "none", &["--network", "none", "--start"]);
        host.ok(&[
            "set",
            "a",
            "--firewall",
            "in accept tcp 80,8000-8009",
            "--firewall",
            "out drop tcp 25 log",
            "--firewall",
            "out drop udp to 192.0.2.0/24",
            "--firewall",
            "in drop",
        ]);
        let guests = data(&host, &["network", "info", "bridge"])["guests"].clone();
        let (a, b) = (guests["a"].as_str().unwrap(), guests["b"].as_str().unwrap());
        stops(
            &host,
            &["a", "tcp", ":25"],
            "firewall",
            "rule 2 of a's firewall decides: out drop tcp 25",
        );
        stops(
            &host,
            &["a", "udp", "192.0.2.2:53"],
            "firewall",
            "rule 3 of a's firewall",
        );
        stops(
            &host,
            &["a", "in", b],
            "firewall",
            "rule 4 of a's firewall decides: in drop",
        );
        stops(
            &host,
            &["b", "tcp", &format!("{a}:81")],
            "firewall",
            "a's firewall decides: in drop",
        );
        stops(&host, &["a", "in", "tcp", "192.0.2.2:81"], "NAT", "neither");
        let (last, _) = trace(&host, &["a", "in", "tcp", ":18080"]);
        assert!(last["advice"].to_string().contains("its port 80"), "{last}");
        stops(
            &host,
            &["a", "udp", "203.0.113.9:68"],
            "anti-spoofing",
            "DHCP",
        );
        // What another asks of that port of the host is that guest's matter.
        let (last, passed) = trace(&host, &["b", "tcp", "192.0.2.1:18080"]);
        assert!(passed && last["at"] == "ports", "{last}");
        assert!(last.to_string().contains("port 80 of a"), "{last}");
        stops(&host, &["alone", b], "guest", "no route");
        inside(&host, "alone", "ip route add default dev eth0");
        stops(
            &host,
            &["alone", "192.0.2.2"],
            "other end",
            "an isolated network",
        );
        stops(&host, &["none"], "guest", "no network but itself");
        for words in [
            &["a", "tcp", ":443"][..],
            &["a", "in", "tcp", "192.0.2.2:80"],
            &["b", "tcp", &format!("{a}:8005")],
            &["b", "in", "icmp", a],
        ] {
            let (last, passed) = trace(&host, words);
            assert!(passed, "{words:?}: {last}");
        }
        let said = host.ok(&["network", "trace", "a", "tcp", ":443"]);
        for part in ["no faster than 10mbit", "under the host's address"] {
            assert!(said.contains(part), "{said}");
        }
        host.ok(&["set", "a", "--isolated-ports", "true"]);
        host.ok(&["set", "b", "--isolated-ports", "true"]);
        stops(
            &host,
            &["b", "tcp", &format!("{a}:80")],
            "isolation",
            "b and a are kept apart",
        );
        // A rule of the host's own, one that cannot be told, and the whole flushed.
        shell(
            "nft 'add table inet theirs; add chain inet theirs out { type filter hook forward priority 5; }; add rule inet theirs out tcp dport 443 ip saddr 10.0.0.0/8 reject'",
        );
        stops(
            &host,
            &["a", "tcp", ":443"],
            "host passes on",
            "table inet theirs, chain out: rule `tcp dport 443 ip saddr 10.0.0.0/8 reject`",
        );
        shell("nft 'flush chain inet theirs out; add rule inet theirs out meta mark 7 drop'");
        let hops = data(&host, &["network", "trace", "a", "tcp", ":443"]).to_string();
        assert!(
            hops.contains("may-stop") && hops.contains("mark 7 drop"),
            "{hops}"
        );
        shell("nft flush ruleset");
        let hops = data(&host, &["network", "trace", "b"]).to_string();
        assert!(hops.contains("bulkhead network reload"), "{hops}");
        host.ok(&["network", "reload"]);
        host.ok(&["set", "a", "--unset", "network.firewall"]);
        inside(&host, "a", "ping -c 1 -W 5 192.0.2.2");
        host.ok(&["set", "a", "--allowance-cut", "1"]);
        stops(&host, &["a"], "allowance", "is used up");
        for (words, part) in [
            (&["a", "tcp"][..], "needs a port"),
            (&["a", "ip6", "192.0.2.2"], "no IPv6"),
            (&["a", "in", "out"], "no IP address"),
        ] {
            let said = host.fails(&[&["network", "trace"][..], words].concat(), 2);
            assert!(said.contains(part), "{said}");
        }
    });
}

#[test]
fn routed_and_external_networks_are_followed_too() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let _world = world();
        shell(
            "ip link add br0 type bridge && ip link set br0 up && ip addr add 198.51.100.1/24 dev br0",
        );
        let host = Bulkhead::new();
        let create = ["network", "create"];
        let routed = [
            "shop",
            "--kind",
            "routed",
            "--subnet",
            "10.78.0.0/24",
            "--nat",
            "false",
        ];
        host.ok(&[&create[..], &routed].concat());
        let external = [
            "lan",
            "--kind",
            "external",
            "--bridge",
            "br0",
            "--subnet",
            "198.51.100.0/24",
            "--gateway",
            "198.51.100.1",
        ];
        host.ok(&[&create[..], &external].concat());
        for (network, one, two) in [("shop", "a", "b"), ("lan", "c", "d")] {
            for guest in [one, two] {
                made(&host, guest, &["--network", network, "--start"]);
            }
            let guests = data(&host, &["network", "info", network])["guests"].clone();
            let other = guests[two].as_str().unwrap();
            for words in [
                &[one, other][..],
                &[one, "in", other],
                &[one, "tcp", "192.0.2.1:22"],
                &[one, "in", "tcp", "192.0.2.2:80"],
                &[one, "tcp", "192.0.2.2:80"],
            ] {
                let (last, passed) = trace(&host, words);
                assert!(passed, "{network} {words:?}: {last}");
            }
            assert!(pings(&host, one, other), "{network}");
            for guest in [one, two] {
                host.ok(&["set", guest, "--isolated-ports", "true"]);
            }
            stops(&host, &[one, other], "isolation", "kept apart");
            assert!(!pings(&host, one, other), "{network}");
            stops(
                &host,
                &[one, "udp", &format!("{other}:68")],
                "isolation",
                "kept apart",
            );
            host.ok(&["set", two, "--firewall", "in drop"]);
            let from = guests[one].as_str().unwrap();
            host.ok(&["set", two, "--isolated-ports", "false"]);
            stops(
                &host,
                &[two, "in", "tcp", &format!("{from}:80")],
                "firewall",
                "in drop",
            );
        }
    });
}

const HOST6: &str = "2001:db8:1::1";
const WORLD6: &str = "2001:db8:1::2";

#[test]
fn ipv6_is_followed_as_ipv4_is() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let world = world();
        shell(&format!(
            "ip addr add {HOST6}/64 dev uplink nodad; ip route add default via {WORLD6} dev uplink"
        ));
        world.run(|| shell(&format!("ip addr add {WORLD6}/64 dev wire nodad")));
        let host = Bulkhead::new();
        host.ok(&["network", "create", "net", "--prefix6", "fd42:5::/64"]);
        let shop = [
            "network", "create", "shop", "--kind", "routed", "--nat", "false",
        ];
        host.ok(&[&shop[..], &["--prefix6", "2001:db8:7::/64"]].concat());
        made(
            &host,
            "a",
            &["--network", "net", "--forward", "18080:80", "--start"],
        );
        made(
            &host,
            "b",
            &["--network", "net", "--address6", "fd42:5::bb", "--start"],
        );
        made(
            &host,
            "off",
            &["--network", "net", "--address6", "fd42:5::ff"],
        );
        made(&host, "c", &["--network", "shop", "--start"]);
        made(&host, "four", &["--start"]);
        let (b, all) = ("fd42:5::bb", ["fd42:5::bb", WORLD6, HOST6]);
        let port = data(&host, &["nic", "list", "a"])[0]["host_interface"].clone();
        let port = port.as_str().unwrap().to_owned();
        let drop_all = "nft 'add table ip6 filter; add chain ip6 filter FORWARD \
                        { type filter hook forward priority 0; policy drop; }'";
        let none = String::new;
        let bridged = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-ip6tables");
        let bridged = bridged.map_or(true, |text| text.trim() != "1");
        for (on, off, reached) in [
            (none(), none(), [true, true, true]),
            (
                drop_all.to_owned(),
                "nft delete table ip6 filter".to_owned(),
                [bridged, false, true],
            ),
            (
                "echo 0 >/proc/sys/net/ipv6/conf/all/forwarding".to_owned(),
                "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding".to_owned(),
                [true, false, true],
            ),
            (
                format!("ip link set {port} down"),
                format!("ip link set {port} up"),
                [false, false, false],
            ),
            (
                format!("ip route add blackhole {WORLD6}"),
                format!("ip route del blackhole {WORLD6}"),
                [true, false, true],
            ),
        ] {
            shell(&format!("true; {on}"));
            for (to, reached) in all.iter().zip(reached) {
                let (last, passed) = trace(&host, &["a", to]);
                assert_eq!(passed, reached, "{on}: {to}: {last}");
                assert_eq!(pings(&host, "a", to), reached, "{on}: {to}: {last}");
            }
            shell(&format!("true; {off}"));
        }
        let rules = [
            "out drop tcp 25",
            "out drop udp to 2001:db8:1::/64",
            "in drop icmp",
        ];
        let rules = rules.map(|rule| ["--firewall", rule]).concat();
        host.ok(&[&["set", "a"], &rules[..]].concat());
        let (to_b, from_a) = (format!("[{b}]:546"), format!("[{WORLD6}]:53"));
        for (words, at, why) in [
            (
                &["a", "ip6", "tcp", ":25"][..],
                "firewall",
                "rule 1 of a's firewall decides: out drop tcp 25",
            ),
            (&["a", "udp", &from_a], "firewall", "rule 2 of a's firewall"),
            (
                &["a", "in", b],
                "firewall",
                "rule 3 of a's firewall decides: in drop icmp",
            ),
            (&["b", "in", "ip6", "tcp", ":81"], "NAT", "neither"),
            (&["a", "udp", &to_b], "anti-spoofing", "DHCP"),
            (
                &["a", "fd42:5::ff"],
                "other end",
                "off's, which does not run",
            ),
            (
                &["a", "fd42:5::77"],
                "other end",
                "no guest of the network net has",
            ),
            (
                &["four", "ip6"],
                "guest",
                "the network bridge has no prefix",
            ),
        ] {
            stops(&host, words, at, why);
        }
        let (web, ssh) = (format!("[{WORLD6}]:80"), format!("[{HOST6}]:22"));
        for words in [
            &["a", "ip6", "tcp", ":443"][..],
            &["a", "in", "tcp", &web],
            &["b", "tcp", &ssh],
            &["c", "in", "tcp", &web],
            &["c", "tcp", &web],
            &["c", HOST6],
        ] {
            let (last, passed) = trace(&host, words);
            assert!(passed, "{words:?}: {last}");
        }
        assert!(pings(&host, "c", HOST6));
        let said = host.ok(&["network", "trace", "b", "ip6", "tcp", ":443"]);
        assert!(
            said.contains("under the host's address, not fd42:5::bb"),
            "{said}"
        );
        let said = host.ok(&["network", "trace", "c", "ip6", "tcp", ":443"]);
        assert!(!said.contains("under the host's address"), "{said}");
        shell(
            "nft 'add table inet theirs; add chain inet theirs out { type filter hook forward priority 5; }; add rule inet theirs out ip6 saddr fd42::/16 icmpv6 type 100-130 reject'",
        );
        stops(
            &host,
            &["b", WORLD6],
            "host passes on",
            "table inet theirs, chain out",
        );
        assert!(!pings(&host, "b", WORLD6));
        inside(&host, "b", "ip addr del fd42:5::bb/64 dev eth0");
        stops(
            &host,
            &["b", HOST6],
            "guest",
            "its address is fd42:5::bb, and inside",
        );
    });
}
