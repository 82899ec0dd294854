//! A host cut into equal slices: what each of them has, and the profile that says so.

use std::path::PathBuf;

use serde::Serialize;

use super::error::{GuestError, Result};
use super::manager::Manager;
use crate::kernel::file;
use crate::model::{CgroupMode, Cpus, Resource};

/// What profiles count memory in here.
const MIB: u64 = 1 << 20;

/// The least memory a guest may have, see `memory.limit`.
const LEAST: u64 = 4 * MIB;

/// One of so many equal slices.
#[derive(Clone, Debug, Serialize)]
pub struct Slice {
    /// How many there are.
    pub count: u32,
    /// Bytes of memory of each.
    pub memory: u64,
    /// CPU time of each, in hundredths of a CPU.
    pub cpus: u64,
    /// Whether something is kept for the host itself.
    pub reserved: bool,
    /// CPU time that pools and running guests have to themselves, in hundredths of a CPU: slices find no
    /// room there.
    pub given: u64,
    /// The profile.
    pub profile: String,
    /// Where it was written.
    pub file: Option<PathBuf>,
}

impl Manager {
    /// A slice of this host, less its reserve, cut into `count` equal ones. They are cut from what
    /// there is: a ratio of overcommit sells nothing twice here.
    ///
    /// # Errors
    /// A slice would be smaller than a guest can be.
    pub fn split(&self, count: u32) -> Result<Slice> {
        let room = self.host_room();
        let rest = |resource| {
            let room = room.of(resource);
            room.host.saturating_sub(room.reserve)
        };
        let share = |resource| rest(resource) / u64::from(count.max(1));
        let memory = share(Resource::Memory) / MIB * MIB;
        let cpus = u32::try_from(share(Resource::Cpus)).unwrap_or(u32::MAX);
        let Some(time) = Cpus::from_hundredths(cpus).filter(|_| memory >= LEAST) else {
            return Err(GuestError::Host {
                key: "count",
                what: count.to_string(),
                why: format!(
                    "each slice would have {}.{:02} CPUs and {}M of memory, and no guest is smaller than \
                     0.01 CPUs and {}M; cut fewer",
                    cpus / 100,
                    cpus % 100,
                    memory / MIB,
                    LEAST / MIB
                ),
            });
        };
        let size = format!("{}M", memory / MIB);
        // Version 1 can keep memory for nobody; the limits alone share it out.
        let kept = match self.facts.cgroup_mode {
            CgroupMode::V2 => format!("low = \"{size}\"\n"),
            CgroupMode::V1 | CgroupMode::Hybrid => String::new(),
        };
        let profile = format!(
            "description = \"One of {count} equal slices of this host: CPU {time}, memory \
             {size}\"\n\n\
             [cpu]\nentitled = {time}\nlimit = {time}\n\n\
             [memory]\nlimit = \"{size}\"\n{kept}\n\
             [why]\n\
             \"cpu.entitled\" = \"a slice is a promise: a start that cannot keep it is refused\"\n\
             \"cpu.limit\" = \"nobody gets more by others being idle; raise it to let them\"\n\
             \"memory.limit\" = \"what the host has less its reserve, by the number of slices\"\n"
        );
        Ok(Slice {
            count,
            memory,
            cpus: cpus.into(),
            reserved: Resource::ALL.iter().any(|one| room.of(*one).reserve > 0),
            given: self.room_beside(&self.seating(None)?).cpus.given,
            profile,
            file: None,
        })
    }

    /// Writes the profile of a slice to the host's own.
    ///
    /// # Errors
    /// The name is not one of a profile, or taken and not to be replaced; the file cannot be
    /// written.
    pub fn keep_slice(&self, slice: &mut Slice, name: &str, replace: bool) -> Result<()> {
        let refused = |why: &str| GuestError::Host {
            key: "profile",
            what: name.to_owned(),
            why: why.to_owned(),
        };
        if !crate::define::is_profile_name(name) {
            return Err(refused(
                "a profile's name has small letters, digits, - and _ and nothing else",
            ));
        }
        if !replace && self.profiles()?.names().any(|there| there == name) {
            return Err(refused(
                "there is one of that name: choose another, or replace it with --force",
            ));
        }
        let folder = self.layout.etc().join("profiles");
        std::fs::create_dir_all(&folder)
            .map_err(crate::kernel::KernelError::io("make", folder.display()))?;
        let path = folder.join(format!("{name}.toml"));
        file::write_whole(&path, slice.profile.as_bytes(), 0o644)?;
        slice.file = Some(path);
        Ok(())
    }
}
