//! Storage as root: images, roots, deletion, full and read-only disks. Each test has a prefix of its
//! own below /var/tmp and removes it, whatever happens. Needs: root, /bin/busybox (static).

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead::model::{GuestName, Layout, MountOp, RootOp, TemplateRef, Writable};
use bulkhead::storage::{
    FirstBoot, Image, ImageError, InitKind, Pool, Progress, Quota, Templates, create_root,
    delete_root, ensure_image, first_boot, image_digest, images, leftovers, load_image,
    remove_image, remove_leftover, root_ops, update_hosts, usage, verify_image,
};

/// A prefix for one test.
struct Prefix {
    path: PathBuf,
    mounted: Option<PathBuf>,
}

impl Prefix {
    fn new(what: &str) -> Self {
        let path = PathBuf::from(format!("/var/tmp/bulkhead-{what}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self {
            path,
            mounted: None,
        }
    }

    /// A small ext4 of its own in a loop device, mounted.
    fn on_disk(what: &str, size: u64) -> Self {
        let mut prefix = Self::new(what);
        let (disk, target) = (prefix.path.join("disk"), prefix.path.join("mnt"));
        std::fs::File::create(&disk).unwrap().set_len(size).unwrap();
        std::fs::create_dir(&target).unwrap();
        assert!(run("mkfs.ext4", &[OsStr::new("-qF"), disk.as_os_str()]));
        let loop_option = [OsStr::new("-o"), OsStr::new("loop")];
        let mounted = run(
            "mount",
            &[
                loop_option[0],
                loop_option[1],
                disk.as_os_str(),
                target.as_os_str(),
            ],
        );
        assert!(mounted);
        prefix.mounted = Some(target);
        prefix
    }

    fn remount(&self, how: &str) {
        let target = self.mounted.as_ref().unwrap().as_os_str();
        assert!(run("mount", &[OsStr::new("-o"), OsStr::new(how), target]));
    }

    fn layout(&self) -> Layout {
        Layout::new(self.mounted.as_ref().unwrap_or(&self.path))
    }
}

impl Drop for Prefix {
    fn drop(&mut self) {
        if let Some(target) = &self.mounted {
            run("umount", &[target.as_os_str()]);
        }
        std::fs::remove_dir_all(&self.path).unwrap();
    }
}

fn run(program: &str, args: &[&OsStr]) -> bool {
    Command::new(program).args(args).status().unwrap().success()
}

fn template(name: &str, options: &[(&str, &str)]) -> TemplateRef {
    TemplateRef {
        name: name.into(),
        options: options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
    }
}

fn ensure(layout: &Layout, wanted: &TemplateRef) -> Image {
    ensure_image(layout, &Templates::load(None).unwrap(), wanted, &mut |_| {}).unwrap()
}

fn name(text: &str) -> GuestName {
    text.parse().unwrap()
}

#[test]
fn busybox_is_built_once_and_lends_itself_to_roots() {
    let prefix = Prefix::new("busybox");
    let layout = prefix.layout();
    let wanted = template("busybox", &[]);
    let image = ensure(&layout, &wanted);
    assert_eq!(
        (image.init, image.stop_signal.as_str()),
        (InitKind::Busybox, "SIGUSR2")
    );
    let init = image.root().join("sbin/init");
    assert_eq!(std::fs::read_link(init).unwrap(), Path::new("/bin/busybox"));
    let mode = |p: &str| {
        std::fs::symlink_metadata(image.root().join(p))
            .unwrap()
            .mode()
            & 0o7777
    };
    assert_eq!(mode("etc/init.d/rcS"), 0o755);
    assert_eq!(mode("etc/shadow"), 0o600);
    assert_eq!(mode("tmp"), 0o1777);

    let mut phases = 0;
    let templates = Templates::load(None).unwrap();
    let again = ensure_image(&layout, &templates, &wanted, &mut |_: Progress| phases += 1).unwrap();
    assert_eq!(
        (again, phases),
        (image.clone(), 0),
        "the second one is not built"
    );
    assert_eq!(load_image(&layout, &image.digest).unwrap(), image);
    assert_eq!(images(&layout).unwrap().len(), 1);
    assert!(verify_image(&layout, &image).unwrap().is_empty());
    std::fs::write(image.root().join("etc/motd"), "changed").unwrap();
    assert!(!verify_image(&layout, &image).unwrap().is_empty());
    std::fs::remove_file(image.root().join("etc/motd")).unwrap();

    let web = name("web");
    create_root(&layout, &web, &image, (&Pool::usual(), Quota::default())).unwrap();
    assert!(
        create_root(&layout, &web, &image, (&Pool::usual(), Quota::default()))
            .unwrap_err()
            .to_string()
            .contains("already")
    );
    let (root, mounts) = root_ops(&layout, &web, &image).unwrap();
    let RootOp::Overlay {
        lower,
        writable: Writable::Folder { path: writable },
    } = root
    else {
        panic!("{root:?}")
    };
    assert_eq!((lower, mounts), (vec![image.root()], vec![]));
    let mode = |p: PathBuf| std::fs::metadata(p).unwrap().mode() & 0o7777;
    assert_eq!(mode(writable.clone()), 0o700);
    assert_eq!(mode(layout.guest(&web)), 0o700);
    assert_eq!(mode(writable.join("upper")), 0o755);
    std::fs::write(writable.join("upper/data"), vec![1; 100_000]).unwrap();
    let used = usage(&layout, &web).unwrap();
    assert!(
        used.bytes >= 100_000 && used.files == 1 && !used.partial,
        "{used:?}"
    );

    let refused = remove_image(&layout, &image.digest)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("web"), "{refused}");
    delete_root(&layout, &web).unwrap();
    delete_root(&layout, &web).unwrap();
    assert_eq!(leftovers(&layout).unwrap(), []);
    remove_image(&layout, &image.digest).unwrap();
    assert_eq!(images(&layout).unwrap().len(), 0);
    let error = create_root(&layout, &web, &image, (&Pool::usual(), Quota::default()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("is gone"), "{error}");
    assert!(image_digest(&layout, &web).is_err());
    assert_eq!(
        ensure(&layout, &wanted).digest,
        image.digest,
        "the same content again"
    );
}

/// All files below a folder, relative.
fn files(top: &Path) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![top.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                left.push(path.clone());
            }
            found.push(path.strip_prefix(top).unwrap().to_owned());
        }
    }
    found
}

