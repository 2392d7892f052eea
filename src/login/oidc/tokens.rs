//! A provider's tokens in the service of a session: kept sealed, handed to applications that ask for them, refreshed ahead of
//! time. One decision: over all tabs and nodes one asks the provider – whoever holds the lock, which it renews while the call
//! runs – in a task of its own, for which only those wait who cannot go on without it; and what a holder brings back too late is
//! not written. Knows nothing of requests.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::session::{Keep, Kept, Revocation, ShelfKey, StoreError, View, Wait};
use crate::task::task;

use super::super::Login;
use super::cache::{Held, Outcome};
use super::error::{LoginError, ProviderError};
use super::exchange::Tokens;
use super::id_token::{Asked, check};
use super::provider::{Known, Provider, Signed};

/// An access token is renewed when so much of its life is left, and at the latest when a fifth is.
const AHEAD: Duration = Duration::from_secs(60);
/// How long the store's word counts here: roles learnt by another node are known here after it.
pub(super) const LOOK: Duration = Duration::from_secs(5);
/// A provider that failed is left alone for so long, from the end of the attempt.
const PAUSE: Duration = Duration::from_secs(5);
/// A lock that is not renewed is gone after it: a node that died holds nobody up for longer.
const LOCK: Duration = Duration::from_secs(10);
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(3);
/// How often somebody who waits for another's refresh looks, and how often in all.
const WAIT: Duration = Duration::from_millis(50);
const WAITS: usize = 120;
/// What could not be stored is tried again so soon at first, and so seldom at last: few sessions are refreshed at the moment at which
/// a store goes away, and another node may come with the old token when it is back.
const SOON: Duration = Duration::from_millis(250);
const SELDOM: Duration = Duration::from_millis(500);
/// The layout of what is kept; it is part of what is sealed.
const LAYOUT: u8 = 1;

/// What is kept of a session's tokens.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct KeptTokens {
    /// For signing out there.
    pub(super) id: Option<String>,
    pub(super) access: Option<String>,
    pub(super) refresh: Option<String>,
    /// Milliseconds since the epoch.
    pub(super) expires: Option<u64>,
    /// How long the access token lives, in milliseconds.
    pub(super) life: Option<u64>,
    /// Roles by what the provider said last.
    pub(super) roles: Vec<String>,
    /// How often they were refreshed.
    pub(super) count: u64,
}

impl KeptTokens {
    /// What a token endpoint gave. A refresh that brings no new refresh token leaves the old one in force (RFC 6749 §6).
    pub(super) fn new(tokens: &Tokens, old: Option<&KeptTokens>, roles: Vec<String>, now: Timestamp) -> KeptTokens {
        let refresh = tokens.refresh.as_ref().map(|token| token.to_string());
        KeptTokens {
            id: tokens.hint().or_else(|| old?.id.clone()),
            access: Some(tokens.access.to_string()),
            refresh: refresh.or_else(|| old?.refresh.clone()),
            expires: tokens.life.map(|life| now.plus(life).0),
            life: tokens.life.and_then(|life| u64::try_from(life.as_millis()).ok()),
            roles,
            count: old.map_or(0, |old| old.count + 1),
        }
    }

    /// When it is time to renew; `None`: never.
    fn renew(&self) -> Option<Timestamp> {
        self.refresh.as_ref()?;
        let ahead = self.life.map_or(Duration::ZERO, |life| AHEAD.min(Duration::from_millis(life / 5)));
        let ahead = u64::try_from(ahead.as_millis()).unwrap_or(0);
        self.expires.map(|expires| Timestamp(expires.saturating_sub(ahead)))
    }

    fn is_due(&self, now: Timestamp) -> bool {
        self.renew().is_some_and(|at| now >= at)
    }
}

pub(super) fn tokens_key(view: &View) -> ShelfKey {
    ShelfKey::of("oidc/tokens", &view.key.0)
}

fn lock_key(view: &View) -> ShelfKey {
    ShelfKey::of("oidc/refresh", &view.key.0)
}

/// What one who follows a session's tokens cannot go on without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// The access token: it is handed on.
    Token,
    /// Who is calling. Known well enough while the access token counts, or while the provider is known to be away.
    Caller,
    /// What a refresh that is due comes to.
    Outcome,
}

/// What following a session's tokens came to.
#[derive(Clone, Debug)]
pub enum Followed {
    /// Its provider's tokens are not kept.
    Nothing,
    /// The access token, where there is one that counts; and whether roles changed, so that who calls has to be asked anew.
    Token {
        /// As a header carries it.
        access: Option<AccessToken>,
        /// Whether roles changed.
        changed: bool,
    },
    /// The provider ended it, and so it was ended here.
    Ended,
    /// What was waited for panicked: nothing is known, and nobody may go on.
    Broken,
}

