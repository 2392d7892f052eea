//! Answers of applications: what is read of one does not depend on how it came in pieces; a connection that is used again stands where
//! another reader, hyper's, stands as well; where both read the whole of an answer they read the same; and so does the client that it is
//! handed on to, and nothing of the gateway's own in it.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::{BodyExt, Empty, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use crate::authn::CookieName;
use crate::policy::{HeaderEdits, is_plainly_framed};
use crate::proxy::headers::{NamedFields, Returning, response_headers};
use crate::upstream::{Head, probe};

use super::io::{Text, block_on};

const NAME: &str = "__Host-portcullis";

/// What was read of an answer to its end.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: HeaderMap,
}

/// The first byte of `data` says what was asked, the rest is what the server sent before it closed.
pub fn hold(data: &[u8]) {
    let Some((how, answer)) = data.split_first() else { return };
    let method = match how % 4 {
        0 | 1 => Method::GET,
        2 => Method::HEAD,
        _ => Method::POST,
    };
    block_on(async {
        let (whole, idle) = ours(&method, answer, answer.len()).await;
        for piece in [1, 7] {
            assert_eq!(ours(&method, answer, piece).await.0, whole, "in pieces of {piece}");
        }
        let (theirs, left) = theirs(&method, answer).await;
        if let (Some(ours), Some(theirs)) = (&whole, &theirs)
            // What hyper reads otherwise is told to nobody.
            && is_plainly_framed(&ours.headers)
        {
            assert_eq!((ours.status, &ours.body), (theirs.status, &theirs.body));
        }
        if idle {
            assert!(theirs.is_some(), "used again, and nobody else reads that: {whole:?}");
            assert_eq!(left, 0, "used again, and {left} bytes are left: {whole:?}");
        }
        if let Some(read) = whole {
            handed_on(&method, read).await;
        }
    });
}

/// What the client reads, over HTTP/1.1.
async fn handed_on(method: &Method, read: Read) {
    let status = http::StatusCode::from_u16(read.status).expect("it was read");
    if !is_plainly_framed(&read.headers) || status.is_informational() {
        return;
    }
    let (cookie, edits, named) = (CookieName::new(NAME), HeaderEdits::default(), NamedFields::of(&read.headers));
    let mut headers = read.headers.clone();
    response_headers(
        &mut headers,
        Returning { cookie: &cookie, private: true, switching: None, edits: &edits, named: &named },
    );
    if status == http::StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
    }
    let set = headers.get_all(header::SET_COOKIE).iter().map(|line| line.as_bytes().to_ascii_lowercase());
    let own = format!("{}=", NAME.to_ascii_lowercase());
    for line in set {
        // A cookie without a name comes back as its value.
        let bare = line.iter().position(|byte| !b"= \t".contains(byte)).map_or(&b""[..], |start| &line[start..]);
        assert!(!bare.starts_with(own.as_bytes()), "{:?} sets a cookie of ours", line.escape_ascii().to_string());
    }
    assert!(!headers.contains_key(header::TRANSFER_ENCODING) && !headers.contains_key(header::CONNECTION));
    let answer = service_fn(|_| {
        let mut response = Response::new(Full::new(Bytes::copy_from_slice(&read.body)));
        (*response.status_mut(), *response.headers_mut()) = (status, headers.clone());
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let asked = format!("{method} / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
    let io = Text::asking(asked.as_bytes());
    let told = io.told();
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), answer).await;
    let told = told.take();
    let (client, left) = theirs(method, &told).await;
    let told = || told.escape_ascii().to_string();
    if served.is_ok() {
        let client = client.unwrap_or_else(|| panic!("nobody reads what is handed on: {}", told()));
        assert_eq!((client.status, &client.body, left), (read.status, &read.body, 0), "{}", told());
    }
}

/// What the gateway reads, and whether it uses the connection again.
async fn ours(method: &Method, answer: &[u8], piece: usize) -> (Option<Read>, bool) {
    let head = Head { method, path: "/", query: None, lines: Vec::new() };
    let exchanged = probe::exchange(&head, Empty::<Bytes>::new(), answer, piece).await;
    let Ok(response) = exchanged.head else { return (None, false) };
    if exchanged.broken.is_some() {
        return (None, false);
    }
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    (Some(Read { status, headers, body: exchanged.body, trailers: exchanged.trailers }), exchanged.idle)
}

/// What hyper reads, and how many bytes are left.
async fn theirs(method: &Method, answer: &[u8]) -> (Option<Read>, usize) {
    let io = Text::answering(answer);
    let Ok((mut sender, mut connection)) =
        hyper::client::conn::http1::Builder::new().max_headers(128).handshake(TokioIo::new(io)).await
    else {
        return (None, 0);
    };
    let request = Request::builder().method(method.clone()).uri("/").header("host", "x").body(Empty::<Bytes>::new());
    let read = async {
        let response = sender.send_request(request.expect("a request")).await.ok()?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.ok()?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let body = body.to_bytes().to_vec();
        Some(Read { status: parts.status.as_u16(), headers: parts.headers, body, trailers })
    };
    let mut read = std::pin::pin!(read);
    let mut over = false;
    let read = std::future::poll_fn(|cx| {
        use std::future::Future;
        if !over {
            over = connection.poll_without_shutdown(cx).is_ready();
        }
        read.as_mut().poll(cx)
    })
    .await;
    let parts = connection.into_parts();
    (read, parts.read_buf.len() + parts.io.into_inner().left())
}