fn boot(hostname: &str) -> FirstBoot {
    FirstBoot {
        hostname: hostname.into(),
        domain: "example.org".into(),
        address: Some(([10, 9, 0, 2].into(), 16)),
        gateway: Some([10, 9, 0, 1].into()),
        address6: None,
        gateway6: None,
        nics: Vec::new(),
        dns: vec!["10.9.0.1".parse().unwrap()],
        hosts: vec![("10.9.0.3".parse().unwrap(), "db".into())],
        ssh_keys: vec!["ssh-ed25519 AAAA someone".into()],
        root_password_hash: Some("$6$salt$hash".into()),
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        timezone: "Europe/Berlin".into(),
    }
}

#[test]
fn first_boot_writes_the_guests_layer_and_nothing_else() {
    let prefix = Prefix::new("first-boot");
    let layout = prefix.layout();
    let image = ensure(&layout, &template("busybox", &[]));
    let before = files(&image.root());
    let web = name("web");
    create_root(&layout, &web, &image, (&Pool::usual(), Quota::default())).unwrap();
    let upper = layout.guest(&web).join("root/upper");
    // What a hostile image or guest could have there: links out of the tree.
    let bait = prefix.path.join("bait");
    std::fs::write(&bait, "kept").unwrap();
    std::fs::create_dir_all(upper.join("etc")).unwrap();
    for file in ["hosts", "hostname", "resolv.conf", "machine-id"] {
        std::os::unix::fs::symlink(&bait, upper.join("etc").join(file)).unwrap();
    }
    std::os::unix::fs::symlink(&prefix.path, upper.join("root")).unwrap();
    first_boot(&layout, &web, &image, &boot("web")).unwrap();
    assert!(!prefix.path.join(".ssh").exists());
    std::fs::remove_file(upper.join("root")).unwrap();
    first_boot(&layout, &web, &image, &boot("web")).unwrap();
    assert_eq!(std::fs::read_to_string(&bait).unwrap(), "kept");
    assert_eq!(files(&image.root()), before);

    let text = |p: &str| std::fs::read_to_string(upper.join(p)).unwrap();
    let mode = |p: &str| std::fs::metadata(upper.join(p)).unwrap().mode() & 0o7777;
    assert_eq!(text("etc/hostname"), "web\n");
    assert!(text("etc/hosts").contains("10.9.0.2 web.example.org web\n10.9.0.3 db\n"));
    assert!(text("etc/resolv.conf").contains("nameserver 10.9.0.1"));
    assert!(text("etc/network/interfaces").contains("eth0"));
    assert_eq!(text("etc/machine-id"), "0123456789abcdef0123456789abcdef\n");
    assert!(text("etc/shadow").starts_with("root:$6$salt$hash:"));
    assert_eq!((mode("etc/shadow"), mode("etc")), (0o600, 0o755));
    assert_eq!(
        text("root/.ssh/authorized_keys"),
        "ssh-ed25519 AAAA someone\n"
    );
    assert_eq!((mode("root"), mode("root/.ssh")), (0o700, 0o700));
    assert_eq!(mode("root/.ssh/authorized_keys"), 0o600);
    assert_eq!(text("etc/timezone"), "Europe/Berlin\n");

    let mut later = boot("web");
    later.hosts = vec![("10.9.0.4".parse().unwrap(), "mail".into())];
    update_hosts(&layout, &web, &image, &later).unwrap();
    assert!(text("etc/hosts").contains("10.9.0.4 mail") && !text("etc/hosts").contains("db"));
}

