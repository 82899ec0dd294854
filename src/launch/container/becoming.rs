//! The last steps of a container's first process, or of one that enters it: what it is, no longer
//! where. Terminal, labels, scheduling, user, capabilities, filter, and its program. The steps
//! before are next door in `inside`.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use rustix::fs::OFlags;

use super::super::init::Init;
use super::super::protocol::{self, Word};
use super::super::stage::Inherited;
use super::inside::{Cause, missing};
use super::program;
use crate::kernel::tree::{self, Point};
use crate::kernel::{
    Errno, KernelError, capability, credentials, inherited, interrupt, mount, process, schedule,
    terminal,
};
use crate::plan::container::step::{CapabilitySets, InsideStep, Scheduling};

impl Init<'_> {
    /// Steps that concern what the process is, not where.
    pub(super) fn carry_out_process(&mut self, step: &InsideStep) -> Result<(), Cause> {
        match step {
            InsideStep::OpenTerminal { size, console } => self.open_terminal(*size, *console)?,
            InsideStep::TakeTerminal => {
                let pty = self.inside()?.console.take();
                let pty = pty.ok_or_else(|| missing("the terminal"))?;
                rustix::process::ioctl_tiocsctty(&pty.slave).map_err(KernelError::on(
                    "take as controlling terminal",
                    "the console",
                ))?;
                terminal::put_on_standard(pty.slave.as_fd())?;
            }
            InsideStep::SetLabels { apparmor, selinux } => self.set_labels(apparmor, selinux)?,
            InsideStep::SetPersonality { persona } => schedule::set_personality(*persona)?,
            InsideStep::SetScheduling { scheduling } => set_scheduling(scheduling)?,
            InsideStep::SetIoPriority { priority } => schedule::set_io_priority(*priority)?,
            InsideStep::SetAffinity { cpus } if cpus.is_empty() => {
                match schedule::forget_affinity() {
                    // A filter that we are under forbids it: the caller's CPUs are fewer, not more.
                    Err(error) if matches!(error.errno, Errno::PERM | Errno::NOSYS) => {}
                    other => other?,
                }
            }
            InsideStep::SetAffinity { cpus } => schedule::set_affinity(cpus)?,
            InsideStep::SetMemoryPolicy { policy } => {
                schedule::set_memory_policy(policy.mode, &policy.nodes)?;
            }
            InsideStep::ChangeFolder { path } => self.change_folder(path)?,
            InsideStep::FindProgram {
                program,
                uid,
                environment,
            } => {
                let environment = program::with_home(self.root()?, environment, *uid);
                let found = program::find(program, &environment)?;
                self.inside()?.found = Some((found, environment));
            }
            InsideStep::BecomeUser { .. } => self.become_user(step)?,
            InsideStep::LoadFilter { flags, listener } => self.load_filter(*flags, *listener)?,
            InsideStep::Stand => {
                // The host may end as soon as it has said Go. Until then its end is seen by the
                // channel's.
                process::on_parent_death(None)?;
                // Whoever hears that it stands and thinks better of it need not kill. A filter that is
                // loaded by now may not know the call.
                let _refused = interrupt::obey();
                protocol::say(&self.inherited.channel, &Word::Standing, None)?;
                protocol::await_plain_go(&self.inherited.channel)?;
            }
            InsideStep::AwaitStart { keep } => self.await_start(*keep)?,
            InsideStep::Run { argv, keep, .. } => self.run(argv, *keep)?,
            _ => return Err(missing("the room for this step").into()),
        }
        Ok(())
    }

    fn open_terminal(&mut self, size: Option<(u16, u16)>, console: bool) -> Result<(), Cause> {
        let dev = tree::resolve(self.root()?, Path::new("/dev"), OFlags::PATH)
            .map_err(KernelError::on("open in the container", "/dev"))?;
        let pty = terminal::open_pty(dev.as_fd())?;
        if let Some((rows, columns)) = size {
            terminal::set_size(pty.master.as_fd(), rows, columns);
        }
        if console {
            let slave = mount::clone_tree_fd(pty.slave.as_fd(), false, "the console")?;
            let point = Point::File;
            let at = tree::mount_point(dev.as_fd(), Path::new("console"), point)?;
            mount::attach(slave.as_fd(), at.as_fd(), "/dev/console")?;
        }
        protocol::say(
            &self.inherited.channel,
            &Word::Terminal,
            Some(pty.master.as_fd()),
        )?;
        self.inside()?.console = Some(pty);
        Ok(())
    }

    fn set_labels(
        &mut self,
        apparmor: &Option<String>,
        selinux: &Option<String>,
    ) -> Result<(), Cause> {
        let inside = self.inside()?;
        let proc = inside
            .outside
            .proc
            .as_ref()
            .ok_or_else(|| missing("/proc"))?;
        if let Some(profile) = apparmor {
            let text = format!("exec {profile}");
            // Where several modules are stacked each has a folder of its own (Linux 5.8).
            let own = proc.write("self/attr/apparmor/exec", &text);
            match own {
                Err(error) if error.errno == Errno::NOENT => proc.write("self/attr/exec", &text)?,
                other => other?,
            }
        }
        if let Some(label) = selinux {
            proc.write("self/attr/exec", label)?;
        }
        Ok(())
    }

    fn change_folder(&mut self, path: &Path) -> Result<(), Cause> {
        let failed =
            |errno| KernelError::new("change to the working folder", path.display(), errno);
        match rustix::process::chdir(path) {
            // Perhaps the user may enter what root may not (a FUSE or NFS folder).
            Err(Errno::ACCESS) => self.inside()?.folder = Some(path.to_owned()),
            other => other.map_err(failed)?,
        }
        Ok(program::stay_inside()?)
    }

    fn become_user(&mut self, step: &InsideStep) -> Result<(), Cause> {
        let InsideStep::BecomeUser {
            uid,
            gid,
            groups,
            set_groups,
            umask,
            sets,
        } = step
        else {
            return Err(missing("the user").into());
        };
        let sets = Sets::of(sets)?;
        credentials::own_standard_files(*uid)?;
        capability::drop_bounding_except(sets.bounding)?;
        credentials::keep_capabilities_over_setuid(true)?;
        match credentials::become_user(*uid, *gid, groups) {
            // Those of the caller stay, where they cannot be given up and none were asked for.
            Err(error) if error.errno == Errno::PERM && !set_groups && groups.is_empty() => {
                credentials::become_id(*uid, *gid)?;
            }
            other => other?,
        }
        credentials::keep_capabilities_over_setuid(false)?;
        sets.take_on()?;
        process::on_parent_death(Some(rustix::process::Signal::KILL))?;
        process::hide_from_others()?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(*umask));
        if let Some(folder) = self.inside()?.folder.take() {
            rustix::process::chdir(&folder).map_err(KernelError::on(
                "change to the working folder",
                folder.display(),
            ))?;
            program::stay_inside()?;
        }
        Ok(())
    }

    fn load_filter(
        &mut self,
        flags: crate::model::FilterFlags,
        listener: bool,
    ) -> Result<(), Cause> {
        let handed: &Inherited<'_> = self.inherited;
        let program = handed.program.ok_or_else(|| missing("the filter"))?;
        // The filter may not know the call.
        inherited::close_on_exec_from(3)?;
        if !listener {
            return Ok(program.load(flags)?);
        }
        let fd = program.load_with_listener(flags)?;
        let number = fd.as_raw_fd();
        protocol::say(&handed.channel, &Word::Listener { fd: number }, None)?;
        protocol::await_plain_go(&handed.channel)?;
        Ok(())
    }

    fn await_start(&mut self, keep: u32) -> Result<(), Cause> {
        let inside = self.inside()?;
        inside.alone = true;
        let own = [&inside.place.start, &inside.place.complaint];
        let own = own.into_iter().flatten().map(AsRawFd::as_raw_fd);
        let mut kept: Vec<i32> = own.chain((3..3 + keep).map(u32::cast_signed)).collect();
        inherited::close_all_but(&mut kept)?;
        let start = inside.place.start.as_ref();
        let start = start.ok_or_else(|| missing("what to wait on"))?;
        let mut word = [0_u8; 1];
        rustix::io::retry_on_intr(|| rustix::io::read(start, &mut word[..]))
            .map_err(KernelError::on("wait for", "the word to start"))?;
        Ok(())
    }

    fn run(&mut self, argv: &[String], keep: u32) -> Result<(), Cause> {
        let (program, environment) = self
            .inside()?
            .found
            .take()
            .ok_or_else(|| missing("the program"))?;
        process::reset_signals()?;
        // Closed by hand, not by the kernel on execution: until then a path of the container's could
        // lead through them, `/proc/self/fd/7/../../bin/sh` (CVE-2024-21626).
        let inside = self.inside()?;
        let (start, complaint) = (&inside.place.start, &inside.place.complaint);
        let waited = [start, complaint].into_iter().flatten();
        let mut kept: Vec<i32> = waited.map(AsRawFd::as_raw_fd).collect();
        if !inside.alone {
            kept.push(self.inherited.channel.as_fd().as_raw_fd());
        }
        kept.extend((3..3 + keep).map(u32::cast_signed));
        inherited::close_all_but(&mut kept)?;
        if keep > 0 {
            inherited::keep_over_exec_range(3, 3 + keep)?;
        }
        let refused = process::execute_path(&program, argv, &environment);
        Err(program::cannot_run(&argv[0], refused.errno).into())
    }
}

