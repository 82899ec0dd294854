//! Recipes for root filesystems: a folder with `template.toml` and, below `files/`, what is laid
//! over the built tree. They are embedded in the binary; a folder of the host's may replace or add
//! to them. How each kind is built is in the file of that kind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};
use serde::{Deserialize, Serialize};

use super::dirfd::FileError;
use super::init_kind::InitKind;
use crate::model::{TemplateRef, nearest};

static EMBEDDED: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/rootfs-templates");

/// Most bytes of all files of one template.
const FILES_MOST: u64 = 16 << 20;

/// How a template's tree comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The host's own `/usr`, shared read-only, with everything else fresh.
    Host,
    /// One static busybox.
    Busybox,
    /// Debian packages.
    Debian,
    /// An archive of a root filesystem.
    Tar,
}

/// One option of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptionSpec {
    /// Value when none is given.
    #[serde(default)]
    pub default: String,
    /// What it does, for people.
    pub help: String,
}

/// A recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Its name: the name of its folder.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// How its tree comes about.
    pub kind: Kind,
    /// Its options by name.
    pub options: BTreeMap<String, OptionSpec>,
    /// Its init, where the tree itself does not tell.
    pub init: Option<InitKind>,
    /// Signal that asks its init to shut down; `None` for what its kind of init expects.
    pub stop_signal: Option<String>,
    /// Files laid over the built tree, by path inside it.
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

/// What `template.toml` may say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    name: String,
    description: String,
    kind: Kind,
    init: Option<InitKind>,
    stop_signal: Option<String>,
    #[serde(default)]
    options: BTreeMap<String, OptionSpec>,
}

/// Templates that cannot be read, found or used as asked.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// No template has this name.
    #[error("there is no template {name:?}{}; there are: {}", meant(near.as_deref()), known.join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
        /// The nearest name there is.
        near: Option<String>,
        /// All names.
        known: Vec<String>,
    },
    /// The template has no such option.
    #[error("template {template:?} has no option {option:?}{}; it has: {}", meant(near.as_deref()), list(known))]
    UnknownOption {
        /// Template.
        template: String,
        /// The option asked for.
        option: String,
        /// The nearest option there is.
        near: Option<String>,
        /// All options.
        known: Vec<String>,
    },
    /// `template.toml` is wrong.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        reason: String,
    },
    /// A file of a template cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
}

pub(super) fn meant(near: Option<&str>) -> String {
    near.map(|n| format!(" (did you mean {n:?}?)"))
        .unwrap_or_default()
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".into()
    } else {
        names.join(", ")
    }
}

/// All templates there are.
#[derive(Clone, Debug)]
pub struct Templates {
    all: BTreeMap<String, Template>,
}

impl Templates {
    /// The embedded templates, and those in `extra`, of which each replaces the embedded one of the
    /// same name. A folder that does not exist adds nothing.
    ///
    /// # Errors
    /// A template in `extra` is wrong or cannot be read; the message names the file.
    pub fn load(extra: Option<&Path>) -> Result<Self, TemplateError> {
        let mut all = BTreeMap::new();
        for folder in EMBEDDED.dirs() {
            let mut files = BTreeMap::new();
            collect_embedded(folder, folder.path(), &mut files);
            let template = Template::parse(folder.path(), files)?;
            all.insert(template.name.clone(), template);
        }
        for folder in extra.map(folders).transpose()?.unwrap_or_default() {
            let mut files = BTreeMap::new();
            collect(&folder, &folder, &mut files)?;
            let template = Template::parse(&folder, files)?;
            all.insert(template.name.clone(), template);
        }
        Ok(Self { all })
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.keys().map(String::as_str)
    }

    /// All templates, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Template> {
        self.all.values()
    }

    /// The template `name`.
    ///
    /// # Errors
    /// There is none; the message lists those there are and the nearest.
    pub fn get(&self, name: &str) -> Result<&Template, TemplateError> {
        self.all.get(name).ok_or_else(|| TemplateError::Unknown {
            name: name.to_owned(),
            near: nearest(name, self.names()).map(str::to_owned),
            known: self.names().map(str::to_owned).collect(),
        })
    }

    /// The template a definition asks for, and all its options with defaults filled in.
    ///
    /// # Errors
    /// Unknown template or option.
    pub fn resolve(
        &self,
        wanted: &TemplateRef,
    ) -> Result<(&Template, BTreeMap<String, String>), TemplateError> {
        let template = self.get(&wanted.name)?;
        let mut options: BTreeMap<String, String> = template
            .options
            .iter()
            .map(|(name, spec)| (name.clone(), spec.default.clone()))
            .collect();
        for (name, value) in &wanted.options {
            let Some(slot) = options.get_mut(name) else {
                let known: Vec<String> = template.options.keys().cloned().collect();
                return Err(TemplateError::UnknownOption {
                    template: template.name.clone(),
                    option: name.clone(),
                    near: nearest(name, known.iter().map(String::as_str)).map(str::to_owned),
                    known,
                });
            };
            slot.clone_from(value);
        }
        Ok((template, options))
    }
}

