//! The file read again while the gateway runs: what is exchanged, what it disturbs – nobody – and what it must not forget.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use portcullis::clock::{Clock, SystemClock, TestClock};
use portcullis::session::{NewSession, Revocation, UserKey, Wait};
use portcullis::startup::ReloadError;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::bearer;
use crate::certificates::{DAY, pair};
use crate::cost::signed_in;
use crate::held::{End, KINDS, Kind, Streaming};
use crate::options::{sockets, text_before};
use crate::shared_store::eventually;
use crate::support::{Running, between, run_text, run_with, shipped};
use crate::tokens::{Issuer, NOW};
use crate::tools::Service;
use crate::wire::{Application, Client, connect, fed, one, piece, soon, two, whole};

fn route(name: &str, path: &str, access: &str, upstream: &str) -> String {
    format!("[[route]]\nname = \"{name}\"\npath = \"{path}\"\naccess = {access}\nupstream = \"{upstream}\"\n")
}

fn upstream(name: &str, port: u16) -> String {
    format!("[upstream.{name}]\nservers = [\"http://127.0.0.1:{port}\"]\n")
}

/// Somebody whom a provider vouched for with these roles: no file says otherwise later.
fn somebody(roles: &[&str]) -> NewSession {
    let roles = roles.iter().map(|role| (*role).to_owned()).collect();
    NewSession { provider: "https://elsewhere.example".into(), roles, ..signed_in("zoe") }
}

async fn cookie_of(running: &Running, new: NewSession, clock: &dyn Clock) -> String {
    let begun = running.gateway.sessions().begin(new, None, clock.now()).await.unwrap();
    format!("__Host-portcullis={}", begun.cookie)
}

