//! Addresses: what leads somewhere leads there for a browser as well, as the standard of URLs reads it (WHATWG): the way back after a
//! sign-in to this host, a redirect of an application's to where it led or to this host, over TLS; the origin that a form or a
//! WebSocket is taken from is this one; what is copied or moved stays where its caller may write.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, header};
use url::Url;

use crate::fetch::Address;
use crate::login::{ReturnTo, WHOAMI, of_sign_in_page, same_origin};
use crate::policy::{Authentication, Fields, Found, RequestHead, destination};
use crate::proxy::{lead_back, redirect, websocket_of_here};

use super::{CONFIG, caller, paths};

const HERE: &str = "app.example:8443";
/// What the application was told as its host.
const TOLD: &str = "app.internal";

/// `data` is an address.
pub fn hold(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    led_back(&value);
    taken_from_here(&value);
    let Some(text) = str::from_utf8(data).ok() else { return };
    fetched(text);
    returned_to(text);
    sent_to_tls(text);
    written_to(text);
}

fn here() -> Url {
    Url::parse(&format!("https://{HERE}/a/b?c")).expect("an address")
}

/// Whether it is at, or below, what is the gateway's own.
fn is_ours(url: &Url) -> bool {
    url.path() == "/.portcullis" || url.path().starts_with("/.portcullis/")
}

/// As a browser reads a header: each byte a character.
fn followed(value: &HeaderValue) -> Option<Url> {
    let text = str::from_utf8(value.as_bytes())
        .map_or_else(|_| value.as_bytes().iter().map(|byte| char::from(*byte)).collect::<String>(), str::to_owned);
    here().join(&text).ok()
}

/// What is looked at as one address is asked as another one by a library.
fn fetched(text: &str) {
    let Ok(address) = Address::parse(text, true) else { return };
    let Ok(url) = Url::parse(text) else { return };
    assert_eq!(url.scheme() == "https", address.is_secure(), "{text:?}");
    assert!(url.username().is_empty() && url.password().is_none(), "{text:?}");
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    assert!(address.is_secure() || loopback, "{text:?}");
    let shown = address.to_string();
    let named = matches!(url.host(), Some(url::Host::Domain(_)));
    let origin = format!(
        "{}://{}:{}/",
        url.scheme(),
        url.host_str().unwrap_or_default(),
        url.port_or_known_default().unwrap_or(0)
    );
    assert!(!named || shown.starts_with(&origin), "{shown} is {url}");
}

fn returned_to(text: &str) {
    let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
    let back = ReturnTo::here(path, query);
    let url = here().join(back.as_str()).unwrap_or_else(|_| panic!("{back:?} leads nowhere"));
    assert_eq!(url.origin(), here().origin(), "{text:?} leads to {url}");
    let own = [WHOAMI, "/.portcullis/sessions"].contains(&back.as_str());
    assert!(own || !is_ours(&url), "{text:?} leads to {url}");
    assert!(back.as_str().bytes().all(|byte| (0x21..0x7f).contains(&byte)), "{back:?}");
    let (path, query) =
        back.as_str().split_once('?').map_or((back.as_str(), None), |(path, query)| (path, Some(query)));
    assert_eq!(ReturnTo::here(path, query), back, "it is its own way back");
}

fn led_back(value: &HeaderValue) {
    for told in [TOLD, HERE] {
        let mut headers = HeaderMap::from_iter([(header::LOCATION, value.clone())]);
        lead_back(&mut headers, told.as_bytes(), HERE);
        let led = &headers[header::LOCATION];
        if led == value {
            continue;
        }
        let (Some(before), Some(after)) = (followed(value), followed(led)) else { panic!("{value:?} became {led:?}") };
        assert_eq!(after.origin(), here().origin(), "{value:?} became {led:?}");
        let of =
            |url: &Url| format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(0));
        assert!(
            [format!("{told}:80"), format!("{told}:443"), told.to_owned()].contains(&of(&before)),
            "{value:?} is not {told}"
        );
        let rest =
            |url: &Url| (url.path().to_owned(), url.query().map(str::to_owned), url.fragment().map(str::to_owned));
        assert_eq!(rest(&before), rest(&after), "{value:?} became {led:?}");
    }
}

fn sent_to_tls(text: &str) {
    let Ok(request) = Request::get(text).header("host", "app.example:80").header("accept", "text/html").body(()) else {
        return;
    };
    for (port, origin) in
        [(Some(443), "https://app.example"), (Some(8443), "https://app.example:8443"), (None, "https://app.example:80")]
    {
        let answer = redirect(request.clone(), port);
        let Some(location) = answer.headers().get(header::LOCATION) else { continue };
        let url = Url::parse(location.to_str().expect("text")).unwrap_or_else(|_| panic!("{location:?}"));
        assert_eq!(url.origin().ascii_serialization(), origin, "{text:?}");
    }
}

fn taken_from_here(value: &HeaderValue) {
    let headers = |name| HeaderMap::from_iter([(name, value.clone())]);
    let (origin, mut page) = (headers(header::ORIGIN), headers(header::REFERER));
    let is_here = same_origin(&origin, HERE);
    assert_eq!(websocket_of_here(&Fields::of(&origin), HERE), is_here, "{value:?}");
    if is_here {
        let url = value.to_str().ok().and_then(|text| Url::parse(text).ok());
        assert!(
            url.is_some_and(|url| url.origin() == here().origin() && url.path() == "/"),
            "{value:?} is not this origin"
        );
    }
    page.insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
    if of_sign_in_page(&page, HERE) {
        let url = value.to_str().ok().and_then(|text| Url::parse(text).ok());
        let is_page = url.is_some_and(|url| url.origin() == here().origin() && url.path() == "/.portcullis/login");
        assert!(is_page, "{value:?} is not the sign-in page");
    }
}

fn written_to(text: &str) {
    let parts = Request::builder()
        .method("MOVE")
        .uri("/files/a")
        .header("host", HERE)
        .body(())
        .expect("a request")
        .into_parts()
        .0;
    let head = RequestHead::parse(&parts, None).expect("a head");
    let Found::Route(matched) = CONFIG.routes.find(&head) else { panic!("a route") };
    for authentication in [Authentication::Anonymous, Authentication::Identified(caller(&CONFIG.roles, &["staff"]))] {
        let judged = destination(
            text.as_bytes(),
            &head,
            (&CONFIG.routes, matched.route),
            authentication.clone(),
            Duration::ZERO,
        );
        let Ok(told) = judged else { continue };
        // Absolute, or a path: else nobody writes there.
        for line in told.as_deref().into_iter().chain(told.is_none().then_some(text)) {
            let url = here().join(line).unwrap_or_else(|_| panic!("{line:?} leads nowhere"));
            let origin = format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(0));
            assert_eq!(origin.split(':').next(), Some("app.example"), "{text:?} is {line:?}");
            // Behind a prefix that is taken away it is the application's.
            assert!(told.is_some() || !is_ours(&url), "{text:?} is {line:?}");
            let may = paths::may(&CONFIG.routes, matched.route.upstream, url.path(), &authentication);
            assert!(may, "{authentication:?} may write to {text:?}, which is {url}");
        }
    }
}
