//! The device list of a Spec → an ordered list of rules that ends with the devices every container
//! may use.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::{Result, bad};
use crate::model::DeviceEntry;

/// Devices that every runtime allows, whatever the Spec says: kind, numbers, access.
const ALWAYS: [(char, Option<u32>, Option<u32>, &str); 11] = [
    // A node may be made of anything: what opens it is asked again.
    ('c', None, None, "m"),
    ('b', None, None, "m"),
    ('c', Some(1), Some(3), "rwm"), // null
    ('c', Some(1), Some(5), "rwm"), // zero
    ('c', Some(1), Some(7), "rwm"), // full
    ('c', Some(1), Some(8), "rwm"), // random
    ('c', Some(1), Some(9), "rwm"), // urandom
    ('c', Some(5), Some(0), "rwm"), // tty
    ('c', Some(5), Some(2), "rwm"), // ptmx
    ('c', Some(136), None, "rwm"),  // pts/*
    // net/tun: VPN containers were never made to ask for it (runc pull request 3468).
    ('c', Some(10), Some(200), "rwm"),
];

/// The rules of a container: nothing, then what the Spec says in its order, then what is always
/// allowed.
///
/// # Errors
/// When a rule has no access or an unknown one, or a number no device has.
pub fn entries(list: &[LinuxDeviceCgroup]) -> Result<Vec<DeviceEntry>> {
    let mut out = vec![DeviceEntry {
        allow: false,
        kind: 'a',
        major: None,
        minor: None,
        access: "rwm".to_owned(),
    }];
    for rule in list {
        out.push(entry(rule)?);
    }
    // Nothing before the last rule for everything counts.
    if let Some(last) = out.iter().rposition(DeviceEntry::is_total) {
        out.drain(..last);
    }
    if out.len() > 1 || !out[0].allow {
        // Each is a write of its own on version 1; engines list most of them too.
        let last_denied = out.iter().rposition(|rule| !rule.allow).unwrap_or(0);
        let always = ALWAYS.map(|(kind, major, minor, access)| DeviceEntry {
            allow: true,
            kind,
            major,
            minor,
            access: access.to_owned(),
        });
        let missing = |rule: &DeviceEntry| !out[last_denied..].contains(rule);
        let missing: Vec<_> = always.into_iter().filter(missing).collect();
        out.extend(missing);
    }
    Ok(out)
}

fn entry(rule: &LinuxDeviceCgroup) -> Result<DeviceEntry> {
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => 'a',
        Some(LinuxDeviceType::B) => 'b',
        Some(LinuxDeviceType::C) => 'c',
        Some(other) => {
            let rule = "device rules are for types a, b and c";
            return Err(bad("resources.devices.type", format!("{other:?}"), rule));
        }
    };
    let access = rule.access().clone().unwrap_or_else(|| "rwm".to_owned());
    if access.is_empty() || !access.chars().all(|c| "rwm".contains(c)) {
        let rule = "write one or more of the letters r, w and m";
        return Err(bad("resources.devices.access", access, rule));
    }
    Ok(DeviceEntry {
        allow: rule.allow(),
        kind,
        major: number("resources.devices.major", rule.major())?,
        minor: number("resources.devices.minor", rule.minor())?,
        access,
    })
}

/// A device number; -1 is any.
fn number(field: &'static str, n: Option<i64>) -> Result<Option<u32>> {
    match n {
        None | Some(-1) => Ok(None),
        Some(n) => match u32::try_from(n) {
            Ok(n) => Ok(Some(n)),
            Err(_) => Err(bad(field, n, "a device number is from 0 to 4294967295")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Result<Vec<DeviceEntry>> {
        entries(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap())
    }

    #[test]
    fn denies_all_first_and_ends_with_the_usual() {
        let list = of(r#"[{"allow":false,"access":"rwm"},
            {"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]"#)
        .unwrap();
        assert!(list[0].is_total() && !list[0].allow);
        assert_eq!((list[1].major, list[1].access.as_str()), (Some(10), "rw"));
        assert_eq!(list.len(), 2 + ALWAYS.len());
        assert_eq!(of("[]").unwrap().len(), 1 + ALWAYS.len());
    }

    #[test]
    fn what_is_allowed_already_is_not_written_twice_unless_denied_since() {
        let null = r#"{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"}"#;
        let once = of(&format!("[{null}]")).unwrap();
        assert_eq!(once.len(), 1 + ALWAYS.len());
        let denied = r#"{"allow":false,"type":"c","major":1,"minor":3,"access":"rwm"}"#;
        let again = of(&format!("[{null},{denied}]")).unwrap();
        assert_eq!(again.len(), 3 + ALWAYS.len());
    }

    #[test]
    fn all_allowed_is_one_rule_and_what_follows() {
        let list = of(
            r#"[{"allow":false,"access":"rwm"},{"allow":true,"access":"rwm"},
            {"allow":false,"type":"b","major":8,"minor":-1,"access":"w"}]"#,
        )
        .unwrap();
        assert!(list[0].is_total() && list[0].allow);
        assert_eq!((list.len(), list[1].minor), (2 + ALWAYS.len(), None));
        let all = of(r#"[{"allow":true,"access":"rwm"}]"#).unwrap();
        assert_eq!(all.len(), 1);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(of(r#"[{"allow":true,"access":"rx"}]"#).is_err());
        assert!(of(r#"[{"allow":true,"access":""}]"#).is_err());
        assert!(of(r#"[{"allow":true,"major":-2,"access":"r"}]"#).is_err());
    }
}
