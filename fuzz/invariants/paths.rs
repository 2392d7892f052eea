//! Paths: whatever some server makes of what it is forwarded, the caller may reach it by the rules of the file.

#[path = "../../tests/it/readings.rs"]
mod readings;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::policy::{
    AccessRule, Authentication, Caller, Decision, Found, RequestHead, Route, RouteTable, UpstreamId, decide,
};

use super::{CONFIG, caller};

/// Longer ones say nothing more, and have too many readings.
const LONGEST: usize = 80;
const MOST: usize = 600;

/// Nobody, somebody, and an administrator.
static CALLERS: LazyLock<[Authentication; 3]> = LazyLock::new(|| {
    let of = |roles: &[&str]| Authentication::Identified(caller(&CONFIG.roles, roles));
    [Authentication::Anonymous, of(&[]), of(&["admin"])]
});

/// `data` is the target of a request.
pub fn hold(data: &[u8]) {
    let Some(target) = str::from_utf8(data).ok().filter(|target| target.len() <= LONGEST) else { return };
    let Ok(request) = http::Request::builder().uri(target).header("host", "localhost").body(()) else { return };
    let parts = request.into_parts().0;
    let Ok(head) = RequestHead::parse(&parts, None) else { return };
    let Found::Route(matched) = CONFIG.routes.find(&head) else { return };
    for authentication in &*CALLERS {
        let Decision::Forward(permit, _) = decide(&head, &matched, authentication.clone(), Duration::ZERO) else {
            continue;
        };
        // What nobody expects there are so many readings of is refused before.
        for path in permit.rewritten().into_iter().chain([head.path.raw()]) {
            let Some(readings) = readings::within(path, MOST) else { continue };
            let closed =
                readings.iter().find(|reading| !may(&CONFIG.routes, permit.route().upstream, reading, authentication));
            assert!(
                closed.is_none(),
                "{authentication:?} may ask for {target:?}, sent as {path:?}, which can be read as {closed:?}"
            );
        }
    }
}

/// What the rules of an application say of a path, in letters of either case, found by comparing with all.
pub(super) fn may(routes: &RouteTable, upstream: UpstreamId, reading: &str, authentication: &Authentication) -> bool {
    let reading = reading.to_lowercase();
    let covers = |route: &&Arc<Route>| {
        let prefix = route.path.as_str().to_lowercase();
        prefix == "/" || readings::is_under(&reading, &prefix)
    };
    let here = routes.routes().iter().filter(|route| route.upstream == upstream).filter(covers);
    let Some(rule) = here.max_by_key(|route| route.path.as_str().len()) else { return true };
    let caller: Option<&Arc<Caller>> =
        if let Authentication::Identified(caller) = authentication { Some(caller) } else { None };
    match rule.access {
        AccessRule::Public => true,
        AccessRule::Authenticated => caller.is_some(),
        AccessRule::Roles(wanted) => caller.is_some_and(|caller| caller.identity.roles.intersects(wanted)),
    }
}
