//! Listening, TLS, workers, draining.
//!
//! One decision: a worker is a thread with a current-thread runtime, a listener of its own (`SO_REUSEPORT`) and its own
//! upstream connections; a request never changes threads. Knows nothing of what a request means.

mod accept;
mod addresses;
mod certificates;
mod counters;
mod gather;
mod head_timer;
mod one;
mod pace;
mod plain;
mod proxy_protocol;
mod stream;
pub mod tls;
mod two;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

pub use certificates::{CertificateFiles, Certificates, Flaw, Shown, Wrong};
pub use counters::Counters;
pub use plain::PLACES as PLAIN_PLACES;
#[cfg(any(test, fuzzing))]
pub(crate) use proxy_protocol::read as read_proxy_header;
pub use worker::{Hurry, Listening, Open, Workers};

/// Bounds on connections, as plain values.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open at once, over all workers.
    pub connections: usize,
    /// Open at once of one address.
    pub connections_per_address: usize,
    /// TLS handshake.
    pub handshake_timeout: Duration,
    /// A request head, and the idle time of a kept-alive HTTP/1.1 connection.
    pub header_timeout: Duration,
    /// Bytes of a head.
    pub header_bytes: usize,
    /// Lines of a head.
    pub header_count: usize,
    /// A client that takes nothing of what is sent to it.
    pub stall_timeout: Duration,
    /// HTTP/2 streams at once.
    pub streams: u32,
    /// From the call to stop to the end.
    pub drain_timeout: Duration,
}

/// What a client has to shake hands and ask, and between two questions, before somebody else may have its place.
const PLACE_KEPT: Duration = Duration::from_secs(10);
/// Of those whose place it has, so many may be on their way out: what the gateway keeps of descriptors for itself is twice as many.
const LEAVING: usize = 64;

/// After an accept that failed (out of descriptors, usually) others get the time to close theirs.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// A client that vanished without a word is noticed by the kernel within about two minutes.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// One listener per worker on the same address. Port 0 is chosen by the first and shared by the others.
///
/// # Errors
/// What the system says: address in use, not ours, no right to the port.
pub fn listen(address: SocketAddr, workers: usize) -> io::Result<Vec<std::net::TcpListener>> {
    if address.port() != 0 {
        // A second gateway of the same user would otherwise share the port unnoticed: half of the connections would meet
        // sessions and rules that are not theirs.
        bind(address, false)?;
    }
    let first = bind(address, true)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..workers {
        listeners.push(bind(address, true)?);
    }
    Ok(listeners)
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(shared)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // What is accepted here inherits these: three system calls less a connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A thread that serves.
pub(crate) struct Serving {
    pub(crate) listener: std::net::TcpListener,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    /// The listener that redirects, on one of the workers.
    pub(crate) plain: Option<std::net::TcpListener>,
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use socket2::SockRef;

    use super::{KEEPALIVE, listen};

    #[test]
    fn accepted_connections_inherit_what_their_listener_was_told() {
        let listener = listen(([127, 0, 0, 1], 0).into(), 1).unwrap().remove(0);
        listener.set_nonblocking(false).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
    }
}
