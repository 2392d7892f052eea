//! Hostile input from data files, a case a line: raw heads, paths, cookies; and what HTTP/2 lets through.

use std::sync::{Arc, Mutex};

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;

use crate::support::{Running, run, run_text, shipped};
use crate::wire::{Application, raw, soon, two, whole};

/// The lines of a data file that are cases: the first `fields` words, and the rest.
fn cases<'t>(text: &'t str, fields: usize) -> Vec<(Vec<&'t str>, &'t str)> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let split = |line: &'t str| {
        let mut words: Vec<&str> = line.splitn(fields + 1, ' ').collect();
        let rest = words.pop().unwrap();
        (words, rest)
    };
    lines.map(split).collect()
}

/// An open route at `/`, a closed one at `/private`, and an application that keeps the heads it gets.
fn recording() -> (Application, Arc<Mutex<Vec<String>>>, Running) {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let kept = heads.clone();
    let application = Application::start(move |request| {
        let kept = kept.clone();
        async move {
            let (parts, body) = request.into_parts();
            kept.lock().unwrap().push(format!("{} {} {:?}", parts.method, parts.uri, parts.headers));
            let _ = body.collect().await;
            Response::new(whole("ok"))
        }
    });
    let text = shipped("memory")
        .replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{}\"", application.port))
        .replace("access   = \"authenticated\"", "access   = \"public\"");
    let private =
        "[[route]]\nname = \"private\"\npath = \"/private\"\naccess = \"authenticated\"\nupstream = \"app\"\n";
    let running = run_text(tempfile::tempdir().unwrap(), &format!("{text}\n{private}"));
    (application, heads, running)
}

fn unescape(text: &str) -> Vec<u8> {
    let text = text.replace('Z', "\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n");
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes().iter());
    while let Some(&byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next().unwrap() {
            b'r' => bytes.push(b'\r'),
            b'n' => bytes.push(b'\n'),
            b't' => bytes.push(b'\t'),
            b'\\' => bytes.push(b'\\'),
            b'x' => {
                let digits = [*rest.next().unwrap(), *rest.next().unwrap()];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
            }
            other => panic!("no escape: {other}"),
        }
    }
    bytes
}

fn reason_of(running: &Running) -> String {
    let lines = running.lines.0.lock().unwrap();
    let Some(line) = lines.last() else { return "-".to_owned() };
    serde_json::from_str::<serde_json::Value>(line).unwrap()["reason"].as_str().unwrap().to_owned()
}

