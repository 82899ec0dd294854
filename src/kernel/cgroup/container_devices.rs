//! Which devices a container may use: an ordered list of rules, on version 2 as a program, on
//! version 1 as lines of its own. Version 1 keeps exceptions from one default and forgets their
//! order, so it cannot deny a part of what it allows; a list that does so becomes a program too,
//! in the version 2 hierarchy that hybrid hosts have beside. The program itself is in `devices`.

use rustix::fs::OFlags;

use super::container::Cgroups;
use super::devices::{self, Ordered};
use super::dir::Dir;
use super::{CgroupError, DeviceAccess, DeviceKind, Result};
use crate::model::DeviceEntry;

impl Cgroups {
    /// Puts device rules in force, in place of those there were.
    pub(super) fn write_devices(&self, list: &[DeviceEntry]) -> Result<()> {
        let rules = || list.iter().map(ordered).collect::<Result<Vec<Ordered>>>();
        let v1 = self
            .v1
            .iter()
            .find(|slot| slot.names.iter().any(|n| n == "devices"));
        let Some(v1) = v1 else {
            return match &self.v2 {
                Some(slot) => devices::attach(&slot.dir, &rules()?, slot.is_fresh()),
                None => Ok(()),
            };
        };
        let plain = keeps_its_meaning(list);
        if let Some(v2) = &self.v2
            && (!plain || (!v2.is_fresh() && devices::has_program(&v2.dir)?))
        {
            devices::attach(&v2.dir, &rules()?, v2.is_fresh())?;
        }
        match (plain, &self.v2) {
            (true, _) if v1.is_fresh() => write_rules(&v1.dir, list),
            (true, _) => change_rules(&v1.dir, list),
            // A new folder allows all; the program decides.
            (false, Some(_)) if v1.is_fresh() => Ok(()),
            (false, Some(_)) => v1.dir.write("devices.allow", "a"),
            (false, None) => Err(CgroupError::Unsupported {
                what: "a list of devices that denies a part of what it allows before",
                mode: self.mode,
                why: "version 1 forgets the order; list what is allowed, or mount version 2 beside",
            }),
        }
    }
}

/// Whether version 1 makes of the list what it means: each rule against the default stands for
/// itself, and one that takes back an earlier one names the same devices.
fn keeps_its_meaning(list: &[DeviceEntry]) -> bool {
    let mut default = true;
    let mut exceptions: Vec<&DeviceEntry> = Vec::new();
    let same =
        |a: &DeviceEntry, b: &DeviceEntry| (a.kind, a.major, a.minor) == (b.kind, b.major, b.minor);
    for rule in list {
        if rule.is_total() {
            default = rule.allow;
            exceptions.clear();
        } else if rule.allow != default {
            exceptions.push(rule);
        } else if exceptions
            .iter()
            .any(|e| overlap(e, rule) && !same(e, rule))
        {
            return false;
        }
    }
    true
}

/// Whether a device and an access exist that both rules are about.
fn overlap(a: &DeviceEntry, b: &DeviceEntry) -> bool {
    let number = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
    (a.kind == b.kind || a.kind == 'a' || b.kind == 'a')
        && number(a.major, b.major)
        && number(a.minor, b.minor)
        && a.access.chars().any(|c| b.access.contains(c))
}

fn ordered(entry: &DeviceEntry) -> Result<Ordered> {
    Ok(Ordered {
        allow: entry.allow,
        kind: match entry.kind {
            'b' => Some(DeviceKind::Block),
            'c' => Some(DeviceKind::Char),
            _ => None,
        },
        major: entry.major,
        minor: entry.minor,
        access: DeviceAccess::parse(&entry.access)?,
    })
}

/// The lines of version 1 for one rule. It knows `a` only for everything at once.
fn lines(entry: &DeviceEntry) -> Vec<String> {
    if entry.is_total() {
        return vec!["a".to_owned()];
    }
    let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
    let (major, minor) = (number(entry.major), number(entry.minor));
    let kinds = match entry.kind {
        'a' => vec!['b', 'c'],
        kind => vec![kind],
    };
    let line = |kind| format!("{kind} {major}:{minor} {}", entry.access);
    kinds.into_iter().map(line).collect()
}

/// For a group nobody is in yet.
fn write_rules(dir: &Dir, list: &[DeviceEntry]) -> Result<()> {
    let open = |name: &str| {
        dir.file(name, OFlags::WRONLY)
            .map_err(|e| CgroupError::file("open", &dir.path().join(name), e))
    };
    let (allow, deny) = (open("devices.allow")?, open("devices.deny")?);
    for entry in list {
        let (file, name) = match entry.allow {
            true => (&allow, "devices.allow"),
            false => (&deny, "devices.deny"),
        };
        for line in lines(entry) {
            rustix::io::write(file, line.as_bytes())
                .map_err(|e| CgroupError::with_value("write", &dir.path().join(name), &line, e))?;
        }
    }
    Ok(())
}

/// For a group in use: allowed devices stay allowed throughout, where the list is one of allowed
/// devices only. Any other is written from its beginning.
fn change_rules(dir: &Dir, list: &[DeviceEntry]) -> Result<()> {
    let old = dir.read("devices.list")?;
    let plain = list.split_first().is_some_and(|(first, rest)| {
        first.is_total() && !first.allow && rest.iter().all(|rule| rule.allow)
    });
    if !plain || old.starts_with('a') {
        return write_rules(dir, list);
    }
    let new: Vec<String> = list[1..].iter().flat_map(lines).collect();
    for line in &new {
        dir.write("devices.allow", line)?;
    }
    for line in old.lines().filter(|line| !new.iter().any(|n| n == line)) {
        dir.write("devices.deny", line)?;
    }
    // What was denied may have been a part of what is allowed.
    for line in &new {
        dir.write("devices.allow", line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(
        allow: bool,
        kind: char,
        numbers: (Option<u32>, Option<u32>),
        access: &str,
    ) -> DeviceEntry {
        DeviceEntry {
            allow,
            kind,
            major: numbers.0,
            minor: numbers.1,
            access: access.to_owned(),
        }
    }

    #[test]
    fn version_1_lines_of_a_rule() {
        let any = (None, None);
        assert_eq!(lines(&entry(true, 'a', any, "rwm")), ["a"]);
        assert_eq!(lines(&entry(true, 'a', any, "m")), ["b *:* m", "c *:* m"]);
        assert_eq!(
            lines(&entry(true, 'c', (Some(5), None), "rw")),
            ["c 5:* rw"]
        );
    }

    #[test]
    fn a_part_taken_back_is_more_than_version_1_can_say() {
        let nothing = entry(false, 'a', (None, None), "rwm");
        let wide = entry(true, 'c', (Some(1), None), "rwm");
        let part = entry(false, 'c', (Some(1), Some(3)), "w");
        let same = entry(false, 'c', (Some(1), None), "w");
        let other = entry(false, 'b', (Some(1), Some(3)), "w");
        let list = |rules: &[&DeviceEntry]| -> Vec<DeviceEntry> {
            rules.iter().map(|&r| r.clone()).collect()
        };
        assert!(keeps_its_meaning(&list(&[&nothing, &wide, &same, &other])));
        assert!(!keeps_its_meaning(&list(&[&nothing, &wide, &part])));
        assert!(keeps_its_meaning(&list(&[&nothing, &part, &wide])));
        let all = entry(true, 'a', (None, None), "rwm");
        assert!(keeps_its_meaning(&list(&[&nothing, &wide, &all, &part])));
        assert!(!keeps_its_meaning(&list(&[&all, &part, &wide])));
    }
}
