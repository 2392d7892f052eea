//! Several nodes over one real store: what one revokes, none serves; and what each does while the store is away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::clock::{Clock, SystemClock};
use portcullis::session::coherence::LEASE;
use portcullis::session::store::{Redis, RedisOptions};
use portcullis::session::{
    Activity, Begun, CookieCodec, Lifetimes, Lookup, NewSession, Revocation, SessionKeys, Sessions, Settings, TokenId,
    Wait,
};
use tokio_util::sync::CancellationToken;

use crate::redis_server::RedisServer;
use crate::shared_store::eventually;

/// A node: its sessions, and what keeps them up to date. Each has connections and a runtime of its own, as a process would.
struct Node {
    sessions: Arc<Sessions>,
    stop: CancellationToken,
    crash: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Node {
    fn start(store: Redis, keys: &SessionKeys, grace: Duration) -> Node {
        let settings = Settings {
            lifetimes: Lifetimes::new(Duration::from_secs(100), Duration::from_secs(1_000)),
            cache_entries: 1_000,
            max_sessions: None,
            store_timeout: Duration::from_secs(1),
        };
        let sessions = Sessions::lenient(Arc::new(store), CookieCodec::new(keys, ""), settings, grace);
        let (stop, crash) = (CancellationToken::new(), CancellationToken::new());
        let (theirs, stopped, crashed) = (sessions.clone(), stop.clone(), crash.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let work = async move {
            let maintained = theirs.maintain(Arc::new(SystemClock), stopped);
            let _ = crashed.run_until_cancelled(maintained).await;
        };
        let thread = Some(std::thread::spawn(move || runtime.block_on(work)));
        Node { sessions, stop, crash, thread }
    }

    async fn hears(&self) {
        eventually("it hears of revocations", async || self.sessions.hears_all().is_ok()).await;
    }

    /// `None`: it could not be asked.
    async fn serves(&self, begun: &Begun) -> Option<bool> {
        let said = self.sessions.lookup(&begun.cookie, Activity::Passive, SystemClock.now()).await;
        said.ok().map(|lookup| matches!(lookup, Lookup::Alive(_)))
    }

    async fn begin(&self, subject: &str) -> Begun {
        let new = NewSession {
            provider: "local".into(),
            subject: subject.into(),
            entry: 0,
            name: None,
            email: None,
            roles: vec![],
            device: "test".into(),
            provided: None,
        };
        self.sessions.begin(new, None, SystemClock.now()).await.unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// I1, I2, I12, I14 and I11 over a real server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_revokes_no_node_serves() {
    let (server, keys) = (RedisServer::start(&[]), SessionKeys::random().unwrap());
    let node = || Node::start(server.store(), &keys, Duration::ZERO);
    let nodes = [node(), node(), node()];
    for node in &nodes {
        node.hears().await;
    }
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        let (one, spared) = (nodes[0].begin("alice").await, nodes[1].begin("alice").await);
        for node in &nodes {
            assert_eq!((node.serves(&one).await, node.serves(&spared).await), (Some(true), Some(true)));
        }
        let cut = nodes[2].sessions.open_exchange(&one.view);
        let what = match round % 3 {
            0 => Revocation::Session(one.view.key),
            1 => Revocation::User { user: one.view.user, except: Some(spared.view.key) },
            _ => Revocation::Everyone,
        };
        let revoked = nodes[0].sessions.revoke(what, Wait::Fully, SystemClock.now()).await.unwrap();
        assert!(cut.token().is_cancelled(), "open exchanges end before the acknowledgement");
        for node in &nodes {
            assert_eq!(node.serves(&one).await, Some(false), "after {revoked:?}");
            assert_eq!(node.serves(&spared).await, Some(round % 3 != 2), "{round}");
        }
        assert!(revoked.everywhere && revoked.committed && revoked.replicated, "{revoked:?}");
        // In the first moments a master may not know of all nodes: those are waited out.
        if round > 2 {
            assert_eq!((revoked.confirmed, revoked.nodes), (3, 3), "{revoked:?}");
            slowest = slowest.max(revoked.waited);
        }
        nodes[1].sessions.revoke(Revocation::Session(spared.view.key), Wait::Fully, SystemClock.now()).await.unwrap();
    }
    println!("the slowest of 18 revocations took {slowest:?}");
    assert!(slowest < LEASE, "by acknowledgement, not by time");
    let id = TokenId::of("https://id.example.com", "1");
    let token = Revocation::Token { id, until: SystemClock.now().plus(Duration::from_secs(600)) };
    assert!(nodes[0].sessions.revoke(token, Wait::Fully, SystemClock.now()).await.unwrap().everywhere);
    let late = node();
    late.hears().await;
    assert!(
        nodes[1].sessions.is_token_revoked(id) && late.sessions.is_token_revoked(id),
        "and a node that just started"
    );
}

/// I3, I13: a store that stands still costs the lease, and with it every answer from memory; it signs nobody out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_store_memory_is_answered_for_a_lease_and_a_grace_and_no_longer() {
    let (server, keys) = (RedisServer::start(&[]), SessionKeys::random().unwrap());
    // Of one prefix they would have to be of one mind.
    let apart = |prefix: &str| Redis::open(RedisOptions { prefix: prefix.to_owned(), ..server.options() }).unwrap();
    let strict = Node::start(apart("portcullis:strict:"), &keys, Duration::ZERO);
    let lenient = Node::start(apart("portcullis:lenient:"), &keys, Duration::from_secs(2));
    strict.hears().await;
    lenient.hears().await;
    let (known, spared) = (strict.begin("alice").await, lenient.begin("alice").await);
    let unknown = strict.begin("bob").await;
    assert_eq!((strict.serves(&known).await, lenient.serves(&spared).await), (Some(true), Some(true)));
    server.pause();
    let paused = Instant::now();
    let served = async |node: &Node, begun: &Begun| {
        let mut last = Duration::ZERO;
        while paused.elapsed() < LEASE * 4 {
            match node.serves(begun).await {
                Some(true) => last = paused.elapsed(),
                Some(false) => panic!("an outage ends nobody"),
                None => break,
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        last
    };
    let (first, second) = tokio::join!(served(&strict, &known), served(&lenient, &spared));
    let late = Duration::from_millis(200);
    assert!(first > LEASE / 2 && first < LEASE + late, "the lease: {first:?}");
    assert!(second > LEASE && second < LEASE * 2 + late, "and the grace: {second:?}");
    assert_eq!((strict.serves(&known).await, lenient.serves(&unknown).await), (None, None));
    server.go_on();
    strict.hears().await;
    lenient.hears().await;
    let loads = strict.sessions.counts().misses.get();
    assert_eq!((strict.serves(&known).await, lenient.serves(&spared).await), (Some(true), Some(true)));
    assert_eq!(
        strict.sessions.counts().misses.get(),
        loads,
        "memory was kept: the store is not asked for everybody at once"
    );
}

/// A node that ends in good order is not waited for; one that does not is, for as long as its lease runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_waited_for_no_longer_than_its_lease() {
    let (server, keys) = (RedisServer::start(&[]), SessionKeys::random().unwrap());
    let node = || Node::start(server.store(), &keys, Duration::ZERO);
    let (one, two, three) = (node(), node(), node());
    for node in [&one, &two, &three] {
        node.hears().await;
    }
    // Older than a lease, so that its register is whole.
    tokio::time::sleep(LEASE + Duration::from_millis(100)).await;
    drop(three);
    let begun = one.begin("alice").await;
    let end = |begun: &Begun| Revocation::Session(begun.view.key);
    let revoked = one.sessions.revoke(end(&begun), Wait::Fully, SystemClock.now()).await.unwrap();
    assert!(revoked.everywhere && (revoked.confirmed, revoked.nodes) == (2, 2), "{revoked:?}");
    let begun = one.begin("alice").await;
    assert_eq!(two.serves(&begun).await, Some(true));
    two.crash.cancel();
    let crashed = Instant::now();
    let revoked = one.sessions.revoke(end(&begun), Wait::Fully, SystemClock.now()).await.unwrap();
    assert!(revoked.everywhere && (revoked.confirmed, revoked.nodes) == (1, 2), "{revoked:?}");
    assert!(revoked.waited >= revoked.bound && revoked.waited < revoked.bound + LEASE / 2, "{revoked:?}");
    assert!(crashed.elapsed() >= LEASE);
    assert_eq!(two.serves(&begun).await, None, "what is left of it answers nothing");
    // A browser does not wait for that.
    let begun = one.begin("alice").await;
    let began = Instant::now();
    assert!(one.sessions.end(&begun.cookie, SystemClock.now()).await.unwrap());
    assert!(began.elapsed() < LEASE / 2, "{:?}", began.elapsed());
}

fn hex(bytes: &[u8; 16]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A session as a server has it, to be put back later as an older copy of its data would.
struct Copied {
    key: String,
    user: String,
    record: String,
}

impl Copied {
    fn of(begun: &Begun, server: &RedisServer) -> Copied {
        let (key, user) = (hex(&begun.view.key.0), hex(&begun.view.user.0));
        let record = server.admin(&["GET", &format!("portcullis:s{{00}}:{key}")]);
        assert!(record.contains(&user), "{record}");
        Copied { key, user, record }
    }

    fn put_back(&self, server: &RedisServer) {
        let due = SystemClock.now().plus(Duration::from_secs(60)).0.to_string();
        assert_eq!(server.admin(&["SET", &format!("portcullis:s{{00}}:{}", self.key), &self.record]), "OK");
        server.admin(&["ZADD", &format!("portcullis:u{{00}}:{}", self.user), &due, &self.key]);
        server.admin(&["ZADD", "portcullis:a{00}", &due, &self.key]);
    }
}

/// I6: whoever knows that a session is over never puts it into memory, where nobody would ask that again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_a_store_has_again_is_served_by_nobody_who_knows_better() {
    let (server, keys) = (RedisServer::start(&[]), SessionKeys::random().unwrap());
    let nodes = [(); 2].map(|()| Node::start(server.store(), &keys, Duration::ZERO));
    for node in &nodes {
        node.hears().await;
    }
    let now = SystemClock.now();
    let (one, two) = (nodes[0].begin("alice").await, nodes[0].begin("bob").await);
    let copied = [&one, &two].map(|begun| Copied::of(begun, &server));
    nodes[0].sessions.revoke(Revocation::Session(one.view.key), Wait::Fully, now).await.unwrap();
    let bob = Revocation::User { user: two.view.user, except: None };
    nodes[0].sessions.revoke(bob, Wait::Fully, now).await.unwrap();
    // Of the one the tombstone is lost, of the other the epoch.
    server.admin(&["DEL", &format!("portcullis:x{{00}}:{}", hex(&one.view.key.0)), "portcullis:n{00}"]);
    copied.iter().for_each(|copied| copied.put_back(&server));
    for node in &nodes {
        for begun in [&one, &two] {
            for time in 0..3 {
                assert_eq!(node.serves(begun).await, Some(false), "{}, time {time}", begun.view.user_name());
            }
        }
    }
}

/// I6, however long ago: everything was deleted under the nodes, and an older copy put in its place. What any of them knows to be
/// revoked stands again, for those that begin afterwards as well; and whoever signs in from then on is let in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_store_is_told_again_what_was_revoked_before() {
    let (server, keys) = (RedisServer::start(&[]), SessionKeys::random().unwrap());
    let node = || Node::start(server.store(), &keys, Duration::ZERO);
    let before = node();
    before.hears().await;
    let (gone, ended, forgotten) = (before.begin("bob").await, before.begin("carol").await, before.begin("dave").await);
    let copied = [&gone, &ended].map(|begun| Copied::of(begun, &server));
    let (now, all) = (SystemClock.now(), Revocation::User { user: gone.view.user, except: None });
    let witness = node();
    witness.hears().await;
    before.sessions.revoke(all, Wait::Fully, now).await.unwrap();
    before.sessions.revoke(Revocation::Session(ended.view.key), Wait::Fully, now).await.unwrap();
    assert_eq!((before.serves(&forgotten).await, witness.serves(&forgotten).await), (Some(true), Some(true)));
    let open = witness.sessions.open_exchange(&forgotten.view);
    drop(before);
    // The log has forgotten it too, and one node knows of it from the store alone.
    server.admin(&["XTRIM", "portcullis:rl{00}", "MAXLEN", "0"]);
    let late = node();
    late.hears().await;
    let since = server.admin(&["HGET", "portcullis:meta{00}", "since"]);
    server.admin(&["FLUSHALL"]);
    copied.iter().for_each(|copied| copied.put_back(&server));
    // Nobody is told: the next heartbeat finds another store in its place.
    let told_again = async || {
        !server.admin(&["HGET", "portcullis:meta{00}", "since"]).is_empty()
            && server.admin(&["HGET", "portcullis:meta{00}", "since"]) != since
            && server.admin(&["EXISTS", &format!("portcullis:x{{00}}:{}", hex(&ended.view.key.0))]) == "1"
            && !server.admin(&["ZSCORE", "portcullis:n{00}", &hex(&gone.view.user.0)]).is_empty()
    };
    eventually("what is revoked stands again", told_again).await;
    let begins = node();
    for node in [&witness, &late, &begins] {
        node.hears().await;
        assert_eq!((node.serves(&gone).await, node.serves(&ended).await), (Some(false), Some(false)));
        assert_eq!(node.serves(&forgotten).await, Some(false), "what the server forgot is signed out");
    }
    assert!(open.token().is_cancelled(), "and what was open in it is cut");
    let again = late.begin("bob").await;
    for node in [&witness, &late, &begins] {
        assert_eq!(node.serves(&again).await, Some(true), "an epoch of before holds no session of afterwards");
    }
}

/// Whoever notices first writes anew what was revoked, if anything was: the others must not take that for the store they knew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_emptied_store_forgot_is_signed_out_on_every_node() {
    for was_revoked in [false, true] {
        let (server, keys) = (RedisServer::start(&[]), SessionKeys::random().unwrap());
        let nodes = [(); 4].map(|()| Node::start(server.store(), &keys, Duration::ZERO));
        for node in &nodes {
            node.hears().await;
        }
        let (ended, forgotten) = (nodes[0].begin("carol").await, nodes[0].begin("dave").await);
        if was_revoked {
            let ended = Revocation::Session(ended.view.key);
            nodes[1].sessions.revoke(ended, Wait::Fully, SystemClock.now()).await.unwrap();
        }
        for node in &nodes {
            assert_eq!(node.serves(&forgotten).await, Some(true));
        }
        let open = nodes.each_ref().map(|node| node.sessions.open_exchange(&forgotten.view));
        server.admin(&["FLUSHALL"]);
        for (node, open) in nodes.iter().zip(&open) {
            eventually("what the server forgot is signed out", async || node.serves(&forgotten).await == Some(false))
                .await;
            eventually("and what was open in it is cut", async || open.token().is_cancelled()).await;
        }
        let again = nodes[2].begin("dave").await;
        for node in &nodes {
            node.hears().await;
            assert_eq!((node.serves(&again).await, node.serves(&forgotten).await), (Some(true), Some(false)));
        }
    }
}

