//! What this node knows to be revoked. One decision: it only ever grows more severe – tombstones are a set, epochs a maximum –
//! so that repeated and reordered events change nothing (I7), and it is pruned by time alone, never for room: a tombstone that
//! was dropped to save memory would let a revoked token in. Knows nothing of sessions in memory nor of stores.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use crate::clock::Timestamp;

use super::revocation::EPOCHS_KEPT;
use super::{Event, Part, SessionKey, TokenId, UserKey};

/// Locks by key: readers of one never wait for writers of another.
const SHARDS: usize = 64;
/// Entries beyond which the operator is told: about 100 MB.
const MANY: usize = 2_000_000;

/// How long a session's tombstone is kept in memory at most. The store has no record of it; what the tombstone stops are tokens
/// issued in the session, which live minutes, and a record that a failover brought back, which lives until repair.
const TOMBSTONES_KEPT: Duration = Duration::from_secs(86_400);

/// A token that has less time left when this was pruned last may be forgotten by a store already: both are pruned now and then.
const UNSURE: Duration = Duration::from_secs(300);

/// A map in parts, each under a lock of its own.
struct Parts<K, V>(Box<[RwLock<HashMap<K, V>>]>);

impl<K: Eq + Hash, V: Copy> Parts<K, V> {
    fn new() -> Self {
        Parts((0..SHARDS).map(|_| RwLock::new(HashMap::new())).collect())
    }

    fn part(&self, first: u8) -> &RwLock<HashMap<K, V>> {
        &self.0[usize::from(first) % SHARDS]
    }

    fn read(&self, first: u8) -> RwLockReadGuard<'_, HashMap<K, V>> {
        self.part(first).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, first: u8) -> RwLockWriteGuard<'_, HashMap<K, V>> {
        self.part(first).write().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, first: u8, key: &K) -> Option<V> {
        self.read(first).get(key).copied()
    }

    fn each(&self, mut see: impl FnMut(&K, V)) {
        for part in &self.0 {
            let part = part.read().unwrap_or_else(PoisonError::into_inner);
            part.iter().for_each(|(key, value)| see(key, *value));
        }
    }

    fn retain(&self, keep: impl Fn(&V) -> bool) -> usize {
        let mut left = 0;
        for part in &self.0 {
            let mut part = part.write().unwrap_or_else(PoisonError::into_inner);
            part.retain(|_, value| keep(value));
            left += part.len();
        }
        left
    }
}

/// The ledger.
pub struct Ledger {
    ended: Parts<SessionKey, Timestamp>,
    tokens: Parts<TokenId, Timestamp>,
    users: Parts<UserKey, u64>,
    /// By shard, because parts of a divided store have clocks of their own.
    everyone: Box<[AtomicU64]>,
    entries: AtomicUsize,
    /// When it was pruned last; 0 before that.
    pruned: AtomicU64,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger::new()
    }
}

impl Ledger {
    /// An empty one.
    pub fn new() -> Ledger {
        Ledger {
            ended: Parts::new(),
            tokens: Parts::new(),
            users: Parts::new(),
            everyone: (0..=u8::MAX).map(|_| AtomicU64::new(0)).collect(),
            entries: AtomicUsize::new(0),
            pruned: AtomicU64::new(0),
        }
    }

    /// Learn of an event. Answers whether it said anything new.
    pub fn learn(&self, event: &Event) -> bool {
        match *event {
            Event::Ended { key, until } => raise(&mut self.ended.write(key.0[0]), key, self.kept_until(until)),
            Event::Token { id, until } => raise(&mut self.tokens.write(id.0[0]), id, until),
            Event::UserEpoch { user, epoch, .. } => raise(&mut self.users.write(user.0[0]), user, epoch),
            Event::Everyone { part, epoch } => (0..=u8::MAX)
                .filter(|shard| part.holds(*shard))
                .map(|shard| self.everyone[usize::from(shard)].fetch_max(epoch, Ordering::SeqCst) < epoch)
                .fold(false, |news, raised| news | raised),
        }
    }

