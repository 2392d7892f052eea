//! HTTP/1.1 on a connection. One decision: what a connection needs only while it is used – hyper's buffers, the room for a
//! request – is given back while it rests, so that ten thousand browsers that may ask again cost what their TLS costs.
//! Knows nothing of what is served.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use crate::proxy::{Connection, handle};
use crate::seats::Seat;
use crate::seldom::Seldom;

use super::accept::Serve;
use super::head_timer::HeadTimer;
use super::stream::ClientStream;

/// A connection that was not used for this long, and at most twice as long, rests.
pub(super) const REST: Duration = Duration::from_secs(1);
/// What is left for half a head of somebody whose place another one has.
const LEAVE_GRACE: Duration = Duration::from_secs(1);

/// Serve a connection to its end.
pub(super) async fn one(
    serve: &Serve,
    stream: ClientStream,
    accepted: Arc<Connection>,
    seat: &Arc<Seat>,
) -> hyper::Result<()> {
    let (mut awake, mut moves, mut until) = (Some(stream), 0, Instant::now());
    while let Some(stream) = awake {
        // Apart, so that its room is given back.
        let Some(resting) = Box::pin(used(serve, stream, &accepted, seat)).await? else { return Ok(()) };
        // CWE-400: blank lines, and TLS records that carry nothing, wake a connection and are no request; each would give it the time
        // anew, and a place for ever.
        let now = Instant::now();
        if std::mem::replace(&mut moves, accepted.busy.moves()) != accepted.busy.moves() {
            // The limit counts from when it was used last.
            until = now + serve.limits.header_timeout.saturating_sub(REST);
        } else if now >= until {
            serve.counters.header_timeout.add();
            return Ok(());
        }
        accepted.alarms.forget();
        seat.rests();
        awake = rest(serve, resting, until, seat).await;
    }
    Ok(())
}

/// What a connection has to be told.
enum Told {
    /// The gateway stops.
    Draining,
    /// Somebody else has the place.
    Displaced,
    /// No request came for a while.
    Unused,
}

/// Serve until the end (`None`), or until it was not used for a while.
async fn used(
    serve: &Serve,
    stream: ClientStream,
    accepted: &Arc<Connection>,
    seat: &Arc<Seat>,
) -> hyper::Result<Option<ClientStream>> {
    let (place, of_requests, asking) = (serve.place.clone(), accepted.clone(), seat.clone());
    let service = service_fn(move |request| {
        asking.asks();
        handle(place.worker(), of_requests.clone(), request)
    });
    let settled = stream.settled();
    let mut connection = http1::Builder::new()
        .timer(HeadTimer::default())
        .header_read_timeout(serve.limits.header_timeout)
        .max_headers(serve.limits.header_count)
        .max_buf_size(serve.limits.header_bytes)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let told = || async {
        tokio::select! {
            biased;
            () = serve.drain.cancelled() => Told::Draining,
            () = seat.leave.cancelled() => Told::Displaced,
            () = accepted.busy.unused_for(REST) => Told::Unused,
        }
    };
    let mut telling = Seldom::new(told());
    let displaced = loop {
        let turn = std::future::poll_fn(|cx: &mut Context<'_>| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Err(ended)),
            Poll::Pending => telling.poll(cx).map(Ok),
        });
        match turn.await {
            Err(ended) => return ended.map(|()| None),
            Ok(Told::Draining) => break false,
            Ok(Told::Displaced) => break true,
            // An answer may still be on its way to a slow reader: what hyper holds of it must not be lost.
            Ok(Told::Unused) if settled.is_settled() => {
                serve.counters.rested.add();
                let parts = connection.into_parts();
                return Ok(parts.map(|parts| parts.io.into_inner().with_unread(&parts.read_buf)));
            }
            Ok(Told::Unused) => {
                // Half a head asks for nothing yet, and none of an answer is lost with it.
                if settled.has_answered() {
                    seat.rests();
                }
                telling.set(told());
            }
        }
    };
    Pin::new(&mut connection).graceful_shutdown();
    let left = async {
        loop {
            accepted.busy.idle_for(LEAVE_GRACE).await;
            if displaced && settled.has_answered() {
                return;
            }
        }
    };
    tokio::select! {
        ended = connection => ended.map(|()| None),
        () = left => Ok(None),
    }
}

/// Wait for the next byte; `None` where none came until then, somebody else has the place, or the gateway stops.
async fn rest(serve: &Serve, stream: ClientStream, until: Instant, seat: &Seat) -> Option<ClientStream> {
    tokio::select! {
        biased;
        () = serve.drain.cancelled() => None,
        () = seat.leave.cancelled() => None,
        readable = timeout_at(until, stream.readable()) => {
            if readable.is_err() {
                serve.counters.header_timeout.add();
            }
            readable.is_ok().then_some(stream)
        }
    }
}
