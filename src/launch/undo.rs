//! What has been done and must be taken back if the launch fails: a stack, pushed beside each
//! effect, run in reverse, dropped on success.

/// The stack. Dropping it undoes everything on it.
#[derive(Default)]
pub(super) struct Undo(Vec<Box<dyn FnOnce()>>);

impl Undo {
    /// Remembers how to take an effect back.
    pub(super) fn push(&mut self, undo: impl FnOnce() + 'static) {
        self.0.push(Box::new(undo));
    }

    /// The effects stay.
    pub(super) fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        while let Some(undo) = self.0.pop() {
            undo();
        }
    }
}

impl std::fmt::Debug for Undo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Undo({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn effects_are_undone_in_reverse_unless_kept() {
        let seen = Rc::new(RefCell::new(Vec::new()));
        for keep in [false, true] {
            let mut undo = Undo::default();
            for n in 1..=3 {
                let seen = seen.clone();
                undo.push(move || seen.borrow_mut().push(n));
            }
            if keep {
                undo.keep();
            }
        }
        assert_eq!(*seen.borrow(), [3, 2, 1]);
    }
}
