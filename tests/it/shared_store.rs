//! The shared store against real servers: which it refuses, what it leaves behind, and how it is reached over TLS, through
//! sentinels and in a cluster.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::clock::{Clock, SystemClock, Timestamp};
use portcullis::session::store::{Deployment, Login, Redis, RedisError, Tls};
use portcullis::session::{
    CookieCodec, Creation, Event, Lifetimes, NewSession, Revocation, Session, SessionKey, SessionKeys, SessionStore,
    Sessions, Settings, TokenId, UserKey,
};
use portcullis::trust::{ClientTlsFiles, client_config};

use rcgen::ExtendedKeyUsagePurpose;
use tokio_util::sync::CancellationToken;

use crate::redis_server::{RedisCluster, RedisServer, address, free_port, options};
use crate::servers::Authority;

fn told(refused: Result<Redis, RedisError>) -> String {
    let Err(error) = refused else { panic!("it was not refused") };
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

pub fn record(subject: &str, seen: Timestamp, idle: Duration) -> Session {
    Session {
        provider: "local".into(),
        subject: subject.into(),
        entry: 0,
        roles: vec!["admin".into()],
        created: seen,
        ends: seen.plus(Duration::from_secs(3600)),
        idle_ms: u64::try_from(idle.as_millis()).unwrap(),
        last_seen: seen,
        device: "test".into(),
        name: None,
        email: None,
        epoch: 0,
        provided: None,
    }
}

pub fn key(subject: &str, n: u8) -> SessionKey {
    let mut key = [n; 16];
    key[15] = UserKey::of("local", subject).shard();
    SessionKey(key)
}

async fn create(store: &dyn SessionStore, n: u8, session: Session) {
    let key = key(&session.subject, n);
    store.create(Creation { key, session, replaces: None, limit: None }).await.unwrap();
}

/// Until it holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_server_that_could_lose_a_revocation_is_refused_with_what_to_set() {
    let evicting = RedisServer::start(&["--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru"]);
    let said = told(Redis::open(evicting.options()));
    assert!(said.contains("volatile-lru") && said.contains("set `maxmemory-policy noeviction`"), "{said}");

    let master = RedisServer::start(&[]);
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    let said = told(Redis::open(replica.options()));
    assert!(said.contains("is a replica; name its master"), "{said}");

    let sentinel = RedisServer::sentinel(master.port, Duration::from_secs(3));
    let mut watching = sentinel.options();
    watching.login = Login::default();
    let said = told(Redis::open(watching));
    assert!(said.contains("is a sentinel; write `sentinel"), "{said}");

    drop(Redis::open(master.options()).unwrap());
    let mut divided = master.options();
    divided.partitions = 4;
    let said = told(Redis::open(divided));
    assert!(said.contains("divided into 1 parts, the configuration says 4; set `partitions = 1`"), "{said}");
    master.admin(&["HSET", "portcullis:meta{00}", "schema", "99"]);
    let said = told(Redis::open(master.options()));
    assert!(said.contains("schema 99") && said.contains("another `prefix`"), "{said}");

    let mut stranger = master.options();
    stranger.login = Login { user: Some("portcullis".into()), password: Some("guessed".into()) };
    let said = told(Redis::open(stranger));
    assert!(said.contains("authentication failed") && !said.contains("guessed"), "{said}");
}

#[test]
fn a_server_is_no_cluster_and_a_cluster_no_server() {
    let server = RedisServer::start(&[]);
    let said = told(Redis::open(options(vec![address(server.port)], Deployment::Cluster, 16)));
    assert!(said.contains("cluster"), "{said}");
    let cluster = RedisServer::start(&["--cluster-enabled", "yes"]);
    let said = told(Redis::open(cluster.options()));
    assert!(said.contains("write `cluster = true`"), "{said}");
}

#[tokio::test]
async fn a_store_that_is_away_keeps_nobody_from_starting_and_is_found_when_it_comes() {
    let mut server = RedisServer::start(&[]);
    server.kill();
    let store = server.store();
    assert!(store.load(key("alice", 1)).await.is_err(), "no answer is not: no such session");
    server.restart("redis-server", &[]);
    eventually("the store is found", async || store.load(key("alice", 1)).await.is_ok()).await;
    // Gone and back between two questions: the second is answered all the same.
    server.restart("redis-server", &[]);
    assert!(store.load(key("alice", 1)).await.unwrap().is_none());
    // So it is when the server forgets its scripts.
    server.admin(&["SCRIPT", "FLUSH"]);
    assert!(store.load(key("alice", 1)).await.unwrap().is_none());
}

