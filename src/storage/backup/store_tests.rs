//! A repository as a whole: what is backed up comes back, what has not changed is not read, what is
//! damaged is found, what is not needed goes.

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use super::super::dirfd::open_dir;
use super::super::image::Image;
use super::super::seed::tests::TempDir;
use super::super::tree_item::What;
use super::super::tree_tests;
use super::*;
use crate::model::{GuestName, Layout, Retention};

/// An installation with an image and guests over it, and a repository beside it.
struct Site {
    temp: TempDir,
    layout: Layout,
    protection: Protection,
}

const DIGEST: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

impl Site {
    fn new(encrypted: bool) -> Self {
        let temp = TempDir::new("backup");
        let layout = Layout::new(&temp.path().join("root"));
        let protection = match encrypted {
            true => Protection::KeyFile(temp.path().join("key")),
            false => Protection::None,
        };
        let site = Self {
            temp,
            layout,
            protection,
        };
        put(&site.below().join("etc/base"), b"of the image");
        put(&site.below().join("etc/changed"), b"of the image");
        put(&site.below().join("gone/x"), b"of the image");
        put(&site.below().join("large"), &noise(300 << 10, 1));
        std::fs::hard_link(site.below().join("large"), site.below().join("also")).unwrap();
        Repository::init(&site.place(), &site.protection).unwrap();
        site
    }

    fn place(&self) -> PathBuf {
        self.temp.path().join("repository")
    }

    fn below(&self) -> PathBuf {
        self.image().root()
    }

    fn image(&self) -> Image {
        Image::sample(DIGEST.into(), self.layout.images().join(DIGEST))
    }

    fn upper(&self, guest: &str) -> PathBuf {
        let name: GuestName = guest.parse().unwrap();
        let root = self.layout.guest(&name).join("root");
        std::fs::create_dir_all(root.join("work")).unwrap();
        std::fs::create_dir_all(root.join("upper")).unwrap();
        root.join("upper")
    }

    fn open(&self) -> Repository {
        Repository::open(&self.place(), &self.protection).unwrap()
    }

    fn back_up(&self, guest: &str) -> (Snapshot, Work) {
        let mut repository = self.open();
        let subject = Subject {
            guest: guest.parse().unwrap(),
            host: "here".into(),
            definition: "[guest]\n".into(),
            machine_id: "0".repeat(32),
            image: self.image(),
        };
        let mut quiet = |_: &Work| {};
        let mut backup = Backup::begin(&mut repository, &self.layout, subject, &mut quiet).unwrap();
        backup.read_own().unwrap();
        let work = backup.work();
        (backup.finish(false).unwrap(), work)
    }

    fn restore(&self, snapshot: &Snapshot, view: View, paths: &[&str], to: &str) -> PathBuf {
        let to = self.temp.path().join(to);
        let paths: Vec<Vec<u8>> = paths.iter().map(|p| p.as_bytes().to_vec()).collect();
        let selection = Selection::new(view, &paths).unwrap();
        let repository = self.open();
        repository
            .restore(snapshot, &selection, &to, &mut |_| {})
            .unwrap();
        to
    }

    fn verify(&self) -> Verdict {
        self.open().verify(true, &mut |_, _| {}).unwrap()
    }

    fn prune(&self, retention: Retention, delete: &[&Snapshot]) -> Pruned {
        let wish = Wish {
            retention,
            delete: delete.iter().map(|snapshot| snapshot.id.clone()).collect(),
            dry_run: false,
        };
        Repository::prune(&self.place(), &self.protection, &wish).unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut all = vec![self.place().join("format.json")];
        for kind in ["packs", "index", "snapshots"] {
            let folder = std::fs::read_dir(self.place().join(kind)).unwrap();
            all.extend(folder.map(|entry| entry.unwrap().path()));
        }
        all.sort();
        all
    }
}

fn put(path: &Path, data: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, data).unwrap();
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes());
    let mut data = vec![0; bytes];
    hash.finalize_xof().fill(&mut data);
    data
}

