//! What ps(1) shows of this process (proc_pid_cmdline(5)).

use std::os::unix::fs::FileExt;

/// Puts other words where ps reads the program and its arguments, as many bytes of them as there is
/// room: for a process that goes on as another without executing. Nothing may look at the arguments
/// after it.
///
/// # Errors
/// The kernel does not tell where they lie, or the memory may not be written.
pub fn retitle(words: &str) -> std::io::Result<()> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Fields 48 and 49; the second is the command in parentheses and may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = fields.split_whitespace().skip(45);
    let mut next = || fields.next()?.parse::<u64>().ok();
    let (Some(start), Some(end)) = (next(), next()) else {
        return Err(std::io::ErrorKind::InvalidData.into());
    };
    let room = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
    let mut text = words.as_bytes().to_vec();
    text.resize(room, 0);
    if let Some(last) = text.last_mut() {
        // One that is not zero makes the kernel look for more behind the arguments.
        *last = 0;
    }
    let memory = std::fs::File::options()
        .write(true)
        .open("/proc/self/mem")?;
    memory.write_all_at(&text, start)
}
