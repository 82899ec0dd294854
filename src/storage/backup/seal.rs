//! From bytes to what is stored: compressed, then encrypted and authenticated (XChaCha20-Poly1305
//! with a random nonce) under a key that a repository derives from the key file and its own id.
//! What something is, and its name, are authenticated with it, so that one blob cannot be passed off
//! as another. A repository without encryption has a checksum in the same place: it finds accidents,
//! not an enemy.

use chacha20poly1305::aead::AeadInPlace as _;
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};

use super::error::{BackupError, Result};
use super::key::Key;
use crate::kernel::random;

/// Bytes of a nonce.
const NONCE: usize = 24;
/// Bytes of the checksum of what is not encrypted.
const SUM: usize = 32;
/// Before compressed or plain data: which of the two, and its length when plain.
const HEAD: usize = 5;
/// Fewest bytes that anything sealed has.
pub(super) const LEAST: u32 = 32 + 5;
/// Level of compression: beyond it time grows faster than data shrinks.
const LEVEL: i32 = 3;

/// What is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Proves that a key is the repository's.
    Check,
    Chunk,
    PackHeader,
    Index,
    Snapshot,
}

impl Role {
    fn tag(self) -> &'static [u8] {
        match self {
            Self::Check => b"check 1\0",
            Self::Chunk => b"chunk 1\0",
            Self::PackHeader => b"pack header 1\0",
            Self::Index => b"index 1\0",
            Self::Snapshot => b"snapshot 1\0",
        }
    }
}

/// The name of a chunk: a hash of its bytes that only the key's holder can make.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ChunkId(pub(super) [u8; 32]);

impl std::fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.hex())
    }
}

impl ChunkId {
    /// Lower-case hexadecimal.
    pub(super) fn hex(&self) -> String {
        super::super::digest::hex(&self.0)
    }
}

enum Cipher {
    Encrypted(Box<XChaCha20Poly1305>),
    Plain([u8; 32]),
}

/// The keys of one repository.
pub(super) struct Secrets {
    cipher: Cipher,
    names: [u8; 32],
    packs: [u8; 32],
    cut: u64,
    compressor: zstd::bulk::Compressor<'static>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(…)")
    }
}

impl Secrets {
    /// Those of the repository `id`; without a key those of one without encryption, which are no
    /// secret.
    pub(super) fn new(key: Option<&Key>, id: &[u8; 16]) -> Result<Self> {
        let mut material = [0; 48];
        if let Some(key) = key {
            material[..32].copy_from_slice(&key.0);
        }
        material[32..].copy_from_slice(id);
        let derive = |what: &str| blake3::derive_key(what, &material);
        let seal = derive("Bulkhead backup 1: sealing");
        let cut = derive("Bulkhead backup 1: where data is cut");
        Ok(Self {
            cipher: match key {
                Some(_) => Cipher::Encrypted(Box::new(XChaCha20Poly1305::new(&seal.into()))),
                None => Cipher::Plain(seal),
            },
            names: derive("Bulkhead backup 1: names of chunks"),
            packs: derive("Bulkhead backup 1: names of packs"),
            cut: u64::from_le_bytes([
                cut[0], cut[1], cut[2], cut[3], cut[4], cut[5], cut[6], cut[7],
            ]),
            compressor: zstd::bulk::Compressor::new(LEVEL)
                .map_err(|e| BackupError::damaged("the compressor", e.to_string()))?,
        })
    }

