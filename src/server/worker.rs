//! The workers. One decision: an accept error backs off and goes on; nothing a client or the system does ends a worker but
//! the call to stop. Knows nothing of requests.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::network;
use crate::proxy::{Current, Place, Runtime, Worker};
use crate::seats::Seats;
use crate::sparing::Sparing;
use crate::task::task;

use super::accept::{Serve, connection};
use super::addresses::Addresses;
use super::counters::Counters;
use super::{ACCEPT_BACKOFF, LEAVING, Limits, PLACE_KEPT, Serving, listen, plain};

/// What tunnels get to end by themselves, while requests get theirs: few ever do, so no stop waits longer for them alone.
const TUNNEL_GRACE: Duration = Duration::from_secs(5);
/// What their close frames get to be sent, and what requests changed to be kept, when everything has to end.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Ends a drain that is under way, or is yet to begin.
#[derive(Clone, Debug, Default)]
pub struct Hurry(CancellationToken);

impl Hurry {
    /// From now on nothing is waited for that has no end of its own in sight.
    pub fn now(&self) {
        self.0.cancel();
    }

    /// Waits until it is said.
    pub async fn said(&self) {
        self.0.cancelled().await;
    }

    /// Wait for something, no longer than this, nor when it was said.
    async fn within(&self, limit: Duration, what: impl Future<Output = ()>) {
        let _ = self.0.run_until_cancelled(tokio::time::timeout(limit, what)).await;
    }
}

/// Where a gateway listens.
#[derive(Clone, Debug)]
pub struct Listening {
    /// TLS.
    pub address: SocketAddr,
    /// Plain HTTP that leads there.
    pub plain: Option<SocketAddr>,
    /// Threads.
    pub workers: usize,
    /// Whether listed proxies begin with a PROXY header.
    pub proxy_protocol: bool,
}

/// Running worker threads.
pub struct Workers {
    address: SocketAddr,
    plain: Option<SocketAddr>,
    drain: CancellationToken,
    counters: Arc<Counters>,
    open: Open,
    places: Vec<Arc<Place>>,
    threads: Vec<JoinHandle<()>>,
}

/// What is open at this moment, over all workers.
#[derive(Clone, Debug)]
pub struct Open {
    seats: Seats,
    tunnels: Vec<TaskTracker>,
}

impl Open {
    /// Client connections.
    pub fn connections(&self) -> usize {
        self.seats.taken()
    }

    /// WebSockets.
    pub fn tunnels(&self) -> usize {
        self.tunnels.iter().map(TaskTracker::len).sum()
    }
}

/// What all workers share.
#[derive(Clone)]
struct Shared {
    limits: Limits,
    proxy_protocol: bool,
    port: u16,
    drain: CancellationToken,
    hurry: Hurry,
    seats: Seats,
    addresses: Addresses,
    counters: Arc<Counters>,
}

/// One worker's own.
struct Own {
    place: Arc<Place>,
    tunnels: TaskTracker,
    /// Cancelled when tunnels have to end.
    cut: CancellationToken,
}

impl Workers {
    /// Bind and start.
    ///
    /// # Errors
    /// The address, and what the system says of it or of a new thread.
    pub fn start(
        listening: &Listening,
        tls: &Arc<rustls::ServerConfig>,
        current: &Arc<Current>,
        limits: &Limits,
        hurry: &Hurry,
    ) -> Result<Workers, (SocketAddr, io::Error)> {
        let at = |address: SocketAddr| move |error| (address, error);
        let listeners = listen(listening.address, listening.workers).map_err(at(listening.address))?;
        let address = listeners[0].local_addr().map_err(at(listening.address))?;
        let plain = listening.plain.map(|address| listen(address, 1).map_err(at(address))).transpose()?;
        let mut plain = plain.and_then(|mut listeners| listeners.pop());
        let plain_address = plain.as_ref().and_then(|listener| listener.local_addr().ok());
        let shared = Shared {
            limits: limits.clone(),
            proxy_protocol: listening.proxy_protocol,
            port: address.port(),
            drain: CancellationToken::new(),
            hurry: hurry.clone(),
            seats: Seats::new(limits.connections, PLACE_KEPT, LEAVING),
            addresses: Addresses::default(),
            counters: Arc::default(),
        };
        let (drain, counters) = (shared.drain.clone(), shared.counters.clone());
        let open = Open { seats: shared.seats.clone(), tunnels: Vec::new() };
        let (places, threads) = (Vec::new(), Vec::new());
        let mut workers = Workers { address, plain: plain_address, drain, counters, open, places, threads };
        for (index, listener) in listeners.into_iter().enumerate() {
            let serving = Serving { listener, tls: tls.clone(), plain: plain.take() };
            // A tracker of its own: a worker waits for its own tunnels.
            let (tunnels, cut) = (TaskTracker::new(), CancellationToken::new());
            let place = Place::new(Worker::new(index, current, tunnels.clone(), cut.clone()));
            workers.open.tunnels.push(tunnels.clone());
            workers.places.push(place.clone());
            let (own, shared) = (Own { place, tunnels, cut }, shared.clone());
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            workers.threads.push(thread.spawn(move || run(serving, own, shared)).map_err(at(address))?);
        }
        Ok(workers)
    }

