//! A provider that takes a request and does not answer: who waits for it, for how long, and who does not. Time is turned by hand, and
//! the provider tells how often it was asked.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::liar::Liar;
use crate::oidc_keys::before;
use crate::oidc_refresh::wait_for;
use crate::providers::parameter;
use crate::support::Running;

const PERSON: [&str; 2] = ["-H", "accept: text/html"];
const DESCRIPTION: &str = "/.well-known/openid-configuration";

/// It answers nothing to this until it is told another lie that is not `still`.
fn holds(path: &str) -> Value {
    json!({ "still": true, "wrong": { path: { "held": true } } })
}

/// A browser with these cookies that asks for this address, and waits.
fn asking(running: &Running, path: &str, cookie: &str) -> Child {
    let mut curl = Command::new("curl");
    curl.args(["-sk", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}", "-b", cookie]).args(PERSON);
    curl.arg(format!("{}{path}", running.base())).stdout(Stdio::piped()).spawn().unwrap()
}

fn status(asking: Child) -> String {
    String::from_utf8(asking.wait_with_output().unwrap().stdout).unwrap()
}

/// By the order of things: of many who wait each would take as long as the one before them, and none would be answered in time.
#[test]
fn many_who_wait_for_a_provider_that_hangs_wait_for_one_request() {
    let folder = tempfile::tempdir().unwrap();
    let mut liar = Liar::start(folder.path());
    let (running, clock) = before(&liar);
    liar.lie(&holds(DESCRIPTION));
    let start = || asking(&running, "/.portcullis/oidc/corp/start", "");
    let first = start();
    wait_for("it is asked", || liar.asked(DESCRIPTION) == 1);
    clock.advance(Duration::from_secs(3));
    let others = [start(), start(), start(), start()];
    assert_eq!([first].into_iter().chain(others).map(status).collect::<Vec<_>>(), ["503"; 5]);
    assert_eq!(liar.asked(DESCRIPTION), 1);
    // It hung for five seconds, and is left alone from then on, not from when it was asked.
    clock.advance(Duration::from_secs(3));
    assert_eq!((status(start()).as_str(), liar.asked(DESCRIPTION)), ("503", 1));
    clock.advance(Duration::from_secs(2));
    let waits = start();
    wait_for("it is asked again", || liar.asked(DESCRIPTION) == 2);
    // Whoever asked may leave.
    let mut leaves = waits;
    leaves.kill().unwrap();
    leaves.wait().unwrap();
    wait_for("a line of it", || running.lines.0.lock().unwrap().iter().any(|line| line.contains("\"status\":499")));
    let stays = start();
    liar.lie(&json!({}));
    assert_eq!((status(stays).as_str(), liar.asked(DESCRIPTION)), ("303", 2));
}

/// The same of its keys, with people who come back from it.
#[test]
fn many_who_come_back_to_keys_that_do_not_come_wait_for_one_request() {
    let folder = tempfile::tempdir().unwrap();
    let mut liar = Liar::start(folder.path());
    let (running, clock) = before(&liar);
    let mut back: Vec<(String, String)> = (0..5)
        .map(|_| {
            let start = running.alone("/.portcullis/oidc/corp/start", &PERSON);
            let (location, cookie) = (start.header("location").unwrap(), start.header("set-cookie").unwrap());
            let (state, code) = (parameter(&location, "state"), parameter(&location, "nonce"));
            let path = format!("/.portcullis/oidc/corp/callback?state={state}&code={code}");
            (path, cookie.split(';').next().unwrap().to_owned())
        })
        .collect();
    liar.lie(&holds("/jwks"));
    let (path, cookie) = back.pop().unwrap();
    let first = asking(&running, &path, &cookie);
    wait_for("it is asked", || liar.asked("/jwks") == 1);
    clock.advance(Duration::from_secs(3));
    let others: Vec<Child> = back.iter().map(|(path, cookie)| asking(&running, path, cookie)).collect();
    assert_eq!([first].into_iter().chain(others).map(status).collect::<Vec<_>>(), ["503"; 5]);
    assert_eq!(liar.asked("/jwks"), 1);
}
