//! IPv6 of guests: addresses that are there at once, the way to neighbours, out and in; what a hostile
//! root can make its neighbours believe; hosts without it. The frames are in `hostile/frames6.pl`.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{Bulkhead, Need, need};
use crate::wires::{
    Installation, Namespace, as_host, guest, guest_with, own_namespace, without_nat, world,
};
use crate::{support, traces, wires};
use bulkhead::kernel::netlink::Netlink;
use bulkhead::model::NetworkWish;
use bulkhead::network::{Kind, Lease, Network, NetworkSettings, NewNetwork};
use serde_json::Value;

const FRAMES: &str = include_str!("../hostile/frames6.pl");
const PRIVATE: &str = "fd42:1:2:3::/64";
const GLOBAL: &str = "2001:db8:7::/64";
const BRIEFLY: Duration = Duration::from_millis(700);
const LONG: Duration = Duration::from_secs(5);
const HOST_OUTSIDE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
const WORLD: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);

fn with_prefix(prefix: &str) -> NetworkSettings {
    NetworkSettings {
        prefix6: Some(prefix.parse().unwrap()),
        ..NetworkSettings::default()
    }
}

fn address(lease: &Lease) -> Ipv6Addr {
    lease.ipv6.as_ref().expect("IPv6").address
}

/// The world outside with IPv6: the host has its default route there.
fn world6() -> Namespace {
    let world = world();
    let mut kernel = Netlink::open().unwrap();
    kernel.add_address6("uplink", HOST_OUTSIDE, 64).unwrap();
    world.run(|| {
        let mut kernel = Netlink::open().unwrap();
        kernel.add_address6("wire", WORLD, 64).unwrap();
    });
    let all = (Ipv6Addr::UNSPECIFIED, 0);
    kernel.lead_to6(all, "uplink", Some(WORLD)).unwrap();
    world
}

/// The address a server in `server` sees when `client` connects to `address`.
fn seen(
    client: &Namespace,
    server: &Namespace,
    address: Ipv6Addr,
    patience: Duration,
) -> std::io::Result<IpAddr> {
    let listener = server.run(|| TcpListener::bind((address, 0)).unwrap());
    let target = SocketAddr::from((address, listener.local_addr().unwrap().port()));
    let mut stream = client.run(|| TcpStream::connect_timeout(&target, patience))?;
    let (mut accepted, from) = listener.accept()?;
    stream.write_all(b"hello")?;
    drop(stream);
    let mut text = String::new();
    accepted.read_to_string(&mut text)?;
    assert_eq!(text, "hello");
    Ok(from.ip())
}

fn sysctl(name: &str) -> String {
    let path = format!("/proc/sys/net/ipv6/conf/{name}");
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

fn set_sysctl(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}"), value).unwrap();
}

fn named(usual: &Network, text: &str, kind: Kind, prefix: &str, nat: Option<bool>) -> Network {
    let new = NewNetwork {
        prefix6: Some(prefix.parse().unwrap()),
        nat,
        ..wires::new_network(text, kind)
    };
    usual.create(&new).unwrap();
    usual.load(&new.name).unwrap()
}

