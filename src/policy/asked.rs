//! What was asked for, kept for as long as what it opened is open. One decision: it is judged again by the whole of the rules and
//! as of the moment when it was asked, so that rules which did not change say what they said then. Knows nothing of what is open.

use std::time::Duration;

use http::Method;

use super::decide::{Decision, decide};
use super::head::RequestHead;
use super::host::Host;
use super::identity::Authentication;
use super::path::CanonicalPath;
use super::route::{Accept, Found, RouteTable};

/// A request that was let through, as far as routes ask about it.
#[derive(Clone, Debug)]
pub struct Asked {
    method: Method,
    host: String,
    path: String,
    at: Duration,
}

impl Asked {
    /// Of a request for this host and this path, as it came, at this moment since the Unix epoch.
    pub fn new(method: &Method, host: &str, path: &str, at: Duration) -> Asked {
        // A WebSocket over HTTP/2 (RFC 8441) is judged by the method that one over HTTP/1.1 has.
        let method = if *method == Method::CONNECT { Method::GET } else { method.clone() };
        Asked { method, host: host.to_owned(), path: path.to_owned(), at }
    }

    /// Whether these routes let it through, asked by whoever `who` finds it to be by what the route reads. What could not be read
    /// again is not let through.
    pub fn passes(&self, routes: &RouteTable, who: impl FnOnce(Accept) -> Authentication) -> bool {
        let (Ok(host), Ok(path)) = (Host::parse(&self.host), CanonicalPath::read(&self.path)) else { return false };
        let (method, authority) = (&self.method, self.host.as_str());
        let (query, preflight) = (None, None);
        let head = RequestHead { method, host, authority, path, query, navigation: false, grpc: false, preflight };
        let Found::Route(matched) = routes.find(&head) else { return false };
        let authentication = who(matched.route.accept);
        matches!(decide(&head, &matched, authentication, self.at), Decision::Forward(..))
    }
}
