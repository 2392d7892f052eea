//! A store that holds very much: nothing that is asked of it holds everybody else up, as one long answer or one long script would –
//! heartbeats are not written meanwhile, and leases run out.

use portcullis::clock::{Clock, SystemClock, Timestamp};
use portcullis::session::{Creation, Revocation, Session, SessionKey, SessionStore};

use crate::redis_server::{RedisServer, oldest_redis, valkey};

fn session(subject: &str, seen: u64) -> Session {
    Session {
        provider: "local".into(),
        subject: subject.into(),
        entry: 0,
        name: None,
        email: None,
        roles: vec![],
        created: Timestamp(seen),
        ends: Timestamp(seen + 1_000_000),
        idle_ms: 100_000,
        last_seen: Timestamp(seen),
        epoch: 0,
        device: "test".into(),
        provided: None,
    }
}

/// How often the server carried out a command, scripts' own included.
fn calls(server: &RedisServer, command: &str) -> usize {
    let stats = server.admin(&["INFO", "commandstats"]);
    let begins = format!("cmdstat_{command}:calls=");
    stats.lines().find_map(|line| line.strip_prefix(&begins)?.split(',').next()?.parse().ok()).unwrap_or(0)
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
