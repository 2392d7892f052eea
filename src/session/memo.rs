//! What a worker's last cookies led to, and who calls in its last sessions. One decision: the same bytes lead to the same session
//! without a MAC and a hash being computed again, and the same session to the same caller, and to nothing else: whether that
//! session still stands is compared on every request, by whoever asks ([`super::Sessions::remembered`]). A caller is three
//! times as large as its session, so only sessions in use have one. Knows nothing of revocations and limits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::constant_time;

use crate::policy::Caller;

use super::cookie::VALUE_CHARACTERS;
use super::view::View;

/// Cookies, and callers, remembered by a worker: ten MiB at most. Where two fall on one place, the later one takes it.
const PLACES: usize = 8192;
/// A part of the value that is random, whoever's it is.
const RANDOM: std::ops::Range<usize> = 12..20;

/// A worker's memory. Its locks are never contended.
#[derive(Default)]
pub struct Memo {
    cookies: Mutex<Vec<Option<Remembered>>>,
    callers: Mutex<Vec<Option<Calling>>>,
}

struct Remembered {
    cookie: [u8; VALUE_CHARACTERS],
    view: Arc<View>,
}

/// Held by its session in memory, not by a key: what is known of a user may change, and the session is loaded anew then.
struct Calling {
    view: Arc<View>,
    caller: Option<Arc<Caller>>,
}

fn lock<T>(places: &Mutex<Vec<Option<T>>>) -> MutexGuard<'_, Vec<Option<T>>> {
    let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
    if places.is_empty() {
        places.resize_with(PLACES, || None);
    }
    places
}

impl Memo {
    /// Who calls in a session; found out by `ask` where it is not remembered. `None` where the user is gone.
    pub fn caller(&self, view: &Arc<View>, ask: impl FnOnce(&View) -> Option<Arc<Caller>>) -> Option<Arc<Caller>> {
        let place = view.key.0.first_chunk().and_then(|bytes| usize::try_from(mixed(*bytes)).ok())?;
        let mut places = lock(&self.callers);
        let held = &mut places[place];
        match held {
            Some(held) if Arc::ptr_eq(&held.view, view) => held.caller.clone(),
            _ => held.insert(Calling { view: view.clone(), caller: ask(view) }).caller.clone(),
        }
    }

    /// Forget everything, and give the room back.
    pub fn forget(&self) {
        *self.cookies.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
        *self.callers.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
    }

    /// The session that these very bytes led to.
    pub(super) fn find(&self, cookie: &str) -> Option<Arc<View>> {
        let place = place(cookie.as_bytes())?;
        let places = lock(&self.cookies);
        let found = places.get(place)?.as_ref()?;
        // In constant time: how long a comparison takes must not tell how much of somebody's cookie was guessed.
        let same = constant_time::verify_slices_are_equal(&found.cookie, cookie.as_bytes()).is_ok();
        same.then(|| found.view.clone())
    }

    /// Remember. Only a cookie that was verified comes here.
    pub fn keep(&self, cookie: &str, view: &Arc<View>) {
        let (Some(place), Ok(cookie)) = (place(cookie.as_bytes()), cookie.as_bytes().try_into()) else { return };
        lock(&self.cookies)[place] = Some(Remembered { cookie, view: view.clone() });
    }
}

fn place(cookie: &[u8]) -> Option<usize> {
    let random = cookie.get(RANDOM)?.first_chunk::<8>().filter(|_| cookie.len() == VALUE_CHARACTERS)?;
    usize::try_from(mixed(*random)).ok()
}

/// Base64 fills six bits of a byte: multiplied, the upper ones are a mixture of all.
fn mixed(bytes: [u8; 8]) -> u64 {
    u64::from_ne_bytes(bytes).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - PLACES.ilog2())
}
