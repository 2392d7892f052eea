//! The program itself: killed, stopped, started twice.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use http::Request;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use crate::cli::portcullis;
use crate::shared_store::eventually;
use crate::support::{Running, between, run_in, shipped};
use crate::tools::Service;
use crate::wire::{Application, Client, connect, fed, soon, two, whole};

type Secure = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;
type Socket = tokio_tungstenite::WebSocketStream<Secure>;

pub struct Program {
    child: Child,
    pub port: u16,
    password: String,
    /// On standard error, before that.
    pub said: String,
}

/// Start the binary and wait until it says where it listens.
fn start(folder: &Path) -> Program {
    start_text(folder, &shipped("embedded:data"))
}

pub fn start_text(folder: &Path, text: &str) -> Program {
    std::fs::write(folder.join("gateway.toml"), text).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["run", "--config"])
        .arg(folder.join("gateway.toml"))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    listening(child)
}

/// Waits until it says where it listens.
fn listening(child: Child) -> Program {
    let mut program = Program { child, port: 0, password: String::new(), said: String::new() };
    for line in BufReader::new(program.child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.contains("with the password ") {
            program.password = between(&line, "with the password ", " ").to_owned();
        }
        if line.contains("listening on") {
            program.port = between(&line, "https://localhost:", "/").parse().unwrap();
            return program;
        }
        program.said += &format!("{line}\n");
    }
    panic!("it never listened");
}

/// What a test started ends with it, passed or failed.
impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn curl(&self, jar: &Path, path: &str, arguments: &[&str]) -> String {
        let address = format!("https://localhost:{}{path}", self.port);
        let output = Command::new("curl")
            .args(["-sk", "-i", "--max-time", "20", "-b"])
            .arg(jar)
            .arg("-c")
            .arg(jar)
            .args(arguments)
            .arg(address)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn sign_in(&self, jar: &Path) {
        let said = self.try_sign_in(jar);
        assert!(said.contains(" 303"), "{said}");
    }

    /// What a sign-in is answered with.
    fn try_sign_in(&self, jar: &Path) -> String {
        let page = self.curl(jar, "/.portcullis/login", &[]);
        let state = format!("state={}", between(&page, "name=\"state\" value=\"", "\""));
        let password = format!("password={}", self.password);
        let arguments = ["-d", "user=demo", "--data-urlencode", &state, "--data-urlencode", &password];
        self.curl(jar, "/.portcullis/login", &arguments)
    }
}

/// How many descriptors the program may have; `None`: many again.
fn descriptors(program: &Program, most: Option<u64>) {
    let limit = format!("--nofile={}:", most.unwrap_or(1024));
    assert!(Command::new("prlimit").args(["--pid", &program.id().to_string(), &limit]).status().unwrap().success());
}

/// For want of a descriptor the user file cannot be read, which anybody can bring about: whoever was removed then goes all the same
/// when there is one again, though nothing about the file changes any more, and nobody is let in meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_user_file_that_could_not_be_read_for_a_while_counts_in_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let (program, jar, users) = (start(folder.path()), folder.path().join("jar"), folder.path().join("users.toml"));
    tokio::task::block_in_place(|| program.sign_in(&jar));
    // Connections that stand need no descriptor.
    let [mut client, _] = Client::both(program.port).await;
    let page = client.ask(Request::get("/"), "/.portcullis/login", whole("")).await;
    let cookie = page.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let body = soon(page.into_body().collect()).await.unwrap().to_bytes();
    let state = between(std::str::from_utf8(&body).unwrap(), "name=\"state\" value=\"", "\"").to_owned();
    descriptors(&program, Some(4));
    std::fs::write(folder.path().join("users.new"), "# Nobody is left.\n").unwrap();
    std::fs::rename(folder.path().join("users.new"), &users).unwrap();
    let form = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("user", "demo"), ("state", &state), ("password", &program.password)])
        .finish();
    let post = Request::post("/")
        .header("cookie", cookie)
        .header("origin", "https://localhost")
        .header("content-type", "application/x-www-form-urlencoded");
    let said = client.ask(post, "/.portcullis/login", whole(form)).await;
    assert_eq!(said.status(), 503);
    let page = soon(said.into_body().collect()).await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&page).contains("Nobody can sign in here at this moment"));
    descriptors(&program, None);
    let until = Instant::now() + Duration::from_secs(20);
    while !tokio::task::block_in_place(|| program.curl(&jar, "/", &[])).contains(" 401") {
        assert!(Instant::now() < until, "whoever was removed is still known");
    }
}

