//! HTTP/1.1 connections that nobody uses for a while: they give back what they need only while they are used, and lose nothing.

use std::time::Duration;

use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::edge::{count, counted_to};
use crate::support::{Running, run_text, shipped};
use crate::wire::{Application, connect, soon, whole};

fn behind(application: &Application) -> Running {
    let upstream = format!("\"http://127.0.0.1:{}\"", application.port);
    run_text(tempfile::tempdir().unwrap(), &shipped("memory").replace("\"builtin:whoami\"", &upstream))
}

fn port(running: &Running) -> u16 {
    running.gateway.address().port()
}

/// Until so many connections went to rest.
async fn rested(running: &Running, times: u64) {
    counted_to(running, "rested", times).await;
}

async fn ask(client: &mut TlsStream<TcpStream>, target: &str) {
    soon(client.write_all(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())).await.unwrap();
}

/// The next answer: its head, and the length of its body.
async fn answer(client: &mut TlsStream<TcpStream>) -> (String, usize) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(client.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    soon(client.read_exact(&mut body)).await.unwrap();
    assert!(body.iter().all(|byte| *byte == b'x'));
    (head, length)
}

fn letters() -> Application {
    Application::start(|request| async move {
        let length = request.uri().path().rsplit('/').next().unwrap().parse().unwrap();
        Response::new(whole(vec![b'x'; length]))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_that_rested_goes_on_as_if_it_had_not() {
    let application = letters();
    let running = behind(&application);
    let mut client = connect(port(&running), "http/1.1").await;
    // Once and again; the head in pieces, and two heads at once.
    for times in 1..=2 {
        ask(&mut client, "/public/10").await;
        assert_eq!(answer(&mut client).await.1, 10);
        rested(&running, times).await;
    }
    for piece in ["GET /pub", "lic/11 HTTP/1.1\r\nHost: localhost\r\n", "\r\n"] {
        soon(client.write_all(piece.as_bytes())).await.unwrap();
        soon(client.flush()).await.unwrap();
    }
    assert_eq!(answer(&mut client).await.1, 11);
    rested(&running, 3).await;
    let head = "GET /public/12 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    soon(client.write_all(format!("{head}{head}").as_bytes())).await.unwrap();
    assert_eq!((answer(&mut client).await.1, answer(&mut client).await.1), (12, 12));
    // And it ends with the gateway.
    rested(&running, 4).await;
    let stopped = tokio::task::spawn_blocking(move || drop(running));
    assert_eq!(soon(client.read(&mut [0])).await.unwrap_or(0), 0);
    soon(stopped).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_head_that_comes_by_bytes_has_no_more_time_because_others_rest() {
    let application = letters();
    let text = shipped("memory").replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{}\"", application.port));
    let running = run_text(tempfile::tempdir().unwrap(), &format!("{text}\n[limits]\nheader_timeout = \"4s\""));
    let mut slow = connect(port(&running), "http/1.1").await;
    // The half one comes with a whole one: nothing is between them in which it could rest.
    let heads = "GET /public/10 HTTP/1.1\r\nHost: localhost\r\n\r\nGET /public";
    soon(slow.write_all(heads.as_bytes())).await.unwrap();
    answer(&mut slow).await;
    let closed = async { while slow.read(&mut [0]).await.is_ok_and(|read| read > 0) {} };
    soon(closed).await;
    // Half a head never rests: its four seconds are those of the head.
    counted_to(&running, "header_timeout", 1).await;
    assert_eq!(count(&running, "rested"), 0);
}

/// attacks: a blank line that waits, or keys of TLS exchanged now and then, hold a place for as long as anybody likes.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_no_request_gives_a_connection_no_more_time() {
    let application = letters();
    let text = shipped("memory").replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{}\"", application.port));
    let running = run_text(tempfile::tempdir().unwrap(), &format!("{text}\n[limits]\nheader_timeout = \"3s\""));
    let mut blank = connect(port(&running), "http/1.1").await;
    let mut keys = connect(port(&running), "http/1.1").await;
    for client in [&mut blank, &mut keys] {
        ask(client, "/public/10").await;
        answer(client).await;
    }
    soon(blank.write_all(b"\r\n")).await.unwrap();
    // Few enough for TLS to suffer them.
    let exchanged = async {
        loop {
            keys.get_mut().1.refresh_traffic_keys().unwrap();
            let closed = keys.flush().await.is_err();
            match timeout(Duration::from_millis(500), keys.read(&mut [0])).await {
                Err(_) if !closed => {}
                _ => return,
            }
        }
    };
    let closed = async { while blank.read(&mut [0]).await.is_ok_and(|read| read > 0) {} };
    soon(async { tokio::join!(exchanged, closed) }).await;
    counted_to(&running, "header_timeout", 2).await;
}

/// What hyper still holds of an answer is not lost because its request is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_slow_reader_gets_all_of_its_answer() {
    let application = letters();
    let running = behind(&application);
    // Of some of these lengths the last part fits no more into the kernel's buffers and waits in the gateway's.
    let lengths: Vec<usize> = (1..=48).map(|step| step * 160 * 1024).collect();
    let mut slow = Vec::new();
    for length in &lengths {
        let mut client = connect(port(&running), "http/1.1").await;
        ask(&mut client, &format!("/public/{length}")).await;
        slow.push(client);
    }
    // Whoever would rest has rested when another one did for the third time.
    let mut quick = connect(port(&running), "http/1.1").await;
    let before = count(&running, "rested");
    for times in 1..=3 {
        ask(&mut quick, "/public/1").await;
        answer(&mut quick).await;
        rested(&running, before + times).await;
    }
    for (client, length) in slow.iter_mut().zip(lengths) {
        assert_eq!(answer(client).await.1, length);
    }
}
