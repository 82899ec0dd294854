//! The numbers of goals that a command prints, or a web server says, which a command of ours asks: run now and then, beside everything else, with a time
//! and a size that are not exceeded. What it decides is in `model::goal_control`.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::kernel::end_with_us;
use crate::model::{GoalName, metric_url};

/// Between two runs of one command.
const EVERY: Duration = Duration::from_secs(5);
/// Longest time of a run.
const LONGEST: Duration = Duration::from_secs(4);
/// Most bytes that are read of what it prints.
const MOST: usize = 4096;
/// For so long a number counts when no newer one comes.
const FRESH: Duration = Duration::from_secs(30);

/// This program.
const OURSELVES: &str = "/proc/self/exe";

/// One command's run.
struct Run {
    child: Child,
    output: ChildStdout,
    said: Vec<u8>,
    began: Instant,
}

/// One command.
struct Metric {
    command: Vec<String>,
    run: Option<Run>,
    next: Option<Instant>,
    number: Option<f64>,
    /// When that number came; before the first, when it was asked for.
    at: Instant,
    /// Why no newer one has come.
    why: Option<String>,
}

impl Metric {
    fn new(command: &[String]) -> Self {
        Self {
            command: command.to_vec(),
            run: None,
            next: None,
            number: None,
            at: Instant::now(),
            why: None,
        }
    }

    fn is_fresh(&self) -> bool {
        self.at.elapsed() < FRESH
    }

