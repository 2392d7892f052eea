//! A provider's keys: when they are asked for, when they change and when they are withdrawn. The provider is the lying one, and time
//! is turned by hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::clock::{Clock, SystemClock, TestClock};
use serde_json::{Value, json};

use crate::liar::{Liar, sign_in};
use crate::providers::{section, text};
use crate::support::{Running, run_with};

/// A gateway whose people sign in at this provider alone, and its clock.
pub fn before(liar: &Liar) -> (Running, Arc<TestClock>) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "a secret").unwrap();
    let clock = Arc::new(TestClock::at(SystemClock.now()));
    let running = run_with(folder, &text(&section("corp", &liar.issuer("http"), "")), clock.clone(), None);
    (running, clock)
}

/// An ID token signed with this key under this name, which counts whatever this test does with the time.
fn signed(key: &str, kid: &Value) -> Value {
    json!({ "key": key, "header": { "kid": kid }, "iat": -60, "auth_time": -60, "exp": 7200 })
}

/// Keys that fail once are there again when the provider is; and neither that nor tokens of unknown keys are a way to have it asked
/// over and over.
#[test]
fn a_provider_whose_keys_failed_once_is_asked_again_soon() {
    let folder = tempfile::tempdir().unwrap();
    let mut liar = Liar::start(folder.path());
    let (running, clock) = before(&liar);
    let (good, away) = (json!({ "id": signed("own", &json!("one")) }), json!({ "/jwks": { "status": 500 } }));
    liar.lie(&json!({ "id": good["id"], "wrong": away }));
    for _ in 0..3 {
        assert_eq!(sign_in(&running).status, 503);
    }
    assert_eq!(liar.asked("/jwks"), 1, "many may be waiting");
    clock.advance(Duration::from_millis(1_999));
    liar.lie(&good);
    assert_eq!((sign_in(&running).status, liar.asked("/jwks")), (503, 1));
    // It counts from when the answer came.
    clock.advance(Duration::from_secs(6));
    assert_eq!((sign_in(&running).status, liar.asked("/jwks")), (303, 2));
    // By now there is a set, and what it does not hold is asked for a few times in a row, and then seldom, whether that fails or not.
    for (wrong, status) in [(away, 503), (json!({}), 502)] {
        clock.advance(Duration::from_secs(150));
        let asked = liar.asked("/jwks");
        for n in 0..8 {
            liar.lie(&json!({ "id": signed("own", &json!(format!("k{n}"))), "wrong": wrong }));
            assert_eq!(sign_in(&running).status, status, "{n}");
            clock.advance(Duration::from_secs(3));
        }
        assert_eq!(liar.asked("/jwks"), asked + 4);
        liar.lie(&good);
        assert_eq!(sign_in(&running).status, 303);
    }
}

/// A key that is replaced under its name, or that never had one, is learnt as a new name is, and at once, however short ago the keys
/// were asked for. What that brings nothing new for is asked for once in half a minute.
#[test]
fn a_key_that_is_replaced_by_another_of_its_name_or_of_none_is_learnt() {
    for kid in [json!("one"), Value::Null] {
        let folder = tempfile::tempdir().unwrap();
        let mut liar = Liar::start(folder.path());
        let (running, clock) = before(&liar);
        let published = |key: &str| match &kid {
            Value::Null => json!([{ "key": key }]),
            kid => json!([{ "key": key, "kid": kid }]),
        };
        let (old, new) = (signed("own", &kid), signed("other", &kid));
        liar.lie(&json!({ "keys": published("own"), "id": old }));
        assert_eq!((sign_in(&running).status, liar.asked("/jwks")), (303, 1), "{kid}");
        liar.lie(&json!({ "keys": published("other"), "id": new }));
        assert_eq!((sign_in(&running).status, liar.asked("/jwks")), (303, 2), "{kid}");
        // The old one counts no more, and whoever brings its tokens has the provider asked once more.
        liar.lie(&json!({ "keys": published("other"), "id": old }));
        for _ in 0..3 {
            assert_eq!((sign_in(&running).status, liar.asked("/jwks")), (502, 3), "{kid}");
            clock.advance(Duration::from_secs(9));
        }
        // While the keys cannot be had nobody can say whether it holds; what held before does.
        clock.advance(Duration::from_secs(3));
        let away = json!({ "/jwks": { "status": 500 } });
        liar.lie(&json!({ "id": old, "wrong": away }));
        for _ in 0..3 {
            assert_eq!((sign_in(&running).status, liar.asked("/jwks")), (503, 4), "{kid}");
        }
        liar.lie(&json!({ "id": new, "wrong": away }));
        assert_eq!((sign_in(&running).status, liar.asked("/jwks")), (303, 4), "{kid}");
    }
}

