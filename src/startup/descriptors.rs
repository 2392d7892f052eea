//! File descriptors: how many this process may open, and how many of them clients get. One decision: clients alone are held back, each
//! counted with the connection that is opened for it, so that the operator, the store and files always find a descriptor;
//! a gateway that accepts until there is none serves nobody and takes no order. Knows nothing of who opens one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::admin;
use crate::config::Config;
use crate::server;

/// What the gateway needs for itself: runtimes, store, files, questions to providers and health checks …
const OWN: u64 = 128;
/// … and for each worker.
const OF_A_WORKER: u64 = 8;

/// Let this process open as many as it may ever. For a program, not for a library: it holds for everything in it.
pub fn raise_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Where the system refuses, what there is counts.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// How many it may open now.
pub(super) fn now() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many a start could open.
pub(super) fn at_most() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Who gets how many.
pub(super) struct Shares {
    pub(super) clients: usize,
    /// For the connections that are opened for clients: what these leave, one for each at least.
    pub(super) applications: usize,
    /// What is to be said where `limits.connections` are more.
    pub(super) doubt: Option<String>,
}

/// How many there is room for among so many.
pub(super) fn shares(config: &Config, workers: usize, descriptors: u64) -> Shares {
    let asked = config.limits.connections;
    let places = |is_there: bool, places: usize| if is_there { places as u64 } else { 0 };
    let reserve = OWN
        + OF_A_WORKER * workers as u64
        + places(config.server.admin.is_some(), admin::PLACES)
        + places(config.server.redirect_http.is_some(), server::PLAIN_PLACES);
    let both = usize::try_from(descriptors.saturating_sub(reserve)).unwrap_or(usize::MAX);
    // One for a client, one for the application.
    let room = (both / 2).max(1).min(asked);
    // A hundred fewer of ten thousand are not worth a word.
    let doubt = (descriptors < 2 * asked as u64).then(|| {
        let needed = 2 * asked as u64 + reserve;
        format!(
            "{asked} connections may need {needed} descriptors, and this process gets {descriptors}: {room} are accepted \
             (LimitNOFILE= of systemd, `ulimit -n`)"
        )
    });
    Shares { clients: room, applications: both.saturating_sub(room).max(1), doubt }
}
