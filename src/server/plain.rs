//! The listener without TLS. One decision: it serves nothing but the way to TLS, one request a connection. Knows nothing of
//! routes.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::proxy::redirect;

use super::counters::Counters;
use super::worker::told;
use super::{ACCEPT_BACKOFF, Limits};

/// Connections at once. More are closed: nobody stays here.
pub const PLACES: usize = 256;

/// Redirect until told to stop; `port` is where TLS is spoken.
pub(super) async fn serve(
    listener: TcpListener,
    port: u16,
    limits: Limits,
    counters: Arc<Counters>,
    drain: CancellationToken,
) {
    let connections = TaskTracker::new();
    while let Some(accepted) = drain.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) if connections.len() < PLACES => stream,
            Ok(_) => {
                counters.refused_full.add();
                continue;
            }
            Err(error) => {
                counters.accept_failed.add();
                told(&error);
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let counters = counters.clone();
        let service = service_fn(move |request| {
            counters.plain.add();
            std::future::ready(Ok::<_, Infallible>(redirect(request, port)))
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.handshake_timeout)
            .keep_alive(false)
            .max_headers(limits.header_count)
            .max_buf_size(limits.header_bytes)
            .serve_connection(TokioIo::new(stream), service);
        // Half a minute for one short answer: a reader that takes longer is no reader.
        let bounded = tokio::time::timeout(3 * limits.handshake_timeout, serving);
        connections.spawn(drain.clone().run_until_cancelled_owned(bounded));
    }
}
