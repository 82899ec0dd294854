//! What a service manager hands on to a container: sockets that it listens on, and the word that the
//! program is ready.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::oci::Bundle;
use crate::support::{Need, Outcome, eventually, need, run};

fn ready() -> bool {
    need(Need::Root) && need(Need::OciRuntime)
}

/// Runs the container below a shell that does this first, as a manager would.
fn run_after(bundle: &Bundle, first: &str) -> Outcome {
    let folder = bundle.write().path("").display().to_string();
    let runtime = bundle.command(&["run", "--bundle", &folder, "c"]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("{first}; exec \"$0\" \"$@\"")])
        .arg(runtime.get_program())
        .args(runtime.get_args())
        .stdin(Stdio::null());
    run(shell)
}

#[test]
fn sockets_are_handed_on_to_whom_they_are_for() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    fs::write(bundle.path("given"), "from the manager\n").expect("a folder of ours");
    let given = bundle.path("given").display().to_string();
    let line = "echo ${LISTEN_FDS-none} $LISTEN_PID $LISTEN_FDNAMES; \
        if test -e /proc/self/fd/3; then cat <&3; fi";
    bundle.script(line);
    let open = format!("exec 3<{given} 4<&-; export LISTEN_FDS=1 LISTEN_FDNAMES=web");
    let told = run_after(&bundle, &format!("{open} LISTEN_PID=$$"));
    assert_eq!(
        told.stdout,
        "1 1 web\nfrom the manager\n",
        "{}",
        told.report()
    );
    // Meant for somebody else, whose environment was inherited.
    let told = run_after(&bundle, &format!("{open} LISTEN_PID=1"));
    assert_eq!(told.stdout.trim_end(), "none", "{}", told.report());
    let told = run_after(&bundle, &format!("{open} LISTEN_PID=$$ LISTEN_FDS=2"));
    assert!(
        told.code != 0 && told.stderr.contains("LISTEN_FDS"),
        "{}",
        told.report()
    );
}

#[test]
fn a_manager_hears_that_it_is_ready_and_nothing_else() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    let address = bundle.path("manager");
    let manager = UnixDatagram::bind(&address).expect("a folder of ours");
    let patience = Some(Duration::from_secs(30));
    manager.set_read_timeout(patience).expect("a time");
    let hear = || {
        let mut text = [0; 256];
        let n = manager.recv(&mut text).expect("word from the runtime");
        String::from_utf8_lossy(&text[..n]).into_owned()
    };
    bundle.script("test -S $NOTIFY_SOCKET && ! rm -f $NOTIFY_SOCKET && touch /seen; sleep 1000");
    let folder = bundle.write().path("").display().to_string();
    let with_manager = |args: &[&str]| {
        let mut command = bundle.command(args);
        command.env("NOTIFY_SOCKET", &address);
        command
    };
    bundle.no_output(with_manager(&["create", "--bundle", &folder, "c"]));
    let pid = bundle.pid();
    let mut start = with_manager(&["start", "c"]).spawn().expect("a program");
    // It is there before the program runs, which cannot put another in its place.
    eventually("the program has seen its socket", 30, || {
        bundle.inside("seen").exists()
    });
    let own = format!("/proc/{pid}/root/run/notify/notify.sock");
    let program = UnixDatagram::unbound().expect("a socket");
    let say = |text: &str| program.send_to(text.as_bytes(), &own).expect("heard");
    say("STATUS=nearly\nMAINPID=1");
    say("NOTREADY=1");
    assert!(start.try_wait().expect("a child").is_none());
    say("STATUS=there\nREADY=1\nMAINPID=1\nFDSTORE=1");
    assert_eq!(hear(), format!("READY=1\nMAINPID={pid}"));
    // Its descriptor is closed here unseen, which says that it was read.
    assert_eq!(hear(), "BARRIER=1");
    assert!(start.wait().expect("a child").success());
    bundle.remove();
    assert!(!Path::new(&bundle.path("state/c")).exists());
}

#[test]
fn what_is_left_beside_its_socket_goes_with_the_container() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    let address = bundle.path("manager");
    let _manager = UnixDatagram::bind(&address).expect("a folder of ours");
    for set in ["bounding", "effective", "permitted"] {
        let list = &mut bundle.config["process"]["capabilities"][set];
        list.as_array_mut()
            .expect("a list")
            .push("CAP_SYS_ADMIN".into());
    }
    bundle.script(
        "mount -o remount,bind,rw /run/notify && mkdir -p /run/notify/a/b && touch /run/notify/a/b/c && \
         ln -s / /run/notify/out && touch /seen; sleep 1000",
    );
    let folder = bundle.write().path("").display().to_string();
    let with_manager = |args: &[&str]| {
        let mut command = bundle.command(args);
        command.env("NOTIFY_SOCKET", &address);
        command
    };
    bundle.no_output(with_manager(&["create", "--bundle", &folder, "c"]));
    let mut start = with_manager(&["start", "c"]).spawn().expect("a program");
    eventually("the program has written there", 30, || {
        bundle.inside("seen").exists()
    });
    assert!(bundle.path("state/c/notify/a/b/c").exists());
    bundle.remove();
    // It has ended and never was ready.
    assert!(start.wait().expect("a child").success());
    assert!(!bundle.path("state/c").exists());
    assert!(bundle.inside("seen").exists());
}
