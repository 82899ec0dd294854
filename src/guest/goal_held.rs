//! What a controller of goals has changed of guests, and how that is undone.
//!
//! What it changes is not in a definition. Before a guest's limit is changed first, `goal.json` in
//! its run state says who changes it; the definition's limit is put back, and that file removed,
//! when the controller ends, by a second process that stands by when it is killed, and, should that
//! be killed too, by the next controller, `doctor --fix` or the guest's next start.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{GuestError, Result};
use super::leftover::{Leftover, leftover, told};
use super::manager::{Manager, RECORD};
use crate::kernel::file;
use crate::kernel::process::Identity;
use crate::model::{GoalResource, GuestName, Status};

/// How long a guest at which another command works is waited for when all are let go.
const AT_THE_END: Duration = Duration::from_secs(10);

/// `goal.json`: whoever changes a guest's limits, and which.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) controller: Identity,
    #[serde(default)]
    pub(super) resources: BTreeSet<GoalResource>,
}

impl Manager {
    pub(super) fn goal_record(&self, name: &GuestName) -> PathBuf {
        self.layout.guest_run(name).join("goal.json")
    }

    pub(super) fn goal_holder(&self, name: &GuestName) -> Option<Held> {
        let text = file::read_small(&self.goal_record(name), RECORD).ok()??;
        // One that cannot be understood is nobody's, and is put in order.
        let nobody = Identity { pid: 0, start: 0 };
        Some(serde_json::from_slice(&text).unwrap_or(Held {
            controller: nobody,
            resources: BTreeSet::new(),
        }))
    }

    /// Puts the limits of definitions back where a controller has changed them: this one, or one
    /// that is gone.
    pub(super) fn let_goals_go(&self, only: Option<Identity>) -> Result<()> {
        let mut names = Vec::new();
        self.each_state(None, &mut |name, _| names.push(name.clone()))?;
        let mut failed = Ok(());
        for name in names {
            let held = self.goal_holder(&name);
            if held.is_some_and(|held| only.is_none_or(|only| only == held.controller)) {
                // Each, whatever becomes of the others.
                failed = failed.and(self.let_goal_go(&name, AT_THE_END));
            }
        }
        failed
    }

    /// Puts the limit of a guest's definition back.
    pub(super) fn let_goal_go(&self, name: &GuestName, patience: Duration) -> Result<()> {
        let _lock = self.lock_within(name, "goal run", patience)?;
        match self.status(name) {
            Ok(Status::Running | Status::Paused) => self.set_limits(name, &BTreeMap::new())?,
            Ok(_) | Err(GuestError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
        let _gone = std::fs::remove_file(self.goal_record(name));
        self.let_keeper_look(name)
    }

    /// The keeper of a guest with credits looks whether what it has now fits them.
    pub(super) fn let_keeper_look(&self, name: &GuestName) -> Result<()> {
        match self.has_credits(name) && self.has_keeper(name) {
            true => self.write_credit_orders(name, &self.as_it_runs(name)?),
            false => Ok(()),
        }
    }

    /// Gives a running guest these limits for now, and all others of its definition. Its lock is held.
    pub(super) fn set_limits(
        &self,
        name: &GuestName,
        limits: &BTreeMap<GoalResource, u64>,
    ) -> Result<()> {
        let Some(mut group) = self.group(name)? else {
            return Ok(());
        };
        let mut guest = self.seated(self.as_it_runs(name)?)?;
        for (resource, limit) in limits {
            resource.give(&mut guest, *limit);
        }
        group.update(&self.limits_of(&guest)?)?;
        Ok(())
    }

    /// Whether a controller has changed this limit of a guest.
    pub(super) fn has_goal_limit(&self, name: &GuestName, resource: GoalResource) -> bool {
        // Where it is not said which, it may be any.
        let holds = |held: Held| held.resources.is_empty() || held.resources.contains(&resource);
        self.goal_holder(name).is_some_and(holds)
    }

    /// A limit that a controller has changed, which is gone.
    pub(super) fn of_goal(&self, name: &GuestName, fix: bool, found: &mut Vec<Leftover>) {
        let held = self.goal_holder(name);
        if held.is_some_and(|held| !held.controller.lives()) {
            let back = || {
                self.set_limits(name, &BTreeMap::new())?;
                let _gone = std::fs::remove_file(self.goal_record(name));
                self.let_keeper_look(name)
            };
            found.push(leftover(
                "goal's limit",
                name.to_string(),
                told(fix.then(back)),
            ));
        }
    }
}