/// Long enough that a time of change is believed.
fn tick() {
    std::thread::sleep(std::time::Duration::from_millis(120));
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn everything_comes_back_equal() {
    for encrypted in [true, false] {
        let site = Site::new(encrypted);
        let upper = site.upper("web");
        tree_tests::fill(&upper);
        let (snapshot, _) = site.back_up("web");
        assert_eq!(site.verify().faults, [""; 0]);
        let to = site.temp.path().join("own");
        std::fs::create_dir(&to).unwrap();
        let repository = site.open();
        let dir = open_dir(&to).unwrap();
        repository
            .restore_layer(&snapshot, &dir, &mut |_| {})
            .unwrap();
        let is_own = |name: &[u8]| !name.starts_with(b"user.") && !name.starts_with(b"system.");
        let all = |path: &Path| {
            let mut all = tree_tests::all(path);
            for (item, _) in &mut all {
                // What the rules for guests leave out is tested with them.
                item.xattrs
                    .retain(|(name, _)| !is_own(name) || name == b"security.capability");
            }
            all
        };
        assert_eq!(all(&to), all(&upper));
        let below = open_dir(&to).unwrap();
        assert!(
            repository
                .restore_below(&snapshot, 0, &below, &mut |_| {})
                .is_err()
        );
        let whole = site.restore(&snapshot, View::Own, &[], "whole");
        let mut before = tree_tests::all(&upper);
        let mut after = tree_tests::all(&whole);
        // The folder itself is its owner's alone.
        before.remove(0);
        assert_eq!(after.remove(0).0.mode, 0o700);
        if encrypted {
            assert_eq!(after, before);
        }
    }
}

#[test]
fn what_has_not_changed_is_not_read() {
    let site = Site::new(true);
    let upper = site.upper("web");
    put(&upper.join("etc/changed"), b"of the guest");
    put(&upper.join("data"), &noise(1 << 20, 2));
    tick();
    let (first, work) = site.back_up("web");
    assert!(work.read_bytes > 1 << 20, "{work:?}");
    let (second, work) = site.back_up("web");
    assert_eq!((work.read_files, work.read_bytes), (0, 0));
    assert_eq!(
        (second.own.files, second.own.bytes),
        (first.own.files, first.own.bytes)
    );
    assert!(second.added < 4096, "{}", second.added);
    // The same size, and the time of its data set back: only the other time tells.
    let time = upper
        .join("etc/changed")
        .metadata()
        .unwrap()
        .modified()
        .unwrap();
    std::fs::write(upper.join("etc/changed"), b"of the GUEST").unwrap();
    let file = std::fs::File::options()
        .write(true)
        .open(upper.join("etc/changed"));
    file.unwrap().set_modified(time).unwrap();
    let (third, work) = site.back_up("web");
    assert_eq!((work.read_files, work.read_bytes), (1, 12));
    let back = site.restore(&third, View::Whole, &["etc"], "back");
    assert_eq!(text(&back.join("etc/changed")), "of the GUEST");
    let changes = site.open().diff(&second, &third, View::Whole).unwrap();
    let changes: Vec<_> = changes.iter().map(|c| (c.path.as_str(), c.kind)).collect();
    assert_eq!(changes, [("etc/changed", "changed")]);
}

#[test]
fn guests_share_what_is_alike() {
    let site = Site::new(true);
    for guest in ["one", "two"] {
        put(
            &site.upper(guest).join(guest).join("data"),
            &noise(1 << 20, 3),
        );
    }
    let (one, _) = site.back_up("one");
    let (two, work) = site.back_up("two");
    assert!(
        one.added > 1 << 20 && two.added < 64 << 10,
        "{} {}",
        one.added,
        two.added
    );
    // The image was not looked at again.
    assert_eq!(work.read_files, 1);
}

#[test]
fn a_guest_is_restored_as_it_saw_itself() {
    let site = Site::new(true);
    let upper = site.upper("web");
    put(&upper.join("etc/changed"), b"of the guest");
    put(&upper.join("new"), b"of the guest");
    put(&site.below().join("older"), b"of the image");
    symlink("/etc/shadow", upper.join("link")).unwrap();
    let root = rustix::process::geteuid().is_root();
    if root {
        let dir = open_dir(&upper).unwrap();
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(&dir, c"gone", kind, rustix::fs::Mode::empty(), 0).unwrap();
        // As the kernel does it.
        std::fs::hard_link(upper.join("gone"), upper.join("older")).unwrap();
    }
    let (snapshot, _) = site.back_up("web");
    let to = site.restore(&snapshot, View::Whole, &[], "whole");
    assert_eq!(text(&to.join("etc/base")), "of the image");
    assert_eq!(text(&to.join("etc/changed")), "of the guest");
    assert_eq!(text(&to.join("new")), "of the guest");
    assert_eq!(to.join("gone").symlink_metadata().is_err(), root);
    assert_eq!(to.join("older").symlink_metadata().is_err(), root);
    assert_eq!(
        std::fs::read_link(to.join("link")).unwrap(),
        Path::new("/etc/shadow")
    );
    assert_eq!(to.join("also").metadata().unwrap().nlink(), 2);
    // The first name of a file is left out: the second becomes it.
    let some = site.restore(&snapshot, View::Whole, &["/large", "etc//base"], "some");
    assert_eq!(
        std::fs::read(some.join("large")).unwrap(),
        noise(300 << 10, 1)
    );
    assert!(some.join("etc/base").exists() && !some.join("new").exists());
    assert!(!some.join("etc/changed").exists());
    let repository = site.open();
    for (paths, why) in [(["none"], "has no /none"), (["etc/../.."], "no `..`")] {
        let paths = paths.map(|path| path.as_bytes().to_vec());
        let selection = Selection::new(View::Whole, &paths);
        let to = site.temp.path().join("refused");
        let refused = selection.and_then(|s| repository.restore(&snapshot, &s, &to, &mut |_| {}));
        assert!(refused.unwrap_err().to_string().contains(why));
        assert!(!to.exists());
    }
    let all = Selection::new(View::Whole, &[]).unwrap();
    let again = repository.restore(&snapshot, &all, &to, &mut |_| {});
    assert!(again.unwrap_err().to_string().contains("not empty"));
    let names = std::fs::read_dir(site.temp.path()).unwrap();
    let stray = |n: std::io::Result<std::fs::DirEntry>| n.unwrap().file_name().into_string();
    assert!(
        names
            .map(stray)
            .all(|name| !name.unwrap().contains("restore"))
    );
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    for encrypted in [true, false] {
        let site = Site::new(encrypted);
        put(&site.upper("web").join("etc/changed"), b"of the guest");
        site.back_up("web");
        assert_eq!(site.verify().faults, [""; 0]);
        for file in site.files() {
            let whole = std::fs::read(&file).unwrap();
            let step = (whole.len() / 24).max(1);
            for at in (0..whole.len()).step_by(step).chain([whole.len() - 1]) {
                let mut bad = whole.clone();
                bad[at] ^= 1 << (at % 8);
                std::fs::write(&file, &bad).unwrap();
                assert!(is_damaged(&site), "{} byte {at}", file.display());
            }
            for at in [0, whole.len() / 2, whole.len() - 1] {
                std::fs::write(&file, &whole[..at]).unwrap();
                assert!(is_damaged(&site), "{} cut at {at}", file.display());
            }
            std::fs::write(&file, &whole).unwrap();
        }
        assert!(!is_damaged(&site));
    }
}

fn is_damaged(site: &Site) -> bool {
    let repository = Repository::open(&site.place(), &site.protection);
    let verdict = repository.and_then(|r| r.verify(true, &mut |_, _| {}));
    verdict.map_or(true, |verdict| !verdict.faults.is_empty())
}

#[test]
fn what_no_snapshot_needs_goes_and_the_rest_stays() {
    let site = Site::new(true);
    let upper = site.upper("web");
    put(&upper.join("first"), &noise(4 << 20, 4));
    put(&upper.join("both"), &noise(1 << 20, 5));
    let (first, _) = site.back_up("web");
    std::fs::remove_file(upper.join("first")).unwrap();
    put(&upper.join("second"), &noise(500 << 10, 6));
    let (second, _) = site.back_up("web");
    let nothing = site.prune(Retention::default(), &[]);
    assert!(
        nothing.snapshots.is_empty() && nothing.packs == 0,
        "{nothing:?}"
    );
    let keep = Retention {
        last: 1,
        ..Retention::default()
    };
    let done = site.prune(keep, &[]);
    assert_eq!(done.snapshots, [(first.id.clone(), "web".to_owned())]);
    assert!(done.freed > 3 << 20, "{done:?}");
    let size: u64 = site
        .files()
        .iter()
        .map(|f| f.metadata().unwrap().len())
        .sum();
    assert!(size < 4 << 20, "{size}");
    assert!(!is_damaged(&site));
    let to = site.restore(&second, View::Whole, &[], "after");
    assert_eq!(std::fs::read(to.join("both")).unwrap(), noise(1 << 20, 5));
    assert!(site.open().find(&first.id).is_err());
    assert_eq!(site.open().find("web").unwrap().id, second.id);
    assert_eq!(site.open().find(&second.id[..6]).unwrap().id, second.id);
    let done = site.prune(Retention::default(), &[&second]);
    assert_eq!((done.snapshots.len(), done.kept), (1, 0));
    assert_eq!(site.files().len(), 1);
}

#[test]
fn an_index_is_made_anew_and_strays_are_cleared() {
    let site = Site::new(true);
    put(&site.upper("web").join("data"), &noise(1 << 20, 7));
    let (snapshot, _) = site.back_up("web");
    for file in std::fs::read_dir(site.place().join("index")).unwrap() {
        std::fs::write(file.unwrap().path(), b"x").unwrap();
    }
    let error = Repository::open(&site.place(), &site.protection).unwrap_err();
    assert!(error.to_string().contains("reindex"), "{error}");
    let (packs, faults) = Repository::reindex(&site.place(), &site.protection).unwrap();
    assert!(packs > 0 && faults.is_empty());
    site.restore(&snapshot, View::Whole, &[], "whole");
    std::fs::write(site.place().join("packs").join("ab".repeat(32)), b"x").unwrap();
    std::fs::write(site.place().join("packs/notes"), b"a person's").unwrap();
    std::fs::write(site.place().join("tmp/cut-short"), b"xyz").unwrap();
    assert_eq!(site.verify().unused_packs, 1);
    assert_eq!(site.prune(Retention::default(), &[]).packs, 1);
    assert!(site.place().join("packs/notes").exists());
    assert!(!site.place().join("tmp/cut-short").exists());
    assert!(!is_damaged(&site));
}

#[test]
fn a_key_is_for_one_repository_and_is_not_left_away() {
    let site = Site::new(true);
    let error = |protection: &Protection| {
        let opened = Repository::open(&site.place(), protection);
        opened.unwrap_err().to_string()
    };
    let other = Protection::KeyFile(site.temp.path().join("other"));
    Repository::init(&site.temp.path().join("second"), &other).unwrap();
    assert!(error(&other).contains("not the key of this repository"));
    assert!(error(&Protection::None).contains("--key-file"));
    let again = Repository::init(&site.place(), &site.protection).unwrap_err();
    assert!(again.to_string().contains("one already"));
    let folder = Repository::init(site.temp.path(), &site.protection).unwrap_err();
    assert!(folder.to_string().contains("not empty"));
    let none = Repository::open(&site.temp.path().join("none"), &site.protection);
    assert!(none.unwrap_err().to_string().contains("backup init"));
    let plain = Site::new(false);
    let opened = Repository::open(&plain.place(), &site.protection).unwrap_err();
    assert!(opened.to_string().contains("--no-encryption"));
}

#[test]
fn two_add_at_once_and_one_prunes_alone() {
    let site = Site::new(true);
    put(&site.upper("one").join("data"), &noise(1 << 20, 8));
    let (a, b) = (site.open(), site.open());
    let (snapshot, _) = site.back_up("one");
    drop((a, b));
    site.prune(Retention::default(), &[]);
    let left = site.open().snapshots().unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!((&left[0].id, &left[0].own), (&snapshot.id, &snapshot.own));
}

#[test]
fn layers_that_were_set_aside_come_back_as_one() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let site = Site::new(true);
    let upper = site.upper("web");
    let kept = site.temp.path().join("kept/0123456789abcdef");
    let chain = serde_json::to_vec(&[&kept]).unwrap();
    put(&upper.parent().unwrap().join("chain.json"), &chain);
    put(&kept.join("root/etc/changed"), b"set aside");
    put(&kept.join("root/old"), b"set aside");
    put(&kept.join("root/gone/y"), b"set aside");
    put(&upper.join("etc/changed"), b"of the guest");
    let whiteout = |folder: &Path, name: &str| {
        let kind = rustix::fs::FileType::CharacterDevice;
        let dir = open_dir(folder).unwrap();
        rustix::fs::mknodat(&dir, name, kind, rustix::fs::Mode::empty(), 0).unwrap();
    };
    whiteout(&upper, "old");
    let opaque = |path: &Path| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(path, "trusted.overlay.opaque", b"y", flags).unwrap();
    };
    opaque(&kept.join("root/gone"));
    put(&upper.join("gone/z"), b"of the guest");
    let (first, _) = site.back_up("web");
    assert_eq!(first.chain.len(), 1);
    let whole = site.restore(&first, View::Whole, &[], "whole");
    assert_eq!(text(&whole.join("etc/changed")), "of the guest");
    assert_eq!(text(&whole.join("etc/base")), "of the image");
    assert!(!whole.join("old").exists() && !whole.join("gone/x").exists());
    assert!(whole.join("gone/y").exists() && whole.join("gone/z").exists());
    // In one layer: what hid something of the image still does.
    let one = site.temp.path().join("one");
    std::fs::create_dir(&one).unwrap();
    let dir = open_dir(&one).unwrap();
    site.open()
        .restore_layer(&first, &dir, &mut |_| {})
        .unwrap();
    assert_eq!(one.join("old").symlink_metadata().unwrap().rdev(), 0);
    assert!(one.join("gone/y").exists() && one.join("gone/z").exists());
    let mut value = [0; 4];
    let mark = rustix::fs::getxattr(one.join("gone"), "trusted.overlay.opaque", &mut value);
    assert_eq!(mark, Ok(1));
    // Backed up once, whoever has it.
    let (_, work) = site.back_up("web");
    assert!(work.read_files <= 3, "{work:?}");
    assert!(!is_damaged(&site));
}

