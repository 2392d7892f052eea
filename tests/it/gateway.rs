//! The gateway as a user meets it: the real thing over TLS, asked with the real curl.

use crate::support::{Running, Said, between, run, run_in};

#[test]
fn a_person_signs_in_sees_the_headers_and_signs_out() {
    let running = run("memory");
    let wrong = running.sign_in("/a/b", "wrong");
    assert_eq!(wrong.status, 401);
    assert!(wrong.body.contains("is not right"), "{}", wrong.body);
    let there = running.sign_in("/a/b", &running.password);
    assert_eq!((there.status, there.header("location").as_deref()), (303, Some("/a/b")), "{}", there.head);
    for attribute in ["__host-portcullis=", "httponly", "secure", "samesite=lax", "path=/"] {
        assert!(there.head.to_ascii_lowercase().contains(attribute), "{attribute} in {}", there.head);
    }
    let page =
        running.curl("/a/b?x=1", &["-H", "X-Forwarded-User: root", "-H", "X_Forwarded_User: root", "-b", "app=1"]);
    assert_eq!(page.status, 200);
    assert!(page.body.contains("x-forwarded-user: demo\n"), "{}", page.body);
    assert!(page.body.contains("x-forwarded-groups: admin,staff\n"), "{}", page.body);
    assert!(!page.body.contains("root"), "attacks: policy 3: {}", page.body);
    assert!(!page.body.to_ascii_lowercase().contains("__host-portcullis"), "{}", page.body);
    assert_eq!(running.curl("/admin", &[]).status, 200);
    let who = running.curl("/.portcullis/whoami", &[]);
    let csrf = format!("csrf={}", between(&who.body, "name=\"csrf\" value=\"", "\""));
    assert_eq!(running.curl("/.portcullis/logout", &["-d", "csrf=forged"]).status, 403);
    assert_eq!(running.curl("/a", &[]).status, 200, "a forged form signs nobody out");
    let kept = std::fs::read_to_string(running.folder.path().join("jar")).unwrap();
    assert_eq!(running.curl("/.portcullis/logout", &["--data-urlencode", &csrf]).status, 200);
    std::fs::write(running.folder.path().join("jar"), &kept).unwrap();
    assert_eq!(running.curl("/a", &[]).status, 401, "the old cookie is worth nothing");
    let lines = running.lines.0.lock().unwrap().join("\n");
    for secret in [running.password.as_str(), "x=1", "__Host-portcullis"] {
        assert!(!lines.contains(secret), "{secret} in {lines}");
    }
    for event in ["\"sign_in\"", "\"sign_in_failed\"", "\"sign_out\"", "\"role_held\""] {
        assert!(lines.contains(event), "{event} in {lines}");
    }
}

/// A script of an application may set a cookie of any bytes, and a browser sends all of them in one line.
#[test]
fn a_cookie_outside_ascii_keeps_nobody_from_signing_in() {
    let running = run("memory");
    let form = running.curl("/.portcullis/login", &[]);
    let browser = between(&form.head, "set-cookie: __Host-portcullis-login=", ";");
    let state = format!("state={}", between(&form.body, "name=\"state\" value=\"", "\""));
    let password = format!("password={}", running.password);
    let cookie = format!("cookie: town=Köln; __Host-portcullis-login={browser}");
    let fields = ["-H", &cookie, "-d", "user=demo", "--data-urlencode", &state, "--data-urlencode", &password];
    for version in ["--http1.1", "--http2"] {
        let said = running.alone("/.portcullis/login", &[&[version], &fields[..]].concat());
        assert_eq!(said.status, 303, "{version}: {}", said.head);
    }
}

/// Sign-in pages in several tabs lead each to its own, also those that are stale by then. attacks: login CSRF
#[test]
fn every_sign_in_page_leads_back_to_where_it_came_from() {
    let running = run("memory");
    let opened = |start: &str| {
        let there = running.curl(start, &["-H", "accept: text/html"]).header("location").unwrap();
        running.curl(&there, &[])
    };
    let leads = |said: &Said| (said.status, said.header("location"));
    let to = |back: &str| (303, Some(back.to_owned()));
    let tabs = ["/a?tab=1", "/a?tab=2", "/a?tab=3"].map(opened);
    for (number, tab) in [(2, &tabs[1]), (1, &tabs[0])] {
        assert_eq!(leads(&running.fill_in(tab, "demo", &running.password)), to(&format!("/a?tab={number}")));
    }
    let who = running.curl("/.portcullis/whoami", &[]);
    let csrf = format!("csrf={}", between(&who.body, "name=\"csrf\" value=\"", "\""));
    assert_eq!(running.curl("/.portcullis/logout", &["--data-urlencode", &csrf]).status, 200);
    assert!(!running.jar().contains("__Host-portcullis-login"), "{}", running.jar());
    // Made before somebody signed out, and of another browser altogether.
    let others = running.alone("/.portcullis/login", &[]);
    for (tab, back) in [(&tabs[2], "/a?tab=3"), (&others, "/")] {
        let stale = running.fill_in(tab, "demo", &running.password);
        assert_eq!(stale.status, 400, "{}", stale.body);
        assert!(
            stale.body.contains("open for too long") && !stale.head.contains("__Host-portcullis="),
            "{}",
            stale.head
        );
        assert_eq!(leads(&running.fill_in(&stale, "demo", &running.password)), to(back));
        std::fs::write(running.folder.path().join("jar"), "").unwrap();
    }
}