/// I22, I25: in one slot, and with an end.
#[tokio::test]
async fn every_key_lies_in_its_partition_and_what_is_over_leaves_none() {
    let server = RedisServer::start(&[]);
    let store = server.store();
    let now = SystemClock.now();
    create(&store, 1, record("alice", now, Duration::from_secs(60))).await;
    create(&store, 2, record("alice", now, Duration::from_secs(60))).await;
    store.revoke(Revocation::Session(key("alice", 1)), now).await.unwrap();
    let keys = server.admin(&["KEYS", "*"]);
    assert!(keys.lines().count() > 5, "{keys}");
    for name in keys.lines() {
        assert!(name.starts_with("portcullis:") && name.contains("{00}"), "{name}");
        let single = name.ends_with("{00}");
        let ends = server.admin(&["PTTL", name]) != "-1";
        assert!(single || ends, "{name} never ends");
    }
    // Long unused: the server itself lets go of record and index.
    let past = Timestamp(now.0 - 3_600_000);
    create(&store, 3, record("bob", past, Duration::from_secs(60))).await;
    assert!(store.list(UserKey::of("local", "bob")).await.unwrap().is_empty());
    let bob: String = UserKey::of("local", "bob").0.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!server.admin(&["KEYS", "*"]).contains(&bob), "the index went with its last member");
    store.sweep(now, 100).await.unwrap();
    assert_eq!(server.admin(&["ZCARD", "portcullis:a{00}"]), "1");
}

/// I5: whatever comes late.
#[tokio::test]
async fn an_ended_session_is_not_made_again_by_a_late_creation() {
    let server = RedisServer::start(&[]);
    let (store, now) = (server.store(), SystemClock.now());
    store.revoke(Revocation::Session(key("alice", 1)), now).await.unwrap();
    let session = record("alice", now, Duration::from_secs(60));
    let late = store.create(Creation { key: key("alice", 1), session, replaces: None, limit: None }).await;
    assert!(late.is_err());
    assert!(store.load(key("alice", 1)).await.unwrap().is_none());
}

/// A browser in which another person signs in: the two may be in different parts of the store.
#[tokio::test]
async fn a_sign_in_ends_the_session_it_replaces_in_whatever_partition() {
    let cluster = RedisCluster::start();
    let store = cluster.store();
    let now = SystemClock.now();
    let people = ["alice", "bob", "carol", "dave"];
    let mut old = None;
    for (n, subject) in people.iter().enumerate() {
        let new = key(subject, u8::try_from(n).unwrap());
        let session = record(subject, now, Duration::from_secs(60));
        let events = store.create(Creation { key: new, session, replaces: old, limit: None }).await.unwrap();
        if let Some(old) = old {
            assert_eq!(events.len(), 1);
            assert!(store.load(old).await.unwrap().is_none(), "{subject} replaces who was there");
        }
        assert!(store.load(new).await.unwrap().is_some());
        old = Some(new);
    }
    let spread = cluster.servers().iter().filter(|server| server.admin(&["DBSIZE"]) != "0").count();
    assert!(spread > 1, "the people are on several servers");
}

/// I26: whoever reads the store cannot make a cookie from it.
#[tokio::test]
async fn the_shared_store_holds_no_cookie_in_any_form() {
    use base64::Engine;
    let server = RedisServer::start(&["--rdbcompression", "no"]);
    let lifetimes = Lifetimes::new(Duration::from_secs(100), Duration::from_secs(1_000));
    let store_timeout = Duration::from_secs(5);
    let settings = Settings { lifetimes, cache_entries: 10, max_sessions: None, store_timeout };
    let codec = CookieCodec::new(&SessionKeys::random().unwrap(), "");
    let node = Sessions::new(Arc::new(server.store()), codec, settings);
    let new = NewSession {
        provider: "local".into(),
        subject: "alice".into(),
        entry: 0,
        device: "test".into(),
        name: None,
        email: None,
        roles: vec![],
        provided: None,
    };
    let stop = CancellationToken::new();
    let maintained = tokio::spawn(node.clone().maintain(Arc::new(SystemClock), stop.clone()));
    eventually("it hears of revocations", async || node.hears_all().is_ok()).await;
    let begun = node.begin(new, None, SystemClock.now()).await.unwrap();
    stop.cancel();
    maintained.await.unwrap();
    assert_eq!(server.admin(&["SAVE"]), "OK");
    let file = std::fs::read(server.folder.path().join("dump.rdb")).unwrap();
    let raw = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(&begun.cookie).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes();
    let holds = |needle: &[u8]| file.windows(needle.len()).any(|window| window == needle);
    assert!(holds(&hex(&begun.view.key.0)), "the file is the one");
    for secret in [begun.cookie.as_bytes(), &raw, &raw[3..23], &hex(&raw[3..23])] {
        assert!(!holds(secret), "the secret id");
    }
}

