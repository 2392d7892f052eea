//! The gateway's own pages as requests for them come and go: bodies that do not come, and clients that do not wait.

use bytes::Bytes;
use http::{Request, StatusCode};

use crate::support::{Running, run_text, shipped};
use crate::wire::{Client, fed, raw, soon, whole};

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
