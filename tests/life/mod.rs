//! Guests as the tests of a guest's life make and look at them. Knows the command line and nothing
//! of the rooms.
#![allow(dead_code)] // each test file compiles this for itself and uses a part of it

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::support::{Bulkhead, Outcome, became, eventually, program, run};

/// A busybox guest, made with these flags.
#[track_caller]
pub fn made(host: &Bulkhead, name: &str, flags: &[&str]) {
    host.ok(&[&["create", name, "--template", "busybox"], flags].concat());
}

/// A busybox guest, made with these flags and started.
#[track_caller]
pub fn started(host: &Bulkhead, name: &str, flags: &[&str]) {
    made(host, name, &[flags, &["--start"]].concat());
}

/// Does something on a host with a pool of a driver, with the flags that put a guest of 32 MiB into
/// it, and removes the pool: whatever was done has to have left it empty.
#[track_caller]
pub fn in_a_pool(driver: &str, act: impl FnOnce(&Bulkhead, &[&str])) {
    let host = Bulkhead::new();
    let size: &[&str] = match driver {
        "btrfs" => &["--size", "512M"],
        _ => &[],
    };
    host.ok(&[&["pool", "create", "p", "--driver", driver], size].concat());
    act(&host, &["--pool", "p", "--disk", "32M"]);
    host.ok(&["pool", "delete", "p"]);
}

/// A busybox guest whose init is a shell with this script; not started.
#[track_caller]
pub fn scripted(host: &Bulkhead, name: &str, script: &str, flags: &[&str]) {
    let file = host.root().join(format!("{name}.toml"));
    let text = format!(
        "template = \"busybox\"\n[init]\ncommand = [\"/bin/sh\", \"-c\", '''{script}''']\n"
    );
    std::fs::write(&file, text).expect("a folder of ours");
    let from = file.to_str().expect("a plain path");
    host.ok(&[&["create", name, "--from", from], flags].concat());
}

/// The processes that answer for a guest of this installation; there should be one.
#[must_use]
pub fn answering(host: &Bulkhead, name: &str) -> Vec<i32> {
    let title = format!("bulkhead: calls of {name}\0");
    let folder = host.root().join(format!("run/bulkhead/guests/{name}"));
    let all = std::fs::read_dir("/proc").expect("procfs");
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let ours =
        |pid: &i32| {
            let shown = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
            shown.starts_with(title.as_bytes())
                && open.into_iter().flatten().flatten().any(|fd| {
                    std::fs::read_link(fd.path()).is_ok_and(|path| path.starts_with(&folder))
                })
        };
    pids.filter(ours).collect()
}

/// Kills a process of ours.
#[track_caller]
pub fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).expect("a process of ours");
}

/// What a shell in the guest prints, without the end of the last line.
#[track_caller]
pub fn inside(host: &Bulkhead, name: &str, line: &str) -> String {
    let text = host.ok(&["exec", name, "--", "sh", "-c", line]);
    text.trim_end().to_owned()
}

/// Size that df shows inside, bytes.
#[track_caller]
pub fn shown(host: &Bulkhead, name: &str) -> u64 {
    let text = inside(host, name, "df -k / | tail -1");
    let kib = text.split_whitespace().nth(1).map(str::parse::<u64>);
    kib.unwrap_or_else(|| panic!("{text}")).expect("a number") * 1024
}

/// Writes until nothing more fits, and says how much did.
#[track_caller]
pub fn filled(host: &Bulkhead, name: &str) -> u64 {
    let script = "dd if=/dev/zero of=/big bs=64k 2>/dev/null; sync; stat -c %s /big";
    let text = inside(host, name, script);
    text.trim().parse().unwrap_or_else(|_| panic!("{text}"))
}

/// What `info` says of a guest, as data.
#[track_caller]
pub fn info(host: &Bulkhead, name: &str) -> Value {
    data(host, &["info", name])
}

