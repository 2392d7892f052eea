//! A worker's last tokens. One decision: the same bytes are the same token without a digest being computed again, and lead to what
//! was verified and to nothing else: keys, times and revocation are compared on every request, by whoever asks
//! ([`super::Tokens::remembered`], [`super::OwnTokens::remembered`]). Knows nothing of them.

use std::sync::Arc;

use crate::places::{Mark, Secrets};

/// Longer tokens, of which there would be too many bytes, are found by their digest.
const LONGEST: usize = 2 * 1024;

/// The last tokens: three MiB, where they are of the usual length, and sixteen at most.
pub struct Recent<T>(Secrets<Box<[u8]>, Arc<T>>);

impl<T> Default for Recent<T> {
    fn default() -> Recent<T> {
        Recent(Secrets::default())
    }
}

impl<T> Recent<T> {
    /// What these very bytes were found to be.
    pub(super) fn find(&self, token: &str) -> Option<Arc<T>> {
        self.0.find(mark(token)?, token.as_bytes())
    }

    /// Remember. Only a token that was verified comes here.
    pub fn keep(&self, token: &str, verified: &Arc<T>) {
        if let Some(mark) = mark(token) {
            self.0.keep(mark, token.as_bytes().into(), verified.clone());
        }
    }

    /// Forget everything, and give the room back.
    pub fn forget(&self) {
        self.0.forget();
    }
}

/// The end of the signature, but for its last character, which holds fewer bits.
fn mark(token: &str) -> Option<Mark> {
    let bytes = token.as_bytes().split_last()?.1;
    bytes.last_chunk().copied().filter(|_| token.len() <= LONGEST)
}
