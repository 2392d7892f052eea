//! Bearer tokens at the running gateway: what a program with curl sees, and what the application behind sees of it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Response;
use portcullis::clock::{Clock, SystemClock, TestClock};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;

use crate::servers::Authority;
use crate::support::{Running, Said, run_with, shipped};
use crate::tokens::{Issuer, NOW, timed};
use crate::wire::{Application, whole};

/// open(2), on Linux.
const O_NONBLOCK: i32 = 0o4000;

/// A route for programs alone.
pub const API: &str = r#"
[[route]]
name = "api"
path = "/api"
access = "authenticated"
accept = ["token"]
upstream = "app"
"#;

const ROUTES: &str = r#"
[[route]]
name = "api-admin"
path = "/api/admin"
access = { roles = ["admin"] }
accept = ["token"]
upstream = "app"
[[route]]
name = "both"
path = "/both"
access = "authenticated"
accept = ["session", "token"]
upstream = "app"
[[route]]
name = "relay"
path = "/relay"
access = "authenticated"
accept = ["token"]
forward_token = true
upstream = "app"
[[route]]
name = "own"
path = "/own"
access = "authenticated"
accept = ["token"]
set_headers = { Authorization = "Basic YTpi" }
upstream = "app"
"#;

/// Keys in a file, of an issuer whose clock is ours: its tokens are good as soon as others of their bearer were revoked.
pub const EXACT: &str = "jwks = \"keys.json\"\nleeway = \"0s\"";

pub fn table(keys: &str) -> String {
    format!(
        "[token]\nissuer = \"https://id.example\"\naudience = \"gateway\"\nalgorithms = [\"ES256\"]\n{keys}\n\
         name_claim = \"profile.name\"\nroles_claim = \"realm.roles\"\nrole_map = {{ \"eng-admins\" = \"admin\" }}\n"
    )
}

fn gateway(folder: tempfile::TempDir, token: &str, clock: Arc<dyn Clock>) -> Running {
    run_with(folder, &format!("{}{API}{ROUTES}{token}", shipped("memory")), clock, None)
}

/// One issuer whose set is a file, at a clock that stands still.
fn started() -> (Running, Issuer, Arc<TestClock>) {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), Issuer::es256());
    write(folder.path(), &[("one", &issuer)]);
    let clock = Arc::new(TestClock::at(NOW));
    (gateway(folder, &table("jwks = \"keys.json\""), clock.clone()), issuer, clock)
}

pub fn set(issuers: &[(&str, &Issuer)]) -> String {
    json!({ "keys": issuers.iter().map(|(kid, issuer)| issuer.jwk(kid)).collect::<Vec<_>>() }).to_string()
}

pub fn write(folder: &Path, issuers: &[(&str, &Issuer)]) {
    std::fs::write(folder.join("keys.json"), set(issuers)).unwrap();
}

