//! What attacks.md asks of a gateway line by line, where no other test holds the line: what shadows a header, what passes untouched,
//! what a sign-in must not do.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::liar::Liar;
use crate::oracle::{Seen, Witness};
use crate::providers::{gateway, parameter, section, text};
use crate::support::{Running, add_user, between, run, run_in, run_text, shipped};
use crate::upstreams::application;
use crate::wire::{Application, raw};

const PAGE: [&str; 2] = ["-H", "accept: text/html"];

/// Everything is public, the route at `/edited` sets and removes headers.
fn witnessed() -> (Witness, Running) {
    let witness = Witness::start();
    let text = shipped("memory")
        .replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{}\"", witness.application.port))
        .replace("access   = \"authenticated\"", "access   = \"public\"");
    let edited = "[[route]]\nname = \"edited\"\npath = \"/edited\"\naccess = \"public\"\nupstream = \"app\"\n\
        set_headers = { X-Tenant = \"blue\" }\nremove_headers = [\"X-Debug\"]\n";
    let running = run_text(tempfile::tempdir().unwrap(), &format!("{text}\n{edited}"));
    (witness, running)
}

/// Values of every field that a server which folds names takes for this one.
fn folded(headers: &HeaderMap, name: &str) -> Vec<String> {
    let fold = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let alike = headers.iter().filter(|(other, _)| fold(other.as_str()) == name);
    alike.map(|(_, value)| value.to_str().unwrap().to_owned()).collect()
}

async fn one(witness: &Witness, running: &Running, request: &str) -> Seen {
    let said = raw(running.port(), request.as_bytes(), "").await;
    assert!(said.starts_with("HTTP/1.1 200"), "{request}\n{said}");
    let mut seen = witness.judge(running, None, |_| false);
    assert_eq!(seen.len(), 1, "{request}");
    seen.remove(0)
}

/// attacks: lines 73, 77, 78 and 90. `X_Tenant` is `X-Tenant` to a server that folds names (CGI, WSGI), and a trailer is a header
/// to one that merges them.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_spelling_and_no_trailer_shadows_what_the_gateway_sets() {
    let (witness, running) = witnessed();
    let fields = "X_Tenant: evil\r\nX.Tenant: evil\r\nx-tenant: evil\r\nX_Debug: evil\r\nX-Request-Id: evil\r\n\
        X_Request_Id: evil\r\nX_Forwarded_Proto: evil\r\nX-Other: kept\r\n";
    let head = format!("GET /edited HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n");
    let seen = one(&witness, &running, &head).await;
    for (name, expected) in [("x-tenant", "blue"), ("x-forwarded-proto", "https"), ("x-other", "kept")] {
        assert_eq!(folded(&seen.headers, name), [expected], "{:?}", seen.headers);
    }
    assert_eq!(folded(&seen.headers, "x-request-id").len(), 1, "{:?}", seen.headers);
    assert!(!format!("{:?}", seen.headers).contains("evil"), "{:?}", seen.headers);
    // A route that sets nothing of the name leaves it to the client.
    let seen = one(&witness, &running, &head.replace("/edited", "/open")).await;
    assert_eq!(folded(&seen.headers, "x-debug"), ["evil"]);
    let trailers =
        "X-Tenant: evil\r\nX_Tenant: evil\r\nX-Debug: evil\r\nX_Request_Id: evil\r\nX-Hop: evil\r\nX-Sum: 1\r\n";
    let names = "X-Tenant, X_Tenant, X-Debug, X_Request_Id, X-Hop, X-Sum";
    let chunked = format!(
        "POST /edited HTTP/1.1\r\nHost: localhost\r\nConnection: close, X-Hop\r\nTransfer-Encoding: chunked\r\n\
         Trailer: {names}\r\n\r\n1\r\na\r\n0\r\n{trailers}\r\n"
    );
    let seen = one(&witness, &running, &chunked).await;
    assert_eq!(seen.trailers.len(), 1, "{:?}", seen.trailers);
    assert_eq!(folded(&seen.trailers, "x-sum"), ["1"]);
}

