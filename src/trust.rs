//! Whom to trust and how to show oneself, towards any other server. One decision: a server's certificate is always verified,
//! against the CA that is configured for it or the system's; there is no switch that leaves it out. Knows nothing of what is
//! said on the connection.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, RootCertStore, SignatureScheme};

/// Why there is no TLS towards a server.
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

/// Files, as plain values.
#[derive(Clone, Debug, Default)]
pub struct ClientTlsFiles {
    /// PEM of the CAs; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// PEM chain and key shown to the server.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Read the files. No protocol is offered by ALPN yet.
///
/// # Errors
/// [`ClientTlsError`], naming the file.
pub fn client_config(files: &ClientTlsFiles) -> Result<ClientConfig, ClientTlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(ClientTlsError::Setup)?
        .with_root_certificates(roots(files.ca.as_deref())?);
    let Some((certificate, key)) = &files.identity else { return Ok(builder.with_no_client_auth()) };
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|error| ClientTlsError::Pem(key.clone(), "private key", error))?;
    let rejected = |error| ClientTlsError::Rejected(certificate.clone(), error);
    builder.with_client_auth_cert(certificates(certificate)?, private).map_err(rejected)
}

/// The name a certificate has to be for (brackets around an IPv6 address are no part of it).
///
/// # Errors
/// [`ClientTlsError::Name`].
pub fn server_name(name: &str) -> Result<ServerName<'static>, ClientTlsError> {
    let bare = name.trim_start_matches('[').trim_end_matches(']').to_owned();
    ServerName::try_from(bare).map_err(|_| ClientTlsError::Name(name.to_owned()))
}

/// When a certificate ends, whoever vouches for it: at the end of all days every one has, and of its time is spoken first.
pub fn ends(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let certificate = ParsedCertificate::try_from(certificate).ok()?;
    let (nobody, last) = (RootCertStore::empty(), UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX)));
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    match verify_server_cert_signed_by_trust_anchor(&certificate, &nobody, &[], last, algorithms) {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(not_after.as_secs()))
        }
        _ => None,
    }
}

/// When the certificate ends that is shown to servers; `None` where none is.
pub fn shown_until(config: &ClientConfig) -> Option<SystemTime> {
    let schemes = [SignatureScheme::ECDSA_NISTP256_SHA256];
    ends(config.client_auth_cert_resolver.resolve(&[], &schemes)?.end_entity_cert().ok()?)
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
