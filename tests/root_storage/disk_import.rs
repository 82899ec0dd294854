//! Disks of virtual machines, and the root of a real one, become guests that start; and what is wrong
//! with a disk is told, follows nothing and leaves nothing. Needs: root, loop devices, qemu-utils,
//! sfdisk, mkfs.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support;
use crate::support::{Bulkhead, Need, Outcome, TestDir, debian_image, eventually, need, run};

/// The first partition begins there.
const FIRST: u64 = 1 << 20;
const ID: &str = "0123456789abcdef0123456789abcdef";

fn shell(line: &str) {
    let done = Command::new("sh").args(["-ec", line]).output().expect("sh");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{line}\n{said}");
}

fn tools() -> bool {
    need(Need::Root) && need(Need::LoopDevice) && need(Need::DiskTools)
}

/// The root of a machine: the tree of the busybox image, with what a machine has besides.
fn machine(folder: &TestDir) -> PathBuf {
    let (bulkhead, root) = (Bulkhead::new(), folder.join("root"));
    bulkhead.ok(&[
        "create",
        "made",
        "--template",
        "busybox",
        "--network",
        "none",
    ]);
    let images = bulkhead.root().join("var/lib/bulkhead/images");
    shell(&format!(
        "cp -a {}/*/root {to}; cd {to}; echo {ID} > etc/machine-id; echo Shop.example.org > etc/hostname; \
         echo 'nameserver 192.168.7.7' > etc/resolv.conf; \
         printf 'NAME=Test\\nPRETTY_NAME=\"Testix 7\"\\n' > etc/os-release; \
         echo 'UUID=00000000-0000-0000-0000-000000000009 / ext4 defaults 0 1' > etc/fstab; \
         mkdir -p srv dev boot lib/modules/6.1 etc/udev/rules.d etc/cloud run home; \
         echo 1 > boot/vmlinuz; echo 1 > lib/modules/6.1/x.ko; echo 1 > etc/udev/rules.d/70-persistent-net.rules; \
         echo 1 > run/pid; echo mine > srv/f; ln srv/f srv/same; ln -s /etc/passwd srv/link; \
         chown 33:33 srv/f; mknod srv/sda b 8 0; truncate -s 30M srv/hole",
        images.display(),
        to = root.display(),
    ));
    root
}

/// A private area of OpenVZ whose root is a disk in a file.
#[test]
fn a_private_area_on_a_disk_becomes_a_guest() {
    if !tools() {
        return;
    }
    let (folder, to) = (TestDir::new(), Bulkhead::new());
    let root = machine(&folder);
    let gpt = disk(&folder, "gpt", &filesystem(&folder, "ext4", &root, 64));
    let (area, conf) = (folder.join("vz/private/101"), folder.join("etc/vz/conf"));
    std::fs::create_dir_all(area.join("root.hdd")).expect("a folder of ours");
    std::fs::create_dir_all(&conf).expect("a folder of ours");
    let config = "VE_ROOT=/vz/root/$VEID\nHOSTNAME=shop\nPHYSPAGES=0:32768\n";
    std::fs::write(conf.join("101.conf"), config).expect("a file of ours");
    let disk = area.join("root.hdd/root.hds");
    std::fs::rename(converted(&gpt, "parallels"), &disk).expect("a disk of ours");
    let from = text(&area);
    let check = to.run(&["import", "--from", &from, "--check"]);
    assert_eq!(check.code, 0, "{}", check.report());
    let said = format!("{}{}", check.stdout, check.stderr);
    assert!(said.contains("OpenVZ") && said.contains("ploop"), "{said}");
    to.ok(&["import", "--from", &from]);
    assert_eq!(to.ok(&["get", "shop", "memory.limit"]), "128M\n");
    is_at_home(&to, "shop");
    // One that is in use, or a part of one, is not what the container has.
    let whole = std::fs::read(&disk).expect("read");
    let mut used = whole.clone();
    used[44..48].copy_from_slice(&0x746f_6e59_u32.to_le_bytes());
    std::fs::write(&disk, used).expect("written");
    let said = to.fails(&["import", "--from", &from], 1);
    assert!(said.contains("stop the container"), "{said}");
    std::fs::write(&disk, &whole[..whole.len() / 2]).expect("written");
    let said = to.fails(&["import", "--from", &from], 1);
    assert!(said.contains("damaged or cut off"), "{said}");
    nothing_left(&to, &folder);
}