/// An access token, ready to be set.
#[derive(Clone, Debug)]
pub struct AccessToken {
    /// Alone.
    pub plain: HeaderValue,
    /// As `Authorization` carries it.
    pub bearer: HeaderValue,
}

/// The outcome of one look at the store and, perhaps, the provider.
enum Looked {
    Held(Held),
    /// The provider gave it, and the store did not take it.
    Unwritten(Held, Unwritten),
    Nothing,
    Ended,
}

/// What is to be written over the very version that was refreshed.
struct Unwritten {
    fresh: KeptTokens,
    over: u64,
    lock: u64,
}

impl Login {
    /// See to the tokens of a session: read, and renewed where it is time. What is renewed is so in a task of `acts`, which goes to its
    /// end whoever waits: once the provider was asked, the refresh token at hand may be void, and its successor would be lost with a
    /// client that leaves. The next refresh would then be taken for a theft.
    ///
    /// # Errors
    /// [`LoginError::Store`]. A provider that is away is none: the session goes on within its own limits.
    pub async fn follow<R>(
        home: &Arc<R>,
        acts: &TaskTracker,
        view: &Arc<View>,
        needs: Needs,
        now: Timestamp,
    ) -> Result<Followed, LoginError>
    where
        R: AsRef<Login> + Send + Sync + 'static,
    {
        let login: &Login = (**home).as_ref();
        if !view.provided().is_some_and(|provided| provided.keeps) {
            return Ok(Followed::Nothing);
        }
        // Where it is in the file no more its tokens are nobody's; what it said last of roles still counts, and not what it said first.
        let provider = login.oidc.provider_of(view);
        let told = |held: &Held, known: &[String]| match provider {
            Some(_) => token(held, known, now),
            None => Followed::Token { access: None, changed: known != held.roles },
        };
        let cache = &login.oidc.cache;
        let is_settled = |held: &Arc<Held>| {
            let settled = provider.is_none() || !held.is_due(now) || held.is_paused(now);
            now.since(held.read) < LOOK && (settled || (held.suffices(needs, now) && cache.is_under_way(view.key)))
        };
        let before = cache.get(view.key);
        let known = before.as_ref().map_or(view.roles(), |held| &held.roles);
        if let Some(held) = before.as_ref().filter(|held| is_settled(held)) {
            return Ok(told(held, known));
        }
        let alone = cache.alone(view.key).await;
        if let Some(held) = cache.get(view.key).filter(is_settled) {
            return Ok(told(&held, known));
        }
        let nothing = Followed::Token { access: None, changed: false };
        let Some((kept, tokens)) = login.read_kept(view, now).await? else { return Ok(nothing) };
        let failed = cache.get(view.key).and_then(|held| held.failed).filter(|_| tokens.is_due(now));
        let Looked::Held(held) = held(&tokens, failed, now) else { return Ok(nothing) };
        let held = login.note(view, held);
        drop(alone);
        let Some(provider) = provider.filter(|_| tokens.is_due(now) && !held.is_paused(now)) else {
            return Ok(told(&held, known));
        };
        let (mut told, begun) = cache.join(view.key);
        if let Some(begun) = begun {
            let (home, provider, view) = (home.clone(), provider.clone(), view.clone());
            acts.spawn(task(async move {
                let login: &Login = (*home).as_ref();
                let (outcome, unwritten) = login.refresh(&provider, &view, (kept, tokens), now).await;
                begun.tell(outcome);
                if let Some(unwritten) = unwritten {
                    login.write_at_last(&view, unwritten, now).await;
                }
            }));
        }
        if held.suffices(needs, now) {
            return Ok(token(&held, known, now));
        }
        let outcome = told.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        match outcome {
            Some(Outcome::Held(held)) => Ok(token(&held, known, now)),
            Some(Outcome::Nothing) => Ok(nothing),
            Some(Outcome::Ended) => Ok(Followed::Ended),
            Some(Outcome::Store(error)) => Err(StoreError::Unavailable(Box::new(error)).into()),
            None => Ok(Followed::Broken),
        }
    }

    /// Remember it, unless more is known by now. Where roles changed, who calls is to be asked anew by everybody.
    fn note(&self, view: &View, held: Held) -> Arc<Held> {
        let before = self.oidc.cache.get(view.key);
        if let Some(newer) = before.as_ref().filter(|before| before.count > held.count) {
            return newer.clone();
        }
        let changed = before.as_ref().map_or(view.roles(), |before| &before.roles) != held.roles;
        let held = Arc::new(held);
        self.oidc.cache.put(view.key, held.clone());
        if changed {
            self.sessions.refresh(view.user);
        }
        held
    }

