//! One contract for every session store, and what the session layer promises over it.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use portcullis::clock::{Clock, SystemClock, Timestamp};
use portcullis::session::store::{Embedded, Memory, OpenError};
use portcullis::session::{
    Activity, CookieCodec, Creation, EndedBecause, Event, Keep, Lifetimes, Lookup, NewSession, Part, Restored,
    Revocation, Session, SessionKey, SessionKeys, SessionStore, Sessions, Settings, ShelfKey, TokenId, UserKey, Wait,
};

use crate::redis_server::{RedisCluster, RedisServer, oldest_redis, valkey};

/// A moment ago: stores that end records by a clock of their own must not end them during the test.
static START: LazyLock<u64> = LazyLock::new(|| SystemClock.now().0 - 1_000);

fn at(moment: u64) -> Timestamp {
    Timestamp(*START + moment)
}

pub fn session(subject: &str, seen: u64) -> Session {
    Session {
        provider: "local".into(),
        subject: subject.into(),
        entry: 0,
        name: None,
        email: None,
        roles: vec!["admin".into()],
        created: at(seen),
        ends: at(1_000_000),
        idle_ms: 100_000,
        last_seen: at(seen),
        epoch: 0,
        device: "test".into(),
        provided: None,
    }
}

/// Every key carries the shard of its user.
fn key(n: u8) -> SessionKey {
    let subject = match n {
        4 => "bob",
        20..40 => "carol",
        40.. => "dave",
        _ => "alice",
    };
    let mut key = [n; 16];
    key[15] = UserKey::of("local", subject).shard();
    SessionKey(key)
}

async fn create(store: &dyn SessionStore, n: u8, subject: &str, limit: Option<u32>) {
    let session = session(subject, u64::from(n));
    store.create(Creation { key: key(n), session, replaces: None, limit }).await.unwrap();
}

async fn keeps_the_contract(store: &dyn SessionStore) {
    // What a log replays is not remembered beside it.
    let replayed = store.shared().is_some();
    let (alice, now) = (UserKey::of("local", "alice"), at(10));
    assert!(store.load(key(1)).await.unwrap().is_none());
    for n in 1..=3 {
        create(store, n, "alice", None).await;
    }
    create(store, 4, "bob", None).await;
    let listed =
        |list: Vec<portcullis::session::Listed>| list.into_iter().map(|entry| entry.key.0[0]).collect::<Vec<_>>();
    assert_eq!(listed(store.list(alice).await.unwrap()), [3, 2, 1]);

    // A touch raises, never lowers, and never brings back.
    let touches = vec![(key(1), at(500)), (key(1), at(400)), (key(9), at(500))];
    assert_eq!(store.touch(touches).await.unwrap(), [true, true, false]);
    assert_eq!(store.load(key(1)).await.unwrap().unwrap().last_seen, at(500));
    assert!(store.load(key(9)).await.unwrap().is_none());
    assert_eq!(listed(store.list(alice).await.unwrap()), [1, 3, 2]);

    // All others: exactly the caller is spared, and a touch after it resurrects nobody (I5, I11).
    let others = Revocation::User { user: alice, except: Some(key(2)) };
    assert_eq!(store.revoke(others, now).await.unwrap().ended, 2);
    assert_eq!(store.touch(vec![(key(1), at(600))]).await.unwrap(), [false]);
    assert_eq!(listed(store.list(alice).await.unwrap()), [2]);
    let epoch = store.load(key(2)).await.unwrap().unwrap().epoch;
    assert!(epoch >= now.0, "epochs are of the store's clock");
    let remembered = store.remembered(now).await.unwrap();
    assert!(remembered.contains(&Event::UserEpoch { user: alice, epoch, spared: None }), "{remembered:?}");
    assert!(store.load(key(4)).await.unwrap().is_some(), "another user is not concerned");

    // A replaced session ends in the same step; the limit ends the one unused longest.
    let creation = Creation { key: key(5), session: session("alice", 700), replaces: Some(key(2)), limit: None };
    let ended = Event::Ended { key: key(2), until: at(1_000_000) };
    assert_eq!(store.create(creation).await.unwrap(), [ended]);
    assert!(replayed || store.remembered(now).await.unwrap().contains(&ended), "its tombstone stands");
    assert!(store.load(key(2)).await.unwrap().is_none());
    create(store, 6, "alice", Some(2)).await;
    create(store, 7, "alice", Some(2)).await;
    assert_eq!(listed(store.list(alice).await.unwrap()), [5, 7]);

    // What is over is swept, its index entries with it (I22).
    assert_eq!(store.sweep(at(100_200), 10).await.unwrap(), 2);
    assert_eq!(listed(store.list(alice).await.unwrap()), [5]);
    assert_eq!(store.revoke(Revocation::Everyone, now).await.unwrap().ended, 1);
    assert!(store.list(alice).await.unwrap().is_empty());
    assert_eq!(store.revoke(Revocation::Session(key(5)), now).await.unwrap().ended, 0);
    revocations_are_remembered(store).await;
    the_shelf_is_written_by_one_of_many(store).await;
    what_another_store_wrote_out_comes_unless_it_was_revoked(store).await;
}

