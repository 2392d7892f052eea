//! The operator's listener, asked as a scraper, a load balancer and an operator ask it: with the real curl over plain HTTP.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use portcullis::clock::SystemClock;
use portcullis::config::Config;
use portcullis::startup::{Setup, start};

use crate::sessions::Faulty;
use crate::support::{Lines, Running, Said, run_text, run_with, shipped};
use crate::wire::{Application, SOON, fed, whole};

/// The shipped configuration over this store, with the operator's listener.
pub fn with_admin(store: &str) -> String {
    shipped(store).replace("[server]\n", "[server]\nadmin = \"127.0.0.1:0\"\n")
}

/// Ask the operator's listener.
pub fn ask(running: &Running, path: &str, arguments: &[&str]) -> Said {
    let address = format!("http://127.0.0.1:{}{path}", running.gateway.admin_address().unwrap().port());
    Said::read(Command::new("curl").args(["-si", "--max-time", "20"]).args(arguments).arg(address).output().unwrap())
}

/// The value of a series.
pub fn sample<'m>(metrics: &'m str, name: &str) -> &'m str {
    let mut lines = metrics.lines().filter_map(|line| line.rsplit_once(' '));
    lines.find(|(other, _)| *other == name).unwrap_or_else(|| panic!("{name} in {metrics}")).1
}

#[test]
fn metrics_say_what_was_done_with_every_request() {
    let running = run_text(tempfile::tempdir().unwrap(), &with_admin("memory"));
    assert_eq!(running.sign_in("/a", &running.password).status, 303);
    for (path, arguments, status) in [
        ("/a", &[][..], 200),
        ("/a", &["-b", "x=1"], 200),
        ("/admin", &[], 200),
        ("/public", &[], 200),
        ("/public", &["-X", "POST"], 405),
        ("/a//b", &[], 400),
        ("/", &["-H", "Host: other.example"], 421),
    ] {
        assert_eq!(running.curl(path, arguments).status, status, "{path} {arguments:?}");
    }
    let said = ask(&running, "/metrics", &[]);
    assert_eq!((said.status, said.header("content-type").unwrap().contains("version=0.0.4")), (200, true));
    let rows = [
        ("portcullis_requests_total{route=\"app\",decision=\"forward\",status=\"2xx\"}", "2"),
        ("portcullis_requests_total{route=\"app\",decision=\"sign_in\",status=\"3xx\"}", "1"),
        ("portcullis_requests_total{route=\"admin\",decision=\"forward\",status=\"2xx\"}", "1"),
        ("portcullis_requests_total{route=\"public\",decision=\"forward\",status=\"2xx\"}", "1"),
        ("portcullis_requests_total{route=\"\",decision=\"refuse\",status=\"4xx\"}", "3"),
        ("portcullis_requests_total{route=\"\",decision=\"own_page\",status=\"2xx\"}", "1"),
        ("portcullis_request_seconds_count{route=\"app\"}", "3"),
        ("portcullis_request_seconds_bucket{route=\"app\",le=\"+Inf\"}", "3"),
        ("portcullis_upstream_requests_total{upstream=\"app\",outcome=\"answered\"}", "4"),
        ("portcullis_upstream_requests_total{upstream=\"app\",outcome=\"connect_failed\"}", "0"),
        ("portcullis_upstream_requests_total{upstream=\"app\",outcome=\"abandoned\"}", "0"),
        ("portcullis_session_cache_lookups_total{result=\"hit\"}", "3"),
        ("portcullis_session_cache_lookups_total{result=\"miss\"}", "0"),
        ("portcullis_session_store_errors_total", "0"),
        ("portcullis_connection_events_total{event=\"handshake_failed\"}", "0"),
        ("portcullis_tunnels_open", "0"),
        ("portcullis_build_info{version=\"0.1.0\"}", "1"),
    ];
    for (name, value) in rows {
        assert_eq!(sample(&said.body, name), value, "{name}");
    }
    assert_eq!(
        said.body.matches("request_seconds_bucket{route=\"app\"").count(),
        15,
        "fourteen ends and the one that has none"
    );
    let calls: u64 = sample(&said.body, "portcullis_session_store_calls_total").parse().unwrap();
    assert!(calls >= 2, "the session was written and loaded: {calls}");
    assert_eq!(running.curl("/metrics", &["-H", "accept: text/plain"]).status, 200, "the application's own path");
    let lines = said.body.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>();
    let names = lines.iter().map(|line| line.rsplit_once(' ').unwrap().0).collect::<std::collections::HashSet<_>>();
    assert_eq!(names.len(), lines.len(), "no sample stands twice");
}

