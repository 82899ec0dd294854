//! What guests are told where they have no way out, and on the network that is always there: by the
//! settings of the host; and a packet followed over a further interface.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::life::{data, info, inside, own_network, started};
use crate::support::{Bulkhead, Need, became, eventually, need, run};
use crate::traces;

const HEARS: &str = include_str!("../hostile/hears.py");
const SENDS: &str = "import socket, sys; \
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', (sys.argv[1], int(sys.argv[2])))";
/// A client that says which router and name servers it was told.
const ASK: &str = "printf '#!/bin/sh\\necho \"told=$1 router=$router dns=$dns\"\\n' >/tmp/said && \
    chmod +x /tmp/said && udhcpc -n -q -f -i eth0 -s /tmp/said -t 3 -T 1 2>&1";

fn settings(host: &Bulkhead, text: &str) {
    fs::create_dir_all(host.root().join("etc/bulkhead")).unwrap();
    fs::write(host.root().join("etc/bulkhead/bulkhead.toml"), text).unwrap();
}

/// Who keeps, or is, a network's server program.
fn pid(host: &Bulkhead, folder: &str, whose: &str) -> Option<u64> {
    let path = host.root().join("run/bulkhead").join(folder);
    let text = fs::read(path.join("server.json")).ok()?;
    let note: Value = serde_json::from_slice(&text).ok()?;
    note[whose]["pid"].as_u64()
}

/// A process that is more than a dead body.
fn lives(pid: u64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").expect("a state").1.starts_with('Z'))
}

fn leftovers(host: &Bulkhead) -> Vec<String> {
    let text = host.run(&["doctor", "--format", "json"]).stdout;
    let report: Value = serde_json::from_str(&text).unwrap();
    let all = report["leftovers"].as_array().expect("a list");
    let kind = |one: &Value| one["kind"].as_str().map(str::to_owned);
    all.iter().filter_map(kind).collect()
}

/// The host's IPv4 addresses on a network's bridge.
fn addresses(host: &Bulkhead, network: &str) -> String {
    let bridge = data(host, &["network", "info", network])["bridge"].clone();
    let mut command = Command::new("ip");
    command.args(["-4", "-o", "addr", "show", "dev", bridge.as_str().unwrap()]);
    run(command).stdout
}

/// Python of the host's in a guest's network.
fn in_network_of(host: &Bulkhead, guest: &str, words: &[&str]) -> Command {
    let pid = info(host, guest)["pid"].as_u64().expect("it runs");
    let mut command = Command::new("nsenter");
    command.args(["-t", &pid.to_string(), "-n", "python3"]);
    command.args(words);
    command
}

#[track_caller]
fn nft(words: &[&str]) -> String {
    let mut command = Command::new("/usr/sbin/nft");
    command.args(words);
    let done = run(command);
    assert_eq!(done.code, 0, "{}", done.report());
    done.stdout
}

/// The table of family inet of a network.
fn inet_table(host: &Bulkhead, network: &str) -> Option<String> {
    let (tables, tag) = (nft(&["list", "tables"]), traces::tag(host.root()));
    let end = format!("{tag}.{network}");
    let mut names = tables
        .lines()
        .filter_map(|line| line.strip_prefix("table inet "));
    names.find(|name| name.ends_with(&end)).map(str::to_owned)
}

