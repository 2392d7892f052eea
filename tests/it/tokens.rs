//! Tokens as an issuer, or somebody who would like to be one, makes them: signed over the very bytes of a case, because a library
//! would refuse to make most of them. What a verdict is called is what the access log says.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair,
};
use aws_lc_rs::{hmac, rsa};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use portcullis::clock::Timestamp;
use portcullis::policy::{IdentityHeaders, Names, RoleNames};
use portcullis::session::store::Memory;
use portcullis::session::{CookieCodec, Lifetimes, SessionKeys, Sessions, Settings};
use portcullis::token::{Algorithm, Expected, Key, KeySet, Keys, Mapping, TokenError, Tokens, Verifier};
use proptest::prelude::{ProptestConfig, Strategy, any, prop_assert_eq, prop_oneof, proptest};
use serde_json::{Value, json};

pub const NOW: Timestamp = Timestamp(1_800_000_000_000);
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A pair of keys of an issuer's.
pub enum Issuer {
    Ec(EcdsaKeyPair, &'static EcdsaSigningAlgorithm),
    Ed(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
    Secret([u8; 32]),
}

impl Issuer {
    pub fn es256() -> Issuer {
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        Issuer::Ec(EcdsaKeyPair::generate(algorithm).unwrap(), algorithm)
    }

    fn new(algorithm: &str) -> Issuer {
        match algorithm {
            "ES256" => Issuer::es256(),
            "ES384" => {
                let algorithm = &signature::ECDSA_P384_SHA384_FIXED_SIGNING;
                Issuer::Ec(EcdsaKeyPair::generate(algorithm).unwrap(), algorithm)
            }
            "EdDSA" => Issuer::Ed(Ed25519KeyPair::generate().unwrap()),
            "HS256" => Issuer::Secret([7; 32]),
            _ => Issuer::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())),
        }
    }

    /// `SubjectPublicKeyInfo`.
    fn der(&self) -> Vec<u8> {
        let der = |der: &[u8]| der.to_vec();
        match self {
            Issuer::Ec(pair, _) => {
                der(AsDer::<aws_lc_rs::encoding::PublicKeyX509Der>::as_der(pair.public_key()).unwrap().as_ref())
            }
            Issuer::Ed(pair) => {
                der(AsDer::<aws_lc_rs::encoding::PublicKeyX509Der>::as_der(pair.public_key()).unwrap().as_ref())
            }
            Issuer::Rsa(pair) => {
                der(AsDer::<aws_lc_rs::encoding::PublicKeyX509Der>::as_der(pair.public_key()).unwrap().as_ref())
            }
            Issuer::Secret(secret) => secret.to_vec(),
        }
    }

