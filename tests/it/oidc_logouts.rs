//! A provider that signs people out while they sign in, logout tokens that it did not sign, and roles that it changed meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::clock::{Clock, SystemClock, TestClock};
use portcullis::session::store::Memory;
use portcullis::session::{SessionStore, UserKey};
use serde_json::{Value, json};

use crate::oidc::{audited, jar, set_jar};
use crate::oidc_sessions::{changed, logout_token, sid_of, with_tokens};
use crate::own_tokens::{ACCESS, REFRESH, value, with};
use crate::passwords::until;
use crate::providers::{Provider, section, text};
use crate::sessions::Faulty;
use crate::support::{Running, run_with};

const LOGOUT: &str = "/.portcullis/oidc/corp/backchannel-logout";

/// A gateway that shares this store.
fn node(provider: &Provider, store: &Arc<Faulty>) -> Running {
    let text = text(&section("corp", &provider.issuer(), "frontchannel_logout = true"))
        .replace("[session]", "[session]\nsecret = { file = \"shared\" }");
    let text = format!("{text}\n[limits]\nstore_timeout = \"59s\"\n");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "a secret: with + signs\n").unwrap();
    std::fs::write(folder.path().join("shared"), "a secret of at least thirty-two bytes\n").unwrap();
    run_with(folder, &text, Arc::new(SystemClock), Some(store.clone()))
}

/// Signed out here alone: the provider knows this browser yet, and asks nothing.
fn forget_session(running: &Running) {
    let all = jar(running);
    let kept: Vec<&str> = all.lines().filter(|line| !line.contains("\t__Host-portcullis\t")).collect();
    set_jar(running, &(kept.join("\n") + "\n"));
}

fn sessions_of(running: &Running, provider: &Provider) -> usize {
    let user = UserKey::of(&provider.issuer(), "alice");
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(running.gateway.sessions().list(user, SystemClock.now())).unwrap().len()
}

/// Whatever a sign-in has come to when the provider says that it is over: it is over, on whichever node that is said.
#[test]
fn a_sign_in_that_the_provider_overtakes_is_none() {
    type Hold = fn(&Faulty);
    let provider = Provider::start();
    for hold in [Faulty::hold_change as Hold, Faulty::hold_load] {
        for meant in [Some(json!({ "sub": null })), Some(json!({ "sid": null })), None] {
            let store = Arc::new(Faulty::default());
            let (one, two) = (node(&provider, &store), node(&provider, &store));
            provider.configure(&one, &json!({}));
            assert_eq!(one.sign_in_there("/", "alice").status, 303);
            let sid = sid_of(&one, &provider);
            forget_session(&one);
            hold(&store);
            let said = std::thread::scope(|scope| {
                let signing_in = scope.spawn(|| one.follow("/mine").1);
                until("it is held", || store.holds_all());
                let heard = match &meant {
                    Some(meant) => {
                        let token = format!("logout_token={}", logout_token(&provider, meant, &sid));
                        two.alone(LOGOUT, &["-d", &token])
                    }
                    None => two.alone(&front(&provider, &sid), &[]),
                };
                assert_eq!(heard.status, 200, "{meant:?}: {}", heard.body);
                store.release();
                signing_in.join().unwrap()
            });
            assert_eq!(said.status, 400, "{meant:?}: {} {}", said.head, said.body);
            assert!(!jar(&one).contains("\t__Host-portcullis\t"), "{meant:?}");
            let told: Value = audited(&one).pop().unwrap();
            let words = ["event", "subject", "reason"].map(|word| told[word].as_str().unwrap_or_default());
            assert_eq!(words, ["sign_in_refused", "alice", "signed_out_there"]);
            assert_eq!(sessions_of(&one, &provider), 0, "{meant:?}");
            // What it signs after that counts.
            let until = Instant::now() + Duration::from_secs(20);
            while one.follow("/mine").1.status != 303 {
                assert!(Instant::now() < until, "{meant:?}: signed out for ever");
            }
            assert_eq!(one.curl("/mine", &[]).status, 200, "{meant:?}");
        }
    }
}

fn front(provider: &Provider, sid: &str) -> String {
    let issuer: String = form_urlencoded::byte_serialize(provider.issuer().as_bytes()).collect();
    format!("/.portcullis/oidc/corp/frontchannel-logout?iss={issuer}&sid={sid}")
}

