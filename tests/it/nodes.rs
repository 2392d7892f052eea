//! Three gateways on one store, and what becomes of a revocation when the network, a node or the server fails: the promise that
//! no node answers in a session once its revocation has returned (`sessions` I1–I14).

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use http::Request;
use tokio::task::JoinHandle;

use crate::between::Between;
use crate::fleet::{COPIED, COPIES, Cookie, Fleet, Node, Plan, refused};
use crate::redis_server::{RedisCluster, RedisServer, oldest_redis, valkey};
use crate::shared_store::eventually;
use crate::wire::{one, soon, whole};

/// What a silent node is waited for at most.
const BOUND: Duration = Duration::from_millis(2_012);
/// Revocations whose times are printed; `PORTCULLIS_REVOCATIONS` asks for more.
const REVOCATIONS: usize = 30;

/// Nodes that are asked without a pause while a session is revoked.
const BUSY: usize = 3;

/// One request: when its check can have begun at the earliest, and what it was answered.
#[derive(Clone, Copy, Debug)]
struct Asked {
    began: Instant,
    ended: Instant,
    status: u16,
}

/// Ask on one connection until refused, or until somebody drops the handle.
fn hammer(port: u16, cookie: Cookie) -> JoinHandle<Vec<Asked>> {
    tokio::spawn(async move {
        let (mut sender, mut asked) = (one(port).await, Vec::new());
        loop {
            let request = Request::get("/").header("host", "localhost").header("cookie", &cookie.line);
            let began = Instant::now();
            let sent = async {
                sender.ready().await?;
                sender.send_request(request.body(whole("")).unwrap()).await
            };
            match soon(sent).await {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    drop(soon(http_body_util::BodyExt::collect(answer.into_body())).await);
                    asked.push(Asked { began, ended: Instant::now(), status });
                    if status != 200 {
                        return asked;
                    }
                }
                Err(_) => sender = one(port).await,
            }
        }
    })
}

