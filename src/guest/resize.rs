//! When a guest's CPUs and memory may change: never, at its next start, or at once. What waits for the
//! next start stands in the definition; what is in force until then, in the run state.

use serde::{Deserialize, Serialize};

use super::error::{GuestError, Result};
use crate::define;
use crate::model::{CpuLimits, Guest, MemoryLimits, Resize};

/// What a running guest keeps until its next start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// Its CPU settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cpu: Option<CpuLimits>,
    /// Its memory settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory: Option<MemoryLimits>,
}

impl InForce {
    /// Whether that is what its definition says.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The tables of its definition that wait.
    pub(super) fn waiting(&self) -> Vec<&'static str> {
        let cpu = self.cpu.as_ref().map(|_| "cpu");
        cpu.into_iter()
            .chain(self.memory.as_ref().map(|_| "memory"))
            .collect()
    }

    /// What stays in force of a guest that ran as `old` says, with `self` kept already, when its
    /// definition becomes `new`.
    pub(super) fn after(&self, old: Option<&Guest>, new: &Guest) -> Self {
        let mut kept = Self::default();
        if new.cpu.resize == Resize::Static {
            let now = self.cpu.as_ref().or(old.map(|old| &old.cpu));
            let now = now.map(|now| CpuLimits {
                resize: new.cpu.resize,
                held_to: new.cpu.held_to,
                ..now.clone()
            });
            kept.cpu = now.filter(|now| *now != new.cpu);
        }
        if new.memory.resize == Resize::Static {
            let now = self.memory.as_ref().or(old.map(|old| &old.memory));
            let now = now.map(|now| MemoryLimits {
                resize: new.memory.resize,
                ..now.clone()
            });
            kept.memory = now.filter(|now| *now != new.memory);
        }
        kept
    }

    /// Whether a key has another value in force than in its definition.
    pub(super) fn differs(&self, guest: &Guest, key: &str) -> bool {
        let now = self.of(guest.clone());
        define::get(&now, key).ok() != define::get(guest, key).ok()
    }

    /// A guest as it is in force.
    pub(super) fn of(&self, mut guest: Guest) -> Guest {
        if let Some(cpu) = &self.cpu {
            guest.cpu = CpuLimits {
                held_to: guest.cpu.held_to,
                ..cpu.clone()
            };
        }
        if let Some(memory) = &self.memory {
            guest.memory = memory.clone();
        }
        guest
    }
}

/// What holds for a key, and the key that says so; `None` where nothing does.
fn rule(guest: &Guest, key: &str) -> Option<(Resize, &'static str)> {
    let (rule, by) = match key.split_once('.')?.0 {
        "cpu" => (guest.cpu.resize, "cpu.resize"),
        "memory" => (guest.memory.resize, "memory.resize"),
        _ => return None,
    };
    // The rule itself can always be changed: that is how somebody says that they mean it.
    (key != by).then_some((rule, by))
}

/// Whether a new value of a key waits for the next start.
pub(super) fn waits(guest: &Guest, key: &str) -> bool {
    rule(guest, key).is_some_and(|(rule, _)| rule == Resize::Static)
}

/// Refuses a change of what never changes. What a profile says differently counts as well.
pub(super) fn check(old: &Guest, new: &Guest) -> Result<()> {
    for key in define::KEYS {
        let Some((Resize::Fixed, by)) = rule(old, key.path) else {
            continue;
        };
        if define::get(old, key.path).ok() != define::get(new, key.path).ok() {
            return Err(GuestError::Chosen {
                name: old.name.clone(),
                key: key.path,
                why: format!(
                    "its {by} is fixed; if it is meant, `bulkhead set {} {by}=dynamic` first, or \
                     {by}=static to have it at the next start",
                    old.name
                ),
            });
        }
    }
    Ok(())
}
