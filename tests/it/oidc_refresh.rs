//! Refreshing at a provider that is slow, silent or away: it costs nobody the session, and nobody waits for what they do not need.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::clock::{Clock, SystemClock, TestClock};
use serde_json::{Value, json};

use crate::liar::{Liar, sign_in};
use crate::oidc::{audit, set_jar};
use crate::providers::{section, text};
use crate::support::{Running, Said, between, run_with};

/// A gateway before a liar, by a clock of the test's own. `/plain` is not told the access token.
struct Between {
    liar: Liar,
    running: Running,
    clock: Arc<TestClock>,
}

impl Between {
    fn start() -> Between {
        let folder = tempfile::tempdir().unwrap();
        let liar = Liar::start(folder.path());
        let route = "path     = \"/\"\nlogin = \"corp\"\naccess_token_header = \"X-Access-Token\"";
        let plain = "[[route]]\nname = \"plain\"\npath = \"/plain\"\naccess = \"authenticated\"\nupstream = \"app\"\n";
        let text = text(&section("corp", &liar.issuer("http"), ""))
            .replacen("path     = \"/\"", route, 1)
            .replace("idle_timeout = \"30m\"", "idle_timeout = \"12h\"");
        std::fs::write(folder.path().join("secret"), "a secret").unwrap();
        let clock = Arc::new(TestClock::at(SystemClock.now()));
        let running = run_with(folder, &format!("{text}\n{plain}"), clock.clone(), None);
        Between { liar, running, clock }
    }

    /// Signed in, with this access token, which lives for a hundred seconds.
    fn signed_in(access: &str) -> Between {
        let mut between = Between::start();
        between.liar.lie(&json!({ "token": tokens(access), "id": { "at_hash": null } }));
        assert_eq!(sign_in(&between.running).status, 303);
        assert_eq!(token(&between.running.curl("/", &[])).as_deref(), Some(access));
        between
    }

    fn asked(&mut self, path: &str, lie: &Value) -> u64 {
        self.liar.lie(lie)["asked"][path].as_u64().unwrap_or(0)
    }
}

fn tokens(access: &str) -> Value {
    json!({ "access_token": access, "refresh_token": access, "expires_in": 100 })
}

fn token(said: &Said) -> Option<String> {
    said.body.lines().find_map(|line| line.strip_prefix("x-access-token: ")).map(str::to_owned)
}

/// Until it holds; bounded.
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// By the order of things: when the provider is asked where to sign out, nothing is open here any more.
#[test]
fn a_provider_that_hangs_keeps_no_session_from_being_ended() {
    let mut between = Between::signed_in("first");
    let page = between.running.curl("/.portcullis/logout", &[]);
    let csrf = format!("csrf={}", between_quotes(&page.body));
    // Its description is old by then, and it does not say it again.
    between.clock.advance(Duration::from_secs(3601));
    let place = "/.well-known/openid-configuration";
    let hangs = json!({ "wrong": { place: { "delay": 60000 } } });
    let before = between.asked(place, &hangs);
    let kept = crate::oidc::jar(&between.running);
    let base = between.running.base();
    let jar = between.running.folder.path().join("kept");
    std::fs::write(&jar, &kept).unwrap();
    let still = || {
        let asking = std::process::Command::new("curl")
            .args(["-sk", "-i", "--max-time", "20", "-H", "accept: application/json", "-b", jar.to_str().unwrap()])
            .arg(format!("{base}/.portcullis/whoami"))
            .output();
        Said::read(asking.unwrap()).status
    };
    std::thread::scope(|scope| {
        let out = scope.spawn(|| between.running.curl("/.portcullis/logout", &["--data-urlencode", &csrf]));
        let liar = &mut between.liar;
        wait_for("the provider is asked", || liar.lie(&hangs)["asked"][place].as_u64() > Some(before));
        assert_eq!(still(), 401, "the session is open for as long as the provider hangs");
        let out = out.join().unwrap();
        assert!(out.status == 200 && !out.body.contains("0;url="), "{} {}", out.head, out.body);
    });
    assert!(audit(&between.running).contains("\"sign_out\""), "{}", audit(&between.running));
    set_jar(&between.running, &kept);
    assert_eq!(between.running.curl("/plain", &[]).status, 401);
}

fn between_quotes(body: &str) -> &str {
    between(body, "name=\"csrf\" value=\"", "\"")
}

/// A provider that has too much to do says nothing of the person.
#[test]
fn userinfo_that_is_busy_ends_no_session_and_takes_no_role() {
    let mut between = Between::signed_in("first");
    for status in [429, 408, 503] {
        let access = format!("after-{status}");
        between.clock.advance(Duration::from_secs(85));
        between.liar.lie(&json!({
            "token": tokens(&access), "id": null, "wrong": { "/userinfo": { "status": status } },
        }));
        wait_for("it is refreshed", || {
            let said = between.running.curl("/", &[]);
            assert_eq!(said.status, 200, "{status}: {}", said.body);
            assert!(said.body.contains("x-forwarded-groups: staff\n"), "{status}: {}", said.body);
            token(&said).as_ref() == Some(&access)
        });
    }
}
