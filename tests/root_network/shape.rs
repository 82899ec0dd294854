//! Rates of guests, measured with TCP between a guest and the host: at the start, changed while it
//! runs, and gone afterwards, wherever a command is killed.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::life::{info, started};
use crate::support::{Bulkhead, Need, eventually, need, run};
use crate::{life, traces};

/// Until TCP has found the rate.
const WARM_UP: Duration = Duration::from_millis(700);
const MEASURED: Duration = Duration::from_secs(2);

/// Names of the installation's interfaces on the host.
fn interfaces(host: &Bulkhead) -> Vec<String> {
    let all = traces::interfaces(host.root());
    all.into_iter()
        .map(|line| line.trim_start_matches("interface ").to_owned())
        .collect()
}

fn shapers(host: &Bulkhead) -> Vec<String> {
    let mut all = interfaces(host);
    all.retain(|name| name.ends_with('i'));
    all
}

/// The address of the guests' gateway, which is the host.
fn gateway(host: &Bulkhead, guest: &str) -> Ipv4Addr {
    let address = info(host, guest)["address"].as_str().map(str::to_owned);
    let address: Ipv4Addr = address.expect("an address").parse().expect("IPv4");
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, 1)
}

/// What a guest's connections carry in each direction, as long as this is there.
struct Flow {
    client: Child,
}

impl Flow {
    /// `line` gets the host's address and port as `$1` and `$2`.
    fn begin(host: &Bulkhead, guest: &str, line: &str) -> (Self, TcpStream) {
        let gateway = gateway(host, guest);
        let listener = TcpListener::bind((gateway, 0)).expect("the bridge's address");
        let port = listener.local_addr().expect("bound").port().to_string();
        let address = gateway.to_string();
        let mut client = host.command(&["exec", guest, "--", "sh", "-c", line, "sh"]);
        client.args([&address, &port]).stdin(Stdio::null());
        let client = client.stdout(Stdio::null()).spawn().expect("the program");
        let (stream, _) = listener.accept().expect("a connection");
        (Self { client }, stream)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let _gone = self.client.kill();
        let _collected = self.client.wait();
    }
}

/// Bits a second of the frames that `count` counts.
fn rate(count: impl Fn() -> u64) -> f64 {
    std::thread::sleep(WARM_UP);
    let (before, began) = (count(), Instant::now());
    std::thread::sleep(MEASURED);
    (count() - before) as f64 * 8.0 / began.elapsed().as_secs_f64()
}

/// Bytes that an interface has counted.
fn counted(interface: &str, counter: &str) -> u64 {
    let folder = PathBuf::from("/sys/class/net").join(interface);
    let text = fs::read_to_string(folder.join("statistics").join(counter));
    let text = text.expect("an interface");
    text.trim().parse().expect("a number")
}

/// What the guest sends, as the bridge counts what it hands to the host.
fn sent(host: &Bulkhead, guest: &str) -> f64 {
    let (_flow, mut stream) = Flow::begin(host, guest, "exec nc $1 $2 </dev/zero");
    let bridge = format!("bh-{}", traces::tag(host.root()));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; 1 << 16];
            while !over.load(Relaxed) {
                stream.read_exact(&mut buffer).expect("a connection");
            }
        });
        let rate = rate(|| counted(&bridge, "rx_bytes"));
        over.store(true, Relaxed);
        rate
    })
}

/// What the guest gets, as its interface counts it.
fn received(host: &Bulkhead, guest: &str) -> f64 {
    let (flow, mut stream) = Flow::begin(host, guest, "exec nc $1 $2 >/dev/null");
    let port = interfaces(host)
        .into_iter()
        .find(|name| !name.ends_with('i') && !name.starts_with("bh-"))
        .expect("the guest's interface");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let zeros = vec![0; 1 << 16];
            // Until the guest's end is gone.
            while !over.load(Relaxed) {
                if stream.write_all(&zeros).is_err() {
                    break;
                }
            }
        });
        let rate = rate(|| counted(&port, "tx_bytes"));
        over.store(true, Relaxed);
        drop(flow);
        rate
    })
}

