//! The list of what hostile archives try, each as an archive built here, and mutated archives by the
//! thousand: no panic, and nothing outside the root. Runs as any user: owners are the tester's own.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::archive_entry::{ArchiveError, Limits};
use super::dirfd::open_dir;
use super::extract::extract;
use super::extract_file::Extracted;
use super::seed::tests::TempDir;

fn header(kind: EntryType, name: &[u8], size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(1_000_000_000);
    header.set_uid(u64::from(rustix::process::geteuid().as_raw()));
    header.set_gid(u64::from(rustix::process::getegid().as_raw()));
    header.set_cksum();
    header
}

/// An archive under construction.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }
    fn raw(mut self, header: &Header, data: &[u8]) -> Self {
        self.0.append(header, data).unwrap();
        self
    }
    fn entry(self, kind: EntryType, name: &str, data: &[u8]) -> Self {
        let header = header(kind, name.as_bytes(), data.len() as u64);
        self.raw(&header, data)
    }
    fn file(self, name: &str, data: &str) -> Self {
        self.entry(EntryType::Regular, name, data.as_bytes())
    }
    fn link(self, kind: EntryType, name: &str, target: &str) -> Self {
        let mut header = header(kind, name.as_bytes(), 0);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.raw(&header, b"")
    }
    fn symlink(self, name: &str, target: &str) -> Self {
        self.link(EntryType::Symlink, name, target)
    }
    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0
            .append_pax_extensions(records.iter().copied())
            .unwrap();
        self
    }
    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
    fn extract(self) -> Outcome {
        Outcome::of(&self.bytes(), Limits::default())
    }
}

/// A finished extraction in a folder with something outside the root that must stay as it is.
struct Outcome {
    temp: TempDir,
    result: Result<Extracted, ArchiveError>,
}

impl Outcome {
    fn of(archive: &[u8], limits: Limits) -> Self {
        let temp = TempDir::new("extract");
        std::fs::create_dir(temp.path().join("root")).unwrap();
        std::fs::create_dir(temp.path().join("outside")).unwrap();
        std::fs::write(temp.path().join("outside/file"), "kept").unwrap();
        let mode = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(temp.path().join("outside/file"), mode).unwrap();
        let root = open_dir(&temp.path().join("root")).unwrap();
        let result = extract(&root, archive, limits);
        let outcome = Self { temp, result };
        outcome.check_outside();
        outcome
    }

    fn check_outside(&self) {
        let names = |p: PathBuf| std::fs::read_dir(p).unwrap().count();
        assert_eq!(
            names(self.temp.path().to_owned()),
            2,
            "something beside the root"
        );
        assert_eq!(names(self.temp.path().join("outside")), 1);
        let file = self.temp.path().join("outside/file");
        let meta = std::fs::metadata(&file).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.nlink()), (0o640, 1));
        assert_eq!(std::fs::read_to_string(file).unwrap(), "kept");
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.temp.path().join("root").join(inside)
    }

    fn text(&self, inside: &str) -> String {
        std::fs::read_to_string(self.path(inside)).unwrap()
    }

    fn refused(&self, entry: &str, reason: &str) {
        let error = self.result.as_ref().expect_err("accepted").to_string();
        assert!(error.contains(entry) && error.contains(reason), "{error}");
    }
}

