//! The server program of a network that asks for one, and who keeps it: a process of ours that starts
//! it, gives it its files anew when the book of leases, the record or the host's name servers change,
//! starts it again when it dies, and takes it along when it ends itself. One for each network, by a lock
//! in the network's run folder; a note beside that says who it is and how the program fares. It follows
//! what is written: what the program cannot be told while it runs, it is told by beginning it anew; if
//! the record asks for nobody or is gone, the keeper ends.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::files::{self, FileError};
use super::host::HostError;
use super::served::{self, FOLDER, ORDERS, Texts};
use super::{DirectoryError, Network};
use crate::kernel::file::{self, Lock};
use crate::kernel::folder_watch::FolderWatch;
use crate::kernel::process::{self, Identity};
use crate::kernel::{Errno, KernelError, fault, server};

/// The hidden verb that becomes the process that keeps a server program.
pub const VERB: &str = "network-server";
/// Where users of the host are.
const USERS: &str = "/etc/passwd";
/// The user that the program's package makes for it, and who has nothing (nobody).
const USER: &str = "dnsmasq";
const NOBODY: (u32, u32) = (65_534, 65_534);
/// How long one that ends is waited for, and one that begins.
const END: Duration = Duration::from_secs(2);
const BEGIN: Duration = Duration::from_secs(25);
/// How long is tried again when nobody stays to keep it.
const MISSED: Duration = Duration::from_millis(500);
/// How long the first pause is before it is started again, and the longest.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// One that has run so long has begun well.
const WELL: Duration = Duration::from_secs(60);
/// Changes that come together are one.
const TOGETHER: Duration = Duration::from_millis(20);

/// Nobody serves a network that asks for it.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No program.
    #[error(
        "cannot serve {what} on the network {network}: there is no `dnsmasq` on this host; install the package dnsmasq-base"
    )]
    Missing {
        /// What is asked for.
        what: String,
        /// Of which network.
        network: String,
    },
    /// It does not run.
    #[error("cannot serve {what} on the network {network}: {why}")]
    Refused {
        /// What is asked for.
        what: String,
        /// Of which network.
        network: String,
        /// Its own words.
        why: String,
    },
}

/// What the process that keeps a server program says of it.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    keeper: Identity,
    /// The program, since it has begun.
    program: Option<Identity>,
    /// Why it does not run.
    why: Option<String>,
}

/// How it stands with a network's server program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As it should.
    Well,
    /// It should run, and nobody sees to that.
    Missing,
    /// Somebody sees to it, and it does not run.
    Failing(String),
    /// Nobody asked for it.
    Stray,
}

