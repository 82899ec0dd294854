//! Descriptors that the program before an exec left open for this one, by the number it told. What
//! a process opens itself never comes through here.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use rustix::io::Errno;

use super::error::{KernelError, Result};

/// Numbers that have an owner already.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Takes over an inherited descriptor and has it closed at the next exec (fcntl(2), F_GETFD and
/// F_SETFD). Standard input, output and error are not to be taken, and nothing twice.
///
/// To be called before this process opens anything: a number that is open then was inherited.
///
/// # Errors
/// The number is no open descriptor, or is taken already.
pub fn take(number: RawFd) -> Result<OwnedFd> {
    let failed = |errno| KernelError::new("take over", format!("descriptor {number}"), errno);
    let mut taken = TAKEN.lock().map_err(|_| failed(Errno::DEADLK))?;
    if number < 3 || taken.contains(&number) {
        return Err(failed(Errno::BADF).because("it is in use already"));
    }
    // SAFETY: F_GETFD takes no argument and only reads; any number may be asked about.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err(KernelError::last(
            "take over",
            format!("descriptor {number}"),
        ));
    }
    // SAFETY: F_SETFD takes an int by value and changes only a flag of an open descriptor.
    if unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) } < 0 {
        return Err(KernelError::last(
            "take over",
            format!("descriptor {number}"),
        ));
    }
    taken.insert(number);
    // SAFETY: the number is open, as just seen; it was inherited, so that nothing in this process
    // owns it, and `taken` keeps a second call from owning it again.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn an_open_number_is_taken_once_and_a_closed_one_never() {
        let given = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        let owned = take(given).unwrap();
        assert!(
            take(given)
                .unwrap_err()
                .to_string()
                .contains("in use already")
        );
        drop(owned);
        assert_eq!(take(9_999).unwrap_err().errno, Errno::BADF);
        assert!(take(1).is_err());
    }
}
