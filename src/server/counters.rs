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
    /// Refused because `limits.connections` were open, or as many as there are descriptors for, and none of them idle.
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
    /// Connections that asked for nothing and were closed for others, because `limits.connections` were open.
    idle_given_up,
    /// HTTP/2 connections closed because nothing was asked for `limits.header_timeout`.
    idle_closed,
    /// HTTP/1.1 connections that gave back what they need only while they are used.
    rested,
    /// HTTP/1.1 connections whose next head did not come within `limits.header_timeout`.
    header_timeout,
    /// Connections, and single streams, reset because the client took nothing of its answer for `limits.stall_timeout`.
    reader_stalled,
    /// HTTP/2 connections closed because they flooded the gateway with frames that cost more than they ask for.
    flooding,
    /// Connections that ended in another error: broken, malformed.
    broken,
    /// Requests that came without TLS.
    plain,
    /// Connections to the listener for those that asked for nothing and were closed for another one.
    plain_idle_closed,
    /// Connections to the operator's listener that asked for nothing and were closed: too long, or for another one.
    admin_idle_closed,
    /// Connections to the operator's listener that found every place being used.
    admin_refused,
}
