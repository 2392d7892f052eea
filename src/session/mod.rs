//! Server-side sessions: the record, the store it lives in, and the local memory it is answered from.
//!
//! One decision: a session that was ended is never answered from memory again. Every fill of the cache is guarded by a
//! generation, every revocation goes through [`Sessions::apply`], whoever it was learnt from.
//! This room knows nothing of HTTP but a cookie's value, and nothing of routes.

mod bearer;
mod cache;
pub mod coherence;
mod cookie;
mod counts;
mod exchange;
pub mod generations;
mod in_use;
mod ledger;
mod lifetime;
mod loads;
mod memo;
mod revocation;
mod sessions;
pub mod shared;
mod shelf;
pub mod store;
mod upkeep;
mod view;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

pub use bearer::Bearer;
pub use cookie::{CookieCodec, KeyError, SessionKeys};
pub use counts::Counts;
pub use exchange::{MayGoOn, MayStay, OpenExchange, Over};
pub use in_use::InUse;
pub use ledger::Ledger;
pub use lifetime::{Lifetimes, Limits};
pub use memo::Memo;
pub(crate) use revocation::EPOCHS_KEPT;
pub use revocation::{Committed, Event, EventId, Part, Revocation, Revoked, TokenId, UNKNOWN_ENDS, Wait};
pub use sessions::{Activity, Begun, EndedBecause, Lookup, NewSession, Sessions, Settings};
pub use shelf::{Keep, Kept, ShelfKey};
pub use view::{ProvidedIn, View};

/// How a session is known to the store, to logs and to other nodes: a keyed hash of the secret id, never the id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionKey(pub [u8; 16]);

impl SessionKey {
    /// As [`Memory`](crate::memory::Memory) knows it.
    pub fn widened(self) -> crate::memory::Key {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&self.0);
        key
    }
}

/// A user as the store indexes them: a digest of provider and subject, so that one subject at two providers is two users.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UserKey(pub [u8; 16]);

/// The record of one sign-in on one device. Roles are kept by name: what a name means is the configuration's to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Where the person signed in: `local`, or the issuer of an OpenID provider.
    pub provider: String,
    /// The provider's name for the person; of a local user it is what applications are told as well.
    pub subject: String,
    /// Which entry of a local user it was begun for: of that name there may be another one later. 0 where there is nothing to tell them
    /// apart by.
    #[serde(default, skip_serializing_if = "is_none")]
    pub entry: u64,
    /// Name for display.
    pub name: Option<String>,
    /// E-mail address.
    pub email: Option<String>,
    /// Names of the roles held at sign-in.
    pub roles: Vec<String>,
    /// When the person signed in.
    pub created: Timestamp,
    /// The end that no activity moves.
    pub ends: Timestamp,
    /// Idle window in milliseconds, fixed at sign-in.
    pub idle_ms: u64,
    /// Last activity that was written down. Other nodes may know a later one that is not written yet.
    pub last_seen: Timestamp,
    /// The user's epoch at sign-in: a session of an older epoch is over.
    pub epoch: u64,
    /// What the browser called itself, shortened, for the list of devices.
    pub device: String,
    /// What an OpenID provider said of the sign-in; `None` for a local user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provided: Option<Provided>,
}

fn is_none(entry: &u64) -> bool {
    *entry == 0
}

/// A sign-in at an OpenID provider. In such a session `provider` is the issuer, so that two providers never meet, and `subject`
/// the issuer's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provided {
    /// The provider's name in the configuration.
    pub login: String,
    /// What applications are told as the user's name.
    pub user: String,
    /// The provider's own session (`sid`), by which it signs people out.
    pub sid: Option<String>,
    /// When the person proved who they are there (`auth_time`).
    pub proven: Timestamp,
    /// How strongly (`acr`).
    pub acr: Option<String>,
    /// Whether the provider's tokens are kept for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps: bool,
}

/// One entry of a list of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: SessionKey,
    /// The record.
    pub session: Session,
}

