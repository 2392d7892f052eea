//! A store that holds very much: nothing that is asked of it holds everybody else up, as one long answer or one long script would –
//! heartbeats are not written meanwhile, and leases run out.

use portcullis::clock::{Clock, SystemClock, Timestamp};
use portcullis::session::{Creation, Event, Revocation, Session, SessionKey, SessionStore, UserKey};

use crate::contract;
use crate::redis_server::{RedisServer, oldest_redis, valkey};

/// More than one piece of anything.
const MANY: usize = 12_001;

/// Seen at this moment of the store's clock.
fn session(subject: &str, seen: u64) -> Session {
    let (seen, ends) = (Timestamp(seen), Timestamp(seen + 1_000_000));
    Session { roles: vec![], created: seen, last_seen: seen, ends, ..contract::session(subject, 0) }
}

/// How often the server carried out a command, scripts' own included.
fn calls(server: &RedisServer, command: &str) -> usize {
    let stats = server.admin(&["INFO", "commandstats"]);
    let begins = format!("cmdstat_{command}:calls=");
    stats.lines().find_map(|line| line.strip_prefix(&begins)?.split(',').next()?.parse().ok()).unwrap_or(0)
}

/// A sorted set of many.
fn fill(server: &RedisServer, key: &str, first: usize, score: &str) {
    let script = format!(
        "for at = 1, {MANY} do redis.call('ZADD', KEYS[1], {score}, string.format('%032x', {first} + at)) end return 'OK'"
    );
    assert_eq!(server.admin(&["EVAL", &script, "1", key]), "OK");
}

#[tokio::test]
async fn a_long_list_is_whole_and_asked_for_in_pieces() {
    for server in
        [RedisServer::start(&[]), RedisServer::start_as(&oldest_redis(), &[]), RedisServer::start_as(&valkey(), &[])]
    {
        let (store, now) = (server.store(), SystemClock.now().0);
        let user = session("alice", 0).user();
        for n in 0..450_u16 {
            let mut key = [7; 16];
            key[..2].copy_from_slice(&n.to_be_bytes());
            key[15] = user.shard();
            let (key, session) = (SessionKey(key), session("alice", now - u64::from(n)));
            assert!(store.create(Creation { key, session, replaces: None, limit: None }).await.unwrap().is_empty());
        }
        let before = calls(&server, "evalsha");
        let listed = store.list(user).await.unwrap();
        let seen: Vec<u64> = listed.iter().map(|listed| now - listed.session.last_seen.0).collect();
        assert_eq!(seen, (0..450).collect::<Vec<u64>>(), "latest activity first");
        assert!(calls(&server, "evalsha") - before > 2, "in one script");

        let (deleted, cut) = (calls(&server, "del"), calls(&server, "zrem"));
        let done = store.revoke(Revocation::User { user, except: Some(listed[3].key) }, Timestamp(now)).await.unwrap();
        assert_eq!(done.ended, 449);
        assert!(calls(&server, "del") - deleted < 10 && calls(&server, "zrem") - cut < 10, "one after the other");
        let left: Vec<SessionKey> = store.list(user).await.unwrap().iter().map(|listed| listed.key).collect();
        assert_eq!(left, [listed[3].key]);
        assert_eq!(server.admin(&["ZCARD", "portcullis:a{00}"]), "1");
        assert_eq!(store.revoke(Revocation::User { user, except: None }, Timestamp(now)).await.unwrap().ended, 1);
        assert_eq!(server.admin(&["KEYS", "portcullis:[sua]{00}*"]), "");
    }
}

#[tokio::test]
async fn all_that_was_revoked_is_read_in_pieces_and_nothing_is_left_out() {
    let server = RedisServer::start(&[]);
    let (store, now) = (server.store(), SystemClock.now().0);
    store.load(SessionKey([0; 16])).await.unwrap();
    // Users one after the other, and many tokens that end at one moment.
    fill(&server, "portcullis:n{00}", 0, &format!("{now} + at"));
    fill(&server, "portcullis:t{00}", 1 << 20, &format!("{now} + 1000000"));
    fill(&server, "portcullis:t{00}", 1 << 21, &format!("{now} + 2000000 + at"));
    let whole = calls(&server, "zrange");
    let remembered = store.remembered(Timestamp(now)).await.unwrap();
    assert_eq!(calls(&server, "zrange"), whole, "as a whole");
    let (mut users, mut tokens) = (Vec::new(), Vec::new());
    for event in remembered {
        match event {
            Event::UserEpoch { user: UserKey(key), epoch, .. } => users.push((u128::from_be_bytes(key), epoch - now)),
            Event::Token { id, until } => tokens.push((u128::from_be_bytes(id.0), until.0 - now)),
            other => panic!("{other:?}"),
        }
    }
    users.sort_unstable();
    users.dedup();
    tokens.sort_unstable();
    tokens.dedup();
    let many = MANY as u64;
    assert!(users.into_iter().eq((1..=many).map(|at| (u128::from(at), at))));
    let [one, other] = [1_u128 << 20, 1 << 21];
    let expected = (1..=many).map(|at| (one + u128::from(at), 1_000_000));
    assert!(tokens.into_iter().eq(expected.chain((1..=many).map(|at| (other + u128::from(at), 2_000_000 + at)))));
}
