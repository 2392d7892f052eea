//! Upstreams of every kind: HTTP/2, TLS, Unix sockets; uploads to them, and how long their connections are kept.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use rcgen::{CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Running, add_user, run_text, shipped};
use crate::wire::{Application, Client, Frames, fed, line, serve, soon, two, whole};

/// The shipped configuration, open to all, with this upstream.
pub fn behind(folder: tempfile::TempDir, upstream: &str) -> Running {
    let text = shipped("memory").replace("access   = \"authenticated\"", "access   = \"public\"");
    let text = text.replace("[server]\n", "[server]\nadmin = \"127.0.0.1:0\"\n");
    let (before, after) = text.split_once("[upstream.app]").unwrap();
    let (_, routes) = after.split_once("[[route]]").unwrap();
    run_text(folder, &format!("{before}[upstream.app]\n{upstream}\n[[route]]{routes}"))
}

pub fn port(running: &Running) -> u16 {
    running.gateway.address().port()
}

/// Answers with what it got, and a trailer.
async fn echo(request: Request<hyper::body::Incoming>) -> Response<Frames> {
    let (parts, body) = request.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let host = parts.headers.get("host").map(|host| host.to_str().unwrap().to_owned()).unwrap_or_default();
    let seen = format!(
        "{:?} {} {} host={host} te={:?} connection={:?} trailers={} bytes={}",
        parts.version,
        parts.method,
        parts.uri,
        parts.headers.get("te"),
        parts.headers.get("connection"),
        trailers.len(),
        collected.to_bytes().len(),
    );
    let (mut feed, answer) = fed();
    tokio::spawn(async move {
        feed.send_data(seen.into()).await.unwrap();
        feed.send_trailers(line("grpc-status", "0")).await.unwrap();
    });
    Response::builder().header("trailer", "grpc-status").body(answer).unwrap()
}

pub async fn text(answer: Response<hyper::body::Incoming>) -> (String, Option<HeaderMap>) {
    let collected = soon(answer.into_body().collect()).await.unwrap();
    let trailers = collected.trailers().cloned();
    (String::from_utf8(collected.to_bytes().to_vec()).unwrap(), trailers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_application_that_speaks_http2_gets_it() {
    let application = Application::start_two(echo);
    let running =
        behind(tempfile::tempdir().unwrap(), &format!("servers = [\"h2c://127.0.0.1:{}\"]", application.port));
    for mut client in Client::both(port(&running)).await {
        for _ in 0..3 {
            let (mut feed, body) = fed();
            tokio::spawn(async move {
                feed.send_data(Bytes::from(vec![b'x'; 100_000])).await.unwrap();
                feed.send_trailers(line("x-checksum", "1")).await.unwrap();
            });
            let request = Request::post("/").header("te", "trailers").header("trailer", "x-checksum");
            let (said, trailers) = text(client.ask(request, "/a?b", body).await).await;
            let expected = "HTTP/2.0 POST http://localhost/a?b host= te=Some(\"trailers\") connection=None trailers=1 bytes=100000";
            assert_eq!(said, expected);
            assert_eq!(trailers, Some(line("grpc-status", "0")));
        }
    }
    // A WebSocket there is refused, not half done.
    let socket = ["--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"];
    assert_eq!(running.curl("/", &socket).status, 502);
    assert_eq!(running.curl("/", &[]).status, 200, "and the server is not blamed for it");
}

/// attacks: line 102. A name that its user file or provider wrote with a blank, a route's own line, what is left of cookies: servers
/// leave such a line out, or refuse the request.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_line_has_blanks_around_it_over_http2() {
    let application = Application::start_two(|request| async move {
        let lines = request.headers().iter().map(|(name, value)| format!("{name}={value:?}\n"));
        let (lines, (mut feed, answer)) = (lines.collect::<String>(), fed());
        tokio::spawn(async move {
            feed.send_data(lines.into()).await.unwrap();
            feed.send_trailers(line("x-end", " end ")).await.unwrap();
        });
        Response::builder().header("x-theirs", "\ttheirs ").header("trailer", "x-end").body(answer).unwrap()
    });
    let folder = tempfile::tempdir().unwrap();
    let text = shipped("memory").replace("demo_user", "# demo_user");
    let text = text.replace("builtin:whoami", &format!("h2c://127.0.0.1:{}", application.port));
    let own = "set_headers = { X-Set = \" set \" }\nset_response_headers = { X-Answer = \" answer\\t\" }\n\n[[route]]";
    let text = text.replacen("\n[[route]]\nname     = \"admin\"", &format!("{own}\nname     = \"admin\""), 1);
    add_user(folder.path(), &text, "demo", "correct horse battery", &[]);
    let users = folder.path().join("users.toml");
    let named = std::fs::read_to_string(&users).unwrap().replace("roles = []", "roles = []\nname = \" Zo \\t\"");
    std::fs::write(&users, named).unwrap();
    let running = run_text(folder, &text);
    assert_eq!(tokio::task::block_in_place(|| running.sign_in("/", "correct horse battery")).status, 303);
    let cookies = format!("a=b ; {}", running.cookie());
    for mut client in Client::both(port(&running)).await {
        let asked = Request::get("/").header("cookie", &cookies).header("te", "trailers");
        let answer = client.ask(asked, "/", whole("")).await;
        for (name, value) in [("x-answer", "answer"), ("x-theirs", "theirs")] {
            assert_eq!(answer.headers()[name], value);
        }
        let (said, trailers) = self::text(answer).await;
        assert_eq!(trailers, Some(line("x-end", "end")));
        for line in ["x-forwarded-preferred-username=\"Zo\"", "x-set=\"set\"", "cookie=\"a=b\""] {
            assert!(said.lines().any(|said| said == line), "{line}: {said}");
        }
    }
}

/// attacks: policy 11, over HTTP/2: the answer is there, the rest of the request is not wanted, the client is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_early_answer_over_http2_stops_the_upload() {
    let application = Application::start_two(|request| async move {
        let (_, body) = request.into_parts();
        // Kept unread for as long as the connection lives.
        tokio::spawn(async move {
            let _body = body;
            std::future::pending::<()>().await;
        });
        Response::new(whole("early"))
    });
    let running =
        behind(tempfile::tempdir().unwrap(), &format!("servers = [\"h2c://127.0.0.1:{}\"]", application.port));
    for mut client in Client::both(port(&running)).await {
        let (mut feed, body) = fed();
        let feeding = tokio::spawn(async move { while feed.send_data(vec![b'x'; 16_384].into()).await.is_ok() {} });
        let answer = client.ask(Request::post("/"), "/", body).await;
        assert_eq!(text(answer).await.0, "early");
        soon(feeding).await.unwrap();
    }
}