/// A number from the environment, for larger runs.
fn asked_for(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn percentile(times: &mut [Duration], part: f64) -> Duration {
    times.sort();
    times[((times.len() - 1) as f64 * part).round() as usize]
}

async fn warm(nodes: &[Node], cookie: &Cookie) {
    for node in nodes {
        assert_eq!(node.status(&cookie.line).await, 200, "valid on every node at once");
    }
}

/// I1, I2: busy nodes, everything well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_revocation_returns_no_node_answers_in_the_session() {
    let nodes = asked_for("PORTCULLIS_NODES", 3);
    revoked_is_refused("redis-server", nodes, asked_for("PORTCULLIS_REVOCATIONS", REVOCATIONS)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_one_over_valkey() {
    revoked_is_refused(&valkey(), 3, 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_one_over_the_oldest_redis() {
    revoked_is_refused(&oldest_redis(), 3, 6).await;
}

async fn revoked_is_refused(program: &str, nodes: usize, rounds: usize) {
    let server = RedisServer::start_as(program, &[]);
    let fleet = Fleet::start(nodes, &server, Plan::default());
    fleet.ready().await;
    let (mut refusals, mut returns) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let cookie = fleet.session().await;
        warm(&fleet.nodes, &cookie).await;
        let at = round % nodes;
        // One where it is revoked, and others that take turns: a busy client for each of many nodes would measure the machine's cores.
        let asked = (0..nodes.min(BUSY)).map(|n| (at + n * (1 + round % 7)) % nodes).collect::<BTreeSet<_>>();
        let busy: Vec<_> = asked.iter().map(|node| (*node, hammer(fleet.nodes[*node].port, cookie.clone()))).collect();
        tokio::time::sleep(Duration::from_millis(10)).await;
        let begun = Instant::now();
        let answered = fleet.revoke_session(at, &cookie).await;
        let returned = Instant::now();
        let told = (&answered.json["ended"], &answered.json["everywhere"]);
        assert_eq!((answered.status.as_u16(), told), (200, (&1.into(), &true.into())), "{answered:?}");
        for (node, busy) in busy {
            let asked = soon(busy).await.unwrap();
            let late = asked.iter().find(|asked| asked.status == 200 && asked.began > returned);
            assert!(
                late.is_none(),
                "node {node} answered {:?} after the revocation returned",
                late.map(|a| a.began - returned)
            );
            let refused = asked.last().unwrap();
            assert_eq!(refused.status, 401);
            if node != at {
                refusals.push(refused.ended.saturating_duration_since(begun));
            }
        }
        for node in &fleet.nodes {
            assert_eq!(node.status(&cookie.line).await, 401);
        }
        returns.push(returned - begun);
    }
    println!(
        "{rounds} revocations on {nodes} nodes: from asking to the refusal on every other node p50 {:?} p99 {:?}; to the answer p50 {:?} p99 {:?}",
        percentile(&mut refusals, 0.5),
        percentile(&mut refusals, 0.99),
        percentile(&mut returns, 0.5),
        percentile(&mut returns, 0.99),
    );
}

/// I1, I3, I13: a node whose link swallows everything while it looks alive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_link_is_dead_stops_by_itself_before_the_revocation_returns() {
    a_node_is_cut_off(Between::swallow).await;
}

/// The same where connections are refused, which it is told of at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_refused_stops_by_itself_before_the_revocation_returns() {
    a_node_is_cut_off(Between::refuse).await;
}

async fn a_node_is_cut_off(how: fn(&Between)) {
    let server = RedisServer::start(&[]);
    let fleet = Fleet::start(3, &server, Plan::default());
    fleet.ready().await;
    let (doomed, other) = (fleet.session().await, fleet.session().await);
    warm(&fleet.nodes, &doomed).await;
    warm(&fleet.nodes, &other).await;
    // A long way to the store is no outage.
    fleet.between[2].delay(Duration::from_millis(100));
    let slow = fleet.session().await;
    warm(&fleet.nodes, &slow).await;
    assert_eq!(fleet.revoke_session(0, &slow).await.json["everywhere"], true);
    assert_eq!(fleet.nodes[2].status(&slow.line).await, 401);
    fleet.between[2].delay(Duration::ZERO);

    let busy = hammer(fleet.nodes[2].port, doomed.clone());
    how(&fleet.between[2]);
    let made = fleet.between[2].made();
    let answered = fleet.revoke_session(0, &doomed).await;
    let returned = Instant::now();
    assert_eq!((answered.status.as_u16(), &answered.json["everywhere"]), (200, &true.into()), "{answered:?}");
    let asked = soon(busy).await.unwrap();
    assert!(asked.iter().all(|asked| asked.status != 200 || asked.began <= returned), "it answered after the return");
    assert_eq!(asked.last().unwrap().status, 503, "it cannot know that the session is over");
    let away = fleet.nodes[2].ask(&other.line).await;
    assert_eq!((away.status().as_u16(), away.headers().contains_key("retry-after")), (503, true));
    assert!(!away.headers().contains_key("set-cookie") && !away.headers().contains_key("location"));
    let mut public = one(fleet.nodes[2].port).await;
    let request = Request::get("/public").header("host", "localhost").body(whole("")).unwrap();
    assert_eq!(soon(public.send_request(request)).await.unwrap().status().as_u16(), 200, "public routes go on");
    assert_eq!(fleet.nodes[1].status(&doomed.line).await, 401);
    assert_eq!(fleet.nodes[1].status(&other.line).await, 200);
    let tried = fleet.between[2].made() - made;
    assert!(tried < 60, "an outage is no storm of connections: {tried} in {:?}", returned.elapsed() + BOUND);
    fleet.between[2].pass();
    eventually("the node is back", async || fleet.nodes[2].status(&other.line).await == 200).await;
    assert_eq!(fleet.nodes[2].status(&doomed.line).await, 401);
}

/// I1, I10: a process that stands still, and one that is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stands_still_or_is_killed_is_waited_for_no_longer_than_its_lease() {
    let server = RedisServer::start(&[]);
    let mut fleet = Fleet::start(3, &server, Plan::default());
    fleet.ready().await;
    let (first, second) = (fleet.session().await, fleet.session().await);
    warm(&fleet.nodes, &first).await;
    warm(&fleet.nodes, &second).await;
    fleet.nodes[1].signal("STOP");
    let begun = Instant::now();
    let answered = fleet.revoke_session(0, &first).await;
    let waited = begun.elapsed();
    assert_eq!(answered.status.as_u16(), 200);
    assert!(waited >= Duration::from_secs(1), "it was waited for: {waited:?}");
    fleet.nodes[1].signal("CONT");
    assert_ne!(fleet.nodes[1].status(&first.line).await, 200, "its first answer after it stood still");
    eventually("it knows", async || fleet.nodes[1].status(&first.line).await == 401).await;
    assert_eq!(fleet.nodes[1].status(&second.line).await, 200);

    fleet.nodes[1].kill();
    let answered = fleet.revoke_session(2, &second).await;
    assert_eq!(answered.status.as_u16(), 200);
    assert_eq!(fleet.nodes[0].status(&second.line).await, 401);
    // I14: one that has just started never saw the session, and is right at once.
    fleet.restart(1);
    let third = fleet.session().await;
    eventually("it has caught up", async || fleet.nodes[1].status(&third.line).await != 503).await;
    assert_eq!(fleet.nodes[1].status(&second.line).await, 401);
    assert_eq!(fleet.nodes[1].status(&third.line).await, 200);
}

