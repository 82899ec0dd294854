//! The name of an image, `[HOST/]PATH[:TAG][@sha256:DIGEST]`, made only by a checked parser: what
//! may stand in a definition, what a registry is asked for, what a tag of this host's is called.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most bytes of a whole name: with every `/` escaped it still is a file name.
const NAME_MOST: usize = 200;
/// The host of names that have none.
const USUAL_HOST: &str = "docker.io";
/// What podman gives images as a host that it has built itself and that no registry has.
const OWN_HOST: &str = "localhost";

/// The name of an image: `mybase`, `alpine:3.20`, `registry.example:5000/team/app:1.2`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName {
    host: Option<String>,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// A name that breaks the rule; the message states the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the name of an image: {rule}")]
pub struct ImageNameError {
    text: String,
    rule: &'static str,
}

/// What to ask which registry for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Host, with port where it has one.
    pub host: String,
    /// Path of the repository there.
    pub repository: String,
    /// Tag, or `sha256:…`.
    pub reference: String,
}

impl ImageName {
    /// The SHA-256 it ends with, hexadecimal.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The tag it ends with.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Hexadecimal digits that may be the beginning of a digest: the name as it is, or behind
    /// `sha256:`.
    #[must_use]
    pub fn digest_prefix(&self) -> Option<&str> {
        let text = match (&self.host, self.path.as_str(), &self.tag, &self.digest) {
            (None, "sha256", Some(text), None) => text,
            (None, text, None, None) => text,
            _ => return None,
        };
        let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        ((6..=64).contains(&text.len()) && text.bytes().all(hex)).then_some(text)
    }

    /// The names a person may mean by this one, the most literal first: as it is, with the tag
    /// `latest`, in full, and as podman calls what it has built itself.
    #[must_use]
    pub fn meanings(&self) -> Vec<Self> {
        let mut all = vec![self.clone()];
        if self.tag.is_none() && self.digest.is_none() {
            all.push(self.with_tag("latest"));
        }
        let full = self.full();
        if self.host.is_none() {
            let tag = full.tag.clone();
            all.push(full);
            all.push(Self {
                host: Some(OWN_HOST.into()),
                tag,
                ..self.clone()
            });
        } else if !all.contains(&full) {
            all.push(full);
        }
        all
    }

    /// In full: host, path below `library` where docker.io has it, tag.
    #[must_use]
    pub fn full(&self) -> Self {
        let host = self.host.clone().unwrap_or_else(|| USUAL_HOST.into());
        let path = match self.path.contains('/') || host != USUAL_HOST {
            true => self.path.clone(),
            false => format!("library/{}", self.path),
        };
        let tag = match (&self.tag, &self.digest) {
            (None, None) => Some("latest".into()),
            (tag, _) => tag.clone(),
        };
        Self {
            host: Some(host),
            path,
            tag,
            digest: self.digest.clone(),
        }
    }

    /// What to ask which registry for.
    #[must_use]
    pub fn remote(&self) -> Remote {
        let full = self.full();
        let reference = match (&full.digest, &full.tag) {
            (Some(digest), _) => format!("sha256:{digest}"),
            (None, tag) => tag.clone().unwrap_or_else(|| "latest".into()),
        };
        let host = full.host.unwrap_or_default();
        Remote {
            // The registry of docker.io has a name of its own.
            host: match host.as_str() {
                USUAL_HOST => "registry-1.docker.io".into(),
                _ => host,
            },
            repository: full.path,
            reference,
        }
    }

    /// The same without a digest: what a tag may be called.
    #[must_use]
    pub fn without_digest(&self) -> Self {
        Self {
            digest: None,
            ..self.clone()
        }
    }

