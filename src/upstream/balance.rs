//! Which server gets the next request. One decision: the one with the fewest requests on their way for its weight; servers
//! that are unwell get one only when no other is left, because a wrong suspicion must not take an application down, and one that was
//! left alone gets one at a time at first.
//! Knows nothing of connections.

use std::sync::Arc;

use super::Server;

/// The server for the next request, none of those tried already; `turn` breaks ties evenly.
pub(super) fn choose(servers: &[Arc<Server>], tried: &[usize], turn: usize) -> Option<usize> {
    if let [_] = servers {
        return tried.is_empty().then_some(0);
    }
    let untried = |index: &usize| !tried.contains(index);
    let order = (0..servers.len()).map(|index| (turn + index) % servers.len());
    let least = |indices: &mut dyn Iterator<Item = usize>| indices.min_by(|one, other| load(servers, *one, *other));
    let is_open = |index: &usize| servers[*index].is_available() && !servers[*index].is_found_out();
    while let Some(chosen) = least(&mut order.clone().filter(untried).filter(is_open)) {
        if servers[chosen].finds_out() {
            return Some(chosen);
        }
    }
    least(&mut order.filter(untried))
}

/// (requests + 1) / weight, compared without division.
fn load(servers: &[Arc<Server>], one: usize, other: usize) -> std::cmp::Ordering {
    let (one, other) = (&servers[one], &servers[other]);
    let left = (one.in_flight() as u64 + 1) * u64::from(other.weight);
    let right = (other.in_flight() as u64 + 1) * u64::from(one.weight);
    left.cmp(&right)
}

#[cfg(test)]
mod tests {
    use super::choose;
    use crate::upstream::{Address, Ejection, Protocol, Server};
    use std::sync::Arc;
    use std::time::Duration;

    fn servers(weights: &[u32]) -> Vec<Arc<Server>> {
        let server = |weight: &u32| Arc::new(Server::new(Address::Tcp("a".into(), 1), Protocol::Http1, *weight));
        weights.iter().map(server).collect()
    }

    #[test]
    fn requests_are_spread_by_weight() {
        let servers = servers(&[1, 3]);
        let mut running = Vec::new();
        for turn in 0..400 {
            let chosen = choose(&servers, &[], turn).unwrap();
            running.push(servers[chosen].begin());
        }
        assert_eq!((servers[0].in_flight(), servers[1].in_flight()), (100, 300));
        drop(running);
        assert_eq!(servers[0].in_flight(), 0);
    }

    #[test]
    fn one_request_finds_out_whether_a_server_is_there_again() {
        let servers = servers(&[1, 1]);
        let ejection = Ejection { after: 1, first: Duration::ZERO };
        let others = || (0..9).all(|turn| choose(&servers, &[], turn) == Some(1));
        servers[0].begin().failed(ejection);
        let _busy = [(); 4].map(|()| servers[1].begin());
        for answered in [false, true] {
            // Alone for less than a millisecond.
            while !servers[0].is_available() {}
            assert_eq!(choose(&servers, &[], 0), Some(0));
            let finds_out = servers[0].begin();
            assert!(others(), "while it does");
            assert_eq!(choose(&servers, &[1], 0), Some(0), "the last resort");
            if answered { finds_out.answered() } else { finds_out.failed(ejection) }
        }
        assert!(!others(), "it answered");
    }

    #[test]
    fn a_failing_server_is_left_alone_until_nothing_else_is_left() {
        let servers = servers(&[1, 1]);
        let ejection = Ejection { after: 2, first: Duration::from_secs(60) };
        servers[0].begin().failed(ejection);
        assert!(servers[0].is_available(), "once is no reason");
        servers[0].begin().failed(ejection);
        assert!((0..4).all(|turn| choose(&servers, &[], turn) == Some(1)));
        assert_eq!(choose(&servers, &[1], 0), Some(0), "the last resort");
        assert_eq!(choose(&servers, &[0, 1], 0), None);
        servers[1].set_well(false);
        assert!(choose(&servers, &[], 0).is_some(), "all unwell: all are asked");
        servers[0].set_well(true);
        assert!((0..4).all(|turn| choose(&servers, &[], turn) == Some(0)), "found well by a check");
    }
}
