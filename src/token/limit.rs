//! Bad signatures, counted per client. One decision: only failures cost budget, so that an office full of programs with good tokens
//! is never slowed by being many; whoever guesses makes us compute no more than one signature a second. Knows nothing of tokens.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::budget::{Budgets, Limit, network};
use crate::clock::Timestamp;

/// A script with an old key makes some twenty at once.
const LIMIT: Limit = Limit { at_once: 21, each: Duration::from_secs(1) };

/// The budgets of those who failed.
#[derive(Default)]
pub struct Failing(Mutex<Budgets<IpAddr>>);

impl Failing {
    /// How long whoever is blocked waits at least.
    pub const WAIT: Duration = LIMIT.each;

    /// Whether a signature of this client's is not to be computed now.
    pub fn is_blocked(&self, client: IpAddr, now: Timestamp) -> bool {
        self.budgets().get(&network(client)).is_some_and(|budget| budget.wait(LIMIT, now).is_some())
    }

    /// One was bad.
    pub fn failed(&self, client: IpAddr, now: Timestamp) {
        self.budgets().of(network(client), now).take(LIMIT, now);
    }

    fn budgets(&self) -> MutexGuard<'_, Budgets<IpAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Budgets, Failing, Timestamp};
    use std::net::{IpAddr, Ipv4Addr};

    const FORGET_EVERY: u32 = Budgets::<IpAddr>::FORGET_EVERY;

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
        let set_back = Timestamp(500_000);
        assert!(
            failing.is_blocked(client, set_back) && !failing.is_blocked(client, Timestamp(501_000)),
            "the clock was set back"
        );
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
            let kept = u32::try_from(failing.budgets().len()).unwrap();
            assert!(kept <= FORGET_EVERY + 102, "{kept}");
            assert!(failing.is_blocked(guesser, now), "nobody who owes is forgotten");
        }
    }
}
