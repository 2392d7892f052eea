//! A worker's connections to one upstream. One decision: `SendRequest` handles are kept by the worker that opened them, so a
//! request never changes threads and the locks around the idle lists are never contended.
//! Knows nothing of what is sent; repeats only what hyper hands back unsent, and connects that failed.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2;

use super::connect::{Connected, connect};
use super::server::{InFlight, Protocol, Server};
use super::wire::{self, One, Sendable};
use super::{ForwardError, Upstream, balance};

/// A connection older than this takes no further request: a name that leads elsewhere by now is followed.
const OLDEST: Duration = Duration::from_secs(300);

/// What the sender of a request learns of its body, and tells it.
pub trait Upload: Send + Sync {
    /// It was read to its end.
    fn is_done(&self) -> bool;
    /// It ended in an error, which is no fault of the server's.
    fn is_broken(&self) -> bool;
    /// Nobody wants the rest: let go of it, even where whoever sends it does not ask for more.
    fn abandon(&self);
}

/// A request body on its way. Dropped with the exchange: what is still being sent by then is wanted no more.
struct Sending(Option<Arc<dyn Upload>>);

impl Sending {
    fn is_done(&self) -> bool {
        self.0.as_ref().is_none_or(|body| body.is_done())
    }

    fn is_broken(&self) -> bool {
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

/// Connections to one upstream.
pub struct Pool<B> {
    upstream: Upstream,
    /// By server.
    wires: Vec<Arc<Wires<B>>>,
    turn: AtomicUsize,
}

/// Connections to one server.
struct Wires<B> {
    idle: Mutex<Vec<Idle<B>>>,
    most: usize,
    /// The one HTTP/2 connection. Held while it is being made, so that requests which come together share it.
    shared: tokio::sync::Mutex<Option<(http2::SendRequest<B>, Instant)>>,
}

struct Idle<B> {
    wire: One<B>,
    opened: Instant,
    since: Instant,
}

/// Either kind of connection, for one request.
enum Wire<B> {
    One { wire: One<B>, opened: Instant, reused: bool },
    Two { sender: http2::SendRequest<B>, reused: bool },
}

impl<B: Sendable> Pool<B> {
    /// An empty pool.
    pub fn new(upstream: Upstream) -> Pool<B> {
        let wires = || Wires {
            idle: Mutex::new(Vec::new()),
            most: upstream.idle_connections,
            shared: tokio::sync::Mutex::new(None),
        };
        let wires = upstream.servers.iter().map(|_| Arc::new(wires())).collect();
        Pool { upstream, wires, turn: AtomicUsize::new(0) }
    }

    /// The upstream's name.
    pub fn name(&self) -> &str {
        &self.upstream.name
    }

    /// Send and wait for the response head, no longer than `limit` or the upstream's own limit; `upload` is what the request's
    /// body tells, where it has one; `http1` where HTTP/2 would not do.
    ///
    /// # Errors
    /// [`ForwardError`]; the request may have reached the application for every variant but the `Connect` ones.
    pub async fn send(
        &self,
        request: Request<B>,
        upload: Option<Arc<dyn Upload>>,
        http1: bool,
        limit: Option<Duration>,
    ) -> Result<Response<PooledBody<B>>, ForwardError> {
        let limit = limit.unwrap_or(self.upstream.response_timeout);
        let answered = tokio::time::timeout(limit, self.exchange(request, Sending(upload), http1))
            .await
            .unwrap_or(Err(ForwardError::ResponseTimeout));
        self.upstream.outcomes.count(&answered);
        answered
    }

    async fn exchange(
        &self,
        mut request: Request<B>,
        sending: Sending,
        http1: bool,
    ) -> Result<Response<PooledBody<B>>, ForwardError> {
        let mut tried = Vec::new();
        let mut failure = None;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        while let Some(index) = balance::choose(&self.upstream.servers, &tried, turn) {
            let server = &self.upstream.servers[index];
            let running = server.begin();
            let mut wire = match self.wire(index, http1).await {
                Ok(wire) => wire,
                Err(error) => {
                    if error.is_failure() {
                        server.failed(self.upstream.ejection);
                    }
                    tried.push(index);
                    failure = Some(error);
                    continue;
                }
            };
            match wire.send(request, server).await {
                Ok(response) => {
                    server.answered();
                    let back = wire.after(&response, self.wires[index].clone());
                    let body = |body| PooledBody::new(body, Exchange { back, sending, _running: running });
                    return Ok(response.map(body));
                }
                Err(mut error) => match error.take_message() {
                    // Not a byte was written: the server closed the connection before we used it.
                    Some(unsent) if wire.is_reused() => request = unsent,
                    _ => {
                        // A client that breaks its upload off must not be able to take a server out.
                        if !sending.is_broken() {
                            server.failed(self.upstream.ejection);
                        }
                        return Err(ForwardError::Exchange(error.into_error()));
                    }
                },
            }
        }
        Err(failure.unwrap_or_else(|| ForwardError::ConnectTimeout(self.upstream.name.clone())))
    }

    /// A connection to one server: one that stands, or a new one.
    async fn wire(&self, index: usize, http1: bool) -> Result<Wire<B>, ForwardError> {
        let (server, wires) = (&self.upstream.servers[index], &self.wires[index]);
        if let Some(Idle { wire, opened, .. }) = wires.take(self.upstream.idle_timeout) {
            return Ok(Wire::One { wire, opened, reused: true });
        }
        if http1 || matches!(server.protocol, Protocol::Http1) {
            if http1 && matches!(server.protocol, Protocol::H2c) {
                return Err(ForwardError::NoUpgrade(server.address.to_string()));
            }
            let wire = wire::one(self.connect(server, true).await?).await?;
            return Ok(Wire::One { wire, opened: Instant::now(), reused: false });
        }
        let mut shared = wires.shared.lock().await;
        let usable =
            |(sender, opened): &&(http2::SendRequest<B>, Instant)| !sender.is_closed() && opened.elapsed() < OLDEST;
        if let Some((sender, _)) = shared.as_ref().filter(usable) {
            return Ok(Wire::Two { sender: sender.clone(), reused: true });
        }
        *shared = None;
        let connected = self.connect(server, false).await?;
        if connected.http2 {
            let sender = wire::two(connected).await?;
            *shared = Some((sender.clone(), Instant::now()));
            return Ok(Wire::Two { sender, reused: false });
        }
        // A server that chose HTTP/1.1: its connections are made side by side from here on.
        drop(shared);
        Ok(Wire::One { wire: wire::one(connected).await?, opened: Instant::now(), reused: false })
    }

    async fn connect(&self, server: &Server, http1: bool) -> Result<Connected, ForwardError> {
        // Apart, because it is rare and large: every request keeps room for what is awaited in place.
        match Box::pin(tokio::time::timeout(self.upstream.connect_timeout, connect(server, http1))).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(source)) => Err(ForwardError::Connect { server: server.address.to_string(), source }),
            Err(_) => Err(ForwardError::ConnectTimeout(server.address.to_string())),
        }
    }
}

