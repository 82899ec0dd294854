//! Images taken in from a registry: one of Debian's package on loopback, with skopeo to fill it.
//! Needs: root, docker-registry, skopeo, /bin/busybox (static).

use std::path::Path;
use std::sync::atomic::Ordering;

use crate::images::{GZIP, Image, ZSTD, folder, layer};
use crate::life::{data, inside};
use crate::registry::{Registry, breaking_wire, skopeo, token_front};
use crate::support::{Bulkhead, Need, TestDir, need};
use crate::{images, support};
use serde_json::json;

fn box_image() -> Image {
    Image::new(json!({"Cmd": ["/bin/sleep", "1000"], "Env": ["PATH=/bin"]}))
        .with(&images::busybox(), GZIP)
        .with(&layer(&[("srv/", ""), ("srv/x", "pulled\n")]), ZSTD)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn layout(dir: &TestDir, name: &str, image: &Image) -> std::path::PathBuf {
    folder(&dir.join(name), &image.layout())
}

#[test]
fn an_image_is_pulled_and_a_guest_runs_it() {
    if !need(Need::Root) || !need(Need::Registry) {
        return;
    }
    let (host, dir, registry) = (Bulkhead::new(), TestDir::new(), Registry::new());
    registry.push(&layout(&dir, "layout", &box_image()), "team/box:1", &[]);
    let name = format!("{}/team/box:1", registry.host());
    let would = host.ok(&["image", "pull", &name, "--dry-run"]);
    assert!(would.contains("2 layers"), "{would}");
    assert!(
        data(&host, &["image", "list"])
            .as_array()
            .unwrap()
            .is_empty()
    );
    let taken = data(&host, &["image", "pull", &name, "-q"]);
    assert_eq!(taken["names"][0], name.as_str());
    host.ok(&[
        "create", "web", "--image", &name, "--memory", "64M", "--start",
    ]);
    assert_eq!(inside(&host, "web", "cat /srv/x"), "pulled");
    host.ok(&["image", "verify"]);
    // By digest, and under a name of one's own.
    let digest = images::digest(&manifest(&registry, "team/box", "1"));
    let exact = format!("{}/team/box@sha256:{digest}", registry.host());
    let again = data(&host, &["image", "pull", &exact, "--tag", "mine", "-q"]);
    assert_eq!(again["image"], taken["image"]);
    assert_eq!(
        data(&host, &["image", "info", "mine"])["names"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let said = host.fails(
        &["image", "pull", &format!("{}/team/none", registry.host())],
        5,
    );
    assert!(said.contains("has no such image"), "{said}");
}

#[test]
fn a_name_that_leads_to_another_image_by_now_is_pulled_again() {
    if !need(Need::Root) || !need(Need::Registry) {
        return;
    }
    let (host, dir, registry) = (Bulkhead::new(), TestDir::new(), Registry::new());
    registry.push(&layout(&dir, "one", &box_image()), "team/box:1", &[]);
    let name = format!("{}/team/box:1", registry.host());
    let first = data(&host, &["image", "pull", &name, "--tag", "mine", "-q"])["image"].clone();
    let flags = ["--image", "mine", "--memory", "64M", "--start"];
    host.ok(&[&["create", "web"], &flags[..]].concat());
    inside(&host, "web", "echo own >/srv/own");
    let same = data(&host, &["image", "update", "mine", "-q"]);
    assert_eq!(
        (&same["changed"], &same["image"]),
        (&json!(false), &first),
        "{same}"
    );

    let newer = box_image().with(&layer(&[("srv/", ""), ("srv/x", "newer\n")]), GZIP);
    registry.push(&layout(&dir, "two", &newer), "team/box:1", &[]);
    let said = host.ok(&["image", "update", "mine", "--dry-run"]);
    assert!(said.contains(&format!("would pull {name}")), "{said}");
    let done = data(&host, &["image", "update", "mine", "-q"]);
    assert_eq!((&done["name"], &done["before"]), (&json!("mine"), &first));
    assert_ne!(done["image"], first);
    assert_eq!(inside(&host, "web", "cat /srv/x"), "pulled");
    let row = &data(&host, &["list"])[0];
    assert_eq!(row["behind"], done["image"], "{row}");

    host.ok(&["rebase", "web", "--restart", "--timeout", "30s"]);
    assert_eq!(inside(&host, "web", "cat /srv/x /srv/own"), "newer\nown");
    // What leads to one image for ever has no newer one.
    let digest = images::digest(&manifest(&registry, "team/box", "1"));
    let exact = format!("{}/team/box@sha256:{digest}", registry.host());
    let other = Bulkhead::new();
    other.ok(&["image", "pull", &exact, "--tag", "pinned"]);
    let said = other.fails(&["image", "update", "pinned"], 5);
    assert!(said.contains("by its digest"), "{said}");
}

/// A manifest as the registry has it.
fn manifest(registry: &Registry, repository: &str, tag: &str) -> Vec<u8> {
    skopeo(
        std::process::Command::new("skopeo")
            .args(["inspect", "--raw", "--tls-verify=false"])
            .arg(format!("docker://{}/{repository}:{tag}", registry.host())),
    )
}

#[test]
fn a_killed_pull_leaves_whole_layers_only() {
    if !need(Need::Root) || !need(Need::Registry) {
        return;
    }
    let (host, dir, registry) = (Bulkhead::new(), TestDir::new(), Registry::new());
    registry.push(&layout(&dir, "layout", &box_image()), "team/box:1", &[]);
    let name = format!("{}/team/box:1", registry.host());
    for point in 0..60 {
        let mut command = host.command(&["image", "pull", &name]);
        command.env("BULKHEAD_FAULT", format!("command:{point}"));
        let done = support::run(command);
        host.ok(&["doctor", "--fix"]);
        assert_eq!(data(&host, &["doctor"])["leftovers"], json!([]), "{point}");
        host.ok(&["image", "verify"]);
        if done.code == 0 {
            assert!(point > 6, "{point} points");
            return;
        }
        host.ok(&["image", "prune", "--all"]);
    }
    panic!("more than 60 points");
}

#[test]
fn this_machines_image_is_taken_from_an_index() {
    if !need(Need::Root) || !need(Need::Registry) {
        return;
    }
    let (host, dir, registry) = (Bulkhead::new(), TestDir::new(), Registry::new());
    let ours = box_image();
    let other = Image::new(json!({})).with(&layer(&[("other", "x")]), GZIP);
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let entry = |image: &Image, architecture: &str| {
        let mut entry = images::part(kind, &image.manifest());
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    };
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry(&other, "s390x"), entry(&ours, "amd64")],
    })
    .to_string()
    .into_bytes();
    let kind = "application/vnd.oci.image.index.v1+json";
    let top = json!({"schemaVersion": 2, "manifests": [images::part(kind, &index)]});
    let mut files = ours.layout();
    files.extend(other.layout().into_iter().skip(2));
    files[1].1 = top.to_string().into_bytes();
    files.push((format!("blobs/sha256/{}", images::digest(&index)), index));
    registry.push(
        &folder(&dir.join("index"), &files),
        "team/many:1",
        &["--all"],
    );
    let name = format!("{}/team/many:1", registry.host());
    let taken = data(&host, &["image", "pull", &name, "-q"]);
    assert_eq!(taken["image"], images::digest(&ours.config_text()).as_str());
}

