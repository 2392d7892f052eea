//! Sites that share a secret and a store: nothing of one counts, shows or ends at another.

use std::sync::Arc;

use portcullis::clock::{Clock, SystemClock};
use portcullis::session::{Revocation, UserKey, Wait};

use crate::own_tokens::{ACCESS, REFRESH, signed_in, with};
use crate::redis_server::RedisServer;
use crate::shared_store::eventually;
use crate::support::{Running, run_with, shipped};

/// A gateway of each site. All have one secret and, so that this keeps nobody out, the very same users.
fn sites<const N: usize>(redis: &RedisServer, mode: &str, names: [&str; N]) -> [Running; N] {
    let mut first: Option<(std::path::PathBuf, String)> = None;
    names.map(|name| {
        let folder = tempfile::tempdir().unwrap();
        let users = folder.path().join("users.toml");
        if let Some((theirs, _)) = &first {
            std::fs::copy(theirs, &users).unwrap();
        }
        let mut running = site(redis, mode, name, folder);
        running.password = first.get_or_insert((users, running.password)).1.clone();
        running
    })
}

fn site(redis: &RedisServer, mode: &str, name: &str, folder: tempfile::TempDir) -> Running {
    std::fs::write(folder.path().join("secret"), "a secret that all sites have, of 32 bytes or more").unwrap();
    std::fs::write(folder.path().join("redis"), "secret").unwrap();
    let site = if name.is_empty() { String::new() } else { format!("site = \"{name}\"\n") };
    let session = format!(
        "mode = \"{mode}\"\nsecret = {{ file = \"secret\" }}\n\
         [session.redis]\nuser = \"portcullis\"\npassword = {{ file = \"redis\" }}\n{site}[login.local]"
    );
    let text = shipped(&format!("redis://127.0.0.1:{}/0", redis.port)).replacen("[login.local]", &session, 1);
    run_with(folder, &text, Arc::new(SystemClock), None)
}

async fn serves(running: &Running) {
    eventually("it hears of revocations", async || running.gateway.sessions().hears_all().is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_one_site_are_none_at_another() {
    let redis = RedisServer::start(&[]);
    let sites = sites(&redis, "jwt", ["one", "two", ""]);
    for running in &sites {
        serves(running).await;
    }
    for (n, running) in sites.iter().enumerate() {
        let (access, refresh) = signed_in(running);
        let pair = [(ACCESS, access.as_str()), (REFRESH, refresh.as_str())];
        for (m, other) in sites.iter().enumerate() {
            let expected = if n == m { 200 } else { 401 };
            for cookies in [&pair[..1], &pair, &pair[1..]] {
                assert_eq!(with(other, "/", cookies, &[]).status, expected, "of {n} at {m}");
            }
        }
    }
}

/// The same name at each, in one store: what one lists, ends or counts is its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_listed_and_ended_at_one_site_is_its_own() {
    let redis = RedisServer::start(&[]);
    let sites = sites(&redis, "server", ["one", "two", ""]);
    let (user, now) = (UserKey::of("local", "demo"), SystemClock.now());
    let status = |running: &Running| running.curl("/", &[]).status;
    for running in &sites {
        serves(running).await;
        assert_eq!(running.sign_in("/", &running.password).status, 303);
        assert_eq!(status(running), 200);
    }
    for running in &sites {
        let page = running.curl("/.portcullis/sessions", &[]);
        let devices = running.gateway.sessions().list(user, now).await.unwrap().len();
        assert_eq!(
            (page.status, devices, page.body.matches("<strong>curl</strong>").count()),
            (200, 1, 1),
            "{}",
            page.body
        );
    }
    for what in [Revocation::User { user, except: None }, Revocation::Everyone] {
        for (n, running) in sites.iter().enumerate() {
            let revoked = running.gateway.sessions().revoke(what, Wait::Fully, now).await.unwrap();
            assert_eq!((revoked.ended, revoked.nodes), (1, 1), "{what:?} at {n}: {revoked:?}");
            assert_eq!(status(running), 401);
            assert_eq!(running.sign_in("/", &running.password).status, 303);
            for other in &sites {
                assert_eq!(status(other), 200, "{what:?} at {n} alone");
            }
        }
    }
    // Under the rights of the README, each its own, and those of no site where they always were.
    let keys = redis.admin(&["KEYS", "*"]);
    for (site, before) in [("one", "portcullis:one:"), ("two", "portcullis:two:"), ("none", "portcullis:")] {
        for kind in ["meta", "nodes", "rl", "a", "g", "n"] {
            assert!(keys.lines().any(|key| key == format!("{before}{kind}{{00}}")), "{kind} of {site} in {keys}");
        }
    }
}
