//! Rules for single texts: names, paths, signals, kernel settings. Each says what would be right.
//! Which setting a rule belongs to is said next door in `check`.

use std::path::{Component, Path};

use super::error::suggestion;
use super::word::quoted;
use crate::model::nearest;

/// Resource limits, lower-case, without `RLIMIT_` (getrlimit(2)).
pub const RLIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// signal(7), without `SIG`.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Kernel settings outside `net.` that belong to an IPC namespace (ipc_namespaces(7)).
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
];

type Rule = Result<(), String>;

fn must(holds: bool, message: impl FnOnce() -> String) -> Rule {
    if holds { Ok(()) } else { Err(message()) }
}

/// `[a-z0-9][a-z0-9_-]{0,62}`: a file name that is nothing else.
fn plain_name(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 63
        && text.bytes().next().is_some_and(letter)
        && text.bytes().all(|b| letter(b) || b == b'-' || b == b'_')
}

pub(super) fn template_name(text: &str) -> Rule {
    must(plain_name(text), || {
        format!(
            "{} is not a template name: use a-z, 0-9, - and _",
            quoted(text)
        )
    })
}

/// A pool's name; it is the name of its record and of a folder.
///
/// # Errors
/// What would be right.
pub fn pool_name(text: &str) -> Rule {
    must(plain_name(text), || {
        format!("{} is not a pool name: use a-z, 0-9, - and _", quoted(text))
    })
}

/// A snapshot's name; it is the name of its record.
///
/// # Errors
/// What would be right.
pub fn snapshot_name(text: &str) -> Rule {
    must(plain_name(text), || {
        format!(
            "{} is not a snapshot name: use a-z, 0-9, - and _",
            quoted(text)
        )
    })
}

pub(super) fn profile_name(text: &str) -> Rule {
    must(plain_name(text), || {
        format!(
            "{} is not a profile name: use a-z, 0-9, - and _",
            quoted(text)
        )
    })
}

pub(super) fn option_name(text: &str) -> Rule {
    must(plain_name(text), || {
        "is not the name of an option: use a-z, 0-9, - and _".into()
    })
}

pub(super) fn label_name(text: &str) -> Rule {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    must(
        (1..=63).contains(&text.len()) && text.bytes().all(allowed),
        || "is not the name of a label: use 1 to 63 letters, digits and - _ . /".into(),
    )
}

/// RFC 1123 and the kernel's bound of 64 bytes (gethostname(2)).
pub(super) fn host_name(text: &str) -> Rule {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    must(text.len() <= 64 && text.split('.').all(label), || {
        format!(
            "{} is not a host name: use letters, digits and - in parts divided by dots, at most 64 characters",
            quoted(text)
        )
    })
}

pub(super) fn time_zone(text: &str) -> Rule {
    let part = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_+".contains(&b))
    };
    must(text.len() <= 64 && text.split('/').all(part), || {
        format!(
            "{} is not a time zone: write a name such as Europe/Berlin",
            quoted(text)
        )
    })
}

pub(super) fn variable_name(text: &str) -> Rule {
    let holds = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    must(holds, || {
        "is not the name of a variable: use letters, digits and _, no digit first".into()
    })
}

/// Whether a text names a signal: `SIGTERM`, `TERM`, `SIGRTMIN+3`.
#[must_use]
pub fn is_signal(text: &str) -> bool {
    let name = text.strip_prefix("SIG").unwrap_or(text);
    // 64 signals, 34 to 64 for programs, two of them used by the C library: RTMIN is 34.
    let real_time = |rest: &str, sign: char| {
        rest.is_empty()
            || rest
                .strip_prefix(sign)
                .filter(|n| n.len() <= 2 && n.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|n| n.parse::<u8>().ok())
                .is_some_and(|n| n <= 30)
    };
    SIGNALS.contains(&name)
        || name
            .strip_prefix("RTMIN")
            .is_some_and(|rest| real_time(rest, '+'))
        || name
            .strip_prefix("RTMAX")
            .is_some_and(|rest| real_time(rest, '-'))
}

