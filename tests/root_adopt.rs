//! Backups of other programs' containers, made here from the public descriptions of their forms,
//! become guests that start. Needs: root, tar.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Bulkhead, Need, TestDir, need};

fn shell(line: &str) {
    let done = Command::new("sh").args(["-ec", line]).status();
    assert!(done.expect("sh").success(), "{line}");
}

/// A root that starts: the tree of the busybox image, with an address of elsewhere and a machine id.
fn root(folder: &TestDir) -> PathBuf {
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
        "cp -a {}/*/root {to}; echo {id} > {to}/etc/machine-id; echo elsewhere > {to}/etc/hostname; \
         echo 'nameserver 192.168.7.7' > {to}/etc/resolv.conf; mkdir -p {to}/srv {to}/dev; \
         echo mine > {to}/srv/f; ln {to}/srv/f {to}/srv/same; mknod {to}/dev/null c 1 3; chown 33:33 {to}/srv/f",
        images.display(),
        to = root.display(),
        id = "0123456789abcdef".repeat(2),
    ));
    root
}

fn pct(folder: &TestDir, root: &Path, config: &str) -> String {
    let (conf, out) = (folder.join("conf"), folder.join("vzdump-lxc-101.tar.zst"));
    std::fs::create_dir_all(conf.join("etc/vzdump")).expect("a folder of ours");
    std::fs::write(conf.join("etc/vzdump/pct.conf"), config).expect("a file of ours");
    shell(&format!(
        "tar cpf - --acls --xattrs '--xattrs-include=user.*' '--xattrs-include=security.capability' \
         -C {} ./etc/vzdump/pct.conf -C {} ./ | zstd -q -f -o {}",
        conf.display(),
        root.display(),
        out.display()
    ));
    out.display().to_string()
}

const PCT: &str = "\
arch: amd64
cores: 1
hostname: shop.example.org
memory: 128
swap: 0
net0: name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=192.168.7.5/24,gw=192.168.7.1,type=veth
ostype: debian
rootfs: local-lvm:vm-101-disk-0,size=8G
unprivileged: 1
features: nesting=1
";

#[track_caller]
fn is_at_home(bulkhead: &Bulkhead, name: &str) {
    bulkhead.ok(&["start", name]);
    let line =
        "cat /etc/machine-id /srv/same; stat -c %u:%h /srv/f; cat /etc/resolv.conf /etc/hostname";
    let seen = bulkhead.ok(&["exec", name, "--", "sh", "-c", line]);
    assert!(
        seen.starts_with("0123456789abcdef0123456789abcdef\nmine\n33:2\n"),
        "{seen}"
    );
    assert!(
        !seen.contains("192.168.7.7") && !seen.contains("elsewhere"),
        "{seen}"
    );
}

#[test]
fn a_container_of_proxmox_becomes_a_guest() {
    if !need(Need::Root) {
        return;
    }
    let (folder, to) = (TestDir::new(), Bulkhead::new());
    let root = root(&folder);
    let file = pct(&folder, &root, PCT);
    let check = to.run(&["import", &file, "--check"]);
    assert_eq!(check.code, 0, "{}", check.report());
    assert!(check.stdout.contains("128M"), "{}", check.stdout);
    for what in ["192.168.7.5/24", "8G", "nesting"] {
        assert!(check.stderr.contains(what), "{what}: {}", check.stderr);
    }
    assert!(!to.ok(&["list"]).contains("shop"));
    to.ok(&["import", &file]);
    assert_eq!(to.ok(&["get", "shop", "memory.limit"]), "128M\n");
    is_at_home(&to, "shop");
    // A second one of it is another machine.
    to.ok(&["import", &file, "--name", "copy", "--memory", "64M"]);
    to.ok(&["start", "copy"]);
    let id = to.ok(&["exec", "copy", "--", "cat", "/etc/machine-id"]);
    assert!(!id.starts_with("0123456789abcdef"), "{id}");
    let foreign = pct(&folder, &root, "arch: arm64\nhostname: arm\n");
    assert!(to.fails(&["import", &foreign], 1).contains("arm64"));
}

#[test]
fn a_container_of_incus_becomes_a_guest() {
    if !need(Need::Root) {
        return;
    }
    let (folder, to) = (TestDir::new(), Bulkhead::new());
    let (root, stage) = (root(&folder), folder.join("stage"));
    let index = "name: shop\nbackend: dir\npool: default\noptimized: false\ntype: container\nsnapshots: []\n\
        config:\n  container:\n    architecture: x86_64\n    expanded_config:\n      limits.memory: 128MiB\n      \
        volatile.last_state.idmap: '[{\"Isuid\":true,\"Isgid\":true,\"Hostid\":1000000,\"Nsid\":0,\"Maprange\":65536}]'\n    \
        expanded_devices:\n      root:\n        path: /\n        pool: default\n        type: disk\n";
    std::fs::create_dir_all(stage.join("backup/container")).expect("a folder of ours");
    std::fs::write(stage.join("backup/index.yaml"), index).expect("a file of ours");
    std::fs::write(stage.join("backup/container/backup.yaml"), "x: y\n").expect("a file of ours");
    // As it lies on disk there: every owner shifted.
    shell(&format!(
        "cp -a {from} {to}; cd {to}; find . -uid 0 -exec chown -h 1000000:1000000 {{}} +; \
         find . -uid 33 -exec chown -h 1000033:1000033 {{}} +; cd {stage}; \
         tar --numeric-owner -czf backup.tar.gz backup/index.yaml backup/container",
        from = root.display(),
        to = stage.join("backup/container/rootfs").display(),
        stage = stage.display()
    ));
    let file = stage.join("backup.tar.gz").display().to_string();
    to.ok(&["import", &file]);
    assert_eq!(to.ok(&["get", "shop", "memory.limit"]), "128M\n");
    is_at_home(&to, "shop");
}

