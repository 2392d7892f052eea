//! A WebSocket under way. One decision: it belongs to the session or token that opened it and ends with it, and whoever is cut is told
//! by a close frame, which can only stand between two frames; so the boundaries of the application's frames are followed,
//! and nothing else of them is read.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::task::task;
use crate::upstream::Switched;

use super::Worker;
use super::busy::Exchange;
use super::record::TunnelRecord;
use super::watch::Held;

/// Bytes a tunnel may hold in each direction.
const BUFFER: usize = 16 * 1024;
/// What a frame that is under way gets to reach its end. Where the session is over, hardly anything: what follows belongs to nobody.
const FRAME_GRACE: Duration = Duration::from_secs(1);
const FRAME_GRACE_AT_END: Duration = Duration::from_millis(50);

/// Close code (RFC 6455 §7.4.1): nothing moves, or the gateway goes away.
const GOING_AWAY: u16 = 1001;

/// Carry bytes both ways until one side is done, what it depends on ends, nothing moves for `idle`, the client takes nothing of what is
/// there for it for `stall`, or the gateway stops.
pub fn open(
    worker: &Worker,
    (client, application): (OnUpgrade, Switched),
    held: Held,
    (idle, stall): (Option<Duration>, Option<Duration>),
    (busy, record): (Exchange, TunnelRecord),
) {
    let stop = worker.stop.clone();
    worker.tunnels.spawn(task(async move {
        let _busy = busy;
        let client = match client.await {
            Ok(client) => client,
            Err(error) => return tracing::debug!(%error, "a tunnel did not come to stand"),
        };
        let moved = Moved::new(&record.bytes);
        let end = async {
            tokio::select! {
                over = held.ended() => End { code: held.close_code(over), why: over.as_str(), grace: FRAME_GRACE_AT_END },
                () = moved.stands_still(idle) => End::away("idle"),
                () = stop.cancelled() => End::away("gateway_stops"),
            }
        };
        let end = carry(client, application, (&moved, &held), stall, end).await;
        record.ended(end.map_or("closed", |end| end.why));
    }));
}

/// Before what was read is handed on. Where that may not be, it never is: the tunnel is ended, which cuts it.
async fn may_carry(held: &Held) {
    if let Some(over) = held.over() {
        held.end(over);
        std::future::pending().await
    }
}

/// Why a tunnel is cut, and what the client is told.
#[derive(Clone, Copy)]
struct End {
    code: u16,
    why: &'static str,
    /// What the frame under way gets.
    grace: Duration,
}

impl End {
    fn away(why: &'static str) -> End {
        End { code: GOING_AWAY, why, grace: FRAME_GRACE }
    }
}

/// When something moved last, and how much did.
struct Moved<'r> {
    began: Instant,
    last: AtomicU64,
    /// From the client, and to it.
    bytes: &'r [AtomicU64; 2],
}

impl<'r> Moved<'r> {
    fn new(bytes: &'r [AtomicU64; 2]) -> Moved<'r> {
        Moved { began: Instant::now(), last: AtomicU64::new(0), bytes }
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

async fn carry(
    client: Upgraded,
    application: Switched,
    (moved, held): (&Moved<'_>, &Held),
    stall: Option<Duration>,
    end: impl Future<Output = End>,
) -> Option<End> {
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
    let (mut from_application, mut to_application) = tokio::io::split(application);
    let (mut frames, mut theirs) = (Frames::default(), Frames::default());
    let (mut up, mut down) = (Piece::default(), Piece::default());
    let end = {
        let counts = held.counts();
        let up = pump((&mut from_client, &mut to_application), &mut up, (moved, held), None, |bytes| {
            moved.bytes[0].fetch_add(bytes.len() as u64, Ordering::Relaxed);
            // What a person sends counts as use of the session; the pongs of their browser do not.
            theirs.advance(bytes);
            if counts && std::mem::take(&mut theirs.data) {
                held.used();
            }
        });
        let back = |bytes: &[u8]| {
            moved.bytes[1].fetch_add(bytes.len() as u64, Ordering::Relaxed);
            frames.advance(bytes);
        };
        let down = pump((&mut from_application, &mut to_client), &mut down, (moved, held), stall, back);
        let both = async { tokio::try_join!(up, down) };
        tokio::select! {
            biased;
            end = end => end,
            both = both => return both.err().filter(is_stalled).map(|_| End::away("reader_stalled")),
        }
    };
    let last = finish((&mut from_application, &mut to_client), &mut down, &mut frames, end.code);
    if !matches!(timeout(end.grace, last).await, Ok(Ok(()))) {
        tracing::debug!("a tunnel was cut within a frame");
    }
    let _ = timeout(FRAME_GRACE, to_client.shutdown()).await;
    Some(end)
}

/// What was read and is still to be written. It outlives the pump: what is cut in the middle of a frame knows where to go on.
#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    written: usize,
}

impl Piece {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// Read anew, at most so much; answers whether there was anything.
    async fn read(&mut self, from: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<bool> {
        self.bytes.clear();
        self.written = 0;
        self.bytes.reserve(BUFFER);
        let read = from.take(most as u64).read_buf(&mut self.bytes).await?;
        Ok(read > 0)
    }

    /// Write some of it, at most so much. Counted as it goes out, so that at any moment it is known what the client has.
    async fn write(&mut self, to: &mut (impl AsyncWrite + Unpin), most: usize) -> io::Result<&[u8]> {
        let from = self.written;
        let wanted = &self.bytes[from..self.bytes.len().min(from.saturating_add(most))];
        let written = to.write(wanted).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.written += written;
        Ok(&self.bytes[from..self.written])
    }
}

/// A client that takes nothing, as over HTTP/1.1 its connection finds out: each tunnel holds one to its application, and what lies
/// between them (CWE-400).
#[derive(Debug, thiserror::Error)]
#[error("the client does not read")]
struct Stalled;

fn is_stalled(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<Stalled>())
}

/// Copy until the end of one direction.
async fn pump(
    (from, to): (&mut (impl AsyncRead + Unpin), &mut (impl AsyncWrite + Unpin)),
    piece: &mut Piece,
    (moved, held): (&Moved<'_>, &Held),
    stall: Option<Duration>,
    mut seen: impl FnMut(&[u8]),
) -> io::Result<()> {
    loop {
        if !piece.read(from, BUFFER).await? {
            return to.shutdown().await;
        }
        may_carry(held).await;
        moved.mark();
        while !piece.rest().is_empty() {
            let written = piece.write(to, BUFFER);
            seen(match stall {
                Some(limit) => timeout(limit, written).await.map_err(|_| io::Error::other(Stalled))??,
                None => written.await?,
            });
        }
    }
}

/// Let the frame under way end, and close.
async fn finish(
    (from, to): (&mut (impl AsyncRead + Unpin), &mut (impl AsyncWrite + Unpin)),
    piece: &mut Piece,
    frames: &mut Frames,
    code: u16,
) -> io::Result<()> {
    while let Some(missing) = frames.missing() {
        let wanted = usize::try_from(missing).unwrap_or(BUFFER).clamp(1, BUFFER);
        if piece.rest().is_empty() && !piece.read(from, wanted).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        frames.advance(piece.write(to, wanted).await?);
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
