//! A server of images in the simplestreams form (images.linuxcontainers.org, cloud-images.ubuntu.com):
//! who vouches for what it says, and fetching files below its address. What its documents say is
//! `stream_index`, signatures are `stream_sign`.

use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ureq::http::Response;
use ureq::{Agent, Body};

use super::dirfd::read_limited;
use super::http_patience::{Resuming, patiently};
use super::image::ImageError;
use super::oci_blobs::refused;
use super::oci_http::{DOCUMENT, Trust, agent, is_loopback};
use super::stream_index::{self, Chosen, Piece, is_word};
use super::stream_sign::signed_text;
use super::workshop::Workshop;
use crate::model::ImageName;

/// Most bytes of an index, and of a list of products.
const INDEX_MOST: u64 = 4 << 20;
const LIST_MOST: u64 = 16 << 20;
/// What the source of an image from such a server begins with, and where its index was signed.
const SCHEME: &str = "simplestreams:";
const SIGNED: &str = "simplestreams+signed:";

/// An image of a server's: `ALIAS` or `ALIAS@VERSION`, at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerImage {
    /// `https://HOST[:PORT][/PATH]`, without a slash at its end.
    pub server: String,
    /// What the server calls it.
    pub alias: String,
    /// Which of its versions; the newest without.
    pub version: Option<String>,
    /// Whether its index was signed when it was taken in, and is to be so again.
    pub signed: bool,
}

impl ServerImage {
    /// The image of this name at this address.
    ///
    /// # Errors
    /// One of them has another form; as a sentence.
    pub fn new(server: &str, name: &str) -> Result<Self, String> {
        let server = server.trim_end_matches('/');
        host(server)?;
        let (alias, version) = match name.split_once('@') {
            Some((alias, version)) => (alias, Some(version.to_owned())),
            None => (name, None),
        };
        let words = alias.split('/').all(is_word) && version.iter().all(|v| is_word(v));
        if !words || name.len() > 200 || server.len() > 1000 {
            return Err(format!(
                "{name:.80?} is no name of an image of a server: use ALIAS or ALIAS@VERSION"
            ));
        }
        Ok(Self {
            server: server.to_owned(),
            alias: alias.to_owned(),
            version,
            signed: false,
        })
    }

    /// How it is called here if nobody says otherwise: the server's host, its path, the alias.
    #[must_use]
    pub fn name(&self) -> Option<ImageName> {
        let place = self.server.split_once("://")?.1;
        format!("{place}/{}", self.alias.to_lowercase())
            .parse()
            .ok()
    }

    /// The same of this version, or of the newest.
    #[must_use]
    pub fn at(&self, version: Option<&str>) -> Self {
        Self {
            version: version.map(str::to_owned),
            ..self.clone()
        }
    }
}

/// As an image's `source` has it: `simplestreams:https://HOST/PATH#ALIAS@VERSION`.
impl fmt::Display for ServerImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.signed { SIGNED } else { SCHEME };
        write!(f, "{scheme}{}#{}", self.server, self.alias)?;
        match &self.version {
            Some(version) => write!(f, "@{version}"),
            None => Ok(()),
        }
    }
}

impl FromStr for ServerImage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let signed = text.strip_prefix(SIGNED);
        let rest = signed.or_else(|| text.strip_prefix(SCHEME));
        let (server, name) = rest
            .and_then(|rest| rest.split_once('#'))
            .ok_or("that is no image of a server")?;
        Ok(Self {
            signed: signed.is_some(),
            ..Self::new(server, name)?
        })
    }
}

/// The host of a server's address, with its port.
fn host(server: &str) -> Result<&str, String> {
    let wrong = || {
        Err(format!(
            "{server:.100?} is no address of a server: use https://HOST[:PORT][/PATH]"
        ))
    };
    let rest = server.strip_prefix("https://");
    let Some(rest) = rest.or_else(|| server.strip_prefix("http://")) else {
        return wrong();
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, "x"));
    let sound = |part: &str| is_word(part) && !part.contains('@') && part != ".." && part != ".";
    match sound(host) && path.split('/').all(sound) {
        true => Ok(host),
        false => wrong(),
    }
}

/// A server at work.
pub(super) struct Server {
    agent: Agent,
    base: String,
    keyring: Option<PathBuf>,
    /// How often it may say that something is elsewhere.
    elsewhere: u32,
}

impl Server {
    /// The server of an image. Nothing is asked yet.
    ///
    /// # Errors
    /// Nobody would vouch for what it says.
    pub(super) fn of(wanted: &ServerImage, trust: &Trust) -> Result<Self, ImageError> {
        let failed = |reason: String| refused(wanted.to_string(), reason);
        let plain = wanted.server.starts_with("http://");
        let vouched = trust.keyring.is_some() || trust.insecure;
        let here = is_loopback(host(&wanted.server).map_err(failed)?);
        if plain && !vouched && !here {
            return Err(failed(
                "nobody vouches for what comes over plain HTTP: use https://, or name the keys that \
                 sign its index with --keyring; --insecure takes it all the same"
                    .into(),
            ));
        }
        if wanted.signed && trust.keyring.is_none() {
            return Err(failed(
                "its index was signed when it was taken in: name the keys again with --keyring"
                    .into(),
            ));
        }
        Ok(Self {
            agent: agent(trust, plain, here).map_err(failed)?,
            base: wanted.server.clone(),
            keyring: trust.keyring.clone(),
            // It is taken at its word because it is this machine, and nobody else is.
            elsewhere: if plain && !vouched { 0 } else { 5 },
        })
    }

