//! What a route does beside letting pass: rewrites, headers, time limits, CORS; and what ends long exchanges.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use portcullis::clock::{Clock, SystemClock, Timestamp};
use portcullis::session::{Revocation, Wait};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use crate::support::{Running, run_text, run_with, shipped};
use crate::wire::{Application, Client, connect, fed, piece, raw, socket_over_two, soon, two, whole};

/// An application that tells each head it gets, as `METHOD path` and header lines.
pub fn telling() -> (Application, Receiver<String>) {
    let (told, got) = channel();
    let told = Mutex::new(told);
    let application = Application::start(move |request| {
        let lines = request.headers().iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()));
        let head = format!("{} {}\n{}", request.method(), request.uri(), lines.collect::<String>());
        told.lock().unwrap().send(head).unwrap();
        async { Response::builder().header("x-powered-by", "it").header("server", "app").body(whole("ok")).unwrap() }
    });
    (application, got)
}

/// The shipped configuration in front of it, with more routes.
fn with(port: u16, more: &str) -> Running {
    let text = shipped("memory").replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{port}\""));
    run_text(tempfile::tempdir().unwrap(), &format!("{text}\n{more}"))
}

/// The shipped configuration in front of an application, with this text in the place of that.
pub fn text_before(port: u16, old: &str, new: &str) -> String {
    let text = shipped("memory").replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{port}\""));
    if old.is_empty() { text } else { text.replacen(old, new, 1) }
}

pub async fn revoke_everyone(running: &Running) {
    let revoked = running.gateway.sessions().revoke(Revocation::Everyone, Wait::Fully, Timestamp(0));
    soon(revoked).await.unwrap();
}

/// attacks: policy 2
#[test]
fn a_prefix_is_replaced_and_leads_around_no_rule() {
    let (application, heads) = telling();
    let routes = r#"
[upstream.other]
servers = ["http://127.0.0.1:9"]
[[route]]
name = "strip"
path = "/v1"
access = "authenticated"
upstream = "app"
strip_prefix = true
[[route]]
name = "set"
path = "/open/area"
access = "public"
upstream = "app"
set_prefix = "/public/x"
[[route]]
name = "away"
path = "/away"
access = "public"
upstream = "other"
strip_prefix = true
"#;
    let running = with(application.port, routes);
    // Signed in without a role.
    std::fs::write(
        running.folder.path().join("users.toml"),
        std::fs::read_to_string(running.folder.path().join("users.toml")).unwrap().replace("\"admin\"", "\"staff\""),
    )
    .unwrap();
    let running = {
        let Running { gateway, folder, lines: _, password } = running;
        gateway.stop();
        let text =
            shipped("memory").replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{}\"", application.port));
        Running { password, ..run_text(folder, &format!("{text}\n{routes}")) }
    };
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    let got = || heads.recv_timeout(Duration::from_secs(10)).unwrap().lines().next().unwrap().to_owned();
    for (path, status, sees) in [
        ("/v1/x/y?z=1", 200, "GET /x/y?z=1"),
        ("/v1", 200, "GET /"),
        ("/v1/", 200, "GET /"),
        ("/%76%31/a%20b", 200, "GET /a%20b"),
        ("/open/area/z", 200, "GET /public/x/z"),
        ("/v1/admin", 403, ""),
        ("/v1/admin/x", 403, ""),
        ("/v1/%61dmin", 403, ""),
        ("/v1/ADMIN", 400, ""),
        ("/v1/public/x", 200, "GET /public/x"),
        ("/away/admin", 502, ""),
        ("/v12", 200, "GET /v12"),
    ] {
        let said = running.curl(path, &[]);
        assert_eq!(said.status, status, "{path}: {}", said.head);
        if !sees.is_empty() {
            assert_eq!(got(), sees, "{path}");
        }
    }
    assert_eq!(running.curl("/v1/public", &["-X", "POST"]).status, 405, "the method of the second rule");
    assert!(heads.try_recv().is_err());
}