/// What was revoked here stays revoked, however often it comes, and what comes is within reach of what is revoked next.
async fn what_another_store_wrote_out_comes_unless_it_was_revoked(store: &dyn SessionStore) {
    let (dave, now) = (UserKey::of("local", "dave"), at(30));
    let epoch_in = |events: &[Event]| {
        events.iter().find_map(|event| match event {
            Event::UserEpoch { epoch, .. } => Some(*epoch),
            Event::Everyone { part, epoch } if part.holds(dave.shard()) => Some(*epoch),
            _ => None,
        })
    };
    let all = epoch_in(&store.revoke(Revocation::Everyone, now).await.unwrap().events).unwrap();
    let come = async |n, epoch| store.restore(key(n), Session { epoch, ..session("dave", 700) }).await.unwrap();
    assert_eq!(come(40, all - 1).await, Restored::Revoked, "everybody's were");
    // Of a clock that is ahead of this store's.
    let raised = Event::UserEpoch { user: dave, epoch: all + 1_000_000, spared: None };
    store.repeat(raised).await.unwrap();
    assert!(store.remembered(now).await.unwrap().contains(&raised));
    assert_eq!(come(40, all + 999_999).await, Restored::Revoked, "the user's were, where it comes from");
    let ahead = all + 2_000_000;
    assert_eq!((come(40, ahead).await, come(41, ahead).await), (Restored::Written, Restored::Written));
    assert_eq!(store.load(key(40)).await.unwrap(), Some(Session { epoch: ahead, ..session("dave", 700) }));
    store.touch(vec![(key(40), at(800))]).await.unwrap();
    store.repeat(raised).await.unwrap();
    assert_eq!(come(40, ahead).await, Restored::There);
    assert_eq!(store.load(key(40)).await.unwrap().unwrap().last_seen, at(800), "as it was");
    assert_eq!(store.revoke(Revocation::Session(key(41)), now).await.unwrap().ended, 1);
    assert_eq!(come(41, ahead).await, Restored::Revoked, "it was ended");
    let user = store.revoke(Revocation::User { user: dave, except: None }, now).await.unwrap();
    assert_eq!((user.ended, epoch_in(&user.events) > Some(ahead)), (1, true), "{user:?}");
    assert_eq!((come(40, ahead).await, come(42, ahead).await), (Restored::Revoked, Restored::Revoked));
    let higher = ahead + 1_000_000;
    store.repeat(Event::Ended { key: key(43), until: at(1_000_000) }).await.unwrap();
    assert_eq!((come(43, higher).await, come(44, higher).await), (Restored::Revoked, Restored::Written));
    store.repeat(Event::UserEpoch { user: dave, epoch: higher + 1, spared: None }).await.unwrap();
    assert!(store.load(key(44)).await.unwrap().is_none(), "of an older epoch");
    assert_eq!(come(45, higher + 1).await, Restored::Written);
    let part = Part { index: 0, of: 1 };
    store.repeat(Event::Everyone { part, epoch: higher + 2 }).await.unwrap();
    assert!(store.load(key(45)).await.unwrap().is_none(), "nor anybody's");
    assert_eq!(come(45, higher + 1).await, Restored::Revoked);
    let token = Event::Token { id: TokenId::of("https://id.example.com", "2"), until: at(1_000_000) };
    store.repeat(token).await.unwrap();
    assert!(store.remembered(now).await.unwrap().contains(&token));
}

