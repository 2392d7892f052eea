//! Answers the gateway writes itself. One decision: every cause has its status and its fixed text in this one file, read
//! top to bottom; nothing of the request or of an error is ever interpolated but the request id. The inside text is the
//! log's. Knows nothing of how the causes come about.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};

use crate::authn::AuthnError;
use crate::login::LoginError;
use crate::login::oidc::ProviderError;
use crate::login::pages::{Pages, Problem};
use crate::policy::{Accept, HeadError, Reason, Rejection};
use crate::session::StoreError;
use crate::token::TokenError;
use crate::upstream::ForwardError;

use super::body::{BodyError, ResponseBody};
use super::request_id::RequestId;

/// The way to authenticate that a 401 of the gateway's own pages names (RFC 9110 §11.6.1).
pub const SIGN_IN: &str = "Session realm=\"portcullis\", login=\"/.portcullis/login\"";

/// More at a time than an application takes over HTTP/2, or than there are descriptors for.
const FULL: (StatusCode, &str, &str) =
    (StatusCode::SERVICE_UNAVAILABLE, "upstream_full", "The application takes no more requests at the moment.");

/// A client's body that breaks off is told so in the same words, on its way to an application and where it is read here.
const BODY_BROKEN: (StatusCode, &str, &str) = (StatusCode::BAD_REQUEST, "body_broken", "The request's body broke off.");

/// A copy or a move to where its caller may not write.
const ELSEWHERE: (StatusCode, &str, &str) =
    (StatusCode::FORBIDDEN, "forbidden_destination", "It may not be copied or moved to that address.");

/// Why the gateway answers instead of the application.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The head is malformed or ambiguous.
    #[error("the head was refused: {}", .0.as_str())]
    Head(HeadError),
    /// A path that falls under two routes, depending on who reads it.
    #[error("the path falls under another route when it is read leniently")]
    AmbiguousPath,
    /// No route.
    #[error("no route")]
    NoRoute,
    /// The route lists other methods.
    #[error("method not listed")]
    Method(Vec<http::Method>),
    /// Nobody can say who calls.
    #[error(transparent)]
    Authn(#[from] AuthnError),
    /// No credential, or none that holds; a program asked. With what the route reads.
    #[error("not signed in")]
    Unauthenticated(Box<Challenge>),
    /// Signed in, role missing.
    #[error("role missing")]
    Forbidden,
    /// The same, for the bearer of a token.
    #[error("role missing")]
    InsufficientScope,
    /// What would be copied or moved may not come to where it was to.
    #[error("the destination is elsewhere, or not the caller's to write to")]
    Destination,
    /// A WebSocket asked for from another site with this site's cookie.
    #[error("a WebSocket was asked for from another origin")]
    Origin,
    /// A provider of sign-ins did not answer, or not with anything that could be used.
    #[error("nobody can sign in at `{login}`")]
    Provider {
        /// Its name.
        login: String,
        /// Why.
        #[source]
        source: ProviderError,
    },
    /// The head is larger than allowed.
    #[error("head too large")]
    HeadTooLarge,
    /// The body is larger than allowed.
    #[error("body too large")]
    TooLarge,
    /// The client stopped in the middle of its body.
    #[error("the client stopped sending")]
    BodyTimeout,
    /// A body that is read here ended before its end, or is framed as nothing is.
    #[error(transparent)]
    BodyBroken(BodyError),
    /// Too much is being changed already.
    #[error("too many changes of sessions at once")]
    Busy,
    /// The request came through here before.
    #[error("the request goes in circles")]
    Loop,
    /// An extended CONNECT for something else than a WebSocket.
    #[error("an unknown protocol was asked for")]
    Protocol,
    /// The application did not answer.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The application switched protocols unasked.
    #[error("the application switched protocols unasked")]
    UnaskedUpgrade,
    /// The application answered a WebSocket over HTTP/2 with something else, and well.
    #[error("the application answered a WebSocket with a page")]
    NotSwitched,
    /// The application's answer could be read in more than one way.
    #[error("the application's answer could be read in more than one way")]
    AnswerFraming,
    /// Who calls could not be signed.
    #[error("an identity could not be signed")]
    Unsigned,
    /// A panic.
    #[error("a request panicked")]
    Panic,
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        Refusal::Authn(AuthnError::Store(error))
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Refusal {
        match error {
            BodyError::TooLarge => Refusal::TooLarge,
            BodyError::Stalled => Refusal::BodyTimeout,
            broken @ (BodyError::Client(_) | BodyError::Unwanted) => Refusal::BodyBroken(broken),
        }
    }
}

