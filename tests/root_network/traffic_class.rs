//! Classes of traffic: each packet is in one, as the far end counts it, while the lists change, over
//! restarts and kills and on further interfaces; nothing that a guest forges is in another.

use std::fs;
use std::process::{Command, Stdio};

use crate::life::{data, info, inside, own_network, started};
use crate::support::{Bulkhead, Need, eventually, need};
use crate::wires::{Installation, Namespace, WORLD, as_host, guest, world};
use crate::{life, traces, wires};
use bulkhead::network::NetworkSettings;
use serde_json::Value;

/// Bytes of an echo with 1000 of its own: those and the headers of ICMP, IPv4 and the frame.
const ECHO: u64 = 1000 + 8 + 20 + 14;

/// Packets and bytes of a guest that are (internal, external), sent and received.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Account {
    sent: [(u64, u64); 2],
    received: [(u64, u64); 2],
}

impl Account {
    /// Echoes sent to the outside and answered from there since.
    fn external_since(self, before: Self) -> (u64, u64) {
        let echoes = |now: (u64, u64), then: (u64, u64)| {
            let (packets, bytes) = (now.0 - then.0, now.1 - then.1);
            assert_eq!(bytes, packets * ECHO, "{before:?} {self:?}");
            packets
        };
        (
            echoes(self.sent[1], before.sent[1]),
            echoes(self.received[1], before.received[1]),
        )
    }
}

/// Of both classes, whose sums are the whole.
#[track_caller]
fn account(host: &Bulkhead, guest: &str) -> Account {
    let row = &data(host, &["traffic", guest])[0];
    let number = |key: String| row[&key].as_u64().unwrap_or_else(|| panic!("{key}: {row}"));
    let both = |way: &str| {
        let of = |class: &str| {
            let amount = |unit| number(format!("{way}{class}_{unit}"));
            (amount("packets"), amount("bytes"))
        };
        let (all, classes) = (of(""), [of("_internal"), of("_external")]);
        let sum = (classes[0].0 + classes[1].0, classes[0].1 + classes[1].1);
        assert_eq!(sum, all, "{row}");
        classes
    };
    Account {
        sent: both("sent"),
        received: both("received"),
    }
}

/// Has a guest send so many echoes, which all are answered.
#[track_caller]
fn echo(host: &Bulkhead, guest: &str, to: &str, count: u64) {
    let line = format!("ping -q -A -c {count} -s 1000 {to}");
    let said = inside(host, guest, &line);
    assert!(
        said.contains(&format!("{count} packets received")),
        "{said}"
    );
}

/// A number that the kernel counts of what comes to the far end.
fn counted(far: &Namespace, protocol: &str, what: &str) -> u64 {
    let text = far.run(|| fs::read_to_string("/proc/thread-self/net/snmp").expect("procfs"));
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(name, _)| *name == what).expect(what);
    value.parse().expect("a number")
}

/// Echoes that the far end was asked for.
fn asked(far: &Namespace) -> u64 {
    counted(far, "Icmp: ", "InEchos")
}

fn internal(host: &Bulkhead, list: &str) {
    let folder = host.root().join("etc/bulkhead");
    fs::create_dir_all(&folder).expect("a folder of ours");
    let text = format!("[traffic]\ninternal = [{list}]\n");
    fs::write(folder.join("bulkhead.toml"), text).expect("a folder of ours");
}

fn address(host: &Bulkhead, guest: &str) -> String {
    let address = info(host, guest)["address"].as_str().map(str::to_owned);
    address.expect("an address")
}

