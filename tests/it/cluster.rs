//! A Redis Cluster on its bad days: a part of the store that moves to another master, a master that is lost, and one whose replica
//! takes its place without the last writes. Nobody is signed out by any of it, and what was revoked stays so.

use std::time::{Duration, Instant};

use portcullis::clock::{Clock, SystemClock, Timestamp};
use portcullis::session::{Creation, Keep, Revocation, SessionKey, SessionStore, ShelfKey, UserKey};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fleet::{COPIED, COPIES, Cookie, Fleet, Node, Plan, hex, operator};
use crate::redis_server::{Moving, Place, RedisCluster};
use crate::shared_store::{eventually, key, record};
use crate::wire::{one, soon, whole};

/// Enough that the masters share them.
const PEOPLE: [&str; 4] = ["bob", "carol", "dave", "erin"];
/// A tenth of the idle window of a session is [`A_WHILE`] and less.
const A_WHILE: Duration = Duration::from_secs(200);
const NO_COVERAGE: [&str; 2] = ["--cluster-require-full-coverage", "no"];

fn addresses(cluster: &RedisCluster) -> String {
    let ports: Vec<String> = cluster.servers().iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    format!("redis://{}", ports.join(","))
}

fn fleet(cluster: &RedisCluster, store: &str) -> Fleet {
    let plan = Plan {
        store: Some(store),
        redis: "cluster = true",
        cluster: Some(cluster),
        others: &PEOPLE,
        ..Plan::default()
    };
    Fleet::start(3, &cluster.servers()[0], plan)
}

/// Somebody who is in a part of another master than Alice is.
fn elsewhere(cluster: &RedisCluster) -> &'static str {
    let alice = cluster.place_of("alice");
    PEOPLE
        .into_iter()
        .find(|name| cluster.place_of(name).master != alice.master)
        .expect("people are on several masters")
}

/// When each node was heard last in a part, in milliseconds of its master.
fn heard(cluster: &RedisCluster, place: &Place) -> Vec<u64> {
    let nodes = cluster.servers()[place.master].admin(&["HVALS", &format!("portcullis:nodes{}", place.tag)]);
    nodes.lines().filter_map(|node| node.rsplit_once(' ')).map(|(_, at)| at.parse().unwrap()).collect()
}

/// What was answered to a request, and when its check can have begun at the earliest.
type Asked = (Instant, u16);

