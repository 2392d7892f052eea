//! One exchange seen frame by frame: bodies that stream, trailers, early answers, limits, a panic, the drain.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use portcullis::clock::{Clock, SystemClock, Timestamp};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::block_in_place;

use crate::shared_store::eventually;
use crate::support::{Running, run_text, run_with, shipped};
use crate::wire::{Application, Client, Frames, connect, fed, line, piece, raw, soon, whole};

/// The shipped configuration in front of an application, open to all and with this under `[limits]`.
fn open(port: u16, limits: &str) -> Running {
    let text = shipped("memory")
        .replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{port}\""))
        .replace("access   = \"authenticated\"", "access   = \"public\"");
    run_text(tempfile::tempdir().unwrap(), &format!("{text}\n[limits]\n{limits}\n"))
}

fn port(running: &Running) -> u16 {
    running.gateway.address().port()
}

/// An application that tells the trailers it got and answers with its own.
fn of_trailers() -> (Application, Receiver<HeaderMap>) {
    let (told, got) = channel();
    let application = Application::start(move |request| {
        let told = told.clone();
        async move {
            let trailers = request.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
            told.send(trailers).unwrap();
            let (mut feed, body) = fed();
            tokio::spawn(async move {
                feed.send_data(Bytes::from_static(b"x")).await.unwrap();
                let mut trailers = line("x-checksum", "2");
                trailers.extend(line("connection", "close"));
                trailers.extend(line("set-cookie", "a=b"));
                feed.send_trailers(trailers).await.unwrap();
            });
            Response::builder().header("trailer", "x-checksum, connection, set-cookie").body(body).unwrap()
        }
    });
    (application, got)
}

/// attacks: policy 3
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn trailers_pass_both_ways_and_identities_in_them_do_not() {
    let (application, got) = of_trailers();
    let running = open(application.port, "");
    for mut client in Client::both(port(&running)).await {
        let (mut feed, body) = fed();
        let owned = ["x-forwarded-user", "x_forwarded_groups", "x-real-ip", "proxy", "x_client_ip", "x-http-method"];
        let names = format!("x-checksum, {}", owned.join(", "));
        let request = Request::post("/").header("te", "trailers").header("trailer", names);
        tokio::spawn(async move {
            feed.send_data(Bytes::from_static(b"x")).await.unwrap();
            let mut trailers = line("x-checksum", "1");
            for name in owned {
                trailers.extend(line(name, "root"));
            }
            feed.send_trailers(trailers).await.unwrap();
        });
        let response = client.ask(request, "/", body).await;
        assert_eq!(response.status(), StatusCode::OK);
        let collected = soon(response.into_body().collect()).await.unwrap();
        assert_eq!(collected.trailers(), Some(&line("x-checksum", "2")), "back to the client");
        assert_eq!(got.recv().unwrap(), line("x-checksum", "1"), "to the application");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_piece_is_forwarded_while_the_rest_is_still_to_come() {
    let application = Application::start(|request| async {
        let (mut feed, body) = fed();
        let mut incoming = request.into_body();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = incoming.frame().await {
                feed.send(frame).await.unwrap();
            }
        });
        Response::new(body)
    });
    let running = open(application.port, "");
    for mut client in Client::both(port(&running)).await {
        let (mut feed, body) = fed();
        feed.send_data(Bytes::from_static(b"first")).await.unwrap();
        let mut answer = client.ask(Request::post("/"), "/", body).await.into_body();
        assert_eq!(piece(&mut answer).await, "first", "answered before the request is complete");
        feed.send_data(Bytes::from_static(b"second")).await.unwrap();
        assert_eq!(piece(&mut answer).await, "second");
        drop(feed);
        let rest = soon(answer.collect()).await.unwrap();
        assert_eq!(rest.to_bytes(), "");
    }
}

