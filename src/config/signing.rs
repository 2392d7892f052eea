//! `[signing]` and `[session.jwt]`: tokens of this gateway's own making. One decision: what others verify names its issuer and
//! its audience in the file; what only gateways read needs neither. Knows nothing of keys.

use std::time::Duration;

use crate::policy::{IdentityHeaders, Route, RouteTable};

use super::SessionConfig;
use super::problems::did_you_mean;
use super::table::{At, Table};

const MINUTE: Duration = Duration::from_secs(60);
/// Every five minutes a browser's session is looked up in the store; in between a revocation is learnt from memory.
const ACCESS_LIFETIME: Duration = Duration::from_secs(300);
/// Keys retire when the longest-lived token is over; see `RETIRING`.
const LONGEST_ACCESS: Duration = Duration::from_secs(15 * 60 + 1);
/// Tabs that ask at once are apart by less than a second, a page that is loaded again after a lost answer by a few.
const GRACE: Duration = Duration::from_secs(10);

/// `session.mode`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionMode {
    /// An opaque id.
    Server,
    /// A short-lived access token and a rotating refresh token.
    Jwt(JwtSessions),
}

/// `[session.jwt]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSessions {
    /// `aud` of access tokens that others verify; `None`: they are sealed, and nobody else reads them.
    pub audience: Option<String>,
    /// How long an access token lives.
    pub access_lifetime: Duration,
    /// How long the refresh token before the last is answered with the same successor.
    pub grace: Duration,
}

/// `[signing]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signing {
    /// `iss` of what this gateway signs.
    pub issuer: Option<String>,
    /// Ed25519 instead of P-256.
    pub eddsa: bool,
}

/// `mode`, and `[session.jwt]` where it is "jwt".
pub(super) fn session_mode(session: &mut Table<'_, '_>) -> Option<SessionMode> {
    const ACCEPTED: &str = "\"server\" or \"jwt\"";
    let mode = session.text("mode", ACCEPTED);
    let table = session.table("jwt");
    let place = table.as_ref().map(|table| table.span().clone());
    let jwt = jwt(table);
    match mode {
        None if session.has_problem("mode") => None,
        Some(At { value, span, .. }) if value != "server" && value != "jwt" => {
            let near = did_you_mean(&value, ["server", "jwt"]);
            session.problem(&span, "mode", format!("`{value}` is no mode; write {ACCEPTED}{near}"));
            None
        }
        Some(At { value, .. }) if value == "jwt" => Some(jwt),
        _ => {
            if let Some(span) = place {
                session.problem(&span, "jwt", "stands without `mode = \"jwt\"`; write that, or leave this out");
                return None;
            }
            Some(SessionMode::Server)
        }
    }
}

fn jwt(table: Option<Table<'_, '_>>) -> SessionMode {
    let mut jwt = JwtSessions { audience: None, access_lifetime: ACCESS_LIFETIME, grace: GRACE };
    let Some(mut table) = table else { return SessionMode::Jwt(jwt) };
    const ACCEPTED: &str = "\"sealed\" or \"jws\"";
    let format = table.text("format", ACCEPTED);
    jwt.audience = table.text("audience", "what access tokens carry as `aud`").map(|at| at.value);
    let signed = match &format {
        Some(At { value, .. }) if value == "jws" => true,
        Some(At { value, span, .. }) if value != "sealed" => {
            table.problem(span, "format", format!("`{value}` is no format; write {ACCEPTED}"));
            false
        }
        _ => false,
    };
    if signed && jwt.audience.as_ref().is_none_or(String::is_empty) && !table.has_problem("audience") {
        table.missing_beside("audience", "write what access tokens carry as `aud`, for those who verify them");
    }
    if !signed && jwt.audience.take().is_some() && !table.has_problem("format") {
        let span = table.span().clone();
        table.problem(&span, "audience", "is for tokens that others verify; write `format = \"jws\"` or leave it out");
    }
    if let Some(life) = table.duration("access_lifetime", MINUTE..LONGEST_ACCESS) {
        jwt.access_lifetime = life.value;
    }
    if let Some(grace) = table.duration("grace", Duration::ZERO..MINUTE) {
        jwt.grace = grace.value;
    }
    table.done();
    SessionMode::Jwt(jwt)
}

/// `[signing]`; the issuer has to be there where something is signed for others.
pub(super) fn signing(root: &mut Table<'_, '_>, session: Option<&SessionConfig>) -> Option<Signing> {
    const ISSUER: &str = "what the gateway's tokens carry as `iss`, such as \"https://gateway.example.com\"";
    let mut signing = Signing { issuer: None, eddsa: false };
    let needs = session.is_some_and(|session| matches!(&session.mode, SessionMode::Jwt(jwt) if jwt.audience.is_some()));
    let Some(mut table) = root.table("signing") else {
        if needs && !root.found("signing") {
            root.missing_beside("signing", &format!("write [signing] with `issuer`, {ISSUER}"));
            return None;
        }
        return Some(signing);
    };
    signing.issuer = table.text("issuer", ISSUER).map(|at| at.value).filter(|issuer| !issuer.is_empty());
    if signing.issuer.is_none() && !table.has_problem("issuer") {
        table.missing("issuer", &format!("write {ISSUER}"));
    }
    let algorithm = table.text("algorithm", "\"ES256\" or \"EdDSA\"");
    match algorithm {
        Some(At { value, .. }) if value == "EdDSA" => signing.eddsa = true,
        Some(At { value, span, .. }) if value != "ES256" => {
            table.problem(
                &span,
                "algorithm",
                format!("`{value}` is not signed with here; write \"ES256\" or \"EdDSA\""),
            );
        }
        _ => {}
    }
    table.done();
    Some(signing)
}

/// Where a route signs identities, somebody has to be named who does.
pub(super) fn require_issuer(root: &mut Table<'_, '_>, signing: Option<&Signing>, routes: &[(usize, Route)]) {
    let signed = routes.iter().find(|(_, route)| route.options.signed_identity.is_some());
    let is_unsigned = |signing: &Signing| signing.issuer.is_none() && !root.has_problem("signing.issuer");
    if let Some((index, route)) = signed.filter(|_| signing.is_some_and(is_unsigned)) {
        let key = format!("route[{index}].signed_identity");
        root.problem_at_line(route.line, &key, "nobody signs it; write [signing] with `issuer`");
    }
}

/// The headers that signed identities stand in are stripped like any other that tells of an identity, on every route.
pub(super) fn own_signed(headers: Option<IdentityHeaders>, routes: Option<&RouteTable>) -> Option<IdentityHeaders> {
    let mut headers = headers?;
    for route in routes.into_iter().flat_map(|table| table.routes()) {
        if let Some(signed) = &route.options.signed_identity {
            headers.own(&signed.header).ok()?;
        }
    }
    Some(headers)
}
