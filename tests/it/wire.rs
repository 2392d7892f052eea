//! Clients and applications that speak HTTP without curl, where a test has to see or hold back single frames. What is started
//! here ends with the test.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, channel::Channel};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;

/// Any body of a test.
pub type Frames = UnsyncBoxBody<Bytes, Infallible>;
/// Feeds one.
pub type Feed = http_body_util::channel::Sender<Bytes, Infallible>;

/// No exchange of a test takes longer.
pub const SOON: Duration = Duration::from_secs(40);

/// A body that is all there.
pub fn whole(bytes: impl Into<Bytes>) -> Frames {
    Full::new(bytes.into()).boxed_unsync()
}

/// A body that is fed as the test goes on.
pub fn fed() -> (Feed, Frames) {
    let (feed, body) = Channel::new(1);
    (feed, body.boxed_unsync())
}

/// One line as a header list.
pub fn line(name: &'static str, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
}

/// Within the time that any step of a test may take.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("it takes too long")
}

/// The next piece of a body, as text.
pub async fn piece(body: &mut Incoming) -> String {
    let frame = soon(body.frame()).await.expect("there is more").unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

/// A port that nobody listens on, and that nobody else is given as long as this lives.
pub struct Nobody(socket2::Socket);

impl Nobody {
    pub fn new() -> Nobody {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        Nobody(socket)
    }

    pub fn port(&self) -> u16 {
        self.0.local_addr().unwrap().as_socket().unwrap().port()
    }
}

/// An HTTP/1.1 application on a thread of its own.
pub struct Application {
    pub port: u16,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Application {
    /// Start it.
    pub fn start<F, A>(answer: F) -> Application
    where
        F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Frames>> + Send + 'static,
    {
        let answer = Arc::new(answer);
        Application::on_streams(move |stream| serve(stream, answer.clone(), false))
    }

    /// One that speaks HTTP/2 in clear text.
    pub fn start_two<F, A>(answer: F) -> Application
    where
        F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Frames>> + Send + 'static,
    {
        let answer = Arc::new(answer);
        Application::on_streams(move |stream| serve(stream, answer.clone(), true))
    }

    /// One behind TLS; the protocol is what was agreed on.
    pub fn start_tls<F, A>(config: rustls::ServerConfig, answer: F) -> Application
    where
        F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Frames>> + Send + 'static,
    {
        let (answer, acceptor) = (Arc::new(answer), tokio_rustls::TlsAcceptor::from(Arc::new(config)));
        Application::on_streams(move |stream| {
            let (answer, acceptor) = (answer.clone(), acceptor.clone());
            async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                serve(stream, answer, two).await;
            }
        })
    }

    /// One that is handed the bare connections.
    pub fn on_streams<F, A>(serve: F) -> Application
    where
        F: Fn(TcpStream) -> A + Send + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    tokio::select! {
                        accepted = listener.accept() => {
                            let stream = accepted.unwrap().0;
                            stream.set_nodelay(true).unwrap();
                            tokio::spawn(serve(stream));
                        }
                        () = stopped.cancelled() => return,
                    }
                }
            });
        });
        Application { port, stop, thread: Some(thread) }
    }
}

/// Serve one connection.
pub async fn serve<S, F, A>(stream: S, answer: Arc<F>, two: bool)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Response<Frames>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    if two {
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = connection.serve_connection(TokioIo::new(stream), service).await;
    } else {
        let connection = hyper::server::conn::http1::Builder::new();
        let _ = connection.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// Trusts the development certificate, as `curl -k` does.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A TLS connection to the gateway.
pub async fn connect(port: u16, alpn: &str) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    greet(stream, "localhost", alpn).await.unwrap()
}

/// TLS on a connection that stands, for this name.
pub async fn greet(stream: TcpStream, name: &str, alpn: &str) -> std::io::Result<TlsStream<TcpStream>> {
    greet_as(&browser(rustls::DEFAULT_VERSIONS, alpn), stream, name).await
}

/// The same by a browser, which remembers whom it met.
pub async fn greet_as(browser: &TlsConnector, stream: TcpStream, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    soon(browser.connect(name, stream)).await
}

/// One that has met nobody yet.
pub fn browser(versions: &[&'static rustls::SupportedProtocolVersion], alpn: &str) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// An HTTP/1.1 client.
pub async fn one(port: u16) -> http1::SendRequest<Frames> {
    let (sender, connection) = http1::handshake(TokioIo::new(connect(port, "http/1.1").await)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

/// An HTTP/2 client.
pub async fn two(port: u16) -> http2::SendRequest<Frames> {
    let stream = TokioIo::new(connect(port, "h2").await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A WebSocket over HTTP/2 (RFC 8441), on a connection of its own, asked for by a page of the same host.
pub async fn socket_over_two(
    port: u16,
    path: &str,
    (name, value): (&'static str, &str),
) -> tokio_tungstenite::WebSocketStream<TokioIo<hyper::upgrade::Upgraded>> {
    let mut client = two(port).await;
    // The server's settings have to be there before the protocol may be used.
    let first = Request::get("https://localhost/public").body(whole("")).unwrap();
    soon(client.send_request(first)).await.unwrap();
    let request = Request::connect(format!("https://localhost:{port}{path}"))
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .header(name, value)
        .header("origin", format!("https://localhost:{port}"))
        .header("sec-websocket-version", "13")
        .body(whole(""))
        .unwrap();
    let answer = soon(client.send_request(request)).await.unwrap();
    assert_eq!(answer.status(), http::StatusCode::OK);
    assert!(answer.headers().get("sec-websocket-accept").is_none());
    let upgraded = TokioIo::new(soon(hyper::upgrade::on(answer)).await.unwrap());
    tokio_tungstenite::WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await
}

/// Either, behind one method.
pub enum Client {
    One(http1::SendRequest<Frames>),
    Two(http2::SendRequest<Frames>),
}

impl Client {
    /// Both, in turn.
    pub async fn both(port: u16) -> [Client; 2] {
        [Client::One(one(port).await), Client::Two(two(port).await)]
    }

    /// Ask for a path of `localhost`.
    pub async fn ask(&mut self, request: http::request::Builder, path: &str, body: Frames) -> Response<Incoming> {
        soon(self.try_ask(request, path, body)).await.expect("an answer")
    }

    /// The same, where no answer is one too.
    pub async fn try_ask(
        &mut self,
        request: http::request::Builder,
        path: &str,
        body: Frames,
    ) -> Option<Response<Incoming>> {
        let http2 = matches!(self, Client::Two(_));
        let answer = match self {
            Client::One(sender) => {
                let request = request.uri(path).header("host", "localhost").body(body).unwrap();
                sender.ready().await.ok()?;
                sender.send_request(request).await.ok()
            }
            Client::Two(sender) => {
                let request = request.uri(format!("https://localhost{path}")).body(body).unwrap();
                sender.send_request(request).await.ok()
            }
        };
        answer.inspect(|answer| crate::unasked::head(answer.status().as_u16(), answer.headers(), http2))
    }
}

/// Send bytes as they are over HTTP/1.1 and read until the gateway closes, or for `wanted` to have come.
pub async fn raw(port: u16, bytes: &[u8], wanted: &str) -> String {
    let mut stream = connect(port, "http/1.1").await;
    stream.write_all(bytes).await.unwrap();
    let (mut got, mut chunk) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&got).contains(wanted) || wanted.is_empty() {
        match soon(stream.read(&mut chunk)).await {
            Ok(0) | Err(_) => break,
            Ok(read) => got.extend_from_slice(&chunk[..read]),
        }
    }
    String::from_utf8_lossy(&got).into_owned()
}