/// A client that gets nothing at all of an answer takes a kept connection for one that was closed idle, and sends its request again.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_came_of_an_answer_that_breaks_off_arrives() {
    let application = Application::on_streams(|mut stream| async move {
        let (mut head, mut chunk) = (Vec::new(), [0; 1024]);
        while !head.windows(4).any(|four| four == b"\r\n\r\n") {
            let Ok(read @ 1..) = stream.read(&mut chunk).await else { return };
            head.extend_from_slice(&chunk[..read]);
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun").await;
    });
    let running = open(application.port, "");
    for _ in 0..20 {
        for mut client in Client::both(port(&running)).await {
            let answer = client.ask(Request::post("/"), "/", whole("")).await;
            assert_eq!(answer.status(), 200);
            let mut body = answer.into_body();
            assert_eq!(soon(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "begun");
            assert!(soon(body.frame()).await.unwrap().is_err(), "and it is not taken for complete");
        }
    }
}

/// attacks: policy 11. What an application leaves unread must not become the head of the next request.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_early_answer_arrives_and_its_connection_is_not_used_again() {
    let served = Arc::new(Mutex::new(Vec::new()));
    let counts = served.clone();
    let application = Application::on_streams(move |mut stream| {
        let counts = counts.clone();
        let number = {
            let mut counts = counts.lock().unwrap();
            counts.push(0);
            counts.len() - 1
        };
        async move {
            let (mut head, mut chunk) = (Vec::new(), [0; 1024]);
            while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                let Ok(read @ 1..) = stream.read(&mut chunk).await else { return };
                head.extend_from_slice(&chunk[..read]);
            }
            counts.lock().unwrap()[number] += 1;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await;
            // Neither read nor closed: the other side has to.
            std::future::pending::<()>().await;
        }
    });
    let running = open(application.port, "");
    for mut client in Client::both(port(&running)).await {
        let (mut feed, body) = fed();
        let feeding = tokio::spawn(async move { while feed.send_data(vec![b'x'; 16_384].into()).await.is_ok() {} });
        let answer = client.ask(Request::post("/"), "/", body).await;
        assert_eq!(soon(answer.into_body().collect()).await.unwrap().to_bytes(), "early");
        // The gateway tells the client to stop sending (RFC 9113 §8.1) or closes.
        soon(feeding).await.unwrap();
    }
    assert_eq!(*served.lock().unwrap(), [1, 1], "a connection of its own each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_body_past_the_limit_is_413_announced_or_not() {
    let (told, got) = channel();
    let application = Application::start(move |request| {
        let told = told.clone();
        async move {
            told.send(request.into_body().collect().await.is_ok()).unwrap();
            Response::new(whole("ok"))
        }
    });
    let running = open(application.port, "body_bytes = 1000");
    for mut client in Client::both(port(&running)).await {
        let answer = client.ask(Request::post("/"), "/", whole(vec![b'x'; 1000])).await;
        assert_eq!(answer.status(), StatusCode::OK, "the limit itself passes");
        assert!(got.recv().unwrap());
    }
    for mut client in Client::both(port(&running)).await {
        let answer = client.ask(Request::post("/"), "/", whole(vec![b'x'; 1001])).await;
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
    assert!(got.try_recv().is_err(), "an announced one does not reach the application");
    for mut client in Client::both(port(&running)).await {
        let (mut feed, body) = fed();
        let feeding = tokio::spawn(async move {
            for _ in 0..1001 {
                if feed.send_data(Bytes::from_static(b"x")).await.is_err() {
                    return;
                }
            }
            std::future::pending::<()>().await;
        });
        let answer = client.ask(Request::post("/"), "/", body).await;
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert!(!got.recv().unwrap(), "the application saw it break off, never end");
        feeding.abort();
    }
}

/// RFC 9112 §9.6: whoever is answered while it still sends reads the whole answer, and what that says of the connection holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_answer_without_the_body_is_read_and_says_whether_its_connection_ends() {
    let text = format!("{}\n[limits]\nbody_bytes = 5000\n", shipped("memory"));
    let running = run_text(tempfile::tempdir().unwrap(), &text);
    // A role that came later than its user.
    let boss = text.replacen("\"staff\"]", "\"staff\", \"boss\"]", 1).replace("[\"admin\"] }", "[\"boss\"] }");
    running.reload(&boss).unwrap();
    let cookie = block_in_place(|| {
        assert_eq!(running.sign_in("/", &running.password).status, 303);
        running.cookie()
    });
    for (path, cookie, status) in [("/", "", 401), ("/admin", &cookie, 403), ("/", &cookie, 413), ("/public", "", 405)]
    {
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n");
        let begins = format!("HTTP/1.1 {status} ");
        // Little is read to its end.
        let mut stream = connect(port(&running), "http/1.1").await;
        let little = format!("{head}Content-Length: 40000\r\n\r\n{}", "x".repeat(40_000));
        for _ in 0..2 {
            stream.write_all(little.as_bytes()).await.unwrap();
            let said = told(&mut stream, |said| said.contains("request id: ") && said.ends_with('\n')).await;
            assert!(said.starts_with(&begins) && !said.contains("connection: close"), "{path}: {said}");
        }
        // Whoever sends much, or has no end, and does not read before it has sent everything.
        let much = "x".repeat(1_048_576);
        let framed = [
            ("Content-Length: 1048576", much.clone()),
            ("Transfer-Encoding: chunked", format!("100000\r\n{much}\r\n0\r\n\r\n")),
        ];
        // What has no length is the application's to see before it is too large.
        for (framing, body) in framed.into_iter().take(if status == 413 { 1 } else { 2 }) {
            let mut stream = connect(port(&running), "http/1.1").await;
            stream.write_all(format!("{head}{framing}\r\n\r\n{body}").as_bytes()).await.unwrap();
            let said = told(&mut stream, |_| false).await;
            let ends = said.starts_with(&begins) && said.contains("\r\nconnection: close\r\n");
            assert!(ends && said.contains("request id: "), "{path} {framing}: {said}");
        }
        // Whoever asks before it sends is not told to send.
        let said =
            raw(port(&running), format!("{head}Content-Length: 6000\r\nExpect: 100-continue\r\n\r\n").as_bytes(), "")
                .await;
        assert!(said.starts_with(&begins) && said.contains("\r\nconnection: close\r\n"), "{path}: {said}");
    }
}

