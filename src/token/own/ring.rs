//! Our own keys, kept with the store. One decision: what a key may do is a function of the time it becomes active and of the one
//! that comes after it, and of nothing else, so that all nodes agree without talking; a key is published before it signs and
//! verifies until the last token it made is over. Nobody is signed out by a rotation. Knows nothing of claims.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clock::Timestamp;
use crate::session::{Keep, Sessions, ShelfKey, StoreError};
use crate::token::keys::{Algorithm, KeySet};
use crate::token::seal::Sealer;

/// How long a set may be kept by those who verify with it.
pub const PUBLISHED_FOR: Duration = Duration::from_secs(600);
/// A new key is published for so long before it signs: whoever kept the set of before has asked again by then.
pub const PENDING: Duration = Duration::from_secs(660);
/// The longest life of a token that is made with these keys; a key verifies for so long after it signed last.
pub const RETIRING: Duration = Duration::from_secs(16 * 60);
/// How often the shelf is looked at, for keys that another node made.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// A token of an unknown key makes us look at most so often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Shelf records have an end; every rotation moves it on.
const KEPT: Duration = Duration::from_secs(10 * 365 * 86_400);
const PLACE: [&[u8]; 1] = [b"portcullis/ring/1"];
/// A lost race is tried again.
const TRIES: usize = 8;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Sealing what only gateways read.
    Seal,
    /// Signing what others verify.
    Sign,
}

/// What a key may do at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Published; makes nothing yet.
    Pending,
    /// Makes and verifies.
    Active,
    /// Verifies what it made.
    Retiring,
    /// Nothing.
    Gone,
}

/// A key as it lies on the shelf, sealed.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    id: String,
    purpose: Purpose,
    /// The algorithm's name; empty for sealing.
    algorithm: String,
    active_from: Timestamp,
    /// 32 random bytes, or a private key in PKCS#8.
    secret: String,
}

/// A key as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Its name.
    pub id: String,
    /// What for.
    pub purpose: Purpose,
    /// Its state.
    pub state: State,
    /// When it becomes or became active, in milliseconds since 1970.
    pub active_from: Timestamp,
}

/// A key, ready to be used.
pub(super) struct OwnKey {
    pub(super) id: String,
    purpose: Purpose,
    active_from: Timestamp,
    pub(super) sealer: Option<Sealer>,
    pub(super) signer: Option<(Algorithm, EncodingKey)>,
    public: Option<Value>,
}

/// All keys at one version of the shelf.
#[derive(Default)]
struct Ring {
    version: u64,
    keys: Vec<Arc<OwnKey>>,
    verifying: KeySet,
    /// The public set as it is published, and a name for this very text.
    published: (String, String),
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system's generator.
    #[error("the random generator failed")]
    Random,
    /// The record on the shelf was made with another secret.
    #[error("the keys of tokens in the store do not open with this secret")]
    Foreign,
    /// Others were always faster.
    #[error("other nodes changed the keys of tokens at the same time")]
    Contended,
}

/// The store has been away since the start.
#[derive(Debug, thiserror::Error)]
#[error("the keys of tokens were not read yet")]
struct NotFound;

/// The keys of this gateway, all its nodes.
pub struct KeyRing {
    sessions: Arc<Sessions>,
    wrap: Sealer,
    algorithm: Algorithm,
    current: ArcSwap<Ring>,
    looked: AtomicU64,
}

fn place() -> ShelfKey {
    ShelfKey::of("token keys", b"")
}

impl KeyRing {
    /// No keys yet. `wrap` is the key that they are sealed with on the shelf.
    pub fn new(sessions: Arc<Sessions>, wrap: [u8; 32], algorithm: Algorithm) -> KeyRing {
        let (current, looked) = (ArcSwap::from_pointee(Ring::default()), AtomicU64::new(0));
        KeyRing { sessions, wrap: Sealer::new(&wrap), algorithm, current, looked }
    }

