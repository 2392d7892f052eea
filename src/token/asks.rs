//! How often tokens may have a key server asked. One decision: a name that was not there is asked for again after half a minute; one
//! that is new is asked for at once, a few in a row, for a key that has just been exchanged must not turn people away – and whoever
//! invents names comes no further than one request in half a minute. Knows nothing of keys.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::clock::Timestamp;

/// In the long run one in so long; and a name that was asked for in vain no sooner again.
pub(super) const EVERY: Duration = Duration::from_secs(30);
/// After a while of none, so many in a row.
const IN_A_ROW: u32 = 4;
/// Names that are remembered: more than can be asked for in that time.
const NAMES: usize = 8;

/// What was asked for.
#[derive(Default)]
pub(super) struct Asks {
    /// Until when requests are taken from what is to come.
    spent: Timestamp,
    in_vain: VecDeque<(u64, Timestamp)>,
    /// Names are whatever a token says: long ones are not kept.
    hash: RandomState,
}

impl Asks {
    /// Whether a request may be made for this name; then it counts.
    pub(super) fn may(&mut self, name: Option<&str>, now: Timestamp) -> bool {
        let name = self.hash.hash_one(name);
        // One that lies ahead is of before the clock was set back.
        self.in_vain.retain(|(_, at)| *at <= now && now.since(*at) < EVERY);
        if self.in_vain.iter().any(|(asked, _)| *asked == name) {
            return false;
        }
        let spent = self.spent.max(now);
        let spent = if spent.since(now) > EVERY * IN_A_ROW { now } else { spent };
        let may = spent.since(now) <= EVERY * (IN_A_ROW - 1);
        self.spent = if may { spent.plus(EVERY) } else { spent };
        may
    }

    /// It brought nothing new.
    pub(super) fn in_vain(&mut self, name: Option<&str>, now: Timestamp) {
        self.in_vain.truncate(NAMES - 1);
        self.in_vain.push_front((self.hash.hash_one(name), now));
    }
}

#[cfg(test)]
mod tests {
    use super::{Asks, EVERY, IN_A_ROW, Timestamp};

    #[test]
    fn a_new_name_is_asked_for_at_once_and_invented_ones_seldom() {
        let (mut asks, now) = (Asks::default(), Timestamp(1_000_000_000));
        assert!(asks.may(Some("old"), now));
        asks.in_vain(Some("old"), now);
        for _ in 0..10 {
            assert!(!asks.may(Some("old"), now), "it spends nothing");
        }
        let row = (0..50).filter(|n| asks.may(Some(&format!("k{n}")), now)).count();
        assert_eq!(row as u32, IN_A_ROW - 1);
        assert!(!asks.may(None, now.plus(EVERY / 2)));
        let mut long = 0;
        for n in 0..600u64 {
            long += u32::from(asks.may(Some(&format!("l{n}")), Timestamp(now.0 + n * 1_000)));
        }
        assert_eq!(long, 19, "every half a minute, in ten");
        assert!(asks.may(Some("old"), now.plus(EVERY * 30)));
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_nobody_waiting() {
        let (mut asks, now) = (Asks::default(), Timestamp(1_000_000_000));
        asks.may(Some("one"), now);
        asks.in_vain(Some("one"), now);
        assert!(asks.may(Some("one"), Timestamp(now.0 - 500_000_000)));
    }
}
