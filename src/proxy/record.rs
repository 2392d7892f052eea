//! The record of a request: one line, exactly once, written when the response body ends or is dropped, or when the request is given
//! up before there is a response: whoever asks and leaves is not to go unseen. One decision: the line is built from stable names and
//! the canonical path; a query string, a cookie, a credential has no field to stand in. Until then nothing is formatted: what
//! is recorded is shared with the request. Knows nothing of where lines are kept.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, StatusCode, Uri, Version};
use serde::Serialize;

use crate::clock::{Clock, Timestamp};
use crate::policy::{Asked, Caller, Rejection, RequestHead, Route};
use crate::token::Tell;
use crate::upstream::Reached;

use super::busy::Exchange;
use super::line::{LineBuffer, key};
use super::request_id::RequestId;
use super::traffic::Outcome;
use super::watch::Cut;
use super::{Connection, Runtime, Worker};

/// The status of a request whose client did not wait for one: no answer has it; operators know it from other proxies' logs.
const LEFT: u16 = 499;

/// Of a method that nobody knows, so much.
const METHOD_BYTES: usize = 32;
/// Of a path. Over HTTP/2 a long one is sent once and named by a byte in each request that follows: a client would write three hundred
/// times what it sends, and push lines of others out of what waits to be written (CWE-400).
const PATH_BYTES: usize = 1024;

/// Where lines go: the access log and the audit.
pub trait Records: Send + Sync + 'static {
    /// Keep one line, without its newline. Must not wait: a request's worker calls it.
    fn line(&self, line: &str);

    /// How lines are to look.
    fn format(&self) -> Format {
        Format::Json
    }

    /// How many lines could not be kept.
    fn lost(&self) -> u64 {
        0
    }

    /// How many of what the gateway says of itself could not be.
    fn messages_lost(&self) -> u64 {
        0
    }
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object.
    Json,
    /// For eyes.
    Text,
}

/// What is known of a request.
#[derive(Debug)]
pub struct Record {
    /// When it began.
    pub at: Timestamp,
    /// Its id.
    pub id: RequestId,
    /// The client's address.
    pub peer: HeaderValue,
    /// What the client spoke.
    pub version: Version,
    /// Method.
    pub method: Method,
    /// Host and path, canonical; `None` where the head was refused.
    pub target: Option<(Box<str>, Uri)>,
    /// Route.
    pub route: Option<Arc<Route>>,
    /// Whether the route's upstream may have seen something of it, and how long the response head took.
    pub upstream: Option<Duration>,
    /// Since when the upstream's response head is waited for, while it is.
    pub waits: Option<Instant>,
    /// How far it came there.
    pub reached: Reached,
    /// What was done.
    pub decision: Outcome,
    /// Why, a stable name.
    pub reason: &'static str,
    /// Who.
    pub caller: Option<Arc<Caller>>,
    /// Status.
    pub status: u16,
    /// Response body bytes.
    pub bytes: u64,
    /// Whether the body reached its end: `complete`, `aborted` (the client left), `broken` (the application broke off), or why it
    /// was cut ([`Cut::as_str`]).
    pub body: &'static str,
}

impl Record {
    /// Of a request that begins now. As it stands it is that of one whose client left before anything was decided.
    pub fn new(at: Timestamp, id: RequestId, peer: HeaderValue, version: Version, method: Method) -> Record {
        Record {
            at,
            id,
            peer,
            version,
            method,
            target: None,
            route: None,
            upstream: None,
            waits: None,
            reached: Reached::default(),
            decision: Outcome::Refuse,
            reason: "client_left",
            caller: None,
            status: LEFT,
            bytes: 0,
            body: "aborted",
        }
    }

    /// The upstream's response head came, or will not.
    pub fn waited(&mut self) {
        if let Some(since) = self.waits.take() {
            self.upstream = self.reached.is_any().then(|| since.elapsed());
        }
    }

    /// Of a request whose head was read.
    pub fn read(&mut self, head: &RequestHead<'_>, uri: &Uri) {
        self.target = Some((head.host.as_str().into(), uri.clone()));
    }
}

/// Record a request that this status answered before anybody could read it: who looks for a way in begins with those.
pub fn unreadable(worker: Arc<Worker>, connection: &Connection, status: StatusCode) {
    let (now, id) = (worker.runtime.clock.now(), worker.ids.next());
    // A token like any other, and no method.
    let method = Method::from_bytes(b"-").unwrap_or_default();
    let reason = if status == StatusCode::BAD_REQUEST { "head_malformed" } else { "head_too_large" };
    let record = Record::new(now, id, connection.shown.clone(), Version::HTTP_11, method);
    let record = Record { reason, status: status.as_u16(), body: "complete", ..record };
    drop(Recorder::new(worker, Instant::now(), record, connection.busy.begin()));
}

/// Counts the request and writes the record when it is dropped.
pub struct Recorder {
    worker: Arc<Worker>,
    started: Instant,
    record: Box<Record>,
    _busy: Exchange,
}