/// A CA, and files of it in a folder: `ca.pem`, `client.pem`, `client.key`; the server's configuration asks for the client's.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(folder: &Path) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        // A name of its own: OpenSSL takes a certificate that is named like its issuer for one that signed itself.
        params.distinguished_name.push(rcgen::DnType::CommonName, "the CA of the tests");
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        let authority = Authority { issuer };
        let (certificate, key) = authority.issue("gateway.internal", ExtendedKeyUsagePurpose::ClientAuth);
        std::fs::write(folder.join("client.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.join("client.key"), key.serialize_pem()).unwrap();
        authority
    }

    pub fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        self.sign(&params)
    }

    pub fn sign(&self, params: &CertificateParams) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    pub fn server(&self, name: &str, alpn: &[&str]) -> rustls::ServerConfig {
        let (certificate, key) = self.issue(name, ExtendedKeyUsagePurpose::ServerAuth);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(self.issuer.der().to_vec())).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.unwrap().with_client_cert_verifier(clients.build().unwrap());
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], private).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

/// attacks: line 114
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tls_to_an_application_is_verified_both_ways() {
    for (alpn, more, version) in [
        (&["h2", "http/1.1"][..], "", Version::HTTP_2),
        (&["h2", "http/1.1"][..], "\nhttp2 = false", Version::HTTP_11),
        (&["http/1.1"][..], "", Version::HTTP_11),
        (&[][..], "", Version::HTTP_11),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let application = Application::start_tls(Authority::new(folder.path()).server("app.internal", alpn), echo);
        let servers = format!("servers = [\"https://127.0.0.1:{}\"]", application.port);
        let tls = "[upstream.app.tls]\nca = \"ca.pem\"\ncertificate = \"client.pem\"\nprivate_key = \"client.key\"";
        let running = behind(folder, &format!("{servers}\n{tls}\nserver_name = \"app.internal\"{more}"));
        for mut client in Client::both(port(&running)).await {
            for _ in 0..2 {
                let (said, _) = text(client.ask(Request::get("/"), "/", whole("")).await).await;
                assert!(said.starts_with(&format!("{version:?} GET ")), "{said}");
            }
        }
        // The certificate is for another name, from another CA, or no client certificate is shown.
        for wrong in [
            tls.to_owned(),
            "[upstream.app.tls]\nserver_name = \"app.internal\"".to_owned(),
            "[upstream.app.tls]\nca = \"ca.pem\"\nserver_name = \"app.internal\"".to_owned(),
        ] {
            let folder = tempfile::tempdir().unwrap();
            for file in ["ca.pem", "client.pem", "client.key"] {
                std::fs::copy(running.folder.path().join(file), folder.path().join(file)).unwrap();
            }
            let refused = behind(folder, &format!("{servers}\n{wrong}"));
            assert_eq!(refused.curl("/", &[]).status, 502, "{wrong}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_application_on_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let listener = tokio::net::UnixListener::bind(folder.path().join("app.sock")).unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, Arc::new(echo), false));
        }
    });
    let running = behind(folder, "servers = [\"unix:app.sock\"]");
    for mut client in Client::both(port(&running)).await {
        let (said, _) = text(client.ask(Request::get("/"), "/x", whole("")).await).await;
        assert!(said.starts_with("HTTP/1.1 GET /x host=localhost "), "{said}");
    }
    serving.abort();
}

