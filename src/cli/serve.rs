//! `serve`: what has to go on beside guests, in one program to start: goals, networks and snapshots by
//! the clock. Each part is this program again with its own verb, which can be had alone just as well;
//! here it is only begun, begun anew when it ends, and ended with this one.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches};
use rustix::process::{Pid, Signal, kill_process};

use super::command::{Verb, dry_run};
use super::context::Context;
use super::fault::{Fault, Result, USAGE};
use super::render::Format;
use crate::kernel::{end_with_us, interrupt, process};

/// How often a part is looked at of whose end the kernel does not tell, or that was asked to end.
const LOOK: Duration = Duration::from_millis(25);
/// The first pause before a part is begun again, doubled each time.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST: Duration = Duration::from_secs(60);
/// How long a part may take to put its things away.
const PATIENCE: Duration = Duration::from_secs(60);

/// One part.
#[derive(Clone, Copy, Debug)]
struct Part {
    word: &'static str,
    arguments: &'static [&'static str],
    /// How often it is run; `None` for one that goes on until it is ended.
    every: Option<Duration>,
}

const PARTS: [Part; 3] = [
    Part {
        word: "goals",
        arguments: &["goal", "run"],
        every: None,
    },
    Part {
        word: "networks",
        arguments: &["network", "watch"],
        every: None,
    },
    Part {
        word: "snapshots",
        arguments: &["snapshot", "run"],
        every: Some(Duration::from_secs(600)),
    },
];

pub(super) const SERVE: Verb = Verb {
    name: "serve",
    about: "Follow goals, watch networks and take snapshots by the clock, until it is ended",
    build: |command| {
        command
            .arg(
                Arg::new("without")
                    .long("without")
                    .value_name("PART")
                    .action(ArgAction::Append)
                    .value_parser(PossibleValuesParser::new(PARTS.map(|part| part.word)))
                    .help("Leave out goals, networks or snapshots, which another program does"),
            )
            .arg(dry_run())
            .after_help(
                "In the foreground; bulkhead-serve.service runs it. It executes `bulkhead goal run`, \
                 `bulkhead network watch` and, every ten minutes, `bulkhead snapshot run`, begins one that has \
                 ended again, and ends them when it is ended. Guests need none of it to run.",
            )
    },
    run: serve,
    hidden: false,
};

/// A part under way, or waiting for its turn.
struct Run {
    part: Part,
    child: Option<Child>,
    /// Tells when that has ended.
    end: Option<OwnedFd>,
    /// When it was begun last, and when it is next.
    began: Instant,
    next: Instant,
    pause: Duration,
}

impl Run {
    fn new(part: Part) -> Self {
        let now = Instant::now();
        Self {
            part,
            child: None,
            end: None,
            began: now,
            next: now,
            pause: PAUSE,
        }
    }

    /// Goes on: begins it when it is time, and sees when it has ended.
    fn look(&mut self, context: &Context) {
        let Some(child) = &mut self.child else {
            if Instant::now() >= self.next {
                self.began = Instant::now();
                match spawn(context, self.part) {
                    Ok(child) => {
                        self.end = process::open_pid(child.id()).ok();
                        self.child = Some(child);
                    }
                    Err(error) => self.again(context, &format!("cannot be executed: {error}")),
                }
            }
            return;
        };
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => {
                self.child = None;
                self.ended(context, status);
            }
            // Nobody but us waits for it.
            Err(error) => {
                self.child = None;
                self.again(context, &format!("cannot be waited for: {error}"));
            }
        }
    }

    fn ended(&mut self, context: &Context, status: ExitStatus) {
        match self.part.every {
            // What went wrong with a guest it has said itself.
            Some(every) => self.next = self.began + every,
            None => self.again(context, &format!("ended with {status}")),
        }
    }

    fn again(&mut self, context: &Context, why: &str) {
        // One that went on for long begins anew.
        if self.began.elapsed() >= LONGEST {
            self.pause = PAUSE;
        }
        let (word, seconds) = (self.part.word, self.pause.as_secs());
        context.say(&format!("{word} {why}; again in {seconds} s"));
        self.next = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST);
    }

    /// Asks it to end and waits for that, not for ever.
    fn end(&mut self) {
        let Some(child) = &mut self.child else { return };
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(LOOK),
                _ => return,
            }
        }
        let _gone = child.kill();
        let _reaped = child.wait();
    }

    /// How long nothing is to be done about it, if nobody tells of its end.
    fn patience(&self) -> Option<Duration> {
        match (&self.child, &self.end) {
            (None, _) => Some(self.next.saturating_duration_since(Instant::now())),
            (Some(_), None) => Some(LOOK),
            (Some(_), Some(_)) => None,
        }
    }

    fn ask_to_end(&self) {
        if let Some(child) = &self.child {
            // Its number is nobody else's before it was waited for.
            let _gone = kill_process(Pid::from_child(child), Signal::TERM);
        }
    }
}

fn serve(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let left_out: Vec<&String> = matches.get_many("without").into_iter().flatten().collect();
    let mut parts = PARTS.to_vec();
    parts.retain(|part| !left_out.iter().any(|word| *word == part.word));
    if parts.is_empty() {
        let text = "serve has nothing to do: --without leaves out every part; name fewer of them";
        return Err(Fault::new(USAGE, text));
    }
    if matches.get_flag("dry-run") {
        for part in parts {
            let verb = part.arguments.join(" ");
            let how = match part.every {
                Some(every) => format!("every {} minutes", every.as_secs() / 60),
                None => "all the time".to_owned(),
            };
            context.done(&format!("would execute {how}: bulkhead {verb}"))?;
        }
        return Ok(0);
    }
    interrupt::catch()?;
    let mut all: Vec<Run> = parts.into_iter().map(Run::new).collect();
    while interrupt::caught().is_none() {
        for run in &mut all {
            run.look(context);
        }
        let running = all.iter().filter(|run| run.child.is_some());
        let ends = running.filter_map(|run| run.end.as_ref());
        let ends: Vec<_> = ends.map(AsFd::as_fd).collect();
        interrupt::wait_for_end(&ends, all.iter().filter_map(Run::patience).min())?;
    }
    // All at once, then each.
    all.iter().for_each(Run::ask_to_end);
    all.iter_mut().for_each(Run::end);
    Ok(0)
}

/// This program again, with what the part is.
fn spawn(context: &Context, part: Part) -> std::io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--root").arg(&context.root);
    command.args(match context.format {
        Format::Table => ["--format", "table"],
        Format::Json => ["--format", "json"],
        Format::Yaml => ["--format", "yaml"],
        Format::Csv => ["--format", "csv"],
    });
    // Every ten minutes nobody wants to read that nothing was due.
    if context.quiet || part.every.is_some() {
        command.arg("--quiet");
    }
    command.args(part.arguments).stdin(Stdio::null());
    end_with_us(&mut command);
    command.spawn()
}
