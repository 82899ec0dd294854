//! The options of a mount, sorted by what they are for. Which file systems there are and who mounts
//! them is next door in `steps`.

use oci_spec::runtime::Mount;

use super::step::Attributes;

/// A mount's options, sorted by what they are for.
pub(super) struct Options {
    pub(super) attributes: Attributes,
    pub(super) recursive: bool,
    pub(super) idmap: bool,
    pub(super) settings: Vec<(String, String)>,
}

impl Options {
    pub(super) fn of(mount: &Mount) -> Self {
        let mut all = Self {
            attributes: Attributes::default(),
            recursive: false,
            idmap: false,
            settings: Vec::new(),
        };
        for option in mount.options().iter().flatten() {
            match option.as_str() {
                "ro" => all.attributes.read_only = true,
                "nosuid" => all.attributes.nosuid = true,
                "nodev" => all.attributes.nodev = true,
                "noexec" => all.attributes.noexec = true,
                "bind" | "rw" | "strictatime" => {}
                "rbind" => all.recursive = true,
                "idmap" => all.idmap = true,
                "ridmap" => (all.idmap, all.recursive) = (true, true),
                other => {
                    let (key, value) = other.split_once('=').unwrap_or((other, ""));
                    all.settings.push((key.to_owned(), value.to_owned()));
                }
            }
        }
        all
    }
}
