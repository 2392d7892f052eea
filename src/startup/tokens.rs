//! Issuers of tokens, from the configuration to live verifiers. One decision: a key or secret that cannot be used stops the start;
//! a key server that is away does not, because it may come back. Knows nothing of requests.

use std::sync::Arc;

use crate::config::{Config, TokenIssuer, TokenKeys};
use crate::fetch::{Address, Client, Settings};
use crate::token::{self, Algorithm, Expected, Key, KeySet, Keys, Mapping, Tokens, Verifier};
use crate::trust::ClientTlsFiles;

use super::StartError;
use super::files::read_secret;

pub(super) fn tokens(config: &Config) -> Result<Tokens, StartError> {
    if !config.tokens.is_empty() {
        token::self_test().map_err(StartError::SelfTest)?;
    }
    let verifiers = config.tokens.iter().map(verifier).collect::<Result<Vec<_>, _>>()?;
    Ok(Tokens::new(verifiers, config.roles.clone(), config.identity_headers.clone(), config.limits.tokens))
}

fn verifier(issuer: &TokenIssuer) -> Result<Verifier, StartError> {
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
        TokenKeys::Secret(secret) => Keys::fixed(KeySet::one(Key::from_secret(&read_secret("token.secret", secret)?)?)),
        TokenKeys::File(path) => Keys::file(path.clone(), algorithms)?,
        TokenKeys::Url { url, ca, refresh } => {
            let tls = ClientTlsFiles { ca: ca.clone(), ..ClientTlsFiles::default() };
            let client = Client::new(&Settings { tls, ..Settings::default() })?;
            Keys::url(Address::parse(url, false)?, client, *refresh, algorithms)
        }
    })
}
