//! What happened below requests, counted. One decision: plain numbers that only grow, so that whoever exports them needs no
//! lock and no library here. Knows nothing of who reads them.

use crate::counter::Counter;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Counts since the start.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: Counter),+ }

        impl Counters {
            /// Each by its name.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get())),+]
            }
        }
    };
}

counters! {
    /// Connections accepted.
    accepted,
    /// Refused because `limits.connections` were open.
    refused_full,
    /// Refused because `limits.connections_per_address` of one address were open.
    refused_address,
    /// Accepts that the system failed.
    accept_failed,
    /// TLS handshakes that failed.
    handshake_failed,
    /// TLS handshakes, and PROXY headers before them, that took longer than `limits.handshake_timeout`.
    handshake_timeout,
    /// Connections of listed proxies that did not begin with a PROXY header.
    proxy_header_malformed,
    /// HTTP/2 connections closed because nothing was asked for `limits.header_timeout`.
    idle_closed,
    /// Connections that ended in an error: broken, malformed, head or reader too slow.
    broken,
    /// Requests that came without TLS.
    plain,
}
