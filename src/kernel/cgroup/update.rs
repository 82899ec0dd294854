//! New limits for a running group: all of them, or as before. Order matters where one number
//! bounds another; what the values are is said by `v1` and `v2`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;

use super::dir::{Dir, number};
use super::group::Place;
use super::knob::{Knob, Set};
use super::limits::Extent;
use super::parent::inherit_cpuset;
use super::quiet::pids_in;
use super::remove::PATIENCE;
use super::{CgroupError, Controller, Group, IoLimit, Limits, Result, Version, v1};

/// One value that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The control file.
    pub file: PathBuf,
    /// What it said before.
    pub from: String,
    /// What was written.
    pub to: String,
}

/// What has been written so far, to be put back in reverse.
#[derive(Default)]
pub(super) struct Journal {
    applied: Vec<Applied>,
    undo: Vec<(PathBuf, &'static str, String)>,
}

impl Group {
    /// Brings the limits of a group, running or not, to what [`Group::create`] would have given it:
    /// a limit that is `None` is taken away. Only what differs is written. Devices stay as they
    /// are; see [`Group::set_devices`].
    ///
    /// # Errors
    /// As [`Group::create`]; memory below what is in use and cannot be reclaimed is refused with
    /// EBUSY in both versions. Whatever the error, all earlier values are in force again.
    pub fn update(&mut self, limits: &Limits) -> Result<Vec<Applied>> {
        let mut mems = String::new();
        let missing = limits.cpuset.is_some()
            && self.v1_controllers.contains(&Controller::Cpuset)
            && self.v1_dir(Controller::Cpuset).is_none();
        if limits.cpuset.is_some()
            && let Some(dir) = self.v1_dir(Controller::Cpuset)
            && let Some(above) = dir.path().parent()
            && let Some(above) = Dir::open(above)?
        {
            above.read("cpuset.mems")?.trim().clone_into(&mut mems);
        }
        let site = self.site(&mems);
        let wanted: BTreeSet<&str> = limits
            .knobs(&site, Extent::Fresh)?
            .iter()
            .map(|knob| knob.file)
            .collect();
        let mut knobs = limits.knobs(&site, Extent::Full)?;
        if missing {
            // Its folder there is made last, when nothing else can fail.
            knobs.retain(|knob| knob.controller != Controller::Cpuset);
        }
        self.forgotten_devices(limits, &mut knobs)?;
        self.unpin(limits, &mut knobs)?;
        self.order_memory(&mut knobs)?;
        let mut journal = Journal::default();
        let done = self
            .write_all(&knobs, &wanted, &mut journal)
            .and_then(|()| self.hand_down(limits))
            .and_then(|()| match &limits.cpuset {
                Some(cpus) if missing => {
                    self.join_cpuset(cpus, limits.mems.as_deref(), &mut journal)
                }
                // Likewise it is left last.
                None => self.leave_cpuset(&mut journal),
                Some(_) => Ok(()),
            });
        match done {
            Ok(()) => Ok(journal.applied),
            Err(e) => Err(journal.put_back(e)),
        }
    }

    pub(super) fn write_all(
        &self,
        knobs: &[Knob],
        wanted: &BTreeSet<&str>,
        journal: &mut Journal,
    ) -> Result<()> {
        for knob in knobs {
            let (dir, version) = self.home(knob.controller)?;
            let mut knob = knob.clone();
            if let Err(e) = knob.settle(dir, self.mode) {
                if wanted.contains(knob.file) {
                    return Err(e);
                }
                continue;
            }
            if !wanted.contains(knob.file) && !dir.has(knob.file) {
                // An older kernel without the file has no such limit to take away.
                continue;
            }
            if matches!(
                knob.file,
                "cpu.max" | "cpu.cfs_quota_us" | "cpu.cfs_period_us"
            ) {
                // The kernel refuses a quota below the burst, so the burst goes first.
                let burst = if version == Version::V1 {
                    "cpu.cfs_burst_us"
                } else {
                    "cpu.max.burst"
                };
                let differs = !same(&dir.read(knob.file)?, &knob);
                if differs && dir.has(burst) {
                    let none = Knob::new(Controller::Cpu, burst, Set::Text("0".to_owned()));
                    journal.write(dir, version, &none)?;
                }
            }
            if knob.file == "memory.max" {
                make_room(dir, &knob)?;
            }
            journal.write(dir, version, &knob)?;
        }
        Ok(())
    }

