//! Assertions by which this gateway proves who it is to somebody else (RFC 7523 §2.2). One decision: the algorithm is the key's,
//! found when the key is read, so that a key that cannot sign is found at start. Knows nothing of who is told.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

use crate::clock::Timestamp;

/// Long enough for a clock that is off; the assertion counts once.
const LIFE: Duration = Duration::from_secs(60);

/// Why there are none.
#[derive(Debug, thiserror::Error)]
#[error("not a private key in PEM for RSA, P-256, P-384 or Ed25519")]
pub struct AssertionKeyError;

/// Signs assertions.
pub struct Assertion {
    key: EncodingKey,
    header: Header,
}

impl Assertion {
    /// With this key, under its name at the other side.
    ///
    /// # Errors
    /// [`AssertionKeyError`].
    pub fn new(pem: &[u8], key_id: Option<String>) -> Result<Assertion, AssertionKeyError> {
        let read = [
            (EncodingKey::from_ec_pem(pem), &[Algorithm::ES256, Algorithm::ES384][..]),
            (EncodingKey::from_rsa_pem(pem), &[Algorithm::RS256]),
            (EncodingKey::from_ed_pem(pem), &[Algorithm::EdDSA]),
        ];
        for (key, algorithms) in read {
            let Ok(key) = key else { continue };
            for algorithm in algorithms {
                let mut header = Header::new(*algorithm);
                header.kid.clone_from(&key_id);
                if encode(&header, &json!({}), &key).is_ok() {
                    return Ok(Assertion { key, header });
                }
            }
        }
        Err(AssertionKeyError)
    }

    /// An assertion that `client` is who asks `audience`; `id` is used once.
    pub fn sign(&self, client: &str, audience: &str, id: &str, now: Timestamp) -> Option<String> {
        let claims = json!({
            "iss": client,
            "sub": client,
            "aud": audience,
            "jti": id,
            "iat": now.seconds(),
            "exp": now.plus(LIFE).seconds(),
        });
        encode(&self.header, &claims, &self.key).ok()
    }
}

/// Never the key.
impl std::fmt::Debug for Assertion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Assertion({:?})", self.header.alg)
    }
}
