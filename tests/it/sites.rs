//! Sites that share a secret and a store: nothing of one counts, shows or ends at another.

use std::sync::Arc;

use portcullis::clock::SystemClock;

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
