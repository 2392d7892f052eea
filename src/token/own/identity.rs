//! Signed identities: who calls, told to an application in a way that it can verify. One decision: a statement is for one route and
//! for a minute, so that an application which believes nothing else cannot be lied to by whoever reaches it around the gateway, and
//! what one application learnt says nothing to another. Signed once for a caller and a route, until shortly before its end.
//! Knows nothing of headers' names.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use serde_json::json;

use crate::clock::Timestamp;
use crate::memory::Memory;
use crate::policy::{Caller, Identity, Proof};
use crate::token::cache::Digest;

use super::access::signed;
use super::ring::{KeyRing, Purpose};

/// How long one counts.
const LIFE: Duration = Duration::from_secs(60);
/// One that ends sooner than this is made anew: the application may be slow to look.
const LEFT: Duration = Duration::from_secs(20);
/// What common libraries take; it says what kind of token it is not, too: access tokens are `at+jwt`.
const KIND: &str = "JWT";

/// One that was signed. It is given again to whoever it says the same of: every worker has a caller of its own for one person.
struct Signed {
    caller: Arc<Caller>,
    line: HeaderValue,
    until: Timestamp,
}

/// Signs identities.
pub struct SignedIdentities {
    ring: Arc<KeyRing>,
    issuer: String,
    signed: Memory<Signed>,
    spread: RandomState,
}

impl SignedIdentities {
    /// With these keys, in this name; `entries` are remembered.
    pub fn new(ring: Arc<KeyRing>, issuer: String, entries: u64) -> SignedIdentities {
        SignedIdentities { ring, issuer, signed: Memory::new(entries), spread: RandomState::new() }
    }

    /// Forget what was signed, and give the room back.
    pub fn forget(&self) {
        self.signed.forget_all();
    }

    /// In whose name.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The statement for a caller at a route, the `index`-th of the file; `None` where it cannot be signed.
    pub fn line(&self, caller: &Arc<Caller>, index: usize, audience: &str, now: Timestamp) -> Option<HeaderValue> {
        let key = self.place(&caller.identity, index);
        if let Some(signed) = self.signed.get(&key)
            && told(&signed.caller.identity) == told(&caller.identity)
            && now.plus(LEFT) < signed.until
        {
            return Some(signed.line.clone());
        }
        let line = self.sign(caller, audience, now)?;
        let signed = Signed { caller: caller.clone(), line: line.clone(), until: now.plus(LIFE) };
        self.signed.put(key, Arc::new(signed));
        Some(line)
    }

    /// Where it is remembered. Whoever falls on another's place is told apart by what is told.
    fn place(&self, identity: &Identity, index: usize) -> Digest {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.spread.hash_one((told(identity), index)).to_ne_bytes());
        // In full: what is told is the same for two routes.
        key[8..16].copy_from_slice(&(index as u64).to_ne_bytes());
        key
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

/// What a statement tells of a caller.
fn told(identity: &Identity) -> (&str, &[String], bool, Option<&str>, Option<&str>) {
    let Identity { subject, name, email, role_names, proof, .. } = identity;
    (subject, role_names, *proof == Proof::Session, name.as_deref(), email.as_deref())
}
