//! Documents of other parties: what OpenID providers and key servers say over HTTPS.
//!
//! One decision: an answer is bounded in time and size and is never a redirect; what it claims to be is not believed. Nothing is
//! kept between two calls but the trust: such documents are asked for rarely, and a connection of its own cannot be poisoned
//! by the one before. Runs on whatever runtime calls it. Knows nothing of what the documents mean.

mod address;
mod client;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::trust::ClientTlsFiles;

pub use address::{Address, AddressError};
pub use client::{Client, Credential};

/// What a provider's key set or discovery document may have; real ones stay below a tenth of it.
pub const MOST_BYTES: usize = 1024 * 1024;
/// From the look-up of the name to the last byte. A person waits for it at sign-in.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// How documents are asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whom to trust, and the certificate shown where one is asked for.
    pub tls: ClientTlsFiles,
    /// Bytes of an answer's body.
    pub most_bytes: usize,
    /// For the whole exchange.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { tls: ClientTlsFiles::default(), most_bytes: MOST_BYTES, timeout: TIMEOUT }
    }
}

/// An answer, whatever its status. Only a redirect is none.
#[derive(Clone, Debug)]
pub struct Document {
    /// Status.
    pub status: StatusCode,
    /// Headers. What they say of the content's type is not to be relied upon.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// What was being done when it went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Looking up the name and connecting.
    Connect,
    /// The TLS handshake, the certificate's check included.
    Secure,
    /// Sending the request, and waiting for the head of the answer.
    Ask,
    /// Reading the body.
    Read,
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection.
    #[error("{0} cannot be reached")]
    Connect(Address, #[source] std::io::Error),
    /// No trust.
    #[error("no trusted connection to {0}")]
    Secure(Address, #[source] std::io::Error),
    /// The connection broke, or what came was not HTTP.
    #[error("{0} broke the exchange off")]
    Exchange(Address, #[source] hyper::Error),
    /// A redirect: whoever answers must not choose who is asked next, with our credentials in hand.
    #[error("{0} answers with a redirect ({1}), which is not followed")]
    Redirect(Address, StatusCode),
    /// The body is larger than accepted.
    #[error("the answer of {0} is too large")]
    TooLarge(Address),
    /// The body broke off.
    #[error("the answer of {0} broke off")]
    Body(Address, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// It took too long.
    #[error("{0} is too slow ({1})")]
    Timeout(Address, Step),
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Step::Connect => "connecting",
            Step::Secure => "TLS handshake",
            Step::Ask => "waiting for an answer",
            Step::Read => "reading the answer",
        })
    }
}
