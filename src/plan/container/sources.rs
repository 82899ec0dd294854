//! The trees of the host that a container shows: cloned in order before its first process exists,
//! and known by their number from then on.

use super::step::OutsideStep;

/// Steps that make trees.
#[derive(Debug, Default)]
pub(super) struct Trees {
    pub(super) steps: Vec<OutsideStep>,
    count: usize,
    /// Whether the container's own control groups are shown.
    pub(super) cgroups: bool,
}

impl Trees {
    /// One more tree, and its number.
    pub(super) fn push(&mut self, clone: OutsideStep) -> usize {
        self.steps.push(clone);
        self.count += 1;
        self.count - 1
    }

    /// Something that is done to the last one.
    pub(super) fn follow(&mut self, step: OutsideStep) {
        self.steps.push(step);
    }
}
