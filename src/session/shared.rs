//! The log that nodes share, as a transport has to offer it. One decision: everything that the promise *revoked everywhere*
//! rests on – leases, acknowledgements, repair – is decided in `coherence`; a transport only carries, and says honestly what
//! it was answered. A store that serves one process has no log.
//!
//! Each [`Part`](super::Part) of a divided store has a log of its own, with its own links, terms and positions.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;

use super::{Event, EventId, Revocation, StoreError};

/// A boxed answer of a log.
pub type LogFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// One history of writes: the replication id of a master. A promoted or restarted server has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Term(pub [u8; 20]);

/// A place in a log: the id of a stream entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Milliseconds of the store's clock.
    pub ms: u64,
    /// Counts within them.
    pub seq: u64,
}

/// One life of one node's process: random, so that nothing said by an earlier life can be taken for this one's word (I10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Boot(pub [u8; 16]);

/// An entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub at: Position,
    /// Of which revocation.
    pub id: EventId,
    /// What to learn.
    pub event: Event,
}

/// What a link found when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The history that is written here.
    pub term: Term,
    /// The last id that the log gave (`last-generated-id`), whether or not the entry is still there.
    pub last: Position,
    /// Entries of this history up to here may have been trimmed (zero where none was).
    pub trimmed: Position,
    /// Whether writes are expected to reach a replica: one is configured or connected.
    pub replicas: bool,
    /// A number by which the store is known that is kept here; what comes after everything was deleted is another one.
    pub store: u64,
}

/// A heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Whose.
    pub boot: Boot,
    /// Every entry up to here was applied, its open exchanges cut: the acknowledgement.
    pub applied: Position,
    /// Nodes that were silent for longer are forgotten: none of them can hold a lease any more.
    pub forget_after: Duration,
}

/// What a cycle brought.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Cycle {
    /// Entries after the position asked from, in order.
    pub entries: Vec<Entry>,
    /// There are more than were given: not the end of the log.
    pub more: bool,
    /// What the store's clock shows. No rule of the protocol looks at it.
    pub clock: Timestamp,
}

/// A node as the log's server has it registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Which.
    pub boot: Boot,
    /// The term in which it said so.
    pub term: Term,
    /// What it acknowledged.
    pub applied: Position,
}

/// A revocation that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Where the last of its entries stands. Of a revocation submitted before: where it stood then.
    pub at: Position,
    /// Its events.
    pub events: Vec<Event>,
    /// How many live records it removed.
    pub ended: u64,
}

/// The logs of a store. Entries are kept for [`HORIZON`](super::coherence::HORIZON), counted by the ids that the master gives now.
pub trait SharedLog: Send + Sync + 'static {
    /// How many parts the store has. Part `n` holds the shards of [`Part`](super::Part)` { index: n, of: parts() }`.
    fn parts(&self) -> u8;

    /// Open a link to a part's master: find it, verify that it *is* the master, that it does not evict (`noeviction`), and that
    /// its data are of this program's version. Fails where one is not so. Every error of any call makes the caller drop the link
    /// and open another.
    fn connect(&self, part: u8) -> LogFuture<'_, Arc<dyn Link>>;
}

/// A link to the master of a part, of one term for all its life: once the server is no master any more, or of another term, every
/// call fails.
pub trait Link: Send + Sync + 'static {
    /// What was found at opening.
    fn opening(&self) -> Opening;

    /// Write the heartbeat, then read entries after `after`, in this order, on one connection. The write is what a lease rests on:
    /// a master that was cut off from its replicas still answers reads, but refuses writes. Where either fails, so does the call.
    fn cycle(&self, beat: Beat, after: Position) -> LogFuture<'_, Cycle>;

    /// Wait, at most `wait`, for entries after `after`. On a connection of its own: it blocks it. Renews nothing.
    fn follow(&self, after: Position, wait: Duration) -> LogFuture<'_, Vec<Entry>>;

    /// Carry out a revocation and write its events, in one step. The same `id` again changes nothing and answers the same – but
    /// writes something all the same, for [`Link::replicated`] to wait for: what it repeats may stand on this master alone.
    fn commit(&self, id: EventId, what: Revocation) -> LogFuture<'_, Receipt>;

    /// Whether a replica holds everything that this link committed, waiting at most `within` (`WAIT 1`). On the connection that the
    /// commits went over: `WAIT` on one that wrote nothing says yes at once.
    fn replicated(&self, within: Duration) -> LogFuture<'_, bool>;

    /// Revocations that the log may have forgotten and that still concern what is in no store: denied tokens and epochs of this part.
    fn remembered(&self) -> LogFuture<'_, Vec<Event>>;

    /// Every node registered here.
    fn nodes(&self) -> LogFuture<'_, Vec<Registered>>;

    /// Write events again that a failover may have lost, and do what they say: remove the record, set the tombstone, raise the
    /// epoch and remove the user's records of an older one. Each goes into the log again, under its id, unless what it says is true
    /// here already: judged by tombstone and epoch, not by the id.
    ///
    /// A spared session is *not* lifted, and the id is *not* taken for one that was committed here. Sparing is a statement about what
    /// came before it, and this history lacks it: a lifted record might be one that a revocation, lost with this one, had ended.
    fn reassert(&self, events: Vec<(EventId, Event)>) -> LogFuture<'_, ()>;

    /// This node ends in good order: nobody waits for it any more.
    fn leave(&self, boot: Boot) -> LogFuture<'_, ()>;
}
