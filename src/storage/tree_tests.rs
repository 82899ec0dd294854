//! Trees read and made again: everything equal, whatever they hold, and refusals.

use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use proptest::prelude::*;
use rustix::fs::{self, FileType, Mode, Timespec, Timestamps, XattrFlags};

use super::dirfd::{FileError, open_dir};
use super::seed::tests::TempDir;
use super::tree_copy::copy_tree;
use super::tree_item::{Item, What};
use super::tree_policy::Policy;
use super::tree_read::read_tree;
use super::tree_write::TreeWriter;

/// All of a tree: items without the time of their last reading, and data.
pub(super) fn all(top: &Path) -> Vec<(Item, Vec<u8>)> {
    let mut found = Vec::new();
    read_tree::<FileError>(open_dir(top).unwrap().as_fd(), |met| {
        let (mut item, content) = met.item()?.unwrap();
        item.accessed = (0, 0);
        let mut data = Vec::new();
        if let Some(mut content) = content {
            let mut buffer = [0; 5000];
            loop {
                let n = content.read(&mut buffer).unwrap();
                if n == 0 {
                    break;
                }
                data.extend_from_slice(&buffer[..n]);
            }
        }
        found.push((item, data));
        Ok(())
    })
    .unwrap();
    found
}

/// Reads one tree and makes another.
fn copy(from: &Path, to: &Path, policy: Policy) -> Result<u64, FileError> {
    std::fs::create_dir(to).unwrap();
    copy_tree(open_dir(from)?.as_fd(), open_dir(to)?, policy)
}

