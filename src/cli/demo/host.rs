//! What the host says of itself in /proc, for those parts that compare a guest's numbers with it.

use super::{Result, Stop};

/// CPU time that all CPUs together were busy or taken away by a hypervisor, microseconds since
/// boot, from the first line of /proc/stat (proc_stat(5)); its unit is 1/100 s.
pub(super) fn busy_us() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/stat")
        .map_err(|error| Stop::Failed(format!("cannot read /proc/stat: {error}")))?;
    busy_ticks(&text)
        .map(|ticks| ticks * 10_000)
        .ok_or_else(|| Stop::Failed("/proc/stat does not begin with the CPUs".to_owned()))
}

fn busy_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = fields
        .split_whitespace()
        .map_while(|f| f.parse().ok())
        .collect();
    // user nice system IDLE IOWAIT irq softirq steal; guest time is in user already.
    let of = |columns: &[usize]| columns.iter().filter_map(|&n| ticks.get(n)).sum();
    (ticks.len() >= 4).then(|| of(&[0, 1, 2, 5, 6, 7]))
}

/// Bytes the host can still give out: MemAvailable of /proc/meminfo; 0 if it does not say.
pub(super) fn available() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    number_after(&text, "MemAvailable:").map_or(0, |kib| kib << 10)
}

/// Processes that this machine ever killed for want of memory, those in guests included.
pub(super) fn kills() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    number_after(&text, "oom_kill ").unwrap_or(0)
}

/// The number in the line that begins with `key`.
fn number_after(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The parent of a process; for a guest's first process, its keeper.
pub(super) fn parent_of(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    number_after(&status, "PPid:")
}

/// Bytes that a process has for itself alone, from /proc/PID/smaps_rollup (Linux 4.14).
pub(super) fn private_memory(pid: u64) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let of = |key| number_after(&text, key);
    Some((of("Private_Clean:")? + of("Private_Dirty:")?) << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_line() {
        let text = "MemFree:     1 kB\nMemAvailable:   42 kB\n";
        assert_eq!(number_after(text, "MemAvailable:"), Some(42));
        assert_eq!(
            number_after("oom_kill_x 3\noom_kill 7\n", "oom_kill "),
            Some(7)
        );
        assert_eq!(number_after(text, "Swap:"), None);
    }

    #[test]
    fn idle_time_is_not_busy() {
        let stat = "cpu  1 2 3 1000 2000 4 5 6 7 8\ncpu0 1 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(21));
        assert_eq!(busy_ticks("cpu  1 2 3 4\n"), Some(6));
        assert_eq!(busy_ticks("intr 1\n"), None);
    }
}
