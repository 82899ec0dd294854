//! Storage as root: images, roots, deletion, full and read-only disks. Each test has a prefix of its
//! own below /var/tmp and removes it, whatever happens. Needs: root, /bin/busybox (static).

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead::model::{GuestName, Layout, RootOp, TemplateRef};
use bulkhead::storage::{
    Image, InitKind, Progress, Templates, create_root, delete_root, ensure_image, images,
    leftovers, load_image, remove_image, remove_leftover, root_ops, usage,
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

fn run(program: &str, args: &[&std::ffi::OsStr]) -> bool {
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

    let web = name("web");
    create_root(&layout, &web, &image).unwrap();
    assert!(
        create_root(&layout, &web, &image)
            .unwrap_err()
            .to_string()
            .contains("already")
    );
    let (root, mounts) = root_ops(&layout, &web, &image);
    let RootOp::Overlay { lower, writable } = root else {
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
    assert_eq!(
        ensure(&layout, &wanted).digest,
        image.digest,
        "the same content again"
    );
}
