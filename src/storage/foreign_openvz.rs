//! What OpenVZ says of a container (`/etc/vz/conf/101.conf`, see ctid.conf(5)), in words of this program.
//! The file is shell; plain assignments are read, and nothing is executed or put in for another.

use super::foreign::Told;
use super::foreign_words::{self as words, Card};

/// Bytes of a page of memory there.
const PAGE: u64 = 4096;
/// Bytes of a block of disk there.
const BLOCK: u64 = 1024;
/// From here on a limit is none: the largest that a signed number of 32 bits holds was the usual one,
/// and that of 64 bits since.
const UNLIMITED: u64 = i32::MAX as u64;

/// What means something to OpenVZ only, or is so here anyway.
const ONLY_THERE: &[&str] = &[
    "VERSION",
    "VE_ROOT",
    "VE_PRIVATE",
    "OSTEMPLATE",
    "ORIGIN_SAMPLE",
    "NAME",
    "VEID",
    "UUID",
    "VE_LAYOUT",
    "UTF8",
    "KMEMSIZE",
    "LOCKEDPAGES",
    "SHMPAGES",
    "VMGUARPAGES",
    "OOMGUARPAGES",
    "NUMTCPSOCK",
    "NUMFLOCK",
    "NUMPTY",
    "NUMSIGINFO",
    "TCPSNDBUF",
    "TCPRCVBUF",
    "OTHERSOCKBUF",
    "DGRAMRCVBUF",
    "NUMOTHERSOCK",
    "DCACHESIZE",
    "NUMFILE",
    "AVNUMPROC",
    "NUMIPTENT",
    "QUOTATIME",
    "QUOTAUGIDLIMIT",
    "SLMMODE",
    "TECHNOLOGIES",
];

/// Whether a text is such a configuration.
pub(super) fn is_one(text: &str) -> bool {
    let known = [
        "VE_PRIVATE",
        "VE_ROOT",
        "OSTEMPLATE",
        "PHYSPAGES",
        "PRIVVMPAGES",
        "CPUUNITS",
        "ORIGIN_SAMPLE",
    ];
    text.lines().filter_map(|line| assignment(line.trim())).any(|(key, _)| known.contains(&key))
        // Most of them have these two, and the shell's own variables in them.
        || text.lines().any(|line| line.starts_with("VE_ROOT=") || line.starts_with("VE_PRIVATE="))
}

/// Reads the file.
pub(super) fn container(text: &str) -> Result<Told, String> {
    let mut told = Told::default();
    let mut limits = Limits::default();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match assignment(line) {
            Some((key, value)) => setting(&mut told, &mut limits, key, &value),
            // Where it lay, which says $VEID.
            None if line.starts_with("VE_ROOT=") || line.starts_with("VE_PRIVATE=") => {}
            None => told.note(format!(
                "{line:.120}: no plain assignment, so it is not read"
            )),
        }
    }
    limits.set(&mut told);
    Ok(told)
}

/// A plain assignment of the shell: one word, quoted or not, in which nothing is put in for another.
fn assignment(line: &str) -> Option<(&str, String)> {
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    let (key, rest) = line.split_once('=')?;
    let named = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if key.is_empty() || key.as_bytes()[0].is_ascii_digit() || !key.bytes().all(named) {
        return None;
    }
    let mut value = String::new();
    let mut quote = None;
    let mut rest = rest.chars();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (Some('\''), c) => value.push(c),
            (_, '\\') => match (rest.next()?, quote) {
                (c @ ('"' | '\\' | '$' | '`'), _) | (c, None) => value.push(c),
                (c, _) => value.extend(['\\', c]),
            },
            (_, '$' | '`') => return None,
            (Some(_), c) => value.push(c),
            // Behind the word there may be a comment and nothing else.
            (None, ' ' | '\t') => {
                let rest = rest.as_str().trim_start();
                return (rest.is_empty() || rest.starts_with('#')).then_some((key, value));
            }
            (None, ';' | '&' | '|' | '<' | '>' | '(' | ')') => return None,
            (None, c) => value.push(c),
        }
    }
    quote.is_none().then_some((key, value))
}

/// Limits of which several say one thing together.
#[derive(Default)]
struct Limits {
    /// Hundredths of a CPU.
    cpu: Option<u64>,
    physical: Option<u64>,
    private: Option<u64>,
    swap: Option<u64>,
}

impl Limits {
    fn set(self, told: &mut Told) {
        if let Some(cpu) = self.cpu.and_then(|cpu| words::cpus(cpu, 100)) {
            told.set("cpu.limit", cpu);
        }
        // Private pages were the limit before there was one of physical ones.
        if let Some(bytes) = self.physical.or(self.private) {
            told.set("memory.limit", bytes.to_string());
        }
        if let Some(bytes) = self.swap {
            told.set("memory.swap", bytes.to_string());
        }
    }
}