async fn status(client: &mut Client, path: &str, by: (&'static str, &str)) -> u16 {
    let answer = client.ask(Request::get("/").header(by.0, by.1), path, whole("")).await;
    let status = answer.status().as_u16();
    soon(answer.into_body().collect()).await.unwrap();
    status
}

async fn text(client: &mut Client, path: &str, by: (&'static str, &str)) -> String {
    let answer = client.ask(Request::get("/").header(by.0, by.1), path, whole("")).await;
    assert_eq!(answer.status(), 200, "{path}");
    String::from_utf8(soon(answer.into_body().collect()).await.unwrap().to_bytes().to_vec()).unwrap()
}

const NOBODY: (&str, &str) = ("x-none", "");

fn restart_keys(done: Result<(), ReloadError>) -> Vec<&'static str> {
    match done {
        Err(ReloadError::Restart(keys)) => keys,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn routes_are_exchanged_and_nothing_that_is_open_is_disturbed() {
    let (echo, _asked) = sockets();
    let (feed, body) = fed();
    let held = Arc::new(std::sync::Mutex::new(Some(body)));
    let slow = Application::start(move |_| {
        let body = held.lock().unwrap().take().unwrap_or_else(|| whole("again"));
        async move { Response::new(body) }
    });
    let before =
        text_before(echo.port, "", "") + &upstream("slow", slow.port) + &route("slow", "/slow", "\"public\"", "slow");
    let running = run_text(tempfile::tempdir().unwrap(), &before);
    let cookie = cookie_of(&running, signed_in("demo"), &SystemClock).await;
    let by = ("cookie", cookie.as_str());
    let mut request = "wss://localhost/socket".into_client_request().unwrap();
    request.headers_mut().insert("cookie", cookie.parse().unwrap());
    let stream = connect(running.port(), "http/1.1").await;
    let mut socket = soon(tokio_tungstenite::client_async(request, stream)).await.unwrap().0;
    let [mut first, mut second] = Client::both(running.port()).await;
    // An answer that has begun, on a connection that carries others beside it.
    let mut answer = second.ask(Request::get("/"), "/slow", whole("")).await.into_body();
    let mut feed = feed;
    for turn in 0..3 {
        feed.send_data(format!("{turn}").into()).await.unwrap();
        assert_eq!(piece(&mut answer).await, format!("{turn}"));
        socket.send(Message::text("still there")).await.unwrap();
        assert!(soon(socket.next()).await.unwrap().unwrap().is_text());
        for client in [&mut first, &mut second] {
            assert_eq!(status(client, "/new", NOBODY).await, 401, "under `/`, which asks for a sign-in");
        }
        running.reload(&format!("{before}{}", route("new", "/new", "\"public\"", "slow"))).unwrap();
        for client in [&mut first, &mut second] {
            assert_eq!(status(client, "/new", NOBODY).await, 200, "over the connection that stood");
            assert_eq!(
                status(client, "/admin", by).await,
                502,
                "let through to an application that answers nothing but WebSockets"
            );
        }
        running.reload(&before).unwrap();
    }
    drop(feed);
    let rest = soon(answer.collect()).await.unwrap().to_bytes();
    assert!(rest.is_empty(), "the answer is whole: {rest:?}");
    running.reload(&before.replace("path     = \"/\"", "path     = \"/elsewhere\"")).unwrap();
    for client in [&mut first, &mut second] {
        assert_eq!(status(client, "/new", by).await, 404, "the next request on the same connection");
    }
    socket.send(Message::text("gone")).await.unwrap();
    let said = soon(socket.next()).await.unwrap().unwrap();
    assert!(matches!(said, Message::Close(Some(frame)) if u16::from(frame.code) == 1008), "its route is gone");
}

/// Roles are bits inside: a set of them that outlived its table would grant what the same bit means in the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn roles_that_are_reordered_and_renamed_mean_what_they_are_called() {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), Issuer::es256());
    bearer::write(folder.path(), &[("one", &issuer)]);
    let file = |roles: &str, admin: &str, staff: &str, map: &str| {
        let rules = [("admin", admin), ("staff", staff)].map(|(path, role)| {
            let path = format!("/only/{path}");
            route(&path[1..], &path, &format!("{{ roles = [\"{role}\"] }}"), "app")
                + "accept = [\"session\", \"token\"]\n"
        });
        let text =
            shipped("memory").replace("[\"admin\", \"staff\"]", roles).replace("{ roles = [\"admin\"] }", "\"public\"");
        let table = bearer::table("jwks = \"keys.json\"").replace("\"eng-admins\" = \"admin\"", map);
        format!("{text}\n{table}{}", rules.concat())
    };
    let clock = Arc::new(TestClock::at(NOW));
    let running =
        run_with(folder, &file("[\"admin\", \"staff\"]", "admin", "staff", "x = \"staff\""), clock.clone(), None);
    let cookie = cookie_of(&running, somebody(&["staff"]), &*clock).await;
    let token = format!("Bearer {}", bearer::token(&issuer, "one", &*clock, r#","realm":{"roles":["x"]}"#));
    let mut clients = Client::both(running.port()).await;
    let rights = async |clients: &mut [Client; 2], told: &str, expected: [u16; 2]| {
        for by in [("cookie", cookie.as_str()), ("authorization", token.as_str())] {
            // Twice: what is remembered counts as well.
            for client in clients.iter_mut() {
                for (path, expected) in ["/only/admin", "/only/staff"].into_iter().zip(expected) {
                    for _ in 0..2 {
                        assert_eq!(status(client, path, by).await, expected, "{told}: {path} by {}", by.0);
                    }
                }
            }
        }
    };
    rights(&mut clients, "as it began", [403, 200]).await;
    running.reload(&file("[\"staff\", \"admin\"]", "admin", "staff", "x = \"staff\"")).unwrap();
    rights(&mut clients, "reordered", [403, 200]).await;
    let groups = text(&mut clients[0], "/only/staff", ("cookie", cookie.as_str())).await;
    assert!(groups.contains("x-forwarded-groups: staff\n"), "{groups}");
    running.reload(&file("[\"boss\", \"staff\"]", "boss", "staff", "x = \"staff\"")).unwrap();
    rights(&mut clients, "the other one renamed", [403, 200]).await;
    running.reload(&file("[\"staff\", \"clerk\"]", "staff", "clerk", "x = \"staff\"")).unwrap();
    rights(&mut clients, "asked for elsewhere", [200, 403]).await;
    running.reload(&file("[\"boss\", \"clerk\"]", "boss", "clerk", "x = \"clerk\"")).unwrap();
    assert_eq!(
        status(&mut clients[0], "/only/staff", ("cookie", cookie.as_str())).await,
        403,
        "nobody holds what is not declared"
    );
    assert_eq!(
        status(&mut clients[0], "/only/staff", ("authorization", token.as_str())).await,
        200,
        "the map is the new one"
    );
    running.reload(&file("[\"admin\", \"staff\"]", "admin", "staff", "x = \"staff\"")).unwrap();
    rights(&mut clients, "as it began, again", [403, 200]).await;
}

/// By whom something is held open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Session,
    Token,
    Nobody,
}

/// A file that allows it no more ends it in the way that any end does; one that does spares it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_open_is_judged_by_the_new_file() {
    let streaming = Streaming::start();
    let (folder, issuer) = (tempfile::tempdir().unwrap(), Issuer::es256());
    bearer::write(folder.path(), &[("one", &issuer)]);
    let clock = Arc::new(TestClock::at(NOW));
    let routes = streaming.routes("[\"session\", \"token\"]");
    let open = routes.replace("-role\"", "-free\"").replace("/role\"", "/free\"");
    let open = open.split("[[route]]").filter(|part| part.contains("-free")).map(|part| {
        let access = format!("access = {}", between(part, "access = ", "\n"));
        format!("[[route]]{}", part.replace(&access, "access = \"public\""))
    });
    let table = bearer::table("jwks = \"keys.json\"");
    let file = format!("{}\n{table}{routes}{}", shipped("memory"), open.collect::<String>());
    let running = run_with(folder, &file, clock.clone(), None);
    let cookie = cookie_of(&running, somebody(&["admin"]), &*clock).await;
    let more = r#","realm":{"roles":["eng-admins"]}"#;
    let token = format!("Bearer {}", bearer::token(&issuer, "one", &*clock, more));
    let header = |by| match by {
        By::Session => ("cookie", cookie.as_str()),
        By::Token => ("authorization", token.as_str()),
        By::Nobody => NOBODY,
    };
    let kept = |by: By, kind: Kind| by != By::Nobody || kind != Kind::Poll;
    let all = async |base: &str, by: By| {
        let mut held = Vec::new();
        for kind in KINDS.into_iter().filter(|kind| kept(by, *kind)) {
            held.push(streaming.open(kind, running.port(), base, header(by)).await);
        }
        held
    };
    let (mut streams, mut polls) = (0, 0);
    for (by, base, from, to, code) in [
        (By::Session, "/any", "\"authenticated\"", "{ roles = [\"staff\"] }", 1008),
        (By::Token, "/any", "\"authenticated\"", "{ roles = [\"staff\"] }", 1008),
        (By::Session, "/role", "{ roles = [\"admin\"] }", "{ roles = [\"staff\"] }", 4401),
        (By::Token, "/role", "{ roles = [\"admin\"] }", "{ roles = [\"staff\"] }", 4401),
        (By::Session, "/any", "[\"session\", \"token\"]", "[\"token\"]", 1008),
        (By::Token, "/any", "[\"session\", \"token\"]", "[\"session\"]", 1008),
        (By::Token, "/any", "audience = \"gateway\"", "audience = \"another\"", 1008),
        (By::Token, "/any", "\"eng-admins\" = \"admin\"", "\"eng-admins\" = \"staff\"", 1008),
        (By::Session, "/any", "path = \"/any\"", "path = \"/elsewhere\"", 1008),
        (By::Nobody, "/free", "\"public\"", "\"authenticated\"", 4401),
    ] {
        let mut held = all(base, by).await;
        // Read again as it is, and with what does not concern them: roles in another order, and one more.
        running.reload(&file).unwrap();
        running.reload(&file.replace("[\"admin\", \"staff\"]", "[\"more\", \"staff\", \"admin\"]")).unwrap();
        for one in &mut held {
            for _ in 0..3 {
                assert_eq!(one.next().await, None, "{:?} by {by:?} goes on", one.kind);
            }
        }
        // Only what stands in the routes of the streams, and in the issuer's table.
        let (shipped, rest) = file.split_at(shipped("memory").len());
        // What covers their paths besides, `/`, is not to be what lets them stay.
        let shipped = shipped.replace("path     = \"/\"", "path     = \"/app\"");
        running.reload(&format!("{shipped}{}", rest.replace(from, to))).unwrap();
        for one in held {
            let kind = one.kind;
            // gRPC calls have no route of their own under what is renamed.
            if to == "path = \"/elsewhere\"" && kind == Kind::Call {
                continue;
            }
            let code = if kind == Kind::Call { 1008 } else { code };
            assert_eq!(one.end().await.0, End::of(kind, code), "{kind:?} by {by:?}: {from} is {to}");
            match kind {
                // Recorded when it begins.
                Kind::Socket(_) => {}
                Kind::Poll => polls += 1,
                Kind::Events(_) | Kind::Download(_) | Kind::Call => streams += 1,
            }
        }
        running.reload(&file).unwrap();
    }
    let recorded = |what: &str| running.lines.0.lock().unwrap().iter().filter(|line| line.contains(what)).count();
    eventually("they are recorded as what they were", async || {
        let recorded = ["\"body\":\"no_longer_allowed\"", "\"reason\":\"no_longer_allowed\""].map(recorded);
        recorded == [streams, polls]
    })
    .await;
    assert_eq!(recorded("session_ended") + recorded("_revoked"), 0, "no session ended, and no token");
    // A token's life goes on being its own.
    let held = streaming.open(Kind::Socket(Version::HTTP_11), running.port(), "/any", header(By::Token)).await;
    running.reload(&file).unwrap();
    clock.advance(Duration::from_secs(100));
    assert_eq!(held.end().await.0, End::Closed(1008));
}

#[test]
fn what_only_a_start_can_change_refuses_the_whole_file() {
    let file =
        shipped("memory") + "[signing]\nissuer = \"https://gateway.example\"\n[limits]\nheader_timeout = \"50s\"\n";
    let running = run_text(tempfile::tempdir().unwrap(), &file);
    let other = file.replace("path     = \"/public\"", "path     = \"/other\"");
    for (from, to, key) in [
        ("127.0.0.1:0", "127.0.0.1:1", "server.listen"),
        ("[server]\n", "[server]\nworkers = 7\n", "server.workers"),
        ("[server]\n", "[server]\nadmin = \"127.0.0.1:0\"\n", "server.admin"),
        ("[server]\n", "[server]\nredirect_http = \"127.0.0.1:0\"\n", "server.redirect_http"),
        (
            "[server]\n",
            "[server]\nproxy_protocol = true\ntrusted_proxies = [\"10.0.0.0/8\"]\n",
            "server.proxy_protocol",
        ),
        ("\"memory\"", "\"embedded:data\"", "session.store"),
        ("[session]\n", "[session]\ncookie = \"__Host-other\"\n", "session.cookie"),
        ("[session]\n", "[session]\nmode = \"jwt\"\n", "session.mode"),
        ("[session]\n", "[session]\nmax_sessions = 3\n", "session.max_sessions"),
        ("[session]\n", "[session]\ncache_entries = 3000\n", "session.cache_entries"),
        ("\"30m\"", "\"31m\"", "session.idle_timeout"),
        ("\"12h\"", "\"13h\"", "session.max_age"),
        ("\"users.toml\"", "\"people.toml\"", "login.local.users"),
        ("\"users.toml\"", "\"users.toml\"\nargon2_passes = 3", "login.local.argon2_passes"),
        ("https://gateway.example", "https://other.example", "signing.issuer"),
        ("\"50s\"", "\"51s\"", "limits.header_timeout"),
        ("[limits]\n", "[limits]\nstreams = 7\n", "limits.streams"),
        ("[limits]\n", "[log]\nformat = \"text\"\n[limits]\n", "log.format"),
    ] {
        assert!(file.contains(from), "{from}");
        assert_eq!(restart_keys(running.reload(&other.replacen(from, to, 1))), [key]);
        assert_eq!(running.curl("/public", &[]).status, 200, "{key}: the whole file");
    }
    let two = other.replace("127.0.0.1:0", "127.0.0.1:1").replace("\"memory\"", "\"embedded:data\"");
    let error = running.reload(&two).unwrap_err();
    assert_eq!(error.to_string(), "needs a restart: server.listen, session.store");
    assert_eq!(running.curl("/public", &[]).status, 200);
    running.reload(&other).unwrap();
    assert_eq!(running.curl("/public", &[]).status, 401);
    let lines = running.lines.0.lock().unwrap().join("\n");
    assert_eq!(lines.matches("\"config_refused\"").count(), 19, "{lines}");
    assert_eq!(lines.matches("\"config_reloaded\"").count(), 1, "{lines}");
}

/// What is read beside the file may be missing: then too everything stays.
#[test]
fn a_file_that_names_what_is_not_there_changes_nothing() {
    let file = shipped("memory");
    let running = run_text(tempfile::tempdir().unwrap(), &file);
    let other = file.replace("path     = \"/public\"", "path     = \"/other\"");
    let secure = "[upstream.secure]\nservers = [\"https://127.0.0.1:9\"]\n[upstream.secure.tls]\nca = \"none.pem\"\n";
    let pair = "[[tls.also]]\ncertificate = \"none.pem\"\nprivate_key = \"none.key\"\n";
    let provider = "[login.oidc.corp]\nissuer = \"https://id.example\"\nclient_id = \"x\"\nclient_secret = { file = \"none\" }\nuser_prefix = \"corp:\"\n";
    for (more, told) in [
        (secure.to_owned(), "upstream.secure.tls"),
        (bearer::table("jwks = \"none.json\""), "token: keys of https://id.example"),
        (pair.to_owned(), "none.pem: cannot be read"),
        (provider.to_owned(), "login.oidc.corp"),
    ] {
        let error = running.reload(&format!("{other}\n{more}")).unwrap_err();
        assert!(matches!(error, ReloadError::Start(_)) && error.to_string().contains(told), "{error}");
        assert_eq!(running.curl("/public", &[]).status, 200, "{told}");
        assert_eq!(running.curl("/other", &[]).status, 401, "{told}");
    }
}

/// Counts the connections it is asked over.
fn counting(name: &'static str) -> (Application, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let application = Application::on_streams(move |stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        crate::wire::serve(stream, Arc::new(move |_| async move { Response::new(whole(name)) }), false)
    });
    (application, connections)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_upstream_that_changed_is_left_and_one_that_did_not_keeps_its_connections() {
    let ((left, _), (taken, _), (kept, connections)) = (counting("left"), counting("taken"), counting("kept"));
    let file = |port| {
        let text = shipped("memory").replace("[server]\n", "[server]\nworkers = 1\n");
        let upstreams = upstream("moved", port) + &upstream("kept", kept.port);
        format!(
            "{text}\n{upstreams}{}{}",
            route("moved", "/moved", "\"public\"", "moved"),
            route("kept", "/kept", "\"public\"", "kept")
        )
    };
    let running = run_text(tempfile::tempdir().unwrap(), &file(left.port));
    let mut client = Client::One(one(running.port()).await);
    for (port, expected) in [(left.port, "left"), (taken.port, "taken"), (left.port, "left")] {
        running.reload(&file(port)).unwrap();
        assert_eq!(text(&mut client, "/moved", NOBODY).await, expected);
        assert_eq!(text(&mut client, "/kept", NOBODY).await, "kept");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

/// What belongs to one configuration ends with it: nobody asks servers for their health that are in the file no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn health_checks_end_with_the_file_that_asked_for_them() {
    let ((gone, asked_gone), (stays, asked)) = (counting("gone"), counting("stays"));
    let checked = |name: &str, port| {
        let health = format!("[upstream.{name}.health]\npath = \"/\"\ninterval = \"20ms\"\n");
        upstream(name, port) + &health
    };
    let file = format!("{}\n{}", shipped("memory"), checked("stays", stays.port));
    let both = format!("{file}{}", checked("gone", gone.port));
    let running = run_text(tempfile::tempdir().unwrap(), &both);
    let more = async |counted: &AtomicUsize| {
        let before = counted.load(Ordering::SeqCst);
        eventually("it is asked", async || counted.load(Ordering::SeqCst) >= before + 5).await;
    };
    more(&asked_gone).await;
    running.reload(&file).unwrap();
    // One may be under way.
    more(&asked).await;
    let before = asked_gone.load(Ordering::SeqCst);
    more(&asked).await;
    assert_eq!(asked_gone.load(Ordering::SeqCst), before);
    // And there is one of each, however often the file was read.
    for _ in 0..20 {
        running.reload(&both).unwrap();
    }
    more(&asked_gone).await;
    let (first, second) = (asked.load(Ordering::SeqCst), asked_gone.load(Ordering::SeqCst));
    more(&asked).await;
    more(&asked).await;
    let (first, second) = (asked.load(Ordering::SeqCst) - first, asked_gone.load(Ordering::SeqCst) - second);
    assert!(second <= 2 * first + 2, "{second} beside {first}");
}

/// Nobody wins fresh guesses, and no token that was bad is less so.
#[test]
fn a_reload_forgives_nobody() {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), Issuer::es256());
    bearer::write(folder.path(), &[("one", &issuer)]);
    let file = format!("{}\n{}{}", shipped("memory"), bearer::table("jwks = \"keys.json\""), bearer::API);
    let clock = Arc::new(TestClock::at(NOW));
    let running = run_with(folder, &file, clock.clone(), None);
    let guess = || running.sign_in_as("demo", "wrong-guess").status;
    let mut guesses = (0..40).map(|_| guess()).skip_while(|status| *status == 401);
    assert_eq!(guesses.next(), Some(429));
    let another = Issuer::es256();
    let forged = |n: usize| {
        let forged = bearer::token(&another, "one", &*clock, &format!(r#","n":{n}"#));
        running.curl("/api", &["-H", &format!("Authorization: Bearer {forged}")]).status
    };
    let mut forgeries = (0..60).map(forged).skip_while(|status| *status == 401);
    assert_eq!(forgeries.next(), Some(429));
    running.reload(&file.replace("\"/public\"", "\"/open\"")).unwrap();
    assert_eq!((guess(), forged(100)), (429, 429));
    assert_eq!(running.curl("/open", &[]).status, 200, "it was read");
}

/// Ended is ended, whatever is read when.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_session_that_was_ended_stays_so_and_the_others_stay_signed_in() {
    let file = shipped("memory");
    let running = run_text(tempfile::tempdir().unwrap(), &file);
    let sessions = running.gateway.sessions();
    let [ended, other] = ["demo", "demo"].map(signed_in);
    let ended = cookie_of(&running, ended, &SystemClock).await;
    let mut client = Client::One(one(running.port()).await);
    assert_eq!(status(&mut client, "/", ("cookie", ended.as_str())).await, 200);
    running.reload(&file).unwrap();
    let all = Revocation::User { user: UserKey::of("local", "demo"), except: None };
    soon(sessions.revoke(all, Wait::Fully, SystemClock.now())).await.unwrap();
    assert_eq!(status(&mut client, "/", ("cookie", ended.as_str())).await, 401);
    let other = cookie_of(&running, other, &SystemClock).await;
    for _ in 0..3 {
        running.reload(&file).unwrap();
        assert_eq!(status(&mut client, "/", ("cookie", ended.as_str())).await, 401);
        assert_eq!(status(&mut client, "/", ("cookie", other.as_str())).await, 200);
    }
}

/// The application inside is started when it is asked for, and no second one.
#[test]
fn the_application_inside_comes_with_the_file_that_asks_for_it() {
    let other = Application::start(|_| async { Response::new(whole("another")) });
    let [inside, outside] = [shipped("memory"), text_before(other.port, "", "")];
    let running = run_text(tempfile::tempdir().unwrap(), &outside);
    for _ in 0..3 {
        assert_eq!(running.curl("/public", &[]).body, "another");
        running.reload(&inside).unwrap();
        assert!(running.curl("/public", &[]).body.starts_with("GET /public"));
        running.reload(&outside).unwrap();
    }
}

/// The providers of the new file are those that are offered.
#[test]
fn a_place_to_sign_in_is_added_and_taken_away() {
    let file = shipped("memory");
    let running = run_text(tempfile::tempdir().unwrap(), &file);
    std::fs::write(running.folder.path().join("secret"), "a secret").unwrap();
    let provider = "[login.oidc.corp]\ntitle = \"Example Corp\"\nissuer = \"https://id.example\"\nclient_id = \"x\"\n\
                    client_secret = { file = \"secret\" }\nuser_prefix = \"corp:\"\n";
    let offered = || running.curl("/.portcullis/login", &[]).body.contains("Example Corp");
    assert!(!offered());
    running.reload(&format!("{file}\n{provider}")).unwrap();
    assert!(offered());
    running.reload(&file).unwrap();
    assert!(!offered());
}

/// What browsers carry themselves is read with the same keys.
#[test]
fn sessions_in_tokens_go_on_and_mean_what_roles_are_called() {
    let file = shipped("memory").replace("[session]\n", "[session]\nmode = \"jwt\"\n");
    let running = run_text(tempfile::tempdir().unwrap(), &file);
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    let roles = |expected: &str| {
        let said = running.curl("/", &[]);
        assert_eq!(said.status, 200, "{}", said.head);
        assert!(said.body.contains(&format!("x-forwarded-groups: {expected}\n")), "{expected} in {}", said.body);
    };
    roles("admin,staff");
    for (declared, expected) in [
        ("[\"staff\", \"more\", \"admin\"]", "staff,admin"),
        ("[\"more\", \"admin\"]", "admin"),
        ("[\"admin\", \"staff\"]", "admin,staff"),
    ] {
        running.reload(&file.replace("[\"admin\", \"staff\"]", declared)).unwrap();
        roles(expected);
        roles(expected);
    }
}

/// The next handshake is shown what the new file names; a pair that is not one leaves all as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn certificates_are_exchanged_under_connections_that_stand() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    for name in ["one", "two"] {
        pair(folder.path(), name, now - DAY, now + DAY);
    }
    let file = |certificate: &str, key: &str| {
        let tls = format!("[tls]\ncertificate = \"{certificate}.pem\"\nprivate_key = \"{key}.key\"");
        shipped("memory").replace("[tls]\nself_signed = true", &tls)
    };
    let running = run_text(folder, &file("one", "one"));
    let port = running.port();
    let shown = async || connect(port, "h2").await.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let mut client = Client::One(one(port).await);
    let first = shown().await;
    running.reload(&file("two", "two")).unwrap();
    let second = shown().await;
    assert_ne!(first, second);
    let error = running.reload(&file("one", "two").replace("\"/public\"", "\"/other\"")).unwrap_err();
    assert!(error.to_string().contains("does not fit"), "{error}");
    assert_eq!(shown().await, second);
    assert_eq!(status(&mut client, "/public", NOBODY).await, 200, "over the connection of the first");
    running.reload(&file("one", "one")).unwrap();
    assert_eq!(shown().await, first);
}

