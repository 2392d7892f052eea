//! The stores. One decision: they are told apart by their constructors alone; one contract suite runs over all of them.

mod embedded;
mod memory;
mod older;
mod record;
mod redis;
mod rows;
mod standing;
mod tables;

use crate::clock::Timestamp;
use crate::session::{Listed, SessionKey};

#[cfg(any(test, fuzzing))]
pub(crate) use self::redis::probe;
pub use self::redis::{Address, Deployment, Login, Redis, RedisError, RedisOptions, Tls, Trusted};
pub use embedded::{Embedded, Export, OpenError};
pub use memory::Memory;

/// As a user's sessions are listed.
fn newest_first(list: &mut [Listed]) {
    list.sort_unstable_by_key(|entry| std::cmp::Reverse((entry.session.last_seen, entry.key)));
}

/// Which of a user's other sessions, each with when it was last seen, are too many beside a new one.
fn surplus(mut others: Vec<(Timestamp, SessionKey)>, limit: u32) -> impl Iterator<Item = SessionKey> {
    others.sort_unstable_by_key(|other| std::cmp::Reverse(*other));
    others.into_iter().skip(limit.saturating_sub(1) as usize).map(|(_, key)| key)
}
