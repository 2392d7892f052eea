//! Signing in with OpenID providers: the certified one of npm, over the real protocol. The attacks are those of attacks.md §2.4.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::providers::{Provider, before, gateway, parameter, people, section, text};
use crate::support::{Running, Said};

const PERSON: [&str; 2] = ["-H", "accept: text/html"];

fn jar(running: &Running) -> String {
    std::fs::read_to_string(running.folder.path().join("jar")).unwrap_or_default()
}

fn set_jar(running: &Running, jar: &str) {
    std::fs::write(running.folder.path().join("jar"), jar).unwrap();
}

fn audit(running: &Running) -> String {
    let lines = running.lines.0.lock().unwrap();
    lines.iter().rfind(|line| line.contains("\"audit\"")).cloned().unwrap_or_default()
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
    let running = before(&provider, "");
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
    assert!(again.body.contains("Try again"), "{}", again.body);
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

fn form(text: &str) -> String {
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
        assert!(audit(&running).contains(reason), "{}", audit(&running));
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
    // The provider asks again, because the last time was before `max_age`, or goes on with a new proof.
    let (address, said) = running.follow(&start);
    let there = match said.body.contains("Sign in to the provider") {
        true => {
            let callback = running.answer(&address, "login=alice");
            running.visit(&callback, &PERSON)
        }
        false => said,
    };
    match there.status {
        303 => {
            assert_eq!(reached(&there), at("/admin/x?y=1"));
            assert_eq!(running.curl("/admin/x?y=1", &[]).status, 200);
        }
        // It went on with the silver proof of before: told so once, and not sent in circles.
        403 => assert!(there.body.contains("stronger sign-in"), "{}", there.body),
        other => panic!("{other}: {}", there.body),
    }
}

/// Item 6 of what must work: programs, preflights and forms.
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
    // A picture of another site begins no sign-in.
    let image = running.curl("/.portcullis/oidc/corp/start", &["-H", "sec-fetch-dest: image"]);
    assert_eq!((image.status, image.header("location")), (400, None));
}

fn logout_token(provider: &Provider, change: &Value, sid: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    let mut payload = json!({
        "iss": provider.issuer(), "aud": "portcullis", "iat": now, "exp": now + 120, "sub": "alice", "sid": sid,
        "jti": format!("{}-{}", now, std::process::id()) + &rand(),
        "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
    });
    let mut wanted = json!({ "header": { "typ": "logout+jwt" } });
    for (name, value) in change.as_object().unwrap() {
        match name.as_str() {
            "header" => wanted["header"].as_object_mut().unwrap().extend(value.as_object().unwrap().clone()),
            "key" => wanted["key"] = value.clone(),
            "iat" | "exp" if value.is_i64() => payload[name] = json!(now + value.as_i64().unwrap()),
            _ if value.is_null() => drop(payload.as_object_mut().unwrap().remove(name)),
            _ => payload[name] = value.clone(),
        }
    }
    let filled = payload.to_string().replace("{iss}", &provider.issuer()).replace("{sid}", sid);
    wanted["payload"] = serde_json::from_str(&filled).unwrap();
    provider.sign(&wanted)
}

fn rand() -> String {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish().to_string()
}

