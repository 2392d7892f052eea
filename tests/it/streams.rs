//! Open streams end with what let them begin: a session and its limits, the role that the route asks for, a token.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use portcullis::clock::{Clock, TestClock, Timestamp};
use portcullis::session::{Activity, Lookup, Revocation, SessionKey, TokenId, UserKey, Wait};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::bearer;
use crate::cost::demo;
use crate::held::{End, KINDS, Kind, Streaming};
use crate::options::{sockets, text_before};
use crate::shared_store::eventually;
use crate::support::{Running, run_with, shipped};
use crate::tokens::{Issuer, NOW};
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

/// What ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Session,
    User,
    Everyone,
    Idle,
    Absolute,
    TokenExpired,
    TokenById,
    TokenUser,
    TokenEveryone,
    RoleLost,
    UserGone,
}

const ENDINGS: [Ending; 11] = [
    Ending::Session,
    Ending::User,
    Ending::Everyone,
    Ending::Idle,
    Ending::Absolute,
    Ending::TokenExpired,
    Ending::TokenById,
    Ending::TokenUser,
    Ending::TokenEveryone,
    Ending::RoleLost,
    Ending::UserGone,
];

impl Ending {
    /// Of what is open under a token, not in a session.
    fn is_of_token(self) -> bool {
        matches!(self, Ending::TokenExpired | Ending::TokenById | Ending::TokenUser | Ending::TokenEveryone)
    }

    /// What was opened by the other credential goes on.
    fn spares_the_other(self) -> bool {
        !matches!(self, Ending::Everyone | Ending::TokenEveryone | Ending::Idle | Ending::Absolute)
    }
}

/// The gateway of the table, and what its endings act on.
struct Stage {
    running: Running,
    clock: Arc<TestClock>,
    issuer: Issuer,
}

/// Who holds a stream open.
struct Caller {
    cookie: String,
    key: SessionKey,
    jti: String,
    token: String,
}

impl Stage {
    fn start(streaming: &Streaming) -> Stage {
        let (folder, issuer) = (tempfile::tempdir().unwrap(), Issuer::es256());
        bearer::write(folder.path(), &[("one", &issuer)]);
        let text = shipped("memory").replace("\"30m\"", "\"50m\"").replace("\"12h\"", "\"80m\"");
        let (routes, token) = (streaming.routes("[\"session\", \"token\"]"), bearer::table(bearer::EXACT));
        let clock = Arc::new(TestClock::at(NOW));
        let running = run_with(folder, &format!("{text}\n{token}{routes}"), clock.clone(), None);
        Stage { running, clock, issuer }
    }

