//! The parts of an image, wherever they come from: what a source of parts is, and reading one with
//! an eye on its size and digest.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::digest::hex;
use super::image::{ImageError, Progress};
use super::oci_config::{DOCUMENT_MOST, sha256};
use super::oci_manifest::{DEPTH_MOST, Descriptor, Document, choose};
use crate::model::ImageName;

/// Bytes between two reports.
const REPORT: u64 = 4 << 20;

/// One part, as its source knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// `sha256:…`, or its path in an archive of `docker save`.
    pub(super) key: String,
    /// SHA-256 of it as it is stored, hexadecimal, where that is known beforehand.
    pub(super) digest: Option<String>,
    /// Bytes of it as it is stored.
    pub(super) size: u64,
}

/// Where parts come from.
pub(super) trait Blobs {
    /// Opens a part from its beginning.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    fn open(&self, part: &Part) -> Result<Box<dyn Read + '_>, ImageError>;

    /// Reads a manifest or an index whole, compared with its digest.
    ///
    /// # Errors
    /// As [`Blobs::open`]; it is not what its digest says.
    fn manifest(&self, part: &Part) -> Result<Vec<u8>, ImageError>;

    /// What it is, for messages.
    fn shown(&self) -> &str;
}

/// An image found in a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Text of its configuration.
    pub(super) config: Vec<u8>,
    /// Its layers, the lowest first.
    pub(super) layers: Vec<Part>,
    /// Names its source has for it.
    pub(super) names: Vec<ImageName>,
}

/// An error about what is taken in.
pub(super) fn refused(what: impl Into<String>, reason: impl Into<String>) -> ImageError {
    ImageError::Refused {
        what: what.into(),
        reason: reason.into(),
    }
}

impl Part {
    /// The part that a descriptor describes.
    pub(super) fn of(descriptor: &Descriptor) -> Result<Self, String> {
        Ok(Self {
            key: descriptor.digest.clone(),
            digest: Some(sha256(&descriptor.digest)?.to_owned()),
            size: descriptor.size,
        })
    }
}

/// Reads a document whole, and compares it with its digest.
pub(super) fn document(blobs: &dyn Blobs, part: &Part) -> Result<Vec<u8>, ImageError> {
    let failed = |reason: String| refused(blobs.shown(), format!("{}: {reason}", part.key));
    if part.size > DOCUMENT_MOST {
        return Err(failed("has more than 4 MiB".into()));
    }
    let mut tally = Tally::new(blobs.open(part)?, Some(part.size));
    let mut text = Vec::new();
    tally
        .read_to_end(&mut text)
        .map_err(|e| failed(e.to_string()))?;
    tally.finish(part.digest.as_deref()).map_err(failed)?;
    Ok(text)
}

/// The image that a part of OCI leads to: a manifest, or an index with one for this machine.
pub(super) fn find(blobs: &dyn Blobs, start: &Part) -> Result<Found, ImageError> {
    find_from(blobs, &blobs.manifest(start)?)
}

/// The same from the text of that part.
pub(super) fn find_from(blobs: &dyn Blobs, start: &[u8]) -> Result<Found, ImageError> {
    let failed = |reason: String| refused(blobs.shown(), reason);
    let mut text = start.to_owned();
    for _ in 0..=DEPTH_MOST {
        match Document::parse(&text).map_err(failed)? {
            Document::Index(entries) => {
                let entry = choose(&entries).map_err(failed)?;
                text = blobs.manifest(&Part::of(entry).map_err(failed)?)?;
            }
            Document::Manifest(config, layers) => {
                let config = document(blobs, &Part::of(&config).map_err(failed)?)?;
                let layers = layers.iter().map(Part::of);
                return Ok(Found {
                    config,
                    layers: layers.collect::<Result<_, _>>().map_err(failed)?,
                    names: Vec::new(),
                });
            }
        }
    }
    let why = format!("more than {DEPTH_MOST} indexes lead from one to another");
    Err(failed(why))
}

/// Counts and hashes what is read, and refuses more than was promised.
pub(super) struct Tally<R> {
    input: R,
    hash: Sha256,
    done: u64,
    size: Option<u64>,
}

impl<R: Read> Tally<R> {
    /// Over `input`, of which at most `size` bytes are wanted.
    pub(super) fn new(input: R, size: Option<u64>) -> Self {
        Self {
            input,
            hash: Sha256::new(),
            done: 0,
            size,
        }
    }

