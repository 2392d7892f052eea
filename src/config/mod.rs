//! The configuration: text → `RawConfig` → [`Config`].
//!
//! One decision: after this room nobody re-checks, and nothing is a string that means something else. All mistakes of a file
//! are reported at once. It reads no file but the text it is handed and knows no tokio, hyper, rustls or moka; what needs the
//! disk (certificates, secrets, the user file) is `startup`'s to find out.

mod doubts;
mod identity;
mod lines;
mod login;
mod meanings;
mod oidc;
mod options;
mod parse;
mod problems;
mod questions;
mod redis;
mod routes;
mod server;
mod session;
mod sign_in;
mod signing;
mod table;
mod token;
mod upstreams;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::policy::{IdentityHeaders, Names, RoleNames, RouteTable};

pub use lines::Lines;
pub use problems::{ConfigErrors, Problem, did_you_mean};
pub use signing::{JwtSessions, SessionMode, Signing};
pub use token::{ClaimNames, TokenIssuer, TokenKeys};

/// What the program may rely on.
#[derive(Debug)]
pub struct Config {
    /// Declared roles.
    pub roles: RoleNames,
    /// Where it listens.
    pub server: Server,
    /// Its certificate.
    pub tls: Tls,
    /// Sessions.
    pub session: SessionConfig,
    /// Local users; `None` without `[login.local]`.
    pub local: Option<LocalLogin>,
    /// What this gateway signs.
    pub signing: Signing,
    /// Bearer tokens of others.
    pub tokens: Vec<TokenIssuer>,
    /// OpenID providers.
    pub oidc: Vec<OidcLogin>,
    /// What applications are told.
    pub identity_headers: IdentityHeaders,
    /// Applications, in the order of the file; a route's `UpstreamId` is an index into it.
    pub upstreams: Vec<Upstream>,
    /// Routes, arranged.
    pub routes: RouteTable,
    /// Bounds on everything.
    pub limits: Limits,
    /// Records.
    pub log: Log,
    /// Where keys stand in the file.
    pub lines: Lines,
}

impl Config {
    /// How the names of a place with this prefix are kept apart from those of others.
    pub fn names(&self, prefix: &str) -> Names {
        let providers = self.oidc.iter().map(|provider| provider.user_prefix.clone());
        Names::new(prefix, providers.chain(self.tokens.iter().map(|issuer| issuer.user_prefix.clone())))
    }

    /// The names of the places to sign in.
    pub fn places(&self) -> impl Iterator<Item = &str> {
        let local = self.local.iter().map(|_| "local");
        local.chain(self.oidc.iter().map(|provider| provider.name.as_str()))
    }

    /// What the table of an issuer of tokens is called: one alone has no number.
    pub fn token_table(&self, index: usize) -> String {
        if self.lines.has("token[0]") { format!("token[{index}]") } else { "token".to_owned() }
    }
}

/// `[server]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// TLS, HTTP/1.1 and HTTP/2.
    pub listen: SocketAddr,
    /// Worker threads; `None` is one per core.
    pub workers: Option<NonZeroUsize>,
    /// Plain HTTP that only redirects.
    pub redirect_http: Option<SocketAddr>,
    /// The operator's listener.
    pub admin: Option<AdminListener>,
    /// Proxies before us whose word on the client's address is taken.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether they begin their connections with a PROXY header.
    pub proxy_protocol: bool,
    /// What applications are told of the way a request came.
    pub forwarded: Forwarded,
}

/// `server.admin` and `server.admin_token`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminListener {
    /// Where it listens. Beyond this machine only with a token.
    pub address: SocketAddr,
    /// The operator's token; `None`: made on first start and kept beside the store, where the store is a folder.
    pub token: Option<Secret>,
}

/// `server.forwarded`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// `X-Forwarded-For`, `-Host`, `-Proto`.
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Standard,
    /// Both.
    Both,
    /// None.
    Nothing,
}

/// `[tls]`. Paths are absolute or relative to the working directory: already joined with the file's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// PEM chain.
    pub certificate: PathBuf,
    /// PEM key.
    pub private_key: PathBuf,
    /// Make a development pair at these paths where both are missing.
    pub self_signed: bool,
    /// Certificates for other names: chain and key.
    pub also: Vec<(PathBuf, PathBuf)>,
}