    fn take_in(&mut self, said: std::result::Result<f64, String>) {
        match said {
            Ok(number) => (self.number, self.at, self.why) = (Some(number), Instant::now(), None),
            Err(why) => self.why = Some(why),
        }
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Metrics {
    all: BTreeMap<GoalName, Metric>,
}

impl Metrics {
    /// The newest number of a goal's command; goes on with its run, or begins one.
    pub(super) fn number(&mut self, goal: &GoalName, command: &[String]) -> Option<f64> {
        let new = || Metric::new(command);
        let metric = self.all.entry(goal.clone()).or_insert_with(new);
        if metric.command != command {
            *metric = new();
        }
        if let Some(run) = metric.run.take() {
            match run.go_on() {
                Ended::Not(run) => metric.run = Some(run),
                Ended::With(said) => metric.take_in(said),
            }
        } else if metric.next.is_none_or(|next| Instant::now() >= next) {
            metric.next = Some(Instant::now() + EVERY);
            match Run::begin(command) {
                Ok(run) => metric.run = Some(run),
                Err(why) => metric.take_in(Err(why)),
            }
        }
        metric.number.filter(|_| metric.is_fresh())
    }

    /// Why a goal has had no number for so long that nothing is decided by it any more.
    pub(super) fn silence(&self, goal: &GoalName) -> Option<&str> {
        let metric = self.all.get(goal).filter(|metric| !metric.is_fresh())?;
        Some(metric.why.as_deref().unwrap_or("nothing came"))
    }

    /// Forgets, and ends, commands of goals that are no more.
    pub(super) fn keep(&mut self, wanted: impl Fn(&GoalName) -> bool) {
        self.all.retain(|name, _| wanted(name));
    }
}

enum Ended {
    Not(Run),
    With(std::result::Result<f64, String>),
}

impl Run {
    fn begin(command: &[String]) -> std::result::Result<Self, String> {
        // A server that is slow, or a name that nobody knows, must not hold anybody up either.
        let asked = metric_url(command)
            .map(|url| [OURSELVES, "goal", "number", "--", url].map(String::from));
        let command = asked.as_ref().map_or(command, |words| &words[..]);
        let (program, arguments) = command.split_first().ok_or("there is no command")?;
        let mut command = Command::new(program);
        // A group of its own, so that what it starts ends with it.
        command
            .args(arguments)
            .stdin(Stdio::null())
            .process_group(0);
        // Nor does it outlive a controller that is killed.
        end_with_us(&mut command);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{program} cannot be executed: {error}"))?;
        let output = child.stdout.take().ok_or("it has no output")?;
        let run = Self {
            child,
            output,
            said: Vec::new(),
            began: Instant::now(),
        };
        // Nothing here may wait for it.
        rustix::fs::fcntl_setfl(run.output.as_fd(), OFlags::NONBLOCK)
            .map_err(|error| format!("what it prints cannot be read: {error}"))?;
        Ok(run)
    }

    fn go_on(mut self) -> Ended {
        let mut page = [0; MOST];
        while self.said.len() < MOST {
            match self.output.read(&mut page) {
                Ok(n) if n > 0 => self.said.extend_from_slice(&page[..n]),
                _ => break,
            }
        }
        match self.child.try_wait() {
            Ok(None) if self.began.elapsed() < LONGEST => Ended::Not(self),
            Ok(Some(status)) if status.success() => Ended::With(number(&self.said)),
            Ok(Some(status)) => Ended::With(Err(format!("it ended with {status}"))),
            // Ended, with its group, when this is dropped.
            Ok(None) if self.said.len() >= MOST => Ended::With(Err(format!(
                "it printed more than {MOST} bytes, all that is read, and did not end in {LONGEST:?}"
            ))),
            Ok(None) => Ended::With(Err(format!("it took more than {LONGEST:?}"))),
            Err(error) => Ended::With(Err(format!("nobody can wait for it: {error}"))),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let group = i32::try_from(self.child.id()).ok();
        if let Some(group) = group.and_then(rustix::process::Pid::from_raw) {
            let _gone = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _reaped = self.child.wait();
    }
}

/// The first word, if it is a number.
fn number(said: &[u8]) -> std::result::Result<f64, String> {
    let text = String::from_utf8_lossy(&said[..said.len().min(MOST)]);
    let word = text.split_whitespace().next().unwrap_or("");
    let number = word.parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| {
        let word: String = word.chars().take(40).collect();
        format!("what it prints is no number: {word:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest(metrics: &mut Metrics, command: &[&str], within: Duration) -> Option<f64> {
        let goal = "g".parse().unwrap();
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        let until = Instant::now() + within;
        loop {
            let number = metrics.number(&goal, &command);
            if number.is_some() || Instant::now() > until {
                return number;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_command_says_a_number_or_nothing() {
        assert_eq!(number(b" 12.5 ms\n"), Ok(12.5));
        for bad in ["", "x", "nan", "inf"] {
            assert!(number(bad.as_bytes()).is_err(), "{bad}");
        }
        let wait = Duration::from_secs(10);
        let of = |command: &[&str]| newest(&mut Metrics::default(), command, wait);
        assert_eq!(of(&["/bin/echo", "3.5"]), Some(3.5));
        let none =
            |command: &[&str]| newest(&mut Metrics::default(), command, Duration::from_millis(300));
        assert_eq!(none(&["/nowhere/at/all"]), None);
        assert_eq!(none(&["/bin/sh", "-c", "echo 3; exit 1"]), None);
    }

    #[test]
    fn without_a_number_for_long_it_is_known_why() {
        let goal: GoalName = "g".parse().unwrap();
        for (command, says) in [
            (
                &["/nowhere/at/all"][..],
                "/nowhere/at/all cannot be executed",
            ),
            (&["/bin/false"], "exit status: 1"),
            (&["/bin/echo", "many"], "is no number: \"many\""),
        ] {
            let mut metrics = Metrics::default();
            newest(&mut metrics, command, Duration::from_millis(300));
            assert_eq!(metrics.silence(&goal), None, "it is not long yet");
            let metric = metrics.all.get_mut(&goal).unwrap();
            metric.at = Instant::now().checked_sub(FRESH).unwrap();
            let why = metrics.silence(&goal).unwrap();
            assert!(why.contains(says), "{why}");
            // Another command has its own time.
            newest(&mut metrics, &["/bin/true"], Duration::ZERO);
            assert_eq!(metrics.silence(&goal), None);
        }
    }

    #[test]
    fn one_that_never_stops_talking_is_read_no_further_and_ended() {
        let mut metrics = Metrics::default();
        let began = Instant::now();
        assert_eq!(
            newest(&mut metrics, &["/usr/bin/yes"], Duration::from_millis(300)),
            None
        );
        let run = metrics.all.values().next().unwrap().run.as_ref().unwrap();
        assert!(run.said.len() <= 2 * MOST);
        let pid = run.child.id();
        metrics.keep(|_| false);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
