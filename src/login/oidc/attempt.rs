//! One attempt to sign in at a provider. One decision: the secrets of an attempt (nonce, PKCE verifier) are in a cookie of their
//! own, so that any number of tabs may be under way; the way back travels in the state, sealed, so that a tab whose cookie was
//! pushed out still reaches its page. Knows nothing of providers.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::{constant_time, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, header};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

use super::super::wanted::Wanted;
use crate::token::Sealer;

/// How long a person may take at the provider.
pub(super) const LIFE: Duration = Duration::from_secs(600);
/// Attempts under way in one browser; cookies of all have to fit into a request.
const MOST: usize = 5;
/// A longer state is nobody's: addresses of that length are refused by many servers.
const STATE_CHARACTERS: usize = 6_000;

/// The way back, in the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Way {
    /// The provider's name.
    pub(super) provider: String,
    /// What the person was on the way to.
    pub(super) wanted: Wanted,
    /// How often this way was begun anew.
    pub(super) tries: u8,
}

/// A state as it comes back: an id, and the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    id: String,
    pub(super) text: String,
    pub(super) way: Way,
}

/// The secrets of an attempt, in its cookie.
#[derive(Serialize, Deserialize)]
pub(super) struct Attempt {
    /// The digest of its state: with the way back in it the cookie could be longer than browsers keep (rfc6265bis §5.5).
    state: String,
    /// Comes back in the ID token.
    pub(super) nonce: String,
    /// The PKCE verifier.
    pub(super) verifier: String,
    /// The provider's issuer. Its name may be another's when the file was read again, who must be told neither a code of the
    /// first one nor the verifier that it is redeemed with (mix-up, RFC 9700 §4.4).
    issuer: String,
    /// `host[:port]` it began at: cookies know no ports.
    pub(super) authority: String,
    issued: u64,
}

/// 16 random bytes, in hexadecimal.
fn id() -> Option<String> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// 32 random bytes, in base64url: a nonce.
pub(super) fn secret() -> Option<String> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).ok()?;
    Some(URL_SAFE_NO_PAD.encode(bytes))
}

impl State {
    /// A fresh one. `None` where the random generator failed.
    pub(super) fn new(sealer: &Sealer, way: Way) -> Option<State> {
        let id = id()?;
        let sealed = sealer.seal(&[b"state", id.as_bytes()], &serde_json::to_vec(&way).ok()?)?;
        let text = format!("{id}.{}", URL_SAFE_NO_PAD.encode(sealed));
        Some(State { id, text, way })
    }

    /// One that this gateway made.
    pub(super) fn open(sealer: &Sealer, text: &str) -> Option<State> {
        let (id, sealed) = text.split_once('.').filter(|_| text.len() <= STATE_CHARACTERS)?;
        let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let way = serde_json::from_slice(&sealer.open(&[b"state", id.as_bytes()], &sealed)?).ok()?;
        Some(State { id: id.to_owned(), text: text.to_owned(), way })
    }

    fn digest(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, self.text.as_bytes()))
    }

    /// What its cookie is called.
    pub(super) fn cookie(&self, base: &str) -> String {
        format!("{base}{}", &self.id[..8])
    }
}

impl Attempt {
    /// Begin. `None` where the random generator failed.
    pub(super) fn new(
        state: &State,
        verifier: String,
        (issuer, authority): (&str, &str),
        now: Timestamp,
    ) -> Option<Attempt> {
        let (issuer, authority) = (issuer.to_owned(), authority.to_owned());
        Some(Attempt { state: state.digest(), nonce: secret()?, verifier, issuer, authority, issued: now.0 })
    }