/// I13: the store away for longer than a lease, stopped and killed; its end is no stampede.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_store_signs_nobody_out_and_ends_without_a_stampede() {
    let persistent = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut server = RedisServer::start(&persistent);
    let fleet = Fleet::start(2, &server, Plan::default());
    fleet.ready().await;
    let mut cookies = Vec::new();
    for _ in 0..40 {
        let cookie = fleet.session().await;
        warm(&fleet.nodes, &cookie).await;
        cookies.push(cookie);
    }
    for kill in [false, true] {
        let calls = Calls::of(&server);
        if kill {
            server.kill()
        } else {
            server.pause()
        }
        for node in &fleet.nodes {
            eventually("the lease ends", async || node.status(&cookies[0].line).await == 503).await;
            is_away(node, &cookies).await;
            assert_eq!(node.metric(MISSED).await, 1, "and operators are told, though no request asks the store");
        }
        let before = fleet.nodes[0].metric(MISSES).await;
        if kill {
            server.restart("redis-server", &persistent)
        } else {
            server.go_on()
        }
        for node in &fleet.nodes {
            eventually("the node serves again", async || node.status(&cookies[0].line).await == 200).await;
            for cookie in &cookies {
                assert_eq!(node.status(&cookie.line).await, 200, "nobody was signed out");
            }
            eventually("it is ready again", async || node.operator_page("/readyz").await.0 == 200).await;
            assert_eq!(node.metric(MISSED).await, 0);
        }
        let after = fleet.nodes[0].metric(MISSES).await;
        assert!(after - before <= 2, "memory was kept through the outage: {} loads", after - before);
        // Of a server that was killed the count begins anew.
        let asked = if kill { Calls::of(&server) } else { Calls::of(&server).since(&calls) };
        let beyond = asked.scripts.saturating_sub(asked.beats);
        println!("killed: {kill}; at the end {beyond} operations beyond {} heartbeats", asked.beats);
        assert!(beyond < 40, "two nodes and forty sessions: {asked:?}");
    }
}

const MISSED: &str = "portcullis_session_store_parts_missed";
const MISSES: &str = "portcullis_session_cache_lookups_total{result=\"miss\"}";

