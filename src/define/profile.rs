//! Profiles: named parts of definitions. Those in `profiles/` are built into the program; a folder
//! on the host can replace them and add others. How they are laid over each other is in `resolve`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};

use super::definition::Definition;
use super::error::{DefineError, suggestion};
use super::file::read_file;
use super::layer::{Dotted, Replace};
use super::read::{Reader, Sheet};

static BUILT_IN: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/profiles");

/// One profile.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Its name: the file's, without `.toml`.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Why it says what it says, by key.
    pub why: BTreeMap<String, String>,
    /// Its text.
    pub text: String,
    pub(super) sheet: Sheet,
}

impl Profile {
    /// Reads one.
    ///
    /// # Errors
    /// All faults of the text, with their lines.
    pub fn parse(name: &str, source: &str, text: &str) -> Result<Self, DefineError> {
        let sheet = Sheet::parse_with(source, text, refuse_what_is_no_profile)?;
        if let Some(key) = sheet
            .definition
            .why
            .0
            .keys()
            .find(|key| sheet.place(key).is_none())
        {
            let place = sheet.place(&format!("why.{key}"));
            let message = format!("why: the profile does not say {key:?}");
            return Err(DefineError::at(source, place, message));
        }
        Ok(Self {
            name: name.to_owned(),
            description: sheet.definition.description.clone().unwrap_or_default(),
            why: sheet.definition.why.0.clone(),
            text: text.to_owned(),
            sheet,
        })
    }

    /// What it says about guests; its own description and reasons are not theirs.
    #[must_use]
    pub fn layer(&self) -> Definition {
        let definition = self.sheet.definition.clone();
        Definition {
            description: None,
            profiles: Replace(None),
            why: Dotted::default(),
            ..definition
        }
    }
}

fn refuse_what_is_no_profile(reader: &mut Reader<'_>, definition: &Definition) {
    if definition
        .description
        .as_deref()
        .unwrap_or_default()
        .is_empty()
    {
        reader.fault_at_key("", "a profile must have a description".into());
    }
    if definition.profiles.0.is_some() {
        let message = "profiles: a profile does not name others; name both in the guest";
        reader.fault_at_key("profiles", message.into());
    }
}

/// A profile that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// There is none of that name.
    #[error("there is no profile {name:?}{hint}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The nearest one.
        hint: String,
    },
    /// Its text is refused.
    #[error(transparent)]
    Refused(#[from] DefineError),
}

/// Where a profile's text is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    BuiltIn(&'static str),
    File(PathBuf),
}

/// The names of all profiles. Each is read when it is asked for: one that is broken is in nobody's
/// way but of those who use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profiles(BTreeMap<String, Origin>);

impl Profiles {
    /// The built-in ones and, over them, those in `folder`: every `NAME.toml` of it. A folder that
    /// is not there has none.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn load(folder: Option<&Path>) -> Result<Self, DefineError> {
        let built_in = BUILT_IN.files().filter_map(|file| {
            let (name, text) = name_of(file.path()).zip(file.contents_utf8())?;
            Some((name.to_owned(), Origin::BuiltIn(text)))
        });
        let mut all: BTreeMap<String, Origin> = built_in.collect();
        for path in folder.map_or_else(|| Ok(Vec::new()), files_of)? {
            if let Some(name) = name_of(&path) {
                all.insert(name.to_owned(), Origin::File(path.clone()));
            }
        }
        Ok(Self(all))
    }

    /// Names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.keys().map(String::as_str)
    }

    /// Whether a profile is built in and not replaced.
    #[must_use]
    pub fn is_built_in(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some(Origin::BuiltIn(_)))
    }

    /// One by name.
    ///
    /// # Errors
    /// There is none of that name (the message has the nearest), or its text is refused.
    pub fn get(&self, name: &str) -> Result<Profile, ProfileError> {
        match self.0.get(name) {
            None => Err(ProfileError::Unknown {
                name: name.chars().take(60).collect(),
                hint: suggestion(name, self.names()),
            }),
            Some(Origin::BuiltIn(text)) => Ok(Profile::parse(
                name,
                &format!("built-in profile {name}"),
                text,
            )?),
            Some(Origin::File(path)) => {
                let text = read_file(path).map_err(|e| DefineError::single("", e.to_string()))?;
                Ok(Profile::parse(name, &path.display().to_string(), &text)?)
            }
        }
    }
}

