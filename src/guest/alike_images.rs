//! Images that stopped guests of one tenant use: files that these have alike, kept once.

use super::dedupe::DedupeError;
use super::error::GuestError;
use super::manager::Manager;
use crate::model::GuestName;
use crate::storage::{self, ImageError, ImageTree, Linked, RootError, Twin};

impl Manager {
    /// Keeps once what the images of these guests of one pool have alike; with `would`, only counts. An
    /// image that some other tenant's guest uses too, in whatever pool, is left as it is: in how many names
    /// a file has, one could see that somebody else has it.
    ///
    /// # Errors
    /// It was interrupted; what else goes wrong is added to `failed`.
    pub(super) fn link_images(
        &self,
        (whose, guests): (&str, &[GuestName]),
        would: bool,
        found: &mut Linked,
        failed: &mut Vec<String>,
    ) -> Result<(), DedupeError> {
        let mut trees = match storage::image_trees(&self.layout, guests) {
            Ok(trees) => trees,
            Err(error) => {
                failed.push(format!("images: {error}"));
                return Ok(());
            }
        };
        trees.retain(|tree| tree.users.iter().all(|name| self.whose(name) == whose));
        let twins = storage::image_twins(&trees, found).map_err(RootError::from)?;
        for (at, twins) in twins
            .iter()
            .enumerate()
            .filter(|(_, twins)| !twins.is_empty())
        {
            match self.link_images_of((&trees, at), twins, would, found) {
                Err(error) if error.ends_all() => return Err(error),
                Err(error) => failed.push(format!("images: {error}")),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// One tree, which nobody uses meanwhile.
    fn link_images_of(
        &self,
        (trees, at): (&[ImageTree], usize),
        twins: &[Twin],
        would: bool,
        found: &mut Linked,
    ) -> Result<(), DedupeError> {
        let users = trees.get(at).map(|tree| &tree.users).into_iter().flatten();
        let locks: Option<Vec<_>> = users.clone().map(|name| self.at_rest(name)).collect();
        let is_user = |guest: &str| users.clone().any(|name| name.as_str() == guest);
        // Whoever mounts a snapshot takes its guest's lock, so none is mounted from here on.
        let mounted = self.snapshot_mounts()?;
        if locks.is_none() || mounted.iter().any(|one| is_user(&one.guest)) {
            found.image_running += 1;
            return Ok(());
        }
        let done = storage::link_twins(&self.layout, (trees, at), twins, would, found);
        done.map_err(|error| match error {
            ImageError::File(error) => DedupeError::Root(error.into()),
            error => GuestError::from(error).into(),
        })
    }
}