    /// Renew what is due, or wait for the node that does. Whatever it comes to is remembered before it is told; and what is still to
    /// be written.
    async fn refresh(
        &self,
        provider: &Provider,
        view: &View,
        (kept, tokens): (Kept, KeptTokens),
        now: Timestamp,
    ) -> (Outcome, Option<Unwritten>) {
        let over = Keep { key: lock_key(view), over: None, bytes: vec![1], until: now.plus(LOCK) };
        let looked = match self.sessions.keep(over, now).await {
            Ok(Some(lock)) => self.renew(provider, view, (kept, tokens), lock, now).await,
            Ok(None) => self.wait_for(view, (kept, tokens), now).await,
            Err(error) => Err(error),
        };
        match looked {
            Ok(Looked::Unwritten(held, unwritten)) => (Outcome::Held(self.note(view, held)), Some(unwritten)),
            Ok(Looked::Held(held)) => (Outcome::Held(self.note(view, held)), None),
            Ok(Looked::Nothing) => (Outcome::Nothing, None),
            Ok(Looked::Ended) => (Outcome::Ended, None),
            Err(error) => (Outcome::Store(Arc::new(error)), None),
        }
    }

    /// Until the store has it, or another node wrote, or the session is over: the provider may have taken the old refresh token back,
    /// and an outage of the store at that moment would sign somebody out when the next refresh is due. Who asks meanwhile is told
    /// of what is here.
    async fn write_at_last(&self, view: &View, unwritten: Unwritten, now: Timestamp) {
        let begun = tokio::time::Instant::now();
        let mut wait = SOON;
        loop {
            tokio::time::sleep(wait).await;
            wait = SELDOM.min(wait * 2);
            let at = now.plus(begun.elapsed());
            match self.write_renewed(view, unwritten.over, &unwritten.fresh, at).await {
                Ok(_) => break,
                Err(error) if at >= view.limits().ends => {
                    tracing::warn!(session = ?view.key, %error, "renewed tokens were never stored; the session is over");
                    return;
                }
                Err(_) => {}
            }
        }
        tracing::info!(session = ?view.key, "renewed tokens are stored at last");
        self.unlock(view, unwritten.lock).await;
    }

    /// Until the one who holds the lock has written, or has given it back without: then it failed.
    async fn wait_for(
        &self,
        view: &View,
        (kept, mut tokens): (Kept, KeptTokens),
        now: Timestamp,
    ) -> Result<Looked, StoreError> {
        let begun = tokio::time::Instant::now();
        let at = || now.plus(begun.elapsed());
        for _ in 0..WAITS {
            tokio::time::sleep(WAIT).await;
            // Before the tokens: what was written under it is there when it is gone.
            let is_held = self.sessions.kept(lock_key(view), at()).await?.is_some();
            let Some(newer) = self.read_kept(view, at()).await? else { return Ok(Looked::Nothing) };
            let is_newer = newer.0.version != kept.version;
            tokens = newer.1;
            if is_newer {
                return Ok(held(&tokens, None, now));
            }
            if !is_held {
                break;
            }
        }
        Ok(held(&tokens, Some(at()), now))
    }

    /// Ask the provider, under the lock.
    async fn renew(
        &self,
        provider: &Provider,
        view: &View,
        (kept, tokens): (Kept, KeptTokens),
        lock: u64,
        now: Timestamp,
    ) -> Result<Looked, StoreError> {
        // Between our reading and the lock another one may have finished.
        let Some((current, newer)) = self.read_kept(view, now).await? else { return Ok(Looked::Nothing) };
        if current.version != kept.version {
            self.unlock(view, lock).await;
            return Ok(held(&newer, None, now));
        }
        let begun = tokio::time::Instant::now();
        let (outcome, lock) = self.ask_under_lock(provider, view, &tokens, lock, now).await;
        let looked = match outcome {
            Ok(Renewed::Tokens(fresh)) => {
                let at = now.plus(begun.elapsed());
                match (self.write_renewed(view, kept.version, &fresh, at).await, held(&fresh, None, now)) {
                    (Err(error), Looked::Held(held)) => {
                        tracing::warn!(session = ?view.key, %error, "renewed tokens are not stored; it is tried again");
                        // The lock stays: it may be a while yet before it ends by itself.
                        return Ok(Looked::Unwritten(held, Unwritten { fresh, over: kept.version, lock }));
                    }
                    (written, _) => written,
                }
            }
            Ok(Renewed::NotAllowed) => self.end_session_of(view, now).await,
            Err(ProviderError::Refused(code)) if code == "invalid_grant" => {
                // Another one may have used it: then the record says so, and nothing is over.
                match self.read_kept(view, now).await? {
                    Some((newer, tokens)) if newer.version != kept.version => Ok(held(&tokens, None, now)),
                    _ => self.end_session_of(view, now).await,
                }
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(provider = provider.name(), error, "tokens could not be refreshed; the session goes on");
                Ok(held(&tokens, Some(now.plus(begun.elapsed())), now))
            }
        };
        self.unlock(view, lock).await;
        looked
    }

