//! A registry of images, spoken to as the OCI distribution specification has it: a manifest by name
//! or digest, parts by digest. A connection that breaks in the middle of a part is taken up again
//! where it broke. HTTP itself is `oci_http`, who one is `oci_token`.

use std::cell::RefCell;
use std::io::{self, Read};

use serde::Deserialize;
use ureq::Agent;
use ureq::http::Response;

use super::dirfd::read_limited;
use super::http_patience::{Resuming, patiently};
use super::image::ImageError;
use super::oci_blobs::{Blobs, Part, Tally, refused};
use super::oci_config::{DOCUMENT_MOST, sha256};
use super::oci_http::{Trust, agent, is_loopback};
use super::oci_manifest::ACCEPTED;
use super::oci_token::{Challenge, account, escaped};
use crate::model::{ImageName, Remote};

/// Most bytes of a token's answer.
const TOKEN_MOST: u64 = 1 << 20;

/// A repository of a registry.
pub(super) struct Registry {
    agent: Agent,
    /// `https://HOST/v2/REPOSITORY`
    base: String,
    remote: Remote,
    shown: String,
    plain: bool,
    /// User and password as in a `Basic` header.
    account: Option<String>,
    /// What is sent as `Authorization` once the registry has asked for it.
    pass: RefCell<Option<String>>,
}

impl Registry {
    /// The repository an image's name leads to. Nothing is asked yet.
    pub(super) fn of(name: &ImageName, trust: &Trust) -> Result<Self, ImageError> {
        let remote = name.remote();
        let shown = name.full().to_string();
        let failed = |reason: String| refused(&shown, reason);
        let here = is_loopback(&remote.host);
        let plain = trust.insecure || here;
        let account = match &trust.credentials {
            Some(path) => account(path, &remote.host).map_err(failed)?,
            None => None,
        };
        let scheme = if plain { "http" } else { "https" };
        Ok(Self {
            agent: agent(trust, plain, here).map_err(failed)?,
            base: format!("{scheme}://{}/v2/{}", remote.host, remote.repository),
            remote,
            shown,
            plain,
            account,
            pass: RefCell::new(None),
        })
    }

    /// The manifest or index that the name leads to, compared with its digest where it has one.
    pub(super) fn start(&self) -> Result<Vec<u8>, ImageError> {
        let failed = |reason: String| refused(&self.shown, reason);
        let reference = &self.remote.reference;
        let text = self.manifest_text(reference, DOCUMENT_MOST)?;
        if let Ok(digest) = sha256(reference) {
            Tally::new(text.as_slice(), None)
                .finish(Some(digest))
                .map_err(failed)?;
        }
        Ok(text)
    }

    fn manifest_text(&self, reference: &str, most: u64) -> Result<Vec<u8>, ImageError> {
        let failed = |reason: String| refused(&self.shown, reason);
        let url = format!("{}/manifests/{reference}", self.base);
        let answer = self.patiently(&url, 0)?;
        read_limited(answer.into_body().into_reader(), most)
            .map_err(|e| failed(format!("its manifest cannot be read: {e}")))
    }

    /// Asks, and asks again after failures that may pass.
    fn patiently(&self, url: &str, from: u64) -> Result<Response<ureq::Body>, ImageError> {
        let answer = patiently(|| self.ask(url, from));
        self.good(answer.map_err(|failure| refused(&self.shown, format!("{failure} ({url})")))?)
    }

    /// One question, repeated once with what the registry wants to see.
    fn ask(&self, url: &str, from: u64) -> Result<Response<ureq::Body>, ureq::Error> {
        let answer = self.send(url, from)?;
        if answer.status() != 401 {
            return Ok(answer);
        }
        let header = answer.headers().get("www-authenticate");
        let challenge = header.and_then(|text| Challenge::parse(text.to_str().ok()?));
        let Some(pass) = challenge.and_then(|challenge| self.pass_for(&challenge).transpose())
        else {
            return Ok(answer);
        };
        *self.pass.borrow_mut() = Some(pass?);
        self.send(url, from)
    }

    fn send(&self, url: &str, from: u64) -> Result<Response<ureq::Body>, ureq::Error> {
        let mut request = self.agent.get(url).header("Accept", ACCEPTED.join(", "));
        if let Some(pass) = &*self.pass.borrow() {
            request = request.header("Authorization", pass);
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call()
    }

    /// What to send to a registry that asks for this; `None` if there is nothing.
    fn pass_for(&self, challenge: &Challenge) -> Result<Option<String>, ureq::Error> {
        let basic = self
            .account
            .as_ref()
            .map(|account| format!("Basic {account}"));
        let Challenge::Bearer {
            realm,
            service,
            scope,
        } = challenge
        else {
            return Ok(basic);
        };
        // A password never goes to where nobody vouches for, unless that was asked for.
        if !self.plain && !realm.starts_with("https://") {
            return Ok(None);
        }
        let usual = format!("repository:{}:pull", self.remote.repository);
        let scope = scope.as_ref().unwrap_or(&usual);
        let begin = if realm.contains('?') { '&' } else { '?' };
        let mut url = format!("{realm}{begin}scope={}", escaped(scope));
        if let Some(service) = service {
            url += &format!("&service={}", escaped(service));
        }
        let mut request = self.agent.get(&url);
        if let Some(basic) = basic {
            request = request.header("Authorization", basic);
        }
        let answer = request.call()?;
        if !answer.status().is_success() {
            return Ok(None);
        }
        let text = read_limited(answer.into_body().into_reader(), TOKEN_MOST)?;
        let token: Token = serde_json::from_slice(&text).unwrap_or_default();
        let token = token.token.or(token.access_token);
        // A token with a line break in it would be a header of its own.
        let sound = |token: &String| token.bytes().all(|b| b.is_ascii_graphic());
        Ok(token.filter(sound).map(|token| format!("Bearer {token}")))
    }

    fn good(&self, answer: Response<ureq::Body>) -> Result<Response<ureq::Body>, ImageError> {
        let failed = |reason: String| Err(refused(&self.shown, reason));
        let host = &self.remote.host;
        match answer.status().as_u16() {
            200 | 206 => Ok(answer),
            404 => failed(format!("{host} has no such image")),
            401 | 403 => failed(match self.account {
                Some(_) => format!("{host} does not give it to this user"),
                None => format!(
                    "{host} does not give it to everybody: give user and password in a file with \
                     --auth-file; or there is no such image"
                ),
            }),
            status => failed(format!("{host} answers {status}")),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Blobs for Registry {
    fn open(&self, part: &Part) -> Result<Box<dyn Read + '_>, ImageError> {
        sha256(&part.key).map_err(|reason| refused(&self.shown, reason))?;
        let url = format!("{}/blobs/{}", self.base, part.key);
        Ok(Box::new(Resuming::new(part.size, move |from| {
            self.patiently(&url, from).map_err(io::Error::other)
        })))
    }

    fn manifest(&self, part: &Part) -> Result<Vec<u8>, ImageError> {
        let failed = |reason: String| refused(&self.shown, format!("{}: {reason}", part.key));
        if part.size > DOCUMENT_MOST {
            return Err(failed("has more than 4 MiB".into()));
        }
        let text = self.manifest_text(&part.key, DOCUMENT_MOST)?;
        Tally::new(text.as_slice(), Some(part.size))
            .finish(part.digest.as_deref())
            .map_err(failed)?;
        Ok(text)
    }

    fn shown(&self) -> &str {
        &self.shown
    }
}
