//! What a connection itself proves of its client.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use crate::api::web_config::has_name;

/// What a connection proves of its client, besides its [`Peer`](crate::api::Peer).
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The client's certificate, which was verified.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// True: a process that came by the Unix socket is in the socket's group.
    pub is_member: bool,
}

/// A client's certificate. It was verified when the connection began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate(CertificateDer<'static>);

impl ClientCertificate {
    /// Takes the certificate of a TLS connection, which its verifier has accepted.
    #[must_use]
    pub fn new(certificate: CertificateDer<'static>) -> Self {
        Self(certificate)
    }

    /// The first of these that is a subject alternative name of the certificate.
    pub(in crate::api) fn name_of<'a>(&self, names: &'a [String]) -> Option<&'a String> {
        names.iter().find(|name| has_name(&self.0, name))
    }
}
