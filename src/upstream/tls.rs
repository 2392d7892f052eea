//! TLS towards servers. One decision: a server's certificate is always verified, against the upstream's own CA or the
//! system's; there is no switch that leaves it out. Knows nothing of HTTP but the names that ALPN offers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem};
use rustls::{ClientConfig, RootCertStore};

/// Why there is no TLS towards an upstream.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    /// A file could not be read.
    #[error("{0}: cannot be read")]
    File(PathBuf, #[source] io::Error),
    /// Not PEM, or not what is looked for.
    #[error("{0}: holds no {1} in PEM form")]
    Pem(PathBuf, &'static str, #[source] pem::Error),
    /// What rustls would not take.
    #[error("{0}: is not accepted")]
    Rejected(PathBuf, #[source] rustls::Error),
    /// No root to trust.
    #[error("the system has no root certificates; write `ca`")]
    NoRoots,
    /// Neither a DNS name nor an address.
    #[error("`{0}` is not a name that a certificate can be for")]
    Name(String),
    /// The provider lacks something.
    #[error("TLS could not be set up")]
    Setup(#[source] rustls::Error),
}

/// Whom to trust and how to show oneself, as plain values.
#[derive(Clone, Debug, Default)]
pub struct ClientTlsFiles {
    /// PEM of the CAs; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// PEM chain and key shown to the server.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// TLS towards one server.
#[derive(Debug)]
pub struct ClientTls {
    /// The name that its certificate has to be for.
    pub(super) name: ServerName<'static>,
    /// Offers HTTP/2 and HTTP/1.1.
    pub(super) any: Arc<ClientConfig>,
    /// Offers HTTP/1.1 alone: WebSockets need it.
    pub(super) http1: Arc<ClientConfig>,
}

/// Configurations for the servers of one upstream.
pub struct ClientTlsFactory {
    any: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
}

impl ClientTlsFactory {
    /// Read the files.
    ///
    /// # Errors
    /// [`ClientTlsError`], naming the file.
    pub fn new(files: &ClientTlsFiles) -> Result<ClientTlsFactory, ClientTlsError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(ClientTlsError::Setup)?
            .with_root_certificates(roots(files.ca.as_deref())?);
        let mut config = match &files.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let private = PrivateKeyDer::from_pem_slice(&read(key)?)
                    .map_err(|error| ClientTlsError::Pem(key.clone(), "private key", error))?;
                let rejected = |error| ClientTlsError::Rejected(certificate.clone(), error);
                builder.with_client_auth_cert(certificates(certificate)?, private).map_err(rejected)?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http1 = Arc::new(config.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(ClientTlsFactory { any: Arc::new(config), http1 })
    }

    /// For the server of this name (brackets around an IPv6 address are no part of it).
    ///
    /// # Errors
    /// [`ClientTlsError::Name`].
    pub fn server(&self, name: &str) -> Result<ClientTls, ClientTlsError> {
        let bare = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare).map_err(|_| ClientTlsError::Name(name.to_owned()))?;
        Ok(ClientTls { name, any: self.any.clone(), http1: self.http1.clone() })
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, ClientTlsError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| ClientTlsError::Rejected(path.to_owned(), error))?;
            }
        }
        None => {
            // A root of the system that rustls does not take is nobody's mistake here.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() { Err(ClientTlsError::NoRoots) } else { Ok(roots) }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientTlsError> {
    let bad = |error| ClientTlsError::Pem(path.to_owned(), "certificate", error);
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<_, _>>().map_err(bad)?;
    if chain.is_empty() { Err(bad(pem::Error::NoItemsFound)) } else { Ok(chain) }
}

fn read(path: &Path) -> Result<Vec<u8>, ClientTlsError> {
    fs::read(path).map_err(|error| ClientTlsError::File(path.to_owned(), error))
}
