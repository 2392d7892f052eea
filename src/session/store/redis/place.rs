//! Where the master of a partition is. One decision: it is asked for anew whenever a connection is made, from whoever answers
//! first; nothing about the deployment is remembered, so nothing can be out of date. Knows nothing of sessions.

use crate::reach;

use super::connect::Connection;
use super::error::RedisError;
use super::options::{Address, Deployment, Login, RedisOptions};

/// Who takes writes.
pub(super) struct Master {
    /// Where.
    pub(super) address: Address,
    /// Whether the deployment knows replicas of it, connected or not: one that is cut off now may be promoted soon, and what it
    /// was not told would be lost.
    pub(super) has_replicas: bool,
}

/// The server that takes writes to this key, as the deployment says.
pub(super) async fn master(options: &RedisOptions, key: &str) -> Result<Master, RedisError> {
    match &options.deployment {
        Deployment::Single => {
            let address = options.addresses.first().cloned().ok_or(RedisError::Down)?;
            Ok(Master { address, has_replicas: false })
        }
        Deployment::Sentinel { master, login } => by_sentinel(options, master, login).await,
        Deployment::Cluster => by_slot(options, key).await,
    }
}

/// The first answer of those who can say, beside one another: some of them may be gone without a word, and one of the others is enough.
async fn first_of(
    asked: impl Iterator<Item = impl Future<Output = Result<Option<Master>, RedisError>>>,
) -> Result<Master, Option<Box<RedisError>>> {
    let found = asked.map(async |asked| asked.await.map_err(Some).and_then(|found| found.ok_or(None)));
    reach::first(found.collect()).await.map_err(|errors| errors.into_iter().flatten().next_back().map(Box::new))
}

async fn by_sentinel(options: &RedisOptions, master: &str, login: &Login) -> Result<Master, RedisError> {
    let found = first_of(options.addresses.iter().map(|sentinel| ask_sentinel(options, sentinel, master, login))).await;
    found.map_err(|last| RedisError::NoMaster(master.to_owned(), last))
}

/// What a sentinel says of a master: where it is, and its replicas.
type Told = (Option<(String, u16)>, Vec<redis::Value>);

async fn ask_sentinel(
    options: &RedisOptions,
    sentinel: &Address,
    master: &str,
    login: &Login,
) -> Result<Option<Master>, RedisError> {
    let connection = Connection::open(options, sentinel, (login, 0), Some(options.reply_timeout)).await?;
    let mut commands = redis::pipe();
    commands.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    commands.cmd("SENTINEL").arg("REPLICAS").arg(master);
    let answers: Result<Told, RedisError> = connection.ask_all(&commands).await;
    match answers {
        Ok((found, replicas)) => {
            Ok(found.map(|(host, port)| Master { address: Address { host, port }, has_replicas: !replicas.is_empty() }))
        }
        // It watches no master of this name: another one may.
        Err(RedisError::Refused { source, .. })
            if source.detail().is_some_and(|said| said.contains("No such master")) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn by_slot(options: &RedisOptions, key: &str) -> Result<Master, RedisError> {
    let found = first_of(options.addresses.iter().map(|node| ask_node(options, node, key))).await;
    found.map_err(RedisError::NoSlot)
}

/// A range of slots: first, last, and its nodes, the master first; a node is its host, port and more that depends on the version.
type Slots = Vec<(u16, u16, Vec<redis::Value>)>;

async fn ask_node(options: &RedisOptions, node: &Address, key: &str) -> Result<Option<Master>, RedisError> {
    let connection = Connection::open(options, node, (&options.login, 0), Some(options.reply_timeout)).await?;
    let slot: u16 = connection.ask(redis::cmd("CLUSTER").arg("KEYSLOT").arg(key)).await?;
    let ranges: Vec<Vec<redis::Value>> = connection.ask(redis::cmd("CLUSTER").arg("SLOTS")).await?;
    let ranges: Slots = ranges.into_iter().filter_map(range).collect();
    let nodes = ranges.into_iter().find(|(first, last, _)| (*first..=*last).contains(&slot)).map(|(_, _, nodes)| nodes);
    let nodes = nodes.unwrap_or_default();
    let has_replicas = nodes.len() > 1;
    let Some(redis::Value::Array(master)) = nodes.into_iter().next() else { return Ok(None) };
    let mut parts = master.into_iter();
    let host: Option<String> = parts.next().and_then(|host| redis::from_redis_value(host).ok());
    let port = parts.next().and_then(|port| redis::from_redis_value::<u16>(port).ok());
    // A node that does not know its own address leaves it out: it is where we reached it.
    let host = host.filter(|host| !host.is_empty() && host != "?").unwrap_or_else(|| node.host.clone());
    Ok(port.map(|port| Master { address: Address { host, port }, has_replicas }))
}

fn range(entry: Vec<redis::Value>) -> Option<(u16, u16, Vec<redis::Value>)> {
    let mut parts = entry.into_iter();
    let first = redis::from_redis_value(parts.next()?).ok()?;
    let last = redis::from_redis_value(parts.next()?).ok()?;
    Some((first, last, parts.collect()))
}