/// A filesystem of this kind and size in a file, with this tree in it.
fn filesystem(folder: &TestDir, kind: &str, tree: &Path, megabytes: u32) -> PathBuf {
    let file = folder.join(kind);
    let (shown, from) = (file.display(), tree.display());
    let make = match kind {
        "ext4" => format!("mkfs.ext4 -qF -d {from} {shown}"),
        "btrfs" => format!("mkfs.btrfs -qf --rootdir {from} {shown}"),
        _ => format!(
            "mkfs.xfs -qf {shown}; mkdir {shown}.d; \
             unshare -m sh -ec 'mount -o loop {shown} {shown}.d; cp -a {from}/. {shown}.d; umount {shown}.d'"
        ),
    };
    shell(&format!("truncate -s {megabytes}M {shown}; {make}"));
    file
}

/// A disk with a partition table and this filesystem in its first partition.
fn disk(folder: &TestDir, table: &str, filesystem: &Path) -> PathBuf {
    let file = folder.join(&format!("{table}.raw"));
    let megabytes = std::fs::metadata(filesystem).expect("made").len() >> 20;
    shell(&format!(
        "rm -f {to}; truncate -s {all}M {to}; printf '2048,{sectors},L\\n' | sfdisk -q --label {table} {to}; \
         cp --sparse=always {from} {to}.part; dd if={to}.part of={to} bs=1M seek=1 conv=notrunc,sparse status=none; rm {to}.part",
        to = file.display(),
        all = megabytes + 3,
        sectors = megabytes << 11,
        from = filesystem.display(),
    ));
    file
}

fn converted(disk: &Path, format: &str) -> PathBuf {
    let to = disk.with_extension(format);
    let (from, shown) = (disk.display(), to.display());
    shell(&format!(
        "qemu-img convert -f raw -O {format} {from} {shown}"
    ));
    to
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// No loop device of ours is there, no temporary folder, nothing that doctor names.
#[track_caller]
fn nothing_left(bulkhead: &Bulkhead, folder: &TestDir) {
    let root = folder.join("");
    eventually("no loop device is left", 10, || {
        let devices = std::fs::read_dir("/sys/block").expect("sysfs").flatten();
        !devices.into_iter().any(|device| {
            let backing = std::fs::read_to_string(device.path().join("loop/backing_file"));
            backing.is_ok_and(|path| {
                path.starts_with(&*root.to_string_lossy())
                    || path.starts_with(&*bulkhead.root().to_string_lossy())
            })
        })
    });
    let text = bulkhead.run(&["doctor", "--format", "json"]).stdout;
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["leftovers"], serde_json::json!([]));
}

#[track_caller]
fn is_at_home(bulkhead: &Bulkhead, name: &str) {
    bulkhead.ok(&["start", name]);
    let line = "cat /etc/machine-id /srv/same; stat -c %u:%h:%s /srv/f /srv/hole; readlink /srv/link; \
        cat /etc/resolv.conf /etc/hostname /etc/fstab; ls -A /boot /lib/modules /srv /etc/udev/rules.d /etc/cloud";
    let seen = bulkhead.ok(&["exec", name, "--", "sh", "-c", line]);
    let expected = format!("{ID}\nmine\n33:2:5\n0:1:31457280\n/etc/passwd\n");
    assert!(seen.starts_with(&expected), "{seen}");
    for gone in [
        "192.168.7.7",
        "example.org",
        "vmlinuz",
        "6.1",
        "sda",
        "70-persistent",
    ] {
        assert!(!seen.contains(gone), "{gone}: {seen}");
    }
    for there in ["#bulkhead: UUID=", "cloud-init.disabled"] {
        assert!(seen.contains(there), "{there}: {seen}");
    }
    bulkhead.ok(&["delete", name, "--force", "--yes"]);
}

