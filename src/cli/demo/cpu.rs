//! CPU limits and weights, measured from outside: what the guests' own counters say over a window
//! of the monotonic clock, while a loop in each guest wants all it can get.

use std::time::{Duration, Instant};

use super::report::Report;
use super::site::Site;
use super::{Result, Stop, host, pause, pause_until};

/// A whole number of the kernel's periods of 100 ms, long enough that a limit's granularity and the
/// moment of reading do not show.
const WINDOW: Duration = Duration::from_secs(8);
/// Times a window is measured again when other work was in the way.
const ATTEMPTS: u32 = 4;
/// CPUs that others may use for a window to count as undisturbed.
const CALM: f64 = 0.10;

/// Fractions of a CPU that the guests `cpu10`, `cpu25`, `cpu50` are limited to.
pub(super) fn limits(site: &Site, report: &mut Report) -> Result<()> {
    let asked = [("cpu10", 0.10), ("cpu25", 0.25), ("cpu50", 0.50)];
    let guests = asked.map(|(guest, _)| guest);
    let holds = |shares: &[f64]| {
        let mut both = shares.iter().zip(asked);
        both.all(|(share, (_, asked))| error(*share, asked).abs() <= 0.02)
    };
    let shares = measured(site, &guests, "CPU limits", &holds, report)?;
    for (share, (guest, asked)) in shares.iter().zip(asked) {
        let error = error(*share, asked);
        report.line(
            &format!("CPU of {guest}"),
            &format!("{:.0} % of a CPU, ±2 %", asked * 100.0),
            &format!("{:.2} % ({:+.1} %)", share * 100.0, error * 100.0),
            error.abs() <= 0.02,
        );
    }
    Ok(())
}

/// Two guests on one CPU, at weights 1:3.
pub(super) fn weights(site: &Site, report: &mut Report) -> Result<()> {
    let ratio = |shares: &[f64]| match shares {
        [light, heavy] => heavy / light,
        _ => f64::NAN,
    };
    let holds = |shares: &[f64]| error(ratio(shares), 3.0).abs() <= 0.03;
    let shares = measured(site, &["light", "heavy"], "CPU weights", &holds, report)?;
    let ratio = ratio(&shares);
    report.line(
        "CPU of light and heavy",
        "1:3 of one CPU, ±3 %",
        &format!("1:{ratio:.3} ({:+.1} %)", error(ratio, 3.0) * 100.0),
        holds(&shares),
    );
    Ok(())
}

/// By how much more or less than asked for, as a part of that.
fn error(measured: f64, asked: f64) -> f64 {
    measured / asked - 1.0
}

/// CPUs that each guest used while it wanted more. A window that others disturbed, and in which
/// something did not hold, is measured again.
fn measured(
    site: &Site,
    guests: &[&str],
    subject: &str,
    holds: &dyn Fn(&[f64]) -> bool,
    report: &mut Report,
) -> Result<Vec<f64>> {
    settle(report)?;
    report.say(&format!(
        "{subject}: busy loops in {}, {} s",
        guests.join(", "),
        WINDOW.as_secs()
    ));
    for guest in guests {
        site.tell(guest, "while :; do :; done &")?;
    }
    let mut attempt = 1;
    let shares = loop {
        pause(Duration::from_millis(500))?;
        let (shares, others) = window(site, guests)?;
        if holds(&shares) || others < CALM || attempt == ATTEMPTS {
            break shares;
        }
        attempt += 1;
        report.say(&format!(
            "{subject}: other work took {others:.1} CPUs; once more"
        ));
    };
    for guest in guests {
        site.ask(guest, &["killall", "sh"])?;
    }
    Ok(shares)
}

/// CPUs used by each guest, and by everybody else, in one window.
fn window(site: &Site, guests: &[&str]) -> Result<(Vec<f64>, f64)> {
    let read = || -> Result<Vec<(Instant, u64)>> {
        guests.iter().map(|guest| reading(site, guest)).collect()
    };
    let (began, busy, first) = (Instant::now(), host::busy_us()?, read()?);
    pause_until(began + WINDOW)?;
    let last = read()?;
    let everybody = (host::busy_us()?.saturating_sub(busy)) as f64 / micros(began, Instant::now());
    let shares: Vec<f64> = first
        .iter()
        .zip(&last)
        .map(|((from, before), (to, after))| {
            after.saturating_sub(*before) as f64 / micros(*from, *to)
        })
        .collect();
    let others = (everybody - shares.iter().sum::<f64>()).max(0.0);
    Ok((shares, others))
}

fn micros(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1e6
}

/// A guest's CPU time, microseconds, and the middle of the time it took to read it.
fn reading(site: &Site, guest: &str) -> Result<(Instant, u64)> {
    let name = Site::name(guest)?;
    let before = Instant::now();
    let usage = site.manager.usage(&name);
    let middle = before + before.elapsed() / 2;
    let gone = || Stop::Failed(format!("guest {guest} has no counters: it does not run"));
    Ok((middle, usage.ok_or_else(gone)?.cpu_us))
}

/// Waits, not for ever, until the machine has little else to do.
fn settle(report: &mut Report) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(20);
    let mut told = false;
    loop {
        let (from, busy) = (Instant::now(), host::busy_us()?);
        pause(Duration::from_millis(500))?;
        let used = host::busy_us()?.saturating_sub(busy) as f64 / micros(from, Instant::now());
        if used < CALM {
            return Ok(());
        }
        if Instant::now() >= until {
            report.say(&format!(
                "other work still takes {used:.1} CPUs; measuring all the same"
            ));
            return Ok(());
        }
        if !told {
            report.say(&format!(
                "other work takes {used:.1} CPUs; waiting for a quiet moment"
            ));
            told = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative() {
        assert!((error(0.102, 0.10) - 0.02).abs() < 1e-9);
        assert!(error(2.9, 3.0) < 0.0);
    }
}
