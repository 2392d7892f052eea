//! TLS to a server. One decision: what only a person can mend – whom to trust, what to show – is told from an outage, so that a
//! start ends with it. Knows nothing of Redis.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::RedisError;
use super::options::{Address, Tls};

/// Whether the server asked for a certificate that we do not have. It closes the connection for it, but after the handshake, as far
/// as this side is concerned (RFC 8446 §4.4.2), and its alert may be lost with the connection.
#[derive(Debug, Default)]
pub(super) struct Asked(AtomicBool);

impl Asked {
    /// It did.
    pub(super) fn was(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Release);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// Speak TLS.
pub(super) async fn secure(
    tls: &Tls,
    address: &Address,
    tcp: TcpStream,
) -> Result<(TlsStream<TcpStream>, Arc<Asked>), RedisError> {
    let name = match &tls.name {
        Some(name) => name.clone(),
        None => ServerName::try_from(address.host.clone()).map_err(|_| RedisError::Name(address.host.clone()))?,
    };
    let (mut config, asked) = (tls.config.config(), Arc::new(Asked::default()));
    if !config.client_auth_cert_resolver.has_certs() {
        Arc::make_mut(&mut config).client_auth_cert_resolver = asked.clone();
    }
    match TlsConnector::from(config).connect(name, tcp).await {
        Ok(stream) => Ok((stream, asked)),
        Err(source) => Err(judge(address, source, &asked)),
    }
}

fn judge(address: &Address, source: io::Error, asked: &Asked) -> RedisError {
    let address = address.clone();
    match source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => RedisError::Untrusted { address, source },
        Some(rustls::Error::AlertReceived(_)) if asked.was() => RedisError::Unshown(address),
        _ => RedisError::Connect { address, source },
    }
}