pub(super) fn signal(text: &str) -> Rule {
    must(is_signal(text), || {
        let wanted = text.to_ascii_uppercase();
        let near = nearest(wanted.strip_prefix("SIG").unwrap_or(&wanted), SIGNALS);
        let hint = near.map_or_else(
            || "write a name such as SIGTERM or SIGRTMIN+3".to_owned(),
            |near| format!("did you mean \"SIG{near}\"?"),
        );
        format!("{} is not a signal: {hint}", quoted(text))
    })
}

pub(super) fn rlimit_name(text: &str) -> Rule {
    must(RLIMITS.contains(&text), || {
        format!("is not a resource limit{}", suggestion(text, RLIMITS))
    })
}

/// Only what belongs to a namespace of the guest's own, and only values that stay one value.
pub(super) fn sysctl(name: &str, value: &str) -> Rule {
    let parts = name.split('.').all(|part| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    });
    let known = (name.starts_with("net.") || name.starts_with("fs.mqueue.")) && parts;
    must(known || IPC_SYSCTLS.contains(&name), || {
        "is not a guest's own: only net.*, fs.mqueue.*, kernel.shm*, kernel.msg* and kernel.sem are"
            .into()
    })?;
    // `+` and `=` would begin another setting where a list of them is passed on (CVE-2022-0811).
    let plain = |b: u8| b.is_ascii_alphanumeric() || b" .,:_/-".contains(&b);
    must(
        !value.is_empty() && value.len() <= 256 && value.bytes().all(plain),
        || {
            format!(
                "{} is not a value: use letters, digits, blanks and . , : _ / -",
                quoted(value)
            )
        },
    )
}

/// Absolute, without `..`, `.` or doubled slashes: the path that is meant and no other.
fn exact_path(path: &Path) -> Rule {
    let text = path.as_os_str().as_encoded_bytes();
    let doubled = text.windows(2).any(|pair| pair == b"//");
    let dots = text
        .split(|b| *b == b'/')
        .any(|part| part == b"." || part == b"..");
    let trailing = text.len() > 1 && text.ends_with(b"/");
    let shown = || path.display();
    must(path.is_absolute(), || {
        format!("{} is relative: begin with /", shown())
    })?;
    must(!dots, || {
        format!("{} has . or .. in it: write the path itself", shown())
    })?;
    must(!doubled && !trailing, || {
        format!("{} has a / too many", shown())
    })?;
    must(text.len() < 4096, || {
        "is longer than a path can be (4095 bytes)".into()
    })
}

pub(super) fn host_path(path: &Path) -> Rule {
    exact_path(path).map_err(|why| format!("source {why}"))
}

pub(super) fn mount_target(path: &Path) -> Rule {
    exact_path(path).map_err(|why| format!("target {why}"))?;
    let first = path.components().nth(1);
    let below = |name: &str| first == Some(Component::Normal(name.as_ref()));
    must(first.is_some(), || {
        "target / is the root itself: the template makes it".into()
    })?;
    must(!below("proc") && !below("sys"), || {
        "target is in /proc or /sys, which are the kernel's".into()
    })?;
    must(path != Path::new("/dev"), || {
        "target /dev is made for the guest: give [[device]]".into()
    })
}

pub(super) fn device_path(path: &Path) -> Rule {
    exact_path(path)?;
    must(
        path.starts_with("/dev") && path != Path::new("/dev"),
        || format!("{} is not a device below /dev", path.display()),
    )
}

pub(super) fn device_access(text: &str) -> Rule {
    let holds = !text.is_empty()
        && text.chars().all(|c| "rwm".contains(c))
        && text
            .chars()
            .enumerate()
            .all(|(i, c)| text.chars().take(i).all(|other| other != c));
    must(holds, || {
        format!(
            "access {} is not right: use the letters r (read), w (write), m (make)",
            quoted(text)
        )
    })
}