#[tokio::test]
async fn it_is_reached_over_tls_with_a_client_certificate_and_not_without() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (certificate, private) = Authority::new(folder.path()).issue("localhost", ExtendedKeyUsagePurpose::ServerAuth);
    std::fs::write(path("own.pem"), certificate.pem()).unwrap();
    std::fs::write(path("own.key"), private.serialize_pem()).unwrap();
    let port = free_port().to_string();
    let [ca, certificate, private] = ["ca.pem", "own.pem", "own.key"].map(|name| path(name).display().to_string());
    let server = RedisServer::start(&[
        "--tls-port",
        &port,
        "--tls-ca-cert-file",
        &ca,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &private,
        "--tls-auth-clients",
        "yes",
    ]);
    let secure = |identity| {
        let files = ClientTlsFiles { ca: Some(path("ca.pem")), identity };
        let mut options = options(vec![address(port.parse().unwrap())], Deployment::Single, 1);
        options.addresses[0].host = "localhost".into();
        options.tls = Some(Tls { config: Arc::new(Arc::new(client_config(&files).unwrap())), name: None });
        options
    };
    let store = Redis::open(secure(Some((path("client.pem"), path("client.key"))))).unwrap();
    create(&store, 1, record("alice", SystemClock.now(), Duration::from_secs(60))).await;
    assert_eq!(server.admin(&["ZCARD", "portcullis:a{00}"]), "1");
    let said = told(Redis::open(secure(None)));
    assert!(said.contains("asks for a certificate of the gateway"), "{said}");
}

/// A master, its replica and a sentinel; the master ends, and the store goes on by itself.
#[tokio::test]
async fn sentinels_lead_to_the_new_master() {
    let mut master = RedisServer::start(&[]);
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    let sentinel = RedisServer::sentinel(master.port, Duration::from_millis(300));
    let deployment = Deployment::Sentinel { master: "main".into(), login: Login::default() };
    eventually("the replica follows", async || {
        replica.admin(&["INFO", "replication"]).contains("master_link_status:up")
    })
    .await;
    eventually("the sentinel knows it", async || sentinel.sentinel_knows_replica("main")).await;
    let store = Redis::open(options(vec![address(free_port()), address(sentinel.port)], deployment, 1)).unwrap();
    create(&store, 1, record("alice", SystemClock.now(), Duration::from_secs(60))).await;
    eventually("the replica has it", async || replica.admin(&["ZCARD", "portcullis:a{00}"]) == "1").await;
    master.kill();
    eventually("the new master answers", async || matches!(store.load(key("alice", 1)).await, Ok(Some(_)))).await;
    eventually("and takes writes", async || {
        store.revoke(Revocation::Session(key("alice", 1)), SystemClock.now()).await.is_ok()
    })
    .await;
    assert!(store.load(key("alice", 1)).await.unwrap().is_none());
}

/// I14: denied before this node began, and longer ago than the log remembers.
#[tokio::test]
async fn a_node_that_has_just_begun_knows_what_the_log_has_forgotten() {
    let server = RedisServer::start(&[]);
    let (store, now) = (server.store(), SystemClock.now());
    let (token, user) = (TokenId::of("https://id.example.com", "1"), UserKey::of("local", "alice"));
    let until = now.plus(Duration::from_secs(600));
    store.revoke(Revocation::Token { id: token, until }, now).await.unwrap();
    let told = store.revoke(Revocation::User { user, except: None }, now).await.unwrap();
    let Event::UserEpoch { epoch, .. } = told.events[0] else { panic!("{told:?}") };
    assert_eq!(server.admin(&["XTRIM", "portcullis:rl{00}", "MAXLEN", "0"]), "2");
    let node = Sessions::new(
        Arc::new(store),
        CookieCodec::new(&SessionKeys::random().unwrap(), ""),
        Settings {
            lifetimes: Lifetimes::new(Duration::from_secs(100), Duration::from_secs(1_000)),
            cache_entries: 10,
            max_sessions: None,
            store_timeout: Duration::from_secs(5),
        },
    );
    let stop = CancellationToken::new();
    let maintained = tokio::spawn(node.clone().maintain(Arc::new(SystemClock), stop.clone()));
    eventually("it hears of revocations", async || node.hears_all().is_ok()).await;
    assert!(node.is_token_revoked(token));
    assert_eq!(node.epoch(user), epoch);
    stop.cancel();
    maintained.await.unwrap();
}
