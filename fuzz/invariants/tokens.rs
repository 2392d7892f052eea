//! Tokens: of all bytes only those verify that were signed; what claims are judged to say they say to another reader; no key set and
//! no sealed text of anybody's opens anything.

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::clock::Timestamp;
use crate::policy::{Names, RoleNames};
use crate::token::{Algorithm, Expected, Key, KeySet, Mapping, Presented, Sealer};

const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
const ISSUER: &str = "https://id.example";
/// In seconds, and the moment at which tokens are looked at.
const NOW: u64 = 1_700_000_000;

/// The one token that was signed, and the key it verifies with.
static SIGNED: LazyLock<(String, KeySet)> = LazyLock::new(|| {
    let claims =
        json!({"iss": ISSUER, "aud": "gateway", "sub": "alice", "iat": NOW - 10, "exp": NOW + 100, "roles": ["admin"]});
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET);
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).expect("it can be signed");
    (token, KeySet::one(Key::from_secret(SECRET).expect("a secret")))
});

static SEALER: LazyLock<Sealer> = LazyLock::new(|| Sealer::new(SECRET));

/// `data` is a token, of which a part that begins with `{` is yet to be encoded and `@` is that of the signed one; or a key set.
pub fn hold(data: &[u8]) {
    assert_eq!(SEALER.open(&[b"place"], data), None, "nobody sealed this");
    let all = Algorithm::NAMES.map(|(_, algorithm)| algorithm);
    let (signed, known) = &*SIGNED;
    if let Ok(keys) = KeySet::from_jwks(data, &all) {
        assert!(Presented::parse(signed).expect("a token").verify(&keys).is_err(), "nobody has these keys");
    }
    let Ok(text) = str::from_utf8(data) else { return };
    let parts: Vec<String> =
        text.splitn(3, '\n').zip(signed.split('.')).map(|(part, of_signed)| part_of(part, of_signed)).collect();
    let token = parts.join(".");
    let Ok(presented) = Presented::parse(&token) else { return };
    if presented.verify(known).is_ok() {
        assert_eq!(&token, signed, "nobody signed this");
    }
    let expected = Expected {
        issuer: ISSUER.to_owned(),
        audiences: vec!["gateway".to_owned(), "other".to_owned()],
        longest: Duration::from_secs(3_600),
        leeway: Duration::from_secs(5),
    };
    let Ok(claims) = presented.judge(&expected, Timestamp(NOW * 1_000)) else { return };
    let claimed = token.split('.').nth(1).expect("it was read");
    let again: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claimed).expect("it was read")).expect("it was read");
    assert_eq!(Value::Object(claims.all.clone()), again);
    let seconds = |name: &str| again[name].as_f64();
    let is_ours = |audience: &Value| audience == "gateway" || audience == "other";
    let audience = again["aud"].as_array().map_or_else(|| is_ours(&again["aud"]), |list| list.iter().any(is_ours));
    assert!(again["iss"] == ISSUER && audience, "{again}");
    let now = NOW as f64;
    assert!(seconds("exp").is_some_and(|exp| exp + 5.0 > now && exp <= now + 3_600.0), "{again}");
    assert!(seconds("iat").is_some_and(|iat| iat <= now + 5.001), "{again}");
    assert!(again.get("nbf").is_none() || seconds("nbf").is_some_and(|nbf| nbf - 5.001 <= now), "{again}");
    told(&claims.all);
}

fn part_of(part: &str, of_signed: &str) -> String {
    match part.strip_prefix('@') {
        Some(rest) => format!("{of_signed}{rest}"),
        None if part.starts_with('{') => URL_SAFE_NO_PAD.encode(part),
        None => part.to_owned(),
    }
}

/// Nobody is called what another place calls its people, nor what no header can carry; nobody has a role that is not declared.
fn told(claims: &serde_json::Map<String, Value>) {
    let declared = RoleNames::new(vec!["admin".to_owned(), "staff".to_owned()]).expect("two roles");
    let mapping = Mapping {
        subject: "sub".to_owned(),
        names: Names::new("", ["corp:".to_owned()]),
        name: Some("name".to_owned()),
        email: Some("email".to_owned()),
        roles: Some("a.roles".to_owned()),
        role_map: [("eng".to_owned(), "staff".to_owned()), ("x".to_owned(), "root".to_owned())].into(),
    };
    let Ok(identity) = mapping.identity(claims, &declared) else { return };
    assert!(!identity.subject.to_ascii_lowercase().starts_with("corp:"), "{:?}", identity.subject);
    assert_eq!(identity.subject.trim(), identity.subject);
    for text in [Some(&identity.subject), identity.name.as_ref(), identity.email.as_ref()].into_iter().flatten() {
        assert!(!text.trim().is_empty() && http::HeaderValue::from_str(text).is_ok() || !text.is_ascii(), "{text:?}");
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
    assert!(identity.role_names.iter().all(|name| name == "staff"), "{:?}", identity.role_names);
}
