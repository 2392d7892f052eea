//! Tokens of our own making: sessions that browsers carry themselves.
//!
//! One decision: a token saves asking the store, it does not replace it: the session's record exists as in any mode, so that lists,
//! limits, sign-out and administration know of it, and what ends there is over here with the next request. Knows nothing of
//! cookies' names and attributes.

mod access;
mod family;
mod handing;
mod identity;
pub mod ring;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, Timestamp};
use crate::memory::Memory;
use crate::session::{
    Activity, EndedBecause, InUse, Lookup, Revocation, Session, SessionKey, Sessions, StoreError, TokenId, View, Wait,
    Who,
};

use super::cache::digest_of;
use super::recent::Recent;
use super::turns::in_turn;
use access::{Access, Codec, Unread};
use family::{Families, Turned};
use ring::KeyRing;

pub use access::Format;
pub use handing::Handing;
pub use identity::SignedIdentities;

/// How such sessions are kept.
#[derive(Clone, Debug)]
pub struct OwnSettings {
    /// How access tokens are made.
    pub format: Format,
    /// How long one lives.
    pub life: Duration,
    /// How long the refresh token before the last is still answered, with the same one, when that was handed over.
    pub grace: Duration,
    /// The name of the session's cookie: a token counts where that is the same.
    pub cookie: String,
    /// Keeps gateways apart that share keys; may be empty.
    pub site: String,
    /// Access tokens kept in memory.
    pub entries: u64,
}

/// What a browser is handed.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The access token.
    pub access: String,
    /// The refresh token.
    pub refresh: String,
}

/// What was learnt of a pair.
pub struct Learnt {
    /// The session, or why there is none.
    pub lookup: Lookup,
    /// What the browser has to be handed now.
    pub renewed: Option<Pair>,
    /// The access token that told of the session, where it may be denied by its id.
    pub told_by: Option<TokenId>,
    /// When the access token ends that was brought and told of it; `None` where none did.
    pub until: Option<Timestamp>,
    /// Asked before what was renewed goes out.
    pub handing: Option<Handing>,
}

impl Learnt {
    /// This, and nothing beside.
    pub fn of(lookup: Lookup) -> Learnt {
        Learnt { lookup, renewed: None, told_by: None, until: None, handing: None }
    }

    /// None.
    pub fn ended(because: EndedBecause) -> Learnt {
        Learnt::of(Lookup::Ended(because))
    }
}

/// Writes down whose session ended because a refresh token of it was used again, or may have, where the store did not say that it did.
/// Whoever brought the token may be gone by then.
pub type Tell = Box<dyn FnOnce(&Who, bool) + Send>;

/// Gives a record the roles of this moment; `None` where its user is gone.
pub trait Current: Send + Sync {
    /// The record as of now.
    fn current(&self, key: SessionKey, session: Session) -> Option<Session>;
}

/// An access token that tells of a session in use.
pub struct Telling {
    /// The session.
    pub session: Arc<InUse>,
    /// Its name, where it may be denied by that.
    pub id: Option<TokenId>,
    /// Its end.
    pub ends: Timestamp,
}

/// An access token that was read.
struct Read {
    view: Arc<View>,
    access: Access,
}

/// Sessions in tokens.
pub struct OwnTokens {
    sessions: Arc<Sessions>,
    ring: Arc<KeyRing>,
    codec: Codec,
    families: Arc<Families>,
    read: Memory<Read>,
    clock: Arc<dyn Clock>,
}

impl OwnTokens {
    /// Over these sessions and keys; `mac` is the key of refresh tokens. The clock says when answers are handed over.
    pub fn new(
        sessions: Arc<Sessions>,
        ring: Arc<KeyRing>,
        mac: &[u8; 32],
        clock: Arc<dyn Clock>,
        settings: OwnSettings,
    ) -> OwnTokens {
        let OwnSettings { format, life, grace, cookie, site, entries } = settings;
        let codec = Codec::new(format, life, cookie, site);
        let families = Arc::new(Families::new(mac, grace));
        OwnTokens { sessions, ring, codec, families, read: Memory::new(entries), clock }
    }

