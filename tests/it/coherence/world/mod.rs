//! The simulated world: a clock, a network that delays and cuts, three servers, three nodes over the real node core, and people who
//! ask, sign in and are revoked. Everything follows from a seed.

mod network;
mod nodes;
mod people;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use portcullis::session::coherence::{Ask, Core, Revoking, Rules};
use portcullis::session::generations::{Before, Generations, Stamp};
use portcullis::session::shared::{Boot, Term};
use portcullis::session::{EventId, Ledger, Revocation, SessionKey, UserKey};

use super::server::{Answer, FENCE, Outcome, Question, Record, Server};

const NODES: usize = 3;
const SESSIONS: u8 = 12;
const USERS: u8 = 4;
/// With those who sign in.
const ALL: usize = 20;
/// Faults are over by then, and revocations told.
const QUIET: u64 = 18_000;
/// What logs are trimmed to, in worlds where they are.
const TRIMMED_TO: Duration = Duration::from_secs(6);
/// From then on everybody asks everywhere.
const LAST: u64 = 23_000;
const END: u64 = 24_000;

/// Which protections stand.
#[derive(Clone, Copy, Debug)]
pub struct Protections {
    pub lease: bool,
    pub written_heartbeat: bool,
    pub waits_for_nodes: bool,
    pub young_master: bool,
    pub waits_for_replica: bool,
    pub repair: bool,
    pub fill_guard: bool,
    pub tombstones: bool,
    pub fence_before_promotion: bool,
}

impl Protections {
    pub const ALL: Protections = Protections {
        lease: true,
        written_heartbeat: true,
        waits_for_nodes: true,
        young_master: true,
        waits_for_replica: true,
        repair: true,
        fill_guard: true,
        tombstones: true,
        fence_before_promotion: true,
    };
}

/// What a run saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub accepted: u64,
    pub revoked: u64,
    pub by_acknowledgement: u64,
    pub by_time: u64,
    pub given_up: u64,
    pub promotions: u64,
    pub repaired: u64,
    pub flushed: u64,
    /// Accepts after a returned revocation.
    pub accepted_late: u64,
    /// The first of them, in words.
    pub violations: Vec<String>,
    /// Sessions whose revocation returned, and which the final store has.
    pub resurrected: u64,
    /// Sessions that nobody revoked and a node does not answer at the end.
    pub unserved: Vec<String>,
}

impl Report {
    /// Add what another run counted.
    pub fn add(&mut self, other: &Report) {
        self.accepted += other.accepted;
        self.revoked += other.revoked;
        self.by_acknowledgement += other.by_acknowledgement;
        self.by_time += other.by_time;
        self.given_up += other.given_up;
        self.promotions += other.promotions;
        self.repaired += other.repaired;
        self.flushed += other.flushed;
        self.resurrected += other.resurrected;
    }
}

/// SplitMix64.
pub struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn id(&mut self) -> [u8; 16] {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.next().to_be_bytes());
        id[8..].copy_from_slice(&self.next().to_be_bytes());
        id
    }
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug)]
enum Token {
    Main(u64),
    Follow(u64),
    Revocation(usize, u64),
    Load { key: SessionKey, began: u64, before: Before },
    Nobody,
}

/// Where an answer goes: a life of a node, and a link of it.
#[derive(Clone, Copy, Debug)]
struct Back {
    node: usize,
    life: u64,
    link: u64,
    token: Token,
}

enum Happening {
    Drive(usize, u64),
    Late(usize, u64, Token),
    Asked(usize, Option<Term>, Question, Back),
    Answered(usize, Answer, Back),
    Replicate { from: usize, to: usize, term: Term, upto: usize },
    Acknowledge { from: usize, to: usize, term: Term, applied: usize },
    Heartbeats,
    WaitOver(u64),
    People,
    Revoke,
    Pursue(usize),
    Crash,
    Split,
    Promote,
    Heal,
    Cut(usize, usize, bool),
    Stop(usize),
    Start(usize),
    Trim,
}

/// A session in a node's memory.
#[derive(Clone, Copy)]
struct Cached {
    record: Record,
    stamp: Stamp,
}

struct Node {
    alive: bool,
    life: u64,
    core: Core,
    ledger: Ledger,
    generations: Generations,
    /// By the session's number.
    cache: [Option<Cached>; ALL],
    /// The server, the term and the number of the link.
    link: Option<(usize, Term, u64)>,
    links: u64,
    /// The number of the question under way on the main connection, and what it was.
    asked: Option<(u64, Ask)>,
    following: Option<(u64, u64)>,
    questions: u64,
    woken_at: Option<u64>,
    was_live: bool,
}

