//! What a start reads and makes on the disk: certificates, keys, the store, the first user. One decision: what is missing and
//! may be made is made here, once, for its owner alone. Knows nothing of what runs on it.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::admin::Token;
use crate::config::{Config, LocalLogin, Secret, Store};
use crate::login;
use crate::server::{CertificateFiles, Certificates, tls};
use crate::session::store::{Embedded, Memory};
use crate::session::{KeyError, SessionKeys, SessionStore};

use super::redis::open_redis;
use super::{Demo, StartError};

pub(super) fn load_certificates(config: &Config) -> Result<Arc<Certificates>, StartError> {
    let (certificate, key) = (&config.tls.certificate, &config.tls.private_key);
    if config.tls.self_signed && tls::make_development_pair(certificate, key)? {
        tracing::info!(certificate = %certificate.display(), "made a development certificate; browsers will warn of it");
    }
    let certificates = Certificates::load(certificate_files(config), tls::provider())?;
    certificates.warn();
    Ok(certificates)
}

pub(super) fn certificate_files(config: &Config) -> Vec<CertificateFiles> {
    let first = (config.tls.certificate.clone(), config.tls.private_key.clone());
    let all = std::iter::once(first).chain(config.tls.also.iter().cloned());
    all.map(|(certificate, private_key)| CertificateFiles { certificate, private_key }).collect()
}

pub(super) fn load_keys(config: &Config) -> Result<SessionKeys, StartError> {
    match (&config.session.secret, &config.session.store) {
        (Some(secret), _) => Ok(SessionKeys::from_secret(&read_secret("session.secret", secret)?)?),
        (None, Store::Memory) => Ok(SessionKeys::random()?),
        // The configuration asks for one: a key of one node's own would make its cookies garbage to all others.
        (None, Store::Redis(_)) => Err(KeyError::Short(0).into()),
        (None, Store::Embedded(folder)) => {
            make_folder(folder)?;
            Ok(SessionKeys::load_or_create(&folder.join("keys"))?)
        }
    }
}

/// The operator's token: the configured one, or the one beside the store. A store that is no folder has no such place; then
/// what needs the token is not answered until one is configured.
pub(super) fn admin_token(config: &Config) -> Result<Option<Token>, StartError> {
    let configured = config.server.admin.as_ref().and_then(|admin| admin.token.as_ref());
    match (configured, &config.session.store) {
        (Some(secret), _) => Ok(Some(Token::new(&read_secret("server.admin_token", secret)?)?)),
        (None, Store::Embedded(folder)) => Ok(Some(Token::load_or_create(&folder.join("admin-token"))?)),
        (None, Store::Memory | Store::Redis(_)) => Ok(None),
    }
}

/// The operator's token of a gateway that runs from this configuration, as whoever may read its files knows it.
///
/// # Errors
/// [`StartError`]: it cannot be read.
pub fn operator_token(config: &Config) -> Result<Option<String>, StartError> {
    let configured = config.server.admin.as_ref().and_then(|admin| admin.token.as_ref());
    let secret = match (configured, &config.session.store) {
        (Some(secret), _) => secret.clone(),
        (None, Store::Embedded(folder)) => Secret::File(folder.join("admin-token")),
        (None, Store::Memory | Store::Redis(_)) => return Ok(None),
    };
    Ok(String::from_utf8(read_secret("server.admin_token", &secret)?).ok())
}

/// The secret that the configuration names at `key`.
pub(super) fn read_secret(key: &'static str, secret: &Secret) -> Result<Vec<u8>, StartError> {
    let failed =
        |from: String, source: Box<dyn std::error::Error + Send + Sync>| StartError::Secret { key, from, source };
    let mut bytes = match secret {
        Secret::File(path) => fs::read(path).map_err(|source| failed(path.display().to_string(), Box::new(source)))?,
        Secret::Env(name) => std::env::var(name).map_err(|source| failed(name.clone(), Box::new(source)))?.into_bytes(),
    };
    while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.pop();
    }
    Ok(bytes)
}

/// The keys are asked for where others have to have them.
pub(super) fn open_store(
    config: &Config,
    keys: impl FnOnce() -> Result<SessionKeys, StartError>,
) -> Result<Arc<dyn SessionStore>, StartError> {
    match &config.session.store {
        Store::Memory => Ok(Arc::new(Memory::new())),
        Store::Embedded(folder) => {
            make_folder(folder)?;
            let path = folder.join("sessions.redb");
            let store = Embedded::open(&path).map_err(|source| StartError::Store { path, source })?;
            Ok(Arc::new(store))
        }
        Store::Redis(store) => {
            Ok(Arc::new(open_redis(store, config.limits.store_timeout, &keys()?, &config.session.mode)?))
        }
    }
}

/// For its owner alone: the store names people and their addresses.
fn make_folder(folder: &Path) -> Result<(), StartError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| StartError::Folder { path: folder.to_owned(), source })
}

/// The first user, made by a start that is under way. One that fails takes the file along: its password is told by a start that
/// succeeds, and the next would find a user whom nobody can be.
pub(super) struct FirstUser {
    demo: Option<Demo>,
    file: PathBuf,
}

impl FirstUser {
    /// The start succeeded.
    pub(super) fn stays(mut self) -> Option<Demo> {
        self.demo.take()
    }
}

impl Drop for FirstUser {
    fn drop(&mut self) {
        if self.demo.is_some()
            && let Err(error) = fs::remove_file(&self.file)
        {
            tracing::warn!(%error, file = %self.file.display(), "remove this file: nobody knows its user's password");
        }
    }
}

pub(super) fn make_demo(local: &LocalLogin, config: &Config) -> Result<Option<FirstUser>, StartError> {
    let Some(user) = &local.demo_user else { return Ok(None) };
    if local.users.exists() {
        return Ok(None);
    }
    let roles: Vec<String> = config.roles.iter().map(str::to_owned).collect();
    let password = login::make_user_file(&local.users, user, &roles, argon2(local))?;
    Ok(Some(FirstUser { demo: Some(Demo { user: user.clone(), password }), file: local.users.clone() }))
}

pub(super) fn argon2(local: &LocalLogin) -> login::Argon2Params {
    login::Argon2Params { m_kib: local.argon2_memory_kib, t: local.argon2_passes, p: local.argon2_lanes }
}
