//! Guests' own firewalls: what their rules let pass between neighbours, the host and the world, what
//! belongs to it, changed while they run, and gone with their guest.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::life::started;
use crate::support::{Bulkhead, Need, need};
use crate::wires::{
    HOST_OUTSIDE, Installation, Namespace, as_host, guest, guest_with, name, own_namespace, world,
};
use crate::{support, traces};
use bulkhead::model::NetworkWish;
use bulkhead::network::NetworkSettings;

/// More than the second after which a first packet that was lost is sent again.
const PATIENCE: Duration = Duration::from_secs(2);

fn walled(rules: &[&str]) -> NetworkWish {
    NetworkWish {
        firewall: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
        ..NetworkWish::default()
    }
}

/// Whether a connection to a port comes about and carries something both ways.
fn calls(client: &Namespace, server: &Namespace, address: Ipv4Addr, port: u16, own: u16) -> bool {
    let listener = server.run(|| TcpListener::bind(("0.0.0.0", own)).unwrap());
    let target = SocketAddr::from((address, port));
    let stream = client.run(|| TcpStream::connect_timeout(&target, PATIENCE));
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::TimedOut, "dropped, not refused");
            return false;
        }
    };
    let (mut accepted, _) = listener.accept().unwrap();
    accepted.write_all(b"welcome").unwrap();
    drop(accepted);
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text == "welcome"
}

