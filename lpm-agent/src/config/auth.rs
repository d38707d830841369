//! The configuration keys `auth` and `socket`: who may ask the agent for what.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Enabled, schema};

/// Default path of the Unix socket.
pub const SOCKET: &str = "/run/lpm/lpm.sock";

/// Characters of a SHA-256 digest in hexadecimal.
const SHA256: usize = 64;

/// Who may use the paths below `/api`, and whether `/metrics` needs credentials. `docs/securing.md`
/// describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// Clients from a loopback address may read `/api` without credentials, if their header Host is
    /// `localhost` or a loopback address. Every user of the machine is such a client. It has no
    /// effect if the web configuration has users: then everybody needs a password.
    pub loopback: bool,
    /// `/metrics` answers only clients with credentials: a password, a client certificate, or a
    /// bearer token. Users in the web configuration have this effect, too.
    pub metrics: bool,
    /// Users of the web configuration (`basic_auth_users`) that may read `/api`. The others may
    /// only read `/metrics`.
    pub users: Vec<String>,
    /// Subject alternative names of client certificates that may read `/api`: DNS names, addresses
    /// or URIs. The web configuration says which authority must have signed them.
    pub certificates: Vec<String>,
    /// Bearer tokens whose holders may read `/metrics` and `/api`.
    pub tokens: Vec<Token>,
    /// Bearer tokens of the cluster: the API server says whose they are, and what the holder may get.
    pub kubernetes: TokenReviews,
}

/// A bearer token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Name of the holder, for messages.
    pub name: String,
    /// A file with the token, at least 16 characters. It is read again when it changes. A relative
    /// path starts at the configuration's directory.
    pub file: Option<PathBuf>,
    /// SHA-256 of the token in hexadecimal, in place of `file`. The token must be random (`openssl
    /// rand -hex 32`): whoever knows this value can try short tokens.
    #[schemars(regex(pattern = schema::SHA256))]
    pub sha256: Option<String>,
}

/// How bearer tokens of the cluster are reviewed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenReviews {
    /// Ask the API server about bearer tokens: `TokenReview`, then `SubjectAccessReview` of the verb
    /// `get` on the path `/metrics`, or on `/lpm` and the path (`/lpm/api/v1/flows`). The agent
    /// needs the right to create both kinds.
    pub enabled: bool,
    /// Audiences of which a token must name one. If empty: the API server's own.
    pub audiences: Vec<String>,
}

/// The Unix socket at which the agent serves its API to this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Socket {
    /// `true`, `false`, or `auto`: the agent goes on without the socket if it cannot be made.
    pub enabled: Enabled,
    /// Path of the socket. Its directory is made if it does not exist.
    #[schemars(regex(pattern = "^/"))]
    pub path: PathBuf,
    /// Group whose members may use the socket, by name or number. If absent: root and the agent's
    /// own user only.
    pub group: Option<String>,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            loopback: true,
            metrics: false,
            users: Vec::new(),
            certificates: Vec::new(),
            tokens: Vec::new(),
            kubernetes: TokenReviews::default(),
        }
    }
}

impl Default for Socket {
    fn default() -> Self {
        Self {
            enabled: Enabled::Auto,
            path: SOCKET.into(),
            group: None,
        }
    }
}

impl Auth {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (at, token) in self.tokens.iter().enumerate() {
            let wrong = |remedy| {
                Err(ConfigError::Value {
                    key: "auth.tokens",
                    value: format!("{:?}", token.name),
                    remedy,
                })
            };
            if token.name.is_empty() || token.name.chars().any(char::is_control) {
                return wrong("give each token the name of its holder");
            }
            if self.tokens[..at].iter().any(|one| one.name == token.name) {
                return wrong("give each name once");
            }
            match (&token.file, &token.sha256) {
                (Some(_), None) => {}
                (None, Some(digest)) if is_digest(digest) => {}
                (None, Some(_)) => {
                    return wrong("give sha256 as 64 hexadecimal digits (`sha256sum` prints them)");
                }
                _ => return wrong("give either `file` or `sha256`"),
            }
        }
        Ok(())
    }
}

fn is_digest(text: &str) -> bool {
    text.len() == SHA256 && text.bytes().all(|digit| digit.is_ascii_hexdigit())
}

impl Socket {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !self.path.is_absolute() || self.path.file_name().is_none() {
            return Err(ConfigError::Value {
                key: "socket.path",
                value: self.path.display().to_string(),
                remedy: "give an absolute path, such as /run/lpm/lpm.sock",
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    #[test]
    fn what_cannot_work_is_refused_by_key_and_line() {
        let digest = "0".repeat(64);
        for (text, word) in [
            (
                "auth: {tokens: [{name: a}]}".to_owned(),
                "either `file` or `sha256`",
            ),
            (
                format!("auth: {{tokens: [{{name: a, file: f, sha256: \"{digest}\"}}]}}"),
                "either `file` or `sha256`",
            ),
            (
                "auth: {tokens: [{name: a, sha256: abc}]}".to_owned(),
                "64 hexadecimal",
            ),
            (
                "auth: {tokens: [{name: \"\", file: f}]}".to_owned(),
                "name of its holder",
            ),
            (
                "auth: {tokens: [{name: a, file: f}, {name: a, file: g}]}".to_owned(),
                "each name once",
            ),
            (
                "auth: {tokens: [{name: a, value: secret}]}".to_owned(),
                "value",
            ),
            (
                "socket: {path: lpm.sock}".to_owned(),
                "socket.path is lpm.sock",
            ),
            ("socket: {enabled: maybe}".to_owned(), "true, false or auto"),
        ] {
            let error = Config::parse(&format!("# first\n{text}\n"), Path::new("lpm.yaml"));
            let error = error.expect_err(&text).to_string();
            assert!(error.contains(word) && error.contains("line 2"), "{error}");
        }
    }
}
