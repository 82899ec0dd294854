//! The launching process of a container. It stands in the host's namespaces with the caller's
//! rights; what a path of the client's means is decided here, once, and passed on as a descriptor.

use std::os::fd::AsFd;
use std::rc::Rc;

use rustix::fs::{Mode, OFlags};

use super::super::host::{Cause, Host, Workplace, missing};
use super::super::protocol::Word;
use super::{Place, hooks, net_devices};
use crate::kernel::cgroup::{self, Cgroups};
use crate::kernel::mount;
use crate::kernel::namespace::{self, IdMap, kind};
use crate::kernel::procfs::Procfs;
use crate::kernel::{Errno, KernelError, host_device, process, rdt, socket};
use crate::model::CgroupPlan;
use crate::plan::LaunchPlan;
use crate::plan::container::step::{Existing, OutsideStep};
use crate::plan::step::IdMapLine;

impl Host {
    pub(in super::super) fn carry_out_container(
        &mut self,
        step: &OutsideStep,
        plan: &LaunchPlan,
        place: &Place<'_>,
    ) -> Result<(), Cause> {
        match step {
            OutsideStep::TakeFilter => {
                let filter = place.filter.clone();
                self.program = Some(filter.ok_or_else(|| missing("the filter"))?);
            }
            OutsideStep::Open { root, join, clone } => self.open(root, join, *clone)?,
            OutsideStep::Clone { source, recursive } => {
                let tree = mount::clone_tree(source, *recursive)?;
                self.container.trees.push(Some(tree));
            }
            OutsideStep::CloneDevice {
                path,
                block,
                major,
                minor,
            } => {
                let tree = host_device::clone_node(path, *block, (*major, *minor))?;
                self.container.trees.push(Some(tree));
            }
            OutsideStep::ShiftIds {
                users,
                groups,
                recursive,
            } => self.shift_ids(users, groups, *recursive)?,
            OutsideStep::MakeCgroups { plan, optional } => {
                self.make_cgroups(plan, *optional, place)?;
            }
            OutsideStep::LimitCgroups { plan, optional } => {
                // There are none where none were needed and none could be made.
                let cgroups = self.container.cgroups.as_ref();
                match cgroups.map(|cgroups| cgroups.limit(&place.host, plan)) {
                    Some(Err(error)) if *optional && error.is_denied() => {}
                    Some(limited) => limited?,
                    None => {}
                }
            }
            OutsideStep::MakeScope { plan } => self.make_scope(plan, place)?,
            OutsideStep::BePatient => self.patience = None,
            OutsideStep::OpenProc => self.open_proc()?,
            OutsideStep::JoinPids => {
                self.open_proc()?;
                let entered = place.entered.as_ref();
                let entered = entered.ok_or_else(|| missing("the container to enter"))?;
                // Whoever is born there is hidden from the first moment on (CVE-2016-9962).
                process::hide_from_others()?;
                namespace::join(entered.pidfd.as_fd(), kind::PID)?;
            }
            OutsideStep::CloneCgroups => self.container.clone_cgroups()?,
            OutsideStep::MakeInit { namespaces } => {
                self.make_init(plan, &Workplace::Container(place), *namespaces)?;
            }
            OutsideStep::Record => {
                let cgroups = self.container.cgroups.as_ref();
                place
                    .record
                    .write(self.pid()?, cgroups.map(|c| c.place()))?;
            }
            OutsideStep::AwaitBirth => self.await_birth()?,
            OutsideStep::SetOomScore { score } => self.set_oom_score(*score)?,
            OutsideStep::MakeRdtGroup { group, schemata } => {
                let pid = self.pid()?;
                if rdt::enter(group, schemata, pid)? {
                    let group = group.clone();
                    self.undo.push(move || rdt::remove(&group));
                }
            }
            OutsideStep::MoveDevices { devices } => net_devices::take_along(self, devices)?,
            OutsideStep::AwaitMounts => match self.expect_word()? {
                (Word::Ready, _) => {}
                other => return Err(out_of_turn(&other.0)),
            },
            OutsideStep::RunHooks { hooks } => {
                let told = place.told.text("creating", Some(self.pid()?));
                hooks::run(hooks, &told, place.told.bundle())?;
            }
            OutsideStep::Continue => self.say_go(None)?,
            OutsideStep::SendListener { path, metadata } => {
                self.send_listener(path, metadata, place)?;
            }
            OutsideStep::AwaitStanding => self.await_standing()?,
            OutsideStep::SendConsole => {
                let terminal = self.container.terminal.take();
                let terminal = terminal.ok_or_else(|| missing("the terminal"))?;
                match &place.console {
                    Some(socket) => socket::send_console(socket.as_fd(), terminal.as_fd())?,
                    None => self.console = Some(terminal),
                }
            }
        }
        Ok(())
    }

