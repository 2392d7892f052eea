//! How long a session lives. Pure. One decision: the record in memory may be older than the truth, never newer, so *alive*
//! found here is right, and *idle over* is only a reason to ask the store. Knows nothing of stores.

use std::time::Duration;

use crate::clock::Timestamp;

/// Last-seen is written at most once per this part of the idle window: a tenth costs at most a tenth of the window in
/// precision and keeps writes to a few per hundred requests.
const TOUCH_FRACTION: u32 = 10;
/// How often queued touches are written.
pub(super) const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// A remaining life below so many flushes is written through: the second request of the user may be on another node.
const WRITE_THROUGH_FLUSHES: u32 = 5;

/// The limits that new sessions get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Unused for so long, it ends.
    pub idle: Duration,
    /// After so long it ends, used or not.
    pub max_age: Duration,
}

impl Lifetimes {
    /// Both limits.
    pub fn new(idle: Duration, max_age: Duration) -> Lifetimes {
        Lifetimes { idle, max_age }
    }
}

/// What bounds one session in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The end that no activity moves.
    pub ends: Timestamp,
    /// Idle window in milliseconds.
    pub idle_ms: u64,
}

/// What the limits say of a session at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Within both limits; `touch` says what activity has to be written.
    Alive(Touch),
    /// The idle window is over, as far as this record knows.
    Idle,
    /// Past the end that nothing moves.
    Over,
}

/// What to write of an activity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Nothing: the last one is recent.
    None,
    /// Soon, with others.
    Queue,
    /// Before the request goes on: the record in the store is about to end, and another node would believe it.
    Now,
}

/// Judge a session whose last written activity is `last_seen`.
pub fn judge(limits: Limits, last_seen: Timestamp, now: Timestamp) -> Verdict {
    if now >= limits.ends {
        return Verdict::Over;
    }
    let idle = Duration::from_millis(limits.idle_ms);
    let unseen = now.since(last_seen);
    if unseen >= idle {
        return Verdict::Idle;
    }
    let part = idle / TOUCH_FRACTION;
    if unseen < part {
        return Verdict::Alive(Touch::None);
    }
    let left = idle - unseen;
    let edge = part.max(FLUSH_EVERY * WRITE_THROUGH_FLUSHES);
    Verdict::Alive(if left <= edge { Touch::Now } else { Touch::Queue })
}

#[cfg(test)]
mod tests {
    use super::{Limits, Touch, Verdict, judge};
    use crate::clock::Timestamp;
    fn limits(idle_ms: u64, ends: u64) -> Limits {
        Limits { ends: Timestamp(ends), idle_ms }
    }

    #[test]
    fn a_session_ends_at_its_limits_and_not_a_millisecond_earlier() {
        let limits = limits(100_000, 250_000);
        let at = |seen, now| judge(limits, Timestamp(seen), Timestamp(now));
        assert_eq!(at(0, 99_999), Verdict::Alive(Touch::Now));
        assert_eq!(at(0, 100_000), Verdict::Idle);
        assert_eq!(at(249_000, 249_999), Verdict::Alive(Touch::None));
        assert_eq!(at(249_000, 250_000), Verdict::Over, "activity never moves the absolute end");
    }

    #[test]
    fn activity_is_written_once_per_tenth_of_the_window_and_at_once_near_its_end() {
        let limits = limits(100_000, 1_000_000);
        let at = |now| judge(limits, Timestamp(0), Timestamp(now));
        assert_eq!(at(9_999), Verdict::Alive(Touch::None));
        assert_eq!(at(10_000), Verdict::Alive(Touch::Queue));
        assert_eq!(at(89_999), Verdict::Alive(Touch::Queue));
        assert_eq!(at(90_000), Verdict::Alive(Touch::Now));
    }

    #[test]
    fn a_clock_set_back_ends_nothing() {
        assert_eq!(judge(limits(100, 1_000), Timestamp(500), Timestamp(400)), Verdict::Alive(Touch::None));
    }
}