/// attacks: policies 4 and 9, and the one-request oracle
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn hostile_heads_are_refused_and_nothing_of_them_is_forwarded() {
    let (_application, heads, running) = recording();
    let port = running.gateway.address().port();
    let cases = cases(include_str!("../data/hostile_heads.txt"), 2);
    assert!(cases.len() > 50);
    let mut wrong = Vec::new();
    for (expected, bytes) in cases {
        running.lines.0.lock().unwrap().clear();
        let said = raw(port, &unescape(bytes), "").await;
        let status = said.split(' ').nth(1).unwrap_or("closed");
        let reason = reason_of(&running);
        if (status, reason.as_str()) != (expected[0], expected[1]) {
            wrong.push(format!("{status} {reason}, not {} {}: {bytes}", expected[0], expected[1]));
        }
        assert_eq!(said.matches("HTTP/1.").count(), 1, "one answer: {bytes}\n{said}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(heads.lock().unwrap().is_empty(), "{:?}", heads.lock().unwrap());
}

/// attacks: policy 9. What is odd and harmless passes in one reading only, and the wire behind it stays in step.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn odd_heads_reach_the_application_in_one_reading() {
    let (_application, heads, running) = recording();
    let port = running.gateway.address().port();
    let rows = [
        // Chunked wins over a length (RFC 9112 §6.1), nothing behind it is a request of its own, and the length is gone.
        (
            "POST /a HTTP/1.1\\r\\nContent-Length: 4\\r\\nTransfer-Encoding: chunkedZ1\\r\\nx\\r\\n0\\r\\n\\r\\nGET /smuggled HTTP/1.1Z",
            "POST /a",
            "content-length",
        ),
        (
            "GET /a HTTP/1.1\\r\\nUpgrade: h2c\\r\\nHTTP2-Settings: AAMAAABkAAQAAP__\\r\\nConnection: Upgrade, HTTP2-Settings, close\\r\\nHost: localhost\\r\\n\\r\\n",
            "GET /a",
            "upgrade",
        ),
        (
            "GET /a HTTP/1.1\\r\\nUpgrade: foo\\r\\nConnection: Upgrade, close\\r\\nHost: localhost\\r\\n\\r\\n",
            "GET /a",
            "upgrade",
        ),
        ("GET https://localhost/a?b HTTP/1.1Z", "GET /a?b", "https:"),
        ("GET /a HTTP/1.1\\nHost: localhost\\nConnection: close\\n\\n", "GET /a", "\\n"),
        ("get /a HTTP/1.1Z", "get /a", "GET"),
        ("GET /a HTTP/1.1\\r\\nExpect: nonsenseZ", "GET /a", "expect"),
        (
            "GET /a HTTP/1.1\\r\\nKeep-Alive: x\\r\\nProxy-Connection: x\\r\\nTE: gzip\\r\\nProxy-Authorization: xZ",
            "GET /a",
            "gzip",
        ),
        ("GET /a#b HTTP/1.1Z", "GET /a", "#b"),
    ];
    for (bytes, sees, never) in rows {
        heads.lock().unwrap().clear();
        let said = raw(port, &unescape(bytes), "").await;
        assert!(said.starts_with("HTTP/1.1 200"), "{bytes}\n{said}");
        let heads = heads.lock().unwrap();
        assert_eq!(heads.len(), 1, "{heads:?}");
        assert!(heads[0].starts_with(sees) && !heads[0].contains(never), "{bytes}\n{}", heads[0]);
    }
}

/// attacks: policy 9, over HTTP/2
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_http2_lets_through_is_refused() {
    let (_application, heads, running) = recording();
    let mut client = two(running.gateway.address().port()).await;
    let request = |uri: &str| Request::builder().uri(uri.parse::<Uri>().unwrap());
    let of = |request: http::request::Builder| request.body(whole("")).unwrap();
    let home = "https://localhost/";
    let blank = HeaderValue::from_bytes(b" x").unwrap();
    let rows = [
        (of(request(home).header("host", "other")), 400, "host_ambiguous"),
        (of(request(home).header("host", "localhost").header("host", "localhost")), 400, "host_ambiguous"),
        (of(request("https://user@localhost/")), 400, "host_malformed"),
        (of(request("https://other.example/")), 421, "misdirected"),
        (of(request("ftp://localhost/")), 400, "target_form"),
        (of(request(home).header("x-blank", blank)), 400, "header_blank"),
        (of(request(home).method(Method::TRACE)), 405, "method_refused"),
        (of(request("localhost:443").method(Method::CONNECT)), 405, "method_refused"),
        (of(request("https://localhost/a/../b")), 400, "path_dot_segment"),
        (of(request(home).header("authorization", "a").header("authorization", "b")), 400, "header_repeated"),
    ];
    for (request, status, reason) in rows {
        running.lines.0.lock().unwrap().clear();
        let what = format!("{request:?}");
        let answer = soon(client.send_request(request)).await.unwrap();
        assert_eq!(answer.status(), status, "{what}");
        soon(answer.into_body().collect()).await.unwrap();
        assert_eq!(reason_of(&running), reason, "{what}");
    }
    assert!(heads.lock().unwrap().is_empty());
    // RFC 9113 §8.2.3: cookies that came in pieces are one line behind us.
    let request = of(request(home).header("cookie", "a=1").header("cookie", "b=2"));
    assert_eq!(soon(client.send_request(request)).await.unwrap().status(), StatusCode::OK);
    assert!(heads.lock().unwrap()[0].contains("\"cookie\": \"a=1; b=2\""), "{:?}", heads.lock().unwrap());
}

/// attacks: policies 4 and 5
#[test]
fn only_the_very_cookie_that_was_issued_is_a_session() {
    let running = run("memory");
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    let jar = std::fs::read_to_string(running.folder.path().join("jar")).unwrap();
    let line = jar.lines().find(|line| line.contains("\t__Host-portcullis\t")).unwrap();
    let value = line.rsplit('\t').next().unwrap();
    std::fs::write(running.folder.path().join("jar"), "").unwrap();
    let (first, rest) = value.split_at(1);
    let flipped = format!("__Host-portcullis={}{rest}", if first == "A" { "B" } else { "A" });
    for (expected, line) in cases(include_str!("../data/hostile_cookies.txt"), 1) {
        let line = line
            .replace("{cookie}", &format!("__Host-portcullis={value}"))
            .replace("{lower}", &format!("__host-portcullis={value}"))
            .replace("{upper}", &format!("__HOST-PORTCULLIS={value}"))
            .replace("{dequoted}", &format!("__Host-portcullis=\"{value}\""))
            .replace("{flipped}", &flipped)
            .replace("{short}", &format!("__Host-portcullis={}", &value[..value.len() - 1]))
            .replace("{hash}", &"0".repeat(64))
            .replace("{value}", value);
        let said = running.curl("/", &["-H", &format!("cookie: {line}")]);
        assert_eq!(said.status.to_string(), expected[0], "{line}\n{}", said.head);
        assert!(!said.head.contains(value) && !said.body.contains(value), "{line}: shown");
        running.lines.0.lock().unwrap().iter().for_each(|logged| assert!(!logged.contains(value), "{logged}"));
    }
}
