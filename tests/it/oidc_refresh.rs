//! Refreshing at a provider that is slow, silent or away: it costs nobody the session, and nobody waits for what they do not need.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::clock::{Clock, SystemClock, TestClock};
use serde_json::{Value, json};

use crate::liar::{Liar, sign_in};
use crate::oidc::{audit, set_jar};
use crate::providers::{parameter, section, text};
use crate::sessions::Faulty;
use crate::support::{Running, Said, between, run_with};

/// A gateway before a liar, by a clock of the test's own. `/plain` is not told the access token.
struct Between {
    liar: Liar,
    running: Running,
    clock: Arc<TestClock>,
    store: Arc<Faulty>,
}

impl Between {
    fn start() -> Between {
        Between::start_with("[session]\n")
    }

    /// With this to begin the section of sessions.
    fn start_with(session: &str) -> Between {
        let folder = tempfile::tempdir().unwrap();
        let liar = Liar::start(folder.path());
        let route = "path     = \"/\"\nlogin = \"corp\"\naccess_token_header = \"X-Access-Token\"";
        let plain = "[[route]]\nname = \"plain\"\npath = \"/plain\"\naccess = \"authenticated\"\nupstream = \"app\"\n";
        let text = text(&section("corp", &liar.issuer("http"), ""))
            .replacen("path     = \"/\"", route, 1)
            .replacen("[session]\n", session, 1)
            .replace("idle_timeout = \"30m\"", "idle_timeout = \"12h\"");
        std::fs::write(folder.path().join("secret"), "a secret").unwrap();
        let clock = Arc::new(TestClock::at(SystemClock.now()));
        let store = Arc::new(Faulty::default());
        let running = run_with(folder, &format!("{text}\n{plain}"), clock.clone(), Some(store.clone()));
        Between { liar, running, clock, store }
    }

    /// Signed in, with this access token, which lives for a hundred seconds.
    fn signed_in(access: &str) -> Between {
        let mut between = Between::start();
        between.liar.lie(&json!({ "token": tokens(access), "id": { "at_hash": null } }));
        assert_eq!(sign_in(&between.running).status, 303);
        assert_eq!(token(&between.running.curl("/", &[])).as_deref(), Some(access));
        between
    }

    /// How often it was asked for this, from now on with this lie.
    fn asked(&mut self, path: &str, lie: &Value) -> u64 {
        self.liar.lie(lie)["asked"][path].as_u64().unwrap_or(0)
    }

    /// Until it was asked for tokens once more than `before`.
    fn wait_until_asked(&mut self, before: u64, lie: &Value) {
        wait_for("the provider is asked for tokens", || self.asked("/token", lie) > before);
    }

    /// Until applications are handed this one.
    fn wait_for_token(&self, access: &str) {
        wait_for(access, || {
            let said = self.running.curl("/", &[]);
            assert_eq!(said.status, 200, "{} {}", said.head, said.body);
            token(&said).as_deref() == Some(access)
        });
    }
}

fn tokens(access: &str) -> Value {
    json!({ "access_token": access, "refresh_token": access, "expires_in": 100 })
}

fn token(said: &Said) -> Option<String> {
    said.body.lines().find_map(|line| line.strip_prefix("x-access-token: ")).map(str::to_owned)
}

/// Until it holds; bounded.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
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
        let asking = Command::new("curl")
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

/// It answers no request for tokens until it is told another lie.
fn holds() -> Value {
    json!({ "still": true, "wrong": { "/token": { "held": true } } })
}

/// What it answers to whoever waits and comes.
fn gives(access: &str) -> Value {
    json!({ "token": tokens(access), "id": null, "userinfo": { "groups": ["eng"] } })
}

