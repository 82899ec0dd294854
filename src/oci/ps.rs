//! `ps`: the processes of a container, by number or as ps(1) shows them.

use std::io::Write as _;
use std::process::Command;

use super::args::{Format, Ps};
use super::error::{OciError, Result};
use super::store::Store;
use crate::kernel::cgroup::{Cgroups, Host};

/// Prints them.
pub(super) fn ps(store: &Store, args: &Ps) -> Result<u8> {
    let (id, options) = match &*args.words {
        [id, options @ ..] => (id.as_str(), options),
        [] => ("", &[][..]),
    };
    let folder = store.find(id)?;
    let record = folder.made()?;
    let host = Host::quick()?;
    let place = record.cgroup.as_ref().ok_or(OciError::NotRunning)?;
    let pids = Cgroups::open(&host, place)?.pids(true)?;
    let mut out = std::io::stdout().lock();
    match args.format {
        Format::Json => {
            writeln!(out, "{}", serde_json::json!(pids))?;
        }
        Format::Table => {
            let usual = ["-ef".to_owned()];
            let options = if options.is_empty() {
                &usual[..]
            } else {
                options
            };
            let text = run_ps(options)?;
            out.write_all(only(&text, &pids)?.as_bytes())?;
        }
    }
    Ok(0)
}

fn run_ps(options: &[String]) -> Result<String> {
    let failed = |why: String| OciError::Usage {
        what: format!("ps {}", options.join(" ")),
        why,
    };
    let output = Command::new("ps").args(options).output();
    let output = output.map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The head, and the lines of these processes.
fn only(text: &str, pids: &[i32]) -> Result<String> {
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let column = head.split_whitespace().position(|word| word == "PID");
    let column = column.ok_or_else(|| OciError::Usage {
        what: "ps".into(),
        why: "its output has no column PID".into(),
    })?;
    let ours = lines.filter(|line| {
        let pid = line.split_whitespace().nth(column);
        pid.and_then(|p| p.parse().ok())
            .is_some_and(|pid| pids.contains(&pid))
    });
    let mut all = format!("{head}\n");
    for line in ours {
        all += line;
        all.push('\n');
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_lines_are_left() {
        let text = "UID PID CMD\nroot 1 init\nroot 20 sh\nroot 3 1 20\n";
        assert_eq!(
            only(text, &[20, 3]).unwrap(),
            "UID PID CMD\nroot 20 sh\nroot 3 1 20\n"
        );
        assert!(only("USER CMD\n", &[1]).is_err());
    }
}
