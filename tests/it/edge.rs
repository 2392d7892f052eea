//! Where clients come in: proxies before us, certificates, plain HTTP, and clients that are silent, slow or too many.

use std::io::{Read, Write};
use std::net::TcpStream as Blocking;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Running, run_text, shipped};
use crate::tools::Service;
use crate::wire::{Application, Client, connect, greet, serve, soon, two, whole};

/// The shipped configuration with lines added to `[server]` and sections at the end.
fn with(server: &str, more: &str) -> Running {
    with_in(tempfile::tempdir().unwrap(), server, more)
}

fn with_in(folder: tempfile::TempDir, server: &str, more: &str) -> Running {
    let text = shipped("memory").replace("[tls]", &format!("{server}\n[tls]"));
    run_text(folder, &format!("{text}\n{more}"))
}

fn port(running: &Running) -> u16 {
    running.gateway.address().port()
}

/// The value of a counter.
pub fn count(running: &Running, name: &str) -> u64 {
    let counters = running.gateway.counters().unwrap().all();
    counters.into_iter().find(|(other, _)| *other == name).unwrap().1
}

/// Waits until it has counted so many.
pub async fn counted_to(running: &Running, name: &str, wanted: u64) {
    let until = Instant::now() + Duration::from_secs(40);
    while count(running, name) < wanted {
        assert!(Instant::now() < until, "{name} is {}, not {wanted}", count(running, name));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads until the other side closes; whether it did in time.
async fn closes(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut sink = Vec::new();
    let _ = soon(stream.read_to_end(&mut sink)).await;
}

#[test]
fn the_word_of_a_listed_proxy_is_taken_and_nobody_elses() {
    let forged = ["-H", "X-Forwarded-For: 6.6.6.6, 192.0.2.1", "-H", "Forwarded: for=6.6.6.6"];
    for (server, sees, never, peer) in [
        ("", "x-forwarded-for: 127.0.0.1\n", "forwarded: for", "127.0.0.1"),
        ("trusted_proxies = [\"10.0.0.0/8\"]", "x-forwarded-for: 127.0.0.1\n", "192.0.2.1", "127.0.0.1"),
        ("trusted_proxies = [\"127.0.0.1\"]", "x-forwarded-for: 192.0.2.1, 127.0.0.1\n", "6.6.6.6", "192.0.2.1"),
        (
            "trusted_proxies = [\"127.0.0.0/8\"]\nforwarded = \"forwarded\"",
            "forwarded: for=192.0.2.1, for=127.0.0.1;host=\"localhost:",
            "x-forwarded-for",
            "192.0.2.1",
        ),
        ("forwarded = \"none\"", "via: 2.0 portcullis\n", "forwarded", "127.0.0.1"),
    ] {
        let running = with(server, "");
        let said = running.curl("/public", &forged);
        assert!(said.body.contains(sees) && !said.body.contains(never), "{server}\n{}", said.body);
        assert!(!said.body.contains("6.6.6.6"), "{}", said.body);
        let lines = running.lines.0.lock().unwrap().join("\n");
        assert!(lines.contains(&format!("\"peer\":\"{peer}\"")), "{lines}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proxy_header_is_read_from_listed_addresses_alone() {
    let ask = async |running: &Running, header: &[u8]| {
        let mut stream = TcpStream::connect(("127.0.0.1", port(running))).await.unwrap();
        stream.write_all(header).await.unwrap();
        let mut stream = greet(stream, "localhost", "http/1.1").await.ok()?;
        let head = "GET /public HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut said = String::new();
        soon(stream.read_to_string(&mut said)).await.ok()?;
        Some(said)
    };
    let header = b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 443\r\n";
    let listed = with("trusted_proxies = [\"127.0.0.1\"]\nproxy_protocol = true", "");
    let said = ask(&listed, header).await.unwrap();
    assert!(said.contains("x-forwarded-for: 192.0.2.7\n"), "{said}");
    // attacks: what a client writes of itself is no more than that where the proxy does not know it either.
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    for nobody in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN 6.6.6.6 127.0.0.1 1 2\r\n", local] {
        let said = ask(&listed, nobody).await.unwrap();
        assert!(said.contains("x-forwarded-for: 127.0.0.1\n"), "{said}");
        let line = listed.lines.0.lock().unwrap().last().unwrap().clone();
        assert!(line.contains("\"peer\":\"127.0.0.1\""), "{line}");
    }
    assert!(ask(&listed, b"").await.is_none(), "a listed proxy has to send it");
    assert_eq!(count(&listed, "proxy_header_malformed"), 1);
    let unlisted = with("trusted_proxies = [\"10.0.0.0/8\"]\nproxy_protocol = true", "");
    assert!(ask(&unlisted, header).await.is_none(), "from anybody else it is a broken handshake");
    assert!(ask(&unlisted, b"").await.unwrap().contains("x-forwarded-for: 127.0.0.1\n"));
    assert_eq!(count(&unlisted, "handshake_failed"), 1);
}

/// A load balancer sends it on every port that it is set for, and checks of its own without.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn plain_http_understands_the_proxy_header_of_listed_proxies() {
    let ask = async |running: &Running, header: &[u8]| {
        let plain = running.gateway.plain_address().unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", plain.port())).await.unwrap();
        let request = b"GET /a?b=c HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n";
        stream.write_all(&[header, request].concat()).await.unwrap();
        let mut said = String::new();
        soon(stream.read_to_string(&mut said)).await.unwrap_or_default();
        said.lines().next().unwrap_or_default().to_owned()
    };
    let leads = "HTTP/1.1 308 Permanent Redirect";
    let one = b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n";
    let two = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\x12\x67\0\x50";
    let wrong = b"PROXY TCP4 a b c d\r\n";
    let plain = "redirect_http = \"127.0.0.1:0\"\nproxy_protocol = true\ntrusted_proxies";
    let listed = with(&format!("{plain} = [\"127.0.0.1\"]"), "");
    for (header, expected) in [(&one[..], leads), (&two[..], leads), (b"", leads), (wrong, "")] {
        assert_eq!(ask(&listed, header).await, expected, "{header:?}");
    }
    assert_eq!(count(&listed, "proxy_header_malformed"), 1);
    let unlisted = with(&format!("{plain} = [\"10.0.0.0/8\"]"), "");
    for (header, expected) in [(&one[..], "HTTP/1.1 400 Bad Request"), (b"", leads)] {
        assert_eq!(ask(&unlisted, header).await, expected, "{header:?}");
    }
}

#[test]
fn plain_http_leads_people_to_tls_and_nobody_else() {
    let running = with("redirect_http = \"127.0.0.1:0\"", "");
    let plain = running.gateway.plain_address().unwrap();
    let curl = |arguments: &[&str]| {
        let output = std::process::Command::new("curl")
            .args(["-s", "-i", "--max-time", "20"])
            .args(arguments)
            .arg(format!("http://localhost:{}/admin?x=1", plain.port()))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let page = curl(&["-H", "accept: text/html"]);
    assert!(page.starts_with("HTTP/1.1 308 "), "{page}");
    assert!(page.contains(&format!("location: https://localhost:{}/admin?x=1\r\n", port(&running))), "{page}");
    for program in [curl(&[]), curl(&["-d", "x", "-H", "accept: text/html"]), curl(&["-H", "cookie: a=b"])] {
        assert!(program.starts_with("HTTP/1.1 403 "), "{program}");
    }
    assert_eq!(count(&running, "plain"), 4);
}

/// attacks: one machine connects as often as there are places, and asks for nothing.
#[test]
fn idle_connections_keep_nobody_from_being_led_to_tls() {
    let running = with("redirect_http = \"127.0.0.1:0\"", "");
    let plain = running.gateway.plain_address().unwrap();
    let _held: Vec<_> = (0..300).map(|_| Blocking::connect(plain).unwrap()).collect();
    let mut asker = Blocking::connect(plain).unwrap();
    asker.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n").unwrap();
    let mut said = String::new();
    asker.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 308 "), "{said}");
    assert_eq!((count(&running, "plain_idle_closed"), count(&running, "refused_full")), (45, 0));
}

/// Somebody types an address without its scheme, and applications send browsers to `http://` at the port that they are told.
#[test]
fn plain_http_to_the_port_of_tls_is_led_to_it_as_well() {
    let running = with("", "");
    let ask = |arguments: &[&str]| {
        let output = std::process::Command::new("curl")
            .args(["-s", "-i", "--max-time", "20"])
            .args(arguments)
            .arg(format!("http://localhost:{}/admin?x=1", port(&running)))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let page = ask(&["-H", "accept: text/html"]);
    assert!(page.starts_with("HTTP/1.1 308 "), "{page}");
    assert!(page.contains(&format!("location: https://localhost:{}/admin?x=1\r\n", port(&running))), "{page}");
    for program in [ask(&[]), ask(&["-d", "x", "-H", "accept: text/html"]), ask(&["-H", "cookie: a=b"])] {
        assert!(program.starts_with("HTTP/1.1 403 "), "{program}");
    }
    assert_eq!((count(&running, "plain"), count(&running, "handshake_failed")), (4, 0));
    assert!(!running.curl("/", &[]).head.is_empty(), "TLS is spoken there all the same");
}

/// A pair for these names in a folder.
fn pair(folder: &std::path::Path, file: &str, name: &str) {
    let pair = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    std::fs::write(folder.join(format!("{file}.key")), pair.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join(format!("{file}.pem")), pair.cert.pem()).unwrap();
}

async fn shown(port: u16, name: &str) -> Vec<u8> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let stream = greet(stream, name, "h2").await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn certificates_are_chosen_by_name_and_read_anew_under_running_connections() {
    let folder = tempfile::tempdir().unwrap();
    for (file, name) in [("first", "localhost"), ("other", "other.example"), ("wild", "*.wild.example")] {
        pair(folder.path(), file, name);
    }
    let tls = "[tls]\ncertificate = \"first.pem\"\nprivate_key = \"first.key\"\n\
        [[tls.also]]\ncertificate = \"other.pem\"\nprivate_key = \"other.key\"\n\
        [[tls.also]]\ncertificate = \"wild.pem\"\nprivate_key = \"wild.key\"\n";
    let text = shipped("memory").replace("[tls]\nself_signed = true", tls);
    let running = run_text(folder, &text);
    let der = |file: &str| {
        use rustls::pki_types::{CertificateDer, pem::PemObject};
        CertificateDer::from_pem_file(running.folder.path().join(file)).unwrap().to_vec()
    };
    for (name, file) in [
        ("localhost", "first.pem"),
        ("other.example", "other.pem"),
        ("a.wild.example", "wild.pem"),
        ("a.b.wild.example", "first.pem"),
        ("unknown.example", "first.pem"),
    ] {
        assert_eq!(shown(port(&running), name).await, der(file), "{name}");
    }
    let [mut open, _] = Client::both(port(&running)).await;
    soon(open.ask(Request::get("/"), "/public", whole("")).await.into_body().collect()).await.unwrap();
    let old = der("first.pem");
    // Half of a renewal is no renewal.
    std::fs::write(running.folder.path().join("first.pem"), "half").unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    pair(running.folder.path(), "first", "localhost");
    while shown(port(&running), "localhost").await == old {
        assert!(Instant::now() < until, "the old certificate is still shown");
        tokio::task::yield_now().await;
    }
    assert_eq!(shown(port(&running), "localhost").await, der("first.pem"));
    assert_eq!(open.ask(Request::get("/"), "/public", whole("")).await.status(), 200, "the open connection goes on");
}

/// The pair of a first start ends within the year that browsers allow; a later start makes another in time, and never of a pair
/// that somebody brought.
#[test]
fn a_development_certificate_is_made_anew_before_it_ends_and_nobodys_own_is() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["certs/gateway.pem", "certs/gateway.key"].map(|file| folder.path().join(file));
    let start = || {
        use portcullis::server::tls::make_development_pair;
        make_development_pair(&files[0], &files[1]).unwrap()
    };
    let age = |days: u64| {
        let then = std::time::SystemTime::now() - Duration::from_secs(days * 86_400);
        std::fs::File::options().append(true).open(&files[0]).unwrap().set_modified(then).unwrap();
    };
    assert!(start() && !start());
    let first = files.each_ref().map(|file| std::fs::read(file).unwrap());
    age(299);
    assert!(!start());
    age(301);
    assert!(start());
    assert!(files.iter().zip(&first).all(|(file, old)| std::fs::read(file).unwrap() != *old));
    pair(&folder.path().join("certs"), "gateway", "localhost");
    age(301);
    assert!(!start());
}

/// attacks: policy 12
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn silent_slow_and_half_open_clients_are_closed() {
    let limits = "[limits]\nhandshake_timeout = \"300ms\"\nheader_timeout = \"300ms\"";
    let running = with("", limits);
    let begun = Instant::now();
    // Not a byte; half a handshake; a handshake and not a byte, over both protocols; half a head.
    let mut silent = TcpStream::connect(("127.0.0.1", port(&running))).await.unwrap();
    let mut half = TcpStream::connect(("127.0.0.1", port(&running))).await.unwrap();
    half.write_all(&[22, 3, 1, 0, 200, 1, 0]).await.unwrap();
    let mut one = connect(port(&running), "http/1.1").await;
    let mut preface = connect(port(&running), "h2").await;
    let mut head = connect(port(&running), "http/1.1").await;
    head.write_all(b"GET / HTTP/1.1\r\nHost: loc").await.unwrap();
    // An HTTP/2 client that is well and asks nothing; it answers pings.
    let mut idle = two(port(&running)).await;
    soon(idle.ready()).await.unwrap();
    closes(&mut silent).await;
    closes(&mut half).await;
    closes(&mut one).await;
    closes(&mut preface).await;
    closes(&mut head).await;
    while !idle.is_closed() {
        assert!(begun.elapsed() < Duration::from_secs(20), "an idle HTTP/2 connection stays");
        tokio::task::yield_now().await;
    }
    assert_eq!(count(&running, "handshake_timeout"), 2);
    assert!(count(&running, "idle_closed") >= 1);
    assert!(count(&running, "header_timeout") >= 1);
    // A request that takes longer than these limits is not idle.
    let slow = Application::start(|_| async {
        tokio::time::sleep(Duration::from_millis(800)).await;
        Response::new(whole("late"))
    });
    let upstream = format!("\"http://127.0.0.1:{}\"", slow.port);
    let text = shipped("memory").replace("\"builtin:whoami\"", &upstream);
    let running = run_text(tempfile::tempdir().unwrap(), &format!("{text}\n{limits}"));
    for version in ["--http1.1", "--http2"] {
        assert_eq!(tokio::task::block_in_place(|| running.curl("/public", &[version])).body, "late");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_address_may_not_hold_all_connections() {
    let running = with("", "[limits]\nconnections_per_address = 3");
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(connect(port(&running), "http/1.1").await);
    }
    let fourth = TcpStream::connect(("127.0.0.1", port(&running))).await.unwrap();
    assert!(greet(fourth, "localhost", "http/1.1").await.is_err());
    assert_eq!(count(&running, "refused_address"), 1);
    drop(open.pop());
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let again = TcpStream::connect(("127.0.0.1", port(&running))).await.unwrap();
        if greet(again, "localhost", "http/1.1").await.is_ok() {
            break;
        }
        assert!(Instant::now() < until, "the place is not given back");
    }
    let trusting = with("trusted_proxies = [\"127.0.0.1\"]", "[limits]\nconnections_per_address = 1");
    let _three = [
        connect(port(&trusting), "h2").await,
        connect(port(&trusting), "h2").await,
        connect(port(&trusting), "h2").await,
    ];
}

/// Answers what it is asked for under `/public/held` when it is told to, everything else at once; how often that was asked for.
fn holding() -> (Application, tokio::sync::watch::Sender<bool>, Arc<AtomicUsize>) {
    let (go, told) = tokio::sync::watch::channel(false);
    let held = Arc::new(AtomicUsize::new(0));
    let count = held.clone();
    let application = Application::start(move |request| {
        let (mut told, is_held) = (told.clone(), request.uri().path() == "/public/held");
        count.fetch_add(usize::from(is_held), Ordering::Relaxed);
        async move {
            if is_held {
                told.wait_for(|go| *go).await.unwrap();
            }
            Response::new(whole("answered"))
        }
    });
    (application, go, held)
}

async fn ask_over(stream: &mut (impl AsyncWriteExt + Unpin), path: &str) {
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    soon(stream.write_all(head.as_bytes())).await.unwrap();
}

/// Reads an answer of [`holding`].
async fn answered(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut said = Vec::new();
    while !said.ends_with(b"answered") {
        said.push(soon(stream.read_u8()).await.unwrap());
    }
}

/// attacks: connections of many addresses that say nothing, or asked once, or send half a head, and hold every place.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn in_a_full_gateway_idle_connections_give_their_places_up_and_no_others() {
    let (application, go, held) = holding();
    let text = shipped("memory").replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{}\"", application.port));
    let limits = "[limits]\nconnections = 7\nhandshake_timeout = \"4m\"\nheader_timeout = \"4m\"\n";
    let running = run_text(tempfile::tempdir().unwrap(), &format!("{text}\n{limits}"));
    let port = port(&running);
    let until = Instant::now() + Duration::from_secs(60);
    let in_time = |what: &str| assert!(Instant::now() < until, "{what}");
    let wait_for = async |wanted: usize| {
        while held.load(Ordering::Relaxed) < wanted {
            in_time("the application is not asked");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Two that carry something.
    let mut busy = connect(port, "http/1.1").await;
    ask_over(&mut busy, "/public/held").await;
    let mut client = Client::Two(two(port).await);
    let stream = tokio::spawn(async move {
        let request = Request::get("https://localhost/public/held").body(whole("")).unwrap();
        let Client::Two(sender) = &mut client else { unreachable!() };
        let answer = sender.send_request(request).await.unwrap();
        answer.into_body().collect().await.unwrap().to_bytes()
    });
    wait_for(2).await;
    // Five that carry nothing.
    let mut silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut greeted = connect(port, "http/1.1").await;
    let mut rested = connect(port, "http/1.1").await;
    let mut half = connect(port, "http/1.1").await;
    for client in [&mut rested, &mut half] {
        ask_over(client, "/public").await;
        answered(client).await;
    }
    half.write_all(b"GET /public HTTP/1.1\r\nHost").await.unwrap();
    let mut unused = Client::Two(two(port).await);
    soon(unused.ask(Request::get("/"), "/public", whole("")).await.into_body().collect()).await.unwrap();
    // Five who come then, and carry something.
    let mut newcomers = Vec::new();
    while newcomers.len() < 5 {
        in_time("they are not let in");
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        if let Ok(mut newcomer) = greet(stream, "localhost", "http/1.1").await {
            ask_over(&mut newcomer, "/public/held").await;
            newcomers.push(newcomer);
            wait_for(2 + newcomers.len()).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(count(&running, "idle_given_up"), 5);
    closes(&mut silent).await;
    for client in [&mut greeted, &mut rested, &mut half] {
        closes(client).await;
    }
    while unused.try_ask(Request::get("/"), "/public", whole("")).await.is_some() {
        in_time("HTTP/2 goes on");
    }
    // Nobody has to leave for the next one, who is told so.
    let before = count(&running, "refused_full");
    let another = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert!(greet(another, "localhost", "http/1.1").await.is_err());
    assert_eq!((count(&running, "idle_given_up"), count(&running, "refused_full")), (5, before + 1));
    go.send(true).unwrap();
    for client in newcomers.iter_mut().chain([&mut busy]) {
        answered(client).await;
    }
    assert_eq!(soon(stream).await.unwrap(), "answered");
}

/// An HTTP/2 frame (RFC 9113 §4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Sends pieces of a flood until the gateway closes or `most` were sent; how many were.
async fn flood(port: u16, most: usize, piece: impl Fn(u32) -> Vec<u8>) -> usize {
    let stream = connect(port, "h2").await;
    let (mut read, mut write) = tokio::io::split(stream);
    write.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    write.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut sink = [0; 16_384];
        while matches!(read.read(&mut sink).await, Ok(1..)) {}
    });
    let mut sent = 0;
    while sent < most && !reading.is_finished() {
        let bytes = piece(u32::try_from(sent).unwrap());
        if !matches!(tokio::time::timeout(Duration::from_secs(5), write.write_all(&bytes)).await, Ok(Ok(()))) {
            break;
        }
        sent += 1;
    }
    reading.abort();
    sent
}

/// attacks: line 108. A line of a library for each frame that makes no sense to it fills the disk of whoever keeps what is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_client_has_the_gateway_say_things() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, shipped("memory")).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let service = tokio::task::block_in_place(|| Service::start(command.arg("--config").arg(&file)));
    let mut stream = connect(tokio::task::block_in_place(|| service.says_port("https://localhost:")), "h2").await;
    // PING acknowledgements that nobody waits for, and behind them a PING, whose answer says that those were read.
    let acknowledged = frame(6, 1, 0, b"for you!");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(6, 1, 0, b"unasked!").repeat(20));
    bytes.extend(frame(6, 0, 0, b"for you!"));
    stream.write_all(&bytes).await.unwrap();
    let mut answered = Vec::new();
    while !answered.windows(acknowledged.len()).any(|frame| frame == acknowledged) {
        assert_ne!(soon(stream.read_buf(&mut answered)).await.unwrap(), 0, "it goes on");
    }
    service.hang_up();
    let said = tokio::task::block_in_place(|| service.said_until("configuration reloaded"));
    assert!(!said.contains("PING"), "{said}");
}

