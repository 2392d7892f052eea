//! What a server says of itself, and whether sessions may be entrusted to it. One decision: a server that could lose a
//! revocation by its settings is refused before anything is asked of it. Knows nothing of sessions.

use crate::session::shared::Term;

use super::connect::Connection;
use super::error::RedisError;
use super::options::{Deployment, RedisOptions};

/// Scripts that write what depends on the time (effects replication), and XADD MINID.
const LEAST_VERSION: (u32, u32) = (6, 2);

/// From one INFO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Names this history of writes; a promoted replica gets another one.
    pub(super) term: Term,
    /// Whether writes are expected to reach a replica: one is connected, or the server is told to want one.
    pub(super) replicas: bool,
}

/// Ask and judge.
pub(super) async fn examine(connection: &Connection, options: &RedisOptions) -> Result<Facts, RedisError> {
    let info: String = connection.ask(&redis::cmd("INFO")).await?;
    let address = || connection.address().clone();
    if field(&info, "role") != Some("master") {
        return Err(RedisError::Replica(address()));
    }
    let version = field(&info, "redis_version").unwrap_or_default();
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < LEAST_VERSION {
        return Err(RedisError::Version { address: address(), version: version.to_owned() });
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
    Ok(Facts { term: term(&info).ok_or(RedisError::Shape(None))?, replicas })
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