/// Epochs never fall, whatever the clock says; tombstones stand until what they are for is over by itself.
async fn revocations_are_remembered(store: &dyn SessionStore) {
    let (carol, id) = (UserKey::of("local", "carol"), TokenId::of("https://id.example.com", "1"));
    let mine = |event: &Event| !matches!(event, Event::Everyone { part, .. } if !part.holds(carol.shard()));
    let revoke = async |what| store.revoke(what, at(20)).await.unwrap().events.into_iter().find(mine).unwrap();
    let epoch = |event| match event {
        Event::UserEpoch { epoch, .. } | Event::Everyone { epoch, .. } => epoch,
        other => panic!("{other:?}"),
    };
    let user = Revocation::User { user: carol, except: None };
    let (first, second) = (epoch(revoke(user).await), epoch(revoke(user).await));
    let all = epoch(revoke(Revocation::Everyone).await);
    assert!(first < second && second < all, "{first} {second} {all}");
    create(store, 20, "carol", None).await;
    assert_eq!(store.load(key(20)).await.unwrap().unwrap().epoch, all);
    let third = epoch(revoke(user).await);
    assert!(third > all, "of everybody, not only of the user");

    let deny = |until| Revocation::Token { id, until: at(until) };
    assert_eq!(revoke(deny(2_000_000)).await, Event::Token { id, until: at(2_000_000) });
    assert_eq!(revoke(deny(1_500_000)).await, Event::Token { id, until: at(2_000_000) }, "never shortened");
    let remembered = async |now| store.remembered(at(now)).await.unwrap();
    let tokens = async |now| remembered(now).await.iter().filter(|event| matches!(event, Event::Token { .. })).count();
    assert_eq!((tokens(1_999_999).await, tokens(2_000_000).await), (1, 0));
    assert_eq!(store.sweep(at(5_000_000), 1_000).await.unwrap(), 0);
    let left = remembered(0).await;
    assert!(left.iter().all(|event| event.until().is_none()), "tombstones go when they are over: {left:?}");
    assert!(left.contains(&Event::UserEpoch { user: carol, epoch: third, spared: None }), "{left:?}");
    let part = store.shared().map_or(Part::WHOLE, |log| {
        let of = log.parts();
        Part { index: carol.shard() % of, of }
    });
    assert!(left.contains(&Event::Everyone { part, epoch: all }), "{left:?}");
}

async fn the_shelf_is_written_by_one_of_many(store: &dyn SessionStore) {
    let (place, other) = (ShelfKey::of("test", b"a"), ShelfKey::of("test", b"b"));
    assert_ne!(ShelfKey::of("test", b"a"), ShelfKey::of("testa", b""));
    let keep = async |key, over, bytes: &[u8], until, now| {
        let keep = Keep { key, over, bytes: bytes.to_vec(), until: at(until) };
        store.keep(keep, at(now)).await.unwrap()
    };
    let kept = async |now| store.kept(place, at(now)).await.unwrap().map(|kept| (kept.version, kept.bytes));
    assert_eq!(kept(0).await, None);
    let first = keep(place, None, b"one", 100, 0).await.unwrap();
    assert_eq!(keep(place, None, b"two", 100, 0).await, None, "somebody else was faster");
    assert_eq!(keep(place, Some(first + 1), b"two", 100, 0).await, None);
    let second = keep(place, Some(first), b"two", 200, 0).await.unwrap();
    assert_eq!(keep(place, Some(first), b"three", 100, 0).await, None, "each version is replaced once");
    assert_eq!(kept(199).await, Some((second, b"two".to_vec())));
    // What expired is as if it were not there, and its version counts no more.
    assert_eq!(kept(200).await, None);
    assert_eq!(keep(place, Some(second), b"four", 300, 200).await, None);
    let third = keep(place, None, b"four", 300, 200).await.unwrap();
    assert!(!store.discard(place, second).await.unwrap());
    assert!(store.discard(place, third).await.unwrap());
    assert!(!store.discard(place, third).await.unwrap());
    let fourth = keep(place, None, b"five", 300, 200).await.unwrap();
    assert!(![first, second, third].contains(&fourth), "no version is given twice");
    keep(other, None, b"kept", 400, 200).await.unwrap();
    store.sweep(at(300), 1_000).await.unwrap();
    // A server with a clock of its own needs no sweep for it.
    assert!(store.shared().is_some() || store.kept(place, at(0)).await.unwrap().is_none(), "swept");
    assert!(store.kept(other, at(300)).await.unwrap().is_some());
}

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    keeps_the_contract(&Memory::new()).await;
}

