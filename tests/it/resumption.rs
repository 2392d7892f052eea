//! Handshakes: what is agreed on, and that of those who were here before they are short, whichever worker is met, in both versions
//! of TLS.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, HandshakeKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::{Running, run_text, shipped};
use crate::wire::{Application, browser, greet_as, serve, soon, whole};

/// The shipped configuration with two workers, and how many of them have asked the application: each keeps a connection of
/// its own to it.
fn two_workers() -> (Application, Running, Arc<AtomicUsize>) {
    let workers = Arc::new(AtomicUsize::new(0));
    let seen = workers.clone();
    let application = Application::on_streams(move |stream| {
        seen.fetch_add(1, Ordering::Relaxed);
        serve(stream, Arc::new(|_| async { http::Response::new(whole("here")) }), false)
    });
    let text = shipped("memory").replace("builtin:whoami", &format!("http://127.0.0.1:{}", application.port));
    let text = text.replace("[server]\n", "[server]\nworkers = 2\n");
    let running = run_text(tempfile::tempdir().unwrap(), &text);
    (application, running, workers)
}

/// One request on a connection of its own, and what its handshake was.
async fn visit(browser: &TlsConnector, running: &Running) -> HandshakeKind {
    let stream = TcpStream::connect(("127.0.0.1", running.port())).await.unwrap();
    let mut stream = greet_as(browser, stream, "localhost").await.unwrap();
    stream.write_all(b"GET /public HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut said = String::new();
    soon(stream.read_to_string(&mut said)).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 200 ") && said.ends_with("here"), "{said}");
    stream.get_ref().1.handshake_kind().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_was_here_before_resumes_with_either_worker() {
    /// The kernel chooses the worker by the source port: that it chooses one alone for so many does not happen.
    const MOST: usize = 64;
    const LEAST: usize = 12;
    for version in [&TLS13, &TLS12] {
        let (_application, running, workers) = two_workers();
        let browser = browser(&[version], "http/1.1");
        assert_eq!(visit(&browser, &running).await, HandshakeKind::Full, "{version:?}");
        let mut visits = 1;
        while visits < LEAST || workers.load(Ordering::Relaxed) < 2 {
            assert!(visits < MOST, "one worker gets all");
            visits += 1;
            assert_eq!(visit(&browser, &running).await, HandshakeKind::Resumed, "{version:?}, visit {visits}");
        }
    }
}

/// Four such visits side by side.
async fn four(browser: &TlsConnector, running: &Running) -> [HandshakeKind; 4] {
    let one = || visit(browser, running);
    tokio::join!(one(), one(), one(), one()).into()
}

/// A page's pictures: connections of which none waits for another's ticket.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn each_connection_brings_the_ticket_of_another() {
    let (_application, running, _) = two_workers();
    let browser = browser(&[&TLS13], "http/1.1");
    assert_eq!(four(&browser, &running).await, [HandshakeKind::Full; 4]);
    for _ in 0..3 {
        assert_eq!(four(&browser, &running).await, [HandshakeKind::Resumed; 4]);
    }
}

/// Whatever a client would rather have, as long as it has both.
#[tokio::test]
async fn the_cheaper_of_two_strong_ciphers_is_spoken() {
    let (_application, running, _) = two_workers();
    for (version, suite) in [
        (&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256),
        (&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ] {
        let stream = TcpStream::connect(("127.0.0.1", running.port())).await.unwrap();
        let stream = greet_as(&browser(&[version], "http/1.1"), stream, "localhost").await.unwrap();
        let spoken = stream.get_ref().1.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(spoken, suite);
    }
}
