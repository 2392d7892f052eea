//! Heads of HTTP/1.1 towards a server: the request's is written, the answer's is read. One decision: where an answer's head leaves
//! room for doubt about its end, nothing else is read from that connection (RFC 9112 §6.3, §11.2): it would be another user's
//! answer. Knows nothing of sockets.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};

use super::framing::Framing;
use super::usual::Usual;
use super::{Broken, Malformed, request};

/// Lines of an answer's head.
const MOST_LINES: usize = 128;
/// Bytes of it.
const MOST_BYTES: usize = 256 * 1024;

/// Write a request's head; `framing` is its body's, where it has one.
pub(super) fn write(head: &request::Head<'_>, framing: Option<Framing>, out: &mut Vec<u8>) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.path.as_bytes());
    if let Some(query) = head.query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &head.lines {
        match (*name, framing) {
            (&header::TRANSFER_ENCODING, _) | (&header::CONTENT_LENGTH, Some(Framing::Chunked)) => {}
            // Whatever was announced: a server that waited for it would take it from the next request.
            (&header::CONTENT_LENGTH, None) => out.extend_from_slice(b"content-length: 0\r\n"),
            _ => line(name, value.as_bytes(), out),
        }
    }
    if let Some(Framing::Chunked) = framing {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// One field. By their types neither a name nor a value holds a line break.
pub(super) fn line(name: &HeaderName, value: &[u8], out: &mut Vec<u8>) {
    let name = name.as_str().as_bytes();
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// How a request's body is told to the server.
pub(super) fn framing_of(head: &request::Head<'_>) -> Framing {
    head.all(header::CONTENT_LENGTH).next().and_then(length).map_or(Framing::Chunked, Framing::Length)
}

/// An answer's head, and what it says of the connection.
pub(super) struct Head {
    pub(super) response: Response<()>,
    /// How its body is framed; `None`: it ends with the connection.
    pub(super) framing: Option<Framing>,
    /// Whether another request may follow (RFC 9112 §9.3).
    pub(super) persistent: bool,
}

/// Where a line's name and value stand.
type Span = [u32; 4];

/// Reads the answers' heads of a connection.
#[derive(Default)]
pub(super) struct Heads {
    usual: Usual,
    /// Room for the lines of one.
    spans: Vec<Span>,
    /// How much of one was looked at, and is not all of it.
    seen: usize,
}

impl Heads {
    /// A reader that knows the lines that are usual there.
    pub(super) fn new(usual: Usual) -> Heads {
        Heads { usual, ..Heads::default() }
    }

    /// Take an answer's head from what was read; `None`: there is more of it to come. Interim answers are skipped (RFC 9110
    /// §15.2): the client was told by the gateway itself to go on.
    ///
    /// # Errors
    /// [`Malformed`].
    pub(super) fn read(&mut self, from: &mut BytesMut, asked: &Method) -> Result<Option<Head>, Broken> {
        loop {
            // Looked at from its beginning with every byte that comes, a head that comes by bytes takes seconds of a core.
            let is_whole = self.seen == 0 || from.len() >= MOST_BYTES || has_end(&from[self.seen.saturating_sub(2)..]);
            let parsed = if is_whole { parse(from, &mut self.spans)? } else { None };
            let Some(parsed) = parsed else {
                self.seen = from.len();
                return Ok(None);
            };
            self.seen = 0;
            if parsed.status.is_informational() && parsed.status != StatusCode::SWITCHING_PROTOCOLS {
                from.advance(parsed.length);
                continue;
            }
            // Shared, not copied: values keep the piece alive that they were read in.
            let text = from.split_to(parsed.length).freeze();
            let (headers, said) = self.headers(&text)?;
            let mut response = Response::new(());
            *response.status_mut() = parsed.status;
            *response.headers_mut() = headers;
            let (framing, persistent) = said.judge(parsed.status, parsed.newest, asked);
            return Ok(Some(Head { response, framing, persistent }));
        }
    }

    fn headers(&mut self, text: &Bytes) -> Result<(HeaderMap, Said), Broken> {
        let (mut headers, mut said) = (HeaderMap::with_capacity(self.spans.len()), Said::default());
        let mut usual = self.usual.lock();
        for (index, span) in self.spans.iter().enumerate() {
            let [name, name_end, value, value_end] = span.map(|at| at as usize);
            let (name, value) = usual.line(index, &text[name..name_end], value..value_end, text)?;
            if said.hear(&name, &value)? {
                headers.append(name, value);
            }
        }
        Ok((headers, said))
    }
}

/// Whether there is a line without anything, which ends a head (RFC 9112 §2.1, §2.2).
fn has_end(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|two| two == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

struct Parsed {
    length: usize,
    status: StatusCode,
    /// HTTP/1.1, not 1.0.
    newest: bool,
}

fn parse(from: &[u8], spans: &mut Vec<Span>) -> Result<Option<Parsed>, Broken> {
    let mut lines = [const { std::mem::MaybeUninit::uninit() }; MOST_LINES];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let status = config.parse_response_with_uninit_headers(&mut parsed, from, &mut lines);
    let length = match status.map_err(Malformed::Head)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial if from.len() >= MOST_BYTES => return Err(Malformed::TooLarge.into()),
        httparse::Status::Partial => return Ok(None),
    };
    let start = from.as_ptr() as usize;
    // A head is far shorter than what 32 bits count.
    let at = |text: &[u8]| (text.as_ptr() as usize - start) as u32;
    spans.clear();
    spans.extend(parsed.headers.iter().map(|field| {
        let (name, value) = (at(field.name.as_bytes()), at(field.value));
        [name, name + field.name.len() as u32, value, value + field.value.len() as u32]
    }));
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed::Status)?;
    Ok(Some(Parsed { length, status, newest: parsed.version == Some(1) }))
}

/// What a head says of its body and its connection.
#[derive(Default)]
struct Said {
    close: bool,
    keep: bool,
    /// Lines of either kind.
    lengths: usize,
    codings: usize,
    length: Option<u64>,
    chunked: bool,
}

impl Said {
    /// Hear a line; whether it goes further.
    fn hear(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<bool, Malformed> {
        match *name {
            header::CONNECTION => return Ok(self.hear_options(value)),
            header::CONTENT_LENGTH => {
                let length = length(value.as_bytes()).ok_or(Malformed::Length)?;
                // RFC 9110 §8.6: the same once more says the same, and is handed on once.
                if self.length == Some(length) {
                    return Ok(false);
                }
                self.lengths += 1;
                self.length = Some(length);
            }
            header::TRANSFER_ENCODING => {
                self.codings += 1;
                self.chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
            }
            _ => {}
        }
        Ok(true)
    }

    /// A `Connection` line; whether it names fields, which whoever hands the answer on has to know (RFC 9110 §7.6.1).
    fn hear_options(&mut self, value: &HeaderValue) -> bool {
        let mut names = false;
        for option in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            match option {
                _ if option.eq_ignore_ascii_case(b"keep-alive") => self.keep = true,
                _ if option.eq_ignore_ascii_case(b"close") => self.close = true,
                _ => names = true,
            }
        }
        names
    }

    /// How the body is framed, and whether the connection may be used again.
    fn judge(self, status: StatusCode, newest: bool, asked: &Method) -> (Option<Framing>, bool) {
        let framing = match (self.lengths, self.codings) {
            (1, 0) => self.length.map(Framing::Length),
            (0, 1) if self.chunked => Some(Framing::Chunked),
            _ => None,
        };
        let plain = self.lengths + self.codings == 0 || framing.is_some();
        let without_body = *asked == Method::HEAD || matches!(status.as_u16(), 101 | 204 | 304);
        let framing = if without_body { Some(Framing::Length(0)) } else { framing };
        // RFC 9112 §6.1: what speaks 1.0 does not know codings. There are servers that use one all the same; what they say next is
        // not waited for.
        let knows = newest || self.codings == 0;
        let kept = (newest || self.keep) && knows && !self.close && status != StatusCode::SWITCHING_PROTOCOLS;
        (framing, kept && plain && framing.is_some())
    }
}

/// RFC 9110 §8.6: digits alone, which two readers cannot read differently; to some of them one that begins with a zero is octal.
fn length(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().filter(|_| digits == "0" || !digits.starts_with('0'))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use http::Method;

    use super::Heads;

    #[test]
    fn a_head_that_comes_in_pieces_is_read_as_one_that_does_not() {
        let interim = "HTTP/1.1 103 Early Hints\r\na: b\r\n\r\nHTTP/1.1 103 Early Hints\n\n";
        for text in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\na: b\n\n", "HTTP/1.1 200 OK\r\na: b\nb: c\n\r\n"] {
            let text = format!("{interim}{text}");
            for piece in 1..=text.len() {
                let (mut heads, mut from, mut read) = (Heads::default(), BytesMut::new(), 0);
                for bytes in text.as_bytes().chunks(piece) {
                    from.extend_from_slice(bytes);
                    read += usize::from(heads.read(&mut from, &Method::GET).unwrap().is_some());
                }
                assert_eq!((read, from.len()), (1, 0), "{text:?} in pieces of {piece}");
            }
        }
    }

    /// attacks: CWE-407, an application that sends a large head by bytes.
    #[test]
    fn a_head_is_not_read_anew_before_its_end() {
        let (mut heads, mut from) = (Heads::default(), BytesMut::from("HTTP/1.1 200 OK\r\na: b"));
        let mut read = |more: &str| {
            from.extend_from_slice(more.as_bytes());
            heads.read(&mut from, &Method::GET).map(|head| head.is_some()).map_err(|_| ())
        };
        assert_eq!(read(""), Ok(false));
        assert_eq!(read("\r\nwhat is no field\r\n"), Ok(false), "nobody has looked yet");
        assert_eq!(read("\r\n"), Err(()));
    }
}