    /// From now on requests begin under this runtime; those that began go on under theirs.
    pub fn renew(&self, runtime: &Arc<Runtime>) {
        self.places.iter().for_each(|place| place.renew(runtime));
    }

    /// What happened so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// What is open, now and whenever it is asked again.
    pub fn open(&self) -> Open {
        self.open.clone()
    }

    /// The address that redirects.
    pub fn plain_address(&self) -> Option<SocketAddr> {
        self.plain
    }

    /// The address that is listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stop accepting, let requests finish within the drain limit, and wait for it.
    pub fn stop(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.drain.cancel();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.join();
    }
}

fn run(serving: Serving, own: Own, shared: Shared) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "a worker could not start"),
    };
    runtime.block_on(async move {
        let Own { place, tunnels, cut } = own;
        let acts = place.worker().acts.clone();
        let Shared { limits, proxy_protocol, port, drain, hurry, seats, addresses, counters } = shared;
        let listener = match TcpListener::from_std(serving.listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "a worker could not listen"),
        };
        let drain_timeout = limits.drain_timeout;
        let tls = TlsAcceptor::from(serving.tls);
        let serve = Arc::new(Serve { place, tls, limits, proxy_protocol, drain, addresses, counters });
        if let Some(plain) = serving.plain.and_then(|plain| TcpListener::from_std(plain).ok()) {
            tokio::spawn(task(plain::serve(plain, port, serve.clone())));
        }
        let connections = TaskTracker::new();
        accept(&listener, &serve, &connections, &seats).await;
        drop(listener);
        connections.close();
        tunnels.close();
        // What the last requests changed goes on without them.
        let requests = async {
            connections.wait().await;
            acts.close();
            acts.wait().await;
        };
        // Whatever else is open: a page that is told may connect elsewhere.
        let sockets = async {
            hurry.within(drain_timeout.min(TUNNEL_GRACE), tunnels.wait()).await;
            let left = tunnels.len();
            cut.cancel();
            left
        };
        let ((), sockets) = tokio::join!(hurry.within(drain_timeout, requests), sockets);
        let (connections, unfinished) = (connections.len(), acts.len());
        if connections + sockets + unfinished > 0 {
            tracing::warn!(connections, sockets, acts = unfinished, "cut by the stop");
        }
        acts.close();
        let _ = tokio::time::timeout(CLOSE_GRACE, async { tokio::join!(tunnels.wait(), acts.wait()) }).await;
    });
}

async fn accept(listener: &TcpListener, serve: &Arc<Serve>, connections: &TaskTracker, seats: &Seats) {
    while let Some(accepted) = serve.drain.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => admit(stream, peer, serve, connections, seats),
            Err(error) => {
                serve.counters.accept_failed.add();
                told(&error);
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Accepting that fails goes on failing.
pub(super) fn told(error: &io::Error) {
    static SAID: Sparing = Sparing::new();
    if let Some(unsaid) = SAID.ask(&error.to_string()) {
        tracing::warn!(%error, unsaid, "accept failed");
    }
}

/// Serve, unless too many are open: a refused client may come again, a gateway without descriptors serves nobody.
fn admit(stream: TcpStream, peer: SocketAddr, serve: &Arc<Serve>, connections: &TaskTracker, seats: &Seats) {
    static SAID: Sparing = Sparing::new();
    let say = |what: &'static str| {
        if let Some(unsaid) = SAID.ask(what) {
            tracing::warn!(connections = serve.limits.connections, unsaid, "{what}");
        }
    };
    let (address, worker) = (peer.ip().to_canonical(), serve.place.worker());
    // Those speak for many.
    let counted = !worker.runtime.forwarding.trusts(address);
    let Some((seat, is_for_another)) = seats.take(counted.then(|| network(address))) else {
        serve.counters.refused_full.add();
        say("clients are turned away: all places are taken");
        return tracing::debug!(%peer, "too many connections");
    };
    if is_for_another {
        serve.counters.idle_given_up.add();
        say("idle connections are closed for others: all places are taken");
    }
    serve.counters.accepted.add();
    connections.spawn(connection(serve.clone(), stream, peer, seat));
}