#[test]
fn the_host_template_takes_no_secret_along() {
    let prefix = Prefix::new("host");
    let layout = prefix.layout();
    let image = ensure(&layout, &template("host", &[]));
    let usr = MountOp::Bind {
        source: "/usr".into(),
        target: "/usr".into(),
        read_only: true,
        idmap: true,
        recursive: false,
    };
    assert_eq!(image.mounts[0], usr);
    // And over it only what hides parts of it.
    for more in &image.mounts[1..] {
        let MountOp::Hide { targets } = more else {
            panic!("{more:?}");
        };
        assert!(targets.iter().all(|path| path.starts_with("/usr")));
    }
    let root = image.root();
    assert_eq!(std::fs::read_dir(root.join("usr")).unwrap().count(), 0);
    assert_eq!(
        std::fs::read_link(root.join("bin")).unwrap(),
        Path::new("usr/bin")
    );
    let people: Vec<String> = std::fs::read_to_string("/etc/passwd")
        .unwrap()
        .lines()
        .filter(|l| {
            l.split(':')
                .nth(2)
                .is_some_and(|id| (1000..60_000).contains(&id.parse().unwrap()))
        })
        .filter_map(|l| l.split(':').next().map(str::to_owned))
        .collect();
    for file in ["passwd", "group", "shadow", "gshadow"] {
        let text = std::fs::read_to_string(root.join("etc").join(file)).unwrap();
        assert!(
            text.starts_with("root:") && text.contains("\nnogroup:") || text.contains("\nnobody:")
        );
        for person in &people {
            assert!(
                !text.contains(&format!("\n{person}:")),
                "{person} in {file}"
            );
        }
    }
    for path in [
        "etc/ssl/private",
        "etc/machine-id",
        "etc/hostname",
        "etc/sudoers",
    ] {
        assert!(!root.join(path).exists(), "{path}");
    }
    let keys = files(&root.join("etc"));
    assert!(
        !keys
            .iter()
            .any(|p| p.to_string_lossy().contains("ssh_host")),
        "host keys"
    );
    assert_eq!(
        std::fs::read(root.join("etc/security/opasswd")).unwrap(),
        b""
    );
    if Path::new("/usr/lib/systemd/systemd").exists() {
        assert_eq!(
            (image.init, image.stop_signal.as_str()),
            (InitKind::Systemd, "SIGRTMIN+3")
        );
        let units = root.join("etc/systemd/system");
        let target = |p: &str| std::fs::read_link(units.join(p)).unwrap();
        assert_eq!(target("systemd-udevd.service"), Path::new("/dev/null"));
        assert!(target("default.target").ends_with("multi-user.target"));
        assert!(target("getty.target.wants/console-getty.service").starts_with("/lib"));
    }
    assert_eq!(ensure(&layout, &template("host", &[])), image);
}

