//! A provider that lies, and the ways a client proves who it is. What the gateway asks for is looked at from the other side.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use portcullis::clock::{Clock, SystemClock, TestClock};
use portcullis::session::store::Memory;
use portcullis::session::{Keep, SessionStore, ShelfKey, UserKey};
use rcgen::{ExtendedKeyUsagePurpose, KeyPair};
use serde_json::{Value, json};

use crate::oidc::audited;
use crate::providers::{gateway, gateway_in, parameter, section, text};
use crate::servers::Authority;
use crate::support::{Running, Said, between, run_with};
use crate::tools::{Lines, Service, program, python};

const PERSON: [&str; 2] = ["-H", "accept: text/html"];

/// The provider; it ends with the test.
pub struct Liar {
    lines: Lines,
    port: u64,
}

impl Liar {
    pub fn start(folder: &Path) -> Liar {
        let mut lines = Lines::start(python("node").arg(program("lying_provider.mjs")).arg(folder));
        let said: Value = serde_json::from_str(&lines.ask("{}")).unwrap();
        Liar { lines, port: said["port"].as_u64().unwrap() }
    }

    pub fn issuer(&self, scheme: &str) -> String {
        format!("{scheme}://localhost:{}", self.port)
    }

    /// Its next lie; answers what it saw at its token endpoint last.
    pub fn lie(&mut self, lie: &Value) -> Value {
        let said: Value = serde_json::from_str(&self.lines.ask(&lie.to_string())).unwrap();
        said["seen"].clone()
    }

    /// How often it was asked for this.
    pub fn asked(&mut self, path: &str) -> u64 {
        self.lie(&Value::Null)["asked"][path].as_u64().unwrap_or(0)
    }
}

/// A sign-in up to the callback's answer. The code is the nonce.
pub fn sign_in(running: &Running) -> Said {
    std::fs::write(running.folder.path().join("jar"), "").unwrap();
    let start = running.curl("/.portcullis/login", &PERSON);
    let start = start.header("location").unwrap_or_else(|| panic!("{} {}", start.head, start.body));
    let (state, nonce) = (parameter(&start, "state"), parameter(&start, "nonce"));
    running.curl(&format!("/.portcullis/oidc/corp/callback?state={state}&code={nonce}"), &PERSON)
}

