//! Equal files of guests that share their blocks: what is given back, what stays as it is, and what a
//! hostile guest cannot do to it.

use crate::life;
use crate::life::{data, inside, started};
use crate::support::{Bulkhead, Need, need, run};
use serde_json::json;

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
fn tenants_share_nothing_and_a_broken_guest_holds_up_nobody() {
    if !need(Need::Root) {
        return;
    }
    life::in_a_pool("btrfs", |host, flags| {
        let flags = [flags, &["--network", "none", "--memory", "128M"]].concat();
        for tenant in ["one", "two"] {
            host.ok(&["tenant", "create", tenant]);
        }
        for (name, tenant) in [("a", "one"), ("b", "two"), ("c", "two")] {
            started(host, name, &[&flags[..], &["--tenant", tenant]].concat());
        }
        let script = "yes equal | head -c 1048576 >/equal; sync";
        inside(host, "a", script);
        inside(host, "b", script);
        let done = data(host, &["dedupe", "--pool", "p"]);
        assert_eq!(done["shared"], 0, "{done}");
        assert_eq!(done["failed"], json!([]), "{done}");
        inside(host, "c", script);
        // What it lies over is not known any more.
        let image = host.root().join("var/lib/bulkhead/guests/a/root/image");
        let away = image.with_extension("away");
        std::fs::rename(&image, &away).expect("a guest's own");
        let done = host.run(&["dedupe", "--pool", "p", "--format", "json"]);
        std::fs::rename(&away, &image).expect("a guest's own");
        assert_eq!(done.code, 1, "{}", done.report());
        assert!(done.stderr.contains("guest a: "), "{}", done.report());
        assert!(
            done.stdout.contains("\"shared\": 1,") || done.stdout.contains("\"shared\":1,"),
            "{}",
            done.report()
        );
        for tenant in ["a", "b", "c"] {
            assert_eq!(
                inside(
                    host,
                    tenant,
                    "yes equal | head -c 1048576 | cmp - /equal && echo same"
                ),
                "same"
            );
        }
        host.ok(&["delete", "--all", "--force"]);
    });
}

#[test]
fn where_nothing_can_be_shared_it_is_told() {
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
    let said = host.ok(&["dedupe", "--pool", "q", "--dry-run"]);
    assert!(
        said.contains("files cannot share blocks") && said.contains("1 guests that run"),
        "{said}"
    );
    host.ok(&["delete", "--all", "--force"]);
    host.ok(&["pool", "delete", "q"]);
}

/// Makes an image with some files in `/srv`, and a stopped guest of it that has made some of them its
/// own in every way there is; one as it was.
fn of_a_base(host: &Bulkhead, flags: &[&str]) {
    started(host, "v", &["--network", "none", "--memory", "64M"]);
    let all = "big time mode data linked gone noted";
    inside(
        host,
        "v",
        &format!(
            "mkdir /srv/dir /srv/deep; for one in {all} dir/f deep/f; do head -c 1048576 /dev/zero | tr '\\0' $one \
             >/srv/$one; done; ln -s /etc/passwd /srv/link"
        ),
    );
    host.ok(&["kill", "v"]);
    host.ok(&["image", "publish", "v", "--tag", "base"]);
    host.ok(&["delete", "--yes", "v"]);
    let own = [
        "create",
        "w",
        "--image",
        "base",
        "--network",
        "none",
        "--memory",
        "64M",
        "--start",
    ];
    host.ok(&[&own[..], flags].concat());
    inside(
        host,
        "w",
        "cd /srv; for one in big deep/f; do chmod 600 $one; chmod 644 $one; done; touch time; chmod 600 mode; \
         echo x >>data; chmod 600 linked; chmod 644 linked; ln linked again; rm gone; \
         cp -p dir/f /keep; rm -r dir; mkdir dir; cp -p /keep dir/f; rm link; ln -s /etc/shadow link; sync",
    );
    host.ok(&["kill", "w"]);
}

const LIST: &str = "cd /srv; find . -exec stat -c '%n %s %a %u %Y %h %F' {} \\; | sort; cat big deep/f data link | md5sum";

