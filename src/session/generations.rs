//! The fill guard of local memory. One decision: a revocation raises a counter, and what was loaded carries the counters of the
//! moment *before* the store was asked; so whatever order a load and a revocation come in, a view that the revocation concerns
//! does not count (I4). Knows nothing of what is kept.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Event, SessionKey, UserKey};

/// Counters that sessions share by their key: one raised by chance costs one load, and no memory per session.
pub const STRIPES: usize = 4096;

/// Raises of users that are told apart: as many as a store that is far away, and a storm of revocations, may bring during one load.
const RAISED: usize = 1024;

/// All counters.
pub struct Generations {
    sessions: Box<[AtomicU64]>,
    users: Box<[AtomicU64]>,
    /// Raised before any of `users`, for loads that do not know their user yet.
    any_user: AtomicU64,
    /// Which of `users` was raised, by the number that `any_user` had, and that number: of the last ones. Without it, where many users'
    /// sessions are ended, every load would seem to be overtaken.
    raised: Box<[AtomicU64]>,
    everyone: AtomicU64,
}

/// The counters before a load.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    session: u64,
    any_user: u64,
    everyone: u64,
}

/// The counters that something was loaded under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    session: u64,
    user: u64,
    everyone: u64,
}

impl Stamp {
    /// One that never counts.
    pub const NEVER: Stamp = Stamp { session: u64::MAX, user: u64::MAX, everyone: u64::MAX };
}

fn counters(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

fn index(counters: &[AtomicU64], key: &[u8; 16]) -> u16 {
    let first = u16::from_be_bytes([key[0], key[1]]);
    u16::try_from(usize::from(first) % counters.len()).unwrap_or(first)
}

fn counter<'c>(counters: &'c [AtomicU64], key: &[u8; 16]) -> &'c AtomicU64 {
    &counters[usize::from(index(counters, key))]
}

/// A raise of a user's counter, as it is remembered.
fn raise_of(number: u64, index: u16) -> u64 {
    number << 16 | u64::from(index)
}

impl Generations {
    /// With so many counters a kind.
    pub fn new(stripes: usize) -> Generations {
        let (any_user, everyone) = (AtomicU64::new(0), AtomicU64::new(0));
        let raised = (0..RAISED).map(|_| AtomicU64::new(u64::MAX)).collect();
        Generations { sessions: counters(stripes), users: counters(stripes), any_user, raised, everyone }
    }

    /// To be taken before the store is asked.
    pub fn before(&self, key: SessionKey) -> Before {
        Before {
            session: self.session(key),
            any_user: self.any_user.load(Ordering::SeqCst),
            everyone: self.everyone.load(Ordering::SeqCst),
        }
    }

    /// The stamp of what the store answered, now that the user is known.
    pub fn stamp(&self, before: Before, user: UserKey) -> Stamp {
        let of_user = counter(&self.users, &user.0).load(Ordering::SeqCst);
        // Where this user's counter may have moved during the load: an entry that never counts.
        let user = if self.left_alone(before, user) { of_user } else { u64::MAX };
        Stamp { session: before.session, user, everyone: before.everyone }
    }

    /// Whether every user's counter that has moved since is known, and none of them is this one's.
    fn left_alone(&self, before: Before, user: UserKey) -> bool {
        let (own, now) = (index(&self.users, &user.0), self.any_user.load(Ordering::SeqCst));
        let other = |number: u64| {
            let raised = self.raised[number as usize % RAISED].load(Ordering::SeqCst);
            // Another number stands there where this raise is not written down yet, or not any more.
            raised >> 16 == number && raised != raise_of(number, own)
        };
        now - before.any_user <= RAISED as u64 && (before.any_user..now).all(other)
    }

    /// Whether none of its counters has moved.
    pub fn counts(&self, stamp: Stamp, key: SessionKey, user: UserKey) -> bool {
        let of_user = counter(&self.users, &user.0).load(Ordering::SeqCst);
        stamp == Stamp { session: self.session(key), user: of_user, everyone: self.everyone.load(Ordering::SeqCst) }
    }

    /// Whether the session's own counter stands where it stood.
    pub(super) fn is_untouched(&self, before: Before, key: SessionKey) -> bool {
        before.session == self.session(key)
    }

    /// Raise what an event concerns. Done before anybody is told that the revocation stands.
    pub fn raise(&self, event: &Event) {
        match event {
            Event::Ended { key, .. } => self.raise_session(*key),
            Event::UserEpoch { user, .. } => self.raise_user(*user),
            Event::Everyone { .. } => self.raise_everyone(),
            Event::Token { .. } => {}
        }
    }

    /// Let a session be loaded anew.
    pub fn raise_session(&self, key: SessionKey) {
        counter(&self.sessions, &key.0).fetch_add(1, Ordering::SeqCst);
    }

    /// Let every session of a user be loaded anew.
    pub fn raise_user(&self, user: UserKey) {
        // In this order: see `stamp`, which looks at the user's counter first.
        let (number, index) = (self.any_user.fetch_add(1, Ordering::SeqCst), index(&self.users, &user.0));
        self.raised[number as usize % RAISED].store(raise_of(number, index), Ordering::SeqCst);
        self.users[usize::from(index)].fetch_add(1, Ordering::SeqCst);
    }

    /// Let every session be loaded anew.
    pub fn raise_everyone(&self) {
        self.everyone.fetch_add(1, Ordering::SeqCst);
    }

    fn session(&self, key: SessionKey) -> u64 {
        counter(&self.sessions, &key.0).load(Ordering::SeqCst)
    }
}
