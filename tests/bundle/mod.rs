//! Bundles of a test's own, and the OCI runtime called on them as a client would. The root file
//! system is the host's `/usr`, read-only, under folders of the test's; the configuration is the one
//! that `spec` writes, with the capabilities that clients give by default. State, bundles and
//! control groups carry the test's name, so what is left can be told (`Marks`).
#![allow(dead_code)] // each test file compiles this for itself and uses a part of it

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::clients::leftovers::Marks;
use crate::support::{Need, Outcome, TestDir, need, oci_program, run};

/// Whether there are root and a runtime; otherwise prints the SKIP line.
#[must_use]
pub fn ready() -> bool {
    need(Need::Root) && need(Need::OciRuntime)
}

/// What clients give the root of a container.
const CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// First host id of the containers that have ids of their own.
const IDS: u32 = 1_000_000;

/// A state folder with its containers. When it is dropped all of them are deleted, and nothing may
/// be left.
#[derive(Debug)]
pub struct Site {
    folder: TestDir,
    marks: Marks,
    program: PathBuf,
}

impl Site {
    /// One in which there is nothing yet.
    #[allow(clippy::new_without_default)] // makes a folder: too much for a default
    pub fn new() -> Self {
        let folder = TestDir::new();
        Self {
            marks: Marks::new(&folder, false),
            program: oci_program(),
            folder,
        }
    }

    /// One with a copy of the runtime, which may come to harm.
    pub fn with_own_runtime() -> Self {
        let mut site = Self::new();
        let copy = site.path("bulkhead-oci");
        fs::copy(&site.program, &copy).expect("a folder of ours");
        site.program = copy;
        site
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The runtime that is called.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// What is there of it on the machine.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The runtime on its state, not started; without input.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.path("state")).args(args);
        command.stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
        command
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Outcome {
        run(self.command(args))
    }

    /// The same, which must succeed; what it wrote to standard output.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let outcome = self.run(args);
        assert_eq!(outcome.code, 0, "{args:?}: {}", outcome.report());
        outcome.stdout
    }

    /// `create`, without output: the container would hold it.
    #[track_caller]
    pub fn create(&self, bundle: &Bundle, id: &str) -> Outcome {
        let folder = bundle.folder.to_string_lossy().into_owned();
        quiet(self.command(&["create", "-b", &folder, id]))
    }

    /// A container that runs.
    #[track_caller]
    pub fn started(&self, bundle: &Bundle, id: &str) {
        let made = self.create(bundle, id);
        assert_eq!(made.code, 0, "create {id}: {}", made.report());
        self.ok(&["start", id]);
    }

    /// `run` to the end.
    #[track_caller]
    pub fn run_in(&self, bundle: &Bundle, id: &str) -> Outcome {
        let folder = bundle.folder.to_string_lossy().into_owned();
        self.run(&["run", "-b", &folder, id])
    }

    /// What a shell in a running container says.
    #[track_caller]
    pub fn shell(&self, id: &str, script: &str) -> Outcome {
        self.run(&["exec", id, "sh", "-c", script])
    }

    /// A bundle with the usual configuration; its program is a shell that runs this.
    pub fn bundle(&self, name: &str, script: &str) -> Bundle {
        let folder = self.path(name);
        fs::create_dir(&folder).expect("a folder of ours");
        let at = folder.to_string_lossy().into_owned();
        self.ok(&["spec", "-b", &at]);
        let text = fs::read(folder.join("config.json")).expect("just written");
        let mut bundle = Bundle {
            config: serde_json::from_slice(&text).expect("JSON"),
            folder,
        };
        bundle.make_root();
        let caps: Vec<String> = CAPABILITIES.iter().map(|c| format!("CAP_{c}")).collect();
        let process = &mut bundle.config["process"];
        process["terminal"] = json!(false);
        process["args"] = json!(["sh", "-c", script]);
        process["capabilities"] = json!({"bounding": caps, "effective": caps, "permitted": caps});
        process["noNewPrivileges"] = json!(false);
        bundle.config["root"]["readonly"] = json!(false);
        // On version 1 the template has none, as runc's.
        if let Some(kinds) = bundle.config["linux"]["namespaces"].as_array_mut() {
            kinds.retain(|kind| kind["type"] != "cgroup");
            kinds.push(json!({"type": "cgroup"}));
        }
        bundle.config["linux"]["cgroupsPath"] = json!(format!("{}/{name}", self.marks.cgroup()));
        bundle.mount(
            json!({"destination": "/usr", "type": "bind", "source": "/usr",
            "options": ["rbind", "ro"]}),
        );
        bundle.write();
        bundle
    }

