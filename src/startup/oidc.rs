//! OpenID providers, from the configuration to live ones. One decision: a secret or key that cannot be used stops the start; a
//! provider that is away does not, because it may come back. Knows nothing of requests.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::causes;
use crate::config::{Config, OidcClientAuth, OidcLogin};
use crate::fetch::{Client, Settings};
use crate::login::oidc::{Cache, ClientAuth, Oidc, Provider, ProviderSettings, Rules};
use crate::session::SessionKeys;
use crate::token::{Algorithm, Assertion};
use crate::trust::{ClientTlsError, ClientTlsFiles};

use super::StartError;
use super::files::read_secret;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// All of them.
///
/// # Errors
/// [`StartError`] of the first one's secrets, keys or certificates.
pub(super) fn oidc(config: &Config, cache: Arc<Cache>, keys: &SessionKeys) -> Result<Oidc, StartError> {
    Ok(Oidc::new(providers(config)?, cache, keys))
}

/// All of them, not asked yet.
///
/// # Errors
/// As [`oidc`].
pub(super) fn providers(config: &Config) -> Result<Vec<Provider>, StartError> {
    config.oidc.iter().map(|login| Ok(Provider::new(settings(login, config)?))).collect()
}

/// What `check --online` found out about a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub login: String,
    /// What.
    pub message: String,
    /// Nobody could sign in; otherwise it is worth knowing.
    pub wrong: bool,
}

/// Ask each provider for its description and keys.
pub(super) async fn ask_all(providers: &[Provider]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for provider in providers {
        let finding = |message: String, wrong| Finding { login: provider.name().to_owned(), message, wrong };
        match provider.inspect().await {
            Ok(notes) => findings.extend(notes.into_iter().map(|note| finding(note, false))),
            Err(error) => {
                findings.push(finding(causes::line(&error), true));
            }
        }
    }
    findings
}

fn settings(login: &OidcLogin, config: &Config) -> Result<ProviderSettings, StartError> {
    let failed = |source: Cause| StartError::Oidc { login: login.name.clone(), source };
    let client = client(login).map_err(|error| failed(error.into()))?;
    Ok(ProviderSettings {
        name: login.name.clone(),
        title: login.title.clone(),
        issuer: login.issuer.clone(),
        plain_http: login.plain_http,
        client_id: login.client_id.clone(),
        client_auth: client_auth(&login.client_auth).map_err(failed)?,
        algorithms: login.algorithms.iter().filter_map(|name| Algorithm::named(name)).collect(),
        scopes: login.scopes.clone(),
        rules: Rules {
            roles_claim: login.roles_claim.clone(),
            role_map: login.role_map.clone(),
            declared: config.roles.iter().map(str::to_owned).collect(),
            user_claim: login.user_claim.clone(),
            names: config.names(&login.user_prefix),
            trust_email: login.trust_email,
            allow_domains: login.allow_domains.clone(),
            allow_emails: login.allow_emails.clone(),
            allow_groups: login.allow_groups.clone(),
        },
        client,
        frontchannel_logout: login.frontchannel_logout,
        logout_there: login.logout_there,
        keep_tokens: config
            .routes
            .routes()
            .iter()
            .any(|route| route.sign_in.access_token.is_some() && route.sign_in.login.as_ref() == Some(&login.name)),
    })
}

/// What asks it.
pub(super) fn client(login: &OidcLogin) -> Result<Client, ClientTlsError> {
    let tls = ClientTlsFiles { ca: login.ca.clone(), identity: login.identity.clone() };
    Client::new(&Settings { tls, ..Settings::default() })
}

/// How this gateway proves its name there.
pub(super) fn client_auth(configured: &OidcClientAuth) -> Result<ClientAuth, Cause> {
    let text = |secret| -> Result<Zeroizing<String>, Cause> {
        Ok(Zeroizing::new(String::from_utf8(read_secret("client_secret", secret)?)?))
    };
    Ok(match configured {
        OidcClientAuth::Basic(secret) => ClientAuth::Basic(text(secret)?),
        OidcClientAuth::Post(secret) => ClientAuth::Post(text(secret)?),
        OidcClientAuth::Key(path, id) => {
            let pem = Zeroizing::new(std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?);
            ClientAuth::Key(Box::new(Assertion::new(&pem, id.clone())?))
        }
        OidcClientAuth::Certificate => ClientAuth::Certificate,
    })
}
