//! Requests, counted. One decision: each worker counts into numbers that no other writes, found by index and not by name, so
//! that counting costs a request three additions; whoever asks adds the workers up. The numbers are a name's, not a
//! configuration's: they go on when the file is read again. Knows nothing of who asks.

use std::collections::BTreeMap;
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

/// Where one worker counts, by route; the last entry is for requests that fell under none.
#[derive(Debug)]
pub struct Tally(Box<[Arc<OfRoute>]>);

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

/// The name of no route: names are not empty.
const NO_ROUTE: &str = "";

/// What all workers counted since the start: by the name of the route, and then by worker.
#[derive(Debug, Default)]
pub struct Traffic(Mutex<BTreeMap<String, Vec<Arc<OfRoute>>>>);

/// The sum of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Total {
    /// Its name; empty: requests that fell under no route.
    pub route: String,
    /// Answers by outcome and status class (1 to 5), those that occurred.
    pub answers: Vec<(Outcome, usize, u64)>,
    /// Requests by the first bucket that covers their time, and beyond the last.
    pub times: [u64; BUCKETS_US.len() + 1],
    /// All times together.
    pub microseconds: u64,
}

impl Traffic {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<Arc<OfRoute>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counters of a worker, by its number, for these routes in their order. Those that it has for a name already go on.
    pub fn tally<'n>(&self, worker: usize, routes: impl IntoIterator<Item = &'n str>) -> Tally {
        let mut all = self.lock();
        let mut of = |name: &str| {
            let workers = all.entry(name.to_owned()).or_default();
            while workers.len() <= worker {
                workers.push(Arc::default());
            }
            workers[worker].clone()
        };
        Tally(routes.into_iter().chain([NO_ROUTE]).map(&mut of).collect())
    }

    /// The sums so far, a route each.
    pub fn totals(&self) -> Vec<Total> {
        self.lock().iter().map(|(route, workers)| total(route, workers)).collect()
    }
}

fn total(route: &str, workers: &[Arc<OfRoute>]) -> Total {
    let sum = |of: &dyn Fn(&OfRoute) -> &Counter| workers.iter().map(|worker| of(worker).get()).sum::<u64>();
    let mut answers = Vec::new();
    for outcome in Outcome::ALL {
        for class in 0..CLASSES {
            match sum(&|of| &of.answers[outcome as usize][class]) {
                0 => {}
                count => answers.push((outcome, class + 1, count)),
            }
        }
    }
    let times = std::array::from_fn(|bucket| sum(&|of| &of.times[bucket]));
    Total { route: route.to_owned(), answers, times, microseconds: sum(&|of| &of.microseconds) }
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS_US, Outcome, Tally, Traffic};
    use std::time::Duration;

    #[test]
    fn workers_are_added_up_and_every_time_has_one_bucket() {
        let traffic = Traffic::default();
        let (one, two) = (traffic.tally(0, ["a"]), traffic.tally(1, ["a"]));
        one.add(Some(0), Outcome::Forward, 200, Duration::from_micros(500));
        two.add(Some(0), Outcome::Forward, 204, Duration::from_micros(501));
        two.add(None, Outcome::Refuse, 999, Duration::from_secs(3600));
        let totals = traffic.totals();
        assert_eq!((totals[0].route.as_str(), &totals[0].answers), ("", &vec![(Outcome::Refuse, 5, 1)]));
        assert_eq!(totals[0].times[BUCKETS_US.len()], 1);
        assert_eq!((totals[1].route.as_str(), &totals[1].answers), ("a", &vec![(Outcome::Forward, 2, 2)]));
        assert_eq!((totals[1].times[0], totals[1].times[1], totals[1].microseconds), (1, 1, 1001));
    }

    #[test]
    fn a_name_keeps_its_numbers_wherever_it_stands() {
        let traffic = Traffic::default();
        let counted = |name: &str| {
            let totals = traffic.totals();
            let total = totals.iter().find(|total| total.route == name).unwrap();
            total.answers.iter().map(|(_, _, count)| count).sum::<u64>()
        };
        let add = |tally: &Tally, route| tally.add(Some(route), Outcome::Forward, 200, Duration::ZERO);
        let before = traffic.tally(0, ["a", "b"]);
        add(&before, 1);
        let after = traffic.tally(0, ["b", "c"]);
        add(&after, 0);
        // Begun before, over afterwards.
        add(&before, 1);
        add(&before, 0);
        assert_eq!(["a", "b", "c"].map(counted), [1, 3, 0]);
    }
}