#[test]
fn what_a_guest_has_as_its_base_has_it_is_there_once() {
    if !need(Need::Root) {
        return;
    }
    for driver in ["", "image"] {
        let host = Bulkhead::new();
        let mut flags: &[&str] = &[];
        let mut pool = "default";
        if driver == "image" {
            host.ok(&["pool", "create", "p", "--driver", "image"]);
            (flags, pool) = (&["--pool", "p", "--disk", "64M"], "p");
        }
        of_a_base(&host, flags);
        host.ok(&["start", "w"]);
        let before = inside(&host, "w", LIST);
        let running = data(&host, &["dedupe", "--pool", pool]);
        assert_eq!(
            (&running["base_running"], &running["base_files"]),
            (&json!(1), &json!(0)),
            "{running}"
        );
        host.ok(&["kill", "w"]);
        let would = data(&host, &["dedupe", "--pool", pool, "--dry-run"]);
        assert_eq!(would["base_files"], 2, "{would}");
        assert!(would["base_bytes"].as_u64() >= Some(2 * MIB), "{would}");
        let done = data(&host, &["dedupe", "--pool", pool]);
        assert_eq!(done["base_files"], 2, "{done}");
        let again = data(&host, &["dedupe", "--pool", pool]);
        assert_eq!(again["base_files"], 0, "{again}");
        if driver.is_empty() {
            let upper = host.root().join("var/lib/bulkhead/guests/w/root/upper/srv");
            assert!(!upper.join("big").exists() && !upper.join("deep/f").exists());
            for kept in ["time", "mode", "data", "linked", "again", "dir/f"] {
                assert!(upper.join(kept).exists(), "{kept}");
            }
        }
        // It sees what it saw, and has its own again when it writes.
        host.ok(&["start", "w"]);
        assert_eq!(inside(&host, "w", LIST), before);
        inside(&host, "w", "echo own >>/srv/big");
        assert_eq!(inside(&host, "w", "tail -c 4 /srv/big"), "own");
        host.ok(&["delete", "w", "--force"]);
    }
}

/// What one step takes no later one counts: by itself, and as what it would do.
#[test]
fn a_dry_run_tells_what_the_run_does() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    host.ok(&["pool", "create", "p", "--driver", "btrfs", "--size", "512M"]);
    of_a_base(host, &[]);
    for (pool, names) in [("p", &["x", "y"][..]), ("default", &["x"])] {
        for name in names {
            host.ok(&["clone", "w", name, "--full", "--pool", pool]);
        }
        let would = data(host, &["dedupe", "--pool", pool, "--dry-run"]);
        let done = data(host, &["dedupe", "--pool", pool]);
        assert_eq!(would, done, "{pool}");
        assert_eq!(would["base_files"], 4, "{would}");
        let number = |key: &str| would[key].as_u64().unwrap_or(0);
        match pool {
            "p" => assert!(number("shared") >= 4, "{would}"),
            // time, mode, data and keep, twice.
            _ => assert_eq!(number("common_files"), 8, "{would}"),
        }
        for name in names {
            host.ok(&["delete", "--yes", name]);
        }
    }
    host.ok(&["delete", "--all", "--force", "--yes"]);
    host.ok(&["pool", "delete", "p"]);
}

#[test]
fn killed_anywhere_a_guest_sees_what_it_saw() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    of_a_base(&host, &[]);
    host.ok(&["start", "w"]);
    let before = inside(&host, "w", LIST);
    host.ok(&["kill", "w"]);
    for number in 0..40 {
        let mut command = host.command(&["dedupe"]);
        command.env("BULKHEAD_FAULT", format!("command:{number}"));
        let done = run(command);
        host.ok(&["doctor", "--fix"]);
        host.ok(&["start", "w"]);
        // The time of a folder from which something went may be that of the command that died.
        let files = |text: &str| {
            let lines = text.lines().filter(|line| !line.ends_with("directory"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(files(&inside(&host, "w", LIST)), files(&before), "{number}");
        inside(
            &host,
            "w",
            "cd /srv; for one in big deep/f; do chmod 600 $one; chmod 644 $one; done",
        );
        host.ok(&["kill", "w"]);
        if done.code == 0 {
            assert!(number >= 2, "{number} points");
            return;
        }
    }
    panic!("more than 40 points");
}
