//! The PROXY protocol of load balancers. One decision: it is read only from listed addresses and has to be there then, but for plain
//! HTTP; from anybody else the same bytes are a broken TLS handshake. Knows nothing of what the address is used for.

use std::io;
use std::net::SocketAddr;

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

/// HAProxy, "The PROXY protocol", §2.2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// §2.1: the longest line of version 1.
const LONGEST_LINE: usize = 107;
/// §2.2: addresses of Unix sockets take 216 bytes; what follows are notes that nobody here reads.
const LONGEST_BLOCK: usize = 2048;

/// Read the header, and not a byte more; `None` where it names nobody: the proxy speaks for itself (`LOCAL`, a health check), or
/// does not know for whom (`UNKNOWN`). Then the address of the connection stands (§2.1, §2.2).
///
/// # Errors
/// What the connection says, or that this is no PROXY header.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut head = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut head).await?;
    if head == SIGNATURE {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        head.extend_from_slice(&rest);
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        if length > LONGEST_BLOCK {
            return Err(malformed());
        }
        let at = head.len();
        head.resize(at + length, 0);
        stream.read_exact(&mut head[at..]).await?;
    } else if head.starts_with(b"PROXY ") {
        while !head.ends_with(b"\r\n") {
            if head.len() >= LONGEST_LINE {
                return Err(malformed());
            }
            head.push(stream.read_u8().await?);
        }
    } else {
        return Err(malformed());
    }
    let (header, length) = ProxyHeader::parse(&head, ParseConfig::default()).map_err(|_| malformed())?;
    if length != head.len() {
        return Err(malformed());
    }
    Ok(header.proxied_address().map(|addresses| addresses.source))
}

/// Whether a header comes next, where none has to: its sender hands it over in one piece (§2).
///
/// # Errors
/// What the connection says.
pub(super) async fn is_next(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; 6];
    let length = stream.peek(&mut first).await?;
    Ok(first[..length] == *b"PROXY " || first[..length] == SIGNATURE[..6])
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no PROXY header")
}

#[cfg(test)]
mod tests {
    use super::read;

    async fn source(bytes: &[u8]) -> Result<Option<String>, std::io::ErrorKind> {
        let mut rest = bytes;
        let read = read(&mut rest).await.map_err(|error| error.kind())?;
        assert_eq!(rest, b"next", "not a byte more");
        Ok(read.map(|address| address.to_string()))
    }

    #[tokio::test]
    async fn both_versions_are_read_and_nothing_else() {
        let one = b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\nnext";
        assert_eq!(source(one).await, Ok(Some("192.0.2.1:4711".to_owned())));
        assert_eq!(source(b"PROXY UNKNOWN\r\nnext").await, Ok(None));
        let mut two = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        two.extend([192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x67, 1, 0xbb]);
        two.extend(b"next");
        assert_eq!(source(&two).await, Ok(Some("192.0.2.1:4711".to_owned())));
        let mut local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0".to_vec();
        local.extend(b"next");
        assert_eq!(source(&local).await, Ok(None));
        let long = format!("PROXY TCP4 {}\r\nnext", "1".repeat(200));
        let huge = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff";
        for wrong in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PROXY TCP4 a b c d\r\nnext", long.as_bytes(), huge, b"PROXY TCP"]
        {
            assert!(source(wrong).await.is_err(), "{wrong:?}");
        }
    }
}
