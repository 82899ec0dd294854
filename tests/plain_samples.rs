//! Definitions as files: what is in `samples/valid` must mean what its comments say, what is in
//! `samples/invalid` must be refused with the message in its first line. Any text at all must be
//! answered, never crash the reader, and an edit must leave alone what it does not change.

use std::path::Path;

use bulkhead::define::{
    Change, DEFAULT_CAPABILITIES, KEYS, Key, KeyPath, Kind, Profiles, Settings, Sheet, check,
    define, edit, get, resolve,
};
use bulkhead::model::{CgroupMode, CoreScheduling, GuestName, HostFacts};
use proptest::prelude::*;

fn facts() -> HostFacts {
    HostFacts {
        boot_id: String::new(),
        kernel: "6.1.0".into(),
        cgroup_mode: CgroupMode::V2,
        cgroup_v1: Default::default(),
        cgroup_v2: Some("/sys/fs/cgroup".into()),
        cgroup_v2_controllers: Vec::new(),
        swap_accounting: true,
        cpus: "0-1".parse().unwrap(),
        memory: 8 << 30,
        systemd: false,
        can_raise_rlimits: true,
        time_namespace: true,
        read_watch: true,
        core_scheduling: CoreScheduling::Possible,
        last_capability: 39,
        nofile_hard: 1 << 20,
        rlimits_hard: Default::default(),
    }
}

fn name() -> GuestName {
    "sample".parse().unwrap()
}

