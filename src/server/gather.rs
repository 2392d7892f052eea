//! What a connection says in one turn of its task, in one piece. One decision: HTTP/2's library asks for a flush after every
//! larger DATA frame; here a flush waits for the end of the turn, so that the answers of ten streams are one TLS record and
//! one system call and not ten. Knows nothing of frames.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::ClientStream;

/// A TLS record holds so much; more is not gathered.
const MOST: usize = 16 * 1024;

/// A connection, lent to HTTP/2; whoever polls that ends each turn. Its lock is never contended.
#[derive(Clone)]
pub(super) struct Gathered(Arc<Mutex<State>>);

struct State {
    stream: ClientStream,
    waiting: Vec<u8>,
    /// Bytes that were gathered in the turn before, for which room is taken at once, and in this one.
    before: usize,
    gathered: usize,
    /// Told to HTTP/2 at its next step.
    failed: Option<io::Error>,
}

impl Gathered {
    /// Gather what is written to this one.
    pub(super) fn new(stream: ClientStream) -> Gathered {
        Gathered(Arc::new(Mutex::new(State { stream, waiting: Vec::new(), before: 0, gathered: 0, failed: None })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn is over: send what was written in it. Ready where that failed, and HTTP/2 has to be told.
    pub(super) fn end_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
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
        match state.failed.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut state.stream).poll_read(cx, buffer),
        }
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
