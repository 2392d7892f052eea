//! The file read again while the gateway runs: what is exchanged, what is refused, and what it disturbs – nobody.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use futures_util::{SinkExt, StreamExt};
use http::{Request, Response};
use http_body_util::BodyExt;
use portcullis::clock::{Clock, SystemClock};
use portcullis::session::NewSession;
use portcullis::startup::ReloadError;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::bearer;
use crate::certificates::{DAY, pair};
use crate::cost::demo;
use crate::options::{sockets, text_before};
use crate::shared_store::eventually;
use crate::support::{Running, run_text, shipped};
use crate::wire::{Application, Client, connect, fed, one, piece, soon, whole};

pub fn route(name: &str, path: &str, access: &str, upstream: &str) -> String {
    format!("[[route]]\nname = \"{name}\"\npath = \"{path}\"\naccess = {access}\nupstream = \"{upstream}\"\n")
}

pub fn upstream(name: &str, port: u16) -> String {
    format!("[upstream.{name}]\nservers = [\"http://127.0.0.1:{port}\"]\n")
}

pub async fn cookie_of(running: &Running, new: NewSession, clock: &dyn Clock) -> String {
    let begun = running.gateway.sessions().begin(new, None, clock.now()).await.unwrap();
    format!("__Host-portcullis={}", begun.cookie)
}

pub async fn status(client: &mut Client, path: &str, by: (&'static str, &str)) -> u16 {
    let answer = client.ask(Request::get("/").header(by.0, by.1), path, whole("")).await;
    let status = answer.status().as_u16();
    soon(answer.into_body().collect()).await.unwrap();
    status
}

pub async fn text(client: &mut Client, path: &str, by: (&'static str, &str)) -> String {
    let answer = client.ask(Request::get("/").header(by.0, by.1), path, whole("")).await;
    assert_eq!(answer.status(), 200, "{path}");
    String::from_utf8(soon(answer.into_body().collect()).await.unwrap().to_bytes().to_vec()).unwrap()
}

pub const NOBODY: (&str, &str) = ("x-none", "");

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
    let cookie = cookie_of(&running, demo(running.folder.path()), &SystemClock).await;
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
pub fn counting(name: &'static str) -> (Application, Arc<AtomicUsize>) {
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
