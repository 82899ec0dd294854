//! Backups of other programs' containers, made here from the public descriptions of their forms,
//! become guests that start. Needs: root, tar.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support;
use crate::support::{Bulkhead, Need, TestDir, need};

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
    for what in ["192.168.7.5", "8G", "nesting"] {
        assert!(check.report().contains(what), "{what}: {}", check.report());
    }
    assert!(!to.ok(&["list"]).contains("shop"));
    to.ok(&["import", &file]);
    assert_eq!(to.ok(&["get", "shop", "memory.limit"]), "128M\n");
    assert_eq!(
        to.ok(&["get", "shop", "network.mac"]),
        "bc:24:11:00:00:01\n"
    );
    is_at_home(&to, "shop");
    assert!(
        to.fails(&["import", &file, "--check"], 4)
            .contains("--name shop-2")
    );
    // A second one of it is another machine.
    to.ok(&["import", &file, "--name", "copy", "--memory", "64M"]);
    to.ok(&["start", "copy"]);
    let id = to.ok(&["exec", "copy", "--", "cat", "/etc/machine-id"]);
    assert!(!id.starts_with("0123456789abcdef"), "{id}");
    let foreign = pct(&folder, &root, "arch: arm64\nhostname: arm\n");
    assert!(to.fails(&["import", &foreign], 1).contains("arm64"));
}

#[test]
fn addresses_of_networks_that_are_here_are_taken() {
    if !need(Need::Root) {
        return;
    }
    let (folder, to) = (TestDir::new(), Bulkhead::new());
    let root = root(&folder);
    to.ok(&[
        "network",
        "create",
        "back",
        "--kind",
        "isolated",
        "--subnet",
        "10.201.91.0/24",
    ]);
    to.ok(&["create", "one", "--template", "busybox"]);
    let list = to.ok(&["list", "--format", "json"]);
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    let address: std::net::Ipv4Addr = list[0]["address"]
        .as_str()
        .and_then(|a| a.parse().ok())
        .expect("an address");
    let [a, b, c, d] = address.octets();
    let free = std::net::Ipv4Addr::new(a, b, c, d + 70);
    let config = format!(
        "arch: amd64\nhostname: shop\nmemory: 64\nnet0: name=eth0,bridge=vmbr0,gw=192.0.2.1,\
         hwaddr=BC:24:11:00:00:01,ip={free}/24,rate=10\nnet1: name=lan,bridge=vmbr1,ip=10.201.91.9/24\n\
         net2: name=x,bridge=vmbr2,ip=198.51.100.7/24\nnet3: name=y,bridge=vmbr3,ip=999.1.1.1/24\n\
         cpuunits: 50\nstartup: order=3\nonboot: 1\nfeatures: nesting=1\n"
    );
    let file = pct(&folder, &root, &config);
    let check = to.run(&["import", &file, "--check"]);
    assert_eq!(check.code, 0, "{}", check.report());
    for what in [
        "10.201.91.9",
        "--trust",
        "198.51.100.7",
        "999.1.1.1",
        "192.0.2.1",
    ] {
        assert!(check.stderr.contains(what), "{what}: {}", check.stderr);
    }
    to.ok(&["import", &file, "--trust", "--start"]);
    for (key, value) in [
        ("network.address", free.to_string()),
        ("network.mac", "bc:24:11:00:00:01".into()),
        ("network.rate_in", "80mbit".into()),
        ("cpu.weight", "50".into()),
        ("autostart.priority", "997".into()),
        ("security.nesting", "true".into()),
        ("network.nic.lan", "back,address=10.201.91.9".into()),
    ] {
        assert_eq!(to.ok(&["get", "shop", key]), format!("{value}\n"), "{key}");
    }
    let seen = to.ok(&["exec", "shop", "--", "ip", "addr"]);
    for what in [&free.to_string(), "bc:24:11:00:00:01", "10.201.91.9"] {
        assert!(seen.contains(what), "{what}: {seen}");
    }
    // They are had once.
    let again = to.run(&["import", &file, "--trust", "--name", "copy", "--check"]);
    assert_eq!(again.code, 0, "{}", again.report());
    assert_eq!(
        again.stderr.matches("shop has it").count(),
        3,
        "{}",
        again.stderr
    );
    to.ok(&["delete", "shop", "--force", "--yes"]);
    to.ok(&["delete", "one", "--yes"]);
    to.ok(&["network", "delete", "back"]);
}

