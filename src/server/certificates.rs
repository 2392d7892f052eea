//! Which certificate a client is shown. One decision: the set is exchanged whole while connections run, and only for one that
//! could be read whole; a half-written file leaves the old set in place. Knows nothing of HTTP.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

use super::tls::{TlsError, read_chain, read_key};

/// How often files are looked at. A renewal is days early.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM chain, the leaf first.
    pub certificate: PathBuf,
    /// PEM key.
    pub private_key: PathBuf,
}

/// All certificates, the first of them for every name that no other is for.
#[derive(Debug)]
pub struct Certificates {
    provider: Arc<CryptoProvider>,
    files: Vec<CertificateFiles>,
    keys: ArcSwap<Vec<Arc<CertifiedKey>>>,
}

impl Certificates {
    /// Read them.
    ///
    /// # Errors
    /// [`TlsError`], naming the file.
    pub fn load(files: Vec<CertificateFiles>, provider: Arc<CryptoProvider>) -> Result<Arc<Certificates>, TlsError> {
        let keys = ArcSwap::from_pointee(read_all(&files, &provider)?);
        Ok(Arc::new(Certificates { provider, files, keys }))
    }

    /// Read changed files anew until told to stop.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = self.marks();
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let marks = self.marks();
            if marks == seen {
                continue;
            }
            match read_all(&self.files, &self.provider) {
                Ok(keys) => {
                    self.keys.store(Arc::new(keys));
                    tracing::info!("certificates were read anew");
                    seen = marks;
                }
                // Not marked as seen: the other file of the pair is on its way.
                Err(error) => tracing::warn!(%error, "changed certificates are not usable; the old ones stay"),
            }
        }
    }

    fn marks(&self) -> Vec<Option<(SystemTime, u64)>> {
        let mark = |path: &Path| {
            let data = std::fs::metadata(path).ok()?;
            Some((data.modified().ok()?, data.len()))
        };
        self.files.iter().flat_map(|files| [mark(&files.certificate), mark(&files.private_key)]).collect()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = self.keys.load();
        let name = hello.server_name().and_then(|name| ServerName::try_from(name.to_owned()).ok());
        let fits = |key: &&Arc<CertifiedKey>| name.as_ref().is_some_and(|name| is_for(key, name));
        keys.iter().skip(1).find(fits).or_else(|| keys.first()).cloned()
    }
}

/// Whether a certificate is for a name, wildcards included (RFC 6125 §6.4).
fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let leaf = key.end_entity_cert().and_then(ParsedCertificate::try_from);
    leaf.is_ok_and(|leaf| verify_server_name(&leaf, name).is_ok())
}

fn read_all(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Vec<Arc<CertifiedKey>>, TlsError> {
    files.iter().map(|files| read_one(files, provider).map(Arc::new)).collect()
}

fn read_one(files: &CertificateFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let CertificateFiles { certificate, private_key } = files;
    let mismatch = |source| TlsError::Mismatch { certificate: certificate.clone(), key: private_key.clone(), source };
    CertifiedKey::from_der(read_chain(certificate)?, read_key(private_key)?, provider).map_err(mismatch)
}
