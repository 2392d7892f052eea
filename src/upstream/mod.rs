//! Applications behind the gateway, and the connections to them.
//!
//! One decision: a connection carries one request at a time and is used again only when both messages are known to have
//! ended as they should. After an upgrade, an early answer, a framing error or a client that left it is closed: what is
//! left on such a wire would be another user's answer. Knows nothing of routes, identities or headers.

mod pool;

use std::time::Duration;

pub use pool::{Pool, PooledBody, Sent};

/// An application, as plain values.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its name in logs.
    pub name: String,
    /// `host:port` of each server.
    pub servers: Vec<String>,
    /// Until a connection stands.
    pub connect_timeout: Duration,
    /// From the request's start until the response head.
    pub response_timeout: Duration,
    /// Idle connections kept (per worker).
    pub idle_connections: usize,
    /// How long one may idle.
    pub idle_timeout: Duration,
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
    Exchange(#[source] hyper::Error),
    /// No response head in time.
    #[error("the application did not answer in time")]
    ResponseTimeout,
}
