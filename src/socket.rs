//! A TCP connection, as both sides of the gateway use it. One decision: it is moved by the cheapest calls there are. What is one piece
//! goes out with `send`, which costs the kernel less than the gathering `writev` that HTTP and TLS libraries always ask for; and the
//! system is called in line, because the C library makes each call one that a thread can be cancelled in, for two locked steps.
//! Knows nothing of what is sent.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A connected TCP socket.
#[derive(Debug)]
pub struct Socket(TcpStream);

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Socket {
        Socket(stream)
    }
}

impl AsRef<TcpStream> for Socket {
    fn as_ref(&self) -> &TcpStream {
        &self.0
    }
}

impl Socket {
    /// Some of `wanted` bytes, as `call` moves them. Fewer than that say that the system has no more of them, or no more room: it is
    /// not asked once more to learn that, as tokio does not.
    fn step(
        &self,
        interest: Interest,
        wanted: usize,
        call: impl FnOnce(&TcpStream) -> rustix::io::Result<usize>,
    ) -> io::Result<usize> {
        let mut moved = None;
        let tried = self.0.try_io(interest, || {
            let now = call(&self.0)?;
            moved = Some(now);
            // By this tokio learns it, in the same step: between two of them more may come, which would never be told.
            if (1..wanted).contains(&now) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        moved.map_or_else(|| tried.map(|()| 0), Ok)
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buffer.initialized().len() < buffer.capacity() {
            // What was never written is only read into by who is trusted with that.
            return Pin::new(&mut self.0).poll_read(cx, buffer);
        }
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            let room = buffer.initialize_unfilled();
            let wanted = room.len();
            match self.step(Interest::READABLE, wanted, |socket| Ok(recv(socket, room, RecvFlags::empty())?.1)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(|read| buffer.advance(read))),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            // A peer that is gone is an error, not a signal, whoever called this.
            match self.step(Interest::WRITABLE, bytes.len(), |socket| send(socket, bytes, SendFlags::NOSIGNAL)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut filled = slices.iter().filter(|slice| !slice.is_empty());
        match (filled.next(), filled.next()) {
            (Some(only), None) => self.poll_write(cx, only),
            _ => Pin::new(&mut self.0).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::Socket;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// More than the system keeps, both ways, in pieces of every size: whoever waits is told that there is more, or room, each time.
    #[tokio::test]
    async fn everything_comes_through_and_then_the_end() {
        const BYTES: usize = 8 << 20;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut here = Socket::from(listener.accept().await.unwrap().0);
        let echo = tokio::spawn(async move {
            let (mut from, mut to) = there.into_split();
            tokio::io::copy(&mut from, &mut to).await
        });
        let sent: Vec<u8> = (0..BYTES).map(|at| (at * 31 / 7) as u8).collect();
        let (mut from, mut to) = tokio::io::split(&mut here);
        let written = async {
            for piece in sent.chunks(70_001) {
                to.write_all(piece).await.unwrap();
            }
            to.shutdown().await.unwrap();
        };
        let read = async {
            let (mut read, mut room, mut turn) = (Vec::new(), vec![0; 65_536], 0);
            loop {
                turn += 1;
                // Into room that was written to before, and into room that was not.
                let some = match turn % 3 {
                    0 => from.read_buf(&mut read).await.unwrap(),
                    by => {
                        let some = from.read(&mut room[..by * 30_000]).await.unwrap();
                        read.extend_from_slice(&room[..some]);
                        some
                    }
                };
                if some == 0 {
                    return read;
                }
            }
        };
        let both = async { tokio::join!(written, read).1 };
        let read = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
        assert!(read == sent, "{} bytes", read.len());
        assert_eq!(echo.await.unwrap().unwrap(), BYTES as u64);
    }
}
