//! Long exchanges: WebSockets and their like, which outlive the check that let them begin. One decision: each is registered
//! under its session, or its token, and told when that ends, and why; a registration ends by drop. Knows nothing of what is
//! exchanged.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio_util::sync::CancellationToken;

use super::{Bearer, Event, Part, SessionKey, TokenId, UserKey, View};

/// Whether an exchange may go on in a session as it is now: asked again while it is open.
pub type MayGoOn = Arc<dyn Fn(&View) -> bool + Send + Sync>;

/// The same of an exchange in no session.
pub type MayStay = Arc<dyn Fn() -> bool + Send + Sync>;

/// Why an exchange has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    /// The session ended, or the token.
    #[error("the session ended")]
    Ended,
    /// Nobody can say that it stands: the store is away, or this node hears of no revocation any more. No outage signs anybody out.
    #[error("nobody can say whether the session stands")]
    Unknown,
    /// It stands, and this may not go on by it: the rules are others now, or the roles.
    #[error("it is no longer allowed")]
    Denied,
}

impl Over {
    /// A stable name for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Over::Ended => "session_ended",
            Over::Unknown => "store_away",
            Over::Denied => "no_longer_allowed",
        }
    }
}

/// What an exchange shares with whoever ends it.
#[derive(Default)]
struct Shared {
    token: CancellationToken,
    /// Set before that is cancelled. What came first is what ended it.
    over: OnceLock<Over>,
    used: AtomicBool,
}

impl Shared {
    fn end(&self, why: Over) {
        self.over.get_or_init(|| why);
        self.token.cancel();
    }
}

#[derive(Default)]
struct Open {
    next: u64,
    by_session: HashMap<SessionKey, HashMap<u64, One>>,
    others: HashMap<u64, Other>,
}

struct Other {
    /// `None`: anybody's.
    bearer: Option<Bearer>,
    shared: Arc<Shared>,
    may_stay: MayStay,
}

struct One {
    user: UserKey,
    /// Of its session.
    epoch: u64,
    /// The token that told of the session, where one did that may be denied alone.
    told_by: Option<TokenId>,
    shared: Arc<Shared>,
    may_go_on: Option<MayGoOn>,
}

/// An open exchange, as it is looked at again.
pub(super) struct Looked {
    may_go_on: Option<MayGoOn>,
    shared: Arc<Shared>,
    /// The client sent something since the last look.
    pub(super) used: bool,
}

impl Looked {
    /// End it, unless it may go on in this session; `None`: there is none any more.
    pub(super) fn judge(&self, view: Option<&View>) {
        match view {
            None => self.shared.end(Over::Ended),
            Some(view) if self.may_go_on.as_ref().is_some_and(|may| !may(view)) => self.shared.end(Over::Denied),
            Some(_) => {}
        }
    }
}

/// All open exchanges of this node.
#[derive(Clone, Default)]
pub(super) struct Exchanges(Arc<Mutex<Open>>);

impl Exchanges {
    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Register one.
    pub(super) fn open(&self, view: &View, told_by: Option<TokenId>, may_go_on: Option<MayGoOn>) -> OpenExchange {
        let (key, user, epoch) = (view.key, view.user, view.epoch());
        let shared = Arc::<Shared>::default();
        let one = One { user, epoch, told_by, shared: shared.clone(), may_go_on };
        let mut open = self.lock();
        open.next += 1;
        let id = open.next;
        open.by_session.entry(key).or_default().insert(id, one);
        drop(open);
        OpenExchange { exchanges: self.clone(), of: Some(key), id, shared }
    }

    /// Register one of a token's bearer, or of anybody.
    pub(super) fn open_other(&self, bearer: Option<Bearer>, may_stay: MayStay) -> OpenExchange {
        let shared = Arc::<Shared>::default();
        let mut open = self.lock();
        open.next += 1;
        let id = open.next;
        open.others.insert(id, Other { bearer, shared: shared.clone(), may_stay });
        drop(open);
        OpenExchange { exchanges: self.clone(), of: None, id, shared }
    }

    /// Sessions in which something is open.
    pub(super) fn sessions(&self) -> Vec<SessionKey> {
        self.lock().by_session.keys().copied().collect()
    }

