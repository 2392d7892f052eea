//! What sessions do between requests: keep up with other nodes, write activity, remove what expired, look at what is open again.
//! One decision: nothing here is waited for by a request, and an error is logged and tried again. Knows nothing of requests.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Timestamp};

use super::cache::View;
use super::coherence::Listener;
use super::lifetime::{FLUSH_EVERY, Verdict, judge};
use super::{Activity, Event, Part, Sessions, StoreError};

/// Expired records removed at a time: bounds how long the writer is busy with them.
const SWEEP_AT_ONCE: usize = 1_000;
/// How often expired records are looked for, in flushes.
const SWEEP_EVERY: u32 = 30;

impl Sessions {
    pub(super) async fn remember(&self, now: Timestamp) -> Result<(), StoreError> {
        self.ledger.prune(now);
        let events = self.bounded(self.store.remembered(now)).await?;
        for event in &events {
            self.ledger.learn(event);
        }
        Ok(())
    }

    /// Look at what is open again: whether its session still is, within its limits, and may what the exchange needs. The store is
    /// asked where memory does not know it any more, and before *idle*; where it does not answer, nothing ends by that.
    async fn review(&self, now: Timestamp) -> Result<(), StoreError> {
        for (key, exchanges) in self.exchanges.look() {
            let is_alive = |view: &Arc<View>| matches!(judge(&view.session, view.last_seen(), now), Verdict::Alive(_));
            let mut found = self.cache.get(key).await;
            if found.as_ref().is_none_or(|view| !is_alive(view)) {
                self.cache.forget(key).await;
                found = self.load(key).await?.filter(is_alive);
            }
            exchanges.iter().for_each(|exchange| exchange.judge(found.as_deref()));
            if let Some(view) = found
                && exchanges.iter().any(|exchange| exchange.used)
                && let Verdict::Alive(touch) = judge(&view.session, view.last_seen(), now)
            {
                self.accept(view, touch, Activity::Active, now).await?;
            }
        }
        Ok(())
    }

    /// Write the queued activities. What fails is queued again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn flush(&self) -> Result<(), StoreError> {
        let batch = std::mem::take(&mut *self.queued());
        if batch.is_empty() {
            return Ok(());
        }
        let written = self.bounded(self.store.touch(batch.clone())).await;
        if let Err(error) = written {
            self.queued().extend(batch);
            return Err(error);
        }
        Ok(())
    }

    /// Keep up with other nodes, write queued activities every second and sweep what expired, until told to stop. Errors are
    /// logged; the loops go on.
    pub async fn maintain(self: Arc<Self>, clock: Arc<dyn Clock>, stop: CancellationToken) {
        tokio::join!(self.clone().cohere(stop.clone()), self.tidy(clock, stop));
    }

    async fn cohere(self: Arc<Self>, stop: CancellationToken) {
        let Some(coherence) = self.coherence.clone() else { return };
        coherence.run(self, stop).await;
    }

    async fn tidy(self: &Arc<Self>, clock: Arc<dyn Clock>, stop: CancellationToken) {
        let mut turn: u32 = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(FLUSH_EVERY) => {}
            }
            if let Err(error) = self.flush().await {
                tracing::warn!(%error, waiting = self.queued().len(), "activities could not be written");
            }
            if let Err(error) = self.review(clock.now()).await {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "open exchanges could not be looked at again"
                );
            }
            turn = turn.wrapping_add(1);
            if turn.is_multiple_of(SWEEP_EVERY) {
                self.ledger.prune(clock.now());
                if let Err(error) = self.store.sweep(clock.now(), SWEEP_AT_ONCE).await {
                    tracing::warn!(%error, "expired sessions could not be removed");
                }
            }
        }
    }
}

impl Listener for Sessions {
    fn apply(&self, event: &Event) {
        Sessions::apply(self, event);
    }

    fn learn(&self, event: &Event) {
        self.ledger.learn(event);
    }

    fn drop_memory(&self) {
        self.refresh_everyone();
    }

    fn lost(&self, part: Part) {
        self.exchanges.end_part(part);
    }
}
