//! A real Prometheus scrapes by TLS, with a client certificate and a password.

use std::process::Command;

use super::Secured;
use crate::support::{
    lpm::{eventually, kernel_is_usable},
    prom::{self, tool},
};

/// Whether a Prometheus that has this password reads the metrics.
fn reads(prometheus: Command, secured: &Secured, password: &str) -> bool {
    let (authority, client) = (secured.authority.certificate(), &secured.client);
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: lpm\n  scheme: https\n  \
         basic_auth: {{username: alice, password: {password}}}\n  tls_config:\n    \
         ca_file: {}\n    cert_file: {}\n    key_file: {}\n  \
         static_configs: [{{targets: [\"{}\"]}}]\n",
        authority.display(),
        client.certificate.display(),
        client.key.display(),
        secured.at,
    );
    let directory = tempfile::tempdir().expect("a directory");
    let (_prometheus, address) = prom::start(
        &secured.pair.server,
        prometheus,
        directory.path(),
        &config,
        &[],
    );
    let mut up: Option<f64> = None;
    eventually("a scrape", || {
        let results = prom::ask(&address, "up{job=\"lpm\"}").unwrap_or_default();
        up = results.first().and_then(prom::value);
        up.is_some()
    });
    let found = prom::ask(&address, "lpm_build_info").unwrap_or_default();
    assert_eq!(found.is_empty(), up == Some(0.0), "{found:?}");
    up == Some(1.0)
}

#[test]
fn prometheus_scrapes_by_tls_with_certificate_and_password() {
    for (password, is_read) in [("right", true), ("wrong", false)] {
        if let (true, Some(prometheus)) = (kernel_is_usable(), tool("prometheus")) {
            let secured = Secured::start();
            assert_eq!(reads(prometheus, &secured, password), is_read, "{password}");
        }
    }
}