/// A failover may lose a session that was just begun, and no log tells of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_forgot_ends_with_the_next_activity_that_is_written() {
    let (server, keys) = (RedisServer::start(&[]), SessionKeys::random().unwrap());
    let node = Node::start(server.store(), &keys, Duration::ZERO);
    node.hears().await;
    let begun = node.begin("alice").await;
    assert_eq!(node.serves(&begun).await, Some(true));
    server.admin(&["DEL", &format!("portcullis:s{{00}}:{}", hex(&begun.view.key.0))]);
    let later = SystemClock.now().plus(Duration::from_secs(11));
    let asked = node.sessions.lookup(&begun.cookie, Activity::Active, later).await.unwrap();
    assert!(matches!(asked, Lookup::Alive(_)), "nobody asks the store of what is in memory");
    eventually("the store was told, and did not know it", async || node.serves(&begun).await == Some(false)).await;
}

/// A node whose clock is an hour ahead takes nobody's session away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expired_is_removed_by_the_clock_of_the_store() {
    let (server, keys) = (RedisServer::start(&[]), SessionKeys::random().unwrap());
    let node = Node::start(server.store(), &keys, Duration::ZERO);
    node.hears().await;
    let (begun, wrong) = (node.begin("alice").await, SystemClock.now().plus(Duration::from_secs(3_600)));
    assert_eq!(node.sessions.sweep(wrong).await.unwrap(), 0);
    assert_eq!(server.admin(&["EXISTS", &format!("portcullis:s{{00}}:{}", hex(&begun.view.key.0))]), "1");
}
