//! One revocation, from commit to *everywhere*. One decision: it says *everywhere* only on what was proven in one term – the same
//! master committed it, a replica confirmed it, and every registered node acknowledged it or must have lost its lease – and starts
//! again where the term ends. Knows neither IO nor a clock.

use crate::session::shared::{Boot, Position, Receipt, Registered, Term};
use crate::session::{Event, Revoked, Wait};

use super::{Core, Moment, Rules};

/// How long one question for replication takes at most; it is asked again.
const REPLICATION: Moment = Moment::from_millis(200);
/// Between looks at acknowledgements: at first as long as a node's answer takes, then longer.
const LOOK: Moment = Moment::from_millis(1);
const LOOK_AT_MOST: Moment = Moment::from_millis(20);

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write it.
    Commit,
    /// Ask whether a replica has it.
    Replicate(Moment),
    /// Ask which nodes acknowledged what.
    Count,
    /// Nothing, until then.
    Rest(Moment),
    /// It is done, or as far as the caller waits.
    Return(Box<Revoked>),
    /// The store could not be told.
    GiveUp,
}

/// What stands in one term.
#[derive(Clone, Copy, Debug)]
struct Written {
    term: Term,
    at: Position,
    when: Moment,
    replicated: bool,
    looked: Option<Moment>,
    pause: Moment,
    everywhere: bool,
}

/// The machine.
#[derive(Debug)]
pub struct Revoking {
    rules: Rules,
    boot: Boot,
    began: Moment,
    /// How long acknowledgements are waited for; `None`: fully.
    cap: Option<Moment>,
    /// When the caller is told that it did not come about: no store took it, or no replica confirmed it.
    give_up: Moment,
    written: Option<Written>,
    /// It was committed in some term.
    committed: bool,
    ended: u64,
    events: Vec<Event>,
    confirmed: u32,
    nodes: u32,
}

impl Revoking {
    /// One that begins now.
    pub fn new(core: &Core, wait: Wait, give_up: Moment, now: Moment) -> Revoking {
        let cap = match wait {
            Wait::Fully => None,
            Wait::AtMost(cap) => Some(cap),
        };
        Revoking {
            rules: *core.rules(),
            boot: core.boot(),
            began: now,
            cap,
            give_up: now + give_up,
            written: None,
            committed: false,
            ended: 0,
            events: Vec::new(),
            confirmed: 0,
            nodes: 0,
        }
    }

    /// What to do now. `term`: of the link that would be asked, if there is one.
    pub fn next(&mut self, term: Option<Term>, now: Moment) -> Step {
        // Another term is another history: what the last master committed may not be in it.
        self.written = self.written.filter(|written| Some(written.term) == term);
        let capped = self.cap.is_some_and(|cap| now >= self.began + cap);
        let Some(written) = &mut self.written else {
            return match term {
                _ if self.committed && (capped || now >= self.give_up) => self.result(false, now),
                _ if now >= self.give_up => Step::GiveUp,
                Some(_) => Step::Commit,
                None => Step::Rest(now + LOOK_AT_MOST),
            };
        };
        if written.everywhere || capped || now >= self.give_up {
            let replicated = written.replicated;
            return self.result(replicated, now);
        }
        let left = self.cap.map_or(REPLICATION, |cap| (self.began + cap).saturating_sub(now));
        let look = written.looked.map(|looked| looked + written.pause);
        match look {
            // Acknowledgements come while a replica is asked for.
            Some(look) if now < look => Step::Rest(look),
            _ if !written.replicated && written.looked.is_some() => Step::Replicate(left.min(REPLICATION)),
            _ => Step::Count,
        }
    }

    /// It was written. `replicas`: one is expected to confirm.
    pub fn committed(&mut self, term: Term, replicas: bool, receipt: &Receipt, now: Moment) {
        self.committed = true;
        self.ended = self.ended.max(receipt.ended);
        self.events.clone_from(&receipt.events);
        let replicated = !replicas;
        let (looked, pause, everywhere) = (None, LOOK, false);
        self.written = Some(Written { term, at: receipt.at, when: now, replicated, looked, pause, everywhere });
    }

    /// Whether a replica has it. Asked of the link that committed it: that some later master knows of the event proves nothing,
    /// another node may have repaired it there.
    pub fn replicated(&mut self, yes: bool) {
        if let Some(written) = &mut self.written {
            written.replicated |= yes;
            // Count again before anything else.
            written.looked = None;
        }
    }

    /// Who is registered, and what each acknowledged. `known`: since when the term is.
    pub fn counted(&mut self, nodes: &[Registered], known: Moment, now: Moment) {
        let Some(written) = &mut self.written else { return };
        // Only of this history, only of the life that is registered: a position of another says nothing (I10).
        let confirms = |node: &Registered| node.term == written.term && node.applied >= written.at;
        let others = || nodes.iter().filter(|node| node.boot != self.boot);
        let (all, confirmed) = (others().count(), others().filter(|node| confirms(node)).count());
        // This node applied it at the commit.
        self.nodes = u32::try_from(all + 1).unwrap_or(u32::MAX);
        self.confirmed = u32::try_from(confirmed + 1).unwrap_or(u32::MAX);
        // A master that has just been promoted may not know of nodes that hold a lease from the last one.
        let registry_is_whole = now >= known + self.rules.young;
        let silence_is_over = now >= written.when + self.rules.bound();
        written.everywhere = written.replicated && ((confirmed == all && registry_is_whole) || silence_is_over);
        written.looked = Some(now);
        written.pause = (written.pause * 2).min(LOOK_AT_MOST);
    }

    /// The link failed: whatever was proven over it begins again.
    pub fn failed(&mut self) {
        self.written = None;
    }

    fn result(&self, replicated: bool, now: Moment) -> Step {
        let everywhere = self.written.is_some_and(|written| written.everywhere);
        Step::Return(Box::new(Revoked {
            ended: self.ended,
            events: self.events.clone(),
            committed: self.committed,
            replicated,
            everywhere,
            confirmed: self.confirmed,
            nodes: self.nodes,
            waited: now.saturating_sub(self.began),
            bound: self.rules.bound(),
        }))
    }
}