/// In one request the session gets new tokens of the gateway's and of its provider's, and other roles by these: who calls is asked
/// again by a refresh token that is used by then.
#[test]
fn roles_that_change_while_a_session_in_tokens_is_renewed_end_it_for_nobody() {
    for grace in ["0s", "10s"] {
        let jwt = format!("[session]\nmode = \"jwt\"\njwt = {{ grace = \"{grace}\" }}\n");
        let mut between = Between::start_with(&jwt);
        between.liar.lie(&json!({ "token": tokens("first"), "id": { "at_hash": null, "groups": ["eng-admins"] } }));
        assert_eq!(sign_in(&between.running).status, 303);
        assert_eq!(between.running.curl("/admin", &[]).status, 200);
        let refresh = || {
            let jar = between.running.jar();
            jar.lines().find_map(|line| line.split_once("\t__Host-portcullis-refresh\t")).unwrap().1.to_owned()
        };
        for (access, groups, admin) in [("second", "eng", 403), ("third", "eng-admins", 200)] {
            let before = refresh();
            between.clock.advance(Duration::from_secs(400));
            between.liar.lie(&json!({ "token": tokens(access), "id": null, "userinfo": { "groups": [groups] } }));
            let said = between.running.curl("/", &[]);
            assert_eq!((said.status, token(&said).as_deref()), (200, Some(access)), "{} {}", said.head, said.body);
            assert_ne!(refresh(), before, "renewed on the way");
            assert_eq!(between.running.curl("/admin", &[]).status, admin, "{grace} {access}");
        }
        assert!(!audit(&between.running).contains("refresh_token_reused"));
    }
}

