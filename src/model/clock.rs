//! Times and durations as people write and read them. All times are UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;

/// `2026-03-01T12:00:00Z` for milliseconds since 1970.
pub fn time(ms: u64) -> String {
    let seconds = ms / 1000;
    let (year, month, day) = date(seconds / DAY);
    let (hour, minute, second) = (seconds % DAY / 3600, seconds % 3600 / 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The day `days` after 1970-01-01 (proleptic Gregorian calendar).
fn date(days: u64) -> (u64, u64, u64) {
    // Years of 365 or 366 days, counted from a 1 March so that the leap day is a year's last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// `3d 4h`, `5m 12s`: the two largest units.
pub fn span(seconds: u64) -> String {
    let (days, hours) = (seconds / DAY, seconds % DAY / 3600);
    let (minutes, rest) = (seconds % 3600 / 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// A duration: `500ms`, `30s`, `2m`, `1h`, `7d`; a plain number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a number with ms, s, m, h or d, such as 30s".to_owned();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let scale = match &text[end..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(wrong()),
    };
    let number: f64 = text[..end].parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * scale).map_err(|_| wrong())
}

/// A time in the past, milliseconds since 1970: `10m` before now, or `2026-03-01`, with or without
/// `T12:00` or `T12:00:00` and `Z`.
pub fn since(text: &str) -> Result<u64, String> {
    if let Ok(before) = duration(text) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        return Ok(ms(now.saturating_sub(before)));
    }
    let wrong =
        || "write how long ago (10m, 2h, 7d) or a time in UTC (2026-03-01T12:00)".to_owned();
    let (day, clock) = text.split_once('T').unwrap_or((text, "0:0"));
    let numbers = |text: &str, by: char| -> Result<Vec<u64>, String> {
        text.split(by)
            .map(|n| n.parse().map_err(|_| wrong()))
            .collect()
    };
    let (day, clock) = (
        numbers(day, '-')?,
        numbers(clock.trim_end_matches('Z'), ':')?,
    );
    let ([year, month, day], [hour, minute, ..]) = (&day[..], &clock[..]) else {
        return Err(wrong());
    };
    let second = clock.get(2).copied().unwrap_or(0);
    if *hour > 23 || *minute > 59 || second > 60 || clock.len() > 3 || *year > 9999 {
        return Err(wrong());
    }
    // The calendar above, asked near the answer.
    let guess = (year.saturating_sub(1970) * 365).saturating_sub(1);
    let days = (guess..guess + 3000)
        .find(|days| date(*days) == (*year, *month, *day))
        .ok_or_else(wrong)?;
    Ok((days * DAY + hour * 3600 + minute * 60 + second) * 1000)
}

/// Whole milliseconds.
pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_date() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_772_366_400, "2026-03-01T12:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(time(seconds * 1000), text);
            assert_eq!(since(text), Ok(seconds * 1000), "{text}");
        }
        assert!(since("2026-02-30").is_err());
        assert!(since("yesterday").is_err());
        assert!(since("2026-03-01T25:00").is_err());
    }

    #[test]
    fn spans_and_durations() {
        assert_eq!(span(59), "59s");
        assert_eq!(span(3599), "59m 59s");
        assert_eq!(span(90_000), "1d 1h");
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("20"), Ok(Duration::from_secs(20)));
        for bad in ["", "s", "-1", "1e3", "1 s", "9999999999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
