//! `events`: what happens in a container and what it uses, a JSON object a line.

use std::io::Write as _;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::json;

use super::error::{OciError, Result};
use super::store::{Status, Store};
use crate::kernel::cgroup::{Cgroups, Host};
use crate::kernel::process::timespec;
use crate::kernel::process_known::Known;
use crate::model::clock;

/// Its options.
#[derive(Debug, Args)]
pub(super) struct Events {
    /// Print usage once and end
    #[arg(long)]
    pub(super) stats: bool,
    /// Time between two lines of usage
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub(super) interval: String,
    /// Name of the container
    #[arg(value_name = "CONTAINER")]
    pub(super) id: String,
}

/// Prints events until the container ends, or its usage once.
pub(super) fn events(store: &Store, args: &Events) -> Result<u8> {
    let interval = interval(&args.interval).ok_or_else(|| OciError::Usage {
        what: format!("--interval {}", args.interval),
        why: "write a number with ms, s, m or h, such as 5s or 1m30s, more than 0".into(),
    })?;
    let folder = store.find(&args.id)?;
    let record = folder.made()?;
    let host = Host::quick()?;
    let status = folder.status(&record, &host);
    if matches!(status, Status::Stopped | Status::Creating) {
        return Err(OciError::NotRunning);
    }
    let place = record.cgroup.as_ref().ok_or(OciError::NotRunning)?;
    let cgroups = Cgroups::open(&host, place)?;
    if args.stats {
        print(&args.id, &cgroups)?;
        return Ok(0);
    }
    let pidfd = record
        .process
        .and_then(Known::open)
        .ok_or(OciError::NotRunning)?;
    let mut watch = cgroups.oom_watch()?;
    let mut next = Instant::now() + interval;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        let oom = watch.as_ref().map(AsFd::as_fd);
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        fds.extend(oom.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let woken = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timespec(left))));
        woken.map_err(crate::kernel::KernelError::on("wait for", "events"))?;
        let ended = !fds[0].revents().is_empty();
        let killed = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        if let (true, Some(watch)) = (killed, &mut watch)
            && watch.drain(&cgroups)? > 0
        {
            line(&json!({"type": "oom", "id": args.id}))?;
        }
        if ended {
            return Ok(0);
        }
        if left <= Duration::ZERO || Instant::now() >= next {
            print(&args.id, &cgroups)?;
            next = Instant::now() + interval;
        }
    }
}

/// As Go writes a time: `5s`, `1m30s`.
fn interval(text: &str) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    let mut left = text;
    while !left.is_empty() {
        let unit = left.find(|c: char| c.is_ascii_alphabetic());
        let unit = unit.unwrap_or(left.len());
        let end = left[unit..].find(|c: char| !c.is_ascii_alphabetic());
        let (part, rest) = left.split_at(end.map_or(left.len(), |end| unit + end));
        sum = sum.checked_add(clock::duration(part).ok()?)?;
        left = rest;
    }
    Some(sum).filter(|sum| !sum.is_zero())
}

fn print(id: &str, cgroups: &Cgroups) -> Result<()> {
    line(&json!({"type": "stats", "id": id, "data": cgroups.stats()?}))
}

fn line(value: &serde_json::Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_written_as_go_writes_it() {
        let cases = [
            ("5s", 5000),
            ("250ms", 250),
            ("1m30s", 90_000),
            ("1h0m0.5s", 3_600_500),
        ];
        for (text, ms) in cases {
            assert_eq!(interval(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "0s", "s", "-1s", "5x", "1m-3s", "\u{e4}"] {
            assert_eq!(interval(text), None, "{text}");
        }
    }
}
