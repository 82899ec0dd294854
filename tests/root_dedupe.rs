//! Equal files of guests that share their blocks: what is given back, what stays as it is, and what a
//! hostile guest cannot do to it.

mod life;
mod support;

use life::{data, inside, started};
use serde_json::json;
use support::{Bulkhead, Need, need, run};

/// Bytes in use on the pool's filesystem.
fn used(host: &Bulkhead) -> u64 {
    let pool = host.root().join("var/lib/bulkhead/pools/p");
    let mut sync = std::process::Command::new("sync");
    sync.args(["-f", pool.to_str().expect("a plain path")]);
    assert_eq!(run(sync).code, 0);
    let mut df = std::process::Command::new("df");
    df.args(["-B1", "--output=used", pool.to_str().expect("a plain path")]);
    let text = run(df).stdout;
    let last = text.lines().last().expect("a line");
    last.trim().parse().expect("a number")
}

const MIB: u64 = 1 << 20;

#[test]
fn equal_files_of_running_guests_share_their_blocks() {
    if !need(Need::Root) {
        return;
    }
    life::in_a_pool("btrfs", |host, flags| {
        let flags = [flags, &["--network", "none", "--memory", "128M"]].concat();
        for name in ["a", "b"] {
            started(host, name, &flags);
        }
        // The same 8 MiB twice, with nothing equal within; and one that differs in its last byte.
        let script =
            "i=0; while [ $i -lt 16384 ]; do printf '%0512d' $i; i=$((i+1)); done >/big; sync";
        for name in ["a", "b"] {
            inside(host, name, script);
            inside(
                host,
                name,
                "cp /big /other; printf $(hostname) >>/other; sync",
            );
        }
        let before = used(host);
        let would = data(host, &["dedupe", "--pool", "p", "--dry-run"]);
        assert!(
            would["bytes"].as_u64().expect("a number") >= 8 * MIB,
            "{would}"
        );
        assert_eq!(would["changed"], 0, "{would}");
        assert!(used(host) + MIB > before, "nothing is shared yet");
        let done = data(host, &["dedupe", "--pool", "p"]);
        assert_eq!(done["bytes"], would["bytes"], "{done}");
        let after = used(host);
        assert!(before > after + 7 * MIB, "{before} and {after}");
        let again = data(host, &["dedupe", "--pool", "p"]);
        assert_eq!(
            (&again["shared"], &again["bytes"]),
            (&json!(0), &json!(0)),
            "{again}"
        );
        assert!(again["already"].as_u64() > Some(0), "{again}");
        // Who writes has its own again, and nobody else has it.
        inside(
            host,
            "a",
            "printf mine | dd of=/big conv=notrunc 2>/dev/null; sync",
        );
        assert_eq!(inside(host, "b", "head -c 8 /big"), "00000000");
        assert_eq!(inside(host, "a", "head -c 8 /big"), "mine0000");
        assert_eq!(inside(host, "a", "tail -c 1 /other"), "a");
        assert_eq!(inside(host, "b", "tail -c 1 /other"), "b");
        host.ok(&["delete", "--all", "--force"]);
    });
}

#[test]
fn a_hostile_guest_is_passed_over() {
    if !need(Need::Root) {
        return;
    }
    life::in_a_pool("btrfs", |host, flags| {
        let flags = [flags, &["--network", "none", "--memory", "128M"]].concat();
        for name in ["a", "b"] {
            started(host, name, &flags);
            inside(
                host,
                name,
                "yes equal | head -c 65536 >/equal; ln /equal /again; mkfifo /fifo; \
                 ln -s /proc/1/root/etc/shadow /link; truncate -s 1T /hole; mkdir /moves; \
                 n=$(printf 'x%.0s' $(seq 200)); i=0; (cd /moves; while [ $i -lt 30 ]; do mkdir $n; \
                 cd $n; i=$((i+1)); done; cp /equal .) 2>/dev/null; sync; true",
            );
        }
        // Folders and files that are never the same for long.
        inside(
            host,
            "b",
            "(while :; do mv /moves /moved; mv /moved /moves; cp /equal /x; mv /x /y; rm /y; \
             done >/dev/null 2>&1 &) ; true",
        );
        for _ in 0..5 {
            let done = data(host, &["dedupe", "--pool", "p"]);
            assert!(done["files"].as_u64() > Some(0), "{done}");
        }
        for name in ["a", "b"] {
            let sum = inside(
                host,
                name,
                "yes equal | head -c 65536 | cmp - /equal && stat -c %h /again",
            );
            assert_eq!(sum, "2");
        }
        host.ok(&["delete", "--all", "--force"]);
    });
}

#[test]
fn where_nothing_can_be_shared_it_is_refused() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let said = host.fails(&["dedupe", "--pool", "none"], 5);
    assert!(said.contains("none"), "{said}");
    host.ok(&["pool", "create", "q", "--driver", "image"]);
    started(
        &host,
        "w",
        &["--network", "none", "--pool", "q", "--disk", "32M"],
    );
    let said = host.fails(&["dedupe", "--pool", "q", "--dry-run"], 5);
    assert!(said.contains("cannot let files share blocks"), "{said}");
    host.ok(&["delete", "--all", "--force"]);
    host.ok(&["pool", "delete", "q"]);
}