#[tokio::test]
async fn the_embedded_store_keeps_the_contract_and_what_it_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.redb");
    let store = Embedded::open(&path).unwrap();
    keeps_the_contract(&store).await;
    create(&store, 8, "alice", None).await;
    assert!(matches!(Embedded::open(&path), Err(OpenError::Locked)), "one file serves one process");
    store.touch(vec![(key(8), at(900))]).await.unwrap();
    drop(store);
    let again = Embedded::open(&path).unwrap();
    assert_eq!(again.load(key(8)).await.unwrap().unwrap().last_seen, at(900));
    let (place, until) = (ShelfKey::of("test", b"kept"), at(5_000));
    let keep = |over| Keep { key: place, over, bytes: b"here".to_vec(), until };
    let version = again.keep(keep(None), at(0)).await.unwrap();
    let denied = Revocation::Token { id: TokenId::of("https://id.example.com", "2"), until };
    again.revoke(denied, at(0)).await.unwrap();
    let remembered = again.remembered(at(0)).await.unwrap();
    assert!(remembered.len() > 2, "{remembered:?}");
    drop(again);
    let again = Embedded::open(&path).unwrap();
    assert_eq!(again.remembered(at(0)).await.unwrap(), remembered, "through a restart");
    assert_eq!(again.kept(place, at(0)).await.unwrap().map(|kept| kept.version), version);
    assert!(again.keep(keep(version), at(0)).await.unwrap() > version);
    again.revoke(Revocation::Everyone, at(0)).await.unwrap();
    keeps_the_contract_after_reopening(&again).await;
}

async fn keeps_the_contract_after_reopening(store: &dyn SessionStore) {
    assert!(store.load(key(8)).await.unwrap().is_none());
}

#[tokio::test]
async fn the_redis_store_keeps_the_contract() {
    let server = RedisServer::start(&[]);
    keeps_the_contract(&server.store()).await;
}

#[tokio::test]
async fn the_redis_store_keeps_the_contract_over_a_cluster() {
    let cluster = RedisCluster::start();
    keeps_the_contract(&cluster.store()).await;
}

#[tokio::test]
async fn the_redis_store_keeps_the_contract_over_the_oldest_server_promised() {
    let server = RedisServer::start_as(&oldest_redis(), &[]);
    assert!(server.admin(&["INFO", "server"]).contains("redis_version:6.2."));
    keeps_the_contract(&server.store()).await;
    let cluster = RedisCluster::start_as(&oldest_redis(), &[]);
    keeps_the_contract(&cluster.store()).await;
}

#[tokio::test]
async fn the_redis_store_keeps_the_contract_over_valkey() {
    let server = RedisServer::start_as(&valkey(), &[]);
    keeps_the_contract(&server.store()).await;
}

fn node(store: &Arc<dyn SessionStore>, keys: &SessionKeys) -> Arc<Sessions> {
    let lifetimes = Lifetimes::new(Duration::from_secs(100), Duration::from_secs(1_000));
    let store_timeout = Duration::from_secs(5);
    let settings = Settings { lifetimes, cache_entries: 1_000, max_sessions: None, store_timeout };
    Sessions::new(store.clone(), CookieCodec::new(keys, ""), settings)
}

pub fn alice() -> NewSession {
    let (name, email, roles) = (None, None, vec![]);
    NewSession {
        provider: "local".into(),
        subject: "alice".into(),
        entry: 0,
        name,
        email,
        roles,
        device: "test".into(),
        provided: None,
    }
}

async fn ended(node: &Sessions, cookie: &str, at: u64) -> Option<EndedBecause> {
    match node.lookup(cookie, Activity::Active, Timestamp(at * 1000)).await.unwrap() {
        Lookup::Alive(_) => None,
        Lookup::Ended(because) => Some(because),
    }
}

/// I19, I15, I17: two nodes, one store, a user who is busy on both.
#[tokio::test]
async fn a_user_active_on_two_nodes_is_never_signed_out_early_nor_late() {
    let (store, keys): (Arc<dyn SessionStore>, _) = (Arc::new(Memory::new()), SessionKeys::random().unwrap());
    let nodes = [node(&store, &keys), node(&store, &keys)];
    let cookie = nodes[0].begin(alice(), None, Timestamp(0)).await.unwrap().cookie;
    for step in 1..=10_u64 {
        let at = step * 99;
        assert_eq!(ended(&nodes[usize::from(step % 2 == 0)], &cookie, at).await, None, "second {at}");
        assert_eq!(ended(&nodes[usize::from(step % 2 == 1)], &cookie, at).await, None, "at once on the other");
    }
    assert_eq!(ended(&nodes[0], &cookie, 1_000).await, Some(EndedBecause::Absolute));
    let cookie = nodes[0].begin(alice(), None, Timestamp(0)).await.unwrap().cookie;
    assert_eq!(ended(&nodes[1], &cookie, 100).await, Some(EndedBecause::Idle));
}

