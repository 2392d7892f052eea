//! The workers. One decision: an accept error backs off and goes on; nothing a client or the system does ends a worker but
//! the call to stop. Knows nothing of requests.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::proxy::{Runtime, Worker};

use super::accept::{Serve, connection};
use super::{Limits, Serving, listen};

/// After an accept that failed (out of descriptors, usually) others get the time to close theirs.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// What tunnels get after requests had theirs.
const TUNNEL_GRACE: Duration = Duration::from_secs(1);

/// Running worker threads.
pub struct Workers {
    address: SocketAddr,
    drain: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Bind and start.
    ///
    /// # Errors
    /// What the system says of the address or of a new thread.
    pub fn start(
        address: SocketAddr,
        count: usize,
        tls: &Arc<rustls::ServerConfig>,
        runtime: &Arc<Runtime>,
        limits: &Limits,
    ) -> io::Result<Workers> {
        let listeners = listen(address, count)?;
        let address = listeners[0].local_addr()?;
        let (drain, open) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let mut threads = Vec::with_capacity(count);
        for (index, listener) in listeners.into_iter().enumerate() {
            let serving = Serving { listener, tls: tls.clone() };
            let (runtime, limits, drain, open) = (runtime.clone(), limits.clone(), drain.clone(), open.clone());
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || run(serving, runtime, limits, drain, open))?;
            threads.push(thread);
        }
        Ok(Workers { address, drain, threads })
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

fn run(serving: Serving, shared: Arc<Runtime>, limits: Limits, drain: CancellationToken, open: Arc<AtomicUsize>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "a worker could not start"),
    };
    runtime.block_on(async move {
        let (tunnels, cut) = (TaskTracker::new(), CancellationToken::new());
        let worker = Arc::new(Worker::new(shared, tunnels.clone(), cut.clone()));
        let listener = match TcpListener::from_std(serving.listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "a worker could not listen"),
        };
        let drain_timeout = limits.drain_timeout;
        let serve = Arc::new(Serve { worker, tls: TlsAcceptor::from(serving.tls), limits, drain: drain.clone() });
        let connections = TaskTracker::new();
        accept(&listener, &serve, &connections, &open).await;
        drop(listener);
        connections.close();
        tunnels.close();
        let requests_done = tokio::time::timeout(drain_timeout, connections.wait()).await.is_ok();
        cut.cancel();
        let tunnels_done = tokio::time::timeout(TUNNEL_GRACE, tunnels.wait()).await.is_ok();
        if !requests_done || !tunnels_done {
            tracing::warn!(connections = connections.len(), tunnels = tunnels.len(), "cut at the end of the drain");
        }
    });
}

async fn accept(listener: &TcpListener, serve: &Arc<Serve>, connections: &TaskTracker, open: &Arc<AtomicUsize>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = serve.drain.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => admit(stream, peer, serve, connections, open),
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Serve, unless too many are open: a refused client may come again, a gateway without descriptors serves nobody.
fn admit(stream: TcpStream, peer: SocketAddr, serve: &Arc<Serve>, connections: &TaskTracker, open: &Arc<AtomicUsize>) {
    let slot = Slot(open.clone());
    if open.fetch_add(1, Ordering::Relaxed) >= serve.limits.connections {
        return tracing::debug!(%peer, "too many connections");
    }
    let serve = serve.clone();
    connections.spawn(async move {
        connection(serve, stream, peer).await;
        drop(slot);
    });
}

/// A place among the open connections, given back by drop.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
