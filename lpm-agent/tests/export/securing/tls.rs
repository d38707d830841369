//! TLS, client certificates and passwords, as curl and openssl see them.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, ChildStdout, Command, Stdio},
};

use super::{Secured, with};
use crate::support::{
    authority::Authority,
    curl::{Answer, curl},
    lpm::{eventually, kernel_is_usable, value},
};

/// Asks for a path with curl's arguments for a certificate, and with a user's password.
fn ask(secured: &Secured, certificate: &[String], user: Option<&str>, path: &str) -> Answer {
    let mut arguments = certificate.to_vec();
    if let Some(user) = user {
        arguments.extend(["--user".to_owned(), user.to_owned()]);
    }
    arguments.push(secured.url(path));
    curl(&arguments)
}

#[test]
fn a_certificate_of_the_authority_and_a_password_open_the_port() {
    if !kernel_is_usable() {
        return;
    }
    let secured = Secured::start();
    let authority = secured.authority.certificate();
    let good = with(&authority, &secured.client);
    for (user, path, status) in [
        (Some("alice:right"), "/metrics", 200),
        (Some("alice:right"), "/api/v1/flows", 200),
        (Some("bob:right"), "/metrics", 200),
        (Some("bob:right"), "/api/v1/flows", 403),
        (Some("alice:wrong"), "/metrics", 401),
        (Some("mallory:right"), "/metrics", 401),
        (None, "/metrics", 401),
        (None, "/api/v1/flows", 401),
        (None, "/healthz", 200),
    ] {
        let answer = ask(&secured, &good, user, path);
        assert_eq!(answer.status, status, "{user:?} {path}: {answer:?}");
    }
    let mut head = good.clone();
    head.extend(["--head".to_owned(), secured.url("/healthz")]);
    let head = curl(&head).text.to_ascii_lowercase();
    assert!(head.contains("x-frame-options: deny"), "{head}");

    // No certificate, an expired one, one of another name, one of another authority.
    let none = ["--cacert".to_owned(), good[1].clone()];
    let expired = secured
        .authority
        .sign("expired", "DNS:prometheus.test", ("-3", "-1"));
    let early = secured
        .authority
        .sign("early", "DNS:prometheus.test", ("+1", "+2"));
    let unnamed = secured.authority.valid("unnamed", "DNS:grafana.test");
    let foreign = Authority::new(secured.directory.path(), "foreign");
    let foreign = foreign.valid("stranger", "DNS:prometheus.test");
    let refused = [expired, early, unnamed, foreign].map(|one| with(&authority, &one));
    for certificate in refused.iter().map(Vec::as_slice).chain([&none[..]]) {
        let answer = ask(&secured, certificate, Some("alice:right"), "/metrics");
        assert_eq!(answer.status, 0, "{certificate:?}: {answer:?}");
        assert!(answer.said.contains("alert"), "{answer:?}");
    }
    // Plain HTTP, and a version that is too old.
    let plain = curl(&[secured.url("/healthz").replace("https", "http")]);
    assert_eq!(plain.status, 0, "{plain:?}");
    let mut old = good.clone();
    old.extend(["--tls-max".to_owned(), "1.1".to_owned()]);
    assert_eq!(ask(&secured, &old, None, "/healthz").status, 0);

    // A page is shared for a second, so that of before may come once more.
    eventually("the refusals are counted", || {
        let metrics = ask(&secured, &good, Some("alice:right"), "/metrics").text;
        let refusals = |reason: &str| {
            let series = format!("lpm_http_refused_total{{reason=\"{reason}\"}}");
            value(&metrics, &series).map(|count| count.to_string())
        };
        refusals("unauthorized").as_deref() == Some("4")
            && refusals("forbidden").as_deref() == Some("1")
            && refusals("tls").is_some_and(|count| count != "0")
    });
}

/// A connection that stays open.
struct Kept {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Kept {
    fn open(secured: &Secured) -> Self {
        let mut command = Command::new("openssl");
        command
            .args(["s_client", "-quiet", "-connect", &secured.at.to_string()])
            .arg("-cert")
            .arg(&secured.client.certificate)
            .arg("-key")
            .arg(&secured.client.key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("openssl");
        let answers = BufReader::new(child.stdout.take().expect("stdout"));
        Self { child, answers }
    }

    /// Whether `/healthz` answers on it.
    fn is_healthy(&mut self) -> bool {
        let request = b"GET /healthz HTTP/1.1\r\nhost: lpm.test\r\n\r\n";
        let stdin = self.child.stdin.as_mut().expect("stdin");
        stdin.write_all(request).expect("write");
        let mut status = String::new();
        self.answers.read_line(&mut status).expect("a status");
        let mut line = String::new();
        while self.answers.read_line(&mut line).expect("a header") > 2 {
            line.clear();
        }
        let mut body = [0; 3];
        self.answers.read_exact(&mut body).expect("a body");
        status.contains(" 200 ") && body == *b"ok\n"
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn new_certificates_are_taken_and_connections_stay() {
    if !kernel_is_usable() {
        return;
    }
    let secured = Secured::start();
    let old = with(&secured.authority.certificate(), &secured.client);
    let mut kept = Kept::open(&secured);
    assert!(kept.is_healthy());

    // A key that does not belong to the certificate changes nothing.
    let key = fs::read(secured.path("server.key")).expect("a key");
    fs::copy(&secured.client.key, secured.path("server.key")).expect("copy");
    secured
        .agent
        .wait_for("stay as they were: web configuration");
    assert_eq!(ask(&secured, &old, None, "/healthz").status, 200);
    fs::write(secured.path("server.key"), key).expect("write");
    secured.agent.wait_for("the tokens are read again");

    // Another authority for both sides.
    let other = Authority::new(secured.directory.path(), "other");
    let server = other.valid("next", "IP:127.0.0.1");
    let client = other.valid("next-client", "DNS:prometheus.test");
    fs::copy(&server.key, secured.path("server.key")).expect("copy");
    fs::copy(&server.certificate, secured.path("server.pem")).expect("copy");
    fs::copy(other.certificate(), secured.path("authority.pem")).expect("copy");
    let new = with(&other.certificate(), &client);
    eventually("the new certificates are in force", || {
        ask(&secured, &new, Some("alice:right"), "/metrics").status == 200
    });
    // The old client trusts the new server, and is not trusted.
    let mut old = old;
    old[1].clone_from(&new[1]);
    assert_eq!(ask(&secured, &old, None, "/healthz").status, 0);
    assert!(kept.is_healthy(), "the connection of before goes on");
}
