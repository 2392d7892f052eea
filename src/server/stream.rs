//! A client's connection, below HTTP. One decision: what a peer may do to us by not reading is bounded here, where every
//! protocol passes: a reader that stalls is cut, and a connection that we end is read on for a moment, so that the answer on
//! its way is not destroyed by what the client was still sending. Knows nothing of HTTP.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::server::TlsStream;

use crate::socket::Socket;

/// After our last byte: so long without one of the client's, or so long in all, and we are gone (RFC 9112 §9.6).
const LINGER_IDLE: Duration = Duration::from_secs(2);
const LINGER_MOST: Duration = Duration::from_secs(30);
/// Thrown away at a time.
const SINK_BYTES: usize = 16 * 1024;
/// Thrown away in one turn, so that a fast sender does not hold the worker.
const SINK_TURNS: usize = 16;

/// RFC 9112 §2.1.
const END_OF_HEAD: &[u8; 4] = b"\r\n\r\n";

/// A connection with those bounds.
pub(super) struct ClientStream {
    /// Large, and handed on many times.
    tls: Box<TlsStream<Socket>>,
    /// What was read of it and not used.
    unread: Bytes,
    /// The last bytes that were read.
    tail: [u8; END_OF_HEAD.len()],
    settled: Settled,
    stall_timeout: Duration,
    /// Runs while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    linger: Option<Linger>,
}

/// Whether a connection that carries no request is at rest.
#[derive(Clone, Default)]
pub(super) struct Settled(Arc<State>);

#[derive(Default)]
struct State {
    unflushed: AtomicBool,
    half_read: AtomicBool,
    closing: AtomicBool,
}

impl Settled {
    /// Everything that was written went out, what was read last was no part of a head – whoever sends heads by bytes has the
    /// time of one, not that of each byte – and the end was not begun.
    pub(super) fn is_settled(&self) -> bool {
        let State { unflushed, half_read, closing } = &*self.0;
        ![unflushed, half_read, closing].iter().any(|state| state.load(Ordering::Relaxed))
    }

    /// Everything that was written went out.
    pub(super) fn has_answered(&self) -> bool {
        !self.0.unflushed.load(Ordering::Relaxed)
    }
}

struct Linger {
    idle: Pin<Box<Sleep>>,
    until: Instant,
}

impl ClientStream {
    /// `stall_timeout`: how long a client may take nothing of what is sent to it.
    pub(super) fn new(tls: Box<TlsStream<Socket>>, stall_timeout: Duration) -> ClientStream {
        let (unread, settled) = (Bytes::new(), Settled::default());
        ClientStream { tls, unread, tail: *END_OF_HEAD, settled, stall_timeout, stalled: None, linger: None }
    }

    /// With bytes that come before what is read next; copied, because they are few and what they lie in is large.
    pub(super) fn with_unread(self, unread: &[u8]) -> ClientStream {
        ClientStream { unread: Bytes::copy_from_slice(unread), ..self }
    }

    /// What tells whoever lent this to HTTP whether it may be had back.
    pub(super) fn settled(&self) -> Settled {
        self.settled.clone()
    }

    /// Waits for something to read, be it the end.
    pub(super) async fn readable(&self) {
        if self.unread.is_empty() {
            // An error is something to read as well.
            let _ = self.tls.get_ref().0.as_ref().readable().await;
        }
    }

    /// A write's outcome; while it is pending the client's time runs.
    fn timed<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.stall_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(stalled.as_mut().poll(cx));
        if self.takes_more() {
            self.stalled = None;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // Closed with a reset: otherwise the kernel keeps what was written, for minutes, for a client that takes it by drops.
        let _ = SockRef::from(self.tls.get_ref().0.as_ref()).set_linger(Some(Duration::ZERO));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }

    /// Whether the client took something since: then there is room for some of what waits. The system wakes whoever writes when a
    /// third of what it keeps is gone, which takes a slow line minutes; so it is asked by writing.
    fn takes_more(&mut self) -> bool {
        let (socket, session) = self.tls.get_mut();
        matches!(session.write_tls(&mut &*SockRef::from(socket.as_ref())), Ok(1..))
    }

    /// One piece of what was decrypted. HTTP asks several times a request whether there is more, and nearly always there is not: the
    /// socket knows that without TLS being asked. The library's own reading would ask once more after each piece.
    fn poll_decrypted(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (socket, session) = self.tls.get_ref();
        if session.wants_read() {
            // An error is for whoever reads.
            let _ = ready!(socket.as_ref().poll_read_ready(cx));
        }
        let piece = ready!(Pin::new(&mut *self.tls).poll_fill_buf(cx))?;
        let length = piece.len().min(buffer.remaining());
        buffer.put_slice(&piece[..length]);
        Pin::new(&mut *self.tls).consume(length);
        Poll::Ready(Ok(()))
    }

    /// Read what the client was still sending, undecrypted, to nowhere. Closing with bytes unread makes the kernel send a
    /// reset, and a reset takes the answer away that the client has not read yet.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let linger = self
            .linger
            .get_or_insert_with(|| Linger { idle: Box::pin(sleep(LINGER_IDLE)), until: Instant::now() + LINGER_MOST });
        let mut sink = [const { MaybeUninit::uninit() }; SINK_BYTES];
        for _ in 0..SINK_TURNS {
            let mut buffer = ReadBuf::uninit(&mut sink);
            match Pin::new(self.tls.get_mut().0).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && Instant::now() < linger.until => {
                    linger.idle.as_mut().reset(Instant::now() + LINGER_IDLE);
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    ready!(linger.idle.as_mut().poll(cx));
                    return Poll::Ready(Ok(()));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.unread.is_empty() {
            ready!(self.poll_decrypted(cx, buffer))?;
        } else {
            let length = self.unread.len().min(buffer.remaining());
            buffer.put_slice(&self.unread.split_to(length));
        }
        let read = &buffer.filled()[before..];
        if !read.is_empty() {
            let last = &read[read.len().saturating_sub(END_OF_HEAD.len())..];
            self.tail.rotate_left(last.len());
            self.tail[END_OF_HEAD.len() - last.len()..].copy_from_slice(last);
            self.settled.0.half_read.store(self.tail != *END_OF_HEAD, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.settled.0.unflushed.store(true, Ordering::Relaxed);
        let written = Pin::new(&mut *self.tls).poll_write(cx, bytes);
        self.timed(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.settled.0.unflushed.store(true, Ordering::Relaxed);
        let written = Pin::new(&mut *self.tls).poll_write_vectored(cx, slices);
        self.timed(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut *self.tls).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.settled.0.unflushed.store(false, Ordering::Relaxed);
        }
        self.timed(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.settled.0.closing.store(true, Ordering::Relaxed);
        if self.linger.is_none() {
            let shut = Pin::new(&mut *self.tls).poll_shutdown(cx);
            ready!(self.timed(cx, shut))?;
        }
        self.poll_linger(cx)
    }
}
