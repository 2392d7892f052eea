//! Several servers of one upstream, of which some fail: who is asked, who is left alone, and what is said of it.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{client::IntoClientRequest, handshake::derive_accept_key};
use tokio_util::sync::CancellationToken;

use crate::servers::{behind, echo_or_nothing, port, text};
use crate::support::shipped;
use crate::tools::Service;
use crate::wire::{Application, Client, Frames, Nobody, fed, greet, serve, soon, two, whole};

/// Counts, and answers with its number.
fn counting(number: usize, counts: &Arc<[AtomicUsize; 3]>) -> Application {
    let counts = counts.clone();
    Application::start(move |request| {
        if request.uri().path() != "/health" {
            counts[number].fetch_add(1, Ordering::SeqCst);
        }
        async move { Response::new(whole(number.to_string())) }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn requests_are_shared_out_and_a_dead_server_costs_nobody_an_answer() {
    let counts = Arc::new([const { AtomicUsize::new(0) }; 3]);
    let (one, two) = (counting(0, &counts), counting(1, &counts));
    let away = Nobody::new();
    let servers = format!(
        "servers = [\"http://127.0.0.1:{}\", {{ url = \"http://127.0.0.1:{}\", weight = 1 }}, \"http://127.0.0.1:{}\"]",
        one.port,
        two.port,
        away.port()
    );
    let running = behind(tempfile::tempdir().unwrap(), &servers);
    let [mut client, _] = Client::both(port(&running)).await;
    for _ in 0..60 {
        let answer = client.ask(Request::post("/"), "/", whole("x")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        text(answer).await;
    }
    let shares: Vec<usize> = counts.iter().map(|count| count.load(Ordering::SeqCst)).collect();
    assert!(shares[0] >= 20 && shares[1] >= 20 && shares[0] + shares[1] == 60, "{shares:?}");
    drop(two);
    for _ in 0..20 {
        let answer = client.ask(Request::get("/"), "/", whole("")).await;
        assert_eq!(answer.status(), StatusCode::OK, "also on connections that were kept");
        text(answer).await;
    }
}

/// Says its number in each answer, and leaves WebSockets open.
fn answering(number: usize) -> Application {
    Application::on_streams(move |mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: "));
        let answer = match key {
            // In small letters as everything here: so the key of the test is already.
            Some(key) => format!(
                "101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {}",
                derive_accept_key(key.as_bytes())
            ),
            None => "200 OK\r\ncontent-length: 0\r\nconnection: close".to_owned(),
        };
        let answer = format!("HTTP/1.1 {answer}\r\nx-number: {number}\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.read(&mut [0]).await;
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_websocket_weighs_on_its_server_as_long_as_it_is_open() {
    let both = [0, 1].map(answering);
    let [one, two] = both.each_ref().map(|application| format!("\"http://127.0.0.1:{}\"", application.port));
    let running = behind(tempfile::tempdir().unwrap(), &format!("servers = [{one}, {two}]"));
    let number = |headers: &HeaderMap| headers["x-number"].to_str().unwrap().to_owned();
    let mut request = format!("wss://localhost:{}/", port(&running)).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-key", "aaaaaaaaaaaaaaaaaaaaaa==".parse().unwrap());
    let stream = TcpStream::connect(("127.0.0.1", port(&running))).await.unwrap();
    let stream = greet(stream, "localhost", "http/1.1").await.unwrap();
    let (socket, answer) = soon(tokio_tungstenite::client_async(request, stream)).await.unwrap();
    let loaded = number(answer.headers());
    let [mut client, _] = Client::both(port(&running)).await;
    let mut next = async || number(client.ask(Request::get("/"), "/", whole("")).await.headers());
    for _ in 0..8 {
        assert_ne!(next().await, loaded);
    }
    drop(socket);
    let until = Instant::now() + Duration::from_secs(20);
    while next().await != loaded {
        assert!(Instant::now() < until, "it still weighs");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_that_fails_its_checks_gets_no_requests_until_it_passes_them() {
    let (well, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (state, count) = (well.clone(), asked.clone());
    let sick = Application::start(move |request| {
        let health = request.uri().path() == "/health";
        if !health {
            count.fetch_add(1, Ordering::SeqCst);
        }
        let status = if health && !state.load(Ordering::SeqCst) { 503 } else { 200 };
        async move { Response::builder().status(status).body(whole("sick")).unwrap() }
    });
    let counts = Arc::new([const { AtomicUsize::new(0) }; 3]);
    let fine = counting(0, &counts);
    let servers = format!("servers = [\"http://127.0.0.1:{}\", \"http://127.0.0.1:{}\"]", sick.port, fine.port);
    let health = "[upstream.app.health]\npath = \"/health\"\ninterval = \"20ms\"";
    let running = behind(tempfile::tempdir().unwrap(), &format!("{servers}\n{health}"));
    let [mut client, _] = Client::both(port(&running)).await;
    let until = Instant::now() + Duration::from_secs(20);
    // Ten in a row at the other one: it is found out.
    let mut in_a_row = 0;
    while in_a_row < 10 {
        let (said, _) = text(client.ask(Request::get("/"), "/", whole("")).await).await;
        in_a_row = if said == "0" { in_a_row + 1 } else { 0 };
        assert!(Instant::now() < until, "still asked");
    }
    let before = asked.load(Ordering::SeqCst);
    well.store(true, Ordering::SeqCst);
    while asked.load(Ordering::SeqCst) == before {
        text(client.ask(Request::get("/"), "/", whole("")).await).await;
        assert!(Instant::now() < until, "never asked again");
    }
}

/// An upload that had to be broken off says nothing about the server that was to get it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn uploads_that_break_off_take_no_server_out() {
    for scheme in ["http", "h2c"] {
        let counts = Arc::new([const { AtomicUsize::new(0) }; 3]);
        let application = |number: usize| {
            let counts = counts.clone();
            let answer = move |request: Request<hyper::body::Incoming>| {
                counts[number].fetch_add(1, Ordering::SeqCst);
                echo_or_nothing(request)
            };
            if scheme == "h2c" { Application::start_two(answer) } else { Application::start(answer) }
        };
        let (one, two) = (application(0), application(1));
        let servers =
            format!("servers = [\"{scheme}://127.0.0.1:{}\", \"{scheme}://127.0.0.1:{}\"]", one.port, two.port);
        let upstream = format!("{servers}\neject_after = 1\neject_for = \"1h\"\n[limits]\nbody_bytes = 1000");
        let running = behind(tempfile::tempdir().unwrap(), &upstream);
        let [mut client, _] = Client::both(port(&running)).await;
        let (mut feed, body) = fed();
        let feeding = tokio::spawn(async move { while feed.send_data(vec![b'x'; 600].into()).await.is_ok() {} });
        let answer = client.ask(Request::post("/"), "/", body).await;
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
        soon(feeding).await.unwrap();
        counts.iter().for_each(|count| count.store(0, Ordering::SeqCst));
        let [_, mut client] = Client::both(port(&running)).await;
        for _ in 0..10 {
            text(client.ask(Request::get("/"), "/", whole("")).await).await;
        }
        let shares: Vec<usize> = counts.iter().map(|count| count.load(Ordering::SeqCst)).collect();
        assert!(shares[0] > 0 && shares[1] > 0, "{scheme}: {shares:?}");
    }
}

/// Whoever takes requests and says nothing is left alone like whoever refuses them; a client that is slow to send takes nobody out.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_that_does_not_answer_in_time_is_left_alone() {
    for scheme in ["http", "h2c"] {
        let silent = |_| std::future::pending::<Response<Frames>>();
        let fine = |_| async { Response::new(whole("fine")) };
        let (silent, fine) = match scheme {
            "h2c" => (Application::start_two(silent), Application::start_two(fine)),
            _ => (Application::start(silent), Application::start(fine)),
        };
        let servers =
            format!("servers = [\"{scheme}://127.0.0.1:{}\", \"{scheme}://127.0.0.1:{}\"]", silent.port, fine.port);
        let upstream = format!("{servers}\nresponse_timeout = \"300ms\"\neject_after = 2\neject_for = \"1h\"");
        let running = behind(tempfile::tempdir().unwrap(), &format!("{upstream}\n[limits]\nbody_timeout = \"300ms\""));
        let [_, mut client] = Client::both(port(&running)).await;
        let mut feeds = Vec::new();
        for _ in 0..8 {
            let (feed, body) = fed();
            let answer = client.ask(Request::post("/"), "/", body).await;
            feeds.push((feed, answer.status()));
        }
        let waits = feeds.iter().filter(|(_, status)| *status == StatusCode::REQUEST_TIMEOUT).count();
        assert!(
            waits > 2 && feeds.iter().all(|(_, status)| *status != StatusCode::GATEWAY_TIMEOUT),
            "{scheme}: {waits}"
        );
        let mut asked = Vec::new();
        for _ in 0..12 {
            asked.push(client.ask(Request::get("/"), "/", whole("")).await.status());
        }
        let timeouts = asked.iter().filter(|status| **status == StatusCode::GATEWAY_TIMEOUT).count();
        assert!(timeouts == 2 && asked[6..].iter().all(|status| *status == StatusCode::OK), "{scheme}: {asked:?}");
    }
}

/// An outage that many requests meet at once is one: the server is asked again after the first time, not after what each doubles.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_outage_counts_once_for_all_that_were_on_their_way() {
    const EACH: usize = 12;
    let (arrived, outage) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let (waiting, over) = (arrived.clone(), outage.clone());
    let broken = Application::on_streams(move |stream| {
        let (waiting, over) = (waiting.clone(), over.clone());
        async move {
            if over.is_cancelled() {
                return serve(stream, Arc::new(|_| async { Response::new(whole("broken")) }), false).await;
            }
            let silent = Arc::new(move |_| {
                waiting.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<Response<Frames>>()
            });
            tokio::select! {
                () = serve(stream, silent, false) => {}
                () = over.cancelled() => {}
            }
        }
    });
    let (waiting, over) = (arrived.clone(), outage.clone());
    let fine = Application::start(move |_| {
        waiting.fetch_add(1, Ordering::SeqCst);
        let over = over.clone();
        async move {
            over.cancelled().await;
            Response::new(whole("fine"))
        }
    });
    let servers = format!("servers = [\"http://127.0.0.1:{}\", \"http://127.0.0.1:{}\"]", broken.port, fine.port);
    let running = behind(tempfile::tempdir().unwrap(), &format!("{servers}\neject_for = \"100ms\""));
    let client = two(port(&running)).await;
    let post = || Request::post("https://localhost/").body(whole("x")).unwrap();
    let asked: Vec<_> = (0..2 * EACH).map(|_| tokio::spawn(client.clone().send_request(post()))).collect();
    let until = Instant::now() + Duration::from_secs(20);
    while arrived.load(Ordering::SeqCst) < 2 * EACH {
        assert!(Instant::now() < until, "{} arrived", arrived.load(Ordering::SeqCst));
        tokio::task::yield_now().await;
    }
    outage.cancel();
    let mut lost = 0;
    for answer in asked {
        lost += usize::from(soon(answer).await.unwrap().unwrap().status() == StatusCode::BAD_GATEWAY);
    }
    assert_eq!(lost, EACH);
    // Ten times doubled it would be most of a minute.
    while text(soon(client.clone().send_request(post())).await.unwrap()).await.0 != "broken" {
        assert!(Instant::now() < until, "it is never asked again");
    }
}

/// attacks: whoever asks again and again while an application is away must not be able to fill the disk with it.
#[test]
fn that_a_server_is_left_alone_is_told_once_and_not_with_every_request() {
    let (folder, one, other) = (tempfile::tempdir().unwrap(), Nobody::new(), Nobody::new());
    let servers = format!("\"http://127.0.0.1:{}\", \"http://127.0.0.1:{}\"", one.port(), other.port());
    let text = shipped("memory").replace("\"builtin:whoami\"", &servers);
    let text = text.replace("[upstream.app]", "[upstream.app]\neject_for = \"1h\"");
    std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let service = Service::start(command.arg("--config").arg(folder.path().join("gateway.toml")));
    let address = format!("https://localhost:{}/public?[1-40]", service.says_port("https://localhost:"));
    let mut curl = Command::new("curl");
    let asked = curl.args(["-sk", "--max-time", "30", "-o", "/dev/null", "-w", "%{http_code} ", &address]).output();
    assert_eq!(String::from_utf8(asked.unwrap().stdout).unwrap(), "502 ".repeat(40));
    service.terminate();
    let (_, said) = service.ends();
    assert!(said.contains("could not be answered") && said.contains("Connection refused"), "{said}");
    assert_eq!(said.matches("a server is left alone").count(), 2, "{said}");
}

/// attacks: the same by whoever knows what makes it fail, and has it answer in between.
#[test]
fn a_server_that_comes_and_goes_is_no_flood_either() {
    let application = Application::on_streams(|mut stream| async move {
        let mut read = [0; 4096];
        let read = stream.read(&mut read).await.map(|length| String::from_utf8_lossy(&read[..length]).into_owned());
        if !read.unwrap().contains("/fail") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await.unwrap();
        }
    });
    let server = format!("\"http://127.0.0.1:{}\"", application.port);
    let folder = tempfile::tempdir().unwrap();
    let text = shipped("memory").replace("\"builtin:whoami\"", &server);
    let text = text.replace("[upstream.app]", "[upstream.app]\neject_after = 1");
    std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let service = Service::start(command.arg("--config").arg(folder.path().join("gateway.toml")));
    let address = format!("https://localhost:{}/public", service.says_port("https://localhost:"));
    let paths = (0..60).flat_map(|_| [format!("{address}/fail"), format!("{address}/fine")]);
    let mut curl = Command::new("curl");
    let asked = curl.args(["-sk", "--max-time", "30", "-w", " %{http_code} "]).args(paths).output();
    let asked = String::from_utf8(asked.unwrap().stdout).unwrap();
    assert_eq!((asked.matches(" 502 ").count(), asked.matches(" 200 ").count()), (60, 60), "{asked}");
    service.terminate();
    let (_, said) = service.ends();
    let [gone, back] = ["a server is left alone", "a server is available again"].map(|what| said.matches(what).count());
    assert!(gone > 0 && back > 0 && gone + back < 60, "{gone} {back}");
}

/// Where all are away all are asked, and the first that answers gets everything: the other one is left alone as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_answers_after_an_outage_of_all_is_asked_again_at_once() {
    let back = Arc::new(AtomicBool::new(false));
    let away = |is_back: Option<Arc<AtomicBool>>| {
        Application::on_streams(move |stream| {
            let up = is_back.as_ref().is_some_and(|back| back.load(Ordering::SeqCst));
            async move {
                if up {
                    serve(stream, Arc::new(|_| async { Response::new(whole("back")) }), false).await;
                }
            }
        })
    };
    let (one, other) = (away(Some(back.clone())), away(None));
    let servers = format!("servers = [\"http://127.0.0.1:{}\", \"http://127.0.0.1:{}\"]", one.port, other.port);
    let running = behind(tempfile::tempdir().unwrap(), &format!("{servers}\neject_after = 1\neject_for = \"1h\""));
    let [mut client, _] = Client::both(port(&running)).await;
    let mut ask = async || client.ask(Request::post("/"), "/", whole("x")).await.status();
    for _ in 0..6 {
        assert_eq!(ask().await, StatusCode::BAD_GATEWAY);
    }
    back.store(true, Ordering::SeqCst);
    let mut tries = 0;
    while ask().await != StatusCode::OK {
        tries += 1;
        assert!(tries < 6, "all are asked");
    }
    for _ in 0..10 {
        assert_eq!(ask().await, StatusCode::OK, "who is still away is asked meanwhile");
    }
}