/// Anybody may ask in a frame, with names that nobody has.
#[test]
fn invented_names_of_sessions_fill_no_store() {
    let provider = Provider::start();
    let store = Arc::new(Faulty::default());
    let running = node(&provider, &store);
    provider.configure(&running, &json!({}));
    let before = store.kept_on_shelf();
    for n in 0..60 {
        assert_eq!(running.alone(&front(&provider, &format!("invented{n}")), &[]).status, 200);
    }
    let kept = store.kept_on_shelf() - before;
    assert!((50..60).contains(&kept), "{kept}");
}

/// Anybody reaches this page. Whoever forges signatures there is soon heard seldom, and the provider as before.
#[test]
fn forged_logout_tokens_of_one_address_are_soon_computed_seldom() {
    let provider = Provider::start();
    let text = text(&section("corp", &provider.issuer(), ""))
        .replace("[server]\n", "[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n");
    let clock = Arc::new(TestClock::at(SystemClock.now()));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "a secret: with + signs\n").unwrap();
    let running = run_with(folder, &text, clock.clone(), None);
    provider.configure(&running, &json!({}));
    let from = |address: &str, token: &str| {
        let address = format!("x-forwarded-for: {address}");
        running.alone(LOGOUT, &["-H", &address, "-d", &format!("logout_token={token}")])
    };
    let [one, other] = [(), ()].map(|()| logout_token(&provider, &json!({}), "a"));
    let forged = format!("{}.{}", one.rsplit_once('.').unwrap().0, other.rsplit_once('.').unwrap().1);
    // Those that are wrong in themselves cost nothing, and count for nothing.
    let elsewhere = logout_token(&provider, &json!({ "iss": "https://other.example" }), "a");
    assert!((0..40).all(|_| from("192.0.2.1", &elsewhere).status == 400));
    let said = (0..40).map(|_| from("192.0.2.1", &forged)).find(|said| said.status != 400).unwrap();
    assert_eq!((said.status, said.header("retry-after").as_deref()), (429, Some("1")), "{}", said.body);
    assert_eq!(from("192.0.2.1", &one).status, 429, "good or not: nobody looked");
    assert_eq!(from("192.0.2.2", &one).status, 200, "the provider is heard");
    clock.advance(Duration::from_secs(1));
    assert_eq!([(), ()].map(|()| from("192.0.2.1", &forged).status), [400, 429]);
}

/// A node that knows nothing yet of what the provider said of somebody makes no token of what it said first.
#[test]
fn a_token_that_is_renewed_tells_the_roles_that_the_provider_told_last() {
    let provider = Provider::start();
    let store: Arc<dyn SessionStore> = Arc::new(Memory::new());
    let jwt = "[session]\nmode = \"jwt\"\nsecret = { file = \"shared\" }";
    let signed =
        "\n[session.jwt]\nformat = \"jws\"\naudience = \"apps\"\n[signing]\nissuer = \"https://gateway.example\"\n";
    let text = with_tokens(&provider, "X-Access-Token").replace("[session]", jwt) + signed;
    let node = || {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), "a secret: with + signs\n").unwrap();
        std::fs::write(folder.path().join("shared"), "a secret of at least thirty-two bytes\n").unwrap();
        run_with(folder, &text, Arc::new(SystemClock), Some(store.clone()))
    };
    let one = node();
    provider.configure(&one, &json!({ "access_seconds": 4 }));
    let said = one.sign_in_there("/", "alice");
    let (access, refresh) = (value(&said, ACCESS).unwrap(), value(&said, REFRESH).unwrap());
    assert_eq!(roles_in(&access), json!(["admin"]));
    provider.accounts(&changed("eng"));
    until("the roles are others", || {
        with(&one, "/a", &[(ACCESS, &access)], &[]).body.contains("x-forwarded-groups: staff\n")
    });
    // It comes without an access token, as it does when that is over.
    let two = node();
    let said = with(&two, "/a", &[(REFRESH, &refresh)], &[]);
    assert!(said.body.contains("x-forwarded-groups: staff\n"), "{}", said.body);
    assert_eq!(roles_in(&value(&said, ACCESS).unwrap()), json!(["staff"]));
    assert!(value(&said, REFRESH).is_some_and(|next| next != refresh));
}

fn roles_in(access: &str) -> Value {
    let payload = URL_SAFE_NO_PAD.decode(access.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<Value>(&payload).unwrap()["roles"].clone()
}