/// The reason of the `count`th callback; lines are written a moment after the answer.
fn reason(running: &Running, count: usize) -> String {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let lines = running.lines.0.lock().unwrap().join("\n");
        let mut of_callbacks = lines.lines().filter(|line| line.contains("\"access\"") && line.contains("/callback"));
        if let Some(line) = of_callbacks.nth(count) {
            return serde_json::from_str::<Value>(line).unwrap()["reason"].as_str().unwrap().to_owned();
        }
        assert!(Instant::now() < until, "no line: {lines}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// ASVS 10.5.1 to 10.5.4, 9.2.2; RFC 9700 §4.5.
#[test]
fn hostile_id_tokens_sign_nobody_in() {
    let folder = tempfile::tempdir().unwrap();
    let mut liar = Liar::start(folder.path());
    let running = gateway(&text(&section("corp", &liar.issuer("http"), "")));
    let mut seen = 0;
    for line in include_str!("../data/hostile_id_tokens.txt").lines().filter(|line| !line.starts_with('#')) {
        let parts: Vec<&str> = line.splitn(3, '|').map(str::trim).collect();
        liar.lie(&serde_json::from_str(parts[2]).unwrap_or_else(|error| panic!("{line}: {error}")));
        let said = sign_in(&running);
        let reason = reason(&running, seen);
        assert_eq!(said.status.to_string(), parts[0], "{line}: {reason} {}", said.body);
        assert_eq!(reason, parts[1], "{line}");
        let words = match (parts[0], reason.starts_with("refused_")) {
            ("503", _) => "does not answer at the moment",
            ("502", true) => "refuses this site",
            ("502", false) => "makes no sense",
            _ => "",
        };
        assert!(said.body.contains(words), "{line}: {}", said.body);
        assert_eq!(said.head.contains("__Host-portcullis="), said.status == 303, "{line}");
        assert!(!said.body.contains("access token") && !said.body.contains("eyJ"), "{line}: {}", said.body);
        seen += 1;
        // One line each, by the words of the table; who it was only where all that was signed holds.
        let (lines, is_in) = (audited(&running), said.status == 303);
        let told = lines.last().unwrap_or_else(|| panic!("{line}"));
        assert_eq!(lines.len(), seen, "{line}: {told}");
        let (event, reason) = if is_in { ("sign_in", Value::Null) } else { ("sign_in_refused", json!(parts[1])) };
        assert_eq!((&told["event"], &told["reason"]), (&json!(event), &reason), "{line}");
        assert_eq!((&told["provider"], &told["peer"]), (&json!(liar.issuer("http")), &json!("127.0.0.1")), "{line}");
        let known = is_in || parts[2].contains("/userinfo") || parts[2].contains("\"userinfo\"");
        assert_eq!(told["subject"], if known { json!("alice") } else { Value::Null }, "{line}: {told}");
        assert!(!lines.iter().any(|told| told.to_string().contains("root")), "{line}");
    }
    assert!(seen > 40);
    // What a refusal says is nothing: the last of the table was let in without a role.
    let lie = json!({ "sub": "alice", "groups": ["eng-admins"] }).to_string();
    liar.lie(&json!({ "id": { "groups": null }, "wrong": { "/userinfo": { "status": 400, "text": lie } } }));
    assert_eq!(sign_in(&running).status, 303);
    let page = running.curl("/", &[]).body;
    assert!(page.contains("x-forwarded-user: alice\n") && !page.contains("groups"), "{page}");
    // What the ID token lacks is asked of userinfo, and what was signed counts before it.
    liar.lie(&json!({ "id": { "groups": null }, "userinfo": { "name": "Mallory" } }));
    assert_eq!(sign_in(&running).status, 303);
    let page = running.curl("/", &[]).body;
    assert!(page.contains("x-forwarded-groups: admin\n") && page.contains("preferred-username: Alice\n"), "{page}");
}

/// An ID token is as long as its groups are many (two hundred at most at Entra, eighteen thousand bytes were seen of Okta's). It is no hint for
/// signing out then, because no server takes an address of that length.
#[test]
fn a_person_of_many_groups_signs_in_and_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut liar = Liar::start(folder.path());
    let running = gateway(&text(&section("corp", &liar.issuer("http"), "")));
    let groups = |count: usize| -> Vec<String> {
        let others = (1..count).map(|n| format!("{n:08x}-0000-4000-8000-000000000000"));
        others.chain(["eng-admins".to_owned()]).collect()
    };
    let end = format!("{}/end", liar.issuer("http"));
    for (count, status, hints) in
        [(1, 303, true), (100, 303, true), (200, 303, false), (400, 303, false), (3_000, 502, false)]
    {
        liar.lie(&json!({ "id": { "groups": groups(count) }, "discovery": { "end_session_endpoint": end } }));
        let said = sign_in(&running);
        assert_eq!(said.status, status, "{count}: {}", said.body);
        if status != 303 {
            assert_eq!(audited(&running).last().unwrap()["reason"], "token_too_large");
            continue;
        }
        assert!(running.curl("/", &[]).body.contains("x-forwarded-groups: admin\n"), "{count}");
        let form = running.curl("/.portcullis/logout", &PERSON);
        let csrf = between(&form.body, "name=\"csrf\" value=\"", "\"").to_owned();
        let out = running.curl("/.portcullis/logout", &["--data-urlencode", &format!("csrf={csrf}")]);
        assert_eq!(out.status, 200, "{count}: {}", out.body);
        let page = out.body.replace("&#x2f;", "/");
        let there = between(&page, "href=\"http", "\"");
        assert!(there.contains("/end?") && there.contains("client_id=portcullis"), "{count}: {there}");
        assert_eq!(there.contains("id_token_hint="), hints, "{count}: {there}");
        assert!(there.len() < 8_000, "{count}: {}", there.len());
    }
}

/// OpenID Connect Core §5.1: `email_verified` is said of the `email` beside it. Who verified an own address is not let in by another
/// that the ID token names.
#[test]
fn an_address_is_verified_by_the_word_beside_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut liar = Liar::start(folder.path());
    let by_email = "user_claim = \"email\"\nallow_emails = [\"ceo@corp.example\"]";
    let running = gateway(&text(&section("corp", &liar.issuer("http"), by_email)));
    let (ceo, mallory) = ("ceo@corp.example", "mallory@evil.example");
    let (yes, no, unsaid) = (json!(true), json!(false), Value::Null);
    for (signed, told, status) in [
        ((json!(ceo), &unsaid), (json!(mallory), &yes), 502),
        ((json!(ceo), &no), (json!(mallory), &yes), 502),
        ((json!(ceo), &unsaid), (Value::Null, &yes), 502),
        ((Value::Null, &yes), (json!(ceo), &unsaid), 502),
        ((json!(mallory), &yes), (json!(ceo), &yes), 403),
        ((json!(ceo), &no), (json!(ceo), &yes), 502),
        ((json!(ceo), &unsaid), (json!(ceo), &no), 502),
        ((json!(ceo), &yes), (json!(mallory), &no), 303),
        ((json!(ceo), &yes), (json!(ceo), &no), 303),
        ((json!(ceo), &unsaid), (json!(ceo), &yes), 303),
        ((Value::Null, &unsaid), (json!(ceo), &yes), 303),
        ((Value::Null, &no), (json!(ceo), &yes), 303),
    ] {
        let id = json!({ "groups": null, "email": signed.0, "email_verified": signed.1 });
        let lie = json!({ "id": id, "userinfo": { "email": told.0, "email_verified": told.1 } });
        liar.lie(&lie);
        assert_eq!(sign_in(&running).status, status, "{lie}");
        let page = running.curl("/", &[]);
        assert_eq!(page.status, if status == 303 { 200 } else { 401 }, "{lie}");
        assert!(status != 303 || page.body.contains("x-forwarded-user: ceo@corp.example\n"), "{lie}: {}", page.body);
    }
    // A value of no meaning where the address stands is the signed word all the same.
    let id = json!({ "groups": null, "email": 7, "email_verified": true });
    liar.lie(&json!({ "id": id, "userinfo": { "email": ceo, "email_verified": true } }));
    assert_eq!(sign_in(&running).status, 502);
}

