//! The shared store against the memory store, which the oracle holds (`sessions.rs`): the same history, the same answers – in one
//! server, in a cluster, and in Valkey. Epochs and versions are each store's own; what they mean is compared.

use std::collections::{BTreeSet, HashMap};

use portcullis::clock::{Clock, SystemClock, Timestamp};
use portcullis::session::store::{Memory, Redis};
use portcullis::session::{
    Committed, Creation, Event, Keep, Revocation, Session, SessionKey, SessionStore, ShelfKey, TokenId, UserKey,
};
use proptest::prelude::{Strategy, prop_oneof};
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use crate::redis_server::{RedisCluster, RedisServer, oldest_redis, valkey};

/// Histories in each server; `PORTCULLIS_HISTORIES` asks for more.
const HISTORIES: u32 = 20;

#[derive(Clone, Debug)]
enum Step {
    Create { n: u8, user: u8, seen: u64, replaces: Option<u8>, limit: Option<u32> },
    Touch(Vec<(u8, u64)>),
    One(u8),
    User { user: u8, except: Option<u8> },
    Everyone,
    Deny { n: u8, until: u64 },
    Sweep(u64),
    Keep { n: u8, stale: bool, until: u64, now: u64 },
    Discard { n: u8, stale: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let n = || 0_u8..10;
    let maybe = || proptest::option::of(0_u8..10);
    prop_oneof![
        6 => (n(), 0_u8..3, 0_u64..1000, maybe(), proptest::option::of(1_u32..4))
            .prop_map(|(n, user, seen, replaces, limit)| Step::Create { n, user, seen, replaces, limit }),
        3 => proptest::collection::vec((n(), 0_u64..2000), 0..4).prop_map(Step::Touch),
        1 => n().prop_map(Step::One),
        1 => (0_u8..3, maybe()).prop_map(|(user, except)| Step::User { user, except }),
        1 => proptest::strategy::Just(Step::Everyone),
        1 => (n(), 0_u64..4000).prop_map(|(n, until)| Step::Deny { n, until }),
        1 => (0_u64..4000).prop_map(Step::Sweep),
        2 => (n(), proptest::bool::ANY, 1_u64..3000, 0_u64..3000)
            .prop_map(|(n, stale, until, now)| Step::Keep { n, stale, until, now }),
        1 => (n(), proptest::bool::ANY).prop_map(|(n, stale)| Step::Discard { n, stale }),
    ]
}

/// Both stores, and what a history needs to name in them.
struct Both<'s> {
    memory: Memory,
    redis: &'s Redis,
    /// A moment that lies ahead of every server's clock: none ends anything by itself.
    start: u64,
    keys: HashMap<u8, SessionKey>,
    made: u64,
    versions: HashMap<ShelfKey, [u64; 2]>,
    /// Up to when the shelf was swept, and until when things lie on it: a server with a clock of its own needs no sweep.
    swept: Timestamp,
    lies: HashMap<ShelfKey, Timestamp>,
}

