//! Images taken in from files: every form in which they come, layers shared and put over one
//! another, what hostile and damaged ones are answered. Needs: root, /bin/busybox (static).

use std::path::Path;

use crate::images::{GZIP, Image, TAR, ZSTD, archive, folder, gzip, layer, zstd};
use crate::life::{data, inside};
use crate::support::{Bulkhead, Need, TestDir, eventually, need};
use crate::{images, support};
use proptest::prelude::*;
use serde_json::json;

use bulkhead::model::Layout;
use bulkhead::storage::{ImageError, Import, import_image, leftovers};

/// busybox and a second layer that adds, replaces and hides.
fn box_image() -> Image {
    let top = layer(&[
        ("srv/app/", ""),
        ("srv/app/run", "here\n"),
        (
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\nweb:x:101:102::/srv:/bin/sh\n",
        ),
        ("etc/group", "root:x:0:\nlog:x:7:web\nweb:x:102:\n"),
        ("bin/.wh.nc", ""),
    ]);
    let config = json!({
        "User": "web", "Env": ["PATH=/bin", "COLOUR=blue"], "WorkingDir": "/srv/app",
        "Entrypoint": ["sh", "-c"], "Cmd": ["id; pwd; echo $COLOUR; sleep 1000"],
        "ExposedPorts": {"8080/tcp": {}}, "StopSignal": "SIGKILL",
    });
    Image::new(config)
        .with(&images::busybox(), GZIP)
        .with(&top, TAR)
}

/// What a guest's console has said, as soon as this is in it.
fn logs(host: &Bulkhead, name: &str, word: &str) -> String {
    eventually(word, 10, || host.ok(&["logs", name]).contains(word));
    host.ok(&["logs", name])
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Takes the image in these bytes in, without the program.
fn take(layout: &Layout, dir: &TestDir, bytes: &[u8]) -> Result<String, ImageError> {
    let source = dir.join("source");
    std::fs::write(&source, bytes).unwrap();
    let wanted = Import {
        source,
        reference: None,
        name: None,
    };
    import_image(layout, &wanted, &mut |_| {}).map(|(image, _)| image.digest)
}

fn layout(dir: &TestDir) -> Layout {
    let layout = Layout::new(&dir.join("host"));
    std::fs::create_dir_all(layout.images()).unwrap();
    std::fs::create_dir_all(layout.guests()).unwrap();
    layout
}

/// Nothing but whole layers and images is there.
fn nothing_left(layout: &Layout) {
    assert_eq!(leftovers(layout).unwrap(), []);
}

#[test]
fn every_form_gives_the_same_image_and_one_set_of_layers() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let dir = TestDir::new();
    let image = box_image().named("team/box:1");
    let at = folder(&dir.join("layout"), &image.layout());
    let whole = archive(&image.layout());
    let saved = archive(&image.saved());
    let sources = [
        at,
        dir.join("oci.tar"),
        dir.join("oci.tar.zst"),
        dir.join("saved.tar"),
        dir.join("saved.tar.gz"),
    ];
    for (path, bytes) in
        sources[1..]
            .iter()
            .zip([whole.clone(), zstd(&whole), saved.clone(), gzip(&saved)])
    {
        std::fs::write(path, bytes).unwrap();
    }
    let mut digests = Vec::new();
    for source in &sources {
        let taken = data(&host, &["image", "import", text(source), "-q"]);
        assert_eq!(taken["layers"], 2, "{source:?}");
        digests.push(taken["image"].clone());
    }
    let config = images::digest(&image.config_text());
    assert!(
        digests.iter().all(|digest| *digest == config.as_str()),
        "{digests:?}"
    );
    let layers = host.root().join("var/lib/bulkhead/images/layers");
    assert_eq!(std::fs::read_dir(layers).unwrap().count(), 2);
    let info = data(&host, &["image", "info", "team/box:1"]);
    assert_eq!(info["config"]["ports"][0], "8080/tcp");
    assert_eq!(info["config"]["user"], "web");
    assert!(
        host.ok(&["image", "history", "team/box:1"])
            .contains("made by a test")
    );
    host.ok(&["image", "verify"]);
}