    /// Finds the files of an image. `scratch` is a folder for what is looked at.
    pub(super) fn find(
        &self,
        wanted: &ServerImage,
        scratch: &Workshop,
    ) -> Result<Chosen, ImageError> {
        let failed = |reason: String| refused(wanted.to_string(), reason);
        let text = self.document("streams/v1/index.json", INDEX_MOST, scratch);
        let paths = stream_index::lists(&text.map_err(failed)?).map_err(failed)?;
        let mut near = Vec::new();
        for path in paths {
            let text = self.document(&path, LIST_MOST, scratch).map_err(failed)?;
            let version = wanted.version.as_deref();
            let found = stream_index::choose(&text, &wanted.alias, version);
            if let Some(chosen) = found.map_err(failed)? {
                return Ok(chosen);
            }
            near.extend(stream_index::near(&text, &wanted.alias));
        }
        Err(failed(match near.as_slice() {
            [] => format!("{} has no image of that name", self.base),
            near => format!(
                "{} has no image of that name; it has {}",
                self.base,
                near.join(", ")
            ),
        }))
    }

    /// A document, whole; where keys are known what they have signed of its signed form.
    fn document(&self, path: &str, most: u64, scratch: &Workshop) -> Result<Vec<u8>, String> {
        let Some(keyring) = &self.keyring else {
            return self.whole(path, most);
        };
        // Lists are signed as the index is; what is not cannot be compared with anything.
        let signed = match path.strip_suffix(".json") {
            Some(stem) => format!("{stem}.sjson"),
            None => path.to_owned(),
        };
        let text = self.whole(&signed, most)?;
        signed_text(scratch, keyring, &text, most).map_err(|why| format!("{signed}: {why}"))
    }

    fn whole(&self, path: &str, most: u64) -> Result<Vec<u8>, String> {
        let body = self.ask(path, 0, Some(DOCUMENT))?.into_body().into_reader();
        read_limited(body, most).map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => format!("{path} has more than {} MiB", most >> 20),
            _ => format!("{path} cannot be read: {error}"),
        })
    }

    /// A file as it comes.
    pub(super) fn open(&self, piece: &Piece) -> impl Read {
        let path = piece.path.clone();
        Resuming::new(piece.size, move |from| {
            self.ask(&path, from, None).map_err(io::Error::other)
        })
    }

    /// Asks for a file from this byte on; `longest` is how long all of it may take.
    fn ask(
        &self,
        path: &str,
        from: u64,
        longest: Option<Duration>,
    ) -> Result<Response<Body>, String> {
        let url = format!("{}/{path}", self.base);
        let answer = patiently(|| {
            let request = self.agent.get(&url).config();
            let request = request.max_redirects(self.elsewhere);
            let request = request.timeout_recv_body(longest).build();
            match from {
                0 => request.call(),
                from => request.header("Range", format!("bytes={from}-")).call(),
            }
        });
        let answer = answer.map_err(|why| format!("{why} ({url})"))?;
        match answer.status().as_u16() {
            200 | 206 => Ok(answer),
            404 if path.ends_with(".sjson") => {
                Err(format!("{url} is not there: the server signs nothing"))
            }
            404 if path.starts_with("streams/") => Err(format!(
                "{url} is not there: it is no server of images, or its address is another"
            )),
            status => Err(format!("the server answers {status} ({url})")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_as_they_are_written() {
        let mut image = ServerImage::new("https://images.example/x/", "alpine/3.20@1").unwrap();
        assert_eq!(
            image.name().unwrap().to_string(),
            "images.example/x/alpine/3.20"
        );
        for signed in [false, true] {
            image.signed = signed;
            assert_eq!(image.to_string().parse::<ServerImage>().unwrap(), image);
            let newest = image.at(None);
            assert_eq!(newest.to_string().parse::<ServerImage>().unwrap(), newest);
        }
        assert!(
            "docker.io/library/alpine:3.20"
                .parse::<ServerImage>()
                .is_err()
        );
        let port = ServerImage::new("https://127.0.0.1:8443", "box/1/default").unwrap();
        assert_eq!(
            port.name().unwrap().to_string(),
            "127.0.0.1:8443/box/1/default"
        );
        for (server, name) in [
            ("ftp://x", "a"),
            ("images.example", "a"),
            ("https://user@x", "a"),
            ("https://x/../y", "a"),
            ("https://x?y", "a"),
            ("https://x//y", "a"),
            ("https://", "a"),
            ("https://x", ""),
            ("https://x", "a b"),
            ("https://x", "a#b"),
            ("https://x", "a@"),
        ] {
            assert!(ServerImage::new(server, name).is_err(), "{server} {name}");
        }
    }

    #[test]
    fn plain_http_needs_somebody_who_vouches() {
        let server = |address: &str, signed: bool, trust: &Trust| {
            let mut image = ServerImage::new(address, "a").unwrap();
            image.signed = signed;
            Server::of(&image, trust).is_ok()
        };
        let (none, keys) = (
            Trust::default(),
            Trust {
                keyring: Some("k".into()),
                ..Trust::default()
            },
        );
        let insecure = Trust {
            insecure: true,
            ..Trust::default()
        };
        assert!(!server("http://images.example", false, &none));
        assert!(server("http://127.0.0.1:1", false, &none));
        assert!(server("http://images.example", false, &keys));
        assert!(server("http://images.example", false, &insecure));
        // Once signed, always signed.
        assert!(!server("https://images.example", true, &none));
        assert!(!server("http://127.0.0.1:1", true, &insecure));
    }
}
