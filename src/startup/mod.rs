//! From a configuration to a running gateway. One decision: this is the only stage that can fail for reasons outside the
//! text, and the only file that knows both `config` and the live layers; it hands them plain values.

mod background;
mod check;
mod descriptors;
mod files;
mod oidc;
mod redis;
mod reload;
mod runtime;
mod secrets;
mod store_tls;
mod tokens;
pub mod transfer;
mod upstreams;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::DropGuard;

use crate::admin::{Admin, Check, Draining, Listener, Reloads, Socket, TokenError};
use crate::authn::{Carrier, CookieName};
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, Store};
use crate::login::{self, LocalUsers, Login, People};
use crate::proxy::{Current, Records, Runtime};
use crate::server::{self, Certificates, Counters, Hurry, Listening, Workers, tls};
use crate::session::coherence::Refused;
use crate::session::store::{OpenError, RedisError};
use crate::session::{CookieCodec, KeyError, Lifetimes, SessionKeys, SessionStore, Sessions, Settings, StoreError};
use crate::token::ring::RingError;
use crate::trust::ClientTlsError;
use crate::upstream::Sockets;
use crate::whoami::Whoami;

use check::warn;
pub use check::{Flaw, check};
pub use descriptors::raise_descriptors;
pub use files::operator_token;
pub use reload::ReloadError;

use background::Background;
use descriptors::Shares;
use files::{FirstUser, admin_token, argon2, load_certificates, load_keys, make_demo, open_store};
pub use oidc::Finding;
use oidc::{oidc, providers};
use runtime::{Lasting, runtime};
use tokens::{own_tokens, ring};
use upstreams::whoami;

/// What a gateway is started from.
pub struct Setup {
    /// The configuration.
    pub config: Arc<Config>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where access and audit lines go.
    pub records: Arc<dyn Records>,
    /// An embedding program's own store, in place of the one that the configuration names.
    pub store: Option<Arc<dyn SessionStore>>,
}

