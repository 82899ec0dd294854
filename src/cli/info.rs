//! `info`: everything about one guest. Reads, takes no lock.

use super::command::{Verb, name, name_of};
use super::list::tone;
use super::logs;
use super::render::{safe, toned};
use crate::guest::allowance::Month;
use crate::guest::credit::CreditView;
use crate::guest::view::{Info, bytes_text, reason_text};
use crate::model::clock::{span, time};
use crate::model::{
    AllowanceClass, Cpus, Event, EventKind, Guest, ID_BLOCK, Level, Resize, RestartPolicy,
};

pub(super) const INFO: Verb = Verb {
    name: "info",
    about: "Show everything about a guest: limits, use, what opens it, how it ended",
    build: |command| command.arg(name()),
    run: |context, matches| {
        let name = name_of(matches)?;
        let manager = context.manager()?;
        let info = manager.info(&name)?;
        let recent = logs::recent(manager, &name)?;
        context.one(&info, |colour| text(&info, &recent, colour))?;
        Ok(0)
    },
    hidden: false,
};

/// Lines of `what: …`.
struct Lines(String);

impl Lines {
    fn add(&mut self, what: &str, text: &str) {
        if !text.is_empty() {
            let what = format!("{what}:");
            self.0 += &format!("{what:<14}{}\n", safe(text));
        }
    }

    fn all(&mut self, what: &str, texts: impl IntoIterator<Item = String>) {
        for (i, text) in texts.into_iter().enumerate() {
            if i == 0 {
                self.add(what, &text);
            } else {
                self.0 += &format!("{:<14}{}\n", "", safe(&text));
            }
        }
    }
}

/// A guest for people, with what happened to it lately.
#[must_use]
pub fn text(info: &Info, recent: &[Event], colour: bool) -> String {
    let row = &info.row;
    let mut lines = Lines(String::new());
    lines.add("name", row.name.as_str());
    let status = toned(&row.status.to_string(), tone(row.status), colour);
    lines.0 += &format!("{:<14}{status}{}\n", "status:", safe(&running(info)));
    lines.add("note", row.note.as_deref().unwrap_or_default());
    if let Some(guest) = &info.guest {
        what_it_is(&mut lines, guest);
    }
    lines.add("image", info.image.as_deref().unwrap_or_default());
    lines.add(
        "address",
        &row.address.map(|a| a.to_string()).unwrap_or_default(),
    );
    lines.add(
        "address6",
        &row.address6.map(|a| a.to_string()).unwrap_or_default(),
    );
    let ids = info
        .ids
        .map(|base| format!("{base} to {} on the host", base + ID_BLOCK - 1));
    lines.add("ids", &ids.unwrap_or_default());
    lines.add("created", &info.created_ms.map(time).unwrap_or_default());
    if let Some(guest) = &info.guest {
        limits(&mut lines, guest, info);
        restart(&mut lines, guest, info.restarts);
    }
    if let Some(month) = &info.month {
        lines.add("traffic", &traffic(month));
    }
    if let Some(last) = &info.last_end {
        let end = format!("{}, {}", reason_text(&last.reason), time(last.time_ms));
        lines.add("last end", &end);
    }
    if info.relaxations.is_empty() && info.guest.is_some() {
        lines.add("relaxations", "none");
    }
    lines.all("relaxations", info.relaxations.iter().cloned());
    let shown = recent.iter().filter(|event| matters(&event.kind));
    lines.all(
        "lately",
        shown.map(|e| format!("{}  {}", time(e.time_ms), logs::in_words(&e.kind))),
    );
    lines.0
}

/// Ends, restarts and kills; a start or a change is no news.
fn matters(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::Exited { .. }
            | EventKind::OutOfMemory { .. }
            | EventKind::Restarted { .. }
            | EventKind::GaveUp { .. }
            | EventKind::KeeperReplaced
    )
}

fn running(info: &Info) -> String {
    let mut text = String::new();
    if let Some(pid) = info.row.pid {
        text += &format!(", process {pid}");
    }
    if let Some(up) = info.row.up_s {
        text += &format!(", up {}", span(up));
    }
    if let Some(us) = info.launch_us {
        text += &format!(", launched in {}.{:02} ms", us / 1000, us % 1000 / 10);
    }
    text
}

fn what_it_is(lines: &mut Lines, guest: &Guest) {
    lines.add("description", &guest.description);
    lines.all(
        "labels",
        guest.labels.iter().map(|(k, v)| format!("{k}={v}")),
    );
    if let Some(tenant) = &guest.tenant {
        lines.add("tenant", tenant.as_str());
    }
    if let Some(template) = guest.origin.template() {
        let options = template.options.iter().map(|(k, v)| format!(" {k}={v}"));
        let text = format!("{}{}", template.name, options.collect::<String>());
        lines.add("template", &text);
    }
    if let Some(image) = guest.origin.image() {
        lines.add("image", &image.to_string());
    }
    lines.add("profiles", &guest.profiles.join(", "));
    lines.add("hostname", &guest.hostname);
    let apart = match guest.network.isolated_ports {
        Some(true) if guest.network.kind.has_address() => ", isolated",
        _ => "",
    };
    lines.add("network", &format!("{}{apart}", guest.network.kind));
    let nics = guest.network.nics.iter();
    lines.all(
        "nic",
        nics.map(|nic| format!("{} on {}", nic.name, nic.network)),
    );
    let forwards = guest.network.forwards.iter();
    lines.all("forward", forwards.map(ToString::to_string));
    let rules = guest.network.firewall.iter();
    lines.all("firewall", rules.map(ToString::to_string));
}

