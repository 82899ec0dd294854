//! Control groups on the running kernel, whichever version it has: limits hold, refusals keep what
//! was, nothing stays behind. Needs root and writable control groups. Every test has a parent
//! group of its own and takes it away again.

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bulkhead::kernel::cgroup::{
    self, CgroupError, DeviceAccess, DeviceKind, DeviceRule, Group, Host, IoLimit, Limits, Parent,
};
use bulkhead::model::CgroupMode;

const WAIT: Duration = Duration::from_secs(60);

/// A parent group for one test.
struct Ground {
    host: Host,
    name: String,
    lock: PathBuf,
    parent: Parent,
}

impl Ground {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("bhtest-{}-{n}", std::process::id());
        let host = Host::detect().unwrap();
        let lock = std::env::temp_dir().join(format!("{name}.lock"));
        let parent = Parent::ensure(&host, &name, &lock).unwrap();
        Self {
            host,
            name,
            lock,
            parent,
        }
    }

    /// Whether a controller is on version 1: of a hybrid host some may be on version 2.
    fn on_v1(&self, controller: &str) -> bool {
        self.host.v1.contains_key(controller)
    }

    /// The folder of a controller's hierarchy below which our groups are.
    fn folder(&self, v1: &str) -> PathBuf {
        match self.host.v1.get(v1) {
            Some(at) => self.below(at),
            None => self.parent.path().to_owned(),
        }
    }

    /// Our folder in the version 1 hierarchy mounted at `at`.
    fn below(&self, at: &Path) -> PathBuf {
        let root = self.host.v2.as_ref().unwrap();
        let plain = at.join(&self.name);
        if plain.exists() {
            return plain;
        }
        at.join(self.parent.path().strip_prefix(root).unwrap())
    }

    /// A control file of group `g`, under its version 1 or its version 2 name.
    fn read(&self, controller: &str, v1: &str, v2: &str) -> String {
        let file = if self.on_v1(controller) { v1 } else { v2 };
        let path = self.folder(controller).join("g").join(file);
        let text = std::fs::read_to_string(&path);
        text.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
            .trim()
            .to_owned()
    }

    fn memory(&self) -> String {
        self.read("memory", "memory.limit_in_bytes", "memory.max")
    }

    fn quota(&self) -> String {
        let text = self.read("cpu", "cpu.cfs_quota_us", "cpu.max");
        text.split(' ').next().unwrap_or_default().to_owned()
    }

    fn create(&self, limits: &Limits) -> Group {
        Group::create(&self.parent, "g", limits, None).unwrap()
    }

    /// Our folders in all hierarchies.
    fn folders(&self) -> Vec<PathBuf> {
        let mounts = self.host.v1.values().map(|at| self.below(at));
        mounts.chain([self.parent.path().to_owned()]).collect()
    }

    fn left(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = self.folders().iter().map(|f| f.join("g")).collect();
        found.retain(|path| path.exists());
        found
    }
}

impl Ground {
    fn clear(&self) -> cgroup::Result<bool> {
        // Not the one held: under systemd the folder may have been made anew.
        if let Some(parent) = Parent::look(&self.host, &self.name)? {
            for name in cgroup::list(&parent)? {
                Group::open(&parent, &name)?.remove()?;
            }
        }
        cgroup::remove_parent_if_empty(&self.host, &self.name, &self.lock)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let cleared = self.clear();
        let _gone = std::fs::remove_file(&self.lock);
        if std::thread::panicking() {
            return;
        }
        assert!(cleared.unwrap(), "the parent group stayed");
        for folder in self.folders() {
            assert!(!folder.exists(), "{} stayed", folder.display());
        }
    }
}

/// A shell that runs `script` inside; its standard output is a pipe.
fn shell(group: &Group, script: &str) -> Child {
    let guest = group.v2_fd().unwrap().try_clone_to_owned().unwrap();
    spawn_at(group, guest, script)
}