/// attacks: line 80
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_question_that_is_to_go_no_further_is_answered_here() {
    let (witness, running) = witnessed();
    let ask = |method: &str, hops: &str| {
        format!("{method} /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nMax-Forwards: {hops}\r\n\r\n")
    };
    let said = raw(running.port(), ask("OPTIONS", "0").as_bytes(), "").await;
    assert!(said.starts_with("HTTP/1.1 204") && said.contains("allow: GET, HEAD"), "{said}");
    assert!(witness.judge(&running, None, |_| false).is_empty());
    for (method, hops, left) in [("OPTIONS", "7", "6"), ("OPTIONS", "x", "x"), ("GET", "0", "0")] {
        let seen = one(&witness, &running, &ask(method, hops)).await;
        assert_eq!(folded(&seen.headers, "max-forwards"), [left], "{method} {hops}");
    }
    let closed = run("memory");
    let asked = ["-X", "OPTIONS", "-H", "max-forwards: 0"];
    assert_eq!(closed.curl("/admin", &asked).status, 401, "nobody is told of what they may not ask");
}

const CHALLENGES: &[u8] = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\nwww-authenticate: Basic realm=\"app\"\r\n\
www-authenticate: Digest realm=\"x\", qop=\"auth\"\r\nset-cookie: a=1\r\nset-cookie: b=2; Path=/\r\nx-list: 1\r\nx-list: 2\r\n\r\nno";

/// attacks: lines 35, 92, 95 and 98
#[test]
fn lines_of_an_application_pass_as_they_are_and_in_order() {
    let (port, heads) = application(CHALLENGES);
    let text = shipped("memory").replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{port}\""));
    let running = run_text(tempfile::tempdir().unwrap(), &text);
    for version in ["--http1.1", "--http2"] {
        let said =
            running.alone("/public", &["-H", "authorization: Basic YTpi", "-H", "x-l: 1", "-H", "x-l: 2", version]);
        assert_eq!((said.status, said.body.as_str()), (401, "no"), "{}", said.head);
        let lines: Vec<&str> = said.head.lines().map(str::trim_end).collect();
        for (name, values) in [
            ("www-authenticate", ["Basic realm=\"app\"", "Digest realm=\"x\", qop=\"auth\""]),
            ("set-cookie", ["a=1", "b=2; Path=/"]),
            ("x-list", ["1", "2"]),
        ] {
            let prefix = format!("{name}: ");
            let found: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix(&prefix)).collect();
            assert_eq!(found, values, "{version} {}", said.head);
        }
        assert!(said.header("date").is_some(), "RFC 9110 §6.6.1: {}", said.head);
        let head = heads.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(head.contains("authorization: Basic YTpi\r\n") && head.contains("x-l: 1\r\nx-l: 2\r\n"), "{head}");
    }
}

/// attacks: lines 3 and 23. Whoever knew an id before the sign-in knows nothing of the session after it.
#[test]
fn signing_in_again_makes_a_new_session_and_ends_the_one_before() {
    let running = run("memory");
    assert_eq!(running.sign_in("/a", &running.password).status, 303);
    let before = running.cookie();
    assert_eq!(running.alone("/a", &["-b", &before]).status, 200);
    let page = running.curl("/.portcullis/login", &[]);
    assert_eq!(page.status, 303, "signed in already");
    // As a second tab does, whose form was open.
    let other = run_again(&running, &before);
    assert_eq!(other.0, 303);
    assert_ne!(other.1, before);
    assert_eq!(running.alone("/a", &["-b", &before]).status, 401, "the old id is dead");
    assert_eq!(running.alone("/a", &["-b", &other.1]).status, 200);
    // An id that nobody issued is never taken over.
    let chosen = "__Host-portcullis=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let third = run_again(&running, chosen);
    assert!(third.0 == 303 && third.1 != chosen, "{third:?}");
    assert_eq!(running.alone("/a", &["-b", chosen]).status, 401);
}