    /// One with the keys on the shelf.
    ///
    /// # Errors
    /// [`RingError`].
    pub async fn open(
        sessions: Arc<Sessions>,
        wrap: [u8; 32],
        algorithm: Algorithm,
        now: Timestamp,
    ) -> Result<KeyRing, RingError> {
        let ring = KeyRing::new(sessions, wrap, algorithm);
        ring.find(now).await?;
        Ok(ring)
    }

    /// Find the keys on the shelf, or make the first.
    ///
    /// # Errors
    /// [`RingError`].
    pub async fn find(&self, now: Timestamp) -> Result<(), RingError> {
        for _ in 0..TRIES {
            if let Some((version, kept)) = self.kept(now).await? {
                self.put(version, &kept)?;
                let keys = &self.current.load().keys;
                // Another algorithm was configured: a key for it comes in as any new one does.
                if !keys.iter().any(|key| key.signer.as_ref().is_some_and(|(of, _)| *of == self.algorithm)) {
                    self.rotate(now).await?;
                }
                return Ok(());
            }
            let first = [self.make(Purpose::Seal, now)?, self.make(Purpose::Sign, now)?];
            if let Some(version) = self.write(None, &first, now).await? {
                return self.put(version, &first);
            }
        }
        Err(RingError::Contended)
    }

    /// Whether the keys were found. Before that nothing is made or read, and nobody's token is called bad for it.
    ///
    /// # Errors
    /// [`StoreError`]: the store did not answer since the start.
    pub fn found(&self) -> Result<(), StoreError> {
        if self.current.load().keys.is_empty() { Err(StoreError::Unavailable(Box::new(NotFound))) } else { Ok(()) }
    }

    /// The same, after one more look.
    pub(super) async fn found_now(&self, now: Timestamp) -> Result<(), StoreError> {
        if self.found().is_err() {
            self.look(now).await;
        }
        self.found()
    }

    async fn kept(&self, now: Timestamp) -> Result<Option<(u64, Vec<Kept>)>, RingError> {
        let Some(record) = self.sessions.kept(place(), now).await? else { return Ok(None) };
        let plain = self.wrap.open(&PLACE, &record.bytes).ok_or(RingError::Foreign)?;
        Ok(Some((record.version, serde_json::from_slice(&plain).map_err(|_| RingError::Foreign)?)))
    }

    async fn write(&self, over: Option<u64>, keys: &[Kept], now: Timestamp) -> Result<Option<u64>, RingError> {
        let plain = serde_json::to_vec(keys).map_err(|_| RingError::Random)?;
        let bytes = self.wrap.seal(&PLACE, &plain).ok_or(RingError::Random)?;
        Ok(self.sessions.keep(Keep { key: place(), over, bytes, until: now.plus(KEPT) }, now).await?)
    }

