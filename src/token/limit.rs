//! Bad signatures, counted per client. One decision: only failures cost budget, so that an office full of programs with good tokens
//! is never slowed by being many; whoever guesses makes us compute no more than one signature a second. Knows nothing of tokens.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::clock::Timestamp;

/// At once: a script with an old key makes a few.
const FAILURES: u32 = 20;
/// After those, one in so long.
const EVERY: Duration = Duration::from_secs(1);
/// Budgets that are full again are forgotten when so many clients are blocked or counted.
const FORGET_AT: usize = 1024;

/// The budgets of those who failed.
pub(super) struct Failing {
    budgets: DefaultKeyedRateLimiter<u64>,
    blocked: Mutex<HashMap<u64, Timestamp>>,
}

impl Failing {
    pub(super) fn new() -> Failing {
        let burst = NonZeroU32::new(FAILURES).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(EVERY).unwrap_or(Quota::per_second(burst)).allow_burst(burst);
        Failing { budgets: RateLimiter::dashmap(quota), blocked: Mutex::new(HashMap::new()) }
    }

    /// Whether a signature of this client's is not to be computed now.
    pub(super) fn is_blocked(&self, client: IpAddr, now: Timestamp) -> bool {
        self.blocked().get(&subscriber(client)).is_some_and(|until| *until > now)
    }

    /// One was bad.
    pub(super) fn failed(&self, client: IpAddr, now: Timestamp) {
        let client = subscriber(client);
        if self.budgets.check_key(&client).is_ok() {
            return;
        }
        let mut blocked = self.blocked();
        if blocked.len() >= FORGET_AT {
            blocked.retain(|_, until| *until > now);
            self.budgets.retain_recent();
        }
        blocked.insert(client, now.plus(EVERY));
    }

    fn blocked(&self) -> MutexGuard<'_, HashMap<u64, Timestamp>> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An IPv4 address, or the upper half of an IPv6 one: a subscriber has a whole network of those.
fn subscriber(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(four) => u64::from(u32::from(four)),
        IpAddr::V6(six) => (u128::from(six) >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::{Failing, Timestamp};
    use std::net::IpAddr;

    #[test]
    fn who_fails_often_waits_and_nobody_else_does() {
        let (failing, now) = (Failing::new(), Timestamp(1_000_000));
        let (one, same, other): (IpAddr, IpAddr, IpAddr) =
            ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let tried =
            (0..100).take_while(|_| !failing.is_blocked(one, now)).inspect(|_| failing.failed(one, now)).count();
        assert!((21..40).contains(&tried), "{tried}");
        assert!(failing.is_blocked(same, now) && !failing.is_blocked(other, now));
        assert!(!failing.is_blocked(one, Timestamp(now.0 + 1_000)));
    }
}
