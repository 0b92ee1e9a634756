//! A card as a file. Goes in: a card, and a key or none. Comes out: bytes, and from bytes the card, checked.
//!
//! ```text
//! {"card": ..., "signature": {"algorithm": "ed25519", "public_key": hex, "signature": hex} or null}
//! ```
//!
//! What is signed are the bytes of the card's value as they stand in the file, so that nobody has to agree on how to
//! write numbers.

use std::io::Read;
use std::path::Path;

use ed25519_dalek::{SigningKey, VerifyingKey};
use netweight_container::CARD_NAME;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::card::{Card, FORMAT, FileDigest};
use crate::sign::{hex, sign, verify};
use crate::{Error, Result, public_key};

/// A card, and the signature under it.
#[derive(Serialize, Deserialize)]
pub struct Signed {
    card: Box<RawValue>,
    signature: Option<Under>,
}

#[derive(Serialize, Deserialize)]
struct Under {
    algorithm: String,
    public_key: String,
    signature: String,
}

impl Signed {
    /// Writes a card down, and signs it.
    ///
    /// # Errors
    /// `Malformed` where it holds what JSON has not.
    pub fn new(card: &Card, key: Option<&SigningKey>) -> Result<Signed> {
        let text = serde_json::to_string_pretty(card).map_err(|error| Error::Malformed(error.to_string()))?;
        let signature = key.map(|key| Under {
            algorithm: "ed25519".to_owned(),
            public_key: hex(key.verifying_key().as_bytes()),
            signature: sign(key, text.as_bytes()),
        });
        let card = RawValue::from_string(text).map_err(|error| Error::Malformed(error.to_string()))?;
        Ok(Signed { card, signature })
    }

    /// From a file's bytes.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn decode(bytes: &[u8]) -> Result<Signed> {
        serde_json::from_slice(bytes).map_err(|error| Error::Malformed(error.to_string()))
    }

    /// As a file's bytes.
    ///
    /// # Errors
    /// None that can be thought of.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self).map_err(|error| Error::Malformed(error.to_string()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// What it says.
    ///
    /// # Errors
    /// `Malformed`, `Newer`.
    pub fn card(&self) -> Result<Card> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let malformed = |error: serde_json::Error| Error::Malformed(error.to_string());
        let Version { format } = serde_json::from_str(self.card.get()).map_err(malformed)?;
        if format > FORMAT {
            return Err(Error::Newer(format));
        }
        serde_json::from_str(self.card.get()).map_err(malformed)
    }

    /// The key under it, in hex; `None` where nobody signed.
    pub fn signer(&self) -> Option<&str> {
        self.signature.as_ref().map(|under| under.public_key.as_str())
    }

    /// Checks that the signature is this card's, by the key that it names, and that this is `key` where one is given.
    ///
    /// # Errors
    /// `Signature` where it is not, or a key is given and nobody signed.
    pub fn check(&self, key: Option<&VerifyingKey>) -> Result<()> {
        let Some(under) = &self.signature else {
            let unsigned = || Error::Signature("nobody signed this card".into());
            return key.map_or(Ok(()), |_| Err(unsigned()));
        };
        if under.algorithm != "ed25519" {
            return Err(Error::Signature(format!("a signature by {:?}, which is not known", under.algorithm)));
        }
        let named = public_key(&under.public_key)?;
        if key.is_some_and(|key| *key != named) {
            return Err(Error::Signature(format!("another key signed this card: {}", under.public_key)));
        }
        verify(&named, self.card.get().as_bytes(), &under.signature)
    }
}

/// Length and hash of every file of an archive, as a card lists them; `relative` are paths in its folder.
///
/// # Errors
/// `Io`.
pub fn digests<'a>(folder: &Path, relative: impl IntoIterator<Item = &'a str>) -> Result<Vec<FileDigest>> {
    let mut files: Vec<FileDigest> = relative
        .into_iter()
        .filter(|path| *path != CARD_NAME)
        .map(|path| digest(&folder.join(path), path))
        .collect::<Result<_>>()?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Paths that are not as the card lists them, or that only one side has. Files of a refinement may be missing.
pub fn differing(card: &Card, found: &[FileDigest]) -> Vec<String> {
    let mut paths: Vec<String> =
        card.files.iter().filter(|file| !found.contains(file)).map(|f| f.path.clone()).collect();
    let is_known = |file: &FileDigest| card.files.contains(file) || card.refinement.contains(file);
    paths.extend(found.iter().filter(|file| !is_known(file)).map(|file| file.path.clone()));
    paths.sort();
    paths.dedup();
    paths
}

fn digest(path: &Path, relative: &str) -> Result<FileDigest> {
    let io = |source| Error::Io { path: path.display().to_string(), source };
    let mut file = std::fs::File::open(path).map_err(io)?;
    let (mut hasher, mut buffer, mut bytes) = (Sha256::new(), vec![0; 1 << 20], 0u64);
    loop {
        let n = file.read(&mut buffer).map_err(io)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        bytes += n as u64;
    }
    Ok(FileDigest { path: relative.to_owned(), bytes, sha256: hex(&hasher.finalize()) })
}
