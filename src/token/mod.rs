//! Tokens: bearer tokens that somebody else signed, verified once.
//!
//! One decision: what is remembered is a fact about bytes – who signed them and what they say – never a decision: times, keys and
//! revocation are compared on every request. jsonwebtoken stays inside this room. It knows nothing of routes, and of HTTP only
//! where keys are fetched from.

mod asks;
mod assertion;
mod cache;
mod claims;
mod jwks;
mod keys;
mod limit;
mod own;
mod recent;
mod seal;
mod turns;
mod verify;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Timestamp};
use crate::policy::{BadToken, Caller, IdentityHeaders, RoleNames};
use crate::session::{Bearer, Sessions, StoreError, TokenId, UserKey};
use crate::task::task;

use cache::{Cache, Digest, digest_of};
use turns::in_turn;

pub use assertion::{Assertion, AssertionKeyError};
pub use cache::Verified;
pub use claims::{Claims, Expected, Mapping, Object, Span, find, values};
pub use jwks::{Away, Brought, Keys, KeysError, Source};
pub use keys::{Algorithm, Key, KeyError, KeySet};
pub use limit::Failing;
pub use own::{Current, Format, Handing, Learnt, OwnSettings, OwnTokens, Pair, SignedIdentities, Tell, Telling, ring};
pub use recent::Recent;
pub use seal::Sealer;
pub use verify::{Presented, TOKEN_BYTES};

/// Sign, verify and tamper once. A library built without its cryptography panics at the first use, or would let everything pass:
/// better before the first request than at it.
///
/// # Errors
/// What did not hold.
pub fn self_test() -> Result<(), &'static str> {
    let secret = [7; 32];
    let key = KeySet::one(Key::from_secret(&secret).map_err(|_| "the key of the self-test is refused")?);
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    let claims = serde_json::json!({ "iss": "self-test", "aud": "self-test", "exp": 1 });
    let signed = jsonwebtoken::encode(&header, &claims, &jsonwebtoken::EncodingKey::from_secret(&secret));
    let token = signed.map_err(|_| "a token could not be signed")?;
    let verdict = |token: &str| Presented::parse(token).and_then(|presented| presented.verify(&key));
    let end = token.len() - 5;
    let other = if token.as_bytes()[end] == b'A' { "B" } else { "A" };
    let tampered = format!("{}{other}{}", &token[..end], &token[end + 1..]);
    match (verdict(&token), verdict(&tampered)) {
        (Ok(()), Err(BadToken::Signature)) => Ok(()),
        (Ok(()), _) => Err("a token that was changed is accepted"),
        (Err(_), _) => Err("a token that was just signed is refused"),
    }
}

/// Why a token lets nobody in.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It does not hold.
    #[error("the token does not hold: {}", .0.as_str())]
    Bad(BadToken),
    /// Too many bad signatures came from this address.
    #[error("too many tokens of this address failed")]
    TooManyFailures,
    /// Revocations may have been missed: nobody can say that it was not revoked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The issuer's keys could not be had: nobody can say whether it holds.
    #[error("the keys of {issuer} could not be had")]
    Unavailable {
        /// Whose.
        issuer: String,
    },
}

impl From<BadToken> for TokenError {
    fn from(bad: BadToken) -> TokenError {
        TokenError::Bad(bad)
    }
}

/// What is accepted of one issuer.
pub struct Verifier {
    /// What its tokens must say.
    pub expected: Expected,
    /// `typ` of its tokens.
    pub kinds: Vec<String>,
    /// Who its tokens make of their bearers.
    pub mapping: Mapping,
    /// Its keys.
    pub keys: Arc<Keys>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("issuer", &self.expected.issuer).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Whether it would take the same tokens, from the same keys, for the same people.
    fn is_like(&self, other: &Verifier) -> bool {
        let terms = |of: &Verifier| (of.expected.clone(), of.kinds.clone(), of.mapping.clone());
        terms(self) == terms(other) && self.keys.are_from_where(&other.keys)
    }
}

/// All issuers.
pub struct Tokens {
    verifiers: Vec<Arc<Verifier>>,
    sessions: Arc<Sessions>,
    roles: RoleNames,
    headers: IdentityHeaders,
    cache: Cache,
    failing: Arc<Failing>,
}