#[test]
fn each_packet_is_in_one_class() {
    if !need(Need::Root) {
        return;
    }
    own_network();
    let far = world();
    let host = Bulkhead::new();
    let world = WORLD.to_string();
    host.ok(&["network", "create", "lan", "--subnet", "10.77.0.0/24"]);
    for name in ["w", "v"] {
        started(&host, name, &["--nic", "lan=lan"]);
    }
    // With the world: the far end counts the same.
    let (before, asked_before) = (account(&host, "w"), asked(&far));
    echo(&host, "w", &world, 10);
    let after = account(&host, "w");
    assert_eq!(asked(&far) - asked_before, 10);
    assert_eq!(after.external_since(before), (10, 10));
    // With a neighbour, over both networks, and with the host: nothing external.
    let gateway = address(&host, "w")
        .rsplit_once('.')
        .expect("IPv4")
        .0
        .to_owned()
        + ".1";
    let lan = inside(&host, "v", "ip -4 -o addr show dev lan");
    let lan = lan
        .split([' ', '/'])
        .find(|word| word.starts_with("10.77.0."));
    for to in [&address(&host, "v"), lan.expect("an address"), &gateway] {
        let before = account(&host, "w");
        echo(&host, "w", to, 10);
        let after = account(&host, "w");
        assert_eq!(after.external_since(before), (0, 0), "{to}");
        let sent = after.sent[0].0 - before.sent[0].0;
        let received = after.received[0].0 - before.received[0].0;
        assert!(
            (10..14).contains(&sent) && (10..20).contains(&received),
            "{to} {sent} {received}"
        );
    }
    // What the lists say holds by itself from the next start on that network.
    internal(&host, "\"203.0.113.0/24\", \"192.0.2.0/24\", \"fd00::/8\"");
    host.ok(&["restart", "v"]);
    let before = account(&host, "w");
    echo(&host, "w", &world, 10);
    assert_eq!(account(&host, "w").external_since(before), (0, 0));

    changes_while_it_flows(&host, &far);
    outlives(&host);
    costs(&host);

    let traced = data(&host, &["network", "trace", "w", "icmp", &world]);
    let stops = |hop: &Value| hop["verdict"] == "stops" || hop["verdict"] == "may-stop";
    assert!(
        !traced.as_array().expect("hops").iter().any(stops),
        "{traced}"
    );
    host.ok(&["delete", "w", "v", "--force"]);
    let table = format!("bulkhead-{}", traces::tag(host.root()));
    for set in ["sent", "received", "sent_internal", "received_internal"] {
        let there = Command::new("/usr/sbin/nft")
            .args(["list", "set", "bridge", &table, set])
            .output();
        let there = String::from_utf8(there.expect("nft").stdout).expect("text");
        assert!(!there.contains("elements"), "{there}");
    }
}

/// Nothing is lost or counted twice while the rules are exchanged.
fn changes_while_it_flows(host: &Bulkhead, far: &Namespace) {
    let (before, asked_before) = (account(host, "w"), asked(far));
    let line = format!("ping -q -A -s 1000 {WORLD} >/dev/null");
    let mut pinging = host.command(&["exec", "w", "--", "sh", "-c", &line]);
    let mut pinging = pinging.stdin(Stdio::null()).spawn().expect("the program");
    eventually("the first echoes", 10, || asked(far) > asked_before + 100);
    let mut last = account(host, "w");
    for list in ["", "\"203.0.113.0/24\", \"192.0.2.0/24\"", ""] {
        internal(host, list);
        host.ok(&["network", "reload"]);
        let now = account(host, "w");
        for way in 0..2 {
            assert!(now.sent[way].1 >= last.sent[way].1, "{last:?} {now:?}");
            assert!(
                now.received[way].1 >= last.received[way].1,
                "{last:?} {now:?}"
            );
        }
        last = now;
    }
    inside(host, "w", "killall -INT ping");
    pinging.wait().expect("a child");
    let after = account(host, "w");
    let echoes = asked(far) - asked_before;
    let sum = |now: [(u64, u64); 2], then: [(u64, u64); 2]| {
        let grown = |class: usize| now[class].1 - then[class].1;
        assert!(grown(0) > 0 && grown(1) > 0, "{then:?} {now:?}");
        grown(0) + grown(1)
    };
    assert_eq!(sum(after.sent, before.sent), echoes * ECHO);
    // Beside the answers come what the bridge asks its ports, and little of it.
    let more = sum(after.received, before.received) - echoes * ECHO;
    assert!(more < 1000, "{more}");
}