struct Pursuit {
    what: Revocation,
    id: EventId,
    node: usize,
    life: u64,
    machine: Option<Revoking>,
    /// The question under way.
    asked: Option<u64>,
    link: u64,
    began: u64,
    /// When it returned, as *everywhere*.
    returned: Option<u64>,
    done: bool,
}

struct Waiting {
    id: u64,
    server: usize,
    term: Term,
    on: Outcome,
    back: Back,
}

pub struct World {
    now: u64,
    dice: Dice,
    order: u64,
    /// When, in which order, and where in `happenings`.
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    happenings: Vec<Option<Happening>>,
    free: Vec<usize>,
    rules: Rules,
    protections: Protections,
    servers: Vec<Server>,
    nodes: Vec<Node>,
    pursuits: Vec<Pursuit>,
    waiting: Vec<Waiting>,
    /// The master as a sentinel would name it.
    master: usize,
    /// A server that is cut off from the others, and the nodes that reach it, and those that reach the others.
    split: Option<(usize, [bool; NODES], [bool; NODES])>,
    cut: [[bool; 3]; NODES],
    /// By the session's number: whose, and since when.
    created: [Option<(UserKey, u64)>; ALL],
    seen: [[u64; ALL]; NODES],
    next_session: u8,
    pub report: Report,
}

fn user(n: u8) -> UserKey {
    UserKey([100 + n; 16])
}

fn number(key: SessionKey) -> usize {
    usize::from(key.0[0])
}

fn moment(now: u64) -> Duration {
    Duration::from_millis(now)
}

fn millis(moment: Duration) -> u64 {
    // Rounded up: a machine that wants to wait until then is not woken before.
    u64::try_from(moment.as_micros().div_ceil(1000)).unwrap()
}

