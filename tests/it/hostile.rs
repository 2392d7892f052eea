//! Hostile input from data files, a case a line: raw heads, paths, cookies; and what HTTP/2 lets through.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::oracle::{Seen, Witness};
use crate::readings::is_under;
use crate::shared_store::eventually;
use crate::support::{Running, between, run, run_text, shipped};
use crate::tools::{Lines, program, python};
use crate::wire::{Application, greet, raw, soon};

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

/// An open route at `/`, a closed one at `/private`, and an application that keeps what it gets.
fn witnessed() -> (Witness, Running) {
    witnessed_with("")
}

/// The same with more to say of the closed one.
fn witnessed_with(more: &str) -> (Witness, Running) {
    let witness = Witness::start();
    let text = shipped("memory")
        .replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{}\"", witness.application.port))
        .replace("access   = \"authenticated\"", "access   = \"public\"");
    let private =
        "[[route]]\nname = \"private\"\npath = \"/private\"\naccess = \"authenticated\"\nupstream = \"app\"\n";
    let running = run_text(tempfile::tempdir().unwrap(), &format!("{text}\n{private}{more}"));
    (witness, running)
}

/// What nobody but a user may reach there.
fn closed(reading: &str) -> bool {
    is_under(reading, "/private") || is_under(reading, "/admin")
}

/// One request as text.
fn told(seen: &Seen) -> String {
    format!("{} {} {:?} {:?}", seen.method, seen.target, seen.headers, seen.trailers)
}

fn unescape(text: &str) -> Vec<u8> {
    unescape_with(text, "\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n")
}

/// The bytes of a line, where `Z` stands for something that comes often.
fn unescape_with(text: &str, z: &str) -> Vec<u8> {
    let text = text.replace('Z', z);
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
    let (witness, running) = witnessed();
    let port = running.gateway.address().port();
    let cases = cases(include_str!("../data/hostile_heads.txt"), 2);
    assert!(cases.len() > 50);
    let mut wrong = Vec::new();
    for (expected, bytes) in cases {
        running.lines.0.lock().unwrap().clear();
        let said = raw(port, &unescape(bytes), "").await;
        let status = said.split(' ').nth(1).unwrap_or("closed");
        // Written when the connection is over, where the head could not be read.
        eventually("it is recorded", async || reason_of(&running) != "-").await;
        let reason = reason_of(&running);
        if (status, reason.as_str()) != (expected[0], expected[1]) {
            wrong.push(format!("{status} {reason}, not {} {}: {bytes}", expected[0], expected[1]));
        }
        assert_eq!(said.matches("HTTP/1.").count(), 1, "one answer: {bytes}\n{said}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(witness.judge(&running, None, closed).is_empty());
}

/// attacks: policy 9. What is odd and harmless passes in one reading only, and the wire behind it stays in step.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn odd_heads_reach_the_application_in_one_reading() {
    let (witness, running) = witnessed();
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
        ("POST /a HTTP/1.1\\r\\nContent_Length: 60\\r\\nContent-Length: 1Zx", "POST /a", "content_length"),
        ("GET /a HTTP/1.1\\r\\ncontent.length: 60Z", "GET /a", "content.length"),
        ("GET /a HTTP/1.1\\r\\nTRANSFER_ENCODING: chunkedZ", "GET /a", "transfer_encoding"),
        (
            "POST /a HTTP/1.1\\r\\nTrailer: Content_Length\\r\\nTransfer-Encoding: chunkedZ0\\r\\nContent_Length: 60\\r\\n\\r\\n",
            "POST /a",
            "content_length\": \"60",
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
        // Browsers leave it as it is behind the `?`, where nobody takes it for a slash.
        ("GET /a?b=C:\\\\d HTTP/1.1Z", "GET /a?b=C:\\d", "/d"),
    ];
    for (bytes, sees, never) in rows {
        let said = raw(port, &unescape(bytes), "").await;
        assert!(said.starts_with("HTTP/1.1 200"), "{bytes}\n{said}");
        let [seen] = &witness.judge(&running, None, closed)[..] else { panic!("not one request: {bytes}") };
        let seen = told(seen);
        assert!(seen.starts_with(sees) && !seen.contains(never), "{bytes}\n{seen}");
    }
}

/// attacks: line 81. Where the connection was opened for a host that is the one, its rules included; elsewhere there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_that_need_not_name_its_host_means_the_one_of_its_connection() {
    let (witness, running) = witnessed_with("host = \"localhost\"\n");
    for (name, path, status) in [
        ("localhost", "/a", "200"),
        ("localhost", "/private", "401"),
        ("other.example", "/a", "200"),
        ("127.0.0.1", "/a", "400"),
    ] {
        let stream = TcpStream::connect(("127.0.0.1", running.port())).await.unwrap();
        let mut stream = greet(stream, name, "http/1.1").await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut said = String::new();
        soon(stream.read_to_string(&mut said)).await.unwrap();
        assert!(said.starts_with(&format!("HTTP/1.0 {status} ")), "{name} {path}: {said}");
        let seen = tokio::task::block_in_place(|| witness.judge(&running, None, closed));
        let hosts: Vec<_> = seen.iter().map(|seen| seen.headers["host"].to_str().unwrap()).collect();
        assert_eq!(hosts, if status == "200" { vec![name] } else { vec![] }, "{path}");
    }
}