#[test]
fn a_container_of_lxc_becomes_a_guest_with_its_address() {
    if !need(Need::Root) {
        return;
    }
    let (folder, to) = (TestDir::new(), Bulkhead::new());
    let root = root(&folder);
    let base = folder.path().display().to_string();
    // An address of this host's own network that nobody has.
    to.ok(&["create", "first", "--template", "busybox"]);
    let first = to.ok(&["info", "first", "--format", "json"]);
    let first: serde_json::Value = serde_json::from_str(&first).expect("JSON");
    let address = first["address"].as_str().expect("an address");
    let net = address.rsplit_once('.').expect("four parts").0;
    let config = format!(
        "lxc.uts.name = shop\nlxc.cgroup2.memory.max = 128M\nlxc.net.0.ipv4.address = {net}.77/24\n\
         lxc.mount.entry = /srv srv none bind 0 0\n"
    );
    std::fs::write(folder.join("config"), config).expect("a file of ours");
    shell(&format!(
        "cd {base}; tar --numeric-owner -czf lxc.tgz --transform 's,^{},rootfs,' config {}",
        root.file_name().expect("a name").display(),
        root.file_name().expect("a name").display()
    ));
    to.ok(&["import", &format!("{base}/lxc.tgz")]);
    assert_eq!(to.ok(&["get", "shop", "memory.limit"]), "128M\n");
    assert_eq!(
        to.ok(&["get", "shop", "network.address"]),
        format!("{net}.77\n")
    );
    is_at_home(&to, "shop");
    // One that is taken is none; and a root that lies here, with what OpenVZ says of it beside it.
    let taken =
        format!("HOSTNAME=\"vz.example.org\"\nPHYSPAGES=\"0:32768\"\nIP_ADDRESS=\"{net}.77\"\n");
    std::fs::write(folder.join("101.conf"), taken).expect("a file of ours");
    let (root, conf) = (root.display().to_string(), format!("{base}/101.conf"));
    let said = to.run(&["import", "--from", &root, "--config", &conf]);
    assert_eq!(said.code, 0, "{}", said.report());
    assert!(
        said.stderr.contains("it has one of this host"),
        "{}",
        said.report()
    );
    assert_eq!(to.ok(&["get", "vz", "memory.limit"]), "128M\n");
    to.fails(
        &[
            "import",
            "--from",
            &root,
            "--config",
            "/etc/passwd",
            "--name",
            "x",
        ],
        1,
    );
}

#[test]
fn what_is_damaged_or_hostile_leaves_nothing() {
    if !need(Need::Root) {
        return;
    }
    let (folder, to) = (TestDir::new(), Bulkhead::new());
    let root = root(&folder);
    let file = pct(&folder, &root, PCT);
    let whole = std::fs::read(&file).expect("the archive");
    for length in [0, 3, 100, whole.len() / 2, whole.len() - 1] {
        let cut = folder.join("cut");
        std::fs::write(&cut, &whole[..length]).expect("a file of ours");
        to.fails(&["import", &cut.display().to_string()], 1);
    }
    let mut killed = 0;
    for n in 0.. {
        let mut command = to.command(&["import", &file]);
        command.env("BULKHEAD_FAULT", format!("command:{n}"));
        let outcome = support::run(command);
        to.ok(&["doctor", "--fix"]);
        let report = to.run(&["doctor", "--format", "json"]).stdout;
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(report["leftovers"], serde_json::json!([]), "{n}");
        if to.run(&["info", "shop"]).code == 0 {
            to.ok(&["delete", "shop", "--force", "--yes"]);
        }
        to.ok(&["image", "prune"]);
        if outcome.code == 0 {
            break;
        }
        killed += 1;
    }
    assert!(killed > 6, "{killed}");
    std::fs::create_dir(root.join("up")).expect("a folder of ours");
    shell(&format!(
        "cd {}; tar cf hostile.tar --transform='s,^root/up$,../../escape,' -C conf ./etc/vzdump/pct.conf -C .. root/up; rm -rf conf",
        folder.path().display()
    ));
    let hostile = folder.join("hostile.tar").display().to_string();
    let said = to.fails(&["import", &hostile], 1);
    assert!(said.contains("upwards"), "{said}");
    assert!(!to.ok(&["list"]).contains("shop"));
}
