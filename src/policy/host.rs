//! Hosts: what a request names, and what a route asks for. One decision: hosts are compared lower-case, without port, and a
//! name that two parsers could read differently is refused. Knows nothing of DNS.

use std::borrow::Cow;

/// Why an authority is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    /// Empty, or a byte that no host name holds (blank, `@`, `/`, `,`, `%`, non-ASCII …).
    Malformed,
    /// The port is not a number of 1 to 5 digits.
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
        let valid_port = |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
        if !port.is_empty() && !port.strip_prefix(':').is_some_and(valid_port) {
            return Err(HostError::Port);
        }
        if !valid_name(name) {
            return Err(HostError::Malformed);
        }
        let upper = name.bytes().any(|byte| byte.is_ascii_uppercase());
        Ok(Host(if upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) }))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Labels of letters, digits, `-` and `_`, or an address in brackets. No trailing dot: `app.example.com.` is another string
/// than `app.example.com` to a virtual host, and the same host to DNS.
fn valid_name(name: &str) -> bool {
    if let Some(address) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |label: &[u8]| {
        !label.is_empty() && label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= 253 && name.as_bytes().split(|byte| *byte == b'.').all(label)
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
