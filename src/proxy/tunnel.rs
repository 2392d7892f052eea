//! A WebSocket under way. One decision: it belongs to the session that opened it and ends with it, and whoever is cut is told
//! by a close frame, which can only stand between two frames; so the boundaries of the application's frames are followed,
//! and nothing else of them is read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, timeout};

use crate::session::OpenExchange;

use super::Worker;
use super::busy::Exchange;
use super::watch::Tie;

/// Bytes a tunnel may hold in each direction.
const BUFFER: usize = 16 * 1024;
/// What a frame that is under way gets to reach its end.
const FRAME_GRACE: Duration = Duration::from_secs(1);

/// Close codes (RFC 6455 §7.4.1): the gateway or the session goes away; the session may not go on.
const GOING_AWAY: u16 = 1001;
const POLICY: u16 = 1008;

/// Carry bytes both ways until one side is done, the session ends, nothing moves for `idle`, or the gateway stops.
pub fn open(
    worker: &Arc<Worker>,
    (client, application): (OnUpgrade, OnUpgrade),
    tie: Option<Tie>,
    idle: Option<Duration>,
    busy: Exchange,
) {
    // Registered before the client is told.
    let exchange = tie.as_ref().map(Tie::open);
    if matches!(exchange, Some(None)) {
        return;
    }
    let exchange = exchange.flatten();
    let left = tie.as_ref().map(|tie| tie.left(worker.runtime.clock.now()));
    let counts = tie.is_some_and(|tie| !tie.passive);
    let stop = worker.stop.clone();
    worker.tunnels.spawn(async move {
        let _busy = busy;
        let (client, application) = match tokio::try_join!(client, application) {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "a tunnel did not come to stand"),
        };
        let moved = Moved::new();
        let end = async {
            tokio::select! {
                () = async { match &exchange { Some(exchange) => exchange.ended().await, None => std::future::pending().await } } => {
                    End { code: POLICY, why: "its session ended" }
                }
                () = async { match left { Some(left) => tokio::time::sleep(left).await, None => std::future::pending().await } } => {
                    End { code: POLICY, why: "the absolute end of its session" }
                }
                () = moved.stands_still(idle) => End { code: GOING_AWAY, why: "nothing moved" },
                () = stop.cancelled() => End { code: GOING_AWAY, why: "the gateway stops" },
            }
        };
        if let Some(end) = carry(client, application, (&moved, exchange.as_ref().filter(|_| counts)), end).await {
            tracing::debug!(why = end.why, "a tunnel was cut");
        }
    });
}

/// Why a tunnel is cut, and what the client is told.
#[derive(Clone, Copy)]
struct End {
    code: u16,
    why: &'static str,
}

/// When something moved last.
struct Moved {
    began: Instant,
    last: AtomicU64,
}

impl Moved {
    fn new() -> Moved {
        Moved { began: Instant::now(), last: AtomicU64::new(0) }
    }

