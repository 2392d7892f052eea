//! A request for a page of the gateway. One decision: what a page needs, who asks or a body, is known from its method and path
//! alone. Knows nothing of what the pages do.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::clock::Timestamp;
use crate::session::View;

use super::PREFIX;

/// A request for a page of the gateway.
pub struct Ask<'r> {
    /// Method.
    pub method: &'r Method,
    /// The whole path, decoded.
    pub path: &'r str,
    /// Query.
    pub query: Option<&'r str>,
    /// Headers.
    pub headers: &'r HeaderMap,
    /// `host[:port]` as the client named it.
    pub authority: &'r str,
    /// The client's address.
    pub peer: IpAddr,
    /// The body, capped.
    pub body: Bytes,
    /// Who asks, where the page wants to know.
    pub caller: Option<Known<'r>>,
    /// The session cookie, unverified.
    pub session_cookie: Option<&'r str>,
    /// Now.
    pub now: Timestamp,
    /// To be quoted to whoever runs the gateway.
    pub request_id: &'r str,
}

/// Who asks.
#[derive(Clone, Copy)]
pub struct Known<'r> {
    /// The session.
    pub view: &'r Arc<View>,
    /// Its names for roles that are declared.
    pub roles: &'r [String],
    /// The headers that would be forwarded.
    pub headers: &'r [(HeaderName, HeaderValue)],
}

/// Whether a page wants to know who asks. Style sheets and the sign-in itself must work while the store is away.
pub fn needs_caller(path: &str) -> bool {
    let page = path.strip_prefix(PREFIX).unwrap_or_default();
    let of_provider = |page: &str| page.ends_with("/start") || page.ends_with("/callback");
    matches!(page, "login" | "logout" | "whoami" | "sessions" | "sessions/end")
        || page.strip_prefix("oidc/").is_some_and(of_provider)
}

/// Whether a page reads what it is sent. No other waits for a body.
pub fn needs_body(method: &Method, path: &str) -> bool {
    let page = path.strip_prefix(PREFIX).unwrap_or_default();
    let of_provider = |page: &str| page.ends_with("/backchannel-logout");
    *method == Method::POST
        && (matches!(page, "login" | "logout" | "sessions/end") || page.strip_prefix("oidc/").is_some_and(of_provider))
}
