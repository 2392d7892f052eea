//! An application that keeps every byte it is sent, and three judges of it that know nothing of the gateway: whatever a lenient
//! server could read into a path leads past no rule; no name that a lenient server takes for an identity's is another's; and
//! there are as many requests on the wire, for the strictest of readers, as the gateway says that it forwarded.

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::readings::{is_under, within};
use crate::support::Running;
use crate::wire::{Application, serve, whole};

/// Names of identities in every preset, folded: letters and digits, and `-` for every other byte.
const IDENTITIES: &[&str] = &[
    "remote-user",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-preferred-username",
    "x-forwarded-groups",
    "x-auth-request-user",
    "x-auth-request-email",
    "x-auth-request-groups",
    "x-auth-request-preferred-username",
];
/// Readings of one path that are followed; a path of a test has far fewer.
const READINGS: usize = 20_000;

/// One request as the application understood it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: HeaderMap,
    pub trailers: HeaderMap,
    /// Whether the body came to its end.
    pub whole: bool,
}

/// The application. Every answer is 200 `ok`.
pub struct Witness {
    pub application: Application,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// What each connection carried, byte for byte.
    wires: Arc<Mutex<Vec<Wire>>>,
}

type Wire = Arc<Mutex<Vec<u8>>>;

impl Witness {
    /// Start it.
    pub fn start() -> Witness {
        let (seen, wires) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<Mutex<Vec<Wire>>>::default());
        let (told, kept) = (seen.clone(), wires.clone());
        let application = Application::on_streams(move |stream| {
            let (told, wire) = (told.clone(), Wire::default());
            kept.lock().unwrap().push(wire.clone());
            let answer = move |request: http::Request<hyper::body::Incoming>| {
                let told = told.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let number = {
                        let mut told = told.lock().unwrap();
                        told.push(Seen {
                            method: head.method.to_string(),
                            target: head.uri.to_string(),
                            headers: head.headers,
                            ..Seen::default()
                        });
                        told.len() - 1
                    };
                    if let Ok(body) = body.collect().await {
                        let mut told = told.lock().unwrap();
                        told[number].trailers = body.trailers().cloned().unwrap_or_default();
                        told[number].whole = true;
                    }
                    Response::new(whole("ok"))
                }
            };
            serve(Kept { stream, wire }, Arc::new(answer), false)
        });
        Witness { application, seen, wires }
    }

    /// The whole requests that came since the last time, judged: asked for by `caller`, who may not reach what `closed` covers.
    pub fn judge(&self, running: &Running, caller: Option<&str>, closed: impl Fn(&str) -> bool) -> Vec<Seen> {
        let forwarded = self.agree_on_the_count(running);
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        let mut targets: Vec<String> = seen.iter().map(|seen| path(&seen.target).to_owned()).collect();
        let mut logged = forwarded;
        targets.sort();
        logged.sort();
        assert_eq!(targets, logged, "the gateway forwarded something else than it says");
        for request in &seen {
            if let Some(reading) = readings(&request.target).into_iter().find(|reading| closed(reading)) {
                panic!("{} can be read as {reading}", request.target);
            }
            identities(&request.headers, caller);
            identities(&request.trailers, None);
        }
        let wires = std::mem::take(&mut *self.wires.lock().unwrap());
        let whole: usize = wires.iter().map(|wire| strict(&std::mem::take(&mut *wire.lock().unwrap()))).sum();
        self.wires.lock().unwrap().extend(wires);
        let seen: Vec<Seen> = seen.into_iter().filter(|seen| seen.whole).collect();
        assert_eq!(whole, seen.len(), "another reader counts other requests");
        seen
    }

    /// Waits until both sides count the same; the paths that the gateway says it forwarded.
    fn agree_on_the_count(&self, running: &Running) -> Vec<String> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let lines: Vec<serde_json::Value> =
                running.lines.0.lock().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
            let forwarded = lines.iter().filter(|line| line["upstream"].is_string());
            let paths: Vec<String> = forwarded.map(|line| line["path"].as_str().unwrap().to_owned()).collect();
            if paths.len() == self.seen.lock().unwrap().len() {
                running.lines.0.lock().unwrap().clear();
                return paths;
            }
            assert!(Instant::now() < until, "forwarded {paths:?}, but seen {:?}", self.seen.lock().unwrap());
            std::thread::yield_now();
        }
    }
}

