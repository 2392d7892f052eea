//! From a token's text to claims that somebody signed. Pure. One decision: whatever can be refused without a signature is refused
//! before one is computed – size, form, header, issuer, times, audience – and the key is asked last, for its own algorithm. What
//! libraries let through (`crit`, `typ`, a list of issuers, a key in the header) is refused here. Knows nothing of caches.

use crate::clock::Timestamp;
use crate::policy::BadToken;

use super::claims::{Claims, Expected, Object, issuer, judge, object};
use super::keys::{Algorithm, KeySet};

/// A token in a header that is larger is none: half of what all headers together may have. Two hundred groups, the most that Entra tells, make
/// twelve thousand bytes.
pub const TOKEN_BYTES: usize = 16 * 1024;
/// A key's name is a name.
const KEY_ID_BYTES: usize = 255;
/// Members of a header that change what a token is (RFC 7515 §4.1.11, RFC 7797, RFC 7516): critical extensions, another
/// encoding of the payload, compression, encryption.
const REFUSED: [&str; 4] = ["crit", "b64", "zip", "enc"];

/// A token taken apart; nothing in it is believed yet.
pub struct Presented<'t> {
    token: &'t str,
    algorithm: Algorithm,
    key_id: Option<String>,
    kind: Option<String>,
    claims: Object,
}

impl<'t> Presented<'t> {
    /// Take it apart. `jku`, `x5u`, `x5c` and `jwk` are not looked at: a key that a token brings along proves nothing.
    ///
    /// # Errors
    /// [`BadToken`].
    pub fn parse(token: &'t str) -> Result<Presented<'t>, BadToken> {
        Presented::parse_within(token, TOKEN_BYTES)
    }

    /// The same of a token that came otherwise, and is of so many bytes at most.
    ///
    /// # Errors
    /// [`BadToken`].
    pub fn parse_within(token: &'t str, most: usize) -> Result<Presented<'t>, BadToken> {
        if token.len() > most {
            return Err(BadToken::TooLarge);
        }
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BadToken::Malformed);
        };
        let header = object(header).ok_or(BadToken::Malformed)?;
        if REFUSED.iter().any(|name| header.contains_key(*name)) {
            return Err(BadToken::Header);
        }
        let text = |name| match header.get(name) {
            None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or(BadToken::Header),
        };
        let algorithm = text("alg")?.and_then(Algorithm::named).ok_or(BadToken::Algorithm)?;
        let key_id = text("kid")?;
        if key_id.is_some_and(|id| id.len() > KEY_ID_BYTES) {
            return Err(BadToken::Header);
        }
        let (key_id, kind) = (key_id.map(str::to_owned), text("typ")?.map(str::to_owned));
        let claims = object(claims).ok_or(BadToken::Malformed)?;
        Ok(Presented { token, algorithm, key_id, kind, claims })
    }

    /// The name of the key that it says it is signed with.
    pub(super) fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// The issuer it names.
    pub fn issuer(&self) -> Option<&str> {
        issuer(&self.claims)
    }

    /// The algorithm it names.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether it says to be of one of these kinds. One that says nothing is a `JWT`, which is what it is called without
    /// (RFC 7519 §5.1); names are compared without case and without `application/` (RFC 7515 §4.1.9).
    pub fn is_any(&self, kinds: &[String]) -> bool {
        let lower = self.kind.as_deref().unwrap_or("JWT").to_ascii_lowercase();
        let bare = lower.strip_prefix("application/").unwrap_or(&lower);
        kinds.iter().any(|kind| kind.eq_ignore_ascii_case(bare))
    }

    /// Verify the signature. The key's algorithm counts; the header's has to be the same.
    ///
    /// # Errors
    /// [`BadToken::UnknownKey`], [`BadToken::Algorithm`] or [`BadToken::Signature`].
    pub fn verify(&self, keys: &KeySet) -> Result<(), BadToken> {
        let key = keys.find(self.key_id.as_deref(), self.algorithm).ok_or(BadToken::UnknownKey)?;
        if key.algorithm != self.algorithm {
            return Err(BadToken::Algorithm);
        }
        let (message, signature) = self.token.rsplit_once('.').ok_or(BadToken::Malformed)?;
        if key.signed(message, signature) { Ok(()) } else { Err(BadToken::Signature) }
    }

    /// Everything cheap: what it says against what it must say.
    ///
    /// # Errors
    /// [`BadToken`].
    pub fn judge(&self, expected: &Expected, now: Timestamp) -> Result<Claims, BadToken> {
        judge(self.claims.clone(), expected, now)
    }
}
