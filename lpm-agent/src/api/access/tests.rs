use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

use axum::http::{Request as HttpRequest, header, request::Parts};

use super::*;
use crate::config::Token;

/// The password is `right`.
const PASSWORD: &str = "Basic YWxpY2U6cmlnaHQ=";
const OTHER_USER: &str = "Basic Ym9iOnJpZ2h0";
const WRONG: &str = "Basic YWxpY2U6d3Jvbmc=";
const TOKEN: &str = "Bearer 0123456789abcdef";

/// Decides by a configuration with this section `auth`, and with users if so.
struct Scene {
    access: Access,
    directory: tempfile::TempDir,
}

impl Scene {
    fn new(change: impl FnOnce(&mut Auth), has_users: bool) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = Config::default();
        change(&mut config.auth);
        let token = directory.path().join("token");
        fs::write(&token, "0123456789abcdef\n").expect("write");
        for one in &mut config.auth.tokens {
            one.file = Some(token.clone());
        }
        if has_users {
            let hash = bcrypt::hash_with_salt("right", 4, [7; 16]).expect("a hash");
            let web = directory.path().join("web.yaml");
            let users = format!("basic_auth_users: {{alice: \"{hash}\", bob: \"{hash}\"}}\n");
            fs::write(&web, users).expect("write");
            config.web_config = Some(web);
        }
        let nodes = Arc::<NamePublisher>::default();
        nodes.admit([IpAddr::from([198, 19, 0, 2])].into());
        let access = tokio::runtime::Runtime::new().expect("a runtime");
        let access = access.block_on(Access::new(&config, Arc::default()));
        Self {
            access: access.expect("access").with_nodes(nodes),
            directory,
        }
    }

    fn ask(&self, client: &str, path: &str, headers: &[(&str, &str)]) -> Result<Means, u16> {
        let peer = Peer::Tcp(SocketAddr::new(client.parse().expect(client), 1));
        self.ask_as(peer, &Evidence::default(), path, headers)
    }

    fn ask_as(
        &self,
        peer: Peer,
        evidence: &Evidence,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Means, u16> {
        let in_force = self.access.in_force();
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let parts = parts(path, headers);
        let admitted = self.access.admit(&in_force, peer, evidence, &parts);
        let admitted = runtime.block_on(admitted);
        admitted
            .map(|who| who.means)
            .map_err(|refusal| refusal.into_response().status().as_u16())
    }
}

