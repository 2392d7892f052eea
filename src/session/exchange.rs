//! Long exchanges: WebSockets and their like, which outlive the check that let them begin. One decision: each is registered
//! under its session and told when that session ends; a registration ends by drop. Knows nothing of what is exchanged.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::{Event, SessionKey, UserKey};

#[derive(Default)]
struct Open {
    next: u64,
    by_session: HashMap<SessionKey, HashMap<u64, One>>,
}

struct One {
    user: UserKey,
    /// Of its session.
    epoch: u64,
    token: CancellationToken,
}

/// All open exchanges of this node.
#[derive(Clone, Default)]
pub(super) struct Exchanges(Arc<Mutex<Open>>);

impl Exchanges {
    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Register one.
    pub(super) fn open(&self, key: SessionKey, user: UserKey, epoch: u64) -> OpenExchange {
        let token = CancellationToken::new();
        let mut open = self.lock();
        open.next += 1;
        let id = open.next;
        open.by_session.entry(key).or_default().insert(id, One { user, epoch, token: token.clone() });
        drop(open);
        OpenExchange { exchanges: self.clone(), key, id, token }
    }

    /// End those that an event concerns.
    pub(super) fn end(&self, event: &Event) {
        let open = self.lock();
        let all = || open.by_session.iter().flat_map(|(key, entries)| entries.values().map(move |one| (*key, one)));
        match *event {
            Event::Ended { key, .. } => {
                open.by_session.get(&key).into_iter().flat_map(HashMap::values).for_each(|one| one.token.cancel());
            }
            Event::UserEpoch { user, epoch, spared } => all()
                .filter(|(key, one)| one.user == user && one.epoch < epoch && Some(*key) != spared)
                .for_each(|(_, one)| one.token.cancel()),
            Event::Everyone { part, epoch } => all()
                .filter(|(key, one)| part.holds(key.shard()) && one.epoch < epoch)
                .for_each(|(_, one)| one.token.cancel()),
            Event::Token { .. } => {}
        }
    }
}

/// A registered exchange. Dropping it forgets it.
pub struct OpenExchange {
    exchanges: Exchanges,
    key: SessionKey,
    id: u64,
    token: CancellationToken,
}

impl OpenExchange {
    /// Cancelled when the session has ended.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Waits until the session has ended.
    pub async fn ended(&self) {
        self.token.cancelled().await;
    }
}

impl Drop for OpenExchange {
    fn drop(&mut self) {
        let mut open = self.exchanges.lock();
        if let Some(entries) = open.by_session.get_mut(&self.key) {
            entries.remove(&self.id);
            if entries.is_empty() {
                open.by_session.remove(&self.key);
            }
        }
    }
}
