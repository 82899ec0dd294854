//! What the host writes into a guest's own layer while the guest is stopped: before its first start
//! everything that makes it this guest, and before each start its names and addresses. Nothing of
//! the guest's is run. The texts of network files are next door in `network_files`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::dirfd::{FileError, Owner};
use super::image::Image;
use super::init_kind::InitKind;
use super::merged::Merged;
use super::network_files as text;
use super::ssh_keys::host_keys;
use crate::model::{GuestName, Layout, Prefix6, merge_hosts};

/// What makes a guest this guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirstBoot {
    /// Host name.
    pub hostname: String,
    /// Domain name, may be empty.
    pub domain: String,
    /// Its address on `eth0` with prefix length.
    pub address: Option<(Ipv4Addr, u8)>,
    /// Default route.
    pub gateway: Option<Ipv4Addr>,
    /// Its IPv6 address on `eth0` with prefix length.
    pub address6: Option<(Ipv6Addr, u8)>,
    /// Default route of IPv6.
    pub gateway6: Option<Ipv6Addr>,
    /// Its interfaces beyond `eth0`.
    pub nics: Vec<BootNic>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Other guests and what else `/etc/hosts` should know.
    pub hosts: Vec<(IpAddr, String)>,
    /// Public keys that may log in as root, one line each.
    pub ssh_keys: Vec<String>,
    /// crypt(5) hash of root's password; `None` locks it.
    pub root_password_hash: Option<String>,
    /// Fresh machine id, 32 hexadecimal digits; see machine-id(5).
    pub machine_id: String,
    /// Time zone such as `Europe/Berlin`, may be empty.
    pub timezone: String,
}

/// One of a guest's interfaces beyond `eth0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootNic {
    /// Its name inside.
    pub name: String,
    /// Its address with prefix length.
    pub address: (Ipv4Addr, u8),
    /// Its IPv6 address with prefix length.
    pub address6: Option<(Ipv6Addr, u8)>,
    /// Default route, if it leads over this one.
    pub gateway: Option<Ipv4Addr>,
    /// The same of IPv6.
    pub gateway6: Option<Ipv6Addr>,
    /// How it reaches its own network by IPv6, if not directly.
    pub route6: Option<(Prefix6, Ipv6Addr)>,
}