#[tokio::test]
async fn a_revoked_session_is_not_answered_from_memory() {
    let (store, keys): (Arc<dyn SessionStore>, _) = (Arc::new(Memory::new()), SessionKeys::random().unwrap());
    let node = node(&store, &keys);
    let now = Timestamp(0);
    let (one, two) = (node.begin(alice(), None, now).await.unwrap(), node.begin(alice(), None, now).await.unwrap());
    assert_eq!(ended(&node, &one.cookie, 1).await, None);
    let exchange = node.open_exchange(&one.view);
    assert!(node.end(&one.cookie, now).await.unwrap());
    exchange.ended().await;
    assert!(ended(&node, &one.cookie, 1).await.is_some());
    assert_eq!(ended(&node, &two.cookie, 1).await, None);
    node.revoke(Revocation::User { user: two.view.user, except: None }, Wait::Fully, now).await.unwrap();
    assert!(ended(&node, &two.cookie, 1).await.is_some());
    let three = node.begin(alice(), Some(&two.cookie), now).await.unwrap();
    assert_ne!(three.cookie, two.cookie, "a new id at every sign-in");
    node.revoke(Revocation::Everyone, Wait::Fully, now).await.unwrap();
    assert!(ended(&node, &three.cookie, 1).await.is_some());
}

/// I14: what was revoked before a process began is known to it before it answers.
#[tokio::test]
async fn a_node_that_just_started_knows_what_was_revoked_before() {
    let folder = tempfile::tempdir().unwrap();
    let (path, keys, now) = (folder.path().join("s.redb"), SessionKeys::random().unwrap(), Timestamp(1_000));
    let store: Arc<dyn SessionStore> = Arc::new(Embedded::open(&path).unwrap());
    let before = node(&store, &keys);
    drop(store);
    let one = before.begin(alice(), None, now).await.unwrap();
    let (user, id) = (one.view.user, TokenId::of("https://id.example.com", "1"));
    let is_over = |node: &Sessions| node.is_over(one.view.key, user, one.view.epoch());
    assert!(!is_over(&before) && !before.is_token_revoked(id));
    let revoked = before.revoke(Revocation::Session(one.view.key), Wait::Fully, now).await.unwrap();
    assert!(revoked.everywhere && (revoked.confirmed, revoked.nodes, revoked.ended) == (1, 1, 1), "{revoked:?}");
    let token = Revocation::Token { id, until: Timestamp(9_000) };
    assert!(before.revoke(token, Wait::BROWSER, now).await.unwrap().everywhere);
    let two = before.begin(alice(), None, now).await.unwrap();
    before.revoke(Revocation::User { user, except: Some(two.view.key) }, Wait::Fully, now).await.unwrap();
    assert!(is_over(&before) && before.is_token_revoked(id));
    let epoch = before.epoch(user);
    assert!(before.is_over(two.view.key, user, two.view.epoch()), "a token of the epoch before");
    assert!(!before.is_over(two.view.key, user, epoch), "the spared session's next one");
    drop(before);
    let store: Arc<dyn SessionStore> = Arc::new(Embedded::open(&path).unwrap());
    let after = node(&store, &keys);
    after.recall(now).await.unwrap();
    assert!(is_over(&after) && after.is_token_revoked(id));
    assert_eq!(after.epoch(user), epoch);
}

/// G3: a replica that was promoted without the last writes has the record again.
#[tokio::test]
async fn a_record_that_comes_back_after_its_revocation_is_not_answered() {
    let (store, keys, now): (Arc<dyn SessionStore>, _, _) =
        (Arc::new(Memory::new()), SessionKeys::random().unwrap(), Timestamp(0));
    let node = node(&store, &keys);
    let begun = node.begin(alice(), None, now).await.unwrap();
    let record = store.load(begun.view.key).await.unwrap().unwrap();
    node.revoke(Revocation::Session(begun.view.key), Wait::Fully, now).await.unwrap();
    let again = Creation { key: begun.view.key, session: record, replaces: None, limit: None };
    store.create(again).await.unwrap();
    assert!(ended(&node, &begun.cookie, 1).await.is_some());
}

/// I20
#[tokio::test]
async fn passive_requests_do_not_extend_a_session() {
    let (store, keys): (Arc<dyn SessionStore>, _) = (Arc::new(Memory::new()), SessionKeys::random().unwrap());
    let node = node(&store, &keys);
    let cookie = node.begin(alice(), None, Timestamp(0)).await.unwrap().cookie;
    let at = Timestamp(95_000);
    assert!(matches!(node.lookup(&cookie, Activity::Passive, at).await.unwrap(), Lookup::Alive(_)));
    assert_eq!(ended(&node, &cookie, 100).await, Some(EndedBecause::Idle));
}
