//! The tokens of sessions in this node's memory. One decision: what is here may be some seconds behind the store, and is asked
//! for anew after that: it is how roles that another node learnt reach this one. Knows nothing of how tokens are had.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::{Mutex, MutexGuard, watch};

use crate::clock::Timestamp;
use crate::memory::Memory;
use crate::session::{SessionKey, StoreError};

/// Sessions whose tokens are in memory; the least used give way and are read again.
const ENTRIES: u64 = 50_000;
/// The header lines live no longer than this after their last use.
const IDLE: Duration = Duration::from_secs(600);
/// Sessions share these by their key: one waits for another's refresh by chance, seldom and not for long.
const STRIPES: usize = 256;

/// What is known of a session's tokens.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// The access token.
    pub(super) access: HeaderValue,
    /// The same as `Authorization` carries it.
    pub(super) bearer: HeaderValue,
    /// When the access token ends; `None`: nobody said.
    pub(super) expires: Option<Timestamp>,
    /// When it is time to renew it; `None`: never.
    pub(super) renew: Option<Timestamp>,
    /// Roles by what the provider said last.
    pub(super) roles: Vec<String>,
    /// When the store was asked last.
    pub(super) read: Timestamp,
    /// When the provider failed to renew it: the end of the last attempt.
    pub(super) failed: Option<Timestamp>,
    /// How often they were refreshed.
    pub(super) count: u64,
}

/// What a refresh came to.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// What counts now, renewed or not.
    Held(Arc<Held>),
    /// Nothing is kept any more.
    Nothing,
    /// The session was ended.
    Ended,
    /// The store did not answer.
    Store(Arc<StoreError>),
}

/// Where a refresh tells what it came to; closed without a word where it panicked.
pub(super) type Told = watch::Receiver<Option<Outcome>>;

/// The memory.
pub struct Cache {
    held: Memory<Held>,
    stripes: Box<[Mutex<()>]>,
    under_way: std::sync::Mutex<HashMap<SessionKey, Told>>,
}

impl Default for Cache {
    fn default() -> Cache {
        Cache {
            held: Memory::while_used(ENTRIES, IDLE),
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            under_way: std::sync::Mutex::default(),
        }
    }
}

/// A refresh that is under way, until what it came to is written down. Dropped, whatever became of it, it is over.
pub(super) struct UnderWay {
    cache: Arc<Cache>,
    key: SessionKey,
    tell: watch::Sender<Option<Outcome>>,
}

impl UnderWay {
    /// What it came to. It may go on to be written down; until then nobody begins another one.
    pub(super) fn tell(&self, outcome: Outcome) {
        self.tell.send_replace(Some(outcome));
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.cache.all_under_way().remove(&self.key);
    }
}

impl Cache {
    pub(super) fn get(&self, key: SessionKey) -> Option<Arc<Held>> {
        self.held.get(&key.widened())
    }

    pub(super) fn put(&self, key: SessionKey, held: Arc<Held>) {
        self.held.put(key.widened(), held);
    }

    /// One at a time for a session on this node.
    pub(super) async fn alone(&self, key: SessionKey) -> MutexGuard<'_, ()> {
        self.stripes[usize::from(key.0[15]) % STRIPES].lock().await
    }

    fn all_under_way(&self) -> std::sync::MutexGuard<'_, HashMap<SessionKey, Told>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the tokens of this session are being refreshed by this node.
    pub(super) fn is_under_way(&self, key: SessionKey) -> bool {
        self.all_under_way().contains_key(&key)
    }

    /// Hear what the refresh of this session comes to. Where none was under way it begins, and is the caller's to carry out.
    pub(super) fn join(self: &Arc<Self>, key: SessionKey) -> (Told, Option<UnderWay>) {
        let mut all = self.all_under_way();
        if let Some(told) = all.get(&key) {
            return (told.clone(), None);
        }
        let (tell, told) = watch::channel(None);
        all.insert(key, told.clone());
        (told, Some(UnderWay { cache: self.clone(), key, tell }))
    }

    /// Roles by what the provider said last, where that is known here.
    pub fn roles(&self, key: SessionKey) -> Option<Vec<String>> {
        self.held.get(&key.widened()).map(|held| held.roles.clone())
    }
}
