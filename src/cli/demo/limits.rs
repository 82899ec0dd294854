//! What happens at a limit of memory and of processes: to the guest that runs into it, to its
//! neighbour, and to the host.

use std::time::{Duration, Instant};

use super::report::Report;
use super::site::Site;
use super::{Result, Stop, host, pause};
use crate::guest::view::bytes_text;
use crate::model::{EventKind, Sample};

/// Limit of `hog`, as its definition has it.
const MEMORY: u64 = 64 << 20;
/// Limit of `bomb`, as its definition has it.
const PROCESSES: u64 = 64;
/// A line that never ends, which tail has to keep whole; slow enough to watch.
const HOG: &str = "while dd if=/dev/zero bs=1M count=1 2>/dev/null; do usleep 5000; done | tail &";
/// How long a hog or a bomb has to reach its limit.
const PATIENCE: Duration = Duration::from_secs(20);
/// How much less memory the host may have while a hog fills its guest: the limit, and as much again
/// for what everybody else on the machine does meanwhile.
const ROOM: u64 = 2 * MEMORY;
/// Times the hog is let loose when others moved the host's memory.
const ATTEMPTS: u32 = 3;

/// A hog grows in `hog` until it is killed; `neighbour` and the host go on.
pub(super) fn memory(site: &Site, report: &mut Report) -> Result<()> {
    site.tell("neighbour", "sleep 3600 &")?;
    let before = Neighbour::look(site)?;
    let began = Instant::now();
    let mut attempt = 1;
    let hog = loop {
        report.say("memory: a hog grows in guest hog");
        let hog = Hog::let_loose(site)?;
        if hog.host_untouched() || attempt == ATTEMPTS {
            break hog;
        }
        attempt += 1;
    };
    let after = Neighbour::look(site)?;
    report.line(
        "memory of hog",
        &format!("{}, killed inside", bytes_text(MEMORY)),
        &format!(
            "peak {:.1}M, {} killed, init goes on",
            hog.peak as f64 / f64::from(1 << 20),
            hog.kills
        ),
        hog.kills >= 1 && hog.peak <= MEMORY && hog.told && hog.goes_on,
    );
    let passed = after.uptime - before.uptime;
    let clock = (passed - began.elapsed().as_secs_f64()).abs() < 0.5;
    report.line(
        "its neighbour",
        "untouched",
        &format!("same processes, 0 killed, up {:.1} s", after.uptime),
        clock && after.same_as(&before),
    );
    report.line(
        "the host",
        "untouched",
        &format!(
            "{} killed, free memory down by {} at most",
            hog.killed_elsewhere,
            bytes_text(hog.host_down)
        ),
        hog.host_untouched(),
    );
    Ok(())
}

/// How a hog ended.
struct Hog {
    kills: u64,
    peak: u64,
    /// Whether the guest's keeper wrote the kill down as an event.
    told: bool,
    /// Whether the guest's first process is the same.
    goes_on: bool,
    killed_elsewhere: u64,
    host_down: u64,
}

impl Hog {
    fn let_loose(site: &Site) -> Result<Self> {
        let name = Site::name("hog")?;
        let pid = site.manager.row(&name).pid;
        let (before, host_kills) = (usage(site, "hog")?, host::kills());
        let available = host::available();
        let mut lowest = available;
        site.tell("hog", HOG)?;
        let until = Instant::now() + PATIENCE;
        let after = loop {
            lowest = lowest.min(host::available());
            let now = usage(site, "hog")?;
            if now.oom_kills > before.oom_kills || Instant::now() >= until {
                break now;
            }
            pause(Duration::from_millis(1))?;
        };
        let kills = after.oom_kills - before.oom_kills;
        // The host counts its victims a moment later than the guest's group.
        pause(Duration::from_millis(100))?;
        Ok(Self {
            kills,
            peak: usage(site, "hog")?.memory_peak,
            told: told(site)?,
            goes_on: pid.is_some() && site.manager.row(&name).pid == pid,
            killed_elsewhere: host::kills()
                .saturating_sub(host_kills)
                .saturating_sub(kills),
            host_down: available.saturating_sub(lowest),
        })
    }

    fn host_untouched(&self) -> bool {
        self.killed_elsewhere == 0 && self.host_down <= ROOM
    }
}

/// Whether an event of `hog` tells of a kill for want of memory; its keeper may need a moment.
fn told(site: &Site) -> Result<bool> {
    let until = Instant::now() + Duration::from_secs(2);
    loop {
        let mut found = false;
        site.manager.events(
            &|event| event.guest == "hog" && matches!(event.kind, EventKind::OutOfMemory { .. }),
            false,
            &mut |_| {
                found = true;
                false
            },
        )?;
        if found || Instant::now() >= until {
            return Ok(found);
        }
        pause(Duration::from_millis(20))?;
    }
}

/// `neighbour`, as somebody in it sees it.
struct Neighbour {
    processes: String,
    uptime: f64,
    kills: u64,
}

impl Neighbour {
    fn look(site: &Site) -> Result<Self> {
        let uptime = site.tell("neighbour", "cat /proc/uptime")?;
        let wrong = || Stop::Failed(format!("/proc/uptime of neighbour says {uptime:?}"));
        let seconds = uptime.split(' ').next().and_then(|s| s.parse().ok());
        Ok(Self {
            processes: site.tell("neighbour", "pidof init getty sleep")?,
            uptime: seconds.ok_or_else(wrong)?,
            kills: usage(site, "neighbour")?.oom_kills,
        })
    }

    fn same_as(&self, other: &Self) -> bool {
        self.processes == other.processes && self.kills == 0 && other.kills == 0
    }
}

/// Processes that fork as fast as they can fill `bomb`; `neighbour` still makes as many as it wants.
pub(super) fn processes(site: &Site, report: &mut Report) -> Result<()> {
    report.say("processes: a fork bomb in guest bomb");
    site.tell("bomb", "b() { b | b & }; b")?;
    let mut most = 0;
    let until = Instant::now() + Duration::from_secs(2);
    let mut forked = None;
    while Instant::now() < until {
        most = most.max(usage(site, "bomb")?.processes);
        if most >= PROCESSES && forked.is_none() {
            let began = Instant::now();
            let script = "for n in 1 2 3 4 5 6 7 8 9 10; do sleep 0 & done; wait";
            let works = site.tell("neighbour", script).is_ok();
            forked = Some((works, began.elapsed()));
        }
        pause(Duration::from_millis(1))?;
    }
    report.line(
        "fork bomb in bomb",
        &format!("{PROCESSES} processes"),
        &format!("{most} at most"),
        most == PROCESSES,
    );
    let (works, took) = forked.unwrap_or((false, Duration::ZERO));
    report.line(
        "its neighbour meanwhile",
        "can fork",
        &match works {
            true => format!("10 processes in {:.0} ms", took.as_secs_f64() * 1000.0),
            false => "cannot fork".to_owned(),
        },
        works,
    );
    site.manager.kill(&Site::name("bomb")?, None)?;
    Ok(())
}

fn usage(site: &Site, guest: &str) -> Result<Sample> {
    let gone = || Stop::Failed(format!("guest {guest} does not run any more"));
    site.manager.usage(&Site::name(guest)?).ok_or_else(gone)
}
