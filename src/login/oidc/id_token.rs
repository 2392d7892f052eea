//! What an ID token has to say beyond issuer, audience and time (OpenID Connect Core §3.1.3.7). Pure. One decision: it is for this
//! very attempt or for nobody. Knows nothing of signatures.

use std::time::Duration;

use aws_lc_rs::{constant_time, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::policy::SignedIn;
use crate::token::Algorithm;

use super::error::ProviderError;
use super::provider::LEEWAY;

/// How long the way from the provider's answer to the page may take whoever was just recent enough. Half of the least that a route
/// can ask for.
const RETURN: Duration = Duration::from_secs(5);

/// What an attempt asked for.
pub(super) struct Asked<'a> {
    pub(super) client_id: &'a str,
    /// `None` at a refresh: then there is no new attempt.
    pub(super) nonce: Option<&'a str>,
    pub(super) access_token: &'a str,
    pub(super) algorithm: Algorithm,
    pub(super) max_age: Option<u64>,
    pub(super) acr: &'a [String],
    pub(super) now: Timestamp,
}

/// Who proved it, when and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proven {
    pub(super) subject: String,
    pub(super) sid: Option<String>,
    pub(super) at: Timestamp,
    pub(super) acr: Option<String>,
}

/// `sub` has at most 255 characters of ASCII (§2).
const SUBJECT: usize = 255;

/// Check the claims of a token whose signature, issuer, audience and times hold.
///
/// # Errors
/// [`ProviderError::Other`] or [`ProviderError::Claim`].
pub(super) fn check(claims: &Map<String, Value>, asked: &Asked<'_>) -> Result<Proven, ProviderError> {
    if let Some(nonce) = asked.nonce
        && !text(claims, "nonce")?.is_some_and(|told| same(told, nonce))
    {
        // A token of another attempt, planted in this one (ASVS 10.5.1).
        return Err(ProviderError::Other("nonce"));
    }
    let several = claims.get("aud").and_then(Value::as_array).is_some_and(|list| list.len() > 1);
    match text(claims, "azp")? {
        Some(party) if party != asked.client_id => return Err(ProviderError::Other("azp")),
        None if several => return Err(ProviderError::Other("azp")),
        _ => {}
    }
    if text(claims, "at_hash")?.is_some_and(|told| !same(told, &at_hash(asked.access_token, asked.algorithm))) {
        return Err(ProviderError::Other("at_hash"));
    }
    let subject = subject(claims)?.ok_or_else(|| ProviderError::Claim("sub".to_owned()))?;
    let seconds = |value: &Value| value.as_f64().filter(|seconds| (0.0..8.64e12).contains(seconds));
    let told = claims.get("auth_time").and_then(seconds).map(|seconds| Timestamp((seconds * 1000.0) as u64));
    // Without a time told, the person may have proven it at any time: nobody knows that it was just now.
    let mut at = told.unwrap_or(Timestamp(0));
    if let Some(most) = asked.max_age.map(Duration::from_secs) {
        // §3.1.2.1: where an age was asked for the time has to be told.
        let told = told.ok_or_else(|| ProviderError::Claim("auth_time".to_owned()))?;
        if !SignedIn::is_recent(told.plus(LEEWAY).since_epoch(), most, asked.now.since_epoch()) {
            return Err(ProviderError::Other("auth_time"));
        }
        // Requests know of no leeway: by the bare word of a clock that is behind, or of a provider that answers at the last moment,
        // whoever comes back would be sent there again, and again.
        at = at.max(asked.now.plus(RETURN).minus(most));
    }
    let acr = text(claims, "acr")?.map(str::to_owned);
    if !asked.acr.is_empty() && !acr.as_ref().is_some_and(|acr| asked.acr.contains(acr)) {
        return Err(ProviderError::Other("acr"));
    }
    let sid = text(claims, "sid")?.map(str::to_owned);
    Ok(Proven { subject: subject.to_owned(), sid, at: at.min(asked.now), acr })
}

/// Who is meant, in a token whose signature holds: short, and of one line, wherever it is written down.
///
/// # Errors
/// [`ProviderError::Claim`]: there is one, and it is none.
pub(super) fn subject(claims: &Map<String, Value>) -> Result<Option<&str>, ProviderError> {
    let fine = |subject: &str| {
        (1..=SUBJECT).contains(&subject.len()) && subject.bytes().all(|byte| (0x20..0x7f).contains(&byte))
    };
    match text(claims, "sub")? {
        Some(subject) if !fine(subject) => Err(ProviderError::Claim("sub".to_owned())),
        subject => Ok(subject),
    }
}

/// A claim that is a text; of another type it is a mistake or a trick, not an absence.
fn text<'c>(claims: &'c Map<String, Value>, name: &str) -> Result<Option<&'c str>, ProviderError> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| ProviderError::Claim(name.to_owned())),
    }
}

fn same(one: &str, other: &str) -> bool {
    constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}

