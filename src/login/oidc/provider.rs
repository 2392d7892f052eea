//! One provider: what is configured of it, and what was learnt from it. One decision: its description and keys are fetched when
//! they are needed and kept while they are good; one asks for all who wait, and a provider that failed is left alone for two seconds
//! from when it did, however long it took. Knows nothing of browsers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, watch};

use crate::clock::Timestamp;
use crate::fetch::{Address, Client, Credential};
use crate::task::task;
use crate::token::{Algorithm, Assertion, Brought, Claims, Expected, Keys, Presented, TOKEN_BYTES};

use super::error::{MetadataError, ProviderError};
use super::metadata::{Metadata, place};
use super::person::Rules;

/// How long a description counts before it is asked for again.
const FRESH: Duration = Duration::from_secs(3600);
/// How long its keys do: one that it withdrew must not count for as long as nobody brings a new one.
const KEYS_FRESH: Duration = Duration::from_secs(600);
/// How long after a failure nobody asks again: many may be waiting.
const PAUSE: Duration = Duration::from_secs(2);
/// How long somebody waits for a new description where there is an old one.
const PATIENCE: Duration = Duration::from_secs(1);
/// How far its clock may be off.
pub(super) const LEEWAY: Duration = Duration::from_secs(5);
/// A logout token of more than a day's life is a mistake.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Codes that are exchanged at once. A provider needs some tens of milliseconds for each; beyond it people are asked to come again.
const EXCHANGES: usize = 64;

/// What a provider signs for us. One kind of token is never taken for another (RFC 8725 §3.11).
#[derive(Clone, Copy)]
pub(super) enum Signed {
    /// Who signed in. It comes from the token endpoint and is used once, by its nonce: how long others may use it is not ours to say, and
    /// it is as long as somebody's groups are many – two hundred of Entra's make twelve thousand bytes.
    IdToken,
    /// Who signed out. Anybody may bring one, as long as a form may be.
    LogoutToken,
}

impl Signed {
    /// `typ`, the longest life, and bytes at most.
    fn terms(self) -> (&'static str, Duration, usize) {
        match self {
            Signed::IdToken => ("JWT", Duration::MAX, 128 * 1024),
            Signed::LogoutToken => ("logout+jwt", LONGEST, TOKEN_BYTES),
        }
    }

    fn brought(self) -> Brought {
        match self {
            Signed::IdToken => Brought::ByIssuer,
            Signed::LogoutToken => Brought::ByAnybody,
        }
    }
}

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

impl ProviderSettings {
    /// Fetch and read the description.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub async fn describe(&self) -> Result<Metadata, ProviderError> {
        let address = Address::parse(&place(&self.issuer), self.plain_http)
            .map_err(|error| MetadataError::Address("issuer", error))?;
        let document = self.client.get(&address, Credential::None).await?;
        if !document.status.is_success() {
            return Err(ProviderError::Status(document.status));
        }
        Ok(Metadata::read(&document.body, &self.issuer, self.plain_http)?)
    }

    /// The same keys as long as they are in the same place.
    fn keys(&self, metadata: &Metadata, old: Option<&Known>) -> Arc<Keys> {
        match old {
            Some(old) if old.metadata.jwks == metadata.jwks => old.keys.clone(),
            _ => Keys::url(metadata.jwks.clone(), self.client.clone(), KEYS_FRESH, self.algorithms.clone()),
        }
    }
}

/// A live provider.
pub struct Provider {
    pub(super) settings: Arc<ProviderSettings>,
    learnt: Arc<Mutex<Learnt>>,
    exchanges: Arc<Semaphore>,
}

#[derive(Default)]
struct Learnt {
    known: Option<Known>,
    /// When it had failed last, and how.
    failed: Option<(Timestamp, Arc<ProviderError>)>,
    /// Where a request that is under way tells what it learns.
    under_way: Option<Told>,
}