#[test]
fn a_private_prefix_goes_out_under_the_hosts_address() {
    as_host(|| {
        let (here, world) = (own_namespace(), world6());
        let installation = Installation::new();
        let network = installation.network(with_prefix(PRIVATE));
        let (a, lease_a) = guest(&network, "a");
        let (b, lease_b) = guest(&network, "b");
        assert_eq!(address(&lease_a).to_string(), "fd42:1:2:3::2");
        let gateway: Ipv6Addr = "fd42:1:2:3::1".parse().unwrap();
        assert_eq!(
            seen(&a, &b, address(&lease_b), LONG).unwrap(),
            address(&lease_a)
        );
        assert_eq!(seen(&here, &a, address(&lease_a), LONG).unwrap(), gateway);
        assert_eq!(seen(&a, &here, gateway, LONG).unwrap(), address(&lease_a));
        assert_eq!(seen(&a, &world, WORLD, LONG).unwrap(), HOST_OUTSIDE);
        // A neighbour of the host that routes there by itself does not get in.
        let to = (PRIVATE[..12].parse().unwrap(), 64);
        world.run(|| {
            let mut kernel = Netlink::open().unwrap();
            kernel.lead_to6(to, "wire", Some(HOST_OUTSIDE)).unwrap();
        });
        let error = seen(&world, &a, address(&lease_a), BRIEFLY).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        // IPv6 is in the account by itself.
        let before = network.counters(&lease_a).unwrap().unwrap().traffic;
        seen(&a, &b, address(&lease_b), LONG).unwrap();
        let after = network.counters(&lease_a).unwrap().unwrap().traffic;
        assert!(before.external.sent_ipv6.packets > 0, "with the world");
        let (now, then) = (after.internal, before.internal);
        assert!(now.sent_ipv6.bytes > then.sent_ipv6.bytes);
        assert!(now.received_ipv6.bytes > then.received_ipv6.bytes);
        assert_eq!(now.sent_ipv4, then.sent_ipv4);
        assert_eq!(after.external, before.external);
    });
}

#[test]
fn a_port_of_the_host_leads_to_a_guest_by_both() {
    as_host(|| {
        let (here, world) = (own_namespace(), world6());
        for prefix in [PRIVATE, GLOBAL] {
            let installation = Installation::new();
            let network = installation.network(with_prefix(prefix));
            let wish = NetworkWish {
                forwards: vec!["8080:80".parse().unwrap()],
                ..NetworkWish::default()
            };
            let (a, _) = guest(&network, "a");
            let (b, lease_b) = guest_with(&network, "b", &wish);
            let gateway = lease_b.ipv6.as_ref().unwrap().gateway.unwrap();
            let server = b.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80)).unwrap());
            let host: IpAddr = HOST_OUTSIDE.into();
            for (from, to, seen) in [
                (&world, host, IpAddr::from(WORLD)),
                (&world, wires::HOST_OUTSIDE.into(), wires::WORLD.into()),
                (&a, host, gateway.into()),
                (&a, gateway.into(), gateway.into()),
                (&b, host, gateway.into()),
                (&here, host, host),
            ] {
                from.run(|| TcpStream::connect_timeout(&(to, 8080).into(), LONG))
                    .unwrap();
                let from = server.accept().unwrap().1.ip().to_canonical();
                assert_eq!(from, seen, "{prefix} to {to}");
            }
            // By the book, and gone with it.
            assert_eq!(network.stale_entries().unwrap(), []);
            network
                .follow(&wires::name("b"), &NetworkWish::default())
                .unwrap();
            let refused = world.run(|| TcpStream::connect_timeout(&(host, 8080).into(), LONG));
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
            drop((a, b));
        }
    });
}

#[test]
fn a_prefix_of_the_world_is_reached_from_there() {
    as_host(|| {
        let world = world6();
        let installation = Installation::new();
        let usual = installation.network(without_nat());
        for (text, kind, nat) in [
            ("lan", Kind::Bridge, None),
            ("shop", Kind::Routed, None),
            ("open", Kind::Routed, Some(false)),
        ] {
            let network = named(&usual, text, kind, GLOBAL, nat);
            let (a, lease_a) = guest(&network, "a");
            let (b, lease_b) = guest(&network, "b");
            assert_eq!(
                seen(&a, &b, address(&lease_b), LONG).unwrap(),
                address(&lease_a),
                "{text}"
            );
            let to = ("2001:db8:7::".parse().unwrap(), 64);
            world.run(|| {
                let mut kernel = Netlink::open().unwrap();
                kernel.lead_to6(to, "wire", Some(HOST_OUTSIDE)).unwrap();
            });
            assert_eq!(
                seen(&a, &world, WORLD, LONG).unwrap(),
                address(&lease_a),
                "{text}"
            );
            assert_eq!(
                seen(&world, &a, address(&lease_a), LONG).unwrap(),
                WORLD,
                "{text}"
            );
            drop((a, b));
            for name in ["a", "b"] {
                network.release(&wires::name(name)).unwrap();
            }
            for lease in [&lease_a, &lease_b] {
                network.teardown_guest(lease).unwrap();
            }
            usual.delete(&text.parse().unwrap(), &[]).unwrap();
        }
    });
}

