//! Applications behind the gateway, and the connections to them.
//!
//! One decision: an HTTP/1.1 connection carries one request at a time and is used again only when both messages are known
//! to have ended as they should. After an upgrade, an early answer, a framing error or a client that left it is closed: what
//! is left on such a wire would be another user's answer. Knows nothing of routes, identities or header rules.

mod balance;
mod connect;
mod health;
mod one;
mod outcomes;
mod pool;
mod pooled;
mod request;
mod server;
mod shared;
mod sockets;
pub mod tls;
mod wire;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::causes;

pub use health::{Health, watch};
#[cfg(any(test, fuzzing))]
pub(crate) use one::probe;
pub use one::{Broken, Malformed, Sendable, Switched};
pub use outcomes::Outcomes;
pub use pool::{Pool, Reached, Waiting};
pub use pooled::{PooledBody, Upload};
pub use request::{Head, Line, Text, Value};
pub use server::{Address, Ejection, Protocol, Server};
pub use sockets::Sockets;

/// An application, as plain values. Its servers are shared by all workers: what one finds out all know.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its name in logs.
    pub name: String,
    /// Its servers, at least one.
    pub servers: Vec<Arc<Server>>,
    /// Until a connection stands, TLS included.
    pub connect_timeout: Duration,
    /// From the request's start, or from where its body moved last, until the response head; not while the client is waited for.
    pub response_timeout: Duration,
    /// Idle connections kept (per server and worker).
    pub idle_connections: usize,
    /// How long one may idle.
    pub idle_timeout: Duration,
    /// When a server that fails is left alone.
    pub ejection: Ejection,
    /// How servers are asked whether they are well; `None`: only by the requests themselves.
    pub health: Option<Health>,
    /// What became of requests.
    pub outcomes: Arc<Outcomes>,
    /// Connections to all applications.
    pub sockets: Sockets,
}

impl Upstream {
    /// When the certificate ends that its servers are shown.
    pub fn shown_until(&self) -> Option<SystemTime> {
        self.servers.iter().find_map(|server| match &server.protocol {
            Protocol::Tls(tls) => tls.shown_until(),
            Protocol::Http1 | Protocol::H2c => None,
        })
    }
}

/// Why an exchange that had begun ended early.
#[derive(Debug, thiserror::Error)]
pub enum BrokenOff {
    /// On a connection of its own.
    #[error(transparent)]
    One(#[from] Broken),
    /// Among others on an HTTP/2 connection.
    #[error(transparent)]
    Two(#[from] hyper::Error),
}

/// Why a request got no response head from the application.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No server could be reached.
    #[error("could not connect to {server}")]
    Connect {
        /// The last one tried.
        server: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The connection took too long to stand.
    #[error("connecting to {0} took too long")]
    ConnectTimeout(String),
    /// The connection broke, or what came was not HTTP.
    #[error("the application broke the exchange off")]
    Exchange(#[source] BrokenOff),
    /// No response head in time.
    #[error("the application did not answer in time")]
    ResponseTimeout,
    /// Every HTTP/2 connection that may be there carries what it may, or the server sent a request away unseen.
    #[error("{0} takes no more requests at a time")]
    Full(String),
    /// Clients have as many connections to applications as there are descriptors for.
    #[error("no descriptor is left for a connection to {0}")]
    NoDescriptor(String),
    /// A WebSocket for a server that speaks HTTP/2 alone.
    #[error("{0} speaks HTTP/2 only, which carries no WebSocket here")]
    NoUpgrade(String),
}

impl ForwardError {
    /// Of an exchange over HTTP/2 that failed. A request that the server says it refused unseen (RFC 9113 §8.7), or did not process because
    /// it ends a connection in good order, is one more than it takes: nothing is wrong with it.
    fn of_two(error: hyper::Error, server: &Server) -> ForwardError {
        let refused = |cause: &h2::Error| match cause.reason() {
            Some(h2::Reason::NO_ERROR) => is_unprocessed(cause),
            reason => reason == Some(h2::Reason::REFUSED_STREAM),
        };
        if causes::of(&error).any(|cause| cause.downcast_ref().is_some_and(refused)) {
            return ForwardError::Full(server.address.to_string());
        }
        ForwardError::Exchange(error.into())
    }

    /// Whether an HTTP/2 connection ended, and not this exchange on it alone.
    fn is_of_connection(&self) -> bool {
        let ended = |cause: &h2::Error| cause.is_go_away() || cause.is_io();
        causes::of(self).any(|cause| cause.is::<std::io::Error>() || cause.downcast_ref().is_some_and(ended))
    }

    /// Whether nothing of the request was sent, because its own body broke off before.
    fn is_unsent(&self) -> bool {
        matches!(self, ForwardError::Exchange(BrokenOff::One(Broken::Unsent(_))))
    }

    /// Whether the request's body broke off: nobody's fault but the client's.
    pub fn is_broken_upload(&self) -> bool {
        self.is_unsent() || matches!(self, ForwardError::Exchange(BrokenOff::One(Broken::Upload(_))))
    }

    /// Whether the server answered, and what it said cannot be read.
    pub fn is_malformed(&self) -> bool {
        matches!(self, ForwardError::Exchange(BrokenOff::One(Broken::Malformed(_))))
    }

    /// Whether it tells against the server: it was not there, or broke off.
    fn is_failure(&self) -> bool {
        !matches!(self, ForwardError::NoUpgrade(_) | ForwardError::Full(_) | ForwardError::NoDescriptor(_))
    }
}

/// Whether the server said of an exchange over HTTP/2 that it processed nothing of it: that stream stands above the last one which its
/// GOAWAY names (RFC 9113 §6.8), and whatever was asked may be asked again.
fn is_unprocessed(cause: &h2::Error) -> bool {
    cause.is_go_away() && cause.is_remote()
}