/// attacks: line 108. Floods of every kind end their own connection, or cost next to nothing; others do not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn floods_hurt_nobody_else() {
    let running = with("", "");
    let port = port(&running);
    // `GET https://localhost/public`, indexed and literal (RFC 7541 §C.4 shows the like).
    let mut head = vec![0x82, 0x87, 0x41, 9];
    head.extend(b"localhost");
    head.extend([0x44, 7]);
    head.extend(b"/public");
    let request = |number: u32, end: u8| frame(1, 4 | end, 2 * number + 1, &head);
    let most = 30_000;
    let served = async || {
        let begun = Instant::now();
        let mut client = two(port).await;
        let request = Request::get("https://localhost/public").body(whole("")).unwrap();
        assert_eq!(soon(client.send_request(request)).await.unwrap().status(), 200);
        begun.elapsed()
    };
    let resets =
        flood(port, most, |number| [request(number, 1), frame(3, 0, 2 * number + 1, &[0, 0, 0, 8])].concat()).await;
    assert!(resets < most, "rapid resets are cut (CVE-2023-44487)");
    counted_to(&running, "flooding", 1).await;
    served().await;
    let continued = flood(port, most, |number| match number {
        0 => frame(1, 0, 1, &head),
        _ => frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b'].repeat(100)),
    })
    .await;
    assert!(continued < most, "endless continuation is cut (CVE-2024-27316)");
    counted_to(&running, "flooding", 2).await;
    served().await;
    for (kind, piece) in [
        ("settings", frame(4, 0, 0, &[])),
        ("ping", frame(6, 0, 0, &[0; 8])),
        ("window", frame(8, 0, 0, &[0, 0, 0, 1])),
        ("priority", frame(2, 0, 1, &[0, 0, 0, 0, 1])),
        ("unknown", frame(0x60, 0, 0, &[0; 8])),
    ] {
        let flooding = tokio::spawn(async move { flood(port, most, |_| piece.clone()).await });
        served().await;
        let _ = soon(flooding).await;
        served().await;
        let _ = kind;
    }
    // Empty pieces of a body that never ends.
    flood(port, most, |number| match number {
        0 => {
            let mut post = head.clone();
            post[0] = 0x83;
            frame(1, 4, 1, &post)
        }
        _ => frame(0, 0, 1, &[]),
    })
    .await;
    served().await;
}

