//! Rates that all guests of a tenant keep to together, over all of their interfaces: shared among those
//! that want to, changed while they run, and gone with the last of them, wherever a command is killed.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_send_buffer_size;

use crate::life::{data, inside, started};
use crate::support::{Bulkhead, Need, eventually, need, run};
use crate::{life, traces};

/// Until TCP has found the rate.
const WARM_UP: Duration = Duration::from_millis(700);
const MEASURED: Duration = Duration::from_millis(1500);

/// Interfaces over which tenants' guests are led.
fn trunks(host: &Bulkhead) -> Vec<String> {
    let all = traces::interfaces(host.root()).into_iter();
    all.map(|line| line.trim_start_matches("interface ").to_owned())
        .filter(|name| name.starts_with("bt"))
        .collect()
}

/// The host's address on the network of one of a guest's interfaces.
fn gateway(host: &Bulkhead, guest: &str, nic: &str) -> Ipv4Addr {
    let all = data(host, &["nic", "list", guest]);
    let all = all.as_array().expect("a list");
    let one = all.iter().find(|one| one["name"] == nic).expect("it");
    let address: Ipv4Addr = one["address"].as_str().expect("one").parse().expect("IPv4");
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, 1)
}

/// Megabits a second that connections of guests carry, all at once; each is a guest, one of its
/// interfaces, and whether it is to the guest.
fn carried(host: &Bulkhead, flows: &[(&str, &str, bool)]) -> Vec<f64> {
    let over = AtomicBool::new(false);
    let counts: Vec<AtomicU64> = flows.iter().map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        let mut clients = Vec::new();
        for ((guest, nic, to), count) in flows.iter().zip(&counts) {
            let at = gateway(host, guest, nic);
            let listener = TcpListener::bind((at, 0)).expect("the bridge's address");
            let port = listener.local_addr().expect("bound").port();
            let line = match to {
                true => format!("exec nc {at} {port} >/dev/null"),
                false => format!("exec nc {at} {port} </dev/zero"),
            };
            let mut client = host.command(&["exec", guest, "--", "sh", "-c", &line]);
            client.stdin(Stdio::null()).stdout(Stdio::null());
            clients.push(client.spawn().expect("the program"));
            let (mut stream, _) = listener.accept().expect("a connection");
            // What waits to be sent counts as carried: it is there before the time counts, and does not grow.
            set_socket_send_buffer_size(&stream, 256 << 10).expect("a socket's size");
            let over = &over;
            scope.spawn(move || {
                let mut buffer = vec![0; 1 << 14];
                while !over.load(Relaxed) {
                    let done = match to {
                        true => stream.write(&buffer),
                        false => stream.read(&mut buffer),
                    };
                    match done {
                        Ok(n) if n > 0 => count.fetch_add(n as u64, Relaxed),
                        _ => break,
                    };
                }
            });
        }
        std::thread::sleep(WARM_UP);
        let read = || counts.iter().map(|count| count.load(Relaxed)).collect();
        let (before, began): (Vec<u64>, _) = (read(), Instant::now());
        std::thread::sleep(MEASURED);
        let (after, took): (Vec<u64>, _) = (read(), began.elapsed().as_secs_f64());
        over.store(true, Relaxed);
        for mut client in clients {
            let _gone = client.kill();
            let _collected = client.wait();
        }
        let rates = before.iter().zip(&after);
        rates
            .map(|(before, after)| (after - before) as f64 * 8.0 / took / 1e6)
            .collect()
    })
}

/// What TCP carries of a rate of frames, or less where the machine is busy with other tests.
#[track_caller]
fn about(what: &str, rates: &[f64], mbit: f64) {
    let share = rates.iter().sum::<f64>() / mbit;
    println!("{what}: {rates:.2?} of {mbit} mbit");
    // What lies in the guest's buffers before is counted too when it is taken out of them.
    assert!((0.6..1.1).contains(&share), "{what}: {rates:.2?} of {mbit}");
}