/// The left half of the access token's hash (§3.1.3.6); the hash is that of the signature.
fn at_hash(access_token: &str, algorithm: Algorithm) -> String {
    let hash = match algorithm {
        Algorithm::Rs384 | Algorithm::Es384 => &digest::SHA384,
        Algorithm::Rs512 | Algorithm::EdDsa => &digest::SHA512,
        _ => &digest::SHA256,
    };
    let whole = digest::digest(hash, access_token.as_bytes());
    URL_SAFE_NO_PAD.encode(&whole.as_ref()[..whole.as_ref().len() / 2])
}

#[cfg(test)]
mod tests {
    use super::{Asked, Proven, check};
    use crate::clock::Timestamp;
    use crate::token::Algorithm;
    use serde_json::{Value, json};

    fn told(change: impl FnOnce(&mut Value), max_age: Option<u64>, acr: &[&str]) -> Result<Proven, String> {
        let mut claims = json!({ "aud": "us", "sub": "alice", "nonce": "n", "auth_time": 900, "acr": "silver" });
        change(&mut claims);
        let acr: Vec<String> = acr.iter().map(|value| (*value).to_owned()).collect();
        let asked = Asked {
            client_id: "us",
            nonce: Some("n"),
            // OpenID Connect Core, A.3: its hash is 77QmUPtjPfzWtF2AnpK9RQ.
            access_token: "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y",
            algorithm: Algorithm::Rs256,
            max_age,
            acr: &acr,
            now: Timestamp(1_000_000),
        };
        check(claims.as_object().unwrap(), &asked).map_err(|error| error.to_string())
    }

    fn set(name: &'static str, value: Value) -> impl FnOnce(&mut Value) {
        move |claims| claims[name] = value
    }

    /// ASVS 10.5.1, 10.5.2, 10.5.4: the nonce is this attempt's, the identity is `sub`, `azp` is ours.
    #[test]
    fn a_token_of_another_attempt_or_party_is_refused() {
        let fine = told(|_| {}, None, &[]).unwrap();
        assert_eq!((fine.subject.as_str(), fine.at, fine.sid), ("alice", Timestamp(900_000), None));
        let other = |what: &str| Err(format!("the ID token is not for this sign-in: {what}"));
        let claim = |what: &str| Err(format!("the provider gives no usable `{what}`"));
        for nonce in [json!("other"), json!(""), Value::Null] {
            assert_eq!(told(set("nonce", nonce), None, &[]), other("nonce"));
        }
        assert_eq!(told(set("nonce", json!(["n"])), None, &[]), claim("nonce"));
        assert_eq!(told(set("azp", json!("them")), None, &[]), other("azp"));
        assert!(told(set("azp", json!("us")), None, &[]).is_ok());
        assert_eq!(told(set("aud", json!(["us", "them"])), None, &[]), other("azp"), "several, and none says whose");
        for sub in [json!(""), json!(7), Value::Null, json!("a\nb"), json!("ä"), json!("a".repeat(256))] {
            assert_eq!(told(set("sub", sub), None, &[]), claim("sub"));
        }
    }

    #[test]
    fn the_access_token_is_the_one_that_came_with_it() {
        assert!(told(set("at_hash", json!("77QmUPtjPfzWtF2AnpK9RQ")), None, &[]).is_ok());
        for hash in ["77QmUPtjPfzWtF2AnpK9RR", "", "77QmUPtjPfzWtF2AnpK9RQ=="] {
            let refused = told(set("at_hash", json!(hash)), None, &[]);
            assert_eq!(refused, Err("the ID token is not for this sign-in: at_hash".into()));
        }
    }

    /// ASVS 6.8.4, 10.3.4: what was asked for is looked for.
    #[test]
    fn age_and_strength_that_were_asked_for_are_checked() {
        assert!(told(|_| {}, Some(100), &["gold", "silver"]).is_ok());
        let at_the_edge = told(|_| {}, Some(95), &[]).expect("their clock may be some seconds off");
        assert_eq!(
            at_the_edge.at,
            Timestamp(910_000),
            "five seconds for the way back, by a clock that knows no leeway"
        );
        assert_eq!(told(|_| {}, Some(105), &[]).unwrap().at, Timestamp(900_000), "and nothing where there is time");
        assert_eq!(told(|_| {}, Some(94), &[]), Err("the ID token is not for this sign-in: auth_time".into()));
        for none in [Value::Null, json!("900"), json!(-1)] {
            let refused = told(set("auth_time", none), Some(100), &[]);
            assert_eq!(refused, Err("the provider gives no usable `auth_time`".into()));
        }
        assert_eq!(told(|_| {}, None, &["gold"]), Err("the ID token is not for this sign-in: acr".into()));
        assert_eq!(told(set("auth_time", json!(5_000)), None, &[]).unwrap().at, Timestamp(1_000_000), "never ahead");
        assert_eq!(told(set("auth_time", Value::Null), None, &[]).unwrap().at, Timestamp(0), "unknown is long ago");
    }
}