#[test]
fn a_store_that_is_away_makes_the_gateway_unready_and_not_dead() {
    let store = Arc::new(Faulty::default());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "of-an-operator-who-is-tested-0123456789").unwrap();
    std::fs::set_permissions(folder.path().join("token"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = with_admin("memory").replace("[server]\n", "[server]\nadmin_token = { file = \"token\" }\n");
    let running = run_with(folder, &text, Arc::new(SystemClock), Some(store.clone()));
    let bearer = ["-H", "authorization: Bearer of-an-operator-who-is-tested-0123456789"];
    assert_eq!(ask(&running, "/sessions?user=demo", &bearer).status, 200);
    assert_eq!((ask(&running, "/readyz", &[]).status, ask(&running, "/healthz", &[]).status), (200, 200));
    store.fail();
    let said = ask(&running, "/readyz", &[]);
    assert_eq!((said.status, said.body.as_str()), (503, "store: the session store did not answer: planted\n"));
    assert_eq!(ask(&running, "/healthz", &[]).status, 200);
    let list = ask(&running, "/sessions?user=demo", &bearer);
    assert_eq!((list.status, list.body.as_str()), (503, "the session store does not answer at present\n"));
    let revoke = ask(&running, "/sessions/revoke", &[&bearer[..], &["-d", "{\"user\": \"demo\"}"]].concat());
    assert!(
        revoke.status == 503 && revoke.body.contains("whether it did what was asked is not known"),
        "{}",
        revoke.body
    );
    let errors = ask(&running, "/metrics", &[]).body;
    assert_eq!(sample(&errors, "portcullis_session_store_errors_total"), "3");
}

#[test]
fn a_gateway_that_stops_is_unready_until_its_last_answer() {
    let (feed, body) = fed();
    let held = std::sync::Mutex::new(Some(body));
    let application = Application::start(move |_| {
        let body = held.lock().unwrap().take().unwrap_or_else(|| whole("more"));
        async move { http::Response::new(body) }
    });
    let text = with_admin("memory").replace("builtin:whoami", &format!("http://127.0.0.1:{}", application.port));
    let running = run_text(tempfile::tempdir().unwrap(), &text);
    let mut client = Command::new("curl")
        .args(["-sk", "--max-time", "20", "-D"])
        .arg(running.folder.path().join("head"))
        .arg(format!("https://localhost:{}/public", running.gateway.address().port()))
        .spawn()
        .unwrap();
    let until = Instant::now() + SOON;
    while std::fs::read(running.folder.path().join("head")).unwrap_or_default().is_empty() {
        assert!(Instant::now() < until, "no answer began");
    }
    let address = format!("http://{}/readyz", running.gateway.admin_address().unwrap());
    let stopping = std::thread::spawn(move || running.gateway.stop());
    loop {
        let said = Said::read(Command::new("curl").args(["-si", "--max-time", "20", &address]).output().unwrap());
        if said.status == 503 {
            assert_eq!(said.body, "gateway: stopping\n");
            break;
        }
        assert!(Instant::now() < until, "still ready");
    }
    assert!(!stopping.is_finished(), "an answer is under way");
    drop(feed);
    assert!(client.wait().unwrap().success());
    stopping.join().unwrap();
}

#[test]
fn sessions_are_listed_and_ended_by_whoever_holds_the_token_and_nobody_else() {
    let running = run_text(tempfile::tempdir().unwrap(), &with_admin("embedded:data"));
    assert_eq!(running.sign_in("/a", &running.password).status, 303);
    let file = running.folder.path().join("data/admin-token");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let bearer = format!("authorization: Bearer {}", std::fs::read_to_string(file).unwrap().trim_end());
    let (longer, shorter) = (format!("{bearer}x"), bearer[..bearer.len() - 1].to_owned());
    let wrong: [&[&str]; 6] = [
        &[],
        &["-H", "authorization: Bearer"],
        &["-H", &longer],
        &["-H", &shorter],
        &["-H", &bearer, "-H", &bearer],
        &["-H", "authorization: Basic eDp5"],
    ];
    for path in ["/sessions?user=demo", "/sessions/revoke", "/nothing"] {
        for arguments in wrong {
            assert_eq!(ask(&running, path, arguments).status, 401, "{path} {arguments:?}");
        }
    }
    let told = |path: &str, arguments: &[&str]| ask(&running, path, &[&["-H", &bearer], arguments].concat());
    let list = told("/sessions?user=demo", &[]);
    assert_eq!(list.status, 200);
    let list: serde_json::Value = serde_json::from_str(&list.body).unwrap();
    assert_eq!((list.as_array().unwrap().len(), &list[0]["user"]), (1, &"demo".into()), "{list}");
    assert_eq!(told("/sessions?user=DEMO", &[]).body, told("/sessions?user=demo", &[]).body, "as at the sign-in");
    let nowhere = (400, "nobody signs in at `crop`; there are: local\n".to_owned());
    let said = told("/sessions?user=demo&provider=crop", &[]);
    assert_eq!((said.status, said.body), nowhere);
    let key = list[0]["session"].as_str().unwrap();
    let short = format!("{{\"session\": \"{}\"}}", &key[1..]);
    let both = format!("{{\"session\": \"{key}\", \"everyone\": true}}");
    for wrong in ["", "{}", "{\"session\": \"x\"}", &short, &both, "{\"provider\": \"local\", \"everyone\": true}"] {
        assert_eq!(told("/sessions/revoke", &["-d", wrong]).status, 400, "{wrong}");
    }
    let said = told("/sessions/revoke", &["-d", "{\"user\": \"demo\", \"provider\": \"crop\"}"]);
    assert_eq!((said.status, said.body), nowhere, "nothing is revoked, and nothing is said to be");
    for (path, status) in [("/sessions", 400), ("/sessions?x=1", 400), ("/sessions/revoke", 405), ("/nothing", 404)] {
        let said = told(path, &[]);
        assert_eq!(
            (said.status, said.header("allow").as_deref()),
            (status, (status == 405).then_some("POST")),
            "{path}"
        );
    }
    assert_eq!(running.curl("/a", &[]).status, 200, "none of that ended anything");
    let revoke = format!("{{\"session\": \"{key}\"}}");
    assert!(told("/sessions/revoke", &["-d", &revoke]).body.contains("\"ended\":1,\"everywhere\":true"));
    assert_eq!(running.curl("/a", &[]).status, 401);
    assert_eq!(running.sign_in("/a", &running.password).status, 303);
    assert!(told("/sessions/revoke", &["-d", "{\"user\": \" Demo\"}"]).body.contains("\"ended\":1,"));
    assert_eq!(running.curl("/a", &[]).status, 401);
    let lines = running.lines.0.lock().unwrap().join("\n");
    let line = "\"event\":\"sessions_revoked\",\"subject\":\"demo\",\"provider\":\"local\"";
    assert!(lines.contains(line) && !lines.contains("crop"), "{lines}");
}

/// Beyond loopback numbers are for the operator too; what a load balancer asks is not.
#[test]
fn an_address_within_reach_of_others_tells_them_that_it_lives_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "an-operators-token-of-some-length\n").unwrap();
    let lines = "[server]\nadmin = \"0.0.0.0:0\"\nadmin_token = { file = \"token\" }\n";
    let running = run_text(folder, &shipped("memory").replace("[server]\n", lines));
    assert_eq!((ask(&running, "/healthz", &[]).status, ask(&running, "/readyz", &[]).status), (200, 200));
    assert_eq!(ask(&running, "/metrics", &[]).status, 401);
    let bearer = ["-H", "authorization: bearer an-operators-token-of-some-length"];
    assert_eq!(ask(&running, "/metrics", &bearer).status, 200);
}