fn spawn_at(group: &Group, v2: std::os::fd::OwnedFd, script: &str) -> Child {
    let inside = group.open_again();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::null());
    let enter = move || -> std::io::Result<()> {
        use rustix::fs::{Mode, OFlags};
        let procs = rustix::fs::openat(&v2, c"cgroup.procs", OFlags::WRONLY, Mode::empty())?;
        rustix::io::write(&procs, b"0")?;
        inside.enter_self().map_err(std::io::Error::other)
    };
    // SAFETY: between fork and exec `enter` makes only system calls on descriptors it owns, and
    // allocates nothing unless one of them fails.
    unsafe { command.pre_exec(enter) };
    command.spawn().unwrap()
}

/// Opens a second handle, for a closure that must own one.
trait Again {
    fn open_again(&self) -> Group;
}

impl Again for Group {
    fn open_again(&self) -> Group {
        let guest = self.v2_guest_path().unwrap();
        let kernel_name = guest.ancestors().nth(2).unwrap();
        let name = kernel_name.file_name().unwrap().to_str().unwrap();
        let name = name.trim_end_matches(".service");
        let parent = Parent::look(&Host::detect().unwrap(), name)
            .unwrap()
            .unwrap();
        Group::open(&parent, self.name()).unwrap()
    }
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

/// The kernel knows a group of version 1 for some 15 ms after it was removed, and the limit that it had.
#[test]
fn a_folder_is_lowered_below_the_limits_of_groups_that_are_gone() {
    let ground = Ground::new();
    let of = |quota| Limits {
        cpu_quota_us: Some(quota),
        ..Limits::default()
    };
    let outer = ground.parent.ensure_folder("outer", &of(50_000)).unwrap();
    for _ in 0..3 {
        ground.parent.limit_folder("outer", &of(50_000)).unwrap();
        let inner = Group::create(&outer, "gone", &of(50_000), None).unwrap();
        inner.remove().unwrap();
        outer.lower_quotas(31_000).unwrap();
        ground.parent.limit_folder("outer", &of(31_000)).unwrap();
    }
    // One that is there, and that nobody has lowered, is refused for good.
    let inner = Group::create(&outer, "there", &of(30_000), None).unwrap();
    if ground.on_v1("cpu") {
        ground
            .parent
            .limit_folder("outer", &of(20_000))
            .unwrap_err();
    }
    inner.remove().unwrap();
    assert!(ground.parent.remove_folder("outer").unwrap());
}

/// A guest that is ending keeps its group for a moment, and with it the limit that it had.
#[test]
fn a_folder_is_lowered_below_the_limits_of_the_groups_in_it() {
    let ground = Ground::new();
    let of = |quota| Limits {
        cpu_quota_us: Some(quota),
        ..Limits::default()
    };
    let outer = ground.parent.ensure_folder("outer", &of(50_000)).unwrap();
    let burst = Limits {
        cpu_burst_us: Some(40_000),
        ..of(50_000)
    };
    let inner = Group::create(&outer, "ending", &burst, None).unwrap();
    let free = Group::create(&outer, "free", &Limits::default(), None).unwrap();
    outer.lower_quotas(31_000).unwrap();
    ground.parent.limit_folder("outer", &of(31_000)).unwrap();
    let limit = |group: &Group| group.counters().unwrap().cpu.map(|cpu| cpu.limit);
    if ground.on_v1("cpu") {
        assert_eq!(limit(&inner), Some(31));
    }
    assert_eq!(limit(&free), None);
    inner.remove().unwrap();
    free.remove().unwrap();
    assert!(ground.parent.remove_folder("outer").unwrap());
}

#[test]
fn limits_are_in_force_as_given() {
    let ground = Ground::new();
    let group = ground.create(&Limits {
        cpu_quota_us: Some(25_000),
        cpu_weight: Some(300),
        cpu_burst_us: Some(5_000),
        memory: Some(64 << 20),
        swap: ground.host.swap_accounting.then_some(16 << 20),
        pids: Some(77),
        ..Limits::default()
    });
    assert_eq!(ground.quota(), "25000");
    let weight = if ground.on_v1("cpu") { "3072" } else { "300" };
    assert_eq!(ground.read("cpu", "cpu.shares", "cpu.weight"), weight);
    assert_eq!(
        ground.read("cpu", "cpu.cfs_burst_us", "cpu.max.burst"),
        "5000"
    );
    assert_eq!(ground.memory(), "67108864");
    if ground.host.swap_accounting {
        let swap = if ground.on_v1("memory") {
            80 << 20
        } else {
            16 << 20
        };
        let file = ground.read("memory", "memory.memsw.limit_in_bytes", "memory.swap.max");
        assert_eq!(file, swap.to_string());
    }
    assert_eq!(ground.read("pids", "pids.max", "pids.max"), "77");
    group.remove().unwrap();
    assert!(ground.left().is_empty(), "{:?}", ground.left());
}

#[test]
fn a_fork_bomb_stops_at_its_limit() {
    let ground = Ground::new();
    let group = ground.create(&Limits {
        pids: Some(12),
        ..Limits::default()
    });
    let script = "i=0; while [ $i -lt 100 ]; do sleep 60 & i=$((i+1)); done; sleep 60";
    let mut child = shell(&group, script);
    // The shell gives up when it cannot fork; what it has started stays.
    child.wait().unwrap();
    let sample = group.stats().unwrap();
    assert!(
        (11..=12).contains(&sample.processes),
        "{}",
        sample.processes
    );
    assert_eq!(group.processes().unwrap().len() as u64, sample.processes);
    assert!(sample.cpu_us > 0);
    group.kill_all(WAIT).unwrap();
    assert!(!group.populated().unwrap());
    assert!(group.processes().unwrap().is_empty());
}

#[test]
fn a_memory_hog_is_killed_and_told_of() {
    let ground = Ground::new();
    let group = ground.create(&Limits {
        memory: Some(32 << 20),
        swap: ground.host.swap_accounting.then_some(0),
        ..Limits::default()
    });
    let mut watch = group.oom_watch(None).unwrap();
    assert_eq!(watch.drain(&group).unwrap(), 0);
    let mut child = shell(&group, "exec tail /dev/zero");
    let fd = watch.as_fd().try_clone_to_owned().unwrap();
    let mut kills = 0;
    until("a report of the kill", || {
        let mut polled = [rustix::event::PollFd::new(
            &fd,
            rustix::event::PollFlags::IN,
        )];
        let second = rustix::event::Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut polled, Some(&second)).unwrap();
        kills += watch.drain(&group).unwrap();
        kills > 0
    });
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    let sample = group.stats().unwrap();
    assert_eq!(sample.oom_kills, kills);
    assert!(sample.memory_peak <= 32 << 20, "{}", sample.memory_peak);
    if sample.memory_peak > 0 {
        assert!(sample.memory_peak > 30 << 20, "{}", sample.memory_peak);
    }
}