#[test]
fn guests_of_an_isolated_network_have_each_other() {
    as_host(|| {
        let installation = Installation::new();
        let usual = installation.network(without_nat());
        let lan = named(&usual, "lan", Kind::Isolated, PRIVATE, None);
        let (a, lease_a) = guest(&lan, "a");
        let (b, lease_b) = guest(&lan, "b");
        assert_eq!(
            seen(&a, &b, address(&lease_b), LONG).unwrap(),
            address(&lease_a)
        );
        assert_eq!(lease_b.ipv6.as_ref().unwrap().gateway, None);
        assert_eq!(sysctl(&format!("{}/disable_ipv6", lan.bridge())), "1");
        assert_eq!(sysctl("all/forwarding"), "0");
    });
}

#[test]
fn an_uplink_that_lives_on_advertisements_goes_on_with_them() {
    as_host(|| {
        let _world = world6();
        set_sysctl("uplink/accept_ra", "1");
        let installation = Installation::new();
        let other = Installation::new();
        let network = installation.network(with_prefix(PRIVATE));
        let second = other.network(with_prefix("fd42:1:2:4::/64"));
        network.ensure_host().unwrap();
        second.ensure_host().unwrap();
        let all = || (sysctl("all/forwarding"), sysctl("uplink/accept_ra"));
        let of = |forwarding: &str, accept: &str| (forwarding.to_owned(), accept.to_owned());
        assert_eq!(all(), of("1", "2"));
        // Somebody turned it off; the next start puts it back.
        set_sysctl("all/forwarding", "0");
        network.ensure_host().unwrap();
        assert_eq!(all(), of("1", "2"));
        network.remove_host().unwrap();
        assert_eq!(all(), of("1", "2"), "another installation needs it");
        second.remove_host().unwrap();
        assert_eq!(all(), of("0", "1"));
    });
}

#[test]
fn a_host_without_ipv6_has_guests_with_ipv4() {
    as_host(|| {
        set_sysctl("all/disable_ipv6", "1");
        let installation = Installation::new();
        let network = installation.network(with_prefix(PRIVATE));
        assert_eq!(network.missed_prefix6().unwrap().to_string(), PRIVATE);
        let (a, lease_a) = guest(&network, "a");
        let (b, lease_b) = guest(&network, "b");
        assert_eq!((&lease_a.ipv6, &lease_b.ipv6), (&None, &None));
        assert_eq!(
            wires::seen_from(&a, &b, lease_b.address).unwrap(),
            lease_a.address
        );
        let new = NewNetwork {
            prefix6: Some(GLOBAL.parse().unwrap()),
            ..wires::new_network("lan", Kind::Bridge)
        };
        let error = network.create(&new).unwrap_err().to_string();
        assert!(error.contains("this host has no IPv6"), "{error}");
    });
}

#[test]
fn a_prefix_that_is_somebody_elses_is_refused() {
    as_host(|| {
        let _world = world6();
        let installation = Installation::new();
        let usual = installation.network(with_prefix(PRIVATE));
        let new = |prefix: &str| NewNetwork {
            prefix6: Some(prefix.parse().unwrap()),
            ..wires::new_network("lan", Kind::Bridge)
        };
        for (prefix, part) in [
            (PRIVATE, "meets fd42:1:2:3::/64 of the network bridge"),
            ("fd42:1:2:3:4::/80", "meets fd42:1:2:3::/64"),
            ("2001:db8:1::/64", "routes 2001:db8:1::/64 elsewhere"),
            ("2001:db8:1::/112", "routes 2001:db8:1::"),
        ] {
            let error = usual.create(&new(prefix)).unwrap_err().to_string();
            assert!(error.contains(part), "{prefix}: {error}");
        }
        assert_eq!(usual.names().unwrap(), []);
        usual.create(&new(GLOBAL)).unwrap();
    });
}

