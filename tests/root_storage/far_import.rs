//! A machine elsewhere becomes a guest over ssh: a server of Debian's openssh-server on loopback, with
//! keys made for the test, and the tree of a machine that changes between the two passes. Needs: root,
//! openssh-server, ssh, GNU tar.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::life::data;
use crate::support::{Bulkhead, Need, Outcome, TestDir, eventually, need, run};
use serde_json::json;

fn shell(line: &str) {
    let done = Command::new("sh").args(["-ec", line]).output().expect("sh");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{line}\n{said}");
}

/// A server of ssh on loopback, and a machine's root in a folder. Ended when dropped.
struct Machine {
    folder: TestDir,
    port: u16,
    child: Child,
}

impl Machine {
    fn new() -> Self {
        Self::with("")
    }

    /// One for whose server something is mounted first, by a line for a shell in its folder.
    fn with(mounts: &str) -> Self {
        let folder = TestDir::new();
        let host = Bulkhead::new();
        host.ok(&[
            "create",
            "made",
            "--template",
            "busybox",
            "--network",
            "none",
        ]);
        let images = host.root().join("var/lib/bulkhead/images");
        let top = folder.path().display().to_string();
        shell(&format!(
            "cd {top}; cp -a {}/*/root root; cd root; echo Shop.example.org > etc/hostname; \
             printf 'NAME=Test\\nPRETTY_NAME=\"Testix 7\"\\n' > etc/os-release; \
             echo 'UUID=1 / ext4 defaults 0 1' > etc/fstab; mkdir -p srv/db 'srv/a dir' srv/old srv/new proc boot home dev; \
             echo 1 > proc/secret; echo 1 > boot/vmlinuz; echo stays > srv/stays; echo old > srv/changes; \
             echo gone > srv/gone; echo deep > 'srv/a dir/deep'; chown 33:33 srv/stays; ln srv/stays srv/same; \
             ln -s /etc/passwd srv/link; mknod srv/sda b 8 0; truncate -s 30M srv/hole; echo 1 > srv/db/pid; \
             echo one > srv/old/x; echo two > srv/new/x; touch -d 2020-01-01 srv/db/pid srv/old/x; touch -d 2020-01-02 srv/new/x",
            images.display()
        ));
        shell(&format!(
            "cd {top}; ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f own; \
             cp own.pub keys; sed 's/^root:[^:]*:/root:*:/' /etc/shadow > shadow; chmod 600 shadow keys; \
             printf '%s\\n' 'HostKey {top}/host' 'AuthorizedKeysFile {top}/keys' 'UsePAM no' 'StrictModes no' \
             'PermitRootLogin yes' 'PidFile none' 'ListenAddress 127.0.0.1' > conf"
        ));
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        // What the server wants to find below /run and in /etc/shadow it finds in mounts of its own; so
        // is what is mounted below the machine's root.
        let line = format!(
            "mount -t tmpfs none /run; mkdir /run/sshd; mount --bind {top}/shadow /etc/shadow; \
             mount -t tmpfs none {top}/root/home; echo elsewhere > {top}/root/home/x; \
             cd {top}; {mounts}\nexec /usr/sbin/sshd -D -f {top}/conf -p {port}"
        );
        let child = Command::new("unshare")
            .args(["-m", "sh", "-ec", &line])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("unshare");
        eventually("sshd answers", 20, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self {
            folder,
            port,
            child,
        }
    }

    /// `import --ssh` of its root with these flags.
    fn import(&self, host: &Bulkhead, flags: &[&str], fault: Option<u32>) -> Outcome {
        let mut command = self.command(host, flags);
        if let Some(point) = fault {
            command.env("BULKHEAD_FAULT", format!("command:{point}"));
        }
        run(command)
    }

    fn command(&self, host: &Bulkhead, flags: &[&str]) -> Command {
        let top = self.folder.path().display();
        let place = format!("root@127.0.0.1:{top}/root");
        let options = [
            format!("Port={}", self.port),
            format!("IdentityFile={top}/own"),
            format!("UserKnownHostsFile={top}/known"),
            "StrictHostKeyChecking=accept-new".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
        ];
        let mut words = vec!["import", "--ssh", &place];
        for option in &options {
            words.extend(["--ssh-option", option]);
        }
        words.extend(flags);
        host.command(&words)
    }

    /// What stands in the way of the tar there.
    fn with_tar(&self, script: &str) {
        let path = self.folder.join("tar");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("our folder");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("our file");
        let keys = std::fs::read_to_string(self.folder.join("own.pub")).expect("made");
        let line = format!(
            "command=\"PATH={}:$PATH; $SSH_ORIGINAL_COMMAND\" {keys}",
            self.folder.path().display()
        );
        std::fs::write(self.folder.join("keys"), line).expect("our folder");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn tools() -> bool {
    need(Need::Root) && need(Need::SshServer)
}

#[test]
fn a_machine_that_runs_becomes_a_guest() {
    if !tools() {
        return;
    }
    let (host, machine) = (Bulkhead::new(), Machine::new());
    // What was there before the first pass is not new by its time.
    std::thread::sleep(Duration::from_millis(2100));
    let check = machine.import(&host, &["--check"], None);
    assert_eq!(check.code, 0, "{}", check.report());
    for part in [
        "Testix 7",
        "/home (tmpfs) is mounted there: not taken",
        "--stop",
        "guest shop would",
    ] {
        assert!(check.stderr.contains(part), "{part}: {}", check.stderr);
    }
    assert_eq!(data(&host, &["list"]), json!([]));
    // What happens between the passes: files change, go, come, and are renamed; an owner, a link.
    let top = machine.folder.path().display().to_string();
    let stop = format!(
        "cd {top}/root/srv; echo noise; echo new > changes; rm gone; rm -r 'a dir'; mv db data; rm -r old; mv new old; echo own > later; \
         chmod 600 hole; rm same; ln stays same2; rm link; mkdir link; echo in > link/side"
    );
    let done = machine.import(&host, &["--stop", &stop], None);
    assert_eq!(done.code, 0, "{}", done.report());
    assert!(done.stderr.contains("second pass"), "{}", done.stderr);
    host.ok(&["start", "shop"]);
    let seen = host.ok(&[
        "exec", "shop", "--", "sh", "-c",
        "cd /srv; cat old/x; find . | sort | tr '\\n' ' '; cat changes later link/side data/pid; stat -c '%u:%g %h' stays; \
         stat -c '%a %s %b' hole; ls /boot /home; ls /proc/secret 2>&1; cat /etc/fstab",
    ]);
    let files = "two\n. ./changes ./data ./data/pid ./hole ./later ./link ./link/side ./old ./old/x ./same2 ./stays ";
    assert!(seen.starts_with(files), "{seen}");
    for part in [
        "new\nown\nin\n1\n33:33 2\n600 31457280 0\n",
        "No such file",
        "#bulkhead: UUID=1",
    ] {
        assert!(seen.contains(part), "{part}: {seen}");
    }
    assert!(
        !seen.contains("elsewhere") && !seen.contains("vmlinuz"),
        "{seen}"
    );
    host.ok(&["image", "verify"]);
    assert_eq!(data(&host, &["doctor"])["leftovers"], json!([]));
}

#[test]
fn what_is_wrong_there_is_told_and_leaves_nothing() {
    if !tools() {
        return;
    }
    let (host, machine) = (Bulkhead::new(), Machine::new());
    let fails = |flags: &[&str], why: &str| {
        let done = machine.import(&host, flags, None);
        assert!(
            done.code != 0 && done.stderr.contains(why),
            "{why}: {}",
            done.report()
        );
        assert_eq!(data(&host, &["doctor"])["leftovers"], json!([]));
        assert_eq!(data(&host, &["image", "list"]), json!([]));
        assert_eq!(data(&host, &["list"]), json!([]));
    };
    fails(&["--stop", "echo it says why >&2; exit 7"], "did not stop");
    fails(&["--stop", "exit 7"], "code 7");
    fails(&["--ssh-option", "Port=1", "--ssh-option", "User=x"], "");
    let far = |place: &str| host.run(&["import", "--ssh", place, "--ssh-option", "BatchMode=yes"]);
    assert_eq!(far("-oProxyCommand=touch /x").code, 2);
    let gone = far("bulkhead.invalid");
    assert!(
        gone.stderr.contains("does not reach bulkhead.invalid"),
        "{}",
        gone.report()
    );
    // What comes is no tar, ends in the middle, leads out, or has owners and names that no guest has.
    let real = "case \" $* \" in *--version*|*--help*) exec /bin/tar \"$@\";; esac\n";
    for (script, why) in [
        ("head -c 100000 /dev/zero | tr '\\0' x", "no tar"),
        ("/bin/tar \"$@\" | head -c 40000", "cut off"),
        (
            "/bin/tar -cPf - --transform 's,^,../../,' /etc/hostname",
            "..",
        ),
        (
            "/bin/tar -cf - --owner=70000 -C / etc/hostname",
            "above 65535",
        ),
        ("echo 'disk on fire' >&2; exit 2", "disk on fire"),
        ("/bin/tar -cf - -C / etc/hostname; exit 2", "code 2"),
    ] {
        machine.with_tar(&format!("{real}{script}"));
        fails(&[], why);
    }
}

#[test]
fn subvolumes_in_subvolumes_are_told() {
    if !tools() || !need(Need::LoopDevice) || !need(Need::DiskTools) {
        return;
    }
    let host = Bulkhead::new();
    let machine = Machine::with(
        "truncate -s 256M disk; mkfs.btrfs -q disk; mkdir root/vol; mount -o loop disk root/vol; \
         btrfs -q subvolume create root/vol/nested; mkdir root/vol/plain; \
         btrfs -q subvolume create root/vol/tied; mount -o bind root/vol/tied root/vol/tied",
    );
    let check = machine.import(&host, &["--check"], None);
    assert_eq!(check.code, 0, "{}", check.report());
    let nested = "/vol/nested is a btrfs subvolume of its own there: not taken";
    for part in [
        nested,
        "/vol is another filesystem there, and taken",
        "/vol/tied is another filesystem",
    ] {
        assert!(check.stderr.contains(part), "{part}: {}", check.stderr);
    }
    assert_eq!(
        check.stderr.matches("btrfs subvolume").count(),
        1,
        "{}",
        check.stderr
    );
}

#[test]
fn a_machine_that_does_not_end_holds_nobody_who_is_asked_to() {
    if !tools() {
        return;
    }
    let (host, machine) = (Bulkhead::new(), Machine::new());
    let sent = machine.folder.join("sent");
    machine.with_tar(&format!(
        "case \" $* \" in *--version*|*--help*) exec /bin/tar \"$@\";; esac\n\
         /bin/tar \"$@\"; touch {}; exec >&-; sleep 40",
        sent.display()
    ));
    let mut command = machine.command(&host, &[]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("our program");
    eventually("all is sent", 30, || sent.exists());
    std::thread::sleep(Duration::from_secs(1));
    assert!(child.try_wait().unwrap().is_none());
    let begin = Instant::now();
    let pid = child.id().to_string();
    Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    let status = child.wait().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(15), "{status}");
    assert!(!status.success(), "{status}");
    assert_eq!(data(&host, &["doctor"])["leftovers"], json!([]));
    assert_eq!(data(&host, &["image", "list"]), json!([]));
}

#[test]
fn killed_anywhere_it_leaves_nothing_that_is_not_found() {
    if !tools() {
        return;
    }
    let (host, machine) = (Bulkhead::new(), Machine::new());
    // Each is a whole import, which takes seconds on a busy machine: every third.
    for point in (0..80).step_by(3) {
        let done = machine.import(&host, &["--stop", "true"], Some(point));
        host.ok(&["doctor", "--fix"]);
        assert_eq!(data(&host, &["doctor"])["leftovers"], json!([]), "{point}");
        if done.code == 0 {
            assert!(point > 8, "{point} points");
            return;
        }
        host.run(&["delete", "shop", "--force"]);
    }
    panic!("more than 80 points");
}