    /// The call, and the lock kept alive beside it.
    async fn ask_under_lock(
        &self,
        provider: &Provider,
        view: &View,
        tokens: &KeptTokens,
        mut lock: u64,
        now: Timestamp,
    ) -> (Result<Renewed, ProviderError>, u64) {
        let mut call = std::pin::pin!(provider.renewed(tokens, view, now));
        let begun = tokio::time::Instant::now();
        loop {
            tokio::select! {
                outcome = &mut call => return (outcome, lock),
                () = tokio::time::sleep(RENEW) => {
                    let at = now.plus(begun.elapsed());
                    let keep = Keep { key: lock_key(view), over: Some(lock), bytes: vec![1], until: at.plus(LOCK) };
                    if let Ok(Some(renewed)) = self.sessions.keep(keep, at).await {
                        lock = renewed;
                    }
                }
            }
        }
    }

    async fn unlock(&self, view: &View, lock: u64) {
        if let Err(error) = self.sessions.discard(lock_key(view), lock).await {
            tracing::debug!(%error, "a lock is left to end by itself");
        }
    }

    /// Over the very version that was refreshed: what comes too late is not written, and what is there counts.
    async fn write_renewed(
        &self,
        view: &View,
        over: u64,
        fresh: &KeptTokens,
        now: Timestamp,
    ) -> Result<Looked, StoreError> {
        let Some(bytes) = self.seal_tokens(view, fresh) else { return Ok(Looked::Nothing) };
        let keep = Keep { key: tokens_key(view), over: Some(over), bytes, until: view.limits().ends };
        if self.sessions.keep(keep, now).await?.is_some() {
            return Ok(held(fresh, None, now));
        }
        match self.read_kept(view, now).await? {
            Some((_, tokens)) => Ok(held(&tokens, None, now)),
            None => Ok(Looked::Nothing),
        }
    }

    async fn end_session_of(&self, view: &View, now: Timestamp) -> Result<Looked, StoreError> {
        self.sessions.revoke(Revocation::Session(view.key), Wait::BROWSER, now).await?;
        tracing::info!(session = ?view.key, "ended: the provider no longer vouches for it");
        Ok(Looked::Ended)
    }

    /// The tokens of a session, where some are kept.
    pub(super) async fn read_kept(
        &self,
        view: &View,
        now: Timestamp,
    ) -> Result<Option<(Kept, KeptTokens)>, StoreError> {
        let Some(kept) = self.sessions.kept(tokens_key(view), now).await? else { return Ok(None) };
        let opened = self.open_tokens(view, &kept.bytes);
        Ok(opened.map(|tokens| (kept, tokens)))
    }

    /// Sealed to session, user and the number of the refresh: moved elsewhere, or put back, it does not open.
    pub(super) fn seal_tokens(&self, view: &View, tokens: &KeptTokens) -> Option<Vec<u8>> {
        let plain = Zeroizing::new(serde_json::to_vec(tokens).ok()?);
        let count = tokens.count.to_be_bytes();
        let place: [&[u8]; 5] = [b"tokens", &[LAYOUT], &view.key.0, &view.user.0, &count];
        let sealed = self.oidc.sealer.seal(&place, &plain)?;
        Some([&[LAYOUT][..], &count, &sealed].concat())
    }

    fn open_tokens(&self, view: &View, bytes: &[u8]) -> Option<KeptTokens> {
        let (&layout, rest) = bytes.split_first()?;
        let (count, sealed) = rest.split_first_chunk::<8>()?;
        let place: [&[u8]; 5] = [b"tokens", &[layout], &view.key.0, &view.user.0, count];
        let plain = Zeroizing::new(self.oidc.sealer.open(&place, sealed)?);
        serde_json::from_slice(&plain).ok()
    }
}

/// What a provider said at a refresh.
enum Renewed {
    Tokens(KeptTokens),
    /// The person is on no list any more.
    NotAllowed,
}

