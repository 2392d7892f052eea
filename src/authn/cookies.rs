//! The cookies the gateway sets. One decision: all are `__Host-`, Secure, HttpOnly and Lax, so that no other host, no script and
//! no plain connection can write or read them (ASVS 3.3; rfc6265bis §4.1.3). Knows nothing of what their values mean.

use std::time::Duration;

use cookie::{Cookie, SameSite};
use http::{HeaderMap, HeaderValue, header};

/// A cookie's value in a request; `None` also where it stands twice: whoever planted one of them must not choose.
pub fn value<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut values = pairs.filter(|(other, _)| *other == name).map(|(_, value)| value);
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

/// Add a `Set-Cookie`. Without `life` it goes with the browser.
pub fn set(headers: &mut HeaderMap, name: &str, value: &str, life: Option<Duration>) {
    let seconds = |life: Duration| i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
    let mut cookie = Cookie::build((name, value)).path("/").secure(true).http_only(true).same_site(SameSite::Lax);
    if let Some(life) = life {
        cookie = cookie.max_age(cookie::time::Duration::seconds(seconds(life)));
    }
    append(headers, &cookie.build());
}

/// Clear a cookie.
pub fn clear(headers: &mut HeaderMap, name: &str) {
    set(headers, name, "", Some(Duration::ZERO));
}

fn append(headers: &mut HeaderMap, cookie: &Cookie<'_>) {
    match HeaderValue::from_str(&cookie.to_string()) {
        Ok(line) => {
            headers.append(header::SET_COOKIE, line);
        }
        Err(error) => tracing::error!(%error, "a cookie could not be written"),
    }
}
