//! The node core, run: heartbeats, pushes and revocations of every part of the store. One decision: what a machine says is done
//! and nothing else – this file holds no rule of the protocol, only connections, and the lease where requests look at it.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::causes;
use crate::clock::{Clock, SystemClock, Timestamp, since_boot};
use crate::session::shared::{Boot, Link, SharedLog, Term};
use crate::session::{Event, EventId, Part, Revocation, Revoked, StoreError, Wait};
use crate::task::task;

use super::{Ask, Core, Moment, Revoking, Rules, Standing, Step};

/// How long one question for new entries waits.
const FOLLOW: Duration = Duration::from_secs(1);
/// Pushes that come closer together than this are gathered: every wake-up of every node costs the store as much as an event.
const GATHER: Duration = Duration::from_millis(10);
/// What finding and opening a connection may take: names are resolved, sentinels asked, TLS spoken.
const CONNECT: Duration = Duration::from_secs(2);
/// A cause that was not seen for so long is news again.
const NEWS: Duration = Duration::from_secs(60);
/// Clocks that differ by more are told of: a session's limits are moments that one node writes and others compare.
const APART: Duration = Duration::from_secs(5);
/// Causes remembered for a part: more of them are no outage that a person could read.
const CAUSES: usize = 8;

/// This node may not answer from memory, because it cannot hear of revocations.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the log of revocations cannot be read, and this node's lease has run out")]
pub struct NoLease;

/// How far memory may be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// Not at all.
    None,
    /// By the grace that the configuration allows: for sessions that are in memory.
    Grace,
    /// Under a lease.
    Full,
}

/// Who carries out an event.
pub trait Listener: Send + Sync + 'static {
    /// Make memory agree with it, and cut what is open.
    fn apply(&self, event: &Event);
    /// Know of it, and nothing more: it was applied long ago by whoever was there.
    fn learn(&self, event: &Event);
    /// Drop what is in memory: events may have been missed, or the store has lost what memory was loaded from.
    fn drop_memory(&self);
    /// All that is known to be revoked in a part.
    fn known(&self, part: Part) -> Vec<Event>;
    /// Whether that is more than a store remembers, of what a store has to remember.
    fn knows_more(&self, part: Part, remembered: &[Event]) -> bool;
    /// Lease and grace of a part have run out: cut what is open there, for whoever revokes does not wait longer.
    fn lost(&self, part: Part);
}

struct Lane {
    core: Mutex<Core>,
    link: Mutex<Option<Arc<dyn Link>>>,
    /// The lease's end, in microseconds since the beginning; 0: none. What requests look at.
    lease: AtomicU64,
    /// Something is due earlier than it was.
    hurry: Notify,
    /// A link was opened or given up.
    changed: Notify,
    /// What the store's clock showed, and when.
    clock: Mutex<Option<(Timestamp, Moment)>>,
    /// Why it did not answer, and when that was seen last.
    causes: Mutex<Vec<(String, Moment)>>,
}

/// All parts of the store.
pub struct Coherence {
    log: Arc<dyn SharedLog>,
    rules: Rules,
    /// When the machine had been running for so long.
    began: Moment,
    boot: Boot,
    lanes: Box<[Lane]>,
    refused: Mutex<Option<Refused>>,
    /// This machine's clock and the store's are too far apart.
    apart: AtomicBool,
}

/// Why this node may not take part, as long as others do.
pub type Refused = Arc<dyn std::error::Error + Send + Sync>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lane {
    fn link(&self) -> Option<Arc<dyn Link>> {
        lock(&self.link).clone()
    }
}

impl Coherence {
    /// Over a log.
    pub fn new(log: Arc<dyn SharedLog>, rules: Rules) -> Arc<Coherence> {
        // Random, so that no earlier life of a node is taken for this one. The generator's failure is the end of everything else too.
        let boot = Boot(EventId::random().map_or([0; 16], |id| id.0));
        let lane = |_| Lane {
            core: Mutex::new(Core::new(rules, boot)),
            link: Mutex::new(None),
            lease: AtomicU64::new(0),
            hurry: Notify::new(),
            changed: Notify::new(),
            clock: Mutex::new(None),
            causes: Mutex::default(),
        };
        let lanes = (0..log.parts().max(1)).map(lane).collect();
        Arc::new(Coherence {
            log,
            rules,
            began: since_boot(),
            boot,
            lanes,
            refused: Mutex::new(None),
            apart: AtomicBool::new(false),
        })
    }