/// npm's scoped packages, RabbitMQ's `%2F`: as they came, to an application whose route takes them, and back there after signing in.
#[test]
fn encoded_slashes_reach_the_application_that_asks_for_them() {
    let (application, heads) = telling();
    let routes = r#"
[[route]]
name = "packages"
path = "/packages"
access = "authenticated"
upstream = "app"
encoded_slashes = true
[[route]]
name = "stripped"
path = "/open"
access = "public"
upstream = "app"
set_prefix = "/packages"
encoded_slashes = true
"#;
    let running = with(application.port, routes);
    let asked = |path: &str| {
        let said = running.curl(path, &["-H", "Accept: text/html"]);
        (said.status, heads.try_recv().map(|head| head.lines().next().unwrap().to_owned()).unwrap_or_default())
    };
    let deep = "/packages/@scope%2fname//x%252F";
    let said = running.curl(deep, &["-H", "Accept: text/html"]);
    assert_eq!(said.status, 303, "{}", said.head);
    let said = running.sign_in(deep, &running.password);
    assert_eq!((said.status, said.header("location")), (303, Some(deep.to_owned())), "{}", said.head);
    assert_eq!(asked(deep), (200, format!("GET {deep}")));
    assert_eq!(asked("/open/a%5Cb//"), (200, "GET /packages/a%5Cb//".to_owned()));
    assert_eq!(asked("/packages/%2e%2e%2fadmin"), (400, String::new()));
    assert_eq!(asked("/open%2f..%2fadmin"), (400, String::new()));
    assert_eq!(asked("/a%2fb"), (400, String::new()), "another route's");
}

/// attacks: a POST that everybody may send, and that the application takes for a DELETE; by a header, in any spelling
#[test]
fn no_header_makes_another_method_of_the_one_that_was_judged() {
    let (application, heads) = telling();
    let (other, others) = telling();
    let routes = format!(
        r#"
[upstream.other]
servers = ["http://127.0.0.1:{}"]
[[route]]
name = "notes"
path = "/notes"
methods = ["POST"]
access = "public"
upstream = "app"
[[route]]
name = "beside"
path = "/beside"
access = "public"
upstream = "app"
[[route]]
name = "elsewhere"
path = "/notes"
methods = ["DELETE"]
access = {{ roles = ["admin"] }}
upstream = "app"
[[route]]
name = "the rest"
path = "/notes"
access = "public"
upstream = "other"
[[route]]
name = "alike"
path = "/alike"
access = "public"
upstream = "other"
"#,
        other.port
    );
    let running = with(application.port, &routes);
    assert_eq!(running.curl("/notes/1", &["-X", "DELETE"]).status, 401);
    let names = ["X-HTTP-Method-Override", "x_http_method", "X.Method.Override"];
    let lines = names.map(|name| format!("{name}: DELETE"));
    let asked: Vec<&str> = lines.iter().flat_map(|line| ["-H", line]).chain(["-d", "a=b"]).collect();
    for (method, path, heads, passes) in [
        ("POST", "/notes/1", &heads, false),
        ("PATCH", "/notes/1", &others, false),
        ("POST", "/beside", &heads, false),
        // Every method is the same there.
        ("POST", "/alike", &others, true),
    ] {
        let said = running.curl(path, &[&asked[..], &["-X", method]].concat());
        assert_eq!(said.status, 200, "{path}: {}", said.head);
        let head = heads.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(head.matches(": DELETE\n").count(), if passes { 3 } else { 0 }, "{method} {path}: {head}");
        assert!(head.starts_with(&format!("{method} {path}\n")), "{head}");
    }
}

