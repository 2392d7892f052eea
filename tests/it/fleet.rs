//! Several gateway processes on one store, each behind a proxy that can misbehave. What a test starts ends with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use portcullis::clock::{Clock, SystemClock, Timestamp};
use portcullis::session::store::Redis;
use portcullis::session::{CookieCodec, Creation, Session, SessionKey, SessionKeys, SessionStore};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::between::Between;
use crate::redis_server::{RedisCluster, RedisServer};
use crate::shared_store::{eventually, record};
use crate::support::entry_of;
use crate::wire::{Frames, one, soon, whole};

const SECRET: &str = "one secret for all the gateways of a test";
/// How a master is started whose replica can be made deaf; and what tells a replica to sign in there.
pub const COPIED: [&str; 7] = ["--user", "copy", "on", ">copy", "+psync", "+replconf", "+ping"];
pub const COPIES: [&str; 4] = ["--masteruser", "copy", "--masterauth", "copy"];
const TOKEN: &str = "the operator of all the gateways of a test";
pub const PASSWORD: &str = "correct horse battery staple";

/// One gateway.
pub struct Node {
    child: Child,
    pub port: u16,
    pub admin: u16,
    log: PathBuf,
}

/// All of them.
pub struct Fleet {
    pub nodes: Vec<Node>,
    /// Before each node's way to the store.
    pub between: Vec<Between>,
    store: Redis,
    codec: CookieCodec,
    folder: tempfile::TempDir,
}

/// How a test's gateways differ from the usual.
#[derive(Clone, Copy)]
pub struct Plan<'p> {
    /// What `store` names, where it is not the proxy of each node.
    pub store: Option<&'p str>,
    /// Lines under `[session]`.
    pub session: &'p str,
    /// Lines under `[session.redis]`.
    pub redis: &'p str,
    /// What is forwarded to.
    pub upstream: &'p str,
    /// The cluster that `store` names, where it is one.
    pub cluster: Option<&'p RedisCluster>,
    /// Who may have sessions besides Alice.
    pub others: &'p [&'p str],
    /// Tables at the end of the file.
    pub more: &'p str,
    /// What is in `keys.json` beside it.
    pub keys: &'p str,
    /// The secret of sessions.
    pub secret: &'p str,
    /// Whether each has a copy of the user file for itself.
    pub copies: bool,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Plan {
            store: None,
            session: "",
            redis: "",
            upstream: "builtin:whoami",
            cluster: None,
            others: &[],
            more: "",
            keys: "",
            secret: SECRET,
            copies: false,
        }
    }
}

/// A session that was made beside the gateways.
#[derive(Clone, Debug)]
pub struct Cookie {
    pub key: SessionKey,
    pub line: String,
}

/// What an operator was answered.
#[derive(Debug)]
pub struct Answered {
    pub status: StatusCode,
    pub json: serde_json::Value,
}

impl Fleet {
    /// So many gateways on this server.
    pub fn start(count: usize, server: &RedisServer, plan: Plan<'_>) -> Fleet {
        let folder = secrets(plan.secret);
        std::fs::write(folder.path().join("keys.json"), plan.keys).unwrap();
        let between: Vec<Between> = (0..count).map(|_| Between::new(server.port)).collect();
        let texts = between.iter().enumerate().map(|(n, between)| {
            let own = format!("redis://127.0.0.1:{}/0", between.port);
            text(n, plan.store.unwrap_or(&own), plan)
        });
        let files: Vec<PathBuf> = texts
            .enumerate()
            .map(|(n, text)| {
                let file = folder.path().join(format!("gateway-{n}.toml"));
                std::fs::write(&file, text).unwrap();
                file
            })
            .collect();
        std::iter::once("alice").chain(plan.others.iter().copied()).for_each(|name| add_user(&files[0], name));
        if plan.copies {
            for n in 1..count {
                std::fs::copy(users(folder.path(), 0), users(folder.path(), n)).unwrap();
            }
        }
        let nodes = files.iter().map(|file| Node::spawn(file)).collect::<Vec<_>>();
        let nodes = nodes.into_iter().map(Node::listening).collect();
        let store = plan.cluster.map_or_else(|| server.store(), RedisCluster::store);
        let codec = CookieCodec::new(&SessionKeys::from_secret(plan.secret.as_bytes()).unwrap(), "");
        Fleet { nodes, between, store, codec, folder }
    }

    /// Until every node has caught up with the log; before that it answers 503.
    pub async fn ready(&self) {
        let cookie = self.session().await;
        for node in &self.nodes {
            eventually("the node has caught up", async || {
                let status = node.status(&cookie.line).await;
                assert!(matches!(status, 200 | 503), "{status}");
                status == 200
            })
            .await;
        }
    }

    /// Start a node anew on its own files.
    pub fn restart(&mut self, n: usize) {
        let file = self.folder.path().join(format!("gateway-{n}.toml"));
        self.nodes[n] = Node::spawn(&file).listening();
    }

