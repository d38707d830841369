//! The header Host of clients that are trusted for coming from a loopback address.
//!
//! A page in a browser on this machine can make its own name resolve to 127.0.0.1 and then read what
//! the agent answers (DNS rebinding). The browser sends that name as Host.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::http::{HeaderMap, Uri, header, uri::Authority};

/// True if a request names this machine by `localhost` or by a loopback address, with any port.
pub(in crate::api) fn is_this_machine(headers: &HeaderMap, uri: &Uri) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let host = host
        .to_str()
        .ok()
        .and_then(|host| host.parse::<Authority>().ok());
    let Some(host) = host.filter(|host| !host.as_str().contains('@')) else {
        return false;
    };
    is_loopback(host.host()) && uri.host().is_none_or(is_loopback)
}

fn is_loopback(host: &str) -> bool {
    let v6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match v6 {
        Some(v6) => v6
            .parse()
            .is_ok_and(|address: Ipv6Addr| address.is_loopback()),
        None => {
            host.eq_ignore_ascii_case("localhost")
                || host
                    .parse()
                    .is_ok_and(|address: Ipv4Addr| address.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_are_not_this_machine() {
        for (host, is_here) in [
            ("localhost", true),
            ("LOCALHOST:9477", true),
            ("127.0.0.1", true),
            ("127.0.0.1:9477", true),
            ("[::1]", true),
            ("[::1]:9477", true),
            ("127.8.9.1:1", true),
            ("evil.example", false),
            ("evil.example:9477", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.", false),
            ("0.0.0.0:9477", false),
            ("[::]", false),
            ("198.18.0.1:9477", false),
            ("localhost@evil.example", false),
            ("evil.example@localhost", false),
            ("2130706433", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().expect(host));
            let uri = Uri::from_static("/api/v1/flows");
            assert_eq!(is_this_machine(&headers, &uri), is_here, "{host}");
            let other = Uri::from_static("http://evil.example/api/v1/flows");
            assert!(!is_this_machine(&headers, &other), "{host}");
            headers.append(header::HOST, "localhost".parse().expect("a name"));
            assert!(!is_this_machine(&headers, &uri), "two of them: {host}");
        }
        assert!(!is_this_machine(&HeaderMap::new(), &Uri::from_static("/")));
    }
}