/// Where a form came from that went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSent {
    /// A page of this site: signed in again, the browser sends it once more.
    FromHere,
    /// Another site, for which browsers leave the session's cookie out (`SameSite=Lax`), whoever is signed in and however often.
    FromElsewhere,
}

/// What a 401 tells.
#[derive(Debug)]
pub struct Challenge {
    /// Why.
    pub reason: Reason,
    /// What the route reads.
    pub accept: Accept,
    /// Where a person signs in for it, on this host.
    pub login: String,
    /// A form that a person sent; it went nowhere.
    pub not_sent: Option<NotSent>,
}

impl Challenge {
    fn is_token(&self) -> bool {
        matches!(self.reason, Reason::Rejected(Rejection::Token(_)))
    }

    fn words(&self) -> (StatusCode, &'static str, &'static str) {
        let (code, sentence) = match () {
            () if self.is_token() => ("invalid_token", "The token is not accepted."),
            () if self.not_sent == Some(NotSent::FromElsewhere) => (
                "from_other_site",
                "Another site sent this here. Your browser does not say who you are when another site sends something, even where you \
                 are signed in, so it was not passed on, and loading this page again does not help. Whoever runs this site can allow it.",
            ),
            () if self.not_sent.is_some() => (
                "not_sent",
                "You have to sign in for this, and what you entered was not sent. Sign in in a new tab, then load this page again: \
                 your browser will offer to send it once more.",
            ),
            () if self.is_insufficient() => ("sign_in_again", "You have to sign in again for this."),
            () => ("unauthenticated", "You are not signed in."),
        };
        (StatusCode::UNAUTHORIZED, code, sentence)
    }

    /// RFC 9470 §3: signed in, but not as asked.
    fn is_insufficient(&self) -> bool {
        matches!(self.reason, Reason::OtherLogin | Reason::SignInTooOld | Reason::SignInTooWeak)
    }
}

impl From<LoginError> for Refusal {
    fn from(error: LoginError) -> Refusal {
        match error {
            LoginError::Store(error) | LoginError::Unfinished { source: error, .. } => error.into(),
            LoginError::Provider { login, source, .. } => Refusal::Provider { login: login.into(), source },
        }
    }
}

/// What an application said.
const NO_SENSE: (StatusCode, &str, &str) =
    (StatusCode::BAD_GATEWAY, "upstream_protocol", "The application gave an answer that makes no sense.");

/// So many sign in and out that the store cannot keep up, or it has stopped answering.
const BUSY: (StatusCode, &str, &str) = (
    StatusCode::SERVICE_UNAVAILABLE,
    "busy",
    "Too many people sign in and out at the moment. Nothing was changed; please try again.",
);

