//! The keys that tokens are verified with. One decision: an algorithm belongs to a key, fixed when the key is read; the token's
//! own word is only compared with it (RFC 8725 §3.1). Keys are checked here – point on the curve, size, use – so that a weak one
//! is refused when it is read and not when it is used, and what is read is ready for use: to make an RSA key and its Montgomery
//! numbers anew takes a sixth of what its signature does. Knows nothing of where keys come from.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use serde_json::Value;

/// Less than the hash is less than its strength (RFC 7518 §3.2).
const SECRET_BYTES: usize = 32;
/// 2048 bits, the least that the verifier takes.
const MODULUS_BYTES: usize = 256;
/// More keys than any issuer publishes; a larger set is not read.
const MOST_KEYS: usize = 100;

/// A signature algorithm of ours. `none` is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// With SHA-384.
    Rs384,
    /// With SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// ECDSA on P-256.
    Es256,
    /// ECDSA on P-384.
    Es384,
    /// Ed25519.
    EdDsa,
    /// HMAC with SHA-256.
    Hs256,
}

impl Algorithm {
    /// All of them, by the name that a header carries.
    pub const NAMES: [(&'static str, Algorithm); 8] = [
        ("RS256", Algorithm::Rs256),
        ("RS384", Algorithm::Rs384),
        ("RS512", Algorithm::Rs512),
        ("PS256", Algorithm::Ps256),
        ("ES256", Algorithm::Es256),
        ("ES384", Algorithm::Es384),
        ("EdDSA", Algorithm::EdDsa),
        ("HS256", Algorithm::Hs256),
    ];

    /// By the name that a header carries, exactly. RFC 9864 §2.2 gives the curve's own name to what was `EdDSA`.
    pub fn named(name: &str) -> Option<Algorithm> {
        let name = if name == "Ed25519" { "EdDSA" } else { name };
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    /// The name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    pub(super) fn library(self) -> jsonwebtoken::Algorithm {
        match self {
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::Rs384 => jsonwebtoken::Algorithm::RS384,
            Algorithm::Rs512 => jsonwebtoken::Algorithm::RS512,
            Algorithm::Ps256 => jsonwebtoken::Algorithm::PS256,
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::Es384 => jsonwebtoken::Algorithm::ES384,
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
        }
    }

    /// How a signature by a public key is verified.
    fn verification(self) -> Option<&'static dyn VerificationAlgorithm> {
        Some(match self {
            Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Algorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Algorithm::EdDsa => &signature::ED25519,
            Algorithm::Hs256 => return None,
        })
    }

    fn family(self) -> Family {
        match self {
            Algorithm::Rs256 | Algorithm::Rs384 | Algorithm::Rs512 | Algorithm::Ps256 => Family::Rsa,
            Algorithm::Es256 => Family::P256,
            Algorithm::Es384 => Family::P384,
            Algorithm::EdDsa => Family::Ed25519,
            Algorithm::Hs256 => Family::Secret,
        }
    }
}

