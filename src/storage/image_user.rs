//! Who runs an image's program: the `user` of its configuration, looked up in the account files of
//! the guest's own tree. These are a stranger's: read up to a bound, a broken line is passed over.

use super::dirfd::FileError;
use super::image::Image;
use super::merged::Merged;
use crate::model::{GuestName, ID_BLOCK, Layout};

/// Groups of one user that are kept.
const GROUPS_MOST: usize = 256;

/// What a guest's first program runs as, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunAs {
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Working folder; empty for `/`.
    pub directory: String,
    /// Home folder, if the account is known.
    pub home: Option<String>,
}

/// An account that there is not.
#[derive(Debug, thiserror::Error)]
pub enum RunAsError {
    /// It is not in the guest's account files.
    #[error(
        "the image runs its program as {user:?}, and {file} of guest {guest} has no such entry: \
         add it, or set init.command"
    )]
    Unknown {
        /// Guest.
        guest: GuestName,
        /// As the image writes it.
        user: String,
        /// Where it was looked for.
        file: &'static str,
    },
    /// The account files cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What the image's own program runs as in this guest.
///
/// # Errors
/// The user or group is not in the guest's account files, or these cannot be read.
pub fn run_as(layout: &Layout, guest: &GuestName, image: &Image) -> Result<RunAs, RunAsError> {
    let Some(config) = &image.config else {
        return Ok(RunAs::default());
    };
    let directory = config.directory.clone();
    if matches!(
        config.user.as_str(),
        "" | "0" | "0:0" | "root" | "root:root"
    ) {
        return Ok(RunAs {
            directory,
            ..RunAs::default()
        });
    }
    let tree = Merged::open(layout, guest, image)?;
    let text = |path| -> Result<String, FileError> {
        let found = tree.read(path)?;
        Ok(found.map_or_else(String::new, |(data, _)| {
            String::from_utf8_lossy(&data).into_owned()
        }))
    };
    let (users, groups) = (text("etc/passwd")?, text("etc/group")?);
    let found = look_up(&config.user, &users, &groups).map_err(|file| RunAsError::Unknown {
        guest: guest.clone(),
        user: config.user.chars().take(80).collect(),
        file,
    })?;
    Ok(RunAs { directory, ..found })
}

/// Looks an account up; the error is the file that lacks it.
fn look_up(wanted: &str, users: &str, groups: &str) -> Result<RunAs, &'static str> {
    let (user, group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    let number = |text: &str| text.parse::<u32>().ok().filter(|id| *id < ID_BLOCK);
    let line = users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>());
    let account = line
        .filter(|fields| fields.len() >= 6)
        .find(|fields| fields[0] == user || (number(user).is_some() && fields[2] == user));
    let id = |fields: &Vec<&str>, at: usize| number(fields[at]);
    let (uid, mut gid) = match &account {
        Some(fields) => (id(fields, 2), id(fields, 3)),
        None => (number(user), Some(0)),
    };
    let uid = uid.ok_or("/etc/passwd")?;
    let entries: Vec<Vec<&str>> = groups
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(|fields| fields.len() >= 4)
        .collect();
    let mut further = Vec::new();
    if let Some(group) = group {
        let named = entries.iter().find(|fields| fields[0] == group);
        gid = named.map_or_else(|| number(group), |fields| number(fields[2]));
    } else if let Some(name) = account.as_ref().map(|fields| fields[0]) {
        let member = |fields: &&Vec<&str>| fields[3].split(',').any(|one| one == name);
        further = entries
            .iter()
            .filter(member)
            .filter_map(|fields| number(fields[2]))
            .take(GROUPS_MOST)
            .collect();
    }
    let home = account.map(|fields| fields[5].to_owned());
    Ok(RunAs {
        uid,
        gid: gid.ok_or("/etc/group")?,
        groups: further,
        directory: String::new(),
        home: home.filter(|home| home.starts_with('/') && !home.contains('\0')),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const USERS: &str = "root:x:0:0::/root:/bin/sh\nbroken\nweb:x:101:102::/srv:/bin/false\n";
    const GROUPS: &str = "root:x:0:\nlog:x:7:web,x\nweb:x:102:\nbig:x:99999999:web\n";

    #[test]
    fn users_are_looked_up_as_docker_does() {
        let found =
            |text: &str| look_up(text, USERS, GROUPS).map(|r| (r.uid, r.gid, r.groups, r.home));
        let home = Some("/srv".to_owned());
        assert_eq!(found("web"), Ok((101, 102, vec![7], home.clone())));
        assert_eq!(found("101"), Ok((101, 102, vec![7], home.clone())));
        assert_eq!(found("web:log"), Ok((101, 7, vec![], home.clone())));
        assert_eq!(found("web:9"), Ok((101, 9, vec![], home)));
        assert_eq!(found("1000"), Ok((1000, 0, vec![], None)));
        assert_eq!(found("nobody"), Err("/etc/passwd"));
        assert_eq!(found("web:none"), Err("/etc/group"));
        assert_eq!(found("70000"), Err("/etc/passwd"));
    }

    proptest! {
        #[test]
        fn any_account_files_are_answered(user in ".{0,20}", users in ".{0,200}", groups in ".{0,200}") {
            if let Ok(found) = look_up(&user, &users, &groups) {
                prop_assert!(found.uid < ID_BLOCK && found.gid < ID_BLOCK);
            }
        }
    }
}