    pub fn pem(&self) -> String {
        let text = STANDARD.encode(self.der());
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    pub fn jwk(&self, kid: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Issuer::Ec(pair, algorithm) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let p256 = **algorithm == signature::ECDSA_P256_SHA256_FIXED_SIGNING;
                let (curve, alg) = if p256 { ("P-256", "ES256") } else { ("P-384", "ES384") };
                json!({ "kty": "EC", "crv": curve, "alg": alg, "kid": kid, "use": "sig", "x": text(x), "y": text(y) })
            }
            Issuer::Ed(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": text(pair.public_key().as_ref()) })
            }
            Issuer::Rsa(pair) => {
                let parts = rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({ "kty": "RSA", "kid": kid, "n": text(&parts.n), "e": text(&parts.e) })
            }
            Issuer::Secret(secret) => json!({ "kty": "oct", "kid": kid, "k": text(secret) }),
        }
    }

    /// Sign with the algorithm of this name.
    fn sign(&self, message: &[u8], algorithm: &str) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Issuer::Ec(pair, _) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Issuer::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Issuer::Secret(secret) => mac(secret, message),
            Issuer::Rsa(pair) => {
                let padding: &'static dyn RsaEncoding = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_SHA256,
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    _ => &signature::RSA_PSS_SHA256,
                };
                let mut signed = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signed).unwrap();
                signed
            }
        }
    }

    /// A token of these very texts.
    pub fn token(&self, header: &str, claims: &str, algorithm: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.sign(message.as_bytes(), algorithm);
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn mac(secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
}

fn verifier(keys: Arc<Keys>) -> Verifier {
    Verifier {
        expected: Expected {
            issuer: "https://id.example".into(),
            audiences: vec!["gateway".into()],
            longest: Duration::from_secs(3_600),
            leeway: Duration::from_secs(5),
        },
        kinds: vec!["JWT".into(), "at+jwt".into()],
        mapping: Mapping {
            subject: "sub".into(),
            names: Names::default(),
            name: None,
            email: None,
            roles: Some("roles".into()),
            role_map: BTreeMap::new(),
        },
        keys,
    }
}

fn tokens(keys: Arc<Keys>) -> Tokens {
    let roles = RoleNames::new(vec!["admin".into()]).unwrap();
    Tokens::new(vec![verifier(keys)], sessions(), roles, IdentityHeaders::preset("x-forwarded").unwrap(), 1_000)
}

fn sessions() -> Arc<Sessions> {
    let settings = Settings {
        lifetimes: Lifetimes::new(Duration::from_secs(100), Duration::from_secs(1_000)),
        cache_entries: 10,
        max_sessions: None,
        store_timeout: Duration::from_secs(2),
    };
    Sessions::new(Arc::new(Memory::new()), CookieCodec::new(&SessionKeys::random().unwrap(), ""), settings)
}

fn set(issuers: &[(&str, &Issuer)]) -> String {
    let keys: Vec<Value> = issuers.iter().map(|(kid, issuer)| issuer.jwk(kid)).collect();
    json!({ "keys": keys }).to_string()
}

/// Keys of one issuer for ES256, of the name `one`.
fn one(issuer: &Issuer) -> Arc<Keys> {
    Keys::fixed(KeySet::from_jwks(set(&[("one", issuer)]).as_bytes(), &[Algorithm::Es256]).unwrap())
}

async fn verdict(tokens: &Tokens, token: &str, now: Timestamp) -> &'static str {
    match tokens.verify(token, HERE, now).await {
        Ok(_) => "ok",
        Err(TokenError::Bad(bad)) => bad.as_str(),
        Err(error) => panic!("{error}"),
    }
}

/// `@N` in a text is now plus N seconds.
pub fn timed(text: &str, now: Timestamp) -> String {
    let mut pieces = text.split('@');
    let mut out = pieces.next().unwrap().to_owned();
    for piece in pieces {
        if !piece.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            out.extend(["@", piece]);
            continue;
        }
        let end = piece.find(|c: char| !c.is_ascii_digit() && c != '-' && c != '.').unwrap_or(piece.len());
        let seconds: f64 = piece[..end].parse().unwrap();
        let moment = now.0 as f64 / 1000.0 + seconds;
        out.push_str(&if moment.fract() == 0.0 { format!("{moment:.0}") } else { moment.to_string() });
        out.push_str(&piece[end..]);
    }
    out
}

fn good(now: Timestamp) -> String {
    timed(r#"{"iss":"https://id.example","aud":"gateway","sub":"s","iat":@0,"exp":@60}"#, now)
}

/// The cases of a file: verdict and what follows it.
fn cases(file: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_at(line.find(' ').unwrap()))
}

