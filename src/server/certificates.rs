//! Which certificate a client is shown. One decision: the set is exchanged whole while connections run, and only for one that
//! could be read whole; a half-written file leaves the old set in place. What browsers will refuse is shown all the same, and said
//! aloud: a gateway that does not start again serves nobody. Knows nothing of HTTP.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};
use tokio_util::sync::CancellationToken;

use crate::causes;
use crate::private::{self, mode_for_others};
use crate::stamp::Stamp;
use crate::trust;

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

/// What is wrong with a pair that can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Which pair, by its place in the list.
    pub pair: usize,
    /// The certificate or the key.
    pub file: PathBuf,
    /// What.
    pub wrong: Wrong,
}

/// See [`Flaw`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The certificate's time is over.
    Ended(SystemTime),
    /// It has not begun.
    NotBegun(SystemTime),
    /// Others than its owner may read the key: whoever does can be this gateway. The mode.
    Readable(u32),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, time) = (self.file.display(), humantime::format_rfc3339_seconds);
        match self.wrong {
            Wrong::Ended(at) => write!(f, "`{file}` ended on {}; put a renewed one there", time(at)),
            Wrong::NotBegun(at) => write!(f, "`{file}` begins on {}; put one there that holds now", time(at)),
            Wrong::Readable(mode) => f.write_str(&private::told(&self.file, mode)),
        }
    }
}

/// All certificates, the first of them for every name that no other is for.
#[derive(Debug)]
pub struct Certificates {
    provider: Arc<CryptoProvider>,
    shown: ArcSwap<Shown>,
    /// What is wrong with them, as far as it was said.
    said: ArcSwap<Vec<Flaw>>,
}

/// Files, and what was read from them.
#[derive(Debug)]
pub struct Shown {
    files: Vec<CertificateFiles>,
    keys: Vec<Arc<CertifiedKey>>,
    /// Of the files, before they were read: what changed meanwhile is read anew.
    stamps: Stamps,
}

type Stamps = Vec<(PathBuf, Option<Stamp>)>;

impl Certificates {
    /// Read them.
    ///
    /// # Errors
    /// [`TlsError`], naming the file.
    pub fn load(files: Vec<CertificateFiles>, provider: Arc<CryptoProvider>) -> Result<Arc<Certificates>, TlsError> {
        let shown = ArcSwap::from_pointee(read_all(files, &provider)?);
        Ok(Arc::new(Certificates { provider, shown, said: ArcSwap::default() }))
    }

    /// Read others, which are not shown yet.
    ///
    /// # Errors
    /// As [`Certificates::load`].
    pub fn read(&self, files: Vec<CertificateFiles>) -> Result<Shown, TlsError> {
        read_all(files, &self.provider)
    }

    /// Show these from now on.
    pub fn show(&self, shown: Shown) {
        self.shown.store(Arc::new(shown));
        self.warn();
    }

    /// What is wrong with those that are shown.
    pub fn flaws(&self, now: SystemTime) -> Vec<Flaw> {
        let shown = self.shown.load();
        let of_pair = |(pair, (files, key)): (usize, (&CertificateFiles, &Arc<CertifiedKey>))| {
            let flaw = |file: &Path, wrong| Flaw { pair, file: file.to_owned(), wrong };
            let time = time_of(key, &self.provider, now).map(|wrong| flaw(&files.certificate, wrong));
            let readable =
                mode_for_others(&files.private_key).map(|mode| flaw(&files.private_key, Wrong::Readable(mode)));
            time.into_iter().chain(readable)
        };
        shown.files.iter().zip(shown.keys.iter()).enumerate().flat_map(of_pair).collect()
    }

    /// When each of those that are shown ends, in the order of the list: the certificate itself, not those that vouch for it.
    pub fn ends(&self) -> Vec<Option<SystemTime>> {
        self.shown.load().keys.iter().map(|key| trust::ends(key.end_entity_cert().ok()?)).collect()
    }

    /// Say it to whoever reads what the gateway says of itself.
    pub fn warn(&self) {
        self.said.store(Arc::default());
        self.warn_of_more();
    }

    /// Say what was not said yet: that one ended meanwhile.
    fn warn_of_more(&self) {
        let (flaws, said) = (self.flaws(SystemTime::now()), self.said.load());
        if flaws == **said {
            return;
        }
        for flaw in flaws.iter().filter(|flaw| !said.contains(flaw)) {
            tracing::warn!("{flaw}");
        }
        self.said.store(Arc::new(flaws));
    }

    /// Read changed files anew until told to stop, and say when one ends.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut told = None;
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            self.warn_of_more();
            let shown = self.shown.load_full();
            if stamps(&shown.files) == shown.stamps {
                continue;
            }
            match read_all(shown.files.clone(), &self.provider) {
                Ok(anew) => {
                    told = None;
                    // Unless others are shown by now.
                    let before = self.shown.compare_and_swap(&shown, Arc::new(anew));
                    if Arc::ptr_eq(&before, &shown) {
                        tracing::info!("certificates were read anew");
                        self.warn();
                    }
                }
                // Tried again: the other file of the pair may be on its way.
                Err(error) => {
                    let error = causes::line(&error);
                    if told.as_ref() != Some(&error) {
                        tracing::warn!(error, "changed certificates are not usable; the old ones stay");
                    }
                    told = Some(error);
                }
            }
        }
    }
}

fn stamps(files: &[CertificateFiles]) -> Stamps {
    let stamp = |path: &PathBuf| (path.clone(), Stamp::of(path));
    files.iter().flat_map(|files| [stamp(&files.certificate), stamp(&files.private_key)]).collect()
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown.load();
        let keys = &shown.keys;
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

/// What is wrong with the time of a leaf. Nothing is found trustworthy without an authority, but of the time is spoken first.
fn time_of(key: &CertifiedKey, provider: &CryptoProvider, now: SystemTime) -> Option<Wrong> {
    let leaf = ParsedCertificate::try_from(key.end_entity_cert().ok()?).ok()?;
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).ok()?);
    let algorithms = provider.signature_verification_algorithms.all;
    let nobody = RootCertStore::empty();
    let found = verify_server_cert_signed_by_trust_anchor(&leaf, &nobody, &[], now, algorithms);
    let at = |time: UnixTime| SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    match found {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Some(Wrong::Ended(at(not_after)))
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
            Some(Wrong::NotBegun(at(not_before)))
        }
        _ => None,
    }
}

fn read_all(files: Vec<CertificateFiles>, provider: &CryptoProvider) -> Result<Shown, TlsError> {
    let stamps = stamps(&files);
    let keys = files.iter().map(|files| read_one(files, provider).map(Arc::new)).collect::<Result<_, _>>()?;
    Ok(Shown { files, keys, stamps })
}

fn read_one(files: &CertificateFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let CertificateFiles { certificate, private_key } = files;
    let mismatch = |source| TlsError::Mismatch { certificate: certificate.clone(), key: private_key.clone(), source };
    CertifiedKey::from_der(read_chain(certificate)?, read_key(private_key)?, provider).map_err(mismatch)
}
