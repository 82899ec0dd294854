//! Archives of guests: written and read again with everything, and whatever is done to them, either
//! refused or not different.

use std::io::Cursor;
use std::path::Path;

use proptest::prelude::*;

use super::dirfd::open_dir;
use super::foreign::{Opened, open_archive};
use super::image::{Image, Progress};
use super::pack::describe;
use super::pack_format::{Manifest, OWN, PackError, PackedGuest, PackedSnapshot, parts};
use super::pack_header::{headers, own, pad};
use super::pack_write::{Compression, Packer};
use super::seed::tests::TempDir;
use super::tree_item::{Item, What};
use super::tree_tests::{all, fill};

fn image(folder: &Path) -> Image {
    Image::sample("a1".repeat(32), folder.to_owned())
}

fn guest() -> PackedGuest {
    PackedGuest {
        name: "web".into(),
        definition: String::new(),
        machine_id: "0".repeat(32),
        created_ms: 0,
        written: serde_json::Value::Null,
        ran: false,
        snapshot: None,
        snapshots: Vec::new(),
    }
}

fn plain() -> Manifest {
    let image = image(Path::new("/"));
    describe(guest(), (&image, Vec::new()), vec![OWN.into()], 0)
}

/// Packs the trees `root` and `upper` of a folder.
fn pack(folder: &Path, how: Compression) -> Vec<u8> {
    let mut out = Vec::new();
    let image = image(folder);
    let parts = parts((&image, true), &[], (0, 0));
    let manifest = describe(guest(), (&image, Vec::new()), parts, 1_700_000_000_000);
    let mut silent = |_| {};
    let mut packer = Packer::new(&mut out, how, &manifest, &mut silent).unwrap();
    packer.image(&image).unwrap();
    packer.own(folder, open_dir(folder).unwrap()).unwrap();
    packer.finish().unwrap();
    out
}

/// Unpacks into the folder, every part into a folder of its name with `+` for `/`.
fn unpack(archive: &[u8], folder: &Path) -> Result<(), PackError> {
    let input = Box::new(Cursor::new(archive.to_vec()));
    let Opened::Guest(unpacker) = open_archive(input)? else {
        panic!("another program's");
    };
    let mut unpacker = *unpacker;
    for part in unpacker.manifest.parts.clone() {
        let path = folder.join(part.replace('/', "+"));
        std::fs::create_dir(&path).unwrap();
        let top = open_dir(&path).unwrap();
        unpacker.part(&part, Some((std::os::fd::AsFd::as_fd(&top), &path)))?;
    }
    unpacker.finish()
}

fn image_folder() -> String {
    format!("image+{}+root", "a1".repeat(32))
}

#[test]
fn a_guest_is_packed_and_unpacked_with_everything() {
    let temp = TempDir::new("pack");
    let from = temp.path().join("from");
    for tree in ["root", "upper"] {
        std::fs::create_dir_all(from.join(tree)).unwrap();
        fill(&from.join(tree));
        // A tar stream has no sockets, and the image is no place for a name of that length.
        std::fs::remove_file(from.join(tree).join("socket")).ok();
        let deep = from.join(tree).join("d".repeat(120)).join("e".repeat(200));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("f"), "x").unwrap();
        std::os::unix::fs::symlink("t".repeat(3000), deep.join("long")).unwrap();
        std::fs::hard_link(deep.join("f"), deep.join("same")).unwrap();
    }
    for (n, how) in [
        Compression::None,
        Compression::Gzip(6),
        Compression::Zstd(3),
    ]
    .into_iter()
    .enumerate()
    {
        let to = temp.path().join(n.to_string());
        std::fs::create_dir(&to).unwrap();
        unpack(&pack(&from, how), &to).unwrap();
        assert_eq!(all(&to.join("root+upper")), all(&from.join("upper")));
        assert_eq!(all(&to.join(image_folder())), all(&from.join("root")));
    }
}

