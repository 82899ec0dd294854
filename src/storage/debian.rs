//! The `debian` kind: a root built from signed packages by mmdebstrap, or debootstrap where that is
//! missing, and then made fit for a guest by the host. The tools verify what they fetch; nothing
//! here goes around that.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, PipeReader, Read};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags};
use rustix::process::{Pid, Signal, kill_process_group};

use super::apt_settings::{host_settings, is_for_guests};
use super::build::{Built, Job};
use super::dirfd::{self, Owner};
use super::image::{ImageError, Progress};
use super::remove::remove_tree;
use super::seed::Seed;
use super::systemd_units;
use crate::kernel::interrupt;

/// Beyond the essential ones.
const PACKAGES: [&str; 15] = [
    "apt",
    "ca-certificates",
    "dbus",
    "iproute2",
    "iputils-ping",
    "less",
    "libpam-systemd",
    "login",
    "nano",
    "netbase",
    "openssh-server",
    "procps",
    "systemd",
    "systemd-sysv",
    "tzdata",
];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Lines of a failed tool that its error shows.
const LINES_KEPT: usize = 12;

/// The package archives of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Archives {
    main: String,
    security: Option<String>,
}

/// Builds the root.
pub(super) fn build(job: &mut Job<'_>) -> Result<Built, ImageError> {
    let suite = job.option("suite").to_owned();
    if suite.is_empty() || !suite.bytes().all(|b| b.is_ascii_lowercase()) {
        return Err(job.refuse(format!(
            "suite {suite:?} is not the name of a Debian release such as bookworm or trixie"
        )));
    }
    let packages = packages(job)?;
    if !Path::new(KEYRING).exists() {
        return Err(job.refuse(format!(
            "{KEYRING} is missing, without which packages cannot be verified; \
             install it with: apt-get install debian-archive-keyring"
        )));
    }
    let archives = archives(job)?;
    let sources = archives.sources(&suite);
    let settings = host_settings();
    if let Some(tool) = find("mmdebstrap") {
        job.phase(format!("building Debian {suite} with mmdebstrap"));
        run(
            job,
            mmdebstrap(&tool, &suite, &packages, &job.root, &sources, &settings),
        )?;
    } else if let Some(tool) = find("debootstrap") {
        job.phase(format!("building Debian {suite} with debootstrap"));
        let root = &job.root;
        run(
            job,
            debootstrap(&tool, &suite, &packages, root, &archives.main, &settings),
        )?;
    } else {
        return Err(job.refuse(
            "neither mmdebstrap nor debootstrap is installed; \
             install one with: apt-get install mmdebstrap",
        ));
    }
    job.phase("making it fit for a guest");
    finish(job, &sources, &settings)?;
    Ok(Built::default())
}

/// All packages to install, checked: the names become one argument of a tool.
fn packages(job: &Job<'_>) -> Result<String, ImageError> {
    let mut all: BTreeSet<&str> = PACKAGES.into();
    for name in job.option("packages").split(',').map(str::trim) {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
        let valid = name.bytes().all(plain) && !name.starts_with(['-', '.', '+']);
        if !valid {
            return Err(job.refuse(format!(
                "{name:?} in option packages is not a package name; separate names by commas"
            )));
        }
        if !name.is_empty() {
            all.insert(name);
        }
    }
    Ok(all.into_iter().collect::<Vec<_>>().join(","))
}

/// Where packages come from: the option, and else what the host's own apt uses.
fn archives(job: &Job<'_>) -> Result<Archives, ImageError> {
    let known = host_archives();
    let mirror = job.option("mirror").trim_end_matches('/');
    let security = known.as_ref().and_then(|a| a.security.clone());
    if mirror.is_empty() {
        return known.ok_or_else(|| {
            job.refuse(
                "the host's apt uses no Debian archive (or apt-get update was never run); \
                 set the option mirror to the URL of one",
            )
        });
    }
    if !is_url(mirror) {
        return Err(job.refuse(format!(
            "mirror {mirror:?} is not a URL: write it as http://…, https://… or file:///…"
        )));
    }
    Ok(Archives {
        main: mirror.to_owned(),
        security,
    })
}

fn is_url(text: &str) -> bool {
    let known = ["http://", "https://", "file:///"];
    known.iter().any(|scheme| text.starts_with(scheme))
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"[]\"'\\".contains(&b))
}

/// The Debian archives among the sources of the host's apt.
fn host_archives() -> Option<Archives> {
    let output = tool(&find("apt-get")?)
        .args(["indextargets", "--format", "$(LABEL)|$(REPO_URI)"])
        .output()
        .ok()?;
    parse_targets(&String::from_utf8_lossy(&output.stdout))
}

fn parse_targets(text: &str) -> Option<Archives> {
    let labelled = |label: &str| {
        text.lines()
            .filter_map(|line| line.split_once('|'))
            .find(|(l, uri)| *l == label && is_url(uri))
            .map(|(_, uri)| uri.trim_end_matches('/').to_owned())
    };
    Some(Archives {
        main: labelled("Debian")?,
        security: labelled("Debian-Security"),
    })
}

