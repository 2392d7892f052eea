//! What a request presents. One decision: a cookie that stands twice is refused, because whoever planted the second one
//! decides which of the two a server reads. Pure; knows nothing of what the value means.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, header};

use crate::policy::{Field, Fields};

/// The cookie stands twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("repeated")]
pub struct Repeated;

/// The session cookie's name, and with it the names of all the gateway's cookies: those that begin with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieName(String);

impl CookieName {
    /// A name, as the configuration checked it.
    pub fn new(name: impl Into<String>) -> CookieName {
        CookieName(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The session cookie's value, over all `Cookie` lines (HTTP/2 splits them, RFC 9113 §8.2.3).
    ///
    /// # Errors
    /// [`Repeated`] where it stands more than once.
    pub fn find<'h>(&self, headers: &'h HeaderMap) -> Result<Option<&'h str>, Repeated> {
        self.find_in(headers.get_all(header::COOKIE).iter())
    }

    /// The same of these lines.
    pub(super) fn find_in<'h>(
        &self,
        lines: impl Iterator<Item = &'h HeaderValue>,
    ) -> Result<Option<&'h str>, Repeated> {
        let mut found = None;
        for line in lines {
            for pair in pairs(line) {
                let pair = pair.trim_ascii();
                let Some(rest) = pair.strip_prefix(self.0.as_bytes()) else { continue };
                let [b'=', value @ ..] = rest else { continue };
                // A value that is not text is no cookie of ours; it still counts, as one that will be refused.
                let value = std::str::from_utf8(value).unwrap_or("");
                if found.replace(value).is_some() {
                    return Err(Repeated);
                }
            }
        }
        Ok(found)
    }

    /// The values of cookies whose names go on with one of these endings, in one pass over all lines.
    ///
    /// # Errors
    /// [`Repeated`] where one of them stands more than once.
    pub(super) fn find_all<'h, const N: usize>(
        &self,
        fields: &Fields<'h>,
        endings: &[&str; N],
    ) -> Result<[Option<&'h str>; N], Repeated> {
        let mut found = [None; N];
        for line in fields.all(Field::Cookie) {
            for pair in pairs(line) {
                let Some(rest) = pair.trim_ascii().strip_prefix(self.0.as_bytes()) else { continue };
                let Some(end) = rest.iter().position(|byte| *byte == b'=') else { continue };
                let (ending, value) = (&rest[..end], &rest[end + 1..]);
                let Some(index) = endings.iter().position(|known| known.as_bytes() == ending) else { continue };
                let value = std::str::from_utf8(value).unwrap_or("");
                if found[index].replace(value).is_some() {
                    return Err(Repeated);
                }
            }
        }
        Ok(found)
    }

    /// Whether a cookie is the gateway's own. Browsers compare prefixes without case; so do we, in what we hide.
    pub fn owns(&self, name: &[u8]) -> bool {
        let own = self.0.as_bytes();
        name.len() >= own.len()
            && name[..own.len()].eq_ignore_ascii_case(own)
            && matches!(name.get(own.len()), None | Some(b'-' | b'.'))
    }

    /// The `Cookie` value without the gateway's cookies, the rest byte for byte; `None` where nothing is left.
    pub fn without_own<'h>(&self, fields: &Fields<'h>) -> Option<Cow<'h, HeaderValue>> {
        let (mut own, mut other) = (false, false);
        for pair in fields.all(Field::Cookie).flat_map(pairs) {
            *if self.owns(name_of(pair)) { &mut own } else { &mut other } = true;
        }
        if !other {
            return None;
        }
        if !own && !fields.repeats(Field::Cookie) {
            return fields.get(Field::Cookie).map(Cow::Borrowed);
        }
        let mut kept: Vec<u8> = Vec::new();
        for line in fields.all(Field::Cookie) {
            let mut first_of_line = true;
            for pair in pairs(line) {
                if self.owns(name_of(pair)) {
                    continue;
                }
                // Within a line the pair brings its own blank; between lines RFC 9113 §8.2.3 joins with `; `.
                match (kept.is_empty(), first_of_line) {
                    (true, _) => kept.extend_from_slice(pair.trim_ascii_start()),
                    (false, true) => {
                        kept.extend_from_slice(b"; ");
                        kept.extend_from_slice(pair.trim_ascii_start());
                    }
                    (false, false) => {
                        kept.push(b';');
                        kept.extend_from_slice(pair);
                    }
                }
                first_of_line = false;
            }
        }
        if kept.is_empty() { None } else { HeaderValue::from_bytes(&kept).ok().map(Cow::Owned) }
    }
}

