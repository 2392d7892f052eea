//! Sessions, as the rest of the gateway asks for them. One decision: what memory knows is enough to accept, never to deny:
//! a denial is the store's word. Whoever a revocation is learnt from, it takes effect in [`Sessions::apply`].
//! Knows nothing of HTTP, roles or pages.

mod adopt;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::clock::Timestamp;

use super::cache::{Cache, NotLoaded};
use super::coherence::{Coherence, NoLease, Refused, Rules, Trust};
use super::counts::Counts;
use super::exchange::{Exchanges, MayGoOn, OpenExchange};
use super::in_use::InUse;
use super::ledger::Ledger;
use super::lifetime::{Lifetimes, Touch, Verdict, judge};
use super::memo::Memo;
use super::{
    Bearer, Committed, CookieCodec, Creation, Event, Keep, Kept, KeyError, Listed, Part, Provided, Revocation, Revoked,
    Session, SessionKey, SessionStore, ShelfKey, StoreError, TokenId, UserKey, View, Wait,
};

/// How long a revocation that waits fully may take to find a store and a replica, beyond what silent nodes are waited for.
const GIVE_UP: Duration = Duration::from_secs(6);
/// A load whose generations moved is repeated; more often than this something is wrong and nobody is let in.
const LOADS: usize = 4;

/// What sessions are made and kept by.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Limits of new sessions.
    pub lifetimes: Lifetimes,
    /// Sessions in local memory.
    pub cache_entries: u64,
    /// Sessions a user may have.
    pub max_sessions: Option<u32>,
    /// How long the store may take to answer.
    pub store_timeout: Duration,
}

/// Who signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSession {
    /// See [`Session`].
    pub provider: String,
    /// See [`Session`].
    pub subject: String,
    /// See [`Session`].
    pub entry: u64,
    /// See [`Session`].
    pub name: Option<String>,
    /// See [`Session`].
    pub email: Option<String>,
    /// See [`Session`].
    pub roles: Vec<String>,
    /// See [`Session`].
    pub device: String,
    /// See [`Session`].
    pub provided: Option<Provided>,
}

/// Whether a request counts as use of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It does.
    Active,
    /// It does not: the session ends as if it had not come.
    Passive,
}

/// Why there is no session behind a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBecause {
    /// The store knows none.
    Unknown,
    /// Not made by this gateway, or changed. The store was not asked.
    Forged,
    /// Unused for too long.
    Idle,
    /// Past its absolute end.
    Absolute,
    /// It was alive here, and the store says it is no more.
    Revoked,
    /// A refresh token of it was used twice.
    Reused,
    /// Whoever knows its user has nobody to go with it.
    UserUnknown,
}

/// The answer to a cookie.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// A session within its limits.
    Alive(Arc<View>),
    /// None.
    Ended(EndedBecause),
}

/// A session that was just begun.
#[derive(Clone, Debug)]
pub struct Begun {
    /// The cookie's value. It is known to nobody else and nowhere kept.
    pub cookie: String,
    /// The session.
    pub view: Arc<View>,
}

/// Sessions on this node.
pub struct Sessions {
    pub(super) store: Arc<dyn SessionStore>,
    codec: CookieCodec,
    pub(super) settings: Settings,
    pub(super) cache: Cache,
    pub(super) ledger: Ledger,
    pub(super) exchanges: Exchanges,
    pub(super) queue: Mutex<Vec<(SessionKey, Timestamp)>>,
    counts: Counts,
    /// Where other nodes share the store.
    pub(super) coherence: Option<Arc<Coherence>>,
}

impl Sessions {
    /// Sessions over a store; nothing is served from memory while a shared store is away.
    pub fn new(store: Arc<dyn SessionStore>, codec: CookieCodec, settings: Settings) -> Arc<Sessions> {
        Sessions::lenient(store, codec, settings, Duration::ZERO)
    }

    /// Sessions over a store. While a shared one is away, those in memory are served for `grace` beyond the lease – and every
    /// revocation that another node does not acknowledge waits for as much longer.
    pub fn lenient(
        store: Arc<dyn SessionStore>,
        codec: CookieCodec,
        settings: Settings,
        grace: Duration,
    ) -> Arc<Sessions> {
        let coherence = store.shared().map(|log| Coherence::new(log, Rules::new(grace)));
        let cache = Cache::new(settings.cache_entries);
        let (exchanges, queue) = (Exchanges::default(), Mutex::new(Vec::new()));
        let (ledger, counts) = (Ledger::new(), Counts::default());
        Arc::new(Sessions { store, codec, settings, cache, ledger, exchanges, queue, counts, coherence })
    }

