//! From the configuration of a shared store to the store. One decision: files and variables are read here, once but for
//! certificates; a store that is away does not keep the gateway from starting, one that must not be used does. Knows nothing of sessions.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{RedisDeployment, RedisLogin, RedisStore, SessionMode};
use crate::session::SessionKeys;
use crate::session::store::{Address, Deployment, Login, Redis, RedisError, RedisOptions, Tls};
use crate::trust::{ClientTlsFiles, server_name};

use super::StartError;
use super::files::read_secret;
use super::store_tls::StoreTls;

/// Open it, for gateways with these keys and in this mode.
pub(super) fn open_redis(
    store: &RedisStore,
    reply_timeout: Duration,
    keys: &SessionKeys,
    mode: &SessionMode,
) -> Result<Redis, StartError> {
    let failed = |source: RedisError| StartError::Redis { address: addresses(store), source };
    let mode = match mode {
        SessionMode::Server => "server",
        SessionMode::Jwt(_) => "jwt",
    };
    // A key for this alone: who reads it in the store knows as much of the secret as whoever has a cookie.
    let secret = keys.derive_for("portcullis/alike/1", &store.site);
    let secret: String = secret[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let alike = vec![("secret", secret), ("mode", mode.to_owned())];
    Redis::open(RedisOptions { alike, ..redis_options(store, reply_timeout)? }).map_err(failed)
}

/// What it would be opened with: everything that can be wrong on this machine.
pub(super) fn redis_options(store: &RedisStore, reply_timeout: Duration) -> Result<RedisOptions, StartError> {
    let deployment = match &store.deployment {
        RedisDeployment::Single => Deployment::Single,
        RedisDeployment::Sentinel { master, login: theirs } => {
            Deployment::Sentinel { master: master.clone(), login: login(theirs, "session.redis.sentinel_password")? }
        }
        RedisDeployment::Cluster => Deployment::Cluster,
    };
    Ok(RedisOptions {
        addresses: store.addresses.iter().map(|(host, port)| Address { host: host.clone(), port: *port }).collect(),
        deployment,
        database: store.database,
        login: login(&store.login, "session.redis.password")?,
        tls: tls(store)?,
        prefix: prefix(store),
        alike: Vec::new(),
        partitions: store.partitions,
        connect_timeout: store.connect_timeout,
        reply_timeout,
    })
}

/// What every key of a site begins with: whatever is listed, counted or revoked there is its own. No kind of key has a colon, so the
/// keys of the site without a name, which are what they were before there were any, are none of another's.
fn prefix(store: &RedisStore) -> String {
    let RedisStore { prefix, site, .. } = store;
    if site.is_empty() { prefix.clone() } else { format!("{prefix}{site}:") }
}

fn login(login: &RedisLogin, key: &'static str) -> Result<Login, StartError> {
    let password = login.password.as_ref().map(|secret| read_secret(key, secret)).transpose()?;
    let password = password.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Login { user: login.user.clone(), password })
}

fn tls(store: &RedisStore) -> Result<Option<Tls>, StartError> {
    let Some(tls) = &store.tls else { return Ok(None) };
    let files = ClientTlsFiles { ca: tls.ca.clone(), identity: tls.identity.clone() };
    let config = StoreTls::read(files).map_err(StartError::RedisTls)?;
    let name = tls.server_name.as_ref().map(|name| server_name(name)).transpose().map_err(StartError::RedisTls)?;
    Ok(Some(Tls { config: Arc::new(config), name }))
}

fn addresses(store: &RedisStore) -> String {
    let told: Vec<String> = store.addresses.iter().map(|(host, port)| format!("{host}:{port}")).collect();
    told.join(",")
}
