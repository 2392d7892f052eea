//! Signing in again for what asks for it.

use std::sync::Arc;
use std::time::Duration;

use portcullis::clock::{Clock, SystemClock, TestClock};

use crate::support::{between, run_with, shipped};

#[test]
fn a_route_that_asks_for_a_recent_sign_in_gets_one_and_leads_back() {
    let clock = Arc::new(TestClock::at(SystemClock.now()));
    let text = shipped("memory").replace("path     = \"/admin\"", "path     = \"/admin\"\nmax_auth_age = \"5m\"");
    let running = run_with(tempfile::tempdir().unwrap(), &text, clock.clone(), None);
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    assert_eq!(running.curl("/admin/users?page=2", &[]).status, 200);
    let kept = std::fs::read_to_string(running.folder.path().join("jar")).unwrap();
    clock.advance(Duration::from_secs(301));
    assert_eq!(running.curl("/", &[]).status, 200, "the session goes on");
    assert_eq!(running.curl("/admin/users?page=2", &[]).status, 401, "a program is told");
    let sent = running.curl("/admin/users?page=2", &["-H", "accept: text/html"]);
    assert_eq!(sent.status, 303);
    let page = running.curl(&sent.header("location").unwrap(), &[]);
    assert_eq!(page.status, 200, "a page with a form, not a way in circles");
    let state = format!("state={}", between(&page.body, "name=\"state\" value=\"", "\""));
    let password = format!("password={}", running.password);
    let there = running
        .curl("/.portcullis/login", &["-d", "user=demo", "--data-urlencode", &state, "--data-urlencode", &password]);
    assert_eq!((there.status, there.header("location").as_deref()), (303, Some("/admin/users?page=2")));
    assert_eq!(running.curl("/admin/users?page=2", &[]).status, 200);
    std::fs::write(running.folder.path().join("jar"), kept).unwrap();
    assert_eq!(running.curl("/", &[]).status, 401, "ASVS 7.2.4: the id of before is worth nothing");
}
