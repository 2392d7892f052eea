//! What a form of the gateway must prove. One decision: a POST counts only with a state that this gateway sealed for this very
//! browser, and from this very origin; either alone would do against most attacks, both cost nothing.
//! Knows nothing of what the form asks for.

use std::time::Duration;

use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, header};

use crate::clock::Timestamp;

use super::return_to::{ReturnTo, open, seal};

/// How long a sign-in page may stay open.
pub const STATE_LIFE: Duration = Duration::from_secs(3600);
const BROWSER_CHARACTERS: usize = 43;
const STATE: &str = "state";

/// The value that binds forms to a browser, kept in a cookie from before sign-in to sign-out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Browser(String);

impl Browser {
    /// A fresh one. Should the generator fail there is none, and nobody can sign in.
    pub fn new() -> Option<Browser> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).ok()?;
        Some(Browser(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The one of a cookie, if it looks like ours.
    pub fn of(cookie: &str) -> Option<Browser> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (cookie.len() == BROWSER_CHARACTERS && cookie.bytes().all(plain)).then(|| Browser(cookie.to_owned()))
    }

    /// The cookie's value.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The hidden field of a sign-in form: the way back and the time, sealed for this browser. Any number of tabs may be open.
    pub fn state(&self, key: &hmac::Key, back: &ReturnTo, now: Timestamp) -> String {
        let browser = seal(key, &self.purpose(), b"");
        seal(key, STATE, format!("{} {browser} {}", now.0, back.as_str()).as_bytes())
    }

    fn purpose(&self) -> String {
        format!("browser {}", self.0)
    }
}

/// What the state of a form that was sent is worth.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    /// This browser's, and not too old.
    Fresh(ReturnTo),
    /// Of this gateway, and too old or of a cookie that is gone. It may be anybody's, so nobody signs in by it; where it leads to on
    /// this host a link would, too.
    Stale(ReturnTo),
    /// Nothing of ours.
    Unknown,
}

impl Sent {
    /// Of a form from a browser that brought this; `of_page`: the sign-in page sent it ([`of_sign_in_page`]).
    pub fn read(key: &hmac::Key, browser: Option<&Browser>, of_page: bool, state: &str, now: Timestamp) -> Sent {
        let Some(text) = open(key, STATE, state).and_then(|payload| String::from_utf8(payload).ok()) else {
            return Sent::Unknown;
        };
        let mut parts = text.splitn(3, ' ');
        let (issued, of) = (parts.next().and_then(|issued| issued.parse().ok()), parts.next().unwrap_or_default());
        let back = parts.next().unwrap_or_default();
        let (path, query) = back.split_once('?').map_or((back, None), |(path, query)| (path, Some(query)));
        let back = ReturnTo::here(path, query);
        let is_of = |browser: &Browser| open(key, &browser.purpose(), of).is_some();
        // Login CSRF: a state that was given to somebody else's browser signs nobody in. On the sign-in page stands none but what this
        // browser was given, if by then under another cookie, as where it opened several tabs at once, or long ago. A browser that keeps
        // no cookie is not to be sent in circles.
        let holds = browser.is_some_and(|browser| {
            of_page || (issued.is_some_and(|issued| now.since(Timestamp(issued)) <= STATE_LIFE) && is_of(browser))
        });
        if holds { Sent::Fresh(back) } else { Sent::Stale(back) }
    }
}

/// Whether a POST comes from a page of this origin (ASVS 3.5.1). A browser says so in one of two ways; a client that says
/// neither still has to bring a sealed state.
pub fn same_origin(headers: &HeaderMap, authority: &str) -> bool {
    let site = headers.get("sec-fetch-site").map(http::HeaderValue::as_bytes);
    if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return false;
    }
    match headers.get(header::ORIGIN) {
        None => true,
        Some(origin) => origin
            .as_bytes()
            .strip_prefix(b"https://")
            .is_some_and(|host| host.eq_ignore_ascii_case(authority.as_bytes())),
    }
}

