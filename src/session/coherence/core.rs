//! A node's side of one part of the store: when it may trust its memory. One decision: everything it was told before a
//! connection was lost is kept – nothing un-revokes – but what it *may do* is decided anew by every heartbeat. Knows neither IO
//! nor a clock.

use std::collections::{BTreeSet, HashSet, VecDeque};

use crate::session::shared::{Beat, Boot, Cycle, Entry, Opening, Position, Term};
use crate::session::{Event, EventId};

use super::{Moment, Rules, WITNESSED};

/// Events that one call re-submits.
const REASSERTED: usize = 1_000;

/// What a node may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It never read the log.
    Cold,
    /// It reads what it missed, and has no lease.
    CatchUp,
    /// Everything is as it should be.
    Live,
    /// A heartbeat failed; the lease still runs.
    Suspect,
    /// No lease, but the grace that the configuration allows to what is in memory.
    Grace,
    /// No lease: memory is answered no more.
    Stale,
}

/// What to do next on the connection of heartbeats. One thing at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Find the master and open a link.
    Connect,
    /// The store is behind what was read from it: what memory holds of sessions may be in it no more, and every revocation that is
    /// known here, however old, is to be handed to [`Core::recollected`].
    Recollect,
    /// Write again what the new master does not have.
    Reassert(Vec<(EventId, Event)>),
    /// Heartbeat, then read.
    Cycle(Beat, Position),
    /// Nothing, until then.
    Rest(Moment),
}

/// An event as it was learnt, kept in case that a failover loses it.
#[derive(Clone, Copy, Debug)]
struct Witnessed {
    id: EventId,
    event: Event,
    seen: Moment,
}

/// A link as it stands.
#[derive(Debug)]
struct Linked {
    term: Term,
    opened: Moment,
    /// When a cycle was asked for.
    asked: Moment,
    /// The log was read to its end once.
    caught_up: bool,
    /// A lease was renewed over it.
    leased: bool,
}

/// The machine.
#[derive(Debug)]
pub struct Core {
    rules: Rules,
    boot: Boot,
    link: Option<Linked>,
    /// What was applied, and of which history.
    position: Option<(Term, Position)>,
    /// The last entry that was read of another history, where it was not met in this one yet.
    unmet: Option<Position>,
    /// The store of the last link.
    store: Option<u64>,
    /// The term of the last link, and since when it is known.
    known: Option<(Term, Moment)>,
    lease: Option<Moment>,
    /// When the log was last known to its end.
    complete: Option<Moment>,
    /// When the next thing is due.
    due: Moment,
    failures: u32,
    /// Events that were seen in an earlier term, and were not found in this one yet. Outlives a link that fails before all of them
    /// are written again.
    missing: BTreeSet<(EventId, Event)>,
    /// The store lost what it had told once: a failover, an older copy put back, everything deleted.
    behind: bool,
    witnessed: VecDeque<Witnessed>,
    applied: HashSet<(EventId, Event)>,
}

impl Core {
    /// A node that just began.
    pub fn new(rules: Rules, boot: Boot) -> Core {
        Core {
            rules,
            boot,
            link: None,
            position: None,
            unmet: None,
            store: None,
            known: None,
            lease: None,
            complete: None,
            due: Moment::ZERO,
            failures: 0,
            missing: BTreeSet::new(),
            behind: false,
            witnessed: VecDeque::new(),
            applied: HashSet::new(),
        }
    }

    /// The protocol's times.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Who this is.
    pub fn boot(&self) -> Boot {
        self.boot
    }