fn sample(running: &Running, name: &str) -> u64 {
    let address = format!("http://127.0.0.1:{}/metrics", running.gateway.admin_address().unwrap().port());
    let said = Command::new("curl").args(["-s", "--max-time", "20", &address]).output().unwrap();
    let metrics = String::from_utf8(said.stdout).unwrap();
    let mut lines = metrics.lines().filter_map(|line| line.rsplit_once(' '));
    lines.find(|(other, _)| *other == name).map_or(0, |(_, value)| value.parse().unwrap())
}

#[test]
fn what_was_counted_goes_on_by_its_name() {
    let file = shipped("memory").replace("[server]\n", "[server]\nadmin = \"127.0.0.1:0\"\n");
    let running = run_text(tempfile::tempdir().unwrap(), &file);
    let counted = |route: &str| {
        sample(&running, &format!("portcullis_requests_total{{route=\"{route}\",decision=\"forward\",status=\"2xx\"}}"))
    };
    let answered = || sample(&running, "portcullis_upstream_requests_total{upstream=\"app\",outcome=\"answered\"}");
    assert_eq!(running.curl("/public", &[]).status, 200);
    assert_eq!((counted("public"), answered()), (1, 1));
    // In another place among the routes, with another upstream of that name.
    let other = file.replace("[upstream.app]\n", "[upstream.app]\nconnect_timeout = \"3s\"\n");
    let first = route("first", "/first", "\"public\"", "app") + "[[route]]";
    running.reload(&other.replacen("[[route]]", &first, 1)).unwrap();
    assert_eq!(running.curl("/public", &[]).status, 200);
    assert_eq!((counted("public"), answered()), (2, 2));
    restart_keys(running.reload(&file.replace("\"30m\"", "\"31m\"")));
    assert_eq!(sample(&running, "portcullis_config_reloads_total{outcome=\"done\"}"), 1);
    assert_eq!(sample(&running, "portcullis_config_reloads_total{outcome=\"refused\"}"), 1);
    assert!(sample(&running, "portcullis_config_last_read_timestamp_seconds") > 1_700_000_000);
}

