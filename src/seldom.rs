//! What has seldom anything to say, beside a connection that is polled with every byte. One decision: it is polled when it asked
//! for it, not whenever its task runs: a timer with seconds to go would be put off and on again, and a stop that comes once be
//! asked for, several times a request. Knows nothing of what it waits for.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
        self.signal.woken.store(false, Ordering::Release);
        self.future.as_mut().poll(&mut Context::from_waker(&self.waker))
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

#[cfg(test)]
mod tests {
    use super::Seldom;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};
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
}
