//! HTTP/2 towards a server. One decision: what of its answers may lie here unread is bounded by stream, and all streams of a connection
//! together never fill its window: whoever does not read one answer holds no other one back. Windows and pings are set here and
//! nowhere else. Knows nothing of pools.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Notify;

use super::connect::{Connected, Io};
use super::one::Sendable;

/// A server that does not answer a ping for so long is gone.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams on a connection at a time; fewer where the server says so.
pub(super) const MOST_STREAMS: usize = 64;
/// What a stream may have on its way before it is read: a gigabit a second at a millisecond of distance. A connection holds at most
/// [`MOST_STREAMS`] times as much, 8 MiB.
const STREAM_WINDOW: u32 = 128 * 1024;
/// More than that by far: the library ends a connection when what it keeps beside small frames that wait is worth half of this, and 64
/// streams of events that nobody reads, in frames of 16 bytes, are worth an eighth of a gigabyte.
const CONNECTION_WINDOW: u32 = 1 << 28;
const _: () = assert!(CONNECTION_WINDOW as usize > MOST_STREAMS * STREAM_WINDOW as usize);
/// From there on no further piece of a request is taken from its client while what was taken has not left: a server that opens every window
/// and reads nothing is not to have more of each here. The library's own is a MiB.
const UNSENT: usize = 16 * 1024;
/// How many streams a server takes that has not told yet: no number that it could tell.
const UNTOLD: usize = usize::MAX - 1;

type Connection<B> = http2::Connection<TokioIo<Box<dyn Io>>, B, Steps>;

/// A connection that speaks HTTP/2. It ends when this is dropped and its last stream is done.
pub(super) struct Two<B: Sendable> {
    sender: http2::SendRequest<B>,
    /// `None` once it is over.
    connection: Arc<Mutex<Option<Connection<B>>>>,
}

impl<B: Sendable> Two<B> {
    /// Speak HTTP/2, and wait for what the server says of itself: what was sent before could be more than it takes.
    ///
    /// # Errors
    /// What is spoken there is not HTTP/2.
    pub(super) async fn new(connected: Connected) -> io::Result<Two<B>> {
        let steps = Steps::default();
        let mut builder = http2::Builder::new(steps.clone());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .initial_max_send_streams(UNTOLD)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(UNSENT);
        let (sender, connection) = builder.handshake(TokioIo::new(connected.io)).await.map_err(io::Error::other)?;
        let two = Two { sender, connection: Arc::new(Mutex::new(Some(connection))) };
        steps.execute(drive(two.connection.clone()));
        loop {
            let mut step = pin!(steps.0.notified());
            // Before the look: the step that follows it is not missed.
            step.as_mut().enable();
            match two.limit() {
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "it ended before it began")),
                Some(UNTOLD) => step.await,
                Some(_) => return Ok(two),
            }
        }
    }

    /// How many streams the server takes at a time, as it said last; `None` where the connection takes none any more.
    pub(super) fn limit(&self) -> Option<usize> {
        let connection = lock(&self.connection);
        connection.as_ref().filter(|_| !self.sender.is_closed()).map(http2::Connection::current_max_send_streams)
    }

    /// What sends one request.
    pub(super) fn sender(&self) -> http2::SendRequest<B> {
        self.sender.clone()
    }
}

fn lock<B: Sendable>(connection: &Mutex<Option<Connection<B>>>) -> MutexGuard<'_, Option<Connection<B>>> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn drive<B: Sendable>(connection: Arc<Mutex<Option<Connection<B>>>>) {
    let ended = std::future::poll_fn(|cx| match lock(&connection).as_mut() {
        Some(connection) => Pin::new(connection).poll(cx),
        None => std::task::Poll::Ready(Ok(())),
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "connection to an application ended");
    }
    *lock(&connection) = None;
}

/// Runs what the library needs run, and tells of each step: it reads what a server says of itself and tells nobody.
#[derive(Clone, Default)]
struct Steps(Arc<Notify>);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Steps {
    fn execute(&self, future: F) {
        let steps = self.0.clone();
        tokio::spawn(async move {
            let mut future = pin!(future);
            std::future::poll_fn(|cx| {
                let polled = future.as_mut().poll(cx);
                steps.notify_waiters();
                polled.map(drop)
            })
            .await;
        });
    }
}
