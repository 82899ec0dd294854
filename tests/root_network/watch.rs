//! `network watch`: what others take away of networks is put back while it runs, and Docker's firewall let
//! guests pass; both in network namespaces of the test's own.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::life::{data, made};
use crate::support;
use crate::support::{Bulkhead, Need, eventually, need};
use crate::wires::{WORLD, as_host, world};

/// As Docker has it, but for its own networks.
const DOCKER: &str = "add table ip filter
add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }
add chain ip filter DOCKER-USER
add rule ip filter FORWARD jump DOCKER-USER
add rule ip filter FORWARD oifname docker0 ct state established accept
add rule ip filter DOCKER-USER return";

fn nft(words: &str) -> String {
    let done = Command::new("nft").arg(words).output().unwrap();
    assert!(done.status.success(), "{words}: {done:?}");
    String::from_utf8(done.stdout).unwrap()
}

fn world_answers(host: &Bulkhead, guest: &str) -> bool {
    let to = WORLD.to_string();
    let ping = ["exec", guest, "--", "ping", "-c", "1", "-W", "1", &to];
    host.run(&ping).code == 0
}

fn tables() -> String {
    nft("list tables")
}

/// `network watch`, which ends with the test.
struct Watch(Child);

impl Watch {
    fn new(host: &Bulkhead) -> Self {
        let mut command = host.command(&["network", "watch"]);
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).unwrap();
        let _gone = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ended = self.0.wait();
    }
}

#[test]
fn what_others_take_away_is_put_back_while_it_runs() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let _world = world();
        let host = Bulkhead::new();
        host.ok(&["network", "create", "lan", "--kind", "isolated"]);
        made(&host, "a", &[]);
        made(&host, "b", &["--network", "lan"]);
        host.ok(&["start", "a", "b"]);
        let links = Command::new("ip").arg("link").output().unwrap();
        let links = String::from_utf8(links.stdout).unwrap();
        for whose in ["alias guest a eth0", "alias guest b eth0"] {
            assert!(links.contains(whose), "{links}");
        }
        let before = tables();
        assert_eq!(before.lines().count(), 4, "{before}");
        let _watch = Watch::new(&host);
        for gone in [
            "flush ruleset",
            &format!("delete {}", before.lines().next().unwrap()),
        ] {
            nft(gone);
            eventually(gone, 20, || {
                tables().lines().count() == before.lines().count()
            });
            assert!(world_answers(&host, "a"), "{gone}");
        }
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        eventually("forwarding", 20, || {
            std::fs::read("/proc/sys/net/ipv4/ip_forward").unwrap() == b"1\n"
        });
        let twice = host.run(&["network", "watch"]);
        assert_eq!(twice.code, 4, "{}", twice.stderr);
        assert!(twice.stderr.contains("already"), "{}", twice.stderr);
    });
}

#[test]
fn dockers_firewall_lets_guests_pass_and_is_left_as_it_was() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let _world = world();
        let host = Bulkhead::new();
        made(&host, "a", &[]);
        host.ok(&["start", "a"]);
        assert!(world_answers(&host, "a"));
        nft(DOCKER);
        assert!(
            !world_answers(&host, "a"),
            "the test's own rules shut nothing"
        );
        // Named, and mended when somebody asks for it.
        let told = host.run(&["doctor"]);
        assert!(told.stdout.contains("shut firewall"), "{}", told.stdout);
        host.run(&["doctor", "--fix"]);
        assert!(world_answers(&host, "a"));
        let rules = nft("list chain ip filter DOCKER-USER");
        assert_eq!(rules.matches("accept").count(), 3, "{rules}");
        assert_eq!(rules.matches("uplink").count(), 2, "{rules}");
        let told = host.run(&["doctor"]);
        assert!(!told.stdout.contains("shut firewall"), "{}", told.stdout);
        // By itself, as Docker comes again.
        nft("delete table ip filter");
        let watch = Watch::new(&host);
        nft(DOCKER);
        eventually("Docker's firewall", 20, || world_answers(&host, "a"));
        drop(watch);
        // A policy of somebody else's is opened only if asked for, at its head.
        nft("flush chain ip filter FORWARD");
        nft("flush chain ip filter DOCKER-USER");
        nft("delete chain ip filter DOCKER-USER");
        let watch = Watch::new(&host);
        nft("add rule ip filter FORWARD iifname other accept");
        std::thread::sleep(Duration::from_millis(500));
        drop(watch);
        assert!(!world_answers(&host, "a"));
        host.run(&["doctor", "--fix"]);
        assert!(world_answers(&host, "a"));
        // It goes with the network.
        host.ok(&["kill", "a"]);
        host.ok(&["delete", "--force", "--yes", "a"]);
        host.run(&["doctor", "--fix"]);
        let rules = nft("list chain ip filter FORWARD");
        assert!(!rules.contains("guests of"), "{rules}");
    });
}

