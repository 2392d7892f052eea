//! An answer's body and what lives as long as it does. One decision: a connection goes back to its pool only when both messages ended
//! as they should; in every other case it is dropped, which closes it. Knows nothing of servers' states.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::BrokenOff;
use super::one::{Answer, One, Switched};
use super::pool::IdleWires;
use super::server::InFlight;
use super::shared::Place;

/// What the sender of a request learns of its body, and tells it.
pub trait Upload: Send + Sync {
    /// It was read to its end.
    fn is_done(&self) -> bool;
    /// It ended in an error, which is no fault of the server's.
    fn is_broken(&self) -> bool;
    /// Until when the client is, or was, what is waited for; then it was what takes the body.
    fn waited_until(&self) -> Instant;
    /// Nobody wants the rest: let go of it, even where whoever sends it does not ask for more.
    fn abandon(&self);
}

/// A request body on its way. Dropped with the exchange: what is still being sent by then is wanted no more.
pub(super) struct Sending(pub(super) Option<Arc<dyn Upload>>);

impl Sending {
    fn is_done(&self) -> bool {
        self.0.as_ref().is_none_or(|body| body.is_done())
    }

    pub(super) fn is_broken(&self) -> bool {
        self.0.as_ref().is_some_and(|body| body.is_broken())
    }
}

impl Drop for Sending {
    /// On HTTP/2 a request body is sent by a task of hyper's own, which goes on after the answer; and where the server's
    /// window is full that task does not even look at the body.
    fn drop(&mut self) {
        if let Some(body) = &self.0
            && !body.is_done()
        {
            body.abandon();
        }
    }
}

/// Where a connection goes when the answer is done.
pub(super) struct Return {
    idle: Arc<IdleWires>,
    opened: Instant,
}

impl Return {
    pub(super) fn new(idle: Arc<IdleWires>, opened: Instant) -> Return {
        Return { idle, opened }
    }

    fn put(self, one: Box<One>) {
        self.idle.put(one, self.opened);
    }
}

/// A response body that gives its connection back when it was read to its end.
pub struct PooledBody(Kind);

enum Kind {
    /// It came with its head, all of it, and its connection went back before anybody read it.
    Whole(Bytes),
    /// Large, and handed on many times.
    Streamed(Box<Streamed>),
}

struct Streamed {
    body: Either,
    exchange: Option<Exchange>,
}

enum Either {
    One(Answer),
    Two(Incoming),
}

/// What lives as long as the body.
struct Exchange {
    back: Back,
    sending: Sending,
    running: InFlight,
}

/// What is given back at the end of an exchange.
enum Back {
    One(Return),
    /// By drop.
    Two {
        _place: Place,
    },
}

impl PooledBody {
    /// What came over HTTP/1.1.
    pub(super) fn answered(
        response: Response<Answer>,
        back: Return,
        sending: Sending,
        running: InFlight,
    ) -> Response<PooledBody> {
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        response.map(|answer| match switches {
            // Nothing that is read, and a connection that somebody may take: it is not over.
            true => {
                let exchange = Some(Exchange { back: Back::One(back), sending, running });
                PooledBody(Kind::Streamed(Box::new(Streamed { body: Either::One(answer), exchange })))
            }
            false => PooledBody::one(answer, back, sending, running),
        })
    }

    fn one(mut answer: Answer, back: Return, sending: Sending, running: InFlight) -> PooledBody {
        if sending.is_done()
            && let Some((whole, one)) = answer.take_whole()
        {
            back.put(one);
            return PooledBody(Kind::Whole(whole));
        }
        PooledBody::streamed(Either::One(answer), Exchange { back: Back::One(back), sending, running })
    }

    pub(super) fn two(body: Incoming, place: Place, sending: Sending, running: InFlight) -> PooledBody {
        let back = Back::Two { _place: place };
        PooledBody::streamed(Either::Two(body), Exchange { back, sending, running })
    }

    fn streamed(body: Either, exchange: Exchange) -> PooledBody {
        let mut streamed = Streamed { body, exchange: Some(exchange) };
        if streamed.is_end_stream() {
            streamed.end();
        }
        PooledBody(Kind::Streamed(Box::new(streamed)))
    }

    /// The connection after a 101: from there on it is the tunnel's.
    pub fn take_switched(&mut self) -> Option<Switched> {
        match &mut self.0 {
            Kind::Streamed(streamed) => streamed.take_switched(),
            Kind::Whole(_) => None,
        }
    }

    /// All of it, where it came with its head; itself otherwise.
    ///
    /// # Errors
    /// Itself.
    pub fn into_whole(self) -> Result<Bytes, PooledBody> {
        match self.0 {
            Kind::Whole(bytes) => Ok(bytes),
            Kind::Streamed(_) => Err(self),
        }
    }
}

impl Streamed {
    fn take_switched(&mut self) -> Option<Switched> {
        match &mut self.body {
            Either::One(answer) => answer.take_switched(self.exchange.take().map(|exchange| exchange.running)),
            Either::Two(_) => None,
        }
    }

    fn end(&mut self) {
        let Some(Exchange { back: Back::One(back), sending, .. }) = self.exchange.take() else { return };
        // An answer before the request was read: the rest of the request is still on its way to a server that may take it
        // for the next one. Close.
        if let Either::One(answer) = &mut self.body
            && sending.is_done()
            && let Some(one) = answer.take_idle()
        {
            back.put(one);
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let frame = match &mut self.body {
            Either::One(answer) => ready!(Pin::new(answer).poll_frame(cx)).map(|frame| frame.map_err(BrokenOff::One)),
            Either::Two(body) => ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(BrokenOff::Two)),
        };
        match &frame {
            Some(Ok(_)) if !self.is_end_stream() => {}
            // A broken body: the connection is closed with it.
            Some(Err(_)) => self.exchange = None,
            _ => self.end(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Either::One(answer) => answer.is_end_stream(),
            Either::Two(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Either::One(answer) => answer.size_hint(),
            Either::Two(body) => body.size_hint(),
        }
    }
}

impl Body for PooledBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut self.get_mut().0 {
            Kind::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Streamed(streamed) => streamed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes) => bytes.is_empty(),
            Kind::Streamed(streamed) => streamed.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Streamed(streamed) => streamed.size_hint(),
        }
    }
}
