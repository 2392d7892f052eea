//! One contract for every session store, and what the session layer promises over it.

use std::sync::Arc;
use std::time::Duration;

use portcullis::clock::Timestamp;
use portcullis::session::store::{Embedded, Memory, OpenError};
use portcullis::session::{
    Activity, CookieCodec, Creation, EndedBecause, Lifetimes, Lookup, NewSession, Revocation, Session, SessionKey,
    SessionKeys, SessionStore, Sessions, Settings, UserKey,
};

fn session(subject: &str, seen: u64) -> Session {
    Session {
        provider: "local".into(),
        subject: subject.into(),
        name: None,
        email: None,
        roles: vec!["admin".into()],
        created: Timestamp(seen),
        ends: Timestamp(1_000_000),
        idle_ms: 100_000,
        last_seen: Timestamp(seen),
        epoch: 0,
        device: "test".into(),
        provided: None,
    }
}

fn key(n: u8) -> SessionKey {
    SessionKey([n; 16])
}

async fn create(store: &dyn SessionStore, n: u8, subject: &str, limit: Option<u32>) {
    let session = session(subject, u64::from(n));
    store.create(Creation { key: key(n), session, replaces: None, limit }).await.unwrap();
}

async fn keeps_the_contract(store: &dyn SessionStore) {
    let (alice, now) = (UserKey::of("local", "alice"), Timestamp(10));
    assert!(store.load(key(1)).await.unwrap().is_none());
    for n in 1..=3 {
        create(store, n, "alice", None).await;
    }
    create(store, 4, "bob", None).await;
    let listed =
        |list: Vec<portcullis::session::Listed>| list.into_iter().map(|entry| entry.key.0[0]).collect::<Vec<_>>();
    assert_eq!(listed(store.list(alice).await.unwrap()), [3, 2, 1]);

    // A touch raises, never lowers, and never brings back.
    let touches = vec![(key(1), Timestamp(500)), (key(1), Timestamp(400)), (key(9), Timestamp(500))];
    assert_eq!(store.touch(touches).await.unwrap(), [true, true, false]);
    assert_eq!(store.load(key(1)).await.unwrap().unwrap().last_seen, Timestamp(500));
    assert!(store.load(key(9)).await.unwrap().is_none());
    assert_eq!(listed(store.list(alice).await.unwrap()), [1, 3, 2]);

    // All others: exactly the caller is spared, and a touch after it resurrects nobody (I5, I11).
    let others = Revocation::User { user: alice, except: Some(key(2)) };
    assert_eq!(store.revoke(others, now).await.unwrap().ended, 2);
    assert_eq!(store.touch(vec![(key(1), Timestamp(600))]).await.unwrap(), [false]);
    assert_eq!(listed(store.list(alice).await.unwrap()), [2]);
    assert_eq!(store.load(key(2)).await.unwrap().unwrap().epoch, 1);
    assert!(store.load(key(4)).await.unwrap().is_some(), "another user is not concerned");

    // A replaced session ends in the same step; the limit ends the one unused longest.
    let creation = Creation { key: key(5), session: session("alice", 700), replaces: Some(key(2)), limit: None };
    assert_eq!(store.create(creation).await.unwrap().len(), 1);
    assert!(store.load(key(2)).await.unwrap().is_none());
    create(store, 6, "alice", Some(2)).await;
    create(store, 7, "alice", Some(2)).await;
    assert_eq!(listed(store.list(alice).await.unwrap()), [5, 7]);

    // What is over is swept, its index entries with it (I22).
    assert_eq!(store.sweep(Timestamp(100_200), 10).await.unwrap(), 2);
    assert_eq!(listed(store.list(alice).await.unwrap()), [5]);
    assert_eq!(store.revoke(Revocation::Everyone, now).await.unwrap().ended, 1);
    assert!(store.list(alice).await.unwrap().is_empty());
    assert_eq!(store.revoke(Revocation::Session(key(5)), now).await.unwrap().ended, 0);
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
    create(&store, 8, "carol", None).await;
    assert!(matches!(Embedded::open(&path), Err(OpenError::Locked)), "one file serves one process");
    store.touch(vec![(key(8), Timestamp(900))]).await.unwrap();
    drop(store);
    let again = Embedded::open(&path).unwrap();
    assert_eq!(again.load(key(8)).await.unwrap().unwrap().last_seen, Timestamp(900));
    again.revoke(Revocation::Everyone, Timestamp(0)).await.unwrap();
    keeps_the_contract_after_reopening(&again).await;
}

async fn keeps_the_contract_after_reopening(store: &dyn SessionStore) {
    assert!(store.load(key(8)).await.unwrap().is_none());
}

fn node(store: &Arc<dyn SessionStore>, keys: &SessionKeys) -> Arc<Sessions> {
    let lifetimes = Lifetimes::new(Duration::from_secs(100), Duration::from_secs(1_000));
    let store_timeout = Duration::from_secs(5);
    let settings = Settings { lifetimes, cache_entries: 1_000, max_sessions: None, store_timeout };
    Sessions::new(store.clone(), CookieCodec::new(keys, ""), settings)
}

fn alice() -> NewSession {
    let (name, email, roles) = (None, None, vec![]);
    NewSession {
        provider: "local".into(),
        subject: "alice".into(),
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
    node.revoke(Revocation::User { user: two.view.user, except: None }, now).await.unwrap();
    assert!(ended(&node, &two.cookie, 1).await.is_some());
    let three = node.begin(alice(), Some(&two.cookie), now).await.unwrap();
    assert_ne!(three.cookie, two.cookie, "a new id at every sign-in");
    node.revoke(Revocation::Everyone, now).await.unwrap();
    assert!(ended(&node, &three.cookie, 1).await.is_some());
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
