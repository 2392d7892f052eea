//! What goes to a server over HTTP/1.1. One decision: a head and the first piece of its body leave in one write where both are there, as do
//! small pieces that are there together, and nothing else of a body is asked for before what was taken of it is written: a server that
//! reads slowly slows its client down, and next to nothing is kept here meanwhile. Knows nothing of answers.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, header};
use http_body::Frame;
use tokio::io::AsyncWrite;

use super::framing::Framing;
use super::{Broken, Sendable, head, request};

/// What a connection keeps for the next head.
const KEPT_BYTES: usize = 8 * 1024;
/// A piece that is copied: it costs less than a system call.
const SMALL: usize = 512;
/// What is gathered of such pieces.
const GATHERED: usize = 4 * 1024;

/// Bytes on their way out: a piece of a body between what frames it.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    before: Vec<u8>,
    data: Bytes,
    after: Vec<u8>,
    /// Of `before`, what is small pieces.
    gathered: usize,
    /// Written of `before` and `after`.
    written: (usize, usize),
    unflushed: bool,
}

impl Outgoing {
    /// Where a head is written to.
    pub(super) fn head(&mut self) -> &mut Vec<u8> {
        &mut self.before
    }

    fn is_empty(&self) -> bool {
        self.written.0 == self.before.len() && self.data.is_empty() && self.written.1 == self.after.len()
    }

    /// Whether another piece may come to what is here.
    fn has_room(&self) -> bool {
        self.data.is_empty() && self.after.is_empty() && self.gathered < GATHERED
    }

    /// Whether nothing left yet.
    fn is_untouched(&self) -> bool {
        !self.before.is_empty() && self.written == (0, 0)
    }

    /// Write everything, and see that it leaves.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin + ?Sized),
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            self.unflushed = true;
            let slices = [&self.before[self.written.0..], &self.data, &self.after[self.written.1..]].map(IoSlice::new);
            let written = ready!(Pin::new(&mut *to).poll_write_vectored(cx, &slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.unflushed = false;
            self.before.clear();
            self.after.clear();
            (self.written, self.gathered) = ((0, 0), 0);
            self.before.shrink_to(KEPT_BYTES);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        let before = written.min(self.before.len() - self.written.0);
        self.written.0 += before;
        written -= before;
        let data = written.min(self.data.len());
        self.data.advance(data);
        self.written.1 += written - data;
    }
}

/// A request's body on its way.
pub(super) struct Upload<B> {
    body: B,
    framing: Framing,
    /// The trailers that the head announced: others a server need not expect (RFC 9110 §6.6.2).
    announced: Vec<HeaderName>,
    ended: bool,
}

impl<B: Sendable> Upload<B> {
    /// Of a request with this head; `None` where it has no body.
    pub(super) fn of(head: &request::Head<'_>, body: B) -> Option<Upload<B>> {
        if body.is_end_stream() {
            return None;
        }
        let lines = head.all(header::TRAILER).filter_map(|line| std::str::from_utf8(line).ok());
        let names = lines.flat_map(|line| line.split(',')).filter_map(|name| name.trim().parse().ok());
        Some(Upload { body, framing: head::framing_of(head), announced: names.collect(), ended: false })
    }

    pub(super) fn framing(&self) -> Framing {
        self.framing
    }

    /// Send it, after what lies in `out`. Ready when all of it left.
    ///
    /// # Errors
    /// [`Broken::Upload`], [`Broken::Unsent`]: the body broke off; [`Broken::Io`]: the server does not take it, and may have answered.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin + ?Sized),
        out: &mut Outgoing,
    ) -> Poll<Result<(), Broken>> {
        loop {
            if !self.ended && out.has_room() {
                match Pin::new(&mut self.body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => self.stage(frame, out)?,
                    Poll::Ready(Some(Err(error))) => {
                        let broken = if out.is_untouched() { Broken::Unsent } else { Broken::Upload };
                        return Poll::Ready(Err(broken(error.into())));
                    }
                    Poll::Ready(None) => self.end(None, out)?,
                    Poll::Pending => {
                        ready!(out.poll_write(cx, to))?;
                        return Poll::Pending;
                    }
                }
                continue;
            }
            ready!(out.poll_write(cx, to))?;
            if self.ended {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn stage(&mut self, frame: Frame<Bytes>, out: &mut Outgoing) -> Result<(), Broken> {
        let data = match frame.into_data() {
            // Of no bytes: in chunks it would be the end.
            Ok(data) if data.is_empty() => return self.end_if_known(out),
            Ok(data) => data,
            Err(frame) => return self.end(frame.into_trailers().ok(), out),
        };
        match &mut self.framing {
            Framing::Length(left) => {
                // More than announced would be read as the next request.
                *left = left.checked_sub(data.len() as u64).ok_or_else(other_length)?;
            }
            Framing::Chunked => out.before.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes()),
        }
        let is_small = data.len() <= SMALL;
        if is_small {
            out.gathered += data.len();
            out.before.extend_from_slice(&data);
        } else {
            out.data = data;
        }
        if let Framing::Chunked = self.framing {
            let behind = if is_small { &mut out.before } else { &mut out.after };
            behind.extend_from_slice(b"\r\n");
        }
        self.end_if_known(out)
    }

    fn end_if_known(&mut self, out: &mut Outgoing) -> Result<(), Broken> {
        if self.body.is_end_stream() { self.end(None, out) } else { Ok(()) }
    }

    fn end(&mut self, trailers: Option<HeaderMap>, out: &mut Outgoing) -> Result<(), Broken> {
        self.ended = true;
        match self.framing {
            Framing::Length(0) => return Ok(()),
            Framing::Length(_) => return Err(other_length()),
            Framing::Chunked => {}
        }
        out.after.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.iter().flatten().filter(|(name, _)| self.announced.contains(name)) {
            head::line(name, value.as_bytes(), &mut out.after);
        }
        out.after.extend_from_slice(b"\r\n");
        Ok(())
    }
}

/// Of a body that is not what its head says.
fn other_length() -> Broken {
    Broken::Upload("it is not as long as announced".into())
}
