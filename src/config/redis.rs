//! `session.store = "redis://…"` and `[session.redis]`. One decision: the address names servers, the table says what they are and
//! how to sign in; no password stands in either. Knows nothing of connections.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::session::secret;
use super::table::{At, Table};
use super::{RedisDeployment, RedisLogin, RedisStore, UpstreamTls};

/// On one's own network a connection stands in milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const LEAST: Duration = Duration::from_millis(10);
const MOST: Duration = Duration::from_secs(60);
/// Enough that three masters, or eight, get about as much each; few enough that a connection for each costs nothing.
const CLUSTER_PARTITIONS: u8 = 16;
const PREFIX: &str = "portcullis:";
/// What the registry assigned to Redis, and what sentinels listen on.
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;

const FORM: &str =
    "`redis://HOST:PORT/DB` or `rediss://…` (TLS); several hosts, separated by commas, for sentinels or a cluster";

/// The address as it stands in `store`, before it is known what it names.
pub(super) struct RedisUrl {
    secure: bool,
    hosts: Vec<(String, Option<u16>)>,
    database: u32,
    span: Range<usize>,
}

/// Read the address; a mistake is told at `store`.
pub(super) fn store_address(table: &Table<'_, '_>, value: &str, span: Range<usize>) -> Option<RedisUrl> {
    let rest = value.strip_prefix("rediss://").or_else(|| value.strip_prefix("redis://"));
    let Some(rest) = rest else {
        table.problem(&span, "store", format!("`{value}` is not an address; write {FORM}"));
        return None;
    };
    if rest.contains('@') {
        // Neither is the text repeated: it may hold a password.
        table.problem(
            &span,
            "store",
            "a user or password does not stand in the address; write them in [session.redis]",
        );
        return None;
    }
    let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
    let database = if database.is_empty() { Ok(0) } else { database.parse::<u32>() };
    let parsed: Option<Vec<_>> = hosts.split(',').map(host).collect();
    match (parsed, database) {
        (Some(hosts), Ok(database)) => Some(RedisUrl { secure: value.starts_with("rediss"), hosts, database, span }),
        _ => {
            table.problem(&span, "store", format!("`{value}` is not an address; write {FORM}"));
            None
        }
    }
}

fn host(text: &str) -> Option<(String, Option<u16>)> {
    let host = crate::policy::Host::parse(text).ok()?;
    let port = match text.get(host.as_str().len()..)?.strip_prefix(':') {
        Some(port) => Some(port.parse::<u16>().ok().filter(|port| *port != 0)?),
        None => None,
    };
    let bare = host.as_str().trim_start_matches('[').trim_end_matches(']');
    (!bare.is_empty()).then(|| (bare.to_owned(), port))
}

/// The table, for the address in `store`. Where that was `mistaken`, the table is still checked.
pub(super) fn redis_store(
    session: &mut Table<'_, '_>,
    url: Option<RedisUrl>,
    mistaken: bool,
    base: &Path,
) -> Option<RedisStore> {
    let table = session.table("redis");
    if let (Some(table), None, false) = (&table, &url, mistaken) {
        let span = table.span().clone();
        session.problem(&span, "redis", "has no meaning without `store = \"redis://…\"`");
    }
    let known = url.is_some();
    let url = url.unwrap_or(RedisUrl { secure: true, hosts: Vec::new(), database: 0, span: 0..0 });
    let mut found = RedisStore {
        addresses: Vec::new(),
        deployment: RedisDeployment::Single,
        database: url.database,
        login: RedisLogin::default(),
        tls: url.secure.then(UpstreamTls::default),
        prefix: PREFIX.to_owned(),
        site: String::new(),
        partitions: 1,
        connect_timeout: CONNECT_TIMEOUT,
    };
    let mut fine = true;
    if let Some(mut table) = table {
        fine = options(&mut table, &mut found, base).is_some();
        table.done();
    }
    let port = if matches!(found.deployment, RedisDeployment::Sentinel { .. }) { SENTINEL_PORT } else { PORT };
    found.addresses = url.hosts.into_iter().map(|(host, given)| (host, given.unwrap_or(port))).collect();
    if found.deployment == RedisDeployment::Single && found.addresses.len() > 1 {
        let wanted =
            "names several servers; say in [session.redis] what they are: `sentinel = \"NAME\"` or `cluster = true`";
        session.problem(&url.span, "store", wanted);
    }
    if found.deployment == RedisDeployment::Cluster && found.database != 0 {
        session.problem(&url.span, "store", "a cluster has one database only; leave the number out");
    }
    (fine && known).then_some(found)
}

