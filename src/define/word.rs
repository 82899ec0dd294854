//! Single values: how each kind of value is written, in a file and on the command line alike.
//! Tables, lists and maps made of them live next door in `layer`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::model::{
    AddressBlock, AllowanceClass, Bytes, CpuMode, CpuPoolName, CpuSet, Cpus, FirewallLine, Forward,
    GuestName, ImageName, Mac, NetworkKind, NicName, Prefix6, Rate, Ratio, Resize, RestartPolicy,
    Rlimit, TenantName, Urgency, View, nearest,
};

/// A value written as one word of text; a number or truth value in TOML stands for its own text.
pub(super) trait Word: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with the text and what would be right, as a sentence.
    fn read(text: &str) -> Result<Self, String>;
}

/// At most 60 characters of `text`, quoted, for a message.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(60) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

macro_rules! whole_numbers {
    ($($number:ty),*) => {$(
        impl Word for $number {
            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| format!(
                    "{} is not a whole number from {} to {}", quoted(text), <$number>::MIN, <$number>::MAX
                ))
            }
        }
    )*};
}
whole_numbers!(u32, u64, i32);

macro_rules! words_by_from_str {
    ($($kind:ty),*) => {$(
        impl Word for $kind {
            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|e: <$kind as FromStr>::Err| e.to_string())
            }
        }
    )*};
}
words_by_from_str!(
    AddressBlock,
    Bytes,
    Cpus,
    CpuMode,
    CpuPoolName,
    CpuSet,
    FirewallLine,
    Forward,
    GuestName,
    ImageName,
    Mac,
    NicName,
    Rate,
    Ratio,
    Resize,
    TenantName,
    Urgency
);

impl Word for String {
    fn read(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl Word for PathBuf {
    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            Err("a path is missing".into())
        } else {
            Ok(text.into())
        }
    }
}

impl Word for bool {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(format!("{} is neither true nor false", quoted(text))),
        }
    }
}

impl Word for Ipv4Addr {
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("{} is not an IPv4 address", quoted(text)))
    }
}

impl Word for Ipv6Addr {
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("{} is not an IPv6 address", quoted(text)))
    }
}

impl Word for Prefix6 {
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|error: crate::model::Prefix6Error| error.to_string())
    }
}

impl Word for IpAddr {
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("{} is not an IP address", quoted(text)))
    }
}

/// One of a few words, with the nearest one in the message.
fn choice<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let near = nearest(text, all.iter().copied())
        .map(|near| format!(": did you mean {near:?}?"))
        .unwrap_or_default();
    Err(format!(
        "{} is none of {}{near}",
        quoted(text),
        all.join(", ")
    ))
}

pub(super) const RESTART_POLICIES: [(&str, RestartPolicy); 3] = [
    ("no", RestartPolicy::No),
    ("on-failure", RestartPolicy::OnFailure),
    ("always", RestartPolicy::Always),
];

const NETWORK_KINDS: [(&str, NetworkKind); 3] = [
    ("bridge", NetworkKind::Bridge),
    ("none", NetworkKind::None),
    ("host", NetworkKind::Host),
];

pub(super) const ALLOWANCE_CLASSES: [(&str, AllowanceClass); 2] = [
    ("all", AllowanceClass::All),
    ("external", AllowanceClass::External),
];

pub(super) const VIEWS: [(&str, View); 3] = [
    ("guest", View::Guest),
    ("files", View::Files),
    ("host", View::Host),
];

impl Word for AllowanceClass {
    fn read(text: &str) -> Result<Self, String> {
        choice(text, &ALLOWANCE_CLASSES)
    }
}

impl Word for View {
    fn read(text: &str) -> Result<Self, String> {
        choice(text, &VIEWS)
    }
}

impl Word for RestartPolicy {
    fn read(text: &str) -> Result<Self, String> {
        choice(text, &RESTART_POLICIES)
    }
}

/// A kind, or the name of a network. Whether there is one of that name is not known here.
impl Word for NetworkKind {
    fn read(text: &str) -> Result<Self, String> {
        let kind = |(_, kind): &(&str, Self)| kind.clone();
        let found = NETWORK_KINDS.iter().find(|(word, _)| *word == text);
        found.map(kind).map_or_else(
            || match text.parse() {
                Ok(name) => Ok(Self::Named(name)),
                Err(error) => Err(format!(
                    "{} is none of bridge, none, host; and {error}",
                    quoted(text)
                )),
            },
            Ok,
        )
    }
}

/// A value that a higher layer can take away again by the word `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrNone<T>(pub Option<T>);