    /// What asking cost so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Sessions in memory, about.
    pub fn cached(&self) -> u64 {
        self.cache.len()
    }

    /// Whether the store answers at all, and this node hears of revocations in half of its parts at least: where a master of a
    /// cluster is lost, every node misses the same parts, and none is better asked than this. Answers in how many parts it does
    /// not.
    ///
    /// # Errors
    /// [`StoreError`] where not.
    pub async fn probe(&self) -> Result<usize, StoreError> {
        let parts = self.parts();
        let (heard, missed): (Vec<_>, Vec<_>) = parts.into_iter().partition(|part| self.hears(part.index).is_ok());
        if heard.len() < missed.len() {
            return Err(no_lease());
        }
        let ask = async {
            let mut answer = Err(no_lease());
            for part in heard {
                // No cookie leads to this key: whatever the answer says, it is an answer.
                let mut key = [0; 16];
                key[15] = part.index;
                answer = self.store.load(SessionKey(key)).await.map(drop);
                if answer.is_ok() {
                    break;
                }
            }
            answer
        };
        self.bounded(ask).await.map(|()| missed.len())
    }

    /// In how many parts of the store this node does not hear of revocations.
    pub fn missed(&self) -> usize {
        self.parts().iter().filter(|part| self.hears(part.index).is_err()).count()
    }

    /// Whether the store took the last write. One that does not, as where its disk is full, still answers for those who are signed in.
    pub fn takes_writes(&self) -> bool {
        self.store.takes_writes()
    }

    /// When the certificate ends that the store is shown.
    pub fn shown_until(&self) -> Option<SystemTime> {
        self.store.shown_until()
    }

    /// Why this node may not share the store with those that run on it now; `None`: it may.
    pub fn refused(&self) -> Option<Refused> {
        self.coherence.as_ref().and_then(|coherence| coherence.refused())
    }

    /// The parts of the store; one, where it is not divided.
    pub(super) fn parts(&self) -> Vec<Part> {
        let of = self.coherence.as_ref().map_or(1, |coherence| coherence.parts());
        (0..of).map(|index| Part { index, of }).collect()
    }

    fn trust(&self, shard: u8) -> Trust {
        self.coherence.as_ref().map_or(Trust::Full, |coherence| coherence.trust(shard))
    }

    /// Whether what this node remembers of a shard's revocations is all there is. Without it nothing may be answered that rests
    /// on not having heard: a session that is not in memory, a token that answers for itself.
    ///
    /// # Errors
    /// [`StoreError`], an outage, where the lease has run out.
    pub fn hears(&self, shard: u8) -> Result<(), StoreError> {
        if self.trust(shard) == Trust::Full { Ok(()) } else { Err(no_lease()) }
    }

    /// [`Sessions::hears`] of every part of the store: for tokens, which may be revoked in more than one.
    ///
    /// # Errors
    /// As there.
    pub fn hears_all(&self) -> Result<(), StoreError> {
        let trust = self.coherence.as_ref().map_or(Trust::Full, |coherence| coherence.trust_all());
        if trust == Trust::Full { Ok(()) } else { Err(no_lease()) }
    }

    /// The last look before a request goes on: whether the session it was let in by still counts. A process that stood still
    /// between the check and now has missed what was revoked meanwhile.
    ///
    /// # Errors
    /// [`StoreError`] where the lease has run out since.
    pub fn confirm(&self, session: &InUse) -> Result<bool, StoreError> {
        match self.trust(session.key.shard()) {
            Trust::None => Err(no_lease()),
            _ => Ok(self.stands(session) || !self.is_over(session.key, session.user, session.view.epoch())),
        }
    }

    /// What a session in memory is good for now. The lease is looked at after memory: the other way round a process that stands
    /// still in between answers what was revoked meanwhile.
    ///
    /// # Errors
    /// [`StoreError`] where the lease has run out.
    fn weigh(&self, view: &View, now: Timestamp) -> Result<Verdict, StoreError> {
        let trust = self.trust(view.key.shard());
        if trust == Trust::None {
            return Err(no_lease());
        }
        Ok(match judge(view.limits(), view.last_seen(), now) {
            // While the store is away nothing is written through; it waits.
            Verdict::Alive(Touch::Now) if trust == Trust::Grace => Verdict::Alive(Touch::Queue),
            verdict => verdict,
        })
    }

