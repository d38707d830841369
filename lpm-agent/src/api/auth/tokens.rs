//! Bearer tokens (RFC 6750) of the configuration.

use std::{collections::HashMap, fs, io, path::PathBuf, sync::Arc};

use ring::digest::{SHA256, digest as hash};
use thiserror::Error;

use super::secret::{Digest, digest};
use crate::config::Token;

/// Fewest characters of a token.
const LEAST: usize = 16;

/// Why tokens cannot be used.
#[derive(Debug, Error)]
pub enum TokenError {
    /// A file cannot be read.
    #[error("auth.tokens: cannot read the token of {name} in {path}: {source}")]
    Read {
        /// Name of the holder.
        name: String,
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A token is too short, or no token.
    #[error(
        "auth.tokens: the token of {name} in {path} must be one line of 16 or more printable \
         characters without blanks; `openssl rand -hex 32` makes one"
    )]
    Weak {
        /// Name of the holder.
        name: String,
        /// Path of the file.
        path: PathBuf,
    },
}

/// The tokens that are in force, by the keyed digest of their SHA-256.
#[derive(Clone, Debug, Default)]
pub(in crate::api) struct Tokens(HashMap<Digest, Arc<str>>);

impl Tokens {
    /// Reads the files of the tokens.
    pub(in crate::api) fn read(tokens: &[Token]) -> Result<Self, TokenError> {
        let mut all = HashMap::new();
        for token in tokens {
            let sha256 = match (&token.file, &token.sha256) {
                (Some(path), _) => {
                    let (name, path) = (token.name.clone(), path.clone());
                    let text = match fs::read_to_string(&path) {
                        Ok(text) => text,
                        Err(source) => return Err(TokenError::Read { name, path, source }),
                    };
                    let text = text.trim_end_matches(['\r', '\n']);
                    if text.len() < LEAST || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                        return Err(TokenError::Weak { name, path });
                    }
                    hash(&SHA256, text.as_bytes()).as_ref().to_vec()
                }
                (None, Some(sha256)) => bytes_of(sha256),
                // The configuration's check has refused it.
                (None, None) => continue,
            };
            all.insert(digest("token", &[&sha256]), token.name.as_str().into());
        }
        Ok(Self(all))
    }

    /// The name of a token's holder.
    pub(in crate::api) fn holder(&self, token: &str) -> Option<Arc<str>> {
        let sha256 = hash(&SHA256, token.as_bytes());
        self.0.get(&digest("token", &[sha256.as_ref()])).cloned()
    }
}

/// The bytes of a text of hexadecimal digits.
fn bytes_of(digits: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default();
    (digits.as_bytes().chunks_exact(2))
        .filter_map(|pair| u8::try_from(digit(pair[0]) << 4 | digit(pair[1])).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, file: Option<PathBuf>, sha256: Option<&str>) -> Token {
        Token {
            name: name.to_owned(),
            file,
            sha256: sha256.map(str::to_owned),
        }
    }

    #[test]
    fn tokens_of_files_and_of_digests_have_their_holder() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("token");
        fs::write(&file, "0123456789abcdef\n").expect("write");
        // printf %s correct-horse-battery | sha256sum
        let known = "62249369389075490555A758353AEC61500C6218FA597252D52DC4BD0148F12D";
        let all = [
            token("file", Some(file), None),
            token("digest", None, Some(known)),
        ];
        let tokens = Tokens::read(&all).expect("tokens");
        for (token, holder) in [
            ("0123456789abcdef", Some("file")),
            ("correct-horse-battery", Some("digest")),
            ("0123456789abcdef\n", None),
            ("0123456789abcde", None),
            ("", None),
            (known, None),
        ] {
            assert_eq!(tokens.holder(token).as_deref(), holder, "{token}");
        }
    }

    #[test]
    fn a_file_without_a_good_token_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("token");
        for text in [
            "",
            "short\n",
            "a token with blanks in it",
            "0123456789abcdef\nand more",
        ] {
            fs::write(&file, text).expect("write");
            let error = Tokens::read(&[token("ci", Some(file.clone()), None)]);
            let error = error.expect_err(text).to_string();
            assert!(
                error.contains("token of ci") && error.contains("openssl"),
                "{error}"
            );
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
        let gone = token("ci", Some(directory.path().join("gone")), None);
        let error = Tokens::read(&[gone]).expect_err("gone").to_string();
        assert!(error.contains("cannot read the token of ci"), "{error}");
    }
}
