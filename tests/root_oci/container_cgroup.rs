//! Control groups of OCI containers on the running kernel, whichever version it has: made at a path
//! of the client's with what the Spec says, changed, frozen, signalled, taken away with nothing left.
//! Needs root and writable control groups. What values become which files is tested beside
//! `plan::cgroup`; guests' groups are in `root_share/cgroup.rs`.

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bulkhead::kernel::cgroup::{CgroupError, Cgroups, Frozen, Host};
use bulkhead::model::{CgroupHost, CgroupMode, CgroupPlace, CgroupPlan};
use bulkhead::plan::cgroup::{Container, plan, update};

const WAIT: Duration = Duration::from_secs(5);

/// A path for one test, and what is below it in every hierarchy.
struct Ground {
    host: Host,
    top: String,
}

impl Ground {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        Self {
            host: Host::detect().unwrap(),
            top: format!("/bhtest-oci-{}-{n}", std::process::id()),
        }
    }

    fn facts(&self) -> CgroupHost {
        CgroupHost::from(&self.host)
    }

    fn plan(&self, json: &str) -> CgroupPlan {
        let path = format!("{}/pod/web", self.top);
        let container = Container {
            id: "web",
            cgroups_path: Path::new(&path),
            annotations: None,
            systemd: false,
        };
        let resources = serde_json::from_str(json).unwrap();
        plan(&container, Some(&resources), &self.facts()).unwrap()
    }

    fn change(&self, place: &CgroupPlace, json: &str) -> CgroupPlan {
        let resources = serde_json::from_str(json).unwrap();
        update(place, &resources, &self.facts()).unwrap()
    }

    fn create(&self, json: &str) -> Cgroups {
        Cgroups::create(&self.host, &self.plan(json)).unwrap()
    }

    fn mounts(&self) -> Vec<PathBuf> {
        self.host
            .v1
            .values()
            .chain(&self.host.v2)
            .cloned()
            .collect()
    }

    /// Folders of this test that are there.
    fn left(&self) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = self
            .mounts()
            .iter()
            .map(|at| at.join(&self.top[1..]))
            .collect();
        all.retain(|path| path.exists());
        all
    }

    fn v1(&self, controller: &str) -> bool {
        self.host.v1.contains_key(controller)
    }

    /// A control file, under its name in the version that has the controller.
    fn read(&self, controller: &str, v1: &str, v2: &str) -> String {
        let (at, file) = match self.host.v1.get(controller) {
            Some(at) => (at, v1),
            None => (self.host.v2.as_ref().unwrap(), v2),
        };
        let path = at.join(&self.top[1..]).join("pod/web").join(file);
        let text = std::fs::read_to_string(&path);
        text.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
            .trim()
            .to_owned()
    }

    fn memory(&self) -> String {
        self.read("memory", "memory.limit_in_bytes", "memory.max")
    }

    fn pids(&self) -> String {
        self.read("pids", "pids.max", "pids.max")
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let place = CgroupPlace {
            path: PathBuf::from(format!("{}/pod/web", self.top)),
            scope: None,
            made: Vec::new(),
        };
        let left = self.left();
        let removed = Cgroups::remove_at(&self.host, &place);
        for at in self.mounts() {
            for path in ["/pod", ""] {
                let _gone = std::fs::remove_dir(at.join(format!("{}{path}", &self.top[1..])));
            }
        }
        if !std::thread::panicking() {
            removed.unwrap();
            assert_eq!(left, [""; 0].map(PathBuf::from), "left behind");
        }
    }
}

/// A shell inside the groups; its standard output is a pipe.
fn shell(ground: &Ground, groups: &Cgroups, script: &str) -> Child {
    let inside = Cgroups::open(&ground.host, groups.place()).unwrap();
    let v2 = groups.v2_fd().map(|fd| fd.try_clone_to_owned().unwrap());
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let enter = move || -> std::io::Result<()> {
        use rustix::fs::{Mode, OFlags};
        if let Some(v2) = &v2 {
            let procs = rustix::fs::openat(v2, c"cgroup.procs", OFlags::WRONLY, Mode::empty())?;
            rustix::io::write(&procs, b"0")?;
        }
        inside.enter_self().map_err(std::io::Error::other)
    };
    // SAFETY: between fork and exec `enter` makes only system calls on descriptors it owns, and
    // allocates nothing unless one of them fails.
    unsafe { command.pre_exec(enter) };
    command.spawn().unwrap()
}