#[test]
fn what_roots_are_made_of_arrives() {
    let mut setuid = header(EntryType::Regular, b"bin/su", 2);
    setuid.set_mode(0o4755);
    setuid.set_cksum();
    let mut closed = header(EntryType::Directory, b"closed/", 0);
    closed.set_mode(0);
    closed.set_mtime(5);
    closed.set_cksum();
    let out = Tar::new()
        .entry(EntryType::Directory, "./", b"")
        .raw(&closed, b"")
        .raw(&setuid, b"su")
        .link(EntryType::Link, "bin/su2", "./bin/su")
        .entry(EntryType::Fifo, "run/fifo", b"")
        .symlink("var/run", "/run")
        .file("var/run/pid", "1")
        .symlink("later", "usr/later")
        .file("later/file", "x")
        .file("twice", "first")
        .file("twice", "second")
        .entry(EntryType::Char, "dev/null", b"")
        .entry(EntryType::Block, "var/chroot/dev/sda", b"")
        .extract();
    let done = out.result.as_ref().unwrap();
    assert_eq!((done.entries, done.devices, done.replaced), (11, 2, 1));
    let notes = done.notes();
    assert!(
        notes[1].starts_with("1 entries") && notes[1].ends_with("was twice"),
        "{notes:?}"
    );
    assert_eq!(
        (out.text("run/pid"), out.text("usr/later/file")),
        ("1".into(), "x".into())
    );
    assert_eq!(out.text("twice"), "second");
    let su = std::fs::metadata(out.path("bin/su2")).unwrap();
    assert_eq!(
        (su.mode() & 0o7777, su.nlink(), su.mtime()),
        (0o4755, 2, 1_000_000_000)
    );
    let closed = std::fs::metadata(out.path("closed")).unwrap();
    assert_eq!((closed.mode() & 0o7777, closed.mtime()), (0, 5));
    assert!(!out.path("dev/null").exists());
}

#[test]
fn ways_out_of_the_root_lead_nowhere() {
    Tar::new()
        .file("../outside/file", "x")
        .extract()
        .refused("../outside/file", "'..'");
    Tar::new()
        .file("a/../../outside/file", "x")
        .extract()
        .refused("a/../..", "'..'");
    assert_eq!(Tar::new().file("/abs", "x").extract().text("abs"), "x");
    let out = Tar::new()
        .symlink("l", "../../outside")
        .file("l/file", "x")
        .extract();
    assert!(out.result.is_ok() && out.path("outside/file").exists());
    let out = Tar::new()
        .symlink("l", "../outside/file")
        .file("l", "x")
        .extract();
    assert_eq!(out.text("l"), "x");
    let out = Tar::new()
        .symlink("l", "../outside")
        .entry(EntryType::Directory, "l", b"")
        .file("l/x", "y")
        .extract();
    assert!(std::fs::symlink_metadata(out.path("l")).unwrap().is_dir());
    let out = Tar::new()
        .link(EntryType::Link, "h", "../outside/file")
        .extract();
    out.refused("h", "'..'");
    let out = Tar::new()
        .symlink("l", "../outside")
        .link(EntryType::Link, "h", "l/file")
        .extract();
    out.refused("h", "hard link");
    // A hard link to a symbolic link, then a file of that name: the link is replaced, not followed.
    let out = Tar::new()
        .symlink("l", "../outside/file")
        .link(EntryType::Link, "h", "l")
        .file("h", "x")
        .extract();
    assert_eq!(out.text("h"), "x");
    Tar::new()
        .symlink("./", "../outside")
        .extract()
        .refused("./", "replace the root");
    Tar::new()
        .symlink("a", "a")
        .file("a/b", "x")
        .extract()
        .refused("a", "");
    let out = Tar::new()
        .symlink("a", "b")
        .symlink("b", "a")
        .file("a/x", "x")
        .extract();
    assert!(out.result.is_err());
    let out = Tar::new()
        .file("d/x", "x")
        .symlink("d", "../outside")
        .extract();
    out.refused("d", "replace folder");
}

