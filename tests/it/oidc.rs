//! Signing in with OpenID providers: the certified one of npm, over the real protocol. The attacks are those of attacks.md §2.4.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::providers::{Provider, before, gateway, parameter, section, text};
use crate::support::{Running, Said};
use crate::tools::{Service, python};

const PERSON: [&str; 2] = ["-H", "accept: text/html"];

pub fn jar(running: &Running) -> String {
    std::fs::read_to_string(running.folder.path().join("jar")).unwrap_or_default()
}

pub fn set_jar(running: &Running, jar: &str) {
    std::fs::write(running.folder.path().join("jar"), jar).unwrap();
}

pub fn audit(running: &Running) -> String {
    let lines = running.lines.0.lock().unwrap();
    lines.iter().rfind(|line| line.contains("\"audit\"")).cloned().unwrap_or_default()
}

/// The lines of the audit.
pub fn audited(running: &Running) -> Vec<Value> {
    let lines = running.lines.0.lock().unwrap();
    let lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["kind"] == "audit").collect()
}

fn reached(said: &Said) -> (u16, Option<String>) {
    (said.status, said.header("location"))
}

fn at(path: &str) -> (u16, Option<String>) {
    (303, Some(path.to_owned()))
}

/// ASVS 10.1.1: what applications see is who it is, never a token.
#[test]
fn a_person_signs_in_at_a_provider_and_reaches_the_page() {
    let provider = Provider::start();
    let text = text(&section("corp", &provider.issuer(), ""));
    let running = gateway(&text.replace("[server]\n", "[server]\nadmin = \"127.0.0.1:0\"\n"));
    provider.configure(&running, &json!({}));
    let there = running.sign_in_there("/a/b?x=1", "alice");
    assert_eq!(reached(&there), at("/a/b?x=1"), "{}", there.body);
    // RFC 9700 §4.2, §4.3: a clean address, and nothing in a Referer.
    assert_eq!(there.header("referrer-policy").as_deref(), Some("no-referrer"));
    let page = running.curl("/a/b?x=1", &[]);
    for line in [
        "x-forwarded-user: alice\n",
        "x-forwarded-email: alice@corp.example\n",
        "x-forwarded-preferred-username: Alice Example\n",
        "x-forwarded-groups: admin\n",
    ] {
        assert!(page.body.contains(line), "{line} in {}", page.body);
    }
    assert!(!page.body.contains("eyJ"), "{}", page.body);
    assert_eq!(running.curl("/admin", &[]).status, 200);
    // Bob's address is not verified, and his group is another role.
    set_jar(&running, "");
    assert_eq!(reached(&running.sign_in_there("/", "bob")), at("/"));
    let page = running.curl("/", &[]);
    assert!(page.body.contains("x-forwarded-groups: staff\n") && !page.body.contains("email"), "{}", page.body);
    assert_eq!(running.curl("/admin", &[]).status, 403);
    // Alice is in `lunch` too, which is no role here.
    let metrics = format!("http://{}/metrics", running.gateway.admin_address().unwrap());
    let counted = running.visit(&metrics, &[]).body;
    assert!(counted.contains("portcullis_oidc_roles_dropped_total 1\n"), "{counted}");
    let lines = running.lines.0.lock().unwrap().join("\n");
    for secret in ["code=", "state=", "eyJ", "a secret"] {
        assert!(!lines.contains(secret), "{secret} in {lines}");
    }
}

/// I40. More tabs than cookies are kept for.
#[test]
fn ten_tabs_opened_at_once_all_reach_their_own_page() {
    let provider = Provider::start();
    let running = before(&provider, "");
    let tabs: Vec<String> = (0..10).map(|n| running.to_provider(&format!("/tab/{n}?q={n}"))).collect();
    let attempts = jar(&running).matches("__Host-portcullis-login.").count();
    assert!((1..=5).contains(&attempts), "{attempts} cookies of attempts: {}", jar(&running));
    for n in [0, 9, 4, 1, 7, 2, 8, 3, 6, 5] {
        let callback = running.answer(&tabs[n], "login=alice");
        let said = running.visit(&callback, &PERSON);
        let (address, page) = running.follow(&said.header("location").unwrap_or_else(|| panic!("{n}: {}", said.body)));
        let own = format!("{}/tab/{n}?q={n}", running.base());
        // The first of those whose cookie was pushed out is sent there once more, and is known there by now.
        let (address, page) = match address.contains("/callback") {
            true => running.follow(&page.header("location").unwrap()),
            false => (address, page),
        };
        assert_eq!((address, page.status), (own, 200), "tab {n}");
    }
}

