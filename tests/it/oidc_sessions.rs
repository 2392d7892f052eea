//! What follows a sign-in at a provider: its tokens in the service of the session, and signing out in both directions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::clock::{Clock, SystemClock};
use portcullis::session::store::Memory;
use portcullis::session::{SessionStore, UserKey};
use serde_json::{Value, json};

use crate::cli::portcullis;
use crate::held::{End, KINDS, Streaming};
use crate::oidc::{audit, audited, form, jar, set_jar};
use crate::providers::{Provider, before, gateway, gateway_in, parameter, people, section, text};
use crate::redis_server::RedisServer;
use crate::support::{Running, Said, run_with};
use crate::wire::soon;

const PERSON: [&str; 2] = ["-H", "accept: text/html"];

/// What the provider says when alice signs out there.
pub fn logout_token(provider: &Provider, change: &Value, sid: &str) -> String {
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

/// The provider's name for the session that alice has.
pub fn sid_of(running: &Running, provider: &Provider) -> String {
    let user = UserKey::of(&provider.issuer(), "alice");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let list = runtime.block_on(running.gateway.sessions().list(user, SystemClock.now())).unwrap();
    list[0].session.provided.as_ref().unwrap().sid.clone().expect("the provider names its session")
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
    let mut sid = String::new();
    let mut signed_in = false;
    for line in include_str!("../data/hostile_logout_tokens.txt").lines().filter(|line| !line.starts_with('#')) {
        let parts: Vec<&str> = line.splitn(3, '|').map(str::trim).collect();
        if !signed_in {
            set_jar(&running, "");
            assert_eq!(running.sign_in_there("/", "alice").status, 303);
            sid = sid_of(&running, &provider);
            signed_in = true;
        }
        let token = logout_token(&provider, &serde_json::from_str(parts[2]).unwrap(), &sid);
        let said = hear(&token);
        assert_eq!(said.status.to_string(), parts[0], "{line}: {}", said.body);
        assert_eq!(said.header("cache-control").as_deref(), Some("no-store"));
        assert!(audit(&running).contains(&format!("\"{}\"", parts[1])), "{line}: {}", audit(&running));
        let still = running.curl("/", &[]).status;
        assert_eq!(still, if said.status == 200 { 401 } else { 200 }, "{line}");
        let who = if said.status == 200 { json!("alice") } else { Value::Null };
        let told = audited(&running).pop().unwrap();
        assert_eq!((&told["subject"], &told["provider"]), (&who, &json!(provider.issuer())), "{line}: {told}");
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
    // Front-channel, by the provider's own name for its session, which nobody else knows.
    assert_eq!(here.sign_in_there("/", "alice").status, 303);
    let signed_out = || {
        let lines = audited(&here).into_iter().filter(|line| line["event"] == "sign_out");
        lines.filter(|line| line["reason"] == "frontchannel" && line["subject"] == "alice").count()
    };
    let wrong =
        here.curl(&format!("/.portcullis/oidc/corp/frontchannel-logout?iss={}&sid=x", form("https://evil")), &[]);
    assert_eq!((wrong.status, here.curl("/", &[]).status), (400, 200));
    let (issuer, sid) = (form(&provider.issuer()), sid_of(&here, &provider));
    let other = here.curl(&format!("/.portcullis/oidc/corp/frontchannel-logout?iss={issuer}&sid=x{sid}"), &[]);
    assert_eq!((other.status, here.curl("/", &[]).status), (200, 200), "another session's name ends nothing here");
    assert!(!audit(&here).contains("\"sign_out\""), "nor does it say so: {}", audit(&here));
    // Without either nobody is named, and of two it is not said who.
    let whole = format!("iss={issuer}&sid={sid}");
    for query in
        ["", "iss={issuer}", "sid={sid}", "iss={issuer}&sid=", "{whole}&sid=x", "sid=x&{whole}", "{whole}&iss=x"]
    {
        let query = query.replace("{whole}", &whole).replace("{issuer}", &issuer).replace("{sid}", &sid);
        let said = here.curl(&format!("/.portcullis/oidc/corp/frontchannel-logout?{query}"), &[]);
        assert_eq!((said.status, here.curl("/", &[]).status), (400, 200), "{query}");
    }
    let heard = here.curl(&format!("/.portcullis/oidc/corp/frontchannel-logout?iss={issuer}&sid={sid}"), &["-b", ""]);
    assert_eq!((heard.status, here.curl("/", &[]).status), (200, 401));
    assert_eq!(signed_out(), 1, "{}", audit(&here));
    here.curl(&format!("/.portcullis/oidc/corp/frontchannel-logout?iss={issuer}&sid={sid}"), &["-b", ""]);
    assert_eq!(signed_out(), 1, "nobody was left");
}

/// Without the jar.
fn bare(running: &Running, path: &str, cookie: &str) -> Said {
    let address = format!("{}{path}", running.base());
    let asked =
        std::process::Command::new("curl").args(["-sk", "-i", "--max-time", "20", "-H", cookie, &address]).output();
    Said::read(asked.unwrap())
}

pub fn changed(group: &str) -> Value {
    let mut accounts = people();
    accounts["alice"]["groups"] = json!([group]);
    accounts
}

pub fn with_tokens(provider: &Provider, header: &str) -> String {
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

/// A refresh token belongs to the provider that gave it, not to a name in a file.
#[test]
fn a_provider_that_takes_anothers_name_gets_nothing_of_its_sessions() {
    let (provider, other) = (Provider::start(), Provider::start());
    let text = with_tokens(&provider, "X-Access-Token");
    let running = gateway(&text);
    provider.configure(&running, &json!({ "access_seconds": 60 }));
    assert_eq!(running.sign_in_there("/", "alice").status, 303);
    assert!(running.curl("/a", &[]).body.contains("x-access-token: "));
    running.reload(&text.replace(&provider.issuer(), &other.issuer())).unwrap();
    other.configure(&running, &json!({}));
    // Whoever signed in at the one did not at the other; and is somebody all the same.
    assert_eq!(["/a", "/admin"].map(|path| running.curl(path, &[]).status), [401, 200]);
    assert_eq!(other.seen("asked"), 0, "it is told nothing");
    running.reload(&text).unwrap();
    assert!(running.curl("/a", &[]).body.contains("x-access-token: "), "its own provider is there again");
}

/// I41 and I39, over two nodes of one store.
#[test]
fn two_nodes_refresh_once_and_hear_a_logout_token_once() {
    let provider = Provider::start();
    let text =
        with_tokens(&provider, "Authorization").replace("[session]", "[session]\nsecret = { file = \"shared\" }");
    let store: Arc<dyn SessionStore> = Arc::new(Memory::new());
    let node = || {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), "a secret: with + signs\n").unwrap();
        std::fs::write(folder.path().join("shared"), "a secret of at least thirty-two bytes\n").unwrap();
        run_with(folder, &text, Arc::new(SystemClock), Some(store.clone()))
    };
    let (one, two) = (node(), node());
    provider.configure(&one, &json!({ "access_seconds": 4 }));
    assert_eq!(one.sign_in_there("/", "alice").status, 303);
    let cookie = format!("Cookie: {}", one.cookie());
    let bearer =
        |said: &Said| said.body.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).map(str::to_owned);
    let first = bearer(&bare(&one, "/a", &cookie)).expect("a token");
    assert_eq!(bearer(&bare(&two, "/a", &cookie)).as_ref(), Some(&first), "sealed by one node, opened by the other");
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let all: Vec<Said> = std::thread::scope(|scope| {
            let ask = |node: &'_ Running| bare(node, "/a", &cookie);
            let asked: Vec<_> = [&one, &two, &one, &two].map(|node| scope.spawn(move || ask(node))).into();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        let tokens: Vec<Option<String>> = all.iter().map(bearer).collect();
        assert!(tokens.iter().all(Option::is_some), "no request goes without");
        if tokens.iter().all(|token| token.as_ref() != Some(&first)) {
            break;
        }
        assert!(Instant::now() < until, "never refreshed on both");
    }
    assert_eq!(provider.seen("refresh"), 1, "one node asked, and the other one read");
    let token = logout_token(&provider, &json!({ "sid": null }), "");
    let hear = |node: &Running| {
        node.curl("/.portcullis/oidc/corp/backchannel-logout", &["-d", &format!("logout_token={token}")]).status
    };
    assert_eq!((hear(&one), hear(&two)), (200, 400), "once over all nodes");
}

/// attacks: lines 11 and 66. ASVS 10.4.8, 7.6.1: refreshing moves no end.
#[test]
fn refreshing_does_not_outlive_the_session() {
    let provider = Provider::start();
    let text = with_tokens(&provider, "X-Access-Token")
        .replace("max_age      = \"12h\"", "max_age = \"7s\"")
        .replace("idle_timeout = \"30m\"", "idle_timeout = \"7s\"");
    let running = gateway(&text);
    provider.configure(&running, &json!({ "access_seconds": 2 }));
    assert_eq!(running.sign_in_there("/", "alice").status, 303);
    let begun = Instant::now();
    while running.curl("/", &[]).status == 200 {
        assert!(begun.elapsed() < Duration::from_secs(15), "the session goes on for as long as it is refreshed");
    }
    assert!(begun.elapsed() > Duration::from_secs(4) && provider.seen("refresh") >= 1);
}

/// Sessions that browsers carry themselves begin and end in the same ways.
#[test]
fn a_session_in_tokens_begins_at_a_provider_and_ends_by_its_logout_token() {
    let provider = Provider::start();
    let running =
        gateway(&text(&section("corp", &provider.issuer(), "")).replace("[session]", "[session]\nmode = \"jwt\""));
    provider.configure(&running, &json!({}));
    assert_eq!(running.sign_in_there("/deep", "alice").status, 303);
    let page = running.curl("/deep", &[]);
    assert!(page.status == 200 && page.body.contains("x-forwarded-groups: admin\n"), "{}", page.body);
    let token = format!("logout_token={}", logout_token(&provider, &json!({}), &sid_of(&running, &provider)));
    let kept = jar(&running);
    assert_eq!(running.curl("/.portcullis/oidc/corp/backchannel-logout", &["-d", &token]).status, 200);
    set_jar(&running, &kept);
    assert_eq!(running.curl("/deep", &[]).status, 401);
}

/// Two nodes over one server.
fn two_nodes(redis: &RedisServer, text: &str) -> [Running; 2] {
    let store = format!("redis://127.0.0.1:{}/0", redis.port);
    let user = "user = \"portcullis\"\npassword = { file = \"redis\" }";
    let text = text
        .replace("\"memory\"", &format!("\"{store}\""))
        .replace("[session]\n", "[session]\nsecret = { file = \"shared\" }\n")
        .replace("[identity_headers]", &format!("[session.redis]\n{user}\n[identity_headers]"));
    [(); 2].map(|()| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("shared"), "a secret of at least thirty-two bytes\n").unwrap();
        std::fs::write(folder.path().join("redis"), "secret").unwrap();
        gateway_in(folder, &text)
    })
}

