//! The installation that the demonstration makes for itself: its place, its guests, how all of it
//! goes away again, and the proof that it did. Its root is `demo` in the cache of the installation
//! it was called on: of all it makes only built images stay there, so that the next one is quick.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::report::Report;
use super::server::SERVER;
use super::{Result, Stop, go_on};
use crate::guest::exec::{ExecRequest, Output};
use crate::guest::{GuestError, Manager, view};
use crate::kernel::cgroup::{Host, Parent};
use crate::kernel::file::{self, Lock};
use crate::model::{GuestName, Layout};
use crate::storage::Progress;

/// Host ids apart from those that an installation takes by itself, so that no guest of the
/// demonstration shares one with anybody.
const SETTINGS: &str = "[ids]\nfirst = 0x7f00_0000\ncount = 0x0100_0000\n";

/// The guests: their names, and their definitions. `LAST` stands for the last CPU.
pub(super) const GUESTS: [(&str, &str); 10] = [
    (
        "cpu10",
        "template = \"busybox\"\nmemory.limit = \"64M\"\ncpu.limit = 0.10\n",
    ),
    (
        "cpu25",
        "template = \"busybox\"\nmemory.limit = \"64M\"\ncpu.limit = 0.25\n",
    ),
    (
        "cpu50",
        "template = \"busybox\"\nmemory.limit = \"64M\"\ncpu.limit = 0.50\n",
    ),
    (
        "light",
        "template = \"busybox\"\nmemory.limit = \"64M\"\n[cpu]\nweight = 100\ncpuset = \"LAST\"\n",
    ),
    (
        "heavy",
        "template = \"busybox\"\nmemory.limit = \"64M\"\n[cpu]\nweight = 300\ncpuset = \"LAST\"\n",
    ),
    ("hog", "template = \"busybox\"\nmemory.limit = \"64M\"\n"),
    (
        "neighbour",
        "template = \"busybox\"\nmemory.limit = \"64M\"\n",
    ),
    (
        "bomb",
        "template = \"busybox\"\nprocesses = 64\nmemory.limit = \"64M\"\ncpu.limit = 0.5\n",
    ),
    ("host", "template = \"host\"\nmemory.limit = \"512M\"\n"),
    (SERVER, "template = \"debian\"\nmemory.limit = \"1G\"\n"),
];

/// The installation, held by this process alone.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) manager: Manager,
    home: PathBuf,
    _lock: Lock,
}

impl Site {
    /// Opens it, and clears what a demonstration that was killed has left.
    pub(super) fn open(root: &Path, report: &mut Report) -> Result<Self> {
        let home = Layout::new(root).cache().join("demo");
        file::make_private_dir(&home)?;
        let lock = Lock::take(&home.join("lock"), Duration::ZERO)?;
        let busy = || Stop::Failed("another demonstration is at work on this machine".to_owned());
        let lock = lock.ok_or_else(busy)?;
        let etc = Layout::new(&home).etc();
        file::make_private_dir(&etc)?;
        file::write_runtime(&etc.join("bulkhead.toml"), SETTINGS.as_bytes(), 0o600)?;
        let site = Self {
            manager: Manager::open(&home)?,
            home,
            _lock: lock,
        };
        if !site.manager.names()?.is_empty() {
            report.say("removing what a demonstration that was killed has left");
        }
        site.clear().map_err(Stop::Failed)?;
        Ok(site)
    }

    /// A guest's name.
    pub(super) fn name(text: &str) -> Result<GuestName> {
        text.parse()
            .map_err(|error| Stop::Failed(format!("{text}: {error}")))
    }

    /// Executes a program in a guest and keeps what it says, trimmed.
    pub(super) fn ask(&self, guest: &str, argv: &[&str]) -> Result<(i32, String)> {
        go_on()?;
        let request = ExecRequest {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            timeout: Some(Duration::from_secs(15)),
            ..ExecRequest::default()
        };
        let Output { code, text } =
            self.manager
                .exec_output(&Self::name(guest)?, &request, 1 << 16)?;
        Ok((code, view::printable(&text).trim().to_owned()))
    }

    /// Has a guest's shell do something that must go well.
    pub(super) fn tell(&self, guest: &str, script: &str) -> Result<String> {
        match self.ask(guest, &["sh", "-c", script])? {
            (0, text) => Ok(text),
            (code, text) => Err(Stop::Failed(format!(
                "{script:?} in guest {guest} ended with {code}: {text}"
            ))),
        }
    }