    /// What to do now.
    pub fn next(&mut self, now: Moment) -> Ask {
        if now < self.due {
            return Ask::Rest(self.due);
        }
        // A process that stood still for as long as a lease (a suspended machine) finds its link well and its log trimmed: at the
        // opening of a link it is asked for how long.
        let stood_still = |link: &Linked| link.leased && self.lease.is_some_and(|lease| lease <= now);
        let too_slow = |link: &Linked| !link.leased && link.opened + self.rules.catch_up < now;
        self.link.take_if(|link| stood_still(link) || too_slow(link));
        let Some(link) = &mut self.link else { return Ask::Connect };
        if link.caught_up && self.behind {
            return Ask::Recollect;
        }
        if link.caught_up && !self.missing.is_empty() {
            return Ask::Reassert(self.missing.iter().take(REASSERTED).copied().collect());
        }
        // The lease counts from before the question: everything committed before the master read its log is in the answer.
        link.asked = now;
        let applied = self.position.map_or(Position::default(), |(_, position)| position);
        Ask::Cycle(Beat { boot: self.boot, applied, forget_after: self.rules.forget_after() }, applied)
    }

    /// A link was opened. Answers whether memory has to be dropped: the log no longer has what was missed. What is known to be
    /// revoked stays.
    pub fn opened(&mut self, opening: Opening, now: Moment) -> bool {
        let Opening { term, last, trimmed, store, .. } = opening;
        if self.known.is_none_or(|(known, _)| known != term) {
            self.known = Some((term, now));
        }
        let before = self.position;
        // Not by the log alone: whoever came first after everything was deleted has written it anew by now.
        let was_deleted = self.store.replace(store).is_some_and(|before| before != store);
        // Of the same history, what comes after the last entry read is what is missing. In another one, positions mean nothing:
        // a promoted server with a slower clock writes ids below the lost tail, so its whole log is read. What is known
        // already changes nothing.
        let from = before.filter(|(of, at)| *of == term && *at <= last && !was_deleted).map(|(_, at)| at);
        self.position = Some((term, from.unwrap_or_default()));
        self.behind |= was_deleted || before.is_some_and(|(_, at)| at > last);
        if from.is_none() {
            self.missing = self.witnessed.iter().map(|one| (one.id, one.event)).collect();
            let read = before.map(|(_, at)| at).filter(|at| *at > Position::default());
            self.unmet = self.unmet.max(read).filter(|at| *at > trimmed);
        }
        self.link = Some(Linked { term, opened: now, asked: now, caught_up: false, leased: false });
        self.due = now;
        // Judged by this node's own clock: ids of another history are another clock's.
        let long_ago = self.complete.is_none_or(|complete| complete + self.rules.horizon / 2 < now);
        let was_emptied = was_deleted || before.is_some_and(|(of, at)| of == term && at > last);
        let was_trimmed = from.is_some_and(|from| from < trimmed);
        before.is_some() && (long_ago || was_emptied || was_trimmed)
    }

    /// The store remembers less than this node was told, as far as it can say at the opening of a link.
    pub fn remembers_less(&mut self) {
        self.behind = true;
    }

    /// All that is known to be revoked, of a store that is behind. What is true there already is passed over by whoever writes it.
    pub fn recollected(&mut self, known: impl IntoIterator<Item = Event>, now: Moment) {
        self.behind = false;
        self.missing.extend(known.into_iter().map(|event| (EventId::of(&event), event)));
        self.due = now;
    }

    /// These events are in the log again.
    pub fn reasserted(&mut self, events: &[(EventId, Event)], now: Moment) {
        for event in events {
            self.missing.remove(event);
        }
        self.due = now;
    }

    /// A heartbeat was written and the log read after it. Events are applied before the lease is renewed.
    pub fn cycled(&mut self, cycle: &Cycle, now: Moment, apply: &mut dyn FnMut(&Event)) {
        self.read(&cycle.entries, now, apply);
        let Some(link) = &mut self.link else { return };
        if cycle.more {
            self.due = now;
            return;
        }
        // Read to its end for the first time, and not all of what was read elsewhere was in it; or it is there again, written by a node
        // that came first, and what stood beside it in the store is not.
        let lost = !link.caught_up && (self.unmet.take().is_some() || !self.missing.is_empty());
        link.caught_up = true;
        self.behind |= lost;
        if self.behind || !self.missing.is_empty() {
            // Repair comes before the lease: what this node alone remembers must not depend on it staying alive.
            self.due = now;
            return;
        }
        self.failures = 0;
        link.leased = true;
        self.complete = Some(link.asked);
        self.lease = Some(link.asked + self.rules.lease).max(self.lease);
        let pause = if cycle.entries.is_empty() { self.rules.beat } else { self.rules.gap };
        self.due = link.asked + pause;
    }