/// I39, over two nodes of a shared store that each remember the session: the provider is told that it is over when it is.
#[test]
fn a_providers_sign_out_is_answered_when_no_node_serves_the_session() {
    let (provider, redis) = (Provider::start(), RedisServer::start(&[]));
    let [one, two] = two_nodes(&redis, &text(&section("corp", &provider.issuer(), "")));
    provider.configure(&one, &json!({}));
    let asked = |node: &Running, cookie: &str| bare(node, "/a", cookie).status;
    for change in [json!({}), json!({ "sub": null }), json!({ "sid": null })] {
        set_jar(&one, "");
        assert_eq!(one.sign_in_there("/", "alice").status, 303);
        let cookie = format!("Cookie: {}", one.cookie());
        for node in [&one, &two] {
            let until = Instant::now() + Duration::from_secs(20);
            while asked(node, &cookie) != 200 {
                assert!(Instant::now() < until, "a node never serves the session");
            }
        }
        let token = logout_token(&provider, &change, &sid_of(&one, &provider));
        let hear = |node: &Running| {
            node.curl("/.portcullis/oidc/corp/backchannel-logout", &["-d", &format!("logout_token={token}")]).status
        };
        assert_eq!(hear(&one), 200, "{change}");
        assert_eq!((asked(&two, &cookie), asked(&one, &cookie)), (401, 401), "{change}");
        assert_eq!(hear(&two), 400, "heard already");
    }
}

