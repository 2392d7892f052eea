//! Whoever asks, signs in and is revoked; and the judgement of what they were answered.

use std::collections::HashSet;
use std::time::Duration;

use portcullis::session::coherence::{Revoking, Standing, Step};
use portcullis::session::generations::Before;
use portcullis::session::{EventId, Revocation, Revoked, SessionKey, Wait};

use super::super::server::{Answer, Question};
use super::{
    ALL, Cached, END, Happening, LAST, NODES, Pursuit, QUIET, SESSIONS, Token, USERS, World, millis, moment, number,
    user,
};

impl World {
    pub(super) fn people(&mut self) {
        for node in 0..NODES {
            if self.now > LAST {
                (0..self.next_session).for_each(|n| self.request(node, SessionKey([n; 16])));
                continue;
            }
            let n = u8::try_from(self.dice.below(u64::from(self.next_session))).unwrap();
            self.request(node, SessionKey([n; 16]));
            // And one who was revoked lately.
            let lately = self.pursuits.iter().rev().take(4).map(|pursuit| pursuit.what);
            let concerned = lately.filter_map(|what| match what {
                Revocation::Session(key) => Some(key),
                _ => None,
            });
            let concerned: Vec<_> = concerned.collect();
            let key = match concerned.is_empty() {
                true => SessionKey([u8::try_from(self.dice.below(u64::from(SESSIONS))).unwrap(); 16]),
                false => concerned[usize::try_from(self.dice.below(concerned.len() as u64)).unwrap()],
            };
            self.request(node, key);
        }
        if self.now > 1_000 && self.dice.chance(1) && usize::from(self.next_session) < ALL && self.now < QUIET {
            self.sign_in();
        }
        if self.now < END {
            let pause = if self.now > LAST { 300 } else { 40 };
            self.at(self.now + pause, Happening::People);
        }
    }

    pub(super) fn sign_in(&mut self) {
        let node = usize::try_from(self.dice.below(NODES as u64)).unwrap();
        if let Some((server, ..)) = self.nodes[node].link {
            let (key, of) = (SessionKey([self.next_session; 16]), user(self.next_session % USERS));
            self.next_session += 1;
            self.send(node, server, Question::Create(key, of), Token::Nobody);
        }
    }

    pub(super) fn trusts(&self, node: usize) -> bool {
        let this = &self.nodes[node];
        match self.protections.lease {
            true => matches!(this.core.standing(moment(self.now)), Standing::Live | Standing::Suspect),
            false => this.was_live,
        }
    }

    pub(super) fn request(&mut self, node: usize, key: SessionKey) {
        if !self.nodes[node].alive || !self.trusts(node) {
            return;
        }
        let this = &self.nodes[node];
        if let Some(cached) = &this.cache[number(key)] {
            let counts = !self.protections.fill_guard || this.generations.counts(cached.stamp, key, cached.record.user);
            if counts {
                return self.accept(node, key, self.now);
            }
        }
        if let Some((server, ..)) = this.link {
            let before = this.generations.before(key);
            let token = Token::Load { key, began: self.now, before };
            self.send(node, server, Question::Load(key), token);
        }
    }

    pub(super) fn loaded(
        &mut self,
        node: usize,
        link: u64,
        (key, began, before): (SessionKey, u64, Before),
        answer: Answer,
    ) {
        // The same link, so the same term, and a lease at the end as at the beginning.
        let same = self.nodes[node].link.is_some_and(|(_, _, now)| now == link);
        let Answer::Loaded(Some(record)) = answer else { return };
        if !same || !self.trusts(node) {
            return;
        }
        let this = &mut self.nodes[node];
        if self.protections.tombstones && this.ledger.is_over(key, record.user, record.epoch) {
            return;
        }
        let stamp = this.generations.stamp(before, record.user);
        if self.protections.fill_guard && !this.generations.counts(stamp, key, record.user) {
            return;
        }
        this.cache[number(key)] = Some(Cached { record, stamp });
        self.accept(node, key, began);
    }

    pub(super) fn accept(&mut self, node: usize, key: SessionKey, began: u64) {
        self.report.accepted += 1;
        self.seen[node][number(key)] = self.now;
        for pursuit in &self.pursuits {
            if let Some(returned) = pursuit.returned.filter(|returned| began > *returned)
                && self.concerns(pursuit, key)
            {
                let late = began - returned;
                let what = pursuit.what;
                self.report.accepted_late += 1;
                if self.report.violations.len() < 3 {
                    self.report.violations.push(format!("node {node} at {began}: {key:?}, {late} ms after {what:?}"));
                }
            }
        }
    }

    pub(super) fn concerns(&self, pursuit: &Pursuit, key: SessionKey) -> bool {
        let Some((of, created)) = self.created[number(key)] else { return false };
        created < pursuit.began
            && match pursuit.what {
                Revocation::Session(ended) => ended == key,
                Revocation::User { user, except } => user == of && except != Some(key),
                Revocation::Everyone => true,
                Revocation::Token { .. } => false,
            }
    }