fn limits(lines: &mut Lines, guest: &Guest, info: &Info) {
    let (row, usage) = (&info.row, info.usage.as_ref());
    let limit = row
        .cpus
        .as_deref()
        .map_or("all CPUs".to_owned(), |cpus| match cpus {
            "1" => "1 CPU".to_owned(),
            cpus => format!("{cpus} CPUs"),
        });
    let entitled = guest
        .cpu
        .entitled
        .map(|cpus| format!(", {cpus} guaranteed"));
    let entitled = entitled.unwrap_or_default();
    let now = info.in_force.as_ref();
    let held = row.cpus_now.as_ref();
    let held = held.map_or(String::new(), |cpus| format!(" ({cpus} at this moment)"));
    let mut cpu = format!("{limit}{held}{entitled}, weight {}", guest.cpu.weight);
    match (&row.cpupool, row.dedicated) {
        (Some(pool), _) => cpu += &format!(", in pool {pool}"),
        (None, Some(1)) => cpu = "1 whole CPU for itself".to_owned(),
        (None, Some(n)) => cpu = format!("{n} whole CPUs for itself"),
        (None, None) => {}
    }
    if let Some(set) = info.runs_on.as_ref().or(guest.cpu.cpuset.as_ref()) {
        cpu += &format!(", on {set}");
    }
    match info.apart {
        Some(true) => cpu += ", the host's programs kept off",
        Some(false) => cpu += ", other guests kept off",
        None => {}
    }
    let memory = &guest.memory;
    let (mut memory_text, mut swap) = (memory.limit.to_string(), memory.swap.to_string());
    if let Some(bytes) = now.and_then(|now| now.memory) {
        memory_text += &format!(" ({bytes} at this moment)");
    }
    let mut processes = guest.processes.to_string();
    if let Some(used) = usage {
        let seconds = used.cpu_us / 1000;
        cpu += &format!("; used {}.{:03} s", seconds / 1000, seconds % 1000);
        if used.throttled > 0 {
            cpu += &format!(", held back {} times", used.throttled);
        }
        let peak = bytes_text(used.memory_peak);
        memory_text = format!("{} of {memory_text}, peak {peak}", bytes_text(used.memory));
        if used.oom_kills > 0 {
            memory_text += &format!(", {} killed for want of it", used.oom_kills);
        }
        swap = format!("{} of {swap}", bytes_text(used.swap));
        processes = format!("{} of {processes}", used.processes);
    }
    lines.add("cpu", &cpu);
    if let Some(view) = &info.credits {
        lines.add("credits", &credits(view));
    }
    lines.add("memory", &memory_text);
    lines.add("swap", &swap);
    lines.add("processes", &processes);
    let fixed = [("cpu", guest.cpu.resize), ("memory", guest.memory.resize)];
    let fixed = fixed.iter().filter(|(_, when)| *when != Resize::Dynamic);
    lines.all("resize", fixed.map(|(what, when)| format!("{what} {when}")));
    let waiting = info
        .waiting
        .iter()
        .map(|what| format!("{what}, for its next start"));
    lines.all("waiting", waiting);
    if let Some(used) = usage {
        let (read, written) = (bytes_text(used.io_read), bytes_text(used.io_write));
        lines.add("disk", &format!("{read} read, {written} written"));
    }
}

fn credits(view: &CreditView) -> String {
    let earn = Cpus::from_hundredths(view.earn).map_or("0".to_owned(), |cpus| cpus.to_string());
    let seconds = |us: u64| format!("{}.{:03} s", us / 1_000_000, us / 1000 % 1000);
    let had = match u64::try_from(view.saved_us) {
        Ok(us) => format!(
            "{} of {} saved",
            seconds(us),
            span(view.bank_us / 1_000_000)
        ),
        Err(_) => format!("{} owed", seconds(view.saved_us.unsigned_abs())),
    };
    match view.held_back {
        true => format!("{had}; held to the {earn} it earns"),
        false => format!("{had}; earns {earn}"),
    }
}

fn traffic(month: &Month) -> String {
    let most = month.allowance.or(month.cut).map_or("-".into(), bytes_text);
    let level = match month.level {
        Level::Free => "",
        Level::Spent => ", used up",
        Level::Cut => ", cut off",
    };
    let used = bytes_text(month.used);
    let class = match month.class {
        AllowanceClass::All => "",
        AllowanceClass::External => " external",
    };
    format!("{used} of {most}{class} since {}{level}", month.began)
}

fn restart(lines: &mut Lines, guest: &Guest, restarts: u32) {
    let mut text = match guest.restart.policy {
        RestartPolicy::No => "no",
        RestartPolicy::OnFailure => "on-failure",
        RestartPolicy::Always => "always",
    }
    .to_owned();
    if restarts > 0 {
        text += &format!(", {restarts} so far");
    }
    lines.add("restart", &text);
    if guest.autostart.enabled {
        lines.add(
            "autostart",
            &format!("yes, priority {}", guest.autostart.priority),
        );
    }
}
