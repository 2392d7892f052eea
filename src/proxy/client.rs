//! Who the client is when other proxies stand before us. One decision: only a listed proxy is believed, hop by hop from the
//! right, and the first address that is not one of them is the client's; whatever stands to its left anybody may have written
//! (RFC 7239 §8.1). Knows nothing of what addresses are used for.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::Connection;

pub(super) static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Hops that are read; a longer list is cut as if the rest were not there.
const MOST_HOPS: usize = 32;

/// Which of the forwarding headers an application gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedStyle {
    /// `X-Forwarded-For`, `-Host`, `-Proto`.
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Standard,
    /// Both.
    Both,
    /// None: it learns nothing of the client's address.
    Nothing,
}

/// What is believed and what is told of the way a request came.
#[derive(Clone, Debug)]
pub struct Forwarding {
    /// Proxies whose word is taken.
    pub trusted: Vec<IpNet>,
    /// What applications are told in.
    pub style: ForwardedStyle,
}

/// The way of one request.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The client.
    pub client: IpAddr,
    /// The client, as text.
    pub shown: HeaderValue,
    /// The client and the proxies behind it, ready to send; `None`: the client alone.
    chain: Option<String>,
}

impl Forwarding {
    /// Whether this address is a trusted proxy's.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|net| net.contains(&address))
    }

    /// The way of a request that came over this connection.
    pub fn trace(&self, connection: &Connection, headers: &HeaderMap) -> Trace {
        let last = connection.peer.ip().to_canonical();
        let mut trace = Trace { client: last, shown: connection.shown.clone(), chain: None };
        // Whoever stands behind a proxy that names nobody wrote the rest: an address that they made up would be the one that is
        // throttled and recorded.
        if connection.unnamed || !self.trusts(last) {
            return trace;
        }
        // Bytes, whatever they are: a line that were skipped for what a client wrote into it would take the proxy's own word with it, and
        // the line before is the client's alone.
        let lines = headers.get_all(&FORWARDED_FOR).iter().rev().map(HeaderValue::as_bytes);
        let mut chain = Vec::new();
        for hop in lines.flat_map(|line| line.rsplit(|byte| *byte == b',')).take(MOST_HOPS) {
            // What is no address is nobody's word: the last one before it stands.
            let Some(address) = address(hop) else { break };
            chain.push(address);
            trace.client = address;
            if !self.trusts(address) {
                break;
            }
        }
        if !chain.is_empty() {
            chain.reverse();
            chain.push(last);
            trace.shown = text(trace.client);
            trace.chain = Some(chain.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", "));
        }
        trace
    }
}

/// An address as the text of a header.
pub(super) fn text(address: IpAddr) -> HeaderValue {
    HeaderValue::from_str(&address.to_string()).expect("digits, dots and colons are a header value")
}

/// An address with or without a port, as load balancers write it.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(hop.trim_ascii()).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(address, _)| address);
    let parsed = text.parse::<IpAddr>().ok().or_else(|| bare?.parse().ok());
    let parsed = parsed.or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()));
    parsed.map(|address| address.to_canonical())
}

impl Trace {
    /// `X-Forwarded-For`.
    pub fn for_line(&self) -> Option<Cow<'_, HeaderValue>> {
        match &self.chain {
            Some(chain) => HeaderValue::from_str(chain).ok().map(Cow::Owned),
            None => Some(Cow::Borrowed(&self.shown)),
        }
    }

    /// `Forwarded`: each hop as a node (RFC 7239 §6), the newest with what it asked for.
    pub fn standard_line(&self, host: &str) -> Option<HeaderValue> {
        let node = |address: &str| {
            if address.contains(':') { format!("for=\"[{address}]\"") } else { format!("for={address}") }
        };
        let hops = self.chain.as_deref().or(self.shown.to_str().ok())?;
        let nodes: Vec<String> = hops.split(", ").map(node).collect();
        HeaderValue::from_str(&format!("{};host=\"{host}\";proto=https", nodes.join(", "))).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{Cow, ForwardedStyle, Forwarding, HeaderValue};
    use crate::proxy::Connection;
    use http::HeaderMap;

    fn client(peer: &str, lines: &[&str]) -> (String, String, String) {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap()).to_vec();
        let forwarding = Forwarding { trusted, style: ForwardedStyle::Both };
        let connection = Connection::new(peer.parse().unwrap(), None);
        let line = |line: &&str| (super::FORWARDED_FOR.clone(), HeaderValue::from_bytes(line.as_bytes()).unwrap());
        let headers = lines.iter().map(line).collect::<HeaderMap>();
        let trace = forwarding.trace(&connection, &headers);
        let text = |value: Option<http::HeaderValue>| value.unwrap().to_str().unwrap().to_owned();
        (trace.client.to_string(), text(trace.for_line().map(Cow::into_owned)), text(trace.standard_line("a")))
    }

    /// attacks: an unlisted peer, a forged left end, and what is no address are not believed.
    #[test]
    fn the_first_address_from_the_right_that_is_not_a_trusted_proxy() {
        let rows: [(&str, &[&str], &str, &str); 12] = [
            ("192.0.2.1:1", &["6.6.6.6"], "192.0.2.1", "192.0.2.1"),
            ("10.0.0.1:1", &[], "10.0.0.1", "10.0.0.1"),
            ("10.0.0.1:1", &["192.0.2.1"], "192.0.2.1", "192.0.2.1, 10.0.0.1"),
            ("10.0.0.1:1", &["6.6.6.6, 192.0.2.1, 10.0.0.2"], "192.0.2.1", "192.0.2.1, 10.0.0.2, 10.0.0.1"),
            ("10.0.0.1:1", &["6.6.6.6", "192.0.2.1:4711"], "192.0.2.1", "192.0.2.1, 10.0.0.1"),
            ("10.0.0.1:1", &["6.6.6.6, unknown"], "10.0.0.1", "10.0.0.1"),
            ("10.0.0.1:1", &["6.6.6.6, evil, 10.0.0.3"], "10.0.0.3", "10.0.0.3, 10.0.0.1"),
            // A proxy adds what it knows to what the client wrote.
            ("10.0.0.1:1", &["6.6.6.6", "\u{ff}, 192.0.2.1"], "192.0.2.1", "192.0.2.1, 10.0.0.1"),
            ("10.0.0.1:1", &["6.6.6.6, \u{ff}, 10.0.0.3"], "10.0.0.3", "10.0.0.3, 10.0.0.1"),
            ("10.0.0.1:1", &["6.6.6.6", "\u{ff}"], "10.0.0.1", "10.0.0.1"),
            ("[fd00::1]:1", &["[2001:db8::1]:2"], "2001:db8::1", "2001:db8::1, fd00::1"),
            ("[::ffff:10.0.0.1]:1", &["192.0.2.1"], "192.0.2.1", "192.0.2.1, 10.0.0.1"),
        ];
        for (peer, lines, expected, chain) in rows {
            let (address, told, _) = client(peer, lines);
            assert_eq!((address.as_str(), told.as_str()), (expected, chain), "{peer} {lines:?}");
        }
        let (_, _, standard) = client("[fd00::1]:1", &["192.0.2.1"]);
        assert_eq!(standard, "for=192.0.2.1, for=\"[fd00::1]\";host=\"a\";proto=https");
    }
}