/// `[session]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// What browsers carry.
    pub mode: SessionMode,
    /// Unused for so long, it ends.
    pub idle_timeout: Duration,
    /// After so long it ends, used or not.
    pub max_age: Duration,
    /// The cookie's name.
    pub cookie: String,
    /// Where sessions live.
    pub store: Store,
    /// The key that cookies are made with; `None`: made on first start and kept beside the store.
    pub secret: Option<Secret>,
    /// Sessions a user may have at once; beyond it the oldest ends. `None`: any number.
    pub max_sessions: Option<u32>,
    /// Sessions kept in local memory.
    pub cache_entries: u64,
    /// How long sessions in memory are served while a shared store is away, beyond the lease.
    pub grace: Duration,
}

/// `session.store`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// In memory: a restart signs everybody out.
    Memory,
    /// One file in this folder.
    Embedded(PathBuf),
    /// Redis or Valkey, shared by several gateways.
    Redis(Box<RedisStore>),
}

/// `session.store = "redis://…"` and `[session.redis]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisStore {
    /// Hosts (without brackets) and ports; at least one.
    pub addresses: Vec<(String, u16)>,
    /// What they are.
    pub deployment: RedisDeployment,
    /// The numbered database.
    pub database: u32,
    /// Whose rights.
    pub login: RedisLogin,
    /// Whom to trust and how to show oneself; `None`: in clear text.
    pub tls: Option<UpstreamTls>,
    /// What every key of every site begins with.
    pub prefix: String,
    /// Separates sites that share secret and store: a cookie of one is garbage to another, and each has keys of its own. May be empty.
    pub site: String,
    /// Into how many parts the store is divided: a power of two.
    pub partitions: u8,
    /// How long a connection may take to stand.
    pub connect_timeout: Duration,
}

/// What the servers of a `redis://` address are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisDeployment {
    /// One server.
    Single,
    /// Sentinels.
    Sentinel {
        /// What they call the master.
        master: String,
        /// Their own login.
        login: RedisLogin,
    },
    /// Nodes of a cluster.
    Cluster,
}

/// A user of a Redis server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisLogin {
    /// The ACL user; `None`: the default one.
    pub user: Option<String>,
    /// The password; `None`: none is asked for.
    pub password: Option<Secret>,
}

/// Where a secret comes from. The text itself never stands in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// A file; trailing line ends are not part of it.
    File(PathBuf),
    /// An environment variable.
    Env(String),
}

/// `[login.local]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalLogin {
    /// The user file.
    pub users: PathBuf,
    /// Where the user file is missing at start: make it, with this user, a random password (printed once) and every role.
    pub demo_user: Option<String>,
    /// argon2id memory in KiB.
    pub argon2_memory_kib: u32,
    /// argon2id passes.
    pub argon2_passes: u32,
    /// argon2id lanes.
    pub argon2_lanes: u32,
}

/// `[login.oidc.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcLogin {
    /// Its name in addresses and logs.
    pub name: String,
    /// What the button says.
    pub title: String,
    /// Byte for byte as its tokens carry it.
    pub issuer: String,
    /// It is on this machine and asked over plain HTTP: for tests and development.
    pub plain_http: bool,
    /// The name it knows this gateway by.
    pub client_id: String,
    /// How this gateway proves that name.
    pub client_auth: OidcClientAuth,
    /// What ID tokens may be signed with.
    pub algorithms: Vec<String>,
    /// What is asked for; holds `openid`.
    pub scopes: Vec<String>,
    /// Every e-mail address counts as verified, unless the provider denies it.
    pub trust_email: bool,
    /// Where roles or groups stand.
    pub roles_claim: Option<String>,
    /// From a value there to a declared role. Where it is empty, a value is the role of its name.
    pub role_map: BTreeMap<String, String>,
    /// What applications are told as the user's name.
    pub user_claim: String,
    /// What stands before it.
    pub user_prefix: String,
    /// Domains of verified e-mail addresses that may sign in, lower-case; with `allow_emails` empty: anybody.
    pub allow_domains: Vec<String>,
    /// Verified e-mail addresses that may sign in, lower-case.
    pub allow_emails: Vec<String>,
    /// Values of `roles_claim` of which one is needed; empty: none is.
    pub allow_groups: Vec<String>,
    /// PEM of the CAs; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// PEM chain and key shown to the provider.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Whether its front-channel logout is heard.
    pub frontchannel_logout: bool,
    /// Whether signing out here leads on to signing out there.
    pub logout_there: bool,
}

