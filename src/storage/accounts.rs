//! Accounts of a fresh root that shares the host's `/usr`: system users and groups under the numbers
//! the host has for them, because files in `/usr` belong to those numbers, and never a person, a
//! password or a member. Pure text; reading and writing the files is `host`.

use std::collections::{BTreeMap, BTreeSet};

/// Where the parts come from, as text; what is missing is empty.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sources<'a> {
    /// base-passwd's `passwd.master`.
    pub(super) passwd_master: &'a str,
    /// base-passwd's `group.master`.
    pub(super) group_master: &'a str,
    /// All sysusers.d(5) files, one after another.
    pub(super) sysusers: &'a str,
    /// The host's `/etc/passwd`, for numbers.
    pub(super) host_passwd: &'a str,
    /// The host's `/etc/group`, for numbers.
    pub(super) host_group: &'a str,
}

/// The texts of the four files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Accounts {
    pub(super) passwd: String,
    pub(super) group: String,
    pub(super) shadow: String,
    pub(super) gshadow: String,
}

const PASSWD_MINIMAL: &str = "root:*:0:0:root:/root:/bin/sh\n\
    daemon:*:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
    nobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUP_MINIMAL: &str = "root:*:0:\ndaemon:*:1:\nadm:*:4:\ntty:*:5:\ndisk:*:6:\nmail:*:8:\n\
    shadow:*:42:\nutmp:*:43:\nstaff:*:50:\nusers:*:100:\nnogroup:*:65534:\n";
/// Daemons whose users package scripts make, not sysusers.d: name, home.
const DAEMONS: [(&str, &str); 2] = [("messagebus", "/nonexistent"), ("sshd", "/run/sshd")];

struct User {
    uid: u32,
    gid: u32,
    comment: String,
    home: String,
    shell: String,
}

/// Ids by name of a passwd or group file, those of the system only.
fn system_ids(text: &str) -> BTreeMap<&str, u32> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let id = fields.nth(1)?.parse().ok()?;
            (id < 1000 || id == 65_534).then_some((name, id))
        })
        .collect()
}

struct Book<'a> {
    users: BTreeMap<String, User>,
    groups: BTreeMap<String, u32>,
    host_users: BTreeMap<&'a str, u32>,
    host_groups: BTreeMap<&'a str, u32>,
}

impl Book<'_> {
    /// A free number from 999 downwards, unused by host and guest as user and as group.
    fn free(&self) -> u32 {
        let taken: BTreeSet<u32> = self
            .users
            .values()
            .map(|u| u.uid)
            .chain(self.groups.values().copied())
            .chain(self.host_users.values().copied())
            .chain(self.host_groups.values().copied())
            .collect();
        (100..1000)
            .rev()
            .find(|id| !taken.contains(id))
            .unwrap_or(65_534)
    }

    fn group(&mut self, name: &str, wanted: Option<u32>) -> u32 {
        if let Some(gid) = self.groups.get(name) {
            return *gid;
        }
        let known = self.host_groups.get(name).copied().or(wanted);
        let gid = known.unwrap_or_else(|| self.free());
        self.groups.insert(name.to_owned(), gid);
        gid
    }

    fn user(&mut self, name: &str, uid: Option<u32>, gid: Option<u32>, comment: &str, home: &str) {
        if self.users.contains_key(name) {
            return;
        }
        let gid = match gid {
            Some(gid) => gid,
            None => self.group(name, uid),
        };
        let known = self.host_users.get(name).copied().or(uid);
        let taken = |id| self.users.values().any(|u| u.uid == id);
        let uid = match known {
            Some(uid) => uid,
            None if !taken(gid) => gid,
            None => self.free(),
        };
        let user = User {
            uid,
            gid,
            comment: comment.to_owned(),
            home: home.to_owned(),
            shell: "/usr/sbin/nologin".into(),
        };
        self.users.insert(name.to_owned(), user);
    }

    fn sysusers_line(&mut self, line: &str) {
        let fields = words(line);
        let field = |n: usize| fields.get(n).map(String::as_str).filter(|f| *f != "-");
        let (Some(kind), Some(name)) = (field(0), field(1)) else {
            return;
        };
        if name.contains(':') || name.contains('%') {
            return;
        }
        let (first, second) = field(2)
            .map(|id| id.split_once(':').map_or((id, None), |(a, b)| (a, Some(b))))
            .unzip();
        let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n < 65_536);
        match kind.trim_end_matches('!') {
            "g" => {
                self.group(name, first.and_then(number));
            }
            "u" => {
                let gid = second
                    .flatten()
                    .and_then(|group| number(group).or_else(|| self.groups.get(group).copied()));
                let home = field(4).unwrap_or("/");
                let comment = field(3).unwrap_or("");
                self.user(name, first.and_then(number), gid, comment, home);
            }
            _ => {}
        }
    }
}

