//! Handshakes: what is agreed on, and that of those who were here before they are short, whichever worker is met, in both versions
//! of TLS.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::client::{Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, HandshakeKind, NamedGroup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

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

async fn visit(browser: &TlsConnector, running: &Running) -> HandshakeKind {
    visit_as(browser, running, "localhost").await
}

/// One request on a connection of its own to the host of this name, and what its handshake was.
async fn visit_as(browser: &TlsConnector, running: &Running, name: &str) -> HandshakeKind {
    let stream = TcpStream::connect(("127.0.0.1", running.port())).await.unwrap();
    ask(greet_as(browser, stream, name).await.unwrap(), name).await
}

/// The request, with whose answer a ticket comes.
async fn ask(mut stream: TlsStream<TcpStream>, name: &str) -> HandshakeKind {
    let request = format!("GET /public HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
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

/// Four such visits side by side: none of them begins when another has its ticket.
async fn four(browser: &TlsConnector, running: &Running) -> [HandshakeKind; 4] {
    let greet = || async {
        let stream = TcpStream::connect(("127.0.0.1", running.port())).await.unwrap();
        greet_as(browser, stream, "localhost").await.unwrap()
    };
    let (one, two, three, four) = tokio::join!(greet(), greet(), greet(), greet());
    let asked = |stream| ask(stream, "localhost");
    tokio::join!(asked(one), asked(two), asked(three), asked(four)).into()
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

/// One ticket for every name.
#[derive(Debug)]
struct Forgetful(ClientSessionMemoryCache);

impl Forgetful {
    fn name() -> ServerName<'static> {
        ServerName::try_from("localhost").unwrap()
    }
}

impl ClientSessionStore for Forgetful {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(Forgetful::name(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&Forgetful::name())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.0.set_tls12_session(Forgetful::name(), session);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&Forgetful::name())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&Forgetful::name());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(Forgetful::name(), ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&Forgetful::name())
    }
}

/// attacks: line 114. What was agreed on for one name is worth nothing for another.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_ticket_is_good_for_the_name_that_it_was_given_for_alone() {
    for version in [&TLS13, &TLS12] {
        let (_application, running, _) = two_workers();
        let mut config = rustls::ClientConfig::clone(browser(&[version], "http/1.1").config());
        config.resumption = Resumption::store(Arc::new(Forgetful(ClientSessionMemoryCache::new(32))));
        let browser = TlsConnector::from(Arc::new(config));
        for (name, kind) in [
            ("localhost", HandshakeKind::Full),
            ("localhost", HandshakeKind::Resumed),
            ("other.example", HandshakeKind::Full),
            ("other.example", HandshakeKind::Resumed),
            ("localhost", HandshakeKind::Full),
        ] {
            assert_eq!(visit_as(&browser, &running, name).await, kind, "{version:?}, {name}");
        }
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
