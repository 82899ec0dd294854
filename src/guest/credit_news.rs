//! What is told of a guest's credits: that they are used up, and that it has some again. When that is
//! so, `model::credit` says, which does not change its mind for moments; a guest that goes back and
//! forth all day long is told of ever more rarely, as of the limits in `limit_events`.

use crate::model::Pace;

/// For so long nothing more is told of the same turn after the first time, milliseconds.
const AGAIN: u64 = 10_000;

/// A change that is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Whether the guest is held to what it earns now.
    pub(super) held_back: bool,
    /// How often it came to that since it was told last.
    pub(super) times: u64,
}

/// How a guest stands, and what of it was told.
#[derive(Debug)]
pub(super) struct CreditNews {
    held_back: bool,
    used_up: Pace,
    saved: Pace,
}

impl CreditNews {
    /// How it stands already, which is no news.
    pub(super) fn new(held_back: bool) -> Self {
        Self {
            held_back,
            used_up: Pace::with_first(AGAIN),
            saved: Pace::with_first(AGAIN),
        }
    }

    /// How it stands now.
    pub(super) fn see(&mut self, held_back: bool) {
        if self.held_back != held_back {
            self.held_back = held_back;
            self.pace_mut().hit(1);
        }
    }

    /// What is to be told now (milliseconds of one clock). What was so for a moment between two times
    /// of telling is told with the next one like it.
    pub(super) fn take(&mut self, now: u64) -> Option<Turn> {
        let held_back = self.held_back;
        let times = self.pace_mut().take(now)?;
        Some(Turn { held_back, times })
    }

    /// When there is something to tell.
    pub(super) fn due(&self) -> Option<u64> {
        match self.held_back {
            true => self.used_up.due(),
            false => self.saved.due(),
        }
    }

    fn pace_mut(&mut self) -> &mut Pace {
        match self.held_back {
            true => &mut self.used_up,
            false => &mut self.saved,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(held_back: bool, times: u64) -> Option<Turn> {
        Some(Turn { held_back, times })
    }

    #[test]
    fn each_turn_is_told_once_and_at_once() {
        let mut news = CreditNews::new(true);
        assert_eq!(news.take(0), None);
        news.see(true);
        assert_eq!((news.due(), news.take(0)), (None, None));
        news.see(false);
        assert_eq!(news.due(), Some(0));
        assert_eq!(news.take(1000), turn(false, 1));
        news.see(false);
        assert_eq!(news.take(2000), None);
        // The other way has nothing to wait for.
        news.see(true);
        assert_eq!(news.take(3000), turn(true, 1));
        assert_eq!((news.due(), news.take(900_000)), (None, None));
        // After a calm, at once again.
        news.see(false);
        assert_eq!(news.take(900_000), turn(false, 1));
    }

    #[test]
    fn who_goes_back_and_forth_all_day_is_told_of_rarely_and_where_it_came_to_rest() {
        let mut news = CreditNews::new(false);
        let (mut told, mut used_up) = (0, 0);
        for tenth in 0..864_000 {
            news.see(tenth % 2 == 0);
            if let Some(turn) = news.take(tenth * 100) {
                told += 1;
                used_up += if turn.held_back { turn.times } else { 0 };
            }
        }
        assert!(told < 70, "{told}");
        assert!(used_up > 400_000 && used_up <= 432_000, "{used_up}");
        // It ended with credits: that comes, however late.
        let due = news.due().unwrap();
        assert!(news.take(due - 1).is_none());
        assert!(!news.take(due).unwrap().held_back);
        assert_eq!(news.due(), None);
    }
}