impl Template {
    fn parse(folder: &Path, mut files: BTreeMap<String, Vec<u8>>) -> Result<Self, TemplateError> {
        let path = folder.join("template.toml");
        let invalid = |reason: String| TemplateError::Invalid {
            path: path.clone(),
            reason,
        };
        let text = files
            .remove("template.toml")
            .ok_or_else(|| invalid("is missing; a template is a folder with this file".into()))?;
        let text = String::from_utf8(text).map_err(|_| invalid("is not UTF-8 text".into()))?;
        let written: Written =
            toml::from_str(&text).map_err(|e| invalid(e.to_string().trim_end().to_owned()))?;
        let name = folder.file_name().and_then(|n| n.to_str()).unwrap_or("");
        if written.name != name {
            return Err(invalid(format!(
                "name is {:?} but the folder is {name:?}: make them the same",
                written.name
            )));
        }
        let files = files
            .into_iter()
            .filter_map(|(path, data)| Some((path.strip_prefix("files/")?.to_owned(), data)))
            .collect();
        Ok(Self {
            name: written.name,
            description: written.description,
            kind: written.kind,
            options: written.options,
            init: written.init,
            stop_signal: written.stop_signal,
            files,
        })
    }
}

fn collect_embedded(dir: &Dir<'_>, top: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for file in dir.files() {
        let path = file.path().strip_prefix(top).unwrap_or(file.path());
        files.insert(
            path.to_string_lossy().into_owned(),
            file.contents().to_vec(),
        );
    }
    for sub in dir.dirs() {
        collect_embedded(sub, top, files);
    }
}

/// The folders in `extra` that hold templates.
fn folders(extra: &Path) -> Result<Vec<PathBuf>, TemplateError> {
    let failed = |e| FileError::new("read folder", extra, e);
    let entries = match std::fs::read_dir(extra) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn collect(
    dir: &Path,
    top: &Path,
    files: &mut BTreeMap<String, Vec<u8>>,
) -> Result<(), TemplateError> {
    let failed = |path: &Path, e| FileError::new("read", path, e);
    for entry in std::fs::read_dir(dir).map_err(|e| failed(dir, e))? {
        let path = entry.map_err(|e| failed(dir, e))?.path();
        let meta = std::fs::symlink_metadata(&path).map_err(|e| failed(&path, e))?;
        if meta.is_dir() {
            collect(&path, top, files)?;
        } else if meta.is_file() {
            let held: u64 = files.values().map(|d| d.len() as u64).sum();
            if held + meta.len() > FILES_MOST {
                let reason = "the files of a template may not exceed 16M in all; \
                              use the tar template for larger trees";
                return Err(TemplateError::Invalid {
                    path,
                    reason: reason.into(),
                });
            }
            let data = std::fs::read(&path).map_err(|e| failed(&path, e))?;
            let inside = path.strip_prefix(top).unwrap_or(&path);
            files.insert(inside.to_string_lossy().into_owned(), data);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::seed::tests::TempDir;
    use super::*;

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_embedded_ones_are_there() {
        let templates = Templates::load(None).unwrap();
        let names: Vec<&str> = templates.names().collect();
        assert_eq!(names, ["busybox", "debian", "host", "tar"]);
        for template in templates.iter() {
            assert!(!template.description.is_empty());
        }
    }

    #[test]
    fn a_wrong_name_is_answered_with_the_nearest() {
        let templates = Templates::load(None).unwrap();
        let error = templates.get("debain").unwrap_err().to_string();
        assert!(error.contains("did you mean \"debian\""), "{error}");
        assert!(error.contains("busybox, debian, host, tar"), "{error}");
        let wanted = TemplateRef {
            name: "debian".into(),
            options: [("siute".into(), "trixie".into())].into(),
        };
        let error = templates.resolve(&wanted).unwrap_err().to_string();
        assert!(error.contains("did you mean \"suite\""), "{error}");
    }

    #[test]
    fn a_folder_replaces_and_adds() {
        let temp = TempDir::new("template");
        let text = "name = 'busybox'\ndescription = 'mine'\nkind = 'busybox'\n";
        write(&temp.path().join("busybox/template.toml"), text);
        write(&temp.path().join("busybox/files/etc/motd"), "hello\n");
        let own = "name = 'own'\ndescription = 'd'\nkind = 'tar'\n[options.archive]\nhelp = 'h'\n";
        write(&temp.path().join("own/template.toml"), own);
        let templates = Templates::load(Some(temp.path())).unwrap();
        let busybox = templates.get("busybox").unwrap();
        assert_eq!(busybox.description, "mine");
        assert_eq!(busybox.files["etc/motd"], b"hello\n");
        assert_eq!(templates.get("own").unwrap().kind, Kind::Tar);
        assert_eq!(templates.names().count(), 5);
    }

    #[test]
    fn an_unknown_key_names_file_and_line() {
        let temp = TempDir::new("template");
        let text = "name = 'x'\ndescription = ''\nkind = 'tar'\ncolour = 'red'\n";
        write(&temp.path().join("x/template.toml"), text);
        let error = Templates::load(Some(temp.path())).unwrap_err().to_string();
        assert!(error.contains("x/template.toml"), "{error}");
        assert!(
            error.contains("line 4") && error.contains("colour"),
            "{error}"
        );
    }
}
