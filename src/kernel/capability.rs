//! Capabilities and securebits of the calling thread; see capabilities(7). The `caps` crate knows
//! the names; the calls here are our own because they may run between fork and exec (no
//! allocation), read nothing back, and know capabilities newer than the crate. Which capabilities
//! a guest gets is `define`'s and `plan`'s subject.
#![allow(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use caps::Capability;
use rustix::io::Errno;

use crate::model::nearest;

/// A set of capabilities: bit N is capability number N.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CapabilitySet(u64);

/// A name that is no capability.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a capability{}", .nearest.as_ref().map(|n| format!("; did you mean {n}?")).unwrap_or_default())]
pub struct UnknownCapability {
    /// As written.
    pub name: String,
    /// What may have been meant.
    pub nearest: Option<String>,
}

/// A change of capabilities or securebits that the kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} failed: {errno}")]
pub struct CapabilityError {
    /// What was tried.
    pub what: &'static str,
    /// The kernel's answer.
    pub errno: Errno,
}

impl CapabilitySet {
    /// None.
    pub const EMPTY: Self = Self(0);

    /// The capabilities of these names, upper or lower case, with or without `CAP_`.
    ///
    /// # Errors
    /// A name that neither the crate knows nor is the number of a capability written `cap_41`.
    pub fn from_names<'a>(
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, UnknownCapability> {
        let mut set = Self::EMPTY;
        for name in names {
            set.insert(number(name)?);
        }
        Ok(set)
    }

    /// The numbers up to `last`, all of them.
    #[must_use]
    pub const fn all_to(last: u8) -> Self {
        if last >= 63 {
            Self(u64::MAX)
        } else {
            Self((1 << (last + 1)) - 1)
        }
    }

    /// Adds one; numbers above 63 do not exist.
    pub const fn insert(&mut self, number: u8) {
        if number < 64 {
            self.0 |= 1 << number;
        }
    }

    /// Whether it is in.
    #[must_use]
    pub const fn contains(self, number: u8) -> bool {
        number < 64 && self.0 & (1 << number) != 0
    }

    /// Those of these bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The numbers, ascending.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..64).filter(move |&n| self.contains(n))
    }
}

impl fmt::Display for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.iter().map(name).collect();
        f.pad(&names.join(" "))
    }
}

/// The number of a capability by name (`CAP_CHOWN`, `chown`) or as [`name`] writes unknown ones.
///
/// # Errors
/// The name is none.
pub fn number(name: &str) -> Result<u8, UnknownCapability> {
    let canonical = canonical(name);
    if let Ok(cap) = Capability::from_str(&canonical) {
        return Ok(cap.index());
    }
    let digits = canonical.strip_prefix("CAP_").unwrap_or_default();
    if let Some(number) = digits.parse().ok().filter(|n| *n < 64) {
        return Ok(number);
    }
    let known: Vec<String> = caps::all().iter().map(ToString::to_string).collect();
    Err(UnknownCapability {
        name: name.chars().take(80).collect(),
        nearest: nearest(&canonical, known.iter().map(String::as_str)).map(str::to_owned),
    })
}

fn canonical(name: &str) -> String {
    let upper = name.trim().to_ascii_uppercase();
    if upper.starts_with("CAP_") {
        upper
    } else {
        format!("CAP_{upper}")
    }
}

/// The name of a capability (`CAP_CHOWN`); `CAP_63` for one newer than this program.
#[must_use]
pub fn name(number: u8) -> String {
    caps::all()
        .iter()
        .find(|cap| cap.index() == number)
        .map_or_else(|| format!("CAP_{number}"), ToString::to_string)
}

fn prctl(what: &'static str, option: i32, a: u64, b: u64) -> Result<i32, CapabilityError> {
    // SAFETY: none of the options used in this file takes a pointer; the unused arguments are 0,
    // as PR_CAP_AMBIENT demands.
    let r = unsafe { libc::prctl(option, a, b, 0_u64, 0_u64) };
    if r < 0 { Err(failed(what)) } else { Ok(r) }
}