/// A sign-in in a browser that brings this cookie; its status and the session's cookie.
fn run_again(running: &Running, cookie: &str) -> (u16, String) {
    let form = running.alone("/.portcullis/login", &[]);
    let browser = form.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let state = between(&form.body, "name=\"state\" value=\"", "\"").to_owned();
    let cookies = format!("{browser}; {cookie}");
    let (state, password) = (format!("state={state}"), format!("password={}", running.password));
    let said = running.alone(
        "/.portcullis/login",
        &["-b", &cookies, "-d", "user=demo", "--data-urlencode", &state, "--data-urlencode", &password],
    );
    let line = said.head.lines().find_map(|line| line.strip_prefix("set-cookie: __Host-portcullis="));
    let value = line.and_then(|line| line.split(';').next()).unwrap_or_default();
    (said.status, format!("__Host-portcullis={value}"))
}

/// attacks: lines 12, 21 and 22
#[test]
fn a_form_of_another_site_signs_nobody_in_and_a_get_changes_nothing() {
    let running = run("memory");
    let form = running.curl("/.portcullis/login", &[]);
    let state = format!("state={}", between(&form.body, "name=\"state\" value=\"", "\""));
    let password = format!("password={}", running.password);
    let send = |more: &[&str]| {
        let fields = ["-d", "user=demo", "--data-urlencode", &state, "--data-urlencode", &password];
        running.curl("/.portcullis/login", &[&fields, more].concat())
    };
    for line in
        ["origin: https://evil.example", "origin: null", "origin: https://localhost", "sec-fetch-site: cross-site"]
    {
        let said = send(&["-H", line]);
        assert_eq!(said.status, 403, "{line}: {}", said.head);
        assert!(!said.head.contains("__Host-portcullis="), "{line}: {}", said.head);
    }
    let query = format!("/.portcullis/login?user=demo&{password}&{state}");
    assert!(!running.curl(&query, &[]).head.contains("__Host-portcullis="), "by GET");
    assert_eq!(send(&["-H", &format!("origin: {}", running.base())]).status, 303);
    for path in ["logout", "sessions/end", "sessions", "whoami"] {
        running.curl(&format!("/.portcullis/{path}?csrf=x&handle=others"), &PAGE);
        assert_eq!(running.curl("/a", &[]).status, 200, "GET of {path} ended the session");
    }
}

/// attacks: another site's form, which `SameSite` leaves without the session's cookie, would make the browser forget it
#[test]
fn a_form_of_another_site_takes_no_cookie_away() {
    let running = run("memory");
    assert_eq!(running.sign_in("/a", &running.password).status, 303);
    let button = ["-d", "csrf=x"];
    for line in
        ["origin: https://evil.example", "origin: null", "sec-fetch-site: cross-site", "sec-fetch-site: same-site"]
    {
        let said = running.alone("/.portcullis/logout", &[&button[..], &["-H", line]].concat());
        // To the page that asks; a browser brings its cookie there.
        let there = said.header("location");
        assert_eq!((said.status, there.as_deref()), (303, Some("/.portcullis/logout")), "{line}: {}", said.head);
        for told in ["set-cookie", "clear-site-data"] {
            assert_eq!(said.header(told), None, "{line}: {}", said.head);
        }
    }
    assert!(running.curl("/.portcullis/logout", &[]).body.contains("Sign out?"));
    // Whose session ended meanwhile, and who presses the button.
    let own = format!("origin: {}", running.base());
    let own = ["-H", own.as_str(), "-H", "sec-fetch-site: same-origin", "-b", "__Host-portcullis=ended"];
    let said = running.alone("/.portcullis/logout", &[&button[..], &own].concat());
    assert_eq!(said.status, 200, "{}", said.head);
    assert!(said.head.contains("__Host-portcullis=;") && said.head.contains("clear-site-data"), "{}", said.head);
}