/// The store is away. Read by whoever was signing in as well, who is not signed in yet.
const SESSIONS_UNKNOWN: (StatusCode, &str, &str) = (
    StatusCode::SERVICE_UNAVAILABLE,
    "store_unavailable",
    "Sessions cannot be checked at the moment. Whoever is signed in stays so; please try again.",
);
/// The same, where a token was to be checked: it is not the issuer's keys.
const TOKENS_UNKNOWN: (StatusCode, &str, &str) =
    (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", "Tokens cannot be checked at the moment.");

impl Refusal {
    /// Status, stable code, title, sentence. The whole table of answers.
    fn words(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Refusal::Head(HeadError::Misdirected) => {
                (StatusCode::MISDIRECTED_REQUEST, "misdirected", "This connection was opened for another host.")
            }
            Refusal::Head(HeadError::Method) | Refusal::Method(_) => {
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This method is not accepted here.")
            }
            Refusal::Head(_) | Refusal::AmbiguousPath => {
                (StatusCode::BAD_REQUEST, "bad_request", "The request could be read in more than one way.")
            }
            Refusal::Authn(AuthnError::Ambiguous(_) | AuthnError::Both) => {
                (StatusCode::BAD_REQUEST, "bad_request", "The request carries more than one credential.")
            }
            Refusal::NoRoute => (StatusCode::NOT_FOUND, "not_found", "There is nothing at this address."),
            Refusal::Unauthenticated(challenge) => challenge.words(),
            Refusal::InsufficientScope => {
                (StatusCode::FORBIDDEN, "insufficient_scope", "The token does not allow this.")
            }
            Refusal::Authn(AuthnError::Token(TokenError::TooManyFailures)) => {
                (StatusCode::TOO_MANY_REQUESTS, "too_many_failures", "Too many tokens were not accepted. Please wait.")
            }
            Refusal::Authn(AuthnError::Token(TokenError::Store(_))) => TOKENS_UNKNOWN,
            Refusal::Authn(AuthnError::Token(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable", "Tokens cannot be checked at the moment.")
            }
            Refusal::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "Your account may not open this page."),
            Refusal::Destination => ELSEWHERE,
            Refusal::Origin => (StatusCode::FORBIDDEN, "forbidden_origin", "This was asked for from another site."),
            Refusal::Provider { source, .. } if source.is_outage() => (
                StatusCode::SERVICE_UNAVAILABLE,
                "provider_unavailable",
                "The place where you sign in does not answer at the moment. Please try again.",
            ),
            Refusal::Provider { source, .. } if source.is_refusal() => (
                StatusCode::BAD_GATEWAY,
                "provider_refused",
                "The place where you sign in refuses this site. Whoever runs it has to see to that.",
            ),
            Refusal::Provider { .. } => (
                StatusCode::BAD_GATEWAY,
                "provider_unusable",
                "The place where you sign in gave an answer that makes no sense.",
            ),
            Refusal::HeadTooLarge => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", "The request's header is too large.")
            }
            Refusal::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The request's body is too large."),
            Refusal::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout", "The request's body stopped coming."),
            Refusal::BodyBroken(_) => BODY_BROKEN,
            Refusal::Busy => BUSY,
            Refusal::Loop => (StatusCode::LOOP_DETECTED, "loop", "The request goes in circles."),
            Refusal::Protocol => (StatusCode::NOT_IMPLEMENTED, "protocol", "This protocol is not spoken here."),
            Refusal::Authn(AuthnError::Store(_)) => SESSIONS_UNKNOWN,
            Refusal::Forward(ForwardError::ResponseTimeout | ForwardError::ConnectTimeout(_)) => {
                (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", "The application did not answer in time.")
            }
            Refusal::Forward(error) if error.is_broken_upload() => BODY_BROKEN,
            Refusal::UnaskedUpgrade | Refusal::NotSwitched | Refusal::AnswerFraming => NO_SENSE,
            Refusal::Forward(ForwardError::NoUpgrade(_)) => NO_SENSE,
            Refusal::Forward(error) if error.is_malformed() => NO_SENSE,
            Refusal::Forward(ForwardError::Full(_) | ForwardError::NoDescriptor(_)) => FULL,
            Refusal::Forward(ForwardError::Connect { .. } | ForwardError::Exchange(_)) => {
                (StatusCode::BAD_GATEWAY, "upstream_unreachable", "The application cannot be reached.")
            }
            Refusal::Unsigned | Refusal::Panic => {
                (StatusCode::INTERNAL_SERVER_ERROR, "internal", "The gateway made a mistake.")
            }
        }
    }

    /// The stable name for the log: finer than the code outside.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::Head(head) => head.as_str(),
            Refusal::AmbiguousPath => "path_ambiguous",
            Refusal::Authn(AuthnError::Ambiguous(_)) => "cookie_repeated",
            Refusal::Authn(AuthnError::Both) => "two_credentials",
            Refusal::Unauthenticated(challenge) => challenge.reason.as_str(),
            Refusal::Provider { source, .. } => source.as_str(),
            Refusal::Forbidden | Refusal::InsufficientScope => Reason::RoleMissing.as_str(),
            Refusal::Forward(ForwardError::ConnectTimeout(_)) => "upstream_connect_timeout",
            other => other.words().1,
        }
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.words().0
    }

    /// Lines that belong to this answer alone.
    fn own_headers(&self, headers: &mut HeaderMap) {
        match self {
            Refusal::Head(HeadError::Method) => {
                headers.extend(allow(&METHODS).map(|line| (header::ALLOW, line)));
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            // What follows a head that was not understood cannot be trusted to begin where we think it does.
            Refusal::Head(_) => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Refusal::Method(methods) => {
                headers.extend(allow(methods).map(|line| (header::ALLOW, line)));
            }
            // RFC 9110 §11.6.1: a 401 names a way to authenticate. Never whether the session existed.
            Refusal::Unauthenticated(challenge) => {
                let Challenge { reason, accept, login, .. } = &**challenge;
                if accept.session {
                    let more =
                        if challenge.is_insufficient() { ", error=\"insufficient_user_authentication\"" } else { "" };
                    let line = HeaderValue::from_str(&format!("Session realm=\"portcullis\", login=\"{login}\"{more}"));
                    headers.extend(line.ok().map(|line| (header::WWW_AUTHENTICATE, line)));
                }
                // RFC 6750 §3.1: who brought no token is told no error. What is wrong with one is the log's to know.
                if accept.token {
                    let challenge = match reason {
                        Reason::Rejected(Rejection::Token(_)) => "Bearer realm=\"portcullis\", error=\"invalid_token\"",
                        _ => "Bearer realm=\"portcullis\"",
                    };
                    headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
                }
            }
            Refusal::InsufficientScope => {
                let challenge = "Bearer realm=\"portcullis\", error=\"insufficient_scope\"";
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            Refusal::Provider { source, .. } if source.is_outage() => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            }
            Refusal::Busy
            | Refusal::Forward(ForwardError::Full(_) | ForwardError::NoDescriptor(_))
            | Refusal::Authn(AuthnError::Store(_) | AuthnError::Token(_)) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
            }
            _ => {}
        }
    }
}