/// What a provider takes away it takes from whoever only listens, too: at every node, though no request comes that would ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_a_provider_takes_back_ends_what_is_open_at_every_node() {
    let (provider, redis, streaming) = (Provider::start(), RedisServer::start(&[]), Streaming::start());
    let text = format!("{}\n{}", with_tokens(&provider, "X-Access-Token"), streaming.routes("[\"session\"]"));
    let nodes = tokio::task::block_in_place(|| {
        let nodes = two_nodes(&redis, &text);
        provider.configure(&nodes[0], &json!({ "access_seconds": 4 }));
        assert_eq!(nodes[0].sign_in_there("/", "alice").status, 303);
        nodes
    });
    let (cookie, mut doomed, mut spared) = (nodes[0].cookie(), Vec::new(), Vec::new());
    for node in &nodes {
        for kind in [KINDS[0], KINDS[4], KINDS[6]] {
            doomed.push(streaming.open(kind, node.port(), "/role", ("cookie", &cookie)).await);
            spared.push(streaming.open(kind, node.port(), "/any", ("cookie", &cookie)).await);
        }
    }
    tokio::task::block_in_place(|| provider.accounts(&changed("eng")));
    for held in doomed {
        let kind = held.kind;
        assert_eq!(soon(held.end()).await.0, End::of(kind, 4401), "{kind:?}");
    }
    for held in &mut spared {
        assert_eq!(held.next().await, None, "what asks for no role goes on");
    }
}

