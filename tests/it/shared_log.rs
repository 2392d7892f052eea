//! The log that nodes share, over real servers: what a link promises to whoever holds it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::clock::{Clock, SystemClock, Timestamp};
use portcullis::session::shared::{Beat, Boot, Link, Position};
use portcullis::session::{Creation, Event, EventId, Part, Revocation, SessionKey, SessionStore, TokenId, UserKey};

use crate::redis_server::{RedisCluster, RedisServer, oldest_redis, valkey};
use crate::shared_store::{eventually, key, record};

const BEGIN: Position = Position { ms: 0, seq: 0 };
const A_MINUTE: Duration = Duration::from_secs(60);

fn beat(n: u8, applied: Position) -> Beat {
    Beat { boot: Boot([n; 16]), applied, forget_after: Duration::from_secs(8) }
}

fn id(n: u8) -> EventId {
    EventId([n; 16])
}

async fn link(store: &dyn SessionStore, part: u8) -> Arc<dyn Link> {
    store.shared().unwrap().connect(part).await.unwrap()
}

async fn create(store: &dyn SessionStore, n: u8, subject: &str) -> SessionKey {
    let session = record(subject, SystemClock.now(), A_MINUTE);
    let key = key(subject, n);
    store.create(Creation { key, session, replaces: None, limit: None }).await.unwrap();
    key
}

/// What is committed comes in order to whoever reads, waits or was away, and a commit that is repeated is the same one.
async fn carries(store: &dyn SessionStore, shard_of: &str) {
    let alice = UserKey::of("local", shard_of);
    let parts = store.shared().unwrap().parts();
    let part = Part { index: alice.shard() % parts, of: parts };
    let (one, other) = (link(store, part.index).await, link(store, part.index).await);
    assert_eq!(one.opening().term, other.opening().term);
    let before = one.cycle(beat(1, BEGIN), BEGIN).await.unwrap();
    assert!(before.entries.is_empty() && !before.more);

    let gone = create(store, 1, shard_of).await;
    let spared = create(store, 2, shard_of).await;
    let waiting = {
        let other = other.clone();
        tokio::spawn(async move { other.follow(BEGIN, Duration::from_secs(20)).await })
    };
    let first = one.commit(id(1), Revocation::Session(gone)).await.unwrap();
    assert_eq!(first.ended, 1);
    let pushed = waiting.await.unwrap().unwrap();
    assert_eq!((pushed[0].at, pushed[0].id, pushed[0].event), (first.at, id(1), first.events[0]));
    assert!(store.load(gone).await.unwrap().is_none());

    let user = one.commit(id(2), Revocation::User { user: alice, except: Some(spared) }).await.unwrap();
    let Event::UserEpoch { epoch, .. } = user.events[0] else { panic!("{user:?}") };
    assert_eq!(store.load(spared).await.unwrap().unwrap().epoch, epoch);
    let token = TokenId([alice.shard(); 16]);
    let until = SystemClock.now().plus(A_MINUTE);
    one.commit(id(3), Revocation::Token { id: token, until }).await.unwrap();
    let all = one.commit(id(4), Revocation::Everyone).await.unwrap();
    let Event::Everyone { part: of, .. } = all.events[0] else { panic!("{all:?}") };
    assert_eq!(of, part);
    assert!(store.load(spared).await.unwrap().is_none());
    // An answer was lost, and the same revocation is asked for once more.
    assert_eq!(one.commit(id(1), Revocation::Session(gone)).await.unwrap(), first);
    assert_eq!(other.commit(id(4), Revocation::Everyone).await.unwrap(), all);

    let read = other.cycle(beat(2, first.at), first.at).await.unwrap();
    let ids: Vec<_> = read.entries.iter().map(|entry| entry.id).collect();
    assert_eq!(ids, [id(2), id(3), id(4)]);
    assert!(read.entries.is_sorted_by_key(|entry| entry.at));
    assert!(other.follow(all.at, Duration::from_millis(20)).await.unwrap().is_empty());
    let again = link(store, part.index).await;
    assert_eq!(again.opening().last, all.at);
    // Redis 6.2 cannot tell a log that was never trimmed from one that was trimmed up to its first entry.
    assert!(again.opening().trimmed < first.at, "{:?}", again.opening());
}

#[tokio::test]
async fn a_log_carries_what_is_committed() {
    let server = RedisServer::start(&[]);
    carries(&server.store(), "alice").await;
}

#[tokio::test]
async fn a_log_carries_what_is_committed_in_valkey() {
    let server = RedisServer::start_as(&valkey(), &[]);
    carries(&server.store(), "alice").await;
}

#[tokio::test]
async fn a_log_carries_what_is_committed_in_the_oldest_redis() {
    let server = RedisServer::start_as(&oldest_redis(), &[]);
    carries(&server.store(), "alice").await;
}

#[tokio::test]
async fn each_part_of_a_cluster_has_a_log_of_its_own() {
    let cluster = RedisCluster::start();
    let store = cluster.store();
    for subject in ["alice", "bob", "carol"] {
        carries(&store, subject).await;
    }
}