/// Whether a question by UDP arrives, and whether its answer does.
fn asks(client: &Namespace, server: &Namespace, address: Ipv4Addr, port: u16) -> (bool, bool) {
    let bound = |place: &Namespace, port| {
        let socket = place.run(|| UdpSocket::bind(("0.0.0.0", port)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let (asking, answering) = (bound(client, 0), bound(server, port));
    let mut buffer = [0; 8];
    // What is dropped on the way out may be an error.
    let _dropped = asking.send_to(b"ask", (address, port));
    let Ok((_, from)) = answering.recv_from(&mut buffer) else {
        return (false, false);
    };
    let _dropped = answering.send_to(b"answer", from);
    (true, asking.recv_from(&mut buffer).is_ok())
}

#[test]
fn rules_let_pass_what_they_say_and_what_belongs_to_it() {
    as_host(|| {
        let (here, world) = (own_namespace(), world());
        let installation = Installation::new();
        let network = installation.network(NetworkSettings::default());
        let mut wish = walled(&[
            "in accept tcp 80",
            "in accept udp 53",
            "in drop",
            "out drop tcp 25",
        ]);
        wish.forwards = vec!["8080:80".parse().unwrap(), "8081:81".parse().unwrap()];
        let (web, lease) = guest_with(&network, "web", &wish);
        let (other, lease_other) = guest(&network, "other");
        // From a neighbour, the host, and the world by ports of the host.
        for client in [&other, &here] {
            assert!(calls(client, &web, lease.address, 80, 80));
            assert!(!calls(client, &web, lease.address, 81, 81));
        }
        assert!(calls(&world, &web, HOST_OUTSIDE, 8080, 80));
        assert!(!calls(&world, &web, HOST_OUTSIDE, 8081, 81));
        // What it begins itself is answered.
        assert!(calls(&web, &other, lease_other.address, 81, 81));
        assert!(!calls(&web, &other, lease_other.address, 25, 25));
        assert_eq!(asks(&web, &other, lease_other.address, 9000), (true, true));
        assert_eq!(asks(&other, &web, lease.address, 53), (true, true));
        assert_eq!(asks(&other, &web, lease.address, 54), (false, false));
        // The neighbour has no rules.
        assert!(calls(&here, &other, lease_other.address, 81, 81));
    });
}

#[test]
fn one_that_may_not_begin_anything_answers() {
    as_host(|| {
        let installation = Installation::new();
        let network = installation.network(NetworkSettings::default());
        let (locked, lease) = guest_with(&network, "locked", &walled(&["out drop"]));
        let (other, lease_other) = guest(&network, "other");
        assert!(calls(&other, &locked, lease.address, 80, 80));
        assert_eq!(asks(&other, &locked, lease.address, 53), (true, true));
        assert!(!calls(&locked, &other, lease_other.address, 80, 80));
        assert_eq!(
            asks(&locked, &other, lease_other.address, 53),
            (false, false)
        );
        // Only from one address.
        let only = format!("in accept tcp from {}", lease_other.address);
        let wish = walled(&[&only, "in drop tcp"]);
        network.follow(&name("locked"), &wish).unwrap();
        assert!(calls(&other, &locked, lease.address, 80, 80));
        assert!(!calls(&own_namespace(), &locked, lease.address, 80, 80));
        assert_eq!(asks(&locked, &other, lease_other.address, 53), (true, true));
    });
}

#[test]
fn rules_change_come_back_and_go_with_their_guest() {
    as_host(|| {
        let installation = Installation::new();
        let network = installation.network(NetworkSettings::default());
        let (a, lease) = guest_with(&network, "a", &walled(&["in drop"]));
        let here = own_namespace();
        let open = |port| calls(&here, &a, lease.address, port, port);
        let table = installation.layout().kernel_name();
        let nft = |words: &[&str]| {
            let output = Command::new("/usr/sbin/nft").args(words).output().unwrap();
            assert!(output.status.success(), "{words:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        // Nobody else's packets are looked at for it.
        let asked = || {
            let all = nft(&["list", "table", "bridge", &table]);
            ["chain outgoing {", "chain incoming {"].map(|chain| all.contains(chain))
        };
        assert!(!open(80));
        assert_eq!(asked(), [true; 2]);
        let wish = walled(&["in accept tcp 80-82", "in drop"]);
        network.follow(&name("a"), &wish).unwrap();
        assert!(open(80) && !open(83));
        // Somebody reloads the host's firewall.
        nft(&["flush", "ruleset"]);
        network.ensure_host().unwrap();
        assert!(open(82) && !open(83));
        // As a start finds it: nothing to do, and no `nft` run.
        network.admit(&lease, &wish).unwrap();
        network.rename(&name("a"), &name("b")).unwrap();
        assert!(open(81) && !open(83));
        network.follow(&name("b"), &NetworkWish::default()).unwrap();
        assert!(open(83));
        assert_eq!(asked(), [false; 2]);
        network.follow(&name("b"), &wish).unwrap();
        assert!(!open(83));
        // What a killed command leaves: other rules than those of the book.
        let interface = &lease.host_interface;
        let sums = nft(&["list", "set", "bridge", &table, "walls"]);
        let sum = sums.split(&format!("\"{interface}\" . ")).nth(1).unwrap();
        let sum = sum.split_whitespace().next().unwrap();
        let element = format!("{{ {interface} . {sum} }}");
        nft(&["delete", "element", "bridge", &table, "walls", &element]);
        let element = format!("{{ {interface} . 1 }}");
        nft(&["add", "element", "bridge", &table, "walls", &element]);
        let stale = network.stale_entries().unwrap();
        let named: Vec<_> = stale.iter().map(ToString::to_string).collect();
        assert_eq!(named, [format!("rules of {interface}")]);
        network.remove_entry(&stale[0]).unwrap();
        assert_eq!(network.stale_entries().unwrap(), []);
        assert!(open(82) && !open(83));
        // Somebody empties a chain, or takes it away.
        nft(&["flush", "chain", "bridge", &table, "incoming"]);
        assert!(network.reload().unwrap());
        assert!(open(82) && !open(83));
        for command in ["flush", "delete"] {
            nft(&[command, "chain", "bridge", &table, "incoming"]);
        }
        let stale = network.stale_entries().unwrap();
        let named: Vec<_> = stale.iter().map(ToString::to_string).collect();
        assert_eq!(named, [format!("rules of {interface}")]);
        network.remove_entry(&stale[0]).unwrap();
        assert!(open(82) && !open(83));
        network.teardown_guest(&lease).unwrap();
        network.release(&name("b")).unwrap();
        let left = nft(&["list", "table", "bridge", &table]);
        assert!(!left.contains(&lease.host_interface), "{left}");
        assert_eq!(network.stale_entries().unwrap(), []);
    });
}

/// However many have called a guest: answers to its own calls find room.
#[test]
fn those_that_call_a_guest_fill_nothing_that_it_needs() {
    as_host(|| {
        let installation = Installation::new();
        let network = installation.network(NetworkSettings::default());
        let wish = walled(&["in accept tcp 80", "in accept udp 53", "in policy drop"]);
        let (web, lease) = guest_with(&network, "web", &wish);
        let (other, lease_other) = guest(&network, "other");
        let table = installation.layout().kernel_name();
        let set = |word: &str| format!("bridge {table} {word}-{}", lease.host_interface);
        let nft = |commands: String| {
            let mut child = Command::new("/usr/sbin/nft")
                .args(["-f", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut pipe = child.stdin.take().unwrap();
            pipe.write_all(commands.as_bytes()).unwrap();
            drop(pipe);
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap()
        };
        let holds = |word| nft(format!("list set {}", set(word))).contains("elements");
        assert!(calls(&other, &web, lease.address, 80, 80));
        assert_eq!(asks(&other, &web, lease.address, 53), (true, true));
        let all = ["calls", "answers", "called", "asked"].map(holds);
        assert_eq!(all, [false, false, true, true]);
        for (word, port) in [("called", 80), ("asked", 53)] {
            let one = |other: u32| format!("198.51.100.7 . {port} . {other}");
            let all: Vec<String> = (1..=16_384).map(one).collect();
            let (set, all) = (set(word), all.join(", "));
            nft(format!("flush set {set}\nadd element {set} {{ {all} }}"));
        }
        assert!(calls(&web, &other, lease_other.address, 81, 81));
        assert_eq!(asks(&web, &other, lease_other.address, 9000), (true, true));
        assert!(calls(&other, &web, lease.address, 80, 80));
        assert!(!calls(&other, &web, lease.address, 81, 81));
        let all = ["calls", "answers"].map(holds);
        assert_eq!(all, [true, true]);
    });
}

#[test]
fn the_commands_set_and_show_rules() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(
        &host,
        "a",
        &["--firewall", "in accept tcp 80", "--firewall", "in drop"],
    );
    let shown = host.ok(&["info", "a"]);
    assert!(shown.contains("in accept tcp 80"), "{shown}");
    let table = format!("bulkhead-{}", traces::tag(host.root()));
    let chains = || {
        let list = Command::new("/usr/sbin/nft")
            .args(["list", "table", "bridge", &table])
            .output()
            .unwrap();
        String::from_utf8(list.stdout).unwrap()
    };
    assert!(chains().contains("tcp dport 80 accept"), "{}", chains());
    host.ok(&["set", "a", "--unset", "network.firewall.in accept tcp 80"]);
    assert!(!chains().contains("tcp dport 80 accept"));
    // A group of guests that share rules is a profile.
    let profiles = host.root().join("etc/bulkhead/profiles");
    std::fs::create_dir_all(&profiles).unwrap();
    let text = "description = \"web\"\n[network]\nfirewall = [\"in accept tcp 443\"]\n";
    std::fs::write(profiles.join("web.toml"), text).unwrap();
    host.ok(&["set", "a", "--profile", "web"]);
    assert!(chains().contains("tcp dport 443 accept"), "{}", chains());
    host.ok(&["stop", "a"]);
    host.ok(&["start", "a"]);
    assert!(chains().contains("tcp dport 443 accept"), "{}", chains());
    host.ok(&["delete", "--force", "a"]);
    assert!(!chains().contains("443"));
    for rule in [
        "in",
        "in accept tcp 0",
        "sideways drop",
        "in drop; flush ruleset",
    ] {
        let create = ["create", "b", "--template", "busybox", "--firewall", rule];
        let said = host.fails(&create, 2);
        assert!(said.contains("is not a firewall rule"), "{said}");
    }
}

/// Wherever a change is killed, `doctor --fix` makes book and kernel what the definition says.
#[test]
fn rules_are_what_the_definition_says_wherever_a_change_is_killed() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "a", &["--firewall", "in drop tcp 9"]);
    let table = format!("bulkhead-{}", traces::tag(host.root()));
    let chains = || {
        let mut nft = Command::new("/usr/sbin/nft");
        let list = nft.args(["list", "table", "bridge", &table]).output();
        String::from_utf8(list.unwrap().stdout).unwrap()
    };
    let rule = "network.firewall.in drop tcp 7";
    for change in [["--firewall", "in drop tcp 7"], ["--unset", rule]] {
        for number in 0.. {
            let mut command = host.command(&[&["set", "a"], &change[..]].concat());
            command.env("BULKHEAD_FAULT", format!("command:{number}"));
            let code = support::run(command).code;
            host.ok(&["doctor", "--fix"]);
            let defined = host.ok(&["get", "a", "network.firewall"]).contains("tcp 7");
            let held = chains().contains("tcp dport 7 drop");
            assert_eq!(held, defined, "{change:?} killed at {number}");
            assert!(chains().contains("tcp dport 9 drop"), "{}", chains());
            if code == 0 {
                assert!(number > 1, "{change:?}: {number} points");
                break;
            }
            assert_eq!(code, -1, "{change:?} at {number}");
        }
    }
    host.ok(&["delete", "--force", "a"]);
    assert!(!chains().contains("tcp dport"), "{}", chains());
}