/// Where the first chunk of a file is, and the name of its pack.
fn first_chunk(site: &Site, snapshot: &Snapshot, path: &str) -> (index::Place, String) {
    let repository = site.open();
    let mut source = source::Source::new(&repository, snapshot, View::Own).unwrap();
    let chunk = loop {
        let (_, entry) = source.next(&repository).unwrap().unwrap();
        if entry.item.path == path.as_bytes() {
            break entry.data[0];
        }
    };
    let place = repository.index.get(&chunk.id).unwrap();
    let pack = super::super::digest::hex(&repository.index.packs[place.pack as usize].0);
    (place, pack)
}

/// Flips a bit in the first chunk of a file.
fn damage(site: &Site, snapshot: &Snapshot, path: &str) {
    flip(site, first_chunk(site, snapshot, path));
}

fn flip(site: &Site, (place, pack): (index::Place, String)) {
    let file = site.place().join("packs").join(pack);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[place.offset as usize + 40] ^= 1;
    std::fs::write(&file, bytes).unwrap();
}

#[test]
fn a_damaged_chunk_costs_the_files_that_have_it_and_no_other() {
    for encrypted in [true, false] {
        let site = Site::new(encrypted);
        let upper = site.upper("web");
        let lost = noise(5000, 7);
        put(&upper.join("etc/changed"), &lost);
        put(&upper.join("srv/a"), b"whole");
        put(&upper.join("srv/bad"), &lost);
        std::fs::hard_link(upper.join("srv/bad"), upper.join("srv/worse")).unwrap();
        put(&upper.join("srv/z"), b"whole too");
        let (snapshot, _) = site.back_up("web");
        damage(&site, &snapshot, "srv/bad");
        let restore = |view, to: &str| {
            let to = site.temp.path().join(to);
            let selection = Selection::new(view, &[]).unwrap();
            let repository = site.open();
            let done = repository.restore(&snapshot, &selection, &to, &mut |_| {});
            (done.unwrap(), to)
        };
        let damaged = ["/etc/changed", "/srv/bad", "/srv/worse"];
        let (done, to) = restore(View::Whole, "whole");
        assert_eq!(done.damaged, damaged);
        assert_eq!(text(&to.join("srv/a")), "whole");
        assert_eq!(text(&to.join("srv/z")), "whole too");
        assert_eq!(text(&to.join("etc/base")), "of the image");
        for path in damaged {
            // Not the image's older one either.
            assert!(to.join(&path[1..]).symlink_metadata().is_err(), "{path}");
        }
        let (done, to) = restore(View::Own, "own");
        assert_eq!(done.damaged, damaged);
        for path in damaged {
            let mark = to.join(&path[1..]).symlink_metadata().unwrap();
            assert_eq!((mark.mode() & 0o170_000, mark.rdev()), (0o020_000, 0));
        }
    }
}

