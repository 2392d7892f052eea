//! What goes wrong at sign-in with a provider. One decision: whose fault it is chooses the answer – the provider's is an outage or
//! a mistake behind us (503, 502), the person's is a page that says what to do. Knows nothing of rendering.

use std::sync::Arc;

use http::StatusCode;
use serde_json::error::Category;

use crate::fetch::{AddressError, FetchError};
use crate::policy::BadToken;
use crate::session::StoreError;
use crate::token::KeysError;

use super::super::Audit;

/// Why there is no answer from a provider that could be used.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// Nobody there, or too slow.
    #[error("the provider did not answer")]
    Fetch(#[from] FetchError),
    /// It says that it cannot at the moment, or whoever asked it for all who wait did not come to an end.
    #[error("the provider failed a moment ago")]
    Failed,
    /// What another request learnt, a moment ago or while this one waited: nobody asks again for each who waits.
    #[error(transparent)]
    Shared(Arc<ProviderError>),
    /// An answer that is an error.
    #[error("the provider answers {0}")]
    Status(StatusCode),
    /// Its description.
    #[error("the provider's discovery document cannot be used")]
    Metadata(#[from] MetadataError),
    /// Its keys.
    #[error("the provider's keys cannot be had")]
    Keys,
    /// The token endpoint's refusal, by its code (RFC 6749 §5.2).
    #[error("the provider refuses: {0}")]
    Refused(String),
    /// The token endpoint's answer is none.
    #[error("the answer of the token endpoint cannot be read")]
    Answer(#[source] Unreadable),
    /// What userinfo says is no list of claims.
    #[error("the answer of userinfo cannot be read")]
    Userinfo(#[source] Unreadable),
    /// An access token that is to be used in a way that nobody here knows, or that is bound to a key (RFC 6749 §7.1).
    #[error("the token endpoint gives a token that is no bearer token")]
    TokenType,
    /// No ID token in it.
    #[error("the answer of the token endpoint holds no ID token")]
    NoIdToken,
    /// An ID token that does not hold.
    #[error("the ID token does not hold: {}", .0.as_str())]
    IdToken(BadToken),
    /// Its signature was not computed: too many that came with it were bad.
    #[error("too many bad signatures")]
    TooManyFailures,
    /// An ID token that is not for this attempt.
    #[error("the ID token is not for this sign-in: {0}")]
    Other(&'static str),
    /// What userinfo says is about somebody else.
    #[error("userinfo is about another subject than the ID token")]
    OtherSubject,
    /// A claim that is needed and is not there or cannot be used.
    #[error("the provider gives no usable `{0}`")]
    Claim(String),
    /// An assertion could not be signed.
    #[error("the client assertion could not be signed")]
    Assertion,
    /// Many are signing in there.
    #[error("too many sign-ins at once")]
    Busy,
    /// The system's generator.
    #[error("the random generator failed")]
    Random,
}

impl ProviderError {
    /// Whether it is away, as opposed to wrong.
    pub fn is_outage(&self) -> bool {
        match self {
            ProviderError::Shared(error) => error.is_outage(),
            ProviderError::Fetch(FetchError::Redirect(..) | FetchError::TooLarge(_)) => false,
            ProviderError::Fetch(_)
            | ProviderError::Failed
            | ProviderError::Keys
            | ProviderError::Busy
            | ProviderError::TooManyFailures => true,
            ProviderError::Status(status) => is_away(*status),
            ProviderError::Refused(code) => matches!(code.as_str(), "temporarily_unavailable" | "server_error"),
            _ => false,
        }
    }

    /// Whether it says no to us, as opposed to nothing that could be understood.
    pub fn is_refusal(&self) -> bool {
        matches!(self, ProviderError::Refused(_)) && !self.is_outage()
    }

    /// The stable name for the log.
    pub fn as_str(&self) -> &'static str {
        match self {
            ProviderError::Shared(error) => error.as_str(),
            ProviderError::Fetch(FetchError::Redirect(..)) => "redirect",
            ProviderError::Fetch(FetchError::TooLarge(_)) => "too_large",
            ProviderError::Fetch(FetchError::Timeout(..)) => "provider_timeout",
            ProviderError::Fetch(_) => "provider_unreachable",
            ProviderError::Failed => "provider_failing",
            ProviderError::Status(_) => "provider_status",
            ProviderError::Metadata(_) => "provider_metadata",
            ProviderError::Keys => "provider_keys",
            ProviderError::Refused(code) => match code.as_str() {
                "invalid_client" => "refused_invalid_client",
                "unauthorized_client" => "refused_unauthorized_client",
                "temporarily_unavailable" => "refused_temporarily_unavailable",
                _ => "refused",
            },
            ProviderError::Answer(_) => "token_answer",
            ProviderError::Userinfo(_) => "userinfo_answer",
            ProviderError::TokenType => "token_type",
            ProviderError::NoIdToken => "id_token_missing",
            ProviderError::IdToken(bad) => bad.as_str(),
            ProviderError::Other("nonce") => "id_token_nonce",
            ProviderError::Other("azp") => "id_token_azp",
            ProviderError::Other("at_hash") => "id_token_at_hash",
            ProviderError::Other(_) => "id_token_other",
            ProviderError::OtherSubject => "userinfo_subject",
            ProviderError::Claim(name) => match name.as_str() {
                "sub" => "claim_sub",
                "nonce" => "claim_nonce",
                "azp" => "claim_azp",
                _ => "claim",
            },
            ProviderError::Assertion => "assertion",
            ProviderError::Busy => "provider_busy",
            ProviderError::TooManyFailures => "too_many_failures",
            ProviderError::Random => "random",
        }
    }
}

/// A status that says nothing of the person or of us, whatever stands below it: it broke, has too much to do, or was too slow.
pub(super) fn is_away(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

/// Why what a provider wrote is not what it should be. What stands there is not kept: errors are logged, and the library's own words
/// quote it, which may be a token or somebody's address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Nothing at all.
    #[error("it is empty")]
    Empty,
    /// What, and where.
    #[error("{what} at line {line}, column {column}{}", .member.map(|name| format!(", in `{name}`")).unwrap_or_default())]
    At {
        /// The kind of mistake.
        what: &'static str,
        /// From 1.
        line: usize,
        /// From 1; 0 before the first character.
        column: usize,
        /// The member that it is in, where it is one that was looked for.
        member: Option<&'static str>,
    },
}

impl Unreadable {
    /// The same, in this member.
    pub(super) fn within(error: &serde_json::Error, member: Option<&'static str>) -> Unreadable {
        let what = match error.classify() {
            Category::Data => "a value of the wrong type, or none where one is needed,",
            Category::Syntax => "no JSON",
            Category::Eof => "an end too early",
            Category::Io => "a failure to read",
        };
        Unreadable::At { what, line: error.line(), column: error.column(), member }
    }
}

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Unreadable {
        Unreadable::within(&error, None)
    }
}

/// What is wrong with a discovery document (OpenID Connect Discovery §3, §4.3).
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// Not JSON of the right shape.
    #[error("it cannot be read")]
    Malformed(#[source] Unreadable),
    /// Of another issuer.
    #[error("it is of the issuer `{0}`, and `{1}` is configured; the two have to be the same to the last character")]
    Issuer(String, String),
    /// A member is missing.
    #[error("it has no `{0}`")]
    Missing(&'static str),
    /// An address that is not asked.
    #[error("its `{0}` {1}")]
    Address(&'static str, #[source] AddressError),
    /// It says that it cannot do what is needed.
    #[error("it does not offer {0}")]
    Lacks(&'static str),
    /// Keys.
    #[error("its keys cannot be had")]
    Keys(#[source] KeysError),
}

/// Why a request for a page of the gateway has no answer of its own.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A provider.
    #[error("sign-in at `{login}`")]
    Provider {
        /// Which.
        login: Box<str>,
        /// Why.
        #[source]
        source: ProviderError,
        /// Where that refused a sign-in.
        audit: Option<Box<Audit>>,
    },
    /// The store, while it was to begin or end sessions: it may have done so, or do so yet, and somebody has to be able to see that.
    #[error("the store did not say that it is done")]
    Unfinished {
        /// What the store said.
        #[source]
        source: StoreError,
        /// What it was to do.
        audit: Box<Audit>,
    },
}

impl LoginError {
    /// For the audit.
    pub fn audit(&self) -> Option<&Audit> {
        match self {
            LoginError::Unfinished { audit, .. } => Some(audit),
            LoginError::Provider { audit, .. } => audit.as_deref(),
            LoginError::Store(_) => None,
        }
    }
}