#[test]
fn a_firewall_is_open_or_named_wherever_opening_it_is_killed_and_closed_with_the_network() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let _world = world();
        let host = Bulkhead::new();
        let shut = || host.run(&["doctor"]).stdout.contains("shut firewall");
        let ours = || {
            let rules = nft("list chain ip filter DOCKER-USER");
            rules.matches("guests of").count()
        };
        let killed = |words: &[&str], number: usize| {
            let mut command = host.command(words);
            command.env("BULKHEAD_FAULT", format!("command:{number}"));
            support::run(command).code == 0
        };
        made(&host, "a", &["--start"]);
        nft(DOCKER);
        for number in 0.. {
            assert!(shut(), "{number}");
            let done = killed(&["doctor", "--fix"], number);
            assert_eq!(shut(), ours() == 0, "{number}");
            host.run(&["doctor", "--fix"]);
            assert!(!shut(), "{number}");
            assert_eq!(ours(), 3, "{number}");
            if done {
                assert!(number >= 2, "{number} points");
                break;
            }
            nft("flush chain ip filter DOCKER-USER");
        }
        // With its last guest the network goes, by whoever looks next.
        for number in 0.. {
            host.ok(&["delete", "--force", "--yes", "a"]);
            let done = killed(&["doctor", "--fix"], number);
            host.run(&["doctor", "--fix"]);
            assert_eq!(ours(), 0, "{number}");
            if done {
                assert!(number >= 2, "{number} points");
                break;
            }
            made(&host, "a", &["--start"]);
            host.run(&["doctor", "--fix"]);
            assert_eq!(ours(), 3, "{number}");
        }
    });
}

/// Of the host's own end: addresses and routes, which an interface that is set down loses.
#[test]
fn the_hosts_way_to_guests_comes_back() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let _world = world();
        let host = Bulkhead::new();
        let mut broken = Vec::new();
        for (guest, kind, pool, six) in [
            ("a", "bridge", "10.78.1", "fd78:0:0:1::"),
            ("b", "routed", "10.78.2", "fd78:0:0:2::"),
            // Where nothing of IPv6 wakes anybody.
            ("c", "routed", "10.78.3", ""),
        ] {
            let (subnet, prefix) = (format!("{pool}.0/24"), format!("{six}/64"));
            let create = ["network", "create", guest, "--kind", kind];
            let create = [&create[..], &["--subnet", &subnet]].concat();
            match six {
                "" => host.ok(&create),
                _ => host.ok(&[&create[..], &["--prefix6", &prefix]].concat()),
            };
            made(&host, guest, &["--network", guest, "--start"]);
            let list = data(&host, &["nic", "list", guest]);
            let end = list[0]["host_interface"].as_str().unwrap().to_owned();
            let bridge = data(&host, &["network", "info", guest])["bridge"].clone();
            let bridge = bridge.as_str().unwrap().to_owned();
            let mut hosts = vec![format!("{pool}.1"), format!("{six}1")];
            hosts.retain(|host| host != "1");
            let down_and_up =
                |name: &str| format!("ip link set {name} down; ip link set {name} up");
            if six.is_empty() {
                broken.push((guest, hosts, down_and_up(&end), "route"));
                continue;
            }
            if kind == "routed" {
                broken.push((
                    guest,
                    hosts.clone(),
                    format!("ip route del {pool}.2"),
                    "route",
                ));
                broken.push((guest, hosts.clone(), down_and_up(&end), "route"));
            }
            let lost = "bridge without its address";
            if kind == "bridge" {
                let down = format!("ip link set {bridge} down");
                broken.push((guest, hosts.clone(), down, "bridge that is down"));
                broken.push((guest, hosts.clone(), down_and_up(&bridge), lost));
            }
            let flush = format!("ip addr flush dev {bridge} scope global");
            broken.push((guest, hosts, flush, lost));
        }
        let reached = |guest: &str, hosts: &[String]| {
            let ping = |to: &String| {
                ["exec", guest, "--", "ping", "-c", "1", "-W", "1", to].map(str::to_owned)
            };
            let ping = |to| host.run(&ping(to).each_ref().map(String::as_str)).code == 0;
            hosts.iter().all(ping)
        };
        let breaks = |line: &str| {
            let done = Command::new("sh").args(["-c", line]).status().unwrap();
            assert!(done.success(), "{line}");
        };
        for (guest, hosts, line, what) in &broken {
            breaks(line);
            let told = host.run(&["doctor"]);
            assert!(told.stdout.contains(what), "{line}: {}", told.stdout);
            host.run(&["doctor", "--fix"]);
            eventually(line, 20, || reached(guest, hosts));
        }
        let left = host.run(&["doctor"]);
        assert_eq!(left.code, 0, "{}", left.stdout);
        let _watch = Watch::new(&host);
        let some = broken.iter().enumerate();
        let some = some.filter(|(at, (guest, ..))| at % 2 == 1 || *guest == "c");
        for (_, (guest, hosts, line, _)) in some {
            breaks(line);
            eventually(line, 20, || reached(guest, hosts));
        }
    });
}