    fn kept_until(&self, until: Timestamp) -> Timestamp {
        match self.pruned.load(Ordering::Relaxed) {
            0 => until,
            pruned => until.min(Timestamp(pruned).plus(TOMBSTONES_KEPT)),
        }
    }

    /// Whether a session of this epoch was ended.
    pub fn is_over(&self, key: SessionKey, user: UserKey, epoch: u64) -> bool {
        epoch < self.epoch(user) || self.ended.get(key.0[0], &key).is_some()
    }

    /// Whether a token was revoked by its id.
    pub fn is_token_revoked(&self, id: TokenId) -> bool {
        self.tokens.get(id.0[0], &id).is_some()
    }

    /// The epoch below which a user's sessions are over.
    pub fn epoch(&self, user: UserKey) -> u64 {
        let everyone = self.everyone[usize::from(user.shard())].load(Ordering::SeqCst);
        self.users.get(user.0[0], &user).unwrap_or(0).max(everyone)
    }

    /// All that is known of a part of the store. Nobody is spared: who was, is not known here.
    pub fn known(&self, part: Part) -> Vec<Event> {
        let mut known = self.lasting(part);
        self.ended.each(|key, until| known.push(Event::Ended { key: *key, until }));
        known.retain(|event| event.concerns(part));
        known
    }

    /// What a store has to remember beyond its log: denied tokens and epochs.
    fn lasting(&self, part: Part) -> Vec<Event> {
        let mut lasting = Vec::new();
        self.tokens.each(|id, until| lasting.push(Event::Token { id: *id, until }));
        self.users.each(|user, epoch| lasting.push(Event::UserEpoch { user: *user, epoch, spared: None }));
        lasting.retain(|event| event.concerns(part));
        match self.everyone[usize::from(part.index)].load(Ordering::SeqCst) {
            0 => {}
            epoch => lasting.push(Event::Everyone { part, epoch }),
        }
        lasting
    }

    /// Whether something is known of a part that is not among what its store remembers: epochs, and tokens that have some time yet.
    pub fn exceeds(&self, part: Part, remembered: &[Event]) -> bool {
        let theirs = Ledger::new();
        for event in remembered {
            theirs.learn(event);
        }
        let soon = Timestamp(self.pruned.load(Ordering::Relaxed)).plus(UNSURE);
        self.lasting(part).iter().any(|event| match *event {
            Event::UserEpoch { user, epoch, .. } => theirs.epoch(user) < epoch,
            Event::Everyone { part, epoch } => theirs.everyone[usize::from(part.index)].load(Ordering::SeqCst) < epoch,
            Event::Token { id, until } => until > soon && !theirs.is_token_revoked(id),
            Event::Ended { .. } => false,
        })
    }

    /// Forget what is over by time.
    pub fn prune(&self, now: Timestamp) {
        self.pruned.store(now.0, Ordering::Relaxed);
        let left = self.ended.retain(|until| *until > now)
            + self.tokens.retain(|until| *until > now)
            + self.users.retain(|epoch| Timestamp(*epoch).plus(EPOCHS_KEPT) > now);
        if left > MANY && self.entries.swap(left, Ordering::Relaxed) <= MANY {
            tracing::warn!(entries = left, "so many revocations stand that memory grows by more than 100 MB");
        }
    }
}

