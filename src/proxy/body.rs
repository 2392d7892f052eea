//! Bodies on their way. One decision: nothing is buffered; a body is the other side's stream with the few checks that have
//! to see each frame: the byte limit, the names in trailers, the count for the record. Knows nothing of routes.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::session::Over;
use crate::upstream::{BrokenOff, PooledBody, Upload};

use super::events::Events;
use super::headers::{HeaderRules, NamedFields, RequestTrailers, clean_trailers};
use super::record::Recorder;
use super::reply::Refusal;
use super::stall::Stall;
use super::unread::Rest;
use super::watch::{Cut, Watch};

/// Why a request body stopped.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client's stream broke.
    #[error("the client's body broke off")]
    Client(#[source] hyper::Error),
    /// It grew past the limit.
    #[error("the body is larger than allowed")]
    TooLarge,
    /// The client sent nothing for too long.
    #[error("the client stopped sending")]
    Stalled,
    /// The exchange is over, and nobody reads the rest.
    #[error("the rest of the body is not wanted")]
    Unwanted,
}

/// Bounds on a request body.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Bytes.
    pub bytes: Option<u64>,
    /// How long the client may send nothing while the answer is waited for.
    pub wait: Duration,
    /// The same when it came: what streams both ways may be quiet for as long as the route allows.
    pub idle: Option<Duration>,
}

/// A request body on its way to the application; by default none.
#[derive(Default)]
pub struct RequestBody(Option<Box<Streamed>>);

struct Streamed {
    upload: Arc<Shared>,
    left: Option<u64>,
    /// `None` where nobody reads trailers.
    rules: Option<RequestTrailers>,
    stall: Stall,
    idle: Option<Duration>,
    abandoned: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// What a body and its sender have to tell each other, and the client's stream itself: whoever sends it may not ask for more
/// for as long as the application's window is full, and the client has to be told nevertheless.
struct Shared {
    /// `None` once it is abandoned.
    body: Mutex<Option<Incoming>>,
    /// What becomes of it then; `None`: it is dropped.
    rest: Option<Rest>,
    abandoned: CancellationToken,
    began: Instant,
    /// Milliseconds since then until the client's last piece was taken.
    moved: AtomicU64,
    /// It is the client that is waited for.
    waits: AtomicBool,
    done: AtomicBool,
    broken: AtomicBool,
    too_large: AtomicBool,
    stalled: AtomicBool,
    answered: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Incoming>> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A piece was taken, or the end.
    fn moved(&self) {
        let at = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(at, Ordering::Release);
        self.waits.store(false, Ordering::Release);
    }

