//! Goals: what a guest, or each guest of a tenant, is to reach by a changing CPU limit, and between
//! which bounds. What follows from measurements is next door in `goal_control`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{GoalBound, GoalResource, GuestName, TenantName};

/// The name of a goal: `[a-z][a-z0-9-]{0,31}`, and not `none`, as a tenant's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GoalName(String);

/// A name that breaks the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a goal's name: use 1 to 32 of a-z, 0-9 and '-', beginning with a letter, and \
     not the word none"
)]
pub struct GoalNameError(String);

impl GoalName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GoalName {
    type Err = GoalNameError;

    fn from_str(text: &str) -> Result<Self, GoalNameError> {
        match text.parse::<TenantName>() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(GoalNameError(text.chars().take(80).collect())),
        }
    }
}

impl TryFrom<String> for GoalName {
    type Error = GoalNameError;

    fn try_from(text: String) -> Result<Self, GoalNameError> {
        text.parse()
    }
}

impl From<GoalName> for String {
    fn from(name: GoalName) -> Self {
        name.0
    }
}

impl fmt::Display for GoalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Whose goal it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// One guest.
    Guest(GuestName),
    /// Each guest of a tenant.
    Tenant(TenantName),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guest(name) => write!(f, "guest {name}"),
            Self::Tenant(name) => write!(f, "tenant {name}"),
        }
    }
}

/// What is to be reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Policy {
    /// It lends what it is entitled to and does not use, and borrows what others lend.
    Own,
    /// It uses between so many percent of its limit.
    Utilisation {
        /// From here on it has too much.
        low: u8,
        /// From here on it has too little.
        high: u8,
    },
    /// Its processes wait for it, or are held back, in less than so many percent of the time.
    Waiting {
        /// Percent.
        below: u8,
    },
    /// A number that a command prints, or a web server says.
    Metric {
        /// The command, without a shell; or an address alone.
        command: Vec<String>,
        /// Where the number is to stay below, with more CPU making it smaller.
        below: f64,
    },
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("own and borrow"),
            Self::Utilisation { low, high } => write!(f, "use {low} to {high} % of its limit"),
            Self::Waiting { below } => write!(f, "wait below {below} % of the time"),
            Self::Metric { command, below } => {
                write!(f, "{} below {below}", command.join(" "))
            }
        }
    }
}

/// The address that a metric is at, if it is no command.
#[must_use]
pub fn metric_url(command: &[String]) -> Option<&str> {
    let is_url = |word: &&String| word.contains("://");
    command.first().filter(is_url).map(String::as_str)
}

/// What an address of a metric must not be, as a sentence.
fn url_fault(url: &str) -> Option<&'static str> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let here = || {
        let address = name.parse::<std::net::IpAddr>();
        name == "localhost" || address.is_ok_and(|address| address.is_loopback())
    };
    if url.len() > 1000 || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        Some("metric: give an address of at most 1000 printable characters")
    } else if !["http", "https"].contains(&scheme) {
        Some("metric: give a program, or an address that begins with https:// or http://")
    } else if name.is_empty() || host.contains('@') {
        Some("metric: give an address with a host and without a user, such as https://HOST/PATH")
    } else if scheme == "http" && !here() {
        Some("metric: say https, or an address of this machine such as http://127.0.0.1:8080/")
    } else {
        None
    }
}

/// Hours of the day and days of the week in which a goal counts, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hours {
    /// Minutes since midnight; from later than to goes over midnight.
    from: u16,
    to: u16,
    /// Bits, Monday first.
    days: u8,
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Hours {
    /// Whether a moment, milliseconds since 1970, is within. After midnight it is still the day on
    /// which the hours began.
    #[must_use]
    pub fn hold(&self, ms: u64) -> bool {
        let minutes = ms / 60_000;
        let minute = u16::try_from(minutes % 1440).unwrap_or(0);
        // The first day of 1970 was a Thursday.
        let day = (minutes / 1440 + 3) % 7;
        let on = |day: u64| self.days & (1 << day) != 0;
        if self.from <= self.to {
            return on(day) && (self.from..self.to).contains(&minute);
        }
        (on(day) && minute >= self.from) || (on((day + 6) % 7) && minute < self.to)
    }
}

impl FromStr for Hours {
    type Err = String;

