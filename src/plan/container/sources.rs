//! The trees of the host that a container shows: cloned in order before its first process exists,
//! and known by their number from then on.

use super::refuse;
use super::step::{InsideStep, OutsideStep};
use crate::plan::PlanError;

/// Steps that make trees.
#[derive(Debug, Default)]
pub(super) struct Trees {
    pub(super) steps: Vec<OutsideStep>,
    count: usize,
    /// How often the container's own control groups are shown.
    pub(super) cgroups: usize,
}

impl Trees {
    /// One more tree, and its number.
    pub(super) fn push(&mut self, clone: OutsideStep) -> usize {
        self.steps.push(clone);
        self.count += 1;
        self.count - 1
    }

    /// The same steps for the container's first process.
    pub(super) fn move_inside(&mut self) -> Result<Vec<InsideStep>, PlanError> {
        let mut all = Vec::new();
        for step in std::mem::take(&mut self.steps) {
            match step {
                OutsideStep::Clone { source, recursive } => {
                    all.push(InsideStep::Clone { source, recursive });
                }
                OutsideStep::CloneDevice {
                    path,
                    block,
                    major,
                    minor,
                } => {
                    all.push(InsideStep::CloneDevice {
                        path,
                        block,
                        major,
                        minor,
                    });
                }
                _ => {
                    let why = "shifting the ids of the host's files needs root's rights";
                    return Err(refuse("mounts, idmap", why));
                }
            }
        }
        let shown = std::mem::take(&mut self.cgroups);
        all.extend((0..shown).map(|_| InsideStep::CloneCgroups));
        Ok(all)
    }

    /// Something that is done to the last one.
    pub(super) fn follow(&mut self, step: OutsideStep) {
        self.steps.push(step);
    }
}