#[test]
fn guests_of_a_tenant_keep_to_its_rates_together() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["network", "create", "lan", "--kind", "routed"]);
    let rates = ["--rate-in", "8mbit", "--rate-out", "16mbit"];
    host.ok(&[&["tenant", "create", "acme"], &rates[..]].concat());
    let of_acme = ["--tenant", "acme"];
    started(&host, "a", &[&of_acme[..], &["--nic", "lan=lan"]].concat());
    started(
        &host,
        "b",
        &[&of_acme[..], &["--rate-out", "4mbit"]].concat(),
    );
    started(&host, "other", &[]);
    assert_eq!(trunks(&host).len(), 2);

    // One alone may use all of it, over whichever interface.
    about("in", &carried(&host, &[("a", "lan", true)]), 8.0);
    // All interfaces together, and one with a rate of its own has no more than that.
    let all = [
        ("a", "eth0", false),
        ("a", "lan", false),
        ("b", "eth0", false),
    ];
    let out = carried(&host, &all);
    about("out", &out, 16.0);
    assert!((0.5..4.4).contains(&out[2]), "{out:?}");
    let fair = out[0] / out[1];
    assert!((0.4..2.5).contains(&fair), "{out:?}");
    // Guests of nobody are none of it.
    let out = carried(&host, &[("other", "eth0", false), ("b", "eth0", true)]);
    assert!(out[0] > 20.0, "{out:?}");
    about("in", &out[1..], 8.0);

    // At once for those that run, each direction by itself.
    host.ok(&[
        "tenant",
        "set",
        "acme",
        "--rate-in",
        "none",
        "--rate-out",
        "30mbit",
    ]);
    assert_eq!(trunks(&host).len(), 1);
    let both = carried(&host, &[("a", "eth0", false), ("b", "eth0", true)]);
    about("out", &both[..1], 30.0);
    assert!(both[1] > 20.0, "{both:?}");
    let shown = data(&host, &["tenant", "info", "acme"]);
    assert_eq!(shown["rate_out"], "30mbit", "{shown}");
    assert_eq!(data(&host, &["doctor"])["leftovers"], serde_json::json!([]));

    // What a guest does to its own end changes nothing.
    inside(
        &host,
        "a",
        "ip link set eth0 down; ip link set eth0 mtu 1400 up",
    );
    about("out", &carried(&host, &[("a", "eth0", false)]), 30.0);

    // An interface that is taken out leaves nothing, the last guest takes all along.
    host.ok(&["nic", "remove", "a", "lan"]);
    host.ok(&["stop", "a"]);
    assert_eq!(data(&host, &["doctor"])["leftovers"], serde_json::json!([]));
    host.run(&["exec", "b", "--", "poweroff", "-f"]);
    eventually("all of it goes", 20, || trunks(&host).is_empty());
}

#[test]
fn rates_that_nothing_holds_are_refused() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let tag = traces::tag(host.root());
    let card = format!("t{}", &tag[..8]);
    let ip = |args: &[&str]| {
        let done = std::process::Command::new("ip").args(args).status();
        assert!(done.expect("ip").success(), "{args:?}");
    };
    let far = format!("{card}p");
    ip(&["link", "add", &card, "type", "veth", "peer", "name", &far]);
    let create = [
        "network", "create", "wan", "--kind", "macvlan", "--parent", &card,
    ];
    host.ok(&[&create[..], &["--subnet", "198.51.100.0/24"]].concat());
    host.ok(&["tenant", "create", "acme"]);
    life::made(&host, "w", &["--tenant", "acme", "--network", "wan"]);
    let why = host.fails(&["tenant", "set", "acme", "--rate-out", "8mbit"], 5);
    assert!(why.contains("guest w on the network wan"), "{why}");
    host.ok(&["delete", "w", "--force"]);
    host.ok(&["tenant", "set", "acme", "--rate-out", "8mbit"]);
    host.ok(&["create", "v", "--template", "busybox", "--network", "none"]);
    host.ok(&["set", "v", "--network", "wan", "--tenant", "acme"]);
    let why = host.run(&["start", "v"]).stderr;
    assert!(why.contains("--unset tenant"), "{why}");
    for (rate, why) in [
        ("1kbit", "from 64kbit to 32gbit"),
        ("fast", "write bits per second"),
    ] {
        let told = host
            .run(&["tenant", "set", "acme", "--rate-in", rate])
            .stderr;
        assert!(told.contains(why), "{told}");
    }
    ip(&["link", "delete", &card]);
}

/// Processes of a launch that a fault point has stopped.
fn stopped(host: &Bulkhead) -> Vec<i32> {
    let all = traces::processes(host.root());
    let pids = all
        .iter()
        .filter_map(|line| line.split(' ').nth(1)?.parse().ok());
    pids.filter(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
        status.is_ok_and(|text| text.contains("State:\tT"))
    })
    .collect()
}