/// What a guest on `eth0` hears in a second, while something is done.
fn heard(host: &Bulkhead, guest: &str, act: impl FnOnce()) -> String {
    let mut command = in_network_of(host, guest, &["-c", HEARS, "1"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("nsenter");
    let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    said.read_line(&mut line).expect("a pipe");
    assert_eq!(line, "ready\n");
    act();
    let mut text = String::new();
    said.read_to_string(&mut text).expect("a pipe");
    assert!(child.wait().expect("a child").success());
    text
}

/// The last place of a packet's way, and whether it passes there.
fn trace(host: &Bulkhead, words: &[&str]) -> (String, bool) {
    let hops = data(host, &[&["network", "trace"][..], words].concat());
    let last = hops.as_array().unwrap().last().unwrap().clone();
    (last.to_string(), last["verdict"] != "stops")
}

fn closed(host: &Bulkhead, subnet: &str, more: &[&str]) {
    let words = [
        "network", "create", "lan", "--kind", "isolated", "--subnet", subnet,
    ];
    host.ok(&[&words[..], more].concat());
}

#[test]
fn guests_without_a_way_out_are_told_addresses_and_names_and_nothing_else() {
    if !need(Need::Root) {
        return;
    }
    own_network();
    let host = Bulkhead::new();
    // Whoever is asked what nobody here knows, if anybody is asked.
    let upstream = UdpSocket::bind("127.77.8.9:53").unwrap();
    settings(&host, "[network]\ndns = [\"127.77.8.9\"]\n");
    closed(&host, "10.203.8.0/24", &["--dhcp", "true", "--dns", "true"]);
    started(&host, "a", &["--network", "lan"]);
    started(&host, "b", &["--network", "lan"]);
    let said = inside(&host, "a", ASK);
    assert!(said.contains("lease of 10.203.8.2 obtained"), "{said}");
    assert!(said.contains("told=bound router= dns=10.203.8.1"), "{said}");
    assert!(!inside(&host, "a", "ip route").contains("default"));
    let look = |what: &str| host.run(&["exec", "a", "--", "nslookup", what]).stdout;
    let found = look("b.lan.internal");
    assert!(found.contains("Address: 10.203.8.3"), "{found}");
    assert!(look("10.203.8.3").contains("name = b.lan.internal"));
    // They reach each other, where the host's rules for what it passes on see that too (as it is with
    // Docker).
    std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "1").unwrap();
    inside(&host, "a", "ping -c 1 -W 1 10.203.8.3");
    let elsewhere = look("secret.out-of-here.example");
    assert!(!elsewhere.contains("Address: 1"), "{elsewhere}");
    upstream
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    upstream
        .recv_from(&mut [0; 512])
        .expect_err("nobody is asked");

    // Nothing else of the host's is there, at that address or another; said so as well.
    let open = TcpListener::bind("0.0.0.0:7708").unwrap();
    // Whoever calls is taken in, and let go.
    std::thread::spawn(move || open.incoming().for_each(drop));
    started(&host, "far", &[]);
    let way = data(&host, &["network", "info", "bridge"])["gateway"].clone();
    let calls = format!("nc -w 1 {} 7708 </dev/null", way.as_str().unwrap());
    inside(&host, "far", &calls);
    inside(&host, "a", "ip route add default via 10.203.8.1");
    for line in [
        "ping -c 1 -W 1 10.203.8.1",
        "nc -w 1 10.203.8.1 7708 </dev/null",
        &calls,
    ] {
        let done = host.run(&["exec", "a", "--", "sh", "-c", line]);
        assert_ne!(done.code, 0, "{line}: {}", done.report());
    }
    let (last, passes) = trace(&host, &["a", "udp", "10.203.8.1:53"]);
    assert!(passes, "{last}");
    let (last, passes) = trace(&host, &["a", "tcp", "10.203.8.1:7708"]);
    assert!(!passes && last.contains("dhcp and dns"), "{last}");

    // Guests of another network send by way of the host: nothing of it arrives.
    let send = |port: &str| {
        let words = ["-c", SENDS, "10.203.8.3", port];
        let done = run(in_network_of(&host, "far", &words));
        assert_eq!(done.code, 0, "{}", done.report());
    };
    let hears = heard(&host, "b", || send("7709"));
    assert!(!hears.contains("udp 7709"), "{hears}");
    // It would, but for one rule.
    let table = inet_table(&host, "lan").expect("a table");
    nft(&["flush", "chain", "inet", &table, "forward"]);
    let hears = heard(&host, "b", || send("7710"));
    assert!(hears.contains("udp 7710"), "{hears}");
    host.ok(&["network", "reload"]);

    // Nobody is told anything any more: the host has no address there.
    assert!(addresses(&host, "lan").contains("10.203.8.1/24"));
    host.ok(&["network", "set", "lan", "--dhcp", "false", "--dns", "false"]);
    assert_eq!(addresses(&host, "lan"), "");
    let table = inet_table(&host, "lan").expect("a table");
    let left = nft(&["list", "table", "inet", &table]);
    assert_eq!(left.matches("chain ").count(), 1, "{left}");
    let said = host.run(&["exec", "a", "--", "sh", "-c", ASK]).stdout;
    assert!(said.contains("no lease"), "{said}");
    host.ok(&["delete", "--all", "--force"]);
    host.ok(&["network", "delete", "lan"]);
    assert_eq!(leftovers(&host), [] as [String; 0]);
}

#[test]
fn a_command_that_dies_leaves_a_closed_network_that_can_be_mended() {
    if !need(Need::Root) {
        return;
    }
    own_network();
    let host = Bulkhead::new();
    closed(&host, "10.203.9.0/24", &[]);
    started(&host, "a", &["--network", "lan"]);
    for (off, on) in [("true", "false"), ("false", "true")] {
        // Before and after the record is written, and on the way to what it says.
        for number in [2, 4, 6, 9, 40] {
            host.ok(&["network", "set", "lan", "--dns", off]);
            let mut command = host.command(&["network", "set", "lan", "--dns", on]);
            command.env("BULKHEAD_FAULT", format!("command:{number}"));
            let died = run(command).code != 0;
            host.ok(&["doctor", "--fix"]);
            let left = || leftovers(&host);
            assert!(became(10, || left().is_empty()), "{number}: {:?}", left());
            let wanted = data(&host, &["network", "info", "lan"])["served"]["dns"] == true;
            let told = addresses(&host, "lan").contains("10.203.9.1/24");
            assert_eq!(told, wanted, "{on} {number}");
            if !died {
                break;
            }
        }
    }
    host.ok(&["delete", "--all", "--force"]);
    host.ok(&["network", "delete", "lan"]);
    assert_eq!(leftovers(&host), [] as [String; 0]);
}

#[test]
fn the_network_that_is_always_there_tells_what_the_settings_say() {
    if !need(Need::Root) {
        return;
    }
    own_network();
    let host = Bulkhead::new();
    for (text, says) in [
        ("ra = true", "network.prefix6"),
        ("names = true\ndomain = \"a/b\"", "no domain"),
    ] {
        settings(&host, &format!("[network]\n{text}\n"));
        let said = host.run(&["network", "list"]);
        assert!(
            said.code != 0 && said.stderr.contains(says),
            "{}",
            said.report()
        );
    }
    settings(&host, "");
    started(&host, "a", &[]);
    let keeper = || pid(&host, "network", "keeper");
    assert_eq!(keeper(), None);

    // From the next start of a guest on, also for those that run.
    let all = "[network]\ndhcp = true\nnames = true\ndomain = \"shop.example\"\n";
    settings(&host, all);
    started(&host, "b", &[]);
    let guests = data(&host, &["network", "info", "bridge"]);
    assert_eq!(guests["domain"], "shop.example", "{guests}");
    let address = |guest: &str| guests["guests"][guest].as_str().unwrap().to_owned();
    eventually("it serves", 10, || {
        pid(&host, "network", "program").is_some_and(lives)
    });
    let said = inside(&host, "a", ASK);
    let way = guests["gateway"].as_str().unwrap();
    assert!(said.contains(&format!("router={way} dns={way}")), "{said}");
    let look = |what: &str, at: &str| host.run(&["exec", "a", "--", "nslookup", what, at]).stdout;
    assert!(look("b.shop.example", way).contains(&address("b")));

    // Its keeper dies: doctor says so and mends it.
    let first = keeper().unwrap();
    let gone = rustix::process::Pid::from_raw(i32::try_from(first).unwrap()).unwrap();
    rustix::process::kill_process(gone, rustix::process::Signal::KILL).unwrap();
    assert!(became(10, || leftovers(&host) == ["network server"]));
    host.ok(&["doctor", "--fix"]);
    assert_eq!(leftovers(&host), [] as [String; 0]);

    // By `network reload` as well: names are told no more, addresses still.
    settings(&host, "[network]\ndhcp = true\n");
    host.ok(&["network", "reload"]);
    assert!(!look("b.shop.example", way).contains(&address("b")));
    let said = inside(&host, "a", ASK);
    assert!(
        said.contains(&format!("lease of {}", address("a"))),
        "{said}"
    );

    // And nobody serves when nothing is said, from the next start on.
    let last = keeper().unwrap();
    settings(&host, "");
    host.ok(&["restart", "b"]);
    assert!(!lives(last));
    assert_eq!(keeper(), None);
    assert_eq!(leftovers(&host), [] as [String; 0]);
    host.ok(&["delete", "--all", "--force"]);
    host.ok(&["doctor", "--fix"]);
}

#[test]
fn a_packet_is_followed_over_a_further_interface() {
    if !need(Need::Root) {
        return;
    }
    own_network();
    let host = Bulkhead::new();
    closed(&host, "10.203.10.0/24", &[]);
    started(&host, "a", &["--nic", "db=lan,address=10.203.10.5"]);
    started(
        &host,
        "b",
        &["--network", "lan", "--address", "10.203.10.6"],
    );
    let over = |words: &[&str]| trace(&host, &[&["a", "--nic", "db"][..], words].concat());
    for words in [
        &["icmp", "10.203.10.6"][..],
        &["in", "tcp", "10.203.10.6:80"],
    ] {
        let (last, passes) = over(words);
        assert!(passes, "{words:?}: {last}");
    }
    // Its own firewall, and its own link; the first interface is another matter.
    host.ok(&[
        "set",
        "a",
        "--nic",
        "db=lan,address=10.203.10.5,firewall=in drop",
    ]);
    let (last, passes) = over(&["in", "tcp", "10.203.10.6:80"]);
    assert!(!passes && last.contains("network.nic"), "{last}");
    inside(&host, "a", "ip link set db down");
    let (last, passes) = over(&["icmp", "10.203.10.6"]);
    assert!(!passes && last.contains("interface db is down"), "{last}");
    for first in [&["a"][..], &["a", "--nic", "eth0"]] {
        let hops = data(&host, &[&["network", "trace"][..], first].concat());
        assert!(hops.to_string().contains("eth0 is up"), "{hops}");
    }
    let (last, passes) = trace(&host, &["a", "--nic", "other"]);
    assert!(!passes && last.contains("bulkhead nic list a"), "{last}");
    let said = host.fails(&["network", "trace", "a", "--nic", "a/b"], 2);
    assert!(said.contains("a/b"), "{said}");
    host.ok(&["delete", "--all", "--force"]);
    host.ok(&["network", "delete", "lan"]);
    assert_eq!(leftovers(&host), [] as [String; 0]);
}
