//! Who the client is: of a list in `X-Forwarded-For` the first address from the right that no listed proxy has; of a PROXY header what
//! another reader of its lines takes from it, and not a byte of what follows.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue};

use crate::proxy::{Connection, ForwardedStyle, Forwarding};
use crate::server::read_proxy_header;

use super::io::block_on;

static FORWARDING: LazyLock<Forwarding> = LazyLock::new(|| {
    let trusted = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().expect("a net")).to_vec();
    Forwarding { trusted, style: ForwardedStyle::Both }
});

/// `data` is lines of `X-Forwarded-For`, or what a connection begins with.
pub fn hold(data: &[u8]) {
    named_by_proxies(data);
    let mut rest = data;
    let Ok(named) = block_on(read_proxy_header(&mut rest)) else { return };
    let used = &data[..data.len() - rest.len()];
    if used.starts_with(b"PROXY ") {
        assert!(used.ends_with(b"\r\n") && used.len() <= 107, "{used:?}");
        let line = String::from_utf8_lossy(&used[..used.len() - 2]);
        let words: Vec<&str> = line.split(' ').collect();
        match (words[1], named) {
            // Whatever follows is to be passed over.
            (word, None) => assert!(word.starts_with("UNKNOWN"), "{line:?}"),
            ("TCP4" | "TCP6", Some(source)) => {
                let (address, port): (IpAddr, u16) = (words[2].parse().unwrap(), words[4].parse().unwrap());
                assert_eq!((words.len(), source), (6, SocketAddr::new(address, port)), "{line:?}");
                assert_eq!(address.is_ipv4(), words[1] == "TCP4", "{line:?}");
            }
            (_, Some(_)) => panic!("{named:?} of {line:?}"),
        }
    } else {
        let length = usize::from(u16::from_be_bytes([used[14], used[15]]));
        assert_eq!(used.len(), 16 + length);
        let (version, command, family) = (used[12] >> 4, used[12] & 15, used[13]);
        assert!(version == 2 && command <= 1, "{used:?}");
        let v4 = |at: usize| <[u8; 4]>::try_from(&used[at..at + 4]).unwrap();
        let port = |at: usize| u16::from_be_bytes([used[at], used[at + 1]]);
        let expected: Option<SocketAddr> = match (command, family >> 4) {
            (1, 1) => Some((v4(16), port(24)).into()),
            (1, 2) => Some((<[u8; 16]>::try_from(&used[16..32]).unwrap(), port(48)).into()),
            _ => None,
        };
        assert_eq!(named, expected, "{used:?}");
    }
}

fn named_by_proxies(data: &[u8]) {
    let lines: Result<Vec<HeaderValue>, _> = data.split(|byte| *byte == b'\n').map(HeaderValue::from_bytes).collect();
    let Ok(lines) = lines else { return };
    let name = http::HeaderName::from_static("x-forwarded-for");
    let headers: HeaderMap = lines.iter().map(|line| (name.clone(), line.clone())).collect();
    for peer in ["192.0.2.7", "10.0.0.1", "fd00::1", "::ffff:10.0.0.1"] {
        let peer: IpAddr = peer.parse().expect("an address");
        let trace = FORWARDING.trace(&Connection::new((peer, 1).into(), None), &headers);
        let expected = client(peer.to_canonical(), &lines);
        assert_eq!(trace.client, expected, "{peer} {lines:?}");
        let chain = trace.for_line().expect("a line").to_str().expect("text").to_owned();
        let chain: Vec<IpAddr> = chain.split(", ").map(|hop| hop.parse().expect("an address")).collect();
        assert_eq!((chain.first(), chain.last()), (Some(&expected), Some(&peer.to_canonical())), "{lines:?}");
        assert!(chain[1..].iter().all(|hop| trusted(*hop)), "{chain:?}");
        let nodes = trace.standard_line("host").expect("a line");
        assert_eq!(nodes.to_str().expect("text").matches("for=").count(), chain.len());
    }
}

fn trusted(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[0] == 10,
        IpAddr::V6(address) => address.octets()[0] == 0xfd,
    }
}

/// As in RFC 7239 §7.4, without looking at more hops than are read.
fn client(peer: IpAddr, lines: &[HeaderValue]) -> IpAddr {
    let whole: Vec<&[u8]> = lines.iter().map(HeaderValue::as_bytes).collect();
    let whole = whole.join(&b',');
    let mut client = peer;
    for hop in whole.split(|byte| *byte == b',').rev().take(32) {
        if !trusted(client) {
            break;
        }
        let Some(next) = str::from_utf8(hop).ok().and_then(|hop| hop_of(hop.trim_ascii())) else { break };
        client = next;
    }
    client
}

/// An address, or one with a port, or in brackets with whatever behind them.
fn hop_of(hop: &str) -> Option<IpAddr> {
    let bracketed = || hop.strip_prefix('[')?.split(']').next().filter(|_| hop.contains(']'))?.parse().ok();
    let with_port = || {
        let (address, port) = hop.rsplit_once(':')?;
        let four = address.parse::<std::net::Ipv4Addr>().ok()?;
        port.parse::<u16>().ok().filter(|_| port.bytes().all(|byte| byte.is_ascii_digit())).map(|_| IpAddr::V4(four))
    };
    hop.parse().ok().or_else(bracketed).or_else(with_port).map(|address: IpAddr| address.to_canonical())
}
