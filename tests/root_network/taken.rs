//! What others take from networks without deleting it: names of interfaces, rules of a table that stands,
//! ports by which others are to be reached. Each in a network namespace of the test's own.

use std::io::Read;
use std::net::{TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};

use crate::life::{data, inside, made};
use crate::support::{Bulkhead, Need, eventually, need};
use crate::traces;
use crate::wires::{HOST_OUTSIDE, as_host, world};

#[track_caller]
fn shell(line: &str) -> String {
    let done = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(done.status.success(), "{line}: {done:?}");
    String::from_utf8(done.stdout).unwrap()
}

fn left(host: &Bulkhead) -> String {
    let report = data_of_doctor(host);
    report["leftovers"].to_string()
}

fn data_of_doctor(host: &Bulkhead) -> serde_json::Value {
    let said = host.run(&["doctor", "--format", "json"]).stdout;
    serde_json::from_str(&said).unwrap()
}

fn is_there(name: &str) -> bool {
    let look = Command::new("ip")
        .args(["link", "show", "dev", name])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .status();
    look.unwrap().success()
}

/// Ended with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ended = self.0.wait();
    }
}

/// A guest behind an interface of another name is held to nothing, and a bridge of another name is none.
#[test]
fn interfaces_get_their_names_back() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let _world = world();
        let host = Bulkhead::new();
        let mut names = Vec::new();
        for (kind, subnet) in [("bridge", "10.81.1.0/24"), ("routed", "10.81.2.0/24")] {
            let create = ["network", "create", kind_word(kind), "--kind", kind];
            host.ok(&[&create[..], &["--subnet", subnet]].concat());
            made(
                &host,
                kind_word(kind),
                &["--network", kind_word(kind), "--start"],
            );
            let list = data(&host, &["nic", "list", kind_word(kind)]);
            let bridge = data(&host, &["network", "info", kind_word(kind)])["bridge"].clone();
            let end = list[0]["host_interface"].clone();
            names.extend([end, bridge].map(|name| (kind, name.as_str().unwrap().to_owned())));
        }
        let rename = |was: &str| shell(&format!("ip link set {was} name else7"));
        for (kind, was) in &names {
            rename(was);
            let trace = data(&host, &["network", "trace", kind_word(kind)]).to_string();
            if was.ends_with("0002") {
                assert!(trace.contains("is called else7"), "{trace}");
            }
            let told = left(&host);
            assert!(
                told.contains("renamed interface") && told.contains(was),
                "{told}"
            );
            host.run(&["doctor", "--fix"]);
            assert!(is_there(was) && !is_there("else7"), "{was}");
            // By hand, and with the next start.
            rename(was);
            host.ok(&["network", "reload"]);
            assert!(is_there(was), "{was}");
            if !was.ends_with("0002") {
                rename(was);
                host.ok(&["restart", kind_word(kind)]);
                assert!(is_there(was), "{was}");
            }
        }
        assert_eq!(left(&host), "[]");
        let mut command = host.command(&["network", "watch"]);
        let watch = Ended(command.stdout(Stdio::null()).spawn().unwrap());
        for (kind, was) in &names {
            rename(was);
            eventually(was, 20, || is_there(was));
            eventually(kind, 20, || {
                let ping = ["ping", "-c", "1", "-W", "1", &HOST_OUTSIDE.to_string()];
                host.run(&[&["exec", kind_word(kind), "--"], &ping[..]].concat())
                    .code
                    == 0
            });
        }
        drop(watch);
        // A network that is deleted while its bridge is called otherwise leaves none.
        let (_, bridge) = &names[1];
        host.ok(&["delete", "--force", "--yes", kind_word("bridge")]);
        rename(bridge);
        host.ok(&["network", "delete", kind_word("bridge")]);
        assert!(!is_there("else7"));
    });
}

/// A kind is no name of a network.
fn kind_word(kind: &str) -> &'static str {
    match kind {
        "bridge" => "flat",
        _ => "apart",
    }
}

#[test]
fn rules_that_are_gone_from_a_table_that_stands_are_named_and_put_back() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let _world = world();
        let host = Bulkhead::new();
        let rule = ["--firewall", "in drop tcp 25"];
        made(&host, "a", &[&rule[..], &["--start"]].concat());
        host.ok(&["network", "create", "lan", "--kind", "isolated"]);
        host.ok(&[
            "network",
            "create",
            "shop",
            "--kind",
            "routed",
            "--prefix6",
            "auto",
        ]);
        for network in ["lan", "shop"] {
            made(&host, network, &["--network", network, "--start"]);
        }
        assert_eq!(left(&host), "[]");
        let table = format!("bulkhead-{}", traces::tag(host.root()));
        let end = data(&host, &["nic", "list", "a"])[0]["host_interface"].clone();
        let end = end.as_str().unwrap();
        for chain in [
            format!("inet {table} postrouting"),
            format!("bridge {table} guard"),
            format!("bridge {table} incoming-{end}"),
        ] {
            shell(&format!("nft flush chain {chain}"));
            let told = left(&host);
            assert!(
                told.contains("firewall without rules") && told.contains(&chain),
                "{chain}: {told}"
            );
            let hops = data(&host, &["network", "trace", "a"]).to_string();
            assert!(
                hops.contains(&chain) && hops.contains("network reload"),
                "{hops}"
            );
            host.run(&["doctor", "--fix"]);
            let hops = data(&host, &["network", "trace", "a"]).to_string();
            assert!(!hops.contains("network reload"), "{hops}");
        }
        // Without its last rule the chain goes, and is not missed.
        host.ok(&["set", "a", "--unset", "network.firewall"]);
        assert_eq!(left(&host), "[]");
    });
}

