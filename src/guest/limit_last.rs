//! What happened last at each limit of a guest: beside the kernel's numbers in `limited`, the event that
//! its keeper told of it (`limit_events`), with who used most then.

use std::collections::HashMap;

use super::error::Result;
use super::events::EventLog;
use super::limited::Limited;
use super::manager::Manager;
use crate::model::{Event, EventKind};

impl Manager {
    /// Puts beside each row the last event of its limit since the guest's present start. One look
    /// through the events is enough for all guests; with the same `last` again only new ones are read.
    ///
    /// # Errors
    /// The events cannot be read.
    pub fn tell_last(&self, last: &mut Last, rows: &mut [Limited]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut log = std::mem::take(&mut last.log);
        let read = self.new_events(&mut log, &mut |event| {
            last.take_in(event);
            true
        });
        last.log = log;
        read?;
        for row in rows {
            row.last = last.of(row.guest.as_str(), row.resource);
        }
        Ok(())
    }
}

/// The last events of limits, and how far they were looked for.
#[derive(Debug, Default)]
pub struct Last {
    log: EventLog,
    /// By guest and resource.
    events: HashMap<String, HashMap<String, Event>>,
}

impl Last {
    fn take_in(&mut self, event: &Event) {
        if begins(&event.kind) {
            self.events.remove(&event.guest);
        } else if let Some(resource) = resource(&event.kind) {
            let of_guest = self.events.entry(event.guest.clone()).or_default();
            of_guest.insert(resource.to_owned(), event.clone());
        }
    }

    fn of(&self, guest: &str, resource: &str) -> Option<Event> {
        let resource = match resource {
            // Told together.
            "packets" | "new connections" => "network",
            "traffic cut" => "traffic",
            other => other,
        };
        self.events.get(guest)?.get(resource).cloned()
    }
}

/// Whether the kernel's numbers begin anew with it.
fn begins(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::Created
            | EventKind::Started
            | EventKind::Rescue { .. }
            | EventKind::Restarted { .. }
    )
}

/// Of which row an event tells.
fn resource(kind: &EventKind) -> Option<&str> {
    match kind {
        EventKind::OutOfMemory { .. } => Some("memory"),
        EventKind::Limit { resource, .. } => Some(resource),
        EventKind::Credits { .. } => Some("credits"),
        EventKind::Allowance { .. } => Some("traffic"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(time_ms: u64, guest: &str, kind: EventKind) -> Event {
        Event {
            time_ms,
            guest: guest.to_owned(),
            kind,
        }
    }

    fn killed() -> EventKind {
        EventKind::OutOfMemory {
            kills: 1,
            top: Vec::new(),
        }
    }

    #[test]
    fn the_last_of_each_limit_since_the_start_is_told() {
        let mut last = Last::default();
        let limit = |resource: &str| EventKind::Limit {
            resource: resource.to_owned(),
            hits: 1,
            percent: None,
            top: Vec::new(),
        };
        for (at, guest, kind) in [
            (1, "a", killed()),
            (2, "a", EventKind::Started),
            (3, "a", limit("cpu")),
            (4, "a", limit("cpu")),
            (5, "b", killed()),
            (6, "a", EventKind::Paused),
        ] {
            last.take_in(&event(at, guest, kind));
        }
        let at = |guest, resource| last.of(guest, resource).map(|event| event.time_ms);
        assert_eq!(at("a", "cpu"), Some(4));
        assert_eq!(at("a", "memory"), None, "that was the run before");
        assert_eq!(at("b", "memory"), Some(5));
        assert_eq!(at("b", "cpu"), None);
        last.take_in(&event(7, "b", limit("network")));
        for row in ["packets", "new connections"] {
            assert_eq!(last.of("b", row).map(|event| event.time_ms), Some(7));
        }
    }
}
