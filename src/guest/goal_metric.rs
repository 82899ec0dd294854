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
#[derive(Default)]
struct Metric {
    run: Option<Run>,
    next: Option<Instant>,
    number: Option<(f64, Instant)>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Metrics {
    all: BTreeMap<GoalName, Metric>,
}

impl Metrics {
    /// The newest number of a goal's command; goes on with its run, or begins one.
    pub(super) fn number(&mut self, goal: &GoalName, command: &[String]) -> Option<f64> {
        let metric = self.all.entry(goal.clone()).or_default();
        if let Some(run) = metric.run.take() {
            match run.go_on() {
                Ended::Not(run) => metric.run = Some(run),
                Ended::With(number) => {
                    metric.number = number.map(|n| (n, Instant::now())).or(metric.number);
                }
            }
        } else if metric.next.is_none_or(|next| Instant::now() >= next) {
            metric.next = Some(Instant::now() + EVERY);
            metric.run = Run::begin(command);
        }
        let fresh = |(_, at): &(f64, Instant)| at.elapsed() < FRESH;
        metric.number.filter(fresh).map(|(number, _)| number)
    }

    /// Forgets, and ends, commands of goals that are no more.
    pub(super) fn keep(&mut self, wanted: impl Fn(&GoalName) -> bool) {
        self.all.retain(|name, _| wanted(name));
    }
}

enum Ended {
    Not(Run),
    With(Option<f64>),
}

impl Run {
    fn begin(command: &[String]) -> Option<Self> {
        // A server that is slow, or a name that nobody knows, must not hold anybody up either.
        let asked = metric_url(command)
            .map(|url| [OURSELVES, "goal", "number", "--", url].map(String::from));
        let command = asked.as_ref().map_or(command, |words| &words[..]);
        let (program, arguments) = command.split_first()?;
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
            .ok()?;
        let output = child.stdout.take()?;
        let run = Self {
            child,
            output,
            said: Vec::new(),
            began: Instant::now(),
        };
        // Nothing here may wait for it.
        rustix::fs::fcntl_setfl(run.output.as_fd(), OFlags::NONBLOCK).ok()?;
        Some(run)
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
            // Ended, with its group, when this is dropped.
            _ => Ended::With(None),
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
fn number(said: &[u8]) -> Option<f64> {
    let text = String::from_utf8_lossy(&said[..said.len().min(MOST)]);
    let number: f64 = text.split_whitespace().next()?.parse().ok()?;
    number.is_finite().then_some(number)
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
        assert_eq!(number(b" 12.5 ms\n"), Some(12.5));
        for bad in ["", "x", "nan", "inf"] {
            assert_eq!(number(bad.as_bytes()), None, "{bad}");
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