#[test]
fn a_token_that_others_can_read_or_guess_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    let file = folder.path().join("data/admin-token");
    let start = |text: &str, mode: u32| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let config = Config::parse(&with_admin("embedded:data"), "gateway.toml", folder.path()).unwrap();
        let records = Arc::new(Lines::default());
        let error =
            start(Setup { config: config.into(), clock: Arc::new(SystemClock), records, store: None }).err().unwrap();
        std::error::Error::source(&error).unwrap().to_string()
    };
    assert!(start("an-operators-token-of-some-length", 0o644).contains("others can read it"));
    assert!(
        start("short", 0o600)
            .contains("admin-token: holds no operator's token; remove it, and the next start makes another one")
    );
}

/// attacks: connections that take every place and ask for nothing, while a session is to be revoked
#[test]
fn idle_connections_keep_no_operator_out() {
    let running = run_text(tempfile::tempdir().unwrap(), &with_admin("memory"));
    let port = running.gateway.admin_address().unwrap().port();
    let connect = || {
        let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    };
    // A scraper that keeps its connection, and is not the longest idle one.
    let idle: Vec<_> = (0..40).map(|_| connect()).collect();
    let mut scraper = connect();
    let mut scrape = || {
        scraper.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"alive\n") {
            let mut some = [0; 512];
            let read = scraper.read(&mut some).unwrap();
            assert!(read > 0, "the scraper was closed");
            said.extend_from_slice(&some[..read]);
        }
    };
    scrape();
    let more: Vec<_> = (0..40).map(|_| connect()).collect();
    assert_eq!(ask(&running, "/readyz", &[]).status, 200);
    scrape();
    let closed: u64 = sample(&ask(&running, "/metrics", &[]).body, IDLE_CLOSED).parse().unwrap();
    assert!(closed >= 18, "81 and two of ours for 64 places: {closed}");
    // Who never asks goes soon, whether there is a place or not; long before who asked once does.
    for mut stream in idle.into_iter().chain(more) {
        match stream.read(&mut [0; 16]) {
            Ok(read) => assert_eq!(read, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    scrape();
}

/// attacks: a body that never comes, from whoever has the token, for a place that is not idle
#[test]
fn a_body_that_does_not_come_holds_no_place() {
    let folder = tempfile::tempdir().unwrap();
    let running = run_text(folder, &with_admin("embedded:data"));
    let token = std::fs::read_to_string(running.folder.path().join("data/admin-token")).unwrap();
    let port = running.gateway.admin_address().unwrap().port();
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let head = format!(
        "POST /sessions/revoke HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Length: 20\r\n\r\n{{\"user\"",
        token.trim()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 408 ") && said.ends_with("too long\n"), "{said}");
}

const IDLE_CLOSED: &str = "portcullis_connection_events_total{event=\"admin_idle_closed\"}";
