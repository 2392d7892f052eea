//! What a worker's last cookies led to, and who calls in its last sessions. One decision: the same bytes lead to the same session
//! without a MAC and a hash being computed again, and the same session to the same caller, and to nothing else: whether that
//! session still stands is compared on every request, by whoever asks ([`super::Sessions::remembered`]). A caller is three
//! times as large as its session, so only sessions in use have one. Knows nothing of revocations and limits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::constant_time;

use crate::policy::Caller;

use super::cookie::VALUE_CHARACTERS;
use super::view::View;

/// Cookies, and callers, remembered by a worker: ten MiB at most.
const PLACES: usize = 8192;
/// Places that one may stand in. In one alone, each ninth of a thousand would be driven out by another again and again.
const WAYS: usize = 4;
const SETS: usize = PLACES / WAYS;
/// A part of the value that is random, whoever's it is.
const RANDOM: std::ops::Range<usize> = 12..20;

/// A worker's memory. Its locks are never contended.
#[derive(Default)]
pub struct Memo {
    cookies: Places<Remembered>,
    callers: Places<Calling>,
}

struct Remembered {
    /// Random characters of the cookie.
    mark: [u8; 8],
    cookie: [u8; VALUE_CHARACTERS],
    view: Arc<View>,
}

/// Held by its session in memory, not by a key: what is known of a user may change, and the session is loaded anew then.
struct Calling {
    view: Arc<View>,
    caller: Option<Arc<Caller>>,
}

/// Where things are remembered. The later one takes the place of the first of its set.
struct Places<T>(Mutex<Vec<Set<T>>>);

type Set<T> = [Option<T>; WAYS];

impl<T> Default for Places<T> {
    fn default() -> Places<T> {
        Places(Mutex::default())
    }
}

impl<T> Places<T> {
    fn lock(&self) -> MutexGuard<'_, Vec<Set<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Do something with the set that these random bytes lead to.
    fn at<R>(&self, mark: [u8; 8], what: impl FnOnce(&mut Set<T>) -> R) -> R {
        let mut sets = self.lock();
        if sets.is_empty() {
            sets.resize_with(SETS, || std::array::from_fn(|_| None));
        }
        // Base64 fills six bits of a byte: multiplied, the upper ones are a mixture of all.
        let mixed = u64::from_ne_bytes(mark).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SETS.ilog2());
        what(&mut sets[mixed as usize % SETS])
    }
}

fn put<T>(set: &mut Set<T>, what: T) {
    set.rotate_right(1);
    set[0] = Some(what);
}

impl Memo {
    /// Who calls in a session; found out by `ask` where it is not remembered. `None` where the user is gone.
    pub fn caller(&self, view: &Arc<View>, ask: impl FnOnce(&View) -> Option<Arc<Caller>>) -> Option<Arc<Caller>> {
        let mark = *view.key.0.first_chunk()?;
        self.callers.at(mark, |set| {
            if let Some(held) = set.iter().flatten().find(|held| Arc::ptr_eq(&held.view, view)) {
                return held.caller.clone();
            }
            let caller = ask(view);
            put(set, Calling { view: view.clone(), caller: caller.clone() });
            caller
        })
    }

    /// Forget everything, and give the room back.
    pub fn forget(&self) {
        *self.cookies.lock() = Vec::new();
        *self.callers.lock() = Vec::new();
    }

    /// The session that these very bytes led to.
    pub(super) fn find(&self, cookie: &str) -> Option<Arc<View>> {
        let mark = mark(cookie)?;
        self.cookies.at(mark, |set| {
            // The mark as a whole, which tells nobody who guesses a cookie that a part of it is right; the cookie in constant
            // time, for the same reason.
            let found = set.iter().flatten().find(|found| found.mark == mark)?;
            let same = constant_time::verify_slices_are_equal(&found.cookie, cookie.as_bytes()).is_ok();
            same.then(|| found.view.clone())
        })
    }

    /// Remember. Only a cookie that was verified comes here.
    pub fn keep(&self, cookie: &str, view: &Arc<View>) {
        let (Some(mark), Ok(cookie)) = (mark(cookie), cookie.as_bytes().try_into()) else { return };
        self.cookies.at(mark, |set| {
            let new = Remembered { mark, cookie, view: view.clone() };
            match set.iter_mut().flatten().find(|old| old.mark == mark) {
                Some(old) => *old = new,
                None => put(set, new),
            }
        });
    }
}

fn mark(cookie: &str) -> Option<[u8; 8]> {
    cookie.as_bytes().get(RANDOM)?.first_chunk().copied().filter(|_| cookie.len() == VALUE_CHARACTERS)
}

#[cfg(test)]
mod tests {
    use super::{Places, put};

    #[test]
    fn a_thousand_stand_beside_one_another() {
        let places = Places::default();
        // Random enough: what a generator of the same kind as the hash's multiplier does not give.
        let marks: Vec<[u8; 8]> =
            (0..1_000_u64).map(|n| (n * n + 1).wrapping_mul(0xd129_0d3d_5b4c_a3e5).to_be_bytes()).collect();
        marks.iter().for_each(|mark| places.at(*mark, |set| put(set, *mark)));
        let there = marks.iter().filter(|mark| places.at(**mark, |set| set.contains(&Some(**mark)))).count();
        assert!((980..=1_000).contains(&there), "{there}");
    }
}
