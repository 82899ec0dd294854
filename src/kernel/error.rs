//! The one error of this room: what was tried, on what, and what the kernel said.

use std::fmt;

use rustix::io::Errno;

/// A refused kernel operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelError {
    /// What was tried, such as `mount`.
    pub verb: &'static str,
    /// What it was tried on.
    pub object: String,
    /// What the kernel answered.
    pub errno: Errno,
    /// What the kernel wrote besides, or what the number means in this place.
    pub detail: Option<String>,
}

impl KernelError {
    /// An error without further detail.
    pub fn new(verb: &'static str, object: impl fmt::Display, errno: Errno) -> Self {
        Self {
            verb,
            object: object.to_string(),
            errno,
            detail: None,
        }
    }

    /// The same error with what the number means here.
    #[must_use]
    pub fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Whether the disk (or its quota) is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self.errno, Errno::NOSPC | Errno::DQUOT)
    }

    /// The error of the last libc call.
    pub fn last(verb: &'static str, object: impl fmt::Display) -> Self {
        let code = std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO);
        Self::new(verb, object, Errno::from_raw_os_error(code))
    }

    /// For `map_err` on rustix calls.
    pub fn on<D: fmt::Display>(verb: &'static str, object: D) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::new(verb, object, errno)
    }

    /// For `map_err` on nix calls.
    pub fn nix<D: fmt::Display>(
        verb: &'static str,
        object: D,
    ) -> impl FnOnce(nix::errno::Errno) -> Self {
        move |errno| Self::new(verb, object, Errno::from_raw_os_error(errno as i32))
    }

    /// For `map_err` on std calls.
    pub fn io<D: fmt::Display>(
        verb: &'static str,
        object: D,
    ) -> impl FnOnce(std::io::Error) -> Self {
        move |error| {
            let errno = Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO));
            Self::new(verb, object, errno)
        }
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = std::io::Error::from(self.errno);
        write!(f, "cannot {} {}: {cause}", self.verb, self.object)?;
        match &self.detail {
            Some(detail) => write!(f, " ({detail})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for KernelError {}

/// Result of this room.
pub type Result<T> = std::result::Result<T, KernelError>;
