//! TLS: the handshake, and what it proves of the client.

use std::sync::Arc;

use rustls::ServerConfig;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsAcceptor;

use super::{
    Door, Peer, Place,
    auth::{ClientCertificate, Evidence},
};
use crate::export::http::HttpRefusal;

/// Shakes hands with a client and serves its requests. The handshake has as long as the header of a
/// request has.
pub(super) async fn serve(
    config: Arc<ServerConfig>,
    stream: TcpStream,
    peer: Peer,
    mut place: Place,
    door: &Door,
) {
    let shaking = timeout(
        door.limits().header,
        TlsAcceptor::from(config).accept(stream),
    );
    let shaken = tokio::select! {
        shaken = shaking => shaken,
        () = place.displaced() => return,
    };
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(?peer, %error, "a TLS handshake failed");
            return door.counts().refuse(HttpRefusal::Tls);
        }
        Err(_) => return door.counts().refuse(HttpRefusal::Tls),
    };
    let (_, session) = stream.get_ref();
    // It was verified: the configuration accepts no certificate that was not.
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    let certificate = certificate.map(|one| Arc::new(ClientCertificate::new(one.clone())));
    let evidence = Evidence {
        certificate,
        is_member: false,
    };
    door.serve(stream, peer, evidence, place).await;
}
