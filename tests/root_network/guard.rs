//! What guests on the bridge can do to each other, tried by a guest whose root makes frames of its
//! own: it speaks only for itself and hears only what is meant for it. The frames are in
//! `hostile/frames.pl`.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::support::{Bulkhead, Need, eventually, need};
use crate::{support, traces};
use serde_json::Value;

const FRAMES: &str = include_str!("../hostile/frames.pl");

/// An installation with guests that only sleep.
struct Street {
    bulkhead: Bulkhead,
}

impl Street {
    fn new(guests: &[(&str, &[&str])]) -> Self {
        Self::with(Bulkhead::new(), guests)
    }

    fn with(bulkhead: Bulkhead, guests: &[(&str, &[&str])]) -> Self {
        for (name, flags) in guests {
            let create = ["create", name, "--template", "host", "--start"];
            let init = ["--init", "/bin/sleep 86400"];
            bulkhead.ok(&[&create[..], &init, flags].concat());
        }
        Self { bulkhead }
    }

    fn address(&self, name: &str) -> String {
        let info = self.bulkhead.ok(&["info", name, "--format", "json"]);
        let info: Value = serde_json::from_str(&info).expect("JSON");
        info["address"].as_str().expect("an address").to_owned()
    }

    /// The arguments of the script in guest `at`, and the addresses it needs.
    fn frames(&self, verb: &[&str], at: &str, peer: &str, other: &str) -> Command {
        let addresses = [at, peer, other].map(|name| self.address(name));
        let gateway = addresses[0].rsplit_once('.').expect("four numbers").0;
        let mut command = self.bulkhead.command(&["exec", at, "--"]);
        command.args(["perl", "-e", FRAMES]).args(verb);
        command.args(&addresses).arg(format!("{gateway}.1"));
        command
    }

    #[track_caller]
    fn send(&self, verb: &[&str], at: &str, peer: &str, other: &str) {
        let outcome = support::run(self.frames(verb, at, peer, other));
        assert_eq!(outcome.code, 0, "{verb:?}: {}", outcome.report());
    }

    fn watch(&self, at: &str) -> Watcher {
        let mut command = self.frames(&["watch"], at, at, at);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program runs");
        let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        said.read_line(&mut line).expect("a pipe");
        assert_eq!(line, "ready\n");
        Watcher { child, said }
    }

