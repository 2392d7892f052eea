//! What a worker's last cookies led to. One decision: the same bytes lead to the same session without a MAC and a hash being
//! computed again, and to nothing else: whether that session still stands is compared on every request, by whoever asks
//! ([`super::Sessions::remembered`]). Knows nothing of revocations and limits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::constant_time;

use super::cache::View;
use super::cookie::VALUE_CHARACTERS;

/// Cookies remembered by a worker: half a MiB. Where two fall on one place, the later one takes it.
const PLACES: usize = 8192;
/// A part of the value that is random, whoever's it is.
const RANDOM: std::ops::Range<usize> = 12..20;

/// A worker's memory. Its lock is never contended.
#[derive(Default)]
pub struct Memo(Mutex<Vec<Option<Remembered>>>);

struct Remembered {
    cookie: [u8; VALUE_CHARACTERS],
    view: Arc<View>,
}

impl Memo {
    fn lock(&self) -> MutexGuard<'_, Vec<Option<Remembered>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session that these very bytes led to.
    pub(super) fn find(&self, cookie: &str) -> Option<Arc<View>> {
        let place = place(cookie.as_bytes())?;
        let places = self.lock();
        let found = places.get(place)?.as_ref()?;
        // In constant time: how long a comparison takes must not tell how much of somebody's cookie was guessed.
        let same = constant_time::verify_slices_are_equal(&found.cookie, cookie.as_bytes()).is_ok();
        same.then(|| found.view.clone())
    }

    /// Remember. Only a cookie that was verified comes here.
    pub fn keep(&self, cookie: &str, view: &Arc<View>) {
        let (Some(place), Ok(cookie)) = (place(cookie.as_bytes()), cookie.as_bytes().try_into()) else { return };
        let mut places = self.lock();
        if places.is_empty() {
            places.resize_with(PLACES, || None);
        }
        places[place] = Some(Remembered { cookie, view: view.clone() });
    }
}

fn place(cookie: &[u8]) -> Option<usize> {
    let random = cookie.get(RANDOM)?.first_chunk::<8>().filter(|_| cookie.len() == VALUE_CHARACTERS)?;
    // Base64 fills six bits of a byte: multiplied, the upper ones are a mixture of all.
    let mixed = u64::from_ne_bytes(*random).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - PLACES.ilog2());
    usize::try_from(mixed).ok()
}
