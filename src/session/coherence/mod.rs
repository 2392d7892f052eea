//! Many nodes, one truth: when a revocation has returned, no node serves that session any more.
//!
//! One decision: a node trusts its memory only under a lease, and a lease is renewed by nothing but a heartbeat that the master
//! *wrote* followed by reading its log to the end. So a node that cannot hear of revocations stops by itself, and whoever
//! revokes waits for acknowledgements, or until the lease of the silent must have run out.
//!
//! [`Core`] (a node's side, one part of the store) and [`Revoking`] (one revocation) are state machines: they say what to ask
//! for, are told what came of it, and know neither IO nor a clock. The driver runs them in the gateway, a simulation in
//! `tests/it/coherence` through partitions, crashes and failovers.
//!
//! What it rests on: clocks that go on while a machine is suspended and differ in rate by less than a thousandth; a cut-off master refuses writes before another
//! is promoted; nothing is evicted. What it cannot do: a node process that stands still between the last look at its lease and
//! the sending of a request is late by as long as it stood.

mod core;
mod driver;
mod revoking;

use std::time::Duration;

pub use self::core::{Ask, Core, Standing};
pub use driver::{Coherence, Listener, NoLease, Refused, Trust};
pub use revoking::{Revoking, Step};

/// A moment of a clock that nobody sets and that does not stand still with the machine, since any beginning.
pub type Moment = Duration;

/// How long a lease lasts. The bound within which a silent node stops, so the longest that a revocation waits.
pub const LEASE: Duration = Duration::from_secs(2);
/// How often it is renewed: six chances before it ends.
const BEAT: Duration = Duration::from_millis(300);
/// Heartbeats that carry an acknowledgement follow each other no closer: many events then share one.
const GAP: Duration = Duration::from_millis(5);
/// What messages of one machine's clock may be off.
const SLACK: Duration = Duration::from_millis(10);
/// How long an answer is waited for before the connection is given up: half of what is left of a lease.
const PATIENCE: Duration = Duration::from_millis(700);
/// How long events are kept for repair, and the log keeps them.
pub const HORIZON: Duration = Duration::from_secs(3_600);
/// How long reading up to the end of the log may take before the link is opened anew. Far below half the horizon.
const CATCH_UP: Duration = Duration::from_secs(60);
/// Events kept for repair: bounds memory to some 8 MB; at 500 a second, minutes – a failover takes seconds.
const WITNESSED: usize = 100_000;

/// The protocol's times, the same on every node of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long a node trusts its memory after its last heartbeat.
    pub lease: Duration,
    /// How long it may go on serving what it has in memory, beyond that.
    pub grace: Duration,
    /// Between heartbeats.
    pub beat: Duration,
    /// Between a heartbeat and one that carries an acknowledgement.
    pub gap: Duration,
    /// How long an answer is waited for.
    pub patience: Duration,
    /// How long a master that has just become known may have nodes that it does not know of.
    pub young: Duration,
    /// How long the log keeps its entries. Who was away for half of it drops its memory: the other half is for clocks of stores that
    /// differ, and for catching up.
    pub horizon: Duration,
    /// How long catching up may take.
    pub catch_up: Duration,
}

impl Rules {
    /// The defaults, with this grace.
    pub fn new(grace: Duration) -> Rules {
        let young = LEASE + LEASE / 1000 + SLACK + grace;
        Rules {
            lease: LEASE,
            grace,
            beat: BEAT,
            gap: GAP,
            patience: PATIENCE,
            young,
            horizon: HORIZON,
            catch_up: CATCH_UP,
        }
    }

    /// How long after a commit the last silent node must have stopped: its lease, its grace, and what clocks may differ by.
    pub fn bound(&self) -> Duration {
        self.lease + self.grace + (self.lease + self.grace) / 1000 + SLACK
    }

    /// How long a silent node stays registered: twice what it can serve for, so that it is waited for and never forgotten early.
    pub fn forget_after(&self) -> Duration {
        (self.lease + self.grace) * 2
    }
}
