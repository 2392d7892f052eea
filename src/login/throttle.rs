//! The sign-in throttle. One decision: failures are counted per user and per address, and a browser that signed in as that user
//! before has a budget of its own: whoever guesses from elsewhere slows down strangers, never the owner. Of answers that are
//! brought from a provider those are failures that the provider knows nothing of. Knows nothing of passwords and providers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock as GovernorClock, Reference};
use governor::nanos::Nanos;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::clock::{Clock, Timestamp};
use crate::counter::Counter;

/// Ten wrong guesses at once, then one a minute: some 1,500 a day against one user from strangers. The owner's browser gets
/// the same, counted apart.
const PER_USER: (u32, Duration) = (10, Duration::from_secs(60));
/// An office behind one address mistypes more than a person does.
const PER_ADDRESS: (u32, Duration) = (50, Duration::from_secs(5));
/// Budgets that are full again are forgotten every so many failures, so that a scan leaves nothing behind.
const FORGET_EVERY: u32 = 1024;

/// Our clock, as governor reads it.
#[derive(Clone)]
struct Time(Arc<dyn Clock>);

/// Nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(u64);

impl Reference for Moment {
    fn duration_since(&self, earlier: Self) -> Nanos {
        Nanos::from(Duration::from_nanos(self.0.saturating_sub(earlier.0)))
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        Moment(self.0.saturating_sub(duration.as_u64()))
    }
}

impl std::ops::Add<Nanos> for Moment {
    type Output = Moment;

    fn add(self, duration: Nanos) -> Moment {
        Moment(self.0.saturating_add(duration.as_u64()))
    }
}

impl GovernorClock for Time {
    type Instant = Moment;

    fn now(&self) -> Moment {
        Moment(self.0.now().0.saturating_mul(1_000_000))
    }
}

type Limiter = RateLimiter<String, DashMapStateStore<String>, Time, governor::middleware::NoOpMiddleware<Moment>>;

/// Who tries to sign in.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The canonical user name, existing or not.
    pub user: &'a str,
    /// A device that this user signed in from before.
    pub device: Option<&'a str>,
    /// The client's address.
    pub address: IpAddr,
}

/// The throttle.
pub struct Throttle {
    clock: Arc<dyn Clock>,
    own: Limiter,
    addresses: Limiter,
    /// Who has no guess left, and until when.
    blocked: Mutex<HashMap<String, Timestamp>>,
    failures: AtomicU32,
    /// Attempts that were not looked at: passwords, and answers of providers.
    pub(super) refused: [Counter; 2],
}

impl Throttle {
    /// A throttle on this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Throttle {
        let time = Time(clock.clone());
        let (own, addresses) = (limiter(PER_USER, &time), limiter(PER_ADDRESS, &time));
        let (blocked, failures) = (Mutex::new(HashMap::new()), AtomicU32::new(0));
        Throttle { clock, own, addresses, blocked, failures, refused: Default::default() }
    }

    /// Whether a guess is left. Asked before hashing; what is under way at that moment is bounded by the hashing queue.
    ///
    /// # Errors
    /// How long to wait.
    pub fn check(&self, attempt: &Attempt<'_>) -> Result<(), Duration> {
        self.left(&keys(attempt)).inspect_err(|_| self.refused[0].add())
    }

    /// Whether an answer of a provider, brought from this address, is looked at: it would be written down in the store for as
    /// long as it could come again, and the provider would be asked for its code. Whoever invents codes is not worth that
    /// without end (CWE-770).
    ///
    /// # Errors
    /// How long to wait.
    pub fn check_answer(&self, address: IpAddr) -> Result<(), Duration> {
        self.left(&[answers(address)]).inspect_err(|_| self.refused[1].add())
    }

    fn left(&self, keys: &[String]) -> Result<(), Duration> {
        let now = self.clock.now();
        let blocked = self.blocked();
        let until = keys.iter().filter_map(|key| blocked.get(key).copied()).max();
        match until {
            Some(until) if until > now => Err(until.since(now)),
            _ => Ok(()),
        }
    }

    /// The provider knew nothing of an answer's code, or it had come before.
    pub fn bad_answer(&self, address: IpAddr) {
        self.tidy();
        self.count(&self.addresses, answers(address), PER_ADDRESS);
    }

    /// A guess was wrong. Right ones cost nothing, or an office would lock itself out by signing in.
    pub fn failed(&self, attempt: &Attempt<'_>) {
        self.tidy();
        let [own, near] = keys(attempt);
        self.count(&self.own, own, PER_USER);
        self.count(&self.addresses, near, PER_ADDRESS);
    }

    fn tidy(&self) {
        if self.failures.fetch_add(1, Ordering::Relaxed).wrapping_add(1).is_multiple_of(FORGET_EVERY) {
            self.own.retain_recent();
            self.addresses.retain_recent();
            let now = self.clock.now();
            self.blocked().retain(|_, until| *until > now);
        }
    }

    fn count(&self, limiter: &Limiter, key: String, (_, each): (u32, Duration)) {
        if limiter.check_key(&key).is_err() {
            self.blocked().insert(key, self.clock.now().plus(each));
        }
    }

    fn blocked(&self) -> MutexGuard<'_, HashMap<String, Timestamp>> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The budgets an attempt draws on: the device's, or where there is none the user's; and the address's.
