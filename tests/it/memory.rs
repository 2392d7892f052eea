//! Memory that is full: who makes room, and that nobody who shares an entry of the cache suffers from it.

use std::sync::Arc;
use std::time::Duration;

use portcullis::clock::Timestamp;
use portcullis::session::store::Memory;
use portcullis::session::{
    Activity, CookieCodec, Lifetimes, Lookup, NewSession, Revocation, SessionKeys, Sessions, Settings, Wait,
};

use crate::contract::alice;

fn node(cache_entries: u64) -> Arc<Sessions> {
    let lifetimes = Lifetimes::new(Duration::from_secs(1_000), Duration::from_secs(10_000));
    let settings = Settings { lifetimes, cache_entries, max_sessions: None, store_timeout: Duration::from_secs(40) };
    Sessions::new(Arc::new(Memory::new()), CookieCodec::new(&SessionKeys::random().unwrap(), ""), settings)
}

async fn begin(node: &Sessions, number: u64) -> String {
    let new = NewSession { subject: format!("user{number}"), ..alice() };
    node.begin(new, None, Timestamp(number)).await.unwrap().cookie
}

/// Whether a session is answered without the store.
async fn is_in_memory(node: &Sessions, cookie: &str) -> bool {
    let before = (node.counts().hits.get(), node.counts().misses.get());
    let found = node.lookup(cookie, Activity::Passive, Timestamp(100)).await.unwrap();
    assert!(matches!(found, Lookup::Alive(_)), "in memory or not, it lives");
    let after = (node.counts().hits.get(), node.counts().misses.get());
    assert!(after.0 + after.1 == before.0 + before.1 + 1);
    after.0 > before.0
}

/// Eight share one entry.
#[tokio::test]
async fn the_session_unused_longest_makes_room_and_the_others_stay() {
    let node = node(8);
    let mut cookies = Vec::new();
    for number in 0..9 {
        cookies.push(begin(&node, number).await);
    }
    for cookie in &cookies[1..] {
        assert!(is_in_memory(&node, cookie).await);
    }
    assert!(!is_in_memory(&node, &cookies[0]).await);
    assert!(!is_in_memory(&node, &cookies[1]).await, "the next one made room for it");
    assert!(is_in_memory(&node, &cookies[8]).await);
}

#[tokio::test]
async fn a_session_that_ends_takes_nobody_beside_it_out_of_memory() {
    let node = node(8);
    let mut cookies = Vec::new();
    for number in 0..4 {
        cookies.push(begin(&node, number).await);
    }
    let found = node.lookup(&cookies[2], Activity::Passive, Timestamp(100)).await.unwrap();
    let Lookup::Alive(view) = found else { panic!("{found:?}") };
    node.revoke(Revocation::Session(view.key), Wait::Fully, Timestamp(100)).await.unwrap();
    let ended = node.lookup(&cookies[2], Activity::Passive, Timestamp(100)).await.unwrap();
    assert!(matches!(ended, Lookup::Ended(_)), "{ended:?}");
    for cookie in [&cookies[0], &cookies[1], &cookies[3]] {
        assert!(is_in_memory(&node, cookie).await);
    }
}

#[tokio::test]
async fn memory_holds_as_many_sessions_as_it_is_allowed_and_most_of_the_latest() {
    const ALLOWED: u64 = 400;
    let node = node(ALLOWED);
    let mut cookies = Vec::new();
    for number in 0..4 * ALLOWED {
        cookies.push(begin(&node, number).await);
    }
    // The books are kept a little behind.
    assert!(node.cached() <= ALLOWED + 64, "{} sessions", node.cached());
    let mut held = 0;
    // The latest first: what is loaded on the way takes the place of those that were used before it.
    for cookie in cookies[3 * ALLOWED as usize..].iter().rev() {
        held += u64::from(is_in_memory(&node, cookie).await);
    }
    assert!(held >= ALLOWED / 2, "{held} of the latest {ALLOWED}");
}
