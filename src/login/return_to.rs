//! The way back after signing in. One decision: it is made from the gateway's own canonical path and sealed; what the client
//! says of it is only ever a seal to be checked, so that a sign-in leads nowhere but to this host. Knows nothing of pages.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::policy::{CanonicalPath, is_reserved, readings};

/// Longer ways back are forgotten: sealed, in the address line of the sign-in page, it has to stay below the 8,000 bytes that servers
/// before this one accept (RFC 9110 §4.1).
const LONGEST: usize = 4096;

/// The page that says who one is.
pub const WHOAMI: &str = "/.portcullis/whoami";

/// Pages of the gateway that lead to a sign-in, and are ways back. To show them changes nothing.
const OWN: [&str; 2] = [WHOAMI, "/.portcullis/sessions"];

/// A path with its query on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReturnTo(String);

impl ReturnTo {
    /// The start page.
    pub fn start() -> ReturnTo {
        ReturnTo("/".to_owned())
    }

    /// From what was asked for. Any doubt leads to the start page: `//evil.example` is another host to a browser.
    pub fn here(path: &str, query: Option<&str>) -> ReturnTo {
        if query.is_none() && OWN.contains(&path) {
            return ReturnTo(path.to_owned());
        }
        let whole = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        let plain = |byte: u8| (0x21..0x7f).contains(&byte) && !matches!(byte, b'"' | b'<' | b'>' | b'#');
        let elsewhere = |path: &str| is_reserved(path) || path.starts_with("//") || path.starts_with("/\\");
        let stays = CanonicalPath::read(path).is_ok_and(|canonical| match canonical.doubt() {
            None => !elsewhere(canonical.decoded()),
            Some(_) => readings(path).is_ok_and(|readings| !readings.iter().any(|path| elsewhere(path))),
        });
        if stays && whole.len() <= LONGEST && whole.bytes().all(plain) { ReturnTo(whole) } else { ReturnTo::start() }
    }

    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `payload.mac`; `purpose` keeps what was sealed for one use from being opened for another.
pub(super) fn seal(key: &hmac::Key, purpose: &str, payload: &[u8]) -> String {
    let tag = tag(key, purpose, payload);
    format!("{}.{}", URL_SAFE_NO_PAD.encode(payload), URL_SAFE_NO_PAD.encode(tag))
}

/// The payload of something sealed for this purpose.
pub(super) fn open(key: &hmac::Key, purpose: &str, sealed: &str) -> Option<Vec<u8>> {
    let (payload, given) = sealed.split_once('.')?;
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let given = URL_SAFE_NO_PAD.decode(given).ok()?;
    aws_lc_rs::constant_time::verify_slices_are_equal(tag(key, purpose, &payload).as_ref(), &given).ok()?;
    Some(payload)
}

fn tag(key: &hmac::Key, purpose: &str, payload: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(purpose.as_bytes());
    context.update(&[0]);
    context.update(payload);
    context.sign()
}

#[cfg(test)]
mod tests {
    use super::ReturnTo;

    #[test]
    fn the_way_back_keeps_path_and_query() {
        let back = ReturnTo::here("/a/b", Some("x=1&y=%20"));
        assert_eq!(back.as_str(), "/a/b?x=1&y=%20");
        // Browsers send it so, and read it as a slash in front of the query alone.
        assert_eq!(ReturnTo::here("/a", Some(r"file=C:\b")).as_str(), r"/a?file=C:\b");
        for own in ["/.portcullis/whoami", "/.portcullis/sessions"] {
            assert_eq!(ReturnTo::here(own, None).as_str(), own);
            assert_eq!(ReturnTo::here(own, Some("x")).as_str(), "/");
        }
    }

    #[test]
    fn a_hostile_way_back_leads_to_the_start_page() {
        for line in include_str!("../../tests/data/hostile_return_to.txt").lines().filter(|line| !line.is_empty()) {
            let (path, query) = line.split_once('?').map_or((line, None), |(path, query)| (path, Some(query)));
            assert_eq!(ReturnTo::here(path, query).as_str(), "/", "{line}");
        }
    }
}
