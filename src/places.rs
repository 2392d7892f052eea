//! What a worker remembers of its last requests: a table of fixed size. One decision: it is for one worker, whose lock on it is never
//! contended, and small enough to stay near the processor; the later one takes the place of the first of its set. Knows nothing
//! of what is remembered, nor whether it still holds.

use std::sync::{Mutex, MutexGuard, PoisonError};

use constant_time_eq::constant_time_eq;

const PLACES: usize = 8192;
/// Places that one may stand in. In one alone, each ninth of a thousand would be driven out by another again and again.
const WAYS: usize = 4;
const SETS: usize = PLACES / WAYS;

/// Random bytes of what is remembered, by which it is found.
pub type Mark = [u8; 8];

/// Places.
pub struct Places<T>(Mutex<Vec<Set<T>>>);

/// Those that one may stand in.
pub type Set<T> = [Option<T>; WAYS];

impl<T> Default for Places<T> {
    fn default() -> Places<T> {
        Places(Mutex::default())
    }
}

impl<T> Places<T> {
    fn lock(&self) -> MutexGuard<'_, Vec<Set<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Do something with the set of this mark. Room is taken with the first one.
    pub fn at<R>(&self, mark: Mark, what: impl FnOnce(&mut Set<T>) -> R) -> R {
        let mut sets = self.lock();
        if sets.is_empty() {
            sets.resize_with(SETS, || std::array::from_fn(|_| None));
        }
        // Base64 fills six bits of a byte: multiplied, the upper ones are a mixture of all.
        let mixed = u64::from_ne_bytes(mark).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SETS.ilog2());
        what(&mut sets[mixed as usize % SETS])
    }

    /// Forget everything, and give the room back.
    pub fn forget(&self) {
        *self.lock() = Vec::new();
    }
}

/// Remember one more.
pub fn put<T>(set: &mut Set<T>, what: T) {
    set.rotate_right(1);
    set[0] = Some(what);
}

/// What secrets led to: each is found by its mark, and then by all of its bytes.
pub struct Secrets<S, V>(Places<Secret<S, V>>);

struct Secret<S, V> {
    mark: Mark,
    secret: S,
    value: V,
}

impl<S, V> Default for Secrets<S, V> {
    fn default() -> Secrets<S, V> {
        Secrets(Places::default())
    }
}

impl<S: AsRef<[u8]>, V: Clone> Secrets<S, V> {
    /// What these very bytes led to.
    pub fn find(&self, mark: Mark, secret: &[u8]) -> Option<V> {
        self.0.at(mark, |set| {
            // The mark as a whole, which tells nobody who guesses a secret that a part of it is right; the secret in constant
            // time, for the same reason.
            let found = set.iter().flatten().find(|found| found.mark == mark)?;
            constant_time_eq(found.secret.as_ref(), secret).then(|| found.value.clone())
        })
    }

    /// Remember. Only a secret that was verified comes here.
    pub fn keep(&self, mark: Mark, secret: S, value: V) {
        self.0.at(mark, |set| {
            let new = Secret { mark, secret, value };
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