fn samples(kind: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/samples")
        .join(kind);
    let mut all: Vec<(String, String)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .map(|path| {
            let file = path.file_name().unwrap().to_str().unwrap().to_owned();
            (file, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    all.sort();
    assert!(!all.is_empty());
    all
}

#[test]
fn valid_samples_mean_what_they_say() {
    let profiles = Profiles::load(None).unwrap();
    let mut wrong = Vec::new();
    for (file, text) in samples("valid") {
        let guest = define(&name(), &file, &text, &profiles, &facts()).unwrap();
        for line in text.lines().filter_map(|line| line.strip_prefix("# get ")) {
            let (key, value) = line.split_once(':').unwrap();
            let (value, is) = (value.trim().replace("\\n", "\n"), get(&guest, key).unwrap());
            if is != value {
                wrong.push(format!("{file}: {key} is {is:?}, not {value:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn invalid_samples_are_refused_with_their_message() {
    let profiles = Profiles::load(None).unwrap();
    let mut wrong = Vec::new();
    for (file, text) in samples("invalid") {
        let wanted = text
            .lines()
            .next()
            .unwrap()
            .strip_prefix("# error: ")
            .unwrap();
        match define(&name(), &file, &text, &profiles, &facts()) {
            Ok(_) => wrong.push(format!("{file}: is taken, should be {wanted:?}")),
            Err(error) => {
                let error = error.to_string();
                if !error.contains(wanted) || error.contains('\n') {
                    wrong.push(format!("{file}: {error:?}, should be {wanted:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every fault of a text is told at once, in the order of its lines.
#[test]
fn all_faults_are_told() {
    let text = "processes = \"many\"\n[memroy]\nlimit = 5\n[cpu]\nlimit = 0\ncpusets = 1\n";
    let error = Sheet::parse("web.toml", text).unwrap_err().to_string();
    insta::assert_snapshot!(error, @r#"
    web.toml:1: processes: "many" is not a whole number from 0 to 4294967295
    web.toml:2: unknown key "memroy": did you mean "memory"?
    web.toml:5: cpu.limit: "0" is not a number of CPUs: write a number from 0.01 upwards in steps of 0.01, such as 1.5
    web.toml:6: unknown key "cpusets" in cpu: did you mean "cpuset"?
    "#);
}

/// The page lists every setting, profile and usual capability as the program has them.
#[test]
fn the_page_says_what_the_program_does() {
    let page = include_str!("../docs/definition.md");
    for key in KEYS {
        let live = if key.live { "yes " } else { "" };
        let row = format!(
            "| `{}` | `--{} {}` | {} | {live}|\n",
            key.path, key.flag, key.value, key.help
        );
        assert!(page.contains(&row), "missing or wrong: {row}");
    }
    let profiles = Profiles::load(None).unwrap();
    for profile in profiles.names().map(|name| profiles.get(name).unwrap()) {
        let row = format!("| `{}` | {} |\n", profile.name, profile.description);
        assert!(page.contains(&row), "missing or wrong: {row}");
    }
    for capability in DEFAULT_CAPABILITIES {
        assert!(page.contains(&format!("`{capability}`")), "{capability}");
    }
    let start = page.find("```toml\n").unwrap() + 8;
    let example = &page[start..start + page[start..].find("```").unwrap()];
    define(&name(), "page", example, &profiles, &facts()).unwrap();
    let settings = page.rfind("```toml\n").unwrap() + 8;
    let settings = &page[settings..settings + page[settings..].find("```").unwrap()];
    let usual = Settings::default();
    let said = Settings::parse("page", settings).unwrap();
    assert_eq!(
        (said.ids, said.network.subnet),
        (usual.ids, usual.network.subnet)
    );
}

/// Tables in tables without end would use up the stack.
#[test]
fn deep_texts_are_refused() {
    for deep in [
        format!("{} = 1", ["a"; 100_000].join(".")),
        format!("[sysctls]\n{} = 1", ["a"; 100_000].join(".")),
        format!("[{}]", ["sysctls"; 30_000].join(".")),
        format!("a = {}", "[".repeat(200_000)),
        format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000)),
        "a = { b = ".repeat(20_000),
    ] {
        assert!(Sheet::parse("deep", &deep).is_err());
        assert!(edit(&deep, &[]).is_err());
    }
}

/// As much text as a file may have, made to be slow: answered all the same.
#[test]
fn long_texts_take_no_time() {
    let many = |line: &dyn Fn(usize) -> String, size: usize| {
        (0..).map(line).take(size).collect::<Vec<_>>().concat()
    };
    let start = std::time::Instant::now();
    for (text, good) in [
        (many(&|n| format!("k{n} = 1\n"), 20_000), false),
        (
            format!("[labels]\n{}", many(&|n| format!("k{n} = 1\n"), 1000)),
            true,
        ),
        (
            format!("[labels]\n{}", many(&|n| format!("k{n} = 1\n"), 20_000)),
            false,
        ),
        (
            format!(
                "labels = {{ {} x = 1 }}",
                many(&|n| format!("k{n} = 1, "), 15_000)
            ),
            false,
        ),
        (
            many(&|n| format!("[[tmpfs]]\ntarget=\"/{n}\"\n"), 8_000),
            false,
        ),
        (
            format!(
                "autostart.after = [{}]",
                many(&|n| format!("\"{n}\","), 25_000)
            ),
            false,
        ),
        (format!("{} = 1", "k".repeat(250_000)), false),
        (format!("description = \"{}\"", "k".repeat(250_000)), true),
        (
            format!(
                "[sysctls]\n{}",
                many(&|n| format!("a.b.c.d.k{n} = 1\n"), 13_000)
            ),
            false,
        ),
    ] {
        assert!(text.len() < 256 * 1024);
        assert_eq!(Sheet::parse("long", &text).is_ok(), good, "{}", &text[..40]);
    }
    assert!(
        start.elapsed() < std::time::Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
}

/// What `get` shows, a flag takes, and it means the same.
#[test]
fn values_shown_can_be_set() {
    let profiles = Profiles::load(None).unwrap();
    for (file, text) in samples("valid") {
        let guest = define(&name(), &file, &text, &profiles, &facts()).unwrap();
        for key in KEYS
            .iter()
            .filter(|key| key.path != "access.root_password_hash")
        {
            let shown = get(&guest, key.path).unwrap();
            let texts: Vec<&str> = if shown.is_empty() && key.repeats() {
                Vec::new()
            } else {
                shown.split('\n').collect()
            };
            let changes = key
                .changes(&texts)
                .unwrap_or_else(|e| panic!("{file}: {e}"));
            let set = edit("", &changes).unwrap();
            let sheet = Sheet::parse("set", &set).unwrap();
            let again = resolve(&name(), &sheet, &profiles).unwrap();
            let same = get(&again, key.path).unwrap();
            // Without the profiles below, a list of capabilities begins at the defaults.
            assert_eq!(same, shown, "{file}: {} by {set:?}", key.path);
        }
    }
}

/// Text with `key` taken out says nothing about it any more, and all else as before.
#[test]
fn every_key_can_be_unset() {
    for (file, text) in samples("valid") {
        for key in KEYS {
            let change = (KeyPath { key, item: None }, Change::Unset);
            let after =
                edit(&text, &[change]).unwrap_or_else(|e| panic!("{file}: {}: {e}", key.path));
            let sheet = Sheet::parse(&file, &after).unwrap();
            let options_left = key.path == "template.options";
            assert!(
                options_left || sheet.place(key.path).is_none(),
                "{file}: {}:\n{after}",
                key.path
            );
            let name = key.path.rsplit('.').next().unwrap();
            // A table within the line changes with its keys.
            let kept = |line: &&str| !line.contains(name) && !line.contains('{');
            if !key.has_items() && key.path != "template" {
                let before: Vec<&str> = text.lines().filter(kept).collect();
                let after: Vec<&str> = after.lines().filter(kept).collect();
                assert_eq!(before, after, "{file}: {}", key.path);
            }
        }
    }
}

/// A value for each kind of setting.
fn value_for(key: &Key, n: u32) -> String {
    match key.path {
        "cpu.limit" | "cpu.burst" | "cpu.earn" => format!("{}.{:02}", n % 7, 1 + n % 99),
        "events.throttled" => (1 + n % 100).to_string(),
        "cpu.cpuset" => (n % 8).to_string(),
        "cpu.mode" => ["shared", "dedicated", "pool"][n as usize % 3].into(),
        "cpu.resize" | "memory.resize" => ["fixed", "static", "dynamic"][n as usize % 3].into(),
        "restart.policy" => ["no", "on-failure", "always"][n as usize % 3].into(),
        "view" => ["guest", "host"][n as usize % 2].into(),
        "network.kind" => ["bridge", "none", "host", "lan"][n as usize % 4].into(),
        "network.address" | "network.dns" => format!("10.0.{}.{}", n % 200, n % 100),
        "network.address6" => format!("fd42::{:x}", n % 0xffff),
        "network.allowance_class" => ["all", "external"][n as usize % 2].into(),
        "network.rate_in" | "network.rate_out" | "network.allowance_rate" => {
            format!("{}kbit", 64 + n)
        }
        "network.priority" => ["low", "normal", "high"][n as usize % 3].into(),
        "network.packets" => (10 + n).to_string(),
        "network.new_connections" | "network.connections" => (1 + n).to_string(),
        "network.mac" => format!("02:00:00:00:{:02x}:{:02x}", n / 256 % 256, n % 256),
        "network.firewall" => format!("in accept tcp {}", 1 + n % 60_000),
        "network.forward" => format!("{}:{}/udp", 1 + n % 60_000, 1 + n % 100),
        "cpu.bank" | "init.stop_timeout" | "restart.delay" | "restart.delay_max"
        | "snapshots.every" => {
            format!("{}s", n % 1000)
        }
        "rlimits" => format!("nofile={}", n % 5000),
        "sysctls" => format!("net.core.somaxconn={}", n % 5000),
        "security.add" => "BPF".into(),
        "security.drop" => "KILL".into(),
        _ => match key.kind {
            Kind::Number => (n % 10_000).to_string(),
            Kind::Switch => n.is_multiple_of(2).to_string(),
            Kind::Map => format!("K{}=v{n}", n % 3),
            Kind::Mount => format!("/s{n}:/t{}:ro", n % 3),
            Kind::Tmpfs => format!("/t{}:{}M", n % 3, 1 + n % 9),
            Kind::Device => format!("/dev/d{}", n % 3),
            Kind::IoLimit => format!("/dev/d{}:read={}M", n % 3, 1 + n % 9),
            Kind::Nic => format!("eth{}=lan{},rate_in={}mbit", 1 + n % 3, n % 3, 1 + n % 9),
            Kind::Text | Kind::List | Kind::Words => format!("v{}", n % 1000),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        let _ = Sheet::parse("any", &text);
        let _ = edit(&text, &[]);
        let _ = KeyPath::parse(&text);
    }

    #[test]
    fn any_text_that_looks_like_toml_is_answered(
        text in "(\\[{1,2}|cpu|limit|mount|template|sysctls|=|\"|\\.|\\{|\\}|\\]{1,2}|\n|1|,| ){0,60}"
    ) {
        if let Ok(sheet) = Sheet::parse("any", &text) {
            let guest = resolve(&name(), &sheet, &Profiles::load(None).unwrap());
            if let Ok(guest) = guest {
                let _ = check(&guest, &facts());
            }
        }
    }

    /// A good definition with a piece cut out or put in is either good or refused with a line.
    #[test]
    fn a_damaged_definition_is_answered(
        at in 0_usize..2500, cut in 0_usize..40, put in "[\\PC\n]{0,8}"
    ) {
        let (_, mut text) = samples("valid").swap_remove(1);
        let start = text.floor_char_boundary(at.min(text.len()));
        let end = text.floor_char_boundary((start + cut).min(text.len()));
        text.replace_range(start..end, &put);
        if let Err(error) = Sheet::parse("any", &text) {
            prop_assert!(error.faults.iter().all(|fault| fault.line.is_some()));
        }
    }

    /// Setting one key keeps every line that does not have that key, in order, and the new text
    /// says what was set.
    #[test]
    fn an_edit_keeps_other_lines(which in 0..KEYS.len(), n in 0_u32..100_000, sample in 0_usize..6) {
        let key = &KEYS[which];
        let all = samples("valid");
        let (_, text) = &all[sample % all.len()];
        let value = value_for(key, n);
        let changes = key.changes(&[value]).unwrap();
        let after = edit(text, &changes).unwrap();

        let mut lines = after.lines();
        let mut names: Vec<&str> = vec![key.path.rsplit('.').next().unwrap()];
        // An entry replaces the one with its target; a capability leaves the other list.
        match key.kind {
            Kind::Mount | Kind::Tmpfs | Kind::Device | Kind::IoLimit | Kind::Nic => {
                names.push("/");
            }
            Kind::Text if key.path == "template" => names.push("name"),
            Kind::Words => names.extend(["add", "drop"]),
            Kind::Map => names.extend(["nofile", "somaxconn", "template"]),
            _ => {}
        }
        for line in text.lines() {
            // A table within the line may be the one that gets the key.
            let whole = line.contains('{') || names.iter().any(|name| line.contains(name));
            if !whole {
                prop_assert!(lines.any(|other| other == line), "{line:?} is gone from\n{after}");
            }
        }
        // A second time changes nothing.
        prop_assert_eq!(edit(&after, &changes).unwrap(), after);
    }
}
