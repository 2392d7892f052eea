//! Server-sent events under way (HTML §9.2). One decision: a page that listens is told why nothing comes any more by a last
//! event, which can only stand between two others – after half of one it would complete what the application never said –
//! so the blank lines between them are followed, and nothing else is read. Knows nothing of why a stream is cut.

use bytes::Bytes;
use http::header::{self, HeaderMap};

/// The last event. Without data a browser would not hand it on.
const ENDED: &[u8] = b"event: portcullis-session-ended\ndata: the session ended\n\n";

/// Where in a stream of events one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events {
    /// Nothing came since the last blank line.
    between: bool,
    /// Nothing came since the last end of a line.
    at_line: bool,
    /// The last byte was CR: an LF belongs to it.
    after_cr: bool,
}

impl Events {
    /// Of an answer with these headers, if it is one whose end may be told: a compressed one is not read here, and one that says
    /// how long it is has no room.
    pub fn of(headers: &HeaderMap) -> Option<Events> {
        let kind = headers.get(header::CONTENT_TYPE)?;
        let name = kind.as_bytes().split(|byte| *byte == b';').next()?.trim_ascii();
        let is_stream = name.eq_ignore_ascii_case(b"text/event-stream") && kind.to_str().is_ok();
        let open = || [header::CONTENT_ENCODING, header::CONTENT_LENGTH].iter().all(|name| !headers.contains_key(name));
        (is_stream && open()).then_some(Events { between: true, at_line: true, after_cr: false })
    }

    /// This went out.
    pub fn advance(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' if self.after_cr => {}
                b'\n' | b'\r' => {
                    self.between |= self.at_line;
                    self.at_line = true;
                }
                _ => (self.between, self.at_line) = (false, false),
            }
            self.after_cr = *byte == b'\r';
        }
    }

    /// What is said at the end, where there is a place for it.
    pub fn last(&self) -> Option<Bytes> {
        self.between.then_some(Bytes::from_static(ENDED))
    }
}

#[cfg(test)]
mod tests {
    use super::Events;
    use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
    use http::{HeaderMap, HeaderValue};

    fn answer(kind: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))])
    }

    #[test]
    fn the_place_between_two_events_is_found_however_lines_end_and_bytes_are_cut() {
        for (stream, between) in [
            ("", true),
            ("data: 1\n\n", true),
            ("data: 1\r\n\r\n", true),
            ("data: 1\r\r", true),
            ("data: 1\r\n\r", true),
            (": hello\n\n\n", true),
            ("data: 1\n", false),
            ("data: 1\r\n", false),
            ("data: 1", false),
            ("data: 1\n\nd", false),
            ("data: 1\n\ndata: 2\r\n", false),
        ] {
            for piece in [1, 2, 5, 100] {
                let mut events = Events::of(&answer("text/event-stream; charset=utf-8")).unwrap();
                stream.as_bytes().chunks(piece).for_each(|bytes| events.advance(bytes));
                assert_eq!(events.last().is_some(), between, "{stream:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn what_is_no_open_stream_of_events_is_told_nothing() {
        assert_eq!(Events::of(&answer("text/plain")), None);
        assert_eq!(Events::of(&HeaderMap::new()), None);
        for (name, value) in [(CONTENT_ENCODING, "br"), (CONTENT_LENGTH, "100")] {
            let mut headers = answer("text/event-stream");
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(Events::of(&headers), None);
        }
    }
}
