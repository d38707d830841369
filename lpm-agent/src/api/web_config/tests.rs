use std::process::Command;

use super::*;

fn parse(text: &str) -> Result<WebConfig, WebConfigError> {
    WebConfig::parse(text, Path::new("web.yaml"))
}

/// A certificate and its key in a directory, made by openssl.
fn certificate(directory: &Path) {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args(["-subj", "/CN=lpm"])
        .args([
            "-addext",
            "subjectAltName=DNS:lpm.test,IP:198.18.0.1,URI:spiffe://a/b",
        ])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(directory)
        .output()
        .expect("openssl");
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(made.status.success(), "{said}");
}

/// A file in a directory that has a certificate.
fn with_certificate(text: &str) -> Result<WebConfig, WebConfigError> {
    let directory = tempfile::tempdir().expect("a directory");
    certificate(directory.path());
    let keys = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n";
    let path = directory.path().join("web.yaml");
    fs::write(&path, format!("{keys}{text}")).expect("write");
    WebConfig::read(&path)
}

/// The text of an error, which names this line.
#[track_caller]
fn error_at(result: Result<WebConfig, WebConfigError>, line: u32) -> String {
    let error = result.expect_err("an error").to_string();
    assert!(
        error.contains(&format!("line {line}")),
        "line {line}: {error}"
    );
    error
}

const HASH: &str = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG";

#[test]
fn an_empty_file_asks_for_nothing() {
    for text in [
        "",
        "{}\n",
        "tls_server_config:\nbasic_auth_users:\nhttp_server_config:\nrate_limit:\n",
    ] {
        let web = parse(text).expect(text);
        assert!(
            !web.is_tls() && web.users() == 0 && web.headers.is_empty(),
            "{text}"
        );
        assert_eq!(web.rate_limit, None);
    }
}

#[test]
fn keys_that_do_not_exist_are_refused_by_name_and_line() {
    for (text, key) in [
        ("# first\ntls_config: {}\n", "tls_config"),
        ("tls_server_config:\n  certfile: x\n", "certfile"),
        ("http_server_config:\n  http3: true\n", "http3"),
        ("rate_limit:\n  bursts: 3\n", "bursts"),
        ("# first\nbasic_auth_user: {}\n", "basic_auth_user"),
    ] {
        let error = error_at(parse(text), 2);
        assert!(error.contains(key) && error.contains("web.yaml"), "{error}");
    }
}

#[test]
fn users_need_a_bcrypt_hash_that_can_be_computed() {
    let web = parse(&format!("basic_auth_users:\n  alice: {HASH}\n")).expect("a user");
    assert_eq!(web.users["alice"], HASH);
    assert!(!format!("{web:?}").contains("X0h1"), "{web:?}");
    for (hash, word) in [
        ("geheim".to_owned(), "no bcrypt hash"),
        (HASH.replace("2y", "1"), "no bcrypt hash"),
        (HASH.replace("zou", "z u"), "no bcrypt hash"),
        (HASH.replace("$10$", "$31$"), "the cost"),
        (HASH.replace("$10$", "$03$"), "the cost"),
    ] {
        let error = error_at(
            parse(&format!("basic_auth_users:\n  alice: \"{hash}\"\n")),
            2,
        );
        assert!(
            error.contains("basic_auth_users.alice") && error.contains(word),
            "{error}"
        );
        assert!(!error.contains("geheim"), "{error}");
    }
}

