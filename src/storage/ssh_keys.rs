//! Fresh SSH host keys for one guest, made by the host without running a program of the guest's.

use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, EcdsaCurve, LineEnding, PrivateKey};

/// One key pair in OpenSSH's formats.
#[derive(Debug)]
pub(super) struct HostKey {
    /// File name below /etc/ssh; the public key's has `.pub` behind it.
    pub(super) file: &'static str,
    /// Text of the private key's file.
    pub(super) private: String,
    /// Line of the public key's file.
    pub(super) public: String,
}

/// Makes one key of each kind sshd looks for, RSA excepted: making those takes seconds, and no
/// client of the last ten years needs them.
pub(super) fn host_keys(hostname: &str) -> Result<Vec<HostKey>, ssh_key::Error> {
    let curve = EcdsaCurve::NistP256;
    let kinds = [
        ("ssh_host_ed25519_key", Algorithm::Ed25519),
        ("ssh_host_ecdsa_key", Algorithm::Ecdsa { curve }),
    ];
    kinds
        .into_iter()
        .map(|(file, algorithm)| {
            let mut key = PrivateKey::random(&mut OsRng, algorithm)?;
            key.set_comment(format!("root@{hostname}"));
            Ok(HostKey {
                file,
                private: key.to_openssh(LineEnding::LF)?.to_string(),
                public: format!("{}\n", key.public_key().to_openssh()?),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_pairs_and_never_the_same() {
        let (first, second) = (host_keys("a").unwrap(), host_keys("a").unwrap());
        assert_eq!(first.len(), 2);
        for (one, other) in first.iter().zip(&second) {
            assert_ne!(one.private, other.private);
            let private = PrivateKey::from_openssh(&one.private).unwrap();
            assert_eq!(
                private.public_key().to_openssh().unwrap(),
                one.public.trim_end()
            );
            assert!(one.public.ends_with(" root@a\n"), "{}", one.public);
        }
    }
}