#[test]
fn groups_made_inside_are_counted() {
    let ground = Ground::new();
    let group = ground.create(&Limits {
        cgroup_descendants: Some(3),
        ..Limits::default()
    });
    let guest = group.v2_guest_path().unwrap();
    for name in ["a", "a/b", "c"] {
        std::fs::create_dir(guest.join(name)).unwrap();
    }
    let error = std::fs::create_dir(guest.join("d")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
    let again = group.exec_fd(None, true).unwrap_err().to_string();
    assert!(again.contains("limit on the number"), "{again}");
}

#[test]
fn only_the_inner_folder_is_delegated() {
    let ground = Ground::new();
    let limits = Limits {
        memory: Some(1 << 30),
        ..Limits::default()
    };
    let owner = Some((100_000, 100_001));
    let group = Group::create(&ground.parent, "g", &limits, owner).unwrap();
    let guest = group.v2_guest_path().unwrap();
    for file in [
        "",
        "cgroup.procs",
        "cgroup.threads",
        "cgroup.subtree_control",
    ] {
        let meta = std::fs::metadata(guest.join(file)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (100_000, 100_001), "{file}");
    }
    let above = guest.parent().unwrap();
    for path in [
        above.to_owned(),
        above.join("cgroup.procs"),
        guest.join("cgroup.freeze"),
    ] {
        assert_eq!(
            std::fs::metadata(&path).unwrap().uid(),
            0,
            "{}",
            path.display()
        );
    }
    // Its owner can make groups in it, and none beside it.
    let make = |at: &Path| {
        let mut command = Command::new("mkdir");
        command.arg(at).uid(100_000).gid(100_001);
        command.stderr(Stdio::null()).status().unwrap().success()
    };
    assert!(make(&guest.join("mine")));
    assert!(!make(&above.join("mine")));
}

#[test]
fn removal_takes_what_was_made_inside() {
    let ground = Ground::new();
    let group = ground.create(&Limits::default());
    let guest = group.v2_guest_path().unwrap().to_owned();
    let mut deep = guest.clone();
    for n in 0..20 {
        deep.push(format!("deep-{n}-{}", "x".repeat(200)));
        // Beyond the longest path there is, so in small steps from the inside.
        if deep.as_os_str().len() > 3500 {
            deep.pop();
            break;
        }
        std::fs::create_dir(&deep).unwrap();
    }
    for n in 0..300 {
        std::fs::create_dir(guest.join(format!("wide-{n}"))).unwrap();
    }
    let mut child = shell(&group, "sleep 60 & sleep 60 & echo ready; wait");
    assert_eq!(line(&mut child), "ready");
    let pids = group.processes().unwrap();
    assert_eq!(pids.len(), 3);
    std::fs::write(deep.join("cgroup.procs"), pids[1].to_string()).unwrap();
    std::fs::write(guest.join("wide-7/cgroup.procs"), pids[2].to_string()).unwrap();
    assert_eq!(group.processes().unwrap().len(), 3);
    group.remove().unwrap();
    child.wait().unwrap();
    assert!(ground.left().is_empty(), "{:?}", ground.left());
}

#[test]
fn a_refused_change_keeps_what_was() {
    let ground = Ground::new();
    let swap = ground.host.swap_accounting.then_some(0);
    let old = Limits {
        cpu_quota_us: Some(50_000),
        cpu_burst_us: Some(10_000),
        memory: Some(256 << 20),
        swap,
        pids: Some(50),
        ..Limits::default()
    };
    let mut group = ground.create(&old);
    let script = "x=$(head -c 60000000 /dev/zero | tr '\\0' a); echo ready; sleep 60; echo $x";
    let mut child = shell(&group, script);
    assert_eq!(line(&mut child), "ready");
    let error = group
        .update(&Limits {
            cpu_quota_us: Some(20_000),
            memory: Some(16 << 20),
            pids: Some(40),
            ..old.clone()
        })
        .unwrap_err();
    assert_eq!(error.errno(), Some(libc::EBUSY), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("MiB now") && text.contains("memory."),
        "{text}"
    );
    assert_eq!(ground.quota(), "50000");
    assert_eq!(
        ground.read("cpu", "cpu.cfs_burst_us", "cpu.max.burst"),
        "10000"
    );
    assert_eq!(ground.memory(), (256 << 20).to_string());
    assert_eq!(ground.read("pids", "pids.max", "pids.max"), "50");
    assert_eq!(child.try_wait().unwrap(), None, "killed by the change");
    group.kill_all(WAIT).unwrap();
    child.wait().unwrap();
}

#[test]
fn a_change_tells_what_it_changed_and_can_be_undone() {
    let ground = Ground::new();
    let swap = |n| ground.host.swap_accounting.then_some(n);
    let small = Limits {
        cpu_quota_us: Some(20_000),
        cpu_burst_us: Some(20_000),
        memory: Some(64 << 20),
        swap: swap(0),
        pids: Some(50),
        ..Limits::default()
    };
    let mut group = ground.create(&small);
    assert_eq!(group.update(&small).unwrap(), []);
    let large = Limits {
        cpu_quota_us: Some(10_000),
        cpu_burst_us: None,
        memory: Some(512 << 20),
        swap: swap(64 << 20),
        ..small.clone()
    };
    let applied = group.update(&large).unwrap();
    let expected = if ground.host.swap_accounting { 4 } else { 3 };
    assert_eq!(applied.len(), expected, "{applied:?}");
    assert_eq!(ground.memory(), (512 << 20).to_string());
    assert_eq!(ground.quota(), "10000");
    assert_eq!(group.update(&small).unwrap().len(), expected);
    assert_eq!(ground.memory(), (64 << 20).to_string());
    let none = group.update(&Limits::default()).unwrap();
    assert!(
        none.iter()
            .any(|a| a.file.ends_with("pids.max") && a.to == "max")
    );
    assert_eq!(
        ground.quota(),
        if ground.on_v1("cpu") { "-1" } else { "max" }
    );
    assert_eq!(ground.read("pids", "pids.max", "pids.max"), "max");
}

#[test]
fn cpus_are_chosen_changed_and_freed() {
    let ground = Ground::new();
    let one = Limits {
        cpuset: Some("0".to_owned()),
        ..Limits::default()
    };
    let allowed = |child: &Child| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("Cpus_allowed_list:"));
        line.unwrap().split_whitespace().nth(1).unwrap().to_owned()
    };
    let mut group = ground.create(&Limits::default());
    let mut child = shell(&group, "echo ready; sleep 60 & wait");
    assert_eq!(line(&mut child), "ready");
    let all = allowed(&child);
    group.update(&one).unwrap();
    assert_eq!(allowed(&child), "0");
    group.update(&Limits::default()).unwrap();
    assert_eq!(allowed(&child), all);
    let error = group
        .update(&Limits {
            cpuset: Some("4000".to_owned()),
            ..Limits::default()
        })
        .unwrap_err();
    assert!(error.to_string().contains("cpuset.cpus"), "{error}");
    group.remove().unwrap();
    child.wait().unwrap();
    // From the beginning, and for whoever enters later.
    let group = ground.create(&one);
    let mut child = shell(&group, "echo ready; sleep 60 & wait");
    assert_eq!(line(&mut child), "ready");
    assert_eq!(allowed(&child), "0");
    group.remove().unwrap();
    child.wait().unwrap();
    assert!(ground.left().is_empty(), "{:?}", ground.left());
}

