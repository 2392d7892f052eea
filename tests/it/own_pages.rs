//! The gateway's own pages as requests for them come and go: bodies that do not come, and clients that do not wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{Request, StatusCode};
use portcullis::clock::{Clock, SystemClock, TestClock, Timestamp};
use portcullis::session::UserKey;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::block_in_place;

use crate::exchange::Fragile;
use crate::oidc_sessions::{logout_token, sid_of};
use crate::own_tokens::{self, ACCESS, REFRESH};
use crate::providers::{Provider, section, text};
use crate::sessions::Faulty;
use crate::shared_store::eventually;
use crate::support::{Running, Said, between, run_text, run_with, shipped};
use crate::wire::{Client, connect, fed, raw, soon, two, whole};

/// The shipped configuration with this under `[limits]`.
fn limited(limits: &str) -> Running {
    run_text(tempfile::tempdir().unwrap(), &format!("{}\n[limits]\n{limits}\n", shipped("memory")))
}

/// What reads a body.
const FORMS: [&str; 3] = ["login", "logout", "sessions/end"];

/// What the gateway says to this, and then closes.
async fn told(running: &Running, head: &str, body: &str) -> (u16, String) {
    let request = format!("{head}Host: localhost\r\nAccept: application/json\r\n{body}");
    let said = raw(running.port(), request.as_bytes(), "").await;
    (said.split(' ').nth(1).unwrap_or_default().parse().unwrap_or_else(|_| panic!("{said}")), said)
}

/// attacks: policy 12. As on a route: 408, 400 and 413, each within its bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_form_that_stops_coming_breaks_off_or_is_too_large_is_told_so() {
    let running = limited("body_timeout = \"300ms\"");
    let (chunked, piece) = ("Transfer-Encoding: chunked\r\n\r\n", "x".repeat(16 * 1024 + 1));
    for page in FORMS {
        for (body, status, code) in [
            ("Content-Length: 5\r\n\r\n".to_owned(), 408, "body_timeout"),
            ("Content-Length: 5\r\n\r\nuser".to_owned(), 408, "body_timeout"),
            (format!("{chunked}4\r\nuser\r\n"), 408, "body_timeout"),
            (format!("{chunked}zz\r\n"), 400, "body_broken"),
            (format!("{chunked}4\r\nuser\r\nzz\r\n"), 400, "body_broken"),
            ("Content-Length: 16385\r\n\r\n".to_owned(), 413, "too_large"),
            (format!("{chunked}4001\r\n{piece}\r\n"), 413, "too_large"),
        ] {
            let (said, answer) = told(&running, &format!("POST /.portcullis/{page} HTTP/1.1\r\n"), &body).await;
            assert_eq!(said, status, "{page}: {answer}");
            assert!(answer.contains(&format!("\"error\":\"{code}\"")), "{page}: {answer}");
        }
        let [_, mut two] = Client::both(running.port()).await;
        for part in [None, Some("user=")] {
            let (mut feed, body) = fed();
            if let Some(part) = part {
                feed.send_data(Bytes::from_static(part.as_bytes())).await.unwrap();
            }
            let answer = two.ask(Request::post("/"), &format!("/.portcullis/{page}"), body).await;
            assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT, "{page}");
        }
        // As much as may come.
        let answer = two.ask(Request::post("/"), &format!("/.portcullis/{page}"), whole(vec![b'x'; 16 * 1024])).await;
        assert!(!matches!(answer.status().as_u16(), 408 | 413), "{page}: {}", answer.status());
    }
}

/// Nothing of a body that nobody asked for is waited for, nor asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_page_that_wants_no_body_answers_without_one() {
    let running = limited("body_timeout = \"59m\"");
    for (method, page, status) in [
        ("GET", "assets/portcullis.css", 200),
        ("POST", "assets/portcullis.css", 405),
        ("GET", "nope", 404),
        ("POST", "nope", 404),
        ("GET", "login", 200),
        ("PUT", "login", 405),
        ("GET", "whoami", 401),
        ("DELETE", "sessions/end", 405),
        ("POST", "oidc/nobody/backchannel-log", 404),
    ] {
        let head = format!("{method} /.portcullis/{page} HTTP/1.1\r\n");
        for body in ["Content-Length: 5\r\n\r\n", "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"] {
            let (said, answer) = told(&running, &head, body).await;
            assert_eq!(said, status, "{method} {page}: {answer}");
        }
        let [_, mut two] = Client::both(running.port()).await;
        let (_feed, body) = fed();
        let method = http::Method::from_bytes(method.as_bytes()).unwrap();
        let request = Request::builder().method(method).header("accept", "application/json");
        let answer = soon(two.ask(request, &format!("/.portcullis/{page}"), body)).await;
        assert_eq!(answer.status().as_u16(), status, "{page} over HTTP/2");
    }
}