/// One line of authorized_keys (sshd(8)): a key type and what follows it, maybe after options.
pub(super) fn ssh_key(line: &str) -> Rule {
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    let is_type = |word: &str| {
        word.starts_with("ssh-")
            || word.starts_with("ecdsa-sha2-")
            || word.starts_with("sk-ssh-")
            || word.starts_with("sk-ecdsa-")
    };
    let holds = words
        .windows(2)
        .any(|pair| is_type(pair[0]) && pair[1].starts_with("AAAA"));
    must(holds && line.len() <= 16_384, || {
        "is not a public key: give the one line of a .pub file, such as ssh-ed25519 AAAA…".into()
    })
}

/// crypt(5): `$id$…`, nothing that would end the field in /etc/shadow.
pub(super) fn password_hash(text: &str) -> Rule {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"./$=,+-".contains(&b);
    let fields = text.split('$').filter(|field| !field.is_empty()).count();
    let holds =
        text.starts_with('$') && fields >= 3 && text.len() <= 384 && text.bytes().all(plain);
    must(holds, || {
        "is not a crypt(5) hash: make one with `openssl passwd -6` or mkpasswd".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name() {
        for good in [
            "SIGTERM",
            "TERM",
            "SIGRTMIN+3",
            "SIGRTMIN",
            "SIGRTMAX-1",
            "SIGPWR",
        ] {
            assert!(is_signal(good), "{good}");
        }
        for bad in [
            "15",
            "SIGRTMIN+31",
            "SIGRTMIN+",
            "SIGRTMIN++3",
            "SIGFOO",
            "",
        ] {
            assert!(!is_signal(bad), "{bad}");
        }
        assert!(signal("sigtrm").unwrap_err().contains("\"SIGTERM\""));
    }

    #[test]
    fn only_a_guests_own_kernel_settings() {
        for good in [
            "net.ipv4.ip_forward",
            "kernel.sem",
            "kernel.shmmax",
            "fs.mqueue.msg_max",
        ] {
            assert_eq!(sysctl(good, "1"), Ok(()), "{good}");
        }
        for bad in [
            "kernel.core_pattern",
            "vm.swappiness",
            "net.",
            "net./x",
            "net...x",
            "fs.mqueue",
        ] {
            assert!(sysctl(bad, "1").is_err(), "{bad}");
        }
        for bad in ["1+kernel.core_pattern=x", "", "1\n2", "a=b"] {
            assert!(sysctl("net.ipv4.ip_forward", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn targets_keep_out_of_what_the_launch_makes() {
        for good in ["/data", "/dev/shm", "/srv/www", "/process"] {
            assert_eq!(mount_target(Path::new(good)), Ok(()), "{good}");
        }
        for bad in [
            "/",
            "/proc",
            "/proc/sys",
            "/sys",
            "/dev",
            "data",
            "/a/../b",
            "/a//b",
            "/a/",
            "",
        ] {
            assert!(mount_target(Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_hosts_zones_and_hashes() {
        for good in ["web", "web-1.example.org", "A"] {
            assert_eq!(host_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "a..b", "a_b", "a b", &"a".repeat(64)] {
            assert!(host_name(bad).is_err(), "{bad}");
        }
        assert!(time_zone("Etc/GMT+1").is_ok());
        for bad in ["../etc/passwd", "/UTC", "a//b", ""] {
            assert!(time_zone(bad).is_err(), "{bad}");
        }
        assert!(password_hash("$6$salt$abc./").is_ok());
        for bad in ["secret", "$6$salt$abc:0:0", "$6$$"] {
            assert!(password_hash(bad).is_err(), "{bad}");
        }
        assert!(ssh_key("ssh-ed25519 AAAAC3Nza me@here").is_ok());
        assert!(ssh_key("-----BEGIN OPENSSH PRIVATE KEY-----").is_err());
    }
}
