//! Clients that ask and do not read, or read slowly: the one is cut after its time, however it holds on, the other is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use crate::edge::{count, counted_to, frame};
use crate::shared_store::eventually;
use crate::support::{Running, between, run_text, shipped};
use crate::wire::{Application, Frames, connect, fed, greet, piece, serve, socket_over_two, soon, whole};

const PIECE: usize = 16 * 1024;

/// `/public/endless` never ends, `/public/told` says what the test tells it; and how many of the endless ones are being sent.
fn application() -> (Application, mpsc::UnboundedSender<Bytes>, Arc<AtomicUsize>) {
    let (tell, told) = mpsc::unbounded_channel::<Bytes>();
    let (told, sending) = (Arc::new(tokio::sync::Mutex::new(told)), Arc::<AtomicUsize>::default());
    let count = sending.clone();
    let application = Application::start(move |request| {
        let (told, count) = (told.clone(), count.clone());
        async move {
            let (mut feed, body) = fed();
            if request.uri().path().ends_with("/endless") {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    while feed.send_data(Bytes::from_static(&[b'x'; PIECE])).await.is_ok() {}
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            } else {
                tokio::spawn(async move {
                    while let Some(piece) = told.lock().await.recv().await {
                        if feed.send_data(piece).await.is_err() {
                            return;
                        }
                    }
                });
            }
            Response::new(body)
        }
    });
    (application, tell, sending)
}

fn before(application: &Application, stall_timeout: &str) -> Running {
    let text = shipped("memory").replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{}\"", application.port));
    let limits = format!("\n[limits]\nstall_timeout = \"{stall_timeout}\"\n");
    run_text(tempfile::tempdir().unwrap(), &format!("{text}{limits}"))
}

/// With windows that are soon full and often renewed.
async fn client(port: u16) -> http2::SendRequest<Frames> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(65_535).initial_connection_window_size(1 << 20);
    let (sender, connection) = builder.handshake(TokioIo::new(connect(port, "h2").await)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn ask(client: &http2::SendRequest<Frames>, path: &str) -> Incoming {
    let request = Request::get(format!("https://localhost/public{path}")).body(whole("")).unwrap();
    soon(client.clone().send_request(request)).await.unwrap().into_body()
}

/// Reads what there is; whether it ended in a reset.
async fn is_reset(mut body: Incoming) -> bool {
    loop {
        match soon(body.frame()).await {
            Some(Ok(_)) => {}
            Some(Err(_)) => return true,
            None => return false,
        }
    }
}

/// attacks: pings are answered, windows stay shut, and an application's connection is held by each answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stream_that_is_not_read_is_cut_and_no_other_one_of_its_connection() {
    let (application, tell, sending) = application();
    let running = before(&application, "300ms");
    let client = client(running.port()).await;
    let mut quiet = ask(&client, "/told").await;
    let mut unread = Vec::new();
    for _ in 0..5 {
        unread.push(ask(&client, "/endless").await);
    }
    counted_to(&running, "reader_stalled", 5).await;
    eventually("their applications are let go", async || sending.load(Ordering::SeqCst) == 0).await;
    // The one that had nothing to say all the time is none of them.
    tell.send("still here".into()).unwrap();
    assert_eq!(piece(&mut quiet).await, "still here");
    for body in unread {
        assert!(is_reset(body).await);
    }
    // Nor does one that moves on the same connection keep another one.
    let unread = ask(&client, "/endless").await;
    let mut pieces = 0;
    while count(&running, "reader_stalled") == 5 {
        tell.send("x".into()).unwrap();
        piece(&mut quiet).await;
        pieces += 1;
        assert!(pieces < 1_000_000, "it is never cut");
    }
    assert!(is_reset(unread).await);
    assert_eq!(count(&running, "reader_stalled"), 6);
}

