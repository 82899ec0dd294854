//! What guests' firewalls know of connections, and what they share: sets of addresses and groups of
//! rules, changed while guests run, refused by name, and whole wherever a change is killed.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use crate::life::{data, started};
use crate::support::{Bulkhead, Need, need};
use crate::wires::{Installation, Namespace, as_host, guest, guest_with, name, own_namespace};
use crate::{support, traces};
use bulkhead::model::NetworkWish;
use bulkhead::network::{Lease, Network, NetworkSettings, Shared};

/// Longer than a lost first packet takes to be sent again.
const PATIENCE: Duration = Duration::from_secs(2);
const ACK: u8 = 0x10;

/// One TCP packet with these flags, out of nowhere.
const STRAY: &str = r"
use Socket qw(:DEFAULT inet_pton pack_sockaddr_in6 AF_INET6);
my ($from, $to, $port, $flags) = @ARGV;
my $family = $to =~ /:/ ? AF_INET6 : AF_INET;
my ($source, $target) = map { inet_pton($family, $_) } $from, $to;
my $tcp = pack 'nnNNCCnnn', 4321, $port, 7, 9, 5 << 4, $flags, 1024, 0, 0;
my $sum = 0;
$sum += $_ for unpack 'n*', $source . $target . pack('NN', length $tcp, 6) . $tcp;
$sum = ($sum & 0xffff) + ($sum >> 16) for 1, 2;
substr $tcp, 16, 2, pack 'n', ~$sum & 0xffff;
socket my $raw, $family, SOCK_RAW, 6 or die $!;
my $where = $family == AF_INET ? pack_sockaddr_in(0, $target) : pack_sockaddr_in6(0, $target);
send $raw, $tcp, 0, $where or die $!;
";

fn walled(rules: &[&str]) -> NetworkWish {
    NetworkWish {
        firewall: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
        ..NetworkWish::default()
    }
}

fn with_ipv6(installation: &Installation) -> Network {
    installation.network(NetworkSettings {
        prefix6: Some("fd42:1:2:3::/64".parse().unwrap()),
        ..NetworkSettings::default()
    })
}

fn both(lease: &Lease) -> [IpAddr; 2] {
    let six: Ipv6Addr = lease.ipv6.as_ref().expect("IPv6").address;
    [lease.address.into(), six.into()]
}