/// Why it cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificate or key.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The store.
    #[error("session.store: {path}")]
    Store {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// What was revoked before could not be learnt.
    #[error("session.store")]
    Recall(#[source] StoreError),
    /// A shared store that others use in another way.
    #[error("session.store")]
    Refused(#[source] Refused),
    /// A shared store that must not be used.
    #[error("session.store: {address}")]
    Redis {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: RedisError,
    },
    /// TLS towards it.
    #[error("session.redis")]
    RedisTls(#[source] ClientTlsError),
    /// The keys of cookies.
    #[error("session.secret")]
    Keys(#[from] KeyError),
    /// A secret's source.
    #[error("{key}: {from} cannot be read")]
    Secret {
        /// Where the configuration names it.
        key: &'static str,
        /// The file or variable.
        from: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The operator's token.
    #[error("server.admin_token")]
    AdminToken(#[from] TokenError),
    /// TLS towards an upstream.
    #[error("upstream.{upstream}.tls")]
    UpstreamTls {
        /// Which.
        upstream: String,
        /// Why.
        #[source]
        source: ClientTlsError,
    },
    /// Keys of an issuer.
    #[error("token: keys of {issuer}")]
    TokenKeys {
        /// Whose.
        issuer: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Our own keys of tokens.
    #[error("keys of tokens")]
    Ring(#[from] RingError),
    /// An OpenID provider's secret, key or certificates.
    #[error("login.oidc.{login}")]
    Oidc {
        /// Which.
        login: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Signatures cannot be relied upon.
    #[error("token: {0}")]
    SelfTest(&'static str),
    /// The user file.
    #[error(transparent)]
    Users(#[from] login::UsersError),
    /// A folder.
    #[error("{path}: cannot be made")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The address.
    #[error("server: cannot listen on {address}{}", rights(.address, .source))]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A thread or a runtime.
    #[error("the system gave no thread")]
    Thread(#[source] io::Error),
}

/// What a plain user lacks for a port of the system's.
fn rights(address: &SocketAddr, source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied if address.port() < 1024 => {
            " (a port below 1024 needs CAP_NET_BIND_SERVICE, as packaging/portcullis.service gives it)"
        }
        _ => "",
    }
}

/// A running gateway. Dropping it stops it.
pub struct Gateway {
    // Stopped in this order: nobody asks for a session any more when the last touches are written, and the operator's
    // listener tells of the drain until it is over.
    workers: Option<Workers>,
    admin: Option<Listener>,
    draining: Draining,
    hurry: Hurry,
    background: Option<Background>,
    demo: Option<Demo>,
    lasting: Lasting,
    current: Arc<Current>,
    certificates: Arc<Certificates>,
    reloads: Arc<Reloads>,
    standing: Mutex<Standing>,
}

/// What is exchanged with the configuration, beside the runtime.
struct Standing {
    config: Arc<Config>,
    /// Keeps up what the runtime has learnt; ends with it.
    attended: DropGuard,
    whoami: Option<Whoami>,
}

/// The demonstration user that was made on this start.
#[derive(Clone, Debug)]
pub struct Demo {
    /// Its name.
    pub user: String,
    /// Its password, known nowhere else.
    pub password: String,
}

/// How long a start waits for a shared store.
const SETTLE: Duration = Duration::from_secs(2);

/// Start it.
///
/// # Errors
/// [`StartError`]; nothing is left running.
pub fn start(setup: Setup) -> Result<Gateway, StartError> {
    let Setup { config, clock, records, store } = setup;
    let certificates = load_certificates(&config)?;
    let tls = tls::server_config(certificates.clone())?;
    let keys = load_keys(&config)?;
    let store = store.map_or_else(|| open_store(&config, || Ok(keys.clone())), Ok)?;
    let first = config.local.as_ref().map(|local| make_demo(local, &config)).transpose()?.flatten();

    let sessions = open_sessions(&config, &keys, store, clock.now())?;
    let users = config.local.as_ref().map(|local| LocalUsers::open(&local.users)).transpose()?.map(Arc::new);
    let tokens_of_sessions = Arc::new(login::oidc::Cache::default());
    let directory = Arc::new(People::new(users.clone(), tokens_of_sessions.clone()));
    let socket = config.server.admin.as_ref().map(|admin| bind_admin(admin.address)).transpose()?;
    let ring = wait(ring(&config, &keys, sessions.clone(), clock.now()))?;
    let oidc = oidc(&config, tokens_of_sessions, &keys)?;
    let cookie = CookieName::new(config.session.cookie.clone());
    let own = own_tokens(&config, &keys, &sessions, ring.as_ref(), &clock);
    let carrier = Carrier::new(sessions.clone(), directory, cookie, own);
    let login =
        Login::new(login_settings(&config), users, oidc, sessions.clone(), carrier.clone(), &keys, clock.clone())?;
    let whoami = whoami(&config)?;
    let Shares { clients, applications, doubt } =
        descriptors::shares(&config, worker_count(&config), descriptors::now());
    if let Some(doubt) = doubt {
        tracing::warn!("limits.connections: {doubt}");
    }
    let (traffic, sockets) = (Arc::default(), Sockets::new(applications));
    let lasting = Lasting { sessions, carrier, ring, records, traffic, sockets, clock: clock.clone() };
    let runtime = Arc::new(runtime(&config, &lasting, login, whoami.as_ref(), None)?);
    warn(&config, &runtime.login);
    let current = Current::new(runtime.clone());
    let hurry = Hurry::default();
    let background = Background::start(&lasting, current.clone(), certificates.clone(), hurry.clone())
        .map_err(StartError::Thread)?;
    let attended = background.attend(&runtime);
    settle(&lasting.sessions)?;
    let workers = Workers::start(&listening(&config), &tls, &current, &limits(&config, clients), &hurry)
        .map_err(|(address, source)| StartError::Listen { address, source })?;
    let (draining, reloads) = (Draining::default(), Arc::new(Reloads::new(clock.now())));
    let admin = socket.map(|socket| {
        let admin = Admin {
            sessions: lasting.sessions.clone(),
            current: current.clone(),
            reloads: reloads.clone(),
            counters: workers.counters().clone(),
            certificates: certificates.clone(),
            open: workers.open(),
            clock,
            checks: checks(&lasting.sessions, &runtime),
            token: admin_token(&config)?,
            guarded: config.server.admin.as_ref().is_some_and(|admin| !admin.address.ip().is_loopback()),
            draining: draining.clone(),
        };
        Listener::start(socket, admin).map_err(StartError::Thread)
    });
    let admin = admin.transpose()?;
    let standing = Mutex::new(Standing { config, attended, whoami });
    let (workers, background) = (Some(workers), Some(background));
    let demo = first.and_then(FirstUser::stays);
    Ok(Gateway { workers, admin, draining, hurry, background, demo, lasting, current, certificates, reloads, standing })
}

fn open_sessions(
    config: &Config,
    keys: &SessionKeys,
    store: Arc<dyn SessionStore>,
    now: Timestamp,
) -> Result<Arc<Sessions>, StartError> {
    let settings = Settings {
        lifetimes: Lifetimes::new(config.session.idle_timeout, config.session.max_age),
        cache_entries: config.session.cache_entries,
        max_sessions: config.session.max_sessions,
        store_timeout: config.limits.store_timeout,
    };
    let sessions = Sessions::lenient(store, CookieCodec::new(keys, site(config)), settings, config.session.grace);
    recall(&sessions, now)?;
    Ok(sessions)
}

/// Wait a moment until this node hears of revocations: who asks at once is not told 503. Where the store is away, it begins all
/// the same: public routes need none. Where others use it under other settings, it does not.
fn settle(sessions: &Sessions) -> Result<(), StartError> {
    let until = Instant::now() + SETTLE;
    while sessions.hears_all().is_err() && Instant::now() < until {
        if let Some(why) = sessions.refused() {
            return Err(StartError::Refused(why));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// What has to hold for requests to be answered.
fn checks(sessions: &Arc<Sessions>, runtime: &Runtime) -> Vec<Box<dyn Check>> {
    let mut checks: Vec<Box<dyn Check>> = vec![Box::new(sessions.clone())];
    checks.extend(runtime.ring.clone().map(|ring| Box::new(ring) as Box<dyn Check>));
    checks
}

fn bind_admin(address: SocketAddr) -> Result<Socket, StartError> {
    Socket::bind(address).map_err(|source| StartError::Listen { address, source })
}

/// What separates the sites of one secret.
fn site(config: &Config) -> &str {
    match &config.session.store {
        Store::Redis(store) => &store.site,
        Store::Memory | Store::Embedded(_) => "",
    }
}

/// Ask the OpenID providers for what a sign-in would need, and say what is wrong with it.
///
/// # Errors
/// [`StartError`]: a secret or key that cannot be used, or no thread to ask from.
pub fn check_online(config: &Config) -> Result<Vec<Finding>, StartError> {
    let providers = providers(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
    Ok(runtime.block_on(oidc::ask_all(&providers)))
}

impl Gateway {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.workers.as_ref().map_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)), Workers::address)
    }

    /// The demonstration user, where this start made one.
    pub fn demo(&self) -> Option<&Demo> {
        self.demo.as_ref()
    }

    /// Where plain HTTP is redirected.
    pub fn plain_address(&self) -> Option<SocketAddr> {
        self.workers.as_ref().and_then(Workers::plain_address)
    }

    /// Where the operator's listener is.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Listener::address)
    }

    /// What happened below requests.
    pub fn counters(&self) -> Option<Arc<Counters>> {
        self.workers.as_ref().map(|workers| workers.counters().clone())
    }

    /// The live sessions, for an embedding program and for tests.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.lasting.sessions
    }

    /// What makes a stop, one that is under way as well, wait no longer for what is open.
    pub fn hurry(&self) -> Hurry {
        self.hurry.clone()
    }

    /// Let requests finish, write what is queued, and end.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.draining.begin();
        drop(self.workers.take());
        drop(self.admin.take());
        drop(self.background.take());
        drop(self.standing.get_mut().unwrap_or_else(PoisonError::into_inner).whoami.take());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.end();
    }
}

/// What was revoked before this start, learnt before anything is answered. On a thread of its own: whoever starts the gateway may
/// be running tasks already.
fn recall(sessions: &Sessions, now: Timestamp) -> Result<(), StartError> {
    wait(async { sessions.recall(now).await.map_err(StartError::Recall) })
}

/// Wait for the store, on a thread of its own: an embedding program may start the gateway from within a runtime.
fn wait<T: Send>(ask: impl Future<Output = Result<T, StartError>> + Send) -> Result<T, StartError> {
    let ask = || {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        tokio.block_on(ask)
    };
    let asked = std::thread::scope(|scope| scope.spawn(ask).join());
    asked.unwrap_or_else(|_| Err(StartError::Recall(StoreError::Unavailable("the store panicked".into()))))
}

fn login_settings(config: &Config) -> login::Settings {
    login::Settings {
        cookie: config.session.cookie.clone(),
        argon2: config.local.as_ref().map_or_else(login::Argon2Params::default, argon2),
    }
}

fn listening(config: &Config) -> Listening {
    Listening {
        address: config.server.listen,
        plain: config.server.redirect_http,
        workers: worker_count(config),
        proxy_protocol: config.server.proxy_protocol,
    }
}

fn worker_count(config: &Config) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    config.server.workers.map_or_else(cores, std::num::NonZero::get)
}

fn limits(config: &Config, connections: usize) -> server::Limits {
    server::Limits {
        connections,
        connections_per_address: config.limits.connections_per_address,
        handshake_timeout: config.limits.handshake_timeout,
        header_timeout: config.limits.header_timeout,
        stall_timeout: config.limits.stall_timeout,
        header_bytes: config.limits.header_bytes,
        header_count: config.limits.header_count,
        streams: config.limits.streams,
        drain_timeout: config.limits.drain_timeout,
    }
}
