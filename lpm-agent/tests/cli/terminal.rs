//! Text from strangers on the way to a terminal: an agent's names, and what processes call
//! themselves.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
};

use serde_json::{Value, json};

use crate::support::lpm::{fails, lpm, succeeds};

/// A title of the window, a colour by C1, an override of the direction, a line of its own.
const HOSTILE: &str = "\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}\r";

/// Starts an agent that answers each path with a body. Returns its URL.
fn agent(answer: fn(&str) -> String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 2048];
            let length = client.read(&mut request).unwrap_or_default();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let body = answer(request.split(' ').nth(1).unwrap_or_default());
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n";
            // The client may have gone.
            let _ = write!(client, "{head}content-length: {}\r\n\r\n{body}", body.len());
        }
    });
    url
}

fn end(name: &str) -> Value {
    json!({"address": "198.18.0.1", "port": 80, "name": {"kind": "pod", "namespace": name},
        "holder": {"process": name}})
}

/// The lists of an agent whose names are hostile, or very long.
fn lists(path: &str) -> String {
    let long = "x".repeat(70_000);
    let both = json!({"from_local": 1, "to_local": 1});
    let items = match path {
        path if path.contains("flows") => {
            let flow = |name: &str| {
                json!({"id": "1", "interface": HOSTILE, "vantage": "pod", "local": end(name),
                    "remote": end(name), "first_seen": "", "last_seen": "", "idle_ms": 0,
                    "active": true, "closed": false, "opened": true, "packets": both, "bytes": both,
                    "rtt_ns": {"remote": {"samples": 0}, "local": {"samples": 0}}})
            };
            json!([flow(HOSTILE), flow(&long)])
        }
        path if path.contains("latency") => {
            let row = |name: &str| {
                json!({"namespace": name, "peer_namespace": name, "peer_kind": "pod",
                    "leg": "remote", "echo": "prompt", "count": 1, "mean_ns": 1, "p50_ns": 1,
                    "p90_ns": 1, "p99_ns": 1})
            };
            json!([row(HOSTILE), row(&long)])
        }
        _ => json!([]),
    };
    json!({"schema": 1, "items": items}).to_string()
}

/// Fails if a terminal would obey something in a text.
#[track_caller]
fn is_plain(text: &str) {
    let bad = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
    let shown: String = text.chars().take(2000).collect();
    assert!(!text.contains(bad), "{shown:?}");
}

/// Fails if JSON, which is for programs, has a control character that it must escape (RFC 8259,
/// section 7).
#[track_caller]
fn escapes(json: &str) {
    let bad = |c: char| c.is_ascii_control() && c != '\n' && c != '\u{7f}';
    assert!(!json.contains(bad), "{} bytes", json.len());
}

#[test]
fn top_shows_names_of_any_length_and_obeys_none() {
    let url = agent(lists);
    for tab in ["flows", "namespaces", "links"] {
        let top = [
            "top",
            "--agent",
            &url,
            "--once",
            "--seconds",
            "0.2",
            "--tab",
            tab,
        ];
        let table = succeeds(lpm().args(top));
        is_plain(&table);
        if tab != "links" {
            assert!(table.contains("]0;owned") && table.contains("xxx"), "{tab}");
            assert!(table.len() < 100_000, "{} bytes of {tab}", table.len());
        }
    }
    let top = [
        "top",
        "--agent",
        &url,
        "--once",
        "--seconds",
        "0.2",
        "--format",
        "json",
    ];
    escapes(&succeeds(lpm().args(top)));
}

/// A stream with one sample.
fn stream(_: &str) -> String {
    let name = json!({"kind": "pod", "namespace": HOSTILE});
    let sample = json!({"schema": 1, "time": "2026-01-02T03:04:05Z", "interface": HOSTILE,
        "vantage": "pod", "src": "198.18.0.1", "sport": 1, "dst": "198.18.0.2", "dport": 2,
        "rtt_ns": 1000, "leg": "remote", "echo": "prompt", "method": "ts", "id": 1,
        "src_name": name, "dst_name": name});
    format!("{sample}\n")
}

#[test]
fn watch_obeys_no_name() {
    let url = agent(stream);
    let line = succeeds(lpm().args(["watch", "--agent", &url, "--count", "1"]));
    is_plain(&line);
    assert!(line.contains("]0;owned"), "{line}");
    let json = ["watch", "--agent", &url, "--count", "1", "--format", "json"];
    escapes(&succeeds(lpm().args(json)));
    // What is no sample is shown in the error.
    let url = agent(|_| format!("{HOSTILE}\n"));
    is_plain(&fails(
        lpm().args(["watch", "--agent", &url, "--count", "1"]),
    ));
}
