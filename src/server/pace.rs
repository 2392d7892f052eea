//! How a client takes the answers of an HTTP/2 connection. One decision: a stream whose next piece waits for the client's window for
//! too long is dropped, which resets it, and it alone: what waits there is an application's connection, and pings are answered by
//! whoever reads nothing. Knows nothing of what is sent, nor of frames.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::time::{Instant, Sleep, sleep};

use super::counters::Counters;

/// Runs the streams of a connection, each until it ends or stands still.
#[derive(Clone)]
pub(super) struct Paces(Arc<Line>);

/// What the streams of a connection share: they wait for one another's turn on it.
struct Line {
    limit: Duration,
    /// Pieces that went on their way.
    steps: AtomicUsize,
    /// Streams whose next piece waits.
    waiting: AtomicUsize,
    /// The stream that was begun and is not run yet: the library does the one right behind the other.
    begun: Mutex<Option<Arc<Stream>>>,
    counters: Arc<Counters>,
}

/// One answer on its way.
struct Stream {
    line: Arc<Line>,
    steps: AtomicUsize,
    /// A piece was handed over, and no other one asked for since.
    waits: AtomicBool,
}

impl Stream {
    fn set_waiting(&self, waits: bool) {
        if self.waits.swap(waits, Ordering::Relaxed) != waits {
            let waiting = &self.line.waiting;
            if waits {
                waiting.fetch_add(1, Ordering::Relaxed)
            } else {
                waiting.fetch_sub(1, Ordering::Relaxed)
            };
        }
    }
}

impl Paces {
    /// Of a connection: no piece may wait longer than this for a client that takes nothing.
    pub(super) fn new(limit: Duration, counters: Arc<Counters>) -> Paces {
        let line = Line { limit, steps: 0.into(), waiting: 0.into(), begun: Mutex::new(None), counters };
        Paces(Arc::new(line))
    }

    /// A stream begins, and is run next.
    pub(super) fn begin(&self) -> Beginning {
        let stream = Arc::new(Stream { line: self.0.clone(), steps: 0.into(), waits: false.into() });
        *self.begun() = Some(stream.clone());
        Beginning(stream)
    }

    fn begun(&self) -> MutexGuard<'_, Option<Arc<Stream>>> {
        self.0.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that has no answer yet.
pub(super) struct Beginning(Arc<Stream>);

impl Beginning {
    /// Its answer's body.
    pub(super) fn answer<B>(self, body: B) -> Paced<B> {
        Paced { body, stream: self.0 }
    }
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Paces {
    fn execute(&self, future: F) {
        match self.begun().take() {
            Some(stream) => tokio::spawn(run(stream, future)),
            // What an upgrade leaves behind.
            None => tokio::spawn(async { drop(future.await) }),
        };
    }
}

async fn run(stream: Arc<Stream>, future: impl Future) {
    let mut future = pin!(future);
    let mut patience: Option<Patience> = None;
    std::future::poll_fn(|cx| {
        if future.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if patience.is_none() && stream.waits.load(Ordering::Relaxed) {
            patience = Some(Patience::new(&stream));
        }
        let Some(running) = &mut patience else { return Poll::Pending };
        match ready!(running.poll_out(&stream, cx)) {
            true => {
                stream.line.counters.reader_stalled.add();
                Poll::Ready(())
            }
            false => {
                patience = None;
                Poll::Pending
            }
        }
    })
    .await;
}

/// The time that a stream may wait. It is left to run when the stream moves, and set anew where it was early.
struct Patience {
    sleep: Pin<Box<Sleep>>,
    steps: usize,
    /// Of all streams.
    of_all: usize,
    rounds: usize,
}

impl Patience {
    fn new(stream: &Stream) -> Patience {
        let Stream { line, steps, .. } = stream;
        let (steps, of_all) = (steps.load(Ordering::Relaxed), line.steps.load(Ordering::Relaxed));
        Patience { sleep: Box::pin(sleep(line.limit)), steps, of_all, rounds: 0 }
    }

    /// Ready when it is over: whether the stream has to go. Where other streams of a connection move, one may wait as many times
    /// as long as there are streams that wait: a slow line carries all of them in turn.
    fn poll_out(&mut self, stream: &Stream, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if !stream.waits.load(Ordering::Relaxed) {
                return Poll::Ready(false);
            }
            let (steps, of_all) = (stream.steps.load(Ordering::Relaxed), stream.line.steps.load(Ordering::Relaxed));
            let moved = steps != self.steps;
            if !moved && (of_all == self.of_all || self.rounds >= stream.line.waiting.load(Ordering::Relaxed)) {
                return Poll::Ready(true);
            }
            self.rounds = if moved { 0 } else { self.rounds + 1 };
            (self.steps, self.of_all) = (steps, of_all);
            self.sleep.as_mut().reset(Instant::now() + stream.line.limit);
        }
    }
}

/// A body, with what tells whether it is asked for.
pub(super) struct Paced<B> {
    body: B,
    stream: Arc<Stream>,
}

impl<B: Body + Unpin> Body for Paced<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.stream.set_waiting(false);
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if matches!(frame, Some(Ok(_))) {
            self.stream.steps.fetch_add(1, Ordering::Relaxed);
            self.stream.line.steps.fetch_add(1, Ordering::Relaxed);
            self.stream.set_waiting(true);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Paced<B> {
    fn drop(&mut self) {
        self.stream.set_waiting(false);
    }
}