/// Each case is asked twice, of a verifier that knows nobody's failures: remembering must not change a verdict. attacks:
/// policy 8, lines 46 to 59.
#[tokio::test]
async fn a_token_that_says_something_else_than_it_must_is_refused() {
    let issuer = Issuer::es256();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (expected, rest) in cases(include_str!("../data/tokens/claims.txt")) {
        let tokens = tokens(one(&issuer));
        let token = issuer.token(r#"{"alg":"ES256","kid":"one"}"#, &timed(rest.trim(), NOW), "ES256");
        for _ in 0..2 {
            let said = verdict(&tokens, &token, NOW).await;
            if said != expected {
                wrong.push(format!("{said}, not {expected}: {rest}"));
            }
        }
        seen += 1;
    }
    assert!(seen > 50 && wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_header_that_asks_for_something_else_is_refused() {
    let issuer = Issuer::es256();
    for (expected, rest) in cases(include_str!("../data/tokens/headers.txt")) {
        let tokens = tokens(one(&issuer));
        let token = issuer.token(rest.trim(), &good(NOW), "ES256");
        assert_eq!(verdict(&tokens, &token, NOW).await, expected, "{rest}");
    }
}

#[tokio::test]
async fn a_token_has_one_spelling() {
    let issuer = Issuer::es256();
    let token = issuer.token(r#"{"alg":"ES256","kid":"one"}"#, &good(NOW), "ES256");
    let [h, p, s] = token.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    // A signature whose text needs one of the two characters that the alphabets differ in.
    let standard = if s.contains(['-', '_']) { s.replace('-', "+").replace('_', "/") } else { format!("+{}", &s[1..]) };
    for (expected, rest) in cases(include_str!("../data/tokens/encodings.txt")) {
        let spelt = rest[(17 - expected.len())..].to_owned();
        let spelt = spelt.replace("{h}", h).replace("{p}", p).replace("{s}", s);
        let spelt = spelt.replace("{H}", &h[..h.len() - 1]).replace("{S}", &s[..s.len() - 1]);
        let spelt = spelt.replace("{+s}", &standard).replace("{0}", &"A".repeat(86));
        assert_eq!(verdict(&tokens(one(&issuer)), &spelt, NOW).await, expected, "{rest}");
    }
    // The last character of 64 bytes holds two bits; the other four have to be zero.
    let last = s.chars().last().unwrap();
    let other = char::from_u32(u32::from(last) + 1).unwrap();
    let spelt = format!("{h}.{p}.{}{other}", &s[..s.len() - 1]);
    assert_eq!(verdict(&tokens(one(&issuer)), &spelt, NOW).await, "token_signature", "a stray bit");
    let long = format!("{h}.{p}.{}", "A".repeat(16 * 1024));
    assert_eq!(verdict(&tokens(one(&issuer)), &long, NOW).await, "token_too_large");
}

static ISSUERS: LazyLock<BTreeMap<&'static str, [Issuer; 2]>> = LazyLock::new(|| {
    let pair = |name| (name, [Issuer::new(name), Issuer::new(name)]);
    // RSA keys are slow to make, and one is for every padding.
    ["ES256", "ES384", "EdDSA", "RS256", "HS256"].into_iter().map(pair).collect()
});

fn issuers(algorithm: &str) -> &'static [Issuer; 2] {
    ISSUERS.get(algorithm).unwrap_or_else(|| &ISSUERS["RS256"])
}

/// The signature of a case of `confusion.txt` over a message.
fn signed(with: &str, message: &[u8]) -> Vec<u8> {
    match with.split(':').collect::<Vec<_>>()[..] {
        ["empty"] => Vec::new(),
        ["zeros"] => vec![0; 64],
        ["hmac", "empty"] => mac(b"", message),
        ["hmac", "one"] => mac(&[0], message),
        ["hmac", of, "pem"] => mac(issuers(of)[0].pem().as_bytes(), message),
        ["hmac", of, "der"] => mac(&issuers(of)[0].der(), message),
        [of, "other"] => issuers(of)[1].sign(message, of),
        [of] => issuers(of)[0].sign(message, of),
        _ => panic!("{with}"),
    }
}

#[tokio::test]
async fn an_algorithm_belongs_to_the_key_and_not_to_the_token() {
    let mut seen = 0;
    for line in include_str!("../data/tokens/confusion.txt").lines().filter(|line| !line.starts_with('#')) {
        let [of, header, with, expected] = line.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{line}") };
        let algorithm = Algorithm::named(of).unwrap();
        let key = match &issuers(of)[0] {
            Issuer::Secret(secret) => Key::from_secret(secret).unwrap(),
            issuer => Key::from_pem(issuer.pem().as_bytes(), algorithm).unwrap(),
        };
        let (header, claims) = (format!(r#"{{"alg":"{header}"}}"#), good(NOW));
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed(with, message.as_bytes())));
        assert_eq!(verdict(&tokens(Keys::fixed(KeySet::one(key))), &token, NOW).await, expected, "{line}");
        seen += 1;
    }
    assert!(seen > 30);
}

#[test]
fn a_key_that_is_weak_or_for_something_else_is_not_read() {
    for length in [0, 1, 31] {
        assert!(Key::from_secret(&vec![7; length]).is_err(), "a secret of {length} bytes");
    }
    let small = rsa_jwk(255);
    let read =
        |keys: Value, allowed: &[Algorithm]| KeySet::from_jwks(json!({ "keys": keys }).to_string().as_bytes(), allowed);
    let es256 = issuers("ES256")[0].jwk("a");
    assert!(read(json!([es256.clone()]), &[Algorithm::Es256]).is_ok());
    let with = |name: &str, value: Value| {
        let mut changed = es256.clone();
        changed[name] = value;
        changed
    };
    for (key, why) in [
        (with("use", json!("enc")), "for encryption"),
        (with("key_ops", json!(["sign"])), "not for verifying"),
        (with("alg", json!("ES384")), "of another algorithm than its curve"),
        (with("alg", json!("RS256")), "of another family"),
        (with("x", json!("AAAA")), "of another length"),
        (with("y", es256["x"].clone()), "not on the curve"),
        (with("crv", json!("P-384")), "of another curve"),
        (with("crv", json!("secp256k1")), "of a curve that is none of ours"),
        (small, "too small"),
        (issuers("HS256")[0].jwk("a"), "a secret that was published"),
        (issuers("EdDSA")[0].jwk("a"), "of an algorithm that is not configured"),
        (json!({ "kty": "EC" }), "half a key"),
        (json!(7), "no key"),
    ] {
        assert!(read(json!([key]), &[Algorithm::Es256, Algorithm::Rs256]).is_err(), "{why}");
    }
    assert!(
        read(json!([with("kid", json!("a")), es256.clone()]), &[Algorithm::Es256]).is_err(),
        "one name for two keys"
    );
    let rsa = issuers("RS256")[0].jwk("a");
    assert!(read(json!([rsa.clone()]), &[Algorithm::Rs256]).is_ok());
    let mut longer = rsa.clone();
    let modulus = URL_SAFE_NO_PAD.decode(rsa["n"].as_str().unwrap()).unwrap();
    longer["n"] = URL_SAFE_NO_PAD.encode([&[0], &modulus[..]].concat()).into();
    assert!(read(json!([longer]), &[Algorithm::Rs256]).is_ok(), "the same number");
    for (name, known) in [("Ed25519", true), ("EdDSA", true), ("Ed448", false), ("ed25519", false)] {
        let mut key = issuers("EdDSA")[0].jwk("a");
        key["alg"] = name.into();
        assert_eq!(read(json!([key]), &[Algorithm::EdDsa]).is_ok(), known, "{name}");
    }
    assert!(
        read(json!([rsa]), &[Algorithm::Rs256, Algorithm::Ps256]).is_err(),
        "an algorithm would have to be guessed"
    );
    assert!(KeySet::from_jwks(b"{}", &[Algorithm::Es256]).is_err());
    let private = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert!(Key::from_pem(private.as_bytes(), Algorithm::Es256).is_err());
    assert!(Key::from_pem(issuers("ES256")[0].pem().as_bytes(), Algorithm::Es384).is_err(), "another curve");
    assert!(Key::from_pem(issuers("ES256")[0].pem().as_bytes(), Algorithm::EdDsa).is_err());
}

/// Entra tells two hundred groups at most, and leaves them all out where there are more.
#[tokio::test]
async fn a_token_of_two_hundred_groups_is_read() {
    let issuer = Issuer::es256();
    let groups: Vec<String> = (0..200).map(|n| format!("{n:08x}-0000-4000-8000-000000000000")).collect();
    let said = good(NOW).replacen('{', &format!("{{\"groups\":{groups:?},"), 1);
    let token = issuer.token(r#"{"alg":"ES256","kid":"one"}"#, &said, "ES256");
    assert!(token.len() > 10_000);
    let tokens = tokens(one(&issuer));
    for _ in 0..2 {
        assert_eq!(verdict(&tokens, &token, NOW).await, "ok");
    }
}

/// RFC 7517 §4.5: ForgeRock and OpenAM write a key once for each of its algorithms, Keycloak one for signing and encryption. Each is
/// for its own algorithm all the same.
#[tokio::test]
async fn keys_of_one_name_are_told_apart_by_their_algorithm() {
    let (rsa, ec, other) = (&issuers("RS256")[0], &issuers("ES256")[0], &issuers("RS256")[1]);
    let jwk = |of: &Issuer, usage: &str, algorithm: &str| {
        let mut key = of.jwk("one");
        (key["use"], key["alg"]) = (usage.into(), algorithm.into());
        key
    };
    let [signing, pss, sha512] = ["RS256", "PS256", "RS512"].map(|algorithm| jwk(rsa, "sig", algorithm));
    let encrypting = jwk(rsa, "enc", "RSA-OAEP");
    let second = jwk(other, "sig", "RS256");
    let both: &[Algorithm] = &[Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256];
    for (keys, allowed, signed, with, expected) in [
        (json!([signing, encrypting]), both, "RS256", rsa, "ok"),
        (json!([encrypting, signing]), both, "RS256", rsa, "ok"),
        (json!([signing, sha512]), both, "RS256", rsa, "ok"),
        (json!([pss, signing, sha512]), both, "RS256", rsa, "ok"),
        (json!([pss, signing, sha512]), both, "PS256", rsa, "ok"),
        (json!([pss, signing, sha512]), both, "RS512", rsa, "token_algorithm"),
        (json!([pss, sha512]), both, "RS256", rsa, "token_algorithm"),
        (json!([signing, jwk(ec, "sig", "ES256")]), both, "ES256", ec, "ok"),
        (json!([signing, jwk(ec, "sig", "ES256")]), both, "RS256", rsa, "ok"),
        (json!([signing, jwk(ec, "sig", "ES256")]), both, "RS256", other, "token_signature"),
        (json!([signing, second, jwk(ec, "sig", "ES256")]), both, "ES256", ec, "ok"),
        (json!([signing, second, jwk(ec, "sig", "ES256")]), both, "RS256", rsa, "token_algorithm"),
        (json!([signing, second, pss]), &both[..1], "RS256", rsa, "none"),
    ] {
        let text = json!({ "keys": keys }).to_string();
        let said = match KeySet::from_jwks(text.as_bytes(), allowed) {
            Ok(keys) => {
                let token = with.token(&format!(r#"{{"alg":"{signed}","kid":"one"}}"#), &good(NOW), signed);
                verdict(&tokens(Keys::fixed(keys)), &token, NOW).await
            }
            Err(_) => "none",
        };
        assert_eq!(said, expected, "{signed} by {text}");
    }
}

fn rsa_jwk(bytes: usize) -> Value {
    json!({ "kty": "RSA", "kid": "a", "e": "AQAB", "n": URL_SAFE_NO_PAD.encode(vec![0xff; bytes]) })
}

/// What is held against a token is kept for so long, however far its issuer's clock was ahead of ours.
#[tokio::test]
async fn no_token_outlives_its_denial() {
    let issuer = Issuer::es256();
    let tokens = tokens(one(&issuer));
    let latest = r#"{"iss":"https://id.example","aud":"gateway","sub":"s","iat":@5,"exp":@3605}"#;
    let latest = issuer.token(r#"{"alg":"ES256","kid":"one"}"#, &timed(latest, NOW), "ES256");
    let denied = NOW.plus(tokens.longest_of("https://id.example").unwrap());
    assert_eq!(verdict(&tokens, &latest, denied.minus(Duration::from_millis(1))).await, "ok");
    assert_eq!(verdict(&tokens, &latest, denied).await, "token_expired");
}

#[tokio::test]
async fn who_sends_many_bad_signatures_waits_and_good_tokens_do_not() {
    let issuer = Issuer::es256();
    let tokens = tokens(one(&issuer));
    let header = r#"{"alg":"ES256","kid":"one"}"#;
    let first = issuer.token(header, &good(NOW), "ES256");
    assert_eq!(verdict(&tokens, &first, NOW).await, "ok");
    let mut refused = 0;
    for n in 0..60 {
        let claims = good(NOW).replace("\"s\"", &format!("\"{n}\""));
        let bad = Issuer::es256().token(header, &claims, "ES256");
        if matches!(tokens.verify(&bad, HERE, NOW).await, Err(TokenError::TooManyFailures)) {
            refused += 1;
        }
    }
    assert!((20..40).contains(&refused), "{refused}");
    assert_eq!(verdict(&tokens, &first, NOW).await, "ok", "a remembered one costs nothing");
    let fresh = issuer.token(header, &good(NOW).replace("\"s\"", "\"t\""), "ES256");
    assert!(matches!(tokens.verify(&fresh, HERE, NOW).await, Err(TokenError::TooManyFailures)));
    let elsewhere = IpAddr::from([192, 0, 2, 1]);
    assert!(tokens.verify(&fresh, elsewhere, NOW).await.is_ok(), "nobody else waits");
}

/// One step of a history of tokens, keys and time.
#[derive(Clone, Debug)]
enum Step {
    /// Token of this many of the made ones is presented.
    Present(usize),
    /// So many milliseconds pass.
    Pass(u64),
    /// The issuer's set has these of its two keys.
    Keys(bool, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_usize..8).prop_map(Step::Present),
        2 => prop_oneof![0_u64..3_000, 50_000_u64..70_000].prop_map(Step::Pass),
        1 => any::<(bool, bool)>().prop_map(|(one, two)| Step::Keys(one, two)),
    ]
}

/// Times of tokens, in seconds from the beginning, the key, and whether it is tampered with.
type Made = (i64, i64, Option<i64>, bool, bool);

fn made() -> impl Strategy<Value = Made> {
    (-70_i64..10, 0_i64..130, proptest::option::of(-10_i64..70), any::<bool>(), proptest::bool::weighted(0.2))
}

async fn history(made: &[Made], steps: Vec<Step>) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let (one, two) = (&issuers("ES256")[0], &issuers("ES256")[1]);
    let other = json!({ "kty": "EC", "crv": "P-256", "kid": "other", "x": one.jwk("")["x"], "y": one.jwk("")["y"] });
    let write = |with_one: bool, with_two: bool| {
        let mut keys = vec![other.clone()];
        keys.extend(with_one.then(|| one.jwk("one")));
        keys.extend(with_two.then(|| two.jwk("two")));
        std::fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
    };
    write(true, true);
    let keys = Keys::file(path.clone(), vec![Algorithm::Es256]).unwrap();
    let cached = tokens(keys.clone());
    let token = |(issued, ends, from, second, tampered): &Made| {
        let (kid, issuer) = if *second { ("two", two) } else { ("one", one) };
        let from = from.map(|from| format!(",\"nbf\":@{from}")).unwrap_or_default();
        let claims =
            format!(r#"{{"iss":"https://id.example","aud":"gateway","sub":"s","iat":@{issued},"exp":@{ends}{from}}}"#);
        let token = issuer.token(&format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#), &timed(&claims, NOW), "ES256");
        let cut = token.len() - 10;
        if *tampered { format!("{}AAAAAAAAAA", &token[..cut]) } else { token }
    };
    let all: Vec<String> = made.iter().map(token).collect();
    let mut now = NOW;
    for step in steps {
        match step {
            Step::Pass(by) => now = Timestamp(now.0 + by),
            Step::Keys(with_one, with_two) => {
                write(with_one, with_two);
                keys.refresh(now).await;
            }
            Step::Present(n) => {
                let token = &all[n % all.len()];
                let (remembered, fresh) =
                    (verdict(&cached, token, now).await, verdict(&tokens(keys.clone()), token, now).await);
                if remembered != fresh {
                    return Err(format!("remembered {remembered}, fresh {fresh}"));
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 60, ..ProptestConfig::default() })]

    /// I34: what is remembered is what would be found anew, whatever became of time and keys.
    #[test]
    fn a_remembered_verdict_is_the_fresh_one(made in proptest::collection::vec(made(), 8), steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        prop_assert_eq!(runtime.block_on(history(&made, steps)), Ok(()));
    }
}