/// Ask again and again, until the handle's flag is raised.
fn keep_asking(node: &Node, cookie: &Cookie, stop: &CancellationToken) -> JoinHandle<Vec<Asked>> {
    let (port, cookie, stop) = (node.port, cookie.line.clone(), stop.clone());
    tokio::spawn(async move {
        let (mut sender, mut asked) = (one(port).await, Vec::new());
        while !stop.is_cancelled() {
            let request = http::Request::get("/").header("host", "localhost").header("cookie", &cookie);
            let began = Instant::now();
            let sent = async {
                sender.ready().await?;
                sender.send_request(request.body(whole("")).unwrap()).await
            };
            let answer = soon(sent).await.unwrap();
            let (status, kept) = (answer.status().as_u16(), !answer.headers().contains_key("set-cookie"));
            assert!(kept || status == 401, "{status} takes the cookie");
            assert!(status != 503 || answer.headers().contains_key("retry-after"));
            drop(soon(http_body_util::BodyExt::collect(answer.into_body())).await);
            asked.push((began, status));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        asked
    })
}

async fn create(store: &dyn SessionStore, n: u8) -> SessionKey {
    let (key, session) = (key("alice", n), record("alice", SystemClock.now(), Duration::from_secs(600)));
    store.create(Creation { key, session, replaces: None, limit: None }).await.unwrap();
    key
}

/// While a slot moves, half of a part's keys are here and half there. A script sees one half: it must refuse rather than take what
/// it does not see for what is not there, and must not stop in the middle of what belongs together.
#[tokio::test]
async fn what_is_on_its_way_to_another_master_is_not_taken_for_gone() {
    let cluster = RedisCluster::start();
    let (store, now) = (cluster.store(), SystemClock.now());
    let (first, second, gone) = (create(&store, 1).await, create(&store, 2).await, create(&store, 3).await);
    let alice = UserKey::of("local", "alice");
    // Every kind of key is there: what is not cannot be met half-way.
    store.revoke(Revocation::User { user: alice, except: None }, now).await.unwrap();
    store.revoke(Revocation::Everyone, now).await.unwrap();
    for n in [first, second, gone] {
        assert!(store.load(n).await.unwrap().is_none());
    }
    let [first, second, gone] = [create(&store, 4).await, create(&store, 5).await, create(&store, 6).await];
    store.revoke(Revocation::Session(gone), now).await.unwrap();
    let shelf = ShelfKey([alice.shard(); 16]);
    let keep = |over| Keep { key: shelf, over, bytes: b"kept".to_vec(), until: now.plus(Duration::from_secs(600)) };
    let mut version = store.keep(keep(None), now).await.unwrap();
    assert!(version.is_some());
    let place = cluster.place_of("alice");
    let moving = Moving::begin(&cluster, &place, (place.master + 1) % 3);
    // In an order that changes from run to run, as the server names them.
    let (mut seen, mut refused) = (now, 0);
    while let Some(next) = moving.left().into_iter().next() {
        seen = seen.plus(Duration::from_secs(1));
        for session in [first, second] {
            let loaded = store.load(session).await;
            assert!(!matches!(loaded, Ok(None)), "it is there, without {next}");
            let touched = store.touch(vec![(session, seen)]).await;
            assert!(touched.as_ref().is_err() || touched.unwrap() == [true], "it is there, without {next}");
            refused += u32::from(loaded.is_err());
        }
        assert!(!matches!(store.load(gone).await, Ok(Some(_))));
        let listed = store.list(alice).await;
        assert!(listed.as_ref().is_err() || listed.unwrap().len() == 2, "without {next}");
        assert!(store.revoke(Revocation::Session(second), now).await.is_err(), "nobody could be told of it");
        match store.keep(keep(version), now).await {
            Ok(Some(newer)) => version = Some(newer),
            told => assert!(told.is_err(), "nobody else wrote it"),
        }
        assert!(!matches!(store.kept(shelf, now).await, Ok(None)), "it is there, without {next}");
        moving.take(&[next]);
    }
    assert!(refused > 0);
    moving.finish();
    eventually("it is found again", async || store.load(first).await.is_ok()).await;
    let index = |kind: &str, session: SessionKey| {
        let name = format!("portcullis:{kind}{}", place.tag);
        let server = &cluster.servers()[(place.master + 1) % 3];
        server.admin(&["ZSCORE", &name, &hex(session)]).parse::<u64>().unwrap()
    };
    for session in [first, second] {
        let found = store.load(session).await.unwrap().expect("it came along");
        // Swept by the index: earlier than the record says, somebody would be signed out.
        assert!(index("a", session) >= found.due().0, "a touch was written in part");
    }
    assert_eq!(store.kept(shelf, now).await.unwrap().map(|kept| kept.version), version);
    assert_eq!(store.list(alice).await.unwrap().len(), 2);
    assert_eq!(store.sweep(Timestamp(now.0 + 500_000), 100).await.unwrap(), 0);
    assert_eq!(store.revoke(Revocation::User { user: alice, except: None }, now).await.unwrap().ended, 2);
}

/// Under traffic, with a revocation in the middle of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_moves_to_another_master_signs_nobody_out() {
    let cluster = RedisCluster::start();
    let fleet = fleet(&cluster, &addresses(&cluster));
    fleet.ready().await;
    let other = elsewhere(&cluster);
    let (doomed, stays, apart) = (fleet.session().await, fleet.session().await, fleet.session_of(other).await);
    let stop = CancellationToken::new();
    let ask = |cookie: &Cookie| -> Vec<_> { fleet.nodes.iter().map(|node| keep_asking(node, cookie, &stop)).collect() };
    let (of_doomed, of_stays, of_apart) = (ask(&doomed), ask(&stays), ask(&apart));

    let place = cluster.place_of("alice");
    let moving = Moving::begin(&cluster, &place, (place.master + 1) % 3);
    let half = moving.left().len() / 2;
    moving.take(&moving.left()[..half]);
    let (port, session) = (fleet.nodes[0].admin, hex(doomed.key));
    let revoking = tokio::spawn(async move { operator(port, serde_json::json!({ "session": session })).await });
    // Every node goes on elsewhere for longer than leases run: who waits for the silent would be done.
    let there = cluster.place_of(other);
    let asked = heard(&cluster, &there).into_iter().max().unwrap();
    eventually("leases could run out", async || {
        let heard = heard(&cluster, &there);
        heard.len() == fleet.nodes.len() && heard.iter().all(|at| *at >= asked + 2_500)
    })
    .await;
    assert!(!revoking.is_finished(), "nobody could have been told of it");
    moving.finish();
    let answered = soon(revoking).await.unwrap();
    let returned = Instant::now();
    assert_eq!((answered.status.as_u16(), &answered.json["everywhere"]), (200, &true.into()), "{answered:?}");
    for node in &fleet.nodes {
        eventually("the node serves again", async || node.status(&stays.line).await == 200).await;
    }
    // And what is revoked now, nobody waits out: all nodes say so at the new master.
    let later = fleet.session().await;
    for node in &fleet.nodes {
        assert_eq!(node.status(&later.line).await, 200);
    }
    let answered = fleet.revoke_session(1, &later).await;
    assert_eq!((&answered.json["everywhere"], &answered.json["nodes"]), (&true.into(), &3.into()), "{answered:?}");
    for node in &fleet.nodes {
        assert_eq!(node.status(&later.line).await, 401);
    }
    stop.cancel();
    for asked in of_doomed {
        let asked = soon(asked).await.unwrap();
        let late = asked.iter().find(|(began, status)| *status == 200 && *began > returned);
        assert!(late.is_none(), "answered after the revocation returned");
        assert_eq!(asked.last().unwrap().1, 401);
    }
    for asked in of_stays {
        let statuses: Vec<u16> = soon(asked).await.unwrap().into_iter().map(|(_, status)| status).collect();
        assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "signed out: {statuses:?}");
        assert_eq!(statuses.last(), Some(&200));
    }
    for asked in of_apart {
        assert!(soon(asked).await.unwrap().iter().all(|(_, status)| *status == 200), "another part is not concerned");
    }
}

