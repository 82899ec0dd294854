//! A guest in rescue: started with a userspace of the host's for its root and with its own root, which
//! is not touched, mounted below that. Address, limits, ids and name are the guest's. It is left by a
//! `stop`; whatever starts the guest next starts its own userspace, but for a reboot from inside, which
//! stays in rescue.

use serde::{Deserialize, Serialize};

use super::admission::Admission;
use super::error::{GuestError, Result};
use super::life::Verb;
use super::manager::Manager;
use super::start::{Round, Started};
use crate::model::{Guest, GuestName, ImageName, TemplateRef};
use crate::storage::{self, FirstBoot, Image, Progress};

/// What a guest is in rescue with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rescue {
    /// What it was asked for: a template or an image.
    pub from: String,
    /// Digest of the image.
    pub image: String,
}

impl Rescue {
    /// A guest without what its definition says of its own userspace: programs, and what is mounted
    /// into its own folders.
    pub(super) fn bare(mut guest: Guest) -> Guest {
        guest.init.command.clear();
        guest.environment.clear();
        guest.mounts.clear();
        guest.tmpfs.clear();
        guest
    }
}

impl Manager {
    /// Starts a stopped guest in rescue, with a template, which is built if it is not there, or an image.
    ///
    /// # Errors
    /// It is not stopped, there is no such template or image, or as [`Manager::start`].
    pub fn rescue(
        &self,
        name: &GuestName,
        from: &str,
        force: bool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Started> {
        Verb::Rescue.check(name, self.status(name)?)?;
        let image = self.rescue_image(from, progress)?;
        storage::check_sound(&image)?;
        let round = Round {
            admission: match force {
                true => Admission::Forced,
                false => Admission::Asked,
            },
            rescue: Some(Rescue {
                from: from.to_owned(),
                image: image.digest,
            }),
            ..Round::default()
        };
        self.start_by(name, Verb::Rescue, round)
    }

    /// Checks what [`Manager::rescue`] would need, and changes nothing.
    ///
    /// # Errors
    /// As there, up to the launch.
    pub fn check_rescue(&self, name: &GuestName, from: &str) -> Result<()> {
        Verb::Rescue.check(name, self.status(name)?)?;
        let templates = self.templates()?;
        match templates.resolve(&template(from)) {
            Ok(_) => Ok(()),
            Err(_) => self.find_rescue_image(from).map(drop),
        }
    }

    fn rescue_image(&self, from: &str, progress: &mut dyn FnMut(Progress)) -> Result<Image> {
        let (templates, template) = (self.templates()?, template(from));
        if templates.resolve(&template).is_err() {
            return self.find_rescue_image(from);
        }
        let image = storage::ensure_image(&self.layout, &templates, &template, progress)?;
        Ok(image)
    }

    fn find_rescue_image(&self, from: &str) -> Result<Image> {
        let name: ImageName = from.parse().map_err(|error| GuestError::Host {
            key: "--image",
            what: from.to_owned(),
            why: format!("there is no such template, and {error}"),
        })?;
        Ok(storage::find_image(&self.layout, &name)?)
    }

    /// The rescue image of a guest that is about to be launched, with its files beside it.
    pub(super) fn furnish_rescue(
        &self,
        guest: &Guest,
        image: &Image,
        boot: &FirstBoot,
    ) -> Result<()> {
        let name = &guest.name;
        self.release_others(name, &guest.network)?;
        let made = storage::make_rescue(&self.layout, name, image, boot);
        made.map_err(|error| GuestError::Root {
            name: name.clone(),
            source: error.into(),
        })
    }

    /// What a guest that is not stopped is in rescue with.
    pub(super) fn rescue_of(&self, name: &GuestName) -> Option<Rescue> {
        self.run_state(name).ok().flatten()?.rescue
    }
}

fn template(name: &str) -> TemplateRef {
    TemplateRef {
        name: name.to_owned(),
        options: std::collections::BTreeMap::default(),
    }
}
