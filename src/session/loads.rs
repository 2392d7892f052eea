//! Loads under way. One decision: whoever asks while one is under way waits for it and is told what it found, a failure too: a
//! store that does not answer is not asked by each of them in turn. Knows nothing of what is loaded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

use super::SessionKey;

/// One for a session at a time.
pub(super) struct Loads<T>(Mutex<HashMap<SessionKey, Arc<OnceCell<T>>>>);

impl<T> Default for Loads<T> {
    fn default() -> Self {
        Loads(Mutex::default())
    }
}

impl<T: Clone> Loads<T> {
    /// What `load` finds, or the one that is under way. A caller that leaves takes nothing with it: the next one's is done.
    pub(super) async fn join(&self, key: SessionKey, load: impl Future<Output = T>) -> T {
        let joined = Joined { loads: self, key, load: self.lock().entry(key).or_default().clone() };
        joined.load.get_or_init(|| load).await.clone()
    }

    /// Whoever asks from here on is told of another load.
    pub(super) fn forget(&self, key: SessionKey) {
        self.lock().remove(&key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, Arc<OnceCell<T>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits. With the answer, or with the last who waits for it, the load is no longer under way.
struct Joined<'l, T: Clone> {
    loads: &'l Loads<T>,
    key: SessionKey,
    load: Arc<OnceCell<T>>,
}

impl<T: Clone> Drop for Joined<'_, T> {
    fn drop(&mut self) {
        let mut loads = self.loads.lock();
        let is_this = loads.get(&self.key).is_some_and(|load| Arc::ptr_eq(load, &self.load));
        // Two: the table's and this one's. Others are made and dropped under the lock.
        if is_this && (self.load.initialized() || Arc::strong_count(&self.load) == 2) {
            loads.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::{Loads, SessionKey};

    const KEY: SessionKey = SessionKey([7; 16]);

    fn poll_once<F: Future>(load: std::pin::Pin<&mut F>) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match load.poll(&mut context) {
            std::task::Poll::Ready(found) => Some(found),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn who_comes_meanwhile_is_told_the_same() {
        let loads = Loads::default();
        let (told, asked) = tokio::sync::oneshot::channel();
        let mut first = Box::pin(loads.join(KEY, async { asked.await.unwrap() }));
        let mut second = Box::pin(loads.join(KEY, ready(2)));
        assert_eq!((poll_once(first.as_mut()), poll_once(second.as_mut())), (None, None));
        told.send(1).unwrap();
        assert_eq!((poll_once(first.as_mut()), poll_once(second.as_mut())), (Some(1), Some(1)));
        drop((first, second));
        assert_eq!(poll_once(Box::pin(loads.join(KEY, ready(3))).as_mut()), Some(3), "it is over");
    }

    #[test]
    fn who_leaves_takes_nothing_along_and_leaves_nothing_behind() {
        let loads = Loads::default();
        let mut first = Box::pin(loads.join(KEY, pending()));
        let mut second = Box::pin(loads.join(KEY, ready(2)));
        assert_eq!((poll_once(first.as_mut()), poll_once(second.as_mut())), (None, None));
        drop(first);
        assert_eq!(poll_once(second.as_mut()), Some(2), "its own, now that nobody's is under way");
        drop(second);
        let mut alone = Box::pin(loads.join(KEY, pending()));
        assert_eq!(poll_once(alone.as_mut()), None);
        drop(alone);
        assert!(loads.lock().is_empty());
    }

    #[test]
    fn what_was_forgotten_is_not_what_the_next_is_told() {
        let loads = Loads::default();
        let mut first = Box::pin(loads.join(KEY, pending()));
        assert_eq!(poll_once(first.as_mut()), None);
        loads.forget(KEY);
        assert_eq!(poll_once(Box::pin(loads.join(KEY, ready(2))).as_mut()), Some(2));
        drop(first);
    }
}