#[test]
fn a_wire_that_breaks_does_not_matter() {
    if !need(Need::Root) || !need(Need::Registry) {
        return;
    }
    let (host, dir, registry) = (Bulkhead::new(), TestDir::new(), Registry::new());
    registry.push(&layout(&dir, "layout", &box_image()), "team/box:1", &[]);
    let (port, used) = breaking_wire(registry.port(), 200 << 10);
    let taken = data(
        &host,
        &[
            "image",
            "pull",
            &format!("127.0.0.1:{port}/team/box:1"),
            "-q",
        ],
    );
    assert_eq!(taken["layers"], 2);
    assert!(used.load(Ordering::Relaxed) > 3, "it broke");
    host.ok(&["image", "verify"]);
}

#[test]
fn what_a_registry_has_been_given_wrong_is_refused() {
    if !need(Need::Root) || !need(Need::Registry) {
        return;
    }
    let (host, dir, registry) = (Bulkhead::new(), TestDir::new(), Registry::new());
    let image = box_image();
    registry.push(&layout(&dir, "layout", &image), "team/box:1", &[]);
    let name = format!("{}/team/box:1", registry.host());
    // Of the same length, and a layer all the same: only its digest tells.
    let other = image.layers[0].0.clone();
    let blob = registry.blob(&images::digest(&other));
    let mut bytes = std::fs::read(&blob).unwrap();
    // The time in a gzip header says nothing of what is unpacked.
    bytes[4] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let said = host.fails(&["image", "pull", &name], 5);
    assert!(said.contains("its digest is sha256:"), "{said}");
    let images = host.root().join("var/lib/bulkhead/images");
    assert_eq!(std::fs::read_dir(images.join("layers")).unwrap().count(), 0);
    host.fails(&["image", "info", &name], 5);
}