#[test]
fn an_archive_becomes_the_same_image_whatever_its_compression() {
    let prefix = Prefix::new("tar");
    let layout = prefix.layout();
    let busybox = ensure(&layout, &template("busybox", &[]));
    let mut digests = Vec::new();
    for (flag, file) in [
        ("-c", "a.bin"),
        ("-cz", "b"),
        ("-cJ", "c.tar"),
        ("--zstd", "d.gz"),
    ] {
        let archive = prefix.path.join(file);
        let root = busybox.root();
        let made = run(
            "tar",
            &[
                OsStr::new("-C"),
                root.as_os_str(),
                OsStr::new("-c"),
                OsStr::new(flag),
                OsStr::new("--format=pax"),
                OsStr::new("-f"),
                archive.as_os_str(),
                OsStr::new("."),
            ],
        );
        assert!(made);
        let wanted = template("tar", &[("archive", archive.to_str().unwrap())]);
        let image = ensure(&layout, &wanted);
        assert_eq!(image.init, InitKind::Busybox);
        digests.push(image.digest);
    }
    assert_eq!(digests, vec![busybox.digest; 4]);

    let cut = prefix.path.join("cut");
    let whole = std::fs::read(prefix.path.join("a.bin")).unwrap();
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let templates = Templates::load(None).unwrap();
    let wanted = template("tar", &[("archive", cut.to_str().unwrap())]);
    let error = ensure_image(&layout, &templates, &wanted, &mut |_| {}).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("/cut") && text.contains("cut off"), "{text}");
    assert_eq!(leftovers(&layout).unwrap(), []);
    assert_eq!(images(&layout).unwrap().len(), 1);
}

#[test]
fn two_commands_build_one_image_once() {
    let prefix = Prefix::new("twice");
    let layout = prefix.layout();
    let built = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let templates = Templates::load(None).unwrap();
                let wanted = template("busybox", &[]);
                let mut progress = |p: Progress| {
                    if matches!(p, Progress::Phase(text) if text.starts_with("copying")) {
                        built.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                };
                ensure_image(&layout, &templates, &wanted, &mut progress).unwrap();
            });
        }
    });
    assert_eq!(built.into_inner(), 1);
    assert_eq!(images(&layout).unwrap().len(), 1);
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    // Room for the folders, not for busybox.
    let prefix = Prefix::on_disk("full", 1 << 20);
    let layout = prefix.layout();
    let templates = Templates::load(None).unwrap();
    let wanted = template("busybox", &[]);
    let error = ensure_image(&layout, &templates, &wanted, &mut |_| {}).unwrap_err();
    assert!(
        matches!(&error, ImageError::File(e) if e.is_disk_full()),
        "{error:?}"
    );
    assert!(error.to_string().contains("full"), "{error}");
    assert_eq!(leftovers(&layout).unwrap(), []);
    assert_eq!(images(&layout).unwrap().len(), 0);

    // The same with an archive, of which a part fits.
    let archive = prefix.path.join("big.tar");
    let data = prefix.path.join("big");
    std::fs::write(&data, vec![7; 4 << 20]).unwrap();
    let folder = [OsStr::new("-C"), prefix.path.as_os_str()];
    let out = [OsStr::new("-cf"), archive.as_os_str(), OsStr::new("big")];
    assert!(run("tar", &[folder[0], folder[1], out[0], out[1], out[2]]));
    let wanted = template("tar", &[("archive", archive.to_str().unwrap())]);
    let error = ensure_image(&layout, &templates, &wanted, &mut |_| {}).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("big") && text.contains("full"), "{text}");
    assert_eq!(leftovers(&layout).unwrap(), []);
}