/// What is said until this holds of it, or to the end.
async fn told(stream: &mut (impl AsyncReadExt + Unpin), is_all: impl Fn(&str) -> bool) -> String {
    let (mut got, mut chunk) = (Vec::new(), [0; 4096]);
    while !is_all(&String::from_utf8_lossy(&got)) {
        match soon(stream.read(&mut chunk)).await {
            Ok(0) | Err(_) => break,
            Ok(read) => got.extend_from_slice(&chunk[..read]),
        }
    }
    String::from_utf8_lossy(&got).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_answer_to_head_keeps_its_length_and_has_no_body() {
    let application = Application::start(|_| async { Response::new(whole("12345")) });
    let running = open(application.port, "");
    for mut client in Client::both(port(&running)).await {
        for _ in 0..2 {
            let answer = client.ask(Request::head("/"), "/", whole("")).await;
            assert_eq!((answer.status(), answer.headers()["content-length"].to_str().unwrap()), (StatusCode::OK, "5"));
            assert_eq!(soon(answer.into_body().collect()).await.unwrap().to_bytes(), "");
        }
    }
    // The gateway's own words as well. The last question ends its connection.
    let own = [("/.portcullis/login", 200), ("/.portcullis/assets/portcullis.css", 200), ("/a//b", 400)];
    let clients = (Client::both(port(&running)).await, Client::both(port(&running)).await);
    for (mut get, mut head) in clients.0.into_iter().zip(clients.1) {
        for (path, status) in own {
            let [mut asked, mut lengths] = [Vec::new(), Vec::new()];
            for (client, request) in [(&mut get, Request::get("/")), (&mut head, Request::head("/"))] {
                let answer = client.ask(request, path, whole("")).await;
                assert_eq!(answer.status(), status, "{path}");
                lengths.push(answer.headers()["content-length"].to_str().unwrap().parse::<usize>().unwrap());
                asked.push(soon(answer.into_body().collect()).await.unwrap().to_bytes().len());
            }
            assert!(lengths[0] > 0 && asked == [lengths[0], 0], "{path}: {asked:?} {lengths:?}");
            assert!(lengths[0].abs_diff(lengths[1]) < 40, "{path}: {lengths:?}");
        }
    }
}

/// A clock that panics when it is read for the n-th time from now.
pub struct Fragile(pub AtomicU64);

impl Clock for Fragile {
    fn now(&self) -> Timestamp {
        // What goes on in the background reads the clock too, whenever it likes.
        if !std::thread::current().name().is_some_and(|name| name.starts_with("worker-")) {
            return SystemClock.now();
        }
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(1)));
        assert_ne!(left, Ok(1), "a planted panic");
        SystemClock.now()
    }
}

