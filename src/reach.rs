//! The first of several ways that leads somewhere: addresses of one name, servers that all know the same. One decision: a way on which
//! nothing is heard has a moment for itself, and then the next one is tried beside it; a machine that is gone without a word holds
//! nobody up whom another one would have answered. Knows nothing of what is said on the way.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};

/// What a way has for itself (RFC 8305 §5 recommends it).
const HEAD_START: Duration = Duration::from_millis(250);

/// What can be spoken on.
pub trait Line: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Line for S {}

/// A connection, with TLS over it or without. One type for where little is said: a library's way of speaking comes once for each.
pub type AnyLine = Box<dyn Line>;

/// Go all ways, one after the other as they fail or say nothing, until one leads somewhere. The others are given up.
///
/// # Errors
/// What became of each, in that order, where none does.
pub async fn first<T, E, F: Future<Output = Result<T, E>>>(ways: Vec<F>) -> Result<T, Vec<E>> {
    let (mut ways, mut gone, mut failed) = (ways.into_iter(), Vec::new(), Vec::new());
    loop {
        gone.extend(ways.next().map(Box::pin));
        if gone.is_empty() {
            return Err(failed);
        }
        let arrived = poll_fn(|context| any(&mut gone, context));
        let is_last = ways.len() == 0;
        match if is_last { Some(arrived.await) } else { tokio::time::timeout(HEAD_START, arrived).await.ok() } {
            Some(Ok(there)) => return Ok(there),
            Some(Err(error)) => failed.push(error),
            None => {}
        }
    }
}

/// The one that is there, out of all.
fn any<F: Future>(gone: &mut Vec<Pin<Box<F>>>, context: &mut Context<'_>) -> Poll<F::Output> {
    for n in 0..gone.len() {
        if let Poll::Ready(arrived) = gone[n].as_mut().poll(context) {
            drop(gone.swap_remove(n));
            return Poll::Ready(arrived);
        }
    }
    Poll::Pending
}

/// Connect to a name or an address. How long that may take is the caller's to say.
///
/// # Errors
/// That the name is not known, or how the last of its addresses failed.
pub async fn connect((host, port): (&str, u16)) -> io::Result<TcpStream> {
    to(in_turns(lookup_host((host, port)).await?.collect())).await
}

async fn to(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let nowhere = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    first(addresses.into_iter().map(TcpStream::connect).collect())
        .await
        .map_err(|mut errors| errors.pop().unwrap_or_else(nowhere))
}

/// As the resolver prefers them, one of each family in turn: one of the two may lead nowhere at all.
fn in_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let preferred = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (ones, others): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|one| one.is_ipv6() == preferred);
    let mut all: Vec<_> = ones.into_iter().enumerate().map(|(n, one)| (2 * n, one)).collect();
    all.extend(others.into_iter().enumerate().map(|(n, other)| (2 * n + 1, other)));
    all.sort_unstable_by_key(|(turn, _)| *turn);
    all.into_iter().map(|(_, address)| address).collect()
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::net::{SocketAddr, TcpListener};
    use std::time::Duration;

    use super::{first, in_turns, to};

    /// It must not take as long as the system's own patience.
    async fn soon<T>(work: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(20), work).await.expect("it takes too long")
    }

    /// Where nobody answers a word, as where a machine is gone: its queue is full, so that what comes is dropped.
    fn silent() -> (SocketAddr, impl Sized) {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        while let Ok(one) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            queued.push(one);
            assert!(queued.len() < 100, "it is never full");
        }
        (address, (listener, queued))
    }

    #[tokio::test]
    async fn an_address_that_says_nothing_holds_nobody_up() {
        let (live, (silent, _full)) = (TcpListener::bind("127.0.0.1:0").unwrap(), silent());
        let (live, refused) =
            (live.local_addr().unwrap(), TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        for addresses in [vec![silent, live], vec![silent, refused, silent, live], vec![refused, live], vec![live]] {
            assert_eq!(soon(to(addresses)).await.unwrap().peer_addr().unwrap(), live);
        }
        assert_eq!(to(vec![refused]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        assert_eq!(to(vec![]).await.unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn the_first_that_arrives_is_taken_and_every_failure_told() {
        let go = async |way: u8| match way {
            0 => pending().await,
            way if way % 2 == 0 => Ok(way),
            way => Err(way),
        };
        assert_eq!(soon(first([0, 1, 0, 3, 4, 6].map(go).into())).await, Ok(4));
        assert_eq!(soon(first([1, 3, 5].map(go).into())).await, Err(vec![1, 3, 5]));
        assert_eq!(soon(first([].map(go).into())).await, Err(vec![]));
    }

    #[test]
    fn families_take_turns() {
        let of = |list: &str| list.split(' ').map(|one| one.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let six = of("[::1]:1 [::2]:1 [::3]:1 1.1.1.1:1 1.1.1.2:1");
        assert_eq!(in_turns(six), of("[::1]:1 1.1.1.1:1 [::2]:1 1.1.1.2:1 [::3]:1"));
        assert_eq!(in_turns(of("1.1.1.1:1 [::1]:1 [::2]:1")), of("1.1.1.1:1 [::1]:1 [::2]:1"));
        assert_eq!(in_turns(Vec::new()), Vec::new());
    }
}
