//! What all installations of a host share under systemd: the slice above their services. What is
//! written there is put together from what is in it, and the locks of an installation keep no other
//! away, so whoever does that, or compares the two, holds one lock of the host's.

use std::path::Path;
use std::time::Duration;

use super::{CgroupError, Parent, Result, service};
use crate::kernel::file::Lock;

/// It goes with the slice's last service.
const LOCK: &str = "/run/bulkhead.slice.lock";
/// How long somebody else's change is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The right to change what is above all installations' services.
#[derive(Debug)]
pub struct SliceLock {
    _held: Lock,
}

impl Parent {
    /// Takes that right; `None` where nothing above is shared.
    ///
    /// # Errors
    /// Somebody else has it for a whole minute, or its file cannot be opened.
    pub fn alone_above(&self) -> Result<Option<SliceLock>> {
        service::unit_at(self.v2.path())
            .map(|_| take(Path::new(LOCK), PATIENCE))
            .transpose()
    }
}

/// Does something that only the end of the slice's last service asks for, and lets the lock go with
/// it. While somebody else is at work there is no such end.
pub(super) fn at_the_end(act: impl FnOnce() -> bool) {
    let path = Path::new(LOCK);
    if let Ok(_held) = take(path, Duration::ZERO)
        && act()
    {
        // Whoever waits for it takes a new one.
        let _gone = std::fs::remove_file(path);
    }
}

fn take(path: &Path, limit: Duration) -> Result<SliceLock> {
    let failed = |said: String| CgroupError::Service {
        unit: service::SLICE.to_owned(),
        said,
    };
    let held = Lock::take(path, limit).map_err(|e| failed(e.to_string()))?;
    let held = held.ok_or_else(|| {
        failed(format!(
            "other commands change what it has, and the time to wait for {} is up; try again",
            path.display()
        ))
    })?;
    Ok(SliceLock { _held: held })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let path = std::env::temp_dir().join(format!("bulkhead-slice-{}", std::process::id()));
        let held = take(&path, Duration::ZERO).unwrap();
        let refused = take(&path, Duration::from_millis(3))
            .unwrap_err()
            .to_string();
        assert!(refused.contains("bulkhead.slice"), "{refused}");
        assert!(refused.contains("time to wait"), "{refused}");
        // Its file may go while it is held.
        std::fs::remove_file(&path).unwrap();
        let next = take(&path, Duration::ZERO).unwrap();
        drop(held);
        assert!(take(&path, Duration::ZERO).is_err());
        drop(next);
        take(&path, Duration::ZERO).unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
