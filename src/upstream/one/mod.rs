//! An HTTP/1.1 connection to a server. One decision: whoever waits for an answer drives the connection itself; between a request and
//! its connection stands no task and no channel, which would cost as much as everything else that is done for a small answer. Only
//! an upload that goes on behind the answer's head gets a task. Whoever drops an answer closes its connection: what is left on the
//! wire is nobody's. Knows nothing of pools.

mod framing;
mod head;
#[cfg(any(test, fuzzing))]
pub(crate) mod probe;
#[cfg(test)]
mod tests;
mod upload;
mod usual;

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::{Method, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use crate::task::task;

use super::connect::Io;
use super::request;
use super::server::InFlight;
use framing::{Decoder, Step};
use head::{Head, Heads};
use upload::{Outgoing, Upload};
pub(super) use usual::Usual;

/// What is read at a time: at first, and where a large answer comes fast.
const READ_BYTES: usize = 8 * 1024;
const MOST_READ_BYTES: usize = 64 * 1024;
/// A piece of the buffer that is not worth a call.
const LEAST_READ_BYTES: usize = 2 * 1024;

thread_local! {
    static PLACE: RefCell<[u8; READ_BYTES]> = const { RefCell::new([0; READ_BYTES]) };
}

/// What a body has to be to be sent.
pub trait Sendable:
    Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static
{
}
impl<B> Sendable for B
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
}

/// What came is not HTTP, or not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// The head, or the trailers.
    #[error("no head of an answer: {0}")]
    Head(httparse::Error),
    /// A status that is no number of three digits.
    #[error("the status is none")]
    Status,
    /// A field's name or value.
    #[error("a field is none")]
    Field,
    /// `Content-Length`.
    #[error("the length is no number")]
    Length,
    /// Between chunks.
    #[error("a chunk is none")]
    Chunk,
    /// A head, trailers, chunk extensions.
    #[error("it is larger than allowed")]
    TooLarge,
}