    /// The protocol's times.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// By a clock that goes on while the machine is suspended: so does the rest of the world, which waits for this node's lease to end
    /// and no longer.
    fn now(&self) -> Moment {
        since_boot().saturating_sub(self.began)
    }

    /// Timers stand still with the machine: what must not be late looks again by itself.
    async fn rest(&self, until: Moment) {
        sleep(until.saturating_sub(self.now())).await;
    }

    fn part(&self, index: usize) -> Part {
        let index = u8::try_from(index).unwrap_or(u8::MAX);
        Part { index, of: u8::try_from(self.lanes.len()).unwrap_or(u8::MAX) }
    }

    /// How many parts the store has.
    pub fn parts(&self) -> u8 {
        self.part(0).of
    }

    /// How far memory may be trusted for sessions of this shard. Two loads of memory: asked on every request, twice.
    pub fn trust(&self, shard: u8) -> Trust {
        self.trust_in(self.lanes[usize::from(shard) % self.lanes.len()].lease.load(Ordering::Acquire))
    }

    /// How far it may be trusted in every part at once: as far as under the lease that ends first.
    pub fn trust_all(&self) -> Trust {
        self.trust_in(self.lanes.iter().map(|lane| lane.lease.load(Ordering::Acquire)).min().unwrap_or_default())
    }

    /// The clock is read after the lease: a process that stands still in between finds that it has run out.
    fn trust_in(&self, lease: u64) -> Trust {
        let now = self.now();
        match Moment::from_micros(lease) {
            Moment::ZERO => Trust::None,
            lease if now < lease => Trust::Full,
            lease if now < lease + self.rules.grace => Trust::Grace,
            _ => Trust::None,
        }
    }

    /// Why this node may not take part, where that is so: a person has to change something.
    pub fn refused(&self) -> Option<Refused> {
        lock(&self.refused).clone()
    }

    /// Every part and how it stands.
    pub fn standing(&self) -> Vec<(Part, Standing)> {
        let now = self.now();
        self.lanes.iter().enumerate().map(|(index, lane)| (self.part(index), lock(&lane.core).standing(now))).collect()
    }

    /// Run until told to stop, then leave in good order.
    pub async fn run(self: Arc<Self>, listener: Arc<dyn Listener>, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        for index in 0..self.lanes.len() {
            let (this, to) = (self.clone(), listener.clone());
            tasks.spawn(task(async move { this.beat(index, &*to).await }));
            let (this, to) = (self.clone(), listener.clone());
            tasks.spawn(task(async move { this.follow(index, &*to).await }));
            let (this, to) = (self.clone(), listener.clone());
            tasks.spawn(task(async move { this.guard(index, &*to).await }));
        }
        stop.cancelled().await;
        tasks.shutdown().await;
        for lane in &self.lanes {
            lane.lease.store(0, Ordering::Release);
            if let Some(link) = lane.link() {
                // A revocation would wait for the lease of a node that is gone; where this fails, it does.
                let _ = timeout(self.rules.patience, link.leave(self.boot)).await;
            }
        }
    }

    /// Heartbeats of a part.
    async fn beat(&self, index: usize, listener: &dyn Listener) {
        let lane = &self.lanes[index];
        let mut stood = Standing::Cold;
        loop {
            let ask = lock(&lane.core).next(self.now());
            if let Ask::Rest(until) = ask {
                tokio::select! {
                    () = self.rest(until) => {}
                    () = lane.hurry.notified() => {}
                }
                continue;
            }
            let link = if ask == Ask::Connect { None } else { lane.link() };
            if let Err(error) = self.carry_out(index, listener, ask, link.as_ref()).await {
                match error.downcast_ref() {
                    Some(StoreError::Rules(_)) => self.refuse(error.into()),
                    _ => self.blame(index, &*error),
                }
                self.fail(index, link.as_ref());
            }
            let stands = lock(&lane.core).standing(self.now());
            if stands != stood {
                tell(index, stood, stands);
                stood = stands;
            }
        }
    }