impl Archives {
    /// Lines of sources.list(5).
    fn sources(&self, suite: &str) -> Vec<String> {
        let signed = format!("[signed-by={KEYRING}]");
        let main = &self.main;
        let mut lines = vec![
            format!("deb {signed} {main} {suite} main"),
            format!("deb {signed} {main} {suite}-updates main"),
        ];
        if let Some(security) = &self.security {
            lines.push(format!("deb {signed} {security} {suite}-security main"));
        }
        lines
    }
}

/// Finds a program where the system keeps its own.
pub(super) fn find(name: &str) -> Option<String> {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .into_iter()
        .map(|folder| format!("{folder}/{name}"))
        .find(|path| Path::new(path).exists())
}

/// A command with an environment of its own.
pub(super) fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", "/root")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

/// The tools mount into the root they build: in a mount namespace of their own, so that the mounts
/// end with them however they end.
fn in_own_mounts(program: &str) -> Command {
    let mut command = tool("/usr/bin/unshare");
    command.args(["--mount", "--", program]);
    command
}

fn mmdebstrap(
    program: &str,
    suite: &str,
    packages: &str,
    root: &Path,
    sources: &[String],
    settings: &[String],
) -> Command {
    let mut command = in_own_mounts(program);
    command
        .args(settings.iter().map(|line| format!("--aptopt={line}")))
        .args(["--mode=root", "--variant=minbase", "--format=directory"])
        .args(["--dpkgopt=path-exclude=/usr/share/man/*"])
        .args(["--dpkgopt=path-exclude=/usr/share/doc/*"])
        .args(["--dpkgopt=path-include=/usr/share/doc/*/copyright"])
        .arg(format!("--include={packages}"))
        .arg(suite)
        .arg(root)
        .args(sources);
    command
}

fn debootstrap(
    program: &str,
    suite: &str,
    packages: &str,
    root: &Path,
    mirror: &str,
    settings: &[String],
) -> Command {
    let mut command = in_own_mounts(program);
    // It fetches with wget, which takes proxies from the environment.
    for line in settings {
        let mut words = line.splitn(2, ' ');
        let value = |text: &str| text.trim_matches(['"', ';']).to_owned();
        match (words.next().unwrap_or(""), words.next().map(value)) {
            ("Acquire::http::Proxy", Some(proxy)) => _ = command.env("http_proxy", proxy),
            ("Acquire::https::Proxy", Some(proxy)) => _ = command.env("https_proxy", proxy),
            _ => {}
        }
    }
    command
        .arg("--variant=minbase")
        .arg(format!("--keyring={KEYRING}"))
        .arg(format!("--include={packages}"))
        .arg(suite)
        .arg(root)
        .arg(mirror);
    command
}

/// Runs a tool, hands its lines on, and fails with the last ones.
fn run(job: &mut Job<'_>, mut command: Command) -> Result<(), ImageError> {
    // `unshare --mount -- TOOL`: the tool is who speaks.
    let shown = command.get_args().nth(2).unwrap_or(command.get_program());
    let name = shown.to_string_lossy().into_owned();
    let cannot = |e: std::io::Error| refuse_run(job.template.name.as_str(), &name, &e.to_string());
    let (reader, writer) = std::io::pipe().map_err(cannot)?;
    // Its temporary files go with the build, however that ends.
    let failed = |e: rustix::io::Errno| cannot(e.into());
    dirfd::make_dir(job.lock, c"tools", Owner::root(0o700)).map_err(failed)?;
    let own = job.root.with_file_name("tools");
    command.env("TMPDIR", &own);
    // A group of its own: mmdebstrap waits for its children, which do not hear what it hears.
    command
        .process_group(0)
        .stderr(writer.try_clone().map_err(cannot)?)
        .stdout(writer);
    // The tool inherits the lock: should this command be killed, what the tool still writes to is
    // not taken for a leftover before it has ended.
    rustix::io::fcntl_setfd(job.lock, FdFlags::empty()).map_err(|e| cannot(e.into()))?;
    let spawned = command.spawn();
    rustix::io::fcntl_setfd(job.lock, FdFlags::CLOEXEC).map_err(|e| cannot(e.into()))?;
    let mut child = spawned.map_err(cannot)?;
    // Its copies of the pipe's end would keep the reader waiting for ever.
    drop(command);
    let mut last = VecDeque::new();
    let said = Said {
        pipe: reader,
        tool: Pid::from_child(&child),
        told: false,
    };
    for line in BufReader::new(said).split(b'\n') {
        let Ok(line) = line else { break };
        // A progress bar rewrites its line; what it showed last is what counts.
        let text = String::from_utf8_lossy(&line);
        let shown = text.rsplit('\r').find(|part| !part.is_empty());
        let line: String = shown
            .unwrap_or("")
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        if line.is_empty() {
            continue;
        }
        if last.len() == LINES_KEPT {
            last.pop_front();
        }
        last.push_back(line.clone());
        (job.progress)(Progress::Line(line));
    }
    let status = child
        .wait()
        .map_err(|e| refuse_run(&job.template.name, &name, &e.to_string()))?;
    if status.success() {
        return Ok(remove_tree(job.lock, c"tools", &own)?);
    }
    let lines: Vec<String> = last.into();
    let full = lines
        .iter()
        .any(|line| line.contains("No space left on device"));
    let hint = if full {
        "; the file system is full: free some space, or use a larger one, and repeat"
    } else {
        ""
    };
    Err(job.refuse(format!(
        "{name} ended with {status}{hint}; its last lines:\n{}",
        lines.join("\n")
    )))
}