/// The gateway is where guests of a network ask for names, whoever has the host's port for that.
#[test]
fn a_port_that_leads_to_a_guest_takes_no_names_from_others() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let world = world();
        let host = Bulkhead::new();
        made(&host, "ns", &["--start", "--forward", "53:53"]);
        let create = ["network", "create", "lan", "--subnet", "10.82.1.0/24"];
        host.ok(&[&create[..], &["--dns", "true", "--dhcp", "true"]].concat());
        let create = ["network", "create", "closed", "--subnet", "10.82.2.0/24"];
        let closed = ["--kind", "isolated", "--dns", "true"];
        host.ok(&[&create[..], &closed].concat());
        let networks = ["lan", "closed"];
        for network in networks {
            made(&host, network, &["--network", network, "--start"]);
        }
        // Another one may lead there while names are told, though a program listens.
        host.ok(&["set", "ns", "--forward", "53:53/udp"]);
        inside(
            &host,
            "ns",
            "while :; do echo it-answers | nc -l -p 53; done >/dev/null 2>&1 &",
        );
        for network in networks {
            let name = format!("{network}.{network}.internal");
            let said = inside(&host, network, &format!("nslookup {name}"));
            assert!(said.contains("Address: 10.82."), "{said}");
        }
        let hops = data(&host, &["network", "trace", "lan", "udp", "10.82.1.1:53"]);
        assert!(!hops.to_string().contains("leads to"), "{hops}");
        // Somebody outside is led.
        eventually("an answer", 20, || {
            world.run(|| {
                let mut said = String::new();
                TcpStream::connect((HOST_OUTSIDE, 53))
                    .and_then(|mut stream| stream.read_to_string(&mut said))
                    .is_ok_and(|_| said.starts_with("it-answers"))
            })
        });
        // A program of the host's own keeps its port.
        let other = UdpSocket::bind("0.0.0.0:5355").unwrap();
        let said = host.fails(&["set", "lan", "--forward", "5355:53/udp"], 5);
        assert!(said.contains("udp port 5355"), "{said}");
        drop(other);
        // Other hosts send to a port as well.
        host.ok(&["set", "ns", "--forward", "4780-4790:80-90/udp"]);
        let words = ["network", "create", "far", "--vxlan", "7", "--local"];
        let ends = [&HOST_OUTSIDE.to_string(), "--remote", "192.0.2.2"];
        let said = host.fails(&[&words[..], &ends].concat(), 5);
        assert!(
            said.contains("4789/udp") && said.contains("--unset network.forward.4780-4790"),
            "{said}"
        );
    });
}

/// Without NAT there is a route to the gateway for everybody, and still nobody else is told names.
#[test]
fn names_of_a_network_without_nat_are_told_to_its_guests_alone() {
    as_host(|| {
        if !need(Need::Root) {
            return;
        }
        let world = world();
        let host = Bulkhead::new();
        let settings = host.root().join("etc/bulkhead");
        std::fs::create_dir_all(&settings).unwrap();
        let text = "[network]\nsubnet = \"10.82.3.0/24\"\nnat = false\nnames = true\n";
        std::fs::write(settings.join("bulkhead.toml"), text).unwrap();
        made(&host, "a", &["--start"]);
        let said = inside(&host, "a", "nslookup a.bridge.internal");
        assert!(said.contains("Address: 10.82.3.2"), "{said}");
        let asks = "import socket; s = socket.socket(2, 2); s.settimeout(1); \
            s.sendto(b'\\0\\1\\1\\0\\0\\1' + b'\\0' * 6 + b'\\1a\\6bridge\\10internal\\0\\0\\1\\0\\1', \
            ('10.82.3.1', 53)); s.recv(512)";
        let is_told = || {
            let done = Command::new("python3").args(["-c", asks]).output();
            done.unwrap().status.success()
        };
        assert!(is_told(), "the host itself");
        let told = world.run(|| {
            shell(&format!("ip route add 10.82.3.0/24 via {HOST_OUTSIDE}"));
            is_told()
        });
        assert!(!told);
    });
}