fn item(path: &str, what: What) -> Item {
    Item {
        path: path.as_bytes().to_vec(),
        what,
        mode: 0o755,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        modified: (1, 2),
        accessed: (3, 4),
        xattrs: Vec::new(),
    }
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    fs::utimensat(fs::CWD, path, &times, fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A file of every kind, with everything a file can have.
pub(super) fn fill(top: &Path) {
    let root = rustix::process::geteuid().is_root();
    let path = |name: &str| top.join(name);
    std::fs::create_dir_all(path("a/b/c")).unwrap();
    std::fs::create_dir(path("a-b")).unwrap();
    std::fs::write(path("a/data"), vec![7; 100_000]).unwrap();
    std::fs::write(path("a-b/empty"), "").unwrap();
    std::fs::hard_link(path("a/data"), path("a/b/same")).unwrap();
    let sparse = std::fs::File::create(path("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    for at in [0, 8 << 20, 30 << 20] {
        sparse.write_all_at(&[3; 70_000], at).unwrap();
    }
    let hole = std::fs::File::create(path("hole")).unwrap();
    hole.set_len(1 << 40).unwrap();
    std::os::unix::fs::symlink("/nowhere/../x", path("link")).unwrap();
    std::fs::hard_link(path("link"), path("link2")).unwrap();
    let dir = open_dir(top).unwrap();
    fs::mkfifoat(&dir, c"fifo", Mode::RUSR).unwrap();
    fs::setxattr(
        path("a/data"),
        "user.x",
        b"\0\xff value",
        XattrFlags::empty(),
    )
    .unwrap();
    fs::setxattr(path("a/b"), "user.y", b"", XattrFlags::empty()).unwrap();
    if root {
        special(top);
    }
    set_time(&path("link"), -5, 999_999_999);
    set_time(&path("fifo"), 1_700_000_000, 1);
    for name in ["a/data", "sparse", "a/b/c", "a/b", "a", "a-b", "."] {
        set_time(&path(name), 1_234_567_890, 123_456_789);
    }
}

/// What only root can make.
fn special(top: &Path) {
    let path = |name: &str| top.join(name);
    let dir = open_dir(top).unwrap();
    for (name, major, minor) in [(c"whiteout", 0, 0), (c"null", 1, 3)] {
        let kind = FileType::CharacterDevice;
        fs::mknodat(&dir, name, kind, Mode::RUSR, fs::makedev(major, minor)).unwrap();
    }
    fs::mknodat(&dir, c"socket", FileType::Socket, Mode::RUSR, 0).unwrap();
    std::os::unix::fs::chown(path("a/data"), Some(33), Some(65_535)).unwrap();
    std::os::unix::fs::lchown(path("link"), Some(1), Some(2)).unwrap();
    // cap_net_raw=ep, version 2.
    let mut capability = [0_u8; 20];
    (capability[0], capability[3], capability[5]) = (1, 2, 0x20);
    // user::rwx, user:33:r--, group::r-x, mask::r-x, other::---
    let entry = |tag: u16, bits: u16, id: u32| {
        let mut entry = Vec::from(tag.to_le_bytes());
        entry.extend(bits.to_le_bytes());
        entry.extend(id.to_le_bytes());
        entry
    };
    let none = u32::MAX;
    let list = [
        2_u32.to_le_bytes().to_vec(),
        entry(1, 7, none),
        entry(2, 4, 33),
        entry(4, 5, none),
        entry(16, 5, none),
        entry(32, 0, none),
    ]
    .concat();
    for (name, key, value) in [
        ("a/data", "security.capability", capability.as_slice()),
        ("a", "trusted.overlay.opaque", b"y".as_slice()),
        ("a-b", "trusted.overlay.redirect", b"/x/y".as_slice()),
        ("link", "trusted.overlay.metacopy", b"".as_slice()),
        ("a-b/empty", "system.posix_acl_access", &list),
        ("a", "system.posix_acl_access", &list),
        ("a", "system.posix_acl_default", &list),
    ] {
        fs::lsetxattr(path(name), key, value, XattrFlags::empty()).unwrap();
    }
    let mode = |name: &str, mode| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(path(name), permissions).unwrap();
    };
    mode("a/data", 0o4711);
    mode("a-b", 0o3770);
}

#[test]
fn a_tree_is_made_again_with_everything() {
    let temp = TempDir::new("tree");
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    std::fs::create_dir(&from).unwrap();
    fill(&from);
    let before = all(&from);
    assert_eq!(copy(&from, &to, Policy::Guest).unwrap(), 0);
    assert_eq!(all(&to), before);
    assert_eq!(all(&from), before);
    use std::os::unix::fs::MetadataExt as _;
    let blocks = |path: &Path| std::fs::metadata(path.join("sparse")).unwrap().blocks();
    assert!(blocks(&to) < 1000, "{}", blocks(&to));
    let inode = |name: &str| std::fs::symlink_metadata(to.join(name)).unwrap().ino();
    assert_eq!(inode("a/data"), inode("a/b/same"));
    assert_eq!(inode("link"), inode("link2"));
}

#[test]
fn nothing_leads_out_and_nothing_comes_twice() {
    let temp = TempDir::new("tree");
    let folder = || item("", What::Folder);
    let file = |path: &str| {
        item(
            path,
            What::File {
                size: 0,
                pieces: vec![],
            },
        )
    };
    let link = |path: &str, to: &str| item(path, What::Symlink(to.as_bytes().to_vec()));
    let hard = |path: &str, to: &str| item(path, What::HardLink(to.as_bytes().to_vec()));
    let dir = |path: &str| item(path, What::Folder);
    let node = |major| {
        let block = true;
        item(
            "d",
            What::Device {
                block,
                major,
                minor: 0,
            },
        )
    };
    let mut owner = file("o");
    owner.uid = 65_536;
    for (n, items) in [
        vec![file("x")],
        vec![folder(), folder()],
        vec![folder(), file("../x")],
        vec![folder(), file("/x")],
        vec![folder(), file("a/x")],
        vec![folder(), file("x"), file("x")],
        vec![folder(), file("x"), dir("x")],
        vec![folder(), file("x"), file("a")],
        vec![folder(), link("a", "/tmp"), file("a/x")],
        vec![folder(), dir("a"), link("a/b", ".."), file("a/b/x")],
        vec![folder(), dir("a"), file("b"), file("a/x")],
        vec![folder(), dir("a"), link("a", "/tmp")],
        vec![folder(), hard("x", "../y")],
        vec![folder(), hard("x", "/etc/passwd")],
        vec![folder(), hard("x", "none")],
        vec![folder(), dir("a"), hard("x", "a")],
        vec![folder(), link("a", "/etc"), hard("x", "a/passwd")],
        vec![folder(), file(&"n".repeat(5000))],
        vec![folder(), file(&"n".repeat(256))],
        vec![folder(), node(8)],
        vec![folder(), owner],
    ]
    .into_iter()
    .enumerate()
    {
        let top = temp.path().join(n.to_string());
        std::fs::create_dir(&top).unwrap();
        let mut writer = TreeWriter::new(open_dir(&top).unwrap(), Policy::Guest).unwrap();
        let last = items.len() - 1;
        for (at, item) in items.into_iter().enumerate() {
            let shown = format!("{n}: {item:?}");
            let made = writer.item(item).and_then(|sink| match sink {
                Some(sink) => writer.close(sink),
                None => Ok(()),
            });
            assert_eq!(made.is_err(), at == last, "{shown}: {made:?}");
        }
    }
}

#[test]
fn a_stream_does_not_say_what_the_host_believes() {
    let file = What::File {
        size: 0,
        pieces: vec![],
    };
    let keeps = |name: &str, value: &[u8]| Policy::Guest.keeps(&file, name.as_bytes(), value);
    assert!(keeps("user.any", b"x") && keeps("trusted.overlay.opaque", b"y"));
    for name in [
        "security.selinux",
        "security.ima",
        "trusted.x",
        "trusted.overlay.origin",
    ] {
        assert!(!keeps(name, b"y"), "{name}");
    }
    assert!(!keeps("trusted.overlay.redirect", b"/a/../../etc"));
    assert!(!keeps("security.capability", &[0; 20]));
    assert!(!Policy::Guest.keeps(&What::Fifo, b"user.x", b""));
}

/// A name, what it is, and what it has.
#[derive(Clone, Debug)]
struct Some {
    folder: usize,
    name: Vec<u8>,
    kind: u8,
    mode: u32,
    time: (i64, u32),
    data: Vec<(u64, Vec<u8>)>,
    xattr: Option<Vec<u8>>,
}

fn some() -> impl Strategy<Value = Some> {
    let name = prop::collection::vec(any::<u8>(), 1..12).prop_filter("a name", |n| {
        !n.iter().any(|b| matches!(b, 0 | b'/')) && n != b"." && n != b".."
    });
    let data = prop::collection::vec(
        (
            0..3_000_000_u64,
            prop::collection::vec(any::<u8>(), 0..9000),
        ),
        0..3,
    );
    let time = (-2_000_000_000..4_000_000_000_i64, 0..1_000_000_000_u32);
    let xattr = prop::option::of(prop::collection::vec(any::<u8>(), 0..300));
    (
        0..50_usize,
        name,
        0..8_u8,
        0..0o10000_u32,
        time,
        data,
        xattr,
    )
        .prop_map(|(folder, name, kind, mode, time, data, xattr)| Some {
            folder,
            name,
            kind,
            mode,
            time,
            data,
            xattr,
        })
}

fn make(top: &Path, items: &[Some]) {
    use std::os::unix::ffi::OsStrExt as _;
    let mut folders = vec![top.to_owned()];
    let mut files: Vec<std::path::PathBuf> = Vec::new();
    let mut times = Vec::new();
    for item in items {
        let parent = &folders[item.folder % folders.len()];
        let path = parent.join(std::ffi::OsStr::from_bytes(&item.name));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match item.kind {
            0 | 1 => {
                std::fs::create_dir(&path).unwrap();
                folders.push(path.clone());
            }
            2 => std::os::unix::fs::symlink("target", &path).unwrap(),
            3 if !files.is_empty() => {
                std::fs::hard_link(&files[item.folder % files.len()], &path).unwrap();
                continue;
            }
            4 => fs::mkfifoat(fs::CWD, &path, Mode::RUSR).unwrap(),
            _ => {
                let file = std::fs::File::create(&path).unwrap();
                for (at, data) in &item.data {
                    file.write_all_at(data, *at).unwrap();
                }
                files.push(path.clone());
            }
        }
        if !matches!(item.kind, 2 | 4)
            && let Option::Some(value) = &item.xattr
        {
            fs::setxattr(&path, "user.some", value, XattrFlags::empty()).unwrap();
        }
        if item.kind != 2 {
            let mode = if item.kind < 2 {
                item.mode | 0o700
            } else {
                item.mode | 0o400
            };
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(&path, permissions).unwrap();
        }
        times.push((path, item.time));
    }
    for (path, (seconds, nanoseconds)) in times.iter().rev() {
        set_time(path, *seconds, i64::from(*nanoseconds));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_is_made_again(items in prop::collection::vec(some(), 0..25)) {
        let temp = TempDir::new("tree");
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        make(&from, &items);
        let before = all(&from);
        copy(&from, &to, Policy::Everything).unwrap();
        prop_assert_eq!(all(&to), before);
    }
}
