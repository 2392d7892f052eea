//! A connection to a server, up to the protocol that is spoken on it. One decision: names are resolved at every connect, so
//! that an application which moved is found again. Knows nothing of requests.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use crate::reach;
use crate::socket::Socket;

use super::server::{Address, Protocol, Server};
use super::sockets::Descriptor;

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

/// Connect; `http1` where HTTP/2 would not do. The descriptor is given back with the connection.
pub(super) async fn connect(server: &Server, http1: bool, descriptor: Option<Descriptor>) -> io::Result<Connected> {
    let stream = match &server.address {
        Address::Unix(path) => {
            let io = Box::new(Counted { io: UnixStream::connect(path).await?, _descriptor: descriptor });
            return Ok(Connected { io, http2: matches!(server.protocol, Protocol::H2c) });
        }
        Address::Tcp(host, port) => reach::connect((host.trim_start_matches('[').trim_end_matches(']'), *port)).await?,
    };
    // Without it a small request waits for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(KEEPALIVE));
    match &server.protocol {
        Protocol::Http1 | Protocol::H2c => {
            let io = Box::new(Counted { io: Socket::from(stream), _descriptor: descriptor });
            Ok(Connected { io, http2: matches!(server.protocol, Protocol::H2c) })
        }
        Protocol::Tls(tls) => {
            let config = if http1 { &tls.http1 } else { &tls.any };
            let connector = tokio_rustls::TlsConnector::from(config.clone());
            let stream = connector.connect(tls.name.clone(), Socket::from(stream)).await?;
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            Ok(Connected { io: Box::new(Counted { io: stream, _descriptor: descriptor }), http2 })
        }
    }
}

/// A connection that is counted as long as it is open.
struct Counted<T> {
    io: T,
    _descriptor: Option<Descriptor>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
