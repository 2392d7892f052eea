//! Issuers of tokens, from the configuration to live verifiers. One decision: a key or secret that cannot be used stops the start;
//! a key server that is away does not, because it may come back. Knows nothing of requests.

use std::sync::Arc;

use crate::clock::{Clock, Timestamp};
use crate::config::{Config, SessionMode, Store, TokenIssuer, TokenKeys};
use crate::fetch::{Address, Client, Settings};
use crate::session::{SessionKeys, Sessions};
use crate::token::ring::{KeyRing, RingError};
use crate::token::{
    self, Algorithm, Expected, Format, Keys, Mapping, OwnSettings, OwnTokens, SignedIdentities, Tokens, Verifier,
};
use crate::trust::ClientTlsFiles;

use super::files::read_secret;
use super::{StartError, site};

pub(super) fn tokens(config: &Config, sessions: Arc<Sessions>) -> Result<Tokens, StartError> {
    if !config.tokens.is_empty() {
        token::self_test().map_err(StartError::SelfTest)?;
    }
    let verifiers = verifiers(config)?;
    Ok(Tokens::new(verifiers, sessions, config.roles.clone(), config.identity_headers.clone(), config.limits.tokens))
}

/// The keys of what this gateway seals and signs, where it does.
///
/// # Errors
/// [`StartError::Ring`].
pub(super) async fn ring(
    config: &Config,
    keys: &SessionKeys,
    sessions: Arc<Sessions>,
    now: Timestamp,
) -> Result<Option<Arc<KeyRing>>, StartError> {
    let signs = config.signing.issuer.is_some();
    if config.session.mode == SessionMode::Server && !signs {
        return Ok(None);
    }
    token::self_test().map_err(StartError::SelfTest)?;
    let algorithm = if config.signing.eddsa { Algorithm::EdDsa } else { Algorithm::Es256 };
    let wrap = keys.derive("portcullis/ring/1");
    let ring = KeyRing::new(sessions, wrap, algorithm);
    match ring.find(now).await {
        Ok(()) => {}
        // Public routes need no keys, and they are found when the store is.
        Err(RingError::Store(error)) if matches!(config.session.store, Store::Redis(_)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the keys of tokens cannot be read yet");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Some(Arc::new(ring)))
}

/// Sessions in tokens, where they are configured.
pub(super) fn own_tokens(
    config: &Config,
    keys: &SessionKeys,
    sessions: &Arc<Sessions>,
    ring: Option<&Arc<KeyRing>>,
    clock: &Arc<dyn Clock>,
) -> Option<OwnTokens> {
    let SessionMode::Jwt(jwt) = &config.session.mode else { return None };
    let format = match (&jwt.audience, &config.signing.issuer) {
        (Some(audience), Some(issuer)) => Format::Signed { issuer: issuer.clone(), audience: audience.clone() },
        _ => Format::Sealed,
    };
    let settings = OwnSettings {
        format,
        life: jwt.access_lifetime,
        grace: jwt.grace,
        cookie: config.session.cookie.clone(),
        site: site(config).to_owned(),
        entries: config.session.cache_entries,
    };
    let mac = keys.derive_for("portcullis/refresh/1", site(config));
    Some(OwnTokens::new(sessions.clone(), ring?.clone(), &mac, clock.clone(), settings))
}

/// Statements of who calls, where somebody is named who signs them.
pub(super) fn signed_identities(config: &Config, ring: Option<&Arc<KeyRing>>) -> Option<SignedIdentities> {
    let (ring, issuer) = (ring?.clone(), config.signing.issuer.clone()?);
    Some(SignedIdentities::new(ring, issuer, config.session.cache_entries))
}

/// Every issuer, its keys read.
pub(super) fn verifiers(config: &Config) -> Result<Vec<Verifier>, StartError> {
    config.tokens.iter().map(|issuer| verifier(config, issuer)).collect()
}

/// One of them.
pub(super) fn verifier(config: &Config, issuer: &TokenIssuer) -> Result<Verifier, StartError> {
    let claims = issuer.claims.clone();
    Ok(Verifier {
        expected: Expected {
            issuer: issuer.issuer.clone(),
            audiences: issuer.audiences.clone(),
            longest: issuer.longest,
            leeway: issuer.leeway,
        },
        kinds: issuer.kinds.clone(),
        mapping: Mapping {
            subject: claims.subject,
            names: config.names(&issuer.user_prefix),
            name: claims.name,
            email: claims.email,
            roles: claims.roles,
            role_map: claims.role_map,
        },
        keys: keys(issuer).map_err(|source| StartError::TokenKeys { issuer: issuer.issuer.clone(), source })?,
    })
}

fn keys(issuer: &TokenIssuer) -> Result<Arc<Keys>, Box<dyn std::error::Error + Send + Sync>> {
    let algorithms: Vec<Algorithm> = issuer.algorithms.iter().filter_map(|name| Algorithm::named(name)).collect();
    Ok(match &issuer.keys {
        TokenKeys::Secret(secret) => Keys::secret(&read_secret("token.secret", secret)?)?,
        TokenKeys::File(path) => Keys::file(path.clone(), algorithms)?,
        TokenKeys::Url { url, ca, refresh } => {
            let tls = ClientTlsFiles { ca: ca.clone(), ..ClientTlsFiles::default() };
            let client = Client::new(&Settings { tls, ..Settings::default() })?;
            Keys::url(Address::parse(url, false)?, client, *refresh, algorithms)
        }
    })
}
