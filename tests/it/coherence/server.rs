//! The store of the simulation: a master that writes a log and sessions, replicas that follow it, the write fence, and a clock
//! that is not the others'. As much of Redis as the protocol rests on, and as treacherous.

use std::collections::{BTreeMap, HashMap, HashSet};

use portcullis::clock::Timestamp;
use portcullis::session::shared::{Beat, Boot, Cycle, Entry, Opening, Position, Receipt, Registered, Term};
use portcullis::session::{Event, EventId, Part, Revocation, SessionKey, UserKey};

/// `min-replicas-max-lag`: a master that no replica heard of for so long refuses writes.
pub const FENCE: u64 = 1_000;

/// A session's record.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub user: UserKey,
    pub epoch: u64,
}

/// What is replicated.
#[derive(Clone, Default)]
pub struct Data {
    pub log: Vec<Entry>,
    pub last: Position,
    pub sessions: BTreeMap<SessionKey, Record>,
    nodes: BTreeMap<Boot, (Registered, u64)>,
    receipts: HashMap<EventId, Receipt>,
    ended: HashSet<SessionKey>,
    epochs: HashMap<UserKey, u64>,
    everyone: u64,
    highest: u64,
}

/// A write, as it is sent to replicas: with everything that was decided already.
#[derive(Clone, Debug)]
pub enum Op {
    Beat(Registered, u64, u64),
    Create(SessionKey, UserKey),
    Commit(EventId, Vec<Entry>),
    Reassert(Entry),
    Trim(Position),
}

impl Data {
    fn place(&mut self, clock: u64) -> Position {
        // As XADD: never below the last id, whatever the clock says.
        let next = Position { ms: self.last.ms, seq: self.last.seq + 1 };
        Position { ms: clock, seq: 0 }.max(next)
    }

    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Beat(node, at, forget_after) => {
                self.nodes.insert(node.boot, (*node, *at));
                self.nodes.retain(|_, (_, seen)| *seen + forget_after >= *at);
            }
            Op::Create(key, user) => {
                let epoch = self.epochs.get(user).copied().unwrap_or(0).max(self.everyone);
                self.sessions.insert(*key, Record { user: *user, epoch });
            }
            Op::Commit(id, entries) => {
                let before = self.sessions.len();
                for entry in entries {
                    self.carry_out(entry.event, true);
                    self.last = entry.at.max(self.last);
                    self.log.push(*entry);
                }
                let ended = (before - self.sessions.len()) as u64;
                let events = entries.iter().map(|entry| entry.event).collect();
                self.receipts.insert(*id, Receipt { at: self.last, events, ended });
            }
            Op::Reassert(entry) => {
                self.carry_out(entry.event, false);
                self.last = entry.at.max(self.last);
                self.log.push(*entry);
            }
            Op::Trim(below) => self.log.retain(|entry| entry.at >= *below),
        }
    }

    fn carry_out(&mut self, event: Event, spares: bool) {
        match event {
            Event::Ended { key, .. } => {
                self.sessions.remove(&key);
                self.ended.insert(key);
            }
            Event::UserEpoch { user, epoch, spared } => {
                let stands = self.epochs.entry(user).or_default();
                *stands = epoch.max(*stands);
                let stands = *stands;
                self.highest = epoch.max(self.highest);
                if let Some(record) = spared.filter(|_| spares).and_then(|key| self.sessions.get_mut(&key)) {
                    record.epoch = epoch.max(record.epoch);
                }
                self.sessions.retain(|_, record| record.user != user || record.epoch >= stands);
            }
            Event::Everyone { epoch, .. } => {
                self.highest = epoch.max(self.highest);
                self.everyone = epoch.max(self.everyone);
                let stands = self.everyone;
                self.sessions.retain(|_, record| record.epoch >= stands);
            }
            Event::Token { .. } => {}
        }
    }

    fn is_true(&self, event: Event) -> bool {
        match event {
            Event::Ended { key, .. } => self.ended.contains(&key),
            Event::UserEpoch { user, epoch, .. } => self.epochs.get(&user).is_some_and(|stands| *stands >= epoch),
            Event::Everyone { epoch, .. } => self.everyone >= epoch,
            Event::Token { .. } => true,
        }
    }

    fn event(&self, what: Revocation, clock: u64) -> Event {
        let epoch = clock.max(self.highest + 1);
        match what {
            Revocation::Session(key) => Event::Ended { key, until: Timestamp(u64::MAX) },
            Revocation::User { user, except } => Event::UserEpoch { user, epoch, spared: except },
            Revocation::Everyone => Event::Everyone { part: Part::WHOLE, epoch },
            Revocation::Token { id, until } => Event::Token { id, until },
        }
    }
}

/// A server process.
pub struct Server {
    pub alive: bool,
    pub master: bool,
    pub term: Term,
    pub data: Data,
    /// What was written in this term; a replica has applied the first `applied` of its master's.
    pub ops: Vec<Op>,
    pub applied: usize,
    /// Per server: what it acknowledged in this term, and when it was last heard of.
    pub acked: [(usize, Option<u64>); 3],
    /// Its clock, against the others'.
    skew: u64,
    /// The fence is not built: a heartbeat is answered by a master that may not write.
    pub reads_renew: bool,
}

