//! The header Authorization.

use std::fmt;

use axum::http::{HeaderMap, header};
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// What a client shows in the header Authorization.
#[derive(PartialEq, Eq)]
pub(in crate::api) enum Credentials {
    /// Nothing.
    None,
    /// A user's name and password (RFC 7617).
    Basic(String, Vec<u8>),
    /// A bearer token (RFC 6750).
    Bearer(String),
    /// Something that is none of these, or more than one.
    Unreadable,
}

impl Credentials {
    /// Reads the header.
    pub(in crate::api) fn of(headers: &HeaderMap) -> Self {
        let mut all = headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = all.next() else {
            return Self::None;
        };
        let scheme_and_rest = value.to_str().ok().and_then(|text| text.split_once(' '));
        let (Some((scheme, rest)), None) = (scheme_and_rest, all.next()) else {
            return Self::Unreadable;
        };
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty() {
            return Self::Bearer(rest.to_owned());
        }
        if scheme.eq_ignore_ascii_case("basic") {
            return basic(rest).unwrap_or(Self::Unreadable);
        }
        Self::Unreadable
    }
}

fn basic(text: &str) -> Option<Credentials> {
    let decoded = STANDARD.decode(text).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let (name, password) = (&decoded[..colon], &decoded[colon + 1..]);
    let name = String::from_utf8(name.to_vec()).ok()?;
    Some(Credentials::Basic(name, password.to_vec()))
}

impl fmt::Debug for Credentials {
    /// Shows no password and no token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Basic(..) => "Basic",
            Self::Bearer(_) => "Bearer",
            Self::Unreadable => "Unreadable",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read() {
        let basic = |name: &str, password: &str| {
            Credentials::Basic(name.to_owned(), password.as_bytes().to_vec())
        };
        for (value, read) in [
            // alice:a:b
            ("Basic YWxpY2U6YTpi", basic("alice", "a:b")),
            ("bAsIc YWxpY2U6", basic("alice", "")),
            ("Bearer abc.def", Credentials::Bearer("abc.def".to_owned())),
            ("bearer  abc ", Credentials::Bearer("abc".to_owned())),
            ("Basic YWxpY2U=", Credentials::Unreadable),
            ("Basic %%%", Credentials::Unreadable),
            ("Basic", Credentials::Unreadable),
            ("Bearer ", Credentials::Unreadable),
            ("Digest x=y", Credentials::Unreadable),
            ("", Credentials::Unreadable),
        ] {
            let mut headers = HeaderMap::new();
            assert_eq!(Credentials::of(&headers), Credentials::None);
            headers.insert(header::AUTHORIZATION, value.parse().expect("a header"));
            assert_eq!(Credentials::of(&headers), read, "{value}");
            headers.append(header::AUTHORIZATION, "Bearer x".parse().expect("a header"));
            assert_eq!(Credentials::of(&headers), Credentials::Unreadable);
        }
        let hidden = format!(
            "{:?} {:?}",
            basic("alice", "geheim"),
            Credentials::Bearer("x".into())
        );
        assert_eq!(hidden, "Basic Bearer");
    }
}
