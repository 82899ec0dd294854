//! One verb on many guests: one after the other in this process, or with `-j` side by side in
//! processes of the same program, since this one has to stay single-threaded. One line a guest; the
//! exit code is the highest.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::ArgMatches;
use serde::{Deserialize, Serialize};

use super::context::Context;
use super::fault::{FAILED, Fault, Result, STATE};
use super::order::Job;
use super::render::{self, Format};
use crate::guest::Manager;
use crate::model::GuestName;

/// How often children are looked at.
const PAUSE: Duration = Duration::from_millis(1);

/// What was done to one guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Done {
    /// Guest.
    pub(super) guest: String,
    /// `started`, `stopped`, `was not running`.
    pub(super) result: String,
    /// How long it took, milliseconds.
    pub(super) took_ms: f64,
}

/// A verb on many guests.
pub(super) struct Work<'a> {
    /// Verb, and its flags that a child needs too.
    pub(super) arguments: Vec<String>,
    /// Does it to one; says what was done.
    pub(super) act: &'a dyn Fn(&Manager, &GuestName) -> Result<String>,
    /// Says what would be done to one.
    pub(super) preview: &'a dyn Fn(&Manager, &GuestName) -> Result<String>,
}

/// What came of all so far.
struct Tally<'a> {
    context: &'a Context,
    done: Vec<Done>,
    finished: BTreeSet<GuestName>,
    failed: BTreeSet<GuestName>,
    code: u8,
}

/// Does it to all.
pub(super) fn run(
    context: &Context,
    matches: &ArgMatches,
    jobs: Vec<Job>,
    work: &Work<'_>,
) -> Result<u8> {
    let mut tally = Tally {
        context,
        done: Vec::new(),
        finished: BTreeSet::new(),
        failed: BTreeSet::new(),
        code: 0,
    };
    let side_by_side: u16 = super::command::required(matches, "jobs")?;
    if matches.get_flag("dry-run") || side_by_side == 1 || jobs.len() == 1 {
        let act = if matches.get_flag("dry-run") {
            work.preview
        } else {
            work.act
        };
        for job in &jobs {
            if tally.may_begin(job) {
                let began = Instant::now();
                let result = context
                    .manager()
                    .and_then(|manager| act(manager, &job.name));
                tally.take(&job.name, result, began.elapsed())?;
            }
        }
    } else {
        run_children(&mut tally, jobs, work, side_by_side.into())?;
    }
    if context.format != Format::Table {
        context.out(&render::data(context.format, &tally.done))?;
    }
    Ok(tally.code)
}

impl Tally<'_> {
    /// Whether what must have been done before was; if it failed, so has this.
    fn may_begin(&mut self, job: &Job) -> bool {
        let Some(failed) = job.after.iter().find(|name| self.failed.contains(*name)) else {
            return true;
        };
        let text = format!(
            "guest {} is left as it is: it comes after {failed}",
            job.name
        );
        self.fail(&job.name, &Fault::new(STATE, text));
        false
    }

    fn take(&mut self, name: &GuestName, result: Result<String>, took: Duration) -> Result<()> {
        match result {
            Ok(result) => self.note(Done {
                guest: name.to_string(),
                result,
                took_ms: (took.as_secs_f64() * 1e5).round() / 100.0,
            }),
            Err(fault) => {
                self.fail(name, &fault);
                Ok(())
            }
        }
    }

    fn note(&mut self, done: Done) -> Result<()> {
        if self.context.format == Format::Table {
            let Done {
                guest,
                result,
                took_ms,
            } = &done;
            self.context
                .done(&format!("{guest}: {result} ({took_ms} ms)"))?;
        }
        if let Ok(name) = done.guest.parse() {
            self.finished.insert(name);
        }
        self.done.push(done);
        Ok(())
    }

    fn fail(&mut self, name: &GuestName, fault: &Fault) {
        fault.print();
        self.failed_with(name, fault.code);
    }

    fn failed_with(&mut self, name: &GuestName, code: u8) {
        self.finished.insert(name.clone());
        self.failed.insert(name.clone());
        self.code = self.code.max(code);
    }
}

struct Running {
    name: GuestName,
    child: Child,
}

fn run_children(
    tally: &mut Tally<'_>,
    mut waiting: Vec<Job>,
    work: &Work<'_>,
    most: usize,
) -> Result<()> {
    let mut running: Vec<Running> = Vec::new();
    while !waiting.is_empty() || !running.is_empty() {
        let ready = |job: &Job| job.after.iter().all(|name| tally.finished.contains(name));
        if running.len() < most
            && let Some(place) = waiting.iter().position(ready)
        {
            let job = waiting.remove(place);
            if tally.may_begin(&job) {
                match spawn(tally.context, work, &job.name) {
                    Ok(child) => running.push(Running {
                        name: job.name,
                        child,
                    }),
                    Err(fault) => tally.fail(&job.name, &fault),
                }
            }
            continue;
        }
        let ended = |one: &mut Running| !matches!(one.child.try_wait(), Ok(None));
        match running.iter_mut().position(ended) {
            Some(place) => collect(tally, running.swap_remove(place))?,
            None => std::thread::sleep(PAUSE),
        }
    }
    Ok(())
}

/// This program again, for one guest. It answers on a pipe, in JSON.
fn spawn(context: &Context, work: &Work<'_>, name: &GuestName) -> Result<Child> {
    Command::new("/proc/self/exe")
        .arg("--root")
        .arg(&context.root)
        .args(["--format", "json"])
        .args(&work.arguments)
        .arg(name.as_str())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            Fault::new(
                FAILED,
                format!("cannot execute this program again: {error}"),
            )
        })
}

fn collect(tally: &mut Tally<'_>, mut ended: Running) -> Result<()> {
    let code = ended.child.wait().ok().and_then(|status| status.code());
    let code = u8::try_from(code.unwrap_or(1)).unwrap_or(FAILED);
    let mut said = Vec::new();
    if let Some(mut stderr) = ended.child.stderr.take() {
        // What cannot be read any more is lost; the code says that it failed.
        let _lost = stderr.read_to_end(&mut said);
        let _closed = std::io::stderr().lock().write_all(&said);
    }
    if code != 0 {
        tally.failed_with(&ended.name, code);
        return Ok(());
    }
    let answer = ended.child.stdout.take();
    let done: Option<Vec<Done>> = answer.and_then(|pipe| {
        serde_json::Deserializer::from_reader(pipe)
            .into_iter()
            .next()?
            .ok()
    });
    match done.and_then(|mut done| done.pop()) {
        Some(done) => tally.note(done),
        None => {
            let fault = Fault::new(FAILED, format!("guest {}: no answer", ended.name));
            tally.fail(&ended.name, &fault);
            Ok(())
        }
    }
}