    /// The session of a cookie. Answered from memory where it is there; the store is asked on a miss and before *idle*.
    ///
    /// # Errors
    /// [`StoreError`] where only the store could have said.
    pub async fn lookup(&self, cookie: &str, activity: Activity, now: Timestamp) -> Result<Lookup, StoreError> {
        let Some(key) = self.codec.open(cookie) else { return Ok(Lookup::Ended(EndedBecause::Forged)) };
        let mut known = false;
        if let Some(view) = self.cache.get(key) {
            known = true;
            match self.weigh(&view, now)? {
                Verdict::Alive(touch) => {
                    self.counts.hits.add();
                    return self.accept(view, touch, activity, now).await;
                }
                Verdict::Over => return Ok(Lookup::Ended(EndedBecause::Absolute)),
                // Another node may have written a later activity: the store decides.
                Verdict::Idle => self.cache.forget(key),
            }
        } else if self.cache.is_absent(key) {
            self.hears(key.shard())?;
            return Ok(Lookup::Ended(EndedBecause::Unknown));
        }
        self.counts.misses.add();
        self.hears(key.shard())?;
        let loaded = self.load(key).await?;
        // The lease at the end as at the beginning: the answer may have come from a master that was one no more.
        self.hears(key.shard())?;
        match loaded {
            None => Ok(Lookup::Ended(if known { EndedBecause::Revoked } else { EndedBecause::Unknown })),
            Some(view) => match judge(view.limits(), view.last_seen(), now) {
                Verdict::Alive(touch) => self.accept(view, touch, activity, now).await,
                Verdict::Idle => Ok(Lookup::Ended(EndedBecause::Idle)),
                Verdict::Over => Ok(Lookup::Ended(EndedBecause::Absolute)),
            },
        }
    }

    /// The session that these very bytes led to before, where memory alone can still answer: no revocation concerned it, it is
    /// within its limits, and nothing has to be written first. `None` means nothing but *look it up*.
    pub fn remembered(&self, memo: &Memo, cookie: &str, activity: Activity, now: Timestamp) -> Option<Arc<InUse>> {
        memo.find(cookie).filter(|session| self.goes_on(session, activity, now))
    }

    /// Whether a session in use may be used once more, as far as memory alone can say.
    pub fn goes_on(&self, session: &InUse, activity: Activity, now: Timestamp) -> bool {
        // The lease after memory, as in `lookup`; without one, what may still be answered is decided there.
        if !self.stands(session) || self.trust(session.key.shard()) != Trust::Full {
            return false;
        }
        let Verdict::Alive(touch) = session.judge(now) else { return false };
        let goes_on = self.accept_at_once(&session.view, touch, activity, now);
        if goes_on {
            self.counts.hits.add();
        }
        goes_on
    }

    /// Whether no revocation has concerned it since it was loaded.
    fn stands(&self, session: &InUse) -> bool {
        self.cache.generations.counts(session.stamp, session.key, session.user)
    }

    /// Accept a request of a live session unless its activity has to be in the store first; queue it where that is due.
    fn accept_at_once(&self, view: &View, touch: Touch, activity: Activity, now: Timestamp) -> bool {
        if activity == Activity::Passive || touch == Touch::None {
            return true;
        }
        if touch == Touch::Queue && view.last_seen.fetch_max(now.0, Ordering::Relaxed) < now.0 {
            self.queue(view.key, now);
        }
        touch == Touch::Queue
    }

    pub(super) async fn load(&self, key: SessionKey) -> Result<Option<Arc<View>>, StoreError> {
        let is_over = |record: &Session| self.is_over(key, record.user(), record.epoch);
        let mut over = false;
        for _ in 0..LOADS {
            // Asked when polled, not before: a load that joins another one must cost the store nothing.
            let ask = async { self.bounded(self.store.load(key)).await };
            match self.cache.load(key, ask, is_over).await {
                Ok(Some(view)) => return Ok(Some(view)),
                // Read again: one that a revocation spared is lifted in the very moment in which that is learnt.
                Ok(None) => over = false,
                Err(NotLoaded::Over) => over = true,
                Err(NotLoaded::Absent) => return Ok(None),
                Err(NotLoaded::Failed(error)) => return Err(StoreError::Unavailable(Box::new(error))),
            }
        }
        if over {
            self.cache.deny(key);
            return Ok(None);
        }
        Err(StoreError::Unavailable("revocations overtook every read of the session".into()))
    }

