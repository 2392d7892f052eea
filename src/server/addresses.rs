//! Connections by client address. One decision: one subscriber may hold a part of the connections and no more, so that a single
//! machine cannot keep all others out, by however many addresses of its IPv6 network; trusted proxies speak for many and are not
//! counted. Knows nothing of protocols.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::budget::network;

/// Open connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A place of one subscriber, given back by drop.
pub(super) struct Place {
    addresses: Addresses,
    network: IpAddr,
}

impl Addresses {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more; `None` where the subscriber has `most` already.
    pub(super) fn enter(&self, address: IpAddr, most: usize) -> Option<Place> {
        let network = network(address);
        let mut open = self.lock();
        let count = open.entry(network).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { addresses: self.clone(), network })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.addresses.lock();
        if let Some(count) = open.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Addresses;
    use std::net::{IpAddr, Ipv6Addr};

    /// CWE-770: whoever has one IPv6 address has 2^64 of them.
    #[test]
    fn a_network_of_ipv6_has_the_places_of_one_address() {
        let addresses = Addresses::default();
        let of = |n: u128| IpAddr::from(Ipv6Addr::from((0x2001_0db8_u128 << 96) + n));
        let mut held: Vec<_> = (0..3).map(|n| addresses.enter(of(n << 60), 3).unwrap()).collect();
        assert!(addresses.enter(of(7), 3).is_none());
        assert!(addresses.enter(of(1 << 64), 3).is_some(), "the network beside it");
        held.pop();
        assert!(addresses.enter(of(7), 3).is_some());
        held.clear();
        assert!(addresses.lock().is_empty());
    }
}