/// What a key is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Rsa,
    P256,
    P384,
    Ed25519,
    Secret,
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not a key of the kind that the algorithm needs.
    #[error("not a public key for {0}")]
    Unusable(&'static str),
    /// The library's reason.
    #[error("not a public key in PEM")]
    Pem(#[source] jsonwebtoken::errors::Error),
    /// Too short.
    #[error("a secret for HS256 needs at least 32 bytes; this one has {0}")]
    Short(usize),
    /// Too short.
    #[error("an RSA key needs at least 2048 bits")]
    Small,
    /// Not a set of keys.
    #[error("not a JSON Web Key Set")]
    Set(#[source] serde_json::Error),
    /// Too many, or no list at all.
    #[error("not a JSON Web Key Set of at most {MOST_KEYS} keys")]
    Shape,
    /// None of the keys is for a configured algorithm.
    #[error("no key in it is for {0}")]
    Empty(String),
}

/// One key.
pub struct Key {
    /// Its name.
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    material: Material,
}

/// What it is made of, ready for use.
enum Material {
    Public(ParsedPublicKey),
    Secret(DecodingKey),
}

impl Key {
    fn new(id: Option<String>, algorithm: Algorithm, decoding: DecodingKey) -> Result<Key, KeyError> {
        let material = match public(algorithm, &decoding)? {
            Some(key) => Material::Public(key),
            None => Material::Secret(decoding),
        };
        Ok(Key { id, algorithm, material })
    }

    /// Whether this is the key's signature of a message, in base64url (RFC 7515 §5.2).
    pub(super) fn signed(&self, message: &str, signature: &str) -> bool {
        match &self.material {
            Material::Public(key) => {
                let signature = URL_SAFE_NO_PAD.decode(signature);
                signature.is_ok_and(|signature| key.verify_sig(message.as_bytes(), &signature).is_ok())
            }
            Material::Secret(key) => {
                let verified =
                    jsonwebtoken::crypto::verify(signature, message.as_bytes(), key, self.algorithm.library());
                verified.is_ok_and(|signed| signed)
            }
        }
    }

    /// A public key in PEM, for one algorithm.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_pem(pem: &[u8], algorithm: Algorithm) -> Result<Key, KeyError> {
        // A private key would be read as well, and has no business on a machine that only verifies.
        if pem.windows(7).any(|window| window == b"PRIVATE") {
            return Err(KeyError::Unusable(algorithm.name()));
        }
        let decoding = match algorithm.family() {
            Family::Rsa => DecodingKey::from_rsa_pem(pem),
            Family::P256 | Family::P384 => DecodingKey::from_ec_pem(pem),
            Family::Ed25519 => DecodingKey::from_ed_pem(pem),
            Family::Secret => return Err(KeyError::Unusable(algorithm.name())),
        };
        Key::new(None, algorithm, decoding.map_err(KeyError::Pem)?)
    }

    /// A shared secret for HS256.
    ///
    /// # Errors
    /// [`KeyError::Short`]: the library would take one byte.
    pub fn from_secret(secret: &[u8]) -> Result<Key, KeyError> {
        if secret.len() < SECRET_BYTES {
            return Err(KeyError::Short(secret.len()));
        }
        Key::new(None, Algorithm::Hs256, DecodingKey::from_secret(secret))
    }

    /// `named` is the algorithm that it says it is for: the library does not know every name.
    fn from_jwk(jwk: &Jwk, named: Option<&str>, allowed: &[Algorithm]) -> Result<Key, KeyError> {
        let unusable = KeyError::Unusable("any configured algorithm");
        let family = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Family::Rsa,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Family::P256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => Family::P384,
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Family::Ed25519,
            // A secret that is published is none.
            _ => return Err(unusable),
        };
        let common = &jwk.common;
        let for_signing = common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
        let fits = |algorithm: &&Algorithm| {
            algorithm.family() == family && named.is_none_or(|name| Algorithm::named(name) == Some(**algorithm))
        };
        let mut fitting = allowed.iter().filter(fits);
        match (for_signing, fitting.next(), fitting.next()) {
            // A key that does not say its algorithm has one only where a single configured one fits.
            (true, Some(algorithm), None) => {
                let decoding = DecodingKey::from_jwk(jwk).map_err(KeyError::Pem)?;
                Key::new(common.key_id.clone(), *algorithm, decoding)
            }
            _ => Err(unusable),
        }
    }
}