    fn make(&self, purpose: Purpose, active_from: Timestamp) -> Result<Kept, RingError> {
        let mut id = [0; 6];
        rand::fill(&mut id).map_err(|_| RingError::Random)?;
        let mut secret = [0; 32];
        let (algorithm, secret) = match (purpose, self.algorithm) {
            (Purpose::Seal, _) => {
                rand::fill(&mut secret).map_err(|_| RingError::Random)?;
                (String::new(), secret.to_vec())
            }
            (Purpose::Sign, Algorithm::EdDsa) => {
                let pair = Ed25519KeyPair::generate_pkcs8(&rand::SystemRandom::new());
                (Algorithm::EdDsa.name().to_owned(), pair.map_err(|_| RingError::Random)?.as_ref().to_vec())
            }
            (Purpose::Sign, _) => {
                let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rand::SystemRandom::new());
                (Algorithm::Es256.name().to_owned(), pair.map_err(|_| RingError::Random)?.as_ref().to_vec())
            }
        };
        let id = URL_SAFE_NO_PAD.encode(id);
        Ok(Kept { id, purpose, algorithm, active_from, secret: URL_SAFE_NO_PAD.encode(secret) })
    }

    fn put(&self, version: u64, kept: &[Kept]) -> Result<(), RingError> {
        let keys =
            kept.iter().map(|key| ready(key).map(Arc::new)).collect::<Option<Vec<_>>>().ok_or(RingError::Foreign)?;
        let public: Vec<&Value> = keys.iter().filter_map(|key| key.public.as_ref()).collect();
        let text = json!({ "keys": public }).to_string();
        let verifying = KeySet::from_jwks(text.as_bytes(), &[Algorithm::Es256, Algorithm::EdDsa]).unwrap_or_default();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        let name = format!("\"{}\"", URL_SAFE_NO_PAD.encode(&digest.as_ref()[..12]));
        self.current.store(Arc::new(Ring { version, keys, verifying, published: (text, name) }));
        Ok(())
    }

    /// Look at the shelf again, where that is due: an unknown key may be another node's new one.
    pub(super) async fn look(&self, now: Timestamp) {
        let last = self.looked.load(Ordering::SeqCst);
        // Counted from the last look, not from the last that was asked for: under traffic there would never be one.
        let is_due = now.since(Timestamp(last)) >= LOOK_AGAIN;
        if is_due && self.looked.compare_exchange(last, now.0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.refresh(now).await;
        }
    }

    async fn refresh(&self, now: Timestamp) {
        if self.found().is_err() {
            match self.find(now).await {
                Ok(()) => tracing::info!("the keys of tokens were found"),
                // The outage was told of when it began.
                Err(RingError::Store(_)) => {}
                Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "there are no keys of tokens"),
            }
            return;
        }
        match self.kept(now).await {
            Ok(Some((version, kept))) if version != self.current.load().version => {
                if self.put(version, &kept).is_err() {
                    tracing::error!("the keys of tokens in the store cannot be read; the last ones stand");
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "keys of tokens could not be read anew")
            }
        }
    }

    /// Look at the shelf until told to stop.
    pub async fn maintain(&self, clock: &dyn crate::clock::Clock, stop: &tokio_util::sync::CancellationToken) {
        loop {
            let pause = if self.found().is_ok() { LOOK_EVERY } else { LOOK_AGAIN };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => self.refresh(clock.now()).await,
            }
        }
    }

    /// Make new keys, which sign when everybody knows them, and forget those that nobody needs any more. While new ones are
    /// pending nothing is added: asking twice is asking once.
    ///
    /// # Errors
    /// [`RingError`].
    pub async fn rotate(&self, now: Timestamp) -> Result<Vec<Shown>, RingError> {
        for _ in 0..TRIES {
            let Some((version, mut kept)) = self.kept(now).await? else { return Err(RingError::Contended) };
            let times: Vec<(Purpose, Timestamp)> = kept.iter().map(|key| (key.purpose, key.active_from)).collect();
            let mut index = 0;
            kept.retain(|_| {
                index += 1;
                state(&times, index - 1, now) != State::Gone
            });
            if !kept.iter().any(|key| key.active_from > now) {
                kept.push(self.make(Purpose::Seal, now.plus(PENDING))?);
                kept.push(self.make(Purpose::Sign, now.plus(PENDING))?);
            }
            if let Some(version) = self.write(Some(version), &kept, now).await? {
                self.put(version, &kept)?;
                return Ok(self.list(now));
            }
        }
        Err(RingError::Contended)
    }

    /// All keys and what they may do.
    pub fn list(&self, now: Timestamp) -> Vec<Shown> {
        let ring = self.current.load();
        let times = ring.times();
        let shown = |(index, key): (usize, &Arc<OwnKey>)| Shown {
            id: key.id.clone(),
            purpose: key.purpose,
            state: state(&times, index, now),
            active_from: key.active_from,
        };
        ring.keys.iter().enumerate().map(shown).collect()
    }

    /// The key that makes tokens now. Where it is none's turn yet it is the first one's: another node made it, whose clock is ahead, and
    /// there is no older set that anybody could have kept.
    pub(super) fn active(&self, purpose: Purpose, now: Timestamp) -> Option<Arc<OwnKey>> {
        let ring = self.current.load();
        let keys = || ring.keys.iter().filter(|key| key.purpose == purpose);
        let usable = keys().filter(|key| key.active_from <= now).max_by_key(|key| key.active_from);
        usable.or_else(|| keys().min_by_key(|key| key.active_from)).cloned()
    }

    /// A key by its name, as long as it may verify.
    pub(super) fn named(&self, id: &str, now: Timestamp) -> Option<Arc<OwnKey>> {
        let ring = self.current.load();
        let index = ring.keys.iter().position(|key| key.id == id)?;
        (state(&ring.times(), index, now) != State::Gone).then(|| ring.keys[index].clone())
    }

    /// The public keys, to verify with.
    pub(super) fn verifying<T>(&self, use_them: impl FnOnce(&KeySet) -> T) -> T {
        use_them(&self.current.load().verifying)
    }

    /// The public set as others get it (RFC 7517 §5), and its `ETag`.
    pub fn published(&self) -> (String, String) {
        self.current.load().published.clone()
    }
}

