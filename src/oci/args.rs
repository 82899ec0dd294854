//! The command line, as runc 1.2 has it: clients call it without asking. What each command does is
//! in the file of its name.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _, FromArgMatches, Parser, Subcommand, ValueEnum};

use super::words;

/// OCI container runtime of Bulkhead.
#[derive(Debug, Parser)]
#[command(
    name = "bulkhead-oci",
    disable_version_flag = true,
    args_override_self = true,
    about = "Runs OCI containers: Bulkhead's engine behind runc's command line",
    max_term_width = 100
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    /// What to do
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

/// Options before the command.
#[derive(Debug, Args)]
pub(super) struct Global {
    /// Folder of the containers' state
    #[arg(long, value_name = "DIR")]
    pub(super) root: Option<PathBuf>,
    /// File that errors are written to as well
    #[arg(long, value_name = "FILE")]
    pub(super) log: Option<PathBuf>,
    /// How they are written there
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(super) log_format: LogFormat,
    /// Write more to the log
    #[arg(long)]
    pub(super) debug: bool,
    /// Make control groups through systemd
    #[arg(long)]
    pub(super) systemd_cgroup: bool,
    /// The same in crun's words: systemd or cgroupfs
    #[arg(long, value_name = "WHO")]
    pub(super) cgroup_manager: Option<super::caller::CgroupManager>,
    /// Whether to work without root's privileges
    #[arg(long, value_name = "true|false|auto", default_value = "auto", num_args = 0..=1, default_missing_value = "true")]
    pub(super) rootless: super::host::Rootless,
    /// Accepted and without effect, as with runc 1.2: shims of containerd's pass it on
    #[arg(long, value_name = "FILE", hide = true)]
    pub(super) criu: Option<PathBuf>,
    /// Print the version
    #[arg(short, long)]
    pub(super) version: bool,
}

/// The same, with the rest of the line as it is.
#[derive(Debug, Parser)]
#[command(disable_version_flag = true, disable_help_subcommand = true)]
#[command(args_override_self = true)]
struct Begin {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    rest: Option<Rest>,
}

#[derive(Debug, Subcommand)]
enum Rest {
    #[command(external_subcommand)]
    Words(Vec<OsString>),
}

impl Cli {
    /// Reads the command line. Only the options of the one command are made: all of them together
    /// cost more than most commands do (docs/performance.md). Whatever is out of the ordinary, an
    /// error or a wish for help, is left to the whole tree, which has the words for it.
    pub(super) fn read() -> Result<Self, clap::Error> {
        Self::understand(&std::env::args_os().collect::<Vec<_>>())
    }

    pub(super) fn understand(words: &[OsString]) -> Result<Self, clap::Error> {
        let whole = || parse(Self::command(), words);
        let Ok(Begin { global, rest }) = parse(Begin::command(), words) else {
            return whole();
        };
        let command = match rest {
            Some(Rest::Words(words)) => one(&words),
            None => None,
        };
        match command {
            None => whole(),
            command => Ok(Self { global, command }),
        }
    }

    /// The options before the command, whatever comes after them.
    pub(super) fn global() -> Option<Global> {
        let words: Vec<_> = std::env::args_os().collect();
        let begin: Result<Begin, _> = parse(Begin::command(), &words);
        begin.ok().map(|begin| begin.global)
    }

    /// What there is to be done, for whoever says nothing: no error, as with runc.
    pub(super) fn help() -> std::io::Result<()> {
        Self::command().print_help()
    }
}

fn parse<T: FromArgMatches>(mut tree: clap::Command, words: &[OsString]) -> Result<T, clap::Error> {
    let words = words::plain(&tree, words);
    let found = tree.try_get_matches_from_mut(words)?;
    T::from_arg_matches(&found).map_err(|error| error.format(&mut tree))
}