impl Network {
    /// Whether somebody keeps the server program now.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.note().is_some_and(|note| note.keeper.lives())
    }

    /// How it stands with the server program: what should be, and what is.
    ///
    /// # Errors
    /// The kernel or a file says no.
    pub fn server_standing(&self) -> Result<Standing, HostError> {
        let note = self.note().filter(|note| note.keeper.lives());
        Ok(match (self.is_to_be_served()?, note) {
            (false, None) => Standing::Well,
            (false, Some(_)) => Standing::Stray,
            (true, None) => Standing::Missing,
            (true, Some(Note { why: Some(why), .. })) => Standing::Failing(why),
            (true, Some(_)) => Standing::Well,
        })
    }

    /// Whether somebody is asked for, and there is something to serve on.
    fn is_to_be_served(&self) -> Result<bool, HostError> {
        Ok(!self.served.is_none() && self.is_set_up()?)
    }

    /// Has the network served where it asks for it, in the background.
    pub(super) fn ensure_served(&self) -> Result<(), HostError> {
        if self.served.is_none() || self.is_kept() {
            return Ok(());
        }
        fault::point()?;
        let failed = KernelError::io("start", "what keeps the server program of a network");
        Command::new("/proc/self/exe")
            .arg("--root")
            .arg(self.layout.root())
            .args([VERB, self.word()])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(
                fault::setting()
                    .as_deref()
                    .and_then(|all| all.split_once('=')),
            )
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .map_err(failed)?;
        Ok(())
    }

    /// The same, and waits until the program has begun; it may have begun long before.
    ///
    /// # Errors
    /// There is none, or it does not run: the message has its own words.
    pub fn start_server(&self) -> Result<(), HostError> {
        self.refuse_missing()?;
        if !self.is_to_be_served()? {
            return Ok(());
        }
        let refused = |why: String| ServerError::Refused {
            what: self.served.words().join(", "),
            network: self.word().to_owned(),
            why,
        };
        self.ensure_served()?;
        let began = Instant::now();
        while began.elapsed() < BEGIN {
            match self.note().filter(|note| note.keeper.lives()) {
                Some(Note { why: Some(why), .. }) => return Err(refused(why).into()),
                Some(Note {
                    program: Some(program),
                    ..
                }) if program.lives() => return Ok(()),
                None if began.elapsed() > MISSED => {
                    let why = "the process that keeps its server program has died";
                    return Err(refused(why.to_owned()).into());
                }
                // One that was about to end was in its way.
                None => self.ensure_served()?,
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        Err(refused("its server program has not begun in time".to_owned()).into())
    }

    /// Refuses where no program could serve what the network asks for.
    pub(super) fn refuse_missing(&self) -> Result<(), HostError> {
        if self.served.is_none() || served::program().is_some() {
            return Ok(());
        }
        Err(ServerError::Missing {
            what: self.served.words().join(", "),
            network: self.word().to_owned(),
        }
        .into())
    }

    /// Ends whoever serves the network; comes back when nobody does.
    ///
    /// # Errors
    /// It does not end.
    pub fn end_server(&self) -> Result<(), HostError> {
        let until = Instant::now() + END;
        if !self.server_lock().exists() {
            return Ok(());
        }
        loop {
            if let Some(note) = self.note() {
                for one in [Some(note.keeper), note.program].into_iter().flatten() {
                    let Some(process) = one.open() else {
                        continue;
                    };
                    // It may be gone by now.
                    let _gone = process::send_signal(process.as_fd(), KILL);
                    process::wait_gone(process.as_fd(), Some(END))?;
                }
            }
            let lock = Lock::take_there(&self.server_lock(), Duration::from_millis(100))?;
            if let Some(_alone) = lock {
                fault::point()?;
                files::remove(&self.note_file())?;
                files::remove_folder(&self.served_folder())?;
                return Ok(files::remove(&self.server_lock())?);
            }
            if !self.server_lock().exists() {
                return Ok(());
            }
            if Instant::now() >= until {
                let what = format!("the server program of the network {}", self.word());
                return Err(KernelError::new("end", what, Errno::BUSY).into());
            }
        }
    }

    /// Serves the network for as long as it asks for it: the process that keeps the program. `self` is
    /// what it asked for at first, `usual` the network that is always there.
    ///
    /// # Errors
    /// A file or the kernel says no; nobody is there to be told, and the next start of a guest tries
    /// anew.
    pub fn serve(&self, usual: &Self) -> Result<(), HostError> {
        file::make_private_dir(&self.run_folder())?;
        let Some(_lock) = Lock::take(&self.server_lock(), Duration::from_secs(1))? else {
            return Ok(());
        };
        fault::point()?;
        let me = Identity::of(std::process::id());
        let Some(keeper) = me else { return Ok(()) };
        let mut note = Note {
            keeper,
            program: None,
            why: None,
        };
        self.write_note(&note)?;
        let mut pause = PAUSE;
        let changes = FolderWatch::new()?;
        // Before each look at what is written: what changes after it is heard.
        changes.look_at(&self.watched());
        while let Some((now, texts)) = self.to_serve(usual)? {
            self.write_texts(None, &texts)?;
            fault::point()?;
            let began = Instant::now();
            let done = now.begin();
            let (program, why) = match done {
                Ok(begun) => {
                    let how = how_begun(&begun);
                    (Some(begun.pidfd), how)
                }
                Err(error) => (None, Err(error.to_string())),
            };
            note.program = why.as_ref().ok().copied();
            note.why = why.err();
            self.write_note(&note)?;
            fault::point()?;
            let ended = match (&program, note.program) {
                (Some(program), Some(_)) => self.attend(usual, &changes, program, texts)?,
                _ => true,
            };
            if let Some(program) = &program {
                if !ended {
                    let _gone = process::send_signal(program.as_fd(), KILL);
                }
                process::collect(program.as_fd());
            }
            note.program = None;
            if ended {
                pause = match began.elapsed() > WELL {
                    true => PAUSE,
                    false => (pause * 2).min(LONGEST_PAUSE),
                };
                changes.wait(None, Some(pause))?;
            }
            changes.look_at(&self.watched());
        }
        Ok(())
    }

    /// Stays with the program that runs; true when it has ended, false when it is to end: nobody wants
    /// it, or it is to do what it can only be told at its beginning.
    fn attend(
        &self,
        usual: &Self,
        changes: &FolderWatch,
        program: &OwnedFd,
        mut texts: Texts,
    ) -> Result<bool, HostError> {
        loop {
            if changes.wait(Some(program), None)? {
                return Ok(true);
            }
            std::thread::sleep(TOGETHER);
            changes.look_at(&self.watched());
            let Some((_, now)) = self.to_serve(usual)? else {
                return Ok(false);
            };
            if now == texts {
                continue;
            }
            if served::is_for_a_beginning(&texts, &now) {
                return Ok(false);
            }
            self.write_texts(Some(&texts), &now)?;
            texts = now;
            process::send_signal(program.as_fd(), HANG_UP)?;
        }
    }

    /// The network as it is written now, and what the program is to read by that; `None` if nobody is to
    /// be served.
    fn to_serve(&self, usual: &Self) -> Result<Option<(Self, Texts)>, HostError> {
        let now = match &self.name {
            None => Ok(usual.clone()),
            Some(name) => usual.load(name),
        };
        match now {
            Ok(now) if !now.served.is_none() => Ok(now.texts()?.map(|texts| (now, texts))),
            Ok(_) | Err(DirectoryError::Unknown { .. }) => Ok(None),
            Err(error) => Err(FileError::Damaged {
                path: self.run_folder(),
                reason: error.to_string(),
            }
            .into()),
        }
    }

    /// Folders in which something changes that the program is told.
    fn watched(&self) -> Vec<PathBuf> {
        let mut all = served::resolvers_folders();
        all.extend([self.layout.networks(), self.folder()]);
        all
    }

    fn begin(&self) -> Result<server::Begun, HostError> {
        self.refuse_missing()?;
        let program = served::program().unwrap_or(Path::new(""));
        let orders = format!("--conf-file=/{FOLDER}/{ORDERS}");
        let mut capabilities = vec!["net_bind_service"];
        if self.served.dhcp || self.served.ra {
            // It refuses to run without them.
            capabilities.extend(["net_admin", "net_raw"]);
        }
        let wish = server::Wish {
            program,
            arguments: &["--keep-in-foreground".to_owned(), orders],
            name: FOLDER,
            folder: &self.served_folder(),
            user: user(),
            capabilities: &capabilities,
        };
        Ok(server::begin(&wish)?)
    }

    /// Writes those that are not as they were.
    fn write_texts(&self, before: Option<&Texts>, texts: &Texts) -> Result<(), HostError> {
        let folder = self.served_folder();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&folder)
            .map_err(KernelError::io("make the folder", folder.display()))?;
        for (place, (name, text)) in texts.iter().enumerate() {
            if before.is_none_or(|before| before[place].1 != *text) {
                file::write_runtime(&folder.join(name), text.as_bytes(), 0o644)?;
            }
        }
        Ok(())
    }

    fn note(&self) -> Option<Note> {
        files::read(&self.note_file()).ok().flatten()
    }

    fn write_note(&self, note: &Note) -> Result<(), HostError> {
        let text = serde_json::to_vec(note).unwrap_or_default();
        Ok(file::write_runtime(&self.note_file(), &text, 0o600)?)
    }

    fn server_lock(&self) -> PathBuf {
        self.run_folder().join("server.lock")
    }

    fn note_file(&self) -> PathBuf {
        self.run_folder().join("server.json")
    }

    fn served_folder(&self) -> PathBuf {
        self.run_folder().join(FOLDER)
    }
}