    fn with_tag(&self, tag: &str) -> Self {
        Self {
            tag: Some(tag.into()),
            ..self.clone()
        }
    }
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, ImageNameError> {
        let wrong = |rule| ImageNameError {
            text: text.chars().take(80).collect(),
            rule,
        };
        if text.len() > NAME_MOST {
            return Err(wrong("it has more than 200 characters"));
        }
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let hex = digest.strip_prefix("sha256:").filter(|hex| is_sha256(hex));
                let hex = hex.ok_or_else(|| wrong("behind @ stands sha256: and 64 of 0-9a-f"))?;
                (rest, Some(hex.to_owned()))
            }
        };
        let (host, rest) = match rest.split_once('/') {
            Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) => {
                if !is_host(first) {
                    return Err(wrong("before the first / stands HOST or HOST:PORT"));
                }
                (Some(first.to_ascii_lowercase()), rest)
            }
            _ => (None, rest),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            None => (rest, None),
            Some((path, tag)) if is_tag(tag) => (path, Some(tag.to_owned())),
            Some(_) => {
                let rule =
                    "a tag is 1 to 128 letters, digits and _ . -, beginning with none of . -";
                return Err(wrong(rule));
            }
        };
        if !path.split('/').all(is_component) {
            let rule = "use [HOST/]PATH[:TAG], parts of the path of a-z and 0-9 with single . _ - \
                        between them";
            return Err(wrong(rule));
        }
        Ok(Self {
            host,
            path: path.to_owned(),
            tag,
            digest,
        })
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_host(text: &str) -> bool {
    let (name, port) = text.split_once(':').unwrap_or((text, "1"));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    name.split('.').all(label) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, as the distribution specification has it.
fn is_component(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.iter().all(|end| end.is_some_and(|b| plain(*b)))
        && bytes.iter().all(|b| plain(*b) || b"._-".contains(b))
        && bytes.split(|b| plain(*b)).all(|between| {
            matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|b| *b == b'-')
        })
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host) = &self.host {
            write!(f, "{host}/")?;
        }
        f.write_str(&self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@sha256:{digest}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for ImageName {
    type Error = ImageNameError;

    fn try_from(text: String) -> Result<Self, ImageNameError> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_taken_apart_and_put_together() {
        let hex = "a".repeat(64);
        for (text, remote) in [
            ("alpine", "registry-1.docker.io library/alpine latest"),
            ("alpine:3.20", "registry-1.docker.io library/alpine 3.20"),
            ("team/app", "registry-1.docker.io team/app latest"),
            ("localhost/x:Y_1", "localhost x Y_1"),
            ("r.example:5000/a/b-c__d:v1", "r.example:5000 a/b-c__d v1"),
            ("127.0.0.1:5000/x", "127.0.0.1:5000 x latest"),
            (
                &format!("q.io/x@sha256:{hex}"),
                &format!("q.io x sha256:{hex}"),
            ),
        ] {
            let name: ImageName = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
            let Remote {
                host,
                repository,
                reference,
            } = name.remote();
            assert_eq!(format!("{host} {repository} {reference}"), remote);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(5000);
        for text in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "../etc",
            "a/../b",
            ".a",
            "a.",
            "-a",
            "A",
            "a b",
            "a:",
            "a:.x",
            "a@sha256:12",
            "a@md5:12",
            "r.example:0/a",
            "r.example:99999/a",
            "-r.io/a",
            "a___b",
            "a..b",
            "a:b/c",
            "a\n",
            "ä",
            &long,
        ] {
            assert!(text.parse::<ImageName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_person_may_mean_several() {
        let meanings = |text: &str| -> Vec<String> {
            let name: ImageName = text.parse().unwrap();
            name.meanings().iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            meanings("alpine"),
            [
                "alpine",
                "alpine:latest",
                "docker.io/library/alpine:latest",
                "localhost/alpine:latest"
            ]
        );
        assert_eq!(
            meanings("team/app:1"),
            ["team/app:1", "docker.io/team/app:1", "localhost/team/app:1"]
        );
        assert_eq!(meanings("q.io/x:1"), ["q.io/x:1"]);
        assert_eq!(
            meanings("localhost/x"),
            ["localhost/x", "localhost/x:latest"]
        );
        let prefix = |text: &str| {
            let name: ImageName = text.parse().unwrap();
            name.digest_prefix().map(str::to_owned)
        };
        assert_eq!(prefix("abc123").as_deref(), Some("abc123"));
        assert_eq!(prefix("sha256:abc123").as_deref(), Some("abc123"));
        assert_eq!(prefix("abc12"), None);
        assert_eq!(prefix("alpine"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_comes_back(text in "[a-zA-Z0-9._:/@-]{0,40}") {
            if let Ok(name) = text.parse::<ImageName>() {
                let again: ImageName = name.to_string().parse().unwrap();
                prop_assert_eq!(&again, &name);
                prop_assert!(name.full().to_string().parse::<ImageName>().is_ok());
                // A tag may have two dots in a row; no part leads upwards.
                let text = name.to_string();
                prop_assert!(text.split(['/', ':', '@']).all(|part| !matches!(part, "." | "..")));
            }
        }
    }
}