fn path(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

/// Whatever name a lenient server takes for an identity's is there once and ours, or, without a caller, not at all.
fn identities(headers: &HeaderMap, caller: Option<&str>) {
    let fold = |name: &str| -> String {
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
    };
    let mut found: Vec<(String, &[u8])> =
        headers.iter().map(|(name, value)| (fold(name.as_str()), value.as_bytes())).collect();
    found.retain(|(name, _)| IDENTITIES.contains(&name.as_str()));
    let Some(caller) = caller else { return assert!(found.is_empty(), "identities of nobody: {headers:?}") };
    let users = found.iter().filter(|(name, _)| name == "x-forwarded-user" || name == "x-forwarded-preferred-username");
    assert!(users.clone().all(|(_, value)| *value == caller.as_bytes()), "not {caller}: {headers:?}");
    assert!(users.count() >= 1, "{caller} is not told: {headers:?}");
    found.sort();
    assert!(found.windows(2).all(|two| two[0].0 != two[1].0), "an identity twice: {headers:?}");
}

/// Every path that some server or other makes of a target.
pub fn readings(target: &str) -> BTreeSet<String> {
    within(target, READINGS).unwrap_or_else(|| panic!("{target} has no end of readings"))
}

/// How many whole HTTP/1.1 requests these bytes are to a reader that allows nothing odd (RFC 9112 §3, §5, §6); one that breaks
/// off at the end is none.
pub fn strict(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while !bytes.is_empty() {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { break };
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        bytes = &bytes[end + 4..];
        let mut lines = head.split("\r\n");
        let request: Vec<&str> = lines.next().unwrap().split(' ').collect();
        let [method, target, "HTTP/1.1"] = request[..] else { panic!("no request line: {head}") };
        assert!(!method.is_empty() && method != "CONNECT" && target.starts_with('/'), "{head}");
        assert!(head.bytes().all(|byte| matches!(byte, b'\r' | b'\n' | b'\t' | 0x20..=0x7e)), "{head}");
        let fields: Vec<(&str, &str)> =
            lines.map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{head}"))).collect();
        let plain = |(name, value): &(&str, &str)| {
            !name.contains([' ', '\t', '\r', '\n']) && !value.contains(['\r', '\n']) && value.trim() == *value
        };
        assert!(fields.iter().all(plain), "{head}");
        let of = |name: &str| -> Vec<&str> {
            fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| *value).collect()
        };
        assert_eq!(of("host").len(), 1, "{head}");
        let rest = match (&of("content-length")[..], &of("transfer-encoding")[..]) {
            ([], []) => Some(bytes),
            ([length], []) => {
                let number: usize = length.parse().unwrap();
                assert_eq!(number.to_string(), **length, "{head}");
                bytes.get(number..)
            }
            ([], ["chunked"]) => chunks(bytes),
            _ => panic!("framed twice: {head}"),
        };
        let Some(rest) = rest else { break };
        bytes = rest;
        count += 1;
    }
    count
}

/// What follows a chunked body and its trailers (RFC 9112 §7.1), if it came to its end.
fn chunks(mut bytes: &[u8]) -> Option<&[u8]> {
    let line = |bytes: &[u8]| bytes.windows(2).position(|two| two == b"\r\n");
    loop {
        let end = line(bytes)?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).expect("a bare chunk size");
        bytes = &bytes[end + 2..];
        if size == 0 {
            break;
        }
        assert_eq!(bytes.get(size..size + 2)?, b"\r\n", "a chunk of another size");
        bytes = &bytes[size + 2..];
    }
    loop {
        let end = line(bytes)?;
        bytes = &bytes[end + 2..];
        if end == 0 {
            return Some(bytes);
        }
    }
}

/// A connection whose every byte is kept.
struct Kept {
    stream: TcpStream,
    wire: Wire,
}

impl AsyncRead for Kept {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.wire.lock().unwrap().extend_from_slice(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Kept {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The judges can judge.
#[test]
fn the_judges_see_what_they_are_there_for() {
    for hidden in [
        "/a/../admin",
        "/a/..;/admin",
        "/a/%2e%2e/admin",
        "/a/%252e%252e%252fadmin",
        "/a\\..\\admin",
        "//admin",
        "/;x/admin",
        "/ADMIN",
        "/admin%00.css",
        "/admin%3fx",
        "/admin.%20/",
        "/%c0%ae%c0%ae/admin",
        "/a/%e0%80%ae.%c0%afadmin",
        "/%ef%bd%81dmin",
        "/%ef%bc%8e%ef%bc%8e/x/../admin",
    ] {
        assert!(readings(hidden).iter().any(|reading| is_under(reading, "/admin")), "{hidden}: {:?}", readings(hidden));
    }
    for plain in ["/a/b", "/administrator", "/a/admin", "/a%20b;c=d/e..f"] {
        assert!(readings(plain).iter().all(|reading| !is_under(reading, "/admin")), "{plain}");
    }
    let caught = |headers: &[(&'static str, &str)], caller: Option<&str>| {
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect();
        std::panic::catch_unwind(|| identities(&headers, caller)).is_err()
    };
    assert!(!caught(&[("x-forwarded-user", "demo"), ("x-other", "root")], Some("demo")));
    assert!(caught(&[("x-forwarded-user", "demo"), ("x_forwarded_user", "demo")], Some("demo")));
    assert!(caught(&[("x-forwarded-user", "root")], Some("demo")));
    assert!(caught(&[("x.forwarded.groups", "root")], None));
    let wire = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n";
    assert_eq!(strict(wire), 2);
    assert_eq!(strict(&wire[..wire.len() - 2]), 1);
    for odd in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 01\r\n\r\nx",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        assert!(std::panic::catch_unwind(|| strict(odd.as_bytes())).is_err(), "{odd}");
    }
}