#[track_caller]
fn about(what: &str, measured: f64, mbit: f64) {
    let megabits = measured / 1e6;
    println!("{what}: {megabits:.2} of {mbit} mbit");
    // Never more than was sold; less where the machine is busy with other tests.
    let share = megabits / mbit;
    assert!(
        (0.7..1.1).contains(&share),
        "{what}: {megabits:.2} of {mbit} mbit"
    );
}

#[test]
fn a_guest_is_as_fast_as_its_rates() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "w", &["--rate-in", "5mbit", "--rate-out", "1mbit"]);
    about("in", received(&host, "w"), 5.0);
    about("out", sent(&host, "w"), 1.0);

    // While it runs, each by itself.
    host.ok(&["set", "w", "network.rate_out=20mbit"]);
    about("out", sent(&host, "w"), 20.0);
    host.ok(&["set", "w", "--rate-in", "20mbit", "--burst-in", "256K"]);
    about("in", received(&host, "w"), 20.0);
    assert_eq!(shapers(&host).len(), 1);

    // Another start finds the same.
    host.ok(&["restart", "w"]);
    about("out", sent(&host, "w"), 20.0);
    about("in", received(&host, "w"), 20.0);

    host.ok(&["set", "w", "--rate-out", "none"]);
    assert_eq!(shapers(&host), [""; 0]);
    assert!(sent(&host, "w") > 40e6);
    host.ok(&["set", "w", "--rate-in", "none", "--burst-in", "none"]);
    assert!(received(&host, "w") > 40e6);
}

#[test]
fn a_guest_cannot_undo_its_rates() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "w", &["--rate-out", "5mbit", "--rate-in", "5mbit"]);
    // What is on its own side it may take away as it likes.
    life::inside(
        &host,
        "w",
        "ip link set eth0 down; ip link set eth0 mtu 1400 up",
    );
    about("out", sent(&host, "w"), 5.0);
    about("in", received(&host, "w"), 5.0);
}

#[test]
fn rates_go_with_the_guest() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "w", &["--rate-out", "5mbit"]);
    started(&host, "v", &["--rate-in", "5mbit"]);
    assert_eq!(shapers(&host).len(), 1);
    host.ok(&["stop", "w"]);
    assert_eq!(shapers(&host), [""; 0]);
    host.ok(&["start", "w"]);
    assert_eq!(shapers(&host).len(), 1);
    // It ends by itself.
    host.run(&["exec", "w", "--", "poweroff", "-f"]);
    eventually("the shaper goes", 20, || shapers(&host).is_empty());
    host.ok(&["delete", "--force", "w", "v"]);
    eventually("the interfaces go", 20, || {
        interfaces(&host).iter().all(|name| name.starts_with("bh-"))
    });
}

/// Kills a command, or the launch it makes, at each point it passes.
fn killed_at_every_point(host: &Bulkhead, process: &str, args: &[&str], again: &[&str]) {
    for number in 0..60 {
        let mut command = host.command(args);
        command.env("BULKHEAD_FAULT", format!("{process}:{number}"));
        let done = run(command);
        host.ok(&["kill", "w"]);
        eventually("the guest's end", 20, || life::is(host, "w", "stopped"));
        host.ok(&["doctor", "--fix"]);
        assert_eq!(shapers(host), [""; 0], "{args:?} {process}:{number}");
        if done.code == 0 {
            assert!(number >= 4, "{args:?}: {number} points");
            return;
        }
        host.ok(&["set", "w", "--rate-out", "none"]);
        host.ok(again);
    }
    panic!("{args:?}: more than 60 points");
}

#[test]
fn nothing_is_left_wherever_it_is_killed() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "w", &[]);
    let faster = ["set", "w", "--rate-out", "5mbit", "--rate-in", "5mbit"];
    killed_at_every_point(&host, "command", &faster, &["start", "w"]);
    killed_at_every_point(&host, "launch", &["start", "w"], &faster);
}
