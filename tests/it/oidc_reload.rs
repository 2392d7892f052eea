//! A sign-in at a provider that is under way while the file is read again: who is at the provider then, comes back to what runs now.

use serde_json::json;

use crate::oidc::{audit, form, jar, set_jar};
use crate::providers::{Provider, gateway, parameter, section, text};
use crate::support::{Running, Said};

const PERSON: [&str; 2] = ["-H", "accept: text/html"];
const LOCAL: &str = "[login.local]\nusers = \"users.toml\"\ndemo_user = \"demo\"\n";

fn corp(provider: &Provider) -> String {
    section("corp", &provider.issuer(), "user_prefix = \"corp:\"")
}

/// The address that the provider sends this browser back to; not asked yet.
fn callback(running: &Running) -> String {
    running.answer(&running.to_provider("/.portcullis/oidc/corp/start"), "login=alice")
}

/// Whether this answer signed somebody in.
fn is_in(back: &Said, running: &Running) -> bool {
    let is_in = running.curl("/", &[]).status == 200;
    assert_eq!(back.head.contains("__Host-portcullis="), is_in, "{}", back.head);
    is_in
}

#[test]
fn who_is_at_a_provider_meanwhile_comes_back_to_where_they_were_going() {
    let provider = Provider::start();
    let file = text(&section("corp", &provider.issuer(), ""));
    let running = gateway(&file);
    provider.configure(&running, &json!({}));
    let moved = |path: &str| file.replace("path     = \"/public\"", &format!("path     = \"{path}\""));
    let page = running.to_provider("/report?x=1");
    running.reload(&moved("/one")).unwrap();
    let callback = running.answer(&page, "login=alice");
    running.reload(&moved("/two")).unwrap();
    let statuses = ["/public", "/one", "/two"].map(|path| running.curl(path, &[]).status);
    assert_eq!(statuses, [401, 401, 200], "the file was exchanged");
    let attempt = jar(&running);
    let back = running.visit(&callback, &PERSON);
    assert_eq!((back.status, back.header("location").as_deref()), (303, Some("/report?x=1")), "{}", back.body);
    let said = running.curl("/report?x=1", &[]).body;
    assert!(said.contains("x-forwarded-user: alice\n"), "{said}");
    // Once, whatever file it was begun or used under.
    running.reload(&file).unwrap();
    set_jar(&running, &attempt);
    let again = running.visit(&callback, &PERSON);
    assert!(again.status == 400 && audit(&running).contains("\"state_used\""), "{}: {}", again.head, audit(&running));
}

/// Nobody is let in by a place to sign in that is in the file no more; when it is there again in time, the answer counts.
#[test]
fn a_provider_that_was_taken_out_meanwhile_signs_nobody_in() {
    let provider = Provider::start();
    let (with, without) = (text(&format!("{LOCAL}{}", corp(&provider))), text(LOCAL));
    let running = gateway(&with);
    provider.configure(&running, &json!({}));
    let callback = callback(&running);
    let asked = provider.seen("all");
    running.reload(&without).unwrap();
    let back = running.visit(&callback, &PERSON);
    assert_eq!(back.status, 404, "{}", back.head);
    assert!(back.body.contains("nothing at this address"), "{}", back.body);
    assert!(!is_in(&back, &running));
    assert_eq!(provider.seen("all"), asked, "it is not asked");
    running.reload(&with).unwrap();
    assert!(is_in(&running.visit(&callback, &PERSON), &running));
}

/// A route that asks for a sign-in at a place means who is there now. Everything else of a session goes on.
#[test]
fn a_sign_in_at_a_provider_is_none_at_another_that_has_its_name() {
    let (first, second) = (Provider::start(), Provider::start());
    let vault = "[[route]]\nname = \"vault\"\npath = \"/vault\"\naccess = \"authenticated\"\nlogin = \"corp\"\nupstream = \"app\"\n";
    let file = |provider: &Provider| format!("{}\n{vault}", text(&format!("{LOCAL}{}", corp(provider))));
    let running = gateway(&file(&first));
    first.configure(&running, &json!({}));
    second.configure(&running, &json!({}));
    let statuses = || ["/vault", "/"].map(|path| running.curl(path, &[]).status);
    assert!(is_in(&running.visit(&callback(&running), &PERSON), &running));
    assert_eq!(statuses(), [200, 200]);
    running.reload(&file(&second)).unwrap();
    assert_eq!(statuses(), [401, 200]);
    let there = running.follow("/vault").0;
    assert!(there.starts_with(&second.issuer()), "{there}");
    running.reload(&file(&first)).unwrap();
    assert_eq!(statuses(), [200, 200]);
}

/// RFC 9700 §4.4: another provider that has the name by now is told neither the code of the first one nor what it can be redeemed
/// with; who comes back is sent to sign in there.
#[test]
fn a_name_that_is_another_providers_meanwhile_makes_a_new_beginning() {
    let (first, second) = (Provider::start(), Provider::start());
    let file = |provider: &Provider| text(&format!("{LOCAL}{}", corp(provider)));
    let running = gateway(&file(&first));
    first.configure(&running, &json!({}));
    second.configure(&running, &json!({}));
    let callback = callback(&running);
    running.reload(&file(&second)).unwrap();
    // As it came, and as from a provider that does not name itself (RFC 9207).
    let iss = format!("&iss={}", form(&parameter(&callback, "iss")));
    assert!(callback.contains(&iss), "{callback}");
    let begun = jar(&running);
    for callback in [callback.clone(), callback.replace(&iss, "")] {
        set_jar(&running, &begun);
        let back = running.visit(&callback, &PERSON);
        let there = back.header("location").unwrap_or_else(|| panic!("{}: {}", back.body, audit(&running)));
        assert!(there.starts_with(&format!("{}/auth?", second.issuer())), "{there}");
        assert!(!is_in(&back, &running));
        assert_eq!(second.seen("asked"), 0, "the code of the other one");
    }
}