/// attacks: lines 28, 33, 39 and 72: a credential stands in its own field, and nowhere else; and there is no second way to bring it.
#[test]
fn no_credential_is_read_from_an_address_a_body_or_another_spelling() {
    let running = run("memory");
    assert_eq!(running.sign_in("/a", &running.password).status, 303);
    let cookie = running.cookie();
    let value = cookie.split_once('=').unwrap().1;
    let query = format!("/a?access_token={value}&__Host-portcullis={value}&session={value}");
    assert_eq!(running.alone(&query, &[]).status, 401);
    let body = format!("access_token={value}&{cookie}");
    assert_eq!(running.alone("/a", &["-d", &body]).status, 401);
    for line in [
        format!("authorization: Bearer {value}"),
        format!("authorization: Session {value}"),
        format!("authorization: Basic {}", STANDARD.encode(format!("demo:{}", running.password))),
        format!("x-session: {value}"),
        format!("cookie2: {cookie}"),
    ] {
        assert_eq!(running.alone("/a", &["-H", &line]).status, 401, "{line}");
    }
    for name in ["__host-portcullis", "__HOST-portcullis", "__Host-Portcullis", "__Host_portcullis", "portcullis"] {
        assert_eq!(running.alone("/a", &["-b", &format!("{name}={value}")]).status, 401, "{name}");
    }
    assert_eq!(running.alone("/a", &["-b", &cookie]).status, 200);
}

/// A file of so many bytes, as curl is told of it.
fn sent(folder: &Path, bytes: usize) -> String {
    let file = folder.join(format!("sent-{bytes}"));
    std::fs::write(&file, vec![b'x'; bytes]).unwrap();
    format!("@{}", file.display())
}

/// RFC 9113 §8.1: clients that are about throw an answer away when the stream is reset behind it.
#[test]
fn what_is_refused_over_http2_is_told_although_nobody_read_what_was_sent() {
    let running = run("memory");
    // A part of what a client sends unasked, and more than that.
    let large = [300_000, 20_000_000].map(|bytes| sent(running.folder.path(), bytes));
    for (path, status) in [("/a", 401), ("/public", 405), ("/.portcullis/jwks.json", 404), ("/a/../b", 400)] {
        for _ in 0..8 {
            let said = running.alone(path, &["--http2", "-d", "a=b"]);
            assert_eq!(said.status, status, "{path}: {}", said.head);
        }
    }
    for body in large.iter().cycle().take(10) {
        let said = running.alone("/a", &["--http2", "--data-binary", body]);
        assert_eq!(said.status, 401, "{body}: {}", said.head);
    }
}

/// The same where somebody was to read it: an application that cannot be reached, or that answers first.
#[test]
fn what_is_answered_over_http2_is_told_although_the_application_read_little() {
    let hasty = Application::on_streams(|mut stream| async move {
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(b"HTTP/1.1 409 Conflict\r\nconnection: close\r\ncontent-length: 5\r\n\r\nearly").await;
        // Neither read nor closed.
        std::future::pending::<()>().await;
    });
    let folder = tempfile::tempdir().unwrap();
    let [large, huge] = [300_000, 20_000_000].map(|bytes| sent(folder.path(), bytes));
    let nobody = format!("unix:{}", folder.path().join("nobody").display());
    let open = shipped("memory").replace("access   = \"authenticated\"", "access   = \"public\"");
    for (server, status) in [(nobody, 502), (format!("http://127.0.0.1:{}", hasty.port), 409)] {
        let running = run_text(tempfile::tempdir().unwrap(), &open.replace("builtin:whoami", &server));
        for body in ["a=b", &large, &huge].repeat(4) {
            let said = running.alone("/a", &["--http2", "--data-binary", body]);
            assert_eq!(said.status, status, "{}", said.head);
        }
    }
}

/// attacks: line 41. Not the first 72 bytes, not without its blanks, not in another case or form of its letters.
#[test]
fn a_password_counts_exactly_as_it_is_typed() {
    let folder = tempfile::tempdir().unwrap();
    let text = shipped("memory");
    let long = format!(" {}é🔑 end ", "correct horse ".repeat(12));
    add_user(folder.path(), &text, "alice", &long, &["admin"]);
    let running = run_text(folder, &text);
    for wrong in [
        long.trim_end().to_owned(),
        long.trim_start().to_owned(),
        long.replace(" end ", " enD "),
        long.replace('é', "e\u{301}"),
        long[..72].to_owned(),
        format!("{long}x"),
    ] {
        assert_eq!(running.sign_in_as("alice", &wrong).status, 401, "{wrong}");
    }
    assert_eq!(running.sign_in_as("alice", &long).status, 303);
}