fn line(child: &mut Child) -> String {
    let mut text = String::new();
    let out = child.stdout.as_mut().unwrap();
    BufReader::new(out).read_line(&mut text).unwrap();
    text.trim().to_owned()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + WAIT;
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come true");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const USUAL: &str = r#"{"memory":{"limit":67108864,"swap":134217728},"pids":{"limit":50},
    "cpu":{"shares":2048,"quota":25000,"period":50000},
    "devices":[{"allow":false,"access":"rwm"},
        {"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#;

#[test]
fn what_the_spec_says_is_in_force_and_nothing_is_left() {
    let ground = Ground::new();
    let groups = ground.create(USUAL);
    assert_eq!(ground.memory(), "67108864");
    let swap = ground.read("memory", "memory.memsw.limit_in_bytes", "memory.swap.max");
    assert_eq!(
        swap,
        if ground.v1("memory") {
            "134217728"
        } else {
            "67108864"
        }
    );
    assert_eq!(ground.pids(), "50");
    let quota = ground.read("cpu", "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(
        quota,
        if ground.v1("cpu") {
            "25000"
        } else {
            "25000 50000"
        }
    );
    if ground.v1("devices") {
        let list = ground.read("devices", "devices.list", "");
        assert!(
            list.contains("c 1:11 r") && !list.contains("a *:*"),
            "{list}"
        );
    }
    assert!(!groups.binds().is_empty());
    groups.remove(&ground.host).unwrap();
    groups.remove(&ground.host).unwrap();
}

#[test]
fn only_listed_devices_open() {
    let ground = Ground::new();
    let list = r#"{"devices":[{"allow":false,"access":"rwm"},
        {"allow":true,"type":"c","major":1,"access":"rwm"},
        {"allow":false,"type":"c","major":1,"minor":11,"access":"w"}]}"#;
    let mut groups = ground.create(list);
    let script = "for f in '</dev/null' '>/dev/null' '</dev/kmsg' '>/dev/kmsg' '<>/dev/kmsg'; do \
                  if (eval \": $f\") 2>/dev/null; then printf 'yes '; else printf 'no '; fi; done; echo";
    let mut child = shell(&ground, &groups, script);
    let said = line(&mut child);
    child.wait().unwrap();
    assert_eq!(said, "yes yes yes no no");
    // In a running container a new list takes the place of the old one, whole.
    let list = r#"{"devices":[{"allow":false,"access":"rwm"},
        {"allow":true,"type":"c","major":1,"minor":11,"access":"w"}]}"#;
    for _ in 0..2 {
        let change = ground.change(groups.place(), list);
        groups.update(&ground.host, &change).unwrap();
        let mut child = shell(&ground, &groups, script);
        let said = line(&mut child);
        child.wait().unwrap();
        assert_eq!(said, "yes yes no yes no");
        groups = Cgroups::open(&ground.host, groups.place()).unwrap();
    }
    groups.remove(&ground.host).unwrap();
}

#[test]
fn processes_are_inside_frozen_signalled_and_killed() {
    let ground = Ground::new();
    let groups = ground.create(USUAL);
    let mut child = shell(
        &ground,
        &groups,
        "trap 'echo term' TERM; sleep 1000 & echo up; while :; do wait; done",
    );
    assert_eq!(line(&mut child), "up");
    until("two inside", || groups.pids(true).unwrap().len() == 2);
    assert_eq!(groups.pids(false).unwrap().len(), 2);
    let place = groups.place();
    assert!(!Frozen::of(&ground.host).is(place).unwrap());
    groups.freeze().unwrap();
    assert!(groups.is_frozen().unwrap());
    assert!(Frozen::of(&ground.host).is(place).unwrap());
    groups.thaw().unwrap();
    assert!(!groups.is_frozen().unwrap());
    groups.kill(15).unwrap();
    assert_eq!(line(&mut child), "term");
    // Frozen processes die too.
    groups.freeze().unwrap();
    groups.kill(9).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    until("nobody inside", || groups.pids(true).unwrap().is_empty());
    groups.remove(&ground.host).unwrap();
    assert!(!Frozen::of(&ground.host).is(place).unwrap());
}

