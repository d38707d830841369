//! `/metrics` as HTTP has it: what is asked for, in which form, and what is said of it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use flate2::read::GzDecoder;
use lpm_testbed::testbed::{Pair, PairConfig};

use crate::support::lpm::{Agent, kernel_is_usable};

/// An answer.
struct Answer {
    status: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    /// All values of a header.
    fn header(&self, name: &str) -> String {
        let of = self.headers.iter().filter(|(header, _)| header == name);
        let values: Vec<&str> = of.map(|(_, value)| &**value).collect();
        values.join(", ").to_ascii_lowercase()
    }

    fn is(&self, kind: &str) -> bool {
        self.status.contains(" 200 ") && self.header("content-type").starts_with(kind)
    }
}

/// Asks with these lines, as they are.
fn ask(agent: &Agent, lines: &[&[u8]]) -> Answer {
    let target = agent.url.strip_prefix("http://").expect("a URL");
    let mut stream = TcpStream::connect(target).expect("connect");
    // HTTP 1.0: nothing comes in chunks.
    let mut request = b"GET /metrics HTTP/1.0\r\n".to_vec();
    for line in lines {
        request.extend_from_slice(line);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).expect("write");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("read");
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let (head, body) = answer.split_at(end.expect("a head") + 4);
    let head = String::from_utf8(head.to_vec()).expect("text");
    let mut lines = head.lines();
    let status = lines.next().expect("a status").to_owned();
    let headers = lines.filter_map(|line| line.split_once(": "));
    Answer {
        status,
        headers: headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect(),
        body: body.to_vec(),
    }
}

const TEXT: &str = "text/plain";
const OPEN: &str = "application/openmetrics-text";
const PROTOBUF: &str = "application/vnd.google.protobuf";

#[test]
fn formats_and_forms_are_those_that_were_asked_for() {
    if !kernel_is_usable() {
        return;
    }
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let agent = Agent::start(&pair.node, &["-i", Pair::POD_INTERFACE]);
    let lines: [(&[&[u8]], &str); 9] = [
        (&[], TEXT),
        (&[b"Accept: application/*"], OPEN),
        (
            &[
                b"Accept: text/plain;q=0.5",
                b"Accept: application/openmetrics-text",
            ],
            OPEN,
        ),
        (
            &[b"Accept: text/plain;Q=0.1, application/openmetrics-text;Q=0.2"],
            OPEN,
        ),
        (&[b"Accept: text/plain;q=0, */*"], OPEN),
        (&[b"Accept: application/openmetrics-text;q=0"], TEXT),
        (&[b"Accept: application/openmetrics-text;x=\"\xe4\""], OPEN),
        (
            &[b"Accept: \xff\xfe, application/vnd.google.protobuf"],
            PROTOBUF,
        ),
        (&[b"Accept: application/json"], TEXT),
    ];
    for (lines, kind) in lines {
        let answer = ask(&agent, lines);
        assert!(
            answer.is(kind),
            "{lines:?}: {} {:?}",
            answer.status,
            answer.headers
        );
        let vary = answer.header("vary");
        assert!(vary.contains("accept-encoding"), "{vary}");
        assert!(vary.split(", ").any(|name| name == "accept"), "{vary}");
        assert_eq!(answer.header("content-encoding"), "");
    }
    let refused = ask(&agent, &[b"Accept: */*;q=0"]);
    assert!(refused.status.contains(" 406 "), "{}", refused.status);
    assert!(refused.header("vary").contains("accept"));

    let plain = ask(&agent, &[]).body;
    let packed = ask(&agent, &[b"Accept-Encoding: deflate;q=0.5, GZIP"]);
    assert_eq!(packed.header("content-encoding"), "gzip");
    assert!(packed.is(TEXT) && packed.header("vary").contains("accept-encoding"));
    let mut text = String::new();
    let mut gzip = GzDecoder::new(&*packed.body);
    gzip.read_to_string(&mut text).expect("gzip");
    assert!(text.contains("lpm_build_info"), "{text}");
    println!(
        "{} bytes, {} of them packed",
        plain.len(),
        packed.body.len()
    );
    assert!(packed.body.len() * 3 < plain.len());
    for not in ["gzip;q=0", "gzip;q=0, *", "br", "identity"] {
        let line = format!("Accept-Encoding: {not}");
        let answer = ask(&agent, &[line.as_bytes()]);
        assert_eq!(answer.header("content-encoding"), "", "{not}");
        assert!(answer.is(TEXT), "{not}");
    }
    agent.stop();
}
