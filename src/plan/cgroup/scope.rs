//! What systemd is told of a container's scope: the limits in its words, so that it does not undo
//! ours when it writes the group's files again (on `daemon-reload`, or when a sibling changes), and
//! the properties that annotations ask for.

use std::collections::{BTreeMap, HashMap};

use oci_spec::runtime::LinuxResources;

use super::{Result, bad, v2};
use crate::model::{CgroupHost, CpuSet, UnitValue};

const PREFIX: &str = "org.systemd.property.";
const FIELD: &str = "annotations (org.systemd.property.*)";

/// Properties of a new scope besides its processes, description and slice.
pub(super) fn properties(
    resources: &LinuxResources,
    annotations: Option<&HashMap<String, String>>,
    host: &CgroupHost,
) -> Result<Vec<(String, UnitValue)>> {
    let on = |name: &str| (name.to_owned(), UnitValue::Bool(true));
    let mut out = vec![
        on("Delegate"),
        ("DefaultDependencies".to_owned(), UnitValue::Bool(false)),
        on("MemoryAccounting"),
        on("CPUAccounting"),
        on("IOAccounting"),
        on("TasksAccounting"),
    ];
    out.extend(limits(resources, host)?);
    // In order of their names, so that a plan reads the same every time.
    let wishes: BTreeMap<&String, &String> = annotations.into_iter().flatten().collect();
    for (key, text) in wishes {
        if let Some(name) = key.strip_prefix(PREFIX) {
            let (name, value) = wish(name, text)?;
            out.retain(|(known, _)| *known != name);
            out.push((name, value));
        }
    }
    Ok(out)
}

/// The limits, in systemd's words; they can be changed while the scope runs.
pub(super) fn limits(
    resources: &LinuxResources,
    host: &CgroupHost,
) -> Result<Vec<(String, UnitValue)>> {
    let mut out = Vec::new();
    let mut push = |name: &str, value: UnitValue| out.push((name.to_owned(), value));
    // What is unlimited is all ones, as -1 is.
    let amount = |n: i64| UnitValue::U64(n.max(-1).cast_unsigned());
    if let Some(memory) = resources.memory() {
        let v2 = !host.on_v1("memory");
        let limit = memory.limit().filter(|&n| n != 0);
        if let Some(n) = limit {
            push(if v2 { "MemoryMax" } else { "MemoryLimit" }, amount(n));
        }
        if let Some(n) = memory.reservation().filter(|&n| n != 0 && v2) {
            push("MemoryLow", amount(n));
        }
        match (memory.swap().filter(|&n| n != 0 && v2), limit) {
            (Some(both), Some(limit)) if both > 0 && limit > 0 => {
                push("MemorySwapMax", amount(both.saturating_sub(limit).max(0)));
            }
            (Some(both), _) => push("MemorySwapMax", amount(both)),
            (None, Some(-1)) if v2 => push("MemorySwapMax", amount(-1)),
            _ => {}
        }
    }
    if let Some(pids) = resources.pids() {
        let most = pids.limit();
        push("TasksMax", amount(if most == 0 { 1 } else { most.max(-1) }));
    }
    if let Some(io) = resources.block_io()
        && let Some(n) = io.weight().filter(|&n| n > 0 && host.on_v1("blkio"))
    {
        push("BlockIOWeight", UnitValue::U64(u64::from(n)));
    }
    if let Some(cpu) = resources.cpu() {
        cpu_limits(cpu, host, &mut push)?;
    }
    Ok(out)
}

fn cpu_limits(
    cpu: &oci_spec::runtime::LinuxCpu,
    host: &CgroupHost,
    push: &mut impl FnMut(&str, UnitValue),
) -> Result<()> {
    if let Some(shares) = cpu.shares().filter(|&n| n > 0) {
        match host.on_v1("cpu") {
            true => push("CPUShares", UnitValue::U64(shares)),
            false => push("CPUWeight", UnitValue::U64(v2::cpu_weight(shares))),
        }
    }
    let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
    if period > 0 {
        push("CPUQuotaPeriodUSec", UnitValue::U64(period));
    }
    if quota != 0 || period > 0 {
        let period = if period == 0 { 100_000 } else { period };
        let second = match u64::try_from(quota) {
            // systemd keeps whole percents; rounded up, our own finer value is within its.
            Ok(n) if n > 0 => {
                n.saturating_mul(1_000_000)
                    .div_ceil(period)
                    .div_ceil(10_000)
                    * 10_000
            }
            _ => u64::MAX,
        };
        push("CPUQuotaPerSecUSec", UnitValue::U64(second));
    }
    let sets = [
        ("AllowedCPUs", "resources.cpu.cpus", cpu.cpus()),
        ("AllowedMemoryNodes", "resources.cpu.mems", cpu.mems()),
    ];
    for (name, field, list) in sets {
        if let Some(list) = list.as_deref().filter(|l| !l.is_empty()) {
            push(name, UnitValue::Bytes(mask(field, list)?));
        }
    }
    Ok(())
}

/// A list such as `0-2,5` as a set of bits.
fn mask(field: &'static str, list: &str) -> Result<Vec<u8>> {
    let rule = "write a list such as 0-2,5";
    let set: CpuSet = list.trim().parse().map_err(|_| bad(field, list, rule))?;
    let mut bytes = Vec::new();
    for n in set.iter() {
        let (at, bit) = (n as usize / 8, n % 8);
        if bytes.len() <= at {
            bytes.resize(at + 1, 0_u8);
        }
        bytes[at] |= 1 << bit;
    }
    Ok(bytes)
}

