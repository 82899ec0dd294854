//! Profiles: named parts of definitions. Those in `profiles/` are built into the program; a folder
//! on the host can replace them and add others. How they are laid over each other is in `resolve`.

use std::collections::BTreeMap;
use std::path::Path;

use include_dir::{Dir, include_dir};

use super::definition::Definition;
use super::error::{DefineError, suggestion};
use super::file::read_file;
use super::layer::Replace;
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
        Ok(Self {
            name: name.to_owned(),
            description: sheet.definition.description.clone().unwrap_or_default(),
            why: sheet.definition.why.clone(),
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
            why: BTreeMap::new(),
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

/// All profiles there are.
#[derive(Clone, Debug, PartialEq)]
pub struct Profiles(BTreeMap<String, Profile>);

impl Profiles {
    /// The built-in ones and, over them, those in `folder`: every `NAME.toml` of it. A folder that
    /// is not there has none.
    ///
    /// # Errors
    /// All faults of the first file that has any.
    pub fn load(folder: Option<&Path>) -> Result<Self, DefineError> {
        let mut all = BTreeMap::new();
        for file in BUILT_IN.files() {
            let Some((name, text)) = name_of(file.path()).zip(file.contents_utf8()) else {
                continue;
            };
            let source = format!("built-in profile {name}");
            all.insert(name.to_owned(), Profile::parse(name, &source, text)?);
        }
        for path in folder.map_or_else(|| Ok(Vec::new()), files_of)? {
            let source = path.display().to_string();
            let text = read_file(&path).map_err(|e| DefineError::single("", e.to_string()))?;
            if let Some(name) = name_of(&path) {
                all.insert(name.to_owned(), Profile::parse(name, &source, &text)?);
            }
        }
        Ok(Self(all))
    }

    /// Names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.keys().map(String::as_str)
    }

    /// All, in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = &Profile> {
        self.0.values()
    }

    /// One by name.
    ///
    /// # Errors
    /// There is none of that name; the message has the nearest.
    pub fn get(&self, name: &str) -> Result<&Profile, String> {
        let missing = || {
            format!(
                "there is no profile {name:?}{}",
                suggestion(name, self.names())
            )
        };
        self.0.get(name).ok_or_else(missing)
    }
}

/// `NAME` of `NAME.toml`; hidden files and names that are no profile names are passed over.
fn name_of(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?.strip_suffix(".toml")?;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    (!name.is_empty() && name.bytes().all(allowed)).then_some(name)
}

fn files_of(folder: &Path) -> Result<Vec<std::path::PathBuf>, DefineError> {
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
