//! What a client may be led to hand to the OCI runtime: FIFOs and devices where a file is expected,
//! configurations that are too large, too deep or contradict themselves, names of containers that
//! are paths. Each is refused soon, in few words, and nothing is left.
//!
//! What an image can do is in `root_oci/paths.rs`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::bundle::{Bundle, Site, ready};
use crate::{bundle, clients, support};
use serde_json::json;

/// A FIFO, a device, a socket where a file is read: refused at once, or as good as missing.
#[test]
fn a_fifo_keeps_nobody_waiting() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let fifo = site.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let soon = |what: &str, code: i32, act: &dyn Fn() -> support::Outcome| {
        let began = Instant::now();
        let done = act();
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{what}: {:?}",
            began.elapsed()
        );
        assert_eq!(done.code, code, "{what}: {}", done.report());
    };
    let mut bundle = site.bundle("c", "echo $HOME; sleep 0.1");
    let passwd = bundle.root().join("etc/passwd");
    nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRWXU).unwrap();
    soon("/etc/passwd", 0, &|| site.run_in(&bundle, "c"));
    let kinds = bundle.config["linux"]["namespaces"].clone();
    for path in [
        fifo.as_path(),
        Path::new("/dev/zero"),
        Path::new("/dev/tty"),
        Path::new("/etc/passwd"),
    ] {
        for kind in ["network", "ipc", "uts", "pid", "cgroup", "mount"] {
            let mut list = kinds.clone();
            for one in list.as_array_mut().unwrap() {
                if one["type"] == kind {
                    one["path"] = json!(path);
                }
            }
            bundle.config["linux"]["namespaces"] = list;
            bundle.write();
            soon(kind, 1, &|| site.run_in(&bundle, "c"));
        }
    }
    bundle.config["linux"]["namespaces"] = kinds;
    bundle.program(&["sleep", "1000"]);
    site.started(&bundle, "d");
    let at = fifo.to_string_lossy().into_owned();
    soon("--process", 255, &|| site.run(&["exec", "-p", &at, "d"]));
    soon("--process", 255, &|| {
        site.run(&["exec", "-p", "/dev/zero", "d"])
    });
    soon("--resources", 1, &|| site.run(&["update", "-r", &at, "d"]));
    soon("--console-socket", 255, &|| {
        site.run(&["exec", "-t", "--console-socket", &at, "d", "true"])
    });
    let config = bundle.folder.join("config.json");
    for make in ["mkfifo", "ln -s /dev/zero", "mkdir", "mknod -m 644"] {
        let _ = fs::remove_file(&config);
        let end = if make.starts_with("mknod") {
            "c 1 5"
        } else {
            ""
        };
        clients::succeed_in_shell(&format!("{make} {} {end}", config.display()));
        soon(make, 1, &|| site.run_in(&bundle, "e"));
        let _ = fs::remove_dir(&config);
    }
    // The state is ours; whoever can write there is root. Still nothing hangs.
    let state = site.path("state/d/state");
    let kept = fs::read(&state).unwrap();
    fs::remove_file(&state).unwrap();
    nix::unistd::mkfifo(&state, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for args in [&["state", "d"][..], &["kill", "d"], &["delete", "d"]] {
        soon(args[0], 1, &|| site.run(args));
    }
    soon("list", 0, &|| site.run(&["list"]));
    fs::remove_file(&state).unwrap();
    fs::write(&state, kept).unwrap();
}

/// Runs a bundle that must be refused, soon and without a trace.
#[track_caller]
fn refused(site: &Site, bundle: &Bundle, what: &str) -> String {
    let began = Instant::now();
    let done = site.run_in(bundle, "c");
    assert_ne!(done.code, 0, "{what}: {}", done.report());
    assert!(!done.stderr.contains("panicked"), "{what}: {}", done.stderr);
    assert!(
        done.stderr.len() < 10_000,
        "{what}: {} bytes of complaint",
        done.stderr.len()
    );
    let passed = began.elapsed();
    assert!(passed < Duration::from_secs(30), "{what}: {passed:?}");
    site.is_clean(what);
    done.stderr
}

