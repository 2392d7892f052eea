//! A session in use on a worker, and who calls in it. One decision: what every request compares lies here, beside who calls, because
//! the session itself is one of a million and far away from the last one. What may change of it is a copy that is behind, never
//! ahead; where that does not say *alive, and nothing to write*, the session itself is asked. Knows nothing of cookies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Timestamp;
use crate::policy::Caller;

use super::generations::Stamp;
use super::lifetime::{Limits, Touch, Verdict, judge};
use super::view::View;
use super::{SessionKey, UserKey};

/// A session in use. Laid out as written: what each request asks for lies together.
#[derive(Debug)]
#[repr(C)]
pub struct InUse {
    pub(super) stamp: Stamp,
    limits: Limits,
    last_seen: AtomicU64,
    /// Its key.
    pub key: SessionKey,
    pub(super) user: UserKey,
    /// Who calls.
    pub caller: Arc<Caller>,
    /// All of it.
    pub view: Arc<View>,
    /// Whether it was begun at a provider.
    pub provided: bool,
}

impl InUse {
    /// This session, in which this is who calls.
    pub fn new(view: &Arc<View>, caller: Arc<Caller>) -> InUse {
        InUse {
            stamp: view.stamp,
            limits: view.limits(),
            last_seen: AtomicU64::new(view.last_seen().0),
            key: view.key,
            user: view.user,
            caller,
            view: view.clone(),
            provided: view.provided().is_some(),
        }
    }

    /// The end that nothing moves.
    pub fn ends(&self) -> Timestamp {
        self.limits.ends
    }

    /// What its limits say of it at this moment.
    pub(super) fn judge(&self, now: Timestamp) -> Verdict {
        let verdict = judge(self.limits, Timestamp(self.last_seen.load(Ordering::Relaxed)), now);
        if verdict == Verdict::Alive(Touch::None) {
            return verdict;
        }
        // Another worker may have heard of it since.
        let last_seen = self.view.last_seen();
        self.last_seen.store(last_seen.0, Ordering::Relaxed);
        judge(self.limits, last_seen, now)
    }
}