/// A question that a link carries.
#[derive(Clone, Debug)]
pub enum Question {
    Connect,
    Cycle(Beat, Position),
    Reassert(Vec<(EventId, Event)>),
    Follow(Position),
    Commit(EventId, Revocation),
    Replicated(u64),
    Nodes,
    Load(SessionKey),
    Create(SessionKey, UserKey),
}

/// Its answer.
#[derive(Clone, Debug)]
pub enum Answer {
    Opened(Opening),
    Cycled(Cycle),
    Reasserted,
    Followed(Vec<Entry>),
    Committed(Receipt),
    Replicated(bool),
    Nodes(Vec<Registered>),
    Loaded(Option<Record>),
    Created,
    Refused,
}

/// What a server does with a question.
pub enum Outcome {
    Answer(Answer),
    /// Until an entry after this one is written.
    WaitForEntries(Position),
    /// Until a replica has this many ops.
    WaitForReplica(usize),
}

impl Server {
    pub fn new(skew: u64) -> Server {
        Server {
            alive: true,
            master: false,
            term: Term([0; 20]),
            data: Data::default(),
            ops: Vec::new(),
            applied: 0,
            acked: [(0, None); 3],
            skew,
            reads_renew: false,
        }
    }

    fn clock(&self, now: u64) -> u64 {
        1_000_000 + now + self.skew
    }

    /// Become master of a new term.
    pub fn promote(&mut self, term: Term) {
        (self.master, self.term, self.ops) = (true, term, Vec::new());
        self.acked = [(0, None); 3];
    }

    fn may_write(&self, now: u64) -> bool {
        self.acked.iter().any(|(_, heard)| heard.is_some_and(|heard| heard + FENCE > now))
    }

    fn write(&mut self, op: Op) {
        self.data.apply(&op);
        self.ops.push(op);
    }

    /// Entries up to one so old are forgotten.
    pub fn trim(&mut self, now: u64, keep: u64) {
        if self.master && self.alive && self.may_write(now) {
            let below = Position { ms: self.clock(now).saturating_sub(keep), seq: 0 };
            self.write(Op::Trim(below));
        }
    }

    pub fn after(&self, position: Position) -> Vec<Entry> {
        let from = self.data.log.partition_point(|entry| entry.at <= position);
        self.data.log[from..].to_vec()
    }

    /// Answer; `term` is the link's.
    pub fn ask(&mut self, term: Option<Term>, question: Question, now: u64) -> Outcome {
        if !self.master || term.is_some_and(|term| term != self.term) {
            return Outcome::Answer(Answer::Refused);
        }
        let writes = matches!(
            question,
            Question::Cycle(..) | Question::Reassert(_) | Question::Commit(..) | Question::Create(..)
        );
        let may_write = self.may_write(now);
        if writes && !may_write && !(self.reads_renew && matches!(question, Question::Cycle(..))) {
            return Outcome::Answer(Answer::Refused);
        }
        Outcome::Answer(match question {
            Question::Connect => Answer::Opened(Opening {
                term: self.term,
                last: self.data.last,
                trimmed: Position::default(),
                replicas: true,
                store: 1,
            }),
            Question::Cycle(beat, after) => {
                let node = Registered { boot: beat.boot, term: self.term, applied: beat.applied };
                if may_write {
                    let forget_after = u64::try_from(beat.forget_after.as_millis()).unwrap();
                    self.write(Op::Beat(node, now, forget_after));
                }
                let mut entries = self.after(after);
                let more = entries.len() > 3;
                entries.truncate(3);
                Answer::Cycled(Cycle { entries, more, ..Cycle::default() })
            }
            Question::Reassert(events) => {
                for (id, event) in events {
                    if !self.data.is_true(event) {
                        let at = self.data.place(self.clock(now));
                        self.write(Op::Reassert(Entry { at, id, event }));
                    }
                }
                Answer::Reasserted
            }
            Question::Follow(after) => match self.after(after) {
                entries if entries.is_empty() => return Outcome::WaitForEntries(after),
                entries => Answer::Followed(entries),
            },
            Question::Commit(id, what) => {
                if !self.data.receipts.contains_key(&id) {
                    let (at, event) = (self.data.place(self.clock(now)), self.data.event(what, self.clock(now)));
                    self.write(Op::Commit(id, vec![Entry { at, id, event }]));
                }
                Answer::Committed(self.data.receipts[&id].clone())
            }
            Question::Replicated(_) => return Outcome::WaitForReplica(self.ops.len()),
            Question::Nodes => Answer::Nodes(self.data.nodes.values().map(|(node, _)| *node).collect()),
            Question::Load(key) => Answer::Loaded(self.data.sessions.get(&key).copied()),
            Question::Create(key, user) => {
                self.write(Op::Create(key, user));
                Answer::Created
            }
        })
    }

    /// Whether a replica has so many ops of this term.
    pub fn is_replicated(&self, ops: usize) -> bool {
        self.acked.iter().any(|(acked, _)| *acked >= ops)
    }
}
