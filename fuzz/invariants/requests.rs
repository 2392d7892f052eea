//! Requests: for each that is forwarded the application reads one over HTTP/1.1, the same, from the strictest of readers' view; it names
//! nobody but who calls, and says in one way only where it ends.

use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use crate::authn::CookieName;
use crate::policy::{
    Authentication, Decision, Fields, Found, IdentityHeaders, Permit, RequestHead, alias, decide, destination,
};
use crate::proxy::headers::{self, HeadLimits, HeaderRules, Outgoing, clean_trailers, request_headers};
use crate::proxy::{Connection, ForwardedStyle, Forwarding, RequestIds};
use crate::upstream::{Head, probe};

use super::io::{Text, block_on};
use super::{CONFIG, caller};

static WAY: LazyLock<(Forwarding, RequestIds, CookieName)> = LazyLock::new(|| {
    let forwarding = Forwarding { trusted: vec!["10.0.0.0/8".parse().expect("a net")], style: ForwardedStyle::Both };
    (forwarding, RequestIds::new(), CookieName::new("__Host-portcullis"))
});

/// A request as the gateway read it.
struct Asked {
    parts: Parts,
    body: Vec<u8>,
    trailers: HeaderMap,
    /// It has a body, if an empty one.
    bodied: bool,
}

