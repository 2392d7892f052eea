//! The sign-in throttle. One decision: a guess takes its part of the budgets before it is looked at, and gets it back unless it was
//! wrong: many at once are no more than one after the other. Budgets are per user and per address, and a browser that signed in as
//! that user before has one of its own: whoever guesses from elsewhere slows down strangers, never the owner. Of answers that are
//! brought from a provider those are failures that the provider knows nothing of. Knows nothing of passwords and providers.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::budget::{Budgets, Limit, network};
use crate::clock::{Clock, Timestamp};
use crate::counter::Counter;

/// Ten wrong guesses at once, then one a minute: some 1,450 a day against one user from strangers. The owner's browser gets
/// the same, counted apart.
const PER_USER: Limit = Limit { at_once: 10, each: Duration::from_secs(60) };
/// An office behind one address mistypes more than a person does.
const PER_ADDRESS: Limit = Limit { at_once: 50, each: Duration::from_secs(5) };

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
    budgets: Mutex<Budgets<String>>,
    /// A guess that was under way is so no more.
    settled: Notify,
    /// Attempts that were not looked at: passwords, and answers of providers.
    pub(super) refused: [Counter; 2],
}

/// A guess that may be looked at. Whoever drops it has it back.
pub struct Guess {
    throttle: Arc<Throttle>,
    keys: [(String, Limit); 2],
    at: Timestamp,
    wrong: bool,
}

impl Guess {
    /// It was wrong.
    pub fn wrong(mut self) {
        self.wrong = true;
    }
}

impl Drop for Guess {
    fn drop(&mut self) {
        let mut budgets = self.throttle.budgets();
        for (key, limit) in &self.keys {
            let Some(budget) = budgets.get(key) else { continue };
            budget.under_way = budget.under_way.saturating_sub(1);
            if !self.wrong {
                // Right ones cost nothing, or an office would lock itself out by signing in.
                budget.give_back(*limit);
            }
            if budget.is_full(self.at) {
                budgets.forget(key);
            }
        }
        drop(budgets);
        self.throttle.settled.notify_waiters();
    }
}

/// Why a guess is not to be looked at now.
enum Not {
    /// Until one that is under way was right, or wrong.
    Yet,
    /// For so long.
    For(Duration),
}

impl Throttle {
    /// A throttle on this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Throttle {
        Throttle { clock, budgets: Mutex::default(), settled: Notify::new(), refused: Default::default() }
    }

    /// A guess, where one is left. Where all that are left are under way, what becomes of them is waited for: somebody's tabs, or the
    /// browsers of an office, may all be right. How many wait is the caller's to bound.
    ///
    /// # Errors
    /// How long to wait.
    pub async fn guess(self: &Arc<Self>, attempt: &Attempt<'_>) -> Result<Guess, Duration> {
        loop {
            // Made before looking, it hears of whatever is settled after that.
            let settled = self.settled.notified();
            match self.take(keys(attempt)) {
                Ok(guess) => return Ok(guess),
                Err(Not::Yet) => settled.await,
                Err(Not::For(wait)) => {
                    self.refused[0].add();
                    return Err(wait);
                }
            }
        }
    }

    /// Out of all of its budgets or of none.
    fn take(self: &Arc<Self>, keys: [(String, Limit); 2]) -> Result<Guess, Not> {
        let now = self.clock.now();
        let mut budgets = self.budgets();
        let (mut yet, mut wait) = (false, None);
        for (key, limit) in &keys {
            let Some(budget) = budgets.get(key) else { continue };
            match budget.wait(*limit, now) {
                Some(_) if budget.under_way > 0 => yet = true,
                needed => wait = wait.max(needed),
            }
        }
        match wait {
            Some(wait) => return Err(Not::For(wait)),
            None if yet => return Err(Not::Yet),
            None => {}
        }
        for (key, limit) in &keys {
            let budget = budgets.of(key.clone(), now);
            budget.take(*limit, now);
            budget.under_way += 1;
        }
        Ok(Guess { throttle: self.clone(), keys, at: now, wrong: false })
    }

    /// Whether an answer of a provider, brought from this address, is looked at: it would be written down in the store for as
    /// long as it could come again, and the provider would be asked for its code. Whoever invents codes is not worth that
    /// without end (CWE-770).
    ///
    /// # Errors
    /// How long to wait.
    pub fn check_answer(&self, address: IpAddr) -> Result<(), Duration> {
        let now = self.clock.now();
        let wait = self.budgets().get(&answers(address)).and_then(|budget| budget.wait(PER_ADDRESS, now));
        wait.map_or(Ok(()), Err).inspect_err(|_| self.refused[1].add())
    }

    /// The provider knew nothing of an answer's code, or it had come before.
    pub fn bad_answer(&self, address: IpAddr) {
        let now = self.clock.now();
        self.budgets().of(answers(address), now).take(PER_ADDRESS, now);
    }

    /// Whether something is written down for whoever asks from this address, known to nobody.
    pub fn may_note(&self, address: IpAddr) -> bool {
        let now = self.clock.now();
        let mut budgets = self.budgets();
        let budget = budgets.of(format!("noted {}", network(address)), now);
        let may = budget.wait(PER_ADDRESS, now).is_none();
        if may {
            budget.take(PER_ADDRESS, now);
        }
        may
    }

    fn budgets(&self) -> MutexGuard<'_, Budgets<String>> {
        self.budgets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The budgets an attempt draws on: the device's, or where there is none the user's; and the address's.