type Sent<B> = Result<Response<Incoming>, hyper::client::conn::TrySendError<Request<B>>>;

impl<B: Sendable> Wire<B> {
    async fn send(&mut self, mut request: Request<B>, server: &Server) -> Sent<B> {
        match self {
            Wire::One { wire, .. } => {
                wire::as_one(&mut request);
                wire.sender.try_send_request(request).await
            }
            Wire::Two { sender, .. } => {
                wire::as_two(&mut request, matches!(server.protocol, Protocol::Tls(_)));
                sender.try_send_request(request).await
            }
        }
    }

    fn is_reused(&self) -> bool {
        match self {
            Wire::One { reused, .. } | Wire::Two { reused, .. } => *reused,
        }
    }

    /// What becomes of the connection when the answer is done.
    fn after(self, response: &Response<Incoming>, wires: Arc<Wires<B>>) -> Option<Return<B>> {
        match self {
            Wire::One { wire, .. } if response.status() == http::StatusCode::SWITCHING_PROTOCOLS => {
                // From here on the connection is the tunnel's.
                wire.release();
                None
            }
            Wire::One { wire, opened, .. } => Some(Return { wire, opened, wires }),
            Wire::Two { .. } => None,
        }
    }
}

impl<B> Wires<B> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Idle<B>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last is the likeliest to live; the stale ones below it go with the first stale one found.
    fn take(&self, idle_timeout: Duration) -> Option<Idle<B>> {
        let mut idle = self.lock();
        let now = Instant::now();
        while let Some(found) = idle.pop() {
            if now.duration_since(found.since) > idle_timeout {
                idle.clear();
                return None;
            }
            if found.wire.sender.is_ready() {
                return Some(found);
            }
        }
        None
    }

    fn put(&self, wire: One<B>, opened: Instant) {
        let now = Instant::now();
        if now.duration_since(opened) >= OLDEST {
            return;
        }
        let mut idle = self.lock();
        if idle.len() >= self.most {
            if idle.is_empty() {
                return;
            }
            idle.remove(0);
        }
        idle.push(Idle { wire, opened, since: now });
    }
}

/// What brings a connection back to its pool.
struct Return<B> {
    wire: One<B>,
    opened: Instant,
    wires: Arc<Wires<B>>,
}

impl<B: Send + 'static> Return<B> {
    fn give_back(self) {
        let Return { mut wire, opened, wires } = self;
        if wire.sender.is_ready() {
            return wires.put(wire, opened);
        }
        // The connection's task has not seen the end yet; it will within this turn of the runtime, or it is closing.
        tokio::spawn(async move {
            if wire.sender.ready().await.is_ok() {
                wires.put(wire, opened);
            }
        });
    }
}

/// What lives as long as an answer's body.
struct Exchange<B> {
    back: Option<Return<B>>,
    sending: Sending,
    _running: InFlight,
}

/// A response body that gives its connection back when it was read to its end.
pub struct PooledBody<B: Send + 'static> {
    body: Incoming,
    exchange: Option<Exchange<B>>,
}

impl<B: Send + 'static> PooledBody<B> {
    fn new(body: Incoming, exchange: Exchange<B>) -> PooledBody<B> {
        let mut pooled = PooledBody { body, exchange: Some(exchange) };
        if pooled.body.is_end_stream() {
            pooled.end();
        }
        pooled
    }

    fn end(&mut self) {
        let Some(Exchange { back: Some(back), sending, .. }) = self.exchange.take() else { return };
        // An answer before the request was read: the rest of the request is still on its way to a server that may take it
        // for the next one. Close.
        if sending.is_done() {
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
            Some(Ok(_)) if !this.body.is_end_stream() => {}
            // A broken body: the connection is closed with it.
            Some(Err(_)) => this.exchange = None,
            _ => this.end(),
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
