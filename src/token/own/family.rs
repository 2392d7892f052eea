//! Refresh tokens, and the family that one descends from the other in (RFC 9700 §4.14.2). One decision: a token is good once; the
//! one before it is good until its successor is handed over and for a moment more, and gives the very same one, because browsers
//! ask with several tabs at once and answers come late or get lost; any older one is stolen goods and ends the family. Knows nothing
//! of access tokens nor of answers.

use std::time::Duration;

use aws_lc_rs::{constant_time, digest, hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::session::{Keep, SessionKey, Sessions, ShelfKey, StoreError};
use crate::token::seal::Sealer;

/// Of the second, the secret ends with how many came before it.
const VERSION: u8 = 2;
const WITHOUT_TURN: u8 = 1;
const SECRET_BYTES: usize = 32;
const MAC_BYTES: usize = 16;
const PLAIN_BYTES: usize = 1 + 16 + SECRET_BYTES;
const VALUE_BYTES: usize = PLAIN_BYTES + MAC_BYTES;
/// 65 bytes in base64 without padding.
const VALUE_CHARACTERS: usize = 87;
/// Somebody else was faster: what they wrote is read, and says what to do. More often than this it is no race.
const TRIES: usize = 16;

/// A family as it lies on the shelf: hashes alone, and the successor sealed with what only the holder of its predecessor has.
#[derive(Clone, Serialize, Deserialize)]
struct Family {
    current: [u8; 32],
    previous: Option<[u8; 32]>,
    /// For earlier versions, which count from here.
    rotated: Timestamp,
    successor: Vec<u8>,
    /// When `current` was first handed over.
    #[serde(default)]
    handed: Option<Timestamp>,
    /// How many came before `current`.
    #[serde(default)]
    turn: u32,
}

/// A refresh token, taken apart.
pub(super) struct Refresh {
    /// Whose.
    pub(super) key: SessionKey,
    secret: [u8; SECRET_BYTES],
    turn: u32,
}

/// What came of a refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turned {
    /// The next one, and when it was handed over already.
    Next(String, Option<Timestamp>),
    /// Used before: the family is over.
    Reused,
    /// There is no such family (any more).
    Gone,
}

/// Makes, reads and rotates refresh tokens.
pub(super) struct Families {
    mac: hmac::Key,
    grace: Duration,
}

impl Families {
    /// The grace counts from the moment a token is handed over.
    pub(super) fn new(key: &[u8; 32], grace: Duration) -> Families {
        Families { mac: hmac::Key::new(hmac::HMAC_SHA256, key), grace }
    }

    /// How long the token before the last is good when that was handed over.
    pub(super) fn grace(&self) -> Duration {
        self.grace
    }

    /// Take one apart; `None` where it is none of ours. The store is not asked about garbage.
    pub(super) fn read(&self, token: &str) -> Option<Refresh> {
        if token.len() != VALUE_CHARACTERS {
            return None;
        }
        let mut value = [0; VALUE_BYTES];
        let written = URL_SAFE_NO_PAD.decode_slice(token, &mut value).ok()?;
        if written != VALUE_BYTES || ![VERSION, WITHOUT_TURN].contains(&value[0]) {
            return None;
        }
        constant_time::verify_slices_are_equal(&self.tag(&value[..PLAIN_BYTES]), &value[PLAIN_BYTES..]).ok()?;
        let (mut key, mut secret) = ([0; 16], [0; SECRET_BYTES]);
        key.copy_from_slice(&value[1..17]);
        secret.copy_from_slice(&value[17..PLAIN_BYTES]);
        let turn = if value[0] == VERSION { turn_of(&secret) } else { 0 };
        Some(Refresh { key: SessionKey(key), secret, turn })
    }

    fn write(&self, key: SessionKey, secret: &[u8; SECRET_BYTES]) -> String {
        let mut value = [0; VALUE_BYTES];
        value[0] = VERSION;
        value[1..17].copy_from_slice(&key.0);
        value[17..PLAIN_BYTES].copy_from_slice(secret);
        let mac = self.tag(&value[..PLAIN_BYTES]);
        value[PLAIN_BYTES..].copy_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(value)
    }

    fn tag(&self, plain: &[u8]) -> [u8; MAC_BYTES] {
        let mut short = [0; MAC_BYTES];
        short.copy_from_slice(&hmac::sign(&self.mac, plain).as_ref()[..MAC_BYTES]);
        short
    }