/// `data` is what a client sends over one connection, before it closes its end; after `2 ` a request as it is handed on of HTTP/2:
/// method and target, lines, and behind an empty one the body.
pub fn hold(data: &[u8]) {
    if let Some(asked) = data.strip_prefix(b"2 ").and_then(over_two) {
        return forwarded(asked);
    }
    let asked = RefCell::new(Vec::new());
    let service = service_fn(|request: Request<Incoming>| async {
        let (parts, body) = request.into_parts();
        let bodied = !body.is_end_stream();
        if let Ok(body) = body.collect().await {
            let trailers = body.trailers().cloned().unwrap_or_default();
            asked.borrow_mut().push(Asked { parts, body: body.to_bytes().to_vec(), trailers, bodied });
        }
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.max_headers(100).max_buf_size(64 * 1024).half_close(true);
    // A client that breaks off has said what it said.
    let _ = block_on(builder.serve_connection(TokioIo::new(Text::asking(data)), service));
    asked.into_inner().into_iter().for_each(forwarded);
}

fn over_two(text: &[u8]) -> Option<Asked> {
    let (head, body) = split(text, b"\n\n").unwrap_or((text, b""));
    let mut lines = head.split(|byte| *byte == b'\n');
    let (method, target) = split(lines.next()?, b" ")?;
    let mut request = Request::builder().version(Version::HTTP_2).method(method).uri(target);
    for line in lines {
        let (name, value) = split(line, b": ")?;
        // h2 refuses what is of a connection, and lets a name of small letters pass alone.
        let refused: [&[u8]; 5] = [b"connection", b"transfer-encoding", b"upgrade", b"keep-alive", b"proxy-connection"];
        if refused.contains(&name) || name.iter().any(u8::is_ascii_uppercase) || name == b"te" && value != b"trailers" {
            return None;
        }
        // And a body of another length.
        if name == b"content-length" && value != body.len().to_string().as_bytes() {
            return None;
        }
        request = request.header(name, value);
    }
    let parts = request.body(()).ok()?.into_parts().0;
    parts.uri.authority()?;
    Some(Asked { parts, body: body.to_vec(), trailers: HeaderMap::new(), bodied: !body.is_empty() })
}

fn forwarded(mut asked: Asked) {
    let (forwarding, ids, cookie) = &*WAY;
    let fields = Fields::of(&asked.parts.headers);
    let Ok(switch) =
        crate::proxy::asked(&mut asked.parts.method, asked.parts.version, &asked.parts.extensions, &fields)
    else {
        return;
    };
    let parts = &asked.parts;
    if headers::fits(&parts.uri, &fields, HeadLimits { bytes: 32 * 1024, lines: 100 }).is_err() {
        return;
    }
    let Ok(head) = RequestHead::read(parts, &fields, None) else { return };
    let Found::Route(matched) = CONFIG.routes.find(&head) else { return };
    let authentication = Authentication::Identified(caller(&CONFIG.roles, &["staff"]));
    let second = fields.get(crate::policy::Field::Destination).map(|line| {
        destination(line.as_bytes(), &head, (&CONFIG.routes, matched.route), authentication.clone(), Duration::ZERO)
    });
    let Ok(second) = second.transpose() else { return };
    let second = second.flatten().and_then(|line| http::HeaderValue::try_from(line).ok());
    let Decision::Forward(permit, _) = decide(&head, &matched, authentication, Duration::ZERO) else { return };
    let connection = Connection::new(([10, 0, 0, 1], 50_000).into(), None);
    let (trace, ids) = (forwarding.trace(&connection, &parts.headers), ids.next().lines());
    let outgoing = Outgoing {
        trace: &trace,
        style: forwarding.style,
        authority: head.authority,
        ids: &ids,
        cookie,
        identity: &CONFIG.identity_headers,
        permit: &permit,
        version: parts.version,
        method: head.method,
        switch: switch.as_ref(),
        access_token: None,
        signed: None,
        destination: second.as_ref(),
    };
    let lines = request_headers(&fields, &outgoing);
    let trailers = clean_trailers(asked.trailers.clone(), &Owned(&CONFIG.identity_headers));
    let body = Whole::new(&asked, trailers);
    let path = permit.rewritten().unwrap_or(head.path.raw());
    let rebuilt = Head { method: head.method, path, query: head.query, lines };
    let exchanged =
        block_on(probe::exchange(&rebuilt, body, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", usize::MAX));
    assert!(exchanged.head.is_ok(), "it is not sent: {:?}", exchanged.head);
    let target = head.query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let two = probe::as_two(&rebuilt);
    assert_eq!(two.uri().path_and_query().map(http::uri::PathAndQuery::as_str), Some(&*target));
    for (name, value) in two.headers() {
        assert!(
            !["connection", "transfer-encoding", "upgrade", "keep-alive", "host"].contains(&name.as_str())
                || switch.is_some()
        );
        assert_eq!(value.as_bytes().trim_ascii(), value.as_bytes(), "{name}");
    }
    judge(&exchanged.written, (&asked, &permit), &target, head.authority);
}

/// Names that are owned wherever they stand.
struct Owned(&'static IdentityHeaders);

impl HeaderRules for Owned {
    fn owns(&self, name: &str) -> bool {
        self.0.owns(name)
    }
}

/// What an application reads, line by line, of the one request that this has to be.
fn judge(wire: &[u8], (asked, permit): (&Asked, &Permit), target: &str, authority: &str) {
    let shown = || String::from_utf8_lossy(wire).into_owned();
    let (head, mut rest) = split(wire, b"\r\n\r\n").unwrap_or_else(|| panic!("no end: {}", shown()));
    let mut lines = Vec::new();
    let mut left = head;
    while let Some((line, more)) = split(left, b"\r\n") {
        lines.push(line);
        left = more;
    }
    lines.push(left);
    let request = format!("{} {target} HTTP/1.1", asked.parts.method);
    assert_eq!(lines[0], request.as_bytes());
    let fields: Vec<(String, &[u8])> = lines[1..]
        .iter()
        .map(|line| {
            let (name, value) = split(line, b": ").unwrap_or_else(|| panic!("no field: {}", shown()));
            assert!(!name.is_empty() && name.iter().all(|byte| is_token(*byte)), "no name: {}", shown());
            assert!(value.iter().all(|byte| *byte == b'\t' || *byte >= b' ' && *byte != 0x7f), "no value: {}", shown());
            (alias(str::from_utf8(name).expect("a token")), value)
        })
        .collect();
    let of = |name: &str| -> Vec<&[u8]> {
        fields.iter().filter(|(other, _)| other == name).map(|(_, value)| *value).collect()
    };
    let body: Vec<u8> = match (&of("content-length")[..], &of("transfer-encoding")[..]) {
        ([], []) => Vec::new(),
        ([length], []) => {
            let length: usize = str::from_utf8(length).unwrap().parse().unwrap();
            let (body, behind) = rest.split_at_checked(length).unwrap_or_else(|| panic!("too short: {}", shown()));
            rest = behind;
            body.to_vec()
        }
        ([], [b"chunked"]) => chunks(&mut rest).unwrap_or_else(|| panic!("no chunks: {}", shown())),
        _ => panic!("framed twice: {}", shown()),
    };
    assert!(rest.is_empty(), "another request: {}", shown());
    assert_eq!(body, asked.body, "{}", shown());
    assert_eq!(of("host"), [authority.as_bytes()], "{}", shown());
    assert!(of("connection").len() <= 1 && of("upgrade").len() <= 1, "{}", shown());
    for name in
        ["keep-alive", "proxy-connection", "proxy-authorization", "http2-settings", "expect", "proxy", "script-name"]
    {
        assert!(of(name).is_empty(), "{name}: {}", shown());
    }
    for name in ["via", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-for", "forwarded", "x-request-id"] {
        let most = if name == "via" { usize::MAX } else { 1 };
        assert!((1..=most).contains(&of(name).len()), "{name}: {}", shown());
    }
    let user = permit.caller().map(|_| b"alice".as_slice());
    for name in ["x-forwarded-user", "http-x-forwarded-user"] {
        let expected = user.filter(|_| !name.starts_with("http"));
        assert_eq!(of(name), Vec::from_iter(expected), "{}", shown());
    }
    for name in ["remote-user", "x-auth-request-user", "x-remote-user", "x-forwarded-email"] {
        assert!(of(name).is_empty() && of(&format!("http-{name}")).is_empty(), "{name}: {}", shown());
    }
    let cookies = of("cookie");
    assert!(cookies.len() <= 1, "{}", shown());
    let own = |pair: &[u8]| pair.trim_ascii().to_ascii_lowercase().starts_with(b"__host-portcullis=");
    assert!(!cookies.iter().any(|line| line.split(|byte| *byte == b';').any(own)), "{}", shown());
    assert!(asked.parts.version >= Version::HTTP_10 && asked.parts.method != Method::CONNECT);
}

fn split<'b>(bytes: &'b [u8], at: &[u8]) -> Option<(&'b [u8], &'b [u8])> {
    let found = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..found], &bytes[found + at.len()..]))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A body in chunks, to the end of its trailers.
fn chunks(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let (size, behind) = split(rest, b"\r\n")?;
        assert!(!size.is_empty() && size.iter().all(u8::is_ascii_hexdigit), "no size");
        let size = usize::from_str_radix(str::from_utf8(size).ok()?, 16).ok()?;
        *rest = behind;
        if size == 0 {
            break;
        }
        let (data, behind) = rest.split_at_checked(size)?;
        body.extend_from_slice(data);
        *rest = behind.strip_prefix(b"\r\n")?;
    }
    loop {
        let (line, behind) = split(rest, b"\r\n")?;
        *rest = behind;
        if line.is_empty() {
            return Some(body);
        }
        let (name, _) = split(line, b": ")?;
        let name = alias(str::from_utf8(name).ok()?);
        assert!(!CONFIG.identity_headers.owns(&name) && name != "content-length" && name != "host", "trailer {name}");
    }
}

/// A body that is there.
struct Whole(Vec<Frame<Bytes>>, bool);

impl Whole {
    fn new(asked: &Asked, trailers: HeaderMap) -> Whole {
        let mut frames = Vec::new();
        if !trailers.is_empty() {
            frames.push(Frame::trailers(trailers));
        }
        if !asked.body.is_empty() {
            // The last one goes first.
            let (one, other) = asked.body.split_at(asked.body.len() / 2);
            frames.extend([other, one].map(|data| Frame::data(Bytes::copy_from_slice(data))));
        }
        Whole(frames, asked.bodied)
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty() && !self.1
    }
}
