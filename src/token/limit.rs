//! Bad signatures, counted per client. One decision: only failures cost budget, so that an office full of programs with good tokens
//! is never slowed by being many; whoever guesses makes us compute no more than one signature a second. Knows nothing of tokens.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;

/// What a budget holds, one failure every second: a script with an old key makes some twenty at once.
const BUDGET: Duration = Duration::from_secs(20);
const EACH: Duration = Duration::from_secs(1);
/// Budgets that are full again are forgotten every so many failures, so that a scan from many addresses leaves nothing behind
/// (CWE-770).
const FORGET_EVERY: u32 = 1024;

/// The budgets of those who failed.
#[derive(Default)]
pub struct Failing(Mutex<Budgets>);

#[derive(Default)]
struct Budgets {
    /// When each is full again (GCRA): a whole budget and one failure ahead at most.
    full: HashMap<u64, Timestamp>,
    failures: u32,
}

impl Failing {
    /// How long whoever is blocked waits at least.
    pub const WAIT: Duration = EACH;

    /// Whether a signature of this client's is not to be computed now.
    pub fn is_blocked(&self, client: IpAddr, now: Timestamp) -> bool {
        self.budgets().full.get(&subscriber(client)).is_some_and(|full| owed(*full, now) > BUDGET)
    }

    /// One was bad.
    pub fn failed(&self, client: IpAddr, now: Timestamp) {
        let mut budgets = self.budgets();
        budgets.failures = budgets.failures.wrapping_add(1);
        if budgets.failures.is_multiple_of(FORGET_EVERY) {
            budgets.full.retain(|_, full| owed(*full, now) > Duration::ZERO);
        }
        let full = budgets.full.entry(subscriber(client)).or_insert(now);
        *full = now.plus(owed(*full, now).min(BUDGET) + EACH);
    }

    fn budgets(&self) -> MutexGuard<'_, Budgets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is missing in a budget. Of two requests the later one may bring the earlier time; what lies farther ahead than that was written
/// before the clock was set back, and counts for nothing.
fn owed(full: Timestamp, now: Timestamp) -> Duration {
    let owed = full.since(now);
    if owed > 2 * BUDGET { Duration::ZERO } else { owed.min(BUDGET + EACH) }
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
    use super::{FORGET_EVERY, Failing, Timestamp};
    use std::net::{IpAddr, Ipv4Addr};

    #[test]
    fn who_fails_often_waits_and_nobody_else_does() {
        let (failing, now) = (Failing::default(), Timestamp(1_000_000));
        let (one, same, other): (IpAddr, IpAddr, IpAddr) =
            ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let tried =
            (0..100).take_while(|_| !failing.is_blocked(one, now)).inspect(|_| failing.failed(one, now)).count();
        assert!((21..40).contains(&tried), "{tried}");
        assert!(failing.is_blocked(same, now) && !failing.is_blocked(other, now));
        assert!(!failing.is_blocked(one, Timestamp(now.0 + 1_000)));
    }

    #[test]
    fn one_a_second_is_heard_of_whoever_goes_on() {
        let (failing, client) = (Failing::default(), IpAddr::from([192, 0, 2, 1]));
        let heard = |at: u64| {
            let now = Timestamp(at);
            let is_heard = !failing.is_blocked(client, now);
            // More than one was on its way.
            (0..4).filter(|_| is_heard).for_each(|_| failing.failed(client, now));
            is_heard
        };
        assert_eq!((0..20_000).filter(|step| heard(1_000_000 + step * 10)).count(), 6 + 199);
        failing.failed(client, Timestamp(1_199_980));
        assert!(
            [980, 991].iter().all(|at| failing.is_blocked(client, Timestamp(1_199_000 + at))),
            "who came before is late"
        );
        assert!(!failing.is_blocked(client, Timestamp(500_000)), "the clock was set back");
        assert!(heard(1_400_000) && heard(1_400_000), "the budget is full again");
    }

    /// attacks: CWE-770, a scan from every address there is
    #[test]
    fn budgets_that_are_full_again_are_forgotten() {
        let (failing, guesser) = (Failing::default(), IpAddr::from([192, 0, 2, 1]));
        for n in 0..20 * FORGET_EVERY {
            let now = Timestamp(1_000_000 + u64::from(n) * 10);
            while !failing.is_blocked(guesser, now) {
                failing.failed(guesser, now);
            }
            failing.failed(Ipv4Addr::from(0x0a00_0000 + n).into(), now);
            // A hundred fail within the second that it takes.
            let kept = u32::try_from(failing.budgets().full.len()).unwrap();
            assert!(kept <= FORGET_EVERY + 102, "{kept}");
            assert!(failing.is_blocked(guesser, now), "nobody who owes is forgotten");
        }
    }
}
