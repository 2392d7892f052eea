//! A worker's last tokens. One decision: the same bytes are the same token without a digest being computed again, and lead to what
//! was verified and to nothing else: keys, times and revocation are compared on every request, by whoever asks
//! ([`super::Tokens::remembered`]). Knows nothing of them.

use std::sync::Arc;

use aws_lc_rs::constant_time;

use crate::places::{Mark, Places, put};

use super::cache::Verified;

/// Longer tokens, of which there would be too many bytes, are found by their digest.
const LONGEST: usize = 2 * 1024;

/// The last tokens: three MiB, where they are of the usual length, and sixteen at most.
#[derive(Default)]
pub struct Recent(Places<Remembered>);

struct Remembered {
    mark: Mark,
    token: Box<str>,
    entry: Arc<Verified>,
}

impl Recent {
    /// What these very bytes were found to be.
    pub(super) fn find(&self, token: &str) -> Option<Arc<Verified>> {
        let mark = mark(token)?;
        self.0.at(mark, |set| {
            // The mark as a whole and the rest in constant time: nobody who guesses a signature learns that a part of it is right.
            let found = set.iter().flatten().find(|found| found.mark == mark)?;
            let same = constant_time::verify_slices_are_equal(found.token.as_bytes(), token.as_bytes()).is_ok();
            same.then(|| found.entry.clone())
        })
    }

    /// Remember. Only a token that was verified comes here.
    pub(super) fn keep(&self, token: &str, entry: &Arc<Verified>) {
        let Some(mark) = mark(token) else { return };
        self.0.at(mark, |set| {
            let new = Remembered { mark, token: token.into(), entry: entry.clone() };
            match set.iter_mut().flatten().find(|old| old.mark == mark) {
                Some(old) => *old = new,
                None => put(set, new),
            }
        });
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