/// I10: what a node says stands beside its boot and term, and goes when it was silent for long.
#[tokio::test]
async fn nodes_are_registered_by_their_heartbeats() {
    let server = RedisServer::start(&[]);
    let store = server.store();
    let link = link(&store, 0).await;
    let at = Position { ms: 7, seq: 3 };
    let short = |n, at| Beat { forget_after: Duration::from_secs(2), ..beat(n, at) };
    link.cycle(short(1, BEGIN), BEGIN).await.unwrap();
    link.cycle(short(2, at), BEGIN).await.unwrap();
    let mut nodes = link.nodes().await.unwrap();
    nodes.sort_by_key(|node| node.boot);
    assert_eq!(nodes.len(), 2);
    assert_eq!((nodes[1].boot, nodes[1].applied, nodes[1].term), (Boot([2; 16]), at, link.opening().term));
    link.leave(Boot([2; 16])).await.unwrap();
    assert_eq!(link.nodes().await.unwrap().len(), 1);
    // Node 1 is silent from here on; the others look through the register once a second.
    eventually("the silent one is forgotten", async || {
        link.cycle(short(3, BEGIN), BEGIN).await.unwrap();
        link.nodes().await.unwrap().len() == 1
    })
    .await;
}

/// Whoever revokes waits as long as it may serve itself: others that may serve for longer would not be waited out.
#[tokio::test]
async fn nodes_of_other_times_are_refused_as_long_as_one_lives() {
    let server = RedisServer::start(&[]);
    let store = server.store();
    let link = link(&store, 0).await;
    let longer = Beat { forget_after: Duration::from_secs(128), ..beat(2, BEGIN) };
    link.cycle(beat(1, BEGIN), BEGIN).await.unwrap();
    let said = chain(&link.cycle(longer, BEGIN).await.unwrap_err());
    assert!(said.contains("for 4s without hearing of the store, this one for 64s"), "{said}");
    assert_eq!(link.nodes().await.unwrap().len(), 1, "it holds no lease");
    link.leave(Boot([1; 16])).await.unwrap();
    link.cycle(longer, BEGIN).await.unwrap();
    let said = chain(&link.cycle(beat(1, BEGIN), BEGIN).await.unwrap_err());
    assert!(said.contains("for 64s without hearing of the store, this one for 4s"), "{said}");
    link.cycle(longer, BEGIN).await.unwrap();
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(|error| format!("{error}: ")).collect()
}

/// I6, I7: whatever a new master does not have is done again, once, and only ever makes it more severe.
#[tokio::test]
async fn events_that_a_failover_lost_are_done_again() {
    let server = RedisServer::start(&[]);
    let store = server.store();
    let link = link(&store, 0).await;
    let (alice, bob) = (UserKey::of("local", "alice"), UserKey::of("local", "bob"));
    let one = create(&store, 1, "carol").await;
    let (old, spared) = (create(&store, 2, "alice").await, create(&store, 3, "alice").await);
    let theirs = create(&store, 4, "bob").await;
    let now = SystemClock.now();
    let until = now.plus(A_MINUTE);
    let token = TokenId([9; 16]);
    let lost = vec![
        (id(1), Event::Ended { key: one, until }),
        (id(2), Event::UserEpoch { user: alice, epoch: now.0, spared: Some(spared) }),
        (id(3), Event::Token { id: token, until }),
    ];
    link.reassert(lost.clone()).await.unwrap();
    assert!(store.load(one).await.unwrap().is_none() && store.load(old).await.unwrap().is_none());
    assert!(store.load(spared).await.unwrap().is_none(), "what was lost with it may have ended the spared one");
    assert!(store.load(theirs).await.unwrap().is_some());
    let entries = link.cycle(beat(1, BEGIN), BEGIN).await.unwrap().entries;
    assert_eq!(
        entries.iter().map(|entry| entry.id).collect::<Vec<_>>(),
        [id(1), id(2), id(3)],
        "everybody hears of it"
    );
    // By another node, in another order, and once more: nothing changes.
    let mut again = lost.clone();
    again.reverse();
    link.reassert(again).await.unwrap();
    assert_eq!(link.cycle(beat(1, BEGIN), BEGIN).await.unwrap().entries.len(), 3);
    // Older than what stands here: passed over. Everybody's: counts like any other.
    let past = Timestamp(now.0 - 10);
    let stale = vec![
        (id(4), Event::UserEpoch { user: alice, epoch: past.0, spared: None }),
        (id(5), Event::Everyone { part: Part::WHOLE, epoch: now.0 + 5 }),
    ];
    link.reassert(stale).await.unwrap();
    assert!(store.load(theirs).await.unwrap().is_none());
    assert_eq!(link.cycle(beat(1, BEGIN), BEGIN).await.unwrap().entries.len(), 4);
    // Whoever committed it submits it again: not a repetition, for this master did not carry it out.
    let receipt = link.commit(id(2), Revocation::User { user: alice, except: None }).await.unwrap();
    assert!(matches!(receipt.events[0], Event::UserEpoch { epoch, .. } if epoch > now.0 + 5), "{receipt:?}");
    let next = link.commit(id(6), Revocation::User { user: bob, except: None }).await.unwrap();
    assert!(matches!(next.events[0], Event::UserEpoch { epoch, .. } if epoch > now.0 + 5), "epochs never fall");
}