/// What a tool says. When somebody asks this program to end, the tool is asked as well, with all it
/// has started, and what it says while it cleans up is still read.
struct Said {
    pipe: PipeReader,
    tool: Pid,
    told: bool,
}

impl Read for Said {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        const LOOK: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 200_000_000,
        };
        loop {
            if !self.told && interrupt::caught().is_some() {
                self.told = true;
                // Not collected yet, so the number is still the tool's.
                let _ended = kill_process_group(self.tool, Signal::INT);
            }
            let mut fds = [PollFd::new(&self.pipe, PollFlags::IN)];
            match poll(&mut fds, Some(&LOOK)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return self.pipe.read(buffer),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn refuse_run(template: &str, program: &str, reason: &str) -> ImageError {
    ImageError::Build {
        template: template.to_owned(),
        reason: format!("cannot run {program}: {reason}"),
    }
}

/// Takes out what belongs to one machine, and puts in what a guest needs.
fn finish(job: &Job<'_>, sources: &[String], settings: &[String]) -> Result<(), ImageError> {
    let seed = Seed::open(&job.root)?;
    for name in seed.names("etc/ssh") {
        if name.starts_with("ssh_host_") {
            seed.remove(&format!("etc/ssh/{name}"))?;
        }
    }
    for path in [
        "var/lib/dbus/machine-id",
        "etc/hostname",
        "etc/resolv.conf",
        "var/lib/systemd/random-seed",
        "etc/apt/apt.conf.d/99mmdebstrap",
        "var/log/bootstrap.log",
        "var/log/dpkg.log",
        "var/log/apt/history.log",
        "var/log/apt/term.log",
        "var/log/apt/eipp.log.xz",
        "var/log/alternatives.log",
        "var/cache/ldconfig/aux-cache",
        "var/cache/apt/pkgcache.bin",
        "var/cache/apt/srcpkgcache.bin",
    ] {
        seed.remove(path)?;
    }
    // No device nodes: the launch gives the guest its own.
    seed.clear("dev")?;
    // Empty and not absent: systemd takes an absent one for a first boot and resets all units.
    seed.file("etc/machine-id", 0o444, b"")?;
    seed.file("etc/fstab", 0o644, b"")?;
    let sources: String = sources.iter().flat_map(|line| [line, "\n"]).collect();
    seed.file("etc/apt/sources.list", 0o644, sources.as_bytes())?;
    let settings: String = settings
        .iter()
        .filter(|line| is_for_guests(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    if !settings.is_empty() {
        seed.file("etc/apt/apt.conf.d/90host", 0o644, settings.as_bytes())?;
    }
    systemd_units::prepare(&seed, |unit| {
        seed.stat(&format!("usr/lib/systemd/system/{unit}"))
            .is_some()
            || seed.stat(&format!("lib/systemd/system/{unit}")).is_some()
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_archives_are_found_among_others() {
        let text = "Other|https://example.net/x/\nDebian|http://a.example/debian/\n\
                    Debian|http://b.example/debian/\nDebian-Security|http://a.example/sec/\n";
        let archives = parse_targets(text).unwrap();
        assert_eq!(archives.main, "http://a.example/debian");
        let lines = archives.sources("trixie");
        assert_eq!(lines.len(), 3);
        assert!(lines[2].ends_with("] http://a.example/sec trixie-security main"));
        assert!(lines.iter().all(|l| l.contains("signed-by=")));
        assert_eq!(parse_targets("Ubuntu|http://a.example/ubuntu/\n"), None);
        assert_eq!(parse_targets("Debian|cdrom:[x] y\n"), None);
    }

    #[test]
    fn only_urls_pass() {
        for good in ["http://a/debian", "https://a:80/d-1", "file:///srv/mirror"] {
            assert!(is_url(good), "{good}");
        }
        for bad in [
            "",
            "debian",
            "http://a b",
            "http://a\nb",
            "http://a [trusted=yes]",
            "ftp://a",
        ] {
            assert!(!is_url(bad), "{bad}");
        }
    }
}