#[test]
fn answers_to_those_who_may_not_pass() {
    let running = run("memory");
    let rows: [(&str, &[&str], u16, &str); 9] = [
        ("/", &[], 401, "You are not signed in."),
        ("/", &["-H", "accept: application/json"], 401, "\"error\":\"unauthenticated\""),
        ("/", &["-H", "accept: text/html"], 303, ""),
        ("/public/x", &[], 200, "GET /public/x"),
        ("/public/x", &["-X", "POST"], 405, "method"),
        ("/a/../public", &[], 400, "more than one way"),
        ("/PUBLIC", &[], 400, "more than one way"),
        ("/", &["-H", "Host: other.example"], 421, "another host"),
        ("/", &["-b", "__Host-portcullis=a; __Host-portcullis=b"], 400, "more than one credential"),
    ];
    for (path, arguments, status, part) in rows {
        for version in ["--http1.1", "--http2"] {
            let arguments: Vec<&str> = arguments.iter().copied().chain([version]).collect();
            let said = running.curl(path, &arguments);
            assert_eq!(said.status, status, "{path} {arguments:?} {}", said.head);
            assert!(said.body.contains(part), "{path} {arguments:?} {}", said.body);
            if status != 200 {
                assert_eq!(said.header("cache-control").as_deref(), Some("no-store"), "{path}");
                assert!(said.header("strict-transport-security").is_some(), "{path}");
            }
        }
    }
    assert!(!running.curl("/public", &["-H", "X-Auth-Request-User: root"]).body.contains("root"));
}

#[test]
fn a_body_goes_through_and_comes_back() {
    let running = run("memory");
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    let file = running.folder.path().join("body");
    std::fs::write(&file, vec![b'x'; 8 << 20]).unwrap();
    let data = format!("@{}", file.display());
    assert_eq!(running.curl("/upload", &["--data-binary", &data]).status, 200);
    assert_eq!(running.curl("/after", &[]).status, 200);
}

#[test]
fn sessions_survive_a_restart() {
    let running = run("embedded:data");
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    assert_eq!(running.curl("/", &[]).status, 200);
    let Running { gateway, folder, .. } = running;
    gateway.stop();
    let again = run_in(folder, "embedded:data");
    assert_eq!(again.curl("/", &[]).status, 200);
}

/// Ten wrong guesses, then a wait that is told; the same for a name that nobody has, in the same words (ASVS 6.3.8).
/// attacks: lines 31 and 40
#[test]
fn guessing_is_slowed_and_names_are_not_told_apart() {
    let running = run("memory");
    let guess = |user: &str| {
        let page = running.curl("/.portcullis/login", &[]);
        let state = format!("state={}", between(&page.body, "name=\"state\" value=\"", "\""));
        let user = format!("user={user}");
        running.curl("/.portcullis/login", &["-d", &user, "--data-urlencode", &state, "-d", "password=wrong-guess"])
    };
    let plain = |body: &str, user: &str| {
        let state = between(body, "name=\"state\" value=\"", "\"").to_owned();
        body.replace(&state, "").replace(user, "")
    };
    for attempt in 1..=10 {
        let (known, unknown) = (guess("demo"), guess("nobody"));
        assert_eq!((known.status, unknown.status), (401, 401), "guess {attempt}");
        assert_eq!(plain(&known.body, "demo"), plain(&unknown.body, "nobody"));
    }
    for user in ["demo", "nobody"] {
        let slowed = guess(user);
        assert_eq!(slowed.status, 429, "{user}: {}", slowed.body);
        assert!(slowed.header("retry-after").unwrap().parse::<u32>().unwrap() > 0, "{user}");
    }
    let said = running.lines.0.lock().unwrap().join("\n");
    assert!(said.contains("throttled"), "{said}");
}
