//! The matcher, asked to explain itself. One decision: an explanation runs the same `find` and `decide` as a request, with the
//! credential that the route reads, and only describes beside them why each other route was not it. Knows nothing of printing.

use std::sync::Arc;
use std::time::Duration;

use super::access::AccessRule;
use super::decide::{Decision, decide};
use super::head::RequestHead;
use super::identity::{Authentication, Proof};
use super::route::{Found, Matched, Route, RouteTable};

/// Why a route is not the one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// It is the one.
    Chosen,
    /// Another host.
    Host,
    /// The path is not under its prefix.
    Path,
    /// Another method.
    Method,
    /// It covers the request; a more specific one does too.
    LessSpecific,
    /// It covers the request, which is refused because its path has more than one reading.
    Doubtful,
}

/// An explanation.
#[derive(Clone, Debug)]
pub struct Explained<'t> {
    /// Each route of the file, in order.
    pub routes: Vec<(&'t Arc<Route>, Miss)>,
    /// What was found.
    pub found: Found<'t>,
    /// What was decided; `None` where no route was found.
    pub decision: Option<Decision>,
    /// What the caller brings and the route does not read.
    pub unread: Option<Proof>,
}

/// Explain what would be done with this request of this caller, who brings what the identity was proven by.
pub fn explain<'t>(
    table: &'t RouteTable,
    head: &RequestHead<'_>,
    authentication: Authentication,
    now: Duration,
) -> Explained<'t> {
    let found = table.find(head);
    let (mut chosen, mut decision, mut unread) = (None, None, None);
    if let Found::Route(matched) = &found {
        unread = brought(&authentication).filter(|proof| !reads(matched, *proof));
        let read = if unread.is_some() { Authentication::Anonymous } else { authentication };
        (chosen, decision) = (Some(matched.route), Some(decide(head, matched, read, now)));
    }
    let covering = match found {
        Found::Doubtful(_) | Found::Ambiguous => Miss::Doubtful,
        Found::Route(_) | Found::Method(_) | Found::Nothing => Miss::LessSpecific,
    };
    let miss = |route: &'t Arc<Route>| (route, why(route, head, chosen).unwrap_or(covering));
    Explained { routes: table.routes().iter().map(miss).collect(), decision, found, unread }
}

fn brought(authentication: &Authentication) -> Option<Proof> {
    match authentication {
        Authentication::Identified(caller) => Some(caller.identity.proof),
        Authentication::Anonymous | Authentication::Rejected(_) => None,
    }
}

/// Where everybody passes nothing is read, and nobody misses it.
fn reads(matched: &Matched<'_>, proof: Proof) -> bool {
    let is_public = |route: &Route| route.access == AccessRule::Public;
    matched.route.accept.reads(proof) || (is_public(matched.route) && matched.also.is_none_or(|also| is_public(also)))
}

/// `None` where it covers the request and is not the one.
fn why(route: &Arc<Route>, head: &RequestHead<'_>, chosen: Option<&Arc<Route>>) -> Option<Miss> {
    if chosen.is_some_and(|chosen| Arc::ptr_eq(chosen, route)) {
        Some(Miss::Chosen)
    } else if !route.host.covers(head.host.as_str()) {
        Some(Miss::Host)
    } else if !route.path.covers(head.path.decoded()) {
        Some(Miss::Path)
    } else if !route.allows(head.method) {
        Some(Miss::Method)
    } else {
        None
    }
}