    /// The cookie's value.
    pub(super) fn seal(&self, sealer: &Sealer, cookie: &str) -> Option<String> {
        let sealed = sealer.seal(&[b"attempt", cookie.as_bytes()], &serde_json::to_vec(self).ok()?)?;
        Some(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// When the browser was sent to the provider.
    pub(super) fn left(&self) -> Timestamp {
        Timestamp(self.issued)
    }

    /// The attempt of a cookie that this gateway made, unless it is too old.
    fn open(sealer: &Sealer, cookie: &str, value: &str, now: Timestamp) -> Option<Attempt> {
        let sealed = URL_SAFE_NO_PAD.decode(value).ok()?;
        let plain = sealer.open(&[b"attempt", cookie.as_bytes()], &sealed)?;
        let attempt: Attempt = serde_json::from_slice(&plain).ok()?;
        (now.since(Timestamp(attempt.issued)) <= LIFE).then_some(attempt)
    }

    /// The attempt that a state belongs to: this browser's, this state's and no other's, at this issuer, begun at this very origin.
    pub(super) fn find(
        sealer: &Sealer,
        headers: &HeaderMap,
        base: &str,
        (state, issuer, authority): (&State, &str, &str),
        now: Timestamp,
    ) -> Option<Attempt> {
        let name = state.cookie(base);
        let value = super::super::cookies::value(headers, &name)?;
        let attempt = Attempt::open(sealer, &name, value, now)?;
        let same = constant_time::verify_slices_are_equal(attempt.state.as_bytes(), state.digest().as_bytes()).is_ok();
        let here = attempt.issuer == issuer && attempt.authority.eq_ignore_ascii_case(authority);
        (same && here).then_some(attempt)
    }
}

/// Cookies that have to go before one more attempt begins: what does not open, and the oldest beyond the limit.
pub(super) fn surplus(sealer: &Sealer, headers: &HeaderMap, base: &str, now: Timestamp) -> Vec<String> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let ours = pairs.filter(|(name, _)| name.strip_prefix(base).is_some_and(is_id));
    let mut gone = Vec::new();
    let mut kept: Vec<(u64, &str)> = Vec::new();
    for (name, value) in ours {
        match Attempt::open(sealer, name, value, now) {
            Some(attempt) => kept.push((attempt.issued, name)),
            None => gone.push(name.to_owned()),
        }
    }
    kept.sort_unstable();
    let beyond = (kept.len() + 1).saturating_sub(MOST);
    gone.extend(kept.into_iter().take(beyond).map(|(_, name)| name.to_owned()));
    gone
}

fn is_id(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::{Attempt, LIFE, State, Way, surplus};
    use crate::clock::Timestamp;
    use crate::login::wanted::Wanted;
    use crate::token::Sealer;
    use http::{HeaderMap, HeaderValue, header};
    use std::time::Duration;

    const BASE: &str = "__Host-portcullis-login.";
    const ISSUER: &str = "https://id.example";

    fn begin(sealer: &Sealer, at: u64) -> (State, String) {
        let way = Way { provider: "corp".into(), wanted: Wanted::default(), tries: 0 };
        let state = State::new(sealer, way).unwrap();
        let attempt = Attempt::new(&state, "verifier".into(), (ISSUER, "a.example"), Timestamp(at)).unwrap();
        let cookie = state.cookie(BASE);
        let line = format!("{cookie}={}", attempt.seal(sealer, &cookie).unwrap());
        (state, line)
    }

    fn headers(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (header::COOKIE, HeaderValue::from_str(line).unwrap())).collect()
    }

    /// ASVS 10.1.2, 10.2.1; RFC 9700 §4.7: a state counts in the browser it was made for, for ten minutes, at its origin.
    #[test]
    fn a_state_is_one_browsers_for_ten_minutes() {
        let sealer = Sealer::new(&[1; 32]);
        let (state, line) = begin(&sealer, 1_000);
        let (other, other_line) = begin(&sealer, 1_000);
        assert_eq!(State::open(&sealer, &state.text), Some(state.clone()));
        let find = |state: &State, line: &str, at: &str, now| {
            Attempt::find(&sealer, &headers(&[line]), BASE, (state, ISSUER, at), Timestamp(now)).is_some()
        };
        let end = 1_000 + u64::try_from(LIFE.as_millis()).unwrap();
        assert!(find(&state, &line, "A.example", end));
        assert!(!find(&state, &line, "a.example", end + 1), "too old");
        assert!(!find(&state, &line, "a.example:8443", 1_000), "another origin");
        assert!(!find(&state, &other_line, "a.example", 1_000), "another browser's cookie");
        let elsewhere = (&state, "https://other.example", "a.example");
        let found = Attempt::find(&sealer, &headers(&[&line]), BASE, elsewhere, Timestamp(1_000));
        assert!(found.is_none(), "another issuer");
        let renamed = format!("{}={}", state.cookie(BASE), other_line.split_once('=').unwrap().1);
        assert!(!find(&state, &renamed, "a.example", 1_000), "another attempt's cookie under this one's name");
        assert!(!find(&other, &line, "a.example", 1_000));
        assert!(!find(&state, &format!("{line}; {line}"), "a.example", 1_000), "a cookie that stands twice");
    }

    #[test]
    fn a_changed_state_is_nobodys() {
        let sealer = Sealer::new(&[1; 32]);
        let (state, _) = begin(&sealer, 0);
        let (id, sealed) = state.text.split_once('.').unwrap();
        let other = begin(&sealer, 0).0.text;
        for text in ["", ".", id, sealed, &format!("{id}."), &format!("{}.{sealed}", other.split_once('.').unwrap().0)]
        {
            assert_eq!(State::open(&sealer, text), None, "{text}");
        }
        assert_eq!(State::open(&Sealer::new(&[2; 32]), &state.text), None);
    }

    #[test]
    fn the_oldest_attempts_give_way_and_what_is_broken_goes() {
        let sealer = Sealer::new(&[1; 32]);
        let lines: Vec<String> = (0..6).map(|n| begin(&sealer, 1_000 + n).1).collect();
        let name = |line: &str| line.split_once('=').unwrap().0.to_owned();
        let mut all: Vec<&str> = lines.iter().rev().map(String::as_str).collect();
        assert_eq!(surplus(&sealer, &headers(&all), BASE, Timestamp(2_000)), [name(&lines[0]), name(&lines[1])]);
        all.truncate(4);
        assert!(surplus(&sealer, &headers(&all), BASE, Timestamp(2_000)).is_empty());
        let broken = format!("{BASE}0123abcd=x");
        let theirs = ["__Host-portcullis-login=x", "__Host-portcullis-login.xyz=1", broken.as_str()];
        assert_eq!(surplus(&sealer, &headers(&theirs), BASE, Timestamp(0)), [name(&broken)]);
        let late = Timestamp(2_000).plus(LIFE + Duration::from_secs(1));
        assert_eq!(surplus(&sealer, &headers(&all), BASE, late).len(), 4);
    }
}
