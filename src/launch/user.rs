//! Users as the guest's own files name them. Read as data by a process that is already the guest's
//! root inside its namespaces: no library and no loader of the guest's runs with our rights.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::kernel::{Errno, KernelError, Result, tree};

/// Largest /etc/passwd or /etc/group read, bytes.
const LARGEST: usize = 1 << 20;

/// A user of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) home: PathBuf,
    pub(super) shell: String,
}

/// Looks a user up by name or number. Root needs no entry, nor does a bare number; for those a file
/// that cannot be read, as a hostile guest leaves it, is as good as none.
pub(super) fn look_up(root: &OwnedFd, wanted: &str) -> Result<User> {
    let number = wanted.parse::<u32>().is_ok();
    let read = |path: &str| -> Result<String> {
        match tree::read_file(root.as_fd(), Path::new(path), LARGEST) {
            Ok(data) => Ok(String::from_utf8_lossy(&data.unwrap_or_default()).into_owned()),
            Err(_) if number => Ok(String::new()),
            Err(error) => Err(error),
        }
    };
    find(wanted, &read("/etc/passwd")?, &read("/etc/group")?).ok_or_else(|| {
        KernelError::new("become", format!("user {wanted:?}"), Errno::NOENT)
            .because("the guest's /etc/passwd has no such entry; a number needs none")
    })
}

fn find(wanted: &str, passwd: &str, group: &str) -> Option<User> {
    let number = wanted.parse::<u32>().ok();
    let entry = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, shell] = fields[..] else {
            return None;
        };
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        (name == wanted || number == Some(uid)).then(|| User {
            name: name.to_owned(),
            uid,
            gid,
            groups: Vec::new(),
            home: if home.starts_with('/') {
                PathBuf::from(home)
            } else {
                PathBuf::from("/")
            },
            shell: if shell.is_empty() {
                "/bin/sh".into()
            } else {
                shell.to_owned()
            },
        })
    });
    let mut user = match (entry, number) {
        (Some(user), _) => user,
        (None, Some(0)) => User {
            name: "root".into(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            home: "/root".into(),
            shell: "/bin/sh".into(),
        },
        (None, Some(uid)) => User {
            name: uid.to_string(),
            uid,
            gid: 0,
            groups: Vec::new(),
            home: "/".into(),
            shell: "/bin/sh".into(),
        },
        (None, None) => return None,
    };
    user.groups = groups(&user.name, group);
    Some(user)
}

fn groups(name: &str, group: &str) -> Vec<u32> {
    group
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [_, _, gid, members] = fields[..] else {
                return None;
            };
            members
                .split(',')
                .any(|m| m == name)
                .then(|| gid.parse().ok())
                .flatten()
        })
        // More than the kernel takes (NGROUPS_MAX) is a file made to trip us.
        .take(65_536)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\nweb:x:33:34::/var/www:\nbad:x:y:1::/:\nshort:x\n";
    const GROUP: &str = "root:x:0:\nlog:x:4:web,root\nssl:x:9:web\n";

    #[test]
    fn by_name_and_number() {
        let web = find("web", PASSWD, GROUP).unwrap();
        assert_eq!(
            (web.uid, web.gid, web.groups.as_slice()),
            (33, 34, &[4, 9][..])
        );
        assert_eq!(web.shell, "/bin/sh");
        assert_eq!(find("33", PASSWD, GROUP), Some(web));
        assert_eq!(find("1000", PASSWD, GROUP).unwrap().uid, 1000);
        assert_eq!(find("0", "", "").unwrap().home, Path::new("/root"));
    }

    #[test]
    fn a_broken_entry_is_no_user() {
        for wanted in ["bad", "short", "nobody", "", "-1", "99999999999"] {
            assert_eq!(find(wanted, PASSWD, GROUP), None, "{wanted}");
        }
    }
}
