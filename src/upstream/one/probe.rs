//! An exchange against a server that is a text, for `fuzz/`. One decision: it goes the whole way of a connection, so that what is held
//! against its bytes holds for those that leave and come. Knows nothing of what is held.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Broken, One, Sendable, Usual, request};

/// What came of one.
pub(crate) struct Exchanged {
    /// What the server was sent.
    pub(crate) written: Vec<u8>,
    /// The head of its answer.
    pub(crate) head: Result<Response<()>, Broken>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
    /// Why the body ended early.
    pub(crate) broken: Option<Broken>,
    /// Whether another request may follow.
    pub(crate) idle: bool,
}

/// Send a request to a server that answers with these bytes, in pieces of this length, and closes.
pub(crate) async fn exchange<B: Sendable>(head: &request::Head<'_>, body: B, answer: &[u8], piece: usize) -> Exchanged {
    let written = Arc::default();
    let io = Script { answer: answer.to_vec(), at: 0, piece: piece.max(1), written: Arc::clone(&written) };
    let mut one = One::new(Box::new(io), Usual::default());
    let begun = one.begin(head, body);
    let answered = one.answer(begun).await.map_err(|unanswered| unanswered.broken);
    let taken = || std::mem::take(&mut *written.lock().unwrap_or_else(PoisonError::into_inner));
    let nothing = |head| Exchanged {
        written: taken(),
        head,
        body: Vec::new(),
        trailers: HeaderMap::new(),
        broken: None,
        idle: false,
    };
    let (parts, mut answer) = match answered {
        Ok(response) => response.into_parts(),
        Err(broken) => return nothing(Err(broken)),
    };
    let mut exchanged = nothing(Ok(Response::from_parts(parts, ())));
    while let Some(frame) = answer.frame().await {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => exchanged.body.extend_from_slice(&data),
            Ok(Err(frame)) => exchanged.trailers.extend(frame.into_trailers().unwrap_or_default()),
            Err(broken) => {
                exchanged.broken = Some(broken);
                break;
            }
        }
    }
    exchanged.idle = exchanged.broken.is_none() && answer.take_idle().is_some();
    exchanged
}

/// The same request as it goes out over HTTP/2.
pub(crate) fn as_two(head: &request::Head<'_>) -> Request<()> {
    head.as_two((), true)
}

struct Script {
    answer: Vec<u8>,
    at: usize,
    piece: usize,
    written: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Script {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let length = self.piece.min(buffer.remaining()).min(self.answer.len() - self.at);
        buffer.put_slice(&self.answer[self.at..self.at + length]);
        self.at += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