impl Recorder {
    /// A recorder for a request that began at `started`; its connection is busy as long as it lives.
    pub fn new(worker: Arc<Worker>, started: Instant, record: Record, busy: Exchange) -> Recorder {
        Recorder { worker, started, record: Box::new(record), _busy: busy }
    }

    /// The record, while the request is on its way, and the worker.
    pub fn record(&mut self) -> (&mut Record, &Arc<Worker>) {
        (&mut self.record, &self.worker)
    }

    /// The worker that it began on.
    pub fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }

    /// Whether there is another configuration than the one it began with.
    pub fn is_outdated(&self) -> bool {
        self.worker.current.number() != self.worker.runtime.number
    }

    /// The route, of what was forwarded.
    pub fn route(&self) -> Option<&Arc<Route>> {
        self.record.route.as_ref()
    }

    /// What was asked for.
    pub fn asked(&self) -> Asked {
        let (host, path) = target(&self.record);
        Asked::new(&self.record.method, host, path, self.record.at.since_epoch())
    }

    /// Bytes went out.
    pub fn count(&mut self, bytes: u64) {
        self.record.bytes += bytes;
    }

    /// The body reached its end.
    pub fn complete(&mut self) {
        self.record.body = "complete";
    }

    /// The gateway cut it.
    pub fn cut(&mut self, cut: Cut) {
        self.record.body = cut.as_str();
    }

    /// The application broke off.
    pub fn broke(&mut self) {
        self.record.body = "broken";
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let (took, record, worker) = (self.started.elapsed(), &mut *self.record, &*self.worker);
        // Where it was given up there.
        record.waited();
        let route = record.route.as_ref().map(|route| route.index);
        worker.tally.add(route, record.decision, record.status, took);
        if worker.runtime.access_log {
            let mut buffer = worker.line.lock().unwrap_or_else(PoisonError::into_inner);
            match worker.runtime.records.format() {
                Format::Json => json(&mut buffer, record, worker, took),
                Format::Text => text(&mut buffer, record, took),
            }
            worker.runtime.records.line(buffer.text());
        }
    }
}

fn json(buffer: &mut LineBuffer, record: &Record, worker: &Worker, took: Duration) {
    // So that audit lines in the same stream are told apart.
    let mut line = buffer.json("access");
    line.time(key!("time"), record.at);
    line.word(key!("request_id"), record.id.as_str());
    line.word(key!("peer"), record.peer.to_str().unwrap_or_default());
    line.word(key!("protocol"), if record.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" });
    line.text(key!("method"), shortened(record.method.as_str()));
    let (host, path) = target(record);
    line.text(key!("host"), host);
    let shown = beginning(path);
    line.text(key!("path"), shown);
    if shown.len() < path.len() {
        line.number(key!("path_bytes"), path.len() as u64);
    }
    if let Some(route) = &record.route {
        line.text(key!("route"), &route.name);
        if record.upstream.is_some() {
            line.text(key!("upstream"), worker.pools[route.upstream.0].name());
        }
    }
    line.word(key!("decision"), record.decision.as_str());
    line.word(key!("reason"), record.reason);
    if let Some(caller) = &record.caller {
        line.text(key!("subject"), caller.headers.subject());
    }
    line.number(key!("status"), record.status.into());
    line.number(key!("bytes"), record.bytes);
    if let Some(took) = record.upstream {
        line.milliseconds(key!("upstream_ms"), took);
    }
    line.milliseconds(key!("total_ms"), took);
    line.word(key!("body"), record.body);
    line.end();
}

fn text(buffer: &mut LineBuffer, record: &Record, took: Duration) {
    let (host, path) = target(record);
    let shown = beginning(path);
    let rest = if shown.len() < path.len() { "…" } else { "" };
    let _ = write!(
        buffer.plain(record.at),
        " {} {host}{shown}{rest} {} {} {} {} {} {}.{}ms {}B {} {}",
        shortened(record.method.as_str()),
        record.status,
        record.decision.as_str(),
        record.reason,
        record.caller.as_ref().map_or("-", |caller| caller.headers.subject()),
        record.route.as_ref().map_or("-", |route| &route.name),
        took.as_millis(),
        took.subsec_micros() % 1000 / 100,
        record.bytes,
        record.peer.to_str().unwrap_or_default(),
        record.id,
    );
}

fn target(record: &Record) -> (&str, &str) {
    record.target.as_ref().map_or(("", ""), |(host, uri)| (host, uri.path()))
}

fn beginning(path: &str) -> &str {
    if path.len() <= PATH_BYTES {
        return path;
    }
    let end = (0..=PATH_BYTES).rfind(|end| path.is_char_boundary(*end));
    &path[..end.unwrap_or_default()]
}

fn shortened(method: &str) -> &str {
    // A method is a token, ASCII throughout (RFC 9110 §9.1).
    method.get(..METHOD_BYTES).unwrap_or(method)
}

/// An audit line: a sign-in, a sign-out, a refusal of one.
#[derive(Debug, Serialize)]
pub struct AuditLine<'r> {
    /// `audit`.
    pub kind: &'static str,
    /// RFC 3339, milliseconds.
    pub time: String,
    /// The request.
    pub request_id: String,
    /// The client's address.
    pub peer: String,
    /// A stable name.
    pub event: &'r str,
    /// Who, as far as known: what they are called where they sign in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<&'r str>,
    /// Where they sign in – `local`, or an issuer –, or who issues their tokens, where that was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<&'r str>,
    /// What applications are told as their name, where that is another word: lines of requests have it as their subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'r str>,
    /// Why, a stable name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'r str>,
}

