//! What an archive of another program is, and where in it the root lies. Some have what says so at their
//! beginning; a folder that was packed has it anywhere, so a file is read a second time for the root.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::archive_entry::{Entry, EntryKind};
use super::archive_read::Reader;
use super::archive_stream::Pieces;
use super::foreign::Told;
use super::pack_format::PackError;
use super::{foreign_incus, foreign_lxc, foreign_openvz, foreign_pve};

/// Most bytes of what an archive says about its container.
pub(super) const CONFIG_MOST: u64 = 1 << 20;
/// Folders that a container's own may lie in: `var/lib/lxc/NAME/config`.
const DEPTH_MOST: usize = 5;
/// Folders of which every root has one, and in which no container lies.
const OF_A_ROOT: [&[u8]; 4] = [b"bin", b"etc", b"sbin", b"usr"];

/// Where in an archive the root lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Root {
    /// All of it is the root.
    #[default]
    Top,
    /// In this folder.
    Folder(Vec<u8>),
    /// In the first folder of this name.
    Named(Vec<u8>),
}

impl Root {
    /// Its name, for messages.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Top => "(none)".into(),
            Self::Folder(name) | Self::Named(name) => super::archive_entry::shown(name),
        }
    }

    /// Makes an entry one of the root, if it lies in there. Configuration that lies in the root itself stays
    /// behind.
    pub(super) fn inside(&self, entry: &mut Entry) -> bool {
        let depth = match self {
            Self::Top => Some(0),
            Self::Folder(name) => {
                let mut parts = name.split(|b| *b == b'/');
                let depth = name.split(|b| *b == b'/').count();
                let above = entry.path.iter().take(depth);
                (entry.path.len() >= depth && above.zip(&mut parts).all(|(a, b)| a == b))
                    .then_some(depth)
            }
            Self::Named(name) => {
                let mut above = entry.path.iter().take(DEPTH_MOST);
                above.position(|part| part == name).map(|at| at + 1)
            }
        };
        let Some(depth) = depth else {
            return false;
        };
        entry.path.drain(..depth);
        if entry.kind == EntryKind::HardLink {
            let parts = entry.link.split(|b| *b == b'/');
            let parts: Vec<&[u8]> = parts.filter(|part| !matches!(*part, b"" | b".")).collect();
            let below = parts.get(depth..).unwrap_or_default();
            entry.link = below.join(&b'/');
        }
        !entry
            .path
            .starts_with(&[b"etc".to_vec(), b"vzdump".to_vec()])
    }
}

/// What an archive says about its container, read.
type Translate = fn(&str) -> Result<Told, String>;

/// What begins an archive of a container: the member, and whose it is.
const KINDS: &[(&str, &str, Translate)] = &[
    ("etc/vzdump/pct.conf", "Proxmox", foreign_pve::container),
    (VPS, "OpenVZ", foreign_openvz::container),
    ("backup/index.yaml", "Incus", foreign_incus::container),
];
/// It may lie anywhere in the archive: vzdump of its time packed the files as it met them.
const VPS: &str = "etc/vzdump/vps.conf";

/// What an archive was found to be.
pub(super) struct Found {
    pub(super) program: &'static str,
    pub(super) told: Told,
    /// Whether files of the root may have gone by.
    pub(super) gone_by: bool,
}

/// Looks for what says whose container an archive holds; `whole` is whether it may be read to its end for
/// that, since it is there a second time.
pub(super) fn find(reader: &mut Reader<Pieces>, whole: bool) -> Result<Option<Found>, PackError> {
    let mut gone_by = false;
    while let Some(entry) = reader.next()? {
        let path = entry.path.join(&b'/');
        if let Some((file, program, translate)) = kind_of(&path, gone_by) {
            if entry.kind != EntryKind::File {
                return Err(PackError::Format(format!("{file} is no file")));
            }
            let text = text(reader, file)?;
            let told =
                translate(&text).map_err(|why| PackError::Format(format!("{file}: {why}")))?;
            return Ok(Some(Found {
                program,
                told,
                gone_by,
            }));
        }
        if let Some((program, told)) = packed_folder(reader, &entry)? {
            return Ok(Some(Found {
                program,
                told,
                gone_by,
            }));
        }
        let in_root = entry
            .path
            .iter()
            .take(DEPTH_MOST)
            .any(|part| part == b"rootfs");
        if in_root && !whole {
            return Err(PackError::Format(
                "its root comes before its configuration: write it to a file and import that, or pack the \
                 configuration first (tar cf - NAME/config NAME/rootfs)"
                    .into(),
            ));
        }
        // Folders on the way to it.
        if entry.kind == EntryKind::Folder && entry.path.len() < DEPTH_MOST && !in_root {
            continue;
        }
        if !whole {
            return Ok(None);
        }
        gone_by = true;
    }
    Ok(None)
}