/// The command of these words, if it is one and nothing is wrong with it.
fn one(words: &[OsString]) -> Option<Command> {
    fn read<T: Args + FromArgMatches>(words: &[OsString]) -> Option<T> {
        let tree = T::augment_args(clap::Command::new("bulkhead-oci").args_override_self(true));
        parse(tree, words).ok()
    }
    Some(match words.first()?.to_str()? {
        "create" => Command::Create(read(words)?),
        "start" => Command::Start(read(words)?),
        "run" => Command::Run(read(words)?),
        "exec" => Command::Exec(read(words)?),
        "kill" => Command::Kill(read(words)?),
        "delete" => Command::Delete(read(words)?),
        "state" => Command::State(read(words)?),
        "list" => Command::List(read(words)?),
        "ps" => Command::Ps(read(words)?),
        "pause" => Command::Pause(read(words)?),
        "resume" => Command::Resume(read(words)?),
        "update" => Command::Update(read(words)?),
        "events" => Command::Events(read(words)?),
        _ => return None,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a container; its program waits for `start`
    Create(Create),
    /// Let the program of a made container run
    Start(Name),
    /// Make a container, run it and wait for its end
    Run(Run),
    /// Run a further program in a running container
    Exec(Exec),
    /// Send a signal to a container
    Kill(Kill),
    /// Remove what is left of a container
    Delete(Delete),
    /// Print a container's state
    State(Name),
    /// Print all containers
    List(List),
    /// Print the processes of a container
    Ps(Ps),
    /// Freeze all processes of a container
    Pause(Name),
    /// Let them go on
    Resume(Name),
    /// Change the limits of a container
    Update(super::update::Update),
    /// Print events and usage of a container
    Events(super::events::Events),
    /// Print what this runtime can do
    Features,
    /// Write a configuration to begin with
    Spec(Spec),
    /// Not supported yet
    Checkpoint(Later),
    /// Not supported yet
    Restore(Later),
    /// Write the manual pages
    #[command(hide = true)]
    Man(super::man::Man),
}

impl Cli {
    /// Makes paths absolute that are used when the launch has left the caller's folder.
    pub(super) fn anchor(&mut self) {
        let (file, socket) = match &mut self.command {
            Some(Command::Create(Create { make }) | Command::Run(Run { make, .. })) => {
                (make.pid_file.as_mut(), make.pidfd_socket.as_mut())
            }
            Some(Command::Exec(exec)) => (exec.pid_file.as_mut(), exec.pidfd_socket.as_mut()),
            _ => (None, None),
        };
        let root = self.global.root.as_mut();
        for path in root.into_iter().chain(file).chain(socket) {
            // An empty one stays so and fails where it is used.
            if let Ok(absolute) = std::path::absolute(&path) {
                *path = absolute;
            }
        }
    }
}

/// A container by its name.
#[derive(Debug, Args)]
pub(super) struct Name {
    /// Name of the container
    #[arg(value_name = "CONTAINER")]
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct Make {
    /// Folder with config.json and the root file system
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(super) bundle: PathBuf,
    /// Another file than the bundle's config.json, from the bundle on
    #[arg(short = 'f', long, value_name = "FILE", default_value = "config.json")]
    pub(super) config: PathBuf,
    /// File to write the process number to
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    /// Socket that is sent the master end of the terminal
    #[arg(long, value_name = "SOCKET")]
    pub(super) console_socket: Option<PathBuf>,
    /// Socket that is sent a pidfd of the process
    #[arg(long, value_name = "SOCKET")]
    pub(super) pidfd_socket: Option<PathBuf>,
    /// How many descriptors beyond the standard ones the program keeps
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) preserve_fds: u32,
    /// Move the root instead of pivoting to it (for an initramfs)
    #[arg(long)]
    pub(super) no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub(super) no_new_keyring: bool,
    /// Accepted and without effect: whoever adopts its children reaps them
    #[arg(long)]
    pub(super) no_subreaper: bool,
    /// Name of the container
    #[arg(value_name = "CONTAINER")]
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    pub(super) make: Make,
}

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) make: Make,
    /// Come back when it runs
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Do not remove it when it has ended
    #[arg(long)]
    pub(super) keep: bool,
}

#[derive(Debug, Args)]
pub(super) struct Exec {
    /// Socket that is sent the master end of the terminal
    #[arg(long, value_name = "SOCKET")]
    pub(super) console_socket: Option<PathBuf>,
    /// Working folder in the container
    #[arg(long, value_name = "DIR")]
    pub(super) cwd: Option<PathBuf>,
    /// Environment beyond the container's, NAME=VALUE
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(super) env: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// User id, and group id
    #[arg(short, long, value_name = "UID[:GID]")]
    pub(super) user: Option<String>,
    /// Further group ids
    #[arg(short = 'g', long, value_name = "GID")]
    pub(super) additional_gids: Vec<u32>,
    /// File with the process as JSON
    #[arg(short, long, value_name = "FILE")]
    pub(super) process: Option<PathBuf>,
    /// Come back when it runs
    #[arg(short, long)]
    pub(super) detach: bool,
    /// File to write the process number to
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    /// SELinux context
    #[arg(long, value_name = "LABEL")]
    pub(super) process_label: Option<String>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub(super) apparmor: Option<String>,
    /// Executing adds no privileges
    #[arg(long, value_name = "true|false", value_parser = words::told_truth)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) no_new_privs: Option<bool>,
    /// Further capabilities
    #[arg(short, long, value_name = "CAPABILITY")]
    pub(super) cap: Vec<String>,
    /// Socket that is sent a pidfd of the process
    #[arg(long, value_name = "SOCKET")]
    pub(super) pidfd_socket: Option<PathBuf>,
    /// How many descriptors beyond the standard ones the program keeps
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) preserve_fds: u32,
    /// Control group below the container's, or CONTROLLER:PATH
    #[arg(long, value_name = "PATH")]
    pub(super) cgroup: Vec<String>,
    /// Also into a frozen container, where it waits
    #[arg(long)]
    pub(super) ignore_paused: bool,
    /// Accepted and without effect
    #[arg(long)]
    pub(super) no_subreaper: bool,
    /// Name of the container
    #[arg(value_name = "CONTAINER")]
    pub(super) id: String,
    /// Program and arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(super) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Kill {
    /// To all its processes
    #[arg(short, long)]
    pub(super) all: bool,
    /// Name of the container
    #[arg(value_name = "CONTAINER")]
    pub(super) id: String,
    /// Signal by name or number
    #[arg(
        default_value = "SIGTERM",
        value_name = "SIGNAL",
        allow_hyphen_values = true
    )]
    pub(super) signal: String,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// Kill it first if it runs; no error if there is none
    #[arg(short, long)]
    pub(super) force: bool,
    /// Name of the container
    #[arg(value_name = "CONTAINER")]
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// How to print them
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) format: Format,
    /// Names only
    #[arg(short, long)]
    pub(super) quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct Ps {
    /// How to print them
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) format: Format,
    /// Name of the container; what follows is ps(1)'s: -ef unless told
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CONTAINER [OPTIONS]"
    )]
    pub(super) words: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Spec {
    /// Folder to write config.json to
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(super) bundle: PathBuf,
    /// For a container without root's privileges
    #[arg(long)]
    pub(super) rootless: bool,
}

/// A command that is known and not there yet.
#[derive(Debug, Args)]
// Clients ask for its help to find out whether it is there.
#[command(disable_help_flag = true)]
pub(super) struct Later {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub(super) rest: Vec<String>,
}