#[test]
fn disks_of_every_format_become_guests() {
    if !tools() {
        return;
    }
    let (folder, to) = (TestDir::new(), Bulkhead::new());
    let root = machine(&folder);
    let ext4 = filesystem(&folder, "ext4", &root, 64);
    let gpt = disk(&folder, "gpt", &ext4);
    let check = to.run(&["import", &text(&gpt), "--check"]);
    assert_eq!(check.code, 0, "{}", check.report());
    for what in [
        "Testix 7",
        "partition 1 (ext4)",
        "raw",
        "left out",
        "guest shop",
    ] {
        assert!(check.stderr.contains(what), "{what}: {}", check.stderr);
    }
    assert!(!to.ok(&["list"]).contains("shop"));
    to.ok(&["import", &text(&gpt)]);
    is_at_home(&to, "shop");
    for format in ["qcow2", "vmdk", "vpc", "vhdx", "vdi"] {
        let image = converted(&gpt, format);
        // Not its name tells what it is.
        let odd = folder.join("disk");
        std::fs::rename(image, &odd).expect("our file");
        to.ok(&["import", &text(&odd), "--name", format]);
        is_at_home(&to, format);
    }
    shell(&format!(
        "qemu-img convert -O vpc -o subformat=fixed {} {}",
        gpt.display(),
        folder.join("fixed").display()
    ));
    to.ok(&["import", &text(&folder.join("fixed")), "--name", "fixed"]);
    is_at_home(&to, "fixed");
    to.ok(&[
        "import",
        &text(&disk(&folder, "dos", &ext4)),
        "--name",
        "mbr",
    ]);
    is_at_home(&to, "mbr");
    to.ok(&["import", &text(&ext4), "--name", "whole"]);
    is_at_home(&to, "whole");
    nothing_left(&to, &folder);
}

#[test]
fn other_filesystems_and_volumes_below_the_root() {
    if !tools() {
        return;
    }
    let (folder, to) = (TestDir::new(), Bulkhead::new());
    let root = machine(&folder);
    for (kind, megabytes) in [("xfs", 320), ("btrfs", 128)] {
        let made = filesystem(&folder, kind, &root, megabytes);
        to.ok(&[
            "import",
            &text(&disk(&folder, "gpt", &made)),
            "--name",
            kind,
        ]);
        is_at_home(&to, kind);
    }
    // /srv lies in a partition of its own, /data in one that is not there.
    let fstab = "LABEL=root / ext4 rw 0 1\n/dev/sda2 /srv ext4 rw 0 2\nUUID=12 /data xfs rw 0 2\n";
    let srv = folder.join("srv");
    shell(&format!(
        "mv {root}/srv {srv}; mkdir {root}/srv; echo hidden > {root}/srv/hidden; printf '{fstab}' > {root}/etc/fstab; \
         cd {top}; truncate -s 32M one two; mkfs.ext4 -qF -d root one; mkfs.ext4 -qF -d srv two; \
         truncate -s 66M both; printf '2048,65536\\n67584,65536\\n' | sfdisk -q --label dos both; \
         dd if=one of=both bs=1M seek=1 conv=notrunc status=none; dd if=two of=both bs=1M seek=33 conv=notrunc status=none",
        root = root.display(),
        srv = srv.display(),
        top = folder.join("").display(),
    ));
    let check = to.run(&["import", &text(&folder.join("both")), "--check"]);
    assert!(
        check
            .stderr
            .contains("/data (UUID=12) is not found on this disk"),
        "{}",
        check.stderr
    );
    to.ok(&["import", &text(&folder.join("both")), "--name", "both"]);
    to.ok(&["start", "both"]);
    let seen = to.ok(&["exec", "both", "--", "ls", "-A", "/srv"]);
    assert_eq!(
        seen.split_whitespace().collect::<Vec<_>>(),
        ["f", "hole", "link", "same"]
    );
    nothing_left(&to, &folder);
}

