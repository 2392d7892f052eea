//! Requests under `/.portcullis/`: handed to `login` with what it may know. One decision: they are never forwarded, whatever
//! the routes say, and a body is read here, whole and bounded, where the page wants one. Knows nothing of what the pages do.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt;

use crate::authn::{Asking, Known};
use crate::login::{self, Ask, KeptAsk};
use crate::policy::{Accept, Fields, HeadError, RequestHead, is_reserved};
use crate::session::Activity;
use crate::token::ring::{KeyRing, PUBLISHED_FOR};

use super::body::{BodyLimits, ResponseBody};
use super::handle::Beside;
use super::record::{self, AuditLine};
use super::reply::{Refusal, SIGN_IN, gateway_headers};
use super::request_id::RequestId;
use super::unread::Unread;
use super::upgrade::Switch;
use super::{Runtime, Worker};

/// A sign-in form has two fields and a sealed state.
const FORM_BYTES: u64 = 16 * 1024;

/// Changes under way at a time, of one worker. Each keeps its request, some 50 KB at most; where a store answers there are never so many.
pub(super) const CHANGES: usize = 256;

/// Where the public keys are.
const KEYS: &str = "/.portcullis/jwks.json";

/// Whether the gateway answers this path itself. Read leniently as well: `/.Portcullis/login` must not reach an application
/// that would take it for the gateway's.
pub fn is_own(head: &RequestHead<'_>) -> bool {
    is_reserved(head.path.decoded()) || head.path.lenient().is_some_and(is_reserved)
}

/// Answer; what goes out with it is put beside it.
///
/// # Errors
/// [`Refusal`]: body too large, broken or not coming, ambiguous cookies, the store away, a WebSocket.
pub async fn answer(
    worker: &Arc<Worker>,
    client: IpAddr,
    head: &RequestHead<'_>,
    id: RequestId,
    (fields, body, switch): (&Fields<'_>, &mut Unread, Option<Switch>),
    beside: &mut Beside,
) -> Result<Response<ResponseBody>, Refusal> {
    // RFC 8441 §5: over HTTP/2 a page would say that a WebSocket is open, over HTTP/1.1 that there is none.
    if let Some(Switch::Two { .. }) = switch {
        return Err(Refusal::Protocol);
    }
    if let Some(doubt) = head.path.doubt() {
        return Err(Refusal::Head(HeadError::Path(doubt)));
    }
    let (runtime, headers) = (&worker.runtime, fields.headers());
    if let Some(ring) = runtime.ring.as_ref().filter(|_| asks_for_keys(head)) {
        return published_keys(ring, headers);
    }
    let cookie = runtime.authenticator.cookie().find(headers).map_err(crate::authn::AuthnError::from)?;
    // Before it is asked who calls: a session that ends while its form is still coming sends none.
    let body = match login::needs_body(head.method, head.path.decoded()) {
        true => read(runtime, body).await?,
        false => Bytes::new(),
    };
    let now = runtime.clock.now();
    let known = if login::needs_caller(head.path.decoded()) {
        let accept = Accept { session: true, token: false };
        let on_reuse = record::reuse(worker, (id, client), now);
        let asking = Asking { fields, accept, activity: Activity::Active, client, on_reuse: &on_reuse };
        let mut known = runtime.authenticator.ask(asking, &worker.recent, now).await?;
        beside.renewed = known.renewed.take();
        known
    } else {
        Known::anonymous()
    };
    let caller = known.session().map(|session| login::Known { view: &session.view, caller: &session.caller });
    let request_id = id.to_string();
    let ask = Ask {
        method: head.method,
        path: head.path.decoded(),
        query: head.query,
        headers,
        authority: head.authority,
        peer: client,
        body,
        caller,
        start: if runtime.routes.has_start(head) { "/" } else { login::WHOAMI },
        session_cookie: cookie,
        now,
        request_id: &request_id,
    };
    let response = match login::changes(ask.method, ask.path) {
        true => carried_out(worker, ask.kept(), id).await?,
        false => answered(runtime, ask, id).await?,
    };
    let mut response = response.map(ResponseBody::whole);
    gateway_headers(response.headers_mut());
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(SIGN_IN));
    }
    Ok(response)
}

/// What changes something, once begun, goes to its end, its line in the audit included, whether or not its client waits. Otherwise
/// whoever leaves early guesses passwords that nobody counts, and begins and ends sessions unseen (CWE-778). Nor must whoever begins and
/// leaves while the store is slow fill the memory (CWE-770).
async fn carried_out(worker: &Arc<Worker>, ask: KeptAsk, id: RequestId) -> Result<Response<Bytes>, Refusal> {
    let runtime = worker.runtime.clone();
    let place = worker.changes.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
    // A task of its own, which the gateway's stop waits for. What panics in it is this request's alone.
    let act = worker.acts.spawn(Box::pin(async move {
        let _place = place;
        answered(&runtime, ask.ask(), id).await
    }));
    act.await.unwrap_or(Err(Refusal::Panic))
}

/// The page, and its line in the audit.
async fn answered(runtime: &Runtime, ask: Ask<'_>, id: RequestId) -> Result<Response<Bytes>, Refusal> {
    let (client, now) = (ask.peer, ask.now);
    let answered = runtime.login.answer(ask).await;
    let audit = match &answered {
        Ok(answer) => answer.audit.as_ref(),
        Err(error) => error.audit(),
    };
    if let Some(audit) = audit {
        let line = AuditLine::of_request(audit.event, (id, client), now);
        let (subject, provider) = (audit.subject.as_deref(), audit.provider.as_deref());
        let (user, reason) = (audit.user.as_deref(), audit.reason);
        record::audit(&*runtime.records, &AuditLine { subject, provider, user, reason, ..line });
    }
    Ok(answered?.response)
}

fn asks_for_keys(head: &RequestHead<'_>) -> bool {
    head.path.decoded() == KEYS && matches!(*head.method, Method::GET | Method::HEAD)
}

/// The public keys of what this gateway signs (RFC 7517 §5), for whoever verifies it. Needs no caller, no store and no body; before
/// the keys were found, an empty set would be kept by whoever asked.
fn published_keys(ring: &KeyRing, headers: &HeaderMap) -> Result<Response<ResponseBody>, Refusal> {
    ring.found()?;
    let (text, tag) = ring.published();
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|tags| tags.as_bytes() == tag.as_bytes());
    let mut response = Response::new(ResponseBody::whole(Bytes::new()));
    match known {
        true => *response.status_mut() = StatusCode::NOT_MODIFIED,
        false => *response.body_mut() = ResponseBody::whole(Bytes::from(text)),
    }
    let lines = response.headers_mut();
    lines.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    lines.extend(HeaderValue::from_str(&tag).ok().map(|tag| (header::ETAG, tag)));
    let kept = format!("public, max-age={}", PUBLISHED_FOR.as_secs());
    lines.extend(HeaderValue::from_str(&kept).ok().map(|kept| (header::CACHE_CONTROL, kept)));
    gateway_headers(lines);
    Ok(response)
}

/// As bounded as one that is forwarded: whoever stops half-way would hold a connection for ever (CWE-400).
async fn read(runtime: &Runtime, body: &mut Unread) -> Result<Bytes, Refusal> {
    if body.announced() > FORM_BYTES {
        return Err(Refusal::TooLarge);
    }
    let limits = BodyLimits { bytes: Some(FORM_BYTES), wait: runtime.body_timeout, idle: None };
    Ok(body.read(|| None, limits).0.collect().await?.to_bytes())
}
