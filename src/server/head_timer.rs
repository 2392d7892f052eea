//! hyper's timer for one connection. One decision: each head has its own deadline, and nearly every one is met, so all of them share one
//! timer of the system. Knows nothing of what is timed.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use hyper::rt::{Sleep, Timer};

use crate::seldom::Alarm;

/// Of one connection, which has one deadline at a time.
#[derive(Clone, Default)]
pub(super) struct HeadTimer(Arc<Mutex<Option<Alarm>>>);

struct HeadSleep {
    timer: HeadTimer,
    deadline: Instant,
}

impl HeadTimer {
    fn lock(&self) -> MutexGuard<'_, Option<Alarm>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: std::time::Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(HeadSleep { timer: self.clone(), deadline })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }
}

impl Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let (deadline, mut set) = (self.deadline, self.timer.lock());
        ready!(set.get_or_insert_with(|| Alarm::at(deadline)).poll_until(deadline, cx));
        *set = None;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::HeadTimer;
    use hyper::rt::Timer;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    #[tokio::test]
    async fn deadlines_are_kept_whether_they_follow_or_come_before_one_another() {
        let timer = HeadTimer::default();
        let begun = timer.now();
        let until = |milliseconds| timer.sleep_until(begun + Duration::from_millis(milliseconds));
        let cx = &mut Context::from_waker(Waker::noop());
        // Met long before: its time runs on under the next one's.
        assert_eq!(until(10).as_mut().poll(cx), Poll::Pending);
        for milliseconds in [30, 20, 40] {
            until(milliseconds).await;
            assert!(timer.now() >= begun + Duration::from_millis(milliseconds));
        }
        let mut far = until(3_600_000);
        assert_eq!(far.as_mut().poll(cx), Poll::Pending);
        tokio::time::timeout(Duration::from_secs(60), until(50)).await.unwrap();
    }
}
