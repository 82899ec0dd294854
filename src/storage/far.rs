//! A machine elsewhere, reached by the host's own ssh(1) with the settings of whoever calls: small shell
//! scripts go there on its standard input, and what comes back is a stranger's. What becomes of it is
//! `far_machine`.

use std::io::{self, Read, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::dirfd::read_limited;
use crate::kernel::interrupt;

/// Begins what a script says: what a login prints before that is not meant for programs.
const BEGIN: &str = "bulkhead-begin";
/// Most bytes before that, of what a short script says, and of complaints.
const NOISE_MOST: usize = 64 << 10;
const SAID_MOST: u64 = 1 << 20;
const COMPLAINT_MOST: u64 = 16 << 10;
/// A connection that has died is found so; what somebody sets in their options comes before it.
const ALIVE: [&str; 3] = [
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    "ConnectTimeout=30",
];
/// How often is looked whether ssh has ended.
const LOOK: Duration = Duration::from_millis(50);
/// How long what ssh complains of is waited for when it has ended: a process that it has left behind may
/// keep that open.
const COMPLAINT_WAIT: Duration = Duration::from_secs(2);

/// A machine elsewhere and a root on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Far {
    /// `[USER@]HOST`, as ssh(1) takes it.
    pub host: String,
    /// The root to copy.
    pub path: String,
    /// Settings of ssh_config(5), `KEY=VALUE`.
    pub options: Vec<String>,
    /// What stops its services, a line for its shell: run between two passes.
    pub stop: Option<String>,
}

impl Far {
    /// From `[USER@]HOST[:/PATH]`.
    ///
    /// # Errors
    /// It has another form; as a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, path) = match text.split_once(":/") {
            Some((host, path)) => (host, format!("/{path}")),
            None => (text.strip_suffix(':').unwrap_or(text), "/".to_owned()),
        };
        let odd = |c: char| c.is_whitespace() || c.is_control();
        // What begins with a dash would be a flag.
        if host.is_empty() || host.starts_with('-') || host.contains(odd) {
            return Err(format!("{text:.80?} is no place: use [USER@]HOST[:/PATH]"));
        }
        if path.contains(|c: char| c.is_control()) {
            return Err("the path has a control character in it".into());
        }
        Ok(Self {
            host: host.to_owned(),
            path,
            ..Self::default()
        })
    }

    /// What a short script says there.
    pub(super) fn ask(&self, shell: &str, script: &str) -> Result<String, String> {
        let mut said = self.run(shell, script)?;
        let text = read_limited(&mut said, SAID_MOST);
        let text = text.map_err(|e| format!("{} says too much, or nothing: {e}", self.host))?;
        said.end(0)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs a script there with this shell, and gives what it says as it comes.
    pub(super) fn run(&self, shell: &str, script: &str) -> Result<Said, String> {
        let input = format!("echo {BEGIN}\n{script}\nexit\n").into_bytes();
        self.start(shell, input)
    }

    /// The same of a script that reads `input`.
    pub(super) fn feed(&self, shell: &str, script: &str, input: Vec<u8>) -> Result<Said, String> {
        let script = quoted(&format!("echo {BEGIN}; {script}"));
        self.start(&format!("{shell} -c {script}"), input)
    }

    fn start(&self, shell: &str, given: Vec<u8>) -> Result<Said, String> {
        let mut command = Command::new("ssh");
        command.arg("-T");
        // ssh keeps to the first that it hears.
        for option in self.options.iter().map(String::as_str).chain(ALIVE) {
            command.arg("-o").arg(option);
        }
        command.arg("--").arg(&self.host).arg(shell);
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                "ssh is not here (Debian: apt-get install openssh-client)".to_owned()
            }
            _ => format!("ssh cannot be run: {error}"),
        })?;
        let complaint = child.stderr.take().map(|mut from| {
            std::thread::spawn(move || {
                let mut first = Vec::new();
                let kept = (&mut from).take(COMPLAINT_MOST).read_to_end(&mut first);
                // The rest is read too, so that nobody waits for that.
                let _rest = kept.and_then(|_| io::copy(&mut from, &mut io::sink()));
                first
            })
        });
        let mut said = Said {
            host: self.host.clone(),
            output: child.stdout.take(),
            child,
            complaint,
        };
        if let Some(mut input) = said.child.stdin.take() {
            // Aside, because it is read while what is said of it is waited for. Who reads no more of it
            // says why.
            std::thread::spawn(move || input.write_all(&given));
        }
        match said.begin() {
            Ok(true) => Ok(said),
            begun => match said.stop(begun.is_ok()) {
                Err(why) => Err(why),
                Ok(()) => Err(format!("no shell of {} answers", self.host)),
            },
        }
    }
}