    /// Found a family for a session that was just begun.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn found(
        &self,
        sessions: &Sessions,
        key: SessionKey,
        ends: Timestamp,
        now: Timestamp,
    ) -> Result<String, StoreError> {
        let secret = fresh(0)?;
        let (current, successor) = (hash(&secret), Vec::new());
        let family = Family { current, previous: None, rotated: now, successor, handed: None, turn: 0 };
        // A session's key is random: nobody was here before.
        match keep(sessions, key, None, &family, ends, now).await? {
            Some(_) => Ok(self.write(key, &secret)),
            None => Err(StoreError::Unavailable("a family of this session exists already".into())),
        }
    }

    /// Turn a token into the next one. Of any number that come at once with the same token, one makes the successor and the
    /// others get it. One that comes later in the family than the last that the store knows of is ours all the same: a failover or an
    /// older copy of its data lost what was written since, and nobody stole anything.
    ///
    /// # Errors
    /// [`StoreError`]; then the token is as good as before.
    pub(super) async fn turn(
        &self,
        sessions: &Sessions,
        token: &Refresh,
        now: Timestamp,
    ) -> Result<Turned, StoreError> {
        let (presented, place) = (hash(&token.secret), place(token.key));
        for _ in 0..TRIES {
            let Some(kept) = sessions.kept(place, now).await? else { return Ok(Turned::Gone) };
            let family = family(&kept.bytes)?;
            let lost = token.turn > family.turn;
            if lost {
                tracing::warn!(session = ?token.key, "the store has lost the turning of a refresh token; it is good once more");
            }
            if family.current != presented && !lost {
                let in_grace = family.previous == Some(presented) && self.in_grace(&family, now);
                let successor = in_grace.then(|| sealer(&token.secret).open(&[], &family.successor)).flatten();
                let next = successor.and_then(|secret| secret.try_into().ok());
                return Ok(
                    next.map_or(Turned::Reused, |secret| Turned::Next(self.write(token.key, &secret), family.handed))
                );
            }
            let turn = token.turn.max(family.turn).saturating_add(1);
            let secret = fresh(turn)?;
            let successor = sealer(&token.secret).seal(&[], &secret).ok_or_else(random)?;
            let current = hash(&secret);
            let turned = Family { current, previous: Some(presented), rotated: now, successor, handed: None, turn };
            if keep(sessions, token.key, Some(kept.version), &turned, kept.until, now).await?.is_some() {
                return Ok(Turned::Next(self.write(token.key, &secret), None));
            }
        }
        Err(StoreError::Unavailable("others were always faster".into()))
    }

    /// What was not handed over is nobody's: whoever comes with its predecessor has lost nothing and stolen nothing, however long that
    /// was ago. A thief who keeps its answer waiting hides behind that until somebody else is handed it, and then gets it no more.
    fn in_grace(&self, family: &Family, now: Timestamp) -> bool {
        family.handed.is_none_or(|handed| now.since(handed) <= self.grace)
    }

    /// Write down that a token is handed over now, where nobody has; whether it may be: for others it is as long as the grace lasts, and
    /// never when it was used.
    ///
    /// # Errors
    /// [`StoreError`]; then its predecessor is good until the token is used.
    pub(super) async fn hand(&self, sessions: &Sessions, token: &Refresh, at: Timestamp) -> Result<bool, StoreError> {
        let current = hash(&token.secret);
        for _ in 0..TRIES {
            let Some(kept) = sessions.kept(place(token.key), at).await? else { return Ok(false) };
            let family = family(&kept.bytes)?;
            if family.current != current || family.handed.is_some() {
                return Ok(family.current == current && self.in_grace(&family, at));
            }
            let family = Family { handed: Some(at), ..family };
            if keep(sessions, token.key, Some(kept.version), &family, kept.until, at).await?.is_some() {
                return Ok(true);
            }
        }
        Err(StoreError::Unavailable("others were always faster".into()))
    }
}

fn family(bytes: &[u8]) -> Result<Family, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Corrupt(Box::new(error)))
}

fn place(key: SessionKey) -> ShelfKey {
    ShelfKey::of("refresh family", &key.0)
}

async fn keep(
    sessions: &Sessions,
    key: SessionKey,
    over: Option<u64>,
    family: &Family,
    until: Timestamp,
    now: Timestamp,
) -> Result<Option<u64>, StoreError> {
    let bytes = serde_json::to_vec(family).map_err(|error| StoreError::Corrupt(Box::new(error)))?;
    sessions.keep(Keep { key: place(key), over, bytes, until }, now).await
}

/// A plain hash is enough of 224 random bits: there is nothing to guess.
fn hash(secret: &[u8; SECRET_BYTES]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, secret).as_ref());
    hash
}

/// Who reads the store alone must not come by a token that works: the key is the token before it.
fn sealer(secret: &[u8; SECRET_BYTES]) -> Sealer {
    let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"portcullis/successor/1");
    let mut bytes = [0; 32];
    bytes.copy_from_slice(key.as_ref());
    Sealer::new(&bytes)
}

/// 28 random bytes, and the turn.
fn fresh(turn: u32) -> Result<[u8; SECRET_BYTES], StoreError> {
    let mut secret = [0; SECRET_BYTES];
    rand::fill(&mut secret).map_err(|_| random())?;
    secret[SECRET_BYTES - 4..].copy_from_slice(&turn.to_be_bytes());
    Ok(secret)
}

fn turn_of(secret: &[u8; SECRET_BYTES]) -> u32 {
    secret.last_chunk().map_or(0, |last| u32::from_be_bytes(*last))
}

fn random() -> StoreError {
    StoreError::Unavailable("the random generator failed".into())
}