impl Provider {
    /// Refresh, and learn who the person is now. Once the provider gave new tokens the old ones may be void: they are kept
    /// whatever else fails, or the next refresh would be taken for a theft.
    async fn renewed(&self, old: &KeptTokens, view: &View, now: Timestamp) -> Result<Renewed, ProviderError> {
        let known = self.known(now).await?;
        let refresh = old.refresh.as_deref().unwrap_or_default();
        let tokens = self.refresh(&known, refresh, now).await?;
        let roles = match self.roles_now(&known, &tokens, (view, &old.roles), now).await {
            Ok(Some(roles)) => roles,
            Ok(None) => return Ok(Renewed::NotAllowed),
            Err(error) if error.is_outage() => {
                tracing::warn!(provider = self.name(), %error, "roles stay as they were");
                old.roles.clone()
            }
            Err(error) => {
                // Tokens of somebody else, or of nobody: not to be used in this session.
                tracing::warn!(provider = self.name(), %error, "what a refresh brought does not hold");
                return Ok(Renewed::NotAllowed);
            }
        };
        Ok(Renewed::Tokens(KeptTokens::new(&tokens, Some(old), roles, now)))
    }

    /// `None`: on no list any more. An ID token tells of the person as at sign-in, and what it leaves out is gone. An answer need not
    /// bring one (Core §12.2): then what userinfo does not tell stays as it was.
    async fn roles_now(
        &self,
        known: &Known,
        tokens: &Tokens,
        (view, roles): (&View, &[String]),
        now: Timestamp,
    ) -> Result<Option<Vec<String>>, ProviderError> {
        let subject = view.subject();
        let mut claims = serde_json::Map::new();
        if let Some(token) = &tokens.id {
            let (told, algorithm) = self.verify(known, token, Signed::IdToken, &|| true, now).await?;
            let asked = Asked {
                client_id: &self.settings.client_id,
                nonce: None,
                access_token: &tokens.access,
                algorithm,
                max_age: None,
                acr: &[],
                now,
            };
            // OpenID Connect Core §12.2: of the same person, or nothing of it counts.
            if check(&told.all, &asked)?.subject != *subject {
                return Err(ProviderError::OtherSubject);
            }
            claims = told.all;
        }
        let rules = &self.settings.rules;
        let lacks = rules.lacks(&claims);
        if tokens.id.is_none() {
            // Nobody else tells who it is: a refusal says that nobody vouches for the person any more.
            if lacks {
                self.complete(known, &tokens.access, subject, &mut claims).await?;
            }
            return Ok(rules.roles_now(claims, view.email(), roles));
        }
        if lacks {
            self.complete_signed(known, &tokens.access, subject, &mut claims).await?;
        }
        claims.entry("sub").or_insert_with(|| subject.into());
        let (person, allowed) = rules.person(&claims)?;
        Ok(allowed.is_ok().then_some(person.roles))
    }
}

fn held(tokens: &KeptTokens, failed: Option<Timestamp>, now: Timestamp) -> Looked {
    let line = |text: String| {
        let mut line = HeaderValue::from_str(&text).ok()?;
        line.set_sensitive(true);
        Some(line)
    };
    let access = tokens.access.as_deref().unwrap_or_default();
    let (Some(plain), Some(bearer)) = (line(access.to_owned()), line(format!("Bearer {access}"))) else {
        return Looked::Nothing;
    };
    Looked::Held(Held {
        access: plain,
        bearer,
        expires: tokens.expires.map(Timestamp),
        renew: tokens.renew(),
        roles: tokens.roles.clone(),
        read: now,
        failed,
        count: tokens.count,
    })
}

impl Held {
    fn is_due(&self, now: Timestamp) -> bool {
        self.renew.is_some_and(|at| now >= at)
    }

    /// Whether the provider failed a moment ago.
    fn is_paused(&self, now: Timestamp) -> bool {
        self.failed.is_some_and(|failed| now.since(failed) < PAUSE)
    }

    /// A token past its end is none: an application would only be told so by somebody else.
    fn counts(&self, now: Timestamp) -> bool {
        !self.access.is_empty() && self.expires.is_none_or(|expires| now < expires)
    }

    /// Whether one goes on with it while it is being renewed.
    fn suffices(&self, needs: Needs, now: Timestamp) -> bool {
        match needs {
            Needs::Token => self.counts(now),
            Needs::Caller => self.counts(now) || self.failed.is_some(),
            Needs::Outcome => false,
        }
    }
}

/// For one who asked when these roles were known.
fn token(held: &Held, known: &[String], now: Timestamp) -> Followed {
    let access = held.counts(now).then(|| AccessToken { plain: held.access.clone(), bearer: held.bearer.clone() });
    Followed::Token { access, changed: known != held.roles }
}