fn parts(path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = HttpRequest::get(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header(header::HOST, "127.0.0.1:9477");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request").into_parts().0
}

const FLOWS: &str = "/api/v1/flows";
const HERE: &str = "127.0.0.1";
const NODE: &str = "198.19.0.2";
const STRANGER: &str = "198.19.0.3";

#[test]
fn strangers_may_read_metrics_and_nodes_names() {
    let scene = Scene::new(|_| {}, false);
    for path in ["/healthz", "/readyz", "/metrics"] {
        for client in [HERE, NODE, STRANGER] {
            assert_eq!(
                scene.ask(client, path, &[]),
                Ok(Means::Nothing),
                "{client} {path}"
            );
        }
    }
    for (client, read, names) in [
        (HERE, Ok(Means::Loopback), Ok(Means::Loopback)),
        ("::1", Ok(Means::Loopback), Ok(Means::Loopback)),
        ("::ffff:127.0.0.1", Ok(Means::Loopback), Ok(Means::Loopback)),
        (NODE, Err(403), Ok(Means::Node)),
        ("::ffff:198.19.0.2", Err(403), Ok(Means::Node)),
        (STRANGER, Err(403), Err(403)),
    ] {
        assert_eq!(scene.ask(client, FLOWS, &[]), read, "{client}");
        assert_eq!(scene.ask(client, PATH, &[]), names, "{client}");
        // What does not exist gives nothing away.
        assert_eq!(scene.ask(client, "/%6detrics", &[]), read, "{client}");
    }
}

/// A web page whose name was made to resolve to 127.0.0.1 reads nothing.
#[test]
fn a_loopback_client_must_ask_for_this_machine() {
    let scene = Scene::new(|_| {}, false);
    let evil = [("host", "evil.example:9477")];
    for path in [FLOWS, PATH, "/"] {
        assert_eq!(scene.ask(HERE, path, &evil), Err(421), "{path}");
    }
    assert_eq!(scene.ask(HERE, "/metrics", &evil), Ok(Means::Nothing));
    let scene = Scene::new(|auth| auth.loopback = false, false);
    assert_eq!(scene.ask(HERE, FLOWS, &[]), Err(403));
}

#[test]
fn users_need_their_password_everywhere_but_for_health() {
    let scene = Scene::new(|auth| auth.users = vec!["alice".to_owned()], true);
    let by = |value| [("authorization", value)];
    for client in [HERE, STRANGER] {
        assert_eq!(scene.ask(client, "/healthz", &[]), Ok(Means::Nothing));
        for path in ["/metrics", FLOWS] {
            assert_eq!(scene.ask(client, path, &[]), Err(401), "{client} {path}");
            assert_eq!(
                scene.ask(client, path, &by(WRONG)),
                Err(401),
                "{client} {path}"
            );
            assert_eq!(
                scene.ask(client, path, &by(TOKEN)),
                Err(401),
                "{client} {path}"
            );
            let right = scene.ask(client, path, &by(PASSWORD));
            assert_eq!(right, Ok(Means::Password), "{client} {path}");
        }
        assert_eq!(
            scene.ask(client, "/metrics", &by(OTHER_USER)),
            Ok(Means::Password)
        );
        assert_eq!(scene.ask(client, FLOWS, &by(OTHER_USER)), Err(403));
    }
    // Agents have no password.
    assert_eq!(scene.ask(NODE, PATH, &[]), Ok(Means::Node));
}

#[test]
fn tokens_open_what_is_closed() {
    let token = Token {
        name: "ci".to_owned(),
        ..Token::default()
    };
    let scene = Scene::new(
        |auth| {
            auth.tokens = vec![token];
            auth.metrics = true;
        },
        false,
    );
    let by = |value| [("authorization", value)];
    for path in ["/metrics", FLOWS, PATH] {
        assert_eq!(
            scene.ask(STRANGER, path, &by(TOKEN)),
            Ok(Means::Token),
            "{path}"
        );
        assert_eq!(
            scene.ask(STRANGER, path, &by("Bearer 0123456789abcdeF")),
            Err(401),
            "{path}"
        );
        assert_eq!(scene.ask(STRANGER, path, &[]), Err(401), "{path}");
        // A page that was made to resolve to this machine has no token.
        let evil = [("host", "evil.example"), ("authorization", TOKEN)];
        assert_eq!(scene.ask(HERE, path, &evil), Ok(Means::Token), "{path}");
    }
    assert_eq!(scene.ask(HERE, "/metrics", &[]), Err(401));
    assert_eq!(scene.ask(HERE, FLOWS, &[]), Ok(Means::Loopback));
}

#[test]
fn credentials_that_nobody_asks_for_are_not_looked_at() {
    let scene = Scene::new(|_| {}, false);
    for value in [WRONG, "Bearer x", "nonsense"] {
        let headers = [("authorization", value)];
        assert_eq!(
            scene.ask(STRANGER, "/metrics", &headers),
            Ok(Means::Nothing)
        );
        assert_eq!(scene.ask(HERE, FLOWS, &headers), Ok(Means::Loopback));
        assert_eq!(scene.ask(STRANGER, FLOWS, &headers), Err(403));
    }
}

#[test]
fn of_the_sockets_clients_root_the_own_user_and_the_group_may_ask() {
    let scene = Scene::new(|_| {}, true);
    let own = getuid().as_raw();
    let stranger = if own == 12_345 { 12_346 } else { 12_345 };
    for (uid, is_member, answer) in [
        (0, false, Ok(Means::Unix)),
        (own, false, Ok(Means::Unix)),
        (stranger, true, Ok(Means::Unix)),
        (stranger, false, Err(403)),
    ] {
        let peer = Peer::Unix {
            uid,
            gid: 0,
            pid: None,
        };
        let evidence = Evidence {
            certificate: None,
            is_member,
        };
        for path in [FLOWS, "/metrics"] {
            let evil = [("host", "evil.example")];
            let said = scene.ask_as(peer, &evidence, path, &evil);
            assert_eq!(said, answer, "{uid} {is_member} {path}");
        }
        assert_eq!(
            scene.ask_as(peer, &evidence, "/healthz", &[]),
            Ok(Means::Nothing)
        );
    }
}

#[test]
fn files_that_cannot_be_used_leave_what_was_in_force() {
    let scene = Scene::new(|_| {}, true);
    let by = [("authorization", PASSWORD)];
    let web = scene.access.web_config.clone().expect("a file");
    let good = fs::read_to_string(&web).expect("it");
    let is_right = || scene.ask(STRANGER, "/metrics", &by) == Ok(Means::Password);
    fs::write(&web, "basic_auth_users: {alice: geheim}\n").expect("write");
    scene.access.reload();
    assert!(lock(&scene.access.failed).is_some() && is_right());
    fs::write(&web, good.replace("alice", "carol")).expect("write");
    scene.access.reload();
    assert!(lock(&scene.access.failed).is_none() && !is_right());
    fs::write(&web, &good).expect("write");
    scene.access.reload();
    assert!(is_right());
    // A file that is gone opens nothing.
    fs::remove_file(&web).expect("delete");
    scene.access.reload();
    assert_eq!(scene.ask(STRANGER, "/metrics", &[]), Err(401));
}

#[test]
fn more_requests_than_permitted_are_refused_and_health_is_not() {
    let scene = Scene::new(|_| {}, false);
    let web = scene.directory.path().join("rate.yaml");
    fs::write(&web, "rate_limit: {interval: 1h, burst: 2}\n").expect("write");
    let config = Config {
        web_config: Some(web),
        ..Config::default()
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let access = runtime.block_on(Access::new(&config, Arc::default()));
    let scene = Scene {
        access: access.expect("access"),
        ..scene
    };
    for status in [Ok(Means::Nothing), Ok(Means::Nothing), Err(429), Err(429)] {
        assert_eq!(scene.ask(STRANGER, "/metrics", &[]), status);
    }
    assert_eq!(scene.ask(STRANGER, "/healthz", &[]), Ok(Means::Nothing));
}

#[test]
fn agents_that_ask_each_other_have_no_tls() {
    let directory = tempfile::tempdir().expect("a directory");
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args(["-subj", "/CN=lpm", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(directory.path())
        .output();
    assert!(made.expect("openssl").status.success());
    let web = directory.path().join("web.yaml");
    let keys = "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n";
    fs::write(&web, keys).expect("write");
    let mut config = Config {
        web_config: Some(web),
        ..Config::default()
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut new = |scope| {
        config.identity.kubernetes.scope = scope;
        runtime.block_on(Access::new(&config, Arc::default()))
    };
    assert!(new(Scope::Cluster).expect("access").tls().is_some());
    assert!(matches!(new(Scope::Node), Err(AccessError::NodeScope)));
}