impl<T: Word> Word for OrNone<T> {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            _ => T::read(text).map(|value| Self(Some(value))),
        }
    }
}

/// A time span: `30s`, `2m`, `1h`, `7d`, `500ms`, or a number of seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pause(pub Duration);

impl Word for Pause {
    fn read(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{} is not a time: write a number with ms, s, m, h or d, such as 30s",
                quoted(text)
            )
        };
        let end = text
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let scale_ms: u64 = match unit.trim() {
            "ms" => 1,
            "" | "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.contains('.') || fraction.len() > 3 {
            return Err(wrong());
        }
        let thousandths: u64 = format!("{whole}{fraction:0<3}")
            .parse()
            .map_err(|_| wrong())?;
        let ms = thousandths.checked_mul(scale_ms).ok_or_else(wrong)? / 1000;
        Ok(Self(Duration::from_millis(ms)))
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let (number, unit) = match ms {
            0 => (0, "s"),
            _ if ms.is_multiple_of(86_400_000) => (ms / 86_400_000, "d"),
            _ if ms.is_multiple_of(3_600_000) => (ms / 3_600_000, "h"),
            _ if ms.is_multiple_of(60_000) => (ms / 60_000, "m"),
            _ if ms.is_multiple_of(1000) => (ms / 1000, "s"),
            _ => (ms, "ms"),
        };
        f.pad(&format!("{number}{unit}"))
    }
}

/// `1024`, `1024:4096` (in force, ceiling), `64M`, `unlimited`.
impl Word for Rlimit {
    fn read(text: &str) -> Result<Self, String> {
        let one = |part: &str| {
            match part {
            "unlimited" => Ok(None),
            _ => part.parse::<Bytes>().map(|b| Some(b.0)).map_err(|_| {
                format!(
                    "{} is not a resource limit: write a number, unlimited, or two of them as in 1024:4096",
                    quoted(text)
                )
            }),
        }
        };
        let (soft, hard) = match text.split_once(':') {
            Some((soft, hard)) => (one(soft)?, one(hard)?),
            None => (one(text)?, one(text)?),
        };
        if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
            return Err(format!(
                "{}: what is in force is above its ceiling",
                quoted(text)
            ));
        }
        Ok(Self { soft, hard })
    }
}

/// A resource limit as it is written.
pub(super) fn rlimit_text(limit: Rlimit) -> String {
    let one = |n: Option<u64>| n.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    if limit.soft == limit.hard {
        one(limit.soft)
    } else {
        format!("{}:{}", one(limit.soft), one(limit.hard))
    }
}

/// Mode bits, in octal: `1777`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeBits(pub u32);

impl Word for ModeBits {
    fn read(text: &str) -> Result<Self, String> {
        match u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8) {
            Ok(mode) if mode <= 0o7777 => Ok(Self(mode)),
            _ => Err(format!(
                "{} is not a mode: write octal digits such as 1777",
                quoted(text)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_write_them() {
        for (text, ms) in [
            ("30s", 30_000),
            ("2m", 120_000),
            ("500ms", 500),
            ("1.5", 1500),
            ("1h", 3_600_000),
            ("48h", 172_800_000),
            ("7d", 604_800_000),
            ("0", 0),
        ] {
            let pause = Pause::read(text).unwrap();
            assert_eq!(pause.0, Duration::from_millis(ms), "{text}");
            assert_eq!(Pause::read(&pause.to_string()), Ok(pause));
        }
        for bad in ["", "s", "-1", "1w", "1m30s", "1e3", "99999999999999999999h"] {
            assert!(Pause::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn resource_limits_read_and_print() {
        let limit = |soft, hard| Rlimit { soft, hard };
        for (text, want) in [
            ("1024", limit(Some(1024), Some(1024))),
            ("1024:4096", limit(Some(1024), Some(4096))),
            ("0:unlimited", limit(Some(0), None)),
            ("unlimited", limit(None, None)),
        ] {
            assert_eq!(Rlimit::read(text), Ok(want));
            assert_eq!(rlimit_text(want), text);
        }
        assert_eq!(Rlimit::read("64M").unwrap().hard, Some(64 << 20));
        for bad in ["", "4096:1024", "unlimited:1", "1:2:3", "-1"] {
            assert!(Rlimit::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wrong_choice_names_the_nearest() {
        let error = RestartPolicy::read("alwais").unwrap_err();
        assert_eq!(
            error,
            "\"alwais\" is none of no, on-failure, always: did you mean \"always\"?"
        );
    }
}
