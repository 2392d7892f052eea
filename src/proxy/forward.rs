//! Acting on a permit. One decision: it takes a [`Permit`], so that nothing is sent which `decide` did not allow, and sends
//! the very path that policy matched. Knows nothing of why it was allowed.

use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::{Extensions, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};

use crate::authn::Evidence;
use crate::clock::Timestamp;
use crate::login::Wanted;
use crate::login::oidc::AccessToken;
use crate::policy::{
    AccessRule, Asked, BadToken, Field, Fields, HostHeader, Permit, Reason, Rejection, RequestHead, is_plainly_framed,
};
use crate::session::{Over, StoreError};
use crate::upstream::{Head, PooledBody, Reached, Waiting};

use super::body::{BodyLimits, Progress, RequestBody, ResponseBody};
use super::client::Trace;
use super::events::Events;
use super::headers::{self, NamedFields, Outgoing, RequestTrailers, Returning, request_headers, response_headers};
use super::location::lead_back;
use super::record::TunnelRecord;
use super::reply::{Challenge, Refusal};
use super::request_id::RequestId;
use super::unread::Unread;
use super::upgrade::Switch;
use super::watch::{Held, Tie, Watch};
use super::{Connection, Runtime, Worker, tunnel, upgrade};

/// What a request brings along on its way.
pub struct Passage<'r> {
    /// The connection it came over.
    pub connection: &'r Connection,
    /// The way before that.
    pub trace: &'r Trace,
    /// Its head.
    pub head: &'r RequestHead<'r>,
    /// What its header list says.
    pub fields: &'r Fields<'r>,
    /// Its id.
    pub id: RequestId,
    /// Now, as long as nobody waited; and when it began.
    pub asked: (Instant, Timestamp),
    /// The protocol it wants to switch to.
    pub switch: Option<Switch>,
    /// What said who makes it.
    pub evidence: Option<Evidence>,
    /// The access token of its provider, where that is kept.
    pub access_token: Option<Box<AccessToken>>,
    /// Where it copies or moves to, as the application knows that place, where that is another address.
    pub second: Option<Box<HeaderValue>>,
}

/// Forward and wait for the response head; `reached` is told how far it came.
///
/// # Errors
/// [`Refusal`]: too large, unreachable, too slow, going in circles, or a WebSocket from another site.
pub async fn forward(
    worker: &Arc<Worker>,
    permit: &Permit,
    passage: &mut Passage<'_>,
    (parts, body): (&Parts, &mut Unread),
    reached: &Reached,
) -> Result<Response<ResponseBody>, Refusal> {
    let (runtime, options) = (&worker.runtime, &permit.route().options);
    let Passage { connection, trace, head, fields, asked, .. } = *passage;
    let evidence = passage.evidence.take();
    let passage = &*passage;
    let switch = passage.switch.as_ref();
    let limit = options.body_bytes.or(runtime.body_limit);
    let is_page = switch.is_some() && matches!(evidence, Some(Evidence::Session(..)));
    may_be_sent(fields, head, is_page, limit)?;
    let client_side = switch.is_some().then(|| client_side(parts));
    let signed = signed_identity(runtime, permit)?;
    let ids = passage.id.lines();
    let lines = {
        let outgoing = Outgoing {
            trace,
            style: runtime.forwarding.style,
            version: parts.version,
            method: head.method,
            authority: head.authority,
            ids: &ids,
            cookie: runtime.authenticator.cookie(),
            identity: runtime.authenticator.headers(),
            permit,
            switch,
            access_token: passage.access_token.as_deref(),
            signed: signed.as_ref(),
            destination: passage.second.as_deref(),
        };
        request_headers(fields, &outgoing)
    };
    // What follows the head of an extended CONNECT is the WebSocket's, no body.
    let tunnelled = matches!(switch, Some(Switch::Two { .. }));
    let (body, progress) =
        if tunnelled { RequestBody::none() } else { outgoing_body(runtime, permit, limit, (parts, body)) };
    let path = permit.rewritten().unwrap_or(head.path.raw());
    let mut rebuilt = Head { method: head.method, path, query: head.query, lines };

    last_look(runtime, permit, evidence.as_ref())?;
    let tie = evidence.map(|evidence| Tie::new(worker, permit.route(), evidence));
    let pool = &worker.pools[permit.route().upstream.0];
    let again = || Asked::new(head.method, head.host.as_str(), head.path.raw(), asked.1.since_epoch());
    let beside = tie.as_ref().map(|tie| move || tie.ended(again));
    let (limit, alone) = (options.response_timeout, connection.busy.is_alone());
    let waiting = Waiting { from: asked.0, limit, alone, beside, alarms: &connection.alarms, reached };
    let answered = pool.send((&mut rebuilt, body), progress.upload(), switch.is_some(), waiting).await;
    let answered = answered.map_err(|over| ended(runtime, permit, tie.as_ref().map(Tie::evidence), over))?;
    let mut response = answered.map_err(|error| progress.refusal().unwrap_or(Refusal::Forward(error)))?;
    progress.answered();
    may_be_passed(&response, tunnelled)?;
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switching {
        let answered = switch.is_some_and(|switch| switch.is_answered(response.headers()));
        // A 101 that nobody asked for: what follows on that connection is not HTTP (RFC 9110 §15.2.2).
        let theirs = response.body_mut().take_switched().filter(|_| answered);
        let ends = client_side.zip(theirs).ok_or(Refusal::UnaskedUpgrade)?;
        // Registered before the client is told.
        if let Ok(held) = Held::new(worker, permit.route(), tie.as_ref().map(Tie::evidence).cloned(), again()) {
            let record = TunnelRecord::new(runtime, passage.id);
            let stall = matches!(switch, Some(Switch::Two { .. })).then_some(connection.stall_timeout);
            tunnel::open(worker, ends, held, (options.idle_timeout, stall), (connection.busy.begin(), record));
        }
    }
    Ok(answer(worker, permit, response, (head.authority, switch.filter(|_| switching)), tie))
}

