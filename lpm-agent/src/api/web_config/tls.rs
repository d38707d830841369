//! The section `tls_server_config`.

use std::{fs, path::PathBuf, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::{
    WebConfigError,
    file::{Place, Text, TlsKeys, given},
    suites,
    verifier::{NamedOnly, is_mail},
};

/// A PEM text, where it comes from, and the file, if it is in one.
struct Pem<'a> {
    text: Vec<u8>,
    at: &'a Text,
    key: &'static str,
}

/// Settings of TLS, and the files that they come from. None: the section asks for nothing.
pub(super) fn settings(
    keys: &TlsKeys,
    place: Place<'_>,
) -> Result<(Option<Arc<ServerConfig>>, Vec<PathBuf>), WebConfigError> {
    let mut files = Vec::new();
    let mut pem = |key, inline, file_key, file| pem(key, inline, file_key, file, place, &mut files);
    let certificate = pem(
        "tls_server_config.cert",
        keys.cert.as_ref(),
        "tls_server_config.cert_file",
        keys.cert_file.as_ref(),
    )?;
    let key = pem(
        "tls_server_config.key",
        keys.key.as_ref(),
        "tls_server_config.key_file",
        keys.key_file.as_ref(),
    )?;
    let authority = pem(
        "tls_server_config.client_ca",
        keys.client_ca.as_ref(),
        "tls_server_config.client_ca_file",
        keys.client_ca_file.as_ref(),
    )?;
    let (certificate, key) = match (certificate, key) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) if asks_for_nothing(keys) => return Ok((None, files)),
        (None, _) => {
            let reason = "TLS needs a certificate: give this key or `cert`";
            return Err(place.missing("tls_server_config.cert_file", reason));
        }
        (_, None) => {
            let reason = "TLS needs the certificate's key: give this key or `key`";
            return Err(place.missing("tls_server_config.key_file", reason));
        }
    };
    let provider = Arc::new(suites::provider(keys, place)?);
    let versions = suites::versions(keys, place)?;
    let verifier = verifier(keys, authority, &provider, place)?;
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(|error| {
            let reason = format!("suites, curves and versions do not fit together: {error}");
            place.wrong(certificate.at, "tls_server_config", reason)
        })?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let chain = certificates(&certificate, place)?;
    let secret = PrivateKeyDer::from_pem_slice(&key.text)
        .map_err(|error| place.wrong(key.at, key.key, format!("no private key in PEM: {error}")))?;
    let mut config = builder.with_single_cert(chain, secret).map_err(|error| {
        let reason = format!("{error}; give a certificate and the key that belongs to it");
        place.wrong(key.at, key.key, reason)
    })?;
    config.ignore_client_order = keys.prefer_server_cipher_suites.unwrap_or(true);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would not be checked again: its certificate may have expired meanwhile, or
    // another authority may be in force.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((Some(Arc::new(config)), files))
}

/// True if no key of the section has a value that would be lost without a certificate.
fn asks_for_nothing(keys: &TlsKeys) -> bool {
    let texts = [
        &keys.client_ca,
        &keys.client_ca_file,
        &keys.client_auth_type,
        &keys.min_version,
        &keys.max_version,
    ];
    let lists = [
        &keys.client_allowed_sans,
        &keys.cipher_suites,
        &keys.curve_preferences,
    ];
    texts.iter().all(|text| given(text.as_ref()).is_none())
        && lists
            .iter()
            .all(|list| list.as_ref().is_none_or(Vec::is_empty))
        && keys.prefer_server_cipher_suites.is_none()
}

/// A PEM text that is in the file itself, or in a file that it names.
fn pem<'a>(
    key: &'static str,
    inline: Option<&'a Text>,
    file_key: &'static str,
    file: Option<&'a Text>,
    place: Place<'_>,
    files: &mut Vec<PathBuf>,
) -> Result<Option<Pem<'a>>, WebConfigError> {
    match (given(inline), given(file)) {
        (None, None) => Ok(None),
        (Some(at), Some(_)) => {
            Err(place.wrong(at, key, format!("give either this key or {file_key}")))
        }
        (Some(at), None) => Ok(Some(Pem {
            text: at.value.clone().into_bytes(),
            at,
            key,
        })),
        (None, Some(at)) => {
            let path = place.join(&at.value);
            let text = fs::read(&path).map_err(|error| {
                let reason = format!("cannot read {}: {error}", path.display());
                place.wrong(at, file_key, reason)
            })?;
            files.push(path);
            Ok(Some(Pem {
                text,
                at,
                key: file_key,
            }))
        }
    }
}

