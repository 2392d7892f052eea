//! From a socket to a served connection. One decision: the protocol is what ALPN agreed on, each with its own builder and its
//! own timers, so that no client can hold a connection by saying nothing. Knows nothing of what is served.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::proxy::{Connection, Worker, handle};

use super::Limits;
use super::stream::ClientStream;

/// Streams that a peer may open and reset before they were handled (CVE-2023-44487, "rapid reset").
const PENDING_RESETS: usize = 20;
/// An HTTP/2 connection that does not answer a ping for so long is gone.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// What a connection needs of its worker.
pub(super) struct Serve {
    pub(super) worker: Arc<Worker>,
    pub(super) tls: TlsAcceptor,
    pub(super) limits: Limits,
    pub(super) drain: CancellationToken,
}

/// Serve one connection to its end.
pub(super) async fn connection(serve: Arc<Serve>, stream: TcpStream, peer: std::net::SocketAddr) {
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(serve.limits.handshake_timeout, serve.tls.accept(stream));
    let stream = tokio::select! {
        done = handshake => match done {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
        },
        () = serve.drain.cancelled() => return,
    };
    let tls = stream.get_ref().1;
    let sni = tls.server_name().map(str::to_ascii_lowercase);
    let http2 = tls.alpn_protocol() == Some(b"h2");
    let accepted = Arc::new(Connection { peer, sni });
    let stream = ClientStream::new(stream, serve.limits.stall_timeout);
    let result = if http2 { two(&serve, stream, accepted).await } else { one(&serve, stream, accepted).await };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

async fn one(serve: &Serve, stream: ClientStream, accepted: Arc<Connection>) -> hyper::Result<()> {
    let worker = serve.worker.clone();
    let service = service_fn(move |request| {
        let (worker, accepted) = (worker.clone(), accepted.clone());
        async move { Ok::<_, std::convert::Infallible>(handle(worker, accepted, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(serve.limits.header_timeout)
        .max_headers(serve.limits.header_count)
        .max_buf_size(serve.limits.header_bytes)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        () = serve.drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn two(serve: &Serve, stream: ClientStream, accepted: Arc<Connection>) -> hyper::Result<()> {
    let worker = serve.worker.clone();
    let service = service_fn(move |request| {
        let (worker, accepted) = (worker.clone(), accepted.clone());
        async move { Ok::<_, std::convert::Infallible>(handle(worker, accepted, request).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .enable_connect_protocol()
        .max_concurrent_streams(serve.limits.streams)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_header_list_size(u32::try_from(serve.limits.header_bytes).unwrap_or(u32::MAX))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        () = serve.drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
