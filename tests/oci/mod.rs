//! What tests of the OCI runtime itself share: a bundle with a static busybox, and the runtime with
//! its state in the test's folder. A test changes the configuration and asks from inside.
#![allow(dead_code)] // each test file compiles this for itself and uses a part of it

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::support::{Outcome, TestDir, oci_program, run};

/// Words of busybox that tests use as programs of their own.
const WORDS: &str = "awk basename cat chmod chown chrt cp cut dd df dirname echo env expr false find \
    grep head hostname id ifconfig ionice ip kill ln ls mkdir mkfifo mknod mount nice printenv ps \
    pwd readlink rm route seq sh sleep sort stat stty tail taskset test timeout touch tr true tty \
    umount uname uniq wc";

/// A bundle, and everything that is made from it; all of it goes when this is dropped.
#[derive(Debug)]
pub struct Bundle {
    dir: TestDir,
    /// What will be in config.json.
    pub config: Value,
    group: String,
    program: PathBuf,
    /// Words before the runtime's own: who starts it, and where.
    before: Vec<String>,
}

impl Bundle {
    /// As `spec` writes it, without a terminal, with a root that can be written.
    #[allow(clippy::new_without_default)] // makes folders: too much for a default
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = TestDir::new();
        fill_root(&dir.join("rootfs"));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let group = format!("/bhtest-spec-{}-{number}", std::process::id());
        let mut spec = Command::new(oci_program());
        spec.args(["spec", "--bundle"]).arg(dir.path());
        let written = run(spec);
        assert_eq!(written.code, 0, "{}", written.report());
        let text = fs::read(dir.join("config.json")).expect("just written");
        let mut config: Value = serde_json::from_slice(&text).expect("JSON");
        config["process"]["terminal"] = json!(false);
        config["process"]["env"] = json!(["PATH=/bin"]);
        config["root"]["readonly"] = json!(false);
        config["linux"]["cgroupsPath"] = json!(format!("{group}/c"));
        let mut bundle = Self {
            dir,
            config,
            group,
            program: oci_program(),
            before: Vec::new(),
        };
        // On version 1 the template has none, as runc's.
        bundle.namespace("cgroup", None);
        bundle
    }

    /// A path in the bundle.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A path in its root.
    pub fn inside(&self, name: &str) -> PathBuf {
        self.dir.join("rootfs").join(name)
    }

    /// The container's control group below a hierarchy's root.
    pub fn group(&self) -> String {
        format!("{}/c", self.group)
    }

    /// The program: a line of shell.
    pub fn script(&mut self, line: &str) -> &mut Self {
        self.config["process"]["args"] = json!(["sh", "-c", line]);
        self
    }

    /// One more mount.
    pub fn mount(&mut self, entry: Value) -> &mut Self {
        let mounts = self.config["mounts"].as_array_mut().expect("mounts");
        mounts.push(entry);
        self
    }

    /// Namespaces of the container; a path for those that are joined.
    pub fn namespace(&mut self, kind: &str, path: Option<&str>) -> &mut Self {
        let all = self.config["linux"]["namespaces"]
            .as_array_mut()
            .expect("namespaces");
        all.retain(|n| n["type"] != kind);
        all.push(match path {
            Some(path) => json!({"type": kind, "path": path}),
            None => json!({"type": kind}),
        });
        self
    }

    /// Without a namespace of this kind.
    pub fn without(&mut self, kind: &str) -> &mut Self {
        let all = self.config["linux"]["namespaces"].as_array_mut();
        all.expect("namespaces").retain(|n| n["type"] != kind);
        self
    }

    /// A user namespace in which ids 0 to 65535 are the host's from `first` on.
    pub fn users(&mut self, first: u32) -> &mut Self {
        self.namespace("user", None);
        let map = json!([{"containerID": 0, "hostID": first, "size": 65536}]);
        self.config["linux"]["uidMappings"] = map.clone();
        self.config["linux"]["gidMappings"] = map;
        // The folder above belongs to us alone.
        let open = |path: &Path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("ours");
        };
        open(self.dir.path());
        chown_tree(&self.dir.join("rootfs"), first);
        self
    }

    /// From here on somebody else starts the runtime: all of the bundle is given to `owner`, the
    /// program is copied to where they reach it, and `before` are the words that make them start it.
    pub fn started_by(&mut self, owner: u32, before: &[&str]) -> &mut Self {
        let copy = self.dir.join("bulkhead-oci");
        fs::copy(&self.program, &copy).expect("a disk with room");
        chown_tree(self.dir.path(), owner);
        self.program = copy;
        self.before = before.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// A command of the runtime.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut words = self.before.iter().map(String::as_str);
        let mut command = match words.next() {
            Some(first) => {
                let mut command = Command::new(first);
                command.args(words).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command.arg("--root").arg(self.dir.join("state"));
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Runs it.
    pub fn oci(&self, args: &[&str]) -> Outcome {
        run(self.command(args))
    }

    /// It must succeed; what it printed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let outcome = self.oci(args);
        assert_eq!(outcome.code, 0, "{args:?}:\n{}", outcome.report());
        outcome.stdout
    }

    /// It must fail; all that it wrote.
    #[track_caller]
    pub fn fails(&self, args: &[&str]) -> String {
        let outcome = self.oci(args);
        assert_ne!(outcome.code, 0, "{args:?}:\n{}", outcome.report());
        outcome.report()
    }

    /// Writes config.json.
    pub fn write(&self) -> &Self {
        self.dir.write("config.json", &self.config.to_string());
        self
    }

    /// Runs the container to its end.
    pub fn run(&self) -> Outcome {
        self.write();
        let bundle = self.dir.path().display().to_string();
        self.oci(&["run", "--bundle", &bundle, "c"])
    }

    /// What a line of shell prints in the container; it must end well.
    #[track_caller]
    pub fn says(&mut self, line: &str) -> String {
        let outcome = self.script(line).run();
        assert_eq!(outcome.code, 0, "{line}:\n{}", outcome.report());
        outcome.stdout.trim_end().to_owned()
    }

    /// The container cannot be made or its program fails; all that was written.
    #[track_caller]
    pub fn refused(&mut self, line: &str) -> String {
        let outcome = self.script(line).run();
        assert_ne!(outcome.code, 0, "{line}:\n{}", outcome.report());
        outcome.report()
    }

    /// Makes the container, which waits.
    #[track_caller]
    pub fn create(&self, more: &[&str]) -> &Self {
        self.write();
        let bundle = self.dir.path().display().to_string();
        let mut command = self.command(&["create", "--bundle", &bundle]);
        command.args(more).arg("c");
        self.no_output(command);
        self
    }

    /// Its program inherits what we write to: pipes of ours would not end before it does.
    #[track_caller]
    pub fn no_output(&self, mut command: Command) {
        let told = self.dir.join("told");
        let file = fs::File::create(&told).expect("a folder of ours");
        let copy = file.try_clone().expect("a descriptor");
        let status = command
            .stdout(file)
            .stderr(copy)
            .status()
            .expect("a program");
        let text = fs::read_to_string(&told).unwrap_or_default();
        assert!(status.success(), "{command:?}: {status}\n{text}");
    }

    /// The container with a program that sleeps.
    #[track_caller]
    pub fn asleep(&mut self) -> &Self {
        self.script("trap 'exit 0' TERM; sleep 1000 & wait");
        self.create(&[]);
        self.ok(&["start", "c"]);
        self
    }

    /// Its first process.
    pub fn pid(&self) -> u32 {
        let state: Value = serde_json::from_str(&self.ok(&["state", "c"])).expect("JSON");
        let pid = state["pid"].as_u64().expect("a number");
        u32::try_from(pid).expect("a pid")
    }

    /// Its status.
    pub fn status(&self) -> String {
        let state: Value = serde_json::from_str(&self.ok(&["state", "c"])).expect("JSON");
        state["status"].as_str().unwrap_or_default().to_owned()
    }

    /// What a line of shell prints that enters the container.
    #[track_caller]
    pub fn exec(&self, flags: &[&str], line: &str) -> String {
        let mut args = vec!["exec"];
        args.extend(flags);
        args.extend(["c", "sh", "-c", line]);
        self.ok(&args).trim_end().to_owned()
    }

    /// Ends and removes it.
    #[track_caller]
    pub fn remove(&self) {
        self.ok(&["delete", "--force", "c"]);
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        for name in self.oci(&["list", "-q"]).stdout.lines() {
            let gone = self.oci(&["delete", "--force", name]);
            if gone.code != 0 {
                eprintln!("{name} is left: {}", gone.report());
            }
        }
        let left = groups_named(&self.group);
        if !std::thread::panicking() {
            assert!(left.is_empty(), "control groups are left: {left:?}");
        }
    }
}

/// Groups of this name in any hierarchy.
fn groups_named(group: &str) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let below = fs::read_dir(top).into_iter().flatten().flatten();
    let all = below.map(|entry| entry.path()).chain([top.to_owned()]);
    all.map(|path| path.join(&group[1..]))
        .filter(|path| path.exists())
        .collect()
}

fn fill_root(root: &Path) {
    for folder in ["bin", "dev", "etc", "proc", "sys", "tmp", "var", "home"] {
        fs::create_dir_all(root.join(folder)).expect("a folder of ours");
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    fs::copy(busybox.expect("busybox"), root.join("bin/busybox")).expect("a disk with room");
    for word in WORDS.split_whitespace() {
        symlink("busybox", root.join("bin").join(word)).expect("a folder of ours");
    }
    let users = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/var/www:/bin/sh\n";
    fs::write(root.join("etc/passwd"), users).expect("a folder of ours");
    fs::write(root.join("etc/group"), "root:x:0:\nweb:x:33:\n").expect("a folder of ours");
}

fn chown_tree(path: &Path, owner: u32) {
    std::os::unix::fs::lchown(path, Some(owner), Some(owner)).expect("root may");
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).expect("a folder of ours").flatten() {
            chown_tree(&entry.path(), owner);
        }
    }
}
