//! What browsers do that no single request shows: several tabs at once, frames, files that are saved, service workers, addresses with
//! a fragment.

use http::Response;
use serde_json::json;

use crate::browser::Browser;
use crate::providers::{Provider, gateway, section, text};
use crate::support::{between, run, run_text, shipped};
use crate::wire::{Application, whole};

/// What browsers say beside a request of each kind, as Chromium does.
const SAVED: [&str; 6] = ["-H", "sec-fetch-dest: empty", "-H", "sec-fetch-mode: navigate", "-H", "accept: */*"];

/// A sign-in page would be saved under the name of the file, and browsers show no page in a frame that may not be shown there.
#[test]
fn a_file_that_is_saved_and_a_frame_are_told_and_not_sent_to_sign_in() {
    let running = run("memory");
    let asked = |dest: &str, accept: &str| {
        let lines = [format!("sec-fetch-dest: {dest}"), format!("accept: {accept}")];
        running.alone("/report.pdf", &["-H", "sec-fetch-mode: navigate", "-H", &lines[0], "-H", &lines[1]])
    };
    let page = "text/html,application/xhtml+xml,*/*;q=0.8";
    assert_eq!(running.alone("/report.pdf", &SAVED).status, 401);
    // The third is what a service worker passes on.
    for (dest, accept) in [("document", page), ("document", "*/*"), ("empty", page)] {
        let said = asked(dest, accept);
        assert_eq!(said.status, 303, "{dest} {accept}");
        assert!(said.header("location").unwrap().starts_with("/.portcullis/login?return="), "{}", said.head);
    }
    for dest in ["iframe", "frame", "embed", "object", "fencedframe"] {
        let said = asked(dest, page);
        assert_eq!((said.status, said.header("location")), (401, None), "{dest}");
        assert!(said.body.contains("not signed in") && said.body.contains("target=\"_blank\""), "{}", said.body);
        let policy = said.header("content-security-policy").unwrap();
        assert!(policy.contains("frame-ancestors 'self'") && policy.contains("form-action 'none'"), "{policy}");
    }
    let policy = running.alone("/.portcullis/login", &[]).header("content-security-policy").unwrap();
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
}

/// Browsers leave the session's cookie out where another site posts, so that neither a sign-in nor loading it again helps.
#[test]
fn a_form_that_another_site_sent_is_told_so() {
    let running = run("memory");
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    let form = ["-d", "SAMLResponse=x", "-H", "accept: text/html", "-H", "sec-fetch-mode: navigate"];
    let sent = |site: &str| running.alone("/acs", &[&form[..], &["-H", &format!("sec-fetch-site: {site}")]].concat());
    for site in ["same-origin", "same-site", "none"] {
        let said = sent(site);
        assert!(
            said.status == 401 && said.body.contains("load this page again: your browser"),
            "{site}: {}",
            said.body
        );
    }
    let said = sent("cross-site");
    assert!(said.status == 401 && said.body.contains("Another site sent this here"), "{}", said.body);
    assert!(!said.body.contains("Sign in in a new tab"), "{}", said.body);
}

#[test]
fn a_page_of_ones_own_is_come_back_to_and_a_script_is_told() {
    let running = run("memory");
    for page in ["/.portcullis/whoami", "/.portcullis/sessions"] {
        std::fs::write(running.folder.path().join("jar"), "").unwrap();
        let fetched = running.curl(page, &["-H", "sec-fetch-mode: cors", "-H", "sec-fetch-dest: empty"]);
        assert_eq!((fetched.status, fetched.header("location")), (401, None), "{page}");
        assert_eq!(running.sign_in(page, &running.password).header("location").as_deref(), Some(page));
    }
    // A session that ended under the page with its button.
    std::fs::write(running.folder.path().join("jar"), "").unwrap();
    let ended = running.curl("/.portcullis/sessions/end", &["-d", "handle=others"]);
    let form = running.curl(&ended.header("location").unwrap(), &[]);
    let signed_in = running.fill_in(&form, "demo", &running.password);
    assert_eq!(signed_in.header("location").as_deref(), Some("/.portcullis/sessions"));
}

/// A browser that opens its tabs again asks for all of them at once: each gets a form, and the cookie of the last one stays.
#[test]
fn every_tab_signs_in_whichever_cookie_came_last_and_comes_back_to_its_fragment() {
    let running = run("memory");
    let base = format!("https://localhost:{}", running.port());
    let browser = Browser::open(1280, 900, false);
    browser.go(&format!("{base}/one?x=1#/deep/link"));
    let second = browser.tab();
    browser.forget();
    browser.go(&format!("{base}/two#there"));
    browser.first_tab(&second);
    for (n, asked) in ["/one?x=1#/deep/link", "/two#there"].iter().enumerate() {
        if n == 1 {
            browser.look_at(&second);
        }
        browser.write("#user", "demo");
        browser.write("#password", &running.password);
        browser.click("button");
        browser.until("back at its page", || browser.address() == format!("{base}{asked}"));
    }
    // A frame says what is wrong, instead of that the site is down.
    browser.forget();
    let frame = "const frame = document.createElement('iframe');
        const loaded = new Promise(done => { frame.onload = done; });
        frame.src = '/framed';
        document.body.append(frame);
        return loaded.then(() => frame.contentDocument ? frame.contentDocument.body.innerText : 'not shown');";
    let shown = browser.run(frame);
    assert!(shown.as_str().is_some_and(|shown| shown.contains("You are not signed in")), "{shown}");
}