#[test]
fn frozen_is_frozen_until_thawed_and_can_be_killed() {
    let ground = Ground::new();
    let group = ground.create(&Limits::default());
    let mut child = shell(&group, "echo ready; while :; do :; done");
    assert_eq!(line(&mut child), "ready");
    group.freeze(WAIT).unwrap();
    assert!(group.frozen().unwrap());
    let before = group.stats().unwrap().cpu_us;
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(group.stats().unwrap().cpu_us, before);
    group.thaw(WAIT).unwrap();
    assert!(!group.frozen().unwrap());
    until("CPU time used after thawing", || {
        group.stats().unwrap().cpu_us > before
    });
    group.freeze(WAIT).unwrap();
    group.kill_all(WAIT).unwrap();
    child.wait().unwrap();
}

fn char_device(major: u32, minor: Option<u32>, access: &str) -> DeviceRule {
    DeviceRule {
        kind: DeviceKind::Char,
        major: Some(major),
        minor,
        access: DeviceAccess::parse(access).unwrap(),
    }
}

#[test]
fn devices_not_named_cannot_be_opened_or_made() {
    let ground = Ground::new();
    let group = ground.create(&Limits {
        devices: Some(vec![
            char_device(1, Some(3), "rwm"),
            char_device(1, Some(9), "r"),
        ]),
        ..Limits::default()
    });
    let folder = std::env::temp_dir().join(&ground.name);
    std::fs::create_dir(&folder).unwrap();
    let folder_text = folder.display().to_string();
    let made = Command::new("sh")
        .args([
            "-c",
            &format!(
                "cd {folder_text} && mknod null c 1 3 && mknod zero c 1 5 && mknod random c 1 9"
            ),
        ])
        .status()
        .unwrap();
    assert!(made.success());
    let tried = |script: &str| {
        let script = format!("cd {folder_text}; {script} && echo yes || echo no");
        let mut child = shell(&group, &script);
        let said = line(&mut child);
        child.wait().unwrap();
        said
    };
    assert_eq!(tried("cat null"), "yes");
    assert_eq!(tried("head -c 1 random >null"), "yes");
    assert_eq!(tried("(echo >random)"), "no");
    assert_eq!(tried("head -c 1 zero >null"), "no");
    assert_eq!(tried("mknod other c 1 5"), "no");
    assert_eq!(tried("mknod again c 1 3"), "yes");
    group.set_devices(&[char_device(1, None, "rw")]).unwrap();
    assert_eq!(tried("head -c 1 zero >null"), "yes");
    assert_eq!(tried("mknod third c 1 3"), "no");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_name_is_taken_once_and_a_failure_leaves_nothing() {
    let ground = Ground::new();
    let group = ground.create(&Limits::default());
    let again = Group::create(&ground.parent, "g", &Limits::default(), None);
    assert!(matches!(again, Err(CgroupError::Exists { .. })));
    assert!(group.v2_guest_path().unwrap().exists());
    group.remove().unwrap();
    assert!(matches!(
        Group::open(&ground.parent, "g"),
        Err(CgroupError::Absent { .. })
    ));
    let wrong = Limits {
        pids: Some(10),
        cpuset: Some("4000".to_owned()),
        ..Limits::default()
    };
    let error = Group::create(&ground.parent, "g", &wrong, None).unwrap_err();
    assert!(error.to_string().contains("cpuset.cpus"), "{error}");
    assert!(ground.left().is_empty(), "{:?}", ground.left());
}

#[test]
fn guarantees_hold_in_version_2_and_are_refused_in_version_1() {
    let ground = Ground::new();
    let limits = Limits {
        memory: Some(256 << 20),
        memory_high: Some(200 << 20),
        memory_low: Some(32 << 20),
        memory_min: Some(16 << 20),
        oom_group: true,
        ..Limits::default()
    };
    let made = Group::create(&ground.parent, "g", &limits, None);
    if ground.on_v1("memory") {
        assert!(matches!(made, Err(CgroupError::Unsupported { .. })));
        assert!(ground.left().is_empty());
        return;
    }
    let mut group = made.unwrap();
    let files = [
        ("memory.high", "209715200"),
        ("memory.low", "33554432"),
        ("memory.min", "16777216"),
        ("memory.oom.group", "1"),
    ];
    for (file, value) in files {
        assert_eq!(ground.read("memory", file, file), value, "{file}");
    }
    group.update(&Limits::default()).unwrap();
    assert_eq!(ground.read("memory", "", "memory.high"), "max");
    assert_eq!(ground.read("memory", "", "memory.oom.group"), "0");
}

/// Numbers of a whole disk, if the machine has one.
fn disk() -> Option<(u32, u32)> {
    let found = std::fs::read_dir("/sys/block").ok()?.flatten().find(|d| {
        let size = std::fs::read_to_string(d.path().join("size")).unwrap_or_default();
        size.trim() != "0" && d.file_name().to_string_lossy().contains("da")
    })?;
    let text = std::fs::read_to_string(found.path().join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[test]
fn block_device_limits_come_and_go() {
    let ground = Ground::new();
    let Some((major, minor)) = disk() else {
        eprintln!("skipped: no disk here");
        return;
    };
    let limits = Limits {
        io: vec![IoLimit {
            major,
            minor,
            rbps: Some(1 << 20),
            wiops: Some(100),
            ..IoLimit::default()
        }],
        ..Limits::default()
    };
    let mut group = ground.create(&limits);
    let read = || ground.read("blkio", "blkio.throttle.read_bps_device", "io.max");
    let device = format!("{major}:{minor}");
    assert!(
        read().starts_with(&device) && read().contains("1048576"),
        "{}",
        read()
    );
    let changed = group.update(&Limits::default()).unwrap();
    assert!(!changed.is_empty());
    assert_eq!(read(), "");
    group.update(&limits).unwrap();
    assert!(read().contains("1048576"));
    let absent = Limits {
        io: vec![IoLimit {
            major: 4000,
            minor: 7,
            rbps: Some(1),
            ..IoLimit::default()
        }],
        ..Limits::default()
    };
    let error = group.update(&absent).unwrap_err();
    assert!(
        error.to_string().contains("no such block device"),
        "{error}"
    );
    assert!(read().contains("1048576"), "not put back: {}", read());
}

#[test]
fn a_process_can_be_added_whatever_the_groups_inside() {
    let ground = Ground::new();
    let group = ground.create(&Limits::default());
    let guest = group.v2_guest_path().unwrap().to_owned();
    let mut children = Vec::new();
    let mut enter = |leaf: bool| {
        let fd = group.exec_fd(Some((100_000, 100_000)), leaf).unwrap();
        let mut child = spawn_at(
            &group,
            fd,
            "cat /proc/self/cgroup | grep ^0; sleep 60 & wait",
        );
        let said = line(&mut child);
        children.push(child);
        said
    };
    assert!(enter(false).ends_with("/g/guest"));
    assert!(enter(true).ends_with("/g/guest/.bulkhead"));
    assert_eq!(
        std::fs::metadata(guest.join(".bulkhead")).unwrap().uid(),
        100_000
    );
    group.kill_all(WAIT).unwrap();
    if !ground.on_v1("pids") {
        std::fs::write(guest.join("cgroup.subtree_control"), "+pids").unwrap();
        assert!(enter(false).ends_with("/g/guest/.bulkhead"));
        let two = || group.processes().unwrap().len() == 2;
        until("a shell and its child in the leaf", two);
    }
    group.kill_all(WAIT).unwrap();
    for mut child in children {
        child.wait().unwrap();
    }
}

#[test]
fn what_a_crash_left_can_be_opened_and_removed() {
    let ground = Ground::new();
    let group = ground.create(&Limits::default());
    let guest = group.v2_guest_path().unwrap().to_owned();
    drop(group);
    std::fs::remove_dir(&guest).unwrap();
    if ground.host.mode != CgroupMode::V2 {
        std::fs::remove_dir(guest.parent().unwrap()).unwrap();
    }
    assert!(cgroup::list(&ground.parent).unwrap().contains("g"));
    let refused = Group::create(&ground.parent, "g", &Limits::default(), None);
    assert!(matches!(refused, Err(CgroupError::Exists { .. })));
    let group = Group::open(&ground.parent, "g").unwrap();
    assert!(group.v2_fd().is_err());
    group.remove().unwrap();
    assert!(ground.left().is_empty(), "{:?}", ground.left());
    assert!(cgroup::list(&ground.parent).unwrap().is_empty());
}

#[test]
fn first_launches_at_the_same_time_do_not_meet() {
    let ground = Ground::new();
    let name = format!("{}-race", ground.name);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (ground, name) = (&ground, &name);
            scope.spawn(move || {
                let parent = Parent::ensure(&ground.host, name, &ground.lock).unwrap();
                let group =
                    Group::create(&parent, &format!("g{n}"), &Limits::default(), None).unwrap();
                group.remove().unwrap();
            });
        }
    });
    let gone = cgroup::remove_parent_if_empty(&ground.host, &name, &ground.lock).unwrap();
    assert!(gone);
    assert!(!ground.folder("memory").with_file_name(&name).exists());
}