/// A repository on a disk that fails from one chunk on, or that has gone away by then.
#[derive(Debug)]
struct Failing {
    blobs: Box<dyn blob::Blobs>,
    /// Pack and place of the chunk that cannot be read.
    chunk: (String, u64),
    errno: rustix::io::Errno,
    gone: bool,
}

impl Failing {
    fn error(&self) -> BackupError {
        super::super::dirfd::FileError::new("read", Path::new("the repository"), self.errno).into()
    }
}

impl blob::Blobs for Failing {
    fn put(&self, kind: blob::Kind, name: &str, data: &[u8]) -> error::Result<()> {
        self.blobs.put(kind, name, data)
    }

    fn get(&self, kind: blob::Kind, name: &str, most: u64) -> error::Result<Vec<u8>> {
        self.blobs.get(kind, name, most)
    }

    fn get_part(&self, kind: blob::Kind, name: &str, part: blob::Part) -> error::Result<Vec<u8>> {
        match (name, part.offset) == (&self.chunk.0, self.chunk.1) {
            true => Err(self.error()),
            false => self.blobs.get_part(kind, name, part),
        }
    }

    fn look_again(&self) -> error::Result<()> {
        match self.gone {
            true => Err(self.error()),
            false => self.blobs.look_again(),
        }
    }

