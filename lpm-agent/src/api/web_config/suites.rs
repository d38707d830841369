//! The names of the exporter toolkit for cipher suites, curves and versions, which are Go's.

use rustls::{
    SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, SupportedKxGroup, ring},
    version::{TLS12, TLS13},
};

use super::{
    WebConfigError,
    file::{Place, Text, TlsKeys, given},
};

/// Go's names of the curves that are there.
const CURVES: [(&str, &dyn SupportedKxGroup); 3] = [
    ("X25519", ring::kx_group::X25519),
    ("CurveP256", ring::kx_group::SECP256R1),
    ("CurveP384", ring::kx_group::SECP384R1),
];

/// Go's names of the suites of TLS 1.3. They are always on, as in Go.
const OF_TLS13: [&str; 3] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
];

/// The suites and curves that the file permits, in its order.
pub(super) fn provider(keys: &TlsKeys, place: Place<'_>) -> Result<CryptoProvider, WebConfigError> {
    let mut provider = ring::default_provider();
    if let Some(names) = keys.cipher_suites.as_deref().filter(|all| !all.is_empty()) {
        let (of13, of12): (Vec<_>, Vec<_>) = (provider.cipher_suites.iter().copied())
            .partition(|suite| matches!(suite, SupportedCipherSuite::Tls13(_)));
        provider.cipher_suites = of13;
        for name in names {
            if OF_TLS13.contains(&&*name.value) {
                continue;
            }
            let suite = of12.iter().find(|suite| name_of(suite) == name.value);
            let suite = suite.ok_or_else(|| {
                let names: Vec<_> = of12.iter().map(name_of).collect();
                let key = "tls_server_config.cipher_suites";
                place.wrong(name, key, unknown(name, "suite", &names))
            })?;
            provider.cipher_suites.push(*suite);
        }
    }
    if let Some(names) = keys
        .curve_preferences
        .as_deref()
        .filter(|all| !all.is_empty())
    {
        let find = |name: &Text| {
            let curve = CURVES.iter().find(|(known, _)| *known == name.value);
            curve.map(|(_, group)| *group).ok_or_else(|| {
                let names = CURVES.map(|(name, _)| name.to_owned());
                let key = "tls_server_config.curve_preferences";
                place.wrong(name, key, unknown(name, "curve", &names))
            })
        };
        provider.kx_groups = names.iter().map(find).collect::<Result<_, _>>()?;
    }
    Ok(provider)
}

fn name_of(suite: &SupportedCipherSuite) -> String {
    let name = suite.suite();
    name.as_str().unwrap_or_default().to_owned()
}

fn unknown(name: &Text, kind: &str, known: &[String]) -> String {
    let name = &name.value;
    format!(
        "the agent does not have the {kind} {name}; it has {}",
        known.join(", ")
    )
}

/// The versions of TLS that the file permits.
pub(super) fn versions(
    keys: &TlsKeys,
    place: Place<'_>,
) -> Result<Vec<&'static SupportedProtocolVersion>, WebConfigError> {
    let least = version(
        keys.min_version.as_ref(),
        "tls_server_config.min_version",
        place,
    )?;
    let most = version(
        keys.max_version.as_ref(),
        "tls_server_config.max_version",
        place,
    )?;
    let (least, most) = (least.unwrap_or(12), most.unwrap_or(13));
    if least > most
        && let Some(text) = given(keys.max_version.as_ref())
    {
        let reason = "it is below min_version";
        return Err(place.wrong(text, "tls_server_config.max_version", reason));
    }
    let all = [(12, &TLS12), (13, &TLS13)];
    Ok((all.into_iter())
        .filter(|(number, _)| (least..=most).contains(number))
        .map(|(_, version)| version)
        .collect())
}

/// Ten times the version that a key gives: 12 or 13. None: the key is not given.
fn version(
    text: Option<&Text>,
    key: &'static str,
    place: Place<'_>,
) -> Result<Option<u8>, WebConfigError> {
    let Some(text) = given(text) else {
        return Ok(None);
    };
    match &*text.value {
        "TLS12" => Ok(Some(12)),
        "TLS13" => Ok(Some(13)),
        "TLS10" | "TLS11" => {
            let reason = "RFC 8996 forbids TLS 1.0 and 1.1: give TLS12 or TLS13";
            Err(place.wrong(text, key, reason))
        }
        _ => Err(place.wrong(text, key, "give TLS12 or TLS13")),
    }
}