impl Tokens {
    /// Tokens of these issuers; `entries` of them are remembered. What is revoked, `sessions` know.
    pub fn new(
        verifiers: Vec<Verifier>,
        sessions: Arc<Sessions>,
        roles: RoleNames,
        headers: IdentityHeaders,
        entries: u64,
    ) -> Tokens {
        let verifiers = verifiers.into_iter().map(Arc::new).collect();
        Tokens { verifiers, sessions, roles, headers, cache: Cache::new(entries), failing: Arc::default() }
    }

    /// Go on where those of the configuration before were: with the keys that were learnt, and with what is held against whoever sends
    /// bad ones – a file that is read again forgives nobody. What was verified is not taken over: its roles are bits whose meaning is
    /// the old file's.
    pub fn inherit(&mut self, old: &Tokens) {
        self.failing = old.failing.clone();
        for verifier in &self.verifiers {
            if let Some(old) = old.of_issuer(&verifier.expected.issuer) {
                verifier.keys.inherit(&old.keys);
            }
        }
    }

    /// Who a token's bearer is here: the same where it was verified here; where it was before the file was read again, by the names of
    /// its roles, and nobody where its issuer's terms are others now.
    pub fn caller_of(&self, verified: &Verified) -> Option<Arc<Caller>> {
        let verifier = self.of_issuer(&verified.verifier.expected.issuer)?;
        if Arc::ptr_eq(verifier, &verified.verifier) {
            return Some(verified.caller.clone());
        }
        if !verifier.is_like(&verified.verifier) {
            return None;
        }
        let mut identity = verified.caller.identity.clone();
        identity.roles = self.roles.set(identity.role_names.iter().map(String::as_str));
        identity.role_names = self.roles.names(identity.roles).map(str::to_owned).collect();
        Some(Arc::new(self.headers.caller(identity)))
    }

    /// Forget what was verified, and give the room back.
    pub fn forget(&self) {
        self.cache.verified.forget_all();
    }

    fn of_issuer(&self, issuer: &str) -> Option<&Arc<Verifier>> {
        self.verifiers.iter().find(|verifier| verifier.expected.issuer == issuer)
    }

    /// Whose token this is, where this worker saw these very bytes not long ago; `None`: it has to be verified.
    pub fn remembered(
        &self,
        recent: &Recent<Verified>,
        token: &str,
        now: Timestamp,
    ) -> Option<Result<Arc<Verified>, TokenError>> {
        let entry = recent.find(token).filter(|entry| entry.verifier.keys.generation() == entry.generation)?;
        Some(self.judge(entry, now))
    }