/// An editor that cuts the file before it writes it, or a disk that was full, signs nobody out.
#[test]
fn a_user_file_cut_to_nothing_signs_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let (program, jar, users) = (start(folder.path()), folder.path().join("jar"), folder.path().join("users.toml"));
    program.sign_in(&jar);
    let text = std::fs::read_to_string(&users).unwrap();
    std::fs::write(&users, "").unwrap();
    // It was looked at when this is answered.
    assert!(program.try_sign_in(&folder.path().join("other")).contains(" 503"));
    assert!(program.curl(&jar, "/", &[]).contains(" 200"));
    std::fs::write(&users, text).unwrap();
    program.sign_in(&folder.path().join("other"));
    assert!(program.curl(&jar, "/", &[]).contains(" 200"), "the session outlived it");
}

/// A full disk behind standard output is no reason not to serve, and none to be silent.
#[test]
fn lines_that_cannot_be_written_are_counted_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let text = shipped("memory").replace("[server]\n", "[server]\nadmin = \"127.0.0.1:0\"\n");
    std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$0\" run >/dev/full"]).arg(env!("CARGO_BIN_EXE_portcullis")).current_dir(folder.path());
    let service = Service::start(&mut shell);
    let admin = service.says_port("the operator's listener is http://127.0.0.1:");
    let port = service.says_port("listening on https://localhost:");
    let curl = |address: &str| {
        let output = Command::new("curl").args(["-sk", "--fail", "--max-time", "20", address]).output().unwrap();
        assert!(output.status.success(), "{address}");
        String::from_utf8(output.stdout).unwrap()
    };
    curl(&format!("https://localhost:{port}/public"));
    assert!(service.says("records are lost: standard output cannot be written").contains("lost=1"));
    let metrics = curl(&format!("http://127.0.0.1:{admin}/metrics"));
    assert!(metrics.contains("\nportcullis_records_lost_total 1\n"), "{metrics}");
    for _ in 0..2 {
        curl(&format!("https://localhost:{port}/public"));
    }
    service.terminate();
    assert!(service.says("records were lost until the end").contains("lost=2"), "not one message for each line");
}

/// A sign-in and a sign-out that were answered are on the disk, whatever happens to the process.
#[test]
fn a_kill_loses_no_acknowledged_sign_in_and_no_sign_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = start(folder.path());
    let jars: Vec<_> = (0..6).map(|n| folder.path().join(format!("jar{n}"))).collect();
    jars.iter().for_each(|jar| program.sign_in(jar));
    let mut kept = Vec::new();
    for jar in &jars[..3] {
        let who = program.curl(jar, "/.portcullis/whoami", &["-H", "accept: text/html"]);
        let csrf = format!("csrf={}", between(&who, "name=\"csrf\" value=\"", "\""));
        kept.push(std::fs::read(jar).unwrap());
        assert!(program.curl(jar, "/.portcullis/logout", &["--data-urlencode", &csrf]).contains(" 200"));
    }
    program.child.kill().unwrap();
    program.child.wait().unwrap();
    for (jar, cookies) in jars.iter().zip(kept) {
        std::fs::write(jar, cookies).unwrap();
    }
    let again = start(folder.path());
    for (index, jar) in jars.iter().enumerate() {
        let said = again.curl(jar, "/", &[]);
        let expected = if index < 3 { " 401" } else { " 200" };
        assert!(said.lines().next().unwrap().contains(expected), "session {index}: {said}");
    }
}

#[test]
fn a_second_process_on_the_same_store_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(folder.path());
    let second = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .arg("--config")
        .arg(folder.path().join("gateway.toml"))
        .output()
        .unwrap();
    drop(first);
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("another gateway is using this store"), "{said}");
}

/// Keys, names and addresses of people: what a start makes is for its owner alone.
#[test]
fn nobody_else_of_the_machine_reads_what_a_start_makes() {
    let folder = tempfile::tempdir().unwrap();
    let _program = start(folder.path());
    let mode = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("data"), 0o700);
    for file in ["data/keys", "users.toml", "certs/gateway.key"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
}

