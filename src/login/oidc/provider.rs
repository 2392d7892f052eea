//! One provider: what is configured of it, and what was learnt from it. One decision: its description and keys are fetched when
//! they are needed and kept while they are good; a provider that fails is asked again by one request at a time, and not more
//! than once in two seconds. Knows nothing of browsers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, SemaphorePermit};

use crate::clock::Timestamp;
use crate::fetch::{Address, Client, Credential};
use crate::token::{Algorithm, Assertion, Claims, Expected, Keys, Presented};

use super::error::{MetadataError, ProviderError};
use super::metadata::{Metadata, place};
use super::person::Rules;

/// How long a description counts before it is asked for again.
const FRESH: Duration = Duration::from_secs(3600);
/// How long its keys do: one that it withdrew must not count for as long as nobody brings a new one.
const KEYS_FRESH: Duration = Duration::from_secs(600);
/// How long after a failure nobody asks again: many may be waiting.
const PAUSE: Duration = Duration::from_secs(2);
/// How far its clock may be off.
pub(super) const LEEWAY: Duration = Duration::from_secs(5);
/// An ID token of more than a day's life is a mistake.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Codes that are exchanged at once. A provider needs some tens of milliseconds for each; beyond it people are asked to come again.
const EXCHANGES: usize = 64;

/// A provider, as plain values.
pub struct ProviderSettings {
    /// Its name in addresses.
    pub name: String,
    /// What its button says.
    pub title: String,
    /// Its issuer, byte for byte.
    pub issuer: String,
    /// Plain HTTP to this machine is allowed.
    pub plain_http: bool,
    /// The name it knows us by.
    pub client_id: String,
    /// How we prove it.
    pub client_auth: ClientAuth,
    /// What ID tokens may be signed with.
    pub algorithms: Vec<Algorithm>,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// Who its people are here.
    pub rules: Rules,
    /// Asks it.
    pub client: Client,
    /// Whether its front-channel logout is heard.
    pub frontchannel_logout: bool,
    /// Whether signing out leads on to it.
    pub logout_there: bool,
    /// Whether some route asks for its access tokens.
    pub keep_tokens: bool,
}

/// How we prove who we are (OpenID Connect Core §9, RFC 8705).
pub enum ClientAuth {
    /// `client_secret_basic`.
    Basic(zeroize::Zeroizing<String>),
    /// `client_secret_post`.
    Post(zeroize::Zeroizing<String>),
    /// `private_key_jwt`.
    Key(Box<Assertion>),
    /// The certificate that the client shows.
    Certificate,
}

impl ClientAuth {
    /// As discovery documents call it.
    pub fn name(&self) -> &'static str {
        match self {
            ClientAuth::Basic(_) => "client_secret_basic",
            ClientAuth::Post(_) => "client_secret_post",
            ClientAuth::Key(_) => "private_key_jwt",
            ClientAuth::Certificate => "tls_client_auth",
        }
    }
}

/// A live provider.
pub struct Provider {
    pub(super) settings: ProviderSettings,
    learnt: Mutex<Learnt>,
    exchanges: Arc<Semaphore>,
}

#[derive(Default)]
struct Learnt {
    known: Option<Known>,
    /// When it was asked last, and failed.
    failed: Option<Timestamp>,
}

/// What is known of a provider at a moment.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) metadata: Arc<Metadata>,
    keys: Arc<Keys>,
    asked: Timestamp,
}

impl Provider {
    /// A provider that was not asked yet.
    pub fn new(settings: ProviderSettings) -> Provider {
        Provider { settings, learnt: Mutex::default(), exchanges: Arc::new(Semaphore::new(EXCHANGES)) }
    }

    /// Go on where the provider of this name was before the configuration was read again. What it said of itself counts where it is
    /// the same one; where that is being asked for at this moment it is asked again.
    pub(super) fn inherit(&mut self, old: &Provider) {
        self.exchanges = old.exchanges.clone();
        let is_same =
            old.settings.issuer == self.settings.issuer && old.settings.plain_http == self.settings.plain_http;
        let Some(learnt) = old.learnt.try_lock().ok().filter(|_| is_same) else { return };
        let known = learnt.known.as_ref().map(|known| {
            let (metadata, client) = (known.metadata.clone(), self.settings.client.clone());
            let keys = Keys::url(metadata.jwks.clone(), client, KEYS_FRESH, self.settings.algorithms.clone());
            keys.inherit(&known.keys);
            Known { metadata, keys, asked: known.asked }
        });
        self.learnt = Mutex::new(Learnt { known, failed: learnt.failed });
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// The right to exchange one code: a slow provider must not have thousands of them under way for whoever invents some.
    ///
    /// # Errors
    /// [`ProviderError::Busy`].
    pub(super) fn slot(&self) -> Result<SemaphorePermit<'_>, ProviderError> {
        self.exchanges.try_acquire().map_err(|_| ProviderError::Busy)
    }