/// A property from an annotation. Names that end in `Sec` are what people read in systemd's
/// manual; on the bus they are in microseconds and end in `USec`.
fn wish(name: &str, text: &str) -> Result<(String, UnitValue)> {
    if name.len() < 3 || !name.chars().all(|c| c.is_ascii_alphabetic()) {
        return Err(bad(
            FIELD,
            name,
            "a property's name is three letters or more",
        ));
    }
    let value = read(text.trim()).ok_or_else(|| {
        let rule = "write a value as GVariant has it: true, 5, uint64 5, 1.5, 'text', ['a', 'b']";
        bad(FIELD, format!("{name}={text}"), rule)
    })?;
    let seconds = name
        .strip_suffix("Sec")
        .filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase()));
    let Some(stem) = seconds else {
        return Ok((name.to_owned(), value));
    };
    let micro = |n: i128| u64::try_from(n).ok().and_then(|n| n.checked_mul(1_000_000));
    let value = match value {
        UnitValue::I32(n) => micro(n.into()),
        UnitValue::U32(n) => micro(n.into()),
        UnitValue::I64(n) => micro(n.into()),
        UnitValue::U64(n) => micro(n.into()),
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
        UnitValue::Double(n) if n >= 0.0 => Some((n * 1e6) as u64),
        _ => None,
    };
    let rule = "write a number of seconds";
    let value = value.ok_or_else(|| bad(FIELD, format!("{name}={text}"), rule))?;
    Ok((format!("{stem}USec"), UnitValue::U64(value)))
}

/// GVariant's text format, as far as units need it.
fn read(text: &str) -> Option<UnitValue> {
    match text {
        "true" => return Some(UnitValue::Bool(true)),
        "false" => return Some(UnitValue::Bool(false)),
        _ => {}
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return texts(inner).map(UnitValue::Texts);
    }
    if text.starts_with(['\'', '"']) {
        let (text, rest) = quoted(text)?;
        return rest.trim().is_empty().then_some(UnitValue::Text(text));
    }
    if let Some((kind, number)) = text.split_once(' ') {
        let number = number.trim();
        return match kind {
            "int32" | "@i" => number.parse().ok().map(UnitValue::I32),
            "uint32" | "@u" => number.parse().ok().map(UnitValue::U32),
            "int64" | "@x" => number.parse().ok().map(UnitValue::I64),
            "uint64" | "@t" => number.parse().ok().map(UnitValue::U64),
            "double" | "@d" => number.parse().ok().map(UnitValue::Double),
            _ => None,
        };
    }
    match text.contains(['.', 'e']) {
        true => text
            .parse()
            .ok()
            .filter(|n: &f64| n.is_finite())
            .map(UnitValue::Double),
        false => text.parse().ok().map(UnitValue::I32),
    }
}

/// A quoted text at the beginning, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut chars = text.char_indices();
    let (_, quote) = chars.next().filter(|(_, c)| matches!(c, '\'' | '"'))?;
    let mut out = String::new();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => out.push(match chars.next()?.1 {
                'n' => '\n',
                't' => '\t',
                c => c,
            }),
            c if c == quote => return Some((out, &text[at + 1..])),
            c => out.push(c),
        }
    }
    None
}

fn texts(mut rest: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    rest = rest.trim();
    while !rest.is_empty() {
        let (text, after) = quoted(rest)?;
        out.push(text);
        rest = after.trim();
        if !rest.is_empty() {
            rest = rest.strip_prefix(',')?.trim();
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_have_the_types_of_the_bus() {
        let cases = [
            (
                "TimeoutStopSec",
                "5",
                "TimeoutStopUSec",
                UnitValue::U64(5_000_000),
            ),
            (
                "TimeoutStopUSec",
                "uint64 5",
                "TimeoutStopUSec",
                UnitValue::U64(5),
            ),
            (
                "RuntimeMaxSec",
                "1.5",
                "RuntimeMaxUSec",
                UnitValue::U64(1_500_000),
            ),
            (
                "CollectMode",
                "'inactive-or-failed'",
                "CollectMode",
                UnitValue::Text("inactive-or-failed".into()),
            ),
            ("SendSIGHUP", "true", "SendSIGHUP", UnitValue::Bool(true)),
            (
                "After",
                "['a.service', \"b.service\"]",
                "After",
                UnitValue::Texts(vec!["a.service".into(), "b.service".into()]),
            ),
            ("OOMScoreAdjust", "-5", "OOMScoreAdjust", UnitValue::I32(-5)),
        ];
        for (name, text, as_name, value) in cases {
            assert_eq!(
                wish(name, text).unwrap(),
                (as_name.to_owned(), value),
                "{name}"
            );
        }
        for (name, text) in [
            ("A1b", "1"),
            ("ab", "1"),
            ("Abc", "'x"),
            ("Abc", "word"),
            ("StopSec", "'x'"),
            ("StopSec", "-1"),
            ("Abc", ""),
        ] {
            assert!(wish(name, text).is_err(), "{name}={text}");
        }
    }

    #[test]
    fn cpu_lists_become_bits() {
        assert_eq!(mask("x", "0-2,9").unwrap(), [0b111, 0b10]);
        assert!(mask("x", "a").is_err());
    }
}
