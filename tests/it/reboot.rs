//! A host that is restarted with its store: what was revoked is revoked, and who is signed in stays so.

use std::time::{Duration, Instant};

use crate::fleet::{Fleet, Plan};
use crate::redis_server::{RedisServer, acl_file};

/// As the README says for one server.
const KEPT: [&str; 6] = ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"];
const WARNED: &str = "this server may forget sessions and revocations when it is restarted";

/// Everything from here on is in the part of the append-only file that is carried out at a start, not in the copy before it.
fn rewritten(server: &RedisServer) {
    let persistence = || server.admin(&["INFO", "persistence"]);
    server.admin(&["BGREWRITEAOF"]);
    let until = Instant::now() + Duration::from_secs(20);
    while !(persistence().contains("aof_rewrite_in_progress:0") && persistence().contains("aof_rewrite_scheduled:0")) {
        assert!(Instant::now() < until, "{}", persistence());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(persistence().contains("aof_last_bgrewrite_status:ok"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_restarted_with_its_gateway_forgets_nothing() {
    let mut server = RedisServer::start_with_acl(&acl_file(), &KEPT);
    let mut fleet = Fleet::start(1, &server, Plan::default());
    fleet.ready().await;
    assert!(!fleet.nodes[0].said().contains(WARNED), "{}", fleet.nodes[0].said());
    let (ended, of_user) = (fleet.session().await, fleet.session().await);
    rewritten(&server);
    assert_eq!(fleet.revoke_session(0, &ended).await.json["everywhere"], true);
    let everything = fleet.revoke(0, serde_json::json!({ "user": "alice" })).await;
    assert_eq!((&everything.json["committed"], &everything.json["everywhere"]), (&true.into(), &true.into()));
    let since = fleet.session().await;
    fleet.nodes[0].stop();
    server.restart("redis-server", &KEPT);
    fleet.restart(0);
    fleet.ready().await;
    let node = &fleet.nodes[0];
    for gone in [&ended, &of_user] {
        assert_eq!(node.status(&gone.line).await, 401, "what was revoked before the restart");
    }
    assert_eq!(node.status(&since.line).await, 200, "what was begun before it");
}

/// Before anything is lost: what Redis passes over when it is restarted, nobody can find missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_would_forget_is_told_of() {
    let kept: Vec<String> =
        acl_file().lines().filter(|line| !line.starts_with("user default")).map(str::to_owned).collect();
    let merely_off = format!("user default off\n{}\n", kept.join("\n"));
    let server = RedisServer::start_with_acl(&merely_off, &KEPT);
    let fleet = Fleet::start(1, &server, Plan::default());
    fleet.ready().await;
    let said = fleet.nodes[0].said();
    assert_eq!(said.matches(WARNED).count(), 1, "{said}");
    assert!(said.contains("write `user default off ~* &* +@all`"), "{said}");
    // Nor is one accused that keeps nothing to forget, or that does not answer such questions.
    let unasked = merely_off.replace(" +acl|dryrun", "");
    for (acl, more) in [(&merely_off, &KEPT[..0]), (&unasked, &KEPT[..])] {
        let server = RedisServer::start_with_acl(acl, more);
        let fleet = Fleet::start(1, &server, Plan::default());
        fleet.ready().await;
        assert!(!fleet.nodes[0].said().contains(WARNED), "{}", fleet.nodes[0].said());
    }
}