fn kind_of(path: &[u8], gone_by: bool) -> Option<&'static (&'static str, &'static str, Translate)> {
    let mut kinds = KINDS.iter();
    kinds.find(|kind| kind.0.as_bytes() == path && (!gone_by || kind.0 == VPS))
}

/// What a container's folder of LXC (`NAME/config` beside `NAME/rootfs`), or the file beside a private area of
/// OpenVZ (`101.conf`), says if this entry is that.
fn packed_folder(
    reader: &mut Reader<Pieces>,
    entry: &Entry,
) -> Result<Option<(&'static str, Told)>, PackError> {
    let Some((name, above)) = entry.path.split_last() else {
        return Ok(None);
    };
    let is_small = entry.kind == EntryKind::File && entry.size <= CONFIG_MOST;
    let shown = super::archive_entry::shown(&entry.path.join(&b'/'));
    let failed = |why: String| PackError::Format(format!("{shown}: {why}"));
    if !is_small || above.len() >= DEPTH_MOST {
        return Ok(None);
    }
    if name == b"config" {
        let Some(text) = maybe_text(reader)?.filter(|text| foreign_lxc::is_one(text)) else {
            return Ok(None);
        };
        let mut told = foreign_lxc::container(&text).map_err(failed)?;
        let root = [above, &[b"rootfs".to_vec()]].concat().join(&b'/');
        told.root = Root::Folder(root);
        if told.name.is_empty() {
            let folder = above
                .last()
                .map(|name| String::from_utf8_lossy(name).into_owned());
            told.name = folder.unwrap_or_default();
        }
        return Ok(Some(("LXC", told)));
    }
    let Some(number) = name.strip_suffix(b".conf").filter(|name| is_number(name)) else {
        return Ok(None);
    };
    let Some(text) = maybe_text(reader)?.filter(|text| foreign_openvz::is_one(text)) else {
        return Ok(None);
    };
    let mut told = foreign_openvz::container(&text).map_err(failed)?;
    told.root = Root::Named(number.to_vec());
    Ok(Some(("OpenVZ", told)))
}

fn is_number(name: &[u8]) -> bool {
    (1..=10).contains(&name.len()) && name.iter().all(u8::is_ascii_digit)
}

/// The folder of an archive without configuration that looks like a root: the one that lies highest.
pub(super) fn root_in(reader: &mut Reader<Pieces>) -> Result<Root, PackError> {
    let mut best: Option<Vec<Vec<u8>>> = None;
    while let Some(mut entry) = reader.next()? {
        let mut parts = entry.path.iter().take(DEPTH_MOST + 1);
        let Some(at) = parts.position(|part| OF_A_ROOT.contains(&part.as_slice())) else {
            continue;
        };
        if best.as_ref().is_none_or(|best| at < best.len()) {
            entry.path.truncate(at);
            best = Some(entry.path);
        }
        if at == 0 {
            break;
        }
    }
    Ok(match best {
        Some(path) if !path.is_empty() => Root::Folder(path.join(&b'/')),
        _ => Root::Top,
    })
}

/// The current entry as text.
fn text(reader: &mut Reader<Pieces>, file: &str) -> Result<String, PackError> {
    let data = data(reader)?;
    let data = data.ok_or_else(|| PackError::Format(format!("{file} has more than 1 MiB")))?;
    String::from_utf8(data).map_err(|_| PackError::Format(format!("{file} is no text")))
}

/// The same of one that may be something else.
fn maybe_text(reader: &mut Reader<Pieces>) -> Result<Option<String>, PackError> {
    Ok(data(reader)?.and_then(|data| String::from_utf8(data).ok()))
}

/// Its bytes, if it has no more than a configuration has.
fn data(reader: &mut Reader<Pieces>) -> Result<Option<Vec<u8>>, PackError> {
    let mut data = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        match reader.read_data(&mut buffer)? {
            0 => return Ok(Some(data)),
            n => data.extend_from_slice(&buffer[..n]),
        }
        if data.len() as u64 > CONFIG_MOST {
            return Ok(None);
        }
    }
}

/// A file read from its beginning, whoever else reads it.
pub(super) struct FromStart {
    file: Arc<File>,
    at: u64,
}

