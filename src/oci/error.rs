//! What can go wrong at this front door, in words that clients look for: Podman and containerd read
//! them.

use super::store::Status;
use crate::kernel::KernelError;
use crate::kernel::cgroup::CgroupError;
use crate::launch::container::HookError;
use crate::launch::{LaunchError, chain};
use crate::plan::PlanError;
use crate::plan::cgroup::CgroupPlanError;

/// An error of a command.
#[derive(Debug, thiserror::Error)]
pub(super) enum OciError {
    #[error("container {0:?} does not exist")]
    Missing(String),
    #[error("container with given ID already exists: {0:?}")]
    Exists(String),
    #[error("invalid container id {0:?}: use letters, digits and _ + - . (not first), at most 255")]
    Id(String),
    #[error("{}", not_as_it_is(verb, *.status))]
    Status { verb: &'static str, status: Status },
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    Paused,
    #[error("cannot delete container {id:?} that is not stopped: {status}")]
    NotStopped { id: String, status: &'static str },
    #[error("container not running")]
    NotRunning,
    #[error("{what}: {why}")]
    Usage { what: String, why: String },
    #[error("{path}: {why}")]
    File { path: String, why: String },
    #[error("config.json: {0}")]
    Config(#[source] serde_json::Error),
    #[error("{0}")]
    Program(String),
    #[error("{0} is not supported yet")]
    Later(&'static str),
    #[error("{}", chain(.0))]
    Plan(#[from] PlanError),
    #[error("invalid configuration: {0}")]
    CgroupPlan(#[from] CgroupPlanError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("{}", told(.0))]
    Launch(#[from] LaunchError),
    #[error("cannot write the answer: {0}")]
    Output(#[from] std::io::Error),
}

/// In runc's words where it has some, for clients look at them.
fn not_as_it_is(verb: &str, status: Status) -> String {
    let word = status.word();
    match (verb, status) {
        ("start", Status::Running) => "cannot start an already running container".into(),
        ("start", Status::Stopped) => "cannot start a container that has stopped".into(),
        ("exec in", Status::Stopped) => "cannot exec in a stopped container".into(),
        ("pause", _) => format!("container not running: it is {word}"),
        ("resume", _) => format!("container not paused: it is {word}"),
        _ => format!("cannot {verb} a container that is {word}"),
    }
}

/// What a process of the launch told is the whole message: clients look at its words.
fn told(error: &LaunchError) -> String {
    match error {
        LaunchError::Inside { why, .. } => {
            format!("unable to start container process: {why}")
        }
        LaunchError::Step { source, .. } => chain(source.as_ref()),
        LaunchError::Vanished { step, hint } => {
            format!("unable to start container process: it ended without a word at {step}: {hint}")
        }
    }
}

pub(super) type Result<T> = std::result::Result<T, OciError>;