/// Every session gets 503, with when to come back and without anything that ends it; public routes go on; nobody should send more.
async fn is_away(node: &Node, cookies: &[Cookie]) {
    for cookie in cookies {
        let away = node.ask(&cookie.line).await;
        assert_eq!(away.status().as_u16(), 503);
        assert!(away.headers().contains_key("retry-after"));
        assert!(!away.headers().contains_key("set-cookie") && !away.headers().contains_key("location"));
    }
    let mut public = one(node.port).await;
    let request = Request::get("/public").header("host", "localhost").body(whole("")).unwrap();
    assert_eq!(soon(public.send_request(request)).await.unwrap().status().as_u16(), 200);
    let (status, said) = node.operator_page("/readyz").await;
    assert!(status == 503 && said.contains("store: the session store did not answer"), "{status} {said}");
    assert_eq!(node.operator_page("/healthz").await.0, 200, "no reason to end it");
}

/// An operator reads why: memory, a server that was demoted, a password that was changed. Once each, however often it is tried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_the_store_is_away_is_said_once() {
    let server = RedisServer::start(&[]);
    let fleet = Fleet::start(1, &server, Plan::default());
    fleet.ready().await;
    let (cookie, node) = (fleet.session().await, &fleet.nodes[0]);
    let asks: [&[&str]; 3] = [
        &["CONFIG", "SET", "maxmemory", "1"],
        &["REPLICAOF", "127.0.0.1", "1"],
        &["ACL", "SETUSER", "portcullis", "resetpass", ">word-of-another"],
    ];
    let undone: [&[&str]; 3] = [
        &["CONFIG", "SET", "maxmemory", "0"],
        &["REPLICAOF", "NO", "ONE"],
        &["ACL", "SETUSER", "portcullis", "resetpass", ">secret"],
    ];
    for ((done, undone), why) in asks.iter().zip(undone).zip(["OOM", "is a replica", "Password authentication failed"])
    {
        let before = node.said().len();
        assert_eq!(server.admin(done), "OK");
        server.admin(&["CLIENT", "KILL", "TYPE", "normal"]);
        eventually(why, async || node.status(&cookie.line).await == 503).await;
        let tried = || node.said()[before..].to_owned();
        let stopped = eventually("it says that it stopped", async || tried().contains("protected routes answer 503"));
        stopped.await;
        let told = tried();
        let causes: Vec<&str> =
            told.lines().filter_map(|line| line.split_once(" WARN ")).map(|(_, said)| said).collect();
        assert!(causes.iter().any(|line| line.contains(why)), "{why}: {told}");
        let different: std::collections::BTreeSet<&&str> = causes.iter().collect();
        assert_eq!(different.len(), causes.len(), "{why}: {told}");
        assert!(!told.contains("secret") && !told.contains("word-of-another"), "{told}");
        assert_eq!(server.admin(undone), "OK");
        eventually("it serves again", async || node.status(&cookie.line).await == 200).await;
    }
}

