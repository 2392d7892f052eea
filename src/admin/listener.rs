//! The listener itself. One decision: a thread of its own with few places, for an operator and a scraper, and none of them for
//! whoever only sits there; it is bound before anything is served, so that a wrong address is found at the start, and outlives the
//! workers, so that a drain can be watched. Knows nothing of paths.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::seats::{Seat, Seats};
use crate::small;
use crate::sparing::Sparing;
use crate::task::task;

use super::{Admin, router};

/// Connections at once.
pub const PLACES: usize = 64;
/// For a head, and between two requests: longer than a scraper's usual minute.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);
/// For the first head: whoever connects has something to ask.
const FIRST_TIMEOUT: Duration = Duration::from_secs(5);
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
    static SAID: Sparing = Sparing::new();
    let seats = Seats::new(PLACES, Duration::ZERO, PLACES);
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                if let Some(unsaid) = SAID.ask(&error.to_string()) {
                    tracing::warn!(%error, unsaid, "accept failed on the admin listener");
                }
                tokio::time::sleep(BACKOFF).await;
                continue;
            }
        };
        let Some((seat, is_for_another)) = seats.take(None) else {
            admin.counters.admin_refused.add();
            continue;
        };
        if is_for_another {
            admin.counters.admin_idle_closed.add();
        }
        let served = stop.clone().run_until_cancelled_owned(serve(stream, seat, admin.clone()));
        tokio::spawn(task(served));
    }
}

/// Answer until the client leaves, asks for nothing, or has to give up its place.
async fn serve(stream: TcpStream, seat: Seat, admin: Arc<Admin>) {
    let seat = Arc::new(seat);
    let (of_requests, asked) = (seat.clone(), admin.clone());
    let answer = move |request| {
        let (seat, admin) = (of_requests.clone(), asked.clone());
        async move {
            seat.asks();
            let answer = router::answer(&admin, request).await;
            seat.rests();
            answer
        }
    };
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let serving = small::serve(&builder, stream, answer);
    let first = async {
        tokio::time::sleep(FIRST_TIMEOUT).await;
        if seat.has_asked() {
            std::future::pending().await
        }
    };
    tokio::select! {
        () = serving => {}
        () = seat.leave.cancelled() => {}
        () = first => admin.counters.admin_idle_closed.add(),
    }
}
