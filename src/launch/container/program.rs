//! The program a container runs: where it is, what its environment lacks, and the words in which
//! clients look for what is wrong with it.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, FileType};

use crate::kernel::{Errno, KernelError, tree};

/// A program that cannot be run. Podman and containerd look for these words.
#[derive(Debug, thiserror::Error)]
#[error("exec: {program:?}: {why}")]
pub(super) struct CannotRun {
    program: String,
    why: String,
}

/// Largest /etc/passwd read, bytes.
const LARGEST: usize = 1 << 20;

fn words(errno: Errno) -> String {
    match errno {
        Errno::NOENT => "no such file or directory".into(),
        Errno::ACCESS => "permission denied".into(),
        Errno::NOEXEC => "exec format error".into(),
        Errno::ISDIR => "is a directory".into(),
        other => std::io::Error::from(other).to_string(),
    }
}

/// What the kernel said about executing `program`, which is there: it may be its interpreter that is
/// missing. runc has no colon in this one.
pub(super) fn cannot_run(program: &str, errno: Errno) -> String {
    format!("exec {program}: {}", words(errno))
}

/// The path of `program`, looked for in the environment's PATH if it has no slash. Seen from
/// inside the container, with root's eyes.
pub(super) fn find(program: &str, environment: &[String]) -> Result<CString, CannotRun> {
    let refuse = |why: String| CannotRun {
        program: program.to_owned(),
        why,
    };
    if program.contains('/') {
        return can_run(Path::new(program)).map_err(|errno| refuse(words(errno)));
    }
    let path = environment
        .iter()
        .find_map(|line| line.strip_prefix("PATH="));
    let mut told = None;
    for folder in path.unwrap_or_default().split(':') {
        // As execvp(3): an empty one is the working folder.
        let folder = if folder.is_empty() { "." } else { folder };
        match can_run(&Path::new(folder).join(program)) {
            Ok(found) => return Ok(found),
            Err(Errno::ACCESS) => told = Some(Errno::ACCESS),
            Err(_) => {}
        }
    }
    Err(match told {
        Some(errno) => refuse(words(errno)),
        None => refuse("executable file not found in $PATH".into()),
    })
}

fn can_run(path: &Path) -> Result<CString, Errno> {
    let stat = rustix::fs::stat(path)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ACCESS);
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::empty())?;
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)
}

/// The environment: each name once, the last one counts, and a HOME from the container's
/// /etc/passwd if it has none.
pub(super) fn with_home(root: BorrowedFd<'_>, environment: &[String], uid: u32) -> Vec<String> {
    let mut all = each_once(environment);
    if all
        .iter()
        .any(|line| line.starts_with("HOME=") && line.len() > 5)
    {
        return all;
    }
    all.retain(|line| line != "HOME=");
    // A hostile or missing file is as good as none.
    let file = tree::read_file(root, Path::new("/etc/passwd"), LARGEST);
    let text = file.ok().flatten().unwrap_or_default();
    let home = home_of(&String::from_utf8_lossy(&text), uid);
    all.push(format!("HOME={}", home.unwrap_or_else(|| "/".into())));
    all
}

fn each_once(environment: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut last = Vec::new();
    for line in environment.iter().rev() {
        if seen.insert(line.split('=').next().unwrap_or_default()) {
            last.push(line);
        }
    }
    last.into_iter().rev().cloned().collect()
}

fn home_of(passwd: &str, uid: u32) -> Option<String> {
    let number = uid.to_string();
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let home = fields.get(5)?;
        (fields.get(2) == Some(&number.as_str()) && home.starts_with('/'))
            .then(|| (*home).to_owned())
    })
}

/// Where the process really is, is asked after every change of folder: a path that led out of the
/// container is not below its root (CVE-2024-21626).
pub(in crate::launch) fn stay_inside() -> Result<(), KernelError> {
    let here = rustix::process::getcwd(Vec::new());
    let here = here.map_err(KernelError::on("look at", "the working folder"))?;
    if here.to_bytes().starts_with(b"/") {
        return Ok(());
    }
    Err(KernelError::new(
        "change to",
        "a folder outside of the container",
        Errno::PERM,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_find_the_words_they_look_for() {
        let path = ["PATH=/nowhere:/usr/bin:/bin".to_owned()];
        assert!(find("sh", &path).is_ok());
        let said = |program: &str| find(program, &path).unwrap_err().to_string();
        assert!(said("no-such").ends_with("executable file not found in $PATH"));
        assert!(said("/no/such").ends_with("no such file or directory"));
        assert!(said("/etc/passwd").ends_with("permission denied"));
        assert!(said("/etc").ends_with("permission denied"));
    }

    #[test]
    fn of_a_name_that_is_there_twice_the_last_counts() {
        let lines = |text: &[&str]| text.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
        let given = lines(&["A=1", "B=2", "A=3", "HOME=/x", "HOME="]);
        assert_eq!(each_once(&given), lines(&["B=2", "A=3", "HOME="]));
    }

    #[test]
    fn a_home_is_that_of_the_user() {
        let text = "root:x:0:0:r:/root:/bin/sh\nweb:x:33:33::/var/www:\nbad:x:9\nodd:x:5:5::x:\n";
        assert_eq!(home_of(text, 33).as_deref(), Some("/var/www"));
        assert_eq!(home_of(text, 5), None);
        assert_eq!(home_of(text, 1), None);
    }
}