fn keys(attempt: &Attempt<'_>) -> [(String, Limit); 2] {
    let own = match attempt.device {
        Some(device) => format!("device {device}"),
        None => format!("user {}", attempt.user),
    };
    [(own, PER_USER), (format!("address {}", network(attempt.address)), PER_ADDRESS)]
}

/// The budget of answers from providers, apart from that of passwords.
fn answers(address: IpAddr) -> String {
    format!("answers {}", network(address))
}

#[cfg(test)]
mod tests {
    use super::{Attempt, Guess, Not, Throttle, keys};
    use crate::clock::{Clock, TestClock, Timestamp};
    use std::net::IpAddr;
    use std::sync::Arc;
    use std::time::Duration;

    fn attempt(user: &'static str, device: Option<&'static str>, address: &str) -> Attempt<'static> {
        Attempt { user, device, address: address.parse::<IpAddr>().unwrap() }
    }

    fn throttle() -> (Arc<TestClock>, Arc<Throttle>) {
        let clock = Arc::new(TestClock::at(Timestamp(1_000_000)));
        (clock.clone(), Arc::new(Throttle::new(clock)))
    }

    /// With nobody else under way.
    async fn wrong(throttle: &Arc<Throttle>, attempt: &Attempt<'_>) -> Result<(), Duration> {
        throttle.guess(attempt).await.map(Guess::wrong)
    }

    /// attacks: line 31
    #[tokio::test]
    async fn some_wrong_guesses_at_once_then_one_a_minute() {
        let (clock, throttle) = throttle();
        let alice = attempt("alice", None, "192.0.2.1");
        let mut looked_at = 0;
        for _ in 0..30 {
            looked_at += u32::from(wrong(&throttle, &alice).await.is_ok());
        }
        assert_eq!(looked_at, 10);
        assert_eq!(wrong(&throttle, &alice).await, Err(Duration::from_secs(60)));
        assert!(wrong(&throttle, &attempt("bob", None, "192.0.2.2")).await.is_ok(), "another user is not concerned");
        // A day of it, by somebody who asks every second from wherever they like.
        for second in 0..86_400 {
            clock.advance(Duration::from_secs(1));
            let address = IpAddr::from(u128::from(clock.now().0).to_be_bytes());
            let left = wrong(&throttle, &Attempt { address, ..alice }).await;
            looked_at += u32::from(left.is_ok());
            assert!(left.is_ok() || left <= Err(Duration::from_secs(60)), "{second}");
        }
        assert_eq!(looked_at, 10 + 1_440);
    }

    #[tokio::test]
    async fn a_clock_that_is_set_back_keeps_nobody_out() {
        let (clock, throttle) = throttle();
        let alice = attempt("alice", None, "192.0.2.1");
        for _ in 0..10 {
            wrong(&throttle, &alice).await.unwrap();
        }
        let set_back = Arc::new(Throttle::new(Arc::new(TestClock::at(clock.now().minus(Duration::from_secs(500))))));
        *set_back.budgets() = std::mem::take(&mut *throttle.budgets());
        assert_eq!(wrong(&set_back, &alice).await, Err(Duration::from_secs(60)));
        assert!(wrong(&set_back, &attempt("bob", None, "192.0.2.2")).await.is_ok());
    }

    #[tokio::test]
    async fn what_was_not_wrong_is_given_back() {
        let (clock, throttle) = throttle();
        let alice = attempt("alice", None, "192.0.2.1");
        for _ in 0..9 {
            wrong(&throttle, &alice).await.unwrap();
        }
        for _ in 0..100 {
            drop(throttle.guess(&alice).await.unwrap());
        }
        assert!(wrong(&throttle, &alice).await.is_ok() && wrong(&throttle, &alice).await.is_err());
        clock.advance(Duration::from_secs(10_000));
        drop(throttle.guess(&alice).await.unwrap());
        assert!(throttle.budgets().is_empty(), "and nothing is left of it");
    }

    #[tokio::test]
    async fn who_is_guessed_at_by_many_at_once_is_guessed_at_no_more_often() {
        let (_, throttle) = throttle();
        let alice = attempt("alice", None, "192.0.2.1");
        let mut under_way = Vec::new();
        for _ in 0..10 {
            under_way.push(throttle.guess(&alice).await.unwrap());
        }
        assert!(matches!(throttle.take(keys(&alice)), Err(Not::Yet)), "one of them may be right");
        let waits = throttle.guess(&alice);
        tokio::pin!(waits);
        assert!(futures_util::poll!(waits.as_mut()).is_pending());
        drop(under_way.pop());
        let right = waits.await;
        under_way.drain(..).for_each(Guess::wrong);
        assert!(matches!(throttle.take(keys(&alice)), Err(Not::Yet)));
        right.unwrap().wrong();
        assert_eq!(wrong(&throttle, &alice).await, Err(Duration::from_secs(60)));
    }

    /// attacks: line 37
    #[tokio::test]
    async fn strangers_never_lock_the_owner_out() {
        let (_, throttle) = throttle();
        for _ in 0..40 {
            let _ = wrong(&throttle, &attempt("alice", None, "192.0.2.1")).await;
        }
        assert!(throttle.guess(&attempt("alice", None, "198.51.100.1")).await.is_err());
        assert!(throttle.guess(&attempt("alice", Some("d1"), "198.51.100.1")).await.is_ok());
    }

    #[tokio::test]
    async fn invented_answers_are_counted_apart_from_passwords() {
        let (clock, throttle) = throttle();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let answer = || throttle.check_answer(address).inspect(|()| throttle.bad_answer(address));
        assert_eq!((0..90).filter(|_| answer().is_ok()).count(), 50);
        (0..90).for_each(|_| throttle.bad_answer(address));
        assert_eq!(answer(), Err(Duration::from_secs(5)), "what came at once with others holds nobody longer");
        assert_eq!(throttle.refused.each_ref().map(crate::counter::Counter::get), [0, 41]);
        assert!(throttle.guess(&attempt("alice", None, "192.0.2.1")).await.is_ok());
        assert!(throttle.check_answer("192.0.2.2".parse().unwrap()).is_ok());
        clock.advance(Duration::from_secs(6));
        assert!(answer().is_ok());
    }

    #[tokio::test]
    async fn a_network_of_ipv6_is_one_address() {
        let (_, throttle) = throttle();
        let mut refused = 0;
        for n in 0..60 {
            let address: IpAddr = format!("2001:db8::{n:x}").parse().unwrap();
            refused += u32::from(
                wrong(&throttle, &Attempt { user: &format!("user{n}"), device: None, address }).await.is_err(),
            );
        }
        assert_eq!(refused, 10);
    }
}
