//! What a server says of itself, and whether sessions may be entrusted to it. One decision: a server that could lose a
//! revocation by its settings is refused before anything is asked of it. Knows nothing of sessions.

use crate::session::shared::Term;

use super::connect::Connection;
use super::error::RedisError;
use super::options::{Deployment, RedisOptions};

/// Scripts that write what depends on the time (effects replication), and XADD MINID.
const LEAST_VERSION: (u32, u32) = (6, 2);
/// Valkey from here on asks nobody's rights for what its append-only file holds (valkey#3983).
const MENDED_VALKEY: (u32, u32) = (9, 1);

/// From one INFO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Names this history of writes; a promoted replica gets another one.
    pub(super) term: Term,
    /// Whether writes are expected to reach a replica: one is connected, or the server is told to want one.
    pub(super) replicas: bool,
    /// Whether it may pass over what scripts wrote when it loads its append-only file.
    pub(super) forgets: bool,
}

/// Ask and judge.
pub(super) async fn examine(connection: &Connection, options: &RedisOptions) -> Result<Facts, RedisError> {
    let info: String = connection.ask(&redis::cmd("INFO")).await?;
    let address = || connection.address().clone();
    if field(&info, "sentinel_masters").is_some() {
        return Err(RedisError::Mode(
            address(),
            "a sentinel; write `sentinel = \"…\"`, the name that it has for the master",
        ));
    }
    if field(&info, "role") != Some("master") {
        return Err(RedisError::Replica(address()));
    }
    if number(&info, "redis_version").unwrap_or_default() < LEAST_VERSION {
        let version = field(&info, "redis_version").unwrap_or_default().to_owned();
        return Err(RedisError::Version { address: address(), version });
    }
    let policy = field(&info, "maxmemory_policy").unwrap_or("noeviction");
    // Without a bound nothing is evicted whatever the policy says.
    if field(&info, "maxmemory").is_some_and(|bound| bound != "0") && policy != "noeviction" {
        return Err(RedisError::Evicting { address: address(), policy: policy.to_owned() });
    }
    let clustered = field(&info, "cluster_enabled") == Some("1");
    match (clustered, &options.deployment) {
        (true, Deployment::Single | Deployment::Sentinel { .. }) => {
            return Err(RedisError::Mode(address(), "a node of a cluster; write `cluster = true`"));
        }
        (false, Deployment::Cluster) => {
            return Err(RedisError::Mode(address(), "a server of its own; leave out `cluster`"));
        }
        _ => {}
    }
    // `min_slaves_good_slaves` is told only where `min-replicas-to-write` is set.
    let replicas = field(&info, "connected_slaves").is_some_and(|count| count != "0")
        || field(&info, "min_slaves_good_slaves").is_some();
    let forgets = forgets(connection, &info, &options.prefix).await;
    Ok(Facts { term: term(&info).ok_or(RedisError::Shape(None))?, replicas, forgets })
}

/// Redis 7.0 and later carry out the transactions of an append-only file, which is how the writes of a script stand there, with the
/// rights of the default user, and go on without those that it may not (redis#14541). Known too late from what is missing, so asked
/// before. A server that does not answer that, or not us, is not accused.
async fn forgets(connection: &Connection, info: &str, prefix: &str) -> bool {
    let is_mended = number(info, "valkey_version").is_some_and(|version| version >= MENDED_VALKEY);
    if field(info, "aof_enabled") != Some("1") || is_mended {
        return false;
    }
    let mut command = redis::cmd("ACL");
    command.arg("DRYRUN").arg("default").arg("SET").arg(format!("{prefix}meta")).arg("1");
    connection.ask::<String>(&command).await.is_ok_and(|said| said != "OK")
}

/// The first two numbers of a version.
fn number(info: &str, name: &str) -> Option<(u32, u32)> {
    let mut numbers = field(info, name)?.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    Some((numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)))
}

/// The replication id that a master says it writes under; `None` where it is no master.
pub(super) fn term(info: &str) -> Option<Term> {
    if field(info, "role") != Some("master") {
        return None;
    }
    let text = field(info, "master_replid")?;
    let mut id = [0; 20];
    if text.len() != 40 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(Term(id))
}

fn field<'i>(info: &'i str, name: &str) -> Option<&'i str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}
