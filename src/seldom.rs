//! What has seldom anything to say, beside a connection that is polled with every byte. One decision: it is polled when it asked
//! for it, not whenever its task runs: a timer with seconds to go would be put off and on again, and a stop that comes once be
//! asked for, several times a request. Knows nothing of what it waits for.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Instant;

/// A future that is polled when it was woken.
pub struct Seldom<F> {
    future: Pin<Box<F>>,
    signal: Arc<Signal>,
    /// The signal, as a future is handed it, and whom it wakes.
    waker: Waker,
    task: Waker,
}

struct Signal {
    woken: AtomicBool,
    task: Mutex<Waker>,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.lock().unwrap_or_else(PoisonError::into_inner).wake_by_ref();
    }
}

impl<F: Future> Seldom<F> {
    /// This one.
    pub fn new(future: F) -> Seldom<F> {
        let task = Waker::noop().clone();
        let signal = Arc::new(Signal { woken: AtomicBool::new(true), task: Mutex::new(task.clone()) });
        Seldom { future: Box::pin(future), waker: Waker::from(signal.clone()), signal, task }
    }

    /// Another one of its kind from now on.
    pub fn set(&mut self, future: F) {
        self.future().set(future);
    }

    /// Itself, for a change: it is polled again.
    fn future(&mut self) -> Pin<&mut F> {
        self.signal.woken.store(true, Ordering::Release);
        self.future.as_mut()
    }

    /// Nobody waits for it.
    fn forget(&mut self) {
        self.wakes(Waker::noop());
    }

    fn wakes(&mut self, task: &Waker) {
        self.task.clone_from(task);
        self.signal.task.lock().unwrap_or_else(PoisonError::into_inner).clone_from(task);
    }

    /// Ready when the future is.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        // Before the look at what was said: whoever says something afterwards wakes this task.
        if !self.task.will_wake(cx.waker()) {
            self.wakes(cx.waker());
        }
        if !self.signal.woken.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // Seen with what was done before it was said, also where it was said twice.
        self.signal.woken.swap(false, Ordering::AcqRel);
        // Whatever else the task did in this turn: beside something that always uses it up no deadline would ever come.
        pin!(tokio::task::coop::unconstrained(self.future.as_mut())).poll(&mut Context::from_waker(&self.waker))
    }
}

/// A timer for one deadline after the other, nearly all of which are met: one timer of the system is left to run through them, and set
/// anew where it was early.
pub struct Alarm {
    at: Instant,
    sleep: Seldom<tokio::time::Sleep>,
}

impl Alarm {
    /// Set to this.
    pub fn at(at: Instant) -> Alarm {
        Alarm { at, sleep: Seldom::new(tokio::time::sleep_until(at.into())) }
    }

    fn set(&mut self, at: Instant) {
        self.at = at;
        self.sleep.future().reset(at.into());
    }

    /// Ready at the deadline. Then it is over: the next one needs another.
    pub fn poll_until(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.at > deadline {
            self.set(deadline);
        }
        ready!(self.sleep.poll(cx));
        if self.at < deadline {
            self.set(deadline);
            ready!(self.sleep.poll(cx));
        }
        Poll::Ready(())
    }
}

/// The alarms of one connection, which has a deadline with every request.
pub struct Alarms {
    kept: Mutex<Vec<Alarm>>,
    tasks: bool,
}

impl fmt::Debug for Alarms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarms").finish_non_exhaustive()
    }
}

/// So many of one connection are worth keeping.
const KEPT: usize = 16;

/// A deadline; ready when it passed.
pub struct Until<'a> {
    alarms: &'a Alarms,
    alarm: Option<Alarm>,
    deadline: Instant,
}

impl Alarms {
    /// None yet. `tasks`: each request of the connection is a task of its own, and is not to be kept by what it waited for.
    pub fn new(tasks: bool) -> Alarms {
        Alarms { kept: Mutex::default(), tasks }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Alarm>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another deadline.
    pub fn until(&self, deadline: Instant) -> Until<'_> {
        Until { alarms: self, alarm: self.lock().pop(), deadline }
    }