#[test]
fn odd_entries_are_refused_by_name() {
    Tar::new()
        .entry(EntryType::Char, "etc/null", b"")
        .extract()
        .refused("etc/null", "device");
    Tar::new()
        .entry(EntryType::new(b'Z'), "odd", b"")
        .extract()
        .refused("odd", "type 'Z'");
    Tar::new()
        .entry(EntryType::Directory, "d", b"data")
        .extract()
        .refused("d", "has data");
    let mut owner = header(EntryType::Regular, b"big-uid", 0);
    owner.set_uid(65_536);
    owner.set_cksum();
    Tar::new()
        .raw(&owner, b"")
        .extract()
        .refused("big-uid", "65536");
    let out = Tar::new()
        .pax(&[("gid", b"4294967296")])
        .file("big-gid", "")
        .extract();
    out.refused("big-gid", "4294967296");
    let out = Tar::new().pax(&[("path", b"a\0b")]).file("x", "").extract();
    out.refused("a\\x00b", "zero byte");
    let out = Tar::new()
        .pax(&[("path", &[b'n'; 300])])
        .file("x", "")
        .extract();
    out.refused("nnn", "255");
    let out = Tar::new()
        .pax(&[("path", &b"d/".repeat(1500))])
        .file("x", "")
        .extract();
    out.refused("d/d/d", "512 folders");
    let out = Tar::new()
        .pax(&[("path", &b"d/".repeat(4096))])
        .file("x", "")
        .extract();
    out.refused("d/d/d", "4095");
    let out = Tar::new()
        .pax(&[("path", b"new\nline\x1b[31m--checkpoint-action")])
        .file("x", "y");
    let out = out.extract();
    assert_eq!(out.text("new\nline\x1b[31m--checkpoint-action"), "y");
}

#[test]
fn sizes_that_disagree_or_are_too_large_are_refused() {
    let out = Tar::new()
        .pax(&[("size", b"0")])
        .file("desync", &"x".repeat(1024))
        .extract();
    out.refused("desync", "different sizes");
    let out = Tar::new()
        .pax(&[("size", b"-1")])
        .file("negative", "x")
        .extract();
    out.refused("negative", "different sizes");
    let huge = header(EntryType::Regular, b"claim", 1 << 40);
    let mut archive = huge.as_bytes().to_vec();
    Outcome::of(&archive, Limits::default()).refused("claim", "64G");
    let mut negative = huge;
    negative.as_old_mut().size = [0xff; 12];
    negative.set_cksum();
    archive = negative.as_bytes().to_vec();
    Outcome::of(&archive, Limits::default()).refused("", "no valid number");
    let giant = header(EntryType::XHeader, b"giant", 200 << 20);
    Outcome::of(giant.as_bytes(), Limits::default()).refused("giant", "extension header");
    let mut nested = Tar::new();
    for _ in 0..100 {
        nested = nested.pax(&[("comment", b"x")]);
    }
    nested
        .file("x", "")
        .extract()
        .refused("", "too many extension");
    let mut many = Tar::new();
    for n in 0..50 {
        many = many.file(&format!("f{n}"), "");
    }
    let limits = Limits {
        entries: 20,
        ..Limits::default()
    };
    Outcome::of(&many.bytes(), limits).refused("", "more than 20 entries");
    // Folders that an entry only implies take as much room on the disk as it does.
    let deep = Tar::new()
        .file(&"d/".repeat(40), "")
        .file(&format!("{}f", "e/".repeat(40)), "")
        .bytes();
    let most = |entries| Limits {
        entries,
        ..Limits::default()
    };
    Outcome::of(&deep, most(60)).refused("e/e", "folders they lie in");
    assert!(Outcome::of(&deep, most(90)).result.is_ok());
    let limits = Limits {
        bytes: 1000,
        ..Limits::default()
    };
    let twice = Tar::new()
        .file("a", &"x".repeat(600))
        .file("b", &"x".repeat(600))
        .bytes();
    Outcome::of(&twice, limits).refused("b", "more than");
}

#[test]
fn a_cut_archive_is_never_whole() {
    let whole = Tar::new()
        .file("a", &"x".repeat(700))
        .file("b", "y")
        .bytes();
    // Up to and with the end of b's data, of which one byte is not padding.
    for cut in [512, 600, 1535, 1536, 2000, 2048, 2049, 2560] {
        let out = Outcome::of(&whole[..cut], Limits::default());
        assert!(
            matches!(out.result, Err(ArchiveError::Truncated { .. })),
            "{cut}"
        );
    }
    // What has not one whole header may be anything.
    for none in [&whole[..1], &whole[..511], &[b'x'; 2048][..]] {
        Outcome::of(none, Limits::default()).refused("", "it is no tar archive");
    }
    Outcome::of(&[], Limits::default()).refused("", "it ends before its first entry");
    let mut damaged = whole;
    damaged[1536] ^= 1;
    Outcome::of(&damaged, Limits::default()).refused("", "checksum");
}