    /// A node's file as a command has to find it, with the address that its operator's listener came by.
    pub fn operator_file(&self, n: usize) -> PathBuf {
        let text = std::fs::read_to_string(self.folder.path().join(format!("gateway-{n}.toml"))).unwrap();
        let admin = format!("admin = \"127.0.0.1:{}\"", self.nodes[n].admin);
        let file = self.folder.path().join(format!("operator-{n}.toml"));
        std::fs::write(&file, text.replace("admin = \"127.0.0.1:0\"", &admin)).unwrap();
        file
    }

    /// Change the user file, which all of them read.
    pub fn edit_users(&self, from: &str, to: &str) {
        let users = self.folder.path().join("users.toml");
        let before = std::fs::read_to_string(&users).unwrap();
        assert!(before.contains(from), "{from} in {before}");
        std::fs::write(&users, before.replace(from, to)).unwrap();
    }

    /// Give Alice another password in the copy of a node. Answers the copy as it was.
    pub fn passwd(&self, n: usize, password: &str) -> String {
        let before = self.copy(n);
        change_users(&self.folder.path().join(format!("gateway-{n}.toml")), &["passwd", "alice"], password);
        before
    }

    /// The copy of a node is this, all at once.
    pub fn write_copy(&self, n: usize, text: &str) {
        let (copy, new) = (users(self.folder.path(), n), self.folder.path().join("copied"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, copy).unwrap();
    }

    /// The copy of a node.
    pub fn copy(&self, n: usize) -> String {
        std::fs::read_to_string(users(self.folder.path(), n)).unwrap()
    }

    /// A session of Alice's, written as a gateway writes it but without the 50 ms of a password, and by no node of the log.
    pub async fn session(&self) -> Cookie {
        self.session_of("alice").await
    }

    /// The same of another user.
    pub async fn session_of(&self, user: &str) -> Cookie {
        self.session_unused_for(Duration::ZERO, user).await
    }

    /// One that was used last so long ago.
    pub async fn session_unused_for(&self, unused: Duration, user: &str) -> Cookie {
        let seen = Timestamp(SystemClock.now().0 - u64::try_from(unused.as_millis()).unwrap());
        let entry = entry_of(self.folder.path(), user);
        let session = Session { entry, ..record(user, seen, Duration::from_secs(1800)) };
        let (value, key) = self.codec.mint(session.user()).unwrap();
        self.store.create(Creation { key, session, replaces: None, limit: None }).await.unwrap();
        Cookie { key, line: format!("__Host-portcullis={value}") }
    }

    /// When the store says that a session was used last.
    pub async fn last_seen(&self, cookie: &Cookie) -> Timestamp {
        self.store.load(cookie.key).await.unwrap().expect("it is there").last_seen
    }

    /// Revoke as an operator does, at this node; waits for the answer.
    pub async fn revoke(&self, n: usize, what: serde_json::Value) -> Answered {
        operator(self.nodes[n].admin, what).await
    }

    /// The same for one session.
    pub async fn revoke_session(&self, n: usize, cookie: &Cookie) -> Answered {
        self.revoke(n, serde_json::json!({ "session": hex(cookie.key) })).await
    }

    /// Begin to revoke a session, at a master (one of [`COPIED`]) that tells its replica nothing any more: the nodes hear of it, and
    /// when the master dies it dies with it.
    pub async fn revoke_untold(&self, cookie: &Cookie, master: &RedisServer) -> JoinHandle<Answered> {
        // Its link is cut, and it may not sign in again.
        master.admin(&["ACL", "SETUSER", "copy", "off"]);
        master.admin(&["CLIENT", "KILL", "TYPE", "replica"]);
        let (port, session) = (self.nodes[0].admin, hex(cookie.key));
        let revoking = tokio::spawn(async move { operator(port, serde_json::json!({ "session": session })).await });
        eventually("another node heard of it", async || self.nodes[1].status(&cookie.line).await == 401).await;
        revoking
    }

    /// The master is dead, and the replica takes its place with the record of a session that was ended: until that is done again
    /// there as well, the others' sessions are served again, and nobody ever answers in this one. `tag`: of its part of the store.
    pub async fn outlive(&self, replica: &RedisServer, ended: &Cookie, other: &Cookie, tag: &str) {
        eventually("the replica is promoted", async || replica.admin(&["ROLE"]).starts_with("master")).await;
        for node in &self.nodes {
            // Away or ended, and never once answered from the new master's record.
            eventually("the node knows it", async || {
                let status = node.status(&ended.line).await;
                assert_ne!(status, 200, "the record that came back with the promotion");
                status == 401
            })
            .await;
            eventually("the node serves again", async || node.status(&other.line).await == 200).await;
        }
        let record = format!("portcullis:s{tag}:{}", hex(ended.key));
        eventually("the record is gone again", async || replica.admin(&["EXISTS", &record]) == "0").await;
    }
}

/// A folder with what all gateways of a test know.
fn secrets(secret: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("secret", secret), ("token", TOKEN), ("redis", "secret")] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// What a gateway says that does not start.
pub fn refused(server: &RedisServer, plan: Plan<'_>) -> String {
    let (folder, own) = (secrets(plan.secret), format!("redis://127.0.0.1:{}/0", server.port));
    let file = folder.path().join("gateway-0.toml");
    std::fs::write(&file, text(0, plan.store.unwrap_or(&own), plan)).unwrap();
    add_user(&file, "alice");
    let mut node = Node::spawn(&file);
    let until = Instant::now() + Duration::from_secs(40);
    let status = loop {
        match node.child.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(Instant::now() < until, "it starts: {}", node.said()),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(1), "{}", node.said());
    node.said()
}

/// Ask a node's listener to revoke.
pub async fn operator(port: u16, what: serde_json::Value) -> Answered {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut sender, connection) = http1::handshake::<_, Frames>(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("/sessions/revoke")
        .header("host", "localhost")
        .header("authorization", format!("Bearer {TOKEN}"))
        .body(whole(what.to_string()))
        .unwrap();
    let answer = soon(sender.send_request(request)).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    Answered { status, json: serde_json::from_slice(&body).unwrap_or_default() }
}

pub fn hex(key: SessionKey) -> String {
    key.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Node {
    fn spawn(file: &Path) -> Node {
        let log = file.with_extension("log");
        let child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["run", "--config"])
            .arg(file)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Node { child, port: 0, admin: 0, log }
    }

    fn listening(mut self) -> Node {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let said = self.said();
            let port = |before: &str| -> Option<u16> { said.split(before).nth(1)?.split('/').next()?.parse().ok() };
            if let (Some(admin), Some(public)) = (port("listener is http://127.0.0.1:"), port("on https://localhost:"))
            {
                (self.admin, self.port) = (admin, public);
                return self;
            }
            assert!(self.child.try_wait().unwrap().is_none() && Instant::now() < until, "it never listened: {said}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it said of itself so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Send it a signal by its name.
    pub fn signal(&self, name: &str) {
        let done = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// End it in good order.
    pub fn stop(&mut self) {
        self.signal("TERM");
        assert!(self.child.wait().unwrap().success());
    }

    /// Ask for the application's page in a session.
    pub async fn ask(&self, cookie: &str) -> http::Response<hyper::body::Incoming> {
        let mut sender = one(self.port).await;
        let request = Request::get("/").header("host", "localhost").header("cookie", cookie).body(whole("")).unwrap();
        soon(sender.send_request(request)).await.unwrap()
    }

    /// The status of it alone.
    pub async fn status(&self, cookie: &str) -> u16 {
        self.ask(cookie).await.status().as_u16()
    }

    /// A page of its operator's listener that needs no token: status and text.
    pub async fn operator_page(&self, path: &str) -> (u16, String) {
        let stream = TcpStream::connect(("127.0.0.1", self.admin)).await.unwrap();
        let (mut sender, connection) = http1::handshake::<_, Frames>(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(path).header("host", "localhost").body(whole("")).unwrap();
        let answer = soon(sender.send_request(request)).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// A sample of its metrics, by the name and labels it stands under.
    pub async fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.operator_page("/metrics").await;
        let mut lines = text.lines().filter_map(|line| line.rsplit_once(' '));
        lines.find(|(other, _)| *other == name).unwrap_or_else(|| panic!("{name} in {text}")).1.parse().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn text(n: usize, store: &str, plan: Plan<'_>) -> String {
    let Plan { session, redis, upstream, more, .. } = plan;
    let users = if plan.copies { format!("users-{n}.toml") } else { "users.toml".to_owned() };
    format!(
        "roles = [\"admin\"]\n\
         [server]\nlisten = \"127.0.0.1:0\"\nworkers = 1\nadmin = \"127.0.0.1:0\"\nadmin_token = {{ file = \"token\" }}\n\
         [tls]\nself_signed = true\ncertificate = \"node-{n}.pem\"\nprivate_key = \"node-{n}.key\"\n\
         [session]\nstore = \"{store}\"\nsecret = {{ file = \"secret\" }}\n{session}\n\
         [session.redis]\nuser = \"portcullis\"\npassword = {{ file = \"redis\" }}\n{redis}\n\
         [login.local]\nusers = \"{users}\"\n\
         [identity_headers]\npreset = \"x-forwarded\"\n\
         [upstream.app]\nservers = [\"{upstream}\"]\n\
         [[route]]\nname = \"app\"\npath = \"/\"\naccess = \"authenticated\"\nupstream = \"app\"\n\
         [[route]]\nname = \"public\"\npath = \"/public\"\naccess = \"public\"\nupstream = \"app\"\n{more}"
    )
}

/// Where a node has its own copy of the user file.
fn users(folder: &Path, n: usize) -> PathBuf {
    folder.join(format!("users-{n}.toml"))
}

fn add_user(file: &Path, name: &str) {
    change_users(file, &["add", name, "--role", "admin"], PASSWORD);
}

fn change_users(file: &Path, arguments: &[&str], password: &str) {
    use std::io::Write;
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["user", "--config"])
        .arg(file)
        .args(arguments)
        .arg("--password-stdin")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{password}").unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
