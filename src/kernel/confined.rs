//! A tool of the host's that reads what a stranger made, run so that it can reach nothing else: a
//! root of its own with the host's programs, read-only, the files it is handed and a null device; no network, no
//! capability but reading those files, no other process in sight, no new privileges, and gone when we
//! are.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;

use super::capability::{self, CapabilitySet};
use super::credentials::{no_new_privileges, set_rlimit};
use super::error::{KernelError, Result};
use super::interrupt;
use super::mount::{self, Attr};
use super::namespace::kind;
use super::process::{self, CloneFlags, Ended, Forked};

/// What of the host such a tool sees.
const PROGRAMS: [&str; 6] = ["usr", "bin", "sbin", "lib", "lib32", "lib64"];
/// Most memory it may ask for, bytes.
const MEMORY: u64 = 4 << 30;
/// Most bytes of what it says that are read.
const SAID_MOST: u64 = 4 << 20;

/// How often is looked whether this process is asked to end.
const LOOK: Duration = Duration::from_millis(200);

/// A file that a tool is handed.
#[derive(Debug)]
pub struct Handed<'a> {
    /// Its name in the tool's root folder.
    pub name: &'a str,
    /// The file, regular.
    pub file: BorrowedFd<'a>,
    /// Whether the tool may write to it.
    pub writable: bool,
}

/// How much a tool may do; nothing said is no bound.
#[derive(Clone, Copy, Debug, Default)]
pub struct Most {
    /// Bytes of each file that it writes, and of what it says: more is an error of its writing.
    pub file: Option<u64>,
    /// How long it may take.
    pub time: Option<Duration>,
}

/// How a tool ended.
#[derive(Debug)]
pub struct Said {
    /// Its exit code; none where a signal ended it, as one that takes too long.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub output: String,
    /// What it wrote to standard error.
    pub error: String,
}

/// Where a tool of this name is among the host's programs.
#[must_use]
pub fn find(tool: &str) -> Option<PathBuf> {
    let places = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
    let mut paths = places.iter().map(|place| Path::new(place).join(tool));
    paths.find(|path| path.is_file())
}

/// Runs a tool and waits for it. Only for a process with one thread.
///
/// # Errors
/// It cannot be confined or executed.
pub fn run(program: &Path, arguments: &[&str], files: &[Handed<'_>], most: Most) -> Result<Said> {
    let memory = |name: &str| {
        rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)
            .map_err(KernelError::on("make", "a file in memory"))
    };
    let (output, error) = (memory("output")?, memory("error")?);
    let place = Place::prepare(files)?;
    let flags = CloneFlags {
        namespaces: kind::MOUNT | kind::NET | kind::IPC | kind::UTS | kind::PID,
        sibling: false,
    };
    let pidfd = match process::fork_with(flags, None)? {
        Forked::Child => {
            let _guard = process::NoReturn;
            let failed = match place.enter(&output, &error, most.file) {
                Ok(()) => execute(program, arguments),
                Err(error) => error,
            };
            let _nobody_left_to_tell = rustix::io::write(&error, failed.to_string().as_bytes());
            process::leave(126)
        }
        Forked::Parent { pidfd, .. } => pidfd,
    };
    let end = most.time.map(|time| Instant::now() + time);
    // The first process of a namespace does not hear what a terminal sends.
    while !process::wait_gone(pidfd.as_fd(), Some(LOOK))? {
        if interrupt::caught().is_some() || end.is_some_and(|end| Instant::now() >= end) {
            process::send_signal(pidfd.as_fd(), libc::SIGKILL)?;
        }
    }
    let ended = process::collect(pidfd.as_fd());
    Ok(Said {
        code: match ended {
            Ended::Code(code) => Some(code),
            _ => None,
        },
        output: text(output)?,
        error: text(error)?,
    })
}

fn execute(program: &Path, arguments: &[&str]) -> KernelError {
    let program = program.display().to_string();
    let mut argv = vec![program.clone()];
    argv.extend(arguments.iter().map(|&word| word.to_owned()));
    process::execute(&program, &argv, &["LC_ALL=C".to_owned()])
}

fn text(fd: OwnedFd) -> Result<String> {
    let failed = KernelError::io("read", "what a tool said");
    let mut file = File::from(fd);
    let mut data = Vec::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(SAID_MOST).read_to_end(&mut data));
    read.map_err(failed)?;
    Ok(String::from_utf8_lossy(&data).into_owned())
}

