//! Hosts: what a request names, and what a route asks for. One decision: hosts are compared lower-case, without port, and a
//! name that two parsers could read differently is refused. Knows nothing of DNS.

use std::borrow::Cow;

/// Why an authority is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    /// Empty, or a byte that no host name holds (blank, `@`, `/`, `,`, `%`, non-ASCII …).
    Malformed,
    /// The port is no number up to 65535, of 1 to 5 digits.
    Port,
}

/// A host without its port, lower-case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host<'r>(Cow<'r, str>);

impl<'r> Host<'r> {
    /// Read `host[:port]` (RFC 9110 §7.2; userinfo is refused). Allocates only where a letter has to be lowered.
    pub fn parse(authority: &'r str) -> Result<Host<'r>, HostError> {
        let (name, port) = match authority.strip_prefix('[') {
            Some(_) => {
                let end = authority.find(']').ok_or(HostError::Malformed)?;
                (&authority[..=end], &authority[end + 1..])
            }
            None => authority.split_at(authority.bytes().position(|byte| byte == b':').unwrap_or(authority.len())),
        };
        let is_digits = |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
        // Another parser would wrap a larger one around, or take it for part of the name.
        let valid_port = |port: &str| is_digits(port) && (port.len() < 5 || port <= "65535");
        if !port.is_empty() && !port.strip_prefix(':').is_some_and(valid_port) {
            return Err(HostError::Port);
        }
        match spelling(name) {
            Spelling::Lower => Ok(Host(Cow::Borrowed(name))),
            Spelling::Mixed => Ok(Host(Cow::Owned(name.to_ascii_lowercase()))),
            Spelling::None => Err(HostError::Malformed),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How a name is written.
enum Spelling {
    /// In small letters.
    Lower,
    /// In others too.
    Mixed,
    /// In what no name is written in.
    None,
}

/// Labels of letters, digits, `-` and `_`, or an address in brackets. No trailing dot: `app.example.com.` is another string
/// than `app.example.com` to a virtual host, and the same host to DNS. In one pass: each request has one.
fn spelling(name: &str) -> Spelling {
    if let Some(address) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let upper = address.bytes().any(|byte| byte.is_ascii_uppercase());
        return match address.parse::<std::net::Ipv6Addr>() {
            Ok(_) if upper => Spelling::Mixed,
            Ok(_) => Spelling::Lower,
            Err(_) => Spelling::None,
        };
    }
    if name.len() > 253 {
        return Spelling::None;
    }
    let (mut upper, mut in_label) = (false, false);
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => in_label = true,
            b'A'..=b'Z' => (upper, in_label) = (true, true),
            b'.' if in_label => in_label = false,
            _ => return Spelling::None,
        }
    }
    match (in_label, upper) {
        (false, _) => Spelling::None,
        (true, false) => Spelling::Lower,
        (true, true) => Spelling::Mixed,
    }
}

/// Which hosts a route answers for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// Every host: the route names none.
    Any,
    /// `*.example.com`: one or more labels before the suffix; holds `.example.com`. Not `example.com` itself.
    Under(String),
    /// Exactly this one.
    Exact(String),
}

impl HostPattern {
    /// Read `app.example.com` or `*.example.com`, without a port.
    pub fn parse(text: &str) -> Result<HostPattern, HostError> {
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if name.contains(':') && !name.starts_with('[') {
            return Err(HostError::Port);
        }
        let host = Host::parse(name)?;
        Ok(match wildcard {
            true => HostPattern::Under(format!(".{}", host.as_str())),
            false => HostPattern::Exact(host.as_str().to_owned()),
        })
    }

    /// Whether it covers a host.
    pub fn covers(&self, host: &str) -> bool {
        match self {
            HostPattern::Any => true,
            HostPattern::Under(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
            HostPattern::Exact(name) => name == host,
        }
    }
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HostPattern::Any => f.write_str("any host"),
            HostPattern::Under(suffix) => write!(f, "*{suffix}"),
            HostPattern::Exact(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Host, HostError};
    use proptest::prelude::*;

    #[test]
    fn a_host_has_one_spelling_and_no_port() {
        for (authority, host) in [
            ("app.example.com", "app.example.com"),
            ("App.Example.COM:8443", "app.example.com"),
            ("a_b-1:1", "a_b-1"),
            ("a:65535", "a"),
            ("a:00080", "a"),
            ("127.0.0.1:443", "127.0.0.1"),
            ("[::1]:443", "[::1]"),
            ("[FE80::1]", "[fe80::1]"),
        ] {
            assert_eq!(Host::parse(authority).map(|host| host.as_str().to_owned()), Ok(host.to_owned()), "{authority}");
        }
        for authority in ["", ".", "a.", ".a", "a..b", "a b", "u@a", "a/b", "a,b", "ä", "[::1", "[a]", "[]", "a[b]"] {
            assert_eq!(Host::parse(authority), Err(HostError::Malformed), "{authority}");
        }
        for authority in ["a:", "a:x", "a:65536", "a:99999", "a:123456", "a:80:80", "a:+80", ":x", "[::1]80"] {
            assert_eq!(Host::parse(authority), Err(HostError::Port), "{authority}");
        }
        assert!(Host::parse(&"a".repeat(253)).is_ok() && Host::parse(&"a".repeat(254)).is_err());
    }

    proptest! {
        #[test]
        fn a_name_is_labels_between_dots(name in "[a-zA-Z0-9._ %-]{0,12}") {
            let label = |label: &str| {
                !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            };
            let expected = name.split('.').all(label).then(|| name.to_ascii_lowercase());
            prop_assert_eq!(Host::parse(&name).ok().map(|host| host.as_str().to_owned()), expected);
        }
    }
}
