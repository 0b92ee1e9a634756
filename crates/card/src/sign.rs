//! Keys as other programs write them (`openssl genpkey -algorithm ed25519`), and signatures (RFC 8032).

use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::{Error, Result};

/// A private key from PKCS #8 in PEM, as `openssl genpkey -algorithm ed25519` writes it.
///
/// # Errors
/// `Key` where it is none.
pub fn private_key(pem: &str) -> Result<SigningKey> {
    SigningKey::from_pkcs8_pem(pem).map_err(|error| {
        Error::Key(format!("no Ed25519 private key in PEM ({error}): `openssl genpkey -algorithm ed25519` makes one"))
    })
}

/// A public key: PEM, as `openssl pkey -pubout` writes it, or its 32 bytes in hex.
///
/// # Errors
/// `Key` where it is none.
pub fn public_key(text: &str) -> Result<VerifyingKey> {
    let text = text.trim();
    if let Some(bytes) = from_hex(text) {
        return VerifyingKey::from_bytes(&bytes).map_err(|error| Error::Key(format!("no Ed25519 public key: {error}")));
    }
    VerifyingKey::from_public_key_pem(text).map_err(|error| {
        Error::Key(format!("no Ed25519 public key in PEM or hex ({error}): `openssl pkey -pubout` writes one"))
    })
}

/// Signature of `bytes`, hex.
pub(crate) fn sign(key: &SigningKey, bytes: &[u8]) -> String {
    hex(&key.sign(bytes).to_bytes())
}

/// Checks a signature in hex.
///
/// # Errors
/// `Signature` where it is not that key's signature of these bytes.
pub(crate) fn verify(key: &VerifyingKey, bytes: &[u8], signature: &str) -> Result<()> {
    let signature: [u8; 64] = from_hex(signature).ok_or_else(|| Error::Signature("a signature has 64 bytes".into()))?;
    key.verify_strict(bytes, &Signature::from_bytes(&signature)).map_err(|_| {
        Error::Signature("the signature is not this card's: it was changed, or signed by someone else".into())
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `N` bytes, exactly.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (idx, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * idx..2 * idx + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032, section 7.1, test 2.
    #[test]
    fn the_standards_own_vector() {
        let secret = from_hex::<32>("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb").unwrap();
        let key = SigningKey::from_bytes(&secret);
        let public = public_key("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c").unwrap();
        assert_eq!(key.verifying_key(), public);
        let signature = sign(&key, &[0x72]);
        assert_eq!(
            signature,
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        );
        verify(&public, &[0x72], &signature).unwrap();
        assert!(verify(&public, &[0x73], &signature).is_err());
        assert!(verify(&public, &[0x72], &signature[2..]).is_err());
    }

    /// Written by OpenSSL 3.
    #[test]
    fn keys_of_openssl() {
        let private = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIEzNCJso/5banbbDRuwRTg9bijGfNaumJNqM9u1PuKb7\n\
                       -----END PRIVATE KEY-----\n";
        assert!(private_key(&private.replace("BEGIN", "BEGIM")).is_err());
        let public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAPUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=\n\
                      -----END PUBLIC KEY-----\n";
        let key = public_key(public).unwrap();
        assert_eq!(hex(key.as_bytes()), "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        assert!(public_key("3d40").is_err());
        assert!(private_key(public).is_err());
    }
}
