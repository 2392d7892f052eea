//! Requests, counted. One decision: each worker counts into numbers that no other writes, found by index and not by name, so
//! that counting costs a request three additions; whoever asks adds the workers up. Knows nothing of who asks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::counter::Counter;

/// What was done with a request, as records and metrics name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// Forwarded.
    Forward,
    /// Sent to sign in.
    SignIn,
    /// 401.
    Unauthenticated,
    /// 403.
    Forbidden,
    /// A CORS preflight was answered.
    Preflight,
    /// One of the gateway's own pages.
    OwnPage,
    /// Refused before anything was decided.
    #[default]
    Refuse,
}

impl Outcome {
    /// Every one, in the order of their counters.
    pub const ALL: [Outcome; 7] = [
        Outcome::Forward,
        Outcome::SignIn,
        Outcome::Unauthenticated,
        Outcome::Forbidden,
        Outcome::Preflight,
        Outcome::OwnPage,
        Outcome::Refuse,
    ];

    /// A stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Forward => "forward",
            Outcome::SignIn => "sign_in",
            Outcome::Unauthenticated => "unauthenticated",
            Outcome::Forbidden => "forbidden",
            Outcome::Preflight => "preflight",
            Outcome::OwnPage => "own_page",
            Outcome::Refuse => "refuse",
        }
    }
}

/// Status classes, 1xx to 5xx.
const CLASSES: usize = 5;

/// Upper ends of the buckets of request times, in microseconds: from a cached answer next door to a report that is computed.
pub const BUCKETS_US: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

/// What one worker counted on one route.
#[derive(Debug, Default)]
struct OfRoute {
    answers: [[Counter; CLASSES]; Outcome::ALL.len()],
    /// By the first bucket that covers the time; the last one is for what none covers.
    times: [Counter; BUCKETS_US.len() + 1],
    microseconds: Counter,
}

/// What one worker counted, by route; the last entry is for requests that fell under none.
#[derive(Debug)]
pub struct Tally(Box<[OfRoute]>);

impl Tally {
    /// A request is over. `route` is its route's index in the file.
    pub fn add(&self, route: Option<usize>, outcome: Outcome, status: u16, took: Duration) {
        let of = &self.0[route.unwrap_or(usize::MAX).min(self.0.len() - 1)];
        let class = usize::from(status / 100).clamp(1, CLASSES) - 1;
        of.answers[outcome as usize][class].add();
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        of.times[BUCKETS_US.partition_point(|end| *end < took)].add();
        of.microseconds.add_many(took);
    }
}

/// What all workers counted.
#[derive(Debug)]
pub struct Traffic {
    routes: Vec<String>,
    workers: Mutex<Vec<Arc<Tally>>>,
}

/// The sum of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Total<'t> {
    /// Its name; `None`: requests that fell under no route.
    pub route: Option<&'t str>,
    /// Answers by outcome and status class (1 to 5), those that occurred.
    pub answers: Vec<(Outcome, usize, u64)>,
    /// Requests by the first bucket that covers their time, and beyond the last.
    pub times: [u64; BUCKETS_US.len() + 1],
    /// All times together.
    pub microseconds: u64,
}

impl Traffic {
    /// Nothing yet, on these routes.
    pub fn new(routes: Vec<String>) -> Traffic {
        Traffic { routes, workers: Mutex::default() }
    }

    fn workers(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Tally>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counters for one more worker.
    pub fn tally(&self) -> Arc<Tally> {
        let tally = Arc::new(Tally((0..=self.routes.len()).map(|_| OfRoute::default()).collect()));
        self.workers().push(tally.clone());
        tally
    }

    /// The sums so far, a route each.
    pub fn totals(&self) -> Vec<Total<'_>> {
        let workers = self.workers();
        let sum = |index: usize, of: &dyn Fn(&OfRoute) -> &Counter| {
            workers.iter().map(|tally| of(&tally.0[index]).get()).sum::<u64>()
        };
        let names = self.routes.iter().map(|name| Some(name.as_str())).chain([None]);
        let total = |(index, route)| {
            let mut answers = Vec::new();
            for outcome in Outcome::ALL {
                for class in 0..CLASSES {
                    match sum(index, &|of| &of.answers[outcome as usize][class]) {
                        0 => {}
                        count => answers.push((outcome, class + 1, count)),
                    }
                }
            }
            let times = std::array::from_fn(|bucket| sum(index, &|of| &of.times[bucket]));
            Total { route, answers, times, microseconds: sum(index, &|of| &of.microseconds) }
        };
        names.enumerate().map(total).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS_US, Outcome, Traffic};
    use std::time::Duration;

    #[test]
    fn workers_are_added_up_and_every_time_has_one_bucket() {
        let traffic = Traffic::new(vec!["a".into()]);
        let (one, two) = (traffic.tally(), traffic.tally());
        one.add(Some(0), Outcome::Forward, 200, Duration::from_micros(500));
        two.add(Some(0), Outcome::Forward, 204, Duration::from_micros(501));
        two.add(None, Outcome::Refuse, 999, Duration::from_secs(3600));
        let totals = traffic.totals();
        assert_eq!((totals[0].route, &totals[0].answers), (Some("a"), &vec![(Outcome::Forward, 2, 2)]));
        assert_eq!((totals[0].times[0], totals[0].times[1], totals[0].microseconds), (1, 1, 1001));
        assert_eq!((totals[1].route, &totals[1].answers), (None, &vec![(Outcome::Refuse, 5, 1)]));
        assert_eq!(totals[1].times[BUCKETS_US.len()], 1);
    }
}