/// A body may take as long as it moves. When it does not, it is told who was waited for, and held against whoever it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_upload_ends_by_the_fault_of_whoever_is_waited_for() {
    for two in [false, true] {
        let (taken, unread) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, ignored) = (taken.clone(), unread.clone());
        let answer = move |request: Request<hyper::body::Incoming>| {
            let (count, ignored) = (count.clone(), ignored.clone());
            async move {
                if request.uri().path() == "/unread" {
                    ignored.fetch_add(1, Ordering::SeqCst);
                    let _kept = request;
                    std::future::pending::<()>().await;
                    unreachable!()
                }
                let mut body = request.into_body();
                while let Some(Ok(frame)) = body.frame().await {
                    count.fetch_add(frame.data_ref().map_or(0, Bytes::len), Ordering::SeqCst);
                }
                Response::new(whole("all"))
            }
        };
        let start = || if two { Application::start_two(answer.clone()) } else { Application::start(answer.clone()) };
        let (one, other) = (start(), start());
        let scheme = if two { "h2c" } else { "http" };
        let servers =
            format!("servers = [\"{scheme}://127.0.0.1:{}\", \"{scheme}://127.0.0.1:{}\"]", one.port, other.port);
        let upstream = format!("{servers}\nresponse_timeout = \"500ms\"\neject_after = 1\neject_for = \"1h\"");
        let running = behind(tempfile::tempdir().unwrap(), &format!("{upstream}\n[limits]\nbody_timeout = \"2s\""));
        for mut client in Client::both(port(&running)).await {
            // Three times what an answer may take, and as much as the client may rest in between.
            let (mut feed, body) = fed();
            let taken = taken.clone();
            let feeding = tokio::spawn(async move {
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_millis(1500) {
                    let before = taken.load(Ordering::SeqCst);
                    feed.send_data(Bytes::from_static(b"piece")).await.unwrap();
                    while taken.load(Ordering::SeqCst) == before {
                        tokio::task::yield_now().await;
                    }
                }
            });
            let answer = client.ask(Request::post("/"), "/", body).await;
            assert_eq!(answer.status(), StatusCode::OK, "{scheme}");
            text(answer).await;
            soon(feeding).await.unwrap();
            // The client rests for longer than an answer may take, and for longer than itself may.
            let (mut feed, body) = fed();
            feed.send_data(Bytes::from_static(b"piece")).await.unwrap();
            let answer = client.ask(Request::post("/"), "/", body).await;
            assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT, "{scheme}");
            drop(feed);
        }
        // The application takes nothing, and is not asked again: once each.
        for mut client in Client::both(port(&running)).await {
            let (mut feed, body) = fed();
            let feeding = tokio::spawn(async move { while feed.send_data(vec![b'x'; 65_536].into()).await.is_ok() {} });
            let answer = client.ask(Request::post("/"), "/unread", body).await;
            assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT, "{scheme}");
            drop((answer, client));
            soon(feeding).await.unwrap();
        }
        let metrics = tokio::task::block_in_place(|| crate::admin::ask(&running, "/metrics", &[])).body;
        for port in [one.port, other.port] {
            let server =
                format!("portcullis_upstream_server_available{{upstream=\"app\",server=\"127.0.0.1:{port}\"}}");
            assert_eq!(crate::admin::sample(&metrics, &server), "0", "{scheme}");
        }
        assert_eq!(unread.load(Ordering::SeqCst), 2);
    }
}

