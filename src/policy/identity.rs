//! Who is calling. One decision: *anonymous*, *rejected* and *could not ask* are three different values; the last one is an
//! error and never reaches this room. Knows nothing of cookies, tokens or stores.

use std::sync::Arc;
use std::time::Duration;

use super::role::RoleSet;
use super::told::Told;

/// How an identity was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By a session cookie.
    Session,
    /// By a bearer token.
    Token,
}

/// A sign-in, as far as routes ask about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedIn {
    /// Where: `local`, or an OpenID provider's name in the file; the issuer of one that is not there any more.
    pub login: String,
    /// When the person last proved who they are, since the Unix epoch.
    pub at: Duration,
    /// How strongly, as the provider calls it (`acr`).
    pub acr: Option<String>,
}

impl SignedIn {
    /// Whether who proved it at this moment did so recently enough. The one place that says so, of a provider's answer as of every
    /// request that follows it.
    pub fn is_recent(at: Duration, most: Duration, now: Duration) -> bool {
        now.saturating_sub(at) <= most
    }
}

/// Facts about a caller, as the gateway verified them. Laid out as written: what each request asks for first lies together.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Identity {
    /// Declared roles held.
    pub roles: RoleSet,
    /// How it was proven.
    pub proof: Proof,
    /// The user id that applications see.
    pub subject: String,
    /// Name for display.
    pub name: Option<String>,
    /// E-mail address.
    pub email: Option<String>,
    /// The names of the roles, for the header, in the order of declaration.
    pub role_names: Vec<String>,
    /// The sign-in; `None` for a bearer token, which no route that asks for one takes.
    pub signed_in: Option<SignedIn>,
}

/// An identity with the headers that tell an application of it, rendered once and kept beside it in the cache. Laid out as written.
#[derive(Debug)]
#[repr(C)]
pub struct Caller {
    /// Ready header lines.
    pub headers: Told,
    /// Who.
    pub identity: Identity,
}

/// Why a presented credential was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Not one of ours, or changed.
    Forged,
    /// Well made, but there is no such session (any more).
    Unknown,
    /// Unused for longer than the idle limit.
    Idle,
    /// Past its absolute end.
    Expired,
    /// Ended by its user or an administrator.
    Revoked,
    /// A refresh token was used twice: its session was ended.
    Reused,
    /// The session stands, but the user file has nobody to go with it: removed, disabled, or not there yet.
    UserUnknown,
    /// A bearer token that does not hold.
    Token(BadToken),
}

/// What is wrong with a bearer token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadToken {
    /// Longer than any token.
    TooLarge,
    /// Not three parts of base64url that hold JSON objects without repeated names.
    Malformed,
    /// A header that asks for what is not done here.
    Header,
    /// An algorithm that is not the key's.
    Algorithm,
    /// A token of another kind.
    Kind,
    /// Nobody whose tokens are accepted.
    Issuer,
    /// For somebody else.
    Audience,
    /// A claim is missing, or not of its type.
    Claims,
    /// Names nobody.
    Subject,
    /// Past its end.
    Expired,
    /// Before its beginning.
    NotYet,
    /// Counts longer than is accepted.
    TooLong,
    /// Names a key that its issuer does not have.
    UnknownKey,
    /// The signature does not hold.
    Signature,
    /// Revoked before its end.
    Revoked,
    /// Worth nothing without proof of a key that nobody here asks for.
    Bound,
}

impl BadToken {
    /// A stable name for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            BadToken::TooLarge => "token_too_large",
            BadToken::Malformed => "token_malformed",
            BadToken::Header => "token_header",
            BadToken::Algorithm => "token_algorithm",
            BadToken::Kind => "token_kind",
            BadToken::Issuer => "token_issuer",
            BadToken::Audience => "token_audience",
            BadToken::Claims => "token_claims",
            BadToken::Subject => "token_subject",
            BadToken::Expired => "token_expired",
            BadToken::NotYet => "token_not_yet",
            BadToken::TooLong => "token_too_long",
            BadToken::UnknownKey => "token_unknown_key",
            BadToken::Signature => "token_signature",
            BadToken::Revoked => "token_revoked",
            BadToken::Bound => "token_bound",
        }
    }
}

impl Rejection {
    /// A stable name for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Rejection::Forged => "credential_forged",
            Rejection::Unknown => "session_unknown",
            Rejection::Idle => "session_idle",
            Rejection::Expired => "session_expired",
            Rejection::Revoked => "session_revoked",
            Rejection::Reused => "refresh_token_reused",
            Rejection::UserUnknown => "user_unknown",
            Rejection::Token(bad) => bad.as_str(),
        }
    }
}

/// The result of asking who calls.
#[derive(Clone, Debug)]
pub enum Authentication {
    /// No credential was presented (or the route reads none).
    Anonymous,
    /// A credential was presented and holds.
    Identified(Arc<Caller>),
    /// A credential was presented and does not hold.
    Rejected(Rejection),
}