    fn list(&self, kind: blob::Kind) -> error::Result<Vec<(String, u64)>> {
        self.blobs.list(kind)
    }

    fn delete(&self, kind: blob::Kind, name: &str) -> error::Result<()> {
        self.blobs.delete(kind, name)
    }

    fn hold(&self, hold: blob::Hold) -> error::Result<std::os::fd::OwnedFd> {
        self.blobs.hold(hold)
    }

    fn sweep(&self) -> error::Result<u64> {
        self.blobs.sweep()
    }
}

#[test]
fn a_repository_that_goes_away_is_no_damaged_file() {
    use rustix::io::Errno;
    let site = Site::new(true);
    let upper = site.upper("web");
    put(&upper.join("srv/bad"), &noise(5000, 7));
    put(&upper.join("srv/z"), b"whole");
    let (snapshot, _) = site.back_up("web");
    for (errno, gone, goes_on) in [
        (Errno::IO, false, true),
        (Errno::IO, true, false),
        (Errno::NOTCONN, false, false),
        (Errno::STALE, true, false),
        (Errno::MFILE, false, false),
        (Errno::NOENT, false, false),
    ] {
        let (chunk, pack) = first_chunk(&site, &snapshot, "srv/bad");
        let mut repository = site.open();
        let blobs: Box<dyn blob::Blobs> = Box::new(folder::Folder::open(&site.place()).unwrap());
        repository.blobs = Box::new(Failing {
            blobs,
            chunk: (pack, chunk.offset.into()),
            errno,
            gone,
        });
        let to = site.temp.path().join("to");
        let selection = Selection::new(View::Own, &[]).unwrap();
        let done = repository.restore(&snapshot, &selection, &to, &mut |_| {});
        match goes_on {
            true => {
                assert_eq!(done.unwrap().damaged, ["/srv/bad"]);
                assert_eq!(text(&to.join("srv/z")), "whole");
                std::fs::remove_dir_all(&to).unwrap();
            }
            false => {
                let error = done.unwrap_err();
                assert!(matches!(error, BackupError::File(_)), "{errno}: {error}");
                assert!(!to.exists(), "{errno}");
            }
        }
    }
}

