//! Fresh ids. One decision: 128 random bits, drawn many at a time, so that an id can serve as a trace id (W3C Trace Context)
//! and asking the generator costs nothing per request. Knows nothing of who uses them.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::HeaderValue;

const DRAWN_AT_ONCE: usize = 256;

/// A request's id, as the 32 hexadecimal digits that it is everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId([u8; 32]);

/// A worker's source of ids.
pub struct RequestIds {
    drawn: Mutex<Vec<[u8; 16]>>,
}

impl RequestIds {
    /// An empty source.
    pub fn new() -> RequestIds {
        RequestIds { drawn: Mutex::new(Vec::new()) }
    }

    /// The next id.
    pub fn next(&self) -> RequestId {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if drawn.is_empty() {
            let mut bytes = [0; 16 * DRAWN_AT_ONCE];
            // Ids are names, not secrets: should the generator fail, zeros serve the request better than a refusal.
            let _ = aws_lc_rs::rand::fill(&mut bytes);
            drawn.extend(bytes.as_chunks::<16>().0);
        }
        RequestId(hexadecimal(drawn.pop().unwrap_or_default()))
    }
}

impl Default for RequestIds {
    fn default() -> Self {
        RequestIds::new()
    }
}

fn hexadecimal(bytes: [u8; 16]) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    }
    text
}

impl RequestId {
    /// The digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits are ASCII")
    }

    /// As the value of `X-Request-Id`, and a `traceparent` that begins a trace with this id (W3C Trace Context §3.2). The
    /// first is a part of the second: one allocation carries both.
    pub fn headers(&self) -> (HeaderValue, HeaderValue) {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
        text[3..35].copy_from_slice(&self.0);
        text[36..52].copy_from_slice(&self.0[16..]);
        let text = Bytes::copy_from_slice(&text);
        let value = |text| HeaderValue::from_maybe_shared(text).expect("hexadecimal digits are a header value");
        (value(text.slice(3..35)), value(text))
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
