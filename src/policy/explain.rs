//! The matcher, asked to explain itself. One decision: an explanation runs the same `find` and `decide` as a request, and
//! only describes beside them why each other route was not it. Knows nothing of printing.

use std::sync::Arc;
use std::time::Duration;

use super::decide::{Decision, decide};
use super::head::RequestHead;
use super::identity::Authentication;
use super::route::{Found, Route, RouteTable};

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
}

/// Explain what would be done with this request of this caller.
pub fn explain<'t>(
    table: &'t RouteTable,
    head: &RequestHead<'_>,
    authentication: Authentication,
    now: Duration,
) -> Explained<'t> {
    let found = table.find(head);
    let (chosen, decision) = match &found {
        Found::Route(matched) => (Some(matched.route), Some(decide(head, matched, authentication, now))),
        _ => (None, None),
    };
    let miss = |route: &'t Arc<Route>| (route, why(route, head, chosen));
    Explained { routes: table.routes().iter().map(miss).collect(), decision, found }
}

fn why(route: &Arc<Route>, head: &RequestHead<'_>, chosen: Option<&Arc<Route>>) -> Miss {
    if chosen.is_some_and(|chosen| Arc::ptr_eq(chosen, route)) {
        Miss::Chosen
    } else if !route.host.covers(head.host.as_str()) {
        Miss::Host
    } else if !route.path.covers(head.path.decoded()) {
        Miss::Path
    } else if !route.allows(head.method) {
        Miss::Method
    } else {
        Miss::LessSpecific
    }
}
