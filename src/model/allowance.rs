//! How much a guest may send and receive in a month, and what happens beyond that.

use serde::{Deserialize, Serialize};

use super::{Bytes, FirewallLine, FirewallRule, Flows, NetworkWish, Rate, Traffic};

/// What a definition allows a month. The default allows anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Allowance {
    /// Bytes sent and received together; `None` for any number.
    pub bytes: Option<Bytes>,
    /// Which of them count.
    pub class: AllowanceClass,
    /// Day of the month on which counting begins anew (UTC), 1 to 31; a month without it begins on its
    /// last day.
    pub day: u8,
    /// Most it sends and receives once they are used up; `None` changes nothing.
    pub rate: Option<Rate>,
    /// Bytes beyond which nothing passes; `None` for no end.
    pub cut: Option<Bytes>,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            bytes: None,
            class: AllowanceClass::All,
            day: 1,
            rate: None,
            cut: None,
        }
    }
}

/// What counts for an allowance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AllowanceClass {
    /// All that it sends and receives.
    #[default]
    All,
    /// What is external of that.
    External,
}

/// How far a guest has got with its allowance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// There is some left.
    #[default]
    Free,
    /// It is used up.
    Spent,
    /// Nothing passes any more.
    Cut,
}

impl Level {
    /// As it is written.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Spent => "spent",
            Self::Cut => "cut",
        }
    }
}

impl Allowance {
    /// Whether it says anything.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.bytes.is_some() || self.cut.is_some()
    }

    /// The day on which the month began in which `today` is, both as `2026-03-15`.
    #[must_use]
    pub fn began(&self, today: &str) -> String {
        let part = |at: std::ops::Range<usize>| today.get(at)?.parse::<u32>().ok();
        let (year, month, day) = (part(0..4), part(5..7), part(8..10));
        let (year, month) = (year.unwrap_or(1970), month.unwrap_or(1));
        let first = |year, month| u32::from(self.day).min(length(year, month));
        let (year, month) = match (day.unwrap_or(1) >= first(year, month), month) {
            (true, _) => (year, month),
            (false, 1) => (year - 1, 12),
            (false, month) => (year, month - 1),
        };
        format!("{year:04}-{month:02}-{:02}", first(year, month))
    }

    /// How many bytes of some traffic count.
    #[must_use]
    pub fn counted(&self, traffic: &Traffic) -> u64 {
        let both = |flows: Flows| (flows.sent() + flows.received()).bytes;
        match self.class {
            AllowanceClass::All => both(traffic.total()),
            AllowanceClass::External => both(traffic.external),
        }
    }

    /// How far `used` bytes of this month have got.
    #[must_use]
    pub fn level(&self, used: u64) -> Level {
        match (self.bytes, self.cut) {
            (_, Some(cut)) if used >= cut.0 => Level::Cut,
            (Some(bytes), _) if used >= bytes.0 => Level::Spent,
            _ => Level::Free,
        }
    }
}

/// How many days a month has.
fn length(year: u32, month: u32) -> u32 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl NetworkWish {
    /// What is in force at a level of its allowance.
    #[must_use]
    pub fn at(mut self, level: Level) -> Self {
        // What is used up is used up on all of its interfaces.
        for nic in &mut self.nics {
            let wish = NetworkWish {
                allowance: self.allowance.clone(),
                ..nic.wish()
            };
            let wish = wish.at(level);
            (nic.rate_in, nic.burst_in) = (wish.rate_in, wish.burst_in);
            (nic.rate_out, nic.burst_out) = (wish.rate_out, wish.burst_out);
            nic.firewall = wish.firewall;
        }
        match level {
            Level::Free => {}
            Level::Spent => {
                if let Some(most) = self.allowance.rate {
                    let slower = |rate: Option<Rate>| rate.filter(|rate| *rate < most);
                    // A burst belongs to the rate it was chosen for.
                    if slower(self.rate_in).is_none() {
                        (self.rate_in, self.burst_in) = (Some(most), None);
                    }
                    if slower(self.rate_out).is_none() {
                        (self.rate_out, self.burst_out) = (Some(most), None);
                    }
                }
            }
            Level::Cut => {
                let nothing = |incoming| FirewallLine::Rule(FirewallRule::for_all(incoming, false));
                self.firewall = vec![nothing(true), nothing(false)];
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Volume;

    fn allowance(day: u8) -> Allowance {
        Allowance {
            bytes: Some(Bytes(100)),
            class: AllowanceClass::External,
            day,
            rate: "1mbit".parse().ok(),
            cut: Some(Bytes(200)),
        }
    }

    #[test]
    fn a_month_begins_on_its_day() {
        for (day, today, began) in [
            (1, "2026-03-01", "2026-03-01"),
            (15, "2026-03-15", "2026-03-15"),
            (15, "2026-03-14", "2026-02-15"),
            (28, "2026-01-27", "2025-12-28"),
            (31, "2026-01-31", "2026-01-31"),
            (31, "2026-02-27", "2026-01-31"),
            (31, "2026-02-28", "2026-02-28"),
            (31, "2026-03-30", "2026-02-28"),
            (31, "2026-03-31", "2026-03-31"),
            (31, "2026-05-01", "2026-04-30"),
            (30, "2028-02-28", "2028-01-30"),
            (30, "2028-03-01", "2028-02-29"),
            (29, "2100-03-01", "2100-02-28"),
            (31, "2026-01-01", "2025-12-31"),
        ] {
            assert_eq!(allowance(day).began(today), began, "{today}");
        }
    }

    #[test]
    fn levels_begin_where_they_are_set() {
        let one = allowance(1);
        let levels = [99, 100, 199, 200].map(|used| one.level(used));
        assert_eq!(
            levels,
            [Level::Free, Level::Spent, Level::Spent, Level::Cut]
        );
        assert_eq!(Allowance::default().level(u64::MAX), Level::Free);
    }

    #[test]
    fn what_is_internal_counts_unless_it_is_said_not_to() {
        let flows = |bytes| Flows {
            sent_ipv4: Volume { packets: 1, bytes },
            received_ipv6: Volume { packets: 1, bytes },
            ..Flows::default()
        };
        let traffic = Traffic {
            external: flows(100),
            internal: flows(7000),
        };
        assert_eq!(Allowance::default().counted(&traffic), 14_200);
        assert_eq!(allowance(1).counted(&traffic), 200);
    }

    #[test]
    fn a_rate_that_is_lower_already_stays() {
        let wish = NetworkWish {
            rate_in: "64kbit".parse().ok(),
            burst_in: Some(Bytes(5000)),
            burst_out: Some(Bytes(5000)),
            rate_out: "1gbit".parse().ok(),
            allowance: allowance(1),
            ..NetworkWish::default()
        };
        assert_eq!(wish.clone().at(Level::Free), wish);
        let slow = wish.clone().at(Level::Spent);
        assert_eq!((slow.rate_in, slow.burst_in), (wish.rate_in, wish.burst_in));
        assert_eq!((slow.rate_out, slow.burst_out), (wish.allowance.rate, None));
        let cut = wish.at(Level::Cut);
        let words: Vec<_> = cut.firewall.iter().map(ToString::to_string).collect();
        assert_eq!(words, ["in drop", "out drop"]);
    }
}
