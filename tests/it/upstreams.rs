//! What an application behind the gateway sees, and what happens when it misbehaves.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use portcullis::clock::Timestamp;
use portcullis::session::{Revocation, Wait};

use crate::support::{Running, run_text, shipped};
use crate::wire::Nobody;

/// A server that hands each request head to the test and answers with fixed bytes; ends with the test.
pub fn application(answer: &'static [u8]) -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heads, received) = channel();
    let heads = Arc::new(heads);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let heads = heads.clone();
            std::thread::spawn(move || while serve(&stream, answer, &heads) {});
        }
    });
    (port, received)
}

fn serve(mut stream: &TcpStream, answer: &[u8], heads: &std::sync::mpsc::Sender<String>) -> bool {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    let _ = heads.send(String::from_utf8_lossy(&head).into_owned());
    stream.write_all(answer).is_ok() && !answer.is_empty()
}

/// The same, but to every second request of a connection it says this much, and closes.
fn closing(after: &'static [u8]) -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heads, received) = channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let heads = heads.clone();
            std::thread::spawn(move || {
                if serve(&stream, OK, &heads) {
                    serve(&stream, b"", &heads);
                    let _ = stream.write_all(after);
                }
            });
        }
    });
    (port, received)
}

fn behind(port: u16) -> Running {
    let text = shipped("memory")
        .replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{port}\""))
        .replace("[upstream.app]", "[upstream.app]\nresponse_timeout = \"300ms\"");
    run_text(tempfile::tempdir().unwrap(), &text)
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nset-cookie: __Host-portcullis=evil\r\n\
set-cookie: =__Host-portcullis=evil\r\nset-cookie: =\t__HOST-Portcullis-login=evil; path=/\r\n\
set-cookie: = =__Host-portcullis\r\nset-cookie: =plain\r\nset-cookie: app=1\r\nkeep-alive: x\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\nok";