/// Words of a sysusers.d line: separated by blanks, quoted where they hold some.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    let mut begun = false;
    for c in line.trim().chars() {
        match c {
            '#' if !begun && words.is_empty() => return words,
            '"' => {
                quoted = !quoted;
                begun = true;
            }
            c if c.is_whitespace() && !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// Makes the four files.
pub(super) fn accounts(sources: Sources<'_>) -> Accounts {
    let or = |text: &'static str, given| if str::is_empty(given) { text } else { given };
    let passwd = or(PASSWD_MINIMAL, sources.passwd_master).to_owned();
    let group = or(GROUP_MINIMAL, sources.group_master).to_owned();
    let mut book = Book {
        users: BTreeMap::new(),
        groups: BTreeMap::new(),
        host_users: system_ids(sources.host_passwd),
        host_groups: system_ids(sources.host_group),
    };
    let groups = system_ids(&group);
    book.groups = groups
        .into_iter()
        .map(|(n, id)| (n.to_owned(), id))
        .collect();
    // Groups that files in /usr may belong to; without members they allow nothing.
    for (name, id) in book.host_groups.clone() {
        book.groups.entry(name.to_owned()).or_insert(id);
    }
    for line in passwd.lines() {
        if let [name, _, uid, gid, comment, home, shell] = line.split(':').collect::<Vec<_>>()[..]
            && let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse())
        {
            let user = User {
                uid,
                gid,
                comment: comment.to_owned(),
                home: home.to_owned(),
                shell: shell.to_owned(),
            };
            book.users.insert(name.to_owned(), user);
        }
    }
    for line in sources.sysusers.lines() {
        book.sysusers_line(line);
    }
    for (name, home) in DAEMONS {
        let gid = (name == "sshd").then_some(65_534);
        book.user(name, None, gid, "", home);
    }
    texts(&book)
}

fn texts(book: &Book<'_>) -> Accounts {
    let mut users: Vec<_> = book.users.iter().collect();
    users.sort_by_key(|(_, user)| user.uid);
    let mut groups: Vec<_> = book.groups.iter().collect();
    groups.sort_by_key(|(_, gid)| **gid);
    Accounts {
        passwd: users
            .iter()
            .map(|(name, u)| {
                let (uid, gid, comment) = (u.uid, u.gid, &u.comment);
                format!("{name}:x:{uid}:{gid}:{comment}:{}:{}\n", u.home, u.shell)
            })
            .collect(),
        shadow: users
            .iter()
            .map(|(name, _)| format!("{name}:*:19000:0:99999:7:::\n"))
            .collect(),
        group: groups
            .iter()
            .map(|(name, gid)| format!("{name}:x:{gid}:\n"))
            .collect(),
        gshadow: groups
            .iter()
            .map(|(name, _)| format!("{name}:*::\n"))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_hosts_and_people_stay_out() {
        let made = accounts(Sources {
            sysusers: "# c\ng systemd-journal - -\nu systemd-network - \"Network Manager\"\n\
                       u games 5:60 - /usr/games /bin/false\nm a b\nu evil:x - -\nr - 1-9\n",
            host_passwd: "root:x:0:0::/root:/bin/bash\nalice:x:1000:1000::/home/alice:/bin/sh\n\
                          systemd-network:x:998:998::/:/x\nmessagebus:x:103:102::/:/x\n",
            host_group: "_ssh:x:101:alice\nsystemd-network:x:998:\nalice:x:1000:\nmessagebus:x:102:\n",
            ..Sources::default()
        });
        assert!(
            made.passwd
                .contains("systemd-network:x:998:998:Network Manager:/:")
        );
        assert!(made.passwd.contains("messagebus:x:103:102::/nonexistent:"));
        assert!(made.passwd.contains(":65534::/run/sshd:"));
        assert!(
            made.passwd
                .contains("games:x:5:60::/usr/games:/usr/sbin/nologin\n")
        );
        assert!(made.group.contains("_ssh:x:101:\n"));
        assert!(
            made.group.contains("systemd-journal:x:999:\n"),
            "{}",
            made.group
        );
        for text in [&made.passwd, &made.group, &made.shadow, &made.gshadow] {
            assert!(!text.contains("alice") && !text.contains("evil"), "{text}");
        }
        assert!(
            made.shadow
                .lines()
                .all(|l| l.split(':').nth(1) == Some("*"))
        );
        let mut uids: Vec<&str> = made
            .passwd
            .lines()
            .filter_map(|l| l.split(':').nth(2))
            .collect();
        let all = uids.len();
        uids.sort_unstable();
        uids.dedup();
        assert_eq!(
            (uids.len(), made.shadow.lines().count()),
            (all, all),
            "no uid twice"
        );
    }
}