#[test]
fn connections_of_ipv6_have_a_ceiling_too() {
    as_host(|| {
        let world = world6();
        let installation = Installation::new();
        let network = installation.network(NetworkSettings {
            connections: Some(3),
            ..with_prefix(PRIVATE)
        });
        let (a, _) = guest_with(&network, "a", &NetworkWish::default());
        let server = world.run(|| TcpListener::bind((WORLD, 0)).unwrap());
        let target = SocketAddr::from((WORLD, server.local_addr().unwrap().port()));
        let connect = |patience| a.run(|| TcpStream::connect_timeout(&target, patience));
        let kept: Vec<_> = (0..3).map(|_| connect(LONG).unwrap()).collect();
        assert_eq!(connect(BRIEFLY).unwrap_err().kind(), ErrorKind::TimedOut);
        drop(kept);
    });
}

#[test]
fn a_guests_rules_hold_for_ipv6() {
    as_host(|| {
        let world = world6();
        let installation = Installation::new();
        let network = installation.network(with_prefix(PRIVATE));
        let (a, lease_a) = guest(&network, "a");
        let (b, _) = guest(&network, "b");
        let (c, _) = guest(&network, "c");
        let follow = |rules: &[&str]| {
            let wish = NetworkWish {
                firewall: rules.iter().map(|text| text.parse().unwrap()).collect(),
                ..NetworkWish::default()
            };
            network.follow(&wires::name("a"), &wish).unwrap();
        };
        let patience = |passes: bool| if passes { LONG } else { BRIEFLY };
        let to_a = |from: &Namespace, passes| {
            let done = seen(from, &a, address(&lease_a), patience(passes));
            assert_eq!(done.is_ok(), passes, "{done:?}");
        };
        let out = |passes| {
            let done = seen(&a, &world, WORLD, patience(passes));
            assert_eq!(done.is_ok(), passes, "{done:?}");
        };
        let all = |from_b, from_c, to_world| {
            to_a(&b, from_b);
            to_a(&c, from_c);
            out(to_world);
        };
        all(true, true, true);
        // A rule without an address is for both.
        follow(&["in drop"]);
        all(false, false, true);
        follow(&["in accept tcp from fd42:1:2:3::3", "in drop"]);
        all(true, false, true);
        follow(&["in drop from 0.0.0.0/1", "out drop tcp to 2001:db8:1::/64"]);
        all(true, true, false);
        // Answers by UDP pass, questions do not.
        follow(&["in drop"]);
        let socket = |at: &Namespace| {
            let socket = at.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap());
            socket.set_read_timeout(Some(BRIEFLY)).unwrap();
            let port = socket.local_addr().unwrap().port();
            (socket, port)
        };
        let ((asks, port), (world, there)) = (socket(&a), socket(&world));
        asks.send_to(b"?", (WORLD, there)).unwrap();
        let from = world.recv_from(&mut [0; 9]).unwrap().1;
        world.send_to(b"!", from).unwrap();
        assert_eq!(asks.recv_from(&mut [0; 9]).unwrap().0, 1);
        let (stranger, _) = socket(&b);
        stranger.send_to(b"?", (address(&lease_a), port)).unwrap();
        asks.recv_from(&mut [0; 9]).unwrap_err();
        // One whose allowance is used up has nothing at all.
        follow(&["in drop", "out drop"]);
        all(false, false, false);
        follow(&[]);
        all(true, true, true);
    });
}

/// A guest as the frames name it: its IPv6 address and its hardware address.
fn who(bulkhead: &Bulkhead, name: &str) -> String {
    let info = bulkhead.ok(&["info", name, "--format", "json"]);
    let info: Value = serde_json::from_str(&info).expect("JSON");
    let [four, six] = ["address", "address6"].map(|key| info[key].as_str().expect("an address"));
    format!("{six},{}", hardware(four))
}

