//! Streams of every kind, as clients hold them open: events, downloads, gRPC calls, WebSockets over both protocols and questions that
//! wait for their answer; and the applications that they come from, which send something now and then and never end by themselves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::wire::{Application, Client, Frames, connect, fed, one, socket_over_two, soon, two, whole};

/// Between two things that are sent.
const TICK: Duration = Duration::from_millis(20);

/// What is held open, and over which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Events(Version),
    Download(Version),
    Call,
    Socket(Version),
    /// A request that is answered when something happens.
    Poll,
}

pub const KINDS: [Kind; 8] = [
    Kind::Events(Version::HTTP_11),
    Kind::Events(Version::HTTP_2),
    Kind::Download(Version::HTTP_11),
    Kind::Download(Version::HTTP_2),
    Kind::Call,
    Kind::Socket(Version::HTTP_11),
    Kind::Socket(Version::HTTP_2),
    Kind::Poll,
];

/// The applications.
pub struct Streaming {
    plain: Application,
    calls: Application,
    /// Requests that wait for their answer.
    waiting: Arc<Semaphore>,
}

impl Streaming {
    pub fn start() -> Streaming {
        let waiting = Arc::new(Semaphore::new(0));
        let came = waiting.clone();
        let plain = Application::start(move |request| {
            let came = came.clone();
            async move {
                if request.uri().path().ends_with("/poll") {
                    came.add_permits(1);
                    std::future::pending::<()>().await;
                }
                if request.headers().contains_key("sec-websocket-key") {
                    return socket(request);
                }
                let kind = if request.uri().path().ends_with("/download") { "text/plain" } else { "text/event-stream" };
                Response::builder().header("content-type", kind).body(ticks()).unwrap()
            }
        });
        let calls = Application::start_two(|_| async {
            Response::builder().header("content-type", "application/grpc").body(ticks()).unwrap()
        });
        Streaming { plain, calls, waiting }
    }

    /// The routes to them: `/any` for whoever calls, `/role` for an `admin`; WebSockets of the latter have a close code of their own.
    pub fn routes(&self, accept: &str) -> String {
        let mut text = format!(
            "[upstream.streams]\nservers = [\"http://127.0.0.1:{}\"]\n[upstream.calls]\nservers = [\"h2c://127.0.0.1:{}\"]\n",
            self.plain.port, self.calls.port
        );
        for (upstream, prefix, code) in [("streams", "", "close_code = 4401\n"), ("calls", "/call", "")] {
            for (name, access, more) in [("any", "\"authenticated\"", ""), ("role", "{ roles = [\"admin\"] }", code)] {
                text += &format!(
                    "[[route]]\nname = \"{upstream}-{name}\"\npath = \"{prefix}/{name}\"\naccess = {access}\n\
                     accept = {accept}\nupstream = \"{upstream}\"\n{more}"
                );
            }
        }
        text
    }

    /// Open one under `/any` or `/role`, by this header, and see it begin.
    pub async fn open(&self, kind: Kind, port: u16, base: &str, by: (&'static str, &str)) -> Held {
        let (name, value) = by;
        let inner = match kind {
            Kind::Socket(Version::HTTP_11) => {
                let mut request = format!("wss://localhost{base}/socket").into_client_request().unwrap();
                request.headers_mut().insert(name, value.parse().unwrap());
                let stream = connect(port, "http/1.1").await;
                Inner::One(Box::new(soon(tokio_tungstenite::client_async(request, stream)).await.unwrap().0))
            }
            Kind::Socket(_) => Inner::Two(Box::new(socket_over_two(port, &format!("{base}/socket"), by).await)),
            Kind::Events(version) => body(version, port, &format!("{base}/events"), by).await,
            Kind::Download(version) => body(version, port, &format!("{base}/download"), by).await,
            Kind::Call => body(Version::HTTP_2, port, &format!("/call{base}"), by).await,
            Kind::Poll => {
                let (mut client, path) = (Client::One(one(port).await), format!("{base}/poll"));
                let request = Request::get("/").header(name, value);
                let asked = tokio::spawn(async move { client.ask(request, &path, whole("")).await.status().as_u16() });
                soon(self.waiting.acquire()).await.unwrap().forget();
                return Held { kind, inner: Inner::Poll(asked), came: Vec::new() };
            }
        };
        let mut held = Held { kind, inner, came: Vec::new() };
        assert_eq!(held.next().await, None, "{kind:?} under {base} begins");
        held
    }
}

fn ticks() -> Frames {
    let (mut feed, body) = fed();
    tokio::spawn(async move {
        while feed.send_data(Bytes::from_static(b"data: tick\n\n")).await.is_ok() {
            tokio::time::sleep(TICK).await;
        }
    });
    body
}

fn socket(request: Request<Incoming>) -> Response<Frames> {
    let accept = derive_accept_key(request.headers()["sec-websocket-key"].as_bytes());
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while socket.send(Message::text("tick")).await.is_ok() {
            tokio::time::sleep(TICK).await;
        }
    });
    let head = Response::builder().status(101).header("upgrade", "websocket").header("connection", "upgrade");
    head.header("sec-websocket-accept", accept).body(whole("")).unwrap()
}