    /// Whether what is sealed can only be of the key's holder.
    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self.cipher, Cipher::Encrypted(_))
    }

    /// The name of a chunk with these bytes.
    pub(super) fn chunk_id(&self, data: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.names, data).as_bytes())
    }

    /// The name of a pack with these bytes.
    pub(super) fn pack_id(&self, data: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.packs, data).as_bytes()
    }

    /// What decides where data is cut: with another key it is cut elsewhere, so that the sizes of
    /// chunks do not tell a known file.
    pub(super) fn cut(&self) -> u64 {
        self.cut
    }

    /// Compresses and seals `data` as `role` under `name`.
    pub(super) fn seal(&mut self, role: Role, name: &[u8], data: &[u8]) -> Result<Vec<u8>> {
        let failed = |why: String| BackupError::damaged("what is to be stored", why);
        let length = u32::try_from(data.len()).map_err(|_| failed("it is too large".into()))?;
        let squeezed = self
            .compressor
            .compress(data)
            .map_err(|e| failed(e.to_string()))?;
        let (packed, body) = match squeezed.len() < data.len() {
            true => (1, squeezed.as_slice()),
            false => (0, data),
        };
        let mut text = Vec::with_capacity(NONCE + HEAD + body.len() + SUM);
        text.push(packed);
        text.extend_from_slice(&length.to_le_bytes());
        text.extend_from_slice(body);
        let bound = [role.tag(), name].concat();
        match &self.cipher {
            Cipher::Encrypted(cipher) => {
                let mut nonce = [0; NONCE];
                random::fill(&mut nonce)?;
                cipher
                    .encrypt_in_place(XNonce::from_slice(&nonce), &bound, &mut text)
                    .map_err(|_| failed("it cannot be encrypted".into()))?;
                text.splice(0..0, nonce);
            }
            Cipher::Plain(key) => {
                let sum = sum(key, &bound, &text);
                text.extend_from_slice(&sum);
            }
        }
        Ok(text)
    }

    /// The reverse of [`Secrets::seal`]; `None` unless `sealed` is what was sealed as `role` under
    /// `name`, and at most `most` bytes when plain.
    pub(super) fn open(
        &self,
        role: Role,
        name: &[u8],
        sealed: &[u8],
        most: usize,
    ) -> Option<Vec<u8>> {
        let bound = [role.tag(), name].concat();
        let mut text;
        let text = match &self.cipher {
            Cipher::Encrypted(cipher) => {
                let (nonce, body) = sealed.split_at_checked(NONCE)?;
                text = body.to_vec();
                cipher
                    .decrypt_in_place(XNonce::from_slice(nonce), &bound, &mut text)
                    .ok()?;
                text.as_slice()
            }
            Cipher::Plain(key) => {
                let at = sealed.len().checked_sub(SUM)?;
                let (body, stored) = sealed.split_at(at);
                (sum(key, &bound, body) == *stored).then_some(body)?
            }
        };
        let (head, body) = text.split_first_chunk::<HEAD>()?;
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        let length = usize::try_from(length).ok().filter(|n| *n <= most)?;
        let data = match head[0] {
            0 => body.to_vec(),
            1 => zstd::bulk::decompress(body, length).ok()?,
            _ => return None,
        };
        (data.len() == length).then_some(data)
    }
}

fn sum(key: &[u8; 32], bound: &[u8], text: &[u8]) -> [u8; SUM] {
    let mut hash = blake3::Hasher::new_keyed(key);
    hash.update(&(bound.len() as u64).to_le_bytes());
    hash.update(bound);
    hash.update(text);
    *hash.finalize().as_bytes()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in super::super) fn secrets(encrypted: bool) -> Secrets {
        let key = Key([7; 32]);
        Secrets::new(encrypted.then_some(&key), &[1; 16]).unwrap()
    }

    #[test]
    fn another_key_repository_role_or_name_opens_nothing() {
        for encrypted in [true, false] {
            let mut ours = secrets(encrypted);
            let sealed = ours.seal(Role::Chunk, b"a", b"text").unwrap();
            assert_eq!(
                ours.open(Role::Chunk, b"a", &sealed, 4).as_deref(),
                Some(&b"text"[..])
            );
            assert!(ours.open(Role::Index, b"a", &sealed, 4).is_none());
            assert!(ours.open(Role::Chunk, b"b", &sealed, 4).is_none());
            assert!(ours.open(Role::Chunk, b"a", &sealed, 3).is_none());
            let key = Key([7; 32]);
            let other = Secrets::new(encrypted.then_some(&key), &[2; 16]).unwrap();
            assert!(other.open(Role::Chunk, b"a", &sealed, 4).is_none());
            assert_ne!(other.chunk_id(b"text"), ours.chunk_id(b"text"));
        }
        let other = Secrets::new(Some(&Key([8; 32])), &[1; 16]).unwrap();
        let sealed = secrets(true).seal(Role::Chunk, b"a", b"text").unwrap();
        assert!(other.open(Role::Chunk, b"a", &sealed, 4).is_none());
    }

    #[test]
    fn text_shrinks_and_noise_hardly_grows() {
        let mut secrets = secrets(true);
        let text = vec![b'x'; 100_000];
        assert!(secrets.seal(Role::Chunk, b"", &text).unwrap().len() < 1000);
        let mut noise = vec![0; 100_000];
        random::fill(&mut noise).unwrap();
        let sealed = secrets.seal(Role::Chunk, b"", &noise).unwrap();
        assert!(sealed.len() <= noise.len() + 50);
        assert!(sealed.windows(32).all(|w| w != &noise[..32]));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_or_a_missing_byte_is_noticed(
            data in proptest::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u32,
            encrypted in any::<bool>(),
        ) {
            let mut secrets = secrets(encrypted);
            let sealed = secrets.seal(Role::Snapshot, b"n", &data).unwrap();
            let opened = secrets.open(Role::Snapshot, b"n", &sealed, 300);
            prop_assert_eq!(opened.as_deref(), Some(data.as_slice()));
            let mut bad = sealed.clone();
            let at = at.index(bad.len());
            bad[at] ^= 1 << bit;
            prop_assert!(secrets.open(Role::Snapshot, b"n", &bad, 300).is_none());
            prop_assert!(secrets.open(Role::Snapshot, b"n", &sealed[..at], 300).is_none());
        }

        #[test]
        fn any_bytes_open_to_nothing(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            for encrypted in [true, false] {
                prop_assert!(secrets(encrypted).open(Role::Chunk, b"", &data, 1 << 20).is_none());
            }
        }
    }
}