/// attacks: policies 1 and 2, and the permissive-decoder oracle: over the wire, to those who may and those who may not.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_reading_of_a_forwarded_path_leads_past_a_rule() {
    let (witness, running) = witnessed();
    let lines = include_str!("../data/hostile_paths.txt").lines().filter(|line| !line.starts_with('#'));
    let paths = lines.filter_map(|line| line.split(' ').nth(1)).flat_map(|path| {
        // The same forms around the rules of this gateway; a tab's worth of what could be read as the end.
        [
            path.to_owned(),
            path.replace("admin", "private"),
            format!("{path}?x=/private"),
            path.replacen('/', "/public/", 1),
        ]
    });
    let (mut refused, mut passed) = (0, 0);
    for path in paths.chain(["/a;b", "/a%20b", "/%7Ea", "/public/x.css", "/a/b/", "/A"].map(str::to_owned)) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let said = raw(running.port(), request.as_bytes(), "").await;
        let seen = tokio::task::block_in_place(|| witness.judge(&running, None, closed));
        match (seen.len(), said.starts_with("HTTP/1.1 200 ")) {
            (0, false) => refused += 1,
            (1, true) if seen[0].target == path => passed += 1,
            _ => panic!("{path}: {said}\n{seen:?}"),
        }
    }
    assert!(refused > 100 && passed >= 6, "{refused} refused, {passed} passed");
}

/// Whether what was seen fits `METHOD target part !other part`.
fn fits(seen: &str, wanted: &str) -> bool {
    let (sees, never) = wanted.split_once('!').unwrap_or((wanted, "\0"));
    let mut words = sees.trim_end().splitn(3, ' ');
    let line = format!("{} {} ", words.next().unwrap(), words.next().unwrap());
    seen.starts_with(&line) && words.next().is_none_or(|part| seen.contains(part)) && !seen.contains(never)
}

/// attacks: policies 3, 4 and 9, over HTTP/2
#[test]
fn hostile_frames_have_their_answer_and_reach_the_application_in_one_reading_or_not_at_all() {
    let (witness, running) = witnessed();
    let mut client = Lines::start(python("python").arg(program("h2_client.py")).arg(running.port().to_string()));
    let cases = cases(include_str!("../data/hostile_frames.txt"), 2);
    assert!(cases.len() > 60);
    let mut wrong = Vec::new();
    for (expected, line) in cases {
        let (request, forwarded) = line.split_once(" -> ").map_or((line, None), |(line, sees)| (line, Some(sees)));
        let outcome = client.ask(request).replace(' ', ":");
        let reason = reason_of(&running);
        if outcome != expected[0] || !["*", reason.as_str()].contains(&expected[1]) {
            wrong.push(format!("{outcome} {reason}, not {} {}: {line}", expected[0], expected[1]));
        }
        let seen: Vec<String> = witness.judge(&running, None, closed).iter().map(told).collect();
        running.lines.0.lock().unwrap().clear();
        let right = match (&seen[..], forwarded) {
            ([], None) => true,
            ([one], Some(forwarded)) => fits(one, forwarded),
            _ => false,
        };
        if !right {
            wrong.push(format!("the application saw {seen:?}: {line}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// An application that answers with the bytes of a case, whose number the path ends in, and keeps the connection.
fn answering(cases: Vec<Vec<u8>>) -> Application {
    let cases = Arc::new(cases);
    Application::on_streams(move |mut stream| {
        let cases = cases.clone();
        async move {
            let (mut head, mut chunk) = (Vec::new(), [0; 1024]);
            while let Ok(read @ 1..) = stream.read(&mut chunk).await {
                head.extend_from_slice(&chunk[..read]);
                if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                    let line = String::from_utf8_lossy(&head[..end]).into_owned();
                    let number: usize = between(&line, "GET /public/", " ").parse().unwrap();
                    head.drain(..end + 4);
                    if stream.write_all(&cases[number]).await.is_err() {
                        return;
                    }
                }
            }
        }
    })
}

/// attacks: policy 11. Whatever an application answers, the client gets one answer in one reading, and nobody gets the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn hostile_answers_end_where_they_begin() {
    let cases = cases(include_str!("../data/hostile_answers.txt"), 2);
    assert!(cases.len() > 40);
    let bytes = |text: &&str| unescape_with(text, "Content-Length: 5\\r\\n\\r\\nhello");
    let application = answering(cases.iter().map(|(_, text)| bytes(text)).collect());
    let text = shipped("memory")
        .replace("\"builtin:whoami\"", &format!("\"http://127.0.0.1:{}\"", application.port))
        .replace("[upstream.app]", "[upstream.app]\nresponse_timeout = \"500ms\"\neject_after = 0");
    let running = run_text(tempfile::tempdir().unwrap(), &text);
    let mut wrong = Vec::new();
    for (number, (expected, text)) in cases.iter().enumerate() {
        let request = format!("GET /public/{number} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let said = raw(running.port(), request.as_bytes(), "").await;
        let lower = said.to_lowercase();
        let told = lower.contains("\r\n0\r\n\r\n") || !lower.contains("transfer-encoding: chunked");
        let status = if told && !said.is_empty() { said.split(' ').nth(1).unwrap_or("none") } else { "cut" };
        let has = |word: &str| word == "-" || said.contains(word);
        let framed = lower.matches("content-length:").count() + lower.matches("transfer-encoding:").count() <= 1;
        if status != expected[0]
            || !has(expected[1])
            || said.matches("HTTP/1.").count() > 1
            || !framed
            || lower.contains("evil")
        {
            wrong.push(format!("{text}\n    gave {said:?}"));
        }
        // The next one, over whatever connection, gets its own.
        let next =
            raw(running.port(), b"GET /public/0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "").await;
        assert!(next.starts_with("HTTP/1.1 200 ") && next.ends_with("hello"), "after {text}: {next}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
