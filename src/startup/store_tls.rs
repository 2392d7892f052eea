//! The certificates towards the shared store. One decision: files are looked at whenever a connection is opened, because that is when
//! they count, and one that cannot be used leaves what was read before in place. Knows nothing of Redis.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;

use crate::causes;
use crate::session::store::Trusted;
use crate::stamp::Stamp;
use crate::trust::{ClientTlsError, ClientTlsFiles, client_config};

type Stamps = Vec<Option<Stamp>>;

/// Files, and what was read from them.
#[derive(Debug)]
pub(super) struct StoreTls {
    files: ClientTlsFiles,
    read: Mutex<Read>,
}

#[derive(Debug)]
struct Read {
    seen: Stamps,
    /// What was told not to be usable.
    refused: Option<Stamps>,
    config: Arc<ClientConfig>,
}

impl StoreTls {
    /// Read them.
    ///
    /// # Errors
    /// [`ClientTlsError`], naming the file.
    pub(super) fn read(files: ClientTlsFiles) -> Result<StoreTls, ClientTlsError> {
        // Before they are read: what is written meanwhile is read again.
        let seen = stamps(&files);
        let config = Arc::new(client_config(&files)?);
        Ok(StoreTls { files, read: Mutex::new(Read { seen, refused: None, config }) })
    }
}

impl Trusted for StoreTls {
    fn config(&self) -> Arc<ClientConfig> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.files);
        if stamps != read.seen {
            match client_config(&self.files) {
                Ok(config) => {
                    tracing::info!("the certificates towards the session store were read anew");
                    *read = Read { seen: stamps, refused: None, config: Arc::new(config) };
                }
                // Not marked as seen: the other file of the pair is on its way. Told once, however often it is tried.
                Err(error) => {
                    if read.refused.as_ref() != Some(&stamps) {
                        let error = causes::line(&error);
                        tracing::warn!(
                            error,
                            "changed certificates towards the session store are not usable; the old ones stay"
                        );
                        read.refused = Some(stamps);
                    }
                }
            }
        }
        read.config.clone()
    }
}

fn stamps(files: &ClientTlsFiles) -> Stamps {
    let identity = files.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
    files.ca.iter().chain(identity).map(|path| Stamp::of(path)).collect()
}