    /// The stage tells of the first process, which may be heard before that.
    fn await_birth(&mut self) -> Result<(), Cause> {
        let mut early = Vec::new();
        let (pid, pidfd) = loop {
            match self.expect_word()? {
                (Word::Init { pid }, Some(pidfd)) => break (pid, pidfd),
                (Word::Init { .. }, None) => return Err(missing("the pidfd").into()),
                other => early.push(other),
            }
        };
        self.early.extend(early);
        self.take_init(pid, pidfd)
    }

    pub(super) fn pid(&self) -> Result<u32, KernelError> {
        let init = self.init.as_ref();
        init.map(|(pid, _)| *pid)
            .ok_or_else(|| missing("the container's first process"))
    }

    fn open_proc(&mut self) -> Result<(), KernelError> {
        self.dialogue.follow_the_plan();
        self.container.proc = Some(Procfs::open()?);
        Ok(())
    }

    fn open(
        &mut self,
        root: &std::path::Path,
        join: &[Existing],
        clone: bool,
    ) -> Result<(), KernelError> {
        self.open_proc()?;
        for namespace in join {
            let fd = namespace::open_path(&namespace.path, namespace.kind)?;
            if namespace.changed && namespace::is_of_the_host(fd.as_fd(), namespace.kind)? {
                let why = "it is the host's own, and the container would change it, with its \
                           mounts, hostname, domainname or linux.sysctl: leave out its path, and \
                           the container gets one of its own";
                let path = namespace.path.display();
                return Err(KernelError::new("join", path, Errno::INVAL).because(why));
            }
            self.container.joined.insert(namespace.kind, fd);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(root, flags, Mode::empty())
            .map_err(KernelError::on("open the root file system", root.display()))?;
        if clone {
            let tree = mount::clone_tree_fd(folder.as_fd(), true, "the root")?;
            self.container.root_tree = Some(tree);
        }
        // Where a copy of the mounts finds the folder again: descriptors go on meaning ours.
        rustix::process::fchdir(&folder).map_err(KernelError::on("change to", root.display()))
    }

    fn shift_ids(
        &mut self,
        users: &[IdMapLine],
        groups: &[IdMapLine],
        recursive: bool,
    ) -> Result<(), KernelError> {
        let lines = |from: &[IdMapLine]| -> Vec<IdMap> {
            from.iter()
                .map(|l| IdMap {
                    inside: l.inside,
                    outside: l.outside,
                    count: l.count,
                })
                .collect()
        };
        let made;
        let joined = self.container.joined.get(&kind::USER);
        let map = match joined.filter(|_| users.is_empty()) {
            Some(joined) => joined,
            None => {
                made = namespace::user_with_maps(&lines(users), &lines(groups))?;
                &made
            }
        };
        let tree = self.container.trees.last().and_then(Option::as_ref);
        let tree = tree.ok_or_else(|| missing("the tree"))?;
        let none = mount::Attr::empty();
        let what = "an idmapped mount";
        mount::set_attr(tree.as_fd(), none, none, recursive, Some(map.as_fd()), what)
    }

    fn make_cgroups(
        &mut self,
        plan: &CgroupPlan,
        optional: bool,
        place: &Place<'_>,
    ) -> Result<(), Cause> {
        match Cgroups::make(&place.host, plan) {
            Ok(cgroups) => self.keep_cgroups(Rc::new(cgroups), place),
            Err(error) if optional && error.is_denied() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn make_scope(&mut self, plan: &CgroupPlan, place: &Place<'_>) -> Result<(), Cause> {
        let pid = self.pid()?;
        if let Some(scope) = &plan.place.scope {
            cgroup::start_scope(scope, pid)?;
            let scope = scope.clone();
            // One that has ended by itself is gone.
            self.undo.push(move || drop(cgroup::stop_scope(&scope)));
        }
        let cgroups = Rc::new(Cgroups::create(&place.host, plan)?);
        self.keep_cgroups(cgroups.clone(), place);
        // Of version 1 systemd moves it only in the hierarchies that it uses itself.
        Ok(cgroups.enter_pid(i32::try_from(pid).unwrap_or(0))?)
    }

    fn keep_cgroups(&mut self, cgroups: Rc<Cgroups>, place: &Place<'_>) {
        let (undo, host) = (cgroups.clone(), place.host.clone());
        // A group that cannot be removed now is removed by `delete`.
        self.undo.push(move || drop(undo.remove(&host)));
        self.container.cgroups = Some(cgroups);
    }

    fn set_oom_score(&self, score: i32) -> Result<(), KernelError> {
        let proc = self
            .container
            .proc
            .as_ref()
            .ok_or_else(|| missing("/proc"))?;
        proc.write(
            &format!("{}/oom_score_adj", self.pid()?),
            &score.to_string(),
        )
    }

    /// The filter is in force over there: the descriptor is fetched, since sending it is a call
    /// that the filter may have an opinion on.
    fn send_listener(
        &mut self,
        path: &std::path::Path,
        metadata: &str,
        place: &Place<'_>,
    ) -> Result<(), Cause> {
        let fd = loop {
            match self.expect_word()? {
                (Word::Terminal, Some(terminal)) => self.container.terminal = Some(terminal),
                (Word::Listener { fd }, _) => break fd,
                other => return Err(out_of_turn(&other.0)),
            }
        };
        let (pid, pidfd) = self
            .init
            .as_ref()
            .ok_or_else(|| missing("the first process"))?;
        let listener = socket::fetch(pidfd.as_fd(), fd)?;
        let mut told = serde_json::Map::new();
        told.insert(
            "ociVersion".into(),
            crate::plan::container::OCI_VERSION.into(),
        );
        told.insert("fds".into(), vec!["seccompFd"].into());
        told.insert("pid".into(), (*pid).into());
        told.insert("metadata".into(), metadata.into());
        let state: serde_json::Value =
            serde_json::from_str(&place.told.text("creating", Some(*pid)))?;
        told.insert("state".into(), state);
        let text = serde_json::Value::Object(told).to_string();
        socket::send_once(path, text.as_bytes(), listener.as_fd())
            .map_err(|error| format!("failed to connect with seccomp agent: {error}").into())
    }

    fn await_standing(&mut self) -> Result<(), Cause> {
        loop {
            match self.expect_word()? {
                (Word::Terminal, Some(terminal)) => self.container.terminal = Some(terminal),
                (Word::Standing, _) => return Ok(()),
                other => return Err(out_of_turn(&other.0)),
            }
        }
    }
}

fn out_of_turn(word: &Word) -> Cause {
    Box::new(
        KernelError::new(
            "understand",
            "the other process of the launch",
            Errno::PROTO,
        )
        .because(format!("{word:?} came out of turn")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::channel::Channel;
    use crate::launch::protocol::say;

    #[test]
    fn the_first_process_may_be_heard_before_the_stage_tells_of_it() {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let pidfd = process::open_pid(child.id()).unwrap();
        say(&theirs, &Word::Ready, None).unwrap();
        let born = Word::Init { pid: child.id() };
        say(&theirs, &born, Some(pidfd.as_fd())).unwrap();
        let mut host = Host {
            channel: Some(ours),
            ..Host::default()
        };
        host.dialogue.follow_the_plan();
        host.await_birth().unwrap();
        assert_eq!(host.pid().unwrap(), child.id());
        assert_eq!(host.expect_word().unwrap().0, Word::Ready);
        drop(host);
        // What the launch made it also ends.
        assert!(!child.wait().is_ok_and(|status| status.success()));
    }
}
