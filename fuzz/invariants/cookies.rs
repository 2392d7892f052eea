//! Cookies: of the gateway's none reaches an application, and every other one does as it came; a value that nobody minted opens nothing.

use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue, header};

use crate::authn::{CookieName, cookies};
use crate::policy::Fields;
use crate::session::{CookieCodec, SessionKey, SessionKeys, UserKey};

const NAME: &str = "__Host-portcullis";

/// Makes the one value that is good.
static MINTED: LazyLock<(CookieCodec, String, SessionKey)> = LazyLock::new(|| {
    let codec = CookieCodec::new(&SessionKeys::from_secret(&[7; 32]).expect("32 bytes"), "site");
    let (value, key) = codec.mint(UserKey([1; 16])).expect("random numbers");
    (codec, value, key)
});

/// `data` is `Cookie` lines; `@` in them stands for the value that is good.
pub fn hold(data: &[u8]) {
    let (codec, good, key) = &*MINTED;
    let lines = data.split(|byte| *byte == b'\n').map(|line| {
        let parts: Vec<&[u8]> = line.split(|byte| *byte == b'@').collect();
        HeaderValue::from_bytes(&parts.join(good.as_bytes()))
    });
    let Ok(lines) = lines.collect::<Result<Vec<HeaderValue>, _>>() else { return };
    let headers: HeaderMap = lines.iter().map(|line| (header::COOKIE, line.clone())).collect();
    let (name, fields) = (CookieName::new(NAME), Fields::of(&headers));

    let pairs: Vec<&[u8]> = lines.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).collect();
    let named = |pair: &[u8]| pair.trim_ascii().strip_prefix(b"__Host-portcullis=").map(<[u8]>::to_vec);
    let values: Vec<Vec<u8>> = pairs.iter().filter_map(|pair| named(pair)).collect();
    match (name.find(&headers), &values[..]) {
        (Ok(None), []) => assert_eq!(cookies::value(&headers, NAME), None),
        (Ok(Some(found)), [value]) => {
            assert!(str::from_utf8(value).map_or(found.is_empty(), |value| value == found), "{found} of {lines:?}");
            assert_eq!(cookies::value(&headers, NAME).unwrap_or_default(), found, "{lines:?}");
            assert_eq!(codec.open(found).map(|key| key.0), (found == good).then_some(key.0), "{found:?}");
        }
        (Err(_), [_, _, ..]) => assert_eq!(cookies::value(&headers, NAME), None),
        (found, _) => panic!("{found:?} in {lines:?}"),
    }

    let left = name.without_own(&fields).map(|left| left.as_bytes().to_vec());
    let kept: Vec<&[u8]> = pairs.iter().map(|pair| pair.trim_ascii()).filter(|pair| !is_ours(pair)).collect();
    let sent: Vec<&[u8]> =
        left.iter().flat_map(|left| left.split(|byte| *byte == b';')).map(<[u8]>::trim_ascii).collect();
    assert!(sent.iter().all(|pair| !is_ours(pair)), "one of ours is left of {lines:?}: {left:?}");
    assert_eq!(without_nothing(&sent), without_nothing(&kept), "another one is gone of {lines:?}: {left:?}");
    // Alone, and with nothing of ours, a line goes on byte for byte.
    if let ([line], true) = (&lines[..], kept.len() == pairs.len()) {
        assert_eq!(left.as_deref(), Some(line.as_bytes()));
    }
}

/// What some server takes for a cookie of the gateway's: names without case, blanks or quotes around them.
fn is_ours(pair: &[u8]) -> bool {
    let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    let own = NAME.to_ascii_lowercase();
    name.strip_prefix(own.as_bytes()).is_some_and(|rest| matches!(rest.first(), None | Some(b'-' | b'.')))
}

/// Empty pairs are no cookies.
fn without_nothing<'p>(pairs: &[&'p [u8]]) -> Vec<&'p [u8]> {
    pairs.iter().copied().filter(|pair| !pair.is_empty()).collect()
}
