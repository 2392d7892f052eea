//! The operator's listener: health, readiness, metrics, the sessions API.
//!
//! One decision: it has an address, a thread and rules of its own and shares nothing with the public listener but counters and
//! the session layer, so that a stalled worker does not hide that it stalled, and no route of the file can lead here. Every
//! path needs the operator's token unless it is named as open. Knows nothing of requests that pass the gateway.

mod listener;
mod metrics;
mod people;
mod ready;
mod reloads;
mod router;
mod sessions;
mod token;
mod tokens;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::Clock;
use crate::proxy::{Current, Runtime};
use crate::server::{Certificates, Counters, Open};
use crate::session::Sessions;

pub use listener::{Listener, PLACES, Socket};
pub use ready::{Check, CheckFuture};
pub use reloads::Reloads;
pub use token::{Token, TokenError};

/// What the listener answers from.
pub struct Admin {
    /// Sessions, for their counters and the API.
    pub sessions: Arc<Sessions>,
    /// Routes' and upstreams' counters.
    pub current: Arc<Current>,
    /// How often the configuration was read again.
    pub reloads: Arc<Reloads>,
    /// Counters below requests.
    pub counters: Arc<Counters>,
    /// Certificates that clients are shown.
    pub certificates: Arc<Certificates>,
    /// What is open.
    pub open: Open,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What has to hold for the gateway to be ready.
    pub checks: Vec<Box<dyn Check>>,
    /// The operator's token; `None`: nothing that needs one is answered.
    pub token: Option<Token>,
    /// Metrics need the token as well: the address is within reach of others.
    pub guarded: bool,
    /// Set when the gateway begins to stop.
    pub draining: Draining,
}

impl Admin {
    fn runtime(&self) -> Arc<Runtime> {
        self.current.load()
    }
}

/// Whether the gateway is stopping.
#[derive(Clone, Debug, Default)]
pub struct Draining(Arc<AtomicBool>);

impl Draining {
    /// From now on.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