#[test]
fn a_container_of_lxc_becomes_a_guest() {
    if !need(Need::Root) {
        return;
    }
    let (folder, to) = (TestDir::new(), Bulkhead::new());
    let (root, lxc) = (root(&folder), folder.join("lxc"));
    std::fs::create_dir_all(lxc.join("web")).expect("a folder of ours");
    let config = "lxc.include = /usr/share/lxc/config/common.conf\nlxc.uts.name = web\n\
        lxc.cgroup2.memory.max = 128M\nlxc.idmap = u 0 100000 65536\nlxc.idmap = g 0 100000 65536\n\
        lxc.net.0.type = veth\nlxc.net.0.hwaddr = 00:16:3e:01:02:03\n";
    std::fs::write(lxc.join("web/config"), config).expect("a file of ours");
    // The root comes first, its owners as they lie on the host there.
    shell(&format!(
        "cp -a {from} {to}; cd {to}; find . -uid 0 -exec chown -h 100000:100000 {{}} +; \
         find . -uid 33 -exec chown -h 100033:100033 {{}} +; cd {lxc}; \
         tar --numeric-owner -cf - web/rootfs web/config | zstd -q -o web.tar.zst",
        from = root.display(),
        to = lxc.join("web/rootfs").display(),
        lxc = lxc.display()
    ));
    let file = lxc.join("web.tar.zst").display().to_string();
    let said = to.run(&["import", &file]);
    assert_eq!(said.code, 0, "{}", said.report());
    assert!(said.stderr.contains("lxc.include"), "{}", said.stderr);
    assert_eq!(to.ok(&["get", "web", "memory.limit"]), "128M\n");
    assert_eq!(to.ok(&["get", "web", "network.mac"]), "00:16:3e:01:02:03\n");
    is_at_home(&to, "web");
    let path = lxc.join("web").display().to_string();
    to.ok(&["import", "--from", &path, "--name", "two", "--start"]);
    let seen = to.ok(&["exec", "two", "--", "stat", "-c", "%u:%h", "/srv/f", "/"]);
    assert!(seen.starts_with("33:2\n0:"), "{seen}");
    // What is read once has its configuration first.
    let mut command = to.command(&["import", "-", "--name", "three"]);
    command.stdin(std::fs::File::open(&file).expect("the archive"));
    let refused = support::run(command);
    assert_eq!(refused.code, 1, "{}", refused.report());
    assert!(
        refused.stderr.contains("configuration first"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_private_area_of_openvz_becomes_a_guest() {
    if !need(Need::Root) {
        return;
    }
    let (folder, to) = (TestDir::new(), Bulkhead::new());
    let (root, base) = (root(&folder), folder.join("old"));
    let (area, conf) = (base.join("vz/private/101"), base.join("etc/vz/conf"));
    std::fs::create_dir_all(&conf).expect("a folder of ours");
    std::fs::create_dir_all(area.parent().expect("a folder")).expect("a folder of ours");
    let trap = folder.join("executed");
    let config = format!(
        "VE_ROOT=\"/vz/root/$VEID\"\nHOSTNAME=\"db.example.org\"\nPHYSPAGES=\"0:32768\"\nNUMPROC=\"100:120\"\n\
         SWAPPAGES=\"unlimited\"\nCPULIMIT=50\nIP_ADDRESS=\"203.0.113.5\"\nX=$(touch {})\n",
        trap.display()
    );
    std::fs::write(conf.join("101.conf"), config).expect("a file of ours");
    shell(&format!(
        "cp -a {} {}; cd {}; tar -czf area.tar.gz vz",
        root.display(),
        area.display(),
        base.display()
    ));
    let said = to.run(&["import", "--from", &area.display().to_string(), "--start"]);
    assert_eq!(said.code, 0, "{}", said.report());
    for what in [
        "101.conf",
        "203.0.113.5",
        "SWAPPAGES",
        "no plain assignment",
    ] {
        assert!(said.stderr.contains(what), "{what}: {}", said.stderr);
    }
    assert!(!trap.exists());
    for (key, value) in [
        ("memory.limit", "128M"),
        ("processes", "120"),
        ("cpu.limit", "0.5"),
    ] {
        assert_eq!(to.ok(&["get", "db", key]), format!("{value}\n"), "{key}");
    }
    let seen = to.ok(&["exec", "db", "--", "cat", "/srv/same"]);
    assert_eq!(seen, "mine\n");
    let (file, conf) = (base.join("area.tar.gz"), conf.join("101.conf"));
    let (file, conf) = (file.display().to_string(), conf.display().to_string());
    assert!(to.fails(&["import", &file], 1).contains("--config"));
    to.ok(&["delete", "db", "--force", "--yes"]);
    to.ok(&["import", &file, "--config", &conf, "--name", "two"]);
    assert_eq!(to.ok(&["get", "two", "processes"]), "120\n");
    is_at_home(&to, "two");
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