/// `NAME` of `NAME.toml`; hidden files and names that are no profile names are passed over.
fn name_of(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?.strip_suffix(".toml")?;
    is_profile_name(name).then_some(name)
}

/// Whether a profile can be called so.
#[must_use]
pub fn is_profile_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    !name.is_empty() && name.bytes().all(allowed)
}

fn files_of(folder: &Path) -> Result<Vec<PathBuf>, DefineError> {
    let failed = |e: std::io::Error| {
        DefineError::single(
            &folder.display().to_string(),
            format!("cannot be read: {e}"),
        )
    };
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if name_of(&path).is_some() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::super::key::{KeyPath, Kind};
    use super::*;

    #[test]
    fn every_rule_of_a_built_in_profile_has_its_reason() {
        let profiles = Profiles::load(None).unwrap();
        for profile in profiles.names().map(|name| profiles.get(name).unwrap()) {
            for key in profile.sheet.keys() {
                let Ok(path) = KeyPath::parse(key) else {
                    continue;
                };
                let whole = !path.key.has_items() || path.key.kind == Kind::Words;
                if key != "description" && (whole || path.item.is_some()) {
                    assert!(
                        profile.why.contains_key(key),
                        "{}: {key} has no why",
                        profile.name
                    );
                }
            }
            for (key, why) in &profile.why {
                assert!(why.len() > 20, "{}: {key}: {why}", profile.name);
            }
        }
    }

    #[test]
    fn all_names_are_there_and_a_wrong_one_is_told() {
        let profiles = Profiles::load(None).unwrap();
        let names: Vec<&str> = profiles.names().collect();
        let all = "default hardened large legacy medium nesting small tiny xlarge";
        assert_eq!(names.join(" "), all);
        let error = profiles.get("hardend").unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no profile \"hardend\": did you mean \"hardened\"?"
        );
    }

    #[test]
    fn a_profile_that_is_none_is_refused() {
        let refused = |text: &str| Profile::parse("p", "p.toml", text).unwrap_err().to_string();
        assert_eq!(
            refused("ptys = 5\n"),
            "p.toml:1: a profile must have a description"
        );
        assert!(
            refused("description = \"d\"\nprofiles = [\"tiny\"]")
                .starts_with("p.toml:2: profiles: ")
        );
        let why = "description = \"d\"\n[why]\ncpu.limit = \"because\"";
        assert_eq!(
            refused(why),
            "p.toml:3: why: the profile does not say \"cpu.limit\""
        );
    }

    #[test]
    fn a_folder_replaces_and_adds() {
        let folder = std::env::temp_dir().join(format!("define-profiles-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(
            folder.join("tiny.toml"),
            "description = \"ours\"\nptys = 9\n",
        )
        .unwrap();
        std::fs::write(folder.join("web.toml"), "description = \"web\"\n").unwrap();
        std::fs::write(folder.join("README"), "not a profile").unwrap();
        std::fs::write(folder.join("bad.toml"), "descripton = \"bad\"\n").unwrap();
        let profiles = Profiles::load(Some(&folder)).unwrap();
        let got: Vec<_> = ["tiny", "web", "small", "bad"]
            .into_iter()
            .map(|name| profiles.get(name))
            .collect();
        std::fs::remove_dir_all(&folder).unwrap();

        assert_eq!(got[0].as_ref().unwrap().layer().ptys, Some(9));
        assert_eq!(got[1].as_ref().unwrap().description, "web");
        assert!(got[2].is_ok() && profiles.is_built_in("small") && !profiles.is_built_in("tiny"));
        let refused = got[3].as_ref().unwrap_err().to_string();
        assert!(
            refused.contains("bad.toml:1: unknown key \"descripton\""),
            "{refused}"
        );
    }
}
