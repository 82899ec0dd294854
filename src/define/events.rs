//! What is told of a guest, as far as a definition says it: the keys of `[events]`.

use super::check::Found;
use super::default;
use super::layer::layered;
use super::word::OrNone;
use crate::model::{EventRule, Guest};

layered! {
    /// `[events]`
    pub struct EventsPart {
        /// In so many percent of the periods its CPU limit held it back.
        throttled: Option<OrNone<u32>>,
    }
}

impl From<EventsPart> for EventRule {
    fn from(EventsPart { throttled }: EventsPart) -> Self {
        Self {
            throttled: throttled.map_or(Some(default::THROTTLED), |percent| percent.0),
        }
    }
}

pub(super) fn events(guest: &Guest, found: &mut Found) {
    if let Some(percent) = &guest.events.throttled {
        found.range("events.throttled", percent, &1, &100);
    }
}

/// The value of a key, as `get` shows it.
pub(super) fn text(rule: &EventRule, path: &str) -> Option<String> {
    match path {
        "events.throttled" => Some(
            rule.throttled
                .map_or_else(|| "none".to_owned(), |percent| percent.to_string()),
        ),
        _ => None,
    }
}