#[test]
fn a_parent_with_groups_stays() {
    let ground = Ground::new();
    let group = ground.create(&Limits::default());
    let gone = cgroup::remove_parent_if_empty(&ground.host, &ground.name, &ground.lock);
    assert!(!gone.unwrap());
    assert!(group.v2_guest_path().unwrap().exists());
}

#[test]
fn version_2_can_be_mounted_at_a_place_of_our_own() {
    let at = std::env::temp_dir().join(format!("bhtest-{}-mount", std::process::id()));
    std::fs::create_dir(&at).unwrap();
    let mounted = std::thread::spawn({
        let at = at.clone();
        move || {
            use nix::mount::MsFlags;
            use nix::sched::CloneFlags;
            nix::sched::unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            cgroup::mount_v2(&at).unwrap();
            let host = Host::detect().unwrap().with_v2_at(&at).unwrap();
            (at.join("cgroup.controllers").exists(), host.v2)
        }
    })
    .join()
    .unwrap();
    assert_eq!(mounted, (true, Some(at.clone())));
    // The mount is gone with the thread's namespace.
    std::fs::remove_dir(&at).unwrap();
}

#[test]
fn under_systemd_groups_outlive_the_process_that_holds_them() {
    let ground = Ground::new();
    if !ground.host.systemd {
        eprintln!("skipped: systemd is not process 1");
        return;
    }
    let group = ground.create(&Limits::default());
    let mut child = shell(&group, "echo ready; sleep 60 & wait");
    assert_eq!(line(&mut child), "ready");
    let holder = ground.parent.path().join(".holder/cgroup.procs");
    let pid: i32 = std::fs::read_to_string(&holder)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let service = format!("{}.service", ground.name);
    let active = || {
        let mut command = Command::new("systemctl");
        command.args(["is-active", "--quiet", &service]);
        command.status().unwrap().success()
    };
    until("the end of the service", || !active());
    assert_eq!(child.try_wait().unwrap(), None, "the guest went with it");
    // Others can still be made beside it, and when all are gone the service can start again.
    let parent = Parent::ensure(&ground.host, &ground.name, &ground.lock).unwrap();
    let other = Group::create(&parent, "h", &Limits::default(), None).unwrap();
    other.remove().unwrap();
    group.remove().unwrap();
    child.wait().unwrap();
    let parent = Parent::ensure(&ground.host, &ground.name, &ground.lock).unwrap();
    assert!(active());
    Group::create(&parent, "g", &Limits::default(), None)
        .unwrap()
        .remove()
        .unwrap();
}

