//! Images as a person works with them: listed, named, checked, deleted, and guests made from them.
//! Needs: root, /bin/busybox (static).

use crate::life::{data, inside};
use crate::support;
use crate::support::{Bulkhead, Need, need, run};

/// Builds the busybox template's image; gives its digest.
fn built(host: &Bulkhead) -> String {
    let image = data(host, &["image", "build", "busybox"]);
    image["image"].as_str().expect("a digest").to_owned()
}

#[test]
fn an_image_has_names_and_a_guest_is_made_from_it() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let digest = built(&host);
    let said = host.ok(&["image", "tag", &digest[..12], "team/base:1", "--dry-run"]);
    assert!(said.contains("would lead"), "{said}");
    host.fails(&["image", "info", "team/base:1"], 5);
    host.ok(&["image", "tag", &digest[..12], "team/base:1"]);
    let listed = data(&host, &["image", "list"]);
    assert_eq!(listed[0]["names"][0], "team/base:1");
    assert_eq!(listed[0]["digest"], digest.as_str());
    assert!(
        host.ok(&["image", "history", "team/base:1"])
            .contains("template busybox")
    );

    let said = host.ok(&[
        "create",
        "web",
        "--image",
        "team/base:1",
        "--memory",
        "64M",
        "--start",
    ]);
    assert!(said.contains("created from image team/base:1"), "{said}");
    assert_eq!(inside(&host, "web", "cat /etc/hostname"), "web");
    assert_eq!(
        data(&host, &["info", "web"])["guest"]["image"],
        "team/base:1"
    );
    assert_eq!(host.ok(&["get", "web", "image"]).trim(), "team/base:1");
    let said = host.fails(&["set", "web", "image=other"], 5);
    assert!(
        said.contains("is made from image team/base:1 and stays so"),
        "{said}"
    );
    let said = host.fails(&["image", "delete", "team/base:1"], 4);
    assert!(said.contains("in use by web"), "{said}");
    let said = host.fails(&["create", "x", "--image", "team/bsae:1"], 5);
    assert!(said.contains("did you mean team/base:1?"), "{said}");
    let both = [
        "create",
        "x",
        "--image",
        "team/base:1",
        "--template",
        "busybox",
    ];
    let said = host.fails(&both, 5);
    assert!(said.contains("not from both"), "{said}");
    assert!(
        data(&host, &["image", "prune", "--dry-run"])["images"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn what_nobody_uses_is_deleted() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let digest = built(&host);
    host.ok(&["image", "tag", &digest[..6], "base"]);
    let would = data(&host, &["image", "prune", "--all", "--dry-run"]);
    assert_eq!(would["images"][0], digest.as_str());
    // A name is somebody's wish to keep it.
    assert!(
        data(&host, &["image", "prune"])["images"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    host.ok(&["image", "prune", "--all"]);
    assert_eq!(data(&host, &["image", "list"]).as_array().unwrap().len(), 0);
    let images = host.root().join("var/lib/bulkhead/images");
    assert_eq!(std::fs::read_dir(images.join("tags")).unwrap().count(), 0);
    host.fails(&["image", "info", "base"], 5);
    let digest = built(&host);
    let said = host.ok(&["image", "delete", &digest, "--dry-run"]);
    assert!(said.contains("would delete"), "{said}");
    host.ok(&["image", "delete", &digest]);
    assert!(!images.join(&digest).exists());
}

#[test]
fn a_damaged_image_is_found_and_never_started() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let digest = built(&host);
    host.ok(&["create", "web", "--image", &digest, "--memory", "64M"]);
    host.ok(&["image", "verify"]);
    let file = host
        .root()
        .join(format!("var/lib/bulkhead/images/{digest}/root/etc/inittab"));
    let text = std::fs::read(&file).expect("the image's inittab");
    std::fs::write(&file, "::respawn:/bin/evil\n").unwrap();
    let found = host.run(&["image", "verify", &digest]);
    assert_eq!(found.code, 1, "{}", found.report());
    assert!(found.stdout.contains("damaged"), "{}", found.stdout);
    let said = host.fails(&["start", "web"], 5);
    assert!(said.contains("is damaged"), "{said}");
    let said = host.fails(&["create", "b", "--image", &digest], 5);
    assert!(said.contains("is damaged"), "{said}");
    assert!(host.ok(&["list"]).contains("is damaged"));
    assert!(data(&host, &["image", "list"])[0]["damaged"].is_string());
    // Mended, it is started again.
    std::fs::write(&file, text).unwrap();
    host.ok(&["image", "verify", &digest]);
    host.ok(&["start", "web"]);
}

#[test]
fn a_damaged_image_is_mended_by_taking_it_in_again() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let digest = built(&host);
    for name in ["web", "runs"] {
        host.ok(&["create", name, "--image", &digest, "--memory", "64M"]);
    }
    host.ok(&["start", "runs"]);
    let images = host.root().join("var/lib/bulkhead/images");
    let damage = || {
        let file = images.join(format!("{digest}/root/etc/inittab"));
        std::fs::write(&file, "::respawn:/bin/evil\n").unwrap();
        assert_eq!(host.run(&["image", "verify", &digest]).code, 1);
        host.fails(&["start", "web"], 5);
    };
    let aside = || {
        let names = std::fs::read_dir(&images).unwrap();
        let names = names.map(|one| one.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("aside-")).count()
    };
    damage();
    assert_eq!(built(&host), digest);
    host.ok(&["image", "verify", &digest]);
    host.ok(&["start", "web"]);
    assert!(!inside(&host, "web", "cat /etc/inittab").contains("evil"));
    // Who ran goes on over what it has mounted, and nobody takes that away.
    assert!(inside(&host, "runs", "cat /etc/inittab").contains("evil"));
    host.ok(&["image", "prune"]);
    assert_eq!(aside(), 1);
    for name in ["web", "runs"] {
        host.ok(&["kill", name]);
    }
    let said = host.run(&["doctor"]).stdout;
    assert!(said.contains("aside-"), "{said}");
    host.ok(&["image", "prune"]);
    assert_eq!(aside(), 0);
    // Nobody has noticed yet: it is seen when it is taken in again.
    let file = images.join(format!("{digest}/root/etc/inittab"));
    std::fs::write(&file, "::respawn:/bin/evil\n").unwrap();
    assert_eq!(built(&host), digest);
    assert!(!std::fs::read_to_string(&file).unwrap().contains("evil"));
    host.ok(&["image", "verify", &digest]);
    // Where nobody runs nothing is left; a record that is damaged is one, too.
    damage();
    std::fs::write(images.join(&digest).join("image.json"), "{").unwrap();
    assert_eq!(built(&host), digest);
    host.ok(&["image", "verify", &digest]);
    host.ok(&["start", "web"]);
    assert_eq!(aside(), 0);
    // Killed anywhere, it leaves nothing that nobody knows, and the one image or the other. What comes
    // before that is as with any other build.
    host.ok(&["kill", "web"]);
    for n in 16.. {
        damage();
        let mut build = host.command(&["image", "build", "busybox"]);
        build.env("BULKHEAD_FAULT", format!("command:{n}"));
        let outcome = run(build);
        host.ok(&["doctor", "--fix"]);
        let left = data(&host, &["image", "list"]);
        assert_eq!((left.as_array().map(Vec::len), aside()), (Some(1), 0));
        if outcome.code == 0 {
            assert!(n > 19, "{n}");
            break;
        }
    }
    host.ok(&["start", "web"]);
}

#[test]
fn a_guest_becomes_an_image_without_its_identity() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let flags = ["--template", "busybox", "--memory", "64M", "--start"];
    host.ok(&[&["create", "web"], &flags[..]].concat());
    let prepare = "mkdir -p /srv/a /var/log /root/.ssh /etc/ssh; echo data > /srv/a/x; ln /srv/a/x /srv/a/y; \
                   ln -s /etc/passwd /srv/l; chmod 4755 /srv/a/x; mkfifo /srv/p; echo s > /var/log/m; \
                   echo k > /root/.ssh/authorized_keys; echo k > /etc/ssh/ssh_host_x_key; \
                   touch /tmp/t; rm -rf /home; dd if=/dev/zero of=/srv/holes bs=1 count=1 seek=8M 2>/dev/null; sync";
    inside(&host, "web", prepare);
    let said = host.fails(&["image", "publish", "web", "--tag", "shop:1"], 4);
    assert!(said.contains("stop it first"), "{said}");
    let id = inside(&host, "web", "cat /etc/machine-id");
    host.ok(&["kill", "web"]);
    host.ok(&["image", "publish", "web", "--tag", "shop:1", "--dry-run"]);
    host.fails(&["image", "info", "shop:1"], 5);
    host.ok(&["image", "publish", "web", "--tag", "shop:1"]);
    host.ok(&["image", "verify"]);
    let info = data(&host, &["image", "info", "shop:1"]);
    assert_eq!(info["source"], "guest web");
    // Without the guest it came from and that one's image.
    host.ok(&["delete", "web", "--force"]);
    host.ok(&["image", "prune"]);
    host.ok(&[
        "create", "b", "--image", "shop:1", "--memory", "64M", "--start",
    ]);
    let seen = |line: &str| inside(&host, "b", line);
    assert_eq!(
        seen("cat /srv/a/y; stat -c '%a %h' /srv/a/x"),
        "data\n4755 2"
    );
    assert_eq!(
        seen("readlink /srv/l; test -p /srv/p && echo fifo"),
        "/etc/passwd\nfifo"
    );
    assert_eq!(
        seen("stat -c %s /srv/holes; test $(stat -c %b /srv/holes) -lt 100 && echo sparse"),
        "8388609\nsparse"
    );
    assert_eq!(
        seen(
            "ls /var/log /root/.ssh /tmp /etc/ssh/ssh_host_x_key 2>/dev/null | grep -v : | tr -d '\\n'"
        ),
        ""
    );
    assert_eq!(
        seen("test -e /home || echo gone; cat /etc/hostname"),
        "gone\nb"
    );
    assert_ne!(seen("cat /etc/machine-id"), id);
    assert!(!seen("cat /etc/hosts").contains("web"));
}

#[test]
fn a_killed_publish_leaves_nothing() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["create", "web", "--template", "busybox", "--memory", "64M"]);
    let mut ended_well = false;
    for point in 0..40 {
        let mut command = host.command(&["image", "publish", "web", "--tag", "shop:1"]);
        command.env("BULKHEAD_FAULT", format!("command:{point}"));
        let outcome = support::run(command);
        ended_well = outcome.code == 0;
        host.ok(&["doctor", "--fix"]);
        let images = host.root().join("var/lib/bulkhead/images");
        let left = std::fs::read_dir(images).unwrap().flatten();
        let odd = left.filter(|e| e.file_name().to_string_lossy().starts_with("tmp-"));
        assert_eq!(odd.count(), 0, "{point}");
        host.ok(&["image", "verify"]);
        if ended_well {
            break;
        }
    }
    assert!(ended_well, "more than 40 points");
}
