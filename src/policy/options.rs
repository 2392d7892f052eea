//! What a route does to a request beside letting it pass. One decision: these are plain values, read and checked with the
//! file; the path that comes out of a rewrite is matched again, so that no rewrite leads around a rule. Knows nothing of how
//! they are carried out.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use super::identity_headers::{is_alias, is_alias_or_variable};
use super::path::PathPrefix;

/// Options of a route. The default changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteOptions {
    /// What takes the place of the route's own prefix in the path; `/` strips it.
    pub prefix: Option<PathPrefix>,
    /// What the application sees as `Host`.
    pub host: HostHeader,
    /// Whether a `Destination` is told to the application as it is spoken to itself, without TLS.
    pub plain_destination: bool,
    /// Until the response head; `None`: as the upstream has it.
    pub response_timeout: Option<Duration>,
    /// How long an answer, an upload beside it or a WebSocket may stand still; `None`: as long as it likes.
    pub idle_timeout: Option<Duration>,
    /// Bytes of a request body; `None`: as `[limits]` has it.
    pub body_bytes: Option<u64>,
    /// Changes to the request's header list.
    pub request: HeaderEdits,
    /// Changes to the answer's.
    pub response: HeaderEdits,
    /// Whether rules tell methods apart at this place or in this application; the table of routes says so.
    pub by_method: bool,
    /// Headers in which other routes hand the application a provider's access token; the table of routes says which.
    pub withheld: Vec<HeaderName>,
    /// Whether a bearer token that was accepted goes on to the application.
    pub forward_token: bool,
    /// How the application is told who calls in a way that it can verify.
    pub signed_identity: Option<SignedIdentity>,
    /// Paths with an encoded `/`, `\`, `%` or an empty segment pass, where they fall under this route however they are read.
    pub encoded_slashes: bool,
    /// Requests here are no activity: they keep no session alive.
    pub passive: bool,
    /// What a WebSocket is closed with when its session or token ends; `None`: with 1008 (RFC 6455 §7.4.1).
    pub close_code: Option<u16>,
    /// What is done with a CORS preflight, which never carries a credential.
    pub preflight: Preflight,
}

impl RouteOptions {
    /// Whether a field of this name stays behind, in whatever spelling.
    pub fn removes(&self, name: &str) -> bool {
        // Verb tampering: the application would carry out another method than the rules were asked about.
        self.request.owns(name)
            || (self.by_method && METHOD_OVERRIDES.iter().any(|known| is_alias(known, name)))
            || self.withheld.iter().any(|own| is_alias_or_variable(own.as_str(), name))
    }
}

/// Fields in which clients ask applications to take another method for the request's own.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

/// What a route asks of the sign-in itself. The default asks nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignInRule {
    /// The place where one has to be signed in; `None`: any.
    pub login: Option<String>,
    /// How long ago the person may have proven who they are; `None`: any time within the session.
    pub max_auth_age: Option<Duration>,
    /// How strongly it was proven, one of these (`acr`, OpenID Connect Core §2); empty: in any way.
    pub acr: Vec<String>,
    /// The header in which the application is handed the provider's access token.
    pub access_token: Option<HeaderName>,
}

/// A statement of who calls, signed for one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedIdentity {
    /// The header it stands in. Owned like any identity header: no client sets it, on no route.
    pub header: HeaderName,
    /// `aud`: the application that it is for.
    pub audience: String,
}

/// What the application sees as `Host`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostHeader {
    /// What the client asked for.
    #[default]
    Keep,
    /// This.
    Fixed(HeaderValue),
}

/// Header lines set and removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Set, whatever was there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Removed.
    pub remove: Vec<HeaderName>,
}

impl HeaderEdits {
    /// Whether a name is set or removed here, in whatever spelling: `X_Tenant` shadows `X-Tenant` to a server that folds names.
    pub fn owns(&self, name: &str) -> bool {
        let mut names = self.set.iter().map(|(name, _)| name).chain(&self.remove);
        names.any(|own| is_alias(own.as_str(), name))
    }
}

/// What is done with a CORS preflight (Fetch §4.8): a browser's question before it asks with a credential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Preflight {
    /// Treated as any other request.
    #[default]
    Ask,
    /// Passed on without a credential, for the application to answer.
    Pass,
    /// Answered here, and answers of the route are marked for these origins.
    Answer(Cors),
}

/// Who may read the answers of a route from another site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Origins, exactly as browsers send them.
    pub origins: Vec<String>,
    /// Methods.
    pub methods: Vec<Method>,
    /// Request headers beyond the harmless ones.
    pub headers: Vec<HeaderName>,
    /// How long a browser may remember the answer.
    pub max_age: Duration,
}

impl Cors {
    /// Whether answers are for this origin.
    pub fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| allowed == origin)
    }
}