/// How the asker wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// A person: HTML.
    Person,
    /// A program that asks for JSON.
    Json,
    /// Any other program.
    Text,
    /// gRPC, which reads `grpc-status`.
    Grpc,
}

impl Audience {
    /// By what the request says it accepts.
    pub fn of(headers: &HeaderMap) -> Audience {
        if headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
            return Audience::Grpc;
        }
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if accept.contains("text/html") {
            Audience::Person
        } else if accept.contains("json") {
            Audience::Json
        } else {
            Audience::Text
        }
    }
}

/// Render a refusal.
pub fn refusal(refusal: &Refusal, audience: Audience, id: RequestId, pages: &Pages) -> Response<ResponseBody> {
    let (status, code, sentence) = refusal.words();
    let mut response = match audience {
        Audience::Grpc => grpc(status, sentence),
        Audience::Json => {
            let body = serde_json::json!({ "error": code, "message": sentence, "request_id": id.to_string() });
            written(status, "application/json", body.to_string())
        }
        Audience::Person => {
            let title = status.canonical_reason().unwrap_or("Error");
            let request_id = id.to_string();
            let link = match refusal {
                Refusal::Unauthenticated(challenge) if challenge.accept.session => Some(challenge.login.as_str()),
                _ => None,
            };
            let problem = Problem { status: status.as_u16(), title, message: sentence, link, request_id: &request_id };
            let mut response = pages.problem(&problem).map(ResponseBody::whole);
            *response.status_mut() = status;
            response
        }
        Audience::Text => written(status, "text/plain; charset=utf-8", format!("{sentence}\nrequest id: {id}\n")),
    };
    refusal.own_headers(response.headers_mut());
    gateway_headers(response.headers_mut());
    response
}

/// 303 to a page of the gateway (RFC 9110 §15.4.4): the browser asks with GET whatever it asked with before.
pub fn see_other(location: &str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::whole(Bytes::new()));
    *response.status_mut() = StatusCode::SEE_OTHER;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    gateway_headers(response.headers_mut());
    response
}

/// What can be asked of an address, said here because the question was to come no further.
pub fn options(methods: Option<&[Method]>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::whole(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().extend(allow(methods.unwrap_or(&METHODS)).map(|line| (header::ALLOW, line)));
    gateway_headers(response.headers_mut());
    response
}

/// What passes where a route lists no methods, of those that have a name of their own.
const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

fn allow(methods: &[Method]) -> Option<HeaderValue> {
    let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    HeaderValue::from_str(&names.join(", ")).ok()
}

/// Lines on every answer the gateway writes: nobody keeps it, TLS is remembered for a year.
pub fn gateway_headers(headers: &mut HeaderMap) {
    headers.insert(header::SERVER, HeaderValue::from_static("portcullis"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

fn written(status: StatusCode, content_type: &'static str, text: String) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::whole(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A trailers-only answer: HTTP 200, the status in the header block (gRPC over HTTP/2, "Responses").
fn grpc(status: StatusCode, sentence: &'static str) -> Response<ResponseBody> {
    let code = match status {
        StatusCode::BAD_REQUEST => "3",
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => "12",
        StatusCode::UNAUTHORIZED => "16",
        StatusCode::FORBIDDEN => "7",
        StatusCode::PAYLOAD_TOO_LARGE => "8",
        StatusCode::GATEWAY_TIMEOUT => "4",
        StatusCode::INTERNAL_SERVER_ERROR => "13",
        _ => "14",
    };
    let mut response = Response::new(ResponseBody::whole(Bytes::new()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(code));
    headers.insert("grpc-message", HeaderValue::from_static(sentence));
    response
}
