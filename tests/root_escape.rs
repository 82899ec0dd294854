//! A hostile tenant: root in its guest, who tries every way out. Each test is a family of ways; what
//! they must find is that nothing of the host is reached, changed or told.
//!
//! That the filter holds whatever the calling convention is in `root_seccomp.rs`; what guests take from
//! each other is in `root_isolation.rs`; archives are in `src/storage/extract_tests.rs`.

mod support;

use std::process::{Command, Stdio};

use support::{Bulkhead, Need, Outcome, need, run};

/// The ways that need only a shell.
const WAYS: &str = include_str!("hostile/ways.sh");

/// An installation with the running guest `evil`, whose first process only sleeps.
fn evil(flags: &[&str]) -> Bulkhead {
    let bulkhead = Bulkhead::new();
    let base = ["create", "evil", "--template", "host", "--start"];
    let init = ["--network", "none", "--init", "/bin/sleep 86400"];
    bulkhead.ok(&[&base[..], &init, flags].concat());
    bulkhead
}

/// What a shell of the guest's root says.
fn shell(bulkhead: &Bulkhead, script: &str) -> Outcome {
    bulkhead.run(&["exec", "evil", "--", "sh", "-c", script])
}

/// `sh -c SCRIPT` on the host, with `$BULKHEAD` for the program and its folder.
fn host_shell(bulkhead: &Bulkhead, script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null());
    let program = support::program();
    command
        .env("BULKHEAD", program)
        .env("BULKHEAD_ROOT", bulkhead.root());
    command
}

#[test]
fn no_known_way_out_is_open() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = evil(&[]);
    let outcome = shell(&bulkhead, WAYS);
    let control = "open: none, only to see that this is told\n";
    assert_eq!(outcome.stdout, control, "{}", outcome.report());
}

/// CVE-2024-21626, CVE-2016-9962: a folder that the caller has open is a way out of the guest's root.
#[test]
fn no_descriptor_of_the_callers_crosses() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = evil(&[]);
    let with = "exec 5</ 7</root 8</etc/shadow 9>/dev/null 6</etc/passwd; cd /etc; ";
    let list = "ls /proc/self/fd";
    let here = |script: &str| run(host_shell(&bulkhead, &format!("{with}{script}")));
    // 3 is the folder that ls itself reads.
    let seen = here(&format!("$BULKHEAD exec evil -- {list}"));
    assert_eq!(seen.stdout, "0\n1\n2\n3\n", "{}", seen.report());
    let seen = here(&format!("$BULKHEAD exec -t evil -- {list}"));
    assert_eq!(seen.stdout, "0  1  2  3\r\n", "{}", seen.report());
    for at in ["</", ">/dev/null 2</", "2>/dev/null 1</"] {
        let outcome = here(&format!("$BULKHEAD exec evil -- true {at}"));
        assert_eq!(outcome.code, 125, "{at}: {}", outcome.report());
    }
    // No working folder leads out, by whatever number.
    let folders = (0..40).map(|n| format!("/proc/self/fd/{n}"));
    let more = [
        "/proc/self/cwd",
        "/proc/1/root/..",
        "../../../..",
        ".",
        "/proc/self/cwd/../..",
    ];
    for folder in folders.chain(more.map(str::to_owned)) {
        let script = format!(
            "$BULKHEAD exec -w {folder} evil -- sh -c 'pwd -P; test -d ./var/lib/bulkhead'"
        );
        let outcome = here(&script);
        let inside = outcome.stdout.starts_with('/') && outcome.code == 1;
        assert!(
            outcome.code == 125 || inside,
            "{folder}: {}",
            outcome.report()
        );
    }

    // Nor does anything reach the guest's first process, or stay open in its keeper.
    bulkhead.ok(&["stop", "evil", "-t", "0s"]);
    let started = here("$BULKHEAD start evil");
    assert_eq!(started.code, 0, "{}", started.report());
    let seen = shell(
        &bulkhead,
        "ls /proc/1/fd; readlink /proc/1/cwd /proc/1/fd/0",
    );
    assert_eq!(seen.stdout, "0\n1\n2\n/\n/dev/pts/0\n", "{}", seen.report());
    for link in keeper_links(&bulkhead) {
        assert!(
            !["/", "/root", "/etc/shadow", "/etc"].contains(&link.as_str()),
            "keeper has {link}"
        );
    }
}

/// What the descriptors and the working folder of `evil`'s keeper are.
fn keeper_links(bulkhead: &Bulkhead) -> Vec<String> {
    let state = bulkhead.root().join("run/bulkhead/guests/evil/state.json");
    let state = std::fs::read_to_string(&state).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let folder = format!("/proc/{}/fd", state["keeper"]["pid"]);
    let links = std::fs::read_dir(folder).unwrap().map(|entry| {
        let link = std::fs::read_link(entry.unwrap().path()).unwrap();
        link.display().to_string()
    });
    links.collect()
}