fn fill(template: &str, running: &Running, provider: &Provider, path: &str) -> String {
    let start = running.curl("/.portcullis/login", &PERSON).header("location").unwrap();
    let other = running.curl("/.portcullis/login", &PERSON).header("location").unwrap();
    let own = jar(running);
    set_jar(running, "");
    let theirs = running.curl("/.portcullis/login", &PERSON).header("location").unwrap();
    set_jar(running, &own);
    let state = |address: &str| parameter(address, "state");
    let query = template
        .replace("{state}", &state(&start))
        .replace("{other}", &state(&other))
        .replace("{theirs}", &state(&theirs))
        .replace("{code}", "some-code")
        .replace("{iss}", &provider.issuer());
    format!("{path}?{query}")
}

#[test]
fn hostile_callbacks_sign_nobody_in() {
    let provider = Provider::start();
    let running = before(&provider, "");
    let path = "/.portcullis/oidc/corp/callback";
    let cases = include_str!("../data/hostile_callbacks.txt");
    let mut seen = 0;
    for line in cases.lines().filter(|line| !line.starts_with('#')) {
        let parts: Vec<&str> = line.splitn(3, '|').map(str::trim).collect();
        set_jar(&running, "");
        let said = running.curl(&fill(parts[2], &running, &provider, path), &PERSON);
        assert_eq!(said.status.to_string(), parts[0], "{line}: {}", said.body);
        if parts[1] != "-" {
            assert!(audit(&running).contains(&format!("\"{}\"", parts[1])), "{line}: {}", audit(&running));
        }
        assert!(!said.body.contains("<script"), "{line}");
        let session = said.head.contains("__Host-portcullis=") || jar(&running).contains("\t__Host-portcullis\t");
        assert!(!session, "{line}: somebody is signed in");
        if said.status == 303 {
            // Begun anew at the provider, for whoever asks: never signed in as somebody else.
            assert!(said.header("location").unwrap().starts_with(&format!("{}/auth?", provider.issuer())), "{line}");
        }
        seen += 1;
    }
    assert!(seen > 20);
}

/// attacks: line 43
/// ASVS 10.1.2, 10.2.1, RFC 9700 §4.7: bound to the browser, and used once.
#[test]
fn a_callback_counts_once_and_in_its_own_browser() {
    let provider = Provider::start();
    let running = before(&provider, "");
    let callback = running.answer(&running.to_provider("/mine"), "login=mallory");
    let mallorys = jar(&running);
    // Another browser is led there by mallory: it is sent to sign in itself, and no second time.
    set_jar(&running, "");
    let victim = running.visit(&callback, &PERSON);
    let anew = victim.header("location").unwrap();
    assert!(anew.starts_with(&provider.issuer()) && !victim.head.contains("__Host-portcullis="), "{}", victim.head);
    set_jar(&running, "");
    let state = parameter(&anew, "state");
    let again = running.curl(&format!("/.portcullis/oidc/corp/callback?code=x&state={state}&iss=x"), &PERSON);
    assert_eq!(again.status, 400, "never in circles: {}", again.head);
    assert!(again.body.contains("Try again") && again.body.contains("Allow cookies"), "{}", again.body);
    set_jar(&running, &mallorys);
    assert_eq!(reached(&running.visit(&callback, &PERSON)), at("/mine"));
    // Reloaded: signed in already, and so on the way to the page.
    assert_eq!(reached(&running.visit(&callback, &PERSON)), at("/mine"));
    // Everything the browser had before, once more: the state is used.
    set_jar(&running, &mallorys);
    let replayed = running.visit(&callback, &PERSON);
    assert_eq!(replayed.status, 400);
    assert!(audit(&running).contains("\"state_used\""), "{}", audit(&running));
}

