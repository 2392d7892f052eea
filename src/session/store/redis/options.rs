//! What the shared store is opened with. One decision: plain values, read and checked by others; the same seeds mean a server,
//! its sentinels or a cluster by [`Deployment`] alone. Knows nothing of files.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// With whose rights commands are sent. Its `Debug` form tells no password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// The ACL user; `None`: the server's default one.
    pub user: Option<String>,
    /// The password; `None`: the server asks for none.
    pub password: Option<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What the addresses are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deployment {
    /// One server.
    Single,
    /// Sentinels, which are asked for the master.
    Sentinel {
        /// The name they know it by.
        master: String,
        /// Their own login.
        login: Login,
    },
    /// Some nodes of a cluster, which tell the others.
    Cluster,
}

/// Whom to trust and how to show oneself, at this moment.
pub trait Trusted: fmt::Debug + Send + Sync {
    /// Asked for every connection that is opened.
    fn config(&self) -> Arc<ClientConfig>;
}

/// The same for good.
impl Trusted for Arc<ClientConfig> {
    fn config(&self) -> Arc<ClientConfig> {
        self.clone()
    }
}

/// TLS to every server of the deployment.
#[derive(Clone, Debug)]
pub struct Tls {
    /// See [`Trusted`].
    pub config: Arc<dyn Trusted>,
    /// The name that certificates have to be for; `None`: the host of each address.
    pub name: Option<ServerName<'static>>,
}

/// Everything.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// At least one.
    pub addresses: Vec<Address>,
    /// What they are.
    pub deployment: Deployment,
    /// The numbered database; 0 in a cluster.
    pub database: u32,
    /// See [`Login`].
    pub login: Login,
    /// `None`: in clear text.
    pub tls: Option<Tls>,
    /// What every key begins with.
    pub prefix: String,
    /// What the gateways of a store have to have in common, by name: words that give no secret away. Empty: whatever the others have.
    pub alike: Vec<(&'static str, String)>,
    /// Into how many parts keys are divided: a power of two up to 128. A part is the unit that a cluster places.
    pub partitions: u8,
    /// How long a connection may take to stand, TLS and sign-in included.
    pub connect_timeout: Duration,
    /// How long an answer may take.
    pub reply_timeout: Duration,
}

impl RedisOptions {
    /// [`RedisOptions::alike`], as the store keeps it.
    pub(super) fn likeness(&self) -> String {
        let words: Vec<String> = self.alike.iter().map(|(name, value)| format!("{name}={value}")).collect();
        words.join(" ")
    }

    /// The names of what is otherwise in a likeness that was found.
    pub(super) fn unlike(&self, found: &str) -> String {
        let differs = |(name, value): &&(&str, String)| !found.split(' ').any(|word| word == format!("{name}={value}"));
        let names: Vec<String> = self.alike.iter().filter(differs).map(|(name, _)| format!("`{name}`")).collect();
        names.join(" and ")
    }
}
