//! Path → answer. One decision: the paths that need no token are listed, and every other one needs it, those that do not exist
//! included: a path added here is closed until somebody opens it. Knows nothing of what is answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Admin, metrics, ready, sessions, tokens};

/// An answer.
pub(super) type Answer = Response<Full<Bytes>>;

/// Of a request's body nobody sends more.
const BODY_BYTES: usize = 64 * 1024;
/// Nor for longer: until it is here, its connection is not idle, and gives its place to nobody.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Answer.
pub(super) async fn answer(admin: &Arc<Admin>, request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let open = match path {
        "/healthz" | "/readyz" => true,
        "/metrics" => !admin.guarded,
        _ => false,
    };
    if !open && !admin.token.as_ref().is_some_and(|token| token.is_brought(&parts.headers)) {
        let mut answer = text(StatusCode::UNAUTHORIZED, "this path needs the operator's token\n");
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return answer;
    }
    let query = parts.uri.query().unwrap_or_default();
    match (path, &parts.method) {
        ("/healthz", &Method::GET | &Method::HEAD) => text(StatusCode::OK, "alive\n"),
        ("/readyz", &Method::GET | &Method::HEAD) => match ready::judge(admin).await {
            (true, amiss) => text(StatusCode::OK, format!("ready\n{amiss}")),
            (false, missing) => text(StatusCode::SERVICE_UNAVAILABLE, missing),
        },
        ("/metrics", &Method::GET | &Method::HEAD) => metrics::answer(admin),
        ("/sessions", &Method::GET) => sessions::list(admin, query).await,
        ("/sessions/revoke", &Method::POST) => match read(body).await {
            Ok(asked) => sessions::revoke(admin, asked).await,
            Err(refusal) => refusal,
        },
        ("/token/keys", &Method::GET) => tokens::keys(admin),
        ("/token/rotate", &Method::POST) => tokens::rotate(admin).await,
        ("/token/revoke", &Method::POST) => match read(body).await {
            Ok(asked) => tokens::revoke(admin, asked).await,
            Err(refusal) => refusal,
        },
        ("/healthz" | "/readyz" | "/metrics", _) => another_method("GET, HEAD"),
        ("/sessions" | "/token/keys", _) => another_method("GET"),
        ("/sessions/revoke" | "/token/rotate" | "/token/revoke", _) => another_method("POST"),
        _ => text(StatusCode::NOT_FOUND, "there is nothing at this path\n"),
    }
}

/// RFC 9110 §15.5.6: what is allowed is said.
fn another_method(allowed: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "another method is needed here\n");
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// A JSON body, or what is answered where it is none.
async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T, Answer> {
    let Ok(bytes) = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES).collect()).await else {
        return Err(closing(text(StatusCode::REQUEST_TIMEOUT, "the body takes too long\n")));
    };
    let bytes = bytes.map_err(|_| text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or broke off\n"))?;
    serde_json::from_slice(&bytes.to_bytes())
        .map_err(|error| text(StatusCode::BAD_REQUEST, format!("the body is not what is expected here: {error}\n")))
}

/// The last one on its connection.
fn closing(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// Plain text.
pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    typed(status, "text/plain; charset=utf-8", text.into())
}

/// JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => typed(status, "application/json", bytes.into()),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written\n")
        }
    }
}

/// Of this type.
pub(super) fn typed(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
