//! One connection against a server that is a script.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use proptest::prelude::{any, prop, prop_assert_eq, proptest};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::coop;

use super::super::request::{Head, Value};
use super::framing::{Decoder, Framing, Step};
use super::{Answer, Broken, Heads, One, Sendable, Usual};

/// What a chunked body decodes to when it comes in pieces of this length: its bytes, its trailers, what follows it.
fn decoded(body: &[u8], piece: usize) -> Result<(Vec<u8>, HeaderMap, usize), String> {
    let mut decoder = Decoder::new(Some(Framing::Chunked));
    let (mut data, mut trailers, mut used) = (Vec::new(), HeaderMap::new(), 0);
    for piece in body.chunks(piece) {
        used += piece.len();
        let mut ahead = Bytes::copy_from_slice(piece);
        loop {
            match decoder.decode(&mut ahead).map_err(|broken| broken.to_string())? {
                Step::More => break,
                Step::End => return Ok((data, trailers, body.len() - used + ahead.len())),
                Step::Frame(frame) => match frame.into_data() {
                    Ok(bytes) => data.extend_from_slice(&bytes),
                    Err(frame) => trailers = frame.into_trailers().unwrap(),
                },
            }
        }
    }
    Err("incomplete".to_owned())
}

proptest! {
    #[test]
    fn a_chunked_body_is_the_same_however_it_is_cut(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..5), piece in 1_usize..50) {
        let mut body = Vec::new();
        for chunk in &chunks {
            body.extend_from_slice(format!("{:X}  ;x=\"y\"\r\n", chunk.len()).as_bytes());
            body.extend_from_slice(chunk);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"0\r\nx-sum: 1\r\nX-Sum: 2\r\n\r\nnext");
        let (data, trailers, ahead) = decoded(&body, piece).unwrap();
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!(trailers.get_all("x-sum").iter().count(), 2);
        prop_assert_eq!(ahead, 4);
    }
}

#[test]
fn a_chunk_with_two_readings_is_refused() {
    let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(20_000));
    for body in [
        "\r\n",
        "x\r\n",
        "-1\r\na\r\n",
        "+1\r\na\r\n",
        "0x1\r\na\r\n",
        "1\na\r\n",
        "1\r\na\n",
        "1\r\nab\r\n",
        "1 1\r\na\r\n",
        "1;\na\r\n",
        "1\r\r\na",
        "1\rxa\r\n",
        "fffffffffffffffff\r\n",
        "00000000000000001\r\na\r\n",
        "0\r\nno field\r\n\r\n",
        "0\r\n\nHTTP/1.1 200 OK\r\n\r\n",
        "0\r\na: b\nc: d\r\n\r\n",
        "0\r\na: b\n\nHTTP/1.1 200 OK\r\n\r\n",
        &long,
    ] {
        for piece in [1, body.len()] {
            let read = decoded(body.as_bytes(), piece);
            assert!(read.as_ref().is_err_and(|error| error == "the answer cannot be read"), "{body:.40?}: {read:?}");
        }
    }
}

/// What an answer's head says: its status, its framing, whether the connection may be used again.
fn said(head: &str, asked: &Method) -> Result<Option<(u16, Option<Framing>, bool)>, Broken> {
    let read = Heads::default().read(&mut BytesMut::from(head), asked)?;
    Ok(read.map(|head| (head.response.status().as_u16(), head.framing, head.persistent)))
}

#[test]
fn what_was_answered_before_changes_nothing_of_what_is_read() {
    // Two connections to one server.
    let usual = Usual::default();
    let mut readers = [Heads::new(usual.clone()), Heads::new(usual)];
    let many: String = (0..40).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let mut heads = vec![
        "server: s\r\ncontent-length: 2\r\nset-cookie: a=1\r\n".to_owned(),
        "Server: s\r\nCONTENT-LENGTH: 2\r\nSet-Cookie: a=2\r\n".to_owned(),
        "server: other\r\nserver: s\r\ncontent-length: 2\r\n".to_owned(),
        "server:\r\ncontent-length: 3\r\nconnection: keep-alive\r\nconnection: x-odd\r\n".to_owned(),
        format!("server: {}\r\ncontent-length: 0\r\n", "long".repeat(100)),
        many.clone(),
        format!("date: today\r\n{many}"),
        String::new(),
    ];
    // Often enough that what is remembered changes.
    heads.extend((0..50).map(|n| format!("date: {}\r\nserver: s\r\ncontent-length: {n}\r\n", n / 20)));
    for (turn, head) in heads.iter().chain(heads.iter().rev()).enumerate() {
        let head = format!("HTTP/1.1 200 OK\r\n{head}\r\n");
        let read = |reader: &mut Heads| {
            let read = reader.read(&mut BytesMut::from(&*head), &Method::GET).unwrap().unwrap();
            (read.response.headers().clone(), read.framing, read.persistent)
        };
        assert_eq!(read(&mut readers[turn % 2]), read(&mut Heads::default()), "{head}");
    }
    // What was valid once does not make valid what stands in its place.
    for line in ["server: a\0b", "ser\u{7f}ver: s", "content-length: 5x"] {
        let head = format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n");
        assert!(readers[0].read(&mut BytesMut::from(&*head), &Method::GET).is_err(), "{line}");
    }
    // What one of them learnt, the other one has.
    let mut value = |reader: usize| {
        let head = "HTTP/1.1 200 OK\r\nserver: the same\r\n\r\n";
        let read = readers[reader].read(&mut BytesMut::from(head), &Method::GET).unwrap().unwrap();
        read.response.headers()["server"].clone()
    };
    (0..20).for_each(|_| drop(value(0)));
    assert_eq!(value(0).as_bytes().as_ptr(), value(1).as_bytes().as_ptr());
}