fn setting(told: &mut Told, limits: &mut Limits, key: &str, value: &str) {
    let lost = |told: &mut Told| told.lost(key, value);
    match key {
        "HOSTNAME" => {
            value.clone_into(&mut told.name);
            told.set("hostname", value);
        }
        "PHYSPAGES" | "SWAPPAGES" | "PRIVVMPAGES" => match amount(value, PAGE) {
            Some(Amount::Of(bytes)) if key == "PHYSPAGES" => limits.physical = Some(bytes),
            Some(Amount::Of(bytes)) if key == "SWAPPAGES" => limits.swap = Some(bytes),
            Some(Amount::Of(bytes)) => limits.private = Some(bytes),
            // What is unlimited there and has a limit here.
            _ => lost(told),
        },
        "CPUS" | "CPULIMIT" => match value.parse::<u64>() {
            Ok(0) => {}
            Ok(number) if number < 1 << 20 => {
                let hundredths = if key == "CPUS" { number * 100 } else { number };
                limits.cpu = Some(limits.cpu.map_or(hundredths, |cpu| cpu.min(hundredths)));
            }
            _ => lost(told),
        },
        "CPUUNITS" => told.set_or_lost("cpu.weight", words::weight(value, 1000), (key, value)),
        "CPUMASK" if value != "auto" && value != "all" => told.set("cpu.cpuset", value),
        "NUMPROC" => match amount(value, 1) {
            Some(Amount::Of(number)) if number > 0 => told.set("processes", number.to_string()),
            _ => lost(told),
        },
        "DISKSPACE" => match amount(value, BLOCK) {
            Some(Amount::Of(bytes)) if bytes > 0 => told.set("disk.size", bytes.to_string()),
            _ => lost(told),
        },
        "DISKINODES" => match amount(value, 1) {
            Some(Amount::Of(number)) if number > 0 => told.set("disk.inodes", number.to_string()),
            _ => lost(told),
        },
        "ONBOOT" if value == "yes" => told.set("autostart.enabled", "true"),
        "ONBOOT" if value == "no" => {}
        "BOOTORDER" => {
            told.set_or_lost("autostart.priority", words::priority(value), (key, value));
        }
        "SEARCHDOMAIN" => {
            if let Some(domain) = value.split_whitespace().next() {
                told.set("domain", domain);
            }
        }
        "NAMESERVER" => {
            for server in value.split_whitespace().filter(|word| *word != "inherit") {
                told.set("network.dns", server);
            }
        }
        "DESCRIPTION" if !value.is_empty() => told.set("description", value),
        "IP_ADDRESS" => addresses(told, value),
        "NETIF" => interfaces(told, value),
        "DISABLED" if value == "yes" => told.note("it is disabled there"),
        "DISABLED" => {}
        _ if ONLY_THERE.contains(&key) => {}
        _ => lost(told),
    }
}

/// All addresses are of one interface there, which has no card. The first one of either kind is taken.
fn addresses(told: &mut Told, value: &str) {
    let mut card = Card::new("IP_ADDRESS");
    for word in value.split_whitespace() {
        let place = match word.contains(':') {
            true => &mut card.address6,
            false => &mut card.address,
        };
        match place {
            Some(_) => told.lost("IP_ADDRESS", word),
            None => *place = words::bare_address(word),
        }
    }
    if card.address.is_some() || card.address6.is_some() {
        told.cards.insert(0, card);
    }
}

/// `ifname=eth0,bridge=br0,mac=…,host_ifname=…,host_mac=…`, several parted by semicolons. Which addresses
/// they have is said inside only.
fn interfaces(told: &mut Told, value: &str) {
    for one in value.split(';').filter(|one| !one.is_empty()) {
        let option = |name: &str| {
            let mut parts = one.split(',');
            let value = parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            value.filter(|value| !value.is_empty()).map(str::to_owned)
        };
        told.cards.push(Card {
            name: option("ifname"),
            network: option("bridge"),
            mac: option("mac"),
            ..Card::new("NETIF")
        });
    }
}

/// A limit, in the unit that was asked for.
#[derive(Debug, PartialEq, Eq)]
enum Amount {
    Of(u64),
    Unlimited,
}