#[test]
fn a_panic_in_a_request_answers_500_and_hurts_nobody_else() {
    let clock = Arc::new(Fragile(AtomicU64::new(0)));
    let running = run_with(tempfile::tempdir().unwrap(), &shipped("memory"), clock.clone(), None);
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    // The first reading times the record, the second is made by the page.
    clock.0.store(2, Ordering::SeqCst);
    let said = running.curl("/.portcullis/whoami", &["-H", "accept: application/json"]);
    assert_eq!(said.status, 500);
    assert!(said.body.contains("\"error\":\"internal\""), "{}", said.body);
    assert_eq!(running.curl("/a", &[]).status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_on_its_way_finishes_while_the_gateway_stops() {
    let (arrived, there) = oneshot::channel();
    let (go, gone) = oneshot::channel::<()>();
    let once = Mutex::new(Some((arrived, gone)));
    let application = Application::start(move |_| {
        let (arrived, gone) = once.lock().unwrap().take().unwrap();
        async move {
            arrived.send(()).unwrap();
            gone.await.unwrap();
            Response::new(whole("late"))
        }
    });
    let Running { gateway, folder, .. } = open(application.port, "");
    let port = gateway.address().port();
    let [_, mut client] = Client::both(port).await;
    let asked = tokio::spawn(async move { client.ask(Request::get("/"), "/", whole("")).await });
    soon(there).await.unwrap();
    let stopping = tokio::task::spawn_blocking(move || gateway.stop());
    let closed = async { while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {} };
    soon(closed).await;
    assert!(!stopping.is_finished(), "it waits for the request");
    go.send(()).unwrap();
    let answer = soon(asked).await.unwrap();
    assert_eq!(soon(answer.into_body().collect()).await.unwrap().to_bytes(), "late");
    soon(stopping).await.unwrap();
    drop(folder);
}

/// Whoever asks and leaves is not to go unseen: the application may have done what it was asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_whose_client_left_before_the_answer_is_recorded() {
    let (told, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    let application = Application::start(move |_| {
        told.send(()).unwrap();
        std::future::pending::<Response<Frames>>()
    });
    let text = shipped("memory")
        .replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{}\"", application.port))
        .replace("[server]\n", "[server]\nadmin = \"127.0.0.1:0\"\n");
    let running = run_text(tempfile::tempdir().unwrap(), &text);
    for mut client in Client::both(port(&running)).await {
        let asked = tokio::spawn(async move { client.try_ask(Request::get("/"), "/public/order", whole("")).await });
        soon(arrived.recv()).await.unwrap();
        asked.abort();
    }
    let lines = || running.lines.0.lock().unwrap().clone();
    eventually("both are recorded", async || lines().len() == 2).await;
    for (line, protocol) in lines().iter().zip(["HTTP/1.1", "HTTP/2"]) {
        let line: Value = serde_json::from_str(line).unwrap();
        let said = ["protocol", "path", "route", "upstream", "decision", "body"].map(|key| line[key].as_str().unwrap());
        assert_eq!(said, [protocol, "/public/order", "public", "app", "forward", "aborted"], "{line}");
        assert!(line["status"] == 499 && line["upstream_ms"].as_f64() > Some(0.0), "{line}");
    }
    let metrics = format!("http://{}/metrics", running.gateway.admin_address().unwrap());
    let metrics = running.visit(&metrics, &[]).body;
    for sample in [
        "portcullis_requests_total{route=\"public\",decision=\"forward\",status=\"4xx\"} 2\n",
        "portcullis_upstream_requests_total{upstream=\"app\",outcome=\"abandoned\"} 2\n",
    ] {
        assert!(metrics.contains(sample), "{sample} in {metrics}");
    }
}