#[test]
fn a_folder_with_the_root_of_a_machine() {
    if !need(Need::Root) {
        return;
    }
    let (folder, to) = (TestDir::new(), Bulkhead::new());
    let root = machine(&folder);
    // What is mounted below it stays out.
    std::fs::create_dir_all(root.join("srv/mnt")).expect("our folder");
    let import = |args: &[&str]| {
        let line = format!(
            "mount -t tmpfs none {}/srv/mnt; echo secret > {0}/srv/mnt/secret; exec \"$@\"",
            root.display()
        );
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-ec", &line, "sh"])
            .arg(support::program());
        command
            .arg("--root")
            .arg(to.root())
            .args(args)
            .env("NO_COLOR", "1");
        run(command)
    };
    let check = import(&["import", "--from", &text(&root), "--check"]);
    assert_eq!(check.code, 0, "{}", check.report());
    assert!(check.stderr.contains("Testix 7"), "{}", check.stderr);
    let made = import(&[
        "import",
        "--from",
        &text(&root),
        "--name",
        "old",
        "--memory",
        "64M",
    ]);
    assert_eq!(made.code, 0, "{}", made.report());
    to.ok(&["start", "old"]);
    assert_eq!(to.ok(&["exec", "old", "--", "ls", "-A", "/srv/mnt"]), "");
    to.ok(&["kill", "old"]);
    is_at_home(&to, "old");
    let said = to.fails(
        &["import", "--from", &text(&folder.join("")), "--name", "x"],
        1,
    );
    assert!(said.contains("no /etc"), "{said}");
    shell(&format!("chown 70000 {}/srv/f", root.display()));
    let said = to.fails(&["import", "--from", &text(&root), "--name", "x"], 1);
    assert!(said.contains("/srv/") && said.contains("65535"), "{said}");
    nothing_left(&to, &folder);
}

/// A qcow2 header with these bytes at these places.
fn qcow2(folder: &TestDir, changes: &[(u64, &[u8])]) -> String {
    let path = folder.join("hostile.qcow2");
    shell(&format!(
        "rm -f {0}; qemu-img create -q -f qcow2 {0} 1M",
        path.display()
    ));
    let file = std::fs::File::options()
        .write(true)
        .open(&path)
        .expect("ours");
    for (at, data) in changes {
        file.write_all_at(data, *at).expect("ours");
    }
    text(&path)
}

#[test]
fn what_lies_in_other_files_is_never_followed() {
    if !tools() {
        return;
    }
    let (folder, to) = (TestDir::new(), Bulkhead::new());
    let secret = "/etc/shadow";
    let refused = |file: &str, what: &str| {
        let said = to.fails(&["import", file, "--name", "x"], 1);
        assert!(said.contains(what) && !said.contains("root:"), "{said}");
        nothing_left(&to, &folder);
    };
    let backing = qcow2(
        &folder,
        &[
            (8, &60_000_u64.to_be_bytes()),
            (16, &11_u32.to_be_bytes()),
            (60_000, secret.as_bytes()),
        ],
    );
    refused(&backing, secret);
    let data = qcow2(&folder, &[(72, &4_u64.to_be_bytes())]);
    refused(&data, "data file");
    let vmdk = folder.join("x.vmdk");
    let extent = format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
         RW 8 FLAT \"{secret}\" 0\nddb.adapterType = \"ide\"\n"
    );
    std::fs::write(&vmdk, extent).expect("ours");
    refused(&text(&vmdk), secret);
    // The descriptor inside a sparse one: what qemu follows is not there where it runs.
    let sparse = folder.join("sparse.vmdk");
    shell(&format!(
        "qemu-img create -q -f vmdk {} 1M",
        sparse.display()
    ));
    let bytes = std::fs::read(&sparse).expect("ours");
    let word = b"parentCID=ffffffff";
    let at = bytes
        .windows(word.len())
        .position(|w| w == word)
        .expect("a descriptor");
    let file = std::fs::File::options()
        .write(true)
        .open(&sparse)
        .expect("ours");
    let hint = format!("parentCID=00000001\nparentFileNameHint=\"{secret}\"\n");
    file.write_all_at(hint.as_bytes(), at as u64).expect("ours");
    refused(&text(&sparse), "");
    // A partition table cannot reach anything either: a chain that never ends, parts beyond the disk.
    let raw = folder.join("raw");
    let mut disk = vec![0_u8; 4 << 20];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (index, (kind, first, count)) in [(5, 1, 8000), (0x83, 1, u32::MAX)].iter().enumerate() {
        let at = 446 + index * 16;
        disk[at + 4] = *kind;
        disk[at + 8..at + 12].copy_from_slice(&u32::to_le_bytes(*first));
        disk[at + 12..at + 16].copy_from_slice(&u32::to_le_bytes(*count));
    }
    std::fs::write(&raw, disk).expect("ours");
    refused(&text(&raw), "no Linux on it");
}