/// A call that streams many small messages, a frame each, is no flood: they are taken as they come.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn many_small_frames_that_are_read_are_no_flood() {
    let all = 60_000 * b"a short message.".len();
    let application = Application::on_streams(move |stream| {
        let answer = move |request: Request<hyper::body::Incoming>| async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body.len(), all);
            http::Response::new(whole(""))
        };
        serve(stream, Arc::new(answer), false)
    });
    let text = shipped("memory").replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{}\"", application.port));
    let text = text.replace("methods  = [\"GET\", \"HEAD\"]\n", "");
    let running = run_text(tempfile::tempdir().unwrap(), &text);
    let mut stream = connect(running.port(), "h2").await;
    let mut post = vec![0x83, 0x87, 0x41, 9];
    post.extend(b"localhost");
    post.extend([0x44, 7]);
    post.extend(b"/public");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([frame(4, 0, 0, &[]), frame(1, 4, 1, &post)].concat());
    bytes.extend(frame(0, 0, 1, b"a short message.").repeat(59_999));
    bytes.extend(frame(0, 1, 1, b"a short message."));
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let answered = async {
        loop {
            let mut head = [0; 9];
            soon(read.read_exact(&mut head)).await.expect("the connection stands until it is answered");
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            soon(read.read_exact(&mut payload)).await.unwrap();
            assert_ne!(head[3], 7, "GOAWAY {}", String::from_utf8_lossy(&payload));
            if head[3] == 1 {
                // `:status: 200` from the static table.
                return assert_eq!(payload[0], 0x88);
            }
        }
    };
    let (written, ()) = tokio::join!(write.write_all(&bytes), answered);
    written.unwrap();
}

