//! A connection's turns. One decision: what it says in one turn of its task leaves in one piece – HTTP/2's library asks for a flush after
//! every larger DATA frame; here it waits for the end of the turn, so that the answers of ten streams are one TLS record and one system
//! call and not ten – and what it hears in one is bounded: the library reads on as long as something is there, and of small frames that
//! pile up before anybody had the chance to take them it makes a flood. Knows nothing of frames.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::proxy::Busy;

use super::stream::ClientStream;

/// A TLS record holds so much; more is not gathered.
const MOST: usize = 16 * 1024;
/// What is read in a turn.
const MOST_READ: usize = 16 * 1024;
/// Read without anybody taking a piece of a body or a request beginning: whoever is to take it may be connecting yet.
const MOST_UNTAKEN: usize = 64 * 1024;
/// From there on a turn waits so long.
const PAUSE: Duration = Duration::from_millis(2);

/// A connection, lent to HTTP/2; whoever polls that ends each turn. Its lock is never contended.
#[derive(Clone)]
pub(super) struct Gathered(Arc<Mutex<State>>);

struct State {
    stream: ClientStream,
    waiting: Vec<u8>,
    /// Bytes that were gathered in the turn before, for which room is taken at once, and in this one.
    before: usize,
    gathered: usize,
    /// Bytes that were read in this turn, and since [`Busy::moves`] was this number.
    read: usize,
    untaken: usize,
    moves: usize,
    busy: Busy,
    pause: Option<Pin<Box<Sleep>>>,
    /// Told to HTTP/2 at its next step.
    failed: Option<io::Error>,
}

impl Gathered {
    /// Gather what is written to this one, and read from it what `busy` takes.
    pub(super) fn new(stream: ClientStream, busy: Busy) -> Gathered {
        let (waiting, before, gathered, failed) = (Vec::new(), 0, 0, None);
        let (read, untaken, moves, pause) = (0, 0, busy.moves(), None);
        let state = State { stream, waiting, before, gathered, read, untaken, moves, busy, pause, failed };
        Gathered(Arc::new(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn is over: send what was written in it. Ready where that failed, and HTTP/2 has to be told.
    pub(super) fn end_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        state.read = 0;
        match ready!(state.poll_out(cx)) {
            Ok(()) => Poll::Pending,
            Err(error) => {
                state.failed = Some(error);
                Poll::Ready(())
            }
        }
    }
}

impl State {
    /// What waits goes to TLS, and from there to the kernel.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            ready!(self.poll_more(cx, &[]))?;
        }
        // An idle connection keeps no room for what it may say.
        self.waiting = Vec::new();
        if self.gathered > 0 {
            (self.before, self.gathered) = (self.gathered.min(MOST), 0);
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Some of what waits and of what comes behind it goes to TLS; how much of the latter.
    fn poll_more(&mut self, cx: &mut Context<'_>, behind: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut slices = vec![IoSlice::new(&self.waiting)];
        slices.extend_from_slice(behind);
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &slices))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let waited = written.min(self.waiting.len());
        self.waiting.drain(..waited);
        Poll::Ready(Ok(written - waited))
    }

    /// Whether there may be read more in this turn; another one begins by itself.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        if self.read < MOST_READ {
            return Poll::Ready(());
        }
        let moves = self.busy.moves();
        if std::mem::replace(&mut self.moves, moves) != moves {
            self.untaken = 0;
        }
        if self.untaken < MOST_UNTAKEN {
            // Behind what the system has to tell, too: a connection to the application may stand by then.
            return pin!(tokio::task::yield_now()).poll(cx);
        }
        self.pause.insert(Box::pin(sleep(PAUSE))).as_mut().poll(cx)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.waiting.len() + length <= MOST {
            if self.waiting.capacity() == 0 {
                self.waiting.reserve_exact(self.before.max(length));
            }
            self.gathered += length;
            slices.iter().for_each(|slice| self.waiting.extend_from_slice(slice));
            return Poll::Ready(Ok(length));
        }
        loop {
            let written = ready!(self.poll_more(cx, slices))?;
            if written > 0 {
                return Poll::Ready(Ok(written));
            }
        }
    }
}

impl AsyncRead for Gathered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        if let Some(error) = state.failed.take() {
            return Poll::Ready(Err(error));
        }
        ready!(state.poll_turn(cx));
        let before = buffer.filled().len();
        ready!(Pin::new(&mut state.stream).poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        state.read += read;
        state.untaken += read;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gathered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.lock().poll_write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.lock().poll_write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// At the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.lock().failed.take().map_or(Ok(()), Err))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        ready!(state.poll_out(cx))?;
        Pin::new(&mut state.stream).poll_shutdown(cx)
    }
}
