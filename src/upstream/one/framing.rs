//! Where a body ends on an HTTP/1.1 connection (RFC 9112 §6, §7.1). One decision: it is strict in what it reads – plain hexadecimal
//! sizes, CRLF and nothing else at the end of a line – because what two readers read differently is how answers are swapped
//! between users. Knows nothing of sockets, nor of what a body means.

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::Frame;

use super::{Broken, Malformed};

/// Bytes of chunk extensions in a body; nobody uses them (RFC 9112 §7.1.1).
const MOST_EXTENSION_BYTES: usize = 16 * 1024;
/// Bytes and lines of trailers.
const MOST_TRAILER_BYTES: usize = 16 * 1024;
const MOST_TRAILER_LINES: usize = 64;

/// How a message says where its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// After its last chunk.
    Chunked,
}

/// What a piece of a body led to.
#[derive(Debug)]
pub(super) enum Step {
    Frame(Frame<Bytes>),
    /// Everything was used up.
    More,
    End,
}

/// Reads a body.
#[derive(Debug)]
pub(in crate::upstream) enum Decoder {
    Length(u64),
    Chunked {
        chunk: Chunk,
        extension_bytes: usize,
    },
    /// To the end of the connection.
    Close,
}

/// Where in a chunked body one is.
#[derive(Debug)]
pub(in crate::upstream) enum Chunk {
    /// In a size; how many digits it has so far.
    Size(u64, u8),
    /// Among blanks after a size.
    Blank(u64),
    Extension(u64),
    /// Before the line feed after a size.
    SizeEnd(u64),
    Data(u64),
    /// Before the CR, or the LF, after the data.
    DataEnd(&'static [u8]),
    Trailers(Vec<u8>),
    End,
}

impl Decoder {
    pub(super) fn new(framing: Option<Framing>) -> Decoder {
        match framing {
            Some(Framing::Length(length)) => Decoder::Length(length),
            Some(Framing::Chunked) => Decoder::Chunked { chunk: Chunk::Size(0, 0), extension_bytes: 0 },
            None => Decoder::Close,
        }
    }

    /// Whether nothing is to come.
    pub(super) fn is_end(&self) -> bool {
        matches!(self, Decoder::Length(0) | Decoder::Chunked { chunk: Chunk::End, .. })
    }

    /// Bytes to come, where that is known.
    pub(super) fn left(&self) -> Option<u64> {
        if let Decoder::Length(left) = self { Some(*left) } else { None }
    }

    /// Whether the connection may end here.
    pub(super) fn may_close(&self) -> bool {
        matches!(self, Decoder::Close) || self.is_end()
    }

