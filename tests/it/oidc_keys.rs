//! A provider's keys: when they are asked for, when they change and when they are withdrawn. The provider is the lying one, and time
//! is turned by hand.

use std::sync::Arc;
use std::time::Duration;

use portcullis::clock::{Clock, SystemClock, TestClock};
use serde_json::{Value, json};

use crate::liar::{Liar, sign_in};
use crate::providers::{section, text};
use crate::support::{Running, run_with};

/// A gateway whose people sign in at this provider alone, and its clock.
fn before(liar: &Liar) -> (Running, Arc<TestClock>) {
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
    clock.advance(Duration::from_millis(1));
    assert_eq!((sign_in(&running).status, liar.asked("/jwks")), (303, 2));
    // By now there is a set, and what it does not hold is asked for seldom, whether that fails or not.
    for (wrong, status) in [(away, 503), (json!({}), 502)] {
        clock.advance(Duration::from_secs(30));
        let asked = liar.asked("/jwks");
        for n in 0..4 {
            liar.lie(&json!({ "id": signed("own", &json!(format!("k{n}"))), "wrong": wrong }));
            assert_eq!(sign_in(&running).status, status, "{n}");
            clock.advance(Duration::from_secs(7));
        }
        assert_eq!(liar.asked("/jwks"), asked + 1);
        liar.lie(&good);
        assert_eq!(sign_in(&running).status, 303);
    }
}