#[test]
fn a_missing_pack_is_damage_while_the_repository_is_there() {
    let site = Site::new(true);
    put(&site.upper("web").join("srv/bad"), &noise(5000, 7));
    let (snapshot, _) = site.back_up("web");
    let (place, pack) = first_chunk(&site, &snapshot, "srv/bad");
    let repository = site.open();
    let wanted = |repository: &Repository| {
        let id = *repository
            .index
            .iter()
            .find(|(_, p)| **p == place)
            .unwrap()
            .0;
        let length = place.plain;
        repository.chunk_unless_damaged(&repo::ChunkRef { id, length })
    };
    assert!(wanted(&repository).unwrap().is_some());
    std::fs::remove_file(site.place().join("packs").join(pack)).unwrap();
    assert!(wanted(&repository).unwrap().is_none());
    let (format, aside) = (site.place().join("format.json"), site.temp.path().join("f"));
    std::fs::rename(&format, &aside).unwrap();
    wanted(&repository).unwrap_err();
    std::fs::rename(&aside, &format).unwrap();
    std::fs::rename(site.place().join("packs"), site.temp.path().join("p")).unwrap();
    wanted(&repository).unwrap_err();
}

#[test]
fn the_files_of_a_snapshot_are_listed() {
    let site = Site::new(true);
    let upper = site.upper("web");
    put(&upper.join("srv/in/deep"), b"12345");
    std::fs::hard_link(upper.join("srv/in/deep"), upper.join("srv/other")).unwrap();
    symlink("in/deep", upper.join("srv/link")).unwrap();
    let (snapshot, _) = site.back_up("web");
    let repository = site.open();
    let list = |path: &str, deep| {
        let found = repository.list_files(&snapshot, View::Whole, path.as_bytes(), deep);
        found
            .map(|(files, _none)| files)
            .map_err(|error| error.to_string())
    };
    let names = |found: Vec<crate::model::FileEntry>| {
        let names = found.into_iter().map(|file| file.name);
        names.collect::<Vec<String>>()
    };
    let top = ["/also", "/etc", "/gone", "/large", "/srv"];
    assert_eq!(names(list("/", false).unwrap()), top);
    let srv = list("/srv/", false).unwrap();
    let rows: Vec<_> = srv
        .iter()
        .map(|file| (&*file.name, file.kind.letter(), file.size))
        .collect();
    let expected = [
        ("/srv/in", 'd', 0),
        ("/srv/link", 'l', 0),
        ("/srv/other", '-', 5),
    ];
    assert_eq!(rows, expected);
    assert_eq!(srv[1].target.as_deref(), Some("in/deep"));
    let all = ["/srv/in", "/srv/in/deep", "/srv/link", "/srv/other"];
    assert_eq!(names(list("srv", true).unwrap()), all);
    assert_eq!(names(list("srv/other", false).unwrap()), ["/srv/other"]);
    assert!(
        list("srv/no", false)
            .unwrap_err()
            .contains("has no /srv/no")
    );
    assert!(list("srv/../etc", false).is_err());
}

/// All files of a folder that a restore has made, but for the top.
fn restored(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> = tree_tests::all(folder)
        .into_iter()
        .map(|(item, _)| format!("/{}", String::from_utf8(item.path).unwrap()))
        .collect();
    all.retain(|path| path != "/");
    all
}