/// Each class by itself, over a restart, a killed keeper and a killed everything.
fn outlives(host: &Bulkhead) {
    let world = WORLD.to_string();
    let kill = |who: &str| {
        let file = host.root().join("run/bulkhead/guests/w/state.json");
        let state: Value = serde_json::from_slice(&fs::read(file).expect("a run")).expect("JSON");
        let done = Command::new("kill")
            .args(["-9", &state[who]["pid"].to_string()])
            .status();
        assert!(done.expect("kill").success());
    };
    let before = account(host, "w");
    echo(host, "w", &world, 10);
    host.ok(&["restart", "w"]);
    echo(host, "w", &world, 10);
    kill("keeper");
    echo(host, "w", &world, 10);
    kill("init");
    eventually("its end", 20, || !life::is(host, "w", "running"));
    host.ok(&["start", "w"]);
    echo(host, "w", &world, 10);
    let after = account(host, "w");
    assert_eq!(after.external_since(before), (40, 40));
    assert!(after.sent[0].1 >= before.sent[0].1, "{before:?} {after:?}");
}

/// A bill has both classes, and a price for each.
fn costs(host: &Bulkhead) {
    let card = host.root().join("rates.toml");
    let text = "sent_external_gib = 1073741824\nreceived_internal_gib = 1073741824\n";
    fs::write(&card, text).expect("a folder of ours");
    let card = card.to_str().expect("a plain path");
    let rows = data(host, &["usage", "w", "--rates", card]);
    let (now, row) = (account(host, "w"), &rows[0]);
    assert_eq!(row["sent_external_bytes"], now.sent[1].1, "{row}");
    assert_eq!(row["received_external_bytes"], now.received[1].1, "{row}");
    let number = |key: &str| row[key].as_f64().expect("a number");
    let sum = number("sent_internal_bytes") + number("sent_external_bytes");
    assert_eq!(sum.to_bits(), number("sent_bytes").to_bits(), "{row}");
    let cost = number("sent_external_bytes") + number("received_internal_bytes");
    assert!((number("cost") - cost).abs() < 0.001, "{row}");
}

#[test]
fn an_allowance_can_be_of_external_traffic_alone() {
    if !need(Need::Root) {
        return;
    }
    own_network();
    let _far = world();
    let host = Bulkhead::new();
    let external = ["--allowance", "50K", "--allowance-class", "external"];
    started(
        &host,
        "w",
        &[&external[..], &["--allowance-cut", "90K"]].concat(),
    );
    started(&host, "v", &[]);
    let month = |level: &str| {
        let month = &info(&host, "w")["month"];
        assert_eq!(month["level"], level, "{month}");
        assert_eq!(month["class"], "external");
        month["used"].as_u64().expect("a number")
    };
    let far = WORLD.to_string();
    echo(&host, "w", &address(&host, "v"), 100);
    assert_eq!(month("free"), 0);
    echo(&host, "w", &far, 25);
    assert_eq!(month("spent"), 25 * 2 * ECHO);
    assert!(host.ok(&["info", "w"]).contains(" of 50K external since "));
    echo(&host, "w", &far, 25);
    // Whoever changes it looks at once.
    host.ok(&["set", "w", "--allowance", "60K"]);
    assert_eq!(month("cut"), 50 * 2 * ECHO);
    let ping = ["exec", "w", "--", "ping", "-q", "-c", "1", "-W", "1", &far];
    assert_ne!(host.run(&ping).code, 0);
    // All of it counts again, and is not too much.
    host.ok(&[
        "set",
        "w",
        "--allowance-class",
        "all",
        "--allowance-cut",
        "1M",
    ]);
    echo(&host, "w", &far, 1);
    assert!(info(&host, "w")["month"]["used"].as_u64() > Some(300 * ECHO));
    let said = host.fails(&["create", "x", "--allowance-class", "external"], 5);
    assert!(said.contains("network.allowance_class: needs"), "{said}");
    let said = host.fails(&["set", "v", "--allowance-class", "extern"], 2);
    assert!(said.contains("did you mean \"external\"?"), "{said}");
}

