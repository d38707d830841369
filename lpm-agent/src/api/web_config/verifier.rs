//! Client certificates: which names they have, and a verifier that asks for one of them.

use std::{net::IpAddr, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::EndEntityCert;

/// True for an e-mail address, unlike a DNS name, an IP address or a URI.
pub(super) fn is_mail(name: &str) -> bool {
    name.contains('@') && !name.contains("://")
}

/// True if a certificate has this subject alternative name: a DNS name or URI by each character, or
/// an IP address. A wildcard matches nothing but itself.
pub(in crate::api) fn has_name(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else {
        return false;
    };
    if let Ok(address) = name.parse::<IpAddr>() {
        let address = ServerName::IpAddress(address.into());
        return certificate
            .verify_is_valid_for_subject_name(&address)
            .is_ok();
    }
    certificate.valid_dns_names().any(|one| one == name)
        || certificate.valid_uri_names().any(|one| one == name)
}

/// Lets only certificates with one of these names pass that another verifier has verified.
#[derive(Debug)]
pub(super) struct NamedOnly {
    verifier: Arc<dyn ClientCertVerifier>,
    names: Vec<String>,
}

impl NamedOnly {
    pub(super) fn new(verifier: Arc<dyn ClientCertVerifier>, names: Vec<String>) -> Self {
        Self { verifier, names }
    }
}

impl ClientCertVerifier for NamedOnly {
    fn offer_client_auth(&self) -> bool {
        self.verifier.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.verifier.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = (self.verifier).verify_client_cert(certificate, intermediates, now)?;
        if self.names.iter().any(|name| has_name(certificate, name)) {
            Ok(verified)
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        (self.verifier).verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        (self.verifier).verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