fn keys(attempt: &Attempt<'_>) -> [String; 2] {
    let own = match attempt.device {
        Some(device) => format!("device {device}"),
        None => format!("user {}", attempt.user),
    };
    [own, format!("address {}", network(attempt.address))]
}

/// The budget of answers from providers, apart from that of passwords.
fn answers(address: IpAddr) -> String {
    format!("answers {}", network(address))
}

fn limiter((burst, each): (u32, Duration), time: &Time) -> Limiter {
    let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
    let quota = Quota::with_period(each).unwrap_or_else(|| Quota::per_minute(burst)).allow_burst(burst);
    RateLimiter::new(quota, DashMapStateStore::default(), time.clone())
}

/// One subscriber: an IPv4 address, or a /64 of IPv6, of which everybody has billions of addresses.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => IpAddr::V6((u128::from(six) & !u128::from(u64::MAX)).into()),
        four @ IpAddr::V4(_) => four,
    }
}

#[cfg(test)]
mod tests {
    use super::{Attempt, Throttle};
    use crate::clock::{TestClock, Timestamp};
    use std::net::IpAddr;
    use std::sync::Arc;
    use std::time::Duration;

    fn attempt(user: &'static str, device: Option<&'static str>, address: &str) -> Attempt<'static> {
        Attempt { user, device, address: address.parse::<IpAddr>().unwrap() }
    }

    /// As a sign-in does it: ask, and count a wrong guess.
    fn wrong(throttle: &Throttle, attempt: &Attempt<'_>) -> Result<(), Duration> {
        throttle.check(attempt)?;
        throttle.failed(attempt);
        Ok(())
    }

    /// attacks: line 31
    #[test]
    fn some_wrong_guesses_at_once_then_one_a_minute() {
        let clock = Arc::new(TestClock::at(Timestamp(1_000_000)));
        let throttle = Throttle::new(clock.clone());
        let guess = || wrong(&throttle, &attempt("alice", None, "192.0.2.1"));
        assert_eq!((0..30).filter(|_| guess().is_ok()).count(), 11, "the one that overdraws the budget is looked at");
        assert_eq!(guess(), Err(Duration::from_secs(60)));
        assert!(throttle.check(&attempt("bob", None, "192.0.2.2")).is_ok(), "another user is not concerned");
        clock.advance(Duration::from_secs(61));
        assert!(guess().is_ok());
        assert!((0..3).any(|_| guess().is_err()));
    }

    /// attacks: line 37
    #[test]
    fn strangers_never_lock_the_owner_out() {
        let throttle = Throttle::new(Arc::new(TestClock::at(Timestamp(1_000_000))));
        for _ in 0..40 {
            let _ = wrong(&throttle, &attempt("alice", None, "192.0.2.1"));
        }
        assert!(throttle.check(&attempt("alice", None, "198.51.100.1")).is_err());
        assert!(throttle.check(&attempt("alice", Some("d1"), "198.51.100.1")).is_ok());
    }

    #[test]
    fn invented_answers_are_counted_apart_from_passwords() {
        let clock = Arc::new(TestClock::at(Timestamp(1_000_000)));
        let throttle = Throttle::new(clock.clone());
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let answer = || throttle.check_answer(address).inspect(|()| throttle.bad_answer(address));
        assert_eq!((0..90).filter(|_| answer().is_ok()).count(), 51);
        assert_eq!(answer(), Err(Duration::from_secs(5)));
        assert_eq!(throttle.refused.each_ref().map(crate::counter::Counter::get), [0, 40]);
        assert!(throttle.check(&attempt("alice", None, "192.0.2.1")).is_ok());
        assert!(throttle.check_answer("192.0.2.2".parse().unwrap()).is_ok());
        clock.advance(Duration::from_secs(6));
        assert!(answer().is_ok());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let throttle = Throttle::new(Arc::new(TestClock::at(Timestamp(1_000_000))));
        let users: Vec<String> = (0..60).map(|n| format!("user{n}")).collect();
        let refused = users.iter().enumerate().filter(|(n, user)| {
            let address: IpAddr = format!("2001:db8::{n:x}").parse().unwrap();
            wrong(&throttle, &Attempt { user, device: None, address }).is_err()
        });
        assert_eq!(refused.count(), 9);
    }
}