    /// Accept a request of a live session, and write down that it came if that is due.
    pub(super) async fn accept(
        &self,
        view: Arc<View>,
        touch: Touch,
        activity: Activity,
        now: Timestamp,
    ) -> Result<Lookup, StoreError> {
        if self.accept_at_once(&view, touch, activity, now) {
            return Ok(Lookup::Alive(view));
        }
        // The record in the store is about to end; another node would believe it. Written before the request goes on.
        match self.bounded(self.store.touch(vec![(view.key, now)])).await {
            Ok(alive) if alive == [true] => {
                view.last_seen.fetch_max(now.0, Ordering::Relaxed);
                Ok(Lookup::Alive(view))
            }
            Ok(_) => {
                self.cache.lose(view.key);
                Ok(Lookup::Ended(EndedBecause::Revoked))
            }
            // An outage ends nothing: within its limits here, the session is served, and the touch waits.
            Err(error) => {
                tracing::warn!(session = ?view.key, %error, "an activity could not be written through");
                if view.last_seen.fetch_max(now.0, Ordering::Relaxed) < now.0 {
                    self.queue(view.key, now);
                }
                Ok(Lookup::Alive(view))
            }
        }
    }

    fn queue(&self, key: SessionKey, at: Timestamp) {
        self.queued().push((key, at));
    }

