//! Reading the configuration again. One decision: what is exchanged is made whole beside what runs, and then takes its place; whatever
//! is wrong with it – a file that is missing, a key that only a start can change – leaves everything as it was, for half of a
//! new configuration is one that nobody wrote. Knows nothing of signals and files' names.

use std::sync::{Arc, PoisonError};

use crate::config::{Config, Limits, LocalLogin, Log, Server, SessionConfig, SessionMode, Signing, Store};
use crate::proxy::{AuditLine, audit};

use super::check::warn;
use super::files::certificate_files;
use super::oidc::providers;
use super::runtime::{Before, runtime};
use super::upstreams::whoami;
use super::{Gateway, StartError};

/// Why the configuration is what it was.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// These keys differ, and count from a start.
    #[error("needs a restart: {}", .0.join(", "))]
    Restart(Vec<&'static str>),
    /// A file that is missing or wrong.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The gateway stops.
    #[error("the gateway is stopping")]
    Stopping,
}

impl Gateway {
    /// Put another configuration in the place of the one that runs. Requests under way go on under the one that they began with, and
    /// every request that begins after this has returned is under the new one. Sessions, and what is held against whoever guesses
    /// passwords or tokens, are not touched. What is open – WebSockets, streams – is judged by the new one: what it does not
    /// allow carries nothing any more.
    ///
    /// # Errors
    /// [`ReloadError`]; then nothing has changed.
    pub fn reload(&self, config: Arc<Config>) -> Result<(), ReloadError> {
        let done = self.exchange(config);
        let now = self.lasting.clock.now();
        match &done {
            Ok(()) => {
                self.reloads.done(now);
                let line = AuditLine::of_operator("config_reloaded", "configuration", now);
                audit(&*self.lasting.records, &line);
            }
            Err(ReloadError::Restart(_)) => self.refused("needs_restart"),
            Err(ReloadError::Start(_)) => self.refused("cannot_start"),
            Err(ReloadError::Stopping) => self.refused("stopping"),
        }
        done
    }

    /// What was to be read again is no configuration: it is counted and written down as one that was refused.
    pub fn refuse_reload(&self) {
        self.refused("no_configuration");
    }

    fn refused(&self, reason: &str) {
        self.reloads.refused();
        let line = AuditLine::of_operator("config_refused", "configuration", self.lasting.clock.now());
        audit(&*self.lasting.records, &AuditLine { reason: Some(reason), ..line });
    }

    fn exchange(&self, config: Arc<Config>) -> Result<(), ReloadError> {
        // Held throughout: of two at once the second one is compared with the first.
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(workers), Some(background)) = (&self.workers, &self.background) else {
            return Err(ReloadError::Stopping);
        };
        let keys = kept(&standing.config, &config);
        if !keys.is_empty() {
            return Err(ReloadError::Restart(keys));
        }
        let old = self.current.load();
        let login = old.login.with(providers(&config)?);
        let another = if standing.whoami.is_none() { whoami(&config)? } else { None };
        let whoami = standing.whoami.as_ref().or(another.as_ref());
        let before = Before { config: &standing.config, runtime: &old };
        let new = Arc::new(runtime(&config, &self.lasting, login, whoami, Some(before))?);
        let certificates = self.certificates.read(certificate_files(&config)).map_err(StartError::from)?;

        // From here on nothing fails.
        self.certificates.show(certificates);
        let attended = background.attend(&new);
        self.current.replace(new.clone());
        workers.renew(&new);
        standing.attended = attended;
        warn(&config, &new.login);
        standing.config = config;
        standing.whoami = standing.whoami.take().or(another);
        Ok(())
    }
}

/// The keys that differ and count from a start: what is bound, opened or handed to every connection then. Taken apart in full, so that
/// whoever adds a key has to say here whether it can be exchanged.
fn kept(old: &Config, new: &Config) -> Vec<&'static str> {
    let Config {
        server,
        session,
        local,
        signing,
        limits,
        log,
        // Exchanged.
        roles: _,
        tls: _,
        tokens: _,
        oidc: _,
        identity_headers: _,
        upstreams: _,
        routes: _,
        // Where it stands is nothing that counts.
        lines: _,
    } = old;
    let Log { format, access: _ } = log;
    let Signing { issuer, eddsa } = signing;
    let mut differ = of_server(server, &new.server);
    differ.extend(of_session(session, &new.session));
    differ.extend(of_login(local.as_ref(), new.local.as_ref()));
    differ.extend([
        ("signing.issuer", *issuer != new.signing.issuer),
        ("signing.algorithm", *eddsa != new.signing.eddsa),
        ("log.format", *format != new.log.format),
    ]);
    differ.extend(of_limits(limits, &new.limits));
    differ.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

