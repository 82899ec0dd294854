//! What `list` and `info` show: everything computed from the kernel and the guest's own records.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use super::allowance::Month;
use super::credit::CreditView;
use super::error::Result;
use super::manager::{Manager, now_ms};
use super::rebase::Bases;
use super::store::LastEnd;
use super::undo::UndoMode;
use super::view_now::InForce;
use crate::model::{
    Bytes, CpuPoolName, CpuSet, ExitReason, Guest, GuestName, Sample, Seat, Status, TenantName,
};

/// One guest as `list` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub name: GuestName,
    /// What it is doing.
    pub status: Status,
    /// Its address.
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub address6: Option<Ipv6Addr>,
    /// Its first process on the host.
    pub pid: Option<u32>,
    /// Seconds since it started.
    pub up_s: Option<u64>,
    /// Memory in use, and its limit.
    pub memory: Option<u64>,
    /// Most memory it may use.
    pub memory_limit: Option<u64>,
    /// CPUs it may use; `None` for all.
    pub cpus: Option<String>,
    /// The same at this moment, where a goal, credits, its tenant or what waits for its next start make it
    /// another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_now: Option<String>,
    /// How many CPUs it has to itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedicated: Option<u32>,
    /// The pool whose CPUs it shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpupool: Option<CpuPoolName>,
    /// Processes and threads.
    pub processes: Option<u64>,
    /// Template it was built from.
    pub template: Option<String>,
    /// Image it was made from instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What it is in rescue with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescue: Option<String>,
    /// What becomes of what it writes, where that is not simply kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undo: Option<UndoMode>,
    /// Digest of the newer image that it could be moved on to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Tenant it is of.
    pub tenant: Option<TenantName>,
    /// `keeper gone`, `starts again`, what is wrong with it.
    pub note: Option<String>,
}

/// One guest as `info` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Info {
    /// As in the list.
    #[serde(flatten)]
    pub row: Row,
    /// As it is meant; `None` if its definition is broken.
    pub guest: Option<Guest>,
    /// Host id that is root inside.
    pub ids: Option<u32>,
    /// Digest of its image.
    pub image: Option<String>,
    /// When it was made, milliseconds since 1970.
    pub created_ms: Option<u64>,
    /// How long its last launch took, microseconds.
    pub launch_us: Option<u64>,
    /// The CPUs it runs on now, where those are not all there are.
    pub runs_on: Option<CpuSet>,
    /// Whether the kernel keeps programs that are no guests off its own CPUs; `None` if it has none.
    pub apart: Option<bool>,
    /// Limits that are in force instead of its definition's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force: Option<InForce>,
    /// Tables of its definition that wait for its next start.
    pub waiting: Vec<&'static str>,
    /// Its counters.
    pub usage: Option<Sample>,
    /// How it ended last.
    pub last_end: Option<LastEnd>,
    /// Restarts by policy.
    pub restarts: u32,
    /// What makes it less isolated than the default.
    pub relaxations: Vec<String>,
    /// Its month of traffic, if that has an end.
    pub month: Option<Month>,
    /// Its credits of CPU time, if it has any.
    pub credits: Option<CreditView>,
}

impl Manager {
    /// One guest for the list. A broken one is shown as broken, never as an error.
    #[must_use]
    pub fn row(&self, name: &GuestName) -> Row {
        self.row_with(
            name,
            self.guest(name).map_err(|error| chain(&error)).as_ref(),
            self.address(name),
        )
    }

