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

/// How many clients there is room for among so many, and what is to be said where `limits.connections` are more.
pub(super) fn clients(config: &Config, workers: usize, descriptors: u64) -> (usize, Option<String>) {
    let asked = config.limits.connections;
    let places = |is_there: bool, places: usize| if is_there { places as u64 } else { 0 };
    let reserve = OWN
        + OF_A_WORKER * workers as u64
        + places(config.server.admin.is_some(), admin::PLACES)
        + places(config.server.redirect_http.is_some(), server::PLAIN_PLACES);
    // One for a client, one for the application.
    let room = usize::try_from(descriptors.saturating_sub(reserve) / 2).unwrap_or(usize::MAX).max(1).min(asked);
    // A hundred fewer of ten thousand are not worth a word.
    let told = (descriptors < 2 * asked as u64).then(|| {
        let needed = 2 * asked as u64 + reserve;
        format!(
            "{asked} connections may need {needed} descriptors, and this process gets {descriptors}: {room} are accepted \
             (LimitNOFILE= of systemd, `ulimit -n`)"
        )
    });
    (room, told)
}