#[test]
fn user_and_password_come_from_a_file() {
    if !need(Need::Root) || !need(Need::Registry) {
        return;
    }
    let (host, dir, registry) = (Bulkhead::new(), TestDir::new(), Registry::locked());
    let flags = ["--dest-creds", "user:secret"];
    registry.push(&layout(&dir, "layout", &box_image()), "team/box:1", &flags);
    let name = format!("{}/team/box:1", registry.host());
    let said = host.fails(&["image", "pull", &name], 5);
    assert!(said.contains("--auth-file"), "{said}");
    let auths = json!({"auths": {registry.host(): {"auth": "dXNlcjpzZWNyZXQ="}}});
    let good = dir.write("good.json", &auths.to_string());
    let auths = json!({"auths": {registry.host(): {"auth": "dXNlcjp3cm9uZw=="}}});
    let bad = dir.write("bad.json", &auths.to_string());
    let said = host.fails(&["image", "pull", &name, "--auth-file", text(&bad)], 5);
    assert!(
        said.contains("to this user") && !said.contains("dXNlcjp3"),
        "{said}"
    );
    host.ok(&["image", "pull", &name, "--auth-file", text(&good)]);
}

#[test]
fn a_token_is_asked_for_and_shown() {
    if !need(Need::Root) {
        return;
    }
    let (host, dir) = (Bulkhead::new(), TestDir::new());
    let image = box_image();
    let mut files = vec![("/v2/team/box/manifests/1".to_owned(), image.manifest())];
    let blobs = image.layers.iter().map(|(data, _)| data.clone());
    for blob in blobs.chain([image.config_text()]) {
        files.push((
            format!("/v2/team/box/blobs/sha256:{}", images::digest(&blob)),
            blob,
        ));
    }
    let front = token_front(files);
    let name = format!("localhost:{front}/team/box:1");
    host.fails(&["image", "pull", &name], 5);
    let auths = json!({"auths": {format!("localhost:{front}"): {"auth": "dXNlcjpzZWNyZXQ="}}});
    let file = dir.write("auth.json", &auths.to_string());
    host.ok(&["image", "pull", &name, "--auth-file", text(&file)]);
    // It sends all of a part again each time: what came before is passed over.
    let (port, _) = breaking_wire(front, 600 << 10);
    let auths = json!({"auths": {format!("localhost:{port}"): {"auth": "dXNlcjpzZWNyZXQ="}}});
    let file = dir.write("auth2.json", &auths.to_string());
    host.ok(&["image", "prune", "--all"]);
    let name = format!("localhost:{port}/team/box:1");
    let outcome = host.run(&["image", "pull", &name, "--auth-file", text(&file)]);
    assert!(
        outcome.code == 0 || outcome.stderr.contains("layer"),
        "{}",
        outcome.report()
    );
}

#[test]
fn nobody_is_trusted_without_being_asked() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    // Not this machine: plain HTTP is not even tried.
    let said = host.fails(&["image", "pull", "bulkhead.invalid:1/x"], 5);
    assert!(said.contains("https://bulkhead.invalid:1/"), "{said}");
    let said = host.fails(&["image", "pull", "127.0.0.1:1/x"], 5);
    assert!(said.contains("http://127.0.0.1:1/"), "{said}");
    let folder = host.root().join("none.pem");
    std::fs::write(&folder, "nothing").unwrap();
    let said = host.fails(&["image", "pull", "q.invalid/x", "--ca", text(&folder)], 5);
    assert!(said.contains("there are none in it"), "{said}");
}
