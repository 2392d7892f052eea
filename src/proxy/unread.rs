//! A request body that nobody has asked for yet. One decision: over HTTP/2 a small one is read and thrown away when the request was
//! answered without it. The library would reset the stream behind the whole answer, as RFC 9113 §8.1 allows, and clients that
//! are about (curl 7.88) then show no answer at all. Knows nothing of why it was not wanted.

use std::pin::Pin;
use std::time::Duration;

use bytes::Buf;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

/// What a client sends unasked: the window of a stream. A larger upload is told to stop.
const MOST: usize = 1024 * 1024;
/// It is on its way already, or not worth waiting for.
const WAIT: Duration = Duration::from_secs(1);

/// The body, until somebody takes it.
pub struct Unread {
    body: Option<Incoming>,
    http2: bool,
}

impl Unread {
    /// Of a request.
    pub fn new(body: Incoming, http2: bool) -> Unread {
        Unread { body: Some(body), http2 }
    }

    /// Bytes that are to come at least, as far as it was announced.
    pub fn announced(&self) -> u64 {
        self.body.as_ref().map_or(0, |body| body.size_hint().lower())
    }

    /// For whoever wants it.
    pub fn take(mut self) -> Incoming {
        self.body.take().expect("it is there until it is taken, which ends this")
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| self.http2 && !body.is_end_stream()) else { return };
        if body.size_hint().lower() > MOST as u64 {
            return;
        }
        // Beside the answer, which waits for nothing. Outside of the runtime everything ends.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // Whatever becomes of it, the stream is let go.
                let _ = tokio::time::timeout(WAIT, discard(Box::pin(body))).await;
            });
        }
    }
}

async fn discard(mut body: Pin<Box<Incoming>>) {
    let mut left = MOST;
    while let Some(Ok(frame)) = body.frame().await {
        let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Buf::remaining)) else { return };
        left = rest;
    }
}
