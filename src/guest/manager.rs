//! What every verb needs: where things are, the host's settings, what the host can do.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::{GuestError, Result};
use crate::define::{Profiles, Settings};
use crate::kernel::cgroup::{self, Parent};
use crate::kernel::{file, probe};
use crate::model::{Guest, GuestName, HostFacts, Layout};
use crate::network::{Network, NetworkSettings, Served};
use crate::storage::Templates;

/// Largest record of the program's own, bytes.
pub(super) const RECORD: u64 = 1 << 20;

/// One installation, opened.
#[derive(Debug)]
pub struct Manager {
    /// Where things are.
    pub layout: Layout,
    /// Host settings.
    pub settings: Settings,
    /// What the host can do.
    pub facts: HostFacts,
    /// The guests' network.
    pub network: Network,
}

impl Manager {
    /// Opens the installation below `root`; makes its folders.
    ///
    /// # Errors
    /// When the settings are wrong, the folders cannot be made, or the host cannot be probed.
    pub fn open(root: &Path) -> Result<Self> {
        let layout = Layout::new(root);
        let settings = Settings::load(&layout.etc().join("bulkhead.toml"))?;
        let layout = layout.with_images(settings.images.clone());
        for folder in [
            layout.guests(),
            layout.images(),
            layout.run().join("guests"),
            layout.run().join("locks"),
            layout.run().join("scratch"),
            layout.cache().join("seccomp"),
        ] {
            file::make_private_dir(&folder)?;
        }
        let facts = facts(&layout)?;
        let network = Network::new(&layout, network_settings(&layout, &settings))
            .map_err(|error| GuestError::Network(error.into()))?;
        Ok(Self {
            layout,
            settings,
            facts,
            network,
        })
    }

    /// The profiles.
    ///
    /// # Errors
    /// A profile file is wrong.
    pub fn profiles(&self) -> Result<Profiles> {
        let folder = self.layout.etc().join("profiles");
        Ok(Profiles::load(folder.is_dir().then_some(folder.as_path()))?)
    }

    /// The templates.
    ///
    /// # Errors
    /// A template file is wrong.
    pub fn templates(&self) -> Result<Templates> {
        let usual = self.layout.etc().join("templates");
        let folder = self
            .settings
            .templates
            .clone()
            .or_else(|| usual.is_dir().then_some(usual));
        Ok(Templates::load(folder.as_deref()).map_err(crate::storage::ImageError::from)?)
    }

    /// A guest's definition as text.
    ///
    /// # Errors
    /// There is no such guest, or it is no readable regular file.
    pub fn definition_text(&self, name: &GuestName) -> Result<String> {
        if self.trashed(name).is_some() {
            return Err(self.missing(name));
        }
        match crate::define::read_file(&self.definition_path(name)) {
            Ok(text) => Ok(text),
            Err(crate::define::ReadError::Missing(_)) => Err(self.missing(name)),
            Err(error) => Err(error.into()),
        }
    }

    /// A guest as it is meant.
    ///
    /// # Errors
    /// As [`Manager::definition_text`], and what is wrong with it.
    pub fn guest(&self, name: &GuestName) -> Result<Guest> {
        self.define(name, &self.definition_text(name)?)
    }

    /// What a definition means, checked against this host.
    pub(super) fn define(&self, name: &GuestName, text: &str) -> Result<Guest> {
        self.define_by(name, text, &self.profiles()?)
    }

    /// The same, with profiles at hand.
    pub(super) fn define_by(
        &self,
        name: &GuestName,
        text: &str,
        profiles: &Profiles,
    ) -> Result<Guest> {
        let source = self.definition_path(name).display().to_string();
        Ok(crate::define::define(
            name,
            &source,
            text,
            profiles,
            &self.facts,
        )?)
    }

    /// Where a guest's definition is.
    #[must_use]
    pub fn definition_path(&self, name: &GuestName) -> PathBuf {
        self.layout.guest(name).join("guest.toml")
    }

    /// The error for a name that no guest has.
    pub(super) fn missing(&self, name: &GuestName) -> GuestError {
        let names = self.names().unwrap_or_default();
        let hint = crate::model::nearest(name.as_str(), names.iter().map(GuestName::as_str));
        GuestError::Missing {
            name: name.clone(),
            hint: hint.map(str::to_owned),
        }
    }

    /// The cgroup all guests are in, made if need be.
    pub(super) fn cgroups(&self) -> Result<Parent> {
        let host = self.cgroup_host()?;
        let parent = Parent::ensure(&host, &self.layout.kernel_name(), &self.cgroup_lock())?;
        parent.share_io(self.settings.io_weight)?;
        Ok(parent)
    }

    /// The cgroup all guests are in, if it is there.
    pub(super) fn existing_cgroups(&self) -> Result<Option<Parent>> {
        Ok(Parent::look(
            &self.cgroup_host()?,
            &self.layout.kernel_name(),
        )?)
    }

    pub(super) fn cgroup_lock(&self) -> PathBuf {
        self.layout.run().join("cgroups.lock")
    }

    /// A host with nothing but version 1 gets a version 2 tree of the program's own: guests are
    /// killed, frozen and delegated through it.
    pub(super) fn cgroup_host(&self) -> Result<cgroup::Host> {
        let host = cgroup::Host::from_facts(&self.facts);
        if self.facts.cgroup_v2.is_some() {
            return Ok(host);
        }
        let at = self.layout.run().join("cgroup2");
        if !at.join("cgroup.procs").exists() {
            file::make_private_dir(&at)?;
            cgroup::mount_v2(&at)?;
        }
        Ok(host.with_v2_at(&at)?)
    }
}

fn network_settings(layout: &Layout, settings: &Settings) -> NetworkSettings {
    let subnet = settings.network.subnet;
    // Another installation than the system's own must not claim the usual pool.
    let usual = subnet == Settings::default().network.subnet && !layout.tag().is_empty();
    NetworkSettings {
        bridge: settings.network.bridge.clone(),
        subnet: (!usual).then_some((subnet.network, subnet.prefix)),
        prefix6: settings.network.prefix6,
        nat: settings.network.nat,
        dns: settings.network.dns.clone(),
        isolated_ports: settings.network.isolated_ports,
        connections: settings.network.connections,
        internal: settings.network.internal.clone(),
        served: Served {
            dhcp: settings.network.dhcp,
            ra: settings.network.ra,
            dns: settings.network.names,
            domain: settings.network.domain.clone(),
        },
    }
}

/// The facts, probed once a boot: mounts of cgroups and the limits of whoever asks can differ
/// between two commands, so those few are looked at each time.
fn facts(layout: &Layout) -> Result<HostFacts> {
    Ok(probe::host_facts_cached(&layout.run().join("facts.json"))?)
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