/// A gateway that is started in the middle of an outage: its public routes go on, and it finds the store when that is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_starts_while_its_store_is_away() {
    let persistent = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut server = RedisServer::start(&persistent);
    let mut fleet = Fleet::start(1, &server, Plan::default());
    fleet.ready().await;
    let (cookie, gone) = (fleet.session().await, fleet.session().await);
    assert_eq!(fleet.revoke_session(0, &gone).await.status.as_u16(), 200);
    server.kill();
    fleet.nodes[0].kill();
    fleet.restart(0);
    assert_eq!(fleet.nodes[0].status(&cookie.line).await, 503);
    server.restart("redis-server", &persistent);
    eventually("the node serves", async || fleet.nodes[0].status(&cookie.line).await == 200).await;
    assert_eq!(fleet.nodes[0].status(&gone.line).await, 401);
    // It answers, and takes nothing: its replica is away, its disk or its memory is full.
    server.admin(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    fleet.nodes[0].kill();
    fleet.restart(0);
    assert_eq!(fleet.nodes[0].status(&cookie.line).await, 503);
    server.admin(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    eventually("the node serves", async || fleet.nodes[0].status(&cookie.line).await == 200).await;
}

/// Whoever revokes waits as long as it may serve itself: a node that may serve for longer would not be waited out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_would_serve_longer_in_an_outage_does_not_start_beside_others() {
    let server = RedisServer::start(&[]);
    let mut fleet = Fleet::start(1, &server, Plan::default());
    fleet.ready().await;
    let cookie = fleet.session().await;
    let other = Plan { session: "on_outage = { stale = \"60s\" }", ..Plan::default() };
    let said = refused(&server, other);
    assert!(said.contains("serve sessions for 2s without hearing of the store, this one for 62s"), "{said}");
    assert!(said.contains("write the same `on_outage` for all. To change it, stop all others first"), "{said}");
    assert_eq!(fleet.nodes[0].status(&cookie.line).await, 200, "nobody else is disturbed");
    assert!(fleet.revoke_session(0, &cookie).await.json["waited_ms"].as_u64().unwrap() < 3_000);
    fleet.nodes[0].stop();
    let fleet = Fleet::start(2, &server, other);
    fleet.ready().await;
    let cookie = fleet.session().await;
    warm(&fleet.nodes, &cookie).await;
}

/// They would share a store and no session: whoever is balanced from one to the other would be signed out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_of_another_secret_or_mode_does_not_start_beside_others() {
    let server = RedisServer::start(&[]);
    let mut fleet = Fleet::start(1, &server, Plan::default());
    fleet.ready().await;
    let cookie = fleet.session().await;
    let secret = "another secret, as long as one has to be";
    let (other, jwt) = (Plan { secret, ..Plan::default() }, Plan { session: "mode = \"jwt\"", ..Plan::default() });
    let both = Plan { session: jwt.session, ..other };
    for (plan, what) in [(other, "another `secret`:"), (jwt, "another `mode`:"), (both, "another `secret` and `mode`:")]
    {
        let said = refused(&server, plan);
        assert!(said.contains(what) && said.contains("To change it, stop all others first"), "{said}");
        assert!(!said.contains(secret));
    }
    // Not even the keys of its tokens, sealed with another secret, which nobody else could open.
    assert_eq!(server.admin(&["KEYS", "portcullis:k*"]), "");
    assert_eq!(fleet.nodes[0].status(&cookie.line).await, 200, "nobody else is disturbed");

    // Beside one of a version that did not say it nothing is known; and it is said again.
    server.admin(&["HDEL", "portcullis:meta{00}", "alike"]);
    let beside = Fleet::start(1, &server, Plan::default());
    beside.ready().await;
    let alike = server.admin(&["HGET", "portcullis:meta{00}", "alike"]);
    assert!(alike.starts_with("secret=") && alike.ends_with(" mode=server"), "{alike}");
    drop(beside);

    // Whoever is alone decides.
    fleet.nodes[0].stop();
    eventually("those that were killed are forgotten", async || {
        let nodes = server.admin(&["HKEYS", "portcullis:nodes{00}"]);
        let Some(killed) = nodes.lines().find(|node| *node != "looked") else { return true };
        server.admin(&["HDEL", "portcullis:nodes{00}", killed]);
        false
    })
    .await;
    let fleet = Fleet::start(2, &server, other);
    fleet.ready().await;
    let cookie = fleet.session().await;
    warm(&fleet.nodes, &cookie).await;
}