    /// Values that take away limits on block devices which are not limited any more.
    fn forgotten_devices(&self, limits: &Limits, knobs: &mut Vec<Knob>) -> Result<()> {
        let Ok((dir, version)) = self.home(Controller::Io) else {
            return Ok(());
        };
        let files: &[&str] = match version {
            Version::V1 => &v1::THROTTLE,
            Version::V2 => &["io.max"],
        };
        let mut gone = BTreeSet::new();
        for file in files {
            for line in dir.try_read(file)?.unwrap_or_default().lines() {
                let device = line.split(' ').next().and_then(|d| d.split_once(':'));
                let numbers = device.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                if let Some((major, minor)) = numbers
                    && !limits
                        .io
                        .iter()
                        .any(|l| (l.major, l.minor) == (major, minor))
                {
                    gone.insert((major, minor));
                }
            }
        }
        let io = gone
            .into_iter()
            .map(|(major, minor)| IoLimit {
                major,
                minor,
                ..IoLimit::default()
            })
            .collect();
        let none = Limits {
            io,
            ..Limits::default()
        };
        let lines = none.knobs(&self.site(""), Extent::Full)?;
        knobs.extend(lines.into_iter().filter(|k| files.contains(&k.file)));
        Ok(())
    }

    /// A group that is to be free of a choice of CPUs gets those of its parent. Version 2 has an
    /// empty list for that, but refuses it while processes are inside.
    fn unpin(&self, limits: &Limits, knobs: &mut Vec<Knob>) -> Result<()> {
        let (None, Ok((dir, version))) = (&limits.cpuset, self.home(Controller::Cpuset)) else {
            return Ok(());
        };
        if dir.read("cpuset.cpus")?.trim().is_empty() || self.can_leave() {
            return Ok(());
        }
        let above = dir.path().parent().map(Dir::open).transpose()?.flatten();
        let (cpus, mems) = match version {
            Version::V1 => ("cpuset.cpus", "cpuset.mems"),
            Version::V2 => ("cpuset.cpus.effective", "cpuset.mems.effective"),
        };
        if let Some(above) = above {
            let set = Set::CpusetCpus(above.read(cpus)?.trim().to_owned());
            knobs.push(Knob::new(Controller::Cpuset, "cpuset.cpus", set));
            if !dir.read("cpuset.mems")?.trim().is_empty() {
                let set = Set::CpusetMems(above.read(mems)?.trim().to_owned());
                knobs.push(Knob::new(Controller::Cpuset, "cpuset.mems", set));
            }
        }
        Ok(())
    }

    /// Version 1 never lets memory be more than memory and swap together, not for a moment: when
    /// memory grows beyond the old sum, the sum goes first.
    fn order_memory(&self, knobs: &mut [Knob]) -> Result<()> {
        let at = |file| knobs.iter().position(|k| k.file == file);
        let (Some(memory), Some(sum)) = (
            at("memory.limit_in_bytes"),
            at("memory.memsw.limit_in_bytes"),
        ) else {
            return Ok(());
        };
        let (dir, _) = self.home(Controller::Memory)?;
        let old_sum = number(&dir.read("memory.memsw.limit_in_bytes")?).unwrap_or(u64::MAX);
        // -1, which is no limit, is no number of this kind.
        let new_memory = number(&knobs[memory].text()).unwrap_or(u64::MAX);
        if new_memory > old_sum {
            knobs.swap(memory, sum);
        }
        Ok(())
    }

