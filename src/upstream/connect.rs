//! A connection to a server, up to the protocol that is spoken on it. One decision: names are resolved at every connect, so
//! that an application which moved is found again. Knows nothing of requests.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use crate::reach;
use crate::socket::Socket;

use super::server::{Address, Protocol, Server};

/// A server that vanished without a word is noticed by the kernel within about a minute.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Bytes to and from a server.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection on which nothing was said yet.
pub(super) struct Connected {
    pub(super) io: Box<dyn Io>,
    pub(super) http2: bool,
}

/// Connect; `http1` where HTTP/2 would not do.
pub(super) async fn connect(server: &Server, http1: bool) -> io::Result<Connected> {
    let stream = match &server.address {
        Address::Unix(path) => {
            let io = Box::new(UnixStream::connect(path).await?);
            return Ok(Connected { io, http2: matches!(server.protocol, Protocol::H2c) });
        }
        Address::Tcp(host, port) => reach::connect((host.trim_start_matches('[').trim_end_matches(']'), *port)).await?,
    };
    // Without it a small request waits for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(KEEPALIVE));
    match &server.protocol {
        Protocol::Http1 => Ok(Connected { io: Box::new(Socket::from(stream)), http2: false }),
        Protocol::H2c => Ok(Connected { io: Box::new(Socket::from(stream)), http2: true }),
        Protocol::Tls(tls) => {
            let config = if http1 { &tls.http1 } else { &tls.any };
            let connector = tokio_rustls::TlsConnector::from(config.clone());
            let stream = connector.connect(tls.name.clone(), Socket::from(stream)).await?;
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            Ok(Connected { io: Box::new(stream), http2 })
        }
    }
}