#[test]
fn sparse_files_keep_holes_and_names() {
    let map = b"1\n1048576\n4\n";
    let mut data = map.to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"data");
    let records: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"disk"),
        ("GNU.sparse.realsize", b"2000000"),
    ];
    let out = Tar::new()
        .pax(records)
        .entry(EntryType::Regular, "GNUSparseFile.0/disk", &data)
        .extract();
    let meta = std::fs::metadata(out.path("disk")).unwrap();
    assert_eq!(meta.len(), 2_000_000);
    assert!(meta.blocks() * 512 < 1_000_000, "the hole was written");
    assert_eq!(
        &std::fs::read(out.path("disk")).unwrap()[1_048_576..1_048_581],
        b"data\0"
    );
    for (map, why) in [
        ("1\n1999999\n4\n", "longer than the file"),
        ("2\n100\n2\n101\n2\n", "overlaps"),
        ("1\n0\n3\n", "do not agree"),
        ("x\n", "no list"),
        ("9999999999999\n", "no list"),
        (
            "1\n18446744073709551615\n18446744073709551615\n",
            "overlaps",
        ),
    ] {
        let mut data = map.as_bytes().to_vec();
        data.resize(512, 0);
        data.extend_from_slice(b"data");
        let tar = Tar::new()
            .pax(records)
            .entry(EntryType::Regular, "s", &data);
        tar.extract().refused("s", why);
    }
    let big: &[(&str, &[u8])] = &[
        ("GNU.sparse.map", b"0,4"),
        ("GNU.sparse.size", b"1099511627776"),
    ];
    Tar::new()
        .pax(big)
        .file("tib", "data")
        .extract()
        .refused("tib", "64G");
}

#[test]
fn only_harmless_attributes_are_kept() {
    let out = Tar::new()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.security.selinux", b"x"),
            ("SCHILY.xattr.security.capability", b"short"),
        ])
        .file("f", "x")
        .extract();
    assert_eq!(out.result.as_ref().unwrap().xattrs, 4);
}

/// An archive with one of everything.
fn sample() -> Vec<u8> {
    Tar::new()
        .entry(EntryType::Directory, "etc/", b"")
        .file("etc/passwd", "root")
        .symlink("out", "../outside")
        .symlink("abs", "/etc")
        .file("abs/x", "y")
        .link(EntryType::Link, "hard", "etc/passwd")
        .entry(EntryType::GNULongName, "long", b"a/long/name\0")
        .file("short", "z")
        .pax(&[
            ("path", b"pax/name"),
            ("SCHILY.xattr.user.a", b"b"),
            ("mtime", b"1.5"),
        ])
        .file("p", "q")
        .entry(EntryType::Fifo, "fifo", b"")
        .file("out/file2", "inside")
        .bytes()
}

/// Makes each header's checksum right again, so that mutations reach what is behind that check.
fn mend(archive: &mut [u8]) {
    for block in archive.as_chunks_mut::<512>().0 {
        if block.iter().any(|b| *b != 0) && (block[257..262] == *b"ustar" || block[156] == b'x') {
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_archives_stay_inside(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        swap in any::<Option<(prop::sample::Index, prop::sample::Index)>>(),
        cut in any::<Option<prop::sample::Index>>(),
        mended in any::<bool>(),
    ) {
        let mut archive = sample();
        if let Some((a, b)) = swap {
            let blocks = archive.len() / 512;
            let (a, b) = (a.index(blocks) * 512, b.index(blocks) * 512);
            for n in 0..512 {
                archive.swap(a + n, b + n);
            }
        }
        for (at, byte) in changes {
            let at = at.index(archive.len());
            archive[at] = byte;
        }
        if mended {
            mend(&mut archive);
        }
        if let Some(cut) = cut {
            archive.truncate(cut.index(archive.len()));
        }
        let limits = Limits { bytes: 1 << 20, ..Limits::default() };
        // Outcome checks that what is outside stayed as it was.
        drop(Outcome::of(&archive, limits));
    }
}