/// A running program, and its file.
struct Program {
    service: Service,
    file: std::path::PathBuf,
    port: u16,
}

impl Program {
    fn start(folder: &Path, text: &str) -> Program {
        let file = folder.join("gateway.toml");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let service = Service::start(command.arg("--config").arg(&file).current_dir("/"));
        let port = service.says_port("https://localhost:");
        Program { service, file, port }
    }

    /// Write the file, send the signal, and wait for what is said.
    fn reload(&self, text: &str, said: &str) -> String {
        std::fs::write(&self.file, text).unwrap();
        self.service.hang_up();
        self.service.says(said)
    }

    fn count(&self, what: &str) -> usize {
        std::fs::read_dir(format!("/proc/{}/{what}", self.service.id())).unwrap().count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_hangup_makes_the_program_read_its_file_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = shipped("memory");
    let program = tokio::task::block_in_place(|| Program::start(folder.path(), &file));
    let mut clients = Client::both(program.port).await;
    let other = file.replace("path     = \"/public\"", "path     = \"/other\"");
    let reload = |text: &str, said: &str| tokio::task::block_in_place(|| program.reload(text, said));
    let mut open = async |path: &str| {
        for client in &mut clients {
            for asked in ["/public", "/other"] {
                let expected = if asked == path { 200 } else { 401 };
                assert_eq!(status(client, asked, NOBODY).await, expected, "{asked}, where {path} is open");
            }
        }
    };
    open("/public").await;
    assert_eq!(reload(&other, "portcullis: configuration "), "reloaded");
    open("/other").await;
    // Every mistake, with its line and key; nothing of the rest.
    let wrong = file.replace("\"public\"\n", "\"everybody\"\n").replace("\"30m\"", "\"soon\"");
    assert!(reload(&wrong, "gateway.toml:17: session.idle_timeout: ").contains("soon"));
    assert!(
        tokio::task::block_in_place(|| program.service.says("gateway.toml:46: route[2].access: "))
            .contains("everybody")
    );
    let said = tokio::task::block_in_place(|| program.service.says("not reloaded, everything stays as it was: "));
    assert_eq!(said, "2 problems in gateway.toml");
    open("/other").await;
    let said = reload(&file.replace("\"memory\"", "\"embedded:data\""), "everything stays as it was: ");
    assert_eq!(said, "needs a restart: session.store");
    open("/other").await;
    assert_eq!(reload(&file, "portcullis: configuration "), "reloaded");
    open("/public").await;
    std::fs::remove_file(&program.file).unwrap();
    program.service.hang_up();
    let said = tokio::task::block_in_place(|| program.service.says("everything stays as it was: "));
    assert!(said.contains("gateway.toml: No such file"), "{said}");
    open("/public").await;
}

/// Over both protocols requests go on while the file is read again and again, and neither a request nor a descriptor is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_reloads_under_load_lose_no_request_and_leak_nothing() {
    const RELOADS: usize = 60;
    let (one_application, _) = counting("one");
    let (other_application, _) = counting("other");
    let folder = tempfile::tempdir().unwrap();
    let file = |turn: usize| {
        let port = if turn.is_multiple_of(2) { one_application.port } else { other_application.port };
        let health = "[upstream.load.health]\npath = \"/\"\ninterval = \"100ms\"\n";
        let text = shipped("memory").replace("[server]\n", "[server]\nworkers = 2\n");
        let roles = if turn.is_multiple_of(3) { "[\"admin\", \"staff\"]" } else { "[\"staff\", \"admin\"]" };
        let text = text.replace("[\"admin\", \"staff\"]", roles);
        format!("{text}\n{}{health}{}", upstream("load", port), route("load", "/load", "\"public\"", "load"))
    };
    let program = tokio::task::block_in_place(|| Program::start(folder.path(), &file(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let mut asking = Vec::new();
    for n in 0..6 {
        let (stop, port) = (stop.clone(), program.port);
        asking.push(tokio::spawn(async move {
            let mut client = if n % 2 == 0 { Client::One(one(port).await) } else { Client::Two(two(port).await) };
            let mut answers = 0;
            while !stop.load(Ordering::Relaxed) {
                let answer = client.ask(Request::get("/"), "/load", whole("")).await;
                assert_eq!(answer.status(), StatusCode::OK);
                let body = soon(answer.into_body().collect()).await.unwrap().to_bytes();
                assert!(&body[..] == b"one" || &body[..] == b"other", "{body:?}");
                answers += 1;
            }
            answers
        }));
    }
    let turn = |turn: usize| {
        let said = tokio::task::block_in_place(|| program.reload(&file(turn), "portcullis: configuration "));
        assert_eq!(said, "reloaded");
    };
    (1..=6).for_each(turn);
    let counts = || (program.count("task"), program.count("fd"));
    let (threads, descriptors) = counts();
    (7..=RELOADS).for_each(turn);
    stop.store(true, Ordering::Relaxed);
    let mut answers = 0;
    for asked in asking {
        answers += soon(asked).await.unwrap();
    }
    assert!(answers > RELOADS, "requests went on meanwhile: {answers}");
    let until = Instant::now() + Duration::from_secs(20);
    while counts().0 > threads || counts().1 > descriptors {
        assert!(Instant::now() < until, "{:?} of {threads} threads and {descriptors} descriptors", counts());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
