//! Moving up: from a store of the gateway's own to a shared one, and nobody is signed out.

use std::process::{Command, Stdio};

use portcullis::clock::{Clock, SystemClock};
use portcullis::session::{Revocation, UserKey, Wait};

use crate::cli::portcullis;
use crate::redis_server::RedisServer;
use crate::support::{Running, run, run_text, shipped};

#[test]
fn an_embedded_deployment_moves_to_a_shared_store_and_nobody_is_signed_out() {
    let (server, folder) = (RedisServer::start(&[]), tempfile::tempdir().unwrap());
    let old = shipped("embedded:data");
    let running = run_text(folder, &old);
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    let ended = running.cookie();
    std::fs::write(running.folder.path().join("jar"), "").unwrap();
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    assert_eq!(running.alone("/", &["-H", &format!("cookie: {ended}")]).status, 200);
    let other = running.cookie();
    assert_eq!(running.sign_in_as("demo", &running.password).status, 303);
    let list = running.gateway.sessions().clone();
    let user = UserKey::of("local", "demo");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let now = SystemClock.now();
    let oldest = runtime.block_on(list.list(user, now)).unwrap().last().unwrap().key;
    runtime.block_on(list.revoke(Revocation::Session(oldest), Wait::Fully, now)).unwrap();
    drop(list);
    let kept = running.cookie();
    let Running { gateway, folder, lines: _, password } = running;
    gateway.stop();

    let program = |text: &str, what: &str, input: Stdio, output: Stdio| {
        std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let done = command.args(["sessions", what]).current_dir(folder.path()).stdin(input).stdout(output);
        let done = done.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.success(), "{what}: {said}");
        said
    };
    let file = folder.path().join("export");
    let said = program(&old, "export", Stdio::null(), std::fs::File::create(&file).unwrap().into());
    assert!(said.contains("sessions: 2"), "{said}");
    let lines = std::fs::read_to_string(&file).unwrap();
    let (_, value) = kept.split_once('=').unwrap();
    assert!(!lines.contains(value) && lines.contains("demo"), "no cookie is in it: {lines}");
    let store = format!("redis://127.0.0.1:{}", server.port);
    let redis = "secret = { file = \"data/keys\" }\n[session.redis]\nuser = \"portcullis\"\npassword = { env = \"CARGO_PKG_NAME\" }\n";
    let new = old
        .replace("\"embedded:data\"", &format!("\"{store}\""))
        .replace("\n[login.local]", &format!("\n{redis}[login.local]"));
    let new = new.replace("{ env = \"CARGO_PKG_NAME\" }", "{ file = \"password\" }");
    std::fs::write(folder.path().join("password"), "secret").unwrap();
    let import = || program(&new, "import", std::fs::File::open(&file).unwrap().into(), Stdio::null());
    for expected in ["sessions: 2; there already: 0; revoked there, and left out: 0", "sessions: 0; there already: 2; "]
    {
        assert!(import().contains(expected), "{expected}");
    }
    let running = run_text(folder, &new);
    let status = |cookie: &str| running.alone("/", &["-H", &format!("cookie: {cookie}")]).status;
    assert_eq!((status(&kept), status(&other), status(&ended)), (200, 200, 401), "whoever was signed in is");

    // Once more, after something was revoked: one by its owner, and all of a user, who has signed in again since.
    let end = |what| runtime.block_on(running.gateway.sessions().revoke(what, Wait::Fully, SystemClock.now())).unwrap();
    let list = || runtime.block_on(running.gateway.sessions().list(user, SystemClock.now())).unwrap();
    assert_eq!(end(Revocation::Session(list().last().unwrap().key)).ended, 1);
    let import = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let command = command.args(["sessions", "import"]).current_dir(running.folder.path());
        let done = command.stdin(std::fs::File::open(running.folder.path().join("export")).unwrap()).output().unwrap();
        assert!(done.status.success());
        String::from_utf8(done.stderr).unwrap()
    };
    assert!(import().contains("sessions: 0; there already: 1; revoked there, and left out: 1"));
    assert_eq!(end(Revocation::User { user, except: None }).ended, 1);
    assert_eq!(running.sign_in_as("demo", &password).status, 303);
    let new = running.cookie();
    let said = import();
    assert!(said.contains("sessions: 0; there already: 0; revoked there, and left out: 2"), "{said}");
    assert_eq!((status(&kept), status(&other), status(&new), list().len()), (401, 401, 200, 1));
}

/// A store remembers for a month that a user's sessions were revoked, and a session may last longer.
#[test]
fn what_was_written_out_long_ago_is_not_read_in() {
    let running = run("embedded:data");
    let Running { gateway, folder, lines: _, password: _ } = running;
    gateway.stop();
    let text = shipped("embedded:data");
    std::fs::write(folder.path().join("gateway.toml"), &text).unwrap();
    let (code, lines, _) = portcullis(folder.path(), &["sessions", "export"], "");
    assert_eq!(code, 0);
    assert_eq!(portcullis(folder.path(), &["sessions", "import"], &lines).0, 0);
    for cut in [lines.trim_end().rsplit_once('\n').unwrap().0, ""] {
        let (code, _, said) = portcullis(folder.path(), &["sessions", "import"], cut);
        assert!(code == 1 && said.contains("this breaks off: its last line is missing"), "{cut}: {said}");
    }
    let days = |days: u64| format!("{{\"written\":{}}}\n", SystemClock.now().0 - days * 86_400_000);
    for (first, expected) in [(days(28), 0), (days(30), 1), (String::new(), 1)] {
        let rest = lines.split_once('\n').unwrap().1;
        let session = "{\"revoked\":{\"Token\":{\"id\":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1],\"until\":1}}}\n";
        let (code, _, said) = portcullis(folder.path(), &["sessions", "import"], &format!("{first}{session}{rest}"));
        assert_eq!(code, expected, "{first}: {said}");
        assert!(code == 0 || said.contains("more than 29 days ago"), "{said}");
    }
}

/// Done, it would look like work done.
#[test]
fn nothing_is_read_into_a_store_that_ends_with_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemClock.now().0;
    std::fs::write(folder.path().join("gateway.toml"), shipped("memory")).unwrap();
    let (code, _, said) =
        portcullis(folder.path(), &["sessions", "import"], &format!("{{\"written\":{now}}}\n\"end\"\n"));
    assert!(code == 1 && said.starts_with("portcullis: a store in memory ends with this command; "), "{said}");
}