/// Two gateways would share a port unnoticed, each with sessions that the other does not know.
#[test]
fn a_second_gateway_on_the_same_port_is_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = start_text(one.path(), &shipped("memory"));
    let text = shipped("memory").replacen("127.0.0.1:0", &format!("127.0.0.1:{}", first.port), 1);
    let file = other.path().join("gateway.toml");
    std::fs::write(&file, text).unwrap();
    let mut second = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    second.arg("--config").arg(&file).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut second = Program { child: second.spawn().unwrap(), port: 0, password: String::new(), said: String::new() };
    let mut said = String::new();
    for line in BufReader::new(second.child.stderr.take().unwrap()).lines() {
        said.push_str(&line.unwrap());
        assert!(!said.contains("listening on"), "{said}");
    }
    assert_eq!(second.child.wait().unwrap().code(), Some(1), "{said}");
    assert!(said.contains("cannot listen on") && said.contains("Address already in use"), "{said}");
}

/// What other servers take for *read your file again* does not end this one.
/// The commonest first start: something else listens there.
#[test]
fn a_first_start_that_fails_leaves_no_user_whose_password_nobody_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let there = taken.local_addr().unwrap().to_string();
    std::fs::write(folder.path().join("gateway.toml"), shipped("embedded:data").replace("127.0.0.1:0", &there))
        .unwrap();
    let (code, _, said) = portcullis(folder.path(), &["run"], "");
    assert!(code == 1 && said.contains(&format!("cannot listen on {there}")), "{said}");
    assert!(!folder.path().join("users.toml").exists() && !said.contains("with the password"), "{said}");
    let program = start(folder.path());
    assert!(!program.password.is_empty(), "made now, and told: {}", program.said);
    drop(program);
    assert_eq!(start(folder.path()).password, "", "and not again");
}

#[test]
fn a_hangup_ends_no_gateway_that_has_no_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = start_text(folder.path(), &shipped("memory"));
    for _ in 0..2 {
        assert!(Command::new("kill").args(["-HUP", &program.id().to_string()]).status().unwrap().success());
        let page = program.curl(&folder.path().join("jar"), "/public", &[]);
        assert!(page.contains(" 200"), "{page}");
    }
    assert!(program.child.try_wait().unwrap().is_none());
}

/// A disk without space is an outage of what has to be written, said once, and over when there is space again. Here it is a limit on
/// files, which needs no disk.
#[test]
fn a_disk_that_was_full_is_an_outage_that_ends() {
    let folder = tempfile::tempdir().unwrap();
    let text = shipped("embedded:data").replace("[server]\n", "[server]\nadmin = \"127.0.0.1:0\"\n");
    std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
    let mut command = Command::new("bash");
    // Without the signal a write past the limit is an error, as one to a full disk is.
    let kept = "trap '' XFSZ; exec \"$@\" 2> >(tee -p said >&2)";
    command.args(["-c", kept, "-", env!("CARGO_BIN_EXE_portcullis"), "--config"]).current_dir(folder.path());
    command.arg(folder.path().join("gateway.toml")).stdout(Stdio::null()).stderr(Stdio::piped());
    let program = listening(command.spawn().unwrap());
    let jar = folder.path().join("jar");
    let limit = |bytes: &str| {
        let mut prlimit = Command::new("prlimit");
        let pid = program.id().to_string();
        assert!(prlimit.args(["--pid", &pid, &format!("--fsize={bytes}:unlimited")]).status().unwrap().success());
    };
    let admin = between(&program.said, "the operator's listener is http://127.0.0.1:", "/").to_owned();
    let operator = |path: &str| {
        let address = format!("http://127.0.0.1:{admin}{path}");
        String::from_utf8(Command::new("curl").args(["-si", "--max-time", "20", &address]).output().unwrap().stdout)
            .unwrap()
    };
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        let end = Instant::now() + Duration::from_secs(40);
        while !holds() {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let said = |what: &str| std::fs::read_to_string(folder.path().join("said")).unwrap().matches(what).count();
    let [begins, ends] = ["the session store takes no writes", "the session store takes writes again"];
    let refused =
        |count: u8| operator("/metrics").contains(&format!("\nportcullis_session_store_writes_refused {count}\n"));
    program.sign_in(&jar);
    assert!(refused(0) && !operator("/readyz").contains("takes no writes"));
    limit("4096");
    for _ in 0..3 {
        assert!(program.try_sign_in(&folder.path().join("other")).contains(" 503"));
    }
    assert!(program.curl(&jar, "/", &[]).contains(" 200"), "who is known goes on");
    until("it is told", &|| said(begins) > 0);
    let ready = operator("/readyz");
    assert!(
        ready.contains(" 200") && ready.contains("store: it takes no writes"),
        "nobody else has the sessions: {ready}"
    );
    assert!(refused(1));
    limit("unlimited");
    until("it never wrote again", &|| program.try_sign_in(&folder.path().join("other")).contains(" 303"));
    assert!(program.curl(&jar, "/", &[]).contains(" 200"));
    until("its end is told", &|| said(ends) > 0);
    assert_eq!((said(begins), said(ends)), (1, 1), "once each");
    assert!(refused(0) && !operator("/readyz").contains("takes no writes"));
}

#[test]
fn the_gateway_ends_when_it_is_told_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = start(folder.path());
    let pid = program.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(status) = program.child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(0));
            break;
        }
        assert!(Instant::now() < until, "it did not stop");
        std::thread::yield_now();
    }
}

