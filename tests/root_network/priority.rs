//! Whose packets go first: what bands of queues go by, looked at where packets leave the host. What a
//! guest's root writes into its packets gets it before nobody.

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use crate::life::{data, info, started};
use crate::support::{Bulkhead, Need, need};
use crate::wires::{Namespace, WORLD, as_host, world};

fn nft(text: &str) -> String {
    let mut child = Command::new("nft");
    child.args(["-f", "-"]).stdin(Stdio::piped());
    let mut child = child.stdout(Stdio::piped()).spawn().expect("nft");
    let mut input = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut input, text.as_bytes()).expect("a pipe");
    drop(input);
    let done = child.wait_with_output().expect("nft");
    assert!(done.status.success(), "{text}");
    String::from_utf8(done.stdout).expect("text")
}

/// Begins to count what leaves by the uplink, by its place.
fn count() {
    let rule = |class: &str, name: &str| {
        format!("oifname \"uplink\" udp dport 9 meta priority {class} counter comment \"{name}\"\n")
    };
    nft(&format!(
        "add table inet looker\ndelete table inet looker\ntable inet looker {{ chain out {{ type filter hook postrouting priority 400;\n{}{}{}}}\n}}\n",
        rule("0:6", "high"),
        rule("none", "normal"),
        rule("0:2", "low"),
    ));
}

/// Which places five packets got that a guest's root sends.
fn places(host: &Bulkhead, guest: &str, tos: i32, priority: i32, to: &str) -> Vec<(String, u64)> {
    let pid = info(host, guest)["pid"].as_u64().expect("it runs");
    let inside = File::open(format!("/proc/{pid}/ns/net")).expect("its namespace");
    count();
    Namespace(inside).run(|| {
        let any = if to.contains(':') { "::" } else { "0.0.0.0" };
        let socket = UdpSocket::bind((any, 0)).expect("a socket");
        set(&socket, libc::IPPROTO_IP, libc::IP_TOS, tos);
        set(&socket, libc::SOL_SOCKET, libc::SO_PRIORITY, priority);
        for _ in 0..5 {
            socket.send_to(b"x", (to, 9)).expect("a way out");
        }
    });
    let listed = nft("list table inet looker\n");
    let line = |line: &str| {
        let count = line.split("counter packets ").nth(1)?;
        let count = count.split(' ').next()?.parse().ok()?;
        let name = line.split('"').nth(3)?.to_owned();
        (count > 0).then_some((name, count))
    };
    listed.lines().filter_map(line).collect()
}

fn set(socket: &UdpSocket, level: i32, option: i32, value: i32) {
    let size = libc::socklen_t::try_from(size_of::<i32>()).expect("four");
    let at = (&raw const value).cast();
    // SAFETY: value is there until the call is over, and is as long as it says.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, at, size) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

fn ip(args: &str) {
    let done = Command::new("ip").args(args.split(' ')).status();
    assert!(done.expect("ip").success(), "{args}");
}

fn only(place: &str) -> Vec<(String, u64)> {
    vec![(place.to_owned(), 5)]
}

/// IPTOS_LOWDELAY, for which the kernel has the first band.
const HURRY: i32 = 0x10;

#[test]
fn packets_leave_the_host_in_the_place_that_their_guest_has() {
    if !need(Need::Root) {
        return;
    }
    as_host(|| {
        let _world = world();
        ip("-6 addr add fd00:9::1/64 dev uplink nodad");
        ip("-6 neigh add fd00:9::2 lladdr 02:00:00:00:00:09 dev uplink");
        let host = Bulkhead::new();
        let shop = [
            "network", "create", "shop", "--kind", "routed", "--nat", "false",
        ];
        host.ok(&[&shop[..], &["--prefix6", "2001:db8:5::/64"]].concat());
        let world = WORLD.to_string();
        started(&host, "w", &[]);
        let of = |tos, priority| places(&host, "w", tos, priority, &world);
        assert_eq!(of(0, 0), only("normal"));
        // Its root asks for more, by both ways there are.
        assert_eq!(of(HURRY, 0), only("normal"));
        assert_eq!(of(0, 6), only("normal"));

        // Whoever runs the host says it, at once.
        for place in ["high", "low"] {
            host.ok(&["set", "w", "--network-priority", place]);
            assert_eq!(of(0, 0), only(place));
            assert_eq!(of(HURRY, 6), only(place));
        }
        assert_eq!(data(&host, &["doctor"])["leftovers"], serde_json::json!([]));
        // The firewall is flushed and made anew.
        host.ok(&["network", "reload"]);
        assert_eq!(of(HURRY, 6), only("low"));
        host.ok(&["set", "w", "--network-priority", "normal"]);
        assert_eq!(of(HURRY, 6), only("normal"));

        // Where no bridge is, and by IPv6, which the kernel leaves its place.
        started(&host, "v", &["--network", "shop"]);
        let of = |to: &str, tos, priority| places(&host, "v", tos, priority, to);
        for to in [&world, "fd00:9::2"] {
            assert_eq!(of(to, HURRY, 6), only("normal"), "{to}");
        }
        host.ok(&["set", "v", "network.priority=high"]);
        for to in [&world, "fd00:9::2"] {
            assert_eq!(of(to, 0, 0), only("high"), "{to}");
        }
        // It is of the guest, whichever interface it has.
        let only_this = ["--network", "none", "--nic", "out=shop"];
        started(
            &host,
            "u",
            &[&only_this[..], &["--network-priority", "low"]].concat(),
        );
        for to in [&world, "fd00:9::2"] {
            assert_eq!(places(&host, "u", 0, 0, to), only("low"), "{to}");
        }
    });
}

#[test]
fn places_hold_where_nothing_is_translated() {
    if !need(Need::Root) {
        return;
    }
    as_host(|| {
        let _world = world();
        let host = Bulkhead::new();
        let folder = host.root().join("etc/bulkhead");
        std::fs::create_dir_all(&folder).expect("a folder of ours");
        let settings = "[network]\nnat = false\n";
        std::fs::write(folder.join("bulkhead.toml"), settings).expect("a folder of ours");
        started(&host, "w", &["--network-priority", "low"]);
        let of = |tos, priority| places(&host, "w", tos, priority, &WORLD.to_string());
        assert_eq!(of(HURRY, 6), only("low"));
        host.ok(&["set", "w", "network.priority=normal"]);
        assert_eq!(of(HURRY, 6), only("normal"));
        assert_eq!(data(&host, &["doctor"])["leftovers"], serde_json::json!([]));
    });
}