#[test]
fn hostile_configurations_are_refused() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let bundle = site.bundle("c", "exit 0");
    let config = bundle.folder.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let annotations = format!(r#"{{"annotations": {{"a": "{}"}}, "#, "x".repeat(20 << 20));
    for (what, text) in [
        ("nothing", String::new()),
        ("half of it", text[..text.len() / 2].to_owned()),
        (
            "an unknown key that is deep",
            text.replacen('{', &format!(r#"{{"deep": {deep}, "#), 1),
        ),
        (
            "a known key that is deep",
            format!(r#"{{"mounts": {deep}}}"#),
        ),
        ("20 MiB", text.replacen('{', &annotations, 1)),
        ("no object", "[1, 2]".into()),
        ("bytes", "\0\0\0".into()),
    ] {
        fs::write(&config, text).unwrap();
        if what.starts_with("an unknown") {
            // Skipped without recursion, or refused: not a crash.
            let done = site.run_in(&bundle, "c");
            assert!((0..=1).contains(&done.code), "{what}: {}", done.report());
        } else {
            refused(&site, &bundle, what);
        }
    }
    // Long, and no work for long.
    let names: Vec<_> = (0..400_000).map(|n| format!("CAP_X{n}")).collect();
    let mut many = bundle.config.clone();
    many["process"]["capabilities"]["bounding"] = json!(names);
    fs::write(&config, many.to_string()).unwrap();
    let began = Instant::now();
    let done = site.run_in(&bundle, "c");
    assert!(
        done.code == 0 && done.stderr.len() < 10_000,
        "{}",
        done.report()
    );
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    fs::write(&config, text).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(&config)
        .unwrap()
        .set_len(100 << 20)
        .unwrap();
    refused(&site, &bundle, "100 MiB");
}

#[test]
fn hostile_values_are_refused() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let plain = site.bundle("c", "exit 0");
    let long = "x".repeat(1 << 20);
    let many = |n: usize| -> serde_json::Value {
        let one =
            |n: usize| json!({"destination": format!("/m{n}"), "type": "bind", "source": "/usr"});
        (0..n).map(one).collect::<Vec<_>>().into()
    };
    let values = [
        ("/mounts", many(100_000)),
        ("/mounts/0/destination", json!("/a\u{0}b")),
        ("/mounts/0/destination", json!(long)),
        ("/mounts/0/destination", json!("/a".repeat(50_000))),
        ("/mounts/0/destination", json!("")),
        ("/mounts/0/source", json!("\u{0}")),
        ("/mounts/0/type", json!("no\u{0}ne")),
        ("/mounts/0/type", json!(long)),
        ("/mounts/1/options", json!(["size=\u{0}"])),
        ("/mounts/1/options", json!([long])),
        ("/root/path", json!("")),
        ("/root/path", json!("\u{0}")),
        ("/root/path", json!(long)),
        ("/root/path", json!("config.json")),
        ("/hostname", json!(long)),
        ("/process/args", json!([])),
        ("/process/args", json!([""])),
        ("/process/args", json!(["sh\u{0}"])),
        ("/process/args", json!([long])),
        ("/process/cwd", json!("relative")),
        ("/process/cwd", json!("/\u{0}")),
        ("/process/cwd", json!(long)),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}]),
        ),
        ("/process/oomScoreAdj", json!(i32::MAX)),
        ("/linux/cgroupsPath", json!("/../../../../etc/x")),
        ("/linux/cgroupsPath", json!("a\u{0}b")),
        ("/linux/cgroupsPath", json!(long)),
        ("/linux/rootfsPropagation", json!("everywhere")),
        ("/linux/maskedPaths", json!(["/proc/\u{0}"])),
        ("/linux/readonlyPaths", json!(["\u{0}"])),
        (
            "/linux/devices",
            json!([{"path": "/dev/x\u{0}", "type": "c", "major": 1, "minor": 3}]),
        ),
        (
            "/linux/devices",
            json!([{"path": "/", "type": "c", "major": 1, "minor": 3}]),
        ),
        (
            "/linux/devices",
            json!([{"path": "/dev/..", "type": "c", "major": 1, "minor": 3}]),
        ),
        (
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "c", "major": -7, "minor": 3}]),
        ),
        ("/linux/sysctl", json!({"net/../kernel/core_pattern": "x"})),
        (
            "/linux/uidMappings",
            json!([{"containerID": 4294967295_u32, "hostID": 4294967295_u32, "size": 4294967295_u32}]),
        ),
        ("/hooks", json!({"createRuntime": [{"path": "/bin/\u{0}"}]})),
        ("/hooks", json!({"createRuntime": [{"path": "relative"}]})),
        (
            "/hooks",
            json!({"createRuntime": [{"path": "/bin/true", "env": ["=\u{0}"]}]}),
        ),
        ("/ociVersion", json!(long)),
    ];
    for (at, value) in values {
        let mut bundle = Bundle {
            folder: plain.folder.clone(),
            config: plain.config.clone(),
        };
        let (parent, key) = at.rsplit_once('/').unwrap();
        let what = format!(
            "{at} {}",
            value.to_string().chars().take(60).collect::<String>()
        );
        match (
            key.parse::<usize>(),
            bundle.config.pointer_mut(parent).unwrap(),
        ) {
            (Ok(number), list) => list[number] = value,
            (Err(_), object) => object[key] = value,
        }
        bundle.write();
        let said = refused(&site, &bundle, &what);
        assert!(!said.trim().is_empty(), "{what}");
        assert!(!said.contains("Protocol error"), "{what}: {said}");
    }
}

/// Names are no paths, whatever the command.
#[test]
fn names_are_no_paths() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let victim = site.path("victim");
    fs::create_dir(&victim).unwrap();
    let bundle = site.bundle("c", "exec sleep 1000");
    site.started(&bundle, "c");
    let at = bundle.folder.to_string_lossy().into_owned();
    let absolute = victim.to_string_lossy().into_owned();
    let long = "x".repeat(256);
    let names = [
        "",
        ".",
        "..",
        "../victim",
        "a/b",
        "/",
        &absolute,
        "../state/c",
        ".hidden",
        "a b",
        "a\nb",
        "ä",
        "a*",
        "%s",
        &long,
        &"y".repeat(100_000),
    ];
    for name in names {
        for args in [
            &["create", "-b", &at, name][..],
            &["run", "-b", &at, name],
            &["start", name],
            &["state", name],
            &["kill", name, "9"],
            &["pause", name],
            &["ps", name],
            &["exec", name, "true"],
            &["delete", name],
            &["delete", "-f", name],
        ] {
            let done = site.run(args);
            assert_ne!(done.code, 0, "{args:?}: {}", done.report());
            assert!(
                done.stderr.len() < 2000,
                "{args:?}: {} bytes",
                done.stderr.len()
            );
            assert!(victim.is_dir(), "{args:?}");
        }
    }
    assert_eq!(site.names(), ["c"]);
    // What looks like an option is a name behind `--`, as in runc.
    site.ok(&["delete", "-f", "c"]);
    for name in ["-x", "-", "--force"] {
        assert_eq!(
            bundle::quiet(site.command(&["create", "-b", &at, "--", name])).code,
            0,
            "{name}"
        );
        site.ok(&["delete", "-f", "--", name]);
    }
}