#[test]
fn an_answer_ends_where_every_reader_says_it_ends() {
    let length = |length| Some(Framing::Length(length));
    let rows = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", 200, length(5), true),
        ("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", 200, length(0), true),
        ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n", 200, length(5), false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: Keep-Alive\r\n\r\n", 200, length(5), true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: x, Close\r\n\r\n", 200, length(5), false),
        (
            "HTTP/1.1 200 OK\r\nconnection: close\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\n",
            200,
            length(5),
            false,
        ),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", 200, Some(Framing::Chunked), true),
        (
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\nconnection: keep-alive\r\n\r\n",
            200,
            Some(Framing::Chunked),
            false,
        ),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", 200, None, false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", 200, None, false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n", 200, None, false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nContent-Length: 5\r\n\r\n", 200, length(5), true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", 200, None, false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\ncontent-length: 6\r\n\r\n", 200, None, false),
        ("HTTP/1.1 200 OK\r\n\r\n", 200, None, false),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204, length(0), true),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", 304, length(0), true),
        ("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", 101, length(0), false),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
            204,
            length(0),
            true,
        ),
    ];
    for (head, status, framing, persistent) in rows {
        assert_eq!(said(head, &Method::GET).unwrap(), Some((status, framing, persistent)), "{head}");
        for end in 0..head.len() {
            assert!(said(&head[..end], &Method::GET).unwrap().is_none(), "{head} to {end}");
        }
    }
    let of_head = said("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", &Method::HEAD).unwrap();
    assert_eq!(of_head, Some((200, length(0), true)));
    let lines = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert!(said(&lines(128), &Method::GET).unwrap().is_some());
    let (many, endless) = (lines(129), format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(256 * 1024)));
    for head in [
        "HTTP/1.1 99 X\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n",
        "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 010\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 00\r\n\r\n",
        "HTTP/1.1 200 OK\r\na: \0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616\r\n\r\n",
        &many,
        &endless,
    ] {
        assert!(matches!(said(head, &Method::GET), Err(Broken::Malformed(_))), "{head:.60}");
    }
}

/// Waits no longer than a test may take.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), what).await.expect("it takes too long")
}

async fn exchange<B: Sendable>(mut one: Box<One>, request: Request<B>) -> Result<http::Response<Answer>, Broken> {
    let (parts, body) = request.into_parts();
    let lines = parts.headers.iter().map(|(name, value)| (name, Value::Lent(value))).collect();
    let head = Head { method: &parts.method, path: parts.uri.path(), query: parts.uri.query(), lines };
    let begun = one.begin(&head, body);
    one.answer(begun).await.map_err(|unanswered| unanswered.broken)
}

/// A connection, and the server's end of it.
fn connected() -> (Box<One>, DuplexStream) {
    let (ours, theirs) = duplex(64 * 1024);
    (One::new(Box::new(ours), Usual::default()), theirs)
}

/// Reads until the text has come.
async fn until(server: &mut DuplexStream, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        let mut piece = [0; 1024];
        let read = soon(server.read(&mut piece)).await.unwrap();
        assert!(read > 0, "{wanted:?} is missing in {text:?}");
        text.push_str(std::str::from_utf8(&piece[..read]).unwrap());
    }
    text
}

async fn idle_after(answer: Result<http::Response<Answer>, Broken>) -> (String, Option<Box<One>>) {
    let mut answer = answer.unwrap().into_body();
    let mut text = Vec::new();
    while let Some(frame) = soon(answer.frame()).await {
        text.extend_from_slice(frame.unwrap().data_ref().unwrap());
    }
    (String::from_utf8(text).unwrap(), answer.take_idle())
}

#[tokio::test]
async fn a_connection_is_used_again_only_when_nothing_lies_behind_the_answer() {
    let (one, mut server) = connected();
    let request = || Request::get("/a?b").header("host", "x").body(Empty::<Bytes>::new()).unwrap();
    let answers = async {
        assert_eq!(until(&mut server, "\r\n\r\n").await, "GET /a?b HTTP/1.1\r\nhost: x\r\n\r\n");
        server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab").await.unwrap();
        until(&mut server, "\r\n\r\n").await;
        server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\ncdHTTP/1.1 200 OK\r\n").await.unwrap();
        server
    };
    let asked = async {
        let (text, one) = idle_after(soon(exchange(one, request())).await).await;
        let mut one = one.unwrap();
        assert!(text == "ab" && one.is_usable());
        let (text, one) = idle_after(soon(exchange(one, request())).await).await;
        assert!(text == "cd" && one.is_none());
    };
    let (mut server, ()) = tokio::join!(answers, asked);
    assert_eq!(soon(server.read(&mut [0])).await.unwrap(), 0, "it is closed");
}