    /// Keep none: no request is awaited.
    pub fn forget(&self) {
        *self.lock() = Vec::new();
    }
}

impl Future for Until<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        ready!(self.alarm.get_or_insert_with(|| Alarm::at(deadline)).poll_until(deadline, cx));
        self.alarm = None;
        Poll::Ready(())
    }
}

impl Drop for Until<'_> {
    fn drop(&mut self) {
        let Some(mut alarm) = self.alarm.take() else { return };
        if self.alarms.tasks {
            alarm.sleep.forget();
        }
        let mut kept = self.alarms.lock();
        if kept.len() < KEPT {
            kept.push(alarm);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Alarms, Seldom};
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::{Duration, Instant};
    use tokio::sync::oneshot;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn it_is_polled_when_it_was_woken_and_wakes_whoever_polled_last() {
        let (first, last) = (Arc::<Woken>::default(), Arc::<Woken>::default());
        let (told, mut waiting) = oneshot::channel();
        let mut polls = 0;
        let mut seldom = Seldom::new(std::future::poll_fn(|cx| {
            polls += 1;
            std::pin::Pin::new(&mut waiting).poll(cx)
        }));
        for waker in [&first, &first, &last].map(|woken| Waker::from(woken.clone())) {
            assert_eq!(seldom.poll(&mut Context::from_waker(&waker)), Poll::Pending);
        }
        told.send(7).unwrap();
        assert_eq!((first.0.load(Ordering::Relaxed), last.0.load(Ordering::Relaxed)), (0, 1));
        assert_eq!(seldom.poll(&mut Context::from_waker(&Waker::from(last))), Poll::Ready(Ok(7)));
        drop(seldom);
        assert_eq!(polls, 2);
    }

    #[tokio::test]
    async fn an_alarm_is_used_again_and_one_that_rang_is_not() {
        let (alarms, begun) = (Alarms::new(false), Instant::now());
        let cx = &mut Context::from_waker(Waker::noop());
        let after = |milliseconds| alarms.until(begun + Duration::from_millis(milliseconds));
        let kept = || alarms.lock().len();
        assert_eq!(Pin::new(&mut after(3_600_000)).poll(cx), Poll::Pending);
        assert_eq!(kept(), 1, "nobody waits for it any more");
        for milliseconds in [10, 30, 20] {
            assert_eq!(Pin::new(&mut after(3_600_000)).poll(cx), Poll::Pending);
            let until = after(milliseconds);
            assert_eq!(kept(), 0, "the same one, whenever it was set to");
            tokio::time::timeout(Duration::from_secs(60), until).await.unwrap();
            assert!(begun.elapsed() >= Duration::from_millis(milliseconds));
            assert_eq!(kept(), 0, "it rang");
        }
    }

    #[tokio::test]
    async fn a_deadline_comes_beside_what_uses_every_turn_up() {
        let (alarms, begun) = (Alarms::new(false), Instant::now());
        let mut until = alarms.until(begun + Duration::from_millis(10));
        let came = std::future::poll_fn(|cx| {
            while pin!(tokio::task::coop::consume_budget()).poll(cx).is_ready() {}
            match Pin::new(&mut until).poll(cx) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending if begun.elapsed() > Duration::from_secs(10) => Poll::Ready(false),
                Poll::Pending => Poll::Pending,
            }
        });
        assert!(came.await);
    }

    /// Kept, its waker would keep all the room of a stream's task, for as long as its connection is open.
    #[tokio::test]
    async fn an_alarm_forgets_a_task_that_ends_before_its_connection() {
        for tasks in [false, true] {
            let (alarms, task) = (Alarms::new(tasks), Arc::<Woken>::default());
            let mut until = alarms.until(Instant::now() + Duration::from_secs(3_600));
            assert_eq!(Pin::new(&mut until).poll(&mut Context::from_waker(&Waker::from(task.clone()))), Poll::Pending);
            assert!(Arc::strong_count(&task) > 1);
            drop(until);
            assert_eq!(Arc::strong_count(&task) == 1, tasks);
            alarms.forget();
            assert_eq!(Arc::strong_count(&task), 1);
        }
    }
}