/// An application whose WebSockets and answers never end.
fn endless() -> Application {
    Application::on_streams(|stream| async move {
        let mut head = [0; 5];
        stream.peek(&mut head).await.unwrap();
        let socket = if &head == b"GET /" { tokio_tungstenite::accept_async(stream).await.ok() } else { None };
        std::future::pending::<()>().await;
        drop(socket);
    })
}

/// A gateway in front of it with two WebSockets and half a request, which never ends by itself.
async fn with_what_never_ends(folder: &Path, application: &Application, drain: &str) -> (Service, Vec<Socket>, Secure) {
    let text = shipped("memory").replace("builtin:whoami", &format!("http://127.0.0.1:{}", application.port));
    let text = text.replace("[server]", "[server]\nworkers = 1").replace("\"authenticated\"", "\"public\"");
    std::fs::write(folder.join("gateway.toml"), format!("{text}\n[limits]\ndrain_timeout = \"{drain}\"\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let service = Service::start(command.arg("--config").arg(folder.join("gateway.toml")));
    let port = tokio::task::block_in_place(|| service.says_port("https://localhost:"));
    let mut sockets = Vec::new();
    for _ in 0..2 {
        let request = "wss://localhost/socket".into_client_request().unwrap();
        let stream = connect(port, "http/1.1").await;
        sockets.push(soon(tokio_tungstenite::client_async(request, stream)).await.unwrap().0);
    }
    let mut half = connect(port, "http/1.1").await;
    half.write_all(b"POST /half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx").await.unwrap();
    half.flush().await.unwrap();
    // The gateway has read it when it answers what came after.
    Client::both(port).await[0].ask(Request::get("/"), "/.portcullis/login", whole("")).await;
    (service, sockets, half)
}

/// A close frame of a gateway that goes away.
async fn are_told(sockets: &mut [Socket]) {
    for socket in sockets {
        let message = soon(socket.next()).await.unwrap().unwrap();
        assert!(matches!(message, Message::Close(Some(frame)) if u16::from(frame.code) == 1001));
    }
}

/// Requests and WebSockets that outlast the drain are cut, the sockets with a close frame, and the log says how many.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_the_drain_cuts_is_reported() {
    let (application, folder) = (endless(), tempfile::tempdir().unwrap());
    let (service, mut sockets, _half) = with_what_never_ends(folder.path(), &application, "300ms").await;
    service.terminate();
    let said = tokio::task::block_in_place(|| service.says("cut by the stop "));
    assert_eq!(said, "connections=1 sockets=2 acts=0");
    are_told(&mut sockets).await;
}

/// The drain would take an hour. WebSockets wait for no request; and nothing waits for one when a second signal says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sockets_are_told_while_requests_go_on_and_a_second_signal_ends_those() {
    for second in ["-TERM", "-INT"] {
        let (application, folder) = (endless(), tempfile::tempdir().unwrap());
        let (service, mut sockets, _half) = with_what_never_ends(folder.path(), &application, "1h").await;
        service.terminate();
        are_told(&mut sockets).await;
        service.signal(second);
        let (code, said) = tokio::task::block_in_place(|| service.ends());
        assert!(code == Some(0) && said.contains("cut by the stop connections=1 sockets=2 acts=0"), "{second}: {said}");
        assert!(said.contains("\"path\":\"/half\""), "{said}");
    }
}