/// What clients leave behind is given back: descriptors are where they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn descriptors_return_to_where_they_were() {
    let descriptors = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let folder = tempfile::tempdir().unwrap();
    let limits =
        "[limits]\nhandshake_timeout = \"500ms\"\nheader_timeout = \"500ms\"\nupstream_idle_timeout = \"100ms\"";
    let program = crate::process::start_text(folder.path(), &format!("{}\n{limits}", shipped("memory")));
    let (pid, port) = (program.id(), program.port);
    drop(connect(port, "h2").await);
    let before = descriptors(pid);
    let mut open: Vec<Box<dyn std::any::Any>> = Vec::new();
    for number in 0..200 {
        match number % 4 {
            0 => open.push(Box::new(Blocking::connect(("127.0.0.1", port)).unwrap())),
            1 => open.push(Box::new(connect(port, "h2").await)),
            2 => {
                let mut stream = connect(port, "http/1.1").await;
                stream.write_all(b"GET /public HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
                open.push(Box::new(stream));
            }
            _ => {
                let mut stream = connect(port, "http/1.1").await;
                stream
                    .write_all(b"POST /public HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx")
                    .await
                    .unwrap();
            }
        }
    }
    // The clients stay; the gateway closes.
    let until = Instant::now() + Duration::from_secs(30);
    let allowed = before + 8;
    while descriptors(pid) > allowed {
        assert!(Instant::now() < until, "{before} before, {} now", descriptors(pid));
        tokio::task::yield_now().await;
    }
    drop(open);
}

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The two-user oracle: whatever clients do to their connections, every answer is its asker's. `PORTCULLIS_INTERLEAVE` asks
/// for more requests than the suite has time for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_carries_its_askers_marker() {
    let total = std::env::var("PORTCULLIS_INTERLEAVE").map_or(100_000, |text| text.parse::<usize>().unwrap());
    // Echoes the marker, sometimes before the body is read, sometimes in pieces, sometimes not to the end.
    let application = Application::start(|request: Request<hyper::body::Incoming>| async move {
        let marker = request.headers()["x-marker"].to_str().unwrap().to_owned();
        let turn = COUNT.fetch_add(1, Ordering::Relaxed);
        match turn % 29 {
            0 => {}
            1 => tokio::task::yield_now().await,
            _ => drop(request.into_body().collect().await),
        }
        let (mut feed, body) = crate::wire::fed();
        tokio::spawn(async move {
            for _ in 0..=(turn % 3) {
                let _ = feed.send_data(marker.clone().into()).await;
            }
        });
        Response::new(body)
    });
    let text = shipped("memory")
        .replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{}\"", application.port))
        .replace("access   = \"authenticated\"", "access   = \"public\"");
    let running = run_text(tempfile::tempdir().unwrap(), &text);
    let port = port(&running);
    let tasks = 16;
    let worker = |task: usize| async move {
        let (mut answered, mut asked) = (0, 0);
        let mut client = None;
        while asked < total / tasks {
            asked += 1;
            let marker = format!("user-{task}-{asked};");
            let mut open = match client.take() {
                Some(open) => open,
                None if task.is_multiple_of(2) => Client::Two(two(port).await),
                None => Client::One(crate::wire::one(port).await),
            };
            let (mut feed, body) = crate::wire::fed();
            let part = if asked % 25 == 4 { 4 } else { asked % 4 };
            let feeding = tokio::spawn(async move {
                for _ in 0..part {
                    if feed.send_data(bytes::Bytes::from_static(b"xyz")).await.is_err() {
                        return;
                    }
                }
                if part == 4 {
                    // Breaks its upload off.
                    std::future::pending::<()>().await;
                }
            });
            let request = Request::post("/").header("x-marker", &marker);
            let patience = if asked % 11 == 0 {
                Duration::from_micros(300)
            } else {
                Duration::from_millis(if part == 4 { 2 } else { 20_000 })
            };
            let exchange = async {
                let answer = open.try_ask(request, "/", body).await?;
                if answer.status() != 200 {
                    return None;
                }
                answer.into_body().collect().await.ok().map(|body| body.to_bytes())
            };
            let got = tokio::time::timeout(patience, exchange).await;
            feeding.abort();
            // Given up, or refused: the next one comes over another connection.
            if let Ok(Some(bytes)) = got {
                let text = String::from_utf8(bytes.to_vec()).unwrap();
                assert!(!text.is_empty() && text.replace(&marker, "").is_empty(), "{marker} got {text}");
                answered += 1;
                client = (asked % 200 != 0).then_some(open);
            }
        }
        answered
    };
    let running_tasks: Vec<_> = (0..tasks).map(|task| tokio::spawn(worker(task))).collect();
    let mut answered = 0;
    for task in running_tasks {
        answered += task.await.unwrap();
    }
    assert!(answered > total / 3, "{answered} of {total} were answered: too few to say anything");
}
