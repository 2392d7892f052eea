//! Many at once, and many of ill will: a thousand sockets and streams that end with their session, floods of slow clients from a
//! real attack tool while others are served, and a real HTTP/2 client that asks for everything side by side.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use crate::edge::count;
use crate::options::revoke_everyone;
use crate::support::{Running, run_text, shipped};
use crate::tools::Service;
use crate::wire::{Application, Client, connect, fed, greet, one, piece, soon, two, whole};

/// The shipped configuration in front of an application.
fn before(application: &Application, limits: &str) -> Running {
    let text = shipped("memory")
        .replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{}\"", application.port))
        .replace("methods  = [\"GET\", \"HEAD\"]\n", "");
    run_text(tempfile::tempdir().unwrap(), &format!("{text}\n[limits]\n{limits}\n"))
}

/// attacks: WebSockets beyond number, over a connection each.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn websockets_have_places_among_the_connections_as_long_as_they_are_open() {
    let application = sockets_and_streams(watch::channel(false).1);
    for (limits, refused) in [("connections_per_address = 2", "refused_address"), ("connections = 2", "refused_full")] {
        let running = before(&application, limits);
        assert_eq!(tokio::task::block_in_place(|| running.sign_in("/", &running.password)).status, 303);
        let (port, cookie) = (running.port(), running.cookie());
        let open = async || {
            let mut request = format!("wss://localhost:{port}/s").into_client_request().unwrap();
            request.headers_mut().insert("cookie", cookie.parse().unwrap());
            let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let stream = greet(stream, "localhost", "http/1.1").await.ok()?;
            Some(soon(tokio_tungstenite::client_async(request, stream)).await.unwrap().0)
        };
        // Whoever signed in has left.
        let until = Instant::now() + Duration::from_secs(20);
        let mut sockets = Vec::new();
        while sockets.len() < 2 {
            sockets.extend(open().await);
            assert!(Instant::now() < until, "{limits}");
        }
        let before = count(&running, refused);
        assert!(open().await.is_none() && open().await.is_none(), "{limits}");
        assert_eq!(count(&running, refused), before + 2);
        for socket in &mut sockets {
            socket.send(Message::text("on")).await.unwrap();
            assert_eq!(soon(socket.next()).await.unwrap().unwrap(), Message::text("on"));
        }
        drop(sockets.pop());
        while open().await.is_none() {
            assert!(Instant::now() < until, "{limits}: the place is not given back");
        }
    }
}

/// How many of each there are.
const CROWD: usize = 1_000;
/// Streams that share an HTTP/2 connection.
const SHARED: usize = 50;

