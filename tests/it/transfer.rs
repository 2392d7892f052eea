//! Moving up: from a store of the gateway's own to a shared one, and nobody is signed out.

use std::process::{Command, Stdio};

use crate::redis_server::RedisServer;
use crate::support::{Running, run_text, shipped};

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
    let list = running.gateway.sessions().clone();
    let user = portcullis::session::UserKey::of("local", "demo");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let now = portcullis::clock::Clock::now(&portcullis::clock::SystemClock);
    let oldest = runtime.block_on(list.list(user, now)).unwrap().last().unwrap().key;
    let one = portcullis::session::Revocation::Session(oldest);
    runtime.block_on(list.revoke(one, portcullis::session::Wait::Fully, now)).unwrap();
    drop(list);
    let kept = running.cookie();
    let Running { gateway, folder, lines: _, password: _ } = running;
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
    assert!(said.contains("sessions: 1"), "{said}");
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
    for (time, expected) in [("first", "sessions: 1"), ("second", "sessions: 0")] {
        let said = program(&new, "import", std::fs::File::open(&file).unwrap().into(), Stdio::null());
        assert!(said.contains(expected), "the {time} time: {said}");
    }
    let running = run_text(folder, &new);
    assert_eq!(running.alone("/", &["-H", &format!("cookie: {kept}")]).status, 200, "still signed in");
    assert_eq!(running.alone("/", &["-H", &format!("cookie: {ended}")]).status, 401, "and who was not is not");
}
