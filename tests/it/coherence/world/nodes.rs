//! A node of the simulation: the real core, driven as the gateway drives it, over links that may be slow, lying or gone.

use portcullis::session::coherence::{Ask, Core, Standing};
use portcullis::session::generations::Generations;
use portcullis::session::{Event, Ledger, Part};

use super::super::server::{Answer, Question};
use super::{ALL, Back, Cached, Happening, Node, Token, World, millis, moment, number};

impl World {
    pub(super) fn send(&mut self, node: usize, server: usize, question: Question, token: Token) {
        let (life, link) = (self.nodes[node].life, self.nodes[node].link);
        let (term, link) = link.map_or((None, 0), |(_, term, link)| (Some(term), link));
        let term = term.filter(|_| !matches!(question, Question::Connect));
        let (delay, back) = (self.delay(), Back { node, life, link, token });
        self.at(self.now + delay, Happening::Asked(server, term, question, back));
    }

    /// The main connection: do what the core says.
    pub(super) fn drive(&mut self, node: usize) {
        if !self.nodes[node].alive || self.nodes[node].asked.is_some() {
            return;
        }
        let now = moment(self.now);
        let this = &mut self.nodes[node];
        let life = this.life;
        this.questions += 1;
        let number = this.questions;
        let ask = this.core.next(now);
        let (server, question) = match &ask {
            Ask::Rest(until) => {
                let until = millis(*until).max(self.now + 1);
                if this.woken_at.is_none_or(|woken| woken > until) {
                    this.woken_at = Some(until);
                    self.at(until, Happening::Drive(node, life));
                }
                return;
            }
            Ask::Connect => (self.finds(node), Question::Connect),
            Ask::Recollect => {
                this.generations.raise_everyone();
                this.cache = [None; ALL];
                let known = if self.protections.repair { this.ledger.known(Part::WHOLE) } else { Vec::new() };
                this.core.recollected(known, now);
                return self.drive(node);
            }
            Ask::Reassert(events) if self.protections.repair => {
                self.report.repaired += events.len() as u64;
                (this.link.unwrap().0, Question::Reassert(events.clone()))
            }
            Ask::Reassert(events) => {
                let events = events.clone();
                this.core.reasserted(&events, now);
                return self.drive(node);
            }
            Ask::Cycle(beat, after) => (this.link.unwrap().0, Question::Cycle(*beat, *after)),
        };
        self.nodes[node].asked = Some((number, ask));
        self.send(node, server, question, Token::Main(number));
        let patience = millis(self.rules.patience);
        self.at(self.now + patience, Happening::Late(node, life, Token::Main(number)));
    }

    /// The master that a node is told of, or the one that it still reaches.
    pub(super) fn finds(&mut self, node: usize) -> usize {
        match self.split {
            Some((apart, with_it, with_others)) if with_it[node] && (!with_others[node] || self.dice.chance(50)) => {
                apart
            }
            _ => self.master,
        }
    }

    pub(super) fn fail(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        (this.link, this.asked, this.following) = (None, None, None);
        this.core.failed(moment(self.now));
        self.drive(node);
    }

    pub(super) fn late(&mut self, node: usize, life: u64, token: Token) {
        if self.nodes[node].life != life {
            return;
        }
        match token {
            Token::Main(number) if self.nodes[node].asked.as_ref().is_some_and(|(asked, _)| *asked == number) => {
                self.fail(node);
            }
            Token::Follow(number) if self.nodes[node].following.is_some_and(|(asked, _)| asked == number) => {
                self.fail(node);
            }
            Token::Revocation(n, number) if self.pursuits[n].asked == Some(number) => self.pursuit_failed(n),
            _ => {}
        }
    }

    pub(super) fn answered(&mut self, server: usize, answer: Answer, back: Back) {
        let node = back.node;
        match back.token {
            Token::Main(number) => {
                if let Some((_, ask)) = self.nodes[node].asked.take_if(|(asked, _)| *asked == number) {
                    self.main_answered(node, server, &ask, answer);
                }
            }
            Token::Follow(number) if self.nodes[node].following == Some((number, back.link)) => {
                self.nodes[node].following = None;
                self.followed(node, answer);
            }
            Token::Revocation(n, number) if self.pursuits[n].asked == Some(number) => {
                self.pursuit_answered(n, back.link, answer);
            }
            Token::Load { key, began, before } => self.loaded(node, back.link, (key, began, before), answer),
            _ => {}
        }
    }

    pub(super) fn main_answered(&mut self, node: usize, server: usize, ask: &Ask, answer: Answer) {
        let now = moment(self.now);
        match (ask, answer) {
            (Ask::Connect, Answer::Opened(mut opening)) => {
                opening.replicas &= self.protections.waits_for_replica;
                let this = &mut self.nodes[node];
                this.links += 1;
                this.link = Some((server, opening.term, this.links));
                if this.core.opened(opening, now) {
                    this.generations.raise_everyone();
                    this.cache = [None; ALL];
                    self.report.flushed += 1;
                }
            }
            (Ask::Reassert(events), Answer::Reasserted) => self.nodes[node].core.reasserted(events, now),
            (Ask::Cycle(..), Answer::Cycled(cycle)) => {
                self.with_core(node, |core, apply| core.cycled(&cycle, now, apply));
                self.nodes[node].was_live |= self.nodes[node].core.standing(now) == Standing::Live;
                self.listen(node);
            }
            _ => return self.fail(node),
        }
        self.drive(node);
    }

    pub(super) fn followed(&mut self, node: usize, answer: Answer) {
        let Answer::Followed(entries) = answer else { return self.fail(node) };
        let now = moment(self.now);
        if let Some((_, term, _)) = self.nodes[node].link {
            self.with_core(node, |core, apply| core.pushed(term, &entries, now, apply));
        }
        self.listen(node);
        self.drive(node);
    }

    /// Call the core with the node's way of applying an event.
    pub(super) fn with_core(&mut self, node: usize, call: impl FnOnce(&mut Core, &mut dyn FnMut(&Event))) {
        let guarded = self.protections.fill_guard;
        let Node { core, ledger, generations, cache, .. } = &mut self.nodes[node];
        call(core, &mut |event| apply(event, ledger, generations, cache, guarded));
    }

    pub(super) fn listen(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        let (None, Some((server, _, link)), Some(after)) = (this.following, this.link, this.core.follow()) else {
            return;
        };
        this.questions += 1;
        let number = this.questions;
        this.following = Some((number, link));
        let life = this.life;
        self.send(node, server, Question::Follow(after), Token::Follow(number));
        let patience = millis(self.rules.patience) + 300;
        self.at(self.now + patience, Happening::Late(node, life, Token::Follow(number)));
    }
}

fn apply(event: &Event, ledger: &Ledger, generations: &Generations, cache: &mut [Option<Cached>; ALL], guarded: bool) {
    ledger.learn(event);
    generations.raise(event);
    if !guarded {
        // As a cache does that removes what it is told of, and has no guard.
        for (n, slot) in cache.iter_mut().enumerate() {
            let concerned = |cached: &Cached| match event {
                Event::Ended { key, .. } => number(*key) == n,
                Event::UserEpoch { user, .. } => cached.record.user == *user,
                Event::Everyone { .. } => true,
                Event::Token { .. } => false,
            };
            slot.take_if(|cached| concerned(cached));
        }
    }
}
