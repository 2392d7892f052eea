//! The shelf: small records that expire, kept beside the sessions – refresh families, signing keys, ids that count once, locks.
//! One decision: every write names the version that it replaces, so that of several nodes that try at once exactly one
//! succeeds and the others know it. Knows nothing of what lies on it.

use crate::clock::Timestamp;

/// Where a record lies: a digest of a purpose and an id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShelfKey(pub [u8; 16]);

/// A record as it lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Of this write. Never given twice, not even to another record in the same place.
    pub version: u64,
    /// What was written.
    pub bytes: Vec<u8>,
    /// When it is gone by itself.
    pub until: Timestamp,
}

/// A write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Where.
    pub key: ShelfKey,
    /// The version it replaces; `None`: there must be none, or one that expired.
    pub over: Option<u64>,
    /// What.
    pub bytes: Vec<u8>,
    /// When it is gone by itself.
    pub until: Timestamp,
}

impl ShelfKey {
    /// The place of `id` among the records of a purpose. Length-prefixed: no two pairs share an encoding.
    pub fn of(purpose: &str, id: &[u8]) -> ShelfKey {
        ShelfKey(super::digest("portcullis/shelf/1", &[purpose.as_bytes(), id]))
    }
}

impl ShelfKey {
    /// Which part of a divided store it lies in.
    pub fn shard(self) -> u8 {
        self.0[15]
    }
}

impl std::fmt::Debug for ShelfKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        super::short(&self.0, f)
    }
}
