//! Networks whose guests are told their addresses, the router and names: what a guest learns, what its
//! root cannot make of it, and what becomes of the server program when it, its keeper or a command dies.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::life::{data, info, inside, made, own_network, started};
use crate::support::{Bulkhead, Need, became, eventually, need, run};
use crate::traces;

const DHCP: &str = include_str!("../hostile/dhcp.py");
const HEARS: &str = include_str!("../hostile/hears.py");
/// A client that only says what it was told.
const ASK: &str = "2>&1 udhcpc -n -q -f -i eth0 -s /bin/true -t 3 -T 1";

fn create(host: &Bulkhead, subnet: &str, more: &[&str]) {
    let words = ["network", "create", "lan", "--subnet", subnet];
    host.ok(&[&words[..], more].concat());
}

/// What is noted of the network's server program.
fn note(host: &Bulkhead) -> Value {
    let path = host.root().join("run/bulkhead/networks/lan/server.json");
    fs::read(path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or(Value::Null)
}

fn pid(host: &Bulkhead, whose: &str) -> Option<u64> {
    note(host)[whose]["pid"].as_u64()
}

/// A process that is more than a dead body.
fn lives(pid: u64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").expect("a state").1.starts_with('Z'))
}

fn kill(pid: u64) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn leftovers(host: &Bulkhead) -> Vec<String> {
    let text = host.run(&["doctor", "--format", "json"]).stdout;
    let report: Value = serde_json::from_str(&text).unwrap();
    let all = report["leftovers"].as_array().expect("a list");
    let kind = |one: &Value| one["kind"].as_str().map(str::to_owned);
    all.iter().filter_map(kind).collect()
}

/// Deletes guests and the network, and looks for what is left.
#[track_caller]
fn nothing_left(host: &Bulkhead) {
    let before = (pid(host, "keeper"), pid(host, "program"));
    host.ok(&["delete", "--all", "--force"]);
    host.ok(&["network", "delete", "lan"]);
    for gone in [before.0, before.1].into_iter().flatten() {
        assert!(!lives(gone), "process {gone}");
    }
    assert!(!host.root().join("run/bulkhead/networks/lan").exists());
    assert_eq!(leftovers(host), [] as [String; 0]);
}

/// A script in a guest's network, with the host's programs.
fn in_network_of(host: &Bulkhead, guest: &str, script: &str, words: &[&str]) -> Command {
    let pid = info(host, guest)["pid"].as_u64().expect("it runs");
    let mut command = Command::new("nsenter");
    command.args(["-t", &pid.to_string(), "-n", "python3", "-c", script]);
    command.args(words);
    command
}

#[test]
fn guests_are_told_addresses_router_and_names() {
    if !need(Need::Root) {
        return;
    }
    own_network();
    let host = Bulkhead::new();
    // Whoever is asked what nobody here knows.
    let upstream = UdpSocket::bind("127.77.3.9:53").unwrap();
    fs::create_dir_all(host.root().join("etc/bulkhead")).unwrap();
    let settings = "[network]\ndns = [\"127.77.3.9\"]\n";
    fs::write(host.root().join("etc/bulkhead/bulkhead.toml"), settings).unwrap();
    let all = [
        "--dhcp",
        "true",
        "--dns",
        "true",
        "--ra",
        "true",
        "--prefix6",
        "fd62:77:3::/64",
    ];
    create(&host, "10.203.3.0/24", &all);
    started(&host, "a", &["--network", "lan"]);
    // One that may call one port, and nothing else.
    let lines = ["in policy drop", "out accept tcp 80", "out policy drop"];
    let rules = lines.map(|line| ["--firewall", line]).concat();
    started(&host, "b", &[&["--network", "lan"], &rules[..]].concat());
    let program = pid(&host, "program").expect("it runs");

    // What a packet says inside cannot be told beforehand.
    for question in ["10.203.3.1:67", "[fd62:77:3::1]:547"] {
        let said = host.run(&["network", "trace", "a", "out", "udp", question]);
        assert!(
            said.stdout.contains("question by DHCP"),
            "{}",
            said.report()
        );
        assert!(!said.stdout.contains("reload"), "{}", said.report());
    }

    // Its own address, whatever it says that it is, also through a firewall that drops all else.
    for (guest, address) in [("a", "10.203.3.2"), ("b", "10.203.3.3")] {
        let said = inside(&host, guest, &format!("{ASK} -x hostname:shop"));
        assert!(
            said.contains(&format!("lease of {address} obtained")),
            "{said}"
        );
    }
    // One without an address as well.
    let said = inside(&host, "a", &format!("ip addr flush dev eth0; {ASK}"));
    assert!(said.contains("lease of 10.203.3.2 obtained"), "{said}");
    inside(&host, "a", "ip addr add 10.203.3.2/24 dev eth0");

    // Names, both ways and of both families; the one that it gave itself is nobody's.
    let look = |what: &str| host.run(&["exec", "a", "--", "nslookup", what]).stdout;
    for (what, says) in [
        ("b.lan.internal", "Address: 10.203.3.3"),
        ("b", "Address: fd62:77:3::3"),
        ("10.203.3.3", "name = b.lan.internal"),
    ] {
        assert!(look(what).contains(says), "{what}: {}", look(what));
    }
    let shop = look("shop.lan.internal");
    assert!(shop.contains("NXDOMAIN"), "{shop}");
    // One that is made later is known with no new start of the program.
    made(&host, "late", &["--network", "lan"]);
    eventually("the new name is known", 10, || {
        look("late").contains("10.203.3.4")
    });
    assert_eq!(pid(&host, "program"), Some(program));
    // Whatever is not known here is asked elsewhere.
    upstream
        .set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .unwrap();
    let mut asks = host.command(&["exec", "a", "--", "nslookup", "elsewhere.example"]);
    let mut asks = asks.stdout(Stdio::null()).spawn().unwrap();
    let mut question = [0; 512];
    let (length, _) = upstream.recv_from(&mut question).unwrap();
    let question = String::from_utf8_lossy(&question[..length]).into_owned();
    assert!(question.contains("elsewhere\u{7}example"), "{question:?}");
    asks.kill().unwrap();
    asks.wait().unwrap();

    // The router, of which it knows nothing any more.
    let forget = "ip -6 route del default; ip -6 addr del fd62:77:3::2/64 dev eth0; \
                  echo 1 >/proc/sys/net/ipv6/conf/eth0/accept_ra; \
                  ip link set eth0 down; ip link set eth0 up";
    inside(&host, "a", forget);
    let learnt = || inside(&host, "a", "ip -6 route").contains("default via fe80::");
    eventually("the router has made itself known", 15, learnt);

    // Nobody on another network, by whatever way, and no program of the host's but by its bridge.
    started(&host, "far", &[]);
    let far = host.run(&[
        "exec",
        "far",
        "--",
        "timeout",
        "2",
        "nslookup",
        "a",
        "10.203.3.1",
    ]);
    assert!(!far.stdout.contains("10.203.3.2"), "{}", far.report());
    nothing_left(&host);
}

/// What a guest hears until it is asked.
struct Ear(Child, BufReader<std::process::ChildStdout>);

impl Ear {
    fn of(host: &Bulkhead, guest: &str) -> Self {
        let mut command = in_network_of(host, guest, HEARS, &["4"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("nsenter");
        let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        said.read_line(&mut line).expect("a pipe");
        assert_eq!(line, "ready\n");
        Self(child, said)
    }

    fn heard(mut self) -> String {
        let mut text = String::new();
        self.1.read_to_string(&mut text).expect("a pipe");
        assert!(self.0.wait().expect("a child").success());
        text
    }
}

#[test]
fn a_guest_asks_for_itself_alone_and_its_neighbours_do_not_hear_it() {
    if !need(Need::Root) {
        return;
    }
    own_network();
    let host = Bulkhead::new();
    let all = [
        "--dhcp",
        "true",
        "--ra",
        "true",
        "--prefix6",
        "fd62:77:4::/64",
    ];
    create(&host, "10.203.4.0/24", &all);
    started(&host, "a", &["--network", "lan"]);
    started(&host, "b", &["--network", "lan"]);
    let (a, b) = ("02:62:0a:cb:04:02", "02:62:0a:cb:04:03");
    let (nobody, all, none) = ("0.0.0.0", "255.255.255.255", "0.0.0.0");
    let asks = |words: [&str; 5]| {
        let done = run(in_network_of(&host, "a", DHCP, &words));
        assert_eq!(done.code, 0, "{}", done.report());
        done.stdout.trim().to_owned()
    };
    let ear = Ear::of(&host, "b");
    assert_eq!(asks([a, a, none, nobody, all]), "10.203.4.2");
    // As its neighbour: to the program, to the bridge; from an address of its own; by way of a relay.
    for words in [
        [a, b, none, nobody, all],
        [b, b, none, nobody, all],
        [a, b, none, "10.203.4.2", all],
        [a, a, "10.203.4.3", nobody, all],
        [a, a, none, "10.203.4.3", all],
        [a, a, none, nobody, "10.203.4.1"],
    ] {
        assert_eq!(asks(words), "", "{words:?}");
    }
    inside(&host, "a", "ip link set eth0 down; ip link set eth0 up");
    let heard = ear.heard();
    assert!(
        !heard.contains("udp 67") && !heard.contains("icmpv6 133"),
        "{heard}"
    );
    assert!(!heard.contains("udp 547"), "{heard}");
    // The answer is to all, since the question wants it so.
    assert!(heard.contains("udp 68"), "{heard}");
    nothing_left(&host);
}

#[test]
fn whoever_serves_is_mended_and_ends_with_the_wish() {
    if !need(Need::Root) {
        return;
    }
    own_network();
    let host = Bulkhead::new();
    create(&host, "10.203.5.0/24", &[]);
    started(&host, "a", &["--network", "lan"]);
    assert!(pid(&host, "keeper").is_none());
    let asks = || host.run(&["exec", "a", "--", "sh", "-c", ASK]).stdout;

    // Somebody else has the port of names: refused, and all is as it was.
    let taken = UdpSocket::bind("10.203.5.1:53").unwrap();
    let said = host.fails(
        &["network", "set", "lan", "--dhcp", "true", "--dns", "true"],
        1,
    );
    assert!(said.contains("in use"), "{said}");
    let record = fs::read_to_string(host.root().join("var/lib/bulkhead/networks/lan.json"));
    assert!(!record.unwrap().contains("served"));
    assert!(pid(&host, "keeper").is_none());
    drop(taken);

    // A guest that runs is served at once, whoever's files nobody else may read.
    let set = host.command(&[
        "network",
        "set",
        "lan",
        "--dhcp",
        "true",
        "--dns",
        "true",
        "--domain",
        "shop.example",
    ]);
    let mut strict = Command::new("sh");
    strict.args(["-c", "umask 077; exec \"$0\" \"$@\""]);
    strict.arg(set.get_program()).args(set.get_args());
    let done = run(strict);
    assert_eq!(done.code, 0, "{}", done.report());
    assert!(asks().contains("lease of 10.203.5.2"), "{}", asks());
    let shown = host.ok(&["network", "info", "lan"]);
    assert!(shown.contains("dhcp, dns (shop.example)\n"), "{shown}");

    // The program dies: its keeper starts another.
    let program = pid(&host, "program").unwrap();
    kill(program);
    eventually("another serves", 10, || {
        pid(&host, "program").is_some_and(|now| now != program && lives(now))
    });
    assert!(asks().contains("lease of 10.203.5.2"), "{}", asks());

    // Other orders, whatever they follow from: the keeper stays, and begins it anew.
    let keeper = pid(&host, "keeper");
    let record = host.root().join("var/lib/bulkhead/networks/lan.json");
    let text = fs::read_to_string(&record).unwrap();
    for (domain, now) in [("example", "test"), ("test", "example")] {
        let program = pid(&host, "program").unwrap();
        let other = text.replace("shop.example", &format!("shop.{now}"));
        fs::write(&record, other).unwrap();
        eventually("it has begun anew", 10, || {
            pid(&host, "program").is_some_and(|now| now != program && lives(now))
        });
        assert_eq!(pid(&host, "keeper"), keeper);
        let look = |name: &str| {
            host.run(&["exec", "a", "--", "nslookup", name, "10.203.5.1"])
                .stdout
        };
        let known = look(&format!("a.shop.{now}"));
        assert!(known.contains("10.203.5.2"), "{known}");
        let gone = look(&format!("a.shop.{domain}"));
        assert!(!gone.contains("10.203.5.2"), "{gone}");
    }
    // A hardware address that is another guest's now, and an address.
    let (mac, other) = ("02:aa:00:00:00:07", "02:aa:00:00:00:08");
    for (name, mac, address) in [
        ("first", mac, "10.203.5.9"),
        ("second", mac, "10.203.5.10"),
        ("third", other, "10.203.5.10"),
    ] {
        let chosen = ["--mac", mac, "--address", address, "--network", "lan"];
        started(&host, name, &chosen);
        let asks = || host.run(&["exec", name, "--", "sh", "-c", ASK]).stdout;
        eventually("its own address", 10, || asks().contains(address));
        host.ok(&["delete", name, "--force"]);
    }

    // Its keeper dies, and takes it along; doctor says so and mends it, and so does a start.
    let die = || {
        let (keeper, program) = (
            pid(&host, "keeper").unwrap(),
            pid(&host, "program").unwrap(),
        );
        kill(keeper);
        assert!(
            became(10, || !lives(program)),
            "the program goes with its keeper"
        );
    };
    die();
    assert_eq!(leftovers(&host), ["network server"]);
    assert!(host.ok(&["network", "info", "lan"]).contains("not now"));
    host.ok(&["doctor", "--fix"]);
    assert_eq!(leftovers(&host), [] as [String; 0]);
    assert!(asks().contains("lease of 10.203.5.2"), "{}", asks());
    die();
    started(&host, "b", &["--network", "lan"]);
    eventually("it is served again", 10, || {
        pid(&host, "program").is_some_and(lives)
    });
    die();
    host.ok(&["network", "reload"]);
    assert!(lives(pid(&host, "program").unwrap()));

    // Somebody else has the port when it is to begin again: guests start all the same, and it is said why.
    die();
    let taken = UdpSocket::bind("10.203.5.1:53").unwrap();
    started(&host, "c", &["--network", "lan"]);
    let why = || host.run(&["doctor"]).stdout.contains("in use");
    eventually("it is said why nobody serves", 10, why);
    assert!(host.ok(&["network", "info", "lan"]).contains("in use"));
    drop(taken);
    eventually("it serves again", 30, || {
        pid(&host, "program").is_some_and(lives)
    });

    // Nobody asks for it any more.
    let (keeper, program) = (
        pid(&host, "keeper").unwrap(),
        pid(&host, "program").unwrap(),
    );
    host.ok(&["network", "set", "lan", "--dhcp", "false", "--dns", "false"]);
    assert!(!lives(keeper) && !lives(program));
    let tables = Command::new("/usr/sbin/nft")
        .args(["list", "tables"])
        .output()
        .unwrap();
    let tables = String::from_utf8(tables.stdout).unwrap();
    let tag = traces::tag(host.root());
    let table = tables
        .lines()
        .find(|line| line.contains("bridge") && line.contains(&tag));
    let table: Vec<&str> = table.unwrap().split(' ').collect();
    let rules = Command::new("/usr/sbin/nft")
        .arg("list")
        .args(&table)
        .output()
        .unwrap();
    let rules = String::from_utf8(rules.stdout).unwrap();
    assert!(rules.contains("chain guard"), "{rules}");
    for gone in ["set clients", "chain ask4", "chain asked"] {
        assert!(!rules.contains(gone), "{rules}");
    }
    assert!(asks().contains("no lease"), "{}", asks());
    nothing_left(&host);
}

#[test]
fn what_nobody_can_serve_is_refused() {
    if !need(Need::Root) {
        return;
    }
    own_network();
    let host = Bulkhead::new();
    for (flags, says) in [
        (&["--kind", "routed", "--dns", "true"][..], "kind bridge"),
        (
            &["--kind", "isolated", "--ra", "true", "--prefix6", "auto"],
            "no router",
        ),
        (&["--ra", "true"], "--prefix6"),
        (&["--dns", "true", "--domain", "a/b"], "no domain"),
    ] {
        let words = ["network", "create", "lan", "--subnet", "10.203.6.0/24"];
        let said = host.fails(&[&words[..], flags].concat(), 5);
        assert!(said.contains(says), "{said}");
    }
    assert_eq!(leftovers(&host), [] as [String; 0]);
}

/// A command with one process killed at a point of it; false once there is no such point.
fn killed(host: &Bulkhead, args: &[&str], fault: &str) -> bool {
    let mut command = host.command(args);
    command.env("BULKHEAD_FAULT", fault);
    run(command).code != 0
}

#[test]
fn a_command_that_dies_leaves_nobody_serving_unasked() {
    if !need(Need::Root) {
        return;
    }
    own_network();
    let host = Bulkhead::new();
    let settled = |fault: &str| {
        host.ok(&["doctor", "--fix"]);
        let left = || leftovers(&host);
        assert!(became(10, || left().is_empty()), "{fault}: {:?}", left());
    };
    // What keeps the program, at each of its points: it is missed, and mended.
    create(&host, "10.203.7.0/24", &["--dns", "true"]);
    started(&host, "a", &["--network", "lan"]);
    // Its lock, its files, the note that the program has begun.
    for number in [0, 3, 8] {
        host.ok(&["network", "set", "lan", "--dns", "false"]);
        let fault = format!("server:{number}");
        let on = ["network", "set", "lan", "--dns", "true"];
        killed(&host, &on, &fault);
        settled(&fault);
    }
    // Commands: the server is there if the record asks for it, and only then.
    let set = |host: &Bulkhead, on: &str, fault: &str| {
        let all = ["network", "set", "lan", "--dns", on, "--dhcp", on];
        killed(host, &all, fault)
    };
    for (off, on, step) in [("true", "false", 6), ("false", "true", 5)] {
        for number in (0..40).step_by(step) {
            assert!(!set(&host, off, ""));
            let fault = format!("command:{number}");
            let died = set(&host, on, &fault);
            if on == "true" && died {
                // The next start makes all that the record says, and so does whoever mends.
                host.ok(&["restart", "a"]);
            }
            settled(&fault);
            let wanted = data(&host, &["network", "info", "lan"])["served"]["dhcp"] == true;
            let serves = became(10, || pid(&host, "program").is_some_and(lives) == wanted);
            assert!(serves, "{fault}: {wanted}");
            let told = host.run(&["exec", "a", "--", "sh", "-c", ASK]).stdout;
            assert!(
                !wanted || told.contains("lease of 10.203.7.2"),
                "{fault}: {told}"
            );
            if !died {
                break;
            }
        }
    }
    host.ok(&["network", "set", "lan", "--dns", "true"]);
    host.ok(&["delete", "a", "--force"]);
    let keeper = pid(&host, "keeper").unwrap();
    for number in (0..40).step_by(4) {
        let fault = format!("command:{number}");
        if !killed(&host, &["network", "delete", "lan"], &fault) {
            break;
        }
        settled(&fault);
    }
    assert!(became(10, || !lives(keeper)));
    assert_eq!(leftovers(&host), [] as [String; 0]);
}
