//! The decision. One decision: `decide` is pure and total, and the only maker of a [`Permit`]. It knows nothing of how a
//! refusal is rendered.

use std::sync::Arc;

use super::access::AccessRule;
use super::head::RequestHead;
use super::identity::{Authentication, Caller, Rejection};
use super::route::Route;

/// Proof that a decision allowed forwarding. Its fields are private and [`decide`] is in this file: there is no other way
/// to come by one.
///
/// ```compile_fail,E0451
/// # fn made(route: std::sync::Arc<portcullis::policy::Route>) -> portcullis::policy::Permit {
/// portcullis::policy::Permit { route, caller: None }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Permit {
    route: Arc<Route>,
    caller: Option<Arc<Caller>>,
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
pub fn decide(head: &RequestHead<'_>, route: &Arc<Route>, authentication: Authentication) -> Decision {
    let permit = |caller, reason| Decision::Forward(Permit { route: route.clone(), caller }, reason);
    match (route.access, authentication) {
        (AccessRule::Public, _) => permit(None, Reason::Public),
        (_, Authentication::Anonymous) => unauthenticated(head, Reason::NoCredential),
        (_, Authentication::Rejected(rejection)) => unauthenticated(head, Reason::Rejected(rejection)),
        (AccessRule::Authenticated, Authentication::Identified(caller)) => permit(Some(caller), Reason::SignedIn),
        (AccessRule::Roles(wanted), Authentication::Identified(caller)) => {
            if caller.identity.roles.intersects(wanted) {
                permit(Some(caller), Reason::RoleHeld)
            } else {
                Decision::Forbidden(Reason::RoleMissing)
            }
        }
    }
}

/// A person is sent to sign in; a program is told.
fn unauthenticated(head: &RequestHead<'_>, reason: Reason) -> Decision {
    if head.navigation { Decision::SignIn(reason) } else { Decision::Unauthenticated(reason) }
}