    fn nft(&self, words: &str) -> String {
        let table = format!("bulkhead-{}", traces::tag(self.bulkhead.root()));
        let words = words.replace("TABLE", &format!("bridge {table}"));
        let output = Command::new("/usr/sbin/nft")
            .args(words.split(' '))
            .output()
            .expect("nft");
        assert!(output.status.success(), "{words}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }
}

/// Lists what arrives in a guest.
struct Watcher {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Watcher {
    /// What arrived before the mark `end`.
    fn seen(mut self) -> Vec<String> {
        let mut text = String::new();
        self.said.read_to_string(&mut text).expect("a pipe");
        assert!(self.child.wait().expect("a child").success());
        let text = text.strip_suffix("end\n").expect("the last mark");
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn a_guest_speaks_only_for_itself() {
    if !need(Need::Root) {
        return;
    }
    let street = Street::new(&[("evil", &[]), ("victim", &[]), ("other", &[])]);
    let attack = || {
        let watcher = street.watch("victim");
        street.send(&["forge"], "evil", "victim", "other");
        street.send(&["honest"], "evil", "victim", "other");
        street.send(&["plain", "end"], "evil", "victim", "other");
        watcher.seen()
    };
    let honest = ["ask", "probe", "packet", "broadcast"];
    assert_eq!(attack(), honest);

    // As a reload of the host's own firewall does; doctor puts it back, and so does any start.
    street.nft("delete table TABLE");
    let report = street.bulkhead.run(&["doctor"]).stdout;
    assert!(report.contains("bridge without its firewall"), "{report}");
    street.bulkhead.ok(&["doctor", "--fix"]);
    assert_eq!(attack(), honest);
    street.nft("delete table TABLE");
    let late = ["create", "late", "--template", "busybox", "--start"];
    street.bulkhead.ok(&late);
    assert_eq!(attack(), honest);

    // Without the rules all of it arrives, so it is they that keep it out.
    street.nft("flush chain TABLE guard");
    let open = attack();
    let forged = FRAMES.matches("'arp-").count() + FRAMES.matches("'ip-").count();
    let all = |prefix: &str| open.iter().filter(|name| name.starts_with(prefix)).count();
    assert_eq!(all("arp-") + all("ip-"), forged, "{open:?}");
    for name in [
        "dhcp-offer",
        "router-advertisement",
        "dhcp6",
        "tagged-arp",
        "tagged-own",
        "tagged-ten",
        "no-protocol",
    ] {
        assert!(open.iter().any(|seen| seen == name), "{name}: {open:?}");
    }
}

#[test]
fn a_guest_of_a_network_of_ones_own_speaks_only_for_itself() {
    if !need(Need::Root) {
        return;
    }
    for kind in ["bridge", "isolated"] {
        let bulkhead = Bulkhead::new();
        bulkhead.ok(&["network", "create", "lan", "--kind", kind]);
        let flags: &[&str] = &["--network", "lan"];
        let street = Street::with(
            bulkhead,
            &[("evil", flags), ("victim", flags), ("other", flags)],
        );
        let watcher = street.watch("victim");
        street.send(&["forge"], "evil", "victim", "other");
        street.send(&["honest"], "evil", "victim", "other");
        street.send(&["plain", "end"], "evil", "victim", "other");
        assert_eq!(
            watcher.seen(),
            ["ask", "probe", "packet", "broadcast"],
            "{kind}"
        );
    }
}

#[test]
fn a_guest_hears_only_what_is_meant_for_it() {
    if !need(Need::Root) {
        return;
    }
    let street = Street::new(&[("evil", &[]), ("victim", &[]), ("other", &[])]);
    // The last frame tells the bridge that the victim is behind the attacker's port.
    street.send(&["forge"], "evil", "victim", "other");
    let (evil, victim) = (street.watch("evil"), street.watch("victim"));
    street.send(&["plain", "secret"], "other", "victim", "evil");
    street.send(&["honest"], "other", "victim", "evil");
    street.send(&["plain", "end"], "other", "evil", "victim");
    assert_eq!(evil.seen(), ["ask", "probe", "broadcast"]);
    street.send(&["plain", "end"], "other", "victim", "evil");
    assert_eq!(
        victim.seen(),
        ["secret", "ask", "probe", "packet", "broadcast"]
    );
}

#[test]
fn isolated_ports_do_not_reach_each_other() {
    if !need(Need::Root) {
        return;
    }
    let apart: &[&str] = &["--isolated-ports"];
    let street = Street::new(&[("a", apart), ("b", apart), ("open", &[]), ("open2", &[])]);
    let heard = |from: &str, to: &str, by: &str| {
        let watcher = street.watch(to);
        street.send(&["plain", "direct"], from, to, by);
        street.send(&["honest"], from, to, by);
        // The host routes between the networks it knows; back into this one it must not.
        street.send(&["routed", "routed"], from, to, by);
        street.send(&["plain", "end"], by, to, from);
        watcher.seen()
    };
    let all = ["direct", "ask", "probe", "packet", "broadcast"];
    assert_eq!(heard("a", "b", "open"), [] as [&str; 0]);
    assert_eq!(heard("b", "a", "open"), [] as [&str; 0]);
    assert_eq!(heard("open", "a", "open2"), all);
    assert_eq!(heard("open", "open2", "a"), all);
    // A running guest is changed at once, and only in this.
    street
        .bulkhead
        .ok(&["set", "b", "network.isolated_ports=false"]);
    assert_eq!(heard("a", "b", "open"), all);
    street
        .bulkhead
        .ok(&["set", "b", "network.isolated_ports=none", "cpu.weight=50"]);
    assert_eq!(heard("b", "a", "open"), all);
    street
        .bulkhead
        .ok(&["set", "b", "network.isolated_ports=true"]);
    assert_eq!(heard("a", "b", "open"), [] as [&str; 0]);
    // The host they reach.
    let gateway = format!(
        "{}.1",
        street.address("a").rsplit_once('.').expect("dots").0
    );
    let connect =
        "IO::Socket::INET->new(PeerAddr => shift, PeerPort => 1, Timeout => 5); print 0 + $!";
    let perl = [
        "exec",
        "a",
        "--",
        "perl",
        "-MIO::Socket::INET",
        "-e",
        connect,
    ];
    let refused = (nix::errno::Errno::ECONNREFUSED as i32).to_string();
    let answer = street.bulkhead.ok(&[&perl[..], &[&gateway]].concat());
    assert_eq!(answer, refused);
    for (name, isolated) in [("a", true), ("open", false)] {
        let plan = street.bulkhead.ok(&["plan", name, "--format", "json"]);
        let said = plan.replace(' ', "");
        assert!(said.contains(&format!("\"isolated\":{isolated}")), "{plan}");
    }
    assert!(
        street
            .bulkhead
            .ok(&["info", "a"])
            .contains("bridge, isolated")
    );
}

#[test]
fn a_guests_entries_come_and_go_with_its_address() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = Bulkhead::new();
    let street = Street { bulkhead };
    street
        .bulkhead
        .ok(&["create", "a", "--template", "busybox", "--start"]);
    street
        .bulkhead
        .ok(&["create", "b", "--template", "busybox", "--start"]);
    let entries = || {
        let list = street.nft("list table TABLE");
        let kept = |line: &&str| line.contains("02:62:");
        list.lines().filter(kept).count() + list.matches("\" . 02:62:").count()
    };
    let two = entries();
    let (first, second) = (street.address("a"), street.address("b"));
    let table = || street.nft("list table TABLE");
    assert!(table().contains(&first) && table().contains(&second));
    street.bulkhead.ok(&["delete", "--force", "b"]);
    assert!(table().contains(&first) && !table().contains(&second));
    assert!(entries() < two);

    // Killed between giving the address back and taking the entry away, doctor finds it.
    let rogue = "add element TABLE guests { \"bh0009\" . 02:62:0a:d6:00:09 . 10.214.0.9 }";
    street.nft(rogue);
    let named = || {
        let report = street.bulkhead.run(&["doctor", "--format", "json"]).stdout;
        report.contains("firewall entry")
    };
    assert!(named());
    street.bulkhead.ok(&["doctor", "--fix"]);
    eventually("the entry is gone", 5, || !named());
    assert!(!table().contains("10.214.0.9"));
    assert!(table().contains(&first));
}

#[test]
fn a_guest_does_not_hear_its_own_broadcasts() {
    if !need(Need::Root) {
        return;
    }
    let street = Street::new(&[("a", &[]), ("b", &[])]);
    let heard = || {
        let watcher = street.watch("a");
        street.send(&["honest"], "a", "b", "b");
        street.send(&["plain", "end"], "b", "a", "a");
        let mut seen = watcher.seen();
        // That nobody listens for it is an answer with the packet in it.
        seen.retain(|name| name != "packet");
        seen
    };
    assert_eq!(heard(), [""; 0]);
    // It is the rule that keeps them away: the port itself gives them back.
    street.nft("flush chain TABLE echo");
    assert_eq!(heard(), ["ask", "probe", "broadcast"]);
}