#[test]
fn a_process_is_cloned_into_its_group() {
    use std::os::fd::AsRawFd;
    let ground = Ground::new();
    let group = ground.create(&Limits {
        pids: Some(5),
        ..Limits::default()
    });
    // SAFETY: clone_args is numbers only, for which zero is a value.
    let none: libc::clone_args = unsafe { std::mem::zeroed() };
    let args = libc::clone_args {
        // libc's constant of that name is too narrow, and 0.
        flags: 0x2_0000_0000,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: group.v2_fd().unwrap().as_raw_fd() as u64,
        ..none
    };
    // SAFETY: args is a whole clone_args without addresses, so the child is like one of fork; it
    // makes only system calls, allocates nothing unless one fails, and does not return.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &args, size_of_val(&args)) };
    if pid == 0 {
        let entered = group.enter_self().is_ok();
        // SAFETY: neither call takes addresses.
        unsafe {
            // Nobody waits for ever for one that a failed test forgot.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if entered {
                libc::raise(libc::SIGSTOP);
            }
            libc::_exit(1)
        }
    }
    assert!(pid > 0, "{}", std::io::Error::last_os_error());
    let pid = i32::try_from(pid).unwrap();
    let state = |letter| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.contains(letter)
    };
    until("the child is in", || state(") T ") || state(") Z "));
    assert_eq!(group.processes().unwrap(), [pid]);
    assert_eq!(group.stats().unwrap().processes, 1);
    group.kill_all(WAIT).unwrap();
    let waited = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).unwrap();
    assert!(matches!(
        waited,
        nix::sys::wait::WaitStatus::Signaled(_, nix::sys::signal::Signal::SIGKILL, _)
    ));
}

#[test]
fn one_who_is_only_in_version_1_does_not_keep_the_group() {
    let ground = Ground::new();
    if !ground.on_v1("pids") {
        eprintln!("skipped: there are no such processes here");
        return;
    }
    let group = ground.create(&Limits::default());
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let procs = ground.folder("pids").join("g/cgroup.procs");
    std::fs::write(procs, child.id().to_string()).unwrap();
    group.remove().unwrap();
    assert!(ground.left().is_empty(), "{:?}", ground.left());
    assert!(!child.wait().unwrap().success());
}