#[test]
fn a_damaged_list_of_files_costs_what_was_in_it_and_no_other() {
    let site = Site::new(true);
    let upper = site.upper("web");
    let long = "x".repeat(220);
    for number in 0..4500 {
        let name = format!("srv/{:02}-{long}/{number:04}-{long}", number / 100);
        put(&upper.join(name), b"");
    }
    put(&upper.join("srv/99/z"), b"data");
    std::fs::hard_link(upper.join("srv/99/z"), upper.join("z")).unwrap();
    let (snapshot, _) = site.back_up("web");
    let list = snapshot.own.list().unwrap();
    assert!(list.len() > 2, "{} chunks", list.len());
    let whole = restored(&site.restore(&snapshot, View::Own, &[], "whole"));
    for number in [0, list.len() / 2, list.len() - 1] {
        let chunk = list[number];
        let repository = site.open();
        let place = repository.index.get(&chunk.id).unwrap();
        let pack = super::super::digest::hex(&repository.index.packs[place.pack as usize].0);
        flip(&site, (place, pack.clone()));
        let to = site.temp.path().join(format!("to-{number}"));
        let selection = Selection::new(View::Own, &[]).unwrap();
        let done = repository.restore(&snapshot, &selection, &to, &mut |_| {});
        let done = done.unwrap();
        let [lost] = done.unlisted.as_slice() else {
            panic!("{number}: {:?}", done.unlisted);
        };
        assert!(lost.own);
        let at = |path: &str| whole.iter().position(|one| one == path).unwrap();
        let first = match lost.after.as_deref() {
            None => 0,
            // The top itself.
            Some("/") => 0,
            Some(after) => at(after) + 1,
        };
        let end = lost.before.as_deref().map_or(whole.len(), at);
        assert!(first < end, "{number}: {lost}");
        assert!(
            end - first < whole.len() * 3 / 4 || list.len() < 3,
            "{lost}"
        );
        // Everything else is there, and its folders.
        let found: std::collections::HashSet<String> = restored(&to).into_iter().collect();
        for (index, path) in whole.iter().enumerate() {
            let is_there = found.contains(path);
            let kept = index < first || index >= end;
            let named = done.damaged.contains(path) || path.matches('/').count() < 3;
            assert!(is_there == kept || named, "{number}: {path}");
        }
        assert!(found.iter().all(|path| whole.contains(path)));
        let mode = to.metadata().unwrap().mode();
        assert_eq!(mode & 0o7777, 0o700);
        // The same is told of a guest's root, and of a list of it.
        let (files, told) = repository
            .list_files(&snapshot, View::Own, b"", true)
            .unwrap();
        assert_eq!(told, done.unlisted);
        assert!(files.len() < whole.len());
        let inside = site.temp.path().join(format!("in-{number}"));
        std::fs::create_dir(&inside).unwrap();
        let dir = open_dir(&inside).unwrap();
        let done = repository.restore_layer(&snapshot, &dir, &mut |_| {});
        assert_eq!(done.unwrap().unlisted, told);
        flip(&site, (repository.index.get(&chunk.id).unwrap(), pack));
    }
    assert!(!is_damaged(&site));
}

/// An entry of which nothing matters but its path and kind.
fn entry(path: &str, what: What) -> entry::Entry {
    entry::Entry {
        item: restore_gap::blank(path.into(), what),
        changed: (1, 0),
        inode: 1,
        data: Vec::new(),
    }
}

/// The bytes of a list of files.
fn listed(entries: &[entry::Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        let entry = entry.encode();
        bytes.extend(u32::try_from(entry.len()).unwrap().to_le_bytes());
        bytes.extend(entry);
    }
    bytes
}

/// A snapshot whose own list of files is these chunks; one of no bytes is lost.
fn with_list(site: &Site, snapshot: &Snapshot, chunks: &[&[u8]]) -> Snapshot {
    let mut repository = site.open();
    let chunk = |bytes: &&[u8]| match bytes.is_empty() {
        true => repo::ChunkRef {
            id: seal::ChunkId([7; 32]),
            length: 100,
        },
        false => repository.store(bytes).unwrap(),
    };
    let chunks: Vec<repo::ChunkRef> = chunks.iter().map(chunk).collect();
    repository.flush().unwrap();
    Snapshot {
        own: Tree::new(4, 0, &chunks),
        ..snapshot.clone()
    }
}

#[test]
fn what_looks_like_a_device_behind_damage_is_not_made() {
    let site = Site::new(true);
    site.upper("web");
    let (snapshot, _) = site.back_up("web");
    let disk = What::Device {
        block: true,
        major: 8,
        minor: 0,
    };
    let behind = listed(&[
        entry("a", disk),
        entry("b", What::HardLink(b"a".to_vec())),
        entry("c", What::Fifo),
        entry("d", What::Fifo),
    ]);
    let rest = [b"the rest of an entry".as_slice(), &behind].concat();
    let torn = with_list(&site, &snapshot, &[b"", &rest]);
    let restore = |paths: &[Vec<u8>], to: &str| {
        let to = site.temp.path().join(to);
        let selection = Selection::new(View::Own, paths).unwrap();
        let done = site.open().restore(&torn, &selection, &to, &mut |_| {});
        (done.unwrap(), to)
    };
    let (done, to) = restore(&[], "all");
    assert_eq!(done.damaged, ["/a", "/b"]);
    assert_eq!(done.unlisted[0].before.as_deref(), Some("/a"));
    // Where it was is the mark of a file that is not there.
    assert_eq!(to.join("a").symlink_metadata().unwrap().rdev(), 0);
    assert_eq!(to.join("b").symlink_metadata().unwrap().rdev(), 0);
    assert!(to.join("c").symlink_metadata().is_ok());
    // Nor by its other name alone.
    let (done, to) = restore(&[b"b".to_vec()], "one");
    assert_eq!(done.damaged, ["/b"]);
    assert_eq!(to.join("b").symlink_metadata().unwrap().rdev(), 0);
}