/// Sends IPv4 frames: to the gateway by a source route that goes on to the world, and to the world from
/// an internal address, from another hardware address, and with a VLAN's tag.
const FORGE: &str = r#"
import socket, struct, sys
own, gateway, far, mac, to = sys.argv[1:]
raw = lambda mac: bytes.fromhex(mac.replace(":", ""))
ip = socket.inet_aton
def sum(data):
    total = 0
    for (word,) in struct.iter_unpack("!H", data): total += word
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff
def packet(source, target, options=b""):
    data = struct.pack("!HHHH", 4000, 4000, 8 + 100, 0) + b"x" * 100
    words = 5 + len(options) // 4
    head = struct.pack("!BBHHHBBH", 0x40 + words, 0, words * 4 + len(data), 1, 0, 64, 17, 0)
    head += ip(source) + ip(target) + options
    head = head[:10] + struct.pack("!H", sum(head)) + head[12:]
    return head + data
socket_ = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
socket_.bind(("eth0", 0))
frame = lambda source, kind, data: socket_.send(raw(to) + raw(source) + kind + data)
plain, tagged = b"\x08\x00", b"\x81\x00\x00\x05\x08\x00"
routed = b"\x83\x07\x04" + ip(far) + b"\x00"
for _ in range(20):
    frame(mac, plain, packet("10.250.0.7", far))
    frame("02:00:5e:00:00:07", plain, packet(own, far))
    frame(mac, tagged, packet(own, far))
for _ in range(20):
    frame(mac, plain, packet(own, gateway, routed))
"#;

#[test]
fn what_a_guest_forges_is_in_no_other_class() {
    if !need(Need::Root) {
        return;
    }
    as_host(|| {
        let far = world();
        let installation = Installation::new();
        let network = installation.network(NetworkSettings {
            internal: vec!["10.0.0.0/8".parse().unwrap()],
            ..NetworkSettings::default()
        });
        let (a, lease) = guest(&network, "a");
        let heard = || counted(&far, "Ip: ", "InReceives");
        wires::seen_from(&a, &far, WORLD).unwrap();
        let (before, heard_before) = (network.counters(&lease).unwrap().unwrap(), heard());
        let colons = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        let bridge = a.run(|| neighbour(&lease.gateway.to_string()));
        let done = a.run(|| {
            Command::new("python3")
                .args(["-c", FORGE, &lease.address.to_string()])
                .args([lease.gateway.to_string(), WORLD.to_string()])
                .args([colons(lease.mac), bridge.unwrap()])
                .status()
        });
        assert!(done.unwrap().success());
        let after = network.counters(&lease).unwrap().unwrap();
        let since = after.traffic.since(&before.traffic);
        // By its own way and address: it was for the host, and that sends it nowhere.
        assert_eq!(since.internal.sent_ipv4.packets, 20, "{since:?}");
        assert_eq!(since.external.sent_ipv4.packets, 0, "{since:?}");
        assert_eq!(heard(), heard_before);
    });
}

/// Hardware address that belongs to an address, as the guest knows it.
fn neighbour(address: &str) -> Option<String> {
    let list = Command::new("ip").args(["neigh", "show", address]).output();
    let text = String::from_utf8(list.ok()?.stdout).ok()?;
    let (_, after) = text.split_once("lladdr ")?;
    after.split(' ').next().map(str::to_owned)
}