impl Both<'_> {
    fn at(&self, moment: u64) -> Timestamp {
        Timestamp(self.start + 10_000 * moment)
    }

    fn key(&self, n: u8) -> SessionKey {
        self.keys.get(&n).copied().unwrap_or(SessionKey([n; 16]))
    }

    fn user(n: u8) -> String {
        format!("user-{n}")
    }

    fn record(&self, user: u8, seen: u64) -> Session {
        Session {
            provider: "local".into(),
            subject: Both::user(user),
            entry: 0,
            name: Some("Name".into()),
            email: None,
            roles: vec!["a".into()],
            created: self.at(seen),
            ends: self.at(3_000),
            idle_ms: 5_000_000,
            last_seen: self.at(seen),
            epoch: 0,
            device: "d".into(),
            provided: None,
        }
    }

    /// An id is made once only, and carries its user's shard.
    fn make(&mut self, n: u8, user: u8) -> SessionKey {
        self.made += 1;
        let mut key = [n; 16];
        key[..8].copy_from_slice(&self.made.to_be_bytes());
        key[15] = UserKey::of("local", &Both::user(user)).shard();
        self.keys.insert(n, SessionKey(key));
        SessionKey(key)
    }

    async fn revoke(&self, what: Revocation) {
        let now = self.at(0);
        let (one, other) = (self.memory.revoke(what, now).await.unwrap(), self.redis.revoke(what, now).await.unwrap());
        assert_eq!(one.ended, other.ended, "{what:?}");
        let told = |committed: &Committed| match committed.events[0] {
            Event::Ended { key, .. } => format!("{key:?}"),
            Event::UserEpoch { user, spared, .. } => format!("{user:?} {spared:?}"),
            Event::Everyone { .. } => "everyone".to_owned(),
            Event::Token { id, until } => format!("{id:?} {until:?}"),
        };
        assert_eq!(told(&one), told(&other));
    }

    async fn carry_out(&mut self, step: Step) {
        match step {
            Step::Create { n, user, seen, replaces, limit } => {
                let (replaces, key) = (replaces.map(|old| self.key(old)), self.make(n, user));
                let creation = Creation { key, session: self.record(user, seen), replaces, limit };
                let told =
                    |events: Vec<Event>| events.iter().map(|event| format!("{event:?}")).collect::<BTreeSet<_>>();
                let one = told(self.memory.create(creation.clone()).await.unwrap());
                assert_eq!(told(self.redis.create(creation).await.unwrap()), one);
            }
            Step::Touch(touches) => {
                let touches: Vec<_> = touches.iter().map(|(n, at)| (self.key(*n), self.at(*at))).collect();
                let one = self.memory.touch(touches.clone()).await.unwrap();
                assert_eq!(self.redis.touch(touches).await.unwrap(), one);
            }
            Step::One(n) => self.revoke(Revocation::Session(self.key(n))).await,
            Step::User { user, except } => {
                let user = UserKey::of("local", &Both::user(user));
                let except = except.map(|n| self.key(n)).filter(|key| key.shard() == user.shard());
                self.revoke(Revocation::User { user, except }).await;
            }
            Step::Everyone => self.revoke(Revocation::Everyone).await,
            Step::Deny { n, until } => {
                self.revoke(Revocation::Token { id: TokenId([n; 16]), until: self.at(until) }).await;
            }
            Step::Sweep(now) => {
                let now = self.at(now);
                self.swept = self.swept.max(now);
                assert_eq!(self.redis.sweep(now, 1_000).await.unwrap(), self.memory.sweep(now, 1_000).await.unwrap());
            }
            Step::Keep { n, stale, until, now } => {
                let (key, until, now) =
                    (ShelfKey::of("agreement", &[n, self.start as u8]), self.at(until), self.at(now).max(self.swept));
                let over = self.versions.get(&key).map(|known| known.map(|version| version - u64::from(stale)));
                let keep = |over| Keep { key, over, bytes: vec![n, 0, 255], until };
                let one = self.memory.keep(keep(over.map(|over| over[0])), now).await.unwrap();
                let other = self.redis.keep(keep(over.map(|over| over[1])), now).await.unwrap();
                assert_eq!(one.is_some(), other.is_some(), "{n} over {over:?}");
                self.lies.extend(one.map(|_| (key, until)));
                self.versions.extend(one.zip(other).map(|(one, other)| (key, [one, other])));
                let kept = |found: Option<portcullis::session::Kept>| found.map(|kept| (kept.bytes, kept.until));
                let (one, other) =
                    (self.memory.kept(key, now).await.unwrap(), self.redis.kept(key, now).await.unwrap());
                assert_eq!(kept(one), kept(other));
            }
            Step::Discard { n, stale } => {
                let key = ShelfKey::of("agreement", &[n, self.start as u8]);
                let Some(known) = self.versions.get(&key).filter(|_| self.lies[&key] > self.swept) else { return };
                let [one, other] = known.map(|version| version - u64::from(stale));
                let there = self.memory.discard(key, one).await.unwrap();
                assert_eq!(self.redis.discard(key, other).await.unwrap(), there);
            }
        }
    }

    /// Every record and every index entry (I21, I22).
    async fn agree(&self) {
        let plain = |found: Option<Session>| found.map(|session| Session { epoch: 0, ..session });
        for n in 0..10 {
            let key = self.key(n);
            let (one, other) = (self.memory.load(key).await.unwrap(), self.redis.load(key).await.unwrap());
            assert_eq!(plain(one), plain(other), "record {n}");
        }
        for n in 0..3 {
            let user = UserKey::of("local", &Both::user(n));
            let keys = |list: Vec<portcullis::session::Listed>| list.iter().map(|entry| entry.key).collect::<Vec<_>>();
            let (one, other) = (self.memory.list(user).await.unwrap(), self.redis.list(user).await.unwrap());
            assert_eq!(keys(one), keys(other), "the sessions of user {n}");
        }
    }
}

async fn agrees(redis: &Redis, prefix_of: impl Fn(u32)) {
    let histories = std::env::var("PORTCULLIS_HISTORIES").ok().and_then(|text| text.parse().ok()).unwrap_or(HISTORIES);
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    for history in 0..histories {
        prefix_of(history);
        let steps = proptest::collection::vec(step(), 1..40).new_tree(&mut runner).unwrap().current();
        let start = SystemClock.now().0 + 100_000;
        let mut both = Both {
            memory: Memory::new(),
            redis,
            start,
            keys: HashMap::new(),
            made: start << 8,
            versions: HashMap::new(),
            swept: Timestamp(0),
            lies: HashMap::new(),
        };
        for step in steps {
            both.carry_out(step).await;
            both.agree().await;
        }
    }
}

#[tokio::test]
async fn the_redis_store_agrees_with_the_memory_store() {
    let server = RedisServer::start(&[]);
    agrees(&server.store(), |_| assert_eq!(server.admin(&["FLUSHDB"]), "OK")).await;
}

#[tokio::test]
async fn the_oldest_redis_store_agrees_with_the_memory_store() {
    let server = RedisServer::start_as(&oldest_redis(), &[]);
    agrees(&server.store(), |_| assert_eq!(server.admin(&["FLUSHDB"]), "OK")).await;
}

#[tokio::test]
async fn the_redis_store_agrees_with_the_memory_store_in_a_cluster() {
    let cluster = RedisCluster::start();
    let empty = |_| cluster.servers().iter().for_each(|server| assert_eq!(server.admin(&["FLUSHDB"]), "OK"));
    agrees(&cluster.store(), empty).await;
}

#[tokio::test]
async fn the_valkey_store_agrees_with_the_memory_store() {
    let server = RedisServer::start_as(&valkey(), &[]);
    agrees(&server.store(), |_| assert_eq!(server.admin(&["FLUSHDB"]), "OK")).await;
}