/// RFC 9700 §2.1.1, §4.8: S256 always; an attempt's code is worth nothing without its verifier.
#[test]
fn a_code_of_one_attempt_is_refused_in_another() {
    let provider = Provider::start();
    let running = before(&provider, "");
    let (one, two) = (running.to_provider("/one"), running.to_provider("/two"));
    let (one, two) = (running.answer(&one, "login=alice"), running.answer(&two, "login=alice"));
    let (code, other) = (parameter(&one, "code"), parameter(&two, "code"));
    let said = running.visit(&one.replace(&format!("code={code}"), &format!("code={other}")), &PERSON);
    assert_eq!(said.status, 400, "{}", said.head);
    assert!(audit(&running).contains("\"invalid_grant\""), "{}", audit(&running));
    let start = running.curl("/.portcullis/login", &PERSON).header("location").unwrap();
    assert_eq!(parameter(&start, "code_challenge_method"), "S256");
    assert_eq!(parameter(&start, "response_type"), "code", "RFC 9700 §2.4: no other grant");
    for secret in ["state", "nonce", "code_challenge"] {
        assert!(parameter(&start, secret).len() >= 32, "{secret}");
    }
}

/// ASVS 10.2.2, 6.8.1: an answer of one provider is not taken for another's, and one subject at two is two people.
#[test]
fn two_providers_are_never_mixed_up() {
    let (corp, club) = (Provider::start(), Provider::start());
    let local = "[login.local]\nusers = \"users.toml\"\ndemo_user = \"demo\"\n";
    let sections = [
        section("corp", &corp.issuer(), "title = \"Corp <b>account</b>\"\nuser_prefix = \"corp:\""),
        section("club", &club.issuer(), "user_prefix = \"club:\""),
    ];
    let running = gateway(&text(&format!("{local}{}", sections.concat())));
    corp.configure(&running, &json!({}));
    club.configure_at(&[("club", &running)], &json!({}));
    let page = running.curl("/.portcullis/login", &PERSON);
    assert!(page.body.contains("Continue with Corp &lt;b&gt;account&lt;") && page.body.contains("name=\"password\""));
    let start = |name: &str| format!("/.portcullis/oidc/{name}/start");
    let (at_corp, at_club) = (running.to_provider(&start("corp")), running.to_provider(&start("club")));
    let (from_corp, from_club) = (running.answer(&at_corp, "login=alice"), running.answer(&at_club, "login=alice"));
    let clean = jar(&running);
    // The club's answer at corp's door, whole, and piece by piece.
    let crossed = [
        from_club.replace("/oidc/club/", "/oidc/corp/"),
        from_corp
            .replace(&parameter(&from_corp, "code"), &parameter(&from_club, "code"))
            .replace(&form(&corp.issuer()), &form(&club.issuer())),
    ];
    for (crossed, reason) in crossed.iter().zip(["state_of_other_provider", "issuer_mismatch"]) {
        set_jar(&running, &clean);
        let said = running.visit(crossed, &PERSON);
        assert_eq!(said.status, 400, "{crossed}");
        assert!(audit(&running).contains(reason), "{reason}: {}", audit(&running));
    }
    set_jar(&running, &clean);
    let user = || {
        let body = running.curl("/", &[]).body;
        body.lines().find(|line| line.starts_with("x-forwarded-user")).unwrap_or_default().to_owned()
    };
    assert_eq!(reached(&running.visit(&from_corp, &PERSON)), at("/"));
    assert_eq!(user(), "x-forwarded-user: corp:alice");
    let corps = jar(&running);
    set_jar(&running, "");
    assert_eq!(reached(&running.sign_in_there(&start("club"), "alice")), at("/"));
    assert_eq!(user(), "x-forwarded-user: club:alice");
    let devices = running.curl("/.portcullis/sessions", &PERSON).body.matches("<li>").count();
    assert_eq!(devices, 1, "the other alice's session is not hers");
    set_jar(&running, &corps);
    assert_eq!(user(), "x-forwarded-user: corp:alice");
}