#[test]
fn headers_are_set_and_removed_as_the_route_says() {
    let (application, heads) = telling();
    let route = r#"
[[route]]
name = "edited"
path = "/edited"
access = "public"
upstream = "app"
host_header = "app.internal:8080"
set_headers = { "X-Tenant" = "blue", Accept = "text/plain", X-Forwarded-Prefix = "/edited", X-Forwarded-Port = "443" }
remove_headers = ["User-Agent"]
set_response_headers = { "X-Frame-Options" = "DENY" }
remove_response_headers = ["X-Powered-By", "Server"]
"#;
    let running = with(application.port, route);
    let said =
        running.curl("/edited", &["-H", "X-Tenant: red", "-H", "accept: text/html", "-H", "X-Forwarded-Prefix: /red"]);
    let head = heads.recv_timeout(Duration::from_secs(10)).unwrap();
    for there in [
        "x-tenant: blue\n",
        "accept: text/plain\n",
        "x-forwarded-prefix: /edited\n",
        "x-forwarded-port: 443\n",
        "host: app.internal:8080\n",
        "x-forwarded-host: localhost",
    ] {
        assert!(head.contains(there), "{there} in {head}");
    }
    for gone in ["red", "user-agent", "text/html"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
    assert_eq!(said.header("x-frame-options").as_deref(), Some("DENY"));
    assert_eq!((said.header("x-powered-by"), said.header("server")), (None, None));
    let said = running.curl("/public", &["-H", "Via: 1.0 Köln, 1.1 portcullis, 2.0 portcullis"]);
    assert_eq!(said.status, 508, "RFC 9110 §7.6.3");
}

const CORS: &str = r#"
[[route]]
name = "answered"
path = "/api"
methods = ["GET", "PUT"]
access = "authenticated"
upstream = "app"
preflight = { origins = ["https://other.example"], methods = ["PUT"], headers = ["X-Csrf"], max_age = "10m" }
[[route]]
name = "passed"
path = "/pass"
methods = ["GET"]
access = "authenticated"
upstream = "app"
preflight = "pass"
"#;

#[test]
fn a_preflight_is_answered_passed_or_treated_as_any_request() {
    let (application, heads) = telling();
    let running = with(application.port, CORS);
    let preflight = |path: &str, origin: &str, method: &str| {
        let (origin, method) = (format!("Origin: {origin}"), format!("Access-Control-Request-Method: {method}"));
        running.curl(path, &["-X", "OPTIONS", "-H", &origin, "-H", &method])
    };
    let said = preflight("/api/x", "https://other.example", "PUT");
    assert_eq!(said.status, 204);
    for (name, value) in [
        ("access-control-allow-origin", "https://other.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "PUT"),
        ("access-control-allow-headers", "x-csrf"),
        ("access-control-max-age", "600"),
        ("vary", "origin"),
    ] {
        assert_eq!(said.header(name).as_deref(), Some(value), "{}", said.head);
    }
    let other = preflight("/api/x", "https://evil.example", "PUT");
    assert_eq!((other.status, other.header("access-control-allow-origin")), (403, None));
    for (origin, reader) in [("https://other.example", Some("https://other.example")), ("https://evil.example", None)] {
        let said = preflight("/api/x", origin, "DELETE");
        let told = (said.status, said.header("access-control-allow-origin"), said.header("vary"));
        assert_eq!(told, (405, reader.map(str::to_owned), Some("origin".to_owned())), "{}", said.head);
    }
    let refused = running.curl("/api/x", &["-H", "Origin: https://other.example"]);
    assert_eq!(
        (refused.status, refused.header("access-control-allow-origin").as_deref()),
        (401, Some("https://other.example"))
    );
    // attacks: what a cache keeps for one origin, or none, is no other's
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    heads.try_iter().for_each(drop);
    for origin in ["Origin: https://other.example", "Origin: https://evil.example", "X-None: 1"] {
        let said = running.curl("/api/x", &["-H", origin]);
        let reader = origin.contains("other").then_some("https://other.example");
        assert_eq!(
            (said.status, said.header("access-control-allow-origin").as_deref()),
            (200, reader),
            "{}",
            said.head
        );
        assert_eq!(said.header("vary").as_deref(), Some("origin"), "{origin}: {}", said.head);
        assert!(heads.recv_timeout(Duration::from_secs(10)).unwrap().starts_with("GET /api/x\n"));
        let said = running.alone("/api/x", &["-H", origin]);
        assert_eq!((said.status, said.header("vary").as_deref()), (401, Some("origin")), "{origin}: {}", said.head);
    }
    assert_eq!(other.header("vary").as_deref(), Some("origin"), "{}", other.head);
    assert_eq!(running.curl("/", &[]).header("vary"), None, "of another route");
    heads.try_iter().for_each(drop);
    std::fs::write(running.folder.path().join("jar"), "").unwrap();

    assert!(heads.try_recv().is_err(), "none of these reached the application");
    assert_eq!(preflight("/pass", "https://any.example", "GET").status, 200);
    let head = heads.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(head.starts_with("OPTIONS /pass\n") && !head.contains("x-forwarded-user"), "{head}");
    assert_eq!(running.curl("/pass", &["-X", "OPTIONS"]).status, 405, "no preflight");
    assert_eq!(preflight("/", "https://any.example", "GET").status, 401, "as any request");
}

/// Turned by hand.
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[test]
fn a_passive_route_keeps_no_session_alive() {
    let clock = Arc::new(Hand(AtomicU64::new(SystemClock.now().0)));
    let route = "[[route]]\nname = \"poll\"\npath = \"/poll\"\naccess = \"authenticated\"\nupstream = \"app\"\npassive = true\n";
    let running =
        run_with(tempfile::tempdir().unwrap(), &format!("{}\n{route}", shipped("memory")), clock.clone(), None);
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    for (minutes, path, status) in [(20, "/poll", 200), (9, "/poll", 200), (2, "/poll", 401)] {
        clock.0.fetch_add(minutes * 60_000, Ordering::SeqCst);
        assert_eq!(running.curl(path, &[]).status, status, "after {minutes} minutes more");
    }
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    for path in ["/a", "/b", "/c"] {
        clock.0.fetch_add(20 * 60_000, Ordering::SeqCst);
        assert_eq!(running.curl(path, &[]).status, 200, "activity on any other route");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_body_that_stops_coming_is_408_and_one_that_streams_may_rest() {
    let application = Application::start(|request| async {
        let (mut feed, body) = fed();
        let mut incoming = request.into_body();
        let first = incoming.frame().await;
        tokio::spawn(async move {
            if let Some(Ok(frame)) = first {
                feed.send(frame).await.unwrap();
            }
            while let Some(Ok(frame)) = incoming.frame().await {
                feed.send(frame).await.unwrap();
            }
        });
        Response::new(body)
    });
    let running = with(application.port, "[limits]\nbody_timeout = \"200ms\"");
    let running = &running;
    assert_eq!(tokio::task::block_in_place(|| running.sign_in("/", &running.password)).status, 303);
    let cookie = running.cookie();
    for mut client in Client::both(running.port()).await {
        // Answered at the first piece: then it may rest for longer than the limit.
        let (mut feed, body) = fed();
        feed.send_data(Bytes::from_static(b"first")).await.unwrap();
        let mut answer = client.ask(Request::post("/").header("cookie", &cookie), "/", body).await.into_body();
        assert_eq!(piece(&mut answer).await, "first");
        let begun = Instant::now();
        let rested = tokio::time::timeout(Duration::from_millis(500), answer.frame()).await;
        assert!(rested.is_err() && begun.elapsed() > Duration::from_millis(400), "{rested:?}");
        feed.send_data(Bytes::from_static(b"second")).await.unwrap();
        assert_eq!(piece(&mut answer).await, "second");
    }
    for mut client in Client::both(running.port()).await {
        let (feed, body) = fed();
        let answer = client.ask(Request::post("/").header("cookie", &cookie), "/", body).await;
        assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
        drop(feed);
    }
}

/// Sends an event and then nothing.
fn events() -> Application {
    Application::start(|_| async {
        let (mut feed, body) = fed();
        tokio::spawn(async move {
            feed.send_data(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
            std::future::pending::<()>().await;
        });
        Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_event_stream_ends_with_its_session() {
    let application = events();
    let running = with(application.port, "");
    assert_eq!(tokio::task::block_in_place(|| running.sign_in("/", &running.password)).status, 303);
    let cookie = running.cookie();
    let mut streams = Vec::new();
    for mut client in Client::both(running.port()).await {
        let mut answer = client.ask(Request::get("/").header("cookie", &cookie), "/", whole("")).await.into_body();
        assert_eq!(piece(&mut answer).await, "data: 1\n\n", "the first event comes at once");
        streams.push((client, answer));
    }
    revoke_everyone(&running).await;
    for (_client, mut answer) in streams {
        assert!(piece(&mut answer).await.starts_with("event: portcullis-session-ended\n"));
    }
    let lines = || running.lines.0.lock().unwrap().join("\n");
    let until = Instant::now() + Duration::from_secs(10);
    while lines().matches("\"body\":\"session_ended\"").count() < 2 {
        assert!(Instant::now() < until, "{}", lines());
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_answer_that_stands_still_for_longer_than_the_route_allows_is_cut() {
    let application = events();
    let route = "[[route]]\nname = \"still\"\npath = \"/still\"\naccess = \"public\"\nupstream = \"app\"\nidle_timeout = \"100ms\"\n";
    let running = with(application.port, route);
    for mut client in Client::both(running.port()).await {
        let mut answer = client.ask(Request::get("/"), "/still", whole("")).await.into_body();
        piece(&mut answer).await;
        assert!(soon(answer.frame()).await.unwrap().is_err());
    }
}

/// A WebSocket application that echoes, tells what it was asked with, and can be slow in the middle of a frame.
#[expect(clippy::result_large_err, reason = "the callback is of the library's type")]
pub fn sockets() -> (Application, Receiver<String>) {
    let (told, got) = channel();
    let application = Application::on_streams(move |stream| {
        let told = told.clone();
        async move {
            let asked = |request: &http::Request<()>, response| {
                told.send(format!("{} {:?}", request.uri(), request.headers())).unwrap();
                Ok(response)
            };
            let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, asked).await else { return };
            while let Some(Ok(message)) = socket.next().await {
                if message.is_text() || message.is_binary() {
                    let _ = socket.send(message).await;
                }
            }
        }
    });
    (application, got)
}

/// RFC 8441: the same rules and the same application as over HTTP/1.1.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn websockets_over_http2() {
    let (application, asked) = sockets();
    let running = with(application.port, "");
    assert_eq!(tokio::task::block_in_place(|| running.sign_in("/", &running.password)).status, 303);
    let cookie = running.cookie();
    let mut socket = socket_over_two(running.port(), "/socket?a=b", ("cookie", &cookie)).await;
    let head = asked.iter().find(|head| head.starts_with("/socket")).unwrap();
    assert!(head.starts_with("/socket?a=b") && head.contains("\"x-forwarded-user\": \"demo\""), "{head}");
    assert!(!head.contains("__Host-"), "{head}");
    for message in [Message::text("hello"), Message::binary(vec![7; 300_000])] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(soon(socket.next()).await.unwrap().unwrap(), message);
    }
    for (origin, cookie, protocol, status) in [
        ("https://evil.example", cookie.as_str(), "websocket", 403),
        ("https://localhost", "a=b", "websocket", 401),
        ("https://localhost", cookie.as_str(), "webtransport", 501),
    ] {
        let mut client = two(running.port()).await;
        let first = Request::get("https://localhost/.portcullis/login").body(whole("")).unwrap();
        soon(client.send_request(first)).await.unwrap();
        let request = Request::connect("https://localhost/socket")
            .extension(hyper::ext::Protocol::from_static(protocol))
            .header("cookie", cookie)
            .header("origin", origin)
            .body(whole(""))
            .unwrap();
        assert_eq!(soon(client.send_request(request)).await.unwrap().status(), status, "{origin} {protocol}");
    }
}

/// attacks: line 110. Over HTTP/2 a page that is a page would say that the socket is open.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_page_in_the_place_of_a_websocket_opens_none() {
    let application = Application::start(|request| async move {
        let (mut feed, streamed) = fed();
        tokio::spawn(async move { feed.send_data(Bytes::from_static(b"a page")).await });
        let (status, body) = match request.uri().path() {
            "/public/streamed" => (200, streamed),
            "/public/whole" => (200, whole("a page")),
            "/public/none" => (204, whole("")),
            _ => (404, whole("nothing")),
        };
        Response::builder().status(status).body(body).unwrap()
    });
    let running = with(application.port, "");
    let mut client = two(running.port()).await;
    for (path, status) in [
        ("/public/streamed", 502),
        ("/public/whole", 502),
        ("/public/none", 502),
        ("/public/other", 404),
        ("/.portcullis/login", 501),
    ] {
        let first = Request::get("https://localhost/.portcullis/login").body(whole("")).unwrap();
        soon(client.send_request(first)).await.unwrap();
        let request = Request::connect(format!("https://localhost{path}"))
            .extension(hyper::ext::Protocol::from_static("websocket"))
            .body(whole(""))
            .unwrap();
        let answer = soon(client.send_request(request)).await.map(|answer| answer.status().as_u16());
        assert_eq!(answer.map_err(|error| error.to_string()), Ok(status), "{path}");
    }
}

/// Who is cut is told: 1008 when the session ended, 1001 when the gateway stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_websocket_that_is_cut_gets_a_close_frame() {
    let (application, _asked) = sockets();
    let running = with(application.port, "[limits]\ndrain_timeout = \"100ms\"");
    assert_eq!(tokio::task::block_in_place(|| running.sign_in("/", &running.password)).status, 303);
    let cookie = running.cookie();
    let code = |message: Message| match message {
        Message::Close(Some(frame)) => u16::from(frame.code),
        other => panic!("{other:?}"),
    };
    let open = async || {
        let mut request = "wss://localhost/socket".into_client_request().unwrap();
        request.headers_mut().insert("cookie", cookie.parse().unwrap());
        let stream = connect(running.port(), "http/1.1").await;
        soon(tokio_tungstenite::client_async(request, stream)).await.unwrap().0
    };
    let mut one = open().await;
    let mut two = socket_over_two(running.port(), "/socket?a=b", ("cookie", &cookie)).await;
    one.send(Message::text("x")).await.unwrap();
    soon(one.next()).await.unwrap().unwrap();
    two.send(Message::text("x")).await.unwrap();
    soon(two.next()).await.unwrap().unwrap();
    revoke_everyone(&running).await;
    assert_eq!(code(soon(one.next()).await.unwrap().unwrap()), 1008);
    assert_eq!(code(soon(two.next()).await.unwrap().unwrap()), 1008);

    assert_eq!(tokio::task::block_in_place(|| running.sign_in("/", &running.password)).status, 303);
    let cookie = running.cookie();
    let mut request = "wss://localhost/socket".into_client_request().unwrap();
    request.headers_mut().insert("cookie", cookie.parse().unwrap());
    let stream = connect(running.port(), "http/1.1").await;
    let (mut last, _) = soon(tokio_tungstenite::client_async(request, stream)).await.unwrap();
    last.send(Message::text("x")).await.unwrap();
    soon(last.next()).await.unwrap().unwrap();
    let Running { gateway, folder, .. } = running;
    let stopping = tokio::task::spawn_blocking(move || gateway.stop());
    assert_eq!(code(soon(last.next()).await.unwrap().unwrap()), 1001);
    drop(last);
    soon(stopping).await.unwrap();
    drop(folder);
}

/// RFC 9110 §10.1.1: who may not pass is told so before a byte of the body is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_body_is_asked_for_only_when_it_will_be_taken() {
    let (application, _heads) = telling();
    let running =
        with(application.port, "[[route]]\nname = \"up\"\npath = \"/up\"\naccess = \"public\"\nupstream = \"app\"\n");
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        )
    };
    let said = raw(running.port(), head("/").as_bytes(), "request id").await;
    assert!(said.starts_with("HTTP/1.1 401 "), "{said}");
    let said = raw(running.port(), head("/up").as_bytes(), "100 Continue\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.1 100 "), "{said}");
}