#[test]
fn a_guest_runs_the_images_program_as_its_user() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let dir = TestDir::new();
    let at = folder(&dir.join("layout"), &box_image().layout());
    host.ok(&["image", "import", text(&at), "--tag", "box"]);
    host.ok(&[
        "create", "web", "--image", "box", "--memory", "64M", "--start",
    ]);
    let said = logs(&host, "web", "blue");
    assert!(
        said.contains("uid=101(web) gid=102(web) groups=7(log)"),
        "{said}"
    );
    assert!(said.contains("/srv/app"), "{said}");
    assert_eq!(inside(&host, "web", "cat /srv/app/run"), "here");
    // Hidden by the upper layer; what is beside it is there.
    assert_eq!(
        inside(&host, "web", "ls /bin/nc /bin/cat 2>/dev/null; true"),
        "/bin/cat"
    );
    assert_eq!(inside(&host, "web", "cat /etc/hostname"), "web");
    // Its own variables win over the image's, and a command of its own is root's.
    host.ok(&["stop", "web"]);
    host.ok(&["set", "web", "environment.COLOUR=red"]);
    host.ok(&["start", "web"]);
    logs(&host, "web", "red");
    host.ok(&["stop", "web"]);
    host.ok(&["set", "web", "init.command=/bin/sleep 1000"]);
    host.ok(&["start", "web"]);
    host.ok(&["delete", "web", "--force"]);

    host.ok(&["image", "prune", "--all"]);
    let images = host.root().join("var/lib/bulkhead/images");
    assert_eq!(std::fs::read_dir(images.join("layers")).unwrap().count(), 0);
}

#[test]
fn a_damaged_layer_is_found_and_taken_in_anew() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let dir = TestDir::new();
    let image = box_image().named("team/box:1");
    let at = folder(&dir.join("layout"), &image.layout());
    host.ok(&["image", "import", text(&at)]);
    host.ok(&["create", "web", "--image", "team/box:1", "--memory", "64M"]);
    let layer = image.diff_ids[1].trim_start_matches("sha256:");
    let file = format!("var/lib/bulkhead/images/layers/{layer}/root/srv/app/run");
    std::fs::write(host.root().join(&file), "evil\n").unwrap();
    let found = host.run(&["image", "verify"]);
    assert_eq!(found.code, 1, "{}", found.report());
    assert!(found.stdout.contains("its layer"), "{}", found.stdout);
    let said = host.fails(&["start", "web"], 5);
    assert!(said.contains("is damaged"), "{said}");
    host.ok(&["image", "import", text(&at)]);
    host.ok(&["image", "verify"]);
    host.ok(&["start", "web"]);
    assert_eq!(inside(&host, "web", "cat /srv/app/run"), "here");
}

#[test]
fn the_archive_of_a_root_becomes_an_image() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let dir = TestDir::new();
    let path = dir.join("root.tar.gz");
    std::fs::write(&path, gzip(&images::busybox())).unwrap();
    let taken = data(
        &host,
        &["image", "import", text(&path), "--tag", "plain", "-q"],
    );
    assert_eq!(taken["layers"], 0);
    host.ok(&["image", "verify", "plain"]);
    let flags = ["--init", "/bin/sleep 1000", "--memory", "64M", "--start"];
    host.ok(&[&["create", "p", "--image", "plain"], &flags[..]].concat());
    assert_eq!(inside(&host, "p", "echo yes"), "yes");
}

/// Whoever takes the wrong one of two verbs is told of the other.
#[test]
fn what_is_a_guest_and_what_is_an_image_is_said() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let dir = TestDir::new();
    let tar = dir.join("box.tar");
    let image = box_image();
    std::fs::write(&tar, archive(&image.saved())).expect("an archive");
    let said = host.fails(&["import", text(&tar)], 1);
    assert!(said.contains("bulkhead image import"), "{said}");
    // As podman calls what it has built.
    host.ok(&["image", "import", text(&tar), "--tag", "localhost/own:1"]);
    host.ok(&["image", "info", "own:1"]);
    host.ok(&["create", "a", "--image", "own:1", "--network", "none"]);
    let out = dir.join("a.tar.zst");
    host.ok(&["export", "a", "--output", text(&out)]);
    let machine = dir.join("vm.vma.zst");
    std::fs::write(&machine, zstd(&[b"VMA\0".as_slice(), &[0; 1020]].concat())).expect("a file");
    let said = host.fails(&["import", text(&machine)], 1);
    assert!(said.contains("vma extract"), "{said}");
    let disk = dir.join("disk.qcow2");
    std::fs::write(&disk, [&b"QFI\xfb"[..], &[0; 1020]].concat()).expect("a file");
    for guest in [out, disk] {
        let said = host.fails(&["image", "import", text(&guest)], 5);
        assert!(said.contains("`bulkhead import`"), "{said}");
    }
}

