//! A guest's first program: what its definition says, else what its image says, else the init in its
//! files; and as whom, where and with which environment it runs.

use super::error::{GuestError, Result};
use super::manager::Manager;
use crate::model::{Guest, GuestName};
use crate::storage::{self, Image};

/// The first program of a guest.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) argv: Vec<String>,
    /// `NAME=VALUE` of the image's.
    pub(super) environment: Vec<String>,
    pub(super) directory: String,
    /// User, group, further groups.
    pub(super) user: (u32, u32, Vec<u32>),
}

impl Program {
    /// That of a rescue image, whoever its own is meant to run as: root has to get everywhere.
    pub(super) fn of_rescue(image: &Image) -> Self {
        Self {
            argv: first_program(&[], &image.command),
            environment: of_image(image, None),
            directory: "/".into(),
            user: (0, 0, Vec::new()),
        }
    }
}

impl Manager {
    /// The guest's first program. User and working folder of the image are those of the image's own
    /// program: any other is the guest's init, and root.
    pub(super) fn program(
        &self,
        name: &GuestName,
        guest: &Guest,
        image: &Image,
    ) -> Result<Program> {
        let own = guest.init.command.is_empty() && !image.command.is_empty();
        let run = match own {
            true => {
                storage::run_as(&self.layout, name, image).map_err(|error| GuestError::Root {
                    name: name.clone(),
                    source: error.into(),
                })?
            }
            false => storage::RunAs::default(),
        };
        Ok(Program {
            argv: first_program(&guest.init.command, &image.command),
            environment: of_image(image, run.home.as_deref()),
            directory: match run.directory.as_str() {
                "" => "/".to_owned(),
                directory => directory.to_owned(),
            },
            user: (run.uid, run.gid, run.groups),
        })
    }
}

/// The definition's word, else the image's, else what every distribution has.
fn first_program(wanted: &[String], of_image: &[String]) -> Vec<String> {
    let usual = ["/sbin/init".to_owned()];
    [wanted, of_image, &usual]
        .into_iter()
        .find(|command| !command.is_empty())
        .map(<[String]>::to_vec)
        .unwrap_or_default()
}

/// The environment an image wants for its program.
fn of_image(image: &Image, home: Option<&str>) -> Vec<String> {
    let home = home.map(|home| format!("HOME={home}"));
    let written = image.config.iter().flat_map(|c| c.environment.clone());
    home.into_iter().chain(written).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_wins_over_its_image() {
        let [own, image] = ["/own", "/image"].map(|program| vec![program.to_owned()]);
        assert_eq!(first_program(&own, &image), own);
        assert_eq!(first_program(&[], &image), image);
        assert_eq!(first_program(&[], &[]), ["/sbin/init"]);
    }
}
