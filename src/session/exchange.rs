//! Long exchanges: WebSockets and their like, which outlive the check that let them begin. One decision: each is registered
//! under its session and told when that session ends; a registration ends by drop. Knows nothing of what is exchanged.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::{SessionKey, UserKey};

#[derive(Default)]
struct Open {
    next: u64,
    by_session: HashMap<SessionKey, HashMap<u64, (UserKey, CancellationToken)>>,
}

/// All open exchanges of this node.
#[derive(Clone, Default)]
pub(super) struct Exchanges(Arc<Mutex<Open>>);

impl Exchanges {
    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Register one.
    pub(super) fn open(&self, key: SessionKey, user: UserKey) -> OpenExchange {
        let token = CancellationToken::new();
        let mut open = self.lock();
        open.next += 1;
        let id = open.next;
        open.by_session.entry(key).or_default().insert(id, (user, token.clone()));
        drop(open);
        OpenExchange { exchanges: self.clone(), key, id, token }
    }

    /// End those of one session.
    pub(super) fn end_session(&self, key: SessionKey) {
        for (_, token) in self.lock().by_session.get(&key).into_iter().flat_map(HashMap::values) {
            token.cancel();
        }
    }

    /// Sessions with open exchanges, of one user or of everybody.
    pub(super) fn sessions(&self, user: Option<UserKey>) -> Vec<SessionKey> {
        let open = self.lock();
        let of_user = |entries: &HashMap<u64, (UserKey, CancellationToken)>| {
            user.is_none_or(|user| entries.values().any(|(other, _)| *other == user))
        };
        open.by_session.iter().filter(|(_, entries)| of_user(entries)).map(|(key, _)| *key).collect()
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