/// A provider that gives a new refresh token takes the old one back: it must not be lost with whoever happened to ask.
#[test]
fn a_client_that_leaves_during_a_refresh_loses_nothing() {
    let mut between = Between::signed_in("first");
    between.clock.advance(Duration::from_secs(150));
    let before = between.asked("/token", &holds());
    let mut leaves = Command::new("curl")
        .args(["-sk", "--max-time", "20", "-b", between.running.folder.path().join("jar").to_str().unwrap()])
        .arg(format!("{}/", between.running.base()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    between.wait_until_asked(before, &holds());
    leaves.kill().unwrap();
    leaves.wait().unwrap();
    // The gateway has seen it go.
    wait_for("a line of it", || {
        let lines = between.running.lines.0.lock().unwrap();
        lines.iter().any(|line| line.contains("\"client_left\""))
    });
    between.liar.lie(&gives("second"));
    between.wait_for_token("second");
    assert_eq!(between.asked("/token", &json!({})), before + 1, "the refresh token is used once");
}

/// By the order of things: they are answered before the provider answers.
#[test]
fn nobody_waits_for_a_refresh_while_the_token_counts() {
    let mut between = Between::signed_in("first");
    between.clock.advance(Duration::from_secs(85));
    let before = between.asked("/token", &holds());
    for path in ["/", "/plain", "/"] {
        let said = between.running.curl(path, &[]);
        let handed = (path == "/").then(|| "first".to_owned());
        assert_eq!((said.status, token(&said)), (200, handed), "{}", said.body);
    }
    between.wait_until_asked(before, &holds());
    between.liar.lie(&gives("second"));
    between.wait_for_token("second");
    assert_eq!(between.asked("/token", &json!({})), before + 1, "one refresh for all of them");
}

/// The token is over: who hands it on waits; who does not, only until it is known that the provider is away.
#[test]
fn a_pause_counts_from_the_end_of_what_failed() {
    let mut between = Between::signed_in("first");
    between.clock.advance(Duration::from_secs(150));
    let before = between.asked("/token", &holds());
    let said = between.running.curl("/plain", &[]);
    assert_eq!((said.status, token(&said)), (200, None), "an outage signs nobody out: {}", said.body);
    assert_eq!(between.asked("/token", &holds()), before + 1);
    // Begun six seconds ago, but it took five.
    between.clock.advance(Duration::from_secs(6));
    assert_eq!(between.running.curl("/", &[]).status, 200);
    assert_eq!(between.asked("/token", &holds()), before + 1, "it is left alone");
    between.clock.advance(Duration::from_secs(6));
    assert_eq!(between.running.curl("/plain", &[]).status, 200);
    between.wait_until_asked(before + 1, &holds());
    between.liar.lie(&gives("second"));
    between.wait_for_token("second");
    assert_eq!(between.asked("/token", &json!({})), before + 2, "the second one was under way when it was answered");
}

/// OpenID Connect Core §12.2: an answer need not bring an ID token, and userinfo need not tell of roles.
#[test]
fn what_a_refresh_does_not_tell_stays_as_it_was() {
    let mut between = Between::signed_in("first");
    for (access, lie, roles) in [
        ("silent", json!({ "id": null, "userinfo": { "groups": null } }), Some("staff")),
        ("more", json!({ "id": null, "userinfo": { "groups": ["eng-admins"] } }), Some("admin")),
        ("silent again", json!({ "id": null, "userinfo": { "groups": null } }), Some("admin")),
        ("none", json!({ "id": null, "userinfo": { "groups": [] } }), None),
    ] {
        let mut lie = lie;
        lie["token"] = tokens(access);
        between.clock.advance(Duration::from_secs(85));
        between.liar.lie(&lie);
        between.wait_for_token(access);
        let page = between.running.curl("/", &[]).body;
        let told = page.lines().find_map(|line| line.strip_prefix("x-forwarded-groups: "));
        assert_eq!(told, roles, "{access}: {page}");
    }
}

/// The application that believes the header of one route may believe it at all of them.
#[test]
fn no_client_hands_an_application_an_access_token() {
    let between = Between::signed_in("first");
    for name in ["X-Access-Token", "x_access_token", "X.Access.Token", "HTTP_X_ACCESS_TOKEN"] {
        let forged = format!("{name}: forged");
        let [own, plain] = ["/", "/plain"].map(|path| between.running.curl(path, &["-H", &forged]));
        assert_eq!((own.status, plain.status), (200, 200));
        assert_eq!(token(&own).as_deref(), Some("first"), "{name}");
        for page in [&own, &plain] {
            assert!(!page.body.contains("forged"), "{name}: {}", page.body);
        }
    }
    let other = between.running.curl("/plain", &["-H", "Authorization: Basic YTpi"]);
    assert!(other.body.contains("Basic YTpi"), "{}", other.body);
}

/// Userinfo that is for another application's tokens tells nothing. Where no ID token tells anything either nobody vouches for the person.
#[test]
fn a_refusal_of_userinfo_counts_where_nobody_else_tells_who_it_is() {
    let mut between = Between::signed_in("first");
    let refuses = json!({ "/userinfo": { "status": 401 } });
    let told = |groups: Value| json!({ "at_hash": null, "nonce": null, "name": null, "groups": groups });
    for (access, groups, roles) in [
        ("second", json!(["eng-admins"]), Some("admin")),
        ("third", Value::Null, None),
        ("fourth", json!(["eng"]), Some("staff")),
    ] {
        between.clock.advance(Duration::from_secs(85));
        between.liar.lie(&json!({ "token": tokens(access), "id": told(groups), "wrong": refuses }));
        between.wait_for_token(access);
        let page = between.running.curl("/", &[]).body;
        let told = page.lines().find_map(|line| line.strip_prefix("x-forwarded-groups: "));
        assert_eq!(told, roles, "{access}: {page}");
    }
    between.clock.advance(Duration::from_secs(85));
    between.liar.lie(&json!({ "token": tokens("fifth"), "id": null, "wrong": refuses }));
    wait_for("the session is over", || between.running.curl("/", &[]).status == 401);
}

/// RFC 6749 §5.1 has no empty refresh token. To bring one would end the session, by an `invalid_grant` that says nothing of it.
#[test]
fn an_empty_refresh_token_is_none() {
    let mut between = Between::start();
    let tokens = json!({ "access_token": "first", "refresh_token": "", "expires_in": 100 });
    between.liar.lie(&json!({ "token": tokens, "id": { "at_hash": null } }));
    assert_eq!(sign_in(&between.running).status, 303);
    let before = between.asked("/token", &holds());
    between.clock.advance(Duration::from_secs(95));
    assert_eq!(token(&between.running.curl("/", &[])).as_deref(), Some("first"));
    between.clock.advance(Duration::from_secs(10));
    assert_eq!(between.running.curl("/plain", &[]).status, 200);
    assert_eq!(between.asked("/token", &holds()), before, "there is nothing to ask for more with");
}

#[test]
fn a_refresh_that_panics_lets_nobody_through_and_is_begun_anew() {
    let mut between = Between::signed_in("first");
    between.clock.advance(Duration::from_secs(150));
    between.store.break_shelf(true);
    between.liar.lie(&gives("second"));
    for _ in 0..2 {
        assert_eq!(between.running.curl("/", &[]).status, 500);
    }
    between.store.break_shelf(false);
    between.wait_for_token("second");
}

/// The store goes away after the provider has given new tokens and taken the old ones back, and before they are written. They are
/// handed on from memory, nobody brings the old ones again, and they are written when it is back.
#[test]
fn tokens_that_the_store_does_not_take_are_not_lost() {
    let mut between = Between::signed_in("first");
    between.clock.advance(Duration::from_secs(85));
    let before = between.asked("/token", &holds());
    assert_eq!(token(&between.running.curl("/", &[])).as_deref(), Some("first"));
    between.wait_until_asked(before, &holds());
    between.store.fail();
    between.liar.lie(&gives("second"));
    wait_for("it is tried again", || between.store.refused() > 1);
    between.wait_for_token("second");
    // What is in memory is looked up again, and there is nobody to ask.
    between.clock.advance(Duration::from_secs(6));
    assert_eq!(between.running.curl("/", &[]).status, 503);
    between.store.come_back();
    between.wait_for_token("second");
    assert_eq!(between.asked("/token", &json!({})), before + 1, "the old one was used again");
    between.clock.advance(Duration::from_secs(85));
    between.liar.lie(&gives("third"));
    between.wait_for_token("third");
    let seen = between.liar.lie(&json!({}));
    assert!(seen["body"].as_str().unwrap().contains("refresh_token=second"), "{seen}");
}

/// What stands in an answer of a provider that is broken or busy is not its word: it ends no session.
#[test]
fn an_invalid_grant_of_a_provider_that_is_broken_ends_no_session() {
    let mut between = Between::signed_in("first");
    between.clock.advance(Duration::from_secs(150));
    for status in [500, 503, 429, 408] {
        let wrong = json!({ "/token": { "status": status, "text": "{\"error\":\"invalid_grant\"}" } });
        let before = between.asked("/token", &json!({ "wrong": wrong }));
        assert_eq!(between.running.curl("/", &[]).status, 200, "{status}");
        assert_eq!(between.asked("/token", &json!({})), before + 1, "{status}");
        between.clock.advance(Duration::from_secs(7));
    }
    between.liar.lie(&gives("second"));
    between.wait_for_token("second");
}

/// What the provider said last of roles counts also where it is in the file no more, at a node that has nothing of it in memory, and
/// after it was put back.
#[test]
fn a_role_that_was_taken_away_stays_away_when_the_provider_leaves_the_file() {
    let local = "[login.local]\nusers = \"users.toml\"\ndemo_user = \"demo\"\n";
    let (liar_folder, store) = (tempfile::tempdir().unwrap(), Arc::new(Faulty::default()));
    let mut liar = Liar::start(liar_folder.path());
    let clock = Arc::new(TestClock::at(SystemClock.now()));
    let shared = |logins: &str| text(logins).replace("[session]", "[session]\nsecret = { file = \"shared\" }");
    let route = "path     = \"/\"\nlogin = \"corp\"\naccess_token_header = \"X-Access-Token\"";
    let corp = section("corp", &liar.issuer("http"), "user_prefix = \"corp:\"");
    let with = shared(&format!("{local}{corp}")).replacen("path     = \"/\"", route, 1);
    let node = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), "a secret").unwrap();
        std::fs::write(folder.path().join("shared"), "a secret of at least thirty-two bytes\n").unwrap();
        run_with(folder, text, clock.clone(), Some(store.clone()))
    };
    let one = node(&with);
    let admin = json!({ "token": tokens("first"), "id": { "at_hash": null, "groups": ["eng-admins"] } });
    liar.lie(&admin);
    let start = one.curl("/.portcullis/oidc/corp/start", &["-H", "accept: text/html"]).header("location").unwrap();
    let (state, code) = (parameter(&start, "state"), parameter(&start, "nonce"));
    let back = one.curl(&format!("/.portcullis/oidc/corp/callback?state={state}&code={code}"), &[]);
    assert_eq!((back.status, one.curl("/admin", &[]).status), (303, 200), "{}", back.body);
    clock.advance(Duration::from_secs(85));
    liar.lie(&gives("second"));
    wait_for("the role is gone", || one.curl("/admin", &[]).status == 403);
    let two = node(&shared(local));
    set_jar(&two, &crate::oidc::jar(&one).replace(&one.port().to_string(), &two.port().to_string()));
    let said = two.curl("/", &[]);
    assert_eq!((said.status, two.curl("/admin", &[]).status), (200, 403), "{}", said.body);
    assert!(said.body.contains("x-forwarded-groups: staff\n") && !said.body.contains("second"), "{}", said.body);
    // Nobody is asked for what is due by then.
    let asked = liar.asked("/token");
    clock.advance(Duration::from_secs(300));
    assert_eq!((two.curl("/admin", &[]).status, liar.asked("/token")), (403, asked));
    two.reload(&with).unwrap();
    assert_eq!(two.curl("/admin", &[]).status, 403);
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
        between.wait_for_token(&access);
        let said = between.running.curl("/", &[]);
        assert!(said.body.contains("x-forwarded-groups: staff\n"), "{status}: {}", said.body);
    }
}