/// ASVS 10.5.5.
#[test]
fn hostile_logout_tokens_end_nothing_and_good_ones_count_once() {
    let provider = Provider::start();
    let running = before(&provider, "");
    let hear = |token: &str| {
        let token = format!("logout_token={token}");
        running.curl("/.portcullis/oidc/corp/backchannel-logout", &["-d", &token, "-b", ""])
    };
    let sid_of_session = || {
        let listed = running.gateway.sessions();
        let user = portcullis::session::UserKey::of(&provider.issuer(), "alice");
        let now = portcullis::clock::Clock::now(&portcullis::clock::SystemClock);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let list = runtime.block_on(listed.list(user, now)).unwrap();
        list[0].session.provided.as_ref().unwrap().sid.clone().expect("the provider names its session")
    };
    let mut sid = String::new();
    let mut signed_in = false;
    for line in include_str!("../data/hostile_logout_tokens.txt").lines().filter(|line| !line.starts_with('#')) {
        let parts: Vec<&str> = line.splitn(3, '|').map(str::trim).collect();
        if !signed_in {
            set_jar(&running, "");
            assert_eq!(running.sign_in_there("/", "alice").status, 303);
            sid = sid_of_session();
            signed_in = true;
        }
        let token = logout_token(&provider, &serde_json::from_str(parts[2]).unwrap(), &sid);
        let said = hear(&token);
        assert_eq!(said.status.to_string(), parts[0], "{line}: {}", said.body);
        assert_eq!(said.header("cache-control").as_deref(), Some("no-store"));
        assert!(audit(&running).contains(&format!("\"{}\"", parts[1])), "{line}: {}", audit(&running));
        let still = running.curl("/", &[]).status;
        assert_eq!(still, if said.status == 200 { 401 } else { 200 }, "{line}");
        if said.status == 200 {
            signed_in = false;
            let again = hear(&token);
            assert_eq!(again.status, 400, "{line}: heard twice");
            assert!(audit(&running).contains("logout_token_repeated"), "{}", audit(&running));
        }
    }
    assert_eq!(running.curl("/.portcullis/oidc/corp/backchannel-logout", &["-d", "x=y"]).status, 400);
    assert_eq!(running.curl("/.portcullis/oidc/corp/backchannel-logout", &[]).status, 405);
    assert_eq!(running.curl("/.portcullis/oidc/corp/frontchannel-logout", &[]).status, 404, "not asked for");
    // An ID token is no logout token, and the other way round (RFC 8725 §3.11).
    let nobody = logout_token(&provider, &json!({ "sub": "nobody", "sid": "none" }), "none");
    assert_eq!(hear(&nobody).status, 200, "who is signed in nowhere is signed out already");
    assert_eq!(running.curl("/", &[]).status, 200);
}

#[test]
fn signing_out_here_leads_on_to_the_provider_which_signs_out_everywhere() {
    let provider = Provider::start();
    let more = "frontchannel_logout = true";
    // Cookies know no ports: two gateways of one host need two names.
    let second = text(&section("corp", &provider.issuer(), more).replace("\"portcullis\"", "\"second\""))
        .replace("[session]", "[session]\ncookie = \"__Host-second\"");
    let (here, there) = (gateway(&text(&section("corp", &provider.issuer(), more))), gateway(&second));
    let base = there.base();
    let second = json!({
        "client_id": "second", "client_secret": "a secret: with + signs",
        "redirect_uris": [format!("{base}/.portcullis/oidc/corp/callback")],
        "backchannel_logout_uri": format!("{base}/.portcullis/oidc/corp/backchannel-logout"),
        "backchannel_logout_session_required": true,
    });
    provider.configure(&here, &json!({ "clients": [second] }));
    // One browser, two applications: the second sign-in asks nothing.
    assert_eq!(here.sign_in_there("/", "alice").status, 303);
    let (_, known) = here.follow(&format!("{base}/deep"));
    assert!(known.status == 200 && known.body.contains("deep"), "{}", known.body);
    assert_eq!(here.visit(&format!("{base}/deep"), &[]).status, 200);
    let who = here.curl("/.portcullis/whoami", &[]);
    let csrf = format!("csrf={}", crate::support::between(&who.body, "name=\"csrf\" value=\"", "\""));
    let kept = jar(&here);
    let out = here.curl("/.portcullis/logout", &["--data-urlencode", &csrf]);
    assert_eq!(out.status, 200);
    let location =
        crate::support::between(&out.body, "content=\"0;url=", "\"").replace("&amp;", "&").replace("&#x2f;", "/");
    assert!(location.starts_with(&format!("{}/session/end?id_token_hint=eyJ", provider.issuer())), "{location}");
    assert_eq!(parameter(&location, "post_logout_redirect_uri"), format!("{}/.portcullis/logout", here.base()));
    assert!(parameter(&location, "state").len() >= 32);
    set_jar(&here, &kept);
    assert_eq!(here.curl("/", &[]).status, 401, "over here before the provider is asked");
    let page = here.visit(&location, &PERSON);
    assert!(page.body.contains("Sign out of the provider?"), "{}", page.body);
    let action = crate::support::between(&page.body, "action=\"", "\"").to_owned();
    let xsrf = format!("xsrf={}", crate::support::between(&page.body, "name=\"xsrf\" value=\"", "\""));
    let done = here.visit(&action, &["-d", &xsrf, "-d", "logout=yes"]);
    let back = done.header("location").unwrap_or_else(|| panic!("{} {}", done.head, done.body));
    assert!(back.starts_with(&format!("{}/.portcullis/logout?state=", here.base())), "{back}");
    assert!(here.visit(&back, &PERSON).body.contains("You are signed out"));
    // The provider told the second application before it sent the browser back.
    assert_eq!(here.visit(&format!("{base}/deep"), &[]).status, 401);
    // Front-channel, by the provider's own name for its session.
    assert_eq!(here.sign_in_there("/", "alice").status, 303);
    let wrong =
        here.curl(&format!("/.portcullis/oidc/corp/frontchannel-logout?iss={}&sid=x", form("https://evil")), &[]);
    assert_eq!((wrong.status, here.curl("/", &[]).status), (400, 200));
}