/// attacks: line 93
#[test]
fn a_head_that_is_too_large_is_told_so_and_nothing_of_it_is_dropped() {
    let running = run("memory");
    let long = format!("x-long: {}", "a".repeat(40_000));
    let many: Vec<String> = (0..150).flat_map(|n| ["-H".to_owned(), format!("x-{n}: 1")]).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(running.alone("/public", &["--http1.1", "-H", &long]).status, 431);
    assert_eq!(running.alone("/public", &["--http2", "-H", &long]).status, 431);
    assert_eq!(running.alone("/public", &[&["--http1.1"], many.as_slice()].concat()).status, 431);
    assert_eq!(running.alone("/public", &[&["--http2"], many.as_slice()].concat()).status, 431);
    let target = format!("/public/{}", "a".repeat(70_000));
    assert!(matches!(running.alone(&target, &["--http1.1"]).status, 414 | 431));
    let fits = format!("x-long: {}", "a".repeat(20_000));
    assert!(running.alone("/public", &["-H", &fits]).body.contains(&"a".repeat(20_000)));
    let Running { gateway, lines, .. } = running;
    gateway.stop();
    // The one over HTTP/2 that was too long was answered by the library.
    let told = lines.0.lock().unwrap().iter().filter(|line| line.contains("\"reason\":\"head_too_large\"")).count();
    assert_eq!(told, 4);
}

/// attacks: line 18. The longest way back still fits into the cookies of an attempt, which browsers drop beyond 4096 bytes.
#[test]
fn a_sign_in_at_a_provider_finds_a_long_way_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut liar = Liar::start(folder.path());
    let running = gateway(&text(&section("corp", &liar.issuer("http"), "")));
    liar.lie(&json!({}));
    // One that is longer than providers may take leads there all the same, and to the start page.
    for (length, back) in [(2_000, true), (4_000, false)] {
        let path = format!("/a?x={}", "y".repeat(length));
        let page = running.curl(&path, &PAGE).header("location").unwrap();
        let start = running.curl(&page, &PAGE);
        let location = start.header("location").unwrap();
        assert!(location.len() < 4_000, "{}", location.len());
        let (state, nonce) = (parameter(&location, "state"), parameter(&location, "nonce"));
        let said = running.curl(&format!("/.portcullis/oidc/corp/callback?state={state}&code={nonce}"), &PAGE);
        let expected = if back { path.as_str() } else { "/" };
        assert_eq!((said.status, said.header("location").as_deref()), (303, Some(expected)), "{}", said.body);
        std::fs::write(running.folder.path().join("jar"), "").unwrap();
    }
}

/// Dashboards keep what they show in the address.
#[test]
fn a_sign_in_with_a_password_finds_a_longer_way_back() {
    let running = run("memory");
    let path = format!("/a?x={}", "y".repeat(4_000));
    let signed_in = running.sign_in(&path, &running.password);
    assert_eq!((signed_in.status, signed_in.header("location").as_deref()), (303, Some(path.as_str())));
}

/// attacks: lines 38 and 42. What is shipped knows no password and no key: each start makes its own, tells the password once, and
/// keeps a hash of it.
#[test]
fn each_first_start_makes_secrets_of_its_own() {
    let [one, other] = [(); 2].map(|()| run("embedded:data"));
    for file in ["data/keys", "certs/gateway.key", "users.toml"] {
        let [mine, others] =
            [&one, &other].map(|running| std::fs::read_to_string(running.folder.path().join(file)).unwrap());
        assert_ne!(mine, others, "{file}");
        assert!(!mine.contains(&one.password), "{file}");
    }
    assert!(one.password.len() >= 16 && one.password != other.password, "{}", one.password);
    for guess in [other.password.as_str(), "demo", ""] {
        assert_ne!(one.sign_in_as("demo", guess).status, 303, "{guess}");
    }
    assert_eq!(one.sign_in_as("demo", &one.password).status, 303);
    let Running { gateway, folder, .. } = one;
    gateway.stop();
    assert_eq!(run_in(folder, "embedded:data").password, "", "a later start tells none");
}