    fn mark(&self) {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    async fn stands_still(&self, idle: Option<Duration>) {
        let Some(idle) = idle else { return std::future::pending().await };
        loop {
            let until = self.began + Duration::from_millis(self.last.load(Ordering::Relaxed)) + idle;
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

type Reader = ReadHalf<TokioIo<Upgraded>>;
type Writer = WriteHalf<TokioIo<Upgraded>>;

async fn carry(
    client: Upgraded,
    application: Upgraded,
    (moved, used): (&Moved, Option<&OpenExchange>),
    end: impl Future<Output = End>,
) -> Option<End> {
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
    let (mut from_application, mut to_application) = tokio::io::split(TokioIo::new(application));
    let (mut frames, mut theirs) = (Frames::default(), Frames::default());
    let ended = {
        let up = pump(&mut from_client, &mut to_application, moved, |bytes| {
            // What a person sends counts as use of the session; the pongs of their browser do not.
            theirs.advance(bytes);
            if let Some(exchange) = used.filter(|_| std::mem::take(&mut theirs.data)) {
                exchange.used();
            }
        });
        let down = pump(&mut from_application, &mut to_client, moved, |bytes| frames.advance(bytes));
        let both = async { tokio::try_join!(up, down) };
        tokio::select! {
            biased;
            end = end => Some(end),
            _ = both => None,
        }
    };
    let end = ended?;
    // A write that was cut short is a frame cut short: the client's TLS record layer never saw the rest of it.
    let told = timeout(FRAME_GRACE, finish(&mut from_application, &mut to_client, &mut frames, end.code)).await;
    if !matches!(told, Ok(Ok(()))) {
        tracing::debug!("a tunnel was cut within a frame");
    }
    let _ = timeout(FRAME_GRACE, to_client.shutdown()).await;
    Some(end)
}

/// Copy until the end of one direction.
async fn pump(from: &mut Reader, to: &mut Writer, moved: &Moved, mut seen: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        moved.mark();
        let mut rest = &buffer[..read];
        // Marked as it goes out, so that at any moment it is known what the client has.
        while !rest.is_empty() {
            let written = to.write(rest).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            seen(&rest[..written]);
            rest = &rest[written..];
        }
    }
}

/// Let the frame under way end, and close.
async fn finish(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    frames: &mut Frames,
    code: u16,
) -> io::Result<()> {
    let mut byte = vec![0; BUFFER];
    while let Some(missing) = frames.missing() {
        let wanted = usize::try_from(missing).unwrap_or(BUFFER).clamp(1, BUFFER);
        let read = from.read(&mut byte[..wanted]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all(&byte[..read]).await?;
        frames.advance(&byte[..read]);
    }
    // FIN and opcode 8, two bytes, not masked: a server's frame (RFC 6455 §5.1, §5.5.1).
    let code = code.to_be_bytes();
    to.write_all(&[0x88, 2, code[0], code[1]]).await?;
    to.flush().await
}

/// Where in a stream of frames one is (RFC 6455 §5.2).
#[derive(Default)]
struct Frames {
    head: Vec<u8>,
    left: u64,
    /// A frame began that is no control frame (RFC 6455 §5.5).
    data: bool,
}

impl Frames {
    fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= taken as u64;
                bytes = &bytes[taken..];
                continue;
            }
            self.head.push(bytes[0]);
            bytes = &bytes[1..];
            if self.head.len() == self.head_length() {
                self.left = self.payload_length();
                self.data |= self.head[0] & 0x08 == 0;
                self.head.clear();
            }
        }
    }

    /// Bytes that are certainly missing to the next boundary; `None` at one.
    fn missing(&self) -> Option<u64> {
        match (self.head.is_empty(), self.left) {
            (true, 0) => None,
            (true, left) => Some(left),
            (false, _) => Some(self.head_length().saturating_sub(self.head.len()).max(1) as u64),
        }
    }

    fn head_length(&self) -> usize {
        let Some(second) = self.head.get(1) else { return 2 };
        let length = match second & 0x7f {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        // A server must not mask (§5.1); one that does is followed all the same.
        length + if second & 0x80 == 0 { 0 } else { 4 }
    }

    fn payload_length(&self) -> u64 {
        let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        match self.head[1] & 0x7f {
            126 => number(&self.head[2..4]),
            127 => number(&self.head[2..10]),
            short => u64::from(short),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Frames;

    #[test]
    fn boundaries_are_found_however_the_bytes_are_cut() {
        let mut stream = vec![0x81, 2, b'h', b'i', 0x82, 126, 1, 0];
        stream.extend([7; 256]);
        stream.extend([0x89, 0, 0x82, 127, 0, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3, 0x81, 0x81, 1, 2, 3, 4, b'x']);
        let ends = [4, 264, 266, 279, 286];
        for piece in [1, 2, 3, 7, 300] {
            let mut frames = Frames::default();
            let mut at = 0;
            for bytes in stream.chunks(piece) {
                frames.advance(bytes);
                at += bytes.len();
                assert_eq!(frames.missing().is_none(), ends.contains(&at), "at {at} in pieces of {piece}");
            }
        }
    }
}