/// Whether a form was sent from the sign-in page, on which nobody else's form stands. Asked beside [`same_origin`]: a service worker
/// hides what another site sends behind its own origin, and pages of applications are of this origin, too; neither can have this
/// address. A browser that does not say is not believed to be there.
pub fn of_sign_in_page(headers: &HeaderMap, authority: &str) -> bool {
    let site = headers.get("sec-fetch-site").is_some_and(|site| site.as_bytes() == b"same-origin");
    let referer = headers.get(header::REFERER).and_then(|referer| referer.to_str().ok());
    let page = referer.map(|referer| referer.split(['?', '#']).next().unwrap_or_default());
    let is_page = |page: &str| {
        let (host, path) = page.strip_prefix("https://")?.split_once('/')?;
        Some(host.eq_ignore_ascii_case(authority) && path == ".portcullis/login")
    };
    site && page.and_then(is_page).unwrap_or_default()
}

/// A field of a form.
pub fn field(body: &[u8], name: &str) -> Option<String> {
    form_urlencoded::parse(body).find(|(field, _)| field == name).map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::{Browser, STATE_LIFE, Sent, of_sign_in_page, same_origin};
    use crate::clock::Timestamp;
    use crate::login::return_to::ReturnTo;
    use aws_lc_rs::hmac;
    use http::HeaderMap;
    use std::time::Duration;

    #[test]
    fn a_state_is_one_browsers_for_an_hour() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]);
        let (browser, other) = (Browser::new().unwrap(), Browser::new().unwrap());
        let back = ReturnTo::here("/a", Some("b=c"));
        let now = Timestamp(1_000_000);
        let state = browser.state(&key, &back, now);
        let read = |browser, state: &str, now| Sent::read(&key, browser, false, state, now);
        let (fresh, stale) = (|| Sent::Fresh(back.clone()), || Sent::Stale(back.clone()));
        assert_eq!(read(Some(&browser), &state, now), fresh());
        assert_eq!(read(Some(&other), &state, now), stale(), "attacks: login CSRF");
        assert_eq!(read(None, &state, now), stale());
        let late = now.plus(STATE_LIFE);
        assert_eq!(read(Some(&browser), &state, late), fresh());
        assert_eq!(read(Some(&browser), &state, late.plus(Duration::from_millis(1))), stale());
        assert_eq!(read(Some(&browser), &state.replacen('.', "A.", 1), now), Sent::Unknown);
        assert_eq!(read(Some(&browser), "", now), Sent::Unknown);
        // From the page itself: whichever cookie is there, as long as there is one, and the state is ours.
        let read = |browser, state: &str| Sent::read(&key, browser, true, state, late.plus(STATE_LIFE));
        assert_eq!(read(Some(&other), &state), fresh());
        assert_eq!(read(None, &state), stale());
        assert_eq!(read(Some(&other), &state.replacen('.', "A.", 1)), Sent::Unknown);
        assert_eq!(Browser::of(browser.as_str()), Some(browser));
        assert_eq!(Browser::of("short"), None);
    }

    #[test]
    fn another_origin_is_refused() {
        let headers = |lines: &[(&'static str, &'static str)]| -> HeaderMap {
            lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
        };
        let check = |lines: &[_]| same_origin(&headers(lines), "localhost:8443");
        assert!(check(&[]));
        assert!(check(&[("origin", "https://localhost:8443"), ("sec-fetch-site", "same-origin")]));
        for line in [
            ("origin", "https://localhost"),
            ("origin", "http://localhost:8443"),
            ("origin", "null"),
            ("origin", "https://localhost:8443.evil.example"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert!(!check(&[line]), "{line:?}");
        }
    }

    #[test]
    fn the_sign_in_page_is_known_by_its_address() {
        let check = |site: &str, referer: &str| {
            let lines = [("sec-fetch-site", site), ("referer", referer)];
            let lines = lines.iter().filter(|(_, value)| !value.is_empty());
            let headers: HeaderMap =
                lines.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            of_sign_in_page(&headers, "localhost:8443")
        };
        for page in ["https://localhost:8443/.portcullis/login", "https://LOCALHOST:8443/.portcullis/login?return=a.b"]
        {
            assert!(check("same-origin", page), "{page}");
            assert!(
                !check("cross-site", page) && !check("same-site", page) && !check("none", page) && !check("", page)
            );
        }
        for page in [
            "",
            "https://localhost:8443/",
            "https://localhost:8443/app/.portcullis/login",
            "https://localhost:8443/?/.portcullis/login",
            "https://localhost:8443/.portcullis/login/x",
            "https://localhost:8443/.portcullis/logout",
            "http://localhost:8443/.portcullis/login",
            "https://evil.example/.portcullis/login",
            "https://evil.example/https://localhost:8443/.portcullis/login",
        ] {
            assert!(!check("same-origin", page), "{page}");
        }
    }
}