#[test]
fn removal_kills_what_is_left_at_any_depth() {
    let ground = Ground::new();
    let groups = ground.create("{}");
    let mut child = shell(&ground, &groups, "sleep 1000 & echo up; wait");
    assert_eq!(line(&mut child), "up");
    for at in ground.mounts() {
        let web = at.join(&ground.top[1..]).join("pod/web");
        if web.exists() {
            std::fs::create_dir_all(web.join("a/b")).unwrap();
        }
    }
    let reaper = std::thread::spawn(move || child.wait().unwrap());
    groups.remove(&ground.host).unwrap();
    assert_eq!(reaper.join().unwrap().signal(), Some(9));
}

#[test]
fn limits_go_up_and_down_while_it_runs() {
    let ground = Ground::new();
    let mut groups = ground.create(USUAL);
    let mut child = shell(&ground, &groups, "echo up; sleep 1000");
    assert_eq!(line(&mut child), "up");
    let memory = |limit: u64, swap: u64| {
        format!(r#"{{"memory":{{"limit":{limit},"swap":{swap}}},"cpu":{{"burst":1000}}}}"#)
    };
    for limit in [256_u64 << 20, 32 << 20, 512 << 20] {
        let json = memory(limit, limit * 3 / 2);
        let change = ground.change(groups.place(), &json);
        groups.update(&ground.host, &change).unwrap();
        assert_eq!(ground.memory(), limit.to_string());
    }
    // CPUs were not chosen when it was made; now its processes have to be there.
    let change = ground.change(groups.place(), r#"{"cpu":{"cpus":"0"}}"#);
    groups.update(&ground.host, &change).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    child.kill().unwrap();
    child.wait().unwrap();
    groups.remove(&ground.host).unwrap();
}

#[test]
fn a_refused_change_leaves_everything_as_it_was() {
    let ground = Ground::new();
    let mut groups = ground.create(USUAL);
    let json = r#"{"pids":{"limit":7},"memory":{"limit":33554432,"swap":33554432},
        "cpu":{"quota":25000,"period":1}}"#;
    let change = ground.change(groups.place(), json);
    let error = groups.update(&ground.host, &change).unwrap_err();
    assert!(error.to_string().contains("cpu."), "{error}");
    assert_eq!(
        (ground.pids().as_str(), ground.memory().as_str()),
        ("50", "67108864")
    );
    groups.remove(&ground.host).unwrap();
}

#[test]
fn a_group_in_use_is_refused_and_an_empty_one_taken() {
    let ground = Ground::new();
    let groups = ground.create(USUAL);
    let again = ground.create("{}");
    let mut child = shell(&ground, &groups, "echo up; sleep 1000");
    assert_eq!(line(&mut child), "up");
    let refused = Cgroups::create(&ground.host, &ground.plan("{}")).unwrap_err();
    assert!(matches!(refused, CgroupError::Occupied { .. }), "{refused}");
    assert!(!ground.left().is_empty(), "what was there stays");
    groups.kill(9).unwrap();
    child.wait().unwrap();
    until("nobody inside", || groups.pids(true).unwrap().is_empty());
    groups.freeze().unwrap();
    let refused = Cgroups::create(&ground.host, &ground.plan("{}")).unwrap_err();
    assert!(refused.to_string().contains("frozen"), "{refused}");
    groups.thaw().unwrap();
    assert!(again.place().made.is_empty());
    groups.remove(&ground.host).unwrap();
}

/// Whoever is below would end with the container, in whichever hierarchy: in one, too, in which the
/// container itself would have no group.
#[test]
fn a_group_with_somebody_below_is_refused() {
    let ground = Ground::new();
    for at in ground.mounts() {
        let (top, mut here) = (format!("{}/pod/web/inner", &ground.top[1..]), at.clone());
        for part in top.split('/') {
            let above = here.clone();
            here.push(part);
            std::fs::create_dir(&here).unwrap();
            // Nobody can be in a set without CPUs and memory.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let (true, Ok(all)) = (ground.v1("cpuset"), std::fs::read(above.join(file))) {
                    std::fs::write(here.join(file), all).unwrap();
                }
            }
        }
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        std::fs::write(here.join("cgroup.procs"), child.id().to_string()).unwrap();
        let refused = Cgroups::create(&ground.host, &ground.plan("{}")).unwrap_err();
        let at = at.display();
        assert!(
            matches!(refused, CgroupError::Occupied { .. }),
            "{at}: {refused}"
        );
        assert!(child.try_wait().unwrap().is_none(), "{at}: it was ended");
        child.kill().unwrap();
        child.wait().unwrap();
        for _ in top.split('/') {
            until("nobody inside", || std::fs::remove_dir(&here).is_ok());
            here.pop();
        }
        assert_eq!(ground.left(), [""; 0].map(PathBuf::from), "{at}");
    }
}