/// Data that cannot be written into a guest.
#[derive(Debug, thiserror::Error)]
pub enum FirstBootError {
    /// A value would break the file it goes into.
    #[error("{what} {value:?} cannot be written into guest {guest}: {rule}")]
    Invalid {
        /// Guest.
        guest: GuestName,
        /// Which value.
        what: &'static str,
        /// The value.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
    /// Host keys could not be made.
    #[error("cannot make SSH host keys for guest {guest}: {reason}")]
    Keys {
        /// Guest.
        guest: GuestName,
        /// Why.
        reason: String,
    },
    /// A step on a file failed. The guest's own tree may be the cause: `/etc` may be a file by now.
    #[error(transparent)]
    File(#[from] FileError),
}

const WORLD: Owner = Owner::root(0o644);

/// Writes everything a new guest needs into its own layer. Doing it again gives it a new identity.
///
/// # Errors
/// A value is malformed, a file cannot be written; the message names it.
pub fn first_boot(
    layout: &Layout,
    name: &GuestName,
    image: &Image,
    boot: &FirstBoot,
) -> Result<(), FirstBootError> {
    write_all(&Merged::open(layout, name, image)?, name, image, boot)
}

/// The same into a tree that is at hand.
pub(super) fn write_all(
    tree: &Merged,
    name: &GuestName,
    image: &Image,
    boot: &FirstBoot,
) -> Result<(), FirstBootError> {
    check(name, boot)?;
    hostname(tree, boot)?;
    hosts(tree, boot)?;
    network(tree, image, boot, true)?;
    identity(tree, boot)?;
    timezone(tree, boot)?;
    root_account(tree, boot)?;
    ssh(tree, name, boot)
}

/// Brings `/etc/hosts` up to date; lines of the guest's own stay.
///
/// # Errors
/// As for [`first_boot`].
pub fn update_hosts(
    layout: &Layout,
    name: &GuestName,
    image: &Image,
    boot: &FirstBoot,
) -> Result<(), FirstBootError> {
    check(name, boot)?;
    Ok(hosts(&Merged::open(layout, name, image)?, boot)?)
}

/// The program's block of a guest's `/etc/hosts`, for a guest that runs and is told from inside.
///
/// # Errors
/// As for [`first_boot`].
pub fn hosts_of(name: &GuestName, boot: &FirstBoot) -> Result<String, FirstBootError> {
    check(name, boot)?;
    Ok(text::hosts(boot))
}

/// Brings address and name server files up to date, those that the guest has not made its own: a
/// file is the program's as long as its first line says so.
///
/// # Errors
/// As for [`first_boot`].
pub fn update_network(
    layout: &Layout,
    name: &GuestName,
    image: &Image,
    boot: &FirstBoot,
) -> Result<(), FirstBootError> {
    check(name, boot)?;
    Ok(network(
        &Merged::open(layout, name, image)?,
        image,
        boot,
        false,
    )?)
}

/// What of a guest's files no longer says what its definition says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stale {
    /// `/etc/hostname`.
    pub hostname: bool,
    /// `/etc/localtime`.
    pub timezone: bool,
    /// The keys that may log in as root.
    pub ssh_keys: bool,
    /// Root's password.
    pub password: bool,
}

/// Writes again what has changed in the definition.
///
/// # Errors
/// As for [`first_boot`].
pub fn update_stale(
    layout: &Layout,
    name: &GuestName,
    image: &Image,
    boot: &FirstBoot,
    stale: Stale,
) -> Result<(), FirstBootError> {
    check(name, boot)?;
    let tree = Merged::open(layout, name, image)?;
    if stale.hostname {
        hostname(&tree, boot)?;
    }
    if stale.timezone {
        timezone(&tree, boot)?;
    }
    if stale.ssh_keys {
        authorized_keys(&tree, boot)?;
    }
    if stale.password {
        root_account(&tree, boot)?;
    }
    Ok(())
}

pub(super) fn hostname(tree: &Merged, boot: &FirstBoot) -> Result<(), FileError> {
    let line = format!("{}\n", boot.hostname);
    tree.write("etc/hostname", line.as_bytes(), WORLD)
}

pub(super) fn hosts(tree: &Merged, boot: &FirstBoot) -> Result<(), FileError> {
    let (old, owner) = tree.read("etc/hosts")?.unwrap_or((Vec::new(), WORLD));
    let new = merge_hosts(&String::from_utf8_lossy(&old), &text::hosts(boot));
    if new.as_bytes() == old {
        return Ok(());
    }
    tree.write("etc/hosts", new.as_bytes(), owner)
}

pub(super) fn network(
    tree: &Merged,
    image: &Image,
    boot: &FirstBoot,
    first: bool,
) -> Result<(), FileError> {
    let mut files = vec![("etc/resolv.conf".to_owned(), text::resolv_conf(boot))];
    let mut secret = Vec::new();
    if image.init == InitKind::Systemd || tree.is_dir("etc/systemd")? {
        files.push((
            "etc/systemd/network/10-bulkhead.network".to_owned(),
            text::networkd(boot),
        ));
        for nic in &boot.nics {
            files.push((nic_file(&nic.name), text::networkd_nic(nic)));
        }
    }
    if tree.is_dir("etc/network")? {
        files.push(("etc/network/interfaces".to_owned(), text::interfaces(boot)));
    }
    if tree.is_dir("etc/NetworkManager")? {
        secret.push((
            profile("eth0"),
            text::keyfile(&text::Wire::first(boot), Some(boot)),
        ));
        for nic in &boot.nics {
            secret.push((profile(&nic.name), text::keyfile(&nic.into(), None)));
        }
    }
    // NetworkManager reads no profile that others could read.
    let files = files.into_iter().map(|(path, new)| (path, new, WORLD));
    let secret = secret.into_iter();
    let secret = secret.map(|(path, new)| (path, new, Owner::root(0o600)));
    for (path, new, owner) in files.chain(secret) {
        let old = if first { None } else { tree.read(&path)? };
        let ours = old.as_ref().is_none_or(is_ours);
        if ours && old.is_none_or(|(data, _)| data != new.as_bytes()) {
            tree.write(&path, new.as_bytes(), owner)?;
        }
    }
    Ok(())
}

/// What NetworkManager reads of an interface.
fn profile(interface: &str) -> String {
    format!("etc/NetworkManager/system-connections/bulkhead-{interface}.nmconnection")
}

/// What systemd-networkd reads of an interface beyond `eth0`. Its name is a checked one.
fn nic_file(name: &str) -> String {
    format!("etc/systemd/network/10-bulkhead-{name}.network")
}

pub(super) fn is_ours((data, _): &(Vec<u8>, Owner)) -> bool {
    data.starts_with(text::HEADER.as_bytes())
}

/// Removes what was written of interfaces that a guest has no more, if the guest has not made it its own.
///
/// # Errors
/// A file cannot be removed; the message names it.
pub fn forget_nics(
    layout: &Layout,
    name: &GuestName,
    image: &Image,
    gone: &[String],
) -> Result<(), FirstBootError> {
    if gone.is_empty() {
        return Ok(());
    }
    let tree = Merged::open(layout, name, image)?;
    for nic in gone {
        for path in [nic_file(nic), profile(nic)] {
            if tree.read(&path)?.as_ref().is_some_and(is_ours) {
                tree.remove(&path)?;
            }
        }
    }
    Ok(())
}

pub(super) fn identity(tree: &Merged, boot: &FirstBoot) -> Result<(), FileError> {
    let line = format!("{}\n", boot.machine_id);
    tree.write("etc/machine-id", line.as_bytes(), Owner::root(0o444))?;
    if tree.is_dir("var/lib/dbus")? {
        tree.link("var/lib/dbus/machine-id", "/etc/machine-id")?;
    }
    Ok(())
}

fn timezone(tree: &Merged, boot: &FirstBoot) -> Result<(), FileError> {
    if boot.timezone.is_empty() {
        return Ok(());
    }
    let zone = format!("/usr/share/zoneinfo/{}", boot.timezone);
    tree.link("etc/localtime", &zone)?;
    tree.write(
        "etc/timezone",
        format!("{}\n", boot.timezone).as_bytes(),
        WORLD,
    )
}

/// Sets or locks root's password, and nothing else of the accounts.
fn root_account(tree: &Merged, boot: &FirstBoot) -> Result<(), FileError> {
    if let Some((passwd, owner)) = tree.read("etc/passwd")? {
        let new = set_field(&passwd, "x", None);
        if new != passwd {
            tree.write("etc/passwd", &new, owner)?;
        }
    }
    let hash = boot.root_password_hash.as_deref().unwrap_or("*");
    let missing = (Vec::new(), Owner::root(0o600));
    let (shadow, owner) = tree.read("etc/shadow")?.unwrap_or(missing);
    let fresh = format!("root:{hash}:19000:0:99999:7:::\n");
    tree.write("etc/shadow", &set_field(&shadow, hash, Some(&fresh)), owner)
}

/// Replaces the second field of root's line; without such a line, puts `fresh` in front.
pub(super) fn set_field(file: &[u8], value: &str, fresh: Option<&str>) -> Vec<u8> {
    let mut new = Vec::with_capacity(file.len() + value.len());
    let mut found = false;
    for line in file.split_inclusive(|b| *b == b'\n') {
        let rest = line
            .strip_prefix(b"root:")
            .and_then(|rest| Some(&rest[rest.iter().position(|b| *b == b':')?..]));
        match rest {
            Some(rest) => {
                found = true;
                new.extend_from_slice(b"root:");
                new.extend_from_slice(value.as_bytes());
                new.extend_from_slice(rest);
            }
            None => new.extend_from_slice(line),
        }
    }
    match fresh {
        Some(fresh) if !found => [fresh.as_bytes(), &new].concat(),
        _ => new,
    }
}

fn ssh(tree: &Merged, name: &GuestName, boot: &FirstBoot) -> Result<(), FirstBootError> {
    if tree.is_dir("etc/ssh")? {
        let keys = host_keys(&boot.hostname).map_err(|e| FirstBootError::Keys {
            guest: name.clone(),
            reason: e.to_string(),
        })?;
        for key in keys {
            let private = format!("etc/ssh/{}", key.file);
            tree.write(&private, key.private.as_bytes(), Owner::root(0o600))?;
            tree.write(&format!("{private}.pub"), key.public.as_bytes(), WORLD)?;
        }
    }
    if !boot.ssh_keys.is_empty() {
        authorized_keys(tree, boot)?;
    }
    Ok(())
}

fn authorized_keys(tree: &Merged, boot: &FirstBoot) -> Result<(), FileError> {
    tree.dir("root", 0o700)?;
    tree.dir("root/.ssh", 0o700)?;
    let keys = boot.ssh_keys.iter();
    let lines: String = keys.flat_map(|key| [key.trim(), "\n"]).collect();
    let path = "root/.ssh/authorized_keys";
    tree.write(path, lines.as_bytes(), Owner::root(0o600))
}

/// Refuses whatever could end a line or a field of the file it goes into.
pub(super) fn check(guest: &GuestName, boot: &FirstBoot) -> Result<(), FirstBootError> {
    let host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let test = |ok: bool, what, value: &str, rule| {
        if ok {
            return Ok(());
        }
        Err(FirstBootError::Invalid {
            guest: guest.clone(),
            what,
            value: value.chars().take(80).collect(),
            rule,
        })
    };
    let name_rule = "use letters, digits, '-' and '.', at most 253";
    let is_name = |s: &str| s.len() <= 253 && s.chars().all(host);
    let own = &boot.hostname;
    test(!own.is_empty() && is_name(own), "host name", own, name_rule)?;
    test(is_name(&boot.domain), "domain", &boot.domain, name_rule)?;
    for (_, names) in &boot.hosts {
        let ok = !names.is_empty() && names.split(' ').all(is_name);
        test(ok, "host name", names, name_rule)?;
    }
    for key in &boot.ssh_keys {
        let ok = !key.trim().is_empty() && !key.trim().chars().any(char::is_control);
        test(ok, "SSH key", key, "write each public key as one line")?;
    }
    let id = &boot.machine_id;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    // Needed at first boot only; an update may leave it out.
    let ok = id.is_empty() || (id.len() == 32 && id.bytes().all(hex));
    test(ok, "machine id", id, "32 of 0-9 and a-f")?;
    let zone = &boot.timezone;
    let parts = |p: &str| !p.is_empty() && p != ".." && p.chars().all(|c| host(c) || c == '+');
    let ok = zone.is_empty() || zone.split('/').all(parts);
    test(
        ok,
        "time zone",
        zone,
        "a name below /usr/share/zoneinfo, such as Europe/Berlin",
    )?;
    let hash = boot.root_password_hash.as_deref().unwrap_or("*");
    let ok = !hash.is_empty() && hash.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    // Not shown: it may be a password someone took for a hash.
    let rule = "a crypt(5) hash without ':', as mkpasswd or openssl passwd -6 make it";
    test(ok, "root password hash", "(not shown)", rule)
}

#[cfg(test)]
mod tests {
    use super::super::merged::tests::tree;
    use super::super::seed::tests::TempDir;
    use super::*;