    /// Whose token this is. Answered from memory where these very bytes were verified before.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn verify(&self, token: &str, client: IpAddr, now: Timestamp) -> Result<Arc<Verified>, TokenError> {
        if token.len() > TOKEN_BYTES {
            return Err(BadToken::TooLarge.into());
        }
        let digest = digest_of(token);
        if let Some(entry) = self.cache.verified.get(&digest) {
            if entry.verifier.keys.generation() == entry.generation {
                return self.judge(entry, now);
            }
            // Verified under keys that are no more: perhaps not under these.
            self.cache.verified.forget(&digest);
        }
        let entry = Arc::new(self.fresh(token, &digest, client, now).await?);
        self.cache.verified.put(digest, entry.clone());
        self.judge(entry, now)
    }

    /// What changes while the bytes stay the same: time, and what was revoked – a token by its id, everything of its bearer from
    /// before some moment, everything of everybody.
    fn judge(&self, entry: Arc<Verified>, now: Timestamp) -> Result<Arc<Verified>, TokenError> {
        entry.span.check(now)?;
        if self.sessions.confirm_bearer(&entry.bearer)? { Ok(entry) } else { Err(BadToken::Revoked.into()) }
    }

    async fn fresh(
        &self,
        token: &str,
        digest: &Digest,
        client: IpAddr,
        now: Timestamp,
    ) -> Result<Verified, TokenError> {
        let presented = Presented::parse(token)?;
        let verifier = presented.issuer().and_then(|issuer| self.of_issuer(issuer)).ok_or(BadToken::Issuer)?;
        let index = self.verifiers.iter().position(|other| Arc::ptr_eq(other, verifier)).unwrap_or_default();
        if !presented.is_any(&verifier.kinds) {
            return Err(BadToken::Kind.into());
        }
        let claims = presented.judge(&verifier.expected, now)?;
        if claims.is_bound() {
            return Err(BadToken::Bound.into());
        }
        let generation = self.signed(&presented, (index, verifier), digest, client, now).await?;
        let identity = verifier.mapping.identity(&claims.all, &self.roles)?;
        // What was revoked stays so, whatever applications are told from now on.
        let subject = verifier.mapping.subject(&claims.all)?;
        let caller = Arc::new(self.headers.caller(identity));
        let issuer = &verifier.expected.issuer;
        let user = UserKey::of(issuer, subject);
        let id = claims.id.as_deref().map(|jti| TokenId::of(issuer, jti));
        let span = claims.span;
        // By a clock that may be ahead of ours, and no later: what was there when its bearer's tokens were revoked is among them.
        let issued = claims.issued.minus(verifier.expected.leeway);
        let bearer = Bearer { id, user, issued, ends: span.until };
        Ok(Verified { caller, bearer, span, verifier: verifier.clone(), generation })
    }

    /// Verify the signature; answers under which generation of keys it holds.
    async fn signed(
        &self,
        presented: &Presented<'_>,
        (index, verifier): (usize, &Verifier),
        digest: &Digest,
        client: IpAddr,
        now: Timestamp,
    ) -> Result<u64, TokenError> {
        let mut asked = false;
        loop {
            let generation = verifier.keys.current().number;
            if self.cache.failed(digest, index, generation) {
                return Err(BadToken::Signature.into());
            }
            // Asked when it is its turn: of those that came with it many may have failed by then.
            let compute = || {
                let keys = verifier.keys.current();
                (!self.failing.is_blocked(client, now)).then(|| (presented.verify(&keys.set), keys.number))
            };
            let Some((verdict, generation)) = in_turn(compute).await else { return Err(TokenError::TooManyFailures) };
            match verdict {
                Ok(()) => return Ok(generation),
                // A new name, or a key that was exchanged under its name or without one.
                Err(bad @ (BadToken::UnknownKey | BadToken::Signature | BadToken::Algorithm)) if !asked => {
                    asked = true;
                    let unknown = (presented.key_id(), Brought::ByAnybody);
                    if !verifier.keys.ask_for_unknown(unknown, generation, now).await {
                        if bad == BadToken::Signature {
                            self.failing.failed(client, now);
                        }
                        return Err(TokenError::Unavailable { issuer: verifier.expected.issuer.clone() });
                    }
                    if generation == verifier.keys.generation() {
                        return Err(self.bad(bad, digest, (index, generation), client, now));
                    }
                }
                Err(bad) => return Err(self.bad(bad, digest, (index, generation), client, now)),
            }
        }
    }

    /// Remember what does not hold, so that it is not computed again, and count it.
    fn bad(
        &self,
        bad: BadToken,
        digest: &Digest,
        (index, generation): (usize, u64),
        client: IpAddr,
        now: Timestamp,
    ) -> TokenError {
        if bad == BadToken::Signature {
            self.cache.remember_failure(*digest, index, generation);
            self.failing.failed(client, now);
        }
        bad.into()
    }

    /// Whose tokens are accepted.
    pub fn issuers(&self) -> impl Iterator<Item = &str> {
        self.verifiers.iter().map(|verifier| verifier.expected.issuer.as_str())
    }

    /// How long from now on any token of this issuer can count; `None` where none of its are accepted. The leeway is there twice: its clock
    /// may be ahead when it begins, and ours when it ends.
    pub fn longest_of(&self, issuer: &str) -> Option<Duration> {
        self.of_issuer(issuer).map(|verifier| verifier.expected.longest + 2 * verifier.expected.leeway)
    }

    /// Keep all keys fresh until told to stop.
    pub async fn maintain(&self, clock: Arc<dyn Clock>, stop: CancellationToken) {
        let mut tasks = tokio::task::JoinSet::new();
        for verifier in &self.verifiers {
            tasks.spawn(task(verifier.keys.clone().maintain(clock.clone(), stop.clone())));
        }
        while tasks.join_next().await.is_some() {}
    }
}
