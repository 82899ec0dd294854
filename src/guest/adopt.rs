//! A guest from a container of another program or from a machine: its root becomes an image, what it
//! says of itself becomes a definition as far as there are words for it, and the rest is told. It stays
//! who it was (machine id, SSH host keys, accounts); its name and network files are written anew.

use super::adopt_fit::{Fit, TRIED};
use super::error::{GuestError, Result};
use super::import::{ImportWish, Imported};
use super::manager::{Manager, now_ms};
use super::store::Written;
use crate::define::{self, KEYS, Key, KeyPath};
use crate::kernel::{fault, random};
use crate::model::{EventKind, GuestName};
use crate::storage::{self, Image, Newcomer, PackError, Progress, Told};

impl Manager {
    /// What a newcomer would become.
    pub(super) fn plan_adoption(
        &self,
        newcomer: &dyn Newcomer,
        wish: &ImportWish,
    ) -> Result<Imported> {
        let told = newcomer.told();
        let name = name_of(told, wish)?;
        let mut notes = vec![newcomer.what()];
        notes.extend(told.notes.iter().cloned());
        let mut definition = String::new();
        for key in KEYS.iter().filter(|key| !TRIED.contains(&key.path)) {
            let values = told.settings.iter().filter(|(path, _)| *path == key.path);
            let mut values: Vec<&String> = values.map(|(_, value)| value).collect();
            if !key.repeats() && values.len() > 1 {
                values.drain(..values.len() - 1);
            }
            if values.is_empty() {
                continue;
            }
            if let Ok(text) = self.with_key(&name, &definition, key, &values) {
                definition = text;
                continue;
            }
            // One of them is wrong: those are told, the others taken.
            let mut good: Vec<&String> = Vec::new();
            for value in values {
                good.push(value);
                if let Err(error) = self.with_key(&name, &definition, key, &good) {
                    good.pop();
                    let why = super::view::chain(&error);
                    notes.push(format!("{} = {value:.80} is not taken: {why}", key.path));
                }
            }
            if !good.is_empty() {
                definition = self.with_key(&name, &definition, key, &good)?;
            }
        }
        let definition = define::edit(&definition, &wish.changes)?;
        let mut fit = Fit::new(self, &name, wish, definition, notes);
        fit.all(told)?;
        let (definition, notes) = (fit.text, fit.notes);
        let guest = self.check_wanted(&name, &definition)?;
        Ok(Imported {
            guest,
            definition,
            image: String::new(),
            new_image: true,
            notes,
        })
    }

    /// A definition with one key more, if that makes a valid one.
    fn with_key(
        &self,
        name: &GuestName,
        text: &str,
        key: &'static Key,
        values: &[&String],
    ) -> Result<String> {
        let text = define::edit(text, &key.changes(values)?)?;
        let guest = self.define(name, &text)?;
        crate::plan::spec::supported(&guest, &self.facts)?;
        Ok(text)
    }

    /// Makes the guest.
    pub(super) fn adopt(
        &self,
        newcomer: Box<dyn Newcomer>,
        wish: &ImportWish,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Imported> {
        let name = name_of(newcomer.told(), wish)?;
        let _lock = self.lock(&name, "import")?;
        let mut planned = self.plan_adoption(&*newcomer, wish)?;
        self.discard(&name)?;
        let began = now_ms();
        let (image, notes) = newcomer.image(&self.layout, &wish.shown, progress)?;
        planned.notes.extend(notes);
        planned.new_image = image.created_ms >= began;
        planned.image.clone_from(&image.digest);
        let done = self.settle_in(&name, &mut planned, &image, wish);
        let done = done.and_then(|()| self.record(&name, EventKind::Created));
        if let Err(error) = self.made(&name, done) {
            if planned.new_image {
                let _used = storage::remove_image(&self.layout, &image.digest);
            }
            return Err(error);
        }
        Ok(planned)
    }

    fn settle_in(
        &self,
        name: &GuestName,
        planned: &mut Imported,
        image: &Image,
        wish: &ImportWish,
    ) -> Result<()> {
        let key = KeyPath::parse("image")?;
        let changes = key.key.changes(&[&image.digest])?;
        planned.definition = define::edit(&planned.definition, &changes)?;
        let mut machine = self.enroll(name, image, random::hex(16)?)?;
        self.make_root(&planned.guest, image)?;
        let own = storage::machine_id_of(&self.layout, name, image);
        let own = own.filter(|_| !wish.fresh);
        let kept = match own {
            Some(id) if self.same_machine(&id)?.is_none() => Some(id),
            _ => None,
        };
        let lease = self.lease(name, &planned.guest)?;
        let fresh = kept.is_none();
        if let Some(id) = kept {
            machine.machine_id = id;
            self.write_machine(name, &machine)?;
        }
        let boot = self.first_boot_data(&planned.guest, &machine, lease.as_ref())?;
        fault::point()?;
        match wish.fresh {
            true => self.write_first_boot(name, image, &boot)?,
            false => {
                storage::take_over(&self.layout, name, image, &boot, fresh).map_err(|error| {
                    GuestError::Root {
                        name: name.clone(),
                        source: error.into(),
                    }
                })?
            }
        }
        fault::point()?;
        self.complete(
            name,
            &planned.definition,
            &Written::of(&planned.guest, lease.as_ref()),
        )
    }
}

/// The name that was asked for, or the first part of the container's.
fn name_of(told: &Told, wish: &ImportWish) -> Result<GuestName> {
    if let Some(name) = &wish.name {
        return Ok(name.clone());
    }
    let first = told
        .name
        .split('.')
        .next()
        .unwrap_or_default()
        .to_lowercase();
    first.parse().map_err(|_| {
        let why = format!(
            "its name {:.80?} is no name of a guest: give it one with --name",
            told.name
        );
        super::export::archive(format!("import {}", wish.shown), PackError::Newcomer(why))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_domain_loses_it() {
        let told = |name: &str| {
            let mut told = Told::default();
            told.name = name.into();
            told
        };
        let wish = ImportWish::default();
        let name = name_of(&told("Shop.example.org"), &wish).unwrap();
        assert_eq!(name.as_str(), "shop");
        assert!(name_of(&told("../x"), &wish).is_err());
    }
}