    /// All that are open in sessions, by session.
    pub(super) fn look(&self) -> Vec<(SessionKey, Vec<Looked>)> {
        let looked = |one: &One| Looked {
            may_go_on: one.may_go_on.clone(),
            shared: one.shared.clone(),
            used: one.shared.used.swap(false, Ordering::Relaxed),
        };
        let open = self.lock();
        open.by_session.iter().map(|(key, entries)| (*key, entries.values().map(looked).collect())).collect()
    }

    /// End those of a part of the store: nobody can say that their sessions, or tokens, still stand.
    pub(super) fn end_part(&self, part: Part) {
        let open = self.lock();
        let concerned = open.by_session.iter().filter(|(key, _)| part.holds(key.shard()));
        concerned.flat_map(|(_, entries)| entries.values()).for_each(|one| one.shared.end(Over::Unknown));
        drop(open);
        self.end_bearers(Over::Unknown, |bearer| bearer.shards().any(|shard| part.holds(shard)));
    }

    /// End those in no session that may not stay.
    pub(super) fn judge_others(&self) {
        // Asked without the lock: who asks looks at a good deal.
        let asked = |other: &Other| (other.shared.clone(), other.may_stay.clone());
        let asked: Vec<_> = self.lock().others.values().map(asked).collect();
        asked.into_iter().filter(|(_, may_stay)| !may_stay()).for_each(|(shared, _)| shared.end(Over::Denied));
    }

    /// End those of bearers of whom this holds.
    pub(super) fn end_bearers(&self, why: Over, are_over: impl Fn(&Bearer) -> bool) {
        let open = self.lock();
        let concerned = open.others.values().filter(|other| other.bearer.as_ref().is_some_and(&are_over));
        concerned.for_each(|other| other.shared.end(why));
    }

    /// End those that an event concerns.
    pub(super) fn end(&self, event: &Event) {
        self.end_in_sessions(event);
        self.end_bearers(Over::Ended, |bearer| match *event {
            Event::Ended { .. } => false,
            Event::Token { id, .. } => bearer.id == Some(id),
            Event::UserEpoch { user, epoch, .. } => bearer.user == user && bearer.issued.0 < epoch,
            Event::Everyone { part, epoch } => part.holds(bearer.user.shard()) && bearer.issued.0 < epoch,
        });
    }

    fn end_in_sessions(&self, event: &Event) {
        let open = self.lock();
        let all = || open.by_session.iter().flat_map(|(key, entries)| entries.values().map(move |one| (*key, one)));
        match *event {
            Event::Ended { key, .. } => {
                let concerned = open.by_session.get(&key).into_iter().flat_map(HashMap::values);
                concerned.for_each(|one| one.shared.end(Over::Ended));
            }
            Event::UserEpoch { user, epoch, spared } => all()
                .filter(|(key, one)| one.user == user && one.epoch < epoch && Some(*key) != spared)
                .for_each(|(_, one)| one.shared.end(Over::Ended)),
            Event::Everyone { part, epoch } => all()
                .filter(|(key, one)| part.holds(key.shard()) && one.epoch < epoch)
                .for_each(|(_, one)| one.shared.end(Over::Ended)),
            Event::Token { id, .. } => {
                all().filter(|(_, one)| one.told_by == Some(id)).for_each(|(_, one)| one.shared.end(Over::Ended));
            }
        }
    }
}

/// A registered exchange. Dropping it forgets it.
pub struct OpenExchange {
    exchanges: Exchanges,
    /// The session; `None` where it is in none.
    of: Option<SessionKey>,
    id: u64,
    shared: Arc<Shared>,
}

impl OpenExchange {
    /// The client sent something that counts as use of the session.
    pub fn used(&self) {
        self.shared.used.store(true, Ordering::Relaxed);
    }

    /// Cancelled when it has to end.
    pub fn token(&self) -> CancellationToken {
        self.shared.token.clone()
    }

    /// Why that is so; `None` as long as it is not.
    pub fn over(&self) -> Option<Over> {
        self.shared.over.get().copied()
    }

    /// End it.
    pub fn end(&self, why: Over) {
        self.shared.end(why);
    }

    /// Waits until it has to end.
    pub async fn ended(&self) {
        self.shared.token.cancelled().await;
    }
}

impl Drop for OpenExchange {
    fn drop(&mut self) {
        let mut open = self.exchanges.lock();
        let Some(key) = self.of else {
            open.others.remove(&self.id);
            return;
        };
        if let Some(entries) = open.by_session.get_mut(&key) {
            entries.remove(&self.id);
            if entries.is_empty() {
                open.by_session.remove(&key);
            }
        }
    }
}