pub fn token(issuer: &Issuer, kid: &str, clock: &dyn Clock, more: &str) -> String {
    let claims = format!(r#"{{"iss":"https://id.example","aud":"gateway","sub":"robot","iat":@0,"exp":@60{more}}}"#);
    issuer.token(&format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#), &timed(&claims, clock.now()), "ES256")
}

fn ask(running: &Running, path: &str, token: &str) -> Said {
    running.curl(path, &["-H", format!("Authorization: Bearer {token}").trim_end()])
}

fn reason(running: &Running) -> String {
    let lines = running.lines.0.lock().unwrap();
    let line: serde_json::Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    line["reason"].as_str().unwrap().to_owned()
}

#[test]
fn a_program_with_a_token_is_let_in_and_the_application_learns_who_it_is() {
    let (running, issuer, clock) = started();
    let more = r#","email":"r@example.com","profile":{"name":"Robot Ä"},"realm":{"roles":["eng-admins","root"]}"#;
    let told = token(&issuer, "one", &*clock, more);
    for _ in 0..2 {
        let said = ask(&running, "/api/admin/x", &told);
        assert_eq!(said.status, 200, "{}", said.head);
        for line in ["x-forwarded-user: robot", "x-forwarded-email: r@example.com", "x-forwarded-groups: admin"] {
            assert!(said.body.contains(line), "{line} in {}", said.body);
        }
        assert!(!said.body.to_lowercase().contains("authorization"), "the token stays here: {}", said.body);
    }
    // It is remembered by its end, and known by all of it.
    for place in [0, told.len() / 2, told.rfind('.').unwrap() + 2, told.len() - 2] {
        let mut other = told.clone().into_bytes();
        other[place] = if other[place] == b'A' { b'B' } else { b'A' };
        let said = ask(&running, "/api/admin/x", std::str::from_utf8(&other).unwrap());
        assert_eq!(said.status, 401, "with another character at {place}");
    }
    assert_eq!(ask(&running, "/api/admin/x", &told).status, 200);
    assert!(ask(&running, "/relay", &told).body.contains(&told), "unless the route says so");
    let own = ask(&running, "/own", &told).body;
    assert!(own.contains("authorization: Basic YTpi") && !own.contains(&told), "the route's own credential: {own}");
    assert!(!running.lines.0.lock().unwrap().iter().any(|line| line.contains(&told[..40])), "no token is written down");
}

/// attacks: a name of one issuer that is somebody else's at another place
#[test]
fn an_issuer_gives_no_name_that_is_of_another_place() {
    let corp = "[login.oidc.corp]\nissuer = \"https://corp.example\"\nclient_id = \"a\"\nclient_secret = { file = \"secret\" }\n\
        user_prefix = \"corp:\"\n";
    let prefixed = table("jwks = \"keys.json\"\nuser_prefix = \"svc:\"");
    let plain = table("jwks = \"keys.json\"");
    for (text, rows) in [
        (
            prefixed,
            [("alice", Some("svc:alice")), ("corp:alice", Some("svc:corp:alice")), ("  ", None), (" alice", None)],
        ),
        (plain, [("alice", Some("alice")), ("corp:alice", None), ("Corp:alice", None), ("alice ", None)]),
    ] {
        let (folder, issuer) = (tempfile::tempdir().unwrap(), Issuer::es256());
        write(folder.path(), &[("one", &issuer)]);
        std::fs::write(folder.path().join("secret"), "hunter2").unwrap();
        let clock = Arc::new(TestClock::at(NOW));
        let running = gateway(folder, &format!("{corp}{text}"), clock.clone());
        for (subject, told) in rows {
            let claims =
                format!(r#"{{"iss":"https://id.example","aud":"gateway","sub":"{subject}","iat":@0,"exp":@60}}"#);
            let sent = issuer.token(r#"{"alg":"ES256","kid":"one"}"#, &timed(&claims, clock.now()), "ES256");
            let said = ask(&running, "/api", &sent);
            match told {
                Some(told) => assert!(said.body.contains(&format!("x-forwarded-user: {told}\n")), "{}", said.body),
                None => {
                    assert_eq!((said.status, &*reason(&running)), (401, "token_subject"), "{subject}: {}", said.body)
                }
            }
        }
    }
}

#[test]
fn what_is_wrong_with_a_token_is_told_as_its_standard_says() {
    let (running, issuer, clock) = started();
    let said = running.curl("/api", &[]);
    assert_eq!((said.status, said.header("www-authenticate").as_deref()), (401, Some("Bearer realm=\"portcullis\"")));
    let said = running.curl("/api", &["-H", "Accept: text/html"]);
    assert_eq!(said.status, 401, "a page to sign in at would not help");
    let said = running.curl("/both", &[]);
    assert_eq!(said.head.matches("www-authenticate").count(), 2, "{}", said.head);

    let invalid = Some("Bearer realm=\"portcullis\", error=\"invalid_token\"");
    for (bad, expected) in [
        (token(&Issuer::es256(), "one", &*clock, ""), "token_signature"),
        (token(&issuer, "two", &*clock, ""), "token_unknown_key"),
        (token(&issuer, "one", &*clock, ",\"nbf\":@30"), "token_not_yet"),
        ("x.y".to_owned(), "token_malformed"),
        (String::new(), "token_malformed"),
    ] {
        let said = ask(&running, "/api", &bad);
        assert_eq!((said.status, said.header("www-authenticate").as_deref()), (401, invalid), "{expected}");
        assert_eq!(reason(&running), expected);
        assert!(!said.body.contains("token_"), "what is wrong is for the log: {}", said.body);
    }
    let said = ask(&running, "/both", "x.y");
    assert_eq!(said.status, 401);
    let with_page = ["-H", "Authorization: Bearer x.y", "-H", "Accept: text/html"];
    assert_eq!(running.curl("/both", &with_page).status, 401, "a bad token is not forgiven by signing in");

    let good = token(&issuer, "one", &*clock, "");
    let said = ask(&running, "/api/admin", &good);
    let scope = "Bearer realm=\"portcullis\", error=\"insufficient_scope\"";
    assert_eq!((said.status, said.header("www-authenticate").as_deref()), (403, Some(scope)));
    assert_eq!(ask(&running, "/api", &good).status, 200);
    clock.advance(Duration::from_secs(64));
    assert_eq!(ask(&running, "/api", &good).status, 200, "within the leeway");
    clock.advance(Duration::from_secs(1));
    assert_eq!(ask(&running, "/api", &good).status, 401, "remembered, and over all the same");
    assert_eq!(reason(&running), "token_expired");
}

#[test]
fn two_credentials_are_refused_and_a_route_that_reads_none_passes_them_on() {
    let (running, issuer, clock) = started();
    let good = token(&issuer, "one", &*clock, "");
    assert_eq!(ask(&running, "/both", &good).status, 200);
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    assert_eq!(running.curl("/both", &[]).status, 200, "the session alone");
    for presented in [good.as_str(), "x.y", ""] {
        let said = ask(&running, "/both", presented);
        assert_eq!(said.status, 400, "{presented}");
        assert_eq!(reason(&running), "two_credentials");
    }
    let basic = running.curl("/both", &["-H", "Authorization: Basic YTpi"]);
    assert!(basic.status == 200 && basic.body.contains("Basic YTpi"), "another scheme is the application's");
    for path in ["/", "/public"] {
        for presented in [good.as_str(), "x.y"] {
            let said = ask(&running, path, presented);
            assert!(said.status == 200 && said.body.contains(&format!("Bearer {presented}")), "{path}: {}", said.body);
        }
    }
}

#[test]
fn a_key_that_is_taken_away_ends_what_was_verified_with_it() {
    let (running, issuer, clock) = started();
    let (old, other) = (token(&issuer, "one", &*clock, ""), Issuer::es256());
    assert_eq!(ask(&running, "/api", &old).status, 200);
    write(running.folder.path(), &[("two", &other)]);
    let until = Instant::now() + Duration::from_secs(20);
    while ask(&running, "/api", &old).status != 401 {
        assert!(Instant::now() < until, "the file is read anew");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(ask(&running, "/api", &token(&other, "two", &*clock, "")).status, 200);
    // A file that is broken for a moment leaves the last good set.
    read_broken(&running.folder.path().join("keys.json"));
    assert_eq!(ask(&running, "/api", &token(&other, "two", &*clock, ",\"jti\":\"b\"")).status, 200);
}

/// Put a broken file there, and return when it was read: a pipe has a writer when it has a reader.
fn read_broken(file: &Path) {
    let (pipe, broken) = (file.with_extension("pipe"), file.with_extension("broken"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::fs::write(&broken, "{").unwrap();
    std::fs::rename(&pipe, file).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let mut writer = loop {
        // Without O_NONBLOCK a gateway that never reads it would be waited for without end.
        match std::fs::OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(file) {
            Ok(writer) => break writer,
            Err(error) => assert!(Instant::now() < until, "the file is read anew: {error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    // Whoever looks again finds no pipe to wait at.
    std::fs::rename(&broken, file).unwrap();
    writer.write_all(b"{").unwrap();
}

/// A key server, how often it was asked, and what it says.
struct KeyServer {
    application: Application,
    asked: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
    says: Arc<std::sync::Mutex<String>>,
}

fn key_server(authority: &Authority, says: String) -> KeyServer {
    let (certificate, key) = authority.issue("localhost", ExtendedKeyUsagePurpose::ServerAuth);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private).unwrap();
    let (asked, broken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let says = Arc::new(std::sync::Mutex::new(says));
    let (count, fails, text) = (asked.clone(), broken.clone(), says.clone());
    let application = Application::start_tls(config, move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        let status = if fails.load(Ordering::SeqCst) { 500 } else { 200 };
        let body = whole(text.lock().unwrap().clone());
        async move {
            // Long enough for others to come while it is being asked.
            tokio::time::sleep(Duration::from_millis(300)).await;
            Response::builder().status(status).body(body).unwrap()
        }
    });
    KeyServer { application, asked, broken, says }
}

/// What it said last counts on, whoever reads the file again while it is away.
#[test]
fn a_key_server_that_is_away_is_not_missed_at_a_reload() {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), Issuer::es256());
    let server = key_server(&Authority::new(folder.path()), set(&[("one", &issuer)]));
    let clock = Arc::new(TestClock::at(SystemClock.now()));
    let keys = format!("jwks = \"https://localhost:{}/keys\"\nca = \"ca.pem\"", server.application.port);
    let file = format!("{}{API}{}", shipped("memory"), table(&keys));
    let running = run_with(folder, &file, clock.clone(), None);
    let told = token(&issuer, "one", &*clock, "");
    assert_eq!(ask(&running, "/api", &told).status, 200);
    server.broken.store(true, Ordering::SeqCst);
    for n in 0..3 {
        running.reload(&file).unwrap();
        assert_eq!(ask(&running, "/api", &told).status, 200);
        // One that was never seen, too.
        let another = token(&issuer, "one", &*clock, &format!(r#","jti":"{n}""#));
        assert_eq!(ask(&running, "/api", &another).status, 200);
    }
    // But those of another server are not its.
    let elsewhere = file.replace("/keys\"", "/other\"");
    running.reload(&elsewhere).unwrap();
    assert_eq!(ask(&running, "/api", &told).status, 503);
}

#[test]
fn a_key_server_is_asked_once_for_what_is_new_and_missed_by_nobody() {
    let (folder, one, two) = (tempfile::tempdir().unwrap(), Issuer::es256(), Issuer::es256());
    let three = Issuer::es256();
    let server = key_server(&Authority::new(folder.path()), set(&[("one", &one)]));
    server.broken.store(true, Ordering::SeqCst);
    let clock = Arc::new(TestClock::at(SystemClock.now()));
    let keys = format!("jwks = \"https://localhost:{}/keys\"\nca = \"ca.pem\"", server.application.port);
    let running = gateway(folder, &table(&keys), clock.clone());
    let said = ask(&running, "/api", &token(&one, "one", &*clock, ""));
    assert_eq!((said.status, reason(&running)), (503, "keys_unavailable".into()), "nobody can say whether it holds");
    server.broken.store(false, Ordering::SeqCst);
    clock.advance(Duration::from_secs(31));
    assert_eq!(ask(&running, "/api", &token(&one, "one", &*clock, "")).status, 200);

    // Rotation: many bring the new key's tokens at once, and one asks.
    *server.says.lock().unwrap() = set(&[("one", &one), ("two", &two)]);
    let before = server.asked.load(Ordering::SeqCst);
    let new: Vec<String> = (0..6).map(|n| token(&two, "two", &*clock, &format!(",\"jti\":\"{n}\""))).collect();
    std::thread::scope(|scope| {
        let asked: Vec<_> = new.iter().map(|token| scope.spawn(|| ask(&running, "/api", token).status)).collect();
        assert!(asked.into_iter().all(|said| said.join().unwrap() == 200));
    });
    assert_eq!(server.asked.load(Ordering::SeqCst), before + 1);
    // One that takes the name of another, too, and the old one's tokens count no more.
    *server.says.lock().unwrap() = set(&[("one", &three), ("two", &two)]);
    assert_eq!(ask(&running, "/api", &token(&three, "one", &*clock, "")).status, 200);
    assert_eq!(server.asked.load(Ordering::SeqCst), before + 2);
    for n in 0..3 {
        let old = token(&one, "one", &*clock, &format!(",\"jti\":\"old{n}\""));
        assert_eq!(ask(&running, "/api", &old).status, 401);
    }
    assert_eq!(server.asked.load(Ordering::SeqCst), before + 3);
    // Names that nobody knows ask no more often than a few times in a row.
    for n in 0..5 {
        assert_eq!(ask(&running, "/api", &token(&two, &format!("k{n}"), &*clock, "")).status, 401);
    }
    assert_eq!(server.asked.load(Ordering::SeqCst), before + 4);
    // And when it breaks, the last good set stands.
    server.broken.store(true, Ordering::SeqCst);
    clock.advance(Duration::from_secs(31));
    assert_eq!(ask(&running, "/api", &token(&two, "three", &*clock, "")).status, 503);
    assert_eq!(ask(&running, "/api", &token(&three, "one", &*clock, "")).status, 200);
}

/// The operator's command, against a running gateway.
fn command(running: &Running, arguments: &[&str]) -> (i32, String, String) {
    let port = running.gateway.admin_address().unwrap().port();
    let file = running.folder.path().join("gateway.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let with_port = |line: &str| match line.starts_with("admin = ") {
        true => format!("admin = \"127.0.0.1:{port}\"\n"),
        false => format!("{line}\n"),
    };
    std::fs::write(&file, text.lines().map(with_port).collect::<String>()).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let output = command.arg("token").arg("--config").arg(&file).args(arguments).output().unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), said(&output.stdout), said(&output.stderr))
}

#[test]
fn a_token_is_revoked_by_its_id_by_its_bearer_and_with_all_others() {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), Issuer::es256());
    write(folder.path(), &[("one", &issuer)]);
    let clock = Arc::new(TestClock::at(SystemClock.now()));
    let server = "[server]\nadmin = \"127.0.0.1:0\"\n";
    let shipped = shipped("embedded:data").replace("[server]\n", server);
    let signing = "[signing]\nissuer = \"https://gateway.example\"\n";
    let text = format!("{shipped}{API}{ROUTES}{signing}{}", table("jwks = \"keys.json\""));
    std::fs::write(folder.path().join("gateway.toml"), &text).unwrap();
    let running = run_with(folder, &text, clock.clone(), None);
    let named = |id: &str| token(&issuer, "one", &*clock, &format!(",\"jti\":\"{id}\""));
    let (one, two, bare) = (named("a"), named("b"), token(&issuer, "one", &*clock, ""));
    let statuses = || [&one, &two, &bare].map(|token| ask(&running, "/api", token).status);
    assert_eq!(statuses(), [200, 200, 200]);
    let (code, _, said) = command(&running, &["revoke", "--jti", "a", "--issuer", "https://other.example"]);
    assert!(code == 1 && said.contains("no tokens of this issuer"), "{said}");
    // A typo is no revocation, whatever it is that is named.
    let (code, told, said) = command(&running, &["revoke", "--user", "robot", "--issuer", "https://typo.example"]);
    let there = "`https://typo.example`; there are: https://id.example, https://gateway.example, local";
    assert!(code == 1 && told.is_empty() && said.contains(there), "{told}{said}");
    let (code, _, said) = command(&running, &["revoke", "--user", "demo", "--issuer", "https://gateway.example"]);
    assert!(code == 1 && said.contains("say where: local"), "{said}");
    assert_eq!(command(&running, &["revoke", "--jti", "a"]).0, 2, "an id is its issuer's");
    assert_eq!(command(&running, &["revoke"]).0, 2);
    let (code, _, said) = command(&running, &["revoke", "--jti", "a", "--issuer", "https://id.example"]);
    assert_eq!((code, said.as_str()), (0, ""));
    assert_eq!(statuses(), [401, 200, 200], "remembered, and refused with the next request");
    assert_eq!(ask(&running, "/api", &one).status, 401);
    assert_eq!(reason(&running), "token_revoked");
    // Everything of the bearer until now, and nothing that comes after the leeway.
    clock.advance(Duration::from_secs(2));
    let ahead = token(&issuer, "one", &TestClock::at(clock.now().plus(Duration::from_millis(4_500))), "");
    assert_eq!(ask(&running, "/api", &ahead).status, 200);
    let (code, told, _) = command(&running, &["revoke", "--user", "robot", "--issuer", "https://id.example"]);
    assert!(code == 0 && told.contains("no session was found"), "{told}");
    assert_eq!(statuses(), [401, 401, 401]);
    assert_eq!(ask(&running, "/api", &ahead).status, 401, "the issuer's clock is ahead, and it was there");
    clock.advance(Duration::from_millis(5_001));
    assert_eq!(ask(&running, "/api", &ahead).status, 401, "however late it is seen");
    let later = token(&issuer, "one", &*clock, "");
    assert_eq!(ask(&running, "/api", &later).status, 200);
    // A restart forgets nothing of it.
    let Running { gateway, folder, lines, .. } = running;
    gateway.stop();
    let lines = lines.0.lock().unwrap().join("\n");
    for subject in ["a", "robot"] {
        let line = format!("\"tokens_revoked\",\"subject\":\"{subject}\",\"provider\":\"https://id.example\"");
        assert!(lines.contains(&line), "{line} in {lines}");
    }
    let running = run_with(folder, &text, clock.clone(), None);
    let statuses = [&one, &two, &bare, &ahead, &later].map(|token| ask(&running, "/api", token).status);
    assert_eq!(statuses, [401, 401, 401, 401, 200]);
    clock.advance(Duration::from_secs(2));
    assert_eq!(command(&running, &["revoke", "--all"]).0, 0);
    assert_eq!(ask(&running, "/api", &later).status, 401);

    let (code, keys, said) = command(&running, &["rotate-keys"]);
    assert_eq!((code, said.as_str()), (0, ""));
    assert_eq!(keys.matches("active").count() + keys.matches("pending").count(), 4, "{keys}");
    assert_eq!(command(&running, &["keys"]).1, keys);
    let lines = running.lines.0.lock().unwrap().join("\n");
    assert!(
        lines.contains("tokens_revoked") && lines.contains("token_keys_rotated"),
        "an operator's acts are recorded"
    );
}