/// Points and lengths (RFC 8725 §3.4): the public key, if it is one, read; `None` for a secret.
fn public(algorithm: Algorithm, key: &DecodingKey) -> Result<Option<ParsedPublicKey>, KeyError> {
    use jsonwebtoken::DecodingKeyKind::{RsaModulusExponent, SecretOrDer};
    let unusable = || KeyError::Unusable(algorithm.name());
    let big_enough = |modulus: &[u8]| match modulus.iter().skip_while(|byte| **byte == 0).count() >= MODULUS_BYTES {
        true => Ok(()),
        false => Err(KeyError::Small),
    };
    let Some(verification) = algorithm.verification() else {
        return match key.kind() {
            SecretOrDer(secret) if secret.len() >= SECRET_BYTES => Ok(None),
            _ => Err(unusable()),
        };
    };
    let parsed = |bytes: &[u8]| ParsedPublicKey::new(verification, bytes).map(Some).map_err(|_| unusable());
    match (algorithm.family(), key.kind()) {
        (Family::Rsa, RsaModulusExponent { n, e }) => {
            big_enough(n)?;
            // Some libraries put a zero before it (RFC 7518 §6.3.1.1).
            let n = &n[n.iter().take_while(|byte| **byte == 0).count()..];
            parsed(signature::RsaPublicKeyComponents { n, e }.as_der().map_err(|_| unusable())?.as_ref())
        }
        (Family::Rsa, SecretOrDer(der)) => {
            let key = aws_lc_rs::rsa::PublicKey::from_der(der).map_err(|_| unusable())?;
            big_enough(signature::RsaPublicKeyComponents::<Vec<u8>>::from(&key).n.as_slice())?;
            parsed(der)
        }
        (Family::P256 | Family::P384 | Family::Ed25519, SecretOrDer(point)) => parsed(point),
        _ => Err(unusable()),
    }
}

/// The keys of one issuer at a moment.
#[derive(Default)]
pub struct KeySet {
    /// Those of one name are for one algorithm each.
    named: BTreeMap<String, Vec<Arc<Key>>>,
    all: Vec<Arc<Key>>,
}

impl KeySet {
    /// A set of one key, which answers for tokens that name none.
    pub fn one(key: Key) -> KeySet {
        KeySet::of(vec![key])
    }

    fn of(keys: Vec<Key>) -> KeySet {
        let all: Vec<Arc<Key>> = keys.into_iter().map(Arc::new).collect();
        let mut named = BTreeMap::<String, Vec<Arc<Key>>>::new();
        for key in &all {
            if let Some(id) = &key.id {
                named.entry(id.clone()).or_default().push(key.clone());
            }
        }
        KeySet { named, all }
    }

    /// Read a JSON Web Key Set (RFC 7517 §5). Keys for something else are passed over. Some write one key under one name for each of its
    /// algorithms, or for encryption too (§4.5); what two keys share beside the name is none's.
    ///
    /// # Errors
    /// [`KeyError`] where no usable key is in it.
    pub fn from_jwks(text: &[u8], allowed: &[Algorithm]) -> Result<KeySet, KeyError> {
        let set: Value = serde_json::from_slice(text).map_err(KeyError::Set)?;
        let list = set.get("keys").and_then(Value::as_array).filter(|list| list.len() <= MOST_KEYS);
        let list = list.ok_or(KeyError::Shape)?;
        let read = |value: &Value| {
            let jwk = serde_json::from_value::<Jwk>(value.clone()).ok()?;
            Key::from_jwk(&jwk, value.get("alg").and_then(Value::as_str), allowed).ok()
        };
        let mut keys: Vec<Key> = list.iter().filter_map(read).collect();
        let names: Vec<_> = keys.iter().map(|key| (key.id.clone(), key.algorithm)).collect();
        keys.retain(|key| {
            let is_same = |(id, algorithm): &&(Option<String>, Algorithm)| *id == key.id && *algorithm == key.algorithm;
            key.id.is_none() || names.iter().filter(is_same).count() == 1
        });
        if keys.is_empty() {
            let names: Vec<&str> = allowed.iter().map(|algorithm| algorithm.name()).collect();
            return Err(KeyError::Empty(names.join(", ")));
        }
        Ok(KeySet::of(keys))
    }

    /// The key that a token is to be verified with: the one of its name, exactly, and of several the one for its algorithm; where it names
    /// none, the only one there is for that. A set of one unnamed key answers for any name, because a PEM file has no place for one.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&Arc<Key>> {
        if let Some(id) = id
            && self.all.iter().any(|key| key.id.is_some())
        {
            let named = self.named.get(id)?;
            return named.iter().find(|key| key.algorithm == algorithm).or_else(|| named.first());
        }
        let mut fitting = self.all.iter().filter(|key| key.algorithm == algorithm);
        let only = fitting.next()?;
        fitting.next().is_none().then_some(only)
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}