impl<'r> AuditLine<'r> {
    /// What a request did, that this client sent.
    pub fn of_request(event: &'r str, (id, peer): (RequestId, IpAddr), now: Timestamp) -> AuditLine<'r> {
        let (request_id, peer) = (id.to_string(), peer.to_string());
        let (subject, provider, user, reason) = (None, None, None, None);
        AuditLine { kind: "audit", time: time(now), request_id, peer, event, subject, provider, user, reason }
    }

    /// What an operator did, to whom.
    pub fn of_operator(event: &'r str, subject: &'r str, now: Timestamp) -> AuditLine<'r> {
        let (request_id, peer) = ("-".to_owned(), "operator".to_owned());
        let (subject, provider, user, reason) = (Some(subject), None, None, None);
        AuditLine { kind: "audit", time: time(now), request_id, peer, event, subject, provider, user, reason }
    }
}

/// Write an audit line.
pub fn audit(records: &dyn Records, line: &AuditLine<'_>) {
    write(records, line, |line| {
        let (subject, reason) = (line.subject.unwrap_or("-"), line.reason.unwrap_or("-"));
        let word = |word, what: Option<&str>| what.map(|what| format!(" {word} {what}")).unwrap_or_default();
        let (provider, user) = (word("at", line.provider), word("as", line.user));
        let AuditLine { time, event, peer, request_id, .. } = line;
        format!("{time} audit {event} {subject}{provider}{user} {reason} {peer} {request_id}")
    });
}

/// Writes down that a refresh token came again and ended its session: whoever it was stolen from is to be told. The gateway's stop waits
/// for it.
pub fn reuse(worker: &Arc<Worker>, by: (RequestId, IpAddr), now: Timestamp) -> impl Fn() -> Tell {
    move || {
        let (runtime, waited_for) = (worker.runtime.clone(), worker.acts.token());
        Box::new(move |who, is_done| {
            let event = if is_done { "session_ended" } else { "session_end_unfinished" };
            let line = AuditLine::of_request(event, by, now);
            let (subject, provider) = (Some(&*who.subject), Some(&*who.provider));
            let (user, reason) = (who.user.as_deref(), Some(Rejection::Reused.as_str()));
            audit(&*runtime.records, &AuditLine { subject, provider, user, reason, ..line });
            drop(waited_for);
        })
    }
}

/// The end of a WebSocket, written when this is dropped: the line of the request that opened it was written when it stood. It holds
/// nothing of the configuration that it began with.
pub struct TunnelRecord {
    records: Option<Arc<dyn Records>>,
    clock: Arc<dyn Clock>,
    id: RequestId,
    began: Instant,
    /// Bytes that the client sent, and that it was sent.
    pub bytes: [AtomicU64; 2],
    why: &'static str,
}

#[derive(Serialize)]
struct TunnelLine {
    kind: &'static str,
    time: String,
    request_id: String,
    end: &'static str,
    received: u64,
    sent: u64,
    total_ms: f64,
}

impl TunnelRecord {
    /// Of one that begins now.
    pub fn new(runtime: &Runtime, id: RequestId) -> TunnelRecord {
        let records = runtime.access_log.then(|| runtime.records.clone());
        let (clock, began, bytes) = (runtime.clock.clone(), Instant::now(), [const { AtomicU64::new(0) }; 2]);
        TunnelRecord { records, clock, id, began, bytes, why: "aborted" }
    }

    /// It came to its end by this, a stable name.
    pub fn ended(mut self, why: &'static str) {
        self.why = why;
    }
}

impl Drop for TunnelRecord {
    fn drop(&mut self) {
        let Some(records) = &self.records else { return };
        let (time, request_id) = (time(self.clock.now()), self.id.to_string());
        let [received, sent] = self.bytes.each_ref().map(|bytes| bytes.load(Ordering::Relaxed));
        // To three places, as everywhere in the log.
        let total_ms = self.began.elapsed().as_micros() as f64 / 1000.0;
        let line = TunnelLine { kind: "tunnel", time, request_id, end: self.why, received, sent, total_ms };
        write(&**records, &line, |line| {
            let TunnelLine { time, request_id, end, .. } = line;
            format!("{time} tunnel {end} {total_ms}ms {received}B in {sent}B out {request_id}")
        });
    }
}

fn write<L: Serialize>(records: &dyn Records, line: &L, text: impl FnOnce(&L) -> String) {
    match records.format() {
        Format::Text => records.line(&text(line)),
        Format::Json => match serde_json::to_string(line) {
            Ok(json) => records.line(&json),
            Err(error) => tracing::error!(%error, "a record could not be written"),
        },
    }
}

/// RFC 3339 with milliseconds.
pub fn time(at: Timestamp) -> String {
    humantime::format_rfc3339_millis(at.system_time()).to_string()
}
