//! How long each step takes, for whoever asks.
//!
//! With `BULKHEAD_TIMINGS=FILE` in the environment every process of a launch appends a line a step:
//! process, step, when it began (microseconds of the wall clock, the only one that all namespaces
//! share) and how long it took, separated by tabs. Unasked it costs one look at a pointer.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Opened once, by the first process; those it makes have it from there.
static FILE: OnceLock<Option<File>> = OnceLock::new();

fn file() -> Option<&'static File> {
    let open = || {
        let path = std::env::var_os("BULKHEAD_TIMINGS")?;
        let mut options = File::options();
        options.append(true).create(true).mode(0o600);
        // Timings that cannot be kept are not worth a failed launch.
        options.open(path).ok()
    };
    FILE.get_or_init(open).as_ref()
}

/// Does `act`, and writes down how long it took if somebody wants to know.
pub fn timed<T>(process: &str, step: impl FnOnce() -> String, act: impl FnOnce() -> T) -> T {
    let Some(file) = file() else {
        return act();
    };
    let step = step();
    let (at, began) = (SystemTime::now(), Instant::now());
    let done = act();
    write(file, process, &step, at, began.elapsed());
    done
}

/// Writes down a moment, such as the last before an execve(2), which does not come back.
pub fn moment(process: &str, step: &str) {
    if let Some(file) = file() {
        write(file, process, step, SystemTime::now(), Duration::ZERO);
    }
}

fn write(mut file: &File, process: &str, step: &str, at: SystemTime, took: Duration) {
    let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let line = format!(
        "{process}\t{step}\t{}\t{:.1}\n",
        at.as_micros(),
        took.as_secs_f64() * 1e6
    );
    // One write of one line: those of several processes never mix.
    let _lost = file.write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_four_fields() {
        let path = std::env::temp_dir().join(format!("bulkhead-timing-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        let took = Duration::from_micros(1500);
        write(&file, "host", "make-cgroup", UNIX_EPOCH + took, took);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text, "host\tmake-cgroup\t1500\t1500.0\n");
    }
}
