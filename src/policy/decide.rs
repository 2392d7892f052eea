//! The decision. One decision: `decide` is pure and total, and the only maker of a [`Permit`]. It knows nothing of how a
//! refusal is rendered.

use std::sync::Arc;

use super::access::AccessRule;
use super::head::RequestHead;
use super::identity::{Authentication, Caller, Rejection};
use super::options::Preflight;
use super::route::{Matched, Route};

/// Proof that a decision allowed forwarding. Its fields are private and [`decide`] is in this file: there is no other way
/// to come by one.
///
/// ```compile_fail,E0451
/// # fn made(route: std::sync::Arc<portcullis::policy::Route>) -> portcullis::policy::Permit {
/// portcullis::policy::Permit { route, caller: None, rewritten: None }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Permit {
    route: Arc<Route>,
    caller: Option<Arc<Caller>>,
    rewritten: Option<String>,
}

impl Permit {
    /// The route that was permitted.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Who calls; `None` on public routes.
    pub fn caller(&self) -> Option<&Arc<Caller>> {
        self.caller.as_ref()
    }

    /// The path to forward, where the route rewrites it.
    pub fn rewritten(&self) -> Option<&str> {
        self.rewritten.as_deref()
    }
}

/// Why, as a stable name that logs carry and callers branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The route is public.
    Public,
    /// Signed in, and no role is asked for.
    SignedIn,
    /// A role that the route asks for is held.
    RoleHeld,
    /// A CORS preflight that the route leaves to the application.
    Preflight,
    /// No credential.
    NoCredential,
    /// A credential that does not hold.
    Rejected(Rejection),
    /// Signed in, no role that the route asks for.
    RoleMissing,
}

impl Reason {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Public => "public",
            Reason::SignedIn => "signed_in",
            Reason::RoleHeld => "role_held",
            Reason::Preflight => "preflight",
            Reason::NoCredential => "no_credential",
            Reason::Rejected(rejection) => rejection.as_str(),
            Reason::RoleMissing => "role_missing",
        }
    }
}

/// What the gateway will do.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Forward.
    Forward(Permit, Reason),
    /// Send the person to sign in.
    SignIn(Reason),
    /// 401: a program has to authenticate.
    Unauthenticated(Reason),
    /// 403.
    Forbidden(Reason),
}

impl Decision {
    /// A stable name.
    pub fn as_str(&self) -> &'static str {
        match self {
            Decision::Forward(..) => "forward",
            Decision::SignIn(_) => "sign_in",
            Decision::Unauthenticated(_) => "unauthenticated",
            Decision::Forbidden(_) => "forbidden",
        }
    }

    /// Why.
    pub fn reason(&self) -> Reason {
        match self {
            Decision::Forward(_, reason)
            | Decision::SignIn(reason)
            | Decision::Unauthenticated(reason)
            | Decision::Forbidden(reason) => *reason,
        }
    }
}

/// Decide. Every case is written out; there is no branch that allows by falling through.
///
/// | access | anonymous | rejected | identified, role held | identified, role missing |
/// |---|---|---|---|---|
/// | public | forward, unnamed | forward, unnamed | forward, unnamed | forward, unnamed |
/// | authenticated | sign in / 401 | sign in / 401 | forward | forward |
/// | roles | sign in / 401 | sign in / 401 | forward | 403 |
///
/// A CORS preflight to a route that leaves it to the application is forwarded, unnamed. Where a rewritten path falls under a
/// second rule, both have to allow.
pub fn decide(head: &RequestHead<'_>, matched: &Matched<'_>, authentication: Authentication) -> Decision {
    let rule = |route: &Arc<Route>| judge(head, route, &authentication);
    let judged = match matched.also.map(rule) {
        None | Some(Ok(_)) => rule(matched.route),
        Some(Err(refusal)) => Err(refusal),
    };
    match judged {
        Err(refusal) => refusal,
        Ok((caller, reason)) => {
            let rewritten = matched.rewritten.clone();
            Decision::Forward(Permit { route: matched.route.clone(), caller, rewritten }, reason)
        }
    }
}

type Allowed = (Option<Arc<Caller>>, Reason);

/// What one rule says.
fn judge(head: &RequestHead<'_>, route: &Route, authentication: &Authentication) -> Result<Allowed, Decision> {
    let preflight = head.preflight.is_some() && route.options.preflight == Preflight::Pass;
    match (route.access, authentication) {
        (AccessRule::Public, _) => Ok((None, Reason::Public)),
        (_, _) if preflight => Ok((None, Reason::Preflight)),
        (_, Authentication::Anonymous) => Err(unauthenticated(head, Reason::NoCredential)),
        (_, Authentication::Rejected(rejection)) => Err(unauthenticated(head, Reason::Rejected(*rejection))),
        (AccessRule::Authenticated, Authentication::Identified(caller)) => Ok((Some(caller.clone()), Reason::SignedIn)),
        (AccessRule::Roles(wanted), Authentication::Identified(caller)) => {
            if caller.identity.roles.intersects(wanted) {
                Ok((Some(caller.clone()), Reason::RoleHeld))
            } else {
                Err(Decision::Forbidden(Reason::RoleMissing))
            }
        }
    }
}

/// A person is sent to sign in; a program is told.
fn unauthenticated(head: &RequestHead<'_>, reason: Reason) -> Decision {
    if head.navigation { Decision::SignIn(reason) } else { Decision::Unauthenticated(reason) }
}