/// What a script there says, as it comes. Ended when dropped.
pub(super) struct Said {
    host: String,
    child: Child,
    output: Option<ChildStdout>,
    complaint: Option<JoinHandle<Vec<u8>>>,
}

impl Said {
    /// Reads up to where the script begins to speak; false where it never does.
    fn begin(&mut self) -> io::Result<bool> {
        let mut line = Vec::new();
        let mut byte = [0];
        for _ in 0..NOISE_MOST {
            if self.read(&mut byte)? == 0 {
                return Ok(false);
            }
            match byte[0] {
                b'\n' if line == BEGIN.as_bytes() => return Ok(true),
                b'\n' => line.clear(),
                byte => line.push(byte),
            }
        }
        Ok(false)
    }

    /// Ends what has said nothing; where it `closed` its output itself it has a moment to say why.
    fn stop(&mut self, closed: bool) -> Result<(), String> {
        let end = Instant::now() + COMPLAINT_WAIT;
        while closed && Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(LOOK);
        }
        let _gone = self.child.kill();
        self.end(0)
    }

    /// Waits for the end of the script; codes up to `fine` are no errors.
    pub(super) fn end(&mut self, fine: i32) -> Result<(), String> {
        drop(self.output.take());
        let status = loop {
            match self.child.try_wait().map_err(|e| e.to_string())? {
                Some(status) => break status,
                None if interrupt::caught().is_some() => {
                    let _gone = self.child.kill();
                    break self.child.wait().map_err(|e| e.to_string())?;
                }
                None => std::thread::sleep(LOOK),
            }
        };
        let end = Instant::now() + COMPLAINT_WAIT;
        let silent = |thread: &JoinHandle<Vec<u8>>| !thread.is_finished() && Instant::now() < end;
        while self.complaint.as_ref().is_some_and(silent) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let complaint = self.complaint.take().filter(JoinHandle::is_finished);
        let complaint = complaint.and_then(|thread| thread.join().ok());
        let complaint = String::from_utf8_lossy(&complaint.unwrap_or_default()).into_owned();
        let lines: Vec<&str> = complaint.lines().map(str::trim).collect();
        let last = lines
            .get(lines.len().saturating_sub(3)..)
            .unwrap_or_default();
        let last: String = last.join("; ").chars().take(400).collect();
        match status.code() {
            Some(code) if code <= fine => Ok(()),
            Some(255) => Err(format!("ssh does not reach {}: {last}", self.host)),
            Some(code) => Err(format!(
                "on {} it ended with code {code}: {last}",
                self.host
            )),
            None => Err(format!("ssh to {} was ended: {last}", self.host)),
        }
    }
}

impl Read for Said {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(output) = &mut self.output else {
            return Ok(0);
        };
        let look = Timespec::try_from(LOOK).map_err(io::Error::other)?;
        loop {
            // Not only when a call is interrupted: a signal may come just before it.
            if interrupt::caught().is_some() {
                return Err(io::Error::other("interrupted by a signal"));
            }
            let mut ready = [PollFd::new(&*output, PollFlags::IN)];
            match poll(&mut ready, Some(&look)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return output.read(buffer),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        // It has ended as a rule; what is left of it nobody reads.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// A word for a shell, whatever is in it.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_hosts_with_a_path_or_without() {
        let of = |text: &str| Far::parse(text).map(|far| (far.host, far.path));
        let pair = |host: &str, path: &str| Ok((host.to_owned(), path.to_owned()));
        assert_eq!(of("old"), pair("old", "/"));
        assert_eq!(of("root@old:"), pair("root@old", "/"));
        assert_eq!(of("root@old:/srv/a b"), pair("root@old", "/srv/a b"));
        assert_eq!(of("::1:/srv"), pair("::1", "/srv"));
        for odd in ["", "-oProxyCommand=x", ":/x", "a b", "a\n", "old:/a\nb"] {
            assert!(of(odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn words_stay_words() {
        assert_eq!(quoted("/srv/it's $x"), "'/srv/it'\\''s $x'");
    }
}