/// attacks: policies 2 and 3
#[test]
fn the_head_an_application_receives_is_rebuilt() {
    let (port, heads) = application(OK);
    let running = behind(port);
    let said = running.curl(
        "/public/%7Ea?b=c%20d",
        &[
            "-b",
            "a=1; __Host-portcullis-login=x; b=2",
            "-H",
            "Connection: keep-alive, X-Drop",
            "-H",
            "X-Drop: 1",
            "-H",
            "X-Forwarded-For: 6.6.6.6",
            "-H",
            "Forwarded: for=6.6.6.6",
            "-H",
            "X-Real-IP: 6.6.6.6",
            "-H",
            "Client_IP: 6.6.6.6",
            "-H",
            "X-Client-IP: 6.6.6.6",
            "-H",
            "X-Forwarded: for=6.6.6.6",
            "-H",
            "Forwarded_For: 6.6.6.6",
            "-H",
            "True-Client-IP: 6.6.6.6",
            "-H",
            "CF-Connecting-IP: 6.6.6.6",
            "-H",
            "CF.Connecting.IPv6: 6.6.6.6",
            "-H",
            "X-Cluster-Client-IP: 6.6.6.6",
            "-H",
            "Proxy: http://6.6.6.6",
            "-H",
            "SCRIPT_NAME: /6.6.6.6",
            "-H",
            "Path-Info: /6.6.6.6",
            "-H",
            "X_Script-Name: /6.6.6.6",
            "-H",
            "X-Path-Info: /6.6.6.6",
            "-H",
            "X-Ingress-Path: /6.6.6.6",
            "-H",
            "X-Replaced-Path: /6.6.6.6",
            "-H",
            "X-Envoy-Original-Path: /6.6.6.6",
            "-H",
            "X-Original-URL: /6.6.6.6",
            "-H",
            "REMOTE_USER: root",
            "-H",
            "X.Forwarded.Groups: root",
            "-H",
            "X-WEBAUTH-USER: root",
            "-H",
            "Tailscale_User_Login: root",
            "-H",
            "X-Pomerium-Claim-Email: root",
            "-H",
            "X-Request-Id: mine",
            "-H",
            "X-Own: kept",
            "--http1.1",
        ],
    );
    assert_eq!(said.status, 200);
    let head = heads.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(head.starts_with("GET /public/%7Ea?b=c%20d HTTP/1.1\r\n"), "{head}");
    for gone in ["6.6.6.6", "root", "x-drop", "mine", "__Host", "orwarded: for"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
    for there in
        ["cookie: a=1; b=2\r\n", "x-own: kept\r\n", "x-forwarded-for: 127.0.0.1\r\n", "x-forwarded-proto: https\r\n"]
    {
        assert!(head.contains(there), "{there} in {head}");
    }
    let answer = said.head.to_ascii_lowercase();
    for gone in ["x-hop", "keep-alive", "__host-portcullis"] {
        assert!(!answer.contains(gone), "{gone} in {answer}");
    }
    for there in ["set-cookie: app=1", "set-cookie: =plain"] {
        assert!(answer.contains(there), "{there} in {answer}");
    }
}

#[test]
fn an_application_that_is_away_is_502_and_one_that_hangs_504() {
    let free = Nobody::new();
    assert_eq!(behind(free.port()).curl("/public", &[]).status, 502);
    assert_eq!(behind(application(b"").0).curl("/public", &[]).status, 502, "closed without an answer");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(behind(listener.local_addr().unwrap().port()).curl("/public", &[]).status, 504);
    assert_eq!(
        behind(application(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").0)
            .curl("/public", &[])
            .status,
        502
    );
}

/// A server that closes a connection at the moment at which it is used again: what changes nothing is asked once more (RFC 9110
/// §9.2.2, RFC 9112 §9.3.1), and nothing else, nor what has a body or was answered in part.
#[test]
fn what_changes_nothing_is_asked_once_more_where_a_kept_connection_closed() {
    let (silent, partial) = (&[][..], &b"HTTP/1.1 200 OK\r\ncontent-le"[..]);
    let get: &[&str] = &["-X", "GET"];
    for (flags, after, status, times) in [
        (get, silent, 200, 2),
        (&["-I"], silent, 200, 2),
        (&["-X", "OPTIONS"], silent, 200, 2),
        (get, partial, 502, 1),
        (&["-X", "GET", "-d", "body"], silent, 502, 1),
        (&["-X", "POST"], silent, 502, 1),
        (&["-X", "DELETE"], silent, 502, 1),
        (&["-X", "PUT", "-d", "body"], silent, 502, 1),
    ] {
        let (port, heads) = closing(after);
        let route = "[[route]]\nname = \"any\"\npath = \"/any\"\naccess = \"public\"\nupstream = \"app\"\n";
        let text = shipped("memory")
            .replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{port}\""))
            .replace("[server]", "[server]\nworkers = 1");
        let running = run_text(tempfile::tempdir().unwrap(), &format!("{text}{route}"));
        assert_eq!(running.curl("/any/first", &[]).status, 200);
        assert_eq!(running.curl("/any/second", flags).status, status, "{flags:?} {after:?}");
        // One that was asked once more is asked no third time.
        let said: Vec<String> = heads.try_iter().map(|head| head.lines().next().unwrap().to_owned()).collect();
        let second = said.iter().filter(|line| line.contains(" /any/second ")).count();
        assert_eq!(second, times, "{flags:?} {after:?} {said:?}");
    }
}

#[test]
fn an_answer_without_caching_rules_to_a_person_is_private() {
    let (port, _heads) = application(OK);
    let running = behind(port);
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    let said = running.curl("/", &[]);
    assert_eq!((said.status, said.header("cache-control").as_deref()), (200, Some("private")));
    assert_eq!(running.curl("/public", &[]).header("cache-control"), None);
}

/// attacks: a cache before the gateway that hands one person's page to whoever asks next, because the application allowed keeping it and
/// knew of no session
#[test]
fn only_who_says_so_lets_a_shared_cache_keep_what_a_person_was_answered() {
    for (said, heard) in [
        ("max-age=60", "private, max-age=60"),
        ("no-cache", "private, no-cache"),
        ("", "private"),
        ("max-age=60, must-revalidate", "private, max-age=60, must-revalidate"),
        ("private=\"set-cookie\", max-age=60", "private, private=\"set-cookie\", max-age=60"),
        ("max-age=60\r\ncache-control: immutable", "private, max-age=60\nimmutable"),
        ("max-age=60 , Public", "max-age=60 , Public"),
        ("max-age=60\r\ncache-control: public", "max-age=60\npublic"),
        ("max-age=5, s-maxage=60", "max-age=5, s-maxage=60"),
        ("no-store", "no-store"),
        ("private, max-age=60", "private, max-age=60"),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncache-control: {said}\r\n\r\nok");
        let (port, _heads) = application(answer.leak().as_bytes());
        let running = behind(port);
        assert_eq!(running.sign_in("/", &running.password).status, 303);
        let kept = |path: &str| {
            let answer = running.curl(path, &[]);
            assert_eq!(answer.status, 200, "{said}");
            let lines = answer.head.lines().filter_map(|line| line.strip_prefix("cache-control:"));
            lines.map(str::trim).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(kept("/"), heard);
        assert_eq!(kept("/public"), said.replace("\r\ncache-control: ", "\n"), "nobody's");
    }
}

/// What a client's library calls a protocol error is not handed on (RFC 9110 §8.6); what a 304 says of what is not sent is none.
#[test]
fn an_answer_that_cannot_have_a_body_announces_none() {
    let none = application(b"HTTP/1.1 204 No Content\r\nx-own: 1\r\ncontent-length: 5\r\n\r\n");
    let unchanged = application(b"HTTP/1.1 304 Not Modified\r\nx-own: 1\r\ncontent-length: 5\r\n\r\n");
    for ((port, _heads), status) in [(none, 204), (unchanged, 304)] {
        let running = behind(port);
        for version in ["--http1.1", "--http2"] {
            for more in [&[][..], &["-I"]] {
                let said = running.curl("/public", &[&[version], more].concat());
                assert_eq!((said.status, said.header("x-own").as_deref()), (status, Some("1")), "{version} {more:?}");
                let length = said.header("content-length");
                assert!(status == 304 || length.is_none(), "{version} {more:?} {}", said.head);
            }
        }
    }
}

/// A WebSocket is carried both ways, refused from another site, and cut when its session ends.
#[test]
fn a_websocket_lives_as_long_as_its_session() {
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhello";
    let (port, heads) = application(answer);
    let running = behind(port);
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    let upgrade = ["--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"];
    let other: Vec<&str> = upgrade.into_iter().chain(["-H", "Origin: https://evil.example"]).collect();
    assert_eq!(running.curl("/socket", &other).status, 403);
    std::thread::scope(|scope| {
        // curl stays until the tunnel ends: it returns because the session does, long before its own limit.
        let socket = scope.spawn(|| running.curl("/socket", &upgrade));
        heads.recv_timeout(Duration::from_secs(10)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let revoke = running.gateway.sessions().revoke(Revocation::Everyone, Wait::Fully, Timestamp(0));
        let begun = std::time::Instant::now();
        runtime.block_on(revoke).unwrap();
        let said = socket.join().unwrap();
        assert_eq!(said.status, 101);
        assert!(begun.elapsed() < Duration::from_secs(10), "cut by curl's own limit, not by the revocation");
    });
}