    /// `08:00-18:00`, `22:00-06:00/fri-sun`, `00:00-24:00/sat`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "write hours in UTC and, if it matters, days: 08:00-18:00 or 22:00-06:00/mon-fri"
                .to_owned()
        };
        let (hours, days) = text.split_once('/').unwrap_or((text, "mon-sun"));
        let minute = |text: &str| {
            let (hour, minute) = text.split_once(':')?;
            let two = |text: &str| (text.len() == 2).then(|| text.parse::<u16>().ok())?;
            let (hour, minute) = (two(hour)?, two(minute)?);
            (minute < 60 && hour * 60 + minute <= 1440).then_some(hour * 60 + minute)
        };
        let (from, to) = hours.split_once('-').ok_or_else(wrong)?;
        let (from, to) = minute(from).zip(minute(to)).ok_or_else(wrong)?;
        let (first, last) = days.split_once('-').unwrap_or((days, days));
        let at = |word: &str| DAYS.iter().position(|day| *day == word);
        let (first, last) = at(first).zip(at(last)).ok_or_else(wrong)?;
        let span = (last + 7 - first) % 7;
        let days = (0..=span).fold(0, |bits, n| bits | 1 << ((first + n) % 7));
        match from == to {
            true => Err(wrong()),
            false => Ok(Self { from, to, days }),
        }
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from, self.to);
        write!(
            f,
            "{:02}:{:02}-{:02}:{:02}",
            from / 60,
            from % 60,
            to / 60,
            to % 60
        )?;
        let on = |day: &usize| self.days & (1 << (day % 7)) != 0;
        // The first of the days that are together.
        let first = (0..7).find(|day| on(day) && !on(&(day + 6)));
        let Some(first) = first else { return Ok(()) };
        let last = first + usize::try_from(self.days.count_ones()).unwrap_or(1) - 1;
        write!(f, "/{}", DAYS[first])?;
        match last > first {
            true => write!(f, "-{}", DAYS[last % 7]),
            false => Ok(()),
        }
    }
}

impl TryFrom<String> for Hours {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Hours> for String {
    fn from(hours: Hours) -> Self {
        hours.to_string()
    }
}

/// One goal: a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    /// Whose.
    pub subject: Subject,
    /// Which of its limits changes.
    #[serde(default)]
    pub resource: GoalResource,
    /// What.
    pub policy: Policy,
    /// Who gets more first, 1 to 1000; the larger number.
    pub priority: u32,
    /// Whether it changes anything, or only says what it would change.
    pub act: bool,
    /// When it counts; always without.
    pub hours: Option<Hours>,
    /// Least limit; never below what the guest is guaranteed.
    pub min: Option<GoalBound>,
    /// Largest limit; never above what the definition says.
    pub max: Option<GoalBound>,
}

impl Goal {
    /// What cannot be, as a sentence.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=1000).contains(&self.priority) {
            return Err("priority: give a number from 1 to 1000".into());
        }
        for bound in [self.min, self.max].into_iter().flatten() {
            if bound.of() != self.resource {
                let example = match self.resource {
                    GoalResource::Cpu => "CPUs, such as 1.5",
                    GoalResource::Memory => "whole MiB of memory, such as 512M",
                    GoalResource::Io => "a part of its I/O limits, such as 50%",
                };
                return Err(format!(
                    "min, max: {bound} is no bound of it: give {example}"
                ));
            }
        }
        if let (Some(min), Some(max)) = (self.min, self.max)
            && min.amount() > max.amount()
        {
            return Err(format!("min: {min} is more than the largest limit, {max}"));
        }
        if self.policy == Policy::Own && self.resource != GoalResource::Cpu {
            return Err("own: only CPU time is lent and borrowed".into());
        }
        self.policy.check()
    }
}