impl World {
    pub fn new(seed: u64, protections: Protections) -> World {
        let mut dice = Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5eed);
        let mut rules = Rules::new(Duration::ZERO);
        // In some worlds the log is trimmed to seconds, and the clocks of stores differ by less; in others by minutes.
        let trims = dice.chance(25);
        if trims {
            (rules.horizon, rules.catch_up) = (TRIMMED_TO, Duration::from_millis(1_500));
        }
        let apart = if trims { 1_000 } else { 240_000 };
        if !protections.young_master {
            rules.young = Duration::ZERO;
        }
        let servers = (0..3).map(|_| Server::new(dice.below(apart))).collect();
        let mut world = World {
            now: 0,
            dice,
            order: 0,
            queue: BinaryHeap::new(),
            happenings: Vec::new(),
            free: Vec::new(),
            rules,
            protections,
            servers,
            nodes: Vec::new(),
            pursuits: Vec::new(),
            waiting: Vec::new(),
            master: 0,
            split: None,
            cut: [[false; 3]; NODES],
            created: [None; ALL],
            seen: [[0; ALL]; NODES],
            next_session: SESSIONS,
            report: Report::default(),
        };
        for server in &mut world.servers {
            server.reads_renew = !protections.written_heartbeat;
            for n in 0..SESSIONS {
                let (key, of) = (SessionKey([n; 16]), user(n % USERS));
                server.data.sessions.insert(key, Record { user: of, epoch: 0 });
                world.created[usize::from(n)] = Some((of, 0));
            }
        }
        let term = world.term();
        world.servers.iter_mut().for_each(|server| server.term = term);
        world.servers[0].promote(term);
        world.servers[0].acked = [(0, None), (0, Some(0)), (0, Some(0))];
        for node in 0..NODES {
            let fresh = world.fresh(0);
            world.nodes.push(fresh);
            world.at(node as u64, Happening::Drive(node, 0));
        }
        world.plan();
        world
    }

    fn term(&mut self) -> Term {
        let mut term = [0; 20];
        term[..16].copy_from_slice(&self.dice.id());
        Term(term)
    }

    fn fresh(&mut self, life: u64) -> Node {
        Node {
            alive: true,
            life,
            core: Core::new(self.rules, Boot(self.dice.id())),
            ledger: Ledger::new(),
            generations: Generations::new(8),
            cache: [None; ALL],
            link: None,
            links: life << 32,
            asked: None,
            following: None,
            questions: life << 32,
            woken_at: None,
            was_live: false,
        }
    }

    /// What will go wrong in this run, and who will be revoked.
    fn plan(&mut self) {
        self.at(1, Happening::Heartbeats);
        self.at(500, Happening::People);
        let mut from = self.dice.between(3_000, 8_000);
        let failovers = [0, 1, 1, 1, 2][usize::try_from(self.dice.below(5)).unwrap()];
        for _ in 0..failovers {
            let detected = match self.protections.fence_before_promotion {
                true => FENCE + self.dice.between(100, 3_000),
                false => self.dice.between(50, FENCE / 2),
            };
            let crash = self.dice.chance(30);
            self.at(from, if crash { Happening::Crash } else { Happening::Split });
            self.at(from + detected, Happening::Promote);
            for _ in 0..4 {
                // Most of what can go wrong goes wrong around a failover.
                let at = from.saturating_sub(300) + self.dice.below(detected + 800);
                self.at(at, Happening::Revoke);
            }
            let healed = from + detected + self.dice.between(500, 4_000);
            self.at(healed.min(QUIET - 500), Happening::Heal);
            from = healed + self.dice.between(500, 2_000);
            if from > 12_000 {
                break;
            }
        }
        for node in 0..NODES {
            for _ in 0..self.dice.below(3) {
                let (at, long) = (self.dice.between(1_000, 13_000), self.dice.between(300, 4_000));
                for server in 0..3 {
                    self.at(at, Happening::Cut(node, server, true));
                    self.at(at + long, Happening::Cut(node, server, false));
                }
            }
            if self.dice.chance(30) {
                let at = self.dice.between(1_000, 13_000);
                self.at(at, Happening::Stop(node));
                let down = self.dice.between(50, 1_500);
                self.at(at + down, Happening::Start(node));
            }
        }
        if self.rules.horizon == TRIMMED_TO {
            (3..40).for_each(|half| self.at(half * 500, Happening::Trim));
        }
        for _ in 0..self.dice.between(5, 10) {
            let at = self.dice.between(2_000, 15_000);
            self.at(at, Happening::Revoke);
        }
    }

    fn at(&mut self, when: u64, what: Happening) {
        self.order += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.happenings.push(None);
            self.happenings.len() - 1
        });
        self.happenings[slot] = Some(what);
        self.queue.push(Reverse((when.max(self.now), self.order, slot)));
    }

    /// Mostly quick, sometimes terrible.
    fn delay(&mut self) -> u64 {
        match self.dice.below(100) {
            0..80 => self.dice.between(1, 4),
            80..95 => self.dice.between(4, 40),
            _ => self.dice.between(40, 400),
        }
    }

    /// Run to the end.
    pub fn run(mut self) -> Report {
        while let Some(Reverse((at, _, slot))) = self.queue.pop() {
            if at > END {
                break;
            }
            self.now = at;
            self.free.push(slot);
            if let Some(what) = self.happenings[slot].take() {
                self.happen(what);
            }
        }
        self.judge();
        self.report
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Drive(node, life) if self.nodes[node].life == life => {
                self.nodes[node].woken_at = None;
                self.drive(node);
            }
            Happening::Drive(..) => {}
            Happening::Late(node, life, token) => self.late(node, life, token),
            Happening::Asked(server, term, question, back) => self.asked(server, term, question, back),
            Happening::Answered(server, answer, back) => {
                if self.reaches(back.node, server) && self.nodes[back.node].life == back.life {
                    self.answered(server, answer, back);
                }
            }
            Happening::Replicate { from, to, term, upto } => self.replicate(from, to, term, upto),
            Happening::Acknowledge { from, to, term, applied } => self.acknowledge(from, to, term, applied),
            Happening::Heartbeats => self.heartbeats(),
            Happening::WaitOver(id) => self.wait_over(id),
            Happening::People => self.people(),
            Happening::Revoke => self.revoke(),
            Happening::Pursue(n) => self.pursue(n),
            Happening::Crash => self.servers[self.master].alive = false,
            Happening::Split => self.separate(),
            Happening::Promote => self.promote(),
            Happening::Heal => self.heal(),
            Happening::Cut(node, server, cut) => self.cut[node][server] = cut,
            Happening::Stop(node) => {
                self.nodes[node].alive = false;
                self.nodes[node].life += 1;
            }
            Happening::Start(node) => {
                let life = self.nodes[node].life;
                self.nodes[node] = self.fresh(life);
                self.drive(node);
            }
            Happening::Trim => {
                let (now, keep) = (self.now, millis(TRIMMED_TO));
                self.servers.iter_mut().for_each(|server| server.trim(now, keep));
                self.written();
            }
        }
    }
}
