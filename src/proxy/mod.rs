//! The way of a request, in seven stops: accept, read the head, find the route, learn who is calling, decide, act, record.
//!
//! One decision: the stops stand in one function, [`handle`], in this order. Inner functions return errors; this room's
//! outer one renders them and records. It does not know how a session is kept, nor how TLS was ended.

mod body;
mod busy;
mod client;
mod cors;
mod current;
mod events;
mod forward;
mod handle;
pub mod headers;
mod line;
mod location;
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
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authn::{Authenticator, Evidence, Recent};
use crate::clock::Clock;
use crate::login::Login;
use crate::policy::{Asked, Authentication, RouteTable};
use crate::seldom::Alarms;
use crate::session::View;
use crate::token::SignedIdentities;
use crate::token::ring::{KeyRing, RETIRING};
use crate::upstream::{Pool, Upstream};

pub use body::{RequestBody, ResponseBody};
use line::LineBuffer;

pub use busy::Busy;
pub use client::{ForwardedStyle, Forwarding};
pub use current::{Current, Place};
pub use handle::handle;
pub use own_pages::is_own;
pub use record::{AuditLine, Format, Records, audit, unreadable};
pub use redirect::redirect;
pub use reply::Refusal;
pub use request_id::{RequestId, RequestIds};
pub use traffic::{BUCKETS_US, Outcome, Tally, Total, Traffic};
pub use upgrade::Switch;
#[cfg(any(test, fuzzing))]
pub(crate) use {
    location::lead_back,
    upgrade::{asked, same_origin as websocket_of_here},
};

/// Live state built from one configuration, shared by all workers. A request pins one.
pub struct Runtime {
    /// How many there were before it, and one.
    pub number: u64,
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
    pub traffic: Arc<Traffic>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Proxies before us, and what applications are told of the way.
    pub forwarding: Forwarding,
    /// What a request head may have.
    pub head_limits: headers::HeadLimits,
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

    /// In whose name this gateway signs what it says of people, where it does.
    pub fn own_issuer(&self) -> Option<&str> {
        self.identities.as_ref().map(SignedIdentities::issuer)
    }

    /// Whether what was asked for would be let through here; by whom, `evidence` says, and in a session, `view` as it is now.
    pub fn still_allows(&self, asked: &Asked, evidence: Option<&Evidence>, view: Option<&View>) -> bool {
        asked.passes(&self.routes, |accept| {
            let caller = match evidence {
                Some(Evidence::Session(began, _)) if accept.session => {
                    self.authenticator.caller_in(view.unwrap_or(&began.view))
                }
                Some(Evidence::Token(verified)) if accept.token => self.authenticator.tokens().caller_of(verified),
                _ => None,
            };
            caller.map_or(Authentication::Anonymous, Authentication::Identified)
        })
    }
}

/// One worker: a thread, its runtime, its upstream connections.
pub struct Worker {
    /// What all share.
    pub runtime: Arc<Runtime>,
    /// What all share that begins now.
    pub current: Arc<Current>,
    /// Which of them it is.
    index: usize,
    /// Pools, by `UpstreamId`.
    pub pools: Vec<Arc<Pool<RequestBody>>>,
    /// Its requests, counted.
    pub tally: Tally,
    /// Where it writes access lines before they are handed on. Never contended.
    line: Mutex<LineBuffer>,
    /// Whose session, or token, its last credentials led to, and who called by this runtime's roles: never handed to another runtime.
    pub recent: Recent,
    /// Fresh ids.
    pub ids: RequestIds,
    /// Tunnels, which outlive the request that opened them.
    pub tunnels: TaskTracker,
    /// What requests change, which goes to its end without them.
    pub acts: TaskTracker,
    /// Places for what the gateway's own pages change.
    changes: Arc<Semaphore>,
    /// Cancelled when tunnels have to end.
    pub stop: CancellationToken,
}

impl Worker {
    /// The `index`-th worker, with empty pools.
    pub fn new(index: usize, current: &Arc<Current>, tunnels: TaskTracker, stop: CancellationToken) -> Worker {
        let (runtime, current, acts) = (current.load(), current.clone(), TaskTracker::new());
        let changes = Arc::new(Semaphore::new(own_pages::CHANGES));
        let pools = runtime.upstreams.iter().cloned().map(Pool::new).map(Arc::new).collect();
        Worker::over(runtime, current, index, pools, (tunnels, acts, changes, stop))
    }

    /// The same worker under another runtime: it keeps its connections to applications that did not change.
    fn renewed(&self, runtime: &Arc<Runtime>) -> Worker {
        let pool = |upstream: &Upstream| {
            let kept = self.pools.iter().find(|pool| pool.is_of(upstream)).cloned();
            kept.unwrap_or_else(|| Arc::new(Pool::new(upstream.clone())))
        };
        let pools = runtime.upstreams.iter().map(pool).collect();
        let ends = (self.tunnels.clone(), self.acts.clone(), self.changes.clone(), self.stop.clone());
        Worker::over(runtime.clone(), self.current.clone(), self.index, pools, ends)
    }

    fn over(
        runtime: Arc<Runtime>,
        current: Arc<Current>,
        index: usize,
        pools: Vec<Arc<Pool<RequestBody>>>,
        (tunnels, acts, changes, stop): (TaskTracker, TaskTracker, Arc<Semaphore>, CancellationToken),
    ) -> Worker {
        let tally = runtime.traffic.tally(index, runtime.routes.routes().iter().map(|route| route.name.as_str()));
        let (line, recent, ids) = (Mutex::default(), Recent::default(), RequestIds::new());
        Worker { runtime, current, index, pools, tally, line, recent, ids, tunnels, acts, changes, stop }
    }

    /// No request begins here any more. Those that did may go on for days: what would be kept for others is given back.
    fn retire(&self, successor: &Worker) {
        self.recent.forget();
        self.runtime.authenticator.tokens().forget();
        if let Some(identities) = &self.runtime.identities {
            identities.forget();
        }
        let is_kept = |pool: &Arc<Pool<RequestBody>>| successor.pools.iter().any(|kept| Arc::ptr_eq(kept, pool));
        self.pools.iter().filter(|pool| !is_kept(pool)).for_each(|pool| pool.retire());
    }
}

/// An accepted TLS connection.
#[derive(Debug)]
pub struct Connection {
    /// The other end.
    pub peer: SocketAddr,
    /// Its address, as applications and records are told it.
    pub shown: HeaderValue,
    /// A listed proxy said that it does not know, or does not say, for whom it connects.
    pub unnamed: bool,
    /// The server name of the handshake, lower-case.
    pub sni: Option<String>,
    /// How long a client may take nothing of what is sent to it. Only HTTP/2 leaves that to whoever sends.
    pub stall_timeout: Duration,
    /// What it carries.
    pub busy: Busy,
    /// For what its requests wait for.
    pub alarms: Alarms,
}

impl Connection {
    /// One that carries nothing yet.
    pub fn new(peer: SocketAddr, sni: Option<String>) -> Connection {
        let shown = client::text(peer.ip().to_canonical());
        let (busy, alarms) = (Busy::default(), Alarms::new(false));
        Connection { peer, shown, unnamed: false, sni, stall_timeout: Duration::MAX, busy, alarms }
    }
}
