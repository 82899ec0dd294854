//! What containers of several programs say in like words: interfaces, shares of the CPU, the order in
//! which they start. All of it is a stranger's text, so every number is checked.

/// An interface of a container, as its program describes it. Nothing of it is checked yet: what this host
/// can give of it, `guest` decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card {
    /// What its program calls it: `net0`.
    pub label: String,
    /// Its name inside.
    pub name: Option<String>,
    /// Its IPv4 address, without the length of the prefix.
    pub address: Option<String>,
    /// Its IPv6 address, without that.
    pub address6: Option<String>,
    /// Its way out there.
    pub gateway: Option<String>,
    /// Its hardware address.
    pub mac: Option<String>,
    /// The bridge or network there.
    pub network: Option<String>,
    /// Most it receives, as a rate of ours.
    pub rate_in: Option<String>,
    /// Most it sends.
    pub rate_out: Option<String>,
}

impl Card {
    /// One that is called this.
    pub(super) fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            ..Self::default()
        }
    }
}

/// Most of a stranger's text that is shown, or stands in a command.
const SHOWN_MOST: usize = 200;

/// A stranger's text, if it may stand in a command that people copy into a shell: one word, no option, and
/// nothing in it that a shell reads as anything else.
pub(super) fn plain_word(text: &str) -> Option<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/_.:@-".contains(&byte);
    let is_plain =
        (1..=SHOWN_MOST).contains(&text.len()) && !text.starts_with('-') && text.bytes().all(plain);
    is_plain.then_some(text)
}

/// A stranger's text as it is named in a message: any other than a plain word in quotes, escaped.
pub(super) fn named(text: &str) -> String {
    match plain_word(text) {
        Some(word) => word.to_owned(),
        None => format!("{:?}", text.chars().take(SHOWN_MOST).collect::<String>()),
    }
}

/// An address without the length of its prefix, if it is one and no word such as `dhcp`.
pub(super) fn bare_address(text: &str) -> Option<String> {
    let bare = text.split('/').next().unwrap_or(text).trim();
    bare.contains(['.', ':']).then(|| bare.to_owned())
}

/// The weight that so many shares are, of which a container has `usual` without asking.
pub(super) fn weight(shares: &str, usual: u64) -> Option<String> {
    let shares: u64 = shares.parse().ok()?;
    // Eight times the largest that any of them takes.
    let shares = (1..1 << 22).contains(&shares).then_some(shares)?;
    Some((shares * 100).div_ceil(usual).clamp(1, 10_000).to_string())
}

/// CPUs of a time to run in a time that passes, both in the same unit.
pub(super) fn cpus(run: u64, passes: u64) -> Option<String> {
    let hundredths = run.checked_mul(100)?.checked_div(passes)?;
    (1..=1_000_000)
        .contains(&hundredths)
        .then(|| format!("{}.{:02}", hundredths / 100, hundredths % 100))
}

/// The priority of an order in which lower numbers start earlier, and those without one last.
pub(super) fn priority_of_order(text: &str) -> Option<String> {
    let order: u32 = text.parse().ok()?;
    Some(1000_u32.saturating_sub(order).max(1).to_string())
}

/// A priority of which higher ones start earlier.
pub(super) fn priority(text: &str) -> Option<String> {
    let priority: i64 = text.parse().ok()?;
    Some(priority.clamp(-1000, 1000).to_string())
}

/// A number of bits in a second as a rate of ours.
pub(super) fn rate(bits: u64) -> Option<String> {
    (bits >= 1000).then(|| format!("{}kbit", bits / 1000))
}

/// A decimal number with some digits behind its point, in millionths.
pub(super) fn millionths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) {
        return None;
    }
    let part: u64 = format!("{part:0<6.6}").parse().ok()?;
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(1_000_000)?
        .checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_of_other_programs() {
        assert_eq!(weight("1024", 1024).as_deref(), Some("100"));
        assert_eq!(weight("2", 1024).as_deref(), Some("1"));
        assert_eq!(weight("500000", 1000).as_deref(), Some("10000"));
        assert_eq!(weight("0", 1024), None);
        assert_eq!(cpus(50_000, 100_000).as_deref(), Some("0.50"));
        assert_eq!(cpus(1, 0), None);
        assert_eq!(cpus(u64::MAX, 1), None);
        assert_eq!(priority_of_order("1").as_deref(), Some("999"));
        assert_eq!(priority_of_order("4000000000").as_deref(), Some("1"));
        assert_eq!(priority("-99999").as_deref(), Some("-1000"));
        assert_eq!(rate(80_000_000).as_deref(), Some("80000kbit"));
        assert_eq!(millionths("12.5"), Some(12_500_000));
        assert_eq!(millionths("1.1234567"), Some(1_123_456));
        assert_eq!(millionths("-1"), None);
        assert_eq!(bare_address("10.0.0.5/24").as_deref(), Some("10.0.0.5"));
        assert_eq!(bare_address("dhcp"), None);
    }

    #[test]
    fn only_a_plain_word_stands_in_a_command() {
        for word in ["/dev/vg/web-1", "tank/a_b", "root@old:/srv/x.y"] {
            assert_eq!((plain_word(word), &*named(word)), (Some(word), word));
        }
        let long = "x".repeat(201);
        for odd in [
            "",
            "-o",
            "a b",
            "a;b",
            "a|b",
            "$(a)",
            "`a`",
            "a&b",
            "a\nb",
            "a'b",
            "a*",
            "~a",
            "{a,b}",
            "a>b",
            "a\\b",
            "ä",
            "a\u{202e}b",
            "a=b",
            "#a",
            "!a",
            &long,
        ] {
            assert_eq!(plain_word(odd), None, "{odd:?}");
        }
        assert_eq!(named("a\u{1b}[2J\n`b`"), r#""a\u{1b}[2J\n`b`""#);
        assert!(named(&long).len() < 210);
    }

    proptest! {
        #[test]
        fn any_number_ends(text in "[-0-9.]{0,30}", a: u64, b: u64) {
            let _told = (weight(&text, 1000), priority(&text), priority_of_order(&text));
            let _told = (millionths(&text), cpus(a, b), rate(a));
        }
    }
}
