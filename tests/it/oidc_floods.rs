//! Floods of sign-ins and of answers that no provider gave: what they may cost the store and the provider (CWE-770).

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use portcullis::clock::{Clock, SystemClock, TestClock};
use serde_json::json;

use crate::liar::Liar;
use crate::oidc::{audit, jar, set_jar};
use crate::providers::{Provider, gateway, parameter, section, text};
use crate::support::{Running, run_with};

const PERSON: [&str; 2] = ["-H", "accept: text/html"];

/// A gateway's text with this provider alone, and with metrics.
fn watched(provider: &Provider) -> String {
    let text = text(&section("corp", &provider.issuer(), ""));
    text.replacen("[server]", "[server]\nadmin = \"127.0.0.1:0\"", 1)
}

/// How often something was counted.
fn counted(running: &Running, name: &str) -> u64 {
    let metrics = format!("http://{}/metrics", running.gateway.admin_address().unwrap());
    let said = running.visit(&metrics, &[]).body;
    let line = said.lines().find_map(|line| line.strip_prefix(&format!("portcullis_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {said}")).parse().unwrap()
}

/// The statuses of many addresses, asked one after the other by one curl without cookies.
fn flood(running: &Running, path: &str) -> Vec<String> {
    let output = Command::new("curl")
        .args(["-sk", "--max-time", "60", "-o", "/dev/null", "-w", "%{http_code}\n", "-H", "accept: text/html"])
        .arg(format!("{}{path}", running.base()))
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// A sign-in that was begun: its state, its nonce and the cookie of its attempt.
fn begun(running: &Running) -> (String, String, String) {
    set_jar(running, "");
    let start = running.curl("/.portcullis/login", &PERSON);
    let location = start.header("location").unwrap_or_else(|| panic!("{} {}", start.head, start.body));
    let cookie = start.header("set-cookie").unwrap();
    let nonce = parameter(&location, "nonce");
    (parameter(&location, "state"), nonce, cookie.split(';').next().unwrap().to_owned())
}

/// Everything of an attempt is with the browser, so that those who begin thousands leave nothing here.
#[test]
fn sign_ins_that_are_only_begun_and_invented_states_cost_neither_store_nor_provider() {
    let provider = Provider::start();
    let running = gateway(&watched(&provider));
    provider.configure(&running, &json!({}));
    begun(&running);
    let (calls, asked) = (counted(&running, "session_store_calls_total"), provider.seen("all"));
    assert_eq!(flood(&running, "/.portcullis/login?n=[1-400]"), vec!["303"; 400]);
    let forged = "0123456789abcdef0123456789abcdef.[1000-1400]";
    let answers = flood(&running, &format!("/.portcullis/oidc/corp/callback?code=x&state={forged}"));
    assert_eq!(answers, vec!["400"; 401]);
    assert_eq!(counted(&running, "session_store_calls_total"), calls);
    assert_eq!(provider.seen("all"), asked);
}

/// attacks: line 43
#[test]
fn who_brings_invented_codes_is_soon_heard_seldom_and_others_sign_in() {
    let provider = Provider::start();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "a secret: with + signs\n").unwrap();
    let clock = Arc::new(TestClock::at(SystemClock.now()));
    let running = run_with(folder, &watched(&provider), clock.clone(), None);
    provider.configure(&running, &json!({}));
    let iss = provider.issuer();
    let callback = |state: &str| format!("/.portcullis/oidc/corp/callback?code=forged&state={state}&iss={iss}");
    let (state, _, cookie) = begun(&running);
    let mut statuses = Vec::new();
    for _ in 0..60 {
        let (state, ..) = begun(&running);
        statuses.push(running.curl(&callback(&state), &PERSON).status);
    }
    assert_eq!(statuses, [vec![400; 50], vec![429; 10]].concat());
    assert_eq!(provider.seen("asked"), 50, "the provider is asked no more");
    assert_eq!(counted(&running, "sign_ins_throttled_total{with=\"provider\"}"), 10);
    // Neither is the store, and the attempt can come back.
    let calls = counted(&running, "session_store_calls_total");
    set_jar(&running, "");
    let refused = running.curl(&callback(&state), &["-H", "accept: text/html", "-H", &format!("cookie: {cookie}")]);
    assert_eq!((refused.status, refused.header("retry-after").as_deref()), (429, Some("5")), "{}", refused.head);
    assert!(refused.body.contains("Too many attempts") && !refused.head.contains("set-cookie"), "{}", refused.head);
    assert_eq!(counted(&running, "session_store_calls_total"), calls);
    assert!(audit(&running).contains("\"sign_in_throttled\"") && audit(&running).contains("\"too_many_failures\""));
    // A person of the same network is let in between two guesses.
    // The provider's clock went on meanwhile.
    clock.advance(SystemClock.now().since(clock.now()).max(Duration::from_secs(6)));
    set_jar(&running, "");
    let said = running.sign_in_there("/mine", "alice");
    assert_eq!(said.status, 303, "{}", said.body);
    assert!(jar(&running).contains("\t__Host-portcullis\t"));
}

/// A provider that hangs does not keep thousands of codes under way; whoever came too many does not lose the sign-in.
#[test]
fn codes_are_exchanged_some_tens_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut liar = Liar::start(folder.path());
    let running = gateway(&text(&section("corp", &liar.issuer("http"), "")));
    let all: Vec<_> = (0..70).map(|_| begun(&running)).collect();
    liar.lie(&json!({ "wrong": { "/token": { "delay": 4000 } } }));
    let told = answers(&running, &all);
    let busy: Vec<_> = all.into_iter().zip(&told).filter(|(_, told)| *told == "503").map(|(begun, _)| begun).collect();
    assert_eq!(told.iter().filter(|told| *told == "303").count(), 64, "{told:?}");
    assert_eq!(busy.len(), 6, "{told:?}");
    liar.lie(&json!({}));
    assert_eq!(answers(&running, &busy), vec!["303"; 6], "the attempt was not spent");
}

/// What these sign-ins are answered with when they come back all at once, over one connection.
fn answers(running: &Running, all: &[(String, String, String)]) -> Vec<String> {
    let config: Vec<String> = all
        .iter()
        .map(|(state, nonce, cookie)| {
            let address = format!("{}/.portcullis/oidc/corp/callback?state={state}&code={nonce}", running.base());
            format!(
                "url = \"{address}\"\nheader = \"cookie: {cookie}\"\nheader = \"accept: text/html\"\ninsecure\nsilent\n\
                 max-time = 60\noutput = /dev/null\nwrite-out = \"%{{url}} %{{http_code}}\\n\"\n"
            )
        })
        .collect();
    let file = running.folder.path().join("asked");
    std::fs::write(&file, config.join("next\n")).unwrap();
    let output = Command::new("curl").args(["--parallel", "--parallel-max", "100", "-K"]).arg(&file).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let status = |state: &str| said.lines().find(|line| line.contains(state)).and_then(|line| line.rsplit(' ').next());
    all.iter().map(|(state, ..)| status(state).unwrap_or("none").to_owned()).collect()
}
