//! What can be wrong with the shared store. One decision: what a person has to mend is told with what to set; what passes by
//! itself is told from it by [`RedisError::is_passing`]. Knows nothing of sessions.

use std::io;
use std::time::Duration;

use super::options::{Address, RedisOptions};

/// The schema of keys and scripts that this program speaks.
pub(super) const SCHEMA: u32 = 1;

/// What a server refuses for a while, and takes again by itself or when somebody has seen to *it*: a gateway that is started
/// meanwhile serves what needs no store, as one does that has been running.
const PASSING: [&str; 9] =
    ["LOADING", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "NOREPLICAS", "OOM", "MISCONF", "READONLY", "BUSY"];

/// Why there is no connection, or no answer.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// No connection.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where.
        address: Address,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Whoever answers there is not who is trusted.
    #[error("{address} shows a certificate that does not hold; check `ca` and `server_name`")]
    Untrusted {
        /// Where.
        address: Address,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// It wants to know who we are.
    #[error("{0} asks for a certificate of the gateway; write `certificate` and `private_key`")]
    Unshown(Address),
    /// Nothing came in time.
    #[error("{0} did not answer in time")]
    Late(Address),
    /// Neither a DNS name nor an address, so no certificate can be for it.
    #[error("`{0}` is not a name that a certificate can be for; write `server_name`")]
    Name(String),
    /// It answered with a refusal, or not at all any more.
    #[error("{address} {}", if source.is_io_error() { "ended the connection" } else { "refused" })]
    Refused {
        /// Who.
        address: Address,
        /// What it said.
        #[source]
        source: redis::RedisError,
    },
    /// The connection is being made anew; what it failed on was logged.
    #[error("the store is not reachable at present")]
    Down,
    /// The store's thread is gone.
    #[error("the store was closed")]
    Closed,
    /// Sentinels know no master.
    #[error("no sentinel told where the master `{0}` is; check `sentinel` and the addresses")]
    NoMaster(String, #[source] Option<Box<RedisError>>),
    /// No node of the cluster told where a slot is.
    #[error("no node of the cluster told where keys are; is it complete?")]
    NoSlot(#[source] Option<Box<RedisError>>),
    /// Writes to it would be refused or lost.
    #[error("{0} is a replica; name its master, or let sentinels tell it (`sentinel`)")]
    Replica(Address),
    /// It was demoted, or is another one, since the link to it was opened.
    #[error("{0} is no longer the master that it was")]
    Demoted(Address),
    /// It may forget a revocation whenever memory is short.
    #[error(
        "{address} evicts keys when memory is short (maxmemory-policy {policy}); set `maxmemory-policy noeviction`"
    )]
    Evicting {
        /// Who.
        address: Address,
        /// Its policy.
        policy: String,
    },
    /// Too old.
    #[error("{address} is of version {version}; 6.2 or later is needed")]
    Version {
        /// Who.
        address: Address,
        /// Its version.
        version: String,
    },
    /// One server where a cluster was named, or the other way round.
    #[error("{0} is {1}")]
    Mode(Address, &'static str),
    /// Keys of another program version.
    #[error(
        "the store holds sessions of schema {found}, this program speaks {SCHEMA}; use another `prefix`, or that version"
    )]
    Schema {
        /// What stands there.
        found: String,
    },
    /// Another number of parts.
    #[error("the store was divided into {found} parts, the configuration says {wanted}; set `partitions = {found}`")]
    Partitions {
        /// What stands there.
        found: String,
        /// What was asked for.
        wanted: u8,
    },
    /// Other nodes live by other times.
    #[error(
        "the gateways that run on it serve sessions for {found:?} without hearing of the store, this one for {wanted:?} (a lease \
         and what `on_outage` allows); write the same `on_outage` for all. To change it, stop all others first; one that was \
         killed counts for {counts:?} more"
    )]
    Rules {
        /// How long they serve.
        found: Duration,
        /// How long this one would.
        wanted: Duration,
        /// How long one of them counts that was silent.
        counts: Duration,
    },
    /// Other gateways run on it that would share no session with this one.
    #[error(
        "the gateways that run on it have another {what}: whoever is signed in at one would not be at the other; write the same for \
         all, or another `site`. To change it, stop all others first; one that was killed counts for {counts:?} more"
    )]
    Unlike {
        /// What, by the names of its keys.
        what: String,
        /// How long one of them counts that was silent.
        counts: Duration,
    },
    /// An answer of a shape that no script of ours gives.
    #[error("the store answered something unexpected")]
    Shape(#[source] Option<redis::ParsingError>),
    /// No thread or no runtime.
    #[error("the system gave no thread")]
    Thread(#[source] io::Error),
}

impl RedisError {
    /// What a server said after this code.
    pub(super) fn said(&self, code: &str) -> Option<String> {
        let RedisError::Refused { source, .. } = self else { return None };
        // Of one command, or of several.
        let all = source.clone().into_server_errors();
        let several = all.iter().flat_map(|all| all.iter()).find(|(_, said)| said.code() == code);
        let said = several.and_then(|(_, said)| said.details().map(str::to_owned));
        let one = || (source.code() == Some(code)).then(|| source.detail().unwrap_or_default().to_owned());
        said.or_else(one).map(|said| said.trim().to_owned())
    }

    /// This, or what a script meant by it that found other gateways.
    pub(super) fn judged(self, options: &RedisOptions) -> RedisError {
        let said = self.said("UNLIKE");
        let found = said.as_ref().and_then(|said| said.split_once(' '));
        match found.and_then(|(silence, alike)| Some((silence.parse().ok()?, alike))) {
            Some((silence, alike)) => {
                RedisError::Unlike { what: options.unlike(alike), counts: Duration::from_millis(silence) }
            }
            None => self,
        }
    }

    /// Whether it may pass without anybody changing a setting: then a start goes on, and the store is asked again.
    pub fn is_passing(&self) -> bool {
        match self {
            RedisError::Connect { .. } | RedisError::Late(_) | RedisError::Down | RedisError::Demoted(_) => true,
            // A server that loads its data, a sentinel that has not heard yet, a master whose replica is away, or that is full.
            RedisError::Refused { source, .. } => {
                source.is_io_error() || source.is_timeout() || source.code().is_some_and(|code| PASSING.contains(&code))
            }
            RedisError::NoMaster(_, Some(why)) | RedisError::NoSlot(Some(why)) => why.is_passing(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, RedisError};
    use crate::causes::line;
    use std::io;

    /// Whoever reads `refused` looks for a password.
    #[test]
    fn a_connection_that_breaks_is_no_refusal() {
        let said = |source: redis::RedisError| {
            let address = Address { host: "10.0.0.5".to_owned(), port: 6379 };
            line(&RedisError::Refused { address, source })
        };
        let broken = redis::RedisError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(said(broken).starts_with("10.0.0.5:6379 ended the connection: "));
        let denied = redis::RedisError::from((redis::ErrorKind::AuthenticationFailed, "no"));
        assert!(said(denied).starts_with("10.0.0.5:6379 refused: "));
    }
}
