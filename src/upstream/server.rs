//! One server of an upstream, and what is known of its state. One decision: the state is a few atomics shared by all workers;
//! a server that fails again and again is left alone for a while that doubles, and never longer than a minute. What began before
//! it was left alone tells of that same outage: many requests on their way are one reason, not many. Knows nothing of connections.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::sparing::Sparing;

use super::tls::ClientTls;

/// A server that recovered is found again within it.
const LONGEST_EJECTION: Duration = Duration::from_secs(60);

/// Whether a server that was left alone is there again one request in so long finds out, until one was answered: all at once would all
/// wait for one that takes connections and says nothing.
const FINDING_OUT: Duration = Duration::from_secs(1);

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Name or address (IPv6 in brackets), and port. Names are resolved at every connect.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(host, port) => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What is spoken with it.
#[derive(Clone, Debug)]
pub enum Protocol {
    /// HTTP/1.1 in clear text.
    Http1,
    /// HTTP/2 in clear text, known beforehand (RFC 9113 §3.3).
    H2c,
    /// What ALPN agrees on.
    Tls(Arc<ClientTls>),
}

/// When a server is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// After so many failures in a row; 0: never.
    pub after: u32,
    /// For so long at first.
    pub first: Duration,
}

/// A server.
#[derive(Debug)]
pub struct Server {
    /// Where.
    pub address: Address,
    /// How.
    pub protocol: Protocol,
    /// Its share of requests relative to its neighbours', at least 1.
    pub weight: u32,
    began: Instant,
    in_flight: AtomicUsize,
    failures: AtomicU32,
    /// Milliseconds since `began` until which it is left alone.
    ejected_until: AtomicU64,
    /// Milliseconds since `began` until which a request that was sent after that finds out for the others.
    found_out_until: AtomicU64,
    /// In a row, without an answer between them.
    ejections: AtomicU32,
    /// How often it was left alone at all.
    outages: AtomicU32,
    well: AtomicBool,
}

impl Server {
    /// One that nothing is held against.
    pub fn new(address: Address, protocol: Protocol, weight: u32) -> Server {
        Server {
            address,
            protocol,
            weight: weight.max(1),
            began: Instant::now(),
            in_flight: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            found_out_until: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            outages: AtomicU32::new(0),
            well: AtomicBool::new(true),
        }
    }

    /// What was found out of the same server under another configuration counts here: one that is known to be away is not tried
    /// anew because something else changed.
    /// That it is unwell only where it is going to be asked again (`checked`).
    pub fn inherit(&mut self, old: &Server, checked: bool) {
        self.began = old.began;
        for (to, from) in [(&self.failures, &old.failures), (&self.ejections, &old.ejections)] {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.ejected_until.store(old.ejected_until.load(Ordering::Relaxed), Ordering::Relaxed);
        self.well.store(!checked || old.well.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether requests should go to it.
    pub fn is_available(&self) -> bool {
        self.well.load(Ordering::Relaxed) && !self.is_ejected()
    }

    fn is_ejected(&self) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        until != 0 && self.now() < until
    }

    /// Whether a request of others finds out whether it is there again.
    pub(super) fn is_found_out(&self) -> bool {
        let left_alone = self.ejected_until.load(Ordering::Relaxed) != 0;
        left_alone && self.now() < self.found_out_until.load(Ordering::Relaxed)
    }

    /// A request is about to go to it, which is available. `false`: another one finds out before whether it is.
    pub(super) fn finds_out(&self) -> bool {
        if self.ejected_until.load(Ordering::Relaxed) == 0 {
            return true;
        }
        let (now, until) = (self.now(), self.found_out_until.load(Ordering::Relaxed));
        let next = now.saturating_add(milliseconds(FINDING_OUT));
        let order = Ordering::Relaxed;
        now >= until && self.found_out_until.compare_exchange(until, next, order, order).is_ok()
    }

    /// Requests on their way, over all workers.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// A request goes there; it is over when the answer is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { server: self.clone(), began: self.outages.load(Ordering::Relaxed) }
    }

    /// It answered what `began` after so many outages. What began before the last one does not tell that it is over.
    pub(super) fn answered(&self, began: u32) {
        let is_unsuspected =
            self.failures.load(Ordering::Relaxed) == 0 && self.ejected_until.load(Ordering::Relaxed) == 0;
        if is_unsuspected || self.outages.load(Ordering::Relaxed) != began {
            return;
        }
        self.failures.store(0, Ordering::Relaxed);
        self.ejections.store(0, Ordering::Relaxed);
        self.take_back();
    }

    /// It did not. One failure more than allowed ejects it, and after its time each further one does at once. Where all are unwell
    /// it is asked meanwhile: that it still fails is nothing new.
    pub(super) fn failed(&self, began: u32, ejection: Ejection) {
        if ejection.after == 0 || self.outages.load(Ordering::Relaxed) != began || self.is_ejected() {
            return;
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        // One of those that fail at the same moment.
        let ejects = failures >= ejection.after
            && self
                .outages
                .compare_exchange(began, began.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !ejects {
            return;
        }
        let turn = self.ejections.fetch_add(1, Ordering::Relaxed).min(16);
        let time = ejection.first.saturating_mul(1 << turn).min(LONGEST_EJECTION);
        let until = self.now().saturating_add(milliseconds(time)).max(1);
        self.found_out_until.store(0, Ordering::Relaxed);
        self.ejected_until.store(until, Ordering::Relaxed);
        if let Some(unsaid) = self.ask() {
            let seconds = time.as_secs_f64();
            tracing::warn!(server = %self.address, failures, seconds, unsaid, "a server is left alone");
        }
    }

    /// Whether to say of it that it comes or goes. Who knows what makes it fail makes it answer in between, and could have both said as
    /// often as they like.
    fn ask(&self) -> Option<u64> {
        static SAID: Sparing = Sparing::new();
        SAID.ask(&self.address.to_string())
    }

    /// What an active check found.
    pub(super) fn set_well(&self, well: bool) {
        if self.well.swap(well, Ordering::Relaxed) != well {
            tracing::warn!(server = %self.address, well, "a server's health changed");
        }
        if well {
            self.take_back();
        }
    }

    fn take_back(&self) {
        if self.ejected_until.swap(0, Ordering::Relaxed) != 0
            && let Some(unsaid) = self.ask()
        {
            tracing::warn!(server = %self.address, unsaid, "a server is available again");
        }
    }

    fn now(&self) -> u64 {
        milliseconds(self.began.elapsed())
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A request on its way to a server.
pub(super) struct InFlight {
    server: Arc<Server>,
    began: u32,
}

impl InFlight {
    /// After how many outages of its server.
    pub(super) fn began(&self) -> u32 {
        self.began
    }

    /// See [`Server::answered`].
    pub(super) fn answered(&self) {
        self.server.answered(self.began);
    }

    /// See [`Server::failed`].
    pub(super) fn failed(&self, ejection: Ejection) {
        self.server.failed(self.began, ejection);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.server.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