    /// Makes the version 1 cpuset folder that a group without a choice of CPUs has not, and moves
    /// the processes there.
    pub(super) fn join_cpuset(
        &mut self,
        cpus: &str,
        mems: Option<&str>,
        journal: &mut Journal,
    ) -> Result<()> {
        let held = |h: &super::parent::Hierarchy| h.controllers.contains(&Controller::Cpuset);
        let Some(at) = self.spare.iter().position(held) else {
            return Ok(());
        };
        let hierarchy = self.spare[at].clone();
        let above = hierarchy.ensure()?;
        let dir = above.make(&self.name)?;
        let moved = inherit_cpuset(&above, &dir)
            .and_then(|()| mems.map_or(Ok(()), |mems| dir.write("cpuset.mems", mems)))
            .and_then(|()| dir.write("cpuset.cpus", cpus))
            .and_then(|()| self.move_all(&dir));
        if let Err(e) = moved {
            let back = self.shared.as_ref().unwrap_or(&above);
            for pid in pids_in(&dir).unwrap_or_default() {
                let _gone = back.write("cgroup.procs", &pid.to_string());
            }
            let _left = above.unlink(&self.name);
            return Err(e);
        }
        journal.applied.push(Applied {
            file: dir.path().join("cpuset.cpus"),
            from: above.read("cpuset.cpus")?.trim().to_owned(),
            to: cpus.to_owned(),
        });
        self.spare.remove(at);
        self.v1.push(Place { hierarchy, dir });
        Ok(())
    }

    /// Whether it has a version 1 cpuset folder only because it has chosen its CPUs.
    pub(super) fn can_leave(&self) -> bool {
        let own = |place: &Place| place.hierarchy.is_shared();
        self.shared.is_some() && self.v1.iter().any(own)
    }

    /// Puts the processes of a group that does not choose its CPUs any more back among those that never
    /// did, and takes its version 1 cpuset folder away.
    pub(super) fn leave_cpuset(&mut self, journal: &mut Journal) -> Result<()> {
        let own = |place: &Place| place.hierarchy.is_shared();
        let (Some(shared), Some(at)) = (&self.shared, self.v1.iter().position(own)) else {
            return Ok(());
        };
        self.move_all(shared)?;
        let dir = &self.v1[at].dir;
        journal.applied.push(Applied {
            file: dir.path().join("cpuset.cpus"),
            from: dir.read("cpuset.cpus")?.trim().to_owned(),
            to: shared.read("cpuset.cpus")?.trim().to_owned(),
        });
        empty_into(dir, shared)?;
        let place = self.v1.remove(at);
        self.spare.push(place.hierarchy);
        Ok(())
    }