    async fn carry_out(
        &self,
        index: usize,
        listener: &dyn Listener,
        ask: Ask,
        link: Option<&Arc<dyn Link>>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let lane = &self.lanes[index];
        match (ask, link) {
            (Ask::Rest(_), _) => {}
            (Ask::Connect, _) => {
                lock(&lane.link).take();
                let part = self.part(index).index;
                let link = timeout(CONNECT, self.log.connect(part)).await??;
                // Before the first lease over it: a token that answers for itself is refused by nothing else, and of one that was
                // denied long ago the log no longer tells whoever just began or was away. It may be much: each piece has its own deadline.
                let remembered = timeout(self.rules.catch_up, link.remembered()).await??;
                let knows_more = listener.knows_more(self.part(index), &remembered);
                remembered.iter().for_each(|event| listener.learn(event));
                let mut core = lock(&lane.core);
                if knows_more {
                    core.remembers_less();
                }
                let missed = core.opened(link.opening(), self.now());
                drop(core);
                if missed {
                    listener.drop_memory();
                    // What is open was let in by it. After a long standstill the guard may not have looked at the lease yet.
                    listener.lost(self.part(index));
                }
                *lock(&lane.link) = Some(link);
                lane.changed.notify_waiters();
            }
            // The link was given up by whoever used it last; the core knows.
            (_, None) => {}
            (Ask::Recollect, Some(_)) => {
                tracing::warn!(part = index, "the store has lost writes; what is known to be revoked is written again");
                // What it forgot is signed out: everybody is looked up anew, and what is open is looked at again within a second.
                listener.drop_memory();
                let known = listener.known(self.part(index));
                lock(&lane.core).recollected(known, self.now());
            }
            (Ask::Reassert(events), Some(link)) => {
                tracing::info!(part = index, events = events.len(), "write again what a failover lost");
                self.patient(link.reassert(events.clone())).await?;
                lock(&lane.core).reasserted(&events, self.now());
            }
            (Ask::Cycle(beat, after), Some(link)) => {
                let cycle = self.patient(link.cycle(beat, after)).await?;
                *lock(&lane.clock) = Some((cycle.clock, self.now()));
                self.compare(cycle.clock, SystemClock.now());
                let mut core = lock(&lane.core);
                let caught_up = core.follow().is_some();
                core.cycled(&cycle, self.now(), &mut |event| listener.apply(event));
                let lease = core.lease().map_or(0, |lease| u64::try_from(lease.as_micros()).unwrap_or(u64::MAX));
                let begins = !caught_up && core.follow().is_some();
                drop(core);
                lane.lease.store(lease, Ordering::Release);
                if begins {
                    lock(&self.refused).take();
                    lane.changed.notify_waiters();
                }
            }
        }
        Ok(())
    }

    /// Wait for entries between heartbeats.
    async fn follow(&self, index: usize, listener: &dyn Listener) {
        let lane = &self.lanes[index];
        let mut pushed = Moment::ZERO;
        loop {
            let changed = lane.changed.notified();
            let after = lock(&lane.core).follow();
            let (Some(after), Some(link)) = (after, lane.link()) else {
                tokio::select! {
                    () = changed => {}
                    () = sleep(self.rules.beat) => {}
                }
                continue;
            };
            match timeout(FOLLOW + self.rules.patience, link.follow(after, FOLLOW)).await {
                Ok(Ok(entries)) if entries.is_empty() => {}
                Ok(Ok(entries)) => {
                    let term = link.opening().term;
                    lock(&lane.core).pushed(term, &entries, self.now(), &mut |event| listener.apply(event));
                    lane.hurry.notify_one();
                    if self.now() < pushed + GATHER {
                        sleep(GATHER).await;
                    }
                    pushed = self.now();
                }
                Ok(Err(error)) => {
                    self.blame(index, &error);
                    self.fail(index, Some(&link));
                }
                Err(late) => {
                    self.blame(index, &late);
                    self.fail(index, Some(&link));
                }
            }
        }
    }

    /// Watch the lease: what is open ends with it.
    async fn guard(&self, index: usize, listener: &dyn Listener) {
        let lane = &self.lanes[index];
        let part = self.part(index);
        let mut held = false;
        loop {
            let lease = Moment::from_micros(lane.lease.load(Ordering::Acquire));
            let end = lease + self.rules.grace;
            if self.now() < end {
                held = true;
                self.rest(end.min(self.now() + self.rules.patience)).await;
                continue;
            }
            if std::mem::take(&mut held) {
                listener.lost(part);
            }
            // Nothing is opened without a lease; the next one is given by a heartbeat.
            sleep(self.rules.gap).await;
        }
    }