/// What a command says, as data.
#[track_caller]
pub fn data(host: &Bulkhead, args: &[&str]) -> Value {
    let text = host.ok(&[args, &["--format", "json"]].concat());
    let once: Once =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"));
    once.0
}

/// JSON in which no object has a key twice: of those, readers take the first or the last.
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(OnceVisitor).map(Self)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Once(one)) = list.next_element()? {
            all.push(one);
        }
        Ok(all.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Value, A::Error> {
        let mut all = serde_json::Map::new();
        while let Some((key, Once(one))) = table.next_entry::<String, Once>()? {
            if all.insert(key.clone(), one).is_some() {
                return Err(A::Error::custom(format!("the key {key} is there twice")));
            }
        }
        Ok(all.into())
    }
}

/// Whether the guest's state is this one.
pub fn is(host: &Bulkhead, name: &str, status: &str) -> bool {
    info(host, name)["status"] == status
}

/// The events of a guest by their names, oldest first.
#[track_caller]
pub fn events(host: &Bulkhead, name: &str) -> Vec<String> {
    let all = data(host, &["events", name]);
    let all = all.as_array().expect("a list");
    let kind = |event: &Value| event["event"].as_str().map(str::to_owned);
    all.iter().filter_map(kind).collect()
}

/// Runs it with this on standard input.
#[track_caller]
pub fn fed(host: &Bulkhead, args: &[&str], input: &str) -> Outcome {
    let mut child = host.command(args);
    child
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = child.spawn().expect("the program");
    // A program that does not read its input is no failure of the test's.
    let _closed = child
        .stdin
        .take()
        .expect("piped")
        .write_all(input.as_bytes());
    let done = child.wait_with_output().expect("a child of ours");
    Outcome {
        code: done.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
    }
}

/// Runs it on a terminal of 33 rows and 77 columns, on which these keys are typed after a second.
#[track_caller]
pub fn on_terminal(host: &Bulkhead, args: &[&str], keys: &str) -> Outcome {
    let quoted = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
    let words: Vec<String> = args.iter().map(|word| quoted(word)).collect();
    let line = format!(
        "stty rows 33 cols 77; exec {} --root {} {}",
        quoted(&program().to_string_lossy()),
        quoted(&host.root().to_string_lossy()),
        words.join(" ")
    );
    // Typed when the program is there, which takes its time on a busy machine. Held open a while: the
    // end of its input would be typed as Ctrl-D.
    let pause = if keys.is_empty() { 1 } else { 3 };
    let script = format!(
        "{{ sleep {pause}; printf {}; sleep 1; }} | TERM=vt100 script -qec {} /dev/null",
        quoted(keys),
        quoted(&line)
    );
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]).stdin(Stdio::null());
    run(shell)
}

/// Everything that refusing a command must leave as it was: every file of the installation with its
/// content, or length and time, and the guests' cgroups. Locks, caches of the host's facts and what
/// is written down about the past are no state of a guest.
pub fn snapshot(host: &Bulkhead) -> BTreeMap<PathBuf, String> {
    // A keeper that has just begun still makes its files.
    for row in data(host, &["list"]).as_array().expect("a list") {
        let name = row["name"].as_str().expect("a name");
        let socket = format!("run/bulkhead/guests/{name}/console.sock");
        let log = format!("var/lib/bulkhead/guests/{name}/console.log");
        eventually("the keeper is at work", 10, || {
            !row["pid"].is_number()
                || (host.root().join(&socket).exists() && host.root().join(&log).exists())
        });
    }
    let mut all = BTreeMap::new();
    collect(host.root(), &mut all);
    for cgroup in cgroups(host) {
        all.insert(cgroup, "cgroup".to_owned());
    }
    all
}

/// Fails if anything is different from what it was, and says what.
#[track_caller]
pub fn unchanged(host: &Bulkhead, before: &BTreeMap<PathBuf, String>) {
    let after = snapshot(host);
    let gone = before.iter().filter(|(path, _)| !after.contains_key(*path));
    let new = after
        .iter()
        .filter(|(path, what)| before.get(*path) != Some(*what));
    let different: Vec<_> = gone.chain(new).collect();
    assert!(different.is_empty(), "changed: {different:#?}");
}