/// What a client would read as something else than the application meant; `tunnelled`: a WebSocket over HTTP/2.
fn may_be_passed(response: &Response<PooledBody>, tunnelled: bool) -> Result<(), Refusal> {
    if !is_plainly_framed(response.headers()) {
        return Err(Refusal::AnswerFraming);
    }
    // RFC 8441 §5: any 2xx there says that the WebSocket is open, and what follows would be taken for its frames.
    if tunnelled && response.status().is_success() {
        return Err(Refusal::NotSwitched);
    }
    Ok(())
}

/// What nobody's permit allows. `is_page`: it asks for a WebSocket by a cookie, which comes along by itself; a token does not.
fn may_be_sent(fields: &Fields<'_>, head: &RequestHead<'_>, is_page: bool, limit: Option<u64>) -> Result<(), Refusal> {
    if is_page && !upgrade::same_origin(fields, head.authority) {
        return Err(Refusal::Origin);
    }
    if headers::is_looping(fields) {
        return Err(Refusal::Loop);
    }
    let announced = fields.get(Field::ContentLength).and_then(|length| length.to_str().ok()?.parse().ok());
    if limit.zip(announced).is_some_and(|(limit, announced): (u64, u64)| announced > limit) {
        return Err(Refusal::TooLarge);
    }
    Ok(())
}

/// The client's body, bounded, with what its trailers must not carry.
fn outgoing_body(
    runtime: &Arc<Runtime>,
    permit: &Permit,
    bytes: Option<u64>,
    (parts, body): (&Parts, &mut Unread),
) -> (RequestBody, Progress) {
    let route = permit.route();
    let limits = BodyLimits { bytes, wait: runtime.body_timeout, idle: route.options.idle_timeout };
    let rules = || {
        let (runtime, route, named) = (runtime.clone(), route.clone(), NamedFields::of(&parts.headers));
        Some(RequestTrailers { runtime, route, named })
    };
    body.read(rules, limits)
}

/// The client's end of a connection that may leave HTTP.
fn client_side(parts: &Parts) -> hyper::upgrade::OnUpgrade {
    let mut request = Request::new(());
    *request.extensions_mut() = parts.extensions.clone();
    hyper::upgrade::on(request)
}

