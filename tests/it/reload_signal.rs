//! The running program, and the signal that makes it read its file again.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use http_body_util::BodyExt;

use crate::reload::{NOBODY, counting, route, status, upstream};
use crate::support::shipped;
use crate::tools::Service;
use crate::wire::{Client, one, soon, two, whole};

/// A running program, and its file.
struct Program {
    service: Service,
    file: std::path::PathBuf,
    port: u16,
}

impl Program {
    fn start(folder: &Path, text: &str) -> Program {
        let file = folder.join("gateway.toml");
        std::fs::write(&file, text).unwrap();
        Program::of(file, "/")
    }

    /// From a file as it is named in this working directory.
    fn of(file: impl Into<std::path::PathBuf>, directory: impl AsRef<Path>) -> Program {
        let file = file.into();
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let service = Service::start(command.arg("--config").arg(&file).current_dir(directory));
        let port = service.says_port("https://localhost:");
        Program { service, file, port }
    }

    /// Write the file, send the signal, and wait for what is said.
    fn reload(&self, text: &str, said: &str) -> String {
        std::fs::write(&self.file, text).unwrap();
        self.service.hang_up();
        self.service.says(said)
    }

    fn count(&self, what: &str) -> usize {
        std::fs::read_dir(format!("/proc/{}/{what}", self.service.id())).unwrap().count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_hangup_makes_the_program_read_its_file_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = shipped("memory");
    let program = tokio::task::block_in_place(|| Program::start(folder.path(), &file));
    let mut clients = Client::both(program.port).await;
    let other = file.replace("path     = \"/public\"", "path     = \"/other\"");
    let reload = |text: &str, said: &str| tokio::task::block_in_place(|| program.reload(text, said));
    let mut open = async |path: &str| {
        for client in &mut clients {
            for asked in ["/public", "/other"] {
                let expected = if asked == path { 200 } else { 401 };
                assert_eq!(status(client, asked, NOBODY).await, expected, "{asked}, where {path} is open");
            }
        }
    };
    open("/public").await;
    assert_eq!(reload(&other, "portcullis: configuration "), "reloaded");
    open("/other").await;
    // Every mistake, with its line and key; nothing of the rest.
    let wrong = file.replace("\"public\"\n", "\"everybody\"\n").replace("\"30m\"", "\"soon\"");
    assert!(reload(&wrong, "gateway.toml:17: session.idle_timeout: ").contains("soon"));
    assert!(
        tokio::task::block_in_place(|| program.service.says("gateway.toml:46: route[2].access: "))
            .contains("everybody")
    );
    let said = tokio::task::block_in_place(|| program.service.says("not reloaded, everything stays as it was: "));
    assert_eq!(said, "2 problems in gateway.toml");
    open("/other").await;
    let said = reload(&file.replace("\"memory\"", "\"embedded:data\""), "everything stays as it was: ");
    assert_eq!(said, "needs a restart: session.store");
    open("/other").await;
    assert_eq!(reload(&file, "portcullis: configuration "), "reloaded");
    open("/public").await;
    std::fs::remove_file(&program.file).unwrap();
    program.service.hang_up();
    let said = tokio::task::block_in_place(|| program.service.says("everything stays as it was: "));
    assert!(said.contains("gateway.toml: No such file"), "{said}");
    open("/public").await;
}

/// Over both protocols requests go on while the file is read again and again, and neither a request nor a descriptor is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_reloads_under_load_lose_no_request_and_leak_nothing() {
    const RELOADS: usize = 60;
    let (one_application, _) = counting("one");
    let (other_application, _) = counting("other");
    let folder = tempfile::tempdir().unwrap();
    let file = |turn: usize| {
        let port = if turn.is_multiple_of(2) { one_application.port } else { other_application.port };
        let health = "[upstream.load.health]\npath = \"/\"\ninterval = \"100ms\"\n";
        let text = shipped("memory").replace("[server]\n", "[server]\nworkers = 2\n");
        let roles = if turn.is_multiple_of(3) { "[\"admin\", \"staff\"]" } else { "[\"staff\", \"admin\"]" };
        let text = text.replace("[\"admin\", \"staff\"]", roles);
        format!("{text}\n{}{health}{}", upstream("load", port), route("load", "/load", "\"public\"", "load"))
    };
    let program = tokio::task::block_in_place(|| Program::start(folder.path(), &file(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let mut asking = Vec::new();
    for n in 0..6 {
        let (stop, port) = (stop.clone(), program.port);
        asking.push(tokio::spawn(async move {
            let mut client = if n % 2 == 0 { Client::One(one(port).await) } else { Client::Two(two(port).await) };
            let mut answers = 0;
            while !stop.load(Ordering::Relaxed) {
                let answer = client.ask(Request::get("/"), "/load", whole("")).await;
                assert_eq!(answer.status(), StatusCode::OK);
                let body = soon(answer.into_body().collect()).await.unwrap().to_bytes();
                assert!(&body[..] == b"one" || &body[..] == b"other", "{body:?}");
                answers += 1;
            }
            answers
        }));
    }
    let turn = |turn: usize| {
        let said = tokio::task::block_in_place(|| program.reload(&file(turn), "portcullis: configuration "));
        assert_eq!(said, "reloaded");
    };
    (1..=6).for_each(turn);
    let counts = || (program.count("task"), program.count("fd"));
    let (threads, descriptors) = counts();
    (7..=RELOADS).for_each(turn);
    stop.store(true, Ordering::Relaxed);
    let mut answers = 0;
    for asked in asking {
        answers += soon(asked).await.unwrap();
    }
    assert!(answers > RELOADS, "requests went on meanwhile: {answers}");
    let until = Instant::now() + Duration::from_secs(20);
    while counts().0 > threads || counts().1 > descriptors {
        assert!(Instant::now() < until, "{:?} of {threads} threads and {descriptors} descriptors", counts());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a deployment by links (`current -> v2`) and a mounted ConfigMap do: the paths of the file are the same as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_link_that_leads_elsewhere_is_read_through_and_needs_no_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let file = shipped("embedded:data");
    let other = file.replace("path     = \"/public\"", "path     = \"/other\"");
    for (version, text) in [("v1", &file), ("v2", &other)] {
        std::fs::create_dir(path(version)).unwrap();
        std::fs::write(path(version).join("gateway.toml"), text).unwrap();
    }
    symlink("v1", path("current")).unwrap();
    let program = tokio::task::block_in_place(|| Program::of("current/gateway.toml", folder.path()));
    std::fs::create_dir(path("v2/certs")).unwrap();
    for made in ["users.toml", "certs/gateway.pem", "certs/gateway.key"] {
        std::fs::copy(path("v1").join(made), path("v2").join(made)).unwrap();
    }
    symlink("v2", path("next")).unwrap();
    std::fs::rename(path("next"), path("current")).unwrap();
    program.service.hang_up();
    let said = tokio::task::block_in_place(|| program.service.says("portcullis: "));
    assert_eq!(said, "configuration reloaded");
    let mut client = Client::One(one(program.port).await);
    assert_eq!(status(&mut client, "/other", NOBODY).await, 200);
}

#[test]
fn what_is_made_stands_beside_the_link_that_was_named_not_beside_what_it_leads_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["etc", "opt"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    std::fs::write(path("opt/gateway.toml"), shipped("embedded:data")).unwrap();
    symlink("../opt/gateway.toml", path("etc/gateway.toml")).unwrap();
    let program = Program::of("etc/gateway.toml", folder.path());
    let made = |name: &str| path(name).exists();
    assert!(made("etc/data/sessions.redb") && made("etc/certs/gateway.pem") && made("etc/users.toml"));
    assert_eq!(std::fs::read_dir(path("opt")).unwrap().count(), 1, "nothing but the file itself");
    drop(program);
}

#[test]
fn a_reload_says_every_file_that_is_missing_with_line_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = shipped("memory");
    let program = Program::start(folder.path(), &file);
    let also = "self_signed = true\n[[tls.also]]\ncertificate = \"no.pem\"\nprivate_key = \"no.key\"";
    let text = file.replace("self_signed = true", also);
    let line = 1 + text.lines().position(|line| line.contains("no.pem")).unwrap();
    let said = program.reload(&text, &format!("gateway.toml:{line}: tls.also[0].certificate: "));
    assert!(said.contains("no.pem` cannot be read: No such file"), "{said}");
    let said = program.service.says(&format!("gateway.toml:{}: tls.also[0].private_key: ", line + 1));
    assert!(said.contains("no.key` cannot be read: No such file"), "{said}");
    assert!(program.service.says("not reloaded, everything stays as it was: ").contains("no.pem"));
    assert_eq!(program.reload(&file, "portcullis: configuration "), "reloaded");
}

/// A start that waits for a store takes seconds, and whoever changes the file meanwhile neither ends it nor is forgotten.
#[test]
fn a_hangup_while_it_starts_is_a_reload_once_it_listens() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "thirty-two bytes or more of a secret").unwrap();
    let secret = "[session]\nsecret = { file = \"secret\" }\n";
    let text = shipped("redis://127.0.0.1:1").replace("[session]\n", secret);
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, text).unwrap();
    let service = Service::start(Command::new(env!("CARGO_BIN_EXE_portcullis")).arg("--config").arg(&file));
    service.says("the session store is away");
    service.hang_up();
    service.says("listening on");
    assert_eq!(service.says("portcullis: configuration "), "reloaded");
}