#[test]
fn rates_that_change_while_a_guest_starts_are_its_own() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["tenant", "create", "acme", "--rate-out", "8mbit"]);
    life::made(&host, "w", &["--tenant", "acme"]);
    // With a part of the CPUs of its own, for there is a point where it has read its definition and is no member yet.
    host.ok(&["set", "w", "cpu.entitled=0.1"]);
    let mut start = host.command(&["start", "w"]);
    start.env("BULKHEAD_FAULT", "launch:0:stop");
    let mut start = start.stdout(Stdio::null()).spawn().expect("the program");
    eventually("its launch waits", 20, || !stopped(&host).is_empty());
    let shown = data(&host, &["tenant", "info", "acme"]);
    assert_eq!(shown["running"], serde_json::json!([]), "{shown}");
    host.ok(&["tenant", "set", "acme", "--rate-out", "none"]);
    for pid in stopped(&host) {
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).expect("it is there");
    }
    assert!(start.wait().expect("a child of ours").success());
    assert_eq!(trunks(&host), [""; 0]);
    assert_eq!(data(&host, &["doctor"])["leftovers"], serde_json::json!([]));
    let out = carried(&host, &[("w", "eth0", false)]);
    assert!(out[0] > 20.0, "{out:?}");

    // Should one go from under it all the same, that is named and mended.
    let ip = |args: &[&str]| {
        let done = std::process::Command::new("ip").args(args).status();
        assert!(done.expect("ip").success(), "{args:?}");
    };
    let record = host.root().join("var/lib/bulkhead/tenants/acme.json");
    let without = std::fs::read(&record).expect("its record");
    host.ok(&["tenant", "set", "acme", "--rate-out", "8mbit"]);
    std::fs::write(&record, without).expect("its record");
    ip(&["link", "delete", &trunks(&host)[0]]);
    let found = host.run(&["doctor"]).stdout;
    assert!(found.contains("tenant limits"), "{found}");
    host.ok(&["doctor", "--fix"]);
    assert_eq!(data(&host, &["doctor"])["leftovers"], serde_json::json!([]));
    let out = carried(&host, &[("w", "eth0", false)]);
    assert!(out[0] > 20.0, "{out:?}");

    // What says that it is another tenant's stays with that one.
    host.ok(&["tenant", "set", "acme", "--rate-out", "8mbit"]);
    let shared = trunks(&host).remove(0);
    ip(&["link", "set", &shared, "alias", "bulkhead tenant=other"]);
    host.ok(&["kill", "w"]);
    assert_eq!(trunks(&host), [&*shared]);
    ip(&["link", "delete", &shared]);

    // Of one whose record somebody has removed it is named, and goes.
    host.ok(&["start", "w"]);
    let shared = trunks(&host).remove(0);
    let alias = format!("/sys/class/net/{shared}/ifalias");
    let alias = std::fs::read_to_string(alias).expect("it is there");
    host.ok(&["delete", "--force", "w"]);
    assert_eq!(trunks(&host), [""; 0]);
    ip(&["link", "add", &shared, "type", "ifb"]);
    ip(&["link", "set", &shared, "alias", alias.trim_end()]);
    std::fs::remove_file(&record).expect("its record");
    let found = host.run(&["doctor"]).stdout;
    assert!(found.contains("tenant rates"), "{found}");
    host.ok(&["doctor", "--fix"]);
    assert_eq!(trunks(&host), [""; 0]);
}

/// Kills a command, or the launch it makes, at points that it passes, every so many; what is left, `doctor`
/// removes.
fn killed_on_the_way(
    host: &Bulkhead,
    (process, step): (&str, usize),
    args: &[&str],
    again: &mut dyn FnMut(),
) {
    for number in (0..120).step_by(step) {
        let mut command = host.command(args);
        command.env("BULKHEAD_FAULT", format!("{process}:{number}"));
        let done = run(command);
        // A launch that died its command has put away.
        if process != "launch" {
            host.ok(&["doctor", "--fix"]);
        }
        if done.code == 0 {
            assert!(number >= 4, "{args:?}: {number} points");
            return;
        }
        again();
    }
    panic!("{args:?}: more than 120 points");
}

#[test]
fn nothing_is_left_of_shared_rates_wherever_it_is_killed() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["tenant", "create", "acme"]);
    started(&host, "w", &["--tenant", "acme"]);
    let set = [
        "tenant",
        "set",
        "acme",
        "--rate-in",
        "8mbit",
        "--rate-out",
        "8mbit",
    ];
    let none = [
        "tenant",
        "set",
        "acme",
        "--rate-in",
        "none",
        "--rate-out",
        "none",
    ];
    killed_on_the_way(&host, ("command", 2), &set, &mut || {
        // Written down or not, it is so for all after a repair.
        let rate = &data(&host, &["tenant", "info", "acme"])["rate_in"];
        assert_eq!(trunks(&host).len(), if rate.is_null() { 0 } else { 2 });
        host.ok(&none);
    });
    killed_on_the_way(&host, ("command", 3), &none, &mut || {
        host.ok(&set);
    });
    host.ok(&set);
    host.ok(&["kill", "w"]);
    killed_on_the_way(&host, ("launch", 5), &["start", "w"], &mut || {
        // Killed after the guest ran, it may run on.
        if life::is(&host, "w", "stopped") {
            assert_eq!(trunks(&host), [""; 0]);
        } else {
            host.ok(&["kill", "w"]);
        }
    });
    killed_on_the_way(&host, ("command", 2), &["kill", "w"], &mut || {
        host.run(&["kill", "w"]);
        assert_eq!(trunks(&host), [""; 0]);
        host.ok(&["start", "w"]);
    });
    assert_eq!(data(&host, &["doctor"])["leftovers"], serde_json::json!([]));
}