    /// A pair for a session that was just begun.
    ///
    /// # Errors
    /// [`StoreError`]; then there is none.
    pub async fn begin(&self, view: &View, now: Timestamp) -> Result<Pair, StoreError> {
        self.ring.found_now(now).await?;
        let refresh = self.families.found(&self.sessions, view.key, view.limits().ends, now).await?;
        Ok(Pair { access: self.make(view.key, &view.record(), now)?.0, refresh })
    }

    /// The session of a refresh token, whatever became of it; `None` where it is none of ours.
    pub fn session_of(&self, refresh: &str) -> Option<SessionKey> {
        self.families.read(refresh).map(|token| token.key)
    }

    /// An access token for a session, and its name where it has one.
    ///
    /// # Errors
    /// [`StoreError`], where the system's generator failed.
    pub fn make(
        &self,
        key: SessionKey,
        session: &Session,
        now: Timestamp,
    ) -> Result<(String, Option<TokenId>), StoreError> {
        let made = self.codec.make(&self.ring, key, session, now);
        made.ok_or_else(|| StoreError::Unavailable("a token could not be made".into()))
    }

    /// The session of which these very bytes told before, where memory alone can still answer. `None` means nothing but *look it up*.
    pub fn remembered(
        &self,
        recent: &Recent<Telling>,
        access: &str,
        activity: Activity,
        now: Timestamp,
    ) -> Option<Arc<Telling>> {
        let telling = recent.find(access)?;
        // After the look into memory, as in `by_access`, and of every part of the store: a token may be denied in any.
        self.sessions.hears_all().ok()?;
        let counts = now < telling.ends && !self.is_denied(telling.id);
        (counts && self.sessions.goes_on(&telling.session, activity, now)).then_some(telling)
    }

    /// The session of a pair. The store is asked only where the access token is over, about to be, or contradicted.
    ///
    /// # Errors
    /// [`StoreError`] where only the store could have said.
    pub async fn lookup(
        &self,
        (access, refresh): (Option<&str>, Option<&str>),
        current: &dyn Current,
        activity: Activity,
        now: Timestamp,
        on_reuse: &(dyn Fn() -> Tell + Sync),
    ) -> Result<Learnt, StoreError> {
        // Before anything is judged or turned by it.
        self.ring.found_now(now).await?;
        let mut because = EndedBecause::Unknown;
        if let Some(token) = access {
            match self.by_access(token, activity, now).await? {
                Ok((lookup @ Lookup::Alive(_), told_by, until)) => {
                    return Ok(Learnt { told_by, until: Some(until), ..Learnt::of(lookup) });
                }
                Ok((Lookup::Ended(ended), ..)) => because = ended,
                // What was changed is not forgiven: a good refresh token beside it does not make it good.
                Err(Unread::Forged) => return Ok(Learnt::ended(EndedBecause::Forged)),
                Err(Unread::Over) => because = EndedBecause::Absolute,
            }
        }
        match refresh {
            Some(token) => self.by_refresh(token, current, activity, now, on_reuse).await,
            None => Ok(Learnt::ended(because)),
        }
    }