/// An application that does not believe `X-Forwarded-Proto`, or is told another host, sends browsers to where it thinks it is.
#[test]
fn a_redirect_of_an_application_to_itself_leads_back_here() {
    let application = Application::start(|request| {
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        async move {
            let answer = Response::builder().status(302).header("location", format!("http://{host}/there?a=b"));
            answer.body(whole("")).unwrap()
        }
    });
    let other = "[[route]]\nname = \"other\"\npath = \"/public/other\"\naccess = \"public\"\nupstream = \"app\"\n\
        host_header = \"app.internal\"";
    let text = shipped("memory").replace("builtin:whoami", &format!("http://127.0.0.1:{}", application.port));
    let running = run_text(tempfile::tempdir().unwrap(), &format!("{text}\n{other}"));
    for path in ["/public", "/public/other"] {
        for version in ["--http1.1", "--http2"] {
            let said = running.alone(path, &[version]);
            let here = format!("https://localhost:{}/there?a=b", running.port());
            assert_eq!((said.status, said.header("location")), (302, Some(here)), "{path} {version}");
        }
    }
}

/// What a service worker passes on has lost its destination, on the way to the provider and back.
#[test]
fn people_sign_in_at_a_provider_from_an_application_with_a_service_worker() {
    let application = Application::start(|request| {
        let (path, user) = (request.uri().path().to_owned(), request.headers().get("x-forwarded-user").cloned());
        async move {
            let script = "onfetch = event => event.respondWith(fetch(event.request));";
            let answer = Response::builder().header("service-worker-allowed", "/");
            if path == "/public/worker.js" {
                return answer.header("content-type", "text/javascript").body(whole(script)).unwrap();
            }
            let page = format!("<!doctype html><p>{path} for {user:?}");
            answer.header("content-type", "text/html").body(whole(page)).unwrap()
        }
    });
    let provider = Provider::start();
    let text = text(&section("corp", &provider.issuer(), ""));
    let running = gateway(&text.replace("builtin:whoami", &format!("http://127.0.0.1:{}", application.port)));
    provider.configure(&running, &json!({}));
    let base = running.base();
    let browser = Browser::open(1280, 900, false);
    browser.go(&format!("{base}/public/start"));
    let ready = "return navigator.serviceWorker.register('/public/worker.js', { scope: '/' })
        .then(() => navigator.serviceWorker.ready).then(() => 'ready', error => String(error));";
    assert_eq!(browser.run(ready), json!("ready"));
    browser.go(&format!("{base}/mine?x=1"));
    browser.until("at the provider", || browser.text().contains("Sign in to the provider"));
    browser.write("#login", "alice");
    browser.click("#go");
    browser.until("back at its page", || browser.address() == format!("{base}/mine?x=1"));
    assert!(browser.text().contains("alice"), "{}", browser.text());
    assert_eq!(browser.run("return Boolean(navigator.serviceWorker.controller)"), json!(true), "it was in the way");
}

/// Who signs in, or out, without having been on the way to something is led where there is something: applications may all be
/// below.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_was_on_the_way_to_nowhere_is_led_where_there_is_something() {
    for (start, route) in [("/", "path     = \"/\""), ("/.portcullis/whoami", "path     = \"/app\"")] {
        let text = shipped("memory").replacen("path     = \"/\"", route, 1);
        let running = run_text(tempfile::tempdir().unwrap(), &text);
        let signed_in = running.sign_in("/.portcullis/login", &running.password);
        assert_eq!(signed_in.header("location").as_deref(), Some(start));
        let again = running.curl("/.portcullis/login", &[]);
        assert_eq!(again.header("location").as_deref(), Some(start));
        assert_eq!(running.curl(start, &["-H", "accept: text/html"]).status, 200);
        let link = format!("href=\"{}\"", start.replace('/', "&#x2f;"));
        let page = running.curl("/.portcullis/logout", &[]);
        assert!(page.body.contains(&link), "{}", page.body);
        let csrf = format!("csrf={}", between(&page.body, "name=\"csrf\" value=\"", "\""));
        let signed_out = running.curl("/.portcullis/logout", &["--data-urlencode", &csrf]);
        assert!(signed_out.status == 200 && signed_out.body.contains(&link), "{}", signed_out.body);
    }
}
