//! TLS. One decision: 1.2 and 1.3 only, one crypto provider named everywhere (a dependency that brings a second one must
//! not decide which is used), the protocol chosen by ALPN and never sniffed. Knows nothing of HTTP.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::{CipherSuite, ServerConfig};

use crate::private;

use super::certificates::Certificates;

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read or written.
    #[error("{path}: cannot be {doing}")]
    File {
        /// Which.
        path: PathBuf,
        /// `read`, `written` or `replaced`.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Not PEM, or not what is looked for.
    #[error("{path}: holds no {wanted} in PEM form")]
    Pem {
        /// Which.
        path: PathBuf,
        /// `certificate` or `private key`.
        wanted: &'static str,
        /// What the parser said.
        #[source]
        source: pem::Error,
    },
    /// Key and certificate do not belong together, or are of a kind that is not supported.
    #[error("{key}: the private key does not fit the certificate in {certificate}")]
    Mismatch {
        /// Certificate file.
        certificate: PathBuf,
        /// Key file.
        key: PathBuf,
        /// What rustls said.
        #[source]
        source: rustls::Error,
    },
    /// The development pair could not be made.
    #[error("the development certificate could not be made")]
    Make(#[source] rcgen::Error),
    /// The provider lacks something.
    #[error("TLS could not be set up")]
    Setup(#[source] rustls::Error),
}

/// The one provider.
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    // AES-128 before AES-256, as in Mozilla's profiles: nobody breaks either, and the hash that comes with the longer key makes
    // handshakes dearer by a sixth. Whoever offers one of them alone gets that.
    provider.cipher_suites.sort_by_key(|suite| !SHORTER_KEYS.contains(&suite.suite()));
    Arc::new(provider)
}

/// RFC 8446 §B.4, RFC 5289.
const SHORTER_KEYS: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];

/// A server configuration that shows these certificates.
///
/// # Errors
/// [`TlsError`], naming the file.
pub fn server_config(certificates: Arc<Certificates>) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Shared by all workers and rotated by itself; without it rustls keeps 256 sessions in memory.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Setup)?;
    // One (rustls sends two): each connection brings its successor's, and who opens several at once has one of each.
    config.send_tls13_tickets = 1;
    // Ours is the order, whatever an old client would rather have.
    config.ignore_client_order = true;
    // RFC 8470: a replayed request must not be acted upon, so none is taken before the handshake is done.
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

pub(super) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bad = |source| TlsError::Pem { path: path.to_owned(), wanted: "private key", source };
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(bad)
}

pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |source| TlsError::Pem { path: path.to_owned(), wanted: "certificate", source };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<_, _>>().map_err(bad)?;
    if chain.is_empty() { Err(bad(pem::Error::NoItemsFound)) } else { Ok(chain) }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), doing: "read", source })
}

/// By this name a pair is known as one that was made here.
const DEVELOPMENT: &str = "Portcullis development certificate";
/// How long such a pair holds – browsers refuse more than 398 days – and when the next start makes another.
const DEVELOPMENT_LASTS: Duration = Duration::from_secs(365 * 86_400);
const DEVELOPMENT_RENEWED: Duration = Duration::from_secs(300 * 86_400);

/// Make a development pair for `localhost` where neither file exists, or where there is one made here that ends soon; answers
/// whether it did.
///
/// # Errors
/// [`TlsError`]: a file that cannot be written.
pub fn make_development_pair(certificate: &Path, key: &Path) -> Result<bool, TlsError> {
    if !is_to_be_made(certificate, key) {
        return Ok(false);
    }
    for path in [certificate, key].into_iter().filter(|path| path.exists()) {
        fs::remove_file(path).map_err(|source| TlsError::File { path: path.to_owned(), doing: "replaced", source })?;
    }
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut params = rcgen::CertificateParams::new(names).map_err(TlsError::Make)?;
    params.distinguished_name.push(rcgen::DnType::CommonName, DEVELOPMENT);
    let now = SystemTime::now();
    params.not_before = now.into();
    params.not_after = (now + DEVELOPMENT_LASTS).into();
    let signing_key = rcgen::KeyPair::generate().map_err(TlsError::Make)?;
    let made = params.self_signed(&signing_key).map_err(TlsError::Make)?;
    // The key first and for its owner alone: a certificate without key is made anew by hand, a readable key never.
    write(key, signing_key.serialize_pem().as_bytes(), 0o600)?;
    // A key alone would be somebody's own, whose certificate is missing.
    write(certificate, made.pem().as_bytes(), 0o644).inspect_err(|_| drop(fs::remove_file(key)))?;
    Ok(true)
}

/// Whether a start that may make a development pair makes one.
pub fn is_to_be_made(certificate: &Path, key: &Path) -> bool {
    // What cannot be looked at is there, and is not made anew.
    let is_missing = |path: &Path| matches!(path.try_exists(), Ok(false));
    (is_missing(certificate) && is_missing(key)) || is_ours_and_old(certificate)
}

/// Never true of somebody's own certificate, whatever its age.
fn is_ours_and_old(certificate: &Path) -> bool {
    let made = fs::metadata(certificate).and_then(|file| file.modified());
    let old = made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > DEVELOPMENT_RENEWED));
    let ours = |chain: Vec<CertificateDer<'_>>| {
        chain[0].windows(DEVELOPMENT.len()).any(|window| window == DEVELOPMENT.as_bytes())
    };
    old && read_chain(certificate).is_ok_and(ours)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let failed = |source| TlsError::File { path: path.to_owned(), doing: "written", source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    private::make(path, bytes, mode).map_err(failed)
}