    pub(super) fn queued(&self) -> std::sync::MutexGuard<'_, Vec<(SessionKey, Timestamp)>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begin a session, always under a new id; the session of the cookie `replaces` ends in the same step.
    ///
    /// # Errors
    /// [`StoreError`]; then there is no session.
    pub async fn begin(&self, new: NewSession, replaces: Option<&str>, now: Timestamp) -> Result<Begun, StoreError> {
        let user = UserKey::of(&new.provider, &new.subject);
        let (cookie, key) =
            self.codec.mint(user).map_err(|error: KeyError| StoreError::Unavailable(Box::new(error)))?;
        self.hears(user.shard())?;
        let Lifetimes { idle, max_age } = self.settings.lifetimes;
        let session = Session {
            provider: new.provider,
            subject: new.subject,
            entry: new.entry,
            name: new.name,
            email: new.email,
            roles: new.roles,
            created: now,
            ends: now.plus(max_age),
            idle_ms: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX),
            last_seen: now,
            epoch: 0,
            device: new.device,
            provided: new.provided,
        };
        let replaces = replaces.and_then(|cookie| self.codec.open(cookie));
        let creation = Creation { key, session: session.clone(), replaces, limit: self.settings.max_sessions };
        let events = self.bounded(self.store.create(creation)).await?;
        events.iter().for_each(|event| self.apply(event));
        // Not put into memory from here: an epoch raised meanwhile would be missed. The first request loads it.
        let view = self.load(key).await?;
        match view {
            Some(view) => Ok(Begun { cookie, view }),
            None => Ok(Begun { cookie, view: self.cache.detached(key, session) }),
        }
    }

    /// End sessions, or deny a token. When it returns, the store has it and no request of this node is answered in them any more;
    /// what holds on other nodes, the answer says.
    ///
    /// # Errors
    /// [`StoreError`]; then it is not certain to have happened, and has to be asked for again.
    pub async fn revoke(self: &Arc<Self>, what: Revocation, wait: Wait, now: Timestamp) -> Result<Revoked, StoreError> {
        if let Some(coherence) = &self.coherence {
            let give_up = match wait {
                Wait::Fully => coherence.rules().bound() + GIVE_UP,
                Wait::AtMost(_) => self.settings.store_timeout,
            };
            return coherence.revoke(what, wait, give_up, self.clone()).await;
        }
        let began = Instant::now();
        let Committed { ended, events } = self.bounded(self.store.revoke(what, now)).await?;
        events.iter().for_each(|event| self.apply(event));
        // One process has the store for itself: what it applied, every node applied.
        let (committed, replicated, everywhere, confirmed, nodes) = (true, true, true, 1, 1);
        let (waited, bound) = (began.elapsed(), Duration::ZERO);
        Ok(Revoked { ended, events, committed, replicated, everywhere, confirmed, nodes, waited, bound })
    }

    /// End the session of a cookie; `false` where there was none.
    ///
    /// # Errors
    /// As [`Sessions::revoke`].
    pub async fn end(self: &Arc<Self>, cookie: &str, now: Timestamp) -> Result<bool, StoreError> {
        let Some(key) = self.codec.open(cookie) else { return Ok(false) };
        Ok(self.revoke(Revocation::Session(key), Wait::BROWSER, now).await?.ended > 0)
    }

    /// A user's sessions that are within their limits, latest activity first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list(&self, user: UserKey, now: Timestamp) -> Result<Vec<Listed>, StoreError> {
        let mut list = self.bounded(self.store.list(user)).await?;
        list.retain(|entry| matches!(judge(entry.session.limits(), entry.session.last_seen, now), Verdict::Alive(_)));
        Ok(list)
    }

    /// Make this node's memory agree with a revocation, and cut what is open in the sessions it ended. Doing it twice, or two
    /// in any order, is the same.
    pub fn apply(&self, event: &Event) {
        // The ledger first: a load that compares generations before this one moves must find it there.
        self.ledger.learn(event);
        self.cache.generations.raise(event);
        self.exchanges.end(event);
    }

    /// Learn what was revoked before this process began. Done before the first request is answered: a token that answers for
    /// itself is refused by nothing else. Of a shared store it is learnt before the first lease, so that a gateway starts while
    /// the store is away.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing may be served.
    pub async fn recall(&self, now: Timestamp) -> Result<(), StoreError> {
        if self.coherence.is_some() { Ok(()) } else { self.remember(now).await }
    }

    /// Whether a session was revoked, as far as this node knows: for tokens issued in it, which no store is asked about.
    pub fn is_over(&self, key: SessionKey, user: UserKey, epoch: u64) -> bool {
        self.ledger.is_over(key, user, epoch)
    }

    /// Whether a token was revoked by its id.
    pub fn is_token_revoked(&self, id: TokenId) -> bool {
        self.ledger.is_token_revoked(id)
    }

    /// The epoch below which everything of a user is over, as far as this node knows; milliseconds since 1970, so that a token
    /// which knows no epochs is compared by when it was issued.
    pub fn epoch(&self, user: UserKey) -> u64 {
        self.ledger.epoch(user)
    }

    /// A record on the shelf.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn kept(&self, key: ShelfKey, now: Timestamp) -> Result<Option<Kept>, StoreError> {
        self.bounded(self.store.kept(key, now)).await
    }

    /// Write on the shelf; `None` where somebody else was faster.
    ///
    /// # Errors
    /// [`StoreError`]; then it may have been written.
    pub async fn keep(&self, keep: Keep, now: Timestamp) -> Result<Option<u64>, StoreError> {
        self.bounded(self.store.keep(keep, now)).await
    }

    /// Take from the shelf what has this version.
    ///
    /// # Errors
    /// [`StoreError`]; then it may have been taken.
    pub async fn discard(&self, key: ShelfKey, over: u64) -> Result<bool, StoreError> {
        self.bounded(self.store.discard(key, over)).await
    }

    /// What is known of a user elsewhere has changed: load their sessions anew. Ends none.
    pub fn refresh(&self, user: UserKey) {
        self.cache.generations.raise_user(user);
    }

    /// Load every session anew. Ends none.
    pub fn refresh_everyone(&self) {
        self.cache.generations.raise_everyone();
    }

    /// Register a long exchange in a session. It may have ended since it was checked: the caller checks once more by
    /// [`Sessions::confirm`] after registering, so that no revocation falls between.
    pub fn open_exchange(&self, view: &View) -> OpenExchange {
        self.exchanges.open(view, None, None)
    }

    /// The same, of an exchange that ends too when `may_go_on` says so of the session as it is then: asked about once a second, and
    /// when the idle window of the session is over; and when the token is denied that told of the session.
    pub fn open_exchange_while(&self, view: &View, told_by: Option<TokenId>, may_go_on: MayGoOn) -> OpenExchange {
        self.exchanges.open(view, told_by, Some(may_go_on))
    }

    /// Whether what is open in a session may go on as far as this node can hear of revocations. Asked at every step: a process that
    /// stood still finds its lease run out before any timer tells it.
    pub fn may_carry(&self, session: &InUse) -> bool {
        self.trust(session.key.shard()) != Trust::None
    }

    /// The same of what is open under a token.
    pub fn may_carry_bearer(&self, bearer: &Bearer) -> bool {
        bearer.shards().all(|shard| self.trust(shard) != Trust::None)
    }

    /// Whether no revocation has concerned this view since it was loaded.
    pub fn still_alive(&self, view: &View) -> bool {
        self.cache.counts(view)
    }

    /// A store that hangs is a store that does not answer.
    pub(super) async fn bounded<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.counts.store_calls.add();
        let answer = match tokio::time::timeout(self.settings.store_timeout, answer).await {
            Ok(answer) => answer,
            Err(late) => Err(StoreError::Unavailable(Box::new(late))),
        };
        if answer.is_err() {
            self.counts.store_errors.add();
        }
        answer
    }
}

fn no_lease() -> StoreError {
    StoreError::Unavailable(Box::new(NoLease))
}