fn hardware(address: &str) -> String {
    let numbers = address
        .split('.')
        .map(|n| n.parse::<u8>().expect("a number"));
    let parts: Vec<String> = numbers.map(|n| format!("{n:02x}")).collect();
    format!("02:62:{}", parts.join(":"))
}

/// A prefix of this test's own: these are on the machine's own network. Without its length.
fn own_prefix(number: u16) -> String {
    let process = std::process::id() & 0xffff;
    format!("fd42:{process:x}:{number:x}::")
}

fn frames(bulkhead: &Bulkhead, verb: &[&str], [at, peer, other]: [&str; 3]) -> Command {
    let view = bulkhead.ok(&["network", "info", "lan", "--format", "json"]);
    let view: Value = serde_json::from_str(&view).expect("JSON");
    let four = view["subnet"].as_str().expect("a pool");
    let four = four.replace(".0/24", ".1");
    let six = view["prefix6"].as_str().expect("a prefix");
    let gateway = six.replace("/64", "1");
    let mut command = bulkhead.command(&["exec", at, "--"]);
    command.args(["perl", "-e", FRAMES]).args(verb);
    command.args([at, peer, other].map(|name| who(bulkhead, name)));
    command.arg(format!("{gateway},{}", hardware(&four)));
    command
}

/// What arrives in the second guest when the first does this.
fn arrived(bulkhead: &Bulkhead, verb: &str, all: [&str; 3]) -> Vec<String> {
    let [at, peer, _] = all;
    let mut watch = frames(bulkhead, &["watch"], [peer, at, at]);
    watch.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = watch.spawn().expect("the program runs");
    let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    said.read_line(&mut line).expect("a pipe");
    assert_eq!(line, "ready\n");
    for verb in [&[verb][..], &["plain", "end"]] {
        let outcome = support::run(frames(bulkhead, verb, all));
        assert_eq!(outcome.code, 0, "{verb:?}: {}", outcome.report());
    }
    let mut text = String::new();
    said.read_to_string(&mut text).expect("a pipe");
    assert!(child.wait().expect("a child").success());
    let text = text.strip_suffix("end\n").expect("the last mark");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_guest_speaks_only_for_its_own_addresses() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = Bulkhead::new();
    let prefix = format!("{}/64", own_prefix(1));
    bulkhead.ok(&["network", "create", "lan", "--prefix6", &prefix]);
    for name in ["evil", "victim", "other"] {
        let create = ["create", name, "--template", "host", "--network", "lan"];
        bulkhead.ok(&[&create[..], &["--start", "--init", "/bin/sleep 86400"]].concat());
    }
    let all = ["evil", "victim", "other"];
    let honest: Vec<&str> = [
        "packet",
        "multicast",
        "honest-135",
        "honest-136",
        "honest-136",
    ]
    .repeat(2);
    assert_eq!(arrived(&bulkhead, "forge", all), [""; 0]);
    assert_eq!(arrived(&bulkhead, "honest", all), honest);
    // As a reload of the host's own firewall does.
    let table = format!("bulkhead-{}.lan", traces::tag(bulkhead.root()));
    nft(&["delete", "table", "bridge", &table]);
    bulkhead.ok(&["network", "reload"]);
    assert_eq!(arrived(&bulkhead, "forge", all), [""; 0]);
    assert_eq!(arrived(&bulkhead, "honest", all), honest);
    // It is the rules that keep it out.
    nft(&["flush", "chain", "bridge", &table, "guard"]);
    let open = arrived(&bulkhead, "forge", all);
    for name in [
        "forged-135",
        "forged-136",
        "ip6-other",
        "ip6-wholly-other",
        "ip6-foreign-hardware",
        "ip6-nobody",
        "ip6-world",
        "router-advertisement",
        "router-solicitation",
        "redirect",
        "listener-query",
        "listener-report",
        "advertisement-behind-options",
        "advertisement-cut-up",
        "dhcp6-server",
        "dhcp6-other-port",
        "tagged-ip6",
    ] {
        assert!(open.iter().any(|seen| seen == name), "{name}: {open:?}");
    }
    assert!(
        open.iter()
            .filter(|seen| seen.starts_with("forged-"))
            .count()
            == 21,
        "{open:?}"
    );
}

