//! Signed identities: who calls, told to an application in a way that it can verify. One decision: a statement is for one route and
//! for a minute, so that an application which believes nothing else cannot be lied to by whoever reaches it around the gateway, and
//! what one application learnt says nothing to another. Signed once for a caller and a route, until shortly before its end.
//! Knows nothing of headers' names.

use std::sync::{Arc, Weak};
use std::time::Duration;

use http::HeaderValue;
use serde_json::json;

use crate::clock::Timestamp;
use crate::policy::{Caller, Proof};
use crate::token::cache::{Digest, Remembered};

use super::access::signed;
use super::ring::{KeyRing, Purpose};

/// How long one counts.
const LIFE: Duration = Duration::from_secs(60);
/// One that ends sooner than this is made anew: the application may be slow to look.
const LEFT: Duration = Duration::from_secs(20);
/// What common libraries take; it says what kind of token it is not, too: access tokens are `at+jwt`.
const KIND: &str = "JWT";

/// One that was signed. The caller is held weakly: as long as it is, no other caller can have its address.
struct Signed {
    caller: Weak<Caller>,
    line: HeaderValue,
    until: Timestamp,
}

/// Signs identities.
pub struct SignedIdentities {
    ring: Arc<KeyRing>,
    issuer: String,
    signed: Remembered<Signed>,
}

impl SignedIdentities {
    /// With these keys, in this name; `entries` are remembered.
    pub fn new(ring: Arc<KeyRing>, issuer: String, entries: u64) -> SignedIdentities {
        SignedIdentities { ring, issuer, signed: Remembered::new(entries) }
    }

    /// In whose name.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The statement for a caller at a route, the `index`-th of the file; `None` where it cannot be signed.
    pub fn line(&self, caller: &Arc<Caller>, index: usize, audience: &str, now: Timestamp) -> Option<HeaderValue> {
        let key = place(caller, index);
        if let Some(signed) = self.signed.get(&key)
            && std::ptr::eq(signed.caller.as_ptr(), Arc::as_ptr(caller))
            && now.plus(LEFT) < signed.until
        {
            return Some(signed.line.clone());
        }
        let line = self.sign(caller, audience, now)?;
        let signed = Signed { caller: Arc::downgrade(caller), line: line.clone(), until: now.plus(LIFE) };
        self.signed.put(key, Arc::new(signed));
        Some(line)
    }

    fn sign(&self, caller: &Caller, audience: &str, now: Timestamp) -> Option<HeaderValue> {
        let identity = &caller.identity;
        let mut claims = json!({
            "iss": self.issuer,
            "aud": audience,
            "sub": identity.subject,
            "iat": now.seconds(),
            "nbf": now.seconds(),
            "exp": now.plus(LIFE).seconds(),
            "roles": identity.role_names,
            "proof": match identity.proof { Proof::Session => "session", Proof::Token => "token" },
        });
        for (name, value) in [("name", &identity.name), ("email", &identity.email)] {
            if let Some(value) = value {
                claims[name] = value.as_str().into();
            }
        }
        let key = self.ring.active(Purpose::Sign, now)?;
        let mut line = HeaderValue::from_str(&signed(&key, KIND, &claims)?).ok()?;
        line.set_sensitive(true);
        Some(line)
    }
}

/// Spread over the first bytes, which is where a cache looks, and whole in the others.
fn place(caller: &Arc<Caller>, index: usize) -> Digest {
    let (address, index) = (Arc::as_ptr(caller) as usize as u64, index as u64);
    let mut key = [0; 32];
    let spread = (address ^ index.rotate_left(48)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    key[..8].copy_from_slice(&spread.to_ne_bytes());
    key[8..16].copy_from_slice(&address.to_ne_bytes());
    key[16..24].copy_from_slice(&index.to_ne_bytes());
    key
}