/// Echoes over WebSockets; every other request is an event stream, whose second event comes when the test says so.
fn sockets_and_streams(go: watch::Receiver<bool>) -> Application {
    Application::on_streams(move |stream| {
        let go = go.clone();
        async move {
            let mut head = [0; 7];
            stream.peek(&mut head).await.unwrap();
            if head.starts_with(b"GET /s ") {
                let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() && socket.send(message).await.is_err() {
                        return;
                    }
                }
                return;
            }
            let events = move |_: Request<hyper::body::Incoming>| {
                let mut go = go.clone();
                async move {
                    let (mut feed, body) = fed();
                    tokio::spawn(async move {
                        for event in ["data: 1\n\n", "data: 2\n\n"] {
                            if feed.send_data(Bytes::from_static(event.as_bytes())).await.is_err() {
                                return;
                            }
                            let _ = go.wait_for(|go| *go).await;
                        }
                        std::future::pending::<()>().await;
                    });
                    Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
                }
            };
            crate::wire::serve(stream, Arc::new(events), false).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_websockets_and_event_streams_end_with_their_session() {
    // This process holds both ends of everything.
    let pid = std::process::id().to_string();
    let hard = Command::new("sh").args(["-c", "ulimit -Hn"]).output().unwrap().stdout;
    let limit = format!("--nofile={}:", String::from_utf8(hard).unwrap().trim().replace("unlimited", "1048576"));
    assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());

    let (tell, go) = watch::channel(false);
    let application = sockets_and_streams(go);
    let running = before(&application, "connections_per_address = 5000");
    assert_eq!(tokio::task::block_in_place(|| running.sign_in("/", &running.password)).status, 303);
    let (port, cookie) = (running.port(), running.cookie());
    let few = Arc::new(Semaphore::new(32));
    let (mut sockets, mut streams) = (JoinSet::new(), JoinSet::new());
    for _ in 0..CROWD {
        let (few, cookie) = (few.clone(), cookie.clone());
        sockets.spawn(async move {
            let _one_of_few = few.acquire().await.unwrap();
            let mut request = format!("wss://localhost:{port}/s").into_client_request().unwrap();
            request.headers_mut().insert("cookie", cookie.parse().unwrap());
            let stream = connect(port, "http/1.1").await;
            soon(tokio_tungstenite::client_async(request, stream)).await.unwrap().0
        });
    }
    // Half of the streams over HTTP/2, fifty a connection.
    for shared in [SHARED; CROWD / SHARED / 2].into_iter().chain([1; CROWD / 2]) {
        let (few, cookie) = (few.clone(), cookie.clone());
        streams.spawn(async move {
            let _one_of_few = few.acquire().await.unwrap();
            let mut client = match shared {
                1 => Client::One(one(port).await),
                _ => Client::Two(two(port).await),
            };
            let mut bodies = Vec::new();
            for _ in 0..shared {
                let request = Request::get("/").header("cookie", &cookie);
                bodies.push(client.ask(request, "/e", whole("")).await.into_body());
            }
            (client, bodies)
        });
    }
    let mut sockets = sockets.join_all().await;
    let mut streams = streams.join_all().await;
    assert_eq!(streams.iter().map(|(_, bodies)| bodies.len()).sum::<usize>(), CROWD);
    for body in streams.iter_mut().flat_map(|(_, bodies)| bodies) {
        assert_eq!(piece(body).await, "data: 1\n\n");
    }
    for (number, socket) in sockets.iter_mut().enumerate() {
        socket.send(Message::text(number.to_string())).await.unwrap();
    }
    for (number, socket) in sockets.iter_mut().enumerate() {
        assert_eq!(soon(socket.next()).await.unwrap().unwrap(), Message::text(number.to_string()));
    }
    tell.send(true).unwrap();
    for body in streams.iter_mut().flat_map(|(_, bodies)| bodies) {
        assert_eq!(piece(body).await, "data: 2\n\n");
    }
    revoke_everyone(&running).await;
    for socket in &mut sockets {
        assert!(
            matches!(soon(socket.next()).await, Some(Ok(Message::Close(Some(close)))) if u16::from(close.code) == 1008)
        );
    }
    for body in streams.iter_mut().flat_map(|(_, bodies)| bodies) {
        assert!(piece(body).await.starts_with("event: portcullis-session-ended\n"));
    }
}

/// Established connections to a local port (proc(5), `/proc/net/tcp`: state 01).
fn established(port: u16) -> usize {
    let local = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.by_ref().filter(|row| row[1].ends_with(&local) && row[3] == "01").count()
}

/// Somebody else's request, from another address, over a connection of its own.
async fn asked_from_elsewhere(port: u16) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
    let stream: TcpStream = soon(socket.connect(SocketAddr::from(([127, 0, 0, 1], port)))).await.unwrap();
    let mut stream = greet(stream, "localhost", "http/1.1").await.unwrap();
    stream.write_all(b"GET /public HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut said = String::new();
    soon(stream.read_to_string(&mut said)).await.unwrap();
    said
}

/// Slow heads, slow bodies and slow readers: the three attacks of slowhttptest (CWE-400), with more time than they will get.
fn attacks(port: u16) -> [Service; 3] {
    let attack = |arguments: &[&str], path: &str| {
        let mut command = Command::new("slowhttptest");
        command.args(["-c", "120", "-r", "120", "-l", "240", "-p", "60"]).args(arguments);
        Service::start(command.args(["-u", &format!("https://localhost:{port}{path}")]))
    };
    [
        attack(&["-H", "-i", "1", "-x", "10"], "/public"),
        attack(&["-B", "-i", "10", "-s", "8192", "-t", "POST"], "/public"),
        attack(&["-X", "-w", "512", "-y", "1024", "-n", "1", "-z", "32"], "/public/large"),
    ]
}

/// An application with an answer that takes a while to read.
fn large() -> Application {
    let many = Bytes::from(vec![b'x'; 8 << 20]);
    Application::start(move |request: Request<hyper::body::Incoming>| {
        let many = many.clone();
        async move {
            let large = request.uri().path() == "/public/large";
            let _ = request.into_body().collect().await;
            Response::new(whole(if large { many } else { Bytes::from_static(b"ok") }))
        }
    })
}

/// Polls until it holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(90);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// With the limits as shipped an attack holds what one address may hold, and nobody else notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn slow_attacks_leave_others_unharmed() {
    let application = large();
    let running = before(&application, "");
    let port = running.port();
    let _attacks = attacks(port);
    until("the attack comes to stand", || established(port) > 300).await;
    for asked in 0..30 {
        let said = asked_from_elsewhere(port).await;
        assert!(said.starts_with("HTTP/1.1 200 ") && said.ends_with("ok"), "{said}");
        assert!(established(port) > 300, "the attack is over after {asked}");
    }
}

/// attacks: policy 12
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn slow_attacks_are_cut() {
    let application = large();
    let limits = "header_timeout = \"2s\"\nbody_timeout = \"2s\"\nstall_timeout = \"2s\"";
    let running = before(&application, limits);
    let port = running.port();
    let [heads, bodies, readers] = attacks(port);
    until("it begins", || established(port) > 0).await;
    for attack in [heads, bodies] {
        tokio::task::block_in_place(|| attack.says("No open connections left"));
    }
    // The readers do not tell: there is nothing left for them to read.
    until("the slow readers are cut", || established(port) == 0).await;
    drop(readers);
    for limit in ["header_timeout", "reader_stalled"] {
        assert!(count(&running, limit) > 10, "{limit}: {}", count(&running, limit));
    }
}

/// nghttp: a hundred streams at once, an upload, and a reader with the smallest of windows.
#[test]
fn nghttp_asks_side_by_side_uploads_and_reads_through_small_windows() {
    let application = Application::start(|request: Request<hyper::body::Incoming>| async {
        let large = request.uri().path() == "/public/large";
        let sent = request.into_body().collect().await.unwrap().to_bytes().len();
        Response::new(whole(if large { "y".repeat(300_000) } else { format!("got {sent}\n") }))
    });
    let running = before(&application, "");
    let nghttp = |arguments: &[&str], path: &str| {
        let address = format!("https://localhost:{}{path}", running.port());
        let said = Command::new("nghttp").args(["-t", "20"]).args(arguments).arg(address).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8(said.stdout).unwrap()
    };
    let said = nghttp(&["-nv", "-m", "100"], "/public");
    assert_eq!(said.matches(":status: 200").count(), 100, "{said}");
    assert!(!said.contains("RST_STREAM"), "{said}");
    assert!(said.contains("error_code=NO_ERROR(0x00)"), "its GOAWAY: {said}");
    let file = running.folder.path().join("upload");
    std::fs::write(&file, vec![b'x'; 1 << 20]).unwrap();
    assert_eq!(nghttp(&["-d", file.to_str().unwrap()], "/public"), "got 1048576\n");
    let body = nghttp(&["-w", "8", "-W", "8"], "/public/large");
    assert!(body.len() == 300_000 && body.bytes().all(|byte| byte == b'y'), "{}", body.len());
    // Padding and priorities, which few clients send any more.
    assert_eq!(nghttp(&["-b", "255", "-p", "256", "-d", file.to_str().unwrap()], "/public"), "got 1048576\n");
}
