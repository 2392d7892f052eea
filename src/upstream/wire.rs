//! HTTP/2 towards a server. One decision: one connection carries everything, and its windows and pings are set here and nowhere
//! else. Knows nothing of pools.

use std::time::Duration;

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