/// Closed without a word where whoever asked came to no end.
type Told = watch::Receiver<Option<Result<Known, Arc<ProviderError>>>>;

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
        let (settings, learnt) = (Arc::new(settings), Arc::default());
        Provider { settings, learnt, exchanges: Arc::new(Semaphore::new(EXCHANGES)) }
    }

    /// Go on where the provider of this name was before the configuration was read again. What it said of itself counts where it is
    /// the same one; where that is being asked for at this moment it is asked again.
    pub(super) fn inherit(&mut self, old: &Provider) {
        self.exchanges = old.exchanges.clone();
        let is_same =
            old.settings.issuer == self.settings.issuer && old.settings.plain_http == self.settings.plain_http;
        if !is_same {
            return;
        }
        let learnt = old.learnt();
        let known = learnt.known.as_ref().map(|known| {
            let (metadata, client) = (known.metadata.clone(), self.settings.client.clone());
            let keys = Keys::url(metadata.jwks.clone(), client, KEYS_FRESH, self.settings.algorithms.clone());
            keys.inherit(&known.keys);
            Known { metadata, keys, asked: known.asked }
        });
        self.learnt = Arc::new(Mutex::new(Learnt { known, failed: learnt.failed.clone(), under_way: None }));
    }

    fn learnt(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Its description and keys. Nobody waits for longer than one request may take, or than a moment where there are old ones.
    ///
    /// # Errors
    /// [`ProviderError`] where none was ever had. Old ones go on counting while the provider is away.
    pub(super) async fn known(&self, now: Timestamp) -> Result<Known, ProviderError> {
        let (old, mut told) = {
            let mut learnt = self.learnt();
            match (&learnt.known, &learnt.failed) {
                (Some(known), _) if now.since(known.asked) < FRESH => return Ok(known.clone()),
                (known, Some((failed, error))) if now.since(*failed) < PAUSE => {
                    return known.clone().ok_or_else(|| ProviderError::Shared(error.clone()));
                }
                _ => {}
            }
            // One that came to no end tells nothing any more.
            let under_way = learnt.under_way.clone().filter(|told| told.has_changed().is_ok());
            let told = under_way.unwrap_or_else(|| self.ask(now));
            learnt.under_way = Some(told.clone());
            (learnt.known.clone(), told)
        };
        let heard = told.wait_for(Option::is_some);
        let heard = match old {
            Some(_) => tokio::time::timeout(PATIENCE, heard).await.ok(),
            None => Some(heard.await),
        };
        match (heard.and_then(Result::ok).as_deref(), old) {
            (Some(Some(Ok(known))), _) => Ok(known.clone()),
            (_, Some(old)) => Ok(old),
            (Some(Some(Err(error))), None) => Err(ProviderError::Shared(error.clone())),
            (Some(None) | None, None) => Err(ProviderError::Failed),
        }
    }

    /// Ask it, in a task of its own: whoever asked first may leave, and the others go on waiting for the same answer.
    fn ask(&self, now: Timestamp) -> Told {
        let (tell, told) = watch::channel(None);
        let (settings, learnt) = (self.settings.clone(), self.learnt.clone());
        tokio::spawn(task(async move {
            let begun = tokio::time::Instant::now();
            let asked = settings.describe().await;
            let mut learnt = learnt.lock().unwrap_or_else(PoisonError::into_inner);
            learnt.under_way = None;
            let outcome = match asked {
                Ok(metadata) => {
                    let keys = settings.keys(&metadata, learnt.known.as_ref());
                    let known = Known { metadata: Arc::new(metadata), keys, asked: now };
                    *learnt = Learnt { known: Some(known.clone()), ..Learnt::default() };
                    Ok(known)
                }
                Err(error) => {
                    let cause: &dyn std::error::Error = &error;
                    tracing::warn!(provider = settings.name, error = cause, "the provider could not be asked");
                    let error = Arc::new(error);
                    learnt.failed = Some((now.plus(begun.elapsed()), error.clone()));
                    Err(error)
                }
            };
            drop(learnt);
            tell.send_replace(Some(outcome));
        }));
        told
    }

    /// Ask for everything a sign-in needs before anybody signs in; answers what is worth knowing although it would work.
    ///
    /// # Errors
    /// [`ProviderError`]: nobody could sign in.
    pub async fn inspect(&self) -> Result<Vec<String>, ProviderError> {
        let metadata = self.settings.describe().await?;
        let keys = self.settings.keys(&metadata, None);
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

    /// The claims of a token that it signed for us, of this kind. Its signature is computed when it is its turn, where it `may` be then.
    ///
    /// # Errors
    /// [`ProviderError::IdToken`], or that its keys could not be had.
    pub(super) async fn verify(
        &self,
        known: &Known,
        token: &str,
        kind: Signed,
        may: &(dyn Fn() -> bool + Sync),
        now: Timestamp,
    ) -> Result<(Claims, Algorithm), ProviderError> {
        let brought = kind.brought();
        let (kind, longest, bytes) = kind.terms();
        let presented = Presented::parse_within(token, bytes).map_err(ProviderError::IdToken)?;
        if !presented.is_any(&[kind.to_owned()]) {
            return Err(ProviderError::IdToken(crate::policy::BadToken::Kind));
        }
        let (issuer, audiences) = (self.settings.issuer.clone(), vec![self.settings.client_id.clone()]);
        let expected = Expected { issuer, audiences, longest, leeway: LEEWAY };
        let claims = presented.judge(&expected, now).map_err(ProviderError::IdToken)?;
        let verified = known.keys.verify(&presented, brought, may, now).await.map_err(|_| ProviderError::Keys)?;
        verified.ok_or(ProviderError::TooManyFailures)?.map_err(ProviderError::IdToken)?;
        Ok((claims, presented.algorithm()))
    }
}