/// `None` where something was found wrong.
fn options(table: &mut Table<'_, '_>, found: &mut RedisStore, base: &Path) -> Option<()> {
    let cluster = table.flag("cluster");
    let sentinel = table.text("sentinel", "the name that the sentinels know the master by");
    let sentinel_login = login(table, ["sentinel_user", "sentinel_password"], base);
    match (&sentinel, cluster.as_ref().is_some_and(|flag| flag.value)) {
        (Some(sentinel), true) => {
            found.deployment = RedisDeployment::Cluster;
            table.problem(
                &sentinel.span,
                "sentinel",
                "and `cluster` exclude each other; a cluster elects its masters itself",
            );
        }
        (Some(At { value, span, .. }), false) if value.is_empty() => {
            table.problem(span, "sentinel", "is empty; write the name that the sentinels know the master by");
        }
        (Some(At { value, .. }), false) => {
            let login = sentinel_login.clone().unwrap_or_default();
            found.deployment = RedisDeployment::Sentinel { master: value.clone(), login };
        }
        (None, true) => (found.deployment, found.partitions) = (RedisDeployment::Cluster, CLUSTER_PARTITIONS),
        (None, false) => {}
    }
    let span = table.span().clone();
    if sentinel.is_none() && sentinel_login.as_ref().is_some_and(|login| *login != RedisLogin::default()) {
        table.problem(&span, "sentinel", "missing; `sentinel_user` and `sentinel_password` are for sentinels");
    }
    let login = login(table, ["user", "password"], base);
    if login.as_ref().is_some_and(|login| login.user.is_some() && login.password.is_none()) {
        table.missing_beside("password", "a `user` needs one; write `password = { file = \"PATH\" }`");
    }
    let prefix = name(table, "prefix", 1).unwrap_or_else(|| PREFIX.to_owned());
    let site = name(table, "site", 0).unwrap_or_default();
    if let Some(At { value, span, .. }) = table.number_at("partitions", 1..129) {
        match u8::try_from(value) {
            Ok(parts) if parts.is_power_of_two() => found.partitions = parts,
            _ => table.problem(&span, "partitions", format!("`{value}` is not a power of two; write 1, 2, 4 … 128")),
        }
    }
    if let Some(timeout) = table.duration("connect_timeout", LEAST..MOST) {
        found.connect_timeout = timeout.value;
    }
    let tls = tls(table, found.tls.is_some(), base);
    (found.prefix, found.site) = (prefix, site);
    found.login = login?;
    found.tls = found.tls.is_some().then_some(tls);
    Some(())
}

/// A user and a password by these keys.
fn login(table: &mut Table<'_, '_>, [user, password]: [&'static str; 2], base: &Path) -> Option<RedisLogin> {
    let user = table.text(user, "the name of an ACL user").map(|at| at.value);
    Some(RedisLogin { user, password: secret(table, password, base)? })
}

/// A text that becomes a part of keys. Braces would change which part of a key a cluster looks at.
fn name(table: &mut Table<'_, '_>, key: &'static str, least: usize) -> Option<String> {
    let At { value, span, .. } = table.text(key, "a short text such as \"portcullis:\"")?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'/');
    if value.len() < least || value.len() > 64 || !value.bytes().all(plain) {
        let accepted = "write up to 64 letters, digits and - _ . : /";
        table.problem(&span, key, format!("`{value}` is not accepted; {accepted}"));
        return None;
    }
    Some(value)
}

fn tls(table: &mut Table<'_, '_>, secure: bool, base: &Path) -> UpstreamTls {
    let mut file = |key| -> Option<PathBuf> {
        let found = table.text(key, "the path of a PEM file");
        if let Some(at) = found.as_ref().filter(|_| !secure) {
            table.problem(&at.span, key, "the store is not reached over TLS; write `rediss://` or leave it out");
        }
        found.map(|at| base.join(at.value))
    };
    let (ca, certificate, key) = (file("ca"), file("certificate"), file("private_key"));
    if certificate.is_some() != key.is_some() {
        let lacking = if key.is_none() { "private_key" } else { "certificate" };
        table.missing_beside(lacking, "`certificate` and `private_key` go together");
    }
    let server_name = table.text("server_name", "a name such as \"redis.internal\"").map(|at| at.value);
    UpstreamTls { ca, identity: certificate.zip(key), server_name }
}
