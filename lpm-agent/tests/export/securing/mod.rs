//! Who may ask the agent: TLS, passwords, tokens and the Unix socket, with real clients.

mod local;
mod prometheus;
mod tls;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use lpm_testbed::testbed::{Pair, PairConfig};

use crate::support::{
    authority::{Authority, Certificate},
    lpm::{Lpm, lpm},
};

/// The password `right` as bcrypt has it, cost 4 (`htpasswd -nbBC 4 alice right`).
const HASH: &str = "$2y$04$RSiPNFKkwXNqCRrZSSsKh.r5e/cShSaKXavh8VIlIWre7jcjup9sK";

/// An agent that speaks TLS, in a directory with its files.
struct Secured {
    agent: Lpm,
    at: SocketAddr,
    authority: Authority,
    /// A certificate that the agent accepts.
    client: Certificate,
    directory: tempfile::TempDir,
    pair: Pair,
}

impl Secured {
    /// Starts one that wants a client certificate of the name `prometheus.test`, and a password.
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::new(directory.path(), "authority");
        authority.valid("server", "DNS:lpm.test,IP:127.0.0.1");
        let client = authority.valid("client", "DNS:prometheus.test");
        let web = format!(
            "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n  \
             client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: authority.pem\n  \
             client_allowed_sans: [prometheus.test]\n\
             http_server_config: {{headers: {{X-Frame-Options: deny}}}}\n\
             basic_auth_users: {{alice: \"{HASH}\", bob: \"{HASH}\"}}\n"
        );
        fs::write(directory.path().join("web.yaml"), web).expect("write");
        let config = "web_config: web.yaml\nauth: {users: [alice]}\nsocket: {enabled: false}\n";
        let file = directory.path().join("lpm.yaml");
        fs::write(&file, config).expect("write");
        let pair = Pair::new(&PairConfig::default()).expect("a testbed");
        let (agent, at) = start(&pair, &["-c", file.to_str().expect("a path")]);
        Self {
            agent,
            at,
            authority,
            client,
            directory,
            pair,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The URL of a path.
    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.at)
    }
}

/// Starts an agent that speaks TLS; gives it with its address.
fn start(pair: &Pair, arguments: &[&str]) -> (Lpm, SocketAddr) {
    let mut command = lpm();
    command
        .args(["--netns", pair.node.path().to_str().expect("a path")])
        .args(["run", "--listen", "127.0.0.1:0", "-i", Pair::POD_INTERFACE])
        .args(arguments);
    let agent = Lpm::spawn(&pair.node, &mut command);
    agent.wait_for("/metrics\n");
    let said = agent.said();
    let (_, after) = said
        .split_once("metrics at https://")
        .expect("the URL is there");
    let (at, _) = after.split_once('/').expect("an address");
    (agent, at.parse().expect("an address"))
}

/// The arguments of curl for a certificate.
fn with(authority: &Path, client: &Certificate) -> Vec<String> {
    let text = |path: &Path| path.to_str().expect("a path").to_owned();
    vec![
        "--cacert".to_owned(),
        text(authority),
        "--cert".to_owned(),
        text(&client.certificate),
        "--key".to_owned(),
        text(&client.key),
    ]
}