/// What a tool's root is made of, gathered in the namespace where it is.
pub(super) struct Place {
    root: OwnedFd,
    /// Names in the root, and the host's tree or the target of a link.
    programs: Vec<(&'static str, Shown)>,
    files: Vec<(String, OwnedFd)>,
    folder: Option<(String, OwnedFd)>,
    pub(super) null: OwnedFd,
}

enum Shown {
    Tree(OwnedFd),
    Link(PathBuf),
}

impl Place {
    pub(super) fn prepare(files: &[Handed<'_>]) -> Result<Self> {
        let sealed = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV;
        let options = [("size", "64k"), ("mode", "0755")];
        let root = mount::new_filesystem("tmpfs", &options, sealed)?;
        let readable = sealed | Attr::MOUNT_ATTR_RDONLY;
        let set = |tree: &OwnedFd, attr: Attr, deep: bool, what: &str| {
            mount::set_attr(tree.as_fd(), attr, Attr::empty(), deep, None, what)
        };
        let mut programs = Vec::new();
        for name in PROGRAMS {
            let path = Path::new("/").join(name);
            if let Ok(target) = std::fs::read_link(&path) {
                programs.push((name, Shown::Link(target)));
            } else if path.is_dir() {
                let tree = mount::clone_tree(&path, true)?;
                set(&tree, readable, true, name)?;
                programs.push((name, Shown::Tree(tree)));
            }
        }
        let mut handed = Vec::new();
        for file in files {
            let tree = mount::clone_tree_fd(file.file, false, file.name)?;
            let noexec = Attr::MOUNT_ATTR_NOEXEC;
            let attr = if file.writable { sealed } else { readable };
            set(&tree, attr | noexec, false, file.name)?;
            handed.push((file.name.to_owned(), tree));
        }
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(KernelError::on("open", "/dev/null"))?;
        Self {
            root,
            programs,
            files: handed,
            folder: None,
            null,
        }
        .with_device("null")
    }

    /// The same with a device of the host's.
    pub(super) fn with_device(mut self, name: &str) -> Result<Self> {
        let name = format!("dev/{name}");
        let tree = mount::clone_tree(&Path::new("/").join(&name), false)?;
        self.files.push((name, tree));
        Ok(self)
    }

    /// The same with a folder of the host's, read-only, by that name in the root.
    pub(super) fn with_folder(mut self, name: &str, folder: &Path) -> Result<Self> {
        let tree = mount::clone_tree(folder, false)?;
        let attr = Attr::MOUNT_ATTR_NOSUID
            | Attr::MOUNT_ATTR_NODEV
            | Attr::MOUNT_ATTR_NOEXEC
            | Attr::MOUNT_ATTR_RDONLY;
        mount::set_attr(tree.as_fd(), attr, Attr::empty(), false, None, name)?;
        self.folder = Some((name.to_owned(), tree));
        Ok(self)
    }

    /// Makes this process one that can reach nothing else.
    fn enter(&self, output: &OwnedFd, error: &OwnedFd, file_most: Option<u64>) -> Result<()> {
        process::on_parent_death(Some(rustix::process::Signal::KILL))?;
        self.become_root()?;
        give_up(file_most)?;
        self.speak_to(output, error)
    }

    /// Standard input is nothing, and what is said goes there.
    pub(super) fn speak_to(&self, output: &OwnedFd, error: &OwnedFd) -> Result<()> {
        let stdio = |errno| KernelError::new("set", "standard files", errno);
        rustix::stdio::dup2_stdin(&self.null).map_err(stdio)?;
        rustix::stdio::dup2_stdout(output).map_err(stdio)?;
        rustix::stdio::dup2_stderr(error).map_err(stdio)
    }

    /// Makes it this process's root, in the mount namespace that is its own already.
    pub(super) fn become_root(&self) -> Result<()> {
        mount::make_all_private()?;
        mount::cover_root(self.root.as_fd())?;
        let made = |what: &str, errno| KernelError::new("make", what, errno);
        for (name, shown) in &self.programs {
            match shown {
                Shown::Link(target) => rustix::fs::symlinkat(target, &self.root, *name)
                    .map_err(|errno| made(name, errno))?,
                Shown::Tree(tree) => {
                    rustix::fs::mkdirat(&self.root, *name, Mode::from_raw_mode(0o755))
                        .map_err(|errno| made(name, errno))?;
                    self.attach(tree, name, OFlags::DIRECTORY)?;
                }
            }
        }
        let folder = self.folder.as_ref().map(|(name, _)| name.as_str());
        for name in ["dev"].into_iter().chain(folder) {
            rustix::fs::mkdirat(&self.root, name, Mode::from_raw_mode(0o755))
                .map_err(|errno| made(name, errno))?;
        }
        if let Some((name, tree)) = &self.folder {
            self.attach(tree, name, OFlags::DIRECTORY)?;
        }
        for (name, tree) in &self.files {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&self.root, name, flags, Mode::RUSR)
                .map_err(|errno| made(name, errno))?;
            self.attach(tree, name, OFlags::empty())?;
        }
        mount::become_root(self.root.as_fd())?;
        let sealed = Attr::MOUNT_ATTR_RDONLY;
        mount::set_attr(
            self.root.as_fd(),
            sealed,
            Attr::empty(),
            false,
            None,
            "the root",
        )
    }

