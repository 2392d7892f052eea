//! Whoever comes without TLS, to the listener for them or to the other one. One decision: they are served nothing but the way to TLS,
//! one request a connection, and none keeps a place from another by asking for nothing. Knows nothing of routes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use tokio::net::{TcpListener, TcpStream};

use crate::proxy::redirect;
use crate::seats::{Seat, Seats};
use crate::small;
use crate::task::task;

use super::accept::Serve;
use super::worker::told;
use super::{ACCEPT_BACKOFF, proxy_protocol};

/// Connections at once: nobody stays here.
pub const PLACES: usize = 256;

/// Redirect until told to stop; `port` is where TLS is spoken.
pub(super) async fn serve(listener: TcpListener, port: u16, serve: Arc<Serve>) {
    let seats = Seats::new(PLACES, Duration::ZERO, PLACES);
    while let Some(accepted) = serve.drain.run_until_cancelled(listener.accept()).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                serve.counters.accept_failed.add();
                told(&error);
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let Some((seat, is_for_another)) = seats.take(None) else {
            serve.counters.refused_full.add();
            continue;
        };
        if is_for_another {
            serve.counters.plain_idle_closed.add();
        }
        // Half a minute for one short answer: a reader that takes longer is no reader.
        let bounded =
            tokio::time::timeout(3 * serve.limits.handshake_timeout, one(serve.clone(), stream, peer, (port, seat)));
        let bounded = serve.drain.clone().run_until_cancelled_owned(bounded);
        tokio::spawn(task(bounded));
    }
}

async fn one(serve: Arc<Serve>, mut stream: TcpStream, peer: SocketAddr, (port, seat): (u16, Seat)) {
    let leave = seat.leave.clone();
    let lead = async {
        if let Err(error) = pass_header(&serve, &mut stream, peer).await {
            serve.counters.proxy_header_malformed.add();
            return tracing::debug!(%peer, %error, "no PROXY header from a listed proxy");
        }
        answer(&serve, stream, Some((port, seat))).await;
    };
    // By nobody who asked: that one is answered at once.
    leave.run_until_cancelled(lead).await;
}

/// Whether the client speaks HTTP without TLS: a method begins with a capital letter, a TLS record never does (RFC 8446 §5.1). A PROXY
/// header does, and from whoever is not listed is no beginning of anything.
pub(super) async fn is_spoken(stream: &TcpStream) -> bool {
    let mut first = [0; 6];
    let Ok(length) = stream.peek(&mut first).await else { return false };
    first[0].is_ascii_uppercase() && !b"PROXY ".starts_with(&first[..length])
}

/// One short answer, to whoever has a seat elsewhere than where TLS is spoken; that port, `None`: this one.
pub(super) async fn answer(serve: &Serve, stream: TcpStream, elsewhere: Option<(u16, Seat)>) {
    let counters = serve.counters.clone();
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(serve.limits.handshake_timeout)
        .keep_alive(false)
        .max_headers(serve.limits.header_count)
        .max_buf_size(serve.limits.header_bytes);
    let answer = move |request| {
        counters.plain.add();
        if let Some((_, seat)) = &elsewhere {
            seat.asks();
        }
        std::future::ready(redirect(request, elsewhere.as_ref().map(|(port, _)| *port)))
    };
    small::serve(&builder, stream, answer).await;
}

/// Listed proxies send a PROXY header here as well, or not, as they are set for this port: nothing here depends on whom it names.
async fn pass_header(serve: &Serve, stream: &mut TcpStream, peer: SocketAddr) -> io::Result<()> {
    let worker = serve.place.worker();
    let may_send = serve.proxy_protocol && worker.runtime.forwarding.trusts(peer.ip().to_canonical());
    if may_send && proxy_protocol::is_next(stream).await? {
        proxy_protocol::read(stream).await?;
    }
    Ok(())
}
