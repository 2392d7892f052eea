//! Budgets of failures, and whose they are. One decision: so many at once, then one in so long, kept as one moment each (GCRA), because
//! whoever has as many addresses as they like must not have as many counters of ours. Knows nothing of what failed.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Timestamp;

/// So many at once, then one in so long.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// How many a budget holds.
    pub at_once: u32,
    /// How long until there is one more.
    pub each: Duration,
}

impl Limit {
    /// The moment at which a budget that is empty now is full again.
    fn fills(self, now: Timestamp) -> Timestamp {
        now.plus(self.each * self.at_once)
    }
}

/// What is left of a budget.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// When it is full again (GCRA's theoretical arrival time).
    full: Timestamp,
    /// How many took from it and may still give back.
    pub under_way: u32,
}

impl Budget {
    /// How long until there is one in it; `None` now. None is emptier than empty: what lies further ahead was written down before the
    /// clock was set back, and would keep people out for as long as it was.
    pub fn wait(&mut self, limit: Limit, now: Timestamp) -> Option<Duration> {
        self.full = self.full.min(limit.fills(now));
        let wait = self.full.max(now).plus(limit.each).since(limit.fills(now));
        (!wait.is_zero()).then_some(wait)
    }

    /// Take one out of it, where there is none as well; then it is as empty as it gets.
    pub fn take(&mut self, limit: Limit, now: Timestamp) {
        self.full = self.full.max(now).plus(limit.each).min(limit.fills(now));
    }

    /// Put one back.
    pub fn give_back(&mut self, limit: Limit) {
        self.full = self.full.minus(limit.each);
    }

    /// Whether it is as one that nobody took from.
    pub fn is_full(&self, now: Timestamp) -> bool {
        self.under_way == 0 && self.full <= now
    }
}

/// Those that are not full.
#[derive(Debug)]
pub struct Budgets<K> {
    by_key: HashMap<K, Budget>,
    asked: u32,
}

impl<K> Default for Budgets<K> {
    fn default() -> Budgets<K> {
        Budgets { by_key: HashMap::new(), asked: 0 }
    }
}

impl<K: Eq + Hash> Budgets<K> {
    /// Those that are full again are forgotten every so many times that one is taken from, so that a scan from many addresses leaves
    /// nothing behind (CWE-770).
    pub const FORGET_EVERY: u32 = 1024;

    /// One that was taken from.
    pub fn get(&mut self, key: &K) -> Option<&mut Budget> {
        self.by_key.get_mut(key)
    }

    /// One to take from; that nobody took from is full.
    pub fn of(&mut self, key: K, now: Timestamp) -> &mut Budget {
        self.asked = self.asked.wrapping_add(1);
        if self.asked.is_multiple_of(Self::FORGET_EVERY) {
            self.by_key.retain(|_, budget| !budget.is_full(now));
        }
        self.by_key.entry(key).or_insert(Budget { full: now, under_way: 0 })
    }

    /// Forget one.
    pub fn forget(&mut self, key: &K) {
        self.by_key.remove(key);
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

/// One subscriber: an IPv4 address, or a /64 of IPv6, whose lower half is whatever they like (RFC 4291 §2.5.1).
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => IpAddr::V6((u128::from(six) & !u128::from(u64::MAX)).into()),
        four @ IpAddr::V4(_) => four,
    }
}

#[cfg(test)]
mod tests {
    use super::{Budgets, Limit, Timestamp, network};
    use std::net::IpAddr;
    use std::time::Duration;

    const LIMIT: Limit = Limit { at_once: 10, each: Duration::from_secs(60) };

    #[test]
    fn a_clock_that_is_set_back_keeps_nobody_out() {
        let (mut budgets, before) = (Budgets::default(), Timestamp(100_000_000));
        let budget = budgets.of("one", before);
        (0..10).for_each(|_| budget.take(LIMIT, before));
        let set_back = before.minus(Duration::from_secs(50_000));
        assert_eq!(budget.wait(LIMIT, set_back), Some(LIMIT.each));
        assert_eq!(budget.wait(LIMIT, set_back.plus(LIMIT.each)), None, "it fills from that moment on");
    }

    #[test]
    fn one_subscriber_is_one_whatever_their_address() {
        let of = |text: &str| network(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8:0:1::5"), of("2001:db8:0:1:ffff::"));
        assert_ne!(of("2001:db8:0:1::5"), of("2001:db8:0:2::5"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.2"), of("192.0.2.1"));
    }
}
