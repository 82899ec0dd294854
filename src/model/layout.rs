//! Where everything lies below one prefix, and the names kernel objects get from it.

use std::path::{Path, PathBuf};

use super::{GuestName, NetworkName, TenantName};

/// The folders and kernel object names of one installation. `--root DIR` moves all of it, so that
/// two installations on one machine never meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
    tag: String,
    images: Option<PathBuf>,
}

impl Layout {
    /// The layout below `root`; `/` for the system's own. Relative paths must be made absolute by
    /// the caller, who knows the working directory.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        let tag = if root == Path::new("/") {
            String::new()
        } else {
            tag_of(&[root.as_os_str().as_encoded_bytes()])
        };
        Self {
            root: root.to_owned(),
            tag,
            images: None,
        }
    }

    /// The same with images elsewhere; `None` leaves them where they are.
    #[must_use]
    pub fn with_images(mut self, folder: Option<PathBuf>) -> Self {
        self.images = folder.or(self.images);
        self
    }

    /// The prefix itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Empty for the system's own installation, else eight hexadecimal digits of its prefix.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// `bulkhead`, or `bulkhead-TAG`: the name of the cgroup parent and of the nftables table.
    #[must_use]
    pub fn kernel_name(&self) -> String {
        if self.tag.is_empty() {
            "bulkhead".into()
        } else {
            format!("bulkhead-{}", self.tag)
        }
    }

    /// Host settings: `/etc/bulkhead`.
    #[must_use]
    pub fn etc(&self) -> PathBuf {
        self.root.join("etc/bulkhead")
    }

    /// What a reboot must not forget: `/var/lib/bulkhead`.
    #[must_use]
    pub fn var(&self) -> PathBuf {
        self.root.join("var/lib/bulkhead")
    }

    /// What a reboot may forget: `/run/bulkhead`.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.root.join("run/bulkhead")
    }

    /// Compiled seccomp programs and host facts: `/var/cache/bulkhead`.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.root.join("var/cache/bulkhead")
    }

    /// Built images, by digest: `/var/lib/bulkhead/images`, or where the settings want them.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        let usual = || self.var().join("images");
        self.images.clone().unwrap_or_else(usual)
    }

    /// Records of the pools, and what lies in those that have no folder of their own elsewhere.
    #[must_use]
    pub fn pools(&self) -> PathBuf {
        self.var().join("pools")
    }

    /// Records of the networks that somebody made, each with a folder beside it for its leases.
    #[must_use]
    pub fn networks(&self) -> PathBuf {
        self.var().join("networks")
    }

    /// Records of the tenants.
    #[must_use]
    pub fn tenants(&self) -> PathBuf {
        self.var().join("tenants")
    }

    /// Records of the goals.
    #[must_use]
    pub fn goals(&self) -> PathBuf {
        self.var().join("goals")
    }

    /// A tenant's record.
    #[must_use]
    pub fn tenant(&self, name: &TenantName) -> PathBuf {
        self.tenants().join(format!("{name}.json"))
    }

    /// A tenant's lock file (flock).
    #[must_use]
    pub fn tenant_lock(&self, name: &TenantName) -> PathBuf {
        self.run().join("tenants").join(name.as_str())
    }

    /// The interface over which is led what comes to all guests of a tenant, or from them: eleven bytes
    /// for the system's installation, fifteen for any other, so that they never meet.
    #[must_use]
    pub fn tenant_trunk(&self, name: &TenantName, incoming: bool) -> String {
        let tag = tag_of(&[
            self.root.as_os_str().as_encoded_bytes(),
            b"\0tenant\0",
            name.as_str().as_bytes(),
        ]);
        let short = match self.tag.is_empty() {
            true => &tag,
            false => &tag[..4],
        };
        let way = if incoming { 'i' } else { 'o' };
        format!("bt{}{short}{way}", self.tag)
    }

    /// Eight hexadecimal digits that interfaces of a network that somebody made have in their names.
    #[must_use]
    pub fn network_tag(&self, name: &NetworkName) -> String {
        tag_of(&[
            self.root.as_os_str().as_encoded_bytes(),
            b"\0",
            name.as_str().as_bytes(),
        ])
    }

    /// The name of such a network's nftables tables: no other installation has a point in its own.
    #[must_use]
    pub fn network_table(&self, name: &NetworkName) -> String {
        format!("{}.{name}", self.kernel_name())
    }

    /// All guests' folders.
    #[must_use]
    pub fn guests(&self) -> PathBuf {
        self.var().join("guests")
    }

    /// One guest's folder: `guest.toml`, `root`.
    #[must_use]
    pub fn guest(&self, name: &GuestName) -> PathBuf {
        self.guests().join(name.as_str())
    }

    /// One guest's running state.
    #[must_use]
    pub fn guest_run(&self, name: &GuestName) -> PathBuf {
        self.run().join("guests").join(name.as_str())
    }

    /// One guest's lock file (flock).
    #[must_use]
    pub fn lock(&self, name: &GuestName) -> PathBuf {
        self.run().join("locks").join(name.as_str())
    }
}

/// FNV-1a: stable over versions and machines, unlike std's hasher.
fn tag_of(parts: &[&[u8]]) -> String {
    let bytes = parts.iter().flat_map(|part| part.iter());
    let hash = bytes.fold(0x811c_9dc5_u32, |h, b| {
        (h ^ u32::from(*b)).wrapping_mul(0x0100_0193)
    });
    format!("{hash:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_installations_never_meet() {
        let (system, test) = (
            Layout::new(Path::new("/")),
            Layout::new(Path::new("/tmp/x")),
        );
        assert_eq!(system.kernel_name(), "bulkhead");
        assert_eq!(system.var(), Path::new("/var/lib/bulkhead"));
        assert_ne!(
            test.kernel_name(),
            Layout::new(Path::new("/tmp/y")).kernel_name()
        );
        assert!(test.run().starts_with("/tmp/x"));
    }

    #[test]
    fn networks_of_two_installations_never_meet() {
        let (one, two) = (
            Layout::new(Path::new("/")),
            Layout::new(Path::new("/tmp/x")),
        );
        let (lan, dmz) = ("lan".parse().unwrap(), "dmz".parse().unwrap());
        assert_ne!(one.network_tag(&lan), two.network_tag(&lan));
        assert_ne!(one.network_tag(&lan), one.network_tag(&dmz));
        assert_ne!(two.network_tag(&lan), two.tag());
        assert_eq!(one.network_table(&lan), "bulkhead.lan");
    }

    #[test]
    fn what_tenants_share_has_names_that_the_kernel_takes() {
        let (system, test) = (
            Layout::new(Path::new("/")),
            Layout::new(Path::new("/tmp/x")),
        );
        let (acme, other) = ("acme".parse().unwrap(), "other".parse().unwrap());
        let names = [
            system.tenant_trunk(&acme, true),
            system.tenant_trunk(&acme, false),
            system.tenant_trunk(&other, true),
            test.tenant_trunk(&acme, true),
            test.tenant_trunk(&other, true),
        ];
        for (at, name) in names.iter().enumerate() {
            assert!(name.len() <= 15 && !names[..at].contains(name), "{name}");
        }
        assert!(names[4].contains(test.tag()));
    }

    #[test]
    fn only_images_may_lie_elsewhere() {
        let plain = Layout::new(Path::new("/tmp/x"));
        let moved = plain.clone().with_images(Some("/srv/images".into()));
        assert_eq!(moved.images(), Path::new("/srv/images"));
        assert_eq!(moved.guests(), plain.guests());
        assert_eq!(plain.clone().with_images(None), plain);
    }
}
