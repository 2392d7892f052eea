//! Sessions that a token tells of, instead of the store. One decision: what the token says is believed only as far as no
//! revocation that this node knows contradicts it; everything else – limits, activity, open exchanges – is as for any session.
//! Knows nothing of tokens.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::session::lifetime::{Verdict, judge};
use crate::session::{Activity, EndedBecause, Lookup, Session, SessionKey, StoreError, View};

use super::Sessions;

impl Sessions {
    /// A session as its token tells of it; `None` where a revocation is known. The store is not asked.
    ///
    /// # Errors
    /// [`StoreError`], an outage, where this node may have missed a revocation.
    pub fn adopt(&self, key: SessionKey, session: Session) -> Result<Option<Arc<View>>, StoreError> {
        // In this order: a revocation that comes between is in the ledger before the view's generations move.
        let view = self.cache.adopted(key, session);
        let over = self.is_over(key, view.user, view.epoch());
        self.hears(key.shard())?;
        Ok((!over).then_some(view))
    }

    /// A request in an adopted session. *Revoked* means no more than that something concerned it: it has to be adopted anew.
    ///
    /// # Errors
    /// [`StoreError`], where an activity had to be written before the request goes on, or the lease has run out.
    pub async fn using(&self, view: &Arc<View>, activity: Activity, now: Timestamp) -> Result<Lookup, StoreError> {
        if !self.still_alive(view) {
            return Ok(Lookup::Ended(EndedBecause::Revoked));
        }
        match self.weigh(view, now)? {
            Verdict::Alive(touch) => {
                self.counts.hits.add();
                self.accept(view.clone(), touch, activity, now).await
            }
            Verdict::Idle => Ok(Lookup::Ended(EndedBecause::Idle)),
            Verdict::Over => Ok(Lookup::Ended(EndedBecause::Absolute)),
        }
    }

    /// The record of a session as the store has it now, within its limits. The inner error says why there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn record(
        &self,
        key: SessionKey,
        activity: Activity,
        now: Timestamp,
    ) -> Result<Result<Session, EndedBecause>, StoreError> {
        self.counts.misses.add();
        self.hears(key.shard())?;
        let loaded = self.bounded(self.store.load(key)).await?;
        // At the end as at the beginning: the answer may have come from a master that was one no more.
        self.hears(key.shard())?;
        let Some(mut session) = loaded else {
            return Ok(Err(EndedBecause::Revoked));
        };
        if self.is_over(key, session.user(), session.epoch) {
            return Ok(Err(EndedBecause::Revoked));
        }
        match judge(session.limits(), session.last_seen, now) {
            Verdict::Over => return Ok(Err(EndedBecause::Absolute)),
            Verdict::Idle => return Ok(Err(EndedBecause::Idle)),
            Verdict::Alive(_) if activity == Activity::Passive => {}
            Verdict::Alive(_) => {
                if self.bounded(self.store.touch(vec![(key, now)])).await? != [true] {
                    return Ok(Err(EndedBecause::Revoked));
                }
                session.last_seen = now;
            }
        }
        Ok(Ok(session))
    }
}
