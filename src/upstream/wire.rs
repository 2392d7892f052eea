//! A request in the form of the protocol it meets. One decision: that is told – origin form and `Host`, or `:scheme` and
//! `:authority` – here and nowhere else. Knows nothing of pools.

use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Uri, Version, header};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::connect::Connected;
use super::one::Sendable;

/// A server that does not answer a ping for so long is gone.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// What one stream, and all streams together, may have on their way before they are read: enough for a fast line at some
/// milliseconds of distance.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Speak HTTP/2. The connection ends when its last sender is dropped and its last stream is done.
pub(super) async fn two<B: Sendable>(connected: Connected) -> hyper::Result<http2::SendRequest<B>> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let (sender, connection) = builder.handshake(TokioIo::new(connected.io)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to an application ended");
        }
    });
    Ok(sender)
}

/// The form of HTTP/1.1: origin form, and the authority in `Host` (RFC 9112 §3.2.1).
pub(super) fn as_one<B>(mut request: Request<B>) -> Request<B> {
    let Some(authority) = request.uri().authority().cloned() else { return request };
    *request.uri_mut() = Uri::from(path(request.uri()));
    if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
        request.headers_mut().insert(header::HOST, host);
    }
    if request.headers().contains_key(header::TE) {
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    request
}

/// The form of HTTP/2: the authority in the target, no connection-specific field (RFC 9113 §8.2.2, §8.3.1).
pub(super) fn as_two<B>(request: &mut Request<B>, secure: bool) {
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(header::CONNECTION);
    request.headers_mut().remove(header::TRANSFER_ENCODING);
    let host = request.headers_mut().remove(header::HOST);
    let Some(authority) =
        host.and_then(|host| Authority::from_maybe_shared(Bytes::copy_from_slice(host.as_bytes())).ok())
    else {
        return;
    };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(authority);
    parts.path_and_query = Some(path(request.uri()));
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

fn path(uri: &Uri) -> PathAndQuery {
    uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
}