    pub(super) fn revoke(&mut self) {
        let node = usize::try_from(self.dice.below(NODES as u64)).unwrap();
        let key = |n: u64| SessionKey([u8::try_from(n).unwrap(); 16]);
        let any = key(self.dice.below(u64::from(self.next_session)));
        // Nobody can name a session before it is there.
        let any = if self.created[number(any)].is_some() { any } else { key(0) };
        let of = user(u8::try_from(self.dice.below(u64::from(USERS))).unwrap());
        let what = match self.dice.below(20) {
            0 => Revocation::Everyone,
            1..5 => Revocation::User { user: of, except: None },
            5..9 => {
                let mine: Vec<_> =
                    (0..self.next_session).filter(|n| user(n % USERS) == of).map(|n| SessionKey([n; 16])).collect();
                let spared = mine[usize::try_from(self.dice.below(mine.len() as u64)).unwrap()];
                Revocation::User { user: of, except: Some(spared) }
            }
            _ => Revocation::Session(any),
        };
        let (id, life) = (EventId(self.dice.id()), self.nodes[node].life);
        let machine = self.nodes[node]
            .alive
            .then(|| Revoking::new(&self.nodes[node].core, Wait::Fully, Duration::from_secs(8), moment(self.now)));
        let done = machine.is_none();
        let (began, returned, asked, link) = (self.now, None, None, 0);
        self.pursuits.push(Pursuit { what, id, node, life, machine, asked, link, began, returned, done });
        self.pursue(self.pursuits.len() - 1);
    }

    pub(super) fn pursue(&mut self, n: usize) {
        let pursuit = &mut self.pursuits[n];
        let this = &mut self.nodes[pursuit.node];
        if pursuit.done || pursuit.asked.is_some() || this.life != pursuit.life || !this.alive {
            return;
        }
        let machine = pursuit.machine.as_mut().unwrap();
        let step = machine.next(this.link.map(|(_, term, _)| term), moment(self.now));
        let question = match step {
            Step::Rest(until) => {
                let until = millis(until).max(self.now + 1);
                return self.at(until, Happening::Pursue(n));
            }
            Step::Return(revoked) => return self.returned(n, &revoked),
            Step::GiveUp => {
                pursuit.done = true;
                self.report.given_up += 1;
                return;
            }
            Step::Commit => Question::Commit(pursuit.id, pursuit.what),
            Step::Replicate(within) => Question::Replicated(millis(within)),
            Step::Count => Question::Nodes,
        };
        this.questions += 1;
        pursuit.asked = Some(this.questions);
        let (server, _, link) = this.link.unwrap();
        pursuit.link = link;
        let (node, life, token) = (pursuit.node, pursuit.life, Token::Revocation(n, this.questions));
        self.send(node, server, question, token);
        let patience = millis(self.rules.patience);
        self.at(self.now + patience, Happening::Late(node, life, token));
    }

    pub(super) fn returned(&mut self, n: usize, revoked: &Revoked) {
        let pursuit = &mut self.pursuits[n];
        pursuit.done = true;
        if revoked.everywhere {
            pursuit.returned = Some(self.now);
            self.report.revoked += 1;
            match revoked.confirmed == revoked.nodes {
                true => self.report.by_acknowledgement += 1,
                false => self.report.by_time += 1,
            }
        } else {
            self.report.given_up += 1;
        }
    }

    pub(super) fn pursuit_failed(&mut self, n: usize) {
        let pursuit = &mut self.pursuits[n];
        pursuit.asked = None;
        pursuit.machine.as_mut().unwrap().failed();
        // The link that failed here is no better for heartbeats.
        let (node, link) = (pursuit.node, pursuit.link);
        if self.nodes[node].link.is_some_and(|(_, _, now)| now == link) {
            self.fail(node);
        }
        self.pursue(n);
    }

    pub(super) fn pursuit_answered(&mut self, n: usize, link: u64, answer: Answer) {
        let (now, node) = (moment(self.now), self.pursuits[n].node);
        let current = self.nodes[node].link.filter(|(_, _, now)| *now == link);
        let known = self.nodes[node].core.term().map(|(_, known)| known);
        let (Some((_, term, _)), Some(known)) = (current, known) else { return self.pursuit_failed(n) };
        self.pursuits[n].asked = None;
        match answer {
            Answer::Committed(receipt) => {
                let (id, replicas) = (self.pursuits[n].id, self.protections.waits_for_replica);
                self.with_core(node, |core, apply| {
                    for event in &receipt.events {
                        apply(event);
                        core.witness(id, *event, now);
                    }
                });
                self.pursuits[n].machine.as_mut().unwrap().committed(term, replicas, &receipt, now);
                if !self.protections.waits_for_nodes {
                    self.pursuits[n].returned = Some(self.now);
                    self.pursuits[n].done = true;
                    self.report.revoked += 1;
                }
            }
            Answer::Replicated(yes) => self.pursuits[n].machine.as_mut().unwrap().replicated(yes),
            Answer::Nodes(nodes) => self.pursuits[n].machine.as_mut().unwrap().counted(&nodes, known, now),
            _ => return self.pursuit_failed(n),
        }
        self.pursue(n);
    }

    pub(super) fn judge(&mut self) {
        let data = &self.servers[self.master].data;
        let told: Vec<&Pursuit> = self.pursuits.iter().filter(|pursuit| pursuit.returned.is_some()).collect();
        let ended: HashSet<SessionKey> = (0..self.next_session)
            .map(|n| SessionKey([n; 16]))
            .filter(|key| told.iter().any(|pursuit| self.concerns(pursuit, *key)))
            .collect();
        self.report.resurrected = data.sessions.keys().filter(|key| ended.contains(key)).count() as u64;
        for key in data.sessions.keys().filter(|key| !ended.contains(key)) {
            for node in 0..NODES {
                let seen = self.seen[node][number(*key)];
                if seen < LAST {
                    let (standing, record) = (self.nodes[node].core.standing(moment(self.now)), data.sessions[key]);
                    let ledger = &self.nodes[node].ledger;
                    let (over, epoch) = (ledger.is_over(*key, record.user, record.epoch), ledger.epoch(record.user));
                    let why = format!("{standing:?}, over: {over}, epochs {epoch} and {}", record.epoch);
                    self.report.unserved.push(format!("{key:?} at node {node}, seen at {seen}: {why}"));
                }
            }
        }
    }
}