    /// Kills and deletes every guest there is, and what commands that died have left.
    fn clear(&self) -> std::result::Result<(), String> {
        let mut failed = Vec::new();
        let mut note = |error: GuestError| failed.push(view::chain(&error));
        for name in self.manager.names().unwrap_or_default() {
            let gone = self.manager.delete(&name, true, 0);
            gone.map(drop).unwrap_or_else(&mut note);
        }
        match self.manager.leftovers(true) {
            Ok(left) => failed.extend(left.into_iter().filter_map(|l| l.why)),
            Err(error) => note(error),
        }
        if let Err(error) = self.manager.remove_shared() {
            failed.push(view::chain(&error));
        }
        if failed.is_empty() {
            Ok(())
        } else {
            Err(failed.join("; "))
        }
    }

    /// Removes everything but the images and compiled filters, and looks whether it is gone.
    pub(super) fn remove(&self) -> std::result::Result<(), String> {
        self.clear()?;
        let left = self.left().map_err(|error| view::chain(&error))?;
        if !left.is_empty() {
            return Err(left.join(", "));
        }
        let layout = &self.manager.layout;
        let var = layout.var();
        for path in [
            self.home.join("run"),
            self.home.join("etc"),
            layout.guests(),
            var.join("network"),
            var.join("events.jsonl"),
        ] {
            let gone = match path.is_dir() {
                true => std::fs::remove_dir_all(&path),
                false => std::fs::remove_file(&path),
            };
            match gone {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(format!("{}: {error}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What there is still of it in the kernel and in its records.
    fn left(&self) -> std::result::Result<Vec<String>, GuestError> {
        let manager = &self.manager;
        let mut left: Vec<String> = manager.names()?.iter().map(ToString::to_string).collect();
        let records = manager.leftovers(false)?;
        left.extend(
            records
                .into_iter()
                .map(|l| format!("{} {}", l.kind, l.name)),
        );
        let bridge = manager.network.bridge();
        if Path::new("/sys/class/net").join(bridge).exists() {
            left.push(format!("the bridge {bridge}"));
        }
        let host = Host::from_facts(&manager.facts);
        let cgroup = manager.layout.kernel_name();
        if host.v2.is_some() && Parent::look(&host, &cgroup)?.is_some() {
            left.push(format!("the cgroup {cgroup}"));
        }
        let home = self.home.display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let below = |line: &str| {
            let target = line.split(' ').nth(4)?;
            target
                .starts_with(&home)
                .then(|| format!("the mount {target}"))
        };
        left.extend(mounts.lines().filter_map(below));
        Ok(left)
    }

    /// What stays, and how to be rid of it.
    pub(super) fn farewell(&self) -> String {
        format!(
            "built images are kept for the next time; `rm -r {}` removes them",
            self.home.display()
        )
    }
}

/// Makes and starts all guests. One that cannot be is a failed line, and the others go on.
pub(super) fn slice(site: &Site, report: &mut Report) -> Result<()> {
    let facts = &site.manager.facts;
    let cpus: Vec<u32> = facts.cpus.iter().collect();
    report.say(&format!(
        "this machine: {} CPUs, {} MiB of memory, Linux {}",
        cpus.len(),
        facts.memory >> 20,
        facts.kernel
    ));
    let last = cpus.last().copied().unwrap_or(0).to_string();
    for (guest, definition) in GUESTS {
        go_on()?;
        match begin(site, guest, &definition.replace("LAST", &last), report) {
            Ok(()) => {}
            Err(Stop::Interrupted) => return Err(Stop::Interrupted),
            Err(Stop::Failed(why)) => {
                // The signal that asks for the end may have ended a tool at work.
                go_on()?;
                report.say(&format!("guest {guest}: {why}"));
                report.line(
                    &format!("guest {guest}"),
                    "runs",
                    super::first_line(&why),
                    false,
                );
            }
        }
    }
    Ok(())
}

fn begin(site: &Site, guest: &str, definition: &str, report: &mut Report) -> Result<()> {
    let name = Site::name(guest)?;
    let created = site
        .manager
        .create(&name, definition, &mut |progress| match progress {
            Progress::Phase(text) => report.say(&text),
            Progress::Line(text) if text.starts_with("I: ") => report.say(&text),
            _ => {}
        })?;
    go_on()?;
    let began = Instant::now();
    let started = site.manager.start(&name)?;
    report.say(&format!(
        "guest {guest} ({}) runs after {:.1} ms",
        created.guest.origin,
        started.took.as_secs_f64() * 1000.0
    ));
    if guest == SERVER {
        super::server::boots(site, began, report)?;
    }
    Ok(())
}
