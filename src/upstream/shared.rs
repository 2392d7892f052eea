//! A worker's HTTP/2 connections to one server. One decision: a connection carries no more requests than the server said and than its
//! windows were made for; beyond that another one is opened, up to a bound, and beyond the bound a request waits here, where it is
//! known that nothing of it was sent. One that carries nothing is closed after a while: who is at the other end may be gone without a
//! word. Knows nothing of what is sent.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use hyper::client::conn::http2;
use tokio::sync::Notify;

use crate::task::task;

use super::one::Sendable;
use super::pool::{OLDEST, SURPLUS};
use super::wire::{MOST_STREAMS, Two};

/// Connections that take requests.
const MOST_CONNECTIONS: usize = 32;
/// Requests on them, and on those that take no more and go on with what they carry.
const MOST_REQUESTS: usize = MOST_CONNECTIONS * MOST_STREAMS;

/// The connections.
pub(super) struct Shared<B: Sendable> {
    list: Arc<Mutex<List<B>>>,
    all: Arc<All>,
    /// Held while one is made, so that requests which come together share it.
    pub(super) making: tokio::sync::Mutex<()>,
    /// The server chose HTTP/1.1 last time: nothing is shared, and nobody waits for anybody.
    pub(super) chose_one: AtomicBool,
}

struct List<B: Sendable> {
    open: Vec<Open<B>>,
    /// Somebody looks after them.
    tended: bool,
    /// How long one may carry nothing.
    idle_timeout: Duration,
}

struct Open<B: Sendable> {
    two: Two<B>,
    opened: Instant,
    carries: Arc<AtomicUsize>,
    /// It was first seen then to carry nothing since its last request.
    unused: Option<Instant>,
}

/// What all of them carry.
#[derive(Default)]
struct All {
    requests: AtomicUsize,
    left: Notify,
}

/// A request's place on a connection, until its answer is read or given up.
pub(super) struct Place {
    on: Arc<AtomicUsize>,
    all: Arc<All>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.on.fetch_sub(1, Ordering::Relaxed);
        self.all.requests.fetch_sub(1, Ordering::Relaxed);
        self.all.left.notify_one();
    }
}

/// A place, and what sends there.
pub(super) type Taken<B> = (http2::SendRequest<B>, Place);

impl<B: Sendable> Shared<B> {
    /// None yet; one that carries nothing for so long is closed.
    pub(super) fn new(idle_timeout: Duration) -> Shared<B> {
        let list = Arc::new(Mutex::new(List { open: Vec::new(), tended: false, idle_timeout }));
        Shared { list, all: Arc::default(), making: tokio::sync::Mutex::new(()), chose_one: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, List<B>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place on a connection that stands. The first ones are filled first, so that those which a burst needed come to rest.
    pub(super) fn take(&self) -> Option<Taken<B>> {
        let mut list = self.lock();
        let now = Instant::now();
        let has_room = self.all.requests.load(Ordering::Relaxed) < MOST_REQUESTS;
        let mut taken = None;
        list.open.retain_mut(|open| {
            let Some(limit) = open.two.limit().filter(|_| now.duration_since(open.opened) < OLDEST) else {
                return false;
            };
            if taken.is_none() && has_room && open.carries.load(Ordering::Relaxed) < limit.min(MOST_STREAMS) {
                open.unused = None;
                taken = Some((open.two.sender(), self.place(&open.carries)));
            }
            true
        });
        taken
    }

    /// Whether another one may be opened. It would not help where one carries nothing and takes nothing.
    pub(super) fn may_grow(&self) -> bool {
        let list = self.lock();
        list.open.len() < MOST_CONNECTIONS
            && self.all.requests.load(Ordering::Relaxed) < MOST_REQUESTS
            && list.open.iter().all(|open| open.carries.load(Ordering::Relaxed) > 0)
    }

    /// Whether there is one, be it that it is full, or more than may be.
    pub(super) fn stands(&self) -> bool {
        !self.may_grow() || self.lock().open.iter().any(|open| open.two.limit().is_some())
    }

    /// Waits until a request left.
    pub(super) async fn left(&self) {
        self.all.left.notified().await;
    }

    /// Take one up that was just opened, with the first request on it. There is none where the server takes none at all.
    pub(super) fn add(&self, two: Two<B>) -> Option<Taken<B>> {
        let limit = two.limit()?;
        let carries = Arc::<AtomicUsize>::default();
        let mut list = self.lock();
        if list.open.len() >= MOST_CONNECTIONS {
            return None;
        }
        let taken = (limit > 0).then(|| (two.sender(), self.place(&carries)));
        list.open.push(Open { two, opened: Instant::now(), carries, unused: None });
        if !list.tended {
            list.tended = true;
            tokio::spawn(task(tend(Arc::downgrade(&self.list))));
        }
        taken
    }

    /// None takes a request any more.
    pub(super) fn clear(&self) {
        self.lock().open.clear();
    }

    fn place(&self, on: &Arc<AtomicUsize>) -> Place {
        on.fetch_add(1, Ordering::Relaxed);
        self.all.requests.fetch_add(1, Ordering::Relaxed);
        Place { on: on.clone(), all: self.all.clone() }
    }
}

impl<B: Sendable> List<B> {
    /// Close what takes none any more, what carried nothing for long, and but for one what carried nothing for some time; whether there
    /// is one left.
    fn trim(&mut self) -> bool {
        let (now, mut left, timeout) = (Instant::now(), self.open.len(), self.idle_timeout);
        self.open.retain_mut(|open| {
            let is_unused = open.carries.load(Ordering::Relaxed) == 0;
            open.unused = is_unused.then(|| open.unused.unwrap_or(now));
            let unused = open.unused.map_or(Duration::ZERO, |since| now.duration_since(since));
            let kept = open.two.limit().is_some() && unused < timeout && (unused < SURPLUS || left == 1);
            left -= usize::from(!kept);
            kept
        });
        self.tended = !self.open.is_empty();
        self.tended
    }
}

/// Looks after connections, while there are any.
async fn tend<B: Sendable>(list: Weak<Mutex<List<B>>>) {
    loop {
        tokio::time::sleep(SURPLUS).await;
        let Some(list) = list.upgrade() else { return };
        if !list.lock().unwrap_or_else(PoisonError::into_inner).trim() {
            return;
        }
    }
}