/// The cookies of this test's browser, as it sends them.
fn cookies(running: &Running) -> String {
    let jar = running.jar();
    let fields = jar.lines().map(|line| line.split('\t').skip(5).collect::<Vec<_>>());
    fields.filter(|pair| pair.len() == 2).map(|pair| pair.join("=")).collect::<Vec<_>>().join("; ")
}

fn fields(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

/// The form of a sign-in, as a new browser sends it.
pub fn sign_in_form(running: &Running, password: &str) -> (String, String) {
    std::fs::write(running.folder.path().join("jar"), "").unwrap();
    let page = running.curl("/.portcullis/login", &[]);
    let state = between(&page.body, "name=\"state\" value=\"", "\"");
    (cookies(running), fields(&[("user", "demo"), ("state", state), ("password", password)]))
}

/// The lines of the audit, each with its event, subject and reason.
pub fn audited(running: &Running) -> Vec<[String; 3]> {
    let lines = running.lines.0.lock().unwrap();
    let lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told =
        |line: Value| ["event", "subject", "reason"].map(|key| line[key].as_str().unwrap_or_default().to_owned());
    lines.filter(|line| line["kind"] == "audit").map(told).collect()
}

/// Requests whose client did not wait for the answer.
fn left(running: &Running) -> usize {
    running.lines.0.lock().unwrap().iter().filter(|line| line.contains("\"status\":499")).count()
}

/// A clock that stands still and tells when a worker reads it.
struct Telling(TestClock, mpsc::UnboundedSender<()>);

impl Clock for Telling {
    fn now(&self) -> Timestamp {
        if std::thread::current().name().is_some_and(|name| name.starts_with("worker-")) {
            self.1.send(()).unwrap();
        }
        self.0.now()
    }
}

/// Whoever closes each connection right behind a guess must not guess for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_wrong_password_counts_although_nobody_waited_for_the_answer() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let clock = Arc::new(Telling(TestClock::at(SystemClock.now()), tell));
    let running = run_with(tempfile::tempdir().unwrap(), &shipped("memory"), clock, None);
    let (cookies, form) = block_in_place(|| sign_in_form(&running, "wrong"));
    let request = format!(
        "POST /.portcullis/login HTTP/1.1\r\nHost: localhost\r\nCookie: {cookies}\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    for guess in 1..=10 {
        let mut stream = connect(running.port(), "http/1.1").await;
        while told.try_recv().is_ok() {}
        stream.write_all(request.as_bytes()).await.unwrap();
        // By the record, by the page, and by the throttle: the password is hashed next.
        for _ in 0..3 {
            soon(told.recv()).await.unwrap();
        }
        drop(stream);
        eventually("the guess is written down", async || audited(&running).len() == guess).await;
    }
    let wrong = ["sign_in_failed", "demo", "wrong_credentials"].map(str::to_owned);
    assert_eq!(audited(&running), vec![wrong; 10]);
    assert!(left(&running) > 0, "they leave before they are answered");
    let next = block_in_place(|| running.sign_in("/", "wrong"));
    assert_eq!(next.status, 429, "{}", next.body);
}

/// Longer than a test takes.
const LONG: &str = "59s";

/// A gateway over a store that can be held, and is waited for so long.
fn held(text: &str, wait: &str) -> (Arc<Faulty>, Running) {
    let store = Arc::new(Faulty::default());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "a secret: with + signs\n").unwrap();
    let text = format!("{text}\n[limits]\nstore_timeout = \"{wait}\"\n");
    (store.clone(), run_with(folder, &text, Arc::new(SystemClock), Some(store)))
}

/// Ask, and leave while the store is making the change. The gateway has seen it when this returns.
async fn leave((store, running): (&Faulty, &Running), asking: impl Future<Output = ()> + Send + 'static) {
    let before = left(running);
    store.hold_change();
    let asked = tokio::spawn(asking);
    soon(store.held()).await;
    asked.abort();
    eventually("the gateway sees it leave", async || left(running) > before).await;
}

