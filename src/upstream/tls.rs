//! TLS towards applications. One decision: a server is offered HTTP/2 and HTTP/1.1, or HTTP/1.1 alone where only that will do;
//! both come from the same files. Knows nothing of how those are read, nor of HTTP but the names that ALPN offers.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::trust::{ClientTlsError, ClientTlsFiles, client_config, server_name, shown_until};

/// TLS towards one server.
#[derive(Debug)]
pub struct ClientTls {
    /// The name that its certificate has to be for.
    pub(super) name: ServerName<'static>,
    /// Offers HTTP/2 and HTTP/1.1, or what the operator left of them.
    pub(super) any: Arc<ClientConfig>,
    /// Offers HTTP/1.1 alone: WebSockets need it.
    pub(super) http1: Arc<ClientConfig>,
}

impl ClientTls {
    /// When the certificate ends that the server is shown.
    pub fn shown_until(&self) -> Option<SystemTime> {
        shown_until(&self.any)
    }
}

/// Configurations for the servers of one upstream.
pub struct ClientTlsFactory {
    any: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
}

impl ClientTlsFactory {
    /// Read the files. Without `http2` that is never offered.
    ///
    /// # Errors
    /// [`ClientTlsError`], naming the file.
    pub fn new(files: &ClientTlsFiles, http2: bool) -> Result<ClientTlsFactory, ClientTlsError> {
        let mut config = client_config(files)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http1 = Arc::new(config.clone());
        if !http2 {
            return Ok(ClientTlsFactory { any: http1.clone(), http1 });
        }
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(ClientTlsFactory { any: Arc::new(config), http1 })
    }

    /// For the server of this name.
    ///
    /// # Errors
    /// [`ClientTlsError::Name`].
    pub fn server(&self, name: &str) -> Result<ClientTls, ClientTlsError> {
        Ok(ClientTls { name: server_name(name)?, any: self.any.clone(), http1: self.http1.clone() })
    }
}
