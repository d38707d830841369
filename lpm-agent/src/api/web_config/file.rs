//! The keys of a web configuration file as they are written.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::WebConfigError;

/// A text with its line.
pub(super) type Text = Spanned<String>;

/// The sections of the file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) tls_server_config: Option<TlsKeys>,
    pub(super) http_server_config: Option<HttpKeys>,
    pub(super) basic_auth_users: Option<BTreeMap<String, Text>>,
    pub(super) rate_limit: Option<RateKeys>,
}

/// The section `tls_server_config`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TlsKeys {
    pub(super) cert: Option<Text>,
    pub(super) key: Option<Text>,
    pub(super) client_ca: Option<Text>,
    pub(super) cert_file: Option<Text>,
    pub(super) key_file: Option<Text>,
    pub(super) client_ca_file: Option<Text>,
    pub(super) client_auth_type: Option<Text>,
    pub(super) client_allowed_sans: Option<Vec<Text>>,
    pub(super) cipher_suites: Option<Vec<Text>>,
    pub(super) prefer_server_cipher_suites: Option<bool>,
    pub(super) curve_preferences: Option<Vec<Text>>,
    pub(super) min_version: Option<Text>,
    pub(super) max_version: Option<Text>,
}

/// The section `http_server_config`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HttpKeys {
    pub(super) http2: Option<Spanned<bool>>,
    pub(super) headers: Option<BTreeMap<String, Text>>,
}

/// The section `rate_limit`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RateKeys {
    pub(super) interval: Option<Text>,
    pub(super) burst: Option<Spanned<u32>>,
}

/// The file that errors and relative paths refer to.
#[derive(Clone, Copy)]
pub(super) struct Place<'a>(pub(super) &'a Path);

impl Place<'_> {
    /// The error of a value.
    pub(super) fn wrong<T>(
        self,
        at: &Spanned<T>,
        key: impl Into<String>,
        reason: impl Into<String>,
    ) -> WebConfigError {
        WebConfigError::Value {
            path: self.0.to_owned(),
            line: at.referenced.line(),
            key: key.into(),
            reason: reason.into(),
        }
    }

    /// The error of a key that is not there.
    pub(super) fn missing(self, key: &'static str, reason: &'static str) -> WebConfigError {
        WebConfigError::Missing {
            path: self.0.to_owned(),
            key,
            reason,
        }
    }

    /// A path in the file, which starts at the file's directory.
    pub(super) fn join(self, path: &str) -> PathBuf {
        self.0.parent().unwrap_or(Path::new("")).join(path)
    }
}

/// The text, unless it is absent or empty. The exporter toolkit takes an empty value as absent.
pub(super) fn given(text: Option<&Text>) -> Option<&Text> {
    text.filter(|text| !text.value.is_empty())
}