fn nft(words: &[&str]) {
    let done = Command::new("/usr/sbin/nft")
        .args(words)
        .output()
        .expect("nft");
    assert!(done.status.success(), "{words:?}: {done:?}");
}

#[test]
fn a_started_guest_has_ipv6_at_once_and_in_its_files() {
    if !need(Need::Root) {
        return;
    }
    for (number, kind) in [(2, "bridge"), (3, "routed")] {
        let bulkhead = Bulkhead::new();
        let net = own_prefix(number);
        let create = ["network", "create", "lan", "--kind", kind];
        bulkhead.ok(&[&create[..], &["--prefix6", &format!("{net}/64")]].concat());
        for name in ["web", "db"] {
            let create = ["create", name, "--template", "host", "--network", "lan"];
            bulkhead.ok(&[&create[..], &["--start", "--init", "/bin/sleep 86400"]].concat());
        }
        let web = |words: &[&str]| bulkhead.ok(&[&["exec", "web", "--"], words].concat());
        let addresses = web(&["ip", "-6", "address", "show", "dev", "eth0"]);
        let length = if kind == "routed" { 128 } else { 64 };
        let own = format!("inet6 {net}2/{length}");
        assert!(addresses.contains(&own), "{addresses}");
        assert!(!addresses.contains("tentative"), "{addresses}");
        let setting = web(&["cat", "/proc/sys/net/ipv6/conf/eth0/accept_ra"]);
        assert_eq!(setting.trim(), "0");
        let hosts = web(&["cat", "/etc/hosts"]);
        assert!(hosts.contains(&format!("{net}2 web\n")), "{hosts}");
        let names = || web(&["cat", "/etc/hosts"]).contains(&format!("{net}3 db\n"));
        support::eventually("the neighbour's name", 10, names);
        let reach = "socket(my $s, 10, 1, 0) or die; connect($s, \
                     Socket::pack_sockaddr_in6(1, Socket::inet_pton(10, shift))); print 0 + $!";
        let refused = (nix::errno::Errno::ECONNREFUSED as i32).to_string();
        for to in [format!("{net}3"), format!("{net}1")] {
            let answer = web(&["perl", "-MSocket", "-e", reach, &to]);
            assert_eq!(answer, refused, "{kind} {to}");
        }
        assert!(bulkhead.ok(&["info", "web"]).contains(&format!("{net}2")));
        let view = bulkhead.ok(&["network", "info", "lan"]);
        assert!(view.contains(&format!("prefix6    {net}/64")), "{view}");
        assert!(view.contains(&format!("{net}3")), "{view}");
    }
}