/// CWE-532: a provider that puts tokens and addresses where they do not belong puts them into no log. What is wrong, and where, is
/// said.
#[test]
fn answers_that_cannot_be_read_are_not_quoted_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut liar = Liar::start(folder.path());
    std::fs::write(folder.path().join("secret"), "a secret").unwrap();
    std::fs::write(folder.path().join("gateway.toml"), text(&section("corp", &liar.issuer("http"), ""))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let program = Service::start(command.args(["run", "--config"]).arg(folder.path().join("gateway.toml")));
    let base = format!("https://localhost:{}", program.says_port("https://localhost:"));
    let jar = folder.path().join("jar");
    let ask = |path: &str| {
        let mut asked = Command::new("curl");
        asked.args(["-sk", "-i", "--max-time", "20", "-H", "accept: text/html", "-b"]).arg(&jar).arg("-c").arg(&jar);
        Said::read(asked.arg(format!("{base}{path}")).output().unwrap())
    };
    let kind = "a value of the wrong type, or none where one is needed, at line 1, column";
    let (token, userinfo) =
        ("the answer of the token endpoint cannot be read", "the answer of userinfo cannot be read");
    let mut said = String::new();
    for (path, status, answer, what, place) in [
        ("/token", 200, r#""{\"access_token\": \"s3cret\"}""#, token, format!("{kind} 32")),
        (
            "/token",
            200,
            r#"{"access_token":"s3cret","expires_in":"s3cret"}"#,
            token,
            format!("{kind} 47, in `expires_in`"),
        ),
        ("/token", 200, r#"{"access_token":{"s3cret":1}}"#, token, format!("{kind} 16, in `access_token`")),
        ("/token", 200, r#"{"access_token":"s3cret","token_type":"Bearer","id_token":["s3cret"]}"#, token, kind.into()),
        ("/token", 200, r#"{"s3cret":tru}"#, token, "no JSON at line 1".into()),
        ("/token", 200, r#"{"access_token":"s3cret"#, token, "an end too early at line 1".into()),
        ("/token", 200, "", token, "it is empty".into()),
        ("/token", 400, r#""s3cret""#, token, kind.into()),
        ("/token", 400, r#"{"error":["s3cret"]}"#, token, kind.into()),
        ("/userinfo", 200, r#""{\"email\": \"s3cret@corp.example\"}""#, userinfo, format!("{kind} 38")),
        ("/userinfo", 200, r#"["s3cret"]"#, userinfo, kind.into()),
    ] {
        liar.lie(&json!({ "id": { "groups": null }, "wrong": { path: { "status": status, "text": answer } } }));
        std::fs::write(&jar, "").unwrap();
        let start = ask("/.portcullis/login").header("location").unwrap();
        let (state, nonce) = (parameter(&start, "state"), parameter(&start, "nonce"));
        let back = ask(&format!("/.portcullis/oidc/corp/callback?state={state}&code={nonce}"));
        assert_eq!(back.status, 502, "{answer}: {}", back.body);
        let lines = program.said_until(what);
        assert!(lines.lines().last().unwrap().contains(&place), "{answer}: {lines}");
        said.push_str(&(lines + &back.head + &back.body));
    }
    assert!(!said.contains("s3cret"), "{said}");
}

/// ASVS 6.8.4, 10.3.4: what was asked for is not confirmed, so nobody is let in, and nobody is sent in circles.
#[test]
fn a_sign_in_that_is_weaker_or_older_than_asked_for_is_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let mut liar = Liar::start(folder.path());
    let route = "path     = \"/\"\nlogin = \"corp\"\nmax_auth_age = \"1m\"\nacr = [\"gold\"]";
    let text = text(&section("corp", &liar.issuer("http"), "")).replacen("path     = \"/\"", route, 1);
    let running = gateway(&text);
    for (lie, status) in [
        (json!({ "id": { "acr": "gold" } }), 303),
        (json!({ "id": { "acr": "silver" } }), 403),
        (json!({}), 403),
        (json!({ "id": { "acr": "gold", "auth_time": -300 } }), 403),
        (json!({ "id": { "acr": "gold", "auth_time": null } }), 502),
    ] {
        liar.lie(&lie);
        std::fs::write(running.folder.path().join("jar"), "").unwrap();
        let page = running.curl("/vault", &PERSON).header("location").unwrap();
        let start = running.curl(&page, &PERSON).header("location").unwrap();
        let (state, nonce) = (parameter(&start, "state"), parameter(&start, "nonce"));
        let said = running.curl(&format!("/.portcullis/oidc/corp/callback?state={state}&code={nonce}"), &PERSON);
        assert_eq!(said.status, status, "{lie}: {}", said.body);
        assert_eq!(said.body.contains("stronger sign-in"), status == 403, "{lie}");
        let told = audited(&running).pop().unwrap();
        let who = if status == 502 { Value::Null } else { json!("alice") };
        assert_eq!((&told["subject"], &told["provider"]), (&who, &json!(liar.issuer("http"))), "{lie}: {told}");
        assert_eq!(running.curl("/vault", &[]).status, if status == 303 { 200 } else { 401 }, "{lie}");
    }
}

/// A provider that says the oldest that counts, and nodes whose clocks differ: whoever comes back reaches the page, or is told.
#[test]
fn nobody_is_sent_to_sign_in_again_in_circles() {
    let folder = tempfile::tempdir().unwrap();
    let mut liar = Liar::start(folder.path());
    let route = "path     = \"/\"\nlogin = \"corp\"\nmax_auth_age = \"1m\"";
    let text = text(&section("corp", &liar.issuer("http"), "")).replacen("path     = \"/\"", route, 1);
    std::fs::write(folder.path().join("secret"), "a secret").unwrap();
    let clock = Arc::new(TestClock::at(SystemClock.now()));
    let running = run_with(folder, &text, clock.clone(), None);
    // To the page, and on to where that leads.
    let to_start = |page: &str| running.curl(page, &PERSON).header("location").map(|to| running.curl(&to, &PERSON));
    let there_and_back = |start: &Said| {
        let start = start.header("location").unwrap_or_else(|| panic!("{} {}", start.head, start.body));
        let (state, nonce) = (parameter(&start, "state"), parameter(&start, "nonce"));
        running.curl(&format!("/.portcullis/oidc/corp/callback?state={state}&code={nonce}"), &PERSON)
    };
    liar.lie(&json!({ "id": { "auth_time": -62 } }));
    let back = there_and_back(&to_start("/vault").unwrap());
    assert_eq!((back.status, back.header("location").as_deref()), (303, Some("/vault")));
    clock.advance(Duration::from_millis(4_900));
    assert_eq!(running.curl("/vault", &PERSON).status, 200);
    clock.advance(Duration::from_millis(101));
    assert_eq!(running.curl("/vault", &PERSON).status, 303, "no longer than for the way back");
    liar.lie(&json!({ "id": { "auth_time": 70, "iat": -120, "exp": 120 } }));
    let back = there_and_back(&to_start("/vault").unwrap());
    assert_eq!((back.status, back.header("location").as_deref()), (303, Some("/vault")));
    // By the clock of another node that is too long ago. (The provider counts from the beginning of this test.)
    clock.advance(Duration::from_secs(61));
    let told = to_start("/vault").unwrap();
    assert!(told.status == 403 && told.body.contains("A stronger sign-in is needed"), "{} {}", told.head, told.body);
    let line = audited(&running).pop().unwrap();
    assert_eq!((&line["event"], &line["reason"]), (&json!("sign_in_refused"), &json!("sign_in_still_lacking")));
    // The person may try again, and another page is another matter.
    let back = there_and_back(&to_start("/vault").unwrap());
    assert_eq!((back.status, back.header("location").as_deref()), (303, Some("/vault")));
    clock.advance(Duration::from_secs(61));
    assert_eq!(to_start("/other").unwrap().status, 303);
    assert_eq!(to_start("/vault").unwrap().status, 403);
}

/// ASVS 10.5.3, RFC 9700 §4.4: a description that is somebody else's, or leads astray, is not used.
#[test]
fn a_description_that_cannot_be_used_is_told_by_check_and_signs_nobody_in() {
    for (lie, told) in [
        (
            json!({ "discovery": { "issuer": "https://evil.example" } }),
            "the two have to be the same to the last character",
        ),
        (
            json!({ "discovery": { "token_endpoint": "http://evil.example/token" } }),
            "its `token_endpoint` is not https",
        ),
        (json!({ "discovery": { "jwks_uri": null } }), "it has no `jwks_uri`"),
        (json!({ "wrong": { "/.well-known/openid-configuration": { "status": 404 } } }), "the provider answers 404"),
        (
            json!({ "wrong": { "/.well-known/openid-configuration": { "redirect": "https://evil.example" } } }),
            "redirect",
        ),
        (json!({ "wrong": { "/jwks": { "text": "{\"keys\":[]}" } } }), "no key"),
        (json!({ "wrong": { "/jwks": { "text": "{\"keys\":\"s3cret" } } }), "not a JSON Web Key Set"),
        (
            json!({ "wrong": { "/.well-known/openid-configuration": { "text": "{\"issuer\":[\"s3cret\"]}" } } }),
            "a value of the wrong type, or none where one is needed, at line 1, column 10",
        ),
        (
            json!({ "wrong": { "/.well-known/openid-configuration": { "text": "\"s3cret\"" } } }),
            "a value of the wrong type, or none where one is needed, at line 1, column 8",
        ),
        (json!({}), "does not list the scopes `profile`, `email`"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut liar = Liar::start(folder.path());
        liar.lie(&lie);
        let text = text(&section("corp", &liar.issuer("http"), ""));
        let running = gateway(&text);
        if lie.get("discovery").is_some() {
            assert_eq!(running.curl("/.portcullis/login", &PERSON).status, 502, "{lie}");
        }
        std::fs::write(running.folder.path().join("gateway.toml"), &text).unwrap();
        let checked = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["check", "--online", "--config"])
            .arg(running.folder.path().join("gateway.toml"))
            .output()
            .unwrap();
        let said = String::from_utf8(checked.stderr).unwrap();
        assert!(said.contains("login.oidc.corp: ") && said.contains(told), "{lie}: {said}");
        assert!(!said.contains("s3cret"), "{lie}: {said}");
        assert_eq!(checked.status.code(), Some(if lie == json!({}) { 0 } else { 2 }), "{said}");
    }
}

fn form(body: &Value, name: &str) -> Option<String> {
    let body = body.as_str().unwrap().to_owned();
    form_urlencoded::parse(body.as_bytes()).find(|(field, _)| field == name).map(|(_, value)| value.into_owned())
}

#[test]
fn the_client_proves_who_it_is_as_configured_and_in_no_other_way() {
    let folder = tempfile::tempdir().unwrap();
    let mut liar = Liar::start(folder.path());
    let basic = section("corp", &liar.issuer("http"), "");
    let seen = |liar: &mut Liar, text: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let running = gateway_in(folder, text);
        let said = sign_in(&running);
        assert_eq!(said.status, 303, "{}", said.body);
        liar.lie(&json!({}))
    };
    let said = seen(&mut liar, &text(&basic));
    let pair = STANDARD.encode("portcullis:a+secret%3A+with+%2B+signs");
    assert_eq!(said["authorization"], format!("Basic {pair}"), "RFC 6749 §2.3.1");
    assert_eq!(
        (form(&said["body"], "client_secret"), form(&said["body"], "grant_type").as_deref()),
        (None, Some("authorization_code"))
    );
    assert!(form(&said["body"], "code_verifier").unwrap().len() >= 43);

    let said = seen(&mut liar, &text(&format!("{basic}client_auth = \"client_secret_post\"\n")));
    assert_eq!(said["authorization"], Value::Null);
    assert_eq!(form(&said["body"], "client_secret").as_deref(), Some("a secret: with + signs"));

    let key = basic.replace(
        "client_secret = { file = \"secret\" }",
        "client_auth = \"private_key_jwt\"\nclient_key = \"key.pem\"\nclient_key_id = \"k1\"",
    );
    let said = seen(&mut liar, &text(&key));
    assert_eq!((said["authorization"].clone(), form(&said["body"], "client_secret")), (Value::Null, None));
    let assertion = form(&said["body"], "client_assertion").unwrap();
    let parts: Vec<Value> = assertion
        .split('.')
        .take(2)
        .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap())
        .collect();
    assert_eq!((&parts[0]["alg"], &parts[0]["kid"]), (&json!("ES256"), &json!("k1")));
    assert_eq!((&parts[1]["iss"], &parts[1]["sub"]), (&json!("portcullis"), &json!("portcullis")));
    assert_eq!(parts[1]["aud"], format!("{}/token", liar.issuer("http")));
    assert!(parts[1]["exp"].as_u64().unwrap() - parts[1]["iat"].as_u64().unwrap() <= 60);
    let kind = form(&said["body"], "client_assertion_type").unwrap();
    assert_eq!(kind, "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
}

/// I41: the lock is renewed while the call runs, and what comes back after another one has written is not written.
#[test]
fn a_refresh_that_comes_too_late_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut liar = Liar::start(folder.path());
    let route = "path     = \"/\"\nlogin = \"corp\"\naccess_token_header = \"X-Access-Token\"";
    let text = text(&section("corp", &liar.issuer("http"), "")).replacen("path     = \"/\"", route, 1);
    std::fs::write(folder.path().join("secret"), "a secret").unwrap();
    let store: Arc<dyn SessionStore> = Arc::new(Memory::new());
    let clock = Arc::new(TestClock::at(SystemClock.now()));
    let running = run_with(folder, &text, clock.clone(), Some(store.clone()));
    let tokens = |access: &str| json!({ "access_token": access, "refresh_token": "r", "expires_in": 20 });
    liar.lie(&json!({ "token": tokens("first"), "id": { "at_hash": null } }));
    assert_eq!(sign_in(&running).status, 303);
    assert!(running.curl("/", &[]).body.contains("x-access-token: first\n"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let user = UserKey::of(&liar.issuer("http"), "alice");
    let session = runtime.block_on(running.gateway.sessions().list(user, clock.now())).unwrap()[0].key;
    let kept = |purpose: &str| runtime.block_on(store.kept(ShelfKey::of(purpose, &session.0), clock.now())).unwrap();
    liar.lie(&json!({ "token": tokens("late"), "id": null, "wrong": { "/token": { "delay": 4000 } } }));
    clock.advance(Duration::from_secs(17));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| running.curl("/", &[]));
        let until = Instant::now() + Duration::from_secs(20);
        let wait_for = |what: &str, holds: &dyn Fn() -> bool| {
            while !holds() {
                assert!(Instant::now() < until, "{what}");
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        wait_for("the lock is taken", &|| kept("oidc/refresh").is_some());
        let lock = kept("oidc/refresh").unwrap().version;
        wait_for("the lock is renewed", &|| kept("oidc/refresh").is_some_and(|renewed| renewed.version > lock));
        let theirs = kept("oidc/tokens").unwrap();
        let key = ShelfKey::of("oidc/tokens", &session.0);
        let keep = Keep { key, over: Some(theirs.version), bytes: theirs.bytes, until: theirs.until };
        let newer = runtime.block_on(store.keep(keep, clock.now())).unwrap();
        let said = asking.join().unwrap();
        assert!(said.status == 200 && said.body.contains("x-access-token: first\n"), "{}", said.body);
        wait_for("the lock is given back", &|| kept("oidc/refresh").is_none());
        assert_eq!(kept("oidc/tokens").map(|kept| kept.version), newer, "the late one wrote over it");
    });
}

/// RFC 8705 §2.
#[test]
fn the_client_shows_a_certificate_to_the_provider() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let (certificate, key) = authority.issue("localhost", ExtendedKeyUsagePurpose::ServerAuth);
    std::fs::write(folder.path().join("server.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.path().join("server.key"), key.serialize_pem()).unwrap();
    let mut liar = Liar::start(folder.path());
    let tls = "client_auth = \"tls_client_auth\"\n[login.oidc.corp.tls]\nca = \"ca.pem\"\ncertificate = \"client.pem\"\nprivate_key = \"client.key\"\n";
    let own = tempfile::tempdir().unwrap();
    for file in ["ca.pem", "client.pem", "client.key"] {
        std::fs::copy(folder.path().join(file), own.path().join(file)).unwrap();
    }
    let section = section("corp", &liar.issuer("https"), tls)
        .replace("plain_http = true\n", "")
        .replace("client_secret = { file = \"secret\" }\n", "");
    let running = gateway_in(own, &text(&section));
    let said = sign_in(&running);
    assert_eq!(said.status, 303, "{}", said.body);
    let seen = liar.lie(&json!({}));
    assert!(seen["certificate"].is_object(), "{seen}");
    assert_eq!(
        (seen["authorization"].clone(), form(&seen["body"], "client_id").as_deref()),
        (Value::Null, Some("portcullis"))
    );
}
