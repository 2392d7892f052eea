//! What can be revoked, and what every node has to learn of it. One decision: an event is a statement that stays true – *this is
//! over until then*, *older epochs are over* – so that events may be repeated, reordered and told by anybody: merging them is
//! set union and maximum. Knows nothing of how an event travels.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

use super::{SessionKey, UserKey};

/// How long a tombstone stands where no record says how long the session could have lived: longer than any token that was
/// issued in it.
pub const UNKNOWN_ENDS: Duration = Duration::from_secs(3_600);

/// How long a user's epoch is remembered after it was raised. Records of older epochs are removed in the same step; what is left
/// are tokens, which live minutes, and those of other makers, which live days.
pub(crate) const EPOCHS_KEPT: Duration = Duration::from_secs(30 * 86_400);

/// A token as a denial knows it: a digest of who issued it and what the issuer calls it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TokenId(pub [u8; 16]);

/// Names a revocation, so that one which is submitted again – a lost answer, a failover – is known to be the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EventId(pub [u8; 16]);

/// A part of a divided store: the shards whose number leaves `index` when divided by `of`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Part {
    /// Which, from 0.
    pub index: u8,
    /// Of how many; never 0.
    pub of: u8,
}

/// What to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// One session.
    Session(SessionKey),
    /// Every session of a user, `except` one where the user asked from it.
    User { user: UserKey, except: Option<SessionKey> },
    /// Everybody's.
    Everyone,
    /// A token that answers for itself until `until`, and is in no store.
    Token { id: TokenId, until: Timestamp },
}

/// What a node must do to its memory once a revocation is committed. Applying one twice, or two in any order, is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Event {
    /// This session is over, and nothing issued in it lives past `until`.
    Ended { key: SessionKey, until: Timestamp },
    /// The user's sessions of an older epoch are over; a spared one was lifted to the new epoch in the same step. Epochs are
    /// milliseconds of the store's clock made strictly increasing: one that was forgotten is never given again.
    UserEpoch { user: UserKey, epoch: u64, spared: Option<SessionKey> },
    /// Every session of an older epoch in this part of the store is over.
    Everyone { part: Part, epoch: u64 },
    /// This token is refused until it would have ended by itself.
    Token { id: TokenId, until: Timestamp },
}

/// What a store did to carry out a revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// How many live records were removed.
    pub ended: u64,
    /// What every node's memory must learn.
    pub events: Vec<Event>,
}

/// How long a revocation may wait for the other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until no node serves it any more: for administration, and for a provider that ends a session.
    Fully,
    /// At most so long: for a browser that waits for its page. This node is right at once, the others within the bound.
    AtMost(Duration),
}

impl Wait {
    /// What a browser's sign-out waits at most: nobody notices it, and nodes that are well answer in a few milliseconds.
    pub const BROWSER: Wait = Wait::AtMost(Duration::from_millis(50));
}

/// What came of a revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// How many live records were removed.
    pub ended: u64,
    /// What was revoked, as nodes know it.
    pub events: Vec<Event>,
    /// The store has it, durably as far as one server can say.
    pub committed: bool,
    /// A replica has it too, or there is none to have.
    pub replicated: bool,
    /// No node serves it any more: each said so, or its lease has run out.
    pub everywhere: bool,
    /// How many nodes said that they serve it no more.
    pub confirmed: u32,
    /// Of how many.
    pub nodes: u32,
    /// How long this took.
    pub waited: Duration,
    /// How long after the commit the last silent node must have stopped serving it.
    pub bound: Duration,
}

impl Part {
    /// All of a store that is not divided.
    pub const WHOLE: Part = Part { index: 0, of: 1 };

    /// Whether a shard is in it.
    pub fn holds(self, shard: u8) -> bool {
        shard % self.of.max(1) == self.index
    }
}

impl TokenId {
    /// The id of an issuer's token. Length-prefixed: no two pairs share an encoding.
    pub fn of(issuer: &str, id: &str) -> TokenId {
        TokenId(super::digest("portcullis/token/1", &[issuer.as_bytes(), id.as_bytes()]))
    }

    /// Which part of a divided store remembers it.
    pub fn shard(self) -> u8 {
        self.0[15]
    }
}

impl EventId {
    /// A new one; random, so that nodes need not agree on anything.
    ///
    /// # Errors
    /// The system's generator failed.
    pub fn random() -> Result<EventId, super::KeyError> {
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| super::KeyError::Random)?;
        Ok(EventId(id))
    }

    /// The name of what is written again although nobody remembers under which name it was first: the same on every node, so that
    /// one of them is enough.
    pub fn of(event: &Event) -> EventId {
        let (kind, whom, number) = match event {
            Event::Ended { key, until } => (b"s", key.0, until.0),
            Event::UserEpoch { user, epoch, .. } => (b"u", user.0, *epoch),
            Event::Everyone { part, epoch } => (b"g", [part.index; 16], *epoch),
            Event::Token { id, until } => (b"t", id.0, until.0),
        };
        EventId(super::digest("portcullis/event/1", &[kind, &whom, &number.to_be_bytes()]))
    }
}

impl Event {
    /// In whose part of a divided store it stands; `None`: in each.
    pub fn shard(&self) -> Option<u8> {
        match self {
            Event::Ended { key, .. } => Some(key.shard()),
            Event::UserEpoch { user, .. } => Some(user.shard()),
            Event::Token { id, .. } => Some(id.shard()),
            Event::Everyone { .. } => None,
        }
    }

    /// Whether it stands in this part.
    pub fn concerns(&self, part: Part) -> bool {
        self.shard().is_none_or(|shard| part.holds(shard))
    }

    /// When nobody needs it any more; `None` where only a newer epoch ends it.
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Event::Ended { until, .. } | Event::Token { until, .. } => Some(*until),
            Event::UserEpoch { .. } | Event::Everyone { .. } => None,
        }
    }
}

impl std::fmt::Debug for TokenId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        super::short(&self.0, f)
    }
}

impl std::fmt::Debug for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        super::short(&self.0, f)
    }
}