/// An operator names a provider as the file does; its people are known by its issuer, also when it is in the file no more.
#[test]
fn the_sessions_of_a_providers_people_are_found_by_its_name() {
    let provider = Provider::start();
    let local = "[login.local]\nusers = \"users.toml\"\ndemo_user = \"demo\"\n";
    let with = |logins: &str, admin: &str| {
        let text = text(logins).replace("\"memory\"", "\"embedded:data\"");
        text.replace("[server]\n", &format!("[server]\nadmin = \"{admin}\"\n"))
    };
    let both = format!("{local}{}", section("corp", &provider.issuer(), "user_prefix = \"corp:\""));
    let running = gateway(&with(&both, "127.0.0.1:0"));
    provider.configure(&running, &json!({}));
    let address = running.gateway.admin_address().unwrap().to_string();
    std::fs::write(running.folder.path().join("gateway.toml"), with(&both, &address)).unwrap();
    let sessions = |what: &str, place: &str| {
        portcullis(running.folder.path(), &["sessions", what, "--user", "alice", "--provider", place], "")
    };
    let issuer = provider.issuer();
    let is_in = || running.curl("/", &[]).status == 200;
    for place in ["corp", &issuer, "taken out"] {
        set_jar(&running, "");
        running.sign_in_there("/.portcullis/oidc/corp/start", "alice");
        assert!(is_in(), "{place}");
        // Found by what the audit says of them, whatever applications call them.
        let told = audited(&running).pop().unwrap();
        assert_eq!((&told["event"], &told["user"]), (&json!("sign_in"), &json!("corp:alice")));
        assert_eq!((&told["subject"], &told["provider"]), (&json!("alice"), &json!(issuer)));
        let place = match place {
            "taken out" => {
                running.reload(&with(local, "127.0.0.1:0")).unwrap();
                assert!(is_in(), "a session goes on");
                &issuer
            }
            place => place,
        };
        let (code, list, said) = sessions("list", place);
        assert!(code == 0 && list.contains("\"user\":\"alice\""), "{place}: {list}{said}");
        let (code, told, said) = sessions("revoke", place);
        assert!(code == 0 && told.contains("\"ended\":1,") && said.is_empty(), "{place}: {told}{said}");
        assert!(!is_in(), "{place}");
    }
    let (code, _, said) = sessions("revoke", &issuer);
    assert!(code == 1 && said.contains("there are: local"), "nobody is left there: {said}");
}
