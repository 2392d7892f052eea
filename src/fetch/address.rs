//! Where a document is. One decision: only `https`, and plain `http` only to this machine, where it is allowed at all: secrets and
//! keys travel this way. Knows nothing of connections.

use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not a URL with a host.
    #[error("is not a URL")]
    Malformed,
    /// A name and password in it, or a fragment: both are read differently by different readers.
    #[error("carries a user name or a fragment")]
    Extra,
    /// Plain HTTP to another machine, or another scheme.
    #[error("is not https")]
    NotSecure,
}

/// An absolute URL that may be asked.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    secure: bool,
    host: String,
    port: u16,
    target: PathAndQuery,
}

impl Address {
    /// Read one; `plain` allows `http` to this machine.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn parse(text: &str, plain: bool) -> Result<Address, AddressError> {
        if text.contains('#') {
            return Err(AddressError::Extra);
        }
        let uri: Uri = text.parse().map_err(|_| AddressError::Malformed)?;
        let authority = uri.authority().ok_or(AddressError::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(AddressError::Extra);
        }
        let host = authority.host().to_ascii_lowercase();
        // The parser calls a port that is no number none at all.
        let port = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
            None => None,
            Some(digits) => Some(digits.parse().ok().filter(|port| *port > 0).ok_or(AddressError::Malformed)?),
        };
        if host.is_empty() {
            return Err(AddressError::Malformed);
        }
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if plain && is_this_machine(&host) => false,
            Some(_) => return Err(AddressError::NotSecure),
            None => return Err(AddressError::Malformed),
        };
        let port = port.unwrap_or(if secure { 443 } else { 80 });
        let target = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Address { secure, host, port, target })
    }

    /// Whether it is asked over TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// What the resolver is asked for.
    pub(super) fn socket(&self) -> (&str, u16) {
        (self.host.trim_start_matches('[').trim_end_matches(']'), self.port)
    }

    pub(super) fn target(&self) -> Uri {
        Uri::from(self.target.clone())
    }

    /// The `Host` line: without the port that the scheme implies (RFC 9110 §7.2).
    pub(super) fn host_line(&self) -> Option<HeaderValue> {
        let usual = if self.secure { 443 } else { 80 };
        let line = if self.port == usual { self.host.clone() } else { format!("{}:{}", self.host, self.port) };
        HeaderValue::from_str(&line).ok()
    }
}

/// By name or number, before anybody is asked: what a resolver says of another name can change.
fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// Without the query: it may carry what logs must not.
impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.target.path())
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, AddressError};

    #[test]
    fn only_https_and_this_machine_are_asked() {
        let read = |text, plain| Address::parse(text, plain).map(|address| address.to_string());
        assert_eq!(read("https://Id.example", false), Ok("https://id.example:443/".into()));
        assert_eq!(read("https://id.example:8443/a?b=c", false), Ok("https://id.example:8443/a".into()));
        assert_eq!(read("http://127.0.0.1:80/", true), Ok("http://127.0.0.1:80/".into()));
        assert_eq!(read("http://[::1]:81", true), Ok("http://[::1]:81/".into()));
        assert_eq!(read("http://localhost:81", true), Ok("http://localhost:81/".into()));
        for text in ["http://127.0.0.1/", "http://id.example/", "ftp://id.example/", "file:///etc/passwd"] {
            let said = read(text, false);
            assert!(matches!(said, Err(AddressError::NotSecure | AddressError::Malformed)), "{text}: {said:?}");
        }
        for text in ["http://id.example/", "http://localhost.evil.example/", "http://127.0.0.1.evil.example/"] {
            assert_eq!(read(text, true), Err(AddressError::NotSecure), "{text}");
        }
        for text in ["https://a@id.example/", "https://id.example/#x"] {
            assert_eq!(read(text, true), Err(AddressError::Extra), "{text}");
        }
        for text in ["", "/a", "id.example", "https://", "https://:443/", "https://id.example:0/", "https://a:x/"] {
            assert_eq!(read(text, true), Err(AddressError::Malformed), "{text}");
        }
    }
}