/// I12, and a sign-out of a browser.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_streams_on_other_nodes_end_before_the_revocation_returns() {
    let application = crate::wire::Application::start(|_| async {
        let (mut feed, body) = crate::wire::fed();
        tokio::spawn(async move {
            while feed.send_data("data: tick\n\n".into()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        http::Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
    });
    let server = RedisServer::start(&[]);
    let upstream = format!("http://127.0.0.1:{}", application.port);
    let fleet = Fleet::start(3, &server, Plan { upstream: &upstream, ..Plan::default() });
    fleet.ready().await;
    let cookie = fleet.session().await;
    let mut streams = Vec::new();
    for node in &fleet.nodes {
        let answer = node.ask(&cookie.line).await;
        assert_eq!(answer.status().as_u16(), 200);
        let mut body = answer.into_body();
        assert!(crate::wire::piece(&mut body).await.contains("tick"));
        streams.push(tokio::spawn(async move {
            while let Some(Ok(_)) = http_body_util::BodyExt::frame(&mut body).await {}
            Instant::now()
        }));
    }
    let answered = fleet.revoke_session(0, &cookie).await;
    let returned = Instant::now();
    assert_eq!(answered.status.as_u16(), 200, "{answered:?}");
    for stream in streams {
        let ended = soon(stream).await.unwrap();
        let late = ended.saturating_duration_since(returned);
        assert!(late < Duration::from_millis(100), "cut {late:?} after the revocation returned");
    }
}

/// A store that is asked for at these ports, and at others first where nobody says a word: more of them than the time for finding it
/// has room for, were they asked in turn.
fn behind_silent_ones(ports: &[u16]) -> (String, Vec<TcpListener>) {
    let silent: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let all = silent.iter().map(|one| one.local_addr().unwrap().port()).chain(ports.iter().copied());
    (format!("redis://{}", all.map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")), silent)
}

/// I6: the tail of the log dies with the master, and the session is alive again on the promoted replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_a_failover_lost_is_done_again() {
    let mut master = RedisServer::start(&COPIED);
    let port = master.port.to_string();
    let replica = RedisServer::start(&[&["--replicaof", "127.0.0.1", &port], &COPIES[..]].concat());
    let sentinel = RedisServer::sentinel(master.port, Duration::from_millis(500));
    eventually("the sentinel knows the replica", async || sentinel.sentinel_knows_replica("main")).await;
    let (store, _gone) = behind_silent_ones(&[sentinel.port]);
    let plan = Plan { store: Some(&store), redis: "sentinel = \"main\"", ..Plan::default() };
    let fleet = Fleet::start(3, &master, plan);
    fleet.ready().await;
    let (doomed, other) = (fleet.session().await, fleet.session().await);
    warm(&fleet.nodes, &doomed).await;
    warm(&fleet.nodes, &other).await;
    eventually("the replica has all", async || replica.admin(&["ZCARD", "portcullis:a{00}"]) == "3").await;
    let revoking = fleet.revoke_untold(&doomed, &master).await;
    master.kill();
    fleet.outlive(&replica, &doomed, &other, "{00}").await;
    // It has not returned: nobody but this one server has it. A new replica is what it waits for.
    assert!(!revoking.is_finished());
    let _second = RedisServer::start(&["--replicaof", "127.0.0.1", &replica.port.to_string()]);
    let answered = soon(revoking).await.unwrap();
    assert_eq!((answered.status.as_u16(), &answered.json["replicated"]), (200, &true.into()), "{answered:?}");
}

/// Sixteen partitions on three masters, each with a log and a lease of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_on_a_cluster_agree_as_well() {
    let cluster = RedisCluster::start();
    let (store, _gone) = behind_silent_ones(&[cluster.servers()[0].port, cluster.servers()[1].port]);
    let plan = Plan { store: Some(&store), redis: "cluster = true", cluster: Some(&cluster), ..Plan::default() };
    let fleet = Fleet::start(3, &cluster.servers()[0], plan);
    fleet.ready().await;
    let (one, two) = (fleet.session().await, fleet.session().await);
    warm(&fleet.nodes, &one).await;
    warm(&fleet.nodes, &two).await;
    let answered = fleet.revoke_session(0, &one).await;
    assert_eq!(answered.status.as_u16(), 200, "{answered:?}");
    for node in &fleet.nodes {
        assert_eq!((node.status(&one.line).await, node.status(&two.line).await), (401, 200));
    }
    let answered = fleet.revoke(1, serde_json::json!({ "everyone": true })).await;
    assert_eq!((answered.status.as_u16(), &answered.json["everywhere"]), (200, &true.into()), "{answered:?}");
    for node in &fleet.nodes {
        assert_eq!(node.status(&two.line).await, 401);
    }
}

/// What it costs, printed: `PORTCULLIS_NODES=10 PORTCULLIS_REVOCATIONS=300 cargo test --locked -- nodes::what_nodes_cost --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nodes_cost_the_store() {
    let nodes = asked_for("PORTCULLIS_NODES", 3);
    const WHILE: Duration = Duration::from_secs(2);
    let server = RedisServer::start(&[]);
    // What the server uses by itself, and what asking it costs, is taken off.
    let (cpu, _) = (server.cpu(), tokio::time::sleep(WHILE).await);
    let _ = Calls::of(&server);
    let alone = server.cpu() - cpu;
    let fleet = Fleet::start(nodes, &server, Plan::default());
    fleet.ready().await;
    let cookie = fleet.session().await;
    warm(&fleet.nodes, &cookie).await;
    let (before, cpu) = (Calls::of(&server), server.cpu());
    tokio::time::sleep(WHILE).await;
    let (idle, cpu) = (Calls::of(&server).since(&before), server.cpu() - cpu - alone);
    let beats = idle.beats.max(1);
    println!(
        "{nodes} nodes, idle for {WHILE:?}: {beats} heartbeats, {:.1} µs of the server's CPU each; in their script {:.1}, telling of \
         itself {:.1}, reading the log {:.1}",
        cpu * 1e6 / beats as f64,
        idle.spent[0] as f64 / beats as f64,
        idle.spent[1] as f64 / beats as f64,
        idle.spent[2] as f64 / beats as f64,
    );
    assert!(idle.beats >= u64::try_from(nodes).unwrap() * 4, "every node beats: {idle:?}");

    let mut sender = one(fleet.nodes[0].port).await;
    let before = Calls::of(&server);
    for _ in 0..1_000 {
        let request =
            Request::get("/").header("host", "localhost").header("cookie", &cookie.line).body(whole("")).unwrap();
        sender.ready().await.unwrap();
        let answer = soon(sender.send_request(request)).await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        drop(http_body_util::BodyExt::collect(answer.into_body()).await);
    }
    let asked = Calls::of(&server).since(&before);
    let beyond = asked.scripts.saturating_sub(asked.beats);
    println!("1,000 warm requests: {beyond} operations of the store beyond {} heartbeats", asked.beats);
    assert!(beyond <= 5, "memory answers: {asked:?}");
}

/// What the server was asked, by kind.
#[derive(Debug)]
struct Calls {
    scripts: u64,
    /// Each heartbeat asks once who the server is.
    beats: u64,
    /// Microseconds in scripts, in telling of itself, in reading streams.
    spent: [u64; 3],
}

impl Calls {
    fn of(server: &RedisServer) -> Calls {
        let said = server.admin(&["INFO", "commandstats"]);
        let field = |name: &str, field: &str| -> u64 {
            let line = said.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:")));
            let found =
                line.and_then(|rest| rest.split(',').find_map(|one| one.strip_prefix(field)?.strip_prefix('=')));
            found.and_then(|value| value.parse().ok()).unwrap_or(0)
        };
        let spent = ["evalsha", "info", "xread"].map(|name| field(name, "usec"));
        Calls { scripts: field("evalsha", "calls"), beats: field("info", "calls"), spent }
    }

    fn since(&self, before: &Calls) -> Calls {
        let spent = [0, 1, 2].map(|kind| self.spent[kind] - before.spent[kind]);
        Calls { scripts: self.scripts - before.scripts, beats: (self.beats - before.beats).saturating_sub(2), spent }
    }
}