/// The statement of who calls, where the route has one. An application that believes nothing else must get it or nothing.
fn signed_identity(runtime: &Runtime, permit: &Permit) -> Result<Option<(HeaderName, HeaderValue)>, Refusal> {
    let (route, caller) = (permit.route(), permit.caller());
    let Some((wanted, caller)) = route.options.signed_identity.as_ref().zip(caller) else { return Ok(None) };
    let identities = runtime.identities.as_ref().ok_or(Refusal::Unsigned)?;
    let Some(line) = identities.line(caller, route.index, &wanted.audience, runtime.clock.now()) else {
        // Without keys it is the store that is away.
        runtime.ring.as_ref().map_or(Ok(()), |ring| ring.found())?;
        return Err(Refusal::Unsigned);
    };
    Ok(Some((wanted.header.clone(), line)))
}

/// A process that stood still since the check has missed what was revoked meanwhile.
fn last_look(runtime: &Runtime, permit: &Permit, evidence: Option<&Evidence>) -> Result<(), Refusal> {
    let sessions = runtime.authenticator.sessions();
    let stands = match evidence {
        None => true,
        Some(Evidence::Session(session, _)) => sessions.confirm(session)?,
        Some(Evidence::Token(verified)) => sessions.confirm_bearer(&verified.bearer)?,
    };
    if stands { Ok(()) } else { Err(ended(runtime, permit, evidence, Over::Ended)) }
}

/// What let a request begin does so no more, before it was answered.
fn ended(runtime: &Runtime, permit: &Permit, evidence: Option<&Evidence>, over: Over) -> Refusal {
    let reason = match (over, evidence) {
        (Over::Unknown, _) => return StoreError::Unavailable("it went away before the answer came".into()).into(),
        (Over::Denied, _) => Reason::NoLongerAllowed,
        (Over::Ended, Some(Evidence::Token(_))) => Reason::Rejected(Rejection::Token(BadToken::Revoked)),
        (Over::Ended, Some(Evidence::Session(..)) | None) => Reason::Rejected(Rejection::Revoked),
    };
    let route = permit.route();
    let accept = route.accept;
    let login = runtime.login.sign_in_location(&Wanted::new("/", None, &route.sign_in, false));
    Refusal::Unauthenticated(Box::new(Challenge { reason, accept, login, not_sent: None }))
}

/// The application's answer as the client gets it.
fn answer(
    worker: &Worker,
    permit: &Permit,
    response: Response<PooledBody>,
    (asked, switching): (&str, Option<&Switch>),
    tie: Option<Tie>,
) -> Response<ResponseBody> {
    let (runtime, options) = (&worker.runtime, &permit.route().options);
    let (mut parts, body) = response.into_parts();
    let named = NamedFields::of(&parts.headers);
    let returning = Returning {
        cookie: runtime.authenticator.cookie(),
        private: permit.caller().is_some(),
        switching,
        edits: &options.response,
        named: &named,
    };
    let body = body.into_whole().map_err(|body| (body, Events::of(&parts.headers)));
    let told = match &options.host {
        HostHeader::Fixed(host) => host.as_bytes(),
        HostHeader::Keep => asked.as_bytes(),
    };
    if parts.status.is_redirection() || parts.status == StatusCode::CREATED {
        lead_back(&mut parts.headers, told, asked);
    }
    response_headers(&mut parts.headers, returning);
    if parts.version == Version::HTTP_2 {
        headers::take_blanks_off(&mut parts.headers);
    }
    if parts.status == StatusCode::NO_CONTENT || parts.status.is_informational() {
        // RFC 9110 §8.6: there is none, and over HTTP/2 there are clients to whom one is a broken answer.
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    if let Some(Switch::Two { .. }) = switching {
        // RFC 8441 §5: over HTTP/2 a WebSocket begins with 200.
        parts.status = StatusCode::OK;
    }
    // What hyper keeps beside the list was said on the other connection.
    (parts.version, parts.extensions) = (Version::HTTP_11, Extensions::new());
    let body = match body {
        Ok(whole) => ResponseBody::whole(whole),
        Err((body, events)) => {
            let public = permit.route().access == AccessRule::Public;
            ResponseBody::application(body, named, Watch::new(tie, public, options.idle_timeout), events)
        }
    };
    Response::from_parts(parts, body)
}