/// Send a form to a page.
async fn send(mut client: Client, cookies: String, page: &'static str, form: String) {
    let request = Request::post("/").header("cookie", cookies);
    drop(client.try_ask(request, &format!("/.portcullis/{page}"), whole(form)).await);
    std::future::pending().await
}

/// Ask at the very address that the provider knows.
async fn ask_at(port: u16, line: String, cookies: String, form: String) {
    let mut stream = connect(port, "http/1.1").await;
    let head =
        format!("{line} HTTP/1.1\r\nHost: localhost:{port}\r\nCookie: {cookies}\r\nContent-Length: {}", form.len());
    stream.write_all(format!("{head}\r\n\r\n{form}").as_bytes()).await.unwrap();
    std::future::pending().await
}

/// How many sessions somebody has.
async fn sessions(running: &Running, user: UserKey) -> usize {
    running.gateway.sessions().list(user, SystemClock.now()).await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_changes_sessions_goes_to_its_end_although_nobody_waited_for_the_answer() {
    let (store, running) = held(&shipped("memory"), LONG);
    let demo = UserKey::of("local", "demo");
    let here = (&*store, &running);
    for protocol in 0..2 {
        let client = || async { Client::both(running.port()).await.into_iter().nth(protocol).unwrap() };
        let done = async |event: &str, reason: &str| {
            let line = [event, "demo", reason].map(str::to_owned);
            store.release();
            eventually(event, async || audited(&running).last() == Some(&line)).await;
        };
        let (cookies, form) = block_in_place(|| sign_in_form(&running, &running.password));
        leave(here, send(client().await, cookies, "login", form)).await;
        done("sign_in", "").await;
        assert_eq!(sessions(&running, demo).await, 1);

        assert_eq!(block_in_place(|| running.sign_in("/", &running.password)).status, 303);
        assert_eq!(sessions(&running, demo).await, 2);
        let (cookies, page) = block_in_place(|| (running.cookie(), running.curl("/.portcullis/sessions", &[])));
        let csrf = between(&page.body, "name=\"csrf\" value=\"", "\"");
        let form = fields(&[("csrf", csrf), ("handle", "others")]);
        leave(here, send(client().await, cookies.clone(), "sessions/end", form)).await;
        done("session_ended", "all_others").await;
        assert_eq!(sessions(&running, demo).await, 1);

        let form = fields(&[("csrf", csrf)]);
        leave(here, send(client().await, cookies, "logout", form)).await;
        done("sign_out", "").await;
        assert_eq!(sessions(&running, demo).await, 0);
    }
}

/// Nor does whoever begins and leaves pile up what the store has to answer. What changes nothing goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn so_much_is_changed_at_once_and_no_more() {
    let config = shipped("memory").replacen("[server]\n", "[server]\nworkers = 1\n", 1);
    let (store, running) = held(&config, LONG);
    assert_eq!(block_in_place(|| running.sign_in("/", &running.password)).status, 303);
    let (cookies, page) = block_in_place(|| (running.cookie(), running.curl("/.portcullis/sessions", &[])));
    let form = fields(&[("csrf", between(&page.body, "name=\"csrf\" value=\"", "\""))]);
    let ask = |path: &str, more: &[&str]| block_in_place(|| running.alone(path, &[more, &["-b", &cookies]].concat()));
    let sign_out = || ask("/.portcullis/logout", &["-d", &form, "-H", "accept: application/json"]);
    store.hold_changes(256);
    let mut asked = Vec::new();
    for client in [two(running.port()).await, two(running.port()).await, two(running.port()).await] {
        for _ in 0..86.min(256 - asked.len()) {
            asked.push(tokio::spawn(send(Client::Two(client.clone()), cookies.clone(), "logout", form.clone())));
        }
    }
    eventually("they all wait for the store", async || store.holds_all()).await;
    asked.iter().for_each(tokio::task::JoinHandle::abort);
    eventually("they left", async || left(&running) == 256).await;
    let said = sign_out();
    assert_eq!((said.status, said.header("retry-after").as_deref()), (503, Some("2")), "{}", said.body);
    assert!(said.body.contains("\"error\":\"busy\""), "{}", said.body);
    assert_eq!(audited(&running).len(), 1, "nothing was done but the sign-in");
    assert_eq!(ask("/", &[]).status, 200, "nobody was signed out");
    store.release_all();
    eventually("there is room again", async || sign_out().status != 503).await;
    assert_eq!(ask("/", &[]).status, 401);
}

