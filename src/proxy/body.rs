//! Bodies on their way. One decision: nothing is buffered; a body is the other side's stream with the few checks that have
//! to see each frame: the byte limit, the names in trailers, the count for the record. Knows nothing of routes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::upstream::{BodyState, PooledBody, Sending};

use super::headers::clean_trailers;
use super::record::Recorder;
use super::{Runtime, headers::HeaderRules};

/// Why a request body stopped.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client's stream broke.
    #[error("the client's body broke off")]
    Client(#[source] hyper::Error),
    /// It grew past the limit.
    #[error("the body is larger than allowed")]
    TooLarge,
    /// The exchange is over, and nobody reads the rest.
    #[error("the rest of the body is not wanted")]
    Unwanted,
}

/// A request body on its way to the application.
pub struct RequestBody(Option<Streamed>);

struct Streamed {
    body: Incoming,
    left: Option<u64>,
    runtime: Arc<Runtime>,
    state: Arc<BodyState>,
    too_large: Arc<AtomicBool>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// What the sender learns of a request body while it is on its way.
#[derive(Clone, Default)]
pub struct Progress {
    /// Read to its end; and cut where the rest is not wanted.
    pub sending: Sending,
    /// Stopped because it grew past the limit.
    pub too_large: Option<Arc<AtomicBool>>,
}

impl RequestBody {
    /// The client's body, bounded.
    pub fn new(body: Incoming, runtime: &Arc<Runtime>) -> (RequestBody, Progress) {
        if body.is_end_stream() {
            return (RequestBody(None), Progress::default());
        }
        let (state, too_large) = (Arc::new(BodyState::default()), Arc::new(AtomicBool::new(false)));
        let sending = Sending { body: Some(state.clone()), ..Sending::default() };
        let cut = Box::pin(sending.cut.clone().cancelled_owned());
        let progress = Progress { sending, too_large: Some(too_large.clone()) };
        let streamed = Streamed { body, left: runtime.body_limit, runtime: runtime.clone(), state, too_large, cut };
        (RequestBody(Some(streamed)), progress)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(streamed) = &mut self.get_mut().0 else { return Poll::Ready(None) };
        let polled = ready!(streamed.poll(cx));
        if matches!(polled, Some(Err(_))) {
            streamed.state.broken.store(true, Ordering::Release);
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|streamed| streamed.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |streamed| streamed.body.size_hint())
    }
}

impl Streamed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(BodyError::Unwanted)));
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Client(error)))),
            None => {
                self.state.done.store(true, Ordering::Release);
                return Poll::Ready(None);
            }
        };
        if let (Some(left), Some(data)) = (&mut self.left, frame.data_ref()) {
            match left.checked_sub(data.len() as u64) {
                Some(rest) => *left = rest,
                None => {
                    self.too_large.store(true, Ordering::Release);
                    return Poll::Ready(Some(Err(BodyError::TooLarge)));
                }
            }
        }
        if self.body.is_end_stream() {
            self.state.done.store(true, Ordering::Release);
        }
        Poll::Ready(Some(Ok(cleaned(frame, self.runtime.authenticator.headers()))))
    }
}

/// A response body on its way to the client. Dropping it, at its end or before, writes the record.
pub struct ResponseBody {
    kind: Kind,
    recorder: Option<Recorder>,
}

enum Kind {
    Own(Option<Bytes>),
    Application(PooledBody<RequestBody>),
}

impl ResponseBody {
    /// The gateway's own words.
    pub fn own(bytes: Bytes) -> ResponseBody {
        ResponseBody { kind: Kind::Own((!bytes.is_empty()).then_some(bytes)), recorder: None }
    }

    /// The application's.
    pub fn application(body: PooledBody<RequestBody>) -> ResponseBody {
        ResponseBody { kind: Kind::Application(body), recorder: None }
    }

    /// Who writes the record when the body is done.
    pub fn recorded(mut self, mut recorder: Recorder) -> ResponseBody {
        // Of an empty body nobody asks for a frame.
        if self.kind.is_end_stream() {
            recorder.complete();
        }
        self.recorder = Some(recorder);
        self
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = match &mut this.kind {
            Kind::Own(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Kind::Application(body) => ready!(Pin::new(body).poll_frame(cx)),
        };
        if let Some(recorder) = &mut this.recorder {
            match &frame {
                Some(Ok(frame)) => recorder.count(frame.data_ref().map_or(0, |data| data.len() as u64)),
                Some(Err(_)) => recorder.broke(),
                None => recorder.complete(),
            }
            if this.kind.is_end_stream() {
                recorder.complete();
            }
        }
        Poll::Ready(frame.map(|frame| frame.map(|frame| cleaned(frame, &()))))
    }

    fn is_end_stream(&self) -> bool {
        self.kind.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Application(body) => body.size_hint(),
        }
    }
}

impl Kind {
    fn is_end_stream(&self) -> bool {
        match self {
            Kind::Own(bytes) => bytes.is_none(),
            Kind::Application(body) => body.is_end_stream(),
        }
    }
}

/// A frame whose trailers, if it is one, passed the same rules as headers: an identity in a trailer is still an identity to
/// a server that merges trailers into headers (RFC 9110 §6.5.1).
fn cleaned(frame: Frame<Bytes>, rules: &dyn HeaderRules) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(trailers) => Frame::trailers(clean_trailers(trailers, rules)),
        Err(frame) => frame,
    }
}