/// Whoever looks for what an application did reads the lines that name it.
#[test]
fn the_record_names_an_application_that_may_have_seen_the_request_and_no_other() {
    let limited =
        format!("{}\n[limits]\nbody_bytes = 10\n", shipped("memory").replace("\"authenticated\"", "\"public\""));
    let folder = tempfile::tempdir().unwrap();
    let nobody = limited.replace("builtin:whoami", &format!("unix:{}", folder.path().join("nobody").display()));
    for (text, body, status, named) in [
        (&limited, "a", 200, json!("app")),
        (&limited, "more than ten", 413, json!(null)),
        (&nobody, "a", 502, json!(null)),
    ] {
        let running = run_text(tempfile::tempdir().unwrap(), text);
        assert_eq!(running.alone("/", &["-d", body]).status, status);
        let line: Value = serde_json::from_str(&running.lines.0.lock().unwrap()[0]).unwrap();
        assert_eq!((&line["decision"], &line["upstream"]), (&json!("forward"), &named), "{line}");
        assert_eq!(line["upstream_ms"].is_number(), named.is_string(), "{line}");
    }
}

/// attacks: a long path is sent once over HTTP/2, and named by a byte as often as one likes.
#[test]
fn a_line_has_the_beginning_of_a_long_path_and_its_length() {
    let running = crate::support::run("memory");
    for (number, (length, shown)) in [(1024, 1024), (1025, 1024), (8000, 1024)].into_iter().enumerate() {
        let path = format!("/public/{}", "x".repeat(length - 8));
        assert!(running.alone(&path, &[]).body.contains(&path), "the application sees all of it");
        let line: Value = serde_json::from_str(&running.lines.0.lock().unwrap()[number]).unwrap();
        assert_eq!(line["path"], path[..shown]);
        assert_eq!(line["path_bytes"].as_u64(), (length > shown).then_some(length as u64));
    }
}

/// WebSocket messages of every kind, over TLS to the gateway and plain behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn websocket_messages_go_both_ways() {
    use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};
    let application = Application::on_streams(|stream| async move {
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    });
    let running = open(application.port, "");
    let request = "wss://localhost/socket".into_client_request().unwrap();
    let stream = connect(port(&running), "http/1.1").await;
    let (mut socket, response) = soon(tokio_tungstenite::client_async(request, stream)).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    for message in [Message::text("hello"), Message::binary(vec![7; 300_000]), Message::text("")] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(soon(socket.next()).await.unwrap().unwrap(), message);
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = soon(socket.next()).await {}
    drop(socket);
    // Its end has a line of its own, beside that of the request.
    let lines = || running.lines.0.lock().unwrap().clone();
    eventually("both are recorded", async || lines().len() == 2).await;
    let [request, end] = [0, 1].map(|n| serde_json::from_str::<Value>(&lines()[n]).unwrap());
    assert_eq!(end["request_id"], request["request_id"]);
    assert_eq!((&request["status"], &end["kind"], &end["end"]), (&101.into(), &"tunnel".into(), &"closed".into()));
    let moved = ["received", "sent"].map(|way| end[way].as_u64().unwrap());
    assert!(moved.iter().all(|bytes| (300_005..310_000).contains(bytes)) && end["total_ms"].is_number(), "{end}");
}