    /// Take the next frame from what was read.
    pub(super) fn decode(&mut self, from: &mut Bytes) -> Result<Step, Broken> {
        match self {
            Decoder::Length(0) => Ok(Step::End),
            _ if from.is_empty() => Ok(Step::More),
            Decoder::Length(left) => Ok(Step::Frame(Frame::data(take(from, left)))),
            Decoder::Close => Ok(Step::Frame(Frame::data(std::mem::take(from)))),
            Decoder::Chunked { chunk, extension_bytes } => chunk.decode(from, extension_bytes),
        }
    }
}

/// As much as there is and may be.
fn take(from: &mut Bytes, left: &mut u64) -> Bytes {
    let length = from.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= length as u64;
    if length == from.len() { std::mem::take(from) } else { from.split_to(length) }
}

impl Chunk {
    fn decode(&mut self, from: &mut Bytes, extension_bytes: &mut usize) -> Result<Step, Broken> {
        loop {
            if let Chunk::End = self {
                return Ok(Step::End);
            }
            if let Chunk::Data(left) = self
                && !from.is_empty()
            {
                let data = take(from, left);
                if *left == 0 {
                    *self = Chunk::DataEnd(b"\r\n");
                }
                return Ok(Step::Frame(Frame::data(data)));
            }
            let Some(&byte) = from.first() else { return Ok(Step::More) };
            from.advance(1);
            match self {
                Chunk::Size(size, digits) => *self = size_step(*size, *digits, byte)?,
                Chunk::Blank(size) if byte == b';' => *self = Chunk::Extension(*size),
                Chunk::Blank(size) | Chunk::Extension(size) if byte == b'\r' => *self = Chunk::SizeEnd(*size),
                Chunk::Blank(_) if !matches!(byte, b' ' | b'\t') => return Err(Malformed::Chunk.into()),
                Chunk::Extension(_) if byte == b'\n' => return Err(Malformed::Chunk.into()),
                Chunk::Blank(_) | Chunk::Extension(_) => {
                    *extension_bytes += 1;
                    if *extension_bytes > MOST_EXTENSION_BYTES {
                        return Err(Malformed::TooLarge.into());
                    }
                }
                Chunk::SizeEnd(_) if byte != b'\n' => return Err(Malformed::Chunk.into()),
                Chunk::SizeEnd(0) => *self = Chunk::Trailers(Vec::new()),
                Chunk::SizeEnd(size) => *self = Chunk::Data(*size),
                Chunk::DataEnd([expected, rest @ ..]) if byte == *expected => {
                    *self = if rest.is_empty() { Chunk::Size(0, 0) } else { Chunk::DataEnd(rest) };
                }
                // Alone it ends a line, and the trailers, to some readers: what follows would be the next answer to them.
                Chunk::Trailers(text) if byte == b'\n' && text.last() != Some(&b'\r') => {
                    return Err(Malformed::Chunk.into());
                }
                Chunk::Trailers(text) => {
                    text.push(byte);
                    let Some(frame) = trailers(text)? else { continue };
                    *self = Chunk::End;
                    return Ok(frame.map_or(Step::End, Step::Frame));
                }
                Chunk::DataEnd(_) | Chunk::Data(_) | Chunk::End => return Err(Malformed::Chunk.into()),
            }
        }
    }
}

fn size_step(size: u64, digits: u8, byte: u8) -> Result<Chunk, Malformed> {
    if let Some(digit) = char::from(byte).to_digit(16) {
        // Sixteen digits fill the number; one more would fall out of it at the other end.
        let size = size.checked_mul(16).filter(|_| digits < 16).ok_or(Malformed::Chunk)?;
        return Ok(Chunk::Size(size + u64::from(digit), digits + 1));
    }
    match byte {
        _ if digits == 0 => Err(Malformed::Chunk),
        b'\r' => Ok(Chunk::SizeEnd(size)),
        // RFC 9112 §7.1.1: blanks may stand before an extension, and before nothing else.
        b' ' | b'\t' => Ok(Chunk::Blank(size)),
        b';' => Ok(Chunk::Extension(size)),
        _ => Err(Malformed::Chunk),
    }
}

/// `Some` when the section is complete; of an empty one there is no frame.
fn trailers(text: &[u8]) -> Result<Option<Option<Frame<Bytes>>>, Broken> {
    if text == b"\r\n" {
        return Ok(Some(None));
    }
    if text.len() > MOST_TRAILER_BYTES {
        return Err(Malformed::TooLarge.into());
    }
    if !text.ends_with(b"\r\n\r\n") {
        return Ok(None);
    }
    let mut lines = [httparse::EMPTY_HEADER; MOST_TRAILER_LINES];
    let httparse::Status::Complete((_, lines)) = httparse::parse_headers(text, &mut lines).map_err(Malformed::Head)?
    else {
        return Err(Malformed::Chunk.into());
    };
    let field = |line: &httparse::Header<'_>| {
        let name = http::HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        Some((name, http::HeaderValue::from_bytes(line.value).ok()?))
    };
    let fields: Option<HeaderMap> = lines.iter().map(field).collect();
    Ok(Some(Some(Frame::trailers(fields.ok_or(Malformed::Field)?))))
}
