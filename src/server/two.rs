//! HTTP/2 on a connection. One decision: what the library leaves open – how long a connection or a stream may do nothing, how many
//! streams may be opened and reset – is bounded here. Knows nothing of what is served.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;

use crate::proxy::{Busy, Connection, handle};
use crate::seats::Seat;

use super::accept::Serve;
use super::gather::Gathered;
use super::one::REST;
use super::pace::Paces;
use super::stream::ClientStream;

/// Streams that a peer may open and reset before they were handled (CVE-2023-44487, "rapid reset").
const PENDING_RESETS: usize = 20;
/// An HTTP/2 connection that does not answer a ping for so long is gone.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// What all uploads of a connection may have here that nobody reads yet; one may have a quarter. The library's own would let a single one
/// that stands still hold up all others, and takes two thousand small frames that wait for a flood; so it is eight thousand.
const UPLOADS: u32 = 4 * 1024 * 1024;
/// From there on no further piece of an answer is taken while what was taken has not left. The library's own, 400 KiB, is not needed to keep
/// a line full, and whoever opens every window and reads nothing had forty MiB here a connection (CWE-770).
const UNSENT: usize = 16 * 1024;
/// What a peer without requests gets to answer the GOAWAY.
const GOAWAY_GRACE: Duration = Duration::from_secs(1);

/// Serve a connection to its end.
pub(super) async fn two(
    serve: &Serve,
    stream: ClientStream,
    accepted: Arc<Connection>,
    seat: &Arc<Seat>,
) -> hyper::Result<()> {
    let (place, busy, asking) = (serve.place.clone(), accepted.busy.clone(), seat.clone());
    let settled = stream.settled();
    let paces = Paces::new(serve.limits.stall_timeout, serve.counters.clone());
    let beginning = paces.clone();
    let service = service_fn(move |request| {
        asking.asks();
        let (begun, answered) = (beginning.begin(), handle(place.worker(), accepted.clone(), request));
        // Apart: on its way into a task of its own it is moved several times, and it is large.
        Box::pin(async move { answered.await.map(|answer| answer.map(|body| begun.answer(body))) })
    });
    let stream = Gathered::new(stream, busy.clone());
    let connection = http2::Builder::new(paces)
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .enable_connect_protocol()
        .max_concurrent_streams(serve.limits.streams)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .initial_connection_window_size(UPLOADS)
        .max_send_buf_size(UNSENT)
        .max_header_list_size(u32::try_from(serve.limits.header_bytes).unwrap_or(u32::MAX))
        .serve_connection(TokioIo::new(stream.clone()), service);
    let mut connection = pin!(connection);
    let rests = || {
        if settled.has_answered() {
            seat.rests();
        }
    };
    tokio::select! {
        result = turns(connection.as_mut(), &stream) => return result,
        () = serve.drain.cancelled() => {}
        // Pings keep an HTTP/2 connection alive that nobody uses; hyper has no limit for that.
        () = unused(&busy, serve.limits.header_timeout, rests) => serve.counters.idle_closed.add(),
        () = seat.leave.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        result = turns(connection.as_mut(), &stream) => result,
        () = let_go(&busy, seat, serve.limits.stall_timeout) => Ok(()),
    }
}

/// Waits until nothing was asked for so long, and says when that begins.
async fn unused(busy: &Busy, limit: Duration, rests: impl Fn()) {
    loop {
        busy.idle_for(REST.min(limit)).await;
        rests();
        if timeout(limit.saturating_sub(REST), busy.changes()).await.is_err() {
            return;
        }
    }
}

/// Waits until a connection that was told to end may be cut. What the library still holds of an answer that is over here is on its way
/// to a slow reader; who takes it answers the GOAWAY behind it.
async fn let_go(busy: &Busy, seat: &Seat, patience: Duration) {
    loop {
        busy.idle_for(GOAWAY_GRACE).await;
        // A peer that was idle, or never said a word, is not waited for.
        if seat.is_idle() || timeout(patience, busy.changes()).await.is_err() {
            return;
        }
    }
}

/// Poll the connection, and end each of its turns.
async fn turns<C: Future>(mut connection: Pin<&mut C>, stream: &Gathered) -> C::Output {
    std::future::poll_fn(|cx: &mut Context<'_>| {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            if stream.end_turn(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}