/// What other servers reopen their logs on ends nobody; what asks for a stop is one.
#[test]
fn signals_that_mean_something_elsewhere_end_no_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = start_text(folder.path(), &shipped("memory"));
    let kill =
        |name: &str, pid: u32| assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
    for name in ["-USR1", "-USR2"] {
        kill(name, program.id());
        assert!(program.curl(&folder.path().join("jar"), "/public", &[]).contains(" 200"), "{name}");
    }
    kill("-QUIT", program.id());
    assert_eq!(program.child.wait().unwrap().code(), Some(0));
}

/// The program under limits of descriptors, soft and hard.
fn limited(folder: &Path, text: &str, soft: u64, hard: u64) -> Service {
    let text = text.replace("[server]\n", "[server]\nworkers = 1\nadmin = \"127.0.0.1:0\"\n");
    std::fs::write(folder.join("gateway.toml"), text).unwrap();
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={soft}:{hard}")).args([env!("CARGO_BIN_EXE_portcullis"), "--config"]);
    Service::start(command.arg(folder.join("gateway.toml")))
}

/// attacks: connections that say nothing, until no descriptor is left for anybody
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn idle_connections_leave_descriptors_to_the_operator_and_to_applications() {
    let folder = tempfile::tempdir().unwrap();
    let service = limited(folder.path(), &shipped("memory"), 300, 400);
    let says = |words: &str| tokio::task::block_in_place(|| service.says(words));
    let says_port = |words: &str| tokio::task::block_in_place(|| service.says_port(words));
    let said = says("limits.connections: 10000 connections may need ");
    assert!(said.contains("this process gets 400: 100 are accepted"), "the soft limit was raised: {said}");
    let check = "prlimit --nofile=400:400 \"$0\" check --config \"$1\" 2>&1";
    let mut shell = Command::new("sh");
    shell.args(["-c", check, env!("CARGO_BIN_EXE_portcullis")]).arg(folder.path().join("gateway.toml"));
    let checked = String::from_utf8(shell.output().unwrap().stdout).unwrap();
    assert!(checked.contains("gateway.toml:1: limits.connections: warning: 10000 connections may need "), "{checked}");
    let admin = says_port("the operator's listener is http://127.0.0.1:");
    let port = says_port("listening on https://localhost:");
    let curl = |address: String| {
        let mut curl = Command::new("curl");
        let output = tokio::task::block_in_place(|| curl.args(["-sk", "--max-time", "20", &address]).output());
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let mut held = Vec::new();
    let until = Instant::now() + Duration::from_secs(20);
    let refused = || {
        let metrics = curl(format!("http://127.0.0.1:{admin}/metrics"));
        between(&metrics, "connection_events_total{event=\"refused_full\"} ", "\n").parse::<u64>().unwrap()
    };
    while refused() < 300 {
        held.extend((0..50).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()));
        assert!(Instant::now() < until, "{} were refused", refused());
    }
    assert!(says("clients are turned away: ").contains("connections=100"));
    assert!(curl(format!("http://127.0.0.1:{admin}/readyz")).starts_with("ready\n"));
    // Those that say nothing for longer give their places up.
    while !curl(format!("https://localhost:{port}/public")).contains("GET /public") {
        assert!(Instant::now() < until + Duration::from_secs(20), "it does not accept again");
    }
    drop(held);
}

