//! Fault points: places where a test has the process killed, one between every two steps.
//!
//! `BULKHEAD_FAULT=host:7` kills the launching process as by SIGKILL before its step number 7
//! (counted from 0), `stage:` and `init:` the other two. Only in debug builds; a release build has
//! no such variable.

/// Dies here if the environment says so.
pub(super) fn point(process: &str, step: usize) {
    if cfg!(debug_assertions)
        && std::env::var("BULKHEAD_FAULT").is_ok_and(|at| at == format!("{process}:{step}"))
    {
        crate::kernel::process::kill_self();
    }
}