fn set_scheduling(wanted: &Scheduling) -> Result<(), KernelError> {
    const DEADLINE: u32 = 6;
    let (runtime, deadline, period) = wanted.times;
    let set = schedule::set_attributes(schedule::Attributes {
        policy: wanted.policy,
        flags: wanted.flags,
        nice: wanted.nice,
        priority: wanted.priority,
        runtime,
        deadline,
        period,
    });
    set.map_err(|error| match (error.errno, wanted.policy) {
        (Errno::PERM, DEADLINE) => error.because(
            "process scheduler can't be used together with AllowedCPUs: SCHED_DEADLINE wants every \
             CPU; leave out linux.resources.cpu.cpus",
        ),
        _ => error,
    })
}

/// The five sets as numbers.
struct Sets {
    bounding: capability::CapabilitySet,
    effective: capability::CapabilitySet,
    permitted: capability::CapabilitySet,
    inheritable: capability::CapabilitySet,
    ambient: capability::CapabilitySet,
}

impl Sets {
    fn of(names: &CapabilitySets) -> Result<Self, Cause> {
        let set = |names: &[String]| {
            capability::CapabilitySet::from_names(names.iter().map(String::as_str))
        };
        Ok(Self {
            bounding: set(&names.bounding)?,
            effective: set(&names.effective)?,
            permitted: set(&names.permitted)?,
            inheritable: set(&names.inheritable)?,
            ambient: set(&names.ambient)?,
        })
    }

    /// None that the process does not have: who launches with less cannot give more.
    fn take_on(&self) -> Result<(), Cause> {
        let have = capability::permitted()?;
        let permitted = self.permitted.and(have);
        let inheritable = self.inheritable.and(have);
        Ok(capability::set_all(
            self.effective.and(permitted),
            permitted,
            inheritable,
            self.ambient.and(permitted).and(inheritable),
        )?)
    }
}
