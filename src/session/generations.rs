//! The fill guard of local memory. One decision: a revocation raises a counter, and what was loaded carries the counters of the
//! moment *before* the store was asked; so whatever order a load and a revocation come in, a view that the revocation concerns
//! does not count (I4). Knows nothing of what is kept.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Event, SessionKey, UserKey};

/// Counters that sessions share by their key: one raised by chance costs one load, and no memory per session.
pub const STRIPES: usize = 4096;

/// All counters.
pub struct Generations {
    sessions: Box<[AtomicU64]>,
    users: Box<[AtomicU64]>,
    /// Raised before any of `users`, for loads that do not know their user yet.
    any_user: AtomicU64,
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

fn counter<'c>(counters: &'c [AtomicU64], key: &[u8; 16]) -> &'c AtomicU64 {
    &counters[usize::from(u16::from_be_bytes([key[0], key[1]])) % counters.len()]
}

impl Generations {
    /// With so many counters a kind.
    pub fn new(stripes: usize) -> Generations {
        let (any_user, everyone) = (AtomicU64::new(0), AtomicU64::new(0));
        Generations { sessions: counters(stripes), users: counters(stripes), any_user, everyone }
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
        // Where any user's counter moved during the load, this one may have been meant: an entry that never counts.
        let same = self.any_user.load(Ordering::SeqCst) == before.any_user;
        let user = if same { of_user } else { u64::MAX };
        Stamp { session: before.session, user, everyone: before.everyone }
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
        // In this order: see `stamp`.
        self.any_user.fetch_add(1, Ordering::SeqCst);
        counter(&self.users, &user.0).fetch_add(1, Ordering::SeqCst);
    }

    /// Let every session be loaded anew.
    pub fn raise_everyone(&self) {
        self.everyone.fetch_add(1, Ordering::SeqCst);
    }

    fn session(&self, key: SessionKey) -> u64 {
        counter(&self.sessions, &key.0).load(Ordering::SeqCst)
    }
}