/// `login.oidc.NAME.client_auth`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OidcClientAuth {
    /// `client_secret_basic`.
    Basic(Secret),
    /// `client_secret_post`.
    Post(Secret),
    /// `private_key_jwt`: PEM of the key, and its name at the provider.
    Key(PathBuf, Option<String>),
    /// `tls_client_auth`: the certificate of `[tls]`.
    Certificate,
}

/// `[upstream.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// Its servers, at least one.
    pub servers: Vec<UpstreamServer>,
    /// How long a connect may take.
    pub connect_timeout: Duration,
    /// How long until the response head.
    pub response_timeout: Duration,
    /// Failures in a row after which a server is left alone; 0: never.
    pub eject_after: u32,
    /// For how long at first.
    pub eject_for: Duration,
    /// Whom to trust and how to show oneself, for servers over TLS.
    pub tls: UpstreamTls,
    /// Whether servers over TLS are offered HTTP/2.
    pub http2: bool,
    /// Active checks.
    pub health: Option<HealthCheck>,
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamServer {
    /// Where, and what is spoken with it.
    pub address: ServerAddress,
    /// Its share relative to its neighbours'.
    pub weight: u32,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddress {
    /// `http://`, `https://` or `h2c://` with `HOST:PORT`.
    Tcp {
        /// What is spoken.
        scheme: Scheme,
        /// Name or address, as written (IPv6 in brackets).
        host: String,
        /// Port.
        port: u16,
    },
    /// `unix:PATH`: HTTP/1.1 over a Unix socket.
    Unix(PathBuf),
    /// `builtin:whoami`: the small application that shows what it received, inside this process.
    Whoami,
}

/// What is spoken with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 or HTTP/1.1 over TLS, as the server chooses.
    Https,
    /// HTTP/2 in clear text.
    H2c,
}

/// `[upstream.NAME.tls]`, and what [`RedisStore`] has of the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// PEM of the CAs; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// PEM chain and key shown to the server.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name its certificate has to be for; `None`: the host of the address.
    pub server_name: Option<String>,
}

/// `[upstream.NAME.health]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked for.
    pub path: String,
    /// How often.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Good answers in a row that make a server well.
    pub healthy_after: u32,
    /// Bad ones that make it unwell.
    pub unhealthy_after: u32,
}

/// `[limits]`. Each default is a named constant with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open client connections.
    pub connections: usize,
    /// Of them, of one address that is no trusted proxy.
    pub connections_per_address: usize,
    /// TLS handshake.
    pub handshake_timeout: Duration,
    /// From the first byte of a head to its last; also how long a kept-alive HTTP/1.1 connection may idle.
    pub header_timeout: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub stall_timeout: Duration,
    /// How long a client may send nothing of a body that it began.
    pub body_timeout: Duration,
    /// Bytes of a request head.
    pub header_bytes: usize,
    /// Header lines of a request.
    pub header_count: usize,
    /// HTTP/2 streams at once on a connection.
    pub streams: u32,
    /// Bytes of a request body; `None`: unbounded (bodies are streamed, so memory is not at stake).
    pub body_bytes: Option<u64>,
    /// Verified tokens kept in local memory.
    pub tokens: u64,
    /// The session store's answer.
    pub store_timeout: Duration,
    /// From SIGTERM to the end.
    pub drain_timeout: Duration,
    /// Idle upstream connections kept per server and worker.
    pub idle_upstream_connections: usize,
    /// How long such a connection may idle; below what applications keep (Node: 5 s).
    pub upstream_idle_timeout: Duration,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// JSON or text; `None`: text on a terminal, JSON elsewhere.
    pub format: Option<LogFormat>,
    /// Write a line per request.
    pub access: bool,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For eyes.
    Text,
}