/// Without the jar.
fn bare(running: &Running, path: &str, cookie: &str) -> Said {
    let address = format!("{}{path}", running.base());
    let asked =
        std::process::Command::new("curl").args(["-sk", "-i", "--max-time", "20", "-H", cookie, &address]).output();
    Said::read(asked.unwrap())
}

fn changed(group: &str) -> Value {
    let mut accounts = people();
    accounts["alice"]["groups"] = json!([group]);
    accounts
}

fn with_tokens(provider: &Provider, header: &str) -> String {
    let route = format!("path     = \"/\"\nlogin = \"corp\"\naccess_token_header = \"{header}\"");
    let scopes = "scopes = [\"openid\", \"profile\", \"email\", \"offline_access\"]";
    text(&section("corp", &provider.issuer(), scopes)).replacen("path     = \"/\"", &route, 1)
}

/// ASVS 10.1.1, 10.4.5, 8.3.2; I29, I41.
#[test]
fn access_tokens_are_handed_on_and_refreshed_once_and_roles_follow() {
    let provider = Provider::start();
    let running = gateway(&with_tokens(&provider, "X-Access-Token"));
    provider.configure(&running, &json!({ "access_seconds": 4 }));
    assert_eq!(running.sign_in_there("/", "alice").status, 303);
    let token =
        |said: &Said| said.body.lines().find_map(|line| line.strip_prefix("x-access-token: ")).map(str::to_owned);
    let forged = ["-H", "X-Access-Token: forged", "-H", "X_Access_Token: forged", "-H", "X.Access.Token: forged"];
    let first = running.curl("/a", &forged);
    assert!(!first.body.contains("forged"), "{}", first.body);
    let before = token(&first).unwrap_or_else(|| panic!("{}", first.body));
    assert_eq!(running.curl("/admin", &[]).status, 200);
    provider.accounts(&changed("eng"));
    // Many tabs at the moment when it is due: one asks.
    let cookie = format!("Cookie: {}", running.cookie());
    let until = Instant::now() + Duration::from_secs(20);
    let renewed = loop {
        let all: Vec<Said> = std::thread::scope(|scope| {
            let asked: Vec<_> = (0..6).map(|_| scope.spawn(|| bare(&running, "/a", &cookie))).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        for said in &all {
            assert!(said.status == 200 && token(said).is_some(), "no tab goes without: {} {}", said.head, said.body);
        }
        if let Some(new) = all.iter().filter_map(token).find(|token| *token != before) {
            break new;
        }
        assert!(Instant::now() < until, "never refreshed");
    };
    assert_eq!(provider.seen("refresh"), 1);
    assert_ne!(renewed, before);
    let page = running.curl("/a", &[]);
    assert!(page.body.contains("x-forwarded-groups: staff\n"), "{}", page.body);
    assert_eq!(running.curl("/admin", &[]).status, 403, "the role is gone from the open session");
    // The provider is away: the session goes on, the token only as long as it counts.
    let killed = provider.kill();
    let until = Instant::now() + Duration::from_secs(20);
    while token(&running.curl("/a", &[])).is_some() {
        assert!(Instant::now() < until, "a token past its end is handed on");
    }
    assert_eq!(running.curl("/a", &[]).status, 200, "an outage signs nobody out");
    // There again, without memory of what it gave: the provider no longer vouches for it.
    let provider = killed.start_again();
    provider.configure(&running, &json!({ "access_seconds": 4 }));
    let until = Instant::now() + Duration::from_secs(20);
    while running.curl("/a", &[]).status == 200 {
        assert!(Instant::now() < until, "invalid_grant ends the session");
    }
    assert_eq!(running.curl("/a", &[]).status, 401);
}