    /// Its description and keys.
    ///
    /// # Errors
    /// [`ProviderError`] where none was ever had. An old one goes on counting while the provider is away.
    pub(super) async fn known(&self, now: Timestamp) -> Result<Known, ProviderError> {
        let mut learnt = self.learnt.lock().await;
        if let Some(known) = learnt.known.as_ref().filter(|known| now.since(known.asked) < FRESH) {
            return Ok(known.clone());
        }
        let pausing = learnt.failed.is_some_and(|failed| now.since(failed) < PAUSE);
        let asked = if pausing { Err(ProviderError::Failed) } else { self.describe().await };
        match (asked, learnt.known.clone()) {
            (Ok(metadata), old) => {
                let keys = self.keys(&metadata, old)?;
                let known = Known { metadata: Arc::new(metadata), keys, asked: now };
                *learnt = Learnt { known: Some(known.clone()), failed: None };
                Ok(known)
            }
            (Err(error), old) => {
                if !pausing {
                    learnt.failed = Some(now);
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(provider = self.settings.name, error, "the provider could not be asked");
                }
                old.ok_or(error)
            }
        }
    }

    /// Fetch and read the description.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub async fn describe(&self) -> Result<Metadata, ProviderError> {
        let settings = &self.settings;
        let address = Address::parse(&place(&settings.issuer), settings.plain_http)
            .map_err(|error| MetadataError::Address("issuer", error))?;
        let document = settings.client.get(&address, Credential::None).await?;
        if !document.status.is_success() {
            return Err(ProviderError::Status(document.status));
        }
        Ok(Metadata::read(&document.body, &settings.issuer, settings.plain_http)?)
    }

    /// Ask for everything a sign-in needs before anybody signs in; answers what is worth knowing although it would work.
    ///
    /// # Errors
    /// [`ProviderError`]: nobody could sign in.
    pub async fn inspect(&self) -> Result<Vec<String>, ProviderError> {
        let metadata = self.describe().await?;
        let keys = self.keys(&metadata, None)?;
        keys.load().await.map_err(MetadataError::Keys)?;
        let says = &metadata.says;
        let mut notes = Vec::new();
        let settings = &self.settings;
        let method = settings.client_auth.name();
        if says.token_endpoint_auth_methods_supported.as_ref().is_some_and(|all| !all.iter().any(|one| one == method)) {
            notes.push(format!("does not list `{method}`, the `client_auth` that is configured"));
        }
        let listed = |scope: &&String| says.scopes_supported.as_ref().is_none_or(|all| all.contains(scope));
        let unlisted: Vec<String> =
            settings.scopes.iter().filter(|scope| !listed(scope)).map(|scope| format!("`{scope}`")).collect();
        if !unlisted.is_empty() {
            notes.push(format!("does not list the scopes {}", unlisted.join(", ")));
        }
        let ours = |name: &String| settings.algorithms.iter().any(|algorithm| algorithm.name() == name);
        if says.id_token_signing_alg_values_supported.as_ref().is_some_and(|all| !all.iter().any(ours)) {
            notes.push("signs ID tokens with none of the `algorithms` that are configured".to_owned());
        }
        if settings.logout_there && metadata.end_session.is_none() {
            notes.push("has no `end_session_endpoint`: signing out here leaves people signed in there".to_owned());
        }
        if !says.backchannel_logout_supported {
            notes.push("does not say that it tells of sign-outs (back-channel logout)".to_owned());
        }
        if settings.frontchannel_logout && !says.frontchannel_logout_session_supported {
            notes.push(
                "does not say that its front-channel logout names the session, without which none is ended".to_owned(),
            );
        }
        Ok(notes)
    }

    /// The same keys as long as they are in the same place.
    fn keys(&self, metadata: &Metadata, old: Option<Known>) -> Result<Arc<Keys>, ProviderError> {
        match old {
            Some(old) if old.metadata.jwks == metadata.jwks => Ok(old.keys),
            _ => {
                let client = self.settings.client.clone();
                Ok(Keys::url(metadata.jwks.clone(), client, KEYS_FRESH, self.settings.algorithms.clone()))
            }
        }
    }

    /// What every token of it for us must say.
    fn expected(&self) -> Expected {
        Expected {
            issuer: self.settings.issuer.clone(),
            audiences: vec![self.settings.client_id.clone()],
            longest: LONGEST,
            leeway: LEEWAY,
        }
    }

    /// The claims of a token that it signed for us, of one of these kinds.
    ///
    /// # Errors
    /// [`ProviderError::IdToken`], or that its keys could not be had.
    pub(super) async fn verify(
        &self,
        known: &Known,
        token: &str,
        kinds: &[&str],
        now: Timestamp,
    ) -> Result<(Claims, Algorithm), ProviderError> {
        let presented = Presented::parse(token).map_err(ProviderError::IdToken)?;
        if !kinds.iter().any(|kind| presented.is_any(&[(*kind).to_owned()])) {
            // One kind of token is never taken for another (RFC 8725 §3.11).
            return Err(ProviderError::IdToken(crate::policy::BadToken::Kind));
        }
        let claims = presented.judge(&self.expected(), now).map_err(ProviderError::IdToken)?;
        let verified = known.keys.verify(&presented, now).await.map_err(|_| ProviderError::Keys)?;
        verified.map_err(ProviderError::IdToken)?;
        Ok((claims, presented.algorithm()))
    }
}