/// Why the store gave no answer. Never means "no such session": that is an answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It could not be reached or did not answer in time.
    #[error("the session store did not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It is used under other settings by gateways that run: no waiting mends it.
    #[error("other gateways use the session store under other settings")]
    Rules(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It answered with something that is not a session.
    #[error("the session store holds a record that cannot be read")]
    Corrupt(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A boxed answer of a store.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A new session for the store to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creation {
    /// Its key.
    pub key: SessionKey,
    /// Its record; `epoch` is set by the store to the user's current one.
    pub session: Session,
    /// A session that it takes the place of, ended in the same step.
    pub replaces: Option<SessionKey>,
    /// How many the user may have with this one; beyond it those unused longest end in the same step.
    pub limit: Option<u32>,
}

/// What became of a record that another store wrote out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// It was written.
    Written,
    /// It is here, with whatever happened to it since.
    There,
    /// It was revoked here, and stays so.
    Revoked,
}

/// Where sessions live. Absent is `Ok(None)`; failed is `Err`: an outage must never look like a sign-out.
///
/// `create`, `revoke`, `keep` and `discard` are durable when they return. `touch` never brings a record into being (a late touch
/// must not resurrect a session), never moves `last_seen` back, and may ride along with the next durable write.
/// Limits of time of a session are the caller's to compare; a record past them may still be answered until it is swept.
pub trait SessionStore: Send + Sync + 'static {
    /// The record, if it exists and its epoch still counts.
    fn load(&self, key: SessionKey) -> StoreFuture<'_, Option<Session>>;
    /// Write a new record.
    fn create(&self, creation: Creation) -> StoreFuture<'_, Vec<Event>>;
    /// Raise `last_seen` of records that exist. Answers, per touch, whether the session was still there.
    fn touch(&self, touches: Vec<(SessionKey, Timestamp)>) -> StoreFuture<'_, Vec<bool>>;
    /// End sessions or deny a token. A store that nodes share is asked through its log instead, where others must learn of it.
    fn revoke(&self, what: Revocation, now: Timestamp) -> StoreFuture<'_, Committed>;
    /// A user's records, latest activity first.
    fn list(&self, user: UserKey) -> StoreFuture<'_, Vec<Listed>>;
    /// Remove what expired, at most `limit` records; answers how many sessions went.
    fn sweep(&self, now: Timestamp, limit: usize) -> StoreFuture<'_, usize>;

    /// Every revocation that may still concern what is in no store: tokens that answer for themselves, views in memory. A store
    /// that nodes share answers those that its log has forgotten already (denied tokens, epochs); the rest is replayed.
    fn remembered(&self, now: Timestamp) -> StoreFuture<'_, Vec<Event>>;

    /// A record on the shelf, unless it expired.
    fn kept(&self, key: ShelfKey, now: Timestamp) -> StoreFuture<'_, Option<Kept>>;
    /// Write on the shelf, over the version named; answers the new version, or `None` where somebody else was faster.
    fn keep(&self, keep: Keep, now: Timestamp) -> StoreFuture<'_, Option<u64>>;
    /// Take from the shelf what has this version; answers whether it was there.
    fn discard(&self, key: ShelfKey, over: u64) -> StoreFuture<'_, bool>;

    /// Write a record that another store wrote out, with the epoch that it had there – unless it is here already, or was revoked here:
    /// it was ended, or its user's epoch is higher by now. Whatever is revoked after it is of a higher epoch. Durable when it returns.
    fn restore(&self, key: SessionKey, session: Session) -> StoreFuture<'_, Restored>;
    /// Carry out what another store was told: nothing, where it is true here already, for an epoch is raised to that of the event and
    /// never past it. Durable when it returns.
    fn repeat(&self, event: Event) -> StoreFuture<'_, ()>;

    /// Whether the last write was taken, as far as a store of one process knows. A shared one that takes none answers nothing either.
    fn takes_writes(&self) -> bool {
        true
    }

    /// When the certificate ends that a shared one is shown; `None` where none is.
    fn shown_until(&self) -> Option<SystemTime> {
        None
    }

    /// The log by which nodes learn from each other; `None` where one process has the store for itself.
    fn shared(&self) -> Option<Arc<dyn shared::SharedLog>> {
        None
    }
}

/// 16 bytes of SHA-256 over length-prefixed parts.
fn digest(label: &str, parts: &[&[u8]]) -> [u8; 16] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in std::iter::once(&label.as_bytes()).chain(parts) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut short = [0; 16];
    short.copy_from_slice(&context.finish().as_ref()[..16]);
    short
}

/// A short hexadecimal form for logs: six bytes tell sessions apart and give nobody a cookie.
fn short(bytes: &[u8; 16], f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    bytes[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl UserKey {
    /// The key of a provider's subject. A length-prefixed digest: no two pairs share an encoding.
    pub fn of(provider: &str, subject: &str) -> UserKey {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        context.update(&(provider.len() as u64).to_be_bytes());
        context.update(provider.as_bytes());
        context.update(subject.as_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&context.finish().as_ref()[..16]);
        UserKey(key)
    }
}

impl UserKey {
    /// Which part of a divided store the user is in. A byte and not a number of parts: a store may be divided otherwise later,
    /// and every cookie stays good.
    pub fn shard(self) -> u8 {
        self.0[15]
    }
}

impl SessionKey {
    /// The shard of its user.
    pub fn shard(self) -> u8 {
        self.0[15]
    }
}

impl Session {
    /// The moment it ends if nothing more is heard of it.
    pub fn due(&self) -> Timestamp {
        Timestamp(self.last_seen.0.saturating_add(self.idle_ms)).min(self.ends)
    }

    /// What bounds it in time.
    pub fn limits(&self) -> Limits {
        Limits { ends: self.ends, idle_ms: self.idle_ms }
    }

    /// What applications are told as the user's name.
    pub fn user_name(&self) -> &str {
        self.provided.as_ref().map_or(&self.subject, |provided| &provided.user)
    }

    /// The user this session belongs to.
    pub fn user(&self) -> UserKey {
        UserKey::of(&self.provider, &self.subject)
    }

    /// The same, to be written down.
    pub fn who(&self) -> Who {
        Who::new(&self.provider, &self.subject, self.user_name())
    }
}

/// Who somebody is, to be written down: as an operator names them to find or end their sessions, and as applications call them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// See [`Session`].
    pub provider: String,
    /// See [`Session`].
    pub subject: String,
    /// What applications are told as the name, where that is another word.
    pub user: Option<String>,
}

impl Who {
    /// Somebody whom applications know by this name.
    pub fn new(provider: &str, subject: &str, user: &str) -> Who {
        let user = (user != subject).then(|| user.to_owned());
        Who { provider: provider.to_owned(), subject: subject.to_owned(), user }
    }
}

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        short(&self.0, f)
    }
}

impl std::fmt::Debug for UserKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        short(&self.0, f)
    }
}
