//! From a socket to a served connection. One decision: the protocol is what ALPN agreed on, each with its own builder and its
//! own timers, so that no client can hold a connection by saying nothing. Knows nothing of what is served.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::causes;
use crate::counter::Counter;
use crate::proxy::{Connection, Place as WorkerPlace, unreadable};
use crate::seats::Seat;
use crate::seldom::Alarms;
use crate::socket::Socket;

use super::addresses::{Addresses, Place};
use super::counters::Counters;
use super::one::one;
use super::stream::ClientStream;
use super::two::two;
use super::{Limits, plain, proxy_protocol};

/// What a connection needs of its worker.
pub(super) struct Serve {
    pub(super) place: Arc<WorkerPlace>,
    pub(super) tls: TlsAcceptor,
    pub(super) limits: Limits,
    pub(super) proxy_protocol: bool,
    pub(super) drain: CancellationToken,
    pub(super) addresses: Addresses,
    pub(super) counters: Arc<Counters>,
}

/// Serve one connection to its end.
pub(super) async fn connection(serve: Arc<Serve>, stream: TcpStream, peer: SocketAddr, seat: Seat) {
    let seat = Arc::new(seat);
    // Apart, because it is over soon and large: a connection keeps room for what is awaited in place as long as it lives.
    let greeted = Box::pin(tokio::time::timeout(serve.limits.handshake_timeout, greet(&serve, stream, peer)));
    let greeted = seat.leave.run_until_cancelled(serve.drain.run_until_cancelled(greeted)).await;
    let Some(greeted) = greeted.flatten() else { return };
    let (stream, (peer, unnamed), _place) = match greeted {
        Ok(Some(greeted)) => greeted,
        Ok(None) => return,
        Err(_) => {
            serve.counters.handshake_timeout.add();
            return tracing::debug!(%peer, "TLS handshake took too long");
        }
    };
    let tls = stream.get_ref().1;
    let sni = tls.server_name().map(str::to_ascii_lowercase);
    let http2 = tls.alpn_protocol() == Some(b"h2");
    let (stall_timeout, alarms) = (serve.limits.stall_timeout, Alarms::new(http2));
    let accepted = Arc::new(Connection { unnamed, stall_timeout, alarms, ..Connection::new(peer, sni) });
    let busy = accepted.busy.clone();
    let stream = ClientStream::new(stream, stall_timeout);
    let result = if http2 {
        Box::pin(two(&serve, stream, accepted, &seat)).await
    } else {
        let result = one(&serve, stream, accepted.clone(), &seat).await;
        if let Some(status) = result.as_ref().err().and_then(answered) {
            unreadable(serve.place.worker(), &accepted, status);
        }
        result
    };
    if let Err(error) = result {
        counter(&serve.counters, &error).add();
        tracing::debug!(%peer, %error, "connection ended");
    }
    // CWE-770: HTTP/1.1 is done with a connection that became a WebSocket, and it has its places as long as that is open: one client
    // would otherwise open as many as there are descriptors. The stop waits for WebSockets itself.
    serve.drain.run_until_cancelled(busy.over()).await;
}

/// What hyper answered a head of HTTP/1.1 with that it could not read, where it did.
fn answered(error: &hyper::Error) -> Option<StatusCode> {
    match () {
        // It tells the two apart in its words alone.
        () if error.is_parse_too_large() && error.to_string().contains("URI") => Some(StatusCode::URI_TOO_LONG),
        () if error.is_parse_too_large() => Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        () if error.is_parse() => Some(StatusCode::BAD_REQUEST),
        () => None,
    }
}

/// What a connection that failed counts as: the limit that it ran into, if it was one of ours.
fn counter<'c>(counters: &'c Counters, error: &hyper::Error) -> &'c Counter {
    if error.is_timeout() {
        return &counters.header_timeout;
    }
    for inner in causes::of(error).skip(1) {
        // What the library says of resets, continuations and the like beyond its bounds (RFC 9113 §10.5).
        if inner.downcast_ref::<h2::Error>().is_some_and(|error| error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
        {
            return &counters.flooding;
        }
        if inner.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return &counters.reader_stalled;
        }
    }
    &counters.broken
}

/// Everything before HTTP: who it is, whether there is a place, and TLS.
async fn greet(
    serve: &Serve,
    mut stream: TcpStream,
    peer: SocketAddr,
) -> Option<(Box<TlsStream<Socket>>, (SocketAddr, bool), Option<Place>)> {
    let worker = serve.place.worker();
    let forwarding = &worker.runtime.forwarding;
    let (mut client, mut unnamed) = (peer, false);
    if serve.proxy_protocol && forwarding.trusts(peer.ip().to_canonical()) {
        match proxy_protocol::read(&mut stream).await {
            Ok(source) => (client, unnamed) = (source.unwrap_or(peer), source.is_none()),
            Err(error) => {
                serve.counters.proxy_header_malformed.add();
                tracing::debug!(%peer, %error, "no PROXY header from a listed proxy");
                return None;
            }
        }
    }
    let address = client.ip().to_canonical();
    let place = if forwarding.trusts(address) {
        None
    } else {
        let place = serve.addresses.enter(address, serve.limits.connections_per_address);
        if place.is_none() {
            serve.counters.refused_address.add();
            tracing::debug!(%peer, "too many connections of one address");
            return None;
        }
        place
    };
    // An application that does not believe `X-Forwarded-Proto` sends browsers to `http://` here, and people type addresses without a
    // scheme: what a handshake makes of that is a page that says nothing.
    if plain::is_spoken(&stream).await {
        Box::pin(plain::answer(serve, stream, None)).await;
        return None;
    }
    match serve.tls.accept(Socket::from(stream)).await {
        Ok(stream) => Some((Box::new(stream), (client, unnamed), place)),
        Err(error) => {
            serve.counters.handshake_failed.add();
            tracing::debug!(%peer, %error, "TLS handshake failed");
            None
        }
    }
}