#[test]
fn what_is_no_linux_or_damaged_is_refused_with_the_reason() {
    if !tools() {
        return;
    }
    let (folder, to) = (TestDir::new(), Bulkhead::new());
    let root = machine(&folder);
    let ext4 = filesystem(&folder, "ext4", &root, 32);
    let gpt = disk(&folder, "gpt", &ext4);
    let refused = |file: &Path, what: &str| {
        let said = to.fails(&["import", &text(file), "--name", "x"], 1);
        assert!(said.contains(what), "{what}: {said}");
        nothing_left(&to, &folder);
    };
    let changed = |what: &[(u64, &[u8])]| {
        let path = folder.join("changed");
        std::fs::copy(&gpt, &path).expect("ours");
        let file = std::fs::File::options()
            .write(true)
            .open(&path)
            .expect("ours");
        for (at, data) in what {
            file.write_all_at(data, FIRST + at).expect("ours");
        }
        path
    };
    refused(
        &changed(&[(3, b"NTFS    ")]),
        "partition 1: NTFS, of Windows",
    );
    refused(&changed(&[(536, b"LVM2 001")]), "LVM are not read");
    refused(&changed(&[(0, b"LUKS\xba\xbe")]), "unlock it");
    refused(&changed(&[(0x438, &[0, 0])]), "nothing that is known");
    // Superblock, group descriptors, inodes.
    refused(&changed(&[(0x400, &[0xff; 56])]), "damaged");
    refused(&changed(&[(0x800, &[0xff; 0x400])]), "damaged");
    let empty = folder.join("empty");
    shell(&format!(
        "truncate -s 8M {0}; echo , | sfdisk -q --label dos {0}",
        empty.display()
    ));
    refused(&empty, "nothing that is known");
    let noise = changed(&[]);
    shell(&format!(
        "head -c 20M /dev/urandom | dd of={} bs=1M seek=2 conv=notrunc status=none",
        noise.display()
    ));
    let said = to.run(&["import", &text(&noise), "--name", "x"]);
    assert_eq!(said.code, 1, "{}", said.report());
    nothing_left(&to, &folder);
    for format in ["qcow2", "vmdk", "vpc", "vhdx", "vdi"] {
        let image = converted(&gpt, format);
        let length = std::fs::metadata(&image).expect("ours").len();
        let file = std::fs::File::options()
            .write(true)
            .open(&image)
            .expect("ours");
        // Disks that are padded at the end may lose some of that.
        let end = if format == "vhdx" {
            length - (9 << 20)
        } else {
            length - 70_000
        };
        for cut in [end, length / 2, 4096, 600] {
            file.set_len(cut).expect("ours");
            let said = to.run(&["import", &text(&image), "--name", "x"]);
            assert_eq!(said.code, 1, "{format} at {cut}: {}", said.report());
        }
        nothing_left(&to, &folder);
    }
}

