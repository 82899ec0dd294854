//! What single processes use at a moment, for whoever names the largest. How a process is called is
//! its own to choose: what cannot be shown is replaced.

use nix::unistd::{SysconfVar, sysconf};
use rustix::fs::{Mode, OFlags};

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessUse {
    /// Its number on the host.
    pub pid: i32,
    /// When it began, clock ticks since boot: another process with its number began later.
    pub start: u64,
    /// What it calls itself.
    pub name: String,
    /// CPU time of all its threads, clock ticks.
    pub ticks: u64,
    /// Threads.
    pub threads: u64,
    /// Bytes of memory that are present.
    pub memory: u64,
}

/// Clock ticks of a second.
#[must_use]
pub fn ticks_of_a_second() -> u64 {
    number(SysconfVar::CLK_TCK).unwrap_or(100)
}

fn number(of: SysconfVar) -> Option<u64> {
    u64::try_from(sysconf(of).ok()??).ok()
}

/// A process as it is now; `None` when it has gone.
#[must_use]
pub fn process_use(pid: i32) -> Option<ProcessUse> {
    let line = read(&format!("/proc/{pid}/stat"), 1024)?;
    of_line(pid, &line)
}

/// The number that a process has in the innermost namespace of processes it is in.
#[must_use]
pub fn number_inside(pid: i32) -> Option<u32> {
    // A process can be in 65,536 groups, and they come first.
    let text = read(&format!("/proc/{pid}/status"), 1 << 20)?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}

/// Bytes that a process has had written to disks, or that wait for it in the page cache; `None` when it
/// has gone.
#[must_use]
pub fn written_bytes(pid: i32) -> Option<u64> {
    let text = read(&format!("/proc/{pid}/io"), 1024)?;
    written(std::str::from_utf8(&text).ok()?)
}

fn written(text: &str) -> Option<u64> {
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u64>().ok()
    };
    // What it took back again, by truncating files, never got there.
    let back = of("cancelled_write_bytes:").unwrap_or(0);
    Some(of("write_bytes:")?.saturating_sub(back))
}

/// CPU time that this process has used.
#[must_use]
pub fn own_time() -> std::time::Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.try_into().unwrap_or_default()
}

fn read(path: &str, most: usize) -> Option<Vec<u8>> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let (mut all, mut page) = (Vec::new(), [0_u8; 4096]);
    while all.len() < most {
        match rustix::io::read(&file, &mut page).ok()? {
            0 => break,
            n => all.extend_from_slice(&page[..n]),
        }
    }
    Some(all)
}

fn page_size() -> u64 {
    number(SysconfVar::PAGE_SIZE).unwrap_or(4096)
}

fn of_line(pid: i32, line: &[u8]) -> Option<ProcessUse> {
    // The name is in parentheses and may hold parentheses.
    let (from, to) = (
        line.iter().position(|byte| *byte == b'(')?,
        line.iter().rposition(|byte| *byte == b')')?,
    );
    let name = String::from_utf8_lossy(line.get(from + 1..to)?);
    let fields = std::str::from_utf8(line.get(to + 2..)?).ok()?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // The first is field 3 of proc_pid_stat(5).
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(ProcessUse {
        pid,
        name: name
            .chars()
            .take(32)
            .map(|c| if c.is_control() { '?' } else { c })
            .collect(),
        ticks: field(14)? + field(15)?,
        threads: field(20)?,
        start: field(22)?,
        memory: field(24)?.saturating_mul(page_size()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_hold_anything_and_shows_nothing_strange() {
        let rest = "R 1 1 1 0 -1 0 0 0 0 0 30 12 0 0 20 0 7 0 99 4096 5 0";
        let line = [b"42 (a) b\x1b[2J\n\xff) ", rest.as_bytes()].concat();
        let found = of_line(42, &line).unwrap();
        assert_eq!(found.name, "a) b?[2J?\u{fffd}");
        assert_eq!((found.ticks, found.threads, found.start), (42, 7, 99));
        assert_eq!(found.memory, 5 * page_size());
        for bad in [&b""[..], b"1 (x", b"1 (x)", b"1 (x) R 1", b")("] {
            assert_eq!(of_line(1, bad), None);
        }
    }

    #[test]
    fn what_was_written_is_without_what_was_taken_back() {
        let text =
            "rchar: 9\nwchar: 8\nread_bytes: 7\nwrite_bytes: 6000\ncancelled_write_bytes: 1000\n";
        assert_eq!(written(text), Some(5000));
        assert_eq!(written("write_bytes: x\n"), None);
        let ours = i32::try_from(std::process::id()).unwrap();
        assert!(written_bytes(ours).is_some());
        assert_eq!(written_bytes(i32::MAX), None);
    }

    #[test]
    fn we_are_a_process_too() {
        let ours = std::process::id();
        let found = process_use(i32::try_from(ours).unwrap()).unwrap();
        assert!(found.memory > 0 && found.threads > 0 && found.start > 0);
        assert!(number_inside(found.pid).is_some());
        assert_eq!(process_use(i32::MAX), None);
    }
}