/// attacks: line 76. A server that reads eight kilobytes of head, as many do.
#[test]
fn a_head_that_only_the_gateways_own_lines_make_too_long_is_a_clean_error() {
    const MOST: usize = 8192;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = format!("\"http://127.0.0.1:{}\"", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while head.len() < MOST
                && !head.ends_with(b"\r\n\r\n")
                && stream.read(&mut byte).is_ok_and(|read| read == 1)
            {
                head.push(byte[0]);
            }
            let status = if head.ends_with(b"\r\n\r\n") { "200 OK" } else { "431 Too Large" };
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    let running = run_text(tempfile::tempdir().unwrap(), &shipped("memory").replace("\"builtin:whoami\"", &upstream));
    // With the few lines that curl adds some fifty bytes are left, and the gateway's are more.
    let line = format!("x-long: {}", "a".repeat(MOST - 150));
    for version in ["--http1.1", "--http2"] {
        let said = running.alone("/public", &[version, "-H", &line]);
        // What it had not read takes its answer away, if the reset is faster.
        assert!(matches!(said.status, 431 | 502), "{version}: {}", said.head);
        assert_eq!(running.alone("/public", &[version]).status, 200, "{version}");
    }
}

/// attacks: line 10. Each of one's sessions by its handle, or all others; nobody else's, and by no other site's form.
#[test]
fn people_end_their_own_sessions_and_nobody_elses() {
    let (folder, text) = (tempfile::tempdir().unwrap(), shipped("memory"));
    for user in ["alice", "bob"] {
        add_user(folder.path(), &text, user, "a long password", &["admin"]);
    }
    let running = run_text(folder, &text);
    let [first, second, third, bob] = ["alice", "alice", "alice", "bob"].map(|user| {
        assert_eq!(running.sign_in_as(user, "a long password").status, 303, "{user}");
        running.cookie()
    });
    let alive = |cookies: &[&String]| -> Vec<bool> {
        cookies.iter().map(|cookie| running.alone("/a", &["-b", cookie]).status == 200).collect()
    };
    let page = |cookie: &str| running.alone("/.portcullis/sessions", &["-b", cookie]).body;
    let hidden = |page: &str, name: &str| between(page, &format!("name=\"{name}\" value=\""), "\"").to_owned();
    let end = |cookie: &str, csrf: &str, handle: &str| {
        let (csrf, handle) = (format!("csrf={csrf}"), format!("handle={handle}"));
        let fields = ["-b", cookie, "--data-urlencode", &csrf, "--data-urlencode", &handle];
        running.alone("/.portcullis/sessions/end", &fields).status
    };
    let (alices, bobs) = (page(&first), page(&bob));
    assert_eq!((alices.matches("<li>").count(), bobs.matches("<li>").count()), (3, 1));
    let other = alices.split("<li>").skip(1).find(|device| !device.contains("this device")).unwrap();
    let (csrf, handle) = (hidden(&alices, "csrf"), hidden(other, "handle"));
    assert_eq!(end(&bob, &hidden(&bobs, "csrf"), &handle), 403, "a handle is good for whom it was shown to");
    assert_eq!(end(&first, "forged", &handle), 403);
    assert_eq!(end(&first, &hidden(&bobs, "csrf"), "others"), 403);
    assert_eq!(alive(&[&first, &second, &third, &bob]), [true; 4]);
    assert_eq!(end(&first, &csrf, &handle), 303);
    assert_eq!(alive(&[&second, &third]).iter().filter(|alive| **alive).count(), 1, "the one that was named");
    assert_eq!(alive(&[&first, &bob]), [true, true]);
    assert_eq!(end(&first, &csrf, "others"), 303);
    assert_eq!(alive(&[&first, &second, &third, &bob]), [true, false, false, true]);
}