    /// The same for many; profiles and addresses are read once.
    #[must_use]
    pub fn rows<'a>(&self, names: impl Iterator<Item = &'a GuestName>) -> Vec<Row> {
        // With a wrong profile file each row says so.
        let Ok(profiles) = self.profiles() else {
            return names.map(|name| self.row(name)).collect();
        };
        let addresses = self.addresses().unwrap_or_default();
        let mut bases = Bases::default();
        let row = |name: &GuestName| {
            let guest = self
                .definition_text(name)
                .and_then(|text| self.define_by(name, &text, &profiles))
                .map_err(|error| chain(&error));
            let address = addresses.get(name.as_str()).copied();
            let mut row = self.row_with(name, guest.as_ref(), address);
            if row.note.is_none() {
                row.note = self.damage(name, &mut bases);
            }
            self.note_behind(&mut row, guest.as_ref().ok(), &mut bases);
            row
        };
        names.map(row).collect()
    }

    fn row_with(
        &self,
        name: &GuestName,
        guest: std::result::Result<&Guest, &String>,
        address: Option<(Ipv4Addr, Option<Ipv6Addr>)>,
    ) -> Row {
        let state = self.run_state(name).ok().flatten();
        let mut status = self.status_of(name, state.as_ref());
        let mut note = None;
        let undo = self.undo_of(name).ok().flatten().map(|undo| undo.mode);
        let rescue = state.as_ref().and_then(|state| state.rescue.as_ref());
        let rescue = rescue.map(|rescue| rescue.from.clone());
        let runs = matches!(status, Status::Running | Status::Paused | Status::Stopping);
        match guest {
            Err(why) if status == Status::Stopped => {
                status = Status::Broken;
                note = Some(why.clone());
            }
            Err(why) if status != Status::Creating => note = Some(why.clone()),
            _ if status == Status::Creating => note = Some("half-made: delete it".to_owned()),
            _ if runs && !self.has_keeper(name) => note = Some("its keeper is gone".to_owned()),
            _ if runs && self.has_lost_calls(name) => {
                let disk = guest.is_ok_and(|guest| self.answers_disk(guest));
                let calls = match disk {
                    true => "sysinfo(2), sched_getaffinity(2) and statfs(2)",
                    false => "sysinfo(2) and sched_getaffinity(2)",
                };
                note = Some(format!("{calls} fail in it until it is restarted"));
            }
            _ if undo.is_some() => note = undo.map(|mode| undo_text(mode, name, runs)),
            _ if runs => note = rescue.as_ref().map(|from| format!("in rescue with {from}")),
            _ => {}
        }
        let state = state.filter(|_| runs);
        let usage = if runs { self.usage(name) } else { None };
        let guest = guest.ok();
        Row {
            name: name.clone(),
            status,
            address: address.map(|(address, _)| address),
            address6: address.and_then(|(_, address)| address),
            pid: state.as_ref().and_then(|s| s.init).map(|init| init.pid),
            up_s: state
                .as_ref()
                .map(|s| now_ms().saturating_sub(s.started_ms) / 1000),
            memory: usage.as_ref().map(|u| u.memory),
            memory_limit: guest.map(|g| g.memory.limit.0),
            cpus: guest.and_then(|g| g.cpu.limit).map(|c| c.to_string()),
            cpus_now: guest.filter(|_| runs).and_then(|g| self.cpus_now(g)),
            dedicated: match state.as_ref().map(|state| &state.seat) {
                Some(Seat::Dedicated { cpus, .. }) => u32::try_from(cpus.len()).ok(),
                Some(_) => None,
                None => guest.and_then(|g| g.cpu.dedicated),
            },
            cpupool: match state.as_ref().map(|state| &state.seat) {
                Some(Seat::Pool(pool)) => Some(pool.clone()),
                Some(_) => None,
                None => guest.and_then(|g| g.cpu.pool.clone()),
            },
            processes: usage.map(|u| u.processes),
            template: guest.and_then(|g| Some(g.origin.template()?.name.clone())),
            image: guest.and_then(|g| g.origin.image().map(ToString::to_string)),
            rescue,
            undo,
            behind: None,
            labels: guest.map(|g| g.labels.clone()).unwrap_or_default(),
            tenant: guest.and_then(|g| g.tenant.clone()),
            note,
        }
    }

    /// Says so of a guest that lies over an older image than it would be made from now.
    fn note_behind(&self, row: &mut Row, guest: Option<&Guest>, bases: &mut Bases) {
        row.behind = guest.and_then(|guest| self.behind(&row.name, guest, bases));
        if row.behind.is_some() && row.note.is_none() {
            row.note = Some("behind: `bulkhead rebase` has a newer image".to_owned());
        }
    }

    fn address(&self, name: &GuestName) -> Option<(Ipv4Addr, Option<Ipv6Addr>)> {
        let (_, lease) = self.leased(name).ok().flatten()?;
        Some((lease.address, lease.ipv6.map(|ipv6| ipv6.address)))
    }

    /// A running guest's counters.
    #[must_use]
    pub fn usage(&self, name: &GuestName) -> Option<Sample> {
        self.group(name).ok()??.stats().ok()
    }

    /// Everything about one guest.
    ///
    /// # Errors
    /// There is no such guest.
    pub fn info(&self, name: &GuestName) -> Result<Info> {
        self.status(name)?;
        let guest = self.guest(name).map_err(|error| chain(&error));
        let mut row = self.row_with(name, guest.as_ref(), self.address(name));
        self.note_behind(&mut row, guest.as_ref().ok(), &mut Bases::default());
        // Here that is the digest; by which name it was asked for, its definition says.
        row.image = None;
        let machine = self.machine(name).ok();
        let state = self.run_state(name)?;
        let runs = row.pid.is_some();
        Ok(Info {
            ids: machine.as_ref().map(|m| m.ids.base),
            image: machine.as_ref().map(|m| m.image.clone()),
            created_ms: machine.map(|m| m.created_ms),
            launch_us: state.as_ref().filter(|_| runs).map(|s| s.launch_us),
            runs_on: if runs { self.runs_on(name) } else { None },
            apart: if runs { self.is_apart(name) } else { None },
            in_force: guest
                .as_ref()
                .ok()
                .filter(|_| runs)
                .and_then(|guest| self.limits_in_force(guest)),
            waiting: match &state {
                Some(state) if runs => state.in_force.waiting(),
                _ => Vec::new(),
            },
            usage: if runs { self.usage(name) } else { None },
            last_end: self.last_end(name),
            restarts: state.map_or(0, |s| s.restarts),
            relaxations: guest.as_ref().map(relaxations).unwrap_or_default(),
            credits: guest
                .as_ref()
                .ok()
                .and_then(|guest| self.credit_view(name, guest)),
            month: guest
                .as_ref()
                .ok()
                .and_then(|guest| self.month(name, &guest.network.allowance).ok()?),
            guest: guest.ok(),
            row,
        })
    }
}

