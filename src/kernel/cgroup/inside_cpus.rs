//! The CPUs of a group as its inhabitants know them: which, and how much of their time.

use std::path::Path;

use super::counters::throttling_limit;
use super::dir::Dir;
use super::parent::Hierarchy;
use super::{Controller, Group, Result, Version};

impl Group {
    /// Its limit in hundredths of a CPU; `None` for none.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn cpu_limit(&self) -> Result<Option<u64>> {
        match self.home(Controller::Cpu) {
            Ok((dir, version)) => throttling_limit(dir, version),
            Err(_) => Ok(None),
        }
    }

    /// The CPUs it may run on, as a list such as `0-3`; `None` where nobody has chosen.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn cpus_allowed(&self) -> Result<Option<String>> {
        match self.home(Controller::Cpuset) {
            Ok((dir, Version::V1)) => match dir.try_read("cpuset.effective_cpus")? {
                // Its folder is gone since it did not choose any more; it may have another by now.
                None => self.cpus_chosen_at(dir.path()),
                chosen => Ok(chosen),
            },
            Ok((dir, Version::V2)) => dir.try_read("cpuset.cpus.effective"),
            Err(_) => self.cpus_chosen_since(),
        }
    }

    /// Whether nobody has chosen its CPUs: then [`Group::cpus_shared`] has them, until somebody does.
    #[must_use]
    pub fn has_not_chosen_cpus(&self) -> bool {
        let of_cpus = |place: &&Hierarchy| place.controllers.contains(&Controller::Cpuset);
        let spare = self.spare.iter().find(of_cpus);
        self.home(Controller::Cpuset).is_err()
            && spare.is_none_or(|place| !place.parent_path().join(&self.name).exists())
    }

    /// Version 1 has a folder for it only since somebody has chosen, perhaps after this was opened.
    fn cpus_chosen_since(&self) -> Result<Option<String>> {
        let of_cpus = |place: &&Hierarchy| place.controllers.contains(&Controller::Cpuset);
        let Some(hierarchy) = self.spare.iter().find(of_cpus) else {
            return Ok(None);
        };
        self.cpus_chosen_at(&hierarchy.parent_path().join(&self.name))
    }

    fn cpus_chosen_at(&self, folder: &Path) -> Result<Option<String>> {
        match Dir::open(folder)? {
            Some(dir) => dir.try_read("cpuset.effective_cpus"),
            None => self.cpus_shared(),
        }
    }

    /// The CPUs of those who have not chosen, if they are not all there are.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn cpus_shared(&self) -> Result<Option<String>> {
        let file = "cpuset.effective_cpus";
        self.shared
            .as_ref()
            .map_or(Ok(None), |dir| dir.try_read(file))
    }
}