    /// Entries that were pushed between heartbeats. They are acknowledged at once; the lease is not renewed by them. What comes when
    /// it has run out may follow on a gap, and waits for the link to be opened anew.
    pub fn pushed(&mut self, term: Term, entries: &[Entry], now: Moment, apply: &mut dyn FnMut(&Event)) {
        let Some(link) = self.link.as_ref().filter(|link| link.term == term) else { return };
        if self.lease.is_none_or(|lease| lease <= now) {
            return;
        }
        let due = link.asked + self.rules.gap;
        if self.read(entries, now, apply) {
            self.due = self.due.min(due);
        }
    }

    fn read(&mut self, entries: &[Entry], now: Moment, apply: &mut dyn FnMut(&Event)) -> bool {
        let Some((_, position)) = &mut self.position else { return false };
        let before = *position;
        for entry in entries {
            // Not by whether it is news: after a failover an epoch may be lower than one that was lost, and yet end a session that
            // the lost one spared. An entry that was applied costs no session in memory its place when the log is read again.
            if !self.applied.contains(&(entry.id, entry.event)) {
                apply(&entry.event);
            }
            self.missing.remove(&(entry.id, entry.event));
            self.unmet.take_if(|unmet| *unmet == entry.at);
            *position = entry.at.max(*position);
        }
        let moved = *position > before;
        for entry in entries {
            self.witness(entry.id, entry.event, now);
        }
        moved
    }

    /// Keep an event, in case that a failover loses it.
    pub fn witness(&mut self, id: EventId, event: Event, now: Moment) {
        let old = |one: &Witnessed| one.seen + self.rules.horizon < now;
        while self.witnessed.front().is_some_and(old) || self.witnessed.len() >= WITNESSED {
            if let Some(one) = self.witnessed.pop_front() {
                self.applied.remove(&(one.id, one.event));
            }
        }
        if self.applied.insert((id, event)) {
            self.witnessed.push_back(Witnessed { id, event, seen: now });
        }
    }

    /// Something failed: the link is given up, and another tried for after a pause that grows.
    pub fn failed(&mut self, now: Moment) {
        self.link = None;
        self.failures = self.failures.saturating_add(1);
        // 20 to 500 ms, spread by who asks: nodes that lost the same master do not come back in one moment.
        let longest = 20_u64 << self.failures.min(6).saturating_sub(1);
        let spread = u64::from(self.boot.0[usize::try_from(self.failures).unwrap_or_default() % 16]);
        let pause = longest.min(500) * (256 + spread) / 512;
        self.due = now + Moment::from_millis(pause);
    }

    /// The term of the link, where there is one, and since when it is known.
    pub fn term(&self) -> Option<(Term, Moment)> {
        self.link.as_ref().and(self.known)
    }

    /// Until when memory may be trusted.
    pub fn lease(&self) -> Option<Moment> {
        self.lease
    }

    /// Where entries are to be waited for from; `None` before the log was read to its end.
    pub fn follow(&self) -> Option<Position> {
        self.link.as_ref().filter(|link| link.caught_up)?;
        self.position.map(|(_, position)| position)
    }

    /// What this node may do.
    pub fn standing(&self, now: Moment) -> Standing {
        let Some(lease) = self.lease else {
            return if self.link.is_some() { Standing::CatchUp } else { Standing::Cold };
        };
        match (now < lease, &self.link) {
            (true, Some(link)) if link.caught_up => Standing::Live,
            (true, _) => Standing::Suspect,
            (false, _) if now < lease + self.rules.grace => Standing::Grace,
            (false, Some(_)) => Standing::CatchUp,
            (false, None) => Standing::Stale,
        }
    }
}
