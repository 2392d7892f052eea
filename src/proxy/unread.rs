//! A request's body, as far as nobody has read it when the request is answered. One decision: a small rest is read and thrown away beside
//! the answer, and over HTTP/1.1 a connection that would end because of a larger one says so (RFC 9112 §9.6). Over HTTP/2 the library would
//! reset the stream behind the whole answer, as RFC 9113 §8.1 allows, and clients that are about (curl 7.88) then show no answer at all.
//! Knows nothing of why it was not wanted.

use std::pin::Pin;
use std::time::Duration;

use bytes::Buf;
use http::request::Parts;
use http::{Version, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::task::task;

use super::body::{BodyLimits, Progress, RequestBody};
use super::busy::Busy;
use super::headers::RequestTrailers;

/// What an HTTP/2 client sends unasked: the window of a stream. A larger upload is told to stop, a moment later.
const MOST: u64 = 1024 * 1024;
/// Over HTTP/1.1 nobody can be told to stop: a new connection costs less than more than this.
const MOST_OF_ONE: u64 = 64 * 1024;
/// It is on its way already, or not worth waiting for.
const WAIT: Duration = Duration::from_secs(1);

/// The body, until somebody reads it, and how far they came.
pub struct Unread {
    state: State,
    rest: Rest,
}

/// What becomes of the rest of a body that nobody reads any more.
#[derive(Clone)]
pub struct Rest {
    http2: bool,
    /// Whoever asks before it sends must not be told to send.
    asks_first: bool,
    /// Where there is one to be read.
    connection: Option<Busy>,
}

enum State {
    Here(Incoming),
    Read(Progress),
}

impl Unread {
    /// Of a request.
    pub fn new(body: Incoming, parts: &Parts, connection: &Busy) -> Unread {
        let http2 = parts.version == Version::HTTP_2;
        let comes = !body.is_end_stream();
        let asks_first = comes && parts.headers.contains_key(header::EXPECT);
        let connection = comes.then(|| connection.clone());
        Unread { state: State::Here(body), rest: Rest { http2, asks_first, connection } }
    }

    /// Bytes that are to come at least, as far as it was announced.
    pub fn announced(&self) -> u64 {
        match &self.state {
            State::Here(body) => body.size_hint().lower(),
            State::Read(_) => 0,
        }
    }

    /// Have it read once, within these bounds; `rules` are for its trailers, where somebody wants those.
    pub fn read(
        &mut self,
        rules: impl FnOnce() -> Option<RequestTrailers>,
        limits: BodyLimits,
    ) -> (RequestBody, Progress) {
        match std::mem::replace(&mut self.state, State::Read(Progress::none())) {
            State::Here(body) if !body.is_end_stream() => {
                // Over HTTP/1.1 a connection on which reading began and ended early is not used again.
                let rest = self.rest.http2.then(|| self.rest.clone());
                let (body, progress) = RequestBody::new(body, rules(), limits, rest);
                self.state = State::Read(progress.clone());
                (body, progress)
            }
            _ => RequestBody::none(),
        }
    }

    /// Whether its connection cannot be used again when the gateway answers now. What an application answers, before it has read
    /// everything or not, is not `ours`.
    pub fn ends_connection(&self, ours: bool) -> bool {
        !self.rest.http2
            && match &self.state {
                State::Here(body) => !body.is_end_stream() && !self.rest.is_small(body),
                State::Read(progress) => ours && !progress.is_done(),
            }
    }

    /// The request is answered.
    pub fn leave(self) {
        if let State::Here(body) = self.state {
            self.rest.let_go(body);
        }
    }
}

impl Rest {
    fn is_small(&self, body: &Incoming) -> bool {
        let size = body.size_hint();
        match self.http2 {
            true => size.lower() <= MOST,
            // In chunks it has no end that could be waited for.
            false => !self.asks_first && size.upper().is_some_and(|upper| upper <= MOST_OF_ONE),
        }
    }

    /// Somebody reads what it is the rest of.
    pub(super) fn taken(&self) {
        if let Some(connection) = &self.connection {
            connection.taken();
        }
    }

    /// Nobody wants this any more. Its connection is not at rest before what is read of it is.
    pub(super) fn let_go(&self, body: Incoming) {
        let small = self.is_small(&body);
        // Outside of the runtime everything ends.
        let waits = !body.is_end_stream() && (small || self.http2);
        let Some(runtime) = tokio::runtime::Handle::try_current().ok().filter(|_| waits) else { return };
        let busy = self.connection.as_ref().map(Busy::begin);
        // Beside the answer, which waits for nothing.
        runtime.spawn(task(async move {
            if small {
                // Whatever becomes of it, the body is let go.
                let _ = tokio::time::timeout(WAIT, discard(Box::pin(body))).await;
            } else {
                // Unread, it stops at the end of its window, and its client turns to the answer: one that is told to stop while it
                // sends looks at no answer (curl 7.88).
                tokio::time::sleep(WAIT).await;
                drop(body);
            }
            drop(busy);
        }));
    }
}

async fn discard(mut body: Pin<Box<Incoming>>) {
    let mut left = MOST;
    while let Some(Ok(frame)) = body.frame().await {
        let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Buf::remaining) as u64) else { return };
        left = rest;
    }
}