type Differs = (&'static str, bool);

fn of_server(old: &Server, new: &Server) -> Vec<Differs> {
    let Server { listen, workers, redirect_http, admin, trusted_proxies: _, proxy_protocol, forwarded: _ } = old;
    let address = |admin: &Option<crate::config::AdminListener>| admin.as_ref().map(|admin| admin.address);
    let token = |admin: &Option<crate::config::AdminListener>| admin.as_ref().and_then(|admin| admin.token.clone());
    vec![
        ("server.listen", *listen != new.listen),
        ("server.workers", *workers != new.workers),
        ("server.redirect_http", *redirect_http != new.redirect_http),
        ("server.admin", address(admin) != address(&new.admin)),
        ("server.admin_token", token(admin) != token(&new.admin)),
        ("server.proxy_protocol", *proxy_protocol != new.proxy_protocol),
    ]
}

fn of_session(old: &SessionConfig, new: &SessionConfig) -> Vec<Differs> {
    let SessionConfig { mode, idle_timeout, max_age, cookie, store, secret, max_sessions, cache_entries, grace } = old;
    let same_mode = matches!(
        (mode, &new.mode),
        (SessionMode::Server, SessionMode::Server) | (SessionMode::Jwt(_), SessionMode::Jwt(_))
    );
    let same_store = match (store, &new.store) {
        (Store::Redis(one), Store::Redis(other)) => {
            let place =
                |store: &crate::config::RedisStore| (store.addresses.clone(), store.database, store.tls.is_some());
            place(one) == place(other)
        }
        (one, other) => one == other,
    };
    vec![
        ("session.mode", !same_mode),
        ("session.jwt", same_mode && *mode != new.mode),
        ("session.idle_timeout", *idle_timeout != new.idle_timeout),
        ("session.max_age", *max_age != new.max_age),
        ("session.cookie", *cookie != new.cookie),
        ("session.store", !same_store),
        ("session.redis", same_store && *store != new.store),
        ("session.secret", *secret != new.secret),
        ("session.max_sessions", *max_sessions != new.max_sessions),
        ("session.cache_entries", *cache_entries != new.cache_entries),
        ("session.on_outage", *grace != new.grace),
    ]
}

fn of_login(old: Option<&LocalLogin>, new: Option<&LocalLogin>) -> Vec<Differs> {
    let (Some(old), Some(new)) = (old, new) else {
        return vec![("login.local", old.is_some() != new.is_some())];
    };
    // The first user is made by a start, where there is no file.
    let LocalLogin { users, demo_user: _, argon2_memory_kib, argon2_passes, argon2_lanes } = old;
    vec![
        ("login.local.users", *users != new.users),
        ("login.local.argon2_memory_kib", *argon2_memory_kib != new.argon2_memory_kib),
        ("login.local.argon2_passes", *argon2_passes != new.argon2_passes),
        ("login.local.argon2_lanes", *argon2_lanes != new.argon2_lanes),
    ]
}

fn of_limits(old: &Limits, new: &Limits) -> Vec<Differs> {
    let Limits {
        connections,
        connections_per_address,
        handshake_timeout,
        header_timeout,
        stall_timeout,
        header_bytes,
        header_count,
        streams,
        store_timeout,
        drain_timeout,
        // Exchanged: what a request is held to, and what is kept of applications' connections.
        body_timeout: _,
        body_bytes: _,
        tokens: _,
        idle_upstream_connections: _,
        upstream_idle_timeout: _,
    } = old;
    vec![
        ("limits.connections", *connections != new.connections),
        ("limits.connections_per_address", *connections_per_address != new.connections_per_address),
        ("limits.handshake_timeout", *handshake_timeout != new.handshake_timeout),
        ("limits.header_timeout", *header_timeout != new.header_timeout),
        ("limits.stall_timeout", *stall_timeout != new.stall_timeout),
        ("limits.header_bytes", *header_bytes != new.header_bytes),
        ("limits.header_count", *header_count != new.header_count),
        ("limits.streams", *streams != new.streams),
        ("limits.store_timeout", *store_timeout != new.store_timeout),
        ("limits.drain_timeout", *drain_timeout != new.drain_timeout),
    ]
}