/// Keys are asked for again after ten minutes, whether anything new is heard of or not: one that was withdrawn counts no more then.
/// Nobody waits for that, and an outage changes nothing.
#[test]
fn a_key_that_was_withdrawn_is_not_trusted_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let mut liar = Liar::start(folder.path());
    let (running, clock) = before(&liar);
    let (first, second) = (json!({ "key": "own", "kid": "one" }), json!({ "key": "other", "kid": "two" }));
    let withdrawn = signed("other", &json!("two"));
    liar.lie(&json!({ "keys": [first, second], "id": withdrawn }));
    assert_eq!((sign_in(&running).status, liar.asked("/jwks")), (303, 1));
    clock.advance(Duration::from_millis(599_999));
    liar.lie(&json!({ "keys": [first], "id": withdrawn }));
    assert_eq!((sign_in(&running).status, liar.asked("/jwks")), (303, 1));
    let away = json!({ "/jwks": { "status": 500 } });
    clock.advance(Duration::from_millis(1));
    liar.lie(&json!({ "id": withdrawn, "wrong": away }));
    assert_eq!(sign_in(&running).status, 303);
    until("the keys are asked for", || liar.asked("/jwks") == 2);
    assert_eq!((sign_in(&running).status, liar.asked("/jwks")), (303, 2));
    // After an outage sooner, as for names that are not known.
    liar.lie(&json!({ "keys": [first], "id": withdrawn }));
    clock.advance(Duration::from_secs(36));
    assert_eq!(sign_in(&running).status, 303, "beside it, not before it");
    until("the key counts no more", || sign_in(&running).status == 502);
    assert_eq!(liar.asked("/jwks"), 4, "whether it is a new one was asked");
    liar.lie(&json!({ "id": signed("own", &json!("one")) }));
    assert_eq!((sign_in(&running).status, liar.asked("/jwks")), (303, 4));
}

/// Anybody may bring logout tokens, and with them names of keys. What is asked for their sake keeps nobody from signing in by a key that
/// the provider has just exchanged.
#[test]
fn strangers_keep_no_new_key_from_being_learnt() {
    let folder = tempfile::tempdir().unwrap();
    let mut liar = Liar::start(folder.path());
    let (running, clock) = before(&liar);
    liar.lie(&json!({ "id": signed("own", &json!("one")) }));
    assert_eq!((sign_in(&running).status, liar.asked("/jwks")), (303, 1));
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let now = clock.now().seconds();
    let claims = part(&json!({ "iss": liar.issuer("http"), "aud": "portcullis", "iat": now, "exp": now + 60 }));
    for n in 0..20 {
        let header = part(&json!({ "alg": "RS256", "typ": "logout+jwt", "kid": format!("invented{n}") }));
        let form = format!("logout_token={header}.{claims}.AAAA");
        assert_eq!(running.alone("/.portcullis/oidc/corp/backchannel-logout", &["-d", &form]).status, 400);
    }
    assert_eq!(liar.asked("/jwks"), 5, "a few in a row");
    liar.lie(&json!({ "keys": [{ "key": "other", "kid": "two" }], "id": signed("other", &json!("two")) }));
    assert_eq!((sign_in(&running).status, liar.asked("/jwks")), (303, 6));
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
    }
}
