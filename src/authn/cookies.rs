//! The cookies the gateway sets. One decision: all are `__Host-`, Secure, HttpOnly and Lax, so that no other host, no script and
//! no plain connection can write or read them (ASVS 3.3; rfc6265bis §4.1.3). Knows nothing of what their values mean.

use std::time::Duration;

use cookie::{Cookie, SameSite};
use http::{HeaderMap, HeaderValue, header};

/// A cookie's value in a request; `None` also where it stands twice: whoever planted one of them must not choose.
pub fn value<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    // Bytes: browsers send what scripts of applications set, and a line is all of their cookies.
    let lines = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    let pairs = lines.flat_map(|line| line.split(|byte| *byte == b';'));
    let value_of = |pair: &'h [u8]| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=");
    let mut values = pairs.filter_map(value_of);
    let first = values.next()?;
    values.next().is_none().then_some(first).and_then(|value| str::from_utf8(value).ok())
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

#[cfg(test)]
mod tests {
    use super::{HeaderMap, HeaderValue, header, value};

    #[test]
    fn a_cookie_is_found_beside_whatever_applications_set() {
        let of = |lines: &[&[u8]]| -> HeaderMap {
            lines.iter().map(|line| (header::COOKIE, HeaderValue::from_bytes(line).unwrap())).collect()
        };
        let rows: [(&[&[u8]], Option<&str>); 7] = [
            (&[b"b=2; a=1"], Some("1")),
            (&[b"b=\xff\xc3\xa4; a=1"], Some("1")),
            (&[b"b=\xff", b"a=1=2"], Some("1=2")),
            (&[b"aa=1; A=1; =a=1"], None),
            (&[b"a=\xff"], None),
            (&[b"a=1; a=2"], None),
            (&[b"a=1; b=\xff", b"a=2; b=\xff"], None),
        ];
        for (lines, expected) in rows {
            assert_eq!(value(&of(lines), "a"), expected, "{lines:?}");
        }
    }
}