    /// Moves every process of the group into `dir`, until none has been forked outside meanwhile.
    pub(super) fn move_all(&self, dir: &Dir) -> Result<()> {
        for _ in 0..100 {
            let inside: BTreeSet<i32> = pids_in(dir)?.into_iter().collect();
            let mut outside = self.processes()?;
            outside.retain(|pid| !inside.contains(pid));
            if outside.is_empty() {
                return Ok(());
            }
            for pid in outside {
                match dir.write("cgroup.procs", &pid.to_string()) {
                    Err(e) if e.errno() != Some(libc::ESRCH) => return Err(e),
                    _ => {}
                }
            }
        }
        Err(CgroupError::file(
            "move all processes into",
            dir.path(),
            rustix::io::Errno::BUSY,
        ))
    }
}

/// Removes a version 1 folder; who has entered it meanwhile goes where the others are.
fn empty_into(dir: &Dir, other: &Dir) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match rustix::fs::unlinkat(CWD, dir.path(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if Instant::now() < until => {
                for pid in pids_in(dir)? {
                    let _gone = other.write("cgroup.procs", &pid.to_string());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(e) => return Err(CgroupError::file("remove", dir.path(), e)),
        }
    }
}

/// Version 2 would kill processes to get below a new limit; like version 1 we only reclaim, and
/// refuse when that is not enough.
fn make_room(dir: &Dir, knob: &Knob) -> Result<()> {
    let Some(limit) = number(&knob.text()) else {
        return Ok(());
    };
    let used = |dir: &Dir| Ok::<_, CgroupError>(number(&dir.read("memory.current")?).unwrap_or(0));
    let over = used(dir)?.saturating_sub(limit);
    if over == 0 {
        return Ok(());
    }
    // EAGAIN says that less could be reclaimed; the next reading says how much. ENOENT: Linux
    // before 5.19.
    let _partly = dir.write("memory.reclaim", &over.to_string());
    if used(dir)? <= limit {
        return Ok(());
    }
    let path = dir.path().join(knob.file);
    let refused = CgroupError::with_value("write", &path, &knob.text(), rustix::io::Errno::BUSY);
    Err(explain(refused, dir))
}

/// Adds to a refused memory limit how much is in use.
fn explain(error: CgroupError, dir: &Dir) -> CgroupError {
    if error.errno() != Some(libc::EBUSY) {
        return error;
    }
    let used = ["memory.current", "memory.usage_in_bytes"]
        .into_iter()
        .find_map(|file| number(&dir.read(file).ok()?));
    match used {
        Some(bytes) => error.because(&format!("it uses {} MiB now", bytes.div_ceil(1 << 20))),
        None => error,
    }
}

impl Journal {
    fn write(&mut self, dir: &Dir, version: Version, knob: &Knob) -> Result<()> {
        let old = dir.read(knob.file)?;
        if same(&old, knob) {
            return Ok(());
        }
        knob.write(dir, version).map_err(|e| explain(e, dir))?;
        let from = before(&old, knob);
        let file = dir.path().join(knob.file);
        self.undo
            .push((dir.path().to_owned(), knob.file, from.clone()));
        knob.verify(dir, version)?;
        let to = knob.text().trim().to_owned();
        let device = |value: &str| {
            value
                .split_once(':')
                .map(|_| value.split(' ').next().map(str::to_owned))
        };
        // The burst may be written twice; one change is told.
        match self
            .applied
            .iter_mut()
            .find(|a| a.file == file && device(&a.to) == device(&to))
        {
            Some(earlier) => earlier.to = to,
            None => self.applied.push(Applied { file, from, to }),
        }
        self.applied.retain(|a| a.from != a.to);
        Ok(())
    }

    /// Puts everything back, last first, and returns the error that made it necessary.
    pub(super) fn put_back(self, error: CgroupError) -> CgroupError {
        let mut lost = Vec::new();
        for (path, file, old) in self.undo.into_iter().rev() {
            let written = match Dir::open(&path) {
                // A write of nothing would not reach the kernel.
                Ok(Some(dir)) => dir.write(file, &format!("{old}\n")),
                Ok(None) => continue,
                Err(e) => Err(e),
            };
            if written.is_err() {
                lost.push(file);
            }
        }
        if lost.is_empty() {
            return error;
        }
        error.because(&format!("and {} could not be put back", lost.join(", ")))
    }
}

/// Whether the file that says `old` has the knob's value already.
fn same(old: &str, knob: &Knob) -> bool {
    let new = knob.text();
    let old = before(old, knob);
    // Version 1 shows no limit as the largest number of whole pages.
    old == new.trim() || (new == "-1" && number(&old).is_some_and(|n| n >= 1 << 62))
}

/// What to write to have the old state back: of a file with a line for each device, that line.
fn before(old: &str, knob: &Knob) -> String {
    let new = knob.text();
    let Some((device, _)) = new.split_once(' ').filter(|(d, _)| d.contains(':')) else {
        return old.trim().to_owned();
    };
    let line = old.lines().find(|l| l.split(' ').next() == Some(device));
    match line {
        Some(line) => line.trim().to_owned(),
        None if knob.file == "io.max" => {
            format!("{device} rbps=max wbps=max riops=max wiops=max")
        }
        None => format!("{device} 0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(file: &'static str, value: &str) -> Knob {
        Knob::new(Controller::Io, file, Set::Text(value.to_owned()))
    }

    #[test]
    fn no_limit_is_the_same_in_all_its_spellings() {
        let none = Knob::new(Controller::Memory, "memory.limit_in_bytes", Set::Memory(-1));
        assert!(same("9223372036854771712\n", &none));
        assert!(!same("67108864\n", &none));
        assert!(same("max 100000\n", &text("cpu.max", "max 100000")));
    }

    #[test]
    fn the_way_back_for_one_device_among_others() {
        let knob = text("io.max", "8:0 rbps=5 wbps=max riops=max wiops=max");
        let old = "254:0 rbps=1 wbps=max riops=max wiops=max\n";
        assert_eq!(
            before(old, &knob),
            "8:0 rbps=max wbps=max riops=max wiops=max"
        );
        let old = "8:0 rbps=9 wbps=max riops=max wiops=max\n";
        assert_eq!(before(old, &knob), old.trim());
        let knob = text("blkio.throttle.read_bps_device", "8:0 7");
        assert_eq!(before("", &knob), "8:0 0");
        assert!(same("8:0 7\n", &knob));
    }
}
