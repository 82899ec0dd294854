//! Goals on disk: a file for each, `goals/NAME.json`. What becomes of them is `goal_run`.

use serde::Serialize;

use super::error::{GuestError, Result};
use super::manager::{Manager, RECORD};
use crate::kernel::{KernelError, fault, file};
use crate::model::{Goal, GoalName, GoalResource, GuestName, Policy, Subject, nearest};

/// A goal, as `goal list` and `goal info` show it.
#[derive(Clone, Debug, Serialize)]
pub struct GoalView {
    /// Its name.
    pub name: GoalName,
    /// What it says.
    #[serde(flatten)]
    pub goal: Goal,
}

impl Manager {
    /// All goals, by name.
    ///
    /// # Errors
    /// A file cannot be read or understood.
    pub fn goals(&self) -> Result<Vec<GoalView>> {
        self.each_goal()?
            .into_iter()
            .filter(|goal| !matches!(goal, Err(GuestError::NoGoal { .. })))
            .collect()
    }

    /// Those that can be understood: one that cannot is no reason to leave the others.
    pub(super) fn sound_goals(&self) -> Result<Vec<GoalView>> {
        Ok(self
            .each_goal()?
            .into_iter()
            .filter_map(Result::ok)
            .collect())
    }

    /// Each, by name; one that was deleted meanwhile is none.
    fn each_goal(&self) -> Result<Vec<Result<GoalView>>> {
        let mut names = self.goal_names()?;
        names.sort();
        let view = |name: GoalName| {
            let goal = self.goal(&name)?;
            Ok(GoalView { name, goal })
        };
        Ok(names.into_iter().map(view).collect())
    }

    /// Goals of a guest go with it to another name. One that is not written anew stays as it was, and
    /// `goal list` shows whose it is.
    pub(super) fn move_goals(&self, from: &GuestName, to: &GuestName) -> Result<()> {
        let was = Subject::Guest(from.clone());
        for GoalView { name, mut goal } in self.sound_goals()? {
            if goal.subject == was {
                goal.subject = Subject::Guest(to.clone());
                fault::point()?;
                self.put_goal(&name, &goal)?;
            }
        }
        Ok(())
    }

    fn goal_names(&self) -> Result<Vec<GoalName>> {
        let folder = self.layout.goals();
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(KernelError::io("read", folder.display())(error).into()),
        };
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name.strip_suffix(".json")?.parse().ok()
        };
        Ok(entries.filter_map(name).collect())
    }

    fn goal_path(&self, name: &GoalName) -> std::path::PathBuf {
        self.layout.goals().join(format!("{name}.json"))
    }

    /// A goal.
    ///
    /// # Errors
    /// There is none of that name, or its file cannot be understood.
    pub fn goal(&self, name: &GoalName) -> Result<Goal> {
        let path = self.goal_path(name);
        let Some(text) = file::read_small(&path, RECORD)? else {
            let known = self.goal_names().unwrap_or_default();
            let near = nearest(name.as_str(), known.iter().map(GoalName::as_str));
            return Err(GuestError::NoGoal {
                name: name.to_string(),
                near: near.map(str::to_owned),
            });
        };
        serde_json::from_slice(&text).map_err(|error| GuestError::Damaged {
            path: path.display().to_string(),
            why: error.to_string(),
            advice: "`bulkhead goal delete` removes it",
        })
    }

    /// Makes a goal, or with `there` changes one.
    ///
    /// # Errors
    /// As [`Manager::check_goal`], or it cannot be written.
    pub fn write_goal(&self, name: &GoalName, goal: &Goal, there: bool) -> Result<()> {
        self.check_goal(name, goal, there)?;
        file::make_private_dir(&self.layout.goals())?;
        fault::point()?;
        self.put_goal(name, goal)
    }

    fn put_goal(&self, name: &GoalName, goal: &Goal) -> Result<()> {
        let text = serde_json::to_vec(goal).unwrap_or_default();
        Ok(file::write_whole(&self.goal_path(name), &text, 0o600)?)
    }

    /// Says whether a goal can be made, or with `there` changed so.
    ///
    /// # Errors
    /// It cannot be, its guest or tenant is not there, or there is one of that name.
    pub fn check_goal(&self, name: &GoalName, goal: &Goal, there: bool) -> Result<()> {
        let refused = |why: String| GuestError::Goal {
            name: name.to_string(),
            why,
        };
        goal.check().map_err(refused)?;
        match &goal.subject {
            Subject::Guest(guest) => drop(self.status(guest)?),
            Subject::Tenant(tenant) => drop(self.tenant_caps(tenant)?),
        }
        if !there && self.goal_path(name).exists() {
            return Err(GuestError::GoalExists(name.to_string()));
        }
        if let (GoalResource::Io, Subject::Guest(guest)) = (goal.resource, &goal.subject)
            && self.guest(guest)?.io.devices.is_empty()
        {
            return Err(refused(format!(
                "guest {guest} has no limits on block devices that could change: give it an \
                 [[io.device]] first"
            )));
        }
        if let (Policy::Own, Subject::Guest(guest)) = (&goal.policy, &goal.subject)
            && self.guest(guest)?.cpu.entitled.is_none()
        {
            return Err(refused(format!(
                "own: guest {guest} is entitled to nothing that it could lend: give it a share with \
                 `bulkhead set {guest} cpu.entitled=0.5` first"
            )));
        }
        let same = |one: &GoalView| {
            let same = one.goal.subject == goal.subject && one.goal.resource == goal.resource;
            one.name != *name && same
        };
        if let Some(other) = self.sound_goals()?.iter().find(|one| same(one))
            && (other.goal.hours.is_none() || goal.hours.is_none())
        {
            return Err(refused(format!(
                "{} has the goal {} for its {} already: one at a time, or give both hours",
                goal.subject,
                other.name,
                goal.resource.limit()
            )));
        }
        Ok(())
    }

    /// Deletes a goal.
    ///
    /// # Errors
    /// There is none.
    pub fn delete_goal(&self, name: &GoalName) -> Result<()> {
        let path = self.goal_path(name);
        if !path.exists() {
            self.goal(name)?;
        }
        fault::point()?;
        std::fs::remove_file(&path).map_err(KernelError::io("remove", path.display()))?;
        Ok(())
    }
}