pub async fn echo_or_nothing(request: Request<hyper::body::Incoming>) -> Response<Frames> {
    let complete = request.into_body().collect().await.is_ok();
    Response::new(whole(if complete { "all" } else { "part" }))
}

/// One of the connections that are open, as long as it lives.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_burst_keeps_its_connections_while_it_lasts_and_no_longer() {
    const WAVE: usize = 6;
    let (opened, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let together = Arc::new(tokio::sync::Barrier::new(WAVE));
    let (made, living) = (opened.clone(), open.clone());
    let application = Application::on_streams(move |stream| {
        made.fetch_add(1, Ordering::SeqCst);
        living.fetch_add(1, Ordering::SeqCst);
        let (open, together) = (Open(living.clone()), together.clone());
        let answer = Arc::new(move |_| {
            let together = together.clone();
            async move {
                together.wait().await;
                Response::new(whole("ok"))
            }
        });
        async move {
            serve(stream, answer, false).await;
            drop(open);
        }
    });
    let config = shipped("memory").replace("builtin:whoami", &format!("http://127.0.0.1:{}", application.port));
    let config = config.replace("[server]\n", "[server]\nworkers = 1\n");
    let running =
        run_text(tempfile::tempdir().unwrap(), &format!("{config}\n[limits]\nidle_upstream_connections = 2\n"));
    let client = two(port(&running)).await;
    for _ in 0..3 {
        let wave: Vec<_> = (0..WAVE)
            .map(|_| {
                let request = Request::get("https://localhost/public").body(whole("")).unwrap();
                tokio::spawn(client.clone().send_request(request))
            })
            .collect();
        for answer in wave {
            assert_eq!(text(soon(answer).await.unwrap().unwrap()).await.0, "ok");
        }
    }
    assert_eq!(opened.load(Ordering::SeqCst), WAVE, "the second wave finds those of the first");
    let until = Instant::now() + Duration::from_secs(10);
    while open.load(Ordering::SeqCst) > 2 {
        assert!(Instant::now() < until, "{} are open", open.load(Ordering::SeqCst));
        tokio::task::yield_now().await;
    }
    assert_eq!(open.load(Ordering::SeqCst), 2);
}

/// An application that serves one connection at a time waits for the end of each, and so may whoever counts its connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_that_idles_is_closed_without_another_request() {
    for two in [false, true] {
        let open = Arc::new(AtomicUsize::new(0));
        let living = open.clone();
        let application = Application::on_streams(move |stream| {
            living.fetch_add(1, Ordering::SeqCst);
            let open = Open(living.clone());
            async move {
                serve(stream, Arc::new(|_| async { Response::new(whole("ok")) }), two).await;
                drop(open);
            }
        });
        let scheme = if two { "h2c" } else { "http" };
        let server = format!("servers = [\"{scheme}://127.0.0.1:{}\"]", application.port);
        let limits = "[limits]\nupstream_idle_timeout = \"100ms\"";
        let running = behind(tempfile::tempdir().unwrap(), &format!("{server}\n{limits}"));
        let [mut client, _] = Client::both(port(&running)).await;
        // Once more after its end: there is somebody again who looks after it.
        for _ in 0..2 {
            assert_eq!(text(client.ask(Request::get("/"), "/", whole("")).await).await.0, "ok");
            let until = Instant::now() + Duration::from_secs(20);
            while open.load(Ordering::SeqCst) > 0 {
                assert!(Instant::now() < until, "{scheme}: it stays open");
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_kept_connection_that_its_application_closed_is_closed_here_too() {
    let closed = Arc::new(AtomicUsize::new(0));
    let count = closed.clone();
    let application = Application::on_streams(move |mut stream| {
        let count = count.clone();
        async move {
            let mut read = [0; 4096];
            let _ = stream.read(&mut read).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            stream.shutdown().await.unwrap();
            while matches!(stream.read(&mut read).await, Ok(1..)) {}
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let server = format!("servers = [\"http://127.0.0.1:{}\"]", application.port);
    let limits = "[limits]\nupstream_idle_timeout = \"1h\"";
    let running = behind(tempfile::tempdir().unwrap(), &format!("{server}\n{limits}"));
    let [mut client, _] = Client::both(port(&running)).await;
    assert_eq!(text(client.ask(Request::get("/"), "/", whole("")).await).await.0, "ok");
    let until = Instant::now() + Duration::from_secs(20);
    while closed.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < until, "it stays half open");
        tokio::task::yield_now().await;
    }
}