/// attacks: CWE-770, streams beyond number over a few connections, each for a connection to an application that does not answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn streams_leave_descriptors_to_the_operator_and_to_others() {
    let application = Application::start(|request| async move {
        match request.uri().path() {
            "/public/never" => std::future::pending().await,
            _ => http::Response::new(whole("answered")),
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let text = shipped("memory").replace("builtin:whoami", &format!("http://127.0.0.1:{}", application.port));
    let service = limited(folder.path(), &text, 400, 400);
    let says_port = |words: &str| tokio::task::block_in_place(|| service.says_port(words));
    let admin = says_port("the operator's listener is http://127.0.0.1:");
    let port = says_port("listening on https://localhost:");
    let told = Arc::<AtomicUsize>::default();
    let mut crowd = Vec::new();
    for _ in 0..5 {
        let client = two(port).await;
        for _ in 0..100 {
            let (mut client, told) = (client.clone(), told.clone());
            crowd.push(tokio::spawn(async move {
                let request = Request::get("https://localhost/public/never").body(whole("")).unwrap();
                let answer = client.send_request(request).await.unwrap();
                assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (503, &"2".parse().unwrap()));
                told.fetch_add(1, Ordering::SeqCst);
            }));
        }
    }
    // A hundred descriptors are for applications; half of them, and one for each connection, may be taken like this.
    eventually("all others are told to come again", async || told.load(Ordering::SeqCst) >= 445).await;
    for mut client in Client::both(port).await {
        let answer = client.ask(Request::get("/"), "/public", whole("")).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
    let ready = format!("http://127.0.0.1:{admin}/readyz");
    let ready = tokio::task::block_in_place(|| Command::new("curl").args(["-s", "--max-time", "20", &ready]).output());
    assert!(ready.unwrap().stdout.starts_with(b"ready\n"));
    crowd.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Out of descriptors (EMFILE): accepting fails, and goes on when there are some again.
#[test]
fn accept_errors_do_not_end_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let program = start(folder.path());
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", program.id())).unwrap().count();
    let limit = descriptors() + 20;
    let pid = program.id().to_string();
    let limited = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={limit}:{limit}")]).status();
    assert!(limited.unwrap().success());
    let mut held: Vec<_> = (0..100).map(|_| TcpStream::connect(("127.0.0.1", program.port)).unwrap()).collect();
    let until = Instant::now() + Duration::from_secs(20);
    while descriptors() < limit - 4 {
        assert!(Instant::now() < until, "{} of {limit}", descriptors());
        std::thread::yield_now();
    }
    // Nobody else gets in now: nothing was accepted that could answer.
    let jar = folder.path().join("jar");
    assert_eq!(program.curl(&jar, "/public", &["--max-time", "1"]), "");
    held.clear();
    while !program.curl(&jar, "/public", &[]).contains(" 200") {
        assert!(Instant::now() < until + Duration::from_secs(20), "it does not accept again");
    }
}

#[test]
fn a_user_who_is_removed_is_signed_out_within_seconds() {
    let running: Running = run_in(tempfile::tempdir().unwrap(), "memory");
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    assert_eq!(running.curl("/", &[]).status, 200);
    std::fs::write(running.folder.path().join("users.toml"), "[user]\n").unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while running.curl("/", &[]).status == 200 {
        assert!(Instant::now() < until, "still signed in");
    }
    assert_eq!(running.curl("/", &[]).status, 401);
}

/// Bytes of resident memory, at most so far (proc(5)).
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = between(&status, "VmHWM:", "kB").trim().to_owned();
    line.parse::<u64>().unwrap() * 1024
}

/// A body does not pass through memory: far more goes up and down than the process may ever hold. `PORTCULLIS_STREAM_MIB`
/// asks for more than the suite has time for.
#[test]
fn bodies_of_any_size_take_constant_memory() {
    let mib = std::env::var("PORTCULLIS_STREAM_MIB").map_or(512, |text| text.parse::<u64>().unwrap());
    let total = mib << 20;
    let application = Application::start(move |request| async move {
        let (parts, mut body) = request.into_parts();
        let (mut feed, answer) = fed();
        tokio::spawn(async move {
            if parts.method == http::Method::GET {
                let chunk = bytes::Bytes::from(vec![b'x'; 64 * 1024]);
                for _ in 0..total / chunk.len() as u64 {
                    if feed.send_data(chunk.clone()).await.is_err() {
                        return;
                    }
                }
            } else {
                let mut got = 0_u64;
                while let Some(Ok(frame)) = body.frame().await {
                    got += frame.data_ref().map_or(0, |data| data.len() as u64);
                }
                feed.send_data(got.to_string().into()).await.unwrap();
            }
        });
        http::Response::new(answer)
    });
    let folder = tempfile::tempdir().unwrap();
    let text = shipped("memory").replace("builtin:whoami", &format!("http://127.0.0.1:{}", application.port));
    let text = text.replace("methods  = [\"GET\", \"HEAD\"]\n", "");
    let program = start_text(folder.path(), &text);
    let address = format!("https://localhost:{}/public", program.port);
    for version in ["--http1.1", "--http2"] {
        let upload = format!("head -c {total} /dev/zero | curl -sk {version} --max-time 600 -T - {address}");
        let said = Command::new("sh").args(["-c", &upload]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout), total.to_string(), "up, {version}");
        let download = format!("curl -sk {version} --max-time 600 {address} | wc -c");
        let said = Command::new("sh").args(["-c", &download]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), total.to_string(), "down, {version}");
    }
    let peak = peak(program.child.id());
    println!("{} MiB resident at most for {mib} MiB each way", peak >> 20);
    assert!(peak < 128 << 20, "{} MiB resident", peak >> 20);
}
