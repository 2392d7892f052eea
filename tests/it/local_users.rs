//! Local users who come, go and come back, and what becomes of their sessions.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::clock::{Clock, SystemClock};
use portcullis::session::NewSession;
use serde_json::Value;

use crate::cli::portcullis;
use crate::cost::signed_in;
use crate::oidc::audited;
use crate::sessions::Faulty;
use crate::shared_store::eventually;
use crate::support::{Running, entry_of, run, run_in, run_with, shipped};

/// The file of a gateway's users.
fn users(running: &Running) -> String {
    std::fs::read_to_string(running.folder.path().join("users.toml")).unwrap()
}

/// Write it.
fn write_users(running: &Running, text: &str) {
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
    let entry = entry_of(running.folder.path(), "demo");
    let cookie = begun(&running, NewSession { entry, ..signed_in("erin") }).await;
    for _ in 0..3 {
        assert_eq!(status(&running, &cookie), 401);
    }
    eventually("the line is written", async || reason(&running) == "user_unknown").await;
    write_users(&running, &format!("{file}\n{}\ndisabled = true\n", file.replace("user.demo", "user.erin")));
    assert_eq!(status(&running, &cookie), 401);
    write_users(&running, &format!("{file}\n{}", file.replace("user.demo", "user.erin")));
    eventually("she is let in", async || status(&running, &cookie) == 200).await;
}

/// What the user file becomes by these commands, in a folder beside it: a gateway sees it all at once.
fn changed(running: &Running, commands: &[&[&str]]) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gateway.toml"), shipped("memory")).unwrap();
    std::fs::write(folder.path().join("users.toml"), users(running)).unwrap();
    for command in commands {
        let (code, _, said) = portcullis(folder.path(), &[&["user"], *command].concat(), "another horse battery\n");
        assert_eq!(code, 0, "{said}");
    }
    std::fs::read_to_string(folder.path().join("users.toml")).unwrap()
}

/// Stop it, let something happen, and start it again in the same folder.
fn restarted(running: Running, meanwhile: impl FnOnce(&Path)) -> Running {
    let Running { gateway, folder, lines: _, password } = running;
    gateway.stop();
    meanwhile(folder.path());
    Running { password, ..run_in(folder, "embedded:data") }
}

/// Somebody new may have an old name: what was begun for whoever had it before is not theirs, however little a gateway saw of it. Nor
/// is what was begun by a password that was changed.
#[test]
fn a_session_counts_for_the_very_user_and_password_it_was_begun_for() {
    let add = ["add", "demo", "--role", "admin", "--role", "staff", "--password-stdin"];
    let replaced: (&[&[&str]], _) = (&[&["remove", "demo"], &add], "user_replaced");
    let changes = [replaced, (&[&["passwd", "demo", "--password-stdin"]], "password_changed")];
    for (stopped, (change, reason)) in [false, true].into_iter().flat_map(|stopped| changes.map(|one| (stopped, one))) {
        let mut running = run("embedded:data");
        assert_eq!(running.sign_in("/", &running.password).status, 303);
        let old = running.cookie();
        let somebody_new = changed(&running, change);
        assert_eq!(status(&running, &old), 200);
        if stopped {
            running = restarted(running, |folder| std::fs::write(folder.join("users.toml"), &somebody_new).unwrap());
        } else {
            write_users(&running, &somebody_new);
            let until = Instant::now() + Duration::from_secs(20);
            while status(&running, &old) == 200 {
                assert!(Instant::now() < until, "the session of somebody else");
            }
        }
        assert_eq!(status(&running, &old), 401, "{reason}, stopped: {stopped}");
        assert_eq!(running.sign_in_as("demo", "another horse battery").status, 303);
        assert_eq!((status(&running, &running.cookie()), status(&running, &old)), (200, 401));
        let page = running.curl("/.portcullis/sessions", &[]).body;
        assert_eq!(page.matches("<li>").count(), 1, "nothing of the other is shown: {page}");
        if !stopped {
            // Whoever was signed in for the other one is not, in the store either; whoever signed in since is.
            shows_up("ended", || audited_as(&running, "sessions_revoked").len() == 1);
            assert_eq!(audited_as(&running, "sessions_revoked")[0]["reason"], reason);
            assert_eq!((status(&running, &running.cookie()), status(&running, &old)), (200, 401));
        }
    }
}