#[tokio::test]
async fn an_idle_connection_on_which_the_server_spoke_or_left_is_not_used() {
    let (mut one, mut server) = connected();
    assert!(one.is_usable());
    server.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
    assert!(!one.is_usable());
    let (mut one, server) = connected();
    drop(server);
    assert!(!one.is_usable());
    // Also by a task that has done as much as it may in one turn.
    std::future::poll_fn(|cx| {
        while pin!(coop::consume_budget()).poll(cx).is_ready() {}
        Poll::Ready(())
    })
    .await;
    assert!(!coop::has_budget_remaining() && !one.is_usable());
    let (mut one, _server) = connected();
    assert!(one.is_usable());
}

/// A body fed by a test.
struct Fed(mpsc::UnboundedReceiver<Result<Frame<Bytes>, String>>);

impl Body for Fed {
    type Data = Bytes;
    type Error = String;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, String>>> {
        self.0.poll_recv(cx)
    }
}

fn fed() -> (mpsc::UnboundedSender<Result<Frame<Bytes>, String>>, Fed) {
    let (feed, body) = mpsc::unbounded_channel();
    (feed, Fed(body))
}

#[tokio::test]
async fn an_upload_goes_on_behind_the_answers_head_and_nobody_uses_that_connection_again() {
    let (one, mut server) = connected();
    let (feed, body) = fed();
    let request = Request::post("/").header("trailer", "x-sum").body(body).unwrap();
    let data = |text: &'static str| Ok(Frame::data(Bytes::from_static(text.as_bytes())));
    feed.send(data("first")).unwrap();
    let asked = tokio::spawn(exchange(one, request));
    let head = "POST / HTTP/1.1\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
    assert_eq!(until(&mut server, "first\r\n").await, head);
    server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab").await.unwrap();
    let mut answer = soon(asked).await.unwrap().unwrap().into_body();
    assert_eq!(answer.size_hint().exact(), Some(4));
    // The answer is not read meanwhile.
    feed.send(data("")).unwrap();
    feed.send(data("second")).unwrap();
    assert_eq!(until(&mut server, "second\r\n").await, "6\r\nsecond\r\n");
    let trailers = [("x-sum", "1"), ("x-unannounced", "2")];
    let trailers = trailers.map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
    feed.send(Ok(Frame::trailers(HeaderMap::from_iter(trailers)))).unwrap();
    assert_eq!(until(&mut server, "\r\n\r\n").await, "0\r\nx-sum: 1\r\n\r\n");
    server.write_all(b"cd").await.unwrap();
    let mut text = Vec::new();
    while !answer.is_end_stream() {
        text.extend_from_slice(soon(answer.frame()).await.unwrap().unwrap().data_ref().unwrap());
    }
    assert!(text == b"abcd" && answer.take_idle().is_none());
    drop(answer);
    assert_eq!(soon(server.read(&mut [0])).await.unwrap(), 0, "it is closed");
}

#[tokio::test]
async fn a_body_of_another_length_than_announced_is_no_request() {
    for (announced, sent) in [("3", "four"), ("5", "four")] {
        let (one, mut server) = connected();
        let (feed, body) = fed();
        feed.send(Ok(Frame::data(Bytes::from_static(sent.as_bytes())))).unwrap();
        drop(feed);
        let request = Request::post("/").header("content-length", announced).body(body).unwrap();
        let answer = soon(exchange(one, request)).await;
        assert!(matches!(answer, Err(Broken::Upload(_))), "{announced} {sent}");
        let mut text = String::new();
        soon(server.read_to_string(&mut text)).await.unwrap();
        assert!(!text.contains("four") || announced == "5", "{text}");
    }
}

#[tokio::test]
async fn what_breaks_is_named() {
    let (one, server) = connected();
    drop(server);
    let gone = soon(exchange(one, Request::post("/").body(Full::from("x")).unwrap())).await;
    assert!(matches!(gone, Err(Broken::Io(_) | Broken::Closed)));

    let (one, mut server) = connected();
    let (feed, body) = fed();
    feed.send(Err("gone".to_owned())).unwrap();
    let unsent = soon(exchange(one, Request::post("/").body(body).unwrap())).await;
    assert!(matches!(unsent, Err(Broken::Unsent(_))));
    assert_eq!(soon(server.read(&mut [0])).await.unwrap(), 0, "nothing was sent");

    let (one, mut server) = connected();
    let asked = tokio::spawn(exchange(one, Request::get("/").body(Empty::<Bytes>::new()).unwrap()));
    until(&mut server, "\r\n\r\n").await;
    server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab").await.unwrap();
    drop(server);
    let mut answer = soon(asked).await.unwrap().unwrap().into_body();
    assert_eq!(soon(answer.frame()).await.unwrap().unwrap().into_data().unwrap(), "ab");
    assert!(matches!(soon(answer.frame()).await, Some(Err(Broken::Closed))));
}