impl Ring {
    fn times(&self) -> Vec<(Purpose, Timestamp)> {
        self.keys.iter().map(|key| (key.purpose, key.active_from)).collect()
    }
}

/// What the key at `index` may do, by when it and the others of its purpose become active.
fn state(keys: &[(Purpose, Timestamp)], index: usize, now: Timestamp) -> State {
    let (purpose, from) = keys[index];
    if now < from {
        return State::Pending;
    }
    let after = keys.iter().enumerate().filter(|(other, key)| key.0 == purpose && (key.1, *other) > (from, index));
    let next = after.map(|(_, key)| key.1).min();
    match next {
        Some(next) if now >= next.plus(RETIRING) => State::Gone,
        Some(next) if now >= next => State::Retiring,
        _ => State::Active,
    }
}

fn ready(kept: &Kept) -> Option<OwnKey> {
    let secret = URL_SAFE_NO_PAD.decode(&kept.secret).ok()?;
    let (mut sealer, mut signer, mut public) = (None, None, None);
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (id, algorithm) = (kept.id.clone(), kept.algorithm.as_str());
    match (kept.purpose, Algorithm::named(algorithm)) {
        (Purpose::Seal, _) => sealer = Some(Sealer::new(secret.as_slice().try_into().ok()?)),
        (Purpose::Sign, Some(Algorithm::EdDsa)) => {
            let pair = Ed25519KeyPair::from_pkcs8(&secret).ok()?;
            let x = text(pair.public_key().as_ref());
            public = Some(json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": algorithm, "kid": id, "x": x }));
            signer = Some((Algorithm::EdDsa, EncodingKey::from_ed_der(&secret)));
        }
        (Purpose::Sign, Some(Algorithm::Es256)) => {
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &secret).ok()?;
            let (x, y) = pair.public_key().as_ref().get(1..)?.split_at(32);
            let (x, y) = (text(x), text(y));
            let key = json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": algorithm, "kid": id, "x": x, "y": y });
            public = Some(key);
            signer = Some((Algorithm::Es256, EncodingKey::from_ec_der(&secret)));
        }
        (Purpose::Sign, _) => return None,
    }
    Some(OwnKey { id, purpose: kept.purpose, active_from: kept.active_from, sealer, signer, public })
}

#[cfg(test)]
mod tests {
    use super::{PENDING, Purpose, RETIRING, State, state};
    use crate::clock::Timestamp;

    #[test]
    fn a_key_is_published_before_it_signs_and_verifies_until_its_last_token_is_over() {
        let (first, second) = (Timestamp(1_000_000), Timestamp(1_000_000).plus(PENDING));
        let keys = [(Purpose::Sign, first), (Purpose::Seal, first), (Purpose::Sign, second)];
        let states = |now| [0, 1, 2].map(|index| state(&keys, index, now));
        use State::{Active, Gone, Pending, Retiring};
        assert_eq!(states(Timestamp(first.0 - 1)), [Pending, Pending, Pending]);
        assert_eq!(states(first), [Active, Active, Pending]);
        assert_eq!(states(Timestamp(second.0 - 1)), [Active, Active, Pending]);
        assert_eq!(states(second), [Retiring, Active, Active]);
        assert_eq!(states(Timestamp(second.plus(RETIRING).0 - 1)), [Retiring, Active, Active]);
        assert_eq!(states(second.plus(RETIRING)), [Gone, Active, Active]);
    }
}