/// What of a definition opens the guest's walls.
fn relaxations(guest: &Guest) -> Vec<String> {
    let mut all = Vec::new();
    if guest.security.nesting {
        all.push("security.nesting: user namespaces can be made inside".to_owned());
    }
    if !matches!(guest.security.seccomp.as_str(), "default" | "hardened") {
        all.push(format!(
            "security.seccomp: the filter is {:?}",
            guest.security.seccomp
        ));
    }
    if guest.network.kind == crate::model::NetworkKind::Host {
        all.push("network.kind: it shares the host's network".to_owned());
    }
    let usual = crate::define::DEFAULT_CAPABILITIES;
    for capability in &guest.security.capabilities {
        let bare = capability.trim_start_matches("CAP_");
        if !usual.iter().any(|c| c.trim_start_matches("CAP_") == bare) {
            all.push(format!("security.add: {capability}"));
        }
    }
    all.extend(
        guest
            .devices
            .iter()
            .map(|d| format!("device: {}", d.path.display())),
    );
    all.extend(guest.mounts.iter().filter(|m| !m.read_only).map(|m| {
        let what = if m.idmap {
            "is writable; keep host users out of it, for it can hold set-user-ID files of root"
        } else {
            "is writable"
        };
        format!("mount: {} {what}", m.source.display())
    }));
    all
}

fn undo_text(mode: UndoMode, name: &GuestName, runs: bool) -> String {
    match mode {
        UndoMode::Drop => "undo disk: dropped at its end".to_owned(),
        UndoMode::Later if runs => "undo disk: decided at its end".to_owned(),
        UndoMode::Later => format!("undo disk: `bulkhead undo {name} keep` or drop"),
    }
}

/// An end, in words.
#[must_use]
pub fn reason_text(reason: &ExitReason) -> String {
    match reason {
        ExitReason::Exited { code } => format!("exited with code {code}"),
        ExitReason::Signal { signal } => format!("killed by signal {signal}"),
        ExitReason::Reboot => "rebooted itself".to_owned(),
        ExitReason::Poweroff => "powered itself off".to_owned(),
        ExitReason::OutOfMemory => "killed because the guest ran out of memory".to_owned(),
        ExitReason::Stopped => "was shut down".to_owned(),
        ExitReason::Killed => "was killed".to_owned(),
        ExitReason::Unknown => "ended while nobody watched".to_owned(),
    }
}

/// An error with its causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

/// A guest's output made safe for a terminal: control characters but newline and tab are dropped,
/// escape sequences with them.
#[must_use]
pub fn printable(data: &[u8]) -> String {
    let text = String::from_utf8_lossy(data);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => {}
            // Marks that turn the writing direction can make a line read as another one.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            c => out.push(c),
        }
    }
    out
}

fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.next() {
        // CSI: up to its final byte.
        Some('[') => {
            while chars
                .next()
                .is_some_and(|c| !('\u{40}'..='\u{7e}').contains(&c))
            {}
        }
        // OSC and its kin: up to BEL or ESC \.
        Some(']' | 'P' | '^' | '_' | 'X') => {
            while let Some(c) = chars.next() {
                if c == '\u{7}' || (c == '\u{1b}' && chars.next().is_some()) || c == '\n' {
                    break;
                }
            }
        }
        _ => {}
    }
}

/// `512M`, or the number in whole mebibytes when it is not round.
#[must_use]
pub fn bytes_text(bytes: u64) -> String {
    if bytes >= 1 << 20 {
        format!("{}M", bytes >> 20)
    } else {
        Bytes(bytes).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_steer_the_terminal() {
        let hostile =
            b"ok\x1b[2J\x1b]0;title\x07 \x1b[31mred\x1b[0m\r\nnext\x08\x00\xff\xe2\x80\xae!";
        assert_eq!(printable(hostile), "ok red\nnext\u{fffd}!");
    }
}