/// The same where a provider has its say.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_provider_brings_about_goes_to_its_end_although_nobody_waited_for_the_answer() {
    let provider = Provider::start();
    let (store, running) = held(&text(&section("corp", &provider.issuer(), "frontchannel_logout = true")), LONG);
    block_in_place(|| provider.configure(&running, &json!({})));
    let alice = UserKey::of(&provider.issuer(), "alice");
    let (here, port) = ((&*store, &running), running.port());
    let done = async |event: &str, subject: &str, reason: &str, kept: usize| {
        let line = [event, subject, reason].map(str::to_owned);
        store.release();
        eventually(event, async || audited(&running).last() == Some(&line)).await;
        assert_eq!(sessions(&running, alice).await, kept, "{event}");
    };
    for round in 0..2 {
        let callback = block_in_place(|| {
            std::fs::write(running.folder.path().join("jar"), "").unwrap();
            let page = running.to_provider("/");
            running.answer(&page, "login=alice")
        });
        let line = format!("GET {}", callback.strip_prefix(&running.base()).unwrap());
        leave(here, ask_at(port, line, cookies(&running), String::new())).await;
        done("sign_in", "alice", "", 1).await;
        if round == 0 {
            let token = block_in_place(|| logout_token(&provider, &json!({ "sid": null }), ""));
            let line = "POST /.portcullis/oidc/corp/backchannel-logout".to_owned();
            leave(here, ask_at(port, line, String::new(), fields(&[("logout_token", &token)]))).await;
            done("sign_out", "alice", "backchannel", 0).await;
        } else {
            let sid = block_in_place(|| sid_of(&running, &provider));
            let query = fields(&[("iss", &provider.issuer()), ("sid", &sid)]);
            let line = format!("GET /.portcullis/oidc/corp/frontchannel-logout?{query}");
            leave(here, ask_at(port, line, String::new(), String::new())).await;
            done("sign_out", "alice", "frontchannel", 0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_gateways_stop_waits_for_what_nobody_else_waits_for() {
    let (store, running) = held(&shipped("memory"), LONG);
    let (cookies, form) = block_in_place(|| sign_in_form(&running, &running.password));
    let [client, _] = Client::both(running.port()).await;
    leave((&store, &running), send(client, cookies, "login", form)).await;
    let Running { gateway, lines, folder, .. } = running;
    let port = gateway.address().port();
    let stopping = tokio::task::spawn_blocking(move || gateway.stop());
    soon(async { while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {} }).await;
    assert!(!stopping.is_finished(), "it waits for the sign-in");
    store.release();
    soon(stopping).await.unwrap();
    let lines = lines.0.lock().unwrap().join("\n");
    assert!(lines.contains("\"event\":\"sign_in\""), "{lines}");
    drop(folder);
}

fn is_unfinished(running: &Running, said: &Said, [event, subject]: [&str; 2]) {
    assert_eq!((said.status, said.header("set-cookie")), (503, None), "{event}: {}", said.head);
    assert!(!said.body.contains("You are"), "it knows of nobody whether they are signed in: {}", said.body);
    let line = [event, subject, "store_unavailable"].map(str::to_owned);
    assert_eq!(audited(running).last(), Some(&line));
}

/// A store that does not say so may have done it all the same, later too.
#[test]
fn what_the_store_may_have_done_is_in_the_audit() {
    let (store, running) = held(&shipped("memory"), "100ms");
    let unfinished = |said: Said, event: &str, subject: &str| is_unfinished(&running, &said, [event, subject]);
    let post = |page: &str, fields: &str| {
        store.hold_change();
        running.curl(&format!("/.portcullis/{page}"), &["-d", fields])
    };
    let (_, form) = sign_in_form(&running, &running.password);
    unfinished(post("login", &form), "sign_in_unfinished", "demo");
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    let page = running.curl("/.portcullis/sessions", &[]);
    let csrf = between(&page.body, "name=\"csrf\" value=\"", "\"");
    let all = fields(&[("csrf", csrf), ("handle", "others")]);
    unfinished(post("sessions/end", &all), "session_end_unfinished", "demo");
    unfinished(post("logout", &fields(&[("csrf", csrf)])), "sign_out_unfinished", "demo");

    let provider = Provider::start();
    let (store, running) = held(&text(&section("corp", &provider.issuer(), "frontchannel_logout = true")), "100ms");
    provider.configure(&running, &json!({}));
    let unfinished = |said: Said, event: &str, subject: &str| is_unfinished(&running, &said, [event, subject]);
    let page = running.to_provider("/");
    let callback = running.answer(&page, "login=alice");
    store.hold_change();
    unfinished(running.visit(&callback, &[]), "sign_in_unfinished", "alice");
    std::fs::write(running.folder.path().join("jar"), "").unwrap();
    assert_eq!(running.sign_in_there("/", "alice").status, 303);
    let sid = sid_of(&running, &provider);
    let query = fields(&[("iss", &provider.issuer()), ("sid", &sid)]);
    store.hold_change();
    let said = running.alone(&format!("/.portcullis/oidc/corp/frontchannel-logout?{query}"), &[]);
    unfinished(said, "sign_out_unfinished", "alice");
    let token = fields(&[("logout_token", &logout_token(&provider, &json!({}), &sid))]);
    store.hold_change();
    let said = running.alone("/.portcullis/oidc/corp/backchannel-logout", &["-d", &token]);
    unfinished(said, "sign_out_unfinished", "alice");
}

#[test]
fn a_panic_in_a_sign_in_answers_500_and_hurts_nobody_else() {
    let clock = Arc::new(Fragile(AtomicU64::new(0)));
    let running = run_with(tempfile::tempdir().unwrap(), &shipped("memory"), clock.clone(), None);
    let (cookies, form) = sign_in_form(&running, &running.password);
    let send = || running.alone("/.portcullis/login", &["-b", &cookies, "-d", &form]);
    // The first reading times the record, the second is made by the page, the third by the throttle.
    clock.0.store(3, Ordering::SeqCst);
    let said = send();
    assert_eq!(said.status, 500, "{}", said.body);
    assert_eq!(clock.0.load(Ordering::SeqCst), 0, "it was the throttle's");
    assert_eq!(send().status, 303);
    assert_eq!(audited(&running), [["sign_in".to_owned(), "demo".to_owned(), String::new()]]);
}

/// A thief must not keep a session by leaving before the answer that ends it, nor go unseen.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_refresh_token_that_is_used_again_ends_its_session_although_nobody_waited() {
    let signing = "\n[signing]\nissuer = \"https://gateway.example\"\n";
    let (store, running) = held(&format!("{}{signing}", own_tokens::text("memory", "")), LONG);
    let port = running.port();
    let (first, access) = block_in_place(|| renewed_twice(&running));
    leave((&store, &running), ask_at(port, "GET /".to_owned(), format!("{REFRESH}={first}"), String::new())).await;
    let status = || block_in_place(|| own_tokens::with(&running, "/", &[(ACCESS, &access)], &[]).status);
    assert_eq!(status(), 200, "the store has not answered");
    store.release();
    eventually("it is over", async || status() == 401).await;
    let line = ["session_ended", "demo", "refresh_token_reused"].map(str::to_owned);
    eventually("it is in the audit", async || audited(&running).last() == Some(&line)).await;
}

/// The first refresh token of a new session, and the access token that came of it in the end.
fn renewed_twice(running: &Running) -> (String, String) {
    let (mut access, first) = own_tokens::signed_in(running);
    let mut last = first.clone();
    for _ in 0..2 {
        let said = own_tokens::with(running, "/", &[(REFRESH, &last)], &[]);
        (access, last) = (own_tokens::value(&said, ACCESS).unwrap(), own_tokens::value(&said, REFRESH).unwrap());
    }
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(own_tokens::handed(running, &last));
    (first, access)
}

/// Whose session may have ended is told as well.
#[test]
fn a_refresh_token_that_is_used_again_is_in_the_audit_although_the_store_does_not_answer() {
    let signing = "\n[signing]\nissuer = \"https://gateway.example\"\n";
    let (store, running) = held(&format!("{}{signing}", own_tokens::text("memory", "")), "100ms");
    let (first, _) = renewed_twice(&running);
    store.hold_change();
    assert_eq!(own_tokens::with(&running, "/", &[(REFRESH, &first)], &[]).status, 503);
    let line = ["session_end_unfinished", "demo", "refresh_token_reused"].map(str::to_owned);
    assert_eq!(audited(&running).last(), Some(&line));
}
