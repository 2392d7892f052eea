//! A worker's connections to one upstream. One decision: connections are kept by the worker that opened them, so a request
//! never changes threads and the locks around the idle lists are never contended.
//! Knows nothing of what is sent; repeats connects that failed, what was not sent at all, and once what the server says it did not process,
//! or what may be said twice and was sent on a kept connection that the server was closing at that moment.

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use http::Response;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use tokio::time::timeout_at;

use crate::causes;
use crate::seldom::{Alarms, Until};
use crate::task::task;

use super::connect::{Connected, connect};
use super::one::{Answer, One, Sendable, Unanswered, Usual};
use super::pooled::{PooledBody, Return, Sending, Upload};
use super::request::Head;
use super::server::{InFlight, Protocol, Server};
use super::shared::{Place, Shared};
use super::wire::Two;
use super::{ForwardError, Upstream, balance, is_unprocessed};

/// A connection older than this takes no further request: a name that leads elsewhere by now is followed.
pub(super) const OLDEST: Duration = Duration::from_secs(300);

/// Connections to one upstream.
pub struct Pool<B: Sendable> {
    upstream: Upstream,
    /// By server.
    wires: Vec<Wires<B>>,
    turn: AtomicUsize,
}

/// How long the head of an answer may take before the request is watched like anything else that is open. An application that
/// answers when something happens may take an hour, and an upload may; most answer sooner, and need not be registered.
const UNWATCHED: Duration = Duration::from_secs(1);

/// Which server may have seen something of a request: known as well to whoever gives it up.
#[derive(Debug)]
pub struct Reached {
    server: AtomicUsize,
    /// After so many of its outages.
    began: AtomicU32,
}

impl Default for Reached {
    fn default() -> Reached {
        Reached { server: AtomicUsize::new(usize::MAX), began: AtomicU32::new(0) }
    }
}

impl Reached {
    /// Whether it was any.
    pub fn is_any(&self) -> bool {
        self.server.load(Ordering::Relaxed) != usize::MAX
    }

    fn set(&self, index: usize, began: u32) {
        self.server.store(index, Ordering::Relaxed);
        self.began.store(began, Ordering::Relaxed);
    }

    /// Nothing was sent after all.
    fn unset(&self) {
        self.server.store(usize::MAX, Ordering::Relaxed);
    }
}

/// How a response head is waited for.
pub struct Waiting<'w, F> {
    /// Now: the clock is read once for all that is asked of it.
    pub from: Instant,
    /// No longer than this, or than the upstream's own limit.
    pub limit: Option<Duration>,
    /// Its client's connection carries no other request.
    pub alone: bool,
    /// What else may come, made and looked at when the answer does not come soon.
    pub beside: Option<F>,
    /// Those of its client's connection.
    pub alarms: &'w Alarms,
    /// Told how far it came.
    pub reached: &'w Reached,
}

/// Connections to one server.
struct Wires<B: Sendable> {
    idle: Arc<IdleWires>,
    shared: Shared<B>,
    usual: Usual,
}

/// What a burst needed beyond the idle connections that are kept is closed after this: the next wave of the same burst would only
/// open it again, which costs both sides more than a request. How often connections that are not used are looked at.
pub(super) const SURPLUS: Duration = Duration::from_secs(1);

/// Connections that wait for a request.
pub(super) struct IdleWires {
    list: Mutex<List>,
    most: usize,
    timeout: Duration,
}

#[derive(Default)]
struct List {
    /// The one used last stands last.
    idle: Vec<Idle>,
    /// Somebody looks after them.
    tended: bool,
    /// No request will come any more: none is kept.
    retired: bool,
}

struct Idle {
    one: Box<One>,
    opened: Instant,
    since: Instant,
}

/// Either kind of connection, for one request.
enum Wire<B> {
    One { one: Box<One>, opened: Instant, reused: bool },
    Two { sender: http2::SendRequest<B>, place: Place, reused: bool },
}