#[test]
fn layers_are_put_over_one_another() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let dir = TestDir::new();
    let middle = layer(&[
        ("a/", ""),
        ("a/x", "x"),
        ("a/y", "y"),
        ("b/", ""),
        ("b/x", "x"),
        ("f", "file"),
        ("g/x", "x"),
        ("h/x", "x"),
    ]);
    let top = layer(&[
        // Hides all that is below and nothing of its own, whichever comes first.
        ("a/new", "new"),
        ("a/.wh..wh..opq", ""),
        ("a/.wh..wh.aufs", ""),
        ("b/.wh.x", ""),
        (".wh.f", ""),
        ("f/", ""),
        ("f/in", "in"),
        (".wh.g", ""),
        ("g/y", "y"),
        ("h/y", "y"),
        ("h/.wh.y", ""),
    ]);
    let image = Image::new(json!({"Cmd": ["/bin/sleep", "1000"]}))
        .with(&images::busybox(), ZSTD)
        .with(&middle, GZIP)
        .with(&top, ZSTD)
        .named("t/layers:1");
    let at = folder(&dir.join("layout"), &image.layout());
    host.ok(&["image", "import", text(&at)]);
    host.ok(&[
        "create",
        "l",
        "--image",
        "t/layers:1",
        "--memory",
        "64M",
        "--start",
    ]);
    let shown = |folder: &str| inside(&host, "l", &format!("ls {folder}")).replace('\n', " ");
    assert_eq!(shown("/a"), "new");
    assert_eq!(shown("/b"), "");
    assert_eq!(shown("/f"), "in");
    assert_eq!(shown("/g"), "y");
    assert_eq!(shown("/h"), "x y");
    assert_eq!(
        inside(
            &host,
            "l",
            "ls -ld /tmp | cut -c1-10 2>/dev/null || ls -ld /tmp"
        )[..10],
        *"drwxrwxrwt"
    );
}

#[test]
fn what_is_wrong_is_refused_and_leaves_nothing() {
    if !need(Need::Root) {
        return;
    }
    let dir = TestDir::new();
    let layout = layout(&dir);
    let refused = |image: &Image, why: &str| {
        for bytes in [archive(&image.layout()), archive(&image.saved())] {
            let error = take(&layout, &dir, &bytes).unwrap_err().to_string();
            assert!(error.contains(why), "{error}\nwanted: {why}");
            nothing_left(&layout);
        }
    };
    let with = |tar: &[u8], kind| Image::new(json!({})).with(tar, kind);
    let raw = |name: &[u8], link: Option<&str>| {
        let mut head = images::header(tar::EntryType::Regular, 0o644);
        head.as_old_mut().name[..name.len()].copy_from_slice(name);
        if let Some(link) = link {
            head.set_entry_type(tar::EntryType::Link);
            head.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        head.set_cksum();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append(&head, &b""[..]).unwrap();
        archive.into_inner().unwrap()
    };
    refused(&with(&raw(b"../x", None), TAR), "leads upwards");
    refused(&with(&raw(b"a/.wh...", None), GZIP), "no file can have");
    refused(&with(&raw(b".wh.", None), GZIP), "no file can have");
    refused(
        &with(&raw(b"x", Some("/etc/shadow")), ZSTD),
        "not in the archive",
    );
    refused(&with(&raw(b"x", Some("../x")), TAR), "leads upwards");
    let long = layer(&[(&"n".repeat(5000), "")]);
    refused(&with(&long, TAR), "longer than");
    let mut sparse = images::header(tar::EntryType::Regular, 0o644);
    sparse.set_path("huge").unwrap();
    sparse.set_size(10 << 40);
    sparse.set_cksum();
    refused(&with(sparse.as_bytes(), GZIP), "take more than");
    let mut device = images::header(tar::EntryType::Char, 0o666);
    device.set_path("null").unwrap();
    device.set_cksum();
    refused(&with(device.as_bytes(), TAR), "device node");
    refused(&with(&[b'x'; 1024], TAR), "no tar archive");
    let mut wrong = with(&layer(&[("x", "x")]), GZIP);
    wrong.diff_ids[0] = format!("sha256:{}", "a".repeat(64));
    refused(&wrong, "its digest is");
    let mut few = with(&layer(&[("x", "x")]), GZIP);
    few.diff_ids.push(few.diff_ids[0].clone());
    refused(&few, "speaks of 2 layers");
}

#[test]
fn layouts_that_lie_are_refused() {
    if !need(Need::Root) {
        return;
    }
    let dir = TestDir::new();
    let layout = layout(&dir);
    let refused = |files: &[(String, Vec<u8>)], why: &str| {
        let error = take(&layout, &dir, &archive(files))
            .unwrap_err()
            .to_string();
        assert!(error.contains(why), "{error}\nwanted: {why}");
        nothing_left(&layout);
    };
    let image = Image::new(json!({})).with(&layer(&[("x", "text")]), GZIP);
    let mut unknown = image.clone();
    unknown.layers[0].1 = "application/vnd.wasm.content.layer.v1+wasm";
    refused(&unknown.layout(), "no layer of files");
    let mut files = image.layout();
    let last = files[2].1.len() - 1;
    files[2].1[last] ^= 1;
    let error = take(&layout, &dir, &archive(&files))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("cannot") && error.contains("layer"),
        "{error}"
    );
    nothing_left(&layout);
    let mut files = image.layout();
    files.push(files[2].clone());
    refused(&files, "twice");
    let mut files = image.layout();
    files.retain(|(name, _)| !name.starts_with("blobs/"));
    refused(&files, "is not in it");
    let bomb = Image::new(json!({})).with(&vec![0; 600 << 10], ZSTD);
    take(&layout, &dir, &archive(&bomb.layout())).ok();
    nothing_left(&layout);
    let mut index = image.layout();
    index[1].1 = json!({"manifests": []}).to_string().into_bytes();
    refused(&index, "holds no image");
    // A symbolic link in a folder leads nowhere.
    let at = folder(&dir.join("linked"), &image.layout());
    let blob = at.join(&image.layout()[2].0);
    std::fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", &blob).unwrap();
    let wanted = Import {
        source: at,
        reference: None,
        name: None,
    };
    let error = import_image(&layout, &wanted, &mut |_| {})
        .unwrap_err()
        .to_string();
    assert!(error.contains("blobs/sha256"), "{error}");
    nothing_left(&layout);
}