/// Runs the program with its root on a small disk.
fn on(at: &Path, args: &[&str]) -> Outcome {
    let mut command = Command::new(support::program());
    command.arg("--root").arg(at).args(args);
    command.env_remove("BULKHEAD_ROOT").env("NO_COLOR", "1");
    run(command)
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    if !tools() {
        return;
    }
    let folder = TestDir::new();
    let root = machine(&folder);
    shell(&format!(
        "head -c 20M /dev/urandom > {}/srv/big",
        root.display()
    ));
    let ext4 = filesystem(&folder, "ext4", &root, 64);
    let qcow2 = converted(&ext4, "qcow2");
    let (small, at) = (folder.join("small"), folder.join("mnt"));
    std::fs::create_dir(&at).expect("a folder of ours");
    let (shown, place) = (small.display(), at.display());
    shell(&format!(
        "truncate -s 16M {shown}; mkfs.ext4 -qF -m 0 {shown}; mount -o loop {shown} {place}"
    ));
    let tries = [&ext4, &qcow2].map(|file| on(&at, &["import", &text(file), "--name", "x"]));
    let doctor = on(&at, &["doctor", "--format", "json"]);
    shell(&format!("umount {place}"));
    for done in tries {
        assert_eq!(done.code, 1, "{}", done.report());
        let full = ["No space left", "is full"];
        assert!(
            full.iter().any(|why| done.stderr.contains(why)),
            "{}",
            done.report()
        );
    }
    let report: serde_json::Value = serde_json::from_str(&doctor.stdout).expect("JSON");
    assert_eq!(report["leftovers"], serde_json::json!([]));
}

#[test]
fn killed_anywhere_it_leaves_nothing() {
    if !tools() {
        return;
    }
    let (folder, to) = (TestDir::new(), Bulkhead::new());
    let ext4 = filesystem(&folder, "ext4", &machine(&folder), 32);
    let file = text(&converted(&ext4, "qcow2"));
    for act in ["", ":fail"] {
        for n in 0.. {
            let mut command = to.command(&["import", &file, "--network", "none"]);
            command.env("BULKHEAD_FAULT", format!("command:{n}{act}"));
            let outcome = run(command);
            if act.is_empty() {
                to.ok(&["doctor", "--fix"]);
            }
            nothing_left(&to, &folder);
            let there = to.run(&["info", "shop"]).code == 0;
            if there {
                to.ok(&["delete", "shop", "--force", "--yes"]);
            }
            // The image must be made each time.
            let images = to.root().join("var/lib/bulkhead/images");
            shell(&format!("rm -rf {}/*", images.display()));
            if outcome.code == 0 {
                assert!(n > 10 && there, "{n}");
                break;
            }
        }
    }
}

#[test]
fn a_debian_machine_comes_up_with_its_services() {
    if !tools() || !need(Need::DebianImage) {
        return;
    }
    let (folder, to) = (TestDir::new(), Bulkhead::new());
    let archive = debian_image().expect("asked for before");
    let root = folder.join("root");
    shell(&format!(
        "mkdir {0}; tar -C {0} -xf {1}; cd {0}; echo UUID=1 / ext4 defaults 0 1 > etc/fstab; \
         echo {ID} > etc/machine-id; mkdir -p boot lib/modules/6; echo x > boot/vmlinuz; \
         rm -f etc/systemd/system/*.service etc/systemd/system/*.mount etc/systemd/system/*.socket",
        root.display(),
        archive.display()
    ));
    let ext4 = filesystem(&folder, "ext4", &root, 1500);
    shell(&format!("rm -rf {}", root.display()));
    let gpt = disk(&folder, "gpt", &ext4);
    std::fs::remove_file(ext4).expect("ours");
    for format in ["raw", "qcow2"] {
        let file = match format {
            "raw" => gpt.clone(),
            _ => converted(&gpt, format),
        };
        to.ok(&["import", &text(&file), "--name", format, "--memory", "512M"]);
        to.ok(&["start", format]);
        to.ok(&["wait", format, "ready", "-t", "140s"]);
        let state = to.run(&["exec", format, "--", "systemctl", "is-system-running"]);
        let failed = to.run(&["exec", format, "--", "systemctl", "--failed", "--no-pager"]);
        assert_eq!(state.stdout.trim(), "running", "{}", failed.stdout);
        assert!(
            to.ok(&["exec", format, "--", "cat", "/etc/machine-id"])
                .starts_with(ID)
        );
        to.ok(&["delete", format, "--force", "--yes"]);
    }
    nothing_left(&to, &folder);
}