/// Why an exchange ended early.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The system says so.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// The server closed it before the end.
    #[error("the connection was closed before the end of the answer")]
    Closed,
    /// It cannot be read.
    #[error("the answer cannot be read")]
    Malformed(#[from] Malformed),
    /// The request's body broke off.
    #[error("the request broke off")]
    Upload(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The same, before a byte of it was sent.
    #[error("the request broke off before it was sent")]
    Unsent(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) broken: Broken,
    /// Some of one had come.
    pub(super) heard: bool,
}

/// A connection.
pub(super) struct One {
    io: Box<dyn Io>,
    inbound: Inbound,
    heads: Heads,
    out: Outgoing,
}

/// A request whose answer is waited for.
pub(super) struct Begun<B> {
    asked: Method,
    upload: Option<Upload<B>>,
}

/// What was read.
#[derive(Default)]
struct Inbound {
    buffer: BytesMut,
    /// Read behind what was used.
    ahead: Bytes,
    /// How much is read next.
    step: usize,
}

impl Inbound {
    /// Read into the buffer; how many bytes.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin + ?Sized),
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        if wanted <= READ_BYTES {
            return self.poll_read_some(cx, from);
        }
        // Not as soon as some of a large piece is used: each small read of a slow answer would hold a whole one.
        if self.buffer.capacity() - self.buffer.len() < wanted.clamp(LEAST_READ_BYTES, READ_BYTES) {
            self.buffer.reserve(READ_BYTES.max(wanted));
        }
        let space = self.buffer.capacity() - self.buffer.len();
        let read = ready!(tokio_util::io::poll_read_buf(Pin::new(from), cx, &mut self.buffer))?;
        self.step = if read == space { (space * 2).min(MOST_READ_BYTES) } else { 0 };
        Poll::Ready(Ok(read))
    }

    /// The same, where little is expected: by way of a place that all connections of the worker read into, which the processor has at
    /// hand. Each one's own would have to come from far away, eight kilobytes for an answer of one.
    fn poll_read_some(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin + ?Sized),
    ) -> Poll<io::Result<usize>> {
        PLACE.with_borrow_mut(|place| {
            let mut read = ReadBuf::new(place);
            ready!(Pin::new(from).poll_read(cx, &mut read))?;
            let read = read.filled();
            if self.buffer.capacity() - self.buffer.len() < read.len() {
                self.buffer.reserve(read.len().max(LEAST_READ_BYTES));
            }
            self.buffer.extend_from_slice(read);
            self.step = if read.len() == READ_BYTES { READ_BYTES * 2 } else { 0 };
            Poll::Ready(Ok(read.len()))
        })
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin + ?Sized),
        decoder: &mut Decoder,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            match decoder.decode(&mut self.ahead) {
                Ok(Step::Frame(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(Step::End) => return Poll::Ready(None),
                Ok(Step::More) => {}
                Err(broken) => return Poll::Ready(Some(Err(broken))),
            }
            let left = decoder.left().map_or(0, |left| usize::try_from(left).unwrap_or(usize::MAX));
            let wanted = left.min(MOST_READ_BYTES).max(self.step);
            match ready!(self.poll_read(cx, from, wanted)) {
                Ok(0) if decoder.may_close() => return Poll::Ready(None),
                Ok(0) => return Poll::Ready(Some(Err(Broken::Closed))),
                Ok(_) => self.ahead = self.buffer.split().freeze(),
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }
}

impl One {
    /// On a connection on which nothing was said yet.
    pub(super) fn new(io: Box<dyn Io>, usual: Usual) -> Box<One> {
        Box::new(One { io, inbound: Inbound::default(), heads: Heads::new(usual), out: Outgoing::default() })
    }

    /// Whether a server that was not asked said nothing, and did not close: whatever it said is no answer to the next request.
    pub(super) fn is_usable(&mut self) -> bool {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut cx = Context::from_waker(Waker::noop());
        let read = std::future::poll_fn(|cx| Pin::new(&mut self.io).poll_read(cx, &mut buffer));
        // A task that did much has to wait for its next turn before it may read: that says nothing of the server.
        pin!(tokio::task::coop::unconstrained(read)).poll(&mut cx).is_pending()
    }

    /// Take a request up: its head is written with the next step.
    pub(super) fn begin<B: Sendable>(&mut self, head: &request::Head<'_>, body: B) -> Begun<B> {
        let upload = Upload::of(head, body);
        head::write(head, upload.as_ref().map(Upload::framing), self.out.head());
        Begun { asked: head.method.clone(), upload }
    }

    /// Send it and wait for the head of its answer.
    ///
    /// # Errors
    /// [`Unanswered`]; some of the request may have reached the server.
    pub(super) async fn answer<B: Sendable>(
        mut self: Box<Self>,
        begun: Begun<B>,
    ) -> Result<Response<Answer>, Unanswered> {
        let Begun { asked, mut upload } = begun;
        let (mut sent, mut lost, mut heard) = (false, None, false);
        let head = std::future::poll_fn(|cx| {
            if !sent && lost.is_none() {
                match self.poll_send(cx, &mut upload) {
                    Poll::Ready(Ok(())) => sent = true,
                    // It may have answered before it stopped reading.
                    Poll::Ready(Err(Broken::Io(error))) => lost = Some(error),
                    Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                    Poll::Pending => {}
                }
            }
            match ready!(self.poll_head(cx, &asked, &mut heard)) {
                Err(Broken::Closed | Broken::Io(_)) if lost.is_some() => {
                    Poll::Ready(Err(lost.take().map_or(Broken::Closed, Broken::Io)))
                }
                head => Poll::Ready(head),
            }
        })
        .await
        .map_err(|broken| Unanswered { broken, heard })?;
        let upload = upload.filter(|_| !sent && lost.is_none());
        let persistent = head.persistent && sent;
        let decoder = Decoder::new(head.framing);
        let answer = match upload {
            // Answered, and nobody reads the rest of the request.
            Some(_) if decoder.is_end() => Answer::Here { one: None, decoder, persistent: false },
            Some(upload) => Answer::There { left: decoder.left(), frames: self.carry(upload, decoder) },
            None => Answer::Here { one: Some(self), decoder, persistent },
        };
        Ok(head.response.map(|()| answer))
    }

    fn poll_send<B: Sendable>(
        &mut self,
        cx: &mut Context<'_>,
        upload: &mut Option<Upload<B>>,
    ) -> Poll<Result<(), Broken>> {
        match upload {
            Some(upload) => upload.poll_send(cx, &mut *self.io, &mut self.out),
            None => self.out.poll_write(cx, &mut *self.io).map_err(Broken::Io),
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, asked: &Method, heard: &mut bool) -> Poll<Result<Head, Broken>> {
        loop {
            if ready!(self.inbound.poll_read(cx, &mut *self.io, self.inbound.step))? == 0 {
                return Poll::Ready(Err(Broken::Closed));
            }
            *heard = true;
            if let Some(head) = self.heads.read(&mut self.inbound.buffer, asked)? {
                if !self.inbound.buffer.is_empty() {
                    self.inbound.ahead = self.inbound.buffer.split().freeze();
                }
                return Poll::Ready(Ok(head));
            }
        }
    }

    /// Go on with an upload beside the answer: neither waits for the other, nor for the client of the other.
    fn carry<B: Sendable>(self: Box<Self>, mut upload: Upload<B>, mut decoder: Decoder) -> Frames {
        let (to, frames) = mpsc::channel(1);
        tokio::spawn(task(async move {
            let One { io, mut inbound, mut out, .. } = *self;
            let (mut from, mut into) = tokio::io::split(io);
            let up = async {
                match std::future::poll_fn(|cx| upload.poll_send(cx, &mut into, &mut out)).await {
                    // A server that takes no more may still be answering.
                    Ok(()) | Err(Broken::Io(_) | Broken::Closed) => std::future::pending().await,
                    Err(broken) => Err(broken),
                }
            };
            let down = async {
                loop {
                    let frame = std::future::poll_fn(|cx| inbound.poll_frame(cx, &mut from, &mut decoder)).await;
                    let frame = frame.transpose()?;
                    let is_last = frame.is_none();
                    if to.send(Ok(frame)).await.is_err() || is_last {
                        return Ok(());
                    }
                }
            };
            let ended = tokio::select! {
                biased;
                () = to.closed() => return,
                ended = down => ended,
                ended = up => ended,
            };
            if let Err(broken) = ended {
                // Nobody may be waiting for it.
                let _ = to.send(Err(broken)).await;
            }
        }));
        frames
    }
}

type Frames = mpsc::Receiver<Result<Option<Frame<Bytes>>, Broken>>;

/// The body of an answer, with its connection.
pub(super) enum Answer {
    /// Read by whoever wants it.
    Here { one: Option<Box<One>>, decoder: Decoder, persistent: bool },
    /// Read by a task, which sends the request's body meanwhile; `left` as far as it is known.
    There { left: Option<u64>, frames: Frames },
}

impl Answer {
    /// The connection after the end of the answer, where another request may follow.
    pub(super) fn take_idle(&mut self) -> Option<Box<One>> {
        let Answer::Here { one, decoder, persistent: true } = self else { return None };
        let mut one = one.take().filter(|_| decoder.is_end())?;
        if !one.inbound.ahead.is_empty() {
            return None;
        }
        if one.inbound.buffer.capacity() > READ_BYTES {
            one.inbound.buffer = BytesMut::new();
        }
        one.inbound.step = 0;
        Some(one)
    }

    /// All of it and the connection, where it is here to its end and another request may follow.
    pub(super) fn take_whole(&mut self) -> Option<(Bytes, Box<One>)> {
        let Answer::Here { one: Some(one), decoder, persistent: true } = self else { return None };
        let ahead = &mut one.inbound.ahead;
        if decoder.left()? != ahead.len() as u64 {
            return None;
        }
        let whole = std::mem::take(ahead);
        *decoder = Decoder::Length(0);
        self.take_idle().map(|one| (whole, one))
    }

    /// The connection after a 101, which counts as `running`.
    pub(super) fn take_switched(&mut self, running: Option<InFlight>) -> Option<Switched> {
        let Answer::Here { one, .. } = self else { return None };
        one.take().map(|one| Switched { io: one.io, ahead: one.inbound.ahead, _running: running })
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Answer::Here { one: None, .. } => Poll::Ready(None),
            Answer::Here { one: Some(one), decoder, .. } => one.inbound.poll_frame(cx, &mut *one.io, decoder),
            Answer::There { left, frames } => Poll::Ready(match ready!(frames.poll_recv(cx)) {
                Some(Ok(frame)) => {
                    if let (Some(left), Some(data)) = (left, frame.as_ref().and_then(Frame::data_ref)) {
                        *left -= data.len() as u64;
                    }
                    frame.map(Ok)
                }
                Some(Err(broken)) => Some(Err(broken)),
                None => Some(Err(Broken::Closed)),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answer::Here { decoder, .. } => decoder.is_end(),
            Answer::There { left, .. } => *left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let left = match self {
            Answer::Here { decoder, .. } => decoder.left(),
            Answer::There { left, .. } => *left,
        };
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A connection that left HTTP.
pub struct Switched {
    io: Box<dyn Io>,
    /// What came right behind the answer.
    ahead: Bytes,
    /// As long as it is open.
    _running: Option<InFlight>,
}

impl AsyncRead for Switched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let length = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Switched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
