//! Open streams end with what let them begin: the idle window of the session, and the role that the route asks for.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use portcullis::clock::{Clock, TestClock, Timestamp};
use portcullis::session::UserKey;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::options::{sockets, text_before};
use crate::shared_store::eventually;
use crate::support::{Running, run_text, run_with};
use crate::wire::{connect, soon};

type Socket = tokio_tungstenite::WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>;

async fn open(running: &Running, path: &str) -> Socket {
    let mut request = format!("wss://localhost{path}").into_client_request().unwrap();
    request.headers_mut().insert("cookie", running.cookie().parse().unwrap());
    let stream = connect(running.port(), "http/1.1").await;
    let mut socket = soon(tokio_tungstenite::client_async(request, stream)).await.unwrap().0;
    assert!(echoes(&mut socket).await, "it is open");
    socket
}

/// Whether a message comes back; if not, it was closed with 1008.
async fn echoes(socket: &mut Socket) -> bool {
    // Whoever was cut may notice it here already.
    let _ = socket.send(Message::text("x")).await;
    loop {
        match soon(socket.next()).await {
            Some(Ok(Message::Close(Some(frame)))) => {
                assert_eq!(u16::from(frame.code), 1008);
                return false;
            }
            Some(Ok(Message::Text(_))) => return true,
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Wait for the close frame.
async fn is_cut(socket: &mut Socket) -> bool {
    match soon(socket.next()).await {
        Some(Ok(Message::Close(Some(frame)))) => u16::from(frame.code) == 1008,
        other => panic!("{other:?}"),
    }
}

/// Until a session of the demonstration user has been seen at this moment.
async fn seen(running: &Running, at: Timestamp) {
    let user = UserKey::of("local", "demo");
    eventually("the use is written down", async || {
        let list = running.gateway.sessions().list(user, at).await.unwrap();
        list.iter().any(|entry| entry.session.last_seen == at)
    })
    .await;
}

/// Nobody who was signed out for not being there goes on reading.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stream_ends_when_its_session_has_been_unused_for_too_long_and_not_while_it_is_used() {
    let (application, _asked) = sockets();
    let clock = Arc::new(TestClock::at(Timestamp(1_000_000)));
    let text = text_before(application.port, "\"30m\"", "\"100s\"");
    let running = run_with(tempfile::tempdir().unwrap(), &text, clock.clone(), None);
    assert_eq!(tokio::task::block_in_place(|| running.sign_in("/", &running.password)).status, 303);
    let mut socket = open(&running, "/socket").await;
    // What is sent counts: the session is kept alive by it alone.
    for _ in 0..3 {
        clock.advance(Duration::from_secs(60));
        assert!(echoes(&mut socket).await);
        seen(&running, clock.now()).await;
    }
    // A pong does not. Another session's message tells when it was looked at.
    std::fs::write(running.folder.path().join("jar"), "").unwrap();
    assert_eq!(tokio::task::block_in_place(|| running.sign_in("/", &running.password)).status, 303);
    let mut other = open(&running, "/socket").await;
    clock.advance(Duration::from_secs(60));
    socket.send(Message::Pong(vec![].into())).await.unwrap();
    assert!(echoes(&mut other).await);
    seen(&running, clock.now()).await;
    clock.advance(Duration::from_secs(41));
    assert!(is_cut(&mut socket).await);
    assert!(echoes(&mut other).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stream_ends_when_the_role_that_it_needs_is_taken_away() {
    let (application, _asked) = sockets();
    let text = text_before(application.port, "", "");
    let running = run_text(tempfile::tempdir().unwrap(), &text);
    assert_eq!(tokio::task::block_in_place(|| running.sign_in("/", &running.password)).status, 303);
    let (mut admin, mut anybody) = (open(&running, "/admin/socket").await, open(&running, "/socket").await);
    let users = running.folder.path().join("users.toml");
    let before = std::fs::read_to_string(&users).unwrap();
    let after = before.replace("\"admin\"", "\"staff\"");
    assert_ne!(before, after);
    std::fs::write(&users, after).unwrap();
    assert!(is_cut(&mut admin).await);
    assert!(echoes(&mut anybody).await, "what asks for no role goes on");
}
