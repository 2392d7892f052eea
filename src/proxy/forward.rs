//! Acting on a permit. One decision: it takes a [`Permit`], so that nothing is sent which `decide` did not allow, and sends
//! the very path that policy matched. Knows nothing of why it was allowed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::uri::{PathAndQuery, Uri};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use crate::policy::{Permit, RequestHead};
use crate::session::View;

use super::body::{RequestBody, ResponseBody};
use super::headers::{Outgoing, request_headers, response_headers};
use super::reply::Refusal;
use super::request_id::RequestId;
use super::{Connection, Worker, upgrade};

/// What a request brings along on its way.
pub struct Passage<'r> {
    /// Where it came from.
    pub connection: &'r Connection,
    /// Its head.
    pub head: &'r RequestHead<'r>,
    /// Its id.
    pub id: RequestId,
    /// The session it was made in.
    pub session: Option<Arc<View>>,
}

/// Forward and wait for the response head.
///
/// # Errors
/// [`Refusal`]: too large, unreachable, too slow, or a WebSocket from another site.
pub async fn forward(
    worker: &Arc<Worker>,
    permit: &Permit,
    passage: Passage<'_>,
    mut request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Refusal> {
    let runtime = &worker.runtime;
    let switch = upgrade::wanted(&request);
    let http1 = switch.is_some();
    if switch.is_some() && passage.session.is_some() && !upgrade::same_origin(request.headers(), passage.head.authority)
    {
        return Err(Refusal::Origin);
    }
    let announced =
        request.headers().get(http::header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if runtime.body_limit.zip(announced).is_some_and(|(limit, announced): (u64, u64)| announced > limit) {
        return Err(Refusal::TooLarge);
    }
    let client_side = switch.is_some().then(|| hyper::upgrade::on(&mut request));
    let outgoing = Outgoing {
        connection: passage.connection,
        authority: passage.head.authority,
        id: passage.id,
        cookie: runtime.authenticator.cookie(),
        identity: runtime.authenticator.headers(),
        permit,
        upgrade: switch,
    };
    let headers = request_headers(request.headers(), outgoing);
    let (body, progress) = RequestBody::new(request.into_body(), runtime);
    let mut rebuilt = Request::new(body);
    *rebuilt.method_mut() = passage.head.method.clone();
    *rebuilt.uri_mut() = target(passage.head);
    *rebuilt.version_mut() = Version::HTTP_11;
    *rebuilt.headers_mut() = headers;

    let pool = &worker.pools[permit.route().upstream.0];
    let answered = pool.send(rebuilt, progress.sending, http1, None).await;
    let mut response = answered.map_err(|error| {
        let grew = progress.too_large.is_some_and(|flag| flag.load(Ordering::Acquire));
        if grew { Refusal::TooLarge } else { Refusal::Forward(error) }
    })?;
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switching {
        match client_side {
            Some(client) => upgrade::tunnel(worker, client, hyper::upgrade::on(&mut response), passage.session),
            // A 101 that nobody asked for: what follows on that connection is not HTTP (RFC 9110 §15.2.2).
            None => return Err(Refusal::UnaskedUpgrade),
        }
    }
    let (parts, body) = response.into_parts();
    let private = permit.caller().is_some();
    let headers = response_headers(&parts.headers, runtime.authenticator.cookie(), private, switching);
    let mut answer = Response::new(ResponseBody::application(body));
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = headers;
    Ok(answer)
}

/// The origin form of what policy matched, byte for byte (RFC 9112 §3.2.1).
fn target(head: &RequestHead<'_>) -> Uri {
    let text = match head.query {
        Some(query) => PathAndQuery::try_from(format!("{}?{query}", head.path.raw())),
        None => PathAndQuery::try_from(head.path.raw()),
    };
    Uri::from(text.expect("a canonical path and query came out of a parsed URI"))
}