#[test]
fn a_full_disk_does_not_stop_a_delete() {
    let prefix = Prefix::on_disk("full-delete", 8 << 20);
    let layout = prefix.layout();
    let image = ensure(&layout, &template("busybox", &[]));
    let (web, other) = (name("web"), name("other"));
    create_root(&layout, &web, &image, (&Pool::usual(), Quota::default())).unwrap();
    let filler = layout.guest(&web).join("root/upper/filler");
    let mut file = std::fs::File::create(filler).unwrap();
    while std::io::Write::write(&mut file, &[1; 4096]).is_ok_and(|n| n > 0) {}
    drop(file);
    for n in 0.. {
        let small = layout.guest(&web).join(format!("root/upper/{n}"));
        if std::fs::create_dir(small).is_err() {
            break;
        }
    }
    let error = create_root(&layout, &other, &image, (&Pool::usual(), Quota::default()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("other") && error.contains("full"), "{error}");
    delete_root(&layout, &web).unwrap();
    assert_eq!(leftovers(&layout).unwrap(), []);
    create_root(&layout, &other, &image, (&Pool::usual(), Quota::default())).unwrap();
}

#[test]
fn a_read_only_state_folder_is_said() {
    let prefix = Prefix::on_disk("read-only", 8 << 20);
    let layout = prefix.layout();
    let image = ensure(&layout, &template("busybox", &[]));
    let web = name("web");
    create_root(&layout, &web, &image, (&Pool::usual(), Quota::default())).unwrap();
    prefix.remount("remount,ro");
    assert_eq!(
        ensure(&layout, &template("busybox", &[])),
        image,
        "reading needs no writing"
    );
    let errors = [
        create_root(
            &layout,
            &name("other"),
            &image,
            (&Pool::usual(), Quota::default()),
        )
        .unwrap_err()
        .to_string(),
        delete_root(&layout, &web).unwrap_err().to_string(),
        first_boot(&layout, &web, &image, &boot("web"))
            .unwrap_err()
            .to_string(),
        remove_image(&layout, &ensure(&layout, &template("busybox", &[])).digest)
            .unwrap_err()
            .to_string(),
    ];
    prefix.remount("remount,rw");
    for error in &errors[..3] {
        assert!(error.contains("read-only"), "{error}");
    }
    assert!(errors[3].contains("in use"), "{}", errors[3]);
    delete_root(&layout, &web).unwrap();
}

#[test]
fn a_mount_inside_stops_a_delete_and_nothing_below_it_is_lost() {
    let prefix = Prefix::new("mounted");
    let layout = prefix.layout();
    let image = ensure(&layout, &template("busybox", &[]));
    let web = name("web");
    create_root(&layout, &web, &image, (&Pool::usual(), Quota::default())).unwrap();
    let precious = prefix.path.join("precious");
    std::fs::create_dir(&precious).unwrap();
    std::fs::write(precious.join("data"), "kept").unwrap();
    let target = layout.guest(&web).join("root/upper/mnt");
    std::fs::create_dir(&target).unwrap();
    let bind = [
        OsStr::new("--bind"),
        precious.as_os_str(),
        target.as_os_str(),
    ];
    assert!(run("mount", &bind));
    let error = delete_root(&layout, &web).unwrap_err().to_string();
    let left = leftovers(&layout).unwrap();
    let inside = left.first().map(|l| l.path.join("upper/mnt"));
    let unmounted = run(
        "umount",
        &[inside.as_deref().unwrap_or(&target).as_os_str()],
    );
    assert!(unmounted && error.contains("mounted"), "{error}");
    assert_eq!(
        std::fs::read_to_string(precious.join("data")).unwrap(),
        "kept"
    );
    assert_eq!(left.len(), 1);
    remove_leftover(&layout, &left[0]).unwrap();
    assert_eq!(leftovers(&layout).unwrap(), []);
}

#[test]
fn what_a_dead_build_left_is_found_and_removed() {
    let prefix = Prefix::new("leftover");
    let layout = prefix.layout();
    let dead = layout.images().join("tmp-0123-1-0/root/etc");
    std::fs::create_dir_all(&dead).unwrap();
    std::fs::write(dead.join("half"), "x").unwrap();
    let found = leftovers(&layout).unwrap();
    assert_eq!(found.len(), 1);
    // A live one holds a lock on its folder.
    let folder = std::fs::File::open(layout.images().join("tmp-0123-1-0")).unwrap();
    folder.lock().unwrap();
    assert_eq!(leftovers(&layout).unwrap(), []);
    drop(folder);
    remove_leftover(&layout, &found[0]).unwrap();
    remove_leftover(&layout, &found[0]).unwrap();
    std::fs::create_dir_all(layout.guest(&name("web")).join(".root-1/upper")).unwrap();
    remove_leftover(&layout, &leftovers(&layout).unwrap()[0]).unwrap();
    assert_eq!(leftovers(&layout).unwrap(), []);
}

#[test]
#[ignore = "fetches about 60 MB of packages; needs mmdebstrap and an apt source"]
fn debian_is_built_from_packages() {
    let prefix = Prefix::new("debian");
    let layout = prefix.layout();
    let suite = std::env::var("BULKHEAD_TEST_SUITE").unwrap_or_else(|_| "bookworm".into());
    let wanted = template("debian", &[("suite", &suite), ("packages", "rsync")]);
    let mut lines = 0;
    let templates = Templates::load(None).unwrap();
    let image = ensure_image(&layout, &templates, &wanted, &mut |p| {
        lines += u32::from(matches!(p, Progress::Line(_)));
    })
    .unwrap();
    assert!(lines > 3, "progress");
    assert_eq!(
        (image.init, image.stop_signal.as_str()),
        (InitKind::Systemd, "SIGRTMIN+3")
    );
    let root = image.root();
    assert!(root.join("usr/bin/rsync").exists() && root.join("usr/sbin/sshd").exists());
    let keys = files(&root.join("etc/ssh"));
    assert!(
        !keys
            .iter()
            .any(|p| p.to_string_lossy().contains("ssh_host")),
        "host keys"
    );
    assert_eq!(std::fs::read(root.join("etc/machine-id")).unwrap(), b"");
    assert_eq!(files(&root.join("dev")), Vec::<PathBuf>::new());
    let web = name("web");
    create_root(&layout, &web, &image, (&Pool::usual(), Quota::default())).unwrap();
    first_boot(&layout, &web, &image, &boot("web")).unwrap();
    let upper = layout.guest(&web).join("root/upper");
    assert!(
        upper
            .join("etc/systemd/network/10-bulkhead.network")
            .exists()
    );
    assert!(upper.join("etc/ssh/ssh_host_ed25519_key").exists());
    let linked = std::fs::read_link(upper.join("var/lib/dbus/machine-id")).unwrap();
    assert_eq!(linked, Path::new("/etc/machine-id"));
}
