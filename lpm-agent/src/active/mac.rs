//! The HMAC of STAMP packets: HMAC-SHA-256 cut to 128 bits (RFC 8762 section 4.4).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use lpm_common::stamp::{HMAC, Mac};
use ring::hmac;
use subtle::ConstantTimeEq as _;
use thiserror::Error;

/// Fewest bytes of a key in a file.
const SHORTEST: usize = 16;

/// Why a file gives no key.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("the key {path} cannot be read: {source}; check the path and its permissions")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file holds no key.
    #[error("{path}: a key has at least 32 hexadecimal digits (`openssl rand -hex 32`)")]
    NoKey {
        /// Path of the file.
        path: PathBuf,
    },
}

/// A session's key.
#[derive(Clone, Debug)]
pub struct Key(hmac::Key);

impl Key {
    /// Takes the bytes of a key.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Reads a key that stands in a file as hexadecimal digits. White space does not count.
    ///
    /// # Errors
    /// The file cannot be read, or has fewer than 32 digits or something else.
    pub fn read(file: &Path) -> Result<Self, KeyError> {
        let text = fs::read_to_string(file).map_err(|source| KeyError::Read {
            path: file.to_owned(),
            source,
        })?;
        let digits: Vec<u8> = (text.bytes())
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        let byte = |pair: &[u8]| {
            let text = std::str::from_utf8(pair).ok()?;
            (pair.len() == 2).then(|| u8::from_str_radix(text, 16).ok())?
        };
        let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
        let bytes = bytes.filter(|bytes| bytes.len() >= SHORTEST);
        let bytes = bytes.ok_or_else(|| KeyError::NoKey {
            path: file.to_owned(),
        })?;
        Ok(Self::new(&bytes))
    }
}

/// Equal keys make equal tags.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.verify(&[b"equal"], &other.tag(&[b"equal"]))
    }
}

impl Mac for Key {
    fn tag(&self, parts: &[&[u8]]) -> [u8; HMAC] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        let whole = context.sign();
        // A tag of 32 bytes has 16.
        whole.as_ref().first_chunk().copied().unwrap_or_default()
    }

    fn verify(&self, parts: &[&[u8]], tag: &[u8; HMAC]) -> bool {
        self.tag(parts).ct_eq(tag).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231 section 4.3 (test case 2) and section 4.6 (test case 5: cut to 128 bits).
    #[test]
    fn hmacs_are_those_of_rfc_4231() {
        let key = Key::new(b"Jefe");
        let expected = 0x5bdc_c146_bf60_754e_6a04_2426_0895_75c7_u128.to_be_bytes();
        assert_eq!(key.tag(&[b"what do ya want ", b"for nothing?"]), expected);
        let key = Key::new(&[0x0c; 20]);
        let expected = 0xa3b6_1674_7310_0ee0_6e0c_796c_2955_552b_u128.to_be_bytes();
        assert!(key.verify(&[b"Test With Truncation"], &expected));
        assert!(!key.verify(&[b"Test with Truncation"], &expected));
    }
}
