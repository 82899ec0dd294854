//! The Debian guest as its administrator sees it: everything started, its clocks begin at its boot,
//! and a reboot from inside brings it back at the same address.

use std::time::{Duration, Instant};

use super::report::Report;
use super::site::Site;
use super::{Result, Stop, go_on, pause};
use crate::guest::GuestError;
use crate::guest::change::Until;
use crate::guest::view::Row;

/// Its name.
pub(super) const SERVER: &str = "server";
/// How long systemd has to start everything.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most seconds it may take on a machine that is not busy.
const QUICK: f64 = 10.0;

/// How long it takes from the start until all its services run.
pub(super) fn boots(site: &Site, began: Instant, report: &mut Report) -> Result<()> {
    wait_ready(site, SERVER)?;
    let took = began.elapsed().as_secs_f64();
    report.line(
        "Debian, all services up",
        &format!("under {QUICK:.0} s"),
        &format!("{took:.2} s after its start"),
        took < QUICK,
    );
    Ok(())
}

/// Shows the rest.
pub(super) fn show(site: &Site, report: &mut Report) -> Result<()> {
    let first = running(site)?;
    report.say("Debian: looking around in guest server");
    let (_, state) = site.ask(SERVER, &["systemctl", "is-system-running"])?;
    clocks(site, report)?;
    report.say("Debian: it reboots itself");
    let began = Instant::now();
    // The shell that says it may be gone before it could tell how it went.
    let _code = site.ask(SERVER, &["systemctl", "reboot"])?;
    let second = again(site, first.pid)?;
    wait_ready(site, SERVER)?;
    let took = began.elapsed().as_secs_f64();
    let (_, second_state) = site.ask(SERVER, &["systemctl", "is-system-running"])?;
    report.line(
        "Debian says",
        "running",
        &match state == second_state {
            true => state.clone(),
            false => format!("{state}, after its reboot {second_state}"),
        },
        state == "running" && second_state == "running",
    );
    let address = |row: &Row| row.address.map_or("none".to_owned(), |a| a.to_string());
    let (before, after) = (address(&first), address(&second));
    report.line(
        "Debian reboots itself",
        &format!("same address, under {QUICK:.0} s"),
        &match before == after {
            true => format!("{after}, ready again after {took:.1} s"),
            false => format!("{after}, before {before}"),
        },
        first.address.is_some() && before == after && took < QUICK,
    );
    Ok(())
}

/// `uptime` and `ps` begin at the guest's boot, not at the host's.
fn clocks(site: &Site, report: &mut Report) -> Result<()> {
    let up = site.manager.row(&Site::name(SERVER)?).up_s.unwrap_or(0) as f64;
    let text = site.tell(SERVER, "cat /proc/uptime; ps -o etimes= -p 1")?;
    let mut words = text.split_whitespace().map(|word| word.parse::<f64>().ok());
    let (uptime, _idle, age) = (words.next(), words.next(), words.next());
    let (Some(Some(uptime)), Some(Some(age))) = (uptime, age) else {
        return Err(Stop::Failed(format!("its clocks say {text:?}")));
    };
    let near = |seconds: f64| (seconds - up).abs() <= 2.0;
    report.line(
        "uptime and ps in Debian",
        "begin at its boot",
        &format!("up {uptime:.1} s, init {age:.0} s old"),
        near(uptime) && near(age),
    );
    Ok(())
}

fn running(site: &Site) -> Result<Row> {
    let row = site.manager.row(&Site::name(SERVER)?);
    match row.pid {
        Some(_) => Ok(row),
        None => Err(Stop::Failed(
            "there is no Debian guest to look at".to_owned(),
        )),
    }
}

/// Waits until it runs with another first process than before.
fn again(site: &Site, before: Option<u32>) -> Result<Row> {
    let until = Instant::now() + PATIENCE;
    loop {
        let row = site.manager.row(&Site::name(SERVER)?);
        if row.pid.is_some() && row.pid != before {
            return Ok(row);
        }
        if Instant::now() >= until {
            return Err(Stop::Failed(
                "it did not come back from its reboot".to_owned(),
            ));
        }
        pause(Duration::from_millis(10))?;
    }
}

/// Waits until an init has started all it starts.
pub(super) fn wait_ready(site: &Site, guest: &str) -> Result<()> {
    let name = Site::name(guest)?;
    let until = Instant::now() + PATIENCE;
    loop {
        go_on()?;
        let slice = Duration::from_millis(200);
        match site.manager.wait(&name, Until::Ready, Some(slice)) {
            Err(GuestError::TimedOut(_)) if Instant::now() < until => {}
            done => return Ok(done?),
        }
    }
}