/// The certificates of a PEM text.
fn certificates(
    pem: &Pem<'_>,
    place: Place<'_>,
) -> Result<Vec<CertificateDer<'static>>, WebConfigError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem.text).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(place.wrong(pem.at, pem.key, "there is no certificate in PEM")),
        Err(error) => Err(place.wrong(pem.at, pem.key, format!("no certificates in PEM: {error}"))),
    }
}

/// Whether clients must have a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    /// Clients are not asked for any.
    NotAsked,
    /// A client may come without one, and one that is shown is verified.
    IfGiven,
    /// A client without a valid one is refused.
    Required,
}

/// Reads `client_auth_type`.
fn policy(keys: &TlsKeys, place: Place<'_>) -> Result<Policy, WebConfigError> {
    let Some(text) = given(keys.client_auth_type.as_ref()) else {
        return Ok(Policy::NotAsked);
    };
    let reason = match &*text.value {
        "NoClientCert" => return Ok(Policy::NotAsked),
        "VerifyClientCertIfGiven" => return Ok(Policy::IfGiven),
        "RequireAndVerifyClientCert" => return Ok(Policy::Required),
        "RequestClientCert" | "RequireAnyClientCert" | "RequireClientCert" => {
            "a certificate that nobody verifies proves nothing: give RequireAndVerifyClientCert"
        }
        _ => "give NoClientCert, VerifyClientCertIfGiven or RequireAndVerifyClientCert",
    };
    Err(place.wrong(text, "tls_server_config.client_auth_type", reason))
}

/// The verifier of client certificates. None: clients are not asked for any.
fn verifier(
    keys: &TlsKeys,
    authority: Option<Pem<'_>>,
    provider: &Arc<CryptoProvider>,
    place: Place<'_>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, WebConfigError> {
    let policy = policy(keys, place)?;
    let names = names(keys, policy, place)?;
    let authority = match (policy, authority) {
        (Policy::NotAsked, None) => return Ok(None),
        (Policy::NotAsked, Some(pem)) => {
            let reason = "it has no effect without client_auth_type: give \
                          RequireAndVerifyClientCert";
            return Err(place.wrong(pem.at, pem.key, reason));
        }
        (_, Some(pem)) => pem,
        (_, None) => {
            let reason = "client_auth_type needs the authority that signs the clients' \
                          certificates: give this key or `client_ca`";
            return Err(place.missing("tls_server_config.client_ca_file", reason));
        }
    };
    let wrong = |error: &dyn std::fmt::Display| {
        let reason = format!("no usable authority: {error}");
        place.wrong(authority.at, authority.key, reason)
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&authority, place)? {
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(provider));
    let builder = if policy == Policy::Required {
        builder
    } else {
        builder.allow_unauthenticated()
    };
    let verifier = builder.build().map_err(|error| wrong(&error))?;
    Ok(Some(if names.is_empty() {
        verifier
    } else {
        Arc::new(NamedOnly::new(verifier, names))
    }))
}

/// The names of which a client certificate must have one. Empty: it may have any.
fn names(keys: &TlsKeys, policy: Policy, place: Place<'_>) -> Result<Vec<String>, WebConfigError> {
    let names = keys.client_allowed_sans.as_deref().unwrap_or_default();
    for name in names {
        let reason = if policy != Policy::Required {
            "it needs client_auth_type RequireAndVerifyClientCert: other clients may come without a \
             certificate"
        } else if is_mail(&name.value) {
            "e-mail addresses in certificates are not read: give a DNS name, an IP address or a URI"
        } else {
            continue;
        };
        return Err(place.wrong(name, "tls_server_config.client_allowed_sans", reason));
    }
    Ok(names.iter().map(|name| name.value.clone()).collect())
}