    async fn by_access(
        &self,
        token: &str,
        activity: Activity,
        now: Timestamp,
    ) -> Result<Result<(Lookup, Option<TokenId>, Timestamp), Unread>, StoreError> {
        let digest = digest_of(token);
        let known = self.read.get(&digest);
        // Whoever cannot hear of revocations cannot say that there was none. Asked after the look into memory, as for sessions.
        self.sessions.hears_all()?;
        if let Some(read) = known {
            if now >= read.access.ends {
                return Ok(Err(Unread::Over));
            }
            if self.is_denied(read.access.id) {
                return Ok(Ok((Lookup::Ended(EndedBecause::Revoked), None, read.access.ends)));
            }
            if self.sessions.still_alive(&read.view) {
                let lookup = self.sessions.using(&read.view, activity, now).await?;
                return Ok(Ok((lookup, read.access.id, read.access.ends)));
            }
        }
        let look = || in_turn(|| self.codec.read(&self.ring, token, now));
        let mut read = look().await;
        if read == Err(Unread::Over) {
            // Perhaps another node's new key.
            self.ring.look(now).await;
            read = look().await;
        }
        self.sessions.hears_all()?;
        let access = match read {
            Ok(access) if self.is_denied(access.id) => {
                return Ok(Ok((Lookup::Ended(EndedBecause::Revoked), None, access.ends)));
            }
            Ok(access) => access,
            Err(unread) => return Ok(Err(unread)),
        };
        // A token may be denied by its id in any part of the store.
        self.sessions.hears_all()?;
        let Some(view) = self.sessions.adopt(access.key, access.session.clone())? else {
            return Ok(Ok((Lookup::Ended(EndedBecause::Revoked), None, access.ends)));
        };
        let (id, ends) = (access.id, access.ends);
        self.read.put(digest, Arc::new(Read { view: view.clone(), access }));
        Ok(Ok((self.sessions.using(&view, activity, now).await?, id, ends)))
    }

    fn is_denied(&self, id: Option<TokenId>) -> bool {
        id.is_some_and(|id| self.sessions.is_token_revoked(id))
    }

    async fn by_refresh(
        &self,
        token: &str,
        current: &dyn Current,
        activity: Activity,
        now: Timestamp,
        on_reuse: &(dyn Fn() -> Tell + Sync),
    ) -> Result<Learnt, StoreError> {
        let Some(refresh) = self.families.read(token) else { return Ok(Learnt::ended(EndedBecause::Forged)) };
        // The record first: a session that is over must not be given another token, whoever asks.
        let session = match self.sessions.record(refresh.key, activity, now).await? {
            Ok(session) => session,
            Err(because) => return Ok(Learnt::ended(because)),
        };
        let Some(session) = current.current(refresh.key, session) else {
            return Ok(Learnt::ended(EndedBecause::UserUnknown));
        };
        let (next, handed) = match self.families.turn(&self.sessions, &refresh, now).await? {
            Turned::Next(next, handed) => (next, handed),
            Turned::Gone => return Ok(Learnt::ended(EndedBecause::Unknown)),
            Turned::Reused => {
                // Two hold the same token: whoever came by it unlawfully, and whoever signed in, are both out.
                tracing::warn!(session = ?refresh.key, "a refresh token was used again; its session is over");
                let (sessions, what, tell) = (self.sessions.clone(), Revocation::Session(refresh.key), on_reuse());
                // To its end without whoever asked: a thief who leaves early while the store is slow must neither keep the session
                // nor go unseen.
                let revoking = tokio::spawn(async move {
                    let revoked = sessions.revoke(what, Wait::BROWSER, now).await;
                    // Of many that come at once, one says so.
                    if !revoked.as_ref().is_ok_and(|revoked| revoked.ended == 0) {
                        tell(&session.who(), revoked.is_ok());
                    }
                    revoked.map(drop)
                });
                revoking.await.map_err(|gone| StoreError::Unavailable(Box::new(gone)))??;
                return Ok(Learnt::ended(EndedBecause::Reused));
            }
        };
        let handing = self.families.read(&next).map(|token| {
            let (families, sessions, clock) = (self.families.clone(), self.sessions.clone(), self.clock.clone());
            Handing::new(families, sessions, token, clock, (handed, now))
        });
        let (access, told_by) = self.make(refresh.key, &session, now)?;
        let Some(view) = self.sessions.adopt(refresh.key, session)? else {
            return Ok(Learnt::ended(EndedBecause::Revoked));
        };
        let lookup = self.sessions.using(&view, Activity::Passive, now).await?;
        Ok(Learnt { lookup, renewed: Some(Pair { access, refresh: next }), told_by, until: None, handing })
    }
}
