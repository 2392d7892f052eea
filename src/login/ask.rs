//! A request for a page of the gateway. One decision: what a page needs is known from its method and path alone – who asks, a
//! body, and whether it changes something, and then has to outlive whoever asked. Knows nothing of what the pages do.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::clock::Timestamp;
use crate::policy::Caller;
use crate::session::View;

use super::PREFIX;
use super::return_to::ReturnTo;

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
    /// Where one is led who was on the way to nowhere: the start page of this host, where it has one.
    pub start: &'static str,
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
    /// Who calls in it, and the headers that would be forwarded.
    pub caller: &'r Arc<Caller>,
}

/// The same, for as long as its page takes: whoever asked may be gone before.
pub struct KeptAsk {
    method: Method,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    authority: String,
    peer: IpAddr,
    body: Bytes,
    caller: Option<KeptKnown>,
    start: &'static str,
    session_cookie: Option<String>,
    now: Timestamp,
    request_id: String,
}

struct KeptKnown {
    view: Arc<View>,
    caller: Arc<Caller>,
}

impl Ask<'_> {
    /// The address of a way back, as it is on this host.
    pub(super) fn led<'b>(&self, back: &'b ReturnTo) -> &'b str {
        if *back == ReturnTo::start() { self.start } else { back.as_str() }
    }

    /// Keep it.
    pub fn kept(&self) -> KeptAsk {
        let known = |known: Known<'_>| KeptKnown { view: known.view.clone(), caller: known.caller.clone() };
        KeptAsk {
            method: self.method.clone(),
            path: self.path.to_owned(),
            query: self.query.map(str::to_owned),
            headers: self.headers.clone(),
            authority: self.authority.to_owned(),
            peer: self.peer,
            body: self.body.clone(),
            caller: self.caller.map(known),
            start: self.start,
            session_cookie: self.session_cookie.map(str::to_owned),
            now: self.now,
            request_id: self.request_id.to_owned(),
        }
    }
}

impl KeptKnown {
    fn known(&self) -> Known<'_> {
        Known { view: &self.view, caller: &self.caller }
    }
}

impl KeptAsk {
    /// As a page is asked.
    pub fn ask(&self) -> Ask<'_> {
        Ask {
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
            authority: &self.authority,
            peer: self.peer,
            body: self.body.clone(),
            caller: self.caller.as_ref().map(KeptKnown::known),
            start: self.start,
            session_cookie: self.session_cookie.as_deref(),
            now: self.now,
            request_id: &self.request_id,
        }
    }
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

/// Whether a page may change something: every POST, and what a provider makes browsers ask for by GET.
pub fn changes(method: &Method, path: &str) -> bool {
    let of_provider = |page: &str| page.ends_with("/callback") || page.ends_with("/frontchannel-logout");
    let page = path.strip_prefix(PREFIX).unwrap_or_default();
    *method == Method::POST || page.strip_prefix("oidc/").is_some_and(of_provider)
}