/// A bearer token (RFC 6750 §2.1; the scheme is compared without case, RFC 9110 §11.1). Another scheme is none of ours. That the
/// line stands once is the head's to check.
pub(super) fn bearer<'h>(fields: &Fields<'h>) -> Option<&'h str> {
    let line = fields.get(Field::Authorization)?.as_bytes();
    let (scheme, rest) = line.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"bearer") || !matches!(rest.first(), None | Some(b' ')) {
        return None;
    }
    // What is no text is no token; it was presented all the same, and will be refused.
    Some(std::str::from_utf8(rest.trim_ascii()).unwrap_or(""))
}

/// The pairs of a line. Most lines are one, and long: looked through by the word.
fn pairs(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let line = line.as_bytes();
    let ends = memchr::memchr_iter(b';', line).chain([line.len()]);
    ends.scan(0, move |start, end| Some(&line[std::mem::replace(start, end + 1)..end]))
}

fn name_of(pair: &[u8]) -> &[u8] {
    let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
    pair[..end].trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::{CookieName, Fields, Repeated, bearer};
    use http::{HeaderMap, HeaderValue, header};

    fn headers(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (header::COOKIE, HeaderValue::from_str(line).unwrap())).collect()
    }

    #[test]
    fn a_bearer_is_told_from_other_schemes() {
        let read = |line: &str| {
            let headers: HeaderMap =
                [(header::AUTHORIZATION, HeaderValue::from_str(line).unwrap())].into_iter().collect();
            bearer(&Fields::of(&headers)).map(str::to_owned)
        };
        for (line, token) in [
            ("Bearer a.b.c", "a.b.c"),
            ("bEARER  a.b.c", "a.b.c"),
            ("Bearer", ""),
            ("Bearer ", ""),
            ("Bearer a b", "a b"),
        ] {
            assert_eq!(read(line).as_deref(), Some(token), "{line}");
        }
        for line in ["", "Basic YTpi", "Bearera.b.c", "DPoP a.b.c", "Bear"] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    fn name() -> CookieName {
        CookieName::new("__Host-portcullis")
    }

    #[test]
    fn the_session_cookie_is_found_in_every_line() {
        assert_eq!(name().find(&headers(&["a=1", "b=2; __Host-portcullis=x"])), Ok(Some("x")));
        assert_eq!(name().find(&headers(&["__Host-portcullis-login=x; a__Host-portcullis=y"])), Ok(None));
        assert_eq!(name().find(&headers(&["__host-portcullis=x"])), Ok(None), "another spelling is another cookie");
    }

    /// attacks: policy 4 and 5
    #[test]
    fn a_session_cookie_that_stands_twice_is_refused() {
        assert_eq!(name().find(&headers(&["__Host-portcullis=x; __Host-portcullis=x"])), Err(Repeated));
        assert_eq!(name().find(&headers(&["__Host-portcullis=x", "__Host-portcullis=y"])), Err(Repeated));
    }

    #[test]
    fn only_the_gateways_cookies_are_taken_out() {
        let without = |lines: &[&str]| {
            let headers = headers(lines);
            name().without_own(&Fields::of(&headers)).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(without(&["a=1;b=2;  c=\"3\""]).as_deref(), Some("a=1;b=2;  c=\"3\""));
        assert_eq!(without(&["a=1; __Host-portcullis=x;  b=2"]).as_deref(), Some("a=1;  b=2"));
        assert_eq!(without(&["__HOST-PORTCULLIS=x; b=2"]).as_deref(), Some("b=2"));
        assert_eq!(without(&["a=1", "__Host-portcullis-login=x", "b=2"]).as_deref(), Some("a=1; b=2"));
        assert_eq!(without(&["__Host-portcullis=x"]), None);
        assert_eq!(without(&["__Host-portcullisx=x"]).as_deref(), Some("__Host-portcullisx=x"));
    }
}