impl FromStart {
    pub(super) fn of(file: &Arc<File>) -> Box<Self> {
        let file = Arc::clone(file);
        Box::new(Self { file, at: 0 })
    }
}

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Entry {
        let parts = path.split('/').filter(|part| !part.is_empty());
        Entry {
            path: parts.map(|part| part.as_bytes().to_vec()).collect(),
            kind: EntryKind::HardLink,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            atime: None,
            device: (false, 0, 0),
            size: 0,
            link: format!("./{path}").into_bytes(),
            xattrs: std::collections::BTreeMap::new(),
            pieces: Vec::new(),
        }
    }

    #[test]
    fn only_what_lies_in_the_root_is_of_it() {
        let inside = |root: &Root, path: &str| {
            let mut entry = entry(path);
            let is = root.inside(&mut entry);
            is.then(|| {
                let path = String::from_utf8(entry.path.join(&b'/')).unwrap();
                assert_eq!(path.as_bytes(), entry.link);
                path
            })
        };
        let lxc = Root::Folder(b"web/rootfs".to_vec());
        assert_eq!(
            inside(&lxc, "web/rootfs/etc/passwd").as_deref(),
            Some("etc/passwd")
        );
        assert_eq!(inside(&lxc, "web/rootfs").as_deref(), Some(""));
        for out in ["web/config", "web", "webs/rootfs/x", "web/rootfs2/x", ""] {
            assert_eq!(inside(&lxc, out), None, "{out}");
        }
        let area = Root::Named(b"101".to_vec());
        assert_eq!(
            inside(&area, "vz/private/101/srv/101/x").as_deref(),
            Some("srv/101/x")
        );
        assert_eq!(inside(&area, "etc/vz/conf/101.conf"), None);
        assert_eq!(inside(&Root::Top, "srv/f").as_deref(), Some("srv/f"));
        assert_eq!(inside(&Root::Top, "etc/vzdump/vps.conf"), None);
    }

    /// An archive of empty files but for those whose text is given; folders end in a slash.
    fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o755);
            // As they lie on the host of an unprivileged container.
            header.set_uid(100_000);
            header.set_gid(100_000);
            if name.ends_with('/') {
                header.set_entry_type(tar::EntryType::Directory);
            }
            tar.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn reader(entries: &[(&str, &str)]) -> Reader<Pieces> {
        let input = Box::new(io::Cursor::new(archive(entries)));
        let input = super::super::archive_stream::decompress_aside(input).unwrap();
        let mut reader = Reader::new(input, super::super::archive_entry::Limits::default());
        reader.limits.any_owner = true;
        reader
    }

    fn look(entries: &[(&str, &str)], whole: bool) -> Result<Option<Found>, PackError> {
        find(&mut reader(entries), whole)
    }

    const LXC: &str = "lxc.uts.name = web\nlxc.idmap = u 0 100000 65536\n";

    #[test]
    fn a_packed_folder_of_lxc_is_found_in_any_order() {
        let first = [("web/", ""), ("web/config", LXC), ("web/rootfs/", "")];
        let found = look(&first, false).unwrap().unwrap();
        assert!(!found.gone_by && found.told.shift == 100_000);
        assert_eq!(found.told.root, Root::Folder(b"web/rootfs".to_vec()));
        let last = [
            ("web/", ""),
            ("web/rootfs/", ""),
            ("web/rootfs/etc/config", "x"),
            ("web/config", LXC),
        ];
        let found = look(&last, true).unwrap().unwrap();
        assert!(found.gone_by && found.program == "LXC");
        let refused = look(&last, false).err().unwrap().to_string();
        assert!(
            refused.contains("pack the configuration first"),
            "{refused}"
        );
        let bare = [("config", LXC), ("rootfs/", "")];
        assert_eq!(
            look(&bare, false).unwrap().unwrap().told.root,
            Root::Folder(b"rootfs".to_vec())
        );
    }

    #[test]
    fn what_openvz_left_is_found() {
        let conf = "VE_ROOT=\"/vz/root/$VEID\"\nHOSTNAME=\"db\"\n";
        let found = look(&[("bin/sh", ""), ("etc/vzdump/vps.conf", conf)], true)
            .unwrap()
            .unwrap();
        assert!(found.gone_by && found.told.root == Root::Top);
        let beside = [
            ("etc/vz/conf/101.conf", conf),
            ("vz/private/101/etc/passwd", ""),
        ];
        let found = look(&beside, false).unwrap().unwrap();
        assert_eq!(found.told.root, Root::Named(b"101".to_vec()));
    }

    #[test]
    fn a_plain_root_is_none_of_them() {
        // A file that a guest put there is no backup's beginning.
        let root = [
            ("bin/sh", ""),
            ("etc/vzdump/pct.conf", "arch: amd64\n"),
            ("root/.ssh/config", "Host *\n"),
        ];
        for whole in [false, true] {
            assert!(look(&root, whole).unwrap().is_none());
        }
        assert!(look(&[], true).unwrap().is_none());
        let input = Box::new(io::Cursor::new(archive(&[("vz/101/etc/passwd", "")])));
        let input = super::super::archive_stream::decompress_aside(input).unwrap();
        let mut reader = Reader::new(input, super::super::archive_entry::Limits::default());
        reader.limits.any_owner = true;
        assert_eq!(
            root_in(&mut reader).unwrap(),
            Root::Folder(b"vz/101".to_vec())
        );
    }
}
