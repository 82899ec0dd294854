//! Who one is to a registry: what it asks for (`WWW-Authenticate`), and user and password from a
//! file in the form of Docker's `config.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::kernel::file;

/// Most bytes of a file with passwords.
const FILE_MOST: u64 = 1 << 20;

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password.
    Basic,
    /// A token from somewhere else.
    Bearer {
        /// URL that gives it.
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// Reads a `WWW-Authenticate` header.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut values = parameters(rest);
        Some(Self::Bearer {
            realm: values.remove("realm")?,
            service: values.remove("service"),
            scope: values.remove("scope"),
        })
    }
}

/// `name="value",name=value`: values may hold commas inside their quotes.
fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([',', ' ']).to_ascii_lowercase();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.insert(name, value.trim().to_owned());
        rest = after;
    }
    found
}

#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    auths: BTreeMap<String, Account>,
}

#[derive(Deserialize)]
struct Account {
    auth: Option<String>,
}

/// User and password for a registry, as they stand in a `Basic` header; `None` if the file has none
/// for it.
///
/// # Errors
/// The file cannot be read; as a sentence.
pub(super) fn account(path: &Path, host: &str) -> Result<Option<String>, String> {
    let text = file::read_small(path, FILE_MOST).map_err(|e| e.to_string())?;
    let text = text.ok_or_else(|| format!("{} is not there", path.display()))?;
    let written: Written = serde_json::from_slice(&text)
        .map_err(|e| format!("{} cannot be understood: {e}", path.display()))?;
    let name = |key: &str| {
        let bare = key
            .trim_start_matches("https://")
            .trim_start_matches("http://");
        bare.split('/').next().unwrap_or_default().to_owned()
    };
    // The registry of docker.io goes by several names.
    let docker = ["docker.io", "index.docker.io", "registry-1.docker.io"];
    let fits = |key: &str| {
        let key = name(key);
        key == host || (docker.contains(&key.as_str()) && docker.contains(&host))
    };
    let found = written.auths.into_iter().find(|(key, _)| fits(key));
    let Some(auth) = found.and_then(|(_, account)| account.auth) else {
        return Ok(None);
    };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"+/=".contains(&b);
    match auth.bytes().all(allowed) {
        true => Ok(Some(auth)),
        false => Err(format!(
            "{}: auth of {host} is no base64 of USER:PASSWORD",
            path.display()
        )),
    }
}

/// A value in the query of a URL.
pub(super) fn escaped(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(b).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::seed::tests::TempDir;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn challenges_are_read() {
        let text =
            "Bearer realm=\"https://a.example/t\",service=\"r\",scope=\"repository:x:pull,push\"";
        let wanted = Challenge::Bearer {
            realm: "https://a.example/t".into(),
            service: Some("r".into()),
            scope: Some("repository:x:pull,push".into()),
        };
        assert_eq!(Challenge::parse(text), Some(wanted));
        assert_eq!(
            Challenge::parse("Basic realm=\"x\""),
            Some(Challenge::Basic)
        );
        assert_eq!(Challenge::parse("Negotiate"), None);
        assert_eq!(Challenge::parse("Bearer service=\"x\""), None);
        assert_eq!(escaped("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
    }

    #[test]
    fn accounts_are_found_by_host() {
        let temp = TempDir::new("token");
        let path = temp.path().join("config.json");
        let text = r#"{"auths": {"r.example:5000": {"auth": "dTpw"}, "x": {},
            "https://index.docker.io/v1/": {"auth": "ZDpk"}, "bad": {"auth": "a\nb"}}}"#;
        std::fs::write(&path, text).unwrap();
        let of = |host| account(&path, host);
        assert_eq!(of("r.example:5000"), Ok(Some("dTpw".into())));
        assert_eq!(of("registry-1.docker.io"), Ok(Some("ZDpk".into())));
        assert_eq!(of("r.example"), Ok(None));
        assert_eq!(of("x"), Ok(None));
        assert!(of("bad").is_err() && account(temp.path(), "x").is_err());
    }

    proptest! {
        #[test]
        fn any_header_is_answered(text in ".{0,100}") {
            Challenge::parse(&text);
            Challenge::parse(&format!("Bearer {text}"));
        }
    }
}
