//! The record of a request: one line, exactly once, written when the response body ends or is dropped. One decision: the
//! line is built from stable names and the canonical path; a query string, a cookie, a credential has no field to stand in.
//! Knows nothing of where lines are kept.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::clock::Timestamp;

use super::Worker;
use super::busy::Exchange;
use super::request_id::RequestId;
use super::traffic::Outcome;
use super::watch::Cut;

/// Where lines go: the access log and the audit.
pub trait Records: Send + Sync + 'static {
    /// Keep one line, without its newline. Must not wait: a request's worker calls it.
    fn line(&self, line: &str);

    /// How lines are to look.
    fn format(&self) -> Format {
        Format::Json
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

/// What is known of a request when it is answered.
#[derive(Debug, Default, Serialize)]
pub struct Record {
    /// `access`, so that audit lines in the same stream are told apart.
    pub kind: &'static str,
    /// RFC 3339, milliseconds.
    pub time: String,
    /// 32 hexadecimal digits.
    pub request_id: String,
    /// The client's address.
    pub peer: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: &'static str,
    /// Method.
    pub method: String,
    /// Host, canonical; empty where the head was refused.
    pub host: String,
    /// Path, canonical; empty where the head was refused.
    pub path: String,
    /// Route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The route's place in the file, for the counters.
    #[serde(skip)]
    pub route_index: Option<usize>,
    /// Upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// What was done.
    #[serde(serialize_with = "by_name")]
    pub decision: Outcome,
    /// Why, a stable name.
    pub reason: &'static str,
    /// Who.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Status.
    pub status: u16,
    /// Response body bytes.
    pub bytes: u64,
    /// Milliseconds until the application's response head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_ms: Option<f64>,
    /// Milliseconds until the end of the body.
    pub total_ms: f64,
    /// Whether the body reached its end: `complete`, `aborted` (the client left), `broken` (the application broke off),
    /// `session_ended`, `idle`.
    pub body: &'static str,
}

fn by_name<S: serde::Serializer>(outcome: &Outcome, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(outcome.as_str())
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
    pub fn new(worker: Arc<Worker>, started: Instant, mut record: Record, busy: Exchange) -> Recorder {
        record.body = "aborted";
        Recorder { worker, started, record: Box::new(record), _busy: busy }
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
        self.record.body = match cut {
            Cut::Session => "session_ended",
            Cut::Idle => "idle",
        };
    }

    /// The application broke off.
    pub fn broke(&mut self) {
        self.record.body = "broken";
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let Record { route_index, decision, status, .. } = *self.record;
        self.worker.tally.add(route_index, decision, status, took);
        self.record.total_ms = milliseconds(took);
        if self.worker.runtime.access_log {
            write(&*self.worker.runtime.records, &*self.record, text);
        }
    }
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
    /// Who, as far as known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<&'r str>,
    /// Why, a stable name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'r str>,
}

impl<'r> AuditLine<'r> {
    /// What an operator did, to whom.
    pub fn of_operator(event: &'r str, subject: &'r str, now: Timestamp) -> AuditLine<'r> {
        let (request_id, peer) = ("-".to_owned(), "operator".to_owned());
        AuditLine { kind: "audit", time: time(now), request_id, peer, event, subject: Some(subject), reason: None }
    }
}

/// Write an audit line.
pub fn audit(records: &dyn Records, line: &AuditLine<'_>) {
    write(records, line, |line| {
        let (subject, reason) = (line.subject.unwrap_or("-"), line.reason.unwrap_or("-"));
        format!("{} audit {} {subject} {reason} {} {}", line.time, line.event, line.peer, line.request_id)
    });
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

fn text(record: &Record) -> String {
    let mut line = Vec::with_capacity(160);
    let _ = write!(
        line,
        "{} {} {}{} {} {} {} {} {} {:.1}ms {}B {} {}",
        record.time,
        record.method,
        record.host,
        record.path,
        record.status,
        record.decision.as_str(),
        record.reason,
        record.subject.as_deref().unwrap_or("-"),
        record.route.as_deref().unwrap_or("-"),
        record.total_ms,
        record.bytes,
        record.peer,
        record.request_id,
    );
    String::from_utf8(line).unwrap_or_default()
}

/// RFC 3339 with milliseconds.
pub fn time(at: Timestamp) -> String {
    humantime::format_rfc3339_millis(at.system_time()).to_string()
}

/// The id as text.
pub fn id(id: RequestId) -> String {
    id.to_string()
}

/// A duration as the record shows it: milliseconds to three places.
pub fn milliseconds(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
