//! A worker's connections to one upstream. One decision: `SendRequest` handles are kept by the worker that opened them, so a
//! request never changes threads and the lock around the idle list is never contended.
//! Knows nothing of what is sent; retries only what hyper hands back unsent.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{ForwardError, Upstream};

/// Told by the request body when it was read to its end. `None` where there was no body to read.
pub type Sent = Option<Arc<AtomicBool>>;

/// Connections to one upstream.
pub struct Pool<B> {
    upstream: Upstream,
    idle: Arc<Idle<B>>,
    next: AtomicUsize,
}

/// A connection. Dropping it closes it at once, whatever is still on its way: hyper alone would go on sending a body that an
/// application which has answered already never reads, and hold the client to it.
struct Wire<B> {
    sender: http1::SendRequest<B>,
    open: DropGuard,
}

struct Idle<B> {
    wires: Mutex<Vec<(Wire<B>, Instant)>>,
    most: usize,
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// An empty pool.
    pub fn new(upstream: Upstream) -> Pool<B> {
        let idle = Arc::new(Idle { wires: Mutex::new(Vec::new()), most: upstream.idle_connections });
        Pool { upstream, idle, next: AtomicUsize::new(0) }
    }

    /// The upstream's name.
    pub fn name(&self) -> &str {
        &self.upstream.name
    }

    /// Send and wait for the response head.
    ///
    /// # Errors
    /// [`ForwardError`]; the request may have reached the application for every variant but the `Connect` ones.
    pub async fn send(&self, request: Request<B>, sent: Sent) -> Result<Response<PooledBody<B>>, ForwardError> {
        tokio::time::timeout(self.upstream.response_timeout, self.exchange(request, sent))
            .await
            .unwrap_or(Err(ForwardError::ResponseTimeout))
    }

    async fn exchange(&self, mut request: Request<B>, sent: Sent) -> Result<Response<PooledBody<B>>, ForwardError> {
        loop {
            let (mut wire, reused) = match self.idle.take(&self.upstream) {
                Some(wire) => (wire, true),
                None => (self.connect().await?, false),
            };
            match wire.sender.try_send_request(request).await {
                Ok(response) if response.status() == http::StatusCode::SWITCHING_PROTOCOLS => {
                    // From here on the connection is the tunnel's.
                    wire.open.disarm();
                    return Ok(response.map(|body| PooledBody::new(body, None)));
                }
                Ok(response) => {
                    let back = Return { wire, idle: self.idle.clone(), sent };
                    return Ok(response.map(|body| PooledBody::new(body, Some(back))));
                }
                Err(mut error) => match error.take_message() {
                    // Not a byte was written: the application closed the idle connection before we used it.
                    Some(unsent) if reused => request = unsent,
                    _ => return Err(ForwardError::Exchange(error.into_error())),
                },
            }
        }
    }

    /// A new connection; each server is tried once, in turn.
    async fn connect(&self) -> Result<Wire<B>, ForwardError> {
        let servers = &self.upstream.servers;
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut failure = None;
        for turn in 0..servers.len() {
            let server = &servers[(first + turn) % servers.len()];
            match tokio::time::timeout(self.upstream.connect_timeout, TcpStream::connect(server.as_str())).await {
                Ok(Ok(stream)) => return handshake(stream).await,
                Ok(Err(source)) => failure = Some(ForwardError::Connect { server: server.clone(), source }),
                Err(_) => failure = Some(ForwardError::ConnectTimeout(server.clone())),
            }
        }
        Err(failure.unwrap_or_else(|| ForwardError::ConnectTimeout(self.upstream.name.clone())))
    }
}

async fn handshake<B>(stream: TcpStream) -> Result<Wire<B>, ForwardError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Without it a small request waits for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let (sender, connection) = http1::Builder::new()
        .preserve_header_case(false)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ForwardError::Exchange)?;
    let closed = CancellationToken::new();
    let open = closed.clone().drop_guard();
    tokio::spawn(async move {
        if let Some(Err(error)) = closed.run_until_cancelled(connection.with_upgrades()).await {
            tracing::debug!(%error, "connection to an application ended");
        }
    });
    Ok(Wire { sender, open })
}

impl<B> Idle<B> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Wire<B>, Instant)>> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last is the likeliest to live; the stale ones below it go with the first stale one found.
    fn take(&self, upstream: &Upstream) -> Option<Wire<B>> {
        let mut wires = self.lock();
        while let Some((wire, since)) = wires.pop() {
            if since.elapsed() > upstream.idle_timeout {
                wires.clear();
                return None;
            }
            if wire.sender.is_ready() {
                return Some(wire);
            }
        }
        None
    }

    fn put(&self, wire: Wire<B>) {
        let mut wires = self.lock();
        if wires.len() >= self.most {
            wires.remove(0);
        }
        wires.push((wire, Instant::now()));
    }
}

/// What brings a connection back to its pool.
struct Return<B> {
    wire: Wire<B>,
    idle: Arc<Idle<B>>,
    sent: Sent,
}

impl<B: Send + 'static> Return<B> {
    fn give_back(self) {
        let Return { mut wire, idle, sent } = self;
        // An answer before the request was read: the rest of the request is still on its way to a server that may take it
        // for the next one. Close.
        if sent.is_some_and(|sent| !sent.load(Ordering::Acquire)) {
            return;
        }
        if wire.sender.is_ready() {
            return idle.put(wire);
        }
        // The connection's task has not seen the end yet; it will within this turn of the runtime, or it is closing.
        tokio::spawn(async move {
            if wire.sender.ready().await.is_ok() {
                idle.put(wire);
            }
        });
    }
}

/// A response body that gives its connection back when it was read to its end.
pub struct PooledBody<B: Send + 'static> {
    body: Incoming,
    back: Option<Return<B>>,
}

impl<B: Send + 'static> PooledBody<B> {
    fn new(body: Incoming, back: Option<Return<B>>) -> PooledBody<B> {
        let mut pooled = PooledBody { body, back };
        pooled.check_end();
        pooled
    }

    fn check_end(&mut self) {
        if self.body.is_end_stream()
            && let Some(back) = self.back.take()
        {
            back.give_back();
        }
    }
}

impl<B: Send + 'static> Body for PooledBody<B> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(_)) => this.check_end(),
            // A broken body: the connection is closed with it.
            Some(Err(_)) => this.back = None,
            None => {
                if let Some(back) = this.back.take() {
                    back.give_back();
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Send + 'static> Unpin for PooledBody<B> {}
