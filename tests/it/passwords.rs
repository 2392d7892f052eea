//! What a password is worth while it is checked: the user file is another one by then, or its user is guessed at by many at once.

use std::process::Stdio;
use std::sync::Arc;
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use portcullis::clock::{Clock, SystemClock, TestClock};
use portcullis::session::UserKey;

use crate::admin::{self, with_admin};
use crate::cli::portcullis;
use crate::own_pages::{audited, sign_in_form};
use crate::sessions::Faulty;
use crate::support::{Running, run, run_text, run_with, shipped};

const ANOTHER: &str = "another horse battery";

/// A gateway whose store can be held for longer than a test takes.
fn held() -> (Arc<Faulty>, Running) {
    let store = Arc::new(Faulty::default());
    let text = format!("{}\n[limits]\nstore_timeout = \"59s\"\n", with_admin("memory"));
    let running = run_with(tempfile::tempdir().unwrap(), &text, Arc::new(SystemClock), Some(store.clone()));
    std::fs::write(running.folder.path().join("gateway.toml"), shipped("memory")).unwrap();
    (store, running)
}

/// By the program's own command.
fn user(running: &Running, arguments: &[&str]) {
    let all = [&["user"], arguments].concat();
    let (code, _, said) = portcullis(running.folder.path(), &all, &format!("{ANOTHER}\n"));
    assert_eq!(code, 0, "{said}");
}

fn write_users(running: &Running, change: impl FnOnce(String) -> String) {
    let file = running.folder.path().join("users.toml");
    let text = change(std::fs::read_to_string(&file).unwrap());
    std::fs::write(&file, text).unwrap();
}

pub fn until(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}