/// SIGHUP, at which the program reads its files again.
const HANG_UP: i32 = 1;

/// SIGKILL: it has nothing to put away.
const KILL: i32 = 9;

/// Whether it runs, or what it has said.
fn how_begun(begun: &server::Begun) -> Result<Identity, String> {
    let said = begun.said.chars().filter(|c| !c.is_control());
    let said: String = said.take(500).collect();
    // One that gives up says why; those that have begun say nothing.
    let ended = !said.is_empty() || process::is_ending(begun.pid);
    if ended && process::wait_gone(begun.pidfd.as_fd(), Some(END)).unwrap_or(true) {
        return Err(match said.is_empty() {
            true => "its server program ended at once".to_owned(),
            false => format!("its server program says: {said}"),
        });
    }
    Identity::of(begun.pid).ok_or_else(|| "its server program ended at once".to_owned())
}

/// Who the program is: the user that its package has made, else nobody.
fn user() -> (u32, u32) {
    let text = fs::read_to_string(USERS).unwrap_or_default();
    let mut lines = text.lines().map(|line| line.split(':'));
    let found = lines.find_map(|mut words| {
        (words.next() == Some(USER)).then_some(())?;
        Some((words.nth(1)?.parse().ok()?, words.next()?.parse().ok()?))
    });
    found.filter(|(user, _)| *user != 0).unwrap_or(NOBODY)
}