#[test]
fn headers_are_those_of_the_toolkit() {
    let text = "http_server_config:\n  http2: false\n  headers:\n    X-Frame-Options: deny\n    \
                Strict-Transport-Security: max-age=1\n    X-XSS-Protection: \"\"\n";
    let headers = parse(text).expect(text).headers;
    let headers: Vec<_> = (headers.iter())
        .map(|(name, value)| (name.as_str(), value.to_str().expect("text")))
        .collect();
    let expected = [
        ("strict-transport-security", "max-age=1"),
        ("x-frame-options", "deny"),
    ];
    assert_eq!(headers, expected);
    for (text, word) in [
        ("http2: true", "HTTP/1.1 only"),
        ("headers: {Server: x}", "Server: this header cannot be set"),
        ("headers: {X-Frame-Options: allow}", "deny or sameorigin"),
        ("headers: {X-Content-Type-Options: sniff}", "give nosniff"),
        (
            "headers: {Content-Security-Policy: \"a\\nb\"}",
            "printable ASCII",
        ),
    ] {
        let error = error_at(parse(&format!("http_server_config:\n  {text}\n")), 2);
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn rates_are_an_interval_and_a_burst() {
    let limit = |text: &str| parse(&format!("rate_limit:\n{text}\n")).map(|web| web.rate_limit);
    let expected = RateLimit {
        interval: Duration::from_millis(100),
        burst: 20,
    };
    assert_eq!(
        limit("  interval: 100ms\n  burst: 20").expect("it"),
        Some(expected)
    );
    assert_eq!(limit("  interval: 0\n  burst: 20").expect("off"), None);
    assert_eq!(limit("  interval: 0s").expect("off"), None);
    for (text, word) in [
        ("  interval: 1s", "rate_limit.burst"),
        ("  interval: 1s\n  burst: 0", "rate_limit.burst"),
        ("  interval: soon\n  burst: 1", "rate_limit.interval"),
        ("  burst: 20", "no effect"),
    ] {
        let error = error_at(parse(&format!("rate_limit:\n{text}\n")), 2);
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn tls_takes_what_the_toolkit_takes() {
    let text = "  min_version: TLS12\n  max_version: TLS13\n  prefer_server_cipher_suites: false\n  \
                cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256]\n  \
                curve_preferences: [CurveP256, X25519]\n  client_auth_type: VerifyClientCertIfGiven\n  \
                client_ca_file: cert.pem\n";
    let web = with_certificate(text).expect(text);
    let tls = web.tls.as_ref().expect("TLS");
    assert!(!tls.ignore_client_order);
    let suites: Vec<_> = tls
        .crypto_provider()
        .cipher_suites
        .iter()
        .map(rustls::SupportedCipherSuite::suite)
        .collect();
    assert_eq!(suites.len(), 4, "{suites:?}");
    assert_eq!(tls.crypto_provider().kx_groups.len(), 2);
    assert_eq!(web.files().len(), 3);
    assert!(
        with_certificate("  min_version: TLS13\n")
            .expect("it")
            .is_tls()
    );
    let sans = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: cert.pem\n  \
                client_allowed_sans: [prometheus.test, 198.18.0.1, spiffe://a/b]\n";
    assert!(with_certificate(sans).expect("it").is_tls());
}

#[test]
fn what_tls_cannot_have_is_refused_by_line() {
    for (text, word) in [
        ("min_version: TLS11", "min_version: RFC 8996"),
        ("max_version: TLS14", "max_version: give TLS12 or TLS13"),
        (
            "cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]",
            "does not have the suite",
        ),
        (
            "curve_preferences: [CurveP521]",
            "does not have the curve CurveP521",
        ),
        ("client_auth_type: RequireAnyClientCert", "proves nothing"),
        ("client_auth_type: RequestClientCert", "proves nothing"),
        ("client_auth_type: Sometimes", "give NoClientCert"),
        (
            "client_ca_file: cert.pem",
            "no effect without client_auth_type",
        ),
        ("client_ca_file: gone.pem", "cannot read"),
        ("client_allowed_sans: [a]", "needs client_auth_type"),
        ("cert: x", "either this key or tls_server_config.cert_file"),
    ] {
        let error = error_at(with_certificate(&format!("  {text}\n")), 4);
        assert!(error.contains(word), "{text}: {error}");
    }
    let required = "  client_auth_type: RequireAndVerifyClientCert\n";
    let error = with_certificate(required)
        .expect_err("no authority")
        .to_string();
    assert!(error.contains("client_ca_file"), "{error}");
    let mail = format!("{required}  client_ca_file: cert.pem\n  client_allowed_sans: [a@b.test]\n");
    let error = error_at(with_certificate(&mail), 6);
    assert!(error.contains("e-mail"), "{error}");
    let both = "  max_version: TLS12\n  min_version: TLS13\n";
    assert!(error_at(with_certificate(both), 4).contains("below min_version"));
    let only13 = "  max_version: TLS12\n  cipher_suites: [TLS_AES_128_GCM_SHA256]\n";
    let error = with_certificate(only13).expect_err("no suite").to_string();
    assert!(error.contains("do not fit together"), "{error}");
}

#[test]
fn a_certificate_needs_its_own_key() {
    for (text, key) in [
        ("tls_server_config:\n  min_version: TLS13\n", "cert_file"),
        ("tls_server_config:\n  key: x\n", "cert_file"),
        ("tls_server_config:\n  cert: x\n", "key_file"),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains(key), "{error}");
    }
    let garbage = "tls_server_config:\n  cert: x\n  key: y\n";
    assert!(error_at(parse(garbage), 2).contains("no certificate in PEM"));
    let directory = tempfile::tempdir().expect("a directory");
    certificate(directory.path());
    let path = directory.path().join("web.yaml");
    fs::write(
        &path,
        "tls_server_config:\n  cert_file: cert.pem\n  key_file: other.pem\n",
    )
    .expect("write");
    fs::rename(
        directory.path().join("key.pem"),
        directory.path().join("first.pem"),
    )
    .expect("rename");
    fs::rename(
        directory.path().join("cert.pem"),
        directory.path().join("kept.pem"),
    )
    .expect("rename");
    certificate(directory.path());
    fs::rename(
        directory.path().join("first.pem"),
        directory.path().join("other.pem"),
    )
    .expect("rename");
    let error = error_at(WebConfig::read(&path), 3);
    assert!(error.contains("the key that belongs to it"), "{error}");
}

#[test]
fn names_of_certificates_match_by_each_character() {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let directory = tempfile::tempdir().expect("a directory");
    certificate(directory.path());
    let file = directory.path().join("cert.pem");
    let certificate = CertificateDer::from_pem_file(file).expect("a certificate");
    for (name, has) in [
        ("lpm.test", true),
        ("198.18.0.1", true),
        ("spiffe://a/b", true),
        ("lpm", false),
        ("a.lpm.test", false),
        ("*.test", false),
        ("198.18.0.2", false),
        ("spiffe://a/", false),
        ("", false),
    ] {
        assert_eq!(has_name(&certificate, name), has, "{name}");
    }
}