/// A connection from one to a port of another, both ends.
fn connected(
    client: &Namespace,
    server: &Namespace,
    to: IpAddr,
    port: u16,
) -> Option<(TcpStream, TcpStream)> {
    let listener = server.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
    let target = SocketAddr::from((to, port));
    let stream = client
        .run(|| TcpStream::connect_timeout(&target, PATIENCE))
        .ok()?;
    let (accepted, _) = listener.accept().unwrap();
    for end in [&stream, &accepted] {
        end.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    Some((stream, accepted))
}

/// Whether what one end says arrives at the other.
fn passes(from: &mut TcpStream, to: &mut TcpStream) -> bool {
    from.write_all(b"x").unwrap();
    to.read_exact(&mut [0]).is_ok()
}

/// Whether a question by UDP is answered.
fn answered(client: &Namespace, server: &Namespace, to: IpAddr) -> bool {
    let bound = |place: &Namespace, port| {
        let socket = place.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let (asking, answering) = (bound(client, 0), bound(server, 5353));
    let to = match to {
        IpAddr::V4(four) => four.to_ipv6_mapped(),
        IpAddr::V6(six) => six,
    };
    asking.send_to(b"ask", (to, 5353)).unwrap();
    let Ok((_, from)) = answering.recv_from(&mut [0; 8]) else {
        return false;
    };
    answering.send_to(b"answer", from).unwrap();
    asking.recv_from(&mut [0; 8]).is_ok()
}

fn pings(from: &Namespace, to: IpAddr) -> bool {
    let to = to.to_string();
    let done = from.run(|| {
        Command::new("/usr/bin/busybox")
            .args(["ping", "-c", "1", "-W", "2", &to])
            .output()
    });
    done.unwrap().status.success()
}

/// Whether a packet of TCP that belongs to nothing arrives: the kernel there answers with a reset.
fn stray_arrives(from: &Namespace, own: IpAddr, at: &Namespace, to: IpAddr, port: u16) -> bool {
    let resets = || {
        let text = at.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (heads, values) = (lines.next().unwrap(), lines.next().unwrap());
        let mut pairs = heads.split(' ').zip(values.split(' '));
        let (_, value) = pairs.find(|(head, _)| *head == "OutRsts").unwrap();
        value.parse::<u64>().unwrap()
    };
    let before = resets();
    let words = [
        own.to_string(),
        to.to_string(),
        port.to_string(),
        ACK.to_string(),
    ];
    let sent = from.run(|| {
        Command::new("perl")
            .args(["-e", STRAY])
            .args(&words)
            .output()
    });
    let sent = sent.unwrap();
    assert!(sent.status.success(), "{sent:?}");
    support::became(1, || resets() > before)
}

#[test]
fn answers_come_in_where_nothing_else_does() {
    as_host(|| {
        let installation = Installation::new();
        let network = with_ipv6(&installation);
        let rules = walled(&["in accept tcp 80", "in policy drop"]);
        let (web, lease) = guest_with(&network, "web", &rules);
        let (other, lease_other) = guest(&network, "other");
        for (own, its) in both(&lease).into_iter().zip(both(&lease_other)) {
            let (mut stream, mut accepted) = connected(&web, &other, its, 81).unwrap();
            assert!(passes(&mut stream, &mut accepted) && passes(&mut accepted, &mut stream));
            assert!(connected(&other, &web, own, 80).is_some(), "{own}");
            assert!(connected(&other, &web, own, 81).is_none(), "{own}");
            assert!(
                answered(&web, &other, its) && !answered(&other, &web, own),
                "{own}"
            );
            assert!(pings(&web, its) && !pings(&other, own), "{own}");
            // What nobody asked for and nobody let in does not come to it at all.
            assert!(!stray_arrives(&other, its, &web, own, 9), "{own}");
            assert!(stray_arrives(&other, its, &web, own, 80), "{own}");
        }
        let (own, its) = (both(&lease)[0], both(&lease_other)[0]);
        network
            .follow(&name("web"), &NetworkWish::default())
            .unwrap();
        assert!(stray_arrives(&other, its, &web, own, 9));
    });
}

#[test]
fn what_stands_goes_on_when_rules_change_unless_they_say_so() {
    as_host(|| {
        let here = own_namespace();
        let installation = Installation::new();
        let network = with_ipv6(&installation);
        let (web, lease) = guest_with(&network, "web", &walled(&["in accept tcp 80", "in drop"]));
        let (other, lease_other) = guest(&network, "other");
        let (own, its) = (both(&lease)[0], both(&lease_other)[0]);
        let (mut called, mut answering) = connected(&web, &other, its, 81).unwrap();
        let (mut came, mut accepted) = connected(&here, &web, own, 80).unwrap();
        assert!(passes(&mut came, &mut accepted) && passes(&mut accepted, &mut came));
        network
            .follow(&name("web"), &walled(&["in policy drop"]))
            .unwrap();
        assert!(passes(&mut answering, &mut called));
        assert!(passes(&mut came, &mut accepted));
        assert!(connected(&here, &web, own, 80).is_none());
        // The host's firewall is loaded anew: what the guest says first makes it known again.
        let flushed = Command::new("/usr/sbin/nft")
            .args(["flush", "ruleset"])
            .status();
        assert!(flushed.unwrap().success());
        network.ensure_host().unwrap();
        assert!(passes(&mut called, &mut answering) && passes(&mut answering, &mut called));
        assert!(passes(&mut accepted, &mut came) && passes(&mut came, &mut accepted));
        let cut = format!("in drop established tcp from {its}");
        network
            .follow(&name("web"), &walled(&[&cut, "in policy drop"]))
            .unwrap();
        assert!(!passes(&mut answering, &mut called));
        assert!(passes(&mut came, &mut accepted), "from elsewhere");
    });
}

#[test]
fn states_are_told_apart() {
    as_host(|| {
        let installation = Installation::new();
        let network = with_ipv6(&installation);
        let (web, lease) = guest_with(&network, "web", &walled(&["in drop invalid"]));
        let (other, lease_other) = guest(&network, "other");
        for (own, its) in both(&lease).into_iter().zip(both(&lease_other)) {
            assert!(!stray_arrives(&other, its, &web, own, 9), "{own}");
            let (mut came, mut accepted) = connected(&other, &web, own, 80).unwrap();
            assert!(passes(&mut came, &mut accepted) && passes(&mut accepted, &mut came));
            assert!(connected(&web, &other, its, 81).is_some(), "{own}");
        }
        let (own, its) = (both(&lease)[0], both(&lease_other)[0]);
        network
            .follow(&name("web"), &walled(&["in drop new"]))
            .unwrap();
        assert!(connected(&other, &web, own, 80).is_none() && !answered(&other, &web, own));
        assert!(stray_arrives(&other, its, &web, own, 9));
        let rules = walled(&["in accept established", "in accept new tcp 80", "in drop"]);
        network.follow(&name("web"), &rules).unwrap();
        assert!(connected(&web, &other, its, 81).is_some());
        assert!(connected(&other, &web, own, 81).is_none());
        let (mut came, mut accepted) = connected(&other, &web, own, 80).unwrap();
        assert!(passes(&mut came, &mut accepted) && passes(&mut accepted, &mut came));
        assert_eq!(network.stale_entries().unwrap(), []);
    });
}

#[test]
fn a_set_of_addresses_changes_under_the_rules() {
    as_host(|| {
        let installation = Installation::new();
        let network = with_ipv6(&installation);
        let (other, lease_other) = guest(&network, "other");
        let put = |texts: &[String]| {
            let lock = network.lock_shared().unwrap();
            let blocks = texts.iter().map(|text| text.parse().unwrap()).collect();
            let sets = BTreeMap::from([("office".parse().unwrap(), blocks)]);
            let shared = Shared {
                sets,
                groups: BTreeMap::new(),
            };
            network.share(&lock, &shared).unwrap();
        };
        put(&[]);
        let rules = walled(&["in accept tcp from @office", "in policy drop"]);
        let (web, lease) = guest_with(&network, "web", &rules);
        let [four, six] = both(&lease).map(|own| {
            move |other: &Namespace, web: &Namespace| connected(other, web, own, 80).is_some()
        });
        assert!(!four(&other, &web) && !six(&other, &web));
        let [its4, its6] = both(&lease_other).map(|its| its.to_string());
        put(&[its4.clone(), "10.0.0.0/8".to_owned()]);
        assert!(four(&other, &web) && !six(&other, &web));
        put(&[its6]);
        assert!(!four(&other, &web) && six(&other, &web));
        // Somebody empties the kernel's; it comes again with the rest.
        let flushed = Command::new("/usr/sbin/nft")
            .args(["flush", "ruleset"])
            .status();
        assert!(flushed.unwrap().success());
        network.ensure_host().unwrap();
        assert!(!four(&other, &web) && six(&other, &web));
        network
            .follow(&name("web"), &NetworkWish::default())
            .unwrap();
        let table = installation.layout().kernel_name();
        let words = ["list", "table", "bridge", &table];
        let left = Command::new("/usr/sbin/nft").args(words).output().unwrap();
        let left = String::from_utf8(left.stdout).unwrap();
        assert!(
            !left.contains("addresses-office") && !left.contains("calls-"),
            "{left}"
        );
        assert_eq!(network.stale_entries().unwrap(), []);
    });
}

fn nft(words: &[&str]) -> String {
    let done = Command::new("/usr/sbin/nft").args(words).output().unwrap();
    assert!(done.status.success(), "{words:?}: {done:?}");
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn the_commands_share_sets_and_groups() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let table = format!("bulkhead-{}", traces::tag(host.root()));
    let chains = || nft(&["-a", "list", "table", "bridge", &table]);
    let ports = |port: u16| chains().matches(&format!("tcp dport {port} ")).count();
    host.ok(&[
        "addrset",
        "create",
        "office",
        "198.51.100.0/24,2001:db8::/32",
    ]);
    let rules = [
        "--rule",
        "in accept tcp 80 from @office",
        "--rule",
        "in policy drop",
    ];
    host.ok(&[&["secgroup", "create", "web"], &rules[..]].concat());
    started(&host, "a", &["--firewall", "group web"]);
    started(
        &host,
        "b",
        &["--firewall", "group web", "--firewall", "in accept tcp 22"],
    );
    // Each of both versions, in both guests.
    assert_eq!((ports(80), ports(22)), (4, 1));
    let handles = || {
        let text = chains();
        let rules = text.lines().filter(|line| line.contains("tcp dport 80"));
        rules.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = handles();
    host.ok(&["addrset", "add", "office", "203.0.113.7", "203.0.113.0/24"]);
    let set = nft(&["list", "set", "bridge", &table, "addresses-office"]);
    assert!(set.contains("198.51.100.0/24, 203.0.113.0/24"), "{set}");
    assert_eq!(handles(), before, "no rule was touched");
    host.ok(&["addrset", "remove", "office", "198.51.100.0/24"]);
    let set = nft(&["list", "set", "bridge", &table, "addresses-office"]);
    assert!(!set.contains("198.51"), "{set}");
    host.ok(&[
        "secgroup",
        "set",
        "web",
        "--rule",
        "in accept tcp 443",
        "--rule",
        "in policy drop",
    ]);
    assert_eq!((ports(80), ports(443), ports(22)), (0, 2, 1));
    let shown = host.ok(&["secgroup", "info", "web"]);
    assert!(
        shown.contains("in accept tcp 443") && shown.contains("guest      b"),
        "{shown}"
    );
    let list = data(&host, &["addrset", "list"]);
    assert_eq!(list[0]["addresses"][1], "203.0.113.7", "{list}");
    // What cannot be, and nothing changed by it.
    for (words, code, why) in [
        (
            &["secgroup", "delete", "web"][..],
            5,
            "rules of a, b name it",
        ),
        (
            &["secgroup", "create", "web"],
            5,
            "one of that name already",
        ),
        (
            &["secgroup", "set", "wep", "--rule", "in drop"],
            5,
            "did you mean web",
        ),
        (
            &[
                "secgroup", "set", "web", "--rule", "in drop", "--rule", "in bite",
            ],
            2,
            "--rule 2",
        ),
        (
            &["secgroup", "set", "web", "--rule", "group web"],
            5,
            "rules of its own only",
        ),
        (
            &["secgroup", "set", "web", "--rule", "in drop from @offic"],
            5,
            "did you mean office",
        ),
        (
            &["addrset", "remove", "office", "10.0.0.0/8"],
            5,
            "is not in it",
        ),
        (
            &["addrset", "add", "office", "10.0.0.1/8"],
            2,
            "beyond its length",
        ),
        (&["addrset", "create", "Office"], 2, "1 to 15"),
    ] {
        let said = host.fails(words, code);
        assert!(said.contains(why), "{words:?}: {said}");
    }
    for line in ["group wep", "in drop from @offic"] {
        let create = ["create", "c", "--template", "busybox", "--firewall", line];
        let failed = host.run(&create);
        assert!(
            failed.code != 0 && failed.stderr.contains("did you mean"),
            "{}",
            failed.report()
        );
        assert_eq!(host.run(&["info", "c"]).code, 3);
    }
    assert_eq!((ports(443), ports(22)), (2, 1));
    host.ok(&["set", "a", "--unset", "network.firewall.group web"]);
    host.ok(&["delete", "--force", "b"]);
    host.ok(&["trash", "empty", "--yes"]);
    host.ok(&["secgroup", "delete", "web"]);
    host.ok(&["addrset", "delete", "office"]);
    assert!(!chains().contains("addresses-office"), "{}", chains());
}

/// Somebody has put a set of another type into our table under the name that a rule asks for.
#[test]
fn a_rule_that_the_kernel_refuses_is_named() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let table = format!("bulkhead-{}", traces::tag(host.root()));
    host.ok(&["secgroup", "create", "web", "--rule", "in accept tcp 80"]);
    host.ok(&["addrset", "create", "clash", "192.0.2.0/24"]);
    started(
        &host,
        "a",
        &["--firewall", "group web", "--firewall", "in accept tcp 22"],
    );
    nft(&[
        "add",
        "set",
        "bridge",
        &table,
        "addresses-clash",
        "{ type ifname; }",
    ]);
    let said = host.run(&["set", "a", "--firewall", "in drop tcp 7 from @clash"]);
    assert_eq!(said.code, 1, "{}", said.report());
    let named = "rule 3 of network.firewall of a, \"in drop tcp 7 from @clash\": nft says:";
    assert!(said.stderr.contains(named), "{}", said.stderr);
    assert!(!host.ok(&["get", "a", "network.firewall"]).contains("clash"));
    let rules = ["--rule", "in accept tcp 80", "--rule", "out drop to @clash"];
    let said = host.run(&[&["secgroup", "set", "web"], &rules[..]].concat());
    assert_eq!(said.code, 1, "{}", said.report());
    let named = "rule 2 of the group web, \"out drop to @clash\": nft says:";
    assert!(said.stderr.contains(named), "{}", said.stderr);
    assert!(!host.ok(&["secgroup", "info", "web"]).contains("clash"));
    nft(&["delete", "set", "bridge", &table, "addresses-clash"]);
    let none = data(&host, &["doctor"]);
    assert_eq!(none["leftovers"], serde_json::json!([]));
    host.ok(&["set", "a", "--firewall", "in drop tcp 7 from @clash"]);
}

/// Wherever a change is killed, `doctor --fix` makes the kernel what the book says.
#[test]
fn what_is_shared_is_what_the_book_says_wherever_a_change_is_killed() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let table = format!("bulkhead-{}", traces::tag(host.root()));
    host.ok(&["addrset", "create", "office", "192.0.2.1"]);
    host.ok(&[
        "secgroup",
        "create",
        "web",
        "--rule",
        "in accept tcp 80 from @office",
    ]);
    started(&host, "a", &["--firewall", "group web"]);
    let there = |what: &str| nft(&["list", "table", "bridge", &table]).contains(what);
    let change = [
        "secgroup",
        "set",
        "web",
        "--rule",
        "in accept tcp 81 from @office",
    ];
    let add = ["addrset", "add", "office", "192.0.2.9"];
    for (change, mark, show) in [
        (&change[..], "dport 81", ["secgroup", "info", "web"]),
        (&add[..], "192.0.2.9", ["addrset", "info", "office"]),
    ] {
        let written = mark.trim_start_matches("dport ");
        for number in 0.. {
            let mut command = host.command(change);
            command.env("BULKHEAD_FAULT", format!("command:{number}"));
            let code = support::run(command).code;
            host.ok(&["doctor", "--fix"]);
            let said = host.ok(&show).contains(written);
            assert_eq!(there(mark), said, "{change:?} killed at {number}");
            let left = data(&host, &["doctor"]);
            assert_eq!(left["leftovers"], serde_json::json!([]), "{number}");
            if code == 0 {
                assert!(number > 1, "{change:?}: {number} points");
                break;
            }
            assert_eq!(code, -1, "{change:?} at {number}");
        }
        assert!(there(mark));
    }
}