    /// Told once: it is tried again all the same, as the others may be stopped.
    fn refuse(&self, why: Refused) {
        if lock(&self.refused).replace(why.clone()).is_none() {
            tracing::error!(error = &*why as &dyn std::error::Error, "this node may not answer from memory");
        }
    }

    /// The earliest moment that it may be by the clocks of the store's parts, as far as they were heard.
    pub fn store_clock(&self) -> Option<Timestamp> {
        let now = self.now();
        let shown = self.lanes.iter().filter_map(|lane| *lock(&lane.clock));
        shown.map(|(clock, when)| clock.plus(now.saturating_sub(when))).min()
    }

    /// Say when this machine's clock and the store's come apart, and when they come together again.
    fn compare(&self, theirs: Timestamp, ours: Timestamp) {
        let by = ours.since(theirs).max(theirs.since(ours));
        if self.apart.swap(by > APART, Ordering::Relaxed) == (by > APART) {
            return;
        }
        if by > APART {
            tracing::error!(
                seconds = by.as_secs(),
                "the clocks of this machine and of the store differ: sessions end too early or too late, on this node or on all others"
            );
        } else {
            tracing::info!("the clocks of this machine and of the store agree again");
        }
    }

    /// Say why the log did not answer: once for each cause, however often it is tried, and causes may take turns.
    fn blame(&self, index: usize, error: &(dyn std::error::Error + 'static)) {
        let mut chain: Vec<String> = causes::of(error).map(ToString::to_string).collect();
        // What only hands on another's words has the same.
        chain.dedup();
        let cause = chain.join(": ");
        let (now, mut causes) = (self.now(), lock(&self.lanes[index].causes));
        causes.retain(|(_, seen)| now < *seen + NEWS);
        if let Some((_, seen)) = causes.iter_mut().find(|(known, _)| *known == cause) {
            *seen = now;
        } else if causes.len() < CAUSES {
            tracing::warn!(part = index, error = cause, "the log of revocations could not be asked");
            causes.push((cause, now));
        }
    }

    /// Give a link up, unless another took its place already.
    fn fail(&self, index: usize, link: Option<&Arc<dyn Link>>) {
        let lane = &self.lanes[index];
        let mut current = lock(&lane.link);
        let is_current = match (&*current, link) {
            (Some(current), Some(link)) => Arc::ptr_eq(current, link),
            (None, None) => true,
            _ => false,
        };
        if is_current {
            current.take();
            lock(&lane.core).failed(self.now());
            drop(current);
            lane.hurry.notify_one();
            lane.changed.notify_waiters();
        }
    }

    async fn patient<T>(&self, answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        match timeout(self.rules.patience, answer).await {
            Ok(answer) => answer,
            Err(late) => Err(StoreError::Unavailable(Box::new(late))),
        }
    }

    /// Revoke, and wait until no node serves it any more, or as long as `wait` says.
    ///
    /// # Errors
    /// [`StoreError`] where no store took it within `give_up`.
    pub async fn revoke(
        self: &Arc<Self>,
        what: Revocation,
        wait: Wait,
        give_up: Duration,
        listener: Arc<dyn Listener>,
    ) -> Result<Revoked, StoreError> {
        let id = EventId::random().map_err(|error| StoreError::Unavailable(Box::new(error)))?;
        let shard = match what {
            Revocation::Session(key) => key.shard(),
            Revocation::User { user, .. } => user.shard(),
            Revocation::Token { id, .. } => id.shard(),
            Revocation::Everyone => return self.revoke_everywhere(id, wait, give_up, &listener).await,
        };
        let index = usize::from(shard) % self.lanes.len();
        self.pursue(index, id, what, (wait, give_up), &*listener).await
    }

    /// Every part on its own, all at once.
    async fn revoke_everywhere(
        self: &Arc<Self>,
        id: EventId,
        wait: Wait,
        give_up: Duration,
        listener: &Arc<dyn Listener>,
    ) -> Result<Revoked, StoreError> {
        let mut tasks = JoinSet::new();
        for index in 0..self.lanes.len() {
            let (this, listener) = (self.clone(), listener.clone());
            let all = Revocation::Everyone;
            tasks.spawn(async move { this.pursue(index, id, all, (wait, give_up), &*listener).await });
        }
        let (mut sum, mut failed): (Option<Revoked>, _) = (None, None);
        while let Some(done) = tasks.join_next().await {
            // A part that cannot be told keeps nobody from being told in the others.
            match done.map_err(|error| StoreError::Unavailable(Box::new(error))).flatten() {
                Ok(done) => {
                    sum = Some(match sum {
                        None => done,
                        Some(sum) => both(sum, done),
                    });
                }
                Err(error) => failed = Some(error),
            }
        }
        match (sum, failed) {
            (Some(sum), None) => Ok(sum),
            (_, failed) => Err(failed.unwrap_or_else(|| StoreError::Unavailable(Box::new(NoLease)))),
        }
    }

    async fn pursue(
        &self,
        index: usize,
        id: EventId,
        what: Revocation,
        (wait, give_up): (Wait, Duration),
        listener: &dyn Listener,
    ) -> Result<Revoked, StoreError> {
        let lane = &self.lanes[index];
        let mut machine = Revoking::new(&lock(&lane.core), wait, give_up, self.now());
        let mut over: Option<Arc<dyn Link>> = None;
        loop {
            let link = lane.link();
            // Replication is a link's to confirm: what another one of the same term committed, this one did not.
            if let (Some(before), Some(link)) = (&over, &link)
                && !Arc::ptr_eq(before, link)
            {
                machine.failed();
            }
            let term = link.as_ref().map(|link| link.opening().term);
            let step = machine.next(term, self.now());
            let link = match (step.clone(), link) {
                (Step::Return(revoked), _) => return Ok(*revoked),
                (Step::GiveUp, _) => return Err(StoreError::Unavailable(Box::new(NoLease))),
                (Step::Rest(until), _) => {
                    self.rest(until).await;
                    continue;
                }
                (_, Some(link)) => link,
                (_, None) => continue,
            };
            over = Some(link.clone());
            if self.step(lane, &mut machine, (step, id, what), &link, listener).await.is_err() {
                machine.failed();
                self.fail(index, Some(&link));
            }
        }
    }

    async fn step(
        &self,
        lane: &Lane,
        machine: &mut Revoking,
        (step, id, what): (Step, EventId, Revocation),
        link: &Arc<dyn Link>,
        listener: &dyn Listener,
    ) -> Result<(), StoreError> {
        match step {
            Step::Commit => {
                let receipt = self.patient(link.commit(id, what)).await?;
                let (opening, now) = (link.opening(), self.now());
                for event in &receipt.events {
                    listener.apply(event);
                    lock(&lane.core).witness(id, *event, now);
                }
                machine.committed(opening.term, opening.replicas, &receipt, now);
            }
            Step::Replicate(within) => machine.replicated(self.patient(link.replicated(within)).await?),
            Step::Count => {
                let nodes = self.patient(link.nodes()).await?;
                let known = lock(&lane.core).term().filter(|(term, _): &(Term, Moment)| *term == link.opening().term);
                let (_, known) = known.ok_or_else(|| StoreError::Unavailable(Box::new(NoLease)))?;
                machine.counted(&nodes, known, self.now());
            }
            Step::Rest(_) | Step::Return(_) | Step::GiveUp => {}
        }
        Ok(())
    }
}

fn both(one: Revoked, other: Revoked) -> Revoked {
    Revoked {
        ended: one.ended + other.ended,
        events: [one.events, other.events].concat(),
        committed: one.committed && other.committed,
        replicated: one.replicated && other.replicated,
        everywhere: one.everywhere && other.everywhere,
        // Of the part where fewest said so.
        confirmed: one.confirmed.min(other.confirmed),
        nodes: one.nodes.max(other.nodes),
        waited: one.waited.max(other.waited),
        bound: one.bound.max(other.bound),
    }
}

/// What an operator has to know: when a node stops answering from memory, and when it begins again.
fn tell(part: usize, stood: Standing, stands: Standing) {
    match stands {
        Standing::Live => tracing::info!(part, "revocations are heard of: sessions are answered from memory"),
        Standing::Suspect => tracing::warn!(part, "the log of revocations does not answer; the lease still runs"),
        Standing::Grace => {
            tracing::warn!(part, "the lease has run out; sessions in memory are served for a while more")
        }
        Standing::Stale => tracing::warn!(part, "the lease has run out; protected routes answer 503"),
        Standing::Cold | Standing::CatchUp => tracing::debug!(part, ?stood, ?stands, "a part of the store"),
    }
}
