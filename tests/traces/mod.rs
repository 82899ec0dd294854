//! What an installation has on this machine, found without asking it: mounts, cgroups, interfaces,
//! loop devices, processes, files. Two of these compared show what was left behind.
#![allow(dead_code)] // each test file compiles this for itself and uses a part of it

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// All that can be seen of an installation, one line each.
pub type Traces = BTreeSet<String>;

/// The tag that kernel objects of the installation in `root` carry (FNV-1a of the path).
pub fn tag(root: &Path) -> String {
    let bytes = root.as_os_str().as_encoded_bytes();
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    format!("{hash:08x}")
}

/// Everything of the installation in `root`; of its files those in `run` only, for the others hold
/// what guests write.
pub fn of(root: &Path) -> Traces {
    let mut all = kernel_objects(root);
    all.extend(files(root));
    all
}

/// What the kernel holds of it.
pub fn kernel_objects(root: &Path) -> Traces {
    let mut all = mounts(root);
    all.extend(cgroups(root));
    all.extend(interfaces(root));
    all.extend(firewall(root));
    all.extend(loops(root));
    all.extend(processes(root));
    all
}

/// Its mounts.
pub fn mounts(root: &Path) -> Traces {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("a mounted /proc");
    let root = root.to_string_lossy();
    let ours = table.lines().filter(|line| line.contains(&*root));
    let point = |line: &str| line.split(' ').nth(4).unwrap_or("?").to_owned();
    ours.map(|line| format!("mount {}", point(line))).collect()
}

/// Its cgroups, in every hierarchy.
pub fn cgroups(root: &Path) -> Traces {
    let name = format!("bulkhead-{}", tag(root));
    let table = fs::read_to_string("/proc/self/mounts").expect("a mounted /proc");
    let mut found = Traces::new();
    for line in table.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if matches!(words[2], "cgroup" | "cgroup2") {
            walk_cgroup(Path::new(words[1]), &name, 0, &mut found);
        }
    }
    found
}

fn walk_cgroup(folder: &Path, name: &str, depth: u32, found: &mut Traces) {
    for path in folders(folder) {
        let text = path.to_string_lossy();
        if text.contains(name) {
            found.insert(format!("cgroup {text}"));
            walk_cgroup(&path, name, 0, found);
        } else if depth < 2 {
            // Its parent is at the top, or in a slice of systemd's.
            walk_cgroup(&path, name, depth + 1, found);
        }
    }
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    // A group may go while it is looked at.
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Its interfaces on the host.
pub fn interfaces(root: &Path) -> Traces {
    let tag = tag(root);
    let all = fs::read_dir("/sys/class/net").expect("a mounted /sys");
    let names = all.flatten().map(|entry| entry.file_name());
    names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.contains(&tag))
        .map(|name| format!("interface {name}"))
        .collect()
}

/// Its firewall tables, and the guests that are in them.
pub fn firewall(root: &Path) -> Traces {
    let name = format!("bulkhead-{}", tag(root));
    let mut found = Traces::new();
    for family in ["inet", "bridge"] {
        let list = std::process::Command::new("/usr/sbin/nft")
            .args(["list", "table", family, &name])
            .output();
        // No program, no table.
        let list = list.map_or_else(
            |_| String::new(),
            |done| String::from_utf8_lossy(&done.stdout).into_owned(),
        );
        if list.is_empty() {
            continue;
        }
        found.insert(format!("table {family} {name}"));
        let words = list.split(['"', ' ', '\n', '\t']);
        let guests = words.filter(|word| word.starts_with("bh"));
        found.extend(guests.map(|guest| format!("firewall entry {family} {guest}")));
    }
    found
}

/// Loop devices on its files.
pub fn loops(root: &Path) -> Traces {
    let all = fs::read_dir("/sys/block").expect("a mounted /sys");
    all.flatten()
        .filter_map(|entry| {
            let file = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
            let ours = file.contains(&*root.to_string_lossy());
            ours.then(|| format!("loop {} {}", entry.file_name().display(), file.trim()))
        })
        .collect()
}

/// Processes that name its folder, or are in its cgroups; but for the dead.
pub fn processes(root: &Path) -> Traces {
    let (text, group) = (root.to_string_lossy(), format!("bulkhead-{}", tag(root)));
    let mut found = Traces::new();
    for entry in fs::read_dir("/proc").expect("a mounted /proc").flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let (command, groups) = (read("cmdline"), read("cgroup"));
        let (command, groups) = (
            String::from_utf8_lossy(&command),
            String::from_utf8_lossy(&groups),
        );
        // The dead wait for a parent, which may take its time; one that was collected meanwhile has
        // no status any more.
        let status = read("status");
        let dead = status.is_empty() || String::from_utf8_lossy(&status).contains("State:\tZ");
        // Under systemd one process sleeps in the guests' service as long as there is that.
        let holder = groups.contains(".holder") && command.contains("sleep\0infinity");
        if pid != std::process::id()
            && !dead
            && !holder
            && (command.contains(&*text) || groups.contains(&group))
        {
            found.insert(format!("process {pid} {}", command.replace('\0', " ")));
        }
    }
    found
}

/// Its files in `run`.
pub fn files(root: &Path) -> Traces {
    let mut found = Traces::new();
    list(&root.join("run"), &mut found);
    found
}

/// All files below a folder.
pub fn list(folder: &Path, found: &mut Traces) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        found.insert(format!("file {}", entry.path().display()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), found);
        }
    }
}

/// Half-written and half-removed things among the files that last. (One inside a guest's tree is
/// removed by its next start.)
pub fn debris(root: &Path) -> Traces {
    fn walk(folder: &Path, found: &mut Traces) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            if name.starts_with('.') || name.starts_with("tmp-") {
                found.insert(format!("file {}", path.display()));
            } else if name != "root" && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&path, found);
            }
        }
    }
    let mut found = Traces::new();
    walk(&root.join("var"), &mut found);
    walk(&root.join("run"), &mut found);
    found
}

/// What is in `after` and was not in `before`.
pub fn new(before: &Traces, after: &Traces) -> Vec<String> {
    after.difference(before).cloned().collect()
}
