//! The listener itself. One decision: a thread of its own with few places, for an operator and a scraper; it is bound before
//! anything is served, so that a wrong address is found at the start, and outlives the workers, so that a drain can be
//! watched. Knows nothing of paths.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Admin, router};

/// Connections at once; more are closed.
pub const PLACES: usize = 64;
/// For a head, and between two requests: longer than a scraper's usual minute.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);
/// After an accept that failed.
const BACKOFF: Duration = Duration::from_millis(50);

/// A bound address that nothing is answered on yet.
pub struct Socket(StdListener);

impl Socket {
    /// Bind.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind(address: SocketAddr) -> io::Result<Socket> {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Socket(listener))
    }
}

/// The running listener. Dropping it ends it.
pub struct Listener {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Answer.
    ///
    /// # Errors
    /// No thread, or no runtime.
    pub fn start(socket: Socket, admin: Admin) -> io::Result<Listener> {
        let address = socket.0.local_addr()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(socket.0)?
        };
        let serving = async move { accept(listener, Arc::new(admin), stopped).await };
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || runtime.block_on(serving))?;
        Ok(Listener { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.cancel();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the admin thread panicked");
        }
    }
}

async fn accept(listener: TcpListener, admin: Arc<Admin>, stop: CancellationToken) {
    let connections = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) if connections.len() < PLACES => stream,
            Ok(_) => continue,
            Err(error) => {
                tracing::warn!(%error, "accept failed on the admin listener");
                tokio::time::sleep(BACKOFF).await;
                continue;
            }
        };
        let admin = admin.clone();
        let service = service_fn(move |request| {
            let admin = admin.clone();
            async move { Ok::<_, Infallible>(router::answer(&admin, request).await) }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        connections.spawn(stop.clone().run_until_cancelled_owned(serving));
    }
}