    fn let_go(&self) {
        // Taken first: what follows must not find it locked.
        let body = self.lock().take();
        if let (Some(body), Some(rest)) = (body, &self.rest) {
            rest.let_go(body);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl Upload for Shared {
    fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    fn waited_until(&self) -> Instant {
        if self.waits.load(Ordering::Acquire) {
            return Instant::now();
        }
        self.began + Duration::from_millis(self.moved.load(Ordering::Acquire))
    }

    fn abandon(&self) {
        self.let_go();
        self.abandoned.cancel();
    }
}

/// What the sender learns of a request body while it is on its way; `None` where there is no body.
#[derive(Clone)]
pub struct Progress(Option<Arc<Shared>>);

impl Progress {
    /// Of no body.
    pub fn none() -> Progress {
        Progress(None)
    }

    /// Whether the client's last byte was read.
    pub fn is_done(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| shared.is_done())
    }

    /// What the pool needs to know.
    pub fn upload(&self) -> Option<Arc<dyn Upload>> {
        self.0.clone().map(|shared| shared as Arc<dyn Upload>)
    }

    /// The response head came.
    pub fn answered(&self) {
        if let Some(shared) = &self.0 {
            shared.answered.store(true, Ordering::Release);
        }
    }

    /// Why the body was stopped, where it was and nobody else is to blame.
    pub fn refusal(&self) -> Option<Refusal> {
        let shared = self.0.as_ref()?;
        if shared.too_large.load(Ordering::Acquire) {
            Some(Refusal::TooLarge)
        } else {
            shared.stalled.load(Ordering::Acquire).then_some(Refusal::BodyTimeout)
        }
    }
}

impl RequestBody {
    /// The client's body, bounded. Without `rules` it goes no further than the gateway, where its trailers mean nothing. What is not
    /// read of it is left to `rest`.
    pub fn new(
        body: Incoming,
        rules: Option<RequestTrailers>,
        limits: BodyLimits,
        rest: Option<Rest>,
    ) -> (RequestBody, Progress) {
        let abandoned = CancellationToken::new();
        let shared = Arc::new(Shared {
            body: Mutex::new(Some(body)),
            rest,
            abandoned: abandoned.clone(),
            began: Instant::now(),
            moved: AtomicU64::new(0),
            waits: AtomicBool::new(false),
            done: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            too_large: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            answered: AtomicBool::new(false),
        });
        let streamed = Streamed {
            upload: shared.clone(),
            left: limits.bytes,
            rules,
            stall: Stall::new(Some(limits.wait)),
            idle: limits.idle,
            abandoned: Box::pin(abandoned.cancelled_owned()),
        };
        (RequestBody(Some(Box::new(streamed))), Progress(Some(shared)))
    }

    /// No body.
    pub fn none() -> (RequestBody, Progress) {
        (RequestBody::default(), Progress::none())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(streamed) = &mut self.get_mut().0 else { return Poll::Ready(None) };
        let polled = ready!(streamed.poll(cx));
        if matches!(polled, Some(Err(_))) {
            streamed.upload.broken.store(true, Ordering::Release);
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        // One that was abandoned ends in an error, which has to be asked for.
        let ended = |streamed: &Streamed| streamed.upload.lock().as_ref().is_some_and(Body::is_end_stream);
        self.0.as_deref().is_none_or(ended)
    }

    fn size_hint(&self) -> SizeHint {
        let hint =
            |streamed: &Streamed| streamed.upload.lock().as_ref().map_or_else(SizeHint::default, Body::size_hint);
        self.0.as_deref().map_or_else(|| SizeHint::with_exact(0), hint)
    }
}

impl Streamed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.abandoned.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(BodyError::Unwanted)));
        }
        let (polled, is_end) = match self.upload.lock().as_mut() {
            None => return Poll::Ready(Some(Err(BodyError::Unwanted))),
            Some(body) => (Pin::new(&mut *body).poll_frame(cx), body.is_end_stream()),
        };
        let Poll::Ready(polled) = polled else { return self.wait(cx) };
        self.upload.moved();
        self.stall.moved();
        if let Some(rest) = &self.upload.rest {
            rest.taken();
        }
        let frame = match polled {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Client(error)))),
            None => {
                self.upload.done.store(true, Ordering::Release);
                return Poll::Ready(None);
            }
        };
        if let (Some(left), Some(data)) = (&mut self.left, frame.data_ref()) {
            match left.checked_sub(data.len() as u64) {
                Some(rest) => *left = rest,
                None => {
                    self.upload.too_large.store(true, Ordering::Release);
                    return Poll::Ready(Some(Err(BodyError::TooLarge)));
                }
            }
        }
        if is_end {
            self.upload.done.store(true, Ordering::Release);
        }
        Poll::Ready(Some(Ok(match &self.rules {
            Some(rules) => cleaned(frame, rules),
            None => frame,
        })))
    }

    /// The client is waited for. A client that stops half-way holds a connection here and one to the application.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.upload.waits.store(true, Ordering::Release);
        loop {
            ready!(self.stall.poll_stalled(cx));
            if !self.upload.answered.swap(false, Ordering::AcqRel) {
                self.upload.stalled.store(true, Ordering::Release);
                return Poll::Ready(Some(Err(BodyError::Stalled)));
            }
            self.stall.set(self.idle);
        }
    }
}