/// A network gets its prefix later, by choice or by chance, and loses it again.
#[test]
fn a_prefix_is_given_to_a_network_that_is_there() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = Bulkhead::new();
    for kind in ["bridge", "routed", "isolated"] {
        let (net, web) = (format!("lan-{kind}"), format!("web-{kind}"));
        bulkhead.ok(&["network", "create", &net, "--kind", kind]);
        let create = ["create", &web, "--template", "busybox", "--network", &net];
        bulkhead.ok(&[&create[..], &["--start"]].concat());
        let info = |net: &str| {
            let text = bulkhead.ok(&["network", "info", net, "--format", "json"]);
            serde_json::from_str::<Value>(&text).expect("JSON")
        };
        let set = |prefix: &str| bulkhead.run(&["network", "set", &net, "--prefix6", prefix]);
        let busy = set("auto");
        assert!(
            busy.code != 0 && busy.stderr.contains("stop the guests"),
            "{}",
            busy.report()
        );
        assert_eq!(info(&net)["prefix6"], Value::Null);
        bulkhead.ok(&["kill", &web]);
        support::eventually("it is off", 20, || set("auto").code == 0);
        let chosen = info(&net)["prefix6"].as_str().expect("a prefix").to_owned();
        assert!(
            chosen.starts_with("fd") && chosen.ends_with("::/64"),
            "{chosen}"
        );
        bulkhead.ok(&["start", &web]);
        let inside = |file: &str| bulkhead.ok(&["exec", &web, "--", "cat", file]);
        let second = bulkhead.ok(&["info", &web, "--format", "json"]);
        let second: Value = serde_json::from_str(&second).expect("JSON");
        let address: Ipv6Addr = second["address6"].as_str().unwrap().parse().unwrap();
        let digits = format!("{:032x}", address.to_bits());
        assert!(inside("/proc/net/if_inet6").contains(&digits), "{address}");
        bulkhead.ok(&["kill", &web]);
        // What another network has it cannot have, and what is none is refused.
        let other = format!("{net}-two");
        let taken = ["network", "create", &other, "--prefix6", &chosen];
        let said = bulkhead.run(&taken);
        assert!(
            said.code != 0 && said.stderr.contains("meets"),
            "{}",
            said.report()
        );
        assert_eq!(set("fd42::1/64").code, 2);
        support::eventually("it is off again", 20, || set("none").code == 0);
        bulkhead.ok(&["start", &web]);
        assert!(!inside("/proc/net/if_inet6").contains(&digits), "{address}");
        bulkhead.ok(&["kill", &web]);
    }
}

/// One that was chosen is a guest's own wherever the other is: inside, in files, in the firewall, over
/// restarts, and for an interface that is plugged in.
#[test]
fn an_address_is_chosen() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = Bulkhead::new();
    let (net, second) = (own_prefix(4), own_prefix(5));
    for (name, net) in [("lan", &net), ("back", &second)] {
        bulkhead.ok(&["network", "create", name, "--prefix6", &format!("{net}/64")]);
    }
    let at = |n: &str| format!("{net}{n}");
    let create = |name: &str, flags: &[&str]| {
        let usual = ["create", name, "--template", "busybox", "--network", "lan"];
        bulkhead.run(&[&usual[..], flags].concat())
    };
    let chosen = create("web", &["--address6", &at("80"), "--start"]);
    assert_eq!(chosen.code, 0, "{}", chosen.report());
    assert_eq!(create("db", &["--address6", &at("4"), "--start"]).code, 0);
    // The next would have the address that follows from 4.
    assert_eq!(create("app", &["--start"]).code, 0);
    let shown = |name: &str| {
        let text = bulkhead.ok(&["info", name, "--format", "json"]);
        serde_json::from_str::<Value>(&text).expect("JSON")["address6"].clone()
    };
    assert_eq!([shown("web"), shown("app")], [at("80"), at("5")]);
    let inside = |name: &str, line: &str| bulkhead.run(&["exec", name, "--", "sh", "-c", line]);
    let addresses = |name: &str| inside(name, "ip -6 addr; cat /etc/hosts").stdout;
    for (guest, own) in [("web", at("80")), ("db", at("4")), ("app", at("5"))] {
        let text = addresses(guest);
        assert!(text.contains(&format!("inet6 {own}/64")), "{text}");
        assert!(text.contains(&format!("{own} {guest}\n")), "{text}");
    }
    let reaches = |from: &str, to: &str| inside(from, &format!("ping -c 1 -W 1 {to}")).code == 0;
    assert!(reaches("web", &at("4")) && reaches("db", &at("80")) && reaches("app", &at("80")));
    // It is held to it: not even the one that would follow is its own.
    let forged = format!(
        "ip addr add {0}/64 dev eth0 nodad; ping -c 1 -W 1 -I {0} {1}",
        at("2"),
        at("4")
    );
    assert_ne!(inside("web", &forged).code, 0, "a forged address");
    bulkhead.ok(&["restart", "web"]);
    assert!(addresses("web").contains(&at("80")) && reaches("app", &at("80")));

    for (address, why) in [
        (at("80"), "web has it"),
        (at("5"), "app has it"),
        (at("1"), "the host's own, the gateway"),
        (second.clone() + "9", "outside the prefix"),
        ("fe80::5".to_owned(), "cannot be the address"),
        ("10.1.2.3".to_owned(), "is not an IPv6 address"),
    ] {
        let said = create("no", &["--address6", &address]);
        assert!(
            said.code != 0 && said.stderr.contains(why),
            "{}",
            said.report()
        );
        assert_ne!(bulkhead.run(&["info", "no"]).code, 0, "{address}");
    }
    let said = bulkhead.run(&["network", "set", "lan", "--prefix6", "none"]);
    assert!(said.stderr.contains("has chosen"), "{}", said.report());

    // Another one from the next start on, and the usual one again.
    bulkhead.ok(&["set", "web", "--address6", &at("beef")]);
    assert!(reaches("app", &at("80")));
    bulkhead.ok(&["restart", "web"]);
    assert!(reaches("app", &at("beef")) && !reaches("app", &at("80")));
    bulkhead.ok(&["set", "web", "--address6", "none"]);
    bulkhead.ok(&["restart", "web"]);
    assert_eq!(shown("web"), at("2"));

    // Of a further interface at once.
    let nic = |n: &str| format!("back=back,address6={second}{n}");
    bulkhead.ok(&["nic", "add", "web", &nic("77")]);
    bulkhead.ok(&["nic", "add", "app", "back=back"]);
    assert!(reaches("app", &format!("{second}77")));
    bulkhead.ok(&["set", "web", "--nic", &nic("78")]);
    assert!(reaches("app", &format!("{second}78")) && !reaches("app", &format!("{second}77")));
    let text = bulkhead.ok(&["doctor", "--format", "json"]);
    let report: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        report["leftovers"].as_array().map(Vec::len),
        Some(0),
        "{text}"
    );
}

