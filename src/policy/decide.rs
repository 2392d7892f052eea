//! The decision. One decision: `decide` is pure and total, and the only maker of a [`Permit`]. It knows nothing of how a
//! refusal is rendered.

use std::sync::Arc;
use std::time::Duration;

use super::access::AccessRule;
use super::head::RequestHead;
use super::identity::{Authentication, Caller, Identity, Rejection, SignedIn};
use super::options::{Preflight, SignInRule};
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
    /// Signed in somewhere else than the route asks for.
    OtherLogin,
    /// The person proved who they are longer ago than the route allows.
    SignInTooOld,
    /// Not as strongly as the route asks for.
    SignInTooWeak,
    /// It was let through, and before it was answered the rules or the roles were others.
    NoLongerAllowed,
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
            Reason::OtherLogin => "other_login",
            Reason::SignInTooOld => "sign_in_too_old",
            Reason::SignInTooWeak => "sign_in_too_weak",
            Reason::NoLongerAllowed => "no_longer_allowed",
        }
    }
}

/// What the gateway will do.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Forward.
    Forward(Permit, Reason),
    /// Send the person to sign in, as this route asks for it.
    SignIn(Reason, Arc<Route>),
    /// 401: a program has to authenticate, as this route asks for it.
    Unauthenticated(Reason, Arc<Route>),
    /// 403.
    Forbidden(Reason),
}

impl Decision {
    /// A stable name.
    pub fn as_str(&self) -> &'static str {
        match self {
            Decision::Forward(..) => "forward",
            Decision::SignIn(..) => "sign_in",
            Decision::Unauthenticated(..) => "unauthenticated",
            Decision::Forbidden(_) => "forbidden",
        }
    }

    /// Why.
    pub fn reason(&self) -> Reason {
        match self {
            Decision::Forward(_, reason)
            | Decision::SignIn(reason, _)
            | Decision::Unauthenticated(reason, _)
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
/// second rule, both have to allow. Before roles a route may ask where one signed in, and after them how long ago and how
/// strongly: who lacks that is sent to sign in (again), whatever roles a sign-in elsewhere gave. `now` is since the Unix epoch.
pub fn decide(
    head: &RequestHead<'_>,
    matched: &Matched<'_>,
    authentication: Authentication,
    now: Duration,
) -> Decision {
    // What a route does not read is nobody's there: a token does not come to where only sessions do by way of a rewrite.
    let read = |route: &Route| match &authentication {
        Authentication::Identified(caller) if !route.accept.reads(caller.identity.proof) => &Authentication::Anonymous,
        _ => &authentication,
    };
    let rule = |route: &Arc<Route>| judge(head, route, read(route), now);
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
fn judge(
    head: &RequestHead<'_>,
    route: &Arc<Route>,
    authentication: &Authentication,
    now: Duration,
) -> Result<Allowed, Decision> {
    let unauthenticated = |reason| unauthenticated(head, route, reason);
    let preflight = head.preflight.is_some() && route.options.preflight == Preflight::Pass;
    match (route.access, authentication) {
        (AccessRule::Public, _) => Ok((None, Reason::Public)),
        (_, _) if preflight => Ok((None, Reason::Preflight)),
        (_, Authentication::Anonymous) => Err(unauthenticated(Reason::NoCredential)),
        (_, Authentication::Rejected(rejection)) => Err(unauthenticated(Reason::Rejected(*rejection))),
        (access, Authentication::Identified(caller)) => {
            let identity = &caller.identity;
            let rule = &route.sign_in;
            if rule.login.is_some() && rule.login.as_ref() != identity.signed_in.as_ref().map(|signed| &signed.login) {
                return Err(unauthenticated(Reason::OtherLogin));
            }
            let reason = match access {
                AccessRule::Roles(wanted) if identity.roles.intersects(wanted) => Reason::RoleHeld,
                AccessRule::Roles(_) => return Err(Decision::Forbidden(Reason::RoleMissing)),
                AccessRule::Authenticated | AccessRule::Public => Reason::SignedIn,
            };
            match lacking(rule, identity, now) {
                Some(lacking) => Err(unauthenticated(lacking)),
                None => Ok((Some(caller.clone()), reason)),
            }
        }
    }
}

/// What a sign-in lacks of what the route asks (RFC 9470).
fn lacking(rule: &SignInRule, identity: &Identity, now: Duration) -> Option<Reason> {
    let signed = identity.signed_in.as_ref();
    let old = |most: Duration| !signed.is_some_and(|signed| SignedIn::is_recent(signed.at, most, now));
    let strong = |acr: &String| rule.acr.contains(acr);
    if rule.max_auth_age.is_some_and(old) {
        Some(Reason::SignInTooOld)
    } else if !rule.acr.is_empty() && !signed.and_then(|signed| signed.acr.as_ref()).is_some_and(strong) {
        Some(Reason::SignInTooWeak)
    } else {
        None
    }
}

/// A person is sent to sign in, where that helps: a route that reads tokens alone would send them there for ever, and whoever
/// brought a token that does not hold has to learn it. A program is told.
fn unauthenticated(head: &RequestHead<'_>, route: &Arc<Route>, reason: Reason) -> Decision {
    let with_token = matches!(reason, Reason::Rejected(Rejection::Token(_)));
    let signs_in = head.navigation && route.accept.session && !with_token;
    let route = route.clone();
    if signs_in { Decision::SignIn(reason, route) } else { Decision::Unauthenticated(reason, route) }
}