fn failed(what: &'static str) -> CapabilityError {
    // Reads the thread's errno; allocates nothing.
    let errno = std::io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO);
    CapabilityError {
        what,
        errno: Errno::from_raw_os_error(errno),
    }
}

/// The highest capability the kernel knows. Asks `PR_CAPBSET_READ` (Linux 2.6.25) by halves, so it
/// needs no `/proc`.
#[must_use]
pub fn last_cap() -> u8 {
    let known = |n: u8| prctl("", libc::PR_CAPBSET_READ, n.into(), 0).is_ok();
    let (mut known_to, mut unknown_from) = (0, 64);
    while unknown_from - known_to > 1 {
        let middle = u8::midpoint(known_to, unknown_from);
        if known(middle) {
            known_to = middle;
        } else {
            unknown_from = middle;
        }
    }
    known_to
}

/// Takes every capability not in `keep` out of the bounding set, also those newer than this
/// program: `PR_CAPBSET_DROP` until the kernel says that there is no such number. Needs CAP_SETPCAP.
/// One call for each dropped, and one more. May run between fork and exec.
///
/// # Errors
/// EPERM without CAP_SETPCAP.
pub fn drop_bounding_except(keep: CapabilitySet) -> Result<(), CapabilityError> {
    const WHAT: &str = "dropping a capability from the bounding set (PR_CAPBSET_DROP)";
    for n in (0..64).filter(|&n| !keep.contains(n)) {
        match prctl(WHAT, libc::PR_CAPBSET_DROP, n.into(), 0) {
            Ok(_) => {}
            // Numbers are given without gaps, so the first unknown one is the end. Number 0 is
            // known everywhere: EINVAL there would be a kernel without this call.
            Err(e) if e.errno == Errno::INVAL && n > 0 => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Sets the effective and permitted set, and empties the inheritable and ambient ones (non-empty
/// inheritable sets were CVE-2022-24769 and its four sisters). `capset(2)` version 3 and
/// `PR_CAP_AMBIENT_CLEAR_ALL` (Linux 4.3). May run between fork and exec.
///
/// # Errors
/// EPERM if `permitted` has what the thread has not, or `effective` what `permitted` has not.
pub fn set(effective: CapabilitySet, permitted: CapabilitySet) -> Result<(), CapabilityError> {
    clear_ambient()?;
    set_three(effective, permitted, CapabilitySet::EMPTY)
}

/// Sets what an OCI Spec says: the first three sets by `capset(2)`, then the ambient one, which may
/// hold only what is permitted and inheritable.
///
/// # Errors
/// EPERM as the manual page says for each set.
pub fn set_all(
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
    ambient: CapabilitySet,
) -> Result<(), CapabilityError> {
    clear_ambient()?;
    set_three(effective, permitted, inheritable)?;
    for n in ambient.iter() {
        let raise = u64::from(libc::PR_CAP_AMBIENT_RAISE.unsigned_abs());
        let what = "raising an ambient capability (PR_CAP_AMBIENT_RAISE)";
        prctl(what, libc::PR_CAP_AMBIENT, raise, n.into())?;
    }
    Ok(())
}

fn clear_ambient() -> Result<(), CapabilityError> {
    let clear = u64::from(libc::PR_CAP_AMBIENT_CLEAR_ALL.unsigned_abs());
    let what = "emptying the ambient capabilities (PR_CAP_AMBIENT_CLEAR_ALL)";
    prctl(what, libc::PR_CAP_AMBIENT, clear, 0).map(drop)
}

/// `struct __user_cap_header_struct` of linux/capability.h.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`: the low or the high 32 capabilities.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// _LINUX_CAPABILITY_VERSION_3.
const VERSION: u32 = 0x2008_0522;

const fn halves(set: CapabilitySet) -> [u32; 2] {
    [(set.0 & 0xffff_ffff) as u32, (set.0 >> 32) as u32]
}

fn set_three(
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
) -> Result<(), CapabilityError> {
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let (e, p, i) = (halves(effective), halves(permitted), halves(inheritable));
    let data = [0, 1].map(|n| Half {
        effective: e[n],
        permitted: p[n],
        inheritable: i[n],
    });
    // SAFETY: version 3 reads two `Half`s, and both structures outlive the call; the kernel writes
    // to the header only if it does not know the version, which every kernel since 2.6.26 does.
    let r = unsafe {
        libc::syscall(
            libc::SYS_capset,
            &raw const header,
            (&raw const data).cast::<Half>(),
        )
    };
    if r < 0 {
        Err(failed("setting capabilities (capset)"))
    } else {
        Ok(())
    }
}

/// The permitted set of the calling thread. `capget(2)`.
///
/// # Errors
/// None that a kernel since 2.6.26 gives.
pub fn permitted() -> Result<CapabilitySet, CapabilityError> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut data = [Half::default(); 2];
    // SAFETY: version 3 writes two `Half`s, which is what `data` has room for.
    let r = unsafe {
        libc::syscall(
            libc::SYS_capget,
            &raw mut header,
            (&raw mut data).cast::<Half>(),
        )
    };
    if r < 0 {
        return Err(failed("reading capabilities (capget)"));
    }
    let [low, high] = data.map(|h| u64::from(h.permitted));
    Ok(CapabilitySet(low | high << 32))
}

/// Whether a change of user ids by root leaves the capabilities alone (`SECBIT_NO_SETUID_FIXUP`).
/// Needs CAP_SETPCAP. May run between fork and exec.
///
/// # Errors
/// EPERM without CAP_SETPCAP or when the bit is locked.
pub fn set_no_setuid_fixup(on: bool) -> Result<(), CapabilityError> {
    /// linux/securebits.h.
    const NO_SETUID_FIXUP: u64 = 1 << 2;
    let get = "reading the securebits (PR_GET_SECUREBITS)";
    let now = prctl(get, libc::PR_GET_SECUREBITS, 0, 0)?;
    let now = u64::from(now.unsigned_abs());
    let wanted = if on {
        now | NO_SETUID_FIXUP
    } else {
        now & !NO_SETUID_FIXUP
    };
    let what = "setting the securebits (PR_SET_SECUREBITS)";
    prctl(what, libc::PR_SET_SECUREBITS, wanted, 0).map(drop)
}

/// Whether the permitted set survives a change from root to other ids (`PR_SET_KEEPCAPS`); cleared
/// by exec. May run between fork and exec.
///
/// # Errors
/// EPERM when the bit is locked.
pub fn set_keep_caps(on: bool) -> Result<(), CapabilityError> {
    let what = "keeping capabilities over a change of ids (PR_SET_KEEPCAPS)";
    prctl(what, libc::PR_SET_KEEPCAPS, on.into(), 0).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, n) in [
            ("CAP_CHOWN", 0),
            ("sys_admin", 21),
            ("cap_checkpoint_restore", 40),
            ("CAP_55", 55),
        ] {
            assert_eq!(number(text), Ok(n), "{text}");
        }
        assert_eq!(name(21), "CAP_SYS_ADMIN");
        assert_eq!(number(&name(62)), Ok(62));
        let error = number("CAP_SYS_ADMN").unwrap_err().to_string();
        assert!(error.ends_with("did you mean CAP_SYS_ADMIN?"), "{error}");
        assert!(number("CAP_64").is_err());
    }

    #[test]
    fn sets_hold_what_was_put_in() {
        let set = CapabilitySet::from_names(["CHOWN", "CAP_BPF"]).unwrap();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 39]);
        assert_eq!(set.to_string(), "CAP_CHOWN CAP_BPF");
        assert_eq!(halves(set), [1, 1 << 7]);
        assert_eq!(CapabilitySet::all_to(40).iter().count(), 41);
        assert_eq!(CapabilitySet::all_to(63).iter().count(), 64);
    }

    #[test]
    fn the_last_capability_is_the_one_proc_names() {
        let text = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
        assert_eq!(last_cap().to_string(), text.trim());
    }
}