/// What the library holds of an answer that came to its end is no less the client's because the gateway stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_reads_slowly_over_http_2_gets_all_of_an_answer_while_the_gateway_stops() {
    const LENGTH: usize = 40_000;
    let application = Application::start(|_| async { Response::new(whole(vec![b'x'; LENGTH])) });
    let running = before(&application, "60s");
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(1_000);
    let (client, connection) = builder.handshake(TokioIo::new(connect(running.port(), "h2").await)).await.unwrap();
    tokio::spawn(connection);
    let (mut body, lines) = (ask(&client, "/slow").await, running.lines.clone());
    let mut read = 0;
    while lines.0.lock().unwrap().is_empty() {
        read += piece(&mut body).await.len();
    }
    assert!(read < LENGTH, "some of it is with the gateway");
    let mut stopped = tokio::task::spawn_blocking(move || drop(running));
    assert!(tokio::time::timeout(Duration::from_secs(3), &mut stopped).await.is_err(), "it stops without waiting");
    let rest = soon(body.collect()).await.unwrap().to_bytes();
    assert_eq!(read + rest.len(), LENGTH);
    soon(stopped).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stream_that_is_read_slowly_is_not_cut() {
    let (application, _tell, _sending) = application();
    let running = before(&application, "1s");
    let client = client(running.port()).await;
    let mut bodies = Vec::new();
    for _ in 0..4 {
        bodies.push(ask(&client, "/endless").await);
    }
    // Together longer than what is allowed without a step.
    for _ in 0..30 {
        for body in &mut bodies {
            piece(body).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(count(&running, "reader_stalled"), 0);
}

/// attacks: CWE-770, every window open, and nothing is read. What the gateway takes from an application waits in its memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn little_is_taken_from_applications_for_who_opens_every_window_and_does_not_read() {
    const STREAMS: u32 = 100;
    let (application, _tell, _sending) = application();
    let running = before(&application, "1s");
    let mut stream = crowded(running.port(), "h2").await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // RFC 9113 §6.5.2, §6.9: the largest windows there are.
    bytes.extend(frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]));
    bytes.extend(frame(8, 0, 0, &[0x7f, 0xff, 0, 0]));
    let head = [&[0x82, 0x87, 0x41, 9][..], b"localhost", &[0x44, 15], b"/public/endless"].concat();
    (0..STREAMS).for_each(|number| bytes.extend(frame(1, 5, 2 * number + 1, &head)));
    stream.write_all(&bytes).await.unwrap();
    let taken = || {
        let lines = running.lines.0.lock().unwrap();
        let bytes = lines.iter().map(|line| between(line, "\"bytes\":", ",").parse().unwrap());
        bytes.collect::<Vec<u64>>()
    };
    eventually("it is cut", async || taken().len() == STREAMS as usize).await;
    let taken = taken().iter().sum::<u64>() / 1024;
    // The library would take 400 KiB for each.
    assert!((1..u64::from(STREAMS) * 200).contains(&taken), "{taken} KiB");
}

/// attacks: as many WebSockets as there are streams, on a connection that answers pings.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_websocket_over_http_2_that_is_not_read_is_cut() {
    let open = Arc::<AtomicUsize>::default();
    let count = open.clone();
    let application = Application::on_streams(move |stream| {
        let count = count.clone();
        async move {
            let mut head = vec![0; 4096];
            if !matches!(stream.peek(&mut head).await, Ok(1..)) || !String::from_utf8_lossy(&head).contains("/socket") {
                return serve(
                    stream,
                    Arc::new(|_| async {
                        let mut last = Response::new(whole(""));
                        last.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
                        last
                    }),
                    false,
                )
                .await;
            }
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            while socket.send(Message::binary(vec![0; PIECE])).await.is_ok() {}
            count.fetch_sub(1, Ordering::SeqCst);
        }
    });
    let running = before(&application, "500ms");
    let _unread = socket_over_two(running.port(), "/public/socket", ("x-a", "b")).await;
    let line = |line: &String| line.contains("\"kind\":\"tunnel\"") && line.contains("\"end\":\"reader_stalled\"");
    eventually("it is cut", async || running.lines.0.lock().unwrap().iter().any(line)).await;
    eventually("its application is let go", async || open.load(Ordering::SeqCst) == 0).await;
}

/// With little room of its own: what it does not read stays with the gateway.
async fn crowded(port: u16, alpn: &str) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let stream = socket.connect(([127, 0, 0, 1], port).into()).await.unwrap();
    greet(stream, "localhost", alpn).await.unwrap()
}

/// Over HTTP/1.1.
async fn reader(port: u16) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let mut stream = crowded(port, "http/1.1").await;
    stream.write_all(b"GET /public/endless HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    stream
}

/// The system says late that there is room again: when a third of what it keeps is read, which may be megabytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_that_is_read_slowly_is_not_cut_and_one_that_is_not_read_is() {
    let (application, _tell, sending) = application();
    let running = before(&application, "500ms");
    let (mut slow, silent) = (reader(running.port()).await, reader(running.port()).await);
    let (mut read, mut buffer) = (0, vec![0; 4 * 1024]);
    // Longer where the system takes its time to be full of what the other one does not read.
    while read < 600_000 || count(&running, "reader_stalled") == 0 {
        assert!(read < 20_000_000, "who reads nothing is not cut");
        read += soon(slow.read(&mut buffer)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(count(&running, "reader_stalled"), 1, "the other one");
    drop(slow);
    eventually("both are let go", async || sending.load(Ordering::SeqCst) == 0).await;
    drop(silent);
}