/// The usual period is not written into a new group, which has it; one that is taken may have another.
#[test]
fn the_usual_period_holds_in_a_group_that_is_new_and_in_one_that_is_taken() {
    let ground = Ground::new();
    let usual = r#"{"cpu":{"quota":50000,"period":100000}}"#;
    let period = || match ground.v1("cpu") {
        true => ground.read("cpu", "cpu.cfs_period_us", ""),
        false => ground.read("cpu", "", "cpu.max").split_off("50000 ".len()),
    };
    let new = ground.create(usual);
    assert_eq!(period(), "100000");
    new.remove(&ground.host).unwrap();
    let other = ground.create(r#"{"cpu":{"quota":50000,"period":50000}}"#);
    assert_eq!(period(), "50000");
    ground.create(usual);
    assert_eq!(period(), "100000");
    other.remove(&ground.host).unwrap();
}

#[test]
fn a_failed_making_leaves_nothing() {
    let ground = Ground::new();
    for json in [
        r#"{"cpu":{"quota":1,"period":100000}}"#,
        r#"{"cpu":{"cpus":"4095"}}"#,
        r#"{"blockIO":{"throttleReadBpsDevice":[{"major":999,"minor":9,"rate":5}]}}"#,
    ] {
        let error = Cgroups::create(&ground.host, &ground.plan(json)).unwrap_err();
        assert!(error.errno().is_some(), "{error}");
        assert_eq!(ground.left(), [""; 0].map(PathBuf::from), "{json}");
    }
}

#[test]
fn entering_a_container_that_shares_out_controllers() {
    let ground = Ground::new();
    if ground.host.mode != CgroupMode::V2 {
        let groups = ground.create("{}");
        assert_eq!(
            groups.exec_fd(None, false).unwrap().is_some(),
            ground.host.v2.is_some()
        );
        assert_eq!(
            groups.exec_fd(None, true).unwrap().is_some(),
            ground.host.v2.is_some()
        );
        groups.remove(&ground.host).unwrap();
        return;
    }
    let groups = ground.create("{}");
    let own = ground
        .host
        .v2
        .as_ref()
        .unwrap()
        .join(&ground.top[1..])
        .join("pod/web");
    std::fs::create_dir(own.join("init")).unwrap();
    std::fs::write(own.join("cgroup.subtree_control"), "+pids").unwrap();
    let fd = groups.exec_fd(None, false).unwrap().unwrap();
    let there = std::fs::read_link(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd())
    ));
    assert_ne!(there.unwrap(), own);
    groups.remove(&ground.host).unwrap();
}

#[test]
fn counters_have_the_shape_that_clients_read() {
    let ground = Ground::new();
    let groups = ground.create(USUAL);
    let mut child = shell(
        &ground,
        &groups,
        "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo up; sleep 1000",
    );
    assert_eq!(line(&mut child), "up");
    let stats = groups.stats().unwrap();
    let json = serde_json::to_value(&stats).unwrap();
    assert_eq!(json["memory"]["usage"]["limit"], 67_108_864);
    assert_eq!(json["memory"]["swap"]["limit"], 134_217_728);
    assert_eq!(json["pids"]["limit"], 50);
    for pointer in [
        "/memory/usage/usage",
        "/memory/raw/pgfault",
        "/pids/current",
        "/cpu/usage/total",
    ] {
        assert!(
            json.pointer(pointer).unwrap().as_u64().unwrap() > 0,
            "{pointer}: {json:#}"
        );
    }
    assert!(json["cpu"]["throttling"]["periods"].is_u64(), "{json:#}");
    groups.kill(9).unwrap();
    child.wait().unwrap();
    groups.remove(&ground.host).unwrap();
}

