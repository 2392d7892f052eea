//! Where a request copies or moves to (RFC 4918 §10.3): a second address, which no path shows.

use crate::options::telling;
use crate::support::{Running, add_user, run_text, shipped};

const ROUTES: &str = r#"
[upstream.other]
servers = ["http://127.0.0.1:9"]
[[route]]
name = "strip"
path = "/files"
access = "authenticated"
upstream = "app"
strip_prefix = true
host_header = "files.internal"
[[route]]
name = "plain"
path = "/svn"
access = "authenticated"
upstream = "app"
destination = "http"
[[route]]
name = "other"
path = "/other"
access = "authenticated"
upstream = "other"
[[route]]
name = "drop"
path = "/public/drop"
access = "public"
upstream = "app"
"#;

/// What the application is told of it, or the status where it is told nothing.
fn sent(running: &Running, heads: &std::sync::mpsc::Receiver<String>, line: (&str, &str, &str)) -> Result<String, u16> {
    let (method, path, destination) = line;
    let destination = destination.replace("HOST", &format!("localhost:{}", running.port()));
    let said = running.curl(path, &["-X", method, "-H", &format!("Destination: {destination}")]);
    let head = heads.try_recv();
    match said.status {
        200 => {
            let head = head.unwrap();
            let told = head.lines().find_map(|line| line.strip_prefix("destination: "));
            Ok(told.unwrap_or_else(|| panic!("{head}")).replace(&destination, "as it was"))
        }
        status => {
            assert!(head.is_err(), "{line:?}: {}", said.head);
            Err(status)
        }
    }
}

/// attacks: writing under another rule by copying there
#[test]
fn nothing_is_copied_or_moved_to_where_its_caller_may_not_write() {
    let (application, heads) = telling();
    let text = shipped("memory").replace("builtin:whoami", &format!("http://127.0.0.1:{}", application.port));
    let text = format!("{text}\n{ROUTES}");
    let folder = tempfile::tempdir().unwrap();
    add_user(folder.path(), &text, "staff", "a long password of staff", &["staff"]);
    add_user(folder.path(), &text, "boss", "a long password of boss's", &["admin"]);
    let running = run_text(folder, &text);
    assert_eq!(running.sign_in_as("staff", "a long password of staff").status, 303);
    let as_it_was = || Ok("as it was".to_owned());
    for (method, path, destination) in [
        ("COPY", "/a", "https://HOST/b"),
        ("MOVE", "/a", "HTTPS://HOST/b%20c?d=e"),
        ("MOVE", "/a", "http://localhost/b"),
        ("MOVE", "/a", "/b"),
        ("MOVE", "/a", "https://HOST"),
        ("POST", "/a", "https://HOST/b"),
        // A word of an application's own.
        ("POST", "/a", "queue-7"),
    ] {
        assert_eq!(sent(&running, &heads, (method, path, destination)), as_it_was(), "{method} {destination}");
    }
    let refused = [
        "https://HOST/admin/x",
        "/admin",
        "/%61dmin/x",
        "/ADMIN/x",
        "/a/../admin/x",
        "/a/%2e%2e/admin/x",
        "/a;/../admin",
        "//HOST/admin",
        "/a//b",
        "https://HOST/.portcullis/login",
        "https://HOST/other/x",
        "https://HOST/nowhere#/admin",
        "https://HOST?x#/admin",
        "https://other.example/b",
        "https://HOST@other.example/b",
        "ftp://HOST/b",
        "/public/x",
    ];
    for destination in refused {
        for method in ["COPY", "MOVE", "POST"] {
            assert_eq!(sent(&running, &heads, (method, "/a", destination)), Err(403), "{method} {destination}");
        }
    }
    for destination in ["b", "admin/x", "\u{e4}"] {
        assert_eq!(sent(&running, &heads, ("MOVE", "/a", destination)), Err(403), "{destination}");
    }
    let twice = ["-X", "MOVE", "-H", "Destination: /b", "-H", "Destination: /admin/x"];
    assert_eq!(running.curl("/a", &twice).status, 400);
    // From where nobody is asked for to where somebody is, whoever may.
    assert_eq!(sent(&running, &heads, ("MOVE", "/public/drop/a", "https://HOST/b")), Err(403));
    assert_eq!(sent(&running, &heads, ("MOVE", "/public/drop/a", "https://HOST/public/drop/b")), as_it_was());
    // As the application knows it.
    for (destination, told) in [
        ("https://HOST/files/b?c", "https://files.internal/b?c"),
        ("/files/b", "/b"),
        ("https://HOST/files", "https://files.internal/"),
        ("https://HOST/b", "https://files.internal/b"),
    ] {
        assert_eq!(sent(&running, &heads, ("MOVE", "/files/a", destination)), Ok(told.to_owned()), "{destination}");
    }
    // As one that knows of no TLS knows it: others refuse what is named so.
    let told = format!("http://localhost:{}/svn/b?c", running.port());
    for (destination, told) in [
        ("https://HOST/svn/b?c", Ok(told.clone())),
        ("HTTPS://HOST/svn/b?c", Ok(told)),
        ("/svn/b", as_it_was()),
        ("https://HOST/admin/x", Err(403)),
    ] {
        assert_eq!(sent(&running, &heads, ("COPY", "/svn/a", destination)), told, "{destination}");
    }
    // `/files/admin/x` is `/admin/x` to the application.
    assert_eq!(sent(&running, &heads, ("MOVE", "/files/a", "https://HOST/files/admin/x")), Err(403));
    assert_eq!(running.sign_in_as("boss", "a long password of boss's").status, 303);
    assert_eq!(sent(&running, &heads, ("MOVE", "/a", "https://HOST/admin/x")), as_it_was());
}
