//! What is said of what happens with every request. One decision: a kind of it is said a few times in ten seconds, and of the rest
//! how many there were, with the next that is said: a log of one line a request hides what else is in it, and fills disks. Knows nothing of
//! what is said.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// In which time …
const EVERY: Duration = Duration::from_secs(10);
/// … so many of a kind are said, …
const OF_A_KIND: u32 = 5;
/// … of so many kinds: what a client chooses may be part of one.
const KINDS: usize = 16;

/// Of one place in the code.
pub struct Sparing(Mutex<Said>);

struct Said {
    since: Option<Instant>,
    kinds: Vec<(String, u32)>,
    unsaid: u64,
}

impl Sparing {
    /// Nothing was said yet.
    pub const fn new() -> Sparing {
        Sparing(Mutex::new(Said { since: None, kinds: Vec::new(), unsaid: 0 }))
    }

    /// Whether to say one of this kind now, and how many were not said since the last that was.
    pub fn ask(&self, kind: &str) -> Option<u64> {
        self.ask_at(kind, Instant::now())
    }

    fn ask_at(&self, kind: &str, now: Instant) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.since.is_none_or(|since| now.saturating_duration_since(since) >= EVERY) {
            said.since = Some(now);
            said.kinds.clear();
        }
        let room = said.kinds.len() < KINDS;
        let is_said = match said.kinds.iter_mut().find(|(known, _)| known == kind) {
            Some((_, times)) => {
                *times += 1;
                *times <= OF_A_KIND
            }
            None if room => {
                said.kinds.push((kind.to_owned(), 1));
                true
            }
            None => false,
        };
        if is_said {
            return Some(std::mem::take(&mut said.unsaid));
        }
        said.unsaid += 1;
        None
    }
}

impl Default for Sparing {
    fn default() -> Sparing {
        Sparing::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{EVERY, KINDS, OF_A_KIND, Sparing};
    use std::time::Instant;

    #[test]
    fn a_flood_hides_no_other_kind_and_is_counted() {
        let (sparing, now) = (Sparing::new(), Instant::now());
        let many = |kind: &str, at| (0..1000).filter_map(|_| sparing.ask_at(kind, at)).collect::<Vec<_>>();
        assert_eq!(many("one", now), vec![0; OF_A_KIND as usize]);
        assert_eq!(many("other", now), [vec![995], vec![0; OF_A_KIND as usize - 1]].concat());
        assert!(many("one", now + EVERY / 2).is_empty());
        assert_eq!(many("one", now + EVERY), [vec![1995], vec![0; OF_A_KIND as usize - 1]].concat());
        // Kinds without end are a flood as well.
        let said = (0..1000).filter_map(|kind| sparing.ask_at(&kind.to_string(), now + EVERY)).count();
        assert_eq!(said, KINDS - 1);
    }
}