fn collect(folder: &Path, all: &mut BTreeMap<PathBuf, String>) {
    use std::os::unix::fs::MetadataExt;
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = path.symlink_metadata() else {
            continue;
        };
        let text = path.to_string_lossy().into_owned();
        let passing = [
            "/run/bulkhead/locks",
            ".lock",
            "/network/lock",
            "facts.json",
            "/run/bulkhead/cpuinfo",
            // Written anew by being read.
            "/inside/",
        ];
        if passing.iter().any(|part| text.contains(part)) {
            continue;
        }
        if meta.is_dir() {
            all.insert(path.clone(), "folder".to_owned());
            collect(&path, all);
        } else {
            let small = meta.is_file() && meta.len() < 1 << 16;
            let what = match small.then(|| std::fs::read(&path)) {
                Some(Ok(content)) => String::from_utf8_lossy(&content).into_owned(),
                _ => format!("{} {}.{}", meta.len(), meta.mtime(), meta.mtime_nsec()),
            };
            all.insert(path, what);
        }
    }
}

/// The installation's own part of every cgroup hierarchy, as a running guest tells it.
fn cgroups(host: &Bulkhead) -> Vec<PathBuf> {
    let rows = data(host, &["list"]);
    let running = rows.as_array().expect("a list").iter();
    let Some(row) = running.clone().find(|row| row["pid"].is_number()) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for group in groups_of(row["pid"].as_u64().expect("a pid"), &row["name"]) {
        let parent = group.1.parent().expect("a guest's group has a parent");
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        found.extend(
            entries
                .map(|entry| entry.path())
                .filter(|path| path.is_dir()),
        );
    }
    found
}

/// Controllers and folder of each hierarchy that a guest with this first process is limited in.
fn groups_of(pid: u64, name: &Value) -> Vec<(String, PathBuf)> {
    let name = name.as_str().expect("a name");
    let table = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("a running guest");
    let of_line = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let mounts = match controllers {
            "" => ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(str::to_owned),
            list => [list, list.split(',').next()?].map(|name| format!("/sys/fs/cgroup/{name}")),
        };
        let there = |at: &&String| Path::new(at).join("cgroup.procs").exists();
        let mount = mounts.iter().find(there)?;
        // The guest's own group is above those that it has made itself.
        let end = path.find(&format!("/{name}"))? + name.len() + 1;
        let folder = format!("{mount}{}", &path[..end]);
        Some((controllers.to_owned(), PathBuf::from(folder)))
    };
    table.lines().filter_map(of_line).collect()
}

/// What the kernel says of a guest's limit: `memory.limit_in_bytes` on version 1 of cgroups,
/// `memory.max` on version 2.
#[track_caller]
pub fn in_force(host: &Bulkhead, name: &str, controller: &str, one: &str, two: &str) -> String {
    let info = info(host, name);
    let groups = groups_of(info["pid"].as_u64().expect("it runs"), &info["name"]);
    let has = |list: &str| list.split(',').any(|one| one == controller);
    let (folder, file) = match groups.iter().find(|(list, _)| has(list)) {
        Some((_, folder)) => (folder, one),
        None => (
            &groups
                .iter()
                .find(|(list, _)| list.is_empty())
                .expect("v2")
                .1,
            two,
        ),
    };
    let path = folder.join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.trim().to_owned()
}

/// `doctor` finds nothing that is left, at the latest in a moment: the process that tells neighbours of an
/// end may still be at it.
#[track_caller]
pub fn nothing_left(host: &Bulkhead) {
    became(10, || host.run(&["doctor"]).code == 0);
    assert_eq!(data(host, &["doctor"])["leftovers"], serde_json::json!([]));
}

/// Gives this thread, and what it begins, a network like a host's own, with loopback up: addresses that a
/// test names are not in the way of those of another run.
pub fn own_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("root may");
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    assert!(up.expect("ip").success());
}
