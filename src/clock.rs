//! The time, as an argument. One decision: rooms below `proxy` are handed a [`Timestamp`]; only `proxy`, `login` and the
//! background tasks ask a [`Clock`]. It knows nothing of time zones and nothing of how a timestamp is used. How much time went by
//! between two moments is another question, for [`since_boot`]: the wall clock is set, and [`std::time::Instant`] stands still with the machine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The moment `by` later; saturates at the end of time.
    pub fn plus(self, by: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The moment `by` earlier; saturates at the beginning of time.
    pub fn minus(self, by: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero where it lies ahead (a clock that was set back ends nothing early).
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The same moment for rooms that know no clock.
    pub fn since_epoch(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// Whole seconds since the epoch, as cookies and tokens count.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// The same moment as the standard library counts it.
    pub fn system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0)
    }
}

/// Who tells the time.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock now.
    fn now(&self) -> Timestamp;
}

/// How long the machine has been running, the time that it was suspended included: a lease that ran while a virtual machine was frozen
/// has run out, whatever its processes saw of it. No one sets this clock back. It is read without a system call.
pub fn since_boot() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = rustix::time::ClockId::Boottime;
    // Elsewhere the closest there is: on some systems it goes on, too.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = rustix::time::ClockId::Monotonic;
    let rustix::time::Timespec { tv_sec, tv_nsec } = rustix::time::clock_gettime(clock);
    Duration::new(u64::try_from(tv_sec).unwrap_or_default(), u32::try_from(tv_nsec).unwrap_or_default())
}

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }
}

/// A clock that a test turns by hand.
#[derive(Debug)]
pub struct TestClock(AtomicU64);

impl TestClock {
    /// A clock that stands at `start`.
    pub fn at(start: Timestamp) -> Self {
        TestClock(AtomicU64::new(start.0))
    }

    /// Turn it forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::since_boot;
    use std::time::Duration;

    /// proc(5): what the machine was suspended for is in `/proc/uptime`.
    #[test]
    fn the_time_since_boot_is_the_one_that_counts_suspension() {
        let told = || {
            let text = std::fs::read_to_string("/proc/uptime").unwrap();
            Duration::from_secs_f64(text.split(' ').next().unwrap().parse().unwrap())
        };
        let (before, now, after) = (told(), since_boot(), told());
        // Told in hundredths.
        assert!(before <= now && now <= after + Duration::from_millis(10), "{before:?} {now:?} {after:?}");
    }
}