impl<B: Sendable> Pool<B> {
    /// An empty pool.
    pub fn new(upstream: Upstream) -> Pool<B> {
        let wires = || Wires {
            idle: Arc::new(IdleWires {
                list: Mutex::default(),
                most: upstream.idle_connections,
                timeout: upstream.idle_timeout,
            }),
            shared: Shared::new(upstream.idle_timeout),
            usual: Usual::default(),
        };
        let wires = upstream.servers.iter().map(|_| wires()).collect();
        Pool { upstream, wires, turn: AtomicUsize::new(0) }
    }

    /// Whether these are connections to this very upstream: to the same servers, which are shared only where nothing of it changed.
    pub fn is_of(&self, upstream: &Upstream) -> bool {
        let mut both = self.upstream.servers.iter().zip(&upstream.servers);
        self.wires.len() == upstream.servers.len() && both.all(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// No request will come any more: close what is idle now, and every other connection with the answer that it carries.
    pub fn retire(&self) {
        for wires in &self.wires {
            let mut list = wires.idle.lock();
            list.retired = true;
            list.idle.clear();
            drop(list);
            // One that is being made at this moment has a request that waits for it, and goes with this pool.
            wires.shared.clear();
        }
    }

    /// The upstream's name.
    pub fn name(&self) -> &str {
        &self.upstream.name
    }

    /// Send and wait for the response head; `upload` is what the body tells, where it has one; `http1` where HTTP/2 would not do. A
    /// body's default is none.
    ///
    /// # Errors
    /// What was waited for beside it and came first; the lines of the request are gone once they are written. Within, a
    /// [`ForwardError`]: the request may have reached the application for every variant but the `Connect` ones.
    pub async fn send<W: Future>(
        &self,
        (head, body): (&mut Head<'_>, B),
        upload: Option<Arc<dyn Upload>>,
        http1: bool,
        waiting: Waiting<'_, impl FnOnce() -> W>,
    ) -> Result<Result<Response<PooledBody>, ForwardError>, W::Output>
    where
        B: Default,
    {
        let Waiting { from, limit, alone, beside, alarms, reached } = waiting;
        let limit = limit.unwrap_or(self.upstream.response_timeout);
        let outcome = self.upstream.outcomes.begin();
        let sent = upload.clone();
        // A client that sends slowly, or stops, has limits of its own.
        let end = || sent.as_ref().map_or(from, |upload| upload.waited_until().max(from)) + limit;
        let mut exchange = std::pin::pin!(self.exchange((head, body), Sending(upload), (http1, alone), from, reached));
        // One timer for both: most are answered before either is needed.
        let first = if beside.is_some() { limit.min(UNWATCHED) } else { limit };
        let mut answered = before(alarms.until(from + first), exchange.as_mut()).await;
        if answered.is_none() {
            // Apart, because it is rare: every connection keeps room for what is awaited in place.
            answered = Box::pin(async {
                let beside = async {
                    match beside {
                        Some(beside) => beside().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    answered = by(end, exchange) => Ok(answered),
                    came = beside => Err(came),
                }
            })
            .await?;
        }
        let answered = answered.unwrap_or_else(|| {
            // A server that takes requests and says nothing, or takes nothing, is no better than one that refuses them.
            if let Some(server) = self.upstream.servers.get(reached.server.load(Ordering::Relaxed)) {
                server.failed(reached.began.load(Ordering::Relaxed), self.upstream.ejection);
            }
            Err(ForwardError::ResponseTimeout)
        });
        outcome.tell(&answered);
        Ok(answered)
    }

    async fn exchange(
        &self,
        (head, mut body): (&mut Head<'_>, B),
        sending: Sending,
        (http1, alone): (bool, bool),
        from: Instant,
        reached: &Reached,
    ) -> Result<Response<PooledBody>, ForwardError>
    where
        B: Default,
    {
        let (mut tried, mut failure, mut repeated) = (Vec::new(), None, false);
        // Nothing of the request goes with a connection that is lost.
        let is_whole = body.is_end_stream();
        // RFC 9110 §9.2.2: what changes nothing may be said twice; RFC 9112 §9.3.1: where the connection closed before it was answered.
        let once_more = head.method.is_safe() && is_whole;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        while let Some(index) = balance::choose(&self.upstream.servers, &tried, turn) {
            let server = &self.upstream.servers[index];
            let running = server.begin();
            let wire = match self.wire(index, (http1, repeated, alone), from).await {
                Ok(wire) => wire,
                Err(error) => {
                    if error.is_failure() {
                        running.failed(self.upstream.ejection);
                    }
                    tried.push(index);
                    failure = Some(error);
                    continue;
                }
            };
            reached.set(index, running.began());
            let sent = std::mem::take(&mut body);
            let lost = match wire {
                Wire::One { one, opened, reused } => {
                    match over_one(one, (head, sent), once_more && !repeated && reused).await {
                        Ok(answered) => {
                            running.answered();
                            let back = Return::new(self.wires[index].idle.clone(), opened);
                            return Ok(PooledBody::answered(answered, back, sending, running));
                        }
                        Err(lost) => lost,
                    }
                }
                Wire::Two { sender, place, reused } => {
                    let again =
                        Again { unanswered: once_more && reused && !repeated, unprocessed: is_whole && !repeated };
                    match over_two(sender, (head, sent), (server, reached), again, reused).await {
                        Ok(answered) => {
                            running.answered();
                            return Ok(answered.map(|body| PooledBody::two(body, place, sending, running)));
                        }
                        Err(lost) => lost,
                    }
                }
            };
            match lost {
                Lost::Unwritten(unsent) => {
                    reached.unset();
                    body = unsent;
                }
                Lost::Unanswered(error) => {
                    tracing::debug!(server = %server.address, error = causes::line(&error), "a connection was closing: asked once more");
                    repeated = true;
                }
                Lost::Failed(error) => return Err(self.failed(&running, &sending, reached, error)),
            }
        }
        Err(failure.unwrap_or_else(|| ForwardError::ConnectTimeout(self.upstream.name.clone())))
    }

    /// What is held against a server. A client that breaks its upload off must not be able to take one out.
    fn failed(&self, running: &InFlight, sending: &Sending, reached: &Reached, error: ForwardError) -> ForwardError {
        if error.is_unsent() || matches!(error, ForwardError::Full(_)) {
            reached.unset();
        }
        if !sending.is_broken() && !error.is_broken_upload() && error.is_failure() {
            running.failed(self.upstream.ejection);
        }
        error
    }

    /// A connection to one server: one that stands, or a new one. An HTTP/1.1 one is new in any case for what one that stood has lost.
    async fn wire(
        &self,
        index: usize,
        (http1, repeated, alone): (bool, bool, bool),
        from: Instant,
    ) -> Result<Wire<B>, ForwardError> {
        let (server, wires) = (&self.upstream.servers[index], &self.wires[index]);
        if !repeated && let Some(Idle { one, opened, .. }) = wires.idle.take(from) {
            return Ok(Wire::One { one, opened, reused: true });
        }
        if http1 || matches!(server.protocol, Protocol::Http1) {
            if http1 && matches!(server.protocol, Protocol::H2c) {
                return Err(ForwardError::NoUpgrade(server.address.to_string()));
            }
            let one = One::new(self.connect(server, true, alone).await?.io, wires.usual.clone());
            return Ok(Wire::One { one, opened: Instant::now(), reused: false });
        }
        if let Some((sender, place)) = wires.shared.take() {
            return Ok(Wire::Two { sender, place, reused: true });
        }
        // Apart, because it is rare and large: every request keeps room for what is awaited in place.
        let found = tokio::time::timeout(self.upstream.connect_timeout, self.find(server, wires, alone));
        let found =
            Box::pin(found).await.unwrap_or_else(|_| Err(ForwardError::ConnectTimeout(server.address.to_string())));
        // Where some stand, and are full, nothing is wrong with the server.
        found
            .map_err(|error| if wires.shared.stands() { ForwardError::Full(server.address.to_string()) } else { error })
    }

    /// A place on a connection that others share, as soon as there is one, or on a new one.
    async fn find(&self, server: &Server, wires: &Wires<B>, alone: bool) -> Result<Wire<B>, ForwardError> {
        let shared = &wires.shared;
        if shared.chose_one.load(Ordering::Relaxed)
            && let Some(wire) = self.open(server, wires, alone).await?
        {
            return Ok(wire);
        }
        loop {
            let making = tokio::select! {
                making = shared.making.lock() => Some(making),
                () = shared.left() => None,
            };
            if let Some((sender, place)) = shared.take() {
                return Ok(Wire::Two { sender, place, reused: true });
            }
            let Some(making) = making else { continue };
            if shared.may_grow() {
                match self.open(server, wires, alone).await {
                    Ok(Some(wire)) => return Ok(wire),
                    Err(error) if !shared.stands() => return Err(error),
                    // A place on one that stands will do.
                    Ok(None) | Err(_) => {}
                }
            }
            drop(making);
            shared.left().await;
        }
    }

    /// A new connection; `None` where it speaks HTTP/2 and has no place.
    async fn open(&self, server: &Server, wires: &Wires<B>, alone: bool) -> Result<Option<Wire<B>>, ForwardError> {
        let Wires { shared, usual, .. } = wires;
        let connected = self.connect(server, false, alone).await?;
        shared.chose_one.store(!connected.http2, Ordering::Relaxed);
        if !connected.http2 {
            let one = One::new(connected.io, usual.clone());
            return Ok(Some(Wire::One { one, opened: Instant::now(), reused: false }));
        }
        let failed = |source| ForwardError::Connect { server: server.address.to_string(), source };
        let two = Two::new(connected).await.map_err(failed)?;
        Ok(shared.add(two).map(|(sender, place)| Wire::Two { sender, place, reused: false }))
    }

    async fn connect(&self, server: &Server, http1: bool, alone: bool) -> Result<Connected, ForwardError> {
        let Some(descriptor) = self.upstream.sockets.take(alone) else {
            return Err(ForwardError::NoDescriptor(server.address.to_string()));
        };
        // Apart, because it is rare and large: every request keeps room for what is awaited in place.
        match Box::pin(tokio::time::timeout(self.upstream.connect_timeout, connect(server, http1, Some(descriptor))))
            .await
        {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(source)) => Err(ForwardError::Connect { server: server.address.to_string(), source }),
            Err(_) => Err(ForwardError::ConnectTimeout(server.address.to_string())),
        }
    }
}

/// Wait for it until then.
async fn before<F: Future>(mut until: Until<'_>, mut what: Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|cx| match what.as_mut().poll(cx) {
        Poll::Ready(came) => Poll::Ready(Some(came)),
        Poll::Pending => Pin::new(&mut until).poll(cx).map(|()| None),
    })
    .await
}

/// Wait to an end that moves while one waits.
async fn by<F: Future>(end: impl Fn() -> Instant, mut what: Pin<&mut F>) -> Option<F::Output> {
    loop {
        let until = end();
        match timeout_at(until.into(), what.as_mut()).await {
            Err(_) if end() > until => {}
            ended => return ended.ok(),
        }
    }
}

/// What a request came to that has no answer.
enum Lost<B> {
    /// Not a byte was written: the server closed the connection before we used it.
    Unwritten(B),
    /// The connection closed before any of the answer came, and the request may be said once more.
    Unanswered(ForwardError),
    /// That was it.
    Failed(ForwardError),
}

async fn over_one<B: Sendable>(
    mut one: Box<One>,
    (head, body): (&mut Head<'_>, B),
    may_repeat: bool,
) -> Result<Response<Answer>, Lost<B>> {
    let begun = one.begin(head, body);
    if !may_repeat {
        // Written, and not kept while the answer is waited for.
        head.lines = Vec::new();
    }
    one.answer(begun).await.map_err(|Unanswered { broken, heard }| {
        let error = ForwardError::Exchange(broken.into());
        if may_repeat && !heard { Lost::Unanswered(error) } else { Lost::Failed(error) }
    })
}

/// When a request may be said once more.
#[derive(Clone, Copy)]
struct Again {
    /// Where its connection ended before it was answered.
    unanswered: bool,
    /// Where the server says that it processed nothing of it.
    unprocessed: bool,
}

async fn over_two<B: Sendable>(
    mut sender: http2::SendRequest<B>,
    (head, body): (&Head<'_>, B),
    (server, reached): (&Server, &Reached),
    again: Again,
    reused: bool,
) -> Result<Response<Incoming>, Lost<B>> {
    let sent = head.as_two(body, matches!(server.protocol, Protocol::Tls(_)));
    sender.try_send_request(sent).await.map_err(|mut error| match error.take_message() {
        Some(unsent) if reused => Lost::Unwritten(unsent.into_body()),
        unsent => {
            let error = error.into_error();
            let is_unprocessed = causes::of(&error).any(|cause| cause.downcast_ref().is_some_and(is_unprocessed));
            let error = ForwardError::of_two(error, server);
            if unsent.is_some() || is_unprocessed {
                reached.unset();
            }
            let may_repeat = unsent.is_none()
                && (again.unprocessed && is_unprocessed || again.unanswered && error.is_of_connection());
            if may_repeat { Lost::Unanswered(error) } else { Lost::Failed(error) }
        }
    })
}

impl IdleWires {
    fn lock(&self) -> std::sync::MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last is the likeliest to live; the stale ones below it go with the first stale one found.
    fn take(&self, now: Instant) -> Option<Idle> {
        let mut list = self.lock();
        while let Some(mut found) = list.idle.pop() {
            if now.duration_since(found.since) > self.timeout {
                list.idle.clear();
                return None;
            }
            if found.one.is_usable() {
                return Some(found);
            }
        }
        None
    }

    /// Keep one for the next request.
    pub(super) fn put(self: &Arc<Self>, one: Box<One>, opened: Instant) {
        let now = Instant::now();
        if now.duration_since(opened) >= OLDEST || self.most == 0 {
            return;
        }
        let mut list = self.lock();
        if list.retired {
            return;
        }
        list.idle.push(Idle { one, opened, since: now });
        if !list.tended {
            list.tended = true;
            tokio::spawn(task(tend(Arc::downgrade(self))));
        }
    }

    /// Close what the server closed or spoke on, what idled too long, and of what is not used any more the oldest down to what is kept;
    /// whether there is one left. An application that serves one connection at a time waits for the end of each.
    fn trim(&self) -> bool {
        let mut list = self.lock();
        let now = Instant::now();
        list.idle.retain_mut(|idle| now.duration_since(idle.since) <= self.timeout && idle.one.is_usable());
        let unused = list.idle.partition_point(|idle| now.duration_since(idle.since) >= SURPLUS);
        let closed = unused.min(list.idle.len().saturating_sub(self.most));
        list.idle.drain(..closed);
        list.tended = !list.idle.is_empty();
        list.tended
    }
}

/// Looks after connections that are not used, while there are any.
async fn tend(wires: Weak<IdleWires>) {
    loop {
        tokio::time::sleep(SURPLUS).await;
        if !wires.upgrade().is_some_and(|wires| wires.trim()) {
            return;
        }
    }
}