/// Who wrote no entries into their file has what they had.
#[test]
fn a_user_without_an_entry_is_known_by_name() {
    let running = run("embedded:data");
    let plain = without_entries(&running);
    assert_ne!(plain, users(&running).trim());
    let running = restarted(running, |folder| std::fs::write(folder.join("users.toml"), &plain).unwrap());
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    let cookie = running.cookie();
    assert_eq!(status(&running, &cookie), 200);
    write_users(&running, "[user]\n");
    let until = Instant::now() + Duration::from_secs(20);
    while status(&running, &cookie) == 200 {
        assert!(Instant::now() < until, "removed");
    }
}

/// The audit's lines of this event.
fn audited_as(running: &Running, event: &str) -> Vec<Value> {
    audited(running).into_iter().filter(|line| line["event"] == event).collect()
}

fn shows_up(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A user file as it was before there were entries: the name is all that there is.
fn without_entries(running: &Running) -> String {
    users(running).lines().filter(|line| !line.starts_with("entry")).collect::<Vec<_>>().join("\n")
}

/// The store is away when they are to be ended: whoever comes back does not find them.
#[test]
fn sessions_of_a_removed_user_are_over_once_the_store_is_back() {
    let store = Arc::new(Faulty::default());
    let (folder, text) = (tempfile::tempdir().unwrap(), shipped("memory"));
    let running = run_with(folder, &text, Arc::new(SystemClock), Some(store.clone()));
    let plain = without_entries(&running);
    write_users(&running, &plain);
    let begun = NewSession { entry: 0, ..signed_in("demo") };
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cookie = tokio.block_on(self::begun(&running, begun));
    shows_up("the file is read", || status(&running, &cookie) == 200);
    store.fail();
    write_users(&running, "[user]\n");
    shows_up("it was tried", || !audited_as(&running, "session_end_unfinished").is_empty());
    running.reload(&text.replace("body_bytes", "# body_bytes")).unwrap();
    write_users(&running, &plain);
    store.come_back();
    shows_up("it is tried again", || !audited_as(&running, "sessions_revoked").is_empty());
    for _ in 0..3 {
        assert_eq!(status(&running, &cookie), 401);
    }
    let unfinished = audited_as(&running, "session_end_unfinished");
    assert!(unfinished.len() == 1 && unfinished[0]["reason"] == "store_unavailable", "{unfinished:?}");
    let told = audited_as(&running, "sessions_revoked");
    let [line] = &told[..] else { panic!("once: {told:?}") };
    let words = ["peer", "subject", "provider", "reason"].map(|word| line[word].as_str().unwrap_or_default());
    assert_eq!(words, ["operator", "demo", "local", "user_removed"]);
}

/// Nothing ran to see it.
#[test]
fn sessions_of_a_user_who_was_disabled_while_nothing_ran_are_over() {
    let running = run("embedded:data");
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    let (cookie, file) = (running.cookie(), users(&running));
    let disabled = file.replace("[user.demo]", "[user.demo]\ndisabled = true");
    let running = restarted(running, |folder| std::fs::write(folder.join("users.toml"), &disabled).unwrap());
    shows_up("they are ended", || !audited_as(&running, "sessions_revoked").is_empty());
    assert_eq!(audited_as(&running, "sessions_revoked")[0]["reason"], "user_disabled");
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let entry = entry_of(running.folder.path(), "demo");
    let other = tokio.block_on(begun(&running, NewSession { entry, ..signed_in("erin") }));
    write_users(&running, &format!("{file}\n{}", file.replace("user.demo", "user.erin")));
    shows_up("the file is read", || status(&running, &other) == 200);
    assert_eq!(status(&running, &cookie), 401, "enabled again");
    assert_eq!(running.sign_in_as("demo", &running.password).status, 303);
}
