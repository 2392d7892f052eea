//! Tokens that answer for themselves, as far as revocation concerns them. One decision: what can be said against a token is
//! asked in one place – by a request, by the last look before it goes on, and for as long as something is open under it.
//! Knows nothing of signatures and claims.

use crate::clock::Timestamp;

use super::{MayStay, OpenExchange, Sessions, StoreError, TokenId, UserKey};

/// A token that was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// Its name, where it has one.
    pub id: Option<TokenId>,
    /// Whose it is.
    pub user: UserKey,
    /// When it was issued, at the earliest: everything of its bearer from before some moment may be over.
    pub issued: Timestamp,
    /// The moment from which it counts no more.
    pub ends: Timestamp,
}

impl Bearer {
    /// Where in a divided store it can be said to be over.
    pub(super) fn shards(&self) -> impl Iterator<Item = u8> {
        [Some(self.user.shard()), self.id.map(TokenId::shard)].into_iter().flatten()
    }
}

impl Sessions {
    /// Whether a token was revoked, as far as this node knows: by its id, with everything of its bearer, or with everything.
    pub fn is_denied(&self, bearer: &Bearer) -> bool {
        let by_id = bearer.id.is_some_and(|id| self.is_token_revoked(id));
        by_id || bearer.issued.0 < self.epoch(bearer.user)
    }

    /// Whether a token stands. Whoever may have missed a revocation cannot say so: the parts of the store that would know of one are
    /// asked about last.
    ///
    /// # Errors
    /// [`StoreError`], an outage, where the lease of one of these has run out.
    pub fn confirm_bearer(&self, bearer: &Bearer) -> Result<bool, StoreError> {
        if self.is_denied(bearer) {
            return Ok(false);
        }
        bearer.shards().try_for_each(|shard| self.hears(shard)).map(|()| true)
    }

    /// Register a long exchange under a token, or one that is anybody's. The token may have been revoked since it was checked: the
    /// caller checks once more by [`Sessions::confirm_bearer`] after registering. It ends too when `may_stay` says so, which is asked
    /// about once a second.
    pub fn open_exchange_outside(&self, bearer: Option<Bearer>, may_stay: MayStay) -> OpenExchange {
        self.exchanges.open_other(bearer, may_stay)
    }
}