#[test]
fn what_is_said_of_snapshots_must_fit_the_parts() {
    let snapshot = |name: &str, layers: &[&str]| PackedSnapshot {
        name: name.into(),
        created_ms: 0,
        comment: String::new(),
        parent: None,
        image: "a1".repeat(32),
        definition: String::new(),
        automatic: false,
        written: serde_json::Value::Null,
        layers: layers.iter().map(|&layer| layer.to_owned()).collect(),
    };
    let wrong = |snapshots: Vec<PackedSnapshot>| {
        let guest = PackedGuest {
            snapshots,
            ..guest()
        };
        let image = image(Path::new("/"));
        let parts = parts((&image, true), &[], (1, 2));
        describe(guest, (&image, Vec::new()), parts, 0).wrong_snapshots()
    };
    let good = ["root/0", "snapshot/1"];
    assert_eq!(
        wrong(vec![snapshot("s1", &good), snapshot("s2", &[])]),
        None
    );
    let many: Vec<String> = (0..61).map(|n| format!("snapshot/{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (name, layers) in [
        ("../x", &good[..]),
        ("s1", &["root/1"]),
        ("s1", &["snapshot/2"]),
        ("s1", &["root/upper"]),
        ("s1", &["snapshot/0", "snapshot/0"]),
        ("s1", &["bulkhead.json"]),
        ("s1", &many[..]),
    ] {
        assert!(
            wrong(vec![snapshot(name, layers)]).is_some(),
            "{name} {layers:?}"
        );
    }
    let twice = vec![snapshot("s1", &good), snapshot("s1", &good)];
    assert!(wrong(twice).is_some());
}

/// A small archive that damage is tried on.
fn small(temp: &TempDir, how: Compression) -> Vec<u8> {
    let from = temp.path().join("from");
    for tree in ["root", "upper"] {
        std::fs::create_dir_all(from.join(tree).join("a")).unwrap();
        std::fs::write(from.join(tree).join("a/f"), [b'q'; 2500]).unwrap();
        std::os::unix::fs::symlink("f", from.join(tree).join("a/l")).unwrap();
        let sparse = std::fs::File::create(from.join(tree).join("sparse")).unwrap();
        sparse.set_len(1 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"x", 500_000).unwrap();
    }
    pack(&from, how)
}

#[test]
fn a_stream_that_ends_early_is_refused_wherever_it_ends() {
    let temp = TempDir::new("pack");
    for how in [
        Compression::None,
        Compression::Gzip(6),
        Compression::Zstd(3),
    ] {
        let whole = small(&temp, how);
        std::fs::remove_dir_all(temp.path().join("from")).unwrap();
        // Zeros fill the last two blocks of a tar stream.
        let most = if how == Compression::None {
            whole.len() - 1024
        } else {
            whole.len()
        };
        for length in (0..most).step_by(if how == Compression::None { 512 } else { 97 }) {
            let to = temp.path().join("to");
            std::fs::create_dir(&to).unwrap();
            let error = unpack(&whole[..length], &to).unwrap_err();
            assert!(!error.to_string().is_empty());
            std::fs::remove_dir_all(to).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_bit_is_found_or_changes_nothing(
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
        how in 0..3_u8,
    ) {
        let temp = TempDir::new("pack");
        let how = [Compression::None, Compression::Gzip(6), Compression::Zstd(3)][usize::from(how)];
        let mut archive = small(&temp, how);
        let at = at.index(archive.len());
        archive[at] ^= 1 << bit;
        let to = temp.path().join("to");
        std::fs::create_dir(&to).unwrap();
        if unpack(&archive, &to).is_ok() {
            let from = temp.path().join("from");
            prop_assert_eq!(all(&to.join("root+upper")), all(&from.join("upper")));
            prop_assert_eq!(all(&to.join(image_folder())), all(&from.join("root")));
        }
    }
}

/// A stream of the caller's own making: a manifest, then members.
fn stream(members: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    let text = serde_json::to_vec(&plain()).unwrap();
    own(&mut out, "bulkhead.json", text.len() as u64, 0);
    out.extend_from_slice(&text);
    pad(&mut out, text.len() as u64);
    members(&mut out);
    out.resize(out.len() + 1024, 0);
    out
}

fn item(path: &str, what: What) -> Item {
    Item {
        path: path.as_bytes().to_vec(),
        what,
        mode: 0o755,
        uid: 0,
        gid: 0,
        modified: (0, 0),
        accessed: (0, 0),
        xattrs: Vec::new(),
    }
}

#[track_caller]
fn refused(what: &str, members: impl FnOnce(&mut Vec<u8>)) -> String {
    let temp = TempDir::new("pack");
    let to = temp.path().join("to");
    std::fs::create_dir(&to).unwrap();
    std::fs::write(temp.path().join("outside"), "kept").unwrap();
    let error = unpack(&stream(members), &to).expect_err(what).to_string();
    let outside = std::fs::read_to_string(temp.path().join("outside")).unwrap();
    assert_eq!(outside, "kept");
    let mut names: Vec<_> = std::fs::read_dir(temp.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["outside", "to"], "{what}");
    error
}

#[test]
fn what_leads_out_or_comes_twice_is_refused() {
    let file = || What::File {
        size: 0,
        pieces: vec![(0, 0)],
    };
    let link = |to: &str| What::Symlink(to.as_bytes().to_vec());
    let hard = |to: &str| What::HardLink(to.as_bytes().to_vec());
    for (what, items) in [
        ("upwards", vec![item("../../x", file())]),
        ("twice", vec![item("x", file()), item("x", file())]),
        (
            "through a link",
            vec![item("a", link("/tmp")), item("a/x", file())],
        ),
        (
            "a link over a file",
            vec![item("a", file()), item("a", link("/etc"))],
        ),
        (
            "linked to the host",
            vec![item("x", hard("../../../outside"))],
        ),
        ("linked to nothing", vec![item("x", hard("none"))]),
        ("a long name", vec![item(&"n".repeat(5000), file())]),
        (
            "a disk",
            vec![item(
                "sda",
                What::Device {
                    block: true,
                    major: 8,
                    minor: 0,
                },
            )],
        ),
        (
            "ten terabytes of hole",
            vec![item(
                "h",
                What::File {
                    size: 10 << 40,
                    pieces: vec![],
                },
            )],
        ),
    ] {
        let error = refused(what, |out| {
            headers(out, OWN, &item("", What::Folder));
            for item in &items {
                headers(out, OWN, item);
            }
        });
        println!("{what}: {error}");
    }
    let elsewhere = refused("elsewhere", |out| {
        headers(out, "etc/cron.d", &item("", What::Folder));
    });
    assert!(elsewhere.contains("part"), "{elsewhere}");
    refused("not from the top", |out| {
        headers(out, OWN, &item("x", file()));
    });
    let unproved = refused("without checksums", |out| {
        headers(out, OWN, &item("", What::Folder));
    });
    assert!(unproved.contains("checksums.json is missing"), "{unproved}");
    let wrong = refused("with wrong checksums", |out| {
        headers(out, OWN, &item("", What::Folder));
        let text = br#"{"parts": [], "whole": "00"}"#;
        own(out, "checksums.json", text.len() as u64, 0);
        out.extend_from_slice(text);
        pad(out, text.len() as u64);
    });
    assert!(wrong.contains("checksum"), "{wrong}");
}

#[test]
fn what_is_no_archive_of_a_guest_is_told_so() {
    for data in [Vec::new(), b"hello".repeat(1000), vec![0; 4096]] {
        let temp = TempDir::new("pack");
        let error = unpack(&data, temp.path()).unwrap_err().to_string();
        assert!(!error.is_empty());
    }
    let newer = serde_json::to_string(&Manifest {
        format: 5,
        ..plain()
    })
    .unwrap();
    let mut out = Vec::new();
    own(&mut out, "bulkhead.json", newer.len() as u64, 0);
    out.extend_from_slice(newer.as_bytes());
    pad(&mut out, newer.len() as u64);
    out.resize(out.len() + 1024, 0);
    let error = unpack(&out, Path::new("/nowhere")).unwrap_err().to_string();
    assert!(error.contains("its format is 5"), "{error}");
}

#[test]
fn an_archive_of_the_first_format_is_taken_and_checked() {
    use sha2::Digest as _;
    let sum = |data: &[u8]| super::digest::hex(&sha2::Sha256::digest(data));
    let mut out = Vec::new();
    let text = serde_json::to_vec(&Manifest {
        format: 1,
        ..plain()
    })
    .unwrap();
    own(&mut out, "bulkhead.json", text.len() as u64, 0);
    out.extend_from_slice(&text);
    pad(&mut out, text.len() as u64);
    let begin = out.len();
    for path in ["", "srv"] {
        headers(&mut out, OWN, &item(path, What::Folder));
    }
    let (first, second) = (sum(&out[..begin]), sum(&out[begin..]));
    let whole = sum(format!("{first}  bulkhead.json\n{second}  {OWN}\n").as_bytes());
    let end = out.len();
    let sums = serde_json::json!({"parts": [
        {"name": "bulkhead.json", "offset": 0, "length": begin, "sha256": first},
        {"name": OWN, "offset": begin, "length": end - begin, "sha256": second},
    ], "whole": whole})
    .to_string();
    own(&mut out, "checksums.json", sums.len() as u64, 0);
    out.extend_from_slice(sums.as_bytes());
    pad(&mut out, sums.len() as u64);
    out.resize(out.len() + 1024, 0);

    let temp = TempDir::new("pack");
    unpack(&out, temp.path()).unwrap();
    assert!(temp.path().join("root+upper/srv").is_dir());
    // Its sums are not taken on trust.
    let wrong = String::from_utf8_lossy(&out).replace(&second, &first);
    let temp = TempDir::new("pack");
    let error = unpack(wrong.as_bytes(), temp.path()).unwrap_err();
    assert!(matches!(error, PackError::Checksum { .. }), "{error}");
}

#[test]
fn further_images_are_those_of_snapshots_and_can_be_proved() {
    let first = image(Path::new("/"));
    let other = |digest: &str| Image {
        digest: digest.repeat(32),
        ..first.clone()
    };
    let wrong = |further: Vec<Image>| {
        let mut guest = guest();
        guest.snapshots = vec![PackedSnapshot {
            name: "s1".into(),
            created_ms: 0,
            comment: String::new(),
            parent: None,
            image: "b2".repeat(32),
            definition: String::new(),
            automatic: false,
            written: serde_json::Value::Null,
            layers: Vec::new(),
        }];
        let parts = parts((&first, true), &further, (0, 0));
        let manifest = describe(guest, (&first, further), parts, 0);
        assert!(manifest.has_image());
        (manifest.format, manifest.wrong_further())
    };
    assert_eq!(wrong(Vec::new()), (3, None));
    assert_eq!(wrong(vec![other("b2")]), (4, None));
    let layered = Image {
        layers: vec!["c3".repeat(32)],
        ..other("b2")
    };
    for further in [
        vec![other("b2"), other("b2")],
        vec![first.clone()],
        vec![other("c3")],
        vec![other("..")],
        vec![layered],
    ] {
        assert!(wrong(further.clone()).1.is_some(), "{further:?}");
    }
}

#[test]
fn images_that_stay_out_are_named() {
    let first = image(Path::new("/"));
    let other = Image {
        digest: "b2".repeat(32),
        ..first.clone()
    };
    let notes = |with_image: bool, further: Vec<Image>| {
        let over = |(number, image): (usize, &Image)| PackedSnapshot {
            name: format!("s{number}"),
            created_ms: 0,
            comment: String::new(),
            parent: None,
            image: image.digest.clone(),
            definition: String::new(),
            automatic: false,
            written: serde_json::Value::Null,
            layers: Vec::new(),
        };
        let mut guest = guest();
        let images = std::iter::once(&first).chain(std::iter::repeat_n(&other, 6));
        guest.snapshots = images.enumerate().map(over).collect();
        let parts = parts((&first, with_image), &further, (0, 0));
        let manifest = describe(guest, (&first, further), parts, 0);
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let mut progress = |step| {
            if let Progress::Note(note) = step {
                notes.push(note);
            }
        };
        Packer::new(&mut out, Compression::None, &manifest, &mut progress).unwrap();
        notes
    };
    let said = notes(true, Vec::new());
    assert_eq!(said.len(), 1);
    let names =
        "b2b2b2b2b2b2 stays out, which only snapshots lie over (s1, s2, s3, s4, s5 and 1 more)";
    assert!(said[0].contains(names), "{said:?}");
    assert!(notes(true, vec![other.clone()]).is_empty());
    // Said with --no-image, and meant.
    assert!(notes(false, Vec::new()).is_empty());
}
