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

/// The value that binds forms to a browser, kept in a cookie before sign-in.
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
        seal(key, &self.purpose(), format!("{} {}", now.0, back.as_str()).as_bytes())
    }

    /// The way back, where the state is this browser's and not too old.
    pub fn open_state(&self, key: &hmac::Key, state: &str, now: Timestamp) -> Option<ReturnTo> {
        let text = String::from_utf8(open(key, &self.purpose(), state)?).ok()?;
        let (issued, back) = text.split_once(' ')?;
        let issued = Timestamp(issued.parse().ok()?);
        let (path, query) = back.split_once('?').map_or((back, None), |(path, query)| (path, Some(query)));
        (now.since(issued) <= STATE_LIFE).then(|| ReturnTo::here(path, query))
    }

    fn purpose(&self) -> String {
        format!("state {}", self.0)
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

/// A field of a form.
pub fn field(body: &[u8], name: &str) -> Option<String> {
    form_urlencoded::parse(body).find(|(field, _)| field == name).map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::{Browser, STATE_LIFE, same_origin};
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
        assert_eq!(browser.open_state(&key, &state, now), Some(back.clone()));
        assert_eq!(other.open_state(&key, &state, now), None, "attacks: login CSRF");
        let late = now.plus(STATE_LIFE);
        assert_eq!(browser.open_state(&key, &state, late), Some(back));
        assert_eq!(browser.open_state(&key, &state, late.plus(Duration::from_millis(1))), None);
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
}