impl Policy {
    /// What cannot be, as a sentence.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Utilisation { low, high }
                if *high > 95 || *low < 1 || high - low.min(high) < 20 =>
            {
                Err(
                    "use: give two percentages from 1 to 95 at least 20 apart, such as 50-80"
                        .into(),
                )
            }
            Self::Waiting { below } if !(1..=90).contains(below) => {
                Err("wait: give a percentage from 1 to 90".into())
            }
            Self::Metric { command, .. } if metric_url(command).is_some() && command.len() > 1 => {
                Err("metric: nothing follows an address".into())
            }
            Self::Metric { command, .. } if metric_url(command).and_then(url_fault).is_some() => {
                let fault = metric_url(command).and_then(url_fault);
                Err(fault.unwrap_or_default().into())
            }
            Self::Metric { command, below }
                if command.first().is_none_or(String::is_empty)
                    || !below.is_finite()
                    || *below <= 0.0 =>
            {
                Err("metric: give a command and a number above 0 for it to stay below".into())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_hold_on_their_days_and_over_midnight() {
        let of = |text: &str| text.parse::<Hours>().unwrap();
        // 1970-01-01 was a Thursday.
        let at = |day: u64, hour: u64| (day * 24 + hour) * 3_600_000;
        let office = of("08:00-18:00/mon-fri");
        assert!(office.hold(at(0, 8)) && !office.hold(at(0, 18)) && !office.hold(at(2, 9)));
        let night = of("22:00-06:00/fri");
        assert!(night.hold(at(1, 23)) && night.hold(at(2, 5)) && !night.hold(at(1, 5)));
        assert!(of("00:00-24:00").hold(at(3, 23)));
        let over = of("10:00-11:00/sat-mon");
        assert!(over.hold(at(2, 10)) && over.hold(at(4, 10)) && !over.hold(at(5, 10)));
        for text in [
            "08:00-18:00/mon-fri",
            "22:00-06:00/sat-mon",
            "10:00-11:00/wed",
            "10:00-11:00",
        ] {
            assert_eq!(of(text).to_string(), text);
        }
        for bad in [
            "",
            "8-18",
            "08:00",
            "08:00-08:00",
            "25:00-26:00",
            "08:60-09:00",
            "08:00-09:00/x",
        ] {
            assert!(bad.parse::<Hours>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_goal_that_cannot_be_is_refused() {
        let goal = |policy| Goal {
            subject: Subject::Guest("web".parse().unwrap()),
            policy,
            priority: 100,
            act: false,
            hours: None,
            min: None,
            max: None,
            resource: GoalResource::Cpu,
        };
        assert_eq!(goal(Policy::Own).check(), Ok(()));
        assert_eq!(
            goal(Policy::Utilisation { low: 50, high: 80 }).check(),
            Ok(())
        );
        for bad in [
            Policy::Utilisation { low: 70, high: 80 },
            Policy::Utilisation { low: 80, high: 50 },
            Policy::Waiting { below: 0 },
            Policy::Metric {
                command: Vec::new(),
                below: 1.0,
            },
            Policy::Metric {
                command: vec!["x".into()],
                below: f64::NAN,
            },
        ] {
            assert!(goal(bad.clone()).check().is_err(), "{bad:?}");
        }
        let at = |url: &str| {
            let command = url.split(' ').map(str::to_owned).collect();
            goal(Policy::Metric {
                command,
                below: 1.0,
            })
        };
        for good in [
            "https://shop.example/queue",
            "http://127.0.0.1:8080/",
            "http://localhost",
            "http://[::1]:8080/a?b",
        ] {
            assert_eq!(at(good).check(), Ok(()), "{good}");
        }
        for bad in [
            "http://shop.example/",
            "http://127.0.0.1.example/",
            "http://127.0.0.1@shop.example/",
            "https://",
            "https://me@shop.example/",
            "ftp://shop.example/queue",
            "https://shop.example/ x",
            "https://shop.example/\u{7f}",
        ] {
            assert!(at(bad).check().is_err(), "{bad}");
        }
        let bounds = Goal {
            min: "2".parse().ok(),
            max: "1".parse().ok(),
            ..goal(Policy::Own)
        };
        assert!(bounds.check().is_err());
        let memory = |policy, min: &str| Goal {
            resource: GoalResource::Memory,
            min: min.parse().ok(),
            ..goal(policy)
        };
        let wait = Policy::Waiting { below: 10 };
        assert_eq!(memory(wait.clone(), "64M").check(), Ok(()));
        assert!(memory(wait, "0.5").check().is_err());
        assert!(memory(Policy::Own, "64M").check().is_err());
        for bad in ["", "../x", "none", "A"] {
            assert!(bad.parse::<GoalName>().is_err(), "{bad}");
        }
    }
}
