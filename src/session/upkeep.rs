//! What sessions do between requests: keep up with other nodes, write activity, remove what expired, look at what is open again.
//! One decision: nothing here is waited for by a request, and an error is logged and tried again. Knows nothing of requests.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Timestamp};

use super::coherence::Listener;
use super::exchange::{Looked, Over};
use super::lifetime::{FLUSH_EVERY, Verdict, judge};
use super::{Activity, Event, Part, SessionKey, Sessions, StoreError, View};

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
        // By the wall clock: a timer that slept with the machine is late.
        self.exchanges.end_bearers(Over::Ended, |bearer| now >= bearer.ends || self.is_denied(bearer));
        self.exchanges.judge_others();
        let mut done = Ok(());
        for (key, exchanges) in self.exchanges.look() {
            // What is in a part of the store that is away keeps nobody from looking at the rest.
            if let Err(error) = self.review_one(key, &exchanges, now).await {
                done = Err(error);
            }
        }
        done
    }

    async fn review_one(&self, key: SessionKey, exchanges: &[Looked], now: Timestamp) -> Result<(), StoreError> {
        let is_alive = |view: &Arc<View>| matches!(judge(view.limits(), view.last_seen(), now), Verdict::Alive(_));
        let mut found = self.cache.get(key);
        if found.as_ref().is_none_or(|view| !is_alive(view)) {
            self.cache.forget(key);
            found = self.load(key).await?.filter(is_alive);
        }
        exchanges.iter().for_each(|exchange| exchange.judge(found.as_deref()));
        if let Some(view) = found
            && exchanges.iter().any(|exchange| exchange.used)
            && let Verdict::Alive(touch) = judge(view.limits(), view.last_seen(), now)
        {
            self.accept(view, touch, Activity::Active, now).await?;
        }
        Ok(())
    }

    /// Sessions of a provider in which something is open here and whose tokens are kept, as memory knows them.
    pub fn open_views(&self) -> Vec<Arc<View>> {
        let keeps = |view: &Arc<View>| view.provided().is_some_and(|provided| provided.keeps);
        let open = self.exchanges.sessions();
        open.into_iter().filter_map(|key| self.cache.get(key)).filter(keeps).collect()
    }

    /// Write the queued activities, those of each part of the store on their own: what one part does not take is queued again,
    /// and nobody else is signed out for it.
    ///
    /// # Errors
    /// [`StoreError`] of a part.
    pub async fn flush(self: &Arc<Self>) -> Result<(), StoreError> {
        let batch = std::mem::take(&mut *self.queued());
        let mut parts = JoinSet::new();
        for part in self.parts() {
            let mine: Vec<_> = batch.iter().filter(|(key, _)| part.holds(key.shard())).copied().collect();
            if !mine.is_empty() {
                let this = self.clone();
                parts.spawn(async move {
                    match this.bounded(this.store.touch(mine.clone())).await {
                        Ok(alive) => {
                            // What the store does not know is no session, whatever is in memory of it.
                            let gone = mine.iter().zip(alive).filter(|(_, alive)| !alive);
                            gone.for_each(|((key, _), _)| this.cache.lose(*key));
                            Ok(())
                        }
                        Err(error) => {
                            this.queued().extend(mine);
                            Err(error)
                        }
                    }
                });
            }
        }
        let mut done = Ok(());
        while let Some(written) = parts.join_next().await {
            let written = written.unwrap_or_else(|error| Err(StoreError::Unavailable(Box::new(error))));
            done = done.and(written);
        }
        done
    }

    /// Remove what expired; by the store's clock, where that is earlier: a node whose clock is ahead would remove what is alive
    /// everywhere else.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sweep(&self, now: Timestamp) -> Result<usize, StoreError> {
        let theirs = self.coherence.as_ref().and_then(|coherence| coherence.store_clock());
        self.store.sweep(theirs.map_or(now, |theirs| theirs.min(now)), SWEEP_AT_ONCE).await
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
                if let Err(error) = self.sweep(clock.now()).await {
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

    fn known(&self, part: Part) -> Vec<Event> {
        self.ledger.known(part)
    }

    fn knows_more(&self, part: Part, remembered: &[Event]) -> bool {
        self.ledger.exceeds(part, remembered)
    }

    fn lost(&self, part: Part) {
        self.exchanges.end_part(part);
    }
}