    async fn caller(&self, jti: String) -> Caller {
        // Whatever was revoked before is older than this, and this is older than what will be.
        self.clock.advance(Duration::from_secs(1));
        let sessions = self.running.gateway.sessions();
        let begun = sessions.begin(demo(self.running.folder.path()), None, self.clock.now()).await.unwrap();
        let more = format!(r#","jti":"{jti}","realm":{{"roles":["eng-admins"]}}"#);
        let token = format!("Bearer {}", bearer::token(&self.issuer, "one", &*self.clock, &more));
        self.clock.advance(Duration::from_secs(1));
        Caller { cookie: format!("__Host-portcullis={}", begun.cookie), key: begun.view.key, jti, token }
    }

    async fn revoke(&self, what: Revocation) {
        let revoked = self.running.gateway.sessions().revoke(what, Wait::Fully, self.clock.now());
        assert!(soon(revoked).await.unwrap().everywhere);
    }

    fn edit_users(&self, from: &str, to: &str) {
        let users = self.running.folder.path().join("users.toml");
        let before = std::fs::read_to_string(&users).unwrap();
        assert!(before.contains(from), "{from} in {before}");
        std::fs::write(&users, before.replace(from, to)).unwrap();
    }

    async fn bring_about(&self, ending: Ending, of: &Caller) {
        let issuer = "https://id.example";
        match ending {
            Ending::Session => self.revoke(Revocation::Session(of.key)).await,
            Ending::User => {
                self.revoke(Revocation::User { user: UserKey::of("local", "demo"), except: None }).await;
            }
            Ending::Everyone | Ending::TokenEveryone => self.revoke(Revocation::Everyone).await,
            Ending::Idle => self.clock.advance(Duration::from_secs(3_001)),
            Ending::Absolute => {
                // Used in between: it is not the idle window that ends it.
                self.clock.advance(Duration::from_secs(2_500));
                let cookie = of.cookie.split_once('=').unwrap().1;
                let sessions = self.running.gateway.sessions();
                let used = sessions.lookup(cookie, Activity::Active, self.clock.now()).await.unwrap();
                assert!(matches!(used, Lookup::Alive(_)));
                self.clock.advance(Duration::from_secs(2_400));
            }
            Ending::TokenExpired => self.clock.advance(Duration::from_secs(65)),
            Ending::TokenById => {
                let until = self.clock.now().plus(Duration::from_secs(100));
                self.revoke(Revocation::Token { id: TokenId::of(issuer, &of.jti), until }).await;
            }
            Ending::TokenUser => {
                self.revoke(Revocation::User { user: UserKey::of(issuer, "robot"), except: None }).await;
            }
            Ending::RoleLost => self.edit_users("\"admin\"", "\"staff\""),
            Ending::UserGone => self.edit_users("[user.demo]", "[user.other]"),
        }
    }
}

/// Where streams are opened, and what a WebSocket is closed with there.
const BASES: [(&str, u16); 2] = [("/any", 1008), ("/role", 4401)];

/// Whatever lets a stream begin, and whichever way it is open: with the end of the one ends the other, and nothing else does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_stream_ends_with_what_let_it_begin() {
    let streaming = Streaming::start();
    let stage = Stage::start(&streaming);
    let port = stage.running.port();
    let (mut ended, mut denied, mut either) = (0, 0, 0);
    for ending in ENDINGS {
        let caller = stage.caller(format!("{ending:?}")).await;
        let (cookie, token) = (("cookie", caller.cookie.as_str()), ("authorization", caller.token.as_str()));
        let (by, other) = if ending.is_of_token() { (token, cookie) } else { (cookie, token) };
        let (mut doomed, mut spared) = (Vec::new(), Vec::new());
        // Who is gone at last lost the role before.
        let bases = if ending == Ending::UserGone { &BASES[..1] } else { &BASES };
        for kind in KINDS {
            for &(base, code) in bases {
                let held = streaming.open(kind, port, base, by).await;
                let goes_on = ending == Ending::RoleLost && base == "/any";
                if goes_on { spared.push(held) } else { doomed.push((held, End::of(kind, code))) }
            }
        }
        if ending.spares_the_other() {
            spared.push(streaming.open(Kind::Events(http::Version::HTTP_11), port, "/any", other).await);
        }
        stage.bring_about(ending, &caller).await;
        for (held, expected) in doomed {
            let kind = held.kind;
            assert_eq!(soon(held.end()).await.0, expected, "{kind:?} by {ending:?}");
            let count = match ending {
                // Between the file that is read and the revocation that follows, it may be either.
                Ending::UserGone => &mut either,
                Ending::RoleLost => &mut denied,
                _ => &mut ended,
            };
            *count += usize::from(matches!(kind, Kind::Events(_) | Kind::Download(_) | Kind::Call));
        }
        for mut held in spared {
            for _ in 0..20 {
                assert_eq!(held.next().await, None, "{:?} goes on after {ending:?}", held.kind);
            }
        }
    }
    let recorded = |what: &str| stage.running.lines.0.lock().unwrap().iter().filter(|line| line.contains(what)).count();
    eventually("they are recorded as cut, each by what it was", async || {
        let [over, no_more] = ["\"body\":\"session_ended\"", "\"body\":\"no_longer_allowed\""].map(recorded);
        over >= ended && no_more >= denied && over + no_more == ended + denied + either
    })
    .await;
}
