//! The way of a request, in seven stops: accept, read the head, find the route, learn who is calling, decide, act, record.
//!
//! One decision: the stops stand in one function, [`handle`], in this order. Inner functions return errors; this room's
//! outer one renders them and records. It does not know how a session is kept, nor how TLS was ended.

mod body;
mod busy;
mod client;
mod cors;
mod events;
mod forward;
mod handle;
pub mod headers;
mod line;
mod own_pages;
mod record;
mod redirect;
mod reply;
mod request_id;
mod stall;
mod traffic;
mod tunnel;
mod unread;
mod upgrade;
mod watch;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderValue;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authn::Authenticator;
use crate::clock::Clock;
use crate::login::Login;
use crate::policy::RouteTable;
use crate::session::Memo;
use crate::token::SignedIdentities;
use crate::token::ring::{KeyRing, RETIRING};
use crate::upstream::{Pool, Upstream};

pub use body::{RequestBody, ResponseBody};
use line::LineBuffer;

pub use busy::Busy;
pub use client::{ForwardedStyle, Forwarding};
pub use handle::handle;
pub use record::{AuditLine, Format, Records, audit};
pub use redirect::redirect;
pub use request_id::{RequestId, RequestIds};
pub use traffic::{BUCKETS_US, Outcome, Tally, Total, Traffic};
pub use upgrade::Switch;

/// Live state built from one configuration, shared by all workers. A request pins one.
pub struct Runtime {
    /// Routes.
    pub routes: RouteTable,
    /// Who is calling.
    pub authenticator: Authenticator,
    /// The gateway's own pages.
    pub login: Login,
    /// Keys of what this gateway signs.
    pub ring: Option<Arc<KeyRing>>,
    /// Tells applications who calls in a way that they can verify.
    pub identities: Option<SignedIdentities>,
    /// Applications, by `UpstreamId`.
    pub upstreams: Vec<Upstream>,
    /// Where lines go.
    pub records: Arc<dyn Records>,
    /// Whether there is a line per request.
    pub access_log: bool,
    /// Requests, counted.
    pub traffic: Traffic,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Proxies before us, and what applications are told of the way.
    pub forwarding: Forwarding,
    /// Bytes a request head may have.
    pub head_limit: usize,
    /// Bytes a request body may have.
    pub body_limit: Option<u64>,
    /// How long a client may send nothing of a body that it began, until the answer comes.
    pub body_timeout: Duration,
}

impl AsRef<Login> for Runtime {
    fn as_ref(&self) -> &Login {
        &self.login
    }
}

impl Runtime {
    /// The longest life of tokens of this gateway's own issuer; `None` of another one.
    pub fn longest_of_own(&self, issuer: &str) -> Option<Duration> {
        self.identities.as_ref().filter(|own| own.issuer() == issuer).map(|_| RETIRING)
    }
}

/// One worker: a thread, its runtime, its upstream connections.
pub struct Worker {
    /// What all share.
    pub runtime: Arc<Runtime>,
    /// Pools, by `UpstreamId`.
    pub pools: Vec<Pool<RequestBody>>,
    /// Its requests, counted.
    pub tally: Arc<Tally>,
    /// Where it writes access lines before they are handed on. Never contended.
    line: Mutex<LineBuffer>,
    /// Whose session its last cookies led to.
    pub memo: Memo,
    /// Fresh ids.
    pub ids: RequestIds,
    /// Tunnels, which outlive the request that opened them.
    pub tunnels: TaskTracker,
    /// Cancelled when tunnels have to end.
    pub stop: CancellationToken,
}

impl Worker {
    /// A worker with empty pools.
    pub fn new(runtime: Arc<Runtime>, tunnels: TaskTracker, stop: CancellationToken) -> Worker {
        let pools = runtime.upstreams.iter().cloned().map(Pool::new).collect();
        let tally = runtime.traffic.tally();
        Worker {
            runtime,
            pools,
            tally,
            line: Mutex::default(),
            memo: Memo::default(),
            ids: RequestIds::new(),
            tunnels,
            stop,
        }
    }
}

/// An accepted TLS connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The other end.
    pub peer: SocketAddr,
    /// Its address, as applications and records are told it.
    pub shown: HeaderValue,
    /// The server name of the handshake, lower-case.
    pub sni: Option<String>,
    /// What it carries.
    pub busy: Busy,
}

impl Connection {
    /// One that carries nothing yet.
    pub fn new(peer: SocketAddr, sni: Option<String>) -> Connection {
        Connection { peer, shown: client::text(peer.ip().to_canonical()), sni, busy: Busy::default() }
    }
}