    /// Deletes containers by force and checks that nothing is left of any.
    #[track_caller]
    pub fn is_clean(&self, what: &str) {
        for name in self.names() {
            self.ok(&["delete", "-f", &name]);
        }
        self.marks
            .forget(|name| name == self.marks.cgroup().trim_start_matches('/'));
        let mut left = Vec::new();
        let gone = crate::clients::within(10, || {
            left = self.left();
            left.is_empty()
        });
        assert!(gone, "left by {what}: {left:#?}");
    }

    /// What there is now: mounts, cgroups, processes, files of the state.
    pub fn left(&self) -> Vec<String> {
        let mut left = self.marks.found();
        // The dead wait for whoever adopted them, and have no words.
        left.retain(|line| !(line.starts_with("process ") && line.ends_with(": ")));
        left.extend(self.names().iter().map(|name| format!("state {name}")));
        left
    }

    /// Whatever is in the state folder.
    pub fn names(&self) -> Vec<String> {
        let all = fs::read_dir(self.path("state")).into_iter().flatten();
        all.flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for name in self.names() {
            let _ = self.run(&["delete", "-f", &name]);
        }
        let own = self.marks.cgroup();
        self.marks
            .forget(|name| name == own.trim_start_matches('/'));
        if std::thread::panicking() {
            self.marks.clear();
        } else {
            self.marks.must_be_gone();
        }
    }
}

/// Runs a command whose container outlives it: its output goes to a file.
#[track_caller]
pub fn quiet(mut command: Command) -> Outcome {
    let file = tempfile();
    let copy = || file.try_clone().expect("a descriptor");
    command.stdout(copy()).stderr(copy());
    let status = command
        .status()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut text = vec![0; 4096];
    let n = std::os::unix::fs::FileExt::read_at(&file, &mut text, 0).expect("a memfd");
    Outcome {
        code: status.code().unwrap_or(-1),
        stdout: String::new(),
        stderr: String::from_utf8_lossy(&text[..n]).into_owned(),
    }
}

fn tempfile() -> fs::File {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    rustix::fs::memfd_create("output", flags)
        .expect("memory")
        .into()
}

/// A bundle on disk. Changes to `config` are seen after `write`.
#[derive(Debug)]
pub struct Bundle {
    /// Where it is.
    pub folder: PathBuf,
    /// Its configuration.
    pub config: Value,
}

impl Bundle {
    fn make_root(&self) {
        let root = self.root();
        for name in ["proc", "sys", "dev", "etc", "tmp", "usr", "root", "vol"] {
            fs::create_dir_all(root.join(name)).expect("a folder of ours");
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), root.join(name)).expect("a folder of ours");
        }
    }

    /// The root file system.
    pub fn root(&self) -> PathBuf {
        self.folder.join("rootfs")
    }

    /// One more mount, in force after `write`.
    pub fn mount(&mut self, mount: Value) {
        let all = self.config["mounts"].as_array_mut().expect("a list");
        all.push(mount);
    }

    /// Without the mounts on this and what is below.
    pub fn unmount(&mut self, below: &str) {
        let all = self.config["mounts"].as_array_mut().expect("a list");
        all.retain(|m| !Path::new(m["destination"].as_str().unwrap_or("")).starts_with(below));
    }

    /// A program and its arguments.
    pub fn program(&mut self, args: &[&str]) {
        self.config["process"]["args"] = json!(args);
        self.write();
    }

    /// Ids of its own: root inside is nobody outside.
    pub fn with_ids(&mut self) {
        let map = json!([{"containerID": 0, "hostID": IDS, "size": 65536}]);
        self.config["linux"]["uidMappings"] = map.clone();
        self.config["linux"]["gidMappings"] = map;
        let kinds = self.config["linux"]["namespaces"].as_array_mut();
        kinds.expect("a list").push(json!({"type": "user"}));
        self.write();
        for path in [
            self.root(),
            self.root().join("tmp"),
            self.root().join("root"),
        ] {
            std::os::unix::fs::chown(&path, Some(IDS), Some(IDS)).expect("root may");
        }
    }

    /// Writes the configuration.
    pub fn write(&self) {
        let text = serde_json::to_vec(&self.config).expect("JSON");
        fs::write(self.folder.join("config.json"), text).expect("a folder of ours");
    }
}