/// Why an answer stopped.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    /// The application broke off.
    #[error("the application broke the answer off")]
    Application(#[source] BrokenOff),
    /// The gateway did.
    #[error(transparent)]
    Cut(#[from] Cut),
}

/// A response body on its way to the client. Dropping it, at its end or before, writes the record.
pub struct ResponseBody {
    kind: Kind,
    recorder: Option<Recorder>,
    /// It broke, and what came before has to leave first.
    broken: Option<ResponseError>,
}

enum Kind {
    /// The gateway's own, or an answer that came in one piece: there is nothing to wait for, so nothing to watch.
    Whole(Bytes),
    /// Large, and handed on many times.
    Application(Box<Answer>),
    /// Cut: what is left of it was dropped, and with it the connection that it came on.
    Over(Cut),
}

/// The application's answer on its way.
struct Answer {
    body: PooledBody,
    watch: Watch,
    events: Option<Events>,
    rules: NamedFields,
}

impl ResponseBody {
    /// What is here already: the gateway's own words, or an answer that came in one piece.
    pub fn whole(bytes: Bytes) -> ResponseBody {
        ResponseBody { kind: Kind::Whole(bytes), recorder: None, broken: None }
    }

    /// Let go of what is here, where that is anything; its bytes.
    pub fn empty(&mut self) -> Option<usize> {
        match &mut self.kind {
            Kind::Whole(bytes) if !bytes.is_empty() => Some(std::mem::take(bytes).len()),
            _ => None,
        }
    }

    /// The application's, whose trailers are held to these rules.
    pub fn application(body: PooledBody, rules: NamedFields, watch: Watch, events: Option<Events>) -> ResponseBody {
        let answer = Answer { body, watch, events, rules };
        ResponseBody { kind: Kind::Application(Box::new(answer)), recorder: None, broken: None }
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
    type Error = ResponseError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        let this = self.get_mut();
        let frame = match this.broken.take() {
            Some(error) => Some(Err(error)),
            None => match ready!(this.kind.poll(this.recorder.as_ref(), cx)) {
                // One turn later: the library throws away what it has not sent when it hears of an error. A client that got nothing of
                // an answer takes its connection for one that was idle, and sends the request again, a POST as well.
                Some(Err(error)) => {
                    this.broken = Some(error);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                frame => frame,
            },
        };
        if let Some(recorder) = &mut this.recorder {
            if let Some(Ok(frame)) = &frame {
                recorder.count(frame.data_ref().map_or(0, |data| data.len() as u64));
            }
            match (&this.kind, &frame) {
                (Kind::Over(cut), _) => recorder.cut(*cut),
                (_, Some(Err(_))) => recorder.broke(),
                (_, Some(Ok(_))) => {}
                (_, None) => recorder.complete(),
            }
            if this.kind.is_end_stream() {
                recorder.complete();
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.kind.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Application(answer) => answer.body.size_hint(),
            Kind::Over(_) => SizeHint::default(),
        }
    }
}

impl Kind {
    fn is_end_stream(&self) -> bool {
        match self {
            Kind::Whole(bytes) => bytes.is_empty(),
            Kind::Application(answer) => answer.body.is_end_stream(),
            Kind::Over(_) => false,
        }
    }

    fn poll(
        &mut self,
        recorder: Option<&Recorder>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        let answer = match self {
            Kind::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Kind::Whole(bytes) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Over(_) => return Poll::Ready(None),
            Kind::Application(answer) => &mut **answer,
        };
        // Without a record nobody knows what was asked for.
        let Some(of) = recorder else { return Poll::Ready(Some(Err(Cut::from(Over::Ended).into()))) };
        let cut = match answer.watch.poll_before(of, cx) {
            Poll::Ready(over) => over.into(),
            Poll::Pending => {
                if let Poll::Ready(frame) = Pin::new(&mut answer.body).poll_frame(cx) {
                    return Poll::Ready(frame.map(|frame| answer.pass(frame)));
                }
                ready!(answer.watch.poll_cut(of, cx))
            }
        };
        // A page that is told shows that its person is signed out.
        let told = matches!(cut, Cut::Over(Over::Ended | Over::Denied));
        let last = answer.events.as_ref().filter(|_| told).and_then(Events::last);
        *self = Kind::Over(cut);
        Poll::Ready(Some(last.map(Frame::data).ok_or_else(|| cut.into())))
    }
}

impl Answer {
    /// A frame on its way through.
    fn pass(&mut self, frame: Result<Frame<Bytes>, BrokenOff>) -> Result<Frame<Bytes>, ResponseError> {
        self.watch.moved();
        let frame = frame.map_err(ResponseError::Application)?;
        if let (Some(events), Some(data)) = (&mut self.events, frame.data_ref()) {
            events.advance(data);
        }
        Ok(cleaned(frame, &self.rules))
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
