//! Tokens that were verified. One decision: the key is a digest of every byte of the token, and an entry names the key set it was
//! verified under, so that a hit says what verifying anew would say; times and revocation are compared on every hit, outside.
//! Failures have a small table of fixed size, because whoever fails chooses the bytes.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};

use crate::memory::{Key, Memory};
use crate::policy::Caller;
use crate::session::Bearer;

use super::Verifier;
use super::claims::Span;

/// Slots of the table of failures.
const FAILURES: usize = 1024;

/// A token, by its bytes.
pub(super) type Digest = Key;

/// The digest of a token.
pub(super) fn digest_of(token: &str) -> Digest {
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    key
}

/// What verifying a token said.
#[derive(Debug)]
pub struct Verified {
    /// Who calls, with their header lines.
    pub caller: Arc<Caller>,
    /// What revocation knows it by.
    pub bearer: Bearer,
    /// When it counts.
    pub(super) span: Span,
    /// Which verifier.
    pub(super) verifier: Arc<Verifier>,
    /// Under which of its key sets.
    pub(super) generation: u64,
}

type Failure = (Digest, usize, u64);

/// Tokens of others.
pub(super) struct Cache {
    pub(super) verified: Memory<Verified>,
    failures: Box<[Mutex<Option<Failure>>]>,
}

impl Cache {
    pub(super) fn new(entries: u64) -> Cache {
        Cache { verified: Memory::new(entries), failures: (0..FAILURES).map(|_| Mutex::new(None)).collect() }
    }

    /// Whether this very token failed under this very key set.
    pub(super) fn failed(&self, key: &Digest, verifier: usize, generation: u64) -> bool {
        *self.slot(key) == Some((*key, verifier, generation))
    }

    pub(super) fn remember_failure(&self, key: Digest, verifier: usize, generation: u64) {
        *self.slot(&key) = Some((key, verifier, generation));
    }

    fn slot(&self, key: &Digest) -> std::sync::MutexGuard<'_, Option<Failure>> {
        let slot = usize::from(u16::from_be_bytes([key[30], key[31]])) % FAILURES;
        self.failures[slot].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
