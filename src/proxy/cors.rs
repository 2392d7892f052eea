//! CORS for routes that leave it to the gateway (Fetch §3.2). One decision: origins are compared whole with those of the file,
//! and credentials are allowed for them alone: `*` beside a cookie would open every answer to every site. Knows nothing of
//! who may ask for what; that is decided as for any request.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use crate::policy::{Cors, Preflight, RequestHead, RouteOptions};

use super::body::ResponseBody;
use super::reply::{Refusal, gateway_headers};

/// Who may read this answer: the origin that asks, or nobody of another site.
pub struct Reader(Option<HeaderValue>);

/// The reader, where answers of the route are another's for some origins; of several routes of one place where those of any are.
pub fn reader<'o>(routes: impl IntoIterator<Item = &'o RouteOptions>, headers: &HeaderMap) -> Option<Reader> {
    let answers = |options: &'o RouteOptions| match &options.preflight {
        Preflight::Answer(cors) => Some(cors),
        Preflight::Ask | Preflight::Pass => None,
    };
    let mut rules = routes.into_iter().filter_map(answers).peekable();
    rules.peek()?;
    let mut is_allowed = |origin: &str| rules.any(|cors| cors.allows(origin));
    let origin = headers.get(header::ORIGIN).filter(|origin| origin.to_str().is_ok_and(&mut is_allowed));
    Some(Reader(origin.cloned()))
}

/// The answer to a preflight, where the route answers it here.
///
/// # Errors
/// [`Refusal::Origin`]: an origin that the route does not name.
pub fn preflight(
    options: &RouteOptions,
    head: &RequestHead<'_>,
    reader: Option<&Reader>,
) -> Result<Option<Response<ResponseBody>>, Refusal> {
    let (Preflight::Answer(cors), Some(_)) = (&options.preflight, &head.preflight) else { return Ok(None) };
    if reader.is_none_or(|reader| reader.0.is_none()) {
        return Err(Refusal::Origin);
    }
    let mut response = Response::new(ResponseBody::whole(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    let list = |names: Vec<&str>| HeaderValue::from_str(&names.join(", ")).ok();
    let lines = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, list(cors.methods.iter().map(http::Method::as_str).collect())),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, list(cors.headers.iter().map(header::HeaderName::as_str).collect())),
        (header::ACCESS_CONTROL_MAX_AGE, Some(HeaderValue::from(max_age(cors)))),
    ];
    for (name, value) in lines {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            headers.insert(name, value);
        }
    }
    gateway_headers(headers);
    Ok(Some(response))
}

fn max_age(cors: &Cors) -> u64 {
    cors.max_age.as_secs()
}

impl Reader {
    /// Mark an answer, the gateway's own refusals included: a page of the other site has to see its 401.
    pub fn mark(self, headers: &mut HeaderMap) {
        if let Some(origin) = self.0 {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        // Another origin, or none, gets another answer: a cache that kept it without this would hand it to an origin that may read.
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
}