/// I8: what was trimmed is told at the opening.
#[tokio::test]
async fn a_log_that_was_trimmed_says_up_to_where() {
    // Before 7.0 a stream does not count what it was given.
    for program in ["redis-server".to_owned(), oldest_redis(), valkey()] {
        says_what_was_trimmed(&RedisServer::start_as(&program, &["--stream-node-max-entries", "1"])).await;
    }
}

async fn says_what_was_trimmed(server: &RedisServer) {
    let store = server.store();
    let link = link(&store, 0).await;
    let mut places = Vec::new();
    for n in 1..=3 {
        let token = Revocation::Token { id: TokenId([n; 16]), until: SystemClock.now().plus(A_MINUTE) };
        places.push(link.commit(id(n), token).await.unwrap().at);
    }
    let third = format!("{}-{}", places[2].ms, places[2].seq);
    assert_eq!(server.admin(&["XTRIM", "portcullis:rl{00}", "MINID", &third]), "2");
    let opening = store.shared().unwrap().connect(0).await.unwrap().opening();
    assert_eq!(opening.last, places[2]);
    assert!(opening.trimmed >= places[1] && opening.trimmed < places[2], "{opening:?}");
}

/// A link is of one term: a server that was demoted, even if it is master again, is another one.
#[tokio::test]
async fn a_link_ends_with_the_term_it_was_opened_in() {
    let server = RedisServer::start(&[]);
    let other = RedisServer::start(&[]);
    let store = server.store();
    let first = link(&store, 0).await;
    first.cycle(beat(1, BEGIN), BEGIN).await.unwrap();
    first.commit(id(1), Revocation::Everyone).await.unwrap();
    server.admin(&["REPLICAOF", "127.0.0.1", &other.port.to_string()]);
    assert!(first.cycle(beat(1, BEGIN), BEGIN).await.is_err(), "a replica takes no heartbeat");
    assert!(store.shared().unwrap().connect(0).await.is_err(), "nor is it linked to");
    server.admin(&["REPLICAOF", "NO", "ONE"]);
    assert!(first.cycle(beat(1, BEGIN), BEGIN).await.is_err(), "it has another history now");
    let second = link(&store, 0).await;
    assert_ne!(second.opening().term, first.opening().term);
    second.cycle(beat(1, BEGIN), BEGIN).await.unwrap();
}

/// I9: a master that lost its replicas refuses the heartbeat, and so nobody's lease is renewed by it.
#[tokio::test]
async fn a_master_without_its_replica_takes_no_heartbeat() {
    let master = RedisServer::start(&["--min-replicas-to-write", "1", "--min-replicas-max-lag", "1"]);
    let mut replica = RedisServer::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    eventually("the replica follows", async || master.admin(&["INFO", "replication"]).contains("state=online")).await;
    let until = Instant::now() + Duration::from_secs(20);
    let store = loop {
        // A good replica is one that acknowledged within the last second.
        match portcullis::session::store::Redis::open(master.options()) {
            Ok(store) if store.shared().unwrap().connect(0).await.is_ok() => break store,
            _ if Instant::now() < until => tokio::time::sleep(Duration::from_millis(20)).await,
            _ => panic!("the master never took a write"),
        }
    };
    let link = link(&store, 0).await;
    assert!(link.opening().replicas);
    link.cycle(beat(1, BEGIN), BEGIN).await.unwrap();
    link.commit(id(1), Revocation::Everyone).await.unwrap();
    assert!(link.replicated(Duration::from_secs(5)).await.unwrap());
    replica.kill();
    let cut = Instant::now();
    eventually("writes are refused", async || link.cycle(beat(1, BEGIN), BEGIN).await.is_err()).await;
    assert!(cut.elapsed() < Duration::from_secs(4), "{:?}", cut.elapsed());
    assert!(store.load(key("alice", 1)).await.is_ok(), "it still answers reads, which is why they renew nothing");
}

/// A tombstone that was lost is told again even where no record came back with it: nodes may have the session in memory.
#[tokio::test]
async fn a_lost_tombstone_is_told_again_without_a_record() {
    let server = RedisServer::start(&[]);
    let store = server.store();
    let link = link(&store, 0).await;
    let lost = vec![(id(1), Event::Ended { key: key("alice", 1), until: SystemClock.now().plus(A_MINUTE) })];
    for _ in 0..2 {
        link.reassert(lost.clone()).await.unwrap();
        assert_eq!(link.cycle(beat(1, BEGIN), BEGIN).await.unwrap().entries.len(), 1);
    }
}
