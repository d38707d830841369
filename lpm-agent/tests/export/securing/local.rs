//! Local clients: the Unix socket, loopback addresses, and the commands.

use std::{fs, os::unix::fs::PermissionsExt as _};

use lpm_testbed::testbed::{Pair, PairConfig};

use crate::support::{
    curl::{curl, curl_as},
    lpm::{Agent, fails, kernel_is_usable, lpm, succeeds},
};

/// `nobody`, and a group of nobody else.
const NOBODY: &str = "65534";
const GROUP: &str = "54321";

#[test]
fn another_user_is_refused_at_the_socket() {
    if !kernel_is_usable() {
        return;
    }
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("lpm.yaml");
    fs::write(&config, format!("socket: {{group: \"{GROUP}\"}}\n")).expect("write");
    let config = config.to_str().expect("a path");
    let agent = Agent::start(&pair.node, &["-c", config, "-i", Pair::POD_INTERFACE]);
    let socket = agent.socket.to_str().expect("a path").to_owned();
    let socket = socket.as_str();
    let parent = agent.socket.parent().expect("a directory");
    fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).expect("chmod");
    let arguments = ["--unix-socket", socket, "http://localhost/api/v1/flows"];
    assert_eq!(curl(&arguments).status, 200);
    // By the socket's mode.
    let mode = fs::metadata(socket).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let answer = curl_as(NOBODY, &["--clear-groups"], &arguments);
    assert_eq!(answer.status, 0, "{answer:?}");
    assert!(answer.said.contains("ouldn't connect"), "{answer:?}");
    assert_eq!(
        curl_as(NOBODY, &["--groups", GROUP], &arguments).status,
        200
    );
    // By the credentials, where the mode lets everybody in.
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).expect("chmod");
    let answer = curl_as(NOBODY, &["--clear-groups"], &arguments);
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.text.contains("socket.group"), "{answer:?}");
    assert_eq!(
        curl_as(NOBODY, &["--groups", GROUP], &arguments).status,
        200
    );
    agent.stop();
    assert!(
        !fs::exists(socket).expect("a look"),
        "it goes with the agent"
    );
}

#[test]
fn the_commands_ask_at_the_socket() {
    if !kernel_is_usable() {
        return;
    }
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("lpm.yaml");
    fs::write(&config, "auth: {loopback: false}\n").expect("write");
    let config = config.to_str().expect("a path");
    let agent = Agent::start(&pair.node, &["-c", config, "-i", Pair::POD_INTERFACE]);
    let address = format!("unix:{}", agent.socket.display());
    let top = ["top", "--once", "--tab", "links", "--seconds", "0.2"];
    let shown = succeeds(lpm().args(top).args(["--agent", &address]));
    assert!(shown.contains(Pair::POD_INTERFACE), "{shown}");
    let shown = succeeds(lpm().args(top).env("LPM_AGENT", &address));
    assert!(shown.contains(Pair::POD_INTERFACE), "{shown}");
    succeeds(lpm().args(["watch", "--seconds", "1.5", "--agent", &address]));
    // Loopback clients get nothing here.
    let said = fails(lpm().args(top).args(["--agent", &agent.url]));
    assert!(said.contains("403"), "{said}");
    agent.stop();
    let said = fails(lpm().args(top).args(["--agent", &address]));
    assert!(
        said.contains(&address) && said.contains("lpm run"),
        "{said}"
    );
}

#[test]
fn a_page_that_resolves_to_this_machine_reads_nothing() {
    if !kernel_is_usable() {
        return;
    }
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let agent = Agent::start(&pair.node, &["-i", Pair::POD_INTERFACE]);
    let flows = format!("{}/api/v1/flows", agent.url);
    for (host, status) in [
        ("localhost", 200),
        ("127.0.0.1:9477", 200),
        ("[::1]:9477", 200),
        ("evil.example", 421),
        ("evil.example:9477", 421),
        ("", 421),
    ] {
        let header = if host.is_empty() {
            // curl leaves it out then.
            "Host:".to_owned()
        } else {
            format!("Host: {host}")
        };
        let answer = curl(&["-H", &header, &*flows]);
        // HTTP/1.1 without Host is no request at all (RFC 9112, section 3.2).
        let is_refused = answer.status == status || (host.is_empty() && answer.status == 400);
        assert!(is_refused, "{host}: {answer:?}");
        let metrics = curl(&[
            "-H",
            "Host: evil.example",
            &*format!("{}/metrics", agent.url),
        ]);
        assert_eq!(metrics.status, 200, "the metrics show no address");
    }
    agent.stop();
}
