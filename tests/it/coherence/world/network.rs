//! The network between nodes and servers, and between servers: what reaches whom, what is replicated, who waits for what.

use portcullis::session::shared::Term;

use super::super::server::{Answer, Outcome, Question};
use super::{Back, END, Happening, NODES, Waiting, World, number};

impl World {
    pub(super) fn reaches(&self, node: usize, server: usize) -> bool {
        let sided = match &self.split {
            Some((apart, with_it, with_others)) => {
                if server == *apart {
                    with_it[node]
                } else {
                    with_others[node]
                }
            }
            None => true,
        };
        sided && !self.cut[node][server] && self.servers[server].alive && self.nodes[node].alive
    }

    pub(super) fn connected(&self, one: usize, other: usize) -> bool {
        let apart = self.split.as_ref().is_some_and(|(apart, ..)| *apart == one || *apart == other);
        !apart && self.servers[one].alive && self.servers[other].alive
    }

    pub(super) fn separate(&mut self) {
        let mut sides = ([false; NODES], [false; NODES]);
        for node in 0..NODES {
            (sides.0[node], sides.1[node]) = match self.dice.below(10) {
                0..4 => (true, false),
                4..8 => (false, true),
                _ => (true, true),
            };
        }
        self.split = Some((self.master, sides.0, sides.1));
    }

    pub(super) fn promote(&mut self) {
        let old = self.master;
        let candidates = (0..3).filter(|server| *server != old && self.servers[*server].alive);
        let Some(next) = candidates.max_by_key(|server| self.servers[*server].applied) else { return };
        let term = self.term();
        self.servers[next].promote(term);
        self.master = next;
        self.report.promotions += 1;
        // The other replica follows at once; its data become the master's.
        let other = 3 - old - next;
        self.follow(other, next);
    }

    pub(super) fn follow(&mut self, replica: usize, master: usize) {
        let (term, data) = (self.servers[master].term, self.servers[master].data.clone());
        let ops = self.servers[master].ops.len();
        let server = &mut self.servers[replica];
        (server.master, server.term, server.data, server.applied) = (false, term, data, ops);
        self.servers[master].acked[replica] = (ops, Some(self.now));
        self.waiting.retain(|waiting| waiting.server != replica);
    }

    pub(super) fn heal(&mut self) {
        self.split = None;
        for server in 0..3 {
            if server != self.master && (!self.servers[server].alive || self.servers[server].master) {
                self.servers[server].alive = true;
                self.follow(server, self.master);
            }
        }
        // A crash that nobody was promoted after.
        self.servers[self.master].alive = true;
    }

    pub(super) fn heartbeats(&mut self) {
        self.written();
        if self.now < END {
            self.at(self.now + 100, Happening::Heartbeats);
        }
    }

    /// Masters tell their replicas, and whoever waits for entries.
    pub(super) fn written(&mut self) {
        for from in 0..3 {
            if !self.servers[from].master || !self.servers[from].alive {
                continue;
            }
            let (term, upto) = (self.servers[from].term, self.servers[from].ops.len());
            for to in (0..3).filter(|to| *to != from) {
                let delay = self.delay();
                self.at(self.now + delay, Happening::Replicate { from, to, term, upto });
            }
        }
        self.wake();
    }

    pub(super) fn replicate(&mut self, from: usize, to: usize, term: Term, upto: usize) {
        if !self.connected(from, to) || self.servers[to].master || self.servers[to].term != term {
            return;
        }
        let applied = self.servers[to].applied;
        if upto > applied {
            let ops: Vec<_> = self.servers[from].ops[applied..upto].to_vec();
            ops.iter().for_each(|op| self.servers[to].data.apply(op));
            self.servers[to].applied = upto;
        }
        let (applied, delay) = (self.servers[to].applied, self.delay());
        self.at(self.now + delay, Happening::Acknowledge { from: to, to: from, term, applied });
    }

    pub(super) fn acknowledge(&mut self, from: usize, to: usize, term: Term, applied: usize) {
        if self.connected(from, to) && self.servers[to].master && self.servers[to].term == term {
            let (acked, heard) = &mut self.servers[to].acked[from];
            *acked = applied.max(*acked);
            *heard = Some(self.now);
            self.wake();
        }
    }

    pub(super) fn asked(&mut self, server: usize, term: Option<Term>, question: Question, back: Back) {
        if !self.reaches(back.node, server) {
            return;
        }
        let written = self.servers[server].ops.len();
        let wait = match question {
            Question::Replicated(within) => within,
            _ => 300,
        };
        let creates = match &question {
            Question::Create(key, user) => Some((*key, *user)),
            _ => None,
        };
        match self.servers[server].ask(term, question, self.now) {
            Outcome::Answer(Answer::Created) => {
                let (key, user) = creates.unwrap();
                self.created[number(key)] = Some((user, self.now));
            }
            Outcome::Answer(answer) => self.answer(server, answer, back),
            on => {
                self.order += 1;
                let (id, term) = (self.order, self.servers[server].term);
                self.waiting.push(Waiting { id, server, term, on, back });
                self.at(self.now + wait, Happening::WaitOver(id));
                self.wake();
            }
        }
        if self.servers[server].ops.len() > written {
            self.written();
        }
    }

    pub(super) fn answer(&mut self, server: usize, answer: Answer, back: Back) {
        let delay = self.delay();
        self.at(self.now + delay, Happening::Answered(server, answer, back));
    }

    pub(super) fn wake(&mut self) {
        let mut still = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            let server = &self.servers[waiting.server];
            if !server.master || server.term != waiting.term {
                continue;
            }
            let answer = match waiting.on {
                Outcome::WaitForEntries(after) => {
                    Some(server.after(after)).filter(|entries| !entries.is_empty()).map(Answer::Followed)
                }
                Outcome::WaitForReplica(ops) => server.is_replicated(ops).then_some(Answer::Replicated(true)),
                Outcome::Answer(_) => None,
            };
            match answer {
                Some(answer) => self.answer(waiting.server, answer, waiting.back),
                None => still.push(waiting),
            }
        }
        self.waiting.extend(still);
    }

    pub(super) fn wait_over(&mut self, id: u64) {
        if let Some(found) = self.waiting.iter().position(|waiting| waiting.id == id) {
            let Waiting { server, on, back, .. } = self.waiting.swap_remove(found);
            let answer = match on {
                Outcome::WaitForReplica(_) => Answer::Replicated(false),
                _ => Answer::Followed(Vec::new()),
            };
            self.answer(server, answer, back);
        }
    }
}