/// A first interface without IPv6 does not keep a guest from it, and one that has its address alone on its
/// network reaches that network.
#[test]
fn each_version_of_ip_leads_over_the_first_that_has_it() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let bulkhead = Bulkhead::new();
        for (name, kind) in [("six", "bridge"), ("far", "routed")] {
            let (number, subnet) = match name {
                "six" => (21, "10.78.1.0/24"),
                _ => (22, "10.78.2.0/24"),
            };
            let prefix = format!("{}/64", own_prefix(number));
            let create = [
                "network", "create", name, "--kind", kind, "--subnet", subnet,
            ];
            bulkhead.ok(&[&create[..], &["--prefix6", &prefix]].concat());
        }
        let (six, far) = (own_prefix(21), own_prefix(22));
        let create = |name: &'static str| ["create", name, "--template", "busybox", "--start"];
        let nics = ["--nic", "six=six", "--nic", "far=far"];
        bulkhead.ok(&[&create("web")[..], &nics].concat());
        bulkhead.ok(&[&create("db")[..], &["--network", "far"]].concat());
        let told = |line: &str| bulkhead.ok(&["exec", "web", "--", "sh", "-c", line]);
        let routes = told("ip -6 route");
        for line in [
            format!("default via {six}1 dev six"),
            format!("{far}/64 via fe80::1 dev far"),
        ] {
            assert!(routes.contains(&line), "{line}: {routes}");
        }
        assert_eq!(routes.matches("default").count(), 1, "{routes}");
        assert!(told("ip route").contains("dev eth0"));
        told(&format!("ping -c 1 -W 5 {far}3"));
        bulkhead.ok(&["nic", "remove", "web", "six"]);
        let routes = told("ip -6 route");
        assert!(routes.contains("default via fe80::1 dev far"), "{routes}");
        bulkhead.ok(&["restart", "web"]);
        let routes = told("ip -6 route");
        assert!(routes.contains("default via fe80::1 dev far"), "{routes}");
        bulkhead.ok(&["nic", "add", "web", "six=six"]);
        let routes = told("ip -6 route");
        assert!(routes.contains("default via fe80::1 dev far"), "{routes}");
        assert_eq!(routes.matches("default").count(), 1, "{routes}");
    });
}
