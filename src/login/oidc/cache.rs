//! The tokens of sessions in this node's memory. One decision: what is here may be some seconds behind the store, and is asked
//! for anew after that: it is how roles that another node learnt reach this one. Knows nothing of how tokens are had.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::{Mutex, MutexGuard};

use crate::clock::Timestamp;
use crate::memory::Memory;
use crate::session::SessionKey;

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
    /// When the provider was asked last, and failed.
    pub(super) failed: Option<Timestamp>,
}

/// The memory.
pub struct Cache {
    held: Memory<Held>,
    stripes: Box<[Mutex<()>]>,
}

impl Default for Cache {
    fn default() -> Cache {
        Cache { held: Memory::while_used(ENTRIES, IDLE), stripes: (0..STRIPES).map(|_| Mutex::new(())).collect() }
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

    /// Roles by what the provider said last, where that is known here.
    pub fn roles(&self, key: SessionKey) -> Option<Vec<String>> {
        self.held.get(&key.widened()).map(|held| held.roles.clone())
    }
}