    fn boot() -> FirstBoot {
        FirstBoot {
            hostname: "web".into(),
            machine_id: "0123456789abcdef0123456789abcdef".into(),
            ..FirstBoot::default()
        }
    }

    #[test]
    fn only_roots_line_changes() {
        let shadow = b"daemon:*:1:::::\nroot:old:19000:0:::::\nrooty:keep:1::\n";
        let new = set_field(shadow, "$6$x", Some("unused"));
        assert_eq!(
            String::from_utf8(new).unwrap(),
            "daemon:*:1:::::\nroot:$6$x:19000:0:::::\nrooty:keep:1::\n"
        );
        assert_eq!(
            set_field(b"a:b:\n", "*", Some("root:*:\n")),
            b"root:*:\na:b:\n"
        );
        assert_eq!(set_field(b"", "x", None), b"");
    }

    #[test]
    fn values_that_break_lines_are_refused() {
        let name: GuestName = "web".parse().unwrap();
        assert!(check(&name, &boot()).is_ok());
        let bad = [
            FirstBoot {
                hostname: "a\nb".into(),
                ..boot()
            },
            FirstBoot {
                hostname: String::new(),
                ..boot()
            },
            FirstBoot {
                domain: "x y".into(),
                ..boot()
            },
            FirstBoot {
                hosts: vec![([1, 1, 1, 1].into(), "a\n0.0.0.0 b".into())],
                ..boot()
            },
            FirstBoot {
                ssh_keys: vec!["ssh-ed25519 A\nssh-rsa B".into()],
                ..boot()
            },
            FirstBoot {
                machine_id: "zz".into(),
                ..boot()
            },
            FirstBoot {
                timezone: "../../etc/passwd".into(),
                ..boot()
            },
            FirstBoot {
                root_password_hash: Some("x:y".into()),
                ..boot()
            },
            FirstBoot {
                root_password_hash: Some(String::new()),
                ..boot()
            },
        ];
        for boot in bad {
            let error = check(&name, &boot).unwrap_err().to_string();
            assert!(error.contains("guest web"), "{error}");
        }
    }

    #[test]
    fn an_update_leaves_files_that_the_guest_made_its_own() {
        if !rustix::process::geteuid().is_root() {
            // Files of a guest belong to root.
            return;
        }
        let temp = TempDir::new("first-boot");
        let tree = tree(&temp);
        let mut boot = boot();
        boot.dns = vec!["10.0.0.1".parse().unwrap()];
        let image: Image = serde_json::from_value(serde_json::json!({
            "digest": "", "template": "", "options": {}, "kind": "tar", "init": "other", "command": [],
            "stop_signal": "", "size": 0, "files": 0, "created_ms": 0, "mounts": []
        }))
        .unwrap();
        network(&tree, &image, &boot, true).unwrap();
        boot.dns = vec!["10.0.0.2".parse().unwrap()];
        network(&tree, &image, &boot, false).unwrap();
        let read = || String::from_utf8(tree.read("etc/resolv.conf").unwrap().unwrap().0).unwrap();
        assert!(read().contains("10.0.0.2"));
        tree.write("etc/resolv.conf", b"nameserver 9.9.9.9\n", WORLD)
            .unwrap();
        network(&tree, &image, &boot, false).unwrap();
        assert_eq!(read(), "nameserver 9.9.9.9\n");
    }
}