    /// Reads what is left, and compares size and digest.
    ///
    /// # Errors
    /// They differ, or it cannot be read; as a sentence.
    pub(super) fn finish(mut self, digest: Option<&str>) -> Result<(), String> {
        io::copy(&mut self, &mut io::sink()).map_err(|e| e.to_string())?;
        if let Some(size) = self.size.filter(|size| *size != self.done) {
            let done = self.done;
            return Err(format!("has {done} bytes, and {size} were promised"));
        }
        let is = hex(&self.hash.finalize());
        match digest {
            Some(wanted) if wanted != is => Err(format!(
                "its digest is sha256:{is}, and should be sha256:{wanted}: it is damaged, or not \
                 what was asked for"
            )),
            _ => Ok(()),
        }
    }
}

impl<R: Read> Read for Tally<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.done += n as u64;
        if self.size.is_some_and(|size| self.done > size) {
            return Err(io::Error::other("it is longer than was promised"));
        }
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

/// Reports how far reading has come.
pub(super) struct Meter<'a, R> {
    pub(super) input: R,
    /// Bytes read before, of all parts.
    pub(super) done: u64,
    pub(super) total: u64,
    pub(super) reported: u64,
    pub(super) progress: &'a mut dyn FnMut(Progress),
}

impl<R: Read> Read for Meter<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.done += n as u64;
        if self.done - self.reported >= REPORT || (n == 0 && self.reported != self.done) {
            self.reported = self.done;
            (self.progress)(Progress::Bytes {
                done: self.done,
                total: Some(self.total),
            });
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Parts in memory.
    struct Shelf(BTreeMap<String, Vec<u8>>);

    impl Shelf {
        fn put(&mut self, data: &[u8]) -> Part {
            let digest = hex(&Sha256::digest(data));
            self.0.insert(format!("sha256:{digest}"), data.to_vec());
            Part {
                key: format!("sha256:{digest}"),
                digest: Some(digest),
                size: data.len() as u64,
            }
        }
    }

    impl Blobs for Shelf {
        fn open(&self, part: &Part) -> Result<Box<dyn Read + '_>, ImageError> {
            let data = self.0.get(&part.key);
            let data = data.ok_or_else(|| refused("shelf", "is not there"))?;
            Ok(Box::new(data.as_slice()))
        }
        fn manifest(&self, part: &Part) -> Result<Vec<u8>, ImageError> {
            document(self, part)
        }
        fn shown(&self) -> &str {
            "shelf"
        }
    }

    fn entry(part: &Part) -> serde_json::Value {
        serde_json::json!({"mediaType": "x", "digest": part.key, "size": part.size})
    }

    #[test]
    fn indexes_lead_to_an_image_but_not_for_ever() {
        let mut shelf = Shelf(BTreeMap::new());
        let config = shelf.put(b"{}");
        let manifest = serde_json::json!({"config": entry(&config), "layers": []});
        let mut part = shelf.put(manifest.to_string().as_bytes());
        for depth in 0..=DEPTH_MOST {
            assert!(find(&shelf, &part).is_ok(), "{depth}");
            let index = serde_json::json!({"manifests": [entry(&part)]});
            part = shelf.put(index.to_string().as_bytes());
        }
        let error = find(&shelf, &part).unwrap_err().to_string();
        assert!(error.contains("lead from one to another"), "{error}");
        // One that leads to itself cannot have its own digest in it.
        let own = Part {
            key: format!("sha256:{}", "a".repeat(64)),
            digest: Some("a".repeat(64)),
            size: 0,
        };
        let index = serde_json::json!({"manifests": [entry(&own)]}).to_string();
        let own = Part {
            size: index.len() as u64,
            ..own
        };
        shelf.0.insert(own.key.clone(), index.into_bytes());
        let error = find(&shelf, &own).unwrap_err().to_string();
        assert!(error.contains("its digest is"), "{error}");
    }

    #[test]
    fn size_and_digest_must_be_right() {
        let finish = |size, digest: &str| Tally::new(&b"text"[..], size).finish(Some(digest));
        let digest = hex(&Sha256::digest(b"text"));
        assert_eq!(finish(Some(4), &digest), Ok(()));
        assert!(finish(Some(3), &digest).unwrap_err().contains("longer"));
        assert!(finish(Some(5), &digest).unwrap_err().contains("promised"));
        assert!(finish(None, "00").unwrap_err().contains("its digest is"));
    }
}