/// One stream.
pub struct Held {
    pub kind: Kind,
    inner: Inner,
    /// Half of a piece.
    came: Vec<u8>,
}

enum Inner {
    /// The connection lives as long as whoever may send on it.
    Body(Client, Incoming),
    One(Box<WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>>),
    Two(Box<WebSocketStream<TokioIo<Upgraded>>>),
    Poll(JoinHandle<u16>),
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By an event that says so, and not in the middle of anything.
    Told,
    /// Broken off.
    Broken,
    /// By a close frame.
    Closed(u16),
    /// By an answer of the gateway's.
    Answered(u16),
}

impl End {
    /// How a stream of this kind ends that is cut.
    pub fn of(kind: Kind, code: u16) -> End {
        match kind {
            Kind::Events(_) => End::Told,
            Kind::Download(_) | Kind::Call => End::Broken,
            Kind::Socket(_) => End::Closed(code),
            Kind::Poll => End::Answered(401),
        }
    }

    /// How such a one ends where nobody can say whether its session stands: it is not told that it does not.
    pub fn of_outage(kind: Kind) -> End {
        match kind {
            Kind::Socket(_) => End::Closed(1013),
            Kind::Poll => End::Answered(503),
            Kind::Events(_) | Kind::Download(_) | Kind::Call => End::Broken,
        }
    }
}

impl Held {
    /// Wait for the next thing; how it ended, if it did.
    pub async fn next(&mut self) -> Option<End> {
        match &mut self.inner {
            Inner::Body(_client, body) => match soon(body.frame()).await {
                Some(Ok(frame)) => {
                    self.came.extend_from_slice(frame.data_ref().expect("no trailers"));
                    let came = String::from_utf8_lossy(&self.came);
                    let rest = came.replace("data: tick\n\n", "");
                    // However the pieces were cut on their way.
                    if rest != "event: portcullis-session-ended\ndata: the session ended\n\n" {
                        assert!("data: tick\n\n".starts_with(&rest) || rest.starts_with("event: "), "{came}");
                        self.came = rest.into_bytes();
                        return None;
                    }
                    let rest = soon(body.collect()).await.unwrap().to_bytes();
                    assert!(rest.is_empty(), "and nothing after it: {rest:?}");
                    Some(End::Told)
                }
                Some(Err(_)) => Some(End::Broken),
                None => panic!("{:?} ended as if it were complete", self.kind),
            },
            Inner::One(socket) => message(soon(socket.next()).await),
            Inner::Two(socket) => message(soon(socket.next()).await),
            Inner::Poll(asked) if !asked.is_finished() => {
                tokio::time::sleep(TICK).await;
                None
            }
            Inner::Poll(asked) => Some(End::Answered(asked.await.unwrap())),
        }
    }

    /// Read to the end, and say how and when it came.
    pub async fn end(mut self) -> (End, Instant) {
        loop {
            if let Some(end) = self.next().await {
                return (end, Instant::now());
            }
        }
    }
}

fn message(message: Option<Result<Message, Error>>) -> Option<End> {
    match message {
        Some(Ok(Message::Text(_))) => None,
        Some(Ok(Message::Close(Some(frame)))) => Some(End::Closed(frame.code.into())),
        Some(Ok(other)) => panic!("{other:?}"),
        Some(Err(_)) | None => Some(End::Broken),
    }
}

async fn body(version: Version, port: u16, path: &str, (name, value): (&'static str, &str)) -> Inner {
    let mut client = match version {
        Version::HTTP_2 => Client::Two(two(port).await),
        _ => Client::One(one(port).await),
    };
    let answer = client.ask(Request::get("/").header(name, value), path, whole("")).await;
    assert_eq!(answer.status(), 200, "{path}");
    Inner::Body(client, answer.into_body())
}
