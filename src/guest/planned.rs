//! A guest's launch as it is planned: from its definition, and from what the other rooms say of its
//! root, its network and its devices.

use super::calls::CALLS;
use super::calls_disk::DISK_CALLS;
use super::error::{GuestError, Result};
use super::manager::Manager;
use super::networks::without_address;
use super::program::Program;
use super::rescue::Rescue;
use super::store::Machine;
use crate::model::{Guest, GuestName, NetOp};
use crate::plan::{self, LaunchPlan, Placement};
use crate::storage::{self, Image};

/// A guest planned for launch.
#[derive(Debug)]
pub struct Planned {
    /// As it is meant.
    pub guest: Guest,
    /// Its OCI Spec.
    pub spec: oci_spec::runtime::Spec,
    /// Its steps.
    pub plan: LaunchPlan,
}

impl Manager {
    /// Plans a launch and changes nothing (`bulkhead plan`).
    ///
    /// # Errors
    /// As [`Manager::start`] up to the launch.
    pub fn plan(&self, name: &GuestName) -> Result<Planned> {
        let guest = self.seated(self.guest(name)?)?;
        let machine = self.machine(name)?;
        let image = storage::load_image(&self.layout, &machine.image)?;
        let mut net = match self.network_of(&guest.network)? {
            Some(network) => {
                let lease = network.preview(name, &guest.network)?;
                network.ops(&lease, 1500, &guest.network)
            }
            None => without_address(&guest.network),
        };
        net.extend(self.preview_nics(name, &guest)?);
        self.plan_with(guest, &machine, (&image, None), net)
    }

    /// The same with what a start has found out. In rescue there is a second image, and that is what it
    /// has for its root.
    pub(super) fn plan_with(
        &self,
        guest: Guest,
        machine: &Machine,
        (image, rescue): (&Image, Option<&Image>),
        net: Vec<NetOp>,
    ) -> Result<Planned> {
        let name = guest.name.clone();
        let guest = match rescue {
            Some(_) => Rescue::bare(guest),
            None => guest,
        };
        self.check_host_side(&guest)?;
        let net = NetOp::of(&name, net);
        let (root, mounts) = match rescue {
            Some(rescue) => {
                let size = guest.memory.limit.0 / 4;
                storage::rescue_ops(&self.layout, &name, (rescue, image), size)
            }
            None => storage::root_ops(&self.layout, &name, image),
        }
        .map_err(|error| self.root_error(&name, error))?;
        let seccomp = match guest.security.seccomp.as_str() {
            "default" if guest.security.nesting => "nesting",
            other => other,
        };
        let program = match rescue {
            Some(rescue) => Program::of_rescue(rescue),
            None => self.program(&name, &guest, image)?,
        };
        let profile = match self.answers_calls(&guest) {
            true => {
                let disk = rescue.is_none() && self.answers_disk(&guest);
                let disk: &[&str] = if disk { &DISK_CALLS } else { &[] };
                let calls = [&CALLS, disk].concat();
                plan::seccomp::profile_that_notifies(seccomp, &calls, self.answers_mounts(&guest))
            }
            false => plan::seccomp::profile(seccomp),
        };
        let place = Placement {
            ids: machine.ids,
            root,
            mounts,
            net,
            inside: self.shown_inside(&guest),
            init: program.argv,
            environment: program.environment,
            directory: program.directory,
            user: program.user,
            seccomp: profile.map_err(|error| GuestError::Host {
                key: "security.seccomp",
                what: seccomp.to_owned(),
                why: error.to_string(),
            })?,
            block_devices: self.block_numbers(&guest)?,
            devices: self.device_numbers(&guest)?,
        };
        let spec = plan::spec::spec(&guest, &self.facts, &place)?;
        let plan = plan::steps::steps(&spec)?;
        Ok(Planned { guest, spec, plan })
    }
}