/// No replica, no warning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_a_master_is_an_outage_of_its_parts_alone() {
    let persistent: Vec<&str> =
        NO_COVERAGE.into_iter().chain(["--appendonly", "yes", "--appendfsync", "always"]).collect();
    let mut cluster = RedisCluster::start_with(&persistent);
    let fleet = fleet(&cluster, &addresses(&cluster));
    fleet.ready().await;
    let (Place { master, .. }, other) = (cluster.place_of("alice"), elsewhere(&cluster));
    // Unused for long enough that a request of theirs is written down.
    let (here, there) =
        (fleet.session_unused_for(A_WHILE, "alice").await, fleet.session_unused_for(A_WHILE, other).await);
    let (busy, doomed) = (fleet.session_of(other).await, fleet.session_of(other).await);
    let mut unknown = Vec::new();
    for node in &fleet.nodes {
        assert_eq!(node.status(&doomed.line).await, 200);
        unknown.push(fleet.session_of(other).await);
    }
    let stop = CancellationToken::new();
    let of_busy: Vec<_> = fleet.nodes.iter().map(|node| keep_asking(node, &busy, &stop)).collect();
    // An activity that is to be written when its master is away.
    for node in &fleet.nodes {
        assert_eq!(node.status(&here.line).await, 200);
    }
    cluster.server(master).kill();
    assert_eq!(fleet.nodes[1].status(&there.line).await, 200);
    let (port, session) = (fleet.nodes[2].admin, hex(here.key));
    let lost = tokio::spawn(async move { operator(port, serde_json::json!({ "session": session })).await });
    for node in &fleet.nodes {
        eventually("the lease ends", async || {
            let away = node.ask(&here.line).await;
            let status = away.status().as_u16();
            assert!(matches!(status, 200 | 503), "{status}");
            assert!(!away.headers().contains_key("set-cookie") && !away.headers().contains_key("location"));
            assert!(status == 200 || away.headers().contains_key("retry-after"));
            status == 503
        })
        .await;
    }
    for (node, cookie) in fleet.nodes.iter().zip(&unknown) {
        assert_eq!(node.status(&cookie.line).await, 200, "a session that it did not know");
    }
    let answered = fleet.revoke_session(0, &doomed).await;
    assert_eq!((answered.status.as_u16(), &answered.json["everywhere"]), (200, &true.into()), "{answered:?}");
    for node in &fleet.nodes {
        assert_eq!(node.status(&doomed.line).await, 401);
        eventually("it says what is missing", async || {
            let (ready, said) = node.operator_page("/readyz").await;
            assert_eq!(ready, 200, "a node that serves most people is sent requests: {said}");
            said.contains("parts of it are away")
        })
        .await;
    }
    let activity = async || SystemClock.now().since(fleet.last_seen(&there).await);
    eventually("what the others do is written down", async || activity().await < A_WHILE).await;
    let lost = soon(lost).await.unwrap();
    assert_eq!(lost.status.as_u16(), 503, "nobody could be told: {lost:?}");
    stop.cancel();
    for asked in of_busy {
        assert!(soon(asked).await.unwrap().iter().all(|(_, status)| *status == 200), "they are not concerned");
    }
    cluster.restart(master, &persistent);
    for node in &fleet.nodes {
        eventually("the node serves again", async || node.status(&here.line).await == 200).await;
    }
}

/// I6: the tail of a part's log dies with its master.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_a_failover_in_a_cluster_lost_is_done_again() {
    let copied = [&NO_COVERAGE[..], &COPIED].concat();
    let mut cluster = RedisCluster::start_with(&copied);
    let place = cluster.place_of("alice");
    let follows = [&copied[..], &COPIES].concat();
    cluster.add_replica(place.master, &follows);
    let fleet = fleet(&cluster, &addresses(&cluster));
    fleet.ready().await;
    let (doomed, stays) = (fleet.session().await, fleet.session().await);
    for node in &fleet.nodes {
        assert_eq!((node.status(&doomed.line).await, node.status(&stays.line).await), (200, 200));
    }
    let (master, replica) = (&cluster.servers()[place.master], &cluster.servers()[3]);
    eventually("the replica has all", async || replica.admin(&["DBSIZE"]) == master.admin(&["DBSIZE"])).await;
    let revoking = fleet.revoke_untold(&doomed, master).await;
    cluster.server(place.master).kill();
    fleet.outlive(&cluster.servers()[3], &doomed, &stays, &place.tag).await;
    assert_eq!(soon(revoking).await.unwrap().status.as_u16(), 200);
    for node in &fleet.nodes {
        assert_eq!((node.status(&doomed.line).await, node.status(&stays.line).await), (401, 200));
    }
}