/// `barrier:limit`, or one number for both: in units, or in bytes with a letter behind it. The limit
/// counts.
fn amount(text: &str, unit: u64) -> Option<Amount> {
    let text = text.rsplit(':').next()?.trim();
    if text == "unlimited" {
        return Some(Amount::Unlimited);
    }
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (number, letter) = text.split_at(end.unwrap_or(text.len()));
    let number: u64 = number.parse().ok()?;
    if letter.is_empty() && number >= UNLIMITED {
        return Some(Amount::Unlimited);
    }
    let unit = match letter.to_ascii_uppercase().as_str() {
        "" => unit,
        // One page, whatever is counted.
        "P" if unit > 1 => PAGE,
        "B" if unit > 1 => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit).map(Amount::Of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value<'a>(told: &'a Told, key: &str) -> Option<&'a str> {
        let mut all = told.settings.iter().rev();
        all.find(|(name, _)| *name == key)
            .map(|(_, value)| value.as_str())
    }

    #[test]
    fn a_configuration_of_openvz() {
        let told = container(
            "# x\nONBOOT=\"yes\"\nPHYSPAGES=\"0:262144\"\nSWAPPAGES=\"0:512M\"\nNUMPROC=\"200:240\"\n\
             PRIVVMPAGES=\"65536:69632\"\nHOSTNAME=\"db.example.org\"\nIP_ADDRESS=\"10.0.0.7 10.0.0.8 fd00::7\"\n\
             CPULIMIT=\"50\"\nCPUS=2\nCPUUNITS='2000'\nDISKSPACE=\"1048576:1153434\"\nDISKINODES=\"100:200\"\n\
             NAMESERVER=\"1.1.1.1 9.9.9.9\" # ours\nOSTEMPLATE=\"debian-7\"\nBOOTORDER=7\nFEATURES=\"nfs:on\"\n",
        )
        .unwrap();
        assert_eq!(told.name, "db.example.org");
        for (key, wanted) in [
            ("memory.limit", "1073741824"),
            ("memory.swap", "536870912"),
            ("processes", "240"),
            ("cpu.limit", "0.50"),
            ("cpu.weight", "200"),
            ("disk.size", "1181116416"),
            ("disk.inodes", "200"),
            ("autostart.enabled", "true"),
            ("autostart.priority", "7"),
            ("network.dns", "9.9.9.9"),
        ] {
            assert_eq!(value(&told, key), Some(wanted), "{key}");
        }
        assert_eq!(told.cards.len(), 1);
        assert_eq!(told.cards[0].address.as_deref(), Some("10.0.0.7"));
        assert_eq!(told.cards[0].address6.as_deref(), Some("fd00::7"));
        assert_eq!(told.notes.len(), 2, "{:?}", told.notes);
    }

    #[test]
    fn nothing_is_executed_or_put_in() {
        for line in [
            "A=$(id)",
            "A=\"`id`\"",
            "A=$B",
            "A=\"$B\"",
            "A=b; id",
            "A=b id",
            "A=\"b",
            "source /etc/passwd",
            "1A=b",
            "A=b|id",
            "A=b\\",
        ] {
            assert_eq!(assignment(line), None, "{line}");
            let told = container(line).unwrap();
            assert_eq!((told.settings.len(), told.notes.len()), (0, 1), "{line}");
        }
        for (line, value) in [
            ("A=b", "b"),
            ("A=\"b c\" # d", "b c"),
            ("export A='$b'", "$b"),
            ("A=\"\\$b\\n\"", "$b\\n"),
            ("A=b'c d'e", "bc de"),
            ("A=", ""),
        ] {
            assert_eq!(
                assignment(line).map(|found| found.1).as_deref(),
                Some(value),
                "{line}"
            );
        }
    }

    #[test]
    fn limits_have_two_numbers_and_many_units() {
        assert_eq!(amount("1:2", PAGE), Some(Amount::Of(8192)));
        assert_eq!(amount("2g", PAGE), Some(Amount::Of(2 << 30)));
        for none in [
            "unlimited",
            "0:unlimited",
            "2147483647",
            "9223372036854775807:9223372036854775807",
        ] {
            assert_eq!(amount(none, PAGE), Some(Amount::Unlimited), "{none}");
        }
        for bad in [
            "",
            ":",
            "-1",
            "1x",
            "99999999999999999999",
            "99999999T",
            "1.5G",
        ] {
            assert_eq!(amount(bad, PAGE), None, "{bad}");
        }
        let told = container("PHYSPAGES=unlimited\nDISKSPACE=99999999T:99999999T\n").unwrap();
        assert_eq!((told.settings.len(), told.notes.len()), (0, 2));
    }

    proptest! {
        #[test]
        fn any_text_ends(text in "(PHYSPAGES|CPUS|IP_ADDRESS|NETIF|DISKSPACE|CPUUNITS|A)=[-0-9:.,;= \"'\\\\$KMGTa\0\u{1}]{0,30}\n?") {
            let told = container(&text).unwrap();
            prop_assert!(told.notes.len() <= 20);
        }

        #[test]
        fn any_bytes_end(text: String) {
            let _told = container(&text);
        }
    }
}