#[test]
fn a_kill_for_want_of_memory_is_told() {
    let ground = Ground::new();
    let json = r#"{"memory":{"limit":16777216,"swap":16777216}}"#;
    let groups = ground.create(json);
    let mut watch = groups.oom_watch().unwrap().unwrap();
    assert_eq!(watch.drain(&groups).unwrap(), 0);
    let mut child = shell(
        &ground,
        &groups,
        "x=$(head -c 64M /dev/zero | tr '\\0' a); echo $x | wc -c",
    );
    child.wait().unwrap();
    let mut polled = [rustix::event::PollFd::new(
        &watch,
        rustix::event::PollFlags::IN,
    )];
    let within = rustix::time::Timespec {
        tv_sec: 5,
        tv_nsec: 0,
    };
    assert_eq!(rustix::event::poll(&mut polled, Some(&within)).unwrap(), 1);
    assert!(watch.drain(&groups).unwrap() >= 1);
    groups.remove(&ground.host).unwrap();
}

#[test]
fn a_limit_below_what_is_used_is_refused_if_asked_for() {
    let ground = Ground::new();
    let mut groups = ground.create(USUAL);
    let mut child = shell(&ground, &groups, "echo up; sleep 1000");
    assert_eq!(line(&mut child), "up");
    let json = r#"{"memory":{"limit":4096,"swap":4096,"checkBeforeUpdate":true}}"#;
    let change = ground.change(groups.place(), json);
    let error = groups.update(&ground.host, &change).unwrap_err();
    assert!(error.to_string().contains("checkBeforeUpdate"), "{error}");
    assert_eq!(ground.memory(), "67108864");
    groups.kill(9).unwrap();
    child.wait().unwrap();
    groups.remove(&ground.host).unwrap();
}

#[test]
fn a_systemd_scope_holds_the_container() {
    let ground = Ground::new();
    if !ground.host.systemd {
        println!("SKIP a_systemd_scope_holds_the_container: systemd");
        return;
    }
    let id = format!("t{}", std::process::id());
    let path = format!("bulkheadtest.slice:bhtest:{id}");
    let annotations = [(
        "org.systemd.property.TimeoutStopSec".to_owned(),
        "7".to_owned(),
    )]
    .into();
    let container = Container {
        id: &id,
        cgroups_path: Path::new(&path),
        annotations: Some(&annotations),
        systemd: true,
    };
    let resources = serde_json::from_str(USUAL).unwrap();
    let plan = plan(&container, Some(&resources), &ground.facts()).unwrap();
    let scope = plan.place.scope.clone().unwrap();
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    bulkhead::kernel::cgroup::start_scope(&scope, child.id()).unwrap();
    let mut groups = Cgroups::create(&ground.host, &plan).unwrap();
    groups.enter_pid(child.id().cast_signed()).unwrap();
    let inside = std::fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    let folder = plan.place.path.to_str().unwrap();
    assert!(
        inside
            .lines()
            .all(|l| l.ends_with(folder) || !l.contains("memory") && !l.starts_with("0:")),
        "{inside}"
    );
    // Another container of the same name is refused, and this one stays.
    assert!(bulkhead::kernel::cgroup::start_scope(&scope, std::process::id()).is_err());
    let said = |property: &str| {
        let out = Command::new("systemctl")
            .args(["show", "-P", property, &scope.unit])
            .output();
        String::from_utf8(out.unwrap().stdout)
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(said("TasksMax"), "50");
    assert_eq!(said("TimeoutStopUSec"), "7s");
    // systemd writes what it knows again, and it is the same.
    assert!(
        Command::new("systemctl")
            .arg("daemon-reload")
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(groups.stats().unwrap().memory.usage.limit, 64 << 20);
    let change = ground.change(groups.place(), r#"{"pids":{"limit":60}}"#);
    bulkhead::kernel::cgroup::change_scope(change.place.scope.as_ref().unwrap()).unwrap();
    groups.update(&ground.host, &change).unwrap();
    assert_eq!(said("TasksMax"), "60");
    groups.kill(9).unwrap();
    child.wait().unwrap();
    groups.remove(&ground.host).unwrap();
    bulkhead::kernel::cgroup::stop_scope(&scope).unwrap();
    bulkhead::kernel::cgroup::stop_scope(&scope).unwrap();
    assert_eq!(said("LoadState"), "not-found");
    let _slice = Command::new("systemctl")
        .args(["stop", "bulkheadtest.slice"])
        .status();
}

#[test]
fn who_may_not_make_groups_is_told_apart() {
    let ground = Ground::new();
    let plan = ground.plan("{}");
    // Permission to write goes with the user's number on the file system, of this thread alone.
    nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
    let refused = Cgroups::create(&ground.host, &plan).unwrap_err();
    nix::unistd::setfsuid(nix::unistd::Uid::from_raw(0));
    assert!(refused.is_denied(), "{refused}");
}