#[test]
fn what_cannot_be_made_behind_damage_is_lost_and_the_rest_comes_back() {
    // What may come out of it is what a guest may have.
    let site = Site::new(false);
    site.upper("web");
    let (snapshot, _) = site.back_up("web");
    let mut reaching = entry("etc/f", What::Folder);
    reaching.item.uid = 70_000;
    let folders = [entry("", What::Folder), entry("etc", What::Folder)];
    // That etc/base had become a folder is lost, and the first name of z, and the folder etc/new.
    let behind = [
        entry("etc/base/x", What::Fifo),
        entry("etc/base/y", What::Fifo),
        entry("etc/c/../d", What::Fifo),
        reaching,
        entry("etc/f/in", What::Fifo),
        entry("etc/new/in", What::Fifo),
        entry("y", What::HardLink(b"etc".to_vec())),
        entry("z", What::HardLink(b"etc/lost".to_vec())),
    ];
    let torn = with_list(
        &site,
        &snapshot,
        &[&listed(&folders), b"", &listed(&behind)],
    );
    let restore = |view, paths: &[Vec<u8>], to: &str| {
        let to = site.temp.path().join(to);
        let selection = Selection::new(view, paths).unwrap();
        let done = site.open().restore(&torn, &selection, &to, &mut |_| {});
        done.map(|done| (done, to))
    };
    let lost = ["/etc/c/../d", "/etc/f", "/etc/f/in", "/y", "/z"];
    let (done, to) = restore(View::Whole, &[], "whole").unwrap();
    assert_eq!(
        done.damaged,
        [&["/etc/base/x", "/etc/base/y"][..], &lost].concat()
    );
    assert_eq!(text(&to.join("etc/base")), "of the image");
    assert_eq!(text(&to.join("etc/changed")), "of the image");
    let (done, own) = restore(View::Own, &[], "own").unwrap();
    assert_eq!(done.damaged, lost);
    assert!(own.join("etc/base/y").symlink_metadata().is_ok());
    for mark in ["etc/f", "y", "z"] {
        let mark = own.join(mark).symlink_metadata().unwrap();
        assert_eq!((mark.mode() & 0o170_000, mark.rdev()), (0o020_000, 0));
        assert_eq!((mark.uid(), mark.gid()), (0, 0));
    }
    for to in [to, own] {
        let new = to.join("etc/new").symlink_metadata().unwrap();
        assert_eq!((new.mode(), new.uid()), (0o040_755, 0));
        assert!(to.join("etc/new/in").symlink_metadata().is_ok());
    }
    let told = |paths: &[&str], to: &str| {
        let paths: Vec<Vec<u8>> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        let restored = restore(View::Whole, &paths, to);
        restored
            .map(|(done, _)| done.unlisted)
            .map_err(|error| error.to_string())
    };
    let gap = Unlisted {
        own: true,
        after: Some("/etc".to_owned()),
        before: Some("/etc/base/x".to_owned()),
    };
    assert_eq!(done.unlisted, std::slice::from_ref(&gap));
    assert_eq!(told(&["large", "etc"], "some"), Ok(vec![gap]));
    // What has nothing to do with it comes back as if there were no damage.
    assert_eq!(told(&["large", "etc/new"], "other"), Ok(Vec::new()));
    assert!(
        told(&["etc/a"], "none")
            .unwrap_err()
            .contains("take it from another one")
    );
    assert!(
        told(&["none"], "none")
            .unwrap_err()
            .contains("has no /none")
    );
}

#[test]
fn a_list_without_damage_in_no_order_is_refused() {
    let site = Site::new(false);
    site.upper("web");
    let (snapshot, _) = site.back_up("web");
    for wrong in ["a/b", "../b"] {
        let list = listed(&[entry("", What::Folder), entry(wrong, What::Fifo)]);
        let wrong = with_list(&site, &snapshot, &[&list]);
        let to = site.temp.path().join("to");
        let selection = Selection::new(View::Own, &[]).unwrap();
        let done = site.open().restore(&wrong, &selection, &to, &mut |_| {});
        let error = done.unwrap_err().to_string();
        assert!(
            error.contains("in no folder") || error.contains("plain names"),
            "{error}"
        );
        assert!(!to.exists());
    }
}

/// What is behind damage may be made to look like the beginning of a large file at every fourth byte.
#[test]
fn files_are_not_looked_for_behind_damage_without_end() {
    let site = Site::new(true);
    site.upper("web");
    let (snapshot, _) = site.back_up("web");
    let list = |looks: u32| {
        let lengths = (0..looks).flat_map(|n| ((1 << 20) - 4 * n).to_le_bytes());
        let mut behind: Vec<u8> = lengths.collect();
        behind.resize(behind.len() + (1 << 20) + 8, 0);
        behind.extend(listed(&[entry("y", What::Fifo), entry("z", What::Fifo)]));
        let top = listed(&[entry("", What::Folder)]);
        let mut chunks: Vec<&[u8]> = vec![&top, b""];
        chunks.extend(behind.chunks(1 << 19));
        let torn = with_list(&site, &snapshot, &chunks);
        let listed = site.open().list_files(&torn, View::Own, b"", true);
        let (files, lost) = listed.unwrap();
        assert_eq!((lost.len(), lost[0].after.as_deref()), (1, Some("/")));
        (files.len(), lost[0].before.clone())
    };
    assert_eq!(list(20), (2, Some("/y".to_owned())));
    assert_eq!(list(300), (0, None));
}