pub fn form(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[test]
fn a_provider_that_is_away_is_a_page_and_never_a_circle() {
    let provider = Provider::start();
    let running = before(&provider, "");
    let page = running.to_provider("/report");
    let callback = running.answer(&page, "login=alice");
    let killed = provider.kill();
    let said = running.visit(&callback, &PERSON);
    assert_eq!((said.status, said.header("retry-after").as_deref()), (503, Some("5")), "{}", said.body);
    assert!(said.body.contains("does not answer at the moment"), "{}", said.body);
    assert!(!said.body.contains("127.0.0.1"), "{}", said.body);
    let provider = killed.start_again();
    provider.configure(&running, &json!({}));
    set_jar(&running, "");
    assert_eq!(reached(&running.sign_in_there("/report", "alice")), at("/report"));
    drop(provider);
    assert_eq!(running.curl("/report", &[]).status, 200, "who is signed in stays so");
    // Never seen yet: away from the first moment, and then there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let other = gateway(&text(&section("corp", &format!("http://127.0.0.1:{free}"), "")));
    let begun = Instant::now();
    let said = other.curl("/.portcullis/login", &PERSON);
    assert_eq!(said.status, 503, "{}", said.body);
    assert!(begun.elapsed() < Duration::from_secs(6));
    assert_eq!(other.curl("/public", &[]).status, 200);
}

#[test]
fn who_is_on_no_list_is_told_so_and_stays_out() {
    let provider = Provider::start();
    let running = before(&provider, "allow_domains = [\"corp.example\"]\nallow_groups = [\"eng-admins\", \"eng\"]");
    assert_eq!(reached(&running.sign_in_there("/", "alice")), at("/"));
    for (account, reason) in [("mallory", "email_not_allowed"), ("bob", "email_not_allowed")] {
        set_jar(&running, "");
        let said = running.sign_in_there("/", account);
        assert_eq!(said.status, 403, "{account}");
        assert!(said.body.contains("is not allowed here"), "{}", said.body);
        let told = audited(&running).pop().unwrap();
        assert_eq!((&told["reason"], &told["subject"]), (&json!(reason), &json!(account)), "{told}");
        assert_eq!((&told["event"], &told["provider"]), (&json!("sign_in_refused"), &json!(provider.issuer())));
        assert_eq!(running.curl("/", &[]).status, 401);
    }
}

/// ASVS 10.3.3, 10.3.4, 6.8.4; RFC 9470.
#[test]
fn a_route_asks_for_a_strong_or_recent_sign_in_and_leads_back() {
    let provider = Provider::start();
    let more = "path     = \"/admin\"\nlogin = \"corp\"\nmax_auth_age = \"10s\"\nacr = [\"gold\"]";
    let text = text(&section("corp", &provider.issuer(), "")).replace("path     = \"/admin\"", more);
    let running = gateway(&text);
    provider.configure(&running, &json!({}));
    assert_eq!(reached(&running.sign_in_there("/", "alice")), at("/"));
    let told = running.curl("/admin/x?y=1", &["-H", "accept: application/json"]);
    let challenge = told.header("www-authenticate").unwrap();
    assert_eq!(told.status, 401);
    assert!(challenge.contains("error=\"insufficient_user_authentication\""), "{challenge}");
    assert!(challenge.contains("login=\"/.portcullis/oidc/corp/start?return="), "{challenge}");
    let page = running.curl("/admin/x?y=1", &PERSON);
    let start = running.curl(&page.header("location").unwrap(), &PERSON).header("location").unwrap();
    assert_eq!((parameter(&start, "max_age"), parameter(&start, "acr_values")), ("10".into(), "gold".into()));
    // Known there, and still asked: as strongly as the route wants it.
    let (page, said) = running.follow(&start);
    assert!(said.body.contains("Sign in to the provider"), "{page}: {}", said.body);
    let callback = running.answer(&page, "login=alice");
    assert_eq!(reached(&running.visit(&callback, &PERSON)), at("/admin/x?y=1"));
    assert_eq!(running.curl("/admin/x?y=1", &[]).status, 200);
    let until = Instant::now() + Duration::from_secs(25);
    while running.curl("/admin/x?y=1", &[]).status == 200 {
        assert!(Instant::now() < until, "recent for ever");
    }
    assert_eq!(running.curl("/", &[]).status, 200, "the session goes on");
}

/// Programs, preflights and forms.
#[test]
fn what_is_no_page_load_is_told_where_to_sign_in_and_never_redirected() {
    let provider = Provider::start();
    let preflight = "access   = \"authenticated\"\npreflight = { origins = [\"https://other.example\"] }";
    let text = text(&section("corp", &provider.issuer(), "")).replacen(
        "access   = \"authenticated\"",
        &format!("{preflight}\nlogin = \"corp\""),
        1,
    );
    let running = gateway(&text);
    provider.configure(&running, &json!({}));
    for arguments in
        [&[][..], &["-H", "accept: application/json"], &["-H", "sec-fetch-mode: cors", "-H", "accept: text/html"]]
    {
        let said = running.curl("/api", arguments);
        assert_eq!((said.status, said.header("location")), (401, None), "{arguments:?}");
        let challenge = said.header("www-authenticate").unwrap();
        assert!(challenge.contains("login=\"/.portcullis/oidc/corp/start"), "{challenge}");
    }
    let asked = ["-X", "OPTIONS", "-H", "origin: https://other.example", "-H", "access-control-request-method: GET"];
    assert_eq!(running.curl("/api", &asked).status, 204);
    let form = ["-d", "comment=long", "-H", "accept: text/html", "-H", "sec-fetch-mode: navigate"];
    let said = running.curl("/comments", &form);
    assert_eq!((said.status, said.header("location")), (401, None));
    assert!(said.body.contains("was not sent") && said.body.contains("target=\"_blank\""), "{}", said.body);
    // A picture or a frame of another site begins no sign-in; a page that a service worker passes on does.
    let start = |dest, mode: &str| {
        let (dest, mode) = (format!("sec-fetch-dest: {dest}"), format!("sec-fetch-mode: {mode}"));
        running.curl("/.portcullis/oidc/corp/start", &["-H", &dest, "-H", &mode]).status
    };
    for (dest, mode, status) in [
        ("image", "no-cors", 400),
        ("iframe", "navigate", 400),
        ("empty", "cors", 400),
        ("empty", "navigate", 303),
        ("document", "navigate", 303),
    ] {
        assert_eq!(start(dest, mode), status, "{dest} {mode}");
    }
}

/// RFC 9700 §4.11, §4.12, §4.16: no open redirector, 303 after credentials, no frame. RFC 9700 §4.13: what a client sends under
/// an owned name reaches no application, in the way of a sign-in neither.
#[test]
fn sign_in_leads_nowhere_but_to_the_provider_and_back() {
    let provider = Provider::start();
    let local = "[login.local]\nusers = \"users.toml\"\ndemo_user = \"demo\"\n";
    let running = gateway(&text(&format!("{local}{}", section("corp", &provider.issuer(), "user_prefix = \"corp:\""))));
    provider.configure(&running, &json!({}));
    let page = running.curl("/.portcullis/login", &PERSON);
    assert!(page.header("content-security-policy").unwrap().contains("frame-ancestors 'none'"));
    for evil in ["https://evil.example/", "//evil.example", "eyJiIjoiLy9ldmlsLmV4YW1wbGUifQ.AAAA"] {
        set_jar(&running, "");
        let start = format!("/.portcullis/oidc/corp/start?return={}", form(evil));
        let begun = running.curl(&start, &PERSON);
        assert_eq!(begun.status, 303);
        assert!(begun.header("location").unwrap().starts_with(&format!("{}/auth?", provider.issuer())));
        set_jar(&running, "");
        let there = running.sign_in_there(&start, "alice");
        assert_eq!(reached(&there), at("/"), "{evil}");
        // Signed in by now: straight on, and still nowhere else.
        assert_eq!(reached(&running.curl(&start, &PERSON)), at("/"), "{evil}");
    }
    let page = running.curl("/", &["-H", "X-Forwarded-User: root", "-H", "X_Forwarded_Groups: admin"]);
    assert!(page.body.contains("x-forwarded-user: corp:alice\n") && !page.body.contains("root"), "{}", page.body);
}

/// Written by other people in another language, over Authlib.
#[test]
fn a_second_provider_of_another_family_works_the_same() {
    let mut command = python("oidc-provider-mock");
    let carol = json!({ "sub": "carol", "email": "carol@club.example", "email_verified": true, "name": "Carol" });
    command.args(["--port", "0", "--user-claims", &carol.to_string()]);
    let service = Service::start(&mut command);
    let port = service.says_port("running on http://127.0.0.1:");
    let issuer = format!("http://127.0.0.1:{port}");
    let running = gateway(&text(&section("club", &issuer, "")));
    let (address, page) = running.follow("/reading?list=1");
    assert!(page.body.contains("Authorize Client"), "{address}: {}", page.body);
    let callback = running.answer(&address, "sub=carol");
    assert_eq!(reached(&running.visit(&callback, &PERSON)), at("/reading?list=1"));
    let seen = running.curl("/reading?list=1", &[]).body;
    for line in ["x-forwarded-user: carol\n", "x-forwarded-preferred-username: Carol\n", "carol@club.example\n"] {
        assert!(seen.contains(line), "{line} in {seen}");
    }
    set_jar(&running, "");
    let (address, _) = running.follow("/");
    let declined = running.answer(&address, "action=deny");
    // It forgets the state when it says no: what belongs to no attempt is a page, and nothing more.
    assert_eq!(running.visit(&declined, &PERSON).status, 400);
    assert_eq!(running.curl("/", &[]).status, 401);
}

#[test]
fn a_person_chooses_a_provider_in_a_browser_and_signs_out_of_both() {
    let provider = Provider::start();
    let local = "[login.local]\nusers = \"users.toml\"\ndemo_user = \"demo\"\n";
    let corp = section("corp", &provider.issuer(), "title = \"Example Corp\"\nuser_prefix = \"corp:\"");
    let club = section("club", "http://127.0.0.1:9", "title = \"The Reading Club\"\nuser_prefix = \"club:\"");
    let running = gateway(&text(&format!("{local}{corp}{club}")));
    provider.configure(&running, &json!({}));
    let base = running.base();
    for (width, height, dark, name) in [
        (390, 844, false, "phone-light"),
        (390, 844, true, "phone-dark"),
        (1280, 900, false, "desktop-light"),
        (1280, 900, true, "desktop-dark"),
    ] {
        let browser = Browser::open(width, height, dark);
        browser.go(&format!("{base}/first?x=1"));
        browser.until("places to choose from", || browser.text().contains("Continue with Example Corp"));
        browser.picture(&format!("oidc-{name}-choose"));
        if name != "phone-light" && name != "desktop-dark" {
            continue;
        }
        browser.click("a[href*='/oidc/corp/start']");
        browser.until("at the provider", || browser.text().contains("Sign in to the provider"));
        let second = browser.tab();
        browser.go(&format!("{base}/second?y=2"));
        browser.click("a[href*='/oidc/corp/start']");
        browser.until("at the provider in another tab", || browser.text().contains("Sign in to the provider"));
        browser.write("#login", "alice");
        browser.click("#go");
        browser.until("the second tab's own page", || browser.address() == format!("{base}/second?y=2"));
        assert!(browser.text().contains("corp:alice"), "{}", browser.text());
        browser.first_tab(&second);
        browser.write("#login", "alice");
        browser.click("#go");
        browser.until("the first tab's own page", || browser.address() == format!("{base}/first?x=1"));
        browser.go(&format!("{base}/.portcullis/whoami"));
        browser.click("button");
        browser.until("on to the provider", || browser.text().contains("Sign out of the provider?"));
        browser.click("#yes");
        browser.until("and back", || browser.text().contains("You are signed out"));
        assert!(browser.address().starts_with(&format!("{base}/.portcullis/logout")), "{}", browser.address());
        browser.go(&format!("{base}/.portcullis/oidc/corp/start"));
        browser.until("asked anew", || browser.text().contains("Sign in to the provider"));
        browser.click("#no");
        browser.until("refused there", || browser.text().contains("You were not signed in"));
        browser.picture(&format!("oidc-{name}-declined"));
        browser.go(&format!("{base}/.portcullis/oidc/club/start"));
        browser.until("away", || browser.text().contains("does not answer at the moment"));
        browser.picture(&format!("oidc-{name}-away"));
    }
}
