//! Local users who come, go and come back, and what becomes of their sessions.

use portcullis::clock::{Clock, SystemClock};
use portcullis::session::NewSession;

use crate::cost::signed_in;
use crate::shared_store::eventually;
use crate::support::{Running, run};

/// The file of a gateway's users.
pub fn users(running: &Running) -> String {
    std::fs::read_to_string(running.folder.path().join("users.toml")).unwrap()
}

/// Write it.
pub fn write_users(running: &Running, text: &str) {
    std::fs::write(running.folder.path().join("users.toml"), text).unwrap();
}

/// The `Cookie` line of a session that was begun elsewhere.
async fn begun(running: &Running, new: NewSession) -> String {
    let begun = running.gateway.sessions().begin(new, None, SystemClock.now()).await.unwrap();
    format!("__Host-portcullis={}", begun.cookie)
}

fn status(running: &Running, cookie: &str) -> u16 {
    running.alone("/", &["-H", &format!("cookie: {cookie}")]).status
}

/// The reason of the last request.
fn reason(running: &Running) -> String {
    let lines = running.lines.0.lock().unwrap();
    let access = lines.iter().rev().find(|line| line.contains("\"access\"")).unwrap();
    serde_json::from_str::<serde_json::Value>(access).unwrap()["reason"].as_str().unwrap().to_owned()
}

/// Another node may know of somebody first: their session is refused here until the file is here too, and no longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_session_of_a_user_whom_this_node_does_not_know_yet_is_refused_until_it_does() {
    let running = run("memory");
    let file = users(&running);
    let cookie = begun(&running, signed_in("erin")).await;
    for _ in 0..3 {
        assert_eq!(status(&running, &cookie), 401);
    }
    eventually("the line is written", async || reason(&running) == "user_unknown").await;
    write_users(&running, &format!("{file}\n{}\ndisabled = true\n", file.replace("user.demo", "user.erin")));
    assert_eq!(status(&running, &cookie), 401);
    write_users(&running, &format!("{file}\n{}", file.replace("user.demo", "user.erin")));
    eventually("she is let in", async || status(&running, &cookie) == 200).await;
}
