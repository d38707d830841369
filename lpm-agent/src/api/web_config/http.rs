//! The sections `http_server_config` and `rate_limit`.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};

use super::{
    RateLimit, WebConfigError,
    file::{HttpKeys, Place, RateKeys, given},
};

/// The headers that may be set, and the values that are permitted. Empty: any value is.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

/// The headers of every response.
pub(super) fn headers(
    keys: &HttpKeys,
    place: Place<'_>,
) -> Result<Vec<(HeaderName, HeaderValue)>, WebConfigError> {
    if let Some(http2) = &keys.http2
        && http2.value
    {
        let reason = "the agent speaks HTTP/1.1 only: give false, or leave the key out";
        return Err(place.wrong(http2, "http_server_config.http2", reason));
    }
    let mut headers = Vec::new();
    for (name, value) in keys.headers.iter().flatten() {
        let key = format!("http_server_config.headers.{name}");
        let known = HEADERS.iter().find(|(known, _)| known == name);
        let Some((known, permitted)) = known else {
            let names = HEADERS.map(|(name, _)| name).join(", ");
            let reason = format!("this header cannot be set; these can: {names}");
            return Err(place.wrong(value, key, reason));
        };
        if given(Some(value)).is_none() {
            continue;
        }
        if !permitted.is_empty() && !permitted.contains(&&*value.value) {
            let reason = format!("give {}", permitted.join(" or "));
            return Err(place.wrong(value, key, reason));
        }
        let Ok(text) = HeaderValue::from_str(&value.value) else {
            return Err(place.wrong(value, key, "a header holds printable ASCII only"));
        };
        headers.push((HeaderName::from_static(lowercase(known)), text));
    }
    Ok(headers)
}

/// A name of [`HEADERS`] as the library wants it.
fn lowercase(name: &str) -> &'static str {
    match name {
        "Content-Security-Policy" => "content-security-policy",
        "Strict-Transport-Security" => "strict-transport-security",
        "X-Content-Type-Options" => "x-content-type-options",
        "X-Frame-Options" => "x-frame-options",
        _ => "x-xss-protection",
    }
}

/// The limit of requests. None: there is none.
pub(super) fn rate_limit(
    keys: &RateKeys,
    place: Place<'_>,
) -> Result<Option<RateLimit>, WebConfigError> {
    let Some(text) = given(keys.interval.as_ref()) else {
        return match &keys.burst {
            Some(burst) => {
                let reason = "it has no effect without rate_limit.interval: give both";
                Err(place.wrong(burst, "rate_limit.burst", reason))
            }
            None => Ok(None),
        };
    };
    let interval = match &*text.value {
        "0" => Duration::ZERO,
        text_of => humantime::parse_duration(text_of).map_err(|error| {
            let reason = format!("{error}; write a duration as 1s or 100ms");
            place.wrong(text, "rate_limit.interval", reason)
        })?,
    };
    if interval.is_zero() {
        return Ok(None);
    }
    match &keys.burst {
        Some(burst) if burst.value > 0 => Ok(Some(RateLimit {
            interval,
            burst: burst.value,
        })),
        _ => {
            let reason = "give rate_limit.burst, 1 or more: with 0 every request is refused";
            Err(place.wrong(text, "rate_limit.interval", reason))
        }
    }
}
