//! The seven stops, in the order of their names. One decision: this function is the only way from an accepted connection
//! to an application, and reads as a list. It renders what the stops refuse, and records.

use std::convert::Infallible;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header};
use hyper::body::Incoming;

use crate::authn::{Asking, Known, Renewed};
use crate::causes;
use crate::clock::Timestamp;
use crate::login::oidc::{AccessToken, Followed, Needs};
use crate::login::{Login, Wanted};
use crate::policy::{
    AccessRule, Authentication, Decision, Field, Fields, Found, HeadError, Load, Matched, NotThere, Reason,
    RequestHead, Route, decide, destination, methods,
};
use crate::session::Activity;
use crate::sparing::Sparing;

use super::body::ResponseBody;
use super::client::Trace;
use super::forward::{Passage, forward};
use super::record::{self, Record, Recorder};
use super::reply::{self, Audience, Challenge, NotSent, Refusal};
use super::request_id::RequestId;
use super::traffic::Outcome;
use super::unread::Unread;
use super::{Connection, Runtime, Worker, cors, headers, own_pages, upgrade};

/// Answer one request. Never fails: what goes wrong is an answer too. What it begins with is done before anything is awaited: a
/// future keeps room for what it was called with beside what it makes of that. In line: as a value it would be copied whole.
#[inline(always)]
pub fn handle(
    worker: Arc<Worker>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> + Send {
    let started = Instant::now();
    let busy = connection.busy.begin();
    let (mut parts, body) = request.into_parts();
    let trace = worker.runtime.forwarding.trace(&connection, &parts.headers);
    let (id, now) = (worker.ids.next(), worker.runtime.clock.now());
    let mut unread = Unread::new(body, &parts, &connection.busy);
    let record = Record::new(now, id, trace.shown.clone(), parts.version, parts.method.clone());
    // Stop 7: written when the body ends or is dropped, or with this future, whose client may leave at any time.
    let mut recorder = Recorder::new(worker, started, record, busy);
    async move {
        let (record, worker) = recorder.record();
        let mut beside = Beside::default();
        let mut answered = None;
        {
            // Pinned here and lent: a future that is handed on is copied, and this one is what every connection keeps room for.
            // What it comes to is copied as well: it is put down where it is taken from.
            let stops = pin!(async {
                let (way, request) = ((&*connection, &trace), (&mut parts, &mut unread));
                answered = Some(stops(worker, way, id, request, (&mut *record, &mut beside)).await);
                beside.hand_over().await;
            });
            catch_panic(stops).await;
        }
        let refused = |refusal: Refusal, record: &mut Record| {
            log(&refusal, id);
            record.reason = refusal.reason();
            reply::refusal(&refusal, Audience::of(&parts.headers), id, worker.runtime.login.pages())
        };
        let ends_connection = unread.ends_connection(!matches!(answered, Some(Ok(_))));
        unread.leave();
        let mut response = match answered {
            Some(Ok(response)) => response,
            Some(Err(refusal)) => refused(refusal, record),
            None => refused(Refusal::Panic, record),
        };
        beside.mark(response.headers_mut());
        if ends_connection {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if parts.version == Version::HTTP_2 {
            // RFC 9113 §8.2.2: connection-specific fields make an HTTP/2 message malformed.
            response.headers_mut().remove(http::header::CONNECTION);
        }
        if parts.method == Method::HEAD {
            without_content(&mut response);
        }
        record.status = response.status().as_u16();
        Ok(response.map(|body| body.recorded(recorder)))
    }
}

/// RFC 9110 §9.3.2: an answer to HEAD has no content, and says how long it would be. hyper sees to that over HTTP/1.1 alone; over
/// HTTP/2 a client takes content for a broken stream.
fn without_content(response: &mut Response<ResponseBody>) {
    if let Some(length) = response.body_mut().empty() {
        response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(length.into());
    }
}

/// What the answer carries whatever it is.
#[derive(Default)]
pub(super) struct Beside {
    /// Who may read it from another site, where that depends on who asks.
    reader: Option<cors::Reader>,
    /// A session that was renewed on the way, until there is an answer.
    pub(super) renewed: Option<Box<Renewed>>,
    /// Its cookies.
    cookies: Option<Box<HeaderMap>>,
}

impl Beside {
    /// There is an answer: what was renewed goes out with it, where it may.
    async fn hand_over(&mut self) {
        let Some(renewed) = self.renewed.take() else { return };
        // Apart, because it is rare and large: every connection keeps room for what is awaited in place.
        let leaving = Box::pin(async move {
            let Renewed { cookies, handing } = *renewed;
            handing.may_leave().await.then_some(cookies)
        });
        self.cookies = leaving.await;
    }

    fn mark(self, headers: &mut HeaderMap) {
        if let Some(reader) = self.reader {
            reader.mark(headers);
        }
        if let Some(cookies) = self.cookies {
            set_cookies(&cookies, headers);
        }
    }
}

/// An answer that carries a credential is nobody else's to keep. What the answer says of a cookie itself – a sign-out – stands.
fn set_cookies(cookies: &HeaderMap, headers: &mut HeaderMap) {
    fn name(line: &HeaderValue) -> &[u8] {
        line.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default()
    }
    for line in cookies.values() {
        if !headers.get_all(header::SET_COOKIE).iter().any(|other| name(other) == name(line)) {
            headers.append(header::SET_COOKIE, line.clone());
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

/// Stops 2 to 6; stop 1 is the server's.
async fn stops(
    worker: &Arc<Worker>,
    (connection, trace): (&Connection, &Trace),
    id: RequestId,
    (parts, body): (&mut Parts, &mut Unread),
    (record, beside): (&mut Record, &mut Beside),
) -> Result<Response<ResponseBody>, Refusal> {
    let runtime = &worker.runtime;
    let fields = Fields::of(&parts.headers);
    let switch = upgrade::asked(&mut parts.method, parts.version, &parts.extensions, &fields)?;
    let (parts, now) = (&*parts, record.at);

    // 2: read the head.
    headers::fits(&parts.uri, &fields, runtime.head_limits)?;
    let head = RequestHead::read(parts, &fields, connection.sni.as_deref()).map_err(Refusal::Head)?;
    record.read(&head, &parts.uri);
    if own_pages::is_own(&head) {
        (record.decision, record.reason) = (Outcome::OwnPage, "own_page");
        // Rare and large, so apart: every connection keeps room for what stands here.
        return Box::pin(own_pages::answer(worker, trace.client, &head, id, (&fields, body, switch), beside)).await;
    }

    // 3: find the route.
    let matched = match runtime.routes.find(&head) {
        Found::Route(matched) => matched,
        Found::Nothing => return Err(Refusal::NoRoute),
        Found::Method(routes) => return Err(another_method(&routes, &parts.headers, beside)),
        Found::Ambiguous => return Err(Refusal::AmbiguousPath),
        Found::Doubtful(doubt) => return Err(Refusal::Head(HeadError::Path(doubt))),
    };
    let route = matched.route;
    record.route = Some(route.clone());
    beside.reader = cors::reader([&route.options], &parts.headers);
    if let Some(answer) = cors::preflight(&route.options, &head, beside.reader.as_ref())? {
        (record.decision, record.reason) = (Outcome::Preflight, "preflight");
        return Ok(answer);
    }

    // 4: learn who is calling.
    let (mut known, access_token) = learn(worker, &matched, &fields, (id, trace.client), now).await?;
    beside.renewed = known.renewed.take();

    // 5: decide.
    let by_token = known.by_token();
    let second = there(runtime, &head, route, (&fields, &known.authentication), now);
    let decision = decide(&head, &matched, known.authentication, now.since_epoch());
    (record.decision, record.reason) = (outcome(&decision), decision.reason().as_str());

    // 6: act.
    match decision {
        // RFC 9110 §7.6.2: it was to come no further than this.
        Decision::Forward(..) if headers::hops_left(head.method, &parts.headers) == Some(0) => {
            (record.decision, record.reason) = (Outcome::OwnPage, "max_forwards");
            Ok(reply::options(route.methods.as_deref()))
        }
        Decision::Forward(permit, _) => {
            record.caller = permit.caller().cloned();
            let (asked, second) = ((Instant::now(), now), second?);
            let (head, fields, evidence) = (&head, &fields, known.evidence);
            let way = Passage { connection, trace, head, fields, id, asked, switch, evidence, access_token, second };
            record.waits = Some(asked.0);
            let response = forward(worker, &permit, &mut { way }, (parts, body), &record.reached).await;
            record.waited();
            response
        }
        Decision::SignIn(reason, route) => Ok(sign_in(runtime, &head, &route, reason)),
        Decision::Unauthenticated(reason, route) => Err(challenge(runtime, &head, &parts.headers, &route, reason)),
        Decision::Forbidden(_) => Err(if by_token { Refusal::InsufficientScope } else { Refusal::Forbidden }),
    }
}

/// A second address that the application would change: it is decided on like the first. Returns how the application knows it.
fn there(
    runtime: &Runtime,
    head: &RequestHead<'_>,
    route: &Route,
    (fields, authentication): (&Fields<'_>, &Authentication),
    now: Timestamp,
) -> Result<Option<Box<HeaderValue>>, Refusal> {
    let Some(line) = fields.get(Field::Destination) else { return Ok(None) };
    let at = (&runtime.routes, route);
    let told = destination(line.as_bytes(), head, at, authentication.clone(), now.since_epoch());
    let told = told.map_err(|NotThere| Refusal::Destination)?;
    told.map(|told| HeaderValue::try_from(told).map(Box::new).map_err(|_| Refusal::Destination)).transpose()
}

/// Stop 4. Never on public routes: they work while the store is away. In a session whose provider's tokens are kept, these are
/// seen to as well: roles may have changed, or the provider may have ended it.
async fn learn(
    worker: &Arc<Worker>,
    matched: &Matched<'_>,
    fields: &Fields<'_>,
    (id, client): (RequestId, IpAddr),
    now: Timestamp,
) -> Result<(Known, Option<Box<AccessToken>>), Refusal> {
    let is_public = |route: &Route| route.access == AccessRule::Public;
    let route = matched.route;
    if is_public(route) && matched.also.is_none_or(|also| is_public(also)) {
        return Ok((Known::anonymous(), None));
    }
    let activity = if route.options.passive { Activity::Passive } else { Activity::Active };
    let on_reuse = record::reuse(worker, (id, client), now);
    let asking = Asking { fields, accept: route.accept, activity, client, on_reuse: &on_reuse };
    let runtime = &worker.runtime;
    let known = runtime.authenticator.ask(asking, &worker.recent, now).await?;
    let Some(session) = known.session().filter(|session| session.provided) else { return Ok((known, None)) };
    // Apart, because it is rare and large: every connection keeps room for what is awaited in place.
    let needs = if route.sign_in.access_token.is_some() { Needs::Token } else { Needs::Caller };
    match Box::pin(Login::follow(runtime, &worker.acts, &session.view, needs, now)).await? {
        Followed::Nothing => Ok((known, None)),
        Followed::Token { access, changed: false } => Ok((known, access.map(Box::new))),
        Followed::Token { access, changed: true } => {
            let mut anew = runtime.authenticator.ask(asking, &worker.recent, now).await?;
            // What the first asking renewed is still to be handed over.
            anew.renewed = anew.renewed.or(known.renewed);
            Ok((anew, access.map(Box::new)))
        }
        Followed::Broken => Err(Refusal::Panic),
        Followed::Ended => Ok((runtime.authenticator.ask(asking, &worker.recent, now).await?, None)),
    }
}

/// None of the routes there takes the method. Who may read what they answer may read that.
fn another_method(routes: &[&Arc<Route>], headers: &HeaderMap, beside: &mut Beside) -> Refusal {
    beside.reader = cors::reader(routes.iter().map(|route| &route.options), headers);
    Refusal::Method(methods(routes))
}

fn outcome(decision: &Decision) -> Outcome {
    match decision {
        Decision::Forward(..) => Outcome::Forward,
        Decision::SignIn(..) => Outcome::SignIn,
        Decision::Unauthenticated(..) => Outcome::Unauthenticated,
        Decision::Forbidden(_) => Outcome::Forbidden,
    }
}

/// Whether somebody who is signed in has to sign in again.
fn is_again(reason: Reason) -> bool {
    matches!(reason, Reason::OtherLogin | Reason::SignInTooOld | Reason::SignInTooWeak)
}

/// A program is told where its user signs in for this route; so is a person whose form went nowhere, because a redirect would
/// lose it without a word.
fn challenge(runtime: &Runtime, head: &RequestHead<'_>, headers: &HeaderMap, route: &Route, reason: Reason) -> Refusal {
    let login = runtime.login.sign_in_location(&Wanted::new("/", None, &route.sign_in, is_again(reason)));
    let from = match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        Some(b"cross-site") => NotSent::FromElsewhere,
        _ => NotSent::FromHere,
    };
    let is_form =
        Load::of(headers).may_be_page() && !head.method.is_safe() && Audience::of(headers) == Audience::Person;
    let not_sent = is_form.then_some(from);
    Refusal::Unauthenticated(Box::new(Challenge { reason, accept: route.accept, login, not_sent }))
}

/// To the place where one signs in for this route, and back.
fn sign_in(runtime: &Runtime, head: &RequestHead<'_>, route: &Route, reason: Reason) -> Response<ResponseBody> {
    let again = is_again(reason);
    let wanted = Wanted::new(head.path.raw(), head.query, &route.sign_in, again);
    reply::see_other(&runtime.login.sign_in_location(&wanted))
}

/// The inside text: the whole chain of causes. What a client got wrong is no news; what broke behind us is, and not with every
/// request: the access log has a line of each.
fn log(refusal: &Refusal, id: RequestId) {
    static SAID: Sparing = Sparing::new();
    if refusal.status().is_server_error() {
        let error = causes::line(refusal);
        if let Some(unsaid) = SAID.ask(&error) {
            tracing::warn!(request_id = %id, error, unsaid, "a request could not be answered");
        }
    }
}

/// A panic in one request is one 500 and hurts nobody else: the future ends there.
async fn catch_panic<F: Future<Output = ()>>(mut future: Pin<&mut F>) {
    std::future::poll_fn(|cx| {
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        polled.unwrap_or(Poll::Ready(()))
    })
    .await;
}