#[test]
fn a_bomb_ends_early() {
    if !need(Need::Root) {
        return;
    }
    let dir = TestDir::new();
    let layout = layout(&dir);
    // 2 GiB of zeros in some kilobytes.
    let mut head = images::header(tar::EntryType::Regular, 0o644);
    head.set_path("zeros").unwrap();
    head.set_size(2 << 30);
    head.set_cksum();
    let mut stream = zstd::Encoder::new(Vec::new(), 3).unwrap();
    std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
    std::io::copy(
        &mut std::io::Read::take(std::io::repeat(0), 2 << 30),
        &mut stream,
    )
    .unwrap();
    let stored = stream.finish().unwrap();
    let mut image = Image::new(json!({}));
    image.layers.push((stored, ZSTD));
    image.diff_ids.push(format!("sha256:{}", "b".repeat(64)));
    let error = take(&layout, &dir, &archive(&image.layout()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("1000 times"), "{error}");
    nothing_left(&layout);
}

#[test]
fn one_cut_off_anywhere_is_refused() {
    if !need(Need::Root) {
        return;
    }
    let dir = TestDir::new();
    let layout = layout(&dir);
    let image = Image::new(json!({})).with(&layer(&[("a/x", "text"), ("b", "more")]), GZIP);
    let plain = archive(&image.layout());
    let end = plain.len() - 1024;
    for bytes in [plain.clone(), zstd(&plain)] {
        let end = if bytes.len() == plain.len() {
            end
        } else {
            bytes.len() - 1
        };
        for at in (0..end).step_by((end / 60).max(1)) {
            assert!(take(&layout, &dir, &bytes[..at]).is_err(), "{at}");
        }
        nothing_left(&layout);
    }
    assert!(take(&layout, &dir, &plain).is_ok());
}

#[test]
fn a_killed_import_leaves_whole_layers_only() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let dir = TestDir::new();
    let path = dir.join("image.tar.zst");
    let image = box_image().named("team/box:1");
    std::fs::write(&path, zstd(&archive(&image.layout()))).unwrap();
    let mut ended_well = false;
    for point in 0..60 {
        let mut command = host.command(&["image", "import", text(&path)]);
        command.env("BULKHEAD_FAULT", format!("command:{point}"));
        ended_well = support::run(command).code == 0;
        host.ok(&["doctor", "--fix"]);
        nothing_left(&Layout::new(host.root()));
        host.ok(&["image", "verify"]);
        if ended_well {
            break;
        }
        host.ok(&["image", "prune", "--all"]);
    }
    assert!(ended_well, "more than 60 points");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    /// Bytes changed anywhere: refused, or the very same image; never a panic, nothing left.
    #[test]
    fn changed_archives_are_refused_or_the_same(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        docker in any::<bool>(),
    ) {
        if nix::unistd::geteuid().is_root() {
            let dir = TestDir::new();
            let layout = layout(&dir);
            let image = Image::new(json!({})).with(&layer(&[("a/x", "text"), ("b", "more")]), GZIP);
            let files = if docker { image.saved() } else { image.layout() };
            let mut bytes = archive(&files);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(digest) = take(&layout, &dir, &bytes) {
                let found = bulkhead::storage::load_image(&layout, &digest).unwrap();
                prop_assert!(bulkhead::storage::verify_image(&layout, &found).unwrap().is_empty());
            }
            prop_assert_eq!(leftovers(&layout).unwrap(), []);
        }
    }
}