fn raise<K: Eq + Hash, V: Ord + Copy>(map: &mut HashMap<K, V>, key: K, value: V) -> bool {
    match map.get_mut(&key) {
        Some(known) if *known >= value => false,
        Some(known) => {
            *known = value;
            true
        }
        None => map.insert(key, value).is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::{EPOCHS_KEPT, Ledger, TOMBSTONES_KEPT};
    use crate::clock::Timestamp;
    use crate::session::{Event, Part, SessionKey, TokenId, UserKey};

    const ALICE: UserKey = UserKey([1; 16]);

    fn events() -> Vec<Event> {
        let key = |n| SessionKey([n; 16]);
        vec![
            Event::Ended { key: key(1), until: Timestamp(50) },
            Event::Ended { key: key(1), until: Timestamp(90) },
            Event::UserEpoch { user: ALICE, epoch: 7, spared: None },
            Event::UserEpoch { user: ALICE, epoch: 9, spared: Some(key(3)) },
            Event::Everyone { part: Part { index: 1, of: 2 }, epoch: 8 },
            Event::Token { id: TokenId([4; 16]), until: Timestamp(60) },
        ]
    }

    fn verdicts(ledger: &Ledger) -> (Vec<bool>, u64, u64, bool) {
        let key = |n| SessionKey([n; 16]);
        let over = [(key(1), ALICE, 9), (key(2), ALICE, 8), (key(2), ALICE, 9), (key(2), UserKey([2; 16]), 0)];
        let over = over.map(|(key, user, epoch)| ledger.is_over(key, user, epoch)).to_vec();
        (over, ledger.epoch(ALICE), ledger.epoch(UserKey([3; 16])), ledger.is_token_revoked(TokenId([4; 16])))
    }

    /// I7
    #[test]
    fn repeated_and_reordered_events_change_nothing() {
        let expected = (vec![true, true, false, false], 9, 8, true);
        let (mut order, forward) = (events(), Ledger::new());
        assert!(order.iter().all(|event| forward.learn(event)));
        assert_eq!(verdicts(&forward), expected);
        order.reverse();
        let backward = Ledger::new();
        for event in order.iter().chain(&events()) {
            backward.learn(event);
        }
        assert_eq!(verdicts(&backward), expected);
        assert!(events().iter().all(|event| !backward.learn(event)), "nothing of it is news");
    }

    #[test]
    fn what_a_store_does_not_remember_is_told_from_what_it_need_not() {
        let ledger = Ledger::new();
        assert!(events().iter().all(|event| ledger.learn(event)));
        let all = Part { index: 0, of: 1 };
        assert_eq!(ledger.known(all).len(), 3, "everybody's epoch is of the other part");
        let theirs = Part { index: 1, of: 2 };
        let remembered = [events()[4], Event::UserEpoch { user: ALICE, epoch: 9, spared: None }, events()[5]];
        assert!(
            !ledger.exceeds(theirs, &remembered),
            "under tombstones there is no record that could come back unseen"
        );
        assert!(ledger.exceeds(theirs, &remembered[1..]), "everybody's epoch is lost");
        assert!(!ledger.exceeds(Part { index: 0, of: 2 }, &remembered[1..]), "and concerns one part alone");
        let of_alice = Part { index: ALICE.shard() % 2, of: 2 };
        assert!(ledger.exceeds(of_alice, &[Event::UserEpoch { user: ALICE, epoch: 7, spared: None }]), "an older one");
        let token = Event::Token { id: TokenId([4; 16]), until: Timestamp(1_000_000) };
        let rests = ledger
            .learn(&token)
            .then(|| ledger.exceeds(all, &[Event::UserEpoch { user: ALICE, epoch: 9, spared: None }]));
        assert_eq!(rests, Some(true), "a denied token, with time left");
    }

    #[test]
    fn what_is_over_by_itself_is_forgotten() {
        let ledger = Ledger::new();
        assert!(events().iter().all(|event| ledger.learn(event)));
        ledger.prune(Timestamp(89));
        assert!(ledger.is_over(SessionKey([1; 16]), ALICE, 9) && !ledger.is_token_revoked(TokenId([4; 16])));
        ledger.prune(Timestamp(90));
        assert!(!ledger.is_over(SessionKey([1; 16]), ALICE, 9) && ledger.epoch(ALICE) == 9);
        ledger.prune(Timestamp(9).plus(EPOCHS_KEPT));
        assert_eq!(ledger.epoch(ALICE), 8, "the epoch of everybody stays");
        ledger.learn(&Event::Ended { key: SessionKey([9; 16]), until: Timestamp(u64::MAX) });
        ledger.prune(Timestamp(9).plus(EPOCHS_KEPT).plus(TOMBSTONES_KEPT));
        assert!(!ledger.is_over(SessionKey([9; 16]), ALICE, 9), "whatever the session's end");
    }
}