    fn attach(&self, tree: &OwnedFd, name: &str, more: OFlags) -> Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
        let target = rustix::fs::openat(&self.root, name, flags, Mode::empty())
            .map_err(KernelError::on("open", name))?;
        mount::attach(tree.as_fd(), target.as_fd(), name)
    }
}

/// Keeps reading files, whoever owns them, and nothing else of being root.
fn give_up(file_most: Option<u64>) -> Result<()> {
    let refused = |error: capability::CapabilityError| {
        KernelError::new("drop", "capabilities", error.errno).because(error.what)
    };
    let keep = CapabilitySet::from_names(["dac_read_search"])
        .map_err(|_| KernelError::new("drop", "capabilities", Errno::INVAL))?;
    set_rlimit("core", 0, 0)?;
    set_rlimit("as", MEMORY, MEMORY)?;
    if let Some(most) = file_most {
        set_rlimit("fsize", most, most)?;
    }
    capability::drop_bounding_except(keep).map_err(refused)?;
    capability::set(keep, keep).map_err(refused)?;
    no_new_privileges()?;
    process::reset_signals()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_sees_what_it_is_handed_and_nothing_else() {
        // Namespaces need root. nextest gives each test a process, whose other thread only waits.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let file = std::env::temp_dir().join(format!("confined-{}", std::process::id()));
        std::fs::write(&file, "handed").unwrap();
        let open = File::open(&file).unwrap();
        let shown = Handed {
            name: "disk",
            file: open.as_fd(),
            writable: false,
        };
        let line = "cat /disk; ls /; cat /etc/shadow; touch /disk /x; echo $$; exit 3";
        let said = shell(line, &[shown], Most::default());
        std::fs::remove_file(&file).unwrap();
        assert_eq!(said.code, Some(3), "{said:?}");
        assert!(said.output.starts_with("handed"), "{said:?}");
        assert!(
            !said.output.contains("etc") && said.output.contains("disk\n"),
            "{said:?}"
        );
        assert!(said.output.ends_with("usr\n1\n"), "{said:?}");
        assert!(said.error.contains("/etc/shadow: No such file"), "{said:?}");
        let read_only = said.error.matches("Read-only file system").count();
        assert_eq!(read_only, 2, "{said:?}");
    }

    fn shell(line: &str, files: &[Handed<'_>], most: Most) -> Said {
        run(Path::new("/bin/sh"), &["-c", line], files, most).unwrap()
    }

    #[test]
    fn a_tool_writes_no_more_and_takes_no_longer_than_it_may() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let file = std::env::temp_dir().join(format!("confined-most-{}", std::process::id()));
        let open = File::create(&file).unwrap();
        let shown = || Handed {
            name: "text",
            file: open.as_fd(),
            writable: true,
        };
        let file_most = Most {
            file: Some(4096),
            ..Most::default()
        };
        let said = shell("exec yes >/text", &[shown()], file_most);
        let written = open.metadata().unwrap().len();
        std::fs::remove_file(&file).unwrap();
        assert_eq!((said.code, written), (Some(1), 4096), "{said:?}");
        assert!(said.error.contains("File too large"), "{said:?}");
        let (begin, time) = (Instant::now(), Some(Duration::from_millis(300)));
        let said = shell("exec sleep 60", &[], Most { file: None, time });
        assert_eq!(said.code, None, "{said:?}");
        assert!(begin.elapsed() < Duration::from_secs(20), "{said:?}");
    }
}