/// The status of a sign-in that goes on beside the test, from an own browser.
fn signing_in(running: &Running, password: &str) -> JoinHandle<u16> {
    let (cookies, form) = sign_in_form(running, password);
    let address = format!("https://localhost:{}/.portcullis/login", running.port());
    let mut curl = std::process::Command::new("curl");
    curl.args(["-sk", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}", "-b", &cookies, "-d", &form]);
    let asked = curl.arg(address).stdout(Stdio::piped()).spawn().unwrap();
    spawn(move || String::from_utf8(asked.wait_with_output().unwrap().stdout).unwrap().parse().unwrap())
}

fn sessions(running: &Running) -> usize {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let list = running.gateway.sessions().list(UserKey::of("local", "demo"), SystemClock.now());
    tokio.block_on(list).unwrap().len()
}

/// Whoever knew the old one is out when it is changed, and needs no two seconds to be.
#[test]
fn a_password_that_was_changed_is_worth_nothing_at_once() {
    let (_, running) = held();
    for _ in 0..2 {
        user(&running, &["passwd", "demo", "--password-stdin"]);
        assert_eq!(running.sign_in_as("demo", &running.password).status, 401);
        assert_eq!(running.sign_in_as("demo", ANOTHER).status, 303);
    }
    write_users(&running, |text| text.replace("[user.demo]", "[user.demo]\ndisabled = true"));
    assert_eq!(running.sign_in_as("demo", ANOTHER).status, 401);
    write_users(&running, |text| text.replace("disabled = true\n", "").replace("\"staff\"", "\"admin\""));
    assert_eq!(running.sign_in_as("demo", ANOTHER).status, 303);
}

/// The session stands in the store when the file changes, and nobody gets it.
#[test]
fn a_sign_in_that_the_file_overtakes_is_none() {
    type Change = fn(&Running);
    let changes: [(Change, u16, &str); 5] = [
        (|running| user(running, &["passwd", "demo", "--password-stdin"]), 401, "wrong_credentials"),
        (|running| user(running, &["remove", "demo"]), 401, "wrong_credentials"),
        (
            |running| write_users(running, |text| text.replace("[user.demo]", "[user.demo]\ndisabled = true")),
            401,
            "wrong_credentials",
        ),
        // Somebody else of the same name, who by chance has the same password.
        (|running| write_users(running, |text| text.replace("entry = \"", "entry = \"x")), 503, "user_changed"),
        (|running| write_users(running, |text| format!("{text}\n# a word more\n")), 303, ""),
    ];
    for (n, (change, status, reason)) in changes.into_iter().enumerate() {
        let (store, running) = held();
        store.hold_change();
        let signing_in = signing_in(&running, &running.password);
        until("it is made", || store.holds_all());
        change(&running);
        store.release();
        assert_eq!(signing_in.join().unwrap(), status, "change {n}");
        // Whoever looks after the file may end the session at the same moment, and says so in a line of its own.
        let lines = audited(&running);
        let told = lines.iter().rfind(|[event, ..]| event.starts_with("sign_in")).unwrap();
        assert_eq!(told[2], reason, "change {n}");
        until("what nobody has is gone", || sessions(&running) == usize::from(status == 303));
    }
}

/// Two tabs, and a hash that is weaker than what is asked for by now: the one that is renewed by one of them is right for the other.
#[test]
fn a_hash_that_another_tab_renews_signs_both_in() {
    let (store, running) = held();
    let weak = shipped("memory").replace("[login.local]", "[login.local]\nargon2_memory_kib = 7168\nargon2_passes = 5");
    std::fs::write(running.folder.path().join("gateway.toml"), weak).unwrap();
    user(&running, &["passwd", "demo", "--password-stdin"]);
    let hash = || std::fs::read_to_string(running.folder.path().join("users.toml")).unwrap().contains("m=7168");
    assert!(hash());
    store.hold_changes(2);
    let tabs = [(), ()].map(|()| signing_in(&running, ANOTHER));
    until("both are made", || store.holds_all());
    store.release();
    until("one is in", || audited(&running).len() == 1);
    store.release();
    assert_eq!(tabs.map(|tab| tab.join().unwrap()), [303, 303]);
    assert!(!hash(), "it is stronger");
}

/// What an operator changed in the file is known when the revocation that follows it returns.
#[test]
fn a_revocation_looks_at_the_user_file_first() {
    let text = with_admin("embedded:data");
    let running = run_text(tempfile::tempdir().unwrap(), &text);
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    let cookie = format!("cookie: {}", running.cookie());
    assert_eq!(running.alone("/", &["-H", &cookie]).status, 200);
    write_users(&running, |_| "[user]\n".to_owned());
    let token = std::fs::read_to_string(running.folder.path().join("data/admin-token")).unwrap();
    let bearer = format!("authorization: Bearer {}", token.trim());
    let revoked = admin::ask(&running, "/sessions/revoke", &["-H", &bearer, "-d", "{\"user\": \"somebody\"}"]);
    assert_eq!(revoked.status, 200, "{}", revoked.body);
    assert_eq!(running.alone("/", &["-H", &cookie]).status, 401);
}

/// What is answered to all of these sign-ins, sent at the same time over one connection.
fn at_once(running: &Running, forms: &[(String, String)]) -> Vec<u16> {
    let one = |(cookies, form): &(String, String)| {
        format!(
            "url = \"https://localhost:{}/.portcullis/login\"\nheader = \"cookie: {cookies}\"\ndata = \"{form}\"\ninsecure\n\
             silent\nmax-time = 60\noutput = /dev/null\nwrite-out = \"%{{http_code}}\\n\"\n",
            running.port()
        )
    };
    let file = running.folder.path().join("curl");
    std::fs::write(&file, forms.iter().map(one).collect::<Vec<_>>().join("next\n")).unwrap();
    let mut curl = std::process::Command::new("curl");
    let said =
        curl.args(["--parallel", "--parallel-immediate", "--parallel-max", "64", "-K"]).arg(file).output().unwrap();
    String::from_utf8(said.stdout).unwrap().lines().map(|status| status.parse().unwrap()).collect()
}

fn counted(statuses: &[u16], status: u16) -> usize {
    statuses.iter().filter(|other| **other == status).count()
}

/// attacks: line 31. The queue of hashes has room for them all, and a minute later it would have again.
#[test]
fn guesses_that_come_at_once_are_no_more_than_ten() {
    let clock = Arc::new(TestClock::at(SystemClock.now()));
    let running = run_with(tempfile::tempdir().unwrap(), &shipped("memory"), clock.clone(), None);
    let guesses = vec![sign_in_form(&running, "a wrong one"); 40];
    for looked_at in [10, 1] {
        let said = at_once(&running, &guesses);
        assert_eq!((counted(&said, 401), counted(&said, 429)), (looked_at, 40 - looked_at), "{said:?}");
        clock.advance(Duration::from_secs(60));
    }
    // Of an address, which has its fifty again, whoever is guessed at.
    let form = |n: usize| (guesses[0].0.clone(), guesses[0].1.replace("user=demo", &format!("user=somebody{n}")));
    let said = at_once(&running, &(0..60).map(form).collect::<Vec<_>>());
    assert_eq!((counted(&said, 401), counted(&said, 429)), (50, 10), "{said:?}");
}

/// Nobody who knows the password is kept waiting by being many, though one guess alone were left.
#[test]
fn right_passwords_that_come_at_once_are_all_let_in() {
    let running = run("memory");
    let (right, wrong) = (sign_in_form(&running, &running.password), sign_in_form(&running, "a wrong one"));
    assert_eq!(at_once(&running, &vec![wrong.clone(); 9]), [401; 9]);
    assert_eq!(at_once(&running, &vec![right; 60]), [303; 60]);
    assert_eq!(at_once(&running, std::slice::from_ref(&wrong)), [401], "and the one is left yet");
    assert_eq!(at_once(&running, std::slice::from_ref(&wrong)), [429]);
}
